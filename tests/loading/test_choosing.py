"""One vocabulary on views and ds.strf; training and test views that show the same neurons, and refusals of others."""

import os
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr
from cubes import Label, make_cube, strings
from stores import make_store

import strfcube
from strfcube import SelectionError, StoreError, UsageError
from strfcube.loading import CubeView
from strfcube.loading.alike import lacking


@pytest.fixture(scope="module")
def cube():
    """Ten stimuli; the first neuron heard the last four only, the second the first six, the third none."""
    cube = make_cube(stim=10, neuron=7, repeat=3, bins=50, seed=1, holes=False)
    counts = cube["n_repeats"].values.copy()
    counts[:6, 0] = counts[6:, 1] = counts[:, 2] = 0
    split = strings(["est"] * 6 + ["val"] * 4)
    played = cube["repeat"] < cube["n_repeats"].copy(data=counts)
    return cube.assign(
        n_repeats=(("stim", "neuron"), counts),
        response=cube["response"].where(played.transpose("stim", "neuron", "repeat")),
    ).assign_coords(split=("stim", split))


@pytest.fixture
def view(cube):
    return CubeView(cube)


def labels(view):
    return view[0]["neuron"].tolist()


ALL = [f"cell{n:03d}" for n in range(7)]


def test_positions_hide_no_neurons(view):
    assert labels(view) == ALL
    for part in (view[:6], view[6:], view[[8, 2]], view.isel(stim=slice(0, 2)), view.isel(stim=[True] + [False] * 9)):
        assert labels(part) == ALL
        assert part.batch([0])["responses"].shape[1] == 7
        assert part.ds["neuron"].values.tolist() == ALL
    assert not view[:6].batch(range(6))["valid_mask"][:, 0].any()
    assert labels(view.isel(neuron=[2, 4])) == ["cell002", "cell004"]
    assert len(view.isel(neuron=[0])) == len(view.isel(neuron=[2])) == 10  # nor stimuli that no chosen neuron heard
    assert not view.isel(neuron=[2]).batch(range(10))["valid_mask"].any()
    assert len(view.isel(neuron=[0]).sel()) == 4
    with pytest.raises(SelectionError, match="leaves no stimulus"):
        view.isel(neuron=[])


def test_labels_hide_unless_kept(view):
    for choose in (
        lambda **keep: view.sel(split="est", **keep),
        lambda **keep: view.subset("est", **keep),
        lambda **keep: view.where(lambda ds: ds["split"] == "est", **keep),
    ):
        assert labels(choose()) == ["cell001", *ALL[3:]]
        assert labels(choose(keep="neurons")) == ALL
    assert len(view.sel(neuron="cell000")) == 4
    assert len(view.sel(neuron="cell000", keep="stimuli")) == 10
    assert not view.sel(neuron="cell000", keep="stimuli").batch([0, 1])["valid_mask"].any()
    with pytest.raises(UsageError, match="keep='all'"):
        view.sel(split="est", keep="all")


def test_splits_and_like_give_one_set_of_neurons(view):
    train, val = view.splits("est", "val")
    assert labels(train) == labels(val) == ["cell000", "cell001", *ALL[3:]]
    assert (len(train), len(val)) == (6, 4)
    assert labels(val.standardize(fit=train)) == labels(train)
    test = view.subset("val").like(view.subset("est"))
    assert labels(test) == labels(view.subset("est"))
    assert len(test) == 4
    turned = view[6:].like(view.isel(neuron=[5, 3]))
    assert labels(turned) == ["cell005", "cell003"]
    np.testing.assert_array_equal(turned.batch([0])["responses"], view.batch([6])["responses"][:, [5, 3]])
    other = CubeView(make_cube(neuron=9, holes=False))
    assert labels(other.like(view)) == ALL
    with pytest.raises(UsageError, match=r"like: 2 of 9 neurons are not in this cube, such as 'cell007'"):
        view.like(other)
    with pytest.raises(UsageError, match="like: expected a view, got Dataset"):
        view.like(view.ds)
    with pytest.raises(UsageError, match=r"splits\('est', 'est'\)"):
        view.splits("est", "est")


