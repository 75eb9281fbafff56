"""BLAS on one thread, whoever else needs it so."""

import threading
import time

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from strfcube.blas import one_thread


def threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_several_threads_find_one_each_and_it_is_restored():
    before, seen = threads(), []

    def need(seconds):
        with one_thread():
            time.sleep(seconds)
            seen.append(threads())

    for _ in range(2):  # after it was held here, too
        need(0)
        both = [threading.Thread(target=need, args=(seconds,)) for seconds in (0.05, 0.2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert seen == [{1}] * 6
    assert threads() == before
    with pytest.raises(ValueError, match="within"), one_thread():
        raise ValueError("within")
    assert threads() == before
    with threadpool_limits(1), one_thread():
        assert threads() == {1}
