"""Simulated recordings in the layout of CRCNS aa-4: one HDF5 file a unit, two birds, two sites, two arrays."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.simulate.birds import write_wav
from strfcube.simulate.population import Sound, fields, pcm, rates, sound, trials

if TYPE_CHECKING:
    from pathlib import Path

RATE = 24414.0625  # Hz: the recorder's; a wav header can hold 24414
BIRDS = {"SimSim0001F": 24, "SimSim0002M": 16}  # animal -> units
CALLS = ("Ag", "Be", "DC", "Di", "LT", "Te", "Th", "Wh")  # types of the call repertoire
PRE, POST = 1.0, 0.5  # s: half of the pauses
REPEATS = 10


def write(folder: Path, seed: int) -> None:
    """Write a folder an animal: its wavs under numbers of its own, and its units."""
    rng = np.random.default_rng([seed, 4])
    plan = [("call", "Call", call, 0.3) for call in CALLS] + [("song", "Con", "So", 1.5)] * 4
    plan += [("mlnoise", "mlnoise", "", 2.0)] * 2
    sounds = [
        (kind, group, call, sound(rng, "noise" if kind == "mlnoise" else "song", RATE, seconds * rng.uniform(0.9, 1.1)))
        for kind, group, call, seconds in plan
    ]
    for animal, count in BIRDS.items():
        order = rng.permutation(len(sounds))[: len(sounds) - 2]  # each bird has its own list, and its own numbers
        md5 = {}
        for number, index in enumerate(order, start=1):
            name = write_wav(folder / animal / "wavfiles", pcm(sounds[index][3].samples), 24414)
            file = folder / animal / "wavfiles" / name
            md5[index] = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            file.rename(file.with_name(f"stim{number}.wav"))
        heard = [sounds[index] for index in order]
        for unit, field in enumerate(fields(rng, count)):
            electrode, site = 17 - count // 2 + unit, 1 + unit % 2  # on both arrays
            file = folder / animal / f"Site{site}_L{1200 + 200 * site}R{1300 + 200 * site}_e{electrode}_s0_ss1.h5"
            root = {
                "site": f"Site{site}", "ldepth": 1200 + 200 * site, "rdepth": 1300 + 200 * site,
                "electrode": electrode, "sortid": 0, "sortType": "single" if unit % 3 else "multi",
            }  # fmt: skip
            played = rates(field, [each[3] for each in heard])
            _unit(file, root, [
                (n + 1, md5[order[n]], heard[n], trials(rng, rate, REPEATS, field.spontaneous, PRE,
                                                        heard[n][3].seconds + POST))
                for n, rate in enumerate(played)
            ])  # fmt: skip


def _unit(
    path: Path, root: dict[str, Any], played: list[tuple[int, str, tuple[str, str, str, Sound], list[Any]]]
) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update(root)
        for number, md5, (kind, group_name, call, heard), times in played:
            group = file.require_group("Call1" if kind == "call" else "STRF1").create_group(str(number))
            group.attrs.update({
                "number": number, "stim_md5": md5, "stim_type": kind, "stim_class": group_name, "callid": call,
                "stim_duration": heard.seconds,
            })  # fmt: skip
            for k, spikes in enumerate(times, start=1):
                trial = group.create_group(str(k))
                trial.attrs.update({"pre_time": PRE, "post_time": POST})
                trial["spike_times"] = spikes if len(spikes) else -999.0
                trial["spike_ids"] = np.arange(len(spikes)) if len(spikes) else -999
