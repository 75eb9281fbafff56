"""Lazy arrays that carry where they are stored: of dask, and of xarray's own lazy indexing.

`StoredDask` is a dask array, with one thing more: the `Rows` that it holds. Indexing, transposing and rechunking give
another one, whose tasks read just what is left; every other operation is dask's own and gives a plain dask array. So
an array that carries Rows holds them, by construction; `rows_of` finds them in a variable.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import dask.array as da
import numpy as np
from dask.array.core import finalize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from xarray.backends import BackendArray
from xarray.core import indexing

from strfcube.cube.averages import mean, mean_of_stored
from strfcube.forks import OwnLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.stored_rows import Rows

READ_BYTES = 16_000_000  # decoded float32 of one dask task
_READ_MORE = 8  # times that, of a task that reads a stimulus at a time and keeps less


class Reading:
    """Rows as what dask makes tasks of."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.shape, self.ndim, self.dtype = rows.shape, rows.ndim, rows.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        return self.rows.take(key).read()

    def into(self, key: tuple[slice, ...], out: NDArray[Any]) -> None:
        """Put what a key stands for into memory of the caller."""
        self.rows.take(key).read(out)

    def __dask_tokenize__(self) -> Any:
        return self.rows.__dask_tokenize__()


class _Dask(type):
    """Makes a class count as `dask.array.Array` among types: xarray refuses to mix arrays of two, compared as such."""

    def __eq__(cls, other: object) -> bool:
        return other is da.Array or isinstance(other, _Dask)

    def __hash__(cls) -> int:
        return hash(da.Array)


class _Optimize:
    """How a `DirectArray` is optimised: its blocks become parts of one array.

    It counts as dask's own way. Dask optimises what is computed together in groups of one way each, and hands the
    results out group after group, whatever the order they were asked for in: were there two ways, then of an array of
    dask's, one of these and another of dask's the last two would change places.
    """

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        graph = dsk if isinstance(dsk, HighLevelGraph) else HighLevelGraph.from_collections(str(id(dsk)), dsk, ())
        layers, dependencies = dict(graph.layers), {k: set(v) for k, v in graph.dependencies.items()}
        last = {key[0] if isinstance(key, tuple) else key for key in flatten(keys)}
        # What is only on the way to a result never is in memory as a whole
        asked = last.union(*(dependencies.get(name, ()) for name in last))
        for name in graph.layers:
            whole = f"original-{name}"
            about: Any = layers[name].collection_annotations or {}
            if name not in asked or whole not in layers or "chunks" not in about:
                continue
            chunks = about["chunks"]
            shape = tuple(map(sum, chunks))
            regions = itertools.product(*(_slices(c) for c in chunks))
            tasks = {
                (name, *at): (partial(_fill, region), whole, f"room-{name}")  # dask looks into whatever it is shown
                for at, region in zip(np.ndindex(*map(len, chunks)), regions, strict=True)
            }
            layers[f"room-{name}"] = MaterializedLayer({f"room-{name}": (_Room, list(shape))})
            layers[name] = MaterializedLayer(tasks)
            dependencies |= {f"room-{name}": set(), name: {whole, f"room-{name}"}}
        return da.Array.__dask_optimize__(HighLevelGraph(layers, dependencies), keys, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Optimize) or other == da.Array.__dask_optimize__

    def __hash__(self) -> int:
        return hash(da.Array.__dask_optimize__)


class DirectArray(da.Array, metaclass=_Dask):
    """A dask array whose blocks are put straight into the result when it is computed itself.

    Dask copies all blocks of a result into one array: twice the memory, and for data that were only read, more than
    twice the time. What is made from the array, and what other processes compute, goes dask's own way.
    """

    @classmethod
    def over(cls, source: Reading | Applied, chunks: Any) -> Self:
        """The array of a source."""
        meta = np.empty((0,) * source.ndim, source.dtype)
        plain: Any = da.from_array(source, chunks=chunks, asarray=False, meta=meta)
        made: Self = cls.__new__(cls, plain.dask, plain.name, plain.chunks, meta=plain._meta)
        return made

    __dask_optimize__ = _Optimize()

    def __dask_postcompute__(self) -> Any:
        return _whole, (self.shape,)


