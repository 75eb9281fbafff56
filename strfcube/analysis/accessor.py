"""``ds.strf``: the measures, views and pictures of a cube, on the Dataset itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from strfcube.cube.groups import has_group, open_group
from strfcube.cube.normalise import as_recorded, check, with_own_units
from strfcube.cube.repeats import left, numbers
from strfcube.errors import SelectionError, StoreError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from strfcube.analysis.plot import Plots
    from strfcube.analysis.powers import Per
    from strfcube.analysis.select import Keep
    from strfcube.analysis.spikes import SpikeTrains

log = logging.getLogger("strfcube")


@xr.register_dataset_accessor("strf")  # type: ignore[no-untyped-call]
class StrfAccessor:
    """What strfcube adds to a cube that is open as an `xarray.Dataset`.

    Parts (`sel`, `isel`, ...), `psth` and `standardize` are lazy where the Dataset is; ``.compute()`` computes them.
    Measures (`quality`, `snr`, `ccnorm`, ...) are small, and come as numbers: each call reads the responses once, and
    `quality` gives all of them at that price. Within a dask pipeline of one's own, `strfcube.analysis.quality` has the
    same as lazy functions of arrays.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube, or a part of one.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __repr__(self) -> str:
        """Names what there is to call."""
        names = [n for n in dir(type(self)) if not n.startswith("_")]
        return f"<ds.strf: {', '.join(names)}>"

    def __getattr__(self, name: str) -> Any:
        """Says what there is where something is not."""
        names = [n for n in dir(type(self)) if not n.startswith("_")]
        raise AttributeError(f"ds.strf has no {name!r}; {did_you_mean(name, names)}there are {', '.join(names)}")

    def _response(self) -> xr.DataArray:
        return with_own_units(as_recorded(self._cube()))["response"]

    def _cube(self) -> xr.Dataset:
        return check(self._ds, "response", "n_repeats")

    def coverage(self, by: str | tuple[str, ...] | None = None) -> xr.DataArray:
        """Which pairs of stimulus and neuron have data; reads nothing but `n_repeats`.

        Parameters
        ----------
        by : str or tuple of str, optional
            Coordinates on stim and neuron to sum up by: ``"area"``, ``("stim_type", "area")``.

        Returns
        -------
        xarray.DataArray [dims=(stim, neuron) or those of `by`]
            Without `by`, True where ``n_repeats > 0``. With it, the fraction of the possible pairs that have data.
            Attributes ``pairs``, ``possible`` and ``fraction`` give the whole; with `by`, coordinates ``pairs`` and
            ``possible`` each part.

        Raises
        ------
        SelectionError
            If `by` is no coordinate on stim or on neuron alone.
        """
        ds = check(self._ds, "n_repeats")
        has = ds["n_repeats"].transpose("stim", "neuron").copy(deep=False, data=left(ds) > 0)
        pairs, possible = int(has.sum()), int(has.size)
        attrs = {"long_name": "coverage", "units": "1", "pairs": pairs, "possible": possible}
        attrs["fraction"] = pairs / possible if possible else np.nan
        if by is None:
            return has.rename("coverage").assign_attrs(attrs)
        keys = (by,) if isinstance(by, str) else tuple(by)
        if not keys or len(set(keys)) < len(keys):
            raise SelectionError(f"by={by!r}: expected a coordinate on stim or on neuron, or several different ones")
        for key in keys:
            if key not in self._ds.coords or self._ds[key].dims not in (("stim",), ("neuron",)):
                there = sorted(str(n) for n, c in self._ds.coords.items() if c.dims in (("stim",), ("neuron",)))
                listed = f"{did_you_mean(key, there)}there are {', '.join(there)}"
                raise SelectionError(f"by={key!r}: no coordinate on stim or on neuron; {listed}")
        levels, codes = zip(*(_levels(self._ds[k].values) for k in keys), strict=True)
        shape = tuple(len(v) for v in levels)
        grids = [c[:, None] if self._ds[k].dims == ("stim",) else c[None, :] for k, c in zip(keys, codes, strict=True)]
        cell = np.broadcast_to(np.ravel_multi_index(np.broadcast_arrays(*grids), shape), has.shape).ravel()
        with_data = np.bincount(cell, has.values.ravel(), minlength=int(np.prod(shape))).astype(int).reshape(shape)
        all_pairs = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
        with np.errstate(invalid="ignore"):
            fraction = with_data / np.where(all_pairs > 0, all_pairs, np.nan)
        coords: dict[str, Any] = dict(zip(keys, levels, strict=True))
        coords |= {"pairs": (keys, with_data), "possible": (keys, all_pairs)}
        return xr.DataArray(fraction, coords=coords, dims=keys, name="coverage", attrs=attrs)

    def sel(
        self,
        *,
        where: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray | None = None,
        heard: Mapping[str, Any] | None = None,
        keep: Keep | None = None,
        **keys: Any,
    ) -> xr.Dataset:
        """Part of the cube, chosen by its coordinates: see `strfcube.select`.

        What has no data in the choice is hidden, unless it is kept: ``keep="neurons"`` or ``keep="stimuli"``.
        """
        from strfcube.analysis.select import select

        return select(self._ds, where=where, heard=heard, keep=keep, **keys)

    def isel(self, *, stim: Any = None, neuron: Any = None) -> xr.Dataset:
        """Part of the cube, chosen by position; nothing is hidden.

        Parameters
        ----------
        stim, neuron : int, slice, sequence of int or of bool, optional
            Both dimensions stay, also with one position. A DataArray of bool goes by its labels, in any order.

        Raises
        ------
        IndexError
            For a position past the end.
        SelectionError
            For a position that comes twice, labels of others, or a choice that leaves nothing.
        """
        from strfcube.analysis.select import Choice, apply, checked, some

        ds = checked(self._ds)
        choice = Choice.everything(ds).at(ds, stim, neuron)
        return apply(ds, some(choice, {"stim": stim, "neuron": neuron}))

    def where(
        self, predicate: Callable[[xr.Dataset], xr.DataArray] | xr.DataArray, keep: Keep | None = None
    ) -> xr.Dataset:
        """Part of the cube that a predicate holds for, such as ``lambda ds: ds.depth > 300``: see `strfcube.select`."""
        return self.sel(where=predicate, keep=keep)

    def subset(self, name: str, keep: Keep | None = None) -> xr.Dataset:
        """Part of the cube that a published choice names: a value of ``split`` or ``subset``, or a bool coordinate.

        Parameters
        ----------
        name : str
            ``train``, ``test``, ``est``, ``val``, ``valid_unit``, ...
        keep : {"neurons", "stimuli"}, optional
            What is not hidden for want of data.

        Raises
        ------
        SelectionError
            If the cube has no such choice; the message lists those it has.
        """
        from strfcube.analysis.select import published

        return self.sel(keep=keep, **published(self._ds, name))

    def splits(self, *names: str) -> tuple[xr.Dataset, ...]:
        """Published parts of the stimuli, all with the same neurons: ``est, val = ds.strf.splits("est", "val")``.

        Parameters
        ----------
        *names : str
            As for `subset`.

        Returns
        -------
        tuple of xarray.Dataset
            Their neurons are those that have data in at least one of the parts.

        Raises
        ------
        UsageError
            If a name comes twice, or is a choice of neurons.
        SelectionError
            If the cube has no such part.
        """
        from strfcube.analysis.select import Choice, apply, checked, parts

        ds = checked(self._ds)
        return tuple(apply(ds, part) for part in parts(ds, Choice.everything(ds), names))

    def psth(self, smooth_ms: float | None = None) -> xr.DataArray:
        """Mean over repeats, in spikes/s or mV: see `strfcube.analysis.transform.psth`.

        The unit that the response states is believed: one that was scaled has to say so (see there).

        Parameters
        ----------
        smooth_ms : float, optional
            Full width in ms of a Hann window that sums to 1; 0 smooths nothing.

        Returns
        -------
        xarray.DataArray [dims=(stim, neuron, time)]
        """
        from strfcube.analysis.transform import psth
        from strfcube.cube.lazy_array import rows_of

        response, dt_ms = self._response(), float(self._ds.attrs["dt_ms"])
        single = self._ds["n_repeats"].max("neuron").values <= 1
        repeat = response["repeat"].values if "repeat" in response.coords else None
        first = repeat is not None and np.array_equal(repeat, np.arange(len(repeat)))
        if not (first and len(single) == response.sizes.get("stim") and single.any()) or rows_of(response) is not None:
            return psth(response, dt_ms, smooth_ms)
        # Of values that are not read from a store, absent repeats would be passed over one by one
        once, often = np.flatnonzero(single), np.flatnonzero(~single)
        parts = [psth(response.isel(stim=once, repeat=slice(0, 1)), dt_ms, smooth_ms)]
        if len(often):
            parts.append(psth(response.isel(stim=often), dt_ms, smooth_ms))
        joined: xr.DataArray = xr.concat(parts, "stim", coords="minimal", compat="override", join="override")
        joined = joined.isel(stim=np.argsort(np.concatenate([once, often])))
        return joined.transpose(*(d for d in response.dims if d != "repeat"))

    def _repeated(self) -> xr.DataArray:
        """Responses to the stimuli that any neuron heard at least twice: the others tell nothing of the noise."""
        response = self._response()
        often = self._ds["n_repeats"].max("neuron").values >= 2
        return response if often.all() else response.isel(stim=np.flatnonzero(often))

    def _complete(self, values: Any) -> Any:
        """Put the stimuli back that `_repeated` left out, as NaN."""
        if "stim" not in values.dims or values.sizes["stim"] == self._ds.sizes["stim"]:
            return values
        own = {"stim", values.name} if isinstance(values, xr.DataArray) else {"stim", *values.data_vars}
        of_stim = {n: c.variable for n, c in self._ds.coords.items() if "stim" in c.dims and n not in own}
        full = values.drop_vars(of_stim, errors="ignore").reindex(stim=self._ds["stim"])
        return full.assign_coords({n: c for n, c in of_stim.items() if set(c.dims) <= set(values.dims)})

    def quality(self, per: Per = "neuron") -> xr.Dataset:
        """Signal power, noise power, SNR and CCmax, reading once: see `strfcube.analysis.quality.measures`.

        Parameters
        ----------
        per : {"neuron", "pair"}
            From the powers averaged over stimuli (weighted by duration), or for each pair.

        Returns
        -------
        xarray.Dataset [dims=(neuron,) or (stim, neuron)]
        """
        from strfcube.analysis.quality import measures

        result: xr.Dataset = self._complete(measures(self._repeated(), per).compute())
        return result

    def signal_power(self, per: Per = "neuron") -> xr.DataArray:
        """Variance of the repeatable part of the response: see `strfcube.analysis.quality.signal_power`."""
        return self.quality(per)["signal_power"]

    def noise_power(self, per: Per = "neuron") -> xr.DataArray:
        """Variance of the part that differs between repeats: see `strfcube.analysis.quality.noise_power`."""
        return self.quality(per)["noise_power"]

    def snr(self, per: Per = "neuron") -> xr.DataArray:
        """Signal-to-noise ratio of a single repeat: see `strfcube.analysis.quality.snr`."""
        return self.quality(per)["snr"]

    def ccmax(self, per: Per = "neuron") -> xr.DataArray:
        """Highest correlation with the PSTH that a model can reach: see `strfcube.analysis.quality.ccmax`."""
        return self.quality(per)["ccmax"]

    def ccnorm(self, pred: xr.DataArray | NDArray[Any], per: Per = "neuron") -> xr.DataArray:
        """Correlation of a prediction with the PSTH, relative to CCmax: see `strfcube.analysis.quality.ccnorm`.

        Parameters
        ----------
        pred : xarray.DataArray or array [dims=(stim, neuron, time)]
            In any unit; aligned by label, times to the nearest bin. A bare array is taken in the order of dims and
            labels of ``ds.response``: label one whose order may be another, ``xr.DataArray(pred, dims=("stim", ...))``.
            Further dims (models, say) are kept: each is scored for itself.
        per : {"neuron", "pair"}
            As for `quality`.

        Returns
        -------
        xarray.DataArray [dims=(neuron,) or (stim, neuron)]

        Warns
        -----
        PartialPredictionWarning
            If it lacks stimuli, neurons or bins of this cube, or one in memory is not finite in bins that were
            recorded: these are left out.
        """
        from strfcube.analysis.quality import ccnorm

        result: xr.DataArray = self._complete(ccnorm(*self._beside(pred, repeated=True), per).compute())
        return result

    def cc(self, pred: xr.DataArray | NDArray[Any], per: Per = "neuron") -> xr.DataArray:
        """Correlation of a prediction with the PSTH, of single repeats too: see `strfcube.analysis.quality.cc`.

        Parameters
        ----------
        pred, per
            As for `ccnorm`.

        Returns
        -------
        xarray.DataArray [dims=(neuron,) or (stim, neuron)]

        Warns
        -----
        PartialPredictionWarning
            As `ccnorm`.
        """
        from strfcube.analysis.quality import cc

        result: xr.DataArray = self._complete(cc(*self._beside(pred, repeated=False), per).compute())
        return result

    def _beside(self, pred: xr.DataArray | NDArray[Any], *, repeated: bool) -> tuple[xr.DataArray, xr.DataArray]:
        """A prediction, and the responses, or only those of repeated stimuli, that it is of; warns of what it lacks."""
        from strfcube.analysis.predictions import aligned, warn_of_gaps

        response = self._response()
        reached = self._reached_bins()
        beside, whole = aligned(pred, response, reached)
        response = self._repeated() if repeated else response
        if (
            getattr(pred, "sizes", {}).get("time", whole.sizes["time"]) >= whole.sizes["time"]
        ):  # a short one was told of
            warn_of_gaps(beside, whole, reached)
        if "stim" in beside.dims:
            both = response.get_index("stim").isin(beside.get_index("stim"))  # of objects, NumPy compares all with all
            response = response.isel(stim=np.flatnonzero(both)) if both.any() else whole
            beside = beside.sel(stim=response["stim"])
        if "neuron" in beside.dims:
            response = response.sel(neuron=beside["neuron"])
        return beside, response

    def _reached_bins(self) -> xr.DataArray | None:
        """Bins of each stimulus that are on the time axis, 0 where no neuron heard it; None where it is not known."""
        if "n_bins" not in self._ds:
            return None
        bins = check(self._ds, "n_bins")["n_bins"]
        return bins.copy(deep=False, data=np.where((left(self._ds) > 0).any(1), bins.values, 0))

    def spontaneous_rate(
        self, window: tuple[float, float] | None = None, per: Per = "neuron", trials: xr.Dataset | None = None
    ) -> xr.DataArray:
        """Spikes per second in the silence before the sound: see `strfcube.analysis.quality.spontaneous_rate`.

        Parameters
        ----------
        window : tuple of float, optional
            What was recorded around stimulus onset, in s, where the files do not state it.
        per : {"neuron", "pair"}
            As for `quality`.
        trials : xarray.Dataset, optional
            The group ``trials`` of this very cube; default: read from the store that the cube was opened from.

        Returns
        -------
        xarray.DataArray [dims=(neuron,) or (stim, neuron)]
            NaN where no time before the sound is known to have been recorded; the attribute ``comment``, and a
            message, say of how many and why.

        Raises
        ------
        StoreError
            If the cube does not know its store any more, or the store was built without trials, or built again.
        """
        from strfcube.analysis.quality import explained, with_reasons

        given = trials
        whole, trials = self._stored_trials() if given is None else (self._counted_in(given), given)
        for dim in ("stim", "neuron"):
            if not self._ds.get_index(dim).isin(whole.get_index(dim)).all():
                store = self._ds.encoding.get("source")
                raise StoreError(
                    f"the trials of {store} are of other {dim}s: give trials=, or ask each cube for its own"
                )
        result = with_reasons(trials, whole, window, per, _of_part(trials, whole, self._ds))
        result = explained(result.sel({dim: self._ds[dim].values for dim in result.dims}))
        result = result.assign_coords({n: self._ds[n].variable for n in result.coords if n in self._ds.coords})
        if "comment" in result.attrs:
            log.warning("spontaneous_rate: %s", result.attrs["comment"])
        return result

    def _counted_in(self, trials: xr.Dataset) -> xr.Dataset:
        """The cube that the positions of given trials are those of: this one, or the whole one that it is a part of."""
        source = self._ds.encoding.get("source")
        for place in (None, source):
            try:
                ds = self._cube() if place is None else open_group(str(place))
            except StoreError:
                continue
            counts = ds["n_repeats"].transpose("stim", "neuron").values
            at = tuple(trials[f"{dim}_index"].values[trials["kept"].values] for dim in ("stim", "neuron"))
            if all(len(i) == 0 or i.max() < n for i, n in zip(at, counts.shape, strict=True)):
                found = np.zeros(counts.shape, np.int64)
                np.add.at(found, at, 1)
                if np.array_equal(found, counts):
                    return ds
        raise UsageError(
            "trials: expected the group 'trials' of this very cube, with as many trials of each pair as n_repeats "
            "says; leave it away to have it read from the store"
        )

    def _stored_trials(self) -> tuple[xr.Dataset, xr.Dataset]:
        from strfcube.cube.trials import source_of

        source = source_of(self._ds)
        if source is None:
            raise StoreError("the cube does not know its store any more: open it with strfcube.open, or give trials=")
        try:
            there = has_group(source, "trials")
        except StoreError:
            there = False
        if not there:
            raise StoreError(f"{source} is gone, or was built without its group 'trials': give trials=")
        # Positions in the trials are those of the whole cube, which this may be a part of.
        return open_group(source), open_group(source, "trials")

    def sound(self, stim: str | int) -> xr.DataArray:
        """Waveform of one stimulus at its own sampling rate, as it was stored.

        Parameters
        ----------
        stim : str or int
            Label or position.

        Returns
        -------
        xarray.DataArray [dims=(time,)]
            Float64, in the file's own unit, or where its samples are whole numbers, from -1 to 1 of full scale
            (``attrs["units"]``); ``attrs["sample_rate"]`` in Hz. ``time`` is in s from stimulus onset; all of it, also
            where the cube was cut in time: ``.sel(time=slice(...))`` cuts it.

        Raises
        ------
        SelectionError
            If there is no such stimulus.
        StoreError
            If the cube has no waveform of it. The message says why.
        UsageError
            If it is no cube any more.

        Examples
        --------
        >>> sound = ds.strf.sound(0)  # doctest: +SKIP
        >>> IPython.display.Audio(sound.values, rate=sound.attrs["sample_rate"])  # doctest: +SKIP
        """
        from strfcube.analysis.waveform import of_stim

        found = of_stim(self._cube(), stim)
        if isinstance(found, str):
            raise StoreError(f"stim={stim!r} has no waveform: {found}")
        return found

    def spikes(self, stim: str | int, neuron: str | int) -> SpikeTrains:
        """Exact spike times of one neuron during one stimulus, trial after trial.

        Parameters
        ----------
        stim, neuron : str or int
            Label or position.

        Returns
        -------
        SpikeTrains
            ``times`` (an array a trial, in s from stimulus onset; those before and after the sound too), ``window``
            (what was recorded of each trial, in s) and ``repeat``. It is gone through trial by trial; its
            ``.to_dataframe()`` gives a row a spike. No trial where the pair was never presented.

        Raises
        ------
        SelectionError
            If there is no such stimulus or neuron.
        StoreError
            If the cube has none: membrane potentials, published counts, responses that were changed, a store without
            trials. The message says which.
        """
        from strfcube.analysis.spikes import SpikeTrains, of_pair

        found = of_pair(self._cube(), stim, neuron)
        if isinstance(found, SpikeTrains):
            return found
        raise StoreError(f"stim={stim!r}, neuron={neuron!r} has no exact spike times: {found}")

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, of this part of the cube: see `strfcube.analysis.tables.trials`."""
        from strfcube.analysis.tables import trials

        return trials(self._cube())

    @property
    def findings(self) -> pd.DataFrame:
        """What was odd about the raw files, a row each: see `strfcube.analysis.tables.findings`."""
        from strfcube.analysis.tables import findings

        return findings(self._cube())

    def standardize(self, stims: Any = None, per: Literal["band", "all"] = "band") -> xr.Dataset:
        """Cube whose spectrograms have mean 0 and standard deviation 1: see `strfcube.analysis.transform.standardize`.

        Parameters
        ----------
        stims : str or sequence of str or of bool, optional
            Stimuli that the statistics are taken of: labels, a mask (by its labels, where it has some), or the name of
            a published part (``train``). Default: all.
        per : {"band", "all"}
            One mean and standard deviation for each frequency, or one for all.

        Returns
        -------
        xarray.Dataset
            The same cube with another `stimulus`.
        """
        from strfcube.analysis.transform import standardize

        check(self._ds, "stimulus")
        chosen = self.subset(stims)["stim"].values if isinstance(stims, str) else stims
        return self._ds.assign(stimulus=standardize(self._ds["stimulus"], chosen, per))

    def lagged(self, lag_ms: float = 100.0, silence: float | xr.DataArray | None = None) -> xr.DataArray:
        """Spectrograms with a dimension for the time that has passed: see `strfcube.analysis.lags.lagged`.

        Parameters
        ----------
        lag_ms : float
            Lags go from 0 up to, and without, this many ms.
        silence : float or xarray.DataArray [dims=(frequency,)], optional
            What was heard before a sound; default: the least value of each band in these sounds.

        Returns
        -------
        xarray.DataArray [dims=(stim, frequency, lag, time)]
            Lazy where the Dataset is; NaN past the end of a sound.
        """
        from strfcube.analysis.lags import lagged

        return lagged(check(self._ds, "stimulus")["stimulus"], float(self._ds.attrs["dt_ms"]), lag_ms, silence)

    def fit_strf(
        self, lag_ms: float = 100.0, alphas: float | Sequence[float] | None = None,
        folds: int | Sequence[Any] | xr.DataArray = 5, smooth_ms: float | None = None,
    ) -> xr.Dataset:  # fmt: skip
        """Spectro-temporal receptive field of each neuron, by ridge regression: see `strfcube.analysis.strf.fit`.

        Parameters
        ----------
        lag_ms : float
            Lags go from 0 up to, and without, this many ms.
        alphas : float or sequence of float, optional
            Penalties to choose from, relative to the number of bins; default: from 1e-5 to 10.
        folds : int, or sequence or xarray.DataArray [shape=(stim,)]
            Into how many parts the stimuli are divided in turn, or the part that each belongs to. Each part is
            predicted from the others, and each neuron gets the penalty that does this best.
        smooth_ms : float, optional
            Full width in ms of the Hann window that the PSTHs are smoothed with before; by default they are not.

        Returns
        -------
        xarray.Dataset [dims=(neuron, frequency, lag)]
            ``weights``, ``offset``, ``alpha``, and ``cc``, that of stimuli that were left out.

        Examples
        --------
        >>> fitted = train.strf.fit_strf(lag_ms=60)  # doctest: +SKIP
        >>> test.strf.ccnorm(test.strf.predict(fitted))  # doctest: +SKIP
        >>> train.strf.plot.strf(fitted)  # doctest: +SKIP
        """
        from strfcube.analysis.strf import ALPHAS, fit

        cube, dt_ms = check(self._ds, "response", "stimulus", "n_repeats"), float(self._ds.attrs["dt_ms"])
        return fit(self.psth(smooth_ms), cube["stimulus"], dt_ms, lag_ms, ALPHAS if alphas is None else alphas, folds)

    def predict(self, fitted: xr.Dataset) -> xr.DataArray:
        """What receptive fields say of these sounds, in the unit of a PSTH: see `strfcube.analysis.strf.predict`.

        Parameters
        ----------
        fitted : xarray.Dataset
            What `fit_strf` gave, of this cube or of another one.

        Returns
        -------
        xarray.DataArray [dims=(stim, neuron, time)]
            Of the neurons that were fitted, those of this cube where it has any of them.
        """
        from strfcube.analysis.strf import predict

        cube = check(self._ds, "stimulus")
        neurons = cube.get_index("neuron").tolist() if "neuron" in cube.coords else None
        return predict(fitted, cube["stimulus"], float(cube.attrs["dt_ms"]), neurons)

    @property
    def plot(self) -> Plots:
        """Pictures, such as ``plot.response()``: see `strfcube.analysis.plot`; they need matplotlib."""
        from strfcube.analysis.plot import Plots

        return Plots(as_recorded(check(self._ds, "response", "stimulus", "n_repeats", "n_bins")))


def _levels(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The different values of a column, in order, and which of them each is; what cannot be compared, as text."""
    try:
        return np.unique(values, return_inverse=True)
    except TypeError:
        return np.unique(values.astype(str), return_inverse=True)


def _of_part(trials: xr.Dataset, whole: xr.Dataset, part: xr.Dataset) -> NDArray[np.bool_]:
    """Which trials of a cube are left in a part of it [shape=(trial,)]."""
    place = [
        part.get_index(dim).get_indexer(whole.get_index(dim))[trials[f"{dim}_index"].values]
        for dim in ("stim", "neuron")
    ]
    there = (place[0] >= 0) & (place[1] >= 0)
    if "repeat" in part.sizes:
        there &= np.isin(trials["repeat_index"].values, numbers(part))
    there[there] = part["n_repeats"].transpose("stim", "neuron").values[place[0][there], place[1][there]] > 0
    return np.asarray(there)
