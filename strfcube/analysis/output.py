"""Files for people and other programs: where they may be written. One rule for all: nothing is replaced unasked."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from strfcube.cube.store import named
from strfcube.errors import StoreError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def target_of(path: str | os.PathLike[str], endings: Collection[str], *, force: bool = False) -> Path:
    """The file that is to be written.

    Parameters
    ----------
    path : path
        As it was given; ``~`` is expanded.
    endings : collection of str
        What its name may end in.
    force : bool
        Whether a file that is there is replaced.

    Raises
    ------
    UsageError
        For another ending.
    StoreError
        If there is no such folder, it may not be written to, or something is there already that is not to be replaced.
    """
    target = Path(named(path)).expanduser()
    if target.suffix.lower() not in endings:
        hint = did_you_mean(target.suffix, endings)
        raise UsageError(f"{target}: the ending says what is written; {hint}there are {', '.join(endings)}")
    if not target.parent.is_dir():
        raise StoreError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise StoreError(f"cannot write {target}: this is a folder; give the name of a file")
    if not force:
        see_free(target)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write {target}: the folder {target.parent} may not be written to; give another place")
    return target


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Name the file that was asked for, and not the one beside it, where the file system refuses to write it.

    Raises
    ------
    StoreError
        If it does.
    """
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise StoreError(f"cannot write {target}: {what}; free space, or give another place") from error


def see_free(target: Path) -> None:
    """Refuse to replace a file.

    Raises
    ------
    StoreError
        If it is there.
    """
    if os.path.lexists(target):
        raise StoreError(f"{target}: there is such a file already; give another name, or replace it with --force "
                         "(force=True)")  # fmt: skip
