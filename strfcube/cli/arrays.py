"""Predictions and receptive fields from files that other programs wrote."""

from __future__ import annotations

import os
from typing import Any

from strfcube.errors import StrfcubeError, UsageError

ENDINGS = ".nc, .npy or .mat"


def read(asked: str, path: str, name: str) -> Any:
    """The array of a file: labelled from netCDF, bare from NumPy or MATLAB.

    Parameters
    ----------
    asked : str
        What of the command line names the file, for messages.
    path : str
        The file.
    name : str
        Which of its arrays is taken, where there are several.

    Raises
    ------
    StrfcubeError
        If there is no such file, or it cannot be read.
    UsageError
        If it is none of these kinds, or has no such array.
    """
    place = os.path.expanduser(path)
    ending = os.path.splitext(place)[1].lower()
    if not os.path.isfile(place):
        raise StrfcubeError(f"{asked} {path}: there is no such file")
    if ending not in _READERS:
        raise UsageError(f"{asked} {path}: expected a name that ends in {ENDINGS}")
    try:
        found = _READERS[ending](place)
    except Exception as error:  # scipy raises many kinds, of files that are none or damaged
        hint = "; in MATLAB, save it with -v7" if isinstance(error, NotImplementedError) else ""
        raise StrfcubeError(f"{asked} {path}: cannot be read: {' '.join(str(error).split())}{hint}") from None
    names = [str(n) for n in found]
    own = names[0] if len(names) == 1 else name
    if own not in names:
        raise UsageError(f"{asked} {path}: expected one array, or '{name}', got {', '.join(names) or 'none'}")
    return found[own]


def _netcdf(place: str) -> Any:
    import xarray as xr

    with xr.open_dataset(place) as opened:
        return dict(opened.load().data_vars)


def _numpy(place: str) -> Any:
    import numpy as np

    return {"": np.load(place)}


def _matlab(place: str) -> Any:
    from scipy.io import loadmat

    return {name: values for name, values in loadmat(place).items() if not name.startswith("__")}


_READERS = {".nc": _netcdf, ".npy": _numpy, ".mat": _matlab}
