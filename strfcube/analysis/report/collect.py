"""What a report says and draws, as numbers and texts that go into the page: nothing here knows HTML."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.plot.figure import COLOURS
from strfcube.analysis.plot.levels import Limits, limits_of
from strfcube.analysis.plot.marks import palettes
from strfcube.analysis.plot.pair import frequency_ticks, neuron_title, stim_title
from strfcube.analysis.plot.presented import collect as of_coverage
from strfcube.analysis.plot.reliability import collect as of_quality
from strfcube.analysis.report.packing import text_of
from strfcube.cube.findings import grouped
from strfcube.cube.groups import has_group, in_memory, open_group
from strfcube.cube.normalise import own_units

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

FINDINGS = 20_000  # that a page lists one by one
_LEVELS = 254  # of a spectrogram; 255 is missing


def sounds(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Each stimulus: its title, its length, and where in it the sound lies (None: not known)."""
    few = ds.coords.to_dataset()
    spans = [
        few[n].values if n in few else np.full(ds.sizes["stim"], np.nan) for n in ("sound_onset", "sound_duration")
    ]
    return [
        {
            "label": str(few["stim"].values[s]), "title": stim_title(few.isel(stim=s)), "bins": int(bins),
            "onset": _number(onset), "lasts": _number(lasts),
        }
        for s, (bins, onset, lasts) in enumerate(zip(ds["n_bins"].values, *spans, strict=True))
    ]  # fmt: skip


def spectrograms(ds: xr.Dataset, most: int) -> tuple[list[str], list[Limits | None]]:
    """Spectrograms in steps of their own range, as blocks of text: one byte a value, band after band.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    most : int
        Characters in all; those that do not fit are left out.

    Returns
    -------
    list of str
        "" for a stimulus without a spectrogram, and for one that did not fit.
    list of Limits, optional
        What the steps mean; None where there is no spectrogram.
    """
    out: list[str] = []
    spans: list[Limits | None] = []
    stimulus, left = ds["stimulus"].transpose("stim", "frequency", "time"), most
    units = str(ds["stimulus"].attrs.get("units", ""))
    for s, bins in enumerate(ds["n_bins"].values.tolist()):
        level = stimulus[s, :, :bins].values.astype(float)
        known = np.isfinite(level)
        text, span = "", None
        if known.any():
            span = limits_of([level], units)
            part = np.maximum(level[known] - span.low, 0) / ((span.high - span.low) or 1.0)
            steps = np.full(level.shape, 255, np.uint8)
            steps[known] = np.rint(part ** (1 / span.root) * _LEVELS)
            text = text_of(steps.tobytes())
        if len(text) > left:
            text = ""
        left -= len(text)
        out.append(text)
        spans.append(span)
    return out, spans


def neurons(ds: xr.Dataset, snr: NDArray[Any], ccmax: NDArray[Any]) -> list[dict[str, Any]]:
    """Each neuron: its title, its unit, and how reliable it is (None: not known)."""
    few = ds.coords.to_dataset()
    trace = own_units(ds) == "mV"
    return [
        {
            "label": str(few["neuron"].values[n]), "title": neuron_title(few.isel(neuron=n)), "mV": bool(trace[n]),
            "snr": _number(snr[n]), "ccmax": _number(ccmax[n]),
        }
        for n in range(ds.sizes["neuron"])
    ]  # fmt: skip


def coverage(ds: xr.Dataset) -> tuple[dict[str, Any], str]:
    """The map of repeats, one byte a pair (255: as many or more), neuron after neuron, and what lies along it.

    Strips along it have a colour for each name, and no two strips the same.
    """
    shown = of_coverage(ds)
    every = [*shown.stim_strips, *shown.neuron_strips]
    strips = [
        {"label": label, "groups": [[g.name, g.start, g.size] for g in groups], "colours": colours}
        for (label, groups), colours in zip(every, palettes(every), strict=True)
    ]
    above = len(shown.stim_strips)
    about = {"title": shown.title, "most": int(shown.repeats.max(initial=0)), "above": strips[:above],
             "beside": strips[above:]}  # fmt: skip
    return about, text_of(np.minimum(shown.repeats, 255).astype(np.uint8).tobytes())


def quality(ds: xr.Dataset) -> tuple[dict[str, Any], NDArray[Any], NDArray[Any]]:
    """Distributions of SNR and CCmax, by area where there are several; and both of every neuron."""
    areas = set(ds["area"].values.astype(str)) if "area" in ds.coords else set()
    shown = of_quality(ds, "area" if len(areas) > 1 else None)
    about = {
        "names": [[n, int((shown.group == i).sum())] for i, n in enumerate(shown.names)], "note": shown.note,
        "empty": shown.empty, "label": shown.label, "colours": list(COLOURS),
        "snr": {"edges": shown.snr_edges.tolist(), "counts": shown.counts(shown.snr, shown.snr_edges).tolist()},
        "ccmax": {"edges": shown.ccmax_edges.tolist(), "counts": shown.counts(shown.ccmax, shown.ccmax_edges).tolist()},
    }  # fmt: skip
    return about, shown.snr, shown.ccmax


def findings(path: str) -> dict[str, Any]:
    """The findings of a store by kind, each with its members as far as `FINDINGS` goes."""
    if not has_group(path, "findings"):
        return {"kinds": [], "counts": {}, "listed": 0, "total": 0}
    table = in_memory(open_group(path, "findings"), f"{path}/findings")
    columns = {n: [str(v) for v in table[n].values] for n in ("file", "what", "consequence")}
    lines, left, kinds = table["line"].values.tolist(), FINDINGS, []
    for kind, rows in grouped(table):
        some, left = rows[:left], max(0, left - len(rows))
        each = [
            [
                columns["file"][i] + (f", line {lines[i]}" if lines[i] else ""),
                columns["what"][i],
                columns["consequence"][i],
            ]
            for i in some
        ]
        kinds.append({"severity": kind.severity, "count": kind.count, "what": kind.what,
                      "consequence": kind.consequence, "each": each})  # fmt: skip
    total = table.sizes["finding"]
    counts = Counter(str(v) for v in table["severity"].values)
    return {"kinds": kinds, "counts": dict(counts), "listed": total - max(0, total - FINDINGS), "total": total}


def axis(ds: xr.Dataset) -> dict[str, Any]:
    """Bands from below: their number, ticks in kHz, and what their level is."""
    units = str(ds["stimulus"].attrs.get("units", ""))
    places, labels = frequency_ticks(ds["frequency"].values.astype(float) / 1000)
    return {"bands": ds.sizes["frequency"], "places": places, "labels": labels,
            "level": f"level ({units})" if units not in ("", "1") else "level"}  # fmt: skip


def _number(value: Any) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
