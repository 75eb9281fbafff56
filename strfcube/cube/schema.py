"""The cube's contract, format 1: names, dimensions, units and vocabularies, and the check that a Dataset keeps them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr

FORMAT_VERSION = 1

STIM_COORDS = ("stim_name", "stim_type", "stim_category", "sound_onset", "sound_duration", "duration_source")
NEURON_COORDS = ("cell_id", "animal", "species", "area", "region", "area_label", "signal_type", "units")

# What coordinates of these names are, and in which unit, whichever data set has them
MEANINGS: dict[str, dict[str, str]] = {
    "stim": {"long_name": "label of the stimulus"},
    "stim_name": {"long_name": "name of the stimulus in the raw files"},
    "stim_type": {"long_name": "type of stimulus, in the words of the data set"},
    "stim_category": {"long_name": "type of stimulus, in one vocabulary for all data sets"},
    "stim_class": {"long_name": "class of the stimulus, in the words of the data set"},
    "sound_onset": {"long_name": "start of the sound, from stimulus onset", "units": "s"},
    "sound_duration": {"long_name": "length of the sound", "units": "s"},
    "duration_source": {"long_name": "what states the length of the stimulus"},
    "n_samples": {"long_name": "samples of the sound", "units": "1"},
    "sample_rate": {"long_name": "sampling rate of the sound", "units": "Hz"},
    "bit_depth": {"long_name": "bits of a sample of the sound", "units": "bit"},
    "level_db": {"long_name": "sound level", "units": "dB"},
    "md5": {"long_name": "MD5 of the sound file"},
    "split": {"long_name": "published division into training and test"},
    "subset": {"long_name": "published division of the stimuli"},
    "neuron": {"long_name": "label of the neuron"},
    "cell_id": {"long_name": "name of the neuron in the raw files"},
    "animal": {"long_name": "animal"},
    "species": {"long_name": "species"},
    "sex": {"long_name": "sex of the animal"},
    "area": {"long_name": "brain area, in one vocabulary for all data sets"},
    "region": {"long_name": "brain region that the area belongs to"},
    "area_label": {"long_name": "brain area, in the words of the data set"},
    "signal_type": {"long_name": "what was recorded"},
    "units": {"long_name": "unit of the responses of the neuron"},
    "depth": {"long_name": "depth of the recording site; NaN: not known", "units": "um"},
    "ldepth": {"long_name": "depth of the electrodes in the left hemisphere; NaN: not known", "units": "um"},
    "rdepth": {"long_name": "depth of the electrodes in the right hemisphere; NaN: not known", "units": "um"},
    "site": {"long_name": "recording site"},
    "electrode": {"long_name": "number of the electrode"},
    "n_electrodes": {"long_name": "electrodes of the array"},
    "sort_type": {"long_name": "single unit or several, by the spike sorting"},
    "valid_unit": {"long_name": "whether the unit is of the published selection"},
    "noise_ratio": {"long_name": "published noise power over signal power", "units": "1"},
    "repeat": {"long_name": "number of the trial"},
}

STIM_CATEGORIES = (
    "song", "call", "ml_noise", "song_ripple", "natural", "speech", "vocalization", "music", "environmental", "drc",
    "tone", "noise", "other", "unknown",
)  # fmt: skip

SIGNAL_UNITS = {"spikes": "count", "membrane_potential": "mV"}

# The vocabulary of `area`, with the coarse `region` of each. Keys are matched without regard to case.
_REGION = {
    "MLd": "MLd", "OV": "OV", "CM": "CM", "CLM": "CM", "CMM": "CM", "NCM": "NCM", "L": "Field_L", "L1": "Field_L",
    "L2": "Field_L", "L2a": "Field_L", "L2b": "Field_L", "L3": "Field_L", "Field_L": "Field_L", "A1": "A1",
    "PEG": "PEG", "MGB": "MGB", "unknown": "unknown",
}  # fmt: skip
_AREA = {name.lower(): name for name in _REGION} | {"none": "unknown", "": "unknown"}
AREAS = tuple(_REGION)
REGIONS = tuple(dict.fromkeys(_REGION.values()))

# name: (dims, kinds of stored dtype)
_VARIABLES = {
    "response": (("stim", "neuron", "repeat", "time"), "uf"),
    "stimulus": (("stim", "frequency", "time"), "f"),
    "n_repeats": (("stim", "neuron"), "u"),
    "n_rejected": (("stim", "neuron"), "u"),
    "n_bins": (("stim",), "i"),
    "duration": (("stim",), "f"),
}
_ATTRS = ("format_version", "strfcube_version", "dataset", "dt_ms", "recipe", "digest", "sources", "licence",
          "citation", "doi", "history")  # fmt: skip


def area_of(label: str) -> tuple[str, str] | None:
    """The vocabulary's `area` and `region` of a file's own word.

    Parameters
    ----------
    label : str
        As the file has it: ``mld``, ``L2a``, ``None``.

    Returns
    -------
    tuple of str, or None
        ``("MLd", "MLd")``; None where the word is not in the vocabulary: report it, and use ``unknown``.
    """
    area = _AREA.get(label.strip().lower())
    return None if area is None else (area, _REGION[area])


def meta_problem(kind: str, meta: Mapping[str, Any]) -> str:
    """What the metadata of one ``stimulus`` or ``neuron`` lacks or breaks; empty when it keeps the contract."""
    vocabulary: dict[str, Iterable[str]] = {"stim_category": STIM_CATEGORIES}
    keys: tuple[str, ...] = ("stim_name", "stim_type", "stim_category")
    if kind == "neuron":
        vocabulary = {"area": AREAS, "region": REGIONS, "signal_type": SIGNAL_UNITS}
        keys = NEURON_COORDS
    for key in keys:
        if key not in meta:
            return f"the pipeline gives no '{key}'"
        if key in vocabulary and meta[key] not in vocabulary[key]:
            return f"the pipeline gives {key} '{meta[key]}', expected one of {', '.join(vocabulary[key])}"
    if kind == "neuron" and meta["units"] != SIGNAL_UNITS[meta["signal_type"]]:
        return f"the pipeline gives units '{meta['units']}', expected '{SIGNAL_UNITS[meta['signal_type']]}'"
    return ""


def problems(ds: xr.Dataset) -> list[str]:
    """Every way in which a Dataset breaks the contract, one sentence each; empty when it keeps it."""
    found: list[str] = []
    for name, (dims, kinds) in _VARIABLES.items():
        if name not in ds.variables:
            found.append(f"variable '{name}' {dims} is missing")
            continue
        variable = ds[name]
        if variable.dims != dims:
            found.append(f"'{name}' has dims {variable.dims}, expected {dims}")
        stored = np.dtype(variable.encoding.get("dtype", variable.dtype))
        if stored.kind not in kinds:
            found.append(f"'{name}' is stored as {stored}, expected a dtype of kind {' or '.join(kinds)}")
    axes = ("stim", "neuron", "repeat", "time", "frequency")
    found += [f"coordinate '{dim}' is missing" for dim in axes if dim not in ds.coords]
    for dim, names in (("stim", STIM_COORDS), ("neuron", NEURON_COORDS)):
        for name in names:
            if name not in ds.coords:
                found.append(f"coordinate '{name}' on {dim} is missing")
            elif ds[name].dims != (dim,):
                found.append(f"coordinate '{name}' has dims {ds[name].dims}, expected ('{dim}',)")
        if dim in ds.coords and len(np.unique(labels := np.asarray(ds[dim].values, object).astype(str))) < len(labels):
            found.append(f"labels of '{dim}' are not unique")
    found += [f"root attribute '{name}' is missing" for name in _ATTRS if name not in ds.attrs]
    if not found:
        found += _value_problems(ds)
    return found


def _value_problems(ds: xr.Dataset) -> list[str]:
    found: list[str] = []
    if int(ds.attrs["format_version"]) != FORMAT_VERSION:
        found.append(f"format_version is {ds.attrs['format_version']}, expected {FORMAT_VERSION}")
    found += _json_problems(ds.attrs)
    for name, allowed in (("area", set(AREAS)), ("region", set(REGIONS))):
        strange = sorted(set(map(str, ds[name].values)) - allowed)
        if strange:
            found.append(f"'{name}' has {strange}, which the vocabulary lacks: {sorted(allowed)}")
    strange = sorted(set(map(str, ds["stim_category"].values)) - set(STIM_CATEGORIES))
    if strange:
        found.append(f"'stim_category' has {strange}, which the vocabulary lacks: {sorted(STIM_CATEGORIES)}")
    for signal, units in zip(map(str, ds["signal_type"].values), map(str, ds["units"].values), strict=True):
        if SIGNAL_UNITS.get(signal) != units:
            found.append(f"signal_type '{signal}' with units '{units}': expected one of {SIGNAL_UNITS}")
            break
    if int(ds["n_bins"].max()) > ds.sizes["time"]:
        found.append(f"n_bins reaches {int(ds['n_bins'].max())}, past the {ds.sizes['time']} bins of 'time'")
    if int(ds["n_repeats"].max()) > ds.sizes["repeat"]:
        found.append(f"n_repeats reaches {int(ds['n_repeats'].max())}, past the {ds.sizes['repeat']} of 'repeat'")
    if not np.array_equal(ds["repeat"].values, np.arange(ds.sizes["repeat"])):
        found.append("'repeat' does not count from 0: strfcube.save numbers the repeats of a part anew")
    step = np.diff(np.asarray(ds["time"].values, float))
    if len(step) and not np.allclose(step, float(ds.attrs["dt_ms"]) / 1000, rtol=1e-6, atol=0):
        found.append(f"'time' does not advance by dt_ms = {ds.attrs['dt_ms']}")
    return found


def _json_problems(attrs: Mapping[Any, Any]) -> list[str]:
    found = []
    for name, kind in (("recipe", dict), ("sources", list)):
        try:
            known = isinstance(json.loads(attrs[name]), kind)
        except (ValueError, TypeError, RecursionError):
            known = False
        if not known:
            found.append(f"root attribute '{name}' is no JSON text of a {'mapping' if kind is dict else 'list'}")
    return found


def validate(ds: xr.Dataset, name: Any = "the dataset") -> None:
    """Check that a Dataset is a cube of this format.

    Parameters
    ----------
    ds : xarray.Dataset
        As `strfcube.open` gives it.
    name : path-like
        What messages call it.

    Raises
    ------
    StoreError
        With every problem found.
    """
    found = problems(ds)
    if found:
        raise StoreError(f"{name} is no cube of format {FORMAT_VERSION}: " + "; ".join(found))
