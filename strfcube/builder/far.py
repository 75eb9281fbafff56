"""Times far from their stimulus, as times in ms are that are taken for s; and the reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube import limits
from strfcube.grid import NS_PER_S
from strfcube.records import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_MANY = 50  # spikes, from which on their spread says something
_LATE = "they are kept; see whether they are ms taken for s"


def suspects(
    times: NDArray[np.float64],
    rows: dict[str, NDArray[Any]],
    n_bins: NDArray[np.int64],
    dt_ns: int,
    files: Sequence[str],
) -> Iterator[Finding]:
    """What is suspect in one source.

    Parameters
    ----------
    times : ndarray of float [shape=(spike,)]
        In s from onset, trial after trial.
    rows : dict of ndarray [shape=(trial,)]
        Columns of the trials, as `strfcube.builder.spool.Columns` has them.
    n_bins, dt_ns : ndarray of int64 [shape=(stim,)], int
        Bins of each stimulus, and their width.
    files : sequence of str
        What the file codes mean.
    """
    if not len(rows["stim"]):
        return
    most = limits.FAR_SECONDS
    seconds = n_bins[rows["stim"]] * (dt_ns / NS_PER_S)
    latest = np.fmax(seconds, rows["stop"]) + most
    first, last = float(times.min(initial=0)), float(times.max(initial=0))
    if first < -most or last > float(np.fmin.reduce(latest)):  # nothing can be odd otherwise, as in nearly all sources
        row = np.repeat(np.arange(len(seconds)), rows["spikes"])
        odd = (times < -most) | (times > latest[row])
        of = rows["file"][row]
        for code in np.unique(of[odd]).tolist():
            mine = odd & (of == code)
            what = f"{int(mine.sum())} spike times lie more than {most:g} s from their stimulus"
            trial = rows["number"][row[mine][0]]
            yield Finding("warning", files[code], f"{what}: the first is {times[mine][0]:g} s, of trial {trial}", _LATE)
    wide = (rows["start"] < -most) | (rows["stop"] > seconds + most)
    for code in np.unique(rows["file"][wide]).tolist():
        mine = wide & (rows["file"] == code)
        what = f"{int(mine.sum())} recorded windows reach more than {most:g} s beyond their stimulus"
        start, stop, trial = (rows[name][mine][0] for name in ("start", "stop", "number"))
        yield Finding("warning", files[code], f"{what}: the first is {start:g} to {stop:g} s, of trial {trial}", _LATE)
    whole = float(np.median(seconds))
    if len(times) >= _MANY and (widest := max(-first, last)) < whole / 100:
        yield _near(files[0], len(times), widest, whole)
    elif len(files) > 1:
        counts = np.bincount(rows["file"], rows["spikes"], len(files)).astype(np.int64)
        some = rows["spikes"] > 0
        ends = np.cumsum(rows["spikes"])
        far = np.maximum.reduceat(np.abs(times), (ends - rows["spikes"])[some]) if some.any() else np.empty(0)
        most_of, longest = np.zeros(len(files)), np.zeros(len(files))
        np.maximum.at(most_of, rows["file"][some], far)
        np.maximum.at(longest, rows["file"], seconds)
        for code in np.flatnonzero((counts >= _MANY) & (most_of < longest / 100)).tolist():
            yield _near(files[code], int(counts[code]), float(most_of[code]), float(longest[code]))


def _near(file: str, count: int, widest: float, seconds: float) -> Finding:
    what = f"all {count} spike times lie within {widest:g} s of onset, of sounds of {seconds:g} s"
    return Finding("warning", file, what, "they are kept; see whether they are s taken for ms")
