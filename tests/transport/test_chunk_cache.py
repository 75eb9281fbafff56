"""Chunks of remote cubes on a local disk: bounded, checked, shared by processes, and never of another cube."""

import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from servers import static
from stores import make_store

import strfcube
from strfcube.cube.shard_reader import ShardedArray
from strfcube.errors import StoreError, UsageError
from strfcube.transport.chunk_cache import ChunkCache, limit_bytes
from strfcube.transport.connect import connect

pytest.importorskip("torch")
from strfcube import CubeDataset

pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """Path of a cube."""
    return Path(make_store(tmp_path_factory.mktemp("cached"), stim=6)[1])


@pytest.fixture
def web(cube):
    with static(cube.parent) as server:
        yield f"{server.url}/{cube.name}", server


def chunk_requests(server):
    return [r for r in server.requests if r[2] and not r[2].startswith("bytes=-")]


def epoch(source, **options):
    view = CubeDataset(source, cache="none", **options)
    return [b["responses"].numpy().copy() for b in view.loader(2, shuffle=True, seed=0)]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def files(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.is_file())


def test_a_second_epoch_asks_for_no_chunk(web, cube, tmp_path, monkeypatch):
    url, server = web
    expected = epoch(cube)
    same(epoch(url, cache_dir=tmp_path / "cache"), expected)
    assert chunk_requests(server)
    server.requests.clear()
    same(epoch(url, cache_dir=tmp_path / "cache"), expected)
    same(
        [strfcube.open(url, cache_dir=tmp_path / "cache")["response"].values], [strfcube.open(cube)["response"].values]
    )
    assert not chunk_requests(server)
    monkeypatch.setenv("STRFCUBE_CACHE_DIR", str(tmp_path / "cache"))
    same(epoch(url), expected)
    assert not chunk_requests(server)
    monkeypatch.delenv("STRFCUBE_CACHE_DIR")
    same(epoch(url), expected)
    assert chunk_requests(server)  # without a folder nothing is kept


def test_verify_reads_the_cube_and_not_the_cache(cube, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(cube, tmp_path / "cube.zarr"))
    monkeypatch.setenv("STRFCUBE_CACHE_DIR", str(tmp_path / "cache"))
    with static(tmp_path) as server:
        url = f"{server.url}/cube.zarr"
        epoch(url)
        for shard in (copy / "response" / "c").rglob("*"):
            if shard.is_file():
                status, data = shard.stat(), bytearray(shard.read_bytes())
                data[5] ^= 1
                shard.write_bytes(data)
                os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert any("is damaged (its checksum)" in sentence for sentence in strfcube.verify(url))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder gone"])
def test_what_is_damaged_here_is_asked_for_again(web, cube, tmp_path, damage):
    url, server = web
    cache, expected = tmp_path / "cache", epoch(cube)
    same(epoch(url, cache_dir=cache), expected)
    for file in files(cache):
        data = file.read_bytes()
        at = len(data) // 2
        new = {"flip": data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :], "cut": data[:at], "empty": b""}
        if damage in new:
            file.write_bytes(new[damage])
    if damage == "folder gone":
        shutil.rmtree(cache)
    server.requests.clear()
    same(epoch(url, cache_dir=cache), expected)
    assert chunk_requests(server)
    server.requests.clear()
    same(epoch(url, cache_dir=cache), expected)
    assert not chunk_requests(server)


def test_a_cube_that_was_built_again_is_another(tmp_path):
    cache = tmp_path / "cache"
    with static(tmp_path, etags=False) as server:
        url = f"{server.url}/cube.zarr"
        for unobserved in (True, False):
            shutil.rmtree(tmp_path / "cube.zarr", ignore_errors=True)
            make_store(tmp_path, unobserved=unobserved)
            for file in files(tmp_path / "cube.zarr"):
                os.utime(file, (1_000_000_000, 1_000_000_000))  # a server that gives no ETag tells them by nothing
            same(epoch(url, cache_dir=cache), epoch(tmp_path / "cube.zarr"))


@pytest.mark.slow
def test_it_stays_within_its_limit(tmp_path):
    cache = ChunkCache(str(tmp_path / "cache"), 100_000)
    rng = np.random.default_rng(0)
    names = [f"{i:040x}"[::-1] for i in range(300)]
    for i, name in enumerate(names):
        cache.put(name, rng.bytes(1000))
        assert sum(f.stat().st_size for f in files(tmp_path)) <= 100_000
        os.utime(cache.path(name), (1000 + i, 1000 + i))
    assert cache.get(names[0]) is None
    assert len(cache.get(names[-1])) == 1000
    cache.put("f" * 40, rng.bytes(200_000))  # larger than all of it
    assert cache.get("f" * 40) is None


