"""Iterating over the batches of a view: in order, resumable, and read ahead by a thread. Knows no framework."""

from __future__ import annotations

import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import UsageError
from strfcube.loading.order import Batches, Epochs, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from strfcube.loading.view import CubeView


def order_of(
    view: CubeView,
    batch_size: int,
    *,
    shuffle: bool | str,
    seed: int | Callable[[], int],
    drop_last: bool,
    group_by_repeats: bool,
    sampler: Iterable[int] | None,
) -> Order:
    """Order of a view's stimuli; without a sampler, one that lacks its spectrogram is an error now."""
    reader, source = view._reader, view._source
    if sampler is None:
        reader.check()
    # Neither is read, only counted: the number of repeats of an item and the block it lies in
    groups = reader.n_repeats.max(1, initial=0).astype(np.intp) if group_by_repeats else None
    return Order(
        source.cube["stim"].values[reader.stim], batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last,
        blocks=source.blocks()[reader.stim], groups=groups, sampler=sampler,
    )  # fmt: skip


def batches_of(order: Order) -> Batches:
    """Batch sampler of an order."""
    return Batches(order, None if order.groups is not None else order.batch_size, order.drop_last)


class BatchLoader(Epochs):
    """Batches of a view, an epoch an iteration; the order is seeded and can be resumed.

    Parameters
    ----------
    view : CubeView
        What is read.
    order : Order
        In which batches.
    prefetch : int
        Batches that a thread reads ahead.
    """

    def __init__(self, view: CubeView, order: Order, prefetch: int = 0) -> None:
        self.view, self.order, self.prefetch = view, order, checked_prefetch(prefetch)
        self.batch_sampler = batches_of(order)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches: Iterator[Any] = map(partial(self.view._read, raw=self.view._raw), iter(self.batch_sampler))
        source = ahead(batches, self.prefetch) if self.prefetch else batches
        return self._handed_out(map(self.view._finished, source))


def checked_prefetch(prefetch: int) -> int:
    """The number itself, if it is one."""
    if not isinstance(prefetch, int | np.integer) or prefetch < 0:
        raise UsageError(f"prefetch={prefetch!r}, expected 0 or more batches")
    return int(prefetch)


def ahead(batches: Iterator[Any], depth: int) -> Iterator[Any]:
    """Read up to `depth` batches ahead in a thread."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(thing: Any) -> None:
        while not stop.is_set():
            try:
                ready.put(thing, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            while not stop.is_set() and (batch := next(batches, None)) is not None:
                put((batch, None))
                del batch
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="strfcube-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
            del batch
    finally:
        stop.set()
        thread.join()
