"""AA2 (CRCNS aa-2): single units of the auditory midbrain, thalamus and forebrain of the anaesthetised zebra finch.

What it is
    494 cells of 57 male zebra finches in MLd, OV, field L (L, L1, L2a, L2b, L3) and CM, or in an area not identified.
    Each heard its own list out of 72 conspecific songs, 20 modulation-limited noises (``flatrip``) and 25 noises with
    the modulation spectrum of song (``songrip``), of up to 2.6 s, 10 to 20 times: 18,902 of 57,798 pairs, 245,454
    trials.
Data and papers
    doi 10.6080/K0JW8BSC; Gill et al. 2006 (10.1007/s10827-006-7059-4), Amin, Gill & Theunissen 2010
    (10.1152/jn.00128.2010)
Licence
    CRCNS terms: scientific use, no redistribution; name the contributors and crcns.org, cite the papers. Ask the
    experimenters, S. Woolley and T. Fremouw, before a study.

The raw folder holds, wrapped in ``crcns/aa2`` or not, the three archives in one folder or in one each::

    all_stims/<MD5>.wav                         32 kHz, 16 bit, mono; named by the MD5 of the whole file
    all_cells/<cell>/<class>/stim<k>, spike<k>  text (strfcube/pipelines/crcns.py)
    cell_regions.csv                            cell, region; no table has a header
    cell_stim_classes.csv                       cell, class, ...
    stim_data.csv                               wav, rate in Hz, bits, number of samples, class

What to know about it
    * A stimulus is a wav as a class: 12 wavs were played both as song and as songrip. ``stim`` is ``<class>/<MD5>``.
    * A neuron is its cell folder, ``<bird>_<n>[_<rig>]``.
    * 32 class folders name a wav under two numbers: its trials are pooled. In ``oo1220_6_B`` some stim files lack their
      spike files, and the other way round.
    * 40 of the 145 wavs are played to no cell.
    * Spikes from 2 s before the sound to 4 s after its onset are in the files; no file states what was recorded, and of
      some cells nothing before the sound is there: windows begin at NaN and end at 4 s, and later bins (``--post``) are
      missing.
    * Areas come from ``cell_regions.csv`` alone; ``stim_data.csv`` is needed only for wavs that are absent.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, ClassVar

from strfcube import limits
from strfcube.pipelines.raw_folder import find_member, listing, packed, plain
from strfcube.pipelines.text_pipeline import Cell, Stated, TextTrials
from strfcube.pipelines.text_trials import usual_name
from strfcube.records import Finding, Report, Severity, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class AA2(TextTrials):
    """Reads CRCNS aa-2."""

    files: ClassVar[tuple[str, ...]] = ("*.wav", "stim*", "spike*", "*.csv")
    marks: ClassVar[tuple[str, ...]] = ("all_cells",)

    def cells(self, root: Path, report: Report) -> list[Cell]:
        """List the cell folders in the order of their names, with the areas of ``cell_regions.csv``."""
        table = find_member(self.raw, root, "cell_regions.csv")
        regions: dict[str, tuple[str, int]] = {}
        for line, row in self._rows(table, 2, report, "the area of every cell is unknown"):
            if row[0] in regions:
                what = f"{row[0]} is named on line {regions[row[0]][1]} already"
                report(Finding("warning", self.relative(table), what, "the first line counts", line))
            else:
                regions[row[0]] = (row[1], line)
        cells = []
        named = bool(regions)
        for name in listing(root / "all_cells")[0]:
            folder = self.relative(root / "all_cells" / name)
            label, line = regions.pop(name, ("", 0))
            if line and not label:
                report(Finding("warning", self.relative(table), f"no region of {name}", "its area is unknown", line))
            if not line and named:
                report(Finding("warning", folder, f"{table.name} does not name the cell", "its area is unknown"))
            cells.append(self.located(name, folder, label, report, self.relative(table), line))
        if regions:
            lacking = counted(len(regions), "cell has", "cells have")
            what = f"{lacking} no folder, the first on this line: {next(iter(regions))}"
            line = min(line for _, line in regions.values())
            report(Finding("warning", self.relative(table), what, "the cube lacks them", line))
        self._check_classes(root, cells, report)
        return cells

    def stimulus_ids(self, wav: str, played: Mapping[str, str], report: Report) -> dict[str, tuple[str, str]]:
        """Give a wav one identity for each class it is played as."""
        return {word: (f"{word}/{wav[:-4]}", word) for word in played}

    def table(self, root: Path, report: Report) -> Mapping[str, Stated]:
        """Read the lengths of ``stim_data.csv``: file name, rate, bit depth, number of samples, class."""
        path = find_member(self.raw, root, "stim_data.csv")
        file = self.relative(path)
        stated = {}
        for line, row in self._rows(path, 4, report):
            try:
                entry = Stated(int(plain(row[3])), float(plain(row[1])), file, line)
                possible = 0 < entry.samples <= limits.SECONDS * entry.rate and 0 < entry.rate < 1e7
                if not (possible and row[0].lower().endswith(".wav")):
                    raise ValueError(row)
            except ValueError:
                what = f"expected a wav, its rate in Hz, bits and number of samples, found {','.join(row)[:60]!r}"
                report(Finding("warning", file, what, "the line is not used", line))
            else:
                stated[usual_name(row[0])] = entry
        return stated

    def _check_classes(self, root: Path, cells: Sequence[Cell], report: Report) -> None:
        """Report where ``cell_stim_classes.csv`` and the class folders of a cell disagree."""
        path = find_member(self.raw, root, "cell_stim_classes.csv")
        stated = {row[0]: (set(row[1:]) - {""}, line) for line, row in self._rows(path, 2, report)}
        for cell in cells:
            heard, line = stated.get(cell.name, (set(), 0))
            there = set(listing(self.raw / cell.folder)[0])
            if line and heard != there:
                what = f"{cell.name}: stated {', '.join(sorted(heard))}; there are {', '.join(sorted(there)) or 'none'}"
                report(Finding("warning", self.relative(path), what, "the folders are read as they are", line))

    def _rows(self, path: Path, width: int, report: Report, lost: str = "") -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of each line of a table, one at a time; what is too short is reported.

        `lost` is what a cube without the table lacks, where that is more than it can do without.
        """
        if not path.is_file():
            severity: Severity = "warning" if lost else "info"
            what = f"the table is not there{packed(self.raw)}"
            report(Finding(severity, self.relative(path), what, lost or "what only it states is unknown"))
            return
        line, usable = "\n", 0
        short: list[tuple[int, str]] = []
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            reader = csv.reader(((line := each).replace("\0", "?") for each in lines), skipinitialspace=True)
            try:
                for row in reader:
                    fields = [field.strip() for field in row]
                    if len(fields) >= width and fields[0]:
                        usable += 1
                        yield reader.line_num, fields
                    elif any(fields):
                        short.append((reader.line_num, ",".join(fields)[:40]))
            except csv.Error as error:  # a quote that nothing closes
                what = f"expected a table with commas: {error}"
                report(Finding("error", self.relative(path), what, "the rest is not used", reader.line_num))
        expected = f"at least {width} fields with commas between them"
        if not usable:
            number, text = short[0] if short else (0, "")
            what = f"expected lines of {expected}, found none; the first is {text!r}" if short else "the table is empty"
            report(Finding("warning", self.relative(path), what, lost or "what only it states is unknown", number))
        for number, text in short if usable else ():
            what = f"expected {expected}, found {text!r}"
            report(Finding("warning", self.relative(path), what, "the line is not used", number))
        if not line.endswith(("\n", "\r")):
            what = f"the table ends within a line, {line[-40:].strip()!r}: it may be cut short"
            report(Finding("warning", self.relative(path), what, "the line is read as it is", reader.line_num))
