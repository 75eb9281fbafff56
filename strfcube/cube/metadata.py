"""What a cube says of itself in its root ``zarr.json``: read within bounds, and looked at before zarr or xarray see it.

Beside the consolidated metadata of every group and array the root has two attributes that nobody else writes:
``metadata_digests``, one of each root attribute and of the metadata of each group and array, and ``file_ends``, the
checksum that ends each file of chunks. By the first an edit is found, by the second a file in another's place.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from strfcube import limits
from strfcube.errors import StoreError
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from strfcube.transport.connect import Transport

DIGESTS, ENDS = "metadata_digests", "file_ends"
NO_FILE = "-" * 8
_END = 4  # bytes of a checksum
_PART, _LONGEST = 200, 1000  # bytes of the name of a folder, characters of a path within a cube


@dataclass(frozen=True)
class Root:
    """The root metadata of a cube.

    Attributes
    ----------
    place : str
        Path or URL of the cube.
    document : dict
        The parsed ``zarr.json``.
    text : bytes
        It, as it was read.
    """

    place: str
    document: dict[str, Any]
    text: bytes = b""

    @classmethod
    def read(cls, files: Transport) -> Self | None:
        """The root metadata in a folder; None where there is none.

        Raises
        ------
        StoreError
            If they cannot be read, are too long, or are no JSON.
        """
        text = bounded(files, "zarr.json")
        return None if text is None else cls.of(files.url, text)

    @classmethod
    def of(cls, place: str, text: bytes) -> Self:
        """The root metadata of a folder, where they were read already; raises as `read`."""
        try:
            return cls(place, parsed(short(place, "zarr.json", text)), text)
        except ValueError as error:
            raise StoreError(f"{place}/zarr.json is damaged ({error}); build the cube again") from None

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the root."""
        found = self.document.get("attributes")
        return found if isinstance(found, dict) else {}

    @cached_property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """Consolidated metadata of every group and array, by path."""
        listed = self.document.get("consolidated_metadata")
        found = listed.get("metadata") if isinstance(listed, dict) else None
        return {k: bare(v) for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}

    @cached_property
    def digests(self) -> dict[str, str] | None:
        """The stored digests of all metadata; None where there are none."""
        return _mapping(self.attrs.get(DIGESTS))

    @cached_property
    def sealed(self) -> bool:
        """Whether the digests are of this very store.

        A program that writes a cube again, as xarray does, carries attributes along that fit nothing that it writes.
        """
        known = {key: value for key, value in (self.digests or {}).items() if key.endswith("/zarr.json")}
        fitting = sum(known.get(_key(name)) == digest(node) for name, node in self.nodes.items())
        return bool(known) and 2 * fitting >= len(known)

    @cached_property
    def known(self) -> frozenset[str]:
        """Paths of the groups and arrays that were built; of all that are listed, where no digest says so."""
        listed = (self.digests or {}) if self.sealed else {}
        named = [key.removesuffix("/zarr.json") for key in listed if key.endswith("/zarr.json")]
        built = {*named, *(_mapping(self.attrs.get("digests")) or {})}
        built = (built | {name.rpartition("/")[0] for name in built}) - {"attributes", ""}
        return frozenset(built if named else built | self.nodes.keys())

    @cached_property
    def _ends(self) -> dict[str, str]:
        return (_mapping(self.attrs.get(ENDS)) if self.sealed else None) or {}

    def ends(self, name: str) -> str | None:
        """The last four bytes of each file of an array, as hexadecimal digits, in C order of its grid."""
        return self._ends.get(name)

    def check(self, *groups: str) -> None:
        """See that the arrays of some groups can be what a cube holds, and are described as they were built.

        Raises
        ------
        StoreError
            If not: the first that is found.
        """
        for name in self.nodes:
            if not plain(name):
                raise StoreError(f"{self.place}/zarr.json is damaged: it names '{name[:100]}'; build the cube again")
        for name, node in self.nodes.items():
            if name.rpartition("/")[0] not in groups:
                continue
            why = strange(node)
            if not why and not self.built(name, node) and _key(name) in (self.digests or {}):
                why = "these are not the metadata that were built"
            if why:
                raise StoreError(f"{self.place}/zarr.json: '{name}' is damaged ({why}); run strfcube verify")

    def built(self, name: str, node: Mapping[str, Any]) -> bool:
        """Whether metadata of a group or array are those that were built, as far as is known."""
        return not self.sealed or (self.digests or {}).get(_key(name)) == digest(node)

    def altered(self) -> list[str]:
        """What of the root's attributes and the consolidated metadata is not as it was built, one sentence each."""
        if not self.nodes:
            return ["zarr.json: the consolidated metadata are missing"]
        if self.digests is None:
            # Cubes that were built before metadata had digests had no checksums of chunks either
            return [f"root attribute '{DIGESTS}' is missing"] if any(map(_checked, self.nodes.values())) else []
        actual, found = _digests(self.document), []
        for key in sorted(self.digests.keys() | actual.keys()):
            if self.digests.get(key) == actual.get(key):
                continue
            what = _called(key)
            if key not in actual:
                found.append(f"{what} missing")
            elif key in self.digests:
                found.append(f"{what} not what was built")
            elif not key.endswith("/zarr.json"):  # arrays that were added are told with the others
                found.append(f"{what} not of the cube")
        return found


