"""`CubeDataset`: the views of a cube as a PyTorch map-style dataset, and their loader a `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from strfcube.adapters.torch.arena import sent_over
from strfcube.adapters.torch.carrier import Carrier, Staged
from strfcube.adapters.torch.decode import decoded
from strfcube.adapters.torch.late import LateBatch, floats
from strfcube.errors import UsageError
from strfcube.loading.alike import refuse_unlike
from strfcube.loading.loader import Epochs, ahead, ask_ahead, batches_of, checked_prefetch, order_of
from strfcube.loading.rows import OF_TRIALS
from strfcube.loading.view import CubeView

if TYPE_CHECKING:
    import os

    import xarray as xr

    from strfcube.loading.memory import Take
    from strfcube.loading.order import Batches, Order
    from strfcube.loading.reading import Options

Batch = dict[str, Any]
_LARGE = 40_000_000  # values of a batch: two of them, as floats with their masks, take 0.4 GB


class Item(Batch):
    """One stimulus of a view, as a dict; it knows its view, so that `collate` mixes no two kinds."""

    view: CubeDataset

    def __reduce__(self) -> Any:  # what leaves its process leaves the view behind
        return dict, (dict(self),)


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
            return {"dtype": dtype, "device": None if device is None else torch.device(device)}
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"device={device!r}, expected a device of torch, such as 'cuda': {error}") from None

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
        return {"staged": staged} | self._reader.extras(items) | self._told(items)

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
        batch = self._sent(_tensors(batch))
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
        batches = [self._items(items) for items in batches]
        made, rest = self._carrier.epoch(batches), [self._told(items) for items in batches]
        for items, told in zip(batches, rest, strict=True):
            more = self._sent(_tensors(self._reader.extras(items))) if self._reading.extra else {}
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
        batch = _tensors(batch)
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
        ours = sorted(options.keys() & {"collate_fn", "batch_sampler", "dataset"})
        if ours:
            raise UsageError(f"{ours[0]} is given by the view: for one of your own use torch's DataLoader(view, ...)")
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

    Torch's own collation of items comes here, too, so that ``DataLoader(view, batch_size=8)`` needs none.

    Parameters
    ----------
    items : sequence of dict
        As ``CubeDataset`` gives them.

    Raises
    ------
    UsageError
        If they are of views with other neurons, frequencies, bin widths or units, on other devices, or read otherwise.
    """
    if isinstance(items, Items):
        return items.view.batch(items.indices)
    first, *others = items
    views = {id(item.view): item.view for item in items if isinstance(item, Item)}
    for view in list(views.values())[1:]:
        refuse_unlike("collate", next(iter(views.values())), view, batch=True)
    for other in others:
        _refuse_unlike_arrays(first, other)
    padding = {"stims": 0.0, "responses": torch.nan, "valid_mask": False}
    batch: Batch = {}
    ragged = "repeat_index" in first
    if ragged:
        sizes = torch.tensor([len(item["repeat_index"]) for item in items])
        batch["stim_index"] = torch.arange(len(items)).repeat_interleave(sizes).to(first["repeat_index"].device)
    for key, one in first.items():
        values = [item[key] for item in items]
        if ragged and key in OF_TRIALS:
            if key in padding:
                longest = max(v.shape[1] for v in values)
                values = [pad(v, (0, longest - v.shape[1]), value=padding[key]) for v in values]
            batch[key] = torch.cat(values)
        elif key in padding:
            shape = torch.tensor([v.shape for v in values]).max(0).values.tolist()
            batch[key] = torch.full((len(values), *shape), padding[key], dtype=one.dtype, device=one.device)
            for b, value in enumerate(values):
                batch[key][(b, *(slice(n) for n in value.shape))] = value
        elif key == "neuron":
            batch[key] = one
        else:
            batch[key] = torch.stack(values) if isinstance(one, torch.Tensor) else values
    return batch


def _refuse_unlike_arrays(first: Batch, other: Batch) -> None:
    """Refuse what can be told without the views: items that were made into other dicts on their way."""
    if first.keys() != other.keys():
        raise UsageError(f"collate: the items hold different keys, {', '.join(first)} and {', '.join(other)}")
    of_neurons = () if "repeat_index" in first else (0,)
    for key, axes in (("responses", of_neurons), ("stims", tuple(range(first["stims"].ndim - 1)))):
        shapes = [tuple(item[key].shape[axis] for axis in axes) for item in (first, other)]
        if shapes[0] != shapes[1] or first[key].device != other[key].device:
            what = f"{shapes[0]} on {first[key].device} and {shapes[1]} on {other[key].device}"
            raise UsageError(f"collate: {key} of the items differ: {what}")
    if "neuron" in first and not np.array_equal(first["neuron"], other["neuron"]):
        raise UsageError("collate: the items are of different neurons; take their views from view.splits(...)")


