"""From nothing to a cube, in one command, against the services on loopback: NAT4, AA1, AA4, NS1 of invented spikes."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from services import PASSWORD, USER
from test_faults import check_log
from writers.aa import write_aa1
from writers.aa4 import write_aa4
from writers.nat4 import write_nat4
from writers.ns1 import write_ns1

import strfcube
from strfcube import catalog
from strfcube.cli.main import main
from strfcube.errors import FetchError, SelectionError, UsageError
from strfcube.fetching import ledger
from strfcube.fetching.fetch import carry_out, lacking
from strfcube.fetching.plan import look
from strfcube.fetching.visit import Visit

SITES = {"A1": {"ARM029a": 2}, "PEG": {"ARM017a": 2}}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Folder a data set of what its service publishes, and the raw folders that it came from."""
    folder = tmp_path_factory.mktemp("published")
    raw = folder / "raw"
    write_nat4(folder / "nat4", sites=SITES, extra={}, population_only={}, est=4, val=1, val_repeats=2, wavs=True)
    write_aa1(raw / "aa1" / "crcns-aa1")
    write_aa4(raw / "aa4")
    write_ns1(raw / "ns1", units=3, repeats=2, drc_repeats=1, clip_seconds=0.2)
    for name in ("aa1", "aa4", "ns1"):
        (folder / name).mkdir()
    with zipfile.ZipFile(folder / "aa1" / "crcns-aa1.zip", "w") as archive:
        for path in sorted((raw / "aa1").rglob("*")):
            archive.write(path, path.relative_to(raw / "aa1"))
    for animal in ("BlaBro09xxF", "LblBlu2028M"):
        with tarfile.open(folder / "aa4" / f"{animal}.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(raw / "aa4" / animal, animal)
    with zipfile.ZipFile(folder / "ns1" / "spikesandwav.zip", "w") as archive:
        for path in sorted((raw / "ns1" / "spikesandwav").rglob("*")):
            archive.write(path, path.relative_to(raw / "ns1"))
        archive.writestr("ReadMe.txt", "beside the folder")
    shutil.copy(raw / "ns1" / "MetadataSHEnCneurons.mat", folder / "ns1")
    return folder


@pytest.fixture
def published(services, archives, monkeypatch):
    """The services, with the data sets; sizes and sums of the real files are not those of these."""
    known = dict(catalog.entries())
    for name in ("nat4", "aa1", "aa4", "ns1"):
        files = tuple(catalog.RemoteFile(f.name, f.url, unpack=f.unpack, only=f.only, extra=f.extra, about=f.about)
                      for f in known[name].files)  # fmt: skip
        known[name] = catalog.Entry(**{**vars(known[name]), "files": files})
        services.publish(known[name], archives / name)
    monkeypatch.setattr(catalog, "entries", lambda: known)
    return services


@pytest.fixture
def run(capsys):
    """Run a command in this process; returns exit code, standard output and standard error."""

    def call(*args):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in args])
        return (end.value.code, *capsys.readouterr())

    return call


def data():
    return Path(os.environ["STRFCUBE_DATA_DIR"])


def digest(path):
    return strfcube.open(path).attrs["digest"]


def raw_names(name):
    return sorted(p.name for p in (data() / "raw" / name).iterdir() if not p.name.startswith("."))


