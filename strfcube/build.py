"""The build: from a pipeline's records to a published cube, parallel and resumable.

Two stages, because what a store looks like is known only after parsing: *ingest* parses each source once into a spool,
*write* turns the spools into whole shards. Both keep a ledger in ``<store>.building``; killed at any point, the same
command resumes there and ends with the same digest. The finished store is renamed into place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strfcube import catalog, finalise, plan, spool, tasks, write
from strfcube.errors import SelectionError, StoreError, StrfcubeError, UsageError
from strfcube.grid import Align, dt_to_ns, n_bins
from strfcube.plan import stimulus_layout, trial_layouts
from strfcube.recipe import Recipe, parse_only
from strfcube.records import Finding, Pipeline, Stimulus, Survey
from strfcube.shards import create
from strfcube.spectrogram import FRONT_ENDS, FrontEnd, Mel, Published, resolve
from strfcube.store import existing_cube, no_consolidation_warning


def build(
    dataset: str | Pipeline,
    *,
    dt: float | None = None,
    raw: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    only: Mapping[str, Any] | None = None,
    post: float = 0.0,
    align: Align = "centre",
    audio: bool = True,
    jobs: int | None = None,
    force: bool = False,
    strict: bool = False,
    progress: tasks.Progress | None = None,
    **flags: Any,
) -> str:
    """Build a cube from raw files; a cube that is up to date is left alone.

    Parameters
    ----------
    dataset : str or Pipeline
        Name in the catalog, or a pipeline of your own.
    dt : float, optional
        Bin width in ms; default is the catalog's.
    raw : path, optional
        Raw folder; default ``$STRFCUBE_DATA_DIR/raw/<dataset>``.
    out : path, optional
        The store; default ``$STRFCUBE_DATA_DIR/<dataset>-dt<dt>.zarr``, with a hash for any but the default recipe.
    only : mapping, optional
        Coordinate of stimuli or neurons to the value or values to build: ``{"area": "MLd"}``.
    post : float
        Time to keep after the end of each stimulus, in ms.
    align : {"centre", "causal"}
        Spectrogram window around the bin's centre, or ending with the bin.
    audio : bool
        Whether to keep the waveforms.
    jobs : int, optional
        Worker processes; default is the number of processors.
    force : bool
        Build again, and replace a cube of another recipe.
    strict : bool
        Stop at the first warning that the pipeline reports.
    progress : callable, optional
        Called with stage, done, total.
    **flags
        ``spec`` (mel, cochleagram, dft, published) and the fields of that front end (``bands``, ``f_min``, ``f_max``,
        ``window_ms``, ``compression``, ...); the pipeline's own options.

    Returns
    -------
    str
        Path of the cube.

    Raises
    ------
    UsageError
        If an argument or the recipe cannot be used.
    RawDataError
        If the raw folder is not the data set.
    StoreError
        If the store cannot be written, or something else is in its place.
    StrfcubeError
        If a pipeline fails, or at the first warning of a strict build.
    """
    request = prepare(
        dataset, dt=dt, raw=raw, out=out, only=only, post=post, align=align, audio=audio, **flags
    )
    return run(request, jobs=jobs, force=force, strict=strict, progress=progress)


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
    **flags: Any,
) -> Request:
    """Check the arguments of `build`, and find the raw files. Parameters and errors as there."""
    name = dataset if isinstance(dataset, str) else type(dataset).__name__.lower()
    entry = catalog.entry(name) if isinstance(dataset, str) else None
    kind = catalog.pipeline_class(name) if isinstance(dataset, str) else type(dataset)
    defaults = dict(entry.recipe) if entry else {"dt": 5, "front_end": {"kind": "mel"}}
    dt_ns = dt_to_ns(defaults["dt"] if dt is None else dt)
    options, chosen = _split_flags(name, kind, dict(flags))
    if not isinstance(dataset, str):
        options = dataset.settings | options
    if post < 0:
        raise UsageError(f"post={post:g} ms: give 0 or more")
    if align not in ("centre", "causal"):
        raise UsageError(f"align={align!r}: give 'centre' or 'causal'")
    default = default_recipe(name, dt_ns)
    recipe = Recipe(name, dt_ns, round(post * 1e6), align, _front_end(defaults, chosen), audio, parse_only(only), options)
    target = str(out) if out is not None else str(catalog.data_dir() / recipe.store_name(default))
    pipeline = kind(_raw_folder(entry, raw), **options) if isinstance(dataset, str) else dataset
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
    survey = request.pipeline.survey(findings.append)
    keep_stim, keep_neuron = _chosen(survey, request.recipe.only)
    sources = {n.source for n, keep in zip(survey.neurons, keep_neuron, strict=True) if keep}
    return {"stimuli": sum(keep_stim), "neurons": sum(keep_neuron), "sources": len(sources), "findings": len(findings)}


def default_recipe(name: str, dt_ns: int) -> Recipe:
    """The complete default recipe of a data set at a bin width."""
    if name not in catalog.entries():
        return Recipe(name, dt_ns)
    front_end = _front_end(catalog.entry(name).recipe, {})
    return Recipe(name, dt_ns, front_end=front_end, options=_defaults(catalog.pipeline_class(name)))


def run(
    request: Request,
    *,
    jobs: int | None = None,
    force: bool = False,
    strict: bool = False,
    progress: tasks.Progress | None = None,
) -> str:
    """Build what was requested; `build` and `rebin` end here. Parameters, result and errors as there."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs={jobs}: give 1 or more")
    target = request.target
    if not force and _up_to_date(request):
        return target
    work = work_folder(target)
    with _writable(target), _locked(work):
        if not force and _up_to_date(request):
            shutil.rmtree(work)  # another build finished it while this one waited
            return target
        existing_cube(target)  # never replaces what is no cube, not even by force
        _resume_or_restart(work, request)
        try:
            with tasks.workers(tasks.default_jobs() if jobs is None else jobs) as pool:
                built = _build(request, work, pool, strict, progress)
            finalise.finalise(built, request.recipe, request.entry, request.figures, request.fingerprint, request.attrs)
        except BaseException:
            if not any((work / "spool").iterdir()):
                shutil.rmtree(work)  # nothing that a resumed build could use
            raise
        _publish(built.store, target, work)
    return target


