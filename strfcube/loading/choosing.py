"""What a view shows of a cube, and choosing from it; immutable. The words are those of ``ds.strf``."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import xarray as xr

from strfcube.analysis.select import Choice, Keep, apply, masks, parts, published, some
from strfcube.errors import SelectionError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.loading.reading import Reading
    from strfcube.loading.source import Source

Predicate = Callable[[xr.Dataset], xr.DataArray] | xr.DataArray


class Chosen:
    """Stimuli and neurons of a cube.

    Choosing by labels (`sel`, `where`, `subset`) hides the stimuli and the neurons without data in the choice, unless
    they are kept; positions (`isel`, slices) never hide.
    """

    _source: Source
    _choice: Choice
    _reading: Reading
    # What a view has worked out belongs to its own choice and reading
    _derived: ClassVar[tuple[str, ...]] = ("_reader", "ds", "_meta", "_labels")

    def __len__(self) -> int:
        return len(self._choice.stim)

    def _with(self, **changes: Any) -> Self:
        view = copy.copy(self)
        view.__dict__ = self.__getstate__() | changes
        return view

    def __getstate__(self) -> dict[str, Any]:  # what a view has worked out, each process works out for itself
        return {k: v for k, v in self.__dict__.items() if k not in self._derived}

    @cached_property
    def ds(self) -> xr.Dataset:
        """The view as a lazy Dataset, before any reading transform."""
        return apply(self._source.cube, self._choice)

    @property
    def stim_meta(self) -> tuple[dict[str, Any], ...]:
        """Coordinates, ``n_bins`` and ``duration`` of each stimulus."""
        return tuple(map(dict, self._meta))

    @cached_property
    def _meta(self) -> tuple[dict[str, Any], ...]:
        cube, index = self._source.cube, self._choice.stim
        names = [n for n, c in cube.coords.items() if c.dims == ("stim",)]
        names += [n for n in ("n_bins", "duration") if n in cube.data_vars]
        columns = {str(n): cube[n].values[index].tolist() for n in names}
        return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    @property
    def n_repeats(self) -> NDArray[Any]:
        """Trials of each visible pair [shape=(stim, neuron)]."""
        return np.array(self._choice.counts(self._source.n_repeats))

    def sel(
        self,
        *,
        where: Predicate | None = None,
        heard: Mapping[str, Any] | None = None,
        keep: Keep | None = None,
        **keys: Any,
    ) -> Self:
        """Choose by coordinates; see `strfcube.select`.

        Values, ``where`` and ``heard`` are looked up in the whole cube: the order of selections does not matter. What
        has no data in the choice is hidden, unless it is kept: ``keep="neurons"`` or ``keep="stimuli"``.

        Raises
        ------
        SelectionError
            For an unknown key, a value that nothing has, or a choice that leaves nothing.
        """
        found = masks(self._source.cube, keys, where, heard)
        return self._narrowed(self._choice.narrowed(*found, self._source.n_repeats, keep), keys, where, heard)

    def where(self, predicate: Predicate, keep: Keep | None = None) -> Self:
        """Choose by a predicate on the cube, such as ``lambda ds: ds.depth > 300``; see `strfcube.select`."""
        return self.sel(where=predicate, keep=keep)

    def subset(self, name: str, keep: Keep | None = None) -> Self:
        """Choose a published part: a value of ``split`` or ``subset``, or a coordinate of bools (``valid_unit``)."""
        return self.sel(keep=keep, **published(self._source.cube, name))

    def splits(self, *names: str) -> tuple[Self, ...]:
        """Published parts of the stimuli, all with the same neurons: ``train, val = view.splits("est", "val")``.

        Their neurons are those that have data in at least one of the parts.

        Parameters
        ----------
        *names : str
            As for `subset`.

        Raises
        ------
        UsageError
            If a name comes twice, or is a choice of neurons.
        SelectionError
            If the cube has no such part, or nothing of it is left.
        """
        return tuple(self._with(_choice=part) for part in parts(self._source.cube, self._choice, names))

    def like(self, other: Chosen) -> Self:
        """Show the neurons of another view, in its order, with data or without: ``test = test.like(train)``.

        Raises
        ------
        UsageError
            If it is no view, or has neurons that this cube lacks.
        """
        if not isinstance(other, Chosen):
            raise UsageError(f"like: expected a view, got {type(other).__name__}")
        there = {label: i for i, label in enumerate(self._source.cube["neuron"].values.tolist())}
        wanted = other._labels.tolist()
        absent = [label for label in wanted if label not in there]
        if absent:
            raise UsageError(
                f"like: {len(absent)} of {len(wanted)} neurons are not in this cube, such as {absent[0]!r}"
            )
        chosen = dataclasses.replace(self._choice, neuron=np.array([there[label] for label in wanted], np.intp))
        return self._narrowed(chosen.heard(self._source.n_repeats, "neurons"), {"like": other})

    def isel(self, *, stim: Any = None, neuron: Any = None) -> Self:
        """Choose visible stimuli and neurons by position: ints, slices, lists of ints or bools, in that order.

        A DataArray of bool goes by its labels, which are those of what is visible, in any order.

        Nothing is hidden, as with ``ds.strf.isel``: a stimulus that none of the chosen neurons heard stays, all
        missing; ``view.isel(neuron=[3]).sel()`` hides it.

        Raises
        ------
        IndexError
            For a position past the end.
        SelectionError
            For a choice that leaves nothing, or labels of others.
        """
        return self._narrowed(self._choice.at(self._source.cube, stim, neuron), {"stim": stim, "neuron": neuron})

    def with_stimulus(self) -> Self:
        """Leave out the stimuli whose sound was missing when the cube was built.

        They have responses, but no spectrogram (with ``mode="waveform"``: no waveform). They are never hidden of
        themselves; a batch of them is an error.
        """
        stims = self._choice.stim
        lacking = self._source.without_stimulus(stims.tolist(), self._reading.audio_fs, look=True)
        chosen = dataclasses.replace(self._choice, stim=stims[~np.isin(stims, lacking)])
        if not len(chosen.stim):
            raise SelectionError("with_stimulus: no stimulus is left: the cube was built without the sounds")
        return self._narrowed(chosen, {"with_stimulus": True})

    @cached_property
    def _labels(self) -> NDArray[Any]:
        """Labels of the visible neurons [shape=(neuron,)], not to be written to: all batches share them."""
        labels: NDArray[Any] = self._source.cube["neuron"].values[self._choice.neuron]
        labels.setflags(write=False)
        return labels

    def _narrowed(self, choice: Choice, keys: Mapping[str, Any], where: Any = None, heard: Any = None) -> Self:
        return self._with(_choice=some(choice, keys, where, heard))
