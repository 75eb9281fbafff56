"""How reliable a response is, and what a model can at best explain of it.

Functions of labelled arrays, lazy where the input is dask, for responses with dims (stim, neuron, repeat, time) in any
order, NaN where nothing was observed. The powers themselves are computed in `strfcube.analysis.powers`. A pair with a
single repeat has no noise estimate: NaN, never 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.analysis.powers import Per, floor, powers
from strfcube.analysis.predictions import aligned
from strfcube.analysis.transform import blockwise
from strfcube.cube.averages import blocks, mean
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAHANI = "Sahani and Linden 2003, unbiased variances"
_MEASURES = ("signal_power", "signal_power_se", "p_signal", "noise_power", "snr", "ccmax")
_POOLED = "; powers averaged over stimuli, weighted by duration"
_AVERAGED = "; covariances and variances averaged over stimuli, weighted by bins"


def _named(
    value: xr.DataArray, name: str, long_name: str, units: str, estimator: str, per: Per, pooled: str = _POOLED
) -> xr.DataArray:
    estimator += pooled if per == "neuron" else ""
    named = value.drop_vars(name, errors="ignore").rename(name)
    return named.assign_attrs(long_name=long_name, units=units, estimator=estimator)


def _squared(response: xr.DataArray) -> str:
    units = str(response.attrs.get("units", ""))
    return f"{units}^2" if units in ("count", "mV") else units


def measures(response: xr.DataArray, per: Per = "neuron") -> xr.Dataset:
    """Signal power with its standard error and significance, noise power, SNR and CCmax, in one pass.

    Parameters
    ----------
    response : xarray.DataArray [dims=(stim, neuron, repeat, time)]
        Counts or mV, NaN where nothing was observed.
    per : {"pair", "neuron"}
        For each (stim, neuron), or for each neuron from the averages of the powers over stimuli.

    Returns
    -------
    xarray.Dataset [dims=(stim, neuron) or (neuron,)]
        ``signal_power``, ``noise_power``, ``snr``, ``ccmax``, as the functions of these names give them;
        ``signal_power_se``, the standard error of the signal power over repetitions of the experiment; ``p_signal``,
        the probability of so much signal power or more where no part of the response repeats. A CCmax is 0 where the
        signal power is not positive, so that of noise alone its average is above 0: look at ``p_signal`` beside it.

    Notes
    -----
    The signal power is the mean of the covariances c of all pairs of repeats. Without a signal they are uncorrelated,
    and its variance is ``2 tr(N^2) / (R (R - 1) (T - 1)^2)`` with N the covariance of the noise over time (Sahani and
    Linden 2003), where ``tr(N^2)`` is estimated from the spectrum of differences of neighbouring repeats, so that
    noise may be correlated in time (Bartlett 1946, doi 10.2307/2983611). ``p_signal`` is that of the F ratio of an
    analysis of variance, bins against bins x repeats, with the degrees of freedom that give that variance (Box 1954,
    doi 10.1214/aoms/1177728786). With a signal a term is added that the jackknife over repeats gives.
    """
    p = powers(response.drop_vars(_MEASURES, errors="ignore"), per=per)  # coordinates of an earlier call, say
    signal, total, mean = p["signal_power"], p["total_power"], p["psth_power"]
    noise = total - signal
    # A signal power of 0 or less is an estimate of no signal: a ceiling of 0, not an unknown one. Of a PSTH that is
    # flat, too: what varies in every repeat and not in their mean has a negative one.
    ceiling: xr.DataArray = (signal.clip(min=0) / mean.where(mean > 0)) ** 0.5
    ceiling = ceiling.where((signal > 0) | ~(total > 0), 0.0)
    error: Any = np.maximum(p["variance"], p["null_variance"]) ** 0.5
    chance = xr.apply_ufunc(_chance, signal, noise, p["repeats"], p["null_variance"], dask="parallelized",
                            output_dtypes=[np.float64])  # fmt: skip
    unit = _squared(response)
    columns = [
        _named(signal, "signal_power", "signal power", unit, _SAHANI, per),
        _named(error, "signal_power_se", "standard error of the signal power", unit,
               "variance without signal from the noise spectrum, and with it from the jackknife over repeats", per),
        _named(chance, "p_signal", "probability of the signal power without a signal", "1",
               "F ratio of bins, degrees of freedom from the noise spectrum, Box 1954", per),
        _named(noise, "noise_power", "noise power", unit, _SAHANI, per),
        _named(signal / noise.where(noise != 0), "snr", "signal-to-noise ratio", "1", f"SP / NP, {_SAHANI}", per),
        _named(ceiling, "ccmax", "CCmax", "1", "sqrt(R SP / ((R - 1) SP + TP)), Schoppe et al. 2016", per),
    ]  # fmt: skip
    return xr.Dataset({str(c.name): c for c in columns})


def _chance(
    signal: NDArray[Any], noise: NDArray[Any], repeats: NDArray[Any], variance: NDArray[Any]
) -> NDArray[np.float64]:
    """Upper tail of the F ratio ``1 + R SP / NP`` whose signal power has this variance without a signal."""
    from scipy.special import fdtrc

    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.maximum(1 + repeats * signal / noise, 0)
        bins = 2 * noise**2 / (repeats * (repeats - 1) * variance)
        known = (noise > 0) & (variance > 0) & np.isfinite(bins)
        found = fdtrc(np.where(known, bins, 1), np.where(known, bins * (repeats - 1), 1), np.where(known, ratio, 1))
    return np.where(known, found, np.nan)


def signal_power(response: xr.DataArray, per: Per = "neuron") -> xr.DataArray:
    """Variance over time of the part of the response that repeats.

    ``SP = (R var(mean of the repeats) - TP) / (R - 1)`` with TP the mean over repeats of the variance over time, which
    is the mean covariance of all pairs of repeats (Sahani and Linden 2003, "How linear are auditory cortical
    responses?", NIPS 15). Unbiased, so it can be negative where there is no signal. Where windows differ, each pair of
    repeats counts with the bins that both observed.

    Parameters
    ----------
    response, per
        As for `measures`.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,)]
        In count^2 or mV^2 (of one bin). NaN where there are fewer than two repeats.
    """
    return measures(response, per)["signal_power"]


def noise_power(response: xr.DataArray, per: Per = "neuron") -> xr.DataArray:
    """Variance over time of the part that differs from repeat to repeat: ``NP = TP - SP`` (see `signal_power`).

    Parameters
    ----------
    response, per
        As for `measures`.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,)]
        In count^2 or mV^2 (of one bin). NaN where there are fewer than two repeats.
    """
    return measures(response, per)["noise_power"]


def snr(response: xr.DataArray, per: Per = "neuron") -> xr.DataArray:
    """Signal-to-noise ratio ``SP / NP`` of a single repeat (see `signal_power`); its inverse is the noise ratio.

    Per neuron it is the ratio of the averages over stimuli, not the average of the ratios, which a single stimulus
    with little noise or none would rule.

    Parameters
    ----------
    response, per
        As for `measures`.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,)]
        Dimensionless; NaN where there are fewer than two repeats, the response is constant (not one spike, a dead
        channel) or the repeats are identical.
    """
    return measures(response, per)["snr"]


def ccmax(response: xr.DataArray, per: Per = "neuron") -> xr.DataArray:
    """Highest correlation with the PSTH that any model can reach: that of the true mean response.

    ``CCmax = sqrt(R SP / ((R - 1) SP + TP)) = sqrt(SP / var(PSTH))`` (Schoppe, Harper, Willmore, King and Schnupp 2016,
    doi 10.3389/fncom.2016.00010), the closed form of the average over all ways to halve the repeats.

    Parameters
    ----------
    response, per
        As for `measures`.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,)]
        0 where the estimated signal power is not positive; NaN where there are fewer than two repeats, or the response
        is constant: not one spike, a dead channel.
    """
    return measures(response, per)["ccmax"]


def ccnorm(
    prediction: xr.DataArray | NDArray[Any], response: xr.DataArray, per: Per = "neuron",
    n_bins: xr.DataArray | None = None,
) -> xr.DataArray:  # fmt: skip
    """Correlation of a prediction with the PSTH, relative to the highest possible one.

    ``CCnorm = cov(prediction, PSTH) / sqrt(var(prediction) SP)``, which is the correlation divided by `ccmax` (Schoppe
    et al. 2016, doi 10.3389/fncom.2016.00010). Around 1 for the true mean response, and above 1 by chance.

    Parameters
    ----------
    prediction : xarray.DataArray or array [dims=(stim, neuron, time)]
        In any unit: offset and scale do not matter. Laid beside the responses by
        `strfcube.analysis.predictions.aligned`: labels in any order, times to the nearest bin. A bare array has no
        labels: its dims are taken to be in the order of the response's, which nothing tells where there are as many
        stimuli as neurons. Bins where it is not finite are left out. Further dims (models, say) are kept: each is
        scored for itself.
    response, per
        As for `measures`.
    n_bins : xarray.DataArray [dims=(stim,)], optional
        Bins of each stimulus; later ones need no prediction.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,), and further ones of the prediction]
        NaN where the estimated signal power is not positive, or the prediction is constant or too large for its
        variance to be a number.

    Raises
    ------
    UsageError
        If the prediction has another shape, or labels that are not the response's.

    Warns
    -----
    PartialPredictionWarning
        If it lacks stimuli, neurons or bins of the response.
    """
    beside, response = aligned(prediction, response, n_bins)
    p = powers(response, beside, per)
    scale = p["prediction_power"] * p["signal_power"]
    value = p["covariance"] / scale.where((scale > 0) & np.isfinite(scale)) ** 0.5
    return _named(value, "ccnorm", "CCnorm", "1", "cov / sqrt(var(prediction) SP), Schoppe et al. 2016", per)


def cc(
    prediction: xr.DataArray | NDArray[Any], response: xr.DataArray, per: Per = "neuron",
    n_bins: xr.DataArray | None = None,
) -> xr.DataArray:  # fmt: skip
    """Correlation of a prediction with the PSTH: ``CC = cov(prediction, PSTH) / sqrt(var(prediction) var(PSTH))``.

    The CC_abs of Schoppe et al. 2016 (doi 10.3389/fncom.2016.00010). A stimulus that was presented once has one, too.
    Per neuron it is that of covariances and variances averaged over stimuli, each weighted by its number of bins and
    about its own mean: where all were repeated, `ccnorm` times `ccmax`.

    Parameters
    ----------
    prediction, response, per, n_bins
        As for `ccnorm`. Responses are not smoothed: smooth them before, and the prediction, where that is wanted.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,), and further ones of the prediction]
        NaN where nothing was recorded, one of the two is constant (a neuron that never fired), or the prediction is too
        large for its variance to be a number.

    Raises
    ------
    UsageError
        As `ccnorm`.

    Warns
    -----
    PartialPredictionWarning
        As `ccnorm`.
    """
    if per not in ("pair", "neuron"):
        raise UsageError(f"per={per!r}, expected 'pair' or 'neuron'")
    beside, response = aligned(prediction, response, n_bins)
    psth = blockwise(
        mean, [response], [["repeat", "time"]], {"time": response.sizes["time"]}, np.float64, least=np.float64
    )
    table = blockwise(_beside_mean, [psth, beside], [["time"], ["time"]], {"_column": 4}, np.float64)
    bins, *powers_of = (table.isel(_column=i) for i in range(4))
    if per == "neuron" and "stim" in table.dims:
        weight = bins.where(bins >= 2)
        powers_of = [(power * weight).sum("stim", min_count=1) for power in powers_of]
    covariance, of_prediction, of_mean = powers_of
    scale = of_prediction * of_mean
    value = covariance / scale.where((scale > 0) & np.isfinite(scale)) ** 0.5
    return _named(
        value, "cc", "CC", "1", "cov / sqrt(var(prediction) var(PSTH)), CC_abs of Schoppe et al. 2016", per, _AVERAGED
    )


def _beside_mean(psth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Of PSTHs and predictions (..., time): bins, covariance, variances of prediction and PSTH.

    Of bins where both are. A variance that rounding alone leaves of a constant is 0.
    """
    psth, prediction = np.broadcast_arrays(psth, prediction)
    out = np.full((*psth.shape[:-1], 4), np.nan)
    for at in blocks((*psth.shape[:-1], 1, psth.shape[-1])):
        used = np.isfinite(psth[at]) & np.isfinite(prediction[at])
        bins = used.sum(-1)
        p, r = (_centred(values[at], used, bins) for values in (prediction, psth))
        out[at][..., 0] = bins
        for column, (a, b) in enumerate(((p, r), (p, p), (r, r)), 1):
            out[at][..., column] = np.where(bins < 2, np.nan, np.vecdot(a, b) / np.maximum(bins - 1.0, 1))
    return out


