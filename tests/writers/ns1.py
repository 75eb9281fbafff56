"""Raw files in the NS1 layout, with invented spikes and sounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat, wavfile

RATE = 48828.125
GROUPS = (  # group, penetration, length_signal_ms - length of the clip
    ("exp57_L4x8", "P06-SH_En_C.Lsh3", 241.93780119101605),
    ("dataAC", "E1P02.L.SH.En.C", 199.994762141659),
    ("exp45_1x32", "P10-SH.En.C.D", 199.994762141659),
    ("exp42_split1x32", "P10-SH.En.C.D", 200.03572214073),
)
LEVELS = [80] * 12 + [82, 80, 80, 80, 80, 80, 75, 80] + [75] * 12
# Source, Token, Set, StimID of data.set(1..32)
PARAMS = (
    [(1, 0, 2, i) for i in range(1, 13)]
    + [(2, 0, 1, i) for i in range(1, 9)]
    + [(9, token, set_, 0) for token in range(3) for set_ in (10, 20, 30, 40)]
)
SINGLE = (("Yes", 2), ("Maybe", 1), ("No", 0))


@dataclass(frozen=True)
class NS1Truth:
    """What was written.

    `spikes` [unit][number of the clip, 1 to 32][repeat] are times in ms, `files` the unit files relative to the raw
    folder (one that is absent included), `sweep_ms` the recorded windows, `wavs` the samples of clips 1 to 20, `depth`
    and `single` what the table of units says.
    """

    raw: Path
    units: tuple[str, ...]
    files: tuple[str, ...]
    spikes: tuple[dict[int, list[np.ndarray]], ...]
    sweep_ms: tuple[float, ...]
    wavs: dict[int, np.ndarray]
    depth: tuple[float, ...]
    single: tuple[str, ...]


def write_ns1(
    folder,
    *,
    units=6,
    repeats=20,
    drc_repeats=5,
    clip_seconds=5.0,
    rate_hz=15.0,
    fallback=(),
    missing=(),
    swapped=(),
    seed=0,
):
    """Write a raw folder and return the truth.

    Every clip 17 to 20 has one sample more than the others. Unit 0 has, in clip 1: a silent trial (empty uint8), times
    out of order with two in one ms, a time on the edge of a bin and one after the sound. Unit 3 has a negative depth.

    Parameters
    ----------
    units, repeats, drc_repeats, clip_seconds, rate_hz
        Size; NS1 itself is 119, 20, 5, 5.0 and about 12.
    fallback, missing, swapped
        Indices of the units whose file is named ``..._1.mat``, is not written, or has sets 3 and 4 exchanged.
    """
    raw, rng = Path(folder), np.random.default_rng(seed)
    names, files, spikes, sweeps, depths, singles = [], [], [], [], [], []
    for unit in range(units):
        group, penetration, extra = GROUPS[unit % len(GROUPS)]
        name = f"{group}/{penetration}/cluster.{unit // len(GROUPS) + 1:02d}"
        sweep = clip_seconds * 1000 + extra
        truth = {
            number: [_times(rng, sweep, rate_hz) for _ in range(repeats if number <= 20 else drc_repeats)]
            for number in range(1, 33)
        }
        if unit == 0:
            odd = [np.empty(0), [70.25, 15.0, 70.75, 3.0], [clip_seconds * 1000 + 120.5], [clip_seconds * 1000]]
            truth[1][: len(odd)] = [np.array(t, float) for t in odd[: len(truth[1])]]
        file = f"spikesandwav/{name}.data{'_1' if unit in fallback else ''}.mat"
        if unit not in missing:
            order = list(range(1, 33))
            if unit in swapped:
                order[2], order[3] = 4, 3
            path = raw / file
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {"data": {"set": _sets(truth, order, sweep)}})
        names.append(name)
        files.append(file)
        spikes.append(truth)
        sweeps.append(sweep)
        depths.append(-200.0 if unit == 3 else 50.0 * unit)
        singles.append(SINGLE[unit % 3][0])
    write_metadata(raw, [f"{name}.data.mat" for name in names], depths, singles)
    wavs = _write_wavs(raw / "spikesandwav" / "SH.En.C", clip_seconds, rng)
    return NS1Truth(
        raw, tuple(names), tuple(files), tuple(spikes), tuple(sweeps), wavs, tuple(depths), tuple(singles)
    )  # fmt: skip


def write_metadata(raw, paths, depths, singles):
    """Write the table of units."""
    fields = ("path", "NrOfElectrodes", "ElectrodeNumber", "depth", "NoiseRatio", "singleT", "singleN")
    table = np.empty((1, len(paths)), [(name, object) for name in fields])
    for i, (path, depth, single) in enumerate(zip(paths, depths, singles, strict=True)):
        table[0, i] = (path, 32.0, float(i % 32 + 1), float(depth), 3.25 + i, single, float(dict(SINGLE)[single]))
    Path(raw).mkdir(parents=True, exist_ok=True)
    savemat(Path(raw) / "MetadataSHEnCneurons.mat", {"neuron": table})


def _times(rng, sweep, rate_hz):
    """Ticks of 40.96 us within the sweep, one trial in ten out of order."""
    times = rng.integers(0, int(sweep / 0.04096), rng.poisson(rate_hz * sweep / 1000)) * 0.04096
    return times if rng.random() < 0.1 else np.sort(times)


def _sets(truth, order, sweep):
    sets = np.empty((1, 32), [(n, object) for n in ("spikes", "repeats", "stim_params", "length_signal_ms")])
    for place, number in enumerate(order):
        trials = truth[number]
        table = np.empty((1, len(trials)), [(n, object) for n in ("t", "repeat_id", "timestamp")])
        for r, t in enumerate(trials):
            stored = t[None] if len(t) else np.empty((1, 0), np.uint8)
            table[0, r] = (stored, np.full(stored.shape, r + 1, np.uint8), f"20120118-2100{r:02d}{number:03d}")
        pooled = np.concatenate(trials)[None]
        source, token, set_, stim_id = PARAMS[number - 1]
        params = {
            "Source": source, "Mode": 0, "BF": 0, "Token": token, "Set": set_, "StimID": stim_id,
            "NominalLevel": LEVELS[number - 1], "Level": LEVELS[number - 1] - 130,
        }  # fmt: skip
        names = np.array([[*params, "length_signal_ms"]], object)
        all_ = {"names": names, "values": np.array([[*params.values(), round(sweep)]], np.int16)}
        ids = np.repeat(np.arange(1, len(trials) + 1, dtype=np.uint8), [len(t) for t in trials])[None]
        sets[0, place] = ({"t": pooled, "repeat_id": ids}, table, {"all": all_} | params, sweep)
    return sets


def _write_wavs(folder, clip_seconds, rng):
    folder.mkdir(parents=True, exist_ok=True)
    wavs = {}
    for number, (source, token, set_, stim_id) in enumerate(PARAMS[:20], 1):
        samples = rng.normal(0, 0.05, int(clip_seconds * RATE) + (number > 16)).astype(np.float32)
        name = f"source.{source}.sound.0.snr.0.token.{token}.fw.{set_}.frozen.{stim_id}"
        with (folder / name).open("wb") as handle:
            wavfile.write(handle, 48828, samples)
        wavs[number] = samples
    return wavs
