"""One thread for BLAS: products change with the number of its threads, which wait for one another where others run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from strfcube.forks import OwnLock

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = OwnLock()
_HELD: list[Any] = []  # limits, the first of which knows how many threads there were
_inside = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Leave BLAS one thread, in this process, until nobody needs it any more.

    It is a setting of the process: of two that need it at once the first to end must not undo it for the other, nor the
    last leave it as it found it.
    """
    global _inside
    from threadpoolctl import threadpool_limits

    with _LOCK:
        _HELD.append(threadpool_limits(1))  # of libraries that were loaded meanwhile as well
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            while _HELD and not _inside:
                _HELD.pop().restore_original_limits()
