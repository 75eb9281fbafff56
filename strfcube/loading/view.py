"""`CubeView`: a cube as a sequence of its stimuli and the responses to them, in plain arrays. Knows no framework.

A view is the opened cube, two chosen sets and a way of reading. Views are immutable and share files and buffers.
Nothing of ``response`` is read before a batch asks for it.
"""

from __future__ import annotations

import dataclasses
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never, Self

import numpy as np
import xarray as xr

from strfcube.analysis.concat import concat
from strfcube.analysis.select import Choice
from strfcube.cube import store
from strfcube.cube.normalise import loaded
from strfcube.cube.repeats import left
from strfcube.errors import UsageError, did_you_mean
from strfcube.loading.alike import refuse_unlike
from strfcube.loading.batch import BatchReader
from strfcube.loading.choosing import Chosen
from strfcube.loading.loader import BatchLoader, order_of
from strfcube.loading.order import position_of
from strfcube.loading.predicting import predicted
from strfcube.loading.reading import Cache, Layout, Options, Reading
from strfcube.loading.rows import OF_TRIALS
from strfcube.loading.scaling import response_scaling, stimulus_moments
from strfcube.loading.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from strfcube.loading.memory import Take

_THREADS = min(4, os.cpu_count() or 1)  # asked once: it is a file of the system


