"""Pools: what goes where, what is refused, what is reported, and that they are read and written like any cube."""

import json
import re
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import make_cube, strings
from stores import make_store
from toy import make_neuron, make_stim, spikes, write_toy

import strfcube
from strfcube import StoreError, UsageError
from strfcube.analysis.concat import DuplicateWarning, concat, find_duplicates
from strfcube.builder.save import save as write
from strfcube.cube.lazy_array import rows_of
from strfcube.cube.schema import problems


def named(cube, prefix, md5=None):
    """A cube whose cells and sounds are its own, unless `md5` says otherwise."""
    cells = strings(f"{prefix}{v}" for v in cube["cell_id"].values)
    sounds = [f"{prefix}{i}" for i in range(cube.sizes["stim"])] if md5 is None else md5
    return cube.assign_coords(cell_id=("neuron", cells), md5=("stim", strings(sounds))).assign_attrs(dataset=prefix)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    made = []
    for name, sizes in (
        ("a", {"stim": 4, "neuron": 5, "bins": 40}),
        ("b", {"stim": 3, "neuron": 4, "repeat": 5, "bins": 50}),
    ):
        cube, _ = make_store(folder, f"raw-{name}", seed=len(made), **sizes)
        cube = named(cube, name)
        if name == "b":
            cube = cube.assign_coords(depth=("neuron", np.arange(4)), tuned=("neuron", np.arange(4) > 1))
        written = write(cube, folder / f"{name}.zarr")
        made.append((cube, written))
    return made


def test_block_diagonal(pair):
    (a, _), (b, _) = pair
    pooled = concat([a, b])
    assert not problems(pooled)
    assert pooled["response"].shape == (7, 9, 5, 50)
    for cube, stims, neurons in ((a, slice(0, 4), slice(0, 5)), (b, slice(4, 7), slice(5, 9))):
        block = pooled.isel(stim=stims, neuron=neurons)
        sizes = cube["response"].shape
        np.testing.assert_array_equal(block["response"].values[:, :, : sizes[2], : sizes[3]], cube["response"].values)
        np.testing.assert_array_equal(block["n_repeats"].values, cube["n_repeats"].values)
        np.testing.assert_array_equal(block["stimulus"].values[..., : sizes[3]], cube["stimulus"].values)
    elsewhere = pooled.isel(stim=slice(0, 4), neuron=slice(5, 9))
    assert np.isnan(elsewhere["response"].values).all()
    assert (elsewhere["n_repeats"] == 0).all()
    assert pooled["neuron"].values[0] == "a:cell000"
    assert pooled["dataset"].values.tolist() == ["a"] * 5 + ["b"] * 4
    assert pooled["stim_dataset"].values.tolist() == ["a"] * 4 + ["b"] * 3
    assert np.isnan(pooled["depth"].values[:5]).all()
    assert pooled["tuned"].values.tolist() == [False] * 7 + [True] * 2
    assert pooled.attrs["dataset"] == "a+b"
    assert strfcube.select(pooled, dataset="b").sizes["stim"] == 3


def test_it_is_lazy_and_read_directly(pair):
    (a, path_a), (b, path_b) = pair
    opened = [strfcube.open(path_a), strfcube.open(path_b)]
    pooled = concat(opened)
    assert pooled["response"].chunks is not None
    assert [p.store.path for p in rows_of(pooled["response"]).parts] == [path_a, path_b]
    in_memory = concat([a, b])
    np.testing.assert_array_equal(pooled["response"].values, in_memory["response"].values)
    assert rows_of(concat([opened[0], b])["response"]) is None


def test_views_of_pools(pair):
    pytest.importorskip("torch")
    from strfcube import CubeDataset
    from strfcube.cube.response_reader import ResponseReader

    (a, path_a), (b, path_b) = pair
    direct, plain = CubeDataset(concat([path_a, path_b])), CubeDataset(concat([a, b]))
    added = CubeDataset(path_a) + CubeDataset(path_b)
    assert isinstance(direct._reader._responses, ResponseReader)
    assert isinstance(added._reader._responses, ResponseReader)
    assert len(direct) == len(added) == 7
    order = [-1, 0, 4]
    neurons = [7, 1, 5, 2]
    for v, w in (
        (direct, plain), (added, plain), (direct.isel(neuron=neurons), plain.isel(neuron=neurons)),
        (CubeDataset(strfcube.select(concat([path_a, path_b]), area="MLd")), plain.sel(area="MLd")),
    ):  # fmt: skip
        one, other = v.batch(order), w.batch(order)
        for key in ("stims", "responses", "valid_mask"):
            np.testing.assert_array_equal(one[key].numpy(), other[key].numpy())
    ours, theirs = CubeDataset(path_a).sel(area="MLd"), CubeDataset(path_b).sel(stim_type="flatrip")
    wanted = [f"a:{m['stim']}" for m in ours.stim_meta] + [f"b:{m['stim']}" for m in theirs.stim_meta]
    assert [m["stim"] for m in (ours + theirs).stim_meta] == wanted
    with pytest.warns(DuplicateWarning, match="duplicates|stimuli='shared'"):
        twice = CubeDataset(path_a) + CubeDataset(path_a).isel(stim=[0])
    assert twice.ds.attrs["dataset"] == "a-1+a-2"


