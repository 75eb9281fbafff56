"""What is saved of a cube is a whole cube again: a part has the digest of a build of it, and everything works on it."""

import json
import logging
import os
import sys

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube
from toy import FAST, make_neuron, make_stim, spikes, write_toy

import strfcube
from strfcube.errors import StoreError, UsageError
from strfcube.records import Finding, Trial


def toy(folder):
    """Counts and a potential, rejected trials, silent trials, sounds of two lengths, findings of two files."""
    rng = np.random.default_rng(3)
    stimuli = [make_stim(f"s{i}", 0.1 * (1 + i % 2), split="test" if i == 3 else "train") for i in range(4)]
    neurons = [make_neuron(f"n{i}", f"source{i}", group=f"g{i % 2}", good=i != 1) for i in range(4)]
    neurons.append(make_neuron("v", "source4", trace=True, group="g0", good=True))
    records = {f"source{i}": [] for i in range(5)}
    for n, neuron in enumerate(neurons[:4]):
        for s, stimulus in enumerate(stimuli):
            for r in range((n + s) % 4 if n else 3):
                times = np.sort(rng.integers(-50_000, 250_000, 6 * (r % 2))) / 1000
                rejected = {"rejected_by": ("zz_test", "drift")[n % 2], "value": 2.0} if r == 1 and n % 3 else {}
                file = f"source{n}/{'ab'[s % 2]}.txt"
                trial = spikes(stimulus.id, neuron.id, r + 1, times, window=(-0.05, 0.3), file=file, **rejected)
                records[neuron.source].append(trial)
        records[neuron.source].append(Finding("warning", f"source{n}/a.txt", "an odd line", "it is left out", 3))
    for stimulus in stimuli[:3]:
        trace = rng.normal(-60, 1, round(stimulus.length.seconds * 16000)).astype("f4")
        records["source4"].append(Trial(stimulus.id, "v", 1, trace=trace, rate=16000.0, file="v.txt"))
    return write_toy(folder, stimuli, neurons, records, [Finding("info", "table.txt", "an old table", "nothing")])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipeline = toy(folder / "raw")
    return pipeline, strfcube.build(pipeline, out=folder / "whole.zarr", **FAST)


def test_text_of_any_kind(made, tmp_path):
    """Plain xarray reads text of Zarr as NumPy's strings of variable length."""
    plain, ds = xr.open_zarr(made[1]), strfcube.open(made[1])
    for dtype in (np.dtypes.StringDType(), object, "U"):
        words = {n: (c.dims, c.values.astype(dtype), c.attrs) for n, c in ds.coords.items() if c.dtype == object}
        assert digests(strfcube.save(ds.assign_coords(words), tmp_path / "x.zarr", force=True)) == digests(made[1])
    assert digests(strfcube.save(plain, tmp_path / "plain.zarr")) == digests(made[1])
    few = ds.strf.standardize("train")["stimulus"]
    np.testing.assert_array_equal(plain.strf.standardize("train")["stimulus"], few)
    np.testing.assert_array_equal(
        ds.strf.standardize(few["stim"].values.astype("T"))["stimulus"], ds.strf.standardize()["stimulus"]
    )


