"""The selection algebra, shared by `strfcube.select`, ``ds.strf`` and ``CubeDataset``.

A choice is the stimuli and the neurons that are shown, and where a coordinate is on both (a split per cell) a set of
pairs. Choosing by labels hides what has no data in the choice: a stimulus that none of the chosen neurons heard, and a
neuron that heard none of the chosen stimuli. What is hidden has nothing to be narrowed further, so the order of such
choices does not matter. ``keep`` leaves one of the two in place, and positions never hide. Nothing here touches
``response``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from strfcube.analysis.matching import coordinate, dims_of, in_order, labelled, matches, predicate, told
from strfcube.cube.normalise import check, with_own_units
from strfcube.cube.repeats import left
from strfcube.errors import SelectionError, UsageError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr

Bools = NDArray[np.bool_]
Index = NDArray[np.intp]
Keep = Literal["neurons", "stimuli"]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The stimuli and neurons of a cube that are shown, as positions in it.

    Attributes
    ----------
    stim, neuron : ndarray of int
        Shown positions, in the order in which they are read.
    pairs : ndarray of bool [shape=(stim, neuron)], optional
        Pairs that a coordinate on both dimensions leaves, of the whole cube.
    """

    stim: Index
    neuron: Index
    pairs: Bools | None = None

    @classmethod
    def everything(cls, ds: xr.Dataset) -> Choice:
        """All stimuli and neurons of a cube, with data or without."""
        return cls(np.arange(ds.sizes["stim"]), np.arange(ds.sizes["neuron"]))

    def __reduce__(self) -> Any:  # it travels to every worker of a loader
        pairs = None if self.pairs is None else (self.pairs.shape, np.packbits(self.pairs))
        return _unpacked, (as_slice(self.stim), as_slice(self.neuron), pairs)

    def counts(self, n_repeats: NDArray[Any]) -> NDArray[Any]:
        """Trials of the shown pairs, 0 where a pair is not chosen.

        Parameters
        ----------
        n_repeats : ndarray of int [shape=(stim, neuron)]
            Of the whole cube.

        Returns
        -------
        ndarray of int [shape=(len(self.stim), len(self.neuron))]
            Perhaps a part of `n_repeats` itself, not to be written to.
        """
        found = _block(n_repeats, self.stim, self.neuron)
        return found if self.pairs is None else np.where(_block(self.pairs, self.stim, self.neuron), found, 0)

    def heard(self, n_repeats: NDArray[Any], keep: Keep | None = None) -> Choice:
        """Hide the stimuli and the neurons that have no data.

        Parameters
        ----------
        n_repeats : ndarray of int [shape=(stim, neuron)]
            Of the whole cube.
        keep : {"neurons", "stimuli"}, optional
            What stays, with data or without.
        """
        known_keep(keep)
        there = self.counts(n_repeats) > 0
        stim = self.stim if keep == "stimuli" else self.stim[there.any(1)]
        neuron = self.neuron if keep == "neurons" else self.neuron[there.any(0)]
        return dataclasses.replace(self, stim=stim, neuron=neuron)

    def narrowed(
        self, stim: Bools, neuron: Bools, pairs: Bools | None, n_repeats: NDArray[Any], keep: Keep | None = None
    ) -> Choice:
        """Keep what the masks (of the whole cube, as `masks` gives them) are true for, and hide what has no data.

        Parameters
        ----------
        n_repeats, keep
            As for `heard`.
        """
        if self.pairs is not None:
            pairs = self.pairs if pairs is None else self.pairs & pairs
        return Choice(self.stim[stim[self.stim]], self.neuron[neuron[self.neuron]], pairs).heard(n_repeats, keep)

    def at(self, ds: xr.Dataset, stim: Any = None, neuron: Any = None) -> Choice:
        """Positions among what is shown: an int, a slice, a list of int or of bool; they hide nothing.

        Parameters
        ----------
        ds : xarray.Dataset
            The whole cube: bools that have labels go by them.

        Raises
        ------
        IndexError, SelectionError
            As `positions`; for labels that are not those of what is shown, too.
        """
        shown: dict[str, Index] = {"stim": self.stim, "neuron": self.neuron}
        for dim, indexer in (("stim", stim), ("neuron", neuron)):
            if indexer is not None:
                plain = _by_label(indexer, dim, ds, shown[dim])
                shown[dim] = shown[dim][positions(plain, len(shown[dim]), dim)]
        return dataclasses.replace(self, stim=shown["stim"], neuron=shown["neuron"])


