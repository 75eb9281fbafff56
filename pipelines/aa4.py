"""CRCNS AA-4: single and multi units of the zebra finch auditory forebrain, listening to songs, calls and noise.

Extracellular recordings from six anaesthetised adult zebra finches (four males, two females) with two arrays of 16
electrodes, one a hemisphere (one array in the sixth bird), in Field L, CLM, CMM and NCM: 1,401 units in the archive's
description, 914 of them single; 170 songs, calls of the whole repertoire and modulation-limited noise of up to 3 s,
about 10 trials each. No area is published for a unit, so `area` is ``unknown`` for all. Data: Elie & Theunissen 2019,
doi 10.6080/K00C4T06; papers: Elie & Theunissen 2015 (doi 10.1111/ejn.12812), 2019 (doi 10.1371/journal.pcbi.1006698).

Raw layout, below the raw folder::

    <animal>/Site<S>_L<ldepth>R<rdepth>_e<electrode>_s<sort>[_ss<subsort>].h5     one file a unit
        attrs: site ldepth rdepth electrode sortid sortType
        /<protocol>/<number>/           attrs: stim_md5 stim_duration stim_type stim_class ...
            <trial>/                    attrs: pre_time post_time;  datasets: spike_times (s from onset), spike_ids
    <animal>/wavfiles/stim<number>.wav                                            numbered anew for each animal

Readings and choices
    Stimulus
        Its identity is ``stim_md5``, the MD5 of the wav file, because each animal has its own numbers. The sound is
        that of the first animal whose wav is there. A group without ``stim_md5`` takes the MD5 that the same number
        has elsewhere in the animal, or that of its wav. Types other than song, call and mlnoise are kept, as
        category ``other``.
    Rate
        A header of 24,414 Hz is the TDT clock of 24,414.0625 Hz (25 MHz / 1024), which a wav header cannot hold;
        other rates are taken as they are. ``stim_duration`` is the number of samples by the header's rate.
    Silence
        A trial without a spike holds -999 as ``spike_times`` and ``spike_ids``, as a scalar or a single element. It
        took place, and is kept as an empty trial; pairs without any spike are kept as well.
    Order
        Protocols, stimulus numbers and trials in numeric order. The same sound under two numbers or in two protocols
        is more trials of one stimulus.
    Window
        The recorder gave each spike to the nearer of two presentations: ``pre_time`` and ``post_time`` are half of the
        pause before and after the sound. So the window is -``pre_time`` to the sound's length + ``post_time``. A zero
        is the writer's default where it had nothing to say (a pair without spikes, the last presentation of a
        recording), and that end of the window is NaN.
    Units
        ``sortType`` ``tdt`` (sorted online) and ``noise`` are left out unless `sort_types` names them; ``singl`` is
        ``single``; a unit without the attribute is ``unknown``, and kept. Where a depth, the electrode, the site or
        the sort id is no attribute, the file name gives it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.audio import read_wav
from strfcube.errors import RawDataError, UsageError
from strfcube.pipelines.aa4_unit import (
    BROKEN,
    Group,
    TrialColumns,
    as_number,
    as_text,
    attribute,
    natural,
    open_unit,
    reason,
    stimulus_groups,
)  # fmt: skip
from strfcube.records import Finding, Length, Neuron, Option, Pipeline, Report, Source, Stimulus, Survey, Trials

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

TDT_RATE = 25e6 / 1024  # Hz; 24414.0625
SORT_TYPES = ("single", "multi", "unknown", "noise", "tdt")
_CATEGORY = {"song": "song", "call": "call", "mlnoise": "ml_noise"}
_STEM = re.compile(
    r"(?P<site>[^_]+)_(?:L(?P<ldepth>\d+))?(?:R(?P<rdepth>\d+))?_e(?P<electrode>\d+)_s(?P<sort_id>\d+)"
    r"(?:_ss(?P<subsort_id>\d+))?"
)
_NUMBERS = {"electrode": b"electrode", "sort_id": b"sortid", "ldepth": b"ldepth", "rdepth": b"rdepth"}
_TEXTS = {
    "stim_class": b"stim_class", "call_id": b"callid", "bird_id": b"birdid", "source": b"stim_source",
    "source_sex": b"stim_source_sex",
}  # fmt: skip
_DURATION_TOLERANCE = 1e-3  # s


@dataclass
class _Unit:
    """A unit that is kept."""

    file: str
    neuron: Neuron
    groups: list[Group]


@dataclass
class _Sound:
    """What the animals say of one stimulus, the first one first."""

    file: str
    wavs: dict[Path, None] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def add(self, found: dict[bytes, Any]) -> None:
        """Add the attributes of a stimulus group."""
        if (duration := as_number(found[b"stim_duration"])) > 0:
            self.durations.append(duration)
        if kind := as_text(found[b"stim_type"]):
            self.types.append(kind)
        for key, name in _TEXTS.items():
            if text := as_text(found[name]):
                self.texts.setdefault(key, text)


class AA4(Pipeline):
    """Reads the unit files and wavs of CRCNS AA-4; a source is one unit.

    Parameters
    ----------
    raw : path
        Folder that holds one folder an animal, or such a folder itself.
    sort_types : str
        Sort types to keep, with commas: of ``single``, ``multi``, ``unknown``, ``noise`` and ``tdt``.

    Raises
    ------
    UsageError
        If `sort_types` names none, or one that does not exist.
    """

    options = (Option("sort_types", str, "single,multi,unknown", f"sort types to keep, of {', '.join(SORT_TYPES)}"),)

    def __init__(self, raw: Path | str, **options: Any) -> None:
        super().__init__(raw, **options)
        self.kept = [word.strip() for word in str(self.settings["sort_types"]).split(",") if word.strip()]
        if not self.kept or set(self.kept) - set(SORT_TYPES):
            raise UsageError(f"sort_types={self.settings['sort_types']!r}: give some of {', '.join(SORT_TYPES)}")

    def survey(self, report: Report) -> Survey:
        """List units, and the sounds they were played.

        Opens every unit and reads its root attributes and the MD5 of every stimulus group, because units of one
        animal heard different stimuli; the other attributes of a stimulus are read once an animal.

        Raises
        ------
        RawDataError
            If no unit file can be read.
        """
        folders: dict[str, Path] = {}
        for file in sorted(self.raw.rglob("*.h5")):
            inner = file.relative_to(self.raw).parts
            if "CRCNSCode" not in inner and not any(part.startswith(".") for part in inner):
                folders.setdefault(file.parent.name or self.raw.resolve().name, file.parent)
        if not folders:
            raise RawDataError("expected <animal>/*.h5 unit files (AA-4), found none; check the raw folder", self.raw)
        units: list[_Unit] = []
        sounds: dict[str, _Sound] = {}
        for animal, folder in folders.items():
            units += self._animal(animal, folder, sounds, report)
        if not units:
            raise RawDataError("none of the unit files can be used; the findings say why", self.raw)
        stimuli = [self._stimulus(name, sound, report) for name, sound in sounds.items()]
        _report_types(stimuli, report)
        seconds = {stimulus.id: stimulus.length.seconds for stimulus in stimuli}
        sources = []
        for unit in units:
            groups = [(group.path, group.md5, seconds[group.md5]) for group in unit.groups]
            sources.append(Source(unit.neuron.source, (unit.file, unit.neuron.id, groups)))
        return Survey(stimuli, [unit.neuron for unit in units], sources)

    def read(self, source: Source, report: Report) -> Iterator[Trials]:
        """Yield all trials of one unit.

        Raises
        ------
        RawDataError
            If the file cannot be opened, or none of its trials can be read.
        """
        file, neuron, groups = source.payload
        columns = TrialColumns()
        try:
            root = open_unit(self.raw / file, in_memory=True)
        except BROKEN as error:
            raise RawDataError(f"expected a whole HDF5 file of one unit, but {reason(error)}", file) from error
        for path, stimulus, seconds in groups:
            columns.add(root, path, stimulus, seconds)
        if columns.broken and not columns.numbers:
            raise RawDataError(f"no trial can be read, the first is {columns.broken[0]}", file)
        if columns.broken:
            what = f"{len(columns.broken)} trials cannot be read, the first is {columns.broken[0]}"
            report(Finding("error", file, what, "they are left out"))
        times, row_size, strange = columns.spikes()
        if strange:
            what = f"{strange} spike times are -999 or no number, in trials that have others"
            report(Finding("warning", file, what, "these spikes are left out"))
        yield Trials(
            neuron, columns.stimuli, np.array(columns.numbers, np.int64), row_size, times,
            np.array(columns.start), np.array(columns.stop), file,
        )  # fmt: skip

    def _animal(self, animal: str, folder: Path, sounds: dict[str, _Sound], report: Report) -> list[_Unit]:
        """List the units of one animal, and add its stimuli to `sounds` in the order of their numbers."""
        units: list[_Unit] = []
        left_out: dict[str, list[str]] = {}
        seen: dict[tuple[int, str], tuple[str, dict[bytes, Any]]] = {}
        for path in sorted(folder.glob("[!.]*.h5"), key=lambda path: natural(path.name)):
            file = path.relative_to(self.raw).as_posix()
            try:
                root = open_unit(path)
                meta = _unit_meta(root, animal, path.stem, file, report)
                if meta["sort_type"] not in self.kept:
                    left_out.setdefault(meta["sort_type"], []).append(path.stem)
                    continue
                groups, broken = stimulus_groups(root)
                for group in groups:
                    if (group.number, group.md5) not in seen:
                        wanted = (b"stim_type", b"stim_duration", *_TEXTS.values())
                        seen[group.number, group.md5] = file, {w: attribute(root, w, group.path) for w in wanted}
            except BROKEN as error:
                what = f"expected a whole HDF5 file of one unit, but {reason(error)}"
                report(Finding("error", file, what, "the unit is left out; fetch the file again"))
                continue
            for what in broken:
                report(Finding("error", file, what, "its trials are left out; fetch the file again"))
            if groups:
                units.append(_Unit(file, Neuron(f"{animal}/{path.stem}", f"{animal}/{path.stem}", meta), groups))
            else:
                report(Finding("warning", file, "holds no stimulus group", "the unit is left out"))
        for sort_type, stems in sorted(left_out.items()):
            what = f"{len(stems)} units have sort type {sort_type!r}: {', '.join(stems)}"
            report(Finding("info", animal, what, "left out, unless the option sort_types names that type"))
        named = self._names(animal, folder, seen, report)
        for unit in units:
            without = [group for group in unit.groups if not group.md5]
            for group in without:
                group.md5 = named[group.number]
            if without:
                what = f"{len(without)} groups have no valid stim_md5, the first is {without[0].path.decode()}"
                report(Finding("warning", unit.file, what, f"taken from the number: {without[0].md5}"))
        for (number, md5), (file, found) in sorted(seen.items(), key=lambda item: item[0]):
            sound = sounds.setdefault(md5 or named[number], _Sound(file))
            sound.add(found)
            if not md5 or md5 == named[number]:
                sound.wavs.setdefault(_wav(folder, number))
        return units

    def _names(self, animal: str, folder: Path, seen: Iterable[tuple[int, str]], report: Report) -> dict[int, str]:
        """Name the stimulus of each number of an animal, as its units do, else by the MD5 of its wav."""
        claims: dict[int, list[str]] = {}
        for number, md5 in seen:
            claims.setdefault(number, []).extend([md5] if md5 else [])
        named: dict[int, str] = {}
        for number, md5s in claims.items():
            wav = _wav(folder, number)
            if len(md5s) == 1:
                named[number] = md5s[0]
                continue
            named[number] = hashlib.md5(wav.read_bytes()).hexdigest() if wav.is_file() else f"{animal}/stim{number}"
            if md5s:
                what = f"units state {len(md5s)} different stim_md5 for this number: {', '.join(sorted(md5s))}"
                then = "kept as different stimuli; the wav is that of the one whose MD5 it has"
                report(Finding("warning", wav.relative_to(self.raw).as_posix(), what, then))
        return named

    def _stimulus(self, name: str, sound: _Sound, report: Report) -> Stimulus:
        """Choose a stimulus's wav and length."""
        audio, length, rate = None, Length.unknown(), math.nan
        absent: list[str] = []
        for wav in sound.wavs:
            file = wav.relative_to(self.raw).as_posix()
            if not wav.is_file():
                absent.append(file)
                continue
            try:
                samples, header_rate = read_wav(wav, lazy=True)
            except RawDataError as error:
                report(Finding("error", file, error.message, "another animal's wav of this sound is used, if any"))
                continue
            true = TDT_RATE if header_rate == math.floor(TDT_RATE) else None
            rate = true or header_rate
            audio, length = partial(read_wav, wav, true), Length.of_samples(len(samples), rate)
            for stated in sound.durations:
                if abs(stated - len(samples) / header_rate) > _DURATION_TOLERANCE:
                    what = f"lasts {length.seconds:g} s, but its stim_duration is {stated:g} s"
                    report(Finding("warning", file, what, "the wav's length is used"))
                    break
            break
        if audio is None and sound.durations:
            length = _stated_length(sound.durations[0])
        if absent and audio:
            what = f"there is no such wav, of stimulus {name}"
            report(Finding("info", absent[0], what, "another animal's wav of the same MD5 is used"))
        elif audio is None:
            what = f"there is no wav of stimulus {name}"
            then = f"it has no spectrogram; its length is that of the {length.source}"
            report(Finding("warning", absent[0] if absent else sound.file, what, then))
        kinds = sound.types or [""]
        if len(set(kinds)) > 1:
            what = f"stimulus {name} has different types: {', '.join(sorted(set(kinds)))}"
            report(Finding("warning", sound.file, what, f"the first is used: {kinds[0]}"))
        meta = {
            "stim_name": name, "stim_type": kinds[0], "stim_category": _category(kinds[0]),
            "md5": "" if "/" in name else name, "sample_rate": rate,
        }  # fmt: skip
        return Stimulus(name, length, audio, meta=meta | {key: sound.texts.get(key, "") for key in _TEXTS})


