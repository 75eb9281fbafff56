"""Cubes and catalog entries in words, for the command line."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.catalog import Entry, pipeline_class, raw_dir

if TYPE_CHECKING:
    import os

    import xarray as xr

_LABEL = 12


def card(e: Entry, width: int) -> str:
    """What the catalog knows of a data set."""
    lines = [*textwrap.wrap(e.title, width), "", *textwrap.wrap(e.description, width), ""]
    lines += _field("species", e.species, width) + _field("areas", ", ".join(e.areas), width)
    lines += _field("homepage", e.homepage, width) + _field("doi", e.doi, width)
    lines += _field("licence", e.licence, width) + _field("terms", e.terms, width)
    lines += _field("account", e.account, width) + _field("notes", e.notes, width)
    for f in e.files:
        when = f", with --extra {f.extra}," if f.extra else ""
        lines += _field("file", f"{f.name}{f.size}{when} from {f.url}", width)
    if e.files:
        lines += _field("raw folder", str(raw_dir(e.name)), width)
        packed = any(f.unpack for f in e.files)
        lines += _field("download", e.download, width)
        lines += _field("on disk", e.unpacked + (" unpacked" if packed else ", read as it is"), width)
    if e.cube != "unknown" or e.files:
        lines += _field("cube", e.cube, width)
    front_end = ", ".join(f"{k} {v}" for k, v in e.recipe["front_end"].items())
    lines += _field("recipe", f"dt {e.recipe['dt']} ms, {front_end}", width)
    lines += _field("expected", ", ".join(f"{k} {v:,}" for k, v in e.figures.items()), width)
    for o in pipeline_class(e.name).options:
        lines += _field("option", f"--{o.name.replace('_', '-')}: {o.help} [{o.default}]", width)
    return "\n".join(lines)


def _field(label: str, text: str, width: int) -> list[str]:
    if not text:
        return []
    return textwrap.wrap(text, width, initial_indent=f"{label:<{_LABEL}}", subsequent_indent=" " * _LABEL,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def one_line(ds: xr.Dataset, path: str, seconds: float) -> str:
    """The figures of a build."""
    pairs, size = int((ds["n_repeats"] > 0).sum()), ds.sizes
    shape = f"T = {size['time']:,}, F = {size['frequency']}, R = {size['repeat']}"
    coverage = f"{pairs:,} of {size['stim'] * size['neuron']:,} pairs"
    disk = "" if "://" in path else f"; {_bytes(path) / 1e6:.1f} MB"
    return f"S = {size['stim']:,}, N = {size['neuron']:,}, {coverage}, {shape}{disk}, {seconds:.1f} s"


def _bytes(path: str) -> int:
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())


def summary(ds: xr.Dataset, path: str, width: int) -> str:
    """What a cube holds."""
    size, attrs = ds.sizes, ds.attrs
    pairs, possible = int((ds["n_repeats"] > 0).sum()), size["stim"] * size["neuron"]
    trials, rejected = int(ds["n_repeats"].sum()), int(ds["n_rejected"].sum())
    lines = textwrap.wrap(str(attrs.get("title", attrs["dataset"])), width)
    lines += _field("store", path, width)
    lines += _field("recipe", _recipe(str(attrs["recipe"])), width)
    lines += _field("stimuli", f"{size['stim']:,}: {_counts(ds['stim_type'].values)}", width)
    seconds = ds["n_bins"].values * float(attrs["dt_ms"]) / 1000
    lines += _field("", f"{_span(seconds, '.3g')} s", width)
    lines += _field("neurons", f"{size['neuron']:,}: {_counts(ds['area'].values)}", width)
    signals = _counts(ds["signal_type"].values)
    species = ", ".join(sorted(set(ds["species"].values)))
    lines += _field("", f"{species}; {len(set(ds['animal'].values))} animals; {signals}", width)
    lines += _field("coverage", f"{pairs:,} of {possible:,} pairs ({pairs / possible:.1%})", width)
    repeats = ds["n_repeats"].values[ds["n_repeats"].values > 0]
    spread = f"{_span(repeats, 'd')} repeats, median {int(np.median(repeats))}" if pairs else "no repeats"
    lost = f", {rejected:,} rejected" if rejected else ""
    lines += _field("trials", f"{trials:,}{lost}; {spread}", width)
    shape = ", ".join(f"{d} {size[d]:,}" for d in ("stim", "neuron", "repeat", "time"))
    stored = ds["response"].encoding.get("dtype", ds["response"].dtype)
    lines += _field("response", f"{shape}; {ds['response'].attrs['units']}, stored as {stored}", width)
    axis = ds["frequency"].values
    span = f"{axis[0]:,.0f} to {axis[-1]:,.0f} Hz; {ds['stimulus'].attrs.get('units', '')}"
    silent = int(np.isnan(ds["stimulus"][:, 0, 0].values).sum())
    missing = f"; {silent} stimuli without" if silent else ""
    lines += _field("stimulus", f"{size['frequency']} bands, {span}{missing}", width)
    if "://" not in path:
        lines += _field("on disk", f"{_bytes(path) / 1e6:.1f} MB", width)
    lines += _field("digest", str(attrs["digest"]), width)
    lines += _field("licence", "; ".join(str(attrs["licence"]).splitlines()), width)
    return "\n".join(lines)


def _span(values: np.ndarray[tuple[int, ...], np.dtype[Any]], spec: str) -> str:
    low, high = values.min(), values.max()
    return f"{low:{spec}}" if low == high else f"{low:{spec}} to {high:{spec}}"


def _recipe(text: str) -> str:
    recipe = json.loads(text)
    if "pool" in recipe:
        return f"a pool of {', '.join(recipe['pool'])}"
    front_end = recipe["front_end"]
    parts = [f"dt {recipe['dt_ms']:g} ms", f"{front_end['kind']} {recipe['align']}"]
    parts += [f"post {recipe['post_ms']:g} ms"] if recipe["post_ms"] else []
    parts += [f"only {key}={','.join(values)}" for key, values in recipe["only"].items()]
    parts += [f"{key} {value}" for key, value in recipe["options"].items()]
    return ", ".join(parts)


def _counts(values: np.ndarray[tuple[int, ...], np.dtype[np.object_]], most: int = 12) -> str:
    counts = Counter(str(v) or "(none)" for v in values).most_common()
    more = f", {len(counts) - most} more" if len(counts) > most else ""
    return ", ".join(f"{name} {count:,}" for name, count in counts[:most]) + more


def findings(path: str | os.PathLike[str], width: int, most: int | None = 8) -> list[str]:
    """The findings of a cube, the most serious first.

    Parameters
    ----------
    most : int, optional
        How many to show; None shows all.
    """
    import xarray as xr

    table = xr.open_zarr(path, group="findings", chunks=None).load()
    count = table.sizes["finding"]
    if not count:
        return []
    severity = [str(s) for s in table["severity"].values]
    order = sorted(range(count), key=lambda i: ("error", "warning", "info").index(severity[i]))
    numbers = Counter(severity)
    plural = {"error": "errors", "warning": "warnings", "info": "notes"}
    shown = [f"{numbers[s]:,} {s if numbers[s] == 1 else many}" for s, many in plural.items() if numbers[s]]
    lines = [f"findings in the raw files: {', '.join(shown)}"]
    for i in order[:most]:
        line = int(table["line"].values[i])
        place = str(table["file"].values[i]) + (f", line {line}" if line else "")
        text = f"{table['what'].values[i]}; {table['consequence'].values[i]}"
        lines += textwrap.wrap(f"{severity[i]}: {place + ': ' if place else ''}{text}", width, initial_indent="  ",
                               subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)  # fmt: skip
    if most is not None and count > most:
        lines.append(f"  ... and {count - most} more: strfcube inspect {shlex.quote(str(path))} --findings")
    return lines
