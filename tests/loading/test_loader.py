"""The loader of plain arrays: order, epochs, buffers, resuming."""

import numpy as np
import pytest
from cubes import make_cube
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


class Counting:
    """A sampler with epochs, as torch's DistributedSampler is one."""

    def __init__(self, size):
        self.size, self.epoch = size, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(np.random.default_rng(self.epoch).permutation(self.size).tolist())


class Restless(Counting):
    """A sampler that never gives an order again."""

    epoch = property(lambda self: 0, lambda self, epoch: None)

    def __iter__(self):
        self.turn = getattr(self, "turn", 0) + 1
        return iter(np.random.default_rng(100 + self.turn).permutation(self.size).tolist())


def test_the_epoch_of_a_sampler_is_its_owners(view):
    orders = [[f"stim{i:03d}" for i in np.random.default_rng(e).permutation(11)] for e in range(4)]
    sampler = Counting(11)
    loader = view.loader(4, sampler=sampler)
    assert [flat(names(loader)) for _ in range(2)] == orders[:2]  # it goes on of itself
    for epoch in (3, 3, 0):  # and where its owner says
        sampler.set_epoch(epoch)
        assert flat(names(loader)) == orders[epoch]
    for epoch in range(3):  # a loader made anew for each epoch
        sampler.set_epoch(epoch)
        assert flat(names(view.loader(4, sampler=sampler))) == orders[epoch]
    loader.epoch = 2
    assert flat(names(loader)) == orders[2]


def test_the_length_is_that_of_what_comes(view):
    for sampler in ([4, 2, 0], [0] * 9, Counting(11), range(5)):
        for drop in (False, True):
            for grouped in (False, True):
                loader = view.loader(2, sampler=sampler, drop_last=drop, group_by_repeats=grouped)
                for _ in range(3):
                    assert len(loader) == len(list(loader))


def test_samplers_of_something_else_are_told_in_one_line(view):
    for sampler, message in (([[0, 1], [2]], r"gives \[0, 1\]"), ([0.5], "gives 0.5"), (["stim000"], "'stim000'")):
        with pytest.raises(UsageError, match=message):
            list(view.loader(2, sampler=sampler))
    with pytest.raises(IndexError, match="index 11 past the end"):
        list(view.loader(2, sampler=[0, 11]))
    assert names(view.loader(2, sampler=[-1, 0])) == [["stim010", "stim000"]]


def interrupted(loader, batches=2):
    for count, _ in enumerate(loader, 1):
        if count == batches:
            return loader.state_dict()
    raise AssertionError


def test_what_cannot_be_resumed_is_refused(view):
    state = interrupted(view.loader(2, shuffle=True, seed=0))
    for options, message in (
        ({"batch_size": 4, "shuffle": True}, "taken with batch_size=2, not 4"),
        ({"batch_size": 2}, "taken with shuffle=True, not False"),
        ({"batch_size": 2, "shuffle": True, "group_by_repeats": True}, "group_by_repeats=False, not True"),
        ({"batch_size": 2, "shuffle": True, "drop_last": True}, "drop_last=False, not True"),
        ({"batch_size": 2, "sampler": list(range(11))}, "with shuffle=True, not False"),
    ):
        with pytest.raises(UsageError, match=message):
            view.loader(**options).load_state_dict(state)
    for other in (view[:10], view[::-1]):
        with pytest.raises(UsageError, match="of other stimuli"):
            other.loader(2, shuffle=True).load_state_dict(state)
    for wrong, message in (
        ({"epoch": 1}, r"expected what state_dict\(\) gave.*got \['epoch'\].*use set_epoch"),
        ([1], "got list"),
        (None, "got NoneType"),
        (state | {"epoch": -1}, "epoch=-1"),
        (state | {"batch": "2"}, "batch='2'"),
        (state | {"seed": None}, "seed=None"),
    ):
        with pytest.raises(UsageError, match=message) as told:
            view.loader(2, shuffle=True).load_state_dict(wrong)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("grouped", [False, True])
def test_samplers_resume_if_they_give_an_order_again(view, grouped):
    def fresh(sampler):
        return view.loader(2, sampler=sampler, group_by_repeats=grouped)

    for sampler in (Counting(11), [5, 4, 3, 2, 1, 0]):
        whole = fresh(sampler)
        whole.epoch = 1
        wanted = names(whole) + names(whole)
        loader = fresh(sampler)
        loader.epoch = 1
        state = interrupted(loader)
        again = fresh(Counting(11) if isinstance(sampler, Counting) else sampler)
        again.load_state_dict(state)
        assert names(again) + names(again) == wanted[2:]
    again = fresh([0, 1, 2, 3, 4, 5])
    again.load_state_dict(state)
    with pytest.raises(UsageError, match="another order than the one that the state was taken in"):
        list(again)
    state = interrupted(fresh(Restless(11)))
    again = fresh(Restless(11))
    again.order.sampler.turn = 5
    again.load_state_dict(state)
    with pytest.raises(UsageError, match="another order"):
        list(again)
    again.epoch = 0  # from its beginning it can be read, whatever the order
    assert len(list(again)) == len(again)


@pytest.mark.parametrize("sampler", [[True, False, True, True], np.array([True, True]), [1.0], ["0"], [[0, 1]]])
def test_a_sampler_gives_positions_and_no_mask(sampler):
    loader = CubeView(make_cube()).loader(sampler=sampler)
    with pytest.raises(UsageError, match=r"sampler: it gives .*, expected positions"):
        list(loader)
