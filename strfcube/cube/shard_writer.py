"""Sharded Zarr v3 arrays, written one whole shard at a time.

The arrays are plain Zarr (codec ``sharding_indexed``, inner ``bytes`` + ``blosc`` + ``crc32c``, before them
``transpose`` where a chunk's last repeats may be blank, index at the end with ``crc32c``): any implementation reads
them, and none takes a damaged chunk for a sound one. They are encoded here because a cube's shards are mostly values
that do not exist (one repeat where there could be twenty): a writer that takes a whole shard as one array has to hold
all of them, and here what exists is a block of its own, which `strfcube.cube.shard_reader` decodes without the rest.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from strfcube.cube import blosc_frame, codecs
from strfcube.cube.digest import Leaf, leaf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

_MISSING = 2**64 - 1


@dataclass(frozen=True)
class Layout:
    """One sharded array of a store.

    Attributes
    ----------
    name : str
        Path within the store.
    dims, shape, chunk, shard : tuple
        Dimension names and sizes; a shard holds whole chunks.
    dtype : str
        NumPy dtype.
    fill : int or float
        Value of chunks that are not stored.
    shuffle : {"shuffle", "bitshuffle"}
        Blosc filter before zstd.
    attrs : mapping
        Attributes of the array.
    repeats_first : bool
        Store a chunk's values in the order (stim, repeat, neuron, time), those that hold anything as one block.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str
    fill: int | float
    shuffle: codecs.Shuffle = "bitshuffle"
    attrs: Mapping[str, Any] = field(default_factory=dict)
    repeats_first: bool = False

    @property
    def per_shard(self) -> tuple[int, ...]:
        """Chunks in a shard along each dimension."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    @property
    def grid(self) -> tuple[int, ...]:
        """Shards along each dimension."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.shard, strict=True))

    def shards(self) -> list[tuple[int, ...]]:
        """Index of every shard, in C order."""
        return list(itertools.product(*(range(n) for n in self.grid)))


def linear(values: int, chunk: int, per_shard: int) -> tuple[tuple[int], tuple[int], tuple[int]]:
    """Shape, chunk and shard of a one-dimensional array; a short one is a single chunk."""
    size = min(chunk, max(1, values))
    return (values,), (size,), (size * min(per_shard, max(1, -(-values // size))),)


def create(store: str, layout: Layout) -> None:
    """Write the metadata of an array, unless it is there; its chunks follow shard by shard."""
    import zarr

    group, _, name = layout.name.rpartition("/")
    parent = zarr.open_group(store, path=group, mode="a")
    if name in parent:
        return
    dtype = np.dtype(layout.dtype)
    parent.create_array(
        name,
        shape=layout.shape,
        chunks=layout.chunk,
        shards=layout.shard,
        dtype=layout.dtype,
        fill_value=layout.fill,
        filters=codecs.of_order(repeats_first=layout.repeats_first),
        compressors=codecs.of_chunks(layout.shuffle, math.prod(layout.chunk) * dtype.itemsize, dtype.itemsize),
        dimension_names=layout.dims,
        attributes=dict(layout.attrs),
    )


def write_shard(
    store: str, layout: Layout, shard: tuple[int, ...], chunks: Iterable[tuple[tuple[int, ...], NDArray[Any]]]
) -> list[Leaf]:
    """Encode and write one shard.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    shard : tuple of int
        Index of the shard.
    chunks : iterable of (index, values)
        Chunk indices of the whole array and values cut to the array's shape. Chunks that are not given, or that hold
        nothing but the fill value, are not stored; the file of the shard is, whether it holds any or not. Where repeats
        come first, blank ones at the end need not be given.

    Returns
    -------
    list of (chunk index, digest)
        Leaves of the stored chunks.
    """
    import google_crc32c

    first = [s * n for s, n in zip(shard, layout.per_shard, strict=True)]
    index = np.full((math.prod(layout.per_shard), 2), _MISSING, "<u8")
    parts: list[bytes] = []
    leaves: list[Leaf] = []
    offset = 0
    for at, given in chunks:
        values = np.ascontiguousarray(in_order(given, layout.fill) if layout.repeats_first else given, layout.dtype)
        if not values.size or _only_fill(values, layout.fill):
            continue
        leaves.append((tuple(at), leaf(values)))
        part = _encoded(values, layout)
        part += struct.pack("<I", google_crc32c.value(part))
        slot = np.ravel_multi_index([a - f for a, f in zip(at, first, strict=True)], layout.per_shard)
        index[slot] = offset, len(part)
        offset += len(part)
        parts.append(part)
    # One that holds nothing is written all the same, so that one that is not there is known to be lost
    if parts or all(s < n for s, n in zip(shard, layout.grid, strict=True)):
        table = index.tobytes()
        parts += [table, struct.pack("<I", google_crc32c.value(table))]
        key = f"{layout.name}/c/" + "/".join(map(str, shard))
        put(store, key, b"".join(parts))
    return leaves


def in_order(values: NDArray[Any], fill: int | float) -> NDArray[Any]:
    """A chunk (1, neuron, repeat, time) as (1, repeat, neuron, time), up to the last repeat that holds anything."""
    values = values.transpose(codecs.REPEATS_FIRST)
    repeats = values.shape[1]
    while repeats and _only_fill(values[:, repeats - 1], fill):
        repeats -= 1
    return values[:, :repeats]


def _encoded(values: NDArray[Any], layout: Layout) -> bytes:
    """Encode a chunk, filled up to the size that all have."""
    whole = layout.chunk
    if layout.repeats_first:
        whole = tuple(whole[dim] for dim in codecs.REPEATS_FIRST)
        recorded = _filled(values, (1, values.shape[1], *whole[2:]), layout)
        first = codecs.compressed(recorded, layout.shuffle, recorded.nbytes)
        blank = partial(_blank, layout.dtype, layout.fill, layout.shuffle)
        size = math.prod(whole) * recorded.itemsize
        shuffled = recorded.nbytes % _group(recorded, layout.shuffle) == 0
        frame = blosc_frame.extended(first, blank, size) if shuffled else None
        if frame is not None:
            return frame
    values = _filled(values, whole, layout)
    # A block with a rest would be stored without its bits being shuffled at all
    group = _group(values, layout.shuffle)
    return codecs.compressed(values, layout.shuffle, values.nbytes // group * group or values.nbytes)


def _filled(values: NDArray[Any], shape: tuple[int, ...], layout: Layout) -> NDArray[Any]:
    if values.shape == shape:
        return values
    padded = np.full(shape, layout.fill, layout.dtype)
    padded[tuple(slice(n) for n in values.shape)] = values
    return padded


@lru_cache(256)  # chunks lack few different numbers of repeats
def _blank(dtype: str, fill: int | float, shuffle: codecs.Shuffle, size: int) -> bytes:
    values = np.full(size // np.dtype(dtype).itemsize, fill, dtype)
    return codecs.compressed(values, shuffle, size)


def _group(values: NDArray[Any], shuffle: codecs.Shuffle) -> int:
    """Bytes of which blosc shuffles whole multiples."""
    return 8 * codecs.stride(shuffle, values.nbytes, values.itemsize)


def put(store: str, key: str, data: bytes) -> None:
    """Write one object; a local file appears as a whole or not at all."""
    if "://" in store:
        import fsspec

        with fsspec.open(f"{store}/{key}", "wb") as remote:
            remote.write(data)
        return
    path = Path(store) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _only_fill(values: NDArray[Any], fill: int | float) -> bool:
    if fill != fill:
        return bool(np.isnan(values).all())
    return bool((values == fill).all())
