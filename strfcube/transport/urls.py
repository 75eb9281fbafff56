"""Folders behind URLs: object stores and HTTP through obstore, everything else that fsspec knows through it."""

from __future__ import annotations

import importlib.util
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from strfcube.errors import StoreError
from strfcube.forks import OwnLock
from strfcube.transport import object_store
from strfcube.transport.local_files import Version
from strfcube.transport.remote_files import NoConditionsError, OutOfReachError, Remote, Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IN_TURN = OwnLock()  # what lies in the memory of this process, one after the other


class Objects(Remote):
    """A folder of an object store or an HTTP server.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/cube.zarr``.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._base, self._prefix = object_store.split(url)

    @property
    def url(self) -> str:
        """URL of the folder."""
        return self._url

    def at(self, name: str) -> Objects:
        """The same of a folder within."""
        inner = Objects(self._url)
        inner._url, inner._prefix = f"{self._url}/{name}", f"{self._prefix}/{name}".lstrip("/")
        return inner

    def request(self, key: str, span: Span) -> tuple[bytes, Version] | None:
        """One request; None where there is no such object."""
        try:
            found = object_store.ask(self._base, f"{self._prefix}/{key}".lstrip("/"), span)
        except object_store.RefusedError as error:
            raise OutOfReachError(str(error)) from None
        return None if found is None else (found[0], Version(*found[1:]))

    def names(self) -> list[str] | None:
        """Keys of all objects in the folder; None where the server does not tell."""
        try:
            found = object_store.listed(self._base, self._prefix)
        except object_store.RefusedError:
            return None
        return None if found is None else [self._key(path) for path, *_ in found]

    def objects(self) -> dict[str, Version]:
        """All objects in the folder, by key."""
        try:
            found = object_store.listed(self._base, self._prefix)
        except object_store.RefusedError as error:
            raise OutOfReachError(str(error)) from None
        if found is None:
            return super().objects()
        return {self._key(path): Version(size, tag) for path, size, tag in found}

    def put(self, key: str, data: bytes, instead_of: str | None = None) -> Version | None:
        """Put a whole object."""
        if not self._base.startswith(tuple(f"{scheme}://" for scheme in object_store.OBJECT_STORES)):
            return super().put(key, data)
        try:
            how, tag = object_store.put(self._base, f"{self._prefix}/{key}".lstrip("/"), data, instead_of)
        except object_store.RefusedError as error:
            raise OutOfReachError(str(error)) from None
        if how == object_store.UNKNOWN:
            raise NoConditionsError(f"{self.url}: this server does not know puts under a condition")
        return Version(len(data), tag) if how == object_store.DONE else None

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, whether they are there or not."""
        try:
            if keys:
                object_store.remove(self._base, [f"{self._prefix}/{key}".lstrip("/") for key in keys])
        except object_store.RefusedError as error:
            raise OutOfReachError(str(error)) from None

    def _key(self, path: str) -> str:
        return path.removeprefix(self._prefix).lstrip("/")


