"""The spool: one source's trials, parsed, between the two stages of a build.

It keeps every spike exactly (int64 nanoseconds) and every trace on the cube's bins, so that stage two never looks
at raw files. Rows are trials in (neuron, stimulus, kept before rejected, order of arrival) order. The file is a JSON
header and the arrays one after the other, so that a neuron's part is read without the rest.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from strfcube.builder import prints
from strfcube.grid import bin_of, observed_bins
from strfcube.records import Finding

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
    pairs : ndarray of int32 [shape=(pair, 4)]
        Neuron, stimulus, trials kept, trials rejected.
    reach : ndarray of int32 [shape=(pair,)]
        Bins that reach the last kept spike or trace bin of the pair.
    files, tests : tuple of str
        What the file and test codes mean.
    max_count : int
        Most spikes in one bin, or the largest value of a trace.
    traces, whole : bool
        Whether there are traces, and whether all their values are whole numbers.
    findings : tuple of Finding
        What the pipeline reported.
    unstated, short : int
        Kept spike trials whose files do not state until when they were recorded, and kept trials of any kind that were
        recorded for less than the bins of their stimulus.
    prints : ndarray of uint64 [shape=(pair,)]
        As `strfcube.builder.prints.of_pairs` has them.
    pair_files : ndarray of int32 [shape=(pair,)]
        Code of the file of each pair's first trial.
    """

    neurons: NDArray[np.int64]
    pairs: NDArray[np.int32]
    reach: NDArray[np.int32]
    files: tuple[str, ...]
    tests: tuple[str, ...]
    max_count: int
    traces: bool
    whole: bool
    findings: tuple[Finding, ...]
    unstated: int = 0
    short: int = 0
    prints: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    pair_files: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))


def save(
    path: str,
    columns: Columns,
    n_bins: NDArray[np.int64],
    dt_ns: int,
    files: tuple[str, ...],
    tests: tuple[str, ...],
    findings: tuple[Finding, ...],
    marks: NDArray[np.uint64],
) -> None:
    """Write a spool file; it appears as a whole or not at all.

    Parameters
    ----------
    columns : Columns
        Rows in order; stimuli and neurons by their index in the survey.
    n_bins : ndarray of int64 [shape=(stim,)]
        Bins of each surveyed stimulus; 0 where its length is unknown.
    dt_ns : int
        Bin width in ns.
    files, tests, findings : tuple
        As in `Summary`.
    marks : ndarray of uint64 [shape=(trial,)]
        As `strfcube.builder.prints.of_trials` has them.
    """
    r = columns.rows
    kept = r["test"] == 0
    row = np.repeat(np.arange(len(kept)), r["spikes"])
    at = bin_of(columns.times, dt_ns)
    bins = n_bins[r["stim"]] if len(kept) else np.empty(0, np.int64)
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
    _, last = observed_bins(r["start"], r["stop"], bins, dt_ns)
    exact = r["exact"] > 0
    spiking = kept & exact & (bins > 0)
    # Of traces and published counts, what is there tells
    ends = np.cumsum(r["bins"])
    there = np.flatnonzero(np.isfinite(columns.values))
    of = np.searchsorted(ends, there, side="right")
    np.maximum.at(last := np.where(exact, last, 0), of, there - (ends - r["bins"])[of] + 1)
    meta = {
        "unstated": int((spiking & np.isnan(r["stop"])).sum()),
        "short": int((kept & (bins > 0) & (last < bins)).sum()),
        "files": files, "tests": tests,
        "max_count": int(max(np.diff(edges).max(initial=0), finite.max(initial=0))),
        "traces": bool(columns.values.size),
        "whole": bool((finite == np.rint(finite)).all() and (finite >= 0).all()),
        "findings": [asdict(f) for f in findings],
    }  # fmt: skip
    # What all sources together have of these is in the memory of one process
    arrays = {
        "pairs": pairs.astype(np.int32),
        "neurons": neurons,
        "reach": (np.maximum.reduceat(reach, starts) if len(starts) else reach).astype(np.int32),
        "prints": prints.of_pairs(marks, starts),
        "pair_files": r["file"][starts].astype(np.int32),
        "times": columns.times,
        "values": columns.values,
    }
    _write(path, arrays | {f"row_{name}": r[name] for name in ROW_COLUMNS}, meta)


def summary(path: str) -> Summary:
    """What the planner needs of a spool file."""
    with _Spool(path) as spool:
        meta = spool.meta
        findings = tuple(Finding(**f) for f in meta.pop("findings"))
        files, tests = tuple(meta.pop("files")), tuple(meta.pop("tests"))
        neurons, pairs = spool["neurons"].reshape(-1, 4), spool["pairs"].reshape(-1, 4)
        return Summary(neurons, pairs, spool["reach"], files, tests, findings=findings, prints=spool["prints"],
                       pair_files=spool["pair_files"], **meta)  # fmt: skip


def columns(path: str, rows: slice, spikes: slice, values: slice) -> Columns:
    """A part of a spool file."""
    with _Spool(path) as spool:
        return Columns(
            {name: spool.part(f"row_{name}", rows) for name in ROW_COLUMNS},
            spool.part("times", spikes),
            spool.part("values", values),
        )


def times(path: str, spikes: slice) -> NDArray[np.int64]:
    """Spike times of a part of a spool file, in ns."""
    with _Spool(path) as spool:
        return spool.part("times", spikes)


def _write(path: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    table, offset = {}, 0
    for name, values in arrays.items():
        table[name] = (values.dtype.str, values.size, offset)
        offset += values.nbytes
    header = json.dumps({"arrays": table, "meta": meta}).encode()
    partial = f"{path}.{uuid4().hex}.partial"
    with open(partial, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for values in arrays.values():
            file.write(np.ascontiguousarray(values).data)  # `tofile` does not say that the disk is full
    os.replace(partial, path)


class _Spool:
    """An open spool file: its header, and arrays, or parts of them, on demand."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 (closed by whoever enters)
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        self.meta: dict[str, Any] = header["meta"]
        self._arrays: dict[str, tuple[str, int, int]] = header["arrays"]
        self._start = 8 + size

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.part(name, slice(0, self._arrays[name][1]))

    def part(self, name: str, which: slice) -> NDArray[Any]:
        """Values [which.start, which.stop) of an array, flat."""
        dtype, _, offset = self._arrays[name]
        self._file.seek(self._start + offset + which.start * np.dtype(dtype).itemsize)
        return np.fromfile(self._file, dtype, max(0, which.stop - which.start))
