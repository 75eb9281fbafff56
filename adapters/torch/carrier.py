"""Batches of a view that are made on a device, of bytes that stay there or pass through."""

from __future__ import annotations

import logging
import threading
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from strfcube.adapters.torch.arena import Arena, sent_over, torch_dtype
from strfcube.adapters.torch.channel import Channel, Load
from strfcube.adapters.torch.decode import Transform, responses, sounds
from strfcube.analysis.transform import hann_kernel
from strfcube.loading.ragged import Sounds, Trials

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from strfcube.adapters.torch.channel import Index, Lying
    from strfcube.loading.batch import BatchReader

_log = logging.getLogger(__name__)
_MANY = 1 << 16  # stimuli in a batch that a kernel cannot number
_FAR = 1 << 31  # values of a stimulus that 32 bits cannot number
SHARE = {"auto": 0.25, "device": 0.75}  # of the free memory of an accelerator that stored bytes may take


class Places(NamedTuple):
    """Where the values of stimuli lie, in the memory that holds them.

    Attributes
    ----------
    neurons : Tensor of int32 or int64 [shape=(stim, 2, neuron)]
        Where the trials of each neuron begin, from those of the first, and how many they are.
    stims : Tensor of int64 [shape=(stim, 4)]
        Where trials begin, where the sound begins, bins, and where missing responses lie.
    """

    neurons: Tensor
    stims: Tensor

    def on(self, device: torch.device) -> Places:
        """The same on a device."""
        return Places(sent_over(self.neurons, device), sent_over(self.stims, device))


@dataclass
class Staged:
    """A batch on its way to a device.

    Attributes
    ----------
    items : list of int
        Positions among the visible stimuli.
    places : Places or None
        Where they will lie; None if they stay.
    trials, sounds : Load
        What is sent for it.
    """

    items: list[int]
    places: Places | None
    trials: Load
    sounds: Load

    def pin_memory(self, device: Any = None) -> Staged:
        """The same in page-locked memory: what a DataLoader with workers calls."""
        for load in (self.trials, self.sounds):
            load.fresh = [(arena, places, values.pin_memory()) for arena, places, values in load.fresh]
        if self.places is not None:
            self.places = Places(*(values.pin_memory() for values in self.places))
        return self


