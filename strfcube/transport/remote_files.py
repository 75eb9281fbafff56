"""Stores that are far away: requests in the background, many at once, neighbouring spans in one."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from strfcube.errors import StoreError
from strfcube.transport.local_files import Version, replaced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REQUESTS = 32  # at once
GAP_BYTES = 256_000  # read for nothing rather than ask twice: some 20 ms at 100 Mbit/s
REQUEST_BYTES = 8_000_000  # of one request for several spans: more come faster in several

_UNWRITABLE = "{url}: nothing here writes there; give a local folder, or a URL of an object store (s3://, gs://, az://)"

Span = int | tuple[int, int] | None  # the last bytes, a half-open range, or all

_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="strfcube-remote")
    return _pool


def _forget_threads() -> None:
    # Threads do not survive a fork; a pool that believes in them waits for ever.
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class OutOfReachError(StoreError):
    """A server cannot be reached, or refuses: nothing is wrong with what was to be written."""


class NoConditionsError(StoreError):
    """A server does not know puts under a condition."""


class Remote(ABC):
    """A `strfcube.transport.connect.Transport` whose requests take long."""

    @property
    @abstractmethod
    def url(self) -> str:
        """URL of the folder."""

    @abstractmethod
    def at(self, name: str) -> Remote:
        """The same of a folder within."""

    @abstractmethod
    def request(self, key: str, span: Span) -> tuple[bytes, Version] | None:
        """One request; None where there is no such object.

        Raises
        ------
        StoreError
            If the server cannot be reached, or refuses.
        """

    def names(self) -> list[str] | None:
        """Keys of all objects in the folder; None where the server does not tell."""
        return None

    def objects(self) -> dict[str, Version]:
        """All objects in the folder, by key.

        Raises
        ------
        OutOfReachError
            If the server does not tell.
        """
        raise OutOfReachError(_UNWRITABLE.format(url=self.url))

    def put(self, key: str, data: bytes, instead_of: str | None = None) -> Version | None:
        """Put a whole object.

        Parameters
        ----------
        instead_of : str, optional
            A condition: the tag of the object that it takes the place of, or "" where there must be none.

        Returns
        -------
        Version, or None
            None where the condition does not hold.

        Raises
        ------
        NoConditionsError
            If the server says that it knows no conditions. Others may pass over them silently.
        OutOfReachError
            If it cannot be reached, or refuses.
        """
        raise OutOfReachError(_UNWRITABLE.format(url=self.url))

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, whether they are there or not. Raises `OutOfReachError` as `put`."""
        raise OutOfReachError(_UNWRITABLE.format(url=self.url))

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, Version]:
        """Put whole objects, many at once."""
        made = _threads().map(self.put, objects, objects.values())
        return {key: version for key, version in zip(objects, made, strict=True) if version is not None}

    def get(self, key: str) -> bytes | None:
        """A whole object; None where there is none."""
        found = self.request(key, None)
        return None if found is None else found[0]

    def tail(self, key: str, size: int) -> tuple[bytes, Version] | None:
        """The last `size` bytes of an object, or all of it where it is shorter; None where there is none."""
        return self.request(key, size)

    def read(self, key: str, start: int, size: int, version: Version) -> bytes:
        """Bytes of an object that is still the one of `version`; fewer than `size` where it ends before."""
        found = self.request(key, (start, start + size))
        if found is None or found[1] != version:
            raise replaced(f"{self.url}/{key}")
        return found[0]

    def read_again(self, key: str, start: int, size: int, version: Version) -> bytes:
        """The same from the server itself, whatever is kept of it nearer by."""
        return self.read(key, start, size, version)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Whole objects, asked for at once."""
        return list(_threads().map(self.get, keys))

    def tails(self, keys: Sequence[str], size: int) -> list[tuple[bytes, Version] | None]:
        """Ends of objects, asked for at once."""
        return list(_threads().map(lambda key: self.tail(key, size), keys))

    def fetch(self, key: str, spans: Sequence[tuple[int, int]], version: Version) -> Sequence[Future[bytes] | None]:
        """Spans (start, size) of one object, asked for at once, neighbours in one request; does not wait for them.

        Returns
        -------
        sequence of Future, or None
            None where `read` will give the span without delay.
        """
        futures: list[Future[bytes]] = [Future() for _ in spans]
        for group in merged(spans):
            _threads().submit(self._answer, key, [(*spans[i], futures[i]) for i in group], version)
        return futures

    def _answer(self, key: str, parts: list[tuple[int, int, Future[bytes]]], version: Version) -> None:
        try:
            first = parts[0][0]
            data = self.read(key, first, max(start + size for start, size, _ in parts) - first, version)
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            for *_, future in parts:
                future.set_exception(error)
            return
        for start, size, future in parts:
            future.set_result(data[start - first : start - first + size])


def merged(spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Positions of spans (start, size) that one request serves, in the order of their starts."""
    groups: list[list[int]] = []
    begin = end = 0
    for i in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, size = spans[i]
        if groups and start - end <= GAP_BYTES and max(end, start + size) - begin <= REQUEST_BYTES:
            groups[-1].append(i)
            end = max(end, start + size)
        else:
            groups.append([i])
            begin, end = start, start + size
    return groups
