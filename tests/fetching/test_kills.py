"""A build that fetches, killed at some moments: the same command goes on, and ends with the same digest."""

import random
import sys
from pathlib import Path

import pytest
from writers.aa4 import write_aa4

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fetch_kills


@pytest.fixture
def published(services, tmp_path, monkeypatch):
    """A few MB of AA4; gives their size."""

    def make(folder):
        write_aa4(folder)
        for bird in fetch_kills.BIRDS:
            (folder / bird).mkdir(exist_ok=True)
            (folder / bird / "notes.bin").write_bytes(random.Random(bird).randbytes(3_000_000))

    for name, value in fetch_kills.account(services).items():
        monkeypatch.setenv(name, value)
    return fetch_kills.publish(services, tmp_path / "made", make)


def test_killed_and_given_again(services, published, tmp_path):
    services.fault("slow", ".tar.gz", 10**6, 0.02)  # 6 MB in a second: there is time to be killed in
    expected, seconds = fetch_kills.time_stages(tmp_path / "data", 1)
    rounds = [
        fetch_kills.kill_and_resume(services, tmp_path, published, expected, stage, seconds[stage], 1, random.Random(3))
        for stage in fetch_kills.STAGES
    ]
    assert all(r.same for r in rounds)
    assert all(r.ratio <= 1.1 for r in rounds), rounds
