"""What an unfinished build has done: an entry a task, believed only where it and the files that it names are whole.

Entries and files are not forced to the disk one by one. A power cut may leave any of them short, empty or full of
zeros, so an entry states the size and the checksum of each file that its task wrote, and of itself; what does not fit
counts as not done, and is done again. Entries are JSON: reading one back runs nothing.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from strfcube.cube.shard_writer import put
from strfcube.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# Key below the ledger's root: size in bytes, CRC-32C; at a URL also its ETag, and its last bytes in hexadecimal digits
Files = dict[str, list[Any]]
_PIECE = 1 << 20
_AT_ONCE = 16  # a journal commits what many threads ask for together


class Record(Protocol):
    """What a stage has done, wherever that is noted."""

    def read(self, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Results of the tasks that are done, by name; of these only, where any are given."""

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        """Enter what a task gave: plain JSON values, with its `Files` under ``files``."""


@dataclass(frozen=True)
class Ledger:
    """The entries of one stage, as files.

    Attributes
    ----------
    folder : path
        Where they lie.
    root : str
        Path that the files which they name are relative to.
    """

    folder: Path
    root: str

    def names(self) -> set[str]:
        """The tasks that are entered, without a look at what they wrote."""
        return {path.name.removesuffix(".done") for path in self.folder.glob("*.done")}

    def read(self, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Results of the tasks that are done, by name; of these only, where any are given."""
        results = {}
        for name in sorted(self.names() if names is None else self.names() & set(names)):
            path = self.folder / f"{name}.done"
            try:
                result = _unpacked(path.read_bytes())
            except FileNotFoundError:  # another part found it damaged
                continue
            if result is not None and not lost(self.root, result["files"]):
                results[name] = result
            else:
                path.unlink(missing_ok=True)
        return results

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        """Enter what a task gave: plain JSON values, with its `Files` under ``files``."""
        text = json.dumps(result).encode()
        partial = self.folder / f"{name}.{uuid4().hex}.partial"
        partial.write_bytes(_checksum(text).encode() + b"\n" + text)
        os.replace(partial, self.folder / f"{name}.done")


def _unpacked(data: bytes) -> dict[str, Any] | None:
    check, _, text = data.partition(b"\n")
    if not text or check.decode("ascii", "replace") != _checksum(text):
        return None
    result: dict[str, Any] = json.loads(text)
    return result


def _checksum(data: bytes) -> str:
    import google_crc32c

    return f"{google_crc32c.value(data):08x}"


def files(root: str, keys: Iterable[str]) -> Files:
    """Size and checksum of files that were just written."""
    found = {key: _of(root, key) for key in keys}
    return {key: state for key, state in found.items() if state is not None}


def written(store: str, key: str, data: bytes) -> list[Any]:
    """Write an object of a cube, and give its state for the ledger.

    Parameters
    ----------
    store : str
        Path or URL.
    """
    import google_crc32c

    state = [len(data), int(google_crc32c.value(data))]
    tag = put(store, key, data)
    return [*state, tag, data[-4:].hex()] if "://" in store else state


def lost(root: str, expected: Files) -> list[str]:
    """Keys of the files that are not there, or not as they were written."""
    return [key for key, state in expected.items() if _of(root, key) != list(state)]


def _of(root: str, key: str) -> list[int] | None:
    import google_crc32c

    size, check = 0, 0
    try:
        with open(Path(root, key), "rb") as file:
            while piece := file.read(_PIECE):
                size, check = size + len(piece), google_crc32c.extend(check, piece)
    except FileNotFoundError:
        return None
    return [size, int(check)]


def keep_only(root: str, keys: Iterable[str]) -> None:
    """Remove every file below a store that no entry vouches for, and the folders that this empties.

    Metadata and labels among them: they are written again, and a power cut may have left them short.
    """
    wanted = set(keys)
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(root).as_posix() not in wanted:
                path.unlink()
        if not os.listdir(folder):
            os.rmdir(folder)


def settle(root: Path, expected: Files) -> None:
    """Force a finished local store to the disk, once all of its shards are known to be whole.

    Raises
    ------
    StoreError
        If one is not what its task wrote.
    """
    if damaged := lost(str(root), expected):
        raise DamagedError(
            f"{root / damaged[0]} was changed or removed after it was written: the same command writes it again"
        )
    sync(root)


class DamagedError(StoreError):
    """Something took from an unfinished build what it had written."""


def sync(folder: Path) -> None:
    """Force a folder and all that is in it to the disk."""
    everything = [path for top, _, names in os.walk(folder) for path in (top, *(os.path.join(top, n) for n in names))]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(sync_one, everything))


def sync_one(path: str | os.PathLike[str]) -> None:
    """Force one file, or the names in one folder, to the disk."""
    folder = os.path.isdir(path)
    if folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not folder:  # some network file systems know no sync of folders
            raise
    finally:
        os.close(handle)
