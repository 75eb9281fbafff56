"""Which stimuli form which batch of which epoch, fixed by a seed. Knows no framework."""

from __future__ import annotations

import hashlib
import operator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray


class Order:
    """The batches of one epoch, as lists of positions; each iteration gives the next epoch's.

    Parameters
    ----------
    stimuli : sequence of str
        Labels of the items.
    batch_size : int
        Items in a batch.
    shuffle : {False, True, "block"}
        ``True``: a full permutation. ``"block"``: blocks in random order, and their items in random order, so that
        what is read together stays together.
    seed : int or callable giving one
        With the epoch, fixes the order. A callable is asked once, by the first who needs the seed.
    drop_last : bool
        Leave out a last batch that is not full.
    blocks : ndarray of int [shape=(item,)]
        Block of each item.
    groups : ndarray of int [shape=(item,)], optional
        Items of different groups are never in one batch.
    sampler : iterable of int, optional
        Gives the order instead; `shuffle` must be False. Its own ``epoch``, where it has one, is the epoch.
    """

    def __init__(
        self,
        stimuli: Sequence[str] | NDArray[Any],
        batch_size: int,
        *,
        shuffle: bool | str,
        seed: int | Callable[[], int],
        drop_last: bool,
        blocks: NDArray[np.intp],
        groups: NDArray[np.intp] | None = None,
        sampler: Iterable[int] | None = None,
    ) -> None:
        if not whole(batch_size) or batch_size < 1:
            raise UsageError(f"batch_size={batch_size!r}, expected a whole number from 1")
        yes_or_no("drop_last", drop_last)
        if shuffle not in (False, True, "block"):
            raise UsageError(f"shuffle={shuffle!r}, expected False, True or 'block'")
        if sampler is not None and shuffle:
            raise UsageError("a sampler gives the order: leave shuffle away")
        if sampler is not None and not hasattr(sampler, "__len__"):
            raise UsageError(f"sampler={sampler!r}, expected one with a length, such as a list")
        if not callable(seed) and not (whole(seed) and seed >= 0):
            raise UsageError(f"seed={seed!r}, expected a whole number from 0")
        self.stimuli, self.batch_size, self.shuffle, self._seed = stimuli, int(batch_size), shuffle, seed
        self.drop_last, self.blocks, self.groups, self.sampler = bool(drop_last), blocks, groups, sampler
        self.digest = ""  # of the epoch that was given last, or is expected
        self._epoch = 0
        self._expected: tuple[int, str] | None = None
        self._drawn: tuple[int, list[list[int]]] | None = None

    @property
    def seed(self) -> int:
        """With the epoch, fixes the order; one that nothing depends on is not drawn."""
        if callable(self._seed):
            if not self.shuffle:
                return 0
            self._seed = int(self._seed())
        return int(self._seed)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed, self._drawn = seed, None

    @property
    def epoch(self) -> int:
        """Epoch that the next iteration gives: that of the sampler, where it has one, so that its owner can set it."""
        sampler: Any = self.sampler
        return int(sampler.epoch) if has_epochs(sampler) else self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; a sampler with epochs is told, too."""
        self._epoch = int(epoch)
        tell = getattr(self.sampler, "set_epoch", None)
        if tell is not None:
            tell(int(epoch))

    @cached_property
    def key(self) -> dict[str, Any]:
        """What the order depends on, beside seed and epoch."""
        labels = hashlib.sha256("\n".join(map(str, self.stimuli)).encode()).hexdigest()[:16]
        return {
            "batch_size": self.batch_size, "shuffle": self.shuffle, "drop_last": self.drop_last,
            "group_by_repeats": self.groups is not None, "stimuli": labels,
            "sampler": None if self.sampler is None else _told(self.sampler),
        }  # fmt: skip

    def expect(self, epoch: int, digest: str) -> None:
        """Refuse to give this epoch in another order than the one of this digest."""
        self.digest, self._expected = digest, (epoch, digest)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        batches = self._batches(epoch)
        # Where the sampler gives each process a part, the state of one of them is that of all
        shared = hasattr(self.sampler, "num_replicas")
        self.digest = "" if shared else hashlib.sha256(repr(batches).encode()).hexdigest()[:16]
        if self._expected is not None and self._expected[0] == epoch and self._expected[1] != self.digest:
            raise UsageError(
                f"load_state_dict: epoch {epoch} has another order than the one that the state was taken in; resume "
                f"with the same sampler, of a kind that gives an epoch's order again (a list, a DistributedSampler)"
            )
        self._drawn = self._expected = None
        self.set_epoch(epoch + 1)
        yield from batches

    def __len__(self) -> int:
        if self.groups is None:
            counts = [len(self.stimuli) if self.sampler is None else len(self.sampler)]  # type: ignore[arg-type]
        elif self.sampler is None:
            counts = np.unique(self.groups, return_counts=True)[1].tolist()
        else:  # how many of each group a sampler gives is not known before it has
            return len(self._batches(self.epoch))
        return sum(n // self.batch_size if self.drop_last else -(-n // self.batch_size) for n in counts)

    def _batches(self, epoch: int) -> list[list[int]]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return self._drawn[1]

    def _draw(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, epoch)) if self.shuffle else None
        order = self._order(rng)
        if self.groups is None:
            return self._cut(order)
        kinds = self.groups[order]
        batches = [batch for kind in dict.fromkeys(kinds.tolist()) for batch in self._cut(order[kinds == kind])]
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]

    def _order(self, rng: np.random.Generator | None) -> NDArray[np.intp]:
        size = len(self.stimuli)
        if self.sampler is not None:
            return np.array([_position(one, size) for one in self.sampler], np.intp)
        if rng is None:
            return np.arange(size)
        order = rng.permutation(size)
        if self.shuffle == "block":
            rank = rng.permutation(int(self.blocks.max(initial=0)) + 1)
            order = order[np.argsort(rank[self.blocks[order]], kind="stable")]
        return order

    def _cut(self, order: NDArray[np.intp]) -> list[list[int]]:
        batches = [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        if self.drop_last and batches and len(batches[-1]) < self.batch_size:
            batches.pop()
        return batches


class Batches:
    """A batch sampler: an order's batches, and which of them an iteration gives.

    Whoever shares an order out among processes puts a sampler of its own around it and makes this class again, in the
    way of torch's BatchSampler: what is shared out are whole batches.

    Parameters
    ----------
    sampler : iterable
        An `Order` or a sampler around one, whose items are batches; or one of plain positions.
    batch_size : int, optional
        Items in a batch, where that is one number.
    drop_last : bool
        Leave out a last batch that is not full, where `sampler` gives positions.

    Attributes
    ----------
    at : tuple of (int, int)
        The epoch that the last iteration gave, and how many of its batches it had left out.
    total : int
        Number of batches of that epoch.
    skip : int
        Batches that the next iteration leaves out.
    announce : callable, optional
        Told which items will be read soon, before they are.
    window : int
        Batches ahead that it is told of.
    """

    announce: Callable[[Sequence[int]], None] | None = None
    window = 0

    def __init__(self, sampler: Any, batch_size: int | None = None, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self.at, self.total = (0, 0), 0
        self._epoch = self.skip = 0

    @property
    def epoch(self) -> int:
        """Epoch that the next iteration gives."""
        return int(self.sampler.epoch) if has_epochs(self.sampler) else self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; one that is being resumed goes on where it was."""
        if epoch != self.epoch:
            self.start(epoch)

    def start(self, epoch: int, skip: int = 0) -> None:
        """Choose the next iteration's epoch, and how many of its batches it leaves out."""
        self._epoch, self.skip = int(epoch), skip
        tell = getattr(self.sampler, "set_epoch", None)
        if tell is not None:
            tell(int(epoch))

    def __iter__(self) -> Iterator[list[int]]:
        # An epoch is begun by who takes its first batch: torch asks for the iterator of its workers' batches twice.
        epoch = self.epoch
        skip = self.skip if epoch == self._epoch else 0
        batches = self._whole()
        self.start(epoch + 1)
        self.at, self.total = (epoch, skip), len(batches)
        yield from batches[skip:] if self.announce is None else self._announced(batches[skip:], self.announce)

    def _announced(self, batches: list[list[int]], announce: Callable[[Sequence[int]], None]) -> Iterator[list[int]]:
        told = 1
        for i, batch in enumerate(batches):
            if not i:  # what is waited for comes first
                announce(batch)
            if told - i <= 1 + self.window // 2:
                following = batches[told : i + 1 + self.window]
                if following:
                    announce([item for several in following for item in several])
                told += len(following)
            yield batch

    def __len__(self) -> int:
        if not self._plain:
            return len(self.sampler)
        size = self.batch_size or 1
        return len(self.sampler) // size if self.drop_last else -(-len(self.sampler) // size)

    @property
    def _plain(self) -> bool:
        """Whether the sampler gives positions: torch's own do."""
        return type(self.sampler).__module__.startswith("torch.")

    def _whole(self) -> list[list[int]]:
        given = list(self.sampler)
        if not self._plain:
            return given
        size = self.batch_size or 1
        batches = [given[i : i + size] for i in range(0, len(given), size)]
        return batches[: len(self)]


