"""Pools of cubes: block-diagonal or with the sounds they share, lazy, with what stands in two of them reported."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from strfcube.analysis.columns import pooled, pooled_dims, text
from strfcube.analysis.select import as_slice, select
from strfcube.analysis.sounds import diagonal, equal_spectrograms, owners, union
from strfcube.cube.normalise import as_recorded, loaded, recipes
from strfcube.cube.repeats import numbered_anew
from strfcube.cube.stored_rows import joined
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

Index = NDArray[np.intp]


class DuplicateWarning(UserWarning):
    """The same cell or the same sound stands in two of the pooled cubes, and can leak from training into test."""


@dataclass(frozen=True)
class Duplicate:
    """Something that stands in two cubes.

    Attributes
    ----------
    kind : {"cell", "sound"}
        What it is.
    first, second : str
        Names of the cubes.
    labels : tuple of (str, str)
        Its label in each.
    """

    kind: Literal["cell", "sound"]
    first: str
    second: str
    labels: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        shown = ", ".join(a if a == b else f"{a} = {b}" for a, b in self.labels[:5])
        more = f" and {len(self.labels) - 5} more" if len(self.labels) > 5 else ""
        return f"{len(self.labels)} {self.kind}(s) of {self.first} are also in {self.second}: {shown}{more}"


def concat(
    cubes: Sequence[xr.Dataset | str | os.PathLike[str]],
    names: Sequence[str] | None = None,
    *,
    stimuli: Literal["separate", "shared"] = "separate",
    bands: Literal["same", "by_number"] = "same",
    duplicates: Literal["warn", "drop", "keep"] = "warn",
) -> xr.Dataset:
    """Pool cubes into one.

    Parameters
    ----------
    cubes : sequence of xarray.Dataset, path or URL
        With one bin width and one response unit.
    names : sequence of str, optional
        One a cube; default its ``dataset`` attribute. They prefix the labels (``aa1:gg0304_10_B``) and fill the
        coordinates ``dataset`` on neuron and ``stim_dataset`` on stim.
    stimuli : {"separate", "shared"}
        ``separate``: block-diagonal, each cube keeps its stimuli. ``shared``: a sound that stands in several cubes
        becomes one stimulus. Within one data set that is a stimulus of one label, so that pooling the parts of a cube
        gives the cube, also where it plays one sound as two classes; across data sets a sound of one ``md5``, or
        without one of one ``stim_name`` and spectrogram. Its spectrogram is taken from the first that has one.
    bands : {"same", "by_number"}
        ``same``: the frequency axes and units of the spectrograms must be equal. ``by_number``: only the number of
        bands; the centre frequencies go to the coordinate ``band_frequency`` (stim, frequency).
    duplicates : {"warn", "drop", "keep"}
        What to do with a cell that stands in two cubes (same species and ``cell_id``): report it in a
        `DuplicateWarning`, drop the later copy, or keep it silently. Sounds that stand in two cubes, by their ``md5``
        or where one has none by their spectrograms, are reported too; ``stimuli="shared"`` makes them one.

    Returns
    -------
    xarray.Dataset
        Lazy; ``n_repeats`` is 0 where a neuron did not hear a stimulus. A coordinate on stim in one cube and on (stim,
        neuron) in another, as ``split`` may be, is on (stim, neuron); where a cube has none it is missing: "" or NaN.

    Raises
    ------
    UsageError
        If bin widths, frequency axes, units, the alignment of frames or the settings of the front ends differ (the
        message has both values), names repeat or make equal labels, or a coordinate is on stim in one cube and on
        neuron in another.
    """
    if isinstance(cubes, str | os.PathLike) or hasattr(cubes, "data_vars"):
        raise UsageError("concat: expected several cubes in a list, got one")
    opened = [numbered_anew(as_recorded(_in_floats(loaded(_opened(cube))))) for cube in cubes]
    if not opened:
        raise UsageError("concat: expected at least one cube, got none")
    labels = [str(ds.attrs.get("dataset", "cube")) for ds in opened] if names is None else list(map(str, names))
    if len(labels) != len(opened) or len(set(labels)) < len(labels):
        raise UsageError(
            f"concat: expected {len(opened)} different names, got {labels}; give each a name: names=['a', 'b']"
        )
    for option, given, allowed in (
        ("stimuli", stimuli, ("separate", "shared")),
        ("bands", bands, ("same", "by_number")),
        ("duplicates", duplicates, ("warn", "drop", "keep")),
    ):
        if given not in allowed:
            raise UsageError(f"concat: {option}={given!r}, expected one of {', '.join(allowed)}")
    for ds, label in zip(opened[1:], labels[1:], strict=True):
        _refuse_unlike(opened[0], ds, labels[0], label, bands)
    if duplicates == "drop":
        opened = _without_copies(opened, labels)
    stims = union(opened, labels) if stimuli == "shared" else diagonal([ds.sizes["stim"] for ds in opened])
    if duplicates == "warn":
        found = [d for one in find_duplicates(opened, labels) if (d := _apart(one, opened, labels, stims))]
        if found:
            advice = (
                "drop copied cells with duplicates='drop', merge sounds with stimuli='shared', or accept with "
                "duplicates='keep'"
            )
            warnings.warn(f"{'; '.join(map(str, found))}. {advice}", DuplicateWarning, stacklevel=2)
    return _pool(opened, labels, stims, bands)


def find_duplicates(cubes: Sequence[xr.Dataset], names: Sequence[str]) -> list[Duplicate]:
    """Cells (same species and ``cell_id``) and sounds that stand in two cubes.

    Sounds are the same by their ``md5``, or where one has none, by the moments of their spectrograms.
    """
    found = []
    for second in range(1, len(cubes)):
        for first in range(second):
            a, b = cubes[first], cubes[second]
            for kind, dim, keys in (("cell", "neuron", ("species", "cell_id")), ("sound", "stim", ("md5",))):
                there = {k: i for i, k in enumerate(_identities(a, keys)) if k}
                pairs = [(there[k], j) for j, k in enumerate(_identities(b, keys)) if k in there]
                if kind == "sound":
                    pairs = sorted({*pairs, *equal_spectrograms(a, b)})
                if pairs:
                    labels = tuple((str(a[dim].values[i]), str(b[dim].values[j])) for i, j in pairs)
                    found.append(Duplicate(kind, names[first], names[second], labels))  # type: ignore[arg-type]
    return found


def _apart(
    found: Duplicate, cubes: Sequence[xr.Dataset], names: Sequence[str], stims: Sequence[Index]
) -> Duplicate | None:
    """What is left of it once shared sounds are one: parts of one data set have the same, and that is no news."""
    if found.kind == "cell":
        return found
    where = []
    for name in (found.first, found.second):
        c = list(names).index(name)
        row = {int(s): r for r, s in enumerate(stims[c]) if s >= 0}
        where.append({str(v): row[s] for s, v in enumerate(cubes[c]["stim"].values)})
    merged = set(where[0].values()) & set(where[1].values())
    labels = tuple((i, j) for i, j in found.labels if where[0][i] not in merged and where[1][j] not in merged)
    return replace(found, labels=labels) if labels else None


def _identities(ds: xr.Dataset, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """Identity of each cell or sound across cubes; () where the cube does not say."""
    if any(k not in ds.coords for k in keys):
        return []
    columns = [[str(v) for v in ds[k].values] for k in keys]
    return [row if all(row) else () for row in zip(*columns, strict=True)]


def _without_copies(cubes: Sequence[xr.Dataset], names: Sequence[str]) -> list[xr.Dataset]:
    kept, seen = [], set()
    for ds, name in zip(cubes, names, strict=True):
        cells = _identities(ds, ("species", "cell_id")) or [()] * ds.sizes["neuron"]
        fresh = np.array([not c or c not in seen for c in cells], bool)
        if not fresh.any():
            raise UsageError(f"concat: every cell of {name} stands in an earlier cube; leave {name} out")
        seen.update(cells)
        kept.append(ds if fresh.all() else select(ds, where=ds["neuron"].copy(deep=False, data=fresh)))
    return kept


def _opened(cube: Any) -> xr.Dataset:
    if isinstance(cube, str | os.PathLike):
        from strfcube.cube.store import open as open_cube

        return open_cube(cube)
    if not hasattr(cube, "data_vars"):
        hint = "; of a view, give .ds, or add the views" if hasattr(cube, "ds") else ""
        raise UsageError(f"concat: expected paths, URLs or Datasets, got {type(cube).__name__}{hint}")
    return cube  # type: ignore[no-any-return]


def _in_floats(ds: xr.Dataset) -> xr.Dataset:
    """Whole numbers as floats, which NaN is one of."""
    whole = [n for n in ("response", "stimulus") if ds[n].dtype.kind in "biu"]
    return ds.assign({n: ds[n].astype(np.result_type(ds[n].dtype, np.float32)) for n in whole}) if whole else ds


def _refuse_unlike(a: xr.Dataset, b: xr.Dataset, first: str, second: str, bands: str) -> None:
    def differ(what: str, one: Any, other: Any, advice: str) -> UsageError:
        return UsageError(f"concat: {what} differ: {first} has {one}, {second} has {other}; {advice}")

    if not np.isclose(float(a.attrs["dt_ms"]), float(b.attrs["dt_ms"]), rtol=1e-9):
        raise differ("bin widths", f"{a.attrs['dt_ms']:g} ms", f"{b.attrs['dt_ms']:g} ms", "see strfcube rebin")
    start, begin = (float(ds["time"].values[0]) for ds in (a, b))
    if start != begin:
        raise differ("starts of time", f"{start:g} s", f"{begin:g} s", "take the same part of both, or all")
    one, other = (str(ds["response"].attrs.get("units", "")) for ds in (a, b))
    if one != other:
        raise differ("units of the responses", repr(one), repr(other), "select one signal_type first")
    f, g = np.asarray(a["frequency"].values, float), np.asarray(b["frequency"].values, float)
    if len(f) != len(g):
        raise differ("frequency axes", f"{len(f)} bands", f"{len(g)} bands", f"build both with {_common(a, b)}")
    unlike = unlike_recipes(a, b, front_ends=bands == "same")
    if unlike is not None:
        what, p, q = unlike
        advice = f"build both with {_common(a, b)}" if what.startswith("front ends") else "build both with one recipe"
        raise differ(what, repr(p), repr(q), advice)
    if bands == "by_number":
        return
    advice = f"build both with {_common(a, b)}, or pool band by band with bands='by_number'"
    if not np.allclose(f, g, rtol=1e-4, atol=0):
        raise differ("frequency axes", f"{f[0]:g} to {f[-1]:g} Hz", f"{g[0]:g} to {g[-1]:g} Hz", advice)
    one, other = (str(ds["stimulus"].attrs.get("units", "")) for ds in (a, b))
    if one != other:
        raise differ("units of the spectrograms", repr(one), repr(other), advice)


def _common(a: xr.Dataset, b: xr.Dataset) -> str:
    """Flags of a front end whose axis both cubes can have: the same bands between frequencies that lie in both."""
    kinds = {recipe.get("front_end", {}).get("kind") for ds in (a, b) for recipe in recipes(ds.attrs.get("recipe"))}
    kind = "cochleagram" if kinds == {"cochleagram"} else "mel"
    f, g = (np.asarray(ds["frequency"].values, float) for ds in (a, b))
    low, high = 10 * np.ceil(max(f[0], g[0]) / 10), 100 * np.floor(min(f[-1], g[-1]) / 100)
    return f"--spec {kind} --bands {min(len(f), len(g))} --f-min {low:g} --f-max {high:g}"


def unlike_recipes(a: xr.Dataset, b: xr.Dataset, *, front_ends: bool = True) -> tuple[str, Any, Any] | None:
    """What differs in how two cubes were built, and both values: one cube, one batch holds one kind of frame.

    Parameters
    ----------
    front_ends : bool
        Whether what is in a frame counts, beside where it stands in its bin.
    """
    one, other = (recipes(ds.attrs.get("recipe")) for ds in (a, b))
    for x, y in itertools.product(one, other):
        pairs = [("align", x.get("align"), y.get("align"))]
        if front_ends:
            f, g = x.get("front_end", {}), y.get("front_end", {})
            known = dict.fromkeys([*f, *g]) if f and g else {}
            pairs += [(f"front ends ({key})", f.get(key), g.get(key)) for key in known]
        for what, p, q in pairs:
            if p != q and not (what == "align" and None in (p, q)):
                return what, p, q
    return None


def _pool(cubes: Sequence[xr.Dataset], names: Sequence[str], stims: Sequence[Index], bands: str) -> xr.Dataset:
    import xarray as xr

    n_time = max(ds.sizes["time"] for ds in cubes)
    n_repeat = max(ds.sizes["repeat"] for ds in cubes)
    longest = max(cubes, key=lambda ds: ds.sizes["time"])
    owner, sounding = owners(cubes, stims)
    at = np.stack(stims)[owner, np.arange(len(owner))]
    sizes = {"repeat": n_repeat, "time": n_time}
    response, stimulus = _stored(cubes, stims, sounding, sizes)
    if response is None:
        response = _along([_placed(ds["response"], s, sizes) for ds, s in zip(cubes, stims, strict=True)], 1)
    if stimulus is None:
        stimulus = _along([_placed(cubes[int(c)]["stimulus"], at[a:b], sizes) for a, b, c in _owners(owner)], 0)
    variables: dict[str, Any] = {
        "response": (("stim", "neuron", "repeat", "time"), response, _common_attrs(cubes, "response")),
        "stimulus": (("stim", "frequency", "time"), stimulus, _common_attrs(cubes, "stimulus")),
    }
    skipped = {"response", "stimulus", "stim", "neuron", "repeat", "time", "frequency"}
    of_stim = list(zip(owner.tolist(), at.tolist(), strict=True))
    of_neuron = [(c, i) for c, ds in enumerate(cubes) for i in range(ds.sizes["neuron"])]
    coords: dict[str, Any] = {
        "stim": ("stim", _labels(cubes, names, "stim", of_stim)),
        "neuron": ("neuron", _labels(cubes, names, "neuron", of_neuron)),
        "repeat": np.arange(n_repeat, dtype=np.int32),
        "time": longest["time"].variable,
        "dataset": ("neuron", text(names[c] for c, _ in of_neuron)),
        "stim_dataset": ("stim", text(
            "+".join(n for n, s in zip(names, stims, strict=True) if s[i] >= 0) for i in range(len(owner))
        )),
    }  # fmt: skip
    coords["frequency"] = cubes[0]["frequency"].variable
    if bands == "by_number" or any("band_frequency" in ds.coords for ds in cubes):
        if bands == "by_number":
            coords["frequency"] = np.arange(cubes[0].sizes["frequency"])
        found = [_bands(ds) for ds in cubes]
        hz = np.stack([found[c][0][i] for c, i in of_stim])
        coords["band_frequency"] = (("stim", "frequency"), hz, {"units": "Hz"})
        coords["stimulus_units"] = ("stim", text(found[c][1][i] for c, i in of_stim))
    for name in dict.fromkeys(str(n) for ds in cubes for n in ds.variables if str(n) not in skipped):
        if dims := pooled_dims(cubes, names, name, stims):
            attrs = next(dict(ds[name].attrs) for ds in cubes if name in ds.variables)
            target = coords if any(name in ds.coords for ds in cubes) else variables
            target.setdefault(name, (dims, pooled(cubes, name, dims, stims, owner), attrs))
    return xr.Dataset(variables, coords, _root_attrs(cubes, names))


def _bands(ds: xr.Dataset) -> tuple[NDArray[Any], list[str]]:
    """Centre frequencies [shape=(stim, frequency)] and unit of the spectrogram of each stimulus, in a pool as well."""
    size = ds.sizes["stim"]
    units = ds["stimulus_units"].values.tolist() if "stimulus_units" in ds.coords else None
    own = np.asarray(ds["frequency"].values, float)
    hz = ds["band_frequency"].transpose("stim", "frequency").values if "band_frequency" in ds.coords else None
    return (
        np.broadcast_to(own, (size, len(own))) if hz is None else hz,
        [str(ds["stimulus"].attrs.get("units", ""))] * size if units is None else units,
    )


def _stored(
    cubes: Sequence[xr.Dataset], stims: Sequence[Index], sounding: Sequence[Index], sizes: Mapping[str, int]
) -> tuple[Any, Any]:
    """Responses and stimuli as arrays of stored rows; None where one of the cubes holds something else."""
    from strfcube.cube.lazy_array import block_of, chunked, rows_of

    shape = (len(stims[0]), sum(ds.sizes["neuron"] for ds in cubes), sizes["repeat"], sizes["time"])
    found = []
    bands = cubes[0].sizes["frequency"]
    for name, at, rest in (("response", stims, shape[2:]), ("stimulus", sounding, (bands, sizes["time"]))):
        rows = [rows_of(ds[name]) for ds in cubes]
        known = [r for r in rows if r is not None and r.entire]
        found.append(chunked(joined(known, at, rest), block_of(shape)) if len(known) == len(rows) else None)
    return found[0], found[1]


def _owners(owner: Index) -> list[tuple[int, int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
    return [(a, b, int(owner[a])) for a, b in itertools.pairwise(edges)]


def _placed(array: xr.DataArray, stims: Index, sizes: Mapping[str, int]) -> Any:
    """Put the stimuli of a lazy array at their pooled places, NaN elsewhere, padded to the pooled sizes."""
    da: Any = import_module("dask.array")  # untyped
    data = da.asarray(array.data)
    # Says no more where its values are stored, which is not where they are now
    data = da.Array(data.dask, data.name, data.chunks, meta=data._meta)
    pad = [(0, sizes.get(str(d), n) - n) for d, n in zip(array.dims, data.shape, strict=True)]
    if any(after for _, after in pad):
        data = da.pad(data, pad, constant_values=np.float32(np.nan))
    shape = data.shape[1:]
    lacks = stims < 0
    jumps = (lacks[1:] != lacks[:-1]) | (~lacks[1:] & (stims[1:] != stims[:-1] + 1))
    edges = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(stims)]
    blocks = [
        data[as_slice(stims[a:b])] if stims[a] >= 0
        else da.full((b - a, *shape), np.nan, dtype=np.float32, chunks=(max(1, max(data.chunks[0])), *shape))
        for a, b in itertools.pairwise(edges)
    ]  # fmt: skip
    return _along(blocks, 0)


def _along(blocks: Sequence[Any], axis: int) -> Any:
    da: Any = import_module("dask.array")
    return blocks[0] if len(blocks) == 1 else da.concatenate(list(blocks), axis=axis)


def _labels(cubes: Sequence[xr.Dataset], names: Sequence[str], dim: str, of: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Labels of the pool: of each the cube and the position in it, in its own words."""
    own = [ds[dim].values for ds in cubes]
    seen: dict[str, tuple[int, int]] = {}
    for c, i in of:
        label = f"{names[c]}:{own[c][i]}"
        if (other := seen.setdefault(label, (c, i))) != (c, i):
            raise UsageError(
                f"concat: {label!r} would be both {str(own[other[0]][other[1]])!r} of {names[other[0]]} and "
                f"{str(own[c][i])!r} of {names[c]} (labels of '{dim}'); give other names: names=[...]"
            )
    return text(seen)


