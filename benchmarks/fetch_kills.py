"""Kill ``strfcube build aa4 --yes`` at random moments of its fetch, its unpacking and its build, and give it again.

Usage: ``python benchmarks/fetch_kills.py [--kills 20] [--fraction 0.05] [--notes 95] [--rate 60]``. Two birds of AA4
with invented spikes, about 200 MB packed (most of them a file of noise beside the units, which has to be fetched and
unpacked but not parsed), are published on loopback. They are built once undisturbed, then from nothing for each kill.
Kills take turns over the three stages, at a random moment of each. Prints a line a kill: when it came, what was going
on, bytes sent in all over the size of the set, and whether the cube has the digest of the undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fetching"))

from services import PASSWORD, USER, Services
from writers.aa4 import write_aa4_full

import strfcube
from strfcube import catalog
from strfcube.fetching import ledger

BIRDS = ("BlaBro09xxF", "LblBlu2028M")
STAGES = ("fetch", "unpack", "build")


@dataclass(frozen=True)
class Round:
    """One kill: seconds into the stage it was meant for, the one it fell into, bytes sent over the size, the digest."""

    after: float
    stage: str
    ratio: float
    same: bool


def publish(services, folder, make):
    """Put the archives of some birds on the server; `make` writes their raw folder. Returns their size."""
    make(folder)
    entry, size = catalog.entry("aa4"), 0
    for file in entry.files:
        bird = file.name.removesuffix(".tar.gz")
        if bird in BIRDS and (folder / bird).is_dir():
            packed = folder / file.name
            with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
                archive.add(folder / bird, bird)
            services.add(file.url, packed.read_bytes())
            size += packed.stat().st_size
            packed.unlink()
    return size


def command(data, jobs):
    """Start the build, in a data folder of its own; gives the process and the path of its cube."""
    environment = os.environ | {"STRFCUBE_DATA_DIR": str(data), "DEEPSTRF_DATA_DIR": str(data / "none")}
    out = data / "cube.zarr"
    only = f"animal={','.join(BIRDS)}"
    process = subprocess.Popen(
        [sys.executable, "-m", "strfcube.cli.main", "build", "aa4", "--only", only, "--yes", "--accept-terms",
         "--out", str(out), "--jobs", str(jobs)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, out


def finish(data, jobs):
    """Build to the end; gives the digest."""
    process, out = command(data, jobs)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return strfcube.open(out).attrs["digest"]


def stage_of(data):
    """Where a build is, or where a killed one was, by what lies in its folders."""
    if (data / "cube.zarr").exists():
        return "done"
    if (data / "cube.zarr.building").exists():
        return "build"
    work = data / "raw" / "aa4" / ledger.WORK
    if any(work.glob("*/*unpack*")):
        return "unpack"
    return "fetch" if any(work.glob("*/*.part")) else "start"


def until(process, data, stage):
    """Wait until a build has come to a stage, or is past it; gives the time."""
    order = ("start", *STAGES, "done")
    while process.poll() is None and order.index(stage_of(data)) < order.index(stage):
        time.sleep(0.01)
    return time.perf_counter()


def time_stages(data, jobs):
    """Build undisturbed; gives the digest, and the seconds of each stage."""
    process, out = command(data, jobs)
    begun = [until(process, data, stage) for stage in (*STAGES, "done")]
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    seconds = {stage: after - before for stage, before, after in zip(STAGES, begun, begun[1:], strict=False)}
    return strfcube.open(out).attrs["digest"], seconds


def kill_and_resume(services, scratch, size, expected, stage, seconds, jobs, chance):
    """One round from nothing: a kill at a random moment of a stage that takes so long, then the same command."""
    data = scratch / "data"
    shutil.rmtree(data, ignore_errors=True)
    services.log.clear()
    process, _ = command(data, jobs)
    until(process, data, stage)
    after = chance.uniform(0, seconds)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    found = stage_of(data)
    digest = finish(data, jobs)
    sent = sum(r.sent for r in services.log if ".tar.gz" in r.path)
    return Round(after, found, sent / size, digest == expected)


def account(services):
    """The environment of whoever fetches from the services."""
    return {"STRFCUBE_MIRRORS": services.mirrors, "CRCNS_USERNAME": USER, "CRCNS_PASSWORD": PASSWORD}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--fraction", type=float, default=0.05, help="of the units of each bird")
    parser.add_argument("--notes", type=float, default=95, help="MB of noise beside them, in each archive")
    parser.add_argument("--rate", type=float, default=60, help="MB/s that the server sends a file with")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    services, chance = Services(), random.Random(args.seed)
    os.environ.update(account(services))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def make(raw):
            write_aa4_full(raw, args.fraction)
            for bird in BIRDS:
                (raw / bird / "notes.bin").write_bytes(random.Random(bird).randbytes(round(args.notes * 1e6)))

        size = publish(services, scratch / "made", make)
        shutil.rmtree(scratch / "made")
        print(f"{size / 1e6:.0f} MB published")
        services.fault("slow", ".tar.gz", 10**6, (1 << 16) / (args.rate * 1e6))
        expected, seconds = time_stages(scratch / "data", args.jobs)
        told = ", ".join(f"{stage} {took:.1f} s" for stage, took in seconds.items())
        print(f"undisturbed: {told}", flush=True)
        done = []
        for number in range(args.kills):
            stage = STAGES[number % len(STAGES)]
            r = None
            while r is None or r.stage == "done":  # what had ended before its kill is no kill
                r = kill_and_resume(services, scratch, size, expected, stage, seconds[stage], args.jobs, chance)
            done.append(r)
            digest = "same digest" if r.same else "ANOTHER DIGEST"
            when = f"killed {r.after:4.1f} s into {stage} (in {r.stage})"
            print(f"{number + 1:>3}: {when}, {r.ratio:.4f} x sent, {digest}", flush=True)
        most, same = max(r.ratio for r in done), sum(r.same for r in done)
        stages = {s: sum(r.stage == s for r in done) for s in dict.fromkeys(r.stage for r in done)}
        print(f"{same} of {len(done)} with the same digest; at most {most:.4f} times the size sent; stages: {stages}")


if __name__ == "__main__":
    main()
