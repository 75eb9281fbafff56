"""Trials that equal others to the last spike, and spikes that stand twice in their trial: one of the two was copied.

Silent trials equal each other rightly, and so may trials of one or two spikes. Of 3.9 million spikes of real recordings
that were looked at, no two trials with a spike are equal, and no two spikes of a trial; times that were rounded to what
bins need may make a few so.
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

_THEN = "all are kept; if one was copied, responses look more reliable than they are"
_DOUBLED = 0.05  # of the spikes of a neuron, from which on no rounding made them equal
_LEAST = 5  # such spikes


@dataclass(frozen=True)
class Names:
    """What the numbers in a source's columns mean: files by code, stimuli and neurons by index."""

    files: Sequence[str]
    stim: Callable[[int], str]
    neuron: Callable[[int], str]


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
        what = f"{_trial(r, copy, names)} equals {_trial(r, first, names, r['file'][copy])}{more}"
        yield Finding("warning", names.files[file], what, _THEN)


def doubled(columns: spool.Columns, names: Names) -> Iterator[Finding]:
    """Neurons many of whose spikes stand twice, or more often, in their trial: one finding for each."""
    r = columns.rows
    row = np.repeat(np.arange(len(r["spikes"])), r["spikes"])
    same = np.append(False, (np.diff(columns.times) == 0) & (np.diff(row) == 0))[: len(row)]
    if not same.any():
        return
    whose = r["neuron"][row]
    again, spikes = np.bincount(whose[same]), np.bincount(whose)
    for neuron in np.flatnonzero(again >= np.maximum(_LEAST, _DOUBLED * spikes[: len(again)])).tolist():
        first = int(row[same & (whose == neuron)][0])
        what = f"{again[neuron]} of {spikes[neuron]} spike times repeat another one of their trial"
        then = "all are kept; if they were copied, counts are too high"
        yield Finding("warning", names.files[int(r["file"][first])], f"{what}, as in {_trial(r, first, names)}", then)


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
    stim, neuron = names.stim(int(r["stim"][row])), names.neuron(int(r["neuron"][row]))
    return f"trial {int(r['number'][row])} of {stim} to {neuron}{place}"