def test_adding_views_that_are_read_differently_is_refused(pair):
    pytest.importorskip("torch")
    from strfcube import CubeDataset

    view = CubeDataset(pair[0][1])
    with pytest.raises(UsageError, match="add them first"):
        view + view.using(smooth_ms=20.0)
    with pytest.raises(UsageError, match="add them first"):
        view.standardize() + view.standardize()
    with pytest.raises(UsageError, match="add them first"):
        view + view.to("cpu")
    with pytest.raises(TypeError):
        view + 1


def test_shared_sounds_become_one(tmp_path):
    a = named(make_cube(stim=4, neuron=2, holes=False), "a", ["x", "y", "z", "w"])
    b = named(make_cube(stim=4, neuron=3, holes=False, seed=1), "b", ["w", "x", "v", "u"])
    b = b.assign(n_bins=("stim", np.array([31, 40, 34, 31], np.int32)))
    b["response"] = b["response"].where(xr.DataArray(np.arange(40), dims="time") < b["n_bins"])
    pooled = concat([a, b], stimuli="shared")
    assert not problems(pooled)
    assert pooled["md5"].values.tolist() == ["x", "y", "z", "w", "v", "u"]
    assert pooled["stim_dataset"].values.tolist() == ["a+b", "a", "a", "a+b", "b", "b"]
    assert (pooled["n_repeats"].values > 0).tolist() == [
        [True] * 5, [True, True, False, False, False], [True, True, False, False, False], [True] * 5,
        [False, False, True, True, True], [False, False, True, True, True],
    ]  # fmt: skip
    np.testing.assert_array_equal(pooled["response"].values[0, 2:], b["response"].values[1])
    np.testing.assert_array_equal(pooled["stimulus"].values[3], a["stimulus"].values[3])
    paths = [write(a, tmp_path / "a.zarr"), write(b, tmp_path / "b.zarr")]
    direct = concat(paths, stimuli="shared")
    assert rows_of(direct["response"]).parts[1].stim.tolist() == [1, -1, -1, 0, 2, 3]
    np.testing.assert_array_equal(direct["response"].values, pooled["response"].values)


def test_sounds_without_md5_are_shared_by_name_and_spectrogram():
    a = make_cube(stim=3, neuron=2, holes=False).assign_attrs(dataset="a")
    b = make_cube(stim=3, neuron=2, holes=False).assign_attrs(dataset="b")
    other = b["stimulus"].values.copy()
    other[1] += 1
    b = b.assign(stimulus=b["stimulus"].copy(data=other)).assign_coords(cell_id=("neuron", strings(["p", "q"])))
    pooled = concat([a, b], stimuli="shared")
    assert pooled["stim_dataset"].values.tolist() == ["a+b", "a", "a+b", "b"]


def twice_played(seed=0, lazy=False):
    """A cube in which two sounds were played as two classes each, one of them without an MD5."""
    ds = make_cube(stim=8, neuron=9, repeat=3, seed=seed)
    sound = np.array([0, 1, 0, 3, 4, 1, 6, 4])
    stimulus = ds["stimulus"].values[sound]
    md5 = strings(["q0", "q1", "q0", "q3", "", "q1", "q6", ""])
    bins = ds["n_bins"].values[sound]
    kept = (np.arange(40) < bins[:, None, None, None]) & (
        np.arange(3)[:, None] < ds["n_repeats"].values[..., None, None]
    )
    counts = np.random.default_rng(seed).poisson(0.5, kept.shape)
    ds = ds.assign(
        stimulus=ds["stimulus"].copy(data=stimulus), n_bins=ds["n_bins"].copy(data=bins),
        response=ds["response"].copy(data=np.where(kept, counts, np.nan).astype("f4")),
    ).assign_coords(
        md5=("stim", md5), stim_name=("stim", strings(f"wav{i}" for i in sound)),
        stim_type=("stim", strings(["song", "song", "songrip", "song", "song", "songrip", "flatrip", "song"])),
        cell_id=("neuron", strings(f"c{n}" for n in range(9))),
    )  # fmt: skip
    return ds.chunk(stim=2) if lazy else ds


