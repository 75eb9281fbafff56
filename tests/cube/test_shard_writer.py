"""What we encode ourselves, other Zarr implementations read."""

import itertools
from uuid import uuid4

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from stores import region

from strfcube.cube import digest
from strfcube.cube.shard_reader import ShardedArray
from strfcube.cube.shard_writer import Layout, create, linear, put, write_shard
from strfcube.cube.verify import array_digest


def write(store, layout, values, skip=()):
    """Write an array shard by shard, leaving out some chunks; returns its leaves."""
    create(store, layout)
    leaves = []
    chunks = {
        at: values[region(layout, at)]
        for at in itertools.product(*(range(-(-n // c)) for n, c in zip(layout.shape, layout.chunk, strict=True)))
        if at not in skip
    }
    for shard in layout.shards():
        mine = [
            (at, v) for at, v in chunks.items()
            if all(a // p == s for a, p, s in zip(at, layout.per_shard, shard, strict=True))
        ]  # fmt: skip
        leaves += write_shard(store, layout, shard, mine)
    return leaves


def layout_of(values, chunk, per_shard, fill, name="x", shuffle="bitshuffle"):
    shard = tuple(c * p for c, p in zip(chunk, per_shard, strict=True))
    dims = tuple("abcd"[: values.ndim])
    return Layout(name, dims, values.shape, tuple(chunk), shard, values.dtype.str[1:], fill, shuffle)


def read_tensorstore(path):
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec, read=True).result().read().result()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_zarr_reads_what_we_write(tmp_path_factory, data):
    """Any shape, chunk and shard, partial last chunks, chunks left out, chunks of nothing but the fill value."""
    ndim = data.draw(st.integers(1, 4))
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * ndim))
    chunk = tuple(data.draw(st.integers(1, n)) for n in shape)
    per_shard = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    dtype = data.draw(st.sampled_from(["u1", "u2", "i8", "f4", "f8"]))
    fill = float("nan") if dtype == "f4" else 0.0 if dtype == "f8" else int(np.iinfo(dtype).max)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.integers(0, 5, shape).astype(dtype)
    values[rng.random(shape) < 0.3] = fill
    layout = layout_of(values, chunk, per_shard, fill, shuffle=data.draw(st.sampled_from(["shuffle", "bitshuffle"])))
    grid = itertools.product(*(range(-(-n // c)) for n, c in zip(shape, chunk, strict=True)))
    skip = {at for at in grid if rng.random() < 0.3}
    for at in skip:
        values[region(layout, at)] = fill
    store = str(tmp_path_factory.getbasetemp() / uuid4().hex)
    leaves = write(store, layout, values, skip)
    array = zarr.open_array(store, path="x", mode="r")
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(read_tensorstore(f"{store}/x"), values)
    expected = digest.of_leaves("x", values.dtype, shape, chunk, leaves)
    assert array_digest("x", ShardedArray(f"{store}/x")) == (expected, "", None)


def test_the_bytes_are_those_of_zarr_itself(tmp_path):
    """Decoded by zarr, encoded again by zarr, decoded by tensorstore."""
    values = np.arange(60, dtype="u1").reshape(5, 12)
    layout = layout_of(values, (2, 5), (2, 3), 255)
    write(str(tmp_path), layout, values)
    array = zarr.open_array(str(tmp_path), path="x", mode="a")
    array[0, 0] = 99
    assert read_tensorstore(tmp_path / "x")[0, 0] == 99


def test_a_shard_of_nothing_is_an_index_alone(tmp_path):
    values = np.full((4, 6), 255, "u1")
    layout = layout_of(values, (2, 3), (1, 2), 255)
    assert write(str(tmp_path), layout, values) == []
    files = [p for p in (tmp_path / "x" / "c").rglob("*") if p.is_file()]  # so that a lost one is known to be lost
    assert len(files) == len(list(layout.shards()))
    assert {p.stat().st_size for p in files} == {16 * layout.per_shard[0] * layout.per_shard[1] + 4}
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path), path="x")[...], values)


def test_a_chunk_is_cut_to_the_array():
    layout = Layout("x", ("a", "b"), (5, 7), (2, 3), (4, 6), "u1", 0)
    assert region(layout, (2, 2)) == (slice(4, 5), slice(6, 7))
    assert layout.grid == (2, 2)
    assert layout.per_shard == (2, 2)


@pytest.mark.parametrize(
    ("values", "chunk", "shard"), [(0, 1, 1), (1, 1, 1), (9, 9, 9), (10, 10, 10), (11, 10, 20), (95, 10, 40)]
)
def test_linear(values, chunk, shard):
    assert linear(values, 10, 4) == ((values,), (chunk,), (shard,))


def test_an_empty_array(tmp_path):
    shape, chunk, shard = linear(0, 10, 4)
    layout = Layout("trials/x", ("trial",), shape, chunk, shard, "i8", 0)
    create(str(tmp_path), layout)
    assert layout.shards() == []
    assert zarr.open_array(str(tmp_path), path="trials/x").shape == (0,)


def test_create_leaves_an_array_that_is_there(tmp_path):
    values = np.arange(6, dtype="u1")
    layout = layout_of(values, (3,), (1,), 255)
    write(str(tmp_path), layout, values)
    create(str(tmp_path), layout)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path), path="x")[...], values)