def test_the_words_of_the_accessor_are_those_of_a_view(cube, view):
    words = {"sel", "isel", "where", "subset", "splits"}
    assert words <= set(dir(cube.strf))
    assert words <= set(dir(view))
    for old in ("select", "split"):
        assert not hasattr(view, old)
        assert not hasattr(cube.strf, old)
    for a, b in (
        (view.sel(area="MLd"), cube.strf.sel(area="MLd")),
        (view.subset("val"), cube.strf.subset("val")),
        (view.subset("val", keep="neurons"), cube.strf.subset("val", keep="neurons")),
        (view.isel(stim=slice(2, 5)), cube.strf.isel(stim=slice(2, 5))),
        (view.isel(stim=[7, 2, 0], neuron=[0, 4]), cube.strf.isel(stim=[7, 2, 0], neuron=[0, 4])),
        (view.isel(neuron=[0, 4]).sel(), cube.strf.isel(neuron=[0, 4]).strf.sel()),
        *zip(view.splits("est", "val"), cube.strf.splits("est", "val"), strict=True),
    ):
        assert a.ds["neuron"].values.tolist() == b["neuron"].values.tolist()
        assert a.ds["stim"].values.tolist() == b["stim"].values.tolist()
        # A view of the part that xarray cut shows the same
        assert labels(CubeView(b)) == labels(a)


def test_fit_refuses_other_neurons(view):
    train, test = view.subset("est"), view.subset("val")
    for scale in (test.standardize, test.normalize):
        with pytest.raises(UsageError, match=r"different neurons, 5 and 5, such as 'cell001'.*like\(train\)"):
            scale(fit=train)
        with pytest.raises(UsageError, match="different neurons, 5 and 5"):
            scale(fit=train.isel(neuron=slice(None)))
        for wrong in ("train", train.ds, 3):
            with pytest.raises(UsageError, match="expected a view, such as fit=train"):
                scale(fit=wrong)
    with pytest.raises(UsageError, match="in another order"):
        view.standardize(fit=view.isel(neuron=[1, 0, 2, 3, 4, 5, 6]))
    for other, message in (
        ({"dt_ms": 10.0}, "different bin widths, 5 ms and 10 ms"),
        ({"bands": 4}, "other frequencies: 6 .* and 4 "),
        ({"trace": range(7)}, "different units, count.* and mV"),
    ):
        unlike = CubeView(make_cube(stim=10, neuron=7, repeat=3, bins=50, holes=False, **other))
        with pytest.raises(UsageError, match=message):
            view.standardize(fit=unlike)


def test_sum_pools_views(view):
    import warnings

    parts = view.subset("est"), view.subset("val")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", strfcube.analysis.concat.DuplicateWarning)
        pooled = sum(parts)
    assert len(pooled) == 10
    assert sum([view]) is view
    with pytest.raises(TypeError):
        1 + view
    with pytest.raises(UsageError, match=r"expected another CubeView, got Dataset.*strfcube.concat"):
        view + view.ds


def test_absent_bands_count_for_nothing(view, cube):
    values = cube["stimulus"].values.copy()
    values[:5, -1] = np.nan  # half the sounds end below the highest band
    lacking = CubeView(cube.assign(stimulus=cube["stimulus"].copy(data=values)))
    n_bins = cube["n_bins"].values
    for per, rows in (("band", [-1]), ("all", slice(None))):
        there = np.concatenate([values[s, rows, : n_bins[s]].ravel() for s in range(10)]).astype(float)
        there = there[~np.isnan(there)]
        mean, deviation = lacking.standardize(per=per)._reading.standardize
        np.testing.assert_allclose([mean[-1, 0], deviation[-1, 0]], [there.mean(), there.std()], rtol=1e-6)
    stims = lacking.standardize().batch([0, 9])["stims"]
    assert (stims[0, 0, -1] == 0).all()
    assert not np.isnan(stims).any()


