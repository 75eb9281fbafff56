"""What `verify` finds: every byte that changes what anybody reads or cites, by the name of its array and file."""

import errno
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from servers import static
from stores import make_store, seal
from toy import FAST, make_neuron, make_stim, random_toy, spikes, write_toy

import strfcube
from strfcube.builder.save import save as write
from strfcube.cube import digest, store, verify
from strfcube.cube.metadata import Root
from strfcube.cube.shard_reader import ShardedArray
from strfcube.cube.shard_writer import Layout, write_shard
from strfcube.cube.verify import array_digest, examine
from strfcube.errors import StoreError
from strfcube.transport.connect import connect


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    return Path(strfcube.build(random_toy(folder / "raw")[0], out=folder / "cube.zarr", **FAST))


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "cube.zarr"))


def edit(file, change):
    text = json.loads(file.read_text())
    change(text)
    file.write_text(json.dumps(text))


@pytest.mark.parametrize(
    "name", ["licence", "citation", "doi", "title", "sources", "recipe", "strfcube_version", "history", "fingerprint"]
)
def test_what_is_cited(copy, name):
    edit(copy / "zarr.json", lambda t: t["attributes"].update({name: "something else"}))
    assert strfcube.verify(copy) == [f"root attribute '{name}' is not what was built"]
    edit(copy / "zarr.json", lambda t: t["attributes"].pop(name))
    assert strfcube.verify(copy) == [f"root attribute '{name}' is missing"]


@pytest.mark.parametrize("name", ["metadata_digests", "file_ends", "digest", "digests"])
def test_the_digests_themselves(copy, name):
    edit(copy / "zarr.json", lambda t: t["attributes"].pop(name))
    assert any(f"'{name}'" in sentence for sentence in strfcube.verify(copy))


def test_an_attribute_too_many(copy):
    edit(copy / "zarr.json", lambda t: t["attributes"].update(mine=1))
    assert strfcube.verify(copy) == ["root attribute 'mine' is not of the cube"]
    edit(copy / "zarr.json", lambda t: t.update(attributes={k: v for k, v in t["attributes"].items() if k != "mine"}))
    assert strfcube.verify(copy) == []  # written by another hand, and the same


def test_attributes_of_a_group(copy):
    edit(copy / "trials" / "zarr.json", lambda t: t["attributes"].update(description="mine"))
    assert strfcube.verify(copy) == [
        "'trials/zarr.json' is not what was built: the consolidated metadata differ from it"
    ]


def test_consolidated_metadata(copy):
    edit(copy / "zarr.json", lambda t: t["consolidated_metadata"]["metadata"].pop("trials/row_size"))
    assert "zarr.json: the consolidated metadata of 'trials/row_size' are missing" in strfcube.verify(copy)
    edit(copy / "zarr.json", lambda t: t.pop("consolidated_metadata"))
    assert "zarr.json: the consolidated metadata are missing" in strfcube.verify(copy)


def shape(node):
    node["shape"] = [3, *node["shape"][1:]]


def data_type(node):
    node["data_type"] = "int16" if node["data_type"] == "uint16" else "uint16"


def fill_value(node):
    node["fill_value"] = 7


def codec(node):
    codecs = node["codecs"][0]["configuration"].get("codecs", node["codecs"])
    codecs[1]["configuration"] |= {"level": 3} if codecs[1]["name"] == "zstd" else {"clevel": 3}


def dimension(node):
    node["dimension_names"] = node["dimension_names"][::-1] if len(node["dimension_names"]) > 1 else ["other"]


@pytest.mark.parametrize("change", [shape, data_type, fill_value, codec, dimension])
@pytest.mark.parametrize("name", ["response", "n_repeats", "trials/spike_time"])
@pytest.mark.parametrize("where", ["own", "root", "both"])
def test_metadata_of_an_array(copy, change, name, where):
    if where != "root":
        edit(copy / name / "zarr.json", change)
    if where != "own":
        edit(copy / "zarr.json", lambda t: change(t["consolidated_metadata"]["metadata"][name]))
    found = strfcube.verify(copy)
    assert any(f"'{name}" in sentence for sentence in found), found
    if where != "own" and "/" not in name:  # what readers go by; no array is read as something else in silence
        with pytest.raises(StoreError, match=rf"'{name}' is damaged"):
            strfcube.open(copy)


