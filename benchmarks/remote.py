"""A cube of NS1's size on a real S3-compatible server and on a plain HTTP server, with a delay for every request.

Prints one JSON line each: seconds to the first batch of a new process after imports, an epoch from the disk, the first
epoch from the server, and one from a cache of chunks; and the requests that each made.

    python benchmarks/remote.py                    20 ms a request
    python benchmarks/remote.py --delay 50 --size aa2
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
from epoch import DATASETS, write_cube  # noqa: E402

FIRST = """
import sys, time
import torch, xarray, zarr, dask.array, obstore
import strfcube
from strfcube import CubeDataset
import strfcube.transport.urls, strfcube.cube.lazy_array, strfcube.cube.zarr_store
begin = time.perf_counter()
for batch in CubeDataset(sys.argv[1], cache="none").loader(int(sys.argv[2]), shuffle=True, seed=0):
    break
print(time.perf_counter() - begin)
"""


class Elsewhere:
    """A server in a process of its own, so that it does not take turns with what is measured."""

    def __init__(self, kind, what, delay):
        self._here, there = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, kind, what, delay))

    def __enter__(self):
        self._process.start()
        self.port = self._here.recv()
        return self

    def __exit__(self, *_):
        self._here.send("stop")
        self._process.join()

    def asked(self):
        """Requests since this was asked last."""
        self._here.send("count")
        return self._here.recv()


def serve(pipe, kind, what, delay):
    import servers

    with getattr(servers, kind)(what, delay=delay) as server:
        pipe.send(server.port)
        while pipe.recv() == "count":
            pipe.send(len(server.requests))
            server.requests.clear()


def first_batch(url, batch):
    done = subprocess.run([sys.executable, "-c", FIRST, url, str(batch)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def epoch(loader):
    begin = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begin


def measure(kind, url, near, server, batch, times):
    from strfcube import CubeDataset

    firsts = []
    for _ in range(times):
        server.asked()
        firsts.append(first_batch(url, batch))
    opened = server.asked()
    local = CubeDataset(near, cache="none").loader(batch, shuffle=True, seed=0)
    epoch(local)
    rows = {"local": [], "remote": [], "cached": [], "local ram": [], "ram": []}
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        cached = CubeDataset(url, cache="none", cache_dir=folder).loader(batch, shuffle=True, seed=0)
        epoch(cached)
        kept = CubeDataset(url, cache="ram").loader(batch, shuffle=True, seed=0)
        epoch(kept)
        near_kept = CubeDataset(near, cache="ram").loader(batch, shuffle=True, seed=0)
        epoch(near_kept)
        for _ in range(times):
            rows["local"].append(epoch(local))
            server.asked()
            far = CubeDataset(url, cache="none").loader(batch, shuffle=True, seed=0)
            counts["open"] = server.asked()
            rows["remote"].append(epoch(far))
            counts["remote"] = server.asked()
            rows["cached"].append(epoch(cached))
            counts["cached"] = server.asked()
            rows["local ram"].append(epoch(near_kept))
            rows["ram"].append(epoch(kept))
            counts["ram"] = server.asked()
    took = {name: round(statistics.median(values), 3) for name, values in rows.items()}
    print(json.dumps({"server": kind, "first_batch_s": round(statistics.median(firsts), 3), "requests_to_it": opened,
                      "epoch_s": took, "remote_to_local": round(took["remote"] / took["local"], 2),
                      "cached_to_local": round(took["cached"] / took["local"], 2), "requests": counts}),
          flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=20, help="ms that a request takes")
    parser.add_argument("--size", choices=DATASETS, default="ns1")
    parser.add_argument("--times", type=int, default=5, help="of which the median is printed")
    given = parser.parse_args()
    from servers import s3_environment, s3_server

    with tempfile.TemporaryDirectory() as folder:
        near = Path(folder) / "cubes" / "cube.zarr"
        near.parent.mkdir()
        write_cube(str(near), DATASETS[given.size])
        batch, delay = DATASETS[given.size].batch, given.delay / 1000
        data = Path(folder) / "s3"
        data.mkdir()
        with s3_server(data) as (port, upload), Elsewhere("proxy", port, delay) as server:
            upload(near, "cubes", "cube.zarr")
            os.environ.update(s3_environment(server.port))
            measure("S3", "s3://cubes/cube.zarr", str(near), server, batch, given.times)
        with Elsewhere("static", near.parent, delay) as server:
            measure("HTTP", f"http://127.0.0.1:{server.port}/cube.zarr", str(near), server, batch, given.times)


if __name__ == "__main__":
    main()
