"""Stores as zarr reads them: a local one by its path, a remote one through its transport (`strfcube.transport`)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from strfcube.cube.metadata import arrays, grid, keys, sharded, strange
from strfcube.errors import StoreError
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from strfcube.cube.metadata import Root
    from strfcube.transport.connect import Transport


class RemoteStore(Store):
    """A remote store, to be read only.

    Parameters
    ----------
    files : Remote
        Its folder.
    known : mapping of str to bytes or None
        Objects that are here already; None for one that does not exist.
    ragged : iterable of str
        Sharded arrays whose shards all exist.
    """

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, files: Remote, known: Mapping[str, bytes | None], ragged: Iterable[str] = ()) -> None:
        super().__init__(read_only=True)
        self.files, self.known, self.ragged = files, dict(known), frozenset(ragged)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other.files.url == self.files.url

    def __str__(self) -> str:
        return self.files.url

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """An object, or a part of it."""
        if key in self.known:
            data = self.known[key]
            if data is None:
                return None
        else:
            span: Any = None
            if isinstance(byte_range, RangeByteRequest):
                span = (byte_range.start, byte_range.end)
            elif isinstance(byte_range, SuffixByteRequest):
                span = byte_range.suffix
            found = await asyncio.to_thread(self.files.request, key, span)
            if found is None:
                if key.partition("/c/")[0] in self.ragged and "/c/" in key:
                    raise StoreError(
                        f"{self}: {key} is not there, but the cube has values in it; run strfcube verify, and build "
                        "the cube again"
                    )
                return None
            data, byte_range = found[0], byte_range if span is None else None
        if isinstance(byte_range, RangeByteRequest):
            data = data[byte_range.start : byte_range.end]
        elif isinstance(byte_range, SuffixByteRequest):
            data = data[-byte_range.suffix :]
        elif isinstance(byte_range, OffsetByteRequest):
            data = data[byte_range.offset :]
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of objects."""
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        if key not in self.known:
            self.known[key] = await asyncio.to_thread(self.files.get, key)
        return self.known[key] is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused."""
        self._check_writable()

    async def _nothing(self) -> AsyncIterator[str]:
        raise NotImplementedError(f"{self}: a remote store is not listed, its consolidated metadata say what it holds")
        yield ""

    def list(self) -> AsyncIterator[str]:
        """Refused."""
        return self._nothing()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refused."""
        return self._nothing()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refused."""
        return self._nothing()


def zarr_store(files: Transport, root: Root | None, *groups: str) -> str | RemoteStore:
    """What zarr and xarray open for the store in a folder.

    Parameters
    ----------
    files : Transport
        The folder.
    root : Root, optional
        What its root says; None where there is none.
    *groups : str
        Groups whose arrays of a single chunk are wanted: of a remote store they are fetched at once. "" is the root.
    """
    if not isinstance(files, Remote):
        return files.url
    nodes = {} if root is None else {n: node for n, node in arrays(root.nodes).items() if not strange(node)}
    wanted = [
        f"{name}/{next(keys(node))}"
        for name, node in nodes.items()
        if name.rpartition("/")[0] in groups and not sharded(node) and math.prod(grid(node)) == 1
    ]
    ragged = [name for name, node in nodes.items() if sharded(node) and len(node["shape"]) == 1]
    known = {"zarr.json": None if root is None else root.text}
    return RemoteStore(files, known | dict(zip(wanted, files.get_many(wanted), strict=True)), ragged)
