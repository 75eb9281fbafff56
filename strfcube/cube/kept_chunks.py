"""Decoded chunks that stay in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from strfcube.forks import OwnLock

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Place = tuple[int, ...]

_PIECE_BYTES = 1 << 26  # the system gives so much in one, and memory only for what is written to


class _Kept(NamedTuple):
    piece: NDArray[np.uint8]
    start: int
    shape: Place


class KeptChunks:
    """Chunks of an array in a few large pieces of memory that many share.

    Neither arrays of their own nor views: among the memory that a decoder takes and gives back, each would leave a hole
    of its size, and what is kept would take three times what it is. Safe to share between threads, to fork and to
    pickle, which leaves the chunks behind.

    Parameters
    ----------
    dtype : dtype
        Of the values.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._fresh()

    def _fresh(self) -> None:
        self._kept: dict[Place, _Kept | None] = {}
        self._lock = OwnLock()
        self._piece, self._cut = np.empty(0, np.uint8), 0  # memory, and what of it is in use

    def __getstate__(self) -> dict[str, Any]:
        return {"dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    def __contains__(self, at: Place) -> bool:
        return at in self._kept

    def __getitem__(self, at: Place) -> NDArray[Any] | None:
        """A chunk that is kept; None of one that is known not to be stored."""
        kept = self._kept[at]
        return None if kept is None else self._lying(kept)

    def none(self, at: Place) -> None:
        """Keep that a chunk is not stored."""
        self._kept[at] = None

    def add(self, at: Place, shape: Place, decode: Callable[[NDArray[Any]], object]) -> NDArray[Any]:
        """Keep a chunk, which is decoded into the array of that shape that `decode` is given."""
        kept = self._room(shape)
        out = self._lying(kept)
        decode(out)
        self._kept[at] = kept
        return out

    def _room(self, shape: Place) -> _Kept:
        size = math.prod(shape) * self.dtype.itemsize
        with self._lock:
            if self._piece.nbytes - self._cut < size:
                self._piece, self._cut = np.empty(max(size, _PIECE_BYTES), np.uint8), 0
            start = self._cut
            self._cut += -(-size // 64) * 64
            return _Kept(self._piece, start, shape)

    def _lying(self, kept: _Kept) -> NDArray[Any]:
        stop = kept.start + math.prod(kept.shape) * self.dtype.itemsize
        flat: NDArray[Any] = kept.piece[kept.start : stop].view(self.dtype)
        return flat.reshape(kept.shape)
