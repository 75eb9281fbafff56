"""Where an unfinished build lies: its folder, its lock, and the way out of it into the place of the cube."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from strfcube import catalog
from strfcube.builder.ledger import sync_one
from strfcube.cube.files import see_own
from strfcube.cube.store import REPLACED, RESUME, beside, existing_cube
from strfcube.errors import StoreError, UsageError
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from filelock import BaseFileLock

    from strfcube.builder.recipe import Recipe

STAGES = ("spool", "ingest", "write")
MARKER = "recipe.json"
_TOKEN = "token"
_PART = "part-"


def work_folder(target: str, spool: str | None = None) -> Path:
    """Where an unfinished build lies: beside a local cube; of one at a URL in the data folder, or where spools go."""
    if "://" not in target:
        return beside(target)
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    return catalog.data_dir() / "building" / name if spool is None else Path(spool, f"strfcube-{name}")


def place_of(target: str) -> str:
    """Where a cube will really lie: where a link points to; before anything is built.

    Raises
    ------
    UsageError
        If no cube can lie there.
    StoreError
        If what is there could not be replaced in the end.
    """
    if "://" in target:
        return _url(target)
    if not target:
        raise UsageError("--out '': give the name of a new folder")
    path = Path(target)
    if path.is_symlink():
        if not path.exists():
            raise StoreError(f"{target} is a link to {os.readlink(path)}, which is not there: remove or mend it")
        path = path.resolve()
    if _here().is_relative_to(path.resolve()):
        raise UsageError(f"--out {target}: that is the folder you are in, or above it; give the name of a new folder")
    if os.path.ismount(path):
        raise StoreError(f"{target} is a mount point, which cannot be replaced: give a folder below it")
    if os.name == "posix" and path.exists():
        above = path.resolve().parent.stat()
        mine = os.geteuid() in (0, above.st_uid, path.stat().st_uid)
        if above.st_mode & stat.S_ISVTX and not mine:
            raise StoreError(
                f"{target} is somebody else's, in a folder that lets nobody replace it: give another --out"
            )
    return str(path)


def _url(target: str) -> str:
    """A URL that a cube can be written to."""
    from strfcube.transport.urls import remote

    remote(target)  # refuses what nothing here writes to
    scheme, _, rest = target.rstrip("/").partition("://")
    if scheme in ("http", "https"):
        raise UsageError(f"--out {target}: a web server is only read from; give a folder, or s3://, gs:// or az://")
    if "/" not in rest.strip("/") and scheme != "memory":
        raise UsageError(f"--out {target}: that is a whole bucket; give the name of a cube in it, {target}/NAME.zarr")
    return f"{scheme}://{rest}"


def _here() -> Path:
    """The current folder; the root where it was removed, which only the root is above."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(Path.home().anchor)


def standing(target: str, recipe: Recipe, force: bool) -> dict[str, Any] | None:
    """Root attributes of the cube of this recipe that is there already; None where one may be written.

    Raises
    ------
    StoreError
        If something else is in its place: another cube, or, even where the build is forced, what is no cube, or one
        that holds what somebody else put there.
    """
    existing = existing_cube(target)
    if existing is not None and force:
        see_own(target, existing)
    if existing is None or force:
        return None
    if existing.attrs.get("recipe") != recipe.to_json():
        raise StoreError(f"{target} holds another recipe: give another --out, or --force to replace it")
    return existing.attrs


def see_place(target: str, recipe: Recipe, force: bool) -> dict[str, Any] | None:
    """As `standing`; and refuse a place that no cube could be written to, without writing anything there.

    Raises
    ------
    StoreError
        If the folder that it would lie in, or its work folder, cannot be written to.
    """
    existing = standing(target, recipe, force)
    work = work_folder(target)
    above = next(folder for folder in work.absolute().parents if os.path.lexists(folder))
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        what = "it may not be written to" if above.is_dir() else "it is not a folder"
        raise StoreError(f"cannot write {target}: {above}: {what}; give another --out, or STRFCUBE_DATA_DIR")
    return existing


