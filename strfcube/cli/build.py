"""``strfcube build``: one subcommand a data set, its flags, progress and report."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from strfcube import catalog
from strfcube.catalog import WIDTH
from strfcube.cli import clock
from strfcube.cli import fetch as fetching
from strfcube.cli.commands import Commands, as_given
from strfcube.cli.describe import figures
from strfcube.errors import UsageError
from strfcube.fetching.fetch import carry_out, lacking, refusal
from strfcube.fetching.visit import Visit
from strfcube.progress import Display

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
# Of whatever can be done by a cluster
CLUSTER: dict[str, Any] = {"metavar": "ADDRESS", "help": "Dask scheduler, its file, or local[:N]; not --jobs."}
SPOOL: dict[str, Any] = {"type": click.Path(), "help": "Shared folder for what is read, instead of beside --out."}


class Datasets(Commands):
    """One subcommand a data set, each with the flags of its own recipe."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the data sets."""
        return list(catalog.entries())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of one data set."""
        return _build_command(catalog.entry(name))


def _build_command(e: catalog.Entry) -> click.Command:
    kind = catalog.pipeline_class(e.name)
    common: list[click.Parameter] = [
        click.Option(["--dt"], type=float, help=f"Bin width in ms. [default: {e.recipe['dt']}]"),
        click.Option(["--raw"], type=click.Path(), help="Folder of the raw files."),
        click.Option(["--out"], type=click.Path(), help="Path or URL of the cube."),
        click.Option(["--only"], multiple=True, metavar="KEY=VALUE[,VALUE]", help="Build only what has this value."),
        click.Option(["--post"], type=float, default=0.0, help="Time kept after each stimulus, in ms."),
        click.Option(["--align"], type=click.Choice(["centre", "causal"]), default="centre",
                     help="Spectrogram window around the bin's centre, or ending with it."),
        click.Option(["--audio/--no-audio"], default=True, help="Keep the waveforms in the cube."),
        click.Option(["--jobs"], type=int, help="Worker processes; 0: this one. [default: all processors]"),
        click.Option(["--cluster"], **CLUSTER),
        click.Option(["--spool"], **SPOOL),
        click.Option(["--part"], metavar="I/N", help="Do one of N parts, as a job of an array."),
        click.Option(["--finalise"], is_flag=True, help="Make the cube of what the parts did."),
        click.Option(["--dry-run"], is_flag=True, help="Say what would be built, and stop."),
        click.Option(["--strict"], is_flag=True, help="Stop at the first warning."),
        click.Option(["--force"], is_flag=True, help="Build again, replace another recipe."),
    ]  # fmt: skip
    if e.files:
        common += [
            click.Option(["--fetch/--no-fetch"], default=None,
                         help="Fetch the raw files that are not there; or build from those that are."),
            *fetching.options(e),
        ]  # fmt: skip
    own = [
        _flag(o.name, o.type, f"{o.help[:1].upper()}{o.help[1:]} [default: {o.default}]", o.choices)
        for o in kind.options
    ]
    front = [_flag(name, type_, text, choices) for name, type_, text, choices in _front_end_flags()]

    def callback(**values: Any) -> None:
        _build(e, values)

    text = f"Build {e.title}.\n\n\b\nExample:\n  strfcube build {e.name}"
    return click.Command(e.name, params=[*common, *own, *front], callback=callback, help=text, short_help=e.title,
                         context_settings=CONTEXT)  # fmt: skip


@contextmanager
def client_of(cluster: str | None) -> Iterator[Any]:
    """A client of the cluster that was given; None without one."""
    if cluster is None:
        yield None
        return
    from strfcube.builder.cluster import connected

    with connected(cluster) as client:
        yield client


def _flag(name: str, type_: type, text: str, choices: Sequence[str] = ()) -> click.Option:
    # None means "not given": the recipe's own default stands.
    flag = "--" + name.replace("_", "-")
    if type_ is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=text)
    return click.Option([flag, name], type=click.Choice(list(choices)) if choices else type_, default=None, help=text)


def _front_end_flags() -> list[tuple[str, type, str, tuple[str, ...]]]:
    from strfcube.sound.spectrogram import COMPRESSIONS, FRONT_ENDS

    text = {
        "bands": (int, "Number of frequency bands."),
        "f_min": (float, "Lowest frequency in Hz."),
        "f_max": (float, "Highest frequency in Hz."),
        "window_ms": (float, "Spectrogram window in ms."),
        "compression": (str, "Of the band power."),
        "floor_db": (float, "Lowest level of the db compression."),
        "per_octave": (int, "Frequencies an octave (dft)."),
    }
    fields = dict.fromkeys(f.name for kind in FRONT_ENDS.values() for f in dataclasses.fields(kind))
    spec = ("spec", str, "Front end of the spectrogram.", tuple(FRONT_ENDS))
    return [spec] + [(name, *text[name], tuple(COMPRESSIONS) if name == "compression" else ()) for name in fields]


def _build(e: catalog.Entry, values: dict[str, Any]) -> None:
    how = {key: values.pop(key) for key in ("jobs", "force", "strict", "spool", "part")}
    cluster, finish = values.pop("cluster"), values.pop("finalise")
    consent = {key: values.pop(key, False) for key in ("yes", "accept_terms", "keep_archives")}
    fetch, extra, dry_run = values.pop("fetch", None), values.pop("extra", ()), values.pop("dry_run")
    given = {key: value for key, value in values.items() if value is not None}
    only = fetching.parse_only(values["only"])
    with Display(always=True) as progress, client_of(None if dry_run else cluster) as client:
        if not dry_run:
            progress("survey", 0, 0)  # at once: what follows takes a moment to load
        from strfcube.builder.build import run, see_jobs
        from strfcube.builder.listing import preview
        from strfcube.builder.request import Standing, prepare

        see_jobs(how["jobs"], cluster)
        command = as_given(without=("--dry-run", "--fetch", "--no-fetch", "--yes", "--accept-terms"))

        def bring(entry: catalog.Entry, instead: str) -> None:
            allowed = True if fetch is None and consent["yes"] else fetch
            plan = lacking(entry, values["raw"], only, extra, allowed)
            if plan is None:
                return
            if not plan.to_fetch and not dry_run:  # only to be verified again
                carry_out(plan, Visit.begin(), say=progress.say)
                return
            progress.close()
            if dry_run:
                fetching.rehearse(plan)
                raise click.exceptions.Exit(0)
            if instead and not allowed:
                raise UsageError(instead)
            if not allowed and not fetching.is_terminal():
                raise refusal(plan, command)
            fetching.transact(plan, progress, **consent | {"yes": bool(allowed)})

        try:
            request = prepare(
                e.name, **given | {"only": only}, bring=bring, force=how["force"], command=command,
                progress=None if dry_run else progress,
            )  # fmt: skip
        except Standing as found:
            report(found.path)
            return
        if dry_run:
            seen = preview(request, how["jobs"])
            click.echo(f"would build {request.target} from {request.pipeline.raw}")
            click.echo(", ".join(f"{count:,} {what}" for what, count in seen.items()))
            return
        path = run(request, progress=progress, client=client, finish=finish, **how)
    if how["part"] is None:
        report(path)


def report(path: str) -> None:
    """End a command that made a cube: its path, its figures."""
    from strfcube.cube.store import open

    ds = open(path)
    click.echo(path)
    click.echo(figures(ds, path, clock.seconds(), WIDTH))
