"""What every reader of a cube relies on: its small variables in memory, its dimensions in order, its counts true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


_DIMS = {
    "response": ("stim", "neuron", "repeat", "time"), "stimulus": ("stim", "frequency", "time"),
    "n_repeats": ("stim", "neuron"), "n_bins": ("stim",),
}  # fmt: skip


def check(ds: xr.Dataset, *names: str) -> xr.Dataset:
    """Refuse a Dataset whose variables are not those of a cube any more; counts that became floats are whole again.

    Parameters
    ----------
    names : str
        Variables that are needed.

    Raises
    ------
    UsageError
        If one is missing, or has lost a dimension, got another, or holds missing values; the message says what does
        that in xarray, and what to do.
    """
    missing = [n for n in names if n not in ds.variables]
    if missing:
        raise UsageError(f"expected a cube, but it has no {' or '.join(missing)}; open it with strfcube.open")
    lost = [d for d in dict.fromkeys(d for n in names for d in _DIMS[n]) if d not in ds.dims]
    if lost:
        what = " and ".join(lost)
        raise UsageError(f"expected a cube, but it has no dimension {what}; take one with a list: isel({lost[0]}=[0])")
    for name in names:
        gone = [d for d in _DIMS[name] if d not in ds[name].dims]
        if gone and set(ds[name].dims) < set(_DIMS[name]):
            raise UsageError(
                f"expected a cube, but '{name}' has lost its dimension {' and '.join(gone)}, as a mean over it has: "
                f"keep it with .expand_dims({gone[0]}=[0])"
            )
        if set(ds[name].dims) != set(_DIMS[name]):
            raise UsageError(
                f"expected a cube, but '{name}' is on {ds[name].dims} and not on {_DIMS[name]}: ds.where(...) spreads "
                "every variable over the dims of its condition; use ds.strf.where(...) or ds.strf.sel(...)"
            )
    for dim in dict.fromkeys(d for n in names for d in _DIMS[n]):
        labels = ds[dim].values
        if (labels != labels).any():
            raise UsageError(
                f"expected a cube, but {int((labels != labels).sum())} labels of '{dim}' are missing (ds.pad and "
                "outer joins do that): label them, or leave them out"
            )
    whole = {}
    for name in ("n_repeats", "n_bins"):
        if name not in names or ds[name].dtype.kind in "ui":
            continue
        counts = np.asarray(ds[name].values)
        if counts.dtype.kind != "f" or not (counts == np.rint(counts)).all() or (counts < 0).any():
            raise UsageError(
                f"expected whole numbers in '{name}', got {counts.dtype} with missing or broken values: where there is "
                f"none it is 0, as in ds.{name}.where(condition, 0)"
            )
        whole[name] = ds[name].copy(deep=False, data=counts.astype(np.uint16 if name == "n_repeats" else np.int32))
    return ds.assign(whole) if whole else ds


def loaded(ds: xr.Dataset) -> xr.Dataset:
    """Load everything of a cube but ``response`` and ``stimulus``; count only the repeats and bins that are left in it.

    Raises
    ------
    UsageError
        If it lacks what a cube has: see `check`.
    """
    ds = check(ds, *_DIMS)
    if "dt_ms" not in ds.attrs:
        raise UsageError(
            "expected a cube, but it has lost its attribute dt_ms: put it back with ds.assign_attrs(dt_ms=...)"
        )
    if ds["response"].dtype.kind in "ui" and "_FillValue" in ds["response"].attrs:
        raise UsageError("response holds stored bytes; open the cube without mask_and_scale=False")
    ds = ds.transpose("stim", "neuron", "repeat", "frequency", "time", ...)
    lazy = [n for n, v in ds.variables.items() if n not in ("response", "stimulus") and v.ndim <= 2]
    ds = ds.assign_coords({n: ds[n].load() for n in lazy if n in ds.coords and n not in ds.indexes}).assign(
        {n: ds[n].load() for n in lazy if n not in ds.coords}
    )
    bins = np.rint(ds["time"].values / (float(ds.attrs["dt_ms"]) / 1000)).astype(int)
    for name, labels in (("n_repeats", ds["repeat"].values), ("n_bins", bins)):
        counts = np.asarray(ds[name].values)
        if len(labels) < counts.max(initial=0) or (np.diff(labels) <= 0).any():
            ds = ds.assign({name: ds[name].copy(deep=False, data=_reached(labels, counts))})
    return with_own_units(ds)


def _reached(labels: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Length that holds every label below a count, for cubes that ``ds.isel`` left some repeats or bins of."""
    reach = np.zeros(int(counts.max(initial=0)) + 1, counts.dtype)
    known = labels < len(reach) - 1
    np.maximum.at(reach, labels[known] + 1, np.flatnonzero(known) + 1)
    return np.asarray(np.maximum.accumulate(reach)[counts])


def with_own_units(ds: xr.Dataset) -> xr.Dataset:
    """Let the unit of ``mixed`` responses be that of the neurons that are left, where these have one."""
    if ds["response"].attrs.get("units") != "mixed" or "units" not in ds.coords:
        return ds
    own = {str(u) for u in ds["units"].values.ravel()}
    return ds.assign(response=ds["response"].assign_attrs(units=own.pop())) if len(own) == 1 else ds
