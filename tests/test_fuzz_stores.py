"""A short run of the fuzzer of stores; `make fuzz` runs it for as long as one likes."""

import importlib.util
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from toy import FAST, random_toy

import strfcube

FUZZ = Path(__file__).parents[1] / "fuzz" / "stores.py"


def run(*args):
    done = subprocess.run(
        [sys.executable, str(FUZZ), *args], capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip
    return done.returncode, done.stdout


def test_some_damaged_stores():
    code, said = run("--count", "15", "--seed", "1000")
    assert code == 0, said
    assert "15 cases from seed 1000, 0 faults" in said


def test_what_was_found_once_is_mended():
    """A pipe for a label, texts that claim to be billions, an export of damaged trials."""
    for seed in (150, 167, 201):
        code, said = run("--only", str(seed))
        assert code == 0, said


@pytest.fixture
def stores(monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ.parent))
    spec = importlib.util.spec_from_file_location("fuzz_stores", FUZZ)  # there is another module of its name in tests
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wrong_value_is_noticed(stores, tmp_path):
    """A bin that was not built, and what somebody wrote under a right checksum."""
    import google_crc32c

    sound = Path(strfcube.build(random_toy(tmp_path / "raw")[0], out=tmp_path / "sound.zarr", **FAST))
    truth = stores.reading("open", sound, sound, tmp_path)
    assert stores.judged("open", sound, truth, truth, False, "nothing") == ""
    one = [v.copy() for v in truth]
    one[1][0, 0, 0, 0] = 7
    wrong = "other values than were built"
    assert stores.judged("open", sound, one, truth, False, "found") == wrong
    assert stores.judged("open", sound, one, truth, True, "found") == "other values than zarr reads there"
    forged = Path(shutil.copytree(sound, tmp_path / "forged.zarr"))
    file = forged / "response" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    size = struct.unpack_from("<I", data, 12)[0]
    data[3] = 125  # blosc: bytes of a value, by which their bits are put in order again
    struct.pack_into("<I", data, size, google_crc32c.value(bytes(data[:size])))
    file.write_bytes(data)
    found = stores.reading("open", forged, sound, tmp_path)
    assert not stores.same(found, truth)
    assert strfcube.verify(forged) == ["'response' has other values than were built"]
    assert stores.judged("open", forged, found, truth, True, "found") == ""
    assert stores.judged("open", forged, found, truth, True, "nothing") == f"{wrong}, of which verify says nothing"
    for maker in stores.MAKERS:
        assert stores.attempt(maker, forged, sound, tmp_path)[0] == "refused"
        assert stores.judged(maker, forged, found, truth, True, "found") == wrong
