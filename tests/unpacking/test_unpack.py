"""Archives: good ones of each kind, hostile ones, killed unpackings, and several into one folder."""

import bz2
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import pytest
from hostile import CASES, DATA, GOOD, info, tarred, zipped

from strfcube import FetchError
from strfcube.unpacking import bounds
from strfcube.unpacking.refusals import Damaged, damaged
from strfcube.unpacking.unpack import ArchiveWarning, settle, unpack

HERE = str(Path(__file__).parent)
FILES = {
    "all_cells/a_1/conspecific/spike1": DATA,
    "all_cells/a_1/conspecific/stim1": b"0A.wav\n",
    "all_stims/0A.wav": bytes(range(256)) * 100,
    "README": b"",
}


def tree(folder):
    """Everything below a folder: path, kind and content."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        found[str(path.relative_to(folder))] = hashlib.md5(path.read_bytes()).hexdigest() if kind == "file" else kind
    return found


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def write(kind, path, files=FILES):
    """A good archive of some kind."""
    if kind.startswith("zip"):
        method = zipfile.ZIP_STORED if kind == "zip stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in files.items():
                with file.open(name, "w", force_zip64=kind == "zip64") as member:
                    member.write(data)
            file.comment = b"a comment" if kind == "zip with a comment" else b""
        return
    form = {"tar of 1988": tarfile.USTAR_FORMAT, "tar of GNU": tarfile.GNU_FORMAT}.get(kind, tarfile.PAX_FORMAT)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as file:
        for name, data in files.items():
            file.addfile(info(name, size=len(data)), io.BytesIO(data))
    data, half = raw.getvalue(), len(raw.getvalue()) // 2
    press = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}.get(
        kind.split(" in ")[0], bytes
    )
    path.write_bytes(press(data[:half]) + press(data[half:]) if " in " in kind else press(data))


KINDS = ["zip", "zip stored", "zip64", "zip with a comment", "tar", "tar of 1988", "tar of GNU"]
KINDS += ["tar.gz", "tar.bz2", "tar.xz", "tar.gz in two streams", "tar.bz2 in two streams", "tar.xz in two streams"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder with files"])
def test_good_archives(tmp_path, kind, there):
    archive, into = tmp_path / "misleading.tgz", tmp_path / "deep" / "raw"
    write(kind, archive)
    if there:
        into.mkdir(parents=True)
        (into / "kept.txt").write_bytes(b"kept")
    unpack(archive, into)
    assert content(into) == FILES | ({"kept.txt": b"kept"} if there else {})
    assert [p.name for p in into.parent.iterdir()] == ["raw"]  # no hidden folder is left
    before = {p: p.stat().st_mtime_ns for p in into.rglob("*")}
    unpack(archive, into)  # again: nothing is touched
    assert {p: p.stat().st_mtime_ns for p in into.rglob("*")} == before


def test_several_archives_of_one_data_set(tmp_path):
    raw = tmp_path / "aa2"
    raw.mkdir()
    wanted = {}
    for part in ("docs", "all_cells", "all_stims"):
        files = {f"crcns/aa2/{part}/{i}": f"{part} {i}".encode() for i in range(3)}
        files["crcns/aa2/README"] = b"in all three, with the same content"
        write("tar.gz", raw / f"crcns-aa2-{part}.tar.gz", files)
        wanted |= files
    for archive in sorted(raw.iterdir()):
        unpack(archive, raw)
    assert {name: data for name, data in content(raw).items() if name.startswith("crcns/")} == wanted


def test_an_archive_beside_a_file(tmp_path):
    raw = tmp_path / "ns1"
    raw.mkdir()
    (raw / "Metadata.mat").write_bytes(b"MATLAB")
    write("zip", raw / "spikesandwav.zip", {"spikes/1.mat": DATA})
    unpack(raw / "spikesandwav.zip", Path(f"{raw}/."))
    assert sorted(content(raw)) == ["Metadata.mat", "spikes/1.mat", "spikesandwav.zip"]


@pytest.mark.parametrize("there", ["file", "folder", "link to nothing"])
def test_what_is_there_is_not_replaced(tmp_path, there):
    raw = tmp_path / "raw"
    (raw / "all_stims").mkdir(parents=True)
    path = raw / "all_stims" / "0A.wav"
    if there == "file":
        path.write_bytes(DATA)
    elif there == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    write("zip", tmp_path / "a.zip")
    before = tree(tmp_path)
    with pytest.raises(
        FetchError, match=r"a\.zip: 'all_stims/0A.wav' is there already with other content, in .*nothing was moved"
    ):
        unpack(tmp_path / "a.zip", raw)
    assert tree(tmp_path) == before


def test_into_a_file_and_from_nothing(tmp_path):
    write("zip", tmp_path / "a.zip")
    with pytest.raises(FetchError, match="is not a folder"):
        unpack(tmp_path / "a.zip", tmp_path / "a.zip")
    with pytest.raises(FetchError, match=r"b\.zip: there is no such file"):
        unpack(tmp_path / "b.zip", tmp_path / "raw")
    assert sorted(tree(tmp_path)) == ["a.zip"]


def test_into_a_link_to_a_folder(tmp_path):
    (tmp_path / "disk" / "big").mkdir(parents=True)
    (tmp_path / "raw").symlink_to(tmp_path / "disk" / "big")
    write("tar", tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert content(tmp_path / "disk" / "big") == FILES
    assert (tmp_path / "raw").is_symlink()


# What a member may be


def test_links_become_files(tmp_path):
    members = [
        (info("a/before", tarfile.SYMTYPE, "../b/./good.txt"), b""),
        (info("b/good.txt", size=len(DATA)), DATA),
        (info("c/hard", tarfile.LNKTYPE, "b/good.txt"), b""),
        (info("c/chain", tarfile.SYMTYPE, "../a/before"), b""),
    ]
    tarred(tmp_path / "a.tar", *members)
    zipped(tmp_path / "a.zip", ("b/good.txt", DATA), ("a/before", b"../b/good.txt", 0o120777))
    unpack(tmp_path / "a.tar", tmp_path / "tar")
    unpack(tmp_path / "a.zip", tmp_path / "zip")
    assert content(tmp_path / "tar") == dict.fromkeys(["a/before", "b/good.txt", "c/hard", "c/chain"], DATA)
    assert content(tmp_path / "zip") == dict.fromkeys(["a/before", "b/good.txt"], DATA)
    assert "link" not in tree(tmp_path).values()


def test_links_where_the_disk_has_none(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    tarred(tmp_path / "a.tar", GOOD, (info("again", tarfile.LNKTYPE, "good.txt"), b""))
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert content(tmp_path / "raw") == {"good.txt": DATA, "again": DATA}


def test_sparse_file(tmp_path):
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s",
        "GNU.sparse.realsize": "3000000",
    }
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        member = info("GNUSparseFile.0/s", size=1024)
        member.pax_headers = headers
        data = b"1\n2000000\n512\n"
        file.addfile(member, io.BytesIO(data + bytes(512 - len(data)) + b"x" * 512))
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert content(tmp_path / "raw") == {"s": bytes(2_000_000) + b"x" * 512 + bytes(999_488)}


def test_what_macos_adds_is_left_out(tmp_path):
    zipped(
        tmp_path / "a.zip", ("a/b.wav", DATA), ("__MACOSX/a/._b.wav", b"x"), ("a/._b.wav", b"x"), ("a/.DS_Store", b"x")
    )
    tarred(tmp_path / "a.tar", (info("._good.txt", size=3), b"abc"), GOOD)
    unpack(tmp_path / "a.zip", tmp_path / "raw")
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert content(tmp_path / "raw") == {"a/b.wav": DATA, "good.txt": DATA}


def test_folders_dots_and_repeats(tmp_path):
    empty = info("./empty", tarfile.DIRTYPE)
    tarred(
        tmp_path / "a.tar",
        (info(".", tarfile.DIRTYPE), b""),
        (empty, b""),
        GOOD,
        (info(".//good.txt", size=len(DATA)), DATA),
    )
    zipped(tmp_path / "b.zip", ("empty2/", b""), ("all\\of\\windows.wav", DATA))
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    unpack(tmp_path / "b.zip", tmp_path / "raw")
    assert set(tree(tmp_path / "raw")) == {"empty", "empty2", "good.txt", "all", "all/of", "all/of/windows.wav"}


def test_an_archive_within_stays_packed(tmp_path):
    write("tar.gz", tmp_path / "inner.tgz")
    inner = (tmp_path / "inner.tgz").read_bytes()
    write("zip", tmp_path / "outer.zip", {"inner.tgz": inner})
    unpack(tmp_path / "outer.zip", tmp_path / "raw")
    assert content(tmp_path / "raw") == {"inner.tgz": inner}


def test_modes_are_not_kept(tmp_path):
    member = info("run", size=len(DATA))
    member.mode = 0o6777
    tarred(tmp_path / "a.tar", (member, DATA))
    unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert (tmp_path / "raw" / "run").stat().st_mode & 0o7111 == 0


# Names


def test_names_that_are_utf8(tmp_path):
    zipped(tmp_path / "a.zip", ("Strauß/é.wav", DATA))
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(
        data.replace(b"\x14\x00\x00\x08", b"\x14\x00\x00\x00")
    )  # no longer marked as UTF-8
    assert zipfile.ZipFile(tmp_path / "b.zip").namelist() != zipfile.ZipFile(tmp_path / "a.zip").namelist()
    write("tar", tmp_path / "c.tar", {"Strauß/é.wav": DATA})
    for name in ("a.zip", "b.zip", "c.tar"):
        unpack(tmp_path / name, tmp_path / "raw")
    assert content(tmp_path / "raw") == {"Strauß/é.wav": DATA}


def test_names_that_are_not_utf8(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        file.addfile(info("Strauß.wav", size=len(DATA)), io.BytesIO(DATA))
        file.addfile(info("Käfig.wav", size=len(DATA)), io.BytesIO(DATA))
    with pytest.warns(
        ArchiveWarning, match=r"a\.tar: 2 names are not UTF-8, and read as Latin-1, such as 'Strauß\.wav'"
    ):
        unpack(tmp_path / "a.tar", tmp_path / "tar")
    zipped(tmp_path / "a.zip", ("Strau_.wav", DATA))
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"Strau_", b"Strau\xe1"))
    with pytest.warns(ArchiveWarning, match=r"a\.zip: the name 'Strauß\.wav' is not UTF-8, and read as code page 437"):
        unpack(tmp_path / "a.zip", tmp_path / "zip")
    assert sorted(content(tmp_path / "tar")) == ["Käfig.wav", "Strauß.wav"]
    assert sorted(content(tmp_path / "zip")) == ["Strauß.wav"]


@pytest.mark.parametrize("names", [("Song.wav", "song.wav"), ("\u00e9.wav", "e\u0301.wav"), ("A/x", "a/x")])
def test_names_that_are_nearly_the_same(tmp_path, names):
    write("zip", tmp_path / "a.zip", dict(zip(names, [b"1", b"2"], strict=True)))
    with pytest.warns(ArchiveWarning, match="2 names are different by case or accents only"):
        unpack(tmp_path / "a.zip", tmp_path / "raw")
    assert content(tmp_path / "raw") == dict(zip(names, [b"1", b"2"], strict=True))


@pytest.mark.parametrize("name", ["aux.mat", "a/COM1", "12:30.wav", "dot.", "blank ", "line\nbreak", "what?"])
def test_names_that_windows_cannot_hold(tmp_path, name):
    write(
        "tar",
        tmp_path / "a.tar",
        {name: DATA},
    )
    with pytest.warns(ArchiveWarning, match="is one that Windows cannot hold") as caught:
        unpack(tmp_path / "a.tar", tmp_path / "raw")
    assert "\n" not in str(caught[0].message)
    assert content(tmp_path / "raw") == {name: DATA}


def test_names_that_only_look_reserved(tmp_path):
    names = ["auxiliary.mat", "console/x", ".hidden", "a.b.c", "COM10", "all_stims/0A.wav"]
    write("zip", tmp_path / "a.zip", dict.fromkeys(names, DATA))
    unpack(tmp_path / "a.zip", tmp_path / "raw")  # a warning would be an error
    assert sorted(content(tmp_path / "raw")) == sorted(names)


# Bounds


def test_bounds_go_by_the_published_size(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "FLOOR", 1000)
    for kind in ("zip", "tar.gz"):
        write(kind, tmp_path / "a", {"zeros": bytes(2**22)})
        with pytest.raises(
            FetchError, match=r"declares 4,194,304 bytes, and an archive of 20,000 bytes may unpack to 2,000,000"
        ):
            unpack(tmp_path / "a", tmp_path / kind, published=20_000)
        unpack(tmp_path / "a", tmp_path / kind, published=50_000)
        assert content(tmp_path / kind) == {"zeros": bytes(2**22)}


def test_more_files_than_any_data_set_has(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "ENTRIES", 50)
    tarred(tmp_path / "a", *[(info(f"a{i}"), b"") for i in range(60)])
    tarred(tmp_path / "b", (info("/".join("a" * 60)), b""))
    for name in "ab":
        with pytest.raises(FetchError, match="more than 50 files and folders"):
            unpack(tmp_path / name, tmp_path / "raw")
    monkeypatch.setattr(bounds, "LINKS", 5)
    tarred(tmp_path / "c", GOOD, *[(info(f"a{i}", tarfile.SYMTYPE, "good.txt"), b"") for i in range(6)])
    with pytest.raises(FetchError, match="more than 5 links"):
        unpack(tmp_path / "c", tmp_path / "raw")


def test_headers_without_content(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "FLOOR", 2**20)
    monkeypatch.setattr(bounds, "HEADERS", 2**20)
    comment = info("._x")
    comment.pax_headers = {"comment": "x" * 100_000}
    pieces = [comment.tobuf(tarfile.PAX_FORMAT)] * 30
    (tmp_path / "a").write_bytes(gzip.compress(b"".join(pieces) + bytes(1024)))
    with pytest.raises(FetchError, match="the tar is longer than 2,097,152 bytes"):
        unpack(tmp_path / "a", tmp_path / "raw")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_full_disk(tmp_path, monkeypatch, kind):
    write(kind, tmp_path / "a", {f"zeros{i}": bytes(2**22) for i in range(20)})
    before = tree(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=bounds.SPARE + 2**21))
    with pytest.raises(FetchError, match=r"no room: .* needs .* are free in .*free space, or name another folder"):
        unpack(tmp_path / "a", tmp_path / "raw")
    left = [bounds.SPARE + 2**30] * 8  # it fills while it is written
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=left.pop() if left else 0))
    if kind == "tar.gz":
        with pytest.raises(FetchError, match="no room"):
            unpack(tmp_path / "a", tmp_path / "raw")
    assert tree(tmp_path) == before


FULL = """
import resource, sys
from pathlib import Path
from strfcube import FetchError
from strfcube.unpacking.unpack import unpack
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except FetchError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses(tmp_path):
    write("zip", tmp_path / "a.zip", {"large.wav": bytes(2**22)})
    before = tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "a.zip", tmp_path / "raw"], text=True, capture_output=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "cannot unpack" in done.stdout
    assert "File too large" in done.stdout
    assert tree(tmp_path) == before


