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
    """For a shell: names of data sets whose cubes are built, cubes of the data folder, or a folder."""
    cubes = sorted(path.name for path in catalog.data_dir().glob("*.zarr"))
    built = {name.partition("-dt")[0] for name in cubes if "-dt" in name}
    names = [item for item in a_data_set(ctx, param, begin) if item.value in built]
    names += [CompletionItem(name) for name in cubes if name.startswith(begin)]
    return names or [CompletionItem(begin, type="dir")]


def a_kind(_: click.Context, __: click.Parameter, begin: str) -> list[CompletionItem]:
    """For a shell: kinds of pictures."""
    from strfcube.analysis.plot import KINDS

    return [CompletionItem(kind) for kind in KINDS if kind.startswith(begin)]
