"""The waveform of a stimulus, from the group ``audio`` of the store, and its outline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.groups import has_group, open_group
from strfcube.cube.trials import origin_of_pair

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Wave:
    """A sound.

    Attributes
    ----------
    samples : ndarray of float [shape=(sample,)]
        Of whole numbers, 1 is full scale.
    rate : float
        Samples a second.
    onset : float
        Time of the first sample in s from stimulus onset.
    label : str
        What the samples are, with the unit that the cube states of them.
    """

    samples: NDArray[np.float64]
    rate: float
    onset: float
    label: str


def of_stim(ds: xr.Dataset, stim: int, neuron: int) -> Wave | None:
    """The sound of a pair; None where its cube was built without sounds, or has none of this stimulus."""
    origin = origin_of_pair(ds, stim, neuron)
    if isinstance(origin, str) or not has_group(origin.path, "audio"):
        return None
    audio, at = open_group(origin.path, "audio", origin.cache_dir), int(origin.stim[0])
    if at < 0:
        return None
    sizes = audio["row_size"].values.astype(np.int64)
    if not sizes[at]:
        return None
    first = int(sizes[:at].sum())
    samples = audio["samples"][first : first + int(sizes[at])].values
    onset = float(ds["sound_onset"].values[stim]) if "sound_onset" in ds.coords else 0.0
    units = str(audio["samples"].attrs.get("units", "as in the file"))
    label = f"amplitude ({units if samples.dtype.kind == 'f' else 'of full scale'})"
    return Wave(_full_scale(samples), float(audio["rate"].values[at]), onset, label)


def _full_scale(samples: NDArray[Any]) -> NDArray[np.float64]:
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    info = np.iinfo(samples.dtype)
    middle = 0 if info.min < 0 else (info.max + 1) // 2
    return (samples.astype(np.float64) - middle) / (info.max - middle)


def envelope(wave: Wave, points: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Time in s, lowest and highest sample of `points` pieces of a sound: what can be seen of 100,000 samples."""
    pieces = np.array_split(wave.samples, min(points, len(wave.samples)))
    starts = np.cumsum([0, *(len(p) for p in pieces[:-1])])
    middle = starts + np.array([len(p) for p in pieces]) / 2
    low, high = (np.array([f(p) for p in pieces]) for f in (np.min, np.max))
    return wave.onset + middle / wave.rate, low, high
