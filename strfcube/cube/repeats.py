"""Which repeats of each pair a cube still holds: ``n_repeats`` counts them, labels of ``repeat`` say which are left.

The trials of a pair are numbered from 0, and label ``k`` of ``repeat`` is trial ``k`` of every pair. A part
(``ds.isel(repeat=...)``) keeps its labels, and ``n_repeats`` still counts what was recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


def numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Which trial of each pair every position of ``repeat`` is [shape=(repeat,)].

    Where the responses lie in a store, that says it; else the labels do, if they can be such numbers; else positions.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part or a pool.
    """
    from strfcube.cube.lazy_array import rows_of

    rows = rows_of(ds["response"]) if "response" in ds else None
    if rows is not None and 2 in rows.dims:
        return rows.rest[0].astype(np.int64)
    positions = np.arange(ds.sizes["repeat"])
    if "repeat" not in ds.coords:
        return positions
    labels = ds["repeat"].values
    own = labels.dtype.kind in "uif" and (labels == np.rint(labels)).all() and (labels >= 0).all()
    return labels.astype(np.int64) if own else positions


def left(ds: xr.Dataset) -> NDArray[Any]:
    """Trials of each pair that are left [shape=(stim, neuron)]."""
    counts = ds["n_repeats"].transpose("stim", "neuron").values
    if "repeat" not in ds.sizes:
        return np.asarray(counts)
    found = np.searchsorted(np.sort(numbers(ds)), counts, side="left")
    return np.asarray(found.astype(counts.dtype))


def places(ds: xr.Dataset, recorded: int) -> slice | NDArray[np.intp]:
    """Positions of the repeats of a pair that `n_repeats` counts so many of; a slice where they are neighbours."""
    at = np.flatnonzero(numbers(ds) < recorded)
    if len(at) and at[-1] - at[0] + 1 > len(at):
        return at
    return slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0)


def rising(ds: xr.Dataset) -> xr.Dataset:
    """The same with its repeats in the order in which they were recorded: those of a pair come first."""
    order = numbers(ds)
    return ds if (np.diff(order) > 0).all() else ds.isel(repeat=np.argsort(order, kind="stable"))


def numbered_anew(ds: xr.Dataset) -> xr.Dataset:
    """A cube of its own: ``n_repeats`` counts the trials that are left, and labels of ``repeat`` count from 0.

    Parameters
    ----------
    ds : xarray.Dataset
        As `rising` gives it.
    """
    counts = ds["n_repeats"].transpose("stim", "neuron")
    labels = np.arange(ds.sizes["repeat"], dtype=np.int32)
    ds = ds.assign(n_repeats=counts.copy(deep=False, data=left(ds)))
    return ds.assign_coords(repeat=("repeat", labels, ds["repeat"].attrs))
