"""What a pipeline reported, in words: findings of one kind are told once, with their number and an example."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

SEVERITIES = {"error": "errors", "warning": "warnings", "info": "notes"}  # the most serious first
_PARTICULAR = re.compile(
    r"'[^']*'|\"[^\"]*\"|\S*[0-9]\S*|\S+\.\w{2,5}\b"
)  # names and numbers: what differs within a kind


@dataclass(frozen=True)
class Kind:
    """Findings that say the same of different places.

    Attributes
    ----------
    severity : str
        One of `SEVERITIES`.
    count : int
        How many there are.
    place, what, consequence : str
        Of the first of them.
    """

    severity: str
    count: int
    place: str
    what: str
    consequence: str


def kinds(table: xr.Dataset) -> list[Kind]:
    """Findings by kind, the most serious and the most frequent first.

    Parameters
    ----------
    table : xarray.Dataset
        The group ``findings`` of a cube.
    """
    return [kind for kind, _ in grouped(table)]


def grouped(table: xr.Dataset) -> list[tuple[Kind, list[int]]]:
    """The same with the rows of the table that are of each kind."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    columns = {n: [str(v) for v in table[n].values] for n in ("severity", "file", "what", "consequence")}
    line = table["line"].values.tolist()
    for i in range(table.sizes["finding"]):
        what, consequence = (_PARTICULAR.sub("*", columns[n][i]) for n in ("what", "consequence"))
        key = (columns["severity"][i], what, consequence)
        groups.setdefault(key, []).append(i)
    found = []
    for (severity, _, _), rows in groups.items():
        i = rows[0]
        place = columns["file"][i] + (f", line {line[i]}" if line[i] else "")
        found.append((Kind(severity, len(rows), place, columns["what"][i], columns["consequence"][i]), rows))
    return sorted(found, key=lambda each: (list(SEVERITIES).index(each[0].severity), -each[0].count))


def told(table: xr.Dataset, width: int, *, path: str, every: bool = False) -> list[str]:
    """Lines for a terminal; none where there are no findings.

    Parameters
    ----------
    table : xarray.Dataset
        The group ``findings`` of a cube.
    width : int
        Characters of a line.
    path : str
        The cube, for the command that tells each of them.
    every : bool
        Tell each finding instead of each kind.
    """
    numbers = Counter(str(s) for s in table["severity"].values)
    shown = [f"{numbers[s]:,} {s if s != 'info' else 'note'}" if numbers[s] == 1 else f"{numbers[s]:,} {many}"
             for s, many in SEVERITIES.items() if numbers[s]]  # fmt: skip
    if not shown:
        return []
    singles = (kinds(table.isel(finding=[i]))[0] for i in range(table.sizes["finding"]))
    listed = sorted(singles, key=lambda kind: list(SEVERITIES).index(kind.severity)) if every else kinds(table)
    lines = [f"findings in the raw files: {', '.join(shown)}"]
    for kind in listed:
        text = f"{kind.what}; {kind.consequence}"
        if kind.count > 1:
            text = f"{kind.count:,} times: {text}"
            text += f" (such as {kind.place})" if kind.place else ""
        elif kind.place:
            text = f"{kind.place}: {text}"
        lines += textwrap.wrap(f"{kind.severity}: {text}", width, initial_indent="  ", subsequent_indent="    ",
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    if any(kind.count > 1 for kind in listed):
        command = f"strfcube inspect {shlex.quote(path)} --findings"
        fits = len(command) + 21 <= width  # never broken, so that it can be copied
        lines += [f"  every one of them: {command}"] if fits else ["  every one of them:", f"    {command}"]
    return lines
