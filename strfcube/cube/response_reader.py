"""Reading responses into arrays of the caller: from a local cube's own shards, or through dask.

The direct way (`strfcube.cube.shard_reader`) serves only an array that is still the very one that `strfcube.open` gave,
or a selection or concatenation of it made by this package: `register` notes the name of its dask graph, which every
transform changes. Everything else is read through dask.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from strfcube.cube.shard_reader import ShardedArray

Index = NDArray[np.intp]
_REMEMBERED = 4096
_ORIGINS: OrderedDict[str, tuple[Part, ...]] = OrderedDict()


@dataclass(frozen=True, eq=False)
class Part:
    """Where some neurons of an opened cube are stored.

    Attributes
    ----------
    path : str
        Local folder of the store.
    stim : ndarray of int [shape=(stim,)]
        Stored position of each stimulus; -1 for one that this store lacks.
    neuron : ndarray of int
        Stored position of each of the part's neurons; none for a ``stimulus``. Parts follow one another along it.
    """

    path: str
    stim: Index
    neuron: Index

    def take(self, stim: Index, neuron: Index) -> Part:
        """Cut to some positions."""
        return Part(self.path, self.stim[stim], self.neuron[neuron])


def register(ds: xr.Dataset, path: Path | str) -> None:
    """Note that the lazy arrays of a Dataset are those of a local store, just opened and not yet transformed."""
    if "://" not in str(path):
        stim, neuron = (np.arange(ds.sizes[dim]) for dim in ("stim", "neuron"))
        remember(ds, "response", (Part(str(path), stim, neuron),))
        remember(ds, "stimulus", (Part(str(path), stim, neuron[:0]),))


def remember(ds: xr.Dataset, variable: str, parts: tuple[Part, ...]) -> None:
    """Note where the lazy ``response`` or ``stimulus`` of a Dataset is stored."""
    name = _graph(ds, variable)
    if name:
        _ORIGINS[name] = parts
        _ORIGINS.move_to_end(name)
    while len(_ORIGINS) > _REMEMBERED:
        _ORIGINS.popitem(last=False)


def register_selected(selected: xr.Dataset, ds: xr.Dataset, stim: Index, neuron: Index) -> None:
    """Note that the lazy arrays of a Dataset are those of another at these positions."""
    if parts := origin(ds):
        remember(selected, "response", cut(parts, stim, neuron))
    if parts := origin(ds, "stimulus"):
        remember(selected, "stimulus", tuple(part.take(stim, neuron[:0]) for part in parts))


def origin(ds: xr.Dataset, variable: str = "response") -> tuple[Part, ...]:
    """Where a lazy variable is stored; empty where it is not known to be an opened array."""
    return _ORIGINS.get(_graph(ds, variable), ())


def _graph(ds: xr.Dataset, variable: str) -> str:
    """Name of a variable's dask graph; "" where it has none (asking an array that is not dask would load it)."""
    return "" if ds[variable].chunks is None else str(ds[variable].data.name)


def cut(parts: tuple[Part, ...], stim: Index, neuron: Index) -> tuple[Part, ...]:
    """Parts of the neurons at these positions, in their order."""
    first = np.cumsum([0, *(len(p.neuron) for p in parts)])
    owner = np.searchsorted(first, neuron, side="right") - 1
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(neuron)]
    found = []
    for a, b in itertools.pairwise(edges):
        p = int(owner[a]) if b > a else 0
        found.append(parts[p].take(stim, neuron[a:b] - first[p]))
    return tuple(found)


