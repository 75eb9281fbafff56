"""Lazy arrays of opened cubes: any selection equals what plain Zarr holds, and none claims what it does not hold."""

import itertools
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import make_store, seal

import strfcube
from strfcube import StoreError
from strfcube.builder.save import save as write
from strfcube.cube.lazy_array import StoredDask, rows_of

SIZES = {"stim": 7, "neuron": 8, "repeat": 5, "bins": 30}
CHUNKS = {
    "u1": {"dtype": "u1"},
    "u2": {"dtype": "u2", "repeat_chunk": 1, "stim_shard": 7},
    "f4": {"dtype": "f4", "neuron_chunk": 8, "repeat_chunk": 5},
    "u1 repeats first": {"dtype": "u1", "repeats_first": True, "repeat_chunk": 4, "neuron_chunk": 4},
    "f4 repeats first": {"dtype": "f4", "repeats_first": True, "repeat_chunk": 5},
}


@pytest.fixture(scope="module", params=list(CHUNKS))
def made(request, tmp_path_factory):
    """Path of a cube, and its two large arrays decoded by hand from what zarr reads."""
    _, path = make_store(tmp_path_factory.mktemp("store"), **CHUNKS[request.param], **SIZES)
    return path, {name: by_zarr(path, name) for name in ("response", "stimulus")}


def by_zarr(path, name):
    array = zarr.open_array(f"{path}/{name}", mode="r")
    values = array[...]
    if values.dtype.kind == "f":
        return values
    return np.where(values == np.iinfo(values.dtype).max, np.float32(np.nan), values.astype(np.float32))


def lazily(path, how):
    if how == "dask":
        return strfcube.open(path)
    return xr.open_dataset(path, engine="strfcube", chunks={} if how == "chunks" else None, cache=how == "cached")


@st.composite
def indexers(draw, size):
    """An integer, a slice with any step, or positions in any order, of a dimension."""
    kind = draw(st.sampled_from(["all", "int", "slice", "list", "mask"]))
    if kind == "all" or size == 0:
        return slice(None)
    if kind == "int":
        return draw(st.integers(-size, size - 1))
    if kind == "slice":
        edge = st.one_of(st.none(), st.integers(-size - 2, size + 2))
        key = slice(draw(edge), draw(edge), draw(st.sampled_from([None, 1, 2, 3, -1, -2])))
        return key if len(range(size)[key]) else slice(0, 0)  # xarray's own lazy indexing fails on slice(0, 5, -1)
    if kind == "list":
        return draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=2 * size))
    return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))


@settings(max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("how", ["dask", "none", "cached", "chunks"])
def test_any_selection_equals_zarr(made, how, data):
    path, truth = made
    name = data.draw(st.sampled_from(["response", "stimulus"]))
    lazy = lazily(path, how)[name]
    wanted = xr.DataArray(truth[name], dims=lazy.dims)
    for _ in range(data.draw(st.integers(1, 3))):
        step = data.draw(st.sampled_from(["isel", "isel", "transpose", "shift", "where", "chunk", "plus", "pickle"]))
        if step == "isel":
            key = {d: data.draw(indexers(n)) for d, n in wanted.sizes.items()}
            lazy, wanted = lazy.isel(key), wanted.isel(key)
        elif step == "transpose":
            dims = data.draw(st.permutations(wanted.dims))
            lazy, wanted = lazy.transpose(*dims), wanted.transpose(*dims)
        elif step == "shift" and wanted.size and wanted.sizes.get("time", 0) > 3:  # dask: no shift by the whole length
            by = data.draw(st.integers(-3, 3))
            lazy, wanted = lazy.shift(time=by), wanted.shift(time=by)
        elif step == "where" and "stim" in wanted.dims:
            some = xr.DataArray(np.arange(wanted.sizes["stim"]) % 2 == 0, dims="stim")
            lazy, wanted = lazy.where(some), wanted.where(some)
        elif step == "plus":
            lazy, wanted = lazy + 1, wanted + 1
        elif step == "chunk" and lazy.chunks and "time" in wanted.dims:
            lazy = lazy.chunk(time=7)
        elif step == "pickle":
            lazy = pickle.loads(pickle.dumps(lazy))
        rows = rows_of(lazy)
        if rows is not None:  # whatever an array says that it holds, it holds
            np.testing.assert_array_equal(rows.read(), wanted.values)
    np.testing.assert_array_equal(lazy.values, wanted.values)


@pytest.mark.parametrize("how", ["dask", "chunks", "cached", "uncached"])
def test_empty_selections_of_reversed_arrays(made, how):
    path, truth = made
    lazy = lazily(path, how)["response"].isel(repeat=slice(None, None, -1), time=slice(None, None, -3))
    assert lazy.isel(repeat=slice(0, 0), neuron=slice(2, 2)).values.shape == (7, 0, 0, 10)
    np.testing.assert_array_equal(lazy.isel(repeat=[3, 0]).values, truth["response"][:, :, [1, 4], ::-3])


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(["twice", "stored", "thrice", "psth"])))
def test_what_is_computed_together_does_not_change_places(made, order):
    ds = strfcube.open(made[0])
    response = ds["response"]
    lazy = {"twice": response * 2, "stored": response, "thrice": response * 3}
    lazy["psth"] = ds.strf.psth().drop_vars("units")
    alone = {name: value.compute() for name, value in lazy.items()}
    together = dask.compute(*(lazy[name].data for name in order))
    for name, values in zip(order, together, strict=True):
        np.testing.assert_array_equal(values, alone[name])
    held = xr.Dataset({name: lazy[name] for name in order}).compute()
    for name in order:
        np.testing.assert_array_equal(held[name], alone[name])


