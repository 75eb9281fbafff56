"""The command line, as a user meets it: in a process of its own where it matters, else in this one."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from writers.ns1 import write_ns1

import strfcube
from strfcube import catalog
from strfcube.analysis.plot import KINDS
from strfcube.cli.main import cli, main

COMMANDS = sorted(cli.commands)
SMALL = {"units": 3, "repeats": 3, "drc_repeats": 1, "clip_seconds": 0.2}


@pytest.fixture
def run(capsys):
    """Run a command in this process; returns exit code, standard output and standard error."""

    def call(*args):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in args])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_ns1(tmp_path_factory.mktemp("raw"), **SMALL).raw


@pytest.fixture(scope="module")
def cube(raw, tmp_path_factory):
    return Path(strfcube.build("ns1", raw=raw, out=tmp_path_factory.mktemp("cube") / "ns1.zarr", jobs=1))


@pytest.fixture
def mine(tmp_path):
    """A raw folder of one's own, to be damaged."""
    return write_ns1(tmp_path / "raw", **SMALL).raw


def narrow(text, but=()):
    """Lines wider than 80 columns, but for those that are one word that cannot be broken: a path, a URL."""
    return [line for line in text.splitlines() if len(line) > 80 and not any(len(w) > 50 for w in line.split())]


def error_of(result, code):
    """The one line of an error."""
    assert result[0] == code, result
    stages = ("reading ", "writing ", "checking ", "exporting ", "packing ")
    (line,) = [line for line in result[2].splitlines() if line and not line.startswith(stages)]
    assert line.startswith("strfcube: error: ")
    assert "Traceback" not in result[2]
    assert result[1] == ""
    return line


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS, *(f"build {name}" for name in catalog.entries())])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_fits_80_columns_and_has_an_example(run, command, flag):
    code, out, err = run(*command.split(), flag)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"Examples?:\n +strfcube ", out)
    assert not re.search(r"\.\.\.$", out.partition("Commands:")[2], re.M)  # no sentence is cut


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert strfcube.__version__ in out


@pytest.mark.parametrize(
    "args", [(), ("build",), ("nope",), ("info",), ("inspect", "--nope", "x"), ("build", "ns1", "--dt", "x")]
)
def test_wrong_usage(run, args):
    code, out, err = run(*args)
    assert code == 2
    assert "Usage:" in err + out


# --- what there is ---------------------------------------------------------------------------------------------------


def test_list(run, data_dir, monkeypatch, tmp_path, cube):
    code, out, err = run("list")
    assert (code, err) == (0, "")
    title, *rows = out.splitlines()[: 1 + len(catalog.entries())]
    assert title.split() == ["data", "set", "neurons", "download", "cube", "recordings"]
    assert [line.split()[0] for line in rows] == list(catalog.entries())
    assert "none yet" in out
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path))
    shutil.copytree(cube, tmp_path / "ns1-dt5.zarr")
    assert run("list")[1].splitlines()[-1].startswith("  ns1-dt5.zarr  ")
    assert not narrow(out)


@pytest.mark.parametrize("name", list(catalog.entries()))
def test_info_and_cite(run, name):
    for command in ("info", "cite"):
        code, out, err = run(command, name)
        assert (code, err) == (0, "")
        assert not narrow(out)
    entry = catalog.entry(name)
    words = " ".join(out.split())
    assert all(" ".join(text.split())[:60] in words for text in entry.citation)
    card = run("info", name)[1]
    assert entry.licence in card
    assert all(f.name in card for f in entry.files)


def test_unknown_names(run):
    for command in (("info", "nope"), ("cite", "nope"), ("build", "nope")):
        assert "no data set 'nope' in the catalog; there are" in error_of(run(*command), 2)
    for command in (("inspect", "nope"), ("verify", "nope"), ("rebin", "nope", "--dt", 1), ("plot", "nope")):
        assert "nope: no such cube" in error_of(run(*command), 1)


# --- building --------------------------------------------------------------------------------------------------------


def test_a_build(raw, tmp_path):
    """Progress on standard error only; the path and one line of figures on standard output."""
    out = tmp_path / "cube.zarr"
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "strfcube.cli.main",
        "build",
        "ns1",
        "--raw",
        raw,
        "--out",
        out,
        "--jobs",
        "2",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    path, figures = done.stdout.splitlines()
    assert path == str(out)
    assert re.fullmatch(r"S = 20, N = 3, 60 of 60 pairs, T = 40, F = 34, R = 3; [\d.]+ MB, [\d.]+ s", figures)
    first, second, third, *_ = done.stderr.splitlines()  # plain lines: nobody looks on
    assert first == "reading the raw files ..."
    assert second.startswith("reading 3/3 cells")
    assert re.fullmatch(r"writing (\d)/\1 parts", third)
    assert "24 warnings" in done.stderr  # a complete build has other figures
    assert not narrow(done.stderr.replace("\r", "\n"))


