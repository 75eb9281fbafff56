"""Frames of blosc 1 whose first block is what was recorded, and whose other blocks hold nothing but missing values.

A frame is a header of 16 bytes (version, version of the compressor, flags, size of a value, and as little-endian 4-byte
integers: decoded bytes, decoded bytes of a block, encoded bytes of the frame), the place of each block, and the
blocks, each of which is decoded without the others; the last may be shorter. Source: README_CHUNK_FORMAT.rst of
c-blosc. Whether the bytes are those that were written is a checksum's business.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HEADER = struct.Struct("<4s3I")
_COPIED, _WHOLE = 0x2, 0x10  # flags: the values as they are; blocks that are not split once more


def extended(first: bytes, blank: Callable[[int], bytes], size: int) -> bytes | None:
    """A frame of one block with blocks of one value after it.

    Parameters
    ----------
    first : bytes
        A frame of a single block.
    blank : callable
        Gives a frame of a single block of so many bytes of the value.
    size : int
        Bytes that the new frame decodes to.

    Returns
    -------
    bytes or None
        None where blosc has not made such blocks of them (few bytes, or what cannot be compressed).
    """
    kind, block, own, _ = _HEADER.unpack_from(first)
    count = -(-size // block)
    frames = [first]
    if count > 1:
        frames += [blank(block)] * (count - 2) + [blank(size - (count - 1) * block)]
    if own != block or any(not _plain(frame) for frame in frames):
        return None
    table, at = [], _HEADER.size + 4 * count
    for frame in frames:
        table.append(at)
        at += len(frame) - _HEADER.size - 4
    head = _HEADER.pack(kind, size, block, at) + struct.pack(f"<{count}I", *table)
    return head + b"".join(frame[_HEADER.size + 4 :] for frame in frames)


def split(data: bytes) -> tuple[int, int, bytes, bytes] | None:
    """The first block of a frame, and all others, as frames of their own.

    Parameters
    ----------
    data : bytes
        A frame; bytes after its end do not matter.

    Returns
    -------
    tuple of (bytes that the first decodes to, those of the others, first frame, frame of the others) or None
        None where it has a single block, or was not written by `extended`.
    """
    if len(data) < _HEADER.size + 8 or not _plain(data):
        return None
    kind, size, block, total = _HEADER.unpack_from(data)
    count = -(-size // max(1, block))
    end = _HEADER.size + 4 * count
    if count < 2 or not end <= total <= len(data):
        return None
    starts = struct.unpack_from(f"<{count}I", data, _HEADER.size)
    begin = starts[1]
    if starts[0] != end or not end < begin <= total or min(starts[1:]) < begin:
        return None
    shift = begin - _HEADER.size - 4 * (count - 1)
    first = _HEADER.pack(kind, block, block, begin - end + _HEADER.size + 4) + struct.pack("<I", _HEADER.size + 4)
    rest = _HEADER.pack(kind, size - block, min(block, size - block), total - shift)
    rest += struct.pack(f"<{count - 1}I", *(start - shift for start in starts[1:]))
    return block, size - block, first + data[end:begin], rest + data[begin:total]


def alike(frame: bytes) -> bytes | None:
    """What frames have in common that can be `joined`: kind and size of block; None of one that joins no other."""
    _, size, block, _ = _HEADER.unpack_from(frame)
    return frame[:4] + frame[8:12] if _plain(frame) and block and size and not size % block else None


def joined(frames: Sequence[bytes]) -> bytes:
    """One frame of several that are alike (see `alike`): it decodes to what they do, one after the other.

    Parameters
    ----------
    frames : sequence of bytes
        Frames; bytes after their ends do not matter.

    Raises
    ------
    ValueError
        If one is not what it says of itself.
    """
    heads = [_HEADER.unpack_from(frame) for frame in frames]
    counts = [size // block for _, size, block, _ in heads]
    at = _HEADER.size + 4 * sum(counts)
    table: list[int] = []
    blocks = []
    for frame, count, (_, _, _, end) in zip(frames, counts, heads, strict=True):
        begin = _HEADER.size + 4 * count
        if not begin <= end <= len(frame):
            raise ValueError(f"a frame of {len(frame)} bytes says that it has {end}")
        places = struct.unpack_from(f"<{count}I", frame, _HEADER.size)
        if not begin <= min(places) <= max(places) < end:
            raise ValueError("a block lies outside its frame")
        table += [place - begin + at for place in places]
        blocks.append(frame[begin:end])
        at += end - begin
    size = sum(size for _, size, _, _ in heads)
    head = _HEADER.pack(heads[0][0], size, heads[0][2], at) + struct.pack(f"<{len(table)}I", *table)
    return head + b"".join(blocks)


def _plain(frame: bytes) -> bool:
    return frame[2] & (_COPIED | _WHOLE) == _WHOLE
