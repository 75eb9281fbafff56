"""The AC-1 pipeline: against the writer's truth, and on files that are not as they should be."""

import math
import pickle
import shutil
from collections import Counter
from functools import partial

import h5py
import numpy as np
import pytest
import xarray as xr
from scipy.io import savemat
from writers import ac1 as writer

import strfcube
from strfcube.cube.schema import AREAS, NEURON_COORDS, SIGNAL_UNITS, STIM_CATEGORIES, STIM_COORDS
from strfcube.errors import RawDataError, UsageError
from strfcube.pipelines.ac1 import AC1, join_sounds
from strfcube.pipelines.ac1.raw import load_sound, load_trace
from strfcube.pipelines.membrane import detrend

WEHR_A, WEHR_B = "20020508-mw-003", "20020601-mw-002"
ASARI, MGB, ATTACHED = "20050906-ha1-001", "20060410-ha2-012", "20070101-ha3-003"
ASARI_FILE = f"asari-results-1/{ASARI}/{ASARI}-2.mat"


LAYOUTS = {"cells": {"nested": True}, "structs": {"nested": False, "wrapped": False}}


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS)
def written(request, tmp_path_factory):
    raw = tmp_path_factory.mktemp("ac1")
    return raw, writer.write(raw, **request.param)


@pytest.fixture
def small(tmp_path):
    """A raw folder with two of Wehr's cells, to be damaged."""
    writer.write(tmp_path, wrapped=False, wehr_cells=2)
    return tmp_path


def survey(raw, **options):
    findings = []
    return AC1(raw, **options).survey(findings.append), findings


def read(raw, source, **options):
    """Trials of one source, read by a pipeline that has not surveyed, as a worker does."""
    findings = []
    pipeline = pickle.loads(pickle.dumps(AC1(raw, **options)))
    return list(pipeline.read(pickle.loads(pickle.dumps(source)), findings.append)), findings


def everything(raw, **options):
    surveyed, findings = survey(raw, **options)
    trials = {}
    for source in surveyed.sources:
        some, more = read(raw, source, **options)
        trials |= {(t.neuron, t.stimulus, t.repeat): t for t in some}
        findings += more
    return surveyed, trials, findings


def said(findings, severity, *words):
    texts = ((f, f"{f.file} {f.what} {f.consequence}") for f in findings if f.severity == severity)
    return [finding for finding, text in texts if all(word in text for word in words)]


def test_survey_lists_cells_and_the_sounds_they_heard(written):
    raw, truth = written
    surveyed, findings = survey(raw)
    assert [s.id for s in surveyed.stimuli] == [
        "wehr/category1/2", "wehr/category1/10", "wehr/category2/1", "wehr/fragments/3", "asari/class3/1+2+3l",
        "asari/class3/2+2", "asari/class6/1+2+3", "asari/class6/2+2", "asari/class6/3+1",
    ]  # fmt: skip
    assert {n.id for n in surveyed.neurons} == set(truth.rates)
    assert [s.id for s in surveyed.sources] == [n.source for n in surveyed.neurons] == [n.id for n in surveyed.neurons]
    for stimulus in surveyed.stimuli:
        assert set(STIM_COORDS) - {"sound_onset", "sound_duration", "duration_source"} <= set(stimulus.meta)
        assert set(stimulus.meta) == set(surveyed.stimuli[0].meta)
        assert stimulus.meta["stim_category"] in STIM_CATEGORIES
        assert stimulus.length.source == "mat"
    for neuron in surveyed.neurons:
        assert set(NEURON_COORDS) <= set(neuron.meta) == set(surveyed.neurons[0].meta)
        assert neuron.meta["area"] in AREAS
        assert SIGNAL_UNITS[neuron.meta["signal_type"]] == neuron.meta["units"]
    assert len(said(findings, "info", "triggers of other kinds: 1 tone")) == 1
    assert len(said(findings, "info", "triggers of other kinds: 2 tone")) == 1
    assert len(said(findings, "info", "notes.mat")) == 1
    assert [f.what for f in findings if f.severity != "info"] == [
        "trigger 6: it names segment 9, but param.stimulus has 3"
    ]


