"""Simulated recordings in the layout of CRCNS aa-2; three of their cells and all of their songs are those of `aa1`."""

from __future__ import annotations

import csv
import shutil
from typing import TYPE_CHECKING

import numpy as np

from strfcube.simulate.birds import read_wav_samples, spectrogram, write_demo, write_wav
from strfcube.simulate.population import Sound, fields, pcm, rates, sound, trials

if TYPE_CHECKING:
    from pathlib import Path

SHARED = {"sim1_1_A": "mld", "sim1_1_B": "L2a", "sim2_1_A": "mld"}  # cells that are in aa-1 too
REGIONS = ("mld", "OV", "L1", "L2a", "L3", "CM", "CM", "None")
BEFORE, END = 2.0, 4.0  # s: what the published files hold
REPEATS = 10


def write(folder: Path, seed: int) -> None:
    """Write ``all_stims``, ``all_cells`` and the three tables."""
    aside = folder / "aa1"
    write_demo(aside, seed)
    stims, cells = folder / "all_stims", folder / "all_cells"
    stims.mkdir()
    cells.mkdir()
    names: dict[str, list[str]] = {}
    for word in ("conspecific", "flatrip"):
        names[word] = sorted(file.name for file in (aside / "all_stims" / word).iterdir())
        for name in names[word]:
            (aside / "all_stims" / word / name).rename(stims / name)
    for cell in SHARED:
        next(aside.glob(f"*_cells/{cell}")).rename(cells / cell)
    shutil.rmtree(aside)

    rng = np.random.default_rng([seed, 2])
    ripples = [sound(rng, "noise", 32000.0, 2.0) for _ in range(4)]
    names["songrip"] = [write_wav(stims, pcm(each.samples), 32000) for each in ripples]
    heard = {name: _heard(stims / name) for word in ("conspecific", "flatrip") for name in names[word]}
    heard |= dict(zip(names["songrip"], ripples, strict=True))
    regions = dict(SHARED)
    for number, (region, field) in enumerate(zip(REGIONS, fields(rng, len(REGIONS)), strict=True)):
        cell = f"sim{number + 5}_1_A"
        regions[cell] = region
        # Each cell hears its own list: five of each class, but four ripples.
        for word, many in names.items():
            mine = [many[k] for k in sorted(rng.permutation(len(many))[:5])]
            target = cells / cell / word
            target.mkdir(parents=True)
            played = rates(field, [heard[name] for name in mine])
            for k, (name, rate) in enumerate(zip(mine, played, strict=True), start=1):
                (target / f"stim{k}").write_text(f"{name}\n", "ascii", newline="\n")
                times = trials(rng, rate, REPEATS, field.spontaneous, BEFORE, END)
                lines = ["".join(f"{1000 * t:.3f} " for t in trial) + "\n" for trial in times]
                (target / f"spike{k}").write_text("".join(lines), "ascii", newline="\n")
    _tables(folder, cells, regions, names, heard)


def _heard(file: Path) -> Sound:
    samples, rate = read_wav_samples(file)
    return Sound(samples, rate, *spectrogram(samples, rate))


def _tables(
    folder: Path, cells: Path, regions: dict[str, str], names: dict[str, list[str]], heard: dict[str, Sound]
) -> None:
    classes = [(cell, *sorted(part.name for part in (cells / cell).iterdir())) for cell in regions]
    sounds = [(name, 32000, 16, len(heard[name].samples), word) for word, many in names.items() for name in many]
    for table, rows in (
        ("cell_regions.csv", list(regions.items())),
        ("cell_stim_classes.csv", classes),
        ("stim_data.csv", sounds),
    ):
        with (folder / table).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
