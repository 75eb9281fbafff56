"""NAT4: counts against the truth of written spike times, both areas in one cube, quirks and damage."""

import csv
import functools
import io
import json
import pickle
import shutil
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from writers.nat4 import BIN_NS, sound_names, write_nat4
from writers.nems import RasterCsv, epoch_table, h5, header, write_folder, write_tgz

import strfcube
from strfcube.errors import RawDataError, UsageError
from strfcube.pipelines.nat4 import NAT4
from strfcube.pipelines.nat4.population import cut
from strfcube.pipelines.nems import read_bundle
from strfcube.pipelines.nems_files import Bundle
from strfcube.records import Trials

POPULATION = "A1_NAT4_ozgf.fs100.ch18.tgz"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return write_nat4(tmp_path_factory.mktemp("nat4") / "raw", wavs=True)


@pytest.fixture(scope="module")
def cube(truth, tmp_path_factory):
    return strfcube.open(
        strfcube.build("nat4", raw=truth.raw, out=tmp_path_factory.mktemp("cubes") / "nat4.zarr", dt=10, jobs=2)
    ).load()


def read_all(raw, **options):
    """Survey, trials by neuron, and findings."""
    findings = []
    survey = NAT4(raw, **options).survey(findings.append)
    trials = {}
    for source in pickle.loads(pickle.dumps(survey.sources)):
        for record in NAT4(raw, **options).read(source, findings.append):
            trials.setdefault(record.neuron, []).append(record)
    return survey, trials, findings


def has(findings, severity, text):
    return [f for f in findings if f.severity == severity and text in f"{f.file}: {f.what} ({f.consequence})"]


def counts_of(records, stimulus):
    """Spikes per 10 ms bin of every trial of a stimulus [shape=(repeat, bin)]."""
    rows = []
    for record in records:
        if isinstance(record, Trials):
            ends = np.cumsum(record.row_size)
            for label, first, last in zip(record.stimuli, ends - record.row_size, ends, strict=True):
                if label == stimulus:
                    ns = np.rint(record.spike_times[first:last] * 1e9).astype(np.int64)
                    assert ((ns >= 0) & (ns < 150 * BIN_NS)).all()
                    rows.append(np.bincount(ns // BIN_NS, minlength=150))
        elif record.stimulus == stimulus:
            rows.append(record.trace)
    return np.array(rows)


def test_counts_equal_the_truth_spike_for_spike(truth, cube):
    on_edges = 0
    for area, cells in truth.cells.items():
        for cell in cells:
            for name in truth.sounds:
                expected = truth.counts(cell, name)
                there = cell not in truth.population_only[area] or "_00" not in name
                pair = cube.sel(stim=name, neuron=cell)
                assert int(pair.n_repeats) == len(expected) * there
                got = pair.response.values
                np.testing.assert_array_equal(got[: len(expected) * there], expected[: len(expected) * there])
                assert np.isnan(got[len(expected) * there :]).all()
            starts = np.array([start for _, start in truth.trials[cell.partition("-")[0]]])
            on_edges += np.isin(truth.spikes[cell], starts[:, None] + np.arange(150) * BIN_NS).sum()
    assert on_edges > 100


@given(
    st.lists(st.integers(-5, 60), max_size=30), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), max_size=8)
)
def test_every_spike_of_an_epoch_is_cut_out_once(events, epochs):
    tick = 0.1  # no multiple of it is exact in binary
    starts = np.array([start * tick for start, _ in epochs])
    ends = np.array([(start + length) * tick for start, length in epochs])
    sizes, relative = cut(np.sort(np.array([e * tick for e in events], float)), starts, ends)
    expected = [sorted(e - s for e in events if s <= e < s + n) for s, n in epochs]
    assert sizes.tolist() == [len(inside) for inside in expected]
    assert np.rint(relative / tick).astype(int).tolist() == [e for inside in expected for e in inside]


def test_the_published_spectrogram_passes_untouched(truth, cube):
    for name, values in truth.sounds.items():
        np.testing.assert_array_equal(cube.stimulus.sel(stim=name).values, values)
    np.testing.assert_allclose(cube.frequency.values[[0, -1]], [200, 20000])
    assert "nominal" in cube.stimulus.attrs["units"]


def test_both_areas_share_the_sounds(truth, cube):
    cells = truth.cells["A1"] + truth.cells["PEG"]
    assert cube.neuron.values.tolist() == cells
    assert cube.stim.values.tolist() == sorted(truth.sounds)
    assert cube.area.values.tolist() == ["A1"] * len(truth.cells["A1"]) + ["PEG"] * len(truth.cells["PEG"])
    missing = int((cube.n_repeats == 0).sum())
    assert missing == 3 * len(truth.population_only["A1"]) == 3


def test_coordinates(truth, cube):
    assert (cube.subset.values == np.where(["_00" in s for s in cube.stim.values], "val", "est")).all()
    assert set(cube.n_bins.values.tolist()) == {150}
    assert set(cube.duration.values.tolist()) == {1.5}
    assert set(cube.sound_onset.values.tolist()) == {0.25}
    assert set(cube.sound_duration.values.tolist()) == {1.0}
    assert set(cube.duration_source.values.tolist()) == {"epoch"}
    assert "door, slam" in cube.stim_class.values
    first = cube.sel(neuron="ARM029a-04-2")
    assert (first.site, first.animal, first.electrode, first.unit) == ("ARM029a", "ARM", 4, 2)
    assert {c for c, a in zip(cube.neuron.values, cube.auditory.values, strict=True) if a} == truth.auditory
    assert cube.neuron.values[cube.binned.values].tolist() == truth.population_only["A1"]


