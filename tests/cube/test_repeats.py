"""Which repeats are left of a cube, by its labels: in measures, tables, batches and what is saved."""

import numpy as np
import pytest
import toy
import xarray as xr
from cubes import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st

import strfcube
from strfcube import UsageError
from strfcube.cube.repeats import left, numbered_anew, numbers, rising
from strfcube.loading import CubeView

PARTS = [slice(1, None, 2), slice(None, None, -1), [2, 0], [3]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A ragged cube."""
    return strfcube.save(make_cube(stim=6, neuron=5, repeat=4), tmp_path_factory.mktemp("store") / "cube.zarr")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cube with single trials."""
    folder = tmp_path_factory.mktemp("built")
    pipeline, _ = toy.random_toy(str(folder / "raw"), n_stims=5, n_neurons=6, repeats=4, seed=4)
    return strfcube.build(pipeline, dt=5, out=str(folder / "cube.zarr"), **toy.FAST)


def opened(path, how):
    ds = strfcube.open(path)
    return ds if how == "lazy" else ds.load() if how == "memory" else ds.assign(response=ds["response"] * 1)


def trials_left(ds):
    """By the values."""
    there = ds["response"].transpose("stim", "neuron", "repeat", "time").notnull().any("time")
    return there.sum("repeat").values


HOW = ["lazy", "memory", "dask"]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("how", HOW)
def test_everybody_counts_the_trials_that_are_left(path, tmp_path, how, part):
    ds = opened(path, how).isel(repeat=part)
    wanted = trials_left(ds)
    np.testing.assert_array_equal(left(ds), wanted)
    assert ds.strf.coverage().attrs["pairs"] == (wanted > 0).sum()
    view = CubeView(ds)
    np.testing.assert_array_equal(view.n_repeats, wanted[(wanted > 0).any(1)])
    ragged = CubeView(ds, layout="ragged").batch(range(len(view)))
    assert len(ragged["responses"]) == wanted.sum()
    assert ragged["valid_mask"].any(1).all()
    assert view.batch(range(len(view)))["responses"].shape[2] == wanted.max()
    assert view.sel().ds.sizes["neuron"] == (wanted > 0).any(0).sum()
    saved = strfcube.open(strfcube.save(ds, tmp_path / "saved.zarr"))
    np.testing.assert_array_equal(left(saved), wanted)
    np.testing.assert_array_equal(saved["n_repeats"], wanted)
    quality = ds.strf.quality()
    for other in (saved, view.ds, view.ds.load(), strfcube.concat([ds], ["a"])):
        for name in ("signal_power", "noise_power", "ccmax"):
            np.testing.assert_allclose(other.strf.quality()[name].values, quality[name].values, rtol=1e-5, atol=1e-9)
        shown = (wanted > 0).any(1) if other.sizes["stim"] < len(wanted) else slice(None)  # a view hides the others
        np.testing.assert_allclose(other.strf.psth().values, ds.strf.psth().values[shown], rtol=1e-5)
        np.testing.assert_array_equal(left(other), wanted[shown])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("how", HOW)
def test_single_trials_are_those_that_are_left(built, tmp_path, how, part):
    ds = opened(built, how).isel(repeat=part)
    wanted = trials_left(ds)
    table = ds.strf.trials
    assert table["repeat"].ge(0).sum() == wanted.sum()
    saved = strfcube.open(strfcube.save(ds, tmp_path / "saved.zarr"))
    np.testing.assert_array_equal(saved["n_repeats"], wanted)
    assert not strfcube.verify(tmp_path / "saved.zarr", deep=True)
    np.testing.assert_array_equal(
        ds.strf.spontaneous_rate(per="pair").values, saved.strf.spontaneous_rate(per="pair").values
    )
    np.testing.assert_array_equal(ds.strf.spontaneous_rate().values, saved.strf.spontaneous_rate().values)
    from strfcube.analysis.tables import neurons

    assert neurons(ds)["trials"].tolist() == wanted.sum(0).tolist()
    for s, n in np.argwhere(wanted == 0)[:3]:
        assert len(ds.strf.spikes(int(s), int(n)).times) == 0


def test_a_spontaneous_rate_is_that_of_the_part(built, tmp_path):
    ds = strfcube.open(built)
    whole = ds.strf.spontaneous_rate(per="pair")
    part = ds.strf.isel(stim=[3, 1], neuron=[4, 0])
    np.testing.assert_array_equal(part.strf.spontaneous_rate(per="pair").values, whole.values[[3, 1]][:, [4, 0]])
    saved = strfcube.open(strfcube.save(part, tmp_path / "part.zarr"))
    np.testing.assert_array_equal(part.strf.spontaneous_rate().values, saved.strf.spontaneous_rate().values)
    trials = xr.open_zarr(built, group="trials")
    np.testing.assert_array_equal(
        ds.isel(neuron=slice(None, None, -1)).strf.spontaneous_rate(trials=trials).values,
        ds.strf.spontaneous_rate().values[::-1],
    )
    np.testing.assert_array_equal(part.strf.spontaneous_rate(trials=trials).values, part.strf.spontaneous_rate().values)
    own = part.copy()
    own.encoding = {}
    with pytest.raises(UsageError, match="the group 'trials' of this very cube"):
        own.strf.spontaneous_rate(trials=trials)
    for window in (5, (-0.1,), ("a", "b"), (0.2, 0.1)):
        with pytest.raises(UsageError, match=r"expected \(start, stop\) in s"):
            ds.strf.spontaneous_rate(window=window)


@pytest.mark.slow
@settings(max_examples=40)
@given(data=st.data())
def test_any_order_and_any_labels(path, data):
    ds = strfcube.open(path)
    key = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
    how = data.draw(st.sampled_from(HOW))
    part = opened(path, how).isel(repeat=key, stim=data.draw(st.sampled_from([[0], [1, 4], slice(None)])))
    assert numbers(part).tolist() == key
    np.testing.assert_array_equal(left(part), trials_left(part))
    anew = numbered_anew(rising(part))
    assert numbers(anew).tolist() == list(range(len(key))) or how == "lazy"
    np.testing.assert_array_equal(anew["n_repeats"], trials_left(part))
    if how == "lazy":  # the store knows better than labels
        other = part.assign_coords(repeat=part["repeat"] + 1)
        np.testing.assert_array_equal(left(other), trials_left(part))
        np.testing.assert_array_equal(other.strf.psth(), part.strf.psth())
    assert ds["n_repeats"].max() == 4


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("change", [
    lambda c: c.assign_coords(repeat=c["repeat"] + 1),
    lambda c: xr.concat(
        [c, make_cube(holes=False, seed=9).assign_coords(repeat=[3, 4, 5]).assign(stimulus=c["stimulus"])],
        "repeat", data_vars="minimal",
    ),
    lambda c: c.assign(n_repeats=c["n_repeats"] - 1),
])  # fmt: skip
def test_values_where_nothing_was_recorded_are_refused(tmp_path, change, lazy):
    strange = change(make_cube(holes=False))
    strange = strange.chunk(stim=1) if lazy else strange
    for call in (
        lambda: strange.strf.psth().compute(), strange.strf.quality,
        lambda: strfcube.save(strange, tmp_path / "x.zarr"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="bins of repeats that were not recorded hold values: label k of 'repeat'"):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("pool", [False, True])
def test_joined_bins_are_those_of_rebin(built, tmp_path, pool):
    ds = strfcube.open(built)
    rebinned = strfcube.open(strfcube.rebin(built, 10, out=tmp_path / "wide.zarr", jobs=0))
    ds = (strfcube.concat([ds], ["a"]) if pool else ds).load()
    joined = ds.coarsen(time=2, boundary="pad", coord_func="min").sum().assign_attrs(dt_ms=10.0)
    with pytest.raises(UsageError, match=r"n_bins still counts bins of 5 ms; ds.assign\(n_bins=...\) with those of 10"):
        CubeView(joined)
    said = joined.assign(n_bins=rebinned["n_bins"].variable)
    bins = np.arange(rebinned.sizes["time"]) < (ds["n_bins"].values // 2)[:, None]  # whole ones
    wanted = rebinned["response"].where(xr.DataArray(bins, dims=("stim", "time"))).mean("repeat") / 0.010
    got = said.strf.psth().isel(time=slice(0, rebinned.sizes["time"]))
    np.testing.assert_allclose(got.where(xr.DataArray(bins, dims=("stim", "time"))).values, wanted.values, rtol=1e-5)
    for one in (joined, said):
        past = np.arange(one.sizes["time"]) >= rebinned["n_bins"].values[:, None]
        assert one.strf.psth().transpose("stim", "time", "neuron").isnull().values[past].all()
    few = strfcube.concat([ds], ["b"]).isel(stim=[int(np.argmin(ds["n_bins"].values))])  # short, on a long axis
    few = few.assign(n_bins=few["n_bins"] // 3, duration=few["duration"] / 3)
    wide = few.coarsen(time=2, boundary="pad", coord_func="min").sum().assign_attrs(dt_ms=10.0)
    assert wide.strf.psth().notnull().any("neuron").sum("time").max() <= few["n_bins"].item() / 2 + 1


def test_what_the_store_holds_beyond_changed_counts_is_not_measured(built):
    ds = strfcube.open(built)
    for fewer in (ds["n_repeats"].clip(max=1), ds["n_repeats"].where(ds["stim"] != ds["stim"][0], 0)):
        for part in (slice(None), slice(None, None, -1)):
            changed = ds.assign(n_repeats=fewer).isel(neuron=part)
            for measure in (changed.strf.psth, changed.strf.quality):
                with pytest.raises(UsageError, match="repeats that were not recorded hold values"):
                    measure().compute()
    shorter = ds.assign(n_bins=ds["n_bins"] - 7)
    for found, wanted in ((shorter, shorter.compute()), (shorter.isel(time=slice(3, 30)), ds.isel(time=slice(3, 30)))):
        wanted = wanted.assign(n_bins=shorter["n_bins"]).compute()
        np.testing.assert_array_equal(found.strf.psth(), wanted.strf.psth())
        xr.testing.assert_allclose(found.strf.quality(), wanted.strf.quality())
        assert (found.strf.psth().notnull().sum("time") <= shorter["n_bins"]).all()
