"""In-memory cubes that keep the contract of `strfcube.cube.schema`: small, random, ragged, with holes."""

import numpy as np
import xarray as xr

from strfcube.cube.schema import FORMAT_VERSION

AREAS = ("MLd", "OV", "L2a")
REGIONS = ("MLd", "OV", "Field_L")
TYPES = ("conspecific", "flatrip")
CATEGORIES = ("song", "ml_noise")


def strings(values):
    """A column of text as a cube holds it: object, never fixed width."""
    return np.array(list(values), dtype=object)


def make_cube(stim=4, neuron=5, repeat=3, bins=40, bands=6, dt_ms=5.0, seed=0, rate=0.4, trace=(), holes=True):
    """A cube with random counts.

    Parameters
    ----------
    stim, neuron, repeat, bins, bands : int
        Sizes. Stimulus s has ``bins - 3 s`` bins, at least 2. Repeats of a pair share their drive.
    rate : float
        Mean count a bin.
    trace : sequence of int
        Neurons whose response is a membrane potential in mV.
    holes : bool
        Leave pairs out and vary the number of repeats; otherwise every pair has all of them.
    """
    rng = np.random.default_rng(seed)
    n_bins = np.maximum(bins - 3 * np.arange(stim), 2).astype(np.int32)
    n_repeats = np.full((stim, neuron), repeat, np.uint16)
    if holes:
        n_repeats = rng.integers(0, repeat + 1, (stim, neuron)).astype(np.uint16)
        n_repeats[0] = repeat
        n_repeats[-1, 0] = 0
    drive = rate * rng.gamma(1.0, 1.0, (stim, neuron, 1, bins))
    counts = rng.poisson(np.broadcast_to(drive, (stim, neuron, repeat, bins))).astype(np.float32)
    for n in trace:
        counts[:, n] = drive[:, n] - 60 + rng.normal(0, 1, (stim, repeat, bins))
    past = np.arange(bins) >= n_bins[:, None]
    absent = np.arange(repeat) >= n_repeats[..., None]
    response = np.where(absent[..., None] | past[:, None, None], np.float32(np.nan), counts)
    stimulus = rng.gamma(2.0, 1.0, (stim, bands, bins)).astype(np.float32)
    stimulus = np.where(past[:, None], np.float32(np.nan), stimulus)
    duration = n_bins * dt_ms / 1000
    is_trace = np.isin(np.arange(neuron), list(trace))
    units = "mixed" if 0 < is_trace.sum() < neuron else "mV" if is_trace.any() else "count"
    return xr.Dataset(
        {
            "response": (("stim", "neuron", "repeat", "time"), response, {"units": units}),
            "stimulus": (("stim", "frequency", "time"), stimulus, {"units": "power^(1/3)"}),
            "n_repeats": (("stim", "neuron"), n_repeats),
            "n_rejected": (("stim", "neuron"), np.zeros_like(n_repeats)),
            "n_bins": (("stim",), n_bins),
            "duration": (("stim",), duration, {"units": "s"}),
        },
        coords={
            "stim": strings(f"stim{s:03d}" for s in range(stim)),
            "neuron": strings(f"cell{n:03d}" for n in range(neuron)),
            "repeat": np.arange(repeat),
            "time": ("time", np.arange(bins) * dt_ms / 1000, {"units": "s"}),
            "frequency": ("frequency", np.geomspace(500, 8000, bands), {"units": "Hz"}),
            "stim_name": ("stim", strings(f"{s}.wav" for s in range(stim))),
            "stim_type": ("stim", strings(TYPES[s % 2] for s in range(stim))),
            "stim_category": ("stim", strings(CATEGORIES[s % 2] for s in range(stim))),
            "sound_onset": ("stim", np.zeros(stim), {"units": "s"}),
            "sound_duration": ("stim", duration, {"units": "s"}),
            "duration_source": ("stim", strings("wav" for _ in range(stim))),
            "split": ("stim", strings("test" if s == stim - 1 else "train" for s in range(stim))),
            "cell_id": ("neuron", strings(f"gg{n:04d}" for n in range(neuron))),
            "animal": ("neuron", strings("gg" if n < neuron // 2 else "bb" for n in range(neuron))),
            "species": ("neuron", strings("zebra finch" for _ in range(neuron))),
            "area": ("neuron", strings(AREAS[n % 3] for n in range(neuron))),
            "region": ("neuron", strings(REGIONS[n % 3] for n in range(neuron))),
            "area_label": ("neuron", strings(AREAS[n % 3].lower() for n in range(neuron))),
            "signal_type": ("neuron", strings("membrane_potential" if t else "spikes" for t in is_trace)),
            "units": ("neuron", strings("mV" if t else "count" for t in is_trace)),
        },
        attrs={
            "format_version": FORMAT_VERSION,
            "strfcube_version": "0",
            "dataset": "synthetic",
            "dt_ms": dt_ms,
            "recipe": "{}",
            "digest": "",
            "sources": "[]",
            "licence": "none",
            "citation": "none",
            "doi": "",
            "history": "",
        },
    )


class Label(str):
    """A label that counts how often one is compared."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Label.compared += 1
        return str.__eq__(self, other)

    def __ne__(self, other):
        return str.__ne__(self, other)