def test_flags_reach_the_recipe(run, raw, tmp_path):
    code, out, _ = run(
        "build", "ns1", "--raw", raw, "--out", tmp_path / "x.zarr", "--dt", 10, "--post", 50, "--align", "causal",
        "--no-audio", "--only", "valid_unit=True", "--only", "stim=nat01,nat02,drc01", "--drc", "--spec", "mel",
        "--bands", 8, "--f-min", 100, "--f-max", 8000, "--window-ms", 20, "--compression", "log",
        "--floor-db", -60, "--jobs", 1,
    )  # fmt: skip
    assert code == 0
    recipe = json.loads(strfcube.open(tmp_path / "x.zarr").attrs["recipe"])
    assert recipe == {
        "dataset": "ns1", "dt_ms": 10, "post_ms": 50, "align": "causal", "audio": False, "options": {"drc": True},
        "only": {"stim": ["drc01", "nat01", "nat02"], "valid_unit": ["True"]},
        "front_end": {"kind": "mel", "bands": 8, "f_min": 100, "f_max": 8000, "window_ms": 20, "compression": "log",
                      "floor_db": -60},
    }  # fmt: skip
    assert "S = 3, N = 2" in out
    code, out, _ = run("inspect", tmp_path / "x.zarr")
    assert "only stim=drc01,nat01,nat02" in " ".join(out.split())


@pytest.mark.slow
def test_flags_and_home_as_in_a_shell(run, raw, tmp_path, monkeypatch):
    """``--out=~/x`` is not expanded by every shell, and a flag is written in many ways."""
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {
        word: run("build", "ns1", "--raw", raw, "--only", f"valid_unit={word}", f"--out=~/{word}.zarr", "--jobs", 1)
        for word in ("true", "True", "TRUE")
    }
    assert [out.splitlines()[0] for _, out, _ in paths.values()] == [str(tmp_path / f"{w}.zarr") for w in paths]
    recipes = {strfcube.open(tmp_path / f"{word}.zarr").attrs["recipe"] for word in paths}
    assert len(recipes) == 1
    assert "nothing has that" in error_of(run("build", "ns1", "--raw", raw, "--only", "valid_unit=yes"), 2)
    assert run("build", "ns1", "--raw", raw, "--only", "level_db=82.0", "--dry-run")[1].endswith("findings\n")
    assert run("concat", "~/true.zarr", "~/True.zarr", "--names=a,b", "--duplicates=keep", "--out=~/both.zarr")[0] == 0
    assert run("plot", "~/true.zarr", "--out=~/picture.png")[0] == 0
    assert (tmp_path / "picture.png").is_file()


@pytest.mark.slow
def test_a_cube_of_the_default_recipe_goes_by_its_name(run, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path))
    assert run("build", "ns1", "--raw", raw, "--jobs", 1)[1].splitlines()[0] == str(tmp_path / "ns1-dt5.zarr")
    assert run("inspect", "ns1")[0] == run("verify", "ns1")[0] == 0
    assert run("rebin", "ns1", "--dt", 20, "--jobs", 1)[1].splitlines()[0] == str(tmp_path / "ns1-dt20.zarr")
    assert run("inspect", "ns1", "--dt", 20)[0] == 0
    assert "no such cube; there are ns1-dt20.zarr, ns1-dt5.zarr" in error_of(run("inspect", "ns1", "--dt", 1), 1)


def test_dry_run_writes_nothing(run, raw, tmp_path):
    code, out, _ = run("build", "ns1", "--raw", raw, "--out", tmp_path / "x.zarr", "--dry-run", "--only", "stim=nat01")
    assert code == 0
    assert str(tmp_path / "x.zarr") in out
    assert "1 stimuli, 3 neurons, 3 sources" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_force_and_strict(run, raw, tmp_path):
    args = ("build", "ns1", "--raw", raw, "--out", tmp_path / "x.zarr", "--jobs", 1)
    assert "expected a clip of 5 s" in error_of(run(*args, "--strict"), 1)
    whole = write_ns1(tmp_path / "whole", units=1, repeats=1, drc_repeats=1).raw
    assert run("build", "ns1", "--raw", whole, "--out", tmp_path / "whole.zarr", "--jobs", 1, "--strict")[0] == 0
    assert run(*args)[0] == 0
    assert "another recipe: give another --out, or --force" in error_of(run(*args, "--dt", 10), 1)
    assert run(*args, "--dt", 10, "--force")[0] == 0