def _wav(folder: Path, number: int) -> Path:
    """Where an animal has the sound of a number."""
    return folder / "wavfiles" / f"stim{number}.wav"


def _stated_length(seconds: float) -> Length:
    """Length by ``stim_duration``: the number of samples by a header's rate, so that a wav would give the same."""
    samples = seconds * math.floor(TDT_RATE)
    if abs(samples - round(samples)) < 1e-3:
        return Length.of_samples(round(samples), TDT_RATE, "attribute")
    return Length(seconds, "attribute")


def _category(kind: str) -> str:
    return _CATEGORY.get(kind.lower(), "other" if kind else "unknown")


def _report_types(stimuli: list[Stimulus], report: Report) -> None:
    """Report the stimuli that are no song, call or modulation-limited noise."""
    kinds = Counter(str(s.meta["stim_type"]) for s in stimuli if s.meta["stim_category"] in ("other", "unknown"))
    for kind, count in sorted(kinds.items()):
        what = f"{count} stimuli have type {kind!r}, which is none of song, call and mlnoise"
        report(Finding("info", "", what, f"kept, in category {_category(kind)}"))


def _unit_meta(root: Any, animal: str, stem: str, file: str, report: Report) -> dict[str, Any]:
    """Coordinates of a unit, from its root attributes, else from its file's name."""
    match = _STEM.fullmatch(stem)
    named: dict[str, Any] = match.groupdict() if match else {}
    if not match:
        what = "expected a name like Site1_L1400R1400_e10_s0_ss1.h5"
        report(Finding("warning", file, what, "what only the name gives is missing"))
    numbers: dict[str, float | int] = {}
    for key, name in _NUMBERS.items():
        stated, by_name = as_number(attribute(root, name)), as_number(named.get(key))
        numbers[key] = by_name if math.isnan(stated) else stated
        if not math.isnan(stated) and not math.isnan(by_name) and stated != by_name:
            what = f"the attribute {name.decode()} is {stated:g}, the file's name says {by_name:g}"
            report(Finding("warning", file, what, "the attribute is used"))
    for key in ("electrode", "sort_id"):
        if not math.isnan(numbers[key]):
            numbers[key] = int(numbers[key])
    word = as_text(attribute(root, b"sortType")).lower()
    sort_type = "single" if word == "singl" else word
    if sort_type not in SORT_TYPES:
        sort_type = "unknown"
        what = f"expected a sortType of single, multi, noise or tdt, found {word!r}"
        report(Finding("warning", file, what, "its sort type is unknown"))
    return {
        "cell_id": stem, "animal": animal, "species": "zebra finch", "area": "unknown", "region": "unknown",
        "area_label": "", "signal_type": "spikes", "units": "count", "sex": animal[-1] if animal[-1:] in "FM" else "",
        "site": as_text(attribute(root, b"site")) or named.get("site") or "", **numbers, "sort_type": sort_type,
        "subsort_id": as_number(named.get("subsort_id")),
    }  # fmt: skip
