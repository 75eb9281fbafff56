"""The NS1 pipeline: against the writer's truth, against the original recordings, and on bad files."""

import math
import pickle

import numpy as np
import pytest
from scipy.io import loadmat, savemat, wavfile
from writers.ns1 import LEVELS, PARAMS, write_metadata, write_ns1

from strfcube.cube.schema import AREAS, NEURON_COORDS, STIM_CATEGORIES, STIM_COORDS
from strfcube.errors import RawDataError
from strfcube.pipelines.ns1 import DRC, NATURAL, NS1

SMALL = {"repeats": 4, "drc_repeats": 2, "clip_seconds": 0.2}
UNIT = "spikesandwav/exp57_L4x8/P06-SH_En_C.Lsh3/cluster.01.data.mat"


@pytest.fixture(autouse=True)
def _short_clips_are_usual(monkeypatch):
    monkeypatch.setattr("strfcube.pipelines.ns1._CLIP_TOLERANCE", 10.0)
    monkeypatch.setattr("strfcube.pipelines.ns1._SWEEP_SECONDS", (0.0, 10.0))


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return write_ns1(tmp_path_factory.mktemp("ns1"), units=8, fallback=(1,), missing=(2,), swapped=(5,), **SMALL)


@pytest.fixture
def one(tmp_path):
    """A raw folder of one unit, to be damaged."""
    return write_ns1(tmp_path, units=1, **SMALL)


def survey(raw, **options):
    findings = []
    return NS1(raw, **options).survey(findings.append), findings


def read(raw, source, **options):
    """Trials of one source, read by a pipeline that has not surveyed, as a worker does."""
    findings = []
    pipeline = pickle.loads(pickle.dumps(NS1(raw, **options)))
    return list(pipeline.read(pickle.loads(pickle.dumps(source)), findings.append)), findings


def per_trial(trials):
    """{clip: [times in s of each repeat]} of a unit's `Trials`; repeats are numbered from 1."""
    found = {}
    times = np.split(trials.spike_times, np.cumsum(trials.row_size)[:-1])
    for clip, repeat, spikes in zip(trials.stimuli, trials.repeats, times, strict=True):
        found.setdefault(clip, []).append(spikes)
        assert len(found[clip]) == repeat
    return found


def assert_equal_trials(trials, expected):
    """Same clips in the same order, same times; `expected` is {number of the clip: [times in ms]}."""
    found = per_trial(trials)
    assert list(found) == [clip(number) for number in expected]
    for number, repeats in expected.items():
        assert len(found[clip(number)]) == len(repeats)
        for a, b in zip(found[clip(number)], repeats, strict=True):
            np.testing.assert_array_equal(np.rint(a * 1e9), np.rint(np.asarray(b, float) * 1e6))


def clip(number):
    return f"nat{number:02d}" if number <= 20 else f"drc{number - 20:02d}"


def edit(raw, change, file=UNIT):
    """Load a unit file, change its ``data``, write it back."""
    data = loadmat(raw / file)["data"]
    savemat(raw / file, {"data": change(data)})


def without(struct, name):
    kept = [n for n in struct.dtype.names if n != name]
    slim = np.empty(struct.shape, [(n, object) for n in kept])
    for n in kept:
        slim[n] = struct[n]
    return slim


# --- synthetic files against the truth -------------------------------------------------------------------------------


def test_neurons(truth):
    found, _ = survey(truth.raw)
    there = [i for i in range(8) if i != 2]
    assert [n.id for n in found.neurons] == [truth.units[i] for i in there]
    assert [s.id for s in found.sources] == [n.source for n in found.neurons]
    for i, neuron in zip(there, found.neurons, strict=True):
        meta = neuron.meta
        assert set(NEURON_COORDS) < set(meta)
        assert meta["area"] in AREAS
        assert meta["cell_id"] == neuron.id
        assert meta["valid_unit"] is (truth.single[i] != "No" and truth.depth[i] >= 0)
        assert math.isnan(meta["depth"]) if truth.depth[i] < 0 else meta["depth"] == truth.depth[i]
        assert meta["noise_ratio"] == 3.25 + i
        assert (meta["single_t"], meta["n_electrodes"], meta["electrode"]) == (truth.single[i], 32, i + 1)
        assert meta["single_n"] == {"Yes": 2, "Maybe": 1, "No": 0}[truth.single[i]]
        assert meta["site"] == neuron.id.rpartition("/")[0]
        assert meta["group"] == neuron.id.split("/")[0]
    assert [n.meta["animal"] for n in found.neurons] == ["exp57", "E1", "exp42", "exp57", "E1", "exp45", "exp42"]


