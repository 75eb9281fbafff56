"""A `DataLoader` over a view."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from strfcube.adapters.torch.items import Batch, Items, collate, tensors
from strfcube.loading.loader import Epochs, ahead, ask_ahead, batches_of, checked_prefetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from strfcube.adapters.torch import CubeDataset
    from strfcube.loading.order import Batches, Order

_LARGE = 40_000_000  # values of a batch: two of them, as floats with their masks, take 0.4 GB


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


def _unfinished(items: Items, pin: bool = False, late: bool = False) -> Batch:
    """Collate in a CubeLoader, which finishes its batches itself: for a device, counts travel as bytes to it."""
    view: CubeDataset = items.view  # type: ignore[assignment]
    if view._carries or not pin:
        return tensors(view._read(items.indices, raw=view._carries or late))
    locked = _Locked()
    batch = view._read(items.indices, raw=False, take=locked)
    return tensors({key: locked.tensors.get(id(value), value) for key, value in batch.items()})


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
