"""What a build does not believe, and what it does not let through: folders, ledgers, limits, places, raw files."""

import dataclasses
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from toy import FAST, Toy, make_neuron, make_stim, random_toy, spikes, tone, write_toy

import strfcube
from strfcube.builder import stillness, tasks
from strfcube.builder.workplace import work_folder
from strfcube.errors import RawDataError, StoreError, StrfcubeError, UsageError
from strfcube.records import Length, Trial, Trials

pytestmark = pytest.mark.slow
HERE = Path(__file__).parents[1]
NOBODY = 65534


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


def findings(path):
    table = xr.open_zarr(path, group="findings", chunks=None).load()
    return [{str(n): table[n].values[i] for n in table.data_vars} for i in range(table.sizes["finding"])]


def stopped(pipeline, out, at=1, stage="write", **flags):
    """Leave an unfinished build behind."""

    def progress(now, done, _):
        if now == stage and done >= at:  # of cells, of which a source may have several
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strfcube.build(pipeline, out=out, progress=progress, **(FAST | flags))
    return work_folder(str(out))


@pytest.fixture
def toy(tmp_path):
    return random_toy(tmp_path / "raw")[0]


@pytest.fixture
def shared():
    """A folder that every user may write to, and only the owner of something may rename it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


# --- shared folders --------------------------------------------------------------------------------------------------


def test_nothing_of_an_unfinished_build_is_pickled(tmp_path, toy):
    """And the folder is for its owner alone, whatever the umask."""
    before = os.umask(0)
    try:
        work = stopped(toy, tmp_path / "cube.zarr", jobs=2)
    finally:
        os.umask(before)
    assert stat.S_IMODE(work.stat().st_mode) == 0o700
    files = [p for p in work.rglob("*") if p.is_file() and "store.zarr" not in p.parts]
    assert {p.suffix for p in files} - {"", ".lock"} == {".done", ".spool", ".json", ".txt"}
    for path in files:
        with pytest.raises(Exception, match=r".*"):
            pickle.loads(path.read_bytes())
    for path in work.glob("*/*.done"):
        json.loads(path.read_bytes().partition(b"\n")[2])


PLANT = """
import os, pickle, sys
os.setgid({id}); os.setuid({id})
work = sys.argv[1]
class Run:
    def __reduce__(self):
        return os.system, ("touch " + sys.argv[2],)
payload = pickle.dumps(Run())
how = sys.argv[3]
try:
    if how == "link":
        os.makedirs(work + ".mine"); os.symlink(work + ".mine", work); work += ".mine"
    else:
        os.makedirs(work, exist_ok=True)
        os.chmod(work, 0o777)
    for folder in ("ingest", "write", "spool"):
        os.makedirs(os.path.join(work, folder), exist_ok=True)
    for name in ("context.pkl", "job.pkl", "ingest/source0.done", "write/audio.done", "recipe.json", "lock"):
        open(os.path.join(work, name), "wb").write(payload)
except PermissionError:
    print("kept out")
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("how", ["folder", "link"])
@pytest.mark.parametrize("moment", ["before", "after a kill", "before another build"])
def test_a_planted_work_folder(toy, shared, how, moment):
    """Another user of a shared folder plants what looks like an unfinished build."""
    out, ran = shared / "cube.zarr", shared / "ran"
    work = work_folder(str(out))
    if moment == "after a kill":
        stopped(toy, out)
    if moment == "before another build":
        strfcube.build(toy, out=out, **FAST)
    plant = [sys.executable, "-c", PLANT.format(id=NOBODY), str(work), str(ran), how]
    said = subprocess.run(plant, capture_output=True, text=True, check=False)
    if moment == "after a kill":
        assert "kept out" in said.stdout or "FileExistsError" in said.stderr
        strfcube.build(toy, out=out, **FAST)
        assert strfcube.verify(out) == []
    else:
        assert said.returncode == 0, said.stderr
        with pytest.raises(StoreError, match=r"remove it"):
            strfcube.build(toy, out=out, dt=10, force=True, **FAST)
    assert not ran.exists()


def test_a_work_folder_that_others_may_write_to(tmp_path, toy):
    work = work_folder(str(tmp_path / "cube.zarr"))
    work.mkdir()
    work.chmod(0o777)
    with pytest.raises(StoreError, match=r"has mode 777: it is not a work folder that strfcube made for you alone"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST)
    work.rmdir()
    work.write_text("mine")
    with pytest.raises(StoreError, match="is no folder"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST)


