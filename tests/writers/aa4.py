"""Writes synthetic AA4 raw folders: one HDF5 file a unit, wavs numbered per animal, every quirk of the format.

`write_aa4` is small and odd on purpose and returns the truth; `write_aa4_full` is as large as the real set.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import wavfile

ANIMALS = ("BlaBro09xxF", "GreBlu9508M", "LblBlu2028M", "WhiBlu5396M", "WhiWhi4522M", "YelBlu6903F")
UNITS = (158, 371, 55, 206, 317, 294)  # 1,401: the published counts a bird, scaled to the published total
STIMULI = (130, 130, 137, 73, 131, 129)
RATE = 24414  # what a wav header can hold of 24414.0625 Hz


def write_wav(path: Path, seconds: float, seed: int, rate: int = RATE) -> str:
    """Write a wav of noise and return its MD5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 2000, round(seconds * rate))
    wavfile.write(path, rate, noise.astype(np.int16))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_trial(group: h5py.Group, number: int, spikes: Any, pre: float | None = 1.0, post: float | None = 0.5) -> None:
    """Write one trial; no spikes are written as the lab does, -999 as times and as ids."""
    trial = group.create_group(str(number))
    if pre is not None:
        trial.attrs["pre_time"], trial.attrs["post_time"] = pre, post
        trial.attrs["bg_rate"], trial.attrs["peri_rate"] = 1.5, 2.5
    spikes = np.asarray(spikes, float)
    trial["spike_times"] = spikes if len(spikes) else -999
    trial["spike_ids"] = np.arange(len(spikes)) if len(spikes) else -999


def write_stim(protocol: h5py.Group, number: int, trials: list[Any], **attrs: Any) -> h5py.Group:
    """Write one stimulus group with trials 1, 2, ... and its attributes."""
    group = protocol.create_group(str(number))
    group.attrs["number"] = number
    for key, value in attrs.items():
        group.attrs[key] = value
    for index, spikes in enumerate(trials):
        write_trial(group, index + 1, spikes)
    return group