def _centred(values: NDArray[Any], used: NDArray[np.bool_], bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """Used values about their mean, 0 elsewhere and where they are constant but for rounding."""
    values = np.where(used, values, np.float64(0))
    centre = values.sum(-1) / np.maximum(bins, 1)
    values = np.where(used, values - centre[..., None], 0)
    known = np.vecdot(values, values) > bins * floor(centre, bins)
    return np.asarray(values * known[..., None])


def spontaneous_rate(
    trials: xr.Dataset, cube: xr.Dataset, window: tuple[float, float] | None = None, per: Per = "neuron"
) -> xr.DataArray:
    """Spikes per second in the silence before the sound: all spikes of the kept trials over all recorded seconds.

    Parameters
    ----------
    trials : xarray.Dataset
        The group ``trials`` of a cube.
    cube : xarray.Dataset
        The whole cube that it belongs to: its positions are what `trials` counts in.
    window : tuple of float, optional
        What was recorded around stimulus onset, in s, for the trials whose files do not state it.
    per : {"pair", "neuron"}
        For each (stim, neuron), or for each neuron.

    Returns
    -------
    xarray.DataArray [dims=(stim, neuron) or (neuron,)]
        In spikes/s. NaN where no time before the sound is known to have been recorded, and where there are no exact
        spike times (membrane potentials, published counts); the attribute ``comment`` says of how many, and why.

    Raises
    ------
    UsageError
        If `per` is neither.
    """
    return explained(with_reasons(trials, cube, window, per))


def with_reasons(
    trials: xr.Dataset,
    cube: xr.Dataset,
    window: tuple[float, float] | None,
    per: Per,
    use: NDArray[np.bool_] | None = None,
) -> xr.DataArray:
    """The same with a coordinate ``reason``, which `explained` puts in words once a part is taken of it.

    Parameters
    ----------
    use : ndarray of bool [shape=(trial,)], optional
        Trials that count; default: all.
    """
    if per not in ("pair", "neuron"):
        raise UsageError(f"per={per!r}, expected 'pair' or 'neuron'")
    if window is not None:
        window = _checked_window(window)
    kept = trials["kept"].values & (True if use is None else use)
    stim, neuron = trials["stim_index"].values, trials["neuron_index"].values
    onset = np.nan_to_num(cube["sound_onset"].values.astype(float))[stim]
    start, stop = trials["window_start"].values.astype(float), trials["window_stop"].values.astype(float)
    unstated = np.isnan(start)
    if window is not None:
        start, stop = np.where(unstated, window[0], start), np.where(np.isnan(stop), window[1], stop)
    else:
        start = np.where(unstated & (onset > 0), 0.0, start)  # silence within the stimulus is in the cube's own bins
    stop = np.fmin(onset, stop)
    usable = kept & trials["exact"].values & (stop > start)
    spikes = _count(trials, np.where(usable, start, 0), np.where(usable, stop, 0))
    shape = (cube.sizes["stim"], cube.sizes["neuron"])
    flat = np.ravel_multi_index((stim, neuron), shape)
    sums = [
        np.bincount(flat, values, minlength=shape[0] * shape[1]).reshape(shape)
        for values in (spikes, np.where(usable, stop - start, 0))
    ]
    dims: tuple[str, ...] = ("stim", "neuron")
    if per == "neuron":
        sums, dims = [s.sum(0) for s in sums], ("neuron",)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(sums[1] > 0, sums[0] / sums[1], np.nan)
    attrs = {"long_name": "spontaneous rate", "units": "spikes/s", "estimator": "spikes before the sound / time"}
    coords = {name: c for name, c in cube.coords.items() if set(c.dims) <= set(dims) and name != "units"}
    result = xr.DataArray(rate, coords=coords, dims=dims, name="spontaneous_rate", attrs=attrs)
    reason = _reasons(rate, kept, trials["exact"].values, unstated & (window is None), (stim, neuron)[2 - rate.ndim :])
    return result.assign_coords({_REASON: (dims, reason)})


def _checked_window(window: Any) -> tuple[float, float]:
    try:
        start, stop = map(float, window)
    except (TypeError, ValueError):
        start = stop = np.nan
    if not start < stop:
        raise UsageError(f"window={window!r}: expected (start, stop) in s from the onset of the stimulus")
    return start, stop


_REASON = "reason"
_REASONS = (
    "it is known",
    "recorded from the onset of the sound on",
    "the files do not state when the recording began: give window=(start, stop) in s, if you know it",
    "no exact spike times (membrane potentials, or counts that were published)",
    "no trial",
)


def _reasons(
    rate: NDArray[Any],
    kept: NDArray[np.bool_],
    exact: NDArray[np.bool_],
    unstated: NDArray[np.bool_],
    at: tuple[NDArray[Any], ...],
) -> NDArray[np.int8]:
    """Why each rate is not known, as a position in `_REASONS`."""
    flat = np.ravel_multi_index(at, rate.shape)
    out = np.full(rate.size, len(_REASONS) - 1, np.int8)
    for code, there in ((3, kept), (2, kept & exact), (1, kept & exact & ~unstated)):
        out[np.bincount(flat[there], minlength=rate.size) > 0] = code
    return np.where(np.isnan(rate), out.reshape(rate.shape), 0)


def explained(rate: xr.DataArray) -> xr.DataArray:
    """A spontaneous rate that says in ``comment`` of how many neurons or pairs it is not known, and why."""
    reason = rate[_REASON].values
    counts = [(int((reason == code).sum()), why) for code, why in enumerate(_REASONS)]
    said = [f"{count:,}: {why}" for count, why in counts[1:] if count]
    rate = rate.drop_vars(_REASON)
    if said:
        lacking, what = int((reason > 0).sum()), "pairs" if rate.ndim == 2 else "neurons"
        rate = rate.assign_attrs(comment=f"NaN for {lacking:,} of {rate.size:,} {what}. {'; '.join(said)}")
    return rate


def _count(trials: xr.Dataset, start: NDArray[Any], stop: NDArray[Any], most: int = 1 << 22) -> NDArray[np.int64]:
    """Spikes of each trial in [start, stop) s, reading about `most` spike times at a time."""
    size = trials["row_size"].values.astype(np.int64)
    ends = np.cumsum(size)
    low, high = np.rint(start * 1e9).astype(np.int64), np.rint(stop * 1e9).astype(np.int64)
    out = np.zeros(len(size), np.int64)
    first = 0
    while first < len(size):
        begin = int(ends[first] - size[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + most, side="right")))
        rows = slice(first, last)
        times = trials["spike_time"].isel(spike=slice(begin, int(ends[last - 1]))).values
        row = np.repeat(np.arange(last - first), size[rows])
        inside = (times >= low[rows][row]) & (times < high[rows][row])
        out[rows] = np.bincount(row[inside], minlength=last - first)
        first = last
    return out
