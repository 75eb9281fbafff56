"""``strfcube report``: a cube as one page of HTML."""

# ruff: noqa: D301 (click reads the control character \b as "do not wrap")

from __future__ import annotations

import os

import click

from strfcube.analysis.report.write import MEGABYTES
from strfcube.catalog import in_words
from strfcube.cli.complete import a_store
from strfcube.errors import UsageError
from strfcube.progress import Display


@click.command("report")
@click.argument("store", shell_complete=a_store)
@click.option("--dt", type=float, help="Bin width in ms, where STORE is a data set's name.")
@click.option("-o", "--out", type=click.Path(), default="report.html", show_default=True, help="Page to write.")
@click.option("--only", multiple=True, metavar="KEY=VALUE[,VALUE]", help="A page of only what has this value.")
@click.option("--force", is_flag=True, help="Replace a page that is there.")
@click.option("--megabytes", type=float, default=MEGABYTES, show_default=True, help="Largest size of the page.")
def report(store: str, dt: float | None, out: str, only: tuple[str, ...], force: bool, megabytes: float) -> None:
    """Write a cube as one page that any browser opens. It says what it is, and shows every response.

    \b
    Examples:
      strfcube report demo -o demo.html
      strfcube report aa4 --only area=MLd -o mld.html --megabytes 20
    """
    from strfcube.analysis.output import target_of
    from strfcube.analysis.report.write import ENDINGS
    from strfcube.analysis.report.write import report as write
    from strfcube.cli.fetch import parse_only
    from strfcube.cli.part import part_of

    target = target_of(out, ENDINGS, force=force)
    with Display(always=True) as progress, part_of(store, dt, parse_only(only), target.parent) as source:
        try:
            path = write(source, target, megabytes=megabytes, force=force, progress=progress)
        except UsageError as error:
            raise UsageError(str(error).replace("megabytes=", "--megabytes ")) from None
    click.echo(f"{path}  {in_words(os.path.getsize(path))}")
