"""Builds that are killed, side by side, or out of room: the same cube in the end, and never half a one."""

import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy import FAST, Toy, make_neuron, make_stim, random_toy, spikes, write_toy
from writers.ns1 import write_ns1

import strfcube
from strfcube.builder import workplace
from strfcube.builder.workplace import work_folder
from strfcube.errors import StoreError, StrfcubeError

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


def start(code, *args):
    """A process of its own that runs a few lines."""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid):
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if int((proc / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(proc.name))
        except (OSError, IndexError):
            continue
    return found


def alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


BUILD = """
import sys, strfcube
raw, out, jobs = sys.argv[1:4]
print("ready", flush=True)
strfcube.build("ns1", raw=raw, out=out, jobs=int(jobs))
"""


@pytest.fixture(scope="module")
def ns1(tmp_path_factory):
    """A raw folder, the digest of its cube, and the seconds that a build takes."""
    raw = write_ns1(tmp_path_factory.mktemp("raw"), units=16, repeats=6, drc_repeats=1, clip_seconds=0.4).raw
    out = tmp_path_factory.mktemp("expected") / "cube.zarr"
    process = start(BUILD, raw, out, 2)
    process.stdout.readline()
    begun = time.perf_counter()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return raw, digest(out), time.perf_counter() - begun


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_ten_moments(ns1, tmp_path, jobs):
    """The second process kills at a later and later moment of what the first ones left; then one goes on to the end."""
    raw, expected, seconds = ns1
    left = []
    for moment in range(5):
        out = tmp_path / f"{moment}.zarr"
        process = start(BUILD, raw, out, jobs)
        process.stdout.readline()
        time.sleep(seconds * (moment + 0.5 + jobs / 4) / 5.5)
        mine = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left += [mine]
        assert not out.exists() or digest(out) == expected
        strfcube.build("ns1", raw=raw, out=out, jobs=1)
        assert digest(out) == expected
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(str(moment))) == [out.name]
    assert not [pid for pids in left for pid in pids if alive(pid)]
    assert strfcube.verify(tmp_path / "4.zarr") == []


