"""`CubeDataset`: the views of a cube as a PyTorch map-style dataset, and their loader a `DataLoader`."""

from __future__ import annotations

import inspect
import itertools
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from strfcube.adapters.torch.arena import sent_over
from strfcube.adapters.torch.carrier import Carrier, Staged
from strfcube.adapters.torch.decode import decoded
from strfcube.adapters.torch.items import Batch, Item, Items, collate, tensors
from strfcube.adapters.torch.late import LateBatch, floats
from strfcube.adapters.torch.loader import CubeLoader
from strfcube.errors import UsageError
from strfcube.loading.loader import order_of
from strfcube.loading.view import CubeView, see_options

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import xarray as xr

    from strfcube.loading.memory import Take
    from strfcube.loading.reading import Options

__all__ = ["CubeDataset", "collate"]

_OURS = {"collate_fn", "batch_sampler", "dataset"}  # of a loader's options, those that the view gives
_LOADER_OPTIONS = {*inspect.signature(DataLoader.__init__).parameters, "seed", "group_by_repeats", "prefetch"}
_LOADER_OPTIONS -= {"self", *_OURS}
_PLANNED = 1024  # batches, at once


class CubeDataset(CubeView, Dataset[Batch]):  # type: ignore[misc]  # adding views pools their cubes
    """Stimuli of a cube and the responses to them, in tensors.

    Parameters
    ----------
    source : path, URL, str or xarray.Dataset
        What `strfcube.open` takes, or a cube, lazily transformed or not.
    dtype : torch.dtype
        Of ``stims`` and ``responses``.
    device : torch.device or str, optional
        Where batches go; counts lie there or travel as bytes, and become floats and mask there. A worker process of a
        DataLoader of one's own leaves batches in its own memory.
    **options
        ``mode``, ``audio_fs``, ``average_repeats``, ``smooth_ms``, ``cache``, ``extra``, ``allow_mixed``,
        ``layout`` and ``cache_dir``: those of `strfcube.loading.CubeView`, which also says what items and batches hold.

    Raises
    ------
    StoreError
        If there is no such cube.
    UsageError
        For an option that cannot be used as given.

    Examples
    --------
    >>> train = CubeDataset("aa1-dt5.zarr").sel(area="MLd", split="train").to("cuda")  # doctest: +SKIP
    >>> for batch in train.loader(batch_size=8, shuffle=True): ...  # doctest: +SKIP
    """

    _place: Mapping[str, Any] = {"dtype": torch.float32, "device": None}
    _on_device = True
    _derived = (*CubeView._derived, "_carrier")

    def __init__(
        self,
        source: str | os.PathLike[str] | xr.Dataset,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(source, **options)
        self._place = self._placed({"dtype": dtype, "device": device})

    @staticmethod
    def _placed(place: Mapping[str, Any]) -> Mapping[str, Any]:
        dtype, device = place["dtype"], place["device"]
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise UsageError(
                f"dtype={dtype!r}, expected torch.float32 or another floating dtype of torch: missing is NaN"
            )
        try:
            found = None if device is None else torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"device={device!r}, expected a device of torch, such as 'cuda': {error}") from None
        # A worker sends nothing to a device, and must not ask for one
        if found is not None and found.type == "cuda" and get_worker_info() is None:
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if (found.index or 0) >= count:
                what = f"there are {count}" if count else "torch finds none here (torch.cuda.is_available() is False)"
                raise UsageError(f"device={str(device)!r}: no such GPU, {what}; leave the device out, or give 'cpu'")
        return {"dtype": dtype, "device": found}

    @property
    def _threads(self) -> int:
        return 1 if get_worker_info() is not None else super()._threads

    @property
    def _device(self) -> torch.device | None:
        """Where batches go; None in a worker, which must not touch a device."""
        return None if get_worker_info() is not None else self._place["device"]

    @property
    def _ragged(self) -> bool:
        return self._reading.layout == "ragged"

    @property
    def _raw(self) -> bool:
        return self._carries and get_worker_info() is None

    @property
    def _carries(self) -> bool:
        """Whether batches are made on a device, which memory of the host is only if that is asked for."""
        device, asked = self._place["device"], self._reading.cache == "device"
        if device is None and asked:
            raise UsageError("cache='device': expected a device, too, such as .to('cuda')")
        return device is not None and (asked or device.type != "cpu")

    @property
    def _lies(self) -> bool:
        """Whether all that batches are made of lies on the device, so that nothing is read, ahead or else."""
        return self._carries and not self._ragged and self._carrier.whole()

    @cached_property
    def _carrier(self) -> Carrier:
        """Makes batches on the device."""
        return Carrier(self._reader, self._place["device"], self._place["dtype"])

    def to(self, device: torch.device | str) -> CubeDataset:
        """Send batches to a device: counts travel as bytes, floats and mask are made there."""
        return self.using(device=device)

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, dict):
            found = Item(found)
            found.view = self
        return found

    def __getitems__(self, indices: Sequence[int]) -> Items:
        return Items(self, indices)

    def _read(self, indices: Iterable[int], *, raw: bool, take: Take | None = None) -> Batch:
        if not (raw and self._carries) or self._ragged:
            # Other floats are made of the counts, not of floats of four bytes that need their memory as well
            raw = (raw or self._place["dtype"] != torch.float32) and take is None and self._reader.raw_fill == 255
            return super()._read(indices, raw=raw, take=take)
        items = self._items(indices)
        staged = self._carrier.stage(items, self._threads, passing=get_worker_info() is not None)
        return {"staged": staged} | self._reader.extras(items, threads=self._threads) | self._told(items)

    def _stims(self, items: list[int]) -> torch.Tensor:
        sounds: torch.Tensor = self._sent({"stims": torch.from_numpy(self._reader.sounds(items))})["stims"]
        return sounds.to(self._place["dtype"])

    def _answer(self, model: Callable[[Any], Any], items: list[int]) -> Any:
        parts = model.modules() if isinstance(model, torch.nn.Module) else ()
        training = [part for part in parts if part.training]
        for part in training:
            part.training = False
        try:
            with torch.no_grad():
                found = model(self._stims(items))
        finally:
            for part in training:
                part.training = True
        if not isinstance(found, torch.Tensor):
            return found
        return (found.float() if found.is_floating_point() else found).detach().cpu()  # NumPy has no bfloat16

    def _fetch(self, items: Sequence[int]) -> None:
        if self._carries and not self._ragged:
            items = np.asarray(items, np.intp)[~self._carrier.there(items)].tolist()
        super()._fetch(items)

    def _begun(self, batch: Batch) -> Batch:
        """Send what was read on its way to the device."""
        if isinstance(batch.get("staged"), Staged):
            self._carrier.begin(batch["staged"])
        return batch

    def _finished(self, batch: Batch) -> Batch:
        dtype = self._place["dtype"]
        batch = self._sent(tensors(batch))
        staged = batch.pop("staged", None)
        if staged is not None:
            return self._carrier.finish(staged) | batch
        if "valid_mask" not in batch:
            values, mask = self._decoded(batch.pop("responses"))
            batch = {"stims": batch.pop("stims"), "responses": values, "valid_mask": mask} | batch
        if dtype != torch.float32:
            batch |= {name: batch[name].to(dtype) for name in ("stims", "responses")}
        return batch

    def _epoch(self, batches: Iterable[list[int]]) -> Iterator[Batch]:
        """Batches of what lies on the device."""
        left = iter(batches)
        while planned := [self._items(items) for items in itertools.islice(left, _PLANNED)]:
            made, rest = self._carrier.epoch(planned), [self._told(items) for items in planned]
            for items, told in zip(planned, rest, strict=True):
                more = {}
                if self._reading.extra:
                    more = self._sent(tensors(self._reader.extras(items, threads=self._threads)))
                yield next(made) | more | told

    def _sent(self, batch: Batch) -> Batch:
        device = self._device
        if device is None:
            return batch
        return {k: sent_over(v, device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def _finished_late(self, batch: Batch) -> Batch:
        """The same, but counts stay counts until they are asked for."""
        if "valid_mask" in batch:
            return self._finished(batch)
        batch = tensors(batch)
        stims, raw = batch.pop("stims").to(self._place["dtype"]), batch.pop("responses")
        rest = {"stims": stims, "responses": None, "valid_mask": None} | batch
        return LateBatch.of(rest, partial(self._decoded, raw))

    def _decoded(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self._place["dtype"]
        if raw.device.type != "cpu":
            return decoded(raw, None, dtype)
        return floats(raw, dtype, self._source.buffers.take, self._threads)

    def loader(  # type: ignore[override]
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
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> CubeLoader:
        """Iterate over batches; see also `strfcube.loading.CubeView.loader`.

        Parameters
        ----------
        batch_size, shuffle, drop_last, group_by_repeats, prefetch
            As there.
        seed : int, optional
            Fixes the order of every epoch. Default: drawn from `generator`, or from torch's own, when the first epoch
            begins; 0 where processes of `torch.distributed` share the work, so that they share one order.
        sampler : iterable of int, optional
            Gives the order, such as a DistributedSampler, whose ``set_epoch`` is its owner's to call; it goes on to
            the next epoch of itself. Without one, a stimulus that lacks its spectrogram is an error here and not in
            the middle of an epoch.
        pin_memory : bool
            Batches in page-locked memory, where there is an accelerator; of no use with a `device`, whose bytes travel
            from such memory in any case.
        generator : torch.Generator, optional
            Gives the seed, and the workers theirs.
        **options
            Of `torch.utils.data.DataLoader`: ``num_workers`` (slower than 0 wherever reading is; refused with
            ``cache="device"``), ``multiprocessing_context``, ...

        Returns
        -------
        CubeLoader

        Raises
        ------
        UsageError
            For an option that cannot be used as given, or stimuli without a spectrogram: see `with_stimulus`.
        """
        ours = sorted(options.keys() & _OURS)
        if ours:
            raise UsageError(f"{ours[0]} is given by the view: for one of your own use torch's DataLoader(view, ...)")
        see_options(options, _LOADER_OPTIONS)
        if self._reading.cache == "device" and options.get("num_workers"):
            raise UsageError("cache='device': batches are made on the device, not by workers: leave num_workers away")
        if seed is not None and generator is not None:
            raise UsageError("a generator gives the seed: leave one of the two away")
        order = order_of(
            self, batch_size, shuffle=shuffle, seed=(lambda: _drawn(generator)) if seed is None else seed,
            drop_last=drop_last, group_by_repeats=group_by_repeats, sampler=sampler,
        )  # fmt: skip
        pin = pin_memory and torch.cuda.is_available()
        return CubeLoader(self, order, prefetch=prefetch, pin_memory=pin, generator=generator, **options)


def _drawn(generator: torch.Generator | None) -> int:
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    if generator is None and shared and torch.distributed.get_world_size() > 1:
        return 0
    return int(torch.randint(2**31, (), generator=generator))
