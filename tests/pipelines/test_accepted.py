"""What a raw file holds is not what it should be, though it can be read: each is a finding, and nothing else is."""

import csv
import hashlib
import io
import re
import shutil
import tarfile
import time
import zipfile

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat, wavfile
from writers import aa, aa4, ac1, nat4, ns1

import strfcube
from strfcube import catalog, limits
from strfcube.builder import copies, ingest, spool
from strfcube.builder.checks import bins_of, checked, usual_rate
from strfcube.errors import UsageError
from strfcube.loading import CubeView

WRITERS = {
    "aa1": aa.write_aa1,
    "aa2": aa.write_aa2,
    "aa4": aa4.write_aa4,
    "ac1": lambda raw: ac1.write(raw, wehr_cells=2),
    "ns1": lambda raw: ns1.write_ns1(raw, units=2, repeats=3, drc_repeats=1),
    "nat4": lambda raw: nat4.write_nat4(raw, sites={"A1": {"ARM029a": 3, "CRD016d": 2}}, extra={}, est=4, wavs=True),
}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Raw folders as the writers make them, each once."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "raw"
            WRITERS[kind](made[kind])
        return made[kind]

    return of


@pytest.fixture
def raw(written, tmp_path):
    """A raw folder of one's own."""
    return lambda kind: shutil.copytree(written(kind), tmp_path / "raw")


def read(kind, folder, tmp):
    """Findings of all that a build does with raw files before it writes a cube."""
    dt_ns = 10_000_000 if kind == "nat4" else 5_000_000
    found = []
    pipeline = catalog.pipeline_class(kind)(folder)
    survey = checked(pipeline.survey(found.append), found.append)
    usual_rate(survey.stimuli, found.append)
    context = ingest.Context(
        pipeline, {s.id: i for i, s in enumerate(survey.stimuli)}, {n.id: i for i, n in enumerate(survey.neurons)},
        np.array([bins_of(s, dt_ns, 0) for s in survey.stimuli]), tuple(str(n.meta["units"]) for n in survey.neurons),
        dt_ns, time.time_ns(),
    )  # fmt: skip
    summaries = []
    for source in survey.sources:
        ingest.ingest(context, source, str(tmp / "one.spool"))
        summaries.append(spool.summary(str(tmp / "one.spool")))
        found += summaries[-1].findings
    found += copies.between(summaries, [n.id for n in survey.neurons])
    return {(f.below(folder).file, f.line, f.what) for f in found if f.severity != "info"}


def new(kind, written, folder, tmp):
    """Findings that the folder as it was written has not."""
    return sorted(read(kind, folder, tmp) - read(kind, written(kind), tmp))


def pick(folder, pattern, least=0):
    return sorted(p for p in folder.rglob(pattern) if p.stat().st_size > least)


# --- text trials -----------------------------------------------------------------------------------------------------


