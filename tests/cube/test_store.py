"""Cubes on disk: who can open them, what is refused, and what `verify` finds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from toy import FAST, make_neuron, make_stim, random_toy, recount, spikes, write_toy

import strfcube
from strfcube.cube.schema import problems
from strfcube.cube.store import no_consolidation_warning
from strfcube.errors import StoreError
from strfcube.loading import CubeView
from strfcube.transport.local_files import LocalFiles


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cube, and the truth that is in it."""
    folder = tmp_path_factory.mktemp("made")
    pipeline, truth = random_toy(folder / "raw")
    return strfcube.build(pipeline, out=folder / "cube.zarr", **FAST), truth


@pytest.fixture
def copy(made, tmp_path):
    """A cube to be damaged."""
    return Path(shutil.copytree(made[0], tmp_path / "cube.zarr"))


def edit(path, change):
    """Change the parsed metadata of a group or an array."""
    text = json.loads((path / "zarr.json").read_text())
    change(text)
    (path / "zarr.json").write_text(json.dumps(text))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_open_is_lazy_where_it_is_large(made):
    ds = strfcube.open(made[0])
    assert ds["response"].chunks
    assert ds["stimulus"].chunks
    assert not any(ds[n].chunks for n in ds.variables if n not in ("response", "stimulus"))
    assert ds["response"].dtype == np.float32
    assert problems(ds) == []
    np.testing.assert_array_equal(ds["response"].values, recount(made[1], ds, 5000))
    np.testing.assert_array_equal(ds["time"], np.arange(ds.sizes["time"]) * 5 / 1000)
    assert ds["stim"].dtype == object


def test_opening_reads_the_root_once(made, monkeypatch):
    read, get = [], LocalFiles.get
    monkeypatch.setattr(LocalFiles, "get", lambda files, key: read.append(f"{files.url}/{key}") or get(files, key))
    strfcube.open(made[0])
    assert read.count(f"{made[0]}/zarr.json") == 1


def test_a_label_of_time_is_the_number_that_one_types(made):
    """0.035 and 0.07 are no exact multiples of 0.005 in floating point."""
    ds = strfcube.open(made[0])
    for k in range(ds.sizes["time"]):
        assert int(ds["time"].to_index().get_loc(k * 5 / 1000)) == k
    assert ds.sel(time=slice(0.035, 0.07)).sizes["time"] == 8


def test_a_path_is_absolute_from_the_moment_of_opening(made, tmp_path, monkeypatch):
    """The working folder changes, to one that holds another cube of that name."""
    shutil.copytree(made[0], tmp_path / "here" / "cube.zarr")
    pipeline, _ = random_toy(tmp_path / "raw", seed=9)
    other = strfcube.build(pipeline, out=tmp_path / "there" / "cube.zarr", **FAST)
    monkeypatch.chdir(tmp_path / "here")
    ds = strfcube.open("cube.zarr")
    assert ds.encoding["source"] == str(tmp_path / "here" / "cube.zarr")
    monkeypatch.chdir(Path(other).parent)
    expected = strfcube.open(tmp_path / "here" / "cube.zarr")
    assert not np.array_equal(expected["response"], strfcube.open("cube.zarr")["response"], equal_nan=True)
    np.testing.assert_array_equal(ds["response"], expected["response"])
    np.testing.assert_array_equal(ds["stimulus"], expected["stimulus"])
    np.testing.assert_array_equal(ds.strf.spontaneous_rate(), expected.strf.spontaneous_rate())


@pytest.mark.slow
def test_home_is_expanded_everywhere(made, tmp_path, monkeypatch):
    from strfcube.builder.save import save as write

    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(made[0], tmp_path / "cube.zarr")
    ds = strfcube.open("~/cube.zarr")
    assert ds.encoding["source"] == str(tmp_path / "cube.zarr")
    assert strfcube.verify("~/cube.zarr") == []
    assert strfcube.rebin("~/cube.zarr", dt=10, out="~/ten.zarr", jobs=1) == str(tmp_path / "ten.zarr")
    assert write(ds.isel(stim=[0]), "~/part.zarr") == str(tmp_path / "part.zarr")
    assert len(strfcube.concat(["~/cube.zarr", "~/cube.zarr"], ["a", "b"], duplicates="keep")["neuron"]) == 12
    pipeline, _ = random_toy(tmp_path / "raw")
    assert strfcube.build(pipeline, out="~/new.zarr", **FAST) == str(tmp_path / "new.zarr")
    assert strfcube.open((tmp_path / "new.zarr").as_uri()).sizes == ds.sizes
    assert not (Path.cwd() / "~").exists()


