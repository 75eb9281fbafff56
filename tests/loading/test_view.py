"""Views: what one shows, and what reaches a batch of plain arrays."""

import pickle
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import make_cube, strings
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import make_store, seal
from toy import FAST, make_neuron, make_stim, spikes, write_toy

import strfcube
from strfcube import SelectionError, StoreError, UsageError
from strfcube.analysis.transform import smooth
from strfcube.cube.response_reader import LazyReader, ResponseReader
from strfcube.cube.shard_reader import ShardedArray
from strfcube.cube.shard_writer import Layout, write_shard
from strfcube.loading import CubeView

ARRAYS = ("stims", "responses", "valid_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=7, neuron=9, repeat=4, bins=40, seed=2)


@pytest.fixture
def view(made):
    return CubeView(made[1])


def same(a, b):
    for key in ARRAYS:
        np.testing.assert_array_equal(a[key], b[key])
    assert a["stim_meta"] == b["stim_meta"]


def reference(ds, items):
    """A batch, made from the decoded Dataset of a view."""
    n_bins = ds["n_bins"].values[items]
    n_repeats = ds["n_repeats"].values[items]
    shape = (len(items), ds.sizes["neuron"], n_repeats.max(), n_bins.max())
    responses = np.full(shape, np.nan, np.float32)
    stims = np.zeros((len(items), 1, ds.sizes["frequency"], shape[3]), np.float32)
    for b, s in enumerate(items):
        responses[b, ..., : n_bins[b]] = ds["response"].values[s, :, : shape[2], : n_bins[b]]
        stims[b, 0, :, : n_bins[b]] = ds["stimulus"].values[s, :, : n_bins[b]]
    return stims, responses


def test_counts_and_shapes(made, view):
    cube, _ = made
    assert len(view) == 7
    item = view[0]
    assert {k: tuple(item[k].shape) for k in ARRAYS} == {
        "stims": (1, 6, 40), "responses": (9, 4, 40), "valid_mask": (9, 4, 40)
    }  # fmt: skip
    batch = view.batch([1, 2])
    bins = int(cube["n_bins"][1])
    assert tuple(batch["stims"].shape) == (2, 1, 6, bins)
    assert tuple(batch["responses"].shape) == (2, 9, int(cube["n_repeats"][1:3].max()), bins)
    assert (batch["stims"].dtype, batch["responses"].dtype, batch["valid_mask"].dtype) == (
        np.float32, np.float32, np.bool_
    )  # fmt: skip
    assert batch["stim_meta"][0]["stim"] == "stim001"
    assert batch["stim_meta"][0]["stim_type"] == "flatrip"
    assert "7 stimuli x 9 neurons" in repr(view)


def test_indexing(view):
    same(view[-1], view[6])
    assert [item["stim_meta"]["stim"] for item in view][:2] == ["stim000", "stim001"]
    assert len(list(view)) == 7
    assert [m["stim"] for m in view[1:5:2].stim_meta] == ["stim001", "stim003"]
    assert [m["stim"] for m in view[[4, 0]].stim_meta] == ["stim004", "stim000"]
    same(view[[4, 0]][0], view[4])
    for wrong in (7, -8, [7]):
        with pytest.raises(IndexError, match="past the end"):
            view[wrong]
    with pytest.raises(IndexError):
        view.batch([0, 7])


def test_direct_lazy_and_in_memory_are_one(made):
    cube, path = made
    views = [CubeView(path), CubeView(path, cache="none"), CubeView(cube),
             CubeView(strfcube.open(path).assign(response=lambda d: d["response"] * 1))]  # fmt: skip
    kinds = [type(v._reader._responses) for v in views]
    assert kinds == [ResponseReader, ResponseReader, LazyReader, LazyReader]
    wanted = reference(cube, [3, 0, 6])
    for v in views:
        batch = v.batch([3, 0, 6])
        np.testing.assert_array_equal(batch["stims"], wanted[0])
        np.testing.assert_array_equal(batch["responses"], wanted[1])
        np.testing.assert_array_equal(batch["valid_mask"], ~np.isnan(wanted[1]))


def test_a_lazy_transform_flows_into_batches(made):
    ds = strfcube.open(made[1])
    plain, doubled = CubeView(ds).batch([0, 1]), CubeView(ds.assign(response=ds["response"] * 2)).batch([0, 1])
    np.testing.assert_array_equal(doubled["responses"], plain["responses"] * 2)
    shifted = CubeView(ds.assign(response=ds["response"].shift(time=1))).batch([0])["responses"]
    np.testing.assert_array_equal(shifted[..., 1:], plain["responses"][:1, ..., :-1])
    louder = CubeView(ds.assign(stimulus=ds["stimulus"] + 1)).batch([0])["stims"]
    np.testing.assert_array_equal(louder, plain["stims"][:1] + 1)


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "area": st.lists(st.sampled_from(["MLd", "OV", "L2a"]), min_size=1, unique=True),
        "animal": st.sampled_from(["gg", "bb"]),
        "stim_type": st.sampled_from(["conspecific", "flatrip"]),
        "split": st.sampled_from(["train", "test"]),
        "stim": st.lists(st.sampled_from([f"stim{i:03d}" for i in range(7)]), min_size=1, unique=True),
        "pair_split": st.sampled_from(["train", "val"]),
    },
)


