"""``strfcube fetch``, and the fetching that ``strfcube build`` begins with: what is said, and what is asked."""

from __future__ import annotations

import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from strfcube.catalog import WIDTH, Entry, in_words
from strfcube.errors import FetchError, UsageError
from strfcube.fetching import credentials, terms
from strfcube.fetching.fetch import JOBS, carry_out, see_jobs
from strfcube.fetching.plan import Plan, enquire
from strfcube.fetching.visit import Visit
from strfcube.progress import for_reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from strfcube.progress import Display

_STATES = {"there": "is there", "found": "is there, not verified", "part": "begun", "missing": "to fetch"}


def options(e: Entry | None) -> list[click.Parameter]:
    """Flags that `fetch` and `build` share; those of one data set, or of any."""
    extras = sorted({f.extra for f in e.files if f.extra}) if e else ["NAME"]
    text = "Fetch these files as well." if e else "Fetch optional files as well (wav of nat4)."
    extra = click.Option(["--extra"], multiple=True, metavar="|".join(extras), help=text)
    return [
        *([extra] if extras else []),
        click.Option(["--yes"], is_flag=True, help="Fetch without asking."),
        click.Option(["--accept-terms"], is_flag=True, help="Accept the terms of the data set."),
        click.Option(["--keep-archives"], is_flag=True, help="Keep archives that were unpacked."),
    ]


def parse_only(pairs: Sequence[str]) -> dict[str, list[str]]:
    """Values of ``--only`` by key.

    Raises
    ------
    UsageError
        If a pair is none.
    """
    only: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--only {pair}: give KEY=VALUE, for example --only area=MLd")
        only.setdefault(key, []).extend(value.split(","))
    return only


def is_terminal() -> bool:
    """Whether someone can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def transact(plan: Plan, progress: Display, *, yes: bool, accept_terms: bool, keep_archives: bool = False,
             jobs: int = JOBS) -> None:  # fmt: skip
    """Say what a plan fetches, ask what has to be asked, and do it.

    Raises
    ------
    click.exceptions.Exit
        If the answer is no.
    """
    see_jobs(jobs)
    entry, terminal = plan.entry, is_terminal()
    visit = Visit.begin(_ask_credentials if terminal else None)
    is_new = not terms.are_known(entry)
    agreed = accept_terms or not plan.to_fetch or not terms.must_be_accepted(entry)
    if not agreed and not terminal:
        terms.require(entry)
    if plan.todo and _may_enquire(entry, agreed):
        _say_who_is_asked(plan)
        plan = enquire(plan, visit.web, visit.crcns)
    for line in statement(plan, is_new and bool(plan.to_fetch)):
        click.echo(line, err=True)
    if terminal and not agreed:
        _confirm("Accept these terms" + ("" if yes else " and fetch") + "?", default=False)
    elif terminal and not yes and plan.to_fetch:
        _confirm("Fetch?", default=True)
    if plan.to_fetch:  # and agreed: by a flag, here, or because nobody has to
        terms.remember(entry)
    carry_out(plan, visit, jobs=jobs, keep_archives=keep_archives, progress=progress, say=progress.say)
    progress.close()


def _confirm(question: str, default: bool) -> None:
    with _line_ended():
        agreed = click.confirm(question, default=default, err=True)
    if not agreed:
        click.echo("strfcube: nothing was fetched", err=True)
        raise click.exceptions.Exit(1)


@contextmanager
def _line_ended() -> Iterator[None]:
    """Ctrl-C leaves a question without an end of its line."""
    try:
        yield
    except click.Abort:
        click.echo(err=True)
        raise


def _may_enquire(entry: Entry, agreed: bool) -> bool:
    """Whether the sizes can be asked for before a person is asked for anything."""
    return entry.account == "none" or (agreed and credentials.find() is not None)


def _ask_credentials() -> credentials.Credentials:
    click.echo("CRCNS account (free: https://crcns.org/register)", err=True)
    with _line_ended():
        name = click.prompt("  user name", err=True)
    return credentials.Credentials(name, click.prompt("  password", hide_input=True, err=True))


def statement(plan: Plan, with_terms: bool = True) -> list[str]:
    """What is going to be fetched, how much, from where, and under which terms."""
    entry = plan.entry
    count = len(plan.to_fetch)
    lines = [f"{entry.name}: {count} {'file' if count == 1 else 'files'} to fetch, {_sum(plan)}"]
    if plan.hosts:
        lines[0] += f", from {', '.join(plan.hosts)}"
    lines += [f"  into {plan.raw}", *listing(plan)]
    if with_terms:
        lines += textwrap.wrap(f"terms: {entry.terms}", WIDTH, initial_indent="  ", subsequent_indent="    ",
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return lines


def listing(plan: Plan) -> list[str]:
    """A line a file: name, size, how it stands."""
    wide = max(len(item.file.name) for item in plan.items)
    lines = []
    for item in plan.items:
        exact = item.published.bytes or (item.record.bytes if item.record else 0) or item.file.bytes
        state = _STATES[item.state] + (f", {in_words(item.have)} came" if item.state == "part" else "")
        lines.append(f"  {item.file.name:<{wide}}  {in_words(exact, item.file.about):>14}  {state}")
    return lines


def _sum(plan: Plan) -> str:
    """Bytes of all that has to come, in words: exact, rounded, or unknown."""
    items = plan.to_fetch
    known = [item.published.bytes or item.file.bytes for item in items]
    if all(known):
        return in_words(sum(known) - sum(item.have for item in items)) if items else "0 bytes"
    rounded = [size or item.file.about for size, item in zip(known, items, strict=True)]
    if all(rounded):
        return in_words(0, sum(rounded))
    return plan.entry.download if len(items) == len(plan.items) else "unknown size"


def rehearse(plan: Plan) -> None:
    """Print what a fetch would do."""
    note = ""
    if plan.todo and _may_enquire(plan.entry, not terms.must_be_accepted(plan.entry)):
        visit = Visit.begin(hasty=True)
        _say_who_is_asked(plan)
        try:
            plan = enquire(plan, visit.web, visit.crcns)
        except FetchError as error:
            note = f"The sizes are those of the catalog: {str(error).partition('; ')[0]}"
    for line in statement(plan, not terms.are_known(plan.entry)):
        click.echo(line)
    if note:
        click.echo(for_reader(note), err=True)


def _say_who_is_asked(plan: Plan) -> None:
    if plan.hosts:
        click.echo(f"asking {', '.join(plan.hosts)} for sizes and checksums ...", err=True)