ALONE = """
import sys, warnings
warnings.simplefilter("error")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("strfcube", "torch", "h5py", "librosa"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np, xarray as xr
for kwargs in ({}, {"chunks": None}, {"consolidated": True}, {"consolidated": False}):
    ds = xr.open_zarr(sys.argv[1], **kwargs)
    assert ds.response.dtype == np.float32 and float(ds.response.sum()) == float(sys.argv[2]), ds.response
    assert bool(ds.response.isnull().any())
    assert str(ds.stim.values[0]) == "stim0"
    assert ds.response.attrs["units"] == "count" and ds.time.attrs["units"] == "s"
tree = xr.open_datatree(sys.argv[1], engine="zarr", chunks=None)
assert set(tree.children) == {"trials", "audio", "findings"}
assert tree["trials"]["spike_time"].dtype == np.int64
assert int(tree["trials"]["row_size"].sum()) == tree["trials"].sizes["spike"]
assert tree["findings"].sizes["finding"] == int(sys.argv[3])
tree.load()
assert "strfcube" not in sys.modules
"""


def test_xarray_alone_reads_all_of_it_without_a_warning(made):
    total = float(strfcube.open(made[0])["response"].sum())
    count = xr.open_zarr(made[0], group="findings", chunks=None).sizes["finding"]
    command = [sys.executable, "-c", ALONE, made[0], str(total), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_another_implementation_reads_equal_values(made):
    tensorstore = pytest.importorskip("tensorstore")
    root = zarr.open_group(made[0], mode="r")
    for name, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.dtype.kind in "uifb":
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{made[0]}/{name}"}}
            values = tensorstore.open(spec, read=True).result().read().result()
            np.testing.assert_array_equal(values, array[...])


def test_all_metadata_is_consolidated(made):
    listed = json.loads((Path(made[0]) / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    there = {str(p.parent.relative_to(made[0])) for p in Path(made[0]).rglob("zarr.json")} - {"."}
    assert set(listed) == there


def test_attributes_say_where_it_comes_from(made):
    attrs = strfcube.open(made[0]).attrs
    assert attrs["format_version"] == 1
    assert attrs["dataset"] == "toy"
    assert len(attrs["digest"]) == 64
    assert "built from raw files" in attrs["history"]
    text = json.dumps(attrs)
    assert str(Path(made[0]).parent) not in text  # no path of this machine


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_without_its_cube_lists_what_is_there(made, tmp_path, monkeypatch):
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path))
    with pytest.raises(
        StoreError, match=r"ns1-dt5.zarr: no such cube; there is none .* run: strfcube build ns1 --dt 5"
    ):
        strfcube.open("ns1")
    for name in ("ns1-dt1.zarr", "ns1-dt5-0123abcd.zarr", "aa1-dt5.zarr"):
        shutil.copytree(made[0], tmp_path / name)
    with pytest.raises(StoreError, match=r"there are ns1-dt1.zarr, ns1-dt5-0123abcd.zarr: give its path"):
        strfcube.open("ns1")
    assert strfcube.open("ns1", dt=1).encoding["source"] == str(tmp_path / "ns1-dt1.zarr")
    with pytest.raises(
        StoreError,
        match=r"nope: no such cube; .* a name that strfcube list prints, or a data set: ns1",
    ):
        strfcube.open("nope")


def test_a_raw_folder_of_that_name_is_not_meant(made, tmp_path, monkeypatch):
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    Path("ns1").mkdir()
    shutil.copytree(made[0], "data/ns1-dt5.zarr")
    assert strfcube.open("ns1").sizes["stim"] == 5


# --- what is refused -------------------------------------------------------------------------------------------------


def newer(attrs):
    attrs["format_version"] = 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: edit(p, lambda t: newer(t["attributes"])), "is of cube format 2, this strfcube reads 1: upgrade"),
        (lambda p: edit(p, lambda t: t["attributes"].clear()), "is no strfcube cube"),
        (lambda p: (p / "zarr.json").unlink(), "is no strfcube cube"),
        (lambda p: (p / "zarr.json").write_text("{"), "is no strfcube cube"),
        (lambda p: (p / "zarr.json").write_bytes(b""), "is no strfcube cube"),
        (lambda p: (p / "zarr.json").write_text("[1]"), "is no strfcube cube"),
        (lambda p: [shutil.rmtree(p), p.write_text("mine")], "is no strfcube cube"),
        (lambda p: [shutil.rmtree(p), p.mkdir(), (p / "thesis.txt").write_text("mine")], "is no strfcube cube"),
    ],
)
def test_what_is_no_cube_is_never_opened_nor_replaced(copy, damage, message):
    damage(copy)
    pipeline = write_toy(copy.parent / "raw", [make_stim("a")], [make_neuron("n")], {"s": [spikes("a", "n", 1, [1])]})
    before = sorted(copy.parent.rglob("*"))
    calls = [
        lambda: strfcube.open(copy), lambda: strfcube.verify(copy), lambda: strfcube.rebin(copy, 10),
        lambda: strfcube.build(pipeline, out=copy, **FAST),
        lambda: strfcube.build(pipeline, out=copy, force=True, **FAST),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreError, match=message) as error:
            call()
        assert str(copy) in str(error.value)
        assert "\n" not in str(error.value)
    assert sorted(copy.parent.rglob("*")) == before


