"""How a view is read: the options, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from strfcube import limits
from strfcube.errors import UsageError
from strfcube.loading.order import yes_or_no

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

Cache = Literal["none", "ram", "device", "auto"]
Layout = Literal["dense", "ragged"]
_OF_A_BATCH = ("stims", "responses", "valid_mask", "stim_meta", "neuron", "stim_index", "neuron_index", "repeat_index")


class Options(TypedDict, total=False):
    """The options of `strfcube.loading.CubeView`, for those that hand them on."""

    mode: Literal["spectrogram", "waveform"]
    audio_fs: float | None
    average_repeats: bool
    smooth_ms: float | None
    cache: Cache
    extra: Sequence[str]
    allow_mixed: bool
    layout: Layout
    cache_dir: str | os.PathLike[str] | None


@dataclass(frozen=True)
class Reading:
    """How responses and stimuli are read.

    Attributes
    ----------
    mode : {"spectrogram", "waveform"}
        What ``stims`` holds.
    audio_fs : float or None
        Sampling rate in Hz of ``mode="waveform"``.
    average_repeats : bool
        Mean over the repeats that observed a bin, instead of the repeats.
    smooth_ms : float or None
        Full width of a Hann window that sums to 1.
    cache : {"none", "ram", "device", "auto"}
        Whether decoded chunks (bytes, not floats) stay in memory, or on the device.
    extra : tuple of str
        Variables on stim that go into the batch under their own name.
    allow_mixed : bool
        Whether neurons of different units may be read together.
    layout : {"dense", "ragged"}
        Whether responses are a box with a place for every trial of every neuron, or a row for each trial that there is.
    standardize : tuple of ndarray [shape=(frequency, 1)], optional
        Mean and standard deviation of the stimuli.
    normalize : tuple of ndarray [shape=(neuron,)], optional
        Shift and scale of every neuron of the cube.
    """

    mode: Literal["spectrogram", "waveform"] = "spectrogram"
    audio_fs: float | None = None
    average_repeats: bool = False
    smooth_ms: float | None = None
    cache: Cache = "auto"
    extra: tuple[str, ...] = ()
    allow_mixed: bool = False
    layout: Layout = "dense"
    standardize: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None, compare=False)
    normalize: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("mode", ("spectrogram", "waveform")), ("cache", ("none", "ram", "device", "auto")),
            ("layout", ("dense", "ragged")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}={getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        for name in ("average_repeats", "allow_mixed"):
            yes_or_no(name, getattr(self, name))
        if (self.mode == "waveform") != (self.audio_fs is not None):
            raise UsageError(f"mode={self.mode!r}, audio_fs={self.audio_fs!r}: waveforms, and only they, need a rate")
        if self.audio_fs is not None and not (isinstance(self.audio_fs, int | float | np.number) and self.audio_fs > 0):
            raise UsageError(f"audio_fs={self.audio_fs!r}, expected a positive rate in Hz")
        number = isinstance(self.smooth_ms, int | float | np.number) and not isinstance(self.smooth_ms, bool)
        if self.smooth_ms is not None and not (number and 0 <= self.smooth_ms <= limits.SECONDS * 1000):
            most = f"{limits.SECONDS * 1000:.0f}"
            raise UsageError(f"smooth_ms={self.smooth_ms!r}, expected the width of the window in ms, 0 to {most}")
        if self.layout == "ragged" and self.cache == "device":
            raise UsageError("cache='device' makes dense batches: with layout='ragged', expected none, ram or auto")
        if isinstance(self.extra, str):
            raise UsageError(f"extra={self.extra!r}, expected a sequence of names: extra=({self.extra!r},)")
        if taken := [name for name in self.extra if name in _OF_A_BATCH]:
            raise UsageError(
                f"extra={taken[0]!r}: a batch has something else of this name; rename the variable, "
                f"ds.rename({taken[0]}=...)"
            )
        if self.mode == "waveform" and self.standardize is not None:
            raise UsageError("standardize is for spectrograms, and mode is 'waveform'")
