"""What every reader of a cube relies on: its small variables in memory, its dimensions in order, its counts true."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.repeats import numbers, rising
from strfcube.errors import UsageError
from strfcube.grid import bin_starts, bins_of, dt_to_ns

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.stored_rows import Rows


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
        If `ds` is no Dataset, or a variable is missing, or has lost a dimension, got another, or holds missing values;
        if labels come twice, or those of time are no bins of the cube. The message says what does that in xarray, and
        what to do.
    """
    if not hasattr(ds, "data_vars"):
        given = f"a {type(ds).__name__}"
        if isinstance(ds, str | os.PathLike):
            given = f"{os.fspath(ds)!r}: open it with strfcube.open({os.fspath(ds)!r})"
        raise UsageError(f"expected a cube that is open, an xarray.Dataset, got {given}")
    missing = [n for n in names if n not in ds.variables]
    if missing:
        raise UsageError(f"expected a cube, but it has no {' or '.join(missing)}; open it with strfcube.open")
    dims = list(dict.fromkeys(d for n in names for d in _DIMS[n]))
    lost = [d for d in dims if d not in ds.dims]
    if lost:
        what = " and ".join(lost)
        raise UsageError(
            f"expected a cube, but it has no dimension {what}; take one with a list, isel({lost[0]}=[0]), and leave "
            "the names of dimensions as they are"
        )
    for name in names:
        _check_dims(ds, name)
    if "n_bins" in names and "time" in ds.dims:
        dims.append("time")
    for dim in dict.fromkeys(dims):
        _check_labels(ds, dim)
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
    ds = ds.assign(whole) if whole else ds
    if "time" not in dims:
        return ds
    bins = _bins(ds)
    return _counted(ds, bins) if "n_bins" in names else ds


def _check_dims(ds: xr.Dataset, name: str) -> None:
    gone = [d for d in _DIMS[name] if d not in ds[name].dims]
    if gone and set(ds[name].dims) < set(_DIMS[name]):
        raise UsageError(
            f"expected a cube, but '{name}' has lost its dimension {' and '.join(gone)}, as a mean over it has: "
            f"keep it with .expand_dims({gone[0]}=[0])"
        )
    if set(ds[name].dims) != set(_DIMS[name]):
        raise UsageError(
            f"expected a cube, but '{name}' is on {ds[name].dims} and not on {_DIMS[name]}: ds.where(...) spreads "
            "every variable over the dims of its condition (expand_dims and xr.concat do the like); use "
            "ds.strf.where(...) or ds.strf.sel(...), or change one variable alone"
        )


def _check_labels(ds: xr.Dataset, dim: str) -> None:
    if dim in ("stim", "neuron") and dim not in ds.coords:
        raise UsageError(f"expected a cube, but it has lost the labels of '{dim}': ds.assign_coords({dim}=...)")
    labels = ds[dim].values
    if not len(labels) and dim != "frequency":  # a cube can be built without the sounds
        raise UsageError(f"expected a cube, but nothing of '{dim}' is left in it")
    if (labels != labels).any():
        raise UsageError(
            f"expected a cube, but {int((labels != labels).sum())} labels of '{dim}' are missing (ds.pad and "
            "outer joins do that): label them, or leave them out"
        )
    index = ds.get_index(dim)
    if dim in ("stim", "neuron", "repeat") and not index.is_unique:
        twice = index[index.duplicated()]
        raise UsageError(
            f"expected a cube, but {len(twice)} labels of '{dim}' come twice, such as {twice[0]!r}: take each once, or "
            f"give copies labels of their own with ds.assign_coords({dim}=...)"
        )


def _bins(ds: xr.Dataset) -> NDArray[np.int64]:
    """Bin that each time label names; refuses those that are not consecutive ones of ``dt_ms``."""
    if "dt_ms" not in ds.attrs:
        raise UsageError(
            "expected a cube, but it has lost its attribute dt_ms: put it back with ds.assign_attrs(dt_ms=...)"
        )
    try:
        return bins_of(ds["time"].values, float(ds.attrs["dt_ms"]))
    except UsageError as error:
        raise UsageError(
            f"expected a cube, but {error}; take time in one piece, isel(time=slice(a, b)), make other bins with "
            "strfcube.rebin, and where the values are of other bins already, say so: ds.assign_attrs(dt_ms=...), and "
            "ds.coarsen(time=..., coord_func='min') for labels that are left edges"
        ) from None