@pytest.fixture(scope="module")
def paired(made):
    ds = strfcube.open(made[1])
    names = strings(["train", "val", ""][i] for i in np.random.default_rng(0).integers(0, 3, 63)).reshape(7, 9)
    return CubeView(ds.assign_coords(pair_split=(("stim", "neuron"), names)))


def chosen(view, *several):
    try:
        for keys in several:
            view = view.sel(**keys)
    except SelectionError:
        return None
    return view


@settings(max_examples=40)
@given(a=KEYS, b=KEYS)
def test_sel_commutes_and_is_idempotent(paired, a, b):
    one, other, twice = chosen(paired, a, b), chosen(paired, b, a), chosen(paired, a, b, a)
    if one is None:
        assert other is None
        assert twice is None
        return
    for v in (other, twice):
        assert v.stim_meta == one.stim_meta
        assert v.ds["neuron"].values.tolist() == one.ds["neuron"].values.tolist()
        np.testing.assert_array_equal(v.n_repeats, one.n_repeats)


@settings(max_examples=40)
@given(keys=KEYS, data=st.data())
def test_a_batch_holds_the_selection_and_nothing_else(paired, keys, data):
    view = chosen(paired, keys)
    if view is None:
        return
    items = data.draw(st.lists(st.integers(0, len(view) - 1), min_size=1, max_size=4))
    batch = view.batch(items)
    stims, responses = reference(view.ds, items)
    np.testing.assert_array_equal(batch["stims"], stims)
    np.testing.assert_array_equal(batch["responses"], responses)
    mask = batch["valid_mask"]
    np.testing.assert_array_equal(mask, ~np.isnan(responses))
    for b, i in enumerate(items):
        assert not mask[b, ..., view.stim_meta[i]["n_bins"] :].any()
        assert not mask[b][np.arange(mask.shape[2]) >= view.n_repeats[i][:, None]].any()
    xarray_view = paired._source.cube if not keys else strfcube.select(paired._source.cube, **keys)
    assert view.ds["stim"].values.tolist() == xarray_view["stim"].values.tolist()


def test_hiding_goes_both_ways_and_is_no_choice(made):
    cube, path = made
    counts = cube["n_repeats"].values.copy()
    counts[1:, 0] = 0
    counts[0, 1:] = 0
    ds = strfcube.open(path)
    view = CubeView(ds.assign(n_repeats=(("stim", "neuron"), counts)))
    assert len(view.sel(neuron="cell000")) == 1
    assert view.sel(stim="stim000").ds["neuron"].values.tolist() == ["cell000"]
    assert len(view.sel(neuron=[f"cell{i:03d}" for i in range(1, 9)])) == 6
    # The list names a neuron that the first choice hides; both orders give the same.
    ab = view.sel(stim="stim000").sel(neuron=["cell000", "cell003"])
    ba = view.sel(neuron=["cell000", "cell003"]).sel(stim="stim000")
    assert ab.stim_meta == ba.stim_meta
    with pytest.raises(SelectionError, match="leaves no stimulus"):
        view.sel(stim="stim000").sel(neuron="cell003")


