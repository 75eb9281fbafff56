"""The pipeline that reads the text trials of CRCNS aa-1 and aa-2 (grammar: `strfcube.pipelines.text_trials`).

A cell folder holds one folder a stimulus class, in the data set's own word: conspecific, flatrip, songrip. The wavs are
in ``all_stims``, with or without a subfolder a class. No file states what was recorded around the sound. Both sets hold
spikes from 2 s before its onset to 4 s after it, as the recordings were cut, but of some cells none before it: windows
begin at NaN and end at 4 s.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import abstractmethod
from collections import Counter
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from strfcube.cube.schema import area_of
from strfcube.errors import RawDataError
from strfcube.pipelines.raw_folder import find_member, find_root, listing, packed, some
from strfcube.pipelines.text_trials import MD5, Numbered, TrialLines, pair_files, parse_trials, quote, trial_text
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
    Trial,
    Trials,
    counted,
)
from strfcube.sound.audio import read_wav

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

RECORDED_S = 4.0  # from onset: all 186,403 spike times of the aa-2 files that were looked at come before it
BEFORE_S = -2.0  # and none comes before that
RATE = 32000.0  # Hz, of every wav of both sets
CATEGORY = {"conspecific": "song", "flatrip": "ml_noise", "songrip": "song_ripple"}
MALFORMED = "malformed number"
_ALTERNATE = 10  # empty lines, each after one that is not, that chance does not make

_CELL = re.compile(r"(?P<animal>[^_]+)_(?P<seq>\d+)(?:_(?P<rig>[A-Z]))?")


class Cell(NamedTuple):
    """A cell folder.

    Attributes
    ----------
    id, name : str
        Unique id, and the data set's own name.
    folder : str
        Relative to the raw folder.
    area, region, area_label : str
        As `strfcube.cube.schema.area_of` has them, and the data set's own word.
    """

    id: str
    name: str
    folder: str
    area: str
    region: str
    area_label: str


class Stated(NamedTuple):
    """What a table says of a sound: number of samples and rate in Hz; the table and its line."""

    samples: int
    rate: float
    file: str
    line: int


class TextTrials(Pipeline):
    """Reads the folders that aa-1 and aa-2 share; each says where its cells are and what identifies a stimulus."""

    options: ClassVar[tuple[Option, ...]] = (
        Option("require_sound", bool, False, "leave out the stimuli whose wav is not there"),
    )
    coordinates: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stim_name": (), "stim_type": ("conspecific", "flatrip", "songrip"),
        "stim_category": ("song", "ml_noise", "song_ripple"), "md5": (), "sample_rate": (), "n_samples": (),
        "bit_depth": (), "cell_id": (), "animal": (), "area": (), "region": (), "area_label": (),
        "signal_type": ("spikes",), "units": ("count",), "cell_seq": (), "rig": (), "species": ("zebra finch",),
        "sex": ("male",), "state": ("anaesthetised",),
    }  # fmt: skip
    marks: ClassVar[tuple[str, ...]]
    """Folders by which the data set is known."""

    @abstractmethod
    def cells(self, root: Path, report: Report) -> list[Cell]:
        """List the cell folders in the order of the cube."""

    @abstractmethod
    def stimulus_ids(self, wav: str, played: Mapping[str, str], report: Report) -> dict[str, tuple[str, str]]:
        """Give, for each class that a wav is played as, the id and the class of the stimulus it is.

        Parameters
        ----------
        played : mapping
            The first folder that names the wav, by class.
        """

    def table(self, root: Path, report: Report) -> Mapping[str, Stated]:
        """Read the data set's table of sounds, by wav name; empty where it has none."""
        return {}

    def about(self, root: Path, report: Report) -> dict[str, str]:
        """Give the neuron coordinates that all cells share."""
        return {"species": "zebra finch", "sex": "male", "state": "anaesthetised"}

    def recorded(self, root: Path, stimulus: Stimulus) -> float:
        """Give until when a stimulus's trials were recorded, in s from onset."""
        return RECORDED_S

    def survey(self, report: Report) -> Survey:
        """List stimuli and cells: every stim file is read here, once, and no spike file.

        Raises
        ------
        RawDataError
            If the raw folder is not this data set, or holds no pair of a stim and a spike file.
        """
        root = find_root(self.raw, self.marks)
        cells = self.cells(root, report)
        self._report_alike(root, {cell.folder.rpartition("/")[0] for cell in cells}, report)
        heard = {cell: classes for cell in cells if (classes := self._classes(cell, report))}
        played: dict[str, dict[str, str]] = {}
        for cell, classes in heard.items():
            for word, numbered in classes.items():
                for wav in numbered.values():
                    played.setdefault(wav, {}).setdefault(word, f"{cell.folder}/{word}")
        if not played:
            raise RawDataError("expected pairs of stim<k> and spike<k> files in cell folders, found none", root)
        for word, folder in {word: folder for words in played.values() for word, folder in words.items()}.items():
            if word not in CATEGORY:
                what = f"stimulus class {word!r} is none of {', '.join(CATEGORY)}"
                report(Finding("warning", folder, what, "its stim_category is unknown; stim_type keeps the word"))
        ids = {wav: self.stimulus_ids(wav, words, report) for wav, words in sorted(played.items())}
        stimuli = {stimulus.id: stimulus for stimulus in self._stimuli(root, ids, report)}
        about = self.about(root, report)
        until = {name: self.recorded(root, stimulus) for name, stimulus in stimuli.items()}
        neurons, sources = [], []
        for cell, classes in heard.items():
            kept = {
                word: {k: ids[wav][word][0] for k, wav in numbered.items() if ids[wav][word][0] in stimuli}
                for word, numbered in classes.items()
            }
            neurons.append(Neuron(cell.id, cell.id, self._neuron_meta(cell, report) | about))
            ends = {name: until[name] for numbered in kept.values() for name in numbered.values()}
            sources.append(Source(cell.id, (cell.folder, kept, ends)))
        return Survey(list(stimuli.values()), neurons, sources)

    def read(self, source: Source, report: Report) -> Iterator[Trial | Trials]:
        """Yield the trials of one cell: every spike file is read here, once."""
        folder, classes, ends = source.payload
        files, stimuli, texts = [], [], []
        for word, numbered in classes.items():
            for k, stimulus in numbered.items():
                file = f"{folder}/{word}/spike{k}"
                if text := trial_text(self.raw, file, report):
                    files.append(file)
                    stimuli.append(stimulus)
                    texts.append(text)
        if not texts:
            return
        lines = [text.count(b"\n") for text in texts]
        _report_line_counts(files, texts, stimuli, lines, report)
        parsed = parse_trials(b"".join(texts))
        file_of, stimulus_of = _spread(files, lines), _spread(stimuli, lines)
        number = np.concatenate([np.arange(count) for count in lines])
        second = number % 2 == 1
        if second.sum() >= _ALTERNATE and not parsed.row_size[second].any() and (parsed.row_size > 0).mean() > 0.25:
            what = "every second line of the cell's files is empty: their line ends may have been doubled"
            report(Finding("warning", folder, what, "each is taken for a trial without spikes; fetch the files again"))
        kept = np.ones(len(number), bool)
        kept[list(parsed.malformed)] = False
        last = np.cumsum(parsed.row_size)
        stop = np.array([ends[stimulus] for stimulus in stimulus_of], np.float64)
        # A recording that went on for longer than is documented is not known to have ended anywhere.
        row = np.repeat(np.arange(len(stop)), parsed.row_size)
        late = parsed.times_ms / 1000 >= stop[row]
        self._report_odd_times(parsed, late | (parsed.times_ms < 1000 * BEFORE_S), row, number, file_of, report)
        stop[row[late]] = math.nan
        for i in _rejected(parsed, lines, files, kept, report):
            times = parsed.times_ms[last[i] - parsed.row_size[i] : last[i]] / 1000
            trial = int(number[i])
            window = (math.nan, float(stop[i]))
            yield Trial(stimulus_of[i], source.id, trial, times, window=window, file=file_of[i], rejected_by=MALFORMED)
        rows = np.flatnonzero(kept).tolist()
        yield Trials(
            neuron=source.id,
            stimuli=[stimulus_of[i] for i in rows],
            repeats=number[kept],
            row_size=parsed.row_size[kept],
            spike_times=parsed.times_ms[np.repeat(kept, parsed.row_size)] / 1000,
            stop=stop[kept],
            files=[file_of[i] for i in rows],
        )

    def _report_odd_times(
        self, parsed: TrialLines, odd: NDArray[Any], row: NDArray[Any], number: NDArray[Any], file_of: Sequence[str],
        report: Report,
    ) -> None:  # fmt: skip
        """Report the files with spikes outside of what is documented to be recorded."""
        first: dict[str, list[int]] = {}
        for spike in np.flatnonzero(odd).tolist():
            first.setdefault(file_of[row[spike]], []).append(spike)
        for file, spikes in first.items():
            where = f"{1000 * BEFORE_S:g} to {1000 * RECORDED_S:g} ms"
            what = f"{counted(len(spikes), 'spike time', 'spike times')} outside of {where} from onset, the first is"
            then = "kept; it is not known when these recordings ended"
            line = int(number[row[spikes[0]]]) + 1
            report(Finding("warning", file, f"{what} {parsed.times_ms[spikes[0]]:g} ms", then, line))

    def relative(self, path: Path) -> str:
        """Name a path as findings and trials do: relative to the raw folder, with forward slashes."""
        return path.relative_to(self.raw).as_posix()

    def located(self, name: str, folder: str, label: str, report: Report, file: str = "", line: int = 0) -> Cell:
        """Make a cell with the area that its label means; an unknown word is reported."""
        known = area_of(label)
        if known is None:
            what = f"region {label!r} of cell {name} is not in the vocabulary of areas"
            report(Finding("warning", file or folder, what, "its area is unknown; area_label keeps the word", line))
        area, region = known or ("unknown", "unknown")
        return Cell(name, name, folder, area, region, label)

    def _classes(self, cell: Cell, report: Report) -> dict[str, Numbered]:
        """Wav of each complete pair of files of a cell, by class and number."""
        folders, others = listing(self.raw / cell.folder)
        if others:
            what = f"expected class folders only, found {some(others)}"
            report(Finding("info", cell.folder, what, "these files are not read"))
        if not folders:
            what = "expected class folders with stim<k> and spike<k> files, found none"
            report(Finding("warning", cell.folder, what, "the cell is left out"))
        found = {word: pair_files(self.raw, f"{cell.folder}/{word}", report) for word in folders}
        if folders and not any(found.values()):
            what = "expected a pair of a stim and a spike file that can be read, found none"
            report(Finding("warning", cell.folder, what, "the cell is left out"))
        return {word: numbered for word, numbered in found.items() if numbered}

    def _report_alike(self, root: Path, used: Collection[str], report: Report) -> None:
        """Report folders of cells beside those that are read, such as one that was unpacked for the second time."""
        for name in listing(root)[0]:
            mark = next((mark for mark in self.marks if name.lower().startswith(mark.lower())), "")
            inside = listing(root / name)[0]
            if mark and inside and (folder := self.relative(root / name)) not in used:
                what = f"cells are read from {mark}, not from here"
                then = f"what is in it is left out: {counted(len(inside), 'folder', 'folders')}"
                report(Finding("warning", folder, what, then))

    def _stimuli(
        self, root: Path, ids: Mapping[str, Mapping[str, tuple[str, str]]], report: Report
    ) -> Iterator[Stimulus]:
        """Stimuli by class and wav name; those without a wav are reported, and kept unless wavs are required."""
        table = self.table(root, report)
        top = find_member(self.raw, root, "all_stims")
        copies = self._wav_files(top, ids, report)
        entries = sorted({(word, wav, id_) for wav, classes in ids.items() for id_, word in classes.values()})
        missing: set[str] = set()
        for word, wav, id_ in entries:
            there = copies.get(wav.lower(), {})
            file = there.get(word) or there.get("") or next(iter(there.values()), "")
            stated = table.get(wav)
            length = Length.of_samples(stated.samples, stated.rate, "table") if stated else Length.unknown()
            audio = None
            try:
                audio = read_wav(self.raw / file, lazy=True) if file else None
            except RawDataError as error:
                report(Finding("error", file, error.message, self._without_sound(stated)))
            if not file and wav not in missing:
                missing.add(wav)
                place = self.relative(top / wav)
                report(Finding("warning", place, "the wav is not there", self._without_sound(stated)))
            if audio is not None:
                self._check_wav(wav, file, audio.rate, report)
                length = Length.of_samples(len(audio.samples), audio.rate)
                if stated and (stated.samples, stated.rate) != (length.samples, length.rate):
                    what = (
                        f"{wav} is stated to have {stated.samples} samples at {stated.rate:g} Hz, but has "
                        f"{length.samples} at {length.rate:g} Hz"
                    )
                    report(Finding("warning", stated.file, what, "the length of the wav is used", stated.line))
            elif self.settings["require_sound"]:
                continue
            meta = {
                "stim_name": wav,
                "stim_type": word,
                "stim_category": CATEGORY.get(word, "unknown"),
                "md5": wav[:-4].lower() if MD5.fullmatch(wav[:-4]) else "",
                "sample_rate": length.rate,
                "n_samples": float(length.samples or math.nan),
                "bit_depth": math.nan if audio is None else 8.0 * audio.samples.itemsize,
            }
            yield Stimulus(id_, length, None if audio is None else partial(read_wav, self.raw / file), meta=meta)

    def _check_wav(self, wav: str, file: str, rate: float, report: Report) -> None:
        """Report a wav that is not of the set's rate, or not of the MD5 that is its name."""
        if rate != RATE:
            what = f"its header says {rate:g} Hz, the wavs of this data set have {RATE:g} Hz"
            report(Finding("warning", file, what, "the header is believed, and so the sound's length"))
        if MD5.fullmatch(wav[:-4]):
            found = hashlib.md5((self.raw / file).read_bytes(), usedforsecurity=False).hexdigest()
            if found != wav[:-4].lower():
                what = f"its MD5 is {found.upper()}, not its name: it is damaged, or another sound"
                report(Finding("warning", file, what, "taken by its name; fetch it again"))

    def _without_sound(self, stated: Stated | None) -> str:
        if self.settings["require_sound"]:
            return "the stimulus and its responses are left out (require_sound)"
        until = f"for as long as {stated.file} says" if stated else "up to the last spike"
        return f"the responses are kept, {until}, without a spectrogram"

    def _wav_files(self, top: Path, named: Iterable[str], report: Report) -> dict[str, dict[str, str]]:
        """Where each wav is: by its name in lower case, and the subfolder of ``all_stims`` ("" for none)."""
        if not top.is_dir():
            what = f"the folder is not there{packed(self.raw)}"
            report(Finding("warning", self.relative(top), what, "no stimulus has a sound"))
        copies: dict[str, dict[str, str]] = {}
        for sub in ("", *listing(top)[0]):
            for name in listing(top / sub)[1]:
                copies.setdefault(name.lower(), {})[sub] = self.relative(top / sub / name)
        unused = sorted(name for name in set(copies) - {wav.lower() for wav in named} if name.endswith(".wav"))
        if unused:
            first = next(iter(copies[unused[0]].values())).rpartition("/")[2]
            what = f"{len(unused)} of {len(copies)} wavs are named by no cell, the first is {first}"
            report(Finding("info", self.relative(top), what, "they are not in the cube"))
        return copies

    def _neuron_meta(self, cell: Cell, report: Report) -> dict[str, Any]:
        match = _CELL.fullmatch(cell.name)
        if match is None:
            what = f"the name {cell.name!r} is not <bird>_<number>[_<rig>]"
            report(Finding("info", cell.folder, what, "the animal is what stands before the first underscore"))
        return {
            "cell_id": cell.name,
            "animal": cell.name.partition("_")[0],
            "area": cell.area,
            "region": cell.region,
            "area_label": cell.area_label,
            "signal_type": "spikes",
            "units": "count",
            "cell_seq": float(match["seq"]) if match else math.nan,
            "rig": (match["rig"] or "") if match else "",
        }


