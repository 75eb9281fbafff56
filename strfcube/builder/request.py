"""A build's arguments, checked and resolved: the recipe, the pipeline on its raw folder, and the place of the cube."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube import catalog
from strfcube.builder.recipe import Recipe, parse_only
from strfcube.builder.workplace import writable
from strfcube.cube.store import local
from strfcube.errors import SelectionError, StrfcubeError, UsageError
from strfcube.grid import Align, dt_to_ns
from strfcube.sound.spectrogram import COMPRESSIONS, FRONT_ENDS, FrontEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from strfcube.records import Finding, Pipeline, Report, Survey


@dataclass(frozen=True)
class Request:
    """What to build, from what, and where to.

    Attributes
    ----------
    pipeline : Pipeline
        On its raw folder.
    recipe : Recipe
        What to build.
    target : str
        Path or URL of the cube.
    fingerprint : str
        Of the raw files.
    entry : Entry or None
        The catalog's; None for a pipeline of the user's own.
    figures : mapping
        What a complete default build must show.
    attrs : mapping
        Root attributes that replace the computed ones.
    """

    pipeline: Pipeline
    recipe: Recipe
    target: str
    fingerprint: str
    entry: catalog.Entry | None = None
    figures: Mapping[str, int] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def prepare(
    dataset: str | Pipeline,
    *,
    dt: float | None = None,
    raw: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    only: Mapping[str, Any] | None = None,
    post: float = 0.0,
    align: Align = "centre",
    audio: bool = True,
    bring: Callable[[catalog.Entry], None] | None = None,
    **flags: Any,
) -> Request:
    """Check the arguments of `build`, and find the raw files. Parameters and errors as there.

    Parameters
    ----------
    bring : callable, optional
        Called once all other arguments are known to be right, for the raw files of a data set that has some to fetch.
    """
    name = dataset if isinstance(dataset, str) else type(dataset).__name__.lower()
    entry = catalog.entry(name) if isinstance(dataset, str) else None
    kind = catalog.pipeline_class(name) if isinstance(dataset, str) else type(dataset)
    defaults: dict[str, Any] = dict(entry.recipe) if entry else {"dt": 5, "front_end": {"kind": "mel"}}
    dt_ns = dt_to_ns(defaults["dt"] if dt is None else dt)
    options, chosen = _split_flags(name, kind, dict(flags))
    if not isinstance(dataset, str):
        if raw is not None:
            raise UsageError(f"raw={str(raw)!r}: the pipeline has its own raw folder, {dataset.raw}; leave it out")
        if own := [o.name for o in kind.options if o.name in flags]:
            raise UsageError(f"give {', '.join(map(repr, own))} to the pipeline itself")
        options = dict(dataset.settings)
    if not 0 <= post < math.inf:
        raise UsageError(f"post={post:g} ms: give 0 or more")
    if align not in ("centre", "causal"):
        raise UsageError(f"align={align!r}: give 'centre' or 'causal'")
    default = default_recipe(name, dt_ns)
    recipe = Recipe(
        name, dt_ns, round(post * 1e6), align, _front_end(defaults, chosen), audio, parse_only(only), options
    )
    target = local(out if out is not None else catalog.data_dir() / recipe.store_name(default))
    if bring and entry and entry.files:
        bring(entry)
    pipeline = kind(_raw_folder(name, raw), **options) if isinstance(dataset, str) else dataset
    figures = dict(entry.figures) if entry and recipe.to_json() == default.to_json() else {}
    return Request(pipeline, recipe, target, fingerprint(pipeline.raw), entry, figures)


def preview(request: Request) -> dict[str, int]:
    """What a build would list, without building: chosen stimuli, neurons and sources, and findings so far.

    Raises
    ------
    RawDataError
        If the raw folder is not the data set.
    SelectionError
        If `only` names what nothing has.
    """
    findings: list[Finding] = []
    survey = survey_of(request.pipeline, findings.append)
    keep_stim, keep_neuron = chosen(survey, request.recipe.only)
    sources = {n.source for n, keep in zip(survey.neurons, keep_neuron, strict=True) if keep}
    return {"stimuli": sum(keep_stim), "neurons": sum(keep_neuron), "sources": len(sources), "findings": len(findings)}


def survey_of(pipeline: Pipeline, report: Report) -> Survey:
    """What a pipeline lists.

    Raises
    ------
    RawDataError
        If the raw folder is not the data set.
    StrfcubeError
        If the pipeline itself fails.
    """
    try:
        return pipeline.survey(report)
    except StrfcubeError:
        raise
    except Exception as error:
        message = f"pipeline {type(pipeline).__name__} failed in its survey of {pipeline.raw}"
        raise StrfcubeError(f"{message}: {type(error).__name__}: {error}") from error


def default_recipe(name: str, dt_ns: int) -> Recipe:
    """The complete default recipe of a data set at a bin width."""
    if name not in catalog.entries():
        return Recipe(name, dt_ns)
    front_end = _front_end(catalog.entry(name).recipe, {})
    return Recipe(name, dt_ns, front_end=front_end, options=_defaults(catalog.pipeline_class(name)))


def chosen(survey: Survey, only: Mapping[str, tuple[str, ...]]) -> tuple[list[bool], list[bool]]:
    """Which stimuli and neurons `only` keeps.

    Raises
    ------
    SelectionError
        If a key or a value is one that nothing has.
    """
    keep: list[list[bool]] = []
    known: set[str] = set()
    for kind, items in (("stim", survey.stimuli), ("neuron", survey.neurons)):
        metas = [{kind: item.id, **item.meta} for item in items]
        keys = {key for meta in metas for key in meta}
        known |= keys
        for key in set(only) & keys:
            there = {str(meta.get(key, "")) for meta in metas}
            if strange := sorted(set(only[key]) - there):
                raise SelectionError(f"--only {key}={','.join(strange)}: nothing has that; there are {_some(there)}")
        keep.append([all(str(meta.get(k, "")) in only[k] for k in only if k in keys) for meta in metas])
    if strange := sorted(set(only) - known):
        raise SelectionError(f"--only {', '.join(strange)}: no such coordinate; there are {_some(known)}")
    return keep[0], keep[1]


def _split_flags(name: str, kind: type[Pipeline], flags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pipeline options (all of them) and front-end fields (those given)."""
    options = _defaults(kind)
    declared = {o.name: o for o in kind.options}
    fields = {"spec"} | {f.name for front_end in FRONT_ENDS.values() for f in dataclasses.fields(front_end)}
    chosen: dict[str, Any] = {}
    for key, value in flags.items():
        if key in declared:
            option = declared[key]
            if option.choices and value not in option.choices:
                raise UsageError(f"{key}={value!r}: give one of {', '.join(option.choices)}")
            try:
                options[key] = option.type(value)
            except (TypeError, ValueError):
                raise UsageError(f"{key}={value!r}: give {option.type.__name__}") from None
        elif key in fields:
            chosen[key] = value
        else:
            known = sorted(declared) + sorted(fields)
            raise UsageError(f"'{key}' is no option of {name}: there are {', '.join(known)}")
    return options, chosen


