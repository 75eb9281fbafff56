"""The variances that the measures of quality are made of, in one pass over the responses.

Where all repeats of a pair (stim, neuron) observed the same bins, these are the textbook's variances, in closed form.
Where windows differ, every bin counts with the repeats that observed it, and the signal power with the bins that at
least two did: a repeat that ends early leaves the others as they are, and nothing is biased by what was not observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from strfcube.analysis.predictions import aligned
from strfcube.analysis.transform import blockwise
from strfcube.cube.averages import BLOCK_VALUES, blocks
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Per = Literal["pair", "neuron"]

_COLUMNS = (
    "repeats", "bins", "signal_power", "total_power", "psth_power", "null_variance", "variance", "covariance",
    "prediction_power",
)  # fmt: skip
_OWN = 7  # of these without a prediction
_DIFFERENCES = 4  # pairs of repeats that the noise spectrum is taken of: more cost time and tell little
_FAR = 0.99  # of the mean square is the square of the mean: sums about the mean then, which lose no digits
_ROUNDING = 1e-12  # of the total power: a power of less than that is what rounding leaves of none


def powers(response: xr.DataArray, prediction: xr.DataArray | None = None, per: Per = "pair") -> xr.Dataset:
    """All the variances that the measures are made of, in one pass over the response.

    Parameters
    ----------
    response : xarray.DataArray [dims=(..., repeat, time)]
        NaN where nothing was observed.
    prediction : xarray.DataArray [dims=(..., time)], optional
        Laid beside the response by `aligned`; bins where it is not finite are left out.
    per : {"pair", "neuron"}
        Of each pair, or averaged over ``stim`` with the number of used bins as weight.

    Returns
    -------
    xarray.Dataset [dims=(...)]
        ``repeats``; ``signal_power``, ``total_power``, ``psth_power`` (variance of the mean of the repeats);
        ``null_variance`` and ``variance`` of the signal power, without a signal and with the one there is (an estimate
        that can fall below the other); with a prediction ``covariance`` (with the mean of the repeats) and
        ``prediction_power``. Per pair also ``bins``: those that at least two repeats observed.

    Raises
    ------
    UsageError
        If `per` is neither.

    Notes
    -----
    What a response or a prediction is about costs no digits, and none of it depends on how long the axes of time and
    repeats are padded. Powers of a part in 10^12 of the total power, and variances of what is constant but for the
    rounding of float64, are 0: a dead channel and identical repeats have no power, or no noise, and not a residue.
    """
    if per not in ("pair", "neuron"):
        raise UsageError(f"per={per!r}, expected 'pair' or 'neuron'")
    arrays, core = [response], [["repeat", "time"]]
    if prediction is not None:
        prediction, response = aligned(prediction, response)
        arrays, core = [response, prediction], [*core, ["time"]]
    columns = _COLUMNS[: _OWN if prediction is None else None]
    table = blockwise(_power_columns, arrays, core, {"_column": len(columns)}, np.float64, stored=_columns_of_stored)
    table = table.drop_vars(columns, errors="ignore")  # coordinates of a user's own
    result = xr.Dataset({name: table.isel(_column=i) for i, name in enumerate(columns)})
    if per == "pair" or "stim" not in result.dims:
        return result
    weight = result["bins"].where(result["signal_power"].notnull())
    total = weight.sum("stim", min_count=1)
    of_variance = [n for n in ("null_variance", "variance") if n in result]
    values = result.drop_vars(["bins", *of_variance])
    mean: xr.Dataset = (values * weight).sum("stim", min_count=1) / total
    squared: xr.Dataset = (result[of_variance] * weight**2).sum("stim", min_count=1) / total**2
    return mean.assign(squared.data_vars)


def _power_columns(x: NDArray[Any], prediction: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Compute `_COLUMNS` of responses (..., repeat, time); the last two beside predictions (..., time)."""
    if prediction is None:
        out = np.empty((*x.shape[:-2], _OWN))
        for at in blocks(x.shape):
            out[at] = _powers(x[at], None)
        return out
    lead = np.broadcast_shapes(x.shape[:-2], prediction.shape[:-1])
    x = np.broadcast_to(x, (*lead, *x.shape[-2:]))
    prediction = np.broadcast_to(prediction, (*lead, prediction.shape[-1]))
    out = np.empty((*lead, len(_COLUMNS)))
    for at in blocks(x.shape):
        out[at] = _powers(x[at], prediction[at])
    return out


