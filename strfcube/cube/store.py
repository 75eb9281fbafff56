"""Cubes on disk: opening, verifying and describing them."""

from __future__ import annotations

import json
import math
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.catalog import data_dir, entries
from strfcube.cube import digest
from strfcube.cube.schema import FORMAT_VERSION, problems, validate
from strfcube.errors import StoreError
from strfcube.grid import dt_to_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

RESUME = "resume.txt"  # in the folder of an unfinished build: the command that goes on with it
READ_BYTES = 16_000_000  # decoded float32 of one dask task: a shuffled epoch asks for one stimulus at a time


@contextmanager
def no_consolidation_warning() -> Iterator[None]:
    """Consolidated metadata is not yet in the Zarr v3 specification; cubes have it, since every reader uses it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        yield


def local(place: str | os.PathLike[str]) -> str:
    """A path or URL as text: a path absolute, with ``~`` expanded; a file URL as the path that it is."""
    text = os.fspath(place).removeprefix("file://")
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def locate(store: str | os.PathLike[str], dt: float | None = None) -> str:
    """Absolute path or URL of a cube, from one or from a data set's name.

    Raises
    ------
    StoreError
        If there is none; the message lists the cubes of that data set.
    """
    name, place = os.fspath(store), local(store)
    # A folder that only happens to have the name of a data set is not meant.
    if "://" in place or (Path(place) / "zarr.json" if name in entries() else Path(place)).exists():
        return place
    if name not in entries() and (begun := _unfinished(f"{place}.building")):
        raise StoreError(f"{place}: no such cube yet; {begun}")
    if name not in entries():
        raise StoreError(
            f"{name}: no such cube; give the path of a store, a URL, or a data set: {', '.join(entries())}"
        )
    folder = data_dir()
    ms = dt_to_ns(entries()[name].recipe["dt"] if dt is None else dt) / 1e6
    path = folder / f"{name}-dt{ms:g}.zarr"
    if not path.exists():
        there = sorted(p.name for p in folder.glob(f"{name}-dt*.zarr"))
        listed = f"there are {', '.join(there)}: give its path, or" if there else "there is none of this data set yet:"
        raise StoreError(f"{path}: no such cube; {listed} run: strfcube build {name} --dt {ms:g}")
    return local(path)


def open(store: str | os.PathLike[str], dt: float | None = None) -> xr.Dataset:
    """Open a cube: coordinates and coverage in memory, response and stimulus lazy.

    Parameters
    ----------
    store : path, URL or str
        A store, or the name of a data set whose complete default cube is built.
    dt : float, optional
        Bin width in ms, with a name.

    Returns
    -------
    xarray.Dataset
        ``response`` [dims=(stim, neuron, repeat, time)] decodes to float32 with NaN.

    Raises
    ------
    StoreError
        If it is absent, no cube, unfinished, or of a newer format.
    """
    import xarray as xr

    from strfcube.cube.response_reader import register

    path = locate(store, dt)
    cube_attrs(path)
    bare: xr.Dataset = xr.open_zarr(path, chunks=None)
    small = [name for name in bare.variables if name not in ("response", "stimulus")]
    loaded = {name: _plain_text(bare.variables[name].load()) for name in small}
    ds: xr.Dataset = bare.assign({n: v for n, v in loaded.items() if n in bare.data_vars})
    ds = ds.assign_coords({n: v for n, v in loaded.items() if n in bare.coords})
    # One dask task a read block of several storage chunks, never one a chunk: graphs stay small at any size.
    per_stim = 4 * math.prod(ds["response"].shape[1:])
    block = max(1, min(ds.sizes["stim"], READ_BYTES // max(1, per_stim)))
    ds = ds.assign({name: bare.variables[name].chunk(stim=block) for name in ("response", "stimulus")})
    ds.encoding["source"] = path
    validate(ds, path)
    register(ds, path)
    return ds


def _plain_text(values: xr.Variable) -> xr.Variable:
    """Text as Python strings: NumPy's StringDType, which Zarr gives, is still refused by much of pandas and xarray."""
    import xarray as xr

    if values.dtype.kind != "T":
        return values
    return xr.Variable(values.dims, values.values.astype(object), values.attrs)


def existing_cube(path: str) -> dict[str, Any] | None:
    """Root attributes of the cube at a place; None where there is nothing.

    Raises
    ------
    StoreError
        If what is there is no cube, not finished, or of a newer format.
    """
    text = _root_metadata(path)
    if text is None:
        return None
    try:
        attrs = json.loads(text)["attributes"]
        version = int(attrs["format_version"])
    except (ValueError, KeyError, TypeError):
        what = _unfinished(path) or f"{path} is no strfcube cube: give another path, or move it away"
        raise StoreError(what) from None
    if version > FORMAT_VERSION:
        raise StoreError(f"{path} is of cube format {version}, this strfcube reads {FORMAT_VERSION}: upgrade strfcube")
    return dict(attrs)


