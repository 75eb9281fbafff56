"""Batches of the trials that there are: a row each, and where it stands among stimuli, neurons and repeats.

Of 70,000 neurons of which a stimulus was played to 3,500, an array with a place for every neuron is twenty times larger
than what was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.intp]

# What a batch holds a row of for each trial; `stim_index` beside them is left out of an item
OF_TRIALS = ("responses", "valid_mask", "neuron_index", "repeat_index")


@dataclass(frozen=True)
class Rows:
    """Trials in stimulus, neuron, repeat order.

    Attributes
    ----------
    stim, neuron, repeat : ndarray of int [shape=(trial,)]
        Positions in a batch.
    edges : ndarray of int [shape=(stim + 1,)]
        First row of each stimulus, and their number.
    """

    stim: Index
    neuron: Index
    repeat: Index
    edges: Index

    @classmethod
    def of(cls, counts: NDArray[Any]) -> Self:
        """Those of a number of repeats of each pair [shape=(stim, neuron)]."""
        stim, neuron = np.nonzero(counts)
        sizes = counts[stim, neuron].astype(np.intp)
        ends = np.cumsum(sizes)
        repeat = np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
        edges = np.concatenate([[0], ends])[np.searchsorted(stim, np.arange(len(counts) + 1))]
        return cls(np.repeat(stim, sizes), np.repeat(neuron, sizes), repeat, edges)

    def __len__(self) -> int:
        return len(self.stim)

    def of_stimulus(self, b: int) -> slice:
        """The rows of one stimulus."""
        return slice(int(self.edges[b]), int(self.edges[b + 1]))

    def indices(self) -> dict[str, Index]:
        """As a batch has them."""
        return {"stim_index": self.stim, "neuron_index": self.neuron, "repeat_index": self.repeat}


def mean_over_repeats(
    values: NDArray[np.float32],
    seen: NDArray[np.bool_],
    repeat: Index,
    out: NDArray[np.float32],
    mask: NDArray[np.bool_],
) -> None:
    """Mean of what was observed of each neuron of one stimulus.

    Parameters
    ----------
    values, seen : ndarray [shape=(trial, time)]
        Values, and where there are such.
    repeat : ndarray of int [shape=(trial,)]
        0 where the trials of a neuron begin.
    out, mask : ndarray [shape=(neuron, time)]
        Where to; NaN where nothing was observed.
    """
    if not len(repeat):
        return
    starts = np.flatnonzero(repeat == 0)
    total = np.add.reduceat(np.where(seen, values, np.float32(0)), starts, axis=0)
    count = np.add.reduceat(seen.astype(np.float32), starts, axis=0)
    np.greater(count, 0, out=mask)
    out[...] = np.nan
    np.divide(total, count, out=out, where=mask)
