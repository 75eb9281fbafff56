"""The build: from a pipeline's records to a published cube, parallel and resumable.

Two stages, because what a store looks like is known only after parsing: *ingest* parses each source once into a spool,
*write* turns the spools into whole shards. Both keep a ledger in ``<store>.building``; killed at any point, the same
command resumes there and ends with the same digest. The finished store is renamed into place.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.builder import finalise, ingest, plan, spool, tasks, write
from strfcube.builder.plan import stimulus_layout, trial_layouts
from strfcube.builder.request import Request, chosen, prepare, survey_of
from strfcube.builder.workplace import (
    discard,
    half_written,
    locked,
    publish,
    resume_or_restart,
    save,
    slug,
    store_of,
    work_folder,
    writable,
)
from strfcube.cube.schema import meta_problem
from strfcube.cube.shard_writer import create
from strfcube.cube.store import existing_cube, no_consolidation_warning
from strfcube.errors import RawDataError, StoreError, StrfcubeError, UsageError
from strfcube.grid import n_bins
from strfcube.records import Finding, Pipeline, Survey
from strfcube.sound.spectrogram import FrontEnd, Published, resolve

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from strfcube import catalog
    from strfcube.builder.recipe import Recipe
    from strfcube.grid import Align
    from strfcube.sound.kernels import Kernel


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
    fetch: bool | None = None,
    extra: Sequence[str] = (),
    accept_terms: bool = False,
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
        Raw folder; default ``$STRFCUBE_DATA_DIR/raw/<dataset>``. A pipeline of your own has its own.
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
    fetch : bool, optional
        Fetch the raw files that are not there (`strfcube.fetch`); False builds from what is there, and by default an
        error names what is not. A raw folder that strfcube did not fetch is the user's own: it is taken as it is.
    extra : sequence of str
        Files to fetch that a default build does without (``["wav"]`` of NAT4).
    accept_terms : bool
        Accept the terms of the data set that is fetched.
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
    FetchError
        If raw files cannot be fetched.
    StrfcubeError
        If a pipeline fails, or at the first warning of a strict build.
    """

    def bring(entry: catalog.Entry) -> None:
        from strfcube.fetching import terms
        from strfcube.fetching.fetch import Visit, carry_out, lacking, refusal

        plan = lacking(entry, raw, only, extra, fetch)
        if plan and plan.to_fetch and not fetch:
            raise refusal(plan)
        if accept_terms:
            terms.remember(entry)
        if plan:
            carry_out(plan, Visit.begin(), progress=progress)

    request = prepare(
        dataset, dt=dt, raw=raw, out=out, only=only, post=post, align=align, audio=audio, bring=bring, **flags
    )
    return run(request, jobs=jobs, force=force, strict=strict, progress=progress)


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
    work = work_folder(target)
    if _up_to_date(request, work, force) and not work.exists():
        return target
    with writable(target), locked(work):
        try:
            if _up_to_date(request, work, force):  # another build finished it while this one waited
                discard(work)
                return target
            resume_or_restart(work, target, request.recipe, request.fingerprint)
            with tasks.workers(tasks.default_jobs() if jobs is None else jobs) as pool:
                built = _build(request, work, pool, strict, progress)
                if pool is not None:
                    pool.shutdown(wait=False)  # they end while the rest is written
                finalise.finalise(built, request)
        except BaseException as error:
            # Nothing that a resumed build could use, or the same command would end here again.
            final = isinstance(error, StrfcubeError) and not isinstance(error, tasks.LostWorkerError)
            if final or not any((work / "spool").glob("*")):
                discard(work)
            raise
        publish(built.store, target, work)
    return target


def _up_to_date(request: Request, work: Path, force: bool) -> bool:
    """Whether the cube is there already, and may stay.

    Raises
    ------
    StoreError
        If something else is in its place: another cube, or, even where the build is forced, what is no cube.
    """
    target = request.target
    if half_written(target, work):
        return False
    existing = existing_cube(target)
    if existing is None or force:
        return False
    if existing.get("recipe") != request.recipe.to_json():
        raise StoreError(f"{target} holds another recipe: give another --out, or --force to replace it")
    if existing.get("fingerprint") != request.fingerprint:
        raise StoreError(f"{target} was built from other raw files, or they changed since: --force builds it again")
    return True


