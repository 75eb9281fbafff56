"""The import rule: who may import whom, and what `import strfcube` loads."""

import json
import shutil
import subprocess
import sys

import pytest
from install import ROOT, copy_project, install, run

PROBE = """
import json, sys
import strfcube
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return json.loads(run(sys.executable, "-c", PROBE, cwd=tmp_path_factory.mktemp("elsewhere")))


# What makes an import slow; seconds would measure what else the machine is doing.
@pytest.mark.parametrize("name", ["zarr", "dask", "torch", "librosa", "matplotlib", "h5py", "scipy", "distributed"])
def test_import_does_not_load(imported, name):
    assert name not in imported


def test_public_names():
    import strfcube

    assert {"build", "open", "select", "concat", "CubeDataset"} <= set(strfcube.__all__)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = strfcube.nothing_of_that_name


# What import-linter sees is a real install: it cannot see the mapped packages of an editable one.


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("importlinter")
    folder = tmp_path_factory.mktemp("linted")
    return install(folder / "site", copy_project(folder))


def lint_imports(folder):
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder, text=True, capture_output=True,
    )  # fmt: skip


def test_contracts_are_kept(installed):
    done = lint_imports(installed)
    assert done.returncode == 0, done.stdout


LAYERS = "A room imports only"
# Into each room, an import of a room above it or beside it.
UPWARD = [
    ("grid.py", "import strfcube.sound.audio"),
    ("sound/audio.py", "from strfcube.cube import schema"),
    ("unpacking/unpack.py", "from strfcube.fetching import fetch"),
    ("fetching/plan.py", "from strfcube.cube import store"),
    ("transport/connect.py", "import strfcube.cube.shard_reader"),
    ("transport/urls.py", "import strfcube.fetching.web"),
    ("cube/schema.py", "import strfcube.builder.plan"),
    ("cube/store.py", "def later():\n    from strfcube.analysis.concat import concat"),
    ("builder/plan.py", "from strfcube.analysis import quality"),
    ("analysis/quality.py", "import strfcube.builder.save"),
    ("analysis/plot/__init__.py", "from strfcube.loading.view import CubeView"),
    ("loading/batch.py", "from strfcube.cli.main import cli"),
    ("loading/view.py", "import strfcube.adapters.torch"),
    ("cli/main.py", "import strfcube.pipelines.aa1"),
    ("pipelines/aa1.py", "import strfcube.cli.main"),
    ("pipelines/aa4/unit.py", "import strfcube.adapters.torch"),
    ("adapters/torch/carrier.py", "import strfcube.cli.build"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        *((module, line, LAYERS) for module, line in UPWARD),
        ("grid.py", "import strfcube.pipelines.ns1", LAYERS),
        ("grid.py", "from strfcube.adapters import torch", LAYERS),
        ("grid.py", "def later():\n    import strfcube.adapters.torch", LAYERS),
        ("__init__.py", "from strfcube.pipelines import ns1", "The package itself"),
        ("loading/view.py", "from strfcube.builder import plan", "Pipelines, loading and adapters"),
        ("pipelines/ns1.py", "from strfcube.builder import plan", "Pipelines, loading and adapters"),
        ("cube/schema.py", "import torch", "Nothing but its own adapter"),
        ("loading/batch.py", "import jax.numpy", "Nothing but its own adapter"),
        ("pipelines/ns1.py", "import torch.nn", "Nothing but its own adapter"),
        ("adapters/torch/arena.py", "import jax", "Nothing but its own adapter"),
        ("adapters/jax.py", "import torch", "Nothing but its own adapter"),
        ("pipelines/ns1.py", "from strfcube.adapters.torch import CubeDataset", LAYERS),
        ("adapters/torch/__init__.py", "import strfcube.pipelines.ns1", LAYERS),
        ("unheard_of.py", "", LAYERS),
    ],
)
def test_a_forbidden_import_is_refused(installed, tmp_path, module, line, contract):
    planted = tmp_path / "site"
    shutil.copytree(installed, planted, ignore=shutil.ignore_patterns("__pycache__"))
    with (planted / "strfcube" / module).open("a") as file:
        file.write(f"\n\n{line}\n")
    done = lint_imports(planted)
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert done.returncode != 0
    assert any(text.startswith(contract) for text in broken), done.stdout


def test_python_without_assertions_is_refused():
    """Zarr's do part of its work: every cube would be called damaged."""
    done = subprocess.run([sys.executable, "-O", "-c", "import strfcube"], capture_output=True, text=True)
    assert "leave out -O" in done.stderr.splitlines()[-1]
