"""Parts of a build, as the jobs of an array do them: any order, twice, side by side, missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy import FAST, random_toy
from writers.ns1 import write_ns1

import strfcube
from strfcube.builder.parts import Part
from strfcube.builder.workplace import work_folder
from strfcube.cli.main import main
from strfcube.errors import StrfcubeError, UsageError

HERE = Path(__file__).parents[1]


def digest(path):
    return json.loads((Path(path) / "zarr.json").read_text())["attributes"]["digest"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A pipeline of five sources, and the digest of its cube."""
    folder = tmp_path_factory.mktemp("toy")
    pipeline, _ = random_toy(folder / "raw", n_sources=5)
    return pipeline, digest(strfcube.build(pipeline, out=folder / "expected.zarr", **FAST))


@pytest.mark.parametrize("order", [[1, 2, 3, 4], [4, 2, 2, 1, 3, 1], [3, 1, 4, 2, 4, 1, 2, 3]])
def test_in_any_order_and_twice(tmp_path, toy, order):
    """Once all sources are read, a part that is run again writes its share; the rest is written at the end."""
    pipeline, expected = toy
    out = tmp_path / "cube.zarr"
    for number in order:
        assert strfcube.build(pipeline, out=out, part=f"{number}/4", **FAST) == str(out)
        assert not out.exists()
    written = len(list((work_folder(str(out)) / "write").glob("*.done")))
    assert (written > 0) == (len(set(order[:-1])) == 4)  # one came when all was read
    strfcube.build(pipeline, out=out, finalise=True, **FAST)
    assert digest(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["cube.zarr"]
    strfcube.build(pipeline, out=out, part="2/4", **FAST)  # a straggler
    strfcube.build(pipeline, out=out, finalise=True, **FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["cube.zarr"]


def test_what_is_missing_is_named_and_the_rest_stays(tmp_path, toy):
    pipeline, expected = toy
    out = tmp_path / "cube.zarr"
    with pytest.raises(StrfcubeError, match="no part of this build was run"):
        strfcube.build(pipeline, out=out, finalise=True, **FAST)
    assert not work_folder(str(out)).exists()
    strfcube.build(pipeline, out=out, part="2/4", **FAST)
    with pytest.raises(StrfcubeError, match=r"parts 1,3-4 of 4 are missing.* \(4 of 5 sources .* with part='1/4'"):
        strfcube.build(pipeline, out=out, finalise=True, **FAST)
    for number in (1, 4):
        strfcube.build(pipeline, out=out, part=f"{number}/4", **FAST)
    with pytest.raises(StrfcubeError, match=r"part 3 of 4 is missing, or did not end \(1 of 5"):
        strfcube.build(pipeline, out=out, finalise=True, **FAST)
    spool = next((work_folder(str(out)) / "spool").glob("*.spool"))
    spool.write_bytes(spool.read_bytes()[:-1])  # what a power cut leaves is read again
    strfcube.build(pipeline, out=out, part="3/4", **FAST)
    strfcube.build(pipeline, out=out, finalise=True, **FAST)
    assert digest(out) == expected


def test_another_recipe_is_refused_and_spoils_nothing(tmp_path, toy):
    pipeline, expected = toy
    out = tmp_path / "cube.zarr"
    strfcube.build(pipeline, out=out, part="1/2", **FAST)
    for asked in ({"part": "2/2"}, {"finalise": True}):
        with pytest.raises(StrfcubeError, match="parts of a build of another recipe"):
            strfcube.build(pipeline, out=out, dt=10, **asked, **FAST)
    strfcube.build(pipeline, out=out, part="2/2", **FAST)
    strfcube.build(pipeline, out=out, finalise=True, **FAST)
    assert digest(out) == expected


def test_spools_elsewhere(tmp_path, toy):
    pipeline, expected = toy
    out, shared = tmp_path / "cube.zarr", tmp_path / "shared"
    shared.mkdir()
    for number in (1, 2):
        strfcube.build(pipeline, out=out, part=f"{number}/2", spool=shared, **FAST)
    assert len(list(shared.glob("*/*.spool"))) == 5
    (tmp_path / "other").mkdir()
    with pytest.raises(StrfcubeError, match="give each part the same"):
        strfcube.build(pipeline, out=out, part="1/2", spool=tmp_path / "other", **FAST)
    strfcube.build(pipeline, out=out, finalise=True, **FAST)
    assert digest(out) == expected
    assert not list(shared.iterdir())
    with pytest.raises(UsageError, match="give a folder that exists"):
        strfcube.build(pipeline, out=out, spool="s3://bucket/spools", **FAST)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2"])
def test_no_such_part(text):
    with pytest.raises(UsageError, match=r"give I/N"):
        Part.parse(text)


@pytest.mark.slow
def test_side_by_side(tmp_path, toy):
    """All parts at once, one of them twice, with somebody who waits to finish the cube."""
    pipeline, expected = toy
    out = tmp_path / "cube.zarr"
    code = "import sys, strfcube, toy\nraw, out, part = sys.argv[1:]\n"
    code += "how = {'finalise': True} if part == 'last' else {'part': part}\n"
    code += "strfcube.build(toy.Toy(raw), out=out, **how, **toy.FAST)"
    for _ in range(2):
        command = [sys.executable, "-c", code, pipeline.raw, out]
        many = [subprocess.Popen([*command, part], cwd=HERE) for part in ("1/3", "2/3", "2/3", "3/3")]
        assert [process.wait(120) for process in many] == [0] * 4
    subprocess.run([*command, "last"], cwd=HERE, check=True, timeout=120)
    assert digest(out) == expected


def test_on_the_command_line(tmp_path, capsys):
    """The error of ``--finalise`` gives the command that does what is missing."""
    import shlex

    raw = write_ns1(tmp_path / "raw folder", units=3, repeats=2, drc_repeats=1, clip_seconds=0.2).raw
    out = tmp_path / "cube.zarr"
    common = ["build", "ns1", "--raw", str(raw), "--out", str(out), "--bands", "4", "--jobs", "0"]

    def said(*given):
        with pytest.raises(SystemExit) as end:
            main([*common, *given])
        return end.value.code, capsys.readouterr().err.strip()

    assert said("--part", "2/2")[0] == 0
    code, error = said("--finalise")
    assert code == 1
    assert error.count("part 1 of 2 is missing") == 1
    command = error.rpartition("run `strfcube ")[2].removesuffix("`")
    with pytest.raises(SystemExit) as end:
        main([*shlex.split(command), "--jobs", "0"])
    assert end.value.code == 0
    capsys.readouterr()
    assert said("--finalise")[0] == 0
    assert strfcube.verify(out) == []
    assert said("--part", "3/2")[0] == 2
    assert said("--part", "1/2", "--finalise")[0] == 2
