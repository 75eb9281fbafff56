"""Cubes behind URLs: a real S3-compatible server and plain HTTP, read, trained on and verified as local ones are."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
from servers import proxy, s3_environment, s3_server, static
from toy import FAST, random_toy

import strfcube
from strfcube.cube.shard_reader import ShardedArray
from strfcube.errors import StoreError
from strfcube.transport import object_store, urls
from strfcube.transport.connect import connect
from strfcube.transport.remote_files import GAP_BYTES, REQUEST_BYTES, merged

pytest.importorskip("torch")
from strfcube import CubeDataset

pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """Path of a cube."""
    folder = tmp_path_factory.mktemp("far away")
    return Path(strfcube.build(random_toy(folder / "raw")[0], out=folder / "my cube.zarr", **FAST))


@pytest.fixture(scope="module")
def s3(cube, tmp_path_factory):
    """A bucket behind a proxy that counts: URL of the cube in it, and the proxy."""
    with s3_server(tmp_path_factory.mktemp("s3")) as (port, upload), proxy(port) as passing:
        upload(cube, "cubes", "lab/cube.zarr")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3_environment(passing.port).items():
                patch.setenv(name, value)
            yield "s3://cubes/lab/cube.zarr", passing


@pytest.fixture(scope="module")
def web(cube):
    """The same cube on a plain HTTP server."""
    with static(cube.parent) as server:
        yield f"{server.url}/my%20cube.zarr", server


@pytest.fixture(params=["s3", "http", "memory"])
def far(request, cube):
    """URL of the cube, and the server."""
    if request.param == "memory":
        fs = fsspec.filesystem("memory")
        fs.put(str(cube), "/far/cube.zarr", recursive=True)
        yield "memory://far/cube.zarr", None
        fs.rm("/far", recursive=True)
    else:
        yield request.getfixturevalue("s3" if request.param == "s3" else "web")


def epoch(source, **options):
    view = CubeDataset(source, **options)
    if "mode" in options:
        view = view.with_stimulus()
    return [(b["stims"].numpy().copy(), b["responses"].numpy().copy()) for b in view.loader(2, shuffle=True, seed=0)]


def same_epochs(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for one, other in zip(x, y, strict=True):
            np.testing.assert_array_equal(one, other)


def test_it_opens_trains_and_verifies(far, cube):
    url, _ = far
    near, ds = strfcube.open(cube), strfcube.open(url)
    xr.testing.assert_identical(ds.load(), near.load())
    assert strfcube.verify(url) == []
    for options in ({}, {"cache": "none"}, {"cache": "none", "average_repeats": True}):
        same_epochs(epoch(url, **options), epoch(cube, **options))
    waves = {"mode": "waveform", "audio_fs": 8000}
    same_epochs(epoch(url, **waves), epoch(cube, **waves))
    same_epochs(epoch(ds.isel(neuron=[2, 0])), epoch(near.isel(neuron=[2, 0])))


@pytest.mark.slow
def test_what_is_made_of_it(far, cube, tmp_path):
    from strfcube.builder.save import save as write

    url, _ = far
    digests = [strfcube.open(strfcube.rebin(p, 10, out=tmp_path / n, jobs=1)).attrs["digest"]
               for p, n in ((url, "a.zarr"), (cube, "b.zarr"))]  # fmt: skip
    assert digests[0] == digests[1]
    saved = [strfcube.open(write(strfcube.open(p), tmp_path / n)) for p, n in ((url, "c.zarr"), (cube, "d.zarr"))]
    assert saved[0].attrs["digests"] == saved[1].attrs["digests"]
    assert "trials/spike_time" in saved[0].attrs["digests"]
    assert "audio/samples" in saved[0].attrs["digests"]


@pytest.mark.slow
def test_the_command_line_reads_urls(web, cube):
    url, _ = web
    run = [sys.executable, "-m", "strfcube.cli.main"]
    found = subprocess.run([*run, "inspect", url], capture_output=True, text=True, check=True, timeout=120)
    assert strfcube.open(cube).attrs["digest"] in "".join(found.stdout.split())
    found = subprocess.run([*run, "verify", url], capture_output=True, text=True, check=True, timeout=120)
    assert "is as it was built" in found.stdout
    found = subprocess.run([*run, "verify", f"{url}/none"], capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 1
    first, error = found.stderr.splitlines()
    assert first == "checking the cube ..."
    assert "no such cube" in error


def test_few_requests(web, cube):
    url, server = web
    server.requests.clear()
    ds = strfcube.open(url)
    asked = [path for _, path, _ in server.requests]
    small = len([n for n in ds.variables if n not in ("response", "stimulus")])
    assert len(asked) <= small + 8  # metadata of root and arrays, and each small variable once
    server.requests.clear()
    view = CubeDataset(ds, cache="none")
    list(view.loader(1, shuffle=True, seed=3))
    shards = {
        p.relative_to(cube).as_posix()
        for n in ("response", "stimulus")
        for p in (cube / n / "c").rglob("*")
        if p.is_file()
    }
    ranges = [path.partition("zarr/")[2] for _, path, span in server.requests if span and "zarr.json" not in path]
    indexes = [span for _, _, span in server.requests if span.startswith("bytes=-")]
    assert set(ranges) == shards
    assert len(ranges) <= 4 * len(shards)  # index, the first batch, and the neighbours of all others in one
    assert len(indexes) <= len(shards) + 2
    server.requests.clear()
    list(view.loader(1, shuffle=True, seed=4))
    assert not [span for _, path, span in server.requests if span.startswith("bytes=-") and "zarr.json" not in path]


@pytest.mark.parametrize("options", [{"ranges": "no suffix"}, {"etags": False}])
def test_servers_of_all_kinds(cube, options):
    with static(cube.parent, **options) as server:
        url = f"{server.url}/{cube.name}"
        assert strfcube.verify(url) == []
        same_epochs(epoch(url), epoch(cube))


def test_a_server_without_ranges_is_said_to_be_one(cube):
    expected = pytest.raises(StoreError, match="does not answer range requests; use a server that does")
    with static(cube.parent, ranges="none") as server, expected:
        strfcube.open(f"{server.url}/{cube.name}")["response"].load()


def test_what_is_not_there(cube, s3, web):
    for url, _ in (s3, web):
        for call in (strfcube.open, strfcube.verify, CubeDataset):
            with pytest.raises(StoreError, match=r"none\.zarr: no such cube") as error:
                call(f"{url.rpartition('/')[0]}/none.zarr")
            assert "\n" not in str(error.value)
    for url in ("http://127.0.0.1:9/cube.zarr", "nowhere://cube.zarr"):
        with pytest.raises(StoreError) as error:
            strfcube.open(url)
        assert url.partition("://")[2].partition("/")[0] in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("url", "said"), [
    ("https://ada:hush@lab.org/cube.zarr?sig=hush", "https://***@lab.org/cube.zarr: credentials in a URL"),
    ("https://hush@lab.org/cube.zarr", "https://***@lab.org/cube.zarr: credentials in a URL"),
    ("ftp://ada:hush@lab.org/cube.zarr", "ftp://***@lab.org/cube.zarr: credentials in a URL"),
    ("https://lab.org/cube.zarr?sig=hush", "nothing after '?' would be asked for, only https://lab.org/cube.zarr;"),
    ("s3://lab/cube.zarr?versionId=hush", "nothing after '?' would be asked for, only s3://lab/cube.zarr;"),
    ("s3://lab/cube.zarr#hush", "nothing after '#' would be asked for, only s3://lab/cube.zarr;"),
])  # fmt: skip
def test_a_url_holds_no_secret_and_nothing_that_is_not_asked_for(url, said):
    for call in (strfcube.open, strfcube.verify, CubeDataset, lambda url: strfcube.build("demo", out=url, force=True)):
        with pytest.raises(StoreError, match=re.escape(said)) as error:
            call(url)
        assert "hush" not in str(error.value)
        assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize("url", ["github://lab:cubes@main/cube.zarr", "abfss://box@lab.dfs.core.windows.net/cube.zarr"])
def test_what_is_no_secret_in_a_url(url):
    urls._see_plain(url, url.partition("://")[0])


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r's3:// takes obstore: pip install "strfcube\[remote\]"'):
        strfcube.open("s3://bucket/cube.zarr")


def test_wrong_credentials(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"access denied .*AWS_ENDPOINT_URL come from the environment") as error:
        strfcube.open(s3[0])
    assert "\n" not in str(error.value)


# --- damage and change ------------------------------------------------------------------------------------------------


def test_a_bit_that_flips_on_the_way_is_asked_for_again(web, cube):
    url, server = web
    flipped = []

    def once(path, data):
        if "response" in path and len(data) > 40 and not flipped:
            flipped.append(path)
            return data[:20] + bytes([data[20] ^ 4]) + data[21:]
        return data

    server.set(damage=once)
    try:
        same_epochs(epoch(url, cache="none"), epoch(cube, cache="none"))
    finally:
        server.set(damage=None)
    assert flipped


def test_a_bit_that_flipped_there_is_an_error(cube, tmp_path):
    copy = Path(shutil.copytree(cube, tmp_path / "cube.zarr"))
    (shard,) = (p for p in (copy / "response" / "c").rglob("*") if p.is_file())
    data = shard.read_bytes()
    shard.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    with static(tmp_path) as server:
        url = f"{server.url}/cube.zarr"
        with pytest.raises(StoreError, match=r"response: chunk \(.*\) is damaged \(its checksum\)"):
            strfcube.open(url)["response"].load()
        with pytest.raises(StoreError, match="is damaged"):
            epoch(url, cache_dir=tmp_path / "cache")
        (found,) = strfcube.verify(url)
        assert "'response' cannot be read: chunk (" in found


def test_a_cube_that_is_built_again_is_never_mixed(cube, tmp_path):
    copy = Path(shutil.copytree(cube, tmp_path / "cube.zarr"))
    with static(tmp_path) as server:
        url = f"{server.url}/cube.zarr"
        array = ShardedArray(f"{url}/response")
        at = next(at for at in np.ndindex(*array.grid) if array.has(at))
        array.read(at)
        shard = copy / "response" / array.index.locate(at)[0].key
        os.utime(shard, ns=(1, 1))
        with pytest.raises(StoreError, match="was replaced or removed while it was open"):
            array.read(at)
        shard.unlink()
        with pytest.raises(StoreError, match="was replaced or removed while it was open"):
            array.read(at)


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("far", ["s3", "http"], indirect=True)
def test_forked_workers_read_after_the_parent_has(far, cube):
    url, _ = far
    view = CubeDataset(url, cache="none")
    expected = epoch(cube, cache="none")
    same_epochs([(b["stims"].numpy(), b["responses"].numpy()) for b in view.loader(2, shuffle=True, seed=0)], expected)
    for persistent in (False, True):
        loader = view.loader(2, shuffle=True, seed=0, num_workers=2, multiprocessing_context="fork",
                             persistent_workers=persistent, timeout=100)  # fmt: skip
        for _ in range(2):
            loader.epoch = 0
            same_epochs([(b["stims"].numpy(), b["responses"].numpy()) for b in loader], expected)


def _values(url):
    with dask.config.set(scheduler="synchronous"):  # dask's own threads do not survive a fork
        return strfcube.open(url)["response"].values


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_opens_anew(web, cube):
    url, _ = web
    _values(url)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for values in pool.map_async(_values, [url] * 4).get(100):
            np.testing.assert_array_equal(values, strfcube.open(cube)["response"].values)


def test_pickles_are_small_and_read_on(far, cube):
    url, _ = far
    array = ShardedArray(connect(url).at("response"))
    local = ShardedArray(cube / "response")
    data = pickle.dumps(array)
    assert len(data) < 1000
    again = pickle.loads(data)
    for at in np.ndindex(*local.grid):
        found, expected = again.read(at), local.read(at)
        assert (found is None) == (expected is None)
        if found is not None:
            np.testing.assert_array_equal(found, expected)


def test_the_helper_of_a_forked_process_ends_with_it(web):
    """Started by hand: what a fork would leave."""
    url, _ = web
    helper = object_store._Helper()
    base, prefix = object_store.split(url)
    data, size, tag = helper.ask("_ask", base, f"{prefix}/zarr.json", None)
    assert json.loads(data)["node_type"] == "group"
    assert len(data) == size
    assert tag
    assert helper.ask("_ask", base, f"{prefix}/nothing", None) is None
    with pytest.raises(object_store.RefusedError):
        helper.ask("_ask", "http://127.0.0.1:9", "x", None)
    process = helper._process
    process.stdin.close()
    assert process.wait(20) == 0
    assert helper.ask("_ask", base, f"{prefix}/nothing", None) is None  # another is started
    assert helper._process is not process
    helper._waiting[-1] = asked = Future()
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as before:
        helper._listen(before, {})
    assert not asked.done()
    del helper._waiting[-1]
    helper._process.stdin.close()
    helper._process.wait(20)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_neighbours_are_one_request():
    spans = [(0, 100), (100, 50), (150 + GAP_BYTES, 10), (10 * GAP_BYTES, 5), (40, 20)]
    assert merged(spans) == [[0, 4, 1, 2], [3]]
    large = [(i * 1_000_000, 1_000_000) for i in range(20)]
    groups = merged(large)
    assert sorted(i for group in groups for i in group) == list(range(20))
    assert all(1e6 * len(group) <= REQUEST_BYTES for group in groups)
    assert merged([]) == []
