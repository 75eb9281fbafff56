"""The responses of a cube, a block of bytes a neuron: exact spikes where there are such, else bins, else traces.

One block holds these numbers one after the other (`packing.varints`), ``P`` pairs and ``Q`` repeats of all of them:
``P``; of each pair its stimulus (as steps), its kind (`EXACT`, `COUNTS`, `TRACES`), its repeats and its gaps (runs of
bins that were not observed); three for every gap, the repeat, the first bin and the length; two for every repeat of an
exact pair, when its recording began and ended (0: not stated, else 1 + the folded step from the repeat before); of
each repeat how many values it has; the values, as steps: spike times in units, bins with spikes, or levels; and of each
bin with spikes how many more than one it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.report.packing import folded, stepped, varints
from strfcube.cube.groups import has_group
from strfcube.cube.normalise import own_units
from strfcube.cube.repeats import left
from strfcube.cube.trials import trials_of
from strfcube.grid import NS_PER_S, dt_to_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.trials import TrialRows

EXACT, COUNTS, TRACES = 0, 1, 2
MV_STEP, OTHER_STEP = 0.1, 0.001  # what the values of traces are rounded to: in mV, and in any other unit
_UNIT_NS = 100_000  # the longest unit of time of exact spikes
_AT_ONCE = 16_000_000  # values in memory
_NONE = np.empty(0, np.int64)


def units_of(dt_ms: float) -> int:
    """How many units of time of exact spikes a bin has, so that a unit is 0.1 ms or less."""
    return -(-dt_to_ns(dt_ms) // _UNIT_NS)


@dataclass
class Pair:
    """What a block holds of one pair; `lengths` has the number of `values` of each repeat."""

    kind: int
    lengths: NDArray[np.int64]
    values: NDArray[np.int64]
    more: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    windows: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    gaps: NDArray[np.int64] = field(default_factory=lambda: _NONE)

    @property
    def cost(self) -> int:
        """About how many numbers it takes."""
        return len(self.values) + len(self.more) + len(self.windows) + len(self.lengths) + len(self.gaps) + 4


def block(pairs: dict[int, Pair]) -> bytes:
    """The pairs of one neuron, by the position of the stimulus, as bytes."""
    stims = sorted(pairs)
    each = [pairs[s] for s in stims]
    lengths = _joined([p.lengths for p in each])
    values = _joined([p.values for p in each])
    signed = np.repeat([p.kind == TRACES for p in each], [len(p.values) for p in each]).astype(bool)
    steps = np.where(signed, stepped(values, lengths, signed=True), stepped(values, lengths))
    return varints(np.concatenate([
        [len(each)], np.diff(stims, prepend=0), [p.kind for p in each], [len(p.lengths) for p in each],
        [len(p.gaps) // 3 for p in each], _joined([p.gaps for p in each]), _joined([p.windows for p in each]),
        lengths, steps, _joined([p.more for p in each]),
    ]).astype(np.int64))  # fmt: skip


def _joined(arrays: list[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([_NONE, *arrays]).astype(np.int64)


class Responses:
    """The responses of a cube, neuron by neuron; repeats in the order of their labels.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, as `strfcube.open` gives it.
    path : str
        Where it lies.
    """

    def __init__(self, ds: xr.Dataset, path: str) -> None:
        self.dt_ns = dt_to_ns(float(ds.attrs["dt_ms"]))
        self.units = units_of(float(ds.attrs["dt_ms"]))
        self.repeats = left(ds).astype(np.int64)
        self._rows: TrialRows | None = trials_of(ds) if has_group(path, "trials") else None
        self.exact = _all_exact(self._rows, self.repeats)
        self._binned = _binned(ds, self.repeats, self.exact)

    def neurons(self, wanted: NDArray[np.bool_]) -> Iterator[dict[int, Pair]]:
        """Yield the pairs of one neuron after the other that are wanted [shape=(stim, neuron)]."""
        of_trials = iter(self._rows.spikes()) if self._rows is not None else None
        ends = None if self._rows is None else np.searchsorted(
            self._rows.columns["neuron_index"], np.arange(self.repeats.shape[1] + 1)
        )  # fmt: skip
        for n in range(self.repeats.shape[1]):
            binned = {s: p for s, p in self._binned.get(n, {}).items() if wanted[s, n]}
            pairs = {s: p for s, p in binned.items() if not self.exact[s, n]}
            if of_trials is not None and ends is not None:
                spikes = next(of_trials)
                if (self.exact[:, n] & wanted[:, n]).any():
                    own = self._exact(slice(int(ends[n]), int(ends[n + 1])), spikes, self.exact[:, n] & wanted[:, n])
                    for s, pair in own.items():
                        pair.gaps = binned[s].gaps if s in binned else _NONE
                    pairs |= own
            yield pairs

    def _exact(self, rows: slice, spikes: NDArray[np.int64], wanted: NDArray[np.bool_]) -> dict[int, Pair]:
        """Kept trials of one neuron, by stimulus and in the order of repeats, as its rows have them."""
        assert self._rows is not None
        c = {name: column[rows] for name, column in self._rows.columns.items()}
        size = c["row_size"].astype(np.int64)
        use = c["kept"].astype(bool) & wanted[c["stim_index"]]
        row = np.repeat(np.arange(len(size)), size)
        spikes = (
            spikes[np.lexsort((spikes, row))] * self.units // self.dt_ns
        )  # whole units, and bins stay what they are
        spikes, size, stim = spikes[use[row]], size[use], c["stim_index"][use]
        edges = np.stack([c[name][use].astype(float) for name in ("window_start", "window_stop")], 1)
        ends, out = np.cumsum(size), {}
        cuts = np.flatnonzero(np.diff(stim)) + 1
        for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(stim)], strict=True):
            if b > a:
                first = int(ends[a] - size[a])
                windows = _windows(edges[a:b] * NS_PER_S * self.units / self.dt_ns)
                out[int(stim[a])] = Pair(EXACT, size[a:b], spikes[first : int(ends[b - 1])], windows=windows)
        return out


def _windows(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Begin and end of each repeat: 0 where it is not stated, else 1 + the folded step from the last that was."""
    out = np.zeros(edges.shape, np.int64)
    for column in range(2):
        stated = np.isfinite(edges[:, column])
        whole = np.rint(edges[stated, column]).astype(np.int64)
        out[stated, column] = 1 + folded(np.diff(whole, prepend=np.int64(0)))
    return out.ravel()


