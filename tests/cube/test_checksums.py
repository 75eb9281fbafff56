"""A bit that flips in a cube is an error in every reader, never another value."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import make_cube
from stores import make_store
from toy import FAST, random_toy

import strfcube
from strfcube.cube.shard_reader import ShardedArray
from strfcube.errors import StoreError

ARRAYS = (
    "response",
    "stimulus",
    "audio/samples",
    "audio/row_size",
    "audio/rate",
    "trials/spike_time",
    "trials/row_size",
    "n_repeats",
    "area",
)


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """Path of a cube as `strfcube.build` makes it."""
    folder = tmp_path_factory.mktemp("checked")
    return Path(strfcube.build(random_toy(folder / "raw")[0], out=folder / "cube.zarr", **FAST))


def arrays(path):
    return {n: a for n, a in zarr.open_group(str(path), mode="r").members(max_depth=None) if isinstance(a, zarr.Array)}


def codecs(array):
    outer = array.metadata.to_dict()["codecs"]
    return [c["name"] for c in (outer[0]["configuration"]["codecs"] if array.shards else outer)]


def test_every_chunk_of_a_cube_has_a_checksum(cube, tmp_path):
    for path in (cube, make_store(tmp_path)[1]):
        for name, array in arrays(path).items():
            assert codecs(array)[-1] == "crc32c", name
            if array.shards:
                assert codecs(array) == ["bytes", "blosc", "crc32c"], name


def by_torch(path):
    pytest.importorskip("torch")
    from strfcube import CubeDataset

    view = CubeDataset(path, cache="none")
    batch = view.batch(range(len(view)))
    return [batch["responses"].numpy(), batch["stims"].numpy()]


def by_torch_waveform(path):
    pytest.importorskip("torch")
    from strfcube import CubeDataset

    view = CubeDataset(path, cache="none", mode="waveform", audio_fs=8000).with_stimulus()
    return [view.batch(range(len(view)))["stims"].numpy()]


def by_open(path):
    ds = strfcube.open(path)
    return [ds[n].values for n in ("response", "stimulus", "n_repeats", "area")]


def by_zarr(path):
    return [array[...] for _, array in sorted(arrays(path).items())]


def by_xarray(path):
    tree = xr.open_datatree(path, engine="zarr", chunks=None)
    return [tree[n].values for n in ("response", "stimulus", "n_repeats", "trials/spike_time", "audio/samples")]


def by_tensorstore(path):
    tensorstore = pytest.importorskip("tensorstore")
    found = []
    for name, array in sorted(arrays(path).items()):
        if array.dtype.kind in "uifb":
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{name}"}}
            found.append(tensorstore.open(spec, read=True).result().read().result())
    return found


OURS = [by_torch, by_torch_waveform, by_open]
READERS = [*OURS, by_zarr, by_xarray, by_tensorstore]


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_flipped_bit_is_an_error_or_is_not_read(cube, tmp_path, reader):
    copy = Path(shutil.copytree(cube, tmp_path / "cube.zarr"))
    truth = reader(str(copy))
    rng = np.random.default_rng(0)
    refused = 0
    for name in ARRAYS:
        files = sorted(p for p in (copy / name / "c").rglob("*") if p.is_file())
        files += [copy / name / "c"] if (copy / name / "c").is_file() else []
        for _ in range(4):
            file = files[rng.integers(len(files))]
            sound = file.read_bytes()
            damaged = bytearray(sound)
            damaged[rng.integers(len(sound))] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            try:
                found = reader(str(copy))
            except StoreError:
                refused += 1
            except Exception:  # other readers raise what they like
                assert reader not in OURS, name
                refused += 1
            else:
                for a, b in zip(found, truth, strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=name)
            file.write_bytes(sound)
    assert refused >= 4


def test_our_reader_names_array_and_chunk(cube, tmp_path):
    copy = Path(shutil.copytree(cube, tmp_path / "cube.zarr"))
    array = ShardedArray(copy / "response")
    at = next(at for at in np.ndindex(*array.grid) if array.has(at))
    shard, offset, size = array.index.locate(at)
    file = copy / "response" / shard.key
    sound = file.read_bytes()
    for byte in (0, 20, size // 2, size - 1):
        file.write_bytes(sound[: offset + byte] + bytes([sound[offset + byte] ^ 1]) + sound[offset + byte + 1 :])
        with pytest.raises(
            StoreError, match=rf"response: chunk \({at[0]}, .*\) is damaged \(its checksum\); run strfcube"
        ):
            ShardedArray(copy / "response").read(at)
        assert any(
            f"'response' cannot be read: chunk {at} is damaged (its checksum)" in s for s in strfcube.verify(copy)
        )
    file.write_bytes(sound[:offset])
    with pytest.raises(StoreError, match="is damaged"):
        ShardedArray(copy / "response").read(at)


def without_checksums(path):
    """Write a cube's arrays again as they were written before chunks had checksums."""
    for name, array in arrays(path).items():
        meta = json.loads((path / name / "zarr.json").read_text())
        values, attrs = array[...], meta["attributes"]
        inner = meta["codecs"][0]["configuration"]["codecs"] if array.shards else meta["codecs"]
        assert inner.pop()["name"] == "crc32c"
        shutil.rmtree(path / name)
        (path / name).mkdir()
        (path / name / "zarr.json").write_text(json.dumps(meta | {"attributes": attrs}))
        zarr.open_array(str(path), path=name, mode="r+")[...] = values
    root = json.loads((path / "zarr.json").read_text())
    listed = root["consolidated_metadata"]["metadata"]
    for name in listed:
        listed[name] |= json.loads((path / name / "zarr.json").read_text())
    for name in ("metadata_digests", "file_ends"):
        del root["attributes"][name]
    (path / "zarr.json").write_text(json.dumps(root))


def test_cubes_without_checksums_open_as_ever(cube, tmp_path):
    old = Path(shutil.copytree(cube, tmp_path / "cube.zarr"))
    without_checksums(old)
    assert not ShardedArray(old / "response").checked
    assert ShardedArray(cube / "response").checked
    assert strfcube.verify(old) == []
    for reader in READERS:
        for a, b in zip(reader(str(old)), reader(str(cube)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_pools_have_checksums(tmp_path):
    from strfcube.builder.save import save as write

    path = write(make_cube(), tmp_path / "pool.zarr")
    assert {codecs(array)[-1] for array in arrays(path).values()} == {"crc32c"}
