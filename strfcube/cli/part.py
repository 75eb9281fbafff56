"""``--only`` for a cube that is built: its part, as a cube for as long as it is needed."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import SelectionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr


@contextmanager
def part_of(store: str, dt: float | None, only: Mapping[str, Sequence[str]], folder: Path) -> Iterator[str]:
    """Path of a cube, or of the part that `only` chooses of it, which lies in a folder meanwhile.

    Raises
    ------
    SelectionError
        If a key or a value is one that nothing has.
    """
    from strfcube.builder.save import save
    from strfcube.cube.store import locate, open

    path = locate(store, dt)
    if not only:
        yield path
        return
    part = chosen(open(path), only)
    with tempfile.TemporaryDirectory(prefix=".strfcube-", dir=folder) as aside:
        yield save(part, Path(aside, Path(path).name), progress=False)


def chosen(ds: xr.Dataset, only: Mapping[str, Sequence[str]]) -> xr.Dataset:
    """What `only` chooses of a cube, with values as `strfcube build` takes them: ``true`` is True, 80 is 80.0."""
    from strfcube.analysis.matching import coordinate
    from strfcube.analysis.select import select
    from strfcube.builder.recipe import among, parse_only

    keys: dict[str, Any] = {}
    for key, wanted in parse_only(only).items():
        there = np.unique(coordinate(ds, key).values).tolist()
        for text in wanted:
            if not any(among(value, (text,)) for value in there):
                names = list(map(str, there))
                more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
                listed = f"{did_you_mean(text, names)}there are {', '.join(names[:20])}{more}"
                raise SelectionError(f"--only {key}={text}: nothing has that; {listed}")
        keys[key] = [value for value in there if among(value, wanted)]
    return select(ds, **keys)
