"""The build: from a pipeline's records to a published cube, parallel and resumable.

Two stages, because what a store looks like is known only after parsing: *ingest* parses each source once into a spool,
*write* turns the spools into whole shards. Both keep a ledger in ``<store>.building``; killed at any point, the same
command resumes there and ends with the same digest. The finished store changes places with what it replaces.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube.builder import finalise, parts, stages, tasks
from strfcube.builder.lease import LostLeaseError
from strfcube.builder.ledger import DamagedError
from strfcube.builder.places import Place, place
from strfcube.builder.request import Request, Standing, prepare
from strfcube.builder.workplace import place_of, resume_or_restart, stamp, standing, work_folder, writable
from strfcube.catalog import WIDTH
from strfcube.cube.findings import told
from strfcube.cube.store import local
from strfcube.errors import RawDataError, StoreError, StrfcubeError, UsageError
from strfcube.progress import Progress, shown
from strfcube.transport.remote_files import OutOfReachError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import distributed

    from strfcube import catalog
    from strfcube.builder.worker import Workers
    from strfcube.grid import Align
    from strfcube.records import Pipeline

log = logging.getLogger("strfcube")
# What says nothing against what an unfinished build has done: the same command goes on with it
_LASTING = (tasks.LostWorkerError, DamagedError, parts.PartsError, OutOfReachError, LostLeaseError)


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
    out : path or URL, optional
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
        Folder for what is read from the raw files, until the cube is written; default is beside the store, or in the
        data folder, where that is at a URL.
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

    def bring(entry: catalog.Entry, instead: str) -> None:
        from strfcube.fetching import terms
        from strfcube.fetching.fetch import carry_out, lacking, refusal
        from strfcube.fetching.visit import Visit

        plan = lacking(entry, raw, only, extra, fetch)
        if plan and plan.to_fetch and not fetch:
            raise UsageError(instead) if instead else refusal(plan)
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
    at = place(target, work_folder(target, spool))
    if "://" in target:
        spool = None  # they lie in the work folder
    if _up_to_date(request, force) and not at.left():
        _say_up_to_date(asked)
        return asked
    if share:
        return _run_part(request, at, share, asked, jobs, force, strict, spool, progress)
    with writable(target, spools=_apart(at, spool)), at.alone():
        if finish:
            parts.see_same(request, at.work)
        try:
            if _up_to_date(request, force):  # another build finished it while this one waited
                at.discard()
                _say_up_to_date(asked)
                return asked
            at.see(stamp(request.recipe, request.fingerprint), force=force)
            resume_or_restart(at.work, request.recipe, request.fingerprint, request.command, spool)
            with _workers(request, jobs, client, at.work) as pool:
                built = stages.build_store(request, at, pool, strict, progress, finish=finish)
                assert built is not None
                now = pool.submit(_state, request.current) if pool else None  # beside what is left to do here
                findings = finalise.finalise(built, request)
                at.settle(built.files)
                _see_unchanged(request, now.result() if now else request.current())
            _up_to_date(request, force)  # nobody put anything else there meanwhile
        except BaseException as error:
            # Nothing that a resumed build could use, or the same command would end here again.
            final = isinstance(error, StrfcubeError) and not isinstance(error, _LASTING)
            if final or not any((at.work / "spool").glob("*")):
                at.discard()
            raise
        at.publish()
    if lines := told(finalise.findings_dataset(findings), WIDTH, path=asked):
        severities = {f.severity for f in findings}
        if "error" in severities:
            lines.append("  errors are of what is left out: --strict (strict=True) stops at it instead")
        log.log(logging.INFO if severities == {"info"} else logging.WARNING, "%s", "\n".join(lines))
    return asked


def _apart(at: Place, spool: str | None) -> str:
    """Folder of spools that do not lie beside the cube."""
    return str(at.work) if "://" in at.target else spool or ""


def _say_up_to_date(path: str) -> None:
    log.info("%s is up to date: nothing to do", path.rpartition("/")[2])


def _run_part(
    request: Request,
    at: Place,
    part: parts.Part,
    asked: str,
    jobs: int | None,
    force: bool,
    strict: bool,
    spool: str | None,
    progress: Progress | None,
) -> str:
    """Do a part; what others did stays, whatever happens."""

    def begin() -> bool:
        if _up_to_date(request, force):
            return False
        parts.begin(request, part, at.work, spool)
        return True

    with writable(request.target, spools=_apart(at, spool)), at.beside(part.file_name, begin) as due:
        if not due:
            at.discard()
            _say_up_to_date(asked)
            return asked
        at.see(stamp(request.recipe, request.fingerprint), force=force)
        with tasks.workers(_jobs(request, jobs)) as pool:
            stages.build_store(request, at, pool, strict, progress, part)
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
