"""``strfcube neurons``, ``stimuli`` and ``export`` as they are typed."""

import io

import pandas as pd
import pytest
from click.testing import CliRunner

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


def test_export_names_what_it_wrote(demo, tmp_path):
    text = output("export", demo, "-o", tmp_path / "x.csv")
    assert [line.split()[0].rpartition("/")[2] for line in text.splitlines()] == [
        "x.csv", "x-trials.csv", "x-neurons.csv", "x-stimuli.csv"
    ]  # fmt: skip
