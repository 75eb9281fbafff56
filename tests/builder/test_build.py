"""The build: what a pipeline yields is what the cube holds."""

import dataclasses
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import xarray as xr
import zarr
from scipy.io import loadmat
from toy import FAST, RATE, Toy, make_neuron, make_stim, random_toy, recount, spikes, tone, write_toy
from writers.ns1 import write_ns1

import strfcube
from strfcube.builder.request import chosen, prepare
from strfcube.errors import RawDataError, SelectionError, StoreError, StrfcubeError, UsageError
from strfcube.records import Finding, Length, ReadyMade, Source, Survey, Trial, Trials
from strfcube.sound.spectrogram import Mel, compute


def build(pipeline, tmp_path, name="cube.zarr", **kwargs):
    return strfcube.build(pipeline, out=tmp_path / name, **(FAST | kwargs))


def built(pipeline, tmp_path, **kwargs):
    return strfcube.open(build(pipeline, tmp_path, **kwargs))


def group(path, name):
    return xr.open_zarr(path, group=name, chunks=None).load()


def findings(path):
    table = group(path, "findings")
    return [{str(n): table[n].values[i] for n in table.data_vars} for i in range(table.sizes["finding"])]


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


def one(tmp_path, times_ms=(), **kwargs):
    """A data set of one trial."""
    return write_toy(
        tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [spikes("a", "n", 1, times_ms, **kwargs)]}
    )


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [0.5, 1, 5, 7, 40])
@pytest.mark.parametrize("post", [0, 150])
def test_counts_equal_an_independent_recount(tmp_path, dt, post):
    pipeline, truth = random_toy(tmp_path / "raw", seed=int(dt * 10) + post)
    ds = built(pipeline, tmp_path, dt=dt, post=post, bands=2)
    np.testing.assert_array_equal(ds["response"].values, recount(truth, ds, dt * 1000))
    for stim in ds["stim"].values:
        seconds = 0.1 * (1 + int(stim[-1]) % 3)
        assert ds["n_bins"].sel(stim=stim) == math.floor(((round(seconds * RATE) - 1) / RATE * 1000 + post) / dt) + 1
        assert ds["duration"].sel(stim=stim) == round(seconds * RATE) / RATE


def test_the_real_recordings(real_ns1):
    """Every unit, stimulus, repeat and bin from MATLAB files read by SciPy; and the published figures."""
    raw, path = real_ns1
    ds = strfcube.open(path)
    assert dict(ds.sizes) == {"stim": 20, "neuron": 119, "repeat": 20, "time": 1000, "frequency": 34}
    assert (ds["n_repeats"] == 20).all()
    assert (ds["n_bins"] == 1000).all()
    assert int(ds["valid_unit"].sum()) == 73
    response = ds["response"].values
    assert not np.isnan(response).any()
    expected = np.zeros((20, 20, 1000))
    for n, unit in enumerate(ds["neuron"].values):
        sets = loadmat(raw / "spikesandwav" / f"{unit}.data.mat", simplify_cells=True)["data"]["set"]
        expected[:] = 0
        for s in range(20):
            times, repeat = np.atleast_1d(sets[s]["spikes"]["t"]), np.atleast_1d(sets[s]["spikes"]["repeat_id"])
            whole = np.rint(times * 1e6).astype(np.int64) // 5_000_000  # a tick is 40.96 us
            inside = whole < 1000
            np.add.at(expected, (s, repeat[inside].astype(int) - 1, whole[inside]), 1)
        np.testing.assert_array_equal(response[:, n], expected)


def test_size_of_the_real_cube(real_ns1):
    size = {
        p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file())
        for p in Path(real_ns1[1]).iterdir()
        if p.is_dir()
    }
    assert sum(size.values()) - size["audio"] < 15e6
    assert sum(size.values()) - size["audio"] - size["trials"] < 4e6


@pytest.mark.parametrize(("flags", "held"), [
    ({}, True), ({"dt": 7, "post": 20, "align": "causal", "audio": False, "spec": "mel", "bands": 8}, True),
    ({"only": {"stim": "nat01"}}, False), ({"drc": True}, False),
])  # fmt: skip
def test_what_is_held_against_the_published_figures(tmp_path, flags, held):
    raw = write_ns1(tmp_path / "raw", units=1, repeats=1, drc_repeats=1, clip_seconds=0.05).raw
    assert bool(prepare("ns1", raw=raw, out=tmp_path / "x.zarr", **flags).figures) is held


# --- what is missing -------------------------------------------------------------------------------------------------


def test_four_kinds_of_missing_stay_apart(tmp_path):
    stimuli = [make_stim("long", 0.1), make_stim("short", 0.05)]
    neurons = [make_neuron("n0"), make_neuron("n1")]
    trials = [
        spikes("long", "n0", 1, [1, 2]),
        spikes("long", "n0", 2, []),  # silent: zeros, not missing
        spikes("short", "n0", 1, [3], window=(0.01, 0.04)),  # recorded in part
        spikes("short", "n1", 1, [3, 60]),
    ]
    ds = built(write_toy(tmp_path / "raw", stimuli, neurons, {"s": trials}), tmp_path, dt=10)
    r = ds["response"].sel(stim="long", neuron="n0").values
    np.testing.assert_array_equal(r, [[2] + [0] * 9, [0] * 10])
    assert np.isnan(ds["response"].sel(stim="long", neuron="n1")).all()  # never presented
    assert ds["n_repeats"].sel(stim="long", neuron="n1") == 0
    part = ds["response"].sel(stim="short", neuron="n0").values
    assert np.isnan(part[1]).all()  # fewer repeats
    np.testing.assert_array_equal(part[0], [np.nan, 0, 0, 0, np.nan] + [np.nan] * 5)  # not observed, past the end
    whole = ds["response"].sel(stim="short", neuron="n1").values[0]
    np.testing.assert_array_equal(whole, [1, 0, 0, 0, 0] + [np.nan] * 5)
    np.testing.assert_array_equal(ds["n_repeats"], [[2, 0], [1, 1]])
    np.testing.assert_array_equal(ds["n_bins"], [10, 5])
    trials = group(tmp_path / "cube.zarr", "trials")
    np.testing.assert_array_equal(trials["row_size"], [2, 0, 1, 2])
    np.testing.assert_array_equal(trials["spike_time"], np.array([1, 2, 3, 3, 60]) * 1_000_000)