def _report_line_counts(
    files: Sequence[str], texts: Sequence[bytes], stimuli: Sequence[str], lines: Sequence[int], report: Report
) -> None:
    """Report the files with more or fewer trials than the cell's others: a blank line, or a file that is cut short.

    A sound that was played in two blocks may have any number of them in each.
    """
    usual = Counter(lines).most_common(1)[0][0]
    blocks = Counter(stimuli)
    others = []
    for file, text, stimulus, count in zip(files, texts, stimuli, lines, strict=True):
        blank = [1] * (not text.partition(b"\n")[0].strip()) + [count] * (not text.rsplit(b"\n", 2)[-2].strip())
        if count == usual + 1 and blank:
            place = "last" if blank[-1] == count else "first"
            what = f"{count} lines, where the cell's files usually have {usual}, and the {place} is empty"
            report(Finding("warning", file, what, "it is taken for a trial without spikes", blank[-1]))
        elif count != usual and blocks[stimulus] == 1:
            others.append((file, count))
    if others:
        (file, count), more = others[0], len(others) - 1
        what = f"{counted(count, 'line', 'lines')}, where the cell's files usually have {usual}"
        what += f"; so it is in {counted(more, 'more file', 'more files')}" if more else ""
        then = "each line is a trial; a file that was cut short lacks its last ones"
        report(Finding("info", file, what, then, count))


