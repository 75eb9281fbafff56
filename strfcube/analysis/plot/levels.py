"""How levels of a spectrogram become colours, in pictures and in the page of a report.

Nothing here knows matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LOUDNESS_DB = 90.0  # below the loudest: digital silence, some 200 dB lower, would leave no colours to the sound
_ROOT = 3.0  # as the compression of the mel front end
_COMPRESSED = ("dB", "^", "log")  # what units say that are not proportional to a power or an amplitude


class Limits(NamedTuple):
    """Which levels the colours tell apart.

    Attributes
    ----------
    low, high : float
        Lowest and highest of them.
    below : bool
        Whether there are lower ones.
    root : float
        A level is drawn at ``((level - low) / (high - low)) ** (1 / root)`` of the colours.
    """

    low: float
    high: float
    below: bool
    root: float


def limits_of(levels: Sequence[NDArray[Any]], units: str) -> Limits:
    """The limits of one or several spectrograms on one scale; each has a finite value.

    Levels in dB are drawn down to 90 dB below the highest. Those that nothing has compressed, and nine tenths of which
    lie in the lowest 4 % of their range, are drawn by their cube root: they would all be black.
    """
    low, high = (float(f([f(v) for v in levels])) for f in (np.nanmin, np.nanmax))
    if units == "dB":
        return Limits(max(low, high - _LOUDNESS_DB), high, low < high - _LOUDNESS_DB, 1.0)
    plain = low >= 0 and not any(mark in units for mark in _COMPRESSED)
    skewed = plain and np.nanpercentile(np.concatenate([v.ravel() for v in levels]), 90) < high / _ROOT**3
    return Limits(low, high, False, _ROOT if skewed else 1.0)
