"""Buffers that are used again, and the threads that fill them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strfcube.forks import OwnLock

Take = Callable[[tuple[int, ...], Any], NDArray[Any]]  # gives an array of a shape and dtype, with arbitrary contents
_BUFFERS = 24  # remembered; those beyond stay valid, but are not used again
_SPARE = 6  # kept though nobody uses them: two batches
_ALIGNED = 64  # bytes: memory at such an address can be taken over by JAX and be read by any vector unit
_IDLE = [np.empty(0, np.uint8)]
_UNUSED = sys.getrefcount(_IDLE[0])  # of a buffer that only a list refers to


class Buffers:
    """Memory for batches, used again once nothing refers to it.

    Fresh memory costs more than what is written to it: every page is faulted in and zeroed. A buffer is free when
    only this pool refers to it; tensors, their views and arrays made from them all hold the buffer itself.
    """

    def __init__(self) -> None:
        self._fresh()

    def _fresh(self) -> None:
        self._held: list[NDArray[np.uint8]] = []
        self._lock = OwnLock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._fresh()

    def take(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array with arbitrary contents."""
        dtype = np.dtype(dtype)
        # Sizes of batches differ a little from one to the next. To a power of two they are the same; what is not
        # written to takes no memory
        size = 1 << (int(np.prod(shape)) * dtype.itemsize + _ALIGNED - 1).bit_length()
        with self._lock:
            free = [i for i in range(len(self._held)) if sys.getrefcount(self._held[i]) == _UNUSED]
            # One of floats is not spent on bytes, or the next floats would need another
            fitting = [i for i in free if size <= self._held[i].nbytes <= 2 * size]
            if fitting:
                best = min(fitting, key=lambda i: self._held[i].nbytes)
                buffer = self._held[best]
                spare = [i for i in free if i != best][:-_SPARE]  # left from batches that were all kept for a while
            else:
                spare = [i for k, i in enumerate(free) if self._held[i].nbytes < size or k < len(free) - _SPARE]
                buffer = np.empty(size, np.uint8)
            for i in reversed(spare):
                del self._held[i]
            if not fitting:
                self._held.append(buffer)
                del self._held[:-_BUFFERS]
        return np.ndarray(shape, dtype, buffer, -buffer.ctypes.data % _ALIGNED)


_pool: ThreadPoolExecutor | None = None


def each(task: Callable[[int], None], count: int, threads: int) -> None:
    """Run `task` for 0 .. count - 1 in this thread and others; blosc and numpy work without the interpreter's lock."""
    global _pool
    remaining = iter(range(count))  # shared: whoever is free takes the next

    def work() -> None:
        for i in remaining:
            task(i)

    if threads <= 1:
        work()
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(threads, thread_name_prefix="strfcube")
    others = [_pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()


def _forget_threads() -> None:
    # Threads do not survive a fork; a pool that believes in them waits for ever.
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
