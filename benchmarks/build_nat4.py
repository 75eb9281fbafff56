"""Build a full-scale synthetic NAT4 A1: 849 cells at 22 sites, 593 sounds, 502,863 pairs.

Usage: ``python benchmarks/build_nat4.py [--both] [--jobs 2] [--keep FOLDER]``; ``--both`` adds PEG (398 cells at 11
sites, 738,877 pairs in all). Prints one line of figures: seconds to build,
peak memory of the heaviest process and of all processes together, bytes on disk, and, beside them, what the same raw
bytes cost at least (the population archive inflated and thrown away).
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from writers.nat4 import FULL_A1, FULL_PEG, write_nat4

import strfcube


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--both", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="write the raw files here once, and use them again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raw = (args.keep or Path(scratch)) / ("nat4-both" if args.both else "nat4-raw")
        if not raw.is_dir():
            start = time.perf_counter()
            partial = raw.with_name("nat4-partial")
            sites = {"A1": FULL_A1} | ({"PEG": FULL_PEG} if args.both else {})
            write_nat4(partial, sites=sites, extra={}, population_only={"DRX006b": 33}, est=575, val=18,
                       val_repeats=20, rate_hz=5.0, nan_cell=False)  # fmt: skip
            partial.rename(raw)
            print(f"raw files written in {time.perf_counter() - start:.1f} s")
        floor = inflate_seconds(raw / "A1_NAT4_ozgf.fs100.ch18.tgz")
        memory = PeakMemory()
        start = time.perf_counter()
        with memory:
            path = strfcube.build("nat4", raw=raw, out=Path(scratch) / "nat4.zarr", dt=10, jobs=args.jobs)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        ds = strfcube.open(path)
        opened = time.perf_counter() - start
        size = sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())
        pairs = int((ds["n_repeats"] > 0).sum())
        chunk = ds["response"].encoding["chunks"]
        n, t = ds.sizes["neuron"], ds.sizes["time"]
        decoded = -(-n // chunk[1]) * chunk[1] * chunk[2] * chunk[3] / (n * t)
        print(f"S = {ds.sizes['stim']}, N = {n}, pairs = {pairs}, chunks = {chunk}: a sound heard once "
              f"decodes {decoded:.3f} bytes a bin")  # fmt: skip
        print(f"build {seconds:.1f} s with {args.jobs} jobs (inflating the population file alone: {floor:.1f} s), "
              f"peak {memory.single / 1e6:.0f} MB in one process, {memory.total / 1e6:.0f} MB in all; "
              f"open {opened * 1e3:.0f} ms; {size / 1e6:.1f} MB on disk")  # fmt: skip


def inflate_seconds(path):
    start = time.perf_counter()
    with gzip.open(path) as file:
        while file.read(1 << 23):
            pass
    return time.perf_counter() - start


class PeakMemory:
    """Peak resident memory of this process and its descendants, sampled from /proc."""

    def __enter__(self):
        self.single = self.total = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()

    def watch(self):
        while not self.stop.wait(0.25):  # each sample stops the process for some milliseconds
            sizes = resident_sizes()
            self.single = max(self.single, *sizes)
            self.total = max(self.total, sum(sizes))


def resident_sizes():
    """Proportional set size of every process of this tree, in bytes, so that shared pages count once."""
    parents, me = {}, os.getpid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    tree = {me}
    while more := {p for p, parent in parents.items() if parent in tree} - tree:
        tree |= more
    sizes = [0]
    for pid in tree:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return sizes


if __name__ == "__main__":
    main()
