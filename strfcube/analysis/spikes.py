"""Exact spike times of one (stimulus, neuron) pair, trial by trial, from the group ``trials`` of the store.

A cube that was transformed has other responses than its store has spikes: `of_pair` holds the exact spikes against the
bins that it is asked for, and gives none where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.normalise import ends_of
from strfcube.cube.trials import Stored, origin_of_pair
from strfcube.errors import SelectionError, StoreError, did_you_mean
from strfcube.grid import NS_PER_S, bin_of, dt_to_ns, observed_bins

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, repr=False)
class SpikeTrains:
    """The kept trials of one pair, in the order of the cube's repeats.

    Attributes
    ----------
    times : tuple of ndarray of float
        Spike times of each trial in s from stimulus onset, ascending; those before and after the sound too.
    window : ndarray of float [shape=(trial, 2)]
        What was recorded around the onset, in s; NaN where the files do not state it.
    repeat : ndarray of int [shape=(trial,)]
        Label of each trial along ``repeat`` of the cube.
    """

    times: tuple[NDArray[np.float64], ...]
    window: NDArray[np.float64]
    repeat: NDArray[np.int64]

    def span(self) -> tuple[float, float]:
        """The time that any trial covers, in s: its window, or where that is not stated, its spikes; NaN without."""
        first = [
            s if np.isfinite(s) else t.min(initial=np.inf) for (s, _), t in zip(self.window, self.times, strict=True)
        ]
        last = [
            s if np.isfinite(s) else t.max(initial=-np.inf) for (_, s), t in zip(self.window, self.times, strict=True)
        ]
        low, high = min(first, default=np.inf), max(last, default=-np.inf)
        return (low, high) if low < high else (np.nan, np.nan)

    def __repr__(self) -> str:
        """Numbers, and the time that is covered."""
        low, high = self.span()
        covered = "" if np.isnan(low) else f", {low:g} to {high:g} s"
        return f"<SpikeTrains: {len(self)} trials, {sum(map(len, self.times)):,} spikes{covered}>"

    def __len__(self) -> int:
        """How many trials."""
        return len(self.times)

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        """Yield the spike times of one trial after the other."""
        return iter(self.times)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a spike: ``repeat`` and ``time_s``; trials without a spike have none."""
        import pandas as pd

        repeat = np.repeat(self.repeat, [len(t) for t in self.times])
        return pd.DataFrame({"repeat": repeat, "time_s": np.concatenate([np.empty(0), *self.times])})


def position(ds: xr.Dataset, dim: str, wanted: Any) -> int:
    """Position of a label, or of a position, along ``stim`` or ``neuron``.

    Raises
    ------
    SelectionError
        If there is no such label or position.
    """
    labels = [str(v) for v in ds[dim].values]
    if getattr(wanted, "ndim", None) == 0:  # a label as it comes out of an array
        wanted = wanted.item()
    if isinstance(wanted, str):
        if wanted in labels:
            return labels.index(wanted)
        more = " ..." if len(labels) > 5 else ""
        hint = did_you_mean(wanted, labels)
        listed = f"{hint}there are {len(labels)}: {', '.join(labels[:5])}{more}"
        raise SelectionError(f"{dim}={wanted!r}: nothing has it; {listed}")
    if isinstance(wanted, bool | np.bool_) or not isinstance(wanted, int | np.integer):
        raise SelectionError(f"{dim}: expected a label or a position, got {type(wanted).__name__}")
    if not -len(labels) <= wanted < len(labels):
        raise SelectionError(f"{dim}={wanted!r}: index past the end, there are {len(labels)}")
    return int(wanted) % len(labels)


def of_pair(ds: xr.Dataset, stim: str | int, neuron: str | int) -> SpikeTrains | str:
    """Exact spikes of one pair, or in words why there are none.

    There are none of membrane potentials and published counts, of a store without trials, of a cube that does not know
    its store, and of responses that are not the store's own counts any more.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part or a pool of cubes.
    stim, neuron : str or int
        Label or position.

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron.
    """
    s, n = position(ds, "stim", stim), position(ds, "neuron", neuron)
    if not int(ds["n_repeats"].isel(stim=s, neuron=n).values):
        return SpikeTrains((), np.empty((0, 2)), np.empty(0, np.int64))
    if ds["repeat"].dtype.kind not in "uif":
        return "labels of 'repeat' are no numbers any more, so that nothing tells which trial of the store each is"
    origin = origin_of_pair(ds, s, n)
    if isinstance(origin, str):
        return origin
    try:
        stored = Stored.of(origin.path, origin.cache_dir)
    except StoreError as error:
        return str(error)
    c = stored.columns
    low, high = np.searchsorted(c["neuron_index"], [int(origin.neuron[0]), int(origin.neuron[0]) + 1]).tolist()
    own = (c["stim_index"][low:high] == origin.stim[0]) & c["kept"][low:high]
    rows = low + np.flatnonzero(own & np.isin(c["repeat_index"][low:high], origin.repeat))
    if own.any() and not len(rows):
        return SpikeTrains((), np.empty((0, 2)), np.empty(0, np.int64))
    place = {int(r): i for i, r in enumerate(origin.repeat)}
    rows = rows[np.argsort([place[int(r)] for r in c["repeat_index"][rows]], kind="stable")]
    if not len(rows) or not c["exact"][rows].all():
        return "there is nothing finer than its bins: it is a membrane potential, or was published as counts"
    ends = np.cumsum(c["row_size"][rows])[:-1]
    times = [np.sort(t) for t in np.split(stored.spikes(rows), ends)]
    window = np.stack([c[name][rows].astype(float) for name in ("window_start", "window_stop")], 1)
    repeat = np.asarray(ds["repeat"].values)[[place[int(r)] for r in c["repeat_index"][rows]]].astype(np.int64)
    if not origin.held and not _fits(ds, s, n, repeat, times, window):
        return (
            "its responses are not the counts of its store any more (smoothed, averaged or binned anew, say): ask the "
            "cube that it was made of"
        )
    return SpikeTrains(tuple(t / NS_PER_S for t in times), window, repeat)


def _fits(
    ds: xr.Dataset, stim: int, neuron: int, repeat: NDArray[Any], times: list[NDArray[np.int64]],
    window: NDArray[np.float64],
) -> bool:  # fmt: skip
    """Whether the spikes, counted in bins, are the responses of the pair wherever these were observed."""
    dt_ns = dt_to_ns(float(ds.attrs["dt_ms"]))
    pair = ds["response"].isel(stim=stim, neuron=neuron).transpose("repeat", "time")
    counts = dict(zip(pair["repeat"].values.tolist(), pair.values, strict=True))
    bins = np.rint(pair["time"].values / (dt_ns / NS_PER_S)).astype(np.int64)
    if not len(bins) or any((own == own).any() for r, own in counts.items() if r not in repeat):
        return False
    first, last = observed_bins(window[:, 0], window[:, 1], np.full(len(window), ends_of(ds)[stim]), dt_ns)
    for r, spikes, a, b in zip(repeat.tolist(), times, first, last, strict=True):
        own = counts[r]
        there = np.bincount(np.clip(bin_of(spikes, dt_ns), -1, bins.max() + 1) + 1, minlength=int(bins.max()) + 3)
        seen = ~np.isnan(own)
        if not seen.any() and ((a <= bins) & (bins < b)).any():
            return False
        if not np.array_equal(there[bins[seen] + 1], own[seen]):
            return False
    return True
