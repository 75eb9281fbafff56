"""Stage two of a build: whole shards from spools. Every task is a top-level function of plain arguments.

No two tasks write the same file, and what a task writes depends on nothing but the plan and the spools: any number of
workers, in any order, killed and run again, gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.builder import ledger, spool
from strfcube.builder.checks import doubts, sound_of
from strfcube.builder.plan import RAGGED_PER_SHARD, SAMPLES_CHUNK, NeuronRows, Plan, samples_layout
from strfcube.cube.digest import Leaf
from strfcube.cube.shard_writer import Layout, encoded_shard
from strfcube.errors import RawDataError
from strfcube.grid import Align, bin_of, observed_bins
from strfcube.records import Finding, ReadyMade, Stimulus
from strfcube.sound.audio import odd_waves, to_float
from strfcube.sound.spectrogram import FrontEnd, Published, compute, holds, regrid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from strfcube.sound.kernels import Kernel

Leaves = dict[str, list[Leaf]]


@dataclass(frozen=True)
class Job:
    """What the workers of stage two need to know.

    Attributes
    ----------
    store : str
        Path or URL that the shards go to.
    plan : Plan
        The plan.
    stimulus : Layout
        The spectrogram array.
    trials, spike_time : dict of Layout, Layout
        The ragged arrays.
    stimuli : tuple of Stimulus
        Those of the cube, in its order.
    front_end, kernels, align, dt_ns, ready_made
        How spectrograms are made; kernels by sampling rate.
    raw : path
        The raw folder.
    """

    store: str
    plan: Plan
    stimulus: Layout
    trials: dict[str, Layout]
    spike_time: Layout
    stimuli: tuple[Stimulus, ...]
    front_end: FrontEnd
    kernels: dict[float, Kernel]
    align: Align
    dt_ns: int
    ready_made: ReadyMade | None
    raw: Path


@dataclass(frozen=True)
class Written:
    """What a task of stage two did.

    Attributes
    ----------
    leaves : dict
        Of each array, by its path.
    files : dict
        The shards, for the ledger.
    findings : tuple of Finding
        What came up.
    audio : dict
        Of the task that writes the waveforms: ``row_size`` and ``rate`` of each stimulus, and ``dtype``.
    """

    leaves: Leaves = field(default_factory=dict)
    files: ledger.Files = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    audio: dict[str, Any] = field(default_factory=dict)

    def add(self, store: str, layout: Layout, shard: tuple[int, ...], chunks: Iterator[Any]) -> None:
        """Write a shard, and enter it."""
        key, data, leaves = encoded_shard(layout, shard, chunks)
        self.leaves.setdefault(layout.name, []).extend(leaves)
        if data:
            self.files[key] = ledger.written(store, key, data)

    def entry(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Written:
        """What `entry` gave."""
        leaves = {name: [(tuple(at), value) for at, value in each] for name, each in entry["leaves"].items()}
        return cls(leaves, entry["files"], tuple(Finding(**f) for f in entry["findings"]), entry["audio"])

    @property
    def samples(self) -> Layout | None:
        """The array of the waveforms, of the task that wrote it."""
        return samples_layout(sum(self.audio["row_size"]), self.audio["dtype"]) if self.audio else None


def read_trials(plan: Plan, first: int, last: int, responses: bool = True) -> spool.Columns:
    """Trials of neurons [first, last), with indices of the cube instead of the survey's; `responses` with spikes."""
    stim_of = np.full(int(plan.stims.max(initial=-1)) + 1, -1)
    stim_of[plan.stims] = np.arange(len(plan.stims))
    parts: list[spool.Columns] = []
    where = plan.where
    for a, b in _runs(where, first, last):
        number, none = int(where.spool[a]), slice(0, 0)
        part = spool.columns(
            plan.spools[number], slice(int(where.rows[a, 0]), int(where.rows[b - 1, 1])),
            slice(int(where.spikes[a, 0]), int(where.spikes[b - 1, 1])) if responses else none,
            slice(int(where.values[a, 0]), int(where.values[b - 1, 1])) if responses else none,
        )  # fmt: skip
        r = part.rows
        r["neuron"] = np.repeat(np.arange(a, b), np.diff(where.rows[a:b], axis=1).ravel())
        r["stim"] = stim_of[r["stim"]]
        r["file"] = np.asarray(plan.file_codes[number])[r["file"]]
        r["test"] = np.asarray(plan.test_codes[number])[r["test"]]
        parts.append(part)
    if not parts:
        return spool.Columns({name: np.empty(0, np.int64) for name in spool.ROW_COLUMNS}, np.empty(0, np.int64),
                             np.empty(0, np.float32))  # fmt: skip
    return spool.Columns(
        {name: np.concatenate([p.rows[name] for p in parts]) for name in spool.ROW_COLUMNS},
        np.concatenate([p.times for p in parts]),
        np.concatenate([p.values for p in parts]),
    )