def _common_attrs(cubes: Sequence[xr.Dataset], name: str) -> dict[str, Any]:
    """Attributes that all cubes share; differing units are ``mixed``."""
    first = cubes[0][name].attrs
    attrs = {k: v for k, v in first.items() if all(ds[name].attrs.get(k) == v for ds in cubes) and k != "_FillValue"}
    return attrs if "units" in attrs else attrs | {"units": "mixed"}


def _root_attrs(cubes: Sequence[xr.Dataset], names: Sequence[str]) -> dict[str, Any]:
    def lines(key: str) -> str:
        return "\n".join(dict.fromkeys(str(ds.attrs[key]) for ds in cubes if ds.attrs.get(key)))

    def parsed(ds: xr.Dataset, key: str) -> Any:
        return json.loads(ds.attrs.get(key) or "null")

    kept = {k: cubes[0].attrs[k] for k in ("format_version", "strfcube_version", "dt_ms") if k in cubes[0].attrs}
    return kept | {
        "dataset": "+".join(names),
        "recipe": json.dumps({"pool": {n: parsed(ds, "recipe") for n, ds in zip(names, cubes, strict=True)}}),
        "digest": "",
        "sources": json.dumps([source for ds in cubes for source in parsed(ds, "sources") or ()]),
        "licence": lines("licence"),
        "citation": lines("citation"),
        "doi": lines("doi"),
        "history": f"strfcube: pooled {', '.join(names)}\n{lines('history')}".strip(),
    }
