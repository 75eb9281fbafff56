"""`CubeDataset`: a cube as a PyTorch map-style dataset over its stimuli.

A view is the opened cube, two chosen sets and a way of reading. Views are immutable and share files and buffers.
Nothing of ``response`` is read before a batch asks for it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from strfcube.errors import UsageError
from strfcube.loading.order import Batches, ahead
from strfcube.loading.reading import Reading
from strfcube.loading.view import View

if TYPE_CHECKING:
    import os

    import xarray as xr

Batch = dict[str, Any]


class CubeDataset(View, Dataset[Batch]):
    """Stimuli of a cube and the responses to them.

    Parameters
    ----------
    source : path, URL, str or xarray.Dataset
        What `strfcube.open` takes, or a cube, lazily transformed or not.
    mode : {"spectrogram", "waveform"}
        What ``stims`` holds.
    audio_fs : float, optional
        Sampling rate in Hz of ``mode="waveform"``; a bin must be a whole number of samples.
    average_repeats : bool
        Mean response instead of the repeats: R = 1.
    smooth_ms : float, optional
        Full width in ms of a Hann window that sums to 1.
    cache : {"none", "ram", "auto"}
        Keep decoded responses in memory, one byte a bin; ``auto`` does where they are small.
    extra : sequence of str
        Variables or coordinates on stim that go into items and batches under their own name.
    allow_mixed : bool
        Read neurons of different units (spikes and mV) together.
    dtype : torch.dtype
        Of ``stims`` and ``responses``.
    device : torch.device or str, optional
        Where batches go; counts travel as bytes and become floats and mask there.
    cache_dir : path, optional
        Folder that keeps what was read of a cube behind a URL, for the next epoch and the next process; see
        `strfcube.open`.

    Raises
    ------
    StoreError
        If there is no such cube.
    UsageError
        For an option that cannot be used as given.

    Notes
    -----
    An item is a dict of ``stims`` [shape=(1, F, T)], zero past the end, ``responses`` [shape=(N, R, T)], NaN where
    missing, ``valid_mask`` [shape=(N, R, T)], True where not, and ``stim_meta``, a dict. A batch has a leading
    dimension, T and R of its longest item and the most repeats in it, and a list in ``stim_meta``.

    Examples
    --------
    >>> train = CubeDataset("aa1-dt5.zarr").sel(area="MLd", split="train")  # doctest: +SKIP
    >>> for batch in train.loader(batch_size=8, shuffle=True): ...  # doctest: +SKIP
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | xr.Dataset,
        *,
        mode: Literal["spectrogram", "waveform"] = "spectrogram",
        audio_fs: float | None = None,
        average_repeats: bool = False,
        smooth_ms: float | None = None,
        cache: Literal["none", "ram", "auto"] = "auto",
        extra: Sequence[str] = (),
        allow_mixed: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        names = extra if isinstance(extra, str) else tuple(extra)
        reading = Reading(mode, audio_fs, average_repeats, smooth_ms, cache, names, allow_mixed)  # type: ignore[arg-type]
        super().__init__(source, reading, cache_dir)
        self._dtype, self._device = _floating(dtype), None if device is None else torch.device(device)

    @property
    def _threads(self) -> int:
        return 1 if get_worker_info() is not None else super()._threads

    def using(self, **options: Any) -> Self:
        """Read the same choice with other options: those of the constructor, by name."""
        changes: dict[str, Any] = {}
        if "dtype" in options:
            changes["_dtype"] = _floating(options.pop("dtype"))
        if "device" in options:
            device = options.pop("device")
            changes["_device"] = None if device is None else torch.device(device)
        return super().using(**options)._with(**changes)

    def to(self, device: torch.device | str) -> Self:
        """Send batches to a device: counts travel as bytes, floats and mask are made there."""
        return self.using(device=device)

    def __getitem__(self, index: Any) -> Any:
        single = _position(index)
        if single is None:
            return self.isel(stim=[None] if index is None else index)
        batch = self.batch([single])
        return {key: values[0] for key, values in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> Items:
        return Items(self, indices)

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))

    def __add__(self, other: Any) -> Self:  # type: ignore[override]
        if not isinstance(other, CubeDataset):
            return NotImplemented
        if (self._dtype, self._device) != (other._dtype, other._device):
            raise UsageError("the two views are read differently: add them first, then set options")
        return self._pooled(other)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Read some stimuli.

        Parameters
        ----------
        indices : sequence of int
            Positions among the visible stimuli.

        Raises
        ------
        IndexError
            For a position past the end.
        """
        return self._finished(self._read(indices))

    def _read(self, indices: Sequence[int]) -> Batch:
        size = len(self)
        items = [int(i) for i in indices]
        for i in items:
            if not -size <= i < size:
                raise IndexError(f"index {i} past the end: there are {size} stimuli")
        items = [i % size for i in items]
        raw = self._device is not None and self._reader.raw_fill is not None
        arrays = self._reader.batch(items, threads=self._threads, raw=raw)
        batch: Batch = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()}
        return batch | {"stim_meta": [dict(self.stim_meta[i]) for i in items]}

    def _finished(self, batch: Batch) -> Batch:
        if self._device is not None:
            batch = {
                k: v.to(self._device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()
            }
        responses = batch["responses"]
        if "valid_mask" not in batch:
            mask = responses != self._reader.raw_fill
            responses = responses.to(self._dtype).masked_fill_(~mask, torch.nan)
            extra = {k: v for k, v in batch.items() if k not in ("stims", "responses", "stim_meta")}
            batch = {"stims": batch["stims"], "responses": responses, "valid_mask": mask} | extra | {
                "stim_meta": batch["stim_meta"]
            }  # fmt: skip
        if self._dtype != torch.float32:
            batch |= {name: batch[name].to(self._dtype) for name in ("stims", "responses")}
        return batch

    def loader(
        self,
        batch_size: int = 8,
        *,
        shuffle: bool | Literal["block"] = False,
        seed: int | None = None,
        drop_last: bool = False,
        group_by_repeats: bool = False,
        sampler: Iterable[int] | None = None,
        prefetch: int = 0,
        pin_memory: bool = False,
        **options: Any,
    ) -> CubeLoader:
        """Iterate over batches.

        Parameters
        ----------
        batch_size : int
            Stimuli in a batch.
        shuffle : {False, True, "block"}
            ``True``: a full permutation. ``"block"``: blocks that are read together stay together, in random order;
            for cubes far away or lazily transformed ones.
        seed : int, optional
            Fixes the order of every epoch; default: drawn from torch's generator.
        drop_last : bool
            Leave out a last batch that is not full.
        group_by_repeats : bool
            Stimuli with different numbers of repeats never share a batch, so that one with twenty does not pad seven
            others to twenty.
        sampler : iterable of int, optional
            Gives the order, such as a DistributedSampler. Without one, a stimulus that lacks its spectrogram is an
            error here and not in the middle of an epoch.
        prefetch : int
            Batches that a thread reads ahead; each needs the memory of a batch.
        pin_memory : bool
            Batches in page-locked memory, where there is an accelerator.
        **options
            Of `torch.utils.data.DataLoader`: ``num_workers``, ``multiprocessing_context``, ...

        Returns
        -------
        CubeLoader

        Raises
        ------
        UsageError
            For an option that cannot be used as given, or stimuli without a spectrogram: see `with_stimulus`.
        """
        ours = sorted(options.keys() & {"collate_fn", "batch_sampler", "dataset"})
        if ours:
            raise UsageError(f"{ours[0]} is given by the view: for one of your own use torch's DataLoader(view, ...)")
        if sampler is None:
            self._reader.check()
        # Neither is read, only counted: the number of repeats of an item and the block it lies in
        groups = self._reader.n_repeats.max(1, initial=0).astype(np.intp) if group_by_repeats else None
        blocks = self._source.blocks()[self._reader.stim]
        drawn = int(torch.randint(2**31, ())) if seed is None else int(seed)
        order = Batches(
            len(self), batch_size, shuffle=shuffle, seed=drawn, drop_last=drop_last, blocks=blocks, groups=groups,
            sampler=sampler,
        )  # fmt: skip
        if not options.get("num_workers") and self._reader.remote:  # workers ask for their own
            order.expect, order.window = self._reader.fetch, self._reader.window(batch_size)
        pin = pin_memory and torch.cuda.is_available()
        return CubeLoader(self, order, prefetch, pin_memory=pin, **options)


def _position(index: Any) -> int | None:
    """A single position: an int, or a scalar of numpy or torch; None for anything that chooses several."""
    if isinstance(index, bool | np.bool_) or getattr(index, "dtype", None) in (torch.bool, np.dtype(bool)):
        return None
    if getattr(index, "ndim", 0):
        return None
    try:
        return operator.index(index)
    except TypeError:
        return None


def _floating(dtype: Any) -> torch.dtype:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UsageError(f"dtype={dtype!r}, expected torch.float32 or another floating dtype of torch: missing is NaN")
    return dtype


class Items(Sequence[Batch]):
    """Items of a view that are not read yet: `collate` reads them as one batch.

    Parameters
    ----------
    view : CubeDataset
        The view.
    indices : sequence of int
        Positions.
    """

    def __init__(self, view: CubeDataset, indices: Sequence[int]) -> None:
        self.view, self.indices = view, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Items(self.view, self.indices[index])
        return self.view[self.indices[index]]


def collate(items: Sequence[Batch]) -> Batch:
    """Make one batch of items: the ``collate_fn`` of a DataLoader over any view, or over subsets and mixtures of them.

    Parameters
    ----------
    items : sequence of dict
        As ``CubeDataset`` gives them; with equal numbers of neurons and frequencies.
    """
    if isinstance(items, Items):
        return items.view.batch(items.indices)
    padding = {"stims": 0.0, "responses": torch.nan, "valid_mask": False}
    batch: Batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if key in padding:
            shape = torch.tensor([v.shape for v in values]).max(0).values.tolist()
            batch[key] = torch.full((len(values), *shape), padding[key], dtype=first.dtype, device=first.device)
            for b, value in enumerate(values):
                batch[key][(b, *(slice(n) for n in value.shape))] = value
        else:
            batch[key] = torch.stack(values) if isinstance(first, torch.Tensor) else values
    return batch


def _unfinished(items: Items) -> Batch:
    """Collate in the loader: a worker must not touch the device."""
    return items.view._read(items.indices)


class CubeLoader(DataLoader[Batch]):
    """A DataLoader over a view whose order is seeded and can be resumed.

    Attributes
    ----------
    epoch : int
        Epoch that the next iteration starts; set it to choose one.
    """

    def __init__(self, view: CubeDataset, order: Batches, prefetch: int, **options: Any) -> None:
        if prefetch < 0:
            raise UsageError(f"prefetch={prefetch}, expected 0 or more batches")
        self._order, self._prefetch = order, prefetch
        self._next = self._at = (0, 0)
        super().__init__(view, batch_sampler=order, collate_fn=_unfinished, **options)  # type: ignore[arg-type]

    @property
    def epoch(self) -> int:
        """Epoch that the next iteration starts."""
        return self._next[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._next = self._at = (int(epoch), 0)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration with this epoch's order; a sampler with epochs is told, too."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Where the iteration is: seed, epoch, and batches of it that were handed out."""
        return {"seed": self._order.seed, "epoch": self._at[0], "batch": self._at[1]}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where a `state_dict` was taken: the next iteration gives the rest of that epoch."""
        self._order.seed = int(state["seed"])
        self._next = self._at = (int(state["epoch"]), int(state["batch"]))

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, done = self._next
        self._order.epoch, self._order.skip = epoch, done
        tell = getattr(self._order.sampler, "set_epoch", None)
        if tell is not None:
            tell(epoch)
        self._next, self._at = (epoch + 1, 0), (epoch, done)
        view: CubeDataset = self.dataset  # type: ignore[assignment]
        batches = super().__iter__()
        source = ahead(batches, self._prefetch) if self._prefetch else batches
        total = len(self._order)
        while (batch := next(source, None)) is not None:
            done += 1
            self._at = (epoch, done) if done < total else (epoch + 1, 0)
            yield view._finished(batch)
            # A name that outlives the batch would keep its buffer from being used again.
            del batch
