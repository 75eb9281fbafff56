"""SNR and CCmax of the real NS1 from the store and from memory, beside the time to decode the same bytes.

    python benchmarks/quality.py --raw FOLDER [--noise-ratio] [--aa4]

The reference takes 311 s for the two on these recordings. ``--noise-ratio`` compares the Sahani-Linden noise ratio with
the one that the authors published, in every variant that docs/fidelity.md lists. ``--aa4`` streams a cube of AA4's size
(1,401 neurons, 170 stimuli, 12 repeats, 600 bins, invented on the way), for the memory that it takes.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import dask.array
import numpy as np
import xarray as xr

import strfcube
from strfcube.analysis import quality, transform

REFERENCE_SECONDS = 311


def best(function, times=5):
    """Seconds of the quickest of several calls, by the clock and of processor time."""
    taken = []
    for _ in range(times):
        start, spent = time.perf_counter(), time.process_time()
        function()
        taken.append((time.perf_counter() - start, time.process_time() - spent))
    return min(taken)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def speed(path):
    before = peak_mb()
    ds = strfcube.open(path)
    first = best(ds.strf.quality, 1)
    stored = best(ds.strf.quality)
    apart = best(lambda: (ds.strf.snr(), ds.strf.ccmax()))
    peak = peak_mb()
    decode = best(lambda: ds["response"].max().compute())
    ram = ds.load()
    memory = best(lambda: ram.strf.quality())
    print("                                                   clock processor, s")
    for name, (seconds, processor) in (
        ("decode all responses to float32, keep nothing", decode),
        ("SNR + CCmax from the store, first call", first),
        ("SNR + CCmax from the store, one pass", stored),
        ("SNR + CCmax from the store, one after the other", apart),
        ("SNR + CCmax in memory", memory),
    ):
        factor = f"   {REFERENCE_SECONDS / seconds:6.0f} times faster than the reference" if "SNR" in name else ""
        print(f"{name:48s} {seconds:7.3f} {processor:9.3f}{factor}")
    print(f"peak memory {peak:.0f} MB, of which {before:.0f} MB before opening")


def joined(ds, stims=slice(None)):
    """The clips end to end, as one stimulus."""
    x = ds["response"].isel(stim=stims).transpose("neuron", "repeat", "stim", "time").values
    return xr.DataArray(x.reshape(*x.shape[:2], -1), dims=("neuron", "repeat", "time"), attrs={"units": "count"})


def row(name, ours, theirs):
    ours, error = np.asarray(ours), np.abs(np.asarray(ours) / theirs - 1)
    r = np.corrcoef(ours, theirs)[0, 1]
    print(f"| {name} | {np.median(ours):.2f} | {r:.4f} | {100 * np.median(error):.2f} % | {100 * error.max():.1f} % |")


def noise_ratio(raw, folder):
    cubes = {}
    for dt in (5, 10, 20):
        for post in (0, 200):
            out = folder / f"{dt}-{post}.zarr"
            cubes[dt, post] = strfcube.open(
                strfcube.build("ns1", raw=raw, dt=dt, post=post, drc=True, out=out, force=True)
            ).load()
    theirs = cubes[5, 0]["noise_ratio"].values
    print(f"theirs: median {np.median(theirs):.2f}, from {theirs.min():.2f} to {theirs.max():.2f}\n")
    print("| variant | median | correlation | median deviation | largest |\n|---|---|---|---|---|")
    for (dt, post), ds in cubes.items():
        clips = np.flatnonzero(ds["stim_category"].values != "drc")
        natural = ds.isel(stim=clips)
        window = f"{dt} ms, {5 + post / 1000:g} s"
        row(f"{window}, ratio of the means over clips", 1 / natural.strf.snr(), theirs)
        row(f"{window}, clips joined end to end", 1 / quality.snr(joined(natural)), theirs)
        if (dt, post) == (5, 0):
            pairs = 1 / natural.strf.snr("pair")
            row(f"{window}, mean of the clips' ratios", pairs.mean("stim"), theirs)
            row(f"{window}, median of the clips' ratios", pairs.median("stim"), theirs)
            smooth = transform.smooth(natural["response"], 5, 21)
            row(f"{window}, ratio of the means, smoothed 21 ms", 1 / quality.snr(smooth), theirs)
            row(f"{window}, ratio of the means, natural and DRC", 1 / ds.strf.snr(), theirs)
            drc = ds.isel(stim=np.setdiff1d(np.arange(ds.sizes["stim"]), clips))
            row(f"{window}, ratio of the means, DRC alone", 1 / drc.strf.snr(), theirs)


def aa4():
    shape = (170, 1401, 12, 600)

    def block(block_id):
        noise = np.random.default_rng(block_id).bytes(int(np.prod(shape[1:])))
        return (np.frombuffer(noise, np.uint8).reshape(1, *shape[1:]) < 13).astype(np.float32)

    x = dask.array.map_blocks(block, chunks=((1,) * shape[0], *((n,) for n in shape[1:])), dtype="f4")
    response = xr.DataArray(x, dims=("stim", "neuron", "repeat", "time"), attrs={"units": "count"})
    invent = best(lambda: response.max().compute(), 1)
    measure = best(lambda: quality.measures(response).compute(), 1)
    size = f"AA4 size, {response.nbytes / 1e9:.1f} GB as float32"
    print(f"{size}: {invent[0]:.1f} s to invent the counts, {measure[0]:.1f} s to invent and measure them")
    print(f"peak memory {peak_mb():.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", required=True, help="folder of the NS1 recordings")
    parser.add_argument("--noise-ratio", action="store_true")
    parser.add_argument("--aa4", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        speed(strfcube.build("ns1", raw=options.raw, dt=5, out=Path(folder) / "ns1.zarr"))
        if options.noise_ratio:
            noise_ratio(options.raw, Path(folder))
    if options.aa4:
        aa4()


if __name__ == "__main__":
    main()