def _build(request: Request, work: Path, pool: Any, strict: bool, progress: tasks.Progress | None) -> finalise.Built:
    pipeline, recipe, target = request.pipeline, request.recipe, request.target
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        if strict and finding.severity != "info":
            raise ingest.refuse(finding)
        findings.append(finding)

    survey = survey_of(pipeline, report)
    _check_survey(survey)
    keep_stim, keep_neuron = chosen(survey, recipe.only)
    bins = np.array([n_bins(s.length, recipe.dt_ns, recipe.post_ns) for s in survey.stimuli], np.int64)
    context = ingest.Context(
        pipeline,
        {s.id: i if keep_stim[i] else -1 for i, s in enumerate(survey.stimuli)},
        {n.id: i if keep_neuron[i] else -1 for i, n in enumerate(survey.neurons)},
        bins, tuple(str(n.meta["units"]) for n in survey.neurons), recipe.dt_ns, strict,
    )  # fmt: skip
    front_end, kernels, frequencies, spec_attrs = _front_end(recipe, survey)
    context_path = save(work / "context.pkl", context)
    wanted = {n.source for n, keep in zip(survey.neurons, keep_neuron, strict=True) if keep}
    sources = [s for s in survey.sources if s.id in wanted]
    spools = [str(work / "spool" / f"{slug(s.id)}.spool") for s in sources]
    parse = [tasks.Task(slug(s.id), ingest.ingest, (context_path, s, p)) for s, p in zip(sources, spools, strict=True)]
    tasks.run("ingest", parse, pool, work / "ingest", progress)
    summaries = [spool.summary(p) for p in spools]
    _check_sources(survey, summaries)
    for s in summaries:
        findings += s.findings
    made, unheard, unplayed = plan.make_plan(summaries, spools, bins, len(survey.neurons))
    if not len(made.stims):
        raise StrfcubeError(f"no trial was read from {pipeline.raw}: " + _first(findings))
    _report_left_out(survey, [i for i in unheard if keep_stim[i]], [i for i in unplayed if keep_neuron[i]], report)

    store = store_of(target, work)
    stimuli = tuple(survey.stimuli[i] for i in made.stims)
    attrs = dict(made.response.attrs) | finalise.response_attrs(made, survey)
    made = dataclasses.replace(made, response=dataclasses.replace(made.response, attrs=attrs))
    stimulus = stimulus_layout(len(stimuli), len(frequencies), made.response.shape[3], spec_attrs)
    rows, times = trial_layouts(made)
    job = write.Job(store, made, stimulus, rows, times, stimuli, front_end, kernels, recipe.align, recipe.dt_ns,
                    survey.ready_made, pipeline.raw)  # fmt: skip
    job_path = save(work / "job.pkl", job)
    with no_consolidation_warning():
        for layout in (made.response, stimulus, *rows.values(), times):
            create(store, layout)
    todo = _write_tasks(job, job_path, recipe.audio)
    results = tasks.run("write", todo, pool, work / "write", progress)
    written = [results[t.name] for t in todo]
    for w in written:
        findings += w.findings
    return finalise.Built(store, survey, made, job, tuple(written), tuple(findings), frequencies)


def _write_tasks(job: write.Job, path: str, audio: bool) -> list[tasks.Task]:
    """What stage two has to do, the longest tasks first."""
    rows, times = job.trials["kept"], job.spike_time
    todo = [tasks.Task(f"response-{b}", write.write_response, (path, b)) for b in range(job.plan.response.grid[1])]
    todo += [tasks.Task(f"stimulus-{b}", write.write_stimuli, (path, b)) for b in range(job.stimulus.grid[0])]
    if audio and any(s.audio for s in job.stimuli):
        todo.append(tasks.Task("audio", write.write_audio, (path,)))
    todo += [tasks.Task(f"rows-{b}", write.write_trial_rows, (path, b)) for b in range(rows.grid[0])]
    todo += [tasks.Task(f"spikes-{b}", write.write_spike_times, (path, b)) for b in range(times.grid[0])]
    return todo


