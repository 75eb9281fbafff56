"""Stage one of a build: one source's records, parsed once, as sorted columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.builder import spool
from strfcube.builder.workplace import load
from strfcube.errors import RawDataError, StrfcubeError, UsageError
from strfcube.grid import NS_PER_S, bin_of, observed_bins, seconds_to_ns
from strfcube.records import Finding, Pipeline, Source, Trial, Trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


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


def refuse(finding: Finding) -> StrfcubeError:
    """The error that ends a strict build."""
    return StrfcubeError(f"{finding.place}: {finding.what} ({finding.consequence})")


def ingest(context_path: str, source: Source, spool_path: str) -> str:
    """Parse one source into its spool file; the task of stage one.

    Raises
    ------
    StrfcubeError
        If the pipeline itself fails, or at the first warning of a strict build.
    """
    context: Context = load(context_path)
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
        report(Finding.of(error, context.pipeline.raw, f"the rest of {source.id} is missing from the cube"))
    except StrfcubeError:
        raise
    except Exception as error:
        message = f"pipeline {type(context.pipeline).__name__} failed on source '{source.id}'"
        raise StrfcubeError(f"{message}: {type(error).__name__}: {error}") from error
    columns = rows.columns()
    spool.save(
        spool_path, columns, context.n_bins, context.dt_ns, tuple(rows.files), tuple(rows.tests), tuple(findings)
    )
    return spool_path


class _Rows:
    """Collects records in order of arrival."""

    def __init__(self, context: Context, report: Any, source: str) -> None:
        self.context, self.report, self.source = context, report, source
        self.lists: dict[str, list[Any]] = {name: [] for name in spool.ROW_COLUMNS if name not in ("repeat",)}
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
        chosen = stim >= 0
        if not chosen.any():
            return
        codes: Any = self._code(self.files, trials.files) if isinstance(trials.files, str) else [
            self._code(self.files, f) if c else -1 for f, c in zip(trials.files, chosen, strict=True)
        ]  # fmt: skip
        many = {
            "neuron": neuron, "stim": stim, "number": trials.repeats, "file": codes, "start": trials.start,
            "stop": trials.stop, "value": math.nan, "spikes": sizes, "bins": 0, "test": 0, "exact": 1,
        }  # fmt: skip
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

    def columns(self) -> spool.Columns:
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
        return spool.Columns(rows, ns, values[value_order])

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
