"""Neurons and stimuli as tables: every coordinate, and what was recorded of each; reads no response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def neurons(ds: xr.Dataset) -> pd.DataFrame:
    """One row a neuron.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part of one.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``neuron``: its coordinates, then ``stimuli`` (how many it heard), ``trials`` and ``rejected``.
    """
    return _table(ds, "neuron", "stimuli")


def stimuli(ds: xr.Dataset) -> pd.DataFrame:
    """One row a stimulus.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part of one.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``stim``: its coordinates, ``duration`` in s and ``n_bins``, then ``neurons`` (how many heard it),
        ``trials`` and ``rejected``.
    """
    return _table(ds, "stim", "neurons")


def _table(ds: xr.Dataset, dim: str, others: str) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {
        str(name): variable.values for name, variable in ds.variables.items() if variable.dims == (dim,) and name != dim
    }
    axis = 1 if dim == "stim" else 0
    kept, rejected = (ds[name].transpose("stim", "neuron").values for name in ("n_repeats", "n_rejected"))
    columns |= {
        others: (kept > 0).sum(axis),
        "trials": kept.sum(axis, dtype=np.int64),
        "rejected": rejected.sum(axis, dtype=np.int64),
    }
    return pd.DataFrame(columns, index=pd.Index(ds[dim].values, name=dim))
