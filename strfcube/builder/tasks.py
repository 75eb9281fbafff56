"""Running tasks: in this process, or in local worker processes; each result goes into the ledger as it comes."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from strfcube.errors import StrfcubeError

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str, int, int], None]


class LostWorkerError(StrfcubeError):
    """A worker process ended before its task did."""


@dataclass(frozen=True)
class Task:
    """One call of a top-level function, named for the ledger."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]


def default_jobs() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(jobs: int) -> AbstractContextManager[Any]:
    """A pool of worker processes, started at once; for one job there is none.

    Loky's processes import neither the calling script nor its main guard, so three lines or a notebook cell work.
    """
    if jobs <= 1:
        return nullcontext()
    from loky.process_executor import ProcessPoolExecutor

    from strfcube.fetching import credentials

    # A worker whose first large block comes after smaller ones is not leaking, and is not to be started again for that.
    # No worker has a use for a password; one that is started later would inherit what the environment holds then.
    env = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"} | dict.fromkeys(credentials.VARIABLES, "")
    with credentials.withheld():
        pool = ProcessPoolExecutor(jobs, initializer=_start_worker, initargs=(os.getpid(),), env=env)
        for _ in range(jobs):
            pool.submit(_warm_up)
    # What this process needs at the end, it imports while its workers start.
    import dask.array  # noqa: F401
    import zarr  # noqa: F401

    return pool  # type: ignore[no-any-return]


def run(stage: str, tasks: Sequence[Task], pool: Any, ledger: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Results of all tasks by name; those that the ledger already has are not run again.

    Raises
    ------
    LostWorkerError
        If a worker process was ended from outside.
    Exception
        The first that a task raises; what others finished stays in the ledger.
    """
    results: dict[str, Any] = {}
    waiting: list[Task] = []
    for task in tasks:
        entry = ledger / f"{task.name}.done"
        if entry.exists():
            results[task.name] = pickle.loads(entry.read_bytes())
        else:
            waiting.append(task)

    def done(task: Task, result: Any) -> None:
        results[task.name] = result
        partial = ledger / f"{task.name}.{uuid4().hex}.partial"
        partial.write_bytes(pickle.dumps(result))
        os.replace(partial, ledger / f"{task.name}.done")
        if progress:
            progress(stage, len(results), len(tasks))

    if progress:
        progress(stage, len(results), len(tasks))
    if pool is None:
        for task in waiting:
            done(task, task.function(*task.args))
        return results
    from concurrent.futures import BrokenExecutor, as_completed

    futures = {pool.submit(task.function, *task.args): task for task in waiting}
    try:
        for future in as_completed(futures):
            done(futures[future], future.result())
    except BrokenExecutor as error:
        raise LostWorkerError(
            "a worker process was ended from outside, perhaps for want of memory: the same command goes on where this "
            "one ended; with fewer --jobs it needs less memory"
        ) from error
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return results


def _start_worker(parent: int) -> None:
    """End with the parent: a worker that outlives a killed build would write beside the one that resumes it."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _warm_up() -> None:
    """Import what every task needs, while the parent still surveys."""
    import strfcube.builder.write  # noqa: F401