def _up_to_date(request: Request) -> bool:
    """Whether the cube is there already.

    Raises
    ------
    StoreError
        If something else is in its place.
    """
    target = request.target
    existing = existing_cube(target)
    if existing is None:
        return False
    if existing.get("recipe") != request.recipe.to_json():
        raise StoreError(f"{target} holds another recipe: give another --out, or --force to replace it")
    if existing.get("fingerprint") != request.fingerprint:
        raise StoreError(f"{target} was built from other raw files, or they changed since: --force builds it again")
    return True


def _build(
    request: Request, work: Path, pool: Any, strict: bool, progress: tasks.Progress | None
) -> finalise.Built:
    pipeline, recipe, target = request.pipeline, request.recipe, request.target
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        if strict and finding.severity != "info":
            raise spool.StrictFinding(f"{finding.file}: {finding.what} ({finding.consequence})")
        findings.append(finding)

    survey = pipeline.survey(report)
    _check_survey(survey)
    keep_stim, keep_neuron = _chosen(survey, recipe.only)
    bins = np.array([n_bins(s.length, recipe.dt_ns, recipe.post_ns) for s in survey.stimuli], np.int64)
    context = spool.Context(
        pipeline,
        {s.id: i if keep_stim[i] else -1 for i, s in enumerate(survey.stimuli)},
        {n.id: i if keep_neuron[i] else -1 for i, n in enumerate(survey.neurons)},
        bins, tuple(str(n.meta["units"]) for n in survey.neurons), recipe.dt_ns, strict,
    )  # fmt: skip
    context_path = _pickle(work / "context.pkl", context)
    wanted = {n.source for n, keep in zip(survey.neurons, keep_neuron, strict=True) if keep}
    sources = [s for s in survey.sources if s.id in wanted]
    spools = [str(work / "spool" / f"{_slug(s.id)}.npz") for s in sources]
    ingest = [tasks.Task(_slug(s.id), spool.ingest, (context_path, s, p)) for s, p in zip(sources, spools, strict=True)]
    tasks.run("ingest", ingest, pool, work / "ingest", progress)
    summaries = [spool.summary(p) for p in spools]
    for s in summaries:
        findings += s.findings
    made, unheard, unplayed = plan.make_plan(summaries, spools, bins, len(survey.neurons))
    if not len(made.stims):
        raise StrfcubeError(f"no trial was read from {pipeline.raw}: " + _first(findings))
    _report_left_out(survey, [i for i in unheard if keep_stim[i]], [i for i in unplayed if keep_neuron[i]], report)

    store = target if "://" in target else str(work / "store.zarr")
    stimuli = tuple(survey.stimuli[i] for i in made.stims)
    front_end, frequencies, units = _frequency_axis(recipe, survey, stimuli)
    made = dataclasses.replace(
        made, response=dataclasses.replace(made.response, attrs=dict(made.response.attrs) | finalise.response_attrs(made, survey))
    )
    spec_attrs = {"long_name": "spectrogram", "units": units, "front_end": recipe.front_end.kind}
    stimulus = stimulus_layout(len(stimuli), len(frequencies), made.response.shape[3], spec_attrs)
    rows, times = trial_layouts(made)
    job = write.Job(store, made, stimulus, rows, times, stimuli, front_end, recipe.align, recipe.dt_ns,
                    survey.ready_made, pipeline.raw)  # fmt: skip
    job_path = _pickle(work / "job.pkl", job)
    with no_consolidation_warning():
        for layout in (made.response, stimulus, *rows.values(), times):
            create(store, layout)
    todo = [tasks.Task(f"response-{b}", write.write_response, (job_path, b)) for b in range(made.response.grid[1])]
    todo += [tasks.Task(f"stimulus-{b}", write.write_stimuli, (job_path, b)) for b in range(stimulus.grid[0])]
    if recipe.audio and any(s.audio for s in stimuli):
        todo.append(tasks.Task("audio", write.write_audio, (job_path,)))
    todo += [tasks.Task(f"rows-{b}", write.write_trial_rows, (job_path, b)) for b in range(rows["kept"].grid[0])]
    todo += [tasks.Task(f"spikes-{b}", write.write_spike_times, (job_path, b)) for b in range(times.grid[0])]
    results = tasks.run("write", todo, pool, work / "write", progress)
    written = [results[t.name] for t in todo]
    for w in written:
        findings += w.findings
    return finalise.Built(store, survey, made, job, tuple(written), tuple(findings), frequencies)