def make_private(work: Path) -> None:
    """Make the work folder, for this user alone; or see that it is such a one.

    Raises
    ------
    StoreError
        If somebody else made it, others may write to it, or it is a link.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    found = None
    while found is None:  # or else another build was just done with it
        with suppress(FileExistsError):
            work.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            found = work.lstat()
    if not stat.S_ISDIR(found.st_mode):
        what = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
        raise StoreError(f"{work} {what}, not a work folder that strfcube made: remove it")
    if os.name != "posix" or (found.st_uid == os.geteuid() and not found.st_mode & 0o077):
        return
    # On a file system without owners or modes every folder looks like this, also one that is made now.
    probe = work / f"{uuid4().hex}.partial"
    try:
        probe.mkdir(mode=0o700)
        made = probe.lstat()
        probe.rmdir()
    except OSError:
        made = None
    if made is None or (made.st_uid, made.st_mode & 0o777) != (found.st_uid, found.st_mode & 0o777):
        whose = "" if found.st_uid == os.geteuid() else f"belongs to user {found.st_uid}, and "
        raise StoreError(
            f"{work} {whose}has mode {found.st_mode & 0o777:o}: it is not a work folder that strfcube made for you "
            "alone; remove it, or give another --out"
        )


def see_whole(source: str) -> None:
    """Stop where a cube that is read to make another is not what was built: its damage would come out as good.

    Raises
    ------
    StoreError
        If so.
    """
    from strfcube.cube.verify import examine

    verdict = examine(source)
    if wrong := verdict.damaged or verdict.refused:
        more = f"; and {len(wrong) - 3} more (strfcube verify)" if len(wrong) > 3 else ""
        what, then = ("is damaged", "build it again with --force") if verdict.damaged else (
            "cannot be read whole", "give yourself permission to read its files, or more memory"
        )  # fmt: skip
        raise StoreError(f"{source} {what}, and nothing is made of it: {'; '.join(wrong[:3])}{more}; {then}")


def see_apart(source: str, target: str) -> None:
    """Stop where a cube at a URL is to be written over the one that it is read from: there, that goes first.

    Raises
    ------
    StoreError
        If the cube at the target is the source, under whatever URL, or a copy of it.
    """
    held = connect(target, "").get("zarr.json") if "://" in target else None
    if held is not None and held == connect(source, "").get("zarr.json"):
        raise StoreError(
            f"{target} is the cube that is read, or a copy of it, and an object store cannot keep it until the new "
            "one is whole: give another --out, or remove the copy"
        )


def recover(work: Path, target: str) -> None:
    """Put back the cube of a build that ended between moving the old one away and the new one in."""
    old = work / REPLACED
    if not old.exists():
        return
    if Path(target).exists():
        shutil.rmtree(old)
    else:
        os.rename(old, target)


def same_as_begun(work: Path, recipe: Recipe, fingerprint: str) -> bool | None:
    """Whether the unfinished build that lies here is of this recipe and these raw files; None where none lies here."""
    marker = work / MARKER
    return marker.read_bytes() == stamp(recipe, fingerprint) if marker.exists() else None


def stamp(recipe: Recipe, fingerprint: str) -> bytes:
    """What an unfinished build must have in common with the one that goes on with it."""
    from strfcube.version import __version__

    return json.dumps([__version__, recipe.to_json(), fingerprint]).encode()


def resume_or_restart(
    work: Path, recipe: Recipe, fingerprint: str, command: str = "", spool: str | None = None
) -> None:
    """Keep what an unfinished build of the same recipe and raw files left; clear anything else away.

    Parameters
    ----------
    spool : str, optional
        Folder for the spools, where it is not the work folder itself; one that was given before stays.
    """
    if not same_as_begun(work, recipe, fingerprint):
        clear(work)
    link = work / "spool"
    if link.is_symlink() and not link.exists():  # what it leads to was cleared away
        link.unlink()
    if spool is not None:
        if not spools_in(work, spool):
            _clear_spools(link)
        make_private(_spools(work, spool))
        if not link.is_symlink():
            link.symlink_to(_spools(work, spool))
    for name in STAGES:
        (work / name).mkdir(exist_ok=True)
    (work / MARKER).write_bytes(stamp(recipe, fingerprint))
    (work / RESUME).write_bytes(os.fsencode(command))


def spools_in(work: Path, folder: str) -> bool:
    """Whether the spools of an unfinished build lie in this folder."""
    link = work / "spool"
    return link.is_symlink() and Path(os.readlink(link)) == _spools(work, folder)


def _spools(work: Path, folder: str) -> Path:
    """A folder of ours within another, which the work folder links to."""
    return Path(folder, f"{work.name}-{hashlib.sha256(os.fsencode(work.absolute())).hexdigest()[:8]}")


def _clear_spools(path: Path) -> None:
    if path.is_symlink():
        shutil.rmtree(os.readlink(path), ignore_errors=True)
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def clear(work: Path) -> None:
    """Empty the folder of all but its lock and a cube that was moved away.

    The marker goes first, so that half of a build is never resumed.
    """
    (work / MARKER).unlink(missing_ok=True)
    for path in work.iterdir():
        if path.name in ("lock", REPLACED, _TOKEN):
            continue
        if path.name == "spool":
            _clear_spools(path)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def discard(work: Path) -> None:
    """Remove the folder, unless a build that waited for its lock takes it over."""
    clear(work)
    (work / _TOKEN).unlink(missing_ok=True)
    (work / "lock").unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()


def token(work: Path) -> str:
    """What tells this work folder from every other; whoever has its lock has it."""
    path = work / _TOKEN
    with in_turn(work):
        found = path.read_text() if path.exists() else ""
        if len(found) != len(uuid4().hex):  # or it was cut by a power cut
            path.write_text(found := uuid4().hex)
    return found


@contextmanager
def writable(target: str, instead: str = "give another --out", spools: str = "") -> Iterator[None]:
    """Say what could not be written, and what to do, for anything the file system refuses.

    Parameters
    ----------
    target : str
        Path or URL of the cube.
    instead : str
        What helps, where it is that one.
    spools : str
        Folder of this machine in which the rest lies, where that is not beside the cube.
    """
    try:
        yield
    except OSError as error:
        place = str(error.filename or _fuller(target, spools))
        if spools and place.startswith(spools):
            instead = "give another folder for what is read (--spool)"
        raise StoreError(
            f"cannot write {place}: {error.strerror or error}; make it writable, free space, or {instead}"
        ) from error


def _fuller(target: str, spools: str) -> str:
    """The place whose disk has less room: where a disk is full, the system does not say which."""
    if not spools or "://" in target:
        return spools or target
    free = [shutil.disk_usage(folder).free for folder in (os.path.dirname(target), spools)]
    return target if free[0] <= free[1] else spools


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """One build of a store at a time; the second waits, also for parts. A lock goes with its process, however it ends.

    Raises
    ------
    StoreError
        If the work folder is not this user's own.
    """
    from filelock import FileLock

    with _alone(work), ExitStack() as parts:
        for path in sorted(work.glob(f"{_PART}*.lock")):
            lock = FileLock(path)
            _acquire(lock, f"a part of this build is writing {work}")
            parts.callback(lock.release)
        yield


@contextmanager
def sharing(work: Path, part: str, begin: Callable[[], bool]) -> Iterator[bool]:
    """A part of a build, beside others; the same part at another place waits.

    Parameters
    ----------
    part : str
        Its name.
    begin : callable
        Called while nobody else is at work on the folder as a whole; gives whether there is anything to do.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(work / f"{_PART}{part}.lock")
    while True:
        with _alone(work):
            if not begin():
                yield False
                return
            with suppress(Timeout):
                lock.acquire(timeout=0)
        if lock.is_locked:
            break
        with suppress(FileNotFoundError):  # the build is done, and took its folder with it
            _acquire(lock, f"part {part} is at work elsewhere")
        lock.release()
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def in_turn(work: Path) -> Iterator[None]:
    """One part after the other, for what two of them cannot do at once."""
    from filelock import FileLock

    with FileLock(work / "turn.lock"):
        yield


