"""Voltage traces: drift taken off, bad repeats found, spikes detected. Pure functions of arrays.

The steps and their constants are those of the analyses of the AC-1 recordings (Machens, Wehr & Zador 2004,
https://doi.org/10.1523/JNEUROSCI.4445-03.2004; Asari & Zador 2009, https://doi.org/10.1152/jn.00577.2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.ndimage import median_filter
from scipy.signal import find_peaks, oaconvolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAD_OF_NORMAL = 0.6744897501960817  # median absolute deviation of a normal distribution of standard deviation 1
AFTER_SPIKE_MS = 4.0


@dataclass(frozen=True)
class Gates:
    """What a repeat must pass.

    Attributes
    ----------
    range_mv : float
        Largest deviation allowed, in mV: beyond it the amplifier was saturated.
    step_mv, step_fraction, step_median_ms : float
        At most this fraction of the samples may be further than `step_mv` from the trace's median, after a median
        filter of that width: more of them are jumps of the electrode.
    min_r : float
        Lowest correlation with the median of the other repeats; asked only where there are three repeats.
    """

    range_mv: float = 150.0
    step_mv: float = 30.0
    step_fraction: float = 0.005
    step_median_ms: float = 5.0
    min_r: float = 0.05


class Verdict(NamedTuple):
    """The first test that a repeat failed, and the value that failed it; ``""`` and NaN where it passed.

    Attributes
    ----------
    test : {"", "range", "step", "xcorr"}
        Largest deviation in mV, fraction of samples in jumps, correlation.
    value : float
        What the test measured.
    """

    test: str = ""
    value: float = math.nan


def running_median(trace: NDArray[Any], rate: float, width_ms: float) -> NDArray[Any]:
    """Median in a window centred on each sample.

    Parameters
    ----------
    trace : ndarray [shape=(n,)]
        Finite samples.
    rate : float
        Hz.
    width_ms : float
        Width of the window in ms, rounded to an odd number of samples so that it has a middle.

    Returns
    -------
    ndarray [shape=(n,)]
        Exact everywhere; beyond its ends the trace goes on as its mirror image, the last sample repeated.
    """
    half = round(width_ms * rate / 2000)
    if not half or not len(trace):
        return trace
    # Padding by ourselves keeps the window shorter than the array, which is where scipy's fast filter works.
    padded = np.pad(trace, half, mode="symmetric")
    return np.asarray(median_filter(padded, size=2 * half + 1)[half:-half])


def detrend(trace: NDArray[Any], rate: float, median_ms: float = 100.0, sigma_ms: float = 10.0) -> NDArray[np.float32]:
    """Take slow drift off a membrane potential.

    Subtracts the running median (`running_median`) smoothed with a Gaussian, cut off at four sigma. A sample depends
    on those within ``median_ms / 2 + 4 sigma_ms`` of it (90 ms); closer than that to an end of the trace it depends on
    the mirrored samples too.

    Parameters
    ----------
    trace : ndarray [shape=(n,)]
        Potential in mV. Samples that are not finite stay so, and are passed over.
    rate : float
        Hz.
    median_ms, sigma_ms : float
        Width of the median window and standard deviation of the Gaussian, in ms. A median of 0 takes nothing off.

    Returns
    -------
    ndarray of float32 [shape=(n,)]
        Signed deviation from the drift, in mV; rounding may move it by some 0.00001 mV.
    """
    potential = np.array(trace, np.float32)
    if median_ms <= 0 or not len(potential):
        return potential
    gaps = ~np.isfinite(potential)
    if gaps.any():
        potential[gaps] = 0 if gaps.all() else np.median(potential[~gaps])
    potential -= _gaussian(running_median(potential, rate, median_ms), sigma_ms * rate / 1000)
    potential[gaps] = np.nan
    return potential


def _gaussian(trace: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Smooth with a Gaussian cut off at four sigma (in samples); mirror images beyond the ends."""
    reach = round(4 * sigma)
    if not reach:
        return trace
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    # By FFT, which is 20 times faster than sample by sample; the resting potential off first, for its precision.
    padded = np.pad(trace - trace[0], reach, mode="symmetric")
    return np.asarray(oaconvolve(padded, (kernel / kernel.sum()).astype(np.float32), mode="valid") + trace[0])


