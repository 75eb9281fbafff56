"""AA1: one identity a wav, both layouts of all_stims, areas from the folders."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy.io import wavfile
from test_aa2 import read_all
from writers.aa import write_aa1, write_pair

import strfcube
from strfcube.errors import RawDataError
from strfcube.pipelines.aa1 import AA1


def seconds(truth):
    return {
        (cell, wav[:-4]): [[t / 1000 for t in trial] for trial in trials]
        for (cell, _, wav), trials in truth.trials.items()
    }


@pytest.mark.parametrize("class_folders", [False, True])
@pytest.mark.parametrize("wrap", [False, True])
def test_every_trial_of_every_pair(tmp_path, class_folders, wrap):
    truth = write_aa1(tmp_path, class_folders=class_folders, wrap=wrap)
    survey, found, kept, numbers, rejected = read_all(AA1(tmp_path))
    assert kept == seconds(truth)
    assert not rejected
    top = "crcns-aa1/" if wrap else ""
    assert {(f.severity, f.file) for f in found} == {
        ("warning", f"{top}MLd_cells/blugr1612_2/conspecific/stim4"),
        ("info", f"{top}MLd_cells/blugr1612_2/conspecific"),
    }
    assert [(n.id, n.meta["area"], n.meta["region"], n.meta["area_label"]) for n in survey.neurons] == [
        ("gg0304_10_B", "Field_L", "Field_L", "Field_L"),
        ("blugr1612_2", "MLd", "MLd", "MLd"),
        ("pipu1018_2_A", "MLd", "MLd", "MLd"),
    ]
    assert [(n.meta["cell_seq"], n.meta["rig"], n.meta["animal"]) for n in survey.neurons] == [
        (10, "B", "gg0304"), (2, "", "blugr1612"), (2, "A", "pipu1018")]  # fmt: skip
    assert [s.meta["stim_type"] for s in survey.stimuli] == ["conspecific"] * 4 + ["flatrip"] * 3
    assert [s.meta["stim_category"] for s in survey.stimuli] == ["song"] * 4 + ["ml_noise"] * 3
    for stimulus in survey.stimuli:
        assert stimulus.id == stimulus.meta["md5"].upper()
        assert len(stimulus.audio().samples) == truth.samples[stimulus.meta["stim_name"]] == stimulus.length.samples
    twice = next(key for key in kept if len(kept[key]) == 14)
    assert numbers[twice] == [*range(10), *range(4)]


def test_one_area_only_and_no_sounds(tmp_path):
    truth = write_aa1(tmp_path)
    shutil.rmtree(tmp_path / "Field_L_cells")
    shutil.rmtree(tmp_path / "all_stims")
    survey, found, kept, *_ = read_all(AA1(tmp_path))
    assert kept == {key: trials for key, trials in seconds(truth).items() if key[0] != "gg0304_10_B"}
    assert all(s.audio is None and s.length.source == "last spike" for s in survey.stimuli)
    assert sum(f.what == "the wav is not there" for f in found) == 6  # the seventh has lost its only spike file
    assert any(f.file == "Field_L_cells" for f in found)


def test_a_wav_of_two_classes_is_one_stimulus(tmp_path):
    truth = write_aa1(tmp_path)
    song = next(wav for _, word, wav in truth.trials if word == "conspecific")
    write_pair(tmp_path / "Field_L_cells" / "gg0304_10_B" / "flatrip", 9, song, [[1.0]])
    survey, found, kept, *_ = read_all(AA1(tmp_path))
    assert len(kept["gg0304_10_B", song[:-4]]) == 11
    assert len(survey.stimuli) == 7
    assert any("played as flatrip, but as conspecific" in f.what and f.file.endswith("flatrip") for f in found)


def test_a_name_in_two_areas_and_an_unknown_area(tmp_path):
    write_aa1(tmp_path)
    shutil.copytree(tmp_path / "MLd_cells" / "blugr1612_2", tmp_path / "Field_L_cells" / "blugr1612_2")
    shutil.copytree(tmp_path / "MLd_cells" / "blugr1612_2", tmp_path / "Nowhere_cells" / "blugr1613_2")
    survey, found, kept, *_ = read_all(AA1(tmp_path))
    cells = {n.id: (n.meta["cell_id"], n.meta["area"]) for n in survey.neurons}
    assert cells["blugr1612_2"] == ("blugr1612_2", "Field_L")
    assert cells["blugr1612_2_MLd"] == ("blugr1612_2", "MLd")
    assert cells["blugr1613_2"] == ("blugr1613_2", "unknown")
    assert [t for (c, _), t in kept.items() if c == "blugr1612_2"] == [
        t for (c, _), t in kept.items() if c == "blugr1612_2_MLd"
    ]
    assert any("'Nowhere'" in f.what for f in found)


def test_about_says_what_the_cells_are(tmp_path):
    write_aa1(tmp_path)
    (tmp_path / "about.json").write_text(json.dumps({"species": "simulated zebra finch", "state": "simulated"}))
    survey, *_ = read_all(AA1(tmp_path))
    assert {(n.meta["species"], n.meta["sex"], n.meta["state"]) for n in survey.neurons} == {
        ("simulated zebra finch", "", "simulated")
    }
    for text in ("[1]", "{", "\xff"):
        (tmp_path / "about.json").write_text(text, "latin-1")
        survey, found, *_ = read_all(AA1(tmp_path))
        assert {n.meta["species"] for n in survey.neurons} == {"unknown"}
        assert any(f.file == "about.json" and f.severity == "error" for f in found)


def test_wrong_folder(tmp_path):
    with pytest.raises(RawDataError, match="Field_L_cells or MLd_cells"):
        AA1(tmp_path).survey(print)


def test_frame_and_bin_are_the_same_millisecond_at_the_end_of_a_long_sound(tmp_path):
    """At 24,414 Hz and dt 1 ms: a click every half second, and a spike at each click, up to 3 s."""
    rate, clicks = 24414, [1, 500, 1000, 1500, 2000, 2500, 2990]
    samples = np.zeros(3 * rate, np.int16)
    samples[[round((ms + 0.5) * rate / 1000) for ms in clicks]] = 30000
    (tmp_path / "raw" / "all_stims").mkdir(parents=True)
    wavfile.write(tmp_path / "raw" / "all_stims" / "clicks.wav", rate, samples)
    write_pair(tmp_path / "raw" / "MLd_cells" / "a_1" / "flatrip", 1, "clicks.wav", [[ms + 0.5 for ms in clicks]])
    flags = {"dt": 1, "jobs": 1, "window_ms": 3}
    ds = strfcube.open(strfcube.build("aa1", raw=tmp_path / "raw", out=tmp_path / "aa1.zarr", **flags)).compute()
    assert ds.sizes["time"] == 3000
    counts = ds["response"].values[0, 0, 0]
    level = ds["stimulus"].values[0].sum(0)
    assert np.flatnonzero(counts).tolist() == clicks
    louder = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:])
    assert (np.flatnonzero(louder) + 1).tolist() == clicks
