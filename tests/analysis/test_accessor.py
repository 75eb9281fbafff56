"""``ds.strf``: thin, labelled, and right about what it does not read."""

from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import make_cube
from stores import make_store

import strfcube
from strfcube.analysis import quality, transform
from strfcube.builder.save import save as write
from strfcube.cube import schema
from strfcube.cube.store import no_consolidation_warning
from strfcube.errors import SelectionError, StoreError, UsageError
from strfcube.loading import CubeView


@pytest.fixture
def cube():
    return make_cube(stim=6, neuron=9, repeat=5)


def unreadable(ds, but=()):
    """The cube with a response that raises where a value is read, but for some stimuli."""
    values = ds["response"].values

    def read(block, block_id):
        if block_id[0] not in but:
            raise AssertionError(f"stimulus {block_id[0]} was read")
        return values[block_id[0]][None]

    lazy = dask.array.zeros(values.shape, chunks=(1, *values.shape[1:]), dtype="f4").map_blocks(read, dtype="f4")
    return ds.assign(response=ds["response"].copy(data=lazy))


def test_the_test_cubes_keep_the_contract():
    for options in ({}, {"trace": (1,)}, {"holes": False}, {"stim": 1, "neuron": 1, "repeat": 1}):
        assert schema.problems(make_cube(**options)) == []


def test_names_what_there_is_to_call(cube):
    for name in ("coverage", "sel", "psth", "snr", "ccmax", "ccnorm", "splits", "spontaneous_rate", "plot"):
        assert name in repr(cube.strf)


def test_coverage_is_known_without_reading(cube):
    coverage = unreadable(cube).strf.coverage()
    assert coverage.dims == ("stim", "neuron")
    assert coverage.dtype == bool
    np.testing.assert_array_equal(coverage, cube["n_repeats"] > 0)
    assert coverage.attrs["pairs"] == int((cube["n_repeats"] > 0).sum())
    assert coverage.attrs["possible"] == 54
    assert coverage.attrs["fraction"] == pytest.approx(coverage.attrs["pairs"] / 54)


def test_coverage_table(cube):
    by_area = cube.strf.coverage("area")
    assert list(by_area["area"].values) == ["L2a", "MLd", "OV"]
    assert int(by_area["possible"].sum()) == 54
    has = cube["n_repeats"] > 0
    for area in ("L2a", "MLd", "OV"):
        part = has.isel(neuron=np.flatnonzero(cube["area"] == area))
        assert float(by_area.sel(area=area)) == pytest.approx(float(part.mean()))
    table = cube.strf.coverage(("stim_type", "area"))
    assert table.dims == ("stim_type", "area")
    part = has.isel(stim=np.flatnonzero(cube["stim_type"] == "flatrip"), neuron=np.flatnonzero(cube["area"] == "OV"))
    assert float(table.sel(stim_type="flatrip", area="OV")) == pytest.approx(float(part.mean()))
    with pytest.raises(SelectionError, match=r"there are .*area"):
        cube.strf.coverage("brain")


def test_select_is_the_one_selection(cube):
    xr.testing.assert_identical(cube.strf.sel(area="MLd"), strfcube.select(cube, area="MLd"))


def test_split(cube):
    test = cube.strf.subset("test")
    assert list(test["stim"].values) == ["stim005"]
    assert cube.strf.subset("train").sizes["stim"] == 5
    with pytest.raises(SelectionError, match="train"):
        cube.strf.subset("validation")


def test_split_of_pairs(cube):
    member = np.random.default_rng(0).choice(np.array(["est", "val"], object), (6, 9))
    cube = cube.assign_coords(split=(("stim", "neuron"), member))
    part = cube.strf.subset("val")
    for stim in part["stim"].values:
        for neuron in part["neuron"].values:
            pair = {"stim": stim, "neuron": neuron}
            inside = cube["split"].sel(pair) == "val"
            assert int(part["n_repeats"].sel(pair)) == (int(cube["n_repeats"].sel(pair)) if inside else 0)
            assert inside or bool(part["response"].sel(pair).isnull().all())


