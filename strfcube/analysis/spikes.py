"""Exact spike times of one (stimulus, neuron) pair, trial by trial, from the group ``trials`` of the store.

A cube that was transformed has other responses than its store has spikes: `of_pair` holds the exact spikes against the
bins that it is asked for, and gives none where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.groups import open_group
from strfcube.errors import SelectionError, StoreError
from strfcube.grid import NS_PER_S, bin_of, dt_to_ns

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
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


def position(ds: xr.Dataset, dim: str, wanted: str | int) -> int:
    """Position of a label, or of a position, along ``stim`` or ``neuron``.

    Raises
    ------
    SelectionError
        If there is no such label or position.
    """
    labels = [str(v) for v in ds[dim].values]
    if isinstance(wanted, str):
        if wanted in labels:
            return labels.index(wanted)
        more = " ..." if len(labels) > 5 else ""
        raise SelectionError(
            f"{dim}={wanted!r}: nothing has it; there are {len(labels)}: {', '.join(labels[:5])}{more}"
        )
    if isinstance(wanted, bool | np.bool_) or not isinstance(wanted, int | np.integer):
        raise SelectionError(f"{dim}={wanted!r}: expected a label or a position")
    if not -len(labels) <= wanted < len(labels):
        raise SelectionError(f"{dim}={wanted!r}: index past the end, there are {len(labels)}")
    return int(wanted) % len(labels)


def of_pair(ds: xr.Dataset, stim: str | int, neuron: str | int) -> SpikeTrains | None:
    """Exact spikes of one pair.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part or a pool of cubes.
    stim, neuron : str or int
        Label or position.

    Returns
    -------
    SpikeTrains or None
        None where the cube has none: membrane potentials, published counts, a store without trials, a cube that does
        not know its store, or responses that are not the store's own counts any more.

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron.
    """
    s, n = position(ds, "stim", stim), position(ds, "neuron", neuron)
    place = stored_place(ds, s, n)
    if place is None:
        return None
    rows = _rows(*place)
    if rows is None:
        return None
    window, repeat, times_ns = rows
    labels = np.asarray(ds["repeat"].values)
    left = [i for i, r in enumerate(repeat) if r in labels]
    times_ns, window, repeat = [times_ns[i] for i in left], window[left], repeat[left]
    if not _fits(ds, s, n, repeat, times_ns):
        return None
    return SpikeTrains(tuple(t / NS_PER_S for t in times_ns), window, repeat)


def stored_place(ds: xr.Dataset, stim: int, neuron: int) -> tuple[str, int, int] | None:
    """Store of a pair, and its positions there."""
    from strfcube.cube.lazy_array import rows_of

    rows = rows_of(ds["response"].isel(stim=[stim], neuron=[neuron]))
    if rows is not None:
        (part,) = rows.parts
        return None if part.stim[0] < 0 else (part.store.path, int(part.stim[0]), int(part.neuron[0]))
    source = ds.encoding.get("source")
    if source is None:
        return None
    try:
        whole = open_group(source)
    except StoreError:
        return None
    found = []
    for dim, at in (("stim", stim), ("neuron", neuron)):
        there = np.flatnonzero([str(v) == str(ds[dim].values[at]) for v in whole[dim].values])
        if len(there) != 1:
            return None
        found.append(int(there[0]))
    return str(source), found[0], found[1]


def _rows(path: str, stim: int, neuron: int) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[np.int64]]] | None:
    """Windows, repeats and spike times in ns of the kept trials of a stored pair; None where a store has no such."""
    try:
        trials = open_group(path, "trials")
    except StoreError:
        return None
    low, high = np.searchsorted(trials["neuron_index"].values, [neuron, neuron + 1])
    table = trials.drop_dims("spike").isel(trial=slice(int(low), int(high))).load()
    wanted = np.flatnonzero((table["stim_index"].values == stim) & table["kept"].values)
    if not len(wanted) or not table["exact"].values[wanted].all():
        return None
    before = int(trials["row_size"][: int(low)].sum())
    ends = before + np.cumsum(table["row_size"].values, dtype=np.int64)
    starts = ends - table["row_size"].values
    wanted = wanted[np.argsort(table["repeat_index"].values[wanted], kind="stable")]
    times = [np.sort(trials["spike_time"][int(starts[i]) : int(ends[i])].values.astype(np.int64)) for i in wanted]
    window = np.stack([table[name].values[wanted].astype(float) for name in ("window_start", "window_stop")], 1)
    return window, table["repeat_index"].values[wanted].astype(np.int64), times


def _fits(ds: xr.Dataset, stim: int, neuron: int, repeat: NDArray[Any], times: list[NDArray[np.int64]]) -> bool:
    """Whether the spikes, counted in bins, are the responses of the pair wherever these were observed."""
    dt_ns = dt_to_ns(float(ds.attrs["dt_ms"]))
    pair = ds["response"].isel(stim=stim, neuron=neuron).transpose("repeat", "time")
    counts = pair.values
    labels = pair["repeat"].values.tolist()
    bins = np.rint(pair["time"].values / (dt_ns / NS_PER_S)).astype(np.int64)
    if not len(bins) or sorted(repeat.tolist()) != [r for r, c in zip(labels, counts, strict=True) if (c == c).any()]:
        return False
    for r, spikes in zip(repeat, times, strict=True):
        own = counts[labels.index(r)]
        there = np.bincount(np.clip(bin_of(spikes, dt_ns), -1, bins.max() + 1) + 1, minlength=int(bins.max()) + 3)
        seen = ~np.isnan(own)
        if not np.array_equal(there[bins[seen] + 1], own[seen]):
            return False
    return True
