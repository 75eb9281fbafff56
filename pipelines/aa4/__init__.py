"""AA4 (CRCNS aa-4): units of the auditory forebrain of the anaesthetised zebra finch, and the whole call repertoire.

What it is
    1,401 units, 914 of them single, of six adult zebra finches (four males, two females) in field L, CLM, CMM and NCM,
    recorded with two arrays of 16 electrodes, one a hemisphere (one array in one bird). 170 songs, calls of the whole
    repertoire and modulation-limited noises of up to 3 s, about 10 trials each; each bird and site had its own list.
Data and papers
    doi 10.6080/K00C4T06; Elie & Theunissen 2015 (10.1111/ejn.12812), Elie & Theunissen 2019
    (10.1371/journal.pcbi.1006698)
Licence
    CRCNS terms: scientific use, no redistribution; name the contributors and crcns.org, cite the papers.

The raw folder holds::

    <animal>/Site<S>_L<ldepth>R<rdepth>_e<electrode>_s<sort>[_ss<subsort>].h5     one unit
        attributes site, ldepth and rdepth (um), electrode, sortid, sortType
        <protocol>/<number>/        attributes stim_md5, stim_duration (s), stim_type, stim_class, callid, ...
            <trial>/                attributes pre_time, post_time (s); datasets spike_times (s from onset), spike_ids
    <animal>/wavfiles/stim<number>.wav            numbered anew in each animal; Stim07.WAV is taken for stim7.wav

What to know about it
    * A stimulus goes by ``stim_md5``, the MD5 of its wav, since each animal has its own numbers; the sound is the wav
      of the first animal that has it. The same sound under two numbers or in two protocols is more trials of one
      stimulus. Without ``stim_md5``, a group takes the MD5 of its number elsewhere in the animal, or of the wav.
    * Types other than song, call and mlnoise are kept, in category ``other``, and reported.
    * A wav header of 24,414 Hz stands for the recorder's 24,414.0625 Hz (25 MHz / 1024). Other rates are as they are.
    * A trial without a spike holds -999, alone, as its times and ids: it took place, and so did pairs that are silent.
    * A spike was given to the nearer of two presentations: ``pre_time`` and ``post_time`` are half of the pause before
      and after the sound, and the window is -``pre_time`` to the sound's length + ``post_time``. A zero is what the
      lab's writer had before it knew better (pairs without spikes, the last presentation): that end is NaN.
    * No area is published for a unit and none is made up; which electrodes are left or right is not stated either.
    * Units sorted as ``tdt`` (online) or ``noise`` are left out unless ``sort_types`` names them; ``singl`` means
      single; a unit without ``sortType`` is ``unknown``, and kept.
    * The published counts a bird add up to 1,343 units, not 1,401.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from strfcube import limits
from strfcube.errors import RawDataError, UsageError
from strfcube.pipelines.aa4.unit import (
    BROKEN,
    SORT_TYPES,
    Group,
    TrialColumns,
    as_number,
    as_text,
    attribute,
    natural,
    open_unit,
    reason,
    stimulus_groups,
    unit_meta,
)
from strfcube.pipelines.raw_folder import ARCHIVES, ending, listing, packed, some
from strfcube.raw_files import bounded
from strfcube.records import (
    Finding,
    Length,
    Neuron,
    Option,
    Pipeline,
    Report,
    Source,
    Stimulus,
    Survey,
    Trials,
    counted,
)
from strfcube.sound.audio import read_wav

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

TDT_RATE = 25e6 / 1024  # Hz; 24414.0625
_CATEGORY = {"song": "song", "call": "call", "mlnoise": "ml_noise"}
_TEXTS = {
    "stim_class": b"stim_class", "call_id": b"callid", "bird_id": b"birdid", "source": b"stim_source",
    "source_sex": b"stim_source_sex",
}  # fmt: skip
_DURATION_TOLERANCE = 1e-3  # s
_HDF5 = re.compile(r"\.(h5|hdf5?)\b", re.IGNORECASE)  # as x.hdf5, and x.h5.part of a download
_WAV = re.compile(r"stim_?0*(\d+)\.wav", re.IGNORECASE)


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

    files = ("*.h5", "*.wav")
    coordinates: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stim_name": (), "stim_type": (), "stim_category": (), "md5": (), "sample_rate": (), "stim_class": (),
        "call_id": (), "bird_id": (), "source": (), "source_sex": (), "cell_id": (), "animal": (),
        "species": ("zebra finch",), "area": (), "region": ("unknown",), "area_label": ("",),
        "signal_type": ("spikes",), "units": ("count",), "sex": ("F", "M"), "site": (), "electrode": (),
        "sort_id": (), "ldepth": (), "rdepth": (), "sort_type": SORT_TYPES, "subsort_id": (),
    }  # fmt: skip
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
        real: dict[Path, str] = {}
        again: Counter[tuple[str, Path]] = Counter()
        for file in (self.raw / found.name for found in self.listing() if found.name.lower().endswith(".h5")):
            if "CRCNSCode" not in file.relative_to(self.raw).parts:
                # By the name that it has here, which is that of the link where it is one; linked twice, it is one bird.
                animal = real.setdefault(file.parent.resolve(), file.parent.name)
                if folders.setdefault(animal, file.parent) != file.parent:
                    again[animal, file.parent] += 1
        if not folders:
            message = f"expected <animal>/*.h5 unit files (AA-4), found none{packed(self.raw)}"
            raise RawDataError(f"{message}; give the folder that the archives were unpacked to", self.raw)
        for (animal, other), count in again.items():
            what = f"there is another folder of {animal}, {folders[animal].relative_to(self.raw).as_posix()}"
            then = f"its unit files are left out: {count}"
            report(Finding("warning", other.relative_to(self.raw).as_posix(), what, then))
        self._lacking(folders, report)
        units: list[_Unit] = []
        sounds: dict[str, _Sound] = {}
        for animal, folder in folders.items():
            units += self._animal(animal, folder, sounds, report)
        if not units:
            raise RawDataError("none of the unit files can be used", self.raw)
        stimuli = [self._stimulus(name, sound, report) for name, sound in sounds.items()]
        self._check(stimuli, report)
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
        size = (self.raw / file).stat().st_size if (self.raw / file).exists() else 0
        with bounded(size):
            try:
                root = open_unit(self.raw / file, in_memory=True)
            except BROKEN as error:
                why = reason(error, self.raw / file)
                raise RawDataError(f"expected a whole HDF5 file of one unit, but {why}", file) from error
            for path, stimulus, seconds in groups:
                columns.add(root, path, stimulus, seconds)
        if columns.broken and not columns.numbers:
            raise RawDataError(f"no trial can be read, the first is {columns.broken[0]}", file)
        if columns.broken:
            what = f"{counted(len(columns.broken), 'trial', 'trials')} cannot be read, the first is {columns.broken[0]}"
            report(Finding("error", file, what, "they are left out"))
        if columns.strange:
            what = f"expected trial numbers, found {some(sorted(columns.strange))}"
            report(Finding("warning" if any(columns.strange.values()) else "info", file, what, "these are not read"))
        times, row_size, strange = columns.spikes()
        if strange:
            what = f"{counted(strange, 'spike time is', 'spike times are')} no number, or -999 beside others"
            report(Finding("warning", file, what, "these spikes are left out"))
        if columns.negative:
            what = f"{counted(columns.negative, 'trial has', 'trials have')} a negative pre_time or post_time"
            report(Finding("warning", file, what, "that end of the recorded window is taken as not stated"))
        yield Trials(
            neuron, columns.stimuli, np.array(columns.numbers, np.int64), row_size, times,
            np.array(columns.start), np.array(columns.stop), file,
        )  # fmt: skip

    def _lacking(self, animals: dict[str, Path], report: Report) -> None:
        """Report the animals whose archive is still packed, and those without a unit."""
        for place in sorted({self.raw, *(folder.parent for folder in animals.values())}):
            inner, files = listing(place) if place.is_relative_to(self.raw) else ([], [])
            packed_up = [name for name in files if name.lower().endswith(ARCHIVES)]
            empty = [name for name in inner if (place / name / "wavfiles").is_dir()]
            for names, what in ((packed_up, "the archive is not unpacked"), (empty, "expected *.h5 units, found none")):
                for name in names:
                    if name.partition(".")[0] not in {*animals, "CRCNSCode"} and name not in self.without:
                        file = (place / name).relative_to(self.raw).as_posix()
                        report(Finding("warning", file, what, "the cube lacks what it should hold"))

    def _animal(self, animal: str, folder: Path, sounds: dict[str, _Sound], report: Report) -> list[_Unit]:
        """List the units of one animal, and add its stimuli to `sounds` in the order of their numbers."""
        units: list[_Unit] = []
        left_out: dict[str, list[str]] = {}
        seen: dict[tuple[int, str], tuple[str, dict[bytes, Any]]] = {}
        others: dict[str, bool] = {}
        wavs = _wavs(folder)
        for path in sorted(ending(folder, ".h5"), key=lambda path: natural(path.name)):
            file = path.relative_to(self.raw).as_posix()
            try:
                with bounded(path.stat().st_size):
                    root = open_unit(path)
                    meta = unit_meta(root, animal, path.stem, file, report)
                    if meta["sort_type"] not in self.kept:
                        left_out.setdefault(meta["sort_type"], []).append(path.stem)
                        continue
                    groups, broken, strange = stimulus_groups(root)
                    others.update(strange)
                    for group in groups:
                        if (group.number, group.md5) not in seen:
                            wanted = (b"stim_type", b"stim_duration", *_TEXTS.values())
                            seen[group.number, group.md5] = file, {w: attribute(root, w, group.path) for w in wanted}
            except BROKEN as error:
                what = f"expected a whole HDF5 file of one unit, but {reason(error, path)}"
                report(Finding("error", file, what, "the unit is left out; fetch the file again"))
                continue
            for what in broken:
                report(Finding("error", file, what, "its trials are left out; fetch the file again"))
            if groups:
                units.append(_Unit(file, Neuron(f"{animal}/{path.stem}", f"{animal}/{path.stem}", meta), groups))
            else:
                report(Finding("warning", file, "holds no stimulus group", "the unit is left out"))
        if beside := [name for name in listing(folder)[1] if not name.lower().endswith((".h5", *ARCHIVES))]:
            what = f"expected *.h5 units and the folder wavfiles, found {some(beside)}"
            units_alike = any(_HDF5.search(name) for name in beside)
            report(Finding("warning" if units_alike else "info", animal, what, "these files are not read"))
        for sort_type, stems in sorted(left_out.items()):
            what = f"{counted(len(stems), 'unit has', 'units have')} sort type {sort_type!r}, the first is {stems[0]}"
            report(Finding("info", animal, what, "left out, unless the option sort_types names that type"))
        if others:
            what = f"expected protocols with stimulus numbers, found {some(sorted(others))}"
            report(Finding("warning" if any(others.values()) else "info", animal, what, "these are not read"))
        named = self._names(animal, folder, wavs, seen, report)
        for unit in units:
            without = [group for group in unit.groups if not group.md5]
            for group in without:
                group.md5 = named[group.number]
            if without:
                lacking = counted(len(without), "group has", "groups have")
                what = f"{lacking} no valid stim_md5, the first is {without[0].path.decode()}"
                report(Finding("warning", unit.file, what, f"taken from the number: {without[0].md5}"))
        for (number, md5), (file, found) in sorted(seen.items(), key=lambda item: item[0]):
            sound = sounds.setdefault(md5 or named[number], _Sound(file))
            sound.add(found)
            if not md5 or md5 == named[number]:
                sound.wavs.setdefault(wavs.get(number, _wav(folder, number)))
        return units

    def _names(
        self, animal: str, folder: Path, wavs: dict[int, Path], seen: Iterable[tuple[int, str]], report: Report
    ) -> dict[int, str]:
        """Name the stimulus of each number of an animal, as its units do, else by the MD5 of its wav."""
        claims: dict[int, list[str]] = {}
        for number, md5 in seen:
            claims.setdefault(number, []).extend([md5] if md5 else [])
        named: dict[int, str] = {}
        for number, md5s in claims.items():
            wav = wavs.get(number, _wav(folder, number))
            if len(md5s) == 1:
                named[number] = md5s[0]
                continue
            named[number] = _md5(wav) if wav.is_file() else f"{animal}/stim{number}"
            if md5s:
                what = f"units state {len(md5s)} different stim_md5 for this number: {', '.join(sorted(md5s))}"
                then = "kept as different stimuli; the wav is that of the one whose MD5 it has"
                report(Finding("warning", wav.relative_to(self.raw).as_posix(), what, then))
        return named

    def _stimulus(self, name: str, sound: _Sound, report: Report) -> Stimulus:
        """Choose a stimulus's wav and length."""
        audio, length, rate = None, Length.unknown(), math.nan
        if absurd := [d for d in sound.durations if d > limits.SECONDS]:
            report(Finding("error", sound.file, f"stim_duration of {name} is {absurd[0]:g} s", "it is not believed"))
            sound.durations = [d for d in sound.durations if d <= limits.SECONDS]
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

    def _check(self, stimuli: list[Stimulus], report: Report) -> None:
        """Report the wavs that are not what the units say, and the types that are no song, call or noise."""
        wavs = [(s.id, s.audio.args[0]) for s in stimuli if isinstance(s.audio, partial) and s.meta["md5"]]
        strange = [wav for md5, wav in wavs if _md5(wav) != md5]
        if strange:
            what = f"{len(strange)} of {len(wavs)} wavs do not have the MD5 that the units state, this is the first"
            report(Finding("warning", strange[0].relative_to(self.raw).as_posix(), what, "taken by their number"))
        kinds = Counter(str(s.meta["stim_type"]) for s in stimuli if s.meta["stim_category"] in ("other", "unknown"))
        for kind, count in sorted(kinds.items()):
            other = counted(count, "stimulus has", "stimuli have")
            what = f"{other} type {kind!r}, which is none of song, call and mlnoise"
            report(Finding("info", "", what, f"kept, in category {_category(kind)}"))


