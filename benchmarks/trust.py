"""Kill builds at many moments, and let the same command go on: the right digest, nothing left behind, no traceback.

    python benchmarks/trust.py [--kills 120] [--events 200] [--seed 0]

Each of a round of jobs (a build of every pipeline's invented raw files, a rebin, a pool, the replacing of a cube) is
started as a process of its own and killed at a random moment: all of its processes, the parent alone, one worker, by
SIGTERM, by SIGINT, or twice; then it is given again, now and then with another ``--jobs``, until it ends. The second
table kills at a random file-system event (a write, rename, removal or fsync of the parent) and then cuts every file
to what an fsync covered, as a power cut may. Prints how many ended with the right digest, left something, or showed a
traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from writers import aa, aa4, ac1, nat4, ns1

import strfcube

RUN = """
import sys, json
job = json.loads(sys.argv[1])
if job.get("event") is not None:
    import os, signal
    def states():
        for top in (job["out"], job["out"] + ".building"):
            for folder, _, names in os.walk(top):
                for name in names:
                    path = os.path.join(folder, name)
                    yield path, os.stat(path)
    count, durable, reached = [0], {state.st_ino: state.st_size for _, state in states()}, job["event"]
    def cut():
        for path, state in states():
            os.truncate(path, min(state.st_size, durable.get(state.st_ino, 0)))
        os.kill(os.getpid(), signal.SIGKILL)
    def watched(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == reached:
                cut()
            result = real(*args, **kwargs)
            if name == "fsync":
                state = os.fstat(args[0])
                durable[state.st_ino] = state.st_size
            return result
        setattr(os, name, call)
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
        watched(name)
try:
    import strfcube
    from strfcube.builder.save import save as write
    how = {"jobs": job["jobs"], "force": job.get("force", False)}
    if job["kind"] == "build":
        strfcube.build(job["name"], raw=job["raw"], out=job["out"], **job["flags"], **how)
    elif job["kind"] == "rebin":
        strfcube.rebin(job["raw"], 10, out=job["out"], **how)
    else:
        write(strfcube.open(job["raw"]), job["out"])
except KeyboardInterrupt:
    sys.exit("interrupted")
except Exception as error:
    if not isinstance(error, strfcube.StrfcubeError):
        raise
    sys.exit(str(error))
print(count[0] if job.get("event") is not None else 0)
"""
HOW = ("all", "parent", "one worker", "TERM", "INT", "twice", "other --jobs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["STRFCUBE_DATA_DIR"] = str(Path(scratch, "data"))
        jobs = prepare(Path(scratch))
        shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
        table("kill", [shown(kill(jobs, n, rng)) for n in range(args.kills)])
        table("file-system event, files cut", [shown(event(jobs, n, rng)) for n in range(args.events)])
        left = set(os.listdir("/dev/shm")) - shared if shared else set()
        print(f"names left in /dev/shm: {len([name for name in left if 'loky' in name or 'strfcube' in name])}")


def prepare(folder):
    """Jobs, each with the digest that it has to end with and the seconds that it takes."""
    raws = {"aa1": aa.write_aa1, "aa2": aa.write_aa2, "aa4": aa4.write_aa4, "ac1": ac1.write, "nat4": nat4.write_nat4,
            "ns1": ns1.write_ns1}  # fmt: skip
    jobs = []
    for name, write in raws.items():
        write(folder / name)
        flags = {"only": {"signal_type": ["spikes"]}} if name == "ac1" else {}
        jobs.append({"kind": "build", "name": name, "raw": str(folder / name), "flags": flags})
    whole = strfcube.build("aa1", raw=folder / "aa1", out=folder / "source.zarr", jobs=0)
    jobs += [{"kind": "rebin", "raw": whole, "name": "rebin"}, {"kind": "pool", "raw": whole, "name": "pool"}]
    jobs.append({"kind": "build", "name": "aa1", "raw": str(folder / "aa1"), "flags": {"dt": 10}, "old": whole})
    for number, job in enumerate(jobs):
        job |= {"out": str(folder / f"out{number}" / "cube.zarr"), "jobs": 2, "force": "old" in job}
        begun = time.perf_counter()
        code, said = finish(begin(job))
        if code:
            sys.exit(f"{job['name']}: {said}")
        job |= {"seconds": time.perf_counter() - begun, "digest": digest(job["out"])}
    return jobs


def begin(job):
    Path(job["out"]).parent.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", RUN, json.dumps(job)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=600)
    return process.returncode, out + err


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


def clean(job):
    shutil.rmtree(Path(job["out"]).parent, ignore_errors=True)
    Path(job["out"]).parent.mkdir()
    if job.get("old"):
        shutil.copytree(job["old"], job["out"])


def children(pid):
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def kill(jobs, number, rng):
    """One job, killed in one way at one moment, and given again until it ends."""
    job, how = jobs[number % len(jobs)], HOW[number // len(jobs) % len(HOW)]
    clean(job)
    said, workers = [], []
    for round_ in range(3 if how == "twice" else 2):
        last = round_ == (2 if how == "twice" else 1)
        process = begin(job | ({"jobs": 1} if last and how == "other --jobs" else {}))
        if not last:
            time.sleep(rng.uniform(0.1, 1.0) * job["seconds"])
            mine = children(process.pid)
            workers += mine
            if how == "one worker" and mine:
                hit(rng.choice(mine), signal.SIGKILL)
            else:
                name = {"TERM": signal.SIGTERM, "INT": signal.SIGINT}.get(how, signal.SIGKILL)
                for pid in [process.pid, *(mine if how == "all" else ())]:
                    hit(pid, name)
        code, text = finish(process)
        said.append(text)
    return how, outcome(job, code, said, workers)


def event(jobs, number, rng):
    """One job, ended at one of its file-system events, its files cut to what was forced to the disk."""
    job = jobs[number % len(jobs)]
    clean(job)
    if "events" not in job:
        code, text = finish(begin(job | {"event": 10**9}))
        job["events"] = int(text.split()[-1])
        clean(job)
    _, first = finish(begin(job | {"event": rng.randint(1, job["events"])}))
    if job.get("old") and not Path(job["out"]).exists():
        return job["name"], "no cube"
    code, text = finish(begin(job))
    return job["name"], outcome(job, code, [first, text], [])


def outcome(job, code, said, workers):
    if any("Traceback" in text for text in said):
        return "traceback"
    published = job["kind"] == "pool" and "something already" in said[-1]  # the kill came after its end
    if (code and not published) or not Path(job["out"]).exists():
        return f"failed: {said[-1].strip()[-200:]}"
    if digest(job["out"]) != job["digest"] or strfcube.verify(job["out"]):
        return "wrong digest"
    if sorted(p.name for p in Path(job["out"]).parent.iterdir()) != ["cube.zarr"] or any(map(alive, workers)):
        return "left behind"
    return "right"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def hit(pid, name):
    with suppress(ProcessLookupError):  # it had ended
        os.kill(pid, name)


def shown(result):
    print(": ".join(result), file=sys.stderr, flush=True)
    return result


def table(title, results):
    print(f"\n{title:<32}{'tries':>7}{'right':>7}  others")
    for how in dict.fromkeys(how for how, _ in results):
        found = Counter(result for each, result in results if each == how)
        others = ", ".join(f"{count} {what}" for what, count in found.items() if what != "right")
        print(f"{how:<32}{sum(found.values()):>7}{found['right']:>7}  {others}")


if __name__ == "__main__":
    main()