def _counted(ds: xr.Dataset, bins: NDArray[np.int64]) -> xr.Dataset:
    """Let ``n_bins`` count what is left of a part in time; its ``first_bin`` then says from where on."""
    counts = ds["n_bins"]
    dt_ms, most, first = float(ds.attrs["dt_ms"]), int(counts.max()), int(counts.attrs.get("first_bin", 0))
    if (width := _width_counted(ds)) != dt_ms:
        raise UsageError(
            f"expected a cube, but n_bins counts up to {most} bins, and time ends at {bins[-1] + 1} of {dt_ms:g} ms: "
            f"n_bins still counts bins of {width:g} ms; ds.assign(n_bins=...) with those of {dt_ms:g} ms"
        )
    if first == bins[0] and most <= len(bins):
        return ds
    left = (counts.values.astype(np.int64) + first - bins[0]).clip(0, len(bins))
    attrs = {k: v for k, v in counts.attrs.items() if k != "first_bin"} | (
        {"first_bin": int(bins[0])} if bins[0] else {}
    )
    return ds.assign(n_bins=counts.copy(deep=False, data=left.astype(counts.dtype)).assign_attrs(attrs))


def _width_counted(ds: xr.Dataset) -> float:
    """Width in ms of the bins that ``n_bins`` counts: those of the cube, or those it was built with and has joined.

    Stimuli say which: their bins are as long as they last.
    """
    dt_ms, built = float(ds.attrs["dt_ms"]), recipes(ds.attrs.get("recipe"))
    widths = {float(r["dt_ms"]) for r in built if "dt_ms" in r}
    if widths <= {dt_ms}:
        return dt_ms
    counts = ds["n_bins"].values + int(ds["n_bins"].attrs.get("first_bin", 0))
    post = max((float(r.get("post_ms") or 0) for r in built), default=0.0)
    lasting = 1000 * ds["duration"].values.astype(float) + post if "duration" in ds else np.full(len(counts), np.nan)
    known = np.isfinite(lasting) & (ds["n_bins"].values > 0)
    if not known.any():
        raise UsageError(
            f"expected a cube, but its bins of {dt_ms:g} ms are not those that it was built with, and without "
            "'duration' nothing tells which n_bins counts: make other bins with strfcube.rebin"
        )

    def apart(width: float) -> float:
        return float(np.abs(counts * width - lasting)[known].sum())

    return min([dt_ms, *sorted(widths)], key=apart)


def recipes(recipe: Any) -> list[dict[str, Any]]:
    """The recipe of a cube, or those of a pool; none of a Dataset of one's own."""
    if isinstance(recipe, str):
        try:
            recipe = json.loads(recipe)
        except ValueError:
            return []
    if not isinstance(recipe, dict):
        return []
    if isinstance(recipe.get("pool"), dict):
        return [found for part in recipe["pool"].values() for found in recipes(part)]
    return [recipe] if recipe else []


def loaded(ds: xr.Dataset) -> xr.Dataset:
    """Load everything of a cube but ``response`` and ``stimulus``; repeats in order, ``n_bins`` of what is left.

    Raises
    ------
    UsageError
        If it lacks what a cube has: see `check`.
    """
    ds = check(ds, *_DIMS)
    if ds["response"].dtype.kind in "ui" and "_FillValue" in ds["response"].attrs:
        raise UsageError("response holds stored bytes; open the cube without mask_and_scale=False")
    ds = ds.transpose("stim", "neuron", "repeat", "frequency", "time", ...)
    lazy = [n for n, v in ds.variables.items() if n not in ("response", "stimulus") and v.ndim <= 2]
    ds = ds.assign_coords({n: ds[n].load() for n in lazy if n in ds.coords and n not in ds.indexes}).assign(
        {n: ds[n].load() for n in lazy if n not in ds.coords}
    )
    ds = rising(ds)
    labels = bin_starts(len(bins := _bins(ds)), dt_to_ns(ds.attrs["dt_ms"]), int(bins[0]))
    if not np.array_equal(labels, ds["time"].values):  # those of float32, say
        ds = ds.assign_coords(time=ds["time"].copy(deep=False, data=labels))
    return with_own_units(ds)


