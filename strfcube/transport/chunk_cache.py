"""Encoded chunks of remote cubes on a local disk: bounded, checked, and shared by processes.

A file holds one chunk as the store has it, and its CRC-32C. Its name is a hash of the store's URL and root metadata,
the object, what tells that object from another of its name, and the chunk's place in it: a cube that was built again
is another cube here. Files appear whole or not at all; those least recently used are removed when they are too many.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
import warnings
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from strfcube.errors import StoreError, UsageError
from strfcube.forks import OwnLock
from strfcube.transport.remote_files import Remote, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from strfcube.transport.local_files import Version

DEFAULT_GB = 20.0
CHECKED = 0x48674BC7  # CRC-32C of anything that is followed by its own CRC-32C
_TOUCH_S = 60.0  # how exactly the time of last use is kept
_OURS = re.compile(r"[0-9a-f]{38}(\.[0-9a-f]{32}\.partial)?")  # in folders of two more digits
_caches: dict[str, ChunkCache] = {}


def limit_bytes() -> int:
    """Size of the cache, from ``$STRFCUBE_CACHE_GB``.

    Raises
    ------
    UsageError
        If that is no positive number.
    """
    text = os.environ.get("STRFCUBE_CACHE_GB", "")
    try:
        limit = int(float(text or DEFAULT_GB) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UsageError(f"STRFCUBE_CACHE_GB={text!r}, expected a positive number of gigabytes")
    return limit


class ChunkCache:
    """A folder of encoded chunks.

    Parameters
    ----------
    folder : str
        Created where there is none.
    limit : int
        Bytes that may be in it.

    Raises
    ------
    StoreError
        If it cannot be written to.
    """

    def __init__(self, folder: str, limit: int) -> None:
        from google_crc32c import value

        self.folder, self.limit, self._crc = folder, limit, value
        self._lock = OwnLock()
        self._since, self._total = limit, 0  # bytes written since the folder was looked through, and in it then
        self._warned = False
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: no cache can be kept here: {error.strerror}; give another cache_dir") from None

    def path(self, name: str) -> str:
        """File of a chunk."""
        return f"{self.folder}/{name[:2]}/{name[2:]}"

    def has(self, name: str) -> bool:
        """Whether there is a file of a chunk, sound or not."""
        return os.path.exists(self.path(name))

    def get(self, name: str) -> bytes | None:
        """A chunk; None where it is not there, or damaged."""
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                data = file.read()
                used = os.fstat(file.fileno()).st_mtime
            if len(data) < 4 or self._crc(data) != CHECKED:
                os.unlink(path)
                return None
            if time.time() - used > _TOUCH_S:
                os.utime(path)
        except OSError:
            return None
        return data[:-4]

    def put(self, name: str, data: bytes) -> None:
        """Keep a chunk; where the disk refuses, go on without, with a warning."""
        if len(data) + 4 > self.limit:
            return
        path = self.path(name)
        partial = f"{path}.{uuid4().hex}.partial"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(partial, "wb") as file:
                file.write(data + self._crc(data).to_bytes(4, "little"))
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(partial)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self.folder}: chunks cannot be cached ({error.strerror})", RuntimeWarning, stacklevel=2
                )
            return
        with self._lock:
            self._since += len(data) + 4
            # Other processes write as well: look now and then, and whenever this one alone would reach the limit
            if self._since > self.limit // 16 or self._total + self._since > self.limit:
                self._total, self._since = self._shrink(), 0

    def _shrink(self) -> int:
        """Remove what was used least recently until nine tenths of the limit are left; bytes that are there.

        Whatever else somebody has in the folder is not ours, and stays.
        """
        found = []
        for path in glob.iglob(f"{glob.escape(self.folder)}/[0-9a-f][0-9a-f]/*"):
            if _OURS.fullmatch(os.path.basename(path)):
                with suppress(OSError):  # another process was faster
                    status = os.stat(path)
                    found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self.limit:
            return total
        for _, size, path in sorted(found):
            if total <= 0.9 * self.limit:
                break
            try:
                os.unlink(path)
            except OSError:
                continue
            total -= size
        return total


def shared(folder: str) -> ChunkCache:
    """The cache of a folder in this process."""
    if folder not in _caches:
        _caches[folder] = ChunkCache(folder, limit_bytes())
    return _caches[folder]


class Cached(Remote):
    """A remote folder whose chunks are kept on a local disk.

    Parameters
    ----------
    files : Remote
        The folder.
    folder : str
        Of the cache.
    root : Cached, optional
        The store's own folder, where this is one within.
    """

    def __init__(self, files: Remote, folder: str, root: Cached | None = None) -> None:
        self._files, self._folder, self._root = files, folder, root
        self._stamp = ""
        shared(folder)

    @property
    def url(self) -> str:
        """URL of the folder."""
        return self._files.url

    def at(self, name: str) -> Cached:
        """The same of a folder within."""
        return Cached(self._files.at(name), self._folder, self._root or self)

    def request(self, key: str, span: Span) -> tuple[bytes, Version] | None:
        """One request to the server: nothing but chunks is cached."""
        found = self._files.request(key, span)
        if self._root is None and key == "zarr.json" and span is None and not self._stamp:
            self._stamp = _stamp(self.url, b"" if found is None else found[0])
        return found

    def read(self, key: str, start: int, size: int, version: Version) -> bytes:
        """Bytes of an object that is still the one of `version`; fewer than `size` where it ends before."""
        cache, name = shared(self._folder), self._name(key, start, size, version)
        data = cache.get(name)
        if data is None:
            data = self._files.read(key, start, size, version)
            cache.put(name, data)
        return data

    def read_again(self, key: str, start: int, size: int, version: Version) -> bytes:
        """The same from the server itself."""
        data = self._files.read_again(key, start, size, version)
        shared(self._folder).put(self._name(key, start, size, version), data)
        return data

    def fetch(self, key: str, spans: Sequence[tuple[int, int]], version: Version) -> list[Future[bytes] | None]:
        """Ask for those spans of an object that are not in the cache; see `Remote.fetch`."""
        cache = shared(self._folder)
        names = [self._name(key, start, size, version) for start, size in spans]
        missing = [i for i, name in enumerate(names) if not cache.has(name)]
        futures: list[Future[bytes] | None] = [None] * len(spans)
        asked = self._files.fetch(key, [spans[i] for i in missing], version)
        for i, future in zip(missing, asked, strict=True):
            futures[i] = None if future is None else _kept(future, cache, names[i])
        return futures

    def _name(self, key: str, start: int, size: int, version: Version) -> str:
        root = self._root or self
        if not root._stamp:
            root.request("zarr.json", None)
        text = f"{root._stamp} {self.url}/{key} {version.size} {version.tag} {start} {size}"
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def _stamp(url: str, metadata: bytes) -> str:
    return hashlib.sha256(url.encode() + b"\n" + metadata).hexdigest()


def _kept(asked: Future[bytes], cache: ChunkCache, name: str) -> Future[bytes]:
    """The same, done once it is in the cache."""
    future: Future[bytes] = Future()

    def done(asked: Future[bytes]) -> None:
        try:
            cache.put(name, asked.result())
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            future.set_exception(error)
        else:
            future.set_result(asked.result())

    asked.add_done_callback(done)
    return future
