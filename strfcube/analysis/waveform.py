"""The waveform of a stimulus, from the group ``audio`` of the store that it came from."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from strfcube.analysis.spikes import position
from strfcube.cube.groups import has_group, open_group
from strfcube.cube.store import cube_root
from strfcube.cube.trials import origins
from strfcube.sound.audio import to_float

_LACKING = "its sound was not there when the cube was built: add it to the raw files, and build the cube again"

_NONE = "the cube has no waveforms: there were none among the raw files, or it was saved without them"


def of_stim(ds: xr.Dataset, stim: str | int) -> xr.DataArray | str:
    """One waveform, or in words why there is none.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part or a pool of cubes.
    stim : str or int
        Label or position.

    Raises
    ------
    SelectionError
        If there is no such stimulus.
    StoreError
        If the store is damaged, or was built again since it was opened.
    """
    at = position(ds, "stim", stim)
    one = ds[["response"]].isel(stim=[at])
    one.encoding = ds.encoding
    known = origins(one)
    if isinstance(known, str):
        return known
    why = _LACKING
    for origin in known:
        row = int(origin.stim[0])
        if row < 0:
            continue
        if not has_group(origin.path, "audio"):
            asked = json.loads(cube_root(origin.path).attrs.get("recipe", "{}")).get("audio", True)
            why = _NONE if asked else "the cube was built without sounds (--no-audio)"
            continue
        audio = open_group(origin.path, "audio", origin.cache_dir)
        size = audio["row_size"].values.astype(np.int64)
        if not size[row]:
            why = _LACKING
            continue
        first, rate = int(size[:row].sum()), float(audio["rate"].values[row])
        stored = audio["samples"][first : first + int(size[row])]
        onset = float(ds["sound_onset"].values[at]) if "sound_onset" in ds.coords else 0.0
        time = ("time", onset + np.arange(int(size[row])) / rate, {"units": "s", "long_name": "time from onset"})
        units = str(stored.attrs.get("units", "as in the file")) if stored.dtype.kind == "f" else "full scale"
        attrs = {"long_name": "waveform", "units": units, "sample_rate": rate}
        coords = {"time": time, "stim": ds["stim"][at]}
        return xr.DataArray(to_float(stored.values), coords, ("time",), "waveform", attrs)
    return why