def test_post_keeps_what_was_recorded_and_no_more(tmp_path):
    """NS1's window is the sweep: the bins after it are missing, those within it are counted."""
    pipeline = one(tmp_path, [95, 105, 199, 301], window=(0.0, 0.25))
    ds = built(pipeline, tmp_path, dt=10, post=200)
    r = ds["response"].values[0, 0, 0]
    assert ds["n_bins"] == 30
    assert r[:25].tolist() == [0] * 9 + [1, 1] + [0] * 8 + [1] + [0] * 5
    assert np.isnan(r[25:]).all()
    silence = compute(Mel(bands=4, f_max=RATE / 2), tone(0.1), 30, 10_000_000)
    np.testing.assert_array_equal(ds["stimulus"].values[0], silence)
    assert not np.isnan(ds["stimulus"]).any()
    assert group(tmp_path / "cube.zarr", "trials")["spike_time"].size == 4  # every spike, exact


@pytest.mark.parametrize(("count", "dtype"), [(254, "uint8"), (255, "uint16"), (700, "uint16")])
def test_a_full_bin_takes_two_bytes(tmp_path, count, dtype):
    ds = built(one(tmp_path, np.full(count, 7.0)), tmp_path)
    assert ds["response"].encoding["dtype"] == dtype
    assert ds["response"].values[0, 0, 0, 1] == count
    array = zarr.open_array(str(tmp_path / "cube.zarr"), path="response")
    assert array.fill_value == array.attrs["_FillValue"] == np.iinfo(dtype).max


def test_a_bin_that_two_bytes_cannot_hold(tmp_path):
    ds = built(one(tmp_path, np.full(65535, 7.0)), tmp_path)
    assert ds["response"].encoding["dtype"] == "float32"
    assert ds["response"].values[0, 0, 0, 1] == 65535
    assert ds["response"].values[0, 0, 0, 2] == 0


def test_times_before_onset_and_after_the_end_are_kept_and_not_counted(tmp_path):
    ds = built(one(tmp_path, [-5, -0.001, 0, 99.999, 100, 5000]), tmp_path)
    assert ds["response"].values[0, 0, 0].sum() == 2
    times = group(tmp_path / "cube.zarr", "trials")["spike_time"].values
    np.testing.assert_array_equal(times, [-5_000_000, -1000, 0, 99_999_000, 100_000_000, 5_000_000_000])


def test_times_that_are_no_number(tmp_path):
    path = build(one(tmp_path, [1, math.nan, 2, math.inf]), tmp_path)
    assert group(path, "trials")["spike_time"].values.tolist() == [1_000_000, 2_000_000]
    what = "2 spike times are no finite numbers: the first is nan s, of trial 1"
    assert [f["what"] for f in findings(path)] == [what]


def test_unknown_length_covers_the_last_spike(tmp_path):
    stimuli = [make_stim("a", audio=False, length=Length.unknown()), make_stim("b")]
    trials = [spikes("a", "n", 1, [3, 62]), spikes("a", "n", 2, [7]), spikes("b", "n", 1, [500])]
    ds = built(write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}), tmp_path)
    assert ds["n_bins"].values.tolist() == [13, 20]
    assert np.isnan(ds["duration"].values[0])
    assert ds["duration_source"].values[0] == "last spike"
    assert ds["response"].values[0, 0, :, :13].sum() == 3
    assert np.isnan(ds["stimulus"].values[0]).all()


def test_trials_in_columns_are_the_same_trials(tmp_path):
    rng = np.random.default_rng(1)
    stims = ["a", "b", "b", "a", "a"]
    sizes = np.array([3, 0, 2, 4, 1])
    times = rng.random(10) / 10
    many = Trials("n", stims, np.array([1, 1, 2, 2, 3]), sizes, times, -1.0, np.full(5, 0.2), "f")
    parts = np.split(times, np.cumsum(sizes)[:-1])
    single = [
        Trial(s, "n", r, t, window=(-1.0, 0.2), file="f") for s, r, t in zip(stims, [1, 1, 2, 2, 3], parts, strict=True)
    ]
    stimuli = [make_stim("a"), make_stim("b")]
    paths = [
        build(write_toy(tmp_path / f"raw{i}", stimuli, [make_neuron("n")], {"s": records}), tmp_path, f"{i}.zarr")
        for i, records in enumerate([[many], single])
    ]
    assert digest(paths[0]) == digest(paths[1])


def test_columns_that_do_not_fit(tmp_path):
    wrong = Trials("n", ["a"], np.array([1]), np.array([2]), np.array([0.1]))
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [wrong]})
    with pytest.raises(StrfcubeError, match="row sizes that sum to 2, 1 spikes"):
        build(pipeline, tmp_path)


