"""Simulated recordings in the layout of AC1: membrane potentials on a drift, and cell-attached spikes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.simulate.birds import STEP, Floats
from strfcube.simulate.population import Rng, drives, fields, rates, sound, trials

if TYPE_CHECKING:
    from pathlib import Path

SOUND_RATE, WEHR_RATE, ASARI_RATE = 97656.0, 4000.0, 10000.0
SCALE = 0.01  # mV a count
GAP = 0.5  # s recorded between presentations
SOUNDS = {
    "fragments/1": "simulated whale", "fragments/2": "simulated wind", "category1/1": "simulated frog",
    "category1/2": "simulated jaguar", "category2/1": "simulated stream", "category2/2": "simulated crickets",
}  # fmt: skip
SEGMENTS = ("class1/1", "class1/2", "class1/3")
REPEATS = 6
SPIKE = 2 * np.array([1, 4, 10, 6, 2, -2, -3, -2, -1], float)  # mV, at 10 kHz


def write(folder: Path, seed: int) -> None:
    """Write six whole-cell recordings of M. Wehr's kind, and one of each kind of H. Asari's."""
    rng = np.random.default_rng([seed, 5])
    base = folder / "crcns-ac1"
    heard = {name: sound(rng, "song" if k % 2 else "noise", SOUND_RATE, 1.5) for k, name in enumerate(SOUNDS)}
    segments = {name: sound(rng, "song", SOUND_RATE, 0.7) for name in SEGMENTS}
    for name, words in SOUNDS.items():
        _sound(base / f"wehr/Stimuli/{name}.mat", "samples", heard[name].samples, words)
    for name in SEGMENTS:
        _sound(base / f"asari/Stimuli/{name}.mat", "sample", segments[name].samples, "segment")
    for cell, field in enumerate(fields(rng, 6)):
        mine = [name for k, name in enumerate(SOUNDS) if (k + cell) % 3]  # each cell hears its own list
        potentials = [_potential(drive) for drive in drives(field, [heard[name] for name in mine])]
        neuron = f"2002010{cell + 1}-sim-001"
        order = [k for _ in range(REPEATS) for k in range(len(mine))]
        for number, k in enumerate(order, start=1):
            n = round(heard[mine[k]].seconds * WEHR_RATE)
            clean = _at(potentials[k], n, WEHR_RATE)
            gap = np.zeros(round(GAP * WEHR_RATE))
            trace = np.concatenate([gap, clean, gap])
            trace += _restless(rng, len(trace), WEHR_RATE)
            trigger = _trigger(len(gap), heard[mine[k]].seconds, SOUNDS[mine[k]])
            _recording(base / f"wehr/Results/{neuron}/{neuron}-{number}.mat", trace, WEHR_RATE, [trigger])
    results = folder / "crcns-ac1-asari-results-1" / "asari-results-1"
    for (neuron, site, how), field in zip(
        (("20050101-sim1-001", "auditory cortex", "whole cell"), ("20060101-sim1-002", "MGB", "cell-attached")),
        fields(rng, 2), strict=True,
    ):  # fmt: skip
        pieces, triggers = [np.zeros(round(GAP * ASARI_RATE))], []
        one = [segments[name] for name in SEGMENTS]
        seconds = sum(each.seconds for each in one)
        joined = [drive[: round(each.seconds / STEP)] for each, drive in zip(one, drives(field, one), strict=True)]
        firing = np.concatenate([r[: round(s.seconds / STEP)] for s, r in zip(one, rates(field, one), strict=True)])
        for _ in range(REPEATS):
            triggers.append(_trigger(sum(map(len, pieces)), seconds, "Sequence 1: 1 2 3"))
            n = round(seconds * ASARI_RATE)
            clean = (
                _at(_potential(np.concatenate(joined)), n, ASARI_RATE) if how == "whole cell"
                else _spiking(rng, firing, n)
            )  # fmt: skip
            pieces += [clean, np.zeros(round(GAP * ASARI_RATE))]
        trace = np.concatenate(pieces)
        trace += _restless(rng, len(trace), ASARI_RATE) if how == "whole cell" else rng.normal(0, 0.5, len(trace))
        param = {
            "stimulus": [{"file": f"{name}.mat"} for name in SEGMENTS],
            "recording": {"site": site, "type": how},
        }
        _recording(results / neuron / f"{neuron}-1.mat", trace, ASARI_RATE, triggers, param)


def _potential(drive: Floats) -> Floats:
    """Depolarisation in mV, one value a ms: the drive, rectified, through a membrane of 8 ms."""
    decay = np.exp(-np.arange(40) * STEP / 0.008)
    return np.asarray(6 * np.convolve(np.maximum(0, drive - 1), decay / decay.sum())[: len(drive)])


def _restless(rng: Rng, n: int, rate: float) -> Floats:
    """Synaptic and electrical noise in mV: of 20 ms, and of a sample."""
    slow = np.convolve(rng.normal(0, 1, n), np.hanning(round(0.02 * rate)), "same")
    return np.asarray(3 * slow / slow.std() + rng.normal(0, 0.3, n))


def _at(values: Floats, n: int, rate: float) -> Floats:
    return np.asarray(np.interp((np.arange(n) + 0.5) / rate, (np.arange(len(values)) + 0.5) * STEP, values))


def _spiking(rng: Rng, firing: Floats, n: int) -> Floats:
    trace = np.zeros(n + len(SPIKE))
    last = -1.0
    for t in trials(rng, firing / 4, 1, 0.0, 0.0, n / ASARI_RATE)[0].tolist():
        if t - last > 0.004:
            first = int(t * ASARI_RATE)
            trace[first : first + len(SPIKE)] += SPIKE[: len(trace) - first]
            last = t
    return trace[:n]


def _trigger(onset: int, seconds: float, description: str) -> dict[str, Any]:
    """`onset` counts samples from 0, the file from 1."""
    param = {"description": description, "duration": 1000 * seconds}
    return {"type": "naturalsound", "time": float(onset + 1), "param": param}


def _sound(path: Path, field: str, samples: Floats, description: str) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    content = {field: samples, "param": {"sf": SOUND_RATE, "description": description}}
    savemat(path, {"stimulus": _struct(content)}, do_compression=True)


def _recording(
    path: Path, trace: Floats, rate: float, triggers: list[dict[str, Any]], param: dict[str, Any] | None = None
) -> None:
    """Write the counts of an amplifier: 16 bits, from a resting potential that drifts."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(len(trace)) / rate
    counts = np.rint((trace - 60 + 2 * np.sin(2 * np.pi * time / 8) + 0.3 * time) / SCALE).astype(np.int16)
    content: dict[str, Any] = {"response": {"trace": counts, "scale": SCALE, "sf": rate}, "triggers": triggers}
    content |= {} if param is None else {"param": param}
    wrapped = {name: _struct(value) for name, value in content.items()}
    savemat(path, wrapped, do_compression=True, oned_as="column")


def _struct(value: Any) -> Any:
    """Dicts as structs in cells of one element, lists as cell arrays, as in the published files."""
    if isinstance(value, dict):
        return _cell([{key: _struct(inner) for key, inner in value.items()}])
    return _cell([_struct(inner) for inner in value]) if isinstance(value, list) else value


def _cell(values: list[Any]) -> Any:
    cell = np.empty((1, len(values)), object)
    cell[0, :] = values
    return cell
