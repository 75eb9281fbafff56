"""Build a synthetic AA4 of a tenth of the real size and of the real size, at dt 5 ms: seconds, memory, files.

    python benchmarks/build_aa4.py [--raw FOLDER] [--jobs 2] [--fractions 0.1 1]

The raw files (3.6 GB at the real size) and the cubes lie in FOLDER, a temporary one where none is given. The
reference's constructor takes 262 s for as much. Ten times the units should take ten times as long and no more memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import xarray as xr

import strfcube

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from writers.aa4 import write_aa4_full

REFERENCE_SECONDS = 262


def tree(pid: int) -> list[int]:
    """Process ids of a process and all of its descendants."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def memory(pid: int, name: str) -> int:
    """A field of a process's memory map in bytes: Rss, or Pss, which shares shared pages out; 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return 0


@contextmanager
def watched():
    """Sample the memory of this process and its workers; gives the peaks in MB: largest process, all together."""
    peaks = {"largest": 0.0, "together": 0.0}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.1):
            pids = tree(os.getpid())
            peaks["largest"] = max(peaks["largest"], max(memory(p, "Rss") for p in pids) / 1e6)
            peaks["together"] = max(peaks["together"], sum(memory(p, "Pss") for p in pids) / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield peaks
    done.set()
    thread.join()


def measure(folder: Path, fraction: float, jobs: int) -> None:
    raw, cube = folder / f"aa4-{fraction:g}", folder / f"aa4-{fraction:g}.zarr"
    if not raw.exists():
        begin = time.perf_counter()
        partial = raw.with_suffix(".partial")
        figures = write_aa4_full(partial, fraction)
        partial.rename(raw)
        print(f"wrote {figures} in {time.perf_counter() - begin:.1f} s")
    stages: dict[str, float] = {}
    with watched() as peaks:
        begin = time.perf_counter()

        def progress(stage: str, done: int, total: int) -> None:
            stages[stage] = time.perf_counter() - begin

        strfcube.build("aa4", raw=raw, dt=5, out=cube, jobs=jobs, force=True, progress=progress)
        seconds = time.perf_counter() - begin
    files = [f for f in cube.rglob("*") if f.is_file()]
    ds = xr.open_zarr(cube)
    faster = REFERENCE_SECONDS * fraction / seconds
    until = ", ".join(f"{stage} until {value:.1f} s" for stage, value in stages.items())
    megabytes = sum(f.stat().st_size for f in files) / 1e6
    print(f"fraction {fraction:g}: {seconds:.1f} s on {jobs} workers ({until})")
    print(f"  {faster:.1f} times as fast as the reference's constructor")
    print(f"  peak memory: largest process {peaks['largest']:.0f} MB, all together {peaks['together']:.0f} MB")
    print(f"  {dict(ds.sizes)}, {int((ds.n_repeats > 0).sum())} pairs, {int(ds.n_repeats.sum())} trials")
    print(f"  {len(files)} files, {megabytes:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder for raw files and cubes, kept")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 1.0])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.raw or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for fraction in args.fractions:
            measure(folder, fraction, args.jobs)


if __name__ == "__main__":
    main()
