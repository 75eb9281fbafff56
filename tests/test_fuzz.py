"""A few cases of each kind of the fuzzers; `make fuzz` runs many more."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strfcube.builder import ingest
from strfcube.records import Source

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


def test_a_fault_is_noticed(parsers, tmp_path):
    """The lenient reader of the fuzzer knows a time that is not in the files."""
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "spike1").write_text("1.500 2.500 \n")
    source = Source("n", ("cell", {}, {}))
    assert parsers.strange("aa1", tmp_path, source, np.array([1_500_000, 2_500_000])) == 0
    assert parsers.strange("aa1", tmp_path, source, np.array([1_500_000, 2_500_001])) == 1


@pytest.mark.parametrize("kind", ["aa2", "aa4", "ns1", "nat4"])
def test_a_time_that_is_not_in_the_files(parsers, tmp_path, monkeypatch, kind):
    """A whole case in which every spike comes a microsecond late: the fuzzer has to notice it."""
    parsers.prepare(kind, tmp_path)
    real = ingest.seconds_to_ns
    monkeypatch.setattr(ingest, "seconds_to_ns", lambda seconds: real(seconds) + 1000)
    faults = []
    files = [p for p in (tmp_path / "raw").rglob("*") if p.is_file()]
    parsers.parsed(kind, tmp_path / "raw", files, random.Random(0), faults)
    assert faults
    assert all(" spike times of " in fault and fault.endswith("are not in the files") for fault in faults)


@pytest.fixture
def parsers(monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    import parsers

    return parsers
