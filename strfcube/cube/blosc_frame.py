"""Frames of blosc 1 put together from blocks, and taken apart again: any blosc decodes the whole, and we some blocks.

A frame is a header of 16 bytes (version, version of the compressor, flags, size of a value, and as little-endian 4-byte
integers: decoded bytes, decoded bytes of a block, encoded bytes of the frame), the place of each block, and the
blocks, each of which is decoded without the others; the last may be shorter. Source: README_CHUNK_FORMAT.rst of
c-blosc. Blosc's own threads would write the blocks in an order of chance; here they follow one another. Whether the
bytes are those that were written is a checksum's business.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER = struct.Struct("<4s3I")
_COPIED, _WHOLE = 0x2, 0x10  # flags: the values as they are; blocks that are not split once more


class Frame(NamedTuple):
    """A frame of blocks in their order.

    Attributes
    ----------
    kind : bytes
        Versions, flags and size of a value.
    size, block : int
        Bytes that all of it, and that each block, decodes to.
    edges : tuple of int
        Where each block begins, and where the last one ends.
    data : bytes
        The frame; bytes after its end do not matter.
    """

    kind: bytes
    size: int
    block: int
    edges: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """A frame taken apart; None where it has a single block, or blocks that cannot be told from one another."""
        if len(data) < _HEADER.size + 8 or not _plain(data):
            return None
        kind, size, block, total = _HEADER.unpack_from(data)
        count = -(-size // max(1, block))
        end = _HEADER.size + 4 * count
        if count < 2 or not end <= total <= len(data):
            return None
        edges = (*struct.unpack_from(f"<{count}I", data, _HEADER.size), total)
        if edges[0] != end or any(a >= b for a, b in pairwise(edges)):
            return None
        return cls(kind, size, block, edges, data)

    def part(self, first: int, last: int) -> bytes:
        """Blocks from one to before another, as a frame of their own."""
        begin, stop = self.edges[first], self.edges[last]
        end = _HEADER.size + 4 * (last - first)
        size = min(last * self.block, self.size) - first * self.block
        head = _HEADER.pack(self.kind, size, min(self.block, size), stop - begin + end)
        starts = (edge - begin + end for edge in self.edges[first:last])
        return head + struct.pack(f"<{last - first}I", *starts) + self.data[begin:stop]


def joined(frames: Sequence[bytes]) -> bytes | None:
    """One frame of the blocks of several, each of a single block, all as long as the first but for a shorter last.

    Returns
    -------
    bytes or None
        None where blosc has not made such blocks of them (few bytes, or what cannot be compressed).
    """
    kind, block, _, _ = _HEADER.unpack_from(frames[0])
    at, size, table = _HEADER.size + 4 * len(frames), 0, []
    for frame in frames:
        head, own, of_block, total = _HEADER.unpack_from(frame)
        if head != kind or not _plain(frame) or own != of_block or size % block:
            return None
        size += own
        table.append(at)
        at += total - _HEADER.size - 4
    head = _HEADER.pack(kind, size, block, at) + struct.pack(f"<{len(frames)}I", *table)
    return head + b"".join(frame[_HEADER.size + 4 :] for frame in frames)


def _plain(frame: bytes) -> bool:
    return frame[2] & (_COPIED | _WHOLE) == _WHOLE