def test_wavs_of_aa1(raw, written, tmp_path):
    folder = raw("aa1")
    half, hertz, other = pick(folder, "*.wav")[:3]
    for wav, rate in ((half, 16000), (hertz, 1)):
        wavfile.write(wav, rate, wavfile.read(wav)[1])
    content = bytearray(other.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    found = {what for file, _, what in new("aa1", written, folder, tmp_path) if file.endswith(".wav")}
    assert "its header says 16000 Hz, the wavs of this data set have 32000 Hz" in found
    assert "its header says 1 Hz, the wavs of this data set have 32000 Hz" in found
    assert any(what.startswith("a sampling rate of 1 Hz, expected 100 to") or "1 Hz" in what for what in found)
    assert sum(what.startswith("its MD5 is ") for what in found) == 3


@pytest.mark.slow
def test_one_low_rate_does_not_bend_the_axis_of_all(raw, written, tmp_path):
    folder = raw("aa1")
    wav = pick(folder, "*.wav")[0]
    wavfile.write(wav, 8000, wavfile.read(wav)[1])
    cube = strfcube.open(strfcube.build("aa1", raw=folder, out=tmp_path / "cube.zarr", jobs=0))
    whole = strfcube.open(strfcube.build("aa1", raw=written("aa1"), out=tmp_path / "whole.zarr", jobs=0))
    assert cube["frequency"].values.tolist() == whole["frequency"].values.tolist()
    lacking = cube["stimulus"].isnull().all(("frequency", "time"))
    assert cube["stim"].values[lacking].tolist() == [wav.stem]
    for name in cube["stim"].values[~lacking]:
        one, same = (c["stimulus"].sel(stim=name).dropna("time", how="all") for c in (cube, whole))
        np.testing.assert_array_equal(one, same)


def test_trials_that_are_copied_in_text(raw, written, tmp_path):
    folder = raw("aa1")
    cells = folder / "MLd_cells" / "pipu1018_2_A" / "flatrip"
    lines = (cells / "spike1").read_text().splitlines(keepends=True)
    (cells / "spike1").write_text("".join([*lines, lines[3]]))  # a trial
    shutil.copy(cells / "spike2", cells / "spike9")  # a file, and its stim file, under another number
    shutil.copy(cells / "stim2", cells / "stim9")
    shutil.copytree(folder / "Field_L_cells" / "gg0304_10_B", folder / "Field_L_cells" / "gg0304_11_B")  # a cell
    found = new("aa1", written, folder, tmp_path)
    where = "MLd_cells/pipu1018_2_A/flatrip"
    assert any(file == f"{where}/spike1" and what.startswith("trial 10 of ") and "equals trial 3 of" in what
               for file, _, what in found)  # fmt: skip
    assert any(file == f"{where}/spike9" and f"in {where}/spike2, and so do" in what for file, _, what in found)
    assert any(what == "neuron gg0304_11_B has the same responses as gg0304_10_B, to 7 of its stimuli"
               for _, _, what in found)  # fmt: skip
    assert len(found) == 3


def test_trials_that_are_rightly_equal(raw, written, tmp_path):
    folder = raw("aa1")
    file = folder / "MLd_cells" / "pipu1018_2_A" / "flatrip" / "spike1"
    file.write_text("\n\n\n12.500 \n12.500 \n1.000 2.000 \n1.000 2.000 \n")
    assert new("aa1", written, folder, tmp_path) == []


FAR = "lie more than 60 s from their stimulus: the first is"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (b"1.000 2.000 \n5.125 3742.8", 2, "expected a spike time in ms, found '3742.8...'"),
        (b"1.000 2.000 \n5.125 3742.8", 2, "the file ends within a line: it may be cut short"),
        (b"1.000 2.000 \n5.125 3742.812", 2, "the file ends within a line: it may be cut short"),
        (b"1.000 \n2.000 4000.000 -2000.125 \n", 2,
         "2 spike times outside of -2000 to 4000 ms from onset, the first is 4000 ms"),
        (b"1.000 \n-100000.000 \n", 0, f"1 spike times {FAR} -100 s, of trial 1"),
        (b"1.000 \n950400000.000 \n", 2, "expected a spike time in ms, found '950400000.000'"),
        (b"0.001 0.002 1.937 \n" * 17, 0, None),
    ],
)  # fmt: skip
def test_times_in_text(raw, written, tmp_path, text, line, what):
    folder = raw("aa1")
    cell = folder / "MLd_cells" / "pipu1018_2_A" / "flatrip"
    (cell / "spike1").write_bytes(text)
    if what is None:  # s for ms
        rng = np.random.default_rng(0)
        for file in cell.glob("spike*"):
            file.write_text("".join(" ".join(f"{t:.5f}" for t in rng.uniform(0, 2, 9)) + " \n" for _ in range(5)))
    found = new("aa1", written, folder, tmp_path)
    if what is None:
        assert any(w.startswith("all 135 spike times lie within 0.00") for _, _, w in found)
    else:
        assert ("MLd_cells/pipu1018_2_A/flatrip/spike1", line, what) in found


