"""Numbers that tell equal responses: of a trial, and of all trials of a pair of neuron and stimulus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_LEAST_SPIKES = 3  # that two trials, or the trials of two pairs, must share
_LEAST_BINS = 10  # not zero, of a sampled response


def of_trials(
    rows: Mapping[str, NDArray[Any]], times: NDArray[np.int64], values: NDArray[np.float32]
) -> NDArray[np.uint64]:
    """A number for each trial, which equal responses share; 0 for what is too little to tell [shape=(trial,)].

    Parameters
    ----------
    rows, times, values
        As `strfcube.builder.spool.Columns` has them.
    """
    spikes = _sums(_mixed(times.view(np.uint64)), rows["spikes"])
    found = np.where(rows["spikes"] >= _LEAST_SPIKES, spikes + rows["spikes"].astype(np.uint64), np.uint64(0))
    if values.size:
        there = np.isfinite(values) & (values != 0)
        bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
        starts = np.repeat(np.cumsum(rows["bins"]) - rows["bins"], rows["bins"])
        at = (np.arange(len(bits)) - starts).astype(np.uint64) << np.uint64(32)
        traces = _sums(np.where(there, _mixed(bits | at), np.uint64(0)), rows["bins"])
        many = _sums(there.astype(np.uint64), rows["bins"]) >= _LEAST_BINS
        found = np.where(many, traces, found)
    return found


def of_pairs(marks: NDArray[np.uint64], starts: NDArray[np.intp]) -> NDArray[np.uint64]:
    """A number for all trials of each pair of neuron and stimulus, 0 where they are too little to tell."""
    if not len(starts):
        return np.empty(0, np.uint64)
    sums = np.add.reduceat(_mixed(marks) * (marks > 0), starts)
    return np.where(np.add.reduceat((marks > 0).astype(np.uint64), starts) > 0, sums, np.uint64(0))


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
