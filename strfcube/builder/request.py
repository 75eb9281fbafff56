"""A build's arguments, checked and resolved: the recipe, the pipeline on its raw folder, and the place of the cube."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
import shlex
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube import catalog, limits
from strfcube.builder.ledger import sync
from strfcube.builder.recipe import Recipe, among, parse_only
from strfcube.builder.workplace import clear, discard, locked, place_of, see_place, work_folder, writable
from strfcube.cube.rebinnable import rebinning
from strfcube.cube.store import local
from strfcube.errors import SelectionError, UsageError, did_you_mean
from strfcube.grid import Align, dt_to_ns
from strfcube.raw_files import Missing
from strfcube.records import Finding
from strfcube.sound.spectrogram import COMPRESSIONS, FRONT_ENDS, FrontEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from strfcube.progress import Progress
    from strfcube.raw_files import RawFile
    from strfcube.records import Pipeline, Report, Survey


# Of `build`, which a mistyped option may have been meant to be
_ARGUMENTS = ("dt", "raw", "out", "only", "post", "align", "audio", "jobs", "force", "strict", "fetch", "extra",
              "accept_terms", "progress")  # fmt: skip
_DRAWN = 1_600_000_000_000_000_000  # ns since the epoch: the time of all files of simulated birds
SOURCE = "source_digest"  # root attribute of a cube that was made from another


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
        Of the raw files, or the digest of the cube that is read instead.
    current : callable
        Gives the fingerprint as it is now.
    began : int
        When the fingerprint was taken, in ns since the epoch.
    entry : Entry or None
        The catalog's; None for a pipeline of the user's own.
    figures : mapping
        What a complete build must show; empty where a part is built, or with other options of the pipeline.
    attrs : mapping
        Root attributes that replace the computed ones.
    missing : Missing
        Raw files whose content is not there.
    command : str
        What a user enters to go on with an unfinished build.
    """

    pipeline: Pipeline
    recipe: Recipe
    target: str
    fingerprint: str
    current: Callable[[], str]
    began: int
    entry: catalog.Entry | None = None
    figures: Mapping[str, int] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    missing: Missing = field(default_factory=Missing)
    command: str = "the call of strfcube.build that began it"

    def listener(self, report: Report) -> Report:
        """Reports what a pipeline finds, once; not what is wrong with files whose content is not there.

        Those are one finding, which comes first.
        """
        seen: set[Finding] = set()
        if self.missing.files:
            then = f"what they hold is missing from the cube: {self.missing.remedy()}, and build again"
            report(Finding("warning", "", self.missing.what(), then))

        def tell(finding: Finding) -> None:
            finding = finding.below(self.pipeline.raw)
            if finding.file not in self.missing.covered and finding not in seen:
                seen.add(finding)
                report(finding)

        return tell

    def made(self, existing: Mapping[str, Any]) -> bool:
        """Whether a cube with these root attributes was made from what this request reads."""
        origin = {"fingerprint": self.fingerprint, **self.attrs}
        return all(
            existing.get(name, origin[name]) == origin[name] for name in ("fingerprint", SOURCE) if name in origin
        )


log = logging.getLogger("strfcube")


