"""Worker processes: what runs in one, and the pool that starts them, hands them tasks and notices how they end.

A worker is a fresh interpreter that imports neither the calling script nor its main guard, so three lines or a notebook
cell work. It talks over its standard input and output: nothing that it runs is read from disk, and no semaphore
outlives it. A task that loops for ever or takes its process along costs that process and nothing else.
"""

from __future__ import annotations

import math
import os
import pickle
import platform
import queue
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, Protocol

from strfcube.builder import stillness
from strfcube.errors import StrfcubeError
from strfcube.fetching.credentials import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

# Whatever ends a worker, its parent tells it: no traceback of its imports.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); sys.path[:] = sys.argv[2:]; "
    "from strfcube.builder.worker import main; main(int(sys.argv[1]))"
)
_SOON = 0.05  # s
_OVER_LIMIT, _WAITED = getattr(signal, "SIGXCPU", None), getattr(signal, "SIGALRM", None)
_OUTSIDE = {getattr(signal, name, None) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")} - {None}


class EndedError(Exception):
    """A worker process ended within a task.

    Parameters
    ----------
    code : int
        What the process ended with; a negative one is a signal.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    @property
    def from_outside(self) -> bool:
        """Whether somebody, or the system for want of memory, ended it; if not, the task did."""
        return -self.code in _OUTSIDE

    @property
    def over_limit(self) -> bool:
        """Whether it used more processor time than it was given, or waited for ever."""
        return -self.code in (_OVER_LIMIT, _WAITED)

    def beyond(self, limit: float) -> str:
        """What was over the limit, which is one of processor time in s, in words."""
        if -self.code == _WAITED:
            return f"did nothing for {stillness.SECONDS:g} s"
        return f"took more than {limit:g} s of processor time"

    @property
    def how(self) -> str:
        """In words."""
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        return f"ended with code {self.code}"


class Workers(Protocol):
    """Who carries out tasks: worker processes of this machine, or those of a cluster.

    Attributes
    ----------
    lost : str
        What to say of a ``{task}`` whose worker was ended from outside.
    """

    lost: str

    def share(self, value: Any) -> None:
        """Give every worker the first argument of the tasks that follow."""

    def submit(
        self, function: Callable[..., Any], *args: Any, limit: float = math.inf, fresh: bool = False
    ) -> Future[Any]:
        """Call ``function(shared, *args)`` in a worker; as in `Pool`."""
        ...


def _environment() -> dict[str, str]:
    """The environment of a worker: none has a use for a password, or for memory that goes back to the system at once.

    The latter is what dask sets for its own workers; reading takes a tenth longer with it.
    """
    return {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "MALLOC_TRIM_THRESHOLD_")}


class Pool:
    """Worker processes, started at once; a thread of this process stands for each.

    Parameters
    ----------
    jobs : int
        How many.
    """

    lost = (
        "a worker process was ended from outside, perhaps for want of memory: the same command goes on where this one "
        "ended; with fewer --jobs it needs less memory"
    )

    def __init__(self, jobs: int) -> None:
        self._threads = ThreadPoolExecutor(jobs, "strfcube-worker")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._all: list[Worker] = []
        self._closed = False
        self._shared: tuple[int, bytes] = (0, b"")
        for _ in range(jobs):
            self._threads.submit(self._worker)

    def share(self, value: Any) -> None:
        """Give every worker the first argument of the tasks that follow; it travels once to each."""
        self._shared = (self._shared[0] + 1, dumps(value))

    def submit(
        self, function: Callable[..., Any], *args: Any, limit: float = math.inf, fresh: bool = False
    ) -> Future[Any]:
        """Call ``function(shared, *args)`` in a worker.

        Parameters
        ----------
        limit : float
            Processor time in s after which the system ends the process.
        fresh : bool
            Whether it has to be a process in which nothing else has run.

        Returns
        -------
        Future
            Raises what the function raises, or `EndedError`.
        """
        return self._threads.submit(self._call, function, args, limit, fresh)

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...], limit: float, fresh: bool) -> Any:
        if fresh:
            self._drop()
        worker, (version, shared) = self._worker(), self._shared
        try:
            answer = worker.ask(version, shared, dumps((function, args, limit)))
        except EndedError:
            self._drop()
            raise
        return value_of(answer)

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._mine, "worker", None)
        if worker is None:
            with self._lock:
                if self._closed:
                    raise StrfcubeError("the workers were ended")
                worker = self._mine.worker = Worker()
                self._all.append(worker)
        return worker

    def _drop(self) -> None:
        worker: Worker | None = getattr(self._mine, "worker", None)
        if worker is not None:
            worker.end()
            self._mine.worker = None

    def close(self) -> None:
        """End all workers, whatever they do."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _folder() -> str | None:
    """Where a worker starts: here, but not in a folder that was removed, where some libraries cannot be imported."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return os.sep
    return None


class Worker:
    """One process, seen from its parent."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for the parent alone, which ends its workers itself.
        own: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x200}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(os.getpid()), *sys.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), cwd=_folder(), **own,
        )  # fmt: skip
        self._version = 0

    def ask(self, version: int, shared: bytes, request: bytes) -> bytes:
        """Send one task and wait for its answer, which `value_of` reads.

        Raises
        ------
        EndedError
            If the process ends before it answers.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if version != self._version:
                _send(self.process.stdin, b"s" + shared)
                self._version = version
            _send(self.process.stdin, b"t" + request)
            if stillness.waits_for_ever(self.process.pid, self.process.stdout):
                self.process.send_signal(signal.SIGALRM)
            return _receive(self.process.stdout)
        except (OSError, EOFError, ValueError):  # ValueError: it was ended meanwhile
            raise EndedError(self.process.wait()) from None

    def end(self) -> None:
        """End it, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not sent any more
                    stream.close()


