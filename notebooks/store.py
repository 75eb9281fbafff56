"""Run notebooks and store them with what they printed and drew, the same on every machine: ``make notebooks``.

Usage: python notebooks/store.py [NOTEBOOK ...]

Each runs in an empty folder with a data folder of its own. What a terminal would show on the way (progress, logging) is
not kept, nor is anything that says when or where it ran; an output that names a folder of this machine is an error.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def executed(path: Path, folder: Path, timeout: float = 300) -> Any:
    """Run a notebook in a folder, and give it as it is stored.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    ValueError
        If an output names a folder of this machine.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"{number:02d}", {}
        if cell.cell_type != "code":
            continue
        cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for output in cell.outputs:  # a cube says when it was built
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output["data"][kind] = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "(a time)", text)
        for output in cell.outputs:
            shown = str(output)
            if any(place in shown for place in (str(folder), str(Path.home()), str(HERE.parent))):
                raise ValueError(f"{path.name}, cell {number}: an output names a folder of this machine: {shown[:500]}")
    return notebook


def main(paths: list[Path]) -> None:
    """Run and store these, or all."""
    for path in paths or sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"STRFCUBE_DATA_DIR": f"{folder}/cubes", "IPYTHONDIR": f"{folder}/ipython"}
            nbformat.write(executed(path, Path(folder)), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
