"""Files read at any offset by many threads, with few descriptors, with and without pread."""

import gc
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from stores import make_store

from strfcube.cube.shard_reader import ShardedArray
from strfcube.errors import StoreError
from strfcube.transport import local_files
from strfcube.transport.local_files import Descriptors, LocalFiles


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Path of a response of many shards, and all of its chunks."""
    _, path = make_store(tmp_path_factory.mktemp("many"), stim=9, neuron=9, stim_shard=1)
    array = ShardedArray(f"{path}/response")
    return array.path, {at: None if (c := array.read(at)) is None else c.copy() for at in np.ndindex(*array.grid)}


def same(array, chunks):
    for at, expected in chunks.items():
        found = array.read(at)
        assert (found is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(found, expected)


def opened(folder):
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, by another thread
            if os.readlink(f"/proc/self/fd/{number}").startswith(str(folder)):
                found.append(number)
    return found


@pytest.fixture(params=["pread", "no pread"])
def reading(request, monkeypatch):
    if request.param == "no pread":
        monkeypatch.setattr(local_files, "PREAD", False)
        monkeypatch.delattr(os, "pread")
    return request.param


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_two_descriptors_serve_many_threads(stored, reading, monkeypatch):
    monkeypatch.setattr(local_files, "DESCRIPTORS", 2)
    path, chunks = stored
    arrays = [ShardedArray(path)]
    order = [np.random.default_rng(seed).permutation(len(chunks)) for seed in range(24)]
    every = list(chunks)

    def work(positions):
        same(arrays[0], {every[i]: chunks[every[i]] for i in positions})
        return len(opened(path))

    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(work, order))
    assert max(held) <= 2 + 8  # those that are kept, and those that a thread is reading just now
    gc.collect()
    assert len(opened(path)) <= 2
    arrays.clear()
    gc.collect()
    assert not opened(path)


def test_a_forked_reader_has_files_of_its_own(stored, reading):
    path, chunks = stored
    array = ShardedArray(path)
    same(array, chunks)
    children = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                for _ in range(5):
                    same(array, chunks)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    for _ in range(5):
        same(array, chunks)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    same(pickle.loads(pickle.dumps(array)), chunks)


def test_descriptors_run_out(stored, monkeypatch):
    path, _ = stored
    files = [str(p) for p in (Path(path) / "c").rglob("*") if p.is_file()]
    pool, plain, few = Descriptors(100), os.open, []

    def one_at_most(name, flags):
        if len(pool._open) >= 3 and not few:
            few.append(name)
            raise OSError(24, "Too many open files")
        return plain(name, flags)

    monkeypatch.setattr(os, "open", one_at_most)
    for file in files[:6]:
        assert pool.get(1, file).read(0, 4) == Path(file).read_bytes()[:4]
    assert few


def test_a_file_that_was_replaced_is_not_taken_for_the_one_that_was_opened(stored, tmp_path, monkeypatch):
    path, chunks = stored
    copy = shutil.copytree(path, tmp_path / "response")
    array = ShardedArray(copy)
    at = next(at for at, values in chunks.items() if values is not None)
    array.read(at)
    monkeypatch.setattr(local_files, "DESCRIPTORS", 0)  # nothing stays open
    (file,) = (p for p in (copy / "c").rglob("*") if p.is_file() and p.relative_to(copy / "c").parts[:2] == ("0", "0"))
    data = file.read_bytes()
    other = next(at for at, values in chunks.items() if values is not None and at[0] == 1)
    array.read(other)  # closes the first
    file.unlink()
    with pytest.raises(StoreError, match="was replaced or removed while it was open: open the cube again"):
        array.read(at)
    file.write_bytes(data)
    with pytest.raises(StoreError, match="was replaced or removed"):
        array.read(at)
    np.testing.assert_array_equal(ShardedArray(copy).read(at), chunks[at])


def test_a_short_file(tmp_path, reading):
    (tmp_path / "key").write_bytes(b"0123")
    files = LocalFiles(str(tmp_path))
    data, version = files.tail("key", 10)
    assert data == b"0123"
    assert files.read("key", 2, 10, version) == b"23"
    assert files.get("none") is None
    assert files.tail("none", 1) is None
    assert files.at("inner").get("key") is None


def test_what_the_system_refuses_is_a_store_error(stored, tmp_path):
    path, _ = stored
    copy = Path(shutil.copytree(path, tmp_path / "response"))
    (copy / "c").rename(copy / "there")
    (shard,) = {p for p in (copy / "there").rglob("*") if p.is_file() and p.relative_to(copy / "there").parts[0] == "0"
                and p.relative_to(copy / "there").parts[1] == "0"}  # fmt: skip
    (copy / "c" / shard.relative_to(copy / "there")).mkdir(parents=True)  # a folder where a file should be
    with pytest.raises(StoreError, match=r"cannot be read: Is a directory"):
        ShardedArray(copy).read((0, 0, 0, 0))


@pytest.mark.skipif(os.name != "posix", reason="a limit of POSIX")
def test_half_of_what_a_process_may_open_is_left_to_others(tmp_path, monkeypatch):
    """zarr and the builder open files, too: at a limit of 64 a cube of many shards could not be opened again."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    pool = local_files.Descriptors()
    for number in range(30):
        (tmp_path / str(number)).write_bytes(b"1234")
        assert pool.get(1, str(tmp_path / str(number))).read(0, 4) == b"1234"
        assert len(pool._open) <= 10
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert local_files._room() == local_files.DESCRIPTORS
