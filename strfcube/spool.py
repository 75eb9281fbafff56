"""Stage one of a build: one source's records, parsed once, as sorted columns in one file.

A spool keeps every spike exactly (int64 nanoseconds) and every trace on the cube's bins, so that the second stage never
looks at raw files. Rows are trials in (neuron, stimulus, kept before rejected, order of arrival) order.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from strfcube.errors import RawDataError, StrfcubeError, UsageError
from strfcube.grid import NS_PER_S, bin_of, observed_bins, seconds_to_ns
from strfcube.records import Finding, Pipeline, Source, Trial, Trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ROW_COLUMNS = (
    "neuron",
    "stim",
    "repeat",
    "number",
    "file",
    "start",
    "stop",
    "test",
    "value",
    "spikes",
    "bins",
    "exact",
)


@dataclass(frozen=True)
class Context:
    """What every worker of a build needs to know, once.

    Attributes
    ----------
    pipeline : Pipeline
        An instance that has not surveyed.
    stims, neurons : mapping
        Id to position in the survey; -1 for one that the recipe leaves out.
    n_bins : ndarray of int64 [shape=(stim,)]
        Bins of each surveyed stimulus; 0 where its length is unknown.
    units : tuple of str
        Units of each surveyed neuron.
    dt_ns : int
        Bin width in ns.
    strict : bool
        Whether the first warning stops the build.
    """

    pipeline: Pipeline
    stims: Mapping[str, int]
    neurons: Mapping[str, int]
    n_bins: NDArray[np.int64]
    units: tuple[str, ...]
    dt_ns: int
    strict: bool = False


@dataclass(frozen=True)
class Columns:
    """Trials in columns.

    Attributes
    ----------
    rows : dict of ndarray [shape=(trial,)]
        `ROW_COLUMNS`: indices of neuron and stimulus, repeat (-1 rejected), raw trial number, file code, window in s,
        code of the test that rejected it (0 = kept) and its value, number of spikes and of trace bins, and whether
        the spikes are exact (0: a sampled response).
    times : ndarray of int64 [shape=(spike,)]
        Spike times in ns from onset, ascending within each trial.
    values : ndarray of float32 [shape=(bin,)]
        Traces, binned.
    """

    rows: dict[str, NDArray[Any]]
    times: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Summary:
    """What the planner needs of one spool.

    Attributes
    ----------
    neurons : ndarray of int64 [shape=(neuron, 4)]
        Survey index, rows, spikes and trace bins of each neuron, in the spool's order.
    pairs : ndarray of int64 [shape=(pair, 4)]
        Neuron, stimulus, trials kept, trials rejected.
    reach : ndarray of int64 [shape=(pair,)]
        Bins that reach the last kept spike or trace bin of the pair.
    files, tests : tuple of str
        What the file and test codes mean.
    max_count : int
        Most spikes in one bin.
    traces, whole : bool
        Whether there are traces, and whether all their values are whole numbers.
    findings : tuple of Finding
        What the pipeline reported.
    """

    neurons: NDArray[np.int64]
    pairs: NDArray[np.int64]
    reach: NDArray[np.int64]
    files: tuple[str, ...]
    tests: tuple[str, ...]
    max_count: int
    traces: bool
    whole: bool
    findings: tuple[Finding, ...]


def refuse(finding: Finding) -> StrfcubeError:
    """The error that ends a strict build."""
    return StrfcubeError(f"{finding.place}: {finding.what} ({finding.consequence})")


@lru_cache(maxsize=1)
def _context(path: str, stamp: int) -> Context:
    with open(path, "rb") as file:
        return pickle.load(file)  # type: ignore[no-any-return]


def load_context(path: str) -> Context:
    """The build's context, read once a worker."""
    return _context(path, os.stat(path).st_mtime_ns)