# --- traces ----------------------------------------------------------------------------------------------------------


def test_membrane_potential_is_the_mean_of_the_bin(tmp_path):
    trace = np.arange(400) / 10 - 60  # 4 kHz, 100 ms
    trial = Trial("a", "v", 1, trace=trace, rate=4000.0, window=(0.0, 0.1))
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("v", trace=True)], {"s": [trial]})
    ds = built(pipeline, tmp_path)
    np.testing.assert_allclose(ds["response"].values[0, 0, 0], trace.reshape(20, 20).mean(1), rtol=1e-6)
    assert ds["response"].attrs["units"] == "mV"
    assert ds["response"].dtype == np.float32


def test_a_trace_that_ends_before_the_onset_of_a_stimulus_of_unknown_length(tmp_path):
    stimuli = [make_stim("a", audio=False, length=Length.unknown())]
    traces = [
        Trial("a", "v", r, trace=np.full(50, -60.0 - r), rate=1000.0, trace_start=t) for r, t in ((1, -0.1), (2, 0))
    ]
    ds = built(write_toy(tmp_path / "raw", stimuli, [make_neuron("v", trace=True)], {"s": traces}), tmp_path)
    assert ds["n_bins"].values == 10
    np.testing.assert_array_equal(ds["response"].values[0, 0], [[np.nan] * 10, [-62] * 10])


def test_a_trace_with_holes_and_a_window_of_its_own(tmp_path):
    trace = np.full(200, -70.5)
    trace[45] = np.nan
    trial = Trial("a", "v", 1, trace=trace, rate=4000.0, trace_start=0.0125)
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("v", trace=True)], {"s": [trial]})
    values = built(pipeline, tmp_path)["response"].values[0, 0, 0]
    seen = [3, 5, 6, 7, 8, 9, 10, 11]  # 12.5 to 62.5 ms, without the bins it holds in part, and the one with the hole
    assert np.flatnonzero(np.isfinite(values)).tolist() == seen


@pytest.mark.parametrize("unit", ["count", "mV"])
def test_a_bin_of_which_a_part_was_sampled_is_missing(tmp_path, unit):
    """Whatever window is stated; and so it is where the bins of a cube end within a new one."""
    trials = [
        Trial("a", "n", r, trace=np.ones(n), rate=1000.0, trace_start=t, window=(-0.1, 0.3))
        for r, (t, n) in enumerate([(0.003, 100), (0.0, 47), (-0.01, 90)])
    ]
    pipeline = write_toy(
        tmp_path / "raw", [make_stim("a", 0.095)], [make_neuron("n", trace=unit == "mV")], {"s": trials}
    )
    cube = build(pipeline, tmp_path)
    value, seen = 5.0 if unit == "count" else 1.0, [(1, 19), (0, 9), (0, 16)]
    wanted = [[value if a <= k < b else np.nan for k in range(19)] for a, b in seen]
    np.testing.assert_array_equal(strfcube.open(cube)["response"].values[0, 0], wanted)
    ten = strfcube.open(strfcube.rebin(cube, 10, out=tmp_path / "10.zarr", jobs=0))["response"].values[0, 0]
    value, seen = 10.0 if unit == "count" else 1.0, [(1, 9), (0, 4), (0, 8)]
    np.testing.assert_array_equal(ten, [[value if a <= k < b else np.nan for k in range(10)] for a, b in seen])


def test_sampled_counts_are_summed(tmp_path):
    """Spikes that a data set publishes as counts a bin."""
    counts = np.array([0, 1, 2, 0, 3, 1, 0, 0, 1, 2], float)
    counts[8] = np.nan
    trial = Trial("a", "n", 1, trace=counts, rate=100.0)
    ds = built(write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [trial]}), tmp_path, dt=20)
    assert ds["response"].encoding["dtype"] == "uint8"
    np.testing.assert_array_equal(ds["response"].values[0, 0, 0], [1, 2, 4, 0, np.nan])


@pytest.mark.parametrize(("trace", "dt"), [(False, 15), (False, 5), (True, 5)])
def test_sampled_responses_have_no_finer_source(tmp_path, trace, dt):
    trial = Trial("a", "n", 1, trace=np.zeros(10), rate=100.0)
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n", trace=trace)], {"s": [trial]})
    with pytest.raises(UsageError, match=r"neuron 'n' is sampled every 10 ms .* whole multiple of 10 ms"):
        build(pipeline, tmp_path, dt=dt)


def test_mixed_units(tmp_path):
    neurons = [make_neuron("n"), make_neuron("v", trace=True)]
    trials = [spikes("a", "n", 1, [7, 8]), Trial("a", "v", 1, trace=np.full(400, -61.25), rate=4000.0)]
    ds = built(write_toy(tmp_path / "raw", [make_stim("a")], neurons, {"s": trials}), tmp_path)
    assert ds["response"].attrs["units"] == "mixed"
    assert ds["units"].values.tolist() == ["count", "mV"]
    assert ds["response"].values[0, 0, 0, :3].tolist() == [0, 2, 0]
    assert (ds["response"].values[0, 1] == -61.25).all()


# --- rejected trials -------------------------------------------------------------------------------------------------