def _columns_of_stored(values: NDArray[Any], fill: int, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """As `_power_columns`, of counts (..., repeat, time) in which `fill` is what was not observed."""
    out = np.empty((*values.shape[:-2], _OWN)) if out is None else out
    every = values.shape[-2]
    for at in blocks(values.shape, 8 * BLOCK_VALUES):
        part = values[at]
        missing = part == fill
        lacking = np.add.reduce(missing.view(np.uint8), axis=-2, dtype=np.uint8 if every < 256 else np.uint32)
        used = lacking != every
        end = _end(used)
        part, missing, used = part[..., :end], missing[..., :end], used[..., :end]
        n_missing, bins = lacking[..., :end].sum(-1, dtype=np.int64), used.sum(-1)
        # Where no used bin lacks a repeat, all are there
        present = np.repeat((bins > 0)[..., None], every, -1)
        some = n_missing != every * (end - bins)
        if some.any():
            present[some] = ~missing[some].all(-1)
        repeats = present.sum(-1)
        table = np.full((*repeats.shape, _OWN), np.nan)
        table[..., 0], table[..., 1] = repeats, bins
        several = repeats >= 2
        if several.any():
            unequal = (n_missing != every * end - repeats * bins)[several]
            holes = missing[several] if n_missing[several].any() else None
            table[several] = _counted(part[several], holes, present[several], used[several], unequal)
        out[at] = table
    return out


def _end(used: NDArray[np.bool_]) -> int:
    """First bin that nobody used from there on: nothing is to be done past the end of the stimulus."""
    if used.shape[-1] and used[..., -1].any():
        return int(used.shape[-1])
    return int(np.flatnonzero(used.reshape(-1, used.shape[-1]).any(0)).max(initial=-1)) + 1


def _counted(
    counts: NDArray[Any], missing: NDArray[np.bool_] | None, present: NDArray[np.bool_], used: NDArray[np.bool_],
    unequal: NDArray[np.bool_],
) -> NDArray[np.float64]:  # fmt: skip
    """`_powers` of counts, a copy of the caller's.

    `missing` are those that were not observed, if there are any, and `unequal` the pairs whose repeats observed
    different bins.
    """
    repeats, bins = counts.shape[-2:]
    if missing is not None:
        np.copyto(counts, 0, where=missing)
    # Whole numbers are added without loss, in float32 too as long as it holds them
    exact = int(counts.max(initial=0)) ** 2 * repeats * bins < 1 << 24
    x = counts.astype(np.float32 if exact else np.float64)
    others = None if missing is None or not unequal.any() else _unequal_windows(x[unequal], ~missing[unequal], None)
    out = _equal_windows(x, present, used, None)
    if others is not None:
        out[unequal] = others
    return out


def _powers(x: NDArray[Any], prediction: NDArray[Any] | None) -> NDArray[np.float64]:
    observed = ~np.isnan(x)
    if prediction is not None:
        observed &= np.isfinite(prediction)[..., None, :]
    present, used = observed.any(-1), observed.any(-2)
    end = _end(used)
    x, observed, used = x[..., :end], observed[..., :end], used[..., :end]
    prediction = None if prediction is None else prediction[..., :end]
    unequal = (observed != (present[..., None] & used[..., None, :])).any((-1, -2))
    # Sums in float64: of a trace at -60 mV in float32 the variance would lose its digits.
    values = x.astype(np.float64)
    np.copyto(values, 0, where=~observed)
    out = _equal_windows(values, present, used, prediction)
    if unequal.any():
        out[unequal] = _unequal_windows(
            x[unequal], observed[unequal], None if prediction is None else prediction[unequal]
        )
    return out


def floor(mean: NDArray[Any], bins: NDArray[Any]) -> NDArray[np.float64]:
    """Variance about its mean that rounding alone may leave of a constant of so many bins."""
    return np.asarray((4 * np.finfo(np.float64).eps * bins * mean) ** 2)


def _settled(
    signal: NDArray[Any], total: NDArray[Any], residue: NDArray[Any] | float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Signal and total power without the residues of rounding, and how large these may be."""
    slack = residue + _ROUNDING * np.abs(total)
    total = np.where(np.abs(total) <= residue, 0, total)
    signal = np.where(np.abs(total - signal) <= slack, total, signal)  # no noise
    return np.where(np.abs(signal) <= slack, 0, signal), total, slack


def _equal_windows(
    x: NDArray[Any], present: NDArray[np.bool_], used: NDArray[np.bool_], prediction: NDArray[Any] | None
) -> NDArray[np.float64]:
    """Where all repeats of a pair observed the same bins.

    `x` is 0 elsewhere, and its dtype holds its sums; it is the callee's to write to.
    """
    repeats, bins = present.sum(-1), used.sum(-1)
    ones, residue = np.ones(x.shape[-1], x.dtype), np.zeros(bins.shape)
    own, sums = np.vecdot(x, x).astype(np.float64), np.vecdot(x, ones).astype(np.float64)
    if (sums**2 > _FAR * own * np.maximum(bins, 2)[..., None]).any():
        mean = sums / np.maximum(bins, 1)[..., None]
        residue = floor(np.abs(mean).max(-1, initial=0), bins)
        x = np.subtract(x, mean[..., None], out=x if x.dtype == np.float64 else None)
        if not used.all():
            x *= used[..., None, :]
        own, sums = np.vecdot(x, x), np.vecdot(x, ones)
    total = x.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of each repeat with all others together: centred products, whose sum over repeats is that over all pairs.
        # Times the number of bins, of which whole numbers stay whole.
        rows = np.matmul(x, total[..., None])[..., 0].astype(np.float64) - own
        rows = (rows * bins[..., None] - sums * (sums.sum(-1, keepdims=True) - sums)) / bins[..., None]
        own = (own * bins[..., None] - sums**2) / bins[..., None]
        freedom = repeats * (repeats - 1.0) * (bins - 1.0)
        signal_power, total_power, slack = _settled(
            rows.sum(-1) / freedom, own.sum(-1) / (repeats * (bins - 1.0)), residue
        )
        psth_power = ((repeats - 1.0) * signal_power + total_power) / repeats
        psth_power = np.where(psth_power <= slack, 0, psth_power)
        null = 2 * _noise_moment(x, sums, present, used, bins) / freedom
        noise_power = total_power - signal_power
        variance = _jackknife(rows, present, signal_power, noise_power, repeats, bins, null)
        columns = [repeats, bins, signal_power, total_power, psth_power, null, variance]
        if prediction is not None:
            p = np.where(used, prediction, np.float64(0))
            centre = p.sum(-1) / bins
            p -= centre[..., None]
            p *= used
            power = (p * p).sum(-1) / (bins - 1.0)
            p[power <= floor(centre, bins)] = 0  # a constant
            columns += [(p * total).sum(-1) / (repeats * (bins - 1.0)), (p * p).sum(-1) / (bins - 1.0)]
    out = np.empty((*np.broadcast_shapes(*(c.shape for c in columns)), len(columns)))
    for i, column in enumerate(columns):
        out[..., i] = column
    out[..., 2:][(repeats < 2) | (bins < 2)] = np.nan
    return out


def _jackknife(
    rows: NDArray[Any], present: NDArray[np.bool_], signal_power: NDArray[Any], noise_power: NDArray[Any],
    repeats: NDArray[Any], bins: NDArray[Any], null: NDArray[Any],
) -> NDArray[np.float64]:  # fmt: skip
    """Variance of the signal power, with equal windows.

    The jackknife over repeats, less the share of the noise that it counts too often: ``R / (R - 2)`` of the variance
    without a signal. Of two repeats it is not known; there the noise is taken to be white.
    """
    mean = signal_power * (repeats - 1.0) * (bins - 1.0)
    apart = np.where(present, rows - mean[..., None], 0) / (bins[..., None] - 1.0)
    several = 4 * (apart**2).sum(-1) / (repeats * (repeats - 1.0) * (repeats - 2.0) ** 2)
    of_two = null + 4 * signal_power * noise_power / (repeats * (bins - 1.0))
    return np.asarray(np.where(repeats > 2, several - null * repeats / (repeats - 2.0), of_two))


def _noise_moment(
    x: NDArray[Any], sums: NDArray[np.float64], present: NDArray[np.bool_], used: NDArray[np.bool_],
    bins: NDArray[np.intp],
) -> NDArray[np.float64]:  # fmt: skip
    """``tr(N^2) / T`` of the covariance N of the noise over time, from differences of neighbouring repeats.

    Of each pair from its first to its last used bin, however many are missing before and after them.
    """
    if not (present[..., :-1] >= present[..., 1:]).all():  # repeats that are there, first
        order = np.argsort(~present, axis=-1, kind="stable")
        x, present = np.take_along_axis(x, order[..., None], -2), np.take_along_axis(present, order, -1)
        sums = np.take_along_axis(sums, order, -1)
    if x.shape[-2] < 2 or not x.shape[-1]:
        return np.full(bins.shape, np.nan)
    several = bins >= 2
    if (used[..., 0] & used[..., -1])[several].all():
        return _moment(x, sums, present, used, bins)
    out = np.full(bins.shape, np.nan)
    first, last = used.argmax(-1), x.shape[-1] - used[..., ::-1].argmax(-1)
    for low, high in set(zip(first[several].tolist(), last[several].tolist(), strict=True)):
        mine = several & (first == low) & (last == high)
        out[mine] = _moment(x[mine][..., low:high], sums[mine], present[mine], used[mine][..., low:high], bins[mine])
    return out


def _moment(
    x: NDArray[Any], sums: NDArray[np.float64], present: NDArray[np.bool_], used: NDArray[np.bool_],
    bins: NDArray[np.intp],
) -> NDArray[np.float64]:  # fmt: skip
    """`_noise_moment` of pairs that use the first and the last bin of `x`.

    By Parseval the mean square of the noise spectrum. Its square is too large by one part in the number of
    differences, and is corrected for that.
    """
    from scipy.fft import next_fast_len, rfft

    half = min(_DIFFERENCES, x.shape[-2] // 2)
    there = present[..., 1 : 2 * half : 2]
    size = next_fast_len(x.shape[-1], real=True)
    whole = np.zeros((*there.shape, size), np.float32)
    difference = whole[..., : x.shape[-1]]
    np.subtract(x[..., 0 : 2 * half : 2, :], x[..., 1 : 2 * half : 2, :], out=difference, casting="same_kind")
    if not there.all():
        difference *= there[..., None]
    # Of a whole series the mean is frequency 0, which is left out.
    if not (bins == size).all():
        mean = (sums[..., 0 : 2 * half : 2] - sums[..., 1 : 2 * half : 2]) / np.maximum(bins, 1)[..., None]
        difference -= (mean * there).astype(np.float32)[..., None]
        difference *= used[..., None, :]
    parts = rfft(whole, axis=-1).view(np.float32)
    np.square(parts, out=parts)
    power = parts.sum(-2)
    power = power[..., 0::2] + power[..., 1::2]
    count = np.maximum(there.sum(-1), 1)
    return np.asarray(_mean_square(power, size) / (2.0 * np.maximum(bins, 1) * count) ** 2 / (1 + 1 / count))


def _mean_square(power: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Mean square of a spectrum over all frequencies but 0, from its half of `rfft`."""
    rest = power[..., 1:]
    total = 2 * np.vecdot(rest, rest).astype(np.float64)
    if size % 2 == 0:  # the last one there is once
        total = total - rest[..., -1].astype(np.float64) ** 2
    return np.asarray(total / max(1, size - 1))


def _unequal_windows(
    x: NDArray[Any], observed: NDArray[np.bool_], prediction: NDArray[Any] | None
) -> NDArray[np.float64]:
    """Where the repeats of pairs [shape=(pair, repeat, time)] observed different bins.

    In a bin that r repeats observed, ``(sum over repeats)^2 - sum of squares`` over ``r (r - 1)`` is, without bias, the
    square of the signal; so is its mean over bins that of the signal about its mean, once the noise of the mean is
    subtracted, which what each repeat adds to it tells. The mean is that of all bins, also of those that one repeat
    observed.
    """
    out = np.full((len(x), _OWN if prediction is None else len(_COLUMNS)), np.nan)
    times = observed.sum(-2)
    some, several = times >= 1, times >= 2
    repeats, bins, all_bins = observed.any(-1).sum(-1), several.sum(-1), some.sum(-1)
    r = np.maximum(times, 1).astype(np.float64)
    rest = np.maximum(r - 1, 1)

    def mean(values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray((values * where).sum(-1) / where.sum(-1))

    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(observed, x, np.float64(0))
        centre = mean(x.sum(-2) / r, some)
        x = np.where(observed, x - centre[:, None, None], 0)
        total, squares = x.sum(-2), (x * x).sum(-2)
        product = np.where(several, (total**2 - squares) / (r * rest), 0)  # of the signal with itself
        noise = np.where(several, (squares - total**2 / r) / rest, 0)
        # What each repeat adds to the noise of the mean, of all bins and of those that several observed
        residual = np.where(observed & several[:, None], x - (total / r)[:, None], 0) * np.sqrt(r / rest)[:, None]
        added = (residual / r[:, None]).sum(-1)
        by_bin = np.where(some, 1 / r, 0)
        seen = by_bin.sum(-1) / np.where(several, by_bin, 0).sum(-1)
        of_mean = (added**2).sum(-1) * seen / all_bins**2
        shared = (added**2).sum(-1) / (all_bins * bins)
        full = all_bins / (all_bins - 1.0)
        signal = full * (mean(product, several) + 2 * shared - of_mean)
        noise_power = full * (mean(noise, several) - of_mean * all_bins / by_bin.sum(-1))
        signal, total_power, slack = _settled(signal, signal + noise_power, floor(centre, all_bins))
        noise_power = total_power - signal
        psth_power = signal + noise_power * mean(by_bin, several)
        moment = _unequal_moment(x, observed)
        null = 2 * moment * mean(1 / (r * rest), several) / (bins - 1.0)
        # As `_jackknife`, bin by bin; bins that two observed take the share of the others.
        three = times >= 3
        left = np.maximum(r - 2, 1)
        apart = np.where(observed & three[:, None], x * (total[:, None] - x) - (rest * product)[:, None], 0)
        apart = 2 * (apart / (np.sqrt(r * rest) * left)[:, None]).sum(-1) / bins[:, None]
        too_often = 4 * moment * np.where(three, 1 / (r * left), 0).sum(-1) / bins**2
        share = by_bin * several
        linear = ((apart**2).sum(-1) - too_often) * share.sum(-1) / (share * three).sum(-1)
        of_two = 4 * signal * noise_power * mean(by_bin, several) / (bins - 1.0)
        variance = null + np.where(three.any(-1), linear, of_two)
        columns = [
            repeats,
            bins,
            signal,
            total_power,
            np.where(np.abs(psth_power) <= slack, 0, psth_power),
            null,
            variance,
        ]
        if prediction is not None:
            p = np.where(some, prediction, np.float64(0))
            middle = mean(p, some)
            p = p - middle[:, None]
            p[mean(p * p, some) <= floor(middle, all_bins)] = 0  # a constant
            columns += [full * mean(p * total / r, several), full * mean(p * p, several)]
    out[...] = np.stack(columns, -1)
    out[..., 2:][(repeats < 2) | (bins < 2)] = np.nan
    return out


def _unequal_moment(x: NDArray[Any], observed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """As `_noise_moment`, from pairs of repeats that overlap, each on the bins that they share."""
    from scipy.fft import rfft

    out = np.full(len(x), np.nan)
    for i, (values, seen) in enumerate(zip(x, observed, strict=True)):
        power: Any = 0.0
        sizes: list[int] = []
        at = np.flatnonzero(seen.any(0))
        values, seen = (array[:, at[0] : at[-1] + 1] for array in (values, seen))
        overlap = seen.astype(np.float64) @ seen.T
        np.fill_diagonal(overlap, 0)
        while len(sizes) < _DIFFERENCES and overlap.max() >= 2:
            a, b = np.unravel_index(int(overlap.argmax()), overlap.shape)
            both = seen[a] & seen[b]
            difference = np.where(both, (values[a] - values[b]) * np.sqrt(0.5), 0)
            spectrum = rfft(np.where(both, difference - difference[both].mean(), 0))
            power = power + spectrum.real**2 + spectrum.imag**2
            sizes.append(int(both.sum()))
            overlap[[a, b]], overlap[:, [a, b]] = 0, 0  # no repeat in two differences
        if sizes:
            count = sum(sizes) ** 2 / sum(n * n for n in sizes)
            out[i] = _mean_square(np.asarray(power) / sum(sizes), seen.shape[-1]) / (1 + 1 / count)
    return out
