"""What a person at a terminal sees and is asked: a pseudo-terminal of 80 columns, and the services on loopback."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from services import PASSWORD, USER
from test_faults import check_log
from writers.aa import write_aa1

from strfcube import catalog
from strfcube.fetching import ledger

fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *args):
        self.end, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-m", "strfcube.cli.main", *map(str, args)]
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored below a script in the background
        )  # fmt: skip
        os.close(inner)
        self.seen = ""

    def until(self, text, answer="", patience=60):
        """Read until a text comes, and answer it."""
        end = time.monotonic() + patience
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if not self.read():
                break
        assert text in self.seen, self.seen
        if answer:
            os.write(self.end, f"{answer}\n".encode())
        return self.seen

    def read(self):
        if not select.select([self.end], [], [], 1.0)[0]:
            return True
        try:
            piece = os.read(self.end, 4096)
        except OSError:  # the other end is closed
            return False
        self.seen += piece.decode("utf-8", "replace")
        return bool(piece)

    def interrupt(self):
        """Press Ctrl-C until it is noticed: between the prompt and the reading of the answer, Python may miss one."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            os.killpg(self.process.pid, signal.SIGINT)
            waiting = time.monotonic() + 1
            while self.process.poll() is None and time.monotonic() < waiting:
                time.sleep(0.05)

    def finish(self, patience=120):
        end = time.monotonic() + patience
        while self.read():
            assert time.monotonic() < end, f"still running: {self.seen}"
        os.close(self.end)
        return self.process.wait(30), self.seen


@pytest.fixture
def aa1(services, tmp_path):
    """The services with an AA1."""
    import zipfile

    write_aa1(tmp_path / "made" / "crcns-aa1")
    with zipfile.ZipFile(tmp_path / "made" / "crcns-aa1.zip", "w") as archive:
        for path in sorted((tmp_path / "made" / "crcns-aa1").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "made"))
    services.publish(catalog.entry("aa1"), tmp_path / "made")
    return services


def test_one_question_and_the_account(aa1, monkeypatch):
    for name in ("CRCNS_USERNAME", "CRCNS_PASSWORD"):
        monkeypatch.delenv(name)
    terminal = Terminal("build", "aa1", "--jobs", 1)
    shown = terminal.until("Accept these terms and fetch?", "y")
    assert "1 file to fetch, about 17 MB, from download.crcns.org" in shown
    assert "no redistribution" in shown
    assert not aa1.log  # nobody was asked anything before that
    terminal.until("user name", USER)
    terminal.until("password", PASSWORD)
    code, shown = terminal.finish()
    assert code == 0, shown
    assert PASSWORD not in shown
    assert shown.count("[y/N]") == 1
    assert re.search(r"fetching: +100%", shown)
    assert "pairs" in shown
    lines = re.sub(r"\x1b\[[0-9;]*\w", "", shown).replace("\r", "\n").splitlines()
    data = os.environ["STRFCUBE_DATA_DIR"]
    assert all(len(line.replace(data, "")) <= 80 for line in lines)
    check_log(aa1)


def test_no_is_an_answer(aa1):
    terminal = Terminal("fetch", "aa1")
    terminal.until("Accept these terms and fetch?", "n")
    code, shown = terminal.finish()
    assert code == 1
    assert "nothing was fetched" in shown
    assert not aa1.log
    terminal = Terminal("fetch", "aa1")
    terminal.until("Accept these terms and fetch?")
    terminal.interrupt()
    code, shown = terminal.finish()
    assert (code, aa1.log) == (130, [])
    assert re.search(r"^strfcube: interrupted", shown, re.M)  # on a line of its own
    terminal = Terminal("fetch", "aa1")  # no was not remembered as yes
    terminal.until("Accept these terms and fetch?", "y")
    assert terminal.finish()[0] == 0
    Path(os.environ["STRFCUBE_DATA_DIR"], "raw", "aa1", "crcns-aa1").rename(Path(os.environ["STRFCUBE_DATA_DIR"], "x"))
    terminal = Terminal("fetch", "aa1")  # the terms are known: the size is, too
    shown = terminal.until("Fetch?", "y")
    assert "Accept" not in shown
    assert re.search(r"1 file to fetch, [\d.]+ (kB|MB), from", shown)
    assert terminal.finish()[0] == 0


def test_yes_and_terms_are_two_things(aa1):
    terminal = Terminal("fetch", "aa1", "--yes")
    terminal.until("Accept these terms?", "y")
    assert terminal.finish()[0] == 0
    terminal = Terminal("build", "aa1", "--jobs", 1)
    code, shown = terminal.finish()
    assert code == 0
    assert "[y/N]" not in shown
    assert "[Y/n]" not in shown


def test_interrupted(aa1):
    """Ctrl-C, with half of the archive there: it ends at once, and the next command asks for the rest."""
    aa1.fault("slow", "crcns-aa1.zip", 1, 1.0)
    terminal = Terminal("fetch", "aa1", "--yes", "--accept-terms")
    part = Path(os.environ["STRFCUBE_DATA_DIR"], "raw", "aa1", ledger.WORK, "crcns-aa1.zip", "crcns-aa1.zip.part")
    end = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 1 << 16:
        assert time.monotonic() < end, terminal.seen
        time.sleep(0.02)
    os.killpg(terminal.process.pid, signal.SIGINT)
    code, shown = terminal.finish()
    assert code == 130
    assert "interrupted; the same command goes on where this one ended" in shown
    there = part.stat().st_size
    assert Terminal("fetch", "aa1", "--yes").finish()[0] == 0
    asked = [r.headers.get("Range") for r in aa1.log if r.path.endswith("crcns-aa1.zip")]
    assert asked == [None, f"bytes={there}-"]