def test_without_raw_it_says_what_to_get(run, data_dir):
    code, out, err = run("build", "ns1")
    assert code == 2
    assert out == ""
    entry = catalog.entry("ns1")
    words = " ".join(err.split())
    for text in (*(f.url for f in entry.files), entry.terms, str(data_dir / "raw" / "ns1"), "no account is needed"):
        assert text in words
    assert "Then: strfcube build ns1" in err
    assert not narrow(err.replace(str(data_dir), ""))


# --- looking ---------------------------------------------------------------------------------------------------------


def test_inspect_and_verify(run, cube):
    code, out, err = run("inspect", cube)
    assert (code, err) == (0, "")
    assert not narrow(out)
    for text in (
        "20, of",
        "area: all A1",
        "60 of 60 pairs of stimulus and neuron (100.0%)",
        "uint8",
        "34 bands",
        "24 warnings",
    ):
        assert text in out
    assert len(run("inspect", cube, "--findings")[1]) >= len(out)
    code, out, err = run("verify", cube)
    assert (code, err.splitlines()[1:]) == (0, [])
    assert err.startswith("checking ")
    assert strfcube.open(cube).attrs["digest"] in out


def test_verify_of_a_damaged_cube(run, cube, tmp_path):
    damaged = tmp_path / "x.zarr"
    shutil.copytree(cube, damaged)
    shutil.rmtree(damaged / "response" / "c")
    error = error_of(run("verify", damaged), 1)
    assert "'response/c/0/0/0/0' is missing" in error
    assert error.endswith("build it again with --force")


def test_verify_keeps_apart_what_is_damaged_and_what_was_put_there(run, cube, tmp_path):
    mine = Path(shutil.copytree(cube, tmp_path / "x.zarr"))
    (mine / "results").mkdir()
    error = error_of(run("verify", mine), 1)
    assert "is as it was built, and holds more: 'results' is not of the cube; keep that in a store of its own" in error
    assert "damaged" not in error
    assert "--force" not in error
    shutil.rmtree(mine / "response" / "c")
    error = error_of(run("verify", mine), 1)
    assert "is damaged: 'response/c/0/0/0/0' is missing" in error
    assert "build it again with --force; it holds more: 'results' is not of the cube" in error


@pytest.mark.slow
def test_another_bin_width_is_first_of_all_a_matter_of_the_cube_that_is_there(run, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path))
    assert "strfcube rebin" not in run("build", "ns1", "--dt", 20)[2]
    assert run("build", "ns1", "--raw", raw, "--jobs", 1)[0] == 0
    for dt in (1, 20):
        assert f"need none of them: strfcube rebin ns1 --dt {dt} makes" in error_of(run("build", "ns1", "--dt", dt), 2)
    with pytest.raises(strfcube.UsageError, match="strfcube rebin ns1 --dt 20"):
        strfcube.build("ns1", dt=20)
    with pytest.raises(strfcube.StoreError, match=r"there are ns1-dt5\.zarr: .* run: strfcube rebin ns1 --dt 1$"):
        strfcube.open("ns1", dt=1)
    assert "rebin" not in run("build", "ns1", "--dt", 20, "--spec", "mel")[2]  # that is another recipe
    assert run("rebin", "ns1", "--dt", 20, "--jobs", 1)[0] == 0
    assert "strfcube rebin ns1 --dt 10 makes" in error_of(run("build", "ns1", "--dt", 10), 2)  # of the one of 5 ms
    shutil.rmtree(tmp_path / "ns1-dt5.zarr")
    assert "strfcube rebin ns1 --from-dt 20 --dt 10 makes" in error_of(run("build", "ns1", "--dt", 10), 2)
    (tmp_path / "ns1-dt20.zarr" / "trials" / "exact" / "c" / "0").write_bytes(b"")  # of a damaged one nothing is made
    assert "need none" not in run("build", "ns1", "--dt", 10)[2]


@pytest.mark.slow
def test_rebin(run, cube, tmp_path):
    code, out, _ = run("rebin", cube, "--dt", 1, "--out", tmp_path / "1.zarr", "--jobs", 1)
    assert code == 0
    assert out.splitlines()[0] == str(tmp_path / "1.zarr")
    assert "T = 200" in out
    assert "no bin width" in error_of(run("rebin", cube, "--dt", 0), 2)


