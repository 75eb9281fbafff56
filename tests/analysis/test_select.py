"""The selection algebra: its laws, and what its errors say."""

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, strings
from hypothesis import given, settings
from hypothesis import strategies as st

import strfcube
from strfcube import SelectionError, UsageError
from strfcube.analysis.select import as_slice, positions, published
from strfcube.cube.normalise import loaded

AREAS = ["MLd", "OV", "L2a"]
KEYS = {
    "area": st.lists(st.sampled_from(AREAS), min_size=1, unique=True),
    "animal": st.sampled_from(["gg", "bb"]),
    "depth": st.tuples(st.integers(0, 400), st.integers(400, 900)).map(lambda x: slice(*x)),
    "stim_type": st.sampled_from(["conspecific", "flatrip"]),
    "split": st.sampled_from(["train", "test"]),
    "duration_of": st.integers(1, 6).map(lambda n: lambda values: values < n),
}


def cube(seed=0, **sizes):
    made = make_cube(**({"stim": 7, "neuron": 9, "repeat": 3, "bins": 30} | sizes), seed=seed)
    rng = np.random.default_rng(seed)
    n, s = made.sizes["neuron"], made.sizes["stim"]
    split = strings(["train", "val", ""][i] for i in rng.integers(0, 3, s * n)).reshape(s, n)
    return made.assign_coords(
        depth=("neuron", np.linspace(0, 900, n).round()),
        electrode=("neuron", np.arange(n) % 4),
        valid_unit=("neuron", np.arange(n) % 3 > 0),
        duration_of=("stim", np.arange(s)),
        pair_split=(("stim", "neuron"), split),
    )


@st.composite
def choices(draw):
    names = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True))
    return {name: draw(KEYS[name]) for name in names}


def by_xarray(ds, keys):
    """The same selection, written with xarray alone."""
    stim, neuron = np.ones(ds.sizes["stim"], bool), np.ones(ds.sizes["neuron"], bool)
    for key, wanted in keys.items():
        coord = ds[key]
        if callable(wanted):
            mask = wanted(coord.values)
        elif isinstance(wanted, slice):
            mask = (coord >= wanted.start) & (coord <= wanted.stop)
        else:
            mask = coord.isin(wanted if isinstance(wanted, list) else [wanted])
        (stim if coord.dims == ("stim",) else neuron).__iand__(np.asarray(mask))
    heard = (ds["n_repeats"].values > 0) & stim[:, None] & neuron
    return ds.isel(stim=heard.any(1), neuron=heard.any(0))


def attempt(ds, *several):
    try:
        for keys in several:
            ds = strfcube.select(ds, **keys)
    except SelectionError:
        return None
    return ds


@settings(max_examples=60)
@given(keys=choices(), seed=st.integers(0, 5))
def test_equals_the_xarray_expression(keys, seed):
    ds = cube(seed)
    wanted = by_xarray(ds, keys)
    chosen = attempt(ds, keys)
    if chosen is None:
        assert not wanted.sizes["stim"] or not wanted.sizes["neuron"]
    else:
        xr.testing.assert_identical(chosen, wanted)


@settings(max_examples=40)
@given(keys=choices(), seed=st.integers(0, 5))
def test_is_idempotent(keys, seed):
    once = attempt(cube(seed), keys)
    if once is not None:
        # What a list names besides is hidden by now; what is left is still all of it.
        again = strfcube.select(once, stim=once["stim"].values, neuron=once["neuron"].values)
        xr.testing.assert_identical(once, again)


@settings(max_examples=40)
@given(keys=choices(), seed=st.integers(0, 5))
def test_hides_both_ways(keys, seed):
    chosen = attempt(cube(seed), keys)
    if chosen is not None:
        heard = chosen["n_repeats"].values > 0
        assert heard.any(0).all()
        assert heard.any(1).all()


def test_the_cube_stays_as_it_was():
    ds = cube()
    before = ds.copy(deep=True)
    strfcube.select(ds, area="MLd", stim_type="flatrip")
    xr.testing.assert_identical(ds, before)


def test_reads_no_response():
    import dask.array as da

    def fail(block):
        raise AssertionError("a response was read")

    ds = cube()
    lazy = da.ones(ds["response"].shape, chunks=(1, -1, -1, -1)).map_blocks(fail, dtype="f4", meta=np.empty(0, "f4"))
    ds = ds.assign(response=(ds["response"].dims, lazy))
    assert strfcube.select(ds, area="MLd", pair_split="val", heard={"stim_type": "flatrip"}).sizes["neuron"] > 0


def test_a_scalar_keeps_the_dimension():
    assert strfcube.select(cube(), neuron="cell003").sizes["neuron"] == 1


def test_slices_hold_both_ends_and_open_ones():
    ds = cube(holes=False)
    depth = ds["depth"].values
    assert strfcube.select(ds, depth=slice(depth[2], depth[4])).sizes["neuron"] == 3
    assert strfcube.select(ds, depth=slice(None, depth[1])).sizes["neuron"] == 2
    with pytest.raises(SelectionError, match="a slice without a step chooses numbers"):
        strfcube.select(ds, area=slice("A", "M"))


def test_bools_and_numbers_are_not_taken_for_one_another():
    ds = cube(holes=False)
    assert strfcube.select(ds, valid_unit=True).sizes["neuron"] == 6
    assert strfcube.select(ds, valid_unit=False).sizes["neuron"] == 3
    with pytest.raises(SelectionError, match="electrode=True"):
        strfcube.select(ds, electrode=True)
    with pytest.raises(SelectionError, match="electrode='1'"):
        strfcube.select(ds, electrode="1")


