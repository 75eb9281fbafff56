"""Where a picture is drawn: a figure of its own, at the size that a journal prints, or one that is handed in.

A figure of its own is one column of a journal wide (85 mm) or two (170 mm), with texts of 6 and 7 points, so that it is
read as it is printed. What would run over the edge is set in several lines.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.text import Text

COLUMN_MM, PAGE_MM = 85.0, 170.0
INK, ACCENT, FAINT, MISSING = "#1a1a1a", "#d55e00", "#8c8c8c", "#c4c4c4"
# Okabe and Ito's eight colours, which can be told apart with any colour vision (jfly.uni-koeln.de/color), and four more
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000", "#882255", "#999999",
           "#44aa99", "#ddcc77")  # fmt: skip
_SMALL = 6
_STYLE = {
    "font.size": 7, "axes.labelsize": 7, "axes.titlesize": 7, "figure.titlesize": 7, "figure.labelsize": 7,
    "legend.fontsize": _SMALL,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.titlepad": 3,
    "axes.labelpad": 2, "lines.linewidth": 0.8, "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02, "figure.constrained_layout.hspace": 0.02,
    "figure.constrained_layout.wspace": 0.01,
}  # fmt: skip
_WIDEST_MM = 2000.0
_TICK_MM = 7.0  # of a number and the space beside it
_FEWEST = 4  # letters of a line


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ImportError("plots need matplotlib: pip install 'strfcube[plot]'") from error
    return matplotlib


@contextmanager
def drawing(
    width_mm: float, height_mm: float, figure: FigureBase | None = None, ax: Axes | None = None
) -> Iterator[FigureBase]:
    """A figure to draw in; at the end its texts are made to fit.

    Parameters
    ----------
    width_mm, height_mm : float
        Size of a figure of its own.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Draw in this one, at its size and in the style of the caller.
    ax : matplotlib.axes.Axes, optional
        Draw in this one.

    Raises
    ------
    UsageError
        If both are given, or one is something else, or a size is none.
    ImportError
        If matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    if figure is not None and ax is not None:
        raise UsageError("give ax= or figure=, not both")
    for name, given, kind in (("figure", figure, FigureBase), ("ax", ax, Axes)):
        if given is not None and not isinstance(given, kind):
            raise UsageError(f"{name}={given!r}: expected a matplotlib {kind.__name__.removesuffix('Base')}")
    if not _size(width_mm):
        raise UsageError(f"width_mm={width_mm!r}: expected a width in mm, 20 to {_WIDEST_MM:g}; a column is 85")
    own = figure is None and ax is None
    with matplotlib.rc_context(_STYLE if own else {}):
        if ax is not None:
            into: FigureBase = ax.figure
        elif figure is not None:
            into = figure
            if isinstance(into, Figure) and into.get_layout_engine() is None and not into.axes:
                into.set_layout_engine("constrained")
        else:
            from strfcube.analysis.plot.picture import Picture

            into = Picture(figsize=(width_mm / 25.4, height_mm / 25.4), dpi=200, layout="constrained")
        before = set() if ax is None else set(_axes(into)) - {ax}
        yield into
        new = [a for a in _axes(into) if a not in before]
        if own:
            for each in new:
                each.tick_params(which="both", labelsize=_SMALL, width=0.6, length=2, pad=2)
        _fit(into, new)


def _axes(figure: FigureBase) -> list[Axes]:
    axes: Any = figure.axes
    return list(axes)


def _size(width_mm: Any) -> bool:
    known = isinstance(width_mm, int | float) and not isinstance(width_mm, bool)
    return known and math.isfinite(width_mm) and 20 <= width_mm <= _WIDEST_MM


def root(figure: FigureBase) -> Figure:
    """The whole figure that a part of one belongs to."""
    while figure.figure is not figure:
        figure = figure.figure
    return figure  # type: ignore[return-value]


def settle(figure: FigureBase) -> None:
    """Lay a figure out, so that the sizes of its parts are known; cheaper than to draw it."""
    whole = root(figure)
    engine = whole.get_layout_engine()
    if engine is not None:
        engine.execute(whole)


def legend(figure: FigureBase, handles: Sequence[Any], names: Sequence[str], title: str = "") -> None:
    """Names of colours below the panels, in as many columns as the width has room for."""
    for columns in range(min(4, len(names)), 0, -1):
        drawn = figure.legend(handles, names, loc="outside lower center", title=title or None, ncols=columns,
                              frameon=False, handlelength=1, columnspacing=1)  # fmt: skip
        settle(figure)
        if columns == 1 or drawn.get_window_extent().width <= _page(figure).width:
            return
        drawn.remove()


def _page(figure: FigureBase) -> Any:
    return figure.bbox  # type: ignore[attr-defined]


def _fit(figure: FigureBase, axes: Sequence[Axes]) -> None:
    """Set texts that are longer than what they stand beside in several lines."""
    whole: dict[Text, str] = {}
    for _ in range(2):  # lines take room themselves, and leave less for others
        settle(figure)
        for ax in axes:
            box = ax.get_window_extent()
            _thin(ax, box.width / root(figure).dpi * 25.4)
            for text in (ax.title, ax._right_title, ax.xaxis.label):  # type: ignore[attr-defined]
                _wrap(text, whole.setdefault(text, text.get_text()), box.width * 0.96, upright=False)
            label = ax.yaxis.label
            _wrap(label, whole.setdefault(label, label.get_text()), box.height, upright=True)
        around = ((figure._suptitle, False), (figure._supxlabel, False), (figure._supylabel, True))  # type: ignore[attr-defined]
        page = _page(figure)
        for text, upright in around:
            if text is not None:
                room = (page.height if upright else page.width) * 0.98
                _wrap(text, whole.setdefault(text, text.get_text()), room, upright=upright)


def _thin(ax: Axes, width_mm: float) -> None:
    """No more ticks along time than their numbers have room for."""
    from matplotlib.ticker import MaxNLocator

    locator = ax.xaxis.get_major_locator()
    if type(locator) is MaxNLocator:
        locator.set_params(nbins=max(1, min(6, int(width_mm / _TICK_MM))))


def _wrap(text: Text, words: str, room: float, *, upright: bool) -> None:
    """Break words into as few lines as fit, as they are measured: letters differ in width; lines of like length."""
    text.set_text(words)
    if not words.strip() or room <= 0:
        return

    def length() -> float:
        box = text.get_window_extent()
        return float(box.height if upright else box.width)

    found, width = length(), max(map(len, words.splitlines()))
    while found > room and width > _FEWEST:
        width = max(_FEWEST, min(width - 1, int(width * room / found)))
        text.set_text("\n".join(broken(words, width)))
        found = length()
    lines = text.get_text().count("\n")
    if lines == words.count("\n"):
        return
    while width > _FEWEST and len(closer := broken(words, width - 1)) == lines + 1:
        width -= 1
        text.set_text("\n".join(closer))


def broken(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` letters: broken at spaces, within a long word after a mark, else anywhere."""
    lines = []
    for line in text.splitlines():
        part = ""
        for word in line.split(" "):
            joined = f"{part} {word}" if part else word
            if len(joined) <= width:
                part = joined
                continue
            if part:
                lines.append(part)
            *full, part = _pieces(word, width)
            lines += full
        lines.append(part)
    return lines


def _pieces(word: str, width: int) -> list[str]:
    pieces = [""]
    for bit in re.findall(r"[^/_.,:-]*[/_.,:-]*", word):
        for cut in [bit[i : i + width] for i in range(0, len(bit), width)]:
            if len(pieces[-1] + cut) > width:
                pieces.append("")
            pieces[-1] += cut
    return pieces