def test_files_too_many(copy):
    (copy / "notes.txt").write_text("mine")
    (copy / "response" / "c" / "9" / "9").mkdir(parents=True)
    (copy / "response" / "c" / "9" / "9" / "0").write_bytes(b"x")
    (copy / "n_bins" / "c" / "1").write_bytes(b"x")
    (copy / "trials" / "new").mkdir()
    (copy / "audio" / "loop").symlink_to(copy)
    found = strfcube.verify(copy)
    for name in ("notes.txt", "response/c/9", "n_bins/c/1", "trials/new", "audio/loop"):
        assert f"'{name}' is not of the cube" in found
    assert len(found) == 5


def test_what_a_desktop_leaves_in_folders_is_no_damage(copy):
    (copy / ".DS_Store").write_bytes(b"x")
    (copy / "response" / "Thumbs.db").write_bytes(b"x")
    assert strfcube.verify(copy) == []
    assert strfcube.rebin(copy, 10, out=copy.with_name("ten.zarr"), jobs=0)


def test_an_array_too_many(copy):
    zarr.create_array(str(copy), name="extra", shape=(1,), dtype="f8")
    assert strfcube.verify(copy, deep=True) == ["'extra' is not of the cube"]


@pytest.mark.slow
def test_what_was_put_beside_the_data_is_no_damage_and_is_never_lost(made, tmp_path):
    """Results, by the way that xarray writes a group; its metadata then stand in those of the root, too."""
    toy = random_toy(tmp_path / "raw")[0]
    cube = Path(strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST))
    results = xr.Dataset({"prediction": ("x", np.arange(3.0))})
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        results.to_zarr(cube, group="predictions/ridge", mode="a")
    verdict = examine(cube, deep=True)
    assert (verdict.damaged, verdict.refused) == ([], [])
    assert verdict.added == ["'predictions' is not of the cube"]
    assert strfcube.rebin(cube, 10, out=tmp_path / "ten.zarr", jobs=0)  # nothing of it is read
    part = strfcube.open(cube).isel(stim=[0])
    for again in (
        lambda: strfcube.build(toy, out=cube, force=True, **FAST),
        lambda: strfcube.rebin(made, 10, out=cube, force=True, jobs=0),
        lambda: write(part, cube, force=True),
    ):
        with pytest.raises(StoreError, match=r"holds what is not of the cube, .* lost with it: predictions; move that"):
            again()
    xr.testing.assert_identical(xr.open_zarr(cube, group="predictions/ridge").load(), results)
    shutil.rmtree(cube / "predictions")
    (cube / "response" / "c" / "9").write_bytes(b"x")  # among the files of an array nobody keeps anything
    (cube / "n_repeats" / "c" / "0" / "0").unlink()
    assert strfcube.build(toy, out=cube, force=True, **FAST)
    assert strfcube.verify(cube) == []


