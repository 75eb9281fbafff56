"""Fetching the files of a data set: each verified once, in place whole or not at all, never fetched twice."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube import catalog
from strfcube.errors import FetchError, UsageError
from strfcube.fetching import ledger, terms
from strfcube.fetching.bring import bring
from strfcube.fetching.plan import Plan, enquire, is_own, look, see_told_apart
from strfcube.fetching.visit import Visit
from strfcube.fetching.web import Stopped
from strfcube.progress import Progress, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from strfcube.fetching.ledger import Record
    from strfcube.fetching.plan import Item

    Say = Callable[[str, bool], None]

JOBS = 3  # files at once
_SPARE = 100_000_000  # bytes of disk that stay free


def _silent(line: str, unusual: bool) -> None:
    """Say nothing."""


def fetch(
    dataset: str,
    *,
    only: Mapping[str, Any] | None = None,
    raw: str | os.PathLike[str] | None = None,
    extra: Iterable[str] = (),
    jobs: int = JOBS,
    accept_terms: bool = False,
    keep_archives: bool = False,
    progress: bool | Progress | None = None,
) -> Path:
    """Fetch the raw files of a data set; what is there already is left alone. Nothing is ever asked.

    Parameters
    ----------
    dataset : str
        Name in the catalog.
    only : mapping, optional
        As of `build`, by what the files are told apart by: those that hold nothing of it are not fetched.
    raw : path, optional
        Folder to fetch into; default ``$STRFCUBE_DATA_DIR/raw/<dataset>``.
    extra : sequence of str
        Files that a default build does without (``["wav"]`` of NAT4).
    jobs : int
        Files that are fetched at once.
    accept_terms : bool
        Accept the terms of the data set (``strfcube info``); remembered.
    keep_archives : bool
        Keep archives that were unpacked.
    progress : bool or callable, optional
        As of `build`; a callable is called with stage, done, total, in bytes for the stage ``fetch``.

    Returns
    -------
    Path
        The raw folder.

    Raises
    ------
    FetchError
        If a file cannot be fetched, or is not the published one.
    UsageError
        If an argument cannot be used, or terms are not accepted.
    SelectionError
        If `only` chooses what no file holds, or by what the files are not told apart by.
    """
    entry = catalog.entry(dataset)
    if not entry.files:
        raise UsageError(f"{dataset} has no files to fetch: strfcube build {dataset} writes them itself")
    see_told_apart(entry, choices(only))
    plan = look(entry, raw_folder(dataset, raw), choices(only), extra)
    if accept_terms:
        terms.remember(entry)
    with shown(progress) as tell:
        return carry_out(plan, Visit.begin(), jobs=jobs, keep_archives=keep_archives, progress=tell)


def raw_folder(name: str, raw: str | os.PathLike[str] | None) -> Path:
    """Where the raw files of a data set lie, or will."""
    return Path(raw).expanduser().absolute() if raw is not None else catalog.raw_dir(name).absolute()


def choices(only: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """Values of `only` as text."""
    return {
        str(key): (values,) if isinstance(values, str) else tuple(map(str, values if _many(values) else [values]))
        for key, values in (only or {}).items()
    }


def _many(values: Any) -> bool:
    return isinstance(values, Iterable)


def lacking(
    entry: catalog.Entry,
    raw: str | os.PathLike[str] | None,
    only: Mapping[str, Any] | None,
    extra: Iterable[str] = (),
    fetch: bool | None = None,
) -> Plan | None:
    """What a build would have to fetch first; None where that is nothing, or the raw folder is the user's own.

    Parameters
    ----------
    fetch : bool, optional
        True looks in a folder of the user's own as well, False in none at all.

    Raises
    ------
    FetchError, SelectionError, UsageError
        As `fetch`.
    """
    folder = raw_folder(entry.name, raw)
    # A folder that was named is the user's own as well, until something was fetched into it.
    own = is_own(folder) or (raw is not None and not (folder / ledger.NAME).exists())
    if fetch is False or (fetch is None and own):
        return None
    plan = look(entry, folder, choices(only), extra)
    if fetch is None and not plan.to_fetch:
        # Files that were copied have another time, and are read again; those that the user put there are not asked for.
        plan = replace(plan, items=tuple(item for item in plan.items if item.state == "there" or item.record))
    return plan if plan.todo else None


def refusal(plan: Plan, command: str = "") -> UsageError:
    """Say what is not there, and that the same command (as it was given) fetches and builds it, once it may."""
    entry, absent = plan.entry, plan.todo
    if len(absent) == len(plan.items):
        return UsageError(catalog.how_to_get(entry, plan.raw, [item.file for item in plan.items], command))
    names = ", ".join(item.file.name for item in absent[:3]) + (", ..." if len(absent) > 3 else "")
    return UsageError(
        f"{len(absent)} of {len(plan.items)} raw files of {entry.name} are not in {plan.raw} ({names}): fetch them "
        f"with '{catalog.willing(entry, command)}', or build from what is there with --no-fetch (fetch=False)"
    )


def carry_out(
    plan: Plan,
    visit: Visit,
    *,
    jobs: int = JOBS,
    keep_archives: bool = False,
    progress: Progress | None = None,
    say: Say = _silent,
) -> Path:
    """Do what a plan says; gives the raw folder.

    Parameters
    ----------
    say : callable
        Told of each file, in a line, and whether that is out of the ordinary.

    Raises
    ------
    FetchError, UsageError
        As `fetch`.
    """
    see_jobs(jobs)
    for item in plan.items:
        if item.state == "there" and item.record:
            _note(plan.raw, item.file.name, item.record)
    if not plan.todo:
        return plan.raw
    if plan.to_fetch:
        terms.require(plan.entry)
    try:
        plan.raw.mkdir(parents=True, exist_ok=True)
        plan = plan if plan.asked else enquire(plan, visit.web, visit.crcns)
        _has_space(plan)
        _Crew(plan, visit, keep_archives, progress, say).work(jobs)
    except OSError as error:
        # What was copied there, with other times, would only be verified
        instead = "give another --raw" if plan.to_fetch else "build from what is there as it is (--no-fetch)"
        raise FetchError(
            f"cannot write {error.filename or plan.raw}: {error.strerror or error}; make it writable, free space, or "
            f"{instead}"
        ) from error
    return plan.raw


def see_jobs(jobs: int) -> None:
    """Refuse a number of files at once that is none.

    Raises
    ------
    UsageError
        If it is less than 1.
    """
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: give 1 or more")


def _note(raw: Path, name: str, record: Record) -> None:
    """Write a record that is not there yet, if the raw folder may be written to at all."""
    if ledger.read(raw).get(name) != record:
        try:
            ledger.write(raw, name, record)
        except OSError:
            return


def _has_space(plan: Plan) -> None:
    coming = sum(max(0, (item.published.bytes or item.file.about) - item.have) for item in plan.to_fetch)
    packed = [f for f in plan.entry.files if f.unpack]
    known = plan.entry.sizes.get("unpacked")
    room = 0
    if isinstance(known, int) and packed:  # a part of the files unpacks to about as large a part of all
        room = known * sum(bool(item.file.unpack) for item in plan.todo) // len(packed)
    free = shutil.disk_usage(plan.raw).free
    if coming + room + _SPARE > free:
        also = f" and unpacked to {catalog.in_words(0, room)}" if room else ""
        there = f"{catalog.in_words(free)} are free there"
        raise FetchError(
            f"{plan.raw}: {catalog.in_words(coming)} are to be fetched{also}, and {there}; "
            f"free some, or give another folder (--raw, or STRFCUBE_DATA_DIR)"
        )


@dataclass
class _Crew:
    """Threads that bring the files; the one that called tells of it."""

    plan: Plan
    visit: Visit
    keep: bool
    progress: Callable[[str, int, int], None] | None
    say: Say
    at: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def work(self, jobs: int) -> None:
        """Bring everything; the first error ends it, and what has come stays."""
        waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for item in sorted(self.plan.todo, key=lambda item: -item.published.bytes):
            waiting.put(item)
            self.at[item.file.name] = item.have
            self.sizes[item.file.name] = item.published.bytes
        left = len(self.plan.todo)

        def run() -> None:
            while not self.visit.web.stop.is_set():
                try:
                    item = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    told.put(bring(self.plan.raw, item, self.visit, keep=self.keep, moved=self._moved, say=told.put))
                except BaseException as error:
                    told.put(error)

        # They are daemons: a person who interrupts does not wait for a server, and a part is never lost.
        for _ in range(min(jobs, left)):
            threading.Thread(target=run, daemon=True).start()
        try:
            while left:
                self._show()
                try:
                    news = told.get(timeout=0.1)
                except queue.Empty:
                    continue
                if isinstance(news, Stopped):
                    left -= 1
                elif isinstance(news, BaseException):
                    raise news
                elif isinstance(news, str):
                    self.say(news, True)
                else:
                    left -= 1
                    usual = news.how.startswith("verified")
                    self.say(f"{news.name}: {catalog.in_words(news.bytes)}, {news.how}", not usual)
            self._show()
        finally:
            self.visit.web.stop.set()

    def _moved(self, name: str, done: int) -> None:
        self.at[name] = done

    def _show(self) -> None:
        if self.progress:
            names = list(self.at)
            total = sum(max(self.sizes[name], self.at[name]) for name in names)
            self.progress("fetch", sum(self.at[name] for name in names), total)
