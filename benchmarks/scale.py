"""Build and read cubes of up to 70,000 neurons, from a pipeline that draws its records: time, memory, files.

    python benchmarks/scale.py [--cases small wide ...] [--folder FOLDER] [--jobs 2] [--sources 2000] [--keep]

Each case is one row: neurons x stimuli x repeats, and the fraction of the pairs that were recorded. Spikes are drawn at
2 Hz from a seed and the number of the neuron, in sounds of 0.5 s (100 bins), so that a run is bound by the number of
trials and not by what is in them. Building and reading each run in a process of their own; memory is what the system
says was held at most (VmHWM). A case takes about 110 bytes of disk a trial while it is built.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

import strfcube
from strfcube.loading import CubeView
from strfcube.records import Length, Neuron, Option, Pipeline, ReadyMade, Source, Stimulus, Survey, Trials

SECONDS, RATE, BANDS = 0.5, 2.0, 18


@dataclass(frozen=True)
class Case:
    """What is built."""

    neurons: int
    stimuli: int
    repeats: int
    coverage: float

    def __str__(self) -> str:
        return f"{self.neurons:,} x {self.stimuli:,} x {self.repeats} at {100 * self.coverage:g} %"


CASES = {
    "small": Case(1_401, 170, 10, 0.74),
    "small-sparse": Case(1_401, 170, 10, 0.05),
    "ten": Case(14_000, 170, 10, 0.74),
    "ten-sparse": Case(14_000, 170, 10, 0.05),
    "fifty": Case(70_000, 170, 10, 0.74),
    "fifty-sparse": Case(70_000, 170, 10, 0.05),
    "wide": Case(70_000, 1_000, 1, 0.05),
}


def noise(number: int) -> np.ndarray:
    """The spectrogram of a sound that nobody made."""
    return np.random.default_rng(number).random((BANDS, round(SECONDS * 200)), np.float32)


class Drawn(Pipeline):
    """Neurons that each heard a random part of the stimuli."""

    options: ClassVar[tuple[Option, ...]] = (
        Option("neurons", int, 100, "how many"),
        Option("stimuli", int, 10, "how many"),
        Option("repeats", int, 2, "of each pair"),
        Option("coverage", float, 0.5, "of all pairs"),
        Option("sources", int, 10, "that the neurons are shared out among"),
    )

    def _names(self):
        return [f"stim{s:05d}" for s in range(self.settings["stimuli"])]

    def survey(self, report):
        count, sources = self.settings["neurons"], min(self.settings["sources"], self.settings["neurons"])
        edges = np.linspace(0, count, sources + 1).astype(int).tolist()
        meta = {"animal": "x", "species": "none", "area": "A1", "region": "A1", "area_label": "a1",
                "signal_type": "spikes", "units": "count"}  # fmt: skip
        stimuli = [
            Stimulus(name, Length(SECONDS, "table"), spectrogram=partial(noise, s),
                     meta={"stim_name": name, "stim_type": f"t{s % 5}", "stim_category": "other"})
            for s, name in enumerate(self._names())
        ]  # fmt: skip
        neurons = [
            Neuron(f"n{n:06d}", f"site{k:05d}", {"cell_id": f"n{n:06d}", "depth": n % 1000} | meta)
            for k in range(sources) for n in range(edges[k], edges[k + 1])
        ]  # fmt: skip
        sites = [Source(f"site{k:05d}", (edges[k], edges[k + 1])) for k in range(sources)]
        return Survey(stimuli, neurons, sites, ReadyMade(tuple(np.geomspace(500, 8000, BANDS).tolist()), 0.005, "1"))

    def read(self, source, report):
        names, repeats = self._names(), self.settings["repeats"]
        for n in range(*source.payload):
            rng = np.random.default_rng((7, n))
            heard = np.flatnonzero(rng.random(len(names)) < self.settings["coverage"]).tolist()
            sizes = rng.poisson(RATE * SECONDS, len(heard) * repeats)
            yield Trials(
                f"n{n:06d}", [names[s] for s in heard for _ in range(repeats)], np.tile(np.arange(repeats), len(heard)),
                sizes, rng.uniform(0, SECONDS, int(sizes.sum())), 0.0, SECONDS, source.id,
            )  # fmt: skip


def held(pid: int | str = "self") -> int:
    """The most memory that a process has held so far, in bytes; 0 once it has ended."""
    with suppress(OSError, StopIteration):
        line = next(t for t in Path(f"/proc/{pid}/status").read_text().splitlines() if t.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    return 0


def children() -> list[str]:
    """Worker processes of this one."""
    tasks = Path("/proc/self/task")
    return [c for t in tasks.iterdir() for c in (t / "children").read_text().split()]


def used() -> float:
    """Seconds of processor time of this process and those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(r.ru_utime + r.ru_stime for r in both)


