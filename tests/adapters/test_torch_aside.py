"""Batches made on a stream of their own: who waits for whom, with streams that write down what is asked of them."""

import threading
import time

import pytest

torch = pytest.importorskip("torch")
from strfcube.adapters.torch import aside  # noqa: E402

pytestmark = pytest.mark.torch


class Event:
    def __init__(self, log, name):
        self.log, self.name, self.happened = log, name, threading.Event()

    def synchronize(self):
        self.log.append(f"host waits for {self.name}")
        assert self.happened.wait(10)


class Stream:
    def __init__(self, log, name):
        self.log, self.name, self.events = log, name, []

    def record_event(self):
        self.events.append(Event(self.log, f"{self.name} {len(self.events)}"))
        return self.events[-1]

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event.name}")

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for all of {other.name}")

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None


@pytest.fixture
def streams(monkeypatch):
    log = []
    here, side = Stream(log, "model"), Stream(log, "batches")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(aside, "stream_for", lambda device, what: side)
    return log, here, side


def made_from(number, made):
    for i in range(number):
        made.append(i)
        yield {"stims": i}


def test_each_batch_is_waited_for_and_what_was_used_before_another_is_made(streams):
    log, here, _ = streams
    made, device = [], torch.device("cuda")
    got = []
    for batch in aside.made_aside(made_from(8, made), device, 1):
        got.append(batch["stims"])
        for event in here.events:  # the device has come so far
            event.happened.set()
    assert got == list(range(8))
    assert log[0] == "batches waits for all of model"
    waits = [line for line in log if line.startswith("model")]
    assert waits == [f"model waits for batches {i}" for i in range(8)]
    waits = [line for line in log if line.startswith("host waits")]
    assert waits[:5] == [f"host waits for model {i}" for i in range(5)]


def test_the_thread_does_not_run_ahead_of_the_device(streams):
    _, here, _ = streams
    made = []
    batches = aside.made_aside(made_from(20, made), torch.device("cuda"), 2)
    for _ in range(3):  # taken and used by the host; the device has done nothing yet
        next(batches)
    time.sleep(0.3)
    assert len(made) == 2 + 1 + 1  # what lies ready, what is in use, and what is being made
    here.events[0].happened.set()
    for _ in range(100):
        time.sleep(0.01)
        if len(made) == 5:
            break
    assert len(made) == 5
    for event in here.events:
        event.happened.set()
    batches.close()


def test_a_loop_that_is_left_ends_the_thread(streams):
    batches = aside.made_aside(made_from(20, []), torch.device("cuda"), 2)
    next(batches)
    batches.close()
    del batches
    assert not [t for t in threading.enumerate() if t.name == "strfcube-prefetch"]