def test_what_may_not_be_read_is_no_damage(copy, monkeypatch):
    real = os.open

    def held(path, *args, **kwargs):
        if str(path).endswith(("response/c/0/0/0/0", "n_bins/c/0", "neuron/zarr.json")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", held)
    verdict = examine(copy)
    assert (verdict.damaged, verdict.added) == ([], [])
    what = ("neuron/zarr.json", "n_bins", "response")
    assert sorted(verdict.refused) == sorted(f"'{name}' cannot be read (Permission denied)" for name in what)
    with pytest.raises(
        StoreError, match=r"cannot be read whole, and nothing is made of it: .*give yourself permission"
    ):
        strfcube.rebin(copy, 10, out=copy.with_name("ten.zarr"), jobs=0)


@pytest.mark.slow
def test_every_file_that_is_gone_is_named(copy):
    for file in sorted(p for p in copy.rglob("*") if p.is_file() and p != copy / "zarr.json"):
        data = file.read_bytes()
        file.unlink()
        name = file.relative_to(copy).as_posix()
        assert any(f"'{name}'" in sentence for sentence in strfcube.verify(copy)), name
        file.write_bytes(data)


def test_arrays_of_zeros_have_files(copy):
    """A lost one would be read as zeros."""
    assert (zarr.open_array(str(copy), path="n_rejected")[...] == 0).all()
    (copy / "n_rejected" / "c" / "0" / "0").unlink()
    assert strfcube.verify(copy) == ["'n_rejected/c/0/0' is missing"]
    with pytest.raises(StoreError, match=r"n_rejected/c/0/0 is not there; run strfcube verify"):
        strfcube.open(copy)


def swapped(one, other):
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def test_files_in_one_anothers_place(tmp_path):
    """Each is whole, with a right checksum."""
    _, path = make_store(tmp_path, stim=6, neuron=9)
    path = Path(path)
    assert strfcube.open(path)["response"].shape[0] == 6
    shards = sorted(p for p in (path / "response" / "c").rglob("*") if p.is_file())
    assert len(shards) > 3
    swapped(shards[0], shards[1])
    found = strfcube.verify(path)
    assert any("'response' has other values than were built" in s and "response/c/0/0/0/0" in s for s in found), found
    with pytest.raises(StoreError, match=r"response: shard \(0, 0, 0, 0\) is not the one that was built"):
        strfcube.open(path)["response"].values  # noqa: B018
    swapped(shards[0], shards[1])
    shutil.copy(shards[0], shards[2])
    with pytest.raises(StoreError, match="is not the one that was built"):
        strfcube.open(path)["response"].values  # noqa: B018


def test_labels_in_one_anothers_place(copy):
    swapped(copy / "stim_name" / "c" / "0", copy / "stim_category" / "c" / "0")
    found = strfcube.verify(copy)
    assert {s.partition(" has")[0] for s in found} == {"'stim_name'", "'stim_category'"}
    assert "stim_category/c/0" in found[0]
    with pytest.raises(StoreError, match=r"/c/0 is damaged, or not the one that was built"):
        strfcube.open(copy)


def test_a_key_that_stands_twice(copy):
    text = (copy / "zarr.json").read_text()
    (copy / "zarr.json").write_text(text.replace('"licence":', '"licence": "mine", "licence":', 1))
    with pytest.raises(StoreError, match="is no strfcube cube"):
        strfcube.verify(copy)


def redigested(path):
    """Make a cube say that its values are what was built."""
    root = json.loads((path / "zarr.json").read_text())
    digests = json.loads(root["attributes"]["digests"])
    for name in ("response", "stimulus", "trials/spike_time"):
        digests[name] = array_digest(name, ShardedArray(path / name))[0]
    digests["n_repeats"] = digest.of_values("n_repeats", zarr.open_array(str(path), path="n_repeats")[...])
    root["attributes"] |= {"digests": json.dumps(digests), "digest": digest.combine(digests)}
    (path / "zarr.json").write_text(json.dumps(root))
    seal(path)


def test_deep_counts_every_bin_again(copy):
    assert strfcube.verify(copy, deep=True) == []
    array = ShardedArray(copy / "response")
    layout = Layout("response", (), array.shape, array.chunk, array.shard, array.dtype.str[1:], array.fill)
    chunks = [(at, array.read(at).copy()) for at in np.ndindex(*array.grid) if array.has(at)]
    at, values = chunks[0]
    region = values[tuple(slice(n) for n in array.shape)]
    place = np.argwhere(region < array.fill)[0]
    values[tuple(place)] += 1
    cut = [(i, v[tuple(slice(min(c, n - k * c)) for k, c, n in zip(i, array.chunk, array.shape, strict=True))])
           for i, v in chunks]  # fmt: skip
    write_shard(str(copy), layout, (0, 0, 0, 0), cut)
    redigested(copy)
    assert strfcube.verify(copy) == []
    ds = strfcube.open(copy)
    pair = f"{ds.stim.values[at[0] * array.chunk[0] + place[0]]} with {ds.neuron.values[place[1]]}"
    assert strfcube.verify(copy, deep=True) == [f"'response' is not what the spike times in 'trials' give: {pair}"]


def test_deep_computes_every_spectrogram_again(copy):
    array = ShardedArray(copy / "stimulus")
    layout = Layout("stimulus", (), array.shape, array.chunk, array.shard, array.dtype.str[1:], array.fill)
    values = {at: array.read(at).copy() for at in np.ndindex(*array.grid)}
    values[3, 0, 0][0, 1, 2] *= 1.01
    write_shard(str(copy), layout, (0, 0, 0), values.items())
    redigested(copy)
    assert strfcube.verify(copy) == []
    name = strfcube.open(copy).stim.values[3]
    assert strfcube.verify(copy, deep=True) == [
        f"'stimulus' is not the spectrogram of the waveforms in 'audio': {name}"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [{"spec": "cochleagram", "f_max": 7000.0}, {"spec": "dft", "f_max": 9000.0, "align": "causal"}, {"audio": False}],
)
def test_deep_knows_the_recipe(tmp_path, flags):
    """At other rates and sample formats, with sounds that begin later or are not there, whole or a part."""
    stimuli = [
        make_stim("a", 0.05, dtype="i2"), make_stim("b", 0.08, rate=22050.0, dtype="f4", sound_onset=0.02),
        make_stim("c", 0.03, audio=False), make_stim("d", 0.04, dtype="u1"),
    ]  # fmt: skip
    trials = [spikes(s.id, "n", 1, [3, 20]) for s in stimuli]
    toy = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials})
    path = strfcube.build(toy, out=tmp_path / "cube.zarr", jobs=0, **({"spec": "mel"} | flags))
    assert strfcube.verify(path, deep=True) == []
    part = strfcube.open(path).isel(stim=[1, 3], frequency=slice(2, None))
    assert strfcube.verify(write(part, tmp_path / "part.zarr"), deep=True) == []


