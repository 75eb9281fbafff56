"""One thread for BLAS: products change with the number of its threads, which wait for one another where others run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from strfcube.forks import OwnLock

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = OwnLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Leave BLAS one thread, in this process; another that needs it so waits.

    It is a setting of the process: of two at once the first to end would undo it for the other, and the last leave it
    at one.
    """
    from threadpoolctl import threadpool_limits

    with _LOCK, threadpool_limits(1):
        yield
