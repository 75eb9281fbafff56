"""The AA4 pipeline: against the writer's truth, at the TDT rate, and on bad files."""

import hashlib
import math
import pickle
import shutil

import h5py
import numpy as np
import pytest
from scipy.io import wavfile
from writers.aa4 import RATE, write_aa4, write_stim, write_trial, write_wav

import strfcube
from strfcube.cube.schema import AREAS, NEURON_COORDS, STIM_CATEGORIES, STIM_COORDS
from strfcube.errors import RawDataError, UsageError
from strfcube.grid import bin_of, n_bins, seconds_to_ns
from strfcube.pipelines.aa4 import AA4, TDT_RATE
from strfcube.sound.spectrogram import Mel, compute, resolve

ANIMAL = "LblBlu2028M"
STEM = "Site1_L1400R1400_e10_s0_ss1"
UNIT = f"{ANIMAL}/{STEM}"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    raw = tmp_path_factory.mktemp("aa4")
    return write_aa4(raw) | {"raw": raw}


@pytest.fixture
def one(tmp_path):
    """A raw folder of one unit with two stimuli of three trials each, to be damaged."""
    write_unit(tmp_path)
    return tmp_path


def write_unit(raw, stem=STEM, animal=ANIMAL, numbers=(1, 2), **attrs):
    path = raw / animal / f"{stem}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["sortType"] = "single"
        for number in numbers:
            md5 = write_wav(raw / animal / "wavfiles" / f"stim{number}.wav", 0.1, number)
            known = {"stim_md5": md5, "stim_type": "song", "stim_duration": round(0.1 * RATE) / RATE}
            write_stim(file.require_group("Call1"), number, [[0.01, 0.02], [], [0.03]], **(known | attrs))
    return path


def survey(raw, **options):
    findings = []
    return AA4(raw, **options).survey(findings.append), findings


def read(raw, source, **options):
    """Trials of one source, read by a pipeline that has not surveyed, as a worker does."""
    findings = []
    pipeline = pickle.loads(pickle.dumps(AA4(raw, **options)))
    return list(pipeline.read(pickle.loads(pickle.dumps(source)), findings.append)), findings


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def spikes_of(trials):
    return np.split(trials.spike_times, np.cumsum(trials.row_size)[:-1])


def only(findings, severity, file):
    """The one finding of that severity; its file is as expected."""
    chosen = [f for f in findings if f.severity == severity]
    assert len(chosen) == 1, findings
    assert chosen[0].file == file
    return chosen[0].what


# --- synthetic files against the truth -------------------------------------------------------------------------------


def test_survey_gives_the_units_of_the_truth(truth):
    found, _ = survey(truth["raw"])
    keys = ("sex", "site", "electrode", "ldepth", "rdepth", "sort_type", "sort_id", "subsort_id")
    assert {n.id for n in found.neurons} == set(truth["units"])
    for neuron in found.neurons:
        np.testing.assert_equal(tuple(neuron.meta[key] for key in keys), truth["units"][neuron.id])
        assert set(NEURON_COORDS) <= set(neuron.meta)
        assert neuron.meta["animal"] + "/" + neuron.meta["cell_id"] == neuron.id
        assert neuron.meta["area"] == neuron.meta["region"] == "unknown"
        assert "unknown" in AREAS
    assert len({tuple(n.meta) for n in found.neurons}) == 1


def test_survey_gives_the_stimuli_of_the_truth(truth):
    found, _ = survey(truth["raw"])
    assert len(found.stimuli) == len({s.id for s in found.stimuli}) == len(truth["stimuli"])
    for stimulus in found.stimuli:
        known = truth["stimuli"][stimulus.id]
        assert set(STIM_COORDS[:3]) <= set(stimulus.meta)
        assert stimulus.meta["stim_type"] == known["type"]
        assert stimulus.meta["stim_category"] == known["category"]
        assert known["category"] in STIM_CATEGORIES
        assert stimulus.meta["md5"] == stimulus.meta["stim_name"] == stimulus.id
        assert stimulus.meta["call_id"] == ("Be" if known["type"] == "call" else "")
        assert (stimulus.audio is not None) == known["sound"]
        assert stimulus.length.source == ("wav" if known["sound"] else "attribute")
        assert stimulus.length.seconds == pytest.approx(known["seconds"], abs=1e-4)
    assert len({tuple(s.meta) for s in found.stimuli}) == 1


