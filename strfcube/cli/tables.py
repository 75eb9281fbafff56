"""Tables for a terminal: the columns that tell rows apart, as many as fit; what all rows share is said once above."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from strfcube.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_MOST = 22  # characters of a cell
_TIED = "\0"  # a blank at which no line is broken
_LABEL = 45  # characters of a label, which is there to be copied
# What tells rows apart to a reader comes first; the rest follows in its own order.
_FIRST = (
    *("area", "animal", "depth", "valid_unit", "sort_type", "signal_type", "electrode", "site"),
    *("stim_type", "stim_category", "stim_class", "subset", "split"),
)


def fitted(table: pd.DataFrame, last: tuple[str, ...], width: int) -> str:
    """Draw a table.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a label.
    last : tuple of str
        Columns that are always shown, on the right, if they tell rows apart.
    width : int
        Characters of a line.
    """
    same, shown = {}, []
    for name in table.columns:
        values = table[name].unique()
        if len(values) > 1:
            shown.append(name)
        elif len(values) and _text(values[0]) and (name not in last or values[0]):  # no rejected trial says nothing
            same[name] = _text(values[0])
    tail = [name for name in last if name in shown]
    shown = [name for name in shown if name not in last]
    label = str(table.index.name)
    cells = {label: [_text(v) for v in table.index]}
    cells |= {name: [_text(v) for v in table[name]] for name in [*shown, *tail]}
    shown.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    # A column that says the label again tells nothing.
    shown = [name for name in shown if cells[name] != cells[label]]
    sizes = {
        name: min(_LABEL if name == label else _MOST, max(map(len, [name, *column]))) for name, column in cells.items()
    }
    room = width - sizes[label] - sum(sizes[name] + 2 for name in tail)
    fits = []
    for name in shown:
        if sizes[name] + 2 <= room:
            fits.append(name)
            room -= sizes[name] + 2
    left_out = [name for name in shown if name not in fits]
    order = [label, *fits, *tail]
    numeric = {name for name in order if name != label and table[name].dtype.kind in "iuf"}
    rows = [_row(order, {name: name for name in order}, sizes, numeric)]
    rows += [_row(order, {name: cells[name][i] for name in order}, sizes, numeric) for i in range(len(table))]
    lines = []
    if same:
        lines += _wrapped("all: " + ", ".join(f"{name} {value}" for name, value in same.items()), width)
    lines += rows
    if left_out:
        told = ", ".join(f"{name} {_range(table[name])}".replace(" ", _TIED) for name in left_out)
        lines += [line.replace(_TIED, " ") for line in _wrapped(f"more columns, with --csv: {told}", width)]
    return "\n".join(lines)


def written(table: pd.DataFrame, last: tuple[str, ...], width: int, measured: Sequence[str], *, csv: bool) -> str:
    """A table for a program, exact, or for a terminal, as `fitted` draws it, with three digits of what was measured."""
    if csv:
        return str(table.to_csv(lineterminator="\n")).removesuffix("\n")
    return fitted(table.assign(**{n: [float(f"{v:.3g}") for v in table[n]] for n in measured}), last, width)


def sorted_by(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Rows in the order of a column, or of the labels; descending where its name has a minus before it.

    What is missing comes last.

    Raises
    ------
    UsageError
        If there is no such column.
    """
    names = [str(table.index.name), *map(str, table.columns)]
    down = key not in names and key.startswith("-")
    name = key[1:] if down else key
    if name not in names:
        more = "; with --quality, snr, ccmax and p_signal too" if names[0] == "neuron" and "snr" not in names else ""
        raise UsageError(f"--sort {key}: no such column; {did_you_mean(name, names)}there are {', '.join(names)}{more}")
    return table.sort_values(
        name, ascending=not down, kind="stable", key=lambda c: c if c.dtype.kind in "biuf" else c.astype(str)
    )


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _row(order: list[str], values: dict[str, str], sizes: dict[str, int], numeric: set[str]) -> str:
    cut = {n: v if len(v) <= sizes[n] else v[: sizes[n] - 3] + "..." for n, v in values.items()}
    return "  ".join(cut[n].rjust(sizes[n]) if n in numeric else cut[n].ljust(sizes[n]) for n in order).rstrip()


def _range(column: pd.Series[Any]) -> str:
    """What a column that is not shown holds, briefly."""
    values = column.dropna()
    if column.dtype.kind in "iuf":
        spec = ",.0f" if (values % 1 == 0).all() else ".4g"
        low, high = f"{values.min():{spec}}", f"{values.max():{spec}}"
        return f"({low} to {high})" if low != high else f"(about {low})"
    kinds = sorted({str(value) for value in values} - {""})
    listed = "|".join(kinds)
    return f"({listed})" if len(listed) <= _MOST else f"({len(kinds)} values)"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return str(value)
