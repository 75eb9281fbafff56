"""What there is to draw of one stimulus and one neuron: arrays and labels, in s, kHz and spikes/s or mV.

Nothing here knows matplotlib, and nothing is read but this pair.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.spikes import SpikeTrains, of_pair, position
from strfcube.analysis.transform import hann_kernel, psth
from strfcube.cube.normalise import own_units, with_own_units
from strfcube.cube.repeats import left, places
from strfcube.errors import SelectionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

_SIDE_BY_SIDE, _GRID_ROWS = 4, 5  # stimuli and neurons of a grid where none are asked for
_CHECKSUM = re.compile(r"\b([0-9A-Fa-f]{8})[0-9A-Fa-f]{24}\b")
_TICKS_KHZ = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class Sound:
    """A stimulus as it is drawn.

    Attributes
    ----------
    title : str
        Its label, with its name and its class where these say more; of a checksum the first eight digits, where no
        other stimulus of the cube begins with these.
    edges : ndarray of float [shape=(time + 1,)]
        Edges of its bins in s.
    level : ndarray of float [shape=(frequency, time)], optional
        Its spectrogram; None where the cube has none of it.
    units : str
        Of `level`.
    level_label : str
        What `level` is, with its unit.
    frequency : ndarray of float [shape=(frequency,)]
        In kHz.
    span : (float, float)
        From where to where the sound itself lasts, in s.
    """

    title: str
    edges: NDArray[np.float64]
    level: NDArray[Any] | None
    units: str
    level_label: str
    frequency: NDArray[np.float64]
    span: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Raster:
    """The repeats of a pair as they are drawn, one row each.

    Attributes
    ----------
    rows : int
        Repeats.
    times : ndarray of float [shape=(spike,)]
        Where a tick stands, in s.
    row : ndarray of int [shape=(spike,)]
        And in which row, from 0.
    exact : bool
        Whether each tick is one spike at its own time; otherwise there is one at the centre of every bin with spikes.
    missing : tuple of (int, float, float)
        Row, start and end of what was not recorded of a repeat, within `span`.
    traces : ndarray of float [shape=(repeat, time)], optional
        The repeats themselves, in mV, where the response is a membrane potential; it has no ticks then.
    span : (float, float)
        The time that is drawn, in s: the bins, and all that was recorded around them where that is known.
    """

    rows: int
    times: NDArray[np.float64]
    row: NDArray[np.int64]
    exact: bool
    missing: tuple[tuple[int, float, float], ...]
    traces: NDArray[Any] | None
    span: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Pair:
    """One stimulus, the repeats of one neuron and their mean.

    Attributes
    ----------
    sound : Sound
    raster : Raster
    title : str
        Label of the neuron, with its area where that says more.
    rate : ndarray of float [shape=(time,)]
        PSTH in `unit`.
    unit : {"spikes/s", "mV"}
    repeats : str
        How many there are.
    smoothed : str
        How the PSTH was smoothed.
    """

    sound: Sound
    raster: Raster
    title: str
    rate: NDArray[Any]
    unit: str
    repeats: str
    smoothed: str


def smoothing(dt_ms: float, smooth_ms: float | None) -> str:
    """How a PSTH was smoothed, in words; refuses a width that is none before anything is read.

    Raises
    ------
    UsageError
        If the width is not a positive number.
    """
    if not smooth_ms:
        return "not smoothed"
    if len(hann_kernel(dt_ms, smooth_ms)) == 1:
        return f"no smoothing at {dt_ms:g} ms bins"
    return f"{smooth_ms:g} ms Hann"


def chosen(ds: xr.Dataset, stim: str | int | None = None, neuron: str | int | None = None) -> tuple[int, int]:
    """Positions of a pair; of those not given, the first with most repeats.

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    """
    repeats = left(ds).astype(np.int64)
    for axis, (dim, wanted) in enumerate((("stim", stim), ("neuron", neuron))):
        if wanted is not None:
            other = np.delete(np.arange(repeats.shape[axis]), position(ds, dim, single(dim, wanted)))
            repeats[(slice(None),) * axis + (other,)] = -1
    if not repeats.size:
        raise SelectionError("the cube has no stimulus or no neuron")
    s, n = (int(i) for i in np.unravel_index(int(repeats.argmax()), repeats.shape))
    if repeats[s, n] < 1:
        raise SelectionError(
            f"neuron {ds['neuron'].values[n]} has no response to stimulus {ds['stim'].values[s]}; "
            "ds.strf.coverage() shows which pairs have one"
        )
    return s, n


def single(dim: str, wanted: Any) -> Any:
    """A label or a position, out of a sequence of one too.

    Raises
    ------
    UsageError
        If there are several.
    """
    if isinstance(wanted, list | tuple | np.ndarray):
        if len(wanted) != 1:
            raise UsageError(f"{dim}: this picture shows one {dim}, got {len(wanted)}")
        return wanted[0]
    return wanted


def several(ds: xr.Dataset, dim: str, wanted: Any) -> list[int]:
    """Positions of a label or position, or of several, in the order in which they are given.

    Raises
    ------
    SelectionError
        If there is none such, or one comes twice.
    """
    each = list(wanted) if isinstance(wanted, list | tuple | np.ndarray) else [wanted]
    found = [position(ds, dim, one) for one in each]
    if not found or len(set(found)) < len(found):
        raise SelectionError(f"{dim}={wanted!r}: expected one or several, none of them twice")
    return found


def edges(ds: xr.Dataset) -> NDArray[np.float64]:
    """Edges of the bins in s."""
    step = float(ds.attrs["dt_ms"]) / 1000
    start = ds["time"].values.astype(float)
    return np.append(start, start[-1] + step)


def neuron_title(one: xr.Dataset) -> str:
    """Label of a neuron, and its area."""
    return _joined(str(one["neuron"].values), _word(one, "area"))


def stim_title(one: xr.Dataset) -> str:
    """Label of a stimulus, its name where that is another one, and its class."""
    label, name = str(one["stim"].values), _word(one, "stim_name")
    if label in name or name.removesuffix(".wav") in label or len(name) >= 40:
        name = ""
    return _joined(label, name, _word(one, "stim_type"))


def _title(ds: xr.Dataset, one: xr.Dataset) -> str:
    """As `stim_title`, with room for a picture beside it: 32 digits of a checksum tell nobody more than eight do."""
    label = str(one["stim"].values)
    short = _CHECKSUM.sub(r"\1…", label)
    if short == label or sum(_CHECKSUM.sub(r"\1…", str(other)) == short for other in ds["stim"].values) > 1:
        return stim_title(one)
    return stim_title(one).replace(label, short, 1)


def _word(one: xr.Dataset, key: str) -> str:
    word = str(one[key].values) if key in one.coords else ""
    return "" if word == "unknown" else word


def _joined(label: str, *words: str) -> str:
    return ", ".join([label, *(w.replace("_", " ") for w in words if w and w not in label.split("/"))])


def sound(ds: xr.Dataset, stim: int, level: bool = True) -> Sound:
    """The stimulus at a position of the cube, with its spectrogram or without."""
    one = ds[["stimulus", "n_bins"]].isel(stim=stim)
    one = one.isel(time=slice(0, int(one["n_bins"])))
    values = one["stimulus"].transpose("frequency", "time").values if level else np.empty(0)
    units = str(one["stimulus"].attrs.get("units", ""))
    onset = float(one["sound_onset"]) if "sound_onset" in one.coords else 0.0
    lasts = float(one["sound_duration"]) if "sound_duration" in one.coords else np.nan
    # A pool that goes by numbers of bands has the frequencies of each stimulus aside.
    hz = one["band_frequency" if "band_frequency" in one.coords else "frequency"]
    return Sound(
        _title(ds, one), edges(one), values if np.isfinite(values).any() else None, units,
        f"level ({units})" if units not in ("", "1") else "level", hz.values.astype(float) / 1000,
        (onset, onset + lasts),
    )  # fmt: skip


def pair(ds: xr.Dataset, stim: int, neuron: int, smooth_ms: float | None) -> Pair:
    """The pair at a position of the cube."""
    dt_ms = float(ds.attrs["dt_ms"])
    how = smoothing(dt_ms, smooth_ms)
    trace = own_units(ds)[neuron] == "mV"
    one = repeats_of(ds, stim, neuron)
    count = "1 repeat" if one.sizes["repeat"] == 1 else f"{one.sizes['repeat']} repeats"
    return Pair(
        sound(ds, stim), _raster(ds, one, stim, neuron, trace), neuron_title(one),
        psth(one["response"], dt_ms, smooth_ms).values, "mV" if trace else "spikes/s", count, how,
    )  # fmt: skip


def repeats_of(ds: xr.Dataset, stim: int, neuron: int) -> xr.Dataset:
    """Bins and repeats of the pair at a position of the cube, loaded: those repeats that observed any of its bins.

    Raises
    ------
    SelectionError
        If none did.
    """
    one = ds[["response", "n_bins", "n_repeats"]].isel(stim=stim, neuron=neuron)
    one = one.isel(time=slice(0, int(one["n_bins"])), repeat=places(ds, int(one["n_repeats"]))).load()
    seen = one["response"].notnull().any("time").values
    if not seen.any():
        raise SelectionError(
            f"neuron {ds['neuron'].values[neuron]}, stimulus {ds['stim'].values[stim]}: no repeat observed any of the "
            "bins that are left; take more of the cube, or another pair"
        )
    return one if seen.all() else one.isel(repeat=np.flatnonzero(seen))


def _raster(ds: xr.Dataset, one: xr.Dataset, stim: int, neuron: int, trace: bool) -> Raster:
    bins, values = edges(one), one["response"].transpose("repeat", "time").values
    span = (float(bins[0]), float(bins[-1]))
    none, rows = np.empty(0), len(values)
    if trace:
        return Raster(rows, none, none.astype(np.int64), False, _gaps(values, bins), values, span)
    trains = of_pair(ds, stim, neuron)
    if not isinstance(trains, SpikeTrains):
        row, at = np.nonzero(np.nan_to_num(values) > 0)
        return Raster(rows, (bins[at] + bins[at + 1]) / 2, row, False, _gaps(values, bins), None, span)
    there = np.isin(trains.repeat, one["repeat"].values)
    trains = SpikeTrains(tuple(itertools.compress(trains.times, there)), trains.window[there], trains.repeat[there])
    low, high = trains.span()
    span = (float(np.fmin(span[0], low)), float(np.fmax(span[1], high)))
    gone = tuple(
        (row, a, b)
        for row, (start, stop) in enumerate(trains.window)
        for a, b in ((span[0], float(start)), (float(stop), span[1]))
        if b - a > 1e-9
    )
    times = np.concatenate([*trains.times, none])
    row = np.repeat(np.arange(len(trains.times)), [len(t) for t in trains.times])
    return Raster(len(trains.times), times, row, True, gone, None, span)


def _gaps(values: NDArray[Any], bins: NDArray[np.float64]) -> tuple[tuple[int, float, float], ...]:
    """Runs of bins without a value."""
    found = []
    for row, missing in enumerate(np.isnan(values)):
        turns = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
        found += [(row, float(bins[a]), float(bins[b])) for a, b in zip(turns[::2], turns[1::2], strict=True)]
    return tuple(found)


def most_repeated(ds: xr.Dataset, neuron: int, most: int) -> list[int]:
    """Stimuli that a neuron heard most often, `most` of them, in the order of the cube."""
    repeats = left(ds).astype(np.int64)[:, neuron]
    first = np.argsort(-repeats, kind="stable")[:most]
    return sorted(int(s) for s in first if repeats[s] > 0)


@dataclass(frozen=True, eq=False)
class Grid:
    """PSTHs of several neurons to several stimuli.

    Attributes
    ----------
    stims : list of Sound
        Columns; their spectrograms are not read.
    neurons, units : list of str
        Rows, and the unit of each.
    rates : list of ndarray of float [shape=(neuron, time)]
        One a stimulus; NaN where a neuron did not hear it.
    smoothed : str
        How they were smoothed.
    """

    stims: list[Sound]
    neurons: list[str]
    units: list[str]
    rates: list[NDArray[Any]]
    smoothed: str


def grid(ds: xr.Dataset, stim: Any, neuron: Any, smooth_ms: float | None) -> Grid:
    """The PSTHs of a choice of stimuli and neurons, or where none is given of those that have most repeats.

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or none of them has a response.
    UsageError
        If the width is no width.
    """
    dt_ms = float(ds.attrs["dt_ms"])
    how = smoothing(dt_ms, smooth_ms)
    repeats, unit = left(ds).astype(np.int64), own_units(ds)
    neurons = None if neuron is None else several(ds, "neuron", neuron)
    if stim is not None:
        stims = several(ds, "stim", stim)
    else:
        stims = most_repeated(ds, chosen(ds, None, None if neurons is None else neurons[0])[1], _SIDE_BY_SIDE)
    if neurons is None:
        heard = (repeats[stims] > 0).sum(0)
        neurons = sorted(int(n) for n in np.argsort(-heard, kind="stable")[:_GRID_ROWS] if heard[n])
    if not repeats[np.ix_(stims, neurons)].any():
        raise SelectionError("none of these neurons has a response to any of these stimuli")
    part = with_own_units(ds)
    rates = []
    for s in stims:
        most = places(ds, int(ds["n_repeats"].isel(stim=s, neuron=neurons).max()))
        one = part["response"].isel(stim=s, neuron=neurons, repeat=most, time=slice(0, int(ds["n_bins"][s])))
        own = psth(one.load(), dt_ms, smooth_ms).transpose("neuron", "time").values
        rates.append(np.where(repeats[s, neurons][:, None] > 0, own, np.nan))
    units = ["mV" if unit[n] == "mV" else "spikes/s" for n in neurons]
    return Grid([sound(ds, s, level=False) for s in stims], [neuron_title(ds.isel(neuron=n)) for n in neurons], units,
                rates, how)  # fmt: skip


def frequency_ticks(khz: NDArray[np.float64]) -> tuple[list[float], list[str]]:
    """Places, on an axis that counts bands from 0, and labels in kHz of round frequencies, wherever the bands lie."""
    rising = np.argsort(khz)
    ticks: Sequence[float] = [t for t in _TICKS_KHZ if khz.min() <= t <= khz.max()]
    if len(ticks) < 2:
        ticks = sorted(float(f"{v:.3g}") for v in khz[:: max(1, len(khz) // 4)])
    places = np.interp(ticks, khz[rising], rising)
    apart = max(1.0, len(khz) / 7)
    shown: list[int] = []
    for i in range(len(ticks) - 1, -1, -1):  # from above: where bands are dense it is the low ones that collide
        if not shown or abs(places[shown[-1]] - places[i]) >= apart:
            shown.append(i)
    return [float(places[i]) for i in shown], [f"{ticks[i]:g}" for i in shown]