def test_chunks_of_every_variable(made):
    ds = strfcube.open(made[0])
    chunked = ds.chunk(time=7)
    xr.testing.assert_identical(chunked.isel(stim=0, neuron=1).load(), ds.isel(stim=0, neuron=1).load())
    assert chunked.strf.plot.response() is not None


@pytest.mark.parametrize("reduce", [
    lambda ds: ds["response"].mean("repeat"),
    lambda ds: ds.strf.psth(),
    lambda ds: ds.strf.psth().isel(time=slice(3, 20, 2), neuron=[5, 1]),
    lambda ds: ds.strf.psth().transpose("time", "neuron", "stim"),
    lambda ds: ds.isel(neuron=slice(1, 7), stim=[4, 2], time=slice(4, None)).strf.psth(),
    lambda ds: ds.isel(repeat=[3, 1], neuron=[6, 2, 3]).strf.psth(),
    lambda ds: ds.strf.quality("pair"),
    lambda ds: ds.isel(time=slice(5, 25)).strf.quality("pair"),
])  # fmt: skip
def test_reductions_of_stored_counts_are_those_of_their_values(made, reduce):
    ds = strfcube.open(made[0])
    memory = ds.assign(response=ds["response"].copy(data=made[1]["response"]))
    xr.testing.assert_allclose(reduce(ds).compute(), reduce(memory), rtol=1e-5, atol=1e-7)


