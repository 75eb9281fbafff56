"""Reading a cube through xarray, beside an epoch of `CubeDataset` and beside what the machine allows.

Cubes are those of epoch.py. Of each read, the median wall time and processor time; of the limits, the same: decoding
every chunk once, writing every value of the responses once as float32, dask's own mean of them in memory.

    python benchmarks/xarray_reads.py                 NAT4 and AA4 size; NAT4's whole responses need 13 GB of memory
    python benchmarks/xarray_reads.py nat4 --part 8   an eighth of the stimuli
    python benchmarks/xarray_reads.py nat4 --plain    and plain xr.open_zarr
"""

import dataclasses
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from epoch import DATASETS, arguments, write_cube


def processor():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def show(what, function, times=5):
    """Print and give the median wall and processor seconds of a call, after one that is not counted."""
    function()
    took = []
    for _ in range(times):
        wall, used = time.perf_counter(), processor()
        function()
        took.append((time.perf_counter() - wall, processor() - used))
    wall, used = (statistics.median(t) for t in zip(*took, strict=True))
    print(f"  {what:44s} {wall:8.3f} s wall {used:8.3f} s processor", flush=True)
    return wall, used


def opening(path):
    """Seconds that opening and a first value take in a new process, after its imports."""
    code = (
        "import importlib.util, sys, time, strfcube, xarray, zarr, dask.array, numcodecs, google_crc32c\n"
        "if importlib.util.find_spec('distributed'): import distributed\n"  # which dask asks for at a first value
        "import strfcube.cube.lazy_array\n"
        "start = time.perf_counter(); ds = strfcube.open(sys.argv[1]); float(ds.response[0, 0, 0, 0])\n"
        "print(time.perf_counter() - start)"
    )
    took = [
        float(subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return statistics.median(took)


def measure(path, batch, *, plain, whole):
    import dask.array as da
    import xarray as xr
    from scipy.fft import rfft

    import strfcube
    from strfcube import CubeDataset
    from strfcube.cube.lazy_array import rows_of

    ds = strfcube.open(path)
    loader = CubeDataset(ds, cache="none").loader(batch, shuffle=True, seed=1)
    source = rows_of(ds["response"]).parts[0].source
    places = [at for at in np.ndindex(*source.array.grid) if source.has(at)]
    one = np.empty(ds["response"].shape[1:], np.float32)

    def decode():
        for at in places:
            source.read(at)

    def epoch():
        for batch in loader:
            batch["responses"]  # which are made when they are asked for

    def write():
        for _ in range(ds.sizes["stim"]):
            one[...] = np.nan

    def arithmetic():
        """What the powers take where nothing is missing: floats, three products, differences and their spectrum."""
        for at in places:
            counts = source.read(at)
            if counts is None or counts.shape[2] < 2:
                continue
            half = min(4, counts.shape[2] // 2)
            for first in range(0, counts.shape[1], 128):
                x = counts[0, first : first + 128].astype(np.float32)
                total = x.sum(1)
                np.vecdot(x, x), np.vecdot(x, total[:, None]), x.sum(-1)
                spectrum = rfft(x[:, 0 : 2 * half : 2] - x[:, 1 : 2 * half : 2], axis=-1)
                (spectrum.real**2 + spectrum.imag**2).sum(1)

    print(f"{Path(path).stem}: {dict(ds.sizes)}, chunks of {source.array.chunk}, {len(places)} stored")
    print(f"  {'open and first value, new process':44s} {opening(path):8.3f} s wall")
    show("limit: decode every chunk, one thread", decode)
    show("limit: write every value, one thread", write)
    show("limit: decode, and the arithmetic of powers", arithmetic)
    show("torch epoch", epoch)
    show("ds.strf.psth()", lambda: ds.strf.psth().compute())
    show("ds.strf.quality()", ds.strf.quality)
    middle = str(ds["neuron"].values[ds.sizes["neuron"] // 2])
    show("one neuron", lambda: ds["response"].sel(neuron=middle).compute())
    ten = np.linspace(0, ds.sizes["neuron"] - 1, 10).astype(int)
    show("ten neurons", lambda: ds["response"].isel(neuron=ten).compute())
    show('ds.response.mean("repeat")', lambda: ds["response"].mean("repeat").compute())
    if whole:
        show("limit: new memory full of NaN", lambda: np.full(ds["response"].shape, np.nan, np.float32), 9)
        show("ds.response.load()", lambda: ds["response"].compute(), 9)
        values = da.from_array(ds["response"].values, chunks=ds["response"].data.chunks)
        memory = xr.DataArray(values, dims=ds["response"].dims)
        show("limit: dask's mean of it in memory", lambda: memory.mean("repeat").compute(), 3)
    if plain:
        show("plain xr.open_zarr: mean", lambda: xr.open_zarr(path)["response"].mean("repeat").compute(), 3)


def main():
    parser = arguments(__doc__, "nat4 and aa4")
    parser.add_argument("--part", type=int, default=1, help="one in so many stimuli")
    parser.add_argument("--plain", action="store_true", help="plain xr.open_zarr too: slow")
    parser.add_argument("--store", help="measure this cube instead")
    given = parser.parse_args()
    if given.store:
        measure(given.store, 8, plain=given.plain, whole=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or ("nat4", "aa4"):
            size = DATASETS[name]
            size = dataclasses.replace(size, stim=size.stim // given.part, single=size.single // given.part)
            store = str(Path(folder) / f"{name}.zarr")
            write_cube(store, size)
            measure(store, size.batch, plain=given.plain, whole=name == "nat4")


if __name__ == "__main__":
    main()
