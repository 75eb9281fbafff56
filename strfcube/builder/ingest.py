"""Stage one of a build: one source's records, parsed once, as sorted columns."""

from __future__ import annotations

import math
import os
import stat
import time
from array import array
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube import limits
from strfcube.builder import copies, far, ledger, prints, spool
from strfcube.errors import RawDataError, StrfcubeError, UsageError
from strfcube.grid import NS_PER_S, bin_of, observed_bins, seconds_to_ns
from strfcube.raw_files import see_readable
from strfcube.records import Finding, Pipeline, Source, Trial, Trials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


_FLOATS = ("start", "stop", "value")


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
    began : int
        When the raw files were last known to be those that the request names, in ns since the epoch.
    strict : bool
        Whether the first warning stops the build.
    """

    pipeline: Pipeline
    stims: Mapping[str, int]
    neurons: Mapping[str, int]
    n_bins: NDArray[np.int64]
    units: tuple[str, ...]
    dt_ns: int
    began: int
    strict: bool = False


def refuse(finding: Finding) -> StrfcubeError:
    """The error that ends a strict build."""
    return StrfcubeError(f"{finding.place}: {finding.what} ({finding.consequence})")


def ingest(context: Context, source: Source, spool_path: str) -> dict[str, Any]:
    """Parse one source into its spool file; the task of stage one.

    Returns
    -------
    dict
        ``files``: the spool, for the ledger.

    Raises
    ------
    RawDataError
        If a raw file was written to meanwhile.
    StrfcubeError
        If the pipeline itself fails, or at the first warning of a strict build.
    """
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
        see_readable(error, context.pipeline.raw)
        message = f"pipeline {type(context.pipeline).__name__} failed on source '{source.id}'"
        raise StrfcubeError(f"{message}: {type(error).__name__}: {error}") from error
    columns = rows.columns()
    _unchanged(context, rows.files)
    marks = prints.of_trials(columns.rows, columns.times, columns.values)
    for finding in (*copies.within(columns, marks, rows.names), *copies.doubled(columns, rows.names)):
        report(finding)
    return _spooled(spool_path, context, columns, rows, findings, marks)


def without(context: Context, source: Source, spool_path: str, how: str) -> dict[str, Any]:
    """A spool of nothing, for a source that ends whoever reads it; as `ingest`, with how it did in words."""
    finding = Finding("error", source.id, f"this source {how}", "its trials are missing from the cube")
    if context.strict:
        raise refuse(finding)
    rows = _Rows(context, None, source.id)
    return _spooled(spool_path, context, rows.columns(), rows, [finding], np.empty(0, np.uint64))


def _spooled(
    path: str, context: Context, columns: spool.Columns, rows: _Rows, findings: list[Finding], marks: NDArray[np.uint64]
) -> dict[str, Any]:
    spool.save(
        path, columns, context.n_bins, context.dt_ns, tuple(rows.files), tuple(rows.tests), tuple(findings), marks
    )
    return {"files": ledger.files(os.path.dirname(path), [os.path.basename(path)])}


def _unchanged(context: Context, files: Mapping[str, int]) -> None:
    """See that nobody wrote to a source's files since the build began; publishing looks at all files again."""
    for file in files:
        try:
            found = Path(context.pipeline.raw, file).stat()
        except (OSError, ValueError):  # not every name is that of a file
            continue
        # A folder's time changes with whatever is put into it, such as this very cube
        if stat.S_ISREG(found.st_mode) and context.began < found.st_mtime_ns <= time.time_ns():
            raise RawDataError("was written to while the cube was built: let that end, then give the same command",
                               Path(context.pipeline.raw, file))  # fmt: skip


