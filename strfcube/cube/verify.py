"""Whether a cube, wherever it lies, still is what was built: every file of it read again, a chunk at a time."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.cube import digest, metadata
from strfcube.cube.files import listing, told
from strfcube.cube.groups import see_file
from strfcube.cube.metadata import NO_FILE, Root
from strfcube.cube.opened import Store
from strfcube.cube.schema import problems
from strfcube.cube.shard_reader import ShardedArray
from strfcube.cube.shard_writer import in_order
from strfcube.cube.store import cube_root, digest_of_attributes, locate
from strfcube.errors import StoreError, refusal
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import zarr

    from strfcube.transport.connect import Transport

_AHEAD_BYTES = 16_000_000  # decoded, of the chunks that a remote store is asked for at once
_GROUPS = ("", "trials", "audio", "findings")
_LONG = 400  # characters of a sentence that quotes what a store says of itself
_NAMED = 3  # damaged chunks of an array that are named


@dataclass
class Verdict:
    """What `examine` found of a cube, one sentence each.

    Attributes
    ----------
    damaged : list of str
        What is not as it was built.
    refused : list of str
        What the system did not let anybody read, so that nothing is known of it.
    added : list of str
        What lies there beside the cube, which is none the worse for it.
    """

    damaged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        """All of them."""
        return [*self.damaged, *self.refused, *self.added]

    def failed(self, what: str, error: Exception, why: str) -> None:
        """Enter what could not be done, as what it is."""
        if said := refusal(error):
            self.refused.append(f"{what} ({said.partition('; ')[0]})")
        else:
            self.damaged.append(f"{what}{why}")


def verify(store: str | os.PathLike[str], dt: float | None = None, *, deep: bool = False) -> list[str]:
    """Read a whole cube again, and hold it against its own digests and contract.

    In the memory of a chunk, from a disk or a server; never from a cache. Values, attributes, what is cited, files that
    are not there or not of the cube: whatever changes what anybody reads is found. A server that does not list its
    files (HTTP) is asked for those of the cube only.

    Parameters
    ----------
    store : path, URL or str
        A cube, or the name of a data set.
    dt : float, optional
        Bin width in ms, with a name.
    deep : bool
        Count the spikes of every bin again from the exact times in ``trials``, and the trials of every pair, and
        compute every spectrogram again from the waveform in ``audio``.

    Returns
    -------
    list of str
        What is wrong, one sentence each, with the array and its chunks or the file; empty when all is well.

    Raises
    ------
    StoreError
        If there is no cube to verify, another one was put in its place meanwhile, or its server cannot be reached.
    """
    return examine(store, dt, deep=deep).sentences


def examine(store: str | os.PathLike[str], dt: float | None = None, *, deep: bool = False) -> Verdict:
    """As `verify`, with what is damaged, what cannot be read and what was added kept apart."""
    path = locate(store, dt)
    here = Store.opened(path, cache_dir="")
    files, root = here.files, cube_root(path)
    expected, damaged = _expected(root)
    verdict = Verdict(damaged)
    for sentence in root.altered():
        (verdict.added if sentence.endswith(" is not of the cube") else damaged).append(sentence)
    there = listing(files, root)
    damaged += told(there.missing, "is missing", "are missing")
    verdict.refused += there.refused
    verdict.added += told(there.others, "is not of the cube", "are not of the cube")
    nodes = _nodes(files, root, [*expected], verdict)
    _values(files, root, nodes, expected, verdict)
    if not verdict.sentences:
        _contract(files, root, verdict)
    if deep and not damaged and not verdict.refused:
        _made_again(files, root, verdict)
    if verdict.sentences:
        here.check()
    for found in (damaged, verdict.refused, verdict.added):
        found[:] = [sentence if len(sentence) <= _LONG else f"{sentence[:_LONG]} ..." for sentence in found]
    return verdict


def _made_again(files: Transport, root: Root, verdict: Verdict) -> None:
    from strfcube.cube.recompute import recompute
    from strfcube.cube.recount import recount

    for again, what in ((recount, "'trials' cannot be counted"), (recompute, "'stimulus' cannot be computed")):
        try:
            verdict.damaged += again(files, root)
        except Exception as error:  # values that are those of the digests, and make no sense
            verdict.failed(f"{what} again", error, f" ({_line(error)})")


def _expected(root: Root) -> tuple[dict[str, str], list[str]]:
    """The digests of the arrays that were built, and what is wrong with them."""
    attrs = root.attrs
    if missing := [f"root attribute '{name}' is missing" for name in ("digest", "digests") if name not in attrs]:
        return {}, missing
    try:
        expected = {k: str(v) for k, v in json.loads(attrs["digests"]).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}, ["root attribute 'digests' is damaged"]
    if digest.combine(expected) != attrs["digest"]:
        return expected, ["the digest does not fit the digests of the arrays: the attributes were changed"]
    return expected, []


def _nodes(files: Transport, root: Root, others: list[str], verdict: Verdict) -> dict[str, dict[str, Any]]:
    """Metadata of every group and array; where their own files say something else than the root is entered."""
    found = verdict.damaged
    nodes: dict[str, dict[str, Any]] = {}
    known = [n for n in root.nodes if n in root.known]
    names = [n for n in dict.fromkeys([*known, *others]) if n not in ("", "attributes") and metadata.plain(n)]
    odd = [n for n in root.nodes if not metadata.plain(n)]
    found += [f"zarr.json names '{n[:100]}', which nothing in a cube is called" for n in odd[:_NAMED]]
    for name, text in zip(names, _texts(files, names), strict=True):
        listed = root.nodes.get(name)
        if text is None or isinstance(text, StoreError):
            if text is not None:
                verdict.failed(f"'{name}/zarr.json' cannot be read", text, f" ({text})")
            elif listed is not None:
                found.append(f"'{name}/zarr.json' is missing")
            own = None
        else:
            try:
                own = metadata.bare(metadata.parsed(text))
            except ValueError as error:
                found.append(f"'{name}' cannot be read: its metadata ({_line(error)})")
                continue
            if listed is not None and metadata.digest(own) != metadata.digest(listed):
                found.append(f"'{name}/zarr.json' is not what was built: the consolidated metadata differ from it")
        node = own if listed is None or (own is not None and not root.built(name, listed)) else listed
        if node is None:
            continue
        if why := metadata.strange(node):
            found.append(f"'{name}' cannot be read: its metadata ({why})")
            continue
        nodes[name] = node
    return nodes


def _texts(files: Transport, names: list[str]) -> list[bytes | StoreError | None]:
    wanted = [f"{name}/zarr.json" for name in names]
    if isinstance(files, Remote):
        return list(files.get_many(wanted))
    found: list[bytes | StoreError | None] = []
    for key in wanted:
        try:
            found.append(metadata.bounded(files, key))
        except StoreError as error:
            found.append(error)
    return found


def _values(
    files: Transport, root: Root, nodes: Mapping[str, dict[str, Any]], digests: Mapping[str, str], verdict: Verdict
) -> None:
    """Enter what differs from the digests of the arrays."""
    from strfcube.cube.zarr_store import zarr_store

    found = verdict.damaged
    sound = not found and not verdict.refused
    expected = dict(digests)
    attributes = expected.pop("attributes", "")
    place = zarr_store(files, root, *(_GROUPS if sound else ()))
    arrays: dict[str, zarr.Array[Any]] = {}
    named: set[str] = set()
    actual: dict[str, str] = {}
    for name, node in metadata.arrays(nodes).items():
        named.add(name)
        try:
            arrays[name] = _array(place, name, node)
        except Exception as error:  # whatever damaged metadata lead to
            verdict.failed(f"'{name}' cannot be read", error, f": its metadata ({_line(error)})")
            continue
        value, why, raised = _digest(files, name, node, arrays[name])
        if raised is not None:
            verdict.failed(f"'{name}' cannot be read", raised, f": {why}")
        else:
            actual[name] = value
    if sound and not found and not verdict.refused and digest_of_attributes(arrays) != attributes:
        found.append("attributes of the arrays are not those that were built")
    found += [f"'{name}' is missing" for name in sorted(expected.keys() - named)]
    if expected:
        found += [f"'{name}' is not the one that was built" for name in sorted(named - expected.keys())]
    for name in sorted(actual.keys() & expected.keys()):
        if actual[name] != expected[name]:
            others = _other_files(files, root, name, nodes[name])
            found.append(f"'{name}' has other values than were built" + (f" ({others})" if others else ""))


def _other_files(files: Transport, root: Root, name: str, node: Mapping[str, Any]) -> str:
    """Files of an array that end otherwise than when it was built."""
    ends, found = root.ends(name), []
    if ends is None:
        return ""
    for number, key in enumerate(metadata.keys(node)):
        tail = files.tail(f"{name}/{key}", 4)
        if (NO_FILE if tail is None else tail[0].hex().rjust(8, "0")) != ends[8 * number : 8 * number + 8]:
            found.append(f"{name}/{key}")
    return _some(found)


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _contract(files: Transport, root: Root, verdict: Verdict) -> None:
    import xarray as xr

    from strfcube.cube.zarr_store import zarr_store

    try:
        verdict.damaged += problems(xr.open_zarr(zarr_store(files, root, *_GROUPS), chunks=None))
    except Exception as error:  # whatever xarray makes of what it does not expect
        verdict.failed("xarray cannot open it", error, f": {_line(error)}")


def _array(place: Any, name: str, meta: dict[str, Any]) -> zarr.Array[Any]:
    import zarr
    from zarr.storage import LocalStore, StorePath

    return zarr.Array.from_dict(StorePath(LocalStore(place) if isinstance(place, str) else place, name), meta)


def _digest(
    files: Transport, name: str, node: dict[str, Any], array: zarr.Array[Any]
) -> tuple[str, str, Exception | None]:
    """Digest of an array's values; why it cannot be read, in words and as it was raised."""
    try:
        if not metadata.sharded(node):
            see_file(files, name, node)
            return digest.of_values(name.rpartition("/")[2], np.asarray(array[...])), "", None
        return array_digest(name, ShardedArray(files.at(name), meta=node))
    except NotImplementedError as error:
        return "", "it is not laid out as strfcube writes it", error
    except StoreError as error:
        return "", str(error).removeprefix(f"{files.url}/").partition("; ")[0], error
    except Exception as error:  # whatever a codec raises on damaged bytes
        return "", _line(error), error


