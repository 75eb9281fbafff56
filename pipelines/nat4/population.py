"""NAT4 responses that only the population recording has, in spikes per bin; and the cutting of trials by epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strfcube import limits
from strfcube.errors import RawDataError
from strfcube.grid import NS_PER_S, seconds_to_ns
from strfcube.pipelines.nems import read_bundle
from strfcube.records import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from strfcube.pipelines.nems import Signal
    from strfcube.pipelines.nems_files import Bundle, Epochs, Header
    from strfcube.records import Report

STIM = "STIM_"
VAL = "STIM_00"
_TOLERANCE = 0.05  # between a population response and the spikes it was made of


@dataclass(frozen=True)
class Recorded:
    """A per-site recording whose head could be read; `source` is the id of the source that reads it."""

    bundle: Bundle
    header: Header
    epochs: Epochs
    source: str


def placed(epochs: Epochs) -> list[int]:
    """Rows of the stimulus epochs, by start time, without those that are far from as long as the others."""
    rows = epochs.occurrences(STIM)
    odd = {row for row, _ in misfits(epochs, rows)}
    return [row for row in rows if row not in odd]


def misfits(epochs: Epochs, rows: list[int]) -> list[tuple[int, float]]:
    """Rows less than half, or more than twice, as long as is usual in the table, and what is usual, in s."""
    lengths = epochs.ends[rows] - epochs.starts[rows]
    usual = float(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 0.0
    return [
        (row, usual) for row, s in zip(rows, lengths.tolist(), strict=True) if not usual / 2 <= s <= 2 * usual or s == 0
    ]


def presentations(epochs: Epochs) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Names, starts and ends (s) of the stimulus epochs, by start time; a row listed twice counts once.

    So does one whose times were rounded in another way: a sound does not begin again before half of it was played.
    """
    rows: list[int] = []
    last: dict[str, int] = {}
    for row in placed(epochs):
        before = last.get(epochs.names[row])
        if before is None or epochs.starts[row] >= (epochs.starts[before] + epochs.ends[before]) / 2:
            rows.append(row)
            last[epochs.names[row]] = row
    return tuple(epochs.names[row] for row in rows), epochs.starts[rows], epochs.ends[rows]


def report_unplaced(epochs: Epochs, file: str, report: Report) -> None:
    """Report stimulus epochs without usable times, or as long as no presentation is."""
    for row, usual in misfits(epochs, epochs.occurrences(STIM)):
        what = f"epoch {epochs.names[row]} is {epochs.ends[row] - epochs.starts[row]:g} s long, the others {usual:g} s"
        report(Finding("error", file, what, "this presentation is left out", _line(epochs, row)))
    for row in epochs.without_times(STIM):
        what = f"epoch {epochs.names[row]} starts at {epochs.starts[row]:g} s and ends at {epochs.ends[row]:g} s"
        report(Finding("warning", file, what, "this presentation cannot be placed and is left out", _line(epochs, row)))


def _line(epochs: Epochs, row: int) -> int:
    return epochs.lines[row] if epochs.lines else 0