def _acquire(lock: BaseFileLock, why: str) -> None:
    """Take a lock; say why it takes time, if it does."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"strfcube: {why}; waiting for it", file=sys.stderr)
        lock.acquire()


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    from filelock import FileLock

    lock = FileLock(work / "lock")
    while True:
        make_private(work)
        try:
            _acquire(lock, f"another build is writing {work}")
        except FileNotFoundError:
            continue  # the other build is done, and took its folder with it
        if (work / "lock").exists():
            break
        lock.release()
    try:
        yield
    finally:
        lock.release()


def publish(store: str, target: str, work: Path) -> None:
    """Put the finished local store into place, durably, and clear the work folder.

    A cube that is there already changes places with the new one in one step, where the system can do that.

    Raises
    ------
    StoreError
        If that cube can be copied and removed, but not renamed.
    """
    old = work / REPLACED
    try:
        if not Path(target).exists():
            os.rename(store, target)
        elif not _exchange(store, target):
            os.rename(target, old)
            os.rename(store, target)
            shutil.rmtree(old)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise StoreError(
            f"{target} cannot be replaced: it lies on another disk, or in the image of this container; move it away "
            "(mv), and the same command puts the new cube there, or give another --out"
        ) from error
    sync_one(Path(target).parent)
    discard(work)


def _exchange(one: str, other: str) -> bool:
    """Let two folders change places at once (Linux); False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), other)


def slug(name: str) -> str:
    """A file name for any source id."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]
    return f"{safe}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
