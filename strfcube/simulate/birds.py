"""Simulated birds whose receptive fields are known, written as raw files in the layout of CRCNS aa-1.

Each neuron is linear-nonlinear-Poisson: a spectrotemporal receptive field weighs the sound of the last 60 ms, and the
sum, rectified, is the rate at which spikes fall at random. The spectrogram that drives it is computed here, every
millisecond, with windows centred on the exact instant, and shares no code with the front ends of the cube: that a cube
gives the receptive fields back is then a proof that its sounds and responses are aligned, and not an assumption.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = NDArray[np.float64]

STEP = 0.001  # s: of the grid on which rates are computed
MEMORY = 0.06  # s: the longest lag of a receptive field
PRE, POST = 1.0, 0.3  # s recorded before and after the sound
_BANDS = 32
_WINDOW = 0.01  # s


@dataclass(frozen=True)
class ReceptiveField:
    """A neuron's field: a Gabor function of log frequency times one of lag; it peaks at `frequency` and `latency`.

    Attributes
    ----------
    frequency, latency : float
        Where it peaks, in Hz and s.
    octaves, width : float
        Standard deviations of its Gaussian envelope, in octaves and s.
    ripples, modulation : float
        Density in cycles/octave and rate in Hz of the waves within the envelopes: inhibition beside and after the peak.
    spontaneous, gain : float
        Rate without sound, and standard deviation of the rate that sound adds before rectification, in spikes/s.
    """

    frequency: float
    latency: float
    octaves: float = 0.4
    width: float = 0.006
    ripples: float = 0.0
    modulation: float = 40.0
    spontaneous: float = 40.0
    gain: float = 60.0

    def weights(self, frequencies: Any, lags: Any) -> Floats:
        """Values of the field.

        Parameters
        ----------
        frequencies : array_like [shape=(frequency,)]
            Hz.
        lags : array_like [shape=(lag,)]
            Time from sound to response, in s.

        Returns
        -------
        ndarray [shape=(frequency, lag)]
        """
        octave = np.log2(np.asarray(frequencies, np.float64) / self.frequency)[:, None]
        late = np.asarray(lags, np.float64)[None, :] - self.latency
        spectral = np.exp(-0.5 * (octave / self.octaves) ** 2) * np.cos(2 * np.pi * self.ripples * octave)
        temporal = np.exp(-0.5 * (late / self.width) ** 2) * np.cos(2 * np.pi * self.modulation * late)
        return np.asarray(spectral * temporal)


# Two neurons a bird, recorded at the same time on rig A in MLd and rig B in field L. The third bird's second neuron
# fires so rarely that many of its trials have no spike; the fourth bird's second neuron never fires.
BIRDS: Mapping[str, tuple[str, ReceptiveField]] = {
    "sim1_1_A": ("MLd", ReceptiveField(2000, 0.010)),
    "sim1_1_B": ("Field_L", ReceptiveField(3000, 0.020, ripples=0.4)),
    "sim2_1_A": ("MLd", ReceptiveField(1200, 0.010, octaves=0.5)),
    "sim2_1_B": ("Field_L", ReceptiveField(2500, 0.030, width=0.008, modulation=30, ripples=0.4)),
    "sim3_1_A": ("MLd", ReceptiveField(4000, 0.010)),
    "sim3_1_B": ("Field_L", ReceptiveField(1600, 0.020, spontaneous=0.3, gain=0.6)),
    "sim4_1_A": ("MLd", ReceptiveField(5000, 0.020)),
    "sim4_1_B": ("Field_L", ReceptiveField(2000, 0.020, spontaneous=0, gain=0)),
}
NO_SONG = ("sim3_1_B",)


def write_demo(
    folder: Path | str,
    seed: int = 0,
    *,
    rate: float = 32000.0,
    seconds: float = 2.0,
    songs: int = 8,
    noises: int = 8,
    repeats: int = 20,
) -> None:
    """Write the raw files of the simulated birds, and the truth beside them.

    Parameters
    ----------
    folder : path
        Is made. Gets ``all_stims``, ``Field_L_cells`` and ``MLd_cells`` in the layout of aa-1, ``about.json`` (species)
        and ``truth.json`` (`read_truth`).
    seed : int
        The same seed, the same files.
    rate : float
        Sampling rate in Hz; a wav's header can hold only the nearest whole number.
    seconds : float
        Length of a sound, about.
    songs, noises : int
        Number of synthesised songs, and of modulation-limited noises.
    repeats : int
        Trials a pair.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    sounds: dict[str, list[tuple[str, Floats]]] = {"conspecific": [], "flatrip": []}
    frequencies = np.empty(0)
    for word, make, count in (("conspecific", song, songs), ("flatrip", noise, noises)):
        for _ in range(count):
            samples = np.rint(make(rng, rate, seconds * rng.uniform(0.9, 1.1)) * 32767).astype("<i2")
            name = write_wav(folder / "all_stims" / word, samples, round(rate))
            frequencies, heard = spectrogram(samples / 32768.0, rate)
            sounds[word].append((name, heard))
    for cell, (area, field) in BIRDS.items():
        kernel = field.weights(frequencies, np.arange(0, MEMORY, STEP))
        drives = {word: [_drive(kernel, heard) for _, heard in many] for word, many in sounds.items()}
        scale = np.std(np.concatenate([drive for many in drives.values() for drive in many]))
        for word, many in drives.items():
            if cell in NO_SONG and word == "conspecific":
                continue
            target = folder / f"{area}_cells" / cell / word
            target.mkdir(parents=True)
            for k, (drive, (name, _)) in enumerate(zip(many, sounds[word], strict=True), start=1):
                rates = np.maximum(0.0, field.spontaneous + field.gain * drive / scale)
                (target / f"stim{k}").write_text(f"{name}\n", "ascii", newline="\n")
                (target / f"spike{k}").write_text(_trials(rng, rates, repeats), "ascii", newline="\n")
    about = {"species": "simulated zebra finch", "sex": "", "state": "simulated", "recorded_after": POST}
    truth = {cell: dataclasses.asdict(field) for cell, (_, field) in BIRDS.items()}
    for file, content in (("about.json", about), ("truth.json", {"seed": seed, "fields": truth})):
        (folder / file).write_text(json.dumps(content, indent=1) + "\n", "utf-8", newline="\n")


