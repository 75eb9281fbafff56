"""The panels that pictures are put together from: a spectrogram, a raster, a PSTH, drawn into axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.plot.figure import ACCENT, FAINT, INK, MISSING
from strfcube.analysis.plot.levels import limits_of
from strfcube.analysis.plot.pair import frequency_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from strfcube.analysis.plot.levels import Limits
    from strfcube.analysis.plot.pair import Pair, Raster, Sound

TIME = "time from stimulus onset (s)"
AVERAGED = 300  # so many rows have fewer pixels than lines: neighbours are averaged rather than left out


def whole_numbers(axis: Any, most: int = 5) -> None:
    """Ticks of an axis at whole numbers only, also where there is room for a single one."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))


def positions(axis: Any, order: NDArray[np.intp], most: int = 6) -> bool:
    """Ticks of rows or columns that say where each stands in the cube; whether that is another place than here."""
    moved = not np.array_equal(order, np.arange(len(order)))
    if moved:
        at = np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
        axis.set_ticks(at, [str(order[i]) for i in at])
    else:
        whole_numbers(axis, most)
    return moved


def few(axis: Any, most: int = 4) -> None:
    """Round ticks, no more than a small panel has room for."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most))


def spectrogram(
    ax: Axes, sound: Sound, cax: Axes | None = None, limits: Limits | None = None, bar: bool = True
) -> None:
    """Bands from below, in kHz, and the scale of their level beside it, or none of it."""
    ax.set_xlim(sound.edges[0], sound.edges[-1])
    if sound.level is None:
        ax.text(0.5, 0.5, "no spectrogram", ha="center", va="center", transform=ax.transAxes, color=FAINT)
        ax.set_yticks([])
        if cax is not None:
            cax.axis("off")
        return
    rows = np.arange(len(sound.level) + 1) - 0.5
    from matplotlib.colors import PowerNorm

    scale = limits or limits_of([sound.level], sound.units)
    norm = PowerNorm(1 / scale.root, scale.low, scale.high)
    image = ax.pcolormesh(sound.edges, rows, sound.level, cmap="magma", norm=norm, rasterized=True)
    ax.set_yticks(*frequency_ticks(sound.frequency))
    if bar:
        beside = {"cax": cax} if cax is not None else {"ax": ax, "aspect": 12, "pad": 0.01}
        drawn = ax.figure.colorbar(image, extend="min" if scale.below else "neither", **beside)
        drawn.set_label(sound.level_label)
        drawn.outline.set_linewidth(0.6)
        few(drawn.ax.yaxis)


def raster(ax: Axes, drawn: Raster) -> None:
    """One row a repeat, the first on top; grey where a repeat was not recorded; traces where it is a potential."""
    if drawn.traces is not None:
        return
    thin = 0.7 if len(drawn.times) < 2000 else 0.4
    ax.vlines(drawn.times, drawn.row + 0.6, drawn.row + 1.4, color=INK, lw=thin)
    for i, start, stop in drawn.missing:
        ax.fill_between([start, stop], i + 0.5, i + 1.5, color=MISSING, lw=0, zorder=0.5)
    ax.set_ylim(drawn.rows + 0.7, 0.3)
    whole_numbers(ax.yaxis)
    if not drawn.exact:
        ax.set_title("no exact times: one tick a bin", loc="right", fontsize="small", color=FAINT)


def traces(ax: Axes, pair: Pair) -> None:
    """Every repeat of a membrane potential."""
    values = pair.raster.traces
    if values is not None:
        middle = (pair.sound.edges[:-1] + pair.sound.edges[1:]) / 2
        ax.plot(middle, values.T, lw=0.5, color=INK, alpha=max(0.25, 1 / len(values)))
        few(ax.yaxis)


def step(ax: Axes, edges: NDArray[Any], values: NDArray[Any], colour: str = INK, **kwargs: Any) -> None:
    """A PSTH: one level a bin, with a gap where nothing was observed."""
    ax.stairs(values, edges, baseline=None, color=colour, **({"lw": 0.6} | kwargs))


def onset_marks(ax: Axes, sound: Sound, span: tuple[float, float]) -> None:
    """Dashed lines where the sound begins and ends, if these lie within what is drawn."""
    for moment in sorted(set(sound.span)):
        if span[0] + 1e-9 < moment < span[1] - 1e-9:
            ax.axvline(moment, color=ACCENT, lw=0.6, ls="--", zorder=0)


def stack(figure: Any, pairs: list[Pair], titles: list[str]) -> None:
    """Stimulus, repeats and PSTH one above the other, a column a pair, on one scale of time, level and rate."""
    spans = [p.raster.span for p in pairs]
    heard = [p.sound for p in pairs if p.sound.level is not None]
    limits = limits_of([level for s in heard if (level := s.level) is not None], heard[0].units) if heard else None
    widths = [b - a for a, b in spans]
    grid = figure.add_gridspec(
        3, len(pairs) + 1, width_ratios=[*widths, 0.03 * sum(widths)], height_ratios=[1.1, 1, 0.9]
    )
    tops = [figure.add_subplot(grid[0, i]) for i in range(len(pairs))]
    cax = figure.add_subplot(grid[0, len(pairs)])
    with_level = [p.sound.level is not None for p in pairs]
    scaled = with_level.index(True) if any(with_level) else 0
    for i, (ax, p) in enumerate(zip(tops, pairs, strict=True)):
        spectrogram(ax, p.sound, cax if i == scaled else None, limits, bar=i == scaled)
        ax.set_title(titles[i])
    middles = [figure.add_subplot(grid[1, i], sharex=tops[i]) for i in range(len(pairs))]
    bottoms: list[Any] = []
    for i in range(len(pairs)):
        bottoms.append(figure.add_subplot(grid[2, i], sharex=tops[i], sharey=bottoms[0] if bottoms else None))
    trace = pairs[0].unit == "mV"
    most = max(p.raster.rows for p in pairs)
    for p, top, middle, bottom, span in zip(pairs, tops, middles, bottoms, spans, strict=True):
        if trace:
            traces(middle, p)
        else:
            raster(middle, p.raster)
            middle.set_ylim(most + 0.7, 0.3)
        step(bottom, p.sound.edges, p.rate)
        bottom.set_title(
            p.repeats if len(pairs) > 1 else f"{p.repeats}, {p.smoothed}", loc="right", fontsize="small", color=FAINT
        )
        few(bottom.yaxis)
        few(bottom.xaxis, 6 if len(pairs) == 1 else 4)
        bottom.set_xlim(span)
        for ax in (middle, bottom):
            onset_marks(ax, p.sound, span)
        for ax in (top, middle):
            ax.tick_params(labelbottom=False)
        if p is not pairs[0]:
            for ax in (middle, bottom):
                ax.tick_params(labelleft=False)
            if p.sound.level is not None and pairs[0].sound.level is not None:
                top.tick_params(labelleft=False)
    if trace:
        low = min(ax.get_ylim()[0] for ax in middles)
        high = max(ax.get_ylim()[1] for ax in middles)
        for ax in middles:
            ax.set_ylim(low, high)
    else:
        bottoms[0].set_ylim(bottom=0)
    tops[0].set_ylabel("frequency (kHz)")
    middles[0].set_ylabel("each repeat (mV)" if trace else "repeat")
    bottoms[0].set_ylabel("mean potential (mV)" if trace else "firing rate (spikes/s)")
    if len(pairs) == 1:
        bottoms[0].set_xlabel(TIME)
    else:
        figure.supxlabel(f"{TIME}; {pairs[0].smoothed}")
    figure.align_ylabels([tops[0], middles[0], bottoms[0]])
