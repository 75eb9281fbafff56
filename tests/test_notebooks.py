"""The notebooks run from top to bottom, and are stored with outputs that say nothing of where they ran."""

import itertools
import re

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube
from install import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 900_000  # bytes of a notebook: small pictures

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_with_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "make notebooks"
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not re.search(r"/(home|root|tmp|Users|work)/|\d{4}-\d\d-\d\dT\d\d:", str(outputs))
    assert path.stat().st_size < LARGEST
    for cell in code:
        assert cell.source.count("\n") < 30, f"a long cell: {cell.source[:80]}"


@pytest.mark.torch
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_runs(path, tmp_path, monkeypatch):
    if "CubeDataset" in path.read_text("utf-8"):
        pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import store

    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / "cubes"))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    again, stored = store.executed(path, tmp_path), nbformat.read(path, as_version=4)
    assert [shapes(cell) for cell in again.cells] == [shapes(cell) for cell in stored.cells], "make notebooks"


def shapes(cell):
    """What kinds of output a cell has: the same wherever it runs, and in however many pieces its text comes."""
    found = [sorted(output.get("data", {output.get("name"): 0})) for output in cell.get("outputs", ())]
    return [kind for kind, _ in itertools.groupby(found)]


def test_what_is_missing_is_fitted_as_missing():
    """The functions of the notebook that fits STRFs, on a cube in which pairs were never presented."""
    code = [cell.source for cell in nbformat.read(ROOT / "notebooks" / "fit-a-strf.ipynb", as_version=4).cells]
    cube = make_cube(stim=6, neuron=4, bins=60, rate=1.0)
    cube["stimulus"][5] = np.nan  # a sound whose file is not there

    def functions(train):
        named = {"np": np, "xr": xr, "train": train}
        for cell in code:
            if "def " in cell:
                exec("\n\n\n".join(p for p in cell.split("\n\n\n") if p.startswith(("def ", "LAGS"))), named)
        return named

    named = functions(cube)
    x, y = named["table"](cube)
    lower = cube.assign(stimulus=cube["stimulus"] - 100)  # as in dB: silence is no 0, also before the sound
    np.testing.assert_allclose(functions(lower)["table"](lower)[0], x - 100, atol=1e-4)
    heard = np.concatenate([np.full((int(n), 1), 1) * (reps > 0) for n, reps in
                            zip(cube["n_bins"].values[:5], cube["n_repeats"].values[:5], strict=True)])  # fmt: skip
    assert 0 < heard.mean() < 1
    np.testing.assert_array_equal(np.isfinite(y), heard)
    weights, offset = named["fit"](x, y[:, 1])
    recorded = heard[:, 1].astype(bool)
    again, same = named["fit"](x[recorded], y[recorded, 1])
    np.testing.assert_allclose(weights, again)
    np.testing.assert_allclose(offset, same)
    assert not np.allclose(weights, named["fit"](x, np.nan_to_num(y[:, 1]))[0])