def _extreme(extreme: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
    if not values.shape[-2]:
        return np.full((*values.shape[:-2], values.shape[-1]), np.nan, values.dtype)
    return np.asarray(extreme.reduce(values, axis=-2))


# Over repeats, as numpy has it but without its warnings of bins that nobody observed: filters of warnings are shared by
# all threads
_PASS_OVER_MISSING: dict[Any, Callable[[NDArray[Any]], NDArray[Any]]] = {
    np.nanmean: mean,
    np.nansum: partial(np.nansum, axis=-2),
    np.nanmin: partial(_extreme, np.fmin),
    np.nanmax: partial(_extreme, np.fmax),
}


class _Room:
    """The memory of one result; in another process, memory of its own."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape, self._lock = tuple(shape), threading.Lock()
        self._array: NDArray[Any] | None = None

    def __reduce__(self) -> Any:
        return _Room, (self._shape,)

    def array(self, dtype: Any) -> NDArray[Any]:
        with self._lock:
            if self._array is None:
                self._array = np.empty(self._shape, dtype)
            return self._array


def _fill(region: tuple[slice, ...], source: Reading | Applied, room: _Room) -> NDArray[Any]:
    """One block, as a part of the whole."""
    whole: Any = room.array(source.dtype)
    out: NDArray[Any] = whole[(..., *region)]  # an array also where it has no dimension
    source.into(region, out)
    return out


_given: weakref.WeakValueDictionary[int, NDArray[Any]] = weakref.WeakValueDictionary()
_giving = OwnLock()


def _whole(results: Any, shape: tuple[int, ...]) -> Any:
    """The array that all blocks are parts of; where they are not, or somebody has it already, a new one."""
    blocks = list(flatten(results)) if isinstance(results, list) else [results]
    base = blocks[0].base if blocks else None
    if base is not None and base.shape == shape and all(block.base is base for block in blocks):
        with _giving:
            if _given.get(id(base)) is not base:
                _given[id(base)] = base
                return base
    return finalize(results)


def _slices(chunks: tuple[int, ...]) -> list[slice]:
    edges = [0, *itertools.accumulate(chunks)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


class StoredDask(DirectArray):
    """A dask array of stored rows."""

    _held: tuple[str, Rows]
    _regular = False  # whether its chunks may be put anew, since nobody chose them

    @classmethod
    def of(cls, rows: Rows, chunks: Any) -> Self:
        """The array of some rows, in these chunks."""
        made = cls.over(Reading(rows), chunks)
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
        chunks = [
            _cut(c, k, next(sizes), self._regular)
            for c, k in zip(self.chunks, key, strict=True) if not isinstance(k, int)
        ]  # fmt: skip
        made = StoredDask.of(left, tuple(chunks))
        made._regular = self._regular
        return made

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

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """What numpy's functions do with it: those that pass over missing values need not read absent repeats."""
        rows = self.rows
        if func in _PASS_OVER_MISSING and len(args) == 1 and args[0] is self and rows is not None and rows.by_neuron:
            axis = kwargs.get("axis")
            axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
            plain = not {k: v for k, v in kwargs.items() if k != "axis" and v is not None and v is not np._NoValue}
            if isinstance(axis, int) and plain and rows.dims == (0, 1, 2, 3) and axis % 4 == 2:
                stored = mean_of_stored if func is np.nanmean else None
                return over(Applied(rows, _PASS_OVER_MISSING[func], rows.shape[3:], self.dtype, stored))
        return super().__array_function__(func, types, args, kwargs)

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


def _span(key: Any, size: int) -> tuple[slice, Any]:
    """A slice that holds what an indexer along one dimension stands for, and what that is in it."""
    if isinstance(key, slice):
        return key, slice(None)
    if isinstance(key, int):
        at = range(size)[key]
        return slice(at, at + 1), 0
    positions = np.where(key < 0, key + size, key)
    low = int(positions.min(initial=size))
    return slice(low, int(positions.max(initial=low - 1)) + 1), positions - low


def _cut(chunks: tuple[int, ...], key: Any, size: int, regular: bool) -> tuple[int, ...]:
    """Chunks along one dimension of what an indexer leaves of it: of slices as dask has it, else regular ones.

    Irregular ones cannot be written by xarray's ``to_zarr``: where nobody chose the chunks, there are none.
    """
    if isinstance(key, slice):
        positions = np.arange(sum(chunks))[key]
        number = np.searchsorted(np.cumsum(chunks), positions, side="right")
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), size]
        sizes = tuple(np.diff(edges).tolist())
        if not regular or (len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]):
            return sizes
    most = max(1, *chunks)
    return (*(most,) * (size // most), *((size % most,) if size % most or not size else ()))


class LazyRows(BackendArray):
    """Rows as an array of an xarray backend."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # Any slices and positions; what xarray makes of an empty slice with a negative step fails
            return self.rows.take(key.tuple).read()
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, lambda k: self.rows.take(k).read()
        )


class Applied:
    """What a function makes of stored responses, as what dask makes tasks of: one stimulus after the other.

    Parameters
    ----------
    rows : Rows
        Its last two dimensions are repeat and time.
    function : callable
        Takes responses [shape=(..., repeat, time)], and gives values [shape=(..., *size)] that do not depend on repeats
        of which nothing was observed: those that are not stored are left out.
    size : tuple of int
        Sizes that take the place of repeat and time.
    dtype : dtype
        Of the values.
    stored : callable, optional
        Gives the same of counts as they are stored, and of the value that stands there for what is missing, in memory
        `out` of the caller if there is some.
    """

    def __init__(
        self,
        rows: Rows,
        function: Callable[..., NDArray[Any]],
        size: tuple[int, ...],
        dtype: Any,
        stored: Callable[..., NDArray[Any]] | None = None,
    ) -> None:
        self.rows, self.function, self.stored = rows, function, stored
        self.shape, self.dtype = (*rows.shape[:-2], *size), np.dtype(dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """What dask asks for when it makes one of two steps: slices, integers, and positions along one dimension."""
        outer = _outer(key, self.shape)
        assert outer is not None, key
        spans, rest = zip(*map(_span, outer, self.shape), strict=True)
        out = np.empty(tuple(len(range(n)[k]) for n, k in zip(self.shape, spans, strict=True)), self.dtype)
        self.into(spans, out)
        return np.asarray(out[rest])

    def into(self, key: tuple[slice, ...], out: NDArray[Any]) -> None:
        """Put what a key stands for into memory of the caller."""
        lead = self.rows.ndim - 2
        rows = self.rows.take((*key[:lead], slice(None), slice(None)))
        # A stimulus and a chunk of neurons at a time: what fits the cache
        steps = {0: 1, 1: max(part.source.array.chunk[1] for part in rows.parts)}
        spans = [
            [slice(low, low + steps[dim]) for low in range(0, size, steps[dim])]
            for dim, size in zip(rows.dims[:lead], rows.shape, strict=False)
        ]
        whole = all(range(n)[k] == range(n) for n, k in zip(self.shape[lead:], key[lead:], strict=True))
        room = np.empty(0, np.float32)  # used again: fresh memory costs more than what is written to it
        for here in itertools.product(*spans):
            part = rows.take((*here, slice(None), slice(None)))
            counts = None if self.stored is None else part.counts()
            if counts is None:
                part = part.recorded()
                counts = None if self.stored is None else part.counts()
            if counts is not None and self.stored is not None:
                if whole:
                    self.stored(*counts, out=out[here])
                else:
                    out[here] = self.stored(*counts)[(Ellipsis, *key[lead:])]  # type: ignore[arg-type]
                continue
            size = math.prod(part.shape)
            room = room if len(room) >= size else np.empty(size, np.float32)
            values = self.function(part.read(room[:size].reshape(part.shape)))
            out[here] = values[(Ellipsis, *key[lead:])]  # type: ignore[arg-type]

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        return normalize_token((self.rows.__dask_tokenize__(), self.function, self.shape, self.dtype))


def applied(
    response: xr.DataArray,
    function: Callable[..., NDArray[Any]],
    size: tuple[int, ...],
    dtype: Any,
    stored: Callable[..., NDArray[Any]] | None = None,
) -> da.Array | None:
    """What a function makes of a lazy response [dims=(..., repeat, time)]; None where that holds no stored rows."""
    rows = rows_of(response) if response.chunks else None
    if rows is None or not rows.by_neuron or rows.dims[-2:] != (2, 3):
        return None
    return over(Applied(rows, function, size, dtype, stored))


def over(source: Applied) -> DirectArray:
    """The array of applied values, in chunks of as many stimuli as may be read in one task."""
    rows, chunks = source.rows, list(source.shape)
    if 0 in rows.dims[:-2]:
        stim = rows.dims.index(0)
        size = max(source.dtype.itemsize * math.prod(source.shape), 4 * math.prod(rows.shape) // _READ_MORE)
        chunks[stim] = max(1, source.shape[stim] * READ_BYTES // max(1, size))
    return DirectArray.over(source, tuple(chunks))


def chunked(rows: Rows, block: int) -> StoredDask:
    """Rows as a dask array, so many stimuli a task."""
    made = StoredDask.of(rows, (block, *rows.shape[1:]))
    made._regular = True
    return made


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