def test_one_file_in_another_unit_than_its_cell(raw, written, tmp_path):
    folder = raw("aa1")
    cell = folder / "MLd_cells" / "pipu1018_2_A" / "flatrip"
    rng = np.random.default_rng(0)
    for file in cell.glob("spike*"):
        unit = 1e-3 if file.name == "spike1" else 1.0
        trials = [rng.uniform(0, 2000, 12) * unit for _ in range(5)]
        file.write_text("".join(" ".join(f"{t:.5f}" for t in trial) + " \n" for trial in trials))
    told = [(file, w) for file, _, w in new("aa1", written, folder, tmp_path) if w.startswith("all 60 spike times")]
    assert [file for file, _ in told] == [(cell / "spike1").relative_to(folder).as_posix()]


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        (lambda b: b"".join(b.splitlines(True)[:6]), 6, "6 lines, where the cell's files usually have 10"),
        (lambda b: b"\n" + b, 1, "11 lines, where the cell's files usually have 10, and the first is empty"),
        (lambda b: b + b"\n", 11, "11 lines, where the cell's files usually have 10, and the last is empty"),
        (lambda b: b.replace(b"\n", b"\n\n"), 20, "20 lines, where the cell's files usually have 10"),
    ],
    ids=["cut at a line end", "blank first", "blank last", "doubled line ends"],
)
def test_a_file_of_another_number_of_trials_than_its_cell(raw, tmp_path, change, place, what):
    folder = raw("aa1")
    cell = folder / "MLd_cells" / "pipu1018_2_A" / "flatrip"
    rng = np.random.default_rng(0)
    for file in cell.glob("spike*"):
        trials = (rng.uniform(0, 2000, 3) for _ in range(10))
        file.write_text("".join(" ".join(f"{t:.3f}" for t in trial) + " \n" for trial in trials))
    (cell / "spike2").write_bytes(change((cell / "spike2").read_bytes()))
    found = []
    pipeline = catalog.pipeline_class("aa1")(folder)
    for source in pipeline.survey(lambda finding: None).sources:
        if source.id == "pipu1018_2_A":
            list(pipeline.read(source, found.append))
    file = (cell / "spike2").relative_to(folder).as_posix()
    assert [(f.file, f.line, f.what) for f in found] == [(file, place, what)]


def test_line_ends_that_were_doubled_in_all_files(raw, written, tmp_path):
    folder = raw("aa1")
    cell = folder / "MLd_cells" / "pipu1018_2_A"
    for file in cell.rglob("spike*"):
        file.write_bytes(b"1.000 2.000 \n\n" * 10)
    what = "every second line of the cell's files is empty: their line ends may have been doubled"
    assert (cell.relative_to(folder).as_posix(), 0, what) in new("aa1", written, folder, tmp_path)


@pytest.mark.parametrize("kind", ["aa1", "aa2"])
def test_cells_in_a_folder_beside_the_one_that_is_read(raw, written, tmp_path, kind):
    folder = raw(kind)
    cell = next(p for p in sorted(folder.glob("*_cells/*")) if p.is_dir())
    beside = cell.parent.with_name(f"{cell.parent.name} 2")
    beside.mkdir()
    cell.rename(beside / cell.name)
    told = f"cells are read from {cell.parent.name}, not from here"
    assert (beside.name, 0, told) in new(kind, written, folder, tmp_path)


def test_aa1_and_aa2_in_one_folder(raw, written, tmp_path):
    folder = raw("aa1")
    shutil.copytree(written("aa2") / "all_cells", folder / "all_cells")
    assert new("aa1", written, folder, tmp_path) == []
    labels = [[n.id for n in catalog.pipeline_class("aa1")(raw).survey(lambda f: None).neurons]
              for raw in (folder, written("aa1"))]  # fmt: skip
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("table", "change", "line", "what"),
    [
        ("cell_regions.csv", lambda b: b.replace(b",", b";"), 1,
         "expected lines of at least 2 fields with commas between them, found none; the first is"),
        ("cell_regions.csv", lambda b: b"", 0, "the table is empty"),
        ("cell_regions.csv", lambda b: b.replace(b",CM", b","), 4, "no region of pupu2122_2_B"),
        ("stim_data.csv", lambda b: b"\n".join(b",".join(x.split(b",")[::-1]) for x in b.split()) + b"\n", 1,
         "expected a wav, its rate in Hz, bits and number of samples, found"),
    ],
    ids=["semicolons", "empty", "blank", "reversed"],
)  # fmt: skip
def test_tables_of_aa2_that_are_no_such_tables(raw, written, tmp_path, table, change, line, what):
    folder = raw("aa2")
    (folder / table).write_bytes(change((folder / table).read_bytes()))
    found = [f for f in new("aa2", written, folder, tmp_path) if f[0] == table]
    assert found[0][1] == line
    assert found[0][2].startswith(what)
    assert len(found) == 1 or table == "stim_data.csv"


