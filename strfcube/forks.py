"""What a process that forks would leave to its child useless: locks that are held, and the threads of dask."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Self


class OwnLock:
    """A lock for ``with``, of its own in each process.

    In a forked process a lock stays locked for ever that a thread of the parent held; this one is new there, and in a
    process that it is pickled to.
    """

    def __init__(self) -> None:
        self.renew()
        _LOCKS.add(self)

    def renew(self) -> None:
        """Let go, whoever holds it."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[OwnLock], tuple[()]]:
        return type(self), ()


_LOCKS: weakref.WeakSet[OwnLock] = weakref.WeakSet()


def _renew_all() -> None:
    for lock in _LOCKS:
        lock.renew()
    # Only the thread that forks lives on; dask would hand its tasks to the others, and wait for ever
    if threaded := sys.modules.get("dask.threaded"):
        vars(threaded).update(default_pool=None, pools_lock=threading.Lock())
        threaded.pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