def test_what_is_known_of_a_cell(written):
    neurons = {n.id: n.meta for n in survey(written[0])[0].neurons}
    assert neurons[WEHR_A] == {
        "cell_id": WEHR_A, "animal": "mw", "species": "rat", "area": "A1", "region": "A1", "area_label": "",
        "signal_type": "membrane_potential", "units": "mV", "experimenter": "wehr", "date": "20020508",
        "penetration": 3, "recording_type": "whole-cell", "valid_unit": True,
    }  # fmt: skip
    keys = ("area", "area_label", "signal_type", "recording_type", "animal", "experimenter")
    assert [neurons[ASARI][k] for k in keys] == [
        "A1", "auditory cortex, left", "membrane_potential", "whole-cell", "ha1", "asari",
    ]  # fmt: skip
    assert [neurons[MGB][k] for k in keys] == ["MGB", "MGB", "spikes", "cell-attached", "ha2", "asari"]
    assert [neurons[ATTACHED][k] for k in keys] == ["A1", "Cortex", "spikes", "cell-attached", "ha3", "asari"]
    wehr = sorted(n for n in neurons if "-mw-" in n)
    assert [i for i, n in enumerate(wehr) if not neurons[n]["valid_unit"]] == [1, 2, 4, 8]
    assert sum(m["valid_unit"] for m in neurons.values() if m["experimenter"] == "wehr") == 21


def test_what_is_known_of_a_stimulus(written):
    stimuli = {s.id: s for s in survey(written[0])[0].stimuli}
    joined = stimuli["asari/class3/1+2+3l"]
    assert joined.meta == {
        "stim_name": "class3/1+2+3l", "stim_type": "Sequence 1:  1 2  3", "stim_category": "natural",
        "stim_class": "class3", "experimenter": "asari", "n_segments": 3,
        "segment_files": "class3/1.mat class3/2.mat class3/3l.mat", "sequence": "1 2 3", "sample_rate": 97656.0,
    }  # fmt: skip
    assert stimuli["wehr/category1/10"].meta["stim_type"] == "knudsens frog"
    assert stimuli["wehr/category2/1"].meta["stim_type"] == "knudsens frog"  # the same words, told apart by length
    assert joined.length.samples == round(0.3 * 97656) * 2 + round(0.25 * 97656)
    assert joined.length.rate == 97656.0


def test_sounds_are_joined_with_ramps(written):
    raw, truth = written
    stimuli = {s.id: s for s in survey(raw)[0].stimuli}
    audio = pickle.loads(pickle.dumps(stimuli["wehr/fragments/3"].audio))()
    assert audio.rate == 97656.0
    np.testing.assert_array_equal(audio.samples, truth.sounds["wehr/Stimuli/fragments/3.mat"])
    segments = [truth.sounds[f"asari/Stimuli/class6/{n}.mat"] for n in "31"]
    n = round(0.005 * 97656)
    ramp = np.sin(np.pi / 2 * np.arange(n) / n) ** 2
    for segment in segments:
        segment = segment.copy()
        segment[:n] *= ramp
        segment[-n:] *= ramp[::-1]
    samples = stimuli["asari/class6/3+1"].audio().samples
    split = len(segments[0])
    for piece, segment in ((samples[:split], segments[0]), (samples[split:], segments[1])):
        np.testing.assert_array_equal(piece[n:-n], segment[n:-n])
        np.testing.assert_allclose(piece[:n], segment[:n] * ramp)
        np.testing.assert_allclose(piece[-n:], segment[-n:] * ramp[::-1])
    plain = {s.id: s for s in survey(raw, ramp_ms=0.0)[0].stimuli}["asari/class6/3+1"].audio().samples
    np.testing.assert_array_equal(plain, np.concatenate(segments))


def test_exactly_the_planted_repeats_are_rejected_each_by_its_test(written):
    raw, truth = written
    _, trials, _ = everything(raw)
    assert set(trials) == set(truth.clean)
    assert {key: t.rejected_by for key, t in trials.items() if t.rejected_by} == truth.rejected
    limits = {"range": (200, 250), "step": (0.005, 0.5), "xcorr": (-1, 0.05)}
    for key, trial in trials.items():
        if trial.rejected_by:
            low, high = limits[truth.rejected[key]]
            assert low < trial.value < high
        else:
            assert math.isnan(trial.value)
    assert Counter(truth.rejected.values()) == {"range": 3, "step": 2, "xcorr": 2}


def test_traces_are_the_clean_ones_within_the_error_of_the_filter(tmp_path):
    truth = writer.write(tmp_path, noise=0.0, wehr_cells=2)
    _, trials, findings = everything(tmp_path)
    kept = [key for key, t in trials.items() if t.trace is not None and not t.rejected_by]
    copies = said(findings, "warning", "it is a copy of")  # without noise, repeats are equal
    expected = [k for k in truth.clean if k not in truth.rejected and k not in truth.spikes]
    assert len(kept) == len(expected) - len(copies)
    for key in kept:
        trial, clean = trials[key], truth.clean[key]
        around = np.pad(clean, 2000)
        own_error = np.abs(detrend(around, trial.rate) - around).max()
        slope = 3 * 2 * np.pi / 8 + 0.5  # mV/s: the drift moves that much within half a window of the median
        whole = len(trial.trace) - (round(0.09 * trial.rate) if "-8.mat" in trial.file else 0)  # that trace ends there
        error = np.abs(trial.trace - clean)[:whole]
        assert error.max() <= own_error + slope * 0.05 + writer.SCALE


