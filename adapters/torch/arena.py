"""Memory of a device for values of stimuli without padding: kept there and filled once, or for one batch."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import Tensor

from strfcube.loading.memory import each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from strfcube.loading.ragged import Sounds, Trials
    from strfcube.loading.source import Source

_DTYPES = {"u1": torch.uint8, "u2": torch.int16, "f4": torch.float32}  # uint16 of torch knows few operations


class Arena:
    """Values of stimuli, one after the other, and as many missing ones past the end as the longest row has.

    Parameters
    ----------
    flat : Trials or Sounds
        What lies in it; read when it is needed first.
    device : torch.device
        Where.

    Attributes
    ----------
    start : ndarray of int [shape=(stim,)]
        Where each stimulus begins.
    there : ndarray of bool [shape=(stim,)]
        Which of them have been sent.
    """

    def __init__(self, flat: Trials | Sounds, device: torch.device) -> None:
        self.flat, self.device = flat, device
        self.start = np.cumsum(flat.sizes) - flat.sizes
        self.end = int(flat.sizes.sum())
        self.there = np.zeros(len(flat.sizes), bool)
        with torch.inference_mode(False):  # whoever asks first, others send the rest
            self.values = torch.empty(self.end + flat.pad, dtype=torch_dtype(flat), device=device)
        self.values[self.end :] = missing(flat)
        self._sent: Any = None
        self._known: set[Any] = set()
        if device.type == "cuda":
            self.values.record_stream(stream_for(device))
            self._sent = torch.cuda.current_stream(device).record_event()

    @property
    def nbytes(self) -> int:
        """Size."""
        return self.values.numel() * self.values.element_size()

    def send(self, places: NDArray[np.intp], values: Tensor) -> None:
        """Take stimuli over, one after the other; on an accelerator, beside what it is computing.

        Parameters
        ----------
        places : ndarray of int
            Which.
        values : Tensor
            As `staged` gives them.
        """
        with beside(self.device) as stream:
            if stream is not None and self._sent is not None:
                stream.wait_event(self._sent)
            at = 0
            for k in places.tolist():
                start, size = int(self.start[k]), int(self.flat.sizes[k])
                self.values[start : start + size].copy_(values[at : at + size], non_blocking=True)
                at += size
            if stream is not None:
                self._sent = stream.record_event()
        self.there[places] = True

    def read_on(self, stream: Any) -> Tensor:
        """The values, for what reads them on some stream."""
        if stream is not None:
            if stream not in self._known:  # whoever frees the memory waits for what runs there
                self._known.add(stream)
                self.values.record_stream(stream)
            sent = self._sent  # another thread may send more meanwhile
            if sent is not None and not sent.query():
                stream.wait_event(sent)
        return self.values


def rows(values: Tensor, spare: int, at: Tensor, width: int) -> Tensor:
    """Rows of a flat tensor that begin at some positions [shape=(..., width)]; at most `spare` from its end.

    Overlapping windows of it are indexed: one operation, with one number a row.
    """
    return values.as_strided((len(values) - spare + 1, width), (1, 1))[at]


def torch_dtype(flat: Trials | Sounds) -> torch.dtype:
    """Dtype in which torch holds them; a uint16 as the int16 of the same bits."""
    return _DTYPES[flat.dtype.str[1:]]


def missing(flat: Trials | Sounds) -> float:
    """What stands for a missing value, in that dtype."""
    return -1 if flat.dtype == np.dtype("u2") else flat.fill


def staged(flat: Trials | Sounds, which: NDArray[np.intp], threads: int, *, pin: bool) -> Tensor:
    """Read some stimuli, one after the other and `flat.pad` missing values behind, for their way to a device."""
    ends = np.cumsum(flat.sizes[which])
    total = int(ends[-1]) if len(ends) else 0
    values = torch.empty(total + flat.pad, dtype=torch_dtype(flat), pin_memory=pin)
    values[total:] = missing(flat)
    room = values.numpy().view(flat.dtype)

    def one(b: int) -> None:
        k = int(which[b])
        flat.read(k, room[int(ends[b] - flat.sizes[k]) : int(ends[b])])

    each(one, len(which), threads)
    return values


def sent_over(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, on the current stream; through page-locked memory, so that nobody waits."""
    if device.type == "cuda" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


@cache
def stream_for(device: torch.device) -> Any:
    """The stream of a device for bytes that travel there: one."""
    stream: Any = torch.cuda.Stream  # untyped
    return stream(device)


@contextmanager
def beside(device: torch.device) -> Iterator[Any]:
    """Do something on that stream; None where a device has no streams."""
    if device.type != "cuda":
        yield None
        return
    stream = stream_for(device)
    with torch.cuda.stream(stream):
        yield stream


_kept: WeakKeyDictionary[Source, dict[torch.device, WeakSet[Arena]]] = WeakKeyDictionary()


def arenas_for(source: Source, flat: Trials | Sounds, device: torch.device) -> list[Arena]:
    """Arenas of a cube on a device that hold what is wanted, all of it or a part; the views that made them live.

    Parameters
    ----------
    source : Source
        The cube.
    flat : Trials or Sounds
        What is wanted.
    """
    here = _kept.get(source, {}).get(device, WeakSet())
    return [arena for arena in here if arena.flat.serves(flat)]


def keep(source: Source, arena: Arena) -> None:
    """Let other views of a cube find an arena, as long as one lives that uses it."""
    _kept.setdefault(source, {}).setdefault(arena.device, WeakSet()).add(arena)