def test_stimuli(truth):
    found, _ = survey(truth.raw, drc=True)
    assert [s.id for s in found.stimuli] == [clip(number) for number in range(1, 33)]
    assert len({tuple(s.meta) for s in found.stimuli}) == 1
    for number, stimulus in enumerate(found.stimuli, 1):
        meta = stimulus.meta
        assert set(STIM_COORDS) - {"sound_onset", "sound_duration", "duration_source"} < set(meta)
        assert meta["stim_category"] in STIM_CATEGORIES
        assert meta["level_db"] == LEVELS[number - 1]
        assert tuple(meta[f"stim_{n}"] for n in ("source", "token", "set", "number")) == PARAMS[number - 1]
    for number, stimulus in enumerate(found.stimuli[:20], 1):
        audio = pickle.loads(pickle.dumps(stimulus.audio))()
        np.testing.assert_array_equal(audio.samples, truth.wavs[number])
        assert audio.samples.dtype == np.float32
        assert audio.rate == stimulus.length.rate == stimulus.meta["sample_rate"] == 48828.125
        assert stimulus.length.samples == len(truth.wavs[number]) == 9765 + (number > 16)
        assert stimulus.length.source == "wav"
        assert stimulus.meta["stim_file"].endswith(f".frozen.{PARAMS[number - 1][3]}")
    for stimulus in found.stimuli[20:]:
        assert stimulus.audio is None
        assert stimulus.spectrogram is None
        assert (stimulus.length.seconds, stimulus.length.source) == (5.0, "documentation")
        assert stimulus.meta["stim_type"] == stimulus.meta["stim_category"] == "drc"
    split = [s.meta["split"] for s in found.stimuli]
    assert [i for i, s in enumerate(split) if s == "test"] == [3, 6, 9, 19]
    assert split.count("train") == 16
    types = [s.meta["stim_type"] for s in found.stimuli]
    assert types[0] == types[19] == "water_sounds"
    assert (types[3], types[6], types[8:12]) == ("ferret_vocalization", "insects_buzzing", ["human_speech"] * 4)
    assert types.count("unknown") == 12


@pytest.mark.parametrize("drc", [False, True])
def test_trials_equal_the_truth(truth, drc):
    found, _ = survey(truth.raw, drc=drc)
    assert [s.id for s in found.stimuli] == [clip(n) for n in range(1, 33 if drc else 21)]
    for source in found.sources:
        unit = truth.units.index(source.id)
        (trials,), _ = read(truth.raw, source, drc=drc)
        expected = {n: repeats for n, repeats in truth.spikes[unit].items() if drc or n <= 20}
        if source.id == truth.units[5]:  # the sets 3 and 4 of this unit come in the other order
            expected = {n: expected[n] for n in [1, 2, 4, 3, *list(expected)[4:]]}
        assert_equal_trials(trials, expected)
        assert trials.neuron == source.id
        assert trials.start == 0.0
        np.testing.assert_array_equal(trials.stop, truth.sweep_ms[unit] / 1000)
        assert trials.files == truth.files[unit]


def test_quirks_of_a_trial(truth):
    """A silent trial is a trial; order, coincidences, edges and times after the sound are kept as they are."""
    found, _ = survey(truth.raw)
    (trials,), findings = read(truth.raw, found.sources[0])
    silent, unsorted, late, edge = per_trial(trials)["nat01"]
    assert silent.size == 0
    assert silent.dtype == np.float64
    np.testing.assert_allclose(unsorted, [0.07025, 0.015, 0.07075, 0.003], rtol=1e-15)
    np.testing.assert_allclose(late, [0.3205], rtol=1e-15)
    np.testing.assert_allclose(edge, [0.2], rtol=1e-15)
    assert not findings


def test_each_odd_unit_is_one_finding(truth):
    found, findings = survey(truth.raw)
    assert [(f.severity, f.file) for f in findings] == [("info", truth.files[1]), ("warning", truth.files[2])]
    assert truth.files[1].endswith("_1.mat")
    assert "left out" in findings[1].consequence
    reports = {s.id: read(truth.raw, s)[1] for s in found.sources}
    (moved,) = reports.pop(truth.units[5])
    assert "set 3 (nat04), 4 (nat03)" in moved.what
    assert moved.file == truth.files[5]
    assert not any(reports.values())


