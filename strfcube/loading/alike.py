"""Whether two views can stand in one batch, or one give what the other is scaled by."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.concat import unlike_recipes
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.loading.view import CubeView


def refuse_unlike(what: str, first: CubeView, second: CubeView, *, batch: bool = False) -> None:
    """Refuse two views that differ in what an array's positions mean.

    Parameters
    ----------
    what : str
        What was asked for, at the head of the message.
    batch : bool
        Whether they are to stand in one batch: then they are read in one way and lie in one place, too.

    Raises
    ------
    UsageError
        With what differs and both values.
    """
    if first is second:
        return
    a, b = first._labels, second._labels
    if not np.array_equal(a, b):
        only = lacking(b, a) or lacking(a, b)
        told = f", such as {only[0]!r}" if only else " in another order"
        raise UsageError(
            f"{what}: the views show different neurons, {len(a)} and {len(b)}{told}; take both from "
            f"view.splits(...), or make one like the other: test.like(train)"
        )
    for name, here, there in zip(("bin widths", "starts of time", "units"), _axes(first), _axes(second), strict=True):
        if here != there:
            raise UsageError(f"{what}: the views have different {name}, {here} and {there}")
    low, high = (view._source.cube["frequency"].values for view in (first, second))
    if not np.array_equal(low, high):
        told = " and ".join(f"{len(v)} ({v[0]:g} to {v[-1]:g} Hz)" if len(v) else "none" for v in (low, high))
        raise UsageError(f"{what}: the views have other frequencies: {told} bands")
    unlike = unlike_recipes(first._source.cube, second._source.cube)
    if unlike is not None:
        name, here, there = unlike
        raise UsageError(f"{what}: the views are of cubes with different {name}, {here!r} and {there!r}")
    if not batch:
        return
    for name in first._place:
        if first._place[name] != second._place[name]:
            raise UsageError(
                f"{what}: the views have different {name}s, {first._place[name]} and {second._place[name]}"
            )
    for field in dataclasses.fields(first._reading):
        if field.name != "cache" and not _same(*(getattr(view._reading, field.name) for view in (first, second))):
            raise UsageError(f"{what}: the views are read differently: {field.name} is not the same")


def lacking(labels: NDArray[Any], others: NDArray[Any]) -> list[Any]:
    """Those of some labels that are not among others."""
    known = set(others.tolist())
    return [label for label in labels.tolist() if label not in known]


def _axes(view: CubeView) -> tuple[str, str, str]:
    cube = view._source.cube
    units = (str(cube[name].attrs.get("units", "")) for name in ("response", "stimulus"))
    return f"{view._reader.dt_ms:g} ms", f"{cube['time'].values[0]:g} s", " of responses and stimuli, ".join(units)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
