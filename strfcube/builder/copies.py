"""Trials that equal others to the last spike: no neuron fires twice like that, so that one was copied.

Silent trials equal each other rightly, and so may trials of one or two spikes; of 3.9 million spikes of real recordings
that were looked at, no two trials with a spike are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from strfcube.builder import spool

LEAST_SPIKES = 3  # that two trials, or the trials of two pairs, must share
_LEAST_BINS = 10  # not zero, of a sampled response
_THEN = "all are kept; if one was copied, responses look more reliable than they are"


@dataclass(frozen=True)
class Names:
    """What the numbers in a source's columns mean: files by code, stimuli and neurons by index."""

    files: Sequence[str]
    stim: Callable[[int], str]
    neuron: Callable[[int], str]


def prints(columns: spool.Columns) -> NDArray[np.uint64]:
    """A number for each trial, which equal responses share; 0 for what is too little to tell [shape=(trial,)]."""
    r = columns.rows
    spikes = _sums(_mixed(columns.times.view(np.uint64)), r["spikes"])
    found = np.where(r["spikes"] >= LEAST_SPIKES, spikes + r["spikes"].astype(np.uint64), np.uint64(0))
    if columns.values.size:
        there = np.isfinite(columns.values) & (columns.values != 0)
        bits = np.ascontiguousarray(columns.values).view(np.uint32).astype(np.uint64)
        starts = np.repeat(np.cumsum(r["bins"]) - r["bins"], r["bins"])
        at = (np.arange(len(bits)) - starts).astype(np.uint64) << np.uint64(32)
        traces = _sums(np.where(there, _mixed(bits | at), np.uint64(0)), r["bins"])
        many = _sums(there.astype(np.uint64), r["bins"]) >= _LEAST_BINS
        found = np.where(many, traces, found)
    return found


def within(columns: spool.Columns, marks: NDArray[np.uint64], names: Names) -> Iterator[Finding]:
    """What is equal in one source: one finding for each two files that share trials."""
    r = columns.rows
    rows = np.flatnonzero(marks)
    order = rows[np.lexsort((rows, marks[rows], r["neuron"][rows]))]
    same = (np.diff(marks[order]) == 0) & (np.diff(r["neuron"][order]) == 0)
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for at in np.flatnonzero(same).tolist():
        first, copy = int(order[at]), int(order[at + 1])
        groups.setdefault((int(r["file"][first]), int(r["file"][copy])), []).append((first, copy))
    for (_, file), pairs in groups.items():
        first, copy = pairs[0]
        more = f", and so do {len(pairs) - 1} more" if len(pairs) > 1 else ""
        what = f"trial {_trial(r, copy, names)} equals trial {_trial(r, first, names, r['file'][copy])}{more}"
        yield Finding("warning", names.files[file], what, _THEN)


def of_pairs(marks: NDArray[np.uint64], starts: NDArray[np.intp]) -> NDArray[np.uint64]:
    """A number for all trials of each pair of neuron and stimulus, 0 where they are too little to tell."""
    if not len(starts):
        return np.empty(0, np.uint64)
    sums = np.add.reduceat(_mixed(marks) * (marks > 0), starts)
    return np.where(np.add.reduceat((marks > 0).astype(np.uint64), starts) > 0, sums, np.uint64(0))


def between(summaries: Sequence[spool.Summary], neurons: Sequence[str]) -> Iterator[Finding]:
    """What is equal in the trials of two neurons: one finding for each two."""
    if not summaries:
        return
    ends = np.cumsum([len(s.prints) for s in summaries])
    marks, neuron, at = (
        np.concatenate(parts)
        for parts in zip(*(_telling(s, int(end)) for s, end in zip(summaries, ends, strict=True)), strict=True)
    )
    order = np.lexsort((neuron, marks))
    groups: dict[tuple[int, int], list[int]] = {}
    same = (np.diff(marks[order]) == 0) & (np.diff(neuron[order]) != 0)
    for i in np.flatnonzero(same).tolist():
        groups.setdefault((int(neuron[order[i]]), int(neuron[order[i + 1]])), []).append(int(order[i + 1]))
    for (first, copy), found in groups.items():
        pair = int(at[found[0]])
        of = int(np.searchsorted(ends, pair, side="right"))
        file = summaries[of].files[summaries[of].pair_files[pair - int(ends[of])]]  # from the end: a negative position
        what = f"neuron {neurons[copy]} has the same responses as {neurons[first]}, to {len(found)} of its stimuli"
        yield Finding("warning", file, what, "both are kept; if one was copied, it is one neuron")


def _telling(summary: spool.Summary, end: int) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]:
    """Print, neuron and number of the pairs of a source that hold enough to tell, counted up to `end`."""
    there = np.flatnonzero(summary.prints)
    return summary.prints[there], summary.pairs[there, 0], there + (end - len(summary.prints))


def _trial(r: dict[str, NDArray[Any]], row: int, names: Names, file: int = -1) -> str:
    place = f" in {names.files[int(r['file'][row])]}" if file not in (-1, int(r["file"][row])) else ""
    return (
        f"{int(r['number'][row])} of {names.stim(int(r['stim'][row]))} to {names.neuron(int(r['neuron'][row]))}{place}"
    )


def _sums(values: NDArray[np.uint64], sizes: NDArray[Any]) -> NDArray[np.uint64]:
    """Sums of rows of those sizes, modulo 2^64."""
    out = np.zeros(len(sizes), np.uint64)
    there = np.flatnonzero(sizes)
    if len(there):
        out[there] = np.add.reduceat(values, (np.cumsum(sizes) - sizes)[there])
    return out


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each value spread over 64 bits, so that sums of different ones differ (the finaliser of SplitMix64)."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