def test_a_response_is_as_long_as_it_was_recorded(written):
    raw, truth = written
    _, trials, findings = everything(raw)
    for key, trial in trials.items():
        n = len(truth.clean[key])
        rate = truth.rates[trial.neuron]
        assert trial.window == (0.0, n / rate)
        assert trial.trace is None or len(trial.trace) == n
    short = trials[WEHR_B, "wehr/category1/10", 2]
    assert short.window == (0.0, 0.3)
    assert [trials[WEHR_B, "wehr/category1/10", i].window[1] for i in (1, 3, 4)] == [0.6] * 3
    assert [f.file for f in said(findings, "warning", "trigger 1: the trace ends before the sound")] == [short.file]
    assert (raw / short.file).is_file()


def test_spikes_are_the_planted_ones(written):
    raw, truth = written
    _, trials, _ = everything(raw)
    kept = {key: at for key, at in truth.spikes.items() if key not in truth.rejected}
    assert len(kept) == 5
    for key, at in kept.items():
        np.testing.assert_array_equal(trials[key].spike_times, at)
        assert trials[key].trace is None


def test_options_change_what_is_kept(written):
    raw, _ = written
    source = next(s for s in survey(raw)[0].sources if s.id == WEHR_A)
    trials, _ = read(raw, source, gate_range_mv=1000.0, gate_min_r=-2.0, gate_step_fraction=1.0)
    assert not any(t.rejected_by for t in trials)
    raw_mv = read(raw, source, detrend_median_ms=0.0, gate_step_mv=1000.0)[0][0].trace
    assert -62 < np.median(raw_mv) < -57
    with pytest.raises(UsageError, match="detrend_sigma_ms=-1"):
        AC1(raw, detrend_sigma_ms=-1.0)
    with pytest.raises(UsageError, match="gate_range_mv=nan"):
        AC1(raw, gate_range_mv=math.nan)


def test_survey_does_not_read_traces(small):
    # A file cut off inside its trace still says what was presented.
    path = small / f"wehr/Results/{WEHR_A}/{WEHR_A}-1.mat"
    trace = np.zeros(100_000, np.int16)
    trigger = writer.natural_sound("naturalsound", 100, 1000.0, "humpback whale")
    savemat(path, {"triggers": writer._wrap([trigger]), "response": {"trace": trace, "scale": 1.0, "sf": 4000.0}})
    path.write_bytes(path.read_bytes()[:50_000])
    surveyed, findings = survey(small)
    assert not said(findings, "error")
    trials, findings = read(small, surveyed.sources[0])
    assert [f.consequence for f in said(findings, "error", f"{WEHR_A}-1.mat", "cut short or damaged")] == [
        "its 1 presentations are left out"
    ]
    assert len(trials) == 10


@pytest.mark.parametrize("experimenter", ["wehr", "asari"])
def test_one_experimenter_is_enough(tmp_path, experimenter):
    truth = writer.Truth()
    writer.write_sounds(tmp_path, truth)
    if experimenter == "wehr":
        writer.write_wehr(tmp_path, truth)
    else:
        writer.write_asari([tmp_path, tmp_path], truth)
    surveyed, _ = survey(tmp_path)
    assert {n.meta["experimenter"] for n in surveyed.neurons} == {experimenter}


def test_an_incomplete_set_of_cells_is_said(small):
    surveyed, findings = survey(small)
    assert said(findings, "warning", "2 recording folders, the published selection is of 25")
    assert [n.meta["valid_unit"] for n in surveyed.neurons[:2]] == [True, False]


@pytest.mark.parametrize("make", [lambda raw: None, lambda raw: (raw / "crcns-ac1/wehr/Results").mkdir(parents=True)])
def test_an_empty_folder_is_an_error(tmp_path, make):
    make(tmp_path)
    with pytest.raises(RawDataError, match="expected natural-sound recordings in crcns-ac1/wehr/Results"):
        survey(tmp_path)


def test_recordings_without_their_sounds(small):
    shutil.rmtree(small / "asari/Stimuli")
    surveyed, findings = survey(small)
    assert {n.meta["experimenter"] for n in surveyed.neurons} == {"wehr"}
    assert said(findings, "error", "asari/Stimuli", "found no folder asari/Stimuli", "unpack crcns-ac1.zip here")
    shutil.rmtree(small / "wehr/Stimuli")
    with pytest.raises(RawDataError, match=r"found 2 folders of wehr's, no folder wehr/Stimuli, 3 folders of asari's"):
        survey(small)


