"""Neurons, stimuli, trials and findings of a cube as tables; reads no response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.repeats import left

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


def trials(ds: xr.Dataset) -> pd.DataFrame:
    """One row a trial, the rejected ones and those without a spike too.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part or a pool.

    Returns
    -------
    pandas.DataFrame
        In neuron, stimulus, repeat order: ``neuron``, ``stim``, ``repeat`` (position in the cube, -1 if rejected),
        ``kept``, ``rejected_by``, ``window_start_s`` and ``window_stop_s`` (what was recorded around onset; NaN where
        that is not stated), ``exact``, ``n_spikes``, ``file``, ``trial_number``.

    Raises
    ------
    StoreError
        If the cube does not know its store, or the store has no trials.
    """
    import pandas as pd

    from strfcube.cube.trials import trials_of

    rows = trials_of(ds)
    c = rows.columns
    return pd.DataFrame(
        {
            "neuron": ds["neuron"].values.astype(object)[c["neuron_index"]],
            "stim": ds["stim"].values.astype(object)[c["stim_index"]],
            "repeat": c["repeat_index"],
            "kept": c["kept"],
            "rejected_by": np.array(["", *rows.tests[1:]], object)[c["rejected_by"]],
            "window_start_s": c["window_start"],
            "window_stop_s": c["window_stop"],
            "exact": c["exact"],
            "n_spikes": c["row_size"],
            "file": rows.files[c["file_index"]],
            "trial_number": c["trial_number"],
        }
    )


def findings(ds: xr.Dataset) -> pd.DataFrame:
    """One row a finding: what was odd about the raw files.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part or a pool: what is told of files that none of its trials came from is left out.

    Returns
    -------
    pandas.DataFrame
        ``severity`` (error, warning, info), ``file``, ``line`` (0: of the file as a whole), ``what``, ``consequence``.

    Raises
    ------
    StoreError
        If the cube does not know its store.
    """
    import pandas as pd

    from strfcube.cube.trials import findings_of

    names = ["severity", "file", "line", "what", "consequence"]
    return pd.DataFrame([[getattr(f, n) for n in names] for f in findings_of(ds)], columns=names)


def _table(ds: xr.Dataset, dim: str, others: str) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {
        str(name): variable.values for name, variable in ds.variables.items() if variable.dims == (dim,) and name != dim
    }
    axis = 1 if dim == "stim" else 0
    kept, rejected = left(ds), ds["n_rejected"].transpose("stim", "neuron").values
    columns |= {
        others: (kept > 0).sum(axis),
        "trials": kept.sum(axis, dtype=np.int64),
        "rejected": rejected.sum(axis, dtype=np.int64),
    }
    return pd.DataFrame(columns, index=pd.Index(ds[dim].values, name=dim))