def _all_exact(rows: TrialRows | None, repeats: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pairs of which every repeat has its exact spikes [shape=(stim, neuron)]."""
    if rows is None:
        return np.zeros(repeats.shape, bool)
    c = rows.columns
    use = c["kept"].astype(bool) & c["exact"].astype(bool)
    flat = np.ravel_multi_index((c["stim_index"][use], c["neuron_index"][use]), repeats.shape)
    counted = np.bincount(flat, minlength=repeats.size).reshape(repeats.shape)
    return np.asarray((counted == repeats) & (repeats > 0))


def _binned(ds: xr.Dataset, repeats: NDArray[np.int64], exact: NDArray[np.bool_]) -> dict[int, dict[int, Pair]]:
    """Pairs by neuron and stimulus: bins of those that are not exact, and of these the gaps alone."""
    found: dict[int, dict[int, Pair]] = {}
    response = ds["response"].transpose("stim", "neuron", "repeat", "time")
    counted = own_units(ds) == "count"
    for s, bins in enumerate(ds["n_bins"].values.tolist()):
        heard = np.flatnonzero(repeats[s])
        most = int(repeats[s].max(initial=0))
        step = max(1, _AT_ONCE // max(1, most * bins))
        for at in range(0, len(heard), step):
            some = heard[at : at + step]
            low, high = int(some[0]), int(some[-1]) + 1
            values = response[s, low:high, :most, :bins].values[some - low]
            for n, own, gaps in zip(some.tolist(), values, _gaps(values, repeats[s, some]), strict=True):
                pair = Pair(EXACT, _NONE, _NONE) if exact[s, n] else _bins(own[: repeats[s, n]], bool(counted[n]))
                pair.gaps = gaps
                if len(gaps) or not exact[s, n]:
                    found.setdefault(n, {})[s] = pair
    return found


def _bins(values: NDArray[Any], counted: bool) -> Pair:
    """One pair [shape=(repeat, time)]: the bins with spikes where it is counts, else levels."""
    known = np.nan_to_num(values)
    if counted and (known >= 0).all() and (known == np.rint(known)).all():
        row, at = np.nonzero(known)
        lengths = np.bincount(row, minlength=len(values))
        return Pair(COUNTS, lengths, at.astype(np.int64), known[row, at].astype(np.int64) - 1)
    levels = np.rint(known / (OTHER_STEP if counted else MV_STEP)).astype(np.int64)
    return Pair(TRACES, np.full(len(values), values.shape[1]), levels.ravel())


def _gaps(values: NDArray[Any], repeats: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Runs of bins without a value in the repeats of each neuron: repeat, first bin, length of each."""
    missing = np.isnan(values) & (np.arange(values.shape[1])[:, None] < repeats[:, None, None])
    if not missing.any():
        return [_NONE] * len(values)
    edges = np.diff(missing.astype(np.int8), axis=-1, prepend=0, append=0)
    n, row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[2]
    runs = np.stack([row, start, stop - start], 1).astype(np.int64)
    cuts = np.searchsorted(n, np.arange(1, len(values)))
    return [part.ravel() for part in np.split(runs, cuts)]
