"""Noticing that a worker process waits for ever: the system's limit on processor time does not end what uses none."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

SECONDS = 600.0  # that a worker may do nothing at all within a task
_LOOK = 10.0  # s between two looks at it
_LEAST = 0.1  # s of processor time in those seconds are still nothing: something looks whether it may go on


def waits_for_ever(process: int, answer: IO[Any]) -> bool:
    """Wait for the answer of a process, or until it did nothing for `SECONDS` (Linux; elsewhere it just waits).

    Looks are counted, not the clock: nobody looks while this process is stopped or the machine sleeps.

    Parameters
    ----------
    process : int
        Its id.
    answer : file
        Becomes readable with its answer, or with its end.

    Returns
    -------
    bool
        False if there is something to read.
    """
    if sys.platform != "linux":
        return False
    ready = select.poll()
    ready.register(answer, select.POLLIN)
    then, looks = None, 0
    while not ready.poll(_LOOK * 1000):
        now = _done(process)
        if now is None or then is None or now[0] - then[0] > _LEAST or now[1] != then[1]:
            then, looks = now, 0
            continue
        looks += 1
        if looks * _LOOK >= SECONDS:
            return True
    return False


def _done(process: int) -> tuple[float, int] | None:
    """Processor time in s and bytes read and written until now; None of one that does not just sleep.

    One that waits for a disk, is stopped, or has processes of its own at work does not.
    """
    folder = Path("/proc", str(process))
    with suppress(OSError, ValueError, IndexError):
        if any((task / "children").read_bytes().strip() for task in (folder / "task").iterdir()):
            return None
        state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        moved = sum(int(line.split()[1]) for line in (folder / "io").read_text().splitlines()[:2])
        if state == "S":
            return (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK"), moved
    return None