class Standing(Exception):  # noqa: N818 (no error: whoever asked has what was asked for)
    """The cube is there, and none of the raw files that it could be held against.

    Parameters
    ----------
    path : str
        Of the cube.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path
        name = path.rpartition("/")[2]
        log.info("%s is there; its raw files are not in the data folder, so that it is taken as it is", name)


def is_there(folder: Path) -> bool:
    """Whether anything lies in a folder."""
    return folder.is_dir() and any(folder.iterdir())


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
    bring: Callable[[catalog.Entry, str], None] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    command: str = "",
    **flags: Any,
) -> Request:
    """Check the arguments of `build`, and find the raw files. Parameters and errors as there.

    Parameters
    ----------
    bring : callable, optional
        Called once all other arguments are known to be right, for the raw files of a data set that has some to fetch;
        with a message, where a cube that is there makes this one without them.
    force : bool
        Whether another recipe in the cube's place is replaced.
    progress : callable, optional
        Called with stage, done, total.
    command : str
        That was typed, for what is said where raw files are not there.
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
    if not 0 <= post <= 1e3 * limits.SECONDS:
        raise UsageError(f"post={post:g} ms: give 0 or more, {1e3 * limits.SECONDS:g} at most")
    if align not in ("centre", "causal"):
        raise UsageError(f"align={align!r}: give 'centre' or 'causal'")
    default = default_recipe(name, dt_ns)
    recipe = Recipe(
        name, dt_ns, round(post * 1e6), align, _front_end(defaults, chosen), audio, parse_only(only), options
    )
    target = local(out if out is not None else catalog.data_dir() / recipe.store_name(default))
    with writable(target):
        place = place_of(target)
    instead = _instead(recipe) if entry and raw is None and recipe.to_json() == default.to_json() else ""
    if bring and entry and entry.files:
        kind(catalog.raw_dir(name), **options)  # refuses the options that it cannot use
        if see_place(place, recipe, force) and raw is None and not is_there(catalog.raw_dir(name)):
            raise Standing(target)
        bring(entry, instead)
    pipeline = kind(_raw_folder(name, raw, command, instead), **options) if isinstance(dataset, str) else dataset
    if entry:
        pipeline.without = _others(entry, pipeline.raw, recipe.only)
    if progress:
        progress("survey", 0, 0)
    began = time.time_ns()
    files = pipeline.listing((lambda count: progress("survey", count, 0)) if progress else None)
    # Of how many stimuli, neurons and pairs there are, whatever their bins and spectrograms
    everything = (recipe.only, recipe.options) == (default.only, default.options)
    figures = dict(entry.figures) if entry and everything else {}
    current = partial(raw_state, pipeline)
    request = Request(
        pipeline, recipe, target, fingerprint(files), current, began, entry, figures, missing=Missing.of(files)
    )
    return dataclasses.replace(request, command=_command(request, default)) if entry else request


def _instead(recipe: Recipe) -> str:
    """What to do in place of getting raw files that are not there; empty where nothing else leads to the cube."""
    if catalog.raw_dir(recipe.dataset).is_dir() or not (command := rebinning(recipe.dataset, recipe.dt_ns)):
        return ""
    return (
        f"the raw files of {recipe.dataset} are not there, and bins of {recipe.dt_ms:g} ms need none of them: "
        f"{command} makes them of a cube that is there; or give --raw FOLDER, or --yes (fetch=True) to have the files "
        "fetched"
    )


def _command(request: Request, default: Recipe) -> str:
    """The ``strfcube build`` that makes this request, with the flags that are not by default."""
    recipe, given = request.recipe, ["strfcube", "build", request.recipe.dataset, "--dt", _text(request.recipe.dt_ms)]
    if request.entry is None or not request.entry.simulated:
        given += ["--raw", str(request.pipeline.raw)]
    for key, values in recipe.only.items():
        given += ["--only", f"{key}={','.join(values)}"]
    if recipe.post_ns:
        given += ["--post", _text(recipe.post_ns / 1e6)]
    if recipe.align != default.align:
        given += ["--align", recipe.align]
    if not recipe.audio:
        given += ["--no-audio"]
    fields, usual = ({"spec": r.front_end.kind, **dataclasses.asdict(r.front_end)} for r in (recipe, default))
    if fields["spec"] != usual["spec"]:
        usual = dataclasses.asdict(FRONT_ENDS[str(fields["spec"])]())
    options = dict(recipe.options) | {k: v for k, v in fields.items() if v is not None}
    for name, value in options.items():
        if value != (dict(default.options) | usual).get(name):
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                given += [f"--{flag}" if value else f"--no-{flag}"]
            else:
                given += [f"--{flag}", _text(value)]
    return shlex.join([*given, "--out", request.target])