def build(case: Case, folder: Path, jobs: int, sources: int) -> dict[str, float]:
    """Build; run in a process of its own."""
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    most, spools, done = [0], [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            with suppress(OSError):
                most[0] = max([most[0], *map(held, children())])

    threading.Thread(target=watch, daemon=True).start()
    begin, stages = time.perf_counter(), {}

    def progress(stage: str, at: int, total: int) -> None:
        if stage == "write" and stage not in stages:
            with suppress(OSError):
                spools[0] = sum(len(files) for _, _, files in os.walk(folder / "cube.zarr.building"))
        stages[stage] = time.perf_counter() - begin

    pipeline = Drawn(raw, neurons=case.neurons, stimuli=case.stimuli, repeats=case.repeats, coverage=case.coverage,
                     sources=sources)  # fmt: skip
    path = strfcube.build(pipeline, dt=5, out=folder / "cube.zarr", jobs=jobs, progress=progress, audio=False,
                          spec="published")  # fmt: skip
    seconds = time.perf_counter() - begin
    done.set()
    files = [f for f in Path(path).rglob("*") if f.is_file()]
    return {
        "build_s": seconds, "build_cpu_s": used(), "parent_mb": held() / 1e6, "worker_mb": most[0] / 1e6,
        "work_files": spools[0], "files": len(files), "store_mb": sum(f.stat().st_size for f in files) / 1e6,
    } | {f"{stage}_until_s": value for stage, value in stages.items()}  # fmt: skip


def read(folder: Path) -> dict[str, float]:
    """Open, select, take a batch; run in a process of its own."""
    found: dict[str, float] = {}

    def timed(name: str, do):
        begin = time.process_time()
        value = do()
        found[name] = time.process_time() - begin
        return value

    import dask.array  # noqa: F401
    import zarr  # noqa: F401

    ds = timed("open_s", lambda: strfcube.open(folder / "cube.zarr"))
    found["pairs"], found["trials"] = int((ds.n_repeats > 0).sum()), int(ds.n_repeats.sum(dtype="i8"))
    found["open_mb"] = held() / 1e6
    labels = ds["neuron"].values[::7]
    chosen = timed("sel_labels_s", lambda: ds.strf.sel(neuron=labels.tolist()))
    timed("isin_s", lambda: ds.isel(neuron=np.isin(ds["neuron"].values.astype(str), labels.astype(str))))
    timed("sel_area_s", lambda: ds.strf.sel(stim_type="t1"))
    few = chosen.isel(neuron=slice(0, 20), stim=slice(0, 5))
    timed("psth_of_20_s", lambda: few.strf.psth().values)
    timed("quality_of_20_s", lambda: few.strf.quality().load())
    found["select_mb"] = held() / 1e6
    view = timed("view_s", lambda: CubeView(folder / "cube.zarr"))
    part = timed("view_sel_s", lambda: view.sel(neuron=labels.tolist()))
    found["view_pickle_mb"], found["part_pickle_mb"] = (len(pickle.dumps(v)) / 1e6 for v in (view, part))
    batch = timed("batch_s", lambda: view.batch([0]))
    found["batch_mb"] = sum(v.nbytes for v in batch.values() if isinstance(v, np.ndarray) and v.dtype != object) / 1e6
    del batch
    if hasattr(view._reading, "layout"):
        ragged = view.using(layout="ragged")
        timed("ragged_prepare_s", lambda: ragged._reader)
        batch = timed("ragged_s", lambda: ragged.batch([0]))
        found["ragged_mb"] = (
            sum(v.nbytes for v in batch.values() if isinstance(v, np.ndarray) and v.dtype != object) / 1e6
        )
    found["read_mb"] = held() / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["small", "ten", "ten-sparse", "wide"])
    parser.add_argument("--folder", type=Path, help="for the cubes; default: a temporary one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sources", type=int, default=2000, help="that the neurons are shared out among")
    parser.add_argument(
        "--keep", action="store_true", help="leave the cubes in the folder, and read those that are there"
    )
    parser.add_argument("--stage", choices=("build", "read"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        case, folder = CASES[args.cases[0]], args.folder
        print(json.dumps(build(case, folder, args.jobs, args.sources) if args.stage == "build" else read(folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.cases:
            folder = (args.folder or Path(temporary)) / name
            found = {}
            for stage in ("read",) if (folder / "cube.zarr").exists() else ("build", "read"):
                command = [sys.executable, __file__, "--cases", name, "--folder", str(folder), "--stage", stage,
                           "--jobs", str(args.jobs), "--sources", str(args.sources)]  # fmt: skip
                found |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{CASES[name]}: " + ", ".join(f"{k} {v:,.4g}" for k, v in found.items()), flush=True)
            if not args.keep:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
