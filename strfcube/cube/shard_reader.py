"""Reading shards: index cached, exactly the chunks needed, checked, decoded in place.

zarr-python reads any store; this reads those that `strfcube.cube.shard_writer` writes, several times faster, and
wherever they lie (`strfcube.transport.connect`).
"""

from __future__ import annotations

import copy
import math
import os
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube import blosc_frame
from strfcube.cube.codecs import NAMES, REPEATS_FIRST
from strfcube.cube.kept_chunks import KeptChunks
from strfcube.cube.metadata import bounded, parsed, strange
from strfcube.cube.shard_index import ShardIndex
from strfcube.errors import StoreError
from strfcube.forks import OwnLock
from strfcube.transport.chunk_cache import CHECKED
from strfcube.transport.connect import Transport, connect
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from strfcube.cube.metadata import Root
    from strfcube.cube.shard_index import Place, Shard

    Several = list[NDArray[Any] | None] | NDArray[Any]

AHEAD_BYTES = 256_000_000  # encoded, asked for and not read; only what was abandoned reaches it
_BLANK_BYTES = 4096  # encoded, of repeats that may be blank: more are not looked into
_DTYPES = {"bool", "float32", "float64", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64))}


class ShardedArray:
    """A Zarr v3 array with one level of blosc-compressed chunks, in shards or not.

    Safe to share between threads, to fork and to pickle.

    Parameters
    ----------
    place : path, URL or Transport
        Folder of the array.
    keep : bool
        Keep decoded chunks in memory.
    meta : mapping, optional
        Metadata of the array, where they were read already; default: of its own ``zarr.json``.
    ends : str, optional
        What each shard ends in (`strfcube.cube.metadata.Root.ends`): one in the place of another is found by it.

    Attributes
    ----------
    path : str
        Path or URL of the array.
    shape, shard, chunk : tuple of int
        Sizes of the array, of a shard and of a chunk.
    dtype, fill
        Stored dtype, and the value of chunks that are not stored.
    repeats_first : bool
        Whether a chunk's values are stored in the order (stim, repeat, neuron, time).
    checked : bool
        Whether each chunk ends in a checksum.
    index : ShardIndex
        Where chunks lie.
    kept : KeptChunks or None
        Decoded chunks, where they are kept.

    Raises
    ------
    NotImplementedError
        If the array is not laid out as `strfcube.cube.shard_writer` does it: read it through zarr.
    StoreError
        If there is no such array, or it cannot be reached.
    """

    def __init__(
        self,
        place: Path | str | Transport,
        *,
        keep: bool = False,
        meta: Mapping[str, Any] | None = None,
        ends: str | None = None,
    ) -> None:
        self._files: Transport = connect(place) if isinstance(place, str | os.PathLike) else place
        self.path = self._files.url
        try:
            meta = self._own_metadata() if meta is None else meta
            if why := strange(meta):
                raise ValueError(why)
            self.shape: Place = tuple(meta["shape"])
            self.shard: Place = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
            self.chunk, self.repeats_first, self.checked = _inner_chunk(meta, self.shard)
            self.dtype = np.dtype(meta["data_type"]).newbyteorder("<")
            fill = meta["fill_value"]
            self.fill: float = float(fill) if isinstance(fill, str) else fill
            sharded = meta["codecs"][0]["name"] == "sharding_indexed"
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.path}/zarr.json is damaged ({type(error).__name__}: {error})") from None
        self.index = ShardIndex(self._files, self.shape, self.shard, self.chunk, sharded=sharded, ends=ends)
        self.kept = KeptChunks(self.dtype) if keep else None
        self._fresh()

    def _own_metadata(self) -> dict[str, Any]:
        text = bounded(self._files, "zarr.json")
        if text is None:
            raise StoreError(f"{self.path}: expected a Zarr v3 array, but there is none; build the cube again")
        return parsed(text)

    def _fresh(self) -> None:
        from google_crc32c import value
        from numcodecs import blosc

        self._decompress, self._crc = blosc.decompress, value
        self._coming: dict[Place, tuple[Future[bytes], int]] = {}
        # Of encoded blocks after the first, whether they hold nothing but the fill value: few, the same in all chunks
        self._blank: dict[bytes, bool] = {}
        self._process, self._lock = os.getpid(), OwnLock()
        self._scratch = threading.local()

    def keeping(self) -> ShardedArray:
        """The same array, which keeps decoded chunks in memory."""
        other = copy.copy(self)
        other.kept = KeptChunks(self.dtype)
        other._fresh()
        return other

    def __getstate__(self) -> dict[str, Any]:
        own = ("_decompress", "_crc", "_coming", "_blank", "_lock", "_scratch")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    def _own(self) -> None:
        """After a fork, let go of the requests of the parent: they are answered there."""
        if self._process != os.getpid():
            self._process, self._coming = os.getpid(), {}

    @property
    def remote(self) -> bool:
        """Whether `fetch` is of use."""
        return isinstance(self._files, Remote)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.chunk) * int(self.dtype.itemsize)

    @property
    def grid(self) -> Place:
        """Chunks along each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))

    def read(self, at: Place) -> NDArray[Any] | None:
        """Decode a chunk.

        Parameters
        ----------
        at : tuple of int
            Index of the chunk.

        Returns
        -------
        ndarray [shape=self.chunk] or None
            None where the chunk is not stored. Where repeats come first, those at the end that are blank are left out.
            Unless chunks are kept, the array is valid until the same thread reads the next one.

        Raises
        ------
        StoreError
            If the chunk or its shard is damaged, was replaced, or cannot be reached.
        """
        if self.kept is not None and at in self.kept:
            kept = self.kept[at]
            return None if kept is None else self._ordered(kept)
        data = self._frame(at)
        if data is None:
            if self.kept is not None:
                self.kept.none(at)
            return None
        try:
            frame, repeats = self.recorded(data)
            if self.kept is not None:
                return self._ordered(self.kept.add(at, self._shape(repeats), partial(self._decompress, frame)))
            out = self._scratched(repeats)
            self._decompress(frame, out)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(at, str(error)) from error
        return self._ordered(out)

    def begun(self, places: Sequence[Place]) -> Callable[[], Several]:
        """Read chunks; what it gives decodes them, small ones in one go.

        Threads wait for each other wherever the interpreter is at work: one that reads for all of them, and some that
        decode at once what it has read, wait seldom.

        Parameters
        ----------
        places : sequence of tuple of int
            Indices of chunks.

        Returns
        -------
        callable
            Gives of each what `read` gives, and raises as `read` does: a list, or an array where all are alike.
            Unless chunks are kept, they are valid until the same thread decodes the next ones.

        Raises
        ------
        StoreError
            As `read`.
        """
        if self.kept is not None:
            return lambda: [self.read(at) for at in places]
        alike: dict[Any, list[tuple[Place, bytes]]] = {}
        kinds: list[Any] = [None] * len(places)
        for i, at in enumerate(places):
            if (data := self._frame(at)) is None:
                continue
            try:
                frame, repeats = self.recorded(data)
                kinds[i] = blosc_frame.alike(frame) or i, self._shape(repeats)
            except (RuntimeError, ValueError) as error:
                raise self._damaged(at, str(error)) from error
            alike.setdefault(kinds[i], []).append((at, frame))
        groups = [(kind, self._joined(several), several) for kind, several in alike.items()]

        def decoded() -> Several:
            pieces: dict[Any, Iterator[NDArray[Any]]] = {}
            room = self._scratched_values(sum(len(several) * math.prod(kind[1]) for kind, _, several in groups))
            for kind, frame, several in groups:
                values = room[: math.prod((len(several), *kind[1]))].reshape(len(several), *kind[1])
                room = room[values.size :]
                self._decode_all(frame, several, values)
                if len(several) == len(places) and kind[1][0] == 1:
                    return self._ordered(values[:, 0])[:, None]
                pieces[kind] = iter(values)
            return [None if kind is None else self._ordered(next(pieces[kind])) for kind in kinds]

        return decoded

    def _joined(self, several: list[tuple[Place, bytes]]) -> bytes | None:
        """One frame of several that are alike; None where there is one, or where one of them is damaged."""
        try:
            return blosc_frame.joined([frame for _, frame in several]) if len(several) > 1 else None
        except ValueError:
            return None

    def _decode_all(self, joined: bytes | None, several: list[tuple[Place, bytes]], out: NDArray[Any]) -> None:
        """Decode frames, at once where they are joined; where that fails, one by one, to say which is damaged."""
        if joined is not None:
            try:
                self._decompress(joined, out)
            except (RuntimeError, ValueError):
                pass
            else:
                return
        for (at, frame), room in zip(several, out, strict=True):
            try:
                self._decompress(frame, room)
            except (RuntimeError, ValueError) as error:
                raise self._damaged(at, str(error)) from error

    def _frame(self, at: Place) -> bytes | None:
        """Bytes of a chunk as stored, which say of themselves that they are one; None where it is not stored."""
        data = self.encoded(at)
        if data is not None and (why := _unlike(data, self.chunk_bytes, 4 if self.checked else 0)):
            raise self._damaged(at, why)
        return data

    def _ordered(self, values: NDArray[Any]) -> NDArray[Any]:
        return values.transpose(0, 2, 1, 3) if self.repeats_first else values

    def recorded(self, data: bytes) -> tuple[bytes, int]:
        """The part of an encoded chunk that has to be decoded: without the repeats at its end that are blank.

        They are known by their own bytes, decoded once, and not by what the cube says about itself: what is left out
        is missing for certain.

        Returns
        -------
        bytes
            A frame of blosc.
        int
            Repeats in it; those of a chunk where there are no blank ones.
        """
        every = self.chunk[2] if self.repeats_first else 0
        found = blosc_frame.split(data) if self.repeats_first else None
        if found is None:
            return data, every
        size, rest, first, others = found
        row = self.chunk_bytes // every
        if size % row or size + rest != self.chunk_bytes or len(others) > _BLANK_BYTES:
            return data, every
        if others not in self._blank:
            values = np.empty(rest // self.dtype.itemsize, self.dtype)
            self._decompress(others, values)
            self._blank[others] = bool((np.isnan(values) if self.fill != self.fill else values == self.fill).all())
        return (first, size // row) if self._blank[others] else (data, every)

    def repeats(self, at: Place) -> int:
        """Repeats that `read` gives of a chunk of responses, without decoding it; 0 where it is not stored."""
        if self.kept is not None and at in self.kept:
            kept = self.kept[at]
            return 0 if kept is None else kept.shape[1] if self.repeats_first else self.chunk[2]
        if not self.repeats_first:
            return self.chunk[2] if self.has(at) else 0
        data = self.encoded(at)
        if data is not None and self.remote:  # it will be read soon
            self._own()
            future: Future[bytes] = Future()
            future.set_result(data)
            with self._lock:
                self._coming[at] = future, len(data)
        try:
            return 0 if data is None else self.recorded(data)[1]
        except (RuntimeError, ValueError) as error:
            raise self._damaged(at, str(error)) from error

    def values(self, start: int, stop: int) -> NDArray[Any]:
        """Values of a range of a one-dimensional array, as an array of its own.

        Parameters
        ----------
        start, stop : int
            Half-open range within the array.

        Raises
        ------
        StoreError
            If a shard is damaged or not there: those of such arrays are written whatever they hold.
        """
        out = np.full(stop - start, self.fill, self.dtype)
        size = self.chunk[0]
        numbers = range(start // size, -(-stop // size)) if stop > start else range(0)
        self.fetch((number,) for number in numbers)
        for number in numbers:
            chunk = self.read((number,))
            if chunk is None and self.index.lost((number,)):
                raise self.index.gone((number,))
            low, high = max(start, number * size), min(stop, (number + 1) * size)
            if chunk is not None:
                out[low - start : high - start] = chunk[low - number * size : high - number * size]
        return out

    def encoded(self, at: Place) -> bytes | None:
        """Bytes of a chunk as stored, its checksum (if it has one) at the end; None where it is not stored.

        Raises
        ------
        StoreError
            If they are not those that were written.
        """
        found = self.index.locate(at)
        if found is None:
            return None
        shard, offset, size = found
        asked = self._coming.pop(at, None) if self._coming and self._process == os.getpid() else None
        data = asked[0].result() if asked else self._files.read(shard.key, offset, size, shard.version)
        if self._sound(data, size):
            return data
        if isinstance(self._files, Remote):  # a cache, or the way from the server, may be damaged and not the cube
            data = self._files.read_again(shard.key, offset, size, shard.version)
            if self._sound(data, size):
                return data
        raise self._damaged(at, "its checksum" if len(data) == size else f"{len(data)} of {size} bytes")

    def fetch(self, chunks: Iterable[Place]) -> None:
        """Ask for chunks that will be read soon: many requests at once, neighbours in one. Does not wait for them.

        Nothing of the kind is needed where requests cost nothing: of local files, this does nothing.

        Parameters
        ----------
        chunks : iterable of tuple of int
            Indices of chunks. Those that are kept, or were asked for and are not read yet, are not asked for again.
        """
        if not isinstance(self._files, Remote):
            return
        self._own()
        kept = () if self.kept is None else self.kept
        wanted = [at for at in dict.fromkeys(chunks) if at not in self._coming and at not in kept]
        self.index.open(wanted)
        places: dict[str, tuple[Shard, list[Place], list[tuple[int, int]]]] = {}
        for at in wanted:
            found = self.index.locate(at)
            if found is not None:
                _, there, spans = places.setdefault(found[0].key, (found[0], [], []))
                there.append(at)
                spans.append(found[1:])
        asked: dict[Place, tuple[Future[bytes], int]] = {}
        for key, (shard, there, spans) in places.items():
            futures = self._files.fetch(key, spans, shard.version)
            asked |= {at: (f, size) for at, f, (_, size) in zip(there, futures, spans, strict=True) if f is not None}
        with self._lock:
            spare = AHEAD_BYTES - sum(size for _, size in asked.values())
            for at, (_, size) in reversed(list(self._coming.items())):
                spare -= size
                if spare < 0:
                    self._coming.pop(at, None)
            self._coming |= asked

    def has(self, at: Place) -> bool:
        """Whether a chunk is stored: one that holds only missing values is not."""
        return self.index.locate(at) is not None

    def _sound(self, data: bytes, size: int) -> bool:
        return len(data) == size and (not self.checked or self._crc(data) == CHECKED)

    def _damaged(self, at: Place, what: str) -> StoreError:
        return StoreError(f"{self.path}: chunk {at} is damaged ({what}); run strfcube verify")

    def _shape(self, repeats: int) -> Place:
        return (1, repeats, self.chunk[1], self.chunk[3]) if self.repeats_first else self.chunk

    def _scratched_values(self, size: int) -> NDArray[Any]:
        """Memory of this thread for several chunks, used again for the next ones."""
        scratch: NDArray[Any] | None = getattr(self._scratch, "several", None)
        if scratch is None or scratch.size < size:
            scratch = self._scratch.several = np.empty(size, self.dtype)
        return scratch[:size]

    def _scratched(self, repeats: int) -> NDArray[Any]:
        """Memory of this thread, used again for the next chunk."""
        scratch: NDArray[Any] | None = getattr(self._scratch, "chunk", None)
        if scratch is None:
            most = self.chunk[2] if self.repeats_first else 0
            scratch = self._scratch.chunk = np.empty(self._shape(most), self.dtype)
        return scratch[:, :repeats] if self.repeats_first else scratch


def stored_array(files: Transport, root: Root | None, name: str) -> ShardedArray:
    """An array of a cube, described and held against what its root says of it; raises as `ShardedArray`."""
    if root is None or name not in root.nodes:
        return ShardedArray(files.at(name))
    return ShardedArray(files.at(name), meta=root.nodes[name], ends=root.ends(name))


def _unlike(data: bytes, size: int, rest: int) -> str:
    """Why bytes are no blosc frame of `size` bytes; its C code believes what the frame says of itself."""
    if len(data) < 16 + rest:
        return "its frame"
    said, encoded = (int.from_bytes(data[i : i + 4], "little") for i in (4, 12))
    return "" if (said, encoded) == (size, len(data) - rest) else f"{said} bytes in {encoded}, expected {size}"


def _inner_chunk(meta: Mapping[str, Any], outer: Place) -> tuple[Place, bool, bool]:
    """Chunk shape of an array that this module can decode, and whether repeats come first and there are checksums."""
    codecs = meta["codecs"]
    chunk = outer
    supported = meta["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
    if codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        chunk = tuple(sharding["chunk_shape"])
        supported &= len(codecs) == 1 and sharding.get("index_location", "end") == "end"
        supported &= [c["name"] for c in sharding["index_codecs"]] == ["bytes", "crc32c"]
        codecs = sharding["codecs"]
    repeats_first = codecs[0]["name"] == "transpose"
    if repeats_first:
        supported &= tuple(codecs[0]["configuration"]["order"]) == REPEATS_FIRST and chunk[0] == 1
        codecs = codecs[1:]
    names = [c["name"] for c in codecs]
    supported &= names in NAMES
    supported &= codecs[0].get("configuration", {}).get("endian", "little") == "little"
    supported &= meta["data_type"] in _DTYPES
    if not supported:
        raise NotImplementedError(f"codecs of {meta['shape']}: {codecs}")
    return chunk, repeats_first, names[-1] == "crc32c"
