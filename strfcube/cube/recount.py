"""The response of a cube counted again from its exact spike times: whether the two halves of a cube tell the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.groups import open_group
from strfcube.cube.shard_reader import ShardedArray, stored_array
from strfcube.grid import bin_of, dt_to_ns, observed_bins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.cube.metadata import Root
    from strfcube.transport.connect import Transport

_NAMED = 3
_COLUMNS = ("stim_index", "neuron_index", "repeat_index", "kept", "exact", "row_size", "window_start", "window_stop")


def recount(files: Transport, root: Root) -> list[str]:
    """Hold every bin and the coverage against the trials.

    A block of neurons at a time. Trials without exact times (traces, counts that were published binned) are held
    against the coverage only: their bins are all there is.

    Parameters
    ----------
    files, root : Transport, Root
        Of a cube whose values are those of its digest.

    Returns
    -------
    list of str
        What differs, one sentence each; that there are no trials is no difference.
    """
    if "trials" not in root.nodes:
        return []
    cube, table = (open_group(files.url, group, "", root) for group in ("", "trials"))
    trials = {name: table[name].values for name in _COLUMNS}
    stim, neuron = (trials[name].astype(np.int64) for name in ("stim_index", "neuron_index"))
    shape = (cube.sizes["stim"], cube.sizes["neuron"])
    found = []
    if (np.diff(neuron) < 0).any() or not _within(stim, shape[0]) or not _within(neuron, shape[1]):
        return ["'trials' is not in the order of the cube's neurons, or names stimuli and neurons that it lacks"]
    for name, rows in (("n_repeats", trials["kept"]), ("n_rejected", ~trials["kept"])):
        counts = np.zeros(shape, np.int64)
        np.add.at(counts, (stim[rows], neuron[rows]), 1)
        if wrong := _pairs(counts != cube[name].values, cube):
            found.append(f"'{name}' is not the number of trials: {wrong}")
    response = stored_array(files, root, "response")
    times = stored_array(files, root, "trials/spike_time")
    ends = np.cumsum(trials["row_size"], dtype=np.int64)
    bins = cube["n_bins"].values.astype(np.int64)[stim]
    begin, stop = observed_bins(trials["window_start"], trials["window_stop"], bins, dt_to_ns(cube.attrs["dt_ms"]))
    rows_of = np.searchsorted(neuron, np.arange(shape[1] + 1))
    differs = np.zeros(shape, bool)
    step = response.chunk[1]
    for first in range(0, shape[1], step):
        last = min(first + step, shape[1])
        top, bottom = int(rows_of[first]), int(rows_of[last])
        if top == bottom:
            continue
        spikes = times.values(int(ends[top] - trials["row_size"][top]), int(ends[bottom - 1]))
        part = {name: column[top:bottom] for name, column in trials.items()}
        part |= {"begin": begin[top:bottom], "stop": stop[top:bottom]}
        at = bin_of(spikes, dt_to_ns(cube.attrs["dt_ms"]))
        _block(response, part, at, first, last, differs)
    if wrong := _pairs(differs, cube):
        found.append(f"'response' is not what the spike times in 'trials' give: {wrong}")
    return found


def _block(
    response: ShardedArray, t: dict[str, NDArray[Any]], at: NDArray[np.int64], first: int, last: int,
    differs: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Mark the pairs of a block of neurons whose bins are others than their trials give."""
    row_of_spike = np.repeat(np.arange(len(t["row_size"])), t["row_size"])
    use = t["kept"] & (t["repeat_index"] >= 0)
    counted = (use & t["exact"])[row_of_spike] & (at >= t["begin"][row_of_spike]) & (at < t["stop"][row_of_spike])
    row_of_spike, at = row_of_spike[counted], at[counted]
    order = np.argsort(t["stim_index"][row_of_spike], kind="stable")
    row_of_spike, at = row_of_spike[order], at[order]
    rows = np.flatnonzero(use)
    rows = rows[np.argsort(t["stim_index"][rows], kind="stable")]
    every = np.arange(response.shape[0] + 1)
    row_edges = np.searchsorted(t["stim_index"][rows], every)
    spike_edges = np.searchsorted(t["stim_index"][row_of_spike], every)
    size, n_time, integral = response.chunk[2], response.shape[3], response.dtype.kind == "u"
    slot = (t["neuron_index"] - first) * (size * response.grid[2]) + t["repeat_index"]
    for stim in range(response.shape[0]):
        mine = rows[row_edges[stim] : row_edges[stim + 1]]
        shape = (last - first, size * response.grid[2], n_time)
        actual = np.full(shape, response.fill, response.dtype)
        for block in range(response.grid[2]):
            if (chunk := response.read((stim, first // response.chunk[1], block, 0))) is not None:
                held = chunk.shape[2]  # blank ones at the end are left out
                actual[:, block * size : block * size + held] = chunk[0, : last - first]
        values = np.full(shape, response.fill, response.dtype)
        flat, stored = values.reshape(-1, n_time), actual.reshape(-1, n_time)
        for row, place in zip(mine.tolist(), slot[mine].tolist(), strict=True):
            if t["exact"][row]:
                flat[place, t["begin"][row] : t["stop"][row]] = 0
            else:
                flat[place] = stored[place]
        span = slice(spike_edges[stim], spike_edges[stim + 1])
        np.add.at(flat.reshape(-1), slot[row_of_spike[span]] * n_time + at[span], response.dtype.type(1))
        same = values == actual if integral else (values == actual) | (np.isnan(values) & np.isnan(actual))
        if not same.all():
            differs[stim, first + np.flatnonzero(~same.all((1, 2)))] = True


def _within(index: NDArray[np.int64], size: int) -> bool:
    return not len(index) or (int(index.min()) >= 0 and int(index.max()) < size)


def _pairs(wrong: NDArray[np.bool_], cube: Any) -> str:
    """Some of the pairs of stimulus and neuron, in words."""
    places = np.argwhere(wrong)
    if not len(places):
        return ""
    names = [f"{cube['stim'].values[s]} with {cube['neuron'].values[n]}" for s, n in places[:_NAMED].tolist()]
    more = f", and {len(places) - _NAMED:,} more pairs" if len(places) > _NAMED else ""
    return ", ".join(names) + more