def _damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 3])
    elif how == "text":
        path.write_text("not a MATLAB file " * 20)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "v7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            file["triggers"] = 1
        header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        with path.open("r+b") as file:
            file.write(header)
    elif how == "nothing":
        savemat(path, {"x": 1})
    elif how == "no triggers":
        savemat(path, {"triggers": 1.0})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "expected the variable 'triggers', but there is none, or the file is cut short before it"),
        ("text", "expected a whole MATLAB file"),
        ("empty", "expected a whole MATLAB file"),
        ("v7.3", "expected a MATLAB file of version 5 to 7, found version 7.3 (HDF5); save it again with -v7"),
        ("nothing", "expected the variable 'triggers', but there is none"),
        ("no triggers", "expected a struct or a cell array, found"),
    ],
)
def test_a_bad_recording_file_is_left_out_and_the_rest_is_read(small, how, words):
    path = small / f"wehr/Results/{WEHR_A}/{WEHR_A}-1.mat"
    _damage(path, how)
    _, trials, findings = everything(small)
    found = said(findings, "error")
    assert [(f.file, f.consequence) for f in found] == [
        (f"wehr/Results/{WEHR_A}/{WEHR_A}-1.mat", "the file is left out")
    ]
    assert words in found[0].what
    assert len([key for key in trials if key[0] == WEHR_A]) == 10
    assert len([key for key in trials if key[0] == WEHR_B]) == 10


@pytest.mark.parametrize("how", ["cut", "v7.3", "nothing", "absent"])
def test_a_bad_sound_leaves_out_its_presentations(small, how):
    path = small / "wehr/Stimuli/fragments/3.mat"
    path.unlink() if how == "absent" else _damage(path, how)
    surveyed, trials, findings = everything(small)
    assert "wehr/fragments/3" not in [s.id for s in surveyed.stimuli]
    assert said(findings, "warning", f"{WEHR_A}-1.mat", "trigger 1: no file in wehr/Stimuli has its description")
    assert len(said(findings, "error", "wehr/Stimuli/fragments/3.mat")) == (how != "absent")
    assert {key[1] for key in trials if key[0] == WEHR_A} == {
        "wehr/category1/2", "wehr/category1/10", "wehr/category2/1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("absent", "its stimulus file 'Stimuli\\class6\\3.mat' is not in asari/Stimuli"),
        ("nothing", "its stimulus file asari/Stimuli/class6/3.mat cannot be used"),
    ],
)
def test_a_bad_segment_leaves_out_its_sequences(small, how, words):
    path = small / "asari/Stimuli/class6/3.mat"
    path.unlink() if how == "absent" else _damage(path, how)
    surveyed, trials, findings = everything(small)
    assert {s.id for s in surveyed.stimuli if "class6" in s.id} == {"asari/class6/2+2"}
    found = said(findings, "warning", ASARI_FILE, words)
    assert [f.what.partition(":")[0] for f in found] == ["triggers 1, 3, 4, 5, 7"]
    assert {key[1] for key in trials if key[0] == ASARI} == {"asari/class3/1+2+3l"}


def _rewrite(small, triggers, **changes):
    """One of Wehr's files with other triggers."""
    path = small / f"wehr/Results/{WEHR_A}/{WEHR_A}-1.mat"
    response = {"trace": np.zeros(8000, np.int16), "scale": 0.01, "sf": 4000.0} | changes
    savemat(path, {"response": response, "triggers": writer._wrap(triggers)})
    _, trials, findings = everything(small)
    return [f for f in findings if f.file.endswith(f"{WEHR_A}-1.mat")], trials


whale = partial(writer.natural_sound, "naturalsound", description="humpback whale")