def _runs(where: NeuronRows, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of neurons that lie one after the other in one spool, so that it is read once."""
    spools, rows = where.spool[first:last], where.rows[first:last]
    ends = 1 + np.flatnonzero((spools[1:] != spools[:-1]) | (rows[1:, 0] != rows[:-1, 1]))
    yield from itertools.pairwise((first + np.unique([0, *ends, len(spools)])).tolist())


def write_response(job: Job, block: int) -> dict[str, Any]:
    """All shards of one block of neurons."""
    plan, layout = job.plan, job.plan.response
    first = block * layout.chunk[1]
    last = min(first + layout.chunk[1], layout.shape[1])
    trials = read_trials(plan, first, last)
    written = Written()
    arrays = _stimulus_arrays(trials, plan, job.dt_ns, first, last)
    for stims in range(layout.grid[0]):
        low = stims * layout.shard[0]
        high = min(low + layout.shard[0], layout.shape[0])
        chunks = _repeat_chunks(arrays, range(low, high), block, layout)
        written.add(job.store, layout, (stims, block, 0, 0), chunks)
    return written.entry()


def _repeat_chunks(
    arrays: Iterator[NDArray[Any]], stims: range, block: int, layout: Layout
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    for stim in stims:
        values = next(arrays)
        for number, at in enumerate(range(0, values.shape[1], layout.chunk[2])):
            yield (stim, block, number, 0), values[None, :, at : at + layout.chunk[2]]


def _stimulus_arrays(trials: spool.Columns, plan: Plan, dt_ns: int, first: int, last: int) -> Iterator[NDArray[Any]]:
    """The block's responses to one stimulus after the other [shape=(neuron, repeat, time)].

    As many repeats as the block has of the stimulus; in whole chunks cut to the array, unless repeats come first.
    """
    layout = plan.response
    n_time, n_stims = layout.shape[3], layout.shape[0]
    r = trials.rows
    row_of_spike = np.repeat(np.arange(len(r["stim"]), dtype=np.int32), r["spikes"])
    begin, end = observed_bins(r["start"], r["stop"], plan.n_bins[r["stim"]], dt_ns)
    at = bin_of(trials.times, dt_ns)
    counted = (r["repeat"] >= 0)[row_of_spike] & (at >= begin[row_of_spike]) & (at < end[row_of_spike])
    row_of_spike, at = row_of_spike[counted], at[counted]
    rows = np.argsort(r["stim"].astype(np.int32), kind="stable")
    rows = rows[r["repeat"][rows] >= 0]
    row_edges = np.searchsorted(r["stim"][rows], np.arange(n_stims + 1))
    order = np.argsort(r["stim"][row_of_spike].astype(np.int32), kind="stable")
    row_of_spike, at = row_of_spike[order], at[order]
    spike_edges = np.searchsorted(r["stim"][row_of_spike], np.arange(n_stims + 1))
    value_start = np.cumsum(r["bins"]) - r["bins"]
    integral = np.dtype(layout.dtype).kind == "u"
    for stim in range(n_stims):
        mine = rows[row_edges[stim] : row_edges[stim + 1]]
        n_repeats = int(r["repeat"][mine].max(initial=-1)) + 1
        if not layout.repeats_first:
            n_repeats = min(-(-n_repeats // layout.chunk[2]) * layout.chunk[2], layout.shape[2])
        values = np.full((last - first, n_repeats, n_time), layout.fill, layout.dtype)
        flat = values.reshape(-1, n_time)
        slot = (r["neuron"] - first) * n_repeats + r["repeat"]
        spiking = mine[r["exact"][mine] > 0]
        windows = np.stack([begin[spiking], end[spiking]], 1)
        kinds, which = np.unique(windows, axis=0, return_inverse=True)
        for kind, (low, high) in enumerate(kinds.tolist()):
            flat[slot[spiking[which.ravel() == kind]], low:high] = 0
        for row in mine[r["exact"][mine] == 0]:
            trace = trials.values[value_start[row] : value_start[row] + r["bins"][row]][: plan.n_bins[stim]]
            filled = np.rint(trace) if integral else trace
            seen = np.isfinite(trace)
            flat[slot[row], : len(trace)][seen] = filled[seen]
        span = slice(spike_edges[stim], spike_edges[stim + 1])
        np.add.at(flat.reshape(-1), slot[row_of_spike[span]] * n_time + at[span], np.dtype(layout.dtype).type(1))
        yield values


def write_stimuli(job: Job, shard: int) -> dict[str, Any]:
    """One shard of spectrograms, each computed one whole stimulus at a time."""
    layout = job.stimulus
    findings: list[Finding] = []

    def chunks() -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
        low = shard * layout.shard[0]
        for stim in range(low, min(low + layout.shard[0], layout.shape[0])):
            values = np.full((1, *layout.shape[1:]), np.nan, np.float32)
            bins = int(job.plan.n_bins[stim])
            try:
                made = _spectrogram(job, job.stimuli[stim], bins)
            except RawDataError as error:
                consequence = f"the spectrogram of {job.stimuli[stim].id} is missing, its responses stay"
                findings.append(Finding.of(error, job.raw, consequence))
                continue
            if made is not None:
                values[0, :, :bins] = made
            yield (stim, 0, 0), values

    written = Written()
    with odd_waves(findings.append, job.raw):
        written.add(job.store, layout, (shard, 0, 0), chunks())
    return dataclasses.replace(written, findings=tuple(findings)).entry()


def _spectrogram(job: Job, stimulus: Stimulus, bins: int) -> NDArray[np.float32] | None:
    if isinstance(job.front_end, Published):
        if stimulus.spectrogram is None or job.ready_made is None:
            return None
        return regrid(stimulus.spectrogram(), job.ready_made.dt, bins, job.dt_ns)
    audio = sound_of(stimulus)
    if audio is None:
        return None
    if not holds(job.front_end, audio.rate):
        what = (
            f"a sound of {audio.rate:g} Hz has nothing above {audio.rate / 2:g} Hz, and the spectrograms of the others"
        )
        raise RawDataError(
            f"{what} go up to {job.front_end.f_max:g} Hz", str(stimulus.meta.get("stim_name") or stimulus.id)
        )
    kernel = job.kernels.get(audio.rate)
    return compute(job.front_end, audio, bins, job.dt_ns, job.align, stimulus.sound_onset, kernel)


def write_trial_rows(job: Job, shard: int) -> dict[str, Any]:
    """One shard of every column of the trials group."""
    plan = job.plan
    layout = job.trials["row_size"]
    low, high, first, last = _neurons_of(plan.row_start, layout, shard)
    r = read_trials(plan, first, last, responses=False).rows
    span = slice(low - int(plan.row_start[first]), high - int(plan.row_start[first]))
    columns = {
        "stim_index": r["stim"], "neuron_index": r["neuron"], "repeat_index": r["repeat"], "trial_number": r["number"],
        "file_index": r["file"], "window_start": r["start"], "window_stop": r["stop"], "kept": r["test"] == 0,
        "rejected_by": r["test"], "test_value": r["value"], "row_size": r["spikes"], "exact": r["exact"] > 0,
    }  # fmt: skip
    written = Written()
    for name, values in columns.items():
        layout = job.trials[name]
        written.add(job.store, layout, (shard,), _slices(values[span], low, layout))
    return written.entry()


def write_spike_times(job: Job, shard: int) -> dict[str, Any]:
    """One shard of the spike times."""
    layout = job.spike_time
    plan, where = job.plan, job.plan.where
    low, high, first, last = _neurons_of(plan.spike_start, layout, shard)
    # Without the rows of their trials, which are more than the spikes where neurons are quiet
    parts = [
        spool.times(plan.spools[where.spool[a]], slice(int(where.spikes[a, 0]), int(where.spikes[b - 1, 1])))
        for a, b in _runs(where, first, last)
    ]
    times = np.concatenate(parts) if parts else np.empty(0, np.int64)
    start = int(plan.spike_start[first])
    written = Written()
    written.add(job.store, layout, (shard,), _slices(times[low - start : high - start], low, layout))
    return written.entry()


def _neurons_of(starts: NDArray[np.int64], layout: Layout, shard: int) -> tuple[int, int, int, int]:
    """Range of a ragged shard, and the neurons whose values lie in it."""
    low = shard * layout.shard[0]
    high = min(low + layout.shard[0], layout.shape[0])
    first = int(np.searchsorted(starts, low, side="right")) - 1
    last = int(np.searchsorted(starts, high, side="left"))
    return low, high, first, last


def _slices(values: NDArray[Any], low: int, layout: Layout) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    size = layout.chunk[0]
    for at in range(0, len(values), size):
        yield ((low + at) // size,), values[at : at + size]


def write_audio(job: Job) -> dict[str, Any]:
    """All waveforms, one after the other at their own rate.

    In the files' own dtype; where files differ in it, as float32 with full scale at one.
    """
    try:
        return _write_audio(job, None).entry()
    except _MixedDtypesError:
        return _write_audio(job, np.dtype(np.float32)).entry()


class _MixedDtypesError(Exception):
    """A waveform came in another dtype than those before it."""


def _write_audio(job: Job, dtype: np.dtype[Any] | None) -> Written:
    common = dtype
    sizes, rates = np.zeros(len(job.stimuli), np.int64), np.full(len(job.stimuli), np.nan)
    prints = [b""] * len(job.stimuli)
    findings: list[Finding] = []
    written = Written()
    queue: list[NDArray[Any]] = []
    full, shard = SAMPLES_CHUNK * RAGGED_PER_SHARD, 0
    for number, stimulus in enumerate(job.stimuli):
        if stimulus.audio is None:
            continue
        try:
            with odd_waves(findings.append, job.raw):
                audio = sound_of(stimulus)
        except RawDataError as error:
            consequence = f"the waveform of {stimulus.id} is missing"
            findings.append(Finding.of(error, job.raw, consequence))
            continue
        assert audio is not None
        common = common or audio.samples.dtype
        if dtype is None and audio.samples.dtype != common:
            raise _MixedDtypesError
        samples = audio.samples if audio.samples.dtype == common else to_float(audio.samples).astype(common)
        sizes[number], rates[number] = len(samples), audio.rate
        prints[number] = hashlib.blake2b(np.ascontiguousarray(audio.samples).data, digest_size=16).digest()
        queue.append(samples)
        # Sizes are known only when everything is read, so whole shards are cut off as the queue fills.
        while sum(map(len, queue)) > full:
            joined = np.concatenate(queue)
            part, queue = joined[:full], [joined[full:]]
            layout = samples_layout(1 << 40, common)
            written.add(job.store, layout, (shard,), _slices(part, shard * full, layout))
            shard += 1
    findings += doubts(job.stimuli, sizes, rates, prints)
    final = samples_layout(int(sizes.sum()), common or "i2")
    rest = np.concatenate(queue) if queue else np.empty(0, final.dtype)
    written.add(job.store, final, (shard,), _slices(rest, shard * final.shard[0], final))
    audio_entry = {"row_size": sizes.tolist(), "rate": rates.tolist(), "dtype": final.dtype}
    return dataclasses.replace(written, findings=tuple(findings), audio=audio_entry)