def test_rejected_trials_are_counted_and_kept_apart(tmp_path):
    trials = [
        spikes("a", "n", 1, [1]),
        spikes("a", "n", 2, [2], rejected_by="drift", value=3.5, file="x.mat"),
        spikes("a", "n", 3, [12]),
        Trial("b", "n", 1, rejected_by="low snr", value=0.1, sampled=True),
    ]
    pipeline = write_toy(tmp_path / "raw", [make_stim("a"), make_stim("b")], [make_neuron("n")], {"s": trials})
    ds = built(pipeline, tmp_path)
    np.testing.assert_array_equal(ds["n_repeats"], [[2], [0]])
    np.testing.assert_array_equal(ds["n_rejected"], [[1], [1]])
    assert np.isnan(ds["response"].sel(stim="b")).all()
    assert [ds["response"].values[0, 0, r].argmax() for r in (0, 1)] == [0, 2]
    rows = group(tmp_path / "cube.zarr", "trials")
    assert rows["repeat_index"].values.tolist() == [0, 1, -1, -1]
    assert rows["trial_number"].values.tolist() == [1, 3, 2, 1]
    assert rows["kept"].values.tolist() == [True, True, False, False]
    assert rows["exact"].values.tolist() == [True, True, True, False]
    names = rows["rejected_by"].attrs["flag_meanings"].split()
    assert [names[i] for i in rows["rejected_by"].values] == ["kept", "kept", "drift", "low_snr"]
    np.testing.assert_array_equal(rows["test_value"], [np.nan, np.nan, 3.5, 0.1])
    assert rows["file"].values[rows["file_index"].values[2]] == "x.mat"
    assert rows["row_size"].values.tolist() == [1, 1, 1, 0]


def test_a_cube_of_rejected_trials_only(tmp_path):
    trial = spikes("a", "n", 1, [1], rejected_by="drift")
    ds = built(write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [trial]}), tmp_path)
    assert int(ds["n_rejected"].sum()) == 1
    assert np.isnan(ds["response"]).all()


# --- labels, choices -------------------------------------------------------------------------------------------------

ODD = ["a/b", "..", "ü ñ", "x" * 300, "con:1*?", "日本", "a\\b", " "]


def test_any_text_is_a_label(tmp_path):
    stimuli = [make_stim(s, hz=500.0) for s in ODD]
    neurons = [make_neuron(n, source=n, cell_id=n) for n in ODD]
    records = {n: [spikes(s, n, 1, [i + 1], file=f"{n}.txt") for i, s in enumerate(ODD)] for n in ODD}
    ds = built(write_toy(tmp_path / "raw", stimuli, neurons, records), tmp_path, jobs=2)
    assert ds["stim"].values.tolist() == ds["neuron"].values.tolist() == ODD
    assert ds["stim"].dtype == object
    assert (ds["n_repeats"] == 1).all()
    assert strfcube.verify(tmp_path / "cube.zarr") == []


def test_only_gives_the_labels_and_values_of_the_full_cube(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw", holes=False)
    full = built(pipeline, tmp_path, name="full.zarr")
    part = built(pipeline, tmp_path, only={"group": "g1", "stim": ["stim3", "stim1"]})
    assert part["stim"].values.tolist() == ["stim1", "stim3"]
    assert part["neuron"].values.tolist() == ["n1", "n3", "n5"]
    same = full.sel(stim=part["stim"].values, neuron=part["neuron"].values)
    bins = part.sizes["time"]
    np.testing.assert_array_equal(part["response"].values, same["response"].values[..., :bins])
    np.testing.assert_array_equal(part["stimulus"].values, same["stimulus"].values[..., :bins])
    for name in part.coords:
        if set(part[name].dims) <= {"stim", "neuron"}:
            np.testing.assert_array_equal(part[name].values, same[name].values)


def test_a_part_has_the_frequencies_of_the_whole(tmp_path):
    """An open range ends at half the lowest rate of the data set, whatever part of it is built."""
    stimuli = [make_stim("slow", rate=8000.0), make_stim("fast", rate=32000.0)]
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    pipeline = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials})
    full = built(pipeline, tmp_path, name="full.zarr")
    part = built(pipeline, tmp_path, only={"stim": "fast"})
    np.testing.assert_array_equal(part["frequency"], full["frequency"])
    np.testing.assert_array_equal(part["stimulus"].values[0], full["stimulus"].values[1])


def test_a_part_by_what_every_stimulus_has(tmp_path):
    stimuli = [make_stim("slow", length=Length(0.1, "table")), make_stim("fast", rate=32000.0, sound_onset=0.01)]
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    pipeline = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials})
    full = built(pipeline, tmp_path, name="full.zarr")
    survey = Survey(stimuli, [make_neuron("n")], [])
    for name in ("sound_onset", "sound_duration", "duration_source", "n_samples"):
        assert chosen(survey, {name: (str(full[name].sel(stim="fast").item()),)}) == ([False, True], [True]), name


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"aera": "A1"}, r"--only aera: no such coordinate; did you mean area\? Else there are .*area, .*stim_type"),
        ({"area": "MLd"}, r"--only area=MLd: nothing has that; there are A1"),
        ({"area": ["A1", "MLd", "OV"]}, r"--only area=MLd,OV: nothing has that"),
    ],
)
def test_only_what_nothing_has(tmp_path, only, message):
    with pytest.raises(SelectionError, match=message):
        build(one(tmp_path), tmp_path, only=only)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_what_was_never_played_is_left_out_with_a_finding(tmp_path):
    pipeline = write_toy(
        tmp_path / "raw", [make_stim("a"), make_stim("b")], [make_neuron("n"), make_neuron("m")],
        {"s": [spikes("a", "n", 1, [1])]},
    )  # fmt: skip
    path = build(pipeline, tmp_path)
    assert strfcube.open(path).sizes["stim"] == 1
    assert [(f["severity"], f["what"]) for f in findings(path)] == [
        ("info", "stimulus b has no trial of any chosen neuron"),
        ("info", "neuron m has no trial of any chosen stimulus"),
    ]


