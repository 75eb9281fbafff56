"""Whether a cube, wherever it lies, still is what was built: every chunk read again, one at a time."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube import digest
from strfcube.cube.schema import problems
from strfcube.cube.shard_reader import ShardedArray
from strfcube.cube.shard_writer import in_order
from strfcube.cube.store import cube_attrs, digest_of_attributes, locate
from strfcube.errors import StoreError
from strfcube.transport.connect import connect
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import zarr

    from strfcube.transport.connect import Transport

_AHEAD_BYTES = 16_000_000  # decoded, of the chunks that a remote store is asked for at once
_GROUPS = ("", "trials", "audio", "findings")
_NAMED = 3  # damaged chunks of an array that are named


def verify(store: str | os.PathLike[str], dt: float | None = None) -> list[str]:
    """Read a whole cube again, and hold it against its own digest and contract.

    In the memory of a chunk, from a disk or a server; never from a cache.

    Returns
    -------
    list of str
        What is wrong, one sentence each, with the array and its chunks; empty when all is well.

    Raises
    ------
    StoreError
        If there is no cube to verify, or its server cannot be reached.
    """
    from strfcube.cube.zarr_store import zarr_store

    path = locate(store, dt)
    attrs = cube_attrs(path)
    if missing := [f"root attribute '{name}' is missing" for name in ("digest", "digests") if name not in attrs]:
        return missing
    try:
        expected: dict[str, str] = dict(json.loads(attrs["digests"]))
    except (ValueError, TypeError):
        return ["root attribute 'digests' is damaged"]
    found = []
    if digest.combine(expected) != attrs["digest"]:
        found.append("the digest does not fit the digests of the arrays: the attributes were changed")
    files = connect(path, cache_dir="")
    place = zarr_store(files, *_GROUPS)
    listed = _consolidated(files)
    attributes = expected.pop("attributes", "")
    arrays: dict[str, zarr.Array[Any]] = {}
    actual: dict[str, str] = {}
    for name, text in _texts(files, [*listed, *expected]).items():
        try:
            if json.loads(text)["node_type"] == "array":
                arrays[name] = _array(place, name, json.loads(text))
        except Exception as error:  # whatever damaged metadata lead to
            found.append(f"'{name}' cannot be read: its metadata ({_line(error)})")
            actual[name] = expected.get(name, "")
    if not actual and {digest_of_attributes(arrays), _consolidated_digest(place, listed)} != {attributes}:
        found.append("attributes of the arrays are not those that were built")
    for name, array in arrays.items():
        actual[name], why = _digest(files, name, array)
        if why:
            found.append(f"'{name}' cannot be read: {why}")
            actual[name] = expected.get(name, "")
    found += [f"'{name}' is missing" for name in sorted(expected.keys() - actual.keys())]
    found += [f"'{name}' is not the one that was built" for name in sorted(actual.keys() - expected.keys())]
    found += [f"'{name}' has other values than were built" for name in sorted(actual.keys() & expected.keys())
              if actual[name] != expected[name]]  # fmt: skip
    return found or _contract(place)


def _contract(place: Any) -> list[str]:
    import xarray as xr

    try:
        return problems(xr.open_zarr(place, chunks=None))
    except Exception as error:  # whatever xarray makes of what it does not expect
        return [f"xarray cannot open it: {_line(error)}"]


def _texts(files: Transport, expected: Iterable[str]) -> dict[str, bytes]:
    """The metadata of every node: on a disk of all that are there, on a server of those that should be."""
    names = dict.fromkeys(expected)
    if not isinstance(files, Remote):
        names |= dict.fromkeys(p.parent.relative_to(files.url).as_posix() for p in Path(files.url).rglob("zarr.json"))
        names.pop(".", None)
        texts = [files.get(f"{name}/zarr.json") for name in names]
    else:
        texts = files.get_many([f"{name}/zarr.json" for name in names])
    return {name: text for name, text in zip(names, texts, strict=True) if text is not None}


def _consolidated(files: Transport) -> dict[str, Any]:
    """Consolidated metadata of every node."""
    try:
        return dict(json.loads(files.get("zarr.json") or b"{}")["consolidated_metadata"]["metadata"])
    except (ValueError, KeyError, TypeError):
        return {}


def _consolidated_digest(place: Any, listed: Mapping[str, Any]) -> str:
    arrays = {name: meta for name, meta in listed.items() if meta["node_type"] == "array"}
    try:
        return digest_of_attributes({name: _array(place, name, meta) for name, meta in arrays.items()})
    except Exception:  # whatever damaged metadata lead to
        return ""


def _array(place: Any, name: str, meta: dict[str, Any]) -> zarr.Array[Any]:
    import zarr
    from zarr.storage import LocalStore, StorePath

    return zarr.Array.from_dict(StorePath(LocalStore(place) if isinstance(place, str) else place, name), meta)


def _digest(files: Transport, name: str, array: zarr.Array[Any]) -> tuple[str, str]:
    """Digest of an array's values, and why it cannot be read."""
    try:
        if array.shards is None:
            return digest.of_values(name.rpartition("/")[2], np.asarray(array[...])), ""
        return array_digest(name, ShardedArray(files.at(name)))
    except NotImplementedError:
        return "", "it is not laid out as strfcube writes it"
    except StoreError as error:
        return "", str(error)
    except Exception as error:  # whatever a codec raises on damaged bytes
        return "", _line(error)


def array_digest(name: str, array: ShardedArray) -> tuple[str, str]:
    """Digest of a sharded array's values, and the chunks that are damaged.

    Parameters
    ----------
    name : str
        Its path within the store.
    array : ShardedArray
        The array.
    """
    leaves: list[digest.Leaf] = []
    damaged: dict[str, None] = {}
    unindexed: set[tuple[int, ...]] = set()
    chunks = itertools.product(*map(range, array.grid))
    while several := list(itertools.islice(chunks, max(1, _AHEAD_BYTES // array.chunk_bytes))):
        try:
            array.open(several)
        except StoreError:  # one of them
            for at in {array.shard_of(at): at for at in several}.values():
                try:
                    array.open([at])
                except StoreError as error:
                    unindexed.add(array.shard_of(at))
                    damaged[_what(array, error)] = None
        several = [at for at in several if array.shard_of(at) not in unindexed]
        array.fetch(several)
        for at in several:
            try:
                chunk = array.read(at)
            except StoreError as error:
                damaged[_what(array, error)] = None
                continue
            if chunk is None:
                continue
            region = zip(at, array.chunk, array.shape, strict=True)
            values = chunk[tuple(slice(min(n - i * c, c)) for i, c, n in region)]
            if array.repeats_first:
                values = in_order(values, array.fill)
            missing = np.isnan(values) if array.fill != array.fill else values == array.fill
            if not missing.all():
                leaves.append((at, digest.leaf(values)))
    more = f", and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return digest.of_leaves(name, array.dtype, array.shape, array.chunk, leaves), "; ".join([*damaged][:_NAMED]) + more


def _what(array: ShardedArray, error: StoreError) -> str:
    return str(error).removeprefix(f"{array.path}: ").partition("; ")[0]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
