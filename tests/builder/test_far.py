"""Builds to object stores: whole or not at all, gone on with elsewhere, one at a time; on a real S3 server."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from servers import proxy, s3_environment, s3_server
from toy import FAST, random_toy

import strfcube
from strfcube.builder import lease
from strfcube.builder.lease import Lease, LostLeaseError
from strfcube.builder.workplace import work_folder
from strfcube.errors import StoreError, UsageError
from strfcube.transport import object_store
from strfcube.transport.urls import remote

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket behind a proxy that counts."""
    pytest.importorskip("obstore")
    with s3_server(tmp_path_factory.mktemp("s3"), anonymous=True) as (port, upload), proxy(port) as passing:
        (folder := tmp_path_factory.mktemp("other") / "data").mkdir()
        (folder / "notes.txt").write_text("not a cube")
        upload(folder, "cubes", "others")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3_environment(passing.port).items():
                patch.setenv(name, value)
            yield passing


@pytest.fixture(params=["s3", "memory"])
def place(request, tmp_path):
    """URL of a folder that nothing lies in, and a function that lists it."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    url = f"{'s3://cubes' if request.param == 's3' else 'memory:/'}/{tmp_path.name}"
    return url, lambda: sorted(remote(url).objects())


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A pipeline, and the path of its cube."""
    folder = tmp_path_factory.mktemp("toy")
    pipeline, _ = random_toy(folder / "raw")
    return pipeline, strfcube.build(pipeline, out=folder / "cube.zarr", **FAST)


@pytest.fixture
def soon(monkeypatch):
    """Let a lease that nobody renews be taken over soon."""
    monkeypatch.setattr(lease, "LEASE", 0.8)


def digest(path):
    return strfcube.open(path).attrs["digest"]


class Seen:
    """A progress that remembers where each stage began."""

    def __init__(self):
        self.states = []

    def __call__(self, *state):
        self.states.append(state)

    def first(self, stage):
        return next(done for name, done, _ in self.states if name == stage)


def keys(path):
    """What lies in the folder of a local cube."""
    return {p.relative_to(path).as_posix() for p in Path(path).rglob("*") if p.is_file()}


def test_the_same_cube_and_nothing_else(place, toy):
    (url, names), (pipeline, near) = place, toy
    how = FAST | ({"jobs": 2} if url.startswith("memory") else {})  # whose memory this is, does it all
    far = strfcube.build(pipeline, out=f"{url}/cube.zarr/", **how)
    assert digest(far) == digest(near)
    assert strfcube.verify(far, deep=True) == []
    assert set(names()) == {f"cube.zarr/{key}" for key in keys(near)}
    assert not work_folder(f"{url}/cube.zarr").exists()
    with pytest.raises(StoreError, match="another recipe: give another --out, or --force"):
        strfcube.build(pipeline, out=far, dt=10, **FAST)
    strfcube.build(pipeline, out=far, dt=10, force=True, **FAST)
    other = strfcube.rebin(near, 10, out=Path(near).with_name("10.zarr"), jobs=0)
    assert digest(far) == digest(other)
    assert set(names()) == {f"cube.zarr/{key}" for key in keys(other)}


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_rebinned_and_pooled(place, toy, tmp_path):
    (url, names), (pipeline, near) = place, toy
    far = strfcube.build(pipeline, out=f"{url}/cube.zarr", **FAST)
    again = strfcube.rebin(far, 10, jobs=0)
    assert again.rpartition("/")[0] == url
    assert digest(again) == digest(strfcube.rebin(near, 10, out=tmp_path / "10.zarr", jobs=0))
    pools = [strfcube.concat([cube, cube], names=["a", "b"], duplicates="keep") for cube in (near, far)]
    saved = [strfcube.save(pool, out) for pool, out in zip(pools, (tmp_path / "p.zarr", f"{url}/p.zarr"), strict=True)]
    here, there = (strfcube.open(path).attrs for path in saved)
    assert here["digests"] == there["digests"]
    assert all(f"{name}/" in there["digests"] for name in ("trials", "audio", "findings"))
    assert strfcube.verify(saved[1]) == []
    with pytest.raises(StoreError, match="a cube already"):
        strfcube.save(pools[0], saved[1])
    strfcube.save(pools[0], saved[1], force=True)
    assert {name.partition("/")[0] for name in names()} == {"cube.zarr", "p.zarr", again.rpartition("/")[2]}
    with pytest.raises(UsageError, match="only read from"):
        strfcube.save(pools[0], "https://lab.org/pool.zarr")