@pytest.mark.parametrize("seed", range(8))
def test_pooling_the_parts_of_a_cube_gives_the_cube(seed):
    ds = twice_played(seed, lazy=seed % 2)
    part = np.random.default_rng(seed).integers(0, 3, 9)
    parts = [ds.strf.sel(neuron=ds["neuron"].values[part == i].tolist()) for i in range(3) if (part == i).any()]
    names = ["x", "y", "z"][: len(parts)]
    pooled = concat(parts, names, stimuli="shared")  # and no word of duplicates
    assert not problems(pooled)
    heard = (ds["n_repeats"] > 0).any("neuron").values
    assert pooled.sizes["stim"] == heard.sum()
    back = pooled.assign_coords({d: strings(v.partition(":")[2] for v in pooled[d].values) for d in ("stim", "neuron")})
    back = back.sel(stim=ds["stim"].values[heard], neuron=ds["neuron"].values)
    for name in ("response", "stimulus", "n_repeats", "n_bins", "stim_type", "md5", "stim_name", "area", "duration"):
        np.testing.assert_array_equal(back[name].values, ds.isel(stim=heard)[name].values, err_msg=name)


def test_a_sound_of_two_classes_is_matched_class_by_class_across_data_sets():
    a, b = twice_played(0), twice_played(1).isel(stim=[5, 2, 0, 3])
    b = named(b, "b", b["md5"].values).assign_coords(stim=strings("pqrs"))
    a = a.assign_attrs(dataset="a")
    pooled = concat([a, b], stimuli="shared")
    assert pooled.sizes["stim"] == 8
    shared = pooled.isel(stim=np.flatnonzero(pooled["stim_dataset"].values == "a+b"))
    assert [(str(m), str(t)) for m, t in zip(shared["md5"].values, shared["stim_type"].values, strict=True)] == [
        ("q0", "song"), ("q0", "songrip"), ("q3", "song"), ("q1", "songrip")
    ]  # fmt: skip
    only = b.isel(stim=[1]).assign_coords(
        stim_type=("stim", strings(["motif"])), stim_category=("stim", strings(["x"]))
    )
    apart = concat([a, only], stimuli="shared", duplicates="keep")  # of two songs it is neither for certain
    assert apart.sizes["stim"] == 9


def test_the_spectrogram_is_of_whichever_cube_has_one(tmp_path):
    pytest.importorskip("torch")
    from strfcube import CubeDataset

    whole = make_cube(stim=4, neuron=6, holes=False)
    whole = whole.assign_coords(
        md5=("stim", strings("wxyz")), cell_id=("neuron", strings(f"c{n}" for n in range(6))),
        stim_source=("stim", strings(["wav"] * 4)),
    )  # fmt: skip
    lacks = whole.isel(neuron=slice(3)).assign(stimulus=whole["stimulus"].where(whole["stim"] != "stim001"))
    has = whole.isel(neuron=slice(3, 6)).assign(stimulus=whole["stimulus"].where(whole["stim"] != "stim002"))
    for stored in (False, True):
        if stored:
            lacks, has = (strfcube.open(write(ds, tmp_path / f"{i}.zarr")) for i, ds in enumerate((lacks, has)))
        for cubes in ([lacks, has], [has, lacks], [lacks.assign_attrs(dataset="other"), has]):
            pooled = concat(cubes, ["a", "b"], stimuli="shared")
            assert pooled.sizes["stim"] == 4
            np.testing.assert_array_equal(pooled["stimulus"].values, whole["stimulus"].values)
            batch = CubeDataset(pooled).batch([0, 1, 2, 3])
            wanted = np.nan_to_num(whole["stimulus"].values)
            np.testing.assert_array_equal(batch["stims"].numpy()[:, 0], wanted)
    both = [ds.assign(stimulus=ds["stimulus"].where(ds["stim"] != "stim003")) for ds in (lacks, has)]
    silent = concat(both, ["a", "b"], stimuli="shared")
    assert np.isnan(silent["stimulus"].values[3]).all()