def test_an_empty_folder_is_a_place(tmp_path):
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [spikes("a", "n", 1, [1])]})
    (tmp_path / "cube.zarr").mkdir()
    strfcube.build(pipeline, out=tmp_path / "cube.zarr", **FAST)
    assert strfcube.verify(tmp_path / "cube.zarr") == []


@pytest.mark.parametrize("lost", ["stim", "n_bins", "time", "response", "stimulus", "trials", "findings"])
def test_a_half_deleted_cube(copy, lost):
    shutil.rmtree(copy / lost)
    found = strfcube.verify(copy)
    assert found
    assert all("\n" not in sentence for sentence in found)
    if lost in ("stim", "time"):
        with pytest.raises(StoreError, match=rf"{lost}/c/0 is not there; run strfcube verify"):
            strfcube.open(copy)


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_finds_nothing_in_a_good_cube(made):
    assert strfcube.verify(made[0]) == []


@pytest.mark.parametrize("name", ["response", "stimulus", "trials/spike_time", "audio/samples", "trials/row_size"])
def test_verify_finds_a_flipped_byte(copy, name):
    (shard,) = (p for p in (copy / name / "c").rglob("*") if p.is_file())
    whole = shard.read_bytes()
    for at in (len(whole) // 3, len(whole) // 2, len(whole) - 2):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        found = strfcube.verify(copy)
        assert any(f"'{name}'" in sentence for sentence in found), (at, found)
    shard.write_bytes(whole[:-10])
    assert strfcube.verify(copy)
    shard.write_bytes(whole)
    assert strfcube.verify(copy) == []


def test_verify_finds_changed_values(copy):
    zarr.open_array(str(copy), path="n_repeats", mode="a")[0, 0] = 9
    assert strfcube.verify(copy) == ["'n_repeats' has other values than were built (n_repeats/c/0/0)"]
    zarr.open_array(str(copy), path="area", mode="a")[0] = "MLd"
    assert strfcube.verify(copy) == [
        f"'{n}' has other values than were built ({n}/c/{at})" for n, at in (("area", "0"), ("n_repeats", "0/0"))
    ]


def test_verify_finds_an_array_too_many(copy):
    edit(copy, lambda t: t.pop("consolidated_metadata"))
    zarr.create_array(str(copy), name="extra", shape=(1,), dtype="f8")
    assert strfcube.verify(copy) == ["zarr.json: the consolidated metadata are missing", "'extra' is not of the cube"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["attributes"].update(digest="0" * 64),
        lambda t: t["attributes"].update(dt_ms=4),
        lambda t: t["attributes"].pop("recipe"),
        lambda t: t["attributes"].pop("digest"),
        lambda t: t["attributes"].pop("digests"),
        lambda t: t["consolidated_metadata"]["metadata"]["response"]["attributes"].update(_FillValue=0),
        lambda t: t["consolidated_metadata"]["metadata"]["response"]["attributes"].update(units="mV"),
        lambda t: t["consolidated_metadata"]["metadata"]["response"].update(
            dimension_names=["stim", "neuron", "time", "repeat"]
        ),
    ],
)
def test_verify_finds_changed_attributes(copy, change):
    edit(copy, change)
    assert strfcube.verify(copy)


