"""Trials, or sounds, of a view on a device: what of them is there, what is sent, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from strfcube.adapters.torch.arena import Arena, arenas_for, beside, keep, rows, sent_over, staged, torch_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.loading.batch import BatchReader
    from strfcube.loading.ragged import Sounds, Trials

    Index = NDArray[np.intp]
    Lying = list[tuple[Tensor, Index]]  # memory, and which stimuli of a batch are in it


@dataclass
class Load:
    """What is sent for one batch, of trials or of sounds.

    Attributes
    ----------
    passing : bool
        Whether it is all of it, for this batch alone.
    fresh : list of (Arena or None, ndarray of int, Tensor)
        What is to be sent: where to, places of stimuli there, and their values, then missing ones.
    sent : Tensor or None
        The same on the device, for this batch alone, and the event that says so.
    """

    passing: bool
    fresh: list[tuple[Arena | None, Index, Tensor]] = field(default_factory=list)
    sent: Tensor | None = None
    event: Any = None


class Channel:
    """Trials, or sounds, of a view on a device.

    Parameters
    ----------
    kind : type
        `Trials` or `Sounds`.
    reader : BatchReader
        What the view reads.
    device : torch.device
        Where.
    """

    def __init__(self, kind: type[Trials] | type[Sounds], reader: BatchReader, device: torch.device) -> None:
        self._reader, self._device = reader, device
        self.flat: Any = kind(reader)
        self._at = np.searchsorted(self.flat.stim, reader.stim)  # of each visible stimulus, its place in `flat`
        self.arenas: list[Arena] = []
        # Of each stimulus of `flat`: its arena, and its place there
        self._of, self._place = np.full(len(self.flat.stim), -1), np.arange(len(self.flat.stim))

    def lacking(self) -> Index:
        """Stimuli, as positions in the cube, for which no view has made room on the device."""
        held = [arena.flat.stim for arena in arenas_for(self._reader.source, self.flat, self._device)]
        lacking: Index = np.setdiff1d(self.flat.stim, np.concatenate(held)) if held else self.flat.stim
        return lacking

    def settle(self) -> None:
        """Find the arenas that hold the stimuli, and make one for those that none does."""
        lacking, source = self.lacking(), self._reader.source
        held = arenas_for(source, self.flat, self._device)
        if len(lacking):
            held.append(Arena(type(self.flat)(self._reader, lacking), self._device))
            keep(source, held[-1])
        for arena in held:
            found = np.flatnonzero((self._of < 0) & np.isin(self.flat.stim, arena.flat.stim))
            if found.size:
                self._of[found] = len(self.arenas)
                self._place[found] = np.searchsorted(arena.flat.stim, self.flat.stim[found])
                self.arenas.append(arena)

    def _shared(self, k: Index) -> list[tuple[Arena, Index]]:
        """The arenas that hold some stimuli of `flat`, and which of the given ones each does."""
        if len(self.arenas) == 1:
            return [(self.arenas[0], np.arange(len(k)))]
        of = self._of[k]
        return [(self.arenas[i], np.flatnonzero(of == i)) for i in np.unique(of[of >= 0]).tolist()]

    def first(self, items: Index, *, passing: bool) -> NDArray[np.int64]:
        """Of trials, how many lie before those of each neuron of `flat` [shape=(B, neuron)], where they are held."""
        k = self._at[items]
        if passing:
            return np.asarray(self.flat.first[k])
        out = np.empty((len(k), len(self.flat.neuron)), np.int64)
        for arena, mine in self._shared(k):
            there: Any = arena.flat
            out[mine] = there.first[np.ix_(self._place[k[mine]], np.searchsorted(there.neuron, self.flat.neuron))]
        return out

    def lie(self, items: Index, *, passing: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where stimuli begin, and where missing values lie, in the memory that holds them [shape=(B,)]."""
        k = self._at[items]
        if passing:
            ends = np.cumsum(self.flat.sizes[k])
            return ends - self.flat.sizes[k], np.full(len(k), ends[-1:].sum())
        start, end = np.empty(len(k), np.int64), np.empty(len(k), np.int64)
        for arena, mine in self._shared(k):
            start[mine], end[mine] = arena.start[self._place[k[mine]]], arena.end
        return start, end

    def there(self, items: Index) -> NDArray[np.bool_]:
        """Which stimuli are on the device [shape=(B,)]."""
        k = self._at[items]
        out = np.zeros(len(k), bool)
        for arena, mine in self._shared(k):
            out[mine] = arena.there[self._place[k[mine]]]
        return out

    def load(self, items: Index, threads: int, *, passing: bool, pin: bool) -> Load:
        """Read what is not there, or all of it."""
        k = self._at[items]
        if passing:
            return Load(True, [(None, k, staged(self.flat, k, threads, pin=pin))])
        load = Load(False)
        for arena, mine in self._shared(k):
            places = self._place[k[mine]]
            new = places[~arena.there[places]]
            if new.size:
                new = np.unique(new)
                load.fresh.append((arena, new, staged(arena.flat, new, threads, pin=pin)))
        return load

    def send(self, load: Load) -> None:
        """Let it travel."""
        for arena, places, values in load.fresh:
            if arena is not None:
                arena.send(places, values)
                continue
            with beside(self._device) as stream:
                load.sent = values.to(self._device, non_blocking=True)
                load.event = None if stream is None else stream.record_event()
        load.fresh = []

    def lying(self, load: Load, items: Index, stream: Any) -> Lying:
        """Memory that holds the values of a batch, `flat.pad` missing ones last, and which of its stimuli are in it.

        Parameters
        ----------
        stream : torch.cuda.Stream or None
            Where they are read.
        """
        if not load.passing:
            return [(arena.read_on(stream), mine) for arena, mine in self._shared(self._at[items])]
        sent, load.sent = load.sent, None
        assert sent is not None
        if load.event is not None:
            stream.wait_event(load.event)
            sent.record_stream(stream)
        return [(sent, np.arange(len(items)))]

    def rows(self, lying: Lying, at: Tensor, width: int) -> Tensor:
        """Rows [shape=(B, ..., width)] that begin at some positions [shape=(B, ...)]."""
        if len(lying) == 1:
            return rows(lying[0][0], self.flat.pad, at, width)
        out = torch.empty((*at.shape, width), dtype=torch_dtype(self.flat), device=self._device)
        for values, mine in lying:
            some = sent_over(torch.from_numpy(mine), self._device)
            out[some] = rows(values, self.flat.pad, at[some], width)
        return out