def test_est_and_val_have_the_same_mean_rate(tmp_path):
    write_nat4(tmp_path / "raw", sites={"A1": {"ARM029a": 4}}, extra={}, est=60, val=6, val_repeats=10, unit=0.125)
    ds = strfcube.open(strfcube.build("nat4", raw=tmp_path / "raw", out=tmp_path / "x.zarr", dt=10, jobs=1))
    spikes = ds.response.sum("time").where(ds.n_repeats > ds.repeat)
    est, val = (spikes.sel(stim=ds.subset == s).mean(("stim", "repeat")).values for s in ("est", "val"))
    assert np.isnan(val).tolist() == [False, False, False, True]  # the last cell is only in the population recording
    np.testing.assert_allclose(est / 1.5, 20, rtol=0.12)
    np.testing.assert_allclose(val[:3], est[:3], rtol=0.12)


def test_separate_sounds(truth):
    survey, trials, _ = read_all(truth.raw, stimuli="separate")
    assert [s.id for s in survey.stimuli] == [f"{a}/{name}" for a in ("A1", "PEG") for name in sorted(truth.sounds)]
    assert {s.meta["stim_name"] for s in survey.stimuli} == set(truth.sounds)
    for area, cells in truth.cells.items():
        for cell in cells:
            stimuli = {s for r in trials[cell] for s in (r.stimuli if isinstance(r, Trials) else [r.stimulus])}
            assert {s.partition("/")[0] for s in stimuli} == {area}


def test_one_area_alone_and_by_only(truth, cube, tmp_path):
    path = strfcube.build("nat4", raw=truth.raw, out=tmp_path / "peg.zarr", dt=10, only={"area": "PEG"}, jobs=1)
    peg = strfcube.open(path)
    assert peg.neuron.values.tolist() == truth.cells["PEG"]
    np.testing.assert_array_equal(peg.response.values, cube.sel(neuron=truth.cells["PEG"]).response.values)


def test_ten_milliseconds_is_the_finest_without_waveforms(truth, tmp_path):
    spikes_only = {"binned": "False"}
    with pytest.raises(UsageError, match="published spectrogram has frames of 10 ms"):
        strfcube.build("nat4", raw=truth.raw, out=tmp_path / "x.zarr", dt=5, only=spikes_only, jobs=1)
    with pytest.raises(UsageError, match="ARM029a-07-1' is sampled every 10 ms"):
        strfcube.build("nat4", raw=truth.raw, out=tmp_path / "y.zarr", dt=5, spec="mel", jobs=1)
    raw = copy_of(truth.raw, tmp_path)
    (raw / "wav.zip").unlink()
    with pytest.raises(UsageError, match="needs the waveforms"):
        strfcube.build("nat4", raw=raw, out=tmp_path / "z.zarr", dt=5, spec="mel", only=spikes_only, jobs=1)