def test_spikes_that_stand_twice(raw, written, tmp_path):
    """As where two copies of a recording were joined: twice as many, and no trial equals another."""
    folder = raw("aa1")
    cell = folder / "MLd_cells" / "pipu1018_2_A"
    spikes = 0
    for file in cell.rglob("spike*"):
        lines = [line.split() for line in file.read_bytes().splitlines()]
        spikes += sum(len(set(line)) for line in lines)
        file.write_bytes(b"".join(b"".join(word + b" " for word in sorted(line * 2)) + b"\n" for line in lines))
    (told,) = [what for _, _, what in new("aa1", written, folder, tmp_path) if "repeat another one" in what]
    again, total = map(int, re.match(r"(\d+) of (\d+) spike times repeat another one of their trial", told).groups())
    assert total - again == spikes


def test_a_table_that_is_cut(raw, written, tmp_path):
    folder = raw("aa2")
    table = folder / "cell_regions.csv"
    table.write_bytes(table.read_bytes().rstrip()[:-1])
    assert ("cell_regions.csv", 4, "the table ends within a line, 'pupu2122_2_B,C': it may be cut short") in new(
        "aa2", written, folder, tmp_path
    )


# --- AA4 -------------------------------------------------------------------------------------------------------------


def test_copies_and_times_in_aa4(raw, written, tmp_path):
    folder = raw("aa4")
    units = [u for u in pick(folder, "*.h5") if h5py.is_hdf5(u)]
    usable = [u for u in units if read_unit(u)]
    first, second = usable[:2]
    copy = first.with_name("Site9_L1400R1400_e20_s0_ss1.h5")
    shutil.copy(first, copy)
    with h5py.File(second, "a") as file:
        protocol = next(p for p in file if isinstance(file[p], h5py.Group) and any(k.isdigit() for k in file[p]))
        file.copy(protocol, "Copied")
    found = new("aa4", written, folder, tmp_path)
    names = [u.relative_to(folder).as_posix() for u in (copy, second)]
    assert any(f"has the same responses as {first.parent.name}/{first.stem}" in what for _, _, what in found)
    assert any(file == names[1] and " equals trial " in what for file, _, what in found)


def read_unit(path):
    with h5py.File(path) as file:
        kept = b"".join(np.atleast_1d(np.asarray(file.attrs.get("sortType", b""), "S"))).startswith((b"sing", b"multi"))
        return kept and any(isinstance(g, h5py.Group) and any(k.isdigit() for k in g) for g in file.values())


@pytest.mark.parametrize("what", ["spike times", "recorded windows"])
def test_ms_for_s_in_aa4(raw, written, tmp_path, what):
    folder = raw("aa4")
    unit = next(u for u in pick(folder, "*.h5") if h5py.is_hdf5(u) and read_unit(u))

    def spoil(name, item):
        if what == "spike times" and name.endswith("spike_times") and item.shape:
            item[...] = item[()] * 1000
        if what == "recorded windows" and "post_time" in item.attrs:
            item.attrs["post_time"] = float(item.attrs["post_time"]) * 1000

    with h5py.File(unit, "a") as file:
        file.visititems(spoil)
    found = new("aa4", written, folder, tmp_path)
    far = f"{limits.FAR_SECONDS:g} s"
    assert any(f" {what} " in w and f"more than {far}" in w and file == unit.relative_to(folder).as_posix()
               for file, _, w in found)  # fmt: skip