def _frequency_axis(
    recipe: Recipe, survey: Survey, stimuli: Sequence[Stimulus]
) -> tuple[FrontEnd, np.ndarray[Any, Any], str]:
    front_end = recipe.front_end
    if isinstance(front_end, Published):
        if survey.ready_made is None:
            raise UsageError(f"{recipe.dataset} publishes no spectrogram: choose --spec mel or cochleagram")
        step_ns = round(survey.ready_made.dt * 1e9)
        if recipe.dt_ns % step_ns:
            raise UsageError(
                f"dt={recipe.dt_ms:g} ms: the published spectrogram has frames of {step_ns / 1e6:g} ms and goes to "
                f"whole multiples of that; for another dt compute one from the waveforms (--spec mel)"
            )
        return front_end, np.asarray(survey.ready_made.frequencies), survey.ready_made.units
    with_audio = [s for s in stimuli if s.audio is not None]
    rates = [s.length.rate if s.length.samples else s.meta.get("sample_rate") for s in with_audio]
    known = [float(r) for r in rates if r is not None and r == r]
    if not with_audio and survey.ready_made is not None:
        raise UsageError(f"--spec {front_end.kind} needs the waveforms, and the raw folder has none")
    if with_audio and len(known) < len(with_audio):
        known += [s.audio().rate for s, r in zip(with_audio, rates, strict=True) if s.audio and (r is None or r != r)]
    if not known:
        top = getattr(front_end, "f_max", None) or 16000.0  # no sound at all: the axis is all that is left
        known = [2 * top]
    resolved = resolve(front_end, min(known))
    return resolved, resolved.frequencies(), resolved.units


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
        raise UsageError(f"{', '.join(strange)}: no parameter of '{asked}', which has {', '.join(sorted(known)) or 'none'}")
    front_end = made(**fields)
    for field in ("bands", "window_ms", "per_octave"):
        value = getattr(front_end, field, None)
        if value is not None and not value > 0:
            raise UsageError(f"{field}={value!r}: give a positive number")
    if isinstance(front_end, Mel) and front_end.compression not in ("cubic", "log", "db", "none"):
        raise UsageError(f"compression={front_end.compression!r}: give cubic, log, db or none")
    return front_end