def digests(path):
    return json.loads(strfcube.open(path).attrs["digests"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "only",
    [
        {}, {"group": "g1"}, {"group": "g0"}, {"good": True}, {"split": "test"}, {"signal_type": "spikes"},
        {"signal_type": "membrane_potential"}, {"stim": ["s0", "s2"], "neuron": "n2"},
    ],
    ids=str,
)  # fmt: skip
def test_a_part_is_what_a_build_of_it_gives(made, tmp_path, only):
    pipeline, whole = made
    built = strfcube.build(pipeline, out=tmp_path / "built.zarr", only=only, **FAST)
    part = strfcube.open(whole).strf.sel(**only)
    for name, given in {"lazy": part, "loaded": part.compute()}.items():
        saved = strfcube.save(given, tmp_path / f"{name}.zarr")
        assert strfcube.verify(saved) == []
        own, others = digests(saved), digests(built)
        different = {name for name in {*own, *others} if own.get(name) != others.get(name)}
        # A build of a part tells what it leaves out, and a part of a part that was built before cannot
        assert {name for name in different if not name.startswith("findings/")} == set()
        if len(strfcube.open(built).strf.findings) == len(strfcube.open(saved).strf.findings):
            assert strfcube.open(saved).attrs["digest"] == strfcube.open(built).attrs["digest"]


@pytest.mark.slow
def test_a_whole_cube_stays_what_it_is(made, tmp_path):
    ds = strfcube.open(made[1])
    again = strfcube.open(strfcube.save(ds, tmp_path / "again.zarr"))
    assert again.attrs["digest"] == ds.attrs["digest"]
    assert again.attrs["recipe"] == ds.attrs["recipe"]


@pytest.mark.slow
def test_findings_are_cut_along(made, tmp_path):
    ds = strfcube.open(made[1])
    assert set(ds.strf.findings["file"]) == {"table.txt", *(f"source{n}/a.txt" for n in range(4))}
    part = ds.strf.sel(neuron="n2")
    assert set(part.strf.findings["file"]) == {"table.txt", "source2/a.txt"}
    saved = strfcube.open(strfcube.save(part, tmp_path / "part.zarr"))
    assert saved.strf.findings.equals(part.strf.findings)


@pytest.mark.slow
def test_everything_works_on_a_saved_part(made, tmp_path):
    ds = strfcube.open(made[1])
    part = ds.strf.sel(group="g1")
    path = strfcube.save(part, tmp_path / "part.zarr")
    saved = strfcube.open(path)
    xr.testing.assert_equal(saved["response"], part["response"].isel(repeat=slice(0, saved.sizes["repeat"])))
    assert saved.strf.trials.equals(part.strf.trials)
    np.testing.assert_array_equal(xr.open_zarr(path)["response"], saved["response"])
    ten = strfcube.open(strfcube.rebin(path, 10, out=tmp_path / "ten.zarr", jobs=0))
    whole = strfcube.open(strfcube.rebin(made[1], 10, out=tmp_path / "whole10.zarr", jobs=0)).strf.sel(group="g1")
    xr.testing.assert_equal(ten["response"], whole["response"].isel(repeat=slice(0, ten.sizes["repeat"])))
    other = strfcube.save(ds.strf.sel(neuron="n0"), tmp_path / "other.zarr")
    pool = strfcube.concat([path, other], ["a", "b"], stimuli="shared")
    again = strfcube.open(strfcube.save(pool, tmp_path / "pool.zarr"))
    assert (
        len(again.strf.trials)
        == len(pool.strf.trials)
        == len(part.strf.trials) + len(ds.strf.sel(neuron="n0").strf.trials)
    )


def test_a_part_is_never_taken_for_the_whole(made, tmp_path):
    pipeline, whole = made
    path = strfcube.save(strfcube.open(whole).strf.sel(group="g1"), tmp_path / "part.zarr")
    with pytest.raises(StoreError, match="holds another recipe"):
        strfcube.build(pipeline, out=path, **FAST)
    assert strfcube.rebin(path, 10, jobs=0) != str(tmp_path / "toy-dt10.zarr")


def test_repeats_that_are_left(made, tmp_path):
    ds = strfcube.open(made[1])
    part = ds.isel(repeat=[0, 2])
    saved = strfcube.open(strfcube.save(part, tmp_path / "part.zarr"))
    assert saved["repeat"].values.tolist() == [0, 1]
    trials = saved.strf.trials
    assert trials.equals(part.strf.trials)
    assert trials["kept"].sum() == int(saved["n_repeats"].sum())
    whole, own = (d.strf.spikes("s2", "n0") for d in (ds, saved))
    assert [t.tolist() for t in own] == [whole.times[0].tolist(), whole.times[2].tolist()]
    np.testing.assert_array_equal(saved["response"].values, part["response"].values)


@pytest.mark.slow
def test_pairs_that_are_hidden_have_no_trials(made, tmp_path):
    ds = strfcube.open(made[1])
    part = ds.strf.where(lambda cube: cube["n_repeats"] > 2)
    assert part["n_repeats"].values[part["n_repeats"].values > 0].min() == 3
    assert len(part.strf.trials) < len(ds.strf.trials)
    saved = strfcube.open(strfcube.save(part, tmp_path / "part.zarr"))
    assert saved.strf.trials.equals(part.strf.trials)
    assert (
        strfcube.open(strfcube.rebin(tmp_path / "part.zarr", 10, out=tmp_path / "x.zarr", jobs=0)).sizes["time"] == 20
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "groups", "message"),
    [
        (lambda ds: ds.strf.standardize(), ["audio", "findings", "trials"], "other spectrograms"),
        (lambda ds: ds.assign(response=ds["response"] * 2), ["audio", "findings"], "other responses"),
        (lambda ds: ds.assign(response=ds["response"].mean("repeat").expand_dims(repeat=[0], axis=2)),
         ["audio", "findings"], "other responses"),
        (lambda ds: ds.isel(time=slice(0, 10)), ["findings"], "fewer bins"),
        (lambda ds: ds.isel(time=slice(5, None)), ["findings"], "fewer bins"),
    ],
)  # fmt: skip
def test_what_was_changed_is_saved_as_it_is_and_says_so(made, tmp_path, caplog, change, groups, message):
    ds = change(strfcube.open(made[1]))
    path = strfcube.save(ds, tmp_path / "x.zarr")
    assert (
        sorted(p.name for p in (tmp_path / "x.zarr").iterdir() if p.name in ("audio", "findings", "trials")) == groups
    )
    saved = strfcube.open(path)
    np.testing.assert_allclose(saved["response"].values, ds["response"].values, rtol=1e-6)
    np.testing.assert_allclose(saved["stimulus"].values, ds["stimulus"].values, rtol=1e-6)
    with pytest.raises(UsageError, match=f"was saved with {message}"):
        strfcube.rebin(path, 10)
    if "trials" not in groups:
        assert "was saved without single trials" in caplog.text
        with pytest.raises(StoreError, match="has no single trials"):
            saved.strf.trials  # noqa: B018
    again = strfcube.open(strfcube.save(saved.strf.sel(group="g1"), tmp_path / "again.zarr"))
    assert json.loads(again.attrs["recipe"])["saved"]["changed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.coarsen(time=2, boundary="trim").sum(), "'time' advances by 10 ms, and dt_ms is 5"),
        (lambda ds: ds.assign(response=ds["response"].mean("repeat")), "has lost its dimension repeat"),
        (lambda ds: ds.drop_vars("area"), "coordinate 'area' on neuron is missing"),
        (lambda ds: ds.isel(stim=[]), "nothing of 'stim' is left"),
    ],
)
def test_what_is_no_cube_is_refused(made, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        strfcube.save(change(strfcube.open(made[1])), tmp_path / "x.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_cube_of_nowhere_is_saved_without_trials(tmp_path, caplog):
    path = strfcube.save(make_cube(), tmp_path / "x.zarr")
    assert "without single trials, waveforms and findings: the cube does not know its store" in caplog.text
    np.testing.assert_array_equal(strfcube.open(path)["response"], make_cube()["response"])


@pytest.mark.parametrize("progress", [True, False])
def test_progress(made, tmp_path, capsys, progress):
    strfcube.save(strfcube.open(made[1]), tmp_path / "x.zarr", progress=progress)
    err = capsys.readouterr().err
    assert ("saving" in err) is progress


def test_findings_are_told_once_by_the_log(tmp_path, caplog):
    pipeline, out = toy(tmp_path / "raw"), tmp_path / "x.zarr"
    with caplog.at_level(logging.INFO, "strfcube"):
        strfcube.build(pipeline, out=out, **FAST)
        (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "4 warnings" in warning.getMessage()
        assert "4 times: an odd line" in warning.getMessage()
        caplog.clear()
        strfcube.build(pipeline, out=out, **FAST)
    assert [r.getMessage() for r in caplog.records] == [f"{out.name} is up to date: nothing to do"]


@pytest.mark.slow
def test_a_relative_path_is_that_of_the_call(tmp_path, monkeypatch):
    """Whatever else runs in the process meanwhile, such as a notebook's %cd: here what is told of the progress."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()

    def away(*_):
        os.chdir(tmp_path / "elsewhere")

    for make, name in (
        (lambda: strfcube.build("demo", out="built.zarr", jobs=1, progress=away), "built.zarr"),
        (lambda: strfcube.rebin("built.zarr", dt=10, out="wide.zarr", jobs=1, progress=away), "wide.zarr"),
        (lambda: strfcube.rebin("built.zarr", dt=20, jobs=1, progress=away), "demo-dt20.zarr"),
        (lambda: strfcube.save(strfcube.open("built.zarr"), "saved.zarr", progress=away), "saved.zarr"),
    ):
        monkeypatch.chdir(tmp_path / "here")
        assert make() == str(tmp_path / "here" / name)
        assert (tmp_path / "here" / name / "zarr.json").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the current folder cannot be removed there")
def test_a_current_folder_that_was_removed(made, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for call in (
        lambda: strfcube.open("cube.zarr"), lambda: strfcube.rebin(made[1], dt=10, out="x.zarr"),
        lambda: strfcube.save(strfcube.open(made[1]), "x.zarr"), lambda: strfcube.build("demo", out="x.zarr", jobs=1),
    ):  # fmt: skip
        with pytest.raises(StoreError, match="the current folder was removed; change to another, or give an absolute"):
            call()
    assert strfcube.save(strfcube.open(made[1]), tmp_path / "x.zarr") == str(tmp_path / "x.zarr")
    assert strfcube.build("demo", out=tmp_path / "demo.zarr", jobs=1) == str(tmp_path / "demo.zarr")