def _wav(folder: Path, number: int) -> Path:
    """Where an animal should have the sound of a number."""
    return folder / "wavfiles" / f"stim{number}.wav"


def _wavs(folder: Path) -> dict[int, Path]:
    """Where an animal has its sounds, by number: stim5.wav, and what means the same, as Stim05.WAV."""
    found: dict[int, Path] = {}
    for name in listing(folder)[0]:
        if name.lower() == "wavfiles":
            for file in listing(folder / name)[1]:
                if match := _WAV.fullmatch(file):
                    found.setdefault(int(match[1]), folder / name / file)
    return found | {number: wav for number in found if (wav := _wav(folder, number)).is_file()}


def _md5(wav: Path) -> str:
    return hashlib.md5(wav.read_bytes(), usedforsecurity=False).hexdigest()


def _stated_length(seconds: float) -> Length:
    """Length by ``stim_duration``: the number of samples by a header's rate, so that a wav would give the same."""
    samples = seconds * math.floor(TDT_RATE)
    if math.isfinite(samples) and abs(samples - round(samples)) < 1e-3:
        return Length.of_samples(round(samples), TDT_RATE, "attribute")
    return Length(seconds, "attribute")


def _category(kind: str) -> str:
    return _CATEGORY.get(kind.lower(), "other" if kind else "unknown")