# --- NS1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clips_of_ns1(raw, written, tmp_path):
    folder = raw("ns1")
    short, half, nan, copied, first = pick(folder, "source.*")[:5]
    rate, samples = wavfile.read(short)
    with short.open("wb") as file:
        wavfile.write(file, rate, samples[:48828])
    own = wavfile.read(half)[1]
    with half.open("wb") as file:
        wavfile.write(file, 24414, own)
    broken = wavfile.read(nan)[1].copy()
    broken[[1000, 2000]] = np.nan, np.inf
    with nan.open("wb") as file:
        wavfile.write(file, rate, broken)
    shutil.copy(first, copied)
    found = new("ns1", written, folder, tmp_path)
    assert ("spikesandwav/SH.En.C/" + short.name, 0, "48828 samples, 0.999997 s, expected a clip of 5 s") in found
    assert any(half.name in file and "its header says 24414 Hz, expected 48828" in w for file, _, w in found)
    assert any(
        file.endswith((copied.name, first.name)) and w.startswith("it is the same file as") for file, _, w in found
    )
    path = strfcube.build("ns1", raw=folder, out=tmp_path / "cube.zarr", jobs=0)
    import xarray as xr

    table = xr.open_zarr(path, group="findings", chunks=None).load()
    said = {str(v) for v, f in zip(table["what"].values, table["file"].values, strict=True) if nan.name in str(f)}
    assert said == {
        "2 of 244140 samples are no finite numbers, the first is sample 1000: that is no whole sound; fetch it again"
    }
    view = CubeView(path)
    with pytest.raises(UsageError, match="have no spectrogram"):
        view.batch(range(len(view)))


def test_repeats_and_sweeps_of_ns1(raw, written, tmp_path):
    folder = raw("ns1")
    unit = pick(folder, "cluster*.mat")[0]
    content = loadmat(unit)
    sets = content["data"]["set"][0, 0]
    repeats = sets["repeats"].flat[4]
    repeats["t"].flat[1] = repeats["t"].flat[0]
    sets["length_signal_ms"].flat[5] = np.array([[100_000.0]])
    savemat(unit, {"data": content["data"]})
    found = [what for _, _, what in new("ns1", written, folder, tmp_path)]
    assert any(w.startswith("trial 2 of nat05 to ") and " equals trial 1 of nat05" in w for w in found)
    assert any(w.startswith("length_signal_ms of 3 trials is not 5000 to 5500") for w in found)


# --- AC1 -------------------------------------------------------------------------------------------------------------


def test_copies_in_ac1(raw, written, tmp_path):
    folder = raw("ac1")
    wehr = pick(folder, "2*-mw-*.mat")[0]
    shutil.copy(wehr, wehr.with_name("copy.mat"))
    asari = pick(folder, "2*-ha*.mat")[0]
    content = {k: v for k, v in loadmat(asari).items() if not k.startswith("__")}
    content["triggers"] = np.tile(content["triggers"], 2)
    savemat(asari, content)
    found = new("ac1", written, folder, tmp_path)
    assert any("it is a copy of " in what for _, _, what in found)
    assert any("the same onset as trigger" in what for _, _, what in found)


# --- NAT4 ------------------------------------------------------------------------------------------------------------


