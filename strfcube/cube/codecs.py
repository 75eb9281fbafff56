"""Which codecs a store's arrays have: the one place where compression is chosen.

The checksum of each chunk is the last codec, so that whatever reads a chunk checks it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shuffle = Literal["shuffle", "bitshuffle"]

NAMES = (["bytes", "blosc"], ["bytes", "blosc", "crc32c"])  # of chunks; cubes of earlier versions have no checksum
REPEATS_FIRST = (0, 2, 1, 3)  # order of (stim, repeat, neuron, time) in a chunk whose last repeats may be blank
_LEVEL = 5  # of zstd
_SHUFFLE = {"shuffle": 1, "bitshuffle": 2}


def stride(shuffle: Shuffle, chunk_bytes: int, itemsize: int) -> int:
    """Bytes that blosc shuffles as one value.

    Two single bytes where it shuffles bits: of values of an odd size its vector code does half, and decoding counts
    takes 40 % longer. Of an odd number of bytes, each is one.
    """
    return 2 if shuffle == "bitshuffle" and itemsize == 1 and chunk_bytes % 2 == 0 else itemsize


def of_chunks(shuffle: Shuffle, chunk_bytes: int, itemsize: int) -> list[Any]:
    """Codecs of large arrays, for zarr."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    size = stride(shuffle, chunk_bytes, itemsize)
    return [BloscCodec(typesize=size, cname="zstd", clevel=_LEVEL, shuffle=shuffle), Crc32cCodec()]


def of_order(*, repeats_first: bool) -> list[Any]:
    """What comes before `of_chunks`, for zarr."""
    from zarr.codecs import TransposeCodec

    return [TransposeCodec(order=REPEATS_FIRST)] if repeats_first else []


def of_small_arrays() -> list[Any]:
    """Codecs of coordinates and the like, for zarr."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return [ZstdCodec(level=0), Crc32cCodec()]


def compressed(values: NDArray[Any], shuffle: Shuffle, block_bytes: int) -> bytes:
    """Bytes of a chunk as `of_chunks` has them, without their checksum."""
    from numcodecs import blosc

    size = stride(shuffle, values.nbytes, values.itemsize)
    values = values if size == values.itemsize else values.reshape(-1).view(f"<u{size}")
    packed: bytes = blosc.compress(values, b"zstd", _LEVEL, _SHUFFLE[shuffle], block_bytes)
    return packed