@pytest.mark.parametrize(
    ("triggers", "what"),
    [
        ([whale(100, 1000.0), whale(9000, 1000.0)], "trigger 2: the presentation lies outside the trace"),
        ([whale(-1, 1000.0)], "trigger 1: the presentation lies outside the trace"),
        ([whale(100, math.nan)], "trigger 1: expected an onset and a duration, found sample 101 and nan ms"),
        ([whale(math.inf, 1000.0)], "trigger 1: expected an onset and a duration, found sample inf"),
        ([whale(100, 500.0)], "trigger 1 lasts 500 ms, its sound wehr/fragments/3 1000 ms"),
        ([whale(100, 1000.0) | {"param": 3.0}], "trigger 1: expected a struct with the field 'duration', found"),
        ([whale(100, 1000.0) | {"type": 3.0}], "trigger 1: expected text, found"),
        ([{"type": "natural", "param": {}}], "trigger 1: expected a struct with the field 'time'"),
        ([writer.natural_sound("natural", 100, 800.0, "knudsens frog")], "no file in wehr/Stimuli has its description "
         "'knudsens frog' (and, of several, its length)"),
    ],
)  # fmt: skip
def test_a_bad_trigger_is_named(small, triggers, what):
    findings, _ = _rewrite(small, triggers)
    assert len(findings) == 1
    assert findings[0].severity == "warning"
    assert what in findings[0].what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"trace": "text"}, "in 'response': expected numbers, found text of shape (1,)"),
        ({"scale": np.ones(2)}, "in 'response': expected one number, found float64 of shape (2,)"),
        ({"trace": np.ones((2, 3))}, "in 'response': expected one row or one column, found float64 of shape (2, 3)"),
        ({"sf": 0.0}, "expected a rate in 'response.sf', found 0 Hz"),
    ],
)
def test_a_bad_response_is_named(small, changes, what):
    findings, _ = _rewrite(small, [whale(100, 1000.0)], **changes)
    assert [(f.severity, f.what) for f in findings] == [("error", what)]


def test_rows_are_as_good_as_columns_and_one_struct_as_good_as_many(small):
    _, expected, _ = everything(small)
    path = small / f"wehr/Results/{WEHR_A}/{WEHR_A}-1.mat"
    trace = load_trace(path)[0]
    trigger = whale(round(writer.GAP * 4000), np.uint16(1000)) | {"type": "NAURALSOUND  "}
    trigger["time"] = np.float32([[trigger["time"]]])
    for shape in ((1, -1), (-1, 1)):
        response = {
            "trace": np.asarray(trace, np.float64).reshape(shape),
            "scale": 1,
            "sf": np.array([[4000]], np.int16),
        }
        savemat(path, {"response": response, "triggers": trigger})
        _, trials, _ = everything(small)
        key = WEHR_A, "wehr/fragments/3", 1
        np.testing.assert_array_equal(trials[key].trace, expected[key].trace)


def test_words_that_a_recording_lacks(small):
    path = small / ASARI_FILE
    trigger = writer.natural_sound("natural sound", 3000, 300.0, "Sequence 1: 1")
    param = {"stimulus": {"file": "C:\\data\\Stimuli\\class6\\1.mat"}, "recording": {"site": "Auditory CORTEX "}}
    writer.recording(path, np.ones(9000, np.int16), 10000.0, [trigger], param, nested=False)
    surveyed, findings = survey(small)
    assert said(findings, "warning", ASARI_FILE, "param.recording.type is empty", "taken for whole-cell")
    assert "asari/class6/1" in [s.id for s in surveyed.stimuli]
    assert next(n for n in surveyed.neurons if n.id == ASARI).meta["area"] == "A1"


def test_whole_numbers_stay_the_doubles_that_matlab_had(tmp_path):
    writer.stimulus(tmp_path / "1.mat", np.arange(100.0), "steps", "sample")
    samples, _, _ = load_sound(tmp_path / "1.mat")
    assert samples.dtype == np.float64


def test_gaps_in_a_trace_reject_the_repeat(small):
    trace = 100 * np.random.default_rng(0).normal(size=8000)
    trace[2000:2010] = np.nan
    findings, trials = _rewrite(small, [whale(100, 1000.0), whale(4100, 900.0)], trace=trace)
    assert {f.what for f in findings} == {
        "trigger 1: some samples are no finite numbers", "trigger 2 lasts 900 ms, its sound wehr/fragments/3 1000 ms",
    }  # fmt: skip
    assert trials[WEHR_A, "wehr/fragments/3", 1].rejected_by == "range"
    assert trials[WEHR_A, "wehr/fragments/3", 2].rejected_by != "range"


def test_two_triggers_of_one_presentation(small):
    """As where one list was rounded, or counted from 0: the same response but for some samples."""
    trace = 100 * np.random.default_rng(0).normal(size=9000)
    findings, _ = _rewrite(small, [whale(100, 1000.0), whale(101, 1000.0), whale(4200, 1000.0)], trace=trace)
    assert [f.what for f in findings] == ["trigger 2: the same onset as trigger 1"]


def test_two_sounds_that_cannot_be_told_apart(small):
    writer.stimulus(small / "wehr/Stimuli/fragments/4.mat", np.zeros(97656), "Humpback  whale", "samples")
    _, findings = survey(small)
    found = said(findings, "warning", f"{WEHR_A}-1.mat")
    assert "description 'humpback whale' and length are those of fragments/3, fragments/4" in found[0].what