def _front_end(
    recipe: Recipe, survey: Survey
) -> tuple[FrontEnd, dict[float, Kernel], np.ndarray[Any, Any], dict[str, Any]]:
    """The resolved front end, its kernel for each sampling rate, its frequencies, and the spectrogram's attributes.

    They are those of the whole data set, not of the part that is built, so that parts fit together.
    """
    front_end = recipe.front_end
    attrs = {"long_name": "spectrogram", "front_end": front_end.kind}
    if isinstance(front_end, Published):
        if survey.ready_made is None:
            raise UsageError(f"{recipe.dataset} publishes no spectrogram: choose --spec mel or cochleagram")
        step_ns = round(survey.ready_made.dt * 1e9)
        if recipe.dt_ns % step_ns:
            raise UsageError(
                f"dt={recipe.dt_ms:g} ms: the published spectrogram has frames of {step_ns / 1e6:g} ms and goes to "
                f"whole multiples of that; for another dt compute one from the waveforms (--spec mel)"
                + ("" if any(s.audio for s in survey.stimuli) else ", which the raw folder does not have")
            )
        return front_end, {}, np.asarray(survey.ready_made.frequencies), attrs | {"units": survey.ready_made.units}
    rates = _rates(survey)
    if not rates and survey.ready_made is not None:
        raise UsageError(f"--spec {front_end.kind} needs the waveforms, and the raw folder has none")
    if not rates:
        rates = {2 * (front_end.f_max or 16000.0)}  # no sound at all: the axis is all that is left
    lowest = min(rates) if math.isnan(survey.lowest_rate) else survey.lowest_rate
    resolved = resolve(front_end, lowest)
    kernels = {rate: resolved.kernel(rate, recipe.dt_ns) for rate in rates}
    return resolved, kernels, resolved.frequencies(), attrs | {"units": resolved.units, "lowest_rate": lowest}


def _rates(survey: Survey) -> set[float]:
    """Sampling rates of the waveforms, read from those whose rate the survey does not state."""
    rates = {s.rate for s in survey.stimuli if s.audio and not math.isnan(s.rate)}
    for stimulus in survey.stimuli:
        if stimulus.audio and math.isnan(stimulus.rate):
            with suppress(RawDataError):  # reported where its spectrogram is made
                rates.add(stimulus.audio().rate)
    return rates


def _check_survey(survey: Survey) -> None:
    for kind, ids in (("stimulus", [s.id for s in survey.stimuli]), ("neuron", [n.id for n in survey.neurons])):
        if len(set(ids)) < len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})[:3]
            raise StrfcubeError(f"the pipeline lists a {kind} twice: {', '.join(twice)}")
    sources = {s.id for s in survey.sources}
    for neuron in survey.neurons:
        if neuron.source not in sources:
            raise StrfcubeError(f"neuron '{neuron.id}': the pipeline lists no source '{neuron.source}'")
    for kind, items in (("stimulus", survey.stimuli), ("neuron", survey.neurons)):
        for item in items:
            if problem := meta_problem(kind, item.meta):
                raise StrfcubeError(f"{kind} '{item.id}': {problem}")


def _check_sources(survey: Survey, summaries: Sequence[spool.Summary]) -> None:
    seen: set[int] = set()
    for s in summaries:
        mine = set(s.neurons[:, 0].tolist())
        if twice := sorted(seen & mine):
            raise StrfcubeError(f"neuron '{survey.neurons[twice[0]].id}' has trials in two sources")
        seen |= mine


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
    return "; ".join(f"{f.place}: {f.what}" for f in serious[:3])
