"""A cube is read by others than the strfcube that wrote it: plain xarray, tensorstore, another Python and zarr.

The other interpreter is $STRFCUBE_OTHER_PYTHON, or that of .venv or .venv-newest, whichever this is not; the second
leg of `.ci/run` has both.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from install import ROOT, empty_environment, run

import strfcube

BUILD = "import strfcube, sys; strfcube.build('demo', out=sys.argv[1], jobs=1)"
READ = """
import hashlib, json, sys, warnings
warnings.simplefilter("error")
import numpy as np, xarray as xr, zarr
import strfcube

assert strfcube.verify(sys.argv[1]) == []
groups = {"/": strfcube.open(sys.argv[1])}
for name in ("trials", "audio", "findings"):
    groups[name] = xr.open_zarr(sys.argv[1], group=name, decode_times=False)
seen = {}
for group, ds in groups.items():
    for name, variable in ds.variables.items():
        values = np.asarray(variable.values)
        data = "\\0".join(map(str, values.ravel())).encode() if values.dtype.kind in "OTU" else values.tobytes()
        seen[f"{group} {name}"] = [list(values.shape), hashlib.sha256(data).hexdigest()]
print(json.dumps({"versions": [zarr.__version__, sys.version], "seen": seen}))
"""


PLAIN = """
import sys
import xarray as xr

ds = xr.open_zarr(sys.argv[1])
assert ds["response"].chunks is not None
assert float(ds["response"].sum()) > 0
assert ds["response"].isnull().any()
tree = xr.open_datatree(sys.argv[1], engine="zarr", decode_times=False)
assert {"trials", "audio", "findings"} <= set(tree.children)
tree.load()
for absent in ("strfcube", "torch", "librosa", "scipy", "h5py"):
    try:
        __import__(absent)
    except ImportError:
        continue
    raise SystemExit(f"{absent} is there")
"""


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cube")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRFCUBE_DATA_DIR", str(folder))
        return strfcube.build("demo", out=folder / "demo.zarr", jobs=1)


def test_xarray_zarr_and_dask_are_enough(cube, tmp_path):
    python = empty_environment(tmp_path / "env", tmp_path / "neighbours", only=("xarray", "zarr", "dask"))
    run(python, "-W", "error", "-c", PLAIN, cube, cwd=tmp_path)


def test_tensorstore_reads_the_same(cube):
    tensorstore = pytest.importorskip("tensorstore")
    compared = []
    for path, array in zarr.open_group(cube, mode="r").members(max_depth=None):
        if isinstance(array, zarr.Array) and array.dtype.kind not in "OTU":
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{cube}/{path}/"}}
            np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), array[...], err_msg=path)
            compared.append(path)
    assert {"response", "stimulus", "trials/spike_time", "audio/samples"} <= set(compared)


@pytest.fixture(scope="module")
def other():
    given = os.environ.get("STRFCUBE_OTHER_PYTHON")
    candidates = [Path(given)] if given else [ROOT / name / "bin" / "python" for name in (".venv", ".venv-newest")]
    for python in candidates:
        if python.exists() and Path(sys.prefix) != python.parent.parent:
            return python
    pytest.skip("no second Python with strfcube: name one in $STRFCUBE_OTHER_PYTHON")


@pytest.mark.parametrize("written_here", [True, False], ids=["written here", "written there"])
def test_both_read_the_same(other, tmp_path, written_here):
    here, store = Path(sys.executable), tmp_path / "demo.zarr"
    data = {"STRFCUBE_DATA_DIR": str(tmp_path)}
    run(here if written_here else other, "-c", BUILD, store, cwd=tmp_path, **data)
    read = [json.loads(run(python, "-c", READ, store, cwd=tmp_path, **data)) for python in (here, other)]
    assert read[0]["versions"] != read[1]["versions"]
    assert len(read[0]["seen"]) > 30
    assert read[0]["seen"] == read[1]["seen"]