@pytest.mark.parametrize("stop", [1, 3, 5, 6, 8, 11])
def test_stopped_after_any_task(tmp_path, stop):
    """An end at the start, within and at the end of both stages."""
    pipeline, _ = random_toy(tmp_path / "raw", n_sources=4)
    expected = digest(strfcube.build(pipeline, out=tmp_path / "expected.zarr", **FAST))
    seen = []

    def progress(*state):
        seen.append(state)
        if len(seen) == stop:
            raise KeyboardInterrupt

    out = tmp_path / "cube.zarr"
    with pytest.raises(KeyboardInterrupt):
        strfcube.build(pipeline, out=out, progress=progress, **FAST)
    assert not out.exists()
    done = seen[-1]
    seen.clear()
    strfcube.build(pipeline, out=out, progress=lambda *state: seen.append(state), **FAST)
    assert digest(out) == expected
    assert done in seen  # what was done is not done again
    assert seen.index(done) == [s[0] for s in seen].index(done[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "expected.zarr", "raw"]


def test_half_a_file_of_a_killed_write_is_no_part_of_the_cube(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw")

    def progress(stage, *_):
        if stage == "write":
            raise KeyboardInterrupt

    out = tmp_path / "cube.zarr"
    with pytest.raises(KeyboardInterrupt):
        strfcube.build(pipeline, out=out, progress=progress, **FAST)
    store = tmp_path / "cube.zarr.building" / "store.zarr"
    for place in (store, store / "response"):
        (place / "zarr.0a1b.partial").write_text("{")
    for place in (store / "animal", store / "trials" / "file"):
        place.mkdir()  # a label of which nothing but the folder is there
    strfcube.build(pipeline, out=out, **FAST)
    assert not list(out.rglob("*.partial"))
    assert strfcube.verify(out) == []


def test_any_number_of_workers_gives_one_digest(tmp_path):
    """And the same bytes: every file but the root metadata, which holds the time."""
    pipeline, _ = random_toy(tmp_path / "raw", n_sources=5)
    hashes = []
    for jobs in (1, 2, 3):
        out = Path(strfcube.build(pipeline, out=tmp_path / f"{jobs}.zarr", **(FAST | {"jobs": jobs})))
        files = {p.relative_to(out): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*") if p.is_file()}
        files.pop(Path("zarr.json"))
        hashes.append((digest(out), files))
    assert hashes[0] == hashes[1] == hashes[2]


# --- the moments of the exchange -------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path):
    return random_toy(tmp_path / "raw")[0]


def interrupted(monkeypatch, function, calls=1, where=""):
    """Let a function of `os` end the build at a call on some path, as a kill would."""
    import strfcube.builder.workplace as module

    real, count = getattr(os, function), []

    def stop(*args, **kwargs):
        count.extend([args] if where in str(args[0]) else [])
        if len(count) == calls and where in str(args[0]):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module.os, function, stop)


@pytest.mark.parametrize("again", ["same", "raw changed", "another recipe"])
@pytest.mark.parametrize("calls", [1, 2])
def test_ended_within_the_exchange(tmp_path, toy, monkeypatch, calls, again):
    """Where a file system cannot exchange folders: the old cube is moved away, the new one is not yet there."""
    out = tmp_path / "cube.zarr"
    old = digest(strfcube.build(toy, out=out, **FAST))
    new = digest(strfcube.build(toy, out=tmp_path / "new.zarr", dt=10, **FAST))
    with monkeypatch.context() as patch:
        patch.setattr("strfcube.builder.workplace._exchange", lambda *_: False)
        interrupted(patch, "rename", calls)
        with pytest.raises(KeyboardInterrupt):
            strfcube.build(toy, out=out, dt=10, force=True, **FAST)
    assert out.exists() == (calls == 1)
    if calls == 2:
        with pytest.raises(StoreError, match=r"a build ended while it replaced this cube; it is whole"):
            strfcube.open(out)
    if again == "another recipe":
        with pytest.raises(StoreError, match="holds another recipe"):
            strfcube.build(toy, out=out, dt=20, **FAST)
        assert digest(out) == old
        assert strfcube.build(toy, out=out, **FAST) == str(out)
        assert digest(out) == old
    elif again == "raw changed":
        (toy.raw / "survey.pkl").write_bytes(b"")
        with pytest.raises(StrfcubeError):
            strfcube.build(toy, out=out, dt=10, force=True, **FAST)
        assert digest(out) == old
    else:
        strfcube.build(toy, out=out, dt=10, force=True, **FAST)
        assert digest(out) == new
        assert strfcube.verify(out) == []
    assert not work_folder(str(out)).exists()


@pytest.mark.parametrize(("function", "calls", "where"), [("unlink", 2, "recipe.json"), ("rmdir", 1, ".building")])
def test_ended_while_it_cleared_up(tmp_path, toy, monkeypatch, function, calls, where):
    """A published cube is never written again from a ledger without its store."""
    out = tmp_path / "cube.zarr"
    with monkeypatch.context() as patch:
        interrupted(patch, function, calls, where)
        with pytest.raises(KeyboardInterrupt):
            strfcube.build(toy, out=out, **FAST)
    expected = digest(out)
    assert (work_folder(str(out)) / "recipe.json").exists() == (function == "unlink")
    shutil.copytree(work_folder(str(out)), tmp_path / "left")
    assert strfcube.build(toy, out=out, **FAST) == str(out)
    assert not work_folder(str(out)).exists()  # the same command clears up
    shutil.rmtree(out)
    (tmp_path / "left").rename(work_folder(str(out)))
    strfcube.build(toy, out=out, **FAST)
    assert digest(out) == expected
    assert strfcube.verify(out) == []


def test_a_forced_build_that_fails_keeps_the_old_cube(tmp_path):
    records = {"s": [spikes("a", "n", 1, [1])]}
    out = tmp_path / "cube.zarr"
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], records)
    old = digest(strfcube.build(pipeline, out=out, **FAST))
    write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [ValueError("bad")]})
    with pytest.raises(StrfcubeError, match="bad"):
        strfcube.build(pipeline, out=out, force=True, **FAST)
    assert digest(out) == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "raw"]


# --- side by side ----------------------------------------------------------------------------------------------------


def test_two_builds_of_one_store(ns1, tmp_path):
    """The second waits, says so, and finds the work done."""
    raw, expected, _ = ns1
    out = tmp_path / "cube.zarr"
    both = [start(BUILD, raw, out, 1) for _ in range(2)]
    errors = [p.communicate(timeout=120)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    assert sum("another build is writing" in e for e in errors) <= 1
    assert digest(out) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["cube.zarr"]


def test_a_build_waits_for_the_lock(tmp_path, toy):
    from filelock import FileLock

    out = tmp_path / "cube.zarr"
    work = work_folder(str(out))
    work.mkdir(mode=0o700)
    with FileLock(work / "lock"):
        process = start("import sys, strfcube, toy\nprint('ready', flush=True)\n"
                        "strfcube.build(toy.Toy(sys.argv[1]), out=sys.argv[2], **toy.FAST)", toy.raw, out)  # fmt: skip
        process.stdout.readline()
        time.sleep(1)
        assert process.poll() is None
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    assert errors.count("\n") == 1
    assert f"another build is writing {work}" in errors
    assert strfcube.verify(out) == []


class Killer(Toy):
    """Ends its own worker process, as the system does when memory runs out."""

    def read(self, source, report):
        if not (self.raw / "survived").exists():
            (self.raw / "survived").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().read(source, report)


def test_a_worker_that_is_killed(tmp_path, toy):
    out = tmp_path / "cube.zarr"
    expected = digest(strfcube.build(toy, out=tmp_path / "expected.zarr", **FAST))
    killer = Killer(toy.raw)
    with pytest.raises(StrfcubeError, match=r"a worker process was ended .* the same command goes on"):
        strfcube.build(killer, out=out, **(FAST | {"jobs": 2}))
    strfcube.build(killer, out=out, **(FAST | {"jobs": 2}))
    assert digest(out) == expected


# --- no room ---------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, signal, sys, strfcube, toy
from strfcube.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    strfcube.build(toy.Toy(sys.argv[1]), out=sys.argv[2], spool=sys.argv[4] if sys.argv[4:] else None, **toy.FAST)
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 500, 4000])
def test_no_room_in_any_stage(tmp_path, toy, limit):
    """The system refuses to write past a size: one line, no cube; with room again, the same command goes on."""
    out = tmp_path / "cube.zarr"
    process = start(LIMITED, toy.raw, out, limit)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert said.count("\n") == 1
    assert said.startswith(f"cannot write {tmp_path}")
    assert "free space, or give another --out" in said
    assert not out.exists()
    strfcube.build(toy, out=out, **FAST)
    assert strfcube.verify(out) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "raw"]


