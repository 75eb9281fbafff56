"""The workers of a dask.distributed cluster as those of a build: each task goes to one that sees its files.

Tasks wait here, and no more than two a thread are handed out: a worker that joins late finds work, and one that dies
had little to do but what it is blamed for. What it was doing is done by another. Short tasks go several at a time, for
each costs the cluster some 10 ms.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import queue
import signal
import threading
import time
import warnings
from collections import deque
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from strfcube.builder import crew
from strfcube.builder.tasks import LostWorkerError, default_jobs
from strfcube.builder.worker import EndedError, dumps, value_of
from strfcube.errors import StrfcubeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("strfcube")
_TRIES = 3  # times that a task's process may be ended from outside
_EVERY = 1.0  # s between two looks at who is there
_CONNECT = 10.0  # s
_AHEAD = 2  # bundles a thread: the next lies there when one is done
_BUNDLE = 0.5  # s that the tasks of a bundle take
_MOST = 32  # of them, however short the last ones were
_SHARE = 8  # bundles a thread that what waits is enough for: some tasks take longer than others
_ANSWER = 30.0  # s in which an answer comes from where it is
_WAITING = 5.0  # s without a worker, after which that is said
_KILLED = getattr(signal, "SIGKILL", signal.SIGTERM)


@contextmanager
def connected(place: str) -> Iterator[Any]:
    """A client of the cluster that the command line names; distributed's own messages are not shown.

    Parameters
    ----------
    place : str
        Address of a scheduler, the path of its file, or ``local``, ``local:N`` for N workers within this process.

    Raises
    ------
    UsageError
        If it is none of these, or distributed is not installed.
    StrfcubeError
        If no scheduler answers there.
    """
    kind, _, count = place.partition(":")
    if kind == "local" and count and not (count.isdecimal() and int(count) > 0):
        raise UsageError(f"--cluster {place}: give local, or local:N with the number of workers")
    given = {"scheduler_file": place} if Path(place).is_file() else {"address": place}
    if "scheduler_file" in given:
        try:
            json.loads(Path(place).read_bytes())["address"]
        except (OSError, ValueError, TypeError, KeyError):
            raise UsageError(f"--cluster {place}: that is no scheduler file") from None
    elif kind != "local" and not place.rpartition(":")[2].isdecimal():
        what = "no such file" if place.endswith(".json") or os.sep in place.partition("://")[2] + kind else "no address"
        raise UsageError(f"--cluster {place}: {what}; give HOST:PORT, a scheduler file, or local[:N]")
    distributed = _distributed()
    _quiet()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"distributed\b")
        local = None
        if kind == "local":
            import dask

            # The scheduler talks to its workers within this process; only pages of figures would be on ports.
            dask.config.set({f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")})
            local = distributed.LocalCluster(
                n_workers=int(count or default_jobs()), threads_per_worker=1, processes=False, memory_limit=None,
                dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0",
            )  # fmt: skip
            given = {"address": local}
        try:
            try:
                client = distributed.Client(**given, timeout=_CONNECT, set_as_default=False, name="strfcube")
            except (OSError, ValueError, TypeError) as error:
                why = str(error).splitlines()[0] if isinstance(error, ValueError) else f"in {_CONNECT:g} s"
                raise StrfcubeError(f"--cluster {place}: no scheduler answers there ({why})") from None
            try:
                yield client
            finally:
                with suppress(Exception):
                    client.close(timeout=_CONNECT)
        finally:
            if local is not None:
                with suppress(Exception):
                    local.close(timeout=_CONNECT)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise UsageError("a cluster needs dask.distributed: pip install 'strfcube[cluster]'") from None
    return distributed


def _quiet() -> None:
    """Let distributed say nothing in this process, which is the command line's."""
    for name in ["distributed", "tornado", "asyncio", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@dataclass(eq=False)
class _Call:
    """One task."""

    function: Callable[..., Any]
    request: bytes
    fresh: bool
    shared: tuple[int, Any]
    answer: Future[Any] = field(default_factory=Future)
    ended: bool = False  # once, although its answer was lost with the worker that held it
    deaths: float = 0.0


@dataclass(eq=False)
class _Bundle:
    """Tasks that are one to the cluster."""

    calls: list[_Call]
    where: frozenset[str]
    at: Any = None  # the cluster's own future


class Cluster:
    """The workers of a cluster; a context manager.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    raw, work : str, path
        Raw folder and work folder.

    Raises
    ------
    UsageError
        If `client` is none that can be waited for.
    LostWorkerError
        If a worker does not see the files, or has other versions of what makes the cube.
    """

    lost = (
        "{task}: all workers that were given it were ended from outside, perhaps for want of memory: the same command "
        "goes on where this one ended"
    )

    def __init__(self, client: Any, raw: str, work: Path) -> None:
        if not isinstance(client, _distributed().Client) or client.asynchronous:
            raise UsageError("client: give a distributed.Client, without asynchronous=True")
        self._client, self._site = client, crew.Site.of(raw, work)
        self._events: queue.SimpleQueue[_Call | _Bundle | None] = queue.SimpleQueue()
        self._waiting: deque[_Call] = deque()
        self._running: set[_Bundle] = set()
        self._took: dict[Callable[..., Any], float] = {}  # s that such a task takes
        self._threads: dict[str, int] = {}  # of the workers that can take part, by address
        self._seen: set[str] = set()
        self._missed = time.monotonic()
        self._shared: tuple[int, Any] = (0, None)
        self._error: Exception | None = None
        self._over = False
        try:
            if unfit := self._look():
                more = f"; and so do {len(unfit) - 1} more" if len(unfit) > 1 else ""
                raise LostWorkerError(f"{unfit[0]}{more}")
        except BaseException:
            self._site.leave()
            raise
        self.share(None)
        self._thread = threading.Thread(target=self._serve, name="strfcube-cluster", daemon=True)
        self._thread.start()

    def share(self, value: Any) -> None:
        """Give every worker the first argument of the tasks that follow; it travels once to each."""
        number = self._shared[0] + 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            # As a task, so that it comes back when the only worker that holds it dies
            there = self._client.submit(bytes, dumps(value), key=f"strfcube-{self._site.token}-{number}", pure=False)
        self._shared = number, there

    def submit(
        self, function: Callable[..., Any], *args: Any, limit: float = math.inf, fresh: bool = False
    ) -> Future[Any]:
        """Call ``function(shared, *args)`` in a process of a worker; as in `strfcube.builder.worker.Pool`."""
        try:
            request = dumps((function, args, limit))
        except Exception as error:  # of whatever cannot be pickled
            refused: Future[Any] = Future()
            refused.set_exception(error)
            return refused
        call = _Call(function, request, fresh, self._shared)
        self._events.put(call)
        if self._error is not None:
            self._fail(self._error)
        return call.answer

    def _serve(self) -> None:
        looked = time.monotonic()
        try:
            while True:
                with suppress(queue.Empty):
                    event = self._events.get(timeout=_EVERY)
                    while event is not None and not self._over:
                        self._take(event)
                        event = self._events.get_nowait()
                if self._over:
                    return
                if time.monotonic() - looked > _EVERY:
                    for line in self._look():
                        log.warning("%s; it is given nothing", line)
                    looked = time.monotonic()
                self._hand_out()
        except BaseException as why:
            self._error = LostWorkerError(
                f"the scheduler of the cluster does not answer any more ({type(why).__name__}): the same command goes "
                "on where this one ended, once it does"
            )
            self._fail(self._error)

    def _look(self) -> list[str]:
        """See who is there; of those that joined and cannot take part, why."""
        if self._client.status != "running":
            raise ConnectionError(self._client.status)
        there = dict(self._client.nthreads())
        unfit = []
        if joined := sorted(set(there) - self._seen):
            found = self._client.run(crew.examine, self._site, workers=joined, on_error="return")
            closed = _distributed().comm.CommClosedError
            for address, answer in list(found.items()):
                if isinstance(answer, closed):  # it ended meanwhile, or is asked again
                    del found[address]
                    continue
                name, why = answer if isinstance(answer, tuple) else ("", f"cannot take part ({answer!r})")
                if isinstance(answer, ImportError):
                    why = f"has no strfcube ({answer}): install the same version there"
                if why:
                    unfit.append(f"worker {address}{f' on host {name}' if name else ''} {why}")
                else:
                    self._threads[address] = there[address]
            self._seen.update(found)
        self._seen &= set(there)  # one that comes back is another
        self._threads = {address: self._threads[address] for address in there if address in self._threads}
        for bundle in list(self._running):
            if bundle.where.isdisjoint(self._threads):  # all that it could go to are gone
                self._lost(bundle, EndedError(-_KILLED))
        if self._threads:
            self._missed = math.inf
        elif self._missed == math.inf:
            self._missed = time.monotonic()
        elif time.monotonic() - self._missed > _WAITING:
            log.warning("waiting for a worker of the cluster %s", self._client.scheduler.address)
            self._missed = math.nan  # said
        return unfit

    def _hand_out(self) -> None:
        free = _AHEAD * sum(self._threads.values()) - len(self._running)
        while free > 0 and (calls := self._together()):
            first, bundle = calls[0], _Bundle(calls, frozenset(self._threads))
            self._running.add(bundle)
            name = getattr(first.function, "__name__", "task")
            bundle.at = self._client.submit(
                crew.carry_out, self._site.token, *first.shared, [call.request for call in calls], first.fresh,
                pure=False, workers=list(bundle.where), key=f"strfcube-{name}-{uuid4().hex}",
            )  # fmt: skip
            bundle.at.add_done_callback(lambda _, bundle=bundle: self._events.put(bundle))
            free -= 1

    def _together(self) -> list[_Call]:
        """The next that wait, as many as take `_BUNDLE` together, and as leave work for the others."""
        calls: list[_Call] = []
        most = min(_MOST, len(self._waiting) // (_SHARE * max(1, sum(self._threads.values()))))
        while self._waiting:
            call = self._waiting[0]
            alone = call.fresh or call.deaths  # what may end a worker takes nothing else along
            if calls and (
                alone or len(calls) >= most or (call.function, call.shared) != (calls[0].function, calls[0].shared)
            ):
                break
            self._waiting.popleft()
            if call.answer.cancelled():
                continue
            calls.append(call)
            if alone or len(calls) * self._took.get(call.function, _BUNDLE) >= _BUNDLE:
                break
        return calls

    def _lost(self, bundle: _Bundle, error: Exception) -> None:
        """Let another worker do what one that ended was doing."""
        self._running.discard(bundle)
        bundle.at.cancel()
        for call in bundle.calls:
            self._again(call, error, 0.1 if call.ended else 1.0)  # what came to its end does not end workers

    def _again(self, call: _Call, error: Exception, deaths: float = 1.0) -> None:
        """Have a task done once more, unless it ended enough of those that did it."""
        call.deaths += deaths
        if call.deaths < _TRIES:
            self._waiting.appendleft(call)
        else:
            self._give(call, error)

    def _take(self, event: _Call | _Bundle) -> None:
        """A new task, or a bundle that is done."""
        if isinstance(event, _Call):
            self._waiting.append(event)
            return
        if event not in self._running:  # it was given up
            return
        if self._client.status != "running":
            raise ConnectionError(self._client.status)
        try:
            answers, took = self._result(event.at)
        except (Exception, asyncio.CancelledError) as raised:  # of the cluster, not of the task
            if self._client.status != "running":
                raise ConnectionError(self._client.status) from None
            killed = _distributed().KilledWorker
            lost = asyncio.CancelledError | CancelledError | TimeoutError  # with the worker that held the answer
            error: Exception = LostWorkerError(f"a worker of the cluster: {raised}")
            if isinstance(raised, killed | lost):
                error = EndedError(-_KILLED)
            if isinstance(raised, killed) and len(event.calls) == 1:  # dask tried it often enough
                event.calls[0].deaths = _TRIES
            if isinstance(raised, TimeoutError):
                for call in event.calls:
                    call.ended = True
            self._lost(event, error)
            return
        self._running.discard(event)
        self._took[event.calls[0].function] = took / len(event.calls)
        for call, (how, value) in zip(event.calls, answers, strict=True):
            if how == crew.ANSWER:
                self._answer(call, value)
            elif (end := EndedError(value)).from_outside:
                self._again(call, end)
            else:
                self._give(call, end)

    @staticmethod
    def _result(at: Any) -> Any:
        """What a bundle gave; not waited for where the worker that holds it is gone."""
        until = time.monotonic() + _ANSWER
        while True:
            try:
                return at.result(timeout=0 if at.status == "lost" else _EVERY / 2)
            except TimeoutError:
                if at.status in ("lost", "pending") or time.monotonic() > until:
                    raise

    def _answer(self, call: _Call, answer: bytes) -> None:
        try:
            value = value_of(answer)
        except Exception as raised:  # by the task
            self._give(call, raised)
        else:
            with suppress(InvalidStateError):
                call.answer.set_result(value)

    def _give(self, call: _Call, error: Exception) -> None:
        with suppress(InvalidStateError):  # it was taken back meanwhile
            call.answer.set_exception(error)

    def _fail(self, error: Exception) -> None:
        """Let nobody wait for what will not come."""
        for call in self._left():
            self._give(call, error)

    def _left(self) -> list[_Call]:
        """All tasks that have no answer yet."""
        with suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                if isinstance(event, _Call):
                    self._waiting.append(event)
        return [*self._waiting, *(call for bundle in list(self._running) for call in bundle.calls)]

    def close(self) -> None:
        """Take back all tasks, and end the processes that do them."""
        self._over = True
        self._events.put(None)
        self._thread.join(_CONNECT)
        if self._client.status == "running" and self._error is None:
            ender = threading.Thread(target=self._end, daemon=True)
            ender.start()
            ender.join(_CONNECT)  # a cluster that does not answer is not waited for
        for call in self._left():
            call.answer.cancel()
        self._site.leave()

    def _end(self) -> None:
        with suppress(Exception):
            if handed := [bundle.at for bundle in list(self._running) if bundle.at is not None]:
                self._client.cancel(handed, force=True)
            self._client.run(crew.end, self._site.token, on_error="ignore")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
