"""``strfcube neurons``, ``stimuli`` and ``export`` as they are typed."""

import io

import pandas as pd
import pytest
from click.testing import CliRunner
from writers.ns1 import write_ns1

import strfcube
from strfcube.cli.main import cli


def output(*args):
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("what", "dim"), [("neurons", "neuron"), ("stimuli", "stim")])
def test_a_table_fits_a_terminal_and_shows_every_label(demo, what, dim):
    text, ds = output(what, demo), strfcube.open(demo)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [line.split()[0] for line in lines]
    assert all(label in shown for label in ds[dim].values)
    assert "trials" in text


@pytest.mark.parametrize(("what", "dim"), [("neurons", "neuron"), ("stimuli", "stim")])
def test_csv_has_every_coordinate(demo, what, dim):
    ds = strfcube.open(demo)
    table = pd.read_csv(io.StringIO(output(what, demo, "--csv")))
    assert table[dim].tolist() == ds[dim].values.tolist()
    assert set(table) >= {str(n) for n, c in ds.coords.items() if c.dims == (dim,)}
    assert table["trials"].sum() == int(ds["n_repeats"].sum())


def test_how_reliable_neurons_are(demo):
    lines = output("neurons", demo, "--quality").splitlines()
    assert max(map(len, lines)) <= 80
    title = next(i for i, line in enumerate(lines) if line.startswith("neuron "))
    assert lines[title].split()[-3:] == ["snr", "ccmax", "p_signal"]
    measures = strfcube.open(demo).strf.quality()
    table = pd.read_csv(io.StringIO(output("neurons", demo, "--quality", "--csv")), index_col="neuron")
    assert list(table)[-6:] == list(measures)
    for name in measures:
        assert table[name].tolist() == pytest.approx(measures[name].values.tolist(), nan_ok=True)
    row = next(line for line in lines if line.startswith("sim1_1_A")).split()
    assert [float(v) for v in row[-3:]] == pytest.approx(
        [float(measures[n].sel(neuron="sim1_1_A")) for n in ("snr", "ccmax", "p_signal")], rel=0.01
    )
    assert "snr" not in output("neurons", demo)
    down = output("neurons", demo, "--quality", "--sort", "-snr", "--csv").splitlines()[1:]
    order = measures["snr"].to_series().sort_values(ascending=False).index  # missing ones last
    assert [line.partition(",")[0] for line in down] == order.tolist()
    refused = CliRunner().invoke(cli, ["stimuli", str(demo), "--quality"])
    assert (refused.exit_code, "--quality" in refused.output) == (2, True)


def test_columns_that_tell_neurons_apart_are_shown(tmp_path):
    raw = write_ns1(tmp_path / "raw", units=3, repeats=2, drc_repeats=1, clip_seconds=0.2).raw
    cube = strfcube.build("ns1", raw=raw, out=tmp_path / "x.zarr", jobs=0)
    same, *_ = (text := output("neurons", cube)).splitlines()
    title = next(line for line in text.splitlines() if line.startswith("neuron"))
    assert {"depth", "valid_unit"} <= set(title.split())
    assert "trials 40" in text.partition("neuron  ")[0]  # all have the same
    assert same.startswith("all: area A1")
    assert "more columns, with --csv: " in text
    ds = strfcube.open(cube)
    for name in ("depth", "level_db", "sample_rate", "noise_ratio"):
        assert {"units", "long_name"} <= set(ds[name].attrs)


def test_what_a_column_that_does_not_fit_holds():
    from strfcube.cli.tables import fitted

    table = pd.DataFrame({"n_samples": [244_140, 244_141], "far": [4.99999, 5.00001], "level": [0.5, 1e6]}, ["a", "b"])
    told = " ".join(fitted(table.rename_axis("stim"), (), 10).split()).partition("with --csv: ")[2]
    assert told == "n_samples (244,140 to 244,141), far (about 5), level (0.5 to 1e+06)"


@pytest.mark.slow
def test_export_of_a_part(demo, tmp_path):
    output("export", demo, "--only", "area=MLd", "-o", tmp_path / "x.csv")
    part = strfcube.open(demo).strf.sel(area="MLd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-neurons.csv", "x-stimuli.csv", "x-trials.csv", "x.csv"]
    assert set(pd.read_csv(tmp_path / "x-neurons.csv")["area"]) == {"MLd"}
    assert len(pd.read_csv(tmp_path / "x.csv")) == part.strf.trials["n_spikes"].sum()


@pytest.mark.slow
def test_export_names_what_it_wrote(demo, tmp_path):
    text = output("export", demo, "-o", tmp_path / "x.csv")
    assert [line.split()[0].rpartition("/")[2] for line in text.splitlines()] == [
        "x.csv", "x-trials.csv", "x-neurons.csv", "x-stimuli.csv"
    ]  # fmt: skip
