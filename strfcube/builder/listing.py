"""Listing the raw files: a pipeline's survey, in a worker process, so that a damaged file costs itself and no more."""

from __future__ import annotations

import pickle
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube import raw_files
from strfcube.builder import tasks
from strfcube.builder.request import chosen
from strfcube.builder.worker import EndedError, Pool
from strfcube.errors import RawDataError, StrfcubeError
from strfcube.sound.audio import odd_waves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from strfcube.builder.request import Request
    from strfcube.builder.worker import Workers
    from strfcube.raw_files import Missing
    from strfcube.records import Finding, Pipeline, Report, Survey

MOST_FILES = 5  # that are left out; more of them, and it is not the files
_TOLD = 3  # findings in the message of a survey that refuses: of a folder that is damaged there are hundreds


def preview(request: Request, jobs: int | None = None) -> dict[str, int]:
    """What a build would list, without building: chosen stimuli, neurons and sources, and findings so far.

    Parameters
    ----------
    jobs : int, optional
        As in `strfcube.build`: with 0 it runs in this process.

    Raises
    ------
    RawDataError
        If the raw folder is not the data set.
    SelectionError
        If `only` names what nothing has.
    """
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as work, nullcontext() if jobs == 0 else Pool(1) as pool:
        survey = survey_of(request, pool, Path(work), request.listener(findings.append))
    keep_stim, keep_neuron = chosen(survey, request.recipe.only)
    sources = {n.source for n, keep in zip(survey.neurons, keep_neuron, strict=True) if keep}
    return {"stimuli": sum(keep_stim), "neurons": sum(keep_neuron), "sources": len(sources), "findings": len(findings)}


def survey_of(request: Request, pool: Workers | None, work: Path | None, report: Report) -> Survey:
    """What a request's pipeline lists.

    A file over which the worker hangs or crashes is left out by the next worker, with a finding of the pipeline's.

    Parameters
    ----------
    pool : Workers or None
        Where it runs; None is this process.
    work : Path or None
        Folder in which a worker notes what it reads.

    Raises
    ------
    RawDataError
        If the raw folder is not the data set, or listing it hangs or crashes over no file that is known.
    LostWorkerError
        If the worker was ended from outside.
    StrfcubeError
        If the pipeline itself fails.
    """
    if pool is None or work is None:
        survey, findings = _listed(request.pipeline, request.missing)
    else:
        survey, findings = _in_worker(request, pool, work / "reading")
    for finding in findings:
        report(finding)
    return survey


def _in_worker(request: Request, pool: Workers, note: Path) -> tuple[Survey, list[Finding]]:
    limit = tasks.seconds()
    without: dict[str, str] = {}
    while True:
        note.write_bytes(b"")
        try:
            how = (request.pipeline, request.missing, str(note), without)
            answer = pool.submit(_list, *how, limit=limit, fresh=bool(without)).result()
            listed: tuple[Survey, list[Finding]] = pickle.loads(answer)
            return listed
        except EndedError as end:
            if end.from_outside:
                raise tasks.LostWorkerError(pool.lost.format(task="listing the raw files")) from end
            what = end.beyond(limit) if end.over_limit else f"crashed ({end.how})"
            file = note.read_text("utf-8", "surrogateescape")
            if not file or file in without or len(without) == MOST_FILES:
                message = f"listing the raw files {what}: {tasks.SECONDS_VARIABLE} sets how long it may take"
                raise RawDataError(message, request.pipeline.raw) from end
            without[file] = f"reading it {what}"
        finally:
            note.unlink(missing_ok=True)


def _list(_: Any, pipeline: Pipeline, missing: Missing, note: str, without: Mapping[str, str]) -> bytes:
    """A survey and its findings, pickled so that what comes from a script or a notebook travels, too."""
    import cloudpickle

    with raw_files.noted(note, without):
        pickled: bytes = cloudpickle.dumps(_listed(pipeline, missing))
    return pickled


def _listed(pipeline: Pipeline, missing: Missing) -> tuple[Survey, list[Finding]]:
    findings: list[Finding] = []
    try:
        with odd_waves(findings.append, pipeline.raw):
            return pipeline.survey(findings.append), findings
    except RawDataError as error:
        if not missing.files:
            if why := "; ".join([f"{f.place}: {f.what}" for f in findings if f.severity == "error"][:_TOLD]):
                raise RawDataError(f"{error.message}. What was found: {why}", error.file, error.line) from error
            raise
        raise RawDataError(f"{missing.what()}: {missing.remedy()} (without them: {error})", pipeline.raw) from error
    except StrfcubeError:
        raise
    except Exception as error:
        raw_files.see_readable(error, pipeline.raw)
        message = f"pipeline {type(pipeline).__name__} failed in its survey of {pipeline.raw}"
        raise StrfcubeError(f"{message}: {type(error).__name__}: {error}") from error
