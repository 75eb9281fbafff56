"""Where the values of an array are stored: rows of opened cubes, chosen without reading, read without detours.

`Rows` are what an array of an opened cube carries with it (`strfcube.cube.lazy_array`). Taking a part of them gives
Rows again; whatever else is done to an array gives one that carries none, so that an array never claims to be stored
where its values are not.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from strfcube.cube.metadata import Root
from strfcube.cube.shard_reader import ShardedArray, stored_array
from strfcube.errors import StoreError
from strfcube.transport.connect import Transport, Version, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from strfcube.cube.shard_index import Place
    from strfcube.cube.shard_reader import Several

Index = NDArray[np.intp]
Span = slice | Index
_NOWHERE = np.arange(0)


@dataclass(frozen=True)
class Store:
    """An opened cube: its place, and what tells it from another one that is put there later.

    Attributes
    ----------
    path : str
        Local folder or URL.
    version : Version
        Which root metadata were there.
    digest : str, optional
        The cube's own; without it, root metadata that were put there later are another cube's, whatever they say.
    cache_dir : str, optional
        As `strfcube.transport.connect` takes it.
    """

    path: str
    version: Version | None
    digest: str = ""
    cache_dir: str | None = None

    @classmethod
    def opened(cls, path: str, cache_dir: str | None = None) -> Self:
        """The cube that is there now; its digest is not read."""
        return cls(path, _version(connect(path, cache_dir)), cache_dir=cache_dir)

    @property
    def files(self) -> Transport:
        """Where its bytes come from."""
        return connect(self.path, self.cache_dir)

    def check(self) -> None:
        """Find out whether the cube is still the one that was opened.

        Raises
        ------
        StoreError
            If it was built again, moved or removed since.
        """
        files = self.files
        if _version(files) == self.version:
            return
        try:
            attrs = json.loads(files.get("zarr.json") or b"")["attributes"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{self.path} is not there any more: it was moved or removed while it was open") from None
        # A copy, or attributes that were edited, leave the arrays as they are
        if not self.digest or attrs.get("digest") != self.digest:
            raise StoreError(f"{self.path} was built again while it was open: open it again")

    def sounds(self) -> Sounds | None:
        """Its waveforms; None where it was built without.

        Raises
        ------
        StoreError
            As `check`, or if they cannot be read.
        """
        from strfcube.cube.groups import has_group, in_memory, open_group

        there = has_group(self.path, "audio")
        self.check()
        if not there:
            return None
        table = open_group(self.path, "audio", self.cache_dir)[["row_size", "rate"]]
        table = in_memory(table, f"{self.path}/audio")
        size = table["row_size"].values
        files = self.files
        samples = stored_array(files, Root.read(files), "audio/samples")
        return Sounds(samples, np.cumsum(size) - size, size, table["rate"].values)


@dataclass(frozen=True, eq=False)
class Sounds:
    """The waveforms of a cube, one after the other.

    Attributes
    ----------
    samples : ShardedArray
        All of them.
    start, size : ndarray of int [shape=(stim,)]
        Where that of each stimulus lies; size 0 where it has none.
    rate : ndarray of float [shape=(stim,)]
        In Hz.
    """

    samples: ShardedArray
    start: Index
    size: Index
    rate: NDArray[np.float64]

    def read(self, stim: int) -> NDArray[Any]:
        """Samples of one stimulus, as they are stored."""
        start = int(self.start[stim])
        return self.samples.values(start, start + int(self.size[stim]))

    def fetch(self, stims: Sequence[int]) -> None:
        """Ask for what will be read soon; see `ShardedArray.fetch`."""
        step = self.samples.chunk[0]
        spans = [(int(self.start[s]), int(self.start[s] + self.size[s])) for s in stims if self.size[s]]
        self.samples.fetch((n,) for a, b in spans for n in range(a // step, -(-b // step)))


def _version(files: Transport) -> Version | None:
    found = files.tail("zarr.json", 1)
    return None if found is None else found[1]


class StoredArray:
    """One array of an opened cube, with what tells a lost shard from one that holds nothing.

    Parameters
    ----------
    store : Store
        The cube.
    array : ShardedArray
        Its array, over stim and further dimensions.
    kept : ndarray [shape=(stim,) or (stim, neuron)], optional
        Not zero where the cube says that there are values. Default: everywhere.
    """

    def __init__(self, store: Store, array: ShardedArray, kept: NDArray[Any] | None = None) -> None:
        self.store, self.array = store, array
        # Of each shard, whether it must be there
        known = 1 if kept is None else kept.ndim
        # A part of the repeats or bins, in shards that others wrote, may hold nothing and not be there
        rest = zip(array.shard[known:], array.shape[known:], strict=True)
        self._expected: NDArray[np.bool_] = np.array(all(s >= n for s, n in rest))
        if kept is not None and kept.size and self._expected:
            found = kept > 0
            for dim, size in enumerate(array.shard[: kept.ndim]):
                found = np.logical_or.reduceat(found, np.arange(0, kept.shape[dim], size), axis=dim)
            self._expected = found
        self._known: set[tuple[int, ...]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known": set()}

    def keeping(self) -> StoredArray:
        """The same, which keeps decoded chunks in memory."""
        other = copy.copy(self)
        other.array, other._known = self.array.keeping(), set()
        return other

    def fetch(self, chunks: Iterable[Place]) -> None:
        """Ask for chunks that will be read soon; see `ShardedArray.fetch`. Raises as `read` does."""
        if not self.array.remote:
            return
        chunks = list(chunks)
        with self._same():
            self.array.fetch(chunks)
        self._settle(*chunks)

    def read(self, at: tuple[int, ...]) -> NDArray[Any] | None:
        """Decode a chunk, as `ShardedArray.read` does.

        Raises
        ------
        StoreError
            If its shard is damaged or lost, or belongs to a cube that was built there since.
        """
        if self.array.index.shard_of(at) not in self._known:
            self._settle(at)
        return self.array.read(at)

    def begun(self, places: Sequence[tuple[int, ...]]) -> Callable[[], Several]:
        """Read several chunks, and decode them later, as `ShardedArray.begun` does; raises as `read` does."""
        for at in places:
            if self.array.index.shard_of(at) not in self._known:
                self._settle(at)
        return self.array.begun(places)

    def has(self, at: tuple[int, ...]) -> bool:
        """Whether a chunk is stored; raises as `read` does."""
        if self.array.index.shard_of(at) not in self._known:
            self._settle(at)
        return self.array.has(at)

    def repeats(self, at: tuple[int, ...]) -> int:
        """Repeats that `read` gives of a chunk, 0 where it is not stored; raises as `read` does."""
        if self.array.index.shard_of(at) not in self._known:
            self._settle(at)
        return self.array.repeats(at)

    def open(self, chunks: Iterable[Place]) -> None:
        """Ask at once for the indexes of the shards of some chunks. Raises as `read` does."""
        if self.array.remote:
            chunks = list(chunks)
            with self._same():
                self.array.index.open(chunks)
            self._settle(*chunks)

    @contextmanager
    def _same(self) -> Iterator[None]:
        """Of what does not fit, say first that the cube was built again, if it was."""
        try:
            yield
        except StoreError:
            self.store.check()
            raise

    def _settle(self, *chunks: Place) -> None:
        """Look once at the shard of each chunk."""
        shard_of = self.array.index.shard_of
        new = {shard: at for at in chunks if (shard := shard_of(at)) not in self._known}
        if not new:
            return
        # Asking opens it: from here on it is this very file that is read
        with self._same():
            lost = [shard for shard, at in new.items() if self.array.index.lost(at)]
        self.store.check()
        for shard in lost:
            if self.array.index.built(new[shard]) or self._expected[shard[: self._expected.ndim]]:
                raise self.array.index.gone(new[shard])
        self._known.update(new)


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one opened array.

    Attributes
    ----------
    source : StoredArray
        The array.
    stim : ndarray of int
        Stored position of each stimulus; -1 for one that the cube lacks.
    neuron : ndarray of int
        Stored position of each of the part's neurons; none for a ``stimulus``.
    """

    source: StoredArray
    stim: Index
    neuron: Index

    @property
    def store(self) -> Store:
        """The cube."""
        return self.source.store


