"""Build a synthetic AA4 with one process, on dask clusters of two workers, and in four parts: seconds, digests.

    python benchmarks/cluster.py [--raw FOLDER] [--fraction 0.25] [--rounds 3]

Each way is run in turn, `rounds` times, each in a process of its own; the clock includes the start of the cluster. The
processor seconds are those of all processes. Parts run two at a time, as many as the other ways have workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import strfcube

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from writers.aa4 import write_aa4_full

WAYS = ("jobs=1", "jobs=2", "local:2", "LocalCluster", "parts")


def build(way: str, raw: Path, out: Path) -> None:
    if way.startswith("jobs"):
        strfcube.build("aa4", raw=raw, dt=5, out=out, jobs=int(way[-1]))
    elif way == "local:2":
        from strfcube.builder.cluster import connected

        with connected(way) as client:
            strfcube.build("aa4", raw=raw, dt=5, out=out, client=client)
    elif way == "LocalCluster":
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=60) as cluster,
            Client(cluster) as client,
        ):
            strfcube.build("aa4", raw=raw, dt=5, out=out, client=client)
    elif way == "parts":
        for pair in ((3, 1), (4, 2), (2, 4), (1, 3)):  # all are read after the first two, and then written
            started = [started_part(raw, out, f"{number}/4") for number in pair]
            assert not any(process.wait() for process in started)
        strfcube.build("aa4", raw=raw, dt=5, out=out, jobs=2, finalise=True)
    else:
        strfcube.build("aa4", raw=raw, dt=5, out=out, jobs=1, part=way)


def started_part(raw: Path, out: Path, part: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--way", part, "--raw", str(raw), "--out", str(out)])


def measure(way: str, raw: Path, out: Path) -> tuple[float, float, str]:
    """Clock and processor seconds of a way, and the digest of its cube."""
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--way", way, "--raw", str(raw), "--out", str(out)]
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, used = os.wait4(process, 0)
    seconds = time.perf_counter() - begin
    assert status == 0, way
    digest = json.loads((out / "zarr.json").read_text())["attributes"]["digest"]
    return seconds, used.ru_utime + used.ru_stime, digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder for the raw files, kept")
    parser.add_argument("--fraction", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        build(args.way, args.raw, args.out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        raw = (args.raw or Path(temporary)) / f"aa4-{args.fraction:g}"
        if not raw.exists():
            write_aa4_full(raw.with_suffix(".partial"), args.fraction)
            raw.with_suffix(".partial").rename(raw)
        found: dict[str, list[tuple[float, float, str]]] = {way: [] for way in args.ways}
        for number in range(args.rounds):
            for way in args.ways:
                found[way].append(measure(way, raw, Path(temporary, f"{number}-{way}.zarr")))
                seconds, used, digest = found[way][-1]
                load = os.getloadavg()[0]
                print(
                    f"{way:<13}{seconds:7.1f} s {used:7.1f} s of processors  load {load:.1f}  {digest[:12]}", flush=True
                )
    one = 0.0
    for way, runs in found.items():
        clock, used = (statistics.median(run[i] for run in runs) for i in (0, 1))
        one = one or clock
        print(f"{way:<13}{clock:7.1f} s, {one / clock:.2f} times as fast as the first; {used:.1f} s of processors")
    print(f"digests: {len({digest for runs in found.values() for *_, digest in runs})}")


if __name__ == "__main__":
    main()