def test_a_hole_in_a_sound_is_not_silence(cube):
    values = cube["stimulus"].values.copy()
    values[3, :, 7:9] = np.nan
    view = CubeView(cube.assign(stimulus=cube["stimulus"].copy(data=values)))
    message = r"stimulus 'stim003': 2 of its 41 bins have no value in the spectrogram, such as bin 7"
    for read in (lambda: view.batch([3]), lambda: list(view.loader(4)), view.standardize):
        with pytest.raises(UsageError, match=message):
            read()
    values[3, 1:, 7:9] = 1.0  # in one band
    with pytest.raises(UsageError, match=message):
        CubeView(cube.assign(stimulus=cube["stimulus"].copy(data=values))).batch([3])


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-8])])
def test_a_lost_stimulus_shard_is_no_missing_sound(tmp_path, spoil):
    _, path = make_store(tmp_path, stim=4, neuron=3, repeat=2, bins=20, holes=False)
    for file in [f for f in (tmp_path / "cube.zarr" / "stimulus").rglob("c/**/*") if f.is_file()]:
        spoil(file)
    view = CubeView(path)
    for read in (lambda: view.batch([0]), view.with_stimulus, lambda: list(view.loader(2)), view.standardize):
        with pytest.raises(StoreError, match="stimulus"):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.where(ds["area"] == "MLd", drop=True), "'n_repeats'|ds.where"),
        (lambda ds: ds.where(ds["split"] == "est"), "whole numbers in 'n_repeats'|ds.where"),
        (lambda ds: ds.pad(stim=(0, 1)), "labels of 'stim' are missing"),
        (lambda ds: ds.pad(time=(0, 2)), "labels of 'time' are missing"),
        (lambda ds: ds.assign(n_repeats=ds["n_repeats"].where(ds["n_repeats"] > 1)), "whole numbers in 'n_repeats'"),
        (lambda ds: ds.assign(n_bins=ds["n_bins"] * 1.5), "whole numbers in 'n_bins'"),
        (lambda ds: ds.assign(n_repeats=ds["n_repeats"].isel(neuron=0)), "'n_repeats' has lost its dimension neuron"),
        (lambda ds: ds.assign(response=ds["response"].expand_dims("trial")), "'response' is on"),
    ],
)
def test_what_xarray_made_of_a_cube_is_told_in_one_line(cube, change, message):
    with pytest.raises(UsageError, match=message) as told:
        CubeView(change(cube))
    assert "\n" not in str(told.value)


def test_options_fail_where_they_are_given(cube, view):
    for options, message in (
        ({"smooth_ms": -2}, "smooth_ms=-2"),
        ({"smooth_ms": float("nan")}, "smooth_ms=nan"),
        ({"smooth_ms": "21"}, "smooth_ms='21'"),
        ({"mode": "waveform", "audio_fs": "fast"}, "audio_fs='fast'"),
        ({"average_repeats": "no"}, "average_repeats='no', expected True or False"),
        ({"allow_mixed": 0}, "allow_mixed=0, expected True or False"),
    ):
        for call in (view.using, lambda **given: CubeView(cube, **given)):
            with pytest.raises(UsageError, match=message):
                call(**options)
    for options in ({"drop_last": "no"}, {"group_by_repeats": "no"}):
        with pytest.raises(UsageError, match="='no', expected True or False"):
            view.loader(2, **options)
    with pytest.raises(UsageError, match="fit=Dataset, expected a view"):
        view.standardize(fit=cube)
    for wrong in (1.9, "0", None, True, [0]):
        with pytest.raises(UsageError, match="is no position"):
            view.batch([wrong])
    for wrong in (1.9, slice(0, 2), None, "01"):
        with pytest.raises(UsageError, match="expected positions in a list"):
            view.batch(wrong)
    for one in (3, np.int64(3)):
        with pytest.raises(UsageError, match=r"expected positions in a list, got .*3"):
            view.batch(one)


def test_auto_keeps_what_is_small_in_bytes(tmp_path, monkeypatch):
    from strfcube.loading import source

    paths = [make_store(tmp_path, name, stim=3, neuron=4, repeat=2, bins=20, holes=False, **more)[1]
             for name, more in (("counts", {}), ("traces", {"dtype": "f4", "trace": range(4)}))]  # fmt: skip
    size = 3 * 2 * 4 * 20
    for bound, kept in ((size - 1, [False, False]), (size, [True, False]), (4 * size, [True, True])):
        monkeypatch.setattr(source, "AUTO_BYTES", bound)
        assert [keeps(CubeView(path), "response") for path in paths] == kept
    spectrograms = 4 * CubeView(paths[0])._source.cube["stimulus"].size
    for bound in (spectrograms - 1, spectrograms):  # whatever the responses take
        monkeypatch.setattr(source, "AUTO_BYTES", bound)
        assert keeps(CubeView(paths[0]), "stimulus") == (bound == spectrograms)


def keeps(view, name):
    return view._source._rows(name).parts[0].source.array.kept is not None