default_collate_fn_map[Item] = lambda items, *, collate_fn_map=None: collate(items)


def _unfinished(items: Items, pin: bool = False, late: bool = False) -> Batch:
    """Collate in a CubeLoader, which finishes its batches itself: for a device, counts travel as bytes to it."""
    view = items.view
    if view._carries or not pin:
        return _tensors(view._read(items.indices, raw=view._carries or late))
    locked = _Locked()
    batch = view._read(items.indices, raw=False, take=locked)
    return _tensors({key: locked.tensors.get(id(value), value) for key, value in batch.items()})


class _Locked:
    """Page-locked memory to read a batch into; torch uses it again once nothing refers to it and no copy is under way.

    Attributes
    ----------
    tensors : dict of int to Tensor
        What was given out, by the identity of its array.
    """

    def __init__(self) -> None:
        self.tensors: dict[int, torch.Tensor] = {}
        self._arrays: list[Any] = []

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> Any:
        kind = torch.bool if np.dtype(dtype) == bool else torch.float32
        tensor = torch.empty(shape, dtype=kind, pin_memory=True)
        array = tensor.numpy()
        self._arrays.append(array)
        self.tensors[id(array)] = tensor
        return array


def _tensors(batch: Batch) -> Batch:
    return {k: torch.from_numpy(v) if k != "neuron" and isinstance(v, np.ndarray) else v for k, v in batch.items()}


class CubeLoader(Epochs, DataLoader[Batch]):
    """A DataLoader over a view whose order is seeded and can be resumed.

    What takes it apart (accelerate, Lightning) finds batches in ``batch_sampler``, those of a new epoch each time that
    they are iterated, and a ``collate_fn`` that gives them finished.

    Parameters
    ----------
    dataset : CubeDataset
        The view.
    order : Order
        The batches of an epoch.
    batch_sampler : Batches, optional
        The order, perhaps shared out among processes.
    prefetch : int
        Batches that a thread reads ahead.
    **options
        Of DataLoader.
    """

    def __init__(
        self,
        dataset: CubeDataset,
        order: Order,
        *,
        batch_sampler: Batches | None = None,
        prefetch: int = 0,
        **options: Any,
    ) -> None:
        self.order, self.prefetch = order, checked_prefetch(prefetch)
        given = batches_of(order) if batch_sampler is None else batch_sampler
        super().__init__(dataset, batch_sampler=given, **{"collate_fn": collate} | options)
        if not self.num_workers:  # workers ask for their own
            ask_ahead(dataset, given, order.batch_size)
        # Where others look for what to share out: whole batches, or the caller's own sampler
        vars(self)["sampler"] = order if order.sampler is None else order.sampler

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        view: CubeDataset = self.dataset  # type: ignore[assignment]
        if view._lies and not self.num_workers:
            return self._handed_out(view._epoch(self.batch_sampler))
        # Of a large batch there are no floats while the loop still holds the one before; a small one is read faster
        here = not view._carries and view._place["device"] in (None, torch.device("cpu"))
        large = view._reader.largest(self.order.batch_size) >= _LARGE
        late = here and large and not (self.prefetch or self.num_workers or self.pin_memory)
        if self.num_workers:
            finished, self.collate_fn = self.collate_fn, _unfinished
            try:
                batches: Iterator[Batch] = super().__iter__()
            finally:
                self.collate_fn = finished
        else:
            # What this process reads goes into page-locked memory at once, not through a copy
            read = partial(_unfinished, pin=self.pin_memory, late=late)
            batches = map(read, map(partial(Items, view), self.batch_sampler))
        if view._carries:
            batches = map(view._begun, batches)
        if self.prefetch:
            batches = ahead(batches, self.prefetch)
        elif view._carries:
            batches = _one_ahead(batches)
        return self._handed_out(map(view._finished_late if late else view._finished, batches))


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Let a batch travel while the one before it is used."""
    ready = next(batches, None)
    while ready is not None:
        following = next(batches, None)
        yield ready
        ready = following
