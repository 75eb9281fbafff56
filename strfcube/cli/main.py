"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

# ruff: noqa: D301 (click reads the control character \b as "do not wrap")

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import click

from strfcube import catalog
from strfcube.catalog import WIDTH, in_words
from strfcube.cli import clock
from strfcube.cli import fetch as fetching
from strfcube.cli.build import CLUSTER, CONTEXT, SPOOL, Datasets, client_of, report
from strfcube.cli.commands import Commands, of_misuse
from strfcube.cli.complete import a_data_set, a_store
from strfcube.cli.describe import (
    about,
    bytes_of,
    card,
    cited,
    condition,
    differences,
    findings,
    overview,
    recounted,
    summary,
)
from strfcube.cli.plot import plot
from strfcube.cli.report import report as page
from strfcube.cli.score import score
from strfcube.errors import SelectionError, StrfcubeError, UsageError, refusal
from strfcube.fetching.fetch import JOBS
from strfcube.progress import Display, for_reader
from strfcube.starting import INTERRUPTED, interrupted, interrupts_raise
from strfcube.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(package_name="strfcube")
def cli() -> None:
    """Open recordings of auditory neurons as one labelled Zarr cube.

    \b
    Examples:
      strfcube build demo
      strfcube build nat4 --only area=A1
      strfcube inspect nat4
    """


