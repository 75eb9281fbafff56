"""Lazy arrays that carry where they are stored: of dask, and of xarray's own lazy indexing.

`StoredDask` is a dask array, with one thing more: the `Rows` that it holds. Indexing, transposing and rechunking give
another one, whose tasks read just what is left; every other operation is dask's own and gives a plain dask array. So
an array that carries Rows holds them, by construction; `rows_of` finds them in a variable.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import dask.array as da
import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.stored import Rows

READ_BYTES = 16_000_000  # decoded float32 of one dask task


class Reading:
    """Rows as what dask makes tasks of: slices of it are values."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.shape, self.ndim, self.dtype = rows.shape, rows.ndim, rows.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.float32]:
        return self.rows.take(key).read()

    def __dask_tokenize__(self) -> Any:
        return self.rows.__dask_tokenize__()


class StoredDask(da.Array):
    """A dask array of stored rows."""

    _held: tuple[str, Rows]

    @classmethod
    def of(cls, rows: Rows, chunks: Any) -> Self:
        """The array of some rows, in these chunks."""
        plain: Any = da.from_array(Reading(rows), chunks=chunks, asarray=False, meta=np.empty((0,) * rows.ndim, "f4"))
        made: Self = cls.__new__(cls, plain.dask, plain.name, plain.chunks, meta=plain._meta)
        made._held = made.name, rows
        return made

    @property
    def rows(self) -> Rows | None:
        """What it holds; None once it was changed in place."""
        name, rows = self._held
        return rows if name == self.name else None

    def __getitem__(self, index: Any) -> Any:
        rows, key = self.rows, _outer(index, self.shape)
        if rows is None or key is None:
            return super().__getitem__(index)
        if all(isinstance(k, slice) and k == slice(None) for k in key):
            return self
        left = rows.take(key)
        sizes = iter(left.shape)
        chunks = [_cut(c, k, next(sizes)) for c, k in zip(self.chunks, key, strict=True) if not isinstance(k, int)]
        return StoredDask.of(left, tuple(chunks))

    def transpose(self, *axes: Any) -> Any:
        """Reverse or permute the dimensions, as dask does."""
        plain: Any = super().transpose(*axes)
        if plain is self or self.rows is None:
            return plain
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(range(self.ndim))[::-1] if not order or order[0] is None else order
        return StoredDask.of(self.rows.transposed([int(a) % self.ndim for a in order]), plain.chunks)

    def rechunk(self, chunks: Any = "auto", *args: Any, **kwargs: Any) -> Any:
        """Other chunks, which are read as such."""
        plain: Any = super().rechunk(chunks, *args, **kwargs)
        return plain if plain is self or self.rows is None else StoredDask.of(self.rows, plain.chunks)

    def copy(self) -> Any:
        """The same: dask arrays are not changed, but for what `rows` finds out."""
        return super().copy() if self.rows is None else StoredDask.of(self.rows, self.chunks)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy()

    def __reduce__(self) -> Any:
        return super().__reduce__() if self.rows is None else (StoredDask.of, (self.rows, self.chunks))


def _outer(index: Any, shape: Sequence[int]) -> tuple[Any, ...] | None:
    """An indexer for each dimension: integers, slices, and positions along one at most; None for anything else."""
    given = index if isinstance(index, tuple) else (index,)
    if sum(g is Ellipsis for g in given) > 1 or len(given) - any(g is Ellipsis for g in given) > len(shape):
        return None
    at = next((i for i, g in enumerate(given) if g is Ellipsis), len(given))
    missing = len(shape) - len(given) + (at < len(given))
    given = (*given[:at], *(slice(None),) * missing, *given[at + 1 :])
    key: list[Any] = []
    for g, size in zip(given, shape, strict=True):
        if isinstance(g, slice):
            key.append(g)
        elif isinstance(g, int | np.integer) and not isinstance(g, bool):
            key.append(int(g))
        elif isinstance(g, list | np.ndarray):
            positions = np.asarray(g)
            if positions.ndim != 1 or positions.dtype.kind not in "iub" or (
                positions.dtype == bool and len(positions) != size
            ):  # fmt: skip
                return None
            key.append(np.flatnonzero(positions) if positions.dtype == bool else positions)
        else:
            return None
    return tuple(key) if sum(isinstance(k, np.ndarray) for k in key) <= 1 else None


def _cut(chunks: tuple[int, ...], key: Any, size: int) -> tuple[int, ...]:
    """Chunks along one dimension of what an indexer leaves of it: of slices as dask has it, else regular ones."""
    if isinstance(key, slice):
        positions = np.arange(sum(chunks))[key]
        number = np.searchsorted(np.cumsum(chunks), positions, side="right")
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), size]
        return tuple(np.diff(edges).tolist())
    most = max(1, *chunks)
    return (*(most,) * (size // most), *((size % most,) if size % most or not size else ()))


class LazyRows(BackendArray):
    """Rows as an array of an xarray backend."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, lambda k: self.rows.take(k).read()
        )


def chunked(rows: Rows, block: int) -> StoredDask:
    """Rows as a dask array, so many stimuli a task."""
    return StoredDask.of(rows, (block, *rows.shape[1:]))


def block_of(shape: Iterable[int]) -> int:
    """Stimuli of a task that reads about `READ_BYTES`."""
    stims, *rest = shape
    return max(1, min(stims, READ_BYTES // max(1, 4 * math.prod(rest))))


def rows_of(variable: xr.Variable | xr.DataArray) -> Rows | None:
    """Which stored rows a variable holds; None where it was loaded, or is no longer what is stored."""
    inner: Any = getattr(variable, "variable", variable)._data
    if isinstance(inner, StoredDask):
        return inner.rows
    while isinstance(inner, indexing.MemoryCachedArray | indexing.CopyOnWriteArray):
        inner = inner.array
    if type(inner) is indexing.LazilyIndexedArray and isinstance(inner.array, LazyRows):
        return inner.array.rows.take(inner.key.tuple)
    return None
