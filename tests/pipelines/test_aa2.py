"""AA2: identity, pooling, holes, tables, and the real part of the set."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import xarray as xr
from writers.aa import RATE, spike_text, write_aa2, write_pair, write_wav

import strfcube
from strfcube.errors import RawDataError
from strfcube.pipelines.aa2 import AA2
from strfcube.records import Trial, Trials


def read_all(pipeline):
    """Survey, findings, and the spike times in s and original numbers of each pair, kept and rejected."""
    found, kept, numbers, rejected = [], {}, {}, []
    survey = pipeline.survey(found.append)
    for source in survey.sources:
        for item in type(pipeline)(pipeline.raw, **pipeline.settings).read(source, found.append):
            if isinstance(item, Trial):
                rejected.append(item)
                continue
            assert isinstance(item, Trials)
            assert np.isnan(item.start)
            last = np.full(len(item.row_size), -np.inf)
            np.maximum.at(last, np.repeat(np.arange(len(last)), item.row_size), item.spike_times)
            assert len(item.stop) == len(last)  # the end that is documented, unless a spike comes after it
            assert (np.isnan(item.stop) | (item.stop > last)).all()
            assert len(item.files) == len(item.stimuli) == len(item.row_size) == len(item.repeats)
            assert item.row_size.sum() == len(item.spike_times)
            ends = np.cumsum(item.row_size)
            for stimulus, number, size, end in zip(item.stimuli, item.repeats, item.row_size, ends, strict=True):
                kept.setdefault((item.neuron, stimulus), []).append(item.spike_times[end - size : end].tolist())
                numbers.setdefault((item.neuron, stimulus), []).append(int(number))
    return survey, found, kept, numbers, rejected


def seconds(truth):
    return {
        (cell, f"{word}/{wav[:-4]}"): [[t / 1000 for t in trial] for trial in trials]
        for (cell, word, wav), trials in truth.trials.items()
    }


@pytest.mark.parametrize("wrap", [False, True])
def test_every_trial_of_every_pair(tmp_path, wrap):
    truth = write_aa2(tmp_path, wrap=wrap)
    survey, found, kept, numbers, rejected = read_all(AA2(tmp_path))
    assert kept == seconds(truth)
    assert not rejected
    assert sum(trial == [] for trials in kept.values() for trial in trials) > 5
    twice = next(key for key in kept if key[0] == "gr0869_2" and len(kept[key]) == 14)
    assert numbers[twice] == [*range(10), *range(4)]
    assert {f.severity for f in found} == {"info", "warning"}
    assert [n.id for n in survey.neurons] == ["gr0869_2", "oo1220_6_B", "oo1712_4_A", "pupu2122_2_B"]
    assert len({s.id for s in survey.stimuli}) == len(survey.stimuli) == len({key[1] for key in kept})


def test_coordinates(tmp_path):
    truth = write_aa2(tmp_path)
    survey, *_ = read_all(AA2(tmp_path))
    neurons = {n.id: n.meta for n in survey.neurons}
    assert len({tuple(meta) for meta in neurons.values()}) == 1
    assert neurons["oo1712_4_A"] == {
        "cell_id": "oo1712_4_A", "animal": "oo1712", "species": "zebra finch", "area": "MLd", "region": "MLd",
        "area_label": "mld", "signal_type": "spikes", "units": "count", "cell_seq": 4.0, "rig": "A", "sex": "male",
        "state": "anaesthetised",
    }  # fmt: skip
    assert neurons["gr0869_2"]["area"] == neurons["gr0869_2"]["region"] == "unknown"
    assert neurons["gr0869_2"]["area_label"] == "None"
    assert neurons["gr0869_2"]["rig"] == ""
    assert (neurons["oo1220_6_B"]["area"], neurons["oo1220_6_B"]["region"]) == ("L2a", "Field_L")
    assert len({tuple(s.meta) for s in survey.stimuli}) == 1
    both = [s for s in survey.stimuli if s.meta["stim_name"] == next(iter(truth.samples))]
    assert [(s.meta["stim_type"], s.meta["stim_category"]) for s in both] == [
        ("conspecific", "song"),
        ("songrip", "song_ripple"),
    ]
    for stimulus in survey.stimuli:
        wav = stimulus.meta["stim_name"]
        assert stimulus.meta["md5"] == wav[:-4].lower()
        if wav in truth.samples:
            assert (stimulus.length.samples, stimulus.length.source) == (truth.samples[wav], "wav")
            assert len(stimulus.audio().samples) == truth.samples[wav]
            assert stimulus.meta["sample_rate"] == RATE
            assert stimulus.meta["bit_depth"] == 16


def test_a_sound_that_is_not_there(tmp_path):
    truth = write_aa2(tmp_path)
    survey, found, kept, *_ = read_all(AA2(tmp_path))
    silent = {s.meta["stim_name"]: s for s in survey.stimuli if s.audio is None}
    assert set(silent) == truth.missing
    assert {f.file for f in found if "wav is not there" in f.what} == {f"all_stims/{wav}" for wav in truth.missing}
    sources = {s.length.source: s for s in silent.values()}
    assert sources["table"].length.samples == 40000
    assert np.isnan(sources["last spike"].length.seconds)
    assert all(any(key[1] == s.id for key in kept) for s in silent.values())

    survey, found, kept, *_ = read_all(AA2(tmp_path, require_sound=True))
    assert all(s.audio is not None for s in survey.stimuli)
    assert kept == {key: trials for key, trials in seconds(truth).items() if key[1][-32:] + ".wav" in truth.samples}
    assert sum("left out (require_sound)" in f.consequence for f in found) == len(truth.missing)


def test_tables_are_optional_and_their_mistakes_are_named(tmp_path):
    truth = write_aa2(tmp_path, tables=False)
    survey, found, kept, *_ = read_all(AA2(tmp_path))
    assert kept == seconds(truth)
    assert {n.meta["area"] for n in survey.neurons} == {"unknown"}
    assert sum("the table is not there" in f.what for f in found) == 3
    warned = [f for f in found if f.severity == "warning" and f.file.endswith(".csv")]
    assert [(f.file, f.consequence) for f in warned] == [("cell_regions.csv", "the area of every cell is unknown")]

    wavs = list(truth.samples)
    (tmp_path / "cell_regions.csv").write_bytes(
        b"gr0869_2,OV\r\noo1220_6_B,Hippocampus\n\npupu2122_2_B\nzz_9,L1\n\0\xff,\ngr0869_2,CM\n"
    )
    (tmp_path / "cell_stim_classes.csv").write_text("gr0869_2,conspecific,songrip\n")
    (tmp_path / "stim_data.csv").write_text(f"{wavs[0]},{RATE},16,1,conspecific\n{wavs[1]},{RATE},16,many,x\n")
    survey, found, *_ = read_all(AA2(tmp_path))
    areas = {n.id: (n.meta["area"], n.meta["area_label"]) for n in survey.neurons}
    assert areas == {
        "gr0869_2": ("OV", "OV"), "oo1220_6_B": ("unknown", "Hippocampus"), "oo1712_4_A": ("unknown", ""),
        "pupu2122_2_B": ("unknown", ""),
    }  # fmt: skip
    told = {(f.file, f.line) for f in found if f.line}
    assert told == {
        ("cell_regions.csv", 2), ("cell_regions.csv", 4), ("cell_regions.csv", 5), ("cell_regions.csv", 7),
        ("cell_stim_classes.csv", 1), ("stim_data.csv", 1), ("stim_data.csv", 2),
    }  # fmt: skip
    assert next(s for s in survey.stimuli if s.meta["stim_name"] == wavs[0]).length.samples == truth.samples[wavs[0]]


def test_each_archive_may_be_unpacked_to_a_folder_of_its_own(tmp_path):
    truth = write_aa2(tmp_path / "whole")
    for folder, names in {
        "cells": ["all_cells"],
        "stims": ["all_stims"],
        "docs": ["cell_regions.csv", "cell_stim_classes.csv", "stim_data.csv"],
    }.items():
        place = tmp_path / "raw" / folder / "crcns" / "aa2"
        place.mkdir(parents=True)
        for name in names:
            (tmp_path / "whole" / name).rename(place / name)
    survey, found, kept, *_ = read_all(AA2(tmp_path / "raw"))
    assert kept == seconds(truth)
    assert {s.meta["stim_name"] for s in survey.stimuli if s.audio is None} == truth.missing
    assert {n.meta["area"] for n in survey.neurons} > {"MLd", "CM"}
    absent = [f.file for f in found if f.what == "the wav is not there"]
    assert sorted(absent) == sorted(f"stims/crcns/aa2/all_stims/{wav}" for wav in truth.missing)
    assert not any("table is not there" in f.what for f in found)


def test_what_is_still_packed_is_said(tmp_path):
    (tmp_path / "crcns-aa2-all_cells.tar.gz").write_bytes(b"")
    with pytest.raises(RawDataError, match=r"still packed, in crcns-aa2-all_cells\.tar\.gz"):
        AA2(tmp_path).survey(print)
    write_aa2(tmp_path, tables=False)
    (tmp_path / "all_stims").rename(tmp_path / "elsewhere")
    found = []
    AA2(tmp_path).survey(found.append)
    for name in ("all_stims", "cell_regions.csv"):
        (one,) = [f for f in found if f.file == name]
        assert (one.severity, "is it still packed" in one.what) == ("warning", True)


def test_wavs_that_no_cell_names_are_told(tmp_path):
    truth = write_aa2(tmp_path)
    unused = write_wav(tmp_path / "all_stims", 1000, 99)
    (tmp_path / "all_stims" / "readme.txt").write_text("no wav")
    _, found, *_ = read_all(AA2(tmp_path))
    (one,) = [f for f in found if "named by no cell" in f.what]
    there = {path.name for path in (tmp_path / "all_stims").glob("*.wav")}
    named = {wav for _, _, wav in truth.trials}
    assert unused in there - named
    assert (one.severity, one.what.split()[0]) == ("info", str(len(there - named)))


def test_a_table_that_was_saved_again(tmp_path):
    truth = write_aa2(tmp_path)
    table = tmp_path / "cell_regions.csv"
    before = {n.id: n.meta["area"] for n in AA2(tmp_path).survey(print).neurons}
    rows = ['"{}" , "{}"'.format(*line.split(",")) for line in table.read_text().splitlines()]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*rows, "", ""]).encode())
    survey, _, kept, *_ = read_all(AA2(tmp_path))
    assert {n.id: n.meta["area"] for n in survey.neurons} == before
    assert kept == seconds(truth)


def test_a_table_that_is_none_and_a_cell_without_a_pair(tmp_path):
    write_aa2(tmp_path)
    (tmp_path / "stim_data.csv").write_bytes(b'A.wav,"' + b"\0\xff" * 100_000)
    (tmp_path / "cell_stim_classes.csv").write_bytes(b"\xff" * 1000 + b",x" * 1000)
    (tmp_path / "stim_data.csv").with_name("cell_regions.csv").write_bytes(b"")
    (cell,) = (tmp_path / "all_cells").glob("oo1712_4_A")
    for stim in cell.glob("*/stim*"):
        stim.write_bytes(b"")
    survey, found, *_ = read_all(AA2(tmp_path))
    assert cell.name not in {n.id for n in survey.neurons}
    (told,) = [f for f in found if f.file == f"all_cells/{cell.name}" and "pair" in f.what]
    assert told.consequence == "the cell is left out"
    (told,) = [f for f in found if f.file == "stim_data.csv" and f.severity == "error"]
    assert told.consequence == "the rest is not used"
    assert max(len(f.what) for f in found) < 300


def test_damage_is_named_by_file_and_line_and_the_rest_is_read(tmp_path):
    truth = write_aa2(tmp_path)
    cells = tmp_path / "all_cells"
    whole = seconds(truth)
    pair = next(key for key in whole if key[0] == "oo1712_4_A")
    lines = (cells / "oo1712_4_A" / "conspecific" / "spike1").read_bytes().split(b"\n")
    lines[4] = b"12.5 3x4 99.0 "
    (cells / "oo1712_4_A" / "conspecific" / "spike1").write_bytes(b"\n".join(lines))
    (cells / "oo1220_6_B" / "conspecific" / "spike1").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (cells / "oo1220_6_B" / "conspecific" / "spike2").write_bytes(b"")
    (cells / "pupu2122_2_B" / "conspecific" / "spike2").write_bytes(b"<html>\n\n<p>Log in to go on</p>\n</html>\n")
    (cells / "empty_1_A").mkdir()
    (cells / "pupu2122_2_B" / "odd").mkdir()
    (cells / "pupu2122_2_B" / "readme.txt").write_text("x")
    write_pair(cells / "pupu2122_2_B" / "noise", 1, next(iter(truth.samples)), [[1.0]])
    bad_wav = tmp_path / "all_stims" / list(truth.samples)[3]
    bad_wav.write_bytes(bad_wav.read_bytes()[:3000])

    survey, found, kept, numbers, rejected = read_all(AA2(tmp_path))
    kept_of_cell = whole[pair][:4] + whole[pair][5:]
    assert kept[pair] == kept_of_cell
    assert numbers[pair] == [0, 1, 2, 3, *range(5, 14)]
    (trial,) = rejected
    assert (trial.repeat, trial.spike_times.tolist(), trial.rejected_by) == (4, [0.0125, 0.099], "malformed number")
    lost = {("oo1220_6_B", 55105), ("oo1220_6_B", 37368), ("oo1220_6_B", 81714), ("pupu2122_2_B", 37368)}
    sizes = {wav[:-4]: n for wav, n in truth.samples.items()}
    gone = {(cell, sizes.get(stim.split("/")[1])) for cell, stim in set(whole) - set(kept)}
    assert gone <= lost
    assert {key: t for key, t in kept.items() if key != pair and key[1][:5] != "noise"} == {
        key: t for key, t in whole.items() if key in kept and key != pair
    }
    errors = {(f.file, f.line) for f in found if f.severity == "error"}
    assert errors == {
        ("all_cells/oo1712_4_A/conspecific/spike1", 5), ("all_cells/oo1220_6_B/conspecific/spike1", 1),
        ("all_cells/pupu2122_2_B/conspecific/spike2", 1), (f"all_stims/{bad_wav.name}", 0),
    }  # fmt: skip
    warned = {f.file for f in found if f.severity == "warning"}
    assert {"all_cells/oo1220_6_B/conspecific/spike2", "all_cells/empty_1_A", "all_cells/pupu2122_2_B/odd",
            "all_cells/pupu2122_2_B/noise"} <= warned  # fmt: skip
    assert {"all_cells/pupu2122_2_B"} <= {f.file for f in found if f.severity == "info"}
    noise = next(s for s in survey.stimuli if s.meta["stim_type"] == "noise")
    assert noise.meta["stim_category"] == "unknown"


def test_a_wav_in_another_spelling_is_the_same_stimulus(tmp_path):
    truth = write_aa2(tmp_path)
    for file in (tmp_path / "all_cells" / "oo1712_4_A").rglob("stim*"):
        file.write_text("\ufeff" + file.read_text().lower().replace(".wav", ".WAV"), "utf-8")
    spikes = tmp_path / "all_cells" / "oo1712_4_A" / "conspecific" / "spike1"
    spikes.write_bytes(b"\xef\xbb\xbf" + spikes.read_bytes())
    survey, _, kept, _, _ = read_all(AA2(tmp_path))
    assert kept == seconds(truth)
    assert len(survey.stimuli) == len({stimulus for _, stimulus in kept})


def test_pairs_that_are_named_in_another_way_are_a_warning(tmp_path):
    write_aa2(tmp_path)
    folder = tmp_path / "all_cells" / "oo1712_4_A" / "conspecific"
    for word in ("stim", "spike"):
        (folder / f"{word}1").rename(folder / f"{word}01")
    (told,) = [f for f in read_all(AA2(tmp_path))[1] if f.file == "all_cells/oo1712_4_A/conspecific"]
    assert (told.severity, told.what) == ("warning", "expected stim<k> and spike<k>, found spike01, stim01")


def test_a_blank_line_at_the_end_is_told(tmp_path):
    write_aa2(tmp_path)
    file = tmp_path / "all_cells" / "pupu2122_2_B" / "songrip" / "spike2"
    before = read_all(AA2(tmp_path))[1]
    file.write_bytes(file.read_bytes() + b"\n")
    (told,) = [f for f in read_all(AA2(tmp_path))[1] if f not in before]
    lines = file.read_bytes().count(b"\n")
    assert (told.severity, told.file, told.line) == ("warning", file.relative_to(tmp_path).as_posix(), lines)
    assert told.what == f"{lines} lines, where the cell's files usually have {lines - 1}, and the last is empty"


def test_folders_and_tables_in_another_spelling(tmp_path):
    truth = write_aa2(tmp_path)
    expected = AA2(tmp_path).survey(lambda finding: None)
    for path in (*tmp_path.glob("*.csv"), tmp_path / "all_stims"):
        path.rename(tmp_path / path.name.upper())
    survey, found, kept, _, _ = read_all(AA2(tmp_path))
    assert kept == seconds(truth)
    assert [n.meta for n in survey.neurons] == [n.meta for n in expected.neurons]
    assert [s.length for s in survey.stimuli] == [s.length for s in expected.stimuli]
    assert not [f for f in found if "not there" in f.what and f.file in ("ALL_STIMS", "all_stims")]


def damage(rng, path):
    """Do to a file what disks, editors and failed downloads do."""
    content = path.read_bytes()
    at = int(rng.integers(len(content) + 1))
    other = [b"", content[:at], content[:at] + rng.bytes(8) + content[at:], content[:at] + b"x,\r" + content[at:],
             b"<html>\n<body>Log in</body>\n</html>\n"]  # fmt: skip
    choice = int(rng.integers(len(other) + 1))
    path.unlink()
    if choice < len(other):
        path.write_bytes(other[choice])


@pytest.mark.parametrize("seed", range(15))
def test_damage_anywhere_is_reported_and_stays_where_it_is(tmp_path, seed):
    truth = seconds(write_aa2(tmp_path))
    _, before, *_ = read_all(AA2(tmp_path))
    rng = np.random.default_rng(seed)
    cell = str(rng.choice(["gr0869_2", "oo1712_4_A", "pupu2122_2_B"]))
    files = sorted([*tmp_path.glob(f"all_cells/{cell}/*/s*"), *tmp_path.glob("all_stims/*"), *tmp_path.glob("*.csv")])
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    damage(rng, path)
    _, found, kept, *_ = read_all(AA2(tmp_path))
    assert {k: t for k, t in kept.items() if k[0] != cell} == {k: t for k, t in truth.items() if k[0] != cell}
    changed = {k for k in {*kept, *truth} if kept.get(k) != truth.get(k)}
    if changed and path.exists() and path.read_bytes() != content[: path.stat().st_size]:  # a cut is not always seen
        assert any(path.name in f.file for f in set(found) - set(before))
    if path.suffix in (".wav", ".csv"):
        assert not changed


def test_a_stimulus_in_another_rate_and_depth(tmp_path):
    wav = write_wav(tmp_path / "all_stims", 24414, 1, rate=24414)
    write_pair(tmp_path / "all_cells" / "strange" / "flatrip", 1, wav.lower(), [[1.0]])
    survey, found, *_ = read_all(AA2(tmp_path))
    assert survey.stimuli[0].length.seconds == 1.0
    assert survey.neurons[0].meta["animal"] == "strange"
    assert np.isnan(survey.neurons[0].meta["cell_seq"])
    assert any("<bird>_<number>" in f.what for f in found)


def test_nothing_to_build(tmp_path):
    with pytest.raises(RawDataError, match="expected the folder all_cells"):
        AA2(tmp_path).survey(print)
    (tmp_path / "all_cells" / "gr0869_2").mkdir(parents=True)
    with pytest.raises(RawDataError, match="pairs of stim"):
        AA2(tmp_path).survey(lambda finding: None)


def test_real_part(real_data):
    """Spike times equal an independent parse; the findings name exactly the wavs that are missing."""
    raw = real_data / "aa2"
    survey, found, kept, _, rejected = read_all(AA2(raw))
    independent: dict = {}
    for stim in raw.glob("all_cells/*/*/stim*"):
        spikes = stim.with_name(stim.name.replace("stim", "spike"))
        key = (stim.parts[-3], f"{stim.parts[-2]}/{stim.read_text().split('.')[0]}")
        assert key not in independent
        independent[key] = [[float(t) / 1000 for t in line.split()] for line in spikes.read_text().split("\n")[:-1]]
    assert kept == independent
    assert not rejected
    assert sum(map(len, kept.values())) == 1720
    assert sum(len(trial) for trials in kept.values() for trial in trials) == 126869
    named = {s.meta["stim_name"] for s in survey.stimuli}
    there = {path.name for path in raw.glob("all_stims/*")}
    assert sorted(f.file for f in found) == sorted(f"all_stims/{wav}" for wav in named - there)
    assert len(found) == 25
    assert Counter(n.meta["area"] for n in survey.neurons) == {"MLd": 2, "OV": 1, "L2a": 1}
    lengths = {s.meta["stim_name"]: s.length.samples for s in survey.stimuli}
    assert lengths["058767E725C83836F405A97FD7D1E751.wav"] == 62144


def test_text_of_the_writer_is_that_of_the_real_files(real_data):
    path = real_data / "aa2" / "all_cells" / "pupi0414_1" / "conspecific" / "spike1"
    trials = [[float(t) for t in line.split()] for line in path.read_text().split("\n")[:-1]]
    assert spike_text(trials) == path.read_bytes()


def test_cube(tmp_path):
    """Counts, coordinates, rejected trials and findings arrive in the cube."""
    truth = write_aa2(tmp_path / "raw")
    spoiled = tmp_path / "raw" / "all_cells" / "oo1712_4_A" / "conspecific" / "spike1"
    lines = spoiled.read_bytes().split(b"\n")
    spoiled.write_bytes(b"\n".join([*lines[:4], b"12.5 x", *lines[5:]]))
    store = strfcube.build("aa2", raw=tmp_path / "raw", dt=5, out=tmp_path / "aa2.zarr", jobs=1)
    ds = strfcube.open(store).compute()
    for (cell, word, wav), trials in truth.trials.items():
        stim, spoilt = f"{word}/{wav[:-4]}", cell == "oo1712_4_A"
        pair = ds.sel(neuron=cell, stim=stim)
        kept = [t for i, t in enumerate(trials) if not (spoilt and i == 4)]
        assert (pair["n_repeats"], pair["n_rejected"]) == (len(kept), spoilt)
        bins = int(pair["n_bins"])
        if wav in truth.samples:
            assert bins == (truth.samples[wav] - 1) * 200 // RATE + 1
            assert np.isfinite(pair["stimulus"].values[:, :bins]).all()
        else:
            assert not np.isfinite(pair["stimulus"].values).any()
        for repeat, trial in enumerate(kept):
            at = np.array([round(t * 1000) // 5000 for t in trial], int)
            expected = np.bincount(at[(at >= 0) & (at < bins)], minlength=bins)
            assert pair["response"].values[repeat, :bins].tolist() == expected.tolist()
    assert int((ds["n_repeats"] > 0).sum()) == len(truth.trials)
    findings = xr.open_datatree(store, engine="zarr")["findings"]
    assert "all_cells/oo1712_4_A/conspecific/spike1" in findings["file"].values.tolist()


def test_part_of_the_cube(tmp_path):
    write_aa2(tmp_path / "raw")
    build = partial(strfcube.build, "aa2", raw=tmp_path / "raw", dt=5, jobs=1)
    ds = strfcube.open(build(out=tmp_path / "1.zarr", only={"area": "MLd"}))
    assert ds["neuron"].values.tolist() == ["oo1712_4_A"]
    ds = strfcube.open(build(out=tmp_path / "2.zarr", only={"stim_type": "songrip"}, require_sound=True))
    assert set(ds["stim_type"].values.tolist()) == {"songrip"}
    assert ds.sizes["stim"] == 1


def test_recordings_end_where_the_documentation_says(tmp_path):
    """4 s from onset; a trial with a later spike went on for longer, and nobody knows for how long."""
    write_aa2(tmp_path / "raw")
    spike = next(iter(sorted((tmp_path / "raw" / "all_cells").rglob("conspecific/spike1"))))
    first, *others = spike.read_text().splitlines()
    spike.write_text("\n".join([f"{first}4100.000 ", *others, ""]))
    path = strfcube.build("aa2", raw=tmp_path / "raw", out=tmp_path / "cube.zarr", post=5000, jobs=1)
    trials = xr.open_zarr(path, group="trials", decode_times=False).load()
    stop = trials["window_stop"].values
    assert np.isnan(trials["window_start"].values).all()
    assert np.isnan(stop).sum() == 1
    assert set(stop[~np.isnan(stop)]) == {4.0}
    ds = strfcube.open(path)
    seen = ds["response"].notnull().any("repeat")
    presented = ds["n_repeats"] > 0
    assert (seen.sel(time=3.995) == presented).all()
    assert int(seen.sel(time=4.0).sum()) == 1
    said = [str(v) for v in xr.open_zarr(path, group="findings")["what"].values]
    assert sum("(post)" in what for what in said) == 2
