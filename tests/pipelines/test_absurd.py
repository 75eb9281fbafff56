"""One absurd value in the raw files is a finding that names its place, and the rest is built."""

import io
import json
import tarfile

import h5py
import numpy as np
import pytest
import xarray as xr
from scipy.io import loadmat, savemat
from writers import aa, aa4, ac1, nat4
from writers.nems import write_tgz

import strfcube
from strfcube import limits
from strfcube.errors import RawDataError
from strfcube.pipelines import nems_files, text_trials
from strfcube.pipelines.nat4.population import cut, usable


def errors(path):
    table = xr.open_zarr(path, group="findings", chunks=None).load()
    rows = zip(*(table[n].values for n in ("severity", "file", "line", "what")), strict=True)
    return [tuple(row[1:]) for row in rows if row[0] == "error"]


@pytest.mark.slow
def test_times_and_trials_of_a_text_file(tmp_path):
    aa.write_aa1(tmp_path / "raw")
    late, many = sorted(p for p in (tmp_path / "raw").rglob("spike*") if p.stat().st_size > 100)[:2]
    lines = late.read_text().splitlines()
    late.write_text("\n".join([*lines[:2], "999999999 ", *lines[3:]]) + "\n")
    many.write_text("\n" * 70_000)
    path = strfcube.build("aa1", raw=tmp_path / "raw", out=tmp_path / "cube.zarr", jobs=0)
    names = [f.relative_to(tmp_path / "raw").as_posix() for f in (late, many)]
    assert sorted(e for e in errors(path) if e[0] in names) == sorted([
        (names[0], 3, "expected a spike time in ms, found '999999999'"),
        (names[1], 0, "more than 65,535 trials of one stimulus to one neuron"),
    ])  # fmt: skip
    assert strfcube.verify(path) == []


def test_a_text_file_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "TEXT_BYTES", 100_000)
    (tmp_path / "spike1").write_text("1.0 \n" * 30_000)
    found = []
    assert text_trials.trial_text(tmp_path, "spike1", found.append) == b""
    assert found[0].what == "it cannot be read: larger than 0.1 MB, the most that is read"


def test_attributes_of_aa4(tmp_path):
    aa4.write_aa4(tmp_path / "raw")
    units = [h for h in sorted((tmp_path / "raw").rglob("*.h5")) if h5py.is_hdf5(h)][:3]
    for unit, (key, value) in zip(
        units, [("electrode", 1e300), ("electrode", np.inf), ("sortid", -1e300)], strict=True
    ):
        with h5py.File(unit, "a") as file:
            file.attrs[key] = value

            def spoil(_, item):
                if "stim_duration" in item.attrs:
                    item.attrs["stim_duration"] = np.inf
                if "post_time" in item.attrs:
                    item.attrs["post_time"] = 9.3e9

            file.visititems(spoil)
    path = strfcube.build("aa4", raw=tmp_path / "raw", out=tmp_path / "cube.zarr", jobs=0)
    said = {what for _, _, what in errors(path)}
    assert {"the attribute electrode is 1e+300", "the attribute electrode is inf"} <= said
    assert "the attribute sortid is -1e+300" in said
    assert any(what.startswith("a recorded window that reaches to 9.3e+09 s") for what in said)
    assert strfcube.verify(path) == []


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 1e12])
def test_rates_of_ac1(tmp_path, rate):
    """Of a sound, and of a recording: what needs the file is left out, and the rest is built."""
    ac1.write(tmp_path / "raw", wehr_cells=2)
    sound = tmp_path / "raw" / "crcns-ac1/asari/Stimuli/class3/1.mat"
    trace = sorted((tmp_path / "raw").rglob("*-mw-*.mat"))[0]
    for file, name in ((sound, "stimulus"), (trace, "response")):
        content = {k: v for k, v in loadmat(file).items() if not k.startswith("__")}
        struct = content[name].flat[0] if content[name].dtype == object else content[name]
        place = struct["param"].flat[0] if name == "stimulus" else struct
        place = place.flat[0] if isinstance(place, np.ndarray) and place.dtype == object else place
        place["sf"].flat[0] = np.array([[rate]])
        savemat(file, content)
    path = strfcube.build("ac1", raw=tmp_path / "raw", out=tmp_path / "cube.zarr", jobs=0)
    said = {file: what for file, _, what in errors(path)}
    assert said[sound.relative_to(tmp_path / "raw").as_posix()].endswith(f"at {rate:g} Hz")
    assert (
        said[trace.relative_to(tmp_path / "raw").as_posix()] == f"expected a rate in 'response.sf', found {rate:g} Hz"
    )
    assert strfcube.verify(path) == []


@pytest.mark.parametrize("fs", [1e-12, 1e12])
def test_rates_of_nems(fs):
    with pytest.raises(RawDataError, match=r"Hz: 0.1 to 1e\+07 Hz are possible"):
        nems_files.read_header(io.BytesIO(json.dumps({"fs": fs, "segments": [[0, 10]]}).encode()), "x.json")


def test_epochs_of_nems(monkeypatch):
    """Times that 64 bits of nanoseconds do not hold wrapped around; now they are epochs without a time."""
    table = "start,end,name\n0,1,STIM_a\n9.3e9,9.3e9,STIM_b\n0,1e7,STIM_c\n2,3,STIM_d\n"
    epochs = nems_files.read_epochs(io.BytesIO(table.encode()), "x.csv")
    assert epochs.occurrences("STIM_") == [0, 3]
    assert epochs.without_times("STIM_") == [1, 2]
    times = usable(np.array([0.5, 9.3e9, np.nan, -1.0, 2.5]))
    sizes, relative = cut(times, epochs.starts[[0, 3]], epochs.ends[[0, 3]])
    assert sizes.tolist() == [1, 1]
    assert relative.tolist() == [0.5, 0.5]
    monkeypatch.setattr(limits, "TEXT_BYTES", 20)
    with pytest.raises(RawDataError, match="it is larger"):
        nems_files.read_epochs(io.BytesIO(table.encode()), "x.csv")


def test_one_x_in_the_population_of_nat4(tmp_path):
    """Told with its line, and the responses are built without the spectrograms; it hid behind another error."""
    nat4.write_nat4(tmp_path / "raw", sites={"A1": {"ARM029a": 2}}, extra={}, population_only={})
    archive = next((tmp_path / "raw").glob("A1_NAT4*"))
    with tarfile.open(archive) as tar:
        files = {m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar if m.isreg()}
    name = next(n for n in files if n.endswith("stim.csv"))
    rows = files[name].split(b"\n")
    files[name] = b"\n".join([*rows[:100], b"x" + rows[100], *rows[101:]])
    write_tgz(archive, files)
    path = strfcube.build("nat4", raw=tmp_path / "raw", out=tmp_path / "cube.zarr", jobs=0)
    assert [(line, what[:27]) for _, line, what in errors(path)] == [(101, "expected a number, found b'")]
    cube = strfcube.open(path)
    assert bool(cube["stimulus"].isnull().all())
    assert float(cube["response"].sum()) > 0
