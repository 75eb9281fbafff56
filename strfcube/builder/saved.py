"""What is saved with a cube, a part, a pool or a transformed cube: what of its stores it still holds, and what not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.builder.finalise import response_words, text
from strfcube.cube.groups import open_group
from strfcube.cube.normalise import as_recorded, check, loaded
from strfcube.cube.opened import Sounds, Store
from strfcube.cube.repeats import numbered_anew
from strfcube.cube.schema import problems
from strfcube.cube.store import open as open_cube
from strfcube.cube.trials import Origin, TrialRows, findings_of, origins, trials_of
from strfcube.errors import StoreError, UsageError

if TYPE_CHECKING:
    import xarray as xr

    from strfcube.cube.stored_rows import Part
    from strfcube.records import Finding


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is going to be written.

    Attributes
    ----------
    ds : xarray.Dataset
        A whole cube: small variables in memory, no repeat and no bin that nothing holds, labels counted anew.
    trials : TrialRows or None
        Its single trials.
    sounds : tuple or None
        Sizes and rates of its waveforms, and where each is.
    findings : list of Finding or None
        None where it does not know its store.
    recipe : str
        JSON.
    lost : tuple of str
        What does not come along, and why.
    stores : tuple of str
        The cubes that it is read from.
    """

    ds: xr.Dataset
    trials: TrialRows | None
    sounds: tuple[xr.Dataset, list[tuple[Sounds, int]]] | None
    findings: list[Finding] | None
    recipe: str
    lost: tuple[str, ...]
    stores: tuple[str, ...]


def prepared(ds: xr.Dataset) -> Prepared:
    """Check that a Dataset is a whole cube, and find what comes along with it.

    Raises
    ------
    UsageError
        If it is none.
    StoreError
        If a cube that it was read from was built again.
    """
    whole = loaded(as_recorded(check(ds, "response", "n_repeats")))
    if not whole.sizes["frequency"]:
        raise UsageError("expected a cube, but nothing of 'frequency' is left in it")
    if wrong := problems(numbered_anew(whole)):
        raise UsageError(
            f"this is no whole cube any more: {'; '.join(wrong)} (a cube with other bins is made by strfcube.rebin)"
        )
    cut = _bins_are_cut(ds, whole)
    changed = [name for name in ("response", "stimulus") if not _is_stored(whole, name)]
    lost, trials, sounds, findings = [], None, None, None
    known = origins(whole)
    if isinstance(known, str):
        lost.append(f"without single trials, waveforms and findings: {known}")
    else:
        findings = findings_of(whole)
        try:
            trials = None if cut or "response" in changed else trials_of(whole)
        except StoreError as error:
            lost.append(f"without single trials: {error}")
        if cut:
            lost.append("without single trials and waveforms: bins are left out")
        elif "response" in changed:
            lost.append("without single trials: its responses are no longer what they give")
        sounds = None if cut else _sounds(whole)
    marks: dict[str, Any] = {}
    if changed := [*changed, *(["time"] if cut else [])]:
        marks["changed"] = changed
    whole = _trimmed(numbered_anew(whole))
    if isinstance(known, str) or _is_part(whole, known):
        marks["part"] = _name_of_part(whole)
    recipe = json.loads(str(whole.attrs.get("recipe") or "{}"))
    earlier = recipe.get("saved", {})
    if marks and not isinstance(known, str):
        both = [*earlier.get("changed", ()), *marks.pop("changed", ())]
        recipe["saved"] = earlier | marks | ({"changed": list(dict.fromkeys(both))} if both else {})
    words = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    stores = [part.store.path for name in ("response", "stimulus") for part in _parts(whole, name)]
    stores += [] if isinstance(known, str) else [o.path for o in known]
    return Prepared(whole, trials, sounds, findings, words, tuple(lost), tuple(dict.fromkeys(stores)))


def _bins_are_cut(ds: xr.Dataset, whole: xr.Dataset) -> bool:
    """Whether some of the bins of a stimulus are left out."""
    step = float(ds.attrs["dt_ms"]) / 1000
    first = np.rint(ds["time"].values / step)
    return not np.array_equal(first, np.arange(len(first))) or bool((whole["n_bins"] != ds["n_bins"]).any())


