"""Means over repeats, of responses as they are in memory and of counts as they are stored."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK_VALUES = 1 << 17  # of float64 at a time: what fits the cache


def blocks(shape: tuple[int, ...], values: int = BLOCK_VALUES) -> Iterator[tuple[Any, ...]]:
    """Cut the leading dims of an array (..., repeat, time) into indices of about so many values."""
    lead = shape[:-2]
    if not lead:
        yield ()
        return
    step = max(1, values // max(1, shape[-2] * shape[-1]))
    for index in itertools.product(*map(range, lead[:-1])):
        for first in range(0, lead[-1], step):
            yield (*index, slice(first, first + step))


def mean(x: NDArray[Any], scale: float = 1.0, least: Any = np.float32) -> NDArray[Any]:
    """Mean over repeats [shape=(..., time)] of values [shape=(..., repeat, time)], times `scale`.

    Each bin is that of the repeats that observed it; NaN is what was not observed. Summed in the dtype of the result,
    `least` at least: half precision would lose tenths of a mV.
    """
    out = np.empty((*x.shape[:-2], x.shape[-1]), np.result_type(x.dtype, least))
    if not x.shape[-2]:
        out[...] = np.nan
        return out
    if x.shape[-2] == 1:
        np.multiply(x[..., 0, :], out.dtype.type(scale), out=out)
        return out
    adding = out.dtype if x.dtype.kind == "f" else None
    for at in blocks(x.shape):
        part = x[at]
        total = part.sum(-2, dtype=adding)
        missing = np.isnan(part)
        if np.count_nonzero(missing) == part.shape[-2] * np.count_nonzero(np.isnan(total)):
            # Every bin was observed in all repeats or in none
            np.divide(total, out.dtype.type(part.shape[-2]), out=out[at])
            out[at] *= out.dtype.type(scale)
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            out[at] = np.where(missing, 0, part).sum(-2, dtype=adding) / (~missing).sum(-2) * scale
    return out


def mean_of_stored(
    values: NDArray[Any], fill: int, scale: float = 1.0, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """As `mean`, of counts in which the largest value of their dtype, `fill`, is what was not observed.

    Counts are added up as they are, in a quarter of the time that it takes to make floats of them first.
    """
    repeats = values.shape[-2]
    low = values.min(-2)
    out = np.empty(low.shape, np.float32) if out is None else out
    empty = low == fill
    mixed = None
    top = low if repeats == 1 else values.max(-2)
    if repeats > 1:
        partly = (top == fill) != empty
        mixed = partly.any(-1) if partly.any() else None
    if mixed is not None:
        top = np.where(mixed[..., None], 0, top)  # those are added up below
    most = int(np.max(top, where=~empty, initial=0))
    small = most * repeats <= np.iinfo(values.dtype).max  # else what follows would not hold the sums
    total = low if repeats == 1 else np.add.reduce(values, axis=-2, dtype=values.dtype if small else np.uint64)
    np.multiply(total, np.float32(scale / repeats), out=out, casting="unsafe")
    np.copyto(out, np.float32(np.nan), where=empty)
    if mixed is not None:
        some = values[mixed]
        missing = some == fill
        some[missing] = 0
        with np.errstate(divide="ignore", invalid="ignore"):
            out[mixed] = np.add.reduce(some, axis=-2, dtype=np.uint64) / (repeats - missing.sum(-2)) * scale
    return out
