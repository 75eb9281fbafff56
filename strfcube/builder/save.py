"""Any Dataset that keeps the cube's contract, written as a cube: pools, selections, transformed responses."""

from __future__ import annotations

import itertools
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.builder.finalise import write_group
from strfcube.builder.ledger import sync
from strfcube.builder.plan import response_layout, samples_layout, spikes_layout, stimulus_layout
from strfcube.builder.workplace import (
    clear,
    discard,
    locked,
    place_of,
    publish,
    recover,
    see_whole,
    store_of,
    work_folder,
    writable,
)
from strfcube.cube import digest
from strfcube.cube.groups import has_group, in_memory, open_group
from strfcube.cube.metadata import sealed
from strfcube.cube.normalise import loaded
from strfcube.cube.shard_writer import Layout, create, put, write_shard
from strfcube.cube.store import attributes_digest, local, no_consolidation_warning
from strfcube.errors import StoreError
from strfcube.sound.audio import to_float
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import xarray as xr

    from strfcube.cube.stored_rows import Part, Sounds

Chunk = tuple[tuple[int, ...], NDArray[Any]]
_LARGE = ("response", "stimulus")


def write(ds: xr.Dataset, path: str | os.PathLike[str]) -> str:
    """Write a Dataset that keeps the cube's contract, such as a pool, as a cube of its own.

    Parameters
    ----------
    ds : xarray.Dataset
        Read a few stimuli at a time, 16 MB at most or one.
    path : path
        A local folder that does not exist; it appears when everything is written. Until then it lies beside, in
        ``<path>.building``; what a killed call left there, the next one clears away.

    Returns
    -------
    str
        The path. Waveforms, findings and, where the responses are still those of stores, single trials come along.

    Raises
    ------
    StoreError
        If there is something at `path`, it cannot be written, or a cube that `ds` was read from is damaged.
    """
    if "://" in os.fspath(path):
        raise StoreError(f"{os.fspath(path)}: give a local folder, and copy that")
    with writable(os.fspath(path)):
        target = place_of(local(path))
        work = work_folder(target)
        _see_free(target)
    for source in dict.fromkeys(part.store.path for name in _LARGE for part in _parts(ds, name)):
        see_whole(source)
    with writable(target), locked(work):
        recover(work, target)
        _see_free(target)
        clear(work)
        try:
            unfinished = store_of(target, work)
            _write(ds, unfinished)
            sync(Path(unfinished))
            _see_free(target)
        except BaseException:
            discard(work)
            raise
        publish(unfinished, target, work)
    return local(path)


def _see_free(target: str) -> None:
    if os.path.exists(target):
        raise StoreError(f"{target}: there is something already; move it away, or give another path")


def _write(ds: xr.Dataset, unfinished: str) -> None:
    import zarr

    small = loaded(ds).drop_vars(["response", "stimulus"])
    attrs = {k: v for k, v in ds["response"].attrs.items() if k != "_FillValue"}
    repeats = small["n_repeats"].values.max(1, initial=0)
    layouts = [
        response_layout(repeats, ds.sizes["neuron"], ds.sizes["time"], _stored_dtype(ds), attrs),
        stimulus_layout(ds.sizes["stim"], ds.sizes["frequency"], ds.sizes["time"], dict(ds["stimulus"].attrs)),
    ]
    # A part may have fewer repeats than the cube it was cut from
    small = small.isel(repeat=slice(layouts[0].shape[2]))
    digests: dict[str, str] = {}
    with no_consolidation_warning():
        write_group(small, unfinished, "", digests)
        for layout in layouts:
            _write_array(unfinished, layout, partial(_chunks, ds, layout), digests)
        paths = list(dict.fromkeys(part.store.path for part in _parts(ds, "stimulus")))
        sounds = _sounds(ds)
        if sounds is not None:
            write_group(sounds[0], unfinished, "audio", digests)
            dtype = _samples_dtype(sounds[1])
            layout = samples_layout(int(sounds[0]["row_size"].sum()), dtype)
            _write_ragged(unfinished, layout, _samples(sounds[1], dtype), digests)
        trials = _trials(ds)
        if trials is not None:
            write_group(trials[0], unfinished, "trials", digests)
            layout = spikes_layout(int(trials[0]["row_size"].sum()))
            _write_ragged(unfinished, layout, trials[1], digests)
        if paths:
            write_group(_findings(paths), unfinished, "findings", digests)
        root = zarr.open_group(unfinished, mode="a")
        digests["attributes"] = attributes_digest(unfinished)
        root.attrs.update({"digest": digest.combine(digests), "digests": json.dumps(dict(sorted(digests.items())))})
        zarr.consolidate_metadata(unfinished)
    put(unfinished, "zarr.json", sealed(connect(unfinished, "")))


