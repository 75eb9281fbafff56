"""Picture of what was recorded: `coverage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.plot.figure import ACCENT, COLUMN_MM, FAINT, drawing, legend
from strfcube.analysis.plot.marks import beside, palettes, strip
from strfcube.analysis.plot.panels import AVERAGED, positions, whole_numbers
from strfcube.analysis.plot.rows import Group, Rows, along, arrange, blocks
from strfcube.cube.repeats import left
from strfcube.errors import SelectionError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

    Strips = list[tuple[str, tuple[Group, ...]]]

_OF_STIM = ("stim_dataset", "stim_type", "split")
_OF_NEURON = ("dataset", "area", "animal")


@dataclass(frozen=True, eq=False)
class Coverage:
    """Repeats of every pair, as they are drawn.

    Attributes
    ----------
    repeats : ndarray of int [shape=(neuron, stim)]
        In the order of `rows` and `columns`.
    rows, columns : Rows
        Orders of neurons and stimuli.
    stim_strips, neuron_strips : list of (str, tuple of Group)
        Data sets, classes, splits and areas along them, in this order.
    title : str
    """

    repeats: NDArray[np.int64]
    rows: Rows
    columns: Rows
    stim_strips: Strips
    neuron_strips: Strips
    title: str


def collect(ds: xr.Dataset, by: Any = None, sort: Any = None) -> Coverage:
    """What `coverage` draws; reads nothing but `n_repeats`, and knows no matplotlib.

    Parameters
    ----------
    ds, by, sort
        As for `coverage`.
    """
    on_stim = isinstance(by, str) and by in along(ds, "stim")
    if isinstance(by, str) and not on_stim and by not in along(ds, "neuron"):
        hint = did_you_mean(by, [*along(ds, "neuron"), *along(ds, "stim")])
        raise SelectionError(f"by={by!r}: no coordinate on neuron or on stim; {hint}there are on neuron: "
                             f"{', '.join(along(ds, 'neuron'))}; on stim: {', '.join(along(ds, 'stim'))}")  # fmt: skip
    rows = arrange(ds, "neuron", sort, None if on_stim else by)
    columns = arrange(ds, "stim", None, by if on_stim else None)
    repeats = left(ds).astype(np.int64).T[np.ix_(rows.order, columns.order)]
    stims = blocks(ds.isel(stim=columns.order), "stim", _OF_STIM)
    if on_stim:
        stims = [(columns.group_label, columns.groups), *((n, g) for n, g in stims if n != columns.group_label)]
    neurons = [] if rows.groups else blocks(ds.isel(neuron=rows.order), "neuron", _OF_NEURON)[:2]
    pairs = int((repeats > 0).sum())
    share = f"{pairs:,} of {repeats.size:,} pairs, {100 * pairs / max(1, repeats.size):.4g} %"
    name = str(ds.attrs.get("dataset", ""))
    return Coverage(repeats, rows, columns, stims, neurons, f"{name}: {share}" if name else share)


def coverage(
    ds: xr.Dataset, by: str | xr.DataArray | None = None, sort: str | xr.DataArray | None = None, *,
    width_mm: float = COLUMN_MM, ax: Axes | None = None, figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """How many repeats every neuron has of every stimulus, in the order of the cube.

    Strips along the map show where data sets, classes of stimuli, splits, areas and animals begin and end, each in
    colours of its own. Ticks count positions in the cube.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    by : str, optional
        Coordinate on neuron or on stim that its rows or columns are put into groups by.
    sort : str or xarray.DataArray, optional
        Coordinate on neuron, or values of your own, that the rows are sorted by; with a minus before its name the
        largest comes first.
    width_mm : float
        Width of the figure, as it is to be printed.
    ax, figure : optional
        Draw in these axes, without the strips, or in this figure.

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
    shown = collect(ds, by, sort)
    with drawing(width_mm, 90, figure, ax) as fig:
        if ax is not None:
            _map(ax, shown)
            ax.set_title(shown.title)
        else:
            _with_strips(fig, shown)
    return fig  # type: ignore[return-value]


def _with_strips(figure: Any, shown: Coverage) -> None:
    above, beside_it = len(shown.stim_strips), len(shown.neuron_strips)
    grid = figure.add_gridspec(
        above + 1, beside_it + 1, height_ratios=[0.045] * above + [1], width_ratios=[1] + [0.045] * beside_it
    )
    panel = figure.add_subplot(grid[above, 0])
    strips = [figure.add_subplot(grid[i, 0]) for i in range(above)]
    upright = [figure.add_subplot(grid[above, 1 + i]) for i in range(beside_it)]
    _map(panel, shown)
    figure.suptitle(shown.title)
    unnamed: list[tuple[str, str, str]] = []
    colours = iter(palettes([*shown.stim_strips, *shown.neuron_strips]))
    for axes, drawn, vertical in ((strips, shown.stim_strips, False), (upright, shown.neuron_strips, True)):
        for i, (ax, (label, groups)) in enumerate(zip(axes, drawn, strict=True)):
            own = next(colours)
            unnamed += [(label, name, own[name]) for name in strip(ax, groups, label, vertical, own)]
            for g in groups[1:] if i == 0 else ():
                line = panel.axhline if vertical else panel.axvline
                line(g.start - 0.5, color=ACCENT, lw=0.4)
    if unnamed:
        from matplotlib.patches import Patch

        one = len({label for label, _, _ in unnamed}) == 1
        names = [name if one else f"{label}: {name}" for label, name, _ in unnamed]
        legend(figure, [Patch(color=colour) for _, _, colour in unnamed], names, unnamed[0][0] if one else "")


def _map(ax: Axes, shown: Coverage) -> None:
    neurons, stims = shown.repeats.shape
    most = int(shown.repeats.max(initial=1))
    image = ax.imshow(
        np.where(shown.repeats > 0, shown.repeats, np.nan), aspect="auto", cmap="cividis_r", vmin=0, vmax=most,
        origin="upper", interpolation="auto" if max(neurons, stims) > AVERAGED else "nearest",
        interpolation_stage="rgba",
    )  # fmt: skip
    how = f", sorted by {shown.rows.sorted_by}" if shown.rows.sorted_by and shown.rows.group_label else ""
    place = ", by its position in the cube"
    ax.set_xlabel(f"stimulus ({stims:,}){place if positions(ax.xaxis, shown.columns.order) else ''}")
    ax.set_ylabel(f"neuron ({neurons:,}){place if positions(ax.yaxis, shown.rows.order) else ''}{how}")
    for side in ax.spines.values():
        side.set_visible(True)
        side.set_color(FAINT)
    bar = ax.figure.colorbar(image, ax=ax, location="bottom", aspect=40, pad=0.01)
    bar.set_label("repeats (white: never presented)")
    bar.outline.set_linewidth(0.6)
    whole_numbers(bar.ax.xaxis, 6)
    beside(ax, shown.rows, ACCENT)