@dataclass(frozen=True, eq=False)
class Rows:
    """Which stored rows an array holds, in its order.

    Attributes
    ----------
    parts : tuple of Part
        Of a response, parts follow one another along neuron. Of a stimulus, the first part that has it gives it.
    rest : tuple of ndarray of int
        Positions along the further dimensions: (repeat, time) or (frequency, time). Past the end of a part is NaN.
    dims : tuple of int
        The array's own dimensions among (stim, neuron, repeat, time) or (stim, frequency, time), in its order. Of one
        that an integer has taken, a single position is left.
    """

    parts: tuple[Part, ...]
    rest: tuple[Index, ...]
    dims: tuple[int, ...]

    @classmethod
    def whole(cls, source: StoredArray) -> Self:
        """All of an array."""
        shape = source.array.shape
        neuron = np.arange(shape[1] if len(shape) == 4 else 0)
        rest = tuple(np.arange(n) for n in shape[2 if len(shape) == 4 else 1 :])
        return cls((Part(source, np.arange(shape[0]), neuron),), rest, tuple(range(len(shape))))

    @property
    def by_neuron(self) -> bool:
        """Whether these are responses."""
        return len(self.parts[0].source.array.shape) == 4

    @cached_property
    def _full(self) -> tuple[int, ...]:
        """Sizes along all stored dimensions."""
        first = (len(self.parts[0].stim), *((sum(len(p.neuron) for p in self.parts),) if self.by_neuron else ()))
        return (*first, *map(len, self.rest))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self._full[d] for d in self.dims)

    @property
    def ndim(self) -> int:
        """Number of its dimensions."""
        return len(self.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values: counts and traces alike."""
        return np.dtype(np.float32)

    @property
    def in_order(self) -> bool:
        """Whether it has all of its dimensions in order, and the stores' own repeats and bins from the first on."""
        straight = all(np.array_equal(r, np.arange(len(r))) for r in self.rest)
        return straight and self.dims == tuple(range(len(self._full)))

    @property
    def entire(self) -> bool:
        """Whether it has all repeats and bins of its stores, in order."""
        lengths = [p.source.array.shape[-len(self.rest) :] for p in self.parts]
        return self.in_order and all(len(r) >= n for r, n in zip(self.rest, np.max(lengths, axis=0), strict=True))

    def keeping(self) -> Rows:
        """The same, from arrays that keep decoded chunks in memory."""
        kept = {id(p.source): p.source for p in self.parts}
        kept = {key: source.keeping() for key, source in kept.items()}
        return dataclasses.replace(self, parts=tuple(Part(kept[id(p.source)], p.stim, p.neuron) for p in self.parts))

    def take(self, key: Sequence[Any]) -> Rows:
        """A part, by an integer, a slice or positions along each dimension; an integer takes the dimension away."""
        positions: list[Index | None] = [None] * len(self._full)
        dims = []
        for dim, k in zip(self.dims, key, strict=True):
            if not isinstance(k, int | np.integer):
                dims.append(dim)
            size = self._full[dim]
            if not (isinstance(k, slice) and k.indices(size) == (0, size, 1)):
                at = np.arange(size)[k]
                positions[dim] = np.atleast_1d(at).astype(np.intp, copy=False)
        parts, rest = self.parts, positions[-len(self.rest) :]
        if positions[0] is not None:
            stim = positions[0]
            parts = tuple(Part(p.source, p.stim[stim], p.neuron) for p in parts)
        if self.by_neuron and positions[1] is not None:
            parts = _of_neurons(parts, positions[1])
        return Rows(parts, tuple(r if p is None else r[p] for r, p in zip(self.rest, rest, strict=True)), tuple(dims))

    def recorded(self) -> Rows:
        """The same without the repeats of which nothing is stored: all of them are missing values."""
        if not self.by_neuron:
            return self
        there = np.zeros(len(self.rest[0]), bool)
        for part in self.parts:
            array = part.source.array
            number, within = np.divmod(self.rest[0], array.chunk[2])
            inside = self.rest[0] < array.shape[2]
            chunks = [
                (stim, block, k, time)
                for k in np.unique(number[inside]).tolist()
                for stim in np.unique(part.stim[part.stim >= 0] // array.chunk[0]).tolist()
                for block in np.unique(part.neuron // array.chunk[1]).tolist()
                for time in range(array.grid[3])
            ]
            if array.repeats_first:
                part.source.fetch(chunks)
            for at in chunks:
                mine = inside & (number == at[2])
                if not there[mine].all():
                    there |= mine & (within < part.source.repeats(at))
        return dataclasses.replace(self, rest=(self.rest[0][there], self.rest[1]))

    def transposed(self, order: Sequence[int]) -> Rows:
        """The same with its dimensions in another order."""
        return dataclasses.replace(self, dims=tuple(self.dims[i] for i in order))

    def read(self, into: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The values, in new memory or that of the caller."""
        if into is not None and self.dims != tuple(range(len(self._full))):
            into[...] = self.read()
            return into
        out = np.empty(self._full, np.float32) if into is None else into
        if self.by_neuron:
            first = 0
            for part in self.parts:
                _read(part.source, (part.stim, part.neuron, *self.rest), out[:, first : first + len(part.neuron)])
                first += len(part.neuron)
        else:
            owner = self._owner()
            out[owner < 0] = np.nan
            for i, part in enumerate(self.parts):
                if (mine := np.flatnonzero(owner == i)).size:
                    here = as_span(mine)
                    values = out[here] if isinstance(here, slice) else np.empty((len(mine), *out.shape[1:]), out.dtype)
                    _read(part.source, (part.stim[mine], *self.rest), values)
                    if not isinstance(here, slice):
                        out[here] = values
        gone = [d for d in range(out.ndim) if d not in self.dims]
        kept = [d for d in range(out.ndim) if d in self.dims]
        out = out[tuple(0 if d in gone else slice(None) for d in range(out.ndim))]
        return out.transpose([kept.index(d) for d in self.dims])

    def counts(self) -> tuple[NDArray[Any], int] | None:
        """Counts as they are stored, and the value that stands for missing ones; None unless they are in one chunk.

        Repeats at the end that the chunk does not hold are left out. Valid until the same thread reads something else.
        """
        source = self.parts[0].source
        array = source.array
        if not self.by_neuron or len(self.parts) != 1 or array.dtype.kind != "u":
            return None
        at, key = [], []
        wanted = (self.parts[0].stim, self.parts[0].neuron, *self.rest)
        for positions, chunk, size in zip(wanted, array.chunk, array.shape, strict=True):
            found, outside = pieces(positions, chunk, size)
            if len(found) != 1 or outside.size or not isinstance(found[0][2], slice):
                return None
            at.append(found[0][0])
            key.append(found[0][2])
        values = source.read(tuple(at)) if array.fill == np.iinfo(array.dtype).max else None
        if values is None:
            return None
        values = values[tuple(key)]
        if not values.size:
            return None
        values = values[tuple(slice(None) if d in self.dims else 0 for d in range(4))]
        kept = sorted(self.dims)
        return values.transpose([kept.index(d) for d in self.dims]), int(array.fill)

    def _owner(self) -> Index:
        """Of each stimulus, the first part that has it; -1 where none does."""
        there = np.stack([p.stim for p in self.parts]) >= 0
        return np.where(there.any(0), there.argmax(0), -1)

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        parts = [(*dataclasses.astuple(p.store), p.source.array.path, p.stim, p.neuron) for p in self.parts]
        return normalize_token((type(self).__name__, parts, self.rest, self.dims))


def joined(rows: Sequence[Rows], stims: Sequence[Index], sizes: Sequence[int]) -> Rows:
    """Rows of several arrays as those of one.

    Parameters
    ----------
    rows : sequence of Rows
        With all of their dimensions in order.
    stims : sequence of ndarray of int [shape=(stim,)]
        Position in each of each stimulus; -1 where it lacks it.
    sizes : sequence of int
        Lengths along the further dimensions.
    """
    parts = [
        Part(p.source, np.where(s >= 0, p.stim[s], -1), p.neuron)
        for several, s in zip(rows, stims, strict=True)
        for p in several.parts
    ]
    return Rows(tuple(parts), tuple(np.arange(n) for n in sizes), rows[0].dims)


def _of_neurons(parts: tuple[Part, ...], neuron: Index) -> tuple[Part, ...]:
    """Parts of the neurons at these positions, in their order."""
    if len(parts) == 1:
        return (Part(parts[0].source, parts[0].stim, parts[0].neuron[neuron]),)
    first = np.cumsum([0, *(len(p.neuron) for p in parts)])
    owner = np.searchsorted(first, neuron, side="right") - 1
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(neuron)]
    found = []
    for a, b in itertools.pairwise(edges):
        p = int(owner[a]) if b > a else 0
        found.append(Part(parts[p].source, parts[p].stim, parts[p].neuron[neuron[a:b] - first[p]]))
    return tuple(found)


def _straight(index: Index) -> bool:
    """Whether positions follow one another."""
    size = len(index)
    return size > 0 and index[-1] - index[0] == size - 1 and bool((index[1:] - index[:-1] == 1).all())


def as_span(index: Index) -> Span:
    """Positions at equal steps as a slice, which reads faster; others as they are."""
    if _straight(index):
        return slice(int(index[0]), int(index[-1]) + 1, 1)
    if not len(index):
        return slice(0, 0)
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step == 0 or (len(index) > 2 and (np.diff(index) != step).any()):
        return index
    stop = int(index[-1]) + (1 if step > 0 else -1)
    return slice(int(index[0]), None if stop < 0 else stop, step)


def pieces(positions: Index, chunk: int, size: int) -> tuple[list[tuple[int, Span, Span]], Index]:
    """Cut positions along one dimension by the chunks that hold them.

    Returns
    -------
    list of (chunk, positions here, positions in the chunk)
    outside : ndarray of int
        Positions here that are in no chunk.
    """
    if _straight(positions):
        first, last = int(positions[0]), int(positions[-1]) + 1
        low, high = min(max(first, 0), last), max(min(last, size), first)
        if high <= low:
            return [], np.arange(len(positions))
        bounds = [(k, max(low, k * chunk), min(high, (k + 1) * chunk)) for k in range(low // chunk, -(-high // chunk))]
        straight: list[tuple[int, Span, Span]] = [
            (k, slice(a - first, b - first), slice(a - k * chunk, b - k * chunk)) for k, a, b in bounds
        ]
        if (low, high) == (first, last):
            return straight, _NOWHERE
        return straight, np.r_[0 : low - first, high - first : last - first]
    low, high = (int(positions.min()), int(positions.max())) if len(positions) else (0, -1)
    if 0 <= low <= high < size and low // chunk == high // chunk:
        return [(low // chunk, slice(0, len(positions), 1), as_span(positions - low // chunk * chunk))], _NOWHERE
    inside = (positions >= 0) & (positions < size)
    here = np.flatnonzero(inside)
    number, within = np.divmod(positions[here], chunk)
    if (np.diff(number) < 0).any():  # each chunk once, in whatever order its rows are wanted
        order = np.argsort(number, kind="stable")
        here, number, within = here[order], number[order], within[order]
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
    found = [(int(number[a]), as_span(here[a:b]), as_span(within[a:b])) for a, b in itertools.pairwise(edges) if b > a]
    return found, np.flatnonzero(~inside)


def _read(source: StoredArray, positions: Sequence[Index], out: NDArray[np.float32]) -> None:
    """Decode what lies at positions along every dimension of a stored array."""
    array = source.array
    if not out.size:
        return
    parts = []
    for dim, (at, chunk, size) in enumerate(zip(positions, array.chunk, array.shape, strict=True)):
        found, outside = pieces(at, chunk, size)
        if outside.size:
            out[(slice(None),) * dim + (as_span(outside),)] = np.nan
        parts.append(found)
    source.fetch(tuple(number for number, _, _ in across) for across in itertools.product(*parts))
    rest = list(itertools.product(*parts[1:]))
    for first in parts[0]:
        wanted = [(first, *others) for others in rest]
        stored = [across for across in wanted if source.has(_chunk(across))]
        begun = None if not stored else _lying(source.read(_chunk(stored[0])), stored[0], array.chunk)
        held = 0 if begun is None or begun[0] is None else begun[0].size * len(stored)
        sparse = isinstance(first[1], slice) and 2 * held < out[first[1]].size
        if sparse:
            out[first[1]] = np.nan  # all of it at once takes half the time that parts of it do
        for across in stored if sparse else wanted:
            if begun is not None and across is stored[0]:
                values, spans, blank = begun
            else:
                values, spans, blank = _lying(source.read(_chunk(across)), across, array.chunk)
            _put(out, spans, values, array.fill)
            for beyond in () if sparse else blank:
                _put(out, beyond, None, array.fill)


def _chunk(across: Sequence[tuple[int, Span, Span]]) -> Place:
    return tuple([number for number, _, _ in across])


def _lying(
    values: NDArray[Any] | None, across: Sequence[tuple[int, Span, Span]], chunk: Place
) -> tuple[NDArray[Any] | None, tuple[Span, ...], list[tuple[Span, ...]]]:
    """What of a chunk is wanted, where it goes, and where the repeats at its end go that are blank."""
    spans, blank = [here for _, here, _ in across], []
    if values is not None:
        for dim, (_, _, there) in enumerate(across):
            if values.shape[dim] < chunk[dim]:
                there, spans[dim], beyond = _held(there, spans[dim], values.shape[dim])
                blank.append((*spans[:dim], beyond, *spans[dim + 1 :]))
            values = values[(slice(None),) * dim + (there,)]
    return values, tuple(spans), blank


def _held(there: Span, here: Span, size: int) -> tuple[Span, Span, Span]:
    """Positions in a chunk of so many values and those here, where there are values, and those here beyond them."""
    if isinstance(there, slice) and isinstance(here, slice) and {there.step, here.step} <= {None, 1}:
        cut = max(0, min(size, there.stop) - there.start)
        edge = here.start + cut
        return slice(there.start, there.start + cut), slice(here.start, edge), slice(edge, here.stop)
    inside, at = (where := _index(there)) < size, _index(here)
    return as_span(where[inside]), as_span(at[inside]), as_span(at[~inside])


def _index(span: Span) -> Index:
    if not isinstance(span, slice):
        return span
    return np.arange(span.start, -1 if span.stop is None else span.stop, span.step or 1)


def _put(out: NDArray[np.float32], spans: tuple[Span, ...], values: NDArray[Any] | None, fill: float) -> None:
    """Decode stored values into a region of `out`; None means that all are missing."""
    scattered = sum(not isinstance(span, slice) for span in spans)
    if scattered:
        shape = tuple(len(_index(span)) for span in spans)
        decoded = np.empty(shape, np.float32)
        decode(values, fill, decoded)
        out[spans if scattered == 1 else np.ix_(*map(_index, spans))] = decoded
    else:
        decode(values, fill, out[spans])


def decode(values: NDArray[Any] | None, fill: float, out: NDArray[np.float32]) -> None:
    """Put stored values into `out`, missing ones as NaN; None means that all are missing."""
    if values is None:
        out[...] = np.nan
        return
    np.copyto(out, values, casting="unsafe")
    if values.dtype.kind != "f" and values.max(initial=0) == fill:
        np.copyto(out, np.float32(np.nan), where=values == fill)
