"""Ridge regression of many responses on tables of few sounds, from sums over the bins of each: numbers only.

Neurons that were observed in the same bins share all products of columns, and the penalty of each is chosen from these
sums alone: responses are read once, and no table of all sounds and lags is made.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from strfcube.analysis.lags import pieces
from strfcube.blas import one_thread
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Floats = NDArray[np.float64]
_KEPT = 500_000_000  # bytes of products that are kept for the next neurons


class Tables(Protocol):
    """Columns that responses are fitted to."""

    def usable(self, stim: int) -> NDArray[np.bool_]:
        """Which bins of a stimulus count [shape=(bin,)]."""

    def table(self, stim: int, bins: slice) -> Floats:
        """Columns in some of its bins [shape=(column, bin)]; anything in those that do not count."""


class Ridge:
    """A regression of all neurons; parts of the stimuli are worked on side by side.

    Each is left to one thread, in order, and so is each product: numbers are the same however many there are, and BLAS'
    own threads, which wait for one another after every few operations, take ten times as long where others compute too.

    Parameters
    ----------
    part : ndarray of int [shape=(stim,)]
        The part of the stimuli that each belongs to, from 0.
    tables : Tables
        Those of the stimuli.
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

    def __init__(
        self, part: NDArray[np.intp], tables: Tables, columns: int, neurons: int
    ) -> None:  # fmt: skip
        self.parts, shape = int(part.max(initial=-1)) + 1, (len(part), neurons)
        self.part, self.tables, self.columns = part, tables, columns
        self.bins, self.mean = np.zeros(shape, np.int64), np.zeros(shape)
        self.cross, self.power = np.zeros((self.parts, columns, neurons)), np.zeros((self.parts, neurons))
        self.seen: list[NDArray[np.bool_]] = [np.zeros((1, 0), bool)] * len(part)
        self.pattern = np.zeros(shape, np.intp)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        import scipy.linalg  # noqa: F401  (it has a BLAS of its own, which is there only then)

        self._open.enter_context(one_thread())
        self._pool = self._open.enter_context(ThreadPoolExecutor(max(1, min(self.parts, os.cpu_count() or 1))))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _side_by_side(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(task, items))

    def add(self, first: int, rates: NDArray[Any]) -> None:
        """Take in some stimuli.

        Parameters
        ----------
        first : int
            Position of the first of them.
        rates : ndarray [shape=(stim, neuron, bin)]
            NaN where nothing was observed.
        """

        def of_part(part: int) -> None:
            for stim in first + np.flatnonzero(self.part[first : first + len(rates)] == part):
                self._add(int(stim), rates[stim - first])

        self._side_by_side(of_part, range(self.parts))

    def _add(self, stim: int, rate: NDArray[Any]) -> None:
        usable, part = self.tables.usable(stim), self.part[stim]
        rounding = 4 * np.finfo(np.result_type(rate, np.float32)).eps  # of means of the same over fewer repeats
        rate = rate[:, : len(usable)].astype(np.float64)
        seen = np.isfinite(rate) & usable
        bins = seen.sum(1)
        mean = np.where(seen, rate, 0).sum(1) / np.maximum(bins, 1)
        about = np.where(seen, rate - mean[:, None], 0)
        about[np.abs(about).max(1, initial=0) <= rounding * np.abs(mean)] = 0  # a constant
        for span in pieces(len(usable), self.columns):
            self.cross[part] += np.nan_to_num(self.tables.table(stim, span), copy=False) @ about[:, span].T
        self.power[part] += np.vecdot(about, about)
        self.bins[stim], self.mean[stim] = bins, mean
        _, first, pattern = np.unique(np.packbits(seen, axis=1), axis=0, return_index=True, return_inverse=True)
        self.seen[stim], self.pattern[stim] = seen[first], pattern.ravel()

    def solve(self, penalties: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Weights [shape=(column, neuron)], and of each neuron its offset, penalty and CC; NaN where there is none.

        Parameters
        ----------
        penalties : ndarray [shape=(alpha,)]
            To choose from.
        """
        count = self.bins.shape[1]
        weights, (offset, alpha, cc) = np.full((self.columns, count), np.nan), np.full((3, count), np.nan)
        _, which = np.unique(self.pattern, axis=1, return_inverse=True)
        groups = [np.flatnonzero(which.ravel() == k) for k in range(which.max(initial=-1) + 1)]

        @lru_cache(maxsize=_KEPT // (8 * self.columns**2) if len(groups) > 1 else 0)
        def products(stim: int, pattern: int) -> tuple[Floats, Floats]:
            seen = self.seen[stim][pattern]
            square, total = np.zeros((self.columns, self.columns)), np.zeros(self.columns)
            for span in pieces(len(seen), self.columns):
                used = self.tables.table(stim, span)[:, seen[span]]
                square += used @ used.T
                total += used.sum(1)
            return square, total

        for neurons in groups:
            heard = self.bins[:, neurons[0]] > 0
            parts = np.unique(self.part[heard])
            if not len(parts) or (len(parts) < 2 and len(penalties) > 1):
                continue
            stims = [np.flatnonzero(heard & (self.part == p)) for p in parts]
            sums = self._side_by_side(partial(_Sums.of, neurons=neurons, ridge=self, products=products), stims)
            best = np.zeros(len(neurons), np.intp)
            if len(parts) > 1:
                moments = self._side_by_side(partial(_left_out, sums, penalties), range(len(sums)))
                covariance, predicted = np.sum(moments, axis=0)
                scale = predicted * self.power[np.ix_(parts, neurons)].sum(0)
                scores = np.where(scale > 0, covariance / np.sqrt(np.where(scale > 0, scale, 1)), np.nan)
                best = np.where(np.isnan(scores), -np.inf, scores).argmax(0)
                cc[neurons] = scores[best, np.arange(len(neurons))]
            alpha[neurons] = penalties[best]
            whole = sum(sums[1:], sums[0])
            for k, found in enumerate(whole.solved(penalties)):
                weights[:, neurons[best == k]] = found[:, best == k]
            offset[neurons] = (whole.response - whole.table @ weights[:, neurons]) / whole.bins
        return weights, offset, alpha, cc


def _left_out(sums: list[_Sums], penalties: Floats, part: int) -> Floats:
    """Of a part that is predicted from the others, covariance with the responses, and variance, times its bins.

    Of each penalty and neuron [shape=(2, alpha, neuron)].
    """
    own, (first, *others) = sums[part], (s for p, s in enumerate(sums) if p != part)
    solved = list(sum(others, first).solved(penalties))
    covariance = [(weights * own.cross_about).sum(0) for weights in solved]
    return np.array([covariance, [(weights * (own.square_about @ weights)).sum(0) for weights in solved]])


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
        Products of columns with the responses, and with the responses about their means.
    """

    bins: int
    table: Floats
    response: Floats
    square: Floats
    square_about: Floats
    cross: Floats
    cross_about: Floats

    @classmethod
    def of(cls, stims: NDArray[np.intp], neurons: NDArray[np.intp], ridge: Ridge, products: Any) -> _Sums:
        """Sums over the stimuli of a part."""
        bins, means = ridge.bins[stims, neurons[0]], ridge.mean[np.ix_(stims, neurons)]
        square, tables = np.zeros((ridge.columns, ridge.columns)), np.empty((len(stims), ridge.columns))
        for row, stim in enumerate(stims.tolist()):
            own, tables[row] = products(stim, int(ridge.pattern[stim, neurons[0]]))
            square += own
        about = square - (tables / bins[:, None]).T @ tables
        cross = ridge.cross[ridge.part[stims[0]]][:, neurons]
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
