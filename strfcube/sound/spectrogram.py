"""Front ends: from a waveform to a spectrogram on the cube's own time grid.

Frame k is the sound around the centre of bin k (`strfcube.grid.frame_starts`); the window is in milliseconds and does
not grow with dt. Where a bin is longer than the window, it holds the mean power of frames close enough that every
sample counts alike. The same sound reads the same at every sampling rate (`strfcube.sound.kernels`). Each front end is
a frozen dataclass, so that a recipe can hold it, hash it and print it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from strfcube.blas import one_thread
from strfcube.errors import UsageError
from strfcube.grid import NS_PER_S, Align, frame_starts
from strfcube.sound.audio import to_float
from strfcube.sound.kernels import (
    REFERENCE_RATE,
    BankKernel,
    Compression,
    DFTKernel,
    Kernel,
    hann,
    librosa_filters,
    on_close_lines,
    on_reference_lines,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.records import Audio

COMPRESSIONS = {"cubic": "power^(1/3)", "log": "log(1 + power)", "db": "dB", "none": "power"}
_BATCH = 1 << 20  # samples gathered at a time: 8 MB of float64
SIGNIFICANT_BITS = 16


@dataclass(frozen=True)
class Mel:
    """Mel power spectrogram: periodic Hann window, HTK mel scale, triangles of height one.

    Attributes
    ----------
    bands : int
        Number of mel bands.
    f_min, f_max : float
        Range in Hz; `f_max` None is half the lowest sampling rate of the data set.
    window_ms : float
        Window length in ms.
    compression : {"cubic", "log", "db", "none"}
        x^(1/3), log(1 + x), 10 log10(x) above `floor_db`, or x, of the power x.
    floor_db : float
        Lowest level kept by ``db``.
    """

    kind: ClassVar[str] = "mel"
    bands: int = 32
    f_min: float = 0.0
    f_max: float | None = None
    window_ms: float = 10.0
    compression: Compression = "cubic"
    floor_db: float = -80.0

    @property
    def units(self) -> str:
        """Unit of the values."""
        return COMPRESSIONS[self.compression]

    def frequencies(self) -> NDArray[np.float64]:
        """Centre frequencies [shape=(bands,)] in Hz."""
        librosa_filters()
        from librosa import mel_frequencies

        edges = mel_frequencies(n_mels=self.bands + 2, fmin=self.f_min, fmax=float(self.f_max or 0), htk=True)
        return np.asarray(edges[1:-1], np.float64)

    def width(self, rate: float, dt_ns: int) -> int:
        """Window length in samples at `rate` Hz."""
        return max(2, round(self.window_ms * rate / 1000))

    def kernel(self, rate: float, dt_ns: int) -> Kernel:
        """What computes it at `rate` Hz."""
        mel = librosa_filters().mel

        def bank(rate: float, n_fft: int) -> NDArray[np.float64]:
            how: dict[str, Any] = {"fmin": self.f_min, "fmax": self.f_max, "htk": True, "norm": None}
            return np.asarray(mel(sr=rate, n_fft=n_fft, n_mels=self.bands, dtype=np.float64, **how))

        window = hann(self.width(rate, dt_ns))
        reference = self.width(REFERENCE_RATE, dt_ns)
        filters = on_reference_lines(bank, len(window), reference, float(self.f_max or 0))
        return BankKernel(window, *filters, self.compression, self.floor_db)


@dataclass(frozen=True)
class Cochleagram:
    """Log-spaced cochleagram: Hann window, triangles a band apart in log frequency, level in dB above a floor.

    The parameters of Rahman, Willmore, King & Harper 2019 (doi 10.1371/journal.pcbi.1006618): 10 ms window, 34 bands
    a sixth of an octave apart from 500 Hz to 22.6 kHz. A full-scale sine at the centre of a band has 0 dB in it, in
    every band and at every sampling rate.

    Attributes
    ----------
    bands, f_min, f_max, window_ms, compression, floor_db
        As in `Mel`; `f_min` and `f_max` are the first and last centre frequency.
    """

    kind: ClassVar[str] = "cochleagram"
    bands: int = 34
    f_min: float = 500.0
    f_max: float | None = 22627.417
    window_ms: float = 10.0
    compression: Compression = "db"
    floor_db: float = -80.0

    @property
    def units(self) -> str:
        """Unit of the values."""
        return COMPRESSIONS[self.compression]

    def frequencies(self) -> NDArray[np.float64]:
        """Centre frequencies [shape=(bands,)] in Hz."""
        return np.geomspace(self.f_min, float(self.f_max or 0), self.bands)

    def width(self, rate: float, dt_ns: int) -> int:
        """Window length in samples at `rate` Hz."""
        return max(2, round(self.window_ms * rate / 1000))

    def kernel(self, rate: float, dt_ns: int) -> Kernel:
        """What computes it at `rate` Hz."""
        centres = np.log2(self.frequencies())
        spacing = (centres[-1] - centres[0]) / max(1, self.bands - 1) or 1.0

        def bank(n_fft: int) -> NDArray[np.float64]:
            at = np.log2(np.maximum(np.fft.rfftfreq(n_fft, 1 / rate), 1e-3))
            return np.asarray(np.maximum(0.0, 1 - np.abs(at - centres[:, None]) / spacing))

        window = hann(self.width(rate, dt_ns))
        bank_, n_fft = on_close_lines(bank, len(window), rate, float(2 ** centres[0] * (1 - 2**-spacing)))
        # What a full-scale sine at each centre gives there: in a band narrower than the window resolves, not all of it.
        sines = np.exp(2j * np.pi * np.outer(self.frequencies(), np.arange(len(window)) / rate)) * window / 2
        power = np.abs(np.fft.fft(sines, n_fft, axis=1)[:, : n_fft // 2 + 1]) ** 2
        own = (bank_.multiply(power)).sum(axis=1)
        return BankKernel(window, bank_.multiply(1 / own[:, None]).tocsr(), n_fft, self.compression, self.floor_db)


@dataclass(frozen=True)
class LogDFT:
    """Discrete Fourier transform at log-spaced frequencies, in dB: the front end of the AC-1 authors.

    Symmetric Hamming window of twice the bin width, 20 log10(|X| + 1e-12), without window normalisation at 32 kHz and
    scaled to that at other rates. A frequency above half the sampling rate has no value (NaN): the transform would only
    mirror a lower one.

    Attributes
    ----------
    f_min, f_max : float
        Range in Hz.
    per_octave : int
        Frequencies an octave.
    window_ms : float or None
        Window length in ms; None is twice the bin width.
    """

    kind: ClassVar[str] = "dft"
    f_min: float = 100.0
    f_max: float | None = 45000.0
    per_octave: int = 6
    window_ms: float | None = None

    units: ClassVar[str] = "dB"

    def frequencies(self) -> NDArray[np.float64]:
        """Frequencies [shape=(bands,)] in Hz."""
        count = int(np.floor(self.per_octave * np.log2(float(self.f_max or 0) / self.f_min) + 1e-9)) + 1
        return self.f_min * 2.0 ** (np.arange(count) / self.per_octave)

    def width(self, rate: float, dt_ns: int) -> int:
        """Window length in samples at `rate` Hz."""
        ms = 2 * dt_ns / 1e6 if self.window_ms is None else self.window_ms
        return max(2, round(ms * rate / 1000))

    def kernel(self, rate: float, dt_ns: int) -> Kernel:
        """What computes it at `rate` Hz."""
        frequencies = self.frequencies()
        width = self.width(rate, dt_ns)
        phase = 2j * np.pi * np.outer(np.arange(width) / rate, frequencies)
        window = np.hamming(width)
        level = np.hamming(self.width(REFERENCE_RATE, dt_ns)).sum() / window.sum()
        return DFTKernel((window * level)[:, None] * np.exp(-phase), frequencies > rate / 2)


@dataclass(frozen=True)
class Published:
    """The spectrogram that the data set itself publishes, untouched; whole multiples of its step average it."""

    kind: ClassVar[str] = "published"


Waveform = Mel | Cochleagram | LogDFT
FrontEnd = Waveform | Published
FRONT_ENDS: dict[str, type[FrontEnd]] = {"mel": Mel, "cochleagram": Cochleagram, "dft": LogDFT, "published": Published}


def resolve(front_end: Waveform, lowest_rate: float) -> Waveform:
    """The front end with its open upper limit set, once for a whole data set.

    Raises
    ------
    UsageError
        If a band of the range is above half of `lowest_rate` where the front end cannot leave it out, or if the range
        is empty.
    """
    resolved: Waveform = front_end
    if front_end.f_max is None:
        resolved = dataclasses.replace(front_end, f_max=lowest_rate / 2)
    top = float(resolved.f_max or 0)
    if not isinstance(resolved, Mel) and resolved.f_min <= 0:
        raise UsageError(f"f_min={resolved.f_min:g} Hz: a logarithmic frequency axis starts above 0")
    if not 0 <= resolved.f_min < top:
        raise UsageError(f"frequency range {resolved.f_min:g} to {top:g} Hz is empty: give f_min < f_max")
    if not holds(resolved, lowest_rate):
        raise UsageError(
            f"f_max={top:g} Hz is above half the sampling rate ({lowest_rate / 2:g} Hz): expected that or less"
        )
    return resolved


def holds(front_end: Waveform, rate: float) -> bool:
    """Whether sounds of that rate have all of a front end's range, or it leaves out what they do not have."""
    return isinstance(front_end, LogDFT) or float(front_end.f_max or 0) <= rate / 2 * (1 + 1e-9)