def _write_array(
    store: str, layout: Layout, chunks: Callable[[tuple[int, ...]], Iterable[Chunk]], digests: dict[str, str]
) -> None:
    """One sharded array, from the chunks of each shard."""
    create(store, layout)
    leaves = [leaf for shard in layout.shards() for leaf in write_shard(store, layout, shard, chunks(shard))]
    digests[layout.name] = digest.of_leaves(layout.name, layout.dtype, layout.shape, layout.chunk, leaves)


def _parts(ds: xr.Dataset, name: str) -> tuple[Part, ...]:
    """Where a variable is stored, with all of its repeats and bins; empty where it is not what is stored."""
    from strfcube.cube.lazy_array import rows_of

    rows = rows_of(ds[name])
    return rows.parts if rows is not None and rows.entire else ()


def _sounds(ds: xr.Dataset) -> tuple[xr.Dataset, list[tuple[Sounds, int]]] | None:
    """Sizes and rates of the waveforms, and where each is; None where there are none."""
    parts = _parts(ds, "stimulus")
    stored = {store: store.sounds() for store in dict.fromkeys(part.store for part in parts)}
    size, rate = np.zeros(ds.sizes["stim"], np.int64), np.full(ds.sizes["stim"], np.nan)
    where = []
    for s in range(ds.sizes["stim"]):
        for part in parts:
            at, sounds = int(part.stim[s]), stored[part.store]
            if at >= 0 and sounds is not None and sounds.size[at]:
                size[s], rate[s] = sounds.size[at], sounds.rate[at]
                where.append((sounds, at))
                break
    if not where:
        return None
    sample = open_group(next(store for store, sounds in stored.items() if sounds is not None).path, "audio")
    table = sample[["row_size", "rate"]].isel(stim=np.zeros(len(size), int))
    return table.assign({n: table[n].copy(data=v) for n, v in (("row_size", size), ("rate", rate))}), where


def _samples_dtype(where: list[tuple[Sounds, int]]) -> np.dtype[Any]:
    dtypes = {sounds.samples.dtype for sounds, _ in where}
    return np.dtype(dtypes.pop() if len(dtypes) == 1 else np.float32)


