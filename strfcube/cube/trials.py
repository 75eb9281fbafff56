"""The single trials of any cube, part or pool: rows of the stores that it was read from, cut along with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.cube.groups import has_group, in_memory, open_group
from strfcube.cube.repeats import numbers
from strfcube.errors import StoreError
from strfcube.records import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import xarray as xr

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the responses of some neurons of a cube come from.

    Attributes
    ----------
    path : str
        The store.
    cache_dir : str or None
        As `strfcube.open` takes it.
    stim : ndarray of int [shape=(stim,)]
        Position in the store of each stimulus of the cube; -1 for one that it lacks.
    neuron : ndarray of int [shape=(neuron,)]
        Position in the store of each of these neurons, which follow one another in the cube.
    repeat : ndarray of int
        Repeats of the store that are left, in the order of the cube.
    held : bool
        Whether the responses are known to be what the store holds; else only their labels are.
    """

    path: str
    cache_dir: str | None
    stim: Index
    neuron: Index
    repeat: Index
    held: bool


def source_of(ds: xr.Dataset) -> str | None:
    """Path or URL of the store that a Dataset was opened from, if it knows that.

    Raises
    ------
    StoreError
        If another cube was built there since.
    """
    from strfcube.cube.opened import Store

    source = ds.encoding.get("source")
    if source is not None and ds.attrs.get("digest"):
        Store(str(source), None, str(ds.attrs["digest"])).check()
    return None if source is None else str(source)


def origins(ds: xr.Dataset) -> tuple[Origin, ...] | str:
    """Where the responses of a cube come from, whatever became of their values; or why that is not known.

    Raises
    ------
    StoreError
        If a store was built again since the cube was opened.
    """
    from strfcube.cube.lazy_array import rows_of

    rows = rows_of(ds["response"])
    if rows is not None and rows.dims == (0, 1, 2, 3):
        for store in dict.fromkeys(p.store for p in rows.parts):
            store.check()
        return tuple(Origin(p.store.path, p.store.cache_dir, p.stim, p.neuron, rows.rest[0], True) for p in rows.parts)
    source = source_of(ds)
    if source is None:
        return "the cube does not know its store any more: open it with strfcube.open"
    if os.path.isfile(source):
        return (
            f"{source}, which it was opened from, is no cube: open the cube that it was exported from (strfcube.open)"
        )
    try:
        whole = open_group(source)
    except StoreError:
        return f"{source}, which the cube was opened from, cannot be read any more"
    found = []
    for dim in ("stim", "neuron"):
        at = {str(v): i for i, v in enumerate(whole[dim].values)}
        labels = [str(v) for v in ds[dim].values]
        if strange := [label for label in labels if label not in at]:
            return f"{source}, which the cube was opened from, has no {dim} '{strange[0]}'"
        found.append(np.array([at[label] for label in labels], np.intp))
    return (Origin(source, None, found[0], found[1], numbers(ds), False),)


def origin_of_pair(ds: xr.Dataset, stim: int, neuron: int) -> Origin | str:
    """As `origins`, of the pair at a position of a cube."""
    pair = ds[["response"]].isel(stim=[stim], neuron=[neuron])
    pair.encoding = ds.encoding
    known = origins(pair)
    return known if isinstance(known, str) else known[0]


@dataclass(frozen=True, eq=False)
class Stored:
    """The group ``trials`` of one store; its spike times stay there.

    Attributes
    ----------
    columns : mapping of str to ndarray [shape=(trial,)]
        As the store has them.
    attrs : mapping of str to dict
        Of each column.
    files : ndarray of object [shape=(file,)]
        What ``file_index`` counts in.
    tests : tuple of str
        What ``rejected_by`` counts in.
    times : xarray.DataArray [dims=(spike,)]
        Lazy, in ns.
    ends : ndarray of int64 [shape=(trial,)]
        Where the spikes of each trial end in `times`.
    """

    columns: Mapping[str, NDArray[Any]]
    files: NDArray[Any]
    tests: tuple[str, ...]
    times: xr.DataArray
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, path: str, cache_dir: str | None = None) -> Stored:
        """Those of a store.

        Raises
        ------
        StoreError
            If it was built without them, or they cannot be read.
        """
        from strfcube.cube.opened import Store

        # A cube that was built again meanwhile has another version
        return _stored(path, cache_dir, Store.opened(path, cache_dir).version)

    def spikes(self, rows: Index) -> NDArray[np.int64]:
        """Spike times in ns of some trials of one neuron, one trial after the other."""
        if not len(rows):
            return np.empty(0, np.int64)
        sizes = self.columns["row_size"][rows].astype(np.int64)
        begin = int((self.ends[rows] - sizes).min())
        times = self.times[begin : int(self.ends[rows].max())].values.astype(np.int64, copy=False)
        return np.concatenate([times[e - n - begin : e - begin] for e, n in zip(self.ends[rows], sizes, strict=True)])


