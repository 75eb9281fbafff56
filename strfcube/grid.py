"""The time grid: bin k is [k dt, (k+1) dt) from stimulus onset, in integer nanoseconds.

Every rule that turns seconds into bins or frames stands here, and all of it is integer arithmetic, so that a spike at
0.015 s is in bin 3 at 5 ms on every machine, and a spectrogram frame does not drift from its bin at any sample rate.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from strfcube.errors import StrfcubeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.records import Length

NS_PER_S = 1_000_000_000
Align = Literal["centre", "causal"]
LABEL_SLACK = 0.05  # of a bin: more than labels in float32 drift, less than any real shift


def dt_to_ns(dt_ms: float) -> int:
    """Bin width in whole nanoseconds.

    Raises
    ------
    UsageError
        If `dt_ms` is not a positive number of whole nanoseconds, at most one minute.
    """
    try:
        ns = float(dt_ms) * 1e6
    except (TypeError, ValueError):
        ns = math.nan
    if not 1 <= ns <= 60e9 or abs(ns - round(ns)) > 1e-3:
        raise UsageError(f"dt={dt_ms!r} is no bin width: give milliseconds, a positive whole number of nanoseconds")
    return round(ns)


def seconds_to_ns(seconds: NDArray[Any] | float) -> NDArray[np.int64]:
    """Seconds to the nearest nanosecond (finer than any raw clock).

    Parameters
    ----------
    seconds : ndarray of float
        Finite times in s.

    Raises
    ------
    StrfcubeError
        If a time is no number, or does not fit 64 bits (292 years): nothing wraps.
    """
    ns = np.rint(np.asarray(seconds, np.float64) * NS_PER_S)
    if not (np.abs(ns) < 2.0**63).all():
        worst = np.asarray(seconds, np.float64).ravel()[~(np.abs(ns) < 2.0**63).ravel()][0]
        raise StrfcubeError(f"a time of {worst:g} s does not fit 64-bit nanoseconds: times are seconds from onset")
    return ns.astype(np.int64)


def bin_of(time_ns: NDArray[np.int64], dt_ns: int) -> NDArray[np.int64]:
    """Bin that each time falls into; a time on an edge belongs to the bin that starts there."""
    return time_ns // dt_ns


def n_bins(length: Length, dt_ns: int, post_ns: int = 0) -> int:
    """Number of bins that a stimulus covers.

    The bin of the last sample's instant + 1, so that a clip that overshoots an edge by less than a sample gets no
    extra bin; with a stated duration, the bins that it reaches into. `post_ns` is added to both.

    Returns
    -------
    int
        0 where the length is unknown.
    """
    if length.samples:
        last = Fraction(length.samples - 1) / Fraction(length.rate) * NS_PER_S + post_ns
        return int(last // dt_ns) + 1
    if math.isnan(length.seconds):
        return 0
    return -(-(round(length.seconds * NS_PER_S) + post_ns) // dt_ns)


def bin_starts(bins: int, dt_ns: int, first: int = 0) -> NDArray[np.float64]:
    """Left edges of the bins in s: each the double nearest to k dt, so that ``0.175`` names a bin of 5 ms.

    Parameters
    ----------
    bins : int
        Number of bins.
    dt_ns : int
        Bin width in ns.
    first : int
        The first of them.

    Returns
    -------
    ndarray of float64 [shape=(bins,)]
        From whole nanoseconds: the product of k and a dt that is no exact double would be off by its last bits.
    """
    return np.asarray(np.arange(first, first + bins, dtype=np.int64) * dt_ns / NS_PER_S)


def bins_of(labels: NDArray[Any], dt_ms: float) -> NDArray[np.int64]:
    """Bin that each time label names, the reverse of `bin_starts`.

    Parameters
    ----------
    labels : ndarray [shape=(time,)]
        Left edges in s; digits that single precision loses do not matter.
    dt_ms : float
        Bin width in ms.

    Raises
    ------
    UsageError
        If these are not consecutive bins from the onset on.
    """
    if labels.dtype.kind not in "fiu":
        raise UsageError(f"the labels of 'time' are {labels.dtype}, not seconds from stimulus onset")
    if not 0 < dt_ms < math.inf:
        raise UsageError(f"dt_ms is {dt_ms!r}, no bin width in ms")
    exact = labels.astype(np.float64) * 1000 / dt_ms
    if not np.isfinite(exact).all():
        raise UsageError("labels of 'time' are not finite")
    step = np.diff(exact)
    if len(step) and np.allclose(step, step[0], rtol=1e-2, atol=0) and step[0] > 0 and abs(step.mean() - 1) > 1e-3:
        raise UsageError(f"'time' advances by {step.mean() * dt_ms:g} ms, and dt_ms is {dt_ms:g}")
    bins: NDArray[np.int64] = np.rint(exact).astype(np.int64)
    off = np.abs(exact - bins)
    if off.max(initial=0) > LABEL_SLACK:
        at = int(off.argmax())
        raise UsageError(
            f"the label {labels[at]:.6g} s of 'time' lies {exact[at] - bins[at]:+.2f} bins from a bin of {dt_ms:g} ms: "
            "a bin is named by its left edge"
        )
    if (np.diff(bins) != 1).any():
        at = int(np.flatnonzero(np.diff(bins) != 1)[0])
        raise UsageError(
            f"the labels of 'time' are not consecutive bins of {dt_ms:g} ms: after {labels[at]:.6g} s comes "
            f"{labels[at + 1]:.6g} s"
        )
    if len(bins) and bins[0] < 0:
        raise UsageError(f"'time' begins at {labels[0]:.6g} s, before the onset, where bins begin")
    return bins


def observed_bins(
    start: NDArray[Any], stop: NDArray[Any], bins: NDArray[Any], dt_ns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Half-open range of the bins that each recorded window holds.

    A bin is observed when it lies in the window with all but a hundredth of its width: recorders state the window to
    a rounded digit or one sample short (NS1: 5199.99 ms for a sweep of 5200), and a bin that lacks more than that
    would be undercounted.

    Parameters
    ----------
    start, stop : ndarray of float [shape=(trial,)]
        The windows in s; NaN where not stated, and then every bin counts as observed.
    bins : ndarray of int [shape=(trial,)]
        Number of bins of each trial's stimulus.
    dt_ns : int
        Bin width in ns.

    Returns
    -------
    first, last : ndarray of int64 [shape=(trial,)]
        Both 0 where no bin was observed.
    """
    slack = dt_ns // 100
    known = np.isfinite(start)
    first = np.where(known, -((slack - seconds_to_ns(np.where(known, start, 0.0))) // dt_ns), 0).clip(0)
    known = np.isfinite(stop)
    last = np.where(known, (seconds_to_ns(np.where(known, stop, 0.0)) + slack) // dt_ns, bins)
    last = np.minimum(last, bins)
    some = first < last
    return np.where(some, first, 0), np.where(some, last, 0)


def frame_starts(
    frames: int, dt_ns: int, rate: float, width: int, align: Align, onset: float = 0.0, parts: int = 1
) -> NDArray[np.int64]:
    """First sample of each frame's window.

    Frame k is centred on the sample nearest to the centre of bin k (``centre``), or its last sample is the last one
    before the end of bin k (``causal``). No rounding accumulates: every frame is placed from the exact rate.

    Parameters
    ----------
    frames : int
        Number of bins.
    rate : float
        Hz.
    width : int
        Samples in a window.
    onset : float
        Time of sample 0 from stimulus onset, in s.
    parts : int
        Frames in a bin, each placed on an equal part of it.

    Returns
    -------
    ndarray of int64 [shape=(frames * parts,)]
        Can be negative or lie past the end: samples there are silence.
    """
    exact = Fraction(rate)
    p, q = exact.numerator, exact.denominator * NS_PER_S * 2 * parts
    shift = round(onset * NS_PER_S) * 2 * parts
    if align == "centre":
        half = width // 2
        at = [(((2 * k + 1) * dt_ns - shift) * p * 2 + q) // (2 * q) - half for k in range(frames * parts)]
    else:
        at = [-(-((2 * k + 2) * dt_ns - shift) * p // q) - width for k in range(frames * parts)]
    return np.array(at, np.int64)
