"""The selection algebra, shared by `strfcube.select`, ``ds.strf.select`` and ``CubeDataset``.

A selection is two chosen sets, of stimuli and of neurons, and where a coordinate is on both (a split per cell) a set
of pairs. What is visible follows from them and from ``n_repeats``: a stimulus that none of the chosen neurons heard
is hidden, and so is a neuron that heard none of the chosen stimuli. Hiding is never a choice of its own, so the order
of selections does not matter. Nothing here touches ``response``.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.errors import SelectionError

if TYPE_CHECKING:
    import xarray as xr

Bools = NDArray[np.bool_]
Index = NDArray[np.intp]
_SHOWN = 20  # values listed in a message


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen stimuli and neurons of a cube, as positions in it.

    Attributes
    ----------
    stim, neuron : ndarray of int
        Chosen positions, in the order in which they are read.
    pairs : ndarray of bool [shape=(stim, neuron)], optional
        Pairs that a coordinate on both dimensions leaves, of the whole cube.
    """

    stim: Index
    neuron: Index
    pairs: Bools | None = None

    @classmethod
    def everything(cls, ds: xr.Dataset) -> Choice:
        """All stimuli and neurons of a cube."""
        return cls(np.arange(ds.sizes["stim"]), np.arange(ds.sizes["neuron"]))

    def narrowed(self, stim: Bools, neuron: Bools, pairs: Bools | None) -> Choice:
        """Keep what the masks of the whole cube are true for."""
        if self.pairs is not None:
            pairs = self.pairs if pairs is None else self.pairs & pairs
        return Choice(self.stim[stim[self.stim]], self.neuron[neuron[self.neuron]], pairs)

    def visible(self, n_repeats: NDArray[Any]) -> tuple[Index, Index, NDArray[Any]]:
        """Positions that have data.

        Parameters
        ----------
        n_repeats : ndarray of int [shape=(stim, neuron)]
            Of the whole cube.

        Returns
        -------
        stim, neuron : ndarray of int
            Chosen positions with data for at least one chosen counterpart.
        n_repeats : ndarray of int [shape=(len(stim), len(neuron))]
            Trials of the visible pairs, 0 where a pair is not chosen.
        """
        kept = n_repeats if self.pairs is None else np.where(self.pairs, n_repeats, 0)
        kept = kept[np.ix_(self.stim, self.neuron)]
        stim, neuron = (kept > 0).any(1), (kept > 0).any(0)
        return self.stim[stim], self.neuron[neuron], kept[np.ix_(stim, neuron)]


def select(
    ds: xr.Dataset,
    *,
    where: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray | None = None,
    heard: Mapping[str, Any] | None = None,
    **keys: Any,
) -> xr.Dataset:
    """Part of a cube, chosen by its coordinates; lazy, and a new Dataset.

    Choosing stimuli hides the neurons that heard none of them, and choosing neurons hides the stimuli that none of
    them heard.

    Parameters
    ----------
    ds : xarray.Dataset
        As `strfcube.open` gives it.
    where : callable or DataArray of bool, optional
        On ``stim``, on ``neuron`` or on both; a callable is given `ds`.
    heard : mapping, optional
        Keys on ``stim``: keeps the neurons that heard at least one such stimulus, without restricting the stimuli.
    **keys
        Any coordinate on ``stim``, on ``neuron`` or on both: a value, a list of values, a slice of numbers (both ends
        included, as xarray has it) or a callable from the values [shape as the coordinate] to bools. Several keys
        must all hold.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    SelectionError
        For an unknown key, a value that nothing has, or a choice that leaves nothing. The message lists what there is.

    Examples
    --------
    >>> strfcube.select(ds, area=["MLd", "OV"], stim_type="conspecific")  # doctest: +SKIP
    """
    choice = Choice.everything(ds).narrowed(*masks(ds, keys, where, heard))
    chosen = apply(ds, choice)
    if not chosen.sizes["stim"]:
        raise nothing_left(keys, where, heard)
    return chosen


def apply(ds: xr.Dataset, choice: Choice) -> xr.Dataset:
    """Cut a cube to what is visible of a choice, lazily."""
    stim, neuron, _ = choice.visible(_counts(ds))
    chosen = ds.isel(stim=as_slice(stim), neuron=as_slice(neuron))
    if choice.pairs is None:
        return chosen
    pairs = chosen["n_repeats"].transpose("stim", "neuron").copy(data=choice.pairs[np.ix_(stim, neuron)])
    hidden = {name: chosen[name].where(pairs, 0) for name in ("n_repeats", "n_rejected") if name in chosen}
    return chosen.assign(hidden | {"response": chosen["response"].where(pairs)})


