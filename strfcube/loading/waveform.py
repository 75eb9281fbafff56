"""Waveforms at one rate, locked to the bins of a cube."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from strfcube.errors import UsageError
from strfcube.sound.audio import to_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.opened import Sounds, Store
    from strfcube.cube.stored_rows import Rows


class Waveforms:
    """Sounds of a cube, resampled.

    Parameters
    ----------
    rows : Rows or None
        The stored spectrograms, beside which the ``audio`` groups of their cubes hold the sounds.
    cube : xarray.Dataset
        Labels and ``sound_onset``.
    fs : float
        Sampling rate in Hz.
    dt : float
        Bin width in s.
    keep : bool
        Keep resampled sounds in memory.

    Raises
    ------
    UsageError
        If a bin is no whole number of samples, or the cube is not read from a store.
    """

    def __init__(self, rows: Rows | None, cube: xr.Dataset, fs: float, dt: float, *, keep: bool) -> None:
        per_bin = fs * dt
        self.per_bin = round(per_bin)
        if self.per_bin < 1 or abs(per_bin - self.per_bin) > 1e-6:
            near = [max(1, int(per_bin)) / dt, max(2, int(per_bin) + 1) / dt]
            raise UsageError(
                f"audio_fs={fs:g} Hz: a bin of {dt * 1000:g} ms would be {per_bin:g} samples; give a rate with a whole "
                f"number of samples a bin, such as {near[0]:g} or {near[1]:g} Hz"
            )
        if rows is None:
            raise UsageError(
                "mode='waveform' needs a cube opened from a store, with its own stimulus; choose stimuli of it with "
                "strfcube.select, or with sel and isel of the view"
            )
        self.fs = fs
        self._parts, self._labels = rows.parts, cube["stim"].values
        # A written cube may begin later than its sounds
        self._onset = np.asarray(cube["sound_onset"].values, float) - float(cube["time"].values[0])
        self._kept: dict[int, NDArray[np.float32]] | None = {} if keep else None
        self._sounds: dict[Store, Sounds | None] = {}

    def has(self, stim: int) -> bool:
        """Whether the cube holds a stimulus's sound."""
        return self._stored(stim) is not None

    def read(self, stim: int, n_bins: int) -> NDArray[np.float32]:
        """Samples [shape=(n_bins * per_bin,)] of one stimulus; the first belongs to bin 0.

        Raises
        ------
        UsageError
            If the cube has no waveform of it.
        """
        if self._kept is not None and stim in self._kept:
            return self._kept[stim]
        stored = self._stored(stim)
        if stored is None:
            raise UsageError(
                f"stimulus {self._labels[stim]!r} has no waveform in the cube: build it with the sounds, or leave such "
                f"stimuli out with .with_stimulus()"
            )
        import librosa

        sounds, at = stored
        sound, rate = to_float(sounds.read(at)).astype(np.float32), float(sounds.rate[at])
        if not (finite := np.isfinite(sound)).all():
            raise UsageError(
                f"stimulus {self._labels[stim]!r}: {int((~finite).sum())} samples of its waveform are no numbers, "
                "and are not read as silence: leave it out, or build the cube again from whole sounds"
            )
        if rate != self.fs:
            sound = librosa.resample(sound, orig_sr=rate, target_sr=self.fs)
        out = np.zeros(n_bins * self.per_bin, np.float32)
        first = round(self._onset[stim] * self.fs)
        part = sound[max(0, -first) : max(0, len(out) - first)]
        out[max(0, first) : max(0, first) + len(part)] = part
        if self._kept is not None:
            self._kept[stim] = out
        return out

    def fetch(self, stims: Sequence[int]) -> None:
        """Ask for what will be read soon; see `strfcube.cube.shard_reader.ShardedArray.fetch`."""
        wanted: dict[int, tuple[Sounds, list[int]]] = {}
        for stim in stims:
            stored = None if self._kept and stim in self._kept else self._stored(stim)
            if stored is not None:
                wanted.setdefault(id(stored[0]), (stored[0], []))[1].append(stored[1])
        for sounds, several in wanted.values():
            sounds.fetch(several)

    def _stored(self, stim: int) -> tuple[Sounds, int] | None:
        """The waveforms that a sound lies among, and its position there."""
        for part in self._parts:
            at = int(part.stim[stim])
            if at < 0:
                continue
            if part.store not in self._sounds:
                self._sounds[part.store] = part.store.sounds()
            sounds = self._sounds[part.store]
            if sounds is not None and sounds.size[at]:
                return sounds, at
        return None
