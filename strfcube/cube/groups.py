"""Groups of a cube as xarray reads them, wherever the cube lies."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any

from strfcube.cube import digest
from strfcube.errors import StoreError, StrfcubeError
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    import xarray as xr


_TELLING = ("stim", "neuron", "time")  # labels that a part has others of


def open_group(path: str, group: str = "", cache_dir: str | None = None) -> xr.Dataset:
    """A group of a cube as xarray reads it, wherever the cube lies: lazy, and its small variables at hand.

    Parameters
    ----------
    path : str
        Path or URL of the cube.
    group : str
        "" is the root.
    cache_dir : str, optional
        As `strfcube.transport.connect` takes it.

    Raises
    ------
    StoreError
        If there is no such group, xarray cannot open it, or files of it are lost that hold values.
    """
    import xarray as xr

    from strfcube.cube.zarr_store import zarr_store

    files = connect(path, cache_dir)
    place = zarr_store(files, group)
    try:
        ds: xr.Dataset = xr.open_zarr(place, group=group or None, chunks=None, decode_timedelta=False)
    except StrfcubeError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{path} has no group '{group}'; build the cube again") from None
    except Exception as error:  # whatever damaged metadata, or damaged labels, lead to
        raise unreadable(f"{path}/{group}".rstrip("/"), error) from error
    lost = {name: key for name, key in _lost(place, group, ds).items() if name not in ("response", "stimulus")}
    if lost:
        root = files.get("zarr.json") if isinstance(place, str) else place.known["zarr.json"]  # without a request more
        _refuse_lost(lost, json.loads(root or b"{}").get("attributes", {}), path, group, ds)
    return ds


def _lost(place: Any, group: str, ds: xr.Dataset) -> dict[str, str]:
    """Variables of which a file is not there, and which: zarr reads fill values in its place."""
    found = {}
    folder = f"{group}/" if group else ""
    for name, variable in ds.variables.items():
        file = variable.encoding.get("shards") or variable.encoding.get("chunks")
        if not file or not variable.size:
            continue
        grid = [range(-(-n // f)) for n, f in zip(variable.shape, file, strict=True)]
        for at in itertools.product(*grid):
            key = "/".join([f"{folder}{name}", "c", *map(str, at)])
            if isinstance(place, str):
                there = os.path.exists(f"{place}/{key}")
            else:
                there = place.known.get(key, b"") is not None
            if not there:
                found[str(name)] = key
                break
    return found


def _refuse_lost(lost: dict[str, str], attrs: dict[str, Any], path: str, group: str, ds: xr.Dataset) -> None:
    """Refuse lost files, but for those of arrays that hold nothing but fill values: zarr writes none of these."""
    try:
        digests: dict[str, str] = json.loads(attrs["digests"])
    except (LookupError, TypeError, ValueError):  # written by somebody else
        return

    def built(name: str) -> str | None:
        return digests.get(f"{group}/{name}".lstrip("/"))

    def changed(name: str) -> bool:
        return digest.of_values(name, ds.variables[name].values) != built(name)

    def sharded(name: str) -> bool:
        return bool(ds.variables[name].encoding.get("shards"))

    for name, key in lost.items():
        if not built(name) or not (sharded(name) or changed(name)):
            continue
        # A part that xarray wrote has the digests of the whole in its attributes: it is not what these speak of
        if any(changed(n) for n in _TELLING if n in ds.variables and n not in lost and not sharded(n)):
            return
        raise StoreError(
            f"{path}: {key} is not there, but the cube has values in it; run strfcube verify, and build the cube again"
        )


def in_memory(ds: xr.Dataset, place: str) -> xr.Dataset:
    """A group, loaded.

    Raises
    ------
    StoreError
        If one of its chunks is damaged; `place` is what the message calls the group.
    """
    try:
        return ds.load()
    except StrfcubeError:
        raise
    except Exception as error:  # whatever a codec raises on damaged bytes
        raise unreadable(place, error) from error


def has_group(path: str, group: str) -> bool:
    """Whether a cube has a group."""
    return connect(path, "").get(f"{group}/zarr.json") is not None


def unreadable(place: str, error: Exception) -> StoreError:
    """The error of something in a store that zarr or xarray refused, in one line."""
    text = " ".join(str(error).split())[:200]
    return StoreError(f"{place} cannot be read ({type(error).__name__}: {text}); run strfcube verify")
