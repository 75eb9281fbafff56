"""Ridge regression of many responses on tables of few sounds, from sums over the bins of each: numbers only.

Neurons that were observed in the same bins share all products of columns, and the penalty of each is chosen from these
sums alone: responses are read once, and no table of all sounds and lags is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Floats = NDArray[np.float64]
_KEPT = 500_000_000  # bytes of products that are kept for the next neurons


class Moments:
    """What a fit needs to know of the responses.

    Parameters
    ----------
    part : ndarray of int [shape=(stim,)]
        The part of the stimuli that each belongs to, from 0.
    columns, neurons : int
        How many.

    Attributes
    ----------
    bins, mean : ndarray [shape=(stim, neuron)]
        Bins that count, and the mean response in them.
    cross, power : ndarray of float [shape=(part, column, neuron) and (part, neuron)]
        Sums over bins of the responses about their mean in each stimulus, times a table, and squared.
    seen : list of ndarray of bool [shape=(pattern, bin)]
        Of each stimulus, the different choices of bins in which neurons were observed.
    pattern : ndarray of int [shape=(stim, neuron)]
        Which of them is that of a neuron.
    """

    def __init__(self, part: NDArray[np.intp], columns: int, neurons: int) -> None:
        parts, shape = int(part.max(initial=-1)) + 1, (len(part), neurons)
        self.part, self.bins, self.mean = part, np.zeros(shape, np.int64), np.zeros(shape)
        self.cross, self.power = np.zeros((parts, columns, neurons)), np.zeros((parts, neurons))
        self.seen: list[NDArray[np.bool_]] = [np.zeros((1, 0), bool)] * len(part)
        self.pattern = np.zeros(shape, np.intp)

    def add(self, stim: int, table: Floats, rate: NDArray[Any]) -> None:
        """Take in a stimulus.

        Parameters
        ----------
        stim : int
            Its position.
        table : ndarray [shape=(column, bin)]
            NaN in bins that do not count.
        rate : ndarray [shape=(neuron, bin or more)]
            NaN where nothing was observed.
        """
        rate = rate[:, : table.shape[1]].astype(np.float64)
        seen = np.isfinite(rate) & np.isfinite(table).all(0)
        bins = seen.sum(1)
        mean = np.where(seen, rate, 0).sum(1) / np.maximum(bins, 1)
        about = np.where(seen, rate - mean[:, None], 0)
        about[np.abs(about).max(1, initial=0) <= 1e-9 * np.abs(mean)] = 0  # a constant but for rounding
        self.cross[self.part[stim]] += np.nan_to_num(table, copy=False) @ about.T
        self.power[self.part[stim]] += np.vecdot(about, about)
        self.bins[stim], self.mean[stim] = bins, mean
        _, first, pattern = np.unique(np.packbits(seen, axis=1), axis=0, return_index=True, return_inverse=True)
        self.seen[stim], self.pattern[stim] = seen[first], pattern.ravel()


def solve(moments: Moments, table: Callable[[int], Floats], penalties: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights [shape=(column, neuron)], and of each neuron its offset, penalty and CC; NaN where there is none.

    Parameters
    ----------
    moments : Moments
        Of all stimuli.
    table : callable
        Gives that of a stimulus, by position.
    penalties : ndarray [shape=(alpha,)]
        To choose from.
    """
    columns, count = moments.cross.shape[1:]
    weights, (offset, alpha, cc) = np.full((columns, count), np.nan), np.full((3, count), np.nan)
    _, which = np.unique(moments.pattern, axis=1, return_inverse=True)
    groups = [np.flatnonzero(which.ravel() == k) for k in range(which.max(initial=-1) + 1)]

    @lru_cache(maxsize=_KEPT // (8 * columns**2) if len(groups) > 1 else 0)
    def products(stim: int, pattern: int) -> tuple[Floats, Floats]:
        used = table(stim)[:, moments.seen[stim][pattern]]
        return used @ used.T, used.sum(1)

    for neurons in groups:
        heard = moments.bins[:, neurons[0]] > 0
        parts = np.unique(moments.part[heard])
        if not len(parts) or (len(parts) < 2 and len(penalties) > 1):
            continue
        sums = [_Sums.of(np.flatnonzero(heard & (moments.part == p)), neurons, moments, products) for p in parts]
        best = np.zeros(len(neurons), np.intp)
        if len(parts) > 1:
            scores = _scores(sums, moments.power[np.ix_(parts, neurons)].sum(0), penalties)
            best = np.where(np.isnan(scores), -np.inf, scores).argmax(0)
            cc[neurons] = scores[best, np.arange(len(neurons))]
        alpha[neurons] = penalties[best]
        whole = sum(sums[1:], sums[0])
        for k, found in enumerate(whole.solved(penalties)):
            weights[:, neurons[best == k]] = found[:, best == k]
        offset[neurons] = (whole.response - whole.table @ weights[:, neurons]) / whole.bins
    return weights, offset, alpha, cc


def _scores(sums: list[_Sums], power: Floats, penalties: Floats) -> Floats:
    """CC of each penalty with the parts, each predicted from the others [shape=(alpha, neuron)]."""
    covariance, predicted = np.zeros((2, len(penalties), len(power)))
    for left_out, own in enumerate(sums):
        first, *others = (s for p, s in enumerate(sums) if p != left_out)
        for k, weights in enumerate(sum(others, first).solved(penalties)):
            covariance[k] += (weights * own.cross_about).sum(0)
            predicted[k] += (weights * (own.square_about @ weights)).sum(0)
    scale = predicted * power
    return np.where(scale > 0, covariance / np.sqrt(np.where(scale > 0, scale, 1)), np.nan)


@dataclass
class _Sums:
    """Sums over the bins of some stimuli, of neurons that were observed in the same ones.

    Attributes
    ----------
    bins : int
    table : ndarray [shape=(column,)]
    response : ndarray [shape=(neuron,)]
    square, square_about : ndarray [shape=(column, column)]
        Products of columns, and of columns about their mean in each stimulus.
    cross, cross_about : ndarray [shape=(column, neuron)]
        Products of columns with the responses, and the same about their means.
    """

    bins: int
    table: Floats
    response: Floats
    square: Floats
    square_about: Floats
    cross: Floats
    cross_about: Floats

    @classmethod
    def of(cls, stims: NDArray[np.intp], neurons: NDArray[np.intp], moments: Moments, products: Any) -> _Sums:
        """Sums over the stimuli of a part."""
        columns, part = moments.cross.shape[1], moments.part[stims[0]]
        bins, means = moments.bins[stims, neurons[0]], moments.mean[np.ix_(stims, neurons)]
        square, tables = np.zeros((columns, columns)), np.empty((len(stims), columns))
        for row, stim in enumerate(stims.tolist()):
            own, tables[row] = products(stim, int(moments.pattern[stim, neurons[0]]))
            square += own
        about = square - (tables / bins[:, None]).T @ tables
        cross = moments.cross[part][:, neurons]
        total = int(bins.sum()), tables.sum(0), bins @ means
        return cls(*total, square, about, cross + tables.T @ means, cross)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(own + theirs for own, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def solved(self, penalties: Floats) -> Iterator[Floats]:
        """Weights of each penalty [shape=(column, neuron)]."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        square = self.square - np.outer(self.table, self.table) / self.bins
        cross = self.cross - np.outer(self.table, self.response) / self.bins
        diagonal = np.diag_indices_from(square)
        own = square[diagonal]
        for penalty in penalties:
            square[diagonal] = own + penalty * self.bins
            try:
                factor = cho_factor(square, check_finite=False)
            except LinAlgError:
                raise UsageError(f"alphas: {penalty:g} is too little for these sounds, take more") from None
            yield cho_solve(factor, cross, check_finite=False)