def test_one_sound_under_two_numbers_is_one_stimulus(small):
    path = small / "wehr/Stimuli/fragments/3.mat"
    (small / "wehr/Stimuli/category3/9.mat").write_bytes(path.read_bytes())
    surveyed, findings = survey(small)
    assert said(findings, "info", "category3/9.mat", "same sound and description as fragments/3")
    assert {"wehr/fragments/3"} == {s.id for s in surveyed.stimuli if s.meta["stim_type"] == "humpback whale"}


def test_lengths_that_differ_are_said_once(small):
    for number in (1, 3, 4):
        path = small / f"wehr/Results/{WEHR_A}/{WEHR_A}-{number}.mat"
        writer.recording(path, np.full(8000, number, np.int16), 4000.0, [whale(100, 1100.0)])
    _, findings = survey(small)
    assert said(findings, "warning", f"{WEHR_A}-1.mat", "trigger 1 lasts 1100 ms", "and 2 more triggers like it")
    assert len(said(findings, "warning", "lasts 1100 ms")) == 1


def test_results_without_their_inner_folder(small):
    (small / "asari-results-1").rename(small / "crcns-ac1-asari-results-1")
    (small / "crcns-ac1").mkdir()
    (small / "wehr").rename(small / "crcns-ac1/wehr")
    surveyed, _ = survey(small)
    assert {ASARI, WEHR_A} <= {n.id for n in surveyed.neurons}


def test_recordings_that_are_looked_for_elsewhere_are_told(small):
    _, expected, _ = everything(small)
    file = next((small / "wehr/Results" / WEHR_A).glob("*.mat"))
    file.rename(file.with_suffix(".MAT"))
    for sound in (small / "wehr/Stimuli").rglob("*.mat"):
        sound.rename(sound.with_suffix(".MAT"))
    _, trials, findings = everything(small)
    assert trials.keys() == expected.keys()
    assert not said(findings, "warning", "not here")
    (small / "wehr/Results" / WEHR_A).rename(small / WEHR_A)
    (told,) = said(everything(small)[2], "warning", "recordings are looked for in wehr/Results/<recording>")
    assert told.file.startswith(f"{WEHR_A}/")
    assert told.consequence == f"files like it are left out: {len(list((small / WEHR_A).iterdir()))}"


def test_an_archive_that_is_still_packed_is_told(small):
    shutil.rmtree(small / "asari-results-2")
    for number in (1, 2):
        (small / f"crcns-ac1-asari-results-{number}.zip").write_bytes(b"PK")
    (told,) = said(survey(small)[1], "warning", "the archive is not unpacked")
    assert told.file == "crcns-ac1-asari-results-2.zip"


def test_a_recording_without_a_trigger_is_told(small):
    writer.recording(small / ASARI_FILE, np.zeros(9000, np.int16), 10000.0, [])
    assert said(everything(small)[2], "info", ASARI_FILE, "'triggers' is empty")


def test_an_archive_unpacked_twice_is_read_once(small):
    _, expected, _ = everything(small)
    shutil.copytree(small / "wehr", small / "again/wehr")
    shutil.copytree(small / "asari-results-1", small / "again/asari-results-1")
    other = small / f"again/asari-results-1/{ASARI}/{ASARI}-2.mat"
    writer.recording(other, np.zeros(9000, np.int16), 10000.0, [])  # the same name, another file
    _, trials, findings = everything(small)
    assert trials.keys() == expected.keys()
    assert said(findings, "warning", f"wehr/Results/{WEHR_A}", "12 files are copies of those in another folder")
    assert said(findings, "warning", f"asari-results-1/{ASARI}", "1 files are copies")


def test_folders_in_another_spelling(small):
    expected, expected_trials, expected_findings = everything(small)
    for path in ("asari/Stimuli/class3", "wehr/Stimuli/category1", "wehr/Stimuli", "wehr/Results", "asari-results-1"):
        (small / path).rename((small / path).with_name((small / path).name.upper()))
    surveyed, trials, findings = everything(small)
    assert [(s.id, s.meta) for s in surveyed.stimuli] == [(s.id, s.meta) for s in expected.stimuli]
    assert [(n.id, n.meta) for n in surveyed.neurons] == [(n.id, n.meta) for n in expected.neurons]
    assert trials.keys() == expected_trials.keys()
    assert len(findings) == len(expected_findings)


