"""Cubes of which a few stimuli were repeated, as the plan lays them out at full size."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from cubes import make_cube

import strfcube
from strfcube.builder import plan
from strfcube.builder.save import save as write
from strfcube.cube.shard_reader import ShardedArray


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A cube with blank repeats in its chunks, which small ones would not have, and what it was made of."""
    monkeypatch.setattr(plan, "CHUNK_COST", 0)
    cube = make_cube(stim=6, neuron=5, repeat=8, bins=80)
    once = np.arange(6) > 0
    cube["response"].values[once, :, 1:] = np.nan
    cube["n_repeats"].values[once] = np.minimum(cube["n_repeats"].values[once], 1)
    return cube, write(cube, tmp_path / "cube.zarr")


def test_every_reader_sees_what_was_saved(saved):
    cube, path = saved
    array = ShardedArray(f"{path}/response")
    assert array.repeats_first
    assert array.repeats((1, 0, 0, 0)) == 1
    codecs = zarr.open_array(f"{path}/response", mode="r").metadata.to_dict()["codecs"][0]["configuration"]["codecs"]
    assert [c["name"] for c in codecs] == ["transpose", "bytes", "blosc", "crc32c"]
    values = zarr.open_array(f"{path}/response", mode="r")[...]
    wanted = np.where(np.isnan(cube["response"].values), array.fill, cube["response"].values)[:, :, : values.shape[2]]
    np.testing.assert_array_equal(values, wanted)
    opened = strfcube.open(path)["response"].values
    np.testing.assert_array_equal(opened, cube["response"].values[:, :, : values.shape[2]])
    assert strfcube.verify(path) == []


def test_damage_is_found(saved):
    _, path = saved
    (shard,) = [p for p in (Path(path) / "response" / "c").rglob("*") if p.is_file()]
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    assert "response" in " ".join(map(str, strfcube.verify(path)))
    with pytest.raises(strfcube.StoreError, match="damaged"):
        strfcube.open(path)["response"].load()


def test_a_copy_has_the_digest(saved, tmp_path):
    _, path = saved
    again = write(strfcube.open(path), tmp_path / "again.zarr")
    digests = [json.loads(strfcube.open(p).attrs["digests"]) for p in (path, again)]
    assert digests[0]["response"] == digests[1]["response"]
