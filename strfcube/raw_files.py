"""The files of a raw folder: links followed, what systems leave left out, content that is not there told from what is.

A raw folder is read as it presents itself: behind a linked folder lies what a copy of it would hold.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal

from strfcube.errors import RawDataError, StrfcubeError, refusal, starved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SYSTEMS_OWN = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
Absent = Literal["", "annex", "lfs", "link"]
_POINTERS: tuple[tuple[bytes, Absent], ...] = ((b"/annex/objects/", "annex"), (b"version https://git-lfs", "lfs"))
_POINTER_BYTES = 1000  # a file of this size or more is no pointer


def is_ours(name: str) -> bool:
    """Whether a file or folder of this name can be data.

    A dot begins what a version control, a network drive or an archive of macOS leaves; others that file browsers leave
    have names without.
    """
    return not name.startswith(".") and name.lower() not in _SYSTEMS_OWN


def see_readable(error: BaseException, file: Any) -> None:
    """Stop where the system refused to read a file, which says nothing of what is in it.

    Whoever takes an error for damage asks this first: a file without permission, or on a disk that fails, is no
    damaged one, and a cube without it is not what was asked for.

    Parameters
    ----------
    error : exception
        What was raised.
    file : path-like
        What was read.

    Raises
    ------
    StrfcubeError
        If it was the system.
    """
    if not (_claimed and starved(error)) and (what := refusal(error)):
        place = getattr(error, "filename", None) or file
        raise StrfcubeError(f"{place} cannot be read: {what}, then give the same command") from error


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a raw folder.

    Attributes
    ----------
    name : str
        Path below the raw folder, with forward slashes.
    size, time_ns : int
        Bytes, and time of the last change; of the link itself where it leads nowhere.
    absent : {"", "annex", "lfs", "link"}
        Why its content is not there: it is with git-annex (DataLad) or Git LFS and was not fetched, or the file is a
        link that leads nowhere. Empty where it is there.
    """

    name: str
    size: int
    time_ns: int
    absent: Absent = ""


def walk(raw: Path) -> Iterator[RawFile]:
    """Yield all files below a raw folder, in the order of their names, folder by folder.

    Links are followed, to files and to folders. What is not `is_ours` is left out, and so are cubes that lie there,
    built or half built.

    Raises
    ------
    RawDataError
        If a link leads back to a folder that holds it, a folder cannot be listed, or something is neither a file nor
        a folder.
    """
    versioned = any((folder / ".git").exists() for folder in (raw, *raw.parents))
    yield from _walk(raw, "", frozenset(), versioned)


def _walk(folder: Path | str, prefix: str, above: frozenset[tuple[int, int]], versioned: bool) -> Iterator[RawFile]:
    try:
        here = os.stat(folder)
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if is_ours(e.name)), key=lambda e: e.name)
    except OSError as error:
        see_readable(error, folder)
        raise RawDataError(f"expected a folder that can be listed: {error.strerror}", folder) from error
    if (here.st_dev, here.st_ino) in above:
        raise RawDataError("a link that leads back to a folder that holds it: remove it, or link what is meant", folder)
    if _is_cube(folder, entries):
        return
    above |= {(here.st_dev, here.st_ino)}
    looked_at: set[str] = set()
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", above, versioned)
            continue
        # A downloaded copy of a repository has no .git: there one file of a kind tells of a folder
        kind = os.path.splitext(entry.name)[1]
        file = _file(entry, prefix + entry.name, look=versioned or kind not in looked_at)
        versioned = versioned or file.absent in ("annex", "lfs")
        if file.size < _POINTER_BYTES and file.absent != "link":
            looked_at.add(kind)
        yield file


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RawDataError("a link that leads to itself: remove it", entry.path) from None
        see_readable(error, entry.path)
        return False


