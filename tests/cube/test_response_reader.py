"""The direct shard reader gives what zarr gives, and serves nothing but an opened array."""

import os
import pickle
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import make_store

import strfcube
from strfcube import StoreError
from strfcube.cube.lazy_array import rows_of
from strfcube.cube.response_reader import LazyReader, ResponseReader
from strfcube.cube.shard_reader import ShardedArray


@pytest.fixture(scope="module", params=[(d, first) for d in ("u1", "u2", "f4") for first in (False, True)], ids=str)
def store(request, tmp_path_factory):
    dtype, repeats_first = request.param
    sizes = {"stim": 5, "neuron": 8, "repeat": 5, "bins": 80}
    chunks = {"neuron_chunk": 3, "repeat_chunk": 4 if repeats_first else 2, "repeats_first": repeats_first}
    return make_store(tmp_path_factory.mktemp("store"), dtype=dtype, **chunks, **sizes)


@pytest.fixture(scope="module")
def opened(store):
    ds = strfcube.open(store[1])
    return ds, ds["response"].values


def read(made, stim, n_repeats, n_bins, shape):
    out, mask = np.full(shape, 7, np.float32), np.ones(shape, bool)
    made.read(stim, n_repeats, n_bins, out, mask)
    return out, mask


def expected(values, n_repeats, n_bins, shape):
    out = np.full(shape, np.nan, np.float32)
    for n, count in enumerate(n_repeats):
        out[n, :count, :n_bins] = values[n, :count, :n_bins]
    return out


def test_every_chunk_equals_zarr(store):
    _, path = store
    for name in ("response", "stimulus"):
        array = ShardedArray(f"{path}/{name}")
        through_zarr = zarr.open_array(f"{path}/{name}", mode="r")
        grid = [range(-(-n // c)) for n, c in zip(array.shape, array.chunk, strict=True)]
        seen = 0
        for at in np.ndindex(*map(len, grid)):
            region = tuple(
                slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(at, array.chunk, array.shape, strict=True)
            )
            values, wanted = array.read(at), through_zarr[region]
            if values is None:
                assert np.isnan(wanted).all() if array.fill != array.fill else (wanted == array.fill).all()
            else:
                seen += 1
                assert array.repeats(at) == values.shape[2] if name == "response" else values.shape == array.chunk
                if name == "response" and array.repeats_first:  # blank ones at the end are left out
                    beyond = wanted[:, :, values.shape[2] :]
                    assert np.isnan(beyond).all() if array.fill != array.fill else (beyond == array.fill).all()
                    wanted = wanted[:, :, : values.shape[2]]
                np.testing.assert_array_equal(values[tuple(slice(n) for n in wanted.shape)], wanted)
        assert seen


def test_absent_chunks_are_not_stored(store):
    cube, path = store
    array = ShardedArray(f"{path}/response")
    assert (cube["n_repeats"].values[:, :3].max(1) < 5).any()
    assert any(array.read((s, 0, array.grid[2] - 1, 0)) is None for s in range(5))


def test_blank_repeats_are_not_decoded(store):
    cube, path = store
    array = ShardedArray(f"{path}/response")
    if not array.repeats_first:
        pytest.skip("chunks of this store hold none")
    counts = cube["n_repeats"].values[:, :3].max(1)
    assert (counts < array.chunk[2]).any()
    assert [array.repeats((s, 0, 0, 0)) for s in range(5)] == np.minimum(counts, array.chunk[2]).tolist()
    assert (array.read((int(counts.argmin()), 0, 0, 0)).shape[2]) == counts.min()


@settings(max_examples=30)
@given(data=st.data())
def test_any_neurons_equal_xarray(opened, data):
    ds, values = opened
    neurons = np.array(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True)))
    stim = data.draw(st.integers(0, 4))
    n_bins = int(ds["n_bins"][stim])
    n_repeats = ds["n_repeats"].values[stim, neurons]
    shape = (len(neurons), 5, n_bins + data.draw(st.integers(0, 3)))
    made = ResponseReader(rows_of(ds["response"].isel(neuron=neurons)))
    wanted = expected(values[stim, neurons], n_repeats, n_bins, shape)
    out, mask = read(made, stim, n_repeats, n_bins, shape)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(mask, ~np.isnan(wanted))
    lazy = LazyReader(ds["response"], neurons)
    out, mask = np.full(shape, 7, np.float32), np.ones(shape, bool)
    lazy.place(lazy.fetch([stim], threads=False)[0], n_repeats, n_bins, out, mask)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(mask, ~np.isnan(wanted))


@settings(max_examples=40)
@given(data=st.data())
def test_stimuli_that_are_begun_together_are_those_that_are_read(opened, data):
    ds, _ = opened
    neurons = np.array(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True)))
    stims = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    made = ResponseReader(rows_of(ds["response"].isel(neuron=neurons)))
    n_repeats, n_bins = ds["n_repeats"].values[stims][:, neurons], ds["n_bins"].values[stims]
    if data.draw(st.booleans()):  # some that all neurons heard equally often
        n_repeats, n_bins = np.minimum(n_repeats, 0) + n_repeats.min(), np.minimum(n_bins, n_bins.min())
    out = np.full((len(stims), len(neurons), 5, n_bins.max() + 2), 7, np.float32)
    mask = np.ones(out.shape, bool)
    made.begun(stims, n_repeats, n_bins)(out, mask)
    for b, stim in enumerate(stims):
        one, seen = read(made, stim, n_repeats[b], int(n_bins[b]), out.shape[1:])
        np.testing.assert_array_equal(out[b], one)
        np.testing.assert_array_equal(mask[b], seen)


