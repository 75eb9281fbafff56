"""Pictures of what one neuron did: `stimulus`, `response`, `cell`, `psths`, `waveform`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.plot.figure import COLUMN_MM, FAINT, INK, PAGE_MM, broken, drawing
from strfcube.analysis.plot.pair import (
    chosen,
    grid,
    most_repeated,
    pair,
    several,
    single,
    smoothing,
    sound,
)
from strfcube.analysis.plot.panels import TIME, few, onset_marks, raster, spectrogram, stack, step
from strfcube.analysis.plot.waves import envelope
from strfcube.analysis.spikes import position
from strfcube.analysis.waveform import of_stim
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

    from strfcube.analysis.plot.pair import Sound

    Label = str | int

_SIDE_BY_SIDE = 4  # stimuli that are shown where none are asked for


def stimulus(
    ds: xr.Dataset, stim: Label | None = None, *, width_mm: float = COLUMN_MM, ax: Axes | None = None,
    figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """Spectrogram of one stimulus.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    stim : str or int, optional
        Label or position; default: the first of the pair with most repeats.
    width_mm : float
        Width of the figure, as it is to be printed.
    ax, figure : optional
        Draw in these axes, or in this figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus.
    ImportError
        If matplotlib is not installed.
    """
    s = chosen(ds)[0] if stim is None else position(ds, "stim", single("stim", stim))
    shown = sound(ds, s)
    with drawing(width_mm, 45, figure, ax) as fig:
        panel = ax if ax is not None else fig.add_subplot()
        spectrogram(panel, shown)
        panel.set_title(shown.title)
        panel.set_xlabel(TIME)
        panel.set_ylabel("frequency (kHz)")
    return fig  # type: ignore[return-value]


def response(
    ds: xr.Dataset, stim: Label | None = None, neuron: Label | None = None, smooth_ms: float | None = 21, *,
    width_mm: float = COLUMN_MM, figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """Stimulus, every repeat, and PSTH of one pair, one above the other on one time axis.

    Spikes stand at their exact times, one tick each, over all the time that was recorded (or that has spikes, where
    the files do not state it): before the sound and after it too. Where a cube has no exact times, or was transformed,
    there is one tick a bin that has spikes, and the picture says so. What one repeat did not record is grey.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    stim, neuron : str or int, optional
        Label or position; default: the first pair with most repeats.
    smooth_ms : float, optional
        Full width in ms of the Hann window that the PSTH is smoothed with; None: not at all. One of no more than two
        bins smooths nothing, and the picture says so.
    width_mm : float
        Width of the figure, as it is to be printed.
    figure : optional
        Draw in this figure, or part of one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    UsageError
        If the width is no width.
    ImportError
        If matplotlib is not installed.
    """
    smoothing(float(ds.attrs["dt_ms"]), smooth_ms)
    one = pair(ds, *chosen(ds, stim, neuron), smooth_ms)
    with drawing(width_mm, 95, figure) as fig:
        fig.suptitle(f"{one.title}\n{one.sound.title}")
        stack(fig, [one], [""])
    return fig  # type: ignore[return-value]


def cell(
    ds: xr.Dataset, neuron: Label | None = None, stim: Label | Sequence[Label] | None = None,
    smooth_ms: float | None = 21, *, width_mm: float = PAGE_MM, figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """What one neuron did to several stimuli, side by side on one scale of time, level and rate.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    neuron : str or int, optional
        Label or position; default: that of the first pair with most repeats.
    stim : str or int, or sequence of them, optional
        Which stimuli; default: the four that the neuron heard most often.
    smooth_ms, width_mm, figure
        As for `response`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    UsageError
        If the width is no width.
    ImportError
        If matplotlib is not installed.
    """
    smoothing(float(ds.attrs["dt_ms"]), smooth_ms)
    wanted = None if stim is None else several(ds, "stim", stim)
    n = chosen(ds, None if wanted is None else wanted[0], neuron)[1]
    stims = most_repeated(ds, n, _SIDE_BY_SIDE) if wanted is None else wanted
    pairs = [pair(ds, *chosen(ds, s, n), smooth_ms) for s in stims]
    with drawing(width_mm, 95, figure) as fig:
        fig.suptitle(pairs[0].title)
        stack(fig, pairs, [p.sound.title for p in pairs])
    return fig  # type: ignore[return-value]


def psths(
    ds: xr.Dataset, stim: Label | Sequence[Label] | None = None, neuron: Label | Sequence[Label] | None = None,
    smooth_ms: float | None = 21, *, width_mm: float = PAGE_MM, figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """PSTHs of several neurons to several stimuli: a row a neuron, a column a stimulus, one scale a row.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    stim, neuron : str or int, or sequence of them, optional
        Labels or positions; default: the four stimuli that the neuron of the first pair with most repeats heard most
        often, and the first five neurons that heard all of these, or else most of them.
    smooth_ms, width_mm, figure
        As for `response`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron.
    UsageError
        If the width is no width.
    ImportError
        If matplotlib is not installed.
    """
    shown = grid(ds, stim, neuron, smooth_ms)
    with drawing(width_mm, 22 + 17 * len(shown.neurons), figure) as fig:
        axes = fig.subplots(len(shown.neurons), len(shown.stims), sharex="col", sharey="row", squeeze=False)
        mixed = len(set(shown.units)) > 1
        for row, (name, unit) in enumerate(zip(shown.neurons, shown.units, strict=True)):
            for column, heard in enumerate(shown.stims):
                _psth(axes[row, column], heard, shown.rates[column][row], unit)
            label = "\n".join(broken(name + (f" ({unit})" if mixed else ""), 20))
            axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
            if unit != "mV":
                axes[row, 0].set_ylim(bottom=0)
        for ax, heard in zip(axes[0], shown.stims, strict=True):
            ax.set_title(heard.title)
        fig.supxlabel(f"{TIME}; {shown.smoothed}")
        named = {"mV": "mean potential (mV)", "spikes/s": "firing rate (spikes/s)"}
        fig.supylabel("mean response" if mixed else named[shown.units[0]])
    return fig  # type: ignore[return-value]


def _psth(ax: Axes, heard: Sound, rate: NDArray[Any], unit: str) -> None:
    few(ax.yaxis, 3)
    few(ax.xaxis, 4)
    if not np.isfinite(rate).any():
        ax.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=ax.transAxes, color=FAINT)
        return
    step(ax, heard.edges, rate)
    onset_marks(ax, heard, (heard.edges[0], heard.edges[-1]))


def waveform(
    ds: xr.Dataset, stim: Label | None = None, neuron: Label | None = None, *, width_mm: float = COLUMN_MM,
    figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """Every spike of one pair over the waveform of the sound.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube that was built with its sounds.
    stim, neuron, width_mm, figure
        As for `response`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    UsageError
        If the cube has no waveform of this stimulus.
    ImportError
        If matplotlib is not installed.
    """
    s, n = chosen(ds, stim, neuron)
    one = pair(ds, s, n, None)
    wave = of_stim(ds, s)
    if isinstance(wave, str):
        raise UsageError(f"stim {ds['stim'].values[s]}: no waveform of it: {wave}")
    times, low, high = envelope(wave, 1200)
    trace = one.unit == "mV"
    with drawing(width_mm, 60, figure) as fig:
        top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[1.2, 1])
        if trace:
            step(top, one.sound.edges, one.rate)
        else:
            raster(top, one.raster)
        top.set_ylabel("mean potential (mV)" if trace else "repeat")
        bottom.fill_between(times, low, high, color=INK, lw=0.2)
        units = wave.attrs["units"]
        bottom.set_ylabel(f"amplitude ({'of full scale' if units == 'full scale' else units})")
        bottom.set_xlabel(TIME)
        bottom.set_xlim(one.raster.span)
        for ax in (top, bottom):
            few(ax.yaxis) if ax is bottom or trace else None
            onset_marks(ax, one.sound, one.raster.span)
        fig.suptitle(f"{one.title}\n{one.sound.title}")
        fig.align_ylabels([top, bottom])
    return fig  # type: ignore[return-value]