def _by_label(indexer: Any, dim: str, ds: xr.Dataset, shown: Index) -> Any:
    """An indexer whose labels, where it has some, are those of what is shown: bools are put in order."""
    if getattr(getattr(indexer, "dtype", None), "kind", "") == "b":
        return np.asarray(in_order(indexer, dim, ds[dim].values[shown], dim))
    given = labelled(indexer, dim)
    if given is None or given.ndim != 1:
        return indexer
    labels, at = ds[dim].values[shown], given.values
    if at.dtype.kind in "iu" and ((at >= -len(labels)) & (at < len(labels))).all():
        there, own = labels[at].tolist(), given[dim].values.tolist()
        if there != own:
            raise SelectionError(
                f"{dim}: the positions have labels of their own, {own[0]!r} and others, and stand for {there[0]!r} and "
                f"others: give .values if they are positions in this cube, or choose by label with sel({dim}=...)"
            )
    return at


def _unpacked(
    stim: slice | Index, neuron: slice | Index, pairs: tuple[tuple[int, int], NDArray[np.uint8]] | None
) -> Choice:
    at: list[Any] = [np.arange(i.start, i.stop) if isinstance(i, slice) else i for i in (stim, neuron)]
    if pairs is None:
        return Choice(at[0], at[1])
    shape, bits = pairs
    return Choice(at[0], at[1], np.unpackbits(bits, count=shape[0] * shape[1]).view(bool).reshape(shape))


def known_keep(keep: Any) -> None:
    """Refuse a ``keep`` that is none."""
    if keep not in (None, "neurons", "stimuli"):
        raise UsageError(f"keep={keep!r}, expected 'neurons', 'stimuli' or None")


def select(
    ds: xr.Dataset,
    *,
    where: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray | None = None,
    heard: Mapping[str, Any] | None = None,
    keep: Keep | None = None,
    **keys: Any,
) -> xr.Dataset:
    """Part of a cube, chosen by its coordinates; lazy, and a new Dataset. The same as ``ds.strf.sel``.

    Choosing stimuli hides the neurons that heard none of them, and choosing neurons hides the stimuli that none of
    them heard.

    Parameters
    ----------
    ds : xarray.Dataset
        As `strfcube.open` gives it.
    where : callable or DataArray of bool, optional
        On ``stim``, on ``neuron`` or on both; a callable is given `ds`. It goes by its labels, in any order, where it
        has some.
    heard : mapping, optional
        Keys on ``stim``: keeps the neurons that heard at least one such stimulus, without restricting the stimuli.
    keep : {"neurons", "stimuli"}, optional
        What is not hidden for want of data: with ``"neurons"`` the parts of a cube have the same neurons, whichever
        stimuli they hold.
    **keys
        Any coordinate on ``stim``, on ``neuron`` or on both: a value, a list of values, a slice of numbers (both ends
        included, as xarray has it) or a callable from the values [shape as the coordinate] to bools. Several keys
        must all hold.

    Returns
    -------
    xarray.Dataset
        The attribute ``units`` of its ``response`` is that of the neurons that are left.

    Raises
    ------
    SelectionError
        For an unknown key, a value that nothing has, or a choice that leaves nothing. The message lists what there is.

    Examples
    --------
    >>> strfcube.select(ds, area=["MLd", "OV"], stim_type="conspecific")  # doctest: +SKIP
    """
    ds = checked(ds)
    choice = Choice.everything(ds).narrowed(*masks(ds, keys, where, heard), left(ds), keep)
    return apply(ds, some(choice, keys, where, heard))


def parts(ds: xr.Dataset, choice: Choice, names: Sequence[str]) -> tuple[Choice, ...]:
    """Published parts of a choice, all with the same neurons: those that have data in at least one of them.

    Parameters
    ----------
    ds : xarray.Dataset
        The whole cube.
    choice : Choice
        Of it.
    names : sequence of str
        Values of ``split`` or ``subset``, or coordinates of bools, on stim or on pairs.

    Raises
    ------
    UsageError
        If there are no names, a name comes twice, or one is a choice of neurons.
    SelectionError
        If the cube has no such part, or nothing of it is left.
    """
    if not names or len(set(names)) < len(names):
        raise UsageError(f"splits{tuple(names)!r}: expected different names of parts, such as splits('est', 'val')")
    n_repeats = left(ds)
    found = []
    for name in names:
        key = published(ds, name)
        if dims_of(ds[next(iter(key))]) == ("neuron",):
            raise UsageError(f"splits: '{name}' is a choice of neurons, and parts share theirs; use subset('{name}')")
        found.append(some(choice.narrowed(*masks(ds, key), n_repeats, "neurons"), key))
    there = np.any([(part.counts(n_repeats) > 0).any(0) for part in found], axis=0)
    return tuple(dataclasses.replace(part, neuron=part.neuron[there]) for part in found)