def test_heard_looks_at_the_whole_cube(view):
    ripples = view.sel(stim_type="flatrip").sel(heard={"stim_type": "conspecific"})
    assert {m["stim_type"] for m in ripples.stim_meta} == {"flatrip"}
    both = view.sel(heard={"stim_type": "conspecific"}).sel(stim_type="flatrip")
    assert ripples.stim_meta == both.stim_meta


def test_views_are_immutable(view):
    before, batch = repr(view), view.batch([0])
    view.sel(area="MLd"), view.where(lambda ds: ds.n_repeats > 1), view.isel(neuron=0), view.using(smooth_ms=20)
    view.standardize(), view.normalize(), view.subset("train")
    assert repr(view) == before
    same(view.batch([0]), batch)


def test_isel_counts_what_is_visible(view):
    part = view.sel(stim_type="flatrip").isel(stim=[2, 0], neuron=slice(1, None, 3))
    assert [m["stim"] for m in part.stim_meta] == ["stim005", "stim001"]
    assert part.ds.sizes["neuron"] == part[0]["responses"].shape[0]
    reordered = view.isel(neuron=[5, 2, 8]).batch([0, 1])
    np.testing.assert_array_equal(reordered["responses"], view.batch([0, 1])["responses"][:, [5, 2, 8]])
    with pytest.raises(IndexError):
        view.isel(neuron=9)
    with pytest.raises(SelectionError, match="leaves no stimulus"):
        view.isel(stim=[])


def test_scalars_of_numpy_are_positions_and_none_is_nothing(view):
    for one in (np.int64(2), np.array(2), np.uint8(2)):
        same(view[one], view[2])
    assert len(view[np.array([3, 1])]) == 2
    for wrong in (None, True, np.True_, np.array(True), 1.0, "stim001"):
        with pytest.raises(SelectionError, match="expected an int, a slice"):
            view[wrong]


@pytest.mark.parametrize(
    "cut",
    [
        {"time": slice(0, 20)},
        {"time": slice(15, 40)},
        {"repeat": slice(0, 2)},
        {"repeat": slice(1, 4)},
        {"repeat": [2, 0]},
        {"time": slice(5, 30), "frequency": slice(1, 3)},
    ],
)
def test_what_xarray_cuts_off_is_not_counted_any_more(made, cut):
    ds = strfcube.open(made[1]).isel(cut)
    view = CubeView(ds)
    batch = view.batch(range(len(view)))
    there = view.ds["response"].values
    mask = batch["valid_mask"]
    assert mask.sum() == (~np.isnan(there)).sum()
    repeats, bins = mask.shape[2:]
    np.testing.assert_array_equal(batch["responses"], np.where(mask, there[:, :, :repeats, :bins], np.nan))
    np.testing.assert_array_equal(batch["stims"][:, 0], np.nan_to_num(view.ds["stimulus"].values[..., :bins]))