class ResponseReader:
    """Responses of some neurons of a stored cube, one stimulus at a time, into arrays of the caller.

    Parameters
    ----------
    parts : tuple of Part
        Where they are; stimuli are addressed by their position in ``Part.stim``.
    arrays : mapping of str to ShardedArray
        The opened ``response`` of each path.

    Raises
    ------
    StoreError
        On reading, where a shard that trials were kept in is lost or damaged.
    """

    def __init__(self, parts: tuple[Part, ...], arrays: dict[str, ShardedArray]) -> None:
        self.dtypes = {arrays[p.path].dtype for p in parts}
        self.fill = arrays[parts[0].path].fill
        # Of each run of neurons that one chunk holds: array, stored stimuli, chunk, positions here, rows there
        self._blocks: list[tuple[ShardedArray, Index, int, slice, slice | Index]] = []
        first = 0
        for part in parts:
            array = arrays[part.path]
            block, rows = np.divmod(part.neuron, array.chunk[1])
            edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]
            for a, b in itertools.pairwise(edges):
                row = rows[a:b]
                straight = np.array_equal(row, np.arange(row[0], row[0] + len(row)))
                there = slice(int(row[0]), int(row[0]) + len(row)) if straight else row
                self._blocks.append((array, part.stim, int(block[a]), slice(first + a, first + b), there))
            first += len(part.neuron)

    def read(
        self, stim: int, n_repeats: NDArray[Any], n_bins: int, out: NDArray[Any], mask: NDArray[np.bool_] | None = None
    ) -> None:
        """Decode one stimulus.

        Parameters
        ----------
        stim : int
            Position.
        n_repeats : ndarray of int [shape=(neuron,)]
            Repeats to read of each neuron; the rest of `out` is missing.
        n_bins : int
            Bins to read; the rest of `out` is missing.
        out : ndarray [shape=(neuron, repeat, time)]
            Float32, missing as NaN; or the one stored dtype, missing as `fill`.
        mask : ndarray of bool [shape=(neuron, repeat, time)], optional
            What is not missing.
        """
        missing = np.nan if out.dtype.kind == "f" else self.fill
        absent = [here for _, stored, _, here, _ in self._blocks if stored[stim] < 0]
        if absent:
            n_repeats = n_repeats.copy()
            for here in absent:
                n_repeats[here] = 0
        _clear(_runs(n_repeats, 0), n_bins, missing, out, mask)
        for array, stored, block, here, there in self._blocks:
            at = int(stored[stim])
            runs = _runs(n_repeats[here], here.start)
            step = array.chunk[2]
            most = max(count for _, _, count in runs)
            for k in range(-(-most // step)):
                chunk = array.read((at, block, k, 0))
                if chunk is None and array.lost((at, block, k, 0)):
                    raise StoreError(
                        f"{array.path}: the shard of stimulus {at} and neuron block {block} is not there, but "
                        f"trials of it were kept; run strfcube verify, and build the cube again"
                    )
                values = None if chunk is None else chunk[0, there, :, :n_bins]
                for a, b, count in runs:
                    repeats = slice(k * step, min(count, (k + 1) * step))
                    if repeats.start >= repeats.stop:
                        continue
                    piece = None if values is None else values[
                        a - here.start : b - here.start, : repeats.stop - repeats.start
                    ]  # fmt: skip
                    _decode(
                        piece, array.fill, missing, out[a:b, repeats, :n_bins],
                        None if mask is None else mask[a:b, repeats, :n_bins],
                    )  # fmt: skip


class LazyReader:
    """The same, of any ``response``, through dask: one task a read block, stimuli by slices.

    Parameters
    ----------
    response : DataArray
        Decoded: missing is NaN.
    neuron : ndarray of int
        Positions of the neurons to read.
    """

    def __init__(self, response: xr.DataArray, neuron: Index) -> None:
        response = response.transpose("stim", "neuron", "repeat", "time")
        low, high = (int(neuron.min()), int(neuron.max()) + 1) if len(neuron) else (0, 0)
        # A slice, then the rows of it in memory: an index array makes dask cut every chunk.
        self._data = response.isel(neuron=slice(low, high))
        rows = neuron - low
        self._rows: slice | Index = slice(None) if np.array_equal(rows, np.arange(high - low)) else rows

    def fetch(self, stims: list[int], *, threads: bool) -> list[NDArray[Any]]:
        """Values of some stimuli [shape=(neuron, repeat, time)] in one computation.

        Parameters
        ----------
        threads : bool
            Whether dask may use threads: in a forked process they hang once the parent has used them.
        """
        return [values[self._rows] for values in computed([self._data.isel(stim=s) for s in stims], threads=threads)]

    def place(
        self, values: NDArray[Any], n_repeats: NDArray[Any], n_bins: int, out: NDArray[Any], mask: NDArray[np.bool_]
    ) -> None:
        """Put fetched values into `out` and `mask`, as `ResponseReader.read` does."""
        runs = _runs(n_repeats, 0)
        _clear(runs, n_bins, np.nan, out, mask)
        for a, b, count in runs:
            if count:
                _decode(values[a:b, :count, :n_bins], math.nan, np.nan, out[a:b, :count, :n_bins],
                        mask[a:b, :count, :n_bins])  # fmt: skip


def computed(arrays: list[xr.DataArray], *, threads: bool) -> list[NDArray[Any]]:
    """Values of lazy arrays, in one computation.

    Parameters
    ----------
    threads : bool
        Whether dask may use threads: in a forked process they hang once the parent has used them.
    """
    if not arrays or arrays[0].chunks is None:
        return [array.values for array in arrays]
    compute: Any = import_module("dask").compute  # untyped
    return [
        np.asarray(v) for v in compute(*(a.data for a in arrays), scheduler="threads" if threads else "synchronous")
    ]


def _clear(
    runs: list[tuple[int, int, int]], n_bins: int, missing: float, out: NDArray[Any], mask: NDArray[np.bool_] | None
) -> None:
    """Set what runs of neurons lack to missing: repeats from their count on, and bins from `n_bins` on."""
    total = out.shape[0] * out.shape[1]
    sparse = 2 * sum((b - a) * count for a, b, count in runs) < total
    for array, value in ((out, missing), (mask, False)):
        if array is None:
            continue
        if sparse:  # one call for all is cheaper than many for most
            array.fill(value)
            continue
        for a, b, count in runs:
            if count < array.shape[1]:  # a row is copied at twice the speed at which a scalar is spread
                array[a:b, count:] = np.full((array.shape[1] - count, array.shape[2]), value, array.dtype)
            if count and n_bins < array.shape[2]:
                array[a:b, :count, n_bins:] = value


def _decode(
    values: NDArray[Any] | None, fill: float, missing: float, out: NDArray[Any], mask: NDArray[np.bool_] | None
) -> None:
    """Put stored values into `out` and `mask`; None means that all are missing."""
    if values is None:
        out[...] = missing
        if mask is not None:
            mask[...] = False
        return
    np.copyto(out, values, casting="unsafe")
    if mask is None:
        return
    if values.dtype.kind == "f":
        np.equal(values, values, out=mask)  # NaN differs from itself; it is already what `out` wants
        return
    # Bins outside a recorded window are rare: the common path writes everything once.
    if values.max(initial=0) < fill:
        mask[...] = True
    else:
        np.not_equal(values, fill, out=mask)
        np.copyto(out, missing, where=~mask)


def _runs(counts: NDArray[Any], first: int) -> list[tuple[int, int, int]]:
    """Neighbours with one count: (start, stop, count), counted from `first`."""
    if (counts == counts[0]).all():
        return [(first, first + len(counts), int(counts[0]))]
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    return [(first + a, first + b, int(counts[a])) for a, b in itertools.pairwise(edges)]
