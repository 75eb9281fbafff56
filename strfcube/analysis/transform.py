"""What is done to a cube on reading: averaging over repeats, smoothing, standardising.

Functions of labelled arrays, lazy where the input is dask; the store keeps raw counts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from strfcube import limits
from strfcube.analysis.matching import in_order
from strfcube.cube.averages import mean, mean_of_stored
from strfcube.errors import SelectionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray


def blockwise(
    function: Callable[..., NDArray[Any]], arrays: Sequence[xr.DataArray], core: Sequence[Sequence[str]],
    out: Mapping[str, int], dtype: Any, stored: Callable[..., NDArray[Any]] | None = None, **kwargs: Any,
) -> xr.DataArray:  # fmt: skip
    """Apply a function of numpy arrays, lazily where they are dask.

    Parameters
    ----------
    function : callable
        Takes arrays with their core dims last, and gives one with the dims of `out` last.
    arrays, core : sequence
        The arrays and the names of their core dims.
    out : mapping
        Core dims of the result and their sizes.
    dtype : dtype
        Of the result.
    stored : callable, optional
        The same of counts as they are stored, as `strfcube.cube.lazy_array.Applied` takes it.
    **kwargs
        Passed to both.
    """
    if len(arrays) == 1 and arrays[0].chunks and list(core[0]) == ["repeat", "time"]:
        from strfcube.cube.lazy_array import applied

        array = arrays[0].transpose(..., "repeat", "time")
        quick = None if stored is None else partial(stored, **kwargs)
        data = applied(array, partial(function, **kwargs), tuple(out.values()), dtype, quick)
        if data is not None:
            gone = {"repeat", "time"} - set(out)
            coords = {n: c for n, c in array.coords.items() if not gone & set(c.dims)}
            bare = xr.DataArray(data, dims=[*array.dims[:-2], *out], name=array.name)
            return bare.assign_coords(coords)  # which copies no labels
    # The values alone: DataArray.chunk makes dask arrays of the labels too, which xarray warns of when it writes them
    arrays = [
        a.copy(deep=False, data=a.variable.chunk(dict.fromkeys(dims, -1)).data) if a.chunks else a
        for a, dims in zip(arrays, core, strict=True)
    ]
    result: xr.DataArray = xr.apply_ufunc(
        function, *arrays, input_core_dims=core, output_core_dims=[list(out)], kwargs=kwargs, dask="parallelized",
        output_dtypes=[dtype], dask_gufunc_kwargs={"output_sizes": dict(out)}, keep_attrs=False,
    )  # fmt: skip
    return result


def hann_kernel(dt_ms: float, smooth_ms: float) -> NDArray[np.float64]:
    """Hann window of full width `smooth_ms`, sampled at whole bins; sums to 1, so that rates keep their scale.

    ``cos(pi t / smooth_ms)**2`` for ``|t| < smooth_ms / 2``, the smoothing window of Hsu, Borst and Theunissen (2004,
    doi 10.1088/0954-898X_15_2_002; theirs is 21 ms wide), normalised.

    Parameters
    ----------
    dt_ms, smooth_ms : float
        Bin width and full width in ms. A width of two bins or less, or of 0, smooths nothing.

    Returns
    -------
    ndarray [shape=(odd,)]

    Raises
    ------
    UsageError
        If a width is no such number.
    """
    for name, width, least in (("dt_ms", dt_ms, np.nextafter(0, 1)), ("smooth_ms", smooth_ms, 0)):
        try:
            known = least <= width < np.inf and not isinstance(width, bool)
        except TypeError:
            known = False
        if not known:
            raise UsageError(f"{name}={width!r}: expected a width in ms, {'more than 0' if least else '0 or more'}")
    if smooth_ms > limits.SECONDS * 1000:
        raise UsageError(f"smooth_ms={smooth_ms!r}: a window longer than any stimulus, {limits.SECONDS:g} s at most")
    if smooth_ms <= 2 * dt_ms:
        return np.ones(1)
    half = int(np.ceil(smooth_ms / 2 / dt_ms)) - 1
    kernel = np.cos(np.pi * np.arange(-half, half + 1) * dt_ms / smooth_ms) ** 2
    return np.asarray(kernel / kernel.sum())


def _smooth(x: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
    from scipy.ndimage import convolve1d

    missing = np.isnan(x)
    x = x.astype(np.result_type(x.dtype, np.float32), copy=False)
    out = convolve1d(np.where(missing, 0, x), kernel, axis=-1, mode="constant")
    # Where the window hangs over an edge or a gap, its weights there are shared out among the observed bins.
    weight = convolve1d((~missing).astype(x.dtype), kernel, axis=-1, mode="constant")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(missing, x.dtype.type(np.nan), out / weight))


def smooth(values: xr.DataArray, dt_ms: float, smooth_ms: float) -> xr.DataArray:
    """Smooth along ``time`` with `hann_kernel`; bins that were not observed stay NaN and lend no weight.

    Parameters
    ----------
    values : xarray.DataArray [dims=(..., time)]
        A response or a PSTH.
    dt_ms, smooth_ms : float
        Bin width and full width of the window in ms.

    Returns
    -------
    xarray.DataArray [dims=(..., time)]
        In float32 at least, whatever came.

    Raises
    ------
    UsageError
        If a width is no such number.
    """
    kernel = hann_kernel(dt_ms, smooth_ms)
    if len(kernel) == 1:
        return values
    dtype = np.result_type(values.dtype, np.float32)
    out = blockwise(_smooth, [values], [["time"]], {"time": values.sizes["time"]}, dtype, kernel=kernel)
    return out.transpose(*values.dims).assign_attrs(values.attrs)


def psth(response: xr.DataArray, dt_ms: float, smooth_ms: float | None = None) -> xr.DataArray:
    """Mean over repeats: in spikes/s for counts, in mV for membrane potentials.

    Parameters
    ----------
    response : xarray.DataArray [dims=(..., repeat, time)]
        Its ``units`` attribute is ``count``, ``mV``, or ``mixed`` with a coordinate ``units`` on neuron. It is
        believed, for counts may be fractions (smoothed ones are) and any number may be a count: arithmetic in xarray
        can keep the attribute, and ``response * 200``, still in ``count``, comes out 200 times too high.
    dt_ms : float
        Bin width in ms.
    smooth_ms : float, optional
        Full width in ms of the Hann window (`smooth`) that the mean is smoothed with.

    Returns
    -------
    xarray.DataArray [dims=(..., time)]
        Each bin is the mean of the repeats that observed it; NaN where none did.

    Raises
    ------
    UsageError
        If the response states no unit, or `smooth_ms` is no width.
    """
    units = str(response.attrs.get("units", ""))
    if units not in ("count", "mV", "mixed"):
        raise UsageError(f"response.attrs['units'] is {units!r}, expected 'count', 'mV' or 'mixed'")
    dtype = np.result_type(response.dtype, np.float32)
    per_s = 1000 / dt_ms
    core, bins = [["repeat", "time"]], {"time": response.sizes["time"]}
    scale = per_s if units == "count" else 1.0
    out = blockwise(mean, [response], core, bins, dtype, stored=mean_of_stored, scale=scale)
    if smooth_ms is not None:
        out = smooth(out, dt_ms, smooth_ms)
    if units == "mixed" and "units" not in response.coords:
        raise UsageError(
            "the responses have lost their coordinate 'units': put back what those of each neuron are in, 'count' or "
            "'mV': ds.assign_coords(units=('neuron', [...]))"
        )
    if units == "mixed":
        counts = response["units"] == "count"
        out = out * counts.copy(deep=False, data=np.where(counts, per_s, 1).astype(out.dtype))
    if "units" in response.coords:
        own = response["units"]
        out = out.assign_coords(
            units=own.copy(deep=False, data=np.where(own == "count", "spikes/s", own).astype(object))
        )
    dims = [d for d in response.dims if d != "repeat"]
    window = "" if not smooth_ms else f", smoothed by a Hann window {smooth_ms:g} ms wide that sums to 1"
    attrs = {"long_name": "PSTH", "units": "spikes/s" if units == "count" else units, "estimator": f"mean{window}"}
    return out.transpose(*dims).rename("psth").assign_attrs(attrs)


def standardize(stimulus: xr.DataArray, stims: Any = None, per: Literal["band", "all"] = "band") -> xr.DataArray:
    """Subtract the mean of a spectrogram and divide by its standard deviation, both of what is there.

    Bins that are missing, past the end or in a band that a sound lacks, count in neither and stay missing.

    Parameters
    ----------
    stimulus : xarray.DataArray [dims=(stim, frequency, time)]
        NaN past the end of a stimulus.
    stims : sequence of str, or DataArray of bool [shape=(stim,)], optional
        Stimuli that mean and standard deviation are taken of, all of their bins together: the training set, so that
        nothing is learnt from the test stimuli. Bools with labels go by these, others by position. Default: all.
    per : {"band", "all"}
        One mean and standard deviation for each frequency, or one for all.

    Returns
    -------
    xarray.DataArray [dims=(stim, frequency, time)]
        Dimensionless, of the dtype that came, float32 for whole numbers. A constant band becomes 0; one that no chosen
        stimulus has is left as it is.

    Raises
    ------
    SelectionError
        If `stims` names a stimulus that is not there, or none at all, or is a mask that lacks one.
    UsageError
        If `per` is neither.
    """
    if per not in ("band", "all"):
        raise UsageError(f"per={per!r}, expected 'band' or 'all'")
    labels = [str(v) for v in stimulus["stim"].values]
    chosen = np.ones(len(labels), bool)
    if stims is not None:
        wanted, strange = np.asarray(stims), []
        if wanted.dtype == bool:
            chosen = np.asarray(in_order(stims, "stim", stimulus["stim"].values, "stims"))
        else:
            asked = {str(v) for v in wanted.ravel()}
            chosen, strange = np.array([v in asked for v in labels], bool), sorted(asked - set(labels))
        if strange or not chosen.any() or chosen.shape != (len(labels),):
            raise SelectionError(f"stims: {strange[:5] or 'nothing chosen'}; there are {len(labels)}: {labels[:5]} ...")
    part = stimulus.isel(stim=np.flatnonzero(chosen)).astype(np.float64)
    dims = ["stim", "time"] if per == "band" else list(part.dims)
    count = part.notnull().sum(dims)
    count = count.where(count > 0)
    mean = (part.sum(dims) / count).fillna(0)
    mean = mean + ((part - mean).sum(dims) / count).fillna(0)  # which leaves no residue of rounding of a constant
    deviation = (((part - mean) ** 2).sum(dims) / count) ** 0.5
    dtype = stimulus.dtype if stimulus.dtype.kind == "f" else np.dtype(np.float32)
    out = ((stimulus - mean) / deviation.where(deviation > 0, 1)).astype(dtype)
    attrs = stimulus.attrs | {"units": "1", "estimator": f"standardised per {per} over {int(chosen.sum())} stimuli"}
    return out.transpose(*stimulus.dims).assign_attrs(attrs)