def test_a_lost_shard_is_not_read_as_silence(tmp_path):
    _, path = make_store(tmp_path, stim=4, neuron=3, repeat=2, bins=20, holes=False)
    view = CubeView(path)
    for file in (tmp_path / "cube.zarr" / "response").rglob("c/**/*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(StoreError, match=r"response: the shard at 0/0/0/0 is not there"):
        view.batch([1])


def test_any_order_of_dimensions(made, view):
    turned = CubeView(strfcube.open(made[1]).transpose("time", "repeat", "neuron", "stim", ...))
    same(turned.sel(area="MLd").batch([0, 2]), view.sel(area="MLd").batch([0, 2]))


def test_what_is_no_cube_is_told_apart(made):
    ds = strfcube.open(made[1])
    for wrong, message in (
        (ds.isel(neuron=3), r"no dimension neuron; take one with a list"),
        (ds.drop_attrs(), "lost its attribute dt_ms"),
        (ds["response"], "got DataArray"),
        (strfcube.open(made[1]).drop_vars("n_bins"), "no n_bins"),
    ):
        with pytest.raises(UsageError, match=message):
            CubeView(wrong)
    with pytest.raises(UsageError, match="without mask_and_scale=False"):
        CubeView(xr.open_zarr(made[1], mask_and_scale=False))


def test_options_that_mean_nothing_are_refused(view):
    for options, message in (
        ({"extra": "sound_duration"}, r"extra=\('sound_duration',\)"),
        ({"extra": ("stims",)}, "extra='stims': a batch has something else of this name; rename"),
        ({"extra": ("sound_duration", "repeat_index")}, "extra='repeat_index'"),
        ({"mode": "waveform", "audio_fs": -16000}, "positive rate"),
    ):
        with pytest.raises(UsageError, match=message):
            view.using(**options)
    with pytest.raises(UsageError, match=r"other frequencies: 6 \(.*\) and 3 \(500 to 8000 Hz\) bands"):
        view.standardize(fit=CubeView(make_cube(stim=7, neuron=9, bands=3, holes=False)))


def test_subsets_by_name(view):
    assert len(view.subset("test")) == 1
    with pytest.raises(SelectionError, match="there is test, train"):
        view.subset("tset")


def test_average_repeats(made, view):
    batch = view.using(average_repeats=True).batch([0, 3])
    full = view.batch([0, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        wanted = np.nanmean(full["responses"], axis=2, keepdims=True)
    np.testing.assert_allclose(batch["responses"], wanted, rtol=1e-6)
    np.testing.assert_array_equal(batch["valid_mask"], full["valid_mask"].any(2, keepdims=True))


def test_smoothing_is_that_of_the_accessor_and_keeps_the_scale(made, view):
    import xarray as xr

    smoothed, plain = view.using(smooth_ms=30.0).batch([0, 3]), view.batch([0, 3])
    wanted = smooth(xr.DataArray(plain["responses"], dims=("b", "n", "r", "time")), 5.0, 30.0)
    np.testing.assert_allclose(smoothed["responses"], wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(smoothed["valid_mask"], plain["valid_mask"])
    flat = CubeView(made[0].assign(response=made[0]["response"] * 0 + 3)).using(smooth_ms=30.0).batch([0])
    np.testing.assert_allclose(flat["responses"][flat["valid_mask"]], 3, rtol=1e-6)


def test_standardize_learns_from_the_training_set_only(view):
    train, test = view.splits("train", "test")
    values = np.concatenate([item["stims"][0] for item in train], axis=1).astype(float)
    ready = test.standardize(fit=train)
    mean, deviation = values.mean(1, keepdims=True), values.std(1, keepdims=True)
    np.testing.assert_allclose(ready[0]["stims"][0], (test[0]["stims"][0] - mean) / deviation, rtol=1e-4, atol=1e-5)
    whole = train.standardize(per="all")
    stims = np.concatenate([item["stims"][0] for item in whole], axis=1)
    np.testing.assert_allclose([stims.mean(), stims.std()], [0, 1], atol=1e-5)
    padded = train.standardize().batch([0, 1])["stims"]
    assert (padded[1, ..., view.stim_meta[1]["n_bins"] :] == 0).all()


def test_normalize_learns_from_the_training_set_only(view):
    train, test = view.splits("train", "test")
    n = int(np.flatnonzero(test.n_repeats[0])[0])
    values = np.concatenate([item["responses"][n][item["valid_mask"][n]] for item in train])
    raw, zscored = test[0]["responses"][n], test.normalize("zscore", fit=train)[0]["responses"][n]
    np.testing.assert_allclose(zscored, (raw - values.mean()) / values.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(test.normalize(fit=train)[0]["responses"][n], raw / values.max(), rtol=1e-5)
    np.testing.assert_array_equal(test.normalize(fit=train)[0]["valid_mask"], test[0]["valid_mask"])
    smoothed = view.using(smooth_ms=20.0, average_repeats=True).normalize("max")
    top = max(float(item["responses"][item["valid_mask"]].max()) for item in smoothed)
    assert top == pytest.approx(1, rel=1e-5)
    with pytest.raises(UsageError, match=r"3 neurons have no data in fit: cell000, cell003.*train.sel\(\) hides them"):
        view.normalize(fit=view.isel(stim=[6]))
    for other in (train.isel(neuron=[1]), CubeView(make_cube(neuron=2, holes=False))):
        with pytest.raises(UsageError, match="different neurons, 9 and"):
            view.normalize(fit=other)


def test_a_constant_is_scaled_by_nothing_whatever_rounding_leaves():
    ds = make_cube(stim=5, bins=997, trace=range(5), holes=False)
    for variable, value in (("stimulus", 33.3), ("response", -60.1)):
        ds[variable] = (ds[variable].astype(np.float64) * 0 + value).assign_attrs(ds[variable].attrs)
    view = CubeView(ds).standardize().normalize("zscore")
    batch = view.batch(range(5))
    assert np.abs(batch["stims"]).max() < 1e-4
    assert np.nanmax(np.abs(batch["responses"])) < 1e-4


def test_extra_variables_come_along(made):
    ds = strfcube.open(made[1])
    pupil = np.arange(7 * 40.0).reshape(7, 40)
    ds = ds.assign(pupil=(("stim", "time"), pupil), weight=(("stim", "neuron"), np.arange(63.0).reshape(7, 9)))
    view = CubeView(ds, extra=("pupil", "weight", "sound_duration", "stim_type"))
    batch = view.isel(neuron=[4, 1]).batch([2, 1])
    bins = int(ds["n_bins"][1])
    np.testing.assert_array_equal(batch["pupil"], pupil[[2, 1], :bins])
    np.testing.assert_array_equal(batch["weight"], [[22, 19], [13, 10]])
    assert batch["stim_type"] == ["conspecific", "flatrip"]
    assert view[0]["stim_type"] == "conspecific"
    assert batch["sound_duration"].shape == (2,)
    with pytest.raises(UsageError, match=r"extra='pupli'.*pupil"):
        view.using(extra=("pupli",)).batch([0])


def test_units_are_not_mixed_unless_asked_for():
    view = CubeView(make_cube(trace=(0, 1), holes=False))
    with pytest.raises(UsageError, match=r"count and mV.*signal_type.*allow_mixed"):
        view[0]
    assert view.sel(signal_type="spikes")[0]["responses"].shape[0] == 3
    assert view.using(allow_mixed=True)[0]["responses"].shape[0] == 5


def test_a_stimulus_without_spectrogram_is_not_trained_on_as_silence(tmp_path):
    cube = make_cube(holes=False)
    values = cube["stimulus"].values.copy()
    values[1] = np.nan
    cube = cube.assign(stimulus=cube["stimulus"].copy(data=values))
    from strfcube.builder.save import save as write

    for view in (CubeView(cube), CubeView(write(cube, tmp_path / "cube.zarr"))):
        message = r"1 of 4 stimuli have no spectrogram, such as 'stim001'.*with_stimulus"
        with pytest.raises(UsageError, match=message):
            view.batch([0, 1])
        if view._source._stimuli is not None:  # shards tell before anything is read: not in the middle of an epoch
            with pytest.raises(UsageError, match=message):
                view.loader(2)
        assert [m["stim"] for m in view.with_stimulus().stim_meta] == ["stim000", "stim002", "stim003"]


def test_samples_that_are_no_numbers_are_not_read_as_silence(tmp_path):
    """No build lets them in; a store that somebody else wrote may hold them."""
    stimuli = [make_stim("a"), make_stim("b")]
    toy = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": [spikes(s, "n", 1, [5]) for s in "ab"]})
    path = Path(strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST))
    array = ShardedArray(path / "audio" / "samples")
    samples = array.values(0, array.shape[0])
    samples[3:5] = np.nan
    layout = Layout("audio/samples", (), array.shape, array.chunk, array.shard, array.dtype.str[1:], array.fill)
    write_shard(str(path), layout, (0,), [((0,), samples)])
    seal(path)
    view = CubeView(path, mode="waveform", audio_fs=8000)
    assert np.isfinite(view.batch([1])["stims"]).all()
    for read in (lambda: view.batch([0]), lambda: list(view.loader(2))):
        with pytest.raises(UsageError, match=r"stimulus 'a': 2 samples of its waveform are no numbers"):
            read()


def test_bands_without_a_value_are_zero():
    cube = make_cube(holes=False)
    values = cube["stimulus"].values.copy()
    values[0, -1] = np.nan
    stims = CubeView(cube.assign(stimulus=cube["stimulus"].copy(data=values))).batch([0])["stims"]
    assert (stims[0, 0, -1] == 0).all()
    assert not np.isnan(stims).any()


def test_building_a_view_reads_no_response():
    def fail(block):
        raise AssertionError("a response was read")

    ds = make_cube(stim=5, neuron=1401, repeat=2, bins=8)
    lazy = da.zeros(ds["response"].shape, chunks=(1, 100, -1, -1)).map_blocks(fail, dtype="f4", meta=np.empty(0, "f4"))
    view = CubeView(ds.assign(response=(ds["response"].dims, lazy)))
    view = view.sel(area="MLd").where(lambda d: d.n_repeats > 0).isel(neuron=slice(100)).standardize()
    assert len(view) > 0
    assert view.loader(2, shuffle=True, group_by_repeats=True) is not None
    with pytest.raises(AssertionError, match="was read"):
        view[0]


def test_options_are_checked(made, view):
    for wrong, message in (
        ({"mode": "sound"}, "mode='sound'"), ({"cache": "disk"}, "cache='disk'"), ({"mode": "waveform"}, "need a rate"),
        ({"audio_fs": 16000.0}, "need a rate"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            CubeView(made[1], **wrong)
    with pytest.raises(UsageError, match=r"smoth_ms: no such option; did you mean smooth_ms\?"):
        view.using(smoth_ms=3)
    with pytest.raises(UsageError, match=r"^smooth: no such option; did you mean smooth_ms\?"):
        CubeView(made[1], smooth=21)
    with pytest.raises(UsageError, match="per='bands'"):
        view.standardize(per="bands")
    with pytest.raises(UsageError, match="method='min'"):
        view.normalize("min")
    with pytest.raises(StoreError):
        CubeView("nowhere.zarr")


def test_pickles_small_and_reads_the_same(view):
    view.batch([0, 1])
    data = pickle.dumps(view)
    assert len(data) < 50_000
    same(pickle.loads(data).batch([0, 1]), view.batch([0, 1]))


def test_caches_hold_bytes(made):
    view = CubeView(made[1], cache="ram")
    first = view.batch([0, 3])
    array = view._source._responses.parts[0].source.array
    kept = [values for at in np.ndindex(*array.grid) if at in array.kept and (values := array.kept[at]) is not None]
    assert {values.dtype for values in kept} == {np.dtype("u1")}
    assert len(kept) > 1
    assert len({id(values.base) for values in kept}) == 1  # no arrays of their own
    same(view.batch([0, 3]), first)
    same(view.sel(neuron="cell004").batch([0]), CubeView(made[1], cache="none").sel(neuron="cell004").batch([0]))
    for cache, kept in (("none", False), ("auto", True)):
        rows = view.using(cache=cache)._source._responses
        assert (rows.parts[0].source.array.kept is not None) == kept


def test_traces_are_read_as_they_are(tmp_path):
    cube, path = make_store(tmp_path, dtype="f4", trace=(0, 1, 2, 3, 4), unobserved=True)
    batch = CubeView(path).batch([0, 1])
    wanted = reference(cube, [0, 1])[1]
    np.testing.assert_array_equal(batch["responses"], wanted)
    np.testing.assert_array_equal(batch["valid_mask"], ~np.isnan(wanted))


def test_waveforms_are_locked_to_the_bins(demo):
    from scipy.signal import resample_poly

    view = CubeView(demo, mode="waveform", audio_fs=16000)
    batch = view.batch([0, 1])
    spectrograms = CubeView(demo).batch([0, 1])
    bins = batch["responses"].shape[-1]
    assert tuple(batch["stims"].shape) == (2, 1, bins * 80)
    np.testing.assert_array_equal(batch["valid_mask"], spectrograms["valid_mask"])
    last = view.stim_meta[1]["n_bins"]
    assert (batch["stims"][1, 0, last * 80 :] == 0).all()
    root = zarr.open_group(demo, mode="r")
    size = int(root["audio/row_size"][0])
    samples = root["audio/samples"][:size] / 32768
    wanted = resample_poly(samples, 1, 2)
    got = batch["stims"][0, 0][: len(wanted)]
    match = [np.corrcoef(np.roll(got, lag), wanted[: len(got)])[0, 1] for lag in (-1, 0, 1)]
    assert match[1] > 0.98  # the two filters differ near half the rate
    assert match[1] > max(match[0], match[2]) + 0.1
    own = view.using(audio_fs=32000).batch([0])["stims"][0, 0]
    np.testing.assert_allclose(own[:size], samples[: len(own)], atol=1e-6)
    same(view.using(cache="none").batch([0, 1]), batch)
    pickle.loads(pickle.dumps(view)).batch([0])


def test_waveforms_begin_at_sound_onset(demo):
    ds = strfcube.open(demo)
    late = CubeView(ds.assign_coords(sound_onset=ds["sound_onset"] + 0.5), mode="waveform", audio_fs=32000)
    now = CubeView(ds, mode="waveform", audio_fs=32000)
    a, b = late[0]["stims"][0], now[0]["stims"][0]
    assert (a[:16000] == 0).all()
    np.testing.assert_array_equal(a[16000:], b[:-16000])


def test_waveforms_come_along_into_pools(demo, tmp_path):
    from strfcube.analysis.concat import concat
    from strfcube.builder.save import save as write

    parts = [strfcube.select(strfcube.open(demo), stim_type=kind) for kind in ("flatrip", "conspecific")]
    pooled = concat(parts, ["ripples", "songs"], duplicates="keep")
    written = write(pooled, tmp_path / "pool.zarr")
    assert strfcube.verify(written) == []
    views = [CubeView(source, mode="waveform", audio_fs=16000) for source in (pooled, written)]
    same(views[0].batch([0, 9]), views[1].batch([0, 9]))
    name = views[0].stim_meta[0]["stim_name"]
    (alone,) = [
        item for item in CubeView(demo, mode="waveform", audio_fs=16000) if item["stim_meta"]["stim_name"] == name
    ]
    np.testing.assert_array_equal(views[0][0]["stims"], alone["stims"])


def test_waveforms_that_cannot_be_had_say_why(demo, made):
    with pytest.raises(UsageError, match=r"220.5 samples; .* such as 44000 or 44200 Hz"):
        CubeView(demo, mode="waveform", audio_fs=44100).batch([0])
    with pytest.raises(UsageError, match=r"'stim000' has no waveform.*build it with the sounds"):
        CubeView(made[1], mode="waveform", audio_fs=16000).batch([0])
    with pytest.raises(UsageError, match="opened from a store"):
        CubeView(made[0], mode="waveform", audio_fs=16000).batch([0])
    with pytest.raises(UsageError, match="for spectrograms"):
        CubeView(demo, mode="waveform", audio_fs=16000).standardize()


def test_a_url_is_read_as_a_path_is(made):
    import fsspec

    fsspec.filesystem("memory").put(made[1], "/far.zarr", recursive=True)
    far = CubeView("memory://far.zarr")
    assert isinstance(far._reader._responses, ResponseReader)
    same(far.batch([0, 3]), CubeView(made[1]).batch([0, 3]))


@pytest.mark.slow
def test_the_original_ns1_reads_as_zarr_has_it(real_ns1):
    ds = strfcube.open(real_ns1[1])
    assert dict(ds.sizes)["neuron"] == 119
    direct, lazy = CubeView(ds, cache="none"), CubeView(ds.assign(response=ds["response"] * 1))
    assert isinstance(direct._reader._responses, ResponseReader)
    same(direct.batch([3, 11]), lazy.batch([3, 11]))
    units = direct.subset("valid_unit") if "valid_unit" in ds.coords else direct
    same(units[[4]].batch([0]), lazy.sel(neuron=units.ds["neuron"].values)[[4]].batch([0]))


def test_few_neurons_of_large_chunks_are_read_chunk_by_chunk(tmp_path, monkeypatch):
    path = strfcube.save(make_cube(stim=6, neuron=40, repeat=4, bins=50, holes=False), tmp_path / "cube.zarr")
    view = CubeView(path, cache="none").isel(neuron=[5])
    monkeypatch.setattr("strfcube.loading.batch._SHARE_VALUES", 3 * 40 * 4 * 50)
    shares = view._reader._shares(np.arange(6), 1)
    assert [s.stop - s.start for s in shares] == [3, 3]  # what is decoded counts, not what is wanted of it
    same(view.batch(range(6)), CubeView(path, cache="ram").isel(neuron=[5]).batch(range(6)))


@pytest.mark.parametrize("epoch", [-1, "a", 1.5, True])
def test_an_epoch_is_a_whole_number(made, epoch):
    loader = CubeView(made[1]).loader(2)
    with pytest.raises(UsageError, match=r"epoch=.*expected a whole number from 0"):
        loader.set_epoch(epoch)
    with pytest.raises(UsageError, match=r"epoch=.*expected a whole number from 0"):
        loader.epoch = epoch


def linear(stims):
    """A model of nine neurons: weights of the bands, whatever the framework."""
    return (stims[:, 0, None] * np.linspace(-1, 1, 54, dtype=np.float32).reshape(9, 6)[..., None]).sum(2)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_predictions_are_labelled(made, view, batch_size):
    cube, path = made
    chosen = view.isel(stim=[5, 0, 3, 2])  # in an order of its own
    found = chosen.predict(linear, batch_size=batch_size)
    assert found.dims == ("stim", "neuron", "time")
    assert (found.name, found.dtype, found.attrs["units"]) == ("prediction", np.float32, "count")
    weights = np.linspace(-1, 1, 54, dtype=np.float32).reshape(9, 6)
    for s in (5, 0, 3, 2):
        one, bins = found.sel(stim=cube["stim"][s]), int(cube["n_bins"][s])
        values = np.einsum("nf,ft->nt", weights, np.nan_to_num(cube["stimulus"].values[s, :, :bins]))
        np.testing.assert_allclose(one.values[:, :bins], values, rtol=2e-5, atol=1e-4)
        assert np.isnan(one.values[:, bins:]).all()
    assert found["stim"].values.tolist() == cube["stim"].values[[5, 0, 3, 2]].tolist()
    assert found.coords.keys() == strfcube.open(path)["response"].coords.keys() - {"repeat"}


def test_predictions_go_where_predictions_are_taken(view):
    found = view.predict(linear)
    ds = view.ds.sel(stim=view.ds["stim"][::-1])  # by label
    np.testing.assert_allclose(ds.strf.cc(found), ds.strf.cc(found.sel(stim=ds["stim"]).values))
    assert ds.strf.ccnorm(found).dims == ("neuron",)
    scaled = view.standardize().using(layout="ragged", average_repeats=True).predict(linear)
    assert scaled.shape == found.shape
    assert not np.allclose(scaled, found, equal_nan=True)


def test_a_prediction_may_have_one_repeat(view):
    xr.testing.assert_identical(view.predict(lambda stims: linear(stims)[:, :, None]), view.predict(linear))


@pytest.mark.parametrize("model", [
    lambda stims: linear(stims) + 1j, lambda stims: linear(stims).astype(str), lambda stims: (linear(stims), 1),
    lambda stims: {"rate": linear(stims)}, lambda stims: None,
])  # fmt: skip
def test_what_is_no_array_of_numbers_is_no_prediction(view, model):
    with pytest.raises(UsageError, match=r"^prediction: (expected numbers|cannot be read as an array)"):
        view.predict(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda stims: stims, "shape (7, 1, 6, 40) for 7 stimuli, expected (7, 9, 40)"),
        (lambda stims: linear(stims)[..., :-8], "shape (7, 9, 32) for 7 stimuli, expected (7, 9, 40)"),
        (lambda stims: linear(stims)[:, :, None].repeat(2, 2), "shape (7, 9, 2, 40) for 7 stimuli"),
        (lambda stims: linear(stims)[:, :1], "a value for each of 9 neurons and 40 bins"),
    ],
)
def test_what_is_no_prediction_is_refused(view, model, message):
    with pytest.raises(UsageError, match=r"^predict: the model gave") as caught:
        view.predict(model)
    assert message in str(caught.value)
    with pytest.raises(UsageError, match="expected a model or a function of stims, got int"):
        view.predict(3)
    for size in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="batch_size="):
            view.predict(linear, batch_size=size)


def test_stimuli_that_end_before_a_part_in_time_begins_are_told_of(made):
    late = strfcube.open(made[1]).isel(time=slice(int(made[0]["n_bins"].min()), None))
    view = CubeView(late)
    ended = int((view.ds["n_bins"] == 0).sum())
    assert ended
    with pytest.raises(UsageError, match=rf"^{ended} of 7 stimuli end before this part in time begins"):
        view.loader(1)
    left = view.where(lambda ds: ds["n_bins"] > 0)
    assert left.predict(linear, batch_size=1).sizes["stim"] == 7 - ended
