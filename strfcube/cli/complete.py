"""What a shell offers for the arguments of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from strfcube import catalog

if TYPE_CHECKING:
    import click


def a_data_set(_: click.Context, __: click.Parameter, begin: str) -> list[CompletionItem]:
    """For a shell: names of data sets."""
    return [CompletionItem(e.name, help=e.title) for e in catalog.entries().values() if e.name.startswith(begin)]


def a_store(ctx: click.Context, param: click.Parameter, begin: str) -> list[CompletionItem]:
    """For a shell: names of data sets whose cubes are built, or a folder."""
    built = {path.name.partition("-dt")[0] for path in catalog.data_dir().glob("*-dt*.zarr")}
    names = [item for item in a_data_set(ctx, param, begin) if item.value in built]
    return names or [CompletionItem(begin, type="dir")]
