"""Files of a local store, read at any offset by any number of threads with a bounded number of open descriptors."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from stat import S_ISDIR, S_ISREG

from strfcube.errors import StoreError, refusal

DESCRIPTORS = 128  # open at once in a process, and half of what it may have of all kinds; macOS allows 256
PREAD = hasattr(os, "pread")  # Windows has none
_FLAGS = ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK")  # a pipe that nobody writes to must not be waited for


@dataclass(frozen=True)
class Version:
    """What tells an object from another that replaced it under the same name.

    Attributes
    ----------
    size : int
        Bytes of the whole object.
    tag : str
        A server's ETag or time of change, or a file's own identity.
    """

    size: int
    tag: str


class _Descriptor:
    """An open file, closed when the last of its readers has let go of it."""

    __slots__ = ("_lock", "fd", "version")

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in _FLAGS))
        self._lock = threading.Lock()
        stat = os.fstat(self.fd)
        if not S_ISREG(stat.st_mode):
            code = errno.EISDIR if S_ISDIR(stat.st_mode) else errno.EINVAL
            raise OSError(code, os.strerror(code) if code == errno.EISDIR else "it is no file")
        self.version = Version(stat.st_size, f"{stat.st_dev}-{stat.st_ino}-{stat.st_mtime_ns}")

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read(self, start: int, size: int) -> bytes:
        """At most `size` bytes from `start` on; fewer only at the end of the file."""
        if PREAD:
            return os.pread(self.fd, size, start)
        with self._lock:  # the position is one for all threads
            os.lseek(self.fd, start, os.SEEK_SET)
            return os.read(self.fd, size)


def _room() -> int:
    """Files that may stay open: others of this process, zarr among them, need descriptors, too."""
    try:
        import resource
    except ImportError:  # Windows
        return DESCRIPTORS
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS if allowed == resource.RLIM_INFINITY else min(DESCRIPTORS, max(1, allowed // 2))


class Descriptors:
    """Open files of a process; the least recently used are closed.

    A file that is being read stays open until it is read, whatever else is opened meanwhile: a reader holds the
    `_Descriptor` itself.

    Parameters
    ----------
    limit : int, optional
        Files that stay open when nobody reads them; default `DESCRIPTORS`, or half of what the process may have.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.forget_all()

    def forget_all(self) -> None:
        """Start anew, as a forked process must: a lock that a thread of the parent held stays locked."""
        self._lock = threading.RLock()  # the garbage collector may call `forget` within `get`
        self._open: OrderedDict[tuple[int, str], _Descriptor] = OrderedDict()

    def get(self, owner: int, path: str) -> _Descriptor:
        """The open file of a path; each owner has its own, so that a file replaced meanwhile is not taken for it."""
        key = owner, path
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
                return found
            try:
                found = _Descriptor(path)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._open.clear()
                found = _Descriptor(path)
            self._open[key] = found
            while len(self._open) > (_room() if self.limit is None else self.limit):
                self._open.popitem(last=False)
            return found

    def forget(self, owner: int) -> None:
        """Close the files of an owner."""
        with self._lock:
            for key in list(self._open):
                if key[0] == owner:
                    self._open.pop(key, None)


_DESCRIPTORS = Descriptors()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DESCRIPTORS.forget_all)


class LocalFiles:
    """A local folder as a `strfcube.transport.connect.Transport`."""

    remote = False

    def __init__(self, url: str) -> None:
        self.url = url

    def __del__(self) -> None:
        _DESCRIPTORS.forget(id(self))

    def at(self, name: str) -> LocalFiles:
        """The same of a folder within."""
        return LocalFiles(f"{self.url}/{name}")

    def get(self, key: str) -> bytes | None:
        """A whole file; None where there is none."""
        try:
            file = _Descriptor(f"{self.url}/{key}")
            with open(file.fd, "rb", closefd=False) as opened:
                return opened.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refused(key, error) from error

    def tail(self, key: str, size: int) -> tuple[bytes, Version] | None:
        """The last `size` bytes of a file, or all of it where it is shorter; None where there is no file."""
        try:
            file = _DESCRIPTORS.get(id(self), f"{self.url}/{key}")
            return file.read(max(0, file.version.size - size), min(size, file.version.size)), file.version
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refused(key, error) from error

    def read(self, key: str, start: int, size: int, version: Version) -> bytes:
        """Bytes of a file that is still the one of `version`; fewer than `size` where it ends before."""
        try:
            file = _DESCRIPTORS.get(id(self), f"{self.url}/{key}")
            if file.version == version:
                return file.read(start, size)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._refused(key, error) from error
        raise replaced(f"{self.url}/{key}")

    def _refused(self, key: str, error: OSError) -> StoreError:
        return StoreError(f"{self.url}/{key} cannot be read: {refusal(error) or error.strerror}")


def replaced(place: str) -> StoreError:
    """The error of a file that is no longer the one whose index was read."""
    return StoreError(f"{place} was replaced or removed while it was open: open the cube again")
