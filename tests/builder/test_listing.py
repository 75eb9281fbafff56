"""Listing raw files of which some hang or crash whoever reads them: those are left out with a finding."""

import os
from pathlib import Path

import pytest
import xarray as xr
from toy import make_neuron, make_stim, spikes

import strfcube
from strfcube.builder import listing, tasks
from strfcube.builder.request import prepare
from strfcube.errors import RawDataError, UsageError
from strfcube.raw_files import reading
from strfcube.records import Finding, Pipeline, Source, Survey


class Fragile(Pipeline):
    """A neuron a file; a file that says so hangs or crashes its reader, as libraries do."""

    files = ("*.txt",)

    def survey(self, report):
        neurons = []
        for file in sorted(self.raw.glob("*.txt")):
            try:
                self.open(file, reading)
            except OSError as error:
                report(Finding("error", file.name, str(error), "the neuron is left out"))
            else:
                neurons.append(make_neuron(file.stem, file.stem))
        if (self.raw / "end.txt").exists():
            self.open(self.raw / "end.txt", lambda _: None)
        return Survey([make_stim("a")], neurons, [Source(n.id, n.id) for n in neurons])

    def open(self, file, note):
        note(file)
        says = Path(file).read_text()
        while says == "hang":
            pass
        if says == "crash":
            os.abort()

    def read(self, source, report):
        yield spikes("a", source.payload, 1, [5.0])


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv(tasks.SECONDS_VARIABLE, "2")
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in "bdf":
        (folder / f"{name}.txt").write_text("fine")
    return folder


@pytest.mark.slow
def test_files_that_hang_or_crash(raw, tmp_path):
    (raw / "a.txt").write_text("hang")
    (raw / "c.txt").write_text("crash")
    path = strfcube.build(Fragile(raw), out=tmp_path / "cube.zarr", dt=5, jobs=2)
    cube = strfcube.open(path)
    assert cube["neuron"].values.tolist() == ["b", "d", "f"]
    table = xr.open_zarr(path, group="findings", chunks=None).load()
    said = dict(zip(table["file"].values, table["what"].values, strict=True))
    assert said["a.txt"] == "reading it took more than 2 s of processor time"
    assert said["c.txt"] == "reading it crashed (ended by SIGABRT)"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cube.zarr", "raw"]


@pytest.mark.slow
def test_what_would_be_built_is_listed_in_the_same_way(raw, tmp_path):
    (raw / "a.txt").write_text("hang")
    seen = listing.preview(prepare(Fragile(raw), out=tmp_path / "cube.zarr", dt=5))
    assert seen == {"stimuli": 1, "neurons": 3, "sources": 3, "findings": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("says", "what"), [("hang", "took more than 2 s of processor time"), ("crash", "crashed")])
def test_what_no_file_is_known_to_do(raw, tmp_path, monkeypatch, says, what):
    """One line, where a pipeline does not say what it reads, or a file does it again."""
    (raw / "end.txt").write_text(says)
    monkeypatch.setattr(listing, "MOST_FILES", 1)
    with pytest.raises(RawDataError, match=f"listing the raw files {what}") as error:
        strfcube.build(Fragile(raw), out=tmp_path / "cube.zarr", dt=5, jobs=1)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_limit_that_is_none(raw, tmp_path, monkeypatch):
    monkeypatch.setenv(tasks.SECONDS_VARIABLE, "soon")
    with pytest.raises(UsageError, match="give the seconds of processor time"):
        strfcube.build(Fragile(raw), out=tmp_path / "cube.zarr", dt=5, jobs=1)
