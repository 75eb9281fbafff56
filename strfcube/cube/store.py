"""Cubes on disk: opening and describing them."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from strfcube.catalog import data_dir, entries
from strfcube.cube import digest
from strfcube.cube.metadata import DIGESTS, ENDS, Root, bounded, parsed, short
from strfcube.cube.schema import FORMAT_VERSION, validate
from strfcube.errors import StoreError, UsageError, did_you_mean
from strfcube.grid import dt_to_ns
from strfcube.transport.connect import connect
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr

    from strfcube.cube.opened import Store
    from strfcube.cube.stored_rows import Rows
    from strfcube.transport.connect import Transport

REPLACED = "replaced"  # in a work folder: the old cube, while a build puts the new one into its place
BEGUN = "begun.json"  # in the folder of an unfinished build at a URL: what is built there
RESUME = "resume.txt"  # in the folder of an unfinished build: the command that goes on with it


@contextmanager
def no_consolidation_warning() -> Iterator[None]:
    """Consolidated metadata is not yet in the Zarr v3 specification; cubes have it, since every reader uses it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        yield


def named(place: str | os.PathLike[str]) -> str:
    """What was given as a path, a URL or a name, as text.

    Raises
    ------
    UsageError
        If it is none, such as a cube that is open.
    """
    try:
        return os.fspath(place)
    except TypeError:
        kind = type(place).__name__
        hint = "; save what is open with strfcube.save, and give that path" if hasattr(place, "data_vars") else ""
        raise UsageError(f"expected a path, a URL or the name of a data set, got a {kind}{hint}") from None


def local(place: str | os.PathLike[str]) -> str:
    """A path or URL as text: a path absolute, with ``~`` expanded; a file URL as the path that it is.

    Raises
    ------
    StoreError
        If a path is relative, and the folder that it starts from was removed.
    UsageError
        As `named`.
    """
    text = named(place)
    if text.startswith("file:"):
        text = unquote(text.removeprefix("file:").removeprefix("//localhost").removeprefix("//"))
    try:
        return text if "://" in text else os.path.abspath(os.path.expanduser(text))
    except FileNotFoundError:
        what = "the current folder was removed; change to another, or give an absolute path"
        raise StoreError(f"{text}: {what}") from None


def beside(path: str | os.PathLike[str]) -> Path:
    """Work folder of a local cube, where an unfinished build of it lies."""
    place = Path(path)
    return place.with_name(f"{place.name}.building")


def locate(store: str | os.PathLike[str], dt: float | None = None) -> str:
    """Absolute path or URL of a cube, from one or from a data set's name.

    Raises
    ------
    StoreError
        If there is none; the message lists the cubes of that data set.
    """
    name, place = named(store), local(store)
    _say_where_it_went(place)
    if "://" in place or os.path.exists(f"{place}/zarr.json"):
        return place
    # A folder that only happens to have the name of a data set is not meant.
    if os.path.exists(place) and name not in entries():
        return place
    if name not in entries() and "/" not in name:  # as strfcube list prints them
        for path in (data_dir() / name, data_dir() / f"{name}.zarr"):
            if (path / "zarr.json").exists():
                return local(path)
    if name not in entries() and (begun := _unfinished(f"{place}.building")):
        raise StoreError(f"{place}: no such cube yet; {begun}")
    if name not in entries():
        hint = did_you_mean(name, [*entries(), *_neighbours(place), *(p.name for p in data_dir().glob("*.zarr"))])
        raise StoreError(
            f"{name}: no such cube; {hint}give the path of a store, a URL, a name that strfcube list prints, or a data "
            f"set: {', '.join(entries())}"
        )
    folder = data_dir()
    ms = dt_to_ns(entries()[name].recipe["dt"] if dt is None else dt) / 1e6
    path = folder / f"{name}-dt{ms:g}.zarr"
    _say_where_it_went(str(path))
    if not os.path.exists(path):
        from strfcube.cube.rebinnable import rebinning

        there = sorted(p.name for p in folder.glob(f"{name}-dt*.zarr"))
        listed = f"there are {', '.join(there)}: give its path, or" if there else "there is none of this data set yet:"
        command = rebinning(name, dt_to_ns(ms)) or f"strfcube build {name} --dt {ms:g}"
        raise StoreError(f"{path}: no such cube; {listed} run: {command}")
    return local(path)


def _neighbours(place: str) -> list[str]:
    """Folders beside a path that is not there, as they would have been given."""
    folder = Path(place).parent
    return [p.name for p in folder.glob("*.zarr")] if "://" not in place and folder.is_dir() else []