@pytest.mark.parametrize("lazy", [False, True])
def test_equal_sounds_without_md5_are_reported(lazy):
    a = named(make_cube(stim=4, neuron=3, holes=False), "a", [""] * 4)
    b = named(make_cube(stim=4, neuron=3, holes=False), "b", [""] * 4).isel(stim=[0, 3, 1])
    b = b.assign_coords(stim=strings("pqr"), stim_name=("stim", strings("pqr")))
    silent = b["stimulus"].where(b["stim"] != "p")
    other = (b["stimulus"] * 1.01).astype("f4")
    if lazy:
        a, b, silent = a.chunk(stim=1), b.chunk(stim=2), silent.chunk(stim=1)
    with pytest.warns(
        DuplicateWarning, match=r"3 sound\(s\) of a are also in b: stim000 = p, stim001 = r, stim003 = q"
    ):
        concat([a, b])
    with pytest.warns(DuplicateWarning, match=r"2 sound\(s\)"):
        concat([a, b.assign(stimulus=silent)])
    with pytest.warns(DuplicateWarning, match=r"1 sound\(s\)"):  # one side alone has its MD5
        concat([a.assign_coords(md5=("stim", strings("mnop"))), b.isel(stim=[2])])
    with pytest.warns(DuplicateWarning, match=r"3 sound\(s\)"):  # other names: they are not made one, and that is said
        concat([a, b], stimuli="shared")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        concat([a, b.assign(stimulus=other)])
        concat([a, b.assign_coords(stim_name=("stim", strings(["0.wav", "3.wav", "1.wav"])))], stimuli="shared")


RECIPE = {"align": "centre", "dt_ms": 5.0, "front_end": {"kind": "mel", "window_ms": 10.0, "floor_db": -80.0,
                                                        "compression": "cubic", "f_max": None}}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"align": "causal"}, "align differ: a has 'centre', b has 'causal'"),
        ({"window_ms": 20.0}, r"front ends \(window_ms\) differ: a has 10.0, b has 20.0"),
        ({"floor_db": -60.0}, r"front ends \(floor_db\) differ: a has -80.0, b has -60.0"),
        ({"compression": "db"}, r"\(compression\) differ: a has 'cubic', b has 'db'"),
        ({"kind": "cochleagram"}, r"\(kind\) differ: a has 'mel', b has 'cochleagram'"),
        ({"power": 2}, r"\(power\) differ: a has None, b has 2"),
    ],
)
def test_cubes_of_other_recipes_are_refused(change, message):
    other = {**RECIPE, "align": change.get("align", "centre"), "post_ms": 200.0}
    other["front_end"] = RECIPE["front_end"] | {k: v for k, v in change.items() if k != "align"}
    a, b = named(make_cube(holes=False), "a"), named(make_cube(holes=False, seed=1), "b")
    a, b = a.assign_attrs(recipe=json.dumps(RECIPE)), b.assign_attrs(recipe=json.dumps(other))
    for cubes in ([a, b], [concat([a], ["a"]), b]):
        with pytest.raises(UsageError, match=message):
            concat(cubes, ["a", "b"])
    if "align" not in change:
        assert concat([a, b], bands="by_number").sizes["stim"] == 8
    assert concat([a, b.assign_attrs(recipe=json.dumps(RECIPE | {"post_ms": 200.0}))]).sizes["stim"] == 8


def test_one_sound_of_two_lengths_is_refused():
    a = named(make_cube(stim=2, holes=False), "a", ["x", "y"])
    b = named(make_cube(stim=2, holes=False, bins=44), "b", ["x", "z"])
    with pytest.raises(UsageError, match="40 bins in a and 44 in b"):
        concat([a, b], stimuli="shared")


def change(cube, **attrs):
    return cube.assign(response=cube["response"].assign_attrs(attrs))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda _: named(make_cube(dt_ms=10.0, holes=False), "b"), r"bin widths differ: a has 5 ms, b has 10 ms"),
        (lambda c: change(c, units="mV"), r"units of the responses differ: a has 'count', b has 'mV'"),
        (lambda c: c.isel(frequency=slice(5)), r"frequency axes differ: a has 6 bands, b has 5 bands"),
        (lambda c: c.assign_coords(frequency=c["frequency"] * 2), r"a has 500 to 8000 Hz, b has 1000 to 16000 Hz"),
        (lambda c: c.assign(stimulus=c["stimulus"].assign_attrs(units="dB")), r"a has 'power\^\(1/3\)', b has 'dB'"),
    ],
)
def test_unlike_cubes_are_refused_with_both_values(other, message):
    a, b = named(make_cube(holes=False), "a"), other(named(make_cube(holes=False), "b"))
    with pytest.raises(UsageError, match=message):
        concat([a, b])


