"""The recent past of a sound beside each of its bins: the columns that an STRF is fitted to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube import limits
from strfcube.analysis.matching import told
from strfcube.analysis.transform import blockwise
from strfcube.errors import UsageError
from strfcube.grid import LABEL_SLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOM = 64_000_000  # bytes of a table at a time


def lagged(
    stimulus: xr.DataArray, dt_ms: float, lag_ms: float = 100.0, silence: float | xr.DataArray | None = None
) -> xr.DataArray:
    """Spectrograms with a dimension for the time that has passed: a design matrix, once it is stacked.

    Parameters
    ----------
    stimulus : xarray.DataArray [dims=(stim, frequency, time)]
        NaN past the end of a sound.
    dt_ms : float
        Bin width in ms.
    lag_ms : float
        Lags go from 0 up to, and without, this many ms.
    silence : float or xarray.DataArray [dims=(frequency,)], optional
        What was heard before a sound, and in bands that it lacks. Default: the least value of each band, which is
        silence on any scale. What is predicted takes that of what was fitted.

    Returns
    -------
    xarray.DataArray [dims=(stim, frequency, lag, time)]
        Lazy where the input is; ``lag`` in s. NaN past the end of a sound, and where nobody knows what came before:
        the first bins of a cube that was cut in time.

    Raises
    ------
    UsageError
        If `lag_ms` is no time, `silence` is of other bands, a sound has a gap or an infinite value, or a pool has
        sounds of other bands or units than others.
    """
    stimulus = of_one_axis(stimulus)
    steps, whole = lags(lag_ms, dt_ms), starts_at_onset(stimulus, dt_ms)
    dtype = stimulus.dtype if stimulus.dtype.kind == "f" else np.dtype(np.float32)
    bands = {"frequency": stimulus["frequency"].variable} if "frequency" in stimulus.coords else {}
    zero = xr.DataArray(np.zeros(stimulus.sizes["frequency"]), bands, ["frequency"])
    try:
        level = quietest(stimulus) if silence is None else (zero + silence).astype(dtype)
    except (TypeError, ValueError):
        raise UsageError(f"lagged: silence={told(silence)}: expected a number, or one of each band") from None
    if level.sizes != zero.sizes:
        raise UsageError("lagged: silence is of other frequencies than the spectrograms")

    def table(sounds: NDArray[Any], quiet: NDArray[Any]) -> NDArray[Any]:
        out = np.full((*sounds.shape[:-1], len(steps), sounds.shape[-1]), np.nan, dtype)
        for at in np.ndindex(sounds.shape[:-2]):
            known = heard(sounds[at])
            out[at][..., :known] = past(sounds[at][:, :known], steps, quiet, whole=whole)
        return out

    sizes = {"frequency": stimulus.sizes["frequency"], "lag": len(steps), "time": stimulus.sizes["time"]}
    core = [["frequency", "time"], ["frequency"]]
    out = blockwise(table, [stimulus.astype(dtype, copy=False), level.astype(dtype)], core, sizes, dtype)
    return out.assign_coords(stimulus.coords | lag_axis(steps, dt_ms)).assign_attrs(stimulus.attrs).rename("lagged")


def lags(lag_ms: float, dt_ms: float) -> NDArray[np.int64]:
    """Bins from 0 up to, and without, a lag; both in ms.

    Raises
    ------
    UsageError
        If it is no time above 0.
    """
    try:
        count = 0 if isinstance(lag_ms, bool) else math.ceil(float(lag_ms) / dt_ms - 1e-6)
    except (TypeError, ValueError, OverflowError):
        count = 0
    if count < 1 or count * dt_ms > limits.SECONDS * 1000:
        raise UsageError(f"lag_ms={lag_ms!r}: expected a time in ms, more than 0")
    return np.arange(count)


def lag_axis(steps: NDArray[np.int64], dt_ms: float) -> dict[str, Any]:
    """The coordinate of lags, in s."""
    return {"lag": ("lag", steps * dt_ms / 1000, {"long_name": "time that has passed", "units": "s"})}


def quietest(stimulus: xr.DataArray) -> xr.DataArray:
    """The least value of each band [dims=(frequency,)]; 0 of one that no sound has."""
    found = stimulus.min(["stim", "time"]).fillna(0).compute()
    return found.drop_vars([n for n, c in found.coords.items() if not c.dims])


def of_one_axis(stimulus: xr.DataArray) -> xr.DataArray:
    """Spectrograms whose bands and unit are the same in all sounds, in a pool that goes by numbers of bands as well.

    Raises
    ------
    UsageError
        If they are not.
    """
    if "band_frequency" not in stimulus.coords:
        return stimulus
    bands, unit = stimulus["band_frequency"].transpose("stim", "frequency"), str(stimulus.attrs.get("units", ""))
    units = set(stimulus["stimulus_units"].values.tolist()) if "stimulus_units" in stimulus.coords else {unit}
    if not np.allclose(bands, bands[:1], rtol=1e-4, atol=0) or (unit == "mixed" and len(units) > 1):
        raise UsageError(
            "the sounds of this pool are of different bands or units, and no receptive field is of several: take those "
            "of one of its cubes, ds.strf.sel(stim_dataset=...)"
        )
    one = stimulus.drop_vars("band_frequency").assign_coords(frequency=("frequency", bands.values[0], bands.attrs))
    return one.assign_attrs(units=units.pop() if unit == "mixed" else unit)


def starts_at_onset(stimulus: xr.DataArray, dt_ms: float) -> bool:
    """Whether nothing came before the first bin."""
    return "time" not in stimulus.coords or float(stimulus["time"][0]) * 1000 < LABEL_SLACK * dt_ms


def heard(sound: NDArray[Any], name: str = "of a stimulus") -> int:
    """Bins of a sound [shape=(frequency, time)].

    Raises
    ------
    UsageError
        If it has a gap, or an infinite value.
    """
    if np.isinf(sound).any():
        raise UsageError(
            f"the spectrogram {name} has infinite values, such as the logarithm of 0; put a floor under it before: "
            "numpy.log(ds.stimulus + 1e-3), say"
        )
    there = np.isfinite(sound).any(0)
    known = int(there.sum())
    if not there[:known].all():
        raise UsageError(f"the spectrogram {name} has no value in bin {int(there.argmin())}, though it goes on")
    return known


def past(
    sound: NDArray[Any], steps: NDArray[np.int64], quiet: NDArray[Any], *, whole: bool, bins: slice | None = None,
    mean: NDArray[Any] | None = None, deviation: NDArray[Any] | None = None,
) -> NDArray[Any]:  # fmt: skip
    """A sound, and what it was each number of bins ago [shape=(frequency, lag, time)].

    Parameters
    ----------
    sound : ndarray [shape=(frequency, time)]
    steps : ndarray of int [shape=(lag,)]
        From 0 on.
    quiet : ndarray [shape=(frequency,)]
        In bands that it lacks, and before it.
    whole : bool
        Whether it was quiet before its first bin; else nobody knows, and that is NaN.
    bins : slice, optional
        Which bins of it; default: all.
    mean, deviation : ndarray [shape=(frequency,)], optional
        What is subtracted from each band, and what it is divided by then.
    """
    first, last = (0, sound.shape[1]) if bins is None else (bins.start, bins.stop)
    before = max(0, len(steps) - 1 - first)  # bins of the past that lie before the sound
    heard_then = sound[:, first - (len(steps) - 1 - before) : last]
    full = np.empty((len(sound), before + heard_then.shape[1]), sound.dtype)
    full[:, :before] = quiet[:, None] if whole else np.nan
    full[:, before:] = np.where(np.isfinite(heard_then), heard_then, quiet[:, None])
    if mean is not None and deviation is not None:
        full = (full - mean[:, None]) / deviation[:, None]
    return np.array(np.lib.stride_tricks.sliding_window_view(full, last - first, axis=1)[:, ::-1])


def pieces(bins: int, columns: int) -> list[slice]:
    """Bins of a sound, as many at a time as there is room for in a table of some columns."""
    step = max(1, ROOM // (8 * columns))
    return [slice(first, min(first + step, bins)) for first in range(0, bins, step)]
