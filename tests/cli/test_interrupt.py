"""Ctrl-C before the command line has begun: one line, as later on."""

import subprocess
import sys

import pytest

from strfcube.starting import interrupted

START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a script
sys.argv = [sys.argv[1], "list"]
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[0].rpartition("/")[0].rpartition("/")[2]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from strfcube.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("module", ["xarray", "pandas", "click"])
def test_while_it_is_imported(module):
    done = subprocess.run(
        [sys.executable, "-c", START, f"/{module}/strfcube"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 130
    assert done.stderr == f"{interrupted()}\n"


WITHIN = """
import ctypes, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["strfcube", "list"]
import strfcube.cli.main as cli
def stopped(*_):
    ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT))()
    time.sleep(60)
cli.overview = stopped
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_within_what_a_library_in_c_calls():
    done = subprocess.run([sys.executable, "-c", WITHIN], capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, interrupted())


def test_a_library_leaves_signals_alone():
    code = "import signal; before = signal.getsignal(signal.SIGINT); import strfcube; "
    code += "assert signal.getsignal(signal.SIGINT) is before"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
