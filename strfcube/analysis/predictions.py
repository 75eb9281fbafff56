"""Predictions laid beside the responses that they are of: one way for scores and pictures.

A cube says what is to be predicted, a prediction may come as any array. Labels of stimuli and neurons are matched as
text, in any order; time labels are matched to bins, however they were computed. What a prediction lacks is said, and
what has no place is refused: nothing is joined by chance.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.errors import UsageError
from strfcube.grid import LABEL_SLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PartialPredictionWarning(UserWarning):
    """A prediction lacks stimuli, neurons, bins or values of the responses, which are left out of what is computed."""


def aligned(
    prediction: Any, response: xr.DataArray, n_bins: xr.DataArray | int | None = None, *, partial: bool = False
) -> tuple[xr.DataArray, xr.DataArray]:
    """Lay a prediction beside the responses.

    Parameters
    ----------
    prediction : DataArray or array [dims=(stim, neuron, time)]
        With labels, in any order, and further dims (models, say), which are kept. A dim that is missing is the one
        that a scalar coordinate names; without further dims, one that lacks neurons is the same for all of them. Or a
        bare array of the shape of the response
        without its repeats, with dims and labels in the response's own order, (neuron, stim, time) if that is
        transposed: where there are as many stimuli as neurons, the shape does not tell.
    response : xarray.DataArray [dims=(stim, neuron, repeat, time)]
        Or a part of these.
    n_bins : DataArray [dims=(stim,)] or int, optional
        Bins of each stimulus: later ones need no prediction. Default: all of the response's.
    partial : bool
        Whether stimuli and neurons may be absent without a word, as where one is drawn of many.

    Returns
    -------
    prediction : xarray.DataArray
        On the labels of the responses; NaN in the bins that it lacks.
    response : xarray.DataArray
        Without the stimuli and neurons that are not predicted.

    Raises
    ------
    UsageError
        If it is no array, its shape or dims are others, it does not say of which stimulus it is, labels repeat, there
        is nothing in common, or its time labels are no bins of the cube.
    """
    p = _labelled(prediction, response)
    lacking = []
    for dim in ("stim", "neuron"):
        if dim not in p.dims or dim not in response.dims or dim not in p.coords or dim not in response.coords:
            continue
        place = _places(p[dim].values, dim)
        wanted = [str(v) for v in response[dim].values]
        there = np.array([v in place for v in wanted], bool)
        if not there.any():
            raise UsageError(
                f"prediction and response have no {dim} in common: the prediction has {_some(place)}, "
                f"the response {_some(wanted)}"
            )
        if not there.all():
            response = response.isel({dim: np.flatnonzero(there)})
            lacking.append(f"{there.sum()} of {len(wanted)} {'stimuli' if dim == 'stim' else 'neurons'}")
        p = p.isel({dim: [place[v] for v, has in zip(wanted, there, strict=True) if has]})
        p = p.assign_coords({dim: response[dim]})
    if partial:
        lacking = []
    if "time" in p.dims:
        bins = _bins(p, response)
        reach = response.sizes["time"]
        if n_bins is not None:
            own = (
                n_bins if isinstance(n_bins, int) or "stim" not in response.dims else n_bins.sel(stim=response["stim"])
            )
            reach = min(reach, int(np.max(own)))
        p, covered = _on_bins(p, response, bins, reach)
        if covered < reach:
            lacking.append(f"{covered} of {reach} bins")
    if lacking:
        _warn(
            f"the prediction has {', '.join(lacking)}; the others are left out (select that part of the cube first to "
            "say that it is meant)"
        )
    return p, response


def warn_of_gaps(prediction: xr.DataArray, response: xr.DataArray, n_bins: xr.DataArray | None) -> None:
    """Say where a prediction is not finite though something was recorded: a model that failed there is not scored.

    One that is lazy is not computed for it.

    Parameters
    ----------
    prediction, response : xarray.DataArray
        As `aligned` gives them.
    n_bins : DataArray [dims=(stim,)], optional
        Bins of each stimulus.

    Warns
    -----
    PartialPredictionWarning
        With the numbers of stimuli and bins.
    """
    if prediction.chunks is not None:
        return
    finite: Any = np.isfinite(prediction)
    lost: xr.DataArray = (~finite).any([d for d in finite.dims if d not in response.dims])
    if n_bins is not None and "stim" in response.dims:
        past = xr.DataArray(np.arange(response.sizes["time"]), dims=["time"]) >= n_bins.sel(stim=response["stim"])
        lost = lost & ~past.assign_coords(time=response["time"])
    if "stim" in lost.dims:
        some = np.flatnonzero(lost.any([d for d in lost.dims if d != "stim"]))
        lost, response = lost.isel(stim=some), response.isel(stim=some)
    if not lost.any():
        return
    counts = (lost & response.notnull().any("repeat")).sum("time").compute()
    if counts.any():
        what = f"in up to {int(counts.max())} recorded bins"
        if "stim" in counts.dims:
            what += f" of a stimulus, in {int((counts.max([d for d in counts.dims if d != 'stim']) > 0).sum())} stimuli"
        _warn(f"the prediction is NaN or infinite {what}; these bins are left out")


def _warn(message: str) -> None:
    """Warn at the line of the caller's own that gave the prediction."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("strfcube."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, PartialPredictionWarning, stacklevel=level)