@cli.command("list")
def list_() -> None:
    """List the data sets, and the cubes that are built.

    \b
    Example:
      strfcube list
    """
    for line in overview(WIDTH):
        click.echo(line)
    cubes = sorted(catalog.data_dir().glob("*.zarr"))
    click.echo(f"\nCubes in {catalog.data_dir()}:{'' if cubes else ' none yet'}")
    wide = max((len(path.name) for path in cubes), default=0)
    for path in cubes:
        text = f"  {path.name:<{wide}}  {in_words(bytes_of(path)):>8}  {differences(path)}"
        room = " " * (wide + 14 if wide < WIDTH // 2 else 6)
        click.echo(textwrap.fill(text, WIDTH, subsequent_indent=room, break_long_words=False, break_on_hyphens=False))


@cli.command()
@click.argument("name", shell_complete=a_data_set)
def info(name: str) -> None:
    """Show what is known of a data set, or of where a cube comes from.

    \b
    Examples:
      strfcube info ns1
      strfcube info ./ns1-dt5.zarr
    """
    cube = _cube_of(name)
    click.echo(about(cube, WIDTH) if cube else card(catalog.entry(name), WIDTH))


def _cube_of(name: str) -> str:
    """The cube that a path, a URL or a name of `strfcube list` means; empty for anything else."""
    from strfcube.cube.store import locate

    if name in catalog.entries():
        return ""
    there = "://" in name or os.path.exists(name) or (catalog.data_dir() / name).exists()
    return locate(name) if there else ""


@cli.command()
@click.argument("name", shell_complete=a_data_set)
def cite(name: str) -> None:
    """Print what to cite for a data set, or for a cube.

    \b
    Examples:
      strfcube cite ns1
      strfcube cite ./ns1-dt5.zarr
    """
    cube = _cube_of(name)
    for text in cited(cube) if cube else catalog.entry(name).citation:
        click.echo(textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    own = f"strfcube {__version__}: recordings of auditory neurons as labelled, analysis-ready cubes (software)."
    click.echo(textwrap.fill(own, WIDTH, subsequent_indent="  "))


def fetch(name: str, only: tuple[str, ...], raw: str | None, dry_run: bool, jobs: int, **values: Any) -> None:
    """Fetch the raw files of a data set. Only what is not there, and each is verified.

    \b
    Examples:
      strfcube fetch nat4 --only area=A1
      strfcube fetch aa4 --only animal=LblBlu2028M --dry-run
    """
    from strfcube.fetching.fetch import choices, raw_folder
    from strfcube.fetching.plan import look, see_told_apart

    e = catalog.entry(name)
    if not e.files:
        raise UsageError(f"{name} has no files to fetch: strfcube build {name} writes them itself")
    extra = values.pop("extra")
    chosen = choices(fetching.parse_only(only))
    see_told_apart(e, chosen)
    plan = look(e, raw_folder(name, raw), chosen, extra)
    if dry_run:
        fetching.rehearse(plan)
        return
    with Display(always=True) as progress:
        fetching.transact(plan, progress, jobs=jobs, **values)
    click.echo(plan.raw)


cli.add_command(
    click.Command(
        "fetch",
        callback=fetch,
        help=fetch.__doc__,
        context_settings=CONTEXT,
        params=[
            click.Argument(["name"], shell_complete=a_data_set),
            click.Option(["--only"], multiple=True, metavar="KEY=VALUE[,VALUE]", help="Fetch only what holds this."),
            click.Option(["--raw"], type=click.Path(), help="Folder to fetch into."),
            click.Option(["--dry-run"], is_flag=True, help="Say what would be fetched, and stop."),
            click.Option(["--jobs"], type=int, default=JOBS, show_default=True, help="Files at once."),
            *fetching.options(None),
        ],
    )
)


@cli.command("build", cls=Datasets)
def build() -> None:
    """Build a cube of a data set. Raw files that are not there are fetched.

    \b
    Examples:
      strfcube build demo
      strfcube build nat4 --only area=A1 --yes
      strfcube build aa2 --raw ~/raw/aa2 --dt 5 --only area=MLd --jobs 4
      strfcube build ns1 --help
    """


_DT = click.option("--dt", type=float, help="Bin width in ms, where STORE is a data set's name.")


@cli.command()
@click.argument("store", shell_complete=a_store)
@_DT
@click.option("--findings", "all_findings", is_flag=True, help="Show every finding.")
def inspect(store: str, dt: float | None, all_findings: bool) -> None:
    """Show what a cube holds.

    \b
    Examples:
      strfcube inspect demo
      strfcube inspect ./aa2-dt5.zarr --findings
    """
    from strfcube.cube.guarded import readable
    from strfcube.cube.store import locate, open

    path = locate(store, dt)
    with readable(path):
        lines = [summary(open(path), path, WIDTH), *findings(path, WIDTH, every=all_findings)]
    click.echo("\n".join(lines))


_MEASURES = ("snr", "ccmax", "p_signal")


def _table_command(what: str, last: tuple[str, ...], example: str) -> None:
    """Add ``strfcube neurons`` or ``strfcube stimuli``."""

    @click.argument("store", shell_complete=a_store)
    @_DT
    @click.option("--sort", metavar="KEY", help="Column to sort by; descending with a minus before: -trials.")
    @click.option("--csv", is_flag=True, help="Every column, as comma-separated values.")
    def command(store: str, dt: float | None, sort: str | None, csv: bool, quality: bool = False) -> None:
        from strfcube.analysis import tables
        from strfcube.cli.tables import sorted_by, written
        from strfcube.cube.store import open

        ds = open(store, dt)
        table = getattr(tables, what)(ds)
        measures = {str(name): values.values for name, values in ds.strf.quality().items()} if quality else {}
        table = table.assign(**measures)
        if sort is not None:
            table = sorted_by(table, sort)
        click.echo(written(table, (*last, *_MEASURES) if quality else last, WIDTH, list(measures), csv=csv))

    if what == "neurons":
        flag = "Also how reliable each is: SNR, CCmax and p_signal; with --csv also the powers. Reads all responses."
        command = click.option("--quality", is_flag=True, help=flag)(command)

    command.__doc__ = f"List the {what} of a cube, with their coordinates.\n\n\b\nExamples:\n{example}"
    cli.command(what)(command)


_table_command(
    "neurons", ("stimuli", "trials", "rejected"),
    "  strfcube neurons demo --quality --sort=-snr\n  strfcube neurons demo --csv > neurons.csv",
)  # fmt: skip
_table_command(
    "stimuli", ("duration", "neurons", "trials", "rejected"),
    "  strfcube stimuli demo\n  strfcube stimuli demo --csv > stimuli.csv",
)  # fmt: skip


@cli.command()
@click.argument("store", shell_complete=a_store)
@_DT
@click.option("--deep", is_flag=True, help="Count every bin and compute every spectrogram again.")
def verify(store: str, dt: float | None, deep: bool) -> None:
    """Read a cube again, and hold it against its digests.

    \b
    Examples:
      strfcube verify demo
      strfcube verify demo --deep
    """
    from strfcube.cube.store import cube_root, locate
    from strfcube.cube.verify import examine

    path = locate(store, dt)
    with Display(always=True) as progress:
        progress("check", 0, 0)
        verdict = examine(path, deep=deep)
    if verdict.sentences:
        raise StrfcubeError(condition(verdict, path))
    click.echo(f"{path}\nis as it was built: digest\n{cube_root(path).attrs['digest']}")
    if deep:
        for text in recounted(path):
            click.echo(textwrap.fill(text, WIDTH))


@cli.command()
@click.argument("store", shell_complete=a_store)
@click.option("--dt", type=float, required=True, help="New bin width in ms.")
@click.option("--from-dt", type=float, help="Bin width of the cube, where STORE is a data set's name.")
@click.option("--out", type=click.Path(), help="Path of the new cube. [default: NAME-dtMS.zarr, beside STORE]")
@click.option("--jobs", type=int, help="Worker processes. [default: all processors]")
@click.option("--cluster", **CLUSTER)
@click.option("--spool", **SPOOL)
@click.option("--force", is_flag=True, help="Build again, replace another recipe.")
def rebin(store: str, dt: float, from_dt: float | None, cluster: str | None, **how: Any) -> None:
    """Make a cube at another bin width, without the raw files.

    \b
    Example:
      strfcube rebin demo --dt 1
    """
    from strfcube.builder.build import see_jobs
    from strfcube.builder.rebin import rebin as make
    from strfcube.cube.store import locate

    see_jobs(how["jobs"], cluster)
    with Display(always=True) as progress, client_of(cluster) as client:
        path = make(locate(store, from_dt), dt, client=client, progress=progress, **how)
    report(path)


@cli.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...", shell_complete=a_store)
@click.option("--out", type=click.Path(), required=True, help="Path of the pooled cube.")
@click.option("--names", help="One name a cube, separated by commas. [default: their data sets]")
@click.option(
    "--stimuli",
    type=click.Choice(["separate", "shared"]),
    default="separate",
    show_default=True,
    help="Keep each cube's stimuli, or make equal sounds one.",
)
@click.option(
    "--bands",
    type=click.Choice(["same", "by_number"]),
    default="same",
    show_default=True,
    help="Frequency axes must be equal, or only their number of bands.",
)
@click.option(
    "--duplicates",
    type=click.Choice(["warn", "drop", "keep"]),
    default="warn",
    show_default=True,
    help="What to do with a cell that stands in two cubes.",
)
@click.option("--force", is_flag=True, help="Replace a cube that is there.")
def concat(stores: tuple[str, ...], out: str, names: str | None, force: bool, **how: Any) -> None:
    """Pool cubes into one.

    \b
    Example:
      strfcube concat aa1 aa2 --stimuli shared --duplicates drop --out aa12.zarr
    """
    from strfcube.analysis.concat import DuplicateWarning
    from strfcube.analysis.concat import concat as pool
    from strfcube.builder.save import save

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DuplicateWarning)
        try:
            pooled = pool(list(stores), None if names is None else names.split(","), **how)
        except UsageError as error:
            raise UsageError(_as_flags(str(error))) from None
    for warning in caught:
        _say(f"warning: {_as_flags(str(warning.message))}")
    with Display(always=True) as progress:
        path = save(pooled, out, force=force, progress=progress)
    report(path)


@cli.command()
@click.argument("store", shell_complete=a_store)
@_DT
@click.option("-o", "--out", required=True, type=click.Path(), help="File to write: NAME.mat, NAME.nc or NAME.csv.")
@click.option("--only", multiple=True, metavar="KEY=VALUE[,VALUE]", help="Export only what has this value.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def export(store: str, dt: float | None, out: str, only: tuple[str, ...], force: bool) -> None:
    """Write a cube or a part of it for MATLAB, as netCDF or as tables.

    \b
    Examples:
      strfcube export demo -o demo.mat
      strfcube export demo --only area=MLd -o mld.csv
    """
    from strfcube.analysis.export import export as write
    from strfcube.analysis.export import file_of
    from strfcube.cli.part import part_of

    target = file_of(out, force)
    with Display(always=True) as progress, part_of(store, dt, fetching.parse_only(only), target.parent) as path:
        progress("export", 0, 0)
        paths = write(path, out, force=force)
    for path in paths:
        click.echo(f"{path}  {in_words(os.path.getsize(path))}")


cli.add_command(plot)
cli.add_command(page)
cli.add_command(score)


def _as_flags(text: str) -> str:
    """Advice to a user of Python in the words of the command line: ``stimuli='shared'`` is ``--stimuli shared``."""
    text = text.replace("names=['a', 'b']", "--names a,b")
    return re.sub(r"\b(stimuli|bands|duplicates)='(\w+)'", r"--\1 \2", text)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the ``strfcube`` command."""
    code = 0
    if args is not None:
        clock.begin()
    words = list(sys.argv[1:] if args is None else args)
    try:
        interrupts_raise()
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
            code = cli.main(args=words, prog_name="strfcube", standalone_mode=False, obj=words) or 0  # of an Exit
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        usage, what = of_misuse(error)
        click.echo(usage, err=True)
        code = _fail(what, 2)
    except (UsageError, SelectionError) as error:
        code = _fail(error, 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (StrfcubeError, ImportError, OSError) as error:  # these say which extra, or which file
        # Modules in C cannot be imported when Ctrl-C comes meanwhile, and say only that
        code = _end(words) if isinstance(error.__cause__, KeyboardInterrupt) else _fail(error, 1)
    except (KeyboardInterrupt, click.Abort):
        code = _end(words)
    except Exception as error:
        fault = "this is a fault of strfcube: report it, with the output of the same command under STRFCUBE_DEBUG=1"
        code = _fail(refusal(error) or f"{type(error).__name__}: {error}; {fault}", 1)
    sys.exit(code)


def _end(words: Sequence[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C has nothing left to stop
    click.echo(interrupted(next(iter(words), "")), err=True)
    return INTERRUPTED


def _fail(error: Any, code: int) -> int:
    if os.environ.get("STRFCUBE_DEBUG"):
        raise
    _say(f"error: {error}")
    return code


def _say(text: str) -> None:
    """What is not a result, on standard error."""
    click.echo(for_reader(f"strfcube: {text}"), err=True)


if __name__ == "__main__":
    main()