def test_what_a_batch_holds_is_its_own(view):
    batch = view.using(extra=("duration", "n_bins")).batch([0, 1])
    wanted = view.stim_meta[0]
    batch["stim_meta"][0]["stim"] = view.stim_meta[1]["stim"] = "spoiled"
    for key in ("duration", "n_bins"):
        batch[key][:] = 0
    assert view.stim_meta[0] == wanted
    assert view.batch([0])["stim_meta"] == [wanted]
    assert view.stim_meta[1]["stim"] == "stim001"
    assert view._source.cube["n_bins"].values.all()
    with pytest.raises(ValueError, match="read-only"):
        batch["neuron"][0] = "spoiled"


def test_a_view_finds_its_store_from_another_folder(tmp_path, monkeypatch):
    make_store(tmp_path, stim=3, neuron=4, repeat=2, bins=20, holes=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    view = CubeView("cube.zarr")
    sent = pickle.dumps(view)
    wanted = CubeView("cube.zarr", cache="none").batch([0, 1])
    os.chdir("elsewhere")
    for there in (view, pickle.loads(sent), pickle.loads(pickle.dumps(view.sel(area="MLd")))):
        np.testing.assert_array_equal(there.batch([0, 1])["stims"], wanted["stims"])
    np.testing.assert_array_equal(view.ds["response"].isel(stim=0).values[:, :2, :20], wanted["responses"][0])


def sent_and_read(view):
    there = pickle.loads(pickle.dumps(view))
    lazy = ["response", "stimulus"]
    xr.testing.assert_identical(there.ds.drop_vars(lazy), view.ds.drop_vars(lazy))
    for name in lazy:
        assert there.ds[name].identical(view.ds[name])
    got, wanted = there.batch([0, 1]), view.batch([0, 1])
    np.testing.assert_array_equal(got["responses"], wanted["responses"])
    np.testing.assert_array_equal(got["stims"], wanted["stims"])
    assert got["neuron"].tolist() == wanted["neuron"].tolist()
    return there


def test_a_process_reads_labels_and_coverage_itself(tmp_path):
    sizes = {"stim": 60, "neuron": 4000, "repeat": 1, "bins": 2, "bands": 2, "holes": False}
    path = strfcube.save(make_cube(**sizes), tmp_path / "cube.zarr")
    view = CubeView(path)
    some = sum(v.nbytes for n, v in view._source.cube.variables.items() if n not in ("response", "stimulus"))
    assert some > 1_000_000
    view.batch([0])
    assert len(pickle.dumps(view)) < some / 20
    assert len(pickle.dumps(view.sel(animal="gg", split="train"))) < some / 20
    sent_and_read(view.sel(animal="gg", split="train")[1:40])
    marked = view.where(lambda ds: (ds["n_repeats"] > 0) & (ds["stim_type"] == "flatrip"))  # pairs
    assert marked._choice.pairs is not None
    assert len(pickle.dumps(marked)) < some / 20
    np.testing.assert_array_equal(sent_and_read(marked)._choice.pairs, marked._choice.pairs)
    ds = strfcube.open(path)
    for cube in (
        ds.isel(neuron=np.arange(4000)[::-2], stim=slice(3, 30), time=slice(0, 1)),
        ds.assign_coords(depth=("neuron", np.arange(4000.0))).drop_vars("animal"),
        ds.assign(n_rejected=ds["n_rejected"] + 1).assign_attrs(note="mine"),
        ds.assign_coords(neuron=[f"other{n}" for n in range(4000)]),
    ):
        sent_and_read(CubeView(cube, extra=("stim_type",)))
    lazily = CubeView(ds.assign(response=ds["response"] * 2))  # of values that no store holds
    assert lazily._source._sent is None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazily))[0]["responses"], 2 * view[0]["responses"])
    sent = pickle.dumps(view)
    shutil.rmtree(path)
    strfcube.save(make_cube(**sizes, seed=9), path)
    with pytest.raises(StoreError, match="was built again while it was open"):
        pickle.loads(sent)


def test_other_neurons_are_told_by_looking_labels_up(cube):
    Label.compared = 0
    one, other = np.empty(600, object), np.empty(600, object)
    one[:], other[:] = [Label(f"n{n}") for n in range(600)], [Label(f"n{n}") for n in range(1, 601)]
    assert lacking(one, other) == ["n0"]
    assert lacking(other, one) == ["n600"]
    assert Label.compared < 10 * 600