@pytest.mark.parametrize("repeats", [(20, 5, 1), (20, 1, 1)])
def test_deep_counts_stimuli_that_were_presented_unequally_often(tmp_path, repeats):
    rng = np.random.default_rng(0)
    stims, neurons = [make_stim(f"s{k}", 0.4) for k in range(len(repeats))], [make_neuron(f"n{n}") for n in range(24)]
    trials = [
        spikes(stim.id, neuron.id, r + 1, np.sort(rng.uniform(0, 400, 6)))
        for neuron in neurons for stim, count in zip(stims, repeats, strict=True) for r in range(count)
    ]  # fmt: skip
    path = strfcube.build(write_toy(tmp_path / "raw", stims, neurons, {"s": trials}), out=tmp_path / "c.zarr", **FAST)
    array = ShardedArray(f"{path}/response")
    held = [array.repeats((s, 0, 0, 0)) for s in range(3)]  # blank ones at the end are left out
    assert held[0] > held[2] > 0, (held, array.chunk)
    assert strfcube.verify(path, deep=True) == []
    part = strfcube.open(path).isel(stim=[2, 0], neuron=slice(3, None, 2))
    assert strfcube.verify(write(part, tmp_path / "part.zarr"), deep=True) == []


def test_deep_counts_the_trials(copy):
    counts = zarr.open_array(str(copy), path="n_repeats", mode="a")
    counts[0, 0] = 0 if counts[0, 0] else 1
    redigested(copy)
    assert strfcube.verify(copy) == []
    (found,) = strfcube.verify(copy, deep=True)
    ds = strfcube.open(copy)
    assert found == f"'n_repeats' is not the number of trials: {ds.stim.values[0]} with {ds.neuron.values[0]}"


def test_behind_a_server(copy):
    with static(copy.parent) as server:
        url = f"{server.url}/{copy.name}"
        assert strfcube.verify(url) == []
        edit(copy / "zarr.json", lambda t: t["attributes"].update(doi="10.0/other"))
        assert strfcube.verify(url) == ["root attribute 'doi' is not what was built"]
        edit(copy / "trials" / "zarr.json", lambda t: t["attributes"].update(description="mine"))
        swapped(copy / "stim_name" / "c" / "0", copy / "stim_category" / "c" / "0")
        found = strfcube.verify(url)
        assert any("'trials/zarr.json'" in s for s in found)
        assert any("'stim_name' has other values" in s for s in found)
        (copy / "findings" / "zarr.json").unlink()
        assert any("'findings/zarr.json' is missing" in s for s in strfcube.verify(url))