def test_what_was_used_last_stays(tmp_path):
    cache = ChunkCache(str(tmp_path / "cache"), 100_000)
    names = [f"{i:040x}"[::-1] for i in range(99)]
    for i, name in enumerate(names[:90]):
        cache.put(name, bytes(1000))
        os.utime(cache.path(name), (1000 + i, 1000 + i))
    assert cache.get(names[0]) is not None  # used now
    for name in names[90:]:
        cache.put(name, bytes(1000))
    for i in range(30):
        cache.put(f"{i:039x}a"[::-1], bytes(1000))
    assert cache.has(names[0])
    assert not cache.has(names[1])


def test_what_else_is_in_the_folder_stays(tmp_path):
    """A disk of its own for the cache was meant, and somebody else's was named."""
    mine = [tmp_path / name for name in ("thesis.tex", "ab/results.csv", "ab/cd/results.csv", "ab/.hidden")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(50_000))
        os.utime(path, (1000, 1000))
    left = tmp_path / "ab" / f"{'0' * 38}.{'0' * 32}.partial"  # of a process that was killed
    left.write_bytes(bytes(50_000))
    os.utime(left, (1000, 1000))
    cache = ChunkCache(str(tmp_path), 100_000)
    names = [f"{i:040x}"[::-1] for i in range(150)]
    for name in names:
        cache.put(name, bytes(1000))
    assert all(path.stat().st_size == 50_000 for path in mine)
    assert not left.exists()
    assert sum(map(cache.has, names)) > 80


def _write(folder, seed):
    cache = ChunkCache(folder, 200_000)
    rng = np.random.default_rng(seed)
    for _ in range(200):
        i = int(rng.integers(400))
        name = f"{i:040x}"[::-1]
        found = cache.get(name)
        if found is not None and found != bytes([i % 251]) * 1000:
            return False
        cache.put(name, bytes([i % 251]) * 1000)
    return True


@pytest.mark.slow
def test_processes_and_threads_share_it(tmp_path):
    folder = str(tmp_path / "cache")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        waiting = pool.starmap_async(_write, [(folder, seed) for seed in range(4)])
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(lambda seed: _write(folder, seed), range(10, 14)))
        assert all(waiting.get(200))
    kept = files(folder)
    assert not [f for f in kept if f.name.endswith(".partial")]
    assert sum(f.stat().st_size for f in kept) <= 250_000  # each looks now and then at what others wrote


def test_old_cubes_are_checked_here_too(cube, tmp_path):
    """The file's own checksum, whether the chunk has one or not."""
    cache = ChunkCache(str(tmp_path), 10_000)
    cache.put("a" * 40, b"some bytes without a checksum")
    (file,) = files(tmp_path)
    file.write_bytes(b"s0me" + file.read_bytes()[4:])
    assert cache.get("a" * 40) is None
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_written(web, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"file: no cache can be kept here: .*; give another cache_dir"):
        strfcube.open(web[0], cache_dir=tmp_path / "file")
    cache, reading = (ChunkCache(str(tmp_path / name), 10_000) for name in ("full", "reading"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(RuntimeWarning, match=r"chunks cannot be cached \(No space left on device\)"):
        cache.put("a" * 40, b"data")
    cache.put("b" * 40, b"data")  # said once
    assert not files(tmp_path / "full")
    for name in ("makedirs", "unlink"):  # as on a disk that can only be read, which refuses both
        monkeypatch.setattr(os, name, lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.warns(RuntimeWarning, match=r"chunks cannot be cached \(Read-only file system\)"):
        reading.put("a" * 40, b"data")


@pytest.mark.parametrize("text", ["-1", "0", "much", "nan"])
def test_a_limit_that_is_none(monkeypatch, text):
    monkeypatch.setenv("STRFCUBE_CACHE_GB", text)
    with pytest.raises(UsageError, match="expected a positive number of gigabytes"):
        limit_bytes()


def test_local_cubes_are_not_cached(cube, tmp_path):
    array = ShardedArray(connect(cube / "response", tmp_path / "cache"))
    assert not array.remote
    assert not (tmp_path / "cache").exists()


def test_an_opened_cube_has_its_cache_already(cube, tmp_path):
    with pytest.raises(UsageError, match=r"give cache_dir to strfcube\.open"):
        CubeDataset(strfcube.open(cube), cache_dir=tmp_path)