def gate(
    traces: Sequence[NDArray[Any]], rate: float, gates: Gates | None = None, *, correlate: bool = True
) -> list[Verdict]:
    """Test the repeats of one stimulus in one cell: range, then step, then correlation.

    Parameters
    ----------
    traces : sequence of ndarray [shape=(n_i,)]
        Detrended repeats in mV, each as long as it was recorded.
    rate : float
        Hz.
    gates : Gates, optional
        Thresholds.
    correlate : bool
        Whether the repeats must correlate with each other. Those that failed an earlier test are not asked.

    Returns
    -------
    list of Verdict
        One a repeat.
    """
    gates = gates or Gates()
    verdicts = [_electrode(trace, rate, gates) for trace in traces]
    passed = [i for i, verdict in enumerate(verdicts) if not verdict.test]
    if correlate:
        for i, r in zip(passed, trial_correlations([traces[i] for i in passed]), strict=True):
            if r < gates.min_r:
                verdicts[i] = Verdict("xcorr", float(r))
    return verdicts


def _electrode(trace: NDArray[Any], rate: float, gates: Gates) -> Verdict:
    if not len(trace):
        return Verdict()
    most = float(np.max(np.abs(trace)))
    if not most <= gates.range_mv:  # a gap in the recording is NaN, and fails too
        return Verdict("range", most)
    smooth = running_median(trace, rate, gates.step_median_ms)
    far = float(np.mean(np.abs(smooth - np.median(trace)) > gates.step_mv))
    return Verdict("step", far) if far > gates.step_fraction else Verdict()