def apply(ds: xr.Dataset, choice: Choice) -> xr.Dataset:
    """Cut a cube to what is shown of a choice, lazily."""
    stim, neuron = choice.stim, choice.neuron
    chosen = with_own_units(ds.isel(stim=as_slice(stim), neuron=as_slice(neuron)))
    if choice.pairs is None:
        return chosen
    pairs = chosen["n_repeats"].transpose("stim", "neuron").copy(deep=False, data=choice.pairs[np.ix_(stim, neuron)])
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
        coord = coordinate(ds, key)
        found.append((dims_of(coord), matches(key, coord, wanted)))
    if where is not None:
        found.append(predicate(ds, where))
    if heard is not None:
        if not isinstance(heard, Mapping):
            raise SelectionError(f"heard={heard!r}: expected keys on stim, such as heard={{'stim_type': 'song'}}")
        stims, neurons, pairs = masks(ds, heard)
        if not neurons.all() or pairs is not None:
            raise SelectionError(f"heard={dict(heard)!r}: expected coordinates on stim only")
        found.append((("neuron",), np.asarray((left(ds)[stims] > 0).any(0))))
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
        raise SelectionError(f"{dim}={told(indexer)}: expected an int, a slice, a list of int, or {size} bools")
    if index.min() < -size or index.max() >= size:
        raise IndexError(f"{dim}={told(indexer)}: index past the end, there are {size}")
    index = np.where(index < 0, index + size, index).astype(np.intp)
    if len(np.unique(index)) < len(index):
        raise SelectionError(f"{dim}={told(indexer)} names a position twice")
    return index


def _block(values: NDArray[Any], stim: Index, neuron: Index) -> NDArray[Any]:
    """Rows and columns of an array, without a copy where they follow one another."""
    rows, columns = as_slice(stim), as_slice(neuron)
    if isinstance(rows, slice) or isinstance(columns, slice):
        return np.asarray(values[rows, columns])
    return np.asarray(values[np.ix_(rows, columns)])


def as_slice(index: Index) -> slice | Index:
    """Consecutive positions as a slice, which reads faster; others as they are."""
    if len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return slice(int(index[0]), int(index[0]) + len(index))
    return index


def some(choice: Choice, keys: Mapping[str, Any], where: Any = None, heard: Any = None) -> Choice:
    """The choice, where it shows something.

    Raises
    ------
    SelectionError
        Where every part of it exists, but not together.
    """
    if len(choice.stim) and len(choice.neuron):
        return choice
    asked = [f"{key}={told(value)}" for key, value in keys.items()]
    asked += [f"{name}={told(value)}" for name, value in (("where", where), ("heard", heard)) if value is not None]
    raise SelectionError(
        f"{', '.join(asked) or 'the selection'}: leaves no stimulus that a chosen neuron heard; "
        f"loosen it, or see ds.strf.coverage()"
    )


def checked(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset that a part can be taken of: each of the variables of a cube that it has is as a cube has it."""
    optional = (n for n in ("stimulus", "n_bins") if n in getattr(ds, "variables", ()))
    return check(ds, "response", "n_repeats", *optional)


def published(ds: xr.Dataset, name: str) -> dict[str, Any]:
    """Key that a published choice stands for: a value of ``split`` or ``subset``, or a coordinate of bools.

    Raises
    ------
    SelectionError
        If the cube has no such choice, and the message lists those it has; or several that differ.
    """
    there: dict[str, list[tuple[str, Any]]] = {}
    for key in ("split", "subset"):
        if key in ds.coords:
            for value in np.unique(ds[key].values.astype(object)):
                if value != "":
                    there.setdefault(str(value), []).append((key, value))
    for name_of, c in ds.coords.items():
        if c.dtype == bool and dims_of(c):
            there.setdefault(str(name_of), []).append((str(name_of), True))
    if name not in there:
        listed = ", ".join(sorted(there)) or "none"
        raise SelectionError(f"there is no subset '{name}'; {did_you_mean(name, there)}there is {listed}")
    (key, value), *others = there[name]
    for other, its in others:
        if not bool(((ds[key] == value) == (ds[other] == its)).all()):
            raise SelectionError(
                f"'{name}' is a choice of '{key}' and of '{other}', and they differ: say which is meant with "
                f"sel({key}={value!r}) or sel({other}={its!r})"
            )
    return {key: value}
