"""Where the chunks of an array lie: the index of each shard, read once, checked, and held against what was built."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from strfcube.cube.metadata import NO_FILE
from strfcube.errors import StoreError
from strfcube.forks import OwnLock
from strfcube.transport.chunk_cache import CHECKED
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from strfcube.transport.connect import Transport, Version

Place = tuple[int, ...]
_NOT_STORED = 2**64 - 1


class Shard(NamedTuple):
    """A file of chunks: its key, which file of that name it is, and offset and size of each chunk."""

    key: str
    version: Version
    table: list[tuple[int, int]]


class ShardIndex:
    """Shards of an array, and where chunks lie in them.

    Safe to share between threads, to fork and to pickle.

    Parameters
    ----------
    files : Transport
        Folder of the array.
    shape, shard, chunk : tuple of int
        Sizes of the array, of a shard and of a chunk.
    sharded : bool
        Whether there is an index in each file; else each holds one chunk.
    ends : str, optional
        What each shard ends in (`strfcube.cube.metadata.Root.ends`): one in the place of another is found by it.
    """

    def __init__(
        self, files: Transport, shape: Place, shard: Place, chunk: Place, *, sharded: bool, ends: str | None
    ) -> None:
        self._files, self._ends, self._sharded = files, ends, sharded
        self.per_shard: Place = tuple(s // c for s, c in zip(shard, chunk, strict=True))
        self._grid: Place = tuple(-(-n // s) for n, s in zip(shape, shard, strict=True))
        self._fresh()

    def _fresh(self) -> None:
        self._shards: dict[Place, Shard | None] = {}
        self._lock = OwnLock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_shards", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    @property
    def size(self) -> int:
        """Bytes at the end of a shard that say where its chunks lie."""
        return 16 * math.prod(self.per_shard) + 4 if self._sharded else 1

    def shard_of(self, at: Place) -> Place:
        """Index of the shard that holds a chunk."""
        return tuple(map(operator.floordiv, at, self.per_shard))

    def locate(self, at: Place) -> tuple[Shard, int, int] | None:
        """Shard, offset and size of a chunk; None where it is not stored."""
        shard = self._opened(self.shard_of(at))
        if shard is None:
            return None
        slot = 0
        for a, n in zip(at, self.per_shard, strict=True):
            slot = slot * n + a % n
        offset, size = shard.table[slot]
        return None if offset == _NOT_STORED else (shard, offset, size)

    def open(self, chunks: Iterable[Place]) -> None:
        """Read the indexes of the shards of some chunks: of a remote array all at once.

        Raises
        ------
        StoreError
            If a shard is damaged, or is not the one that was built.
        """
        new = [s for s in dict.fromkeys(map(self.shard_of, chunks)) if s not in self._shards]
        if not isinstance(self._files, Remote):
            for shard in new:
                self._opened(shard)
        elif new:
            tails = self._files.tails([_key(s) for s in new], self.size)
            self._shards |= {s: self._parsed(s, tail) for s, tail in zip(new, tails, strict=True)}

    def lost(self, at: Place) -> bool:
        """Whether the file of a chunk's shard is not there: all of its chunks are missing values, or it is lost."""
        return self._opened(self.shard_of(at)) is None

    def gone(self, at: Place) -> StoreError:
        """The error of a chunk whose shard is lost."""
        return StoreError(
            f"{self._files.url}: the shard at {'/'.join(map(str, self.shard_of(at)))} is not there, but the cube has "
            f"values in it; run strfcube verify, and build the cube again"
        )

    def built(self, at: Place) -> bool:
        """Whether the file of a chunk's shard is known to have been built."""
        return self._ends is not None and self._sharded and self._end(self.shard_of(at)) not in ("", NO_FILE)

    def _opened(self, shard: Place) -> Shard | None:
        try:
            return self._shards[shard]
        except KeyError:
            with self._lock:
                if shard not in self._shards:
                    self._shards[shard] = self._parsed(shard, self._files.tail(_key(shard), self.size))
                return self._shards[shard]

    def _parsed(self, shard: Place, found: tuple[bytes, Version] | None) -> Shard | None:
        if found is None:
            return None
        tail, version = found
        if not self._sharded:
            return Shard(_key(shard), version, [(0, version.size)])
        if not self._sound(tail) and isinstance(self._files, Remote):  # the way from the server may be at fault
            tail, version = self._files.tail(_key(shard), self.size) or (b"", version)
        if not self._sound(tail):
            raise self._damaged(shard)
        if self._ends is not None and tail[-4:].hex() != self._end(shard):
            raise StoreError(f"{self._files.url}: shard {shard} is not the one that was built; run strfcube verify")
        places = np.frombuffer(tail[:-4], "<u8").reshape(-1, 2)
        stored = places[places[:, 0] != _NOT_STORED]
        room = version.size - len(tail)
        if (stored > room).any() or (stored.sum(1) > room).any():
            raise self._damaged(shard)
        return Shard(_key(shard), version, [(a, b) for a, b in places.tolist()])

    def _damaged(self, shard: Place) -> StoreError:
        return StoreError(f"{self._files.url}: shard {shard} is damaged (its index); run strfcube verify")

    def _end(self, shard: Place) -> str:
        """What a shard ended in when it was built."""
        slot = 0
        for at, n in zip(shard, self._grid, strict=True):
            slot = slot * n + at
        return (self._ends or "")[8 * slot : 8 * slot + 8]

    def _sound(self, tail: bytes) -> bool:
        from google_crc32c import value

        return len(tail) == self.size and value(tail) == CHECKED


def _key(shard: Place) -> str:
    return "/".join(["c", *map(str, shard)])
