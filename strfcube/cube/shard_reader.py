"""Reading local shards: index cached, exactly the chunks needed, decoded in place.

zarr-python reads any store; this reads those that `strfcube.cube.shard_writer` writes, several times faster.
"""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOT_STORED = 2**64 - 1


class ShardedArray:
    """A local Zarr v3 array with one level of blosc-compressed chunks, in shards or not.

    Safe to share between threads, to fork and to pickle.

    Parameters
    ----------
    path : path-like
        Folder of the array.
    keep : bool
        Keep decoded chunks in memory.

    Raises
    ------
    NotImplementedError
        If the array is not laid out as `strfcube.cube.shard_writer` does it: read it through zarr.
    StoreError
        If there is no such array.
    """

    def __init__(self, path: Path | str, *, keep: bool = False) -> None:
        self.path = str(path)
        try:
            meta = json.loads((Path(path) / "zarr.json").read_bytes())
        except FileNotFoundError:
            raise StoreError(f"{path}: expected a Zarr v3 array, but there is none; build the cube again") from None
        self.shape: tuple[int, ...] = tuple(meta["shape"])
        self.shard: tuple[int, ...] = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        self.chunk: tuple[int, ...] = _inner_chunk(meta, self.shard)
        self.dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        fill = meta["fill_value"]
        self.fill: float = math.nan if fill == "NaN" else fill
        self.per_shard = tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))
        self.sharded = self.shard != self.chunk or meta["codecs"][0]["name"] == "sharding_indexed"
        self.kept: dict[tuple[int, ...], NDArray[Any] | None] | None = {} if keep else None
        self._fresh()

    def _fresh(self) -> None:
        from numcodecs import blosc

        self._decompress = blosc.decompress
        self._files: dict[tuple[int, ...], tuple[int, list[tuple[int, int]]]] = {}
        self._process, self._lock = os.getpid(), threading.Lock()
        self._scratch = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_decompress", "_files", "_lock", "_scratch")}
        return state | {"kept": None if self.kept is None else {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    def __del__(self) -> None:
        for fd, _ in getattr(self, "_files", {}).values():
            if fd >= 0:
                os.close(fd)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunk) * int(self.dtype.itemsize)

    def read(self, at: tuple[int, ...]) -> NDArray[Any] | None:
        """Decode a whole chunk.

        Parameters
        ----------
        at : tuple of int
            Index of the chunk.

        Returns
        -------
        ndarray [shape=self.chunk] or None
            None where the chunk is not stored. Unless chunks are kept, the array is valid until the same thread reads
            the next one.

        Raises
        ------
        StoreError
            If the shard is damaged.
        """
        if self.kept is not None and at in self.kept:
            return self.kept[at]
        data = self.encoded(at)
        out = None if data is None else self._room()
        if data is not None:
            try:
                self._decompress(data, out)
            except (RuntimeError, ValueError) as error:
                raise StoreError(f"{self.path}: chunk {at} is damaged ({error}); run strfcube verify") from error
        if self.kept is not None:
            self.kept[at] = out
        return out

    def encoded(self, at: tuple[int, ...]) -> bytes | None:
        """Bytes of a chunk as stored; None where it is not."""
        fd, offset, size = self._place(at)
        return None if fd < 0 else os.pread(fd, size, offset)

    def lost(self, at: tuple[int, ...]) -> bool:
        """Whether the file of a chunk's shard is not there: all of its chunks are missing values, or it is lost."""
        self._place(at)
        return self._files[tuple(a // n for a, n in zip(at, self.per_shard, strict=True))][0] < 0

    def has(self, at: tuple[int, ...]) -> bool:
        """Whether a chunk is stored: one that holds only missing values is not."""
        return self._place(at)[0] >= 0

    def _place(self, at: tuple[int, ...]) -> tuple[int, int, int]:
        """File, offset and size of a chunk; a negative file where it is not stored."""
        shard = tuple(a // n for a, n in zip(at, self.per_shard, strict=True))
        fd, index = self._files.get(shard) or self._open(shard)
        if fd < 0:
            return -1, 0, 0
        slot = 0
        for a, n in zip(at, self.per_shard, strict=True):
            slot = slot * n + a % n
        offset, size = index[slot]
        return (-1, 0, 0) if offset == _NOT_STORED else (fd, offset, size)

    def _room(self) -> NDArray[Any]:
        if self.kept is not None:
            return np.empty(self.chunk, self.dtype)
        scratch: NDArray[Any] | None = getattr(self._scratch, "chunk", None)
        if scratch is None:
            scratch = self._scratch.chunk = np.empty(self.chunk, self.dtype)
        return scratch

    def _open(self, shard: tuple[int, ...]) -> tuple[int, list[tuple[int, int]]]:
        if self._process != os.getpid():  # a lock that a thread of the parent held stays locked after a fork
            self._process, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            if shard in self._files:
                return self._files[shard]
            try:
                fd = os.open("/".join([self.path, "c", *map(str, shard)]), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:
                opened: tuple[int, list[tuple[int, int]]] = (-1, [])
            else:
                opened = (fd, self._index(fd, shard))
            self._files[shard] = opened
            return opened

    def _index(self, fd: int, shard: tuple[int, ...]) -> list[tuple[int, int]]:
        import google_crc32c

        size = os.fstat(fd).st_size
        if not self.sharded:
            return [(0, size)]
        length = 16 * math.prod(self.per_shard)
        tail = os.pread(fd, length + 4, max(0, size - length - 4))
        if len(tail) < length + 4 or google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
            os.close(fd)
            raise StoreError(f"{self.path}: shard {shard} is damaged (its index); run strfcube verify")
        return [(int(a), int(b)) for a, b in np.frombuffer(tail[:-4], "<u8").reshape(-1, 2).tolist()]


def _inner_chunk(meta: dict[str, Any], outer: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk shape of an array that this module can decode."""
    codecs = meta["codecs"]
    chunk = outer
    supported = meta["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
    if codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        chunk = tuple(sharding["chunk_shape"])
        supported &= len(codecs) == 1 and sharding.get("index_location", "end") == "end"
        supported &= [c["name"] for c in sharding["index_codecs"]] == ["bytes", "crc32c"]
        codecs = sharding["codecs"]
    supported &= [c["name"] for c in codecs] == ["bytes", "blosc"]
    supported &= codecs[0].get("configuration", {}).get("endian", "little") == "little"
    supported &= meta["data_type"] in ("uint8", "uint16", "float32")
    if not supported:
        raise NotImplementedError(f"codecs of {meta['shape']}: {codecs}")
    return chunk