def value_of(answer: bytes) -> Any:
    """What the task gave; or raise what it raised."""
    ok, value = pickle.loads(answer)
    if not ok:
        raise value
    return value


def main(parent: int) -> None:
    """Run the tasks that come over standard input until it ends; what a worker process does."""
    _end_with(parent)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a pipeline prints is for people
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    try:  # one lists the raw files, meanwhile
        message: bytes | None = waiting.get(timeout=_SOON)
    except queue.Empty:
        message = None
        # What every task needs is imported while there is none.
        import strfcube.builder.ingest
        import strfcube.builder.write  # noqa: F401

    shared = _Shared(pickle.dumps(None))
    while True:
        message = message or waiting.get()
        if message[:1] == b"s":
            shared = _Shared(message[1:])
        else:
            _send(replies, _answer(shared, message[1:]))
        message = None


class _Shared:
    """What all tasks are given, unpickled by the first of them, so that it is a task that fails where it cannot be."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    @cached_property
    def value(self) -> Any:
        return pickle.loads(self.pickled)


def _answer(shared: _Shared, request: bytes) -> bytes:
    try:
        try:
            (function, args, limit), first = pickle.loads(request), shared.value
        except ImportError as error:
            what = f"a worker process on {platform.node()} cannot load the pipeline ({error}): install it there"
            raise StrfcubeError(what) from error
        _limit(limit)
        return pickle.dumps((True, function(first, *args)))
    except Exception as error:
        if not isinstance(error, StrfcubeError):  # those say it all in one line
            error.add_note(traceback.format_exc())
        try:
            pickle.loads(answer := pickle.dumps((False, error)))
        except Exception:  # an error that does not travel
            answer = pickle.dumps((False, StrfcubeError(f"{type(error).__name__}: {error}")))
        return answer


def _read(requests: IO[bytes], waiting: queue.SimpleQueue[bytes]) -> None:
    """Hand on what comes; end with the parent, on any system."""
    try:
        while True:
            waiting.put(_receive(requests))
    except (OSError, EOFError):
        os._exit(0)


def _end_with(parent: int) -> None:
    """End with the parent: a worker that outlives a killed build would write beside the one that resumes it."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _limit(seconds: float) -> None:
    """Let the system end this process when it has used so much more processor time."""
    if os.name != "posix":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = hard if math.isinf(seconds) else math.ceil(used.ru_utime + used.ru_stime + seconds)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def dumps(value: Any) -> bytes:
    """Pickle, by value where something comes from a script or a notebook."""
    import cloudpickle

    pickled: bytes = cloudpickle.dumps(value)
    return pickled


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    return _exactly(stream, int.from_bytes(_exactly(stream, 8), "little"))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found
