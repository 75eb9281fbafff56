"""The chunk plan, as the pure function that it is."""

import dataclasses
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strfcube
from strfcube.builder.plan import make_plan, repeat_chunk, response_layout, shuffled, stimulus_layout, trial_layouts
from strfcube.builder.spool import Summary

SIZES = {  # most repeats of each stimulus, neurons, bins
    "ns1": ([20] * 20, 119, 1000),
    "aa2": ([15] * 117, 494, 510),
    "aa4": ([10] * 170, 1401, 600),
    "nat4": ([1] * 575 + [20] * 18, 1247, 150),
}


def files(layout):
    return math.prod(layout.grid)


def decoded(layout, repeats, stims=slice(None)):
    """Bytes decoded to read all repeats of some stimuli, for all neurons."""
    n = np.asarray(repeats)[stims]
    if layout.repeats_first:  # blank repeats are not decoded
        return int(n.sum()) * layout.grid[1] * layout.chunk[1] * layout.chunk[3] * np.dtype(layout.dtype).itemsize
    chunks = -(-n // layout.chunk[2]) * -(-layout.shape[1] // layout.chunk[1])
    return int(chunks.sum()) * math.prod(layout.chunk) * np.dtype(layout.dtype).itemsize


@pytest.mark.parametrize("name", SIZES)
def test_rules_at_full_size(name):
    repeats, neurons, time = SIZES[name]
    layout = response_layout(repeats, neurons, time, "u1", {})
    stim, per_chunk, _, bins = layout.chunk
    assert (stim, bins) == (1, time)  # one stimulus, time not split
    assert per_chunk >= min(neurons, 40)  # never one chunk a pair
    assert math.prod(layout.chunk) <= 1.5e6
    assert files(layout) <= 60
    assert layout.shard[1] == per_chunk  # the writer of a block needs no other block's source


def test_most_stimuli_heard_once():
    """18 stimuli with 20 repeats do not make 575 with one cost twenty times as much to read."""
    repeats, neurons, time = SIZES["nat4"]
    layout = response_layout(repeats, neurons, time, "u1", {})
    assert decoded(layout, repeats, slice(0, 575)) <= 1.3 * 575 * neurons * time
    assert decoded(layout, repeats) <= 2 * sum(repeats) * neurons * time


@pytest.mark.parametrize(
    ("neurons", "row_bytes", "itemsize", "rounded"),
    [(849, 150, 1, 856), (201, 4500, 1, 204), (398, 150, 1, 400), (40, 7, 1, 40), (3, 333, 1, 3), (15, 1, 1, 16),
     (1, 16, 1, 1), (849, 300, 2, 852), (201, 18_000, 4, 202), (15, 4, 4, 16)],
)  # fmt: skip
def test_chunks_are_whole_groups_of_eight_values(neurons, row_bytes, itemsize, rounded):
    assert shuffled(neurons, row_bytes, itemsize) == rounded
    assert rounded * row_bytes % (8 * max(2, itemsize)) == 0 or rounded == neurons


def test_a_small_set_is_one_block():
    layout = response_layout([10] * 30, 100, 500, "u1", {})
    assert layout.chunk == (1, 100, 10, 500)
    assert files(layout) == 1


def test_many_neurons_are_at_least_two_blocks():
    assert response_layout([1], 1025, 10, "u1", {}).grid[1] == 2
    assert response_layout([1], 1024, 10, "u1", {}).grid[1] == 1


@given(
    repeats=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    neurons=st.integers(1, 2000),
    time=st.integers(1, 20_000),
    dtype=st.sampled_from(["u1", "u2", "f4"]),
)
def test_every_layout_holds_the_array(repeats, neurons, time, dtype):
    layout = response_layout(repeats, neurons, time, dtype, {"units": "count"})
    assert layout.shape == (len(repeats), neurons, max(1, *repeats), time)
    assert all(1 <= c <= max(n, 1) for c, n in zip(layout.chunk, layout.shape, strict=True) if n != neurons)
    assert 1 <= layout.chunk[1] <= 9 * neurons / 8  # a row more, where that lets blosc shuffle the bits
    assert all(s % c == 0 for s, c in zip(layout.shard, layout.chunk, strict=True))
    assert all(g * s >= n for g, s, n in zip(layout.grid, layout.shard, layout.shape, strict=True))
    assert layout.grid[2:] == (1, 1)
    assert layout.chunk[0] == 1
    assert layout.chunk[3] == time
    if dtype == "f4":
        assert math.isnan(layout.fill)
        assert "_FillValue" not in layout.attrs
    else:
        assert layout.fill == layout.attrs["_FillValue"] == np.iinfo(dtype).max
    assert layout.attrs["units"] == "count"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 10**7))
def test_repeat_chunk_is_one_of_the_repeats_there_are(repeats, row_bytes):
    size = repeat_chunk(repeats, row_bytes)
    assert 1 <= size <= max(repeats)
    if len(set(repeats)) == 1 and row_bytes < 1000:
        assert size == repeats[0]


@given(st.integers(1, 5000), st.integers(1, 100), st.integers(1, 5000))
def test_spectrograms_are_a_few_shards(stims, frequencies, time):
    layout = stimulus_layout(stims, frequencies, time, {})
    assert layout.chunk == (1, frequencies, time)
    assert files(layout) <= 11
    assert layout.grid[0] * layout.shard[0] >= stims


# --- from summaries --------------------------------------------------------------------------------------------------