def _samples(where: list[tuple[Sounds, int]], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for sounds, at in where:
        samples = sounds.read(at)
        yield samples if samples.dtype == dtype else to_float(samples)


def _trials(ds: xr.Dataset) -> tuple[xr.Dataset, Iterator[NDArray[Any]]] | None:
    """Rows of the trials group, and the spikes of one neuron after the other; None where a store has no trials."""
    import xarray as xr

    parts = _parts(ds, "response")
    if not parts or not all(has_group(part.store.path, "trials") for part in parts):
        return None
    stored = {p: open_group(p, "trials") for p in dict.fromkeys(part.store.path for part in parts)}
    stored = {p: t.assign({n: t[n].load() for n in t.variables if n != "spike_time"}) for p, t in stored.items()}
    words = {p: str(t["rejected_by"].attrs["flag_meanings"]).split() for p, t in stored.items()}
    tests = list(dict.fromkeys(word for several in words.values() for word in several))
    first_file = dict(zip(stored, np.cumsum([0, *(t.sizes["file"] for t in stored.values())]).tolist(), strict=False))
    columns: dict[str, list[NDArray[Any]]] = {str(n): [] for n in next(iter(stored.values())).data_vars}
    del columns["spike_time"]
    where: list[tuple[str, NDArray[np.intp]]] = []
    for part in parts:
        table, here = stored[part.store.path], np.flatnonzero(part.stim >= 0)
        place = np.full(int(table["stim_index"].max(initial=-1)) + 1 if table.sizes["trial"] else 0, -1)
        inside = part.stim[here] < len(place)
        place[part.stim[here][inside]] = here[inside]
        edges = np.searchsorted(table["neuron_index"].values, np.stack([part.neuron, part.neuron + 1]))
        for low, high in edges.T.tolist():
            rows = np.arange(low, high)
            stim = place[table["stim_index"].values[rows]]
            rows = rows[stim >= 0][np.argsort(stim[stim >= 0], kind="stable")]
            for name, column in columns.items():
                column.append(table[name].values[rows])
            columns["stim_index"][-1] = place[columns["stim_index"][-1]]
            columns["neuron_index"][-1] = np.full(len(rows), len(where))
            columns["file_index"][-1] = columns["file_index"][-1] + first_file[part.store.path]
            code = np.array([tests.index(word) for word in words[part.store.path]])
            columns["rejected_by"][-1] = code[columns["rejected_by"][-1]]
            where.append((part.store.path, rows))
    like = next(iter(stored.values()))
    out = xr.Dataset(
        {n: ("trial", np.concatenate(c).astype(like[n].dtype), dict(like[n].attrs)) for n, c in columns.items()},
        {"file": ("file", np.concatenate([t["file"].values.astype(object) for t in stored.values()]))},
        like.attrs,
    )
    out["rejected_by"].attrs |= {"flag_values": list(range(len(tests))), "flag_meanings": " ".join(tests)}
    ends = {path: np.cumsum(table["row_size"].values, dtype=np.int64) for path, table in stored.items()}
    return out, (_spikes(stored[path], ends[path], rows) for path, rows in where)


def _spikes(table: xr.Dataset, ends: NDArray[np.int64], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Spike times of some trials of one neuron, which lie together in the store."""
    if not len(rows):
        return np.empty(0, np.int64)
    sizes = table["row_size"].values[rows].astype(np.int64)
    begin = int((ends[rows] - sizes).min())
    times = table["spike_time"][begin : int(ends[rows].max())].values
    return np.concatenate([times[e - n - begin : e - begin] for e, n in zip(ends[rows], sizes, strict=True)])


def _write_ragged(store: str, layout: Layout, pieces: Iterator[NDArray[Any]], digests: dict[str, str]) -> None:
    """One one-dimensional array, from pieces of any length in its order."""
    chunks = _cut(pieces, layout)
    _write_array(store, layout, lambda _: itertools.islice(chunks, layout.per_shard[0]), digests)


def _cut(pieces: Iterator[NDArray[Any]], layout: Layout) -> Iterator[Chunk]:
    rest, number, size = np.empty(0, layout.dtype), 0, layout.chunk[0]
    for piece in pieces:
        rest = np.concatenate([rest, piece.astype(layout.dtype, copy=False)])
        whole = len(rest) // size
        for i in range(whole):
            yield (number + i,), rest[i * size : (i + 1) * size]
        rest, number = rest[whole * size :], number + whole
    if len(rest):
        yield (number,), rest


def _findings(paths: list[str]) -> xr.Dataset:
    import xarray as xr

    groups = [in_memory(open_group(p, "findings"), f"{p}/findings") for p in paths if has_group(p, "findings")]
    return xr.concat(groups, "finding") if groups else xr.Dataset()


def _stored_dtype(ds: xr.Dataset) -> str:
    """Dtype that the response needs: counts as the smallest integer, anything else as float32."""
    if str(ds["response"].attrs.get("units")) != "count":
        return "f4"
    most = 0.0
    for _, values in _stimuli(ds["response"], [slice(0, n) for n in ds["response"].shape]):
        seen = values[~np.isnan(values)]
        if (seen != np.rint(seen)).any() or (seen < 0).any():
            return "f4"
        most = max(most, float(seen.max(initial=0)))
    return "u1" if most < 255 else "u2" if most < 65535 else "f4"


def _stimuli(array: xr.DataArray, span: list[slice]) -> Iterator[tuple[int, NDArray[Any]]]:
    """A part of a variable, stimulus after stimulus; small ones are read many at a time, as dask reads them."""
    from strfcube.cube.lazy_array import READ_BYTES

    step = max(1, READ_BYTES // (4 * math.prod(s.stop - s.start for s in span[1:]) or 1))
    for low in range(span[0].start, span[0].stop, step):
        block = array[(slice(low, min(low + step, span[0].stop)), *span[1:])].values
        yield from enumerate(block, low)


def _chunks(ds: xr.Dataset, layout: Layout, shard: tuple[int, ...]) -> Iterator[Chunk]:
    """Chunks of one shard of a variable over (stim, ...), one stimulus at a time."""
    array = ds[layout.name]
    first = [i * n for i, n in zip(shard, layout.shard, strict=True)]
    span = [slice(f, min(f + n, total)) for f, n, total in zip(first, layout.shard, layout.shape, strict=True)]
    rest = [range(s.start // c, -(-s.stop // c)) for s, c in zip(span[1:], layout.chunk[1:], strict=True)]
    for stim, values in _stimuli(array, span):
        if layout.dtype != "f4":
            values = np.where(np.isnan(values), layout.fill, values).astype(layout.dtype)
        for at in itertools.product(*rest):
            inner = [
                slice(i * c - s.start, min((i + 1) * c, s.stop) - s.start)
                for i, c, s in zip(at, layout.chunk[1:], span[1:], strict=True)
            ]
            yield (stim, *at), values[(None, *inner)]
