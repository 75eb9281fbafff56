"""Frames of blocks of their own: blosc decodes them, and each part of them."""

import struct

import numpy as np
import pytest
from numcodecs import blosc

from strfcube.cube.blosc_frame import Frame, joined


def frame_of(values):
    return blosc.compress(values, b"zstd", 5, 2, values.nbytes)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("last", [1600, 256])
def test_any_part_is_a_frame(dtype, last):
    size = 1600 // np.dtype(dtype).itemsize
    values = np.random.default_rng(0).poisson(0.05, 4 * size).astype(dtype)[: 3 * size + last // (1600 // size)]
    blocks = [values[first : first + size] for first in range(0, len(values), size)]
    data = joined([frame_of(block) for block in blocks])
    assert blosc.decompress(data) == values.tobytes()
    frame = Frame.of(data + b"crc!")
    assert (frame.size, frame.block, len(frame.edges)) == (values.nbytes, 1600, 5)
    for first in range(4):
        for stop in range(first + 1, 5):
            part = frame.part(first, stop)
            assert blosc.decompress(part) == values[first * size : stop * size].tobytes()
            assert part == joined([frame_of(block) for block in blocks[first:stop]])  # whatever stood before it


def test_a_single_block_has_no_parts():
    values = np.zeros(1600, "u1")
    assert joined([frame_of(values)]) == frame_of(values)
    assert Frame.of(frame_of(values)) is None


def test_what_blosc_does_not_compress_is_left_to_it():
    random = np.random.default_rng(0).integers(0, 256, 1600).astype("u1")
    blank = frame_of(np.zeros(1600, "u1"))
    assert joined([frame_of(random), blank]) is None
    assert joined([blank, frame_of(random)]) is None
    assert joined([frame_of(np.zeros(16, "u1"))] * 10) is None
    assert Frame.of(frame_of(random)) is None


def test_unlike_blocks_are_no_frame():
    """A block in the middle that is shorter, one that is longer, one of values of another size."""
    whole, short = (frame_of(np.zeros(size, "u1")) for size in (1600, 800))
    assert joined([whole, short, whole]) is None
    assert blosc.decompress(joined([whole, whole, short])) == bytes(4000)
    assert joined([whole, frame_of(np.zeros(800, "u2"))]) is None


def test_frames_of_others():
    """Blosc's own blocks are told apart where they are in their order; a damaged table is no frame."""
    values = np.random.default_rng(0).poisson(0.05, 4000).astype("u1")
    found = Frame.of(blosc.compress(values, b"zstd", 5, 2, 1000))
    if found is not None:  # threads of blosc may write blocks in another order
        assert blosc.decompress(found.part(0, 1)) + blosc.decompress(found.part(1, 4)) == values.tobytes()
    good = joined([frame_of(values), frame_of(np.zeros_like(values))])
    assert Frame.of(good) is not None
    for at, number in ((8, 0), (12, 99), (12, 2**31), (16, 0), (20, 2**31), (20, 3), (8, 2)):
        changed = bytearray(good)
        struct.pack_into("<I", changed, at, number)
        assert Frame.of(bytes(changed)) is None
    assert Frame.of(good[:20]) is None
    assert Frame.of(b"") is None