def cube_attrs(path: str) -> dict[str, Any]:
    """Root attributes of the cube at a place.

    Raises
    ------
    StoreError
        If there is none that this strfcube reads.
    """
    attrs = existing_cube(path)
    if attrs is None:
        raise StoreError(f"{path}: no such cube; strfcube list shows those that are built")
    return attrs


def _unfinished(path: str) -> str:
    """What a folder is that holds an unfinished build, or lies in one, and how to go on with it; else empty."""
    for folder in (Path(path), Path(path).parent):
        command = folder / RESUME
        if "://" not in path and folder.name.endswith(".building") and command.is_file():
            said = command.read_bytes().decode("utf-8", "replace")
            return f"{folder} is an unfinished build; go on with it by: {said}"
    return ""


def _root_metadata(path: str) -> bytes | None:
    if "://" in path:
        import fsspec

        fs, inner = fsspec.url_to_fs(path)
        key = f"{inner.rstrip('/')}/zarr.json"
        return bytes(fs.cat_file(key)) if fs.exists(key) else None
    place = Path(path)
    if not place.exists():
        return None
    try:
        return (place / "zarr.json").read_bytes()
    except OSError:
        if place.is_dir() and not any(place.iterdir()):
            return None
        what = _unfinished(path) or f"{path} is no strfcube cube: give another path, or move it away"
        raise StoreError(what) from None


def verify(store: str | os.PathLike[str], dt: float | None = None) -> list[str]:
    """Read a whole cube again, and hold it against its own digest and contract.

    Returns
    -------
    list of str
        What is wrong, one sentence each; empty when all is well.

    Raises
    ------
    StoreError
        If there is no cube to verify.
    """
    import xarray as xr
    import zarr

    path = locate(store, dt)
    attrs = cube_attrs(path)
    if missing := [f"root attribute '{name}' is missing" for name in ("digest", "digests") if name not in attrs]:
        return missing
    expected: dict[str, str] = json.loads(attrs["digests"])
    found = []
    if digest.combine(expected) != attrs["digest"]:
        found.append("the digest does not fit the digests of the arrays: the attributes were changed")
    root = zarr.open_group(path, mode="r")
    actual: dict[str, str] = {}
    if {attributes_digest(path, consolidated=c) for c in (None, False)} != {expected.pop("attributes", "")}:
        found.append("attributes of the arrays are not those that were built")
    for name, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array):
            try:
                actual[name] = _array_digest(name, array)
            except Exception as error:  # whatever a codec raises on damaged bytes
                found.append(f"'{name}' cannot be read: {type(error).__name__}: {error}")
                actual[name] = expected.get(name, "")
    found += [f"'{name}' is missing" for name in sorted(set(expected) - set(actual))]
    found += [f"'{name}' is not the one that was built" for name in sorted(set(actual) - set(expected))]
    found += [f"'{name}' has other values than were built" for name in sorted(set(actual) & set(expected))
              if actual[name] != expected[name]]  # fmt: skip
    if not found:
        found += problems(xr.open_zarr(path, chunks=None))
    return found


def attributes_digest(path: str, *, consolidated: bool | None = False) -> str:
    """Digest of the dimensions, fill values and attributes of all arrays, which decide what their values mean.

    Parameters
    ----------
    consolidated : bool or None
        None is the copy that readers use, False the arrays' own metadata.
    """
    import zarr

    with no_consolidation_warning():
        root = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        found = {
            name: [array.metadata.to_dict().get("dimension_names"), str(array.fill_value), dict(array.attrs)]
            for name, array in root.members(max_depth=None)
            if isinstance(array, zarr.Array)
        }
    return digest.of_values("attributes", np.array([json.dumps(found, sort_keys=True)]))


def _array_digest(name: str, array: Any) -> str:
    if array.shards is None:
        return digest.of_values(name.rpartition("/")[2], array[...])
    import itertools

    grid = [range(-(-n // c)) for n, c in zip(array.shape, array.chunks, strict=True)]
    fill = array.fill_value
    leaves = []
    # One row of chunks at a time along the first dimension: bounded memory, and few calls.
    for first in grid[0]:
        row = slice(first * array.chunks[0], min((first + 1) * array.chunks[0], array.shape[0]))
        block = array[row]
        for rest in itertools.product(*grid[1:]):
            where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(rest, array.chunks[1:], strict=True))
            values = block[(slice(None), *where)]
            if not (np.isnan(values).all() if fill != fill else (values == fill).all()):
                leaves.append(((first, *rest), digest.leaf(values)))
    return digest.of_leaves(name, array.dtype, array.shape, array.chunks, leaves)
