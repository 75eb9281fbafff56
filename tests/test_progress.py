"""Progress: bars where somebody looks on, plain lines elsewhere; what the log says stands among them."""

import logging
import os
import pty
import subprocess
import sys

import pytest

from strfcube.progress import Display, in_time, shown


def test_plain_lines_where_nobody_looks_on(capsys):
    with Display() as display:
        display("survey", 0, 0)
        display("survey", 140, 0)
        for done in range(120):
            display("ingest", done, 119)
        display("write", 8, 8)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading the raw files ..."
    assert lines[1].startswith("reading 119/119 cells")
    assert lines[2] == "writing 8/8 parts"
    assert len(lines) == 3


TERMINAL = """
import time
from strfcube.progress import Display, log
with Display(always=True) as display:
    display("survey", 0, 0)
    display("survey", 140, 0)
    log.info("resuming: 12 of 119 cells are read already")
    for done in range(12, 120):
        display("ingest", done, 119)
        time.sleep(0.01)
    display("write", 8, 8)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_bars_of_80_columns_in_a_terminal():
    reader, writer = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", TERMINAL], stdin=writer, stdout=writer, stderr=writer)
    os.close(writer)
    got = b""
    try:
        while piece := os.read(reader, 1 << 16):
            got += piece
    except OSError:  # the other end is closed
        pass
    os.close(reader)
    assert process.wait() == 0, got
    steps = got.decode().replace("\r", "\n").splitlines()
    assert all(len(step) <= 80 for step in steps)
    assert "resuming: 12 of 119 cells are read already" in [step.strip() for step in steps]
    assert any("reading the raw files ... 140 files" in step for step in steps)
    assert any("119/119 cells" in step for step in steps)
    assert any("left" in step and "cells" in step for step in steps)
    assert any("8/8 parts" in step for step in steps)


def test_a_caller_chooses(capsys):
    seen = []
    for progress in (None, False, lambda *state: seen.append(state)):
        with shown(progress) as tell:
            if tell:
                tell("save", 1, 2)
    assert seen == [("save", 1, 2)]
    assert capsys.readouterr().err == ""  # None: nobody looks on here
    with shown(True) as tell:
        tell("save", 2, 2)
    assert capsys.readouterr().err == "saving 2/2 parts\n"


def test_the_log_is_as_it_was():
    log = logging.getLogger("strfcube")
    before = log.level, list(log.handlers)
    with Display(always=True):
        assert log.isEnabledFor(logging.INFO)
    assert (log.level, log.handlers) == before


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (90, "2 min"), (5400, "1.5 h")])
def test_in_time(seconds, words):
    assert in_time(seconds) == words
