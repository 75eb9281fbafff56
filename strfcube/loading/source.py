"""What all views of one cube share: open files, kept chunks, buffers; where responses, spectrograms and sounds are."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.repeats import left
from strfcube.cube.response_reader import LazyReader, ResponseReader, computed
from strfcube.loading.memory import Buffers
from strfcube.loading.sending import Sent, sent
from strfcube.loading.waveform import Waveforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.opened import StoredArray
    from strfcube.cube.shard_index import Place
    from strfcube.cube.shard_reader import Several
    from strfcube.cube.stored_rows import Rows
    from strfcube.loading.reading import Cache

AUTO_BYTES = 256_000_000  # decoded bytes of an array that cache="auto" keeps in memory


class Source:
    """What all views of one cube share.

    Parameters
    ----------
    cube : xarray.Dataset
        Everything but ``response`` and ``stimulus`` in memory.
    cache : {"none", "ram", "device", "auto"}
        As in `Reading`.
    """

    def __init__(self, cube: xr.Dataset, cache: Cache) -> None:
        self.cube = cube
        self.cache = cache
        self.n_repeats: NDArray[Any] = left(cube)
        self.n_bins: NDArray[Any] = cube["n_bins"].values
        self.buffers = Buffers()
        self._waveforms: dict[float, Waveforms] = {}

    def __reduce__(self) -> Any:
        found = self._sent
        return (_received, (found, self.cache)) if found is not None else (Source, (self.cube, self.cache))

    @cached_property
    def _sent(self) -> Sent | None:
        return sent(self.cube)

    def _keeps(self, name: str) -> bool:
        """Whether decoded chunks of ``response`` or ``stimulus`` stay in memory."""
        array, values = self.cube[name], self.cube[name].size
        if name == "response":
            most = np.maximum(self.n_repeats.max(1, initial=0), 1)
            values = int(most.sum()) * self.cube.sizes["neuron"] * self.cube.sizes["time"]
        stored = np.dtype(array.encoding.get("dtype", array.dtype))
        return self.cache == "ram" or (self.cache == "auto" and values * stored.itemsize <= AUTO_BYTES)

    @cached_property
    def _responses(self) -> Rows | None:
        """The stored rows of the responses, where the cube still holds them as they are stored."""
        return self._rows("response")

    @cached_property
    def _stimuli(self) -> Rows | None:
        rows = self._rows("stimulus")
        whole = rows is not None and all(p.source.array.chunk == (1, *p.source.array.shape[1:]) for p in rows.parts)
        return rows if whole else None

    def _rows(self, name: str) -> Rows | None:
        from strfcube.cube.lazy_array import rows_of

        rows = rows_of(self.cube[name])
        if rows is None or not rows.in_order:
            return None
        return rows.keeping() if self._keeps(name) else rows

    def responses(self, neuron: NDArray[np.intp]) -> ResponseReader | LazyReader:
        """Reader of some neurons: of the shards where `cube` still holds what is stored, else through dask."""
        if self._responses is not None:
            every = slice(None)
            try:
                return ResponseReader(self._responses.take((every, neuron, every, every)))
            except NotImplementedError:
                pass
        return LazyReader(self.cube["response"], neuron)

    def stimuli(self, stims: Sequence[int], *, threads: bool) -> Several:
        """Spectrograms [shape=(frequency, time)]; None for one that the cube lacks. An array where all are alike."""
        return self.begun(stims, threads=threads)()

    def begun(self, stims: Sequence[int], *, threads: bool = False) -> Callable[[], Several]:
        """Read spectrograms; what it gives decodes them."""
        if self._stimuli is None:
            lazy = self.cube["stimulus"].transpose("stim", "frequency", "time")
            found = computed([lazy.isel(stim=s) for s in stims], threads=threads)
            return lambda: [None if np.isnan(values).all() else values for values in found]
        rows: Any = self._stimuli
        if len(stims) == 1:
            return partial(self._one, *self._stimulus_at(stims[0]))
        begun = [(mine, array.begun(chunks)) for array, (mine, chunks) in self._of_arrays(stims).items()]

        def decoded() -> Several:
            out: list[NDArray[Any] | None] = [None] * len(stims)
            for mine, values in begun:
                several = values()
                if isinstance(several, np.ndarray) and len(mine) == len(stims):
                    return several[:, 0, : rows.shape[1], : rows.shape[2]]
                for i, found in zip(mine, several, strict=True):
                    out[i] = None if found is None else found[0, : rows.shape[1], : rows.shape[2]]
            return out

        return decoded

    def fetch(self, stims: Sequence[int], fs: float | None) -> None:
        """Ask for the spectrograms, or (where a rate is given) the waveforms, of stimuli that will be read soon."""
        if fs is not None:
            self.waveforms(fs).fetch(stims)
        elif self._stimuli is not None and any(p.source.array.remote for p in self._stimuli.parts):
            for array, (_, chunks) in self._of_arrays(stims).items():
                array.fetch(chunks)

    def _of_arrays(self, stims: Sequence[int]) -> dict[StoredArray, tuple[list[int], list[Place]]]:
        """The arrays that hold the spectrograms of stimuli: of each, which of these, and their chunks."""
        found: dict[StoredArray, tuple[list[int], list[Place]]] = {}
        for i, (array, at) in enumerate(map(self._stimulus_at, stims)):
            mine, chunks = found.setdefault(array, ([], []))
            mine.append(i)
            chunks.append(at)
        return found

    def without_stimulus(self, stims: Sequence[int], fs: float | None, *, look: bool) -> list[int]:
        """Those of some stimuli that have no waveform (where a rate is given) or no spectrogram.

        Parameters
        ----------
        stims : sequence of int
            Positions in the cube.
        fs : float or None
            Rate of the waveforms.
        look : bool
            Read spectrograms whose shards do not tell: those of lazily transformed or remote cubes.
        """
        if fs is not None:
            return [s for s in stims if not self.waveforms(fs).has(s)]
        if self._stimuli is not None:
            places = [self._stimulus_at(s) for s in stims]
            for array in {id(array): array for array, _ in places}.values():
                array.open([at for of, at in places if of is array])
            return [s for s, (array, at) in zip(stims, places, strict=True) if not array.has(at)]
        return [s for s in stims if look and self.stimuli([s], threads=False)[0] is None]

    def waveforms(self, fs: float) -> Waveforms:
        """Waveforms at a sampling rate."""
        if fs not in self._waveforms:
            dt = float(self.cube.attrs["dt_ms"]) / 1000
            self._waveforms[fs] = Waveforms(self._stimuli, self.cube, fs, dt, keep=self.cache != "none")
        return self._waveforms[fs]

    def blocks(self) -> NDArray[np.intp]:
        """Number of the read block that holds each stimulus: what "block" shuffling keeps together."""
        if self._responses is not None:
            parts = self._responses.parts
            at = np.stack([np.where(p.stim < 0, -1, p.stim // p.source.array.shard[0]) for p in parts])
            return np.unique(at, axis=1, return_inverse=True)[1].ravel()
        chunks = self.cube["response"].chunksizes.get("stim", (self.cube.sizes["stim"],))
        return np.repeat(np.arange(len(chunks)), chunks)

    def _one(self, array: StoredArray, at: tuple[int, int, int]) -> Several:
        values, rows = array.read(at), self._stimuli
        assert rows is not None
        return [None if values is None else values[0, : rows.shape[1], : rows.shape[2]]]

    def _stimulus_at(self, stim: int) -> tuple[StoredArray, tuple[int, int, int]]:
        rows: Any = self._stimuli
        part = next(p for p in rows.parts if p.stim[stim] >= 0)
        return part.source, (int(part.stim[stim]), 0, 0)


def _received(found: Sent, cache: Cache) -> Source:
    return Source(found.cube(), cache)