def test_a_pool_across_species_goes_by_the_number_of_the_band():
    a = named(make_cube(holes=False), "a")
    b = named(make_cube(holes=False, seed=1), "b")
    b = b.assign_coords(frequency=b["frequency"] * 2, species=("neuron", strings(["ferret"] * 5)))
    b = b.assign(stimulus=b["stimulus"].assign_attrs(units="dB"))
    pooled = concat([a, b], bands="by_number")
    assert pooled["frequency"].values.tolist() == list(range(6))
    np.testing.assert_allclose(pooled["band_frequency"].values[[0, 4]], [a["frequency"], b["frequency"]])
    assert pooled["stimulus_units"].values.tolist() == ["power^(1/3)"] * 4 + ["dB"] * 4
    assert pooled["stimulus"].attrs["units"] == "mixed"
    assert strfcube.select(pooled, species="ferret").sizes == {
        "stim": 4, "neuron": 5, "repeat": 3, "time": 40, "frequency": 6
    }  # fmt: skip


def spread(cube, values):
    """A split of pairs instead of one of stimuli."""
    pairs = np.empty((cube.sizes["stim"], cube.sizes["neuron"]), object)
    pairs[:] = values
    return cube.drop_vars("split").assign_coords(split=(("stim", "neuron"), pairs))


@pytest.mark.parametrize("turned", [False, True])
def test_a_split_of_stimuli_beside_one_of_pairs_is_one_of_pairs(turned):
    a = named(make_cube(holes=False), "a")
    b = spread(named(make_cube(stim=3, neuron=3, seed=2, holes=False), "b"), ["train", "test", "train"])
    if turned:
        b = b.assign_coords(split=b["split"].transpose())
    for cubes in ([a, b], [b, a]):
        p = concat(cubes)
        assert p["split"].dims == ("stim", "neuron")
        of_a = p.isel(stim=(p["stim_dataset"] == "a").values, neuron=(p["dataset"] == "a").values)
        of_b = p.isel(stim=(p["stim_dataset"] == "b").values, neuron=(p["dataset"] == "b").values)
        assert of_a["split"].values.tolist() == [5 * [value] for value in a["split"].values]
        assert of_b["split"].values.tolist() == b["split"].transpose("stim", "neuron").values.tolist()
        assert set(p["split"].where(p["n_repeats"] == 0, "").values.ravel()) == {""}
        train = p.strf.subset("train")
        assert (train.sizes["stim"], train.sizes["neuron"]) == (6, 7)
        assert int((train["n_repeats"] > 0).sum()) == 3 * 5 + 3 * 2


def test_shared_sounds_that_cubes_split_otherwise_are_split_by_pairs():
    a = named(make_cube(holes=False), "a", md5="0123")
    b = named(make_cube(seed=2, holes=False), "b", md5="0123").assign(stimulus=a["stimulus"])
    same = concat([a, b], stimuli="shared")
    assert same["split"].values.tolist() == ["train", "train", "train", "test"]
    b["split"] = ("stim", strings(["test", "train", "train", "train"]))
    p = concat([a, b], stimuli="shared")
    assert p["split"].values.tolist() == [
        5 * [x] + 5 * [y] for x, y in zip(a["split"].values, b["split"].values, strict=True)
    ]
    only_b = concat([a.drop_vars("split"), b], stimuli="shared")
    assert only_b["split"].values.tolist() == b["split"].values.tolist()


def test_a_coordinate_of_stimuli_here_and_of_neurons_there_is_refused():
    a = named(make_cube(), "a").assign_coords(site=("stim", strings("wxyz")))
    b = named(make_cube(seed=1), "b").assign_coords(site=("neuron", strings("vwxyz")))
    for cubes in ([a, b], [b, a]):
        with pytest.raises(UsageError, match=r"'site' is on \w+ in \w, on \w+ in \w: rename it.*drop_vars\('site'\)"):
            concat(cubes)
    bands = b.drop_vars("site").assign_coords(site=("frequency", np.arange(6)))
    with pytest.raises(UsageError, match="on stim in a, on frequency in b"):
        concat([a, bands])


