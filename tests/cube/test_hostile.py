"""Stores that are damaged on purpose: one error in one sentence, whoever reads, without hanging or growing.

`fuzz/stores.py` makes thousands of them; what it found is here.
"""

import json
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from stores import seal
from toy import FAST, random_toy

import strfcube
from strfcube.analysis.export import export
from strfcube.builder.save import save as write
from strfcube.cli.main import cli
from strfcube.errors import StoreError
from strfcube.loading import CubeView


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return Path(strfcube.build(random_toy(folder / "raw")[0], out=folder / "cube.zarr", **FAST))


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "cube.zarr"))


def edit(file, change):
    text = json.loads(file.read_text())
    change(text)
    file.write_text(json.dumps(text))


def inspected(path):
    done = CliRunner().invoke(cli, ["inspect", str(path)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception


def verified(path):
    """As the other readers: damage is an error."""
    if found := strfcube.verify(path):
        assert all("\n" not in sentence for sentence in found)
        raise StoreError(found[0])


READERS = {
    "verify": verified,
    "open": lambda p: [strfcube.open(p)[n].values for n in ("response", "stimulus")],
    "engine": lambda p: xr.open_dataset(p, engine="strfcube").load(),
    "inspect": inspected,
    "rebin": lambda p: strfcube.rebin(p, 10, out=p.with_name("ten.zarr"), jobs=0),
    "concat": lambda p: write(strfcube.concat([p, p], ["a", "b"], duplicates="keep"), p.with_name("pool.zarr")),
    "save": lambda p: write(strfcube.open(p).isel(stim=[0]), p.with_name("part.zarr")),
    "export": lambda p: export(p, p.with_name("tables.csv")),
    "batch": lambda p: (view := CubeView(p, cache="none")).batch(range(len(view))),
}


def node_of(name):
    """An edit of an array, in its own metadata and in the root's."""

    def do(change):
        def both(path):
            edit(path / name / "zarr.json", change)
            edit(path / "zarr.json", lambda t: change(t["consolidated_metadata"]["metadata"][name]))

        return both

    return do


def big_root(path):
    with open(path / "zarr.json", "ab") as file:
        file.truncate(100_000_000)


def with_node(name):
    def do(path):
        def change(text):
            nodes = text["consolidated_metadata"]["metadata"]
            nodes[name] = nodes["n_bins"]

        edit(path / "zarr.json", change)

    return do


def replaced(name, make):
    def do(path):
        (path / name).unlink()
        make(path / name)

    return do


REFUSED_BY_ALL = {
    "a root of 100 MB": big_root,
    "nested too deeply": lambda p: (p / "zarr.json").write_text("[" * 200_000),
    "not UTF-8": lambda p: (p / "zarr.json").write_bytes(b'{"attributes": "\xff\xfe"}'),
    "a cut root": lambda p: os.truncate(p / "zarr.json", 900),
    "a name that leaves the store": with_node("../n_bins"),
    "an absolute name": with_node("/etc/passwd"),
    "a name that no file has": with_node("x" * 5000),
    "a sealed name that is a way out": lambda p: [with_node("x/../n_bins")(p), seal(p)],
    "a sealed name that is none": lambda p: [with_node("")(p), seal(p)],
    "a name that is no text": with_node("\ud800"),
    "an absurd shape": node_of("response")(lambda m: m.update(shape=[10**12, *m["shape"][1:]])),
    "a shape beyond any integer": node_of("n_bins")(lambda m: m.update(shape=[2**70])),
    "an absurd shape of a small array": node_of("n_repeats")(lambda m: m.update(shape=[10**6, 10**6])),
    "a huge chunk": node_of("response")(
        lambda m: m["codecs"][0]["configuration"].update(chunk_shape=[10**6] * 4)
    ),
    "chunks of nothing": node_of("n_bins")(lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[0])),
    "an array of a million files": node_of("n_bins")(
        lambda m: [m.update(shape=[10**6]), m["chunk_grid"]["configuration"].update(chunk_shape=[1])]
    ),
    "another dtype": node_of("response")(lambda m: m.update(data_type="float64")),
    "a dtype that is none": node_of("stim")(lambda m: m.update(data_type={"name": "x"})),
    "foreign codecs": node_of("response")(lambda m: m.update(codecs=[{"name": "pickle"}])),
    "no codecs": node_of("n_bins")(lambda m: m.update(codecs=None)),
    "dimensions that are none": node_of("n_bins")(lambda m: m.update(dimension_names=[7])),
    "no consolidated metadata": lambda p: edit(p / "zarr.json", lambda t: t.pop("consolidated_metadata")),
    "a pipe for a label": replaced("area/c/0", os.mkfifo),
    "a pipe for the root": replaced("zarr.json", os.mkfifo),
    "a loop of links": replaced("stim/c/0", lambda p: p.symlink_to(p.name)),
    "a link to endless zeros": replaced("n_bins/c/0", lambda p: p.symlink_to("/dev/zero")),
    "a folder for a shard": replaced("response/c/0/0/0/0", lambda p: p.mkdir()),
    "a recipe that is none": lambda p: [
        edit(p / "zarr.json", lambda t: t["attributes"].update(recipe="mine")), seal(p)
    ],
    "a bin width that is none": lambda p: [
        edit(p / "zarr.json", lambda t: t["attributes"].update(dt_ms="mine")), seal(p)
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("what", REFUSED_BY_ALL)
def test_one_error_from_everybody(copy, what):
    REFUSED_BY_ALL[what](copy)
    for name, reader in READERS.items():
        if what == "a folder for a shard" and name in ("inspect", "export"):
            continue  # these read no counts
        with pytest.raises(StoreError) as error:
            reader(copy)
        text = str(error.value)
        assert "\n" not in text, name
        assert len(text) < 1000, name
        if name != "verify":
            assert str(copy) in text, name


def shard(path):
    return path / "response" / "c" / "0" / "0" / "0" / "0"


def lying_index(path, offset, size):
    """The first chunk of the response is said to lie elsewhere, under a right checksum."""
    import google_crc32c

    from strfcube.cube.shard_reader import ShardedArray

    array = ShardedArray(path / "response")
    data = bytearray(shard(path).read_bytes())
    length = array.index.size
    slot = next(i for i, at in enumerate(np.ndindex(*array.index.per_shard)) if array.has(at))
    struct.pack_into("<QQ", data, len(data) - length + 16 * slot, offset, size)
    struct.pack_into("<I", data, len(data) - 4, google_crc32c.value(bytes(data[-length:-4])))
    shard(path).write_bytes(data)
    seal(path)


@pytest.mark.parametrize(("offset", "size"), [(2**62, 10), (0, 2**63 - 1), (2**63, 2**63), (10**9, 10), (0, 10**9)])
def test_an_index_that_points_outside(copy, offset, size):
    lying_index(copy, offset, size)
    for name in ("verify", "open", "batch", "concat", "rebin"):
        with pytest.raises(StoreError, match=r"shard \(0, 0, 0, 0\) is damaged \(its index\)"):
            READERS[name](copy)


@pytest.mark.parametrize(("place", "number"), [(4, 2**31 - 1), (4, 1), (12, 2**31 - 1), (12, 17), (8, 1)])
def test_a_chunk_that_lies_about_its_size(copy, place, number):
    """What blosc's own code believes."""
    import google_crc32c

    from strfcube.cube.shard_reader import ShardedArray

    array = ShardedArray(copy / "response")
    _, offset, size = array.index.locate(next(at for at in np.ndindex(*array.grid) if array.has(at)))
    data = bytearray(shard(copy).read_bytes())
    struct.pack_into("<I", data, offset + place, number)
    struct.pack_into("<I", data, offset + size - 4, google_crc32c.value(bytes(data[offset : offset + size - 4])))
    shard(copy).write_bytes(data)
    for name in ("verify", "open", "batch"):
        with pytest.raises(StoreError, match=r"chunk \(0, .*\) is damaged"):
            READERS[name](copy)


def test_a_chunk_of_numbers_in_the_place_of_texts(copy):
    """Read as text it would claim to hold billions of them."""
    shutil.copy(copy / "sound_duration" / "c" / "0", copy / "stim_type" / "c" / "0")
    seal(copy)
    for name in ("verify", "open", "batch", "inspect"):
        with pytest.raises(StoreError, match=r"stim_type/c/0 is damaged \([0-9,]+ texts, expected 5\)"):
            READERS[name](copy)


def test_damaged_trials_are_an_error_of_the_export(copy):
    (file,) = (p for p in (copy / "trials" / "window_start" / "c").rglob("*") if p.is_file())
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"trials/window_start/c/0 is damaged"):
        READERS["export"](copy)
    assert sorted(p.name for p in copy.parent.iterdir()) == ["cube.zarr"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_allocated_for_what_a_store_claims(copy):
    """A chunk of 2 GB that is said to be there, and is not."""
    node_of("response")(
        lambda m: (
            m.update(shape=[1, 1, 1, 2**31 - 1]),
            m["chunk_grid"]["configuration"].update(chunk_shape=[1, 1, 1, 2**31 - 1]),
            m["codecs"][0]["configuration"].update(chunk_shape=[1, 1, 1, 2**31 - 1]),
        )
    )(copy)
    seal(copy)
    for name in ("verify", "open", "engine"):
        before = peak()
        with pytest.raises(StoreError):
            READERS[name](copy)
        assert peak() - before < 300_000, name


def peak():
    return int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")).split()[1])


def test_sounds_whose_rate_is_gone(copy):
    """As if it had been built like that: the missing file reads as NaN."""
    shutil.rmtree(copy / "audio" / "rate" / "c")
    seal(copy)
    view = CubeView(copy, mode="waveform", audio_fs=8000)
    for read in (view.with_stimulus, lambda: view.batch([0]), strfcube.open(copy).strf.plot.waveform):
        with pytest.raises(StoreError, match="audio/rate has no sampling rate of a sound that is there"):
            read()