def test_drc_is_announced(truth):
    _, findings = survey(truth.raw, drc=True)
    assert [f.what for f in findings if f.severity == "info"][1:] == [
        "the release holds neither the sounds of the DRC clips nor their length"
    ]


# --- things that are wrong, and go on --------------------------------------------------------------------------------


def only(raw):
    found, _ = survey(raw)
    results, findings = read(raw, found.sources[0])
    (finding,) = findings
    assert finding.file == UNIT
    return results, finding


def test_set_of_no_known_clip_is_left_out(one):
    def change(data):
        data["set"][0, 0][0, 4]["stim_params"][0, 0]["StimID"] = np.array([[99]])
        return data

    edit(one.raw, change)
    found, _ = survey(one.raw)
    (trials,), (strange, absent) = read(one.raw, found.sources[0])
    assert "set 5 (Source, Token, Set, StimID = (1, 0, 2, 99))" in strange.what
    assert absent.what == "no trial of nat05"
    assert_equal_trials(trials, {n: r for n, r in one.spikes[0].items() if n <= 20 and n != 5})


@pytest.mark.parametrize("how", ["no field", "no StimID", "empty StimID"])
def test_set_without_stim_params_goes_by_position(one, how):
    def change(data):
        sets = data["set"][0, 0]
        if how == "no field":
            data["set"][0, 0] = without(sets, "stim_params")
        elif how == "no StimID":
            sets[0, 6]["stim_params"] = without(sets[0, 6]["stim_params"], "StimID")
        else:
            sets[0, 6]["stim_params"][0, 0]["StimID"] = np.empty((0, 0))
        return data

    edit(one.raw, change)
    (trials,), finding = only(one.raw)
    assert finding.what.startswith("no stim_params in set " + ("1, 2" if how == "no field" else "7"))
    assert_equal_trials(trials, {n: r for n, r in one.spikes[0].items() if n <= 20})


def test_a_set_too_many_is_left_out(one):
    def change(data):
        sets = without(data["set"][0, 0], "stim_params")
        data["set"][0, 0] = np.concatenate([sets, sets[:, :1]], axis=1)
        return data

    edit(one.raw, change)
    found, _ = survey(one.raw)
    (trials,), findings = read(one.raw, found.sources[0])
    assert [f.consequence for f in findings] == ["taken for the clip of that position", "these sets are left out"]
    assert_equal_trials(trials, {n: r for n, r in one.spikes[0].items() if n <= 20})


def test_set_without_repeats_was_never_presented(one):
    def change(data):
        data["set"][0, 0][0, 2]["repeats"] = np.empty((0, 0))
        return data

    edit(one.raw, change)
    (trials,), finding = only(one.raw)
    assert finding.what == "no trial of nat03"
    assert "nat03" not in trials.stimuli


def test_unit_without_any_trial(one):
    def change(data):
        for entry in data["set"][0, 0].ravel():
            entry["repeats"] = np.empty((0, 0))
        return data

    edit(one.raw, change)
    results, finding = only(one.raw)
    assert results == []
    assert "nat20" in finding.what


@pytest.mark.parametrize("how", ["no field", "empty"])
def test_window_is_nan_where_the_file_states_none(one, how):
    def change(data):
        if how == "no field":
            data["set"][0, 0] = without(data["set"][0, 0], "length_signal_ms")
        else:
            for entry in data["set"][0, 0].ravel():
                entry["length_signal_ms"] = np.empty((0, 0))
        return data

    edit(one.raw, change)
    (trials,), finding = only(one.raw)
    assert np.isnan(trials.stop).all()
    assert "length_signal_ms" in finding.what


def test_times_that_are_no_number_are_left_out(one):
    def change(data):
        data["set"][0, 0][0, 0]["repeats"]["t"][0, 1] = np.array([[20.0, np.nan, 10.0, np.inf]])
        return data

    edit(one.raw, change)
    (trials,), finding = only(one.raw)
    assert finding.what == "2 spike times are no finite number"
    expected = {n: list(r) for n, r in one.spikes[0].items() if n <= 20}
    expected[1][1] = [20.0, 10.0]
    assert_equal_trials(trials, expected)