@pytest.mark.slow
def test_plot_takes_labels_and_positions(run, cube, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    ds = strfcube.open(cube)
    pictures = []
    for stim, neuron in (("0", "-1"), (ds["stim"].values[0], ds["neuron"].values[-1])):
        pictures.append(tmp_path / f"{len(pictures)}.png")
        assert run("plot", cube, "--out", pictures[-1], "--stim", stim, "--neuron", neuron)[0] == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "index past the end" in error_of(run("plot", cube, "--neuron", "9999"), 2)
    assert "nothing has it" in error_of(run("plot", cube, "--neuron", "nobody"), 2)


@pytest.mark.slow
def test_concat_advises_in_its_own_words(run, cube, tmp_path):
    out = tmp_path / "pool.zarr"
    twice = error_of(run("concat", cube, cube, "--out", out), 2)
    assert "--names a,b" in " ".join(twice.split())
    assert "names=[" not in twice
    code, _, err = run("concat", cube, cube, "--names", "a,b", "--out", out)
    words = " ".join(err.split())
    assert code == 0
    assert "--duplicates drop" in words
    assert "--stimuli shared" in words
    assert "='" not in words


def test_plot(run, cube, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    code, out, err = run("plot", cube, "--out", tmp_path / "x.png", "--stim", "nat02")
    assert (code, out, err) == (0, f"{tmp_path / 'x.png'}\n", "")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot write" in error_of(run("plot", cube, "--out", tmp_path / "no" / "x.png"), 1)


@pytest.mark.slow
def test_plot_draws_every_kind(run, cube, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    ds = strfcube.open(cube)
    np.save(tmp_path / "pred.npy", ds["response"].mean("repeat").values)
    np.save(tmp_path / "weights.npy", np.random.default_rng(0).normal(size=(ds.sizes["frequency"], 4)))
    options = {
        "population": ("--sort", "-depth", "--normalise", "--smooth-ms", "none"), "cell": ("--stim", 0, "--stim", 1),
        "prediction": ("--pred", tmp_path / "pred.npy"), "strf": ("--weights", tmp_path / "weights.npy"),
        "coverage": ("--by", "area", "--width-mm", 120),
    }  # fmt: skip
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "eps": b"%!PS", "tiff": b"II*"}
    for i, kind in enumerate(KINDS):
        suffix = list(starts)[i % len(starts)]
        out = tmp_path / f"{kind}.{suffix}"
        assert run("plot", cube, "--kind", kind, "--out", out, *options.get(kind, ()))[0] == 0, kind
        assert out.read_bytes().startswith(starts[suffix])
    again = tmp_path / "again.svg"
    run("plot", cube, "--kind", "response", "--out", again)
    assert again.read_bytes() == (tmp_path / "response.svg").read_bytes()


def test_plot_takes_what_was_fitted(run, cube, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    pytest.importorskip("h5netcdf")
    fitted = strfcube.open(cube).strf.fit_strf(20)
    fitted.to_netcdf(tmp_path / "strf.nc")
    fitted[["offset", "alpha"]].to_netcdf(tmp_path / "others.nc")
    code = run(
        "plot", cube, "--kind", "strf", "--weights", tmp_path / "strf.nc", "--neuron", 0, "--out", tmp_path / "a.png"
    )[0]
    assert code == 0
    code, _, err = run("plot", cube, "--kind", "strf", "--weights", tmp_path / "others.nc", "--out", tmp_path / "b.png")
    assert (code, "expected one array, or 'weights', got offset, alpha" in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "popluation"), "did you mean population? Else there are stimulus, response,"),
        (
            ("--kind", "population", "--neuron", "3"),
            "--kind population has no --neuron; there are --stim, --sort, --by,",
        ),
        (
            ("--kind", "population", "--sort", "ccmx"),
            "--sort ccmx: nothing on neuron has this name; did you mean ccmax?",
        ),
        (("--kind", "population", "--edges", "16"), "give --sort, a coordinate"),
        (("--kind", "response", "--stim", "0", "--stim", "1"), "shows one stim, got 2"),
        (("--kind", "prediction"), "give the file to draw, --pred NAME, which ends in .nc, .npy or .mat"),
        (("--kind", "strf", "--weights", "no.npy"), "--weights no.npy: there is no such file"),
        (
            ("--out", "x.jpg"),
            "x.jpg: the ending says what is written; did you mean .png?",
        ),
        (("--smooth-ms", "wide"), "--smooth-ms wide: expected a width in ms, or none"),
        (("--smooth-ms", "-3"), "--smooth-ms -3.0: expected a width in ms, 0 or more"),
        (("--width-mm", "5"), "--width-mm 5.0: expected a width in mm"),
    ],
)
def test_plot_says_in_one_line_what_there_is(run, cube, tmp_path, monkeypatch, options, message):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    error = error_of(run("plot", cube, *options), 1 if "no.npy" in options else 2)
    assert message in error
    assert "=" not in error.replace("dt_ms=5.0", "")
    assert not list(tmp_path.glob("*.png"))


