"""Fetching the files of a data set: each verified once, in place whole or not at all, never fetched twice."""

from __future__ import annotations

import os
import queue
import shutil
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube import catalog
from strfcube.errors import FetchError, UsageError
from strfcube.fetching import credentials, ledger, terms
from strfcube.fetching.crcns import Crcns, is_crcns
from strfcube.fetching.ledger import Record
from strfcube.fetching.plan import Plan, changed, enquire, is_own, look, see_told_apart, state_of
from strfcube.fetching.reuse import take_over
from strfcube.fetching.transfer import Transfer
from strfcube.fetching.web import Stopped, Web, host_of
from strfcube.progress import Progress, shown
from strfcube.unpacking.refusals import Damaged
from strfcube.unpacking.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from strfcube.fetching.plan import Item

    Say = Callable[[str, bool], None]

JOBS = 3  # files at once
HASTE = 5.0  # seconds that an answer may take which is good to know only
_UNPACKING = threading.Lock()
_LONG = 100_000_000  # bytes of an archive whose unpacking is told of
_SPARE = 100_000_000  # bytes of disk that stay free


def _silent(line: str, unusual: bool) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Visit:
    """The services, as one command goes to them."""

    web: Web
    crcns: Crcns

    @classmethod
    def begin(cls, ask: Callable[[], credentials.Credentials] | None = None, *, hasty: bool = False) -> Visit:
        """Nothing is sent yet.

        Parameters
        ----------
        ask : callable, optional
            Asks a person for name and password.
        hasty : bool
            Ask a service once, and wait for no answer longer than a person would: for what is good to know only.
        """
        web = Web()
        if hasty:
            web = Web(patience=replace(web.patience, tries=1, timeout=min(HASTE, web.patience.timeout)))
        return cls(web, Crcns(web, lambda: credentials.get(ask)))


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
        raise FetchError(
            f"cannot write {error.filename or plan.raw}: {error.strerror or error}; make it writable, free space, or "
            f"give another --raw"
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
                    told.put(_bring(self.plan.raw, item, self.visit, self.keep, self._moved, told.put))
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


@dataclass(frozen=True)
class _Brought:
    name: str
    bytes: int
    how: str


def _bring(raw: Path, item: Item, visit: Visit, keep: bool, moved: Callable[[str, int], None],
           say: Callable[[str], None]) -> _Brought:  # fmt: skip
    """Bring one file, alone: whoever else fetches it waits, and finds it there."""
    from filelock import FileLock, Timeout

    file = item.file
    ledger.work(raw)
    slot = ledger.slot(raw, file.name)
    lock = FileLock(f"{slot}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{file.name}: another strfcube is fetching it; waiting for it")
        while not lock.is_locked:
            if visit.web.stop.is_set():
                raise Stopped from None
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                continue
    try:
        now = state_of(raw, file, ledger.read(raw).get(file.name))
        if now.state == "there":
            size = now.record.bytes if now.record else 0
            moved(file.name, size)
            return _Brought(file.name, size, "is there")
        own = now.state == "found"
        record, how = _verify(raw, item) if own else _download(raw, item, visit, moved)
        moved(file.name, record.bytes)
        held = raw / file.name if own else slot / slot.name
        (raw / file.name).parent.mkdir(parents=True, exist_ok=True)
        if file.unpack:
            if record.bytes > _LONG:
                say(f"{file.name}: unpacking {catalog.in_words(record.bytes)}")
            try:
                how += _unpack(raw, item, record, held, visit, say)
            except Damaged as error:
                if own or item.published.md5:
                    raise
                # Nobody published what it must be, and this cannot be it: the next command must not meet it again.
                shutil.rmtree(slot)
                what = str(error).removeprefix(f"{held}: ").partition("; nothing was unpacked")[0]
                raise FetchError(f"{file.name}: {what}; it was removed, and the same command fetches it anew") from None
            if not own and keep:
                os.replace(held, raw / file.name)
        else:
            if not own:
                _to_disk(held)
                os.replace(held, raw / file.name)
            stat = (raw / file.name).stat()
            ledger.write(raw, file.name, _timed(record, stat.st_mtime_ns))
        shutil.rmtree(slot, ignore_errors=True)
        return _Brought(file.name, record.bytes, how)
    finally:
        lock.release()


def _to_disk(path: Path) -> None:
    """What the record calls verified must not be lost to a power cut that the record outlives."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _timed(record: Record, mtime_ns: int, unpacked: str = "", members: int = 0) -> Record:
    return Record(record.url, record.bytes, record.md5, record.etag, record.when, mtime_ns, unpacked, members)


def _verify(raw: Path, item: Item) -> tuple[Record, str]:
    """A file that was there already, held against what is published."""
    import pooch

    path, expected = raw / item.file.name, item.published
    size, md5 = path.stat().st_size, pooch.file_hash(str(path), "md5")
    for known, now, what in ((expected.bytes, size, "bytes"), (expected.md5, md5, "md5")):
        if known and known != now:
            raise FetchError(
                f"{path}: this is not the published file ({what} {now}, published is {known}); move it away to have it "
                f"fetched, or build from it as it is (--no-fetch)"
            )
    how = "was there, verified" if expected.md5 else "was there (no checksum is published)"
    return Record(item.file.url, size, md5, "", ledger.now()), how


def _download(raw: Path, item: Item, visit: Visit, moved: Callable[[str, int], None]) -> tuple[Record, str]:
    """A file that was not there: from deepSTRF's cache, or from its service; verified by pooch."""
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would tell of each file on standard error
    file, expected = item.file, item.published
    folder = ledger.slot(raw, file.name)
    folder.mkdir(parents=True, exist_ok=True)
    held, part = folder / folder.name, folder / f"{folder.name}.part"
    _clear(folder)
    known_hash = f"md5:{expected.md5}" if expected.md5 else None
    shop = pooch.create(folder, "", registry={held.name: known_hash}, urls={held.name: file.url}, retry_if_failed=1)
    open_, again = visit.crcns.file(file.url) if is_crcns(file.url) else (None, None)
    transfer = Transfer(visit.web, part, expected.bytes, expected.md5, open_, again,
                        lambda done: moved(file.name, done))  # fmt: skip
    taken = "" if held.exists() else take_over(file.name, expected, held)
    try:
        shop.fetch(held.name, downloader=transfer)
    except ValueError:  # pooch's word for another checksum
        transfer.discard()
        raise FetchError(_other_sum(item)) from None
    size = held.stat().st_size
    if expected.bytes and size != expected.bytes:
        held.unlink()
        raise FetchError(f"{file.name}: {size:,} bytes came, {expected.bytes:,} are published; try again later")
    md5 = expected.md5 or pooch.file_hash(str(held), "md5")
    record = Record(file.url, size, md5, transfer.begun.etag, ledger.now())
    if taken:
        return record, f"{taken}, verified"
    return record, "verified" if expected.md5 else "no checksum is published; this one is kept"


def _other_sum(item: Item) -> str:
    file, expected, host = item.file, item.published, host_of(item.file.url)
    if item.record and item.record.md5 == expected.md5:
        return changed(file, item.record, f"md5 {expected.md5}", "another")
    return (
        f"{file.name}: what {host} sent has another checksum than is published (md5 {expected.md5}), twice; nothing of "
        f"it was kept, try again later"
    )


def _clear(folder: Path) -> None:
    """Remove what a fetch that was killed left beside the part and the file."""
    name = folder.name
    for path in folder.iterdir():
        if path.name not in (name, f"{name}.part", f"{name}.part.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _unpack(raw: Path, item: Item, record: Record, archive: Path, visit: Visit, say: Callable[[str], None]) -> str:
    """Unpack an archive; its folder comes into place in one step, with a mark in it."""
    if visit.web.stop.is_set():
        raise Stopped
    file, target = item.file, raw / item.file.unpack
    staged = ledger.slot(raw, file.name) / "unpacked"
    shutil.rmtree(staged, ignore_errors=True)
    staged.parent.mkdir(parents=True, exist_ok=True)
    # One at a time: what is warned of is caught for the whole process, and the disk is what limits it anyway.
    with _UNPACKING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unpack(archive, staged, published=record.bytes)
    for warning in caught:
        say(str(warning.message))
    inner = _unwrapped(staged, target.name)
    members = ledger.count(inner)
    done = _timed(record, 0, file.unpack, members)
    mark = {"url": done.url, "bytes": done.bytes, "md5": done.md5, "etag": done.etag, "when": done.when,
            "members": members}  # fmt: skip
    ledger.replace(inner / ledger.MARK, mark)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(inner, target)
    ledger.write(raw, file.name, done)
    return f", {members:,} files"


def _unwrapped(staged: Path, name: str) -> Path:
    """What an archive holds, without the folder of the target's name that it may have wrapped it in."""
    inner = staged / name
    others = [path for path in staged.iterdir() if path != inner]
    if not inner.is_dir() or any((inner / path.name).exists() for path in others):
        return staged
    for path in others:  # a README beside that folder, for example
        os.rename(path, inner / path.name)
    return inner