def _is_stored(ds: xr.Dataset, name: str) -> bool:
    """Whether a variable holds what its stores hold; read, where labels alone say where that would be."""
    from strfcube.cube.lazy_array import rows_of

    if rows_of(ds[name]) is not None:
        return True
    known = origins(ds)
    if isinstance(known, str) or len(known) != 1:
        return False
    (origin,) = known
    stored = open_cube(origin.path)[name]
    at = {"stim": origin.stim} | ({"neuron": origin.neuron, "repeat": origin.repeat} if name == "response" else {})
    if any(len(v) and (v.max() >= stored.sizes[d] or v.min() < 0) for d, v in at.items()):
        return False
    stored = stored.isel(dict(at) | {"time": slice(0, ds.sizes["time"])})
    if stored.shape != ds[name].shape:
        return False
    counted = ds["n_repeats"].values > 0
    for s in range(ds.sizes["stim"]):
        own, there = ds[name][s].values, stored[s].values
        if name == "response":
            there = np.where(counted[s][:, None, None], there, np.nan)
        if not np.array_equal(own, there, equal_nan=True):
            return False
    return True


def _is_part(ds: xr.Dataset, known: tuple[Origin, ...]) -> bool:
    """Whether anything of the stores is left out."""
    stores = [open_group(path)["n_repeats"] for path in dict.fromkeys(o.path for o in known)]
    neurons, trials = sum(v.sizes["neuron"] for v in stores), sum(int(v.values.sum()) for v in stores)
    fewer = len(stores) == 1 and ds.sizes["stim"] < stores[0].sizes["stim"]
    return fewer or neurons > ds.sizes["neuron"] or trials > int(ds["n_repeats"].values.sum())


def _name_of_part(ds: xr.Dataset) -> str:
    """What tells this part from others of the same recipe."""
    labels = "\n".join(str(v) for d in ("stim", "neuron") for v in (*ds[d].values, ""))
    return hashlib.sha256(labels.encode() + np.asarray(ds["n_repeats"].values).tobytes()).hexdigest()[:8]


def _trimmed(ds: xr.Dataset) -> xr.Dataset:
    """Without repeats and bins that no pair has; labels are text."""
    repeats = max(1, int(ds["n_repeats"].values.max(initial=0)))
    bins = max(1, int(ds["n_bins"].values.max(initial=0)))
    ds = ds.isel(repeat=slice(0, repeats), time=slice(0, bins))
    words = {n: (v.dims, text(v.values), v.attrs) for n, v in ds.coords.items() if v.dtype.kind in "UTO"}
    attrs = {k: v for k, v in ds["response"].attrs.items() if k != "_FillValue"}
    said = response_words({"mixed", "count"})["long_name"]
    if attrs.get("long_name") == said and attrs.get("units") != "mixed":
        attrs |= response_words({str(attrs["units"])})
    ds = ds.assign_coords(words)
    return ds.assign(response=ds["response"].assign_attrs(attrs))


def _parts(ds: xr.Dataset, name: str) -> tuple[Part, ...]:
    """Where a variable is stored; empty where that is not known."""
    from strfcube.cube.lazy_array import rows_of

    rows = rows_of(ds[name])
    return rows.parts if rows is not None else ()


def _sounds(ds: xr.Dataset) -> tuple[xr.Dataset, list[tuple[Sounds, int]]] | None:
    """Sizes and rates of the waveforms, and where each is; None where there are none."""
    known = origins(ds)
    parts = [(part.store, part.stim) for part in _parts(ds, "stimulus")]
    parts += [] if isinstance(known, str) else [(Store.opened(o.path, o.cache_dir), o.stim) for o in known]
    stored = {store.path: store.sounds() for store, _ in parts}
    size, rate = np.zeros(ds.sizes["stim"], np.int64), np.full(ds.sizes["stim"], np.nan)
    where = []
    for s in range(ds.sizes["stim"]):
        for store, stim in parts:
            at, sounds = int(stim[s]), stored[store.path]
            if at >= 0 and sounds is not None and sounds.size[at]:
                size[s], rate[s] = sounds.size[at], sounds.rate[at]
                where.append((sounds, at))
                break
    if not where:
        return None
    sample = open_group(next(path for path, sounds in stored.items() if sounds is not None), "audio")
    table = sample[["row_size", "rate"]].isel(stim=np.zeros(len(size), int))
    return table.assign({n: table[n].copy(data=v) for n, v in (("row_size", size), ("rate", rate))}), where
