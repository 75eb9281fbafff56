"""The waveform of a stimulus, as it was stored."""

import numpy as np
import pytest
import xarray as xr
from toy import FAST, make_neuron, make_stim, spikes, write_toy

import strfcube
from strfcube import SelectionError, StoreError, UsageError

RATE = 8000


def build(folder, stims, **options):
    records = {"s": [spikes(stim.id, neuron, 1, [5.0]) for stim in stims for neuron in ("n", "m")]}
    pipeline = write_toy(folder / "raw", stims, [make_neuron("n"), make_neuron("m")], records)
    return strfcube.build(pipeline, out=folder / "toy.zarr", **FAST | {"audio": True} | options)


@pytest.fixture(scope="module")
def stims():
    odd = {"rate": 22050.5, "hz": 300.0}
    return [make_stim("float", 0.1), make_stim("int", 0.2, dtype="i2"), make_stim("byte", 0.05, dtype="u1", **odd),
            make_stim("none", 0.1, audio=False)]  # fmt: skip


@pytest.fixture(scope="module")
def path(stims, tmp_path_factory):
    return build(tmp_path_factory.mktemp("sounds"), stims)


def test_samples_are_those_of_the_file(path, stims):
    ds = strfcube.open(path)
    for stim, full in zip(stims[:3], (None, 2**15, 2**7), strict=True):
        found, file = ds.strf.sound(stim.id), stim.audio()
        samples = file.samples.astype(np.float64)
        if full:
            samples = (samples - (128 if file.samples.dtype == np.uint8 else 0)) / full
        np.testing.assert_array_equal(found, samples)
        assert found.dtype == np.float64
        assert found.attrs["units"] == "as in the file"  # floats among whole numbers: all are stored as floats
        assert found.attrs["sample_rate"] == file.rate
        np.testing.assert_allclose(found["time"], np.arange(len(samples)) / file.rate)
        assert str(found["stim"].values) == stim.id


@pytest.mark.parametrize(("dtype", "full"), [("i2", 2**15), ("u1", 2**7)])
def test_whole_numbers_are_of_full_scale(tmp_path, dtype, full):
    stim = make_stim("s", 0.1, dtype=dtype)
    found = strfcube.open(build(tmp_path, [stim])).strf.sound(0)
    np.testing.assert_array_equal(found, (stim.audio().samples.astype(float) - (128 if dtype == "u1" else 0)) / full)
    assert found.attrs["units"] == "full scale"


def test_parts_pools_and_changed_cubes_have_the_same(path):
    ds = strfcube.open(path)
    wanted = ds.strf.sound("int")
    pool = strfcube.concat([ds.isel(neuron=[0]), ds.isel(neuron=[1])], names=["a", "b"], stimuli="shared")
    for other in (ds.isel(stim=[3, 1]), ds.load(), ds.strf.standardize(), ds.sel(stim=["int"]), ds * 1.0):
        other = other.assign_attrs(ds.attrs)
        other.encoding = ds.encoding
        xr.testing.assert_identical(other.strf.sound("int"), wanted)
    np.testing.assert_array_equal(pool.strf.sound("a:int"), wanted)
    assert ds.isel(stim=[2, 1]).strf.sound(-1).sizes == wanted.sizes


def test_it_begins_where_the_sound_does(path):
    ds = strfcube.open(path)
    late = ds.assign_coords(sound_onset=("stim", [0.0, 0.25, 0.0, 0.0]))
    np.testing.assert_allclose(late.strf.sound("int")["time"], ds.strf.sound("int")["time"] + 0.25)


def test_what_has_none_says_why(path, stims, tmp_path):
    ds = strfcube.open(path)
    for stim, message in (
        ("none", "its sound was not there when the cube was built"),
        ("other", "nothing has it; there are 4: float"),
        (4, "index past the end"),
    ):
        with pytest.raises(StoreError if stim == "none" else SelectionError, match=message):
            ds.strf.sound(stim)
    for label in (ds["stim"][1], ds["stim"].values[1], np.array("int")):
        assert ds.strf.sound(label).sizes == ds.strf.sound("int").sizes
    with pytest.raises(SelectionError, match=r"stim: expected a label or a position, got DataArray$"):
        ds.strf.sound(ds["stim"])
    silent = build(tmp_path / "silent", [make_stim("a", audio=False)])
    with pytest.raises(StoreError, match="the cube has no waveforms: there were none among the raw files"):
        strfcube.open(silent).strf.sound(0)
    bare = strfcube.open(build(tmp_path, stims, audio=False))
    with pytest.raises(StoreError, match="built without sounds"):
        bare.strf.sound(0)
    stranger = ds.copy()
    stranger["response"] = stranger["response"] * 2
    stranger.encoding = {}
    with pytest.raises(StoreError, match="does not know its store"):
        stranger.strf.sound(0)


@pytest.mark.parametrize(("change", "word"), [
    (lambda ds: ds.drop_vars("response"), "no response"), (lambda ds: ds.isel(neuron=0), "no dimension neuron"),
    (lambda ds: ds.mean("repeat", keep_attrs=True), "no dimension repeat"),
])  # fmt: skip
def test_what_is_no_cube_any_more_is_said_so(path, change, word):
    with pytest.raises(UsageError, match=word):
        change(strfcube.open(path)[["response", "n_repeats"]]).strf.sound(0)