def test_times_outside_the_sweep_are_kept(one):
    def change(data):
        data["set"][0, 0][0, 0]["repeats"]["t"][0, 1] = np.array([[-1.0, 10.0, 9999.0]])
        return data

    edit(one.raw, change)
    (trials,), finding = only(one.raw)
    assert finding.what == "2 spike times lie outside the recorded sweep"
    np.testing.assert_allclose(per_trial(trials)["nat01"][1], [-0.001, 0.01, 9.999])


def test_absent_wavs_are_one_finding(one):
    for number in (2, 20):
        (one.raw / NATURAL[number - 1].file).unlink()
    found, (finding,) = survey(one.raw)
    assert "fw.2.frozen.2, source.2" in finding.what
    assert finding.severity == "warning"
    for number in (2, 20):
        stimulus = found.stimuli[number - 1]
        assert stimulus.audio is None
        assert (stimulus.length.seconds, stimulus.length.source) == (5.0, "documentation")
        assert stimulus.meta["md5"] == ""
    assert len(read(one.raw, found.sources[0])[0][0].stimuli) == 80


@pytest.mark.parametrize("damage", [lambda wav: b"<html>not found</html>", lambda wav: wav[:-1000], lambda wav: b""])
def test_a_wav_that_is_no_whole_wav(one, damage):
    wav = one.raw / NATURAL[4].file
    wav.write_bytes(damage(wav.read_bytes()))
    found, (finding,) = survey(one.raw)
    assert (finding.severity, finding.file) == ("error", NATURAL[4].file)
    assert "RIFF" in finding.what
    assert found.stimuli[4].audio is None


def test_a_wav_of_another_rate_keeps_it(one):
    with (one.raw / NATURAL[4].file).open("wb") as handle:
        wavfile.write(handle, 44100, np.zeros(441, np.float32))
    found, (finding,) = survey(one.raw)
    assert "44100 Hz, expected 48828" in finding.what
    assert found.stimuli[4].audio().rate == found.stimuli[4].length.rate == 44100


@pytest.mark.parametrize("path", ["", "cluster.01.data.mat", "../../etc/cluster.01.data.mat", "/a/b/c.data.mat"])
def test_strange_path_in_the_table(one, path):
    write_metadata(one.raw, [path, UNIT.removeprefix("spikesandwav/")], [1, 2], ["Yes", "No"])
    found, (finding,) = survey(one.raw)
    assert [n.id for n in found.neurons] == list(one.units)
    assert "row 1" in finding.what


def test_backslashes_and_a_unit_named_twice(one):
    path = UNIT.removeprefix("spikesandwav/")
    write_metadata(one.raw, [path.replace("/", "\\"), path], [1, 2], ["Yes", "No"])
    found, (finding,) = survey(one.raw)
    assert [n.id for n in found.neurons] == list(one.units)
    assert "second time" in finding.what


def test_values_of_the_table_that_are_none_of_theirs(one):
    table = loadmat(one.raw / "MetadataSHEnCneurons.mat")["neuron"]
    table[0, 0]["depth"], table[0, 0]["singleT"] = np.array(["500 um"]), np.array(["yes"])
    savemat(one.raw / "MetadataSHEnCneurons.mat", {"neuron": table})
    found, (finding,) = survey(one.raw)
    assert finding.file == "MetadataSHEnCneurons.mat"
    assert finding.what.startswith("row 1 of 'neuron' has depth '500 um', singleT 'yes': expected numbers")
    (neuron,) = found.neurons
    assert np.isnan(neuron.meta["depth"])
    assert neuron.meta["valid_unit"] is False


def test_repeats_go_by_their_number(one):
    def turn(data):
        for place in range(3):
            sets = data["set"][0, 0]
            sets["repeats"][0, place] = sets["repeats"][0, place][:, ::-1]
        twice = data["set"][0, 0]["repeats"][0, 3]["repeat_id"]
        twice[0, 0] = twice[0, 1]
        return data

    before, _ = read(one.raw, survey(one.raw)[0].sources[0])
    edit(one.raw, turn)
    (after,), (finding,) = read(one.raw, survey(one.raw)[0].sources[0])
    assert finding.what == "a repeat_id comes twice in nat04"
    for name in ("spike_times", "row_size", "repeats"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before[0], name))


