"""Locks after a fork: what a thread of the parent held is free in the child."""

import os
import pickle
import signal
import threading

import numpy as np
import pytest
from cubes import make_cube

import strfcube
from strfcube.forks import OwnLock


def test_one_thread_at_a_time():
    lock, inside, most = OwnLock(), [], []

    def work():
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 800


def test_a_pickled_lock_is_free():
    lock = OwnLock()
    with lock, pickle.loads(pickle.dumps(lock)) as other:
        assert other is not lock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_lock_that_another_thread_holds_is_free_in_a_fork():
    lock, held, done = OwnLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        taken = threading.Thread(target=lambda: lock.__enter__() and os._exit(7), daemon=True)
        taken.start()
        taken.join(20)
        os._exit(1)  # it waits for ever
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7
    with lock:  # the parent's own is what it was
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_measures_in_a_fork_of_a_process_that_has_measured(tmp_path):
    """As in a pool of multiprocessing, which forks; dask hung there."""
    ds = strfcube.open(strfcube.save(make_cube(), tmp_path / "cube.zarr"))
    expected = ds.strf.psth().values  # by threads of dask
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if np.array_equal(ds.strf.psth().values, expected, equal_nan=True) else 1)
    assert os.waitpid(child, 0)[1] == 0