def cut(
    times: NDArray[np.float64], starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Events within each of n epochs, in integer nanoseconds: one on the edge between two belongs to the later.

    Parameters
    ----------
    times : ndarray of float
        Sorted event times in s.
    starts, ends : ndarray of float [shape=(n,)]
        In s.

    Returns
    -------
    sizes : ndarray of int64 [shape=(n,)]
        Events in each epoch.
    relative : ndarray of float [shape=(sizes.sum(),)]
        Times in s from the start of their epoch, epoch after epoch.
    """
    at, first = seconds_to_ns(times), seconds_to_ns(starts)
    low = np.searchsorted(at, first)
    sizes = np.searchsorted(at, seconds_to_ns(ends)) - low
    before = np.cumsum(sizes) - sizes
    index = np.arange(sizes.sum()) + np.repeat(low - before, sizes)
    return sizes, (at[index] - np.repeat(first, sizes)) / NS_PER_S


def usable(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Event times in ascending order, without what is negative, no number or days late."""
    return np.sort(times[(times >= 0) & (times <= limits.WINDOW_SECONDS)])


def population_only(
    resp: Signal, file: str, by_cell: Mapping[str, Recorded], report: Report
) -> dict[str, tuple[tuple[str, ...], NDArray[np.float16]]]:
    """Spikes per bin of every cell and est sound that no per-site recording has."""
    rows = {resp.epochs.names[row]: row for row in reversed(placed(resp.epochs))}
    est = [name for name in sorted(rows) if not name.startswith(VAL)]
    heard = {site.source: set(presentations(site.epochs)[0]) for site in by_cell.values()}
    missing = {
        cell: names
        for cell in resp.chans
        if (names := [n for n in est if cell not in by_cell or n not in heard[by_cell[cell].source]])
    }
    if not missing:
        return {}
    unit, why = _unit(resp, [rows[name] for name in est], by_cell, file, report)
    if not unit > 0:
        what = f"est responses of {some(list(missing))} are only here, in a unit that cannot be checked: {why}"
        report(Finding("error", file, what, "they stay out of the cube"))
        return {}
    counts: dict[str, tuple[tuple[str, ...], NDArray[np.float16]]] = {}
    strange = []
    for cell, names in missing.items():
        values = _values(resp, [rows[name] for name in names], resp.chans.index(cell)) / unit
        whole = np.round(values)
        if not np.all((np.abs(values - whole) < 0.01) & (values >= 0) | np.isnan(values)):
            strange.append(cell)
            continue
        seen = np.isfinite(whole).any(1)
        counts[cell] = (tuple(np.array(names, object)[seen]), whole[seen].astype(np.float16))
    if strange:
        what = f"est responses of {some(strange)} are no whole numbers of spikes (one spike is {unit:g})"
        report(Finding("error", file, what, "they stay out of the cube"))
    return counts


def _values(resp: Signal, rows: list[int], channel: int) -> NDArray[np.float64]:
    """One cell's values in the given epochs [shape=(epoch, bin)]; NaN past their end and past the signal's."""
    fs = resp.header.fs
    first, last = (np.rint(t[rows] * fs).astype(np.int64) for t in (resp.epochs.starts, resp.epochs.ends))
    column = resp.values[:, [channel]].toarray()[:, 0].astype(np.float64)
    index = first[:, None] + np.arange((last - first).max(initial=0))
    inside = (index < last[:, None]) & (index >= 0) & (index < len(column))
    return np.where(inside, column[np.where(inside, index, 0)], np.nan)


def _unit(
    resp: Signal, rows: list[int], by_cell: Mapping[str, Recorded], file: str, report: Report
) -> tuple[float, str]:
    """Value of one spike in the population recording, from the cells of one site; NaN and the reason where it fails.

    The smallest value above zero is taken for one spike. Summed over each sound, the values must then be the spikes
    that the per-site recording has in the same epochs, but for a few at the edges of bins.
    """
    names = [resp.epochs.names[row] for row in rows]
    why = "no cell of it has a per-site recording"
    for source in dict.fromkeys(by_cell[cell].source for cell in resp.chans if cell in by_cell):
        cells = [cell for cell in resp.chans if cell in by_cell and by_cell[cell].source == source]
        site = by_cell[cells[0]]
        try:
            events = read_bundle(site.bundle, ("resp",))["resp"].events
        except RawDataError as error:
            why = str(error)
            continue
        cells = [cell for cell in cells if cell in (events or {})]
        heard, starts, ends = presentations(site.epochs)
        first = {name: trial for trial, name in reversed(list(enumerate(heard)))}
        shared = [sound for sound, name in enumerate(names) if name in first]
        trials = [first[names[sound]] for sound in shared]
        if events is None or not trials or not cells:
            why = f"{site.bundle} has no spike times, or none of the sounds"
            continue
        spikes = np.array([cut(usable(events[cell]), starts[trials], ends[trials])[0] for cell in cells], float)
        values = np.array([_values(resp, rows, resp.chans.index(cell))[shared] for cell in cells])
        sums = values.sum(-1)
        known = np.isfinite(sums)
        unit = float(values[values > 0].min(initial=np.inf))
        if unit == np.inf or not spikes[known].any():
            why = f"no spike of {site.bundle} to compare with"
            continue
        off = np.abs(sums[known] / unit - spikes[known]).sum() / spikes[known].sum()
        what = f"one spike is {unit:g}; {off:.2%} of the est spikes of {len(cells)} cells differ from {site.bundle}"
        if off > _TOLERANCE:
            return np.nan, f"{what}, at most {_TOLERANCE:.0%} expected"
        report(Finding("info", file, what, "its est responses are converted by that factor"))
        return unit, ""
    return np.nan, why


def some(names: list[str]) -> str:
    """Names for a message, the first three of many."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