def test_alike_neighbours_are_decoded_in_one_go(tmp_path, monkeypatch):
    _, path = make_store(tmp_path, neuron_chunk=80, stim=6, neuron=80, repeat=2, bins=160)
    array = ShardedArray(f"{path}/response")
    places = [(s, 0, 0, 0) for s in range(6)]
    wanted = [None if (chunk := array.read(at)) is None else chunk.copy() for at in places]
    decoded = []
    decompress = array._decompress
    monkeypatch.setattr(array, "_decompress", lambda data, out: (decoded.append(out.size), decompress(data, out)))
    found = array.begun(places)()
    assert len(decoded) < 3
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_chunks_that_are_joined_the_damaged_one_is_named(tmp_path):
    _, path = make_store(tmp_path, neuron_chunk=80, stim=6, neuron=80, repeat=2, bins=160)
    array = ShardedArray(f"{path}/response")
    shard, offset, size = array.index.locate((3, 0, 0, 0))
    file = Path(path, "response", shard.key)
    data = bytearray(file.read_bytes())
    data[offset + 24 : offset + 60] = bytes(36)  # of the compressed values, with a checksum of these
    checksum = google_crc32c.value(bytes(data[offset : offset + size - 4]))
    data[offset + size - 4 : offset + size] = checksum.to_bytes(4, "little")
    file.write_bytes(data)
    begun = array.begun([(s, 0, 0, 0) for s in range(6)])
    with pytest.raises(StoreError, match=r"chunk \(3, 0, 0, 0\) is damaged"):
        begun()


def test_bytes_stay_bytes(tmp_path):
    cube, path = make_store(tmp_path)
    made = ResponseReader(rows_of(strfcube.open(path)["response"]))
    bins = int(cube["n_bins"][0])
    raw = np.zeros((5, 3, bins), np.uint8)
    made.read(0, cube["n_repeats"].values[0], bins, raw)
    decoded, _ = read(made, 0, cube["n_repeats"].values[0], bins, raw.shape)
    np.testing.assert_array_equal(np.where(raw == made.fill, np.nan, raw), decoded)


def test_kept_chunks_are_read_once(tmp_path):
    _, path = make_store(tmp_path)
    array = ShardedArray(f"{path}/response", keep=True)
    first = array.read((0, 0, 0, 0))
    assert np.shares_memory(array.read((0, 0, 0, 0)), first)
    assert first.dtype == np.uint8
    assert not np.shares_memory(ShardedArray(f"{path}/response").read((0, 0, 0, 0)), first)


def test_pickle_carries_neither_files_nor_chunks(tmp_path):
    _, path = make_store(tmp_path)
    array = ShardedArray(f"{path}/response", keep=True)
    wanted = array.read((0, 0, 0, 0))
    data = pickle.dumps(array)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).read((0, 0, 0, 0)), wanted)


@pytest.mark.parametrize("damage", ["index", "chunk"])
def test_damage_is_a_store_error(tmp_path, damage):
    _, path = make_store(tmp_path)
    shard = f"{path}/response/c/0/0/0/0"
    data = bytearray(Path(shard).read_bytes())
    at = -10 if damage == "index" else 12
    data[at : at + 4] = bytes(b ^ 0xFF for b in data[at : at + 4])
    Path(shard).write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged.*verify"):
        ShardedArray(f"{path}/response").read((0, 0, 0, 0))


def test_an_absent_array_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="there is none"):
        ShardedArray(tmp_path / "nothing")


@pytest.mark.parametrize(
    "layout",
    [
        {"compressors": zarr.codecs.ZstdCodec()},
        {"compressors": None},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
)
def test_other_layouts_are_left_to_zarr(tmp_path, layout):
    path = f"{tmp_path}/array"
    options = {"compressors": zarr.codecs.BloscCodec()} | layout
    zarr.create_array(path, shape=(4, 4), chunks=(2, 2), dtype="u2", **options)
    with pytest.raises(NotImplementedError):
        ShardedArray(path)


def test_files_are_closed(tmp_path):
    _, path = make_store(tmp_path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")
    array = ShardedArray(f"{path}/response")
    array.read((0, 0, 0, 0))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del array
    assert len(os.listdir("/proc/self/fd")) == before