def as_recorded(ds: xr.Dataset) -> xr.Dataset:
    """Let ``response`` be missing where ``n_repeats`` and ``n_bins`` say that nothing was recorded.

    In a store it is. Zeros get there by ``ds.fillna(0)``, by sums that pass over what is missing, and by the like; a
    measure would count them as repeats without a spike.

    Parameters
    ----------
    ds : xarray.Dataset
        As `check` gives it.

    Raises
    ------
    UsageError
        If there is anything but zeros in repeats that were not recorded; of a lazy response, when it is computed.
    """
    import xarray as xr

    from strfcube.cube.lazy_array import rows_of

    response = ds["response"]
    rows = rows_of(response)
    if rows is not None and not _holds_more(rows, ds):
        return ds
    heard = ds["n_repeats"].variable.to_base_variable() > xr.Variable("repeat", numbers(ds))
    within = xr.Variable("stim", ends_of(ds)) > xr.Variable("time", _bins(ds))
    values: Any = response.variable.to_base_variable()  # whose `where` has no types
    if response.chunks is None and not _more_than(values, heard, within):
        return ds
    kept: Any = xr.apply_ufunc(
        _cut, values, heard, within, dask="parallelized", output_dtypes=[np.result_type(values.dtype, np.float32)]
    )
    return ds.assign(response=response.copy(deep=False, data=kept.transpose(*response.dims).data))


def _holds_more(rows: Rows, ds: xr.Dataset) -> bool:
    """Whether stores hold trials or bins that ``n_repeats`` and ``n_bins``, changed since, say there are none of."""
    counts, ends = ds["n_repeats"].transpose("stim", "neuron").values, ends_of(ds)
    last, first = int(_bins(ds)[-1]) + 1, 0
    for part in rows.parts:
        here, kept, own = part.stim >= 0, part.source.kept, counts[:, first : first + len(part.neuron)]
        first += len(part.neuron)
        if part.source.ends is not None and (ends[here] < np.minimum(part.source.ends[part.stim[here]], last)).any():
            return True
        if kept is None or np.may_share_memory(own, kept):
            continue
        # Stimulus after stimulus: a survey's counts are 140 MB
        if any((own[s] < kept[at, part.neuron]).any() for s, at in enumerate(part.stim.tolist()) if at >= 0):
            return True
    return False


def _cut(values: NDArray[Any], heard: NDArray[np.bool_], within: NDArray[np.bool_]) -> NDArray[Any]:
    """Values where they were recorded, else NaN; the three fit each other by broadcasting."""
    strange = (values != 0) & (values == values) & ~heard
    if strange.any():
        raise _unrecorded(int(strange.sum()))
    return np.where(heard & within, values, np.float32(np.nan))


def _unrecorded(number: int) -> UsageError:
    return UsageError(
        f"expected a cube, but {number:,} bins of repeats that were not recorded hold values: label k of 'repeat' is "
        "trial k of every pair, counted from 0, and n_repeats says how many there are. After other labels, "
        "ds.assign_coords(repeat=range(...)); after xr.concat or the like, ds.assign(n_repeats=...); pairs are hidden "
        "by ds.strf.where(...)"
    )


def ends_of(ds: xr.Dataset) -> NDArray[np.int64]:
    """First bin after each stimulus [shape=(stim,)]; the largest number there is where that is not known."""
    if "n_bins" not in ds:
        return np.full(ds.sizes["stim"], np.iinfo(np.int64).max)
    _check_dims(ds, "n_bins")
    if not np.isfinite(ds["n_bins"].values).all():
        return np.full(ds.sizes["stim"], np.iinfo(np.int64).max)
    ends = ds["n_bins"].values.astype(np.int64) + int(ds["n_bins"].attrs.get("first_bin", 0))
    return np.asarray(np.floor(ends * (_width_counted(ds) / float(ds.attrs["dt_ms"])) + 1e-6), np.int64)


def _more_than(values: xr.Variable, heard: xr.Variable, within: xr.Variable) -> bool:
    """Whether there is something where nothing was recorded; looks at a stimulus at a time."""
    for s in range(values.sizes["stim"]):
        one = values.isel(stim=s).transpose("neuron", "repeat", "time").values
        absent, past = ~heard.isel(stim=s).transpose("neuron", "repeat").values, ~within.isel(stim=s).values
        if not np.isnan(one[absent]).all() or (past.any() and not np.isnan(one[..., past]).all()):
            return True
    return False


def with_own_units(ds: xr.Dataset) -> xr.Dataset:
    """Let the unit of ``mixed`` responses be that of the neurons that are left, where these have one."""
    if ds["response"].attrs.get("units") != "mixed" or "units" not in ds.coords:
        return ds
    own = {str(u) for u in ds["units"].values.ravel()}
    return ds.assign(response=ds["response"].assign_attrs(units=own.pop())) if len(own) == 1 else ds


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