class Carrier:
    """Makes the batches of a view on a device.

    Parameters
    ----------
    reader : BatchReader
        What the view reads.
    device : torch.device
        Where.
    dtype : torch.dtype
        Of stimuli and responses.
    """

    def __init__(self, reader: BatchReader, device: torch.device, dtype: torch.dtype) -> None:
        self.reader, self.device, self.dtype = reader, device, dtype
        self._trials, self._sounds = Channel(Trials, reader, device), Channel(Sounds, reader, device)
        # Of each visible neuron, its place among the rising ones
        columns = np.searchsorted(self._trials.flat.neuron, reader.neuron)
        self._columns = slice(None) if np.array_equal(columns, np.arange(len(columns))) else columns
        self._rows, self._per_bin = self._sounds.flat.rows, self._sounds.flat.per_bin
        self._lock = threading.Lock()
        self._whole = False
        self._stay: bool | None = None
        self._known: set[Any] = set()

    @property
    def arenas(self) -> list[Arena]:
        """Memory on the device that the view uses, and perhaps others with it."""
        return [*self._trials.arenas, *self._sounds.arenas]

    def there(self, items: Sequence[int] | Index) -> NDArray[np.bool_]:
        """Which stimuli are on the device."""
        index = np.asarray(items, np.intp)
        return self._trials.there(index) & self._sounds.there(index)

    def whole(self) -> bool:
        """Whether all stimuli are on the device; once they are, nobody looks again."""
        self._whole = self._whole or bool(self.there(np.arange(len(self.reader.stim))).all())
        return self._whole

    def stays(self) -> bool:
        """Whether what is stored stays on the device; found out once, and room made for it then."""
        with self._lock:
            if self._stay is None:
                cache = self.reader.reading.cache
                self._stay = cache in SHARE and self._fits(cache)
                if self._stay:
                    self._trials.settle()
                    self._sounds.settle()
        return self._stay

    def _fits(self, cache: str) -> bool:
        free = free_bytes(self.device)
        if free is None:
            return cache == "device"
        wanted = 8 * self.reader.n_repeats.size  # places of all pairs
        for channel in (self._trials, self._sounds):
            lacking = np.isin(channel.flat.stim, channel.lacking())
            wanted += int(channel.flat.sizes[lacking].sum()) * channel.flat.dtype.itemsize
        if wanted > SHARE[cache] * free and cache == "device":
            warnings.warn(
                f"cache='device': {wanted / 1e9:.3g} GB are more than {SHARE[cache]:.0%} of the {free / 1e9:.3g} GB "
                f"free on {self.device}: what is stored is sent there with each batch",
                stacklevel=2,
            )
        return bool(wanted <= SHARE[cache] * free)

    def stage(self, items: list[int], threads: int, *, passing: bool) -> Staged:
        """Read what a batch needs that is not there, and say where everything lies.

        Parameters
        ----------
        passing : bool
            Read all of it, and touch no device: in a worker.
        """
        index = np.asarray(items, np.intp)
        pin = self.device.type == "cuda" and not passing
        passing = passing or not self.stays()
        new = index if passing else index[:0] if self.whole() else index[~self.there(index)]
        trials = heard = Load(passing)
        if passing or len(new):
            self.reader.fetch(new.tolist())
            trials = self._trials.load(new, threads, passing=passing, pin=pin)
            heard = self._sounds.load(new, threads, passing=passing, pin=pin)
        return Staged(items, self._places(index, passing=True) if passing else None, trials, heard)

    def _places(self, index: Index, *, passing: bool) -> Places:
        """Places of some stimuli, in the memory of the host."""
        bins = self.reader.n_bins[index].astype(np.int64)
        start, end = self._trials.lie(index, passing=passing)
        heard, _ = self._sounds.lie(index, passing=passing)
        first = self._trials.first(index, passing=passing)[:, self._columns]
        neurons = np.stack((first * bins[:, None], self.reader.n_repeats[index]), 1)
        # Of memory that a wider view made, too
        farthest = ((first + self.reader.n_repeats[index]) * bins[:, None]).max(initial=0)
        return Places(
            torch.from_numpy(neurons.astype(np.int32 if farthest < _FAR else np.int64)),
            torch.from_numpy(np.stack((start, heard, bins, end), 1)),
        )

    def begin(self, batch: Staged) -> None:
        """Send what a batch needs."""
        self._trials.send(batch.trials)
        self._sounds.send(batch.sounds)

    def finish(self, batch: Staged) -> dict[str, Tensor]:
        """Arrays of a batch; see `strfcube.loading.batch.BatchReader.batch`.

        Nothing in it waits for the device; what can be known on the host is not asked there.
        """
        self.begin(batch)
        items, lying = batch.items, self._lying(batch.items, batch.trials, batch.sounds)
        if batch.places is None:
            places, order = self._resident, sent_over(torch.tensor(items, dtype=torch.int64), self.device)
        else:
            places, order = batch.places.on(self.device), torch.arange(len(items), device=self.device)
        return self._made(items, self._shape(items), order, 0, places, lying)

    def epoch(self, batches: list[list[int]]) -> Iterator[dict[str, Tensor]]:
        """Batches of stimuli that are all on the device.

        What can be is done for all of them before the first: between two steps of a model, each line of code costs
        several times what it costs in a loop of its own.

        Parameters
        ----------
        batches : list of list of int
            Positions among the visible stimuli.
        """
        stream, at, nothing = self._stream(), 0, Load(False)
        order = sent_over(torch.tensor([item for items in batches for item in items], dtype=torch.int64), self.device)
        shapes = [self._shape(items) for items in batches]
        one, lying = len(self.arenas) == 2, None
        for items, shape in zip(batches, shapes, strict=True):
            here = self._stream()
            if here != stream:  # sent on one, used on others
                here.wait_stream(stream)
                order.record_stream(here)
                stream, lying = here, None
            if lying is None or not one:
                lying = self._lying(items, nothing, nothing)
            yield self._made(items, shape, order, at, self._resident, lying)
            at += len(items)

    def _stream(self) -> Any:
        return torch.cuda.current_stream(self.device.index) if self.device.type == "cuda" else None

    def _shape(self, items: list[int]) -> tuple[int, int]:
        """Repeats and bins of a batch."""
        return max(map(self._most.__getitem__, items), default=1), max(map(self._bins.__getitem__, items), default=1)

    def _lying(self, items: list[int], trials: Load, heard: Load) -> tuple[Lying, Lying]:
        """Memory that holds trials and sounds of a batch."""
        stream, index = self._stream(), np.asarray(items, np.intp)
        if self._stay and stream is not None and stream not in self._known:
            self._known.add(stream)  # as of an arena
            for values in self._resident:
                values.record_stream(stream)
        return self._trials.lying(trials, index, stream), self._sounds.lying(heard, index, stream)

    def _made(
        self,
        items: list[int],
        shape: tuple[int, int],
        order: Tensor,
        at: int,
        places: Places,
        lying: tuple[Lying, Lying],
    ) -> dict[str, Tensor]:
        """Arrays of a batch, whose stimuli are, from `at` on, those that `order` says among `places`."""
        (trials, heard), (most, bins) = lying, shape
        bands = self.reader.reading.audio_fs is None
        if self._kernel is not None and len(trials) == len(heard) == 1 and 0 < len(items) < _MANY:
            stims, values, mask = self._kernel(trials[0][0], heard[0][0], places, order, at, len(items), most, bins)
        else:
            some, index = order[at : at + len(items)], np.asarray(items, np.intp)
            neurons, (start, sound, size, end) = places.neurons[some], places.stims[some].T[..., None]
            late = None if (self.reader.n_bins[index] == bins).all() else self._steps[:bins] >= size
            at_trials = torch.addcmul((neurons[:, 0] + start)[..., None], size[..., None], self._steps[:most])
            if (self._fewest[index] < most).any():
                at_trials = torch.where(self._steps[:most] < neurons[:, 1, :, None], at_trials, end[..., None])
            values, mask = responses(self._trials.rows(trials, at_trials, bins), late, self.dtype, self._transform)
            at_rows = torch.addcmul(sound, size, self._steps[: self._rows], value=self._per_bin)
            waves = self._sounds.rows(heard, at_rows, bins * self._per_bin)
            if late is not None and self._per_bin > 1:
                late = late.repeat_interleave(self._per_bin, 1)
            stims = sounds(waves, late, self._scaling, bands=bands).to(self.dtype)
        return {"stims": stims[:, None] if bands else stims, "responses": values, "valid_mask": mask}

    @cached_property
    def _resident(self) -> Places:
        """Places of all visible stimuli, on the device: once room is made for them, nothing in it changes."""
        return Places(*map(self._there, self._places(np.arange(len(self.reader.stim)), passing=False)))

    @cached_property
    def _kernel(self) -> Any:
        """Makes batches by one kernel, where there is one that makes them."""
        reader = self.reader
        largest = max(reader.largest(1), self._rows * self._per_bin * int(reader.n_bins.max(initial=1)))
        found = kernels_for(self.device)
        if found is None or not found.serves(self._transform, torch_dtype(self._trials.flat), largest):
            return None
        bands = reader.reading.audio_fs is None
        return found.Maker(
            self.device, self.dtype, self._transform, self._scaling, rows=self._rows, per_bin=self._per_bin, bands=bands
        )

    @cached_property
    def _most(self) -> list[int]:
        """Of each visible stimulus, the most presentations to a neuron, at least 1."""
        most: list[int] = self.reader.n_repeats.max(1, initial=1).tolist()
        return most

    @cached_property
    def _bins(self) -> list[int]:
        """And its bins, at least 1."""
        bins: list[int] = np.maximum(self.reader.n_bins, 1).tolist()
        return bins

    @cached_property
    def _fewest(self) -> NDArray[Any]:
        """And the fewest presentations."""
        counts = self.reader.n_repeats
        return np.asarray(counts.min(1) if counts.shape[1] else counts.sum(1))

    @cached_property
    def _steps(self) -> Tensor:
        reader = self.reader
        longest = max(self._rows, int(reader.n_repeats.max(initial=1)), int(reader.n_bins.max(initial=1)))
        return self._there(torch.arange(longest))

    def _there(self, values: Tensor) -> Tensor:
        """What is sent once and used on whichever stream: not before it is there."""
        values = values.to(self.device)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return values

    @cached_property
    def _transform(self) -> Transform:
        reading = self.reader.reading
        kernel = hann_kernel(self.reader.dt_ms, reading.smooth_ms).tolist() if reading.smooth_ms else [1.0]
        scaled = (None, None) if reading.normalize is None else reading.normalize
        shift, scale = (
            None if v is None else self._there(torch.from_numpy(v[self.reader.neuron, None, None].astype("f4")))
            for v in scaled
        )
        return Transform(kernel if len(kernel) > 1 else None, reading.average_repeats, shift, scale)

    @cached_property
    def _scaling(self) -> tuple[Tensor, Tensor] | None:
        given = self.reader.reading.standardize
        if given is None:
            return None
        mean, deviation = (self._there(torch.from_numpy(v)) for v in given)
        return mean, deviation


def free_bytes(device: torch.device) -> int | None:
    """Free memory of an accelerator; None where nothing tells."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


@cache
def kernels_for(device: torch.device) -> Any:
    """`strfcube.adapters.torch.kernels`, where Triton is there and compiles them for a device; else None."""
    if device.type != "cuda":
        return None
    try:
        from strfcube.adapters.torch import kernels

        kernels.tried(device)
    except ImportError:
        return None
    except Exception as error:  # of the C compiler that it calls, of the driver, of a GPU that is too old
        _log.warning("Triton compiles nothing for %s, and a batch takes ten operations for one: %s", device, error)
        return None
    return kernels
