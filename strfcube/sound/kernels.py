"""What computes a spectrogram at one sampling rate: made once a build, and sent to the workers.

The filter bank comes from librosa, whose import takes longer than many a build; workers only apply it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

    def apply(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of windows [shape=(frame, sample)] as [shape=(band, frame)]."""
        from scipy.fft import rfft

        spectrum = rfft(frames * self.window, self.n_fft, axis=1)
        power = np.asarray(self.bank @ np.ascontiguousarray((spectrum.real**2 + spectrum.imag**2).T))
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

    def apply(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of windows [shape=(frame, sample)] as [shape=(band, frame)]."""
        values = 20 * np.log10(np.abs(frames @ self.matrix) + 1e-12)
        values[:, self.absent] = np.nan
        return np.asarray(values.T)


Kernel = BankKernel | DFTKernel


def hann(width: int) -> NDArray[np.float64]:
    """Periodic Hann window."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width))


def without_empty_bands(bank: Any, width: int) -> tuple[Any, int]:
    """Sparse filter bank on an FFT long enough that no band falls between two of its lines.

    Zero-padding interpolates the spectrum without changing the window; dividing by the padding factor keeps the scale.
    """
    import warnings

    from scipy.sparse import csr_array

    n_fft = width
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters", UserWarning)
        while not (weights := bank(n_fft)).any(axis=1).all():
            n_fft *= 2
            if n_fft > 64 * width:
                raise UsageError("some frequency bands are narrower than the window resolves: give fewer bands")
    return csr_array(weights * (width / n_fft)), n_fft