def test_psth(cube):
    expected = transform.psth(cube["response"], 5.0, 21)
    xr.testing.assert_identical(cube.strf.psth(21), expected)


def test_psth_where_most_stimuli_have_one_repeat():
    ds = make_cube(stim=5, neuron=3, repeat=4, holes=False)
    keep = np.array([1, 4, 1, 1, 4])
    ds["n_repeats"][:] = keep[:, None]
    ds["response"] = ds["response"].where(ds["repeat"] < xr.DataArray(keep, dims="stim"))
    ds["response"].attrs["units"] = "count"
    xr.testing.assert_allclose(ds.strf.psth(), transform.psth(ds["response"], 5.0))
    assert list(ds.strf.psth()["stim"].values) == list(ds["stim"].values)
    assert ds.chunk(stim=1).strf.psth().chunks


@pytest.mark.parametrize("per", ["neuron", "pair"])
def test_measures(cube, per):
    expected = quality.measures(cube["response"], per)
    result = cube.strf.quality(per)
    xr.testing.assert_allclose(result, expected)
    for name in ("signal_power", "noise_power", "snr", "ccmax"):
        column = getattr(cube.strf, name)(per)
        xr.testing.assert_identical(column, result[name])
        assert {"units", "estimator"} <= set(column.attrs)
    assert result["snr"]["area"].dims == ("neuron",)


def test_stimuli_heard_once_are_not_read():
    whole = make_cube(stim=4, neuron=3, holes=False)

    def heard(*often):
        counts = whole["n_repeats"].copy(data=np.repeat(np.array(often, np.uint16)[:, None], 3, 1))
        return whole.assign(n_repeats=counts, response=whole["response"].where(whole["repeat"] < counts))

    ds = heard(1, 1, 1, 1)
    assert ds.strf.snr().isnull().all()
    assert ds.strf.ccmax(per="pair").shape == (4, 3)
    ds = heard(1, 1, 3, 1)
    for per in ("neuron", "pair"):
        read = unreadable(ds, but=[2]).strf.ccmax(per).compute()
        assert bool(read.notnull().any())
        xr.testing.assert_allclose(read, ds.strf.ccmax(per))


def test_some_stimuli_heard_once():
    ds = make_cube(stim=4, neuron=3, holes=False)
    ds["n_repeats"][1] = 1
    ds["response"] = ds["response"].where((ds["repeat"] < 1) | (ds["stim"] != "stim001")).assign_attrs(units="count")
    per_pair = ds.assign_coords(split=(("stim", "neuron"), np.full((4, 3), "est", object)))
    for cube in (ds, per_pair, ds.chunk(stim=1)):
        pairs = cube.strf.snr(per="pair")
        assert list(pairs["stim"].values) == list(ds["stim"].values)
        assert list(pairs["stim_type"].values) == list(ds["stim_type"].values)
        xr.testing.assert_allclose(pairs.drop_vars("split"), quality.snr(ds["response"], "pair").drop_vars("split"))
        assert pairs[1].isnull().all()
        assert not pairs[0].isnull().any()
        xr.testing.assert_allclose(cube.strf.snr(), quality.snr(ds["response"]))


@pytest.mark.parametrize("per", ["neuron", "pair"])
def test_measures_that_are_coordinates_already_are_measured_anew(per):
    ds = make_cube(stim=4, neuron=3, holes=False)
    ds["n_repeats"][1] = 1
    ds["response"] = ds["response"].where(ds["repeat"] < ds["n_repeats"]).assign_attrs(units="count")
    pred = ds["response"].mean("repeat")
    measured = ds.strf.quality(per).assign(cc=ds.strf.cc(pred, per), ccnorm=ds.strf.ccnorm(pred, per))
    kept = ds.assign_coords({n: -v for n, v in measured.items()}).assign_coords(bins=("stim", np.arange(4)))
    again = kept.strf.quality(per)
    for name in again:
        np.testing.assert_array_equal(again[name], measured[name])
    for name in ("cc", "ccnorm"):
        found = getattr(kept.strf, name)(pred, per)
        assert name not in found.coords
        np.testing.assert_array_equal(found, measured[name])
    np.testing.assert_array_equal(kept.strf.snr(per), measured["snr"])