def test_every_trial_equals_the_truth(truth):
    found, _ = survey(truth["raw"])
    seen = {}
    for source in found.sources:
        (trials,), findings = read(truth["raw"], source)
        assert findings == []
        assert trials.neuron == source.id
        for stimulus, spikes in zip(trials.stimuli, spikes_of(trials), strict=True):
            seen.setdefault((trials.neuron, stimulus), []).append(spikes)
    assert set(seen) == set(truth["trials"])
    for pair, expected in truth["trials"].items():
        assert len(seen[pair]) == len(expected)
        for a, b in zip(seen[pair], expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_silent_trials_and_silent_pairs_stay(truth):
    silent = [pair for pair, trials in truth["trials"].items() if not any(len(t) for t in trials)]
    assert len(silent) == 1
    found, _ = survey(truth["raw"])
    source = next(s for s in found.sources if s.id == silent[0][0])
    (trials,), _ = read(truth["raw"], source)
    mine = np.array([s == silent[0][1] for s in trials.stimuli])
    assert mine.sum() == 10
    assert trials.row_size[mine].sum() == 0


def test_trials_are_in_numeric_order_and_protocols_pool(truth):
    found, _ = survey(truth["raw"])
    neuron = "BlaBro09xxF/Site1_L1400R1500_e3_s1"
    (trials,), _ = read(truth["raw"], next(s for s in found.sources if s.id == neuron))
    repeats = [int(r) for r, s in zip(trials.repeats, trials.stimuli, strict=True) if s == truth["md5"]["callA"]]
    assert repeats == [*range(1, 12), *range(1, 12)]


def test_findings_name_what_is_missing_or_left_out(truth):
    _, findings = survey(truth["raw"])
    assert {(f.severity, f.file) for f in findings} == {
        ("warning", "BlaBro09xxF/wavfiles/stim7.wav"),  # nowhere
        ("info", "BlaBro09xxF/wavfiles/stim10.wav"),  # with the other animal
        ("info", ANIMAL),  # sort types
        ("info", ""),  # a type that is no song, call or mlnoise
    }
    text = " ".join(f.what for f in findings if f.file == ANIMAL)
    for unit in truth["dropped"]:
        assert unit.split("/")[1] in text


def test_sort_types_can_be_chosen(truth):
    found, _ = survey(truth["raw"], sort_types="tdt, noise")
    assert {n.id for n in found.neurons} == set(truth["dropped"])
    assert {n.meta["sort_type"] for n in found.neurons} == {"tdt", "noise"}
    for words in ("", "good", "single,good"):
        with pytest.raises(UsageError, match="sort_types"):
            AA4(truth["raw"], sort_types=words)


def test_one_animals_folder_will_do(truth):
    found, _ = survey(truth["raw"] / ANIMAL)
    assert {n.id for n in found.neurons} == {u for u in truth["units"] if u.startswith(ANIMAL)}
    (trials,), _ = read(truth["raw"] / ANIMAL, found.sources[0])
    assert trials.files == found.sources[0].id.split("/")[1] + ".h5"


def test_the_cube_equals_the_truth(truth, tmp_path):
    path = strfcube.build("aa4", raw=truth["raw"], dt=5, out=tmp_path / "aa4.zarr", jobs=1)
    ds = strfcube.open(path).load()
    assert {str(n) for n in ds.neuron.values} == set(truth["units"])
    assert {str(s) for s in ds.stim.values} == set(truth["stimuli"])
    assert int((ds.n_repeats > 0).sum()) == len(truth["trials"])
    for (neuron, stim), expected in truth["trials"].items():
        pair = ds.sel(neuron=neuron, stim=stim)
        bins = int(pair.n_bins)
        assert bins == math.ceil(truth["stimuli"][stim]["seconds"] / 0.005 - 1e-3)
        edges = np.arange(bins + 1) * 5_000_000
        counts = [np.histogram(np.rint(t * 1e9), edges)[0] for t in expected]
        found = pair.response.values
        np.testing.assert_array_equal(found[: len(counts), :bins], counts)
        assert np.isnan(found[len(counts) :]).all()
        assert np.isnan(found[:, bins:]).all()
        assert np.isfinite(pair.stimulus.values[:, :bins]).all() == truth["stimuli"][stim]["sound"]


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("millisecond", [0, 7, 1500, 2990, 2999])
def test_frame_and_bin_are_the_same_millisecond(tmp_path, millisecond):
    path = write_unit(tmp_path, numbers=[1])
    samples = np.zeros(3 * RATE + 1, np.int16)
    click = round((millisecond + 0.5) / 1000 * TDT_RATE)
    samples[click] = 20000
    wavfile.write(tmp_path / ANIMAL / "wavfiles" / "stim1.wav", RATE, samples)
    with h5py.File(path, "r+") as file:
        write_trial(file["Call1/1"], 4, [click / TDT_RATE])
        file["Call1/1"].attrs["stim_duration"] = len(samples) / RATE
        file["Call1/1"].attrs["stim_md5"] = md5_of(tmp_path / ANIMAL / "wavfiles" / "stim1.wav")
    found, findings = survey(tmp_path)
    assert findings == []
    (stimulus,) = found.stimuli
    audio = stimulus.audio()
    assert audio.rate == stimulus.meta["sample_rate"] == 24414.0625
    frames = n_bins(stimulus.length, 1_000_000)
    assert frames == 3000
    values = compute(resolve(Mel(), audio.rate), audio, frames, 1_000_000)
    (trials,), _ = read(tmp_path, found.sources[0])
    assert int(values.sum(0).argmax()) == millisecond
    assert bin_of(seconds_to_ns(spikes_of(trials)[-1]), 1_000_000).tolist() == [millisecond]


def test_other_rates_are_taken_as_they_are(truth):
    found, _ = survey(truth["raw"])
    rates = {s.id: s.meta["sample_rate"] for s in found.stimuli}
    assert rates[truth["md5"]["noise"]] == 44100
    assert rates[truth["md5"]["songA"]] == TDT_RATE
    assert math.isnan(rates[truth["md5"]["lost"]])


def test_window_is_half_the_pauses_around_the_sound(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        write_trial(file["Call1/2"], 4, [0.05], pre=0.0, post=0.0)
        write_trial(file["Call1/2"], 5, [0.05], pre=None)
        file["Call1/2"].create_group("6").attrs["pre_time"] = np.array([0.25])
        file["Call1/2/6/spike_times"] = [0.05]
    found, _ = survey(one)
    (trials,), _ = read(one, found.sources[0])
    seconds = found.stimuli[0].length.seconds
    nan = math.nan
    np.testing.assert_allclose(trials.start, [-1] * 6 + [nan, nan, -0.25])
    np.testing.assert_allclose(trials.stop, [seconds + 0.5] * 6 + [nan, nan, nan])


def test_the_wavs_length_wins(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file["Call1/1"].attrs["stim_duration"] = 0.5
    found, findings = survey(one)
    assert "0.5 s" in only(findings, "warning", f"{ANIMAL}/wavfiles/stim1.wav")
    assert found.stimuli[0].length.seconds == pytest.approx(0.1, abs=1e-4)


def test_a_stated_length_gives_the_bins_of_the_wav(one):
    with_wav = survey(one)[0].stimuli[0].length
    (one / ANIMAL / "wavfiles" / "stim1.wav").unlink()
    stated = survey(one)[0].stimuli[0].length
    assert (with_wav.source, stated.source) == ("wav", "attribute")
    for dt_ns in (1_000_000, 5_000_000):
        assert n_bins(with_wav, dt_ns) == n_bins(stated, dt_ns) == 100_000_000 // dt_ns
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file["Call1/1"].attrs["stim_duration"] = 0.1234567
    assert survey(one)[0].stimuli[0].length.seconds == 0.1234567


def test_a_length_that_nothing_states_is_unknown(one):
    (one / ANIMAL / "wavfiles" / "stim1.wav").unlink()
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        del file["Call1/1"].attrs["stim_duration"]
    found, findings = survey(one)
    assert "no wav" in only(findings, "warning", f"{ANIMAL}/wavfiles/stim1.wav")
    assert math.isnan(found.stimuli[0].length.seconds)
    (trials,), _ = read(one, found.sources[0])
    assert np.isnan(trials.stop[:3]).all()


# --- the format's variants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "ids", "expected"),
    [
        (-999, -999, []),
        ([-999], [-999], []),
        (-999.0, [3], []),
        ([0.5], -999, []),  # the lab's reader goes by the ids
        (None, -999, []),
        ([], [], []),
        (h5py.Empty("f8"), h5py.Empty("i8"), []),
        ([0.5], [7], [0.5]),
        ([0.5], None, [0.5]),
        (0.5, 7, [0.5]),
        ([[0.1, 0.2]], [[1, 2]], [0.1, 0.2]),
        (np.array([0.5, -0.25], np.float32), [1, 2], [0.5, -0.25]),
    ],
)
def test_forms_of_a_trial(one, times, ids, expected):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        trial = file["Call1/2"].create_group("10")
        for name, value in (("spike_times", times), ("spike_ids", ids)):
            if value is not None:
                trial[name] = value
    found, _ = survey(one)
    (trials,), findings = read(one, found.sources[0])
    assert findings == []
    assert trials.repeats.tolist() == [1, 2, 3, 1, 2, 3, 10]
    assert spikes_of(trials)[-1].tolist() == expected


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_new_and_old_file_versions_and_compressed_datasets(one, version):
    path = one / ANIMAL / f"{STEM}.h5"
    times = np.random.default_rng(0).uniform(-1, 1, 100_000)
    with h5py.File(path, "r") as old, h5py.File(one / "new", "w", libver=version) as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value
        old.copy("Call1", new)
        del new["Call1/2/3/spike_times"]
        new["Call1/2/3"].create_dataset("spike_times", data=times, chunks=(1000,), compression="gzip")
    shutil.move(one / "new", path)
    found, _ = survey(one)
    (trials,), _ = read(one, found.sources[0])
    assert trials.row_size.tolist() == [2, 0, 1, 2, 0, 100_000]
    np.testing.assert_array_equal(spikes_of(trials)[-1], times)


def test_a_sound_under_two_numbers_is_more_trials(one):
    (one / ANIMAL / "wavfiles" / "stim10.wav").write_bytes((one / ANIMAL / "wavfiles" / "stim2.wav").read_bytes())
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file.copy("Call1/2", "Call1/10")
    found, findings = survey(one)
    assert len(found.stimuli) == 2
    assert findings == []
    (trials,), _ = read(one, found.sources[0])
    assert trials.repeats.tolist() == [1, 2, 3] * 3
    assert trials.stimuli[3:] == [found.stimuli[1].id] * 6


def test_animals_may_name_a_type_differently(one):
    write_unit(one, animal="YelBlu6903F", numbers=[1], stim_type="call")
    found, findings = survey(one)
    assert "call, song" in only(findings, "warning", f"{UNIT}.h5")
    assert found.stimuli[0].meta["stim_type"] == "song"


# --- files that are not as they should be ----------------------------------------------------------------------------


def test_no_unit_at_all(tmp_path):
    with pytest.raises(RawDataError, match="unit files"):
        survey(tmp_path)
    (tmp_path / ANIMAL).mkdir()
    (tmp_path / UNIT).with_suffix(".h5").write_bytes(b"")
    why = f"none of the unit files can be used. What was found: {UNIT}.h5: expected a whole HDF5"
    with pytest.raises(RawDataError, match=why):
        strfcube.build("aa4", raw=tmp_path, dt=5, out=tmp_path / "cube.zarr", jobs=0)


@pytest.mark.parametrize("content", [b"", b"not an HDF5 file\n" * 100, None])
def test_a_bad_file_is_a_finding_and_the_rest_goes_on(one, content):
    other = write_unit(one, "Site1_L1400R1400_e11_s0")
    other.write_bytes(other.read_bytes()[: other.stat().st_size // 2] if content is None else content)
    found, findings = survey(one)
    assert [n.id for n in found.neurons] == [UNIT]
    assert "HDF5" in only(findings, "error", f"{ANIMAL}/Site1_L1400R1400_e11_s0.h5")


def test_a_file_that_breaks_after_the_survey(one):
    found, _ = survey(one)
    (one / ANIMAL / f"{STEM}.h5").write_bytes(b"")
    with pytest.raises(RawDataError, match=f"{UNIT}.h5"):
        read(one, found.sources[0])


@pytest.mark.skipif(
    h5py.version.hdf5_version_tuple < (1, 14, 5),
    reason="older libhdf5 crashes on damaged files; a build loses a worker by that, this test all of them",
)
def test_bytes_that_were_changed_never_escape_as_other_errors(one):
    path = one / ANIMAL / f"{STEM}.h5"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    survived = 0
    for _ in range(30):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 40):
            damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            found, _ = survey(one)
            trials, _ = read(one, found.sources[0])
            survived += len(trials)
        except RawDataError as error:
            assert str(error)  # noqa: PT017
    assert survived


@pytest.mark.parametrize("value", ["text", "group", "compound", "absent"])
def test_a_trial_that_cannot_be_read(one, value):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        trial = file["Call1/2/2"]
        del trial["spike_times"], trial["spike_ids"]
        if value == "text":
            trial["spike_times"] = ["a", "b"]
        elif value == "group":
            trial.create_group("spike_times")
        elif value == "compound":
            trial["spike_times"] = np.zeros(2, [("t", "f8"), ("s", "S3")])
    found, _ = survey(one)
    (trials,), findings = read(one, found.sources[0])
    assert "Call1/2/2" in only(findings, "error", f"{UNIT}.h5")
    assert trials.repeats.tolist() == [1, 2, 3, 1, 3]
    assert trials.row_size.tolist() == [2, 0, 1, 2, 1]


def test_no_trial_can_be_read(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        for name in ("Call1/1", "Call1/2"):
            for trial in file[name].values():
                del trial["spike_times"], trial["spike_ids"]
    found, _ = survey(one)
    with pytest.raises(RawDataError, match="Call1/1/1"):
        read(one, found.sources[0])


def test_impossible_times_are_left_out_with_a_finding(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        write_trial(file["Call1/2"], 4, [0.1, -999, 0.2, math.nan])
    found, _ = survey(one)
    (trials,), findings = read(one, found.sources[0])
    assert "2 spike times" in only(findings, "warning", f"{UNIT}.h5")
    assert spikes_of(trials)[-1].tolist() == [0.1, 0.2]


def test_a_missing_md5_is_that_of_the_number_or_of_the_wav(one):
    second = write_unit(one, "Site1_L1400R1400_e11_s0")
    write_wav(one / ANIMAL / "wavfiles" / "stim30.wav", 0.2, 30)
    with h5py.File(second, "r+") as file:
        del file["Call1/1"].attrs["stim_md5"]
        file["Call1/2"].attrs["stim_md5"] = "abc"
        write_stim(file["Call1"], 30, [[0.1]], stim_type="call")
        write_stim(file["Call1"], 31, [[0.1]], stim_type="call", stim_duration=0.3)
    found, findings = survey(one)
    warning = next(f for f in findings if f.file.endswith("e11_s0.h5"))
    assert "4 groups" in warning.what
    assert len(found.stimuli) == 4
    wav = next(s for s in found.stimuli if s.meta["stim_type"] == "call" and s.audio)
    assert wav.meta["md5"] == wav.id
    bare = next(s for s in found.stimuli if s.id == f"{ANIMAL}/stim31")
    assert (bare.meta["md5"], bare.length.seconds) == ("", 0.3)
    (trials,), _ = read(one, found.sources[1])
    assert set(trials.stimuli) == {s.id for s in found.stimuli}


def test_two_md5s_for_one_number_are_two_stimuli(one):
    write_unit(one, "Site1_L1400R1400_e11_s0", numbers=[1], stim_md5="0" * 32)
    found, findings = survey(one)
    assert "2 different" in next(f for f in findings if f.file == f"{ANIMAL}/wavfiles/stim1.wav").what
    assert {s.id: s.audio is None for s in found.stimuli}["0" * 32]
    assert sum(s.audio is None for s in found.stimuli) == 1


def test_a_unit_without_stimuli_and_one_with_an_odd_name(one):
    with h5py.File(one / ANIMAL / "Site1_L1400R1400_e11_s0.h5", "w") as file:
        file.attrs["sortType"] = "single"
        file.create_group("Call1")
    shutil.copy(one / ANIMAL / f"{STEM}.h5", one / ANIMAL / "odd.h5")
    with h5py.File(one / ANIMAL / "odd.h5", "r+") as file:
        file.attrs["electrode"] = "12"
        del file.attrs["sortType"]
    found, findings = survey(one)
    assert [n.meta["cell_id"] for n in found.neurons] == [STEM, "odd"]
    assert found.neurons[1].meta["electrode"] == 12
    assert found.neurons[1].meta["sort_type"] == "unknown"
    assert math.isnan(found.neurons[1].meta["sort_id"])
    assert sorted(f.file.split("/")[-1] for f in findings) == ["Site1_L1400R1400_e11_s0.h5", "odd.h5", "odd.h5"]


def test_an_attribute_that_contradicts_the_name(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file.attrs["ldepth"] = 1500
    found, findings = survey(one)
    assert "1400" in only(findings, "warning", f"{UNIT}.h5")
    assert found.neurons[0].meta["ldepth"] == 1500


def test_a_bad_wav_is_a_finding(one):
    write_unit(one, animal="YelBlu6903F")
    (one / ANIMAL / "wavfiles" / "stim1.wav").write_bytes(b"RIFF")
    found, findings = survey(one)
    assert "WAVE" in only(findings, "error", f"{ANIMAL}/wavfiles/stim1.wav")
    assert len(found.stimuli[0].audio().samples) == found.stimuli[0].length.samples


def test_a_wav_that_is_not_the_one_stated(one):
    write_wav(one / ANIMAL / "wavfiles" / "stim2.wav", 0.1, 99)
    found, findings = survey(one)
    assert "1 of 2 wavs" in only(findings, "warning", f"{ANIMAL}/wavfiles/stim2.wav")
    assert found.stimuli[1].audio is not None


def test_a_second_folder_of_an_animal(one):
    shutil.copytree(one / ANIMAL, one / "older" / ANIMAL)
    found, findings = survey(one)
    assert [n.id for n in found.neurons] == [UNIT]
    assert "another folder" in only(findings, "warning", f"older/{ANIMAL}")


def test_an_archive_that_is_still_packed(one, tmp_path):
    for name in ("YelBlu6903F.tar.gz", f"{ANIMAL}.tar.gz", "CRCNSCode.tar.gz"):
        (one / name).write_bytes(b"")
    _, findings = survey(one)
    assert "not unpacked" in only(findings, "warning", "YelBlu6903F.tar.gz")
    assert survey(one / ANIMAL)[1] == []
    inner = one / "aa-4"
    inner.mkdir()
    shutil.move(one / ANIMAL, inner / ANIMAL)
    (one / "YelBlu6903F.tar.gz").rename(inner / "YelBlu6903F.tar.gz")
    assert "not unpacked" in only(survey(one)[1], "warning", "aa-4/YelBlu6903F.tar.gz")
    shutil.rmtree(inner)
    with pytest.raises(RawDataError, match="still packed, in CRCNSCode"):
        survey(one)


def test_an_animal_without_units(one):
    shutil.copytree(one / ANIMAL / "wavfiles", one / "YelBlu6903F" / "wavfiles")
    assert "expected *.h5 units" in only(survey(one)[1], "warning", "YelBlu6903F")


def test_wavs_named_in_another_way(one):
    folder = one / ANIMAL / "wavfiles"
    (folder / "stim1.wav").rename(folder / "Stim01.WAV")
    (folder / "._stim2.wav").write_bytes(b"")
    found, findings = survey(one)
    assert all(stimulus.audio for stimulus in found.stimuli)
    assert findings == []
    shutil.copy(folder / "stim2.wav", folder / "STIM2.wav")  # the documented name comes first
    stimulus = next(s for s in survey(one)[0].stimuli if s.id == md5_of(folder / "stim2.wav"))
    assert stimulus.audio.args[0].name == "stim2.wav"


def test_an_ending_in_capitals_is_the_same_ending(one):
    expected, _ = survey(one)
    (one / f"{UNIT}.h5").rename(one / f"{UNIT}.H5")
    found, findings = survey(one)
    assert (found.neurons[0].id, found.stimuli[0].id, findings) == (UNIT, expected.stimuli[0].id, [])


def test_files_beside_the_units_are_told(one):
    (one / ANIMAL / "Site1_L1400R1400_e11_s0.hdf5").write_bytes(b"")
    (one / ANIMAL / "._Site1_L1400R1400_e11_s0.h5").write_bytes(b"")
    assert only(survey(one)[1], "warning", ANIMAL).endswith("found Site1_L1400R1400_e11_s0.hdf5")
    (one / ANIMAL / "Site1_L1400R1400_e11_s0.hdf5").rename(one / ANIMAL / "notes.txt")
    assert only(survey(one)[1], "info", ANIMAL).endswith("found notes.txt")


def test_trials_that_are_not_named_by_a_number_are_a_warning(one):
    with h5py.File(one / f"{UNIT}.h5", "r+") as file:
        file["Call1/1"].move("2", "trial2")
        file["Call1"].copy("2", "stim3")
        file["Call1/lost"] = file["Call1/1/lost"] = h5py.SoftLink("/nowhere")
    found, findings = survey(one)
    assert only(findings, "warning", ANIMAL).endswith("found Call1/lost, Call1/stim3")
    (trials,), findings = read(one, found.sources[0])
    assert only(findings, "warning", f"{UNIT}.h5").endswith("found Call1/1/lost, Call1/1/trial2")
    assert trials.repeats.tolist() == [1, 3, 1, 2, 3]


def test_empty_attributes_are_absent_ones(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        for where in (file, file["Call1/1"], file["Call1/1/1"]):
            for name in ("sortType", "electrode", "site", "stim_class", "stim_duration", "pre_time", "post_time"):
                where.attrs[name] = h5py.Empty("S4" if name in ("sortType", "site", "stim_class") else "f8")
    found, findings = survey(one)
    (neuron,) = found.neurons
    assert (neuron.meta["sort_type"], neuron.meta["electrode"], neuron.meta["site"]) == ("unknown", 10, "Site1")
    assert "sortType" in only(findings, "warning", f"{UNIT}.h5")
    (trials,), findings = read(one, found.sources[0])
    assert np.isnan(trials.start[0])
    assert np.isnan(trials.stop[0])
    assert findings == []


def test_a_trial_without_a_number_is_no_silent_one(one):
    """-999 alone is what the lab wrote for silence; NaN is what a conversion makes of what it cannot read."""
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        for trial, value in (("1", [np.nan]), ("2", [-999.0]), ("3", [0.03, -999.0])):
            del file["Call1/1"][trial]["spike_times"]
            file["Call1/1"][trial]["spike_times"] = value
    (trials,), findings = read(one, survey(one)[0].sources[0])
    assert only(findings, "warning", f"{UNIT}.h5") == "2 spike times are no number, or -999 beside others"
    assert trials.row_size.tolist() == [0, 0, 1, 2, 0, 1]


def test_pauses_below_zero(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file["Call1/1/1"].attrs["pre_time"] = -1.0
    (trials,), findings = read(one, survey(one)[0].sources[0])
    assert only(findings, "warning", f"{UNIT}.h5") == "1 trial has a negative pre_time or post_time"
    assert np.isnan(trials.start[0])


def test_a_link_to_nothing_leaves_the_rest(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file["Call2"] = h5py.SoftLink("/nowhere")
        file["Call1/3"] = h5py.SoftLink("/nowhere")
        file["Call1/1/4"] = h5py.SoftLink("/nowhere")
    found, findings = survey(one)
    assert "group Call2" in only([f for f in findings if f.severity == "error"], "error", f"{UNIT}.h5")
    (source,) = found.sources
    (trials,), findings = read(one, source)
    assert len(trials.stimuli) == 6
    assert "2 trials cannot be read, the first is Call1/1/4" in only(findings, "error", f"{UNIT}.h5")


def test_what_is_no_protocol_stimulus_or_trial_is_told(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        file["version"] = 3.0
        file["notes/about"] = 1
        file["Call1/order"] = np.arange(3)
        file.create_group("Call1/2/summary")
    found, findings = survey(one)
    (told,) = findings
    assert (told.severity, told.file) == ("info", ANIMAL)
    assert told.what.endswith("found Call1/order, notes/about, version")
    (trials,), (told,) = read(one, found.sources[0])
    assert (told.severity, told.what.endswith("found Call1/2/summary"), len(trials.stimuli)) == ("info", True, 6)


def test_a_unit_whose_groups_hold_no_trials(one):
    with h5py.File(one / ANIMAL / f"{STEM}.h5", "r+") as file:
        for group in file["Call1"].values():
            for trial in list(group):
                del group[trial]
    found, _ = survey(one)
    (trials,), findings = read(one, found.sources[0])
    assert (len(trials.stimuli), findings) == (0, [])
    write_unit(one, "Site1_L1400R1400_e11_s0")
    path = strfcube.build("aa4", raw=one, dt=5, out=one / "cube.zarr", jobs=1)
    assert strfcube.open(path).neuron.values.tolist() == [f"{ANIMAL}/Site1_L1400R1400_e11_s0"]