def read_truth(folder: Path | str) -> dict[str, ReceptiveField]:
    """Read the receptive fields that `write_demo` wrote, by cell."""
    fields = json.loads((Path(folder) / "truth.json").read_text("utf-8"))["fields"]
    return {cell: ReceptiveField(**values) for cell, values in fields.items()}


def spectrogram(samples: Floats, rate: float) -> tuple[Floats, Floats]:
    """Compute what the simulated neurons hear: cube root of mel band power in 10 ms around each millisecond's centre.

    Parameters
    ----------
    samples : ndarray of float [shape=(n,)]
        Silence before and after.
    rate : float
        Hz; the window is centred on the exact instant, between samples where need be.

    Returns
    -------
    frequencies : ndarray [shape=(32,)]
        Centre frequencies in Hz, equally spaced on the HTK mel scale up to half the rate.
    values : ndarray [shape=(32, time)]
        From onset to `POST` after the end.
    """
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), _BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    count = int((len(samples) / rate + POST) / STEP)
    centre = (np.arange(count) + 0.5) * STEP * rate
    half = _WINDOW * rate / 2
    index = np.ceil(centre - half).astype(np.int64)[:, None] + np.arange(int(2 * half) + 1)
    offset = index - centre[:, None]
    window = np.where(np.abs(offset) <= half, 0.5 + 0.5 * np.cos(np.pi * offset / half), 0.0)
    inside = (index >= 0) & (index < len(samples))
    windowed = np.where(inside, samples[np.clip(index, 0, len(samples) - 1)], 0.0) * window
    size = 1 << (index.shape[1] - 1).bit_length() + 1
    power = np.abs(np.fft.rfft(windowed, size)) ** 2
    lines = np.fft.rfftfreq(size, 1 / rate)
    up = (lines - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - lines) / np.diff(edges)[1:, None]
    bank = np.maximum(0.0, np.minimum(up, down))
    return edges[1:-1], np.cbrt(bank @ power.T * (index.shape[1] / size))


def _drive(kernel: Floats, heard: Floats) -> Floats:
    """Sum over frequencies and lags of the kernel times the sound that long ago."""
    drive = np.zeros(heard.shape[1])
    for lag in range(kernel.shape[1]):
        drive[lag:] += kernel[:, lag] @ heard[:, : heard.shape[1] - lag]
    return drive


