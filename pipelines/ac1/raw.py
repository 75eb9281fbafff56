"""The AC-1 folders: which recordings there are, and which sound each of their triggers presented."""

from __future__ import annotations

import filecmp
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from strfcube import limits
from strfcube.errors import RawDataError
from strfcube.pipelines import matlab
from strfcube.pipelines.raw_folder import ending, listing
from strfcube.raw_files import is_ours
from strfcube.records import Finding, Report

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WEHR_FOLDERS = ("fragments", "category1", "category2", "category3")
# Types of natural-sound triggers, in lower case and without blanks; the misspelt one is in the files.
NATURAL = frozenset({"naturalsound", "nauralsound", "natural"})

TRACE_RATES = (4000.0, 10000.0)  # Hz, of the recordings of Wehr and of Asari
LOWEST_RATE = 1000.0  # Hz; a trace of less is none of a potential, nor goes into bins of some ms
ASARI_RATE = 97656.0  # Hz, of all of Asari's segments
_FOLDER = re.compile(r"\d{8}-[a-z]+\d*-\d+", re.IGNORECASE)
_SEGMENT = re.compile(r"(?:.*[/\\])?(class\d+)[/\\]([^/\\]+?)(?:\.mat)?", re.IGNORECASE)
_SEQUENCE = re.compile(r"\s*sequence\s+(\d+)\s*:\s*(\d+(?:\s+\d+)*)\s*", re.IGNORECASE)
_NEAR = 10  # samples; two triggers closer than this present one sound
_LEFT_OUT = "these presentations are left out"


@dataclass(frozen=True)
class Sound:
    """A stimulus file.

    Attributes
    ----------
    path : Path
        The file.
    samples, rate : int, float
        Length, and rate in Hz.
    description : str
        The file's own words.
    """

    path: Path
    samples: int
    rate: float
    description: str

    @property
    def name(self) -> str:
        """Folder and name, such as ``category1/12``."""
        return f"{self.folder}/{self.path.stem}"

    @property
    def folder(self) -> str:
        """Name of its folder in the spelling of the data set, whatever the disk has."""
        return self.path.parent.name.lower()


class Heard(NamedTuple):
    """A stimulus that some trigger presented: the sounds it is made of and the trigger's words for it."""

    id: str
    sounds: tuple[Sound, ...]
    description: str

    @property
    def seconds(self) -> float:
        """Length in s."""
        return sum(sound.samples for sound in self.sounds) / self.sounds[0].rate


class Presentation(NamedTuple):
    """A natural-sound trigger: number in its file (from 1), sample of its onset (from 0), length in ms, stimulus."""

    trigger: int
    onset: int
    ms: float
    stimulus: str


class Recording(NamedTuple):
    """A recording file, relative to the raw folder: the file's words for site and type, and its presentations."""

    file: str
    site: str
    type: str
    presentations: tuple[Presentation, ...]


def load_sound(path: Path) -> tuple[Any, float, str]:
    """Read samples [shape=(n,)], rate in Hz and description of a stimulus file.

    Raises
    ------
    RawDataError
        If it is absent, damaged, empty, or no stimulus.
    """
    try:
        stimulus = matlab.load(path, "stimulus").get("stimulus")
        samples = matlab.vector(matlab.field(stimulus, "samples" if matlab.has(stimulus, "samples") else "sample"))
        param = matlab.field(stimulus, "param")
        rate = matlab.number(matlab.field(param, "sf"))
        description = matlab.text(matlab.field(param, "description")) if matlab.has(param, "description") else ""
    except ValueError as error:
        raise RawDataError(f"in 'stimulus': {error}", path) from None
    if not len(samples) or not limits.SOUND_RATE[0] <= rate <= limits.SOUND_RATE[1]:
        raise RawDataError(f"expected samples at a rate, found {len(samples)} at {rate:g} Hz", path)
    return samples, rate, description


