"""Cubes on disk for the tests of readers and loaders, with chunks small enough that everything happens."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import zarr
from cubes import make_cube

from strfcube.builder.save import save as write
from strfcube.cube.metadata import sealed
from strfcube.cube.shard_writer import Layout, create, put, write_shard
from strfcube.transport.connect import connect


def stored(values, dtype):
    """Decoded values as a cube stores them."""
    if dtype == "f4":
        return values.astype("f4")
    return np.where(np.isnan(values), np.iinfo(dtype).max, values).astype(dtype)


def region(layout, chunk):
    """The part of the array that a chunk holds."""
    return tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(chunk, layout.chunk, layout.shape, strict=True))


def rewrite(path, values, chunk, shard, dtype, repeats_first=False):
    """Replace the response of a cube by one with other chunks."""
    fill = float("nan") if dtype == "f4" else int(np.iinfo(dtype).max)
    attrs = dict(zarr.open_group(path)["response"].attrs)
    attrs.pop("_FillValue", None)
    attrs |= {} if dtype == "f4" else {"_FillValue": fill}
    dims = ("stim", "neuron", "repeat", "time")
    layout = Layout("response", dims, values.shape, chunk, shard, dtype, fill, "bitshuffle", attrs, repeats_first)
    shutil.rmtree(f"{path}/response")
    root = Path(path) / "zarr.json"
    root.write_text(json.dumps({k: v for k, v in json.loads(root.read_text()).items() if k != "consolidated_metadata"}))
    create(path, layout)
    data = stored(values, dtype)
    for at in layout.shards():
        grid = [range(i * n, min((i + 1) * n, -(-total // c)))
                for i, n, total, c in zip(at, layout.per_shard, layout.shape, layout.chunk, strict=True)]  # fmt: skip
        chunks = [((s, n, r, 0), data[region(layout, (s, n, r, 0))]) for s in grid[0] for n in grid[1] for r in grid[2]]
        write_shard(path, layout, at, chunks)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        zarr.consolidate_metadata(path)
    seal(path)


def seal(path):
    """Describe a cube that was changed on purpose as if it had been built like that."""
    put(str(path), "zarr.json", sealed(connect(str(path), "")))


def make_store(
    folder,
    name="cube",
    *,
    dtype="u1",
    neuron_chunk=3,
    repeat_chunk=2,
    stim_shard=2,
    repeats_first=False,
    unobserved=True,
    **sizes,
):
    """A cube in memory, and the path of the same on disk.

    Parameters
    ----------
    neuron_chunk, repeat_chunk : int
        Neurons and repeats of a chunk.
    stim_shard : int
        Stimuli of a shard.
    repeats_first : bool
        Store a chunk's values in that order.
    unobserved : bool
        Leave bins out of some trials' recorded windows.
    **sizes
        Of `cubes.make_cube`.
    """
    cube = make_cube(**sizes)
    values = cube["response"].values
    if unobserved:
        values[::2, 1::3, 0, -5:] = np.nan
        values[0, :, 0, :2] = np.nan
    cube = cube.assign(response=cube["response"].copy(data=values))
    path = write(cube, folder / f"{name}.zarr")
    n, r, t = values.shape[1:]
    chunk = (1, min(neuron_chunk, n), min(repeat_chunk, r), t)
    shard = (min(stim_shard, values.shape[0]), chunk[1], -(-r // chunk[2]) * chunk[2], t)
    rewrite(path, values, chunk, shard, dtype, repeats_first)
    return cube, path
