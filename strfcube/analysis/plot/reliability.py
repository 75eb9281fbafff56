"""Picture of how reliable the responses are: `quality`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.plot.figure import COLOURS, COLUMN_MM, FAINT, MISSING, broken, drawing, legend
from strfcube.analysis.plot.panels import whole_numbers
from strfcube.analysis.plot.rows import classes, ranked, values_of
from strfcube.cube.repeats import left

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

_FLOOR = 0.01  # what has a lower SNR, or a negative estimate of it, is counted together
_GROUPS = 7  # that colours can tell apart
_BINS = 20


@dataclass(frozen=True, eq=False)
class Quality:
    """Distributions of SNR and CCmax over the neurons, as they are drawn.

    Attributes
    ----------
    snr, ccmax : ndarray of float [shape=(neuron,)]
        NaN where a neuron has no stimulus with two repeats, or no spike in these; `note` says of how many, and why.
    group : ndarray of int [shape=(neuron,)]
        Which of `names` each neuron belongs to.
    names : list of str
        Groups in the order in which they are drawn; one without a name where there are none.
    label : str
        What the groups are by.
    snr_edges, ccmax_edges : ndarray of float
        Edges of the bins; the first bin of the SNR holds all that is lower.
    note : str
        How many neurons could not be estimated, and why.
    empty : str
        What is said in a panel in which there is no neuron.
    """

    snr: NDArray[np.float64]
    ccmax: NDArray[np.float64]
    group: NDArray[np.intp]
    names: list[str]
    label: str
    snr_edges: NDArray[np.float64]
    ccmax_edges: NDArray[np.float64]
    note: str
    empty: str

    def counts(self, values: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.int64]:
        """Neurons in each bin [shape=(group, bin)]."""
        known = np.isfinite(values)
        inside = np.clip(values, edges[0], edges[-1])
        each = [np.histogram(inside[known & (self.group == g)], edges)[0] for g in range(len(self.names))]
        return np.array(each)


def collect(ds: xr.Dataset, by: Any = None) -> Quality:
    """What `quality` draws; reads all responses of which there are repeats, and knows no matplotlib.

    Parameters
    ----------
    ds, by
        As for `quality`.
    """
    from strfcube.analysis.accessor import StrfAccessor

    count = ds.sizes["neuron"]
    group, names, label = np.zeros(count, np.intp), [""], ""
    if by is not None:
        values, label = values_of(ds, "neuron", "by", by, {})
        name = by if isinstance(by, str) else str(by.name or "value")
        own = classes(name, values, _GROUPS)
        names = list(dict.fromkeys(own[ranked(values)]))
        if len(names) > _GROUPS:
            large = sorted(names, key=lambda n: (-(own == n).sum(), n))[: _GROUPS - 1]
            rest = f"{len(names) - len(large)} others"
            own = np.array([n if n in large else rest for n in own], dtype=object)
            names = [*(n for n in names if n in large), rest]
        group = np.array([names.index(n) for n in own], np.intp)
    found = StrfAccessor(ds).quality().compute()
    snr, ccmax = found["snr"].values.astype(float), found["ccmax"].values.astype(float)
    once = left(ds).astype(np.int64).max(0) < 2
    top = float(np.nanmax(snr, initial=1.0)) * 1.0001
    return Quality(snr, ccmax, group, names, label, np.geomspace(_FLOOR, max(top, 10 * _FLOOR), _BINS + 1),
                   np.linspace(0, 1, _BINS + 1), _note(found, once),
                   "no neuron has two repeats of a stimulus" if once.all() else "no neuron can be shown")  # fmt: skip


def _note(found: xr.Dataset, once: NDArray[np.bool_]) -> str:
    """How many neurons are in none of the distributions, or not in that of the SNR, and why."""
    signal, noise, snr, ccmax = (found[n].values.astype(float) for n in ("signal_power", "noise_power", "snr", "ccmax"))
    unknown, power = ~np.isfinite(ccmax), signal + noise
    silent = unknown & (power == 0)
    why = (
        (unknown & once, "without two repeats of a stimulus"),
        (silent, "without a spike (or any change) in repeated stimuli"),
        (unknown & ~once & ~np.isfinite(power), "whose repeats share too few bins"),
        (unknown & np.isfinite(power) & (power != 0), "whose mean response does not vary"),
    )
    there = [(int(which.sum()), reason) for which, reason in why if which.any()]
    said = ", ".join(f"{number:,} {reason}" if len(there) > 1 else reason for number, reason in there)
    lines = [f"{int(unknown.sum()):,} of {len(ccmax):,} neurons not shown: {said}"] if said else []
    alike = int((~unknown & ~np.isfinite(snr)).sum())
    lines += [f"{alike:,} not in the SNR: all repeats are alike"] if alike else []
    return "; ".join(lines)


def quality(
    ds: xr.Dataset, by: str | xr.DataArray | None = None, *, width_mm: float = COLUMN_MM,
    figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """Distributions of SNR and CCmax over the neurons, over all stimuli that were repeated.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    by : str or xarray.DataArray, optional
        Coordinate on neuron that the bars are divided by: ``"area"``. Of more than seven values the six with most
        neurons are shown, and the others together; more than seven numbers, such as depths, are divided at their
        quartiles.
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
        If there is no such coordinate.
    ImportError
        If matplotlib is not installed.
    """
    shown = collect(ds, by)
    with drawing(width_mm, 55 if by is None else 62, figure) as fig:
        left, right = fig.subplots(1, 2, sharey=False)
        handles = _bars(left, shown, shown.snr, shown.snr_edges)
        _bars(right, shown, shown.ccmax, shown.ccmax_edges)
        left.set_xscale("log")
        left.set_xlim(shown.snr_edges[0], shown.snr_edges[-1])
        _plain(left)
        left.set_xlabel("SNR of one repeat")
        right.set_xlim(0, 1)
        right.set_xlabel("CCmax")
        left.set_ylabel("neurons")
        if shown.note:
            fig.suptitle(shown.note, color=FAINT)
        if by is not None:
            named = [f"{n} ({(shown.group == i).sum():,})" for i, n in enumerate(shown.names)]
            legend(fig, handles, named, shown.label)
    return fig  # type: ignore[return-value]


def _bars(ax: Axes, shown: Quality, values: NDArray[Any], edges: NDArray[Any]) -> list[Any]:
    whole_numbers(ax.yaxis)
    counts = shown.counts(values, edges)
    if not counts.any():
        ax.text(0.5, 0.5, "\n".join(broken(shown.empty, 25)), ha="center", va="center",
                transform=ax.transAxes, color=FAINT)  # fmt: skip
    floor = np.zeros(len(edges) - 1)
    handles = []
    for i, row in enumerate(counts):
        colour = COLOURS[0] if len(counts) == 1 else MISSING if i >= _GROUPS - 1 else COLOURS[i]
        handles.append(ax.stairs(floor + row, edges, baseline=floor, fill=True, color=colour))
        floor = floor + row
    ax.set_ylim(0, max(1.0, 1.05 * floor.max()))
    return handles


def _plain(ax: Axes) -> None:
    """Decades as plain numbers, the lowest with what is below it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(numticks=6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"<{v:g}" if v <= _FLOOR * 1.0001 else f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