def _labelled(prediction: Any, response: xr.DataArray) -> xr.DataArray:
    """A prediction as an array with the names, and where it has none of its own the labels, of the response."""
    dims = [str(d) for d in response.dims if d != "repeat"]
    shape = tuple(response.sizes[d] for d in dims)
    if isinstance(prediction, xr.Dataset):
        raise UsageError(
            f"prediction: expected an array, got a Dataset; give one of {sorted(map(str, prediction.data_vars))}"
        )
    if not isinstance(prediction, xr.DataArray):
        if not hasattr(prediction, "shape"):
            prediction = _array(prediction)
        if tuple(prediction.shape) != shape:
            raise UsageError(
                f"prediction: expected shape {shape}, which is {tuple(dims)}, got {tuple(prediction.shape)}; "
                "label a part as a DataArray with these dims"
            )
        data = prediction if hasattr(prediction, "dask") else _array(prediction)
        _real(data.dtype)
        return xr.DataArray(data, {d: response.coords[d] for d in dims if d in response.coords}, dims)
    _real(prediction.dtype)
    if "repeat" in prediction.dims or "time" not in prediction.dims:
        raise UsageError(f"prediction: expected dims {tuple(dims)}, and more for several models, got {prediction.dims}")
    further = [str(d) for d in prediction.dims if d not in dims]
    for dim in dims:
        if dim not in prediction.dims:
            if dim in prediction.coords and dim in response.dims:
                prediction = prediction.expand_dims(dim)
            elif response.sizes[dim] > 1 and (dim == "stim" or further):
                hint = f"if '{further[0]}' is that, .rename({further[0]}='{dim}'); else " if further else ""
                raise UsageError(
                    f"prediction: expected dims {tuple(dims)}, got {prediction.dims}: of which {dim} is it? {hint}"
                    f".assign_coords({dim}=LABEL), or .expand_dims({dim}=LABELS) where it is the same for several"
                )
            continue
        if dim in prediction.coords and dim in response.coords:
            continue
        if prediction.sizes[dim] != response.sizes[dim]:
            raise UsageError(
                f"prediction: '{dim}' has {prediction.sizes[dim]} without labels, the response {response.sizes[dim]}; "
                f"label it: prediction.assign_coords({dim}=...)"
            )
        prediction = prediction.drop_vars(dim, errors="ignore")
        if dim in response.coords:
            prediction = prediction.assign_coords({dim: response[dim]})
    labelled: xr.DataArray = prediction
    return labelled


def numeric(values: Any) -> NDArray[Any]:
    """Values as an array of numbers.

    Raises
    ------
    UsageError
        If they are none.
    """
    found = _array(values)
    _real(found.dtype)
    return found