@lru_cache(maxsize=4)
def _stored(path: str, cache_dir: str | None, version: Any) -> Stored:
    if not has_group(path, "trials"):
        raise StoreError(f"{path} has no single trials (group 'trials'), only bins")
    ds = open_group(path, "trials", cache_dir)
    table = in_memory(ds.drop_vars("spike_time"), f"{path}/trials")
    columns = {str(n): v.values for n, v in table.data_vars.items() if v.dims == ("trial",)}
    return Stored(
        columns, np.asarray(table["file"].values, object),
        tuple(str(table["rejected_by"].attrs["flag_meanings"]).split()), ds["spike_time"],
        np.cumsum(columns["row_size"], dtype=np.int64),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class TrialRows:
    """The trials of a cube, in neuron, stimulus, repeat order.

    Attributes
    ----------
    columns : mapping of str to ndarray [shape=(trial,)]
        As in the group ``trials``; positions are those of the cube.
    files : ndarray of object [shape=(file,)]
        What ``file_index`` counts in, in alphabetical order.
    tests : tuple of str
        What ``rejected_by`` counts in; the first is ``kept``.
    where : tuple of (Stored, ndarray)
        For each neuron, its rows in a store.
    """

    columns: Mapping[str, NDArray[Any]]
    files: NDArray[Any]
    tests: tuple[str, ...]
    where: tuple[tuple[Stored, Index], ...]

    def spikes(self) -> Iterator[NDArray[np.int64]]:
        """Yield the spike times in ns of one neuron after the other, trial after trial."""
        for stored, rows in self.where:
            yield stored.spikes(rows)


def trials_of(ds: xr.Dataset) -> TrialRows:
    """Cut the trials of the stores that a cube was read from along with it.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, a part or a pool, with ``n_repeats`` and ``n_rejected`` in memory: pairs that these do not count any
        more, and repeats that are not left, have no trials.

    Raises
    ------
    StoreError
        If the cube does not know its store, or one of its stores has no trials.
    """
    known = origins(ds)
    if isinstance(known, str):
        raise StoreError(f"no single trials: {known}")
    stored = {o.path: Stored.of(o.path, o.cache_dir) for o in known}
    files = np.unique(np.concatenate([s.files for s in stored.values()]).astype(str)).astype(object)
    tests = ["kept", *sorted({t for s in stored.values() for t in s.tests[1:]})]
    counts = {
        kept: np.asarray(ds[name].transpose("stim", "neuron").values)
        if name in ds.variables else np.ones((ds.sizes["stim"], ds.sizes["neuron"]))
        for kept, name in ((True, "n_repeats"), (False, "n_rejected"))
    }  # fmt: skip
    codes = {
        path: (np.searchsorted(files.astype(str), s.files.astype(str)), np.array([tests.index(t) for t in s.tests]))
        for path, s in stored.items()
    }
    pieces: dict[str, list[NDArray[Any]]] = {}
    where: list[tuple[Stored, Index]] = []
    for origin in known:
        source = stored[origin.path]
        file_code, test_code = codes[origin.path]
        c = source.columns
        place, repeat = _inverse(origin.stim), _inverse(origin.repeat)
        edges = np.searchsorted(c["neuron_index"], np.stack([origin.neuron, origin.neuron + 1]))
        for low, high in edges.T.tolist():
            n, rows = len(where), np.arange(low, high)
            kept = c["kept"][rows]
            stim, number = _at(place, c["stim_index"][rows]), _at(repeat, np.where(kept, c["repeat_index"][rows], -1))
            there = (stim >= 0) & np.where(
                kept, (number >= 0) & (counts[True][stim, n] > 0), counts[False][stim, n] > 0
            )
            rows, stim, number = rows[there], stim[there], number[there]
            order = np.lexsort((np.where(number < 0, np.iinfo(np.int64).max, number), stim))
            rows, stim, number = rows[order], stim[order], number[order]
            own = {name: column[rows] for name, column in c.items()} | {
                "stim_index": stim, "neuron_index": np.full(len(rows), n), "repeat_index": number,
                "file_index": file_code[c["file_index"][rows]], "rejected_by": test_code[c["rejected_by"][rows]],
            }  # fmt: skip
            for name, column in own.items():
                pieces.setdefault(name, []).append(column)
            where.append((source, rows))
    columns = {name: np.concatenate(parts) for name, parts in pieces.items()}
    return _only_used(TrialRows(columns, files, tuple(tests), tuple(where)))


def _only_used(rows: TrialRows) -> TrialRows:
    """Without files and tests that no trial names, as a build of just these has them."""
    at, file_index = np.unique(rows.columns["file_index"], return_inverse=True)
    tests, rejected_by = np.unique(np.concatenate([[0], rows.columns["rejected_by"]]), return_inverse=True)
    columns = {**rows.columns, "file_index": file_index, "rejected_by": rejected_by[1:]}
    return TrialRows(columns, rows.files[at], tuple(rows.tests[i] for i in tests), rows.where)


def _inverse(positions: Index) -> Index:
    """Where each stored position is; -1 where it is nowhere."""
    out = np.full(int(positions.max(initial=-1)) + 1, -1, np.intp)
    there = np.flatnonzero(positions >= 0)
    out[positions[there]] = there
    return out


def _at(inverse: Index, stored: NDArray[Any]) -> Index:
    inside = (stored >= 0) & (stored < len(inverse))
    return np.where(inside, inverse[np.where(inside, stored, 0)] if len(inverse) else -1, -1)


def findings_of(ds: xr.Dataset) -> list[Finding]:
    """What was odd about the raw files of a cube: without what is told of files that none of its trials came from.

    Raises
    ------
    StoreError
        If the cube does not know its store.
    """
    known = origins(ds)
    if isinstance(known, str):
        raise StoreError(f"no findings: {known}")
    found: list[Finding] = []
    used: set[str] | None = None
    for path in dict.fromkeys(o.path for o in known):
        if not has_group(path, "findings"):
            continue
        table = in_memory(open_group(path, "findings"), f"{path}/findings")
        names = ("severity", "file", "what", "consequence", "line")
        rows = zip(*(table[n].values.tolist() for n in names), strict=True)
        own = [Finding(a, b, c, d, int(e)) for a, b, c, d, e in rows]
        if own and has_group(path, "trials"):
            used = set(map(str, trials_of(ds).files)) if used is None else used
            others = set(map(str, Stored.of(path).files)) - used
            own = [f for f in own if f.file not in others]
        found += [f for f in own if f not in found]
    return found