def test_missing_metadata_is_empty_text_or_nan(tmp_path):
    stimuli = [make_stim("a", level=80, sex="m", ok=True, n=1), make_stim("b")]
    neurons = [make_neuron("n", depth=100.5), make_neuron("m", depth=None)]
    trials = [spikes(s.id, n.id, 1, [1]) for s in stimuli for n in neurons]
    ds = built(write_toy(tmp_path / "raw", stimuli, neurons, {"s": trials}), tmp_path)
    assert ds["sex"].values.tolist() == ["m", ""]
    np.testing.assert_array_equal(ds["level"], [80, np.nan])
    np.testing.assert_array_equal(ds["depth"], [100.5, np.nan])
    assert ds["ok"].values.tolist() == ["True", ""]


# --- sounds ----------------------------------------------------------------------------------------------------------


def test_sounds_are_kept_as_they_are(tmp_path):
    stimuli = [make_stim("a", dtype="i2"), make_stim("b", audio=False), make_stim("c", 0.05, rate=8000.0, dtype="i2")]
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    path = build(write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}), tmp_path)
    audio = group(path, "audio")
    assert audio["samples"].dtype == np.int16
    assert audio["row_size"].values.tolist() == [1600, 0, 400]
    np.testing.assert_array_equal(audio["rate"], [16000, np.nan, 8000])
    np.testing.assert_array_equal(audio["samples"][:1600], tone(0.1, dtype="i2").samples)
    np.testing.assert_array_equal(audio["samples"][1600:], tone(0.05, 8000.0, dtype="i2").samples)
    ds = strfcube.open(path)
    np.testing.assert_array_equal(np.isnan(ds["stimulus"]).all(("frequency", "time")), [False, True, False])
    assert ds["sample_rate"].values[0] == 16000
    assert ds["n_samples"].values.tolist() == [1600, 0, 400]


def test_sounds_of_several_dtypes_become_floats(tmp_path):
    stimuli = [make_stim(d, dtype=d) for d in ("i2", "u1", "f4")]
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    path = build(write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}), tmp_path)
    audio = group(path, "audio")
    assert audio["samples"].dtype == np.float32
    for i in range(3):
        np.testing.assert_allclose(audio["samples"][1600 * i : 1600 * (i + 1)], tone(0.1).samples, atol=1 / 128)
    assert strfcube.verify(path) == []


def test_no_sound_at_all(tmp_path):
    stimuli = [make_stim("a", audio=False)]
    path = build(write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": [spikes("a", "n", 1, [1])]}), tmp_path)
    ds = strfcube.open(path)
    assert np.isnan(ds["stimulus"]).all()
    assert ds["response"].values.sum() == 1
    assert not (Path(path) / "audio").exists()


def test_without_audio(tmp_path):
    path = build(one(tmp_path, [1]), tmp_path, audio=False)
    assert not (Path(path) / "audio").exists()
    assert not np.isnan(strfcube.open(path)["stimulus"]).any()


def broken_sound():
    raise RawDataError("expected a whole RIFF/WAVE file, but it is not; fetch it again", "a.wav")


@pytest.mark.parametrize("length", [None, Length(0.1, "epoch")], ids=["rate stated", "rate only in the file"])
def test_a_sound_that_cannot_be_read_is_a_finding(tmp_path, length, caplog):
    stimuli = [dataclasses.replace(make_stim("a", length=length), audio=broken_sound), make_stim("b")]
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    path = build(write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}), tmp_path)
    assert {f["severity"] for f in findings(path)} == {"error"}
    assert [f["consequence"] for f in findings(path)] == [
        "the spectrogram of a is missing, its responses stay", "the waveform of a is missing",
    ]  # fmt: skip
    assert "errors are of what is left out: --strict (strict=True) stops at it instead" in caplog.text
    ds = strfcube.open(path)
    np.testing.assert_array_equal(np.isnan(ds["stimulus"]).all(("frequency", "time")), [True, False])
    assert (ds["n_repeats"] == 1).all()


def test_sound_onset_and_duration(tmp_path):
    stimuli = [
        make_stim("a", length=Length(0.3, "epoch"), sound_onset=0.1, sound_duration=0.1), make_stim("b"),
        make_stim("c", length=Length(0.3, "epoch"), sound_onset=0.2, audio=False),
    ]  # fmt: skip
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    ds = built(write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}), tmp_path, dt=10)
    np.testing.assert_array_equal(ds["sound_onset"], [0.1, 0, 0.2])
    np.testing.assert_allclose(ds["sound_duration"], [0.1, 0.1, 0.1])
    assert ds["n_bins"].values.tolist() == [30, 10, 30]
    loud = ds["stimulus"].values[0].sum(0)
    assert loud[12:18].min() > 10 * max(loud[:9].max(), loud[22:].max())


def published(dt=0.01, frames=10):
    return np.arange(3 * frames, dtype=float).reshape(3, frames)