def test_a_deep_verification_says_what_it_counted(run, cube):
    trials = strfcube.open(cube).strf.trials
    words = " ".join(run("verify", cube, "--deep")[1].split())
    assert f"the trials of every pair ({len(trials)} trials)" in words
    assert f"(from {trials['n_spikes'].sum():,} exact spike times)" in words
    assert words.endswith("Computed again, and the same: 20 spectrograms.")


@pytest.mark.slow
def test_nothing_is_replaced_without_force(run, cube, tmp_path):
    """One rule for all files and cubes that a command writes."""
    pytest.importorskip("matplotlib").use("agg")
    commands = [
        (("plot", cube, "--kind", "stimulus", "--out"), "x.png"), (("report", cube, "-o"), "x.html"),
        (("export", cube, "-o"), "x.mat"), (("rebin", cube, "--dt", 20, "--jobs", 1, "--out"), "x.zarr"),
    ]  # fmt: skip
    for command, name in commands:
        out = tmp_path / name
        out.write_text("mine")
        line = error_of(run(*command, out), 1)
        assert str(out) in line
        assert out.read_text() == "mine"
        if name != "x.zarr":  # what is no cube is never replaced by one
            assert "--force" in line
            assert run(*command, out, "--force")[0] == 0
            assert out.stat().st_size > 100
    (tmp_path / "y-neurons.csv").write_text("mine")
    assert "y-neurons.csv: there is such a file" in error_of(run("export", cube, "-o", tmp_path / "y.csv"), 1)
    assert not (tmp_path / "y.csv").exists()
    pool = ("concat", cube, cube, "--names", "a,b", "--duplicates", "keep", "--out", tmp_path / "pool.zarr")
    assert run(*pool)[0] == 0
    code, _, err = run(*pool)
    assert (code, "replace it with --force" in err) == (1, True)
    assert run(*pool, "--force")[0] == 0
    assert run("concat", cube, cube, "--names", "a,b", "--out", tmp_path / "x.mat", "--force")[0] == 1


# --- one line for everything that is wrong ---------------------------------------------------------------------------


def unit(raw):
    return next((raw / "spikesandwav").glob("*/*/cluster*.mat"))


def truncate(raw):
    unit(raw).write_bytes(unit(raw).read_bytes()[:500])


def without_field(raw):
    savemat(unit(raw), {"data": {"other": 1.0}})


def no_wav(raw):
    next((raw / "spikesandwav" / "SH.En.C").iterdir()).write_text("<html>not found</html>")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, without_field, no_wav])
def test_a_damaged_file_is_a_finding_and_the_rest_is_built(run, mine, tmp_path, damage):
    damage(mine)
    code, out, err = run("build", "ns1", "--raw", mine, "--out", tmp_path / "x.zarr", "--jobs", 1)
    assert code == 0
    neurons = 3 if damage is no_wav else 2
    assert f"S = 20, N = {neurons}, {20 * neurons} of {20 * neurons} pairs" in out
    assert re.search(r"\d error", err)
    assert "error: spikesandwav/" in err
    line = error_of(run("build", "ns1", "--raw", mine, "--out", tmp_path / "y.zarr", "--jobs", 1, "--strict"), 1)
    assert "spikesandwav/" in line
    assert not list(tmp_path.glob("y.zarr*"))


