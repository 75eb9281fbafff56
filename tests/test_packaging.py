"""Wheel, sdist and editable install: each carries the catalog, the pipelines and the adapters, and runs."""

import json
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from install import ROOT, copy_project, empty_environment, run

PROBE = """
import importlib.metadata, importlib.resources, json, pathlib
import strfcube, strfcube.pipelines, strfcube.adapters
points = importlib.metadata.entry_points(group="strfcube.pipelines")
for point in points:
    point.load()
print(json.dumps({
    "catalog": importlib.resources.files("strfcube").joinpath("catalog.yaml").read_text(),
    "places": [list(package.__path__)[0] for package in (strfcube, strfcube.pipelines, strfcube.adapters)],
    "pipelines": sorted(point.name for point in points),
    "version": importlib.metadata.version("strfcube"),
}))
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is built from the unpacked sdist, as installers do it."""
    source = copy_project(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("dist")
    backend = "import setuptools.build_meta as b; print(b.build_{}({!r}))"
    run(sys.executable, "-c", backend.format("sdist", str(out)), cwd=source)
    sdist = next(out.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "unpacked", filter="data")
    unpacked = next((out / "unpacked").iterdir())
    run(sys.executable, "-c", backend.format("wheel", str(out)), cwd=unpacked)
    return {"sdist": sdist, "wheel": next(out.glob("*.whl")), "editable": source}


def modules():
    """Every module of the checkout by its name inside the distribution."""
    mapped = {"strfcube": "strfcube", "pipelines": "strfcube/pipelines", "adapters": "strfcube/adapters"}
    return {f"{inside}/{path.name}" for folder, inside in mapped.items() for path in (ROOT / folder).glob("*.py")}


def test_wheel_holds_every_module_and_the_catalog(distributions):
    names = set(zipfile.ZipFile(distributions["wheel"]).namelist())
    pages = {f"strfcube/analysis/report/page.{kind}" for kind in ("html", "css", "js")}
    assert modules() | {"strfcube/catalog.yaml", "strfcube/py.typed"} | pages <= names
    assert {name.split("/")[0] for name in names} == {"strfcube", "strfcube-0.1.0.dist-info"}


def test_sdist_holds_a_file_not_a_link(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        member = next(m for m in archive if m.name.endswith("strfcube/catalog.yaml"))
        assert member.isreg()
        assert any(m.name.endswith("/LICENSE") for m in archive)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_install_into_an_empty_environment(distributions, tmp_path, kind):
    python = empty_environment(tmp_path / "env", tmp_path / "neighbours")
    absent = "import importlib.util, sys; sys.exit(importlib.util.find_spec('strfcube') is not None)"
    run(python, "-c", absent, cwd=tmp_path)

    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    switches = ("--no-build-isolation", *(("-e",) if kind == "editable" else ()))
    run(*pip, *switches, distributions[kind], cwd=tmp_path)

    seen = json.loads(run(python, "-c", PROBE, cwd=tmp_path))
    home = distributions["editable"] if kind == "editable" else tmp_path / "env"
    assert all(place.startswith(str(home)) for place in seen["places"])
    assert seen["catalog"] == (ROOT / "catalog.yaml").read_text()
    assert {"ns1", "demo"} <= set(seen["pipelines"])

    listed = run(python.parent / "strfcube", "list", cwd=tmp_path, STRFCUBE_DATA_DIR=str(tmp_path))
    assert all(name in listed for name in seen["pipelines"])
    script = 'print(__import__("importlib.resources").resources.files("strfcube.analysis.report").joinpath("page.js"))'
    assert "use strict" in Path(run(python, "-c", script, cwd=tmp_path).strip()).read_text()
    version = run(python.parent / "strfcube", "--version", cwd=tmp_path)
    assert seen["version"] in version


@pytest.mark.slow
def test_python_in_the_clone_finds_its_pipelines_and_adapters(distributions, tmp_path):
    """Beside a plain install, which the clone's own folder hides, and without any."""
    clone = copy_project(tmp_path)
    python = empty_environment(tmp_path / "env", tmp_path / "neighbours")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--no-build-isolation", distributions["wheel"], cwd=tmp_path / "env")
    script = f"""if True:
        import strfcube, strfcube.adapters
        assert strfcube.__file__.startswith({str(clone / "strfcube")!r}), strfcube.__file__
        print(strfcube.open(strfcube.build("demo", progress=False)).sizes["neuron"])
    """
    built = run(python, "-c", script, cwd=clone, STRFCUBE_DATA_DIR=str(tmp_path / "data"))
    assert built.split()[-1] == "8"
    elsewhere = run(python, "-c", "import strfcube; print(strfcube.__path__)", cwd=tmp_path / "env")
    assert str(clone / "strfcube") not in elsewhere
    run(*pip[:5], "uninstall", "--quiet", "--yes", "strfcube", cwd=tmp_path / "env")
    assert run(python, "-c", "import strfcube.pipelines.ns1, strfcube.adapters.jax", cwd=clone) == ""


def test_the_lower_bounds_are_those_that_are_declared():
    from lower_bounds import constraints

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = constraints()
    for requirement in declared:
        name, bound = requirement.split(">=")
        assert f"{name}=={bound}" in found
    assert any(line.startswith("pytest==") for line in found)
    assert len({re.split("[=<]", line)[0] for line in found}) == len(found)
