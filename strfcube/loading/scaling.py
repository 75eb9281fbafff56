"""Statistics of a view's stimuli and responses, one stimulus at a time."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from strfcube.loading.batch import BatchReader

Pair = tuple[NDArray[Any], NDArray[Any]]


class _Moments:
    """Mean and sum of squares about it, in parts (Chan's update: a large offset costs no digits)."""

    def __init__(self) -> None:
        self.count: Any = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, count: Any, mean: Any, squares: Any) -> None:
        both = np.maximum(self.count + count, 1)
        self._squares = self._squares + squares + (mean - self.mean) ** 2 * (self.count * count / both)
        self.mean = self.mean + (mean - self.mean) * (count / both)
        self.count = self.count + count

    @property
    def deviation(self) -> Any:
        """Standard deviation; 1 where there is none but what rounding leaves, so that a constant stays finite."""
        deviation = np.sqrt(self._squares / np.maximum(self.count, 1))
        rounding = 4 * np.finfo(np.float64).eps * self.count * np.abs(self.mean)
        return np.where(deviation > rounding, deviation, 1)


def _plain(reader: BatchReader, **changes: Any) -> BatchReader:
    return BatchReader(reader.source, reader.choice, dataclasses.replace(reader.reading, extra=(), **changes))


def stimulus_moments(reader: BatchReader, per: Literal["band", "all"]) -> Pair:
    """Mean and standard deviation of the spectrograms over what is there of their valid bins.

    Returns
    -------
    tuple of ndarray [shape=(frequency, 1) or (1, 1)]
    """
    plain = _plain(reader, standardize=None, mode="spectrogram", audio_fs=None)
    axes = (1,) if per == "band" else (0, 1)
    moments = _Moments()
    for item in range(len(plain.stim)):
        values = plain.spectrogram(item).astype(np.float64)
        there = ~np.isnan(values)  # a sound has no value in bands above half its sampling rate
        count = there.sum(axes, keepdims=True)
        mean = values.sum(axes, keepdims=True, where=there) / np.maximum(count, 1)
        moments.add(count, mean, ((values - mean) ** 2).sum(axes, keepdims=True, where=there))
    return np.asarray(moments.mean, np.float32), np.asarray(moments.deviation, np.float32)


def response_scaling(reader: BatchReader, method: Literal["max", "zscore"], threads: int) -> Pair:
    """Shift and scale of the responses of each neuron, as the view reads them.

    Returns
    -------
    tuple of ndarray [shape=(visible neuron,)]
        0 and 1 for neurons without data.
    """
    plain = _plain(reader, normalize=None, layout="ragged", cache="none")  # read by the host, whoever else keeps what
    size = len(plain.neuron)
    moments, top = _Moments(), np.zeros(size)
    for item in range(len(plain.stim)):
        batch = plain.batch([item], threads=threads)
        values, seen, neuron = batch["responses"].astype(np.float64), batch["valid_mask"], batch["neuron_index"]
        values[~seen] = 0
        np.maximum.at(top, neuron, np.abs(values).max(1))
        count = np.bincount(neuron, seen.sum(1), size)
        mean = np.bincount(neuron, values.sum(1), size) / np.maximum(count, 1)
        squares = (np.where(seen, values - mean[neuron, None], 0) ** 2).sum(1)
        moments.add(count, mean, np.bincount(neuron, squares, size))
    if method == "zscore":
        return np.asarray(moments.mean), np.asarray(moments.deviation)
    return np.zeros(len(top)), np.where(top > 0, top, 1)
