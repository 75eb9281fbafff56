"""Where an unfinished build lies: its folder, its lock, and the way out of it into the place of the cube."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sys
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube import catalog
from strfcube.cube.store import RESUME
from strfcube.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from strfcube.builder.recipe import Recipe

STAGES = ("spool", "ingest", "write")
MARKER = "recipe.json"


def work_folder(target: str) -> Path:
    """Where an unfinished build lies: beside a local store, else in the data folder."""
    if "://" in target:
        return catalog.data_dir() / "building" / hashlib.sha256(target.encode()).hexdigest()[:16]
    path = Path(target)
    return path.with_name(f"{path.name}.building")


def store_of(target: str, work: Path) -> str:
    """What the shards go to: a folder that is renamed into place, or the URL itself."""
    return target if "://" in target else str(work / "store.zarr")


def half_written(target: str, work: Path) -> bool:
    """Whether an unfinished build of ours lies at a URL, where no rename could hold a cube back until it is whole."""
    return "://" in target and (work / MARKER).exists()


def resume_or_restart(work: Path, target: str, recipe: Recipe, fingerprint: str, command: str = "") -> None:
    """Keep what an unfinished build of the same recipe and raw files left; clear anything else away."""
    from strfcube.version import __version__

    stamp = json.dumps([__version__, recipe.to_json(), fingerprint])
    marker, store = work / MARKER, store_of(target, work)
    if "://" not in target and (work / "replaced").exists() and not Path(target).exists():
        # A build ended within `publish`: the old cube stays until the new one is there.
        os.rename(work / "replaced", target)
    # A store that was written and is gone has been published, by a build that ended before it cleared this folder.
    gone = "://" not in target and any((work / "write").glob("*.done")) and not Path(store).exists()
    if gone or not marker.exists() or marker.read_text() != stamp:
        clear(work)
        if "://" in target:
            import fsspec

            fs, inner = fsspec.url_to_fs(target)
            if fs.exists(inner):
                fs.rm(inner, recursive=True)
    if "://" not in target:
        _tidy(Path(store))
    for name in STAGES:
        (work / name).mkdir(parents=True, exist_ok=True)
    marker.write_text(stamp)
    (work / RESUME).write_bytes(os.fsencode(command))


def _tidy(store: Path) -> None:
    """Clear away what a killed write left half done: Zarr warns of it, and it would stay in the cube."""
    for partial in store.rglob("*.partial"):
        partial.unlink(missing_ok=True)
    for folder in (*store.glob("*"), *store.glob("*/*")):
        # The ledger knows of no array without metadata: whoever writes one begins again.
        if folder.is_dir() and folder.name != "c" and not (folder / "zarr.json").exists():
            shutil.rmtree(folder)


def clear(work: Path) -> None:
    """Empty the folder of all but its lock; the marker goes first, so that half of a build is never resumed."""
    (work / MARKER).unlink(missing_ok=True)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def discard(work: Path) -> None:
    """Remove the folder, unless a build that waited for its lock takes it over."""
    clear(work)
    (work / "lock").unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()


@contextmanager
def writable(target: str) -> Iterator[None]:
    """Say what could not be written, and what to do, for anything the file system refuses."""
    try:
        yield
    except OSError as error:
        place = error.filename or target
        raise StoreError(
            f"cannot write {place}: {error.strerror or error}; make it writable, free space, or give another --out"
        ) from error


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """One build of a store at a time; the second waits. The lock goes with its process, however that ends."""
    from filelock import FileLock, Timeout

    lock, patience = FileLock(work / "lock"), 0.0
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            print(f"strfcube: another build is writing {work}; waiting for it", file=sys.stderr)
            patience = -1
        except FileNotFoundError:
            continue  # the other build is done, and took its folder with it
        else:
            if (work / "lock").exists():
                break
            lock.release()
    try:
        yield
    finally:
        lock.release()


def publish(store: str, target: str, work: Path) -> None:
    """Put the finished local store into place, and clear the work folder."""
    if "://" not in target:
        old = work / "replaced"
        if Path(target).exists():
            os.rename(target, old)
        os.rename(store, target)
    discard(work)


def save(path: Path, value: Any) -> str:
    """Pickle a value, by value where it comes from a script or a notebook; gives the path."""
    from cloudpickle import dumps

    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(dumps(value))
    os.replace(partial, path)
    return str(path)


def load(path: str) -> Any:
    """What `save` pickled, read once a worker and stage."""
    return _load(path, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=1)  # by path and time: a build that starts again saves anew
def _load(path: str, stamp: int) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)


def slug(name: str) -> str:
    """A file name for any source id."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]
    return f"{safe}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