def open(
    store: str | os.PathLike[str], dt: float | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> xr.Dataset:
    """Open a cube: coordinates and coverage in memory, response and stimulus lazy.

    Parameters
    ----------
    store : path, URL or str
        A store, or the name of a data set whose complete default cube is built.
    dt : float, optional
        Bin width in ms, with a name.
    cache_dir : path, optional
        Folder in which chunks of a cube behind a URL are kept, as they are stored there, for the next time and for
        other processes; at most ``$STRFCUBE_CACHE_GB`` (20) gigabytes, the least recently used go first. Default:
        ``$STRFCUBE_CACHE_DIR``, else nowhere.

    Returns
    -------
    xarray.Dataset
        ``response`` [dims=(stim, neuron, repeat, time)] decodes to float32 with NaN.

    Raises
    ------
    StoreError
        If it is absent, no cube, unfinished, damaged or of a newer format, or cannot be reached.
    """
    from strfcube.cube.lazy_array import block_of, chunked

    path = locate(store, dt)
    ds, rows = opened(path, cache_dir=None if cache_dir is None else os.fspath(cache_dir))
    # One dask task a read block of several storage chunks, never one a chunk: graphs stay small at any size.
    block = block_of(ds["response"].shape)
    lazy = {n: ds.variables[n].chunk(stim=block) for n in ("response", "stimulus") if n not in rows}
    lazy |= {n: ds.variables[n]._replace(data=chunked(r, block)) for n, r in rows.items()}
    return ds.assign(lazy)


def opened(path: str, drop: Sequence[str] = (), cache_dir: str | None = None) -> tuple[xr.Dataset, dict[str, Rows]]:
    """A cube with ``response`` and ``stimulus`` in xarray's lazy indexing, and everything else in memory.

    Parameters
    ----------
    path : str
        Path or URL.
    drop : sequence of str
        Variables to leave out; what is left then need not be a cube.
    cache_dir : str, optional
        As in `open`.

    Returns
    -------
    xarray.Dataset
    rows : dict of str to Rows
        Which rows of the store the two are; those that only zarr can read are not in it.

    Raises
    ------
    StoreError
        If it is no cube that this strfcube reads.
    """
    from strfcube.cube.opened import Store

    # Before anything is read: what is put there from now on is found out
    files = connect(path, cache_dir)
    found = files.request("zarr.json", None) if isinstance(files, Remote) else None
    here = Store.opened(path, cache_dir) if found is None else Store(path, found[1], cache_dir=cache_dir)
    root = cube_root(path, None if found is None else found[0])
    here = replace(here, digest=str(root.attrs.get("digest", "")))
    with here.unchanged():
        return _opened(here, files, root, drop)


def _opened(here: Store, files: Transport, root: Root, drop: Sequence[str]) -> tuple[xr.Dataset, dict[str, Rows]]:
    from xarray.core.indexing import LazilyIndexedArray

    from strfcube.cube.groups import open_group
    from strfcube.cube.guarded import readable
    from strfcube.cube.lazy_array import LazyRows
    from strfcube.cube.opened import StoredArray
    from strfcube.cube.shard_reader import stored_array
    from strfcube.cube.stored_rows import Rows

    path = here.path
    bare: xr.Dataset = open_group(path, "", here.cache_dir, root).drop_vars(list(drop), errors="ignore")
    small = [str(name) for name in bare.variables if name not in ("response", "stimulus")]
    loaded = {}
    for name in small:
        with readable(f"{path}/{name}"):
            loaded[name] = _plain_text(bare.variables[name].load())
    with readable(path):
        ds: xr.Dataset = bare.assign({n: v for n, v in loaded.items() if n in bare.data_vars})
        ds = ds.assign_coords({n: v for n, v in loaded.items() if n in bare.coords})
        if not drop:
            validate(ds, path)
    rows: dict[str, Rows] = {}
    for name in sorted({"response", "stimulus"} & set(ds.data_vars)):
        try:
            array = stored_array(files, root, name)
            if array.shape != ds[name].shape:
                raise StoreError(
                    f"{path}/{name} has two shapes, {array.shape} and {ds[name].shape}; run strfcube verify"
                )
        except NotImplementedError:  # written by somebody else
            continue
        told: list[Any] = [None, None]
        if name == "response" and {"n_repeats", "n_bins"} <= set(ds.variables):
            bins = ds["n_bins"]
            told = [ds["n_repeats"].values, bins.values + int(bins.attrs.get("first_bin", 0))]
        rows[name] = Rows.whole(StoredArray(here, array, *told))
        ds[name] = ds.variables[name]._replace(data=LazilyIndexedArray(LazyRows(rows[name])))
    ds.encoding["source"] = path
    for variable in ds.variables.values():  # chunks and codecs of this store fit no part of it
        variable.encoding = {k: v for k, v in variable.encoding.items() if k in ("dtype", "_FillValue")}
    # Of the store, not of its values: whoever writes these again writes another store
    ds.attrs = {k: v for k, v in ds.attrs.items() if k not in (DIGESTS, ENDS)}
    return ds, rows


def _plain_text(values: xr.Variable) -> xr.Variable:
    """Text as Python strings: NumPy's StringDType, which Zarr gives, is still refused by much of pandas and xarray."""
    import xarray as xr

    if values.dtype.kind != "T":
        return values
    return xr.Variable(values.dims, values.values.astype(object), values.attrs)


def existing_cube(path: str, text: bytes | None = None) -> Root | None:
    """Root metadata of the cube at a place; None where there is nothing.

    Parameters
    ----------
    path : str
        Path or URL.
    text : bytes, optional
        They themselves, where they were read already.

    Raises
    ------
    StoreError
        If what is there is no cube, not finished, or of a newer format.
    """
    text = _root_metadata(path) if text is None else short(path, "zarr.json", text)
    if text is None:
        return None
    try:
        root = Root(path, parsed(text), text)
        version = int(root.document["attributes"]["format_version"])
    except (ValueError, KeyError, TypeError, OverflowError):
        raise _no_cube(path) from None
    if version > FORMAT_VERSION:
        raise StoreError(f"{path} is of cube format {version}, this strfcube reads {FORMAT_VERSION}: upgrade strfcube")
    return root


def cube_root(path: str, text: bytes | None = None) -> Root:
    """Root metadata of the cube at a place; `text` as `existing_cube` takes it.

    Raises
    ------
    StoreError
        If there is none that this strfcube reads.
    """
    try:
        root = existing_cube(path, text)
    except _NoCubeError:
        raise StoreError(f"{path} is no strfcube cube: {_in_place_of(path)}") from None
    if root is None and (begun := _begun(path)):
        raise StoreError(f"{path}: no such cube yet; {begun}")
    if root is None:
        raise StoreError(f"{path}: no such cube; strfcube list shows those that are built")
    return root


class _NoCubeError(StoreError):
    """Something else lies there."""


def _no_cube(path: str) -> StoreError:
    """The error of a place that something else has, for who wants to write there."""
    if unfinished := _unfinished(path):
        return StoreError(unfinished)
    return _NoCubeError(f"{path} is no strfcube cube: give another path, or move it away")


def _in_place_of(path: str) -> str:
    """What to do for who wants to read a cube where something else is."""
    place = Path(path)
    if "://" in path or not place.is_dir() or (place / "zarr.json").exists():
        return "give the path of one; strfcube list shows those that are built"
    name = place.name if place.name in entries() else "NAME"
    return f"if these are raw files, build one of them: strfcube build {name} --raw {shlex.quote(path)}"


def _say_where_it_went(path: str) -> None:
    """Stop where a build was killed in the moment in which it replaced this cube."""
    old = beside(path) / REPLACED if "://" not in path and Path(path).name else None
    if old is not None and not os.path.exists(path) and os.path.isdir(old):
        raise StoreError(f"{path}: a build ended while it replaced this cube; it is whole, move it back from {old}, or "
                         "give the same build command again")  # fmt: skip


def _unfinished(path: str) -> str:
    """What a folder is that holds an unfinished build, or lies in one, and how to go on with it; else empty."""
    for folder in (Path(path), Path(path).parent):
        command = folder / RESUME
        if "://" not in path and folder.name.endswith(".building") and command.is_file():
            said = command.read_bytes().decode("utf-8", "replace")
            return f"{folder} is an unfinished build; go on with it by: {said}"
    return ""


def _begun(path: str) -> str:
    """What lies beside a cube at a URL that is not there; empty where nothing does."""
    if "://" not in path:
        return ""
    try:
        said = json.loads(bounded(connect(f"{path.rstrip('/')}.building", cache_dir=""), BEGUN) or b"{}")
    except (StoreError, ValueError):
        return ""
    if not isinstance(said, dict) or not said:
        return ""
    how = f"; if nobody is, go on with it by: {said['command']}" if said.get("command") else ""
    return f"it is being built, or its build was not finished{how}"


def _root_metadata(path: str) -> bytes | None:
    if "://" in path:
        return bounded(connect(path), "zarr.json")
    place = Path(path)
    if not os.path.lexists(place):
        return None
    text = bounded(connect(path), "zarr.json")
    if text is None and not (place.is_dir() and not any(place.iterdir())):
        raise _no_cube(path)
    return text


def attributes_digest(path: str) -> str:
    """The digest that `digest_of_attributes` gives of all arrays of a store that is being written."""
    import zarr

    with no_consolidation_warning():
        root = zarr.open_group(path, mode="r", use_consolidated=False)
        return digest_of_attributes({n: a for n, a in root.members(max_depth=None) if isinstance(a, zarr.Array)})


def digest_of_attributes(arrays: Mapping[str, Any]) -> str:
    """Digest of the dimensions, fill values and attributes of zarr arrays, which decide what their values mean.

    Parameters
    ----------
    arrays : mapping of str to zarr.Array
        By path within the store.
    """
    found = {
        name: [array.metadata.to_dict().get("dimension_names"), str(array.fill_value), dict(array.attrs)]
        for name, array in arrays.items()
    }
    return digest.of_values("attributes", np.array([json.dumps(found, sort_keys=True)]))
