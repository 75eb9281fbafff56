"""In which order neurons or stimuli are drawn, and what is written beside them.

Nothing here knows matplotlib.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import SelectionError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from numpy.typing import NDArray

_NUMBERS = int | float | np.integer | np.floating
_UNITS = {"depth": "µm", "ldepth": "µm", "rdepth": "µm"}  # where a cube does not state it


@dataclass(frozen=True)
class Group:
    """Neighbours with one value.

    Attributes
    ----------
    name : str
        That value, as it is written.
    start, size : int
        The first of them, in the order in which they are drawn, and how many they are.
    """

    name: str
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Rows:
    """An order, and what it is by.

    Attributes
    ----------
    order : ndarray of int [shape=(row,)]
        Position in the cube of each row.
    groups : tuple of Group
        All rows, or none.
    group_label : str
        What the groups are by.
    marks : tuple of (int, str)
        Boundaries above these rows, and what is written at them: those that were asked for with ``edges``.
    values : ndarray of float [shape=(row,)], optional
        What the rows are sorted by, where that is a number.
    sorted_by : str
        In words, with its unit, and whether descending; "" in the order of the cube.
    """

    order: NDArray[np.intp]
    groups: tuple[Group, ...] = ()
    group_label: str = ""
    marks: tuple[tuple[int, str], ...] = ()
    values: NDArray[np.float64] | None = None
    sorted_by: str = ""


@dataclass(frozen=True, eq=False)
class Measure:
    """A number of each row that is no coordinate: its values [shape=(neuron,)] and its name with its unit."""

    values: NDArray[np.float64]
    label: str


def along(ds: xr.Dataset, dim: str) -> list[str]:
    """Coordinates that lie on a dimension alone, without its own labels."""
    return sorted(str(n) for n, c in ds.coords.items() if c.dims == (dim,) and n != dim)


def words(name: str, attrs: Mapping[Any, Any] | None = None) -> str:
    """A coordinate as it is written beside an axis, with its unit where it has one."""
    unit = str((attrs or {}).get("units", _UNITS.get(name, "")))
    unit = {"um": "µm", "1": ""}.get(unit, unit)
    return name.replace("_", " ") + (f" ({unit})" if unit else "")


def written(name: str, value: Any) -> str:
    """A value as it is written: ``e16`` for electrode 16, ``none`` for an empty text."""
    if isinstance(value, bool | np.bool_):
        return name.replace("_", " ") if value else f"not {name.replace('_', ' ')}"
    if isinstance(value, int | np.integer):
        return f"{name[0]}{value}"
    if isinstance(value, float | np.floating):
        return "unknown" if np.isnan(value) else number(float(value))
    return str(value) or "none"


def number(value: float) -> str:
    """Three digits, and as many more as a whole number has: 1500, 0.347."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def runs(name: str, values: NDArray[Any]) -> tuple[Group, ...]:
    """Neighbours with one value, from the first row on."""
    if not len(values):
        return ()
    other = values[1:] != values[:-1]
    if values.dtype.kind == "f":
        other &= ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
    starts = np.concatenate([[0], np.flatnonzero(other) + 1]).astype(int)
    sizes = np.diff(np.append(starts, len(values)))
    return tuple(Group(written(name, values[a]), int(a), int(n)) for a, n in zip(starts, sizes, strict=True))


def values_of(
    ds: xr.Dataset, dim: str, option: str, name: Any, measures: Mapping[str, Any]
) -> tuple[NDArray[Any], str]:
    """The values along a dimension that an option names, and what they are called.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    dim : {"neuron", "stim"}
    option : str
        Its name, for what is said.
    name : str or xarray.DataArray [dims=(dim,)]
        A coordinate, a measure, or values of the caller's own, with labels.
    measures : mapping of str to callable
        Measures by name, each of which gives a `Measure`.

    Raises
    ------
    SelectionError
        If there is no such coordinate or measure, or the values are of other neurons.
    """
    if hasattr(name, "dims"):
        if name.dims != (dim,):
            raise SelectionError(f"{option}: values with dims {name.dims}, expected ('{dim}',)")
        if dim in name.coords:
            try:
                name = name.sel({dim: ds[dim].values})
            except KeyError:
                raise SelectionError(f"{option}: the values are of other {dim}s than the cube") from None
        if name.sizes[dim] != ds.sizes[dim]:
            raise SelectionError(f"{option}: {name.sizes[dim]} values, expected one a {dim}: {ds.sizes[dim]}")
        title = str(name.attrs.get("long_name") or name.name or "values").replace("_", " ")
        return _plain(name.values), title
    there = along(ds, dim)
    if isinstance(name, str) and name in there:
        return _plain(ds[name].values), words(name, ds[name].attrs)
    if isinstance(name, str) and name in measures:
        found = measures[name]()
        return found.values, found.label
    known = f"{did_you_mean(name, [*there, *measures])}there are the coordinates {', '.join(there)}"
    known += f" and the measures {', '.join(measures)}" if measures else ""
    raise SelectionError(f"{option}={name!r}: nothing on {dim} has this name; {known}")


def _plain(values: Any) -> NDArray[Any]:
    """Values of their own kind: whole numbers, numbers or bools that an array of objects holds; else as they are."""
    found = np.asarray(values)
    if found.dtype != object:
        return found
    for kinds, dtype in ((bool | np.bool_, bool), (int | np.integer, np.int64), (_NUMBERS, float)):
        known = [isinstance(v, kinds) and (dtype is bool or not isinstance(v, bool | np.bool_)) for v in found]
        if len(found) and all(k or (dtype is float and v is None) for k, v in zip(known, found, strict=True)):
            return found.astype(dtype)
    return found


