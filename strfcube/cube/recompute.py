"""The spectrograms of a cube computed again from its waveforms: whether the two tell the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube.groups import open_group
from strfcube.cube.shard_reader import stored_array
from strfcube.grid import dt_to_ns
from strfcube.records import Audio
from strfcube.sound.spectrogram import FRONT_ENDS, Published, compute, holds, resolve

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from strfcube.cube.metadata import Root
    from strfcube.sound.spectrogram import FrontEnd
    from strfcube.transport.connect import Transport

_NAMED = 3
_CLOSE = 2.0**-14  # of the largest value of a spectrogram: they are stored with 16 bits, and libraries round the last


def obstacle(cube: xr.Dataset, root: Root) -> str:
    """Why no spectrogram of a cube can be computed again, in words; empty where they can be."""
    recipe = json.loads(cube.attrs["recipe"])
    if "pool" in recipe:
        return "those of a pool are the ones of its cubes"
    if {"stimulus", "time"} & set(recipe.get("saved", {}).get("changed", ())):
        return "they were changed before the cube was saved"
    if isinstance(_front_end(cube), Published):
        return "they are as they were published"
    if "audio" not in root.nodes:
        return "the cube has no waveforms"
    # Cubes of earlier versions do not say up to where the axis goes
    return "" if "lowest_rate" in cube["stimulus"].attrs else "the cube does not say up to which frequency they go"


def _front_end(cube: xr.Dataset) -> FrontEnd:
    how = dict(json.loads(cube.attrs["recipe"])["front_end"])
    return FRONT_ENDS[how.pop("kind")](**how)


def recompute(files: Transport, root: Root) -> list[str]:
    """Hold every spectrogram against the waveform of its stimulus, by the recipe of the cube.

    One stimulus at a time. Spectrograms that were published, or changed before the cube was saved, and those of pools
    and of cubes without waveforms are all there is.

    Parameters
    ----------
    files, root : Transport, Root
        Of a cube whose values are those of its digest.

    Returns
    -------
    list of str
        What differs, one sentence each.
    """
    cube = open_group(files.url, "", "", root)
    if obstacle(cube, root):
        return []
    front_end = _front_end(cube)
    assert not isinstance(front_end, Published)
    front_end = resolve(front_end, float(cube["stimulus"].attrs["lowest_rate"]))
    own = front_end.frequencies()
    bands = [int(np.argmin(np.abs(own - f))) for f in cube["frequency"].values.tolist()]  # a part may have some of them
    if not np.allclose(own[bands], cube["frequency"].values, rtol=1e-12):
        return ["'frequency' is not what the front end of the recipe has"]
    dt_ns, align = dt_to_ns(cube.attrs["dt_ms"]), json.loads(cube.attrs["recipe"])["align"]
    sounds = open_group(files.url, "audio", "", root)
    sizes, rates = sounds["row_size"].values.astype(np.int64), sounds["rate"].values
    bins, onsets = cube["n_bins"].values, cube["sound_onset"].values
    samples, stored = stored_array(files, root, "audio/samples"), stored_array(files, root, "stimulus")
    stops = np.cumsum(sizes)
    kernels: dict[float, Any] = {}
    wrong = []
    for stim, (size, stop, rate) in enumerate(zip(sizes.tolist(), stops.tolist(), rates.tolist(), strict=True)):
        made = np.full((len(bands), stored.shape[2]), np.nan, np.float32)
        if size and holds(front_end, rate):
            if rate not in kernels:
                kernels[rate] = front_end.kernel(rate, dt_ns)
            audio, frames = Audio(samples.values(stop - size, stop), rate), int(bins[stim])
            whole = compute(front_end, audio, frames, dt_ns, align, float(onsets[stim]), kernels[rate])
            made[:, :frames] = whole[bands]
        chunk = stored.read((stim, 0, 0))
        there = np.full_like(made, np.nan) if chunk is None else chunk[0, : made.shape[0], : made.shape[1]]
        if not _alike(made, there):
            wrong.append(str(cube["stim"].values[stim]))
    if not wrong:
        return []
    more = f", and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
    return [f"'stimulus' is not the spectrogram of the waveforms in 'audio': {', '.join(wrong[:_NAMED])}{more}"]


def _alike(made: NDArray[np.float32], there: NDArray[np.float32]) -> bool:
    finite = made[np.isfinite(made)]
    close = _CLOSE * float(np.abs(finite).max(initial=0))
    return bool(np.allclose(made, there, rtol=0, atol=close, equal_nan=True))
