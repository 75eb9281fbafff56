"""A view of a cube: two chosen sets and a way of reading, immutable. Knows no torch."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import xarray as xr

from strfcube.analysis.concat import concat
from strfcube.analysis.select import Choice, Keep, apply, masks, published, some
from strfcube.cube import store
from strfcube.cube.normalise import loaded
from strfcube.errors import UsageError
from strfcube.loading.batch import BatchReader
from strfcube.loading.reading import Reading
from strfcube.loading.scaling import response_scaling, stimulus_moments
from strfcube.loading.source import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

Predicate = Callable[[xr.Dataset], xr.DataArray] | xr.DataArray


class View:
    """Stimuli and neurons chosen from a cube, and how they are read.

    Parameters
    ----------
    source : path, URL, str or xarray.Dataset
        What `strfcube.open` takes, or a cube.
    reading : Reading
        How to read it.
    cache_dir : path, optional
        As `strfcube.open` takes it.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | xr.Dataset,
        reading: Reading,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(source, xr.Dataset | str | os.PathLike):
            raise UsageError(f"expected a path, a URL or an xarray.Dataset, got {type(source).__name__}")
        if isinstance(source, xr.Dataset) and cache_dir is not None:
            raise UsageError("the cube is open already: give cache_dir to strfcube.open")
        opened = source if isinstance(source, xr.Dataset) else store.open(source, cache_dir=cache_dir)
        self._reading = reading
        cube = loaded(opened)
        self._source = Source(cube, reading.cache)
        self._choice = Choice.everything(cube).heard(self._source.n_repeats)

    @property
    def _threads(self) -> int:
        """Threads that reading may use."""
        return min(4, os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._reader.stim)

    def __repr__(self) -> str:
        reader, cube = self._reader, self._source.cube
        dims = f"{len(reader.stim)} stimuli x {len(reader.neuron)} neurons"
        heard = float((reader.n_repeats > 0).mean()) if reader.n_repeats.size else 0.0
        return (
            f"<{type(self).__name__} {cube.attrs.get('dataset', '')}: {dims}, {heard:.1%} of pairs heard, "
            f"up to {reader.n_repeats.max(initial=0)} repeats, {reader.dt_ms:g} ms bins>"
        )

    def _with(self, **changes: Any) -> Self:
        view = copy.copy(self)
        # What a view has worked out belongs to its own choice and reading.
        view.__dict__ = {k: v for k, v in self.__dict__.items() if k not in ("_reader", "ds", "stim_meta")} | changes
        return view

    @cached_property
    def _reader(self) -> BatchReader:
        return BatchReader(self._source, self._choice, self._reading)

    @cached_property
    def ds(self) -> xr.Dataset:
        """The view as a lazy Dataset, before any reading transform."""
        return apply(self._source.cube, self._choice)

    @cached_property
    def stim_meta(self) -> tuple[dict[str, Any], ...]:
        """Coordinates, ``n_bins`` and ``duration`` of each stimulus."""
        cube, index = self._source.cube, self._reader.stim
        names = [n for n, c in cube.coords.items() if c.dims == ("stim",)]
        names += [n for n in ("n_bins", "duration") if n in cube.data_vars]
        columns = {str(n): cube[n].values[index].tolist() for n in names}
        return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    @property
    def n_repeats(self) -> NDArray[Any]:
        """Trials of each visible pair [shape=(stim, neuron)]."""
        return np.array(self._reader.n_repeats)

    # Selection ------------------------------------------------------------------------------------------------------

    def sel(
        self,
        *,
        where: Predicate | None = None,
        heard: Mapping[str, Any] | None = None,
        keep: Keep | None = None,
        **keys: Any,
    ) -> Self:
        """Choose by coordinates; see `strfcube.select`.

        Values, ``where`` and ``heard`` are looked up in the whole cube: the order of selections does not matter.

        Raises
        ------
        SelectionError
            For an unknown key, a value that nothing has, or a choice that leaves nothing.
        """
        found = masks(self._source.cube, keys, where, heard)
        return self._narrowed(self._choice.narrowed(*found, self._source.n_repeats, keep), keys, where, heard)

    def where(self, predicate: Predicate) -> Self:
        """Choose by a predicate on the cube, such as ``lambda ds: ds.depth > 300``; see `strfcube.select`."""
        return self.sel(where=predicate)

    def subset(self, name: str) -> Self:
        """Choose a published part: a value of ``split`` or ``subset``, or a coordinate of bools (``valid_unit``)."""
        return self.sel(**published(self._source.cube, name))

    def isel(self, *, stim: Any = None, neuron: Any = None) -> Self:
        """Choose visible stimuli and neurons by position: ints, slices, lists of ints or bools, in that order.

        Raises
        ------
        IndexError
            For a position past the end.
        SelectionError
            For a choice that leaves nothing.
        """
        return self._narrowed(self._choice.at(stim, neuron), {"stim": stim, "neuron": neuron})

    def with_stimulus(self) -> Self:
        """Leave out the stimuli whose sound was missing when the cube was built.

        They have responses, but no spectrogram (with ``mode="waveform"``: no waveform). They are never hidden of
        themselves; a batch of them is an error.
        """
        stims = self._reader.stim
        lacking = self._source.without_stimulus(stims.tolist(), self._reading.audio_fs, look=True)
        chosen = dataclasses.replace(self._choice, stim=stims[~np.isin(stims, lacking)])
        return self._narrowed(chosen, {"with_stimulus": True})

    def _narrowed(self, choice: Choice, keys: Mapping[str, Any], where: Any = None, heard: Any = None) -> Self:
        return self._with(_choice=some(choice, keys, where, heard))

    # Reading --------------------------------------------------------------------------------------------------------

    def using(self, **options: Any) -> Self:
        """Read the same choice with other options: those of the constructor, by name.

        What `standardize` and `normalize` found stays as it is: set ``average_repeats`` and ``smooth_ms`` before them.
        """
        known = {f.name for f in dataclasses.fields(Reading)} - {"standardize", "normalize"}
        if not options.keys() <= known:
            raise UsageError(f"using({', '.join(sorted(options.keys() - known))}): expected {', '.join(sorted(known))}")
        if "extra" in options:
            options["extra"] = options["extra"] if isinstance(options["extra"], str) else tuple(options["extra"])
        changes: dict[str, Any] = {"_reading": dataclasses.replace(self._reading, **options)}
        if options.get("cache", self._source.cache) != self._source.cache:
            changes["_source"] = Source(self._source.cube, options["cache"])
        return self._with(**changes)

    def standardize(self, fit: Self | None = None, per: Literal["band", "all"] = "band") -> Self:
        """Subtract the mean of the spectrograms and divide by their standard deviation, on reading.

        Parameters
        ----------
        fit : Self, optional
            The view whose valid bins give mean and deviation: the training set. Default: this view.
        per : {"band", "all"}
            One mean and deviation for each frequency, or one for all.
        """
        if per not in ("band", "all"):
            raise UsageError(f"per={per!r}, expected 'band' or 'all'")
        if self._reading.mode == "waveform":
            raise UsageError("standardize is for spectrograms, and mode is 'waveform'")
        fit = self if fit is None else fit
        if not np.array_equal(fit._source.cube["frequency"].values, self._source.cube["frequency"].values):
            raise UsageError("standardize: fit is a view of a cube with other frequencies")
        moments = stimulus_moments(fit._reader, per)
        return self._with(_reading=dataclasses.replace(self._reading, standardize=moments))

    def normalize(self, method: Literal["max", "zscore"] = "max", fit: Self | None = None) -> Self:
        """Scale the responses of each neuron, on reading.

        Parameters
        ----------
        method : {"max", "zscore"}
            Divide by the largest magnitude, or subtract the mean and divide by the standard deviation.
        fit : Self, optional
            The view whose valid bins, read as it reads them, give the figures: the training set. Default: this view.

        Raises
        ------
        UsageError
            If `fit` is another cube, or lacks one of this view's neurons.
        """
        if method not in ("max", "zscore"):
            raise UsageError(f"method={method!r}, expected 'max' or 'zscore'")
        fit = self if fit is None else fit
        if not np.array_equal(fit._source.cube["neuron"].values, self._source.cube["neuron"].values):
            raise UsageError("normalize: fit is a view of another cube")
        absent = np.setdiff1d(self._reader.neuron, fit._reader.neuron)
        if len(absent):
            labels = ", ".join(map(str, self._source.cube["neuron"].values[absent[:5]]))
            raise UsageError(f"normalize: {len(absent)} neurons have no data in fit: {labels}; hide them with sel")
        scaling = response_scaling(fit._reader, method, self._threads)
        return self._with(_reading=dataclasses.replace(self._reading, normalize=scaling))

    def _pooled(self, other: View) -> Self:
        """Pool the two cubes; both views must be read in one way."""
        scaled = [r for v in (self, other) for r in (v._reading.standardize, v._reading.normalize) if r is not None]
        if self._reading != other._reading or scaled:
            raise UsageError("the two views are read differently or scaled: add them first, then set options")
        names = [str(v.ds.attrs.get("dataset", "cube")) for v in (self, other)]
        if names[0] == names[1]:
            names = [f"{names[0]}-1", f"{names[1]}-2"]
        cube = concat([self.ds, other.ds], names)
        return self._with(_source=Source(loaded(cube), self._source.cache), _choice=Choice.everything(cube))