def write_aa4(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Two animals, five units to keep and two that are not, seven stimuli; every quirk.

    Returns
    -------
    dict
        ``trials``: (unit id, stimulus id) to a list of spike times a trial, in order; ``stimuli``: id to seconds,
        sound (whether a wav exists), type, category; ``units``: id to sex, site, electrode, depths, sort type and ids;
        ``dropped``: ids of the units whose sort type is tdt or noise.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    first, second = ANIMALS[0], ANIMALS[2]
    trials: dict[tuple[str, str], list[np.ndarray]] = {}
    lengths = {"songA": 0.5, "songB": 0.62, "callA": 0.25, "noise": 0.4, "mask": 0.3, "lost": 0.35, "own": 0.2}
    kinds = {"songA": "song", "songB": "song", "callA": "call", "noise": "mlnoise", "mask": "mask", "lost": "call",
             "own": "call"}  # fmt: skip
    # The same sound has other numbers in the other animal; songB's wav is only with the second, lost's is nowhere.
    numbers = {
        first: {"songA": 2, "songB": 10, "callA": 1, "noise": 33, "mask": 4, "lost": 7},
        second: {"songA": 5, "songB": 2, "callA": 12, "noise": 1, "own": 8},
    }
    md5: dict[str, str] = {}
    for animal, names in numbers.items():
        for name, number in names.items():
            path = folder / animal / "wavfiles" / f"stim{number}.wav"
            rate = 44100 if name == "noise" else RATE
            md5[name] = write_wav(path, lengths[name], sorted(lengths).index(name), rate)
            if name == "lost" or (name == "songB" and animal == first):
                path.unlink()

    def spikes(name: str, silent: float = 0.3) -> np.ndarray:
        if rng.random() < silent:
            return np.empty(0)
        return np.sort(rng.uniform(-0.9, lengths[name] + 0.45, rng.integers(1, 30)))

    def attrs(name: str, style: str) -> dict[str, Any]:
        text = {
            "stim_md5": md5[name], "stim_type": kinds[name], "stim_class": "Con" if kinds[name] == "song" else "Call",
            "callid": "Be" if kinds[name] == "call" else "None", "tdt_wavfile": f"C:\\sounds\\{name}.wav",
        }  # fmt: skip
        wrapped: dict[str, Any] = dict(text)
        if style == "bytes":
            wrapped = {key: np.bytes_(value) for key, value in text.items()}
        elif style == "array":
            wrapped = {key: np.array([value.encode()]) for key, value in text.items()}
        return wrapped | {"stim_duration": round(lengths[name] * RATE) / RATE, "zscore": 0.1, "pvalue": 0.5}

    def unit(animal: str, stem: str, root: dict[str, Any], protocols: dict[str, list[str]], style: str) -> str:
        key = f"{animal}/{stem}"
        with h5py.File(folder / animal / f"{stem}.h5", "w") as file:
            for name, value in root.items():
                file.attrs[name] = value
            file.create_group("class_info").attrs["note"] = "to be skipped"
            file.create_group("extra_info").create_dataset("table", data=np.arange(3))
            for protocol, names in protocols.items():
                group = file.create_group(protocol)
                for name in names:
                    silent = (stem, name) == (quiet, "callA")
                    given = [np.empty(0)] * 10 if silent else [spikes(name) for _ in range(11)]
                    write_stim(group, numbers[animal][name], given, **attrs(name, style))
                    trials.setdefault((key, md5[name]), []).extend(given)
        return key

    quiet = "Site1_L1400R1500_e10_s0_ss1"
    full = ["songA", "songB", "callA", "noise", "mask", "lost"]
    depths = {"ldepth": 1400, "rdepth": 1500}
    unit(first, quiet, {"site": "Site1", "electrode": 10, "sortid": 0, "sortType": "single", **depths},
         {"Call1": full}, "str")  # fmt: skip
    unit(first, "Site1_L1400R1500_e3_s1", {"site": np.bytes_("Site1"), "electrode": 3, "sortid": 1,
         "sortType": np.bytes_("singl"), **depths}, {"Call1": full[:3], "STRF1": full[2:4]}, "bytes")  # fmt: skip
    unit(first, "Site2_L1600R1700_e32_s2_ss12", {"site": np.array([b"Site2"]), "electrode": 32, "sortid": 2,
         "sortType": np.array([b"multi"]), "ldepth": 1600, "rdepth": 1700}, {"Mask1": full[1:]}, "array")  # fmt: skip
    unit(second, "Site4_L1000_e1_s0", {"site": "Site4", "electrode": 1, "sortType": "single"},
         {"Call1": ["noise", "songB", "songA", "callA", "own"]}, "str")  # fmt: skip
    unit(second, quiet, {"site": "Site1", "electrode": 10, "sortid": 0, "sortType": "multi", **depths},
         {"Call2": ["songA", "own"]}, "str")  # fmt: skip
    kept = dict(trials)
    dropped = [
        unit(second, "Site1_L1400R1500_e11_s0", {"site": "Site1", "sortType": "tdt"}, {"Call1": ["songA"]}, "str"),
        unit(second, "Site1_L1400R1500_e12_s5", {"site": "Site1", "sortType": "noise"}, {"Call1": ["own"]}, "str"),
    ]
    categories = {"song": "song", "call": "call", "mlnoise": "ml_noise", "mask": "other"}
    (folder / "CRCNSCode").mkdir()
    (folder / first / "._Site1_L1400R1500_e10_s0_ss1.h5").write_bytes(b"\0\5\26\7")
    nan = float("nan")
    return {
        "trials": kept,
        "stimuli": {
            md5[name]: {"name": name, "seconds": lengths[name], "sound": name != "lost", "type": kinds[name],
                        "category": categories[kinds[name]]} for name in lengths
        },
        "units": {
            f"{first}/{quiet}": ("F", "Site1", 10, 1400, 1500, "single", 0, 1),
            f"{first}/Site1_L1400R1500_e3_s1": ("F", "Site1", 3, 1400, 1500, "single", 1, nan),
            f"{first}/Site2_L1600R1700_e32_s2_ss12": ("F", "Site2", 32, 1600, 1700, "multi", 2, 12),
            f"{second}/Site4_L1000_e1_s0": ("M", "Site4", 1, 1000, nan, "single", 0, nan),
            f"{second}/{quiet}": ("M", "Site1", 10, 1400, 1500, "multi", 0, 1),
        },
        "dropped": dropped,
        "md5": md5,
        "numbers": numbers,
    }  # fmt: skip


def write_aa4_full(folder: Path, fraction: float = 1.0, seed: int = 0) -> dict[str, int]:
    """An AA4 of the real size: 1,401 units, 170 stimuli, 1.5 million trials, about 5 GB.

    Two template units an animal (two sites, each with its own part of the animal's stimuli) are written with h5py;
    every other unit is a copy with its own root attributes and its own spike times, written in place.

    Parameters
    ----------
    folder : Path
        Created.
    fraction : float
        Part of each animal's units.

    Returns
    -------
    dict
        Counts of ``units``, ``stimuli``, ``pairs``, ``trials`` and ``spikes``.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(0.8, 3.0, 170)
    kinds = np.array(["call"] * 110 + ["song"] * 40 + ["mlnoise"] * 20)
    heard: set[str] = set()
    total = dict.fromkeys(("units", "stimuli", "pairs", "trials", "spikes"), 0)
    order = rng.permutation(170)
    for index, animal in enumerate(ANIMALS):
        chosen = np.roll(order, -28 * index)[: STIMULI[index]]
        md5 = [write_wav(folder / animal / "wavfiles" / f"stim{number + 1}.wav", seconds[sound], int(sound))
               for number, sound in enumerate(chosen)]  # fmt: skip
        count = max(2, round(UNITS[index] * fraction))
        templates = []
        for site in range(2):
            path = folder / animal / f"Site{site + 1}_L1400R1500_e1_s0_ss1.h5"
            mine = [n for n in range(len(chosen)) if (n * 7 + site) % 8]
            played = [(n, float(seconds[chosen[n]]), md5[n], str(kinds[chosen[n]])) for n in mine]
            templates.append((path, *_template(path, played, rng)))
            heard |= {md5[n] for n in mine}
        for unit in range(count):
            source, positions, row, pairs, trials = templates[unit % 2]
            electrode, subsort = unit // 2 % 32 + 1, unit // 64 + 1
            path = folder / animal / f"Site{unit % 2 + 1}_L1400R1500_e{electrode}_s0_ss{subsort}.h5"
            if path != source:
                shutil.copyfile(source, path)
                with h5py.File(path, "r+") as file:
                    file.attrs["electrode"] = electrode
                    file.attrs["sortType"] = "single" if rng.random() < 914 / 1401 else "multi"
                data = np.memmap(path, np.uint8, "r+")
                times = data[positions].view(np.float64).ravel()
                times += rng.normal(0, 0.02, times.shape)
                data[positions] = times[np.lexsort((times, row)), None].view(np.uint8)
                data.flush()
            for key, value in (("units", 1), ("pairs", pairs), ("trials", trials), ("spikes", len(positions))):
                total[key] += value
    return total | {"stimuli": len(heard)}


def _template(path: Path, stimuli: list[Any], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Write a unit; return the byte positions of its spikes [shape=(spike, 8)], their trials, its pairs and trials."""
    starts: list[np.ndarray] = []
    trials = 0
    with h5py.File(path, "w") as file:
        for key, value in {"site": path.stem.split("_")[0], "ldepth": 1400, "rdepth": 1500, "electrode": 1, "sortid": 0,
                           "sortType": "single"}.items():  # fmt: skip
            file.attrs[key] = value
        file.create_group("class_info")
        protocol = file.create_group("Call1")
        for number, seconds, md5, kind in stimuli:
            counts = rng.poisson(25, 10) * (rng.random(10) > 0.1)
            spikes = [np.sort(rng.uniform(-1, seconds + 0.5, count)) for count in counts]
            group = write_stim(protocol, number + 1, spikes, stim_md5=md5, stim_type=kind, stim_duration=seconds,
                               stim_class="Con", stim_source="synthetic", callid="Be", zscore=0.1, tstat=0.3,
                               pvalue=0.5, original_wavfile="a.wav", tdt_wavfile="b.wav")  # fmt: skip
            trials += len(spikes)
            for trial in group.values():
                times = trial["spike_times"]
                if times.shape:
                    starts.append(times.id.get_offset() + 8 * np.arange(len(times)))
    row = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
    return np.concatenate(starts)[:, None] + np.arange(8), row, len(stimuli), trials