@pytest.mark.slow
def test_published_spectrograms_pass_through(tmp_path):
    ready = ReadyMade((100.0, 200.0, 400.0), 0.01, "dB")
    stimuli = [make_stim("a", audio=False, spectrogram=published), make_stim("b", audio=False)]
    trials = [spikes(s.id, "n", 1, [1]) for s in stimuli]
    pipeline = write_toy(tmp_path / "raw", stimuli, [make_neuron("n")], {"s": trials}, ready_made=ready)
    for dt in (10, 20):
        ds = strfcube.open(strfcube.build(pipeline, out=tmp_path / f"{dt}.zarr", dt=dt, spec="published", jobs=1))
        expected = published().reshape(3, -1, dt // 10).mean(-1)
        np.testing.assert_array_equal(ds["stimulus"].values[0], expected)
        assert np.isnan(ds["stimulus"].values[1]).all()
        assert ds["frequency"].values.tolist() == [100, 200, 400]
        assert ds["stimulus"].attrs["units"] == "dB"
    with pytest.raises(UsageError, match="whole multiples"):
        strfcube.build(pipeline, out=tmp_path / "5.zarr", dt=5, spec="published", jobs=1)
    with pytest.raises(UsageError, match="has none"):
        strfcube.build(pipeline, out=tmp_path / "5.zarr", dt=5, spec="mel", jobs=1)
    assert not list(tmp_path.glob("5.zarr*"))


def test_nothing_is_published(tmp_path):
    with pytest.raises(UsageError, match="publishes no spectrogram"):
        strfcube.build(one(tmp_path), out=tmp_path / "x.zarr", spec="published", jobs=1)


# --- findings and failures -------------------------------------------------------------------------------------------

WARNING = Finding("warning", "a.txt", "a comma where a point should be", "taken for a point", 12)


def test_findings_are_kept_in_the_cube(tmp_path):
    info = Finding("info", "t.csv", "it has no header", "read without")
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")],
                         {"s": [WARNING, spikes("a", "n", 1, [1])]}, findings=[info])  # fmt: skip
    path = build(pipeline, tmp_path)
    assert findings(path) == [dataclasses.asdict(info), dataclasses.asdict(WARNING)]


def test_no_findings(tmp_path):
    path = build(one(tmp_path), tmp_path)
    assert findings(path) == []
    assert set(group(path, "findings").data_vars) == {"severity", "file", "line", "what", "consequence"}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("where", ["survey", "read"])
def test_strict_stops_at_the_first_warning(tmp_path, jobs, where):
    records = [Finding("info", "", "x", "y"), *([WARNING] if where == "read" else []), spikes("a", "n", 1, [1])]
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": records},
                         findings=[WARNING] if where == "survey" else [])  # fmt: skip
    with pytest.raises(StrfcubeError, match=r"^a.txt, line 12: a comma where .* \(taken for a point\)$"):
        build(pipeline, tmp_path, strict=True, jobs=jobs)
    assert not (tmp_path / "cube.zarr").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_pipeline_that_fails_names_its_source(tmp_path, jobs):
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"cell/7": [KeyError("depth")]})
    pipeline_ids = write_toy(
        tmp_path / "raw", [make_stim("a")], [make_neuron("n", "cell/7")], {"cell/7": [KeyError("depth")]}
    )
    assert pipeline.raw == pipeline_ids.raw
    with pytest.raises(StrfcubeError, match=r"^pipeline Toy failed on source 'cell/7': KeyError: 'depth'$"):
        build(pipeline, tmp_path, jobs=jobs)


def test_a_source_that_cannot_be_read_is_a_finding(tmp_path):
    records = {
        "s": [
            spikes("a", "n", 1, [1]),
            RawDataError("expected a number; fetch it again", tmp_path / "raw" / "x.txt", 3),
        ],
        "t": [spikes("a", "m", 1, [2])],
    }
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n"), make_neuron("m", "t")], records)
    path = build(pipeline, tmp_path)
    (found,) = findings(path)
    assert (found["severity"], found["file"], found["line"]) == ("error", "x.txt", 3)
    assert found["consequence"] == "the rest of s is missing from the cube"
    assert strfcube.open(path).sizes["neuron"] == 2