def test_objects_too_many_in_a_store_that_lists_them(copy):
    import fsspec

    memory = fsspec.filesystem("memory")
    url = "memory://verified/cube.zarr"
    memory.put(f"{copy}/", "/verified/cube.zarr/", recursive=True)
    try:
        assert strfcube.verify(url) == []
        memory.pipe_file("/verified/cube.zarr/response/c/9/9/9/9", b"x")
        memory.rm_file("/verified/cube.zarr/n_rejected/c/0/0")
        found = strfcube.verify(url)
        assert "'response/c/9/9/9/9' is not of the cube" in found
        assert "'n_rejected/c/0/0' is missing" in found
    finally:
        memory.rm("/verified", recursive=True)


@pytest.mark.slow
def test_pools_rebinned_cubes_and_parts_are_whole(made, tmp_path):
    ten = strfcube.rebin(made, 10, out=tmp_path / "ten.zarr", jobs=0)
    pool = write(strfcube.concat([made, made], ["a", "b"], duplicates="keep"), tmp_path / "pool.zarr")
    part = write(strfcube.open(made).isel(stim=[0, 2]), tmp_path / "part.zarr")
    for path in (made, ten, pool, part):
        assert strfcube.verify(path, deep=True) == []
        assert Root.read(connect(str(path))).digests


def test_what_xarray_writes_again_opens(made, tmp_path):
    """Plain xarray carries attributes along; those of the store that it read fit nothing in the one that it writes."""
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        xr.open_zarr(made, chunks=None).load().isel(stim=[0, 1]).to_zarr(tmp_path / "part.zarr")
    part = strfcube.open(tmp_path / "part.zarr")
    np.testing.assert_array_equal(part["response"], strfcube.open(made)["response"][:2])
    assert strfcube.verify(tmp_path / "part.zarr")


def test_the_digest_of_the_values_knows_nothing_of_the_metadata(made, tmp_path):
    """Two builds at different times have one digest."""
    again = strfcube.build(random_toy(tmp_path / "raw")[0], out=tmp_path / "again.zarr", **FAST)
    one, other = (strfcube.open(p).attrs for p in (made, again))
    assert one["digest"] == other["digest"]


def test_want_of_memory_is_no_damage(tmp_path, monkeypatch):
    path = strfcube.build(random_toy(tmp_path / "raw")[0], out=tmp_path / "cube.zarr", **FAST)

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("strfcube.cube.recount.recount", no_memory)
    verdict = examine(path, deep=True)
    assert verdict.damaged == []
    assert verdict.refused == ["'trials' cannot be counted again (there is not enough memory)"]


def test_a_cube_that_is_replaced_meanwhile_is_not_damaged(tmp_path, monkeypatch):
    """Another recipe's arrays are held against the digests of this one; so are those that `open` reads."""
    pipeline = random_toy(tmp_path / "raw", n_stims=2, n_neurons=2, n_sources=1)[0]
    path, other, aside = (str(tmp_path / f"{name}.zarr") for name in ("cube", "other", "aside"))
    strfcube.build(pipeline, out=path, **FAST)
    strfcube.build(pipeline, out=other, dt=10, **FAST)

    def replaced_within(where, function):
        real = getattr(where, function)

        def later(*args):
            monkeypatch.setattr(where, function, real)
            for old, new in ((path, aside), (other, path), (aside, other)):
                os.rename(old, new)
            return real(*args)

        monkeypatch.setattr(where, function, later)

    for read, where, function in (
        (strfcube.open, store, "_opened"),
        (strfcube.verify, verify, "_nodes"),
        (partial(strfcube.verify, deep=True), verify, "_made_again"),
    ):
        replaced_within(where, function)
        with pytest.raises(StoreError, match="was built again while it was open: open it again"):
            read(path)
    assert strfcube.verify(path, deep=True) == []
