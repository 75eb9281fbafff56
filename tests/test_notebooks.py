"""The notebooks run from top to bottom, and are stored with outputs that say nothing of where they ran."""

import itertools
import re

import pytest
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
