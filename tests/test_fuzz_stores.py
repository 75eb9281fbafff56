"""A short run of the fuzzer of stores; `make fuzz` runs it for as long as one likes."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "fuzz" / "stores.py"


def run(*args):
    done = subprocess.run(
        [sys.executable, str(FUZZ), *args], capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip
    return done.returncode, done.stdout


def test_some_damaged_stores():
    code, said = run("--count", "15", "--seed", "1000")
    assert code == 0, said
    assert "15 cases from seed 1000, 0 faults" in said


def test_what_was_found_once_is_mended():
    """A pipe for a label, texts that claim to be billions, an export of damaged trials."""
    for seed in (150, 167, 201):
        code, said = run("--only", str(seed))
        assert code == 0, said
