"""The selection algebra: its laws, and what its errors say."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes import Label, make_cube, strings
from hypothesis import given, settings
from hypothesis import strategies as st

import strfcube
from strfcube import SelectionError, UsageError
from strfcube.analysis.matching import matches, told
from strfcube.analysis.select import as_slice, positions, published
from strfcube.cube.normalise import loaded
from strfcube.loading import CubeView

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


def test_kept_neurons_stay_without_data_and_kept_stimuli_too():
    for seed in range(4):
        ds = cube(seed)
        one = ds["stim"].values[-1]
        heard = (ds["n_repeats"].sel(stim=one) > 0).values
        assert not heard.all()
        assert strfcube.select(ds, stim=one).sizes["neuron"] == heard.sum()
        kept = strfcube.select(ds, stim=one, keep="neurons")
        xr.testing.assert_identical(kept, ds.sel(stim=[one]))
        heard = (ds["n_repeats"].sel(neuron="cell000") > 0).values
        assert strfcube.select(ds, neuron="cell000").sizes["stim"] == heard.sum()
        xr.testing.assert_identical(strfcube.select(ds, neuron="cell000", keep="stimuli"), ds.sel(neuron=["cell000"]))
    with pytest.raises(UsageError, match="keep='neuron', expected 'neurons', 'stimuli' or None"):
        strfcube.select(ds, stim=one, keep="neuron")
    silent = ds.assign(n_repeats=ds["n_repeats"].where(ds["stim"] != one, 0))
    with pytest.raises(SelectionError, match="leaves no stimulus"):
        strfcube.select(silent, stim=one, keep="neurons")


def test_positions_hide_nothing():
    ds = cube(1)
    assert (ds["n_repeats"].values[-1] == 0).any()
    last = ds.strf.isel(stim=-1)
    xr.testing.assert_identical(last, ds.isel(stim=[6]))
    xr.testing.assert_identical(ds.strf.isel(stim=slice(0, 3), neuron=[4, 0]), ds.isel(stim=slice(0, 3), neuron=[4, 0]))
    xr.testing.assert_identical(ds.strf.isel(stim=[True] + 6 * [False]), ds.isel(stim=[0]))
    with pytest.raises(IndexError, match="past the end, there are 7"):
        ds.strf.isel(stim=7)
    with pytest.raises(SelectionError, match="leaves no stimulus"):
        ds.strf.isel(neuron=[])


def test_one_vocabulary():
    ds = cube(1)
    xr.testing.assert_identical(ds.strf.sel(area="MLd"), strfcube.select(ds, area="MLd"))
    xr.testing.assert_identical(ds.strf.where(lambda d: d.depth > 300), strfcube.select(ds, where=ds["depth"] > 300))
    xr.testing.assert_identical(ds.strf.subset("test"), strfcube.select(ds, split="test"))
    xr.testing.assert_identical(
        ds.strf.subset("test", keep="neurons"), strfcube.select(ds, split="test", keep="neurons")
    )
    for old in ("select", "split"):
        assert not hasattr(ds.strf, old)


@pytest.mark.parametrize("seed", range(6))
def test_splits_share_the_neurons_that_have_data_in_one_of_them(seed):
    ds = cube(seed)
    ds = ds.assign(n_repeats=ds["n_repeats"].where((ds["neuron"] != "cell004") | (ds["stim"] == "stim001"), 0))
    ds = ds.assign(n_repeats=ds["n_repeats"].where(ds["neuron"] != "cell005", 0))
    train, test = ds.strf.splits("train", "test")
    assert train["neuron"].values.tolist() == test["neuron"].values.tolist()
    heard = (ds["n_repeats"].values > 0).any(0)
    assert train["neuron"].values.tolist() == ds["neuron"].values[heard].tolist()
    assert set(test["split"].values) == {"test"}
    only = ds.strf.splits("test")[0]
    assert "cell004" not in only["neuron"].values
    ds = ds.drop_vars("split").rename(pair_split="split")
    train, val = ds.strf.splits("train", "val")
    assert train["neuron"].values.tolist() == val["neuron"].values.tolist()
    assert int(train["n_repeats"].sum()) == int(ds["n_repeats"].where(ds["split"] == "train").sum())


def test_splits_refuse_what_are_no_parts():
    ds = cube()
    for names in ((), ("train", "train")):
        with pytest.raises(UsageError, match="expected different names of parts"):
            ds.strf.splits(*names)
    with pytest.raises(UsageError, match=r"'valid_unit' is a choice of neurons.*subset\('valid_unit'\)"):
        ds.strf.splits("train", "valid_unit")
    with pytest.raises(SelectionError, match="there is no subset 'vla'"):
        ds.strf.splits("train", "vla")


@settings(max_examples=40)
@given(
    several=st.lists(choices(), min_size=2, max_size=2),
    seed=st.integers(0, 3),
    keep=st.sampled_from(["neurons", "stimuli", None]),
)
def test_the_order_of_choices_does_not_matter(several, seed, keep):
    ds = cube(seed)
    several = [{**keys, "keep": keep} for keys in several]
    one, other = attempt(ds, *several), attempt(ds, *several[::-1])
    if one is not None and other is not None:
        xr.testing.assert_identical(one, other)


def test_units_follow_the_neurons():
    ds = cube(holes=False, trace=[1, 4])
    assert ds["response"].attrs["units"] == "mixed"
    spikes = {"signal_type": "spikes"}
    for part, units in (
        (ds.strf.sel(**spikes), "count"),
        (ds.strf.where(ds["signal_type"] == "membrane_potential"), "mV"),
        (ds.strf.isel(neuron=[1, 4]), "mV"),
        (ds.strf.isel(neuron=[0, 1]), "mixed"),
        (loaded(ds.isel(neuron=[0, 2])), "count"),
        (ds.strf.splits("train")[0], "mixed"),
    ):
        assert part["response"].attrs["units"] == units
    scaled = ds.assign(response=ds["response"].assign_attrs(units="1"))
    assert scaled.strf.sel(**spikes)["response"].attrs["units"] == "1"
    assert ds["response"].attrs["units"] == "mixed"
    pooled = strfcube.concat([ds.strf.sel(**spikes), make_cube(seed=9)], ["a", "b"], duplicates="keep")
    assert pooled["response"].attrs["units"] == "count"
    assert ds.isel(neuron=[0, 2]).strf.psth().attrs["units"] == "spikes/s"
    assert ds.isel(neuron=[1, 4]).strf.signal_power().attrs["units"] == "mV^2"


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
        (lambda ds: (ds.depth > 0)[:3], "says nothing of 6 of 9 labels of 'neuron', such as 'cell003'"),
        (lambda ds: (ds.depth > 0).drop_vars("neuron")[:3], "expected shape"),
        (lambda ds: ds.assign_coords(neuron=ds.neuron + "x").depth > 0, "says nothing of 9 of 9 labels"),
        (lambda ds: xr.concat([ds.depth > 0] * 2, "neuron"), "come twice in the mask, such as 'cell000'"),
    ],
)
def test_a_bad_predicate_says_so(predicate, message):
    with pytest.raises(SelectionError, match=message):
        strfcube.select(cube(), where=predicate)


@pytest.mark.parametrize("dim", ["stim", "neuron"])
def test_a_mask_goes_by_its_labels_in_any_order(dim):
    """An SNR that was sorted chooses the neurons that it is of, everywhere that takes a mask."""
    ds = cube(holes=False)
    labels = ds[dim].values
    wanted = labels[[1, 2, 4]]
    mask = xr.DataArray(np.isin(labels.astype(str), wanted.astype(str)), {dim: labels}, [dim])
    order = np.random.default_rng(0).permutation(len(labels))
    part = ds.isel({dim: [1, 2, 4]})
    view, whole = CubeView(ds), ds.isel({dim: np.arange(1, len(labels))})
    for one in (mask, mask[order], mask[::-1]):
        xr.testing.assert_identical(ds.strf.where(one), part)
        xr.testing.assert_identical(ds.strf.isel(**{dim: one}), part)
        xr.testing.assert_identical(ds.strf.isel(**{dim: one.to_series()}), part)
        for shown in (view.where(one), view.isel(**{dim: one})):
            assert shown.ds[dim].values.tolist() == wanted.tolist()
        # One of more than there is
        assert whole.strf.where(one)[dim].values.tolist() == wanted.tolist()
    reversed_view = view.isel(**{dim: slice(None, None, -1)})
    assert reversed_view.isel(**{dim: mask}).ds[dim].values.tolist() == wanted[::-1].tolist()
    if dim == "stim":
        assert view[mask[::-1]].ds["stim"].values.tolist() == wanted.tolist()
    pairs = (ds["n_repeats"] > 0) & mask
    xr.testing.assert_identical(ds.strf.where(pairs[::-1, ::-1]), ds.strf.where(pairs))
    # Without labels there is nothing but the position
    bare = mask[order].drop_vars(dim)
    xr.testing.assert_identical(ds.strf.isel(**{dim: bare}), ds.isel({dim: bare.values}))
    xr.testing.assert_identical(ds.strf.isel(**{dim: pd.Series(bare.values)}), ds.isel({dim: bare.values}))


def test_labelled_positions_are_those_of_their_labels():
    ds = cube(holes=False)
    at = xr.DataArray([4, 0], {"neuron": ds["neuron"].values[[4, 0]]}, ["neuron"])
    xr.testing.assert_identical(ds.strf.isel(neuron=at), ds.isel(neuron=[4, 0]))
    shuffled = ds["depth"][[1, 2, 0, 3, 4, 5, 6, 7, 8]]
    for choose in (ds.strf.isel, CubeView(ds).isel):
        with pytest.raises(SelectionError, match=r"neuron: the positions have labels of their own.*give \.values"):
            choose(neuron=shuffled.argsort())
        with pytest.raises(SelectionError, match="says nothing of 9 of 9 labels of 'neuron'"):
            choose(neuron=(ds["depth"] > 0).assign_coords(neuron=ds["cell_id"].values))
        with pytest.raises(SelectionError, match="expected bools on 'neuron'"):
            choose(neuron=(ds["depth"] > 0).rename(neuron="stim").drop_vars("stim"))


def test_a_predicate_that_fails_is_not_swallowed():
    with pytest.raises(AttributeError, match="dephth"):
        strfcube.select(cube(), where=lambda ds: ds.dephth > 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"aera": "MLd"}, r"'aera' is no coordinate.*did you mean.*area.*on stim: .*stim_type.*on neuron: .*animal"),
        ({"area": "Mld"}, r"no neuron has area='Mld'; did you mean MLd\? Else there is 'MLd' \(3\)"),
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


def test_one_name_for_two_choices_is_refused_where_they_differ():
    ds = make_cube(holes=False)
    same = ds.assign_coords(subset=("stim", ds["split"].values))
    assert published(same, "train") == {"split": "train"}
    other = ds.assign_coords(subset=("stim", strings(["train", "test", "train", "test"])))
    for choose in (other.strf.subset, other.strf.splits, other.strf.standardize, CubeView(other).subset):
        with pytest.raises(
            SelectionError, match=r"'train' is a choice of 'split' and of 'subset', and they differ.*sel\("
        ):
            choose("train")
    assert other.strf.sel(subset="train").sizes["stim"] == 2
    flag = ds.assign_coords(test=("neuron", np.arange(5) > 2))
    with pytest.raises(SelectionError, match="'test' is a choice of 'split' and of 'test'"):
        flag.strf.subset("test")
    pairs = ds.assign_coords(subset=ds["split"].expand_dims(neuron=ds["neuron"]).drop_vars("split"))
    assert pairs.strf.subset("test").sizes["stim"] == 1


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


def test_many_labels_are_looked_up_and_not_compared_with_all():
    """Not the product of what there is and what is asked for: 10,008 of 70,000 labels took 45 s."""
    ds = make_cube(stim=2, neuron=600, repeat=1, bins=2, holes=False)
    names = np.empty(600, object)
    names[:] = [Label(v) for v in ds["neuron"].values]
    ds = ds.assign_coords(other=("neuron", names))
    wanted = [Label(v) for v in names[::2]] + [Label(names[4])] * 3  # named twice is chosen once
    Label.compared = 0
    mask = matches("other", ds["other"], wanted)
    assert np.flatnonzero(mask).tolist() == list(range(0, 600, 2))
    assert Label.compared < 10 * 600
    with pytest.raises(SelectionError, match="no neuron has other='nobody'"):
        matches("other", ds["other"], [*wanted, "nobody"])
    # of many, a message names the first
    assert told(wanted) == "['cell000', 'cell002', 'cell004', ...] (303 values)"
    assert told(np.arange(1000)) == "[0, 1, 2, ...] (1,000 values)"
    assert told("x" * 30) == repr("x" * 30)