# --- what the ledger says --------------------------------------------------------------------------------------------


def _kinds_of(work):
    return {
        "ledger": sorted((work / "ingest").glob("*.done")) + sorted((work / "write").glob("*.done")),
        "spool": sorted((work / "spool").glob("*.spool")),
        "store": sorted(p for p in (work / "store.zarr").rglob("*") if p.is_file()),
        "marker": [work / "recipe.json"],
    }


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "zeros", "wrong JSON"])
@pytest.mark.parametrize("kind", ["ledger", "spool", "store", "marker"])
def test_what_a_power_cut_leaves(tmp_path, toy, kind, damage):
    """Every file of one kind short, empty, absent or full of zeros: done again, with the same digest."""
    expected = digest(strfcube.build(toy, out=tmp_path / "expected.zarr", **FAST))
    out = tmp_path / "cube.zarr"
    work = stopped(toy, out, at=4)
    files = _kinds_of(work)[kind]
    assert files
    for path in files:
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            new = {"cut": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data)),
                   "wrong JSON": b'{"files": {}, "leaves": 3}'}[damage]  # fmt: skip
            path.write_bytes(new)
    strfcube.build(toy, out=out, **FAST)
    assert digest(out) == expected
    assert strfcube.verify(out) == []
    assert not work.exists()


def test_files_cut_to_what_was_forced_to_the_disk(tmp_path, toy, monkeypatch):
    """At many moments all that no fsync has covered is lost; the same command ends with the same cube."""
    expected = digest(strfcube.build(toy, out=tmp_path / "expected.zarr", **FAST))
    durable = {}  # by inode: size at its last fsync
    real = os.fsync

    def fsync(handle):
        real(handle)
        state = os.fstat(handle)
        durable[state.st_ino] = state.st_size

    monkeypatch.setattr(os, "fsync", fsync)
    out = tmp_path / "cube.zarr"
    for moment in [("ingest", 1), ("ingest", 3), ("write", 0), ("write", 1), ("write", 3), ("write", 5), None]:
        if moment is None:
            strfcube.build(toy, out=out, **FAST)
        else:
            stopped(toy, out, moment[1], moment[0])
        for place in (out, work_folder(str(out))):
            for path in place.rglob("*"):
                if path.is_file():
                    os.truncate(path, min(path.stat().st_size, durable.get(path.stat().st_ino, 0)))
    assert digest(out) == expected
    assert strfcube.verify(out) == []


def test_a_shard_that_is_lost_before_publishing(tmp_path, toy):
    out = tmp_path / "cube.zarr"

    def progress(stage, done, total):
        if stage == "write" and done == total:
            for shard in (work_folder(str(out)) / "store.zarr" / "response").rglob("c/*/*/*/*"):
                shard.write_bytes(shard.read_bytes()[:-1])

    with pytest.raises(StoreError, match=r"was changed or removed after it was written: the same command"):
        strfcube.build(toy, out=out, progress=progress, **FAST)
    assert not out.exists()
    strfcube.build(toy, out=out, **FAST)
    assert strfcube.verify(out) == []


# --- where a cube may lie --------------------------------------------------------------------------------------------


