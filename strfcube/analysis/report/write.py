"""``strfcube.report``: a cube as one page of HTML."""

from __future__ import annotations

import json
import os
from html import escape
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from strfcube.analysis.output import target_of, writing
from strfcube.analysis.report import page
from strfcube.analysis.report.choice import texts
from strfcube.analysis.report.responses import MV_STEP, OTHER_STEP, Responses
from strfcube.catalog import entries, in_words
from strfcube.cube.store import locate
from strfcube.cube.store import open as open_cube
from strfcube.errors import UsageError
from strfcube.progress import shown
from strfcube.version import __version__

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.analysis.plot.levels import Limits
    from strfcube.catalog import Entry
    from strfcube.progress import Progress

MEGABYTES = 60.0
ENDINGS = (".html", ".htm")
_SOUNDS = 0.4  # of the room, at most, is for spectrograms


def report(
    store: str | os.PathLike[str], path: str | os.PathLike[str], dt: float | None = None, *,
    megabytes: float = MEGABYTES, force: bool = False, progress: bool | Progress | None = None,
) -> str:  # fmt: skip
    """Write a cube as one page of HTML that any browser opens, offline.

    It holds what the set is, how to cite it, its licence, recipe, digest and findings, a map of what was recorded,
    distributions of SNR and CCmax, and every response with its stimulus: exact spikes to 0.1 ms, or the bins, or
    membrane potentials to 0.1 mV. The same cube gives the same page.

    Parameters
    ----------
    store : path, URL or str
        A cube, as `strfcube.open` takes it.
    path : path
        A file that ends in ``.html``; it appears when it is whole.
    dt : float, optional
        Bin width in ms, with a data set's name.
    megabytes : float
        Largest size of the page. Of a cube that needs more, each neuron keeps the stimuli that most neurons heard, as
        many as there is room for, and the page says so.
    force : bool
        Replace a page that is there.
    progress : bool or callable, optional
        As in `strfcube.build`.

    Returns
    -------
    str
        Path of the page.

    Raises
    ------
    UsageError
        For another ending, or a size in which no page fits.
    StoreError
        If there is no such cube, such a file is there already, or the page cannot be written there.
    """
    if not 0 < megabytes < np.inf:
        raise UsageError(f"megabytes={megabytes!r}: expected a size above 0")
    target = target_of(path, ENDINGS, force=force)
    source = locate(store, dt)
    with shown(progress) as tell:
        text = _page(source, int(megabytes * 1e6), tell)
    aside = target.with_name(f".{uuid4().hex}.{target.name}")
    with writing(target):
        try:
            aside.write_text(text, encoding="utf-8", newline="\n")
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return str(target)


def _page(path: str, most: int, tell: Progress | None) -> str:
    from strfcube.analysis.report import collect  # which brings all pictures along

    ds = open_cube(path)
    responses = Responses(ds, path)
    quality, snr, ccmax = collect.quality(ds)
    coverage, repeats = collect.coverage(ds)
    levels, spans = collect.spectrograms(ds, int(_SOUNDS * most))
    sounds = collect.sounds(ds)
    for sound, span in zip(sounds, spans, strict=True):
        sound["span"] = span
    time = ds["time"].values
    data: dict[str, Any] = {
        "dt": responses.dt_ns / 1e9, "units": responses.units, "start": float(time[0]) if len(time) else 0.0,
        "mv": MV_STEP, "other": OTHER_STEP, "axis": collect.axis(ds), "stims": sounds,
        "neurons": collect.neurons(ds, snr, ccmax), "coverage": coverage, "quality": quality,
        "findings": collect.findings(path),
    }  # fmt: skip
    held = np.zeros(responses.repeats.shape, bool)

    def made(blocks: list[str], held: NDArray[np.bool_]) -> str:
        parts = _parts(ds, path, responses, held, levels, spans, most)
        named = [("coverage", repeats), *((f"s{i}", t) for i, t in enumerate(levels)),
                 *((f"n{i}", t) for i, t in enumerate(blocks))]  # fmt: skip
        return page.rendered(_title(ds), parts, data, named)

    bare = len(made([], held).encode("utf-8"))
    around = 48 * responses.repeats.shape[1] + 1000  # the tags of the blocks, and what the page says of a cut
    blocks, held = texts(responses, most - bare - around, lambda n, of: tell("report", n, of) if tell else None)
    text = made(blocks, held)
    size = len(text.encode("utf-8"))
    if size > most:
        raise UsageError(
            f"a page of {most / 1e6:g} MB has no room for this cube: without one response it takes {in_words(bare)}"
        )
    return text


def _title(ds: xr.Dataset) -> str:
    return str(ds.attrs.get("title") or ds.attrs.get("dataset") or "cube")


