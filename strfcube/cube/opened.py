"""An opened cube and its arrays: still the one that was opened, and nothing of it lost."""

from __future__ import annotations

import copy
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from strfcube.cube.metadata import Root
from strfcube.cube.shard_reader import ShardedArray, stored_array
from strfcube.errors import StoreError
from strfcube.transport.connect import Transport, Version, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from strfcube.cube.shard_index import Place
    from strfcube.cube.shard_reader import Several

    Index = NDArray[np.intp]


@dataclass(frozen=True)
class Store:
    """An opened cube: its place, and what tells it from another one that is put there later.

    Attributes
    ----------
    path : str
        Local folder or URL.
    version : Version
        Which root metadata were there.
    digest : str, optional
        The cube's own; without it, root metadata that were put there later are another cube's, whatever they say.
    cache_dir : str, optional
        As `strfcube.transport.connect` takes it.
    """

    path: str
    version: Version | None
    digest: str = ""
    cache_dir: str | None = None

    @classmethod
    def opened(cls, path: str, cache_dir: str | None = None) -> Self:
        """The cube that is there now; its digest is not read."""
        return cls(path, _version(connect(path, cache_dir)), cache_dir=cache_dir)

    @property
    def files(self) -> Transport:
        """Where its bytes come from."""
        return connect(self.path, self.cache_dir)

    def check(self) -> None:
        """Find out whether the cube is still the one that was opened.

        Raises
        ------
        StoreError
            If it was built again, moved or removed since.
        """
        files = self.files
        if _version(files) == self.version:
            return
        try:
            attrs = json.loads(files.get("zarr.json") or b"")["attributes"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{self.path} is not there any more: it was moved or removed while it was open") from None
        # A copy, or attributes that were edited, leave the arrays as they are
        if not self.digest or attrs.get("digest") != self.digest:
            raise StoreError(f"{self.path} was built again while it was open: open it again")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let what cannot be read be the fault of another cube that was put there meanwhile, if one was.

        Raises
        ------
        StoreError
            As `check`, instead of another one.
        """
        try:
            yield
        except StoreError:
            self.check()
            raise

    def sounds(self) -> Sounds | None:
        """Its waveforms; None where it was built without.

        Raises
        ------
        StoreError
            As `check`, or if they cannot be read.
        """
        from strfcube.cube.groups import has_group, in_memory, open_group

        there = has_group(self.path, "audio")
        self.check()
        if not there:
            return None
        table = open_group(self.path, "audio", self.cache_dir)[["row_size", "rate"]]
        table = in_memory(table, f"{self.path}/audio")
        size = table["row_size"].values
        files = self.files
        samples = stored_array(files, Root.read(files), "audio/samples")
        return Sounds(samples, np.cumsum(size) - size, size, table["rate"].values)


@dataclass(frozen=True, eq=False)
class Sounds:
    """The waveforms of a cube, one after the other.

    Attributes
    ----------
    samples : ShardedArray
        All of them.
    start, size : ndarray of int [shape=(stim,)]
        Where that of each stimulus lies; size 0 where it has none.
    rate : ndarray of float [shape=(stim,)]
        In Hz.
    """

    samples: ShardedArray
    start: Index
    size: Index
    rate: NDArray[np.float64]

    def read(self, stim: int) -> NDArray[Any]:
        """Samples of one stimulus, as they are stored."""
        start = int(self.start[stim])
        return self.samples.values(start, start + int(self.size[stim]))

    def fetch(self, stims: Sequence[int]) -> None:
        """Ask for what will be read soon; see `ShardedArray.fetch`."""
        step = self.samples.chunk[0]
        spans = [(int(self.start[s]), int(self.start[s] + self.size[s])) for s in stims if self.size[s]]
        self.samples.fetch((n,) for a, b in spans for n in range(a // step, -(-b // step)))


def _version(files: Transport) -> Version | None:
    found = files.tail("zarr.json", 1)
    return None if found is None else found[1]


class StoredArray:
    """One array of an opened cube, with what tells a lost shard from one that holds nothing.

    Parameters
    ----------
    store : Store
        The cube.
    array : ShardedArray
        Its array, over stim and further dimensions.
    kept : ndarray [shape=(stim,) or (stim, neuron)], optional
        Not zero where the cube says that there are values: trials of each pair. Default: everywhere.
    ends : ndarray of int [shape=(stim,)], optional
        First bin after each stimulus, as the cube says.

    Attributes
    ----------
    kept, ends
        As given; None in another process.
    """

    def __init__(
        self,
        store: Store,
        array: ShardedArray,
        kept: NDArray[Any] | None = None,
        ends: NDArray[Any] | None = None,
    ) -> None:
        self.store, self.array, self.kept, self.ends = store, array, kept, ends
        # Of each shard, whether it must be there
        known = 1 if kept is None else kept.ndim
        # A part of the repeats or bins, in shards that others wrote, may hold nothing and not be there
        rest = zip(array.shard[known:], array.shape[known:], strict=True)
        self._expected: NDArray[np.bool_] = np.array(all(s >= n for s, n in rest))
        if kept is not None and kept.size and self._expected:
            found = kept > 0
            for dim, size in enumerate(array.shard[: kept.ndim]):
                found = np.logical_or.reduceat(found, np.arange(0, kept.shape[dim], size), axis=dim)
            self._expected = found
        self._known: set[tuple[int, ...]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known": set(), "kept": None, "ends": None}

    def keeping(self) -> StoredArray:
        """The same, which keeps decoded chunks in memory."""
        other = copy.copy(self)
        other.array, other._known = self.array.keeping(), set()
        return other

    def fetch(self, chunks: Iterable[Place]) -> None:
        """Ask for chunks that will be read soon; see `ShardedArray.fetch`. Raises as `read` does."""
        if not self.array.remote:
            return
        chunks = list(chunks)
        with self._same():
            self.array.fetch(chunks)
        self._settle(*chunks)

    def read(self, at: tuple[int, ...]) -> NDArray[Any] | None:
        """Decode a chunk, as `ShardedArray.read` does.

        Raises
        ------
        StoreError
            If its shard is damaged or lost, or belongs to a cube that was built there since.
        """
        if self.array.index.shard_of(at) not in self._known:
            self._settle(at)
        return self.array.read(at)

    def begun(self, places: Sequence[tuple[int, ...]]) -> Callable[[], Several]:
        """Read several chunks, and decode them later, as `ShardedArray.begun` does; raises as `read` does."""
        for at in places:
            if self.array.index.shard_of(at) not in self._known:
                self._settle(at)
        return self.array.begun(places)

    def has(self, at: tuple[int, ...]) -> bool:
        """Whether a chunk is stored; raises as `read` does."""
        if self.array.index.shard_of(at) not in self._known:
            self._settle(at)
        return self.array.has(at)

    def repeats(self, at: tuple[int, ...]) -> int:
        """Repeats that `read` gives of a chunk, 0 where it is not stored; raises as `read` does."""
        if self.array.index.shard_of(at) not in self._known:
            self._settle(at)
        return self.array.repeats(at)

    def open(self, chunks: Iterable[Place]) -> None:
        """Ask at once for the indexes of the shards of some chunks. Raises as `read` does."""
        if self.array.remote:
            chunks = list(chunks)
            with self._same():
                self.array.index.open(chunks)
            self._settle(*chunks)

    @contextmanager
    def _same(self) -> Iterator[None]:
        """Of what does not fit, say first that the cube was built again, if it was."""
        try:
            yield
        except StoreError:
            self.store.check()
            raise

    def _settle(self, *chunks: Place) -> None:
        """Look once at the shard of each chunk."""
        shard_of = self.array.index.shard_of
        new = {shard: at for at in chunks if (shard := shard_of(at)) not in self._known}
        if not new:
            return
        # Asking opens it: from here on it is this very file that is read
        with self._same():
            lost = [shard for shard, at in new.items() if self.array.index.lost(at)]
        self.store.check()
        for shard in lost:
            if self.array.index.built(new[shard]) or self._expected[shard[: self._expected.ndim]]:
                raise self.array.index.gone(new[shard])
        self._known.update(new)
