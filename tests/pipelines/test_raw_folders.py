"""What every data set does with links, dot files, absent content and odd names in its raw folder."""

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from writers import aa, aa4, ac1, nat4, ns1

import strfcube
from strfcube.errors import RawDataError, StoreError

pytestmark = pytest.mark.slow


def write_nat4(folder):
    """NAT4 with its sites and sounds in folders, not in archives."""
    nat4.write_nat4(folder, wavs=True)
    for archive in folder.glob("*.zip"):
        shutil.unpack_archive(archive, archive.with_suffix(""))
        archive.unlink()


SETS = {
    "aa1": aa.write_aa1, "aa2": aa.write_aa2, "aa4": aa4.write_aa4, "ac1": ac1.write, "nat4": write_nat4,
    "ns1": lambda folder: ns1.write_ns1(folder, units=3, repeats=2, drc_repeats=1, clip_seconds=0.2),
}  # fmt: skip
ONLY = {"ac1": {"signal_type": "membrane_potential"}}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A raw folder of each set, and the digest of its cube; written and built when first asked for."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            SETS[name](folder / "raw")
            made[name] = folder / "raw", digest(make(name, folder / "raw", folder / "cube.zarr"))
        return made[name]

    return of


def make(name, raw, out, **kwargs):
    return strfcube.build(name, raw=raw, out=out, jobs=1, only=ONLY.get(name), **kwargs)


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


def findings(path):
    table = xr.open_zarr(path, group="findings", chunks=None).load()
    return [str(v) for v in table["what"].values], [str(v) for v in table["file"].values]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def link_folders(raw, far):
    """Move every folder that holds folders or files elsewhere, the innermost first, and leave links."""
    for number, folder in enumerate(sorted((p for p in raw.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts))):
        target = far / str(number)
        shutil.move(folder, target)
        folder.symlink_to(target)


@pytest.mark.parametrize("name", SETS)
def test_linked_folders_are_as_folders(originals, tmp_path, name):
    raw, expected = originals(name)
    copy, far = tmp_path / "raw", tmp_path / "far"
    shutil.copytree(raw, copy)
    far.mkdir()
    link_folders(copy, far)
    assert any(path.is_symlink() for path in copy.iterdir())
    assert digest(make(name, copy, tmp_path / "cube.zarr")) == expected
    changed = next(path for path in files_of(far) if path.suffix in (".wav", ".h5", ".mat", ".tgz", ".csv"))
    os.utime(changed, (1, 1))
    with pytest.raises(StoreError, match="other raw files"):
        make(name, copy, tmp_path / "cube.zarr")


@pytest.mark.parametrize("name", SETS)
def test_dot_files_and_what_is_not_read_change_nothing(originals, tmp_path, name):
    raw, expected = originals(name)
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    out = make(name, copy, tmp_path / "cube.zarr")
    before = os.stat(Path(out) / "zarr.json").st_mtime_ns
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        for junk in (".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r"):
            (folder / junk).write_bytes(b"\0\0\0\1Bud1")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "._x.wav").write_bytes(b"\0\5\x16\7")
    for file in files_of(raw):
        hidden = copy / ".git" / "annex" / file.relative_to(raw)
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_bytes(b"no such data")
        (copy / file.relative_to(raw)).with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    (copy / "README.pdf").write_text("new")
    (copy / os.fsdecode(b"notes \xff.txt")).write_text("an old file name")
    assert make(name, copy, tmp_path / "cube.zarr") == out
    assert os.stat(Path(out) / "zarr.json").st_mtime_ns == before
    assert digest(make(name, copy, tmp_path / "again.zarr")) == expected
    assert findings(tmp_path / "again.zarr") == findings(raw.parent / "cube.zarr")


POINTERS = {
    "git-annex": b"/annex/objects/MD5E-s123456--0123456789abcdef0123456789abcdef.x\n",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n",
}


@pytest.mark.parametrize("kind", POINTERS)
@pytest.mark.parametrize("name", SETS)
def test_a_downloaded_copy_of_a_repository_holds_pointers(originals, tmp_path, name, kind):
    """What a site for repositories packs for a download: texts in place of all large files, and no .git."""
    copy = tmp_path / "raw"
    shutil.copytree(originals(name)[0], copy)
    (copy / "README.txt").write_text("short")
    for file in files_of(copy):
        if file.name != "README.txt":
            file.write_bytes(POINTERS[kind])
    with pytest.raises(RawDataError, match=f"{kind}.* was not fetched") as error:
        make(name, copy, tmp_path / "cube.zarr")
    assert "\n" not in str(error.value)


def annex(path):
    """Leave what a clone has of a file that was not fetched."""
    path.unlink()
    path.symlink_to(".git/annex/objects/W9/3x/MD5E-s5--0123/MD5E-s5--0123")