def ranked(values: NDArray[Any], descending: bool = False) -> NDArray[np.intp]:
    """Order by value, then as in the cube; what is not known, NaN or an empty text, comes last.

    Texts that are all numbers go by these: 2 before 10.
    """
    unknown = np.zeros(len(values), bool)
    if values.dtype.kind in "OUST":
        unknown = np.array([v is None or v != v or str(v) == "" for v in values], bool)
        texts = ["" if gone else str(v) for v, gone in zip(values, unknown, strict=True)]
        values = np.array(texts, dtype=object)
        if all(text.isdecimal() for text in texts if text):
            values = np.array([int(text or 0) for text in texts])
    elif values.dtype.kind == "f":
        unknown = np.isnan(values)
    order = np.argsort(values, kind="stable")
    if descending:  # neighbours with one value stay in the order of the cube
        order = len(values) - 1 - np.argsort(values[::-1], kind="stable")[::-1]
    return np.concatenate([order[~unknown[order]], np.flatnonzero(unknown)])


def classes(name: str, values: NDArray[Any], most: int) -> NDArray[Any]:
    """A class of each value, as it is written [shape=(value,)]: numbers of more than `most` kinds go by quartiles.

    Each quartile is named by the lowest and the highest value in it.
    """
    known = np.isfinite(values) if values.dtype.kind in "iuf" else np.zeros(len(values), bool)
    if len(np.unique(values[known])) <= most:
        return np.array([written(name, v) for v in values], dtype=object)
    part = np.searchsorted(np.quantile(values[known], [0.25, 0.5, 0.75]), values, side="right")
    out = np.array([written(name, np.nan)] * len(values), dtype=object)
    for i in np.unique(part[known]):
        own = known & (part == i)
        ends = [written(name, f(values[own])) for f in (np.min, np.max)]
        out[own] = " to ".join(dict.fromkeys(ends))
    return out


def arrange(
    ds: xr.Dataset, dim: str, sort: Any = None, by: Any = None, edges: Any = None,
    measures: Mapping[str, Any] | None = None,
) -> Rows:  # fmt: skip
    """The order of neurons or stimuli, and its boundaries.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    dim : {"neuron", "stim"}
    sort : str or xarray.DataArray, optional
        What they are sorted by, the smallest first, or with a minus before its name the largest; default: the order of
        the cube.
    by : str or xarray.DataArray, optional
        What they are put into groups by, before they are sorted.
    edges : number or sequence of numbers, optional
        Boundaries on the scale of `sort`: 16 is one between electrodes 16 and 17.
    measures : mapping of str to callable, optional
        As for `values_of`.

    Raises
    ------
    SelectionError
        If there is no such coordinate or measure.
    UsageError
        If `edges` is given without a `sort` by numbers, or is no number.
    """
    order = np.arange(ds.sizes[dim])
    key, label, group_label, descending = None, "", "", False
    groups: tuple[Group, ...] = ()
    if sort is not None:
        if isinstance(sort, str) and sort.startswith("-") and sort not in along(ds, dim):
            sort, descending = sort[1:], True
        key, label = values_of(ds, dim, "sort", sort, measures or {})
        order = ranked(key, descending)
        label += ", descending" if descending else ""
    if by is not None:
        kind, group_label = values_of(ds, dim, "by", by, {})
        order = order[ranked(kind[order])]
        groups = runs(_name(by), kind[order])
    numbers = key is not None and key.dtype.kind in "iuf"
    if edges is not None and not (numbers and by is None):
        raise UsageError("edges: give sort=, a coordinate or measure that is a number, and no by=")
    if key is not None and by is None and (key.dtype.kind in "Ob" or (key.dtype.kind in "iu" and edges is None)):
        groups, group_label = runs(_name(sort), key[order]), label
    marks = () if edges is None or key is None else _marks(_name(sort), key[order], edges, descending)
    values = key[order].astype(float) if key is not None and numbers else None
    return Rows(order, groups, group_label, marks, values, label)


def _name(given: Any) -> str:
    return given if isinstance(given, str) else str(given.name or "value")


def _marks(name: str, values: NDArray[Any], edges: Any, descending: bool) -> tuple[tuple[int, str], ...]:
    try:
        places = sorted(float(e) for e in np.atleast_1d(edges))
    except (TypeError, ValueError):
        raise UsageError(f"edges={edges!r}: expected numbers on the scale of {name}") from None
    found = []
    for place in places:
        row = int(np.sum(values > place) if descending else np.sum(values <= place))
        if 0 < row < np.isfinite(values).sum():
            found.append((row, f"{written(name, values[row - 1])}/{written(name, values[row])}"))
    if not found:
        raise UsageError(f"edges={edges!r}: {name} goes from {np.nanmin(values):g} to {np.nanmax(values):g}, "
                         "so that there is nothing on one side")  # fmt: skip
    return tuple(found)


def blocks(ds: xr.Dataset, dim: str, names: tuple[str, ...], most: int = 40) -> list[tuple[str, tuple[Group, ...]]]:
    """Coordinates that cut the order of the cube into a few runs: data sets, classes, splits, areas.

    Those with one value, with more than a dozen, or whose values alternate too often to be seen, are left out.
    """
    found = []
    for name in names:
        if name in along(ds, dim):
            values = np.asarray(ds[name].values)
            cut = runs(name, values)
            if 1 < len({g.name for g in cut}) <= 12 and len(cut) <= most:
                found.append((words(name, ds[name].attrs), cut))
    return found