def test_no_room_for_what_is_read(tmp_path, toy):
    """Of a cube at a URL, what is on a disk here are the spools: they are named, and how to have them elsewhere."""
    (tmp_path / "spools").mkdir()
    said, errors = start(LIMITED, toy.raw, "memory://cubes/full.zarr", 500, tmp_path / "spools").communicate(timeout=60)
    assert said.startswith(f"cannot write {tmp_path / 'spools'}/strfcube-"), errors
    assert "free space, or give another folder for what is read (--spool)\n" in said


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc"])
def test_a_place_that_cannot_be_written(tmp_path, toy, place):
    (tmp_path / "file").write_text("mine")
    out = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x.zarr", "/proc": Path("/proc/x.zarr")}[
        place
    ]
    if place == "/proc" and not out.parent.is_dir():
        pytest.skip("no /proc")
    with pytest.raises(StoreError) as error:
        strfcube.build(toy, out=out, **FAST)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "raw"]


@pytest.mark.skipif(sys.platform != "linux", reason="an exchange in one step")
def test_a_cube_changes_places_with_the_one_it_replaces(tmp_path, toy, monkeypatch):
    """There is a cube at every moment, and no rename of an old one."""
    out = tmp_path / "cube.zarr"
    strfcube.build(toy, out=out, **FAST)
    new = digest(strfcube.build(toy, out=tmp_path / "new.zarr", dt=10, **FAST))
    with monkeypatch.context() as patch:
        interrupted(patch, "rename")
        strfcube.build(toy, out=out, dt=10, force=True, **FAST)
    assert digest(out) == new
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "new.zarr", "raw"]


def test_a_cube_of_a_layer_below_is_moved_away_by_hand(tmp_path, toy, monkeypatch):
    """In a container, what its image holds can be removed, but no folder of it be renamed."""
    out = tmp_path / "cube.zarr"
    old = digest(strfcube.build(toy, out=out, **FAST))

    def refused(one, other):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), other)

    with monkeypatch.context() as patch:
        patch.setattr(workplace, "_exchange", refused)
        with pytest.raises(StoreError, match=r"in the image of this container; move it away \(mv\), and the same"):
            strfcube.build(toy, out=out, dt=10, force=True, **FAST)
    assert digest(out) == old
    shutil.move(out, tmp_path / "old.zarr")
    assert digest(strfcube.build(toy, out=out, dt=10, force=True, **FAST)) != old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "old.zarr", "raw"]


@pytest.mark.parametrize("inside", ["", "/store.zarr"])
def test_an_unfinished_build_says_how_to_go_on(tmp_path, monkeypatch, capsys, inside):
    """By the very command: entered, it makes the cube that was asked for."""
    from strfcube.builder import finalise
    from strfcube.cli.main import main

    raw = write_ns1(tmp_path / "raw folder", units=3, repeats=2, drc_repeats=1, clip_seconds=0.2).raw
    asked = {"dt": 2, "only": {"valid_unit": [True, False]}, "post": 20, "bands": 7, "drc": True, "audio": False}
    expected = digest(strfcube.build("ns1", raw=raw, out=tmp_path / "expected.zarr", jobs=1, **asked))
    out = tmp_path / "a cube.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(finalise, "finalise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            strfcube.build("ns1", raw=raw, out=out, jobs=1, **asked)
    said = []
    for store in (f"{out}.building{inside}", out):
        with pytest.raises(SystemExit):
            main(["inspect", str(store)])
        said.append(capsys.readouterr().err.strip().partition("is an unfinished build; go on with it by: strfcube ")[2])
    assert said[0] == said[1]
    with pytest.raises(SystemExit) as end:
        main(shlex.split(said[0]))
    assert end.value.code == 0
    assert digest(out) == expected
    with pytest.raises(StoreError, match="no such cube; give"):
        strfcube.open(tmp_path / "nothing.zarr")
