"""What runs on a worker of a cluster: it looks whether it can take part, and has each task done by its own processes.

Each is one that a local build would have started (`strfcube.builder.worker`), under the same limits: what
a damaged file ends is that process, and the worker of the cluster says how it did.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from strfcube.builder.worker import EndedError, Worker
from strfcube.raw_files import is_ours
from strfcube.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

_IDLE = 60.0  # s without a task, after which processes that nobody told to end do so
_SEEN = 200  # entries of a raw folder that are looked at
ANSWER, ENDED = "answer", "ended"


@dataclass(frozen=True)
class Site:
    """What every worker of a build must have in common with the process that began it.

    Attributes
    ----------
    token : str
        Of this run of the build.
    versions : mapping
        Of what decides over the bytes of a cube.
    work : str
        The work folder, which holds a file that is named by the token.
    raw : str
        The raw folder; empty where a cube at a URL is read.
    seen : str
        What `look` gives for it.
    """

    token: str
    versions: Mapping[str, str]
    work: str
    raw: str
    seen: str

    @classmethod
    def of(cls, raw: str, work: Path) -> Site:
        """That of this process; puts the file into the work folder."""
        token = uuid4().hex
        (work / _mark(token)).write_text(token)
        raw = "" if "://" in raw else os.path.abspath(raw)
        return cls(token, versions(), str(work.absolute()), raw, look(raw) if raw else "")

    def leave(self) -> None:
        """Remove the file again."""
        Path(self.work, _mark(self.token)).unlink(missing_ok=True)


def _mark(token: str) -> str:
    return f"cluster-{token}"


def versions() -> dict[str, str]:
    """Versions, of Python the first two numbers, that a worker must share."""
    own = {name: version(name) for name in ("numpy", "numcodecs", "zarr")}
    return own | {"strfcube": __version__, "python": ".".join(map(str, sys.version_info[:2]))}


def look(raw: str) -> str:
    """What lies at a path: a digest of some names, sizes and times, as a copy elsewhere would hardly have them.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    h = hashlib.sha256()
    folder = raw
    while folder:
        entries = sorted((e for e in os.scandir(folder) if is_ours(e.name)), key=lambda e: e.name)
        entries = [e for e in entries if not e.name.endswith((".building", ".zarr"))]  # a cube that is built beside
        folder = ""
        for entry in islice(entries, _SEEN):
            h.update(os.fsencode(entry.name))
            if entry.is_dir():
                folder = folder or entry.path
            elif entry.is_file():
                found = entry.stat()
                h.update(f" {found.st_size} {found.st_mtime_ns}".encode())
    return h.hexdigest()


def problem(site: Site) -> str:
    """Why this process cannot take part in a build, after the words "worker ... on host ..."; empty if it can."""
    there = versions()
    if other := [
        f"{name} {there[name]} instead of {mine}" for name, mine in site.versions.items() if there[name] != mine
    ]:
        return f"has {', '.join(other)}: install the same there"
    try:
        if Path(site.work, _mark(site.token)).read_text() != site.token:
            raise FileNotFoundError(2, "another folder lies there")
        probe = Path(site.work, f"{_mark(site.token)}.{uuid4().hex}.partial")
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return (
            f"does not see the work folder {site.work} ({error.strerror}): it must be in a folder that all workers "
            "share under the same path (--out, or --spool for what is read from the raw files)"
        )
    try:
        if site.raw and look(site.raw) != site.seen:
            return f"has other raw files in {site.raw}: they must be in a folder that all workers share"
    except OSError as error:
        return (
            f"does not see the raw files {site.raw} ({error.strerror}): they must be in a folder "
            "that all workers share under the same path"
        )
    return ""


def examine(site: Site) -> tuple[str, str]:
    """Name of this machine, and `problem`."""
    return platform.node(), problem(site)


class _Crew:
    """The processes of one build in this worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._over = self._watched = False
        self._used = time.monotonic()

    def ask(self, number: int, shared: bytes, request: bytes, fresh: bool) -> bytes:
        """Have a task done by one of them, a new one where all are busy."""
        with self._lock:
            if self._over:
                raise EndedError(0)
            worker = self._idle.pop() if self._idle else None
            if worker is not None and fresh:
                self._drop(worker)
            if worker is None or fresh:
                worker = Worker()
            self._all.add(worker)
        try:
            answer = worker.ask(number, shared, request)
        except BaseException:
            self._drop(worker)
            raise
        with self._lock:
            self._idle.append(worker)
            self._used = time.monotonic()
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, name="strfcube-idle", daemon=True).start()
        return answer

    def _drop(self, worker: Worker) -> None:
        worker.end()
        self._all.discard(worker)

    def _watch(self) -> None:
        """End those that wait for nothing: whoever began the build may be gone."""
        while True:
            with self._lock:
                left = self._used + _IDLE - time.monotonic()
                if left <= 0:
                    for worker in self._idle:
                        self._drop(worker)
                    self._idle.clear()
                if not self._all:
                    self._watched = False
                    return
            time.sleep(left if left > 0 else _IDLE)

    def end(self) -> None:
        """End all, whatever they do."""
        with self._lock:
            self._over = True
            for worker in list(self._all):
                worker.process.kill()  # who asked it cleans up after it
            for worker in self._idle:
                worker.end()


_crews: dict[str, _Crew] = {}
_lock = threading.Lock()


def _crew(token: str) -> _Crew:
    """That of a build."""
    with _lock:
        return _crews.setdefault(token, _Crew())


def carry_out(
    token: str, number: int, shared: bytes, requests: list[bytes], fresh: bool
) -> tuple[list[tuple[str, bytes | int]], float]:
    """Do some tasks, one after the other; a task of the cluster.

    Parameters
    ----------
    token : str
        Of the run of the build.
    number, shared : int, bytes
        What all tasks of a stage are given, pickled, and which of those this is.
    requests : list of bytes
        Of each, function, arguments and limit, pickled.
    fresh : bool
        Whether each has to be in a process in which nothing else has run.

    Returns
    -------
    list of tuple
        Of each, what `strfcube.builder.worker.value_of` reads, or what the process ended with.
    float
        Seconds that all of it took.
    """
    crew = _crew(token)
    answers: list[tuple[str, bytes | int]] = []
    begun = time.monotonic()
    for request in requests:
        try:
            answers.append((ANSWER, crew.ask(number, shared, request, fresh)))
        except EndedError as end:
            answers.append((ENDED, end.code))
    return answers, time.monotonic() - begun


def end(token: str) -> None:
    """End the processes of a build here; what is still asked of them starts none."""
    _crew(token).end()
