"""Builds on a dask cluster: real workers that are killed, join late, or do not see the files."""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from toy import FAST, Toy, make_neuron, make_stim, random_toy, spikes, tone, write_toy

import strfcube
from strfcube.builder import crew
from strfcube.builder.cluster import Cluster
from strfcube.builder.worker import EndedError, dumps, value_of
from strfcube.errors import StrfcubeError, UsageError

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
CUBE = {key: value for key, value in FAST.items() if key != "jobs"}


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


@pytest.fixture(scope="module")
def client():
    """Of a cluster of two worker processes."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=60) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def toy(tmp_path):
    return random_toy(tmp_path / "raw", n_sources=4)[0]


class Deadly(Toy):
    """Ends in one of its sources whoever reads it, or the worker of the cluster, or only the first that tries."""

    def read(self, source, report):
        if source.id == "source1":
            fatal(self.raw.parent / "how")
        yield from super().read(source, report)


def fatal(note):
    how = note.read_text()
    if how.startswith("once"):
        note.write_text("survived")
    if "worker" in how:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # the system ends a child with its parent
    if "process" in how:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in how:
        os.kill(os.getpid(), signal.SIGSEGV)


def deadly_tone(note, seconds):
    fatal(note)
    return tone(seconds)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_workers_that_end_in_each_stage(tmp_path, client):
    """One while it reads, one while it writes the sound: what they were doing is done by another."""
    reading, writing = tmp_path / "how", tmp_path / "how to write"
    reading.write_text("survived")
    writing.write_text("survived")
    stimuli = [dataclasses.replace(make_stim("a"), audio=partial(deadly_tone, writing, 0.1))]
    neurons = [make_neuron(f"n{number}", f"source{number}") for number in range(3)]
    records = {neuron.source: [spikes("a", neuron.id, 1, [1, 2])] for neuron in neurons}
    toy = Deadly(write_toy(tmp_path / "raw", stimuli, neurons, records).raw)
    expected = digest(strfcube.build(toy, out=tmp_path / "expected.zarr", **FAST))
    reading.write_text("once worker")
    writing.write_text("once worker")
    assert digest(strfcube.build(toy, out=tmp_path / "cube.zarr", client=client, **CUBE)) == expected
    assert [note.read_text() for note in (reading, writing)] == ["survived"] * 2
    assert not list(tmp_path.glob("*.building"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["once process", "crash"])
def test_a_source_that_ends_its_process(tmp_path, toy, client, how):
    """From outside, which costs nothing; or by its own fault, which is a finding as it is on one machine."""
    (tmp_path / "how").write_text("survived" if "once" in how else how)
    expected = digest(strfcube.build(Deadly(toy.raw), out=tmp_path / "expected.zarr", jobs=1, **CUBE))
    (tmp_path / "how").write_text(how)
    assert digest(strfcube.build(Deadly(toy.raw), out=tmp_path / "cube.zarr", client=client, **CUBE)) == expected


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["process", "worker"])
def test_ended_again_and_again(tmp_path, toy, client, how):
    """By somebody else, or for want of memory: no trial is left out for it, and the same call goes on."""
    (tmp_path / "how").write_text(how)
    out = tmp_path / "cube.zarr"
    with pytest.raises(StrfcubeError, match=r"^ingest source\d-.* workers that were given it were ended from outside"):
        strfcube.build(Deadly(toy.raw), out=out, client=client, **CUBE)
    (tmp_path / "how").write_text("survived")
    expected = digest(strfcube.build(Deadly(toy.raw), out=tmp_path / "expected.zarr", **FAST))
    said = []
    strfcube.build(Deadly(toy.raw), out=out, client=client, progress=lambda *now: said.append(now), **CUBE)
    if how == "process":  # the end of a worker may take along what was read there and not yet told of
        assert min(done for stage, done, _ in said if stage == "ingest") > 0
    assert digest(out) == expected


def answering(shared, what):
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ.get(what, what)


def test_processes_keep_memory_and_end_when_nobody_asks(monkeypatch):
    """Whatever dask sets for its own workers."""
    monkeypatch.setattr(crew, "_IDLE", 0.1)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    ((how, value),), _ = crew.carry_out(
        "idle build", 1, dumps(None), [dumps((answering, ("MALLOC_TRIM_THRESHOLD_",), math.inf))], fresh=False
    )
    assert (how, value_of(value)) == (crew.ANSWER, "MALLOC_TRIM_THRESHOLD_")
    until = time.monotonic() + 60
    while crew._crews["idle build"]._all and time.monotonic() < until:
        time.sleep(0.05)
    assert not crew._crews["idle build"]._all


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_one_of_several_tasks_that_go_together_ends_its_process():
    requests = [dumps((answering, (what,), math.inf)) for what in ("first", "die", "last")]
    answers, took = crew.carry_out("some build", 1, dumps(None), requests, fresh=False)
    crew.end("some build")
    assert [how for how, _ in answers] == [crew.ANSWER, crew.ENDED, crew.ANSWER]
    assert [value_of(answers[i][1]) for i in (0, 2)] == ["first", "last"]
    assert EndedError(answers[1][1]).from_outside
    assert took > 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_short_tasks_go_several_at_a_time(tmp_path, toy, client, monkeypatch):
    """All are answered, that which ends its process, and that which cannot be sent, by their own errors."""
    submit, handed = client.submit, []
    monkeypatch.setattr(client, "submit", lambda *args, **more: handed.append(args[0]) or submit(*args, **more))
    asked = [f"task {n}" for n in range(100)]
    asked[60] = "die"
    with Cluster(client, str(toy.raw), tmp_path) as pool:
        with pytest.raises(TypeError, match="lock"):
            pool.submit(answering, threading.Lock()).result()
        answers = [pool.submit(answering, what) for what in asked]
        with pytest.raises(EndedError):
            answers.pop(60).result()
        assert [a.result() for a in answers] == [what for what in asked if what != "die"]
    assert handed.count(crew.carry_out) < 60


@pytest.mark.slow
def test_a_worker_that_comes_back_at_its_address(tmp_path, toy):
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=60) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        socket.socket() as free,
    ):
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()

        def start():
            command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--no-nanny"]
            options = ["--nthreads", "1", "--worker-port", port, "--no-dashboard", "--local-directory", str(tmp_path)]
            path = os.pathsep.join(sys.path)
            environment = os.environ | {"PYTHONPATH": path}
            return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)

        worker = start()
        try:
            client.wait_for_workers(1)
            with Cluster(client, str(toy.raw), tmp_path) as pool:
                assert pool.submit(answering, "before").result() == "before"
                worker.kill()
                worker.wait()
                while pool._threads:
                    time.sleep(0.1)
                worker = start()
                assert pool.submit(answering, "after").result(timeout=100) == "after"
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.slow
def test_rebin(tmp_path, toy, client):
    cube = strfcube.build(toy, out=tmp_path / "cube.zarr", **FAST)
    one = strfcube.rebin(cube, 10, out=tmp_path / "one.zarr", jobs=0)
    assert digest(strfcube.rebin(cube, 10, out=tmp_path / "two.zarr", client=client)) == digest(one)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"work": "/nowhere"}, r"does not see the work folder /nowhere \(No such file"),
        ({"raw": "/nowhere"}, r"does not see the raw files /nowhere \(No such file"),
        ({"seen": "other"}, "has other raw files in"),
        ({"versions": {"numpy": "1.0", "zarr": "2.0"}}, r"has numpy .* instead of 1.0, zarr .* instead of 2.0"),
    ],
)
def test_a_worker_that_cannot_take_part(tmp_path, toy, client, monkeypatch, change, what):
    """Said at once, with its address and host; nothing is left behind."""
    client.wait_for_workers(2)  # of which one may have been killed a moment ago
    true = crew.Site.of
    monkeypatch.setattr(crew.Site, "of", lambda *given: dataclasses.replace(true(*given), **change))
    with pytest.raises(StrfcubeError, match=rf"^worker tcp://\S+ on host \S+ {what}.*; and so do 1 more$"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", client=client, **CUBE)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def examined(note, site):
    if note.exists():
        note.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return crew.examine(site)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_that_ends_when_it_is_looked_at(tmp_path, toy, client, monkeypatch):
    expected = digest(strfcube.build(toy, out=tmp_path / "expected.zarr", **FAST))
    client.wait_for_workers(2)
    (tmp_path / "note").touch()
    monkeypatch.setattr("strfcube.builder.cluster.crew.examine", partial(examined, tmp_path / "note"))
    assert digest(strfcube.build(toy, out=tmp_path / "cube.zarr", client=client, **CUBE)) == expected
    assert not (tmp_path / "note").exists()


@pytest.mark.slow
def test_workers_that_join_late(tmp_path, toy, monkeypatch, caplog):
    """The build waits for the first; one that cannot take part is told of, and given nothing."""
    monkeypatch.setattr("strfcube.builder.cluster._WAITING", 0.5)
    expected = digest(strfcube.build(toy, out=tmp_path / "expected.zarr", **FAST))
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0", silence_logs=60) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        versions = crew.versions()
        asked = iter([{"numpy": "1.0"}, versions])

        def join():
            time.sleep(2)
            monkeypatch.setattr(crew, "versions", lambda: versions | next(asked, versions))
            cluster.scale(1)
            time.sleep(2)
            cluster.scale(2)

        late = threading.Thread(target=join)
        late.start()
        out = strfcube.build(toy, out=tmp_path / "cube.zarr", client=client, **CUBE)
        late.join()
    assert digest(out) == expected
    assert "waiting for a worker of the cluster" in caplog.text
    assert "has numpy 1.0 instead of" in caplog.text


def test_a_client_that_cannot_be_used(tmp_path, toy, client):
    with pytest.raises(UsageError, match=r"client: give a distributed\.Client"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", client="tcp://127.0.0.1:8786", **CUBE)
    with pytest.raises(UsageError, match="jobs=2: a cluster has its own number"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", client=client, jobs=2, **CUBE)
    with pytest.raises(UsageError, match="a part runs in processes of its own machine"):
        strfcube.build(toy, out=tmp_path / "cube.zarr", client=client, part="1/2", **CUBE)
    with pytest.raises(UsageError, match="no worker of a cluster sees what lies in the memory"):
        strfcube.build(toy, out="memory://cube.zarr", client=client, **CUBE)