def _raw_folder(entry: catalog.Entry | None, raw: str | os.PathLike[str] | None) -> Path:
    if raw is not None:
        folder = Path(raw).expanduser()
        if not folder.is_dir():
            raise UsageError(f"raw folder {folder} does not exist: give the folder that holds the raw files")
        return folder.resolve()
    if entry is None:
        raise UsageError("give the raw folder")
    folder = catalog.raw_dir(entry.name)
    if entry.simulated:
        from strfcube.simulate import write_demo

        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            with _writable(str(folder)):
                write_demo(partial)
                partial.rename(folder)
    if not folder.is_dir():
        raise UsageError(catalog.how_to_get(entry, folder))
    return folder.resolve()


def _check_survey(survey: Survey) -> None:
    for kind, ids in (("stimulus", [s.id for s in survey.stimuli]), ("neuron", [n.id for n in survey.neurons])):
        if len(set(ids)) < len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})[:3]
            raise StrfcubeError(f"the pipeline lists a {kind} twice: {', '.join(twice)}")


def _chosen(survey: Survey, only: Mapping[str, tuple[str, ...]]) -> tuple[list[bool], list[bool]]:
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


def _some(values: set[str], most: int = 20) -> str:
    listed = sorted(values)
    more = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _report_left_out(
    survey: Survey, unheard: list[int], unplayed: list[int], report: Callable[[Finding], None]
) -> None:
    for i in unheard:
        what = f"stimulus {survey.stimuli[i].id} has no trial of any chosen neuron"
        report(Finding("info", "", what, "it is left out of the cube"))
    for i in unplayed:
        what = f"neuron {survey.neurons[i].id} has no trial of any chosen stimulus"
        report(Finding("info", "", what, "it is left out of the cube"))


def _first(findings: Sequence[Finding]) -> str:
    serious = [f for f in findings if f.severity != "info"] or list(findings)
    if not serious:
        return "the pipeline found no trials and reported nothing"
    return "; ".join(f"{f.file}: {f.what}" for f in serious[:3])


def fingerprint(raw: Path) -> str:
    """Names, sizes and times of all raw files: whether a cube is up to date, without reading them."""
    h = hashlib.sha256()

    def walk(folder: str, prefix: str) -> None:
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda f: f.name):
                if item.is_dir():
                    walk(item.path, f"{prefix}{item.name}/")
                else:
                    stat = item.stat()
                    h.update(f"{prefix}{item.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())

    if raw.is_dir():
        walk(str(raw), "")
    return h.hexdigest()


def work_folder(target: str) -> Path:
    """Where an unfinished build lies: beside a local store, else in the data folder."""
    if "://" in target:
        return catalog.data_dir() / "building" / hashlib.sha256(target.encode()).hexdigest()[:16]
    path = Path(target)
    return path.with_name(f"{path.name}.building")


def _resume_or_restart(work: Path, request: Request) -> None:
    from strfcube import __version__

    stamp = json.dumps([__version__, request.recipe.to_json(), request.fingerprint])
    marker = work / "recipe.json"
    if not marker.exists() or marker.read_text() != stamp:
        for name in ("spool", "ingest", "write", "store.zarr"):
            shutil.rmtree(work / name, ignore_errors=True)
    for name in ("spool", "ingest", "write"):
        (work / name).mkdir(parents=True, exist_ok=True)
    marker.write_text(stamp)


@contextmanager
def _writable(target: str) -> Iterator[None]:
    """Say what could not be written, and what to do, for anything the file system refuses."""
    try:
        yield
    except OSError as error:
        place = error.filename or target
        raise StoreError(
            f"cannot write {place}: {error.strerror or error}; make it writable, free space, or give another --out"
        ) from error


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """One build of a store at a time; the second waits. The lock goes with its process, however that ends."""
    from filelock import FileLock, Timeout

    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        import sys

        print(f"strfcube: another build is writing {work}; waiting for it", file=sys.stderr)
        lock.acquire()
        work.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        lock.release()


def _publish(store: str, target: str, work: Path) -> None:
    """Put the finished local store into place, and clear the work folder."""
    if "://" not in target:
        old = work / "replaced"
        if Path(target).exists():
            os.rename(target, old)
        os.rename(store, target)
    shutil.rmtree(work, ignore_errors=True)


def _pickle(path: Path, value: Any) -> str:
    from cloudpickle import dumps

    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(dumps(value))
    os.replace(partial, path)
    return str(path)


def _slug(name: str) -> str:
    """A file name for any source id."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