def test_two_sounds_of_one_name(small):
    sound = survey(small)[0].stimuli[-1].audio()
    shutil.copytree(small / "asari" / "Stimuli", small / "old" / "asari" / "Stimuli")
    assert not said(survey(small)[1], "warning", "another sound of that name")
    other = sorted((small / "old" / "asari" / "Stimuli").rglob("*.mat"))[0]
    shutil.copy(sorted(other.parent.glob("*.mat"))[1], other)
    found, findings = survey(small)
    (told,) = said(findings, "warning", "there is another sound of that name", "which differs")
    assert told.file == other.relative_to(small).as_posix()
    np.testing.assert_array_equal(found.stimuli[-1].audio().samples, sound.samples)


def test_segments_of_two_types_join_at_one_scale(tmp_path):
    wave = np.round(np.sin(np.arange(400.0)) * 2**14)
    for name, samples in (("1", (wave).astype(np.int16)), ("2", wave / 2**15)):
        content = {"sample": samples, "param": {"sf": 97656.0, "description": "segment"}}
        savemat(tmp_path / f"{name}.mat", {"stimulus": content})
    joined = join_sounds([tmp_path / "1.mat", tmp_path / "2.mat"], 0.0).samples
    np.testing.assert_array_equal(joined[:400], joined[400:])


@pytest.mark.parametrize(
    ("factor", "severity", "words"),
    [(0.0, "error", "expected mV a count in 'response.scale', found 0"), (1e-3, "warning", "the potential varies by")],
)
def test_a_scale_that_does_not_give_mv(small, monkeypatch, factor, severity, words):
    path = small / "wehr" / "Results" / WEHR_A / f"{WEHR_A}-1.mat"
    monkeypatch.setattr(writer, "SCALE", writer.SCALE * factor)
    trace = 300 * np.random.default_rng(0).normal(size=8000)
    writer.recording(path, np.round(trace).astype(np.int16), 4000.0, [whale(100, 1000.0)])
    (told,) = said(everything(small)[2], severity, words)
    assert told.file == path.relative_to(small).as_posix()


def test_a_cell_recorded_in_two_ways_is_two_neurons(small):
    path = small / ASARI_FILE
    param = {"stimulus": [{"file": "class3/2.mat"}], "recording": {"site": "Cortex", "type": "cell attached"}}
    trace = np.zeros(20_000, np.int16)
    trigger = writer.natural_sound("naturalsound", 100, 300.0, "Sequence 1: 1")
    writer.recording(path.with_name("attached.mat"), trace, 1e4, [trigger], param)
    surveyed, findings = survey(small)
    ids = [n.id for n in surveyed.neurons if n.id.startswith(ASARI)]
    assert ids == [f"{ASARI}-A1-whole-cell", f"{ASARI}-A1-cell-attached"]
    assert said(findings, "info", ASARI, "differ in site or recording type", "2 neurons")
    source = next(s for s in surveyed.sources if s.id == ids[1])
    (trial,), findings = read(small, source)
    assert (trial.stimulus, trial.spike_times.size, trial.window) == ("asari/class3/2", 0, (0.0, 0.3))
    (doubt,) = findings
    assert doubt.what == "spikes cannot be told from noise: no peak reaches the threshold"
    assert doubt.file.endswith(ASARI)


def test_odd_folders_and_sites(small):
    (small / "wehr/Results/notes").mkdir()
    (small / f"wehr/Results/{WEHR_A}/{WEHR_A}-1.mat").rename(small / "wehr/Results/notes/a.mat")
    (small / f"wehr/Results/{WEHR_A}/._{WEHR_A}-1.mat").write_bytes(b"left by a file manager")
    tone = small / "wehr/Results/20030101-mw-001/1.mat"
    writer.recording(tone, np.zeros(100, np.int16), 4000.0, [writer.natural_sound("chord", 1, 1.0, "")])
    path = small / ASARI_FILE
    param = {"stimulus": [{"file": "class3/2.mat"}, {"file": "CLASS6\\1"}], "recording": {"site": "", "type": ""}}
    triggers = [writer.natural_sound("natural", 9, 600.0, words) for words in ("Sequence 1: 2 1", "number 1: 1 2")]
    writer.recording(path.with_name(f"{ASARI}-10.mat"), np.zeros(20_000, np.int16), 1e4, triggers, param)
    path.unlink()
    surveyed, findings = survey(small)
    assert said(findings, "warning", "wehr/Results/notes", "folders named <yyyymmdd>-<animal>-<number>")
    assert said(findings, "info", "20030101-mw-001", "no natural sound that could be used", "the cell is left out")
    assert said(findings, "warning", f"{ASARI}-10.mat", "param.recording.site is empty", "its area is unknown")
    assert said(findings, "warning", f"{ASARI}-10.mat", "param.recording.type is empty", "whole-cell")
    assert said(findings, "warning", "trigger 2: expected a description 'Sequence n: i j k', found 'number 1: 1 2'")
    assert {n.id: n.meta["area"] for n in surveyed.neurons}[ASARI] == "unknown"
    mixed = {s.id: s for s in surveyed.stimuli}["asari/class6/1+class3/2"]
    assert mixed.meta["stim_class"] == "mixed"