class Fsspec(Remote):
    """A folder of any file system that fsspec knows.

    Parameters
    ----------
    url : str
        Such as ``memory://cube.zarr``.

    Raises
    ------
    StoreError
        If fsspec does not know it, or lacks the package that it takes.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self._base, self._name = url, ""
        try:
            self._files, root = fsspec.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(f"{url}: {error}") from None
        self._root = root.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"_base": self._base, "_name": self._name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_base"])  # type: ignore[misc]
        self._name = state["_name"]

    @property
    def url(self) -> str:
        """URL of the folder."""
        return f"{self._base.rstrip('/')}/{self._name}".rstrip("/")

    def at(self, name: str) -> Fsspec:
        """The same of a folder within."""
        inner = Fsspec(self._base)
        inner._name = f"{self._name}/{name}".lstrip("/")
        return inner

    def request(self, key: str, span: Span) -> tuple[bytes, Version] | None:
        """One request; None where there is no such object."""
        path = self._path(key)
        try:
            info = self._files.info(path)
            size = int(info["size"])
            start, stop = (0, size) if span is None else (max(0, size - span), size) if isinstance(span, int) else span
            data = self._files.cat_file(path, start=start, end=min(stop, size)) if size else b""
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except Exception as error:  # whatever a file system of anyone's raises
            raise StoreError(f"{self.url}/{key}: {type(error).__name__}: {error}") from None
        return bytes(data), _version(info)

    def names(self) -> list[str] | None:
        """Keys of all files in the folder; None where the file system does not tell."""
        root = self._path()
        try:
            found = self._files.find(root)
        except Exception:  # whatever a file system of anyone's raises
            return None
        return [str(path).removeprefix(root).lstrip("/") for path in found]

    def objects(self) -> dict[str, Version]:
        """All files in the folder, by key."""
        root = self._path()
        try:
            self._files.invalidate_cache()
            found = self._files.find(root, detail=True) if self._files.isdir(root) else {}
        except Exception as error:  # whatever a file system of anyone's raises
            raise OutOfReachError(f"{self.url}: {type(error).__name__}: {error}") from None
        return {str(path).removeprefix(root).lstrip("/"): _version(info) for path, info in found.items()}

    def put(self, key: str, data: bytes, instead_of: str | None = None) -> Version | None:
        """Put a whole file; conditions hold in the memory of this process only."""
        if instead_of is not None and "memory" not in self._files.protocol:
            raise NoConditionsError(f"{self.url}: fsspec does not know puts under a condition")
        path = self._path(key)
        try:
            with _IN_TURN:
                if instead_of is not None:
                    there = _version(self._files.info(path)).tag if self._files.exists(path) else ""
                    if there != instead_of:
                        return None
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(path, data)
                return _version(self._files.info(path))
        except Exception as error:  # whatever a file system of anyone's raises
            raise OutOfReachError(f"{self.url}/{key}: {type(error).__name__}: {error}") from None

    def remove(self, keys: Sequence[str]) -> None:
        """Remove files, whether they are there or not; and the folder, where it is empty then."""
        try:
            for key in keys:
                if self._files.exists(self._path(key)):
                    self._files.rm_file(self._path(key))
            if self._files.isdir(self._path()) and not self._files.find(self._path()):
                self._files.rm(self._path(), recursive=True)
        except Exception as error:  # whatever a file system of anyone's raises
            raise OutOfReachError(f"{self.url}: {type(error).__name__}: {error}") from None

    def _path(self, key: str = "") -> str:
        return "/".join(part for part in (self._root, self._name, key) if part)


def _version(info: Mapping[str, Any]) -> Version:
    names = ("ETag", "etag", "mtime", "LastModified", "created")
    tag = next((info[name] for name in names if name in info), "")
    if isinstance(tag, datetime):  # as other calls of the same file system have it
        tag = tag.timestamp()
    return Version(int(info["size"]), str(tag))


def _see_plain(url: str, scheme: str) -> None:
    """Refuse what would be printed though it is secret, and what no request would ask for: another cube would answer.

    Raises
    ------
    StoreError
        If a password is in a URL, or more than a path where only a path is asked for.
    """
    host, slash, path = url.partition("://")[2].partition("/")
    secret, at, host = host.rpartition("@")
    # A container of Azure's, or fsspec's github://OWNER:REPOSITORY@BRANCH, is no secret
    if at and scheme != "github" and (":" in secret or scheme in ("http", "https")):
        raise StoreError(
            f"{scheme}://***@{host}{slash}{re.split('[?#]', path)[0]}: credentials in a URL would be shown wherever it "
            "is; leave them out, and give them as the tools of that store do, or copy the cube"
        )
    if scheme in object_store.SCHEMES and (found := re.search("[?#]", url)):
        plain = url[: found.start()]
        raise StoreError(
            f"{plain}{found[0]}...: nothing after '{found[0]}' would be asked for, only {plain}; give that, or another "
            "name to the cube"
        )


def remote(url: str) -> Remote:
    """The transport of a URL.

    Raises
    ------
    StoreError
        If nothing here reads such a URL, or would read all of it.
    """
    scheme = url.partition("://")[0]
    _see_plain(url, scheme)
    if scheme not in object_store.SCHEMES:
        return Fsspec(url)
    if importlib.util.find_spec("obstore") is not None:
        return Objects(url)
    try:  # whoever has the file system of this scheme for fsspec can read without
        return Fsspec(url)
    except StoreError:
        raise StoreError(f'{url}: {scheme}:// takes obstore: pip install "strfcube[remote]"') from None
