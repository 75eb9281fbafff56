"""Which cubes that are there can be had at another bin width, without the raw files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from strfcube.catalog import data_dir, entries
from strfcube.cube.groups import open_group
from strfcube.cube.store import existing_cube
from strfcube.errors import StrfcubeError
from strfcube.grid import dt_to_ns

if TYPE_CHECKING:
    from pathlib import Path


def rebinning(name: str, dt_ns: int) -> str:
    """The command that makes the complete default cube of a data set at a bin width of one at another.

    Parameters
    ----------
    name : str
        A data set of the catalog.
    dt_ns : int
        The bin width.

    Returns
    -------
    str
        ``"strfcube rebin ns1 --dt 1"``; empty where no cube is there, or none that can go to that width.
    """
    usual = dt_to_ns(entries()[name].recipe["dt"])
    there = [(path, re.fullmatch(rf"{re.escape(name)}-dt([0-9.]+)\.zarr", path.name))
             for path in sorted(data_dir().glob(f"{name}-dt*.zarr"))]  # fmt: skip
    found = [(dt_to_ns(float(match[1])) != usual, match[1], path) for path, match in there if match]
    for other, width, path in sorted(found, key=lambda one: one[0]):  # first the one that goes by the name alone
        if _goes_to(path, dt_ns):
            return f"strfcube rebin {name}{f' --from-dt {width}' if other else ''} --dt {dt_ns / 1e6:g}"
    return ""


def _goes_to(path: Path, dt_ns: int) -> bool:
    """Whether `rebin` makes bins of that width of a cube, as far as its metadata and its trials say."""
    try:
        root = existing_cube(str(path))
        if root is None or "trials" not in root.nodes:
            return False
        if dt_ns % dt_to_ns(root.attrs["dt_ms"]) == 0:
            return True
        published = json.loads(root.attrs["recipe"])["front_end"]["kind"] == "published"
        return not published and bool(open_group(str(path), "trials")["exact"].values.all())
    except (StrfcubeError, OSError, KeyError, TypeError, ValueError):  # a cube that is damaged makes none
        return False