def _array(values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except Exception as error:  # what a tensor on another device or with a gradient, or a ragged list, says
        raise UsageError(f"prediction: cannot be read as an array: {' '.join(str(error).split())}") from None


def _real(dtype: np.dtype[Any]) -> None:
    if not np.can_cast(dtype, np.float32, "same_kind"):  # of which numbers of other libraries are, such as bfloat16
        raise UsageError(f"prediction: expected numbers, got {dtype}")


def _places(labels: NDArray[Any], dim: str) -> dict[str, int]:
    place = {str(v): i for i, v in enumerate(labels)}
    if len(place) < len(labels):
        raise UsageError(f"prediction: labels of '{dim}' repeat; there are {_some(list(map(str, labels)))}")
    return place


def _some(labels: Any) -> str:
    first = list(labels)[:3]
    return ", ".join(first) + (" ..." if len(labels) > 3 else "")


def _bins(p: xr.DataArray, response: xr.DataArray) -> NDArray[np.int64] | None:
    """Bin that each time label of the prediction means, counted from the response's first; None without labels."""
    if "time" not in p.coords or "time" not in response.coords:
        return None
    there, own = (np.asarray(a["time"].values) for a in (p, response))
    if there.dtype.kind not in "fiu":
        raise UsageError(f"prediction: time labels are {there.dtype}, expected seconds from stimulus onset")
    there = there.astype(float)
    if len(own) < 2:  # nothing tells the width of a bin
        found = np.where(np.isclose(there, own[0], rtol=1e-6, atol=1e-9), 0, 1) if len(own) else there
        return np.asarray(found, np.int64)
    step = float(own[-1] - own[0]) / (len(own) - 1)
    if not np.allclose(np.diff(own), step, rtol=1e-3, atol=0):
        step = float(np.diff(own).min())
    exact = (there - own[0]) / step
    if not np.isfinite(exact).all():
        raise UsageError("prediction: time labels are not all finite")
    bins: NDArray[np.int64] = np.rint(exact).astype(np.int64)
    off = np.abs(exact - bins)
    if off.max(initial=0) > LABEL_SLACK:
        at = int(off.argmax())
        raise UsageError(
            f"prediction: the time label {there[at]:.6g} s lies {exact[at] - bins[at]:+.2f} bins from a bin of "
            f"{1000 * step:g} ms that starts at {own[0] + bins[at] * step:.6g} s; label bins by their left edges"
        )
    if len(bins) > 1 and (np.sort(bins)[1:] - np.sort(bins)[:-1] != 1).any():
        raise UsageError(
            f"prediction: time labels {there[0]:.6g}, {there[1]:.6g} ... {there[-1]:.6g} s are not consecutive bins of "
            f"{1000 * step:g} ms; label them in s, one a bin"
        )
    return bins


def _on_bins(
    p: xr.DataArray, response: xr.DataArray, bins: NDArray[np.int64] | None, reach: int
) -> tuple[xr.DataArray, int]:
    """A prediction on the time axis of the response, and how many of the first `reach` bins it has."""
    if bins is None:
        return p, p.sizes["time"]
    own = np.arange(response.sizes["time"])
    if len(own) > 1:
        labels = np.asarray(response["time"].values, float)
        own = np.rint((labels - labels[0]) / np.diff(labels).min()).astype(np.int64)
    place = {int(b): i for i, b in enumerate(bins)}
    at = np.array([place.get(int(b), -1) for b in own])
    if not (at >= 0).any():
        there = p["time"].values
        raise UsageError(
            f"prediction and response have no time in common: {there[0]:.6g} to {there[-1]:.6g} s, "
            f"{float(response['time'][0]):.6g} to {float(response['time'][-1]):.6g} s"
        )
    if np.array_equal(at, np.arange(p.sizes["time"])):
        return p.assign_coords(time=response["time"]), len(at)
    # Taken by position and then blanked: a prediction shorter than the responses is NaN where it ends.
    taken = p.isel(time=np.maximum(at, 0)).assign_coords(time=response["time"])
    has = xr.DataArray(at >= 0, {"time": response["time"]}, ["time"])
    return taken if has.all() else taken.where(has), int((at[:reach] >= 0).sum())