def retar(path, change):
    """Change the members of a .tgz: a function of name and content to content."""
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = change(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def population(folder):
    return next(folder.glob("A1_NAT4*"))


def test_powers_of_nat4(raw, written, tmp_path):
    """No number, infinite or negative: told with the line, and never read as silence."""
    folder = raw("nat4")

    def change(name, content):
        if not name.endswith("stim.csv"):
            return content
        rows = content.split(b"\n")
        for line, value in ((40, b"nan"), (41, b"inf"), (42, b"-1.0")):
            rows[line] = b",".join([value, *rows[line].split(b",")[1:]])
        return b"\n".join(rows)

    retar(population(folder), change)
    found = {what for _, _, what in new("nat4", written, folder, tmp_path)}
    for kind, line in (("no numbers", 41), ("infinite", 42), ("negative", 43)):
        assert any(f"are {kind}, the first in line {line}, band 1" in what for what in found)
    path = strfcube.build("nat4", raw=folder, out=tmp_path / "cube.zarr", jobs=0)
    holes = strfcube.open(path)["stimulus"].isel(time=slice(150)).isnull()
    assert int(holes.sum()) == 2
    view = CubeView(path)
    with pytest.raises(UsageError, match="2 of its 150 bins have no value in the spectrogram"):
        view.batch(range(len(view)))


def unpacked_site(folder):
    """A site of NAT4, whose archive of sites is unpacked for it."""
    archive = folder / "A1_single_sites.zip"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    archive.unlink()
    return pick(folder / "A1_single_sites", "*ARM029a*.tgz")[0]


@pytest.mark.parametrize("decimals", [15, 6, 2])
def test_epochs_of_nat4_that_are_listed_twice(raw, written, tmp_path, decimals):
    """As where tables of two signals, which round otherwise, were joined: each presentation is one trial."""
    folder = raw("nat4")
    site = unpacked_site(folder)

    def again(name, content):
        if not name.endswith("epoch.csv"):
            return content
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
        start, end = (header.index(key) for key in ("start", "end"))
        for row in list(rows):
            shifted = list(row)
            shifted[start], shifted[end] = (
                f"{float(row[column]) + 3e-4 * (decimals < 9):.{decimals}f}" for column in (start, end)
            )
            rows.append(shifted)
        out = io.StringIO()
        csv.writer(out).writerows([header, *rows])
        return out.getvalue().encode()

    retar(site, again)
    pipelines = [catalog.pipeline_class("nat4")(path) for path in (folder, written("nat4"))]
    sizes, found = [], []
    for pipeline in pipelines:
        source = next(s for s in pipeline.survey(found.append).sources if "ARM029a" in s.id)
        sizes.append(len([t for record in pipeline.read(source, found.append) for t in getattr(record, "stimuli", ())]))
    assert sizes[0] == sizes[1]
    assert any("rows of the epoch table repeat another one" in f.what for f in found)


@pytest.mark.parametrize("seconds", [0, 100])
def test_epochs_of_nat4(raw, written, tmp_path, seconds):
    folder = raw("nat4")
    site = unpacked_site(folder)
    lines = []

    def change(name, content):
        if not name.endswith("epoch.csv"):
            return content
        rows = content.decode().splitlines()
        at = next(i for i, row in enumerate(rows) if "STIM_cat" in row and '"' not in row)
        header, fields = rows[0].split(","), rows[at].split(",")
        start = float(fields[header.index("start")])
        fields[header.index("end")] = str(start + seconds)
        rows[at] = ",".join(fields)
        lines.append(at + 1)
        return ("\n".join(rows) + "\n").encode()

    retar(site, change)
    found = [
        f for f in new("nat4", written, folder, tmp_path) if " is " in f[2] and " s long, the others 1.5 s" in f[2]
    ]
    assert [(line, f" is {seconds:g} s long" in what) for _, line, what in found] == [(lines[0], True)]


def test_tables_of_nat4_that_are_cut(raw, written, tmp_path):
    folder = raw("nat4")
    retar(population(folder), lambda name, content: content[:-9] if name.endswith("stim.csv") else content)
    found = [what for _, _, what in new("nat4", written, folder, tmp_path)]
    assert "the matrix ends within a line, as what is cut short does; fetch it again" in found


def test_wavs_of_nat4(raw, tmp_path):
    folder = raw("nat4")
    with zipfile.ZipFile(folder / "wav.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    short, copied, first = list(files)[:3]
    rate, samples = wavfile.read(io.BytesIO(files[short]))
    content = io.BytesIO()
    wavfile.write(content, rate, samples[:22050])
    files[short], files[copied] = content.getvalue(), files[first]
    with zipfile.ZipFile(folder / "wav.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    path = strfcube.build("nat4", raw=folder, out=tmp_path / "cube.zarr", jobs=0)
    import xarray as xr

    said = [str(w) for w in xr.open_zarr(path, group="findings", chunks=None)["what"].values]
    assert any("lasts 0.5 s at its rate of 44100 Hz, the recordings say 1 s" in w for w in said)
    assert sum(w.endswith("sample for sample") for w in said) == 1


# --- what is right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["aa1", "aa2", "aa4", "ac1", "ns1", "nat4"])
def test_what_is_whole_has_no_such_finding(written, tmp_path, kind):
    words = (
        "equals trial",
        "same responses",
        "more than 60 s",
        "MD5",
        "ends within",
        "a copy of",
        "lie within",
        " s long",
    )
    assert [f for f in read(kind, written(kind), tmp_path) if any(w in f[2] for w in words)] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["aa2", "ns1"])
def test_real_recordings_have_no_such_finding(real_data, tmp_path, kind):
    found = read(kind, real_data / kind, tmp_path)
    assert {what for _, _, what in found if "wav is not there" not in what} == set()


def test_md5_of_the_name_is_that_of_the_file(written):
    for wav in pick(written("aa1"), "*.wav"):
        assert hashlib.md5(wav.read_bytes()).hexdigest().upper() == wav.stem
