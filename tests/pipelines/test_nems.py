"""NEMS recordings: every kind of signal, every packing, and what is refused."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from writers.nems import RasterCsv, epoch_table, h5, header, write_folder, write_tgz

from strfcube.errors import RawDataError
from strfcube.pipelines.nems import read_bundle, read_head
from strfcube.pipelines.nems_files import Bundle, raster_blocks, read_header

ROWS = [("STIM_b.wav", 0.5, 1.0), ('STIM_a, "loud".wav', 0.0, 0.5), ("STIM_b.wav", 1.0, 1.5), ("TRIAL", 0.0, 0.501)]
RESP = np.arange(30, dtype=float).reshape(15, 2) % 4


def recording(**changes):
    """Files of a recording with all three kinds of signal."""
    files = {
        "a.b.meta.json": b"{}",
        "a.b.resp.csv": RasterCsv(RESP),
        "a.b.resp.json": header("resp", 10, ["c2", "c1"], reverse=True),
        "a.b.resp.epoch.csv": epoch_table(ROWS),
        "a.b.spikes.h5": h5({"u2": [0.1, 0.2, 0.55], "u1": np.empty(0), "u3": [1.0, 1.499]}),
        "a.b.spikes.json": header("spikes", 10, None, "PointProcess", meta={"rasterfs": 10}, seconds=1.5),
        "a.b.spikes.epoch.csv": epoch_table(ROWS, ("name", "x", "end", "start")),
        "a.b.stim.h5": h5({"STIM_b.wav": np.arange(10).reshape(2, 5)}),
        "a.b.stim.json": header("stim", 10, ["f1", "f2"], "TiledSignal"),
    }
    return {name: content for name, content in (files | changes).items() if content is not None}


def pack(tmp_path, how, files):
    if how == "folder":
        return Bundle(write_folder(tmp_path / "rec", files))
    if how == "wrapped folder":
        write_folder(tmp_path / "outer" / "rec", files)
        return Bundle(tmp_path / "outer")
    if how == "zip":
        content = write_tgz(io.BytesIO(), files).getvalue()
        with zipfile.ZipFile(tmp_path / "sites.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sites/rec.tgz", content)
        return Bundle(tmp_path / "sites.zip", "sites/rec.tgz")
    return Bundle(write_tgz(tmp_path / "rec.tgz", files, wrap="rec" if how == "wrapped tgz" else ""))


def tgz_of(tmp_path, members):
    with tarfile.open(tmp_path / "odd.tgz", "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return Bundle(tmp_path / "odd.tgz", "", "odd.tgz")


@pytest.mark.parametrize("how", ["folder", "wrapped folder", "tgz", "wrapped tgz", "zip"])
@pytest.mark.parametrize("backwards", [False, True])
def test_every_kind_of_signal_in_every_packing(tmp_path, how, backwards):
    files = recording()
    bundle = pack(tmp_path, how, dict(list(files.items())[::-1]) if backwards else files)
    signals = read_bundle(bundle)
    assert sorted(signals) == ["resp", "spikes", "stim"]
    resp, spikes, stim = signals["resp"], signals["spikes"], signals["stim"]
    assert (resp.chans, resp.header.kind, resp.header.fs) == (("c2", "c1"), "RasterizedSignal", 10)
    np.testing.assert_array_equal(resp.values, RESP)
    assert spikes.chans == ("u1", "u2", "u3")
    np.testing.assert_array_equal(spikes.events["u2"], [0.1, 0.2, 0.55])
    assert spikes.events["u1"].size == 0
    assert stim.chans == ("f1", "f2")
    for signal in signals.values():  # stim has no epochs of its own
        assert signal.epochs.names == tuple(name for name, _, _ in ROWS)
        np.testing.assert_array_equal(signal.epochs.starts, [start for _, start, _ in ROWS])
        np.testing.assert_array_equal(signal.epochs.ends, [end for _, _, end in ROWS])
    assert resp.epochs.occurrences("STIM_") == [1, 0, 2]
    assert sorted(read_bundle(bundle, ("stim", "pupil"))) == ["stim"]
    head, epochs = read_head(bundle, "spikes")
    assert (head, epochs.names) == (spikes.header, spikes.epochs.names)


def test_epochs_of_every_kind(tmp_path):
    signals = read_bundle(pack(tmp_path, "tgz", recording()), sparse=("resp",))
    np.testing.assert_array_equal(signals["resp"].values.toarray(), RESP)
    np.testing.assert_array_equal(signals["resp"].epoch(2), RESP[10:15].T)
    np.testing.assert_array_equal(signals["spikes"].epoch(1), [[0] * 5, [0, 1, 1, 0, 0], [0] * 5])
    np.testing.assert_array_equal(signals["spikes"].epoch(2), [[0] * 5, [0] * 5, [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(signals["stim"].epoch(0), np.arange(10).reshape(2, 5))
    np.testing.assert_array_equal(signals["stim"].epoch(1), np.zeros((2, 5)))  # no tile: zeros


def test_a_channel_that_only_json_names_has_no_counts(tmp_path):
    files = recording(**{"a.b.spikes.json": header("spikes", 10, ["u1", "u9"], "PointProcess")})
    spikes = read_bundle(pack(tmp_path, "tgz", files))["spikes"]
    np.testing.assert_array_equal(spikes.epoch(1), [[0] * 5, [np.nan] * 5])
    assert "u9" not in spikes.events


def test_an_epoch_longer_than_its_signal_is_found_and_missing_past_the_end(tmp_path):
    rows = [*ROWS, ("STIM_late.wav", 1.2, 1.8)]
    files = recording(**{"a.b.resp.epoch.csv": epoch_table(rows), "a.b.spikes.epoch.csv": epoch_table(rows)})
    signals = read_bundle(pack(tmp_path, "tgz", files))
    assert signals["resp"].overhang("STIM_") == signals["spikes"].overhang("STIM_") == [4]
    assert signals["stim"].overhang() == []  # nothing states its length
    late = signals["resp"].epoch(4)
    np.testing.assert_array_equal(late[:, :3], RESP[12:15].T)
    assert np.isnan(late[:, 3:]).all()


def test_real_recording(real_data):
    signals = read_bundle(Bundle(real_data / "nems" / "eno052d-a1.tgz"))
    resp, pupil = signals["resp"], signals["pupil"]
    assert (resp.header.fs, resp.chans, resp.values.shape) == (10, ("eno052d-a1",), (13439, 1))
    assert resp.values.sum() == 4948
    assert np.isnan(pupil.values).sum() == 7
    with tarfile.open(real_data / "nems" / "eno052d-a1.tgz") as tar:
        text = tar.extractfile("eno052d-a1/eno052d-a1.pupil.csv").read()
    np.testing.assert_array_equal(pupil.values, np.loadtxt(io.BytesIO(text), np.float32, ndmin=2, delimiter=","))
    assert len(resp.epochs.names) == 1202
    rows = resp.epochs.occurrences("STIM_")
    assert len(rows) == 240
    assert {resp.epoch(row).shape for row in rows} == {(1, 55)}
    assert resp.overhang("STIM_") == []


@pytest.mark.parametrize("cell", ["TAR010c-18-1", "TAR010c-57-1"])
def test_real_tables(real_data, cell):
    bundle = Bundle(real_data / "nems" / cell)
    for signal, chans in (("resp", (cell,)), ("pupil", ("pupil",)), ("stim", ())):
        head, epochs = read_head(bundle, signal)
        assert (head.name, head.fs, head.chans) == (signal, 100, chans)
        assert len(epochs.names) == 1712
    names = [epochs.names[row] for row in epochs.occurrences("STIM_")]
    assert len(set(names)) == 93
    assert sorted({names.count(name) for name in set(names)}) == [3, 24]
    assert {name[:7] for name in names if names.count(name) == 24} == {"STIM_00"}
    assert sum("," in name for name in set(names)) == 1
    with pytest.raises(RawDataError, match=r"has a json file but no data"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "member"),
    [("../evil.resp.csv", r"\.\./evil"), ("/etc/evil.resp.csv", "/etc/evil"), ("a/../../evil.json", "evil"),
     ("C:\\evil.json", "evil"), ("a\\..\\..\\evil.json", "evil")],
)  # fmt: skip
def test_a_member_outside_its_folder_is_refused(tmp_path, name, member):
    bundle = tgz_of(tmp_path, [(tarfile.TarInfo("rec/ok.txt"), b""), (tarfile.TarInfo(name), b"1\n")])
    with pytest.raises(RawDataError, match=rf"odd\.tgz: member '.*{member}.*outside its folder"):
        read_bundle(bundle)
    with pytest.raises(RawDataError, match="refused"):
        read_head(bundle, "resp")


def test_links_are_refused(tmp_path):
    link = tarfile.TarInfo("a.resp.csv")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(RawDataError, match=r"member 'a\.resp\.csv' is a link"):
        read_bundle(tgz_of(tmp_path, [(link, b"")]))


@pytest.mark.parametrize("how", ["tgz", "zip"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99, 0.9999])
def test_a_truncated_archive(tmp_path, how, keep):
    rng = np.random.default_rng(0)
    noise = {"a.b.spikes.h5": h5({f"u{k}": rng.random(1000) for k in range(4)})}
    content = write_tgz(io.BytesIO(), recording(**noise)).getvalue()
    content = content[: min(int(keep * len(content)), len(content) - 4)]
    if how == "zip":
        with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
            archive.writestr("cut.tgz", content)
        bundle = Bundle(tmp_path / "s.zip", "cut.tgz")
    else:
        (tmp_path / "cut.tgz").write_bytes(content)
        bundle = Bundle(tmp_path / "cut.tgz")
    with pytest.raises(RawDataError, match=r"cut\.tgz: expected a whole"):
        read_bundle(bundle)


def test_an_archive_that_is_none(tmp_path):
    (tmp_path / "page.tgz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(RawDataError, match=r"expected a whole \.tgz"):
        read_bundle(Bundle(tmp_path / "page.tgz"))
    (tmp_path / "text.tgz").write_bytes(gzip.compress(b"no tar archive" * 100))
    with pytest.raises(RawDataError, match=r"expected a whole \.tgz"):
        read_bundle(Bundle(tmp_path / "text.tgz"))
    with pytest.raises(RawDataError, match="there is none"):
        read_bundle(Bundle(tmp_path / "absent.tgz"))
    write_folder(tmp_path / "two" / "one", {"r.resp.json": header("resp", 10, ["c"])})
    write_folder(tmp_path / "two" / "two", {"r.resp.json": header("resp", 10, ["c"])})
    with pytest.raises(RawDataError, match=r"holds 'r\.resp\.json' twice"):
        read_bundle(Bundle(tmp_path / "two"))


def changed_header(**fields):
    return json.dumps(json.loads(header("resp", 10, ["c2", "c1"])) | fields).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a.b.resp.epoch.csv": None, "a.b.spikes.epoch.csv": None}, r"expected an \.epoch\.csv file, found none"),
        ({"a.b.resp.json": None}, "signal 'resp' with a .json file, found none"),
        ({"a.b.spikes.h5": None}, "signal 'spikes' has a json file but no data"),
        ({"a.b.resp.json": b'{"fs": 10,'}, r"resp\.json: expected a json object"),
        ({"a.b.resp.json": b"[]"}, r"resp\.json: expected a json object"),
        ({"a.b.resp.json": changed_header(fs=0)}, r"resp\.json: expected a .*positive 'fs'"),
        ({"a.b.resp.json": changed_header(fs=-1)}, r"resp\.json: expected a positive 'fs', found -1"),
        ({"a.b.resp.json": changed_header(chans=["c1"])}, "json names 1 channels, data hold 2"),
        ({"a.b.resp.json": changed_header(signal_type="Odd")}, "signal_type 'Odd': expected one of"),
        ({"a.b.resp.json": changed_header(signal_type="PointProcess")}, "is a PointProcess, but its data are csv"),
        ({"a.b.spikes.h5": h5({"u1": np.array([b"x"])})}, "expected event times in s, found no numbers for u1"),
        ({"a.b.spikes.h5": b"\x89HDF\r\n\x1a\nno"}, r"spikes\.h5: expected a whole HDF5 file"),
        ({"a.b.stim.h5": h5({"x": np.zeros((2, 3)), "y": np.zeros((3, 3))})}, "of equally many channels"),
        ({"a.b.resp.csv": b"1,2\n3,x\n"}, r"resp\.csv, line 2: expected a number, found b'x'"),
        ({"a.b.resp.csv": b"1,2\n3,1_0\n"}, r"resp\.csv, line 2: expected a number, found b'1_0'"),
        ({"a.b.resp.csv": b"1,2\n3,4\n5\n"}, r"resp\.csv, line 3: expected 2 values, found 1"),
        ({"a.b.resp.epoch.csv": b"start,end,label\n0,1,x\n"}, r"epoch\.csv, line 1: expected .* columns start, end"),
        ({"a.b.resp.epoch.csv": b""}, r"epoch\.csv, line 1: expected a table"),
        ({"a.b.resp.epoch.csv": b"start,end,name\n0,1,x\n0,1s,x\n"}, r"epoch\.csv, line 3: expected a start and an"),
        ({"a.b.resp.epoch.csv": b"start,end,name\n0,1_0,x\n"}, r"epoch\.csv, line 2: expected a start and an"),
        ({"a.b.resp.epoch.csv": b"start,end,name\n0,1\n"}, r"epoch\.csv, line 2"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, changes, message):
    with pytest.raises(RawDataError, match=message):
        read_bundle(pack(tmp_path, "tgz", recording(**changes)))


def test_a_damaged_number_is_not_quoted_at_length(tmp_path):
    table = b"start,end,name\n0," + b"\0" * 10_000 + b",x\n"
    with pytest.raises(RawDataError, match=r"epoch\.csv, line 2: expected a start and an end") as said:
        read_bundle(pack(tmp_path, "tgz", recording(**{"a.b.resp.epoch.csv": table})))
    assert len(str(said.value)) < 2000


def test_rows_without_times_are_no_occurrences(tmp_path):
    table = b",start,end,name,extra\n0,0,1,x,a\n1,,,PUPIL,b\n2,3,2,x,c\n3,4,inf,x,\n4,1,2,x,\n"
    epochs = read_bundle(pack(tmp_path, "tgz", recording(**{"a.b.resp.epoch.csv": table})))["resp"].epochs
    assert epochs.occurrences("x") == [0, 4]
    assert epochs.without_times("x") == [2, 3]
    assert epochs.without_times("P") == [1]


@pytest.mark.parametrize("segments", [None, [], "[[0, 20]]", [[0]], [{"end": 20}]])
def test_segments_that_say_nothing(tmp_path, segments):
    files = recording(**{"a.b.resp.json": changed_header(segments=segments)})
    assert read_bundle(pack(tmp_path, "tgz", files))["resp"].seconds > 0
    assert np.isnan(read_header(io.BytesIO(files["a.b.resp.json"]), "x").seconds)


@pytest.mark.parametrize("first", [True, False])
def test_an_empty_table_of_another_signal_is_not_taken(tmp_path, first):
    files = recording(**{"a.b.resp.epoch.csv": None})
    empty = {"a.b.mask_est.epoch.csv": b",start,end,name\n", "a.b.mask_est.csv": b""}
    bundle = pack(tmp_path, "tgz", empty | files if first else files | empty)
    assert read_bundle(bundle, ("resp",))["resp"].epochs.names
    assert read_head(bundle, "resp")[1].names


def text_of(values):
    out = io.StringIO()
    np.savetxt(out, values, "%.18e", ",")
    return out.getvalue().encode()


def parse(text, monkeypatch=None):
    blocks = list(raster_blocks(io.BytesIO(text), "m.csv"))
    return np.concatenate(blocks)


@pytest.mark.parametrize("block", [100, 1000, 1 << 23])
@pytest.mark.parametrize("kind", ["counts", "missing column", "missing rows", "all missing", "signed", "few channels"])
def test_matrices_equal_numpys_own_reading(monkeypatch, block, kind):
    rng = np.random.default_rng(1)
    values = rng.poisson(0.3, (120, 1 if kind == "few channels" else 7)).astype(float)
    values[:30] = rng.random(values[:30].shape)
    if kind == "missing column":
        values[30:90, [0, 4]] = np.nan
    if kind == "missing rows":
        values[50] = np.nan
        values[-1] = np.nan
    if kind == "all missing":
        values[:] = np.nan
    if kind == "signed":
        values[::3] *= -1
    monkeypatch.setattr("strfcube.pipelines.nems_files._BLOCK", block)
    text = text_of(values)
    expected = np.loadtxt(io.BytesIO(text), np.float64, delimiter=",", ndmin=2).astype(np.float32)
    np.testing.assert_array_equal(parse(text), expected)
    np.testing.assert_array_equal(parse(text.replace(b"\n", b"\r\n")), expected)
    with pytest.raises(RawDataError, match="ends within a line"):
        parse(text.rstrip())


def test_blank_lines_at_the_end_of_a_matrix():
    rows = b"".join(b",".join(b"%.18e" % v for v in row) + b"\n" for row in np.arange(24.0).reshape(8, 3))
    (block,) = raster_blocks(io.BytesIO(rows + b"\n \n"), "m.csv")
    np.testing.assert_array_equal(block, np.arange(24.0).reshape(8, 3))
    with pytest.raises(RawDataError, match="expected 3 values, found 1"):
        list(raster_blocks(io.BytesIO(rows[:150] + b"\n" + rows[150:]), "m.csv"))


def test_numbers_in_other_formats():
    np.testing.assert_array_equal(parse(b"0.5,1,-2e3\n0.25,nan,3\n"), np.float32([[0.5, 1, -2e3], [0.25, np.nan, 3]]))


@pytest.mark.parametrize("row", [5, 99])
def test_a_damaged_number_is_found_by_its_line(row):
    lines = text_of(np.ones((100, 3))).split(b"\n")
    lines[row] = lines[row][:30] + b"x" + lines[row][31:]
    with pytest.raises(RawDataError, match=rf"m\.csv, line {row + 1}: expected a number"):
        parse(b"\n".join(lines))
