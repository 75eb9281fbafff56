"""Build NS1 from its original files, and read it, beside the limit of this machine measured in the same run.

Usage: ``python benchmarks/build_ns1.py [--raw FOLDER] [--jobs 2] [--runs 3]``. Prints a small table. Each build is a
process of its own; the best of the runs counts. Peak memory is that of the largest process, and of all together.
The limit of reading is blosc alone: the same chunks, decoded one after the other into memory that is already there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from numcodecs import blosc

import strfcube

BUILD = "import sys, strfcube; strfcube.build('ns1', raw=sys.argv[1], out=sys.argv[2], dt=5, jobs=int(sys.argv[3]))"
OPEN = """
import sys, time, dask.array, strfcube, zarr
started = time.perf_counter()
strfcube.open(sys.argv[1])
print(time.perf_counter() - started)
"""
PARTS = ("response", "stimulus", "audio", "trials")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("STRFCUBE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--raw", type=Path, default=data / "ns1")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        stores = [str(Path(scratch) / f"{run}.zarr") for run in range(args.runs)]
        builds = [build(args.raw, store, args.jobs) for store in stores]
        opens = [float(subprocess.check_output([sys.executable, "-c", OPEN, s], text=True)) for s in stores]
        reads = [read(store) for store in stores]
        decoded, limit = decode(stores[0])
        size = {part: folder_bytes(Path(stores[0]) / part) for part in PARTS}
        whole = folder_bytes(Path(stores[0]))
    bare = whole - size["audio"]
    seconds = min(b[0] for b in builds)
    rows = [
        (f"build, {args.jobs} processes", f"{seconds:.1f} s"),
        ("  the same, Python and imports included", f"{min(b[1] for b in builds):.1f} s"),
        ("  peak memory, largest process", f"{max(b[2] for b in builds) / 1e6:.0f} MB"),
        ("  peak memory, all processes", f"{max(b[3] for b in builds) / 1e6:.0f} MB"),
        ("open, first in a process", f"{min(opens) * 1e3:.0f} ms"),
        ("read all responses, as float32", f"{min(reads) * 1e3:.0f} ms"),
        (f"  limit: blosc alone, {decoded / 1e6:.0f} MB", f"{limit * 1e3:.0f} ms = {decoded / limit / 1e9:.1f} GB/s"),
        ("store", f"{whole / 1e6:.1f} MB"),
        ("  without audio", f"{bare / 1e6:.1f} MB"),
        ("  without audio and spikes", f"{(bare - size['trials']) / 1e6:.1f} MB"),
        *((f"  {part}", f"{size[part] / 1e6:.1f} MB") for part in PARTS),
    ]
    for name, value in rows:
        print(f"{name:<42}{value}")


def build(raw, store, jobs):
    """Seconds of the build and of its process, and peak bytes of the largest process and of all together."""
    code = f"import time, strfcube.build, zarr; t = time.perf_counter(); {BUILD}; print(time.perf_counter() - t)"
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(raw), store, str(jobs)], stdout=subprocess.PIPE, text=True
    )
    peaks, together = {}, 0
    while process.poll() is None:
        now = {pid: memory(pid) for pid in family(process.pid)}
        together = max(together, sum(now.values()))
        peaks |= {pid: max(size, peaks.get(pid, 0)) for pid, size in now.items()}
        time.sleep(0.02)
    total = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"the build of {store} failed")
    return float(process.stdout.read()), total, max(peaks.values()), together


def family(pid):
    """A process and its children (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [pid, *itertools.chain.from_iterable(family(int(child)) for child in children.read_text().split())]
    except OSError:
        return []


def memory(pid):
    """Resident bytes of a process; shared pages count for each."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def read(store):
    started = time.perf_counter()
    assert strfcube.open(store)["response"].values.dtype == np.float32
    return time.perf_counter() - started


def decode(store):
    """Bytes of the response's chunks, and seconds to decode them with blosc into memory that is there."""
    array = zarr.open_array(store, path="response", mode="r")
    size = int(np.prod(array.chunks)) * array.dtype.itemsize
    parts = []
    for shard in (Path(store) / "response" / "c").rglob("*"):
        if shard.is_file():
            data = shard.read_bytes()
            slots = int(np.prod([s // c for s, c in zip(array.shards, array.chunks, strict=True)]))
            index = np.frombuffer(data[-4 - 16 * slots : -4], "<u8").reshape(-1, 2)
            parts += [data[start : start + length] for start, length in index.tolist() if length < len(data)]
    out = np.empty(size, np.uint8)
    blosc.decompress(parts[0], out)
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        for part in parts:
            blosc.decompress(part, out)
        best = min(best, time.perf_counter() - started)
    return size * len(parts), best


def folder_bytes(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


if __name__ == "__main__":
    main()
