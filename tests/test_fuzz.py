"""A few cases of each kind of the fuzzers; `make fuzz` runs many more."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"


@pytest.mark.parametrize("kind", ["aa1", "aa2", "aa4", "ac1", "ns1", "nat4"])
def test_parsers(kind):
    run("parsers.py", kind, 6)


@pytest.mark.parametrize("kind", ["zip", "stored", "tar", "gz", "bz2", "xz"])
def test_archives(kind):
    run("archives.py", kind, 20)


def run(script, kind, count):
    command = [sys.executable, FUZZ / script, "--kind", kind, "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind}: {count:,} cases" in done.stdout


def test_a_fault_is_noticed(tmp_path):
    """The lenient reader of the fuzzer knows a time that is not in the files."""
    sys.path.insert(0, str(FUZZ))
    try:
        import numpy as np
        import parsers

        from strfcube.records import Source
    finally:
        sys.path.remove(str(FUZZ))
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "spike1").write_text("1.500 2.500 \n")
    source = Source("n", ("cell", {}, {}))
    assert parsers.strange("aa1", tmp_path, source, np.array([1_500_000, 2_500_000])) == 0
    assert parsers.strange("aa1", tmp_path, source, np.array([1_500_000, 2_500_001])) == 1
