"""What lies in a raw folder: links followed, dot files left out, absent content told apart."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import wavfile

from strfcube.errors import RawDataError, StrfcubeError
from strfcube.raw_files import Missing, RawFile, bounded, see_readable, walk
from strfcube.records import Pipeline


def names(folder):
    return [file.name for file in walk(folder)]


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_files_in_order_without_dot_files(tmp_path):
    for name in ("b", "a/2", "a/10", ".DS_Store", "a/._2", ".git/config", ".snapshot/a/2"):
        put(tmp_path / name)
    assert names(tmp_path) == ["a/10", "a/2", "b"]


def test_links_are_followed_and_what_lies_behind_them_counts(tmp_path):
    put(tmp_path / "far" / "sub" / "x", "one")
    put(tmp_path / "raw" / "y")
    (tmp_path / "raw" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "raw" / "again").symlink_to(tmp_path / "far" / "sub")  # the same twice is no circle
    before = list(walk(tmp_path / "raw"))
    assert [f.name for f in before] == ["again/x", "linked/sub/x", "y"]
    put(tmp_path / "far" / "sub" / "x", "other")
    assert [a == b for a, b in zip(before, walk(tmp_path / "raw"), strict=True)] == [False, False, True]


@pytest.mark.parametrize("target", ["..", ".", "../../raw", "loop"])
def test_a_circle_is_an_error_that_names_the_link(tmp_path, target):
    put(tmp_path / "raw" / "a" / "x")
    (tmp_path / "raw" / "a" / "loop").symlink_to(target)
    with pytest.raises(RawDataError, match=r"a/loop: a link that leads (back|to itself)"):
        names(tmp_path / "raw")


def test_a_circle_over_two_links(tmp_path):
    for a, b in (("a", "b"), ("b", "a")):
        put(tmp_path / a / "x")
        (tmp_path / a / b).symlink_to(tmp_path / b)
    with pytest.raises(RawDataError, match="a/b/a: a link that leads back"):
        names(tmp_path / "a")


def test_content_that_is_not_there(tmp_path):
    put(tmp_path / "there", "x" * 2000)
    (tmp_path / "annexed").symlink_to(".git/annex/objects/W9/3x/MD5E-s5--0123/MD5E-s5--0123")
    (tmp_path / "broken").symlink_to("nowhere")
    put(tmp_path / "sub" / "pointer", "/annex/objects/MD5E-s5--0123\n")
    put(tmp_path / "sub" / "lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n")
    (tmp_path / ".git").mkdir()
    kinds = {f.name: f.absent for f in walk(tmp_path)}
    assert kinds == {"annexed": "annex", "broken": "link", "sub/lfs": "lfs", "sub/pointer": "annex", "there": ""}
    missing = Missing.of(list(walk(tmp_path)))
    assert missing.covered == {"annexed", "broken", "sub", "sub/lfs", "sub/pointer"}
    assert "of 2 of 5 files the content is with git-annex (DataLad) and was not fetched, the first is" in missing.what()
    for text in ("`datalad get .`", "`git annex get .`", "`git lfs pull`", "mend the links"):
        assert text in missing.remedy()
    assert Missing.of([RawFile("a", 1, 1)]) == Missing()


def test_pointers_elsewhere_than_in_a_checkout(tmp_path):
    """One short file of a kind in each folder is looked into, and all that come after a pointer."""
    pointer = "/annex/objects/MD5E-s5--0123\n"
    for name, text in {
        "a.wav": "x" * 2000,
        "b.wav": "short",
        "c.wav": pointer,
        "d.txt": pointer,
        "e.wav": pointer,
    }.items():
        put(tmp_path / name, text)
    kinds = {f.name: f.absent for f in walk(tmp_path)}
    assert kinds == {"a.wav": "", "b.wav": "", "c.wav": "", "d.txt": "annex", "e.wav": "annex"}


def test_a_pipeline_says_which_files_it_reads(tmp_path):
    class Wavs(Pipeline):
        files = ("*.wav", "table.csv")

        def survey(self, report): ...

        def read(self, source, report): ...

    for name in ("a.wav", "sub/B.WAV", "README.pdf", "sub/table.csv", "other.csv", ".c.wav"):
        put(tmp_path / name)
    assert [f.name for f in Wavs(tmp_path).listing()] == ["a.wav", "sub/B.WAV", "sub/table.csv"]
    assert Wavs(tmp_path / "a.wav").listing() == []


def test_a_pipeline_keeps_its_folder_when_the_working_folder_changes(tmp_path, monkeypatch):
    class Any(Pipeline):
        def survey(self, report): ...

        def read(self, source, report): ...

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    one, other = Any("raw"), Any("~/raw")
    monkeypatch.chdir("/")
    assert (one.raw, other.raw) == (tmp_path / "raw", tmp_path / "home" / "raw")


def test_names_of_any_bytes(tmp_path):
    put(tmp_path / "sub" / os.fsdecode(b"\xff\xe9.wav"))
    assert [os.fsencode(name) for name in names(tmp_path)] == [b"sub/\xff\xe9.wav"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_what_the_system_refuses_is_no_damage(code):
    with pytest.raises(StrfcubeError, match=r"^a\.mat cannot be read: .+; .+, then give the same command$") as error:
        see_readable(OSError(code, os.strerror(code)), "a.mat")
    assert not isinstance(error.value, RawDataError)  # which a pipeline takes for a finding


@pytest.mark.parametrize("error", [OSError("truncated"), FileNotFoundError(errno.ENOENT, ""), ValueError("bad header")])
def test_what_a_file_holds_is_for_its_reader_to_tell(error):
    see_readable(error, "a.mat")


_SCARCE = """
import resource, sys
from pathlib import Path
import numpy as np
from strfcube.errors import RawDataError, StrfcubeError
from strfcube.raw_files import bounded
from strfcube.sound.audio import read_wav
read_wav(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, resource.RLIM_INFINITY))
try:
    read_wav(sys.argv[2])
except StrfcubeError as error:
    print(type(error) is StrfcubeError, error)
try:
    with bounded(10**9):  # the process may have less than such a file can need
        np.empty(10**9, "u1")
except MemoryError:
    print("MemoryError")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_want_of_memory_says_nothing_of_a_file(tmp_path):
    """In a process of its own: one that has run others holds memory that it gave back to nobody."""
    for name, length in (("short.wav", 100), ("long.wav", 30_000_000)):
        wavfile.write(tmp_path / name, 44100, np.zeros(length, "i2"))
    command = [sys.executable, "-c", _SCARCE, tmp_path / "short.wav", tmp_path / "long.wav"]
    found = subprocess.run(command, text=True, capture_output=True, check=True).stdout.splitlines()
    said = f"True {tmp_path / 'long.wav'} cannot be read: there is not enough memory"
    assert [found[0].startswith(said), *found[1:]] == [True, "MemoryError"]


def test_a_file_that_claims_more_than_it_can_need():
    with bounded(0):
        see_readable(MemoryError(), "x")  # is the file's fault
    with pytest.raises(StrfcubeError, match="not enough memory"):
        see_readable(MemoryError(), "x")
    with pytest.raises(ValueError, match="it claims more memory than it can need"), bounded(0):
        np.empty(10**10, "u1")
