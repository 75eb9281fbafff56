"""Writes synthetic AA1 and AA2 raw folders: text trials, wavs named by their MD5, every quirk of the format.

`write_aa1` and `write_aa2` are small and odd on purpose and return the truth; `write_aa2_full` has the shape of the
whole published set, with invented spikes and sounds.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.io import wavfile

if TYPE_CHECKING:
    from pathlib import Path

RATE = 32000
TRIALS, SPIKE_FILES = 245_454, 18_984  # of the published AA2
Times = list[list[float]]


@dataclass
class Truth:
    """What a correct reader finds.

    Attributes
    ----------
    trials : dict
        (cell, class, wav) to the spike times in ms of each trial, pooled blocks in numeric order.
    samples : dict
        wav to its number of samples, for those that are there.
    missing : set
        Wavs that are named but absent.
    """

    trials: dict[tuple[str, str, str], Times] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)


def write_wav(folder: Path, samples: int, seed: int, rate: int = RATE) -> str:
    """Write a wav of noise named by the MD5 of the file, and return its name."""
    noise = np.random.default_rng(seed).normal(0, 2000, samples).astype(np.int16)
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, noise)
    name = hashlib.md5(buffer.getvalue()).hexdigest().upper() + ".wav"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(buffer.getvalue())
    return name


def spike_text(trials: Times, trailing_blank: bool = True, end: str = "\n") -> bytes:
    """Format trials as a spike file: 3 decimals, a blank after each number, a bare line end where no spike fell."""
    last = " " if trailing_blank else ""
    return "".join((" ".join(f"{t:.3f}" for t in trial) + last if trial else "") + end for trial in trials).encode()


def write_pair(folder: Path, k: int, wav: str | None, trials: Times | None, **text: object) -> None:
    """Write stim<k> (unless `wav` is None) and spike<k> (unless `trials` is None) of a class folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if wav is not None:
        (folder / f"stim{k}").write_text(wav + "\n")
    if trials is not None:
        (folder / f"spike{k}").write_bytes(spike_text(trials, **text))


def make_trials(rng: np.random.Generator, repeats: int) -> Times:
    """Trials with negative and late times; times on bin edges, several in one bin, and a silent trial among them."""
    trials = [sorted(np.round(rng.uniform(-2000, 4000, rng.poisson(20)), 3).tolist()) for _ in range(repeats)]
    own = float(np.round(rng.uniform(20.001, 3997), 3))  # no two trials are equal
    trials[0] = [-1999.875, -0.001, 0.0, 15.0, 15.001, 15.001, 19.999, 20.0, own, 3997.375]
    if repeats > 2:
        trials[2] = []
    return trials


