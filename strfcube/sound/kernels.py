"""What computes a spectrogram at one sampling rate: made once a build, and sent to the workers.

The filter bank comes from librosa, whose import takes longer than many a build; workers only apply it.

Levels do not depend on the rate. A window of a given duration holds samples in proportion to the rate, and its squared
transform grows with their square, for a sine as for noise of a given density per Hz (the variance of such noise grows
with the band that the rate can hold). So each kernel is scaled to what it would give at `REFERENCE_RATE`, where the
scale is exactly 1, and its filters have there and everywhere the weights of the same lines of the spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFERENCE_RATE = 32000.0  # Hz
DENSITY = 4  # lines of the spectrum in half of the narrowest band, where a filter is to have its exact area
MOST_PADDING = 64
Compression = Literal["cubic", "log", "db", "none"]


@dataclass(frozen=True)
class BankKernel:
    """Power of an FFT, summed by a filter bank and compressed.

    Attributes
    ----------
    window : ndarray [shape=(sample,)]
        Window.
    bank : sparse array [shape=(band, line)]
        Filters; a sparse product needs no BLAS and no threads.
    n_fft : int
        Length of the FFT.
    compression, floor_db
        As in `Mel`.
    """

    window: NDArray[np.float64]
    bank: Any
    n_fft: int
    compression: Compression
    floor_db: float

    @property
    def width(self) -> int:
        """Samples in a window."""
        return len(self.window)

    @property
    def bands(self) -> int:
        """Number of bands."""
        return int(self.bank.shape[0])

    def apply(self, frames: NDArray[np.float64], parts: int = 1) -> NDArray[np.float64]:
        """Values of windows [shape=(frame * parts, sample)] as [shape=(band, frame)]: the parts' mean power."""
        from scipy.fft import rfft

        spectrum = rfft(frames * self.window, self.n_fft, axis=1)
        power = np.asarray(self.bank @ np.ascontiguousarray((spectrum.real**2 + spectrum.imag**2).T))
        power = _mean(power, parts)
        if self.compression == "cubic":
            return np.asarray(np.cbrt(power))
        if self.compression == "log":
            return np.asarray(np.log1p(power))
        if self.compression == "db":
            return np.asarray(10 * np.log10(np.maximum(power, 10 ** (self.floor_db / 10))))
        return power


@dataclass(frozen=True)
class DFTKernel:
    """Level of a Fourier transform at chosen frequencies.

    Attributes
    ----------
    matrix : ndarray of complex [shape=(sample, band)]
        Window times complex exponentials.
    absent : ndarray of bool [shape=(band,)]
        Bands above half the sampling rate.
    """

    matrix: NDArray[np.complex128]
    absent: NDArray[np.bool_]

    @property
    def width(self) -> int:
        """Samples in a window."""
        return len(self.matrix)

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.absent)

    def apply(self, frames: NDArray[np.float64], parts: int = 1) -> NDArray[np.float64]:
        """Values of windows [shape=(frame * parts, sample)] as [shape=(band, frame)]: the parts' mean power."""
        size = np.abs(frames @ self.matrix)
        if parts > 1:
            size = np.sqrt(_mean(size.T**2, parts)).T
        values = 20 * np.log10(size + 1e-12)
        values[:, self.absent] = np.nan
        return np.asarray(values.T)


Kernel = BankKernel | DFTKernel


def librosa_filters() -> Any:
    """`librosa.filters`, also where no folder is writable in which numba could keep what it compiles for librosa."""
    try:
        import librosa.filters
    except RuntimeError as error:
        if "cache" not in str(error):
            raise
        import atexit
        import shutil
        import tempfile

        import numba

        config: Any = numba.config
        config.CACHE_DIR = tempfile.mkdtemp(prefix="strfcube-numba-")
        atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)
        import librosa.filters
    return librosa.filters


def hann(width: int) -> NDArray[np.float64]:
    """Periodic Hann window."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width))


def _mean(power: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """Mean over the parts of each frame of a power [shape=(band, frame * parts)]."""
    return power if parts == 1 else np.asarray(power.reshape(len(power), -1, parts).mean(-1))


def on_reference_lines(bank: Any, width: int, reference_width: int, f_max: float) -> tuple[Any, int]:
    """Sparse filter bank whose weights, and so its levels, are the same at every sampling rate.

    The lines of an FFT of a window lie 1 / (its duration) apart; a duration of no whole number of samples moves them a
    little. A narrow filter on a steep flank would then weigh the same line differently at each rate: filters are made
    once, on the lines at `REFERENCE_RATE`. The FFT is long enough that no band falls between two lines: zero-padding
    interpolates the spectrum without changing the window, and dividing by the padding factor keeps the scale.

    Parameters
    ----------
    bank : callable
        From a rate in Hz and an FFT length to weights [shape=(band, line)].
    width, reference_width : int
        Samples in the window, and in that at the reference rate.
    f_max : float
        Highest frequency of a filter, in Hz.

    Returns
    -------
    sparse array [shape=(band, line)]
        Scaled to the reference rate.
    int
        Length of the FFT.

    Raises
    ------
    UsageError
        If a band is narrower than the window can resolve.
    """
    import warnings

    from scipy.sparse import csr_array

    above = 1  # a grid of the same lines that goes on to `f_max`
    while REFERENCE_RATE * above / 2 < f_max * (1 - 1e-9):
        above *= 2
    padding = 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters", UserWarning)
        while not (weights := bank(REFERENCE_RATE * above, reference_width * above * padding)).any(axis=1).all():
            padding *= 2
            if padding > MOST_PADDING:
                raise UsageError("some frequency bands are narrower than the window resolves: give fewer bands")
    lines = width * padding // 2 + 1
    there = min(lines, weights.shape[1])
    placed = np.zeros((len(weights), lines))
    placed[:, :there] = weights[:, :there]
    level = (reference_width / width) ** 2
    return csr_array(placed * (1 / padding * level)), width * padding


def on_close_lines(bank: Any, width: int, rate: float, narrowest: float) -> tuple[Any, int]:
    """Sparse filter bank on lines so close that each filter keeps its area, however narrow it is; not scaled.

    Parameters
    ----------
    bank : callable
        From an FFT length to weights [shape=(band, line)].
    width : int
        Samples in the window.
    rate : float
        Hz.
    narrowest : float
        Half of the width of the narrowest filter, in Hz.

    Raises
    ------
    UsageError
        If that would take an FFT of more than `MOST_PADDING` windows.
    """
    from scipy.fft import next_fast_len
    from scipy.sparse import csr_array

    n_fft = next_fast_len(max(width, int(np.ceil(DENSITY * rate / narrowest))), real=True)
    if n_fft > MOST_PADDING * width:
        raise UsageError("some frequency bands are narrower than the window resolves: give fewer bands")
    return csr_array(bank(n_fft)), n_fft
