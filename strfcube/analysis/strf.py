"""Spectro-temporal receptive fields (STRFs): ridge regression of PSTHs on the recent past of a sound.

``r(t) = offset + sum over f, k of strf(f, k) s(f, t - k)``, with a penalty on the size of the weights. Machens, Wehr
and Zador (2004, doi 10.1523/JNEUROSCI.4445-03.2004) penalise their roughness as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.analysis.lags import heard, lag_axis, lags, of_one_axis, past, pieces, quietest, starts_at_onset
from strfcube.analysis.matching import in_order, told
from strfcube.analysis.ridge import Ridge
from strfcube.analysis.transform import blockwise
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

log = logging.getLogger("strfcube")

ALPHAS = tuple(10.0**k for k in np.arange(-5, 1.5, 0.5))
_OWN = ("weights", "offset", "alpha", "cc", "silence")
_READ = 64_000_000  # bytes of PSTHs that are read at a time


def fit(
    psth: xr.DataArray, stimulus: xr.DataArray, dt_ms: float, lag_ms: float = 100.0,
    alphas: float | Sequence[float] = ALPHAS, folds: int | Sequence[Any] | xr.DataArray = 5,
) -> xr.Dataset:  # fmt: skip
    """Fit an STRF to each neuron, with the penalty that predicts left-out stimuli best.

    Parameters
    ----------
    psth : xarray.DataArray [dims=(stim, neuron, time)]
        Means over repeats, NaN where nothing was observed. A bin counts once, however many repeats it is the mean of.
    stimulus : xarray.DataArray [dims=(stim, frequency, time)]
        NaN past the end of a sound. A band that a sound lacks is silent in it; a stimulus without any is left out.
    dt_ms : float
        Bin width in ms.
    lag_ms : float
        Lags go from 0 up to, and without, this many ms.
    alphas : float or sequence of float
        Penalties to choose from: ``alpha n |w|^2`` is added to the squared errors of n bins, w being the weights of
        bands that are scaled to a standard deviation of 1. The one with the highest ``cc`` is taken.
    folds : int, or sequence or xarray.DataArray [shape=(stim,)]
        Into how many parts the stimuli are divided in turn, or the part that each belongs to. Each part is predicted
        from the others.

    Returns
    -------
    xarray.Dataset [dims=(neuron, frequency, lag)]
        ``weights``, in the unit of the PSTH over that of the spectrogram; ``offset`` and ``alpha`` of each neuron;
        ``cc``, the correlation of the PSTH with what is predicted of stimuli that were left out, of bins of all of
        them, about the mean of each: the highest of those of all `alphas`, and so a little too high; ``silence``, the
        level of each band before a sound. A neuron that heard the stimuli of one part alone is NaN, and a message says
        so, but for a single alpha, where ``cc`` alone is.

    Raises
    ------
    UsageError
        If a parameter is none, no stimulus has both a spectrogram and a response, the stimuli or times of the two
        differ, a sound has a gap or an infinite value, or a pool has sounds of other bands or units than others.
    SelectionError
        If `folds` has labels that are not those of the stimuli.
    """
    stimulus = of_one_axis(stimulus)
    _refuse_others(psth, stimulus)
    penalties, part, steps = _penalties(alphas), _parts(folds, psth), lags(lag_ms, dt_ms)
    quiet = quietest(stimulus)
    sounds = _Sounds.of(stimulus, steps, quiet.values, whole=starts_at_onset(stimulus, dt_ms))
    psth = psth.transpose("stim", "neuron", "time")
    count, bands = psth.sizes["neuron"], stimulus.sizes["frequency"]
    many = max(1, _READ * len(part) // max(1, psth.nbytes))
    with Ridge(part, sounds, bands * len(steps), count) as ridge:
        for first in range(0, len(part), many):
            ridge.add(first, psth.isel(stim=slice(first, first + many)).values)
        if not ridge.bins.any():
            cut = "" if sounds.whole else f" after the first {len(steps) - 1} bins, whose past was cut off"
            raise UsageError(f"fit_strf: no stimulus has both a spectrogram and a response{cut}")
        weights, offset, alpha, cc = ridge.solve(penalties)
    strf = weights.T.reshape(count, bands, len(steps)) / sounds.deviation[:, None]
    offset = offset - strf.sum(2) @ sounds.mean  # the tables are of bands about their means
    unit, of_sound = (str(a.attrs.get("units", "")) for a in (psth, stimulus))
    shape = ("neuron", "frequency", "lag")
    result = xr.Dataset(
        {
            "weights": (shape, strf, {"long_name": "STRF", "units": f"{unit} / ({of_sound})"}),
            "offset": ("neuron", offset, {"long_name": "response to a spectrogram of 0", "units": unit}),
            "alpha": ("neuron", alpha, {"long_name": "penalty", "units": "1"}),
            "cc": ("neuron", cc, {"long_name": "CC with stimuli that were left out", "units": "1"}),
            "silence": ("frequency", quiet.values, {"long_name": "level of silence", "units": of_sound}),
        },
        {n: c.variable for n, c in psth.coords.items() if c.dims == ("neuron",) and n not in _OWN}
        | lag_axis(steps, dt_ms),
        {
            "estimator": f"ridge regression, alpha of {part.max() + 1}-fold cross-validation over stimuli",
            "psth": str(psth.attrs.get("estimator", "")), "dt_ms": dt_ms, "units": unit, "stimulus_units": of_sound,
        },
    )  # fmt: skip
    if "frequency" in stimulus.coords:
        result = result.assign_coords(frequency=stimulus["frequency"].variable)
    if lost := int(np.isnan(alpha).sum()):
        log.warning(
            "fit_strf: %d of %d neurons are NaN: they heard stimuli of one part alone, or none; other folds may divide "
            "what they heard, and a single alpha needs none", lost, count,
        )  # fmt: skip
    return result


def predict(
    fitted: xr.Dataset, stimulus: xr.DataArray, dt_ms: float, neurons: Sequence[str] | None = None
) -> xr.DataArray:
    """What STRFs say of sounds.

    Parameters
    ----------
    fitted : xarray.Dataset
        As `fit` gives it.
    stimulus : xarray.DataArray [dims=(stim, frequency, time)]
        Of the same bands, in the same unit.
    dt_ms : float
        Bin width in ms, the same.
    neurons : sequence of str, optional
        Labels, in order; those that were not fitted are passed over. Default, and where none was: all of `fitted`.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron, time)]
        In the unit of the PSTHs that were fitted, float32, lazy where `stimulus` is. It may be negative, which no rate
        is: ``.clip(min=0)``. NaN past the end of a sound.

    Raises
    ------
    UsageError
        If `fitted` is no such Dataset, or is of other bands, bins or units; if a sound has a gap or an infinite value.
    """
    needed = ("weights", "offset", "silence")
    if not isinstance(fitted, xr.Dataset) or not all(n in fitted for n in needed):
        raise UsageError(f"predict: expected what ds.strf.fit_strf gave, a Dataset with {', '.join(needed)}")
    stimulus = of_one_axis(stimulus)
    if "neuron" not in fitted["weights"].dims:  # a single one
        fitted = fitted.expand_dims("neuron").assign(silence=fitted["silence"])
    if neurons is not None and "neuron" in fitted.coords:
        there = fitted.get_index("neuron")
        if not there.is_unique:
            raise UsageError(f"predict: labels of neurons come twice, such as {there[there.duplicated()][0]!r}")
        at = there.get_indexer(neurons)
        fitted = fitted.isel(neuron=at[at >= 0]) if (at >= 0).any() else fitted
    for name, there, here in (
        ("dt_ms", fitted.attrs.get("dt_ms"), dt_ms),
        ("the unit of the spectrograms", fitted.attrs.get("stimulus_units"), str(stimulus.attrs.get("units", ""))),
    ):
        there = there.item() if isinstance(there, np.generic) else there
        if there is not None and there != here:
            raise UsageError(f"predict: {name} was {there!r} where the STRFs were fitted, and is {here!r} here")
    if not _same_bands(fitted, stimulus):
        raise UsageError("predict: the STRFs are of other frequencies than the spectrograms")
    steps, whole = np.rint(fitted["lag"].values * 1000 / dt_ms).astype(np.int64), starts_at_onset(stimulus, dt_ms)
    if not np.array_equal(steps, np.arange(len(steps))):
        raise UsageError(f"predict: lags of the STRFs are not the bins of {dt_ms:g} ms from 0 on")
    strf = fitted["weights"].transpose("neuron", "frequency", "lag").values.astype(np.float64)
    weights = strf.reshape(len(strf), -1)
    offset, quiet = (fitted[n].values.astype(np.float64) for n in ("offset", "silence"))

    def said(sounds: NDArray[Any]) -> NDArray[np.float32]:
        out = np.full((*sounds.shape[:-2], len(weights), sounds.shape[-1]), np.nan, np.float32)
        for at in np.ndindex(sounds.shape[:-2]):
            for bins in pieces(heard(sounds[at]), weights.shape[1]):
                rows = past(sounds[at], steps, quiet, whole=whole, bins=bins).astype(np.float64)
                out[at][:, bins] = weights @ rows.reshape(weights.shape[1], -1) + offset[:, None]
        return out

    sizes = {"neuron": len(weights), "time": stimulus.sizes["time"]}
    out = blockwise(said, [stimulus], [["frequency", "time"]], sizes, np.float32)
    coords = {n: c for n, c in stimulus.coords.items() if set(c.dims) <= {"stim", "time"}}
    coords |= {n: c for n, c in fitted.coords.items() if c.dims == ("neuron",)}
    attrs = {"long_name": "prediction", "units": fitted.attrs.get("units", "")}
    return out.assign_coords(coords).rename("prediction").assign_attrs(attrs)


def _refuse_others(psth: xr.DataArray, stimulus: xr.DataArray) -> None:
    """Rows and bins are taken by position, which is right where both have the same."""
    for dim in ("stim", "time"):
        same = psth.sizes[dim] == stimulus.sizes[dim]
        if same and dim in psth.coords and dim in stimulus.coords:
            same = psth.get_index(dim).equals(stimulus.get_index(dim))
        if not same:
            raise UsageError(f"fit_strf: labels of '{dim}' of the PSTHs and of the spectrograms differ, or their order")


def _same_bands(fitted: xr.Dataset, stimulus: xr.DataArray) -> bool:
    if fitted.sizes["frequency"] != stimulus.sizes["frequency"]:
        return False
    labelled = "frequency" in fitted.coords and "frequency" in stimulus.coords
    return not labelled or np.allclose(fitted["frequency"], stimulus["frequency"], rtol=1e-6)


def _penalties(alphas: Any) -> NDArray[np.float64]:
    """Penalties, the strongest first: of a neuron that never fired all are as good."""
    try:
        found = np.unique(np.asarray(alphas, np.float64))[::-1]
    except (TypeError, ValueError):
        found = np.zeros(0)
    if not len(found) or not (np.isfinite(found) & (found > 0)).all():
        raise UsageError(f"alphas={alphas!r}: expected a number above 0, or several")
    return found


def _parts(folds: Any, psth: xr.DataArray) -> NDArray[np.intp]:
    """To which part each stimulus belongs, from 0."""
    count = psth.sizes["stim"]
    if isinstance(folds, int | np.integer) and not isinstance(folds, bool) and folds >= 2:
        return np.arange(count) % min(int(folds), count)
    given = np.asarray(in_order(folds, "stim", psth["stim"].values, "folds"))
    if given.shape != (count,):
        raise UsageError(
            f"folds={told(folds)}: expected a whole number, 2 or more, or the part of each of {count} stimuli"
        )
    return np.unique(given.astype(str), return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class _Sounds:
    """Spectrograms, and their lagged tables, of bands about their means that are scaled to a standard deviation of 1.

    Attributes
    ----------
    values : ndarray of float [shape=(stim, frequency, time)]
    bins : list of int
        Of each stimulus.
    steps : ndarray of int [shape=(lag,)]
    quiet, mean, deviation : ndarray of float [shape=(frequency,)]
        Infinite is the deviation of a band that says nothing.
    whole : bool
        Whether nothing came before the first bin.
    """

    values: NDArray[Any]
    bins: list[int]
    steps: NDArray[np.int64]
    quiet: NDArray[Any]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    whole: bool

    @classmethod
    def of(cls, stimulus: xr.DataArray, steps: NDArray[np.int64], quiet: NDArray[Any], *, whole: bool) -> _Sounds:
        """Spectrograms of a cube."""
        values, labels = stimulus.transpose("stim", "frequency", "time").values, stimulus["stim"].values
        bins = [heard(sound, f"of stim={label!r}") for sound, label in zip(values, labels, strict=True)]
        bands = [band[np.isfinite(band)].astype(np.float64) for band in np.moveaxis(values, 1, 0)]
        mean = np.array([band.mean() if len(band) else 0.0 for band in bands])
        deviation = np.array([band.std() if len(band) else 0.0 for band in bands])
        deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
        return cls(values, bins, steps, quiet, mean, deviation, whole)

    def usable(self, stim: int) -> NDArray[np.bool_]:
        """Bins of a stimulus whose past is known [shape=(bin,)]."""
        known = np.ones(self.bins[stim], bool)
        known[: 0 if self.whole else len(self.steps) - 1] = False
        return known

    def table(self, stim: int, bins: slice) -> NDArray[np.float64]:
        """Some bins of one stimulus [shape=(frequency * lag, bin)]; NaN where the past is not known."""
        rows = past(
            self.values[stim], self.steps, self.quiet, whole=self.whole, bins=bins, mean=self.mean,
            deviation=self.deviation,
        )  # fmt: skip
        return rows.reshape(len(self.mean) * len(self.steps), -1)
