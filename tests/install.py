"""Copies and real installs of the project, for the tests that must not look at the checkout or its editable install."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = ("adapters", "pipelines", "strfcube", "README.md", "LICENSE", "catalog.yaml", "pyproject.toml")


def run(*command, cwd, **environment):
    """Run a command that must succeed, outside any Python path of ours, and give what it printed."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=outside | environment, text=True, capture_output=True
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_project(to):
    """Copy what a distribution is built from; nothing that a build left behind, and symbolic links as links."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, to / name)
    return to


def install(target, source):
    """Install the copy or distribution `source` into the folder `target`, without its dependencies."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--target", target, source, cwd=target.parent)
    return target


def empty_environment(folder, neighbours, only=None):
    """Make a virtual environment that has strfcube's dependencies and everything else but strfcube.

    What it has is borrowed from the running environment through links in the folder `neighbours`: to download it
    again for each test would take minutes. With `only`, it has these distributions and what they require.

    Returns
    -------
    Path
        Its interpreter.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    neighbours.mkdir()
    wanted = None if only is None else _top_level(only)
    for place in {Path(p) for p in sys.path if Path(p).name == "site-packages"}:
        for entry in place.iterdir():
            chosen = "strfcube" not in entry.name if wanted is None else entry.name in wanted
            if chosen and not (neighbours / entry.name).exists():
                (neighbours / entry.name).symlink_to(entry)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "neighbours.pth").write_text(f"{neighbours}\n")
    return folder / "bin" / "python"


def _top_level(names):
    """Files and folders in site-packages of these distributions and of all that they require."""
    waiting, seen, entries = list(names), set(), set()
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        distribution = importlib.metadata.distribution(name)
        entries |= {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        required = map(Requirement, distribution.requires or ())
        waiting += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return entries