def compute(
    front_end: Waveform,
    audio: Audio,
    frames: int,
    dt_ns: int,
    align: Align = "centre",
    onset: float = 0.0,
    kernel: Kernel | None = None,
) -> NDArray[np.float32]:
    """Spectrogram of one whole stimulus on the time grid.

    Parameters
    ----------
    front_end : Mel, Cochleagram or LogDFT
        Resolved for the data set.
    audio : Audio
        Waveform; before and after it is silence, run through the same front end.
    frames : int
        Number of frames (bins).
    dt_ns : int
        Bin width in ns.
    align : {"centre", "causal"}
        Window around the bin's centre, or ending at its end.
    onset : float
        Time of the first sample from stimulus onset, in s.
    kernel : BankKernel or DFTKernel, optional
        The front end's own, where it was made before.

    Returns
    -------
    ndarray of float32 [shape=(frequency, frame)]
        Rounded to 16 significant bits (within 2^-16 of the value), which nearly halves what is stored; one BLAS thread,
        since products change with the number of threads.
    """
    kernel = kernel or front_end.kernel(audio.rate, dt_ns)
    width = kernel.width
    parts = parts_of_a_bin(front_end, dt_ns)
    starts = frame_starts(frames, dt_ns, audio.rate, width, align, onset, parts)
    samples = to_float(audio.samples)
    out = np.empty((kernel.bands, frames), np.float32)
    step = max(1, _BATCH // (width * parts))
    with one_thread():
        for first in range(0, frames, step):
            index = starts[first * parts : (first + step) * parts, None] + np.arange(width)
            inside = (index >= 0) & (index < len(samples))
            windows = np.where(inside, samples[np.clip(index, 0, len(samples) - 1)], 0.0)
            out[:, first : first + step] = kernel.apply(windows, parts)
    return _round_bits(out)


def parts_of_a_bin(front_end: Waveform, dt_ns: int) -> int:
    """Frames in a bin: one where the window is as long as the bin, else so many that every sample counts alike.

    The squares of Hann and Hamming windows add up to the same everywhere when each begins a third of a window after the
    one before.
    """
    window_ns = 2 * dt_ns if front_end.window_ms is None else round(front_end.window_ms * 1e6)
    return 1 if dt_ns <= window_ns else -(-3 * dt_ns // window_ns)


def _round_bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest float32 with `SIGNIFICANT_BITS` bits, ties to even; NaN and infinity stay."""
    drop = 24 - SIGNIFICANT_BITS
    bits = values.view(np.uint32)
    rounded = ((bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)) >> drop) << drop
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def regrid(values: NDArray[Any], dt_from: float, frames: int, dt_ns: int) -> NDArray[np.float32]:
    """A ready-made spectrogram [shape=(frequency, frame)] at a whole multiple of its own step, by averaging frames.

    Raises
    ------
    UsageError
        If the bin width is no whole multiple of the spectrogram's step.
    """
    step_ns = round(dt_from * NS_PER_S)
    factor, rest = divmod(dt_ns, step_ns)
    if rest or not factor:
        raise UsageError(
            f"dt={dt_ns / 1e6:g} ms: the published spectrogram has frames of {step_ns / 1e6:g} ms and can only go to "
            f"whole multiples of that; a finer dt needs the waveforms"
        )
    out = np.full((len(values), frames), np.nan, np.float32)
    whole = min(frames, -(-values.shape[1] // factor))
    padded = np.full((len(values), whole * factor), np.nan)
    kept = min(values.shape[1], whole * factor)
    padded[:, :kept] = values[:, :kept]
    blocks = padded.reshape(len(values), whole, factor)
    count = np.isfinite(blocks).sum(-1)
    out[:, :whole] = np.where(count > 0, np.nansum(blocks, -1) / np.maximum(count, 1), np.nan)
    return out
