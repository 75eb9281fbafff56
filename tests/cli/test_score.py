"""``strfcube score``: predictions from files."""

import io

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy.io import savemat

import strfcube
from strfcube.cli.main import cli, main

pytest.importorskip("h5netcdf")


def output(*args):
    done = CliRunner().invoke(cli, list(map(str, args)))
    assert done.exit_code == 0, done.output
    return done.output


def test_files_of_all_kinds_have_the_same_scores(demo, tmp_path):
    ds = strfcube.open(demo)
    prediction = ds.strf.predict(ds.strf.fit_strf(20)).load()
    prediction[:, ::-1].to_netcdf(tmp_path / "p.nc")
    np.save(tmp_path / "p.npy", prediction.values)
    savemat(tmp_path / "p.mat", {"prediction": prediction.values, "other": 1})
    for name in ("p.nc", "p.npy", "p.mat"):
        table = pd.read_csv(io.StringIO(output("score", demo, tmp_path / name, "--csv")), index_col="neuron")
        assert table.index.tolist() == ds["neuron"].values.tolist()
        np.testing.assert_allclose(table["cc"], ds.strf.cc(prediction), rtol=1e-6)
        np.testing.assert_allclose(table["ccnorm"], ds.strf.ccnorm(prediction), rtol=1e-6)
        assert table["area"].tolist() == ds["area"].values.tolist()
    lines = output("score", demo, tmp_path / "p.nc", "--sort", "-cc").splitlines()
    assert all(len(line) <= 80 for line in lines)
    best = ds.strf.cc(prediction).to_series().idxmax()
    assert next(line.split()[0] for line in lines if line.startswith("sim")) == best
    assert lines[-1] == f"median: cc {table['cc'].median():.3g}, ccnorm {table['ccnorm'].median():.3g}"


def test_a_row_for_each_of_several_models(demo, tmp_path):
    ds = strfcube.open(demo)
    one = ds["response"].mean("repeat").load()
    both = xr.concat([one, one**2], "model").assign_coords(model=["same", "square"])
    both.isel(neuron=[2, 0]).rename("prediction").to_netcdf(tmp_path / "p.nc")
    with pytest.warns(strfcube.analysis.predictions.PartialPredictionWarning) as warned:
        table = pd.read_csv(io.StringIO(output("score", demo, tmp_path / "p.nc", "--csv")))
    assert [str(w.message).startswith("the prediction has 2 of 8 neurons") for w in warned] == [True]
    assert sorted(table["model"]) == ["same", "same", "square", "square"]
    np.testing.assert_allclose(table["cc"][table["model"] == "same"], 1)
    assert (table["cc"][table["model"] == "square"] < 0.99).all()
    with pytest.warns(strfcube.analysis.predictions.PartialPredictionWarning):
        shown = output("score", demo, tmp_path / "p.nc")
    assert "model" in shown.splitlines()[1] + shown.splitlines()[2] + shown.splitlines()[3]
    assert [line.partition(":")[0] for line in shown.splitlines()[-2:]] == ["median of same", "median of square"]


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("no.nc", None, 1, "PREDICTIONS no.nc: there is no such file"),
        ("p.txt", b"1", 2, "PREDICTIONS p.txt: expected a name that ends in .nc, .npy or .mat"),
        ("p.mat", b"MATLAB 7.3", 1, "PREDICTIONS p.mat: cannot be read: "),
        ("p.npy", b"nothing", 1, "PREDICTIONS p.npy: cannot be read: "),
        ("p.nc", b"nothing", 1, "PREDICTIONS p.nc: cannot be read: "),
        (
            "several.mat",
            {"a": 1, "b": 2},
            2,
            "expected one array, or 'prediction', got a, b",
        ),
        ("shape.mat", {"a": [1]}, 2, "prediction: expected shape (16, 8, 437), which is ('stim', 'neuron', 'time')"),
    ],
)
def test_files_that_are_none(demo, tmp_path, monkeypatch, capsys, name, content, code, message):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, dict):
        savemat(name, content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main(["score", demo, name])
    assert (end.value.code, message in " ".join(capsys.readouterr().err.split())) == (code, True)