def bounded(files: Transport, key: str) -> bytes | None:
    """A file of metadata; None where there is none.

    Raises
    ------
    StoreError
        If it cannot be read, or is too long to be one.
    """
    size, found = 0, None
    if not isinstance(files, Remote):
        with suppress(OSError):
            size = os.stat(f"{files.url}/{key}").st_size
    if size <= limits.METADATA_BYTES:
        found = files.get(key)
        size = 0 if found is None else len(found)
    if size > limits.METADATA_BYTES:
        raise StoreError(_too_long(files.url, key, size))
    return found


def short(place: str, key: str, text: bytes) -> bytes:
    """A file of metadata that was read as a whole; raises as `bounded`, if it is too long to be one."""
    if len(text) > limits.METADATA_BYTES:
        raise StoreError(_too_long(place, key, len(text)))
    return text


def _too_long(place: str, key: str, size: int) -> str:
    return f"{place}/{key} has {size:,} bytes, no cube's has more than {limits.METADATA_BYTES:,}"


def parsed(text: bytes) -> dict[str, Any]:
    """Metadata.

    Raises
    ------
    ValueError
        If they are no JSON, or no mapping, or name something twice: readers would not agree on what they say; or if
        they hold halves of characters, which nobody can print.
    """
    try:
        found = json.loads(text, object_pairs_hook=_unique)
        if b"\\ud" in text or b"\\uD" in text:  # escapes of halves: right where each has its other half
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def bare(node: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a group or array without what some writers put into the consolidated ones of groups."""
    return {k: v for k, v in node.items() if k != "consolidated_metadata"}


def digest(value: Any) -> str:
    """Digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def sealed(files: Transport, elsewhere: Mapping[str, str] | None = None) -> bytes:
    """The root metadata with the two attributes by which changes are found.

    Parameters
    ----------
    files : Transport
        A finished cube.
    elsewhere : mapping of str to str, optional
        The last four bytes, as hexadecimal digits, of its files that do not lie there.
    """
    apart = elsewhere or {}

    root = Root.read(files)
    if root is None:
        raise StoreError(f"{files.url}: no zarr.json")
    ends = {name: _stored_ends(files, name, keys(node), apart) for name, node in arrays(root.nodes).items()}
    document = root.document | {"attributes": root.attrs | {ENDS: json.dumps(ends)}}
    document["attributes"][DIGESTS] = json.dumps(_digests(document))
    return json.dumps(document, indent=2).encode()


def _stored_ends(files: Transport, array: str, chunks: Iterator[str], elsewhere: Mapping[str, str]) -> str:
    found = []
    for key in (f"{array}/{chunk}" for chunk in chunks):
        end = None if key in elsewhere else files.tail(key, _END)
        found.append(elsewhere[key] if key in elsewhere else NO_FILE if end is None else end[0].hex())
    return "".join(end.rjust(8, "0") for end in found)


def arrays(nodes: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those that are arrays."""
    return {name: node for name, node in nodes.items() if node.get("node_type") == "array"}


def grid(node: Mapping[str, Any]) -> tuple[int, ...]:
    """Files of chunks of an array along each dimension."""
    outer = node["chunk_grid"]["configuration"]["chunk_shape"]
    return tuple(-(-n // c) for n, c in zip(node["shape"], outer, strict=True))


def keys(node: Mapping[str, Any]) -> Iterator[str]:
    """Files of chunks of an array, within its folder, in C order."""
    for at in itertools.product(*map(range, grid(node))):
        yield "/".join(["c", *map(str, at)])


def sharded(node: Mapping[str, Any]) -> bool:
    """Whether the files of an array hold several chunks each."""
    return bool(node["codecs"][0]["name"] == "sharding_indexed")


def strange(node: Mapping[str, Any]) -> str:
    """Why an array cannot be one of a cube; empty where it can, and for groups."""
    try:
        if node["node_type"] == "group":
            return ""
        shape, outer = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
        inner = node["codecs"][0]["configuration"]["chunk_shape"] if sharded(node) else outer
        if not _sizes(shape, 0) or not _sizes(outer, 1) or not _sizes(inner, 1):
            return "its shape or that of its chunks is none"
        if not len(shape) == len(outer) == len(inner) or any(o % i for o, i in zip(outer, inner, strict=True)):
            return f"chunks of {inner} in {outer} do not fit a shape of {shape}"
        item = _item_bytes(node["data_type"])
        if math.prod(inner) * item > limits.CHUNK_BYTES or math.prod(outer) // math.prod(inner) > limits.CHUNKS:
            return f"chunks of {inner} in {outer} are larger than a cube's"
        if math.prod(grid(node)) > limits.FILES:
            return f"a shape of {shape} is larger than a cube's"
        names = node.get("dimension_names") or ()
        if not all(isinstance(n, str) for n in names) or len(names) not in (0, len(shape)):
            return f"its dimensions are called {names}"
        if not isinstance(node.get("attributes", {}), dict):
            return "its attributes are none"
        node["chunk_key_encoding"]["name"], node["fill_value"]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return f"{type(error).__name__}: {error}"[:100]
    return ""


def _sizes(values: Sequence[Any], least: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and least <= v < 2**63 for v in values)


def _item_bytes(data_type: Any) -> int:
    import numpy as np

    if data_type == "string":
        return 16
    if not isinstance(data_type, str):
        raise ValueError(f"a data type of {data_type}")
    return int(np.dtype(data_type).itemsize)


def plain(name: str) -> bool:
    """Whether a name stays within the cube, and can be a path on any file system."""
    parts = name.split("/")
    try:
        short = len(name) <= _LONGEST and all(len(part.encode()) <= _PART for part in parts)
    except UnicodeEncodeError:
        return False
    return short and all(part not in ("", ".", "..") for part in parts) and not set(name) & set("\\\0:")


def _checked(node: Mapping[str, Any]) -> bool:
    """Whether each chunk of an array ends in a checksum."""
    try:
        codecs = node["codecs"][0]["configuration"]["codecs"] if sharded(node) else node["codecs"]
        return bool(codecs[-1]["name"] == "crc32c")
    except (LookupError, TypeError):
        return False


def _mapping(text: Any) -> dict[str, str] | None:
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return {k: str(v) for k, v in found.items()} if isinstance(found, dict) else None


def _key(name: str) -> str:
    return f"{name}/zarr.json"


def _digests(document: Mapping[str, Any]) -> dict[str, str]:
    """Digest of each root attribute, of the metadata of each group and array, and of what else the root says."""
    root = Root("", dict(document))
    listed = document.get("consolidated_metadata")
    rest = {k: v for k, v in document.items() if k not in ("attributes", "consolidated_metadata")}
    about = {k: v for k, v in listed.items() if k != "metadata"} if isinstance(listed, dict) else {}
    found = {f"attribute {k}": digest(v) for k, v in root.attrs.items() if k != DIGESTS}
    found |= {_key(name): digest(node) for name, node in root.nodes.items()}
    return found | {"root": digest([rest, about])}


def _called(key: str) -> str:
    if key == "root":
        return "zarr.json is"
    if key.startswith("attribute "):
        return f"root attribute '{key.removeprefix('attribute ')}' is"
    return f"zarr.json: the consolidated metadata of '{key.removesuffix('/zarr.json')}' are"
