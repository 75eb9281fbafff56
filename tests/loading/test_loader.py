"""The loader of plain arrays: order, epochs, buffers, resuming."""

import numpy as np
import pytest
from stores import make_store

import strfcube
from strfcube import UsageError
from strfcube.loading import CubeView

ARRAYS = ("stims", "responses", "valid_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=11, neuron=9, repeat=4, bins=40, seed=2, stim_shard=3)


@pytest.fixture
def view(made):
    return CubeView(made[1])


def names(batches):
    return [[m["stim"] for m in batch["stim_meta"]] for batch in batches]


def flat(batches):
    return [name for batch in batches for name in batch]


def same(a, b):
    for key in ARRAYS:
        np.testing.assert_array_equal(a[key], b[key])
    assert a["stim_meta"] == b["stim_meta"]
    assert a["neuron"].tolist() == b["neuron"].tolist()


def test_batches_are_plain_arrays_in_order(view):
    loader = view.loader(4)
    assert len(loader) == 3
    for batch, items in zip(loader, (range(4), range(4, 8), range(8, 11)), strict=True):
        assert {type(batch[key]) for key in ARRAYS} == {np.ndarray}
        same(batch, view.batch(items))
    assert len(list(view.loader(4, drop_last=True))) == len(view.loader(4, drop_last=True)) == 2


def test_a_shuffled_epoch_is_a_permutation_and_epochs_differ(view):
    loader, again = view.loader(4, shuffle=True, seed=3), view.loader(4, shuffle=True, seed=3)
    first, second = names(loader), names(loader)
    assert sorted(flat(first)) == sorted(flat(second)) == [m["stim"] for m in view.stim_meta]
    assert first != second
    assert [names(again), names(again)] == [first, second]
    again.epoch = 0
    assert names(again) == first


def test_the_seed_comes_from_numpy_unless_given(view):
    orders = []
    for _ in range(2):
        np.random.seed(5)
        orders.append(names(view.loader(4, shuffle=True)))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_list_of_batches_equals_batches_read_one_by_one(view, prefetch):
    loader = view.loader(3, shuffle=True, seed=1, prefetch=prefetch)
    kept = list(loader)
    loader.epoch = 0
    for batch, alone in zip(kept, loader, strict=True):
        same(batch, alone)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": "block"}, {"group_by_repeats": True}, {}])
def test_resumes_where_it_was(view, options, prefetch):
    def fresh(seed):
        return view.loader(2, seed=seed, prefetch=prefetch, **options)

    whole = fresh(9)
    wanted = names(whole) + names(whole)
    loader, got = fresh(9), []
    for batch in loader:
        got += names([batch])
        state = loader.state_dict()
        if len(got) == 4:
            break
    other = fresh(1)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert got + names(other) + names(other) == wanted


def test_a_lazy_cube_is_read_the_same(made, view):
    ds = strfcube.open(made[1])
    lazy = CubeView(ds.assign(response=ds["response"] * 1))
    for a, b in zip(lazy.loader(3), view.loader(3), strict=True):
        same(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "one"}, "seed='one'"),
        ({"sampler": iter([1])}, "with a length"),
        ({"shuffle": "blocks"}, "shuffle='blocks'"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"sampler": [1], "shuffle": True}, "leave shuffle away"),
    ],
)
def test_options_are_checked(view, options, message):
    with pytest.raises(UsageError, match=message):
        view.loader(**options)