def test_times_in_more_than_one_row_are_refused(one):
    def widen(data):
        data["set"][0, 0]["repeats"][0, 0]["t"][0, 0] = np.array([[1.0, 2.0], [1.0, 1.0]])
        return data

    edit(one.raw, widen)
    with pytest.raises(RawDataError, match=r"expected a row of spike times in 't', found an array of shape \(2, 2\)"):
        read(one.raw, survey(one.raw)[0].sources[0])


# --- things that end it ----------------------------------------------------------------------------------------------


def test_no_table(tmp_path):
    with pytest.raises(RawDataError, match=r"MetadataSHEnCneurons.mat: expected this file, .* give the folder"):
        survey(tmp_path)


def test_another_table(one):
    savemat(one.raw / "MetadataSHEnCneurons.mat", {"neuron": {"path": "a", "depth": 1.0}})
    with pytest.raises(RawDataError, match="field 'NrOfElectrodes', found the fields path, depth"):
        survey(one.raw)


def test_no_folder_of_units(tmp_path):
    write_metadata(tmp_path, ["a/b/c.data.mat"], [1], ["Yes"])
    with pytest.raises(RawDataError, match=r"spikesandwav: .* unpack spikesandwav.zip"):
        survey(tmp_path)


def test_no_unit_is_there(one):
    (one.raw / UNIT).unlink()
    with pytest.raises(RawDataError, match="none of the 1 units"):
        survey(one.raw)


@pytest.mark.parametrize("file", ["MetadataSHEnCneurons.mat", UNIT])
def test_truncated_anywhere(one, file):
    found, _ = survey(one.raw)
    whole = (one.raw / file).read_bytes()
    for cut in sorted({0, 1, 100, 127, 128, 130, 136, *np.linspace(137, len(whole) - 1, 40).astype(int)}):
        (one.raw / file).write_bytes(whole[:cut])
        with pytest.raises(RawDataError, match=r"expected .*again") as error:
            survey(one.raw) if file != UNIT else read(one.raw, found.sources[0])
        assert error.value.file == str(one.raw / file)
        assert "\n" not in str(error.value)


def test_no_matlab_file(one):
    found, _ = survey(one.raw)
    for content in (b"\x89HDF\r\n\x1a\n" + bytes(600), b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600)):
        (one.raw / UNIT).write_bytes(content)
        with pytest.raises(RawDataError, match=r"expected a .*MATLAB file"):
            read(one.raw, found.sources[0])


@pytest.mark.parametrize("field", ["data", "set", "repeats", "t"])
def test_missing_field(one, field):
    found, _ = survey(one.raw)
    if field == "data":
        savemat(one.raw / UNIT, {"other": 1.0})
    elif field == "set":
        savemat(one.raw / UNIT, {"data": {"sets": 1.0}})
    elif field == "repeats":
        savemat(one.raw / UNIT, {"data": {"set": {"spikes": 1.0}}})
    else:

        def change(data):
            entry = data["set"][0, 0][0, 7]
            entry["repeats"] = without(entry["repeats"], "t")
            return data

        edit(one.raw, change)
    with pytest.raises(RawDataError, match=f"'{field}'") as error:
        read(one.raw, found.sources[0])
    assert error.value.file == str(one.raw / UNIT)


def test_missing_field_t_of_a_clip_that_is_not_wanted(one):
    """What is left out is not read."""

    def change(data):
        data["set"][0, 0][0, 25]["repeats"]["t"][0, 0] = np.array(["text"])
        return data

    edit(one.raw, change)
    found, _ = survey(one.raw)
    assert len(read(one.raw, found.sources[0])[0][0].stimuli) == 80
    with pytest.raises(RawDataError, match="expected spike times in 't', found <U4"):
        read(one.raw, found.sources[0], drc=True)


def test_file_gone_between_survey_and_read(one):
    found, _ = survey(one.raw)
    (one.raw / UNIT).unlink()
    with pytest.raises(RawDataError, match="expected this file"):
        read(one.raw, found.sources[0])


def test_table_of_clips_is_the_documented_one():
    assert [clip.key for clip in NATURAL + DRC] == PARAMS
    assert [clip.level_db for clip in NATURAL + DRC] == LEVELS
    assert NATURAL[1].file.endswith("source.1.sound.0.snr.0.token.0.fw.2.frozen.2")


# --- the original recordings -----------------------------------------------------------------------------------------


