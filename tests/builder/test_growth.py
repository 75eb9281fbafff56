"""What a build keeps and does grows with what there is: bytes a trial, looks at a task. Counted, never timed."""

import builtins
import tracemalloc
from concurrent.futures import Future

import numpy as np
import pytest
from toy import FAST, make_neuron, make_stim, random_toy, write_toy

import strfcube
from strfcube.builder import ingest, spool, tasks, write
from strfcube.builder.ledger import Ledger
from strfcube.cube.trials import trials_of
from strfcube.records import Trial, Trials


def context(tmp_path, neurons=4):
    units = [make_neuron(f"n{n}") for n in range(neurons)]
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], units, {"s": []})
    places = {unit.id: n for n, unit in enumerate(units)}
    return ingest.Context(pipeline, {"a": 0}, places, np.array([20]), ("count",) * neurons, 5_000_000, 0)


@pytest.mark.parametrize("many", [False, True])
def test_a_trial_costs_what_it_holds(tmp_path, many):
    """An object for each column of each trial made it 3.2 kB."""
    rows = ingest._Rows(context(tmp_path), None, "s")
    times = np.linspace(0, 0.09, 5)
    n = 4000
    tracemalloc.start()
    if many:
        rows.add(Trials("n0", ["a"] * n, np.arange(n), np.full(n, 5), np.tile(times, n), 0.0, 0.1, "f"))
    else:
        for r in range(n):
            rows.add(Trial("a", "n0", r, times, window=(0.0, 0.1), file="f"))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / n < 1.5 * 8 * (len(spool.ROW_COLUMNS) + 5)
    columns = rows.columns()
    assert columns.rows["repeat"].tolist() == columns.rows["number"].tolist() == list(range(n))
    np.testing.assert_array_equal(columns.times.reshape(n, 5)[-1], np.rint(times * 1e9).astype(int))


def test_labels_are_looked_up_only_where_something_is_told(tmp_path):
    """Every source turned the labels of the whole data set around: 70,000 for each of 70,000 cells."""

    class Known(dict):
        read = 0

        def items(self):
            Known.read += 1
            return super().items()

    plain = context(tmp_path)
    here = ingest.Context(plain.pipeline, Known(plain.stims), Known(plain.neurons), *list(vars(plain).values())[3:])
    rows = ingest._Rows(here, None, "s")
    rows.add(Trial("a", "n2", 1, np.array([0.01, 0.02]), file="f"))
    names = rows.names
    assert Known.read == 0
    assert (names.stim(0), names.neuron(2), list(names.files)) == ("a", "n2", ["f"])


def test_a_spool_is_opened_once(tmp_path, monkeypatch):
    rows = ingest._Rows(context(tmp_path), None, "s")
    for n in range(4):
        rows.add(Trial("a", f"n{n}", 1, np.array([0.01, 0.02, 0.03 + n / 1000]), file="f"))
    path = str(tmp_path / "one.spool")
    spool.save(path, rows.columns(), np.array([20]), 5_000_000, ("f",), (), (), np.arange(4, dtype=np.uint64))
    opened = []
    from_file = np.fromfile

    def opening(*args):
        opened.append(args)
        return builtins.open(*args)

    def fromfile(file, *args, **kwargs):
        opened.extend([file] if isinstance(file, str) else [])
        return from_file(file, *args, **kwargs)

    monkeypatch.setattr(np, "fromfile", fromfile)
    monkeypatch.setattr(spool, "open", opening, raising=False)
    assert spool.summary(path).neurons[:, 0].tolist() == [0, 1, 2, 3]
    assert len(opened) == 1
    part = spool.columns(path, slice(1, 3), slice(3, 9), slice(0, 0))
    assert part.rows["neuron"].tolist() == [1, 2]
    assert len(part.times) == 6
    assert len(opened) == 2


class Looked(Future):
    """A future that counts how often somebody has it in hand."""

    looks = 0

    def __hash__(self):
        Looked.looks += 1
        return id(self)

    def __eq__(self, other):
        return self is other


class Pool:
    def share(self, value):
        pass

    def submit(self, function, *args, limit, fresh):
        future = Looked()
        future.set_result(function(None, *args))
        return future


def test_who_waits_for_tasks_looks_at_each_a_few_times(tmp_path):
    """All that were waited for were looked at whenever one ended."""
    (tmp_path / "ledger").mkdir()
    Looked.looks = 0
    todo = [tasks.Task(f"t{n}", lambda _, n: {"files": {}, "n": n}, (n,)) for n in range(200)]
    results = tasks.run("ingest", todo, None, Pool(), Ledger(tmp_path / "ledger", str(tmp_path)))
    assert sorted(r["n"] for r in results.values()) == list(range(200))
    assert Looked.looks <= 10 * 200


def test_spike_times_are_written_without_the_rows_of_their_trials(tmp_path, monkeypatch):
    """Of neurons that hardly fire, these are far more."""
    pipeline, truth = random_toy(tmp_path / "raw")
    asked = []
    columns = spool.columns
    monkeypatch.setattr(spool, "columns", lambda *args: asked.append(args[2]) or columns(*args))
    kept = write.write_spike_times

    def spike_times(*args):
        asked.clear()
        result = kept(*args)
        assert not asked
        return result

    monkeypatch.setattr(write, "write_spike_times", spike_times)
    path = strfcube.build(pipeline, out=tmp_path / "cube.zarr", **FAST)
    found = sum(map(len, trials_of(strfcube.open(path)).spikes()))
    assert found == sum(len(times) for trials in truth.values() for times in trials) > 100
