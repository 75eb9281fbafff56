"""What a cube has of each pair, and in which unit: repeats are counted by their labels, as `n_repeats` counts them.

``ds.isel(repeat=...)`` leaves some repeats, in any order: the one with label k was recorded where ``k < n_repeats``,
wherever it stands. Nothing here reads a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


def numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Number of each repeat from 0 [shape=(repeat,)]: its label, or its position where labels are no whole numbers."""
    labels = ds["repeat"].values if "repeat" in ds.coords else np.empty(0)
    return labels.astype(np.int64) if labels.dtype.kind in "ui" else np.arange(ds.sizes["repeat"])


def counts(ds: xr.Dataset) -> NDArray[np.int64]:
    """Repeats of each pair that are in the cube [shape=(stim, neuron)]."""
    recorded = ds["n_repeats"].transpose("stim", "neuron").values.astype(np.int64)
    return np.searchsorted(np.sort(numbers(ds)), recorded).astype(np.int64)


def places(ds: xr.Dataset, recorded: int) -> slice | NDArray[np.intp]:
    """Positions of the repeats of a pair that `n_repeats` counts so many of; a slice where they are neighbours."""
    at = np.flatnonzero(numbers(ds) < recorded)
    if len(at) and at[-1] - at[0] + 1 > len(at):
        return at
    return slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0)


def in_order(ds: xr.Dataset) -> xr.Dataset:
    """The repeats by their numbers: those of a pair come first then, as many as `counts` says."""
    own = numbers(ds)
    return ds if (np.diff(own) > 0).all() else ds.isel(repeat=np.argsort(own, kind="stable"))


def own_units(ds: xr.Dataset) -> NDArray[Any]:
    """Unit of the responses of each neuron, ``count`` or ``mV`` [shape=(neuron,)].

    Raises
    ------
    UsageError
        If the cube has lost it.
    """
    if "units" in ds.coords:
        return np.array([str(u) for u in ds["units"].values.ravel()], dtype=object)
    of_all = str(ds["response"].attrs.get("units", ""))
    if of_all not in ("count", "mV"):
        raise UsageError(
            "expected a cube, but it has lost its coordinate 'units': put back what the responses of each neuron are "
            "in, 'count' or 'mV': ds.assign_coords(units=('neuron', [...]))"
        )
    return np.full(ds.sizes["neuron"], of_all, dtype=object)