def test_cc_is_of_stimuli_heard_once_too():
    ds = make_cube(stim=4, neuron=3, holes=False)
    ds["n_repeats"][1:3] = 1
    ds["response"] = ds["response"].where(ds["repeat"] < ds["n_repeats"]).assign_attrs(units="count")
    pred = ds["stimulus"].isel(frequency=slice(0, 3)).rename(frequency="neuron").assign_coords(neuron=ds["neuron"])
    pairs = ds.strf.cc(pred, per="pair")
    for s in range(4):
        bins, x = int(ds["n_bins"][s]), ds["response"][s].values
        for n in range(3):
            psth = x[n, : int(ds["n_repeats"][s, n]), :bins].mean(0)
            assert float(pairs[s, n]) == pytest.approx(np.corrcoef(psth, pred[s, n, :bins])[0, 1], rel=1e-5)
    np.testing.assert_allclose(ds.strf.cc(pred), quality.cc(pred, ds["response"]))
    assert ds.strf.ccnorm(pred, per="pair")[1:3].isnull().all()


def test_arrays_are_lazy_and_measures_are_numbers(cube):
    lazy = cube.chunk(stim=2)
    for result in (lazy.strf.psth(), lazy.strf.standardize()["stimulus"], quality.snr(lazy["response"])):
        assert result.chunks
    pred = cube["response"].mean("repeat")
    for result in (lazy.strf.quality()["p_signal"], lazy.strf.snr(), lazy.strf.ccmax("pair"), lazy.strf.ccnorm(pred)):
        assert isinstance(result.data, np.ndarray)
    xr.testing.assert_allclose(lazy.strf.ccnorm(pred), quality.ccnorm(pred, cube["response"]))


def test_measures_make_a_selection(cube):
    """The result is a coordinate to select by."""
    scored = cube.assign_coords(ccmax=cube.strf.ccmax().drop_vars(["area"]))
    good = scored.strf.sel(ccmax=lambda v: v > float(np.nanmedian(v)))
    assert 0 < good.sizes["neuron"] < 9


