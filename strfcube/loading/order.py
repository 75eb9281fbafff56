"""An epoch: which stimuli form which batch, seeded and resumable, and reading ahead. Knows no torch."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray


class Batches:
    """Batches of positions, one epoch at a time.

    Parameters
    ----------
    size : int
        Number of items.
    batch_size : int
        Items in a batch.
    shuffle : {False, True, "block"}
        ``True``: a full permutation. ``"block"``: blocks in random order, and their items in random order, so that
        what is read together stays together.
    seed : int
        With the epoch, fixes the order.
    drop_last : bool
        Leave out a last batch that is not full.
    blocks : ndarray of int [shape=(size,)]
        Block of each item.
    groups : ndarray of int [shape=(size,)], optional
        Items of different groups are never in one batch.
    sampler : iterable of int, optional
        Gives the order instead; `shuffle` must be False.

    Attributes
    ----------
    epoch, skip : int
        Epoch that the next iteration gives, and how many of its batches it leaves out.
    expect : callable, optional
        Told which items will be read soon, before they are.
    window : int
        Batches ahead that it is told of.
    """

    expect: Callable[[Sequence[int]], None] | None = None
    window = 0

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool | str,
        seed: int,
        drop_last: bool,
        blocks: NDArray[np.intp],
        groups: NDArray[np.intp] | None = None,
        sampler: Iterable[int] | None = None,
    ) -> None:
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise UsageError(f"batch_size={batch_size!r}, expected a whole number from 1")
        if shuffle not in (False, True, "block"):
            raise UsageError(f"shuffle={shuffle!r}, expected False, True or 'block'")
        if sampler is not None and shuffle:
            raise UsageError("a sampler gives the order: leave shuffle away")
        if sampler is not None and not hasattr(sampler, "__len__"):
            raise UsageError(f"sampler={sampler!r}, expected one with a length, such as a list")
        if seed < 0:
            raise UsageError(f"seed={seed}, expected 0 or more")
        self.size, self.batch_size, self.shuffle, self.seed = size, int(batch_size), shuffle, seed
        self.drop_last, self.blocks, self.groups, self.sampler = drop_last, blocks, groups, sampler
        self.epoch = self.skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches(self.epoch)[self.skip :]
        return iter(batches) if self.expect is None else self._announced(batches, self.expect)

    def _announced(self, batches: list[list[int]], expect: Callable[[Sequence[int]], None]) -> Iterator[list[int]]:
        told = 1
        for i, batch in enumerate(batches):
            if not i:  # what is waited for comes first
                expect(batch)
            if told - i <= 1 + self.window // 2:
                following = batches[told : i + 1 + self.window]
                if following:
                    expect([item for several in following for item in several])
                told += len(following)
            yield batch

    def __len__(self) -> int:
        if self.sampler is not None:
            counts = [len(self.sampler)]  # type: ignore[arg-type]
        elif self.groups is None:
            counts = [self.size]
        else:
            counts = np.unique(self.groups, return_counts=True)[1].tolist()
        return sum(n // self.batch_size if self.drop_last else -(-n // self.batch_size) for n in counts)

    def _batches(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, epoch))
        order = self._order(rng)
        if self.groups is None:
            return self._cut(order)
        kinds = self.groups[order]
        batches = [batch for kind in dict.fromkeys(kinds.tolist()) for batch in self._cut(order[kinds == kind])]
        if self.shuffle:
            return [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _order(self, rng: np.random.Generator) -> NDArray[np.intp]:
        if self.sampler is not None:
            return np.fromiter(self.sampler, np.intp)
        if not self.shuffle:
            return np.arange(self.size)
        order = rng.permutation(self.size)
        if self.shuffle == "block":
            rank = rng.permutation(int(self.blocks.max(initial=0)) + 1)
            order = order[np.argsort(rank[self.blocks[order]], kind="stable")]
        return order

    def _cut(self, order: Sequence[int] | NDArray[np.intp]) -> list[list[int]]:
        batches = [list(map(int, order[i : i + self.batch_size])) for i in range(0, len(order), self.batch_size)]
        if self.drop_last and batches and len(batches[-1]) < self.batch_size:
            batches.pop()
        return batches


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