@pytest.mark.parametrize("name", SETS)
def test_a_clone_without_content_is_one_error(originals, tmp_path, name):
    copy = tmp_path / "raw"
    shutil.copytree(originals(name)[0], copy)
    for file in files_of(copy):
        annex(file)
    with pytest.raises(RawDataError, match=r"git-annex.* `datalad get \.`") as error:
        make(name, copy, tmp_path / "cube.zarr")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["aa1", "aa2", "ns1"])
def test_what_was_not_fetched_is_one_finding(originals, tmp_path, name):
    raw, _ = originals(name)
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    units = [p for p in files_of(copy) if p.name.startswith("spike") or p.name.endswith(".data.mat")]
    for file in units[1:]:
        annex(file)
    said, files = findings(make(name, copy, tmp_path / "cube.zarr"))
    assert sum("git-annex" in what for what in said) == 1
    assert f"of {len(units) - 1} of " in said[0]
    absent = {path.relative_to(copy).as_posix() for path in units[1:]}
    assert not absent & set(files)
    assert len([what for what in said if "expected a clip" not in what]) < 20  # these clips are short


def test_names_that_are_no_text(tmp_path):
    """Folders and files whose names are bytes of an old encoding: labels and findings show the bytes."""
    odd = os.fsdecode(b"\xe9")
    aa.write_aa2(tmp_path / "aa2")
    cells = sorted((tmp_path / "aa2" / "all_cells").iterdir())
    (cells[1] / f"x{odd}").mkdir()
    cells[1].rename(cells[1].with_name(f"b{odd}_1_A"))
    ds = strfcube.open(make("aa2", tmp_path / "aa2", tmp_path / "aa2.zarr"))
    assert "b\\xe9_1_A" in ds["neuron"].values
    _, files = findings(tmp_path / "aa2.zarr")
    assert "all_cells/b\\xe9_1_A/x\\xe9" in files
    aa4.write_aa4(tmp_path / "aa4")
    animal = next(p for p in sorted((tmp_path / "aa4").iterdir()) if p.is_dir())
    before = strfcube.open(make("aa4", tmp_path / "aa4", tmp_path / "before.zarr")).sizes
    animal.rename(animal.with_name(f"B{odd}F"))
    ds = strfcube.open(make("aa4", tmp_path / "aa4", tmp_path / "aa4.zarr"))
    assert ds.sizes == before
    assert "B\\xe9F" in set(ds["animal"].values)
    ac1.write(tmp_path / "ac1")
    for file in (tmp_path / "ac1").rglob("wehr/Results/*/*.mat"):
        file.rename(file.with_name(f"{odd}{file.name}"))
    make("ac1", tmp_path / "ac1", tmp_path / "ac1.zarr")
    assert strfcube.verify(tmp_path / "ac1.zarr") == []


def repack(archive, how):
    archive.write_bytes(how(gzip.decompress(archive.read_bytes())))


@pytest.mark.parametrize("how", [lzma.compress, bz2.compress, bytes], ids=["xz", "bzip2", "tar"])
def test_an_archive_packed_otherwise_than_its_name_says(originals, tmp_path, how):
    raw, expected = originals("nat4")
    shutil.copytree(raw, tmp_path / "raw")
    for archive in (tmp_path / "raw").rglob("*.tgz"):
        repack(archive, how)
    assert digest(make("nat4", tmp_path / "raw", tmp_path / "cube.zarr")) == expected


def set_in_zip(archive, local, central, value):
    """Set a byte of the header of every member of a zip archive, at both places where it stands."""
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] = value
            at = content.find(mark, at + 4)
    archive.write_bytes(content)


@pytest.mark.parametrize(
    ("header", "words"),
    [((6, 8, 1), "is encrypted, .*: unpack it first"), ((8, 10, 9), r"not supported \(Deflate64\?\): pack it again")],
    ids=["encrypted", "deflate64"],
)
def test_a_zip_that_cannot_be_read(tmp_path, header, words):
    nat4.write_nat4(tmp_path / "raw", wavs=True)
    set_in_zip(tmp_path / "raw" / "A1_single_sites.zip", *header)
    said, files = findings(make("nat4", tmp_path / "raw", tmp_path / "cube.zarr"))
    wrong = [what for what, file in zip(said, files, strict=True) if file.startswith("A1_single_sites.zip/")]
    assert wrong
    assert all(re.search(words, what) for what in wrong)
    set_in_zip(tmp_path / "raw" / "wav.zip", *header)
    with pytest.raises(RawDataError, match=rf"wav\.zip/.*: --spec mel needs the waveforms.*{words}"):
        make("nat4", tmp_path / "raw", tmp_path / "mel.zarr", spec="mel")
    said, files = findings(make("nat4", tmp_path / "raw", tmp_path / "published.zarr"))
    assert any(file.startswith("wav.zip/") for file in files)  # the spectrograms are published, and there


