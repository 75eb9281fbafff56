"""``strfcube score``: predictions of any model beside the responses of a cube."""

# ruff: noqa: D301 (click reads the control character \b as "do not wrap")

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import click

from strfcube.catalog import WIDTH
from strfcube.cli.arrays import read
from strfcube.cli.complete import a_store

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_SCORES = ("cc", "ccnorm")


@click.command("score")
@click.argument("store", shell_complete=a_store)
@click.argument("predictions", type=click.Path())
@click.option("--dt", type=float, help="Bin width in ms, where STORE is a data set's name.")
@click.option("--sort", metavar="KEY", help="Column to sort by; descending with a minus before: -ccnorm.")
@click.option("--csv", is_flag=True, help="Every column, as comma-separated values.")
def score(store: str, predictions: str, dt: float | None, sort: str | None, csv: bool) -> None:
    """Hold predictions against the responses of a cube.

    Of each neuron, the correlation with the PSTH within stimuli (cc), and relative to the highest one that the noise
    allows (ccnorm). PREDICTIONS is NAME.nc with labels, such as view.predict or ds.strf.predict give, or NAME.npy or
    NAME.mat, stimuli x neurons x bins in the order of the cube.

    \b
    Examples:
      strfcube score demo prediction.nc
      strfcube score demo prediction.nc --csv > scores.csv
    """
    from strfcube.cli.tables import sorted_by, written
    from strfcube.cube.store import open

    ds = open(store, dt)
    table, models = scored(ds, read("PREDICTIONS", predictions, "prediction"))
    if sort is not None:
        table = sorted_by(table, sort)
    click.echo(written(table, ("stimuli", "trials", *models, *_SCORES), WIDTH, _SCORES, csv=csv))
    if csv:
        return
    for model, rows in table.groupby(models, sort=False) if models else [((), table)]:
        name = "".join(f" of {value}" for value in model)
        click.echo(f"median{name}: " + ", ".join(f"{score} {rows[score].median():.3g}" for score in _SCORES))


def scored(ds: xr.Dataset, prediction: Any) -> tuple[pd.DataFrame, list[str]]:
    """A row a neuron, of several models a row each, with its scores; and the columns that tell models apart."""
    import xarray as xr

    from strfcube.analysis import tables
    from strfcube.analysis.predictions import PartialPredictionWarning

    found = xr.Dataset({"cc": ds.strf.cc(prediction)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialPredictionWarning)  # which says it of all stimuli
        found["ccnorm"] = ds.strf.ccnorm(prediction)
    models = [str(dim) for dim in found.dims if dim != "neuron"]
    scores = found.to_dataframe(dim_order=["neuron", *models])[list(_SCORES)].reset_index(models)
    known = tables.neurons(ds).drop(columns=[*_SCORES, *models], errors="ignore")
    return known.join(scores, how="inner"), models
