"""Groups of a cube as xarray reads them, wherever the cube lies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube import limits
from strfcube.cube.guarded import guarded, readable
from strfcube.cube.metadata import NO_FILE, Root, arrays, grid, keys, sharded
from strfcube.errors import StoreError
from strfcube.transport.chunk_cache import CHECKED
from strfcube.transport.connect import connect
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from strfcube.transport.connect import Transport

    Known = Mapping[str, bytes | None]

_MANY_FILES = 10_000  # of an array
_UNWRITTEN = 1_000_000  # values of an array that may have no file: zarr writes none of zeros only


def open_group(path: str, group: str = "", cache_dir: str | None = None, root: Root | None = None) -> xr.Dataset:
    """A group of a cube as xarray reads it, wherever the cube lies: lazy, and its small variables at hand.

    Parameters
    ----------
    path : str
        Path or URL of the cube.
    group : str
        "" is the root.
    cache_dir : str, optional
        As `strfcube.transport.connect` takes it.
    root : Root, optional
        What its root says, where that was read just now.

    Raises
    ------
    StoreError
        If there is no such group, it is not what was built, or xarray cannot open it.
    """
    import xarray as xr

    from strfcube.cube.zarr_store import zarr_store

    files = connect(path, cache_dir)
    root = root or Root.read(files)
    if root is None or not root.nodes:
        raise StoreError(f"{path} is no cube: it has no consolidated metadata; run strfcube verify")
    root.check(group)
    with readable(f"{path}/{group}".rstrip("/")):
        place = zarr_store(files, root, group)
        known = {} if isinstance(place, str) else place.known
        for name, node in arrays(root.nodes).items():
            if name.rpartition("/")[0] == group and name not in ("response", "stimulus"):  # seen as they are read
                see_file(files, name, node, root.ends(name), known)
        try:
            # Told which format it is, zarr does not look for others
            ds: xr.Dataset = xr.open_zarr(
                place, group=group or None, chunks=None, decode_timedelta=False, zarr_format=3
            )
        except FileNotFoundError:
            raise StoreError(f"{path} has no group '{group}'; build the cube again") from None
        if group == "audio":
            rates = ds["rate"].values[ds["row_size"].values > 0]
            if not (np.isfinite(rates) & (rates > 0)).all():
                raise StoreError(f"{files.url}/audio/rate has no sampling rate of a sound that is there; run strfcube "
                                 "verify, and build the cube again")  # fmt: skip
    return ds.assign({n: guarded(v, f"{files.url}/{group}/{n}") for n, v in ds.data_vars.variables.items()})


def see_file(
    files: Transport, name: str, node: Mapping[str, Any], ends: str | None = None, known: Known | None = None
) -> None:
    """See that the files of an array are files, there, and in their own places.

    Parameters
    ----------
    files : Transport
        The cube.
    name, node : str, mapping
        The array and its metadata.
    ends : str, optional
        What its files end in, as the root has it.
    known : mapping
        Files of a remote cube that are here already.

    Raises
    ------
    StoreError
        If not.
    """
    known, whole_shards = known or {}, sharded(node)
    if math.prod(grid(node)) > _MANY_FILES and not isinstance(files, Remote):  # asking for each would take for ever
        last = "/".join([name, "c", *(str(n - 1) for n in grid(node))])
        if files.tail(last, 4) is None:
            raise StoreError(f"{files.url}/{last} is not there; run strfcube verify, and build the cube again")
    for number, key in enumerate(keys(node)):
        whole = f"{name}/{key}"
        end: bytes | None = None
        if whole in known:
            end = None if (data := known[whole]) is None else data[-4:]
        elif isinstance(files, Remote):
            continue
        elif (tail := files.tail(whole, 4)) is not None:
            end = tail[0]
            if tail[1].size > limits.CHUNK_BYTES and not whole_shards:
                raise StoreError(f"{files.url}/{whole} has {tail[1].size:,} bytes; run strfcube verify")
        expected = None if ends is None else ends[8 * number : 8 * number + 8]
        if expected is not None and expected != (NO_FILE if end is None else end.hex().rjust(8, "0")):
            what = "not there" if end is None else "damaged, or not the one that was built"
            raise StoreError(f"{files.url}/{whole} is {what}; run strfcube verify, and build the cube again")
        if end is not None and node["data_type"] == "string" and not whole_shards:
            data = known[whole] if whole in known else files.get(whole)
            if why := _no_text(data or b"", node):
                raise StoreError(f"{files.url}/{whole} is damaged ({why}); run strfcube verify")
        if end is None and (whole_shards or math.prod(node["shape"]) > _UNWRITTEN):
            raise StoreError(f"{files.url}/{whole} is not there; run strfcube verify, and build the cube again")


def _no_text(data: bytes, node: Mapping[str, Any]) -> str:
    """Why a chunk of text holds no text; zarr would believe any number of texts that it states, and make room."""
    from google_crc32c import value
    from numcodecs import zstd

    codecs = [codec["name"] for codec in node["codecs"]]
    if codecs not in (["vlen-utf8", "zstd", "crc32c"], ["vlen-utf8", "zstd"]):
        return ""
    if codecs[-1] == "crc32c":
        if len(data) < 4 or value(data) != CHECKED:
            return "its checksum"
        data = data[:-4]
    try:
        said = int.from_bytes(zstd.decompress(data)[:4], "little")
    except (RuntimeError, ValueError) as error:
        return str(error)
    count = math.prod(node["chunk_grid"]["configuration"]["chunk_shape"])
    return "" if said == count else f"{said:,} texts, expected {count:,}"


def in_memory(ds: xr.Dataset, place: str) -> xr.Dataset:
    """A group, loaded.

    Raises
    ------
    StoreError
        If one of its chunks is damaged; `place` is what the message calls the group.
    """
    with readable(place):
        return ds.load()


def has_group(path: str, group: str) -> bool:
    """Whether a cube has a group."""
    return connect(path, "").get(f"{group}/zarr.json") is not None
