"""Waveform files as their providers ship them, and as they should not be."""

import io
import struct
import warnings

import numpy as np
import pytest
from scipy.io import wavfile

from strfcube.errors import RawDataError
from strfcube.sound.audio import OddWaveWarning, odd_waves, read_wav, to_float


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("lazy", [False, True])
def test_samples_come_as_the_file_has_them(tmp_path, dtype, lazy):
    samples = (np.arange(100) % 50).astype(dtype)
    wavfile.write(tmp_path / "a", 24414, samples)  # no extension
    audio = read_wav(tmp_path / "a", 24414.0625, lazy=lazy)
    assert audio.samples.dtype == samples.dtype
    np.testing.assert_array_equal(audio.samples, samples)
    assert audio.rate == 24414.0625
    assert read_wav(tmp_path / "a").rate == 24414.0


def wav24(path, values):
    """A 24-bit file with an unknown chunk before the samples."""
    data = b"".join(int(v).to_bytes(3, "little", signed=True) for v in values)
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 24000, 3, 24)
    chunks += b"note" + struct.pack("<I", 4) + b"abcd" + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)


@pytest.mark.parametrize("lazy", [False, True])
def test_24_bit_samples_and_an_unknown_chunk(tmp_path, lazy):
    wav24(tmp_path / "a.wav", [0, 1 << 22, -(1 << 23)])
    np.testing.assert_array_equal(to_float(read_wav(tmp_path / "a.wav", lazy=lazy).samples), [0, 0.5, -1])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 128, 255], "u1"), [-1, 0, 127 / 128]),
        (np.array([-(2**15), 0, 2**14], "i2"), [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30], "i4"), [-1, 0, 0.5]),
        (np.array([-1.5, 0, 0.25], "f4"), [-1.5, 0, 0.25]),
    ],
)
def test_full_scale(samples, expected):
    assert to_float(samples).dtype == np.float64
    np.testing.assert_array_equal(to_float(samples), expected)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole RIFF"),
        (b"RIFF", "whole RIFF"),
        (b"<html>not found</html>", "whole RIFF"),
        (bytes(1000), "whole RIFF"),
        (b"RIFF\4\0\0\0WAVE", "whole RIFF"),
        (b"RIFF\x0c\0\0\0WAVEdata\0\0\0\0", "whole RIFF"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "whole RIFF"),
    ],
)
def test_what_is_no_wav(tmp_path, content, message, lazy):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(RawDataError, match=message) as error:
        read_wav(tmp_path / "a.wav", lazy=lazy)
    assert "\n" not in str(error.value)
    assert error.value.file == str(tmp_path / "a.wav")


def test_absent_empty_and_stereo(tmp_path):
    with pytest.raises(RawDataError, match="there is none"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(RawDataError):
        read_wav(tmp_path)  # a folder
    wavfile.write(tmp_path / "b.wav", 8000, np.empty(0, np.int16))
    with pytest.raises(RawDataError, match="empty"):
        read_wav(tmp_path / "b.wav")
    wavfile.write(tmp_path / "c.wav", 8000, np.zeros((10, 2), np.int16))
    with pytest.raises(RawDataError, match="one channel, found 2"):
        read_wav(tmp_path / "c.wav")


def test_cut_anywhere(tmp_path):
    path = tmp_path / "a.wav"
    wavfile.write(path, 8000, np.arange(200, dtype=np.int16))
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(RawDataError):
            read_wav(path)


def test_a_rate_of_zero(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, np.ones(9, np.int16))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:32] = bytes(8)  # rate, and bytes a second
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(RawDataError, match="0 Hz"):
        read_wav(tmp_path / "a.wav")


# Sizes in the header: of the whole file, and of the samples.


def wav_bytes(samples=None, tail=b""):
    file = io.BytesIO()
    wavfile.write(file, 8000, np.arange(200, dtype=np.int16) if samples is None else samples)
    content = bytearray(file.getvalue() + tail)
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    return content


def with_sizes(content, whole=None, data=None):
    content = bytearray(content)
    for at, value in ((4, whole), (40, data)):
        if value is not None:
            content[at : at + 4] = value.to_bytes(4, "little")
    return bytes(content)


LIST = b"LIST\x04\0\0\0INFO"


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("tail", [b"", LIST])
@pytest.mark.parametrize(
    "sizes",
    [
        {"whole": 0}, {"whole": 36}, {"whole": 4}, {"whole": 0xFFFFFFFF}, {"whole": 100_000}, {"whole": 435},
    ],
)  # fmt: skip
def test_a_wrong_size_of_the_whole(tmp_path, sizes, tail, lazy):
    (tmp_path / "a.wav").write_bytes(with_sizes(wav_bytes(tail=tail), **sizes))
    with pytest.warns(OddWaveWarning, match=r"a\.wav: its header states"):
        audio = read_wav(tmp_path / "a.wav", lazy=lazy)
    np.testing.assert_array_equal(audio.samples, np.arange(200))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 0}, {"data": 200}, {"data": 100_000}, {"data": 0xFFFFFFFF}, {"data": 402},
        {"whole": 0, "data": 0}, {"whole": 0xFFFFFFFF, "data": 0xFFFFFFFF}, {"whole": 0x7FFFF024, "data": 0x7FFFF000},
    ],
)  # fmt: skip
def test_a_wrong_size_of_the_samples(tmp_path, sizes, lazy):
    (tmp_path / "a.wav").write_bytes(with_sizes(wav_bytes(), **sizes))
    with pytest.warns(OddWaveWarning, match=r"a\.wav: its header states"):
        audio = read_wav(tmp_path / "a.wav", lazy=lazy)
    np.testing.assert_array_equal(audio.samples, np.arange(200))


@pytest.mark.parametrize("tail", [b"", LIST, LIST + LIST, b"junk"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_right_sizes_are_no_surprise(tmp_path, tail, dtype):
    samples = np.arange(201).astype(dtype)  # of bytes, an odd number: one is padded
    content = wav_bytes(samples)
    content += bytes(len(content) % 2 if tail else 0) + tail
    if tail != b"junk":  # what is behind the end that the header states is none of the file's
        content[4:8] = (len(content) - 8).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_array_equal(read_wav(tmp_path / "a.wav").samples, samples)


def test_other_warnings_go_on_and_odd_waves_become_findings(tmp_path):
    (tmp_path / "a.wav").write_bytes(with_sizes(wav_bytes(), whole=0))
    found = []

    def read():
        with odd_waves(found.append, tmp_path):
            read_wav(tmp_path / "a.wav")
            warnings.warn("something else", stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read()
    assert [str(w.message) for w in caught] == ["something else"]
    assert [(f.severity, f.file) for f in found] == [("warning", "a.wav")]
