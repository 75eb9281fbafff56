"""Where the values of an array are stored: rows of opened cubes, chosen without reading, read without detours.

`Rows` are what an array of an opened cube carries with it (`strfcube.cube.lazy_array`). Taking a part of them gives
Rows again; whatever else is done to an array gives one that carries none, so that an array never claims to be stored
where its values are not.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from strfcube.cube.pieces import as_span, pieces, read_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from strfcube.cube.opened import Store, StoredArray
    from strfcube.cube.pieces import Index


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
                read_at(part.source, (part.stim, part.neuron, *self.rest), out[:, first : first + len(part.neuron)])
                first += len(part.neuron)
        else:
            owner = self._owner()
            out[owner < 0] = np.nan
            for i, part in enumerate(self.parts):
                if (mine := np.flatnonzero(owner == i)).size:
                    here = as_span(mine)
                    values = out[here] if isinstance(here, slice) else np.empty((len(mine), *out.shape[1:]), out.dtype)
                    read_at(part.source, (part.stim[mine], *self.rest), values)
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