def test_nat4(published, run, archives, tmp_path):
    code, out, err = run("build", "nat4", "--only", "area=A1", "--yes", "--jobs", 1)
    assert code == 0, err
    assert raw_names("nat4") == ["A1_NAT4_ozgf.fs100.ch18.tgz", "A1_pred_correlation.csv", "A1_single_sites.zip"]
    assert "3 files to fetch" in err
    assert "CC BY 4.0" in err
    assert all(len(line) <= 80 for line in err.replace(str(data()), "").splitlines())
    lines = re.findall(r"^  (\S+): [\d.]+ \w+, verified$", err, re.M)
    assert sorted(lines) == raw_names("nat4")
    assert not any("PEG" in r.path for r in published.log)
    path = out.splitlines()[0]
    (tmp_path / "by-hand").mkdir()
    for file in (archives / "nat4").glob("A1_*"):
        shutil.copy(file, tmp_path / "by-hand")
    whole = strfcube.build("nat4", raw=tmp_path / "by-hand", only={"area": "A1"}, out=tmp_path / "x.zarr", jobs=1)
    assert digest(path) == digest(whole)
    before = len(published.log)
    assert run("build", "nat4", "--only", "area=A1", "--jobs", 1)[0] == 0  # nothing is missing: nothing is asked
    assert len(published.log) == before
    code, out, err = run("build", "nat4", "--jobs", 1)
    assert code == 2
    assert "3 of 6 raw files of nat4 are not in" in err
    assert "strfcube build nat4 --jobs 1 --yes" in err
    assert run("build", "nat4", "--no-fetch", "--jobs", 1, "--out", tmp_path / "part.zarr")[0] == 0
    code, out, err = run("build", "nat4", "--fetch", "--extra", "wav", "--jobs", 1)
    assert code == 0, err
    assert "wav.zip" in raw_names("nat4")
    assert len([r for r in published.log if "A1_single_sites.zip" in r.path]) == 1
    check_log(published)


def test_aa1(published, run, archives, tmp_path):
    code, out, err = run("build", "aa1", "--yes", "--jobs", 1)
    assert code == 2
    assert "give --accept-terms" in err
    assert not published.log
    code, out, err = run("build", "aa1", "--yes", "--accept-terms", "--jobs", 1)
    assert code == 0, err
    assert raw_names("aa1") == ["crcns-aa1"]
    whole = strfcube.build("aa1", raw=archives / "raw" / "aa1", out=tmp_path / "x.zarr", jobs=1)
    assert digest(out.splitlines()[0]) == digest(whole)
    written = (data() / "raw" / "aa1" / ledger.NAME).read_text() + (data() / ".strfcube-terms.json").read_text()
    record = json.loads((data() / "raw" / "aa1" / ledger.NAME).read_text())["files"]["crcns-aa1.zip"]
    assert record["unpacked"] == "crcns-aa1"
    assert all(secret not in written + out + err for secret in (USER, PASSWORD))
    before = len(published.log)
    assert run("fetch", "aa1")[0] == 0
    assert run("build", "aa1", "--yes", "--jobs", 1)[0] == 0
    assert len(published.log) == before
    # The terms are remembered: the next set of files needs no second word.
    shutil.rmtree(data() / "raw" / "aa1" / "crcns-aa1")
    code, out, err = run("fetch", "aa1", "--keep-archives")
    assert code == 0, err
    assert raw_names("aa1") == ["crcns-aa1", "crcns-aa1.zip"]
    assert "terms:" not in err
    check_log(published)


def test_aa4_of_one_bird(published, run):
    code, out, err = run("build", "aa4", "--only", "animal=LblBlu2028M", "--yes", "--accept-terms", "--jobs", 1)
    assert code == 0, err
    assert raw_names("aa4") == ["LblBlu2028M"]
    assert set(strfcube.open(out.splitlines()[0])["animal"].values) == {"LblBlu2028M"}
    assert not any("BlaBro" in r.path for r in published.log)
    code, out, err = run("fetch", "aa4", "--only", "animal=Nobody")
    assert code == 2
    assert "--only animal=Nobody: nothing has that; there are BlaBro09xxF, GreBlu9508M" in err
    check_log(published)


def test_a_cube_does_not_depend_on_what_was_fetched_beside_it(published, run, tmp_path):
    birds = [("build", "aa4", "--accept-terms", "--only", f"animal={bird}") for bird in ("LblBlu2028M", "BlaBro09xxF")]
    areas = [("build", "nat4", "--only", f"area={area}") for area in ("PEG", "A1")]
    for first, second in (birds, areas):
        alone = run(*first, "--yes", "--jobs", 1)[1].splitlines()[0]
        assert run(*second, "--yes", "--jobs", 1)[0] == 0
        built = digest(alone)
        assert run(*first, "--strict", "--jobs", 1)[0] == 0  # up to date
        code, out, err = run(*first, "--jobs", 1, "--out", tmp_path / f"{first[1]}.zarr")
        assert code == 0, err
        assert digest(out.splitlines()[0]) == built
    kept = data() / "raw" / "aa4" / "BlaBro09xxF.tar.gz"
    kept.write_bytes(b"of another bird")  # what is still packed there is not missing here
    assert "BlaBro" not in run(*birds[0], "--force", "--no-fetch", "--jobs", 1)[2]
    code, out, err = run("build", "aa4", "--no-fetch", "--only", "animal=YelBlu6903F", "--jobs", 1)
    assert code == 2
    assert "nothing has that; there are BlaBro09xxF, LblBlu2028M" in err