def test_segments_of_two_rates_are_not_joined(small):
    writer.stimulus(small / "asari/Stimuli/class6/1.mat", np.zeros(1000), "segment", "sample", rate=48828.0)
    _, findings = survey(small)
    assert said(findings, "warning", ASARI_FILE, "its segments differ in rate: class6/1 48828 Hz, class6/2 97656 Hz")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    truth = writer.write(folder / "raw", wehr_cells=6)
    path = strfcube.build("ac1", raw=folder / "raw", dt=5, out=folder / "ac1.zarr", jobs=2)
    return folder / "raw", truth, path


def test_a_cube_holds_both_signals(built):
    _, truth, path = built
    ds = strfcube.open(path)
    assert ds["response"].attrs["units"] == "mixed"
    assert dict(zip(ds["neuron"].values, ds["units"].values, strict=True)) == {
        n: "count" if n in (MGB, ATTACHED) else "mV" for n in truth.rates
    }
    rejected = Counter(key[:2] for key in truth.rejected)
    kept = Counter(key[:2] for key in truth.clean if key not in truth.rejected)
    for stim in ds["stim"].values:
        for neuron in ds["neuron"].values:
            one = ds.sel(stim=stim, neuron=neuron)
            assert (int(one["n_repeats"]), int(one["n_rejected"])) == (kept[neuron, stim], rejected[neuron, stim])
    assert set(ds["duration_source"].values) == {"mat"}
    assert ds.sizes["frequency"] == 53
    seconds = float(ds["duration"].sel(stim="asari/class6/3+1"))
    assert seconds == pytest.approx(0.65, abs=1e-5)


def test_bins_are_means_of_traces_and_counts_of_spikes(built):
    raw, _, path = built
    ds = strfcube.open(path).load()
    _, trials, _ = everything(raw)
    seen = Counter()
    for (neuron, stimulus, _), trial in trials.items():
        if trial.rejected_by:
            continue
        row = ds["response"].sel(stim=stimulus, neuron=neuron, repeat=seen[neuron, stimulus]).values
        seen[neuron, stimulus] += 1
        n = int(trial.window[1] / 0.005 + 1e-6)
        if trial.trace is None:
            edges = np.arange(n + 1) * 0.005
            expected = np.histogram(trial.spike_times, edges - 1e-9)[0]
        else:
            expected = trial.trace[: n * round(trial.rate * 0.005)].reshape(n, -1).mean(1, dtype=np.float64)
        np.testing.assert_allclose(row[:n], expected, atol=1e-4)
        assert np.isnan(row[n:]).all()


def test_rejected_trials_are_in_the_cube_with_test_and_value(built):
    _, truth, path = built
    trials = xr.open_dataset(path, group="trials", engine="zarr").load()
    root = strfcube.open(path)
    meanings = trials["rejected_by"].attrs["flag_meanings"].split()
    found = {}
    for row in np.flatnonzero(~trials["kept"].values):
        key = (
            str(root["neuron"].values[trials["neuron_index"].values[row]]),
            str(root["stim"].values[trials["stim_index"].values[row]]),
            int(trials["trial_number"].values[row]),
        )
        found[key] = meanings[trials["rejected_by"].values[row]]
        assert np.isfinite(trials["test_value"].values[row])
    assert found == truth.rejected


@pytest.mark.torch
def test_a_mixed_cohort_trains_only_once_a_signal_is_chosen(built):
    pytest.importorskip("torch")
    view = strfcube.CubeDataset(built[2])
    with pytest.raises(UsageError, match="signal_type"):
        next(iter(view.loader(batch_size=2)))
    for signal, neurons in (("spikes", 2), ("membrane_potential", 7)):
        batch = next(iter(view.sel(signal_type=signal).loader(batch_size=2)))
        assert batch["responses"].shape[1] == neurons
        assert bool(batch["valid_mask"].any())


@pytest.mark.slow
def test_one_signal_has_its_own_store(built, tmp_path):
    path = strfcube.build("ac1", raw=built[0], dt=10, out=tmp_path / "s.zarr", only={"signal_type": "spikes"}, jobs=1)
    ds = strfcube.open(path)
    assert ds["response"].attrs["units"] == "count"
    assert ds["response"].encoding["dtype"] == np.uint8
    assert list(ds["neuron"].values) == [MGB, ATTACHED]
    assert all(stim.startswith("asari/") for stim in ds["stim"].values)