def write_aa1(root: Path, seed: int = 0, *, class_folders: bool = True, wrap: bool = False) -> Truth:
    """Three cells, two areas, four songs and three noises: see the comments for the quirks.

    Parameters
    ----------
    class_folders : bool
        Whether ``all_stims`` has a subfolder a class.
    wrap : bool
        Whether everything is in one more folder.
    """
    rng = np.random.default_rng(seed)
    root = root / "crcns-aa1" if wrap else root
    truth = Truth()
    wavs: dict[str, list[str]] = {}
    for word, lengths in (("conspecific", (62144, 52761, 16001, 8000)), ("flatrip", (64000, 9600, 8001))):
        folder = root / "all_stims" / (word if class_folders else "")
        wavs[word] = [write_wav(folder, n, seed * 100 + n) for n in lengths]
        truth.samples |= dict(zip(wavs[word], lengths, strict=True))
    places = {"gg0304_10_B": "Field_L", "pipu1018_2_A": "MLd", "blugr1612_2": "MLd"}  # the last has no rig
    for cell, area in places.items():
        for word, names in wavs.items():
            if cell == "pipu1018_2_A" and word == "conspecific":
                continue  # heard no song
            for k, wav in enumerate(names, start=1):
                trials = make_trials(rng, 10)
                # line ends with and without the blank
                write_pair(root / f"{area}_cells" / cell / word, k, wav, trials, trailing_blank=cell != "blugr1612_2")
                truth.trials[cell, word, wav] = trials
    folder = root / "MLd_cells" / "blugr1612_2" / "conspecific"
    (folder / "spike4").unlink()  # a stim file without its spike file
    del truth.trials["blugr1612_2", "conspecific", wavs["conspecific"][3]]
    again = make_trials(rng, 4)  # a wav under two numbers, whose string order is not the numeric one
    write_pair(folder, 10, wavs["conspecific"][1], again)
    truth.trials["blugr1612_2", "conspecific", wavs["conspecific"][1]] += again
    for junk in (root, root / "MLd_cells", root / "MLd_cells" / "blugr1612_2", folder, root / "all_stims"):
        (junk / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return truth


def write_aa2(root: Path, seed: int = 0, *, wrap: bool = False, tables: bool = True) -> Truth:
    """Four cells with sparse lists of sounds in three classes, a wav of two classes, two absent wavs: see the comments.

    Parameters
    ----------
    wrap : bool
        Whether everything is in ``crcns/aa2``.
    tables : bool
        Whether the three tables are there.
    """
    rng = np.random.default_rng(seed)
    root = root / "crcns" / "aa2" if wrap else root
    truth = Truth()
    lengths = (55105, 37368, 81714, 64000, 8000, 8001)
    songs = [write_wav(root / "all_stims", n, seed * 100 + n) for n in lengths]
    truth.samples = dict(zip(songs, lengths, strict=True))
    absent = [hashlib.md5(f"{seed} {i}".encode()).hexdigest().upper() + ".wav" for i in range(2)]
    truth.missing = set(absent)
    lists = {
        ("pupu2122_2_B", "conspecific"): songs[:3],
        ("pupu2122_2_B", "flatrip"): [songs[3]],
        ("pupu2122_2_B", "songrip"): [songs[0], absent[0]],  # played as song, too; and one whose wav is absent
        ("gr0869_2", "conspecific"): songs[:3],  # twice: 10 and 4 trials
        ("gr0869_2", "flatrip"): [absent[1]],  # absent, and in no table
        ("oo1220_6_B", "conspecific"): [songs[1], songs[2], songs[4]],  # has holes
        ("oo1712_4_A", "conspecific"): [songs[2]],
    }
    for (cell, word), names in lists.items():
        for k, wav in enumerate(names, start=1):
            trials = make_trials(rng, 14 if cell == "oo1712_4_A" else 10)
            write_pair(root / "all_cells" / cell / word, k, wav, trials)
            truth.trials[cell, word, wav] = trials
    for k, wav in enumerate(songs[:3], start=4):
        again = make_trials(rng, 4)
        write_pair(root / "all_cells" / "gr0869_2" / "conspecific", k, wav, again)
        truth.trials["gr0869_2", "conspecific", wav] += again
    holes = root / "all_cells" / "oo1220_6_B" / "conspecific"
    (holes / "spike3").unlink()
    del truth.trials["oo1220_6_B", "conspecific", songs[4]]
    write_pair(holes, 4, None, make_trials(rng, 10))
    (root / "all_cells" / ".DS_Store").write_bytes(b"\0")
    if tables:
        regions = {"gr0869_2": "None", "oo1220_6_B": "L2a", "oo1712_4_A": "mld", "pupu2122_2_B": "CM"}
        classes: dict[str, list[str]] = {}
        for cell, word in sorted(lists):
            classes.setdefault(cell, []).append(word)
        (root / "cell_regions.csv").write_text("".join(f"{c},{r}\n" for c, r in regions.items()))
        (root / "cell_stim_classes.csv").write_text("".join(",".join([c, *w]) + "\n" for c, w in classes.items()))
        rows = [f"{wav},{RATE},16,{n},conspecific\n" for wav, n in truth.samples.items()]
        (root / "stim_data.csv").write_text("".join(rows) + f"{absent[0]},{RATE},16,40000,unknown\n")
    return truth


def write_aa2_full(root: Path, structure: Path, seed: int = 0) -> None:
    """Write a tree of the published set's shape: every path, every assignment, sizes about as published.

    Parameters
    ----------
    structure : path
        Folder with ``files.tsv`` (path, size, MD5), ``stim_assignment.json`` and the tables of the real set.
    """
    rng = np.random.default_rng(seed)
    assignment = {
        f"all_cells/{folder}/stim{k}": wav
        for folder, names in json.loads((structure / "stim_assignment.json").read_text()).items()
        for k, wav in names.items()
    }
    root.mkdir(parents=True, exist_ok=True)
    for table in ("cell_regions.csv", "cell_stim_classes.csv"):
        (root / table).write_bytes((structure / table).read_bytes())
    (root / "all_stims").mkdir(parents=True, exist_ok=True)
    folders, rows, written = set(), [], 0
    for line in (structure / "files.tsv").read_text().splitlines():
        path, size, _ = line.split("\t")
        target = root / path
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        if path.endswith(".wav"):
            samples = (int(size) - 44) // 2
            wavfile.write(target, RATE, rng.integers(-8000, 8000, samples, np.int16))
            rows.append(f"{target.name},{RATE},16,{samples},unknown\n")
        elif path in assignment:
            target.write_text(assignment[path] + "\n")
        elif target.name.startswith("spike"):
            # 245,454 trials in 18,984 files; as many numbers of about 8 characters as fit the size
            trials = (written + 1) * TRIALS // SPIKE_FILES - written * TRIALS // SPIKE_FILES
            times = np.sort(rng.uniform(-2000, 4000, (trials, max(1, round(int(size) / trials / 8.9)))), axis=1)
            target.write_text("".join(" ".join(map("%.3f".__mod__, row)) + " \n" for row in times.tolist()))
            written += 1
    (root / "stim_data.csv").write_text("".join(rows))
