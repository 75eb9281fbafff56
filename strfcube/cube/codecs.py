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


def of_chunks(shuffle: Shuffle) -> list[Any]:
    """Codecs of large arrays, for zarr."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    return [BloscCodec(cname="zstd", clevel=_LEVEL, shuffle=shuffle), Crc32cCodec()]


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

    packed: bytes = blosc.compress(values, b"zstd", _LEVEL, _SHUFFLE[shuffle], block_bytes)
    return packed
