"""Waveform files: lengths from headers, samples on demand."""

from __future__ import annotations

import struct
import warnings
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import RawDataError
from strfcube.records import Audio

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_wav(path: Path | str | IO[bytes], rate: float | None = None, *, lazy: bool = False) -> Audio:
    """Read a mono RIFF/WAVE file, whatever its name ends in.

    Parameters
    ----------
    path : path-like or binary file
        The file; messages name it.
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
    """
    from scipy.io import wavfile

    try:
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
        raise RawDataError("expected a wav file, but there is none", path) from None
    except (ValueError, EOFError, OSError, struct.error, wavfile.WavFileWarning) as error:
        raise RawDataError(f"expected a whole RIFF/WAVE file, but {error}; fetch it again", path) from error
    except (UnboundLocalError, ZeroDivisionError) as error:  # what scipy says of a missing chunk, or of no channels
        raise RawDataError("expected a whole RIFF/WAVE file, but its header is bad; fetch it again", path) from error
    if not header_rate:
        raise RawDataError("expected a sampling rate, but the wav's header says 0 Hz; fetch it again", path)
    if samples.ndim != 1:
        raise RawDataError(f"expected one channel, found {samples.shape[1]}; mix it down first", path)
    if not len(samples):
        raise RawDataError("expected samples, but the wav is empty; fetch it again", path)
    return Audio(samples, float(rate or header_rate))


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