def ingest(context_path: str, source: Source, spool_path: str) -> str:
    """Parse one source into its spool file; the task of stage one.

    Raises
    ------
    StrfcubeError
        If the pipeline itself fails, or at the first warning of a strict build.
    """
    context = load_context(context_path)
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        if context.strict and finding.severity != "info":
            raise refuse(finding)
        findings.append(finding)

    rows = _Rows(context, report, source.id)
    try:
        for record in context.pipeline.read(source, report):
            rows.add(record)
    except RawDataError as error:
        consequence = f"the rest of {source.id} is missing from the cube"
        file = Path(error.file)
        name = file.relative_to(context.pipeline.raw) if file.is_relative_to(context.pipeline.raw) else file
        report(Finding("error", str(name), error.message, consequence, error.line or 0))
    except StrfcubeError:
        raise
    except Exception as error:
        message = f"pipeline {type(context.pipeline).__name__} failed on source '{source.id}'"
        raise StrfcubeError(f"{message}: {type(error).__name__}: {error}") from error
    _save(rows.columns(), rows, tuple(findings), spool_path)
    return spool_path


class _Rows:
    """Collects records in order of arrival."""

    def __init__(self, context: Context, report: Any, source: str) -> None:
        self.context, self.report, self.source = context, report, source
        self.lists: dict[str, list[Any]] = {name: [] for name in ROW_COLUMNS if name not in ("repeat",)}
        self.times: list[NDArray[Any]] = []
        self.values: list[NDArray[np.float32]] = []
        self.files: dict[str, int] = {}
        self.tests: dict[str, int] = {}
        self.unknown: set[str] = set()

    def add(self, record: Trial | Trials) -> None:
        neuron = self._index("neuron", record.neuron, self.context.neurons)
        if neuron < 0:
            return
        if isinstance(record, Trial):
            stim = self._index("stimulus", record.stimulus, self.context.stims)
            if stim >= 0:
                self._add_one(record, neuron, stim)
        else:
            self._add_many(record, neuron)

    def _index(self, kind: str, label: str, known: Mapping[str, int]) -> int:
        at = known.get(label)
        if at is None:
            if label not in self.unknown:
                self.unknown.add(label)
                what = f"trials of {kind} '{label}', which the survey does not list"
                self.report(Finding("error", self.source, what, "they are missing from the cube"))
            return -1
        return at

    def _code(self, codes: dict[str, int], label: str) -> int:
        return codes.setdefault(label, len(codes))

    def _add_one(self, trial: Trial, neuron: int, stim: int) -> None:
        spikes = np.asarray(trial.spike_times if trial.spike_times is not None else (), np.float64).ravel()
        values = np.empty(0, np.float32)
        start, stop = trial.window
        if trial.trace is not None:
            values, start, stop = self._bin_trace(trial, neuron, stim)
        one = {
            "neuron": neuron, "stim": stim, "number": trial.repeat, "file": self._code(self.files, trial.file),
            "start": start, "stop": stop, "value": trial.value, "spikes": spikes.size, "bins": values.size,
            "test": self._code(self.tests, "_".join(trial.rejected_by.split())) + 1 if trial.rejected_by else 0,
            "exact": trial.trace is None and not trial.sampled,
        }  # fmt: skip
        for name, value in one.items():
            self.lists[name].append(np.array([value]))
        self.times.append(spikes)
        self.values.append(values)

    def _add_many(self, trials: Trials, neuron: int) -> None:
        n = len(trials.stimuli)
        sizes = np.asarray(trials.row_size, np.int64)
        spikes = np.asarray(trials.spike_times, np.float64)
        if sizes.shape != (n,) or np.shape(trials.repeats) != (n,) or sizes.sum() != spikes.size:
            shapes = f"{n} stimuli, {np.size(trials.repeats)} repeats, {sizes.size} row sizes that sum to {sizes.sum()}"
            raise StrfcubeError(f"source '{self.source}', neuron '{trials.neuron}': {shapes}, {spikes.size} spikes")
        known = self.context.stims
        stim = np.array([known.get(s, -2) for s in trials.stimuli], np.int64)
        if (stim == -2).any():
            for label in dict.fromkeys(s for s in trials.stimuli if s not in known):
                self._index("stimulus", label, known)
        codes: Any = self._code(self.files, trials.files) if isinstance(trials.files, str) else [
            self._code(self.files, f) for f in trials.files
        ]  # fmt: skip
        many = {
            "neuron": neuron, "stim": stim, "number": trials.repeats, "file": codes, "start": trials.start,
            "stop": trials.stop, "value": math.nan, "spikes": sizes, "bins": 0, "test": 0, "exact": 1,
        }  # fmt: skip
        chosen = stim >= 0
        for name, value in many.items():
            self.lists[name].append(np.broadcast_to(np.asarray(value), n)[chosen])
        self.times.append(spikes if chosen.all() else spikes[np.repeat(chosen, sizes)])

    def _bin_trace(self, trial: Trial, neuron: int, stim: int) -> tuple[NDArray[np.float32], float, float]:
        trace = np.asarray(trial.trace, np.float64).ravel()
        start, stop = trial.window
        origin = trial.trace_start if trial.trace_start == trial.trace_start else 0.0 if math.isnan(start) else start
        start = origin if math.isnan(start) else start
        stop = origin + trace.size / trial.rate if math.isnan(stop) else stop
        dt_ns = self.context.dt_ns
        at = bin_of(seconds_to_ns(origin + np.arange(trace.size) / trial.rate), dt_ns)
        bins = int(self.context.n_bins[stim]) or (int(at[-1]) + 1 if trace.size else 0)
        counts = self.context.units[neuron] == "count"
        samples_per_bin = dt_ns * trial.rate / NS_PER_S
        if samples_per_bin < 1 - 1e-9 or (counts and abs(samples_per_bin - round(samples_per_bin)) > 1e-9):
            step = 1000 / trial.rate
            raise UsageError(
                f"dt={dt_ns / 1e6:g} ms: the response of neuron '{trial.neuron}' is sampled every {step:g} ms and "
                f"has no finer source; give a whole multiple of {step:g} ms, or leave it out with --only"
            )
        first, last = (int(v[0]) for v in observed_bins(np.array([start]), np.array([stop]), np.array([bins]), dt_ns))
        inside = (at >= first) & (at < last)
        total = np.bincount(at[inside] - first, weights=trace[inside], minlength=max(last - first, 0))
        number = np.bincount(at[inside] - first, minlength=max(last - first, 0))
        values = np.full(bins, np.nan, np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):
            values[first:last] = np.where(number > 0, total if counts else total / number, np.nan)
        return values, start, stop

    def columns(self) -> Columns:
        """Everything collected, sorted, with repeats numbered and spikes ascending."""
        empty = np.empty(0)
        rows: dict[str, NDArray[Any]] = {
            name: np.concatenate(parts) if parts else empty for name, parts in self.lists.items()
        }
        for name in ("start", "stop", "value"):
            rows[name] = rows[name].astype(np.float64)
        for name in set(rows) - {"start", "stop", "value"}:
            rows[name] = rows[name].astype(np.int64)
        times = np.concatenate(self.times) if self.times else empty
        times = self._finite(times, rows)
        values = np.concatenate(self.values) if self.values else np.empty(0, np.float32)
        order = np.lexsort((rows["test"] > 0, rows["stim"], rows["neuron"]))
        spike_order = _ragged_order(rows["spikes"], order)
        value_order = _ragged_order(rows["bins"], order)
        rows = {name: column[order] for name, column in rows.items()}
        rows["repeat"] = _number(rows)
        ns = _sort_rows(seconds_to_ns(times)[spike_order], rows["spikes"])
        return Columns(rows, ns, values[value_order])

    def _finite(self, times: NDArray[np.float64], rows: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        finite = np.isfinite(times)
        if finite.all():
            return times
        row = np.repeat(np.arange(len(rows["spikes"])), rows["spikes"])
        rows["spikes"] = np.bincount(row[finite], minlength=len(rows["spikes"]))
        what = f"{int((~finite).sum())} spike times are no finite numbers"
        self.report(Finding("error", self.source, what, "these spikes are missing from the cube"))
        return times[finite]


def _ragged_order(sizes: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Positions that bring ragged values into a new order of their rows."""
    if (order[1:] > order[:-1]).all():
        return slice(None)
    starts = np.cumsum(sizes) - sizes
    picked = sizes[order]
    ends = np.cumsum(picked)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts[order] - (ends - picked), picked))


def _number(rows: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Repeats 0..n-1 of the kept trials of each pair, -1 for the rejected ones."""
    n = len(rows["stim"])
    if not n:
        return np.empty(0, np.int64)
    new = np.ones(n, bool)
    new[1:] = (np.diff(rows["neuron"]) != 0) | (np.diff(rows["stim"]) != 0)
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    return np.where(rows["test"] > 0, -1, np.arange(n) - first)


def _sort_rows(times: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times ascending within each row; most files have them so already."""
    row = np.repeat(np.arange(len(sizes)), sizes)
    if ((np.diff(times) < 0) & (np.diff(row) == 0)).any():
        return times[np.lexsort((times, row))]
    return times


def _save(columns: Columns, rows: _Rows, findings: tuple[Finding, ...], path: str) -> None:
    r, context = columns.rows, rows.context
    kept = r["test"] == 0
    row = np.repeat(np.arange(len(kept)), r["spikes"])
    at = bin_of(columns.times, context.dt_ns)
    bins = context.n_bins[r["stim"]] if len(kept) else np.empty(0, np.int64)
    counted = kept[row] & (at >= 0) & ((at < bins[row]) | (bins[row] == 0))
    keys = np.stack([row[counted], at[counted]])
    edges = np.flatnonzero(np.r_[True, (np.diff(keys, axis=1) != 0).any(0), True]) if counted.any() else np.zeros(1)
    reach = np.zeros(len(kept), np.int64)
    np.maximum.at(reach, row[counted], at[counted] + 1)
    reach = np.maximum(reach, np.where(kept, r["bins"], 0))
    pair = np.ones(len(kept), bool)
    pair[1:] = (np.diff(r["neuron"]) != 0) | (np.diff(r["stim"]) != 0)
    starts = np.flatnonzero(pair)
    by_neuron = np.flatnonzero(np.r_[True, np.diff(r["neuron"]) != 0]) if len(kept) else np.empty(0, np.int64)

    def total(column: NDArray[Any], at: NDArray[Any]) -> NDArray[Any]:
        return np.add.reduceat(column, at) if len(at) else np.empty(0, np.int64)

    pairs = np.stack([r["neuron"][starts], r["stim"][starts], total(kept.astype(int), starts),
                      total((~kept).astype(int), starts)], 1)  # fmt: skip
    neurons = np.stack([r["neuron"][by_neuron], total(np.ones(len(kept), int), by_neuron),
                        total(r["spikes"], by_neuron), total(r["bins"], by_neuron)], 1)  # fmt: skip
    finite = columns.values[np.isfinite(columns.values)]
    meta = {
        "files": list(rows.files), "tests": list(rows.tests),
        "max_count": int(max(np.diff(edges).max(initial=0), finite.max(initial=0))),
        "traces": bool(columns.values.size),
        "whole": bool((finite == np.rint(finite)).all() and (finite >= 0).all()),
        "findings": [asdict(f) for f in findings],
    }  # fmt: skip
    partial = f"{path}.{uuid4().hex}.partial"
    with open(partial, "wb") as file:
        np.savez(
            file, allow_pickle=False, pairs=pairs, neurons=neurons,
            reach=np.maximum.reduceat(reach, starts) if len(starts) else reach,
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), times=columns.times, values=columns.values,
            **{f"row_{name}": r[name] for name in ROW_COLUMNS},
        )  # fmt: skip
    os.replace(partial, path)


def summary(path: str) -> Summary:
    """What the planner needs of a spool file."""
    with np.load(path) as spool:
        meta = json.loads(spool["meta"].tobytes())
        findings = tuple(Finding(**f) for f in meta.pop("findings"))
        files, tests = tuple(meta.pop("files")), tuple(meta.pop("tests"))
        return Summary(spool["neurons"], spool["pairs"], spool["reach"], files, tests, findings=findings, **meta)


def columns(path: str, rows: slice, spikes: slice, values: slice) -> Columns:
    """A part of a spool file."""
    with np.load(path) as spool:
        return Columns(
            {name: spool[f"row_{name}"][rows] for name in ROW_COLUMNS},
            spool["times"][spikes] if spikes.start < spikes.stop else np.empty(0, np.int64),
            spool["values"][values] if values.start < values.stop else np.empty(0, np.float32),
        )