def _text(value: Any) -> str:
    """A number as short as it can be, but whole; anything else as it is."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


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
    stimuli = [{"stim": stimulus.id, **stimulus.meta, **stimulus.stated} for stimulus in survey.stimuli]
    neurons = [{"neuron": neuron.id, **neuron.meta} for neuron in survey.neurons]
    for metas in (stimuli, neurons):
        keys = {key for meta in metas for key in meta}
        known |= keys
        for key in set(only) & keys:
            there = {str(meta.get(key)): meta.get(key) for meta in metas}
            if strange := [text for text in only[key] if not any(among(value, (text,)) for value in there.values())]:
                listed = _some({"" if value is None else text for text, value in there.items()})
                hint = did_you_mean(strange[0], there)
                raise SelectionError(f"--only {key}={','.join(strange)}: nothing has that; {hint}there are {listed}")
        keep.append([all(among(meta.get(k), only[k]) for k in only if k in keys) for meta in metas])
    if strange := sorted(set(only) - known):
        hint = did_you_mean(strange[0], known)
        raise SelectionError(f"--only {', '.join(strange)}: no such coordinate; {hint}there are {_some(known)}")
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
                hint = did_you_mean(value, option.choices)
                raise UsageError(f"{key}={value!r}; {hint}there are {', '.join(option.choices)}")
            try:
                options[key] = option.type(value)
            except (TypeError, ValueError):
                raise UsageError(f"{key}={value!r}: give {option.type.__name__}") from None
        elif key in fields:
            chosen[key] = value
        else:
            known = sorted(declared) + sorted(fields)
            hint = did_you_mean(key, [*known, *_ARGUMENTS])
            raise UsageError(f"'{key}' is no option of {name}; {hint}there are {', '.join(known)}")
    return options, chosen


def _defaults(kind: type[Pipeline]) -> dict[str, Any]:
    return {o.name: o.default for o in kind.options}


def _front_end(defaults: Mapping[str, Any], chosen: Mapping[str, Any]) -> FrontEnd:
    base = dict(defaults["front_end"])
    kind = base.pop("kind")
    fields = dict(chosen)
    asked = fields.pop("spec", kind)
    if asked not in FRONT_ENDS:
        raise UsageError(f"spec={asked!r}; {did_you_mean(asked, FRONT_ENDS)}there are {', '.join(FRONT_ENDS)}")
    if asked == kind:
        fields = base | fields
    made = FRONT_ENDS[asked]
    known = {f.name for f in dataclasses.fields(made)}
    if strange := sorted(set(fields) - known):
        raise UsageError(
            f"{', '.join(strange)}: no parameter of '{asked}'; {did_you_mean(strange[0], known)}there are "
            f"{', '.join(sorted(known)) or 'none'}"
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
        hint = did_you_mean(compression, COMPRESSIONS)
        raise UsageError(f"compression={compression!r}; {hint}there are {', '.join(COMPRESSIONS)}")
    return front_end


def _raw_folder(name: str, raw: str | os.PathLike[str] | None, command: str = "", instead: str = "") -> Path:
    if raw is not None:
        folder = Path(raw).expanduser()
        if not folder.is_dir():
            what = "is a file; an archive must be unpacked first" if folder.is_file() else "does not exist"
            raise UsageError(f"raw folder {folder} {what}: give the folder that holds the raw files")
        return folder.resolve()
    entry, folder = catalog.entry(name), catalog.raw_dir(name)
    if entry.simulated:
        _simulate(folder)
    if not folder.is_dir():
        raise UsageError(instead or catalog.how_to_get(entry, folder, command=command))
    return folder.resolve()


def _others(entry: catalog.Entry, raw: Path, only: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Names in a raw folder that hold nothing of a choice, as the catalog says; none where nothing of it is there."""
    wanted: set[str] = set()
    others: set[str] = set()
    for file in entry.files:
        apart = any(file.only[key] not in only[key] for key in file.only if key in only)
        (others if apart else wanted).update(name for name in (file.name, file.unpack) if name)
    return frozenset(others - wanted if any((raw / name).exists() for name in wanted) else ())


def _simulate(folder: Path) -> None:
    """Write the simulated birds, unless they are there; aside, and whole or not at all."""
    from strfcube.simulate import write_demo

    if folder.is_dir():
        return
    work = work_folder(str(folder))
    elsewhere = "name another data folder in STRFCUBE_DATA_DIR, where the simulated recordings are kept"
    with writable(str(folder), elsewhere), locked(work):
        if not folder.is_dir():  # nobody else wrote them while this one waited
            clear(work)
            write_demo(work / "raw")
            for file in (work / "raw").rglob("*"):  # what one machine began, another goes on with
                os.utime(file, ns=(_DRAWN, _DRAWN))
            sync(work / "raw")
            os.rename(work / "raw", folder)
        discard(work)


def _some(values: set[str], most: int = 20) -> str:
    listed = sorted(values, key=_numbers_first)
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _numbers_first(text: str) -> tuple[float, str]:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return math.inf if math.isnan(number) else number, text


def raw_state(pipeline: Pipeline) -> str:
    """Fingerprint of a pipeline's raw files as they are now."""
    return fingerprint(pipeline.listing())


def fingerprint(files: Sequence[RawFile]) -> str:
    """Names, sizes and times of the raw files: whether a cube is up to date, without reading them."""
    h = hashlib.sha256()
    for file in files:
        h.update(os.fsencode(f"{file.name} {file.size} {file.time_ns}\n"))
    return h.hexdigest()
