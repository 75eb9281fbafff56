"""Which stimuli and neurons a key, a value or a predicate stands for, and what is said where it stands for none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.errors import SelectionError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr

Bools = NDArray[np.bool_]
_SHOWN = 20  # values listed in a message


def coordinate(ds: xr.Dataset, key: str) -> xr.DataArray:
    """A coordinate to select by; where there is none, the message says what there is."""
    names = {str(n): dims_of(c) for n, c in ds.coords.items() if dims_of(c)}
    if key in names:
        return ds.coords[key]
    hint = f"; {did_you_mean(key, names)}there are"
    if key in ds.dims:
        hint = f"; take part of '{key}' with ds.isel({key}=...). There are"
    elif key in ds.data_vars:
        hint = f", but a variable: use where=lambda ds: ds.{key} > ... There are"
    on = {dims: sorted(n for n, d in names.items() if d == dims) for dims in dict.fromkeys(names.values())}
    listed = "; ".join(f"on {' and '.join(dims)}: {', '.join(n)}" for dims, n in on.items())
    raise SelectionError(f"'{key}' is no coordinate to select by{hint} {listed}")


def dims_of(coord: xr.DataArray) -> tuple[str, ...]:
    """Dimensions in the order (stim, neuron); () for a coordinate that does not select."""
    if not coord.dims or not set(coord.dims) <= {"stim", "neuron"}:
        return ()
    return tuple(d for d in ("stim", "neuron") if d in coord.dims)


def matches(key: str, coord: xr.DataArray, wanted: Any) -> Bools:
    """Where a coordinate is what is wanted: a value, several, a slice of numbers, or a callable."""
    values = coord.transpose(*dims_of(coord)).values
    if callable(wanted):
        mask = np.asarray(wanted(values))
        if mask.dtype != bool or mask.shape != values.shape:
            raise SelectionError(
                f"{key}: expected a callable from the values to bools of shape {values.shape}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
    elif isinstance(wanted, slice):
        mask = _between(key, values, wanted)
    else:
        return _among(key, coord, values, wanted)
    if not mask.any():
        raise SelectionError(f"nothing has {key}={told(wanted)}; there is {_listed(values)}")
    return mask


def _between(key: str, values: NDArray[Any], wanted: slice) -> Bools:
    if values.dtype.kind not in "iuf" or wanted.step is not None:
        raise SelectionError(
            f"{key}={wanted!r}: a slice without a step chooses numbers, and '{key}' holds {values.dtype}"
        )
    mask = np.ones(values.shape, bool) if values.dtype.kind != "f" else ~np.isnan(values)
    if wanted.start is not None:
        mask &= values >= wanted.start
    if wanted.stop is not None:
        mask &= values <= wanted.stop
    return mask


def _among(key: str, coord: xr.DataArray, values: NDArray[Any], wanted: Any) -> Bools:
    if isinstance(wanted, Iterable) and not isinstance(wanted, str | bytes | Mapping):
        several = np.asarray(wanted).ravel().tolist() if hasattr(wanted, "dtype") else list(wanted)
    else:
        several = [wanted]
    flat = values.ravel().tolist()
    there = dict.fromkeys(flat)
    chosen, missing = set(), False  # a value that is no number equals nothing, not even itself
    for value in several:
        if isinstance(value, float) and math.isnan(value):
            missing = known = any(v != v for v in flat)
        elif known := _known(there, flat, value):
            chosen.add(value)
        if not known:
            which = " and ".join(dims_of(coord))
            hint = did_you_mean(value, there)
            raise SelectionError(f"no {which} has {key}={value!r}; {hint}there is {_listed(values)}")
    mask = np.array([v in chosen or (missing and v != v) for v in flat], bool)
    return mask.reshape(values.shape)


def _known(there: Mapping[Any, Any], flat: list[Any], value: Any) -> bool:
    try:
        known = value in there
    except TypeError:
        return False
    # A bool equals 1 or 0 in Python; electrode=True is a slip, not electrode 1.
    return known and not (isinstance(value, bool | np.bool_) and not isinstance(flat[0], bool))


def told(wanted: Any) -> str:
    """What was asked for, in a message: of many values the first."""
    several = isinstance(wanted, Sequence) and not isinstance(wanted, str | bytes)
    if (several or (isinstance(wanted, np.ndarray) and wanted.ndim == 1)) and len(wanted) > _SHOWN:
        first = wanted[:3].tolist() if isinstance(wanted, np.ndarray) else wanted[:3]
        return f"[{', '.join(map(repr, first))}, ...] ({len(wanted):,} values)"
    if getattr(wanted, "ndim", 0) and wanted.size > _SHOWN:
        return f"a {type(wanted).__name__} of shape {wanted.shape}"
    return repr(wanted)


def _listed(values: NDArray[Any]) -> str:
    there = Counter(v for v in values.ravel().tolist() if v == v)
    if values.dtype.kind in "iuf" and len(there) > _SHOWN:
        return f"{min(there)!r} to {max(there)!r}"
    names = [f"{value!r} ({count})" if count > 1 else repr(value) for value, count in list(there.items())[:_SHOWN]]
    more = f", and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return (", ".join(names) or "no value at all") + more


def labelled(values: Any, dim: str) -> xr.DataArray | None:
    """A DataArray or a Series with labels of its own on a dimension; None for what has none."""
    import pandas as pd
    import xarray as xr

    if isinstance(values, pd.Series):
        if isinstance(values.index, pd.RangeIndex) and values.index.equals(pd.RangeIndex(len(values))):
            return None
        return xr.DataArray(values.values, {dim: values.index.values}, [dim])
    return values if isinstance(values, xr.DataArray) and dim in values.dims and dim in values.coords else None


def in_order(mask: Any, dim: str, labels: NDArray[Any], what: str) -> Any:
    """A mask in the order of the labels of a cube, whatever order it came in; one without labels as it is.

    Parameters
    ----------
    mask : Any
        Bools, on `dim` and perhaps on other dims.
    dim, labels : str, ndarray [shape=(size,)]
        A dimension of the cube, and its labels.
    what : str
        What was asked for, at the head of the message.

    Raises
    ------
    SelectionError
        If the mask is on another dimension, or has labels, and lacks one of the cube's, or has one twice.
    """
    import pandas as pd

    dims = tuple(getattr(mask, "dims", (dim,)))
    if dim not in dims:
        raise SelectionError(f"{what}: expected bools on '{dim}', got some on {dims}")
    given = labelled(mask, dim)
    if given is None:
        return mask
    own = given[dim].values
    if own is labels or (len(own) == len(labels) and own.tolist() == labels.tolist()):
        return given
    index = pd.Index(own, dtype=object)
    if not index.is_unique:
        raise SelectionError(
            f"{what}: labels of '{dim}' come twice in the mask, such as {own[index.duplicated()][0]!r}"
        )
    at = index.get_indexer(pd.Index(labels, dtype=object))
    if (at < 0).any():
        lacking = labels[at < 0]
        raise SelectionError(
            f"{what}: the mask says nothing of {len(lacking)} of {len(labels)} labels of '{dim}', such as "
            f"{lacking[0]!r}; make it of this cube, or give .values if its order is this cube's"
        )
    return given.isel({dim: at})


def predicate(
    ds: xr.Dataset, where: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray
) -> tuple[tuple[str, ...], Bools]:
    """Dimensions and values of a predicate, in the order of the labels of the cube."""
    import xarray as xr

    given = where(ds) if callable(where) else where
    if not isinstance(given, xr.DataArray) or given.dtype != bool or not dims_of(given):
        raise SelectionError(
            f"where: expected a DataArray of bool on stim, neuron or both, such as ds.depth > 300, got {told(given)}"
        )
    dims = dims_of(given)
    for dim in dims:
        given = in_order(given, dim, ds[dim].values, "where")
    expected = tuple(ds.sizes[d] for d in dims)
    if tuple(given.sizes[d] for d in dims) != expected:
        raise SelectionError(f"where: expected shape {expected} on {dims}, got {dict(given.sizes)}")
    mask = np.asarray(given.transpose(*dims).values)
    if not mask.any():
        raise SelectionError("where: the predicate holds for nothing")
    return dims, mask
