"""Whole numbers in few bytes: what ``page.js`` unpacks again.

A number is a variable-length quantity of base 128, least significant part first (that of Protocol Buffers and DWARF),
and one that can be negative is folded before: 0, -1, 1, -2 are 0, 1, 2, 3.
"""

from __future__ import annotations

import base64
import gzip
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTS = 9  # of seven bits: 63, as many as a positive 64-bit number has


def folded(values: NDArray[Any]) -> NDArray[np.int64]:
    """Whole numbers of either sign as positive ones, the small ones small."""
    numbers = np.asarray(values, np.int64)
    return (numbers << 1) ^ (numbers >> 63)


def stepped(values: NDArray[Any], lengths: NDArray[Any], signed: bool = False) -> NDArray[np.int64]:
    """Steps from each number to the next within its row; the first of a row is itself, folded.

    Parameters
    ----------
    values : ndarray of int
        Rows one after the other.
    lengths : ndarray of int
        Of the rows.
    signed : bool
        Whether steps can be negative: they are folded then too.
    """
    numbers = np.asarray(values, np.int64)
    steps = np.diff(numbers, prepend=np.int64(0))
    starts = (np.cumsum(lengths) - lengths)[np.asarray(lengths) > 0].astype(np.intp)
    steps[starts] = numbers[starts]
    if signed:
        return folded(steps)
    steps[starts] = folded(steps[starts])
    return steps


def varints(values: NDArray[Any]) -> bytes:
    """Numbers of 0 or more as bytes."""
    numbers = np.asarray(values, np.int64)
    size = np.ones(len(numbers), np.int64)
    for part in range(1, _PARTS):
        more = numbers >= np.int64(1) << (7 * part)
        if not more.any():
            break
        size += more
    ends = np.cumsum(size)
    out = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts = ends - size
    for part in range(int(size.max(initial=0))):
        there = size > part
        piece = (numbers[there] >> (7 * part)) & 0x7F
        out[starts[there] + part] = piece | np.where(size[there] > part + 1, 0x80, 0)
    return out.tobytes()


def text_of(block: bytes) -> str:
    """A block as it stands in the page: gzip, then base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(block, 6, mtime=0)).decode("ascii")
