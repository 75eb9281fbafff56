"""Waveform files: lengths from headers, samples on demand."""

from __future__ import annotations

import io
import os
import struct
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import RawDataError
from strfcube.raw_files import see_readable
from strfcube.records import Audio, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from strfcube.records import Report

_STREAMED = 0x7FFFF000  # sizes from here on are what programs write that do not know yet how long a sound will be


class OddWaveWarning(UserWarning):
    """A wav file whose header states sizes that the file does not have, while its samples are whole."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(f"{file}: {what}")
        self.file, self.what = file, what


@contextmanager
def odd_waves(report: Report, raw: Path) -> Iterator[None]:
    """Make a finding of each `OddWaveWarning`; other warnings go on as they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OddWaveWarning)
        yield
    for warning in caught:
        if isinstance(odd := warning.message, OddWaveWarning):
            file = Path(odd.file)
            name = file.relative_to(raw).as_posix() if file.is_relative_to(raw) else odd.file
            report(Finding("warning", name, odd.what, "all samples that are there are used"))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def read_wav(path: Path | str | IO[bytes], rate: float | None = None, *, lazy: bool = False) -> Audio:
    """Read a mono RIFF/WAVE file, whatever its name ends in.

    Parameters
    ----------
    path : path-like or binary file
        The file; messages name it, a binary file by its ``name``.
    rate : float, optional
        True rate in Hz, where the header can only hold a rounded one.
    lazy : bool
        Map the samples instead of reading them, where the format allows: cheap when only the length is wanted.

    Returns
    -------
    Audio
        Samples [shape=(n,)] in the file's own dtype.

    Raises
    ------
    RawDataError
        If the file is absent, no WAVE file, cut short, empty or not mono.

    Warns
    -----
    OddWaveWarning
        If its header states other sizes than the file has, while the samples are whole.
    """
    from scipy.io import wavfile

    label = str(getattr(path, "name", path) if not isinstance(path, (str, Path)) else path)
    try:
        path = _mended(path, label)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk .non-data. not understood", wavfile.WavFileWarning)
            try:
                header_rate, samples = wavfile.read(path, mmap=lazy)
            except ValueError:
                if not lazy:
                    raise
                header_rate, samples = wavfile.read(path)  # 24-bit samples cannot be mapped
    except FileNotFoundError:
        raise RawDataError("expected a wav file, but there is none", label) from None
    except (ValueError, EOFError, OSError, struct.error, wavfile.WavFileWarning) as error:
        see_readable(error, label)
        raise RawDataError(f"expected a whole RIFF/WAVE file, but {error}; fetch it again", label) from error
    except Exception as error:  # whatever a bad header leads scipy to: no channels, samples of 512 bytes
        see_readable(error, label)
        raise RawDataError("expected a whole RIFF/WAVE file, but its header is bad; fetch it again", label) from error
    if not header_rate:
        raise RawDataError("expected a sampling rate, but the wav's header says 0 Hz; fetch it again", label)
    if samples.ndim != 1:
        raise RawDataError(f"expected one channel, found {samples.shape[1]}; mix it down first", label)
    if not len(samples):
        raise RawDataError("expected samples, but the wav is empty; fetch it again", label)
    return Audio(samples, float(rate or header_rate))


def _mended(path: Path | str | IO[bytes], label: str) -> Path | str | IO[bytes]:
    """The file, or its content with right sizes in the header where those are wrong but the samples whole.

    A file is cut short where both of its sizes, of the whole and of the data, say so. One of them alone is a mistake of
    the program that wrote it, and so are the numbers that stand for "not known yet".
    """
    if isinstance(path, (str, Path)):
        with open(path, "rb") as file:
            return _mended_stream(file, label) or path
    return _mended_stream(path, label) or path


def _mended_stream(file: IO[bytes], label: str) -> IO[bytes] | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    at, block, data = 12, 0, None
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        data, at, block = _find_data(file, size)
    file.seek(0)
    if data is None:
        return None
    stated = 8 + int.from_bytes(head[4:8], "little")
    end = _end_of_data(file, stated, at, data, size)
    file.seek(0)
    if end is None or (end == at + data and end <= stated <= size + 1):
        return None
    whole = (end - at) // block * block
    what = f"its header states {stated:,} bytes, {data:,} of them samples, but the file has {size:,}"
    warnings.warn(OddWaveWarning(label, what), stacklevel=4)
    content = bytearray(file.read(at + whole))
    content[4:8] = (at + whole - 8).to_bytes(4, "little")
    content[at - 4 : at] = whole.to_bytes(4, "little")
    return io.BytesIO(content)


def _find_data(file: IO[bytes], size: int) -> tuple[int | None, int, int]:
    """Stated size of the samples, where they begin, and bytes of one sample; None where there are none to be found."""
    at, block = 12, 0
    while at + 8 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        at += 8
        if name == b"fmt ":
            block = int.from_bytes(file.read(16)[12:14], "little")
        if name == b"data":
            return (length if block else None), at, block
        at += length + length % 2
    return None, at, block


def _end_of_data(file: IO[bytes], stated: int, at: int, data: int, size: int) -> int | None:
    """Where the samples end; None where the header's word for it stands, be it that the file is cut short."""
    there = size - at
    if data == 0 or data > there:
        if there <= 0 or (data > there and data < _STREAMED and not size <= stated <= size + 1):
            return None
        return size
    rest = at + data + data % 2
    while size - rest >= 8:  # other chunks after the samples
        file.seek(rest)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if not name.isascii() or not name.decode("ascii").isprintable() or rest + 8 + length > size:
            break
        rest += 8 + length + length % 2
    if size - rest >= 8 and size <= stated <= size + 1:  # the whole has its size, and what follows is no chunk
        return size
    return at + data


def to_float(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Samples as float64, integers scaled to [-1, 1).

    Parameters
    ----------
    samples : ndarray [shape=(n,)]
        Unsigned 8-bit samples are centred on 128, as WAVE has them.
    """
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)
