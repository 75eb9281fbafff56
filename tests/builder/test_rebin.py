"""A cube at another bin width is the one that the raw files give."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from toy import FAST, make_neuron, make_stim, random_toy, spikes, write_toy

import strfcube
from strfcube.errors import StoreError, UsageError
from strfcube.records import Finding, Length, ReadyMade, Trial


def arrays(path):
    """Every variable of every group."""
    tree = xr.open_datatree(path, engine="zarr", chunks=None)
    return {f"{node.path}:{n}": node.dataset[n].load() for node in tree.subtree for n in node.dataset.variables}


def assert_equal_cubes(a, b):
    first, second = arrays(a), arrays(b)
    assert list(first) == list(second)
    for name, values in first.items():
        xr.testing.assert_identical(values.variable, second[name].variable)
    attrs = [json.loads((Path(p) / "zarr.json").read_text())["attributes"] for p in (a, b)]
    assert attrs[0]["digest"] == attrs[1]["digest"]
    assert attrs[0]["recipe"] == attrs[1]["recipe"]
    assert strfcube.verify(a) == strfcube.verify(b) == []


def everything(folder):
    """Ragged lengths, rejected and silent trials, windows, an unknown length, a stimulus without sound, findings."""
    stimuli = [
        make_stim("a", 0.1, level=80, split="train"),
        make_stim("b", 0.0503, rate=24414.0625, dtype="f4", split="test"),
        make_stim("late", length=Length(0.3, "epoch"), sound_onset=0.05, sound_duration=0.1),
        make_stim("mute", audio=False),
        make_stim("unknown", audio=False, length=Length.unknown()),
    ]
    neurons = [make_neuron("n/1", depth=100.0), make_neuron("m", "t"), make_neuron("o", "t", depth=None)]
    rng = np.random.default_rng(5)
    records = {"s": [], "t": []}
    for neuron in neurons:
        for s, stimulus in enumerate(stimuli):
            for r in range(s + 1):
                times = rng.integers(-50_000, 250_000, rng.poisson(20)) / 1000
                rejected = {"rejected_by": "drift", "value": 1.5} if r == 1 else {}
                window = {"window": (-0.05, 0.0437 * (r + 1))} if s % 2 else {}
                file = f"{stimulus.id}.txt"
                records[neuron.source].append(
                    spikes(stimulus.id, neuron.id, r + 1, times, file=file, **window, **rejected)
                )
    records["t"].append(Finding("warning", "x.txt", "odd", "taken", 7))
    return write_toy(folder, stimuli, neurons, records, findings=[Finding("info", "", "first", "nothing")])


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"post": 40}, {"align": "causal", "compression": "db"}])
@pytest.mark.parametrize("dt", [1, 7])
def test_everything(tmp_path, kwargs, dt):
    pipeline = everything(tmp_path / "raw")
    cube = strfcube.build(pipeline, out=tmp_path / "5.zarr", dt=5, **FAST, **kwargs)
    direct = strfcube.build(pipeline, out=tmp_path / "direct.zarr", dt=dt, **FAST, **kwargs)
    assert_equal_cubes(strfcube.rebin(cube, dt, out=tmp_path / "rebinned.zarr", jobs=1), direct)


@pytest.mark.slow
def test_there_and_back_again(tmp_path):
    cube = strfcube.build(everything(tmp_path / "raw"), out=tmp_path / "5.zarr", dt=5, **FAST)
    there = strfcube.rebin(cube, 2, out=tmp_path / "2.zarr", jobs=1)
    assert_equal_cubes(strfcube.rebin(there, 5, out=tmp_path / "again.zarr", jobs=2), cube)


@pytest.mark.slow
def test_a_part_with_the_frequencies_of_the_whole(tmp_path):
    pipeline = everything(tmp_path / "raw")
    only = {"stim": "b"}
    cube = strfcube.build(pipeline, out=tmp_path / "5.zarr", dt=5, only=only, **FAST)
    direct = strfcube.build(pipeline, out=tmp_path / "direct.zarr", dt=1, only=only, **FAST)
    assert_equal_cubes(strfcube.rebin(cube, 1, out=tmp_path / "1.zarr", jobs=1), direct)


@pytest.mark.slow
def test_the_real_recordings(real_ns1, tmp_path):
    """One animal of the original NS1, array for array."""
    raw, _ = real_ns1
    only = {"animal": "exp45"}
    cube = strfcube.build("ns1", raw=raw, out=tmp_path / "5.zarr", only=only, jobs=2)
    direct = strfcube.build("ns1", raw=raw, dt=1, out=tmp_path / "1.zarr", only=only, jobs=2)
    assert_equal_cubes(strfcube.rebin(cube, 1, out=tmp_path / "rebinned.zarr", jobs=2), direct)


@pytest.mark.slow
def test_the_raw_files_are_not_needed(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw")
    cube = strfcube.build(pipeline, out=tmp_path / "toy-dt5.zarr", **FAST)
    shutil.rmtree(tmp_path / "raw")
    finer = strfcube.rebin(cube, 1, jobs=1)
    assert Path(finer).parent == tmp_path
    assert Path(finer).name.startswith("toy-dt1")
    ds = strfcube.open(finer)
    assert ds.attrs["dt_ms"] == 1
    assert ds.attrs["history"].count("\n") == 1
    assert "rebinned from 5 ms to 1 ms" in ds.attrs["history"]
    assert ds.attrs["fingerprint"] == strfcube.open(cube).attrs["fingerprint"]
    assert strfcube.rebin(cube, 1, jobs=1) == finer  # up to date


def sampled(folder):
    trace = np.arange(400) / 10 - 60.0
    trials = [
        Trial("a", "v", 1, trace=trace, rate=4000.0, window=(0.0, 0.1)),
        Trial("a", "v", 2, rejected_by="drift", value=2.0, sampled=True),
        spikes("a", "n", 1, [3, 14]),
    ]
    return write_toy(folder, [make_stim("a")], [make_neuron("v", trace=True), make_neuron("n")], {"s": trials})


@pytest.mark.slow
def test_traces_go_to_whole_multiples(tmp_path):
    pipeline = sampled(tmp_path / "raw")
    cube = strfcube.build(pipeline, out=tmp_path / "5.zarr", dt=5, **FAST)
    for dt in (10, 20):
        ds = strfcube.open(strfcube.rebin(cube, dt, out=tmp_path / f"{dt}.zarr", jobs=1))
        direct = strfcube.open(strfcube.build(pipeline, out=tmp_path / f"direct{dt}.zarr", dt=dt, **FAST))
        np.testing.assert_allclose(ds["response"].values, direct["response"].values, rtol=1e-6)
        np.testing.assert_array_equal(ds["n_rejected"], direct["n_rejected"])
    for dt in (1, 7, 12.5):
        with pytest.raises(UsageError, match=r"the responses of v have no finer source .* whole multiple of 5 ms"):
            strfcube.rebin(cube, dt, out=tmp_path / "x.zarr", jobs=1)
    assert not list(tmp_path.glob("x.zarr*"))


@pytest.mark.slow
def test_sampled_counts_are_summed(tmp_path):
    trial = Trial("a", "n", 1, trace=np.array([0, 1, 2, 0, 3, 1, 0, 0, 1, 2.0]), rate=100.0)
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [trial]})
    cube = strfcube.build(pipeline, out=tmp_path / "10.zarr", dt=10, **FAST)
    direct = strfcube.build(pipeline, out=tmp_path / "20.zarr", dt=20, **FAST)
    a, b = (
        strfcube.open(p)["response"].values for p in (strfcube.rebin(cube, 20, out=tmp_path / "r.zarr", jobs=1), direct)
    )
    np.testing.assert_array_equal(a, b)


def published():
    return np.arange(30, dtype=float).reshape(3, 10)


@pytest.mark.slow
def test_published_spectrograms_are_averaged(tmp_path):
    stimuli = [make_stim("a", audio=False, spectrogram=published), make_stim("b", audio=False)]
    trials = [spikes(s.id, "n", 1, [1, 55]) for s in stimuli]
    ready = ReadyMade((100.0, 200.0, 400.0), 0.01, "dB")
    pipeline = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}, ready_made=ready)
    cube = strfcube.build(pipeline, out=tmp_path / "10.zarr", dt=10, spec="published", jobs=1)
    direct = strfcube.build(pipeline, out=tmp_path / "20.zarr", dt=20, spec="published", jobs=1)
    assert_equal_cubes(strfcube.rebin(cube, 20, out=tmp_path / "r.zarr", jobs=1), direct)
    with pytest.raises(UsageError, match="whole multiples"):
        strfcube.rebin(cube, 5, out=tmp_path / "x.zarr", jobs=1)


def test_without_audio_there_is_no_spectrogram_to_make(tmp_path):
    cube = strfcube.build(random_toy(tmp_path / "raw")[0], out=tmp_path / "5.zarr", audio=False, **FAST)
    with pytest.raises(UsageError, match="built without audio"):
        strfcube.rebin(cube, 1, jobs=1)


def test_what_cannot_be(tmp_path):
    cube = strfcube.build(random_toy(tmp_path / "raw")[0], out=tmp_path / "5.zarr", **FAST)
    before = strfcube.open(cube).attrs
    with pytest.raises(StoreError, match="another recipe"):
        strfcube.rebin(cube, 1, out=cube, jobs=1)
    assert strfcube.open(cube).attrs == before
    with pytest.raises(UsageError, match="bin width"):
        strfcube.rebin(cube, 0, jobs=1)
    edited = tmp_path / "edited.zarr"
    shutil.copytree(cube, edited)
    root = json.loads((edited / "zarr.json").read_text())
    del root["attributes"]["recipe"]
    (edited / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="root attribute 'recipe' is missing"):
        strfcube.rebin(edited, 10)
    with pytest.raises(StoreError, match="no such cube"):
        strfcube.rebin(tmp_path / "nowhere.zarr", 1)