def array_digest(name: str, array: ShardedArray) -> tuple[str, str, StoreError | None]:
    """Digest of a sharded array's values, the chunks that are damaged, and the error of one of them.

    Parameters
    ----------
    name : str
        Its path within the store.
    array : ShardedArray
        The array.
    """
    leaves: list[digest.Leaf] = []
    damaged: dict[str, StoreError] = {}
    unindexed: set[tuple[int, ...]] = set()
    chunks = itertools.product(*map(range, array.grid))
    while several := list(itertools.islice(chunks, max(1, _AHEAD_BYTES // array.chunk_bytes))):
        try:
            array.index.open(several)
        except StoreError:  # one of them
            for at in {array.index.shard_of(at): at for at in several}.values():
                try:
                    array.index.open([at])
                except StoreError as error:
                    unindexed.add(array.index.shard_of(at))
                    damaged[_what(array, error)] = error
        several = [at for at in several if array.index.shard_of(at) not in unindexed]
        array.fetch(several)
        for at in several:
            try:
                chunk = array.read(at)
            except StoreError as error:
                damaged[_what(array, error)] = error
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
    # Damage goes first: that another chunk may not be read makes it no better
    errors = sorted(damaged.values(), key=lambda error: bool(refusal(error)))
    value = digest.of_leaves(name, array.dtype, array.shape, array.chunk, leaves)
    return value, "; ".join([*damaged][:_NAMED]) + more, next(iter(errors), None)


def _what(array: ShardedArray, error: StoreError) -> str:
    return str(error).removeprefix(f"{array.path}: ").partition("; ")[0]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
