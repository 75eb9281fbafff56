"""Real damaged files that crash the library which reads them: a finding names the file, and the rest is built."""

import struct
import sys

import numpy as np
import pytest
import xarray as xr
from scipy.io import savemat
from writers import aa4, ac1

import strfcube
from strfcube.errors import RawDataError
from strfcube.pipelines import matlab

pytestmark = pytest.mark.slow

BYTE, BIT = 1185, 0  # of the file below, over which scipy reads memory that is not its own


def write_crasher(file):
    """Write a MATLAB file with one bit flipped."""
    trigger = {"type": "naturalsound", "time": 5.0, "param": {"duration": 100.0, "description": "x"}}
    response = {"trace": np.arange(20.0), "scale": 1.0, "sf": 4000.0}
    savemat(file, {"triggers": np.array([trigger] * 3, object), "response": response})
    data = bytearray(file.read_bytes())
    data[BYTE] ^= 1 << BIT
    file.write_bytes(data)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_matlab_file_that_claims_to_be_large(tmp_path):
    """A cell array of a hundred million: scipy took 800 MB and ten seconds before it noticed."""
    import resource

    file = tmp_path / "large.mat"
    savemat(file, {"x": np.array([[1.0, "a", 2.0]], object)})
    data = file.read_bytes()
    assert data.count(struct.pack("<4I", 5, 8, 1, 3)) == 1  # the size of the array: 1 x 3
    file.write_bytes(data.replace(struct.pack("<4I", 5, 8, 1, 3), struct.pack("<4I", 5, 8, 1, 10**8)))
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(RawDataError, match=r"cut short or damaged \(it claims more memory than it can need"):
        matlab.load(file, "x")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_matlab_file_that_crashes_scipy(tmp_path):
    raw = tmp_path / "raw"
    ac1.write(raw, wehr_cells=2)
    file = sorted(raw.rglob("2*-mw-*.mat"))[0]
    write_crasher(file)
    path = strfcube.build("ac1", raw=raw, out=tmp_path / "cube.zarr", jobs=1)
    table = xr.open_zarr(path, group="findings", chunks=None).load()
    said = dict(
        zip(table["file"].values, zip(table["severity"].values, table["what"].values, strict=True), strict=True)
    )
    severity, what = said[file.relative_to(raw).as_posix()]
    assert severity == "error"
    # What lies in that memory decides whether it crashes.
    assert "reading it crashed (ended by SIG" in what or "it is cut short or damaged" in what
    assert strfcube.open(path).sizes["neuron"] == 5
    assert strfcube.verify(path) == []


def places(data, signature):
    place = -1
    while (place := data.find(signature, place + 1)) >= 0:
        yield place


def backwards(data):
    """The second object of a heap of texts is of -16 bytes: libhdf5 goes from one to the other for ever."""
    for place in places(data, b"GCOL"):
        struct.pack_into("<Q", data, place + 24, 2**64 - 16)


def endless(data):
    """The free room of a heap is followed by itself: libhdf5 makes a note of it until there is no memory."""
    for place in places(data, b"HEAP"):
        size, free, begin = struct.unpack_from("<3Q", data, place + 8)
        if free < size:
            struct.pack_into("<Q", data, begin + free, free)


def deep(data):
    """The root of a tree is its own child, five levels high: libhdf5 calls itself until its stack ends."""
    place = next(places(data, b"TREE"))
    data[place + 5] = 5
    struct.pack_into("<Q", data, place + 32, place)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the processor time and the memory of a process")
def test_hdf5_files_that_never_end(tmp_path, monkeypatch):
    monkeypatch.setenv("STRFCUBE_SOURCE_SECONDS", "3")
    raw = tmp_path / "raw"
    aa4.write_aa4(raw)
    spoilt = {backwards: "took more than 3 s of processor time", endless: "memory", deep: "crashed (ended by SIGSEGV)"}
    files = [p for p in sorted(raw.rglob("*.h5")) if p.stat().st_size > 4000][:3]
    for file, spoil in zip(files, spoilt, strict=True):
        data = bytearray(file.read_bytes())
        spoil(data)
        file.write_bytes(data)
    path = strfcube.build("aa4", raw=raw, out=tmp_path / "cube.zarr", jobs=1, spec="mel", bands=4)
    table = xr.open_zarr(path, group="findings", chunks=None).load()
    said = dict(zip(table["file"].values, table["what"].values, strict=True))
    for file, what in zip(files, spoilt.values(), strict=True):
        assert what in said[file.relative_to(raw).as_posix()]
    assert strfcube.open(path).sizes["neuron"]
