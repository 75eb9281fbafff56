"""The way about a raw folder: what an archive wrapped its folders in, what lies beside them, what is still packed.

What systems leave there is ignored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from strfcube.errors import RawDataError
from strfcube.raw_files import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_DATA = ("all_stims", "all_cells", "Field_L_cells", "MLd_cells")


def find_root(raw: Path, marks: Sequence[str]) -> Path:
    """Find the folder that holds one of the `marks`: the raw folder, or what its archive wrapped it in.

    Raises
    ------
    RawDataError
        If there is none, or more than one.
    """
    for level in _levels(raw):
        found = [folder for folder in level if any((folder / mark).is_dir() for mark in marks)]
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found)
            raise RawDataError(f"expected one folder with {' or '.join(marks)}, found several: {names}", raw)
        if found:
            return found[0]
    message = f"expected the folder {' or '.join(marks)}, found none{packed(raw)}"
    raise RawDataError(f"{message}; give the folder that the archive was unpacked to", raw)


def find_member(raw: Path, root: Path, name: str) -> Path:
    """Find a folder or table beside the cells, or where its own archive was unpacked to, without regard to case.

    What is nowhere gets the place where it should be.

    Parameters
    ----------
    raw : path
        The raw folder.
    root : path
        The folder that holds the cells.
    name : str
        Of the folder or file.
    """
    places = [root, *(folder for level in _levels(raw) for folder in level)]
    alike = (folder / n for folder in places for names in listing(folder) for n in names if n.lower() == name.lower())
    return next((folder / name for folder in places if (folder / name).exists()), next(alike, root / name))


def packed(raw: Path) -> str:
    """Name the archives in the raw folder, for a message that says that something is not there."""
    archives = [name for name in listing(raw)[1] if name.lower().endswith(ARCHIVES)]
    return f" (is it still packed, in {some(archives)}?)" if archives else ""


def elsewhere(raw: Path, begin: str) -> str:
    """Name the folder below the raw folder in which a name begins so, for a message that it is not in the raw folder.

    Parameters
    ----------
    begin : str
        Beginning of the name of a file or folder, without regard to case.
    """
    for level in _levels(raw):
        for folder in level:
            if any(name.lower().startswith(begin.lower()) for names in listing(folder) for name in names):
                return "" if folder == raw else f" (it lies in {folder.relative_to(raw).as_posix()}: give that folder)"
    return ""


def _levels(raw: Path, depth: int = 4) -> Iterator[list[Path]]:
    """Folders by depth, from the raw folder on: what archives wrap theirs in, without what is within the data."""
    level = [raw]
    for _ in range(depth):
        yield level
        inside = [folder / name for folder in level for name in listing(folder)[0]]
        level = [folder for folder in inside if folder.name not in _DATA]


def listing(folder: Path | str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted, without what systems leave; none where it is not."""
    try:
        with os.scandir(folder) as entries:
            seen = sorted((entry.name, entry.is_dir()) for entry in entries if is_ours(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    return [name for name, is_folder in seen if is_folder], [name for name, is_folder in seen if not is_folder]


def ending(folder: Path, end: str) -> list[Path]:
    """Files in a folder whose names end in `end`, in lower case, without regard to case; sorted by name."""
    return [folder / name for name in listing(folder)[1] if name.lower().endswith(end)]


def some(names: Sequence[str], limit: int = 5) -> str:
    """Show the first of some names in a message."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def plain(text: str) -> str:
    """The same text, of a number; Python alone takes ``1_000`` and other scripts' digits for one.

    Raises
    ------
    ValueError
        If it has an underscore or is not ASCII.
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"could not convert string to float: {text[:40]!r}")
    return text
