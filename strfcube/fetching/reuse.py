"""Files that deepSTRF has downloaded already: used where they are the published ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strfcube.fetching.services import Published


def take_over(name: str, published: Published, to: Path) -> str:
    """Link, or else copy, a file of deepSTRF's cache; gives what was done, in words, or nothing.

    Parameters
    ----------
    name : str
        Of the file.
    published : Published
        What it must be. Without an MD5 nothing can be told, and nothing is taken.
    to : path
        Where it goes.
    """
    import pooch

    if not published.md5:
        return ""
    for found in _candidates(name, published.bytes):
        if pooch.file_hash(str(found), "md5") == published.md5:
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(found, to)
            except OSError:  # on another disk
                shutil.copyfile(found, to)
                return f"copied from {found}"
            return f"linked to {found}"
    return ""


def _candidates(name: str, size: int) -> list[Path]:
    from platformdirs import user_cache_dir

    given = os.environ.get("DEEPSTRF_DATA_DIR")
    top = Path(given).expanduser() if given else Path(user_cache_dir("deepSTRF"))
    if not top.is_dir():
        return []
    found = (Path(folder, name) for folder, _, names in os.walk(top) if name in names)
    return [path for path in found if not size or path.stat().st_size == size]