def trial_correlations(traces: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Pearson correlation of each repeat with the median of the others.

    Parameters
    ----------
    traces : sequence of ndarray [shape=(n_i,)]
        Repeats; each is compared as far as it and at least two others reach.

    Returns
    -------
    ndarray of float64 [shape=(R,)]
        NaN with fewer than three repeats, which say nothing about which of them is odd; 0 for a constant trace.
    """
    lengths = [len(trace) for trace in traces]
    others: list[list[NDArray[Any]]] = [[] for _ in traces]
    for start, stop in pairwise(sorted({0, *lengths})):
        there = [i for i, length in enumerate(lengths) if length >= stop]
        if len(there) < 3:
            break
        block = np.stack([traces[i][start:stop] for i in there], axis=1)
        for i, median in zip(there, _leave_one_out_median(block).T, strict=True):
            others[i].append(median)
    correlations = np.full(len(traces), np.nan)
    for i, medians in enumerate(others):
        if medians:
            y = np.concatenate(medians).astype(np.float64)
            x = np.asarray(traces[i][: len(y)], np.float64)
            x, y = x - x.mean(), y - y.mean()
            # Sums, not BLAS products, whose last bits change with the number of threads.
            norm = math.sqrt(np.sum(x * x) * np.sum(y * y))
            correlations[i] = np.sum(x * y) / norm if norm else 0.0
    return correlations


def _leave_one_out_median(block: NDArray[Any]) -> NDArray[Any]:
    """Median of the other columns [shape=(n, R)], R >= 3, for each column, from one partial sort.

    Without x, the k-th smallest of the rest is the k-th of all, or the next one where x is at or below the k-th.
    """
    repeats = block.shape[1]
    low, high = (repeats - 2) // 2, (repeats - 1) // 2
    ranked = np.partition(block, sorted({low, high, high + 1}), axis=1)

    def rest(k: int) -> NDArray[Any]:
        kth, following = ranked[:, k, None], ranked[:, k + 1, None]
        return np.where(block <= kth, following, kth)

    return rest(low) if low == high else (rest(low) + rest(high)) / 2


class Detected(NamedTuple):
    """Spikes of one recording, and what tells them from its noise.

    Attributes
    ----------
    at : ndarray of int64 [shape=(spike,)]
        Sample of each spike's peak, ascending.
    excess : ndarray of float64 [shape=(spike,)]
        Height of each peak above the threshold, in standard deviations of the noise.
    mirrored : int
        Peaks of that height that point down, away from any spike: as many as noise makes upwards by chance.
    """

    at: NDArray[np.int64]
    excess: NDArray[np.float64]
    mirrored: int


def find_spikes(
    trace: NDArray[Any],
    rate: float,
    threshold: float = 5.0,
    median_ms: float = 10.0,
    refractory_ms: float = 2.0,
    noise: str = "mad",
) -> Detected:
    """Spikes of a cell-attached recording: peaks above a multiple of the noise.

    The noise is measured by the median absolute deviation, which spikes hardly touch (Quiroga, Nadasdy & Ben-Shaul
    2004, doi 10.1162/089976604774201631). The published analysis took 2.5 standard deviations of the whole trace: in a
    quiet cell those are 2.5 of the noise, which it exceeds dozens of times a second.

    Parameters
    ----------
    trace : ndarray [shape=(n,)]
        Detrended voltage, spikes upwards; the whole recording, so that a silent presentation does not lower the
        threshold to its noise.
    rate : float
        Hz.
    threshold : float
        In standard deviations of the noise: at 10 kHz, noise exceeds 5 of them once in some minutes.
    median_ms : float
        Width of the running median that is taken off first, in ms.
    refractory_ms : float
        Of two peaks closer than this, in ms, only the higher is a spike.
    noise : {"mad", "std"}
        Median absolute deviation as that of a normal distribution, or standard deviation, of the whole trace.
    """
    sharp = np.nan_to_num(trace, nan=0.0)
    sharp = sharp - running_median(sharp, rate, median_ms)
    robust = _noise_level(sharp)
    level = threshold * (float(np.std(sharp, dtype=np.float64)) if noise == "std" and len(sharp) else robust)
    if not level > 0:  # nothing but one value
        return Detected(np.empty(0, np.int64), np.empty(0), 0)
    distance = max(1, math.ceil(refractory_ms * rate / 1000))
    peaks, found = find_peaks(sharp, height=level, distance=distance)
    troughs, _ = find_peaks(-sharp, height=level, distance=distance)
    # A spike has an undershoot, which is not noise.
    reach = round(AFTER_SPIKE_MS * rate / 1000)
    near = np.searchsorted(peaks, troughs - reach) < np.searchsorted(peaks, troughs + reach, side="right")
    with np.errstate(divide="ignore"):  # a trace that mostly has one value has no noise
        excess = (np.asarray(found["peak_heights"], np.float64) - level) / robust
    return Detected(np.asarray(peaks, np.int64), excess, int((~near).sum()))


def _noise_level(trace: NDArray[Any]) -> float:
    """Standard deviation of the noise of a trace, from its median absolute deviation."""
    return float(np.median(np.abs(trace - np.median(trace)))) / MAD_OF_NORMAL if len(trace) else 0.0


def doubt(excess: NDArray[np.float64], mirrored: int) -> str:
    """Why the spikes of a cell cannot be told from its noise; empty where they can.

    Two tests, each set to notice an error of a tenth. *Too many*: peaks that noise makes point down as often as up.
    *Too few*: where spikes are hardly higher than the threshold, others are lower. For heights that vary by one
    deviation of the noise around a mean, a fifth of those found within one deviation above the threshold means that
    4 % are missed.

    Parameters
    ----------
    excess, mirrored : ndarray of float [shape=(spike,)], int
        As in `Detected`, of all recordings of the cell.
    """
    if not len(excess):
        return "no peak reaches the threshold"
    if mirrored > 0.1 * len(excess):
        return f"{len(excess)} peaks reach the threshold upwards, and {mirrored} downwards, where no spike is"
    low = int((excess < 1).sum())
    if low > 0.2 * len(excess):
        return f"{low} of {len(excess)} peaks reach the threshold by less than one deviation of the noise"
    return ""