def test_what_a_cube_lacks_is_missing_and_no_value():
    a = named(make_cube(stim=2, neuron=2, holes=False), "a").assign_coords(
        level=("stim", [60, 70]), best=(("stim", "neuron"), [[1, 2], [3, 4]]), note=("neuron", [1.5, np.nan]),
        valid=("neuron", [True, True]), animal_of=("neuron", strings(["x", "y"])),
    )  # fmt: skip
    b = named(make_cube(stim=1, neuron=1, seed=2, holes=False), "b").assign_coords(
        note=("neuron", strings(["deep"])), label="scalar"
    )
    p = concat([a, b])
    np.testing.assert_array_equal(p["level"], [60, 70, np.nan])
    np.testing.assert_array_equal(p["best"], [[1, 2, np.nan], [3, 4, np.nan], 3 * [np.nan]])
    assert p["note"].values.tolist() == ["1.5", "", "deep"]
    assert p["valid"].values.tolist() == [True, True, False]
    assert p["animal_of"].values.tolist() == ["x", "y", ""]
    assert p["n_repeats"].dtype.kind == "u"


@pytest.mark.parametrize("dtype", ["u1", "i2", "?", "f2"])
@pytest.mark.parametrize("lazy", [False, True])
def test_nothing_is_padded_with_data(dtype, lazy):
    """Neither in repeats and bins that a cube lacks, nor in the pairs that nobody heard."""
    u = named(make_cube(stim=1, holes=False, rate=1), "u")
    whole = u["response"].astype(dtype).assign_attrs(units="count")
    u = u.assign(response=whole, stimulus=(u["stimulus"] * 9).round().astype("u1").assign_attrs(u["stimulus"].attrs))
    v = named(make_cube(stim=2, repeat=5, bins=60, seed=9, holes=False), "v")
    p = concat([u.chunk(neuron=2) if lazy else u, v]).compute(scheduler="synchronous")
    assert p["response"].dtype == np.float32
    assert int(p["response"].notnull().sum()) == u["response"].size + int(v["response"].notnull().sum())
    mine = p["response"].isel(stim=0, neuron=slice(0, 5))
    np.testing.assert_allclose(mine.mean(["repeat", "time"]), whole.mean(["stim", "repeat", "time"]), rtol=1e-3)
    assert p["stimulus"].isel(stim=0, time=slice(40, None)).isnull().all()


def test_zeros_that_nobody_recorded_are_missing_in_a_pool():
    a = named(make_cube(), "a")
    filled = a.assign(response=a["response"].fillna(0).astype("u1").assign_attrs(units="count"))
    b = named(make_cube(seed=1), "b")
    np.testing.assert_array_equal(concat([filled, b])["response"], concat([a, b])["response"])


def test_names_that_make_equal_labels_are_refused_at_once():
    a = make_cube(stim=1, neuron=2)
    b = make_cube(stim=1, neuron=1, seed=1)
    a = a.assign_coords(neuron=strings(["c:x", "y"]), stim=strings(["s"]))
    b = b.assign_coords(neuron=strings(["x"]), stim=strings(["t"]))
    with pytest.raises(UsageError, match=r"'a:c:x' would be both 'c:x' of a and 'x' of a:c \(labels of 'neuron'\)"):
        concat([a, b], names=["a", "a:c"], duplicates="keep")


def test_pools_by_number_of_band_keep_their_bands():
    a, b = named(make_cube(), "a"), named(make_cube(seed=1), "b")
    b = b.assign_coords(frequency=b["frequency"] * 2)
    p = concat([a, b], bands="by_number")
    c = named(make_cube(seed=2), "c")
    for pool in (concat([p, c], ["p", "c"], bands="by_number"), concat([p, p.assign_attrs(dataset="q")], ["p", "q"],
                 duplicates="keep")):  # fmt: skip
        np.testing.assert_array_equal(pool["band_frequency"][:8], p["band_frequency"])
        assert pool["stimulus_units"].values.tolist()[:8] == p["stimulus_units"].values.tolist()


