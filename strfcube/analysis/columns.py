"""The small variables of a pool: on which dimensions they are, and what stands where a cube has no value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import xarray as xr

Index = NDArray[np.intp]
_COUNTS = ("n_repeats", "n_rejected")
_PARTS = ("split", "subset")


def pooled_dims(
    cubes: Sequence[xr.Dataset], labels: Sequence[str], name: str, stims: Sequence[Index]
) -> tuple[str, ...]:
    """Dimensions of a variable in the pool; () for one that pools leave out: of other dimensions, or of none.

    On stim in one cube and on stim and neuron in another it is on both. So is a ``split`` on stim of which cubes differ
    about a stimulus that they share: each divides the responses of its own neurons.

    Parameters
    ----------
    cubes, labels : sequence
        The cubes and their names.
    name : str
        A variable that at least one of them has.
    stims : sequence of ndarray of int [shape=(stim,)]
        Position in each cube of each pooled stimulus, -1 where the cube lacks it.

    Raises
    ------
    UsageError
        If it is on stim in one cube and on neuron in another, or on dimensions that pools do not have.
    """
    there = {label: ds[name].dims for ds, label in zip(cubes, labels, strict=True) if name in ds.variables}
    pooling = {frozenset(dims) for dims in there.values() if dims and set(dims) <= {"stim", "neuron"}}
    if not pooling:
        return ()
    both = frozenset(("stim", "neuron"))
    strange = any(not set(dims) <= both for dims in there.values())
    if strange or (len(pooling) > 1 and both not in pooling):
        said = ", ".join(f"on {' and '.join(map(str, dims)) or 'nothing'} in {label}" for label, dims in there.items())
        raise UsageError(
            f"concat: '{name}' is {said}: rename it in one of them, ds.rename({name}=...), or leave it out, "
            f"ds.drop_vars('{name}')"
        )
    dims = frozenset().union(*pooling)
    if dims == {"stim"} and name in _PARTS and _differ([ds.variables.get(name) for ds in cubes], stims):
        dims = both
    return tuple(d for d in ("stim", "neuron") if d in dims)


def _differ(columns: Sequence[xr.Variable | None], stims: Sequence[Index]) -> bool:
    """Whether cubes that share a stimulus say different things of it."""
    seen: dict[int, str] = {}
    for column, at in zip(columns, stims, strict=True):
        if column is None or not column.dims:
            continue
        values = column.values
        for row in np.flatnonzero(at >= 0).tolist():
            value = str(values[at[row]])
            if seen.setdefault(row, value) != value:
                return True
    return False


def pooled(
    cubes: Sequence[xr.Dataset], name: str, dims: tuple[str, ...], stims: Sequence[Index], owner: Index
) -> NDArray[Any]:
    """Values of a variable in the pool; what a cube lacks is "" or NaN, 0 in counts of trials and False in flags.

    Parameters
    ----------
    cubes, name, stims
        As for `pooled_dims`.
    dims : tuple of str
        As that gives them.
    owner : ndarray of int [shape=(stim,)]
        The cube that says what each pooled stimulus is.
    """
    there: list[NDArray[Any] | None] = []
    for ds in cubes:
        column: Any = ds[name].variable if name in ds.variables else None  # whose `set_dims` has no types
        there.append(
            None if column is None else column.set_dims({d: ds.sizes[d] for d in dims}).transpose(*dims).values
        )
    complete = all(v is not None for v in there) and (len(dims) == 1 or all((s >= 0).all() for s in stims))
    dtype, empty = _kind([v.dtype for v in there if v is not None], complete, name in _COUNTS)
    there = [v if v is None or dtype.kind != "O" else _text(v) for v in there]
    sizes = {"stim": len(owner), "neuron": sum(ds.sizes["neuron"] for ds in cubes)}
    out = np.full([sizes[d] for d in dims], empty, dtype)
    first = 0
    for c, (ds, values, at) in enumerate(zip(cubes, there, stims, strict=True)):
        last = first + ds.sizes["neuron"]
        if values is not None:
            rows = at >= 0
            if dims == ("stim",):
                # The owner's word, or where it has none that of the first cube that has one
                rows &= np.array([there[o] is None for o in owner.tolist()]) & _first(there, stims, c) | (owner == c)
                out[rows] = values[at[rows]]
            elif dims == ("neuron",):
                out[first:last] = values
            else:
                out[rows, first:last] = values[at[rows]]
        first = last
    return out


def _first(there: Sequence[Any], stims: Sequence[Index], c: int) -> NDArray[np.bool_]:
    """Where no cube before this one has both the stimulus and a word on it."""
    before = [at >= 0 for values, at in zip(there[:c], stims[:c], strict=True) if values is not None]
    return ~np.any(before, axis=0) if before else np.ones(len(stims[c]), bool)


def _kind(dtypes: Sequence[np.dtype[Any]], complete: bool, counts: bool) -> tuple[np.dtype[Any], Any]:
    """Dtype that holds the values of all cubes, and what is missing in it."""
    kinds = {d.kind for d in dtypes}
    if kinds <= {"b"}:
        return np.dtype(bool), False
    if kinds <= set("ui") and (complete or counts):
        return np.result_type(*dtypes), 0
    if kinds <= set("uif"):
        return np.dtype(np.float64), np.nan
    return np.dtype(object), ""


def _text(values: NDArray[Any]) -> NDArray[Any]:
    """As text, of which what is missing, in numbers too, is ""."""
    words = ["" if v is None or v != v else str(v) for v in values.ravel()]
    return text(words).reshape(values.shape)


def text(values: Iterable[str]) -> NDArray[Any]:
    """A column of text as a cube holds it: objects, never of fixed width."""
    several = list(values)
    out = np.empty(len(several), object)
    out[:] = several
    return out