# Hostile archives, all in one child process: its memory is measured, and each has its time.

CHILD = r"""
import json, re, resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from strfcube import FetchError
from strfcube.unpacking.unpack import unpack

def late(*_):
    raise SystemExit("it hangs")

def peak():
    if sys.platform == "linux":  # where the peak of the other includes the parent's
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

signal.signal(signal.SIGALRM, late)
for name in sys.argv[3:]:
    folder = Path(sys.argv[1], name)
    signal.alarm(60)
    start = time.perf_counter()
    try:
        unpack(folder / "work" / "archive", folder / "work" / "raw")
        said = None
    except FetchError as error:
        said = str(error)
    except Exception as error:
        said = "not one of ours: " + repr(error)
    signal.alarm(0)
    print(json.dumps([name, said, time.perf_counter() - start, peak()]), flush=True)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """What became of each hostile archive: its error, the peak of memory up to it, the tree before and after."""
    top = tmp_path_factory.mktemp("hostile")
    before = {}
    for name, (writer, _) in CASES.items():
        (top / name / "work" / "raw").mkdir(parents=True)
        (top / name / "outside").mkdir()
        for place in ("outside", "work", "work/raw"):
            (top / name / place / "kept.txt").write_text("kept")
        writer(top / name / "work" / "archive", top / name / "outside")
        before[name] = tree(top / name)
    done = subprocess.run([sys.executable, "-c", CHILD, top, HERE, *CASES], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    said = {name: (error, peak) for name, error, _, peak in map(json.loads, done.stdout.splitlines())}
    yield {name: (*said[name], before[name], tree(top / name)) for name in CASES}
    shutil.rmtree(top)


@pytest.mark.parametrize("name", CASES)
def test_hostile_archives(hostile, name):
    error, peak, before, after = hostile[name]
    assert after == before
    assert error is not None
    assert error.count("\n") == 0
    assert "archive: " in error
    assert re.search(CASES[name][1], error), error
    assert peak < 300e6


def refused_with(archive, into):
    try:
        unpack(archive, into)
    except FetchError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["zip", "zip64", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_damage_anywhere(tmp_path, kind):
    """Bytes changed, cut out or put in at random: an error of ours, or all of the content."""
    path, rng = tmp_path / "archive", random.Random(kind)
    write(kind, path)
    good, refused = path.read_bytes(), 0
    for i in range(150):
        data = bytearray(good)
        at = rng.randrange(len(data)) if i % 2 else rng.choice([0, len(data) - 1200]) + rng.randrange(1200)
        at = min(max(at, 0), len(data) - 1)
        match i % 3:
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randrange(1, 600)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 600))
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ArchiveWarning)
            error = refused_with(path, tmp_path / "raw")
        if error:
            refused += 1
            assert "\n" not in error
        else:
            if kind != "tar":  # which has no sum but of its headers; a zip has none of its directory, with the names
                assert set(content(tmp_path / "raw").values()) | {b""} == set(FILES.values())
            shutil.rmtree(tmp_path / "raw")
        assert [p.name for p in tmp_path.iterdir()] == ["archive"]
    assert refused > 50


# Kills

KILLED = """
import os, sys
from pathlib import Path
from strfcube.unpacking.unpack import unpack
archive, into, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
unpack(Path(sys.argv[4]), Path(sys.argv[5]))  # imports everything