def _trials(rng: np.random.Generator, rates: Floats, repeats: int) -> str:
    """Poisson spikes as the text of a spike file; `rates` [shape=(time,)] in spikes/s, its first also before onset."""
    before = round(PRE / STEP)
    whole = np.concatenate([np.full(before, rates[0]), rates])
    lines = []
    for counts in rng.poisson(whole * STEP, (repeats, len(whole))):
        bins = np.repeat(np.arange(len(whole)) - before, counts)
        # thousandths of a ms drawn as integers, so that no time is rounded into the next millisecond
        thousandths = np.sort(bins * 1000 + rng.integers(0, 1000, len(bins)))
        lines.append("".join(f"{t / 1000:.3f} " for t in thousandths.tolist()) + "\n")
    return "".join(lines)


def song(rng: np.random.Generator, rate: float, seconds: float) -> Floats:
    """Syllables of 40 to 160 ms with gaps: harmonic stacks, sweeps and noise bursts."""
    samples = np.zeros(int(seconds * rate))
    start = int(0.01 * rate)
    while start < len(samples) - int(0.05 * rate):
        syllable = _syllable(rng, rate, rng.uniform(0.04, 0.16))[: len(samples) - start]
        samples[start : start + len(syllable)] = syllable * 10 ** rng.uniform(-0.5, 0)
        start += len(syllable) + int(rng.uniform(0.01, 0.05) * rate)
    return _level(samples)


def _syllable(rng: np.random.Generator, rate: float, seconds: float) -> Floats:
    time = np.arange(int(seconds * rate)) / rate
    ramp = np.minimum(1, np.minimum(time, seconds - time) / 0.005)
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(ramp * rng.normal(0, 0.3, len(time)))
    low, high = (400, 900) if kind == 1 else (1500, 6000)
    begin, end = rng.uniform(low, high, 2)
    phase = 2 * np.pi * np.cumsum(begin + (end - begin) * time / seconds) / rate
    highest = int(0.45 * rate / max(begin, end))
    tones = range(1, highest + 1) if kind == 1 else range(1, min(2, highest) + 1)
    wave_form = sum(rng.exponential() * np.cos(n * phase + rng.uniform(0, 2 * np.pi)) for n in tones)
    return np.asarray(ramp * wave_form / len(tones) ** 0.5)


def noise(rng: np.random.Generator, rate: float, seconds: float) -> Floats:
    """White noise with a random spectrotemporal envelope: 100 ripples of up to 80 Hz and 1.5 cycles/octave."""
    from scipy.signal import istft, stft

    n = int(seconds * rate)
    width = 2 * round(0.004 * rate)
    lines, times, carrier = stft(rng.normal(0, 1, n), rate, nperseg=width, noverlap=width // 2)
    octave = np.log2(np.maximum(lines, 250) / 250)[:, None]
    speed, density, phase = 2 * np.pi * rng.uniform([-80, 0, 0], [80, 1.5, 1], (100, 3)).T
    along, across = speed[:, None] * times + phase[:, None], density * octave
    level = np.cos(across) @ np.cos(along) - np.sin(across) @ np.sin(along)  # each ripple: the cosine of a sum
    level *= 10 / level.std()  # dB
    return _level(istft(carrier * 10 ** (level / 20), rate, nperseg=width, noverlap=width // 2)[1][:n])


def _level(sound: Floats) -> Floats:
    """Sound at an effective value of 0.1 of full scale, its rare peaks clipped."""
    return np.clip(0.1 * sound / np.std(sound), -0.99, 0.99)


def write_wav(folder: Path, samples: NDArray[Any], rate: int) -> str:
    """Write 16-bit samples under the MD5 of the file, and return the name."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    name = hashlib.md5(content.getvalue(), usedforsecurity=False).hexdigest().upper() + ".wav"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.getvalue())
    return name


def read_wav_samples(file: Path) -> tuple[Floats, float]:
    """Read what `write_wav` wrote: samples between -1 and 1, and their rate in Hz."""
    with wave.open(str(file), "rb") as opened:
        samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2") / 32768.0
        return samples, float(opened.getframerate())
