"""Simulated recordings in every published layout: their pipelines read them, and sound and response are aligned."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import strfcube
from strfcube.errors import UsageError
from strfcube.simulate import LAYOUTS, write

SHAPES = {  # stimuli, neurons, repeats
    "aa1": (16, 8, 20),
    "aa2": (20, 11, 20),
    "aa4": (14, 40, 10),
    "ac1": (7, 7, 6),
    "nat4": (28, 26, 20),
    "ns1": (20, 8, 10),
}


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_reads_as_published(name, tmp_path):
    raw = write(name, tmp_path / "raw")
    only = {"signal_type": "membrane_potential"} if name == "ac1" else {}
    ds = strfcube.open(strfcube.build(name, raw=raw, out=tmp_path / "cube.zarr", only=only, jobs=1))
    assert tuple(ds.sizes[dim] for dim in ("stim", "neuron", "repeat")) == SHAPES[name]
    findings = ds.strf.findings
    said = findings["what"][findings["severity"] != "info"]
    expected = "other figures|published selection is of 25"
    assert said.str.contains(expected).all(), said.tolist()
    assert all("sim" in f"{animal} {cell}".lower() for animal, cell in zip(
        ds["animal"].values, ds["neuron"].values, strict=True))  # fmt: skip

    # Responses follow the sound by some 10 to 40 ms, on average over cells whose receptive fields differ.
    dt = ds.attrs["dt_ms"] / 1000
    sound = ds["stimulus"].mean("frequency").values
    response = ds["response"].mean(["repeat", "neuron"]).values
    shared = [np.isfinite(s) & np.isfinite(r) for s, r in zip(sound, response, strict=True)]
    lags = np.arange(-round(0.1 / dt), round(0.1 / dt) + 1)
    total = np.zeros(len(lags))
    for s, r, there in zip(sound, response, shared, strict=True):
        s, r = s[there] - s[there].mean(), r[there] - r[there].mean()
        total += [np.sum(s[max(0, -k) : len(s) - max(0, k)] * r[max(0, k) : len(r) + min(0, k)]) for k in lags]
    latency = lags[np.argmax(total)] * dt
    assert 0 < latency <= 0.05, latency


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aa2", "nat4"])
def test_same_seed_same_files(name, tmp_path):
    first, second = (contents(write(name, tmp_path / folder, seed=3)) for folder in "ab")
    assert first == second


def test_writes_once_and_over_nothing(tmp_path):
    raw = tmp_path / "raw"
    write("ac1", raw)
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    assert write("ac1", raw) == raw
    assert before == {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    with pytest.raises(UsageError, match="not empty, and was not simulated as ac1 with seed 1"):
        write("ac1", raw, seed=1)
    with pytest.raises(UsageError, match="layout of 'aa3'"):
        write("aa3", raw)