def at_every_event(name, args):
    global after
    if name == "open" or name.startswith(("os.", "shutil.")):
        after -= 1
        if after == 0:
            os.kill(os.getpid(), 9)

while True:
    child = os.fork()
    if child == 0:
        sys.addaudithook(at_every_event)
        unpack(archive, into)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(after, status, flush=True)
    sys.stdin.readline()
    after += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder with files"])
def test_killed_at_every_moment(tmp_path, kind, there):
    """A kill at each call of the file system, then the next unpacking: it ends as one that nothing disturbed."""
    place = tmp_path / "place"
    place.mkdir()
    into, archive = place / "raw", tmp_path / "archive"
    write(kind, archive)
    wanted = FILES | ({"all_stims/kept.wav": b"kept"} if there else {})
    command = [sys.executable, "-c", KILLED, archive, into, "1", archive, tmp_path / "warm"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    halves = kills = 0
    try:
        while True:
            shutil.rmtree(into, ignore_errors=True)
            if there:
                (into / "all_stims").mkdir(parents=True)
                (into / "all_stims" / "kept.wav").write_bytes(b"kept")
            if kills:
                child.stdin.write("\n")
                child.stdin.flush()
            _, status = child.stdout.readline().split()
            kills += 1
            if not there:
                assert not into.exists() or content(into) == FILES  # whole or not at all
            else:
                assert (into / "all_stims" / "kept.wav").read_bytes() == b"kept"
                halves += 1 < len(content(into)) < len(wanted)
            if kills % 2:
                unpack(archive, into)
            else:
                settle(into)
                if content(into) != wanted:  # it was not whole yet
                    assert content(into) == ({"all_stims/kept.wav": b"kept"} if there else {})
                    unpack(archive, into)
            assert content(into) == wanted
            assert [p.name for p in place.iterdir()] == ["raw"]
            if status == "0":
                break
    finally:
        child.kill()
        child.communicate()
    assert kills > 30
    assert halves > 0 or not there


UNPACK = """
import sys
from pathlib import Path
from strfcube.unpacking.unpack import unpack
unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_at_random_moments(tmp_path):
    rng = random.Random(3)
    files = {f"cells/{i // 50}/spike{i}": rng.randbytes(2000) for i in range(2000)}
    write("tar.gz", tmp_path / "a.tar.gz", files)
    into, killed = tmp_path / "place" / "raw", 0
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", UNPACK, tmp_path / "a.tar.gz", into])
        while not (tmp_path / "place").exists() and child.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        assert not into.exists() or content(into) == files
    assert killed
    unpack(tmp_path / "a.tar.gz", into)
    assert content(into) == files
    assert [p.name for p in into.parent.iterdir()] == ["raw"]


def test_a_half_moved_archive_is_moved_to_the_end_by_another_one(tmp_path):
    into, work = tmp_path / "raw", tmp_path / ".strfcube-unpacking-raw"
    for name, data in FILES.items():
        (work / "whole" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "whole" / name).write_bytes(data)
    into.mkdir()
    os.rename(work / "whole" / "all_cells", into / "all_cells")
    write("zip", tmp_path / "other.zip", {"other.txt": DATA})
    unpack(tmp_path / "other.zip", into)
    assert content(into) == FILES | {"other.txt": DATA}
    assert not work.exists()


def test_a_half_moved_archive_does_not_replace_what_came_between(tmp_path):
    into, work = tmp_path / "raw", tmp_path / ".strfcube-unpacking-raw"
    (work / "whole").mkdir(parents=True)
    (work / "whole" / "a.txt").write_bytes(DATA)
    into.mkdir()
    (into / "a.txt").write_bytes(b"mine")
    for _ in range(2):  # it is not lost by an error
        with pytest.raises(FetchError, match=r"cut off: 'a\.txt' is there already with other content"):
            settle(into)
    (into / "a.txt").unlink()
    settle(into)
    assert content(tmp_path) == {"raw/a.txt": DATA}
    settle(into)  # there is nothing to do


# Several at once


@pytest.mark.parametrize("same", [True, False], ids=["one archive", "two archives"])
def test_processes_at_once(tmp_path, same):
    rng, into = random.Random(4), tmp_path / "place" / "raw"
    wanted, commands = {}, []
    for i in range(4):
        part = 0 if same else i
        files = {f"root/{part}/{j}": rng.randbytes(1000) for j in range(300)} | {"root/README": DATA}
        archive = tmp_path / f"a{part}.tar.gz"
        if not archive.exists():
            write("tar.gz", archive, files)
            wanted |= files
        commands.append([sys.executable, "-c", UNPACK, archive, into])
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    assert [(child.communicate(timeout=120)[1], child.returncode) for child in children] == [("", 0)] * 4
    assert content(into) == wanted
    assert [p.name for p in into.parent.iterdir()] == ["raw"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_what_the_system_refuses_to_read_is_no_damaged_archive(tmp_path, error):
    """Of a damaged one whose digest nobody published, fetching removes what was downloaded."""
    told = damaged(tmp_path / "a.tar", "it", error)
    assert not isinstance(told, Damaged)
    assert "cannot be read" in str(told)
    assert "delete" not in str(told)