def test_copies_are_reported_and_can_be_dropped():
    a = named(make_cube(stim=3, neuron=5, holes=False), "a", ["x", "y", ""])
    b = named(make_cube(stim=3, neuron=6, holes=False, seed=1), "b", ["q", "y", ""])
    shared = b["cell_id"].values.copy()
    shared[[1, 4]] = a["cell_id"].values[[0, 2]]
    b = b.assign_coords(cell_id=("neuron", shared))
    cells, sounds = find_duplicates([a, b], ["a", "b"])
    assert cells.labels == (("cell000", "cell001"), ("cell002", "cell004"))
    assert sounds.labels == (("stim001", "stim001"),)
    with pytest.warns(
        DuplicateWarning, match=r"2 cell\(s\) of a are also in b: cell000 = cell001.*1 sound\(s\)"
    ) as caught:
        pooled = concat([a, b])
    assert caught[0].filename == __file__
    assert pooled.sizes["neuron"] == 11
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert concat([a, b], duplicates="keep").sizes["neuron"] == 11
        dropped = concat([a, b], duplicates="drop")
    assert dropped.sizes["neuron"] == 9
    assert not {"b:cell001", "b:cell004"} & set(dropped["neuron"].values)
    with pytest.raises(UsageError, match="every cell of c"):
        concat([a, a.assign_attrs(dataset="c")], duplicates="drop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["x"]}, "expected 2 different names"), ({"names": ["x", "x"]}, "expected 2 different names"),
        ({"stimuli": "both"}, "stimuli='both'"), ({"bands": "any"}, "bands='any'"),
        ({"duplicates": "no"}, "duplicates='no'"),
    ],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        concat([make_cube(), make_cube(seed=1)], **({"names": ["a", "b"]} | options))
    with pytest.raises(UsageError, match="at least one"):
        concat([])


def test_a_pool_is_written_and_opens_like_any_cube(pair, tmp_path):
    (_, path_a), (_, path_b) = pair
    pooled = concat([path_a, path_b])
    path = write(pooled, tmp_path / "pool.zarr")
    assert strfcube.verify(path) == []
    again = strfcube.open(path)
    assert zarr.open_array(f"{path}/response").dtype == "u1"
    for name in ("response", "stimulus", "n_repeats", "dataset", "depth", "tuned"):
        xr.testing.assert_equal(again[name], pooled[name])
    assert [p.name for p in tmp_path.iterdir()] == ["pool.zarr"]
    with pytest.raises(StoreError, match="there is a cube already"):
        write(pooled, path)


@pytest.mark.parametrize(("scale", "dtype"), [(1, "u1"), (300, "u2"), (70000, "f4"), (0.5, "f4"), (-1, "f4")])
def test_the_stored_dtype_holds_every_value(tmp_path, scale, dtype):
    cube = make_cube(holes=False)
    cube = cube.assign(response=cube["response"] * np.float32(scale))
    cube["response"].attrs["units"] = "count"
    path = write(cube, tmp_path / "cube.zarr")
    assert zarr.open_array(f"{path}/response").dtype == dtype
    np.testing.assert_array_equal(strfcube.open(path)["response"].values, cube["response"].values)


