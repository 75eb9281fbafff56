"""Populations of linear-nonlinear-Poisson neurons that listen to synthesised sounds, for any layout of raw files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.simulate.birds import MEMORY, STEP, Floats, ReceptiveField, noise, song, spectrogram

if TYPE_CHECKING:
    from collections.abc import Sequence

Rng = np.random.Generator


@dataclass(frozen=True)
class Sound:
    """A sound, and what the simulated neurons hear of it.

    Attributes
    ----------
    samples : ndarray of float [shape=(n,)]
        Between -1 and 1.
    rate : float
        Hz.
    frequencies : ndarray [shape=(frequency,)]
        Hz.
    heard : ndarray [shape=(frequency, time)]
        One value a ms, from onset to `birds.POST` after the end.
    """

    samples: Floats
    rate: float
    frequencies: Floats
    heard: Floats

    @property
    def seconds(self) -> float:
        """Length in s."""
        return len(self.samples) / self.rate


def sound(rng: Rng, kind: str, rate: float, seconds: float) -> Sound:
    """Synthesise one: a ``song`` (also of calls, if it is short) or a modulation-limited ``noise``, 16 bits deep."""
    made = (noise if kind == "noise" else song)(rng, rate, seconds)
    samples = np.rint(made * 32767) / 32768
    return Sound(samples, rate, *spectrogram(samples, rate))


def fields(rng: Rng, count: int, latency: tuple[float, float] = (0.01, 0.03)) -> list[ReceptiveField]:
    """Receptive fields of all frequencies between 0.8 and 6 kHz, and latencies in s."""
    return [
        ReceptiveField(
            frequency=float(800 * 2 ** rng.uniform(0, 2.9)),
            latency=float(rng.uniform(*latency)),
            octaves=float(rng.uniform(0.3, 0.6)),
            width=float(rng.uniform(0.005, 0.009)),
            ripples=float(rng.uniform(0, 0.4)),
            modulation=float(rng.uniform(25, 45)),
            spontaneous=float(rng.uniform(2, 25)),
            gain=float(rng.uniform(10, 50)),
        )
        for _ in range(count)
    ]


def drives(field: ReceptiveField, sounds: Sequence[Sound]) -> list[Floats]:
    """What a field makes of each sound [shape=(time,)], one value a ms, with the deviation 1 over all of them."""
    out = []
    for each in sounds:
        kernel = field.weights(each.frequencies, np.arange(0, MEMORY, STEP))
        total = np.zeros(each.heard.shape[1])
        for lag in range(kernel.shape[1]):
            total[lag:] += kernel[:, lag] @ each.heard[:, : each.heard.shape[1] - lag]
        out.append(total)
    scale = np.std(np.concatenate(out))
    return [drive / scale for drive in out]


def rates(field: ReceptiveField, sounds: Sequence[Sound]) -> list[Floats]:
    """Firing rates in spikes/s to each sound [shape=(time,)], one value a ms."""
    return [np.maximum(0.0, field.spontaneous + field.gain * drive) for drive in drives(field, sounds)]


def trials(rng: Rng, rate: Floats, repeats: int, spontaneous: float, before: float, end: float) -> list[Floats]:
    """Spike times of each repeat in s, ascending, from -`before` to `end`; outside `rate` it is `spontaneous`."""
    count = round((before + end) / STEP)
    whole = np.full(count, spontaneous)
    first = round(before / STEP)
    known = min(len(rate), count - first)
    whole[first : first + known] = rate[:known]
    out = []
    for counts in rng.poisson(whole * STEP, (repeats, count)):
        # microseconds drawn as integers, so that no time is rounded into the next millisecond
        micro = (np.repeat(np.arange(count) - first, counts) * 1000) + rng.integers(0, 1000, int(counts.sum()))
        out.append(np.sort(micro) / 1e6)
    return out


def pcm(samples: Floats) -> Any:
    """Samples as 16-bit integers."""
    return np.rint(samples * 32768).astype("<i2")