def _parts(
    ds: xr.Dataset, path: str, responses: Responses, held: NDArray[np.bool_], levels: list[str],
    spans: list[Limits | None], most: int,
) -> dict[str, str]:  # fmt: skip
    """The texts of the page."""
    attrs = ds.attrs
    entry = entries().get(str(attrs.get("dataset", "")))
    own = f"strfcube {__version__}: recordings of auditory neurons as labelled, analysis-ready cubes (software)."
    name = os.fsencode(path.rstrip("/").rpartition("/")[2]).decode("utf-8", "backslashreplace")
    return {
        "summary": _summary(ds, responses.repeats),
        "description": f"<p>{escape(_about(entry, ds))}</p>" if entry else "",
        "what": page.rows(_what(ds)),
        "holds": "".join(f"<p>{escape(line)}</p>" for line in _holds(responses, held, levels, spans, most)),
        "cite": page.lines(str(attrs.get("citation", ""))) + f"<p>{escape(own)}</p>",
        "terms": page.rows([
            ("licence", page.lines(str(attrs.get("licence", "")) or "not stated")),
            ("terms", escape(entry.terms) if entry else ""),
            ("doi", page.linked(str(attrs.get("doi", "")))),
        ]),
        "provenance": page.rows([
            ("cube", escape(name)), ("digest", f"<code>{escape(str(attrs.get('digest', '')))}</code>"),
            ("made from", f"<code>{escape(str(attrs['source_digest']))}</code>" if "source_digest" in attrs else ""),
            ("written by", page.lines(str(attrs.get("history", "")))),
            ("format", f"{escape(str(attrs.get('format_version', '')))}, page by strfcube {escape(__version__)}"),
            ("sources", "".join(page.lines(s) for s in _sources(str(attrs.get("sources", ""))))),
            ("recipe", page.indented(str(attrs.get("recipe", "")))),
        ]),
    }  # fmt: skip


def _about(entry: Entry, ds: xr.Dataset) -> str:
    """What the data set is that a cube, or a part of it, is of."""
    part = any(ds.sizes[dim] < entry.figures.get(dim, 0) for dim in ("stim", "neuron"))
    return f"The whole data set, of which this is not all: {entry.description}" if part else entry.description


def _summary(ds: xr.Dataset, repeats: NDArray[np.int64]) -> str:
    pairs, trials = int((repeats > 0).sum()), int(repeats.sum())
    words = [_count(ds.sizes["neuron"], "neuron"), _count(ds.sizes["stim"], "stimulus", "stimuli"),
             f"{pairs:,} of {repeats.size:,} pairs", _count(trials, "trial"),
             f"bins of {float(ds.attrs['dt_ms']):g} ms"]  # fmt: skip
    return "".join(f"<li>{escape(w)}</li>" for w in words)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _what(ds: xr.Dataset) -> list[tuple[str, str]]:
    """Species, animals, areas, signals and classes of stimuli, with their numbers."""
    found = []
    for name, key in (("species", "species"), ("animals", "animal"), ("areas", "area"), ("signals", "signal_type"),
                      ("stimuli", "stim_type"), ("categories", "stim_category"), ("splits", "split")):  # fmt: skip
        if key in ds.coords and len(ds[key].dims) == 1:
            values, counts = np.unique(ds[key].values.astype(str), return_counts=True)
            order = np.argsort(-counts, kind="stable")
            words = [f"{values[i] or 'without a name'} ({counts[i]:,})" for i in order[:12]]
            words += [f"and {len(order) - 12} more"] if len(order) > 12 else []
            found.append((name, escape(", ".join(words))))
    lasts = ds["n_bins"].values * float(ds.attrs["dt_ms"]) / 1000
    if len(lasts):
        low, high = lasts.min(), lasts.max()
        found.append(("length", f"{low:.3g} s" if low == high else f"{low:.3g} to {high:.3g} s"))
    return found


def _holds(
    responses: Responses, held: NDArray[np.bool_], levels: list[str], spans: list[Limits | None], most: int
) -> list[str]:
    """What of the cube is in the page, and how finely."""
    heard, exact = responses.repeats > 0, responses.exact
    pairs, kept = int(heard.sum()), int((held & heard).sum())
    out = []
    if kept < pairs:
        places = (held & heard).sum(0)
        out.append(
            f"Cut to fit {most / 1e6:g} MB: the page holds {kept:,} of {pairs:,} responses "
            f"({100 * kept / pairs:.0f} %), of each neuron those to the {_span(places)} stimuli that most neurons "
            "heard. All are in the cube; a part of it, saved with strfcube.save, has a report of its own, and a larger "
            "page can be asked for."
        )
    rounded = []
    if exact.any():
        rounded.append(f"spike times are cut to {responses.dt_ns / responses.units / 1e6:.3g} ms, and never move to "
                       "another bin")  # fmt: skip
    if (heard & ~exact).any():
        rounded.append(f"responses without exact times are the bins of the cube, membrane potentials to {MV_STEP:g} mV")
    if any(levels):
        rounded.append("each spectrogram has 255 levels from its lowest, or 90 dB below its highest, up to this")
    if rounded:
        out.append("In this page " + "; ".join(rounded) + ".")
    lost = sum(span is not None and not text for span, text in zip(spans, levels, strict=True))
    if lost:
        out.append(f"{lost:,} of {len(levels):,} spectrograms are left out, to fit {most / 1e6:g} MB.")
    return out


def _span(values: NDArray[Any]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"


def _sources(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    return [str(s) for s in found] if isinstance(found, list) else [text]