def masks(
    ds: xr.Dataset,
    keys: Mapping[str, Any],
    where: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray | None = None,
    heard: Mapping[str, Any] | None = None,
) -> tuple[Bools, Bools, Bools | None]:
    """Evaluate a selection on a whole cube.

    Returns
    -------
    stim, neuron : ndarray of bool [shape=(stim,)], [shape=(neuron,)]
    pairs : ndarray of bool [shape=(stim, neuron)] or None

    Raises
    ------
    SelectionError
        For an unknown key, or a value that nothing has.
    """
    found: list[tuple[tuple[str, ...], Bools]] = []
    for key, wanted in keys.items():
        coord = _coordinate(ds, key)
        found.append((_dims(coord), _matches(key, coord, wanted)))
    if where is not None:
        found.append(_predicate(ds, where))
    if heard is not None:
        if not isinstance(heard, Mapping):
            raise SelectionError(f"heard={heard!r}: expected keys on stim, such as heard={{'stim_type': 'song'}}")
        stims, neurons, pairs = masks(ds, heard)
        if not neurons.all() or pairs is not None:
            raise SelectionError(f"heard={dict(heard)!r}: expected coordinates on stim only")
        found.append((("neuron",), np.asarray((_counts(ds)[stims] > 0).any(0))))
    stim, neuron = np.ones(ds.sizes["stim"], bool), np.ones(ds.sizes["neuron"], bool)
    both: Bools | None = None
    for dims, mask in found:
        if dims == ("stim",):
            stim &= mask
        elif dims == ("neuron",):
            neuron &= mask
        else:
            both = mask if both is None else both & mask
    return stim, neuron, both


def positions(indexer: Any, size: int, dim: str) -> Index:
    """Positions that an indexer (int, slice, list of int or of bool) stands for.

    Raises
    ------
    IndexError
        If it reaches past the end.
    SelectionError
        If a position is named twice, or it is no indexer.
    """
    if isinstance(indexer, slice):
        return np.arange(size)[indexer]
    index = np.atleast_1d(np.asarray(indexer))
    if index.dtype == bool and index.shape == (size,):
        return np.flatnonzero(index)
    if not index.size:
        return np.zeros(0, np.intp)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise SelectionError(f"{dim}={indexer!r}: expected an int, a slice, a list of int, or {size} bools")
    if index.min() < -size or index.max() >= size:
        raise IndexError(f"{dim}={indexer!r}: index past the end, there are {size}")
    index = np.where(index < 0, index + size, index).astype(np.intp)
    if len(np.unique(index)) < len(index):
        raise SelectionError(f"{dim}={indexer!r} names a position twice")
    return index


def as_slice(index: Index) -> slice | Index:
    """Consecutive positions as a slice, which reads faster; others as they are."""
    if len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return slice(int(index[0]), int(index[0]) + len(index))
    return index


def nothing_left(keys: Mapping[str, Any], where: Any = None, heard: Any = None) -> SelectionError:
    """Error of a choice whose every part exists, but not together."""
    asked = [f"{key}={value!r}" for key, value in keys.items()]
    asked += [f"{name}={value!r}" for name, value in (("where", where), ("heard", heard)) if value is not None]
    return SelectionError(
        f"{', '.join(asked) or 'the selection'}: leaves no stimulus that a chosen neuron heard; "
        f"loosen it, or see ds.strf.coverage()"
    )


