"""Build AA2 at full size: 494 cells, 245,454 trials in 38,000 small files, with invented spikes and sounds.

    python benchmarks/build_aa2.py STRUCTURE [--jobs 2] [--dt 5] [--keep FOLDER]

STRUCTURE is a folder with the real set's list of files (``files.tsv``), the wav that each stim file names
(``stim_assignment.json``) and its tables. Prints the seconds of each step and checks the published figures.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from writers.aa import TRIALS, write_aa2_full

import strfcube
from strfcube.pipelines.aa2 import AA2

AREAS = {"MLd": 143, "OV": 59, "CM": 37, "L1": 17, "L2a": 53, "L2b": 42, "L3": 48, "L": 29, "unknown": 66}


def parse_only(raw: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the pipeline alone: survey and read, in one process."""
    wall, cpu = time.perf_counter(), time.process_time()
    pipeline = AA2(raw)
    survey = pipeline.survey(lambda finding: None)
    trials = sum(len(item.row_size) for source in survey.sources for item in pipeline.read(source, print))
    assert TRIALS - 60 < trials < TRIALS, trials  # less the four files that no stim file goes with
    return time.perf_counter() - wall, time.process_time() - cpu


def cpu_seconds() -> float:
    """CPU seconds of this process and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    """Write the tree, parse it, build it, check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structure", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dt", type=float, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the raw tree, used again if it is there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raw = given.keep or Path(scratch, "raw")
        if not raw.is_dir():
            start = time.perf_counter()
            write_aa2_full(raw, given.structure)
            print(f"write the raw tree     {time.perf_counter() - start:6.2f} s")
        print("parse, one process     {:6.2f} s ({:.2f} s CPU)".format(*parse_only(raw)))
        start, before = time.perf_counter(), cpu_seconds()
        store = strfcube.build("aa2", raw=raw, dt=given.dt, out=Path(scratch, "aa2.zarr"), jobs=given.jobs)
        wall = time.perf_counter() - start
        print(f"build, {given.jobs} workers       {wall:6.2f} s ({cpu_seconds() - before:.2f} s CPU)")
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(f"largest process        {peak / 1024:6.0f} MB")
        files = [path for path in Path(store).rglob("*") if path.is_file()]
        print(f"store                  {sum(f.stat().st_size for f in files) / 1e6:6.1f} MB in {len(files)} files")
        ds = strfcube.open(store)
        pairs = int((ds["n_repeats"] > 0).sum())
        share = pairs / ds["n_repeats"].size
        print(f"S {ds.sizes['stim']}, N {ds.sizes['neuron']}, {pairs} pairs ({share:.1%})")
        assert (ds.sizes["stim"], ds.sizes["neuron"], pairs) == (117, 494, 18902)
        assert Counter(ds["area"].values.tolist()) == AREAS
        assert Counter(ds["stim_type"].values.tolist()) == {"conspecific": 72, "flatrip": 20, "songrip": 25}
        assert len(np.unique(ds["animal"].values.astype(str))) == 57


if __name__ == "__main__":
    main()
