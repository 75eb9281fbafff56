"""``strfcube plot``: every picture of ``ds.strf.plot``, with the options that it has there."""

# ruff: noqa: D301 (click reads the control character \b as "do not wrap")

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from strfcube.analysis.output import target_of
from strfcube.analysis.plot import KINDS, options, see_known
from strfcube.cli.arrays import ENDINGS, read
from strfcube.cli.complete import a_kind, a_store
from strfcube.errors import SelectionError, StrfcubeError, UsageError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr

_SUFFIXES = (".png", ".svg", ".pdf", ".eps", ".tif", ".tiff")


@click.command("plot")
@click.argument("store", shell_complete=a_store)
@click.option("--dt", type=float, help="Bin width in ms, where STORE is a data set's name.")
@click.option("--kind", default="response", show_default=True, shell_complete=a_kind,
              help=f"What to draw: {', '.join(KINDS)}.")  # fmt: skip
@click.option("--stim", multiple=True, help="Stimulus: a label, or a position from 0 on; several for cell and psths.")
@click.option("--neuron", multiple=True, help="Neuron: a label, or a position from 0 on; several for psths and strf.")
@click.option("--sort", help="Coordinate or measure that rows are sorted by; descending with a minus before: -snr.")
@click.option("--by", help="Coordinate that rows, columns or bars are grouped by.")
@click.option("--edges", multiple=True, type=float, help="Boundary on the scale of --sort: 16 is e16/e17.")
@click.option("--normalise/--no-normalise", default=None, help="Each row relative to its highest value, or not.")
@click.option("--smooth-ms", metavar="MS", help="Full width of the Hann window that PSTHs are smoothed with, or none.")
@click.option("--columns", type=int, help="Panels in a row.")
@click.option("--width-mm", type=float, help="Width of the picture: 85 is a column of a journal.")
@click.option(
    "--pred",
    type=click.Path(),
    help="Prediction to draw: NAME.nc, .npy or .mat (stim, neuron, time).",
)
@click.option("--weights", type=click.Path(), help="STRFs to draw: NAME.nc, .npy or .mat ([neuron,] frequency, lag).")
@click.option("--out", type=click.Path(), default="strfcube.png", show_default=True,
              help="NAME.png, .tiff, .svg, .pdf or .eps.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a picture that is there.")
def plot(store: str, dt: float | None, kind: str, out: str, force: bool, **given: Any) -> None:
    """Draw a cube. A stimulus, a neuron, all neurons, what there is of them, or how reliable it is.

    \b
    Examples:
      strfcube plot demo --out demo.png
      strfcube plot demo --kind population --sort area --out demo.pdf
    """
    from strfcube.cube.store import open

    see_known(kind)
    target = target_of(out, _SUFFIXES, force=force)
    chosen = _known(kind, given)
    ds = open(store, dt)
    for dim in {"stim", "neuron"} & chosen.keys():
        labels = {str(label) for label in ds[dim].values}
        each = [_label_or_position(labels, text) for text in chosen[dim]]
        chosen[dim] = each[0] if len(each) == 1 else each
    for name in {"pred", "weights"} & chosen.keys():
        chosen[name] = _array(ds, name, chosen[name])
    try:
        figure: Any = getattr(ds.strf.plot, kind)(**chosen)
    except (UsageError, SelectionError) as error:
        raise type(error)(_as_flags(str(error))) from None
    try:
        figure.save(target)
    except (OSError, ValueError) as error:
        raise StrfcubeError(f"cannot write {out}: {error}") from None
    click.echo(out)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _as_flags(text: str) -> str:
    """What is said to a user of Python in the words of the command line: ``sort='depth'`` is ``--sort depth``."""
    text = text.replace("ds.strf.coverage() shows", "strfcube plot STORE --kind coverage shows")
    words = r"\b(stim|neuron|sort|by|edges|normalise|smooth_ms|columns|width_mm)=('[^']*'|[^\s,;:)]+)?"
    return re.sub(words, lambda m: _flag(m[1]) + (" " + m[2].strip("'") if m[2] else ""), text)


def _known(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; refuses one that this picture does not have, and the want of one that it needs."""
    chosen = {n: list(v) if isinstance(v, tuple) else v for n, v in given.items() if v not in ((), None)}
    if "smooth_ms" in chosen:
        chosen["smooth_ms"] = _milliseconds(str(chosen["smooth_ms"]))
    has = [name for name in options(kind) if name not in ("ax", "figure")]
    for name in chosen:
        if name not in has:
            listed = f"{did_you_mean(name, has)}there are {', '.join(map(_flag, has))}"
            raise UsageError(f"--kind {kind} has no {_flag(name)}; {listed}")
    for name in {"pred", "weights"} & set(has):
        if name not in chosen:
            raise UsageError(f"--kind {kind}: give the file to draw, {_flag(name)} NAME, which ends in {ENDINGS}")
    return chosen


def _milliseconds(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise UsageError(f"--smooth-ms {text}: expected a width in ms, or none") from None


def _array(ds: xr.Dataset, name: str, path: str) -> Any:
    """A prediction or STRFs from a file; weights without labels are of the bands and bins of the cube."""
    import numpy as np
    import xarray as xr

    values = read(_flag(name), path, {"pred": "prediction"}.get(name, name))
    if name == "pred" or isinstance(values, xr.DataArray):
        return values
    bands = ds.sizes["frequency"]
    if values.ndim not in (2, 3) or values.shape[-2] != bands:
        raise UsageError(f"--weights {path}: shape {values.shape}, expected ([neuron,] {bands} frequencies, lag)")
    coords: dict[str, Any] = {"frequency": ds["frequency"].values}
    coords["lag"] = np.arange(values.shape[-1]) * float(ds.attrs["dt_ms"]) / 1000
    if values.ndim == 3 and len(values) == ds.sizes["neuron"]:
        coords["neuron"] = ds["neuron"].values
    return xr.DataArray(values, coords, ("neuron", "frequency", "lag")[-values.ndim :])


def _label_or_position(labels: set[str], text: str) -> str | int:
    """As in Python, where 0 is a position and "0" a label: a label where there is such a one."""
    if text in labels:
        return text
    try:
        return int(text)
    except ValueError:
        return text
