"""The chunk plan: pure functions from what was parsed to the shape of the store.

Reading is by stimulus, so a chunk holds one stimulus and about a megabyte of neurons; time is not split. The repeat
chunk follows the distribution of repeats. Where most stimuli have one and a few have twenty, chunks of one repeat would
be what is decoded fastest, and so many that other readers spend all their time on chunks that do not exist: there a
chunk holds more repeats, those that were recorded in front, and our own reader decodes these alone. A shard holds all
stimuli of a block of neurons, so that whoever writes a block needs no other block's source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube import limits
from strfcube.cube.shard_writer import Layout, linear
from strfcube.errors import StrfcubeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from strfcube.builder.spool import Summary

CHUNK_BYTES = 1_000_000  # decoded, of the response
BLANK_BYTES = 1_300_000  # decoded, with blank repeats: beyond it, other readers' floats need fresh memory every time
CHUNK_COST = 30_000  # bytes that could be decoded in the time that one more chunk costs
SHARD_BYTES = 512_000_000  # decoded, of chunks that exist; some 100 times less on disk
BLOCK_NEURONS = 1024  # more neurons than this are at least two blocks, so that two workers share them
RAGGED_CHUNK, SAMPLES_CHUNK, RAGGED_PER_SHARD = 1 << 17, 1 << 19, 32
ROWS_PER_SHARD = 8  # chunks; a worker holds all columns of a shard of rows
STIM_SHARDS = 8  # spectrogram shards of a large set


@dataclass(frozen=True)
class NeuronRows:
    """Where each neuron's trials lie in its spool.

    Attributes
    ----------
    spool : ndarray of int32 [shape=(neuron,)]
        Number of the spool.
    rows, spikes, values : ndarray of int64 [shape=(neuron, 2)]
        Half-open ranges within it.
    """

    spool: NDArray[np.int32]
    rows: NDArray[np.int64]
    spikes: NDArray[np.int64]
    values: NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Everything that stage two needs to know.

    Attributes
    ----------
    stims, neurons : ndarray of int64
        Survey index of each stimulus and neuron of the cube.
    n_bins : ndarray of int64 [shape=(stim,)]
        Bins of each stimulus.
    n_repeats, n_rejected : ndarray of uint16 [shape=(stim, neuron)]
        The coverage.
    where : NeuronRows
        The trials of each neuron of the cube.
    spools : tuple of str
        Spool files.
    file_codes : tuple of tuple of int
        Code in `files` of each spool's own file codes.
    files : tuple of str
        Raw files of all spools.
    test_codes : tuple of tuple of int
        Code in `tests` of each spool's own test codes.
    tests : tuple of str
        Tests that rejected trials; the first is ``kept``.
    response : Layout
        The response array.
    """

    stims: NDArray[np.int64]
    neurons: NDArray[np.int64]
    n_bins: NDArray[np.int64]
    n_repeats: NDArray[np.uint16]
    n_rejected: NDArray[np.uint16]
    where: NeuronRows
    spools: tuple[str, ...]
    file_codes: tuple[tuple[int, ...], ...]
    files: tuple[str, ...]
    test_codes: tuple[tuple[int, ...], ...]
    tests: tuple[str, ...]
    response: Layout

    @property
    def row_start(self) -> NDArray[np.int64]:
        """First row of the trials group of each neuron, and their number."""
        return _starts(self.where.rows)

    @property
    def spike_start(self) -> NDArray[np.int64]:
        """First spike of the trials group of each neuron, and their number."""
        return _starts(self.where.spikes)

    def without_coverage(self) -> Plan:
        """The same for those that write shards: it travels to each of them, and the coverage is most of it."""
        return replace(self, n_repeats=self.n_repeats[:, :0], n_rejected=self.n_rejected[:, :0])


def _starts(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(ranges[:, 1] - ranges[:, 0])])