def test_real_recordings(real_data):
    """Every trial of every unit equals an independent reading, and the published figures come out."""
    raw = real_data / "ns1"
    found, findings = survey(raw, drc=True)
    assert len(found.neurons) == len(found.sources) == 119
    assert [f.severity for f in findings] == ["info"]
    assert sum(n.meta["valid_unit"] for n in found.neurons) == 73
    assert sum(math.isnan(n.meta["depth"]) for n in found.neurons) == 6
    assert {n.meta["animal"] for n in found.neurons} == {"E1", "exp42", "exp45", "exp53", "exp57"}
    assert [s.length.samples for s in found.stimuli[:20]] == [244140] * 16 + [244141] * 4
    for stimulus in found.stimuli[:20]:  # samples are in pascals
        level = 20 * np.log10(stimulus.audio().samples.std(dtype=float) / 20e-6)
        assert level == pytest.approx(stimulus.meta["level_db"], abs=0.05)
    n_trials = n_silent = n_spikes = n_late = 0
    for source in found.sources:
        (trials,), reports = read(raw, source, drc=True)
        assert not reports
        n_trials += len(trials.stimuli)
        n_silent += int(np.sum(trials.row_size == 0))
        n_spikes += len(trials.spike_times)
        n_late += int(np.sum(trials.spike_times >= 5))
        assert_equal_to_scipy(trials, raw / "spikesandwav" / f"{source.id}.data.mat")
    assert (n_trials, n_silent, n_spikes, n_late) == (54740, 103, 3627155, 103683)


def assert_equal_to_scipy(trials, path):
    """The pooled spikes of each set (``data.set.spikes``), which the pipeline does not read, hold the same times."""
    sets = loadmat(path, squeeze_me=True, struct_as_record=False)["data"].set
    start = np.concatenate([[0], np.cumsum(trials.row_size)])
    first = 0
    for number, (entry, params) in enumerate(zip(sets, PARAMS, strict=True), 1):
        n = len(entry.repeats)
        assert (entry.stim_params.Source, entry.stim_params.Token, entry.stim_params.Set) == params[:3]
        assert entry.stim_params.StimID == params[3]
        assert entry.stim_params.NominalLevel == LEVELS[number - 1]
        assert trials.stimuli[first : first + n] == [clip(number)] * n
        np.testing.assert_array_equal(trials.repeats[first : first + n], np.arange(1, n + 1))
        np.testing.assert_array_equal(trials.stop[first : first + n], entry.length_signal_ms / 1000)
        mine = trials.spike_times[start[first] : start[first + n]]
        repeat = np.repeat(trials.repeats[first : first + n], trials.row_size[first : first + n])
        theirs, ids = np.atleast_1d(entry.spikes.t) / 1000, np.atleast_1d(entry.spikes.repeat_id)
        np.testing.assert_array_equal(mine[np.lexsort((mine, repeat))], theirs[np.lexsort((theirs, ids))])
        np.testing.assert_array_equal(repeat, np.sort(ids))
        first += n
    assert first == len(trials.stimuli)


def test_cells_around_structs_and_text(one):
    expected, _ = survey(one.raw)
    (whole,), _ = read(one.raw, expected.sources[0])

    def cell(value):
        wrapped = np.empty((1, 1), object)
        wrapped[0, 0] = value
        return wrapped

    table = loadmat(one.raw / "MetadataSHEnCneurons.mat")["neuron"]
    table["path"][0, 0] = cell(f"{table['path'][0, 0][0]} ")
    savemat(one.raw / "MetadataSHEnCneurons.mat", {"neuron": cell(table)})
    data = loadmat(one.raw / UNIT)["data"]
    sets = data["set"][0, 0]
    for entry in sets.ravel():
        entry["repeats"], entry["stim_params"] = cell(entry["repeats"]), cell(entry["stim_params"])
    data["set"][0, 0] = cell(sets)
    savemat(one.raw / UNIT, {"data": cell(data)})
    found, _ = survey(one.raw)
    (trials,), _ = read(one.raw, found.sources[0])
    assert [n.meta for n in found.neurons] == [n.meta for n in expected.neurons]
    assert (trials.stimuli, trials.row_size.tolist()) == (whole.stimuli, whole.row_size.tolist())
    np.testing.assert_array_equal(trials.spike_times, whole.spike_times)


def test_a_release_in_a_folder_of_its_own_is_found(one, tmp_path):
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "ns1").symlink_to(one.raw)
    with pytest.raises(RawDataError, match=r"\(it lies in ns1: give that folder\)"):
        survey(tmp_path / "outer")