def test_ns1(published):
    path = strfcube.build("ns1", fetch=True, jobs=1)
    assert raw_names("ns1") == ["MetadataSHEnCneurons.mat", "spikesandwav"]
    assert (data() / "raw" / "ns1" / "spikesandwav" / "ReadMe.txt").is_file()
    assert digest(path)
    check_log(published)


def test_python(published, tmp_path):
    with pytest.raises(UsageError, match="strfcube build aa1 --yes --accept-terms"):
        strfcube.build("aa1")
    with pytest.raises(UsageError, match="accept_terms=True"):
        strfcube.fetch("aa1")
    with pytest.raises(SelectionError, match="there are A1, PEG"):
        strfcube.fetch("nat4", only={"area": "A2"})
    with pytest.raises(UsageError, match="no files to fetch"):
        strfcube.fetch("demo")
    with pytest.raises(UsageError, match="no such files; there are wav"):
        strfcube.fetch("nat4", extra=["video"])
    assert not published.log
    seen = []
    raw = strfcube.fetch("nat4", only={"area": ["A1"]}, raw=tmp_path / "mine",
                         progress=lambda *given: seen.append(given))  # fmt: skip
    assert raw == tmp_path / "mine"
    stage, done, total = seen[-1]
    assert (stage, done) == ("fetch", total)
    assert total == sum(p.stat().st_size for p in raw.iterdir() if not p.name.startswith("."))
    strfcube.build("nat4", raw=raw, only={"area": "A1"}, out=tmp_path / "x.zarr", jobs=1)


def test_dry_run(published, run):
    code, out, _ = run("fetch", "nat4", "--dry-run")
    assert code == 0
    assert "6 files to fetch" in out
    assert re.search(r"A1_pred_correlation.csv +[\d.]+ (kB|bytes) +to fetch", out)
    assert not data().exists()
    run("fetch", "nat4", "--only", "area=A1", "--yes")
    out = run("fetch", "nat4", "--dry-run")[1]
    assert "3 files to fetch" in out
    assert out.count("is there") == 3
    code, out, _ = run("build", "aa1", "--dry-run")
    assert code == 0
    assert "crcns-aa1.zip" in out
    code, out, _err = run("fetch", "nat4", "--dry-run", "--extra", "wav")
    assert "wav.zip" in out


def test_a_raw_folder_of_the_users_own_is_taken_as_it_is(published, run, archives):
    (data() / "raw").mkdir(parents=True)
    shutil.copytree(archives / "nat4", data() / "raw" / "nat4")
    code, _, err = run("build", "nat4", "--yes", "--jobs", 1)
    assert code == 0, err
    assert sum(r.sent for r in published.log if "/files/" in r.path) == 0
    (data() / "raw" / "ns1").mkdir()
    shutil.copytree(archives / "raw" / "ns1", data() / "raw" / "ns1", dirs_exist_ok=True)
    before = len(published.log)
    assert run("build", "ns1", "--jobs", 1)[0] == 0
    assert len(published.log) == before
    code, _out, err = run("fetch", "ns1")
    assert code == 1
    assert "spikesandwav is in the way" in err


