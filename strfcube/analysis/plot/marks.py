"""What is drawn beside a map with a row a neuron: boundaries of groups, their names, and what rows are sorted by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from strfcube.analysis.plot.figure import COLOURS, FAINT, INK, root, settle
from strfcube.analysis.plot.rows import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from strfcube.analysis.plot.rows import Group, Rows

_LINES = 60  # between groups, which would hide the map if there were more
_LINE_MM = 2.6  # of a line of text of 6 points, and a little air


def length_mm(ax: Axes, side: str) -> float:
    """Height or width of axes, in mm, once they are laid out."""
    settle(ax.figure)
    box = ax.get_window_extent()
    return float((box.height if side == "height" else box.width) / root(ax.figure).dpi * 25.4)


def beside(ax: Axes, rows: Rows, colour: str) -> None:
    """Boundaries across the map, and names or numbers on its right.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        With a row of height 1 around each whole number.
    rows : Rows
    colour : str
        Of the boundaries.
    """
    total = len(rows.order)
    for edge in [g.start for g in rows.groups[1:]] if len(rows.groups) <= _LINES else []:
        ax.axhline(edge - 0.5, color=colour, lw=0.5)
    for edge, _ in rows.marks:
        ax.axhline(edge - 0.5, color=colour, lw=0.8)
    if rows.groups:
        _right(ax, *_named(rows.groups, total, room(ax)), rows.group_label, len(rows.groups))
    elif rows.marks:
        _right(ax, [e - 0.5 for e, _ in rows.marks], [t for _, t in rows.marks], rows.sorted_by, len(rows.marks))
    elif rows.values is not None:
        known = np.flatnonzero(np.isfinite(rows.values))
        at = (
            known[np.unique(np.linspace(0, len(known) - 1, min(6, len(known))).round().astype(int))]
            if len(known)
            else []
        )
        _right(ax, list(at), [number(rows.values[i]) for i in at], rows.sorted_by, len(at))


def room(ax: Axes) -> int:
    """Lines of text that fit beside axes."""
    return max(1, int(length_mm(ax, "height") / _LINE_MM))


def _named(groups: tuple[Group, ...], total: int, lines: int) -> tuple[list[float], list[str]]:
    """Names at the middles of groups, none nearer to another than a line of text."""
    places: list[float] = []
    names: list[str] = []
    for group in groups:
        middle = group.start + (group.size - 1) / 2
        if not places or middle - places[-1] >= total / lines:
            places.append(middle)
            names.append(f"{group.name} ({group.size:,})")
    return places, names


def _right(ax: Axes, places: list[float], names: list[str], label: str, total: int) -> None:
    right = ax.secondary_yaxis("right")
    right.set_yticks(places, names)
    right.tick_params(length=2 if total == len(places) and "(" not in "".join(names) else 0, labelsize=6, pad=1)
    right.set_ylabel(label + (f", {total - len(names)} not named" if total > len(names) else ""))
    right.spines["right"].set_visible(False)


def strip(ax: Axes, groups: tuple[Group, ...], label: str, upright: bool, colours: dict[str, str]) -> list[str]:
    """Runs as a strip of colours, named where there is room; gives the names that had none."""
    from matplotlib.patches import Rectangle

    total = groups[-1].start + groups[-1].size
    (ax.set_ylim if upright else ax.set_xlim)(*((total - 0.5, -0.5) if upright else (-0.5, total - 0.5)))
    (ax.set_xlim if upright else ax.set_ylim)(0, 1)
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    mm = length_mm(ax, "height" if upright else "width") / total
    named = set()
    for g in groups:
        corner, size = ((0, g.start - 0.5), (1, g.size)) if upright else ((g.start - 0.5, 0), (g.size, 1))
        ax.add_patch(Rectangle(corner, *size, color=colours[g.name], lw=0))
        if g.size * mm >= 1.3 * len(g.name) + 1:
            middle = g.start + (g.size - 1) / 2
            x, y = (0.5, middle) if upright else (middle, 0.5)
            ax.text(x, y, g.name, ha="center", va="center", fontsize=5.5, rotation=90 if upright else 0,
                    rotation_mode="anchor", color=_on(colours[g.name]))  # fmt: skip
            named.add(g.name)
    if upright:
        ax.set_xlabel(label, fontsize=5.5, rotation=90, color=FAINT)
    else:
        ax.set_ylabel(label, fontsize=5.5, rotation=0, ha="right", va="center", color=FAINT)
    return [n for n in dict.fromkeys(g.name for g in groups) if n not in named]


def _on(colour: str) -> str:
    """Ink or paper, whichever is read better on a colour."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * r + 0.587 * g + 0.114 * b > 130 else "#ffffff"


def palettes(strips: Sequence[tuple[str, tuple[Group, ...]]]) -> list[dict[str, str]]:
    """A colour for each name of each strip, another for each of them; paler ones where `COLOURS` are used up."""
    found: list[dict[str, str]] = []
    first = 0
    every = [*COLOURS, *(_paler(c, 0.5) for c in COLOURS), *(_paler(c, 0.75) for c in COLOURS)]
    for _, groups in strips:
        names = list(dict.fromkeys(g.name for g in groups))
        found.append({name: every[(first + i) % len(every)] for i, name in enumerate(names)})
        first += len(names)
    return found


def _paler(colour: str, share: float) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(p + (255 - p) * share):02x}" for p in parts)