def repeat_chunk(repeats: Sequence[int] | NDArray[Any], row_bytes: int) -> int:
    """Repeats in a chunk.

    The size that costs least to read every stimulus once: bytes decoded, plus a fixed cost a chunk.

    Parameters
    ----------
    repeats : sequence of int [shape=(stim,)]
        Most repeats that any neuron has of each stimulus.
    row_bytes : int
        Bytes of one repeat of one chunk.
    """
    n = np.maximum(np.asarray(repeats, np.int64), 1)
    most = int(n.max(initial=1))

    def cost(size: int) -> int:
        return int((-(-n // size)).sum()) * (size * row_bytes + CHUNK_COST)

    return min(range(1, most + 1), key=lambda size: (cost(size), -size))


def with_blanks(size: int, most: int, row_bytes: int) -> int:
    """Repeats in a chunk that may have blank ones at its end, which only other readers decode.

    At the size of NAT4 a mean over repeats by `xr.open_zarr` takes 3.3 to 3.5 times less processor time with chunks of
    7 repeats instead of 1, 3.6 to 4.0 with 10, and 3.2 to 3.8 with 20, whose floats take fresh memory each time.

    Parameters
    ----------
    size : int
        Repeats that would be in a chunk otherwise.
    most : int
        Repeats of the array.
    row_bytes : int
        Bytes of one repeat of one chunk.
    """
    fitting = max(size, min(most, BLANK_BYTES // max(1, row_bytes)))
    return -(-most // -(-most // fitting))


def shuffled(neurons: int, row_bytes: int, itemsize: int) -> int:
    """Neurons in a chunk, rounded up so that blosc can shuffle its bits.

    It does so with whole groups of eight values, of which bytes are taken two by two. At the size of AA4 that is 32.6
    instead of 44.3 MB of responses, of NAT4 8.3 instead of 12.0 MB, for few rows that hold nothing, and decoding takes
    as long as that of bits that are not shuffled. A chunk that would grow by more than an eighth stays as it is.

    Parameters
    ----------
    neurons : int
        Wanted.
    row_bytes : int
        Of each.
    itemsize : int
        Bytes of a value.
    """
    group = 8 * max(2, itemsize)
    step = group // math.gcd(group, row_bytes)
    rounded = -(-neurons // step) * step
    return rounded if 8 * rounded <= 9 * neurons else neurons


def response_layout(
    repeats: Sequence[int] | NDArray[Any], n_neurons: int, n_time: int, dtype: str, attrs: dict[str, Any]
) -> Layout:
    """Chunks and shards of the response.

    Parameters
    ----------
    repeats : sequence of int [shape=(stim,)]
        Most repeats that any neuron has of each stimulus.
    n_neurons, n_time : int
        Sizes.
    dtype : {"u1", "u2", "f4"}
        Counts, with the top value as missing, or traces.
    """
    n = np.maximum(np.asarray(repeats, np.int64), 1)
    most = int(n.max(initial=1))
    bin_bytes = np.dtype(dtype).itemsize * n_time
    # A chunk's repeats are a fraction of `most`; what a stimulus typically has decides how many neurons fit.
    per_repeat = min(n_neurons, max(1, CHUNK_BYTES // bin_bytes))
    size = repeat_chunk(n, per_repeat * bin_bytes)
    blocks = max(-(-n_neurons * size * bin_bytes // CHUNK_BYTES), 2 if n_neurons > BLOCK_NEURONS else 1)
    neurons = -(-n_neurons // blocks)
    more = with_blanks(size, most, neurons * bin_bytes)
    recorded = n if more > size else -(-n // size) * size
    neurons = shuffled(neurons, bin_bytes if more > size else size * bin_bytes, np.dtype(dtype).itemsize)
    chunk = (1, neurons, max(more, size), n_time)
    stored = np.cumsum(recorded * neurons * bin_bytes)
    stims = max(1, int(np.searchsorted(stored, SHARD_BYTES, side="right")))
    shard = (min(stims, len(n)), neurons, -(-most // chunk[2]) * chunk[2], n_time)
    fill: int | float = math.nan if dtype == "f4" else int(np.iinfo(dtype).max)
    if dtype != "f4":
        attrs = attrs | {"_FillValue": fill}
    dims = ("stim", "neuron", "repeat", "time")
    shape = (len(n), n_neurons, most, n_time)
    return Layout("response", dims, shape, chunk, shard, dtype, fill, "bitshuffle", attrs, more > size)


def stimulus_layout(n_stims: int, n_frequencies: int, n_time: int, attrs: dict[str, Any]) -> Layout:
    """Chunks of one stimulus; a few shards, so that workers share them."""
    per_shard = max(min(10, n_stims), -(-n_stims // STIM_SHARDS))
    shape = (n_stims, n_frequencies, n_time)
    chunk, shard = (1, *shape[1:]), (per_shard, *shape[1:])
    return Layout("stimulus", ("stim", "frequency", "time"), shape, chunk, shard, "f4", math.nan, "bitshuffle", attrs)


def trial_layouts(rows: int, spikes: int, tests: Sequence[str]) -> tuple[dict[str, Layout], Layout]:
    """Columns of the trials group, and its spike times.

    Parameters
    ----------
    rows, spikes : int
        How many trials and spikes there are.
    tests : sequence of str
        Tests that rejected trials; the first is ``kept``.
    """
    flags = {"flag_values": list(range(len(tests))), "flag_meanings": " ".join(tests)}
    columns: dict[str, tuple[str, dict[str, Any]]] = {
        "stim_index": ("i4", {"long_name": "position along stim of the cube"}),
        "neuron_index": ("i4", {"long_name": "position along neuron of the cube"}),
        "repeat_index": ("i4", {"long_name": "position along repeat of the cube; -1: rejected"}),
        "trial_number": ("i4", {"long_name": "number of the trial in the raw files"}),
        "file_index": ("i4", {"long_name": "position along file of the raw file"}),
        "window_start": ("f8", {"long_name": "start of the recorded window, from stimulus onset", "units": "s"}),
        "window_stop": ("f8", {"long_name": "end of the recorded window, from stimulus onset", "units": "s"}),
        "kept": ("bool", {"long_name": "whether the trial is in the cube"}),
        "rejected_by": ("i1", {"long_name": "the test that rejected the trial", **flags}),
        "test_value": ("f8", {"long_name": "the value that the test refused"}),
        "exact": ("bool", {"long_name": "whether the spikes are exact; if not, the response's bins are all there is"}),
        "row_size": ("i4", {"long_name": "number of spikes of the trial", "sample_dimension": "spike"}),
    }
    layouts = {
        name: Layout(f"trials/{name}", ("trial",), *linear(rows, RAGGED_CHUNK, ROWS_PER_SHARD), dtype, 0, attrs=attrs)
        for name, (dtype, attrs) in columns.items()
    }
    return layouts, spikes_layout(spikes)


def spikes_layout(total: int) -> Layout:
    """Spike times of all trials, one after the other."""
    attrs = {"long_name": "spike times from stimulus onset, trial after trial", "units": "ns"}
    shape = linear(total, RAGGED_CHUNK, RAGGED_PER_SHARD)
    return Layout("trials/spike_time", ("spike",), *shape, "i8", 0, attrs=attrs)


def samples_layout(total: int, dtype: Any) -> Layout:
    """Waveforms of all stimuli, one after the other."""
    attrs = {"long_name": "waveforms, stimulus after stimulus"}
    shape = linear(total, SAMPLES_CHUNK, RAGGED_PER_SHARD)
    return Layout("audio/samples", ("sample",), *shape, np.dtype(dtype).str[1:], 0, "shuffle", attrs)


def make_plan(
    summaries: Sequence[Summary], spools: Sequence[str], survey_bins: NDArray[np.int64], n_survey_neurons: int
) -> tuple[Plan, list[int], list[int]]:
    """Put what the spools hold in the survey's order, and choose dtype, chunks and shards.

    Parameters
    ----------
    summaries, spools : sequence
        One a source.
    survey_bins : ndarray of int64 [shape=(stim,)]
        Bins of each surveyed stimulus; 0 where its length is unknown.
    n_survey_neurons : int
        Number of surveyed neurons.

    Returns
    -------
    Plan
    unheard, unplayed : list of int
        Survey indices of the stimuli and the neurons that no trial names, and that the cube leaves out.
    """
    # In alphabetical order, so that a cube does not depend on how its trials are split into sources.
    files = sorted({f for s in summaries for f in s.files})
    tests = ["kept", *sorted({t for s in summaries for t in s.tests})]
    if len(tests) > limits.TESTS:
        raise StrfcubeError(f"the pipeline rejects trials by {len(tests) - 1} tests, {limits.TESTS - 1} are the most")
    file_at, test_at = ({name: i for i, name in enumerate(names)} for names in (files, tests))
    reach = np.zeros(len(survey_bins), np.int64)
    stim_at, neuron_at = np.full(len(survey_bins), -1), np.full(n_survey_neurons, -1)
    for s in summaries:
        np.maximum.at(reach, s.pairs[:, 1], s.reach)
        heard = s.pairs[:, 2:].any(1)
        stim_at[s.pairs[heard, 1]] = neuron_at[s.pairs[heard, 0]] = 0
    stims, neurons = np.flatnonzero(stim_at == 0), np.flatnonzero(neuron_at == 0)
    stim_at[stims], neuron_at[neurons] = np.arange(len(stims)), np.arange(len(neurons))
    # The only arrays of all pairs that there could be
    n_repeats, n_rejected = (np.zeros((len(stims), len(neurons)), np.uint16) for _ in range(2))
    where = NeuronRows(np.zeros(len(neurons), np.int32), *(np.zeros((len(neurons), 2), np.int64) for _ in range(3)))
    for number, s in enumerate(summaries):
        pairs = s.pairs[s.pairs[:, 2:].any(1)]
        at = stim_at[pairs[:, 1]], neuron_at[pairs[:, 0]]
        n_repeats[at], n_rejected[at] = pairs[:, 2], pairs[:, 3]
        ends = np.cumsum(s.neurons[:, 1:], axis=0)
        mine = neuron_at[s.neurons[:, 0]]
        where.spool[mine] = number
        for column, ranges in enumerate((where.rows, where.spikes, where.values)):
            ranges[mine] = np.stack([ends[:, column] - s.neurons[:, 1 + column], ends[:, column]], 1)
    n_bins = np.where(survey_bins > 0, survey_bins, np.maximum(reach, 1))[stims]
    most = max((s.max_count for s in summaries), default=0)
    counts = all(not s.traces or s.whole for s in summaries) and most < np.iinfo("u2").max
    dtype = ("u1" if most < 255 else "u2") if counts else "f4"
    response = response_layout(n_repeats.max(1, initial=0), len(neurons), int(n_bins.max(initial=1)), dtype, {})
    plan = Plan(
        stims, neurons, n_bins, n_repeats, n_rejected, where, tuple(spools),
        tuple(tuple(file_at[f] for f in s.files) for s in summaries), tuple(files),
        tuple((0, *(test_at[t] for t in s.tests)) for s in summaries),
        tuple(tests), response,
    )  # fmt: skip
    unheard = np.setdiff1d(np.arange(len(survey_bins)), stims).tolist()
    unplayed = np.setdiff1d(np.arange(n_survey_neurons), neurons).tolist()
    return plan, unheard, unplayed