def test_a_copied_raw_folder_is_verified_again_and_nothing_is_asked(published, run):
    run("fetch", "nat4", "--only", "area=A1")
    for name in raw_names("nat4"):
        os.utime(data() / "raw" / "nat4" / name)
    before = len(published.log)
    assert run("build", "nat4", "--only", "area=A1", "--jobs", 1)[0] == 0
    assert len(published.log) == before
    work = data() / "raw" / "nat4" / ledger.WORK
    for name in raw_names("nat4"):
        os.utime(data() / "raw" / "nat4" / name)
    shutil.rmtree(work)
    work.write_text("as a disk that can only be read has it: nothing can be noted here")
    code, _, err = run("build", "nat4", "--only", "area=A1", "--jobs", 1, "--dt", 20)
    assert code == 1
    assert "build from what is there as it is (--no-fetch)" in err
    assert run("build", "nat4", "--only", "area=A1", "--jobs", 1, "--dt", 20, "--no-fetch")[0] == 0
    work.unlink()
    table = data() / "raw" / "nat4" / "A1_pred_correlation.csv"
    table.write_text(table.read_text().replace("True", "False"))
    code, _, err = run("build", "nat4", "--only", "area=A1", "--jobs", 1)
    assert code == 1
    assert "A1_pred_correlation.csv: this is not the published file" in err
    assert "--no-fetch" in err


def test_a_bird_of_ones_own(published):
    """What a folder of the user's own holds is for its pipeline to say, not for the catalog."""
    entry = catalog.entry("aa4")
    (data() / "raw" / "aa4" / "MyBird").mkdir(parents=True)
    assert lacking(entry, None, {"animal": "MyBird"}) is None
    with pytest.raises(SelectionError, match="there are BlaBro09xxF"):
        lacking(entry, None, {"animal": "MyBird"}, fetch=True)


def test_what_is_missing_of_what_was_unpacked(published, run):
    run("fetch", "aa1", "--accept-terms")
    next((data() / "raw" / "aa1").rglob("spike1")).unlink()
    code, _out, err = run("fetch", "aa1")
    assert code == 1
    assert "is not whole any more" in err
    assert len(err.splitlines()) == 1


def test_nothing_there_and_nobody_to_ask(published, run):
    code, _out, err = run("build", "nat4", "--only", "area=A1", "--dt", "10")
    assert code == 2
    assert err.splitlines()[-1].strip() == "strfcube build nat4 --only area=A1 --dt 10 --yes"
    assert not published.log


def test_arguments_are_checked_before_anything_is_fetched(published, run):
    (data() / "other.zarr").mkdir(parents=True)
    (data() / "other.zarr" / "zarr.json").write_text("{}")
    (data() / "file").write_text("")
    cases = [
        ("nat4", ("--dt", -1), 2, "dt"),
        ("nat4", ("--bands", 0), 2, "bands"),
        ("nat4", ("--spec", "mel", "--window-ms", -1), 2, "window_ms"),
        ("nat4", ("--jobs", -1), 2, "jobs=-1: give 0 or more"),
        ("nat4", ("--only", "area=A7"), 2, "nothing has that; there are A1, PEG"),
        (
            "nat4",
            ("--only", "aera=A1"),
            2,
            "aera: no such coordinate; did you mean area. Else there are animal, area",
        ),
        ("nat4", ("--only", "subset=train"), 2, "--only subset=train: nothing has that; there are est, val"),
        ("nat4", ("--only", "area"), 2, "give KEY=VALUE"),
        ("nat4", ("--extra", "video"), 2, "no such files; there are wav"),
        ("aa1", ("--only", "area=NCM"), 2, "there are Field_L, MLd"),
        ("aa4", ("--sort-types", "good"), 2, "give some of single, multi"),
        ("nat4", ("--out", data() / "other.zarr"), 1, "is no strfcube cube"),
        ("nat4", ("--out", data() / "file" / "x.zarr"), 1, "not a folder|Not a directory"),
        ("nat4", ("--out", "nowhere://x/y.zarr"), 1, "Protocol not known: nowhere"),
        ("nat4", ("--raw", data() / "file"), 1, "a file is in its place"),
    ]
    for name, wrong, code, what in cases:
        found, out, err = run("build", name, "--yes", "--accept-terms", *wrong)
        assert (found, out) == (code, ""), (wrong, err)
        assert re.search(what, err), (wrong, err)
        assert len([line for line in err.splitlines() if not line.startswith("reading ")]) == 1, (wrong, err)
    with pytest.raises(UsageError, match="jobs=-1"):
        strfcube.build("nat4", fetch=True, jobs=-1)
    assert not published.log
    assert not (data() / "raw").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden here")