def _coordinate(ds: xr.Dataset, key: str) -> xr.DataArray:
    names = {str(n): _dims(c) for n, c in ds.coords.items() if _dims(c)}
    if key in names:
        return ds.coords[key]
    close = difflib.get_close_matches(key, names, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    if key in ds.dims:
        hint = f"; take part of '{key}' with ds.isel({key}=...)."
    elif key in ds.data_vars:
        hint = f", but a variable: use where=lambda ds: ds.{key} > ..."
    on = {dims: sorted(n for n, d in names.items() if d == dims) for dims in dict.fromkeys(names.values())}
    listed = "; ".join(f"on {' and '.join(dims)}: {', '.join(n)}" for dims, n in on.items())
    raise SelectionError(f"'{key}' is no coordinate to select by{hint} There are {listed}")


def _counts(ds: xr.Dataset) -> NDArray[Any]:
    return np.asarray(ds["n_repeats"].transpose("stim", "neuron").values)


def _dims(coord: xr.DataArray) -> tuple[str, ...]:
    """Dimensions in the order (stim, neuron); () for a coordinate that does not select."""
    if not coord.dims or not set(coord.dims) <= {"stim", "neuron"}:
        return ()
    return tuple(d for d in ("stim", "neuron") if d in coord.dims)


def _matches(key: str, coord: xr.DataArray, wanted: Any) -> Bools:
    values = coord.transpose(*_dims(coord)).values
    if callable(wanted):
        mask = np.asarray(wanted(values))
        if mask.dtype != bool or mask.shape != values.shape:
            raise SelectionError(
                f"{key}: expected a callable from the values to bools of shape {values.shape}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
    elif isinstance(wanted, slice):
        mask = _between(key, values, wanted)
    else:
        return _among(key, coord, values, wanted)
    if not mask.any():
        raise SelectionError(f"nothing has {key}={wanted!r}; there is {_listed(values)}")
    return mask


def _between(key: str, values: NDArray[Any], wanted: slice) -> Bools:
    if values.dtype.kind not in "iuf" or wanted.step is not None:
        raise SelectionError(
            f"{key}={wanted!r}: a slice without a step chooses numbers, and '{key}' holds {values.dtype}"
        )
    mask = np.ones(values.shape, bool) if values.dtype.kind != "f" else ~np.isnan(values)
    if wanted.start is not None:
        mask &= values >= wanted.start
    if wanted.stop is not None:
        mask &= values <= wanted.stop
    return mask


def _among(key: str, coord: xr.DataArray, values: NDArray[Any], wanted: Any) -> Bools:
    if isinstance(wanted, Iterable) and not isinstance(wanted, str | bytes | Mapping):
        several = np.asarray(wanted).ravel().tolist() if hasattr(wanted, "dtype") else list(wanted)
    else:
        several = [wanted]
    flat = values.ravel().tolist()
    there = Counter(flat)
    mask = np.zeros(len(flat), bool)
    for value in several:
        if isinstance(value, float) and math.isnan(value):
            hit = np.array([v != v for v in flat], bool)
        else:
            hit = _equal(flat, there, value)
        if not hit.any():
            close = difflib.get_close_matches(str(value), [v for v in there if isinstance(v, str)], n=2)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            which = " and ".join(_dims(coord))
            raise SelectionError(f"no {which} has {key}={value!r}; there is {_listed(values)}.{hint}")
        mask |= hit
    return mask.reshape(values.shape)


def _equal(flat: list[Any], there: Mapping[Any, int], value: Any) -> Bools:
    try:
        known = value in there
    except TypeError:
        known = False
    # A bool equals 1 or 0 in Python; electrode=True is a slip, not electrode 1.
    if not known or (isinstance(value, bool | np.bool_) and not isinstance(flat[0], bool)):
        return np.zeros(len(flat), bool)
    return np.array([v == value for v in flat], bool)


def _listed(values: NDArray[Any]) -> str:
    there = Counter(v for v in values.ravel().tolist() if v == v)
    if values.dtype.kind in "iuf" and len(there) > _SHOWN:
        return f"{min(there)!r} to {max(there)!r}"
    names = [f"{value!r} ({count})" if count > 1 else repr(value) for value, count in list(there.items())[:_SHOWN]]
    more = f", and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return (", ".join(names) or "no value at all") + more


def _predicate(
    ds: xr.Dataset, where: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray
) -> tuple[tuple[str, ...], Bools]:
    import xarray as xr

    given = where(ds) if callable(where) else where
    if not isinstance(given, xr.DataArray) or given.dtype != bool or not _dims(given):
        raise SelectionError(
            f"where: expected a DataArray of bool on stim, neuron or both, such as ds.depth > 300, got {given!r}"
        )
    dims = _dims(given)
    expected = tuple(ds.sizes[d] for d in dims)
    if tuple(given.sizes[d] for d in dims) != expected:
        raise SelectionError(f"where: expected shape {expected} on {dims}, got {dict(given.sizes)}")
    mask = np.asarray(given.transpose(*dims).values)
    if not mask.any():
        raise SelectionError("where: the predicate holds for nothing")
    return dims, mask


def published(ds: xr.Dataset, name: str) -> dict[str, Any]:
    """Key that a published choice stands for: a value of ``split`` or ``subset``, or a coordinate of bools.

    Raises
    ------
    SelectionError
        If the cube has no such choice; the message lists those it has.
    """
    there: dict[str, dict[str, Any]] = {}
    for key in ("split", "subset"):
        if key in ds.coords:
            there |= {str(value): {key: value} for value in np.unique(ds[key].values.astype(object)) if value != ""}
    there |= {str(key): {str(key): True} for key, c in ds.coords.items() if c.dtype == bool and _dims(c)}
    if name not in there:
        raise SelectionError(f"there is no subset '{name}'; there is {', '.join(sorted(there)) or 'none'}")
    return there[name]
