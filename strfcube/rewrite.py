"""Any Dataset that keeps the cube's contract, written as a cube: pools, selections, transformed responses."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube import digest, reader
from strfcube.audio import to_float
from strfcube.errors import StoreError
from strfcube.plan import RAGGED_CHUNK, RAGGED_PER_SHARD, response_layout, stimulus_layout
from strfcube.select import loaded
from strfcube.shards import Layout, create, linear, write_shard
from strfcube.store import attributes_digest, no_consolidation_warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import xarray as xr

Chunk = tuple[tuple[int, ...], NDArray[Any]]


def write(ds: xr.Dataset, path: str | os.PathLike[str]) -> str:
    """Write a Dataset that keeps the cube's contract, such as a pool, as a cube of its own.

    Parameters
    ----------
    ds : xarray.Dataset
        Read one stimulus at a time.
    path : path
        A local folder that does not exist; it appears when everything is written.

    Returns
    -------
    str
        The path. Waveforms come along; the single trials stay in the cubes that were pooled.

    Raises
    ------
    StoreError
        If there is something at `path`.
    """
    import zarr

    target = os.fspath(path)
    if os.path.exists(target):
        raise StoreError(f"{target}: there is something already; move it away, or give another path")
    unfinished = f"{target}.{os.getpid()}.partial"
    small = loaded(ds).drop_vars(["response", "stimulus"])
    attrs = {k: v for k, v in ds["response"].attrs.items() if k != "_FillValue"}
    repeats = ds["n_repeats"].values.max(1, initial=0)
    layouts = [
        response_layout(repeats, ds.sizes["neuron"], ds.sizes["time"], _stored_dtype(ds), attrs),
        stimulus_layout(ds.sizes["stim"], ds.sizes["frequency"], ds.sizes["time"], dict(ds["stimulus"].attrs)),
    ]
    digests: dict[str, str] = {}
    try:
        with no_consolidation_warning():
            _write_small(small, unfinished, "", digests)
            for layout in layouts:
                _write_array(unfinished, layout, partial(_chunks, ds, layout), digests)
            paths = list(dict.fromkeys(part.path for part in reader.origin(ds, "stimulus")))
            sounds = _sounds(ds)
            if sounds is not None:
                _write_small(sounds[0], unfinished, "audio", digests)
                layout = _samples_layout(sounds[1])
                pieces = _cut(sounds[1], layout)
                _write_array(unfinished, layout, lambda _: itertools.islice(pieces, layout.per_shard[0]), digests)
            if paths:
                _write_small(_findings(paths), unfinished, "findings", digests)
            root = zarr.open_group(unfinished, mode="a")
            digests["attributes"] = attributes_digest(unfinished)
            root.attrs.update({"digest": digest.combine(digests), "digests": json.dumps(dict(sorted(digests.items())))})
            zarr.consolidate_metadata(unfinished)
        os.rename(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write_small(ds: xr.Dataset, store: str, group: str, digests: dict[str, str]) -> None:
    """One group of variables that fit in memory."""
    for name in ds.variables:
        ds[name].encoding.clear()
    encoding = {str(n): {"_FillValue": None} for n, v in ds.variables.items() if v.dtype.kind == "f"}
    ds.to_zarr(store, group=group or None, mode="a", consolidated=False, encoding=encoding)
    digests |= {f"{group}/{n}".lstrip("/"): digest.of_values(str(n), ds[n].values) for n in ds.variables}


def _write_array(
    store: str, layout: Layout, chunks: Callable[[tuple[int, ...]], Iterable[Chunk]], digests: dict[str, str]
) -> None:
    """One sharded array, from the chunks of each shard."""
    create(store, layout)
    leaves = [leaf for shard in layout.shards() for leaf in write_shard(store, layout, shard, chunks(shard))]
    digests[layout.name] = digest.of_leaves(layout.name, layout.dtype, layout.shape, layout.chunk, leaves)


def _sounds(ds: xr.Dataset) -> tuple[xr.Dataset, list[tuple[Any, int, int]]] | None:
    """Sizes and rates of the waveforms, and where each is: array, start and size; None where there are none."""
    import xarray as xr
    import zarr

    parts = reader.origin(ds, "stimulus")
    groups: dict[str, Any] = {}
    for part in parts:
        root = zarr.open_group(part.path, mode="r")
        if "audio" in root and part.path not in groups:
            audio = xr.open_zarr(part.path, group="audio", chunks=None)
            groups[part.path] = (root["audio/samples"], audio["row_size"].values, audio["rate"].values)
    size, rate = np.zeros(ds.sizes["stim"], np.int64), np.full(ds.sizes["stim"], np.nan)
    where = []
    for s in range(ds.sizes["stim"]):
        for part in parts:
            at = int(part.stim[s])
            samples, sizes, rates = groups.get(part.path, (None, (), ()))
            if at >= 0 and samples is not None and sizes[at]:
                size[s], rate[s] = sizes[at], rates[at]
                where.append((samples, int(sizes[:at].sum()), int(sizes[at])))
                break
    if not where:
        return None
    sample = xr.open_zarr(next(iter(groups)), group="audio", chunks=None)
    table = sample[["row_size", "rate"]].isel(stim=np.zeros(len(size), int))
    return table.assign({n: table[n].copy(data=v) for n, v in (("row_size", size), ("rate", rate))}), where


def _samples_layout(sounds: list[tuple[Any, int, int]]) -> Layout:
    dtypes = {array.dtype for array, _, _ in sounds}
    dtype = next(iter(dtypes)).str[1:] if len(dtypes) == 1 else "f4"
    shape = linear(sum(size for _, _, size in sounds), RAGGED_CHUNK, RAGGED_PER_SHARD)
    attrs = {"long_name": "waveforms, stimulus after stimulus"}
    return Layout("audio/samples", ("sample",), *shape, dtype, 0, "shuffle", attrs)


def _cut(sounds: list[tuple[Any, int, int]], layout: Layout) -> Iterator[Chunk]:
    """Waveforms, one after the other, in chunks."""
    rest, number = np.empty(0, layout.dtype), 0
    for array, start, size in sounds:
        samples = np.asarray(array[start : start + size])
        if samples.dtype != layout.dtype:
            samples = to_float(samples).astype(layout.dtype)
        rest = np.concatenate([rest, samples])
        while len(rest) >= layout.chunk[0]:
            yield (number,), rest[: layout.chunk[0]]
            rest, number = rest[layout.chunk[0] :], number + 1
    if len(rest):
        yield (number,), rest


def _findings(paths: list[str]) -> xr.Dataset:
    import xarray as xr

    groups = [xr.open_zarr(path, group="findings", chunks=None).load() for path in paths if _has(path, "findings")]
    return xr.concat(groups, "finding") if groups else xr.Dataset()


def _has(path: str, group: str) -> bool:
    return (Path(path) / group / "zarr.json").exists()


def _stored_dtype(ds: xr.Dataset) -> str:
    """Dtype that the response needs: counts as the smallest integer, anything else as float32."""
    if str(ds["response"].attrs.get("units")) != "count":
        return "f4"
    most = 0.0
    for s in range(ds.sizes["stim"]):
        values = ds["response"][s].values
        seen = values[~np.isnan(values)]
        if (seen != np.rint(seen)).any() or (seen < 0).any():
            return "f4"
        most = max(most, float(seen.max(initial=0)))
    return "u1" if most < 255 else "u2" if most < 65535 else "f4"


def _chunks(ds: xr.Dataset, layout: Layout, shard: tuple[int, ...]) -> Iterator[Chunk]:
    """Chunks of one shard of a variable over (stim, ...), one stimulus at a time."""
    array = ds[layout.name]
    first = [i * n for i, n in zip(shard, layout.shard, strict=True)]
    span = [slice(f, min(f + n, total)) for f, n, total in zip(first, layout.shard, layout.shape, strict=True)]
    rest = [range(s.start // c, -(-s.stop // c)) for s, c in zip(span[1:], layout.chunk[1:], strict=True)]
    for stim in range(span[0].start, span[0].stop):
        values = array[(stim, *span[1:])].values
        if layout.dtype != "f4":
            values = np.where(np.isnan(values), layout.fill, values).astype(layout.dtype)
        for at in itertools.product(*rest):
            inner = [
                slice(i * c - s.start, min((i + 1) * c, s.stop) - s.start)
                for i, c, s in zip(at, layout.chunk[1:], span[1:], strict=True)
            ]
            yield (stim, *at), values[(None, *inner)]
