"""What a model says of the stimuli of a view, as a labelled array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.analysis.predictions import numeric
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from strfcube.loading.view import CubeView


def predicted(view: CubeView, answers: Callable[[list[int]], Any], batch_size: int) -> xr.DataArray:
    """Collect what a model says of batches of stimuli; see `strfcube.loading.CubeView.predict`.

    Parameters
    ----------
    view : CubeView
        Its stimuli and neurons.
    answers : callable
        Gives, of positions among the stimuli, an array [shape=(stim, neuron, time) or (stim, neuron, 1, time)] as long
        as the longest of them.
    batch_size : int
        Stimuli that are asked for together.

    Raises
    ------
    UsageError
        If an answer has another shape, or is no array of numbers.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise UsageError(f"batch_size={batch_size!r}, expected a whole number of stimuli, 1 or more")
    view._reader.check()
    response, bins = view.ds["response"], view._reader.n_bins
    dims = ("stim", "neuron", "time")
    out = np.full([response.sizes[dim] for dim in dims], np.nan, np.float32)
    for first in range(0, len(view), batch_size):
        items = list(range(first, min(first + batch_size, len(view))))
        found = numeric(answers(items))
        expected = len(items), out.shape[1], int(bins[items].max())
        if found.shape == (*expected[:2], 1, expected[2]):  # a repeat, as the responses have it
            found = found[:, :, 0]
        if found.shape != expected:
            raise UsageError(
                f"predict: the model gave an array of shape {found.shape} for {len(items)} stimuli, expected "
                f"{expected}: (stim, neuron, time), a value for each of {expected[1]} neurons and {expected[2]} bins"
            )
        for item, values in zip(items, found, strict=True):
            out[item, :, : bins[item]] = values[:, : bins[item]]
    coords = {name: c for name, c in response.coords.items() if set(c.dims) <= set(dims) and name != "repeat"}
    attrs = {"long_name": "prediction", "units": response.attrs.get("units", "")}
    return xr.DataArray(out, coords, dims, "prediction", attrs)