def summary(pairs, *, spikes=10, max_count=1, files=("f",), tests=(), traces=False, whole=True, reach=None):
    """A spool of `pairs` [(neuron, stim, kept, rejected), ...]."""
    pairs = np.array(pairs, np.int64).reshape(-1, 4)
    neurons = [
        (n, int(pairs[pairs[:, 0] == n, 2:].sum()), spikes * int((pairs[:, 0] == n).sum()), 0)
        for n in dict.fromkeys(pairs[:, 0].tolist())
    ]
    reach = np.full(len(pairs), 7) if reach is None else np.array(reach)
    return Summary(pairs, pairs, reach, files, tests, max_count, traces, whole, ()) if not len(pairs) else Summary(
        np.array(neurons, np.int64), pairs, reach, files, tests, max_count, traces, whole, ()
    )  # fmt: skip


def plan_of(*summaries, bins=(10, 20, 30), neurons=4):
    return make_plan(summaries, [f"s{i}" for i in range(len(summaries))], np.array(bins), neurons)


def test_the_survey_sets_the_order():
    plan, unheard, unplayed = plan_of(summary([(3, 0, 2, 0)]), summary([(0, 2, 1, 1), (0, 0, 4, 0)]))
    assert plan.stims.tolist() == [0, 2]
    assert plan.neurons.tolist() == [0, 3]
    assert (unheard, unplayed) == ([1], [1, 2])
    assert plan.n_repeats.tolist() == [[4, 2], [1, 0]]
    assert plan.n_rejected.tolist() == [[0, 0], [1, 0]]
    assert plan.n_bins.tolist() == [10, 30]
    assert plan.where.spool.tolist() == [1, 0]
    assert plan.row_start.tolist() == [0, 6, 8]
    assert plan.spike_start.tolist() == [0, 20, 30]
    assert plan.response.shape == (2, 2, 4, 30)


@pytest.mark.parametrize(("most", "dtype"), [(0, "u1"), (254, "u1"), (255, "u2"), (60_000, "u2")])
def test_dtype_follows_the_fullest_bin(most, dtype):
    plan, _, _ = plan_of(summary([(0, 0, 1, 0)], max_count=most), summary([(1, 0, 1, 0)]))
    assert plan.response.dtype == dtype
    assert plan.response.fill == np.iinfo(dtype).max


@pytest.mark.parametrize(("whole", "dtype"), [(True, "u1"), (False, "f4")])
def test_traces_of_whole_numbers_are_counts(whole, dtype):
    plan, _, _ = plan_of(summary([(0, 0, 1, 0)]), summary([(1, 0, 1, 0)], traces=True, whole=whole))
    assert plan.response.dtype == dtype


def test_an_unknown_length_covers_the_last_spike():
    plan, _, _ = plan_of(summary([(0, 0, 1, 0), (0, 1, 1, 0)], reach=[7, 7]), summary([(1, 1, 1, 0)], reach=[12]),
                         bins=(10, 0, 0))  # fmt: skip
    assert plan.n_bins.tolist() == [10, 12]


def test_tests_and_files_of_all_spools():
    plan, _, _ = plan_of(
        summary([(0, 0, 1, 1)], files=("b", "a"), tests=("snr",)),
        summary([(1, 0, 1, 1)], files=("c", "a"), tests=("drift", "snr")),
    )
    assert plan.files == ("a", "b", "c")
    assert plan.file_codes == ((1, 0), (2, 0))
    assert plan.tests == ("kept", "drift", "snr")
    assert plan.test_codes == ((0, 2), (0, 1, 2))
    layouts, times = trial_layouts(int(plan.row_start[-1]), int(plan.spike_start[-1]), plan.tests)
    assert layouts["rejected_by"].attrs["flag_meanings"].split() == list(plan.tests)
    assert layouts["kept"].shape == (4,)
    assert times.shape == (20,)


def test_nothing_was_read():
    plan, unheard, unplayed = plan_of(summary([]))
    assert not len(plan.stims)
    assert (unheard, unplayed) == ([0, 1, 2], [0, 1, 2, 3])


def test_all_trials_rejected():
    plan, _, _ = plan_of(summary([(0, 0, 0, 3)]))
    assert plan.response.shape == (1, 1, 1, 10)
    assert plan.n_repeats.tolist() == [[0]]


def test_memory_grows_with_the_pairs_and_two_counts_of_each_place():
    """Nothing of the size stimuli x neurons is made but what the format holds: n_repeats and n_rejected."""
    stims, neurons, heard = 400, 5000, 5
    rng = np.random.default_rng(0)
    summaries = []
    for first in range(0, neurons, 50):
        heard_by = {n: sorted(rng.choice(stims, heard, replace=False)) for n in range(first, first + 50)}
        summaries.append(summary([(n, s, 1, 0) for n, several in heard_by.items() for s in several]))
    summaries = [dataclasses.replace(s, pairs=s.pairs.astype(np.int32)) for s in summaries]
    tracemalloc.start()
    plan, _, _ = plan_of(*summaries, bins=[10] * stims, neurons=neurons)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.n_repeats.shape == (stims, neurons)
    places, pairs = stims * neurons, neurons * heard
    assert most < 2 * 2 * places + 100 * pairs + 1_000_000
    for_workers = plan.without_coverage()
    assert len(pickle.dumps(for_workers)) < 100 * neurons + 20_000
    assert for_workers.response == plan.response


def test_a_pair_is_few_bytes_between_the_stages(tmp_path):
    """All sources' summaries are in the memory of one process."""
    from toy import FAST, random_toy

    from strfcube.builder import spool

    pipeline, _ = random_toy(tmp_path / "raw", n_stims=20, n_neurons=6)
    kept, found = spool.save, []

    def save(path, *args):
        kept(path, *args)
        found.append(spool.summary(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "save", save)
        strfcube.build(pipeline, out=tmp_path / "cube.zarr", **FAST)
    for one in found:
        held = sum(getattr(one, name).nbytes for name in ("pairs", "reach", "prints", "pair_files"))
        assert held == 32 * len(one.pairs) > 0