def test_a_cube_is_not_written_over_the_one_that_is_read(place, toy, tmp_path):
    """There is no rename: the source would go before the new cube is there."""
    (url, names), (pipeline, near) = place, toy
    far = strfcube.build(pipeline, out=f"{url}/cube.zarr", **FAST)
    before = names()
    for again in (
        lambda: strfcube.rebin(far, 10, out=f"{far}/", force=True, jobs=0),
        lambda: strfcube.save(strfcube.open(far).isel(neuron=[0]), far, force=True),
        lambda: strfcube.save(strfcube.concat([near, f"{far}/"], names=["a", "b"], duplicates="keep"), far, force=True),
    ):
        with pytest.raises(StoreError, match=r"cube\.zarr/? is the cube that is read, or a copy of it.* another --out"):
            again()
        assert names() == before
    assert digest(far) == digest(near)
    assert strfcube.verify(far) == []
    strfcube.rebin(near, 10, out=f"{url}/10.zarr", jobs=0)
    strfcube.rebin(far, 10, out=f"{url}/10.zarr", force=True, jobs=0)  # another cube is replaced as before
    part = strfcube.open(strfcube.save(strfcube.open(near).isel(neuron=[0]), tmp_path / "part.zarr"))
    assert digest(strfcube.save(part, f"{url}/10.zarr", force=True)) == part.attrs["digest"]


def asked(server):
    """Requests but those of the lease, which are more of a build that takes longer."""
    return [path for _, path, _ in server.requests if not path.endswith("/lock")]


