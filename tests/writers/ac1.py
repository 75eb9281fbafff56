"""Synthetic AC-1 raw folders: nested .mat structs, traces on a drift, planted spikes and bad repeats, and the truth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.io import savemat

if TYPE_CHECKING:
    from pathlib import Path

SOUND_RATE = 97656.0
WEHR_RATE = 4000.0
ASARI_RATE = 10000.0
SCALE = 0.01  # mV a count
NOISE = 0.2
GAP = 0.3  # s of recording before, between and after presentations
SPIKE = np.array([1, 4, 10, 6, 2, -2, -3, -2, -1], float)
PEAK = 2

# folder, file, description, seconds
WEHR_SOUNDS = (
    ("fragments", "3", "humpback whale", 1.0),
    ("category1", "2", "jaguar mating call", 0.8),
    ("category1", "10", "knudsens frog", 0.6),
    ("category2", "1", "knudsens frog", 1.0),  # same words, another sound
    ("category3", "7", "natural sound stream (0-1.6 kHz), No.1", 0.5),  # nobody hears it
)
SEGMENTS = {"class6/1": 0.3, "class6/2": 0.25, "class6/3": 0.35, "class3/1": 0.3, "class3/2": 0.3, "class3/3l": 0.25}


@dataclass
class Truth:
    """What was written. Keys are (neuron, stimulus, repeat), repeats from 1 in the order of the files."""

    clean: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)  # mV, as long as recorded
    spikes: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)  # s
    rejected: dict[tuple[str, str, int], str] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)  # Hz, a neuron
    sounds: dict[str, np.ndarray] = field(default_factory=dict)  # a file, without ramps
    noise: float = NOISE  # mV

    def present(self, neuron: str, stimulus: str, clean: np.ndarray, bad: str = "") -> None:
        repeat = 1 + sum(key[:2] == (neuron, stimulus) for key in self.clean)
        self.clean[neuron, stimulus, repeat] = clean
        if bad:
            self.rejected[neuron, stimulus, repeat] = bad


def write(
    folder: Path, *, nested: bool = True, wrapped: bool = True, wehr_cells: int = 25, noise: float = NOISE
) -> Truth:
    """Write both experimenters' folders.

    `nested` wraps every struct in cells of one element and makes triggers a cell array; otherwise structs are plain
    and triggers a struct array. `wrapped` keeps the archives' outer folders.
    """
    truth = Truth(noise=noise)
    base = folder / "crcns-ac1" if wrapped else folder
    write_sounds(base, truth, nested=nested)
    write_wehr(base, truth, nested=nested, cells=wehr_cells)
    results = [folder / f"crcns-ac1-asari-results-{n}" if wrapped else folder for n in (1, 2)]
    write_asari(results, truth, nested=nested)
    return truth


def write_sounds(base: Path, truth: Truth, *, nested: bool = True) -> None:
    wehr = [(f"wehr/Stimuli/{folder}/{name}.mat", words, seconds) for folder, name, words, seconds in WEHR_SOUNDS]
    asari = [(f"asari/Stimuli/{name}.mat", "segment", seconds) for name, seconds in SEGMENTS.items()]
    for path, words, seconds in wehr + asari:
        samples = _rng(path).normal(0, 0.1, round(seconds * SOUND_RATE))
        truth.sounds[path] = samples
        stimulus(base / path, samples, words, "samples" if path.startswith("wehr") else "sample", nested=nested)
    stimulus(base / "wehr/Stimuli/category1/notes.mat", np.ones(8), "no sound", "samples", nested=nested)


def write_wehr(base: Path, truth: Truth, *, nested: bool = True, cells: int = 25) -> None:
    """One trigger a file. The first two cells have the planted repeats; the others heard one sound, once."""
    whale, jaguar, frog, long_frog = ("fragments/3", "category1/2", "category1/10", "category2/1")
    plans: list[list[tuple[str, str]]] = [
        [(whale, ""), (jaguar, "range"), (whale, ""), (whale, "xcorr"), (jaguar, ""), (jaguar, ""), (whale, ""),
         (jaguar, ""), (frog, ""), (frog, "anti"), (long_frog, "")],
        [(whale, ""), (whale, "step"), (jaguar, "step"), (jaguar, "range"), (jaguar, ""), (jaguar, "anti"),
         (frog, ""), (frog, "short"), (frog, ""), (frog, "")],
    ]  # fmt: skip
    kinds = ("naturalsound", "nauralsound", "natural", "NaturalSound")
    seconds = {f"{folder}/{name}": (words, s) for folder, name, words, s in WEHR_SOUNDS}
    for cell in range(cells):
        neuron = "20020508-mw-003" if cell == 0 else f"200206{cell:02d}-mw-{cell % 3 + 1:03d}"
        truth.rates[neuron] = WEHR_RATE
        for number, (sound, bad) in enumerate(plans[cell] if cell < len(plans) else [(whale, "")]):
            words, s = seconds[sound]
            n = round(s * WEHR_RATE)
            kept = n // 2 if bad == "short" else n  # the recording stops in the middle of the sound
            stimulus_id = f"wehr/{sound}"
            clean = potentials(neuron, stimulus_id, n, WEHR_RATE)[:kept] * (-1 if bad in ("xcorr", "anti") else 1)
            truth.present(neuron, stimulus_id, clean, bad if bad in ("range", "step", "xcorr") else "")
            gap = round(GAP * WEHR_RATE)
            pieces = [np.zeros(gap), clean + artefact(bad, kept, WEHR_RATE)] + [np.zeros(gap)] * (bad != "short")
            trigger = natural_sound(kinds[number % len(kinds)], gap, 1000 * s, words)
            path = base / f"wehr/Results/{neuron}/{neuron}-{number + 1}.mat"
            trace = on_drift(np.concatenate(pieces), path.name, WEHR_RATE, truth.noise)
            recording(path, trace, WEHR_RATE, [trigger], nested=nested)
        if cell == 0:
            tone = natural_sound("tone", 10, 25.0, "5 kHz")
            recording(path.with_name("tone.mat"), np.zeros(400, np.int16), WEHR_RATE, [tone], nested=nested)


def write_asari(results: list[Path], truth: Truth, *, nested: bool = True) -> None:
    """Many triggers a file: sequences that share their order but not their class, cells of both kinds and sites."""
    class6 = ["class6/1.mat", "class6\\2.mat", "Stimuli\\class6\\3.mat"]
    class3 = ["class3/1.mat", "class3/2.mat", "class3/3l.mat"]
    first, second = (folder / f"asari-results-{n}" for n, folder in enumerate(results, 1))
    a1, mgb, attached = "20050906-ha1-001", "20060410-ha2-012", "20070101-ha3-003"
    plan = [("Sequence 1:  1 2  3", ""), ("tone", ""), ("Sequence 1: 1 2 3", ""), ("Sequence 1: 1 2 3", "xcorr"),
            ("Sequence 2: 3 1", ""), ("Sequence 3: 1 9", "index"), ("Sequence 1: 1 2 3", "")]  # fmt: skip
    _asari_file(first / a1 / f"{a1}-2.mat", truth, class6, plan, "auditory cortex, left", "whole cell", nested)
    _asari_file(first / a1 / f"{a1}-10.mat", truth, class3, plan[:2], "auditory cortex, left", "whole cell", nested)
    spiking = [
        ("Sequence 1: 1 2 3", ""),
        ("Sequence 4: 2 2", ""),
        ("Sequence 1: 1 2 3", "range"),
        ("Sequence 1: 1 2 3", ""),
    ]
    _asari_file(second / mgb / "r1.mat", truth, class6, spiking, "MGB", "cell-attached", nested)
    _asari_file(second / attached / "r1.mat", truth, class3, spiking[:2], "Cortex", "loose Attached", nested)


def _asari_file(
    path: Path, truth: Truth, segments: list[str], plan: list[tuple[str, str]], site: str, how: str, nested: bool
) -> None:
    neuron, rate = path.parent.name, ASARI_RATE
    truth.rates[neuron] = rate
    rng, pieces, triggers = _rng(path.name), [np.zeros(round(GAP * rate))], []
    for words, bad in plan:
        onset = sum(map(len, pieces))
        if words == "tone" or bad == "index":
            triggers.append(natural_sound("tone" if words == "tone" else "natural sound", onset, 300.0, words))
            continue
        names = [segments[int(i) - 1].replace("\\", "/").removeprefix("Stimuli/").removesuffix(".mat")
                 for i in words.partition(":")[2].split()]  # fmt: skip
        stimulus_id = f"asari/{names[0].partition('/')[0]}/" + "+".join(name.partition("/")[2] for name in names)
        samples = sum(round(SEGMENTS[name] * SOUND_RATE) for name in names)
        n = round(samples / SOUND_RATE * rate)
        if "ttached" in how:
            at = spike_samples(rng, n, rate)
            clean = np.zeros(n)
            for sample in at:
                clean[sample - PEAK : sample - PEAK + len(SPIKE)] += SPIKE
            clean[at[0] + 10 - PEAK : at[0] + 10 - PEAK + len(SPIKE)] += SPIKE / 2  # 1 ms later: refractory
            truth.present(neuron, stimulus_id, clean, bad)
            truth.spikes[list(truth.clean)[-1]] = at / rate
        else:
            clean = potentials(neuron, stimulus_id, n, rate) * (-1 if bad == "xcorr" else 1)
            truth.present(neuron, stimulus_id, clean, bad)
        kind = "naturalsound" if onset % 2 else "Natural sound"
        triggers.append(natural_sound(kind, onset, 1000 * samples / SOUND_RATE, words))
        pieces += [clean + artefact(bad, n, rate), np.zeros(round(GAP * rate))]
    param = {
        "stimulus": [{"file": name} for name in segments],
        "recording": {"site": site, "type": how},
        "ID": {"description": ""},
    }
    trace = on_drift(np.concatenate(pieces), path.name, rate, truth.noise / 2 if "ttached" in how else truth.noise)
    recording(path, trace, rate, triggers, param, nested=nested)


def potentials(neuron: str, stimulus_id: str, n: int, rate: float) -> np.ndarray:
    """Sparse synaptic potentials, the same in every repeat: short and rare, so that their running median is 0."""
    rng = _rng(neuron + stimulus_id)
    t = np.arange(round(0.03 * rate)) / rate
    shape = t / 0.004 * np.exp(1 - t / 0.004)
    onsets = np.zeros(n)
    onsets[rng.choice(n, max(3, round(5 * n / rate)), replace=False)] = rng.uniform(5, 15, max(3, round(5 * n / rate)))
    return np.convolve(onsets, shape)[:n]


def spike_samples(rng: np.random.Generator, n: int, rate: float) -> np.ndarray:
    """About 12 spikes a second, none closer than 10 ms to another or to the ends."""
    slot = round(0.02 * rate)
    slots = np.sort(rng.choice(np.arange(1, n // slot - 1), round(12 * n / rate), replace=False))
    return slots * slot + rng.integers(0, slot // 2, len(slots))


def artefact(bad: str, n: int, rate: float) -> np.ndarray:
    """Pulses of 40 ms, which a median of 100 ms does not follow."""
    size = {"range": 220.0, "step": 60.0}.get(bad, 0.0)
    t = np.arange(n) / rate
    return np.where((t % 0.2 > 0.1) & (t % 0.2 < 0.14), size, 0.0)


def on_drift(trace: np.ndarray, name: str, rate: float, noise: float) -> np.ndarray:
    """Counts of an amplifier: a resting potential of -60 mV that wanders, noise, 16 bits."""
    t = np.arange(len(trace)) / rate
    drift = -60 + 3 * np.sin(2 * np.pi * t / 8) + 0.5 * t
    return np.rint((trace + drift + _rng(name).normal(0, noise, len(trace))) / SCALE).astype(np.int16)


def natural_sound(kind: str, onset: int, ms: float, description: str) -> dict:
    """Fields of a trigger; `onset` counts samples from 0, the file from 1."""
    return {"type": kind, "time": float(onset + 1), "param": {"description": description, "duration": ms}}


def stimulus(
    path: Path, samples: np.ndarray, description: str, name: str, *, rate: float = SOUND_RATE, nested: bool = True
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: samples, "param": {"sf": rate, "description": description}}
    savemat(path, {"stimulus": _wrap(content) if nested else content})


def recording(
    path: Path, trace: np.ndarray, rate: float, triggers: list[dict], param: dict | None = None, *,
    nested: bool = True, compressed: bool = False,
) -> None:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"response": {"trace": trace, "scale": SCALE, "sf": rate}, "triggers": triggers}
    content |= {} if param is None else {"param": param}
    content = {name: _wrap(value) if nested else _plain(value) for name, value in content.items()}
    savemat(path, content, do_compression=compressed, oned_as="column")


def _wrap(value: object) -> object:
    """Dicts as structs in cells of one element, lists as cell arrays."""
    if isinstance(value, dict):
        return _cell([{key: _wrap(inner) for key, inner in value.items()}])
    return _cell([_wrap(inner) for inner in value]) if isinstance(value, list) else value


def _cell(values: list) -> np.ndarray:
    cell = np.empty((1, len(values)), object)
    cell[0, :] = values
    return cell


def _plain(value: object) -> object:
    """Dicts as structs, lists of dicts as struct arrays."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        array = np.empty((1, len(value)), [(key, object) for key in value[0]])
        array[0, :] = [tuple(_plain(inner) for inner in element.values()) for element in value]
        return array
    return value


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