def test_nan_chooses_what_is_unknown():
    ds = cube(holes=False)
    depth = ds["depth"].values.copy()
    depth[[1, 5]] = np.nan
    ds = ds.assign_coords(depth=("neuron", depth))
    assert strfcube.select(ds, depth=np.nan)["neuron"].values.tolist() == ["cell001", "cell005"]
    assert strfcube.select(ds, depth=slice(0, 1000)).sizes["neuron"] == 7


def test_heard_leaves_the_stimuli_alone():
    ds = cube(3)
    heard = (ds["n_repeats"].values[(ds["stim_type"] == "flatrip").values] > 0).any(0)
    chosen = strfcube.select(ds, heard={"stim_type": "flatrip"})
    assert chosen["neuron"].values.tolist() == ds["neuron"].values[heard].tolist()
    assert "conspecific" in chosen["stim_type"].values
    with pytest.raises(SelectionError, match="on stim only"):
        strfcube.select(ds, heard={"area": "MLd"})


def test_a_split_of_pairs_hides_every_value_outside_it():
    ds = cube(1)
    chosen = strfcube.select(ds, pair_split="val")
    member = (chosen["pair_split"] == "val").values
    assert not member.all()
    assert (chosen["n_repeats"].values[~member] == 0).all()
    assert np.isnan(chosen["response"].values[~member]).all()
    heard = member & (ds["n_repeats"].sel(stim=chosen["stim"], neuron=chosen["neuron"]).values > 0)
    np.testing.assert_array_equal(chosen["n_repeats"].values > 0, heard)


def test_where_takes_predicates_on_either_or_both():
    ds = cube(holes=False)
    deep = strfcube.select(ds, where=lambda d: d.depth > 400)
    xr.testing.assert_identical(deep, ds.isel(neuron=(ds["depth"] > 400).values))
    xr.testing.assert_identical(strfcube.select(ds, where=ds["depth"] > 400), deep)
    both = strfcube.select(ds, where=lambda d: (d.depth > 400) | (d.stim_type == "flatrip"))
    assert (both["n_repeats"] == 0).any()
    few = strfcube.select(cube(2), where=lambda d: d.n_repeats >= 2)
    assert (few["n_repeats"].values != 1).all()


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (lambda ds: ds.depth, "expected a DataArray of bool"),
        (lambda ds: True, "expected a DataArray of bool"),
        (lambda ds: ds.depth > 1e6, "holds for nothing"),
        (lambda ds: ds.time > 0, "on stim, neuron or both"),
        (lambda ds: (ds.depth > 0)[:3], "expected shape"),
    ],
)
def test_a_bad_predicate_says_so(predicate, message):
    with pytest.raises(SelectionError, match=message):
        strfcube.select(cube(), where=predicate)


def test_a_predicate_that_fails_is_not_swallowed():
    with pytest.raises(AttributeError, match="dephth"):
        strfcube.select(cube(), where=lambda ds: ds.dephth > 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"aera": "MLd"}, r"'aera' is no coordinate.*did you mean.*area.*on stim: .*stim_type.*on neuron: .*animal"),
        ({"area": "Mld"}, r"no neuron has area='Mld'; there is 'MLd' \(3\).*Did you mean 'MLd'"),
        ({"area": ["MLd", "L7"]}, r"area='L7'"),
        ({"stim_type": "song"}, r"no stim has stim_type='song'.*'conspecific'"),
        ({"depth": slice(2000, 3000)}, r"nothing has depth"),
        ({"depth": 7.5}, r"depth=7.5; there is 0.0"),
        ({"depth": lambda v: v > 5000}, r"nothing has depth"),
        ({"depth": lambda v: v}, r"expected a callable from the values to bools"),
        ({"time": 0.1}, r"ds.isel\(time=...\)"),
        ({"area": None}, r"area=None"),
        ({"area": {"x": 1}}, r"area="),
        ({"area": [], "stim": "stim000"}, r"leaves no stimulus"),
    ],
)
def test_errors_list_what_there_is(keys, message):
    with pytest.raises(SelectionError, match=message):
        strfcube.select(cube(), **keys)


def test_an_empty_combination_is_an_error_and_not_everything():
    ds = cube(holes=False)
    counts = ds["n_repeats"].values.copy()
    counts[1, 2] = 0
    ds = ds.assign(n_repeats=ds["n_repeats"].copy(data=counts))
    with pytest.raises(SelectionError, match=r"stim='stim001', neuron='cell002'.*leaves no stimulus.*coverage"):
        strfcube.select(ds, stim="stim001", neuron="cell002")


def test_published_choices():
    ds = cube()
    assert published(ds, "train") == {"split": "train"}
    assert published(ds, "valid_unit") == {"valid_unit": True}
    with pytest.raises(SelectionError, match=r"'vla'; there is test, train, valid_unit"):
        published(ds, "vla")


def test_positions_are_those_of_xarray():
    assert positions(-1, 5, "stim").tolist() == [4]
    assert positions(slice(None, None, -2), 5, "stim").tolist() == [4, 2, 0]
    assert positions([True, False, True], 3, "stim").tolist() == [0, 2]
    assert positions([], 3, "stim").tolist() == []
    for wrong, error in ((5, IndexError), ([0, -6], IndexError), ([1, 1], SelectionError), ("a", SelectionError)):
        with pytest.raises(error):
            positions(wrong, 5, "stim")
    assert as_slice(np.array([2, 3, 4])) == slice(2, 5)
    assert as_slice(np.array([2, 4])).tolist() == [2, 4]


def test_what_is_no_cube_is_refused():
    with pytest.raises(UsageError, match="no n_repeats"):
        loaded(cube().drop_vars("n_repeats"))