class _Rows:
    """Collects records in order of arrival."""

    def __init__(self, context: Context, report: Any, source: str) -> None:
        self.context, self.report, self.source = context, report, source
        # A trial is as many bytes as its columns and spikes are: an object for each of them would be thousands
        self.lists: dict[str, array[Any]] = {
            name: array("d" if name in _FLOATS else "q") for name in spool.ROW_COLUMNS if name != "repeat"
        }
        self.times, self.values = array("d"), array("f")
        self.files: dict[str, int] = {}
        self.tests: dict[str, int] = {}
        self.unknown: set[str] = set()

    @property
    def names(self) -> copies.Names:
        """What the numbers in the columns mean; looked up where one is told, for few sources have anything to tell."""

        def named(known: Mapping[str, int], wanted: int) -> str:
            return next(label for label, at in known.items() if at == wanted)

        stims, neurons = self.context.stims, self.context.neurons
        return copies.Names(list(self.files), partial(named, stims), partial(named, neurons))

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
        (start, stop), number = trial.window, trial.repeat
        if not (_plain(start, limits.WINDOW_SECONDS) and _plain(stop, limits.WINDOW_SECONDS)):
            start, stop = (float(edge[0]) for edge in self._window(start, stop, trial.file))
        if not -limits.TRIAL_NUMBER <= number <= limits.TRIAL_NUMBER:
            number = int(self._numbers(number, trial.file)[0])
        if trial.trace is not None:
            if (problem := _trace_problem(trial)) is not None:
                self._tell(trial.file, f"trial {trial.repeat} of '{trial.neuron}': {problem}", "it is missing")
                return
            values, start, stop = self._bin_trace(trial, neuron, stim, start, stop)
        one = {
            "neuron": neuron, "stim": stim, "number": number, "file": self._code(self.files, trial.file),
            "start": start, "stop": stop, "value": trial.value, "spikes": spikes.size, "bins": values.size,
            "test": self._code(self.tests, "_".join(trial.rejected_by.split())) + 1 if trial.rejected_by else 0,
            "exact": trial.trace is None and not trial.sampled,
        }  # fmt: skip
        for name, value in one.items():
            self.lists[name].append(value)
        self.times.frombytes(spikes.tobytes())
        self.values.frombytes(values.tobytes())

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
        start, stop = self._window(trials.start, trials.stop, trials.files)
        many = {
            "neuron": neuron, "stim": stim, "number": self._numbers(trials.repeats, trials.files), "file": codes,
            "start": start, "stop": stop, "value": math.nan, "spikes": sizes, "bins": 0, "test": 0, "exact": 1,
        }  # fmt: skip
        for name, value in many.items():
            column = np.broadcast_to(np.asarray(value, np.float64 if name in _FLOATS else np.int64), n)[chosen]
            self.lists[name].frombytes(column.tobytes())
        self.times.frombytes((spikes if chosen.all() else spikes[np.repeat(chosen, sizes)]).tobytes())

    def _tell(self, file: str, what: str, consequence: str) -> None:
        self.report(Finding("error", file or self.source, what, consequence))

    def _numbers(self, repeats: Any, files: Sequence[str] | str) -> NDArray[np.int64]:
        """Trial numbers, -1 for those that four bytes do not hold."""
        given = np.atleast_1d(repeats)
        values = given if given.dtype.kind in "iu" else given.astype(np.float64)
        fits = (values >= -limits.TRIAL_NUMBER) & (values <= limits.TRIAL_NUMBER)
        if fits.all():
            return values.astype(np.int64)
        what = f"trial number {given[~fits][0]}, {limits.TRIAL_NUMBER} is the highest"
        self._tell(_one_of(files, ~fits), what, f"{int((~fits).sum())} trials have the number -1 instead")
        return np.where(fits, values, -1).astype(np.int64)

    def _window(
        self, start: Any, stop: Any, files: Sequence[str] | str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recorded windows, not stated where they cannot be."""
        edges = [np.atleast_1d(np.asarray(edge, np.float64)) for edge in (start, stop)]
        for number, edge in enumerate(edges):
            absurd = np.isfinite(edge) & (np.abs(edge) > limits.WINDOW_SECONDS)
            if absurd.any():
                what = (
                    f"a recorded window that reaches to {edge[absurd][0]:g} s, {limits.WINDOW_SECONDS:g} s are the most"
                )
                self._tell(_one_of(files, absurd), what, "it is taken as not stated")
                edges[number] = np.where(absurd, math.nan, edge)
        return edges[0], edges[1]

    def _bin_trace(
        self, trial: Trial, neuron: int, stim: int, start: float, stop: float
    ) -> tuple[NDArray[np.float32], float, float]:
        trace = np.asarray(trial.trace, np.float64).ravel()
        if (wild := np.isinf(trace) | (np.abs(trace) > np.finfo(np.float32).max)).any():
            what = f"{int(wild.sum())} samples of trial {trial.repeat} of '{trial.neuron}' are infinite, or as good as"
            self._tell(trial.file, what, "they are missing from the cube")
            trace = np.where(wild, math.nan, trace)
        origin = trial.trace_start if trial.trace_start == trial.trace_start else 0.0 if math.isnan(start) else start
        end = origin + trace.size / trial.rate
        start, stop = origin if math.isnan(start) else start, end if math.isnan(stop) else stop
        dt_ns = self.context.dt_ns
        at = bin_of(seconds_to_ns(origin + np.arange(trace.size) / trial.rate), dt_ns)
        bins = int(self.context.n_bins[stim]) or (max(0, int(at[-1]) + 1) if trace.size else 0)
        counts = self.context.units[neuron] == "count"
        samples_per_bin = dt_ns * trial.rate / NS_PER_S
        if samples_per_bin < 1 - 1e-9 or (counts and abs(samples_per_bin - round(samples_per_bin)) > 1e-9):
            step = 1000 / trial.rate
            raise UsageError(
                f"dt={dt_ns / 1e6:g} ms: the response of neuron '{trial.neuron}' is sampled every {step:g} ms and "
                f"has no finer source; give a whole multiple of {step:g} ms, or leave it out with --only"
            )
        # A bin of which a part was sampled has too few counts, whatever window is stated
        span = np.array([max(start, origin)]), np.array([min(stop, end)])
        first, last = (int(v[0]) for v in observed_bins(*span, np.array([bins]), dt_ns))
        inside = (at >= first) & (at < last)
        total = np.bincount(at[inside] - first, weights=trace[inside], minlength=max(last - first, 0))
        number = np.bincount(at[inside] - first, minlength=max(last - first, 0))
        values = np.full(bins, np.nan, np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):
            values[first:last] = np.where(number > 0, total if counts else total / number, np.nan)
        return values, start, stop

    def columns(self) -> spool.Columns:
        """Everything collected, sorted, with repeats numbered and spikes ascending."""
        rows: dict[str, NDArray[Any]] = {name: np.asarray(column) for name, column in self.lists.items()}
        times = np.asarray(self.times)
        times = self._possible(times, rows)
        for finding in far.suspects(times, rows, self.context.n_bins, self.context.dt_ns, list(self.files)):
            self.report(finding)
        values = np.asarray(self.values)
        order = self._not_too_many(rows, np.lexsort((rows["test"] > 0, rows["stim"], rows["neuron"])))
        spike_order = _ragged_order(rows["spikes"], order)
        value_order = _ragged_order(rows["bins"], order)
        rows = {name: column[order] for name, column in rows.items()}
        rows["repeat"] = _number(rows)
        ns = _sort_rows(seconds_to_ns(times)[spike_order], rows["spikes"])
        return spool.Columns(rows, ns, values[value_order])

    def _possible(self, times: NDArray[np.float64], rows: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Spike times without those that no recording can hold."""
        good = np.abs(times) <= limits.SPIKE_SECONDS  # not so for NaN
        if good.all():
            return times
        row = np.repeat(np.arange(len(rows["spikes"])), rows["spikes"])
        rows["spikes"] = np.bincount(row[good], minlength=len(rows["spikes"]))
        finite = np.isfinite(times)
        files = list(self.files)
        for bad, what in (
            (~finite, "are no finite numbers"),
            (finite & ~good, f"lie more than {limits.SPIKE_SECONDS:g} s from onset"),
        ):
            for code in np.unique(rows["file"][row[bad]]).tolist():
                mine = bad & (rows["file"][row] == code)
                number, first = rows["number"][row[mine][0]], times[mine][0]
                self._tell(files[code], f"{int(mine.sum())} spike times {what}: the first is {first:g} s, of trial "
                           f"{number}", "these spikes are missing from the cube")  # fmt: skip
        return times[good]

    def _not_too_many(self, rows: dict[str, NDArray[Any]], order: NDArray[np.intp]) -> NDArray[np.intp]:
        """The order of rows without those trials of a pair that are more than two bytes can count."""
        if len(order) <= limits.TRIALS:
            return order
        before = _place({name: rows[name][order] for name in ("neuron", "stim")})
        over = order[before >= limits.TRIALS]
        files = list(self.files)
        for code in np.unique(rows["file"][over]).tolist():
            count = int((rows["file"][over] == code).sum())
            self._tell(files[code], f"more than {limits.TRIALS:,} trials of one stimulus to one neuron",
                       f"{count:,} trials are missing from the cube")  # fmt: skip
        return order[before < limits.TRIALS]


def _plain(value: float, most: float) -> bool:
    """Whether a value is not stated, or within bounds; in plain Python, for one trial at a time."""
    return value != value or abs(value) <= most


def _one_of(files: Sequence[str] | str, bad: NDArray[np.bool_]) -> str:
    """The file of the first bad trial."""
    return files if isinstance(files, str) else str(files[int(np.argmax(bad)) if len(bad) == len(files) else 0])


def _trace_problem(trial: Trial) -> str | None:
    low, high = limits.TRACE_RATE
    if not low <= trial.rate <= high:
        return f"a response of {trial.rate:g} samples a second, expected {low:g} to {high:g}"
    if math.isinf(trial.trace_start) or abs(trial.trace_start) > limits.SPIKE_SECONDS:
        return f"a response that begins {trial.trace_start:g} s from onset"
    seconds = np.asarray(trial.trace).size / trial.rate
    if seconds > limits.WINDOW_SECONDS:
        return f"a response of {seconds:g} s, {limits.WINDOW_SECONDS:g} s are the longest"
    return None


def _ragged_order(sizes: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Positions that bring ragged values into a new order of their rows."""
    if len(order) == len(sizes) and (order[1:] > order[:-1]).all():
        return slice(None)
    starts = np.cumsum(sizes) - sizes
    picked = sizes[order]
    ends = np.cumsum(picked)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts[order] - (ends - picked), picked))


def _number(rows: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Repeats 0..n-1 of the kept trials of each pair, -1 for the rejected ones."""
    return np.where(rows["test"] > 0, -1, _place(rows))


def _place(rows: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Number of each sorted row within its pair of neuron and stimulus."""
    n = len(rows["stim"])
    new = np.ones(n, bool)
    new[1:] = (np.diff(rows["neuron"]) != 0) | (np.diff(rows["stim"]) != 0)
    at = np.arange(n)
    return at - np.maximum.accumulate(np.where(new, at, 0)) if n else at


def _sort_rows(times: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times ascending within each row; most files have them so already."""
    row = np.repeat(np.arange(len(sizes)), sizes)
    if ((np.diff(times) < 0) & (np.diff(row) == 0)).any():
        return times[np.lexsort((times, row))]
    return times
