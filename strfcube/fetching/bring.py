"""One file of a data set: downloaded or found, verified, unpacked, in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strfcube import catalog
from strfcube.errors import FetchError
from strfcube.fetching import ledger
from strfcube.fetching.crcns import is_crcns
from strfcube.fetching.ledger import Record
from strfcube.fetching.plan import changed, state_of
from strfcube.fetching.reuse import take_over
from strfcube.fetching.transfer import Transfer
from strfcube.fetching.web import Stopped, host_of
from strfcube.unpacking.refusals import Damaged
from strfcube.unpacking.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from strfcube.fetching.plan import Item
    from strfcube.fetching.visit import Visit

_UNPACKING = threading.Lock()
_LONG = 100_000_000  # bytes of an archive whose unpacking is told of


@dataclass(frozen=True)
class Brought:
    """A file that is in place, and how it came."""

    name: str
    bytes: int
    how: str


def bring(
    raw: Path, item: Item, visit: Visit, *, keep: bool, moved: Callable[[str, int], None], say: Callable[[str], None]
) -> Brought:
    """Bring one file, alone: whoever else fetches it waits, and finds it there.

    Parameters
    ----------
    raw : Path
        Folder of the data set.
    item : Item
        The file, as it is published and as it lies there.
    visit : Visit
        Where it comes from.
    keep : bool
        Keep an archive that was unpacked.
    moved, say : callable
        Told how many bytes of which file are there, and what a person should know.

    Raises
    ------
    FetchError
        If it is not what is published, or does not come.
    Stopped
        If another file's error, or a person, ended the visit.
    """
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
            return Brought(file.name, size, "is there")
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
        return Brought(file.name, record.bytes, how)
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
