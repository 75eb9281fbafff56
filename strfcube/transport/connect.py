"""Where the bytes of a store come from: local files, or whatever a URL names. Readers know only `Transport`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from strfcube.transport.local_files import LocalFiles, Version

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Transport", "Version", "connect"]


class Transport(Protocol):
    """A folder of objects, read by key; safe to share between threads, to fork and to pickle.

    Where requests take long enough that many should be made at once, it is a `strfcube.transport.remote_files.Remote`.
    """

    @property
    def url(self) -> str:
        """Path or URL of the folder."""

    def at(self, name: str) -> Transport:
        """The same of a folder within."""

    def get(self, key: str) -> bytes | None:
        """A whole object; None where there is none."""

    def tail(self, key: str, size: int) -> tuple[bytes, Version] | None:
        """The last `size` bytes of an object, or all of it where it is shorter; None where there is none."""

    def read(self, key: str, start: int, size: int, version: Version) -> bytes:
        """Bytes of an object that is still the one of `version`; fewer than `size` where it ends before."""


def connect(place: Path | str, cache_dir: Path | str | None = None) -> Transport:
    """The transport of a path or URL.

    Parameters
    ----------
    place : path or URL
        A folder.
    cache_dir : path, optional
        Where chunks of a remote one are kept: "" is nowhere. Default: ``$STRFCUBE_CACHE_DIR``, else nowhere.

    Raises
    ------
    StoreError
        If nothing here reads such a URL, or nothing can be kept in `cache_dir`.
    """
    url = os.fspath(place)
    if "://" not in url:
        return LocalFiles(url)
    from strfcube.transport.chunk_cache import Cached
    from strfcube.transport.urls import remote

    folder = os.environ.get("STRFCUBE_CACHE_DIR", "") if cache_dir is None else os.fspath(cache_dir)
    return Cached(remote(url), os.path.abspath(os.path.expanduser(folder))) if folder else remote(url)
