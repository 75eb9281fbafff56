"""What the raw files and the cubes of AA1 and AC1 take on the disk, from synthetic trees; the others have their own.

Usage: ``python benchmarks/cube_sizes.py [aa1] [ac1] [--part 0.1]``. AA1 is written at its full size: 100 cells, 30
sounds, 2,960 pairs. Of AC1 the cells of M. Wehr are (25 cells, 51 sounds, about 1,260 recordings), and a part of those
of H. Asari, whose number of sounds is not published: 4 sequences of 15 s a cell, 5 recordings of each, are taken for
it, and the bytes of that part are multiplied. Sounds and spikes are noise, which compresses worse than recordings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from writers.aa import write_pair, write_wav
from writers.ac1 import ASARI_RATE, SOUND_RATE, WEHR_RATE, natural_sound, on_drift, potentials, recording, stimulus

import strfcube

GAP = 0.3  # s of recording before and after each presentation


def write_aa1(root, rng):
    """AA1 as published: cells, sounds, ten trials of 6 s, 45 spikes in each."""
    classes = {"conspecific": 20, "flatrip": 10}
    names = {word: [write_wav(root / "all_stims" / word, round(32000 * rng.uniform(1.6, 2.5)), 100 * (word < "d") + k)
                    for k in range(count)] for word, count in classes.items()}  # fmt: skip
    for number in range(100):
        area = ("Field_L_cells", "MLd_cells")[number % 2]
        for word, wavs in names.items():
            if word == "conspecific" and number < 2:
                continue
            for k, wav in enumerate(wavs, 1):
                trials = [np.sort(rng.uniform(-2000, 4000, 45)).tolist() for _ in range(10)]
                write_pair(root / area / f"bird{number:04d}_1_A" / word, k, wav, trials)


def write_wehr(root, rng):
    """25 cells that heard 11 or 12 of 51 sounds of 7.5 to 15 s, 4 or 5 times each."""
    base = root / "crcns-ac1" / "wehr"
    seconds = rng.uniform(7.5, 15, 51)
    for k, s in enumerate(seconds, 1):
        samples = rng.normal(0, 0.1, round(s * SOUND_RATE))
        stimulus(base / "Stimuli" / "fragments" / f"{k}.mat", samples, f"sound {k}", "samples")
    for cell in range(25):
        neuron, number = f"200206{cell:02d}-mw-001", 0
        for k in rng.choice(51, 11 + cell % 2, replace=False):
            clean = potentials(neuron, f"wehr/{k}", round(seconds[k] * WEHR_RATE), WEHR_RATE)
            gap = np.zeros(round(GAP * WEHR_RATE))
            for _ in range(4 + cell % 2):
                number += 1
                path = base / "Results" / neuron / f"{neuron}-{number}.mat"
                trace = on_drift(np.concatenate([gap, clean, gap]), path.name, WEHR_RATE, 0.2)
                trigger = natural_sound("naturalsound", len(gap), 1000 * seconds[k], f"sound {k + 1}")
                recording(path, trace, WEHR_RATE, [trigger])


def write_asari(root, rng, cells):
    """Cells of whole-cell recordings: 4 sequences of five segments of 3 s, each 5 times."""
    for k in range(1, 6):
        samples = rng.normal(0, 0.1, round(3 * SOUND_RATE))
        stimulus(root / "crcns-ac1" / "asari" / "Stimuli" / "class1" / f"{k}.mat", samples, "segment", "sample")
    for cell in range(cells):
        neuron, gap = f"200509{cell:02d}-ha1-001", np.zeros(round(GAP * ASARI_RATE))
        pieces, triggers = [gap], []
        for order in (rng.permutation(5) + 1 for _ in range(4)):
            words = f"Sequence {cell}: {' '.join(map(str, order))}"
            clean = potentials(neuron, words, round(15 * ASARI_RATE), ASARI_RATE)
            for _ in range(5):
                triggers.append(natural_sound("naturalsound", sum(map(len, pieces)), 15000.0, words))
                pieces += [clean, gap]
        param = {"stimulus": [{"file": f"class1/{k}.mat"} for k in range(1, 6)],
                 "recording": {"site": "auditory cortex", "type": "whole cell"}, "ID": {"description": ""}}  # fmt: skip
        path = root / "crcns-ac1-asari-results-1" / "asari-results-1" / neuron / "r1.mat"
        recording(path, on_drift(np.concatenate(pieces), path.name, ASARI_RATE, 0.2), ASARI_RATE, triggers, param)


def measured(name, raw, scratch, **how):
    """Build; gives MB of the raw files and of the cube."""
    path = strfcube.build(name, raw=raw, out=scratch / f"{raw.name}.zarr", jobs=2, **how)
    sizes = [sum(f.stat().st_size for f in Path(p).rglob("*") if f.is_file()) / 1e6 for p in (raw, path)]
    ds = strfcube.open(path)
    print(f"{raw.name}: raw {sizes[0]:.1f} MB, cube {sizes[1]:.1f} MB; {ds.sizes['stim']} sounds, "
          f"{ds.sizes['neuron']} neurons, {int(ds['n_repeats'].sum()):,} trials", flush=True)  # fmt: skip
    return sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["aa1", "ac1"])
    parser.add_argument("--part", type=float, default=0.1, help="of Asari's 53 cells that is written")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if "aa1" in args.names:
            write_aa1(scratch / "aa1", rng)
            measured("aa1", scratch / "aa1", scratch)
        if "ac1" in args.names:
            cells = max(1, round(53 * args.part))
            write_wehr(scratch / "wehr", rng)
            write_asari(scratch / "asari", rng, cells)
            wehr, asari = (measured("ac1", scratch / who, scratch) for who in ("wehr", "asari"))
            raw, cube = (w + a * 53 / cells for w, a in zip(wehr, asari, strict=True))
            print(f"ac1, with {cells} of Asari's 53 cells multiplied: raw {raw:.0f} MB, cube {cube:.0f} MB")


if __name__ == "__main__":
    main()
