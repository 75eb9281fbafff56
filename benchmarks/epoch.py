"""An epoch of `CubeDataset`, beside the limit that the machine sets.

The limit is a raw decode of the same chunks into preallocated memory, then every float32 batch and its mask written
once; where decoded bytes stay in memory (cache "ram"), every batch and mask written once from bytes. Cubes have the
sizes of the published sets (see DATASETS) and are written here with invented counts.

    python benchmarks/epoch.py                     all sizes
    python benchmarks/epoch.py ns1 aa2             some
    python benchmarks/epoch.py --store CUBE        a cube of one's own (batch 8)
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIGURES = {"ns1": 0.083, "aa2": 1.1, "nat4": 2.5, "aa4": 4.4}  # s an epoch from memory, of the system to beat


@dataclass(frozen=True)
class Size:
    stim: int
    neuron: int
    bins: tuple[int, int]
    repeats: tuple[int, int]
    batch: int
    groups: int = 1  # animals; a group's neurons heard the same stimuli
    heard: float = 1.0
    rate: float = 0.07
    single: int = 0  # stimuli presented once


DATASETS = {
    "ns1": Size(20, 119, (1000, 1000), (20, 20), 4),
    "aa2": Size(117, 494, (330, 510), (10, 15), 8, groups=57, heard=0.33, rate=0.1),
    "nat4": Size(593, 849, (150, 150), (20, 20), 8, rate=0.1, single=575),
    "aa4": Size(170, 1401, (200, 450), (10, 10), 8, groups=6, heard=0.74, rate=0.05),
}


def write_cube(path, size, seed=0):
    """A cube with invented counts, through the package's own shard writer."""
    import xarray as xr
    import zarr

    from strfcube.builder import plan
    from strfcube.cube import shard_writer
    from strfcube.cube.schema import FORMAT_VERSION
    from strfcube.cube.store import no_consolidation_warning

    rng = np.random.default_rng(seed)
    n_bins = rng.integers(size.bins[0], size.bins[1] + 1, size.stim).astype(np.int32)
    n_bins[0] = size.bins[1]
    group = np.sort(np.arange(size.neuron) % size.groups)
    heard = rng.random((size.stim, size.groups)) < size.heard
    heard[0] = True
    repeats = rng.integers(size.repeats[0], size.repeats[1] + 1, (size.stim, size.groups))
    repeats[: size.single] = 1
    n_repeats = np.where(heard, repeats, 0)[:, group].astype(np.uint16)
    layout = plan.response_layout(n_repeats.max(1), size.neuron, size.bins[1], "u1", {"units": "count"})
    bands = plan.stimulus_layout(size.stim, 32, size.bins[1], {"units": "dB"})

    def text(values):
        out = np.empty(len(values), object)
        out[:] = values
        return out

    def column(dim, count, value):
        return dim, text([value] * count)

    coords = {
        "stim": text([f"s{i}" for i in range(size.stim)]),
        "neuron": text([f"n{i}" for i in range(size.neuron)]),
        "repeat": np.arange(size.repeats[1]),
        "time": np.arange(size.bins[1]) * 0.005,
        "frequency": np.arange(32.0),
        "sound_onset": ("stim", np.zeros(size.stim)),
        "sound_duration": ("stim", n_bins * 0.005),
    }
    coords |= {n: column("stim", size.stim, n) for n in ("stim_name", "stim_type", "duration_source")}
    coords |= {"stim_category": column("stim", size.stim, "song")}
    coords |= {n: column("neuron", size.neuron, n) for n in ("cell_id", "animal", "species", "area_label")}
    coords |= {n: column("neuron", size.neuron, "A1") for n in ("area", "region")}
    coords |= {"signal_type": column("neuron", size.neuron, "spikes"), "units": column("neuron", size.neuron, "count")}
    names = ("strfcube_version", "dataset", "recipe", "digest", "sources", "licence", "citation", "doi", "history")
    small = xr.Dataset(
        {"n_repeats": (("stim", "neuron"), n_repeats), "n_rejected": (("stim", "neuron"), n_repeats * 0),
         "n_bins": ("stim", n_bins), "duration": ("stim", n_bins * 0.005)}, coords,
        dict.fromkeys(names, "") | {"format_version": FORMAT_VERSION, "dt_ms": 5, "recipe": "{}", "sources": "[]"},
    )  # fmt: skip
    small.to_zarr(path, consolidated=False)
    shard_writer.create(path, layout)
    shard_writer.create(path, bands)
    rate = rng.gamma(0.3, size.rate / 0.3, (size.neuron, size.bins[1])).astype(np.float32)
    for shard in layout.shards():
        shard_writer.write_shard(path, layout, shard, chunks(rng, rate, n_repeats, n_bins, layout, shard))
    for shard in bands.shards():
        stims = range(shard[0] * bands.shard[0], min((shard[0] + 1) * bands.shard[0], size.stim))
        shard_writer.write_shard(path, bands, shard, (
            ((s, 0, 0), np.where(np.arange(size.bins[1]) < n_bins[s], rng.random((1, 32, size.bins[1])), np.nan))
            for s in stims
        ))  # fmt: skip
    with no_consolidation_warning():
        zarr.consolidate_metadata(path)


