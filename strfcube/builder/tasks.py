"""Running tasks: in worker processes, or in this one; each result goes into the ledger as it comes."""

from __future__ import annotations

import logging
import os
import queue
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strfcube.builder.worker import EndedError, Pool
from strfcube.errors import StrfcubeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from strfcube.builder.ledger import Record
    from strfcube.builder.worker import Workers
    from strfcube.progress import Progress

log = logging.getLogger("strfcube")
SECONDS = 300.0  # of processor time that a worker may spend on one source
SECONDS_VARIABLE = "STRFCUBE_SOURCE_SECONDS"


WRITING = 10  # times as long may writing a part of the cube take


class LostWorkerError(StrfcubeError):
    """A worker ended before its task did, or cannot do it: the same command goes on from what is done."""


@dataclass(frozen=True)
class Task:
    """One call of a top-level function, named for the ledger.

    Attributes
    ----------
    name : str
        A file name.
    function, args
        ``function(shared, *args)`` gives plain JSON values, with the files that it wrote under ``files``.
    ended : callable, optional
        What to enter when the task itself ends its worker, from how it did in words; without it that is an error.
    size : int
        How much it counts for in the progress.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    args: tuple[Any, ...]
    ended: Callable[[str], dict[str, Any]] | None = None
    size: int = 1


def default_jobs() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(jobs: int) -> AbstractContextManager[Pool | None]:
    """A pool of worker processes, started at once; for no job there is none, and tasks run in this process."""
    if jobs == 0:
        return nullcontext()
    pool = Pool(jobs)
    # What this process needs at the end, it imports while its workers start.
    import dask.array  # noqa: F401
    import zarr  # noqa: F401

    return pool


def run(
    stage: str,
    tasks: Sequence[Task],
    shared: Any,
    pool: Workers | None,
    ledger: Record,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Results of all tasks by name; those that the ledger already has are not run again.

    Raises
    ------
    LostWorkerError
        If a worker process was ended from outside, or a task that has to be done ended it.
    Exception
        The first that a task raises; what others finished stays in the ledger.
    """
    results = ledger.read([task.name for task in tasks])
    waiting = [task for task in tasks if task.name not in results]
    total = sum(task.size for task in tasks)
    finished = total - sum(task.size for task in waiting)
    if finished:
        what = {"ingest": "cells are read", "write": "parts are written"}.get(stage, "tasks are done")
        log.info("resuming: %s of %s %s already", f"{finished:,}", f"{total:,}", what)

    def done(task: Task, result: dict[str, Any]) -> None:
        nonlocal finished
        ledger.write(task.name, result)
        results[task.name] = result
        finished += task.size
        if progress:
            progress(stage, finished, total)

    if progress:
        progress(stage, finished, total)
    if pool is None:
        for task in waiting:
            done(task, task.function(shared, *task.args))
        return results
    pool.share(shared)
    limit = seconds()

    ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

    def submit(task: Task, *, fresh: bool = False) -> Future[Any]:
        seconds = limit if task.ended else WRITING * limit
        future = pool.submit(task.function, *task.args, limit=seconds, fresh=fresh)
        future.add_done_callback(ended.put)
        return future

    futures = {submit(task): task for task in waiting}
    again: set[str] = set()
    try:
        while futures:
            for future in _next(ended):
                task = futures.pop(future)
                try:
                    done(task, future.result())
                except EndedError as end:
                    if end.from_outside:
                        raise LostWorkerError(pool.lost.format(task=f"{stage} {task.name}")) from end
                    if task.ended and end.over_limit:
                        done(task, task.ended(end.beyond(limit)))
                    elif end.over_limit:
                        what = f"{stage} {task.name} {end.beyond(WRITING * limit)}"
                        raise StrfcubeError(f"{what}: {SECONDS_VARIABLE} sets how long a source may take") from end
                    elif task.name not in again:  # what ran before in that process may have spoilt its memory
                        again.add(task.name)
                        futures[submit(task, fresh=True)] = task
                    elif task.ended:
                        done(task, task.ended(f"crashed the process that read it, which was {end.how}"))
                    else:
                        raise LostWorkerError(f"{stage} {task.name}: the worker process was {end.how}") from end
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return results


def _next(ended: queue.SimpleQueue[Future[Any]]) -> Iterator[Future[Any]]:
    """Wait for one that ends, and give all that did: nothing looks at those that wait, which may be very many."""
    yield ended.get()
    with suppress(queue.Empty):
        while True:
            yield ended.get_nowait()


def seconds() -> float:
    """Limit on the processor time of a source.

    Raises
    ------
    UsageError
        If the environment states none that can be used.
    """
    given = os.environ.get(SECONDS_VARIABLE, "")
    try:
        limit = float(given) if given else SECONDS
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise UsageError(f"{SECONDS_VARIABLE}={given!r}: give the seconds of processor time that a source may take")
    return limit