def test_no_table(run, mine, tmp_path):
    (mine / "MetadataSHEnCneurons.mat").unlink()
    line = error_of(run("build", "ns1", "--raw", mine, "--out", tmp_path / "x.zarr", "--jobs", 1), 1)
    assert "MetadataSHEnCneurons.mat: expected this file" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--raw", "nowhere"), 2, "raw folder nowhere does not exist"),
        (("--raw", "here/mine.txt"), 2, "is a file; an archive must be unpacked first"),
        (("--dt", -1), 2, "no bin width"),
        (("--jobs", -1), 2, "jobs=-1"),
        (("--only", "area"), 2, "--only area: give KEY=VALUE"),
        (("--only", "aera=A1"), 2, "--only aera: no such coordinate"),
        (("--only", "area=A2"), 2, "--only area=A2: nothing has that; there are A1"),
        (("--bands", 0), 2, "bands=0"),
        (("--f-max", 1e6), 2, "above half the sampling rate"),
        (("--spec", "published"), 2, "publishes no spectrogram"),
        (("--out", "/proc/x.zarr"), 1, "cannot write /proc/x.zarr"),
        (("--out", "here"), 1, "here is no strfcube cube: give another path, or move it away"),
        (("--out", "here", "--force"), 1, "here is no strfcube cube: give another path, or move it away"),
        (("--out", "here/mine.txt/x.zarr"), 1, "here/mine.txt"),
    ],
)
def test_one_line_and_an_exit_code(run, raw, tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("here/mine.txt").write_text("mine")
    default = () if "--raw" in args else ("--raw", raw)
    out = () if "--out" in args else ("--out", "x.zarr")
    assert message in error_of(run("build", "ns1", *default, *out, "--jobs", 1, *args), code)
    assert sorted(str(p) for p in Path().rglob("*")) == ["here", "here/mine.txt"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("biuld", "demo"), "there is no command 'biuld'; did you mean build? Else there are"),
        (("info", "NS1"), "no data set 'NS1' in the catalog; did you mean ns1? Else there are"),
        (("build", "dmeo"), "no data set 'dmeo' in the catalog; did you mean demo? Else there are"),
        (("inspect", "CUBE", "--findigns"), "there is no option --findigns; did you mean --findings? Else there are"),
        (
            ("neurons", "CUBE", "--order", "x"),
            "there is no option --order; there are --quality, --dt, --sort, --csv, --help",
        ),
        (
            ("neurons", "CUBE", "--sort", "aera"),
            "--sort aera: no such column; did you mean area? Else there are neuron,",
        ),
        (("neurons", "CUBE", "--sort", "snr"), "with --quality, snr, ccmax and p_signal too"),
        (("build", "ns1", "--align", "causl"), "--align causl: did you mean causal? Else there are centre, causal"),
        (("build", "ns1", "--only", "aera=A1", "--dry-run"), "no such coordinate; did you mean area?"),
        (("build", "ns1", "--only", "split=tset", "--dry-run"), "nothing has that; did you mean test"),
        (("export", "CUBE", "--only", "aera=A1", "-o", "x.mat"), "did you mean area?"),
        (("export", "CUBE", "--only", "valid_unit=ture", "-o", "x.mat"), "did you mean True? Else there are"),
        (("export", "CUBE", "-o", "x.cvs"), "x.cvs: the ending says what is written; did you mean .csv? Else"),
        (("plot", "CUBE", "--neuron", "nuit1"), "--neuron nuit1: nothing has it; "),
        (("plot", "CUBE", "--kind", "coverage", "--by", "aera"), "did you mean area?"),
        (("fetch", "nat4", "--extra", "wavs"), "nat4 has no such files; did you mean wav? Else there are wav"),
        (("fetch", "nat4", "--only", "area=PEGG"), "nothing has that; did you mean PEG? Else there are A1, PEG"),
    ],
)
def test_what_was_probably_meant(run, raw, cube, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    given = [str(cube) if a == "CUBE" else a for a in args] + (["--raw", raw] if args[:2] == ("build", "ns1") else [])
    code, out, err = run(*given)
    assert (code, out) == (2, "")
    assert message in next(line for line in err.splitlines() if line.startswith("strfcube: error: "))
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_to_be_given_again_is_the_one_that_was_given(run, data_dir):
    given = ("build", "nat4", "--only", "area=A1", "--dt", 20, "--out", "my cube.zarr")
    error = run(*given)[2]
    assert "  strfcube build nat4 --only area=A1 --dt 20 --out 'my cube.zarr' --yes\n" in error
    assert run(*given, "--no-fetch")[2].endswith(error.partition("To have")[2])


def test_an_error_fits_the_terminal_and_is_one_line_elsewhere(run, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.fileno", lambda: 0, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((60, 20)))
    lines = run("build", "demo", "--kind", "x")[2].splitlines()
    assert max(map(len, lines)) < 60
    assert [line for line in lines if line.startswith("strfcube: error: there is no option --kind")]
    assert lines[-1].startswith("  ")
    monkeypatch.undo()
    assert max(map(len, run("build", "demo", "--kind", "x")[2].splitlines())) > 100


def test_a_fault_of_ours_asks_to_be_reported(run, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("strfcube.cli.main.overview", fail)
    assert "ZeroDivisionError: division by zero; this is a fault of strfcube" in error_of(run("list"), 1)
    monkeypatch.setenv("STRFCUBE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["list"])


@pytest.mark.parametrize("within", [False, True])
def test_interrupted(run, raw, tmp_path, monkeypatch, within):
    def stop(*_args, **_kwargs):
        if within:  # the import of a module in C
            raise ImportError("initialization failed") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr("strfcube.builder.tasks.run", stop)
    code, _, err = run("build", "ns1", "--raw", raw, "--out", tmp_path / "x.zarr", "--jobs", 1)
    assert code == 130
    assert err.endswith("interrupted; the same command goes on where this one ended\n")
    assert [line for line in err.splitlines() if line][:-1] == ["reading the raw files ..."]


def test_what_the_system_refuses_is_no_fault_of_ours(run, cube, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("strfcube.cli.main.summary", fail)
    line = error_of(run("inspect", cube), 1)
    assert "No space left on device" in line
    assert "fault" not in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "words", "at", "shown"),
    [
        ("bash", "strfcube insp", "1", "plain,inspect"),
        ("bash", "strfcube build n", "2", "plain,ns1\nplain,nat4"),
        ("bash", "strfcube inspect ./", "2", "dir,./"),
        ("zsh", "strfcube info dem", "2", "plain\ndemo\nDemo: simulated birds"),
        ("fish", "strfcube info dem", "dem", "plain,demo\tDemo"),
    ],
)
def test_a_shell_completes(shell, words, at, shown):
    env = os.environ | {"_STRFCUBE_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": at}
    code = "from strfcube.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(shown), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_for_the_shell_is_what_the_shell_takes(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    env = os.environ | {"_STRFCUBE_COMPLETE": f"{shell}_source"}
    code = "from strfcube.cli.main import main; main()"
    source = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    script = tmp_path / "complete"
    script.write_text("autoload -Uz compinit && compinit -u -D\n" + source if shell == "zsh" else source)
    subprocess.run([shell, str(script)], check=True, capture_output=True)


# --- what may not be written, or is something else -------------------------------------------------------------------


def test_a_folder_without_permission_is_named_and_so_is_the_file_that_was_asked_for(run, cube, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    for command, name in (("export", "a.mat"), ("export", "a.csv"), ("report", "a.html"), ("plot", "a.png")):
        flag = "--out" if command == "plot" else "-o"
        error = error_of(run(command, cube, flag, tmp_path / name), 1)
        assert f"cannot write {tmp_path / name}: the folder {tmp_path} may not be written to" in error
    monkeypatch.undo()

    def full(aside, final):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(aside))

    monkeypatch.setattr(os, "replace", full)
    for command, name in (("export", "a.mat"), ("report", "a.html")):
        error = error_of(run(command, cube, "-o", tmp_path / name), 1)
        assert f"cannot write {tmp_path / name}: No space left on device; free space" in error
    assert not list(tmp_path.iterdir())


def test_a_data_folder_that_cannot_be_written_to(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / "file"))
    error = error_of(run("build", "demo", "--out", tmp_path / "x.zarr"), 1)
    assert "name another data folder in STRFCUBE_DATA_DIR" in error
    assert "--out" not in error


@pytest.mark.parametrize("command", [("inspect",), ("verify",), ("export", "-o", "x.mat")])
def test_a_raw_folder_is_built_from(run, raw, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = error_of(run(command[0], raw, *command[1:]), 1)
    assert error.endswith(
        f"is no strfcube cube: if these are raw files, build one of them: strfcube build NAME --raw {raw}"
    )
    raw.parent.joinpath("ns1").symlink_to(raw)
    error = error_of(run(command[0], raw.parent / "ns1", *command[1:]), 1)
    assert f"strfcube build ns1 --raw {raw.parent / 'ns1'}" in error
    raw.parent.joinpath("ns1").unlink()


def test_a_cube_that_may_not_be_read(run, cube, monkeypatch):
    real = os.open

    def held(path, *args, **kwargs):
        if str(path) == str(cube / "zarr.json"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", held)
    for command in ("inspect", "verify", "neurons"):
        error = error_of(run(command, cube), 1)
        assert error.endswith("zarr.json cannot be read: Permission denied; give yourself permission to read it")


# --- what commands say of cubes --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inspect_names_what_a_part_is_chosen_by_and_the_true_length_of_sounds(run, raw, tmp_path):
    path = strfcube.build("ns1", raw=raw, out=tmp_path / "x.zarr", jobs=0, post=100, dt=7)
    ds = strfcube.open(path)
    out = run("inspect", path)[1]
    assert not narrow(out)
    words = " ".join(out.split())
    assert f"stimuli 20, of {ds['duration'].values.max():.3g} s" in words
    assert float(ds["n_bins"].max()) * 0.007 > 0.29
    by = {what: words.partition(f"{what} by ")[2].partition(" by ")[0] for what in ("stimuli", "neurons")}
    assert {"split", "stim_type"} <= set(by["stimuli"].replace(",", "").split())
    assert {"depth", "valid_unit"} <= set(by["neurons"].replace(",", "").split())
    assert "species" not in by["neurons"]  # one value tells nothing apart
    both = ds.assign_coords(
        session=(("stim", "neuron"), np.arange(ds["n_repeats"].size).reshape(ds["n_repeats"].shape))
    )
    out = run("inspect", strfcube.save(both, tmp_path / "y.zarr"))[1]
    assert "pairs by session" in " ".join(out.split())


@pytest.mark.slow
def test_findings_are_said_to_be_none(run, demo):
    assert run("inspect", demo, "--findings")[1].endswith("\nno findings in the raw files\n")
    assert "no findings" not in run("inspect", demo)[1]


@pytest.mark.slow
def test_list_tells_cubes_apart(run, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path))
    how = {"raw": raw, "jobs": 0}
    strfcube.build("ns1", **how)
    strfcube.build("ns1", **how, spec="mel", bands=20, post=50, audio=False)
    strfcube.build("ns1", **how, only={"valid_unit": True}, dt=10)
    strfcube.save(strfcube.open("ns1").isel(neuron=[0]), tmp_path / "mine.zarr")
    strfcube.save(strfcube.concat(["ns1", "ns1"], ["a", "b"], duplicates="keep"), tmp_path / "pool.zarr")
    (tmp_path / "odd.zarr").mkdir()
    (tmp_path / "odd.zarr" / "zarr.json").write_text("{}")
    out = run("list")[1].partition("\nCubes in ")[2]
    assert not narrow(out)
    words = " ".join(out.split())
    for text in (
        "5 ms; mel spectrogram; bands 20; no audio; 50 ms after the sound",
        "10 ms; only valid_unit=True; 20 stimuli x", "5 ms; a part, saved; 20 stimuli x 1 neuron",
        "5 ms; a pool of a, b; 40 stimuli x 6 neurons", "odd.zarr", "cannot be read: is no strfcube cube",
    ):  # fmt: skip
        assert text in words, (text, words)
    assert re.search(r"ns1-dt5\.zarr [0-9.]+ kB 5 ms odd\.zarr", words)  # nothing of it is other than by default


def test_info_and_cite_take_a_cube(run, cube, tmp_path, monkeypatch):
    assert run("cite", cube)[1] == run("cite", "ns1")[1]
    out = run("info", cube)[1]
    assert "data set    ns1" in out
    assert "10.1371/journal.pcbi.1005113" in out
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(cube.parent))
    assert run("info", cube.name)[1] == out
    assert "did you mean ns1?" in error_of(run("cite", "nsx"), 2)
    assert "no data set" in error_of(run("info", tmp_path / "nope.zarr"), 2)


def test_python_runs_the_command_line_as_a_module(tmp_path):
    done = subprocess.run([sys.executable, "-m", "strfcube", "--version"], cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("strfcube, version ")


def test_the_shell_is_offered_cubes_and_kinds(tmp_path, monkeypatch):
    from strfcube.cli import complete

    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path))
    for name in ("ns1-dt5.zarr", "ns1-dt10.zarr", "mine.zarr"):
        (tmp_path / name).mkdir()
    offered = {begin: [item.value for item in complete.a_store(None, None, begin)] for begin in ("ns", "ns1-dt1", "m")}
    assert offered == {"ns": ["ns1", "ns1-dt10.zarr", "ns1-dt5.zarr"], "ns1-dt1": ["ns1-dt10.zarr"], "m": ["mine.zarr"]}
    assert [item.type for item in complete.a_store(None, None, "x")] == ["dir"]
    (kind,) = [p for p in cli.commands["plot"].params if p.name == "kind"]
    assert [item.value for item in kind.shell_complete(None, "popu")] == ["population"]
