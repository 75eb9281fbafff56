"""Every code block of README.md, CONTRIBUTING.md and docs/*.md runs, in the order of its page.

A page's ``python`` blocks share one namespace; its ``console`` blocks run in a shell, a command at a time, and output
that is shown must be what comes (``...`` stands for anything). All of it happens as for a new user: in an empty folder
of its own, with the default data folder of a home that holds the demo cube and nothing else. A block that needs
something that not every machine has says so in a comment above it, which the reader of the source sees::

    <!-- needs: torch -->           a package that can be imported
    <!-- needs: raw ns1 -->         the folder ns1 of the real recordings, found here as raw/ns1
    <!-- needs: account -->         an account or a download: never run by the tests
    <!-- needs: checkout -->        a checkout of the project to itself: the continuous integration runs these

and one that a reader would save to a file (and is saved before it is run, or shown) says where to, below that::

    <!-- file: lab/pyproject.toml -->

Blocks marked ``text``, ``yaml``, ``toml`` or ``bibtex`` are shown, not run; any other kind is an error, so that nothing
slips through.
"""

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from install import ROOT

import strfcube

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {"text", "yaml", "toml", "bibtex"}
MARK = r"(?:<!-- needs: (?P<needs>[^>]*?) -->\n+)?(?:<!-- file: (?P<file>[^>]*?) -->\n+)?"
FENCE = re.compile(MARK + r"^```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)
OUTPUT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, the line of its page where that begins, and what the comment above says."""

    kind: str
    code: str
    line: int
    needs: tuple[str, ...] = ()
    file: str = ""


def blocks(text):
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        needs = tuple(part.strip() for part in match["needs"].split(",")) if match["needs"] else ()
        found.append(Block(match["kind"], match["code"], line, needs, match["file"] or ""))
    assert sum(line.lstrip().startswith("```") for line in text.splitlines()) == 2 * len(found), (
        "a fence is open or indented"
    )
    return found


def is_met(need, folder):
    if need in ("account", "checkout"):
        return False
    if need.startswith("raw "):
        return (folder / "raw" / need.removeprefix("raw ")).is_dir()
    return importlib.util.find_spec(need) is not None


def commands(code):
    """Yield each command of a console block with the output that is shown below it."""
    for part in re.split(r"^\$ ", code, flags=re.M)[1:]:
        command, shown = re.match(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, re.S).groups()
        yield command, shown


def run_page(page, folder):
    """Run a page's blocks.

    Returns
    -------
    int
        How many blocks were left out because of what they need.
    """
    namespace, skipped = {"__name__": "__main__"}, 0
    for block in blocks(page.read_text()):
        place = f"{page.name}, line {block.line}"
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.code)
        if block.kind in SHOWN:
            continue
        assert block.kind in ("python", "console"), f"{place}: a block of kind {block.kind!r}"
        if not all(is_met(need, folder) for need in block.needs):
            skipped += 1
        elif block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
        else:
            assert block.code.startswith("$ "), f"{place}: a console block begins with '$ '"
            for command, shown in commands(block.code):
                done = subprocess.run(
                    ["bash", "-c", command], cwd=folder, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                assert done.returncode == 0, f"{place}: {command}{done.stdout}"
                if shown.strip():
                    same = doctest.OutputChecker().check_output(shown, done.stdout, OUTPUT)
                    assert same, f"{place}: {command}shown:\n{shown}\ncame:\n{done.stdout}"
    return skipped


def move_in(home, patch):
    """Make `home` the user's, with the default data folder."""
    patch.setenv("HOME", str(home))
    for name in ("STRFCUBE_DATA_DIR", "XDG_DATA_HOME"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A home whose data folder holds the demo cube and its raw files."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        move_in(folder, patch)
        cube = Path(strfcube.build("demo"))
    assert cube.is_relative_to(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, home, tmp_path_factory, monkeypatch):
    tmp_path = tmp_path_factory.mktemp("empty")
    shutil.copytree(home, tmp_path / ".home")
    move_in(tmp_path / ".home", monkeypatch)
    (tmp_path / "raw").mkdir()
    data = Path(os.environ.get("STRFCUBE_TEST_DATA") or ROOT.parent / "shared" / "data")
    for folder in data.glob("*/") if data.is_dir() else ():
        (tmp_path / "raw" / folder.name).symlink_to(folder.resolve())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    if shutil.which("sbatch") is None:  # a batch system of one machine
        monkeypatch.setenv("PATH", str(ROOT / "tests" / "slurm"), prepend=os.pathsep)
    monkeypatch.setenv("MPLBACKEND", "agg")
    # What a page installs goes into its folder, not into this environment.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    for name, value in (("TARGET", tmp_path / "site"), ("NO_DEPS", 1), ("NO_INDEX", 1), ("NO_BUILD_ISOLATION", 0)):
        monkeypatch.setenv(f"PIP_{name}", str(value))
    run_page(page, tmp_path)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            if target.startswith("generated/"):  # made for the site, whose own test follows them
                continue
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


# The tester tested: a page with a mistake does not pass.


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nx = 1\n```\n\n```python\nassert x == 2, x\n```\n", "1"),
        ("```console\n$ false\n```\n", "false"),
        ("```console\n$ echo one\ntwo\n```\n", "came:"),
        ("```\nls\n```\n", "kind ''"),
        ("```ruby\nputs 1\n```\n", "kind 'ruby'"),
        ("```python\nx = 1\n", "open or indented"),
        ("- item\n  ```python\n  x = 1\n  ```\n", "open or indented"),
    ],
)
def test_a_mistake_is_noticed(tmp_path, text, complaint):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        run_page(page, tmp_path)


def test_what_is_needed_and_absent_is_left_out(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- needs: raw ns1 -->\n```console\n$ false\n```\n\n"
        "<!-- needs: json, no_such_package -->\n```python\nraise SystemExit\n```\n\n"
        "<!-- needs: json -->\n```python\nopen('ran', 'w').close()\n```\n\n"
        "```console\n$ echo one \\\n  two\none ...\n```\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run_page(page, tmp_path) == 2
    assert (tmp_path / "ran").exists()