def test_nothing_is_left_of_a_failed_write(tmp_path):
    def fail(block):
        raise RuntimeError("the disk is on fire")

    cube = make_cube(holes=False).chunk(stim=1)
    broken = cube["response"].copy(data=cube["response"].data.map_blocks(fail, dtype="f4", meta=np.empty(0, "f4")))
    with pytest.raises(RuntimeError, match="on fire"):
        write(cube.assign(response=broken.assign_attrs(units="mV")), tmp_path / "cube.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_written_pool_says_what_it_is(pair, tmp_path):
    from strfcube.cli.describe import summary

    path = write(concat([pair[0][1], pair[1][1]], ["one", "two"]), tmp_path / "pool.zarr")
    assert "a pool of one, two" in summary(strfcube.open(path), path, 100)
    with pytest.raises(UsageError, match=r"is a pool.*rebin the cubes it was made of"):
        strfcube.rebin(path, 10)


@pytest.mark.slow
def test_trials_come_along(demo, tmp_path):
    ds = strfcube.open(demo)
    field_l, mld = (strfcube.select(ds, area=area) for area in ("Field_L", "MLd"))
    songs = strfcube.select(mld, stim_type="conspecific")
    path = write(concat([songs, field_l], ["m", "f"], stimuli="shared", duplicates="keep"), tmp_path / "pool.zarr")
    assert strfcube.verify(path) == []
    pool, trials = strfcube.open(path), xr.open_zarr(path, group="trials", chunks=None)
    original = xr.open_zarr(demo, group="trials", chunks=None)
    assert trials.sizes["trial"] == int(pool["n_repeats"].sum())
    order = np.stack([trials["neuron_index"], trials["stim_index"], trials["repeat_index"]])
    assert (np.lexsort(order[::-1]) == np.arange(order.shape[1])).all()

    def spikes(table, cube, row, prefix):
        neuron, stim = (cube[d].values[table[f"{d}_index"].values[row]] for d in ("neuron", "stim"))
        ends = np.cumsum(table["row_size"].values)
        times = table["spike_time"].values[ends[row] - table["row_size"].values[row] : ends[row]]
        file = str(table["file"].values[table["file_index"].values[row]])
        key = neuron[prefix:], stim[prefix:], int(table["repeat_index"].values[row])
        return key, (times.tolist(), file, int(table["trial_number"].values[row]))

    wanted = dict(spikes(original, ds, row, 0) for row in range(0, original.sizes["trial"]))
    for row in range(0, trials.sizes["trial"], 97):
        key, found = spikes(trials, pool, row, 2)
        assert wanted[key] == found


@pytest.mark.slow
def test_a_written_selection_is_a_cube_like_any_other(demo, tmp_path):
    chosen = strfcube.select(strfcube.open(demo), area="MLd", stim_type="flatrip")
    path = write(chosen, tmp_path / "part.zarr")
    finer = strfcube.open(strfcube.rebin(path, 10, out=tmp_path / "part10.zarr", jobs=1))
    whole = strfcube.open(strfcube.rebin(demo, 10, out=tmp_path / "demo10.zarr", jobs=1))
    wanted = strfcube.select(whole, area="MLd", stim_type="flatrip")
    np.testing.assert_array_equal(finer["response"].values, wanted["response"].values[..., : finer.sizes["time"]])


@pytest.mark.parametrize("cut", ["stim", "repeat", "time", "pairs"])
def test_a_written_part_has_the_repeats_that_are_left(tmp_path, cut):
    cube = make_cube(stim=6, neuron=4, repeat=7)
    few = xr.DataArray(np.where(np.arange(6) < 3, 4, 7), dims="stim")
    counts = cube["n_repeats"].clip(max=few).astype(cube["n_repeats"].dtype)
    cube = cube.assign(response=cube["response"].where(cube["repeat"] < counts), n_repeats=counts)
    cube = strfcube.open(write(cube, tmp_path / "cube.zarr"))
    part = {
        "stim": lambda: cube.strf.isel(stim=slice(0, 3)),
        "repeat": lambda: cube.isel(repeat=[1, 3]),
        "time": lambda: cube.isel(stim=slice(1, 3), time=slice(0, 20)),
        "pairs": lambda: cube.strf.where(lambda ds: ds["n_repeats"] < 5),
    }[cut]()
    path = write(part, tmp_path / "part.zarr")
    assert strfcube.verify(path) == []
    ds = strfcube.open(path)
    assert ds.sizes["repeat"] == ds["n_repeats"].max()
    assert ds["repeat"].values.tolist() == list(range(ds.sizes["repeat"]))
    np.testing.assert_array_equal(ds["response"], part["response"][:, :, : ds.sizes["repeat"], : ds.sizes["time"]])


@pytest.mark.parametrize("wrong", ["a.zarr", make_cube(), [np.zeros(3)]])
def test_what_is_no_list_of_cubes_is_told_apart(wrong):
    with pytest.raises(UsageError, match=r"several cubes in a list|paths, URLs or Datasets, got ndarray"):
        concat(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [{"spec": "mel"}, {"spec": "cochleagram", "f_max": 7000.0}, {"spec": "mel", "bands": 20}]
)
def test_the_front_end_that_is_advised_does_for_both(tmp_path, other):
    """Sounds of two rates, whose axes end at the half of each."""
    cubes, toys = {}, {}
    for name, rate in (("a", 32000.0), ("b", 22050.0)):
        stimuli = [make_stim(f"{name}1", 0.05, rate=rate)]
        trials = {"s": [spikes(f"{name}1", f"{name}n", 1, [3])]}
        toys[name] = write_toy(tmp_path / name, stimuli, [make_neuron(f"{name}n")], trials)
        flags = {"spec": "mel"} if name == "a" else other
        cubes[name] = strfcube.build(toys[name], out=tmp_path / f"{name}.zarr", jobs=0, **flags)
    with pytest.raises(UsageError, match=r"build both with --spec \w+ --bands \d+ --f-min") as refused:
        concat([*cubes.values()], ["a", "b"])
    words = re.search(r"--spec (\w+) --bands (\d+) --f-min (\S+) --f-max (\d+)", str(refused.value)).groups()
    flags = {"spec": words[0], "bands": int(words[1]), "f_min": float(words[2]), "f_max": float(words[3])}
    again = [strfcube.build(toy, out=tmp_path / f"{n}2.zarr", jobs=0, **flags) for n, toy in toys.items()]
    assert concat(again, ["a", "b"]).sizes["frequency"] == flags["bands"]