@pytest.mark.parametrize("command", ["build", "fetch"])
def test_a_data_folder_that_may_not_be_written_to(published, run, command):
    data().mkdir(parents=True)
    data().chmod(0o500)
    code, _, err = run(command, "nat4", "--yes")
    data().chmod(0o700)
    assert code == 1
    assert "STRFCUBE_DATA_DIR" in err or "--raw" in err
    assert not any(r.sent for r in published.log if "/files/" in r.path)


def test_the_place_of_a_cube_is_looked_at_before(published, run):
    """Another recipe in the place of the cube is no reason to fetch anything; with --force it is replaced."""
    assert run("build", "demo", "--out", data() / "mine.zarr", "--jobs", 1)[0] == 0
    code, _, err = run("build", "nat4", "--yes", "--out", data() / "mine.zarr", "--jobs", 1)
    assert code == 1
    assert "holds another recipe: give another --out, or --force" in err
    assert not published.log
    args = ("--only", "area=A1", "--out", data() / "mine.zarr", "--jobs", 1)
    assert run("build", "nat4", "--yes", "--force", *args)[0] == 0


def test_a_disk_without_room_for_what_is_unpacked(published, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    entry = dataclasses.replace(catalog.entry("ns1"), sizes={"unpacked": 5 * 10**9})
    plan = look(entry, data() / "raw" / "ns1", {})
    with pytest.raises(FetchError, match=r"are to be fetched and unpacked to about 5\.0 GB, and 1\.0 GB are free"):
        carry_out(plan, Visit.begin())
    assert not any(r.sent for r in published.log if "download" in r.path)


@pytest.mark.parametrize("name", ["aa1", "aa4"])
def test_a_digest_does_not_depend_on_what_an_archive_wraps_its_folders_in(archives, tmp_path, name):
    source = archives / "raw" / name / ("crcns-aa1" if name == "aa1" else "")
    shutil.copytree(source, tmp_path / "wrapped" / "one" / "two")
    built = [
        digest(strfcube.build(name, raw=raw, out=tmp_path / f"{number}.zarr", jobs=1))
        for number, raw in enumerate((source, tmp_path / "wrapped"))
    ]
    assert built[0] == built[1]


def test_the_cache_of_deepstrf_where_it_is_by_default(published, run, archives, tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPSTRF_DATA_DIR")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    cache = tmp_path / "cache" / "deepSTRF" / "NAT4"
    cache.mkdir(parents=True)
    shutil.copy(archives / "nat4" / "A1_single_sites.zip", cache)
    (cache / "A1_pred_correlation.csv").write_text("another")
    code, _, err = run("fetch", "nat4", "--only", "area=A1")
    assert code == 0, err
    assert re.search(r"A1_single_sites.zip: .*, linked to \S+NAT4/A1_single_sites.zip, verified", err)
    assert published.sent("A1_single_sites.zip") == 0
    assert published.sent("A1_pred_correlation.csv") > 0


def test_two_fetches_at_once(published, archives, tmp_path):
    """Two processes, one folder: each file comes once."""
    for name in ("A1_single_sites.zip", "A1_NAT4_ozgf.fs100.ch18.tgz", "PEG_single_sites.zip"):
        published.fault("slow", name, 1, 0.2)
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "strfcube.cli.main", "fetch", "nat4"], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    for name in raw_names("nat4"):
        assert len([r for r in published.log if f"/files/{name}/" in r.path]) == 1, name
    assert raw_names("nat4") == sorted(p.name for p in (archives / "nat4").iterdir() if p.name != "wav.zip")


def test_no_worker_has_a_password(published, tmp_path):
    """Nothing that a build starts inherits the account, and it is there again afterwards."""
    from strfcube.builder import tasks

    with tasks.workers(2) as pool:
        seen = [pool.submit(_environment_of_all_children).result() for _ in range(2)]
    assert all(PASSWORD not in text and USER not in text for text in seen)
    assert any("STRFCUBE_MIRRORS" in text for text in seen)
    assert os.environ["CRCNS_PASSWORD"] == PASSWORD


def _environment_of_all_children(_shared):
    texts = [json.dumps(dict(os.environ))]
    parent = os.getppid()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if status.read_text().rpartition(")")[2].split()[1] == str(parent):
                texts.append(status.with_name("environ").read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return " ".join(texts)
