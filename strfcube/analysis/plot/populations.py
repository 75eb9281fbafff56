"""Picture of what all neurons did to one stimulus: `population`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.plot.figure import COLOURS, COLUMN_MM, MISSING, drawing
from strfcube.analysis.plot.marks import beside
from strfcube.analysis.plot.pair import Sound, neuron_title, single, smoothing, sound
from strfcube.analysis.plot.panels import AVERAGED, TIME, few, positions, spectrogram
from strfcube.analysis.plot.rows import Measure, Rows, arrange
from strfcube.analysis.quality import measures
from strfcube.analysis.spikes import position
from strfcube.analysis.transform import psth, smooth
from strfcube.cube.normalise import own_units, with_own_units
from strfcube.cube.repeats import left, places
from strfcube.errors import SelectionError, UsageError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

_OF_POWERS = {"snr": "SNR", "ccmax": "CCmax", "signal_power": "signal power", "noise_power": "noise power"}
MEASURES = ("rate", "peak", *_OF_POWERS)
_NAMED_ROWS, _LONGEST = 12, 20  # so many rows are named, if their names are no longer


@dataclass(frozen=True, eq=False)
class Population:
    """The responses of all neurons to one stimulus, as they are drawn.

    Attributes
    ----------
    sound : Sound
    rows : Rows
    values : ndarray of float [shape=(neuron, time)]
        PSTHs in the order of `rows`; NaN in neurons that were not recorded, and in bins that were not.
    recorded : ndarray of bool [shape=(neuron,)]
        In the same order.
    names : list of str
        Labels in the same order.
    label : str
        What the values are, with their unit.
    title : str
        The stimulus, and the neuron where there is one.
    limits : (float, float)
        Lowest and highest value that the colours tell apart.
    note : str
        How it was smoothed.
    """

    sound: Sound
    rows: Rows
    values: NDArray[Any]
    recorded: NDArray[np.bool_]
    names: list[str]
    label: str
    title: str
    limits: tuple[float, float]
    note: str


def collect(
    ds: xr.Dataset, stim: Any = None, sort: Any = None, by: Any = None, edges: Any = None,
    normalise: bool | None = None, smooth_ms: float | None = 21,
) -> Population:  # fmt: skip
    """What `population` draws; reads this stimulus alone, and knows no matplotlib.

    Parameters
    ----------
    ds, stim, sort, by, edges, normalise, smooth_ms
        As for `population`.
    """
    dt_ms = float(ds.attrs["dt_ms"])
    how = smoothing(dt_ms, smooth_ms)
    repeats, units = left(ds).astype(np.int64), own_units(ds)
    if stim is None:
        s = int(np.lexsort((-repeats.sum(1), -(repeats > 0).sum(1)))[0])
    else:
        s = position(ds, "stim", single("stim", stim))
    if not repeats[s].any():
        raise SelectionError(f"no neuron has a response to stimulus {ds['stim'].values[s]}")
    heard = np.flatnonzero(repeats[s])
    response = with_own_units(ds)["response"].isel(stim=[s], neuron=heard)
    most = places(ds, int(ds["n_repeats"].isel(stim=s).max()))
    response = response.isel(repeat=most, time=slice(0, int(ds["n_bins"][s])))
    plain = psth(response, dt_ms).compute()
    shown = plain if not smooth_ms else smooth(plain, dt_ms, smooth_ms)
    values = np.full((len(repeats[s]), plain.sizes["time"]), np.nan)
    values[heard] = shown.isel(stim=0).transpose("neuron", "time").values
    found: dict[str, Any] = {
        "rate": partial(_spread, plain.isel(stim=0).mean("time").values, heard, len(values), "mean response"),
        "peak": partial(_peak, values, plain["time"].values),
    } | {n: partial(_power, n, label, response, heard, len(values)) for n, label in _OF_POWERS.items()}
    rows = arrange(ds, "neuron", sort, by, edges, found)
    trace = units == "mV"
    mixed = 0 < trace[heard].sum() < len(heard)
    if mixed and normalise is False:
        raise UsageError("normalise=False: some neurons are in mV and some in spikes/s; they share no scale")
    if normalise or mixed:
        values, label = _normalised(values, trace), "response / highest of the neuron"
        limits = (0.0, 1.0)
    else:
        label = "potential (mV)" if trace[heard].all() else "firing rate (spikes/s)"
        low = float(np.nanpercentile(values, 1)) if trace[heard].all() else 0.0
        high = float(np.nanpercentile(values, 99.5))
        limits = (low, high if high > low else low + 1)
    heard_sound = sound(ds, s)
    one = f"{neuron_title(ds.isel(neuron=0))}\n" if ds.sizes["neuron"] == 1 else ""
    return Population(
        heard_sound, rows, values[rows.order], (repeats[s] > 0)[rows.order],
        [str(ds["neuron"].values[i]) for i in rows.order], label, one + heard_sound.title, limits, how,
    )  # fmt: skip


def _spread(values: NDArray[Any], at: NDArray[Any], total: int, label: str) -> Measure:
    """Values of some neurons, with NaN at the others."""
    whole = np.full(total, np.nan)
    whole[at] = values
    return Measure(whole, label)


def _peak(values: NDArray[Any], time: NDArray[Any]) -> Measure:
    known = np.isfinite(values).any(1)
    at = np.argmax(np.nan_to_num(values, nan=-np.inf), axis=1)
    return Measure(np.where(known, time[at], np.nan), "time of the peak (s)")


def _power(name: str, label: str, response: xr.DataArray, at: NDArray[Any], total: int) -> Measure:
    found = measures(response, "pair")[name].isel(stim=0).values
    return _spread(found, at, total, f"{label} of this stimulus")


def _normalised(values: NDArray[Any], trace: NDArray[np.bool_]) -> NDArray[Any]:
    """Each row from 0, or from its lowest where it is a potential, to its highest."""
    known = np.isfinite(values)
    high = np.where(known, values, -np.inf).max(1, initial=-np.inf)
    low = np.where(trace, np.where(known, values, np.inf).min(1, initial=np.inf), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (values - low[:, None]) / (high - low)[:, None]
    return np.where(known & ~np.isfinite(scaled), 0.0, scaled)


def population(
    ds: xr.Dataset, stim: str | int | None = None, sort: str | xr.DataArray | None = None,
    by: str | xr.DataArray | None = None, edges: Any = None, normalise: bool | None = None,
    smooth_ms: float | None = 21, *, width_mm: float = COLUMN_MM, ax: Axes | None = None,
    figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """PSTHs of all neurons to one stimulus, a row each, under its spectrogram.

    Neurons that did not hear it are grey, and so are bins that were not recorded.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    stim : str or int, optional
        Label or position; default: the one that most neurons heard.
    sort : str or xarray.DataArray [dims=(neuron,)], optional
        What the rows are sorted by, the smallest on top and what is not known at the bottom: a coordinate
        (``"electrode"``, ``"depth"``), a measure of the responses to this stimulus (``"rate"``, ``"peak"``,
        ``"snr"``, ``"ccmax"``, ``"signal_power"``, ``"noise_power"``), or values of your own, such as
        ``ds.strf.ccmax()`` of all stimuli. With a minus before its name, ``"-snr"``, the largest is on top. Default:
        the order of the cube. Ticks say which position in the cube a row has.
    by : str or xarray.DataArray, optional
        Coordinate that the rows are put into groups by; they are sorted within a group.
    edges : number or sequence of numbers, optional
        Boundaries on the scale of `sort`: ``sort="electrode", edges=16`` draws one, labelled e16/e17.
    normalise : bool, optional
        Draw each row relative to its own highest value. Default: where some neurons are in mV and some in spikes/s.
    smooth_ms : float, optional
        Full width in ms of the Hann window that the PSTHs are smoothed with; None: not at all.
    width_mm : float
        Width of the figure, as it is to be printed.
    ax, figure : optional
        Draw in these axes, without the spectrogram, or in this figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus, coordinate or measure, or no neuron heard the stimulus.
    UsageError
        If `edges` is not on a scale, or `normalise` is False of a cube with mV and spikes/s.
    ImportError
        If matplotlib is not installed.
    """
    shown = collect(ds, stim, sort, by, edges, normalise, smooth_ms)
    tall = len(shown.names) > 100
    with drawing(width_mm, 115 if tall else 80, figure, ax) as fig:
        if ax is None:
            top, panel = fig.subplots(2, 1, sharex=True, height_ratios=[1, 4 if tall else 2.4])
            spectrogram(top, shown.sound, bar=False)
            top.set_ylabel("kHz")
            top.set_title(shown.title)
        else:
            panel = ax
            panel.set_title(shown.title)
        _draw(panel, shown)
    return fig  # type: ignore[return-value]


def _draw(ax: Axes, shown: Population) -> None:
    import matplotlib

    count = len(shown.names)
    colours = matplotlib.colormaps["magma"].with_extremes(bad=MISSING)
    image = ax.imshow(
        np.ma.masked_invalid(shown.values), aspect="auto", origin="upper", cmap=colours, vmin=shown.limits[0],
        vmax=shown.limits[1], interpolation="auto" if count > AVERAGED else "nearest", interpolation_stage="rgba",
        extent=(shown.sound.edges[0], shown.sound.edges[-1], count - 0.5, -0.5),
    )  # fmt: skip
    ax.set_xlabel(f"{TIME}; {shown.note}")
    few(ax.xaxis, 6)
    how = f"sorted by {shown.rows.sorted_by}" if shown.rows.sorted_by and shown.rows.group_label else ""
    if count <= _NAMED_ROWS and max(map(len, shown.names)) <= _LONGEST:
        ax.set_yticks(range(count), shown.names)
        ax.set_ylabel(how)
    else:
        moved = positions(ax.yaxis, shown.rows.order)
        recorded = f"{int(shown.recorded.sum()):,} of {count:,} recorded"
        said = [f"neuron ({recorded})", "by its position in the cube" if moved else "", how]
        ax.set_ylabel(", ".join(filter(None, said)))
    over = "max" if np.nanmax(shown.values) > shown.limits[1] * (1 + 1e-9) else "neither"
    grey = "; grey: not recorded" if np.isnan(shown.values).any() else ""
    bar = ax.figure.colorbar(image, ax=ax, location="bottom", aspect=40, pad=0.01, extend=over)
    bar.set_label(shown.label + grey)
    bar.outline.set_linewidth(0.6)
    beside(ax, shown.rows, COLOURS[4])  # seen on dark and on bright
