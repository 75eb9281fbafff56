"""The two stages of a build: sources to spools, a plan, spools to shards.

*Ingest* parses each source once, *write* turns the spools into whole shards; what a store looks like is known only
between them. Both keep a ledger: what it names is done.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.builder import copies, finalise, ingest, parts, plan, spool, tasks, write
from strfcube.builder.checks import bins_of, checked, one_source_each, refuse_many, sound_of, usual_rate
from strfcube.builder.ledger import Ledger
from strfcube.builder.listing import survey_of
from strfcube.builder.plan import stimulus_layout, trial_layouts
from strfcube.builder.request import Request, chosen
from strfcube.builder.workplace import in_turn, slug, stamp
from strfcube.cube.shard_writer import create
from strfcube.cube.store import no_consolidation_warning
from strfcube.errors import RawDataError, StrfcubeError, UsageError
from strfcube.records import Finding, Survey, counted
from strfcube.sound.audio import odd_waves
from strfcube.sound.spectrogram import FrontEnd, Published, holds, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from strfcube.builder.places import Place
    from strfcube.builder.recipe import Recipe
    from strfcube.builder.worker import Workers
    from strfcube.progress import Progress
    from strfcube.sound.kernels import Kernel

log = logging.getLogger("strfcube")


def build_store(
    request: Request,
    at: Place,
    pool: Workers | None,
    strict: bool,
    progress: Progress | None,
    part: parts.Part | None = None,
    finish: bool = False,
) -> finalise.Built | None:
    """Both stages; of a part its share of the one that is due, and None."""
    pipeline, recipe, work = request.pipeline, request.recipe, at.work
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        if strict and finding.severity != "info":
            raise ingest.refuse(finding)
        findings.append(finding)

    tell = request.listener(report)
    survey = survey_of(request, pool, work, tell)
    survey = checked(survey, tell)
    keep_stim, keep_neuron = chosen(survey, recipe.only)
    bins = np.array([bins_of(s, recipe.dt_ns, recipe.post_ns) for s in survey.stimuli], np.int64)
    context = ingest.Context(
        pipeline,
        {s.id: i if keep_stim[i] else -1 for i, s in enumerate(survey.stimuli)},
        {n.id: i if keep_neuron[i] else -1 for i, n in enumerate(survey.neurons)},
        bins, tuple(str(n.meta["units"]) for n in survey.neurons), recipe.dt_ns, request.began, strict,
    )  # fmt: skip
    with odd_waves(tell, pipeline.raw):
        front_end, kernels, frequencies, spec_attrs = _front_end(recipe, survey, tell)
    cells = Counter(n.source for n, keep in zip(survey.neurons, keep_neuron, strict=True) if keep)
    sources = [s for s in survey.sources if s.id in cells]
    spools = [str(work / "spool" / f"{slug(s.id)}.spool") for s in sources]
    parse = [
        tasks.Task(slug(s.id), ingest.ingest, (s, p), partial(ingest.without, context, s, p), cells[s.id])
        for s, p in zip(sources, spools, strict=True)
    ]
    ingested = Ledger(work / "ingest", str(work / "spool"))
    if finish:
        parts.see_complete(request, parse, ingested.names(), work)
    names = {t.name for t in parse}
    reading = part is not None and not names <= ingested.names()
    tasks.run("ingest", part.of(parse) if part and reading else parse, context, pool, ingested, progress)
    if part and reading:
        left = len(names - ingested.names())
        what = f"{left} of {len(parse)} sources are left to the others" if left else "all sources are read"
        log.info("part %s has read its share; %s", part, what)
        return None
    summaries = [spool.summary(p) for p in spools]
    one_source_each(survey, summaries)
    for s in summaries:
        for finding in s.findings:
            tell(finding)
    for finding in copies.between(summaries, [n.id for n in survey.neurons]):
        tell(finding)
    if recipe.post_ns:
        _report_windows(recipe, summaries, tell)
    made, unheard, unplayed = plan.make_plan(summaries, spools, bins, len(survey.neurons))
    del summaries
    if not len(made.stims) and request.missing.files:
        raise RawDataError(f"{request.missing.what()}: {request.missing.remedy()}", pipeline.raw)
    if not len(made.stims):
        raise StrfcubeError(f"no trial was read from {pipeline.raw}: " + _first(findings))
    refuse_many(made.response.shape[3], recipe.dt_ns, "a stimulus of unknown length that covers its last spike")
    unheard, unplayed = [i for i in unheard if keep_stim[i]], [i for i in unplayed if keep_neuron[i]]
    _report_left_out(survey, unheard, unplayed, report, together=bool(request.missing.files))

    stimuli = tuple(survey.stimuli[i] for i in made.stims)
    attrs = dict(made.response.attrs) | finalise.response_attrs(made, survey)
    made = dataclasses.replace(made, response=dataclasses.replace(made.response, attrs=attrs))
    stimulus = stimulus_layout(len(stimuli), len(frequencies), made.response.shape[3], spec_attrs)
    rows, times = trial_layouts(int(made.row_start[-1]), int(made.spike_start[-1]), made.tests)
    job = write.Job(at.shards, made.without_coverage(), stimulus, rows, times, stimuli, front_end, kernels,
                    recipe.align, recipe.dt_ns, survey.ready_made, pipeline.raw)  # fmt: skip
    draft = str(at.draft)
    with no_consolidation_warning(), in_turn(work):
        at.begin(stamp(recipe, request.fingerprint), request.command, fresh=part is None)
        for layout in (made.response, stimulus, *rows.values(), times):
            create(draft, layout)
    todo = _write_tasks(job, recipe.audio)
    with at.record() as record:
        results = tasks.run("write", part.of(todo) if part else todo, job, pool, record, progress)
    if part:
        log.info("part %s has written its share", part)
        return None
    written = [write.Written.of(results[t.name]) for t in todo]
    with no_consolidation_warning():
        for layout in (w.samples for w in written if w.samples is not None):
            create(draft, layout)
    for w in written:
        for finding in w.findings:
            tell(finding)
    return finalise.Built(draft, survey, made, job, tuple(written), tuple(findings), frequencies)


def _write_tasks(job: write.Job, audio: bool) -> list[tasks.Task]:
    """What stage two has to do, the longest tasks first."""
    rows, times = job.trials["kept"], job.spike_time
    todo = [tasks.Task(f"response-{b}", write.write_response, (b,)) for b in range(job.plan.response.grid[1])]
    todo += [tasks.Task(f"stimulus-{b}", write.write_stimuli, (b,)) for b in range(job.stimulus.grid[0])]
    if audio and any(s.audio for s in job.stimuli):
        todo.append(tasks.Task("audio", write.write_audio, ()))
    todo += [tasks.Task(f"rows-{b}", write.write_trial_rows, (b,)) for b in range(rows.grid[0])]
    todo += [tasks.Task(f"spikes-{b}", write.write_spike_times, (b,)) for b in range(times.grid[0])]
    return todo


def _front_end(
    recipe: Recipe, survey: Survey, report: Callable[[Finding], None]
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
    rates, unread = _rates(survey)
    if unread is not None and not rates and survey.ready_made is not None:
        raise RawDataError(f"--spec {front_end.kind} needs the waveforms, and none can be read: {unread.message}",
                           unread.file)  # fmt: skip
    if not rates and survey.ready_made is not None:
        raise UsageError(f"--spec {front_end.kind} needs the waveforms, and the raw folder has none")
    if not rates:
        rates = {2 * (front_end.f_max or 16000.0)}  # no sound at all: the axis is all that is left
    usual = usual_rate(survey.stimuli, report)
    lowest = survey.lowest_rate
    if math.isnan(lowest):
        lowest = min(rates) if math.isnan(usual) else min(r for r in rates if r >= usual)
    resolved = resolve(front_end, lowest)
    kernels = {rate: resolved.kernel(rate, recipe.dt_ns) for rate in rates if holds(resolved, rate)}
    return resolved, kernels, resolved.frequencies(), attrs | {"units": resolved.units, "lowest_rate": lowest}


def _rates(survey: Survey) -> tuple[set[float], RawDataError | None]:
    """Sampling rates of the waveforms, read from those whose rate the survey does not state, and what the last says."""
    rates = {s.rate for s in survey.stimuli if s.audio and not math.isnan(s.rate)}
    unread = None
    for stimulus in survey.stimuli:
        if stimulus.audio and math.isnan(stimulus.rate):
            try:
                audio = sound_of(stimulus)
                rates |= {audio.rate} if audio else set()
            except RawDataError as error:  # reported where its spectrogram is made
                unread = error
    return rates, unread


def _report_windows(recipe: Recipe, summaries: Sequence[spool.Summary], report: Callable[[Finding], None]) -> None:
    """Say of how many trials nothing, or less, is known of the time that is kept after the sound."""
    post = f"{recipe.post_ns / 1e6:g} ms after the sound"
    if unstated := sum(s.unstated for s in summaries):
        what = f"{unstated:,} trials do not state until when they were recorded, and {post} are kept (post)"
        report(Finding("warning", "", what, "a bin that nobody recorded reads 0 there, as one without a spike does"))
    if short := sum(s.short for s in summaries):
        what = f"{short:,} trials were not recorded until {post} (post)"
        report(Finding("warning", "", what, "their bins from the end of the recording on are missing"))


def _report_left_out(
    survey: Survey, unheard: list[int], unplayed: list[int], report: Callable[[Finding], None], *, together: bool
) -> None:
    if together:  # of a folder with much missing, not hundreds of findings that say the same
        for one, many, names in (
            ("stimulus has", "stimuli have", [survey.stimuli[i].id for i in unheard]),
            ("neuron has", "neurons have", [survey.neurons[i].id for i in unplayed]),
        ):
            if names:
                what = f"{counted(len(names), one, many)} no trial, the first is {names[0]}"
                report(Finding("info", "", what, "they are left out of the cube"))
        return
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
