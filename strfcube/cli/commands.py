"""What was typed: commands that there are none of, flags that were mistyped, and the command as it was given."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click

from strfcube.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection


class Commands(click.Group):
    """A group that says which of its commands was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first of some words names."""
        name = str(args[0])
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            names = self.list_commands(ctx)
            ctx.fail(f"there is no command '{name}'; {did_you_mean(name, names)}there are {', '.join(names)}")
        return super().resolve_command(ctx, args)


def of_misuse(error: click.ClickException) -> tuple[str, str]:
    """How the command is used, and what was wrong with how it was, with what was probably meant."""
    ctx = getattr(error, "ctx", None)
    if ctx is None:
        return "", error.format_message()
    usage = f"{ctx.get_usage()}\nTry '{ctx.command_path} --help' for help."
    return usage, _what(error, ctx)


def _what(error: click.ClickException, ctx: click.Context) -> str:
    if isinstance(error, click.NoSuchOption):
        flags = [flag for p in ctx.command.get_params(ctx) for flag in (*p.opts, *p.secondary_opts) if flag[:1] == "-"]
        return f"there is no option {error.option_name}; {did_you_mean(error.option_name, flags)}there are " + (
            ", ".join(flag for flag in flags if flag[:2] == "--")
        )
    choice = getattr(getattr(error, "param", None), "type", None)
    given = re.match(r"'(.*)' is not one of ", error.message)
    if isinstance(choice, click.Choice) and given:
        names = [str(name) for name in choice.choices]
        flag = max(error.param.opts, key=len)  # type: ignore[attr-defined]
        return f"{flag} {given[1]}: {did_you_mean(given[1], names)}there are {', '.join(names)}"
    return error.format_message()


def as_given(without: Collection[str] = ()) -> str:
    """The command that runs, to be given again; empty where it was not typed.

    Parameters
    ----------
    without : collection of str
        Flags to leave out.
    """
    words = click.get_current_context().find_root().obj or []
    return shlex.join(["strfcube", *(word for word in words if word not in without)]) if words else ""
