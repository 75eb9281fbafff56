"""Reading responses into arrays of the caller, one stimulus at a time: from a cube's own shards, or through dask."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.cube.pieces import as_span, decode, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

    from strfcube.cube.opened import StoredArray
    from strfcube.cube.pieces import Span
    from strfcube.cube.stored_rows import Rows

Index = NDArray[np.intp]
Chunks = Mapping[tuple["StoredArray", tuple[int, ...]], NDArray[Any] | None]
Put = Callable[[NDArray[Any], NDArray[np.bool_] | None], None]


class ResponseReader:
    """Responses of some neurons of a stored cube, one stimulus at a time, into arrays of the caller.

    Parameters
    ----------
    rows : Rows
        Where they are, all of their dimensions in order.

    Raises
    ------
    NotImplementedError
        If they are stored otherwise than in chunks of one stimulus with all bins.
    StoreError
        On reading, where a shard that trials were kept in is lost or damaged.
    """

    def __init__(self, rows: Rows) -> None:
        arrays = [part.source.array for part in rows.parts]
        if not rows.in_order or any(a.chunk[0] != 1 or a.chunk[3] < a.shape[3] for a in arrays):
            raise NotImplementedError("stored otherwise")
        self.dtypes = {array.dtype for array in arrays}
        self.fill = arrays[0].fill
        # Of the neurons that one chunk holds: array, stored stimuli, chunk, positions here, rows there
        self._blocks: list[tuple[StoredArray, Index, int, Span, Span]] = []
        first = 0
        for part, array in zip(rows.parts, arrays, strict=True):
            for block, at, there in pieces(part.neuron, array.chunk[1], array.shape[1])[0]:
                here = slice(at.start + first, at.stop + first, at.step) if isinstance(at, slice) else at + first
                self._blocks.append((part.source, part.stim, block, here, there))
            first += len(part.neuron)
        self._size = first

    @cached_property
    def decoded(self) -> int:
        """Neurons that are decoded where those that are wanted are read: all that lie in a chunk with one of them."""
        return sum(source.array.chunk[1] for source, *_ in self._blocks)

    @property
    def remote(self) -> bool:
        """Whether `fetch` is of use."""
        return any(source.array.remote for source, *_ in self._blocks)

    def fetch(self, stims: Sequence[int], n_repeats: NDArray[Any]) -> None:
        """Ask for what will be read soon; see `strfcube.cube.shard_reader.ShardedArray.fetch`.

        Parameters
        ----------
        stims : sequence of int
            Positions.
        n_repeats : ndarray of int [shape=(len(stims), neuron)]
            Repeats that will be read.
        """
        if self.remote:
            for source, chunks in self._wanted(stims, n_repeats).items():
                source.fetch(chunks)

    def _wanted(self, stims: Sequence[int], n_repeats: NDArray[Any]) -> dict[StoredArray, list[tuple[int, ...]]]:
        """The chunks that hold repeats of stimuli, of each array."""
        wanted: dict[StoredArray, list[tuple[int, ...]]] = {}
        for source, stored, block, here, _ in self._blocks:
            chunks, step = wanted.setdefault(source, []), source.array.chunk[2]
            most = n_repeats[:, here].max(1, initial=0).tolist()
            for at, count in zip(stored[stims].tolist(), most, strict=True):
                if at >= 0:
                    chunks += [(at, block, k, 0) for k in range(-(-count // step))]
        return wanted

    def begun(self, stims: Sequence[int], n_repeats: NDArray[Any], n_bins: NDArray[Any]) -> Put:
        """Read the chunks of several stimuli; what it gives decodes them, small ones in one go.

        Parameters
        ----------
        stims : sequence of int
            Positions.
        n_repeats : ndarray of int [shape=(len(stims), neuron)]
            Repeats to read of each neuron.
        n_bins : ndarray of int [shape=(len(stims),)]
            Bins to read.

        Returns
        -------
        callable
            Takes arrays [shape=(len(stims), neuron, repeat, time)], those of `read`.
        """
        wanted = self._wanted(stims, n_repeats)
        begun = [(source, places, source.begun(places)) for source, places in wanted.items()]
        _, _, _, here, there = self._blocks[0]
        alike = len(self._blocks) == 1 and isinstance(here, slice) and len(begun[0][1]) == len(stims)
        alike = alike and bool((n_bins == n_bins[0]).all() and (n_repeats == n_repeats[0, 0]).all())

        def put(out: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
            found: list[Any] = [decoded() for _, _, decoded in begun]
            if alike and all(chunk is not None and chunk.shape[2] >= n_repeats[0, 0] for chunk in found[0]):
                missing = np.nan if out.dtype.kind == "f" else self.fill
                count, bins, rows = int(n_repeats[0, 0]), int(n_bins[0]), (-1, *out.shape[2:])
                runs = [(0, out.shape[0] * out.shape[1], count)]
                _clear(runs, bins, missing, out.reshape(rows), None if mask is None else mask.reshape(rows))
                stacked = isinstance(found[0], np.ndarray)
                parts = [(slice(None), found[0][:, 0])] if stacked else [(b, c[0]) for b, c in enumerate(found[0])]
                for b, values in parts:
                    _decode(
                        values[..., there, :count, :bins], begun[0][0].array.fill, missing, out[b, ..., :count, :bins],
                        None if mask is None else mask[b, ..., :count, :bins],
                    )  # fmt: skip
                return
            chunks = {
                (source, at): chunk
                for (source, places, _), several in zip(begun, found, strict=True)
                for at, chunk in zip(places, several, strict=True)
            }
            for b, stim in enumerate(stims):
                self.read(stim, n_repeats[b], int(n_bins[b]), out[b], None if mask is None else mask[b], chunks)

        return put

    def read(
        self, stim: int, n_repeats: NDArray[Any], n_bins: int, out: NDArray[Any],
        mask: NDArray[np.bool_] | None = None, chunks: Chunks | None = None,
    ) -> None:  # fmt: skip
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
        chunks : mapping, optional
            The chunks that are needed, by array and place. Default: they are read now.
        """
        missing = np.nan if out.dtype.kind == "f" else self.fill
        absent = [here for _, stored, _, here, _ in self._blocks if stored[stim] < 0]
        if absent:
            n_repeats = n_repeats.copy()
            for here in absent:
                n_repeats[here] = 0
        every = _runs(n_repeats)
        _clear(every, n_bins, missing, out, mask)
        for source, stored, block, here, there in self._blocks:
            runs = _within(every, here) if isinstance(here, slice) and here.step == 1 else _runs(n_repeats[here])
            step = source.array.chunk[2]
            part, seen = out[here], None if mask is None else mask[here]  # views, or copies that go back below
            for k in range(-(-max(count for _, _, count in runs) // step)):
                at = int(stored[stim]), block, k, 0
                chunk = source.read(at) if chunks is None else chunks[source, at]
                values = None if chunk is None else chunk[0, there, :, :n_bins]
                for a, b, count in runs:
                    repeats = slice(k * step, min(count, (k + 1) * step))
                    if repeats.start >= repeats.stop:
                        continue
                    held = min(repeats.stop, repeats.start + (0 if values is None else values.shape[1]))
                    for low, high in ((repeats.start, held), (held, repeats.stop)):
                        if low < high:
                            _decode(
                                values[a:b, : high - low] if low < held and values is not None else None,
                                source.array.fill, missing, part[a:b, low:high, :n_bins],
                                None if seen is None else seen[a:b, low:high, :n_bins],
                            )  # fmt: skip
            if not isinstance(here, slice):
                out[here] = part
                if mask is not None:
                    mask[here] = seen

    def read_rows(
        self, stim: int, neuron: Index, repeat: Index, n_bins: int, out: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        """Decode some trials of one stimulus; chunks of which none is asked for are not read.

        Parameters
        ----------
        stim : int
            Position.
        neuron, repeat : ndarray of int [shape=(trial,)]
            Positions.
        n_bins, mask
            As for `read`.
        out : ndarray [shape=(trial, time)]
            As for `read`.
        """
        missing = np.nan if out.dtype.kind == "f" else self.fill
        out[:, n_bins:] = missing
        if mask is not None:
            mask[:, n_bins:] = False
        of_block, in_block = self._places
        for number, mine in _groups(of_block[neuron]):
            source, stored, block, _, _ = self._blocks[number]
            step, at = source.array.chunk[2], int(stored[stim])
            for k, some in _groups(repeat[mine] // step):
                which = mine[some]
                chunk = None if at < 0 else source.read((at, block, k, 0))
                values = None
                if chunk is not None:
                    rows, places = in_block[neuron[which]], repeat[which] - k * step
                    held = places < chunk.shape[2]  # the others are blank
                    values = np.full((len(which), n_bins), source.array.fill, chunk.dtype)
                    values[held] = chunk[0, rows[held], places[held], :n_bins]
                span = as_span(which)
                to = out[span, :n_bins]  # views, or copies that go back below
                seen = None if mask is None else mask[span, :n_bins]
                _decode(values, source.array.fill, missing, to, seen)
                if not isinstance(span, slice):
                    out[span, :n_bins] = to
                    if mask is not None:
                        mask[span, :n_bins] = seen

    @cached_property
    def _places(self) -> tuple[Index, Index]:
        """Of each neuron, the number of its block and its row in a chunk."""
        of_block, in_block = np.zeros(self._size, np.intp), np.zeros(self._size, np.intp)
        for number, (source, _, _, here, there) in enumerate(self._blocks):
            of_block[here], in_block[here] = number, np.arange(source.array.chunk[1])[there]
        return of_block, in_block


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
        runs = _runs(n_repeats)
        _clear(runs, n_bins, np.nan, out, mask)
        for a, b, count in runs:
            if count:
                _decode(values[a:b, :count, :n_bins], math.nan, np.nan, out[a:b, :count, :n_bins],
                        mask[a:b, :count, :n_bins])  # fmt: skip

    def place_rows(
        self, values: NDArray[Any], neuron: Index, repeat: Index, n_bins: int, out: NDArray[Any],
        mask: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Put some trials of fetched values into `out` and `mask`, as `ResponseReader.read_rows` does."""
        out[:, n_bins:], mask[:, n_bins:] = np.nan, False
        _decode(values[neuron, repeat, :n_bins], math.nan, np.nan, out[:, :n_bins], mask[:, :n_bins])


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


def _groups(numbers: Index) -> Iterator[tuple[int, Index]]:
    """Each of some numbers, rising, and the positions that have it, rising."""
    order = np.argsort(numbers, kind="stable")
    edges = np.flatnonzero(np.diff(numbers[order])) + 1
    for mine in np.split(order, edges) if len(order) else ():
        yield int(numbers[mine[0]]), mine


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
    if mask is None and out.dtype.kind == "f":
        decode(values, fill, out)
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


def _runs(counts: NDArray[Any]) -> list[tuple[int, int, int]]:
    """Neighbours with one count: (start, stop, count)."""
    if (counts == counts[0]).all():
        return [(0, len(counts), int(counts[0]))]
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    return [(a, b, int(counts[a])) for a, b in itertools.pairwise(edges)]


def _within(runs: list[tuple[int, int, int]], here: slice) -> list[tuple[int, int, int]]:
    """Those of some neighbours, counted from the first of them."""
    low, high = here.start, here.stop
    return [(max(a, low) - low, min(b, high) - low, count) for a, b, count in runs if a < high and low < b]
