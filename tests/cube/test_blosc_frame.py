"""Frames whose first block is what was recorded: blosc decodes them, and each of their two parts."""

import struct

import numpy as np
import pytest
from numcodecs import blosc

from strfcube.cube.blosc_frame import alike, extended, joined, split


def frame_of(values):
    return blosc.compress(values, b"zstd", 5, 2, values.nbytes)


def made(values, size, fill=255):
    return extended(frame_of(values), lambda n: frame_of(np.full(n // values.itemsize, fill, values.dtype)), size)


@pytest.mark.parametrize(("dtype", "fill"), [("u1", 255), ("u2", 65535), ("f4", np.nan)])
@pytest.mark.parametrize("blank", [0, 256, 1600, 1856, 3200, 8000])
def test_parts_are_frames(dtype, fill, blank):
    values = np.random.default_rng(0).poisson(0.05, 1600 // np.dtype(dtype).itemsize).astype(dtype)
    data = made(values, 1600 + blank, fill)
    rest = np.full(blank // values.itemsize, fill, dtype).tobytes()
    assert blosc.decompress(data) == values.tobytes() + rest
    found = split(data + b"crc!")
    if not blank:
        assert found is None
        return
    size, others, first, last = found
    assert (size, others) == (1600, blank)
    assert blosc.decompress(first) == values.tobytes()
    assert blosc.decompress(last) == rest
    assert split(made(values[::-1].copy(), 1600 + blank, fill))[3] == last  # the same bytes, whatever comes before


def test_what_blosc_does_not_compress_is_left_to_it():
    random = np.random.default_rng(0).integers(0, 256, 1600).astype("u1")
    assert made(random, 3200) is None
    assert made(np.zeros(16, "u1"), 160) is None
    assert split(frame_of(random)) is None


def test_frames_of_others():
    """Blocks of any size are one frame and the rest; a damaged table is no such frame."""
    values = np.random.default_rng(0).poisson(0.05, 4000).astype("u1")
    data = blosc.compress(values, b"zstd", 5, 2, 1000)
    found = split(data)
    if found is not None:  # threads of blosc may write blocks in another order
        assert blosc.decompress(found[2]) + blosc.decompress(found[3]) == values.tobytes()
    good = made(values, 8000)
    for at, number in ((8, 0), (12, 99), (12, 2**31), (16, 0), (20, 2**31), (20, 3), (8, 2)):
        changed = bytearray(good)
        struct.pack_into("<I", changed, at, number)
        assert split(bytes(changed)) is None
    assert split(good[:20]) is None
    assert split(b"") is None


def test_frames_that_are_alike_are_decoded_as_one():
    rng = np.random.default_rng(0)
    values = [rng.poisson(0.05, 1600 * blocks).astype("u1") for blocks in (1, 3, 1, 2)]
    frames = [blosc.compress(v, b"zstd", 5, 2, 1600) + b"crc!" for v in values]
    assert len({alike(frame) for frame in frames}) == 1
    assert blosc.decompress(joined(frames)) == b"".join(v.tobytes() for v in values)
    assert blosc.decompress(joined(frames[:1])) == values[0].tobytes()


def test_frames_that_are_not_alike():
    values = np.random.default_rng(0).poisson(0.05, 3200).astype("u1")
    kinds = [
        alike(frame_of(values)), alike(frame_of(values.view("u2"))), alike(blosc.compress(values, b"zstd", 5, 2, 1600)),
        alike(blosc.compress(values, b"zstd", 5, 1, 3200)),
    ]  # fmt: skip
    assert None not in kinds
    assert len(set(kinds)) == 4
    assert alike(blosc.compress(values, b"zstd", 5, 2, 1500)) is None  # its last block is shorter
    assert alike(frame_of(np.random.default_rng(0).integers(0, 256, 1600).astype("u1"))) is None  # bytes as they are


@pytest.mark.parametrize(("at", "number"), [(12, 99_999), (12, 3), (16, 0), (16, 19), (16, 2**31), (16, 2**32 - 1)])
def test_frames_that_say_what_cannot_be_are_not_joined(at, number):
    good = frame_of(np.random.default_rng(0).poisson(0.05, 1600).astype("u1"))
    changed = bytearray(good)
    struct.pack_into("<I", changed, at, number)
    with pytest.raises(ValueError, match=r"a frame of|outside its frame"):
        joined([good, bytes(changed)])
