"""Builds of a small cube on a real S3-compatible server: seconds, requests, bytes; and the same with kills.

A proxy counts. A killed build ends, by SIGKILL, when the server has been asked so often, at moments spread evenly over
an undisturbed build; another goes on with it from an empty data folder. One JSON line each, and a summary: digests,
what is left on the server, requests and bytes of both together against those of an undisturbed build.

    python benchmarks/remote_builds.py                       20 kills
    python benchmarks/remote_builds.py --kills 0 --rounds 5  only seconds, there and on the disk
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]
from servers import proxy, s3_environment, s3_server  # noqa: E402
from writers.ns1 import write_ns1  # noqa: E402

BUILD = """
import sys
from strfcube.builder import lease
lease.LEASE = float(sys.argv[4])
import strfcube
strfcube.build("ns1", raw=sys.argv[1], out=sys.argv[2], jobs=int(sys.argv[3]))
"""
BUCKET = "cubes"


def started(raw, out, jobs, lease, data):
    command = [sys.executable, "-c", BUILD, str(raw), str(out), str(jobs), str(lease)]
    return subprocess.Popen(command, env=os.environ | {"STRFCUBE_DATA_DIR": str(data)}, start_new_session=True)


def measured(*how):
    """Clock and processor seconds of one build, its processes included."""
    begin, process = time.perf_counter(), started(*how)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime


def digest_of(url):
    import strfcube

    return strfcube.open(url).attrs["digest"]


def listed():
    from strfcube.transport.urls import remote

    return set(remote(f"s3://{BUCKET}/lab").objects())


def emptied():
    from strfcube.transport.urls import remote

    remote(f"s3://{BUCKET}/lab").remove(sorted(listed()))


def asked(server):
    """Requests so far, but those of the lease: their number goes with seconds, and they are counted apart."""
    locks = sum(path.endswith("/lock") for _, path, _ in server.requests)
    return len(server.requests) - locks, server.bytes, locks


def counted(server, before):
    return tuple(now - then for now, then in zip(asked(server), before, strict=True))


def whole(server, raw, url, args, folder):
    """An undisturbed build: requests, bytes, digest, objects."""
    emptied()
    before = asked(server)
    seconds, cpu = measured(raw, url, args.jobs, args.lease, folder / "data")
    requests, size, locks = counted(server, before)
    print(json.dumps({"build": "undisturbed", "s": round(seconds, 2), "cpu_s": round(cpu, 2), "requests": requests,
                      "of_the_lease": locks, "MB": round(size / 1e6, 3)}), flush=True)  # fmt: skip
    return requests, size, digest_of(url), listed()


def killed(server, raw, url, args, folder, moment):
    """A build that is killed when the server has been asked so often, and one that goes on with it."""
    emptied()
    before = asked(server)
    process = started(raw, url, args.jobs, args.lease, folder / "first")
    while process.poll() is None and counted(server, before)[0] < moment:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = len(listed())
    before = before[0] + 1, *before[1:]  # that was one of ours
    shutil.rmtree(folder / "first", ignore_errors=True)
    measured(raw, url, args.jobs, args.lease, folder / "second")
    shutil.rmtree(folder / "second", ignore_errors=True)
    return *counted(server, before), left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2, help="undisturbed builds")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--lease", type=float, default=2.0, help="seconds until one that died is followed")
    args = parser.parse_args()
    url = f"s3://{BUCKET}/lab/cube.zarr"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = write_ns1(folder / "raw", units=args.units, repeats=6, drc_repeats=1, clip_seconds=0.4).raw
        (folder / "s3").mkdir()
        with s3_server(folder / "s3") as (port, upload), proxy(port) as server:
            os.environ.update(s3_environment(server.port))
            upload(folder / "s3" / "ready", BUCKET, "ready")
            for number in range(args.rounds):
                near = folder / f"near-{number}.zarr"
                seconds, cpu = measured(raw, near, args.jobs, args.lease, folder / "data")
                print(json.dumps({"build": "on the disk", "s": round(seconds, 2), "cpu_s": round(cpu, 2)}), flush=True)
                expected = digest_of(near)
                requests, size, digest, objects = whole(server, raw, url, args, folder)
                assert digest == expected
            wrong, rate, sent = 0, [], []
            for number in range(args.kills):
                moment = 1 + round((number + 0.5) * requests / args.kills)
                more, bytes_, locks, left = killed(server, raw, url, args, folder, moment)
                right, strays = digest_of(url) == expected, sorted(listed() ^ objects)
                wrong += not right or bool(strays)
                rate.append(more / requests)
                sent.append(bytes_ / size)
                print(json.dumps({"killed_at_request": moment, "objects_left": left, "same_digest": right,
                                  "strays": strays, "requests": round(rate[-1], 3), "of_the_lease": locks,
                                  "bytes": round(sent[-1], 3)}),
                      flush=True)  # fmt: skip
            if args.kills:
                print(json.dumps({"kills": args.kills, "wrong": wrong, "requests_median": statistics.median(rate),
                                  "requests_most": max(rate), "bytes_median": statistics.median(sent),
                                  "bytes_most": max(sent)}))  # fmt: skip
                assert not wrong


if __name__ == "__main__":
    main()