def chunks(rng, rate, n_repeats, n_bins, layout, shard):
    step = layout.chunk[2]
    for stim in range(shard[0] * layout.shard[0], min((shard[0] + 1) * layout.shard[0], layout.shape[0])):
        span = slice(shard[1] * layout.chunk[1], min((shard[1] + 1) * layout.chunk[1], layout.shape[1]))
        counts = n_repeats[stim, span]
        for k in range(-(-int(counts.max(initial=0)) // step)):
            size = min(step, layout.shape[2] - k * step)
            size = min(size, int(counts.max()) - k * step) if layout.repeats_first else size
            values = (rng.random((len(counts), size, layout.shape[3]), np.float32) < rate[span, None]).astype("u1")
            values[(np.arange(k * step, k * step + size) >= counts[:, None])] = 255
            values[..., n_bins[stim] :] = 255
            yield (stim, shard[1], k, 0), values[None]


def best(function, times=7):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        took.append(time.perf_counter() - start)
    return min(took)


def limit(view, batches):
    """Seconds that raw decoding of the chunks of an epoch takes, writing its batches, writing them from bytes, and the
    cast of the recorded bytes to floats, which comes on top where most of a batch is padding.
    """
    import os
    from concurrent.futures import ThreadPoolExecutor

    from numcodecs import blosc

    reader = view._reader
    blocks = reader._responses._blocks
    array = blocks[0][0].array
    step = array.chunk[2]
    encoded = []
    for s, counts in zip(reader.stim.tolist(), reader.n_repeats, strict=True):
        for block, here in {b[2]: b[3] for b in blocks}.items():
            found = [array.encoded((s, block, k, 0)) for k in range(-(-int(counts[here].max()) // step))]
            encoded += [array.recorded(f)[0] for f in found if f is not None]
    shapes = []
    for items in batches:
        counts, bins = reader.n_repeats[items], reader.n_bins[items]
        shapes.append((len(items), counts.shape[1], int(counts.max()), int(bins.max())))
    values = np.ones(max(np.prod(s) for s in shapes), np.float32)
    mask, kept = np.ones(len(values), bool), np.ones(len(values), array.dtype)
    recorded = [int(counts.sum()) * int(bins) for counts, bins in zip(reader.n_repeats, reader.n_bins, strict=True)]
    sounds = view._source._stimuli.parts[0].source.array
    encoded += [sounds.encoded((s, 0, 0)) for s in reader.stim.tolist()]
    rooms = [np.empty(max(array.chunk_bytes, sounds.chunk_bytes), np.uint8) for _ in range(4)]
    threads = min(4, os.cpu_count() or 1)

    def decode(i):
        for data in encoded[i::threads]:
            blosc.decompress(data, rooms[i])

    def write(i, source=None):
        for shape in shapes:
            size = int(np.prod(shape))
            part = slice(size * i // threads, size * (i + 1) // threads)
            np.copyto(values[part], np.nan if source is None else source[part])
            mask[part] = True

    def cast(i):
        for size in recorded:
            part = slice(size * i // threads, size * (i + 1) // threads)
            np.copyto(values[part], kept[part])

    with ThreadPoolExecutor(threads) as pool:

        def timed(task):
            return best(lambda: list(pool.map(task, range(threads))), 5)

        return timed(decode), timed(write), timed(lambda i: write(i, kept)), timed(cast)


def measure(name, store, batch, rows):
    from strfcube import CubeDataset

    def epoch(loader):
        for batch in loader:
            batch["responses"]  # which are made when they are asked for

    for cache in ("none", "ram") if name != "aa4" else ("none",):
        view = CubeDataset(store, cache=cache)
        for grouped in (False, True) if name == "nat4" else (False,):
            # The order of the limit is that of the epochs measured
            loader = view.loader(batch, shuffle=True, seed=1, group_by_repeats=grouped)
            order = list(loader.order)

            def run(loader=loader):
                loader.epoch = 0
                epoch(loader)

            run()
            took = best(run)
            decode, write, from_bytes, cast = limit(view, order)
            least = decode + write if cache == "none" else from_bytes
            cast = cast if cache == "none" else 0
            rows.append({"cube": name, "cache": cache, "grouped": grouped, "epoch_s": round(took, 4),
                         "limit_s": round(least, 4), "of_limit": round(least / took, 2),
                         "of_limit_with_cast": round((least + cast) / took, 2), "decode_s": round(decode, 4),
                         "write_s": round(write, 4), "reference_s": FIGURES.get(name)})  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)


def memory(store, batch):
    """Peak memory over `import torch` of a process that streams an epoch, in MB.

    Of a plain loop, which holds the last batch while it gets the next, of one that lets go of it first, of a plain one
    over bfloat16, and of one that keeps the responses of the last batch by a name of its own.
    """
    code = f"""
import sys, torch
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
base = peak()
from strfcube import CubeDataset
dtype = torch.bfloat16 if "half" in sys.argv else torch.float32
for batch in CubeDataset({store!r}, cache="none", dtype=dtype).loader({batch}, shuffle=True, seed=0):
    batch["responses"]
    if "named" in sys.argv:
        responses = batch["responses"]
    if "del" in sys.argv:
        del batch
print((peak() - base) * 1024 / 1e6)
"""
    command = [sys.executable, "-c", code]
    plain, lean, half, named = (
        float(subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout)
        for more in ((), ("del",), ("half",), ("named",))
    )
    return (
        f"memory over import torch: {plain:.0f} MB, {lean:.0f} MB with `del batch`, {half:.0f} MB of bfloat16, "
        f"{named:.0f} MB with `responses = batch['responses']`"
    )


def arguments(doc, default="all"):
    """A command line that takes some of the sizes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*DATASETS, []], help=f"sizes; default {default}")
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("--store", help="measure this cube instead")
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    rows = []
    if given.store:
        measure(Path(given.store).stem, given.store, given.batch, rows)
        print(memory(given.store, given.batch))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or DATASETS:
            store = str(Path(folder) / f"{name}.zarr")
            write_cube(store, DATASETS[name])
            measure(name, store, DATASETS[name].batch, rows)
            print(f"{name}: {memory(store, DATASETS[name].batch)}", flush=True)


if __name__ == "__main__":
    main()