def test_with_waveforms_any_bin_width(truth, tmp_path):
    flags = {"spec": "mel", "f_max": 20000.0, "only": {"binned": "False"}, "jobs": 1}
    ds = strfcube.open(strfcube.build("nat4", raw=truth.raw, out=tmp_path / "x.zarr", dt=5, **flags))
    cell = truth.cells["A1"][1]
    for name in truth.sounds:
        got = ds.response.sel(stim=name, neuron=cell).values
        expected = truth.counts(cell, name, BIN_NS // 2)
        np.testing.assert_array_equal(got[: len(expected)], expected)
    sound = ds.stimulus.values
    assert not sound[:, :, :49].any()  # silence until 0.25 s: the sound starts with bin 50
    assert (sound[:, :, 51:249] > 0).all()
    assert not sound[:, :, 251:].any()


def test_whole_multiples_of_ten_milliseconds(truth, cube, tmp_path):
    ds = strfcube.open(strfcube.build("nat4", raw=truth.raw, out=tmp_path / "x.zarr", dt=20, jobs=1))
    assert set(ds.n_bins.values.tolist()) == {75}
    pairs = cube.response.values.reshape(*cube.response.shape[:3], 75, 2).sum(-1)
    np.testing.assert_array_equal(ds.response.values, pairs)
    averaged = cube.stimulus.values.reshape(len(cube.stim), 18, 75, 2).mean(-1)
    np.testing.assert_allclose(ds.stimulus.values, averaged, rtol=1e-6)


def test_waveforms_by_name_without_regard_to_case(truth):
    survey, _, findings = read_all(truth.raw)
    for stimulus in survey.stimuli:
        audio = pickle.loads(pickle.dumps(stimulus.audio))()
        assert audio.rate == 44100
        np.testing.assert_array_equal(audio.samples, truth.wavs[stimulus.meta["stim_name"]])
    assert not has(findings, "warning", "wav")


def test_a_wav_that_is_missing_or_damaged(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    (raw / "wav.zip").unlink()
    names = sound_names(12, 3)
    with zipfile.ZipFile(raw / "wav.zip", "w") as archive:
        archive.writestr(names[0].removeprefix("STIM_"), b"RIFF")
    survey, _, findings = read_all(raw)
    assert has(findings, "warning", "wav.zip: no wav for 14 of 15 sounds")
    with pytest.raises(RawDataError, match=r"^wav\.zip/00cat172.*expected"):
        next(s for s in survey.stimuli if s.audio).audio()


def test_waveforms_under_another_spelling_or_twice(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    with zipfile.ZipFile(raw / "wav.zip") as archive, zipfile.ZipFile(raw / "WAV.ZIP", "w") as windows:
        for name in archive.namelist():
            windows.writestr(f"wav\\{name.rpartition('/')[2]}", archive.read(name))
    (raw / "wav.zip").unlink()
    survey, _, findings = read_all(raw)
    for stimulus in survey.stimuli:
        np.testing.assert_array_equal(stimulus.audio().samples, truth.wavs[stimulus.meta["stim_name"]])
    shutil.copy(truth.raw / "wav.zip", raw / "WAV.ZIP")
    name = sound_names(12, 3)[0].removeprefix("STIM_")
    (raw / "Wav" / "old").mkdir(parents=True)
    with zipfile.ZipFile(raw / "WAV.ZIP") as archive:
        archive.extractall(raw / "Wav")
    file = next((raw / "Wav").rglob(name.lower()), None) or next((raw / "Wav").rglob(name))
    (raw / "Wav" / "old" / name.upper()).write_bytes(file.read_bytes()[:200])
    (raw / "WAV.ZIP").write_bytes(b"PK")
    survey, _, findings = read_all(raw)
    assert has(findings, "error", "WAV.ZIP: expected a whole zip archive")
    (told,) = has(findings, "warning", "there is another wav of that name")
    assert {told.file, told.what.rpartition(" ")[2]} == {
        p.relative_to(raw).as_posix() for p in (file, raw / "Wav" / "old" / name.upper())
    }
    assert all(s.audio for s in survey.stimuli)


@pytest.mark.parametrize("spoilt", ["fewer", "damaged", "all damaged but a folder"])
def test_two_archives_of_sites(truth, tmp_path, spoilt):
    """As a browser names the second download, and as what was unpacked lies beside its archive."""
    raw = copy_of(truth.raw, tmp_path)
    archive, again = raw / "A1_single_sites.zip", raw / "A1_single_sites (1).zip"
    again.write_bytes(b"PK")
    if spoilt == "fewer":
        with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(again, "w") as part:
            part.writestr(whole.namelist()[0], whole.read(whole.namelist()[0]))
    if spoilt == "all damaged but a folder":
        with zipfile.ZipFile(archive) as whole:
            whole.extractall(raw / "A1_single_sites")
        archive.write_bytes(b"PK")
    survey, trials, findings = read_all(raw)
    expected, expected_trials, _ = read_all(truth.raw)
    assert [n.meta for n in survey.neurons] == [n.meta for n in expected.neurons]
    for cell in trials:
        for name in truth.sounds:
            np.testing.assert_array_equal(counts_of(trials[cell], name), counts_of(expected_trials[cell], name))
    assert has(findings, "warning", "there are more recordings of the sites of A1: A1_single_sites (1).zip")
    assert bool(has(findings, "error", "A1_single_sites.zip: expected a whole zip")) == (spoilt[:3] == "all")


def change_events(tmp_path, change):
    def rewrite(archive):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar if m.isfile()}
        name = next(n for n in files if n.endswith(".resp.h5"))
        image = io.BytesIO(files[name])
        with h5py.File(image, "r+") as h5:
            change(h5)
        write_tgz(tmp_path / "site.tgz", files | {name: image.getvalue()})
        return (tmp_path / "site.tgz").read_bytes()

    return rewrite


def test_events_that_no_header_names_or_that_are_a_matrix(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    site, events = "A1_ARM029a", change_events(tmp_path, lambda h5: h5.create_dataset("ZZZ001a-01-1", data=[1.0]))
    rewrite_site(raw, site, events)
    _, _, findings = read_all(raw)
    assert site in has(findings, "warning", "spike times of ZZZ001a-01-1, which its json file does not name")[0].file
    matrix = change_events(tmp_path, lambda h5: h5.create_dataset("ZZZ001a-01-2", data=np.ones((2, 3))))
    rewrite_site(raw, site, matrix)
    with pytest.raises(RawDataError, match=r"times in one row, found an array of shape \(2, 3\) for ZZZ001a-01-2"):
        read_all(raw)


def test_a_cell_that_a_header_names_twice(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)

    def twice(files):
        name = next(n for n in files if n.endswith(".resp.json"))
        header = json.loads(files[name])
        header["chans"][1] = f"{header['chans'][0]} "
        return files | {name: json.dumps(header).encode()}

    rewrite_population(raw, twice)
    survey, _, findings = read_all(raw)
    cell = truth.cells["A1"][0]
    assert has(findings, "error", f"expected channels of different names in 'chans', found '{cell}' twice")
    assert len({n.id for n in survey.neurons}) == len(survey.neurons)


def copy_of(raw, tmp_path):
    return shutil.copytree(raw, tmp_path / "copy")


def test_findings_of_a_sound_release(truth):
    _, _, findings = read_all(truth.raw)
    assert has(
        findings, "info", "TNC022a-04-2, TNC022a-04-1: not in the population recording (these cells are left out"
    )
    assert has(findings, "warning", f"{POPULATION}: ARM029a-07-1: in no per-site recording")
    assert has(findings, "info", f"{POPULATION}: one spike is 1; 0.00% of the est spikes of 2 cells differ")
    assert len(findings) == 3


@pytest.mark.parametrize("unit", [1.0, 0.125, 100.0])
def test_the_population_unit_is_derived_and_checked(tmp_path, unit):
    truth = write_nat4(tmp_path / "raw", unit=unit)
    _, trials, findings = read_all(truth.raw)
    assert has(findings, "info", f"one spike is {unit:g}")
    cell = truth.population_only["A1"][0]
    for name in truth.sounds:
        expected = truth.counts(cell, name) if "_00" not in name else np.empty(0)
        np.testing.assert_array_equal(counts_of(trials[cell], name), expected)
    assert {(r.rate, r.window, r.file) for r in trials[cell]} == {(100, (0, 1.5), POPULATION)}


def repack(raw, change):
    """Rewrite the A1 population with its responses changed by `change`, keeping its sounds."""
    signals = read_bundle(Bundle(raw / POPULATION), ("resp", "stim"))
    resp, stim = signals["resp"], signals["stim"]
    rows = list(zip(resp.epochs.names, resp.epochs.starts, resp.epochs.ends, strict=True))
    files = {
        "p.resp.csv": RasterCsv(change(resp.values)),
        "p.resp.json": header("resp", 100, resp.chans),
        "p.resp.epoch.csv": epoch_table(rows),
        "p.stim.csv": RasterCsv(stim.values),
        "p.stim.json": header("stim", 100, None),
    }
    write_tgz(raw / POPULATION, files)


def test_a_population_that_does_not_fit_its_spikes_stays_out(tmp_path):
    truth = write_nat4(tmp_path / "raw", nan_cell=False)
    repack(truth.raw, lambda values: values[::-1])
    _, trials, findings = read_all(truth.raw)
    cell = truth.population_only["A1"][0]
    assert cell not in trials
    found = has(findings, "error", f"est responses of {cell} are only here, in a unit that cannot be checked")
    assert "at most 5% expected" in found[0].what
    assert set(trials) == set(truth.cells["A1"] + truth.cells["PEG"]) - {cell}


def test_population_values_that_are_no_whole_spikes_stay_out(tmp_path):
    truth = write_nat4(tmp_path / "raw")
    column = truth.cells["A1"].index(truth.population_only["A1"][0])
    repack(truth.raw, lambda values: np.where(np.arange(values.shape[1]) == column, values * 0.7, values))
    _, trials, findings = read_all(truth.raw)
    assert has(findings, "error", "est responses of ARM029a-07-1 are no whole numbers of spikes")
    assert "ARM029a-07-1" not in trials


def test_where_the_population_has_no_value_the_spikes_win_and_gaps_stay_gaps(tmp_path):
    truth = write_nat4(tmp_path / "raw")  # the first cell's est values are missing there
    cell, lost = truth.cells["A1"][0], truth.population_only["A1"][0]
    name = sound_names(12, 3)[5]
    column = truth.cells["A1"].index(lost)

    def change(values):
        values = values.copy()
        values[750:900, column] = np.nan  # one sound wholly, the next in part
        values[1000:1050, column] = np.nan
        return values

    repack(truth.raw, change)
    _, trials, _ = read_all(truth.raw)
    np.testing.assert_array_equal(counts_of(trials[cell], name), truth.counts(cell, name))
    assert counts_of(trials[lost], name).size == 0
    partly = sound_names(12, 3)[6]
    expected = truth.counts(lost, partly).astype(float)
    expected[:, 100:] = np.nan
    np.testing.assert_array_equal(counts_of(trials[lost], partly), expected)
    ds = strfcube.open(strfcube.build("nat4", raw=truth.raw, out=tmp_path / "x.zarr", dt=10, jobs=1))
    np.testing.assert_array_equal(ds.response.sel(stim=partly, neuron=lost).values[:1], expected)
    assert int(ds.n_repeats.sel(stim=name, neuron=lost)) == 0


def rewrite_site(raw, site, change):
    """Rewrite one site's files through `change`; an archive of bytes is taken as it comes."""
    path = raw / f"{site.partition('_')[0]}_single_sites.zip"
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, change(content) if f"/{site}_" in name else content)


def site_files(rows, spikes, **signal):
    return {
        "s.resp.h5": h5(spikes),
        "s.resp.json": header("resp", 1000, list(spikes), "PointProcess", **signal),
        "s.resp.epoch.csv": epoch_table(rows),
    }


def test_a_sound_that_a_site_lacks_comes_from_the_population(tmp_path):
    truth = write_nat4(tmp_path / "raw", nan_cell=False)
    name, lost = sound_names(12, 3)[4], "CRD016d"
    cells = [c for c in truth.cells["A1"] if c.startswith(lost)]
    rows = [(n, s / 1e9, s / 1e9 + 1.5) for n, s in truth.trials[lost] if n != name]
    files = site_files(rows, {c: truth.spikes[c] / 1e9 for c in cells})
    rewrite_site(truth.raw, f"A1_{lost}", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    survey, trials, _ = read_all(truth.raw)
    for cell in cells:
        for sound in truth.sounds:
            np.testing.assert_array_equal(counts_of(trials[cell], sound), truth.counts(cell, sound))
    assert [n.id for n in survey.neurons if n.meta["binned"]] == [*truth.population_only["A1"], *cells]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[: len(c) // 3], "expected a whole .tgz"),
        (lambda c: b"<html></html>", "expected a whole .tgz"),
        (lambda c: write_tgz(io.BytesIO(), {"../x.resp.json": b"{}"}).getvalue(), "'../x.resp.json' would lie outside"),
        (lambda c: write_tgz(io.BytesIO(), {"s.resp.json": header("resp", 1, ["CRD016d-04-1"]),
                                            "s.resp.h5": h5({})}).getvalue(), "expected an .epoch.csv"),
        (lambda c: write_tgz(io.BytesIO(), site_files([], {})).getvalue(), "the recording names no cell"),
    ],
)  # fmt: skip
def test_a_damaged_site_is_named_and_the_rest_builds(tmp_path, change, message):
    truth = write_nat4(tmp_path / "raw")
    rewrite_site(truth.raw, "A1_CRD016d", change)
    _, trials, findings = read_all(truth.raw)
    found = [f for f in findings if message in f.what]
    assert found
    assert "A1_single_sites.zip/A1_single_sites/A1_CRD016d" in found[0].file
    for cell in truth.cells["A1"]:
        name = sound_names(12, 3)[4]
        np.testing.assert_array_equal(
            counts_of(trials[cell], name), truth.counts(cell, name)
        )  # est is in the population


def test_a_site_that_breaks_only_on_reading(tmp_path):
    truth = write_nat4(tmp_path / "raw")
    rows = [(n, s / 1e9, s / 1e9 + 1.5) for n, s in truth.trials["CRD016d"]]
    files = {
        "s.resp.csv": RasterCsv(np.zeros((10, 1))),
        "s.resp.json": header("resp", 1000, ["CRD016d-04-1"]),
        "s.resp.epoch.csv": epoch_table(rows),
    }
    rewrite_site(truth.raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    survey = NAT4(truth.raw).survey([].append)
    source = next(s for s in survey.sources if s.id == "A1_CRD016d")
    with pytest.raises(RawDataError, match=r"A1_CRD016d.*expected spike times \(PointProcess\)"):
        list(NAT4(truth.raw).read(source, [].append))
    findings = []
    ds = build_of(truth.raw, tmp_path, findings)
    assert "expected spike times (PointProcess)" in findings[-1]
    assert set(ds.neuron.values) == set(truth.cells["A1"] + truth.cells["PEG"]) - {"CRD016d-04-1"}


def build_of(raw, tmp_path, findings):
    import xarray as xr

    path = strfcube.build("nat4", raw=raw, out=tmp_path / "built.zarr", dt=10, jobs=1)
    group = xr.open_zarr(path, group="findings")
    findings += [str(what) for what, s in zip(group.what.values, group.severity.values, strict=True) if s == "error"]
    return strfcube.open(path)


def test_the_unit_check_passes_over_sites_it_cannot_use(tmp_path):
    truth = write_nat4(tmp_path / "raw", population_only={"TNC008a": 1})
    rows = [(n, s / 1e9, s / 1e9 + 1.5) for n, s in truth.trials["ARM029a"]]
    cells = [c for c in truth.cells["A1"] if c.startswith("ARM029a")]
    files = {
        "s.resp.csv": RasterCsv(np.zeros((10, 3))),
        "s.resp.json": header("resp", 1000, cells),
        "s.resp.epoch.csv": epoch_table(rows),
    }
    rewrite_site(truth.raw, "A1_ARM029a", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    findings = []
    NAT4(truth.raw).survey(findings.append)
    assert has(findings, "info", "one spike is 1; 0.00% of the est spikes of 2 cells differ from A1_single_sites.zip/")


def test_epochs_past_the_end_and_odd_spike_times(tmp_path):
    truth = write_nat4(tmp_path / "raw", population_only={})
    rows = [("STIM_cat1_x.wav", 0.0, 1.5), ("STIM_cat1_x.wav", 1.5, 3.0), ("STIM_cat1_x.wav", 1.5, 3.0),
            ("STIM_cat1_x.wav", 3.0, 4.5), ("STIM_cat1_x.wav", 4.5, 6.0)]  # fmt: skip
    spikes = {"CRD016d-04-1": np.array([3.2, 1.5, -1.0, np.nan, 0.0, 3.9]), "CRD016d-04-2": np.empty(0)}
    files = site_files(rows, spikes, seconds=4.0)
    rewrite_site(truth.raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    survey, trials, findings = read_all(truth.raw)
    record = next(r for r in trials["CRD016d-04-1"] if isinstance(r, Trials))
    assert record.stimuli == ["STIM_cat1_x.wav"] * 3
    assert record.repeats.tolist() == [0, 1, 2]
    assert record.row_size.tolist() == [1, 1, 2]
    np.testing.assert_allclose(record.spike_times, [0, 0, 0.2, 0.9])
    np.testing.assert_allclose(record.stop, [1.5, 1.5, 1.0])
    silent = next(r for r in trials["CRD016d-04-2"] if isinstance(r, Trials))
    assert silent.row_size.tolist() == [0, 0, 0]
    assert len(has(findings, "warning", "ends after the signal (4 s) (its trial is cut there)")) == 2
    assert has(findings, "info", "1 rows of the epoch table repeat another one")
    assert has(findings, "warning", "2 of 6 spike times of CRD016d-04-1 are negative, no numbers or days late")
    new = next(s for s in survey.stimuli if s.id == "STIM_cat1_x.wav")
    assert new.spectrogram is None


def test_segments_that_end_before_the_last_spike_are_not_believed(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    cells = [c for c in truth.cells["A1"] if c.startswith("CRD016d")]
    rows = [(n, s / 1e9, s / 1e9 + 1.5) for n, s in truth.trials["CRD016d"]]
    files = site_files(rows, {c: truth.spikes[c] / 1e9 for c in cells}, seconds=2.0)
    rewrite_site(raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    _, trials, findings = read_all(raw)
    assert has(findings, "warning", "segments say that the signal ends at 2 s, but there are spikes until")
    for sound in truth.sounds:
        np.testing.assert_array_equal(counts_of(trials[cells[0]], sound), truth.counts(cells[0], sound))


def test_population_epochs_past_the_end(tmp_path):
    truth = write_nat4(tmp_path / "raw")
    repack(truth.raw, lambda values: values[:-50])
    _, trials, findings = read_all(truth.raw)
    last, cell = sound_names(12, 3)[-1], truth.population_only["A1"][0]
    assert has(findings, "warning", f"epoch {last} ends after the signal 'resp'")
    expected = truth.counts(cell, last).astype(float)
    expected[:, 100:] = np.nan
    np.testing.assert_array_equal(counts_of(trials[cell], last), expected)


def test_an_unpacked_release(truth, tmp_path):
    raw = tmp_path / "unpacked"
    for area in truth.cells:
        (raw / f"{area}_single_sites").mkdir(parents=True)
        (raw / f"{area}_pred_correlation.csv").write_bytes((truth.raw / f"{area}_pred_correlation.csv").read_bytes())
        (raw / f"{area}_NAT4_ozgf.fs100.ch18.tgz").write_bytes(
            (truth.raw / f"{area}_NAT4_ozgf.fs100.ch18.tgz").read_bytes()
        )
        with zipfile.ZipFile(truth.raw / f"{area}_single_sites.zip") as archive:
            for k, name in enumerate(archive.namelist()):
                target = raw / f"{area}_single_sites" / name.rpartition("/")[2]
                target.write_bytes(archive.read(name))
                if k % 2:
                    unpack(target)
    expected, expected_trials, _ = read_all(truth.raw)
    survey, trials, findings = read_all(raw)
    assert [n.id for n in survey.neurons] == [n.id for n in expected.neurons]
    assert not [f for f in findings if f.severity == "error"]
    for cell, name in ((c, s) for c in trials for s in truth.sounds):
        np.testing.assert_array_equal(counts_of(trials[cell], name), counts_of(expected_trials[cell], name))


def unpack(path):
    import tarfile

    with tarfile.open(path) as tar:
        files = {m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    path.unlink()
    write_folder(path.with_suffix(""), files)


def test_two_population_recordings(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    (raw / "A1_NAT4_ozgf.tgz").write_bytes((raw / POPULATION).read_bytes())
    _, _, findings = read_all(raw)
    assert has(findings, "warning", f"{POPULATION}: there are 2 population recordings")


@pytest.mark.parametrize("missing", [POPULATION, "A1_single_sites.zip", "A1_pred_correlation.csv"])
def test_a_missing_file_is_named_and_the_rest_builds(truth, tmp_path, missing):
    raw = copy_of(truth.raw, tmp_path)
    (raw / missing).unlink()
    survey, trials, findings = read_all(raw)
    assert has(findings, "warning", missing)
    assert {n.id for n in survey.neurons} >= set(truth.cells["PEG"])
    if missing == POPULATION:
        assert {n.id for n in survey.neurons if n.meta["area"] == "A1"} == {
            c for c in truth.cells["A1"] if c not in truth.population_only["A1"]
        }
        assert all(s.spectrogram for s in survey.stimuli)  # PEG has them
    if missing == "A1_single_sites.zip":
        assert set(trials) == set(truth.cells["PEG"])  # nothing to check the unit on
        assert has(findings, "error", "cannot be checked: no cell of it has a per-site recording")
    if missing == "A1_pred_correlation.csv":
        assert not any(n.meta["auditory"] for n in survey.neurons if n.meta["area"] == "A1")


def test_the_auditory_table(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    with (raw / "A1_pred_correlation.csv").open("w", newline="") as stream:
        rows = [["sig_auditory", "cellid"], ["True", "ARM029a-04-1"], ["maybe", "ARM029a-04-2"]]
        csv.writer(stream).writerows(rows)
    survey, _, findings = read_all(raw)
    assert [n.id for n in survey.neurons if n.meta["auditory"] and n.meta["area"] == "A1"] == ["ARM029a-04-1"]
    odd = has(findings, "warning", "sig_auditory of ARM029a-04-2: expected True or False, found 'maybe'")
    assert odd[0].line == 3
    assert has(findings, "warning", "no usable row for ARM029a-04-2, ARM029a-07-1, CRD016d-04-1 and 3 more")
    with (raw / "A1_pred_correlation.csv").open("a") as stream:
        stream.write("True\n")
    assert has(read_all(raw)[2], "warning", "sig_auditory of a cell without id: expected True or False, found 'True'")
    (raw / "A1_pred_correlation.csv").write_text("cell,auditory\n")
    assert has(read_all(raw)[2], "warning", "expected columns cellid and sig_auditory")


def test_rows_for_other_cells_and_ids_with_blanks(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    with (raw / "A1_pred_correlation.csv").open("a", newline="") as stream:
        csv.writer(stream).writerows([[99, "ZZZ001a-01-1", 0.5, True], [100, " ARM029a-07-1 ", 0.5, True]])
    survey, _, findings = read_all(raw)
    assert has(findings, "info", "rows for ZZZ001a-01-1: not among the cells of A1")
    assert next(n for n in survey.neurons if n.id == "ARM029a-07-1").meta["auditory"]


def rewrite_population(raw, change):
    """Rewrite the files of A1's population recording through `change`."""
    path = raw / POPULATION
    with tarfile.open(path) as tar:
        files = {m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar if m.isfile()}
    write_tgz(path, change(files))


def change_tables(change):
    return lambda files: {n: change(c) if n.endswith(".epoch.csv") else c for n, c in files.items()}


def test_sounds_whose_silences_no_table_has(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    for file in raw.glob("PEG*"):
        file.unlink()
    rewrite_population(raw, change_tables(lambda c: b"\n".join(r for r in c.split(b"\n") if b"PreStim" not in r)))
    survey, _, findings = read_all(raw)
    assert has(findings, "warning", "no PreStimSilence or no PostStimSilence with STIM_00cat172")
    assert {(s.sound_onset, s.sound_duration) for s in survey.stimuli} == {(0.25, 1.0)}


def test_rows_without_times_lose_nothing_but_themselves(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    lost = sound_names(12, 3)[4]
    rewrite_population(
        raw, change_tables(lambda c: c + f"{'STIM_odd.wav,,' if c[:4] == b'name' else ',,STIM_odd.wav'}\n".encode())
    )
    rows = [(n, s / 1e9, s / 1e9 + 1.5 if n != lost else 0.0) for n, s in truth.trials["CRD016d"]]
    cells = [c for c in truth.cells["A1"] if c.startswith("CRD016d")]
    files = site_files([("PUPIL", np.nan, np.nan), *rows], {c: truth.spikes[c] / 1e9 for c in cells})
    rewrite_site(raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    _, trials, findings = read_all(raw)
    assert has(findings, "warning", f"epoch {lost} starts at ")
    assert has(findings, "warning", "epoch STIM_odd.wav starts at nan s and ends at nan s")
    assert not has(findings, "error", "")
    for cell in cells:
        for sound in truth.sounds:  # the lost one comes from the population
            np.testing.assert_array_equal(counts_of(trials[cell], sound), truth.counts(cell, sound))


def test_names_without_regard_to_case(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    for file in raw.glob("A1*"):
        file.rename(file.with_name(file.name.lower().replace(".tgz", ".TGZ").replace(".zip", ".ZIP")))
    survey, trials, findings = read_all(raw)
    expected, whole, _ = read_all(truth.raw)
    assert [n.meta for n in survey.neurons] == [n.meta for n in expected.neurons]
    assert {n: len(r) for n, r in trials.items()} == {n: len(r) for n, r in whole.items()}
    assert not has(findings, "error", "")


def test_blanks_around_the_fields_of_a_table(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    rewrite_population(raw, change_tables(lambda c: b"".join(b" %s \n" % row for row in c.splitlines())))
    table = raw / "A1_pred_correlation.csv"
    table.write_bytes(table.read_bytes().replace(b",", b" , "))
    survey, _, _ = read_all(raw)
    expected, _, _ = read_all(truth.raw)
    assert [s.id for s in survey.stimuli] == [s.id for s in expected.stimuli]
    assert [n.meta for n in survey.neurons] == [n.meta for n in expected.neurons]


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_spikes_in_another_unit_than_the_epochs(truth, tmp_path, factor):
    raw = copy_of(truth.raw, tmp_path)
    rows = [(n, s / 1e9, s / 1e9 + 1.5) for n, s in truth.trials["CRD016d"]]
    cells = [c for c in truth.cells["A1"] if c.startswith("CRD016d")]
    files = site_files(rows, {c: truth.spikes[c] / 1e9 * factor for c in cells})
    files["s.resp.json"] = header("resp", 1000, cells, "PointProcess")
    rewrite_site(raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    (told,) = has(read_all(raw)[2], "warning", "see whether one of them is in ms or in samples")
    assert "A1_CRD016d" in told.file
    assert not has(read_all(truth.raw)[2], "warning", "in ms or in samples")


def test_a_site_without_stimulus_epochs(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    files = site_files([("TRIAL", 0.0, 1.5)], {"CRD016d-04-1": np.array([0.1])})
    rewrite_site(raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    found = has(read_all(raw)[2], "error", "expected epochs named STIM_..., found none in a table of 1 rows")
    assert "A1_CRD016d" in found[0].file


def test_a_cell_without_spike_times_does_not_take_its_site_along(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    rows = [(n, s / 1e9, s / 1e9 + 1.5) for n, s in truth.trials["CRD016d"]]
    kept, lost = (c for c in truth.cells["A1"] if c.startswith("CRD016d"))
    files = site_files(rows, {kept: truth.spikes[kept] / 1e9})
    files["s.resp.json"] = header("resp", 1000, [lost, kept], "PointProcess")
    rewrite_site(raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    _, trials, findings = read_all(raw)
    assert has(findings, "error", f"names {lost}, but has no spike times of them")
    assert lost not in trials
    name = sound_names(12, 3)[0]
    np.testing.assert_array_equal(counts_of(trials[kept], name), truth.counts(kept, name))


def test_a_sound_that_only_a_site_has(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    rows = [("STIM_TORC_1.wav", 0.0, 1.5)]
    files = site_files(rows, {"CRD016d-04-1": np.array([0.1])})
    rewrite_site(raw, "A1_CRD016d", lambda _: write_tgz(io.BytesIO(), files).getvalue())
    assert has(read_all(raw)[2], "warning", "STIM_TORC_1.wav: presented at a site, but not in a population recording")


@pytest.mark.parametrize("signal", ["resp", "stim"])
def test_a_population_at_another_rate(truth, tmp_path, signal):
    raw = copy_of(truth.raw, tmp_path)
    rewrite_population(raw, lambda files: files | {
        n: c.replace(b'"fs": 100', b'"fs": 200') for n, c in files.items() if n.endswith(f"{signal}.json")
    })  # fmt: skip
    survey, trials, findings = read_all(raw)
    assert all(n.id in trials for n in survey.neurons if n.id not in truth.population_only["A1"])
    assert has(findings, "warning", {
        "resp": "'resp' is a RasterizedSignal at 200 Hz, expected a RasterizedSignal at 100 Hz (only its list of cells",
        "stim": "expected 18 bands at 100 Hz in 'stim', found 18 at 200 Hz",
    }[signal])  # fmt: skip


def test_a_population_of_spike_times_gives_its_list_of_cells(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    name, cells = POPULATION.removesuffix(".tgz"), truth.cells["A1"]
    rewrite_population(raw, lambda files: {n: c for n, c in files.items() if not n.endswith("resp.csv")} | {
        f"{name}.resp.h5": h5({c: truth.spikes[c] / 1e9 for c in cells}),
        f"{name}.resp.json": header("resp", 100, cells, "PointProcess"),
    })  # fmt: skip
    survey, _, findings = read_all(raw)
    assert [n.id for n in survey.neurons if n.meta["area"] == "A1"] == cells
    assert has(findings, "warning", "'resp' is a PointProcess at 100 Hz")


def test_a_population_that_does_not_name_its_cells(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    name = POPULATION.removesuffix(".tgz")
    rewrite_population(raw, lambda files: files | {f"{name}.resp.json": header("resp", 100, None)})
    survey, _, findings = read_all(raw)
    known = set(truth.cells["A1"]) - set(truth.population_only["A1"])
    assert {n.id for n in survey.neurons if n.meta["area"] == "A1"} == known
    assert has(findings, "warning", "signal 'resp' does not name its cells (chans)")
    assert all(s.spectrogram for s in survey.stimuli)


def test_sites_unpacked_without_their_folder(truth, tmp_path):
    raw = copy_of(truth.raw, tmp_path)
    for path in sorted(raw.glob("*_single_sites.zip")):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                (raw / member.rpartition("/")[2]).write_bytes(archive.read(member))
        path.unlink()
    survey, trials, _ = read_all(raw)
    assert {n.id for n in survey.neurons} == set(trials)
    for cell in truth.cells["PEG"]:
        name = sound_names(12, 3)[0]
        np.testing.assert_array_equal(counts_of(trials[cell], name), truth.counts(cell, name))


def test_sounds_that_differ_between_the_areas(tmp_path):
    truth = write_nat4(tmp_path / "raw")
    other = write_nat4(tmp_path / "other", seed=1)
    for file in ("PEG_NAT4_ozgf.fs100.ch18.tgz",):
        (truth.raw / file).write_bytes((other.raw / file).read_bytes())
    survey, _, findings = read_all(truth.raw)
    assert has(findings, "warning", "PEG: 15 sounds differ from those of the area before")
    np.testing.assert_array_equal(survey.stimuli[0].spectrogram(), truth.sounds[survey.stimuli[0].id])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RawDataError, match="expected NAT4: <area>_NAT4_ozgf"):
        NAT4(tmp_path).survey([].append)
    (tmp_path / "A1_single_sites.zip").write_bytes(b"PK no zip")
    findings = []
    with pytest.raises(RawDataError, match="no readable recording"):
        NAT4(tmp_path).survey(findings.append)
    assert has(findings, "error", "A1_single_sites.zip: expected a whole zip archive")


def test_a_release_in_a_folder_of_its_own_is_found(truth, tmp_path):
    (tmp_path / "nat4").symlink_to(truth.raw)
    with pytest.raises(RawDataError, match=r"\(it lies in nat4: give that folder\)"):
        NAT4(tmp_path).survey(lambda finding: None)


def test_survey_is_picklable_and_cheap_to_send(truth):
    survey = NAT4(truth.raw).survey([].append)
    again = pickle.loads(pickle.dumps(survey))
    np.testing.assert_array_equal(again.stimuli[3].spectrogram(), survey.stimuli[3].spectrogram())
    assert isinstance(survey.stimuli[0].spectrogram, functools.partial)
