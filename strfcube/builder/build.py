"""The build: from a pipeline's records to a published cube, parallel and resumable.

Two stages, because what a store looks like is known only after parsing: *ingest* parses each source once into a spool,
*write* turns the spools into whole shards. Both keep a ledger in ``<store>.building``; killed at any point, the same
command resumes there and ends with the same digest. The finished store changes places with what it replaces.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.builder import copies, finalise, ingest, parts, plan, spool, tasks, write
from strfcube.builder.checks import bins_of, checked, one_source_each, refuse_many, sound_of, usual_rate
from strfcube.builder.ledger import DamagedError, Ledger, keep_only, lost, settle
from strfcube.builder.listing import survey_of
from strfcube.builder.plan import stimulus_layout, trial_layouts
from strfcube.builder.request import Request, Standing, chosen, prepare
from strfcube.builder.workplace import (
    discard,
    in_turn,
    locked,
    place_of,
    publish,
    recover,
    resume_or_restart,
    sharing,
    slug,
    standing,
    store_of,
    work_folder,
    writable,
)
from strfcube.catalog import WIDTH
from strfcube.cube.findings import told
from strfcube.cube.shard_writer import create
from strfcube.cube.store import local, no_consolidation_warning
from strfcube.errors import RawDataError, StoreError, StrfcubeError, UsageError
from strfcube.progress import Progress, shown
from strfcube.records import Finding, Pipeline, Survey, counted
from strfcube.sound.audio import odd_waves
from strfcube.sound.spectrogram import FrontEnd, Published, holds, resolve

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import distributed

    from strfcube import catalog
    from strfcube.builder.recipe import Recipe
    from strfcube.builder.worker import Workers
    from strfcube.grid import Align
    from strfcube.sound.kernels import Kernel

log = logging.getLogger("strfcube")


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
    client: distributed.Client | None = None,
    spool: str | os.PathLike[str] | None = None,
    part: str | None = None,
    finalise: bool = False,
    progress: bool | Progress | None = None,
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
        Worker processes; default is the number of processors. With 0 everything runs in this process, for debugging a
        pipeline: a source that hangs or crashes then takes the build along.
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
    client : distributed.Client, optional
        Of a dask cluster whose workers do what worker processes of this machine do else. They must see the raw files
        and the folder of the store under the same paths.
    spool : path, optional
        Folder for what is read from the raw files, until the cube is written; default is beside the store.
    part : str, optional
        ``"2/4"`` for the second of four parts of the build, which may run at the same time on several machines. It
        reads its share of the raw files; once all are read, the same call writes its share of the cube.
    finalise : bool
        Make the cube of what the parts did; what they did not write is written, what they did not read is an error.
    progress : bool or callable, optional
        Whether to show how far it is, on standard error; by default in a terminal and in a notebook. A callable is
        called with stage (fetch, survey, ingest, write), done and total (0 where it is not known). What was odd about
        the raw files is told at the end, by the logger ``strfcube``.
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
            carry_out(plan, Visit.begin(), progress=tell)

    see_jobs(jobs, client)
    with shown(progress) as tell:
        try:
            request = prepare(
                dataset, dt=dt, raw=raw, out=out, only=only, post=post, align=align, audio=audio, bring=bring,
                force=force, progress=tell, **flags,
            )  # fmt: skip
        except Standing as found:
            return found.path
        return run(request, jobs=jobs, force=force, strict=strict, client=client, spool=spool, part=part,
                   finish=finalise, progress=tell)  # fmt: skip


def run(
    request: Request,
    *,
    jobs: int | None = None,
    force: bool = False,
    strict: bool = False,
    client: distributed.Client | None = None,
    spool: str | os.PathLike[str] | None = None,
    part: str | None = None,
    finish: bool = False,
    progress: Progress | None = None,
) -> str:
    """Build what was requested; `build` and `rebin` end here. Parameters, result and errors as there."""
    see_jobs(jobs, client)
    share = None if part is None else parts.Part.parse(part)
    if share and (finish or client is not None):
        raise UsageError("a part runs in processes of its own machine: leave out --finalise and --cluster")
    if spool is not None:
        spool = see_spool(spool)
    asked = request.target
    with writable(asked):
        request = dataclasses.replace(request, target=place_of(asked))
    target = request.target
    work = work_folder(target)
    if _up_to_date(request, force) and not work.exists():
        _say_up_to_date(asked)
        return asked
    if share:
        return _run_part(request, share, asked, jobs, force, strict, spool, progress)
    with writable(target), locked(work):
        recover(work, target)
        if finish:
            parts.see_same(request, work)
        try:
            if _up_to_date(request, force):  # another build finished it while this one waited
                discard(work)
                _say_up_to_date(asked)
                return asked
            resume_or_restart(work, target, request.recipe, request.fingerprint, request.command, spool)
            with _workers(request, jobs, client, work) as pool:
                built = _build(request, work, pool, strict, progress, finish=finish)
                assert built is not None
                now = pool.submit(_state, request.current) if pool else None  # beside what is left to do here
                findings = finalise.finalise(built, request)
                _settle(built, work)
                _see_unchanged(request, now.result() if now else request.current())
            _up_to_date(request, force)  # nobody put anything else there meanwhile
        except BaseException as error:
            # Nothing that a resumed build could use, or the same command would end here again.
            lasting = tasks.LostWorkerError | DamagedError | parts.PartsError
            final = isinstance(error, StrfcubeError) and not isinstance(error, lasting)
            if final or not any((work / "spool").glob("*")):
                discard(work)
            raise
        publish(built.store, target, work)
    if lines := told(finalise.findings_dataset(findings), WIDTH, path=asked):
        odd = any(f.severity != "info" for f in findings)
        log.log(logging.WARNING if odd else logging.INFO, "%s", "\n".join(lines))
    return asked


def _say_up_to_date(path: str) -> None:
    log.info("%s is up to date: nothing to do", path.rpartition("/")[2])


def _run_part(
    request: Request,
    part: parts.Part,
    asked: str,
    jobs: int | None,
    force: bool,
    strict: bool,
    spool: str | None,
    progress: Progress | None,
) -> str:
    """Do a part; what others did stays, whatever happens."""
    work = work_folder(request.target)

    def begin() -> bool:
        if _up_to_date(request, force):
            return False
        parts.begin(request, part, work, spool)
        return True

    with writable(request.target), sharing(work, part.file_name, begin) as due:
        if not due:
            discard(work)
            _say_up_to_date(asked)
            return asked
        with tasks.workers(_jobs(request, jobs)) as pool:
            _build(request, work, pool, strict, progress, part)
        return asked


def see_jobs(jobs: int | None, cluster: object = None) -> None:
    """Refuse a number of workers that is none.

    Raises
    ------
    UsageError
        If it is negative, or a cluster has a number of its own.
    """
    if jobs is not None and jobs < 0:
        raise UsageError(f"jobs={jobs}: give 0 or more")
    if jobs is not None and cluster is not None:
        raise UsageError(f"jobs={jobs}: a cluster has its own number of workers; leave it out")


def see_spool(folder: str | os.PathLike[str]) -> str:
    """Absolute path of a folder that spools can be put into.

    Raises
    ------
    UsageError
        If it is none.
    """
    place = local(folder)
    if "://" in place or not Path(place).is_dir():
        raise UsageError(
            f"--spool {place}: give a folder that exists, and that all workers share; a URL cannot be used"
        )
    return place


def _state(_: Any, current: Callable[[], str]) -> str:
    return current()


def _settle(built: finalise.Built, work: Path) -> None:
    """See that every shard is there and whole, and make a local store durable."""
    files = {key: state for w in built.written for key, state in w.files.items()}
    if "://" not in built.store:
        settle(Path(built.store), files)
    elif damaged := lost(built.store, files):
        raise DamagedError(f"{built.store}/{damaged[0]} was changed since it was written: the same command mends it")


def _see_unchanged(request: Request, now: str) -> None:
    if now != request.fingerprint:
        raise RawDataError(
            "something was added, changed or removed here while the cube was built: let that end, then give the same "
            "command", request.pipeline.raw,
        )  # fmt: skip


def _in_memory(request: Request) -> bool:
    """Whether the cube lies, or what it is made of, in the memory of this process."""
    return any(place.startswith("memory://") for place in (request.target, str(getattr(request.pipeline, "path", ""))))


def _jobs(request: Request, asked: int | None) -> int:
    """Worker processes; none where nobody else sees the cube."""
    if _in_memory(request):
        return 0
    return tasks.default_jobs() if asked is None else asked


def _workers(
    request: Request, jobs: int | None, client: distributed.Client | None, work: Path
) -> AbstractContextManager[Workers | None]:
    """Those of the cluster, or processes of this machine."""
    if client is None:
        return tasks.workers(_jobs(request, jobs))
    from strfcube.builder.cluster import Cluster

    if _in_memory(request):
        raise UsageError(f"{request.target}: no worker of a cluster sees what lies in the memory of this process")
    return Cluster(client, str(request.pipeline.raw), work)


def _up_to_date(request: Request, force: bool) -> bool:
    """Whether the cube is there already, and may stay.

    Raises
    ------
    StoreError
        If something else is in its place: another cube, or, even where the build is forced, what is no cube.
    """
    target = request.target
    existing = standing(target, request.recipe, force)
    if existing is None:
        return False
    if not request.made(existing):
        raise StoreError(f"{target} was built from other raw files, or they changed since: --force builds it again")
    return True


def _build(
    request: Request,
    work: Path,
    pool: Workers | None,
    strict: bool,
    progress: Progress | None,
    part: parts.Part | None = None,
    finish: bool = False,
) -> finalise.Built | None:
    """Both stages; of a part its share of the one that is due, and None."""
    pipeline, recipe, target = request.pipeline, request.recipe, request.target
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
    reading = part is not None and not {t.name for t in parse} <= ingested.names()
    tasks.run("ingest", part.of(parse) if part and reading else parse, context, pool, ingested, progress)
    if part and reading:
        left = len({t.name for t in parse} - ingested.names())
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

    store = store_of(target, work)
    stimuli = tuple(survey.stimuli[i] for i in made.stims)
    attrs = dict(made.response.attrs) | finalise.response_attrs(made, survey)
    made = dataclasses.replace(made, response=dataclasses.replace(made.response, attrs=attrs))
    stimulus = stimulus_layout(len(stimuli), len(frequencies), made.response.shape[3], spec_attrs)
    rows, times = trial_layouts(int(made.row_start[-1]), int(made.spike_start[-1]), made.tests)
    job = write.Job(store, made.without_coverage(), stimulus, rows, times, stimuli, front_end, kernels, recipe.align,
                    recipe.dt_ns, survey.ready_made, pipeline.raw)  # fmt: skip
    record = Ledger(work / "write", store)
    if part is None:
        keep_only(store, [key for entry in record.read().values() for key in entry["files"]])
    with no_consolidation_warning(), in_turn(work):
        for layout in (made.response, stimulus, *rows.values(), times):
            create(store, layout)
    todo = _write_tasks(job, recipe.audio)
    if part:
        tasks.run("write", part.of(todo), job, pool, record, progress)
        log.info("part %s has written its share", part)
        return None
    results = tasks.run("write", todo, job, pool, record, progress)
    written = [write.Written.of(results[t.name]) for t in todo]
    with no_consolidation_warning():
        for layout in (w.samples for w in written if w.samples is not None):
            create(store, layout)
    for w in written:
        for finding in w.findings:
            tell(finding)
    return finalise.Built(store, survey, made, job, tuple(written), tuple(findings), frequencies)


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
