"""AA1 (CRCNS aa-1): single units in the auditory midbrain and forebrain of the anaesthetised zebra finch.

What it is
    100 cells of adult male zebra finches, 50 in field L and 50 in MLd, that heard 20 conspecific songs and 10
    modulation-limited noises (``flatrip``, 250 Hz to 8 kHz) of up to 2.5 s, about 10 times each. Two cells heard no
    song (pipu1018_2_A and pipu1018_2_B): 2,960 of 3,000 pairs.
Data and papers
    doi 10.6080/K0F769GP; Woolley et al. 2005 (10.1038/nn1536), Hsu et al. 2004 (10.1523/JNEUROSCI.2449-04.2004), Singh
    & Theunissen 2003 (10.1121/1.1624067)
Licence
    CRCNS terms: scientific use, no redistribution; name the contributors and crcns.org, cite the papers.

The raw folder holds, in one wrapping folder or in none::

    all_stims/[<class>/]<MD5>.wav                   32 kHz, 16 bit, mono; named by the MD5 of the whole file
    Field_L_cells/<cell>/<class>/stim<k>, spike<k>  text (strfcube/pipelines/crcns.py)
    MLd_cells/<cell>/<class>/stim<k>, spike<k>

What to know about it
    * A stimulus is its wav: ``stim`` is the name of the wav without its ending.
    * A neuron is its cell folder, ``<bird>_<n>[_<rig>]``. 4_A and 4_B of one bird were recorded at the same time.
    * The texts have it that 10 sounds are songs and 20 noises; the files say the reverse.
    * Spikes from 2 s before the sound to 4 s after its onset are in the files; no file states what was recorded, and of
      some cells nothing before the sound is there: windows begin at NaN and end at 4 s.
    * Many of these recordings are in aa-2 too, under the same names: match ``cell_id`` and ``md5``.
    * A file ``about.json`` beside the cell folders, which the published set lacks, says what the cells are instead. The
      simulated birds of `strfcube.simulate` come in this layout, and must not pass for real ones. Its key
      ``recorded_after`` is the time recorded after the end of each sound, in s; without it, none is stated.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, ClassVar

from strfcube.pipelines.raw_folder import listing
from strfcube.pipelines.text_pipeline import Cell, TextTrials
from strfcube.records import Finding, Report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from strfcube.records import Stimulus

_SUFFIX = "_cells"
_AA2 = "all_cells"  # those of aa-2, unpacked into the same folder


class AA1(TextTrials):
    """Reads CRCNS aa-1, and the demo, which is written in its layout."""

    files: ClassVar[tuple[str, ...]] = ("*.wav", "stim*", "spike*", "about.json")
    marks: ClassVar[tuple[str, ...]] = ("Field_L_cells", "MLd_cells")

    def cells(self, root: Path, report: Report) -> list[Cell]:
        """List the cell folders of each area in the order of their names."""
        areas = [folder for folder in listing(root)[0] if folder.endswith(_SUFFIX) and folder != _AA2]
        cells: dict[str, Cell] = {}
        spelled = {area.lower() for area in areas}
        for area in sorted([*areas, *(mark for mark in self.marks if mark.lower() not in spelled)]):
            names = listing(root / area)[0]
            if not names:
                what = "expected cell folders, found none" if area in areas else "the folder is not there"
                report(Finding("warning", self.relative(root / area), what, "the cube lacks the cells of this area"))
            for name in names:
                label = area.removesuffix(_SUFFIX)
                cell = self.located(name, self.relative(root / area / name), label, report)
                if name in cells:
                    cell = cell._replace(id=f"{name}_{label}")
                    what = f"the name is also that of {cells[name].folder}"
                    report(Finding("warning", cell.folder, what, f"its label is {cell.id}; cell_id keeps the name"))
                cells[cell.id] = cell
        return list(cells.values())

    def stimulus_ids(self, wav: str, played: Mapping[str, str], report: Report) -> dict[str, tuple[str, str]]:
        """Give a wav one identity, whatever it is played as."""
        first, *others = sorted(played)
        for word in others:
            what = f"{wav} is played as {word}, but as {first} in {played[first]}"
            report(Finding("warning", played[word], what, f"it is one stimulus, of the class {first}"))
        return dict.fromkeys(played, (wav[:-4], first))

    def recorded(self, root: Path, stimulus: Stimulus) -> float:
        """Give until when a stimulus's trials were recorded, as aa-1 documents it, else as ``about.json`` says."""
        file = root / "about.json"
        if not file.is_file():
            return super().recorded(root, stimulus)
        try:
            return stimulus.length.seconds + float(json.loads(file.read_text("utf-8"))["recorded_after"])
        except (ValueError, TypeError, KeyError):
            return math.nan

    def about(self, root: Path, report: Report) -> dict[str, str]:
        """Give the neuron coordinates that all cells share, from ``about.json`` where there is one."""
        known = super().about(root, report)
        file = root / "about.json"
        if not file.is_file():
            return known
        try:
            stated = json.loads(file.read_text("utf-8"))
            return {key: str(stated.get(key, "")) for key in known}
        except (ValueError, AttributeError) as error:
            what = f"expected a JSON object with {', '.join(known)}: {error}"
            report(Finding("error", self.relative(file), what, "the species is unknown"))
            return dict.fromkeys(known, "") | {"species": "unknown"}