def _file(entry: os.DirEntry[str], name: str, *, look: bool) -> RawFile:
    try:
        stat = entry.stat()
        if not S_ISREG(stat.st_mode):
            what = "is neither a file nor a folder, but a pipe, socket or device, which can be waited for without end"
            raise RawDataError(f"{what}: remove it", entry.path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RawDataError("a link that leads to itself: remove it", entry.path) from None
        see_readable(error, entry.path)
        stat, target = entry.stat(follow_symlinks=False), os.readlink(entry.path)
        kind: Absent = "annex" if "annex/objects/" in target.replace("\\", "/") else "link"
        return RawFile(name, stat.st_size, stat.st_mtime_ns, kind)
    absent: Absent = ""
    if look and stat.st_size < _POINTER_BYTES:  # where links are not used, a short text stands for the content
        begin = b""
        with suppress(OSError), open(entry.path, "rb") as file:  # one that may not be read is told of by its reader
            begin = file.read(40)
        absent = next((kind for mark, kind in _POINTERS if begin.startswith(mark)), "")
    return RawFile(name, stat.st_size, stat.st_mtime_ns, absent)


def _is_cube(folder: Path | str, entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder is a cube, or the workplace of one: built beside raw files, it is none of them."""
    names = {entry.name for entry in entries}
    if str(folder).endswith(".building") and {"ingest", "spool"} <= names:
        return True
    if "zarr.json" not in names:
        return False
    return b'"strfcube_version"' in Path(folder, "zarr.json").read_bytes()


_ROOM, _RATIO = 200_000_000, 300  # bytes, and bytes for each of a file's: packed numbers, objects of Python
_bounding = threading.RLock()
_claimed = False  # whether it is for what a file claims that there is no memory now
_note: int | None = None  # descriptor of the file in which this process notes what it reads
_without: Mapping[str, str] = {}


@contextmanager
def noted(note: str, without: Mapping[str, str]) -> Iterator[None]:
    """Note what is read (`reading`) in a file, for who finds this process dead.

    Parameters
    ----------
    note : str
        The file.
    without : mapping
        Files that `reading` refuses, and why.
    """
    global _note, _without
    _note, _without = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), without
    try:
        yield
    finally:
        os.close(_note)
        _note, _without = None, {}


def reading(path: str | os.PathLike[str]) -> None:
    """Say that a library which a damaged file can hang or crash reads a file from now on.

    Raises
    ------
    OSError
        If it did already.
    """
    if _note is None:
        return
    name = os.fspath(path)
    if name in _without:
        raise OSError(_without[name])
    text = os.fsencode(name)
    os.lseek(_note, 0, os.SEEK_SET)
    os.write(_note, text)
    os.ftruncate(_note, len(text))


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Let this process have no more memory, for now, than a file of `size` bytes can need.

    Libraries make room for what a damaged file claims, some of them without end, until the system ends a process for
    want of memory; here they fail. On Linux; of all threads, since nobody counts the memory of one.

    Raises
    ------
    ValueError
        If they do. Where the process may have less anyway, nothing is known of the file, and their error stays.
    """
    global _claimed
    with _bounding, ExitStack() as after:
        before, _claimed = _claimed, sys.platform != "linux" or _claimed or _tightened(size, after)
        try:
            yield
        except Exception as error:
            if _claimed and starved(error):
                raise ValueError(f"it claims more memory than it can need: {error or 'MemoryError'}") from None
            raise
        finally:
            _claimed = before


def _tightened(size: int, after: ExitStack) -> bool:
    """Set the limit; whether it is the closer one, and not what the process may have anyway."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + _ROOM + _RATIO * size
    if soft != resource.RLIM_INFINITY and soft <= most:
        return False
    after.callback(resource.setrlimit, resource.RLIMIT_AS, (soft, hard))
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    return True


@dataclass(frozen=True)
class Missing:
    """The files of a raw folder whose content is not there.

    Attributes
    ----------
    files : tuple of RawFile
        They.
    count : int
        All files that are read, these included.
    covered : frozenset of str
        Their names, and those of the folders that hold nothing else: what need not be reported one by one.
    """

    files: tuple[RawFile, ...] = ()
    count: int = 0
    covered: frozenset[str] = frozenset()

    @classmethod
    def of(cls, files: Sequence[RawFile]) -> Missing:
        """Those of some files."""
        absent = tuple(f for f in files if f.absent)
        if not absent:
            return cls()
        there, empty = ({folder for f in files if bool(f.absent) is lost for folder in PurePosixPath(f.name).parents}
                        for lost in (False, True))  # fmt: skip
        return cls(absent, len(files), frozenset([*(f.name for f in absent), *map(str, empty - there)]))

    def what(self) -> str:
        """Say so, in one sentence."""
        kinds = {"annex": "with git-annex (DataLad) and was not fetched", "lfs": "with Git LFS and was not fetched",
                 "link": "behind links that lead nowhere"}  # fmt: skip
        parts = []
        for kind, where in kinds.items():
            if some := [f.name for f in self.files if f.absent == kind]:
                parts.append(f"of {len(some):,} of {self.count:,} files the content is {where}, the first is {some[0]}")
        return "; ".join(parts)

    def remedy(self) -> str:
        """Say what to do."""
        kinds = {"annex": "run `datalad get .` (or `git annex get .`) in the raw folder",
                 "lfs": "run `git lfs pull` in the raw folder", "link": "mend the links"}  # fmt: skip
        there = {f.absent for f in self.files}
        return ", ".join(text for kind, text in kinds.items() if kind in there)
