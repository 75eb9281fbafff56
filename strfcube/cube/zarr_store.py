"""Stores as zarr reads them: a local one by its path, a remote one through its transport (`strfcube.transport`)."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from strfcube.errors import StoreError
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

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


def zarr_store(files: Transport, *groups: str, root: bytes | None = None) -> str | RemoteStore:
    """What zarr and xarray open for the store in a folder.

    Parameters
    ----------
    files : Transport
        The folder.
    *groups : str
        Groups whose arrays of a single chunk are wanted: of a remote store they are fetched at once. "" is the root.
    root : bytes, optional
        Its root metadata, where they were read already.
    """
    if not isinstance(files, Remote):
        return files.url
    root = files.get("zarr.json") if root is None else root
    known: dict[str, bytes | None] = {"zarr.json": root}
    arrays = _arrays(root or b"{}")
    wanted = [key for name, key in _single_chunks(arrays) if name.rpartition("/")[0] in groups]
    ragged = [name for name, meta in arrays.items() if _sharded(meta) and len(meta["shape"]) == 1]
    return RemoteStore(files, known | dict(zip(wanted, files.get_many(wanted), strict=True)), ragged)


def _arrays(root: bytes) -> dict[str, Any]:
    """Metadata of each array, by the consolidated metadata."""
    try:
        listed = json.loads(root)["consolidated_metadata"]["metadata"]
        return {n: m for n, m in listed.items() if m["node_type"] == "array"}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _sharded(meta: Mapping[str, Any]) -> bool:
    return bool(meta["codecs"][0]["name"] == "sharding_indexed")


def _single_chunks(arrays: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name of each array of a single chunk, and the key of that chunk."""
    found = []
    for name, meta in arrays.items():
        if _sharded(meta):
            continue
        grid = [
            -(-n // c) for n, c in zip(meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"], strict=True)
        ]
        if math.prod(grid) == 1:
            found.append((name, "/".join([name, "c", *("0" for _ in grid)])))
    return found