@settings(max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize("reduce", ["psth", "mean", "max", "sum"])
def test_any_part_of_what_is_reduced_equals_that_of_the_values(made, reduce, data):
    ds = strfcube.open(made[0])
    lazy = ds.strf.psth() if reduce == "psth" else getattr(ds["response"], reduce)("repeat")
    wanted = lazy.compute()
    for _ in range(data.draw(st.integers(1, 3))):
        key = {d: data.draw(indexers(n)) for d, n in wanted.sizes.items()}
        lazy, wanted = lazy.isel(key), wanted.isel(key)
        dims = data.draw(st.permutations(wanted.dims))
        lazy, wanted = lazy.transpose(*dims), wanted.transpose(*dims)
    np.testing.assert_array_equal(lazy.values, wanted.values)
    if "time" in wanted.dims and wanted.size:
        np.testing.assert_allclose(lazy.max("time").values, wanted.max("time").values, rtol=1e-6)


def test_what_carries_its_rows_and_what_does_not(made):
    path, _ = made
    for how in ("dask", "none", "cached"):
        ds = lazily(path, how)
        for kept in (
            ds, ds.isel(stim=[2, 0, 2]), ds.isel(stim=1, neuron=slice(None, None, -2)), ds.assign_coords(note=1),
            ds.sel(neuron=["cell003", "cell001"]), ds.sortby("neuron", ascending=False), ds.head(stim=2), ds.copy(),
            ds.copy(deep=True), strfcube.select(ds, area="MLd"), pickle.loads(pickle.dumps(ds)), ds[["response"]],
        ):  # fmt: skip
            assert rows_of(kept["response"]) is not None
        for changed in (
            ds + 0, ds.shift(time=1), ds.roll(time=1), ds.rolling(time=3).mean(), ds.where(ds["n_repeats"] > 1),
            ds.reindex(stim=["stim000", "nothing"]), ds.fillna(0), ds.load(), xr.open_zarr(path, chunks=None),
            xr.open_zarr(path), ds.assign(response=ds["response"].astype("f8")), ds.persist(),
        ):  # fmt: skip
            assert rows_of(changed["response"]) is None
        ds = lazily(path, how)
        assert rows_of(ds.assign(stimulus=ds["stimulus"] * 2)["stimulus"]) is None
        assert rows_of(ds.assign(stimulus=ds["stimulus"] * 2)["response"]) is not None


def test_changing_an_array_in_place_takes_its_rows(made):
    path, truth = made
    data = strfcube.open(path)["stimulus"].data
    untouched = data.copy()
    data[0] = 5
    assert data.rows is None
    assert (data[0].compute() == 5).all()
    np.testing.assert_array_equal(data[1:].compute(), truth["stimulus"][1:])
    np.testing.assert_array_equal(untouched.compute(), truth["stimulus"])
    data = strfcube.open(path)["stimulus"].data
    np.add(data, 1, out=(data,))
    assert data.rows is None
    assert rows_of(strfcube.open(path)["stimulus"]) is not None
    for how in ("none", "cached"):
        ds = lazily(path, how)
        ds["stimulus"][0] = 5
        assert rows_of(ds["stimulus"]) is None
        assert (ds["stimulus"][0] == 5).all()


def test_they_mix_with_other_arrays_of_dask(made):
    path, truth = made
    ds = strfcube.open(path)
    mixed = ds.assign(other=ds["stimulus"] * 2, third=("stim", da.arange(7, chunks=2)))
    np.testing.assert_array_equal(mixed.compute()["other"], truth["stimulus"] * 2)
    np.testing.assert_array_equal(mixed.persist()["response"], truth["response"])
    np.testing.assert_array_equal(xr.concat([ds["stimulus"], ds["stimulus"] * 2], "x")[1], truth["stimulus"] * 2)
    np.testing.assert_array_equal(ds["stimulus"].fillna(ds["stimulus"].mean()).values[truth["stimulus"] > 0],
                                  truth["stimulus"][truth["stimulus"] > 0])  # fmt: skip


@pytest.mark.parametrize("scheduler", ["threads", "sync", pytest.param("processes", marks=pytest.mark.slow)])
def test_results_are_whole_and_nobodys_but_the_callers(made, scheduler):
    path, truth = made
    data = strfcube.open(path).chunk(stim=2, neuron=3)["response"].data
    with dask.config.set(scheduler=scheduler):
        one, total = dask.compute(data, (~da.isnan(data)).sum())
        assert total == np.count_nonzero(~np.isnan(truth["response"]))
        (once,) = dask.optimize(data)
        ways = [data.compute, lambda: data.persist().compute(), once.compute, once.compute, (data + 0).compute]
        found = [one, *(way() for way in ways[: 1 if scheduler == "processes" else None])]  # each starts processes
        for values in found:
            np.testing.assert_array_equal(values, truth["response"])
            assert values.flags.c_contiguous
            assert values.flags.writeable
            values[:] = 0  # and none of the others


def test_chunks_are_whole_read_blocks(made):
    ds = strfcube.open(made[0])
    assert ds["response"].data.npartitions == ds["stimulus"].data.npartitions == 1
    assert isinstance(ds["response"].data, da.Array)
    small = ds.chunk(stim=3, neuron=5)
    assert small["response"].chunks == ((3, 3, 1), (5, 3), (5,), (30,))
    assert isinstance(small["response"].data, StoredDask)
    part = small.isel(stim=slice(1, 7, 2), neuron=[7, 0])
    assert part["response"].chunks == ((1, 2), (2,), (5,), (30,))
    assert dict(part.chunks)["stim"] == (1, 2)
    np.testing.assert_array_equal(part["response"].values, ds["response"].values[1:7:2, [7, 0]])


def test_the_engine_is_xarrays_own_door(made):
    path, truth = made
    ds = xr.open_dataset(path, engine="strfcube")
    assert ds["response"].chunks is None
    assert not ds["response"].variable._in_memory
    xr.testing.assert_identical(ds.load(), strfcube.open(path).load())
    np.testing.assert_array_equal(ds["response"].values, truth["response"])
    assert "response" not in xr.open_dataset(path, engine="strfcube", drop_variables="response")
    assert xr.open_dataset(path, engine="strfcube", chunks={"stim": 2})["response"].chunks[0] == (2, 2, 2, 1)
    assert xr.open_dataset(path, engine="strfcube", chunks={})["response"].chunks == ((1,) * 7, (8,), (5,), (30,))
    with xr.open_dataset(Path(path), engine="strfcube") as ds:
        assert ds.encoding["source"] == path
    with pytest.raises(StoreError, match="no such cube"):
        xr.open_dataset(f"{path}.nothing", engine="strfcube")
    engine = xr.backends.list_engines()["strfcube"]
    assert engine.guess_can_open(path)
    assert not any(map(engine.guess_can_open, (f"{path}/response", f"{path}.nothing", f"{path}/zarr.json", 5)))
    other = f"{path}.other.zarr"
    xr.Dataset({"a": ("x", [1])}).to_zarr(other, consolidated=False)
    assert not engine.guess_can_open(other)


def test_asking_xarray_for_its_engines_imports_nothing_heavy():
    code = (
        "import sys, warnings; warnings.simplefilter('error'); import xarray; xarray.backends.list_engines()\n"
        "import strfcube.cube.engine\n"
        "bad = {'torch', 'librosa', 'h5py', 'matplotlib'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_threads_read_the_same(made):
    path, truth = made
    ds = xr.open_dataset(path, engine="strfcube", cache=False)
    start = threading.Barrier(4)

    def work(seed):
        start.wait()
        rng = np.random.default_rng(seed)
        for _ in range(20):
            stim, neuron = rng.integers(0, 7, 3), rng.permutation(8)[:5]
            found = ds["response"].isel(stim=stim, neuron=neuron).values
            np.testing.assert_array_equal(found, truth["response"][np.ix_(stim, neuron)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@settings(max_examples=25)
@given(data=st.data())
def test_pools_equal_those_in_memory(pools, data):
    lazy, memory = pools[data.draw(st.sampled_from(["separate", "shared"]))]
    key = {d: data.draw(indexers(n)) for d, n in memory.sizes.items()}
    a, b = lazy.isel(key), memory.isel(key)
    for name in ("response", "stimulus"):
        assert rows_of(a[name]) is not None
        np.testing.assert_array_equal(a[name].values, b[name].values)
        np.testing.assert_array_equal(rows_of(a[name]).read(), b[name].values)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    cubes, paths = [], []
    for i, sizes in enumerate(({"repeat": 3, "bins": 40}, {"repeat": 5, "bins": 31}, {"repeat": 2, "bins": 40})):
        cube, path = make_store(folder, f"c{i}", seed=i, stim=4, neuron=3 + i, **sizes)
        md5 = np.array([f"{(2 * s + i) % 6}-{b}" for s, b in enumerate(cube["n_bins"].values)], object)
        cubes.append(cube.assign_coords(md5=("stim", md5)).assign_attrs(dataset=f"c{i}"))
        paths.append(strfcube.open(path).assign_coords(md5=("stim", md5)).assign_attrs(dataset=f"c{i}"))
    return {
        kind: tuple(strfcube.concat(several, stimuli=kind, duplicates="keep") for several in (paths, cubes))
        for kind in ("separate", "shared")
    }


# --- a store that changes -------------------------------------------------------------------------------------------


def rebuilt(path, seed):
    """Another cube of the same sizes, put at the same place as a build does it."""
    new = write(make_cube(seed=seed, **SIZES), f"{path}.new")
    shutil.rmtree(path)
    Path(new).rename(path)


@pytest.mark.parametrize("how", ["dask", "none"])
def test_a_cube_built_again_under_an_open_one_is_found_out(tmp_path, how):
    path = write(make_cube(**SIZES), tmp_path / "cube.zarr")
    opened, touched = lazily(path, how), lazily(path, how)
    before = touched["response"][0].values
    names = {ds["response"].data.name for ds in (opened, touched) if how == "dask"}
    assert len(names) <= 1
    rebuilt(path, seed=1)
    with pytest.raises(StoreError, match="built again while it was open: open it again"):
        opened["response"].load()
    with pytest.raises(StoreError, match="built again while it was open"):
        pickle.loads(pickle.dumps(opened))["response"][0].load()
    np.testing.assert_array_equal(touched["response"][0].values, before)  # of the very file that was opened
    new = lazily(path, how)
    assert not np.array_equal(new["response"][0].values, before, equal_nan=True)
    if how == "dask":
        assert new["response"].data.name not in names
    shutil.rmtree(path)
    with pytest.raises(StoreError, match="moved or removed while it was open"):
        new["stimulus"].load()


def test_a_copy_is_the_same_cube(tmp_path):
    path = write(make_cube(**SIZES), tmp_path / "cube.zarr")
    ds = strfcube.open(path)
    shutil.copytree(path, f"{path}.copy")
    shutil.rmtree(path)
    Path(f"{path}.copy").rename(path)
    np.testing.assert_array_equal(ds["response"].values, by_zarr(path, "response"))


@pytest.mark.parametrize("name", ["response", "stimulus"])
@pytest.mark.parametrize("how", ["dask", "none"])
def test_a_lost_shard_is_no_missing_value(tmp_path, how, name):
    path = write(make_cube(**SIZES), tmp_path / "cube.zarr")
    ds = lazily(path, how)
    for file in (tmp_path / "cube.zarr" / name / "c").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(StoreError, match=rf"{name}: the shard at 0/0/0.* is not there"):
        ds[name].load()
    with pytest.raises(StoreError, match="is not there"):
        lazily(path, how)[name][0].load()


def test_what_was_never_observed_is_no_lost_shard(tmp_path):
    cube = make_cube(stim=3, neuron=2, repeat=2, bins=10, holes=False)
    none = cube.assign(response=cube["response"] * np.nan, stimulus=cube["stimulus"] * np.nan)
    none["response"].attrs["units"] = "count"
    path = write(none, tmp_path / "cube.zarr")
    ds = strfcube.open(path)
    assert np.isnan(ds["response"].values).all()
    assert np.isnan(ds["stimulus"].values).all()
    assert strfcube.verify(path) == []
    assert bool(xr.open_zarr(path)["response"].isnull().all())


def test_chunks_of_others_are_read_through_zarr_or_rightly(tmp_path):
    cube, path = make_store(tmp_path, **SIZES)
    values = cube["response"].values
    for chunk, shard in (((2, 3, 2, 7), (4, 3, 4, 14)), ((1, 8, 5, 30), (7, 8, 5, 30)), ((3, 1, 5, 11), (3, 1, 5, 33))):
        rewrite_any(path, values, chunk, shard)
        ds = strfcube.open(path)
        np.testing.assert_array_equal(ds["response"].values, values)
        part = ds["response"][::-2, [5, 2, 5], 1:, 3:25]
        np.testing.assert_array_equal(part.values, values[::-2][:, [5, 2, 5], 1:, 3:25])


def rewrite_any(path, values, chunk, shard):
    attrs = dict(zarr.open_group(path)["response"].attrs)
    stored = np.where(np.isnan(values), 255, values).astype("u1")
    zarr.open_group(path, mode="a").create_array(
        "response", data=stored, chunks=chunk, shards=shard, fill_value=255, overwrite=True, attributes=attrs,
        compressors=zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle"),
        dimension_names=("stim", "neuron", "repeat", "time"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        zarr.consolidate_metadata(path)
    seal(path)