def test_put_is_whole_or_not_at_all(tmp_path):
    put(str(tmp_path), "a/b/c", b"123")
    assert (tmp_path / "a/b/c").read_bytes() == b"123"
    (tmp_path / "a/b/d").mkdir()
    with pytest.raises(OSError, match="directory"):
        put(str(tmp_path), "a/b/d", b"123")
    assert sorted(p.name for p in (tmp_path / "a/b").iterdir()) == ["c", "d"]
    put(f"file://{tmp_path}", "c", b"456")
    assert (tmp_path / "c").read_bytes() == b"456"


# --- digests ---------------------------------------------------------------------------------------------------------


def test_digest_of_values_covers_name_dtype_shape_and_values():
    base = digest.of_values("x", np.arange(6))
    others = [
        digest.of_values("y", np.arange(6)), digest.of_values("x", np.arange(6, dtype="i4")),
        digest.of_values("x", np.arange(6).reshape(2, 3)), digest.of_values("x", np.arange(6)[::-1]),
    ]  # fmt: skip
    assert len({base, *others}) == 5
    assert digest.of_values("x", np.arange(6).astype(">i8")) == base


def test_digest_of_text_does_not_depend_on_how_it_is_held():
    text = ["a", "", "ünï"]
    kinds = [np.array(text, object), np.array(text), np.array(text, np.dtypes.StringDType())]
    assert len({digest.of_values("x", t) for t in kinds}) == 1
    assert digest.of_values("x", np.array(["ab", "c"])) != digest.of_values("x", np.array(["a", "bc"]))


def test_digest_of_leaves_does_not_depend_on_their_order():
    leaves = [((0, 1), "a"), ((1, 0), "b"), ((0, 0), "c")]
    assert digest.of_leaves("x", "u1", (2, 2), (1, 1), leaves) == digest.of_leaves(
        "x", "u1", (2, 2), (1, 1), leaves[::-1]
    )
    assert digest.combine({"a": "1", "b": "2"}) == digest.combine({"b": "2", "a": "1"})


@pytest.mark.parametrize("size", [5, 8, 64, 999, 1000, 1001])
def test_bits_are_shuffled_whatever_the_length(tmp_path, size):
    values = np.random.default_rng(0).poisson(0.05, size).astype("f4")
    layout = layout_of(values, (size,), (1,), float("nan"))
    write(str(tmp_path), layout, values)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path), path="x")[...], values)
    np.testing.assert_array_equal(read_tensorstore(f"{tmp_path}/x"), values)
    data = ShardedArray(f"{tmp_path}/x").encoded((0,))
    if size >= 999:  # what blosc does to a length that is a multiple, for comparison
        whole = len(blosc.compress(np.resize(values, 1000), b"zstd", 5, 2, 4000))
        assert len(data) < 1.1 * whole + 40