class CubeView(Chosen):
    """Stimuli of a cube and the responses to them, in batches of plain arrays.

    Parameters
    ----------
    source : path, URL, str or xarray.Dataset
        What `strfcube.open` takes, or a cube, lazily transformed or not.
    mode : {"spectrogram", "waveform"}
        What ``stims`` holds.
    audio_fs : float, optional
        Sampling rate in Hz of ``mode="waveform"``; a bin must be a whole number of samples.
    average_repeats : bool
        Mean response instead of the repeats: R = 1.
    smooth_ms : float, optional
        Full width in ms of a Hann window that sums to 1.
    cache : {"none", "ram", "device", "auto"}
        Keep responses as they are stored (counts: one byte a bin): in memory, or (torch) on the device. ``auto`` keeps
        them in memory where they are small (spectrograms, too), and on an accelerator where they fit a quarter of its
        free memory.
    extra : sequence of str
        Variables or coordinates on stim that go into items and batches under their own name.
    allow_mixed : bool
        Read neurons of different units (spikes and mV) together.
    layout : {"dense", "ragged"}
        ``"ragged"``: a row for each trial that there is, for cubes whose neurons heard few of the stimuli.
    cache_dir : path, optional
        Folder that keeps what was read of a cube behind a URL, for the next epoch and the next process; see
        `strfcube.open`.

    Raises
    ------
    StoreError
        If there is no such cube.
    UsageError
        For an option that cannot be used as given.

    Notes
    -----
    An item is a dict of ``stims`` [shape=(1, F, T)], zero past the end, ``responses`` [shape=(N, R, T)], NaN where
    missing, ``valid_mask`` [shape=(N, R, T)], True where not, ``stim_meta``, a dict, and ``neuron`` [shape=(N,)], the
    labels. A batch has a leading dimension, T and R of its longest item and the most repeats in it, a list in
    ``stim_meta``, and the labels once. The adapters give the same in the arrays of their framework.

    With ``layout="ragged"`` ``responses`` and ``valid_mask`` are [shape=(trial, T)], of trials that were recorded only,
    and ``stim_index`` (in batches), ``neuron_index`` and ``repeat_index`` [shape=(trial,)] say where each of them
    stands in the arrays that the other layout gives.

    Examples
    --------
    >>> train = CubeView("aa1-dt5.zarr").sel(area="MLd", split="train")  # doctest: +SKIP
    >>> for batch in train.loader(batch_size=8, shuffle=True): ...  # doctest: +SKIP
    """

    # What the arrays of a framework are made with, by the names of the options: dtype and device
    _place: Mapping[str, Any] = {}
    _on_device: ClassVar[bool] = False  # whether it can keep what is stored there

    def __init__(
        self,
        source: str | os.PathLike[str] | xr.Dataset,
        *,
        mode: Literal["spectrogram", "waveform"] = "spectrogram",
        audio_fs: float | None = None,
        average_repeats: bool = False,
        smooth_ms: float | None = None,
        cache: Cache = "auto",
        extra: Sequence[str] = (),
        allow_mixed: bool = False,
        layout: Layout = "dense",
        cache_dir: str | os.PathLike[str] | None = None,
        **others: Never,
    ) -> None:
        see_options(others, {*Options.__annotations__, *self._place})
        names: Any = extra if isinstance(extra, str) else tuple(extra)
        reading = Reading(mode, audio_fs, average_repeats, smooth_ms, cache, names, allow_mixed, layout)
        self._reading = self._suited(reading)
        if not isinstance(source, xr.Dataset | str | os.PathLike):
            raise UsageError(f"expected a path, a URL or an xarray.Dataset, got {type(source).__name__}")
        if isinstance(source, xr.Dataset) and cache_dir is not None:
            raise UsageError("the cube is open already: give cache_dir to strfcube.open")
        cube = loaded(source if isinstance(source, xr.Dataset) else store.open(source, cache_dir=cache_dir))
        self._source = Source(cube, cache)
        self._choice = _whole(cube)

    @property
    def _threads(self) -> int:
        """Threads that reading may use."""
        return _THREADS

    def __repr__(self) -> str:
        reader, cube = self._reader, self._source.cube
        dims = f"{len(reader.stim)} stimuli x {len(reader.neuron)} neurons"
        heard = float((reader.n_repeats > 0).mean()) if reader.n_repeats.size else 0.0
        return (
            f"<{type(self).__name__} {cube.attrs.get('dataset', '')}: {dims}, {heard:.1%} of pairs heard, "
            f"up to {reader.n_repeats.max(initial=0)} repeats, {reader.dt_ms:g} ms bins>"
        )

    # Reading --------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        single = position_of(index)
        if single is None:
            return self.isel(stim=[None] if index is None else index)
        batch = self.batch([single])
        shared = ("neuron", *OF_TRIALS) if batch.pop("stim_index", None) is not None else ("neuron",)
        return {key: values if key in shared else values[0] for key, values in batch.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def batch(self, indices: Iterable[int]) -> dict[str, Any]:
        """Read some stimuli.

        Parameters
        ----------
        indices : iterable of int
            Positions among the visible stimuli.

        Returns
        -------
        dict
            ``stims``, ``responses``, ``valid_mask``, ``stim_meta``, ``neuron`` and the extra variables.

        Raises
        ------
        IndexError
            For a position past the end.
        UsageError
            For what is no position.
        """
        return self._finished(self._read(indices, raw=self._raw))

    def loader(
        self,
        batch_size: int = 8,
        *,
        shuffle: bool | Literal["block"] = False,
        seed: int | None = None,
        drop_last: bool = False,
        group_by_repeats: bool = False,
        sampler: Iterable[int] | None = None,
        prefetch: int = 0,
    ) -> BatchLoader:
        """Iterate over batches.

        Parameters
        ----------
        batch_size : int
            Stimuli in a batch.
        shuffle : {False, True, "block"}
            ``True``: a full permutation. ``"block"``: blocks that are read together stay together, in random order;
            for cubes far away or lazily transformed ones.
        seed : int, optional
            Fixes the order of every epoch; default: drawn from NumPy's global generator.
        drop_last : bool
            Leave out a last batch that is not full.
        group_by_repeats : bool
            Stimuli with different numbers of repeats never share a batch, so that one with twenty does not pad seven
            others to twenty: to be used where the numbers differ much, as in NAT4 (one and twenty).
        sampler : iterable of int, optional
            Gives the order. Without one, a stimulus that lacks its spectrogram is an error here and not in the middle
            of an epoch.
        prefetch : int
            Batches that a thread reads ahead; each needs the memory of a batch.

        Raises
        ------
        UsageError
            For an option that cannot be used as given, or stimuli without a spectrogram: see `with_stimulus`.
        """
        drawn = (lambda: int(np.random.randint(2**31))) if seed is None else seed
        order = order_of(
            self, batch_size, shuffle=shuffle, seed=drawn, drop_last=drop_last, group_by_repeats=group_by_repeats,
            sampler=sampler,
        )  # fmt: skip
        return BatchLoader(self, order, prefetch)

    def _read(self, indices: Iterable[int], *, raw: bool, take: Take | None = None) -> dict[str, Any]:
        """Arrays of some stimuli; if `raw`, counts as they are stored and without a mask, where they can be."""
        items = self._items(indices)
        raw = raw and self._reader.raw_fill is not None
        return self._reader.batch(items, threads=self._threads, raw=raw, take=take) | self._told(items)

    def _told(self, items: Sequence[int]) -> dict[str, Any]:
        """What a batch says of its stimuli and neurons."""
        return {"stim_meta": [dict(self._meta[i]) for i in items], "neuron": self._labels}

    def _items(self, indices: Iterable[int]) -> list[int]:
        """Positions from 0, of those that are some."""
        size = len(self)
        if position_of(indices) is not None:
            raise UsageError(f"batch: expected positions in a list, got {indices!r}: batch([{indices}])")
        if isinstance(indices, str) or not hasattr(indices, "__iter__"):
            raise UsageError(f"batch: expected positions in a list, got {indices!r}")
        items = []
        for one in indices:
            if (i := one if type(one) is int else position_of(one)) is None:
                raise UsageError(f"batch: {one!r} is no position, expected whole numbers below {size}")
            if not -size <= i < size:
                raise IndexError(f"index {i} past the end: there are {size} stimuli")
            items.append(i % size)
        return items

    def _fetch(self, items: Sequence[int]) -> None:
        """Ask for what a batch of some stimuli will read."""
        self._reader.fetch(items)

    @property
    def _raw(self) -> bool:
        """Whether counts are decoded where the framework puts its arrays."""
        return False

    def _finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make a batch of what was read, in the framework's arrays."""
        return batch

    @cached_property
    def _reader(self) -> BatchReader:
        return BatchReader(self._source, self._choice, self._reading)

    def predict(self, model: Callable[[Any], Any], batch_size: int = 8) -> xr.DataArray:
        """Ask a model about the visible stimuli, and give what it says as a labelled array.

        Parameters
        ----------
        model : callable
            Takes ``stims`` of a batch, in the order of the view, and gives an array [shape=(B, neuron, T) or
            (B, neuron, 1, T)] of its framework. One that gives something else is wrapped:
            ``view.predict(lambda stims: model(stims).exp())``.
            Of torch, no gradients are kept; a module is in evaluation mode meanwhile, one that is wrapped is left as
            it is: say ``model.eval()`` before.
        batch_size : int
            Stimuli that are asked about together.

        Returns
        -------
        xarray.DataArray [dims=(stim, neuron, time)]
            Of all pairs, recorded or not; NaN past the end of a stimulus. Its ``units`` are those of the responses,
            which a model is fitted to (counts of a bin, say): where they were normalised, or it says something else,
            put what is meant into ``prediction.attrs["units"]``. ``ds.strf.cc``, ``ds.strf.ccnorm`` and
            ``ds.strf.plot.prediction`` take it.

        Raises
        ------
        UsageError
            If what the model gives has another shape or is no array of numbers, or stimuli have no spectrogram: see
            `with_stimulus`.
        """
        if not callable(model):
            raise UsageError(f"predict: expected a model or a function of stims, got {type(model).__name__}")
        return predicted(self, lambda items: self._answer(model, items), batch_size)

    def _answer(self, model: Callable[[Any], Any], items: list[int]) -> Any:
        return model(self._stims(items))

    def _stims(self, items: list[int]) -> Any:
        """Stimuli alone, in the framework's array."""
        return self._reader.sounds(items)

    # Options --------------------------------------------------------------------------------------------------------

    def using(self, **options: Any) -> Self:
        """Read the same choice with other options: those of the constructor, by name.

        What `standardize` and `normalize` found stays as it is: set ``average_repeats`` and ``smooth_ms`` before them.
        """
        known = {f.name for f in dataclasses.fields(Reading)} - {"standardize", "normalize"} | self._place.keys()
        see_options(options, known)
        place = self._placed({name: options.pop(name, value) for name, value in self._place.items()})
        if "extra" in options:
            options["extra"] = options["extra"] if isinstance(options["extra"], str) else tuple(options["extra"])
        reading = self._suited(dataclasses.replace(self._reading, **options))
        changes: dict[str, Any] = {"_reading": reading, "_place": place}
        if options.get("cache", self._source.cache) != self._source.cache:
            changes["_source"] = Source(self._source.cube, options["cache"])
        return self._with(**changes)

    @classmethod
    def _suited(cls, reading: Reading) -> Reading:
        """The same, if this kind of view can read so."""
        if reading.cache == "device" and not cls._on_device:
            raise UsageError("cache='device' is for torch: strfcube.CubeDataset; here, expected none, ram or auto")
        return reading

    @staticmethod
    def _placed(place: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check ``dtype`` and ``device``, where there are such."""
        return place

    def standardize(self, fit: CubeView | None = None, per: Literal["band", "all"] = "band") -> Self:
        """Subtract the mean of the spectrograms and divide by their standard deviation, on reading.

        Parameters
        ----------
        fit : CubeView, optional
            The view whose valid bins give mean and deviation: the training set. Default: this view.
        per : {"band", "all"}
            One mean and deviation for each frequency, or one for all.

        Raises
        ------
        UsageError
            If `fit` is no view of the same neurons and frequencies.
        """
        if per not in ("band", "all"):
            raise UsageError(f"per={per!r}, expected 'band' or 'all'")
        if self._reading.mode == "waveform":
            raise UsageError("standardize is for spectrograms, and mode is 'waveform'")
        fit = self if fit is None else _checked(fit, "standardize")
        refuse_unlike("standardize(fit=...)", self, fit)
        moments = stimulus_moments(fit._reader, per)
        return self._with(_reading=dataclasses.replace(self._reading, standardize=moments))

    def normalize(self, method: Literal["max", "zscore"] = "max", fit: CubeView | None = None) -> Self:
        """Scale the responses of each neuron, on reading.

        Parameters
        ----------
        method : {"max", "zscore"}
            Divide by the largest magnitude, or subtract the mean and divide by the standard deviation.
        fit : CubeView, optional
            The view whose valid bins, read as it reads them, give the figures: the training set. Default: this view.

        Raises
        ------
        UsageError
            If `fit` is no view of the same neurons, in the same order, or has no data of one that this view has.
        """
        if method not in ("max", "zscore"):
            raise UsageError(f"method={method!r}, expected 'max' or 'zscore'")
        fit = self if fit is None else _checked(fit, "normalize")
        refuse_unlike("normalize(fit=...)", self, fit)
        silent = (fit._reader.n_repeats == 0).all(0) & (self._reader.n_repeats > 0).any(0)
        if silent.any():
            labels = ", ".join(map(str, self._labels[silent][:5]))
            raise UsageError(
                f"normalize: {silent.sum()} neurons have no data in fit: {labels}; leave them out: "
                f"train = train.sel() hides them, then test.like(train)"
            )
        shift, scale = response_scaling(fit._reader, method, self._threads)
        size = self._source.cube.sizes["neuron"]
        scaling = np.zeros(size), np.ones(size)
        scaling[0][self._choice.neuron], scaling[1][self._choice.neuron] = shift, scale
        return self._with(_reading=dataclasses.replace(self._reading, normalize=scaling))

    def __radd__(self, other: Any) -> Self:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum begins with 0

    def __add__(self, other: Any) -> Self:
        """Pool the two cubes; both views must be read in one way."""
        if isinstance(other, xr.Dataset):
            raise UsageError(f"+ expected another {type(self).__name__}, got Dataset; strfcube.concat pools Datasets")
        if not isinstance(other, type(self)):
            return NotImplemented
        scaled = [r for v in (self, other) for r in (v._reading.standardize, v._reading.normalize) if r is not None]
        if self._reading != other._reading or self._place != other._place or scaled:
            raise UsageError("the two views are read differently or scaled: add them first, then set options")
        names = [str(v.ds.attrs.get("dataset", "cube")) for v in (self, other)]
        if names[0] == names[1]:
            names = [f"{names[0]}-1", f"{names[1]}-2"]
        cube = concat([self.ds, other.ds], names)
        return self._with(_source=Source(loaded(cube), self._source.cache), _choice=_whole(cube))


def _whole(cube: xr.Dataset) -> Choice:
    """All that a cube has data of; its neurons without any, too, for it may be one of several parts that share them."""
    return Choice.everything(cube).heard(left(cube), "neurons")


def _checked(fit: Any, what: str) -> CubeView:
    if not isinstance(fit, CubeView):
        given = repr(fit) if isinstance(fit, str) else type(fit).__name__
        raise UsageError(f"{what}: fit={given}, expected a view, such as fit=train; for a part by its name, splits")
    return fit


def see_options(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse options that there are none of.

    Raises
    ------
    UsageError
        With what was probably meant, and what there is.
    """
    if strange := sorted(given.keys() - set(known)):
        hint = did_you_mean(strange[0], known)
        raise UsageError(f"{', '.join(strange)}: no such option; {hint}there are {', '.join(sorted(known))}")
