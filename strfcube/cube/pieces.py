"""Positions along the dimensions of a stored array, cut by the chunks that hold them, and the values that lie there."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from strfcube.cube.opened import StoredArray
    from strfcube.cube.shard_index import Place

Index = NDArray[np.intp]
Span = slice | Index
_NOWHERE = np.arange(0)


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


def read_at(source: StoredArray, positions: Sequence[Index], out: NDArray[np.float32]) -> None:
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
