"""Simulated recordings in the layout of NS1: MATLAB files of units, wavs in pascals, a table of units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.simulate.population import fields, rates, sound, trials

if TYPE_CHECKING:
    from pathlib import Path

RATE, HEADER_RATE = 48828.125, 48828
SECONDS, AFTER = 5.0, 0.2
UNITS, REPEATS = 8, 10
# Source, Token, Set and StimID of the clips, whose order the files have
CLIPS = [(1, 0, 2, i) for i in range(1, 13)] + [(2, 0, 1, i) for i in range(1, 9)]
PASCAL = 2e-5 * 10 ** (80 / 20)  # effective value of a sound of 80 dB SPL


def write(folder: Path, seed: int) -> None:
    """Write ``spikesandwav`` and the table of units."""
    from scipy.io import savemat, wavfile

    rng = np.random.default_rng([seed, 1])
    sounds = [sound(rng, "song" if k % 2 else "noise", RATE, SECONDS) for k in range(len(CLIPS))]
    wavs = folder / "spikesandwav" / "SH.En.C"
    wavs.mkdir(parents=True)
    for (source, token, fw, frozen), each in zip(CLIPS, sounds, strict=True):
        samples = (each.samples / np.std(each.samples) * PASCAL).astype(np.float32)
        with (wavs / f"source.{source}.sound.0.snr.0.token.{token}.fw.{fw}.frozen.{frozen}").open("wb") as file:
            wavfile.write(file, HEADER_RATE, samples)
    paths = []
    for unit, field in enumerate(fields(rng, UNITS, latency=(0.012, 0.025))):
        path = f"exp{1 + unit // 6}_sim/P{1 + unit // 3 % 2:02d}-SH.En.C/cluster.{unit % 3 + 1:02d}.data.mat"
        times = [trials(rng, rate, REPEATS, field.spontaneous, 0.0, SECONDS + AFTER) for rate in rates(field, sounds)]
        target = folder / "spikesandwav" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        savemat(target, {"data": {"set": _sets(times)}})
        paths.append(path)
    fields_of_table = ("path", "NrOfElectrodes", "ElectrodeNumber", "depth", "NoiseRatio", "singleT", "singleN")
    table = np.empty((1, UNITS), [(name, object) for name in fields_of_table])
    for unit, path in enumerate(paths):
        single = ("Yes", 2.0) if unit % 3 else ("No", 0.0)
        table[0, unit] = (path, 32.0, float(unit + 1), 100.0 + 50 * unit, 10.0, *single)
    savemat(folder / "MetadataSHEnCneurons.mat", {"neuron": table})


def _sets(times: list[list[Any]]) -> Any:
    """``data.set`` of a unit: a struct a clip, with a struct a repeat; times in ms."""
    sets = np.empty((1, len(CLIPS)), [(n, object) for n in ("repeats", "stim_params", "length_signal_ms")])
    for place, ((source, token, fw, frozen), repeats) in enumerate(zip(CLIPS, times, strict=True)):
        table = np.empty((1, len(repeats)), [(n, object) for n in ("t", "repeat_id")])
        for r, spikes in enumerate(repeats):
            stored = 1000 * spikes[None] if len(spikes) else np.empty((1, 0), np.uint8)
            table[0, r] = (stored, np.full(stored.shape, r + 1, np.uint8))
        params = {
            "Source": source, "Mode": 0, "BF": 0, "Token": token, "Set": fw, "StimID": frozen, "NominalLevel": 80,
            "Level": -50,
        }  # fmt: skip
        names = np.array([[*params, "length_signal_ms"]], object)
        listed = {"names": names, "values": np.array([[*params.values(), 1000 * (SECONDS + AFTER)]], np.int16)}
        sets[0, place] = (table, {"all": listed} | params, 1000 * (SECONDS + AFTER))
    return sets
