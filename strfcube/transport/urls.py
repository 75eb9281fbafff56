"""Folders behind URLs: object stores and HTTP through obstore, everything else that fsspec knows through it."""

from __future__ import annotations

import importlib.util
from typing import Any

from strfcube.errors import StoreError
from strfcube.transport import object_store
from strfcube.transport.local_files import Version
from strfcube.transport.remote_files import Remote, Span


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
            raise StoreError(str(error)) from None
        return None if found is None else (found[0], Version(*found[1:]))

    def names(self) -> list[str] | None:
        """Keys of all objects in the folder; None where the server does not tell."""
        found = object_store.listed(self._base, self._prefix)
        return None if found is None else [key.removeprefix(self._prefix).lstrip("/") for key in found]


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
        path = "/".join(part for part in (self._root, self._name, key) if part)
        try:
            info = self._files.info(path)
            size = int(info["size"])
            start, stop = (0, size) if span is None else (max(0, size - span), size) if isinstance(span, int) else span
            data = self._files.cat_file(path, start=start, end=min(stop, size)) if size else b""
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except Exception as error:  # whatever a file system of anyone's raises
            raise StoreError(f"{self.url}/{key}: {type(error).__name__}: {error}") from None
        tag = next((info[name] for name in ("ETag", "etag", "mtime", "LastModified", "created") if name in info), "")
        return bytes(data), Version(size, str(tag))

    def names(self) -> list[str] | None:
        """Keys of all files in the folder; None where the file system does not tell."""
        root = "/".join(part for part in (self._root, self._name) if part)
        try:
            found = self._files.find(root)
        except Exception:  # whatever a file system of anyone's raises
            return None
        return [str(path).removeprefix(root).lstrip("/") for path in found]


def remote(url: str) -> Remote:
    """The transport of a URL.

    Raises
    ------
    StoreError
        If nothing here reads such a URL.
    """
    scheme = url.partition("://")[0]
    if scheme not in object_store.SCHEMES:
        return Fsspec(url)
    if importlib.util.find_spec("obstore") is not None:
        return Objects(url)
    try:  # whoever has the file system of this scheme for fsspec can read without
        return Fsspec(url)
    except StoreError:
        raise StoreError(f'{url}: reading {scheme}:// takes obstore: pip install "strfcube[remote]"') from None