def _defaults(kind: type[Pipeline]) -> dict[str, Any]:
    return {o.name: o.default for o in kind.options}


def _front_end(defaults: Mapping[str, Any], chosen: Mapping[str, Any]) -> FrontEnd:
    base = dict(defaults["front_end"])
    kind = base.pop("kind")
    fields = dict(chosen)
    asked = fields.pop("spec", kind)
    if asked not in FRONT_ENDS:
        raise UsageError(f"spec={asked!r}: give one of {', '.join(FRONT_ENDS)}")
    if asked == kind:
        fields = base | fields
    made = FRONT_ENDS[asked]
    known = {f.name for f in dataclasses.fields(made)}
    if strange := sorted(set(fields) - known):
        raise UsageError(
            f"{', '.join(strange)}: no parameter of '{asked}', which has {', '.join(sorted(known)) or 'none'}"
        )
    for name, value in fields.items():
        if name != "compression" and value is not None and (isinstance(value, str) or not math.isfinite(value)):
            raise UsageError(f"{name}={value!r}: give a number")
        if name in ("bands", "per_octave") and not (value == int(value) and value > 0):
            raise UsageError(f"{name}={value!r}: give a positive whole number")
        if name == "window_ms" and value is not None and not value > 0:
            raise UsageError(f"{name}={value!r}: give a positive number")
    front_end = made(**fields)
    compression = getattr(front_end, "compression", None)
    if compression is not None and compression not in COMPRESSIONS:
        raise UsageError(f"compression={compression!r}: give one of {', '.join(COMPRESSIONS)}")
    return front_end


def _raw_folder(name: str, raw: str | os.PathLike[str] | None) -> Path:
    if raw is not None:
        folder = Path(raw).expanduser()
        if not folder.is_dir():
            what = "is a file; an archive must be unpacked first" if folder.is_file() else "does not exist"
            raise UsageError(f"raw folder {folder} {what}: give the folder that holds the raw files")
        return folder.resolve()
    entry, folder = catalog.entry(name), catalog.raw_dir(name)
    if entry.simulated:
        from strfcube.simulate import write_demo

        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            with writable(str(folder)):
                write_demo(partial)
                partial.rename(folder)
    if not folder.is_dir():
        raise UsageError(catalog.how_to_get(entry, folder))
    return folder.resolve()


def _some(values: set[str], most: int = 20) -> str:
    listed = sorted(values)
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def fingerprint(raw: Path) -> str:
    """Names, sizes and times of all raw files: whether a cube is up to date, without reading them."""
    h = hashlib.sha256()

    def walk(folder: str, prefix: str) -> None:
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda f: f.name):
                if item.is_dir(follow_symlinks=False):
                    walk(item.path, f"{prefix}{item.name}/")
                else:
                    # Of what a link points to, or of the link itself where that is absent (an annex without content).
                    stat = item.stat(follow_symlinks=Path(item.path).exists())
                    h.update(f"{prefix}{item.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())

    if raw.is_dir():
        walk(str(raw), "")
    return h.hexdigest()
