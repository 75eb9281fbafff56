"""Trials and sounds one after the other, without padding: what is kept on a device, or sent to it for one batch."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.select import Choice
from strfcube.cube.response_reader import LazyReader
from strfcube.loading.batch import BatchReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.intp]


class Trials:
    """Responses of some stimuli and neurons as they are stored: of each stimulus trial after trial, neuron by neuron.

    Parameters
    ----------
    reader : BatchReader
        What a view reads. Pairs that it leaves out are there, too: whoever reads passes them over.
    stim : ndarray of int, optional
        Those of its stimuli, as positions in the cube, that are wanted. Default: all.

    Attributes
    ----------
    stim, neuron : ndarray of int
        Positions in the cube, rising, each once.
    first : ndarray of int [shape=(stim, neuron)]
        Trials of the stimulus that lie before those of a neuron.
    sizes : ndarray of int [shape=(stim,)]
        Number of values.
    pad : int
        Values of the longest trial of the cube.
    """

    def __init__(self, reader: BatchReader, stim: Index | None = None) -> None:
        source = reader.source
        self.stim, self.neuron = np.unique(reader.stim if stim is None else stim), np.unique(reader.neuron)
        self._reader = _plain(reader, self.stim, self.neuron)
        self._counts = source.n_repeats[np.ix_(self.stim, self.neuron)].astype(np.int64)
        ends = self._counts.cumsum(1)
        self.first = ends - self._counts
        self._bins = source.n_bins[self.stim].astype(np.int64)
        self.sizes = ends[:, -1] * self._bins
        self.pad = int(source.n_bins.max(initial=1))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Counts of one or two bytes as they are stored; anything else decoded, as float32 with NaN."""
        stored = self._reader.stored_dtypes
        one = next(iter(stored)) if len(stored) == 1 else np.dtype("f4")
        responses: Any = self._reader._responses
        counts = one in (np.dtype("u1"), np.dtype("u2")) and responses.fill == np.iinfo(one).max
        return one if counts else np.dtype("f4")

    @property
    def fill(self) -> float:
        """Missing value."""
        return math.nan if self.dtype.kind == "f" else int(np.iinfo(self.dtype).max)

    def serves(self, other: Trials | Sounds) -> bool:
        """Whether what `other` holds of the same stimuli of the cube can be found in this."""
        return (
            isinstance(other, Trials) and self.dtype == other.dtype and bool(np.isin(other.neuron, self.neuron).all())
        )

    def read(self, k: int, out: NDArray[Any]) -> None:
        """Read one stimulus into memory of its size."""
        counts, bins = self._counts[k], int(self._bins[k])
        most = int(counts.max(initial=0))
        if not out.size:
            return
        full = bool((counts == most).all())
        shape = (len(counts), most, bins)
        room = out.reshape(shape) if full else self._reader.source.buffers.take(shape, self.dtype)
        responses: Any = self._reader._responses
        if isinstance(responses, LazyReader):
            (values,) = responses.fetch([int(self.stim[k])], threads=False)
            responses.place(values, counts, bins, room, self._reader.source.buffers.take(shape, bool))
        else:
            responses.read(int(self.stim[k]), counts, bins, room)
        if not full:
            there = np.arange(most) < counts[:, None]
            np.compress(there.ravel(), room.reshape(-1, bins), axis=0, out=out.reshape(-1, bins))


class Sounds:
    """Spectrograms, or waveforms at one rate, of some stimuli: rows of valid bins (or samples), one after the other.

    Parameters
    ----------
    reader : BatchReader
        What a view reads.
    stim : ndarray of int, optional
        As of `Trials`.

    Attributes
    ----------
    stim, sizes, pad
        As of `Trials`.
    rows : int
        Bands; 1 of a waveform.
    per_bin : int
        Samples of a bin; 1 of a spectrogram.
    """

    dtype = np.dtype("f4")
    fill = 0.0

    def __init__(self, reader: BatchReader, stim: Index | None = None) -> None:
        source, self._fs = reader.source, reader.reading.audio_fs
        self.stim = np.unique(reader.stim if stim is None else stim)
        self._reader = _plain(reader, self.stim, reader.neuron[:1])
        self.rows = source.cube.sizes["frequency"] if self._fs is None else 1
        self.per_bin = 1 if self._fs is None else source.waveforms(self._fs).per_bin
        self._bins = source.n_bins[self.stim].astype(np.int64)
        self.sizes = self._bins * self.per_bin * self.rows
        self.pad = int(source.n_bins.max(initial=1)) * self.per_bin

    def serves(self, other: Trials | Sounds) -> bool:
        """Whether what `other` holds of the same stimuli of the cube can be found in this."""
        return isinstance(other, Sounds) and self._fs == other._fs

    def read(self, k: int, out: NDArray[Any]) -> None:
        """Read one stimulus into memory of its size."""
        if self._fs is None:
            out.reshape(self.rows, -1)[...] = self._reader.spectrogram(k)
        else:
            wave = self._reader.source.waveforms(self._fs).read(int(self.stim[k]), int(self._bins[k]))
            out[: len(wave)] = wave
            out[len(wave) :] = 0


def _plain(reader: BatchReader, stim: Index, neuron: Index) -> BatchReader:
    reading = dataclasses.replace(
        reader.reading, extra=(), average_repeats=False, smooth_ms=None, standardize=None, normalize=None
    )
    return BatchReader(reader.source, Choice(stim, neuron), reading)