def has_epochs(sampler: Any) -> bool:
    """Whether a sampler keeps count of epochs, as torch's DistributedSampler does."""
    return hasattr(sampler, "epoch") and hasattr(sampler, "set_epoch")


def _told(sampler: Any) -> str:
    """Kind of a sampler, and what shares it out among processes."""
    options = [f"{name}={getattr(sampler, name)}" for name in ("num_replicas", "seed") if hasattr(sampler, name)]
    return f"{type(sampler).__name__}({', '.join(options)})"


def yes_or_no(name: str, value: object) -> None:
    """Refuse an option that is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name}={value!r}, expected True or False")


def whole(number: Any) -> bool:
    """Whether something is a whole number."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _position(one: Any, size: int) -> int:
    index = position_of(one)
    if index is None:
        raise UsageError(f"sampler: it gives {one!r}, expected positions, one at a time")
    if not -size <= index < size:
        raise IndexError(f"sampler: index {index} past the end: there are {size} stimuli")
    return index % size


def position_of(index: Any) -> int | None:
    """A single position: an int, or a scalar of NumPy or another framework; None for anything else."""
    if isinstance(index, bool) or str(getattr(index, "dtype", "")).rpartition(".")[2] == "bool":
        return None
    if getattr(index, "ndim", 0):
        return None
    try:
        return operator.index(index)
    except TypeError:
        return None
