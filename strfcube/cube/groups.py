"""Groups of a cube as xarray reads them, wherever the cube lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strfcube.errors import StoreError, StrfcubeError
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    import xarray as xr


def open_group(path: str, group: str = "", cache_dir: str | None = None, root: bytes | None = None) -> xr.Dataset:
    """A group of a cube as xarray reads it, wherever the cube lies: lazy, and its small variables at hand.

    Parameters
    ----------
    path : str
        Path or URL of the cube.
    group : str
        "" is the root.
    cache_dir : str, optional
        As `strfcube.transport.connect` takes it.
    root : bytes, optional
        Root metadata of the cube, where they were read already.

    Raises
    ------
    StoreError
        If there is no such group, or xarray cannot open it.
    """
    import xarray as xr

    from strfcube.cube.zarr_store import zarr_store

    place = zarr_store(connect(path, cache_dir), group, root=root)
    try:
        # Told which format it is, zarr does not look for others
        ds: xr.Dataset = xr.open_zarr(place, group=group or None, chunks=None, decode_timedelta=False, zarr_format=3)
    except StrfcubeError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{path} has no group '{group}'; build the cube again") from None
    except Exception as error:  # whatever damaged metadata, or damaged labels, lead to
        raise unreadable(f"{path}/{group}".rstrip("/"), error) from error
    return ds


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