def load_trace(path: Path) -> tuple[Any, float]:
    """Read the potential in mV [shape=(n,)] as float32, and its rate in Hz, of a recording file.

    Raises
    ------
    RawDataError
        If it is damaged, or lacks ``response.trace``, ``.scale`` or ``.sf``.
    """
    try:
        response = matlab.load(path, "response").get("response")
        trace = matlab.vector(matlab.field(response, "trace"))
        scale = matlab.number(matlab.field(response, "scale"))
        rate = matlab.number(matlab.field(response, "sf"))
    except ValueError as error:
        raise RawDataError(f"in 'response': {error}", path) from None
    if not LOWEST_RATE <= rate <= limits.TRACE_RATE[1]:
        raise RawDataError(f"expected a rate in 'response.sf', found {rate:g} Hz", path)
    if not 0 < abs(scale) < math.inf:
        raise RawDataError(f"expected mV a count in 'response.scale', found {scale:g}", path)
    return trace.astype("f4") * scale, rate


def natural_key(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorting key that puts 2 before 10."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", text))


class Book:
    """One experimenter's recordings.

    Parameters
    ----------
    raw : Path
        The raw folder.
    report : callable
        Takes findings.

    Attributes
    ----------
    recordings : dict of list of Path
        Files of each recording folder.
    looked : set of str
        Folders in which files were looked for, relative to the raw folder.
    heard : dict of Heard
        Every stimulus that a trigger seen so far presented.
    missing : list of str
        What messages say of the folder of sounds where it is absent, else nothing.
    """

    experimenter: ClassVar[str]
    stimuli: ClassVar[str]
    results: ClassVar[str]
    has_param: ClassVar[bool]

    def __init__(self, raw: Path, report: Report) -> None:
        self.raw, self.report = raw, report
        self.looked: set[str] = set()
        self.recordings = self._list_recordings()
        self.heard: dict[str, Heard] = {}
        self.missing = [] if folders(self.raw, self.stimuli) else [f"no folder {self.stimuli}"]
        if self.recordings and self.missing:
            report(Finding("error", self.stimuli, f"expected the sounds, found {self.missing[0]}",
                           "no recording that needs them can be used; unpack crcns-ac1.zip here"))  # fmt: skip
        self._other: Counter[str] = Counter()
        self._unequal: list[Finding] = []
        self._sounds: dict[Path, Sound | str] = {}

    def identify(self, description: str, ms: float, param: Any) -> Heard:
        """Find the stimulus of a trigger; `ValueError` says why there is none."""
        raise NotImplementedError

    def relative(self, path: Path) -> str:
        """Write a path as findings name it."""
        return path.relative_to(self.raw).as_posix()

    def scan(self, path: Path) -> Recording | None:
        """Triggers of one file; None, with a finding, where it cannot be read, or where none is a natural sound."""
        file = self.relative(path)
        try:
            found = matlab.load(path, "triggers", *(["param"] if self.has_param else []))
            if "triggers" not in found:
                message = "expected the variable 'triggers', but there is none, or the file is cut short before it"
                raise ValueError(f"{message}; unpack the archive again")
            if not (triggers := matlab.elements(found["triggers"])):
                self.report(Finding("info", file, "'triggers' is empty", "it adds no trial"))
            param = found.get("param")
            site, how = self._word(param, "site"), self._word(param, "type")
        except (RawDataError, ValueError) as error:
            what = error.message if isinstance(error, RawDataError) else str(error)
            self.report(Finding("error", file, what, "the file is left out"))
            return None
        notes: dict[tuple[str, str], list[int]] = defaultdict(list)
        presentations = []
        at: dict[int, int] = {}
        for number, trigger in enumerate(triggers, 1):
            try:
                kind = matlab.text(matlab.field(trigger, "type")).lower()
                if "".join(kind.split()) not in NATURAL:
                    self._other[kind] += 1
                    continue
                onset, ms, heard = self._presented(trigger, param)
            except ValueError as error:
                notes[str(error), _LEFT_OUT].append(number)
                continue
            self.heard.setdefault(heard.id, heard)
            if other := next((n for o, n in at.items() if abs(o - onset) <= _NEAR), 0):
                notes[
                    f"the same onset as trigger {other}", "they are kept; if it was copied, a response counts twice"
                ].append(number)
            at.setdefault(onset, number)
            presentations.append(Presentation(number, onset, ms, heard.id))
            if not as_long(heard.seconds, ms):
                note = f"trigger {number} lasts {ms:g} ms, its sound {heard.id} {1000 * heard.seconds:g} ms"
                self._unequal.append(Finding("warning", file, note, "the response is as long as the trigger says"))
        for (what, consequence), numbers in notes.items():
            self.report(Finding("warning", file, f"{name_triggers(numbers)}: {what}", consequence))
        return Recording(file, site, how, tuple(presentations)) if presentations else None

    def report_totals(self) -> None:
        """Report what is the same for many triggers, once: other kinds, lengths that are not those of the sounds."""
        if self._unequal:
            first, more = self._unequal[0], len(self._unequal) - 1
            self.report(replace(first, what=first.what + f", and {more} more triggers like it" * (more > 0)))
        if self._other:
            kinds = ", ".join(f"{n} {kind or 'unnamed'}" for kind, n in sorted(self._other.items()))
            self.report(Finding("info", self.experimenter, f"triggers of other kinds: {kinds}", "they are not read"))

    def _presented(self, trigger: Any, param: Any) -> tuple[int, float, Heard]:
        own = matlab.field(trigger, "param")
        time, ms = matlab.number(matlab.field(trigger, "time")), matlab.number(matlab.field(own, "duration"))
        if not math.isfinite(time) or not 0 < ms < math.inf:
            raise ValueError(f"expected an onset and a duration, found sample {time:g} and {ms:g} ms")
        return round(time) - 1, ms, self.identify(matlab.text(matlab.field(own, "description")), ms, param)

    def _word(self, param: Any, name: str) -> str:
        """A word about the recording; empty, which makes a finding, where the file does not have it."""
        recording = matlab.field(param, "recording") if matlab.has(param, "recording") else None
        return matlab.text(matlab.field(recording, name)) if matlab.has(recording, name) else ""

    def _sound(self, path: Path) -> Sound:
        """Read a stimulus file, once, for its length; `ValueError` where it cannot be used."""
        if path not in self._sounds:
            try:
                samples, rate, description = load_sound(path)
                self._sounds[path] = Sound(path, len(samples), rate, description)
            except RawDataError as error:
                self._sounds[path] = error.message
                self.report(Finding("error", self.relative(path), error.message, "its presentations are left out"))
        sound = self._sounds[path]
        if isinstance(sound, str):
            raise ValueError(f"its stimulus file {self.relative(path)} cannot be used")
        return sound

    def _list_recordings(self) -> dict[str, list[Path]]:
        """Files of each recording folder; a folder that both archives have is one."""
        found: dict[str, list[Path]] = defaultdict(list)
        for folder in (path for parent in folders(self.raw, self.results) for path in sorted(parent.iterdir())):
            hidden = not is_ours(folder.name) or not folder.is_dir()
            files = [] if hidden else ending(folder, ".mat")
            self.looked.add(self.relative(folder))
            if files and _FOLDER.fullmatch(folder.name):
                new = [file for file in files if not any(_same(file, other) for other in found[folder.name])]
                if len(new) < len(files):
                    what = f"{len(files) - len(new)} files are copies of those in another folder of that name"
                    self.report(Finding("warning", self.relative(folder), what, "each is read once"))
                found[folder.name] += self._without_copies(sorted(new, key=lambda file: natural_key(file.name)))
            elif files:
                what = "expected recordings in folders named <yyyymmdd>-<animal>-<number>"
                self.report(Finding("warning", self.relative(folder), what, f"its {len(files)} files are left out"))
        return dict(sorted(found.items()))

    def _without_copies(self, files: list[Path]) -> list[Path]:
        """Report the files of a recording that equal another one; each is read once."""
        kept: dict[tuple[int, bytes], list[Path]] = {}
        for file in files:
            try:
                size = file.stat().st_size
                with file.open("rb") as handle:  # what differs first in files of one size: a few bytes of their traces
                    handle.seek(size // 2)
                    alike = kept.setdefault((size, handle.read(64)), [])
            except OSError:  # reported where it is read
                alike = kept.setdefault((-1, str(file).encode()), [])
            if first := next((other for other in alike if filecmp.cmp(file, other, shallow=False)), None):
                self.report(Finding("warning", self.relative(file), f"it is a copy of {first.name}", "it is left out"))
            else:
                alike.append(file)
        return [file for file in files if any(file in alike for alike in kept.values())]


class Wehr(Book):
    """M. Wehr's recordings: a trigger names its sound by the description in the stimulus file."""

    experimenter = "wehr"
    stimuli = "wehr/Stimuli"
    results = "wehr/Results"
    has_param = False

    def __init__(self, raw: Path, report: Report) -> None:
        super().__init__(raw, report)
        self._by_description: dict[str, list[Sound]] = defaultdict(list)
        if self.recordings:
            self._read_sounds()

    def identify(self, description: str, ms: float, param: Any) -> Heard:
        """Find the file with that description; of several, the one as long as the trigger."""
        sounds = self._by_description.get(_plain(description), [])
        if len(sounds) > 1:
            sounds = [sound for sound in sounds if as_long(sound.samples / sound.rate, ms)]
        if len(sounds) == 1:
            return Heard(f"wehr/{sounds[0].name}", (sounds[0],), sounds[0].description)
        if sounds:
            names = ", ".join(sound.name for sound in sounds)
            raise ValueError(f"its description '{description}' and length are those of {names}")
        raise ValueError(f"no file in {self.stimuli} has its description '{description}' (and, of several, its length)")

    def _read_sounds(self) -> None:
        ignored = []
        inside = ((parent, name) for parent in folders(self.raw, self.stimuli) for name in listing(parent)[0])
        for folder in sorted((p / n for p, n in inside if n.lower() in WEHR_FOLDERS), key=_in_order):
            for path in sorted(ending(folder, ".mat"), key=lambda path: natural_key(path.name)):
                if not path.stem.isdecimal():
                    ignored.append(self.relative(path))
                    continue
                try:
                    self._add(self._sound(path))
                except ValueError:
                    continue  # reported where it was read
        if ignored:
            self.report(Finding("info", ignored[0], f"{len(ignored)} files in {self.stimuli} are not named by a number",
                                "they are no stimuli"))  # fmt: skip

    def _add(self, sound: Sound) -> None:
        """Enter a sound under its description, unless the same samples are there already."""
        entered = self._by_description[_plain(sound.description)]
        for other in entered:
            if other.samples == sound.samples and (load_sound(other.path)[0] == load_sound(sound.path)[0]).all():
                self.report(Finding("info", self.relative(sound.path), f"same sound and description as {other.name}",
                                    f"its presentations go by {other.name}"))  # fmt: skip
                return
        entered.append(sound)


class Asari(Book):
    """H. Asari's recordings: a trigger is a sequence of segments out of the list in the recording file."""

    experimenter = "asari"
    stimuli = "asari/Stimuli"
    results = "*asari-results-*"
    has_param = True

    def __init__(self, raw: Path, report: Report) -> None:
        super().__init__(raw, report)
        self._odd: set[Path] = set()
        # Names as the files on disk have them, looked up without regard to case.
        self._paths: dict[tuple[str, str], Path] = {}
        parents = folders(self.raw, self.stimuli)
        for path in (p for parent in parents for name in listing(parent)[0] for p in ending(parent / name, ".mat")):
            first = self._paths.setdefault((path.parent.name.lower(), path.stem.lower()), path)
            if first is not path and not filecmp.cmp(first, path, shallow=False):
                what = f"there is another sound of that name, {self.relative(first)}, which differs"
                report(Finding("warning", self.relative(path), what, "the other one is used; keep one"))

    def identify(self, description: str, ms: float, param: Any) -> Heard:
        """Join the segments that ``Sequence n: i j k`` lists."""
        match = _SEQUENCE.fullmatch(description)
        if not match:
            raise ValueError(f"expected a description 'Sequence n: i j k', found '{description}'")
        listed = matlab.elements(matlab.field(param, "stimulus"))
        sounds = tuple(self._segment(listed, int(index)) for index in match[2].split())
        for sound in sounds:
            if sound.rate != ASARI_RATE and sound.path not in self._odd:
                self._odd.add(sound.path)
                what = f"a rate of {sound.rate:g} Hz, all published segments have {ASARI_RATE:g} Hz"
                self.report(Finding("warning", self.relative(sound.path), what, "the file is believed"))
        if len({sound.rate for sound in sounds}) > 1:
            rates = ", ".join(f"{sound.name} {sound.rate:g} Hz" for sound in sounds)
            raise ValueError(f"its segments differ in rate: {rates}")
        classes = {sound.folder for sound in sounds}
        names = [sound.path.stem if len(classes) == 1 else sound.name for sound in sounds]
        return Heard("/".join(["asari", *(classes if len(classes) == 1 else ()), "+".join(names)]), sounds, description)

    def _segment(self, listed: list[Any], index: int) -> Sound:
        if not 1 <= index <= len(listed):
            raise ValueError(f"it names segment {index}, but param.stimulus has {len(listed)}")
        file = matlab.text(matlab.field(listed[index - 1], "file"))
        match = _SEGMENT.fullmatch(file.strip())
        path = self._paths.get((match[1].lower(), match[2].lower())) if match else None
        if path is None:
            raise ValueError(f"its stimulus file '{file}' is not in {self.stimuli}")
        return self._sound(path)


def folders(raw: Path, pattern: str) -> list[Path]:
    """Folders of that name, without regard to case, below up to two outer folders."""
    depths = ("", "[!.]*/", "[!.]*/[!.]*/")
    letters = "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in pattern)
    return sorted(path for depth in depths for path in raw.glob(depth + letters) if path.is_dir())


def _in_order(folder: Path) -> tuple[Path, int]:
    return folder.parent, WEHR_FOLDERS.index(folder.name.lower())


def books(raw: Path, names: Iterable[str], report: Report) -> list[Book]:
    """List the recordings of each experimenter that are there; those in other folders are reported.

    Parameters
    ----------
    names : iterable of str
        All files below the raw folder.
    """
    both = (Wehr(raw, report), Asari(raw, report))
    looked = both[0].looked | both[1].looked
    inside = (name for name in names if any(map(_FOLDER.fullmatch, name.split("/")[:-1])))
    if unread := [name for name in inside if name.rpartition("/")[0] not in looked]:
        what = f"recordings are looked for in {Wehr.results}/<recording> and {Asari.results}/<recording>"
        report(Finding("warning", unread[0], f"{what}, not here", f"files like it are left out: {len(unread)}"))
    return [book for book in both if book.recordings]


def name_triggers(numbers: list[int]) -> str:
    """Write trigger numbers as findings name them."""
    return f"trigger{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _same(file: Path, other: Path) -> bool:
    return file.name == other.name and file.is_file() and other.is_file() and filecmp.cmp(file, other, shallow=False)


def _plain(description: str) -> str:
    return " ".join(description.lower().split())


def as_long(seconds: float, ms: float) -> bool:
    """Whether a trigger's duration is that of a sound, to 1 % or 20 ms: both are rounded in the files."""
    return abs(seconds - ms / 1000) <= max(0.01 * seconds, 0.02)