def test_trials_of_what_the_survey_does_not_list(tmp_path):
    trials = [spikes("a", "n", 1, [1]), spikes("zz", "n", 1, [1]), spikes("zz", "n", 2, [1]), spikes("a", "qq", 1, [1])]
    path = build(write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": trials}), tmp_path)
    assert [f["what"] for f in findings(path)] == [
        "trials of stimulus 'zz', which the survey does not list",
        "trials of neuron 'qq', which the survey does not list",
    ]  # fmt: skip


def test_nothing_was_read(tmp_path):
    error = RawDataError("it is no text", "x.txt")
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": [error]})
    with pytest.raises(StrfcubeError, match=r"no trial was read from .*: x.txt: it is no text"):
        build(pipeline, tmp_path)


@pytest.mark.parametrize(
    ("stimuli", "neurons", "message"),
    [
        ([make_stim("a"), make_stim("a")], [make_neuron("n")], "lists a stimulus twice: a"),
        ([make_stim("a")], [make_neuron("n"), make_neuron("n")], "lists a neuron twice: n"),
        ([make_stim("a", stim_category="conspecific")], [make_neuron("n")], "stim_category"),
        ([make_stim("a")], [make_neuron("n", area="mld")], "area"),
        ([make_stim("a")], [make_neuron("n", units="spikes")], "units"),
        ([dataclasses.replace(make_stim("a"), meta={"stim_name": "a"})], [make_neuron("n")], "stim_type"),
        ([make_stim("a")], [dataclasses.replace(make_neuron("n"), meta={"cell_id": "a"})], "animal"),
        ([make_stim("a")], [make_neuron("n", source="nowhere")], "nowhere"),
    ],
)
def test_a_survey_that_breaks_the_contract(tmp_path, stimuli, neurons, message):
    pipeline = write_toy(tmp_path / "raw", stimuli, neurons, {"s": [spikes("a", "n", 1, [1])]})
    with pytest.raises(StrfcubeError, match=message):
        build(pipeline, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_neuron_in_two_sources(tmp_path):
    records = {"s": [spikes("a", "n", 1, [1])], "t": [spikes("a", "n", 1, [1]), spikes("a", "m", 1, [1])]}
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n"), make_neuron("m", "t")], records)
    with pytest.raises(StrfcubeError, match="neuron 'n' has trials in two sources"):
        build(pipeline, tmp_path)


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dt": 0}, "dt=0 is no bin width"),
        ({"post": -1}, "post=-1 ms"),
        ({"post": math.nan}, "post=nan ms"),
        ({"post": math.inf}, "post=inf ms"),
        ({"align": "left"}, "align='left'"),
        ({"jobs": -1}, "jobs=-1"),
        ({"bands": 0}, "bands=0"),
        ({"bands": "many"}, "bands='many'"),
        ({"spec": "gammatone"}, "gammatone"),
        ({"compression": "root"}, "compression='root'"),
        ({"window_ms": -1}, "window_ms=-1"),
        ({"f_min": 9000}, "empty"),
        ({"f_min": math.nan}, "f_min"),
        ({"per_octave": 3}, "per_octave"),
        ({"colour": "red"}, "'colour' is no option of toy; there are loud, mode, bands"),
        ({"mode": "c"}, "mode"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path, kwargs, message):
    with pytest.raises(UsageError, match=message):
        build(one(tmp_path), tmp_path, **kwargs)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_options_of_a_pipeline_instance_are_its_own(tmp_path):
    raw = one(tmp_path).raw
    ds = built(Toy(raw, loud=True, mode="b"), tmp_path)
    assert json.loads(ds.attrs["recipe"])["options"] == {"loud": True, "mode": "b"}
    with pytest.raises(UsageError, match="give 'loud' to the pipeline itself"):
        build(Toy(raw), tmp_path, name="other.zarr", loud=True)
    with pytest.raises(UsageError, match="the pipeline has its own raw folder"):
        build(Toy(raw), tmp_path, name="other.zarr", raw=raw)


def test_raw_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        strfcube.build("ns1", raw=tmp_path / "nowhere", out=tmp_path / "x.zarr")
    with pytest.raises(UsageError, match="no data set 'nope'"):
        strfcube.build("nope", raw=tmp_path)


def test_raw_folder_with_links_to_nothing(tmp_path):
    pipeline = one(tmp_path, [1])
    (pipeline.raw / "nothing").symlink_to("nowhere")
    assert built(pipeline, tmp_path).sizes["stim"] == 1
    (said,) = findings(tmp_path / "cube.zarr")
    assert said["what"] == "of 1 of 3 files the content is behind links that lead nowhere, the first is nothing"
    assert "mend the links" in said["consequence"]
    with pytest.raises(StrfcubeError, match="lead nowhere"):
        build(pipeline, tmp_path, "strict.zarr", strict=True)


def test_a_cube_beside_the_raw_files_is_none_of_them(tmp_path):
    pipeline = one(tmp_path, [1])
    for name in ("raw/a.zarr", "raw/b.zarr", "raw/a.zarr"):
        build(pipeline, tmp_path, name)


def test_progress_reaches_the_end_of_both_stages(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw")
    seen = []
    build(pipeline, tmp_path, progress=lambda *state: seen.append(state))
    assert seen[0] == ("survey", 0, 0)  # at once, before it is known how much there is
    assert list(dict.fromkeys(s[0] for s in seen)) == ["survey", "ingest", "write"]
    assert max(s[2] for s in seen if s[0] == "ingest") == 6  # neurons, whatever sources they come from
    for stage in ("ingest", "write"):
        steps = [s[1:] for s in seen if s[0] == stage]
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]


# --- what was recorded -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_time_after_the_sound_that_nobody_recorded(tmp_path):
    """Missing where a window ends; as it is where none is stated. Either is a finding, where the time is kept."""
    stims, neurons = [make_stim("a"), make_stim("b")], [make_neuron("n")]
    records = [spikes("a", "n", 1, [1], window=(0, 0.3)), spikes("b", "n", 1, [1])]
    pipeline = write_toy(tmp_path / "raw", stims, neurons, {"s": records})
    assert not findings(build(pipeline, tmp_path))
    ds = built(pipeline, tmp_path, name="post.zarr", post=500)
    stated, unstated = ds["response"].isel(neuron=0, repeat=0).load()
    assert stated.isel(time=slice(60, None)).isnull().all()
    assert stated.isel(time=slice(0, 60)).notnull().all()
    assert unstated.notnull().all()
    said = {f["what"] for f in findings(tmp_path / "post.zarr")}
    assert said == {
        "1 trials do not state until when they were recorded, and 500 ms after the sound are kept (post)",
        "1 trials were not recorded until 500 ms after the sound (post)",
    }
    again = strfcube.rebin(tmp_path / "post.zarr", dt=10, out=tmp_path / "ten.zarr", jobs=1)
    assert {f["what"] for f in findings(again)} == said
    assert len(findings(again)) == 2


# --- scripts ---------------------------------------------------------------------------------------------------------


def script(folder, text, *args):
    """Run a script of its own, which knows nothing of pytest."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    command = [sys.executable, "-W", "error", path, *map(str, args)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_three_lines_without_a_main_guard(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw")
    expected = build(pipeline, tmp_path)
    text = """
        import sys, strfcube, toy
        path = strfcube.build(toy.Toy(sys.argv[1]), out=sys.argv[2], jobs=2, spec="mel", bands=4)
        print(strfcube.open(path).attrs["digest"])
    """
    assert script(tmp_path, text, pipeline.raw, tmp_path / "other.zarr") == digest(expected)


@pytest.mark.slow
def test_a_pipeline_of_the_script_itself(tmp_path):
    text = """
        import sys
        import numpy as np
        import strfcube
        from strfcube.records import Length, Neuron, Pipeline, Source, Stimulus, Survey, Trial
        class Mine(Pipeline):
            def survey(self, report):
                stim = {"stim_name": "a", "stim_type": "x", "stim_category": "other"}
                neuron = dict.fromkeys(("cell_id", "animal", "species"), "n")
                neuron |= dict.fromkeys(("area", "region", "area_label"), "unknown")
                neuron |= {"signal_type": "spikes", "units": "count"}
                neurons = [Neuron(f"n{i}", f"s{i}", neuron) for i in range(3)]
                sources = [Source(f"s{i}", i) for i in range(3)]
                return Survey([Stimulus("a", Length(0.1, "table"), meta=stim)], neurons, sources)
            def read(self, source, report):
                yield Trial("a", f"n{source.payload}", 1, np.arange(source.payload) / 100)
        path = strfcube.build(Mine(sys.argv[1]), out=sys.argv[2], jobs=2)
        print(float(strfcube.open(path).response.sum()))
    """
    (tmp_path / "raw").mkdir()
    assert script(tmp_path, text, tmp_path / "raw", tmp_path / "cube.zarr") == "3.0"


def test_sources_are_read_on_an_instance_that_has_not_surveyed(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw")
    assert list(pipeline.read(Source("source0", "0.pkl"), [].append))


# --- one cube at a place ---------------------------------------------------------------------------------------------


def test_a_cube_that_is_up_to_date_is_left_alone(tmp_path):
    pipeline = one(tmp_path, [1])
    path = Path(build(pipeline, tmp_path))
    before = (path / "zarr.json").stat().st_mtime_ns
    assert build(pipeline, tmp_path) == str(path)
    assert (path / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="another recipe"):
        build(pipeline, tmp_path, dt=1)
    (pipeline.raw / "new").write_text("")
    with pytest.raises(StoreError, match="raw files"):
        build(pipeline, tmp_path)
    build(pipeline, tmp_path, dt=1, force=True)
    assert strfcube.open(path).attrs["dt_ms"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "raw"]


def test_two_copies_of_the_raw_files_give_one_digest(tmp_path):
    a = build(random_toy(tmp_path / "a")[0], tmp_path, "a.zarr")
    b = build(random_toy(tmp_path / "b")[0], tmp_path, "b.zarr")
    assert digest(a) == digest(b)


def test_the_digest_changes_with_a_spike(tmp_path):
    paths = [build(one(tmp_path / n, [t]), tmp_path, f"{n}.zarr") for n, t in (("a", 1.0), ("b", 1.0), ("c", 1.001))]
    digests = [digest(p) for p in paths]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_url_is_a_path(tmp_path):
    path = build(one(tmp_path, [1]), tmp_path, "a cube.zarr")
    assert strfcube.build(Toy(tmp_path / "raw"), out=f"file://{quote(path)}", **FAST) == path
    for prefix in ("file://", "file:", "file://localhost"):
        assert strfcube.open(f"{prefix}{quote(path)}").attrs["digest"] == digest(path)


@pytest.mark.slow
def test_a_build_to_a_url(tmp_path):
    pipeline, _ = random_toy(tmp_path / "raw")
    here = build(pipeline, tmp_path)
    url = f"memory://{tmp_path.name}/there.zarr"
    assert strfcube.build(pipeline, out=url, **FAST) == url
    assert strfcube.open(url).attrs["digest"] == digest(here)
    np.testing.assert_array_equal(strfcube.open(url)["response"].values, strfcube.open(here)["response"].values)
    assert strfcube.verify(url) == []
    assert strfcube.build(pipeline, out=url, **FAST) == url
    strfcube.build(pipeline, out=url, dt=10, force=True, **FAST)
    other = build(pipeline, tmp_path, name="other.zarr", dt=10)
    assert strfcube.open(url).attrs["digest"] == digest(other)
    assert strfcube.verify(url) == []
    again = strfcube.rebin(url, 5, out=f"memory://{tmp_path.name}/5.zarr")
    assert strfcube.open(again).attrs["digest"] == digest(here)


class Stop(Exception):
    """What a test raises where a process would be killed."""


@pytest.mark.parametrize("tasks", [1, 3, 5, 8])
def test_a_build_to_a_url_goes_on(tmp_path, tasks):
    pipeline, _ = random_toy(tmp_path / "raw")
    expected = digest(build(pipeline, tmp_path))
    url = f"memory://{tmp_path.name}/there.zarr"
    seen = []

    def stop(*state):
        if state[0] == "survey":
            return
        seen.append(state)
        if len(seen) == tasks:
            raise Stop

    with pytest.raises(Stop):
        strfcube.build(pipeline, out=url, progress=stop, **FAST)
    if tasks > 4:
        with pytest.raises(StoreError):
            strfcube.open(url)
    first = seen[-1]
    seen.clear()
    strfcube.build(pipeline, out=url, progress=lambda *state: seen.append(state), **FAST)
    assert strfcube.open(url).attrs["digest"] == expected
    if first[0] == "ingest":
        again = next(s for s in seen if s[0] == "ingest")
        assert again[1] == first[1]  # nothing is parsed twice
