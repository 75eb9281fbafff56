"""Cubes and catalog entries in words, for the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.catalog import Entry, entries, pipeline_class, raw_dir
from strfcube.records import counted

if TYPE_CHECKING:
    import xarray as xr

    from strfcube.cube.verify import Verdict

_LABEL = 12
_TIED = "\0"  # a blank at which no line is broken


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
        lines += _field(*(("unpacked", e.unpacked) if packed else ("on disk", f"{e.unpacked}, read as it is")), width)
    if e.cube != "unknown" or e.files:
        lines += _field("cube", e.cube, width)
    front_end = dict(e.recipe["front_end"])
    words = [
        f"{front_end.pop('kind')} spectrogram",
        *(f"{v} {k}" if k == "bands" else f"{k} {v}" for k, v in front_end.items()),
    ]
    lines += _field("recipe", f"bins of {e.recipe['dt']} ms; {', '.join(words)}", width)
    counts = {"stim": "stimuli", "neuron": "neurons", "pairs": "pairs of them with data"}
    lines += _field("complete", ", ".join(f"{v:,} {counts.get(k, k)}" for k, v in e.figures.items()), width)
    for o in pipeline_class(e.name).options:
        usual = "no" if o.default is False else o.default
        lines += _field("option", f"--{o.name.replace('_', '-')}: {o.help} [default: {usual}]", width)
    return "\n".join(lines)


def overview(width: int) -> list[str]:
    """One line a data set: its neurons, what there is to download, and how large its cube is."""
    rows = [("data set", "neurons", "download", "cube", "recordings")]
    for e in entries().values():
        neurons = f"{e.figures['neuron']:,}" if "neuron" in e.figures else ""
        title = e.title.removeprefix(e.name.upper()).removeprefix(e.name.capitalize())
        title = title.partition(": ")[2] if ":" in title[:20] else title
        download = "nothing" if e.simulated else _briefly(e.download)
        rows.append((e.name, neurons, download, _briefly(e.cube), title))
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sizes[-1] = max(12, width - sum(sizes[:-1]) - 2 * (len(sizes) - 1))
    return [
        "  ".join((
            f"{name:<{sizes[0]}}", f"{neurons:>{sizes[1]}}", f"{download:>{sizes[2]}}", f"{cube:>{sizes[3]}}",
            textwrap.shorten(title, sizes[4], placeholder=" ..."),
        )).rstrip()
        for name, neurons, download, cube, title in rows
    ]  # fmt: skip


def _briefly(size: str) -> str:
    """A size in few words, for a table."""
    for end in (" (", ",", " for ", " a bird"):
        size = size.partition(end)[0]
    return size.removeprefix("about ").replace("hundreds of MB", "100s of MB")


def _field(label: str, text: str, width: int) -> list[str]:
    if not text:
        return []
    lines = textwrap.wrap(text, width, initial_indent=f"{label:<{_LABEL}}", subsequent_indent=" " * _LABEL,
                          break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return [line.replace(_TIED, " ") for line in lines]


def figures(ds: xr.Dataset, path: str, seconds: float, width: int) -> str:
    """The figures of a build, in one line if it is wide enough; no figure is parted from its name."""
    pairs, size = int((ds["n_repeats"] > 0).sum()), ds.sizes
    shape = f"T = {size['time']:,}, F = {size['frequency']}, R = {size['repeat']}"
    coverage = f"{pairs:,} of {size['stim'] * size['neuron']:,} pairs"
    disk = "" if "://" in path else f"; {bytes_of(path) / 1e6:.1f} MB"
    text = f"S = {size['stim']:,}, N = {size['neuron']:,}, {coverage}, {shape}{disk}, {seconds:.1f} s"
    tied = re.sub(r"(?<![,;]) ", _TIED, text)
    return textwrap.fill(tied, width, subsequent_indent="  ").replace(_TIED, " ")


def bytes_of(path: str | Path) -> int:
    """What a cube takes on the disk."""
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())


def summary(ds: xr.Dataset, path: str, width: int) -> str:
    """What a cube holds."""
    size, attrs = ds.sizes, ds.attrs
    pairs, possible = int((ds["n_repeats"] > 0).sum()), size["stim"] * size["neuron"]
    trials, rejected = int(ds["n_repeats"].sum()), int(ds["n_rejected"].sum())
    lines = textwrap.wrap(str(attrs.get("title", attrs["dataset"])), width)
    lines += _field("store", path, width)
    lines += _field("recipe", _recipe(str(attrs["recipe"]), str(attrs["dataset"])), width)
    stated, binned = ds["duration"].values, ds["n_bins"].values * float(attrs["dt_ms"]) / 1000
    seconds = np.where(np.isnan(stated), binned, stated)
    lines += _field("stimuli", f"{size['stim']:,}, of {_span(np.round(seconds, 3), '.3g')} s", width)
    lines += _field("", f"stim_type: {_counts(ds['stim_type'].values)}", width)
    species = ", ".join(sorted(set(ds["species"].values)))
    animals = len(set(ds["animal"].values))
    of = f"{animals} animal{'' if animals == 1 else 's'} ({species})"
    lines += _field("neurons", f"{size['neuron']:,}, of {of}", width)
    lines += _field("", f"area: {_counts(ds['area'].values)}", width)
    lines += _field("", f"signal_type: {_counts(ds['signal_type'].values)}", width)
    lines += _choices(ds, width)
    lines += _field(
        "coverage", f"{pairs:,} of {possible:,} pairs of stimulus and neuron ({pairs / possible:.1%})", width
    )
    repeats = ds["n_repeats"].values[ds["n_repeats"].values > 0]
    spread = f"{_span(repeats, 'd')} of each pair" if pairs else "none of any pair"
    spread += f", median {int(np.median(repeats))}" if pairs and repeats.min() < repeats.max() else ""
    lost = f", {rejected:,} rejected" if rejected else ""
    lines += _field("trials", f"{trials:,}{lost}; {spread}", width)
    shape = " x ".join(f"{size[d]:,} {d}" for d in ("stim", "neuron", "repeat", "time"))
    stored = ds["response"].encoding.get("dtype", ds["response"].dtype)
    unit = {"count": "spikes a bin", "mixed": "mV and spikes a bin"}.get(
        ds["response"].attrs["units"], ds["response"].attrs["units"]
    )
    lines += _field("response", f"{shape}; {unit}, stored as {stored}", width)
    axis = ds["frequency"].values
    span = f"{axis[0]:,.0f} to {axis[-1]:,.0f} Hz; in {ds['stimulus'].attrs.get('units', '')}"
    silent = int(np.isnan(ds["stimulus"][:, 0, 0].values).sum())
    missing = f"; {counted(silent, 'stimulus has', 'stimuli have')} none" if silent else ""
    lines += _field("spectrogram", f"{size['frequency']} bands, {span}{missing}", width)
    if "://" not in path:
        lines += _field("on disk", f"{bytes_of(path) / 1e6:.1f} MB", width)
    lines += _field("digest", str(attrs["digest"]), width)
    lines += _field("licence", "; ".join(str(attrs["licence"]).splitlines()), width)
    return "\n".join(lines)


def _choices(ds: xr.Dataset, width: int) -> list[str]:
    """Coordinates that tell stimuli, neurons or pairs of them apart: what a part can be chosen by."""
    lines: list[str] = []
    for dims, what in ((("stim",), "stimuli by"), (("neuron",), "neurons by"), (("stim", "neuron"), "pairs by")):
        found = {str(n): c.values.ravel() for n, c in ds.coords.items() if n not in dims and set(c.dims) == set(dims)}
        names = [name for name, values in found.items() if len(set(map(str, values.tolist()))) > 1]
        lines += _field("" if lines else "choose", f"{what} {', '.join(names)}" if names else "", width)
    return lines


def _span(values: np.ndarray[tuple[int, ...], np.dtype[Any]], spec: str) -> str:
    low, high = values.min(), values.max()
    return f"{low:{spec}}" if low == high else f"{low:{spec}} to {high:{spec}}"


def _recipe(text: str, dataset: str) -> str:
    recipe = json.loads(text)
    saved = recipe.get("saved", {})
    words = {"response": "other responses", "stimulus": "other spectrograms", "time": "fewer bins"}
    marks = ["a part, saved"] if "part" in saved else []
    marks += [f"saved with {' and '.join(words[c] for c in saved['changed'])}"] if "changed" in saved else []
    if "pool" in recipe:
        return "; ".join([*marks, f"a pool of {', '.join(recipe['pool'])}"])
    front_end = recipe["front_end"]
    where = "around the bins" if recipe["align"] == "centre" else "that end with the bins"
    parts = [*marks, f"bins of {recipe['dt_ms']:g} ms", f"{front_end['kind']} spectrogram, windows {where}"]
    parts += [f"{recipe['post_ms']:g} ms after the sound"] if recipe["post_ms"] else []
    parts += [f"only {key}={','.join(values)}" for key, values in recipe["only"].items()]
    usual = {o.name: o.default for o in pipeline_class(dataset).options} if dataset in entries() else {}
    flags = {key.replace("_", "-"): v for key, v in recipe["options"].items() if key not in usual or v != usual[key]}
    parts += [f"--{k}" if v is True else f"--no-{k}" if v is False else f"--{k} {v}" for k, v in flags.items()]
    return "; ".join(parts)


def _counts(values: np.ndarray[tuple[int, ...], np.dtype[np.object_]], most: int = 12) -> str:
    counts = Counter(str(v) for v in values).most_common()
    more = f", and {len(counts) - most} more" if len(counts) > most else ""
    if len(counts) == 1:
        return f"all {_quoted(counts[0][0])}"
    return ", ".join(f"{_quoted(name)}{_TIED}({count:,})" for name, count in counts[:most]) + more


def _quoted(name: str) -> str:
    """A label that cannot be taken for a number or for two words."""
    plain = name.replace("_", "a").replace("-", "a").isalnum() and not name[0].isdigit()
    return (name if plain else f"'{name}'") if name else "''"


def differences(path: str | Path) -> str:
    """What tells the cubes of a data set apart: the bin width, and what is not as by default."""
    from strfcube.builder.recipe import Recipe
    from strfcube.builder.request import default_recipe
    from strfcube.cube.store import cube_root
    from strfcube.errors import StrfcubeError

    try:
        root = cube_root(os.fspath(path))
        recipe = json.loads(root.attrs["recipe"])
        size = root.nodes["response"]["shape"]
        counts = f"{size[0]:,} stimuli x {counted(size[1], 'neuron', 'neurons')}"
        if "pool" in recipe:
            return f"{root.attrs['dt_ms']:g} ms; {_recipe(root.attrs['recipe'], '')}; {counts}"
        made = Recipe.from_json(root.attrs["recipe"])
        usual = default_recipe(made.dataset, made.dt_ns)
    except (StrfcubeError, KeyError, TypeError, ValueError) as error:
        return f"cannot be read: {str(error).removeprefix(f'{path} ')}"
    spec = {"kind": made.front_end.kind, **dataclasses.asdict(made.front_end)}
    own = {"kind": usual.front_end.kind, **dataclasses.asdict(usual.front_end)}
    if spec["kind"] != own["kind"]:
        own = {**dataclasses.asdict(type(made.front_end)()), "kind": ""}
    parts = [
        f"{k.replace('_', ' ')} {v}" if k != "kind" else f"{v} spectrogram" for k, v in spec.items() if v != own[k]
    ]
    parts += ["windows that end with the bins"] if made.align != usual.align else []
    parts += [] if made.audio else ["no audio"]
    said = _recipe(root.attrs["recipe"], made.dataset).split("; ")
    shown = [part for part in said if not part.startswith(("bins of ", f"{made.front_end.kind} spectrogram, "))]
    return "; ".join([f"{made.dt_ms:g} ms", *parts, *shown, *([counts] if made.only or made.saved else [])])


def about(path: str, width: int) -> str:
    """What a cube says of where it comes from."""
    from strfcube.cube.store import cube_root

    attrs = cube_root(path).attrs
    lines = textwrap.wrap(str(attrs.get("title", attrs.get("dataset", ""))), width)
    lines += _field("cube", path, width) + _field("data set", str(attrs.get("dataset", "")), width)
    said = {name: str(attrs.get(name, "")).splitlines() for name in ("doi", "licence", "citation")}
    said["sources"] = list(map(str, json.loads(attrs.get("sources", "[]"))))
    for name, texts in said.items():
        for at, text in enumerate(texts):
            lines += _field("" if at else name, text, width)
    return "\n".join(lines)


def cited(path: str) -> list[str]:
    """What to cite for a cube."""
    from strfcube.cube.store import cube_root

    return [line for line in str(cube_root(path).attrs.get("citation", "")).splitlines() if line]


def recounted(path: str) -> list[str]:
    """What a deep verification has counted and computed again, in words."""
    from strfcube.cube.groups import open_group
    from strfcube.cube.recompute import obstacle
    from strfcube.cube.store import cube_root

    if why := obstacle(open_group(path, ""), cube_root(path)):
        return [_counted_again(path), f"No spectrogram was computed again: {why}."]
    sounds = int((open_group(path, "audio")["row_size"].values > 0).sum())
    return [_counted_again(path), f"Computed again, and the same: {counted(sounds, 'spectrogram', 'spectrograms')}."]


def _counted_again(path: str) -> str:
    from strfcube.cube.groups import has_group, open_group

    if not has_group(path, "trials"):
        return "Nothing was counted again: the cube was built without single trials."
    trials = open_group(path, "trials")
    kept, exact, size = (trials[name].values for name in ("kept", "exact", "row_size"))
    others = int((kept & ~exact).sum())
    text = f"Counted again, and the same: the trials of every pair ({len(kept):,} trials)"
    if (kept & exact).any():
        text += f", and every bin of the response (from {int(size[kept & exact].sum()):,} exact spike times)"
    if others:
        text += f"; {others:,} trials have no exact spike times, so that their bins are all there is"
    return f"{text}."


def findings(path: str | os.PathLike[str], width: int, *, every: bool = False) -> list[str]:
    """The findings of a cube by kind, or every one of them."""
    from strfcube.cube.findings import told
    from strfcube.cube.groups import in_memory, open_group

    table = in_memory(open_group(os.fspath(path), "findings"), f"{path}/findings")
    lines = told(table, width, path=os.fspath(path), every=every)
    return lines or (["no findings in the raw files"] if every else [])


def condition(verdict: Verdict, path: str) -> str:
    """What is wrong with a cube, and what to do about each kind of it."""
    parts = []
    if verdict.damaged:
        parts.append(f"is damaged: {'; '.join(verdict.damaged)}; build it again with --force")
    if verdict.refused:
        parts.append(
            f"cannot be read whole, which is no damage: {'; '.join(verdict.refused)}; give yourself permission to read "
            "its files, or see that its disk is well and memory free, and verify it again"
        )
    if verdict.added:
        whole = "" if parts else "is as it was built, and "
        parts.append(
            f"{whole}holds more: {'; '.join(verdict.added)}; keep that in a store of its own: nothing replaces the "
            "cube while it is there"
        )
    return f"{path} {'; it '.join(parts)}"