@pytest.mark.parametrize("name", ["aa1", "aa4", "nat4", "ns1"])
def test_a_wav_with_a_wrong_size_in_its_header_is_one_finding(originals, tmp_path, name):
    raw, _ = originals(name)
    shutil.copytree(raw, tmp_path / "raw")
    wav = next(p for p in files_of(tmp_path / "raw") if p.read_bytes()[:4] == b"RIFF")
    content = bytearray(wav.read_bytes())
    content[4:8] = bytes(4)
    wav.write_bytes(content)
    said, files = findings(make(name, tmp_path / "raw", tmp_path / "cube.zarr"))
    odd = [file for what, file in zip(said, files, strict=True) if "its header states" in what]
    assert odd == [wav.relative_to(tmp_path / "raw").as_posix()]
    sizes = [
        xr.open_zarr(p, group="audio")["row_size"].values for p in (tmp_path / "cube.zarr", raw.parent / "cube.zarr")
    ]
    assert (sizes[0] == sizes[1]).all()


def test_a_wav_with_a_wrong_size_in_an_archive(tmp_path):
    """Named as the archive has it, once, and the same in every build: findings are in the digest."""
    nat4.write_nat4(tmp_path / "raw", wavs=True)
    shutil.unpack_archive(tmp_path / "raw" / "wav.zip", tmp_path / "wavs")
    wavs = files_of(tmp_path / "wavs")
    wavs[0].write_bytes(wavs[0].read_bytes()[:4] + bytes(4) + wavs[0].read_bytes()[8:])
    shutil.make_archive(str(tmp_path / "raw" / "wav"), "zip", tmp_path / "wavs")
    for spec in ("published", "mel"):
        paths = [make("nat4", tmp_path / "raw", tmp_path / f"{spec}{k}.zarr", spec=spec) for k in range(2)]
        said, files = findings(paths[0])
        odd = [file for what, file in zip(said, files, strict=True) if "its header states" in what]
        assert odd == [f"wav.zip/{wavs[0].relative_to(tmp_path / 'wavs').as_posix()}"]
        assert digest(paths[0]) == digest(paths[1])


@pytest.mark.parametrize("name", SETS)
def test_time_after_the_sound_that_nobody_recorded_is_missing_and_told(originals, tmp_path, name):
    """Whether the responses are spikes, potentials or published counts."""
    path = make(name, originals(name)[0], tmp_path / "cube.zarr", dt=10, post=5000)
    ds = strfcube.open(path)
    known = ds["n_bins"] > 500  # a sound that is not there has no end that time could be kept after
    assert known.sum() > 1
    last = ds["response"].isel(time=int(ds["n_bins"].where(known).min()) - 1, stim=np.flatnonzero(known))
    assert last.isnull().all()
    said, _ = findings(path)
    trials = int(ds["n_repeats"].where(known).sum())
    assert f"{trials:,} trials were not recorded until 5000 ms after the sound (post)" in said


REFUSED = """
import json, re, sys
from pathlib import Path
import strfcube
name, raw, out, only, expected = sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), sys.argv[5]
one_of_a_kind = {}
for path in sorted(p for p in raw.rglob("*") if p.is_file()):
    kind = path.parent.relative_to(raw).parts[:1], re.sub(r"[0-9a-f]{32}|[0-9]+", "", path.name)
    one_of_a_kind.setdefault(kind, path)
for path in one_of_a_kind.values():
    path.chmod(0)
    try:
        made = strfcube.build(name, raw=raw, out=out, jobs=0, only=only, force=True)
        same = json.loads(Path(made, "zarr.json").read_text())["attributes"]["digest"] == expected
        print(path.relative_to(raw), "built, the same" if same else "built, but another")
    except strfcube.StrfcubeError as error:
        print(path.relative_to(raw), "refused" if f"{path} cannot be read: Permission denied" in str(error) else error)
    finally:
        path.chmod(0o644)
"""
"""Builds with each kind of file without permission in turn; a process of its own, in which root is held to it too."""


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
@pytest.mark.parametrize("name", SETS)
def test_a_file_without_permission_is_no_damaged_one(originals, tmp_path, name):
    raw, expected = originals(name)
    shutil.copytree(raw, tmp_path / "raw")
    held = []
    if os.geteuid() == 0:
        held = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        if not shutil.which("setpriv"):
            pytest.skip("root may read everything")
    words = [name, tmp_path / "raw", tmp_path / "cube.zarr", json.dumps(ONLY.get(name)), expected]
    done = subprocess.run(
        [*held, sys.executable, "-c", REFUSED, *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    assert [line for line in lines if not line.endswith((" refused", " built, the same"))] == []
    assert sum(line.endswith(" refused") for line in lines) >= 2, lines