KILLED = """
import os, signal, sys, strfcube, toy
from strfcube.builder import lease
lease.LEASE = 0.8
def stop(stage, done, total):
    if stage == sys.argv[3] and done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
strfcube.build(toy.Toy(sys.argv[1]), out=sys.argv[2], progress=stop, **toy.FAST)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills itself")
def test_killed_and_gone_on_with_from_an_empty_disk(s3, toy, tmp_path, soon, monkeypatch):
    pipeline, near = toy
    s3.requests.clear()
    strfcube.build(pipeline, out="s3://cubes/whole/cube.zarr", **FAST)
    whole = len(asked(s3))
    for stage, done in (("ingest", 2), ("write", 3)):
        url = f"s3://cubes/killed-{stage}/cube.zarr"
        s3.requests.clear()
        monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / f"{stage}-first"))
        command = [sys.executable, "-c", KILLED, pipeline.raw, url, stage, str(done)]
        assert subprocess.run(command, cwd=HERE, check=False, timeout=300).returncode < 0
        with pytest.raises(StoreError, match="it is being built, or" if stage == "write" else "no such cube"):
            strfcube.open(url)
        monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / f"{stage}-second"))
        seen = Seen()
        strfcube.build(pipeline, out=url, progress=seen, **FAST)
        if stage == "write":  # what was written is not written again
            assert seen.first("write") == done
        assert len(asked(s3)) <= 1.2 * whole
        assert digest(url) == digest(near)
        assert set(remote(url.removesuffix("/cube.zarr")).objects()) == {f"cube.zarr/{key}" for key in keys(near)}


@pytest.mark.parametrize("place", ["memory"], indirect=True)
@pytest.mark.parametrize("moment", ["begin", "settle", "publish", "clear"])
def test_stopped_between_any_two_steps(place, toy, moment, monkeypatch):
    """Also where an older cube is replaced: what is open is whole, before and after."""
    (url, names), (pipeline, near) = place, toy
    far = strfcube.build(pipeline, out=f"{url}/cube.zarr", dt=10, **FAST)
    older = digest(far)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        name = {"clear": "_clear_aside"}.get(moment, moment)
        patch.setattr(f"strfcube.builder.places.Far.{name}", stop)
        patch.setattr("strfcube.builder.places.Far.discard", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            strfcube.build(pipeline, out=far, force=True, **FAST)
    if moment in ("settle", "publish"):
        with pytest.raises(StoreError, match="being built"):
            strfcube.open(far)
    else:
        assert digest(far) == (older if moment == "begin" else digest(near))
    strfcube.build(pipeline, out=far, force=moment == "begin", **FAST)
    assert digest(far) == digest(near)
    assert set(names()) == {f"cube.zarr/{key}" for key in keys(near)}


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_half_written_cube_of_another_recipe(place, toy, tmp_path, monkeypatch):
    (url, names), (pipeline, near) = place, toy
    far = f"{url}/cube.zarr"
    other, _ = random_toy(tmp_path / "other", seed=1)

    def stop(stage, done, _):
        if (stage, done) == ("write", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strfcube.build(other, out=far, progress=stop, **FAST)
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(StoreError, match=r"unfinished build from other raw files .*: --force begins anew"):
        strfcube.build(pipeline, out=far, **FAST)
    with pytest.raises(StoreError, match="unfinished build of another recipe: --force begins anew"):
        strfcube.build(pipeline, out=far, dt=10, **FAST)
    strfcube.build(pipeline, out=far, force=True, **FAST)
    assert digest(far) == digest(near)
    assert set(names()) == {f"cube.zarr/{key}" for key in keys(near)}


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_build_that_fails_leaves_nothing(place, toy):
    (url, names), (pipeline, _) = place, toy

    def fail(stage, done, _):
        if (stage, done) == ("write", 2):
            raise StoreError("something that is no matter of the server")

    with pytest.raises(StoreError, match="no matter"):
        strfcube.build(pipeline, out=f"{url}/cube.zarr", progress=fail, **FAST)
    assert names() == []


def test_places_that_are_refused(s3, toy):
    pipeline, _ = toy
    for out, what in (
        ("s3://cubes/others", "objects that are no strfcube cube, the first is notes.txt"),
        ("s3://cubes", "a whole bucket"),
        ("https://lab.org/cube.zarr", "only read from"),
        ("nowhere://lab/cube.zarr", "nowhere"),
    ):
        for force in (False, True):
            with pytest.raises((StoreError, UsageError), match=what):
                strfcube.build(pipeline, out=out, force=force, **FAST)
    assert sorted(remote("s3://cubes/others").objects()) == ["notes.txt"]


def second_build(pipeline, far, capfd, meanwhile):
    """Begin a build while another machine holds the lease, and let that go when the second said that it waits."""
    said = ""
    with Lease(remote(f"{far}.building"), far, "another machine").held():
        second = threading.Thread(target=strfcube.build, args=(pipeline,), kwargs={"out": far, **FAST})
        second.start()
        while "waiting for it" not in said and second.is_alive():
            time.sleep(0.05)
            said += capfd.readouterr().err
        time.sleep(3 * lease.LOOK)
        assert second.is_alive()
        meanwhile()
    second.join(120)
    return said + capfd.readouterr().err


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_the_second_waits(place, toy, monkeypatch, capfd):
    (url, names), (pipeline, near) = place, toy
    monkeypatch.setattr(lease, "LOOK", 0.2)
    far, locks = f"{url}/cube.zarr", []
    said = second_build(pipeline, far, capfd, lambda: locks.extend(names()))
    assert locks == ["cube.zarr.building/lock"]
    assert said.count(f"another build is writing {far}") == 1
    assert "30 s if it died" in said
    assert digest(far) == digest(near)
    assert not any("building" in name for name in names())


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_who_was_not_heard_of_is_followed(place, toy, soon):
    """And does not publish, when it is heard of again."""
    (url, names), (pipeline, near) = place, toy
    far = f"{url}/cube.zarr"
    aside = remote(f"{far}.building")
    aside.put("lock", json.dumps({"token": "of one that died"}).encode())
    strfcube.build(pipeline, out=far, **FAST)
    assert digest(far) == digest(near)
    seen = []

    def taken(stage, done, _):
        if (stage, done) == ("write", 3):
            aside.put("lock", json.dumps({"token": "of another"}).encode())
            time.sleep(lease.LEASE)
            seen.append(stage)

    with pytest.raises(LostLeaseError, match="another build took over"):
        strfcube.build(pipeline, out=far, dt=10, force=True, progress=taken, **FAST)
    assert seen
    with pytest.raises(StoreError, match="being built"):
        strfcube.open(far)
    assert "cube.zarr.building/lock" in names()
    strfcube.build(pipeline, out=far, force=True, **FAST)
    assert digest(far) == digest(near)
    assert set(names()) == {f"cube.zarr/{key}" for key in keys(near)}


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_servers_without_conditional_puts(s3, toy, conditions, caplog, monkeypatch, capfd):
    pipeline, near = toy
    monkeypatch.setattr(lease, "LOOK", 0.2)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")  # which covers the headers that the proxy leaves out
    far, locks = f"s3://cubes/{conditions}/cube.zarr", []
    s3.set(conditions=conditions)
    try:
        second_build(pipeline, far, capfd, lambda: locks.extend(remote(f"s3://cubes/{conditions}").objects()))
    finally:
        s3.set(conditions="known")
    assert locks == ["cube.zarr.building/lock"]
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 2  # each said so once
    assert set(warned) == {
        f"{far}: this server does not know conditional puts, so that two builds which begin there at the same moment "
        "are not kept apart: begin one at a time"
    }
    assert digest(far) == digest(near)
    assert sorted(remote(f"{far}.building").objects()) == []


def test_what_was_changed_meanwhile_is_not_published(s3, toy):
    pipeline, near = toy
    far = "s3://cubes/changed/cube.zarr"

    def change(stage, done, _):
        if (stage, done) == ("write", 3):
            remote(far).put("response/c/0/0/0/0", b"something else")
            remote(far).put("response/c/9/9/9/9", b"of nobody")

    with pytest.raises(StoreError, match="was changed since it was written: the same command mends it"):
        strfcube.build(pipeline, out=far, progress=change, **FAST)
    strfcube.build(pipeline, out=far, **FAST)
    assert digest(far) == digest(near)
    assert set(remote(far).objects()) == keys(near)


@pytest.mark.parametrize("denied", ["/c/", "building/write", "zarr.json"])
def test_a_server_that_refuses_for_a_while(s3, toy, denied):
    """As where credentials end: what was done stays, and the same command goes on."""
    pipeline, near = toy
    far = f"s3://cubes/denied-{len(denied)}/cube.zarr"
    s3.set(denied=denied)
    try:
        with pytest.raises(StoreError, match="access denied"):
            strfcube.build(pipeline, out=far, **FAST)
    finally:
        s3.set(denied="")
    seen = Seen()
    strfcube.build(pipeline, out=far, progress=seen, **FAST)
    assert seen.first("ingest") == 6  # on this very disk, nothing is read again
    assert seen.first("write") == (5 if denied == "zarr.json" else 0)
    assert digest(far) == digest(near)
    assert set(remote(f"{far}.building").objects()) == set()


def test_in_parts_by_processes(s3, toy):
    """Workers put for themselves; parts share what lies on the disk that they share."""
    pipeline, near = toy
    how = FAST | {"jobs": 1}
    far = "s3://cubes/parts/cube.zarr"
    for part in ("2/2", "1/2", "1/2"):
        strfcube.build(pipeline, out=far, part=part, **how)
    with pytest.raises(StoreError, match="being built"):
        strfcube.open(far)
    strfcube.build(pipeline, out=far, finalise=True, **how)
    assert digest(far) == digest(near)
    assert set(remote("s3://cubes/parts").objects()) == {f"cube.zarr/{key}" for key in keys(near)}
    assert not work_folder(far).exists()


def test_a_large_object_goes_in_parts(s3, monkeypatch):
    monkeypatch.setattr(object_store, "_LARGE", 1_000_000)
    monkeypatch.setattr(object_store, "_PART", 6_000_000)
    data = os.urandom(13_000_000)
    s3.requests.clear()
    version = remote("s3://cubes/large").put("object", data)
    assert sum("partNumber" in path for _, path, _ in s3.requests) == 3
    assert remote("s3://cubes/large").objects() == {"object": version}
    assert remote("s3://cubes/large").get("object") == data


def _put(url):
    files = remote(url)
    files.put("a/b", b"from a forked process")
    assert files.put("a/b", b"again", "") is None
    assert list(files.objects()) == ["a/b"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_puts_too(s3):
    remote("s3://cubes/forked").objects()  # its threads run here, and not there
    process = multiprocessing.get_context("fork").Process(target=_put, args=("s3://cubes/forked",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert remote("s3://cubes/forked").get("a/b") == b"from a forked process"
    remote("s3://cubes/forked").remove(["a/b"])
    assert remote("s3://cubes/forked").objects() == {}
