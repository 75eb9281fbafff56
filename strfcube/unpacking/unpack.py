"""Unpack an archive into a folder: whole or not at all, and nothing outside it."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from strfcube.errors import FetchError
from strfcube.unpacking import bounds
from strfcube.unpacking.refusals import shown
from strfcube.unpacking.safe_names import OURS, fill

if TYPE_CHECKING:
    from collections.abc import Iterator


class ArchiveWarning(UserWarning):
    """A member whose name another disk, or another reader of the archive, may take for a different one."""


def unpack(archive: Path, into: Path, *, published: int | None = None) -> None:
    """Unpack a zip or a tar (as it is, or compressed with gzip, bzip2 or xz) into a folder.

    The archive is unpacked into a hidden folder beside `into` (within it, where `into` is a disk of its own), written
    to the disk, and compared with what is in `into`. Only then is it renamed to say that it is whole, and its entries
    are moved into place: in one rename where `into` is not there yet, else a rename for every file or folder that
    `into` does not have. A file that is there already with the same content stays; with other content it is an error,
    and nothing is moved. What a killed call left unfinished is cleared away by the next one for the same folder, or,
    where it was whole and half moved, moved to the end. A second process waits for the first.

    Parameters
    ----------
    archive : Path
        Zip or tar, told by its content.
    into : Path
        Folder; made with its parents where it is not there. Other archives may have been unpacked into it.
    published : int, optional
        Bytes of the archive as its publisher states them; `strfcube.unpacking.bounds` derives from them what it may
        unpack to. The size of the file counts where none is known.

    Warns
    -----
    ArchiveWarning
        Of names that are not UTF-8 (they are read as code page 437 in a zip, as Latin-1 in a tar), that differ by
        case or accents only, or that Windows cannot hold.

    Raises
    ------
    FetchError
        If the archive is damaged, cut off, empty, encrypted, or unpacks to more than the bounds or the free disk;
        if a member would leave the folder, is a device or FIFO, links to anything but a file of the archive, is there
        twice with different content, or has a name that no disk holds; if `into` has other content under a name.

    Notes
    -----
    A link becomes another name of the file that it links to. Times, owners and modes are not kept. A backslash parts
    folders, as in archives made on Windows. Archives within the archive stay packed. What macOS adds (``__MACOSX``,
    ``._*``, ``.DS_Store``, the icon of a folder) is left out.
    """
    archive, into = Path(archive), Path(into).resolve()
    if not archive.is_file():
        raise FetchError(f"{archive}: there is no such file to unpack")
    with _writable(f"{archive} into {into}"), _workplace(into) as work:
        budget = bounds.Budget(archive, work, published)
        partial = work / "partial"
        partial.mkdir()
        notes = fill(partial, archive, budget)
        _compare(str(partial), str(into), archive)
        for note in notes:
            warnings.warn(f"{archive}: {note}", ArchiveWarning, stacklevel=2)
        _sync(work)
        os.rename(partial, work / "whole")
        _sync_folder(work)
        _move_whole(work, into)


def settle(into: Path) -> None:
    """Finish, or clear away, what a killed `unpack` into a folder left; nothing where it left nothing.

    Raises
    ------
    FetchError
        If what is left to move is in the folder by now, with other content.
    """
    into = Path(into).resolve()
    if _work(into).exists():
        with _writable(str(into)), _workplace(into):
            pass


def _work(into: Path) -> Path:
    own_disk = os.path.ismount(into) or (into.is_dir() and not os.access(into.parent, os.W_OK))
    return (into if own_disk else into.parent) / f"{OURS}-unpacking-{into.name}"


@contextmanager
def _workplace(into: Path) -> Iterator[Path]:
    """The hidden folder of one unpacking at a time; what an earlier one left in it is dealt with first."""
    from filelock import FileLock

    if into.exists() and not into.is_dir():
        raise FetchError(f"cannot unpack into {into}: it is not a folder")
    work = _work(into)
    lock = FileLock(work / "lock")
    while True:
        work.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just taken the folder away
            lock.acquire()
            if (work / "lock").exists():
                break
            lock.release()
    try:
        _move_whole(work, into)
        _clear(work / "partial")
        yield work
    finally:
        if not (work / "whole").exists():
            _clear(work / "partial")
            with suppress(OSError):  # Windows holds on to the lock's file
                (work / "lock").unlink()
                work.rmdir()
        lock.release()


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _writable(what: str) -> Iterator[None]:
    """Say in one line what the file system refused."""
    try:
        yield
    except OSError as error:
        place = f" ({shown(str(error.filename))})" if error.filename else ""
        todo = "free space, make it writable, or name another folder"
        raise FetchError(f"cannot unpack {what}: {error.strerror or error}{place}; {todo}") from error


def _compare(source: str, target: str, archive: Path | None, name: str = "") -> None:
    """Refuse what is in the target with other content, or could not be moved there."""
    if not os.path.lexists(target):
        return
    said = f"{archive or 'an unpacking that was cut off'}: {shown(name)}"
    if os.path.isdir(source) and os.path.isdir(target):
        if os.stat(source).st_dev != os.stat(target).st_dev:
            raise FetchError(f"{said} lies on another disk, in {target}; move it to this one, or name another folder")
        for entry in sorted(os.listdir(source)):
            _compare(os.path.join(source, entry), os.path.join(target, entry), archive, f"{name}/{entry}".strip("/"))
    elif not (os.path.isfile(source) and os.path.isfile(target) and _equal(source, target)):
        raise FetchError(
            f"{said} is there already with other content, in {target}; nothing was moved: move that one away, "
            "or name another folder"
        )


def _equal(one: str, other: str) -> bool:
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    with open(one, "rb") as a, open(other, "rb") as b:
        while piece := a.read(bounds.CHUNK):
            if b.read(bounds.CHUNK) != piece:
                return False
    return True


def _move_whole(work: Path, into: Path) -> None:
    """Move what is whole into place, as far as it is not there; done again from any point of it, it ends the same."""
    whole = work / "whole"
    if whole.exists():
        _compare(str(whole), str(into), None)
        _move(str(whole), str(into))
        _clear(whole)


def _move(source: str, target: str) -> None:
    if not os.path.lexists(target):
        os.rename(source, target)
        _sync_folder(Path(target).parent)
    elif os.path.isdir(source):
        for entry in os.listdir(source):
            _move(os.path.join(source, entry), os.path.join(target, entry))


def _sync(folder: Path) -> None:
    """Have all that was written on the disk: one call for all files, which a call for each takes ten times as long."""
    if sys.platform == "linux":
        handle = os.open(folder, os.O_RDONLY)
        try:
            ctypes.CDLL(None).syncfs(handle)  # only this disk: `os.sync` waits for every other one too
        finally:
            os.close(handle)
    elif hasattr(os, "sync"):
        os.sync()


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network disks cannot
                os.fsync(handle)
        finally:
            os.close(handle)
