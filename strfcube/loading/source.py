"""What all views of one cube share: open files, kept chunks, buffers; where responses, spectrograms and sounds are."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.response_reader import LazyReader, ResponseReader, computed, cut, origin
from strfcube.cube.shard_reader import ShardedArray
from strfcube.loading.memory import Buffers
from strfcube.loading.waveform import Waveforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.loading.reading import Cache

AUTO_BYTES = 256_000_000  # decoded bytes that cache="auto" keeps in memory


class Source:
    """What all views of one cube share.

    Parameters
    ----------
    cube : xarray.Dataset
        Everything but ``response`` and ``stimulus`` in memory.
    cache : {"none", "ram", "auto"}
        As in `Reading`.
    """

    def __init__(self, cube: xr.Dataset, cache: Cache) -> None:
        self.cube = cube
        self.cache = cache
        self.n_repeats: NDArray[Any] = cube["n_repeats"].transpose("stim", "neuron").values
        self.n_bins: NDArray[Any] = cube["n_bins"].values
        self.buffers = Buffers()
        self.parts = origin(cube)
        self.stimulus_parts = origin(cube, "stimulus")
        self._arrays: dict[str, ShardedArray] = {}
        self._waveforms: dict[float, Waveforms] = {}

    @cached_property
    def keep(self) -> bool:
        """Whether decoded chunks stay in memory."""
        most = np.maximum(self.n_repeats.max(1, initial=0), 1)
        values = int(most.sum()) * self.cube.sizes["neuron"] * self.cube.sizes["time"]
        stored = np.dtype(self.cube["response"].encoding.get("dtype", self.cube["response"].dtype))
        return self.cache == "ram" or (self.cache == "auto" and values * stored.itemsize <= AUTO_BYTES)

    def responses(self, neuron: NDArray[np.intp]) -> ResponseReader | LazyReader:
        """Reader of some neurons: of the shards where `cube` still holds its own opened array, else through dask."""
        if self.parts:
            parts = cut(self.parts, np.arange(self.cube.sizes["stim"]), neuron)
            try:
                return ResponseReader(parts, {p.path: self._array(p.path, "response") for p in parts})
            except NotImplementedError:
                pass
        return LazyReader(self.cube["response"], neuron)

    def stimuli(self, stims: Sequence[int], *, threads: bool) -> list[NDArray[Any] | None]:
        """Spectrograms [shape=(frequency, time)]; None for one that the cube lacks."""
        if self.stimulus_parts:
            try:
                return [self._stimulus(s) for s in stims]
            except NotImplementedError:
                pass
        lazy = self.cube["stimulus"].transpose("stim", "frequency", "time")
        found = computed([lazy.isel(stim=s) for s in stims], threads=threads)
        return [None if np.isnan(values).all() else values for values in found]

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
        try:
            if self.stimulus_parts:
                return [s for s in stims for array, at in [self._stimulus_at(s)] if not array.has(at)]
        except NotImplementedError:
            pass
        return [s for s in stims if look and self.stimuli([s], threads=False)[0] is None]

    def waveforms(self, fs: float) -> Waveforms:
        """Waveforms at a sampling rate."""
        if fs not in self._waveforms:
            dt = float(self.cube.attrs["dt_ms"]) / 1000
            self._waveforms[fs] = Waveforms(self.stimulus_parts, self.cube, fs, dt, keep=self.cache != "none")
        return self._waveforms[fs]

    def blocks(self) -> NDArray[np.intp]:
        """Number of the read block that holds each stimulus: what "block" shuffling keeps together."""
        if self.parts:
            try:
                sizes = {p.path: self._array(p.path, "response").shard[0] for p in self.parts}
            except NotImplementedError:
                pass
            else:
                at = np.stack([np.where(p.stim < 0, -1, p.stim // sizes[p.path]) for p in self.parts])
                return np.unique(at, axis=1, return_inverse=True)[1].ravel()
        chunks = self.cube["response"].chunksizes.get("stim", (self.cube.sizes["stim"],))
        return np.repeat(np.arange(len(chunks)), chunks)

    def _stimulus(self, stim: int) -> NDArray[Any] | None:
        array, at = self._stimulus_at(stim)
        values = array.read(at)
        return None if values is None else values[0]

    def _stimulus_at(self, stim: int) -> tuple[ShardedArray, tuple[int, int, int]]:
        part = next(p for p in self.stimulus_parts if p.stim[stim] >= 0)
        array = self._array(part.path, "stimulus")
        if array.chunk != (1, *array.shape[1:]):
            raise NotImplementedError(f"stimulus in chunks of {array.chunk}")
        return array, (int(part.stim[stim]), 0, 0)

    def _array(self, path: str, name: str) -> ShardedArray:
        key = f"{path}/{name}"
        if key not in self._arrays:
            self._arrays[key] = ShardedArray(Path(key), keep=self.keep)
        return self._arrays[key]