def test_verify_finds_changed_attributes_of_an_array(copy):
    edit(copy / "trials" / "spike_time", lambda t: t["attributes"].update(units="s"))
    assert strfcube.verify(copy) == [
        "'trials/spike_time/zarr.json' is not what was built: the consolidated metadata differ from it"
    ]


@pytest.mark.parametrize("form", ["zarr", "nc"])
@pytest.mark.parametrize("part", ["all", "scattered", "across blocks", "rates"])
def test_plain_xarray_writes_a_selection(demo, tmp_path, monkeypatch, form, part):
    if part == "across blocks":
        monkeypatch.setattr("strfcube.cube.lazy_array.READ_BYTES", 1_500_000)
    ds = strfcube.open(demo)
    assert (ds["response"].data.npartitions > 1) is (part == "across blocks")
    chosen = {
        "all": lambda: ds,
        "scattered": lambda: ds.strf.isel(stim=[9, 0, 3, 4], neuron=slice(1, 6)),
        "across blocks": lambda: ds.isel(stim=slice(3, 15)),
        "rates": lambda: ds.strf.psth(21).to_dataset().isel(stim=slice(1, 9)),
    }[part]()
    path = tmp_path / f"x.{form}"
    if form == "zarr":
        with no_consolidation_warning():
            chosen.to_zarr(path)
        back = xr.open_zarr(path)
    else:
        pytest.importorskip("h5netcdf")
        chosen.to_netcdf(path, engine="h5netcdf")
        back = xr.open_dataset(path, engine="h5netcdf")
    xr.testing.assert_equal(back.load(), chosen.compute())
    back.close()
    if part != "rates":
        assert back["response"].encoding["dtype"] == "uint8"


SMALL = ["n_bins", "n_repeats", "sound_onset", "repeat", "time", "stim"]
TRIALS = [f"trials/{name}" for name in ("row_size", "spike_time", "stim_index", "window_start", "kept", "exact")]
AUDIO = [f"audio/{name}" for name in ("row_size", "rate", "samples")]


@pytest.mark.parametrize("how", ["path", "url"])
@pytest.mark.parametrize("name", [*SMALL, *TRIALS, *AUDIO])
def test_a_lost_file_is_no_fill_value(demo, tmp_path, name, how):
    if how == "url" and name in SMALL[:-1] + TRIALS[2:]:
        pytest.skip("as the others")
    shutil.copytree(demo, tmp_path / "x.zarr")
    shutil.rmtree(tmp_path / "x.zarr" / name / "c")
    place = str(tmp_path / "x.zarr")
    if how == "url":
        place = f"memory://lost-{name.replace('/', '-')}.zarr"
        fsspec.filesystem("memory").put(str(tmp_path / "x.zarr"), place.removeprefix("memory:/"), recursive=True)

    def read():
        ds = strfcube.open(place)
        if name.startswith("trials"):
            ds.strf.spontaneous_rate((-0.1, 1.0))
        elif name.startswith("audio"):
            CubeView(ds, mode="waveform", audio_fs=32000).batch([0])
        else:
            CubeView(ds).batch([0])

    with pytest.raises(StoreError, match=rf"{name}.* is not there"):
        read()


def test_files_of_fill_values_are_not_missed(demo, tmp_path):
    part = strfcube.open(demo).isel(stim=slice(1, 4))
    with no_consolidation_warning():
        part.drop_encoding().to_zarr(tmp_path / "part.zarr", zarr_format=3, consolidated=True)
    assert strfcube.open(tmp_path / "part.zarr")["n_rejected"].values.max() == 0