def test_places_where_no_cube_can_lie(tmp_path, toy, monkeypatch):
    """Said before anything is read."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "dangling.zarr").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.zarr").symlink_to(tmp_path / "loop.zarr")
    for out, error, what in (
        ("", UsageError, "give the name of a new folder"),
        (".", UsageError, "the folder you are in"),
        ("/", UsageError, "the folder you are in"),
        (tmp_path / "dangling.zarr", StoreError, "is a link to"),
        (tmp_path / "loop.zarr", StoreError, "is a link to"),
        ("/proc", StoreError, "mount point"),
    ):
        with pytest.raises(error, match=what) as said:
            strfcube.build(toy, out=out, progress=lambda *_: pytest.fail("it was built"), **FAST)
        assert "\n" not in str(said.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling.zarr", "here", "loop.zarr", "raw"]


def test_a_link_as_target(tmp_path, toy):
    """The cube lies where the link points to, and the link stays."""
    real, link = tmp_path / "disk" / "cube.zarr", tmp_path / "cube.zarr"
    strfcube.build(toy, out=real, **FAST)
    link.symlink_to(real)
    assert strfcube.build(toy, out=link, **FAST) == str(link)
    with pytest.raises(StoreError, match="another recipe"):
        strfcube.build(toy, out=link, dt=10, **FAST)
    strfcube.build(toy, out=link, dt=10, force=True, **FAST)
    assert link.is_symlink()
    assert strfcube.open(real).attrs["dt_ms"] == 10
    assert sorted(p.name for p in real.parent.iterdir()) == ["cube.zarr"]


# --- raw files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["changed", "gone", "new"])
def test_raw_files_that_change_during_a_build(tmp_path, toy, what):
    out = tmp_path / "cube.zarr"

    def progress(stage, done, _):
        if (stage, done) == ("write", 1):
            file = toy.raw / "0.pkl"
            if what == "gone":
                file.unlink()
            else:
                (file if what == "changed" else toy.raw / "new.pkl").write_bytes(b"other")

    with pytest.raises(RawDataError, match="while the cube was built"):
        strfcube.build(toy, out=out, progress=progress, **FAST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_raw_file_that_is_written_while_its_source_is_read(tmp_path):
    file = tmp_path / "raw" / "a.txt"
    records = {"s": [spikes("a", "n", 1, [1], file="a.txt")], "t": [spikes("a", "m", 1, [1])]}
    toy = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n"), make_neuron("m", "t")], records)
    file.write_text("1")
    os.utime(file, (1e9, 1e9))
    seen = []

    def progress(*state):
        seen.append(state)
        if state == ("ingest", 0, 2):
            file.write_text("2")

    with pytest.raises(RawDataError, match="was written to while the cube was built"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", progress=progress, **FAST)
    assert [s for s in seen if s[0] != "survey"] == [("ingest", 0, 2)]


def test_a_pipe_among_the_raw_files(tmp_path, toy):
    os.mkfifo(toy.raw / "pipe")
    with pytest.raises(RawDataError, match="neither a file nor a folder"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST)


def test_a_cube_among_the_raw_files(tmp_path, toy):
    out = toy.raw / "cube.zarr"
    strfcube.build(toy, out=out, **FAST)
    assert strfcube.build(toy, out=out, **FAST) == str(out)  # up to date
    assert strfcube.verify(out) == []


# --- sources that end their worker -----------------------------------------------------------------------------------


class Wild(Toy):
    """Crashes or hangs in one of its sources, as a library does on a damaged file."""

    def read(self, source, report):
        how = (self.raw / "how").read_text()
        if source.id == "source1":
            if how == "loop":
                while True:
                    pass
            if how == "wait":
                time.sleep(1000)
            if how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            os._exit(3)
        yield from super().read(source, report)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("how", "what"),
    [("crash", "ended by SIGSEGV"), ("exit", "ended with code 3"), ("loop", "more than 2 s of processor time")],
)
def test_a_source_that_ends_its_worker(tmp_path, toy, monkeypatch, jobs, how, what):
    monkeypatch.setenv("STRFCUBE_SOURCE_SECONDS", "2")
    (toy.raw / "how").write_text(how)
    wild = Wild(toy.raw)
    path = strfcube.build(wild, out=tmp_path / "cube.zarr", **(FAST | {"jobs": jobs}))
    found = [f for f in findings(path) if f["severity"] == "error"]
    assert [(f["file"], f["consequence"]) for f in found] == [("source1", "its trials are missing from the cube")]
    assert what in found[0]["what"]
    ds = strfcube.open(path)
    assert ds["neuron"].values.tolist() == ["n0", "n2", "n3", "n5"]
    assert strfcube.verify(path) == []
    with pytest.raises(StrfcubeError, match="source1: this source"):
        strfcube.build(wild, out=tmp_path / "strict.zarr", strict=True, **(FAST | {"jobs": jobs}))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_source_that_waits_for_ever(tmp_path, toy, monkeypatch):
    """It uses no processor time, and is ended all the same; the rest is built."""
    monkeypatch.setattr(stillness, "SECONDS", 1.0)
    monkeypatch.setattr(stillness, "_LOOK", 0.25)
    (toy.raw / "how").write_text("wait")
    path = strfcube.build(Wild(toy.raw), out=tmp_path / "cube.zarr", **(FAST | {"jobs": 1}))
    assert [f["file"] for f in findings(path) if "did nothing for 1 s" in f["what"]] == ["source1"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    "code",
    [
        "import subprocess; subprocess.run(['sleep', '1.2'])",
        "import time; [(time.sleep(0.2), open('/proc/self/stat').read()) for _ in range(6)]",
        "import time; at = time.time() + 1.2\nwhile time.time() < at: sum(range(200_000)); time.sleep(0.01)",
    ],
)
def test_what_a_worker_may_wait_for(monkeypatch, code):
    """A process of its own, bytes that come slowly, little work at a time."""
    monkeypatch.setattr(stillness, "SECONDS", 0.6)
    monkeypatch.setattr(stillness, "_LOOK", 0.2)
    monkeypatch.setattr(stillness, "_LEAST", 0.01)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert not stillness.waits_for_ever(process.pid, process.stdout)


def never():
    """A sound whose file a library reads for ever."""
    while True:
        pass


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_part_of_the_cube_that_is_never_written(tmp_path, monkeypatch):
    """One line, which says what and where to set the limit."""
    monkeypatch.setenv("STRFCUBE_SOURCE_SECONDS", "1")
    monkeypatch.setattr(tasks, "WRITING", 2)
    stimuli = [dataclasses.replace(make_stim("a"), audio=never)]
    toy = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": [spikes("a", "n", 1, [5])]})
    with pytest.raises(StrfcubeError, match=r"took more than 2 s of processor time: STRFCUBE_SOURCE_SECONDS") as said:
        strfcube.build(toy, out=tmp_path / "cube.zarr", **(FAST | {"jobs": 1}))
    assert str(said.value).startswith("write ")
    assert "\n" not in str(said.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_limit_that_is_none(tmp_path, toy, monkeypatch):
    monkeypatch.setenv("STRFCUBE_SOURCE_SECONDS", "soon")
    with pytest.raises(UsageError, match="STRFCUBE_SOURCE_SECONDS='soon'"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", **(FAST | {"jobs": 1}))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /dev/shm and /proc")
def test_a_killed_build_leaves_no_semaphore_and_no_process(tmp_path, toy):
    code = (
        "import sys, strfcube, toy\nstrfcube.build(toy.Toy(sys.argv[1]), out=sys.argv[2], **(toy.FAST | {'jobs': 2}))"
    )
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen([sys.executable, "-c", code, toy.raw, tmp_path / "cube.zarr"], cwd=HERE)
    while not (tmp_path / "cube.zarr.building").exists() and process.poll() is None:
        pass
    process.kill()
    process.wait()
    assert not {name for name in set(os.listdir("/dev/shm")) - before if str(process.pid) in name}


# --- values ----------------------------------------------------------------------------------------------------------


def cube(tmp_path, trials, stimuli=None, neurons=None, **flags):
    toy = write_toy(tmp_path / "raw", stimuli or [make_stim("a")], neurons or [make_neuron("n")], {"s": trials})
    return strfcube.build(toy, out=tmp_path / "cube.zarr", **(FAST | flags))


def errors(path):
    return [(f["file"], f["what"], f["consequence"]) for f in findings(path) if f["severity"] == "error"]


@pytest.mark.parametrize("late", [9.23e9, 999999.999, -1e300])
def test_spikes_that_no_recording_holds(tmp_path, late):
    """9.23e9 s are more nanoseconds than 64 bits hold: they became -9.22e9 s."""
    path = cube(tmp_path, [Trial("a", "n", 1, np.array([0.001, late, 0.002]), file="f.txt"), spikes("a", "n", 2, [5])])
    trials = xr.open_zarr(path, group="trials", chunks=None)
    assert trials["spike_time"].values.tolist() == [1_000_000, 2_000_000, 5_000_000]
    assert trials["row_size"].values.tolist() == [2, 1]
    what = f"1 spike times lie more than 3600 s from onset: the first is {late:g} s, of trial 1"
    assert errors(path) == [("f.txt", what, "these spikes are missing from the cube")]


def test_an_unknown_length_is_not_stretched_by_one_spike(tmp_path):
    stimuli = [make_stim("a", audio=False, length=Length.unknown())]
    path = cube(tmp_path, [Trial("a", "n", 1, np.array([0.05, 999999.999]))], stimuli)
    assert strfcube.open(path)["n_bins"].values.tolist() == [11]


@pytest.mark.parametrize("columns", [False, True])
def test_trial_numbers_that_four_bytes_do_not_hold(tmp_path, columns):
    numbers = [7, 99999999999]
    trials = (
        [Trials("n", ["a", "a"], np.array(numbers), np.array([0, 0]), np.empty(0), files=["f", "g"])]
        if columns
        else [Trial("a", "n", number, file=file) for number, file in zip(numbers, "fg", strict=True)]
    )
    path = cube(tmp_path, trials)
    assert xr.open_zarr(path, group="trials", chunks=None)["trial_number"].values.tolist() == [7, -1]
    assert errors(path) == [
        ("g", "trial number 99999999999, 2147483647 is the highest", "1 trials have the number -1 instead")
    ]


@pytest.mark.parametrize("count", [65_535, 65_536, 70_000])
def test_more_trials_of_a_pair_than_are_counted(tmp_path, count):
    many = Trials("n", ["a"] * count, np.arange(count), np.ones(count, int), np.full(count, 0.001), files="f")
    path = cube(tmp_path, [many], [make_stim("a", 0.005)])
    ds = strfcube.open(path)
    assert ds["n_repeats"].values.tolist() == [[65_535]]
    assert int(ds["response"].sum()) == 65_535
    left = count - 65_535
    expected = [
        ("f", "more than 65,535 trials of one stimulus to one neuron", f"{left:,} trials are missing from the cube")
    ]
    assert errors(path) == (expected if left else [])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"length": Length.of_samples(10**12, 16000.0)}, "a length of 6.25e+07 s"),
        ({"length": Length(np.inf, "table")}, "a length of inf s"),
        ({"length": Length(1e6, "table")}, "a length of 1e+06 s"),
        ({"length": Length(-1.0, "table")}, "a length of -1 s"),
        ({"length": Length.of_samples(1600, 1.0)}, "a sampling rate of 1 Hz"),
        ({"length": Length.of_samples(1600, 1e12)}, "a sampling rate of 1e+12 Hz"),
        ({"sound_onset": np.inf}, "a sound that begins inf s"),
        ({"sound_duration": 1e9}, "a sound of 1e+09 s"),
        ({"electrode": 10**300}, "electrode is a number of 301 digits"),
        ({"note": "x" * 200_000}, "note is a text of 200,000 characters"),
    ],
)
def test_a_stimulus_that_cannot_be(tmp_path, changes, what):
    """One absurd value is a finding; all else is in the cube."""
    extra = {key: "" if key == "note" else 1 for key in changes if key in ("electrode", "note")}
    stimuli = [make_stim("a", **changes), make_stim("b", **extra)]
    path = cube(tmp_path, [spikes("a", "n", 1, [3, 62]), spikes("b", "n", 1, [5])], stimuli)
    found = errors(path)
    assert len(found) == 1
    assert found[0][1].startswith(f"stimulus a: {what}")
    ds = strfcube.open(path)
    assert ds["response"].sel(stim="a").sum() == ds["response"].sel(stim="b").sum() + 1 == 2
    assert ds["n_bins"].values.max() == 20
    assert strfcube.verify(path) == []


def test_a_neuron_that_cannot_be(tmp_path):
    path = cube(tmp_path, [spikes("a", "n", 1, [3])], neurons=[make_neuron("n", electrode=10**300)])
    assert errors(path)[0][1].startswith("neuron n: electrode is a number of 301 digits")


@pytest.mark.parametrize("rate", [0.0, 1e-9, 1e12, np.nan])
def test_a_response_that_cannot_be(tmp_path, rate):
    trials = [
        Trial("a", "n", 1, trace=np.ones(5), rate=rate, file="f"),
        Trial("a", "n", 2, trace=np.ones(100), rate=1e3),
    ]
    path = cube(tmp_path, trials, neurons=[make_neuron("n", trace=True)])
    assert strfcube.open(path)["n_repeats"].values.tolist() == [[1]]
    assert errors(path)[0][:2] == (
        "f",
        f"trial 1 of 'n': a response of {rate:g} samples a second, expected 0.1 to 1e+07",
    )


def test_windows_and_samples_that_cannot_be(tmp_path):
    trace = np.ones(100)
    trace[7] = 1e300
    trials = [Trial("a", "n", 1, trace=trace, rate=1e3, window=(0.0, 1e12), file="f")]
    path = cube(tmp_path, trials, neurons=[make_neuron("n", trace=True)], dt=1)
    assert [what.partition(",")[0] for _, what, _ in errors(path)] == [
        "a recorded window that reaches to 1e+12 s",
        "1 samples of trial 1 of 'n' are infinite",
    ]
    assert np.isnan(strfcube.open(path)["response"].values[0, 0, 0]).nonzero()[0].tolist() == [7]


def test_more_bins_than_a_cube_holds(tmp_path):
    with pytest.raises(UsageError, match=r"dt=1e-06 ms: stimulus 'a' would have 100,000,000 bins"):
        cube(tmp_path, [spikes("a", "n", 1, [3])], [make_stim("a", audio=False)], dt=1e-6)
    with pytest.raises(UsageError, match=r"post=1e\+300 ms: give 0 or more, 3.6e\+06 at most"):
        cube(tmp_path, [spikes("a", "n", 1, [3])], post=1e300)


def test_a_sound_of_another_rate_than_stated(tmp_path):
    """What the file holds is checked where it is read."""
    stim = make_stim("a")
    from dataclasses import replace
    from functools import partial

    path = cube(tmp_path, [spikes("a", "n", 1, [3])], [replace(stim, audio=partial(tone, 0.1, 1e9 / 16))])
    assert {f[1] for f in errors(path)} == {
        "a sampling rate of 6.25e+07 Hz, expected 100 to 1e+07 Hz: that is no sound"
    }
    assert strfcube.open(path)["response"].sum() == 1


# --- cubes made of cubes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ["trials/spike_time", "audio/samples", "trials/row_size", "area"])
def test_a_flipped_bit_is_not_laundered(tmp_path, toy, array):
    source = Path(strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST))
    opened = strfcube.open(source)
    shard = max((p for p in (source / array / "c").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=rf"is damaged, and nothing is made of it: '{array}'|{array}/c/0 is damaged"):
        strfcube.rebin(source, 10, out=tmp_path / "other.zarr", jobs=0)
    with pytest.raises(StoreError, match=rf"is damaged, and nothing is made of it: '{array}'|{array}/c/0 is damaged"):
        save(opened, tmp_path / "other.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "raw"]


def save(ds, path):
    from strfcube.builder.save import save as write

    return write(ds, path)


def test_a_rebin_resumed_after_its_cube_changed(tmp_path):
    """Its fingerprint is the digest of the cube that it reads."""
    one, other = random_toy(tmp_path / "raw", seed=1)[0], random_toy(tmp_path / "other", seed=2)[0]
    for file in one.raw.iterdir():
        os.utime(file, (1e9, 1e9))
    source = strfcube.build(one, out=tmp_path / "cube.zarr", **FAST)

    def progress(stage, done, _):
        if (stage, done) == ("write", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strfcube.rebin(source, 10, out=tmp_path / "10.zarr", jobs=0, progress=progress)
    strfcube.build(other, out=source, force=True, **FAST)
    attrs = json.loads((Path(source) / "zarr.json").read_text())
    path = strfcube.rebin(source, 10, out=tmp_path / "10.zarr", jobs=0)
    assert digest(path) == digest(strfcube.build(other, out=tmp_path / "direct.zarr", dt=10, **FAST))
    assert strfcube.open(path).attrs["source_digest"] == attrs["attributes"]["digest"]


# --- pools -----------------------------------------------------------------------------------------------------------

POOL = """
import sys, strfcube
from strfcube.builder.save import save as write
write(strfcube.open(sys.argv[1]), sys.argv[2])
"""


def test_a_killed_pool_leaves_nothing_for_good(tmp_path, toy):
    source = strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST)
    out = tmp_path / "pool.zarr"
    process = subprocess.Popen([sys.executable, "-c", POOL, source, out])
    work = work_folder(str(out))
    while not (work / "store.zarr" / "stimulus").exists() and process.poll() is None:
        pass
    process.kill()
    process.wait()
    assert not out.exists()
    (work / "store.zarr").mkdir(exist_ok=True)
    (work / "store.zarr" / "stray").write_text("of the killed one")
    save(strfcube.open(source), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "pool.zarr", "raw"]
    assert not (out / "stray").exists()
    assert strfcube.verify(out) == []


# --- the demo --------------------------------------------------------------------------------------------------------


def test_first_demos_at_once(tmp_path):
    """Each finds the simulated birds whole, whoever writes them."""
    code = textwrap.dedent("""
        from strfcube.builder.request import prepare
        print(prepare("demo").fingerprint)
    """)
    env = os.environ | {"STRFCUBE_DATA_DIR": str(tmp_path / "data")}
    four = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = [p.communicate(timeout=300) for p in four]
    assert [p.returncode for p in four] == [0] * 4, said
    assert len({out for out, _ in said}) == 1
    assert not any("Traceback" in err for _, err in said)
    assert [p.name for p in (tmp_path / "data" / "raw").iterdir()] == ["demo"]