def _rejected(
    parsed: TrialLines, lines: Sequence[int], files: Sequence[str], kept: np.ndarray[Any, Any], report: Report
) -> list[int]:
    """Trials to reject because of a malformed number; each is reported.

    A file with more words that are no numbers than numbers is taken for something else, such as an error page: none of
    its lines is a trial, and `kept` forgets them all.
    """
    rejected: list[int] = []
    first = 0
    for file, count in zip(files, lines, strict=True):
        bad = [i for i in range(first, first + count) if i in parsed.malformed] if parsed.malformed else []
        strange = sum(len(parsed.malformed[i]) for i in bad)
        if strange > parsed.row_size[first : first + count].sum():
            kept[first : first + count] = False
            what = f"expected spike times in ms, found {quote(parsed.malformed[bad[0]][0])} and {strange - 1} more such"
            report(Finding("error", file, what, "the file is not read", bad[0] - first + 1))
        else:
            for i in bad:
                what = f"expected a spike time in ms, found {quote(parsed.malformed[i][0])}"
                then = "the trial is kept as rejected, the others are read"
                report(Finding("error", file, what, then, i - first + 1))
            rejected += bad
        first += count
    return rejected


def _spread(values: Sequence[str], counts: Iterable[int]) -> list[str]:
    """Repeat each value as often as its count."""
    spread: list[str] = []
    for value, count in zip(values, counts, strict=True):
        spread.extend(repeat(value, count))
    return spread