def test_standardize_by_published_part(cube):
    out = cube.strf.standardize("train")
    train = out.strf.subset("train")["stimulus"]
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    xr.testing.assert_identical(out.drop_vars("stimulus"), cube.drop_vars("stimulus"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.where(d["area"] == "MLd", drop=True), r"'\w+' is on \(.*ds.where\(...\) spreads.*ds.strf.where"),
        (lambda d: d.where(d["n_repeats"] > 1), r"is on .*ds.where"),
        (lambda d: d.pad(stim=1), "2 labels of 'stim' are missing"),
        (lambda d: d.pad(time=(0, 3)), "3 labels of 'time' are missing"),
        (
            lambda d: d.assign(n_repeats=d["n_repeats"].where(d["n_repeats"] > 1)),
            r"whole numbers in 'n_repeats'.*, 0\)",
        ),
        (lambda d: d.assign(n_repeats=d["n_repeats"] / 2), "whole numbers in 'n_repeats'"),
        (lambda d: d.isel(neuron=3), r"no dimension neuron; take one with a list"),
        (lambda d: d.drop_vars("n_repeats"), "no n_repeats"),
    ],
)
def test_what_xarray_made_of_a_cube_is_refused_in_one_line(cube, change, message):
    broken = change(cube)
    parts = [
        lambda: strfcube.concat([broken, cube], ["a", "b"]), lambda: broken.strf.sel(area="MLd"),
        lambda: strfcube.select(broken, area="MLd"), lambda: broken.strf.isel(neuron=[0]),
        lambda: broken.strf.splits("train"), lambda: broken.strf.plot.response(), lambda: broken.strf.plot.coverage(),
    ]  # fmt: skip
    for call in parts:
        with pytest.raises(UsageError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.isel(time=slice(None, None, 2)), r"'time' advances by 10 ms, and dt_ms is 5; .*strfcube.rebin"),
        (lambda d: d.thin(time=3), "advances by 15 ms"),
        (lambda d: d.coarsen(time=2, boundary="trim").mean(), "advances by 10 ms"),
        (lambda d: d.isel(time=slice(None, None, -1)), "not consecutive bins of 5 ms: after 0.195 s comes 0.19 s"),
        (lambda d: d.isel(time=[0, 0, 1, 2]), "not consecutive bins of 5 ms: after 0 s comes 0 s"),
        (lambda d: d.isel(time=[0, 1, 2, 7]), "not consecutive bins of 5 ms: after 0.01 s comes 0.035 s"),
        (lambda d: d.roll(time=3, roll_coords=True), "after 0.195 s comes 0 s"),
        (lambda d: d.isel(time=slice(0, 0)), "nothing (of 'time' is left|is left along time)"),
        (lambda d: d.assign_coords(time=d["time"] + 0.0025), r"0.0025 s of 'time' lies \+0.50 bins from a bin"),
        (lambda d: d.assign_coords(time=d["time"] - 0.1), "begins at -0.1 s, before the onset"),
        (lambda d: d.assign_coords(time=d["time"] * 1000), "advances by 5000 ms"),
        (lambda d: d.assign_coords(time=d["time"].astype("timedelta64[s]")), "timedelta64"),
        (lambda d: d.drop_vars("time"), "advances by 1000 ms"),
        (lambda d: d.assign_attrs(dt_ms=1.0), "advances by 5 ms, and dt_ms is 1"),
        (lambda d: d.assign_attrs(dt_ms=float("nan")), "dt_ms is nan"),
        (lambda d: d.drop_attrs(deep=False), "lost its attribute dt_ms"),
        (lambda d: d.isel(neuron=[0, 0]), "1 labels of 'neuron' come twice, such as 'cell000'"),
        (lambda d: d.isel(stim=[0, 1, 1]), "1 labels of 'stim' come twice, such as 'stim001'"),
        (lambda d: d.isel(repeat=[0, 0]), "1 labels of 'repeat' come twice"),
        (lambda d: d.drop_vars("neuron"), "lost the labels of 'neuron'"),
        (lambda d: d.rename(neuron="unit"), "no dimension neuron"),
        (lambda d: d.expand_dims("model"), "'response' is on .*'model'"),
        (lambda d: d.assign(response=d["response"].mean("repeat")), "'response' has lost its dimension repeat"),
    ],
)
def test_labels_that_are_no_longer_those_of_a_cube_are_refused_everywhere(cube, tmp_path, change, message):
    broken = change(cube)
    calls = [
        lambda: CubeView(broken), broken.strf.psth, broken.strf.quality, lambda: broken.strf.ccnorm(np.zeros(3)),
        lambda: broken.strf.isel(neuron=[0]), lambda: broken.strf.plot.response(),
        lambda: strfcube.concat([broken, cube], ["a", "b"]), lambda: write(broken, tmp_path / "o.zarr"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_coarsened_bins_count_once_all_says_so(cube):
    stimulus = cube["stimulus"].coarsen(time=2, coord_func="min").mean()
    response = cube["response"].coarsen(time=2, coord_func="min").reduce(np.sum)
    wide = cube.drop_dims("time").assign(response=response, stimulus=stimulus, n_bins=cube["n_bins"])
    wide = wide.assign_attrs(dt_ms=10.0, recipe='{"dt_ms": 5.0}')
    wide["response"].attrs["units"] = "count"
    with pytest.raises(UsageError, match=r"n_bins still counts bins of 5 ms; ds.assign\(n_bins"):
        CubeView(wide)
    view = CubeView(wide.assign(n_bins=(wide["n_bins"] // 2).astype(np.int32)))
    batch = view.batch([0])
    np.testing.assert_array_equal(batch["responses"][0], response[0, :, :, : batch["responses"].shape[-1]])
    rate = wide.strf.psth().mean() / cube.isel(time=slice(0, 40)).strf.psth().mean()
    assert float(rate) == pytest.approx(1, abs=0.05)


def test_a_part_in_time_counts_its_own_bins_wherever_it_begins(cube, tmp_path):
    few = cube.isel(stim=slice(1, 4))  # n_bins is 37, 34, 31 of 40
    part = few.isel(time=slice(10, 40))
    view = CubeView(part)
    assert [m["n_bins"] for m in view.stim_meta] == [27, 24, 21]
    later = view.ds.isel(time=slice(5, 25))
    assert CubeView(later).ds["n_bins"].values.tolist() == [20, 19, 16]
    saved = strfcube.open(write(part, tmp_path / "part.zarr"))
    assert strfcube.verify(tmp_path / "part.zarr") == []
    assert CubeView(saved.isel(time=slice(5, 25))).ds["n_bins"].values.tolist() == [20, 19, 16]
    np.testing.assert_array_equal(saved["response"], part["response"].isel(time=slice(0, 27)))  # to its longest sound
    with pytest.raises(UsageError, match=r"starts of time differ: a has 0.05 s, b has 0 s"):
        strfcube.concat([part, few], ["a", "b"])


def test_labels_in_single_precision_are_those_of_bins(cube, tmp_path):
    single = cube.assign_coords(time=cube["time"].astype(np.float32))
    np.testing.assert_array_equal(CubeView(single).ds["time"], cube["time"])
    assert strfcube.verify(write(single, tmp_path / "single.zarr")) == []


def test_a_transposed_cube_is_written_as_it_is_read(cube, tmp_path):
    turned = write(cube.transpose("time", "frequency", "repeat", "neuron", "stim"), tmp_path / "turned.zarr")
    assert strfcube.verify(turned) == []
    np.testing.assert_array_equal(strfcube.open(turned)["response"], cube["response"])
    np.testing.assert_array_equal(strfcube.open(turned)["stimulus"], cube["stimulus"])


def test_counts_that_xarray_made_floats_are_counts_again(cube):
    part = cube.where(cube["stim_type"] == "flatrip", drop=True)
    assert part["n_repeats"].dtype.kind == "f"
    xr.testing.assert_allclose(part.strf.quality(), cube.strf.sel(stim_type="flatrip", keep="neurons").strf.quality())
    chosen = part.strf.sel(area="MLd")
    assert chosen["n_repeats"].dtype == np.uint16
    zeros = cube.assign(n_repeats=cube["n_repeats"].where(cube["n_repeats"] > 1, 0))
    assert zeros.strf.sel(area="MLd").sizes["neuron"] == 3


def test_no_cube_is_said_so():
    with pytest.raises(UsageError, match="no response"):
        xr.Dataset().strf.snr()
    with pytest.raises(UsageError, match="no n_repeats"):
        xr.Dataset().strf.coverage()


def test_spontaneous_rate_needs_the_store(cube, tmp_path):
    with pytest.raises(StoreError, match=r"strfcube\.open"):
        cube.strf.spontaneous_rate()
    cube.encoding["source"] = str(tmp_path / "gone.zarr")
    with pytest.raises(StoreError, match="gone"):
        cube.strf.spontaneous_rate()


def test_spontaneous_rate_of_a_part_of_a_stored_cube(cube, tmp_path):
    path = str(tmp_path / "cube.zarr")
    once = cube["n_repeats"].copy(data=np.ones((6, 9), np.uint16))
    cube = cube.assign(n_repeats=once).isel(repeat=[0])
    stim, neuron = (v.ravel() for v in np.meshgrid(range(6), range(9), indexing="ij"))
    order = np.lexsort((stim, neuron))
    stim, neuron = stim[order], neuron[order]
    trials = xr.Dataset(
        {
            "stim_index": ("trial", stim), "neuron_index": ("trial", neuron),
            "repeat_index": ("trial", np.zeros(54, int)),
            "window_start": ("trial", np.full(54, -1.0)), "window_stop": ("trial", np.full(54, 2.0)),
            "kept": ("trial", np.ones(54, bool)), "exact": ("trial", np.ones(54, bool)),
            "row_size": ("trial", neuron + 1),
            "spike_time": ("spike", np.full(int((neuron + 1).sum()), -500_000_000)),
        }
    )  # fmt: skip
    with no_consolidation_warning():
        cube.to_zarr(path)
        trials.to_zarr(path, group="trials", consolidated=False)
        zarr.consolidate_metadata(path)
    cube.encoding["source"] = path
    rate = cube.strf.spontaneous_rate()
    np.testing.assert_allclose(rate, np.arange(9) + 1)
    assert rate["area"].dims == ("neuron",)
    part = cube.isel(neuron=[7, 2], stim=[0, 3]).strf.spontaneous_rate(per="pair")
    assert part.dims == ("stim", "neuron")
    np.testing.assert_allclose(part, [[8, 3], [8, 3]])
    np.testing.assert_allclose(cube.strf.spontaneous_rate(trials=trials), rate)
    with pytest.raises(StoreError, match="other neurons"):
        cube.assign_coords(neuron=[f"other{i}" for i in range(9)]).strf.spontaneous_rate()


@pytest.fixture(scope="module")
def ns1(real_data, tmp_path_factory):
    if not (real_data / "ns1").is_dir():
        pytest.skip("no NS1 recordings")
    out = tmp_path_factory.mktemp("ns1") / "ns1.zarr"
    return strfcube.open(strfcube.build("ns1", raw=real_data / "ns1", dt=5, post=200, out=out))


@pytest.mark.slow
def test_noise_ratio_of_the_authors(ns1):
    """Their ``NoiseRatio`` is that of the clips joined end to end, whole sweeps, in bins of 5 ms."""
    response = ns1["response"].compute()
    joined = response.transpose("neuron", "repeat", "stim", "time").values.reshape(119, 20, -1)
    ours = 1 / quality.snr(xr.DataArray(joined, dims=("neuron", "repeat", "time"), attrs={"units": "count"})).values
    theirs = ns1["noise_ratio"].values
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9999
    assert np.abs(ours / theirs - 1).max() < 0.015
    # Ours, averaged over the clips, leaves out what differs between them.
    per_clip = 1 / ns1.strf.snr().compute()
    assert float(np.corrcoef(per_clip, theirs)[0, 1]) > 0.999
    assert float(abs(per_clip / theirs - 1).median()) < 0.015


@pytest.mark.slow
def test_no_silence_before_the_sound_was_recorded_in_ns1(ns1):
    assert ns1.strf.spontaneous_rate().isnull().all()


@pytest.mark.parametrize("how", ["memory", "dask"])
def test_psth_of_stimuli_played_once_beside_others(how):
    cube = make_cube(stim=6, neuron=9, repeat=5)
    counts = cube["n_repeats"].copy(data=np.where(np.arange(6)[:, None] % 2, np.minimum(cube["n_repeats"], 1), 5))
    cube = cube.assign(n_repeats=counts, response=cube["response"].where(cube["repeat"] < counts))
    cube["response"].attrs["units"] = "count"
    given = cube if how == "memory" else cube.chunk(stim=2)
    wanted = transform.psth(cube["response"], float(cube.attrs["dt_ms"]))
    for found in (given.strf.psth(), given.isel(repeat=slice(None, None, -1)).strf.psth()):
        xr.testing.assert_allclose(found.compute(), wanted)
        assert (found.dims, found.attrs, set(found.coords)) == (wanted.dims, wanted.attrs, set(wanted.coords))


FILLED = {
    "fillna": lambda ds: ds.fillna(0),
    "in memory": lambda ds: ds.load().fillna(0),
    "one variable": lambda ds: ds.assign(response=ds["response"].fillna(0)),
    "whole numbers": lambda ds: ds.assign(response=ds["response"].fillna(0).astype("int32")),
    "where": lambda ds: ds.assign(response=ds["response"].where(abs(ds["time"] - 0.1) > 0.02, 0)),
    "labels lost": lambda ds: ds.fillna(0).drop_vars("repeat"),
    "transposed": lambda ds: ds.fillna(0).transpose("time", "repeat", ...),
}


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("how", FILLED)
def test_zeros_in_repeats_that_were_never_recorded_are_no_repeats(tmp_path, how, lazy):
    """`n_repeats` and `n_bins` say what was recorded, whatever xarray put beside it."""
    _, path = make_store(tmp_path, stim=5, neuron=4, repeat=4, bins=60, unobserved=False)
    ds = strfcube.open(path)
    expected = ds if how != "where" else ds.assign(
        response=ds["response"].where((abs(ds["time"] - 0.1) > 0.02) | ds["response"].isnull(), 0)
    )  # fmt: skip
    filled = FILLED[how](ds if lazy else ds.load())
    xr.testing.assert_allclose(filled.strf.psth().transpose(*expected.strf.psth().dims), expected.strf.psth())
    xr.testing.assert_allclose(filled.strf.quality(), expected.strf.quality())
    if how != "labels lost":  # which say which repeats a part holds
        few = filled.isel(repeat=[1, 3]).strf.psth().transpose(*expected.strf.psth().dims)
        xr.testing.assert_allclose(few, expected.isel(repeat=[1, 3]).strf.psth())


@pytest.mark.parametrize("lazy", [True, False])
def test_sums_of_joined_bins_count_no_absent_repeats(tmp_path, lazy):
    _, path = make_store(tmp_path, stim=5, neuron=4, repeat=4, bins=60, unobserved=False)
    ds = strfcube.open(path) if lazy else strfcube.open(path).load()
    joined = ds.coarsen(time=3, coord_func="min").sum().assign_attrs(dt_ms=15.0, recipe='{"dt_ms": 5.0}')
    parts = ds["response"].coarsen(time=3, coord_func="min").reduce(np.sum)
    np.testing.assert_allclose(joined.strf.psth().values, parts.mean("repeat").values / 0.015, rtol=1e-5)


def test_what_is_saved_has_nothing_in_absent_repeats(cube, tmp_path):
    ds = strfcube.open(write(cube, tmp_path / "cube.zarr"))
    saved = strfcube.open(strfcube.save(ds.assign(response=ds["response"].fillna(0)), tmp_path / "saved.zarr"))
    xr.testing.assert_equal(saved["response"].load(), ds["response"].load())


def test_a_path_where_a_cube_is_expected_and_the_other_way_round(cube, tmp_path):
    for call in (lambda p: strfcube.select(p, area="MLd"), lambda p: strfcube.save(p, tmp_path / "x.zarr")):
        for given in ("a.zarr", Path("a.zarr")):
            with pytest.raises(UsageError, match=r"a cube that is open.*got 'a\.zarr': open it with strfcube\.open"):
                call(given)
    for takes_path in (
        strfcube.open,
        strfcube.verify,
        lambda ds: strfcube.rebin(ds, 1),
        lambda ds: strfcube.export(ds, tmp_path / "x.nc"),
        lambda ds: strfcube.report(ds, tmp_path / "x.html"),
    ):
        with pytest.raises(UsageError, match=r"expected a path.*got a Dataset; save what is open with strfcube\.save"):
            takes_path(cube)
    with pytest.raises(UsageError, match=r"expected a path.*got a NoneType"):
        strfcube.save(cube, None)


def test_a_mistyped_name_of_the_accessor(cube):
    with pytest.raises(AttributeError, match=r"ds\.strf has no 'qualty'; did you mean quality\? Else there are"):
        _ = cube.strf.qualty
    assert not hasattr(cube.strf, "_repr_html_")
