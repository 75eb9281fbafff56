"""Iterating over the batches of a view: epochs, resuming, and reading ahead by a thread. Knows no framework."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import UsageError
from strfcube.loading.order import Batches, Order, whole, yes_or_no

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
    yes_or_no("group_by_repeats", group_by_repeats)
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


def ask_ahead(view: CubeView, batches: Batches, batch_size: int) -> None:
    """Let a cube that is far away be asked for what the next batches read."""
    if view._reader.remote:
        batches.announce, batches.window = view._fetch, view._reader.window(batch_size)


class Epochs:
    """What loaders share: which epoch they are in, and how many of its batches they have handed out.

    Attributes
    ----------
    order : Order
        What the batches of an epoch are.
    batch_sampler : Batches
        Gives them.
    """

    order: Order
    batch_sampler: Any
    _at: tuple[int, int] | None = None

    @property
    def epoch(self) -> int:
        """Epoch that the next iteration starts; set it to choose one."""
        return int(self.batch_sampler.epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.order.expect(-1, "")
        self.batch_sampler.start(_checked_epoch(epoch))
        self._at = None

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration with this epoch's order; one that is being resumed goes on where it was."""
        self.batch_sampler.set_epoch(_checked_epoch(epoch))
        self._at = None

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is: epoch, batches of it that were handed out, and what its order depends on."""
        epoch, done = self._at or (self.epoch, self.batch_sampler.skip)
        order = self.order.digest if done else ""
        return {"seed": self.order.seed, "epoch": epoch, "batch": done, "order": order} | self.order.key

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken: the next iteration gives the rest of that epoch.

        Raises
        ------
        UsageError
            For anything but a whole `state_dict` of a loader over the same stimuli in the same batches. That a
            sampler gives another order than it gave then is found when the iteration begins.
        """
        key = self.order.key
        expected = ["seed", "epoch", "batch", "order", *key]
        if not isinstance(state, Mapping) or not set(expected) <= set(state):
            got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise UsageError(
                f"load_state_dict: expected what state_dict() gave, with {', '.join(expected)}; got {got}; "
                f"to choose an epoch alone, use set_epoch"
            )
        for name in ("seed", "epoch", "batch"):
            if not whole(state[name]) or state[name] < 0:
                raise UsageError(f"load_state_dict: {name}={state[name]!r}, expected a whole number from 0")
        for name, here in key.items():
            if state[name] != here:
                what = "of other stimuli" if name == "stimuli" else f"with {name}={state[name]!r}, not {here!r}"
                raise UsageError(f"load_state_dict: the state was taken {what}; make the loader as it was then")
        self.order.seed = int(state["seed"])
        self.order.expect(int(state["epoch"]) if state["batch"] else -1, str(state["order"]))
        self.batch_sampler.start(int(state["epoch"]), int(state["batch"]))
        self._at = int(state["epoch"]), int(state["batch"])

    def _handed_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Count what is taken from an iteration over `batch_sampler`."""
        epoch = done = total = -1
        while (batch := next(batches, None)) is not None:
            if done < 0:  # it has begun with this batch
                (epoch, done), total = self.batch_sampler.at, self.batch_sampler.total
            done += 1
            self._at = (epoch, done) if done < total else (epoch + 1, 0)
            yield batch
            # A name that outlives the batch would keep its buffer from being used again.
            del batch


def _checked_epoch(epoch: int) -> int:
    if not whole(epoch) or epoch < 0:
        raise UsageError(f"epoch={epoch!r}, expected a whole number from 0")
    return int(epoch)


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
        ask_ahead(view, self.batch_sampler, order.batch_size)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches: Iterator[Any] = map(partial(self.view._read, raw=self.view._raw), iter(self.batch_sampler))
        source = ahead(batches, self.prefetch) if self.prefetch else batches
        return self._handed_out(map(self.view._finished, source))


def checked_prefetch(prefetch: int) -> int:
    """The number itself, if it is one."""
    if not whole(prefetch) or prefetch < 0:
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
