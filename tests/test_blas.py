"""BLAS on one thread, whoever else needs it so."""

import threading

from threadpoolctl import threadpool_info, threadpool_limits

from strfcube.blas import one_thread


def threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_of_two_at_once_the_first_to_end_leaves_the_other_alone_and_the_last_restores():
    ready, go = threading.Event(), threading.Event()

    def first():
        with one_thread():
            ready.set()
            go.wait(10)

    with threadpool_limits(2):
        other = threading.Thread(target=first)
        other.start()
        ready.wait(10)
        with one_thread():
            go.set()
            other.join()
            assert threads() == {1}
        assert threads() == {2}
        try:
            with one_thread():
                raise ValueError
        except ValueError:
            assert threads() == {2}
