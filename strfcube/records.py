"""What a pipeline yields: stimuli, neurons and trials, in seconds, free of bins, Zarr and torch.

A pipeline surveys its raw files cheaply (`Pipeline.survey`), then reads the trials of one *source* at a time
(`Pipeline.read`). A source is whatever one worker should parse in one go: a cell folder, an HDF5 unit, a recording
folder, a site. What a pipeline finds wrong it reports as a `Finding` and goes on; it raises `RawDataError` only where
nothing of the data set can be built.
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from strfcube.raw_files import RawFile, walk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from strfcube.errors import RawDataError

Severity = Literal["info", "warning", "error"]


class Audio(NamedTuple):
    """A waveform as its file holds it.

    Attributes
    ----------
    samples : ndarray [shape=(n,)]
        Mono samples in the file's own dtype; integers are full scale at the limits of their type.
    rate : float
        Sampling rate in Hz, the true one where the header rounds it.
    """

    samples: NDArray[Any]
    rate: float


def counted(number: int, one: str, many: str) -> str:
    """A number and what there is of it: ``1 unit has``, ``2 units have``."""
    return f"{number} {one if number == 1 else many}"


@dataclass(frozen=True, slots=True)
class Length:
    """How long a stimulus is, and who says so.

    Attributes
    ----------
    seconds : float
        Duration in s; NaN when nothing states it, and the cube then covers the last spike.
    source : str
        Who states it: ``"wav"``, ``"table"``, ``"epoch"``, ``"attribute"``, ... or ``"last spike"``.
    samples, rate : int, float
        Number of samples and rate in Hz where the length is that of a waveform (exact); 0 and NaN where it is not.
    """

    seconds: float
    source: str
    samples: int = 0
    rate: float = math.nan

    @classmethod
    def of_samples(cls, samples: int, rate: float, source: str = "wav") -> Length:
        """Length of `samples` samples at `rate` Hz."""
        return cls(samples / rate, source, int(samples), float(rate))

    @classmethod
    def unknown(cls) -> Length:
        """Nothing states the length."""
        return cls(math.nan, "last spike")


STATED = ("sound_onset", "sound_duration", "duration_source", "n_samples", "sample_rate")


@dataclass(frozen=True)
class Stimulus:
    """One sound, as the data set identifies it.

    Attributes
    ----------
    id : str
        Unique within the whole data set, the same in every partial build.
    length : Length
        Length of the whole stimulus, silences that belong to it included.
    audio : callable, optional
        Returns the `Audio`, whose first sample is at `sound_onset`. Must be picklable
        (``functools.partial(read_wav, path)``).
    spectrogram : callable, optional
        Returns a ready-made spectrogram [shape=(frequency, frame)] on the grid of the survey's `ReadyMade`. Must be
        picklable.
    sound_onset : float
        Time from stimulus onset to sound onset, in s.
    sound_duration : float
        Duration of the sound in s; NaN means "until the end of the stimulus".
    meta : mapping
        Coordinates on ``stim``: always ``stim_name``, ``stim_type`` (the data set's own words) and ``stim_category``
        (`strfcube.cube.schema.STIM_CATEGORIES`); more as the data set has them. Values are str, bool, int or float;
        the same keys on every stimulus.
    """

    id: str
    length: Length
    audio: Callable[[], Audio] | None = None
    spectrogram: Callable[[], NDArray[Any]] | None = None
    sound_onset: float = 0.0
    sound_duration: float = math.nan
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Sampling rate of the sound in Hz, of its length or else ``meta["sample_rate"]``; NaN where none is given."""
        given = self.length.rate if self.length.samples else self.meta.get("sample_rate")
        return math.nan if given is None else float(given)

    @property
    def stated(self) -> dict[str, Any]:
        """The coordinates that every stimulus has beside those of `meta`, by the names of `STATED`."""
        until_end = self.length.seconds - self.sound_onset
        duration = until_end if math.isnan(self.sound_duration) else self.sound_duration
        values = float(self.sound_onset), float(duration), self.length.source, self.length.samples, self.rate
        return dict(zip(STATED, values, strict=True))


@dataclass(frozen=True)
class Neuron:
    """One recorded unit or cell.

    Attributes
    ----------
    id : str
        Unique within the whole data set, the same in every partial build.
    source : str
        Id of the `Source` that holds its trials.
    meta : mapping
        Coordinates on ``neuron``: always ``cell_id animal species area region area_label signal_type units``
        (`strfcube.cube.schema.NEURON_COORDS`); more as the data set has them. The same keys on every neuron.
    """

    id: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The unit of parallel work.

    Attributes
    ----------
    id : str
        Unique within the data set; used in file names of the build's ledger.
    payload : object
        Whatever `Pipeline.read` needs to parse it without looking at anything else: small and picklable.
    """

    id: str
    payload: Any = None


@dataclass(frozen=True)
class ReadyMade:
    """The grid of spectrograms that a data set publishes instead of, or beside, its waveforms.

    Attributes
    ----------
    frequencies : tuple of float
        Centre frequencies in Hz.
    dt : float
        Frame step in s.
    units : str
        Unit of the values.
    """

    frequencies: tuple[float, ...]
    dt: float
    units: str


@dataclass(frozen=True)
class Survey:
    """What a data set holds, in the order in which the cube lists it.

    Stimuli and neurons for which no trial is read are left out of the cube, with a finding.

    Attributes
    ----------
    stimuli, neurons, sources : sequence
        All of them.
    ready_made : ReadyMade, optional
        Grid of the published spectrograms.
    lowest_rate : float
        Lowest sampling rate of the whole data set in Hz, where `stimuli` are only a part of it; NaN where they are not.
    """

    stimuli: Sequence[Stimulus]
    neurons: Sequence[Neuron]
    sources: Sequence[Source]
    ready_made: ReadyMade | None = None
    lowest_rate: float = math.nan


@dataclass(frozen=True, slots=True)
class Trial:
    """One presentation of one stimulus to one neuron.

    Attributes
    ----------
    stimulus, neuron : str
        Ids.
    repeat : int
        The raw files' own number of the trial. Kept trials fill the repeats 0..n-1 of the cube in the order in which
        they are yielded.
    spike_times : ndarray [shape=(n,)], optional
        Seconds from stimulus onset, in any order, negative ones and those after the stimulus included. Empty when
        the neuron was silent.
    trace, rate : ndarray [shape=(n,)], float, optional
        A sampled response and its rate in Hz. A bin holds the mean of its samples, or their sum where the neuron's
        units are ``count``.
    trace_start : float
        Time of sample 0 from stimulus onset in s; NaN means the start of the window, or onset where none is stated.
    window : tuple of float
        What was recorded around stimulus onset, in s; NaN where the files do not state it.
    file : str
        The raw file, relative to the raw folder.
    sampled : bool
        Whether a rejected trial without its trace was a sampled one.
    rejected_by, value : str, float
        The test that rejected the trial, and the value that failed it. Empty for a trial that is kept.
    """

    stimulus: str
    neuron: str
    repeat: int
    spike_times: NDArray[Any] | None = None
    trace: NDArray[Any] | None = None
    rate: float = math.nan
    trace_start: float = math.nan
    window: tuple[float, float] = (math.nan, math.nan)
    file: str = ""
    sampled: bool = False
    rejected_by: str = ""
    value: float = math.nan


@dataclass(frozen=True, slots=True)
class Trials:
    """Many kept spike trials of one neuron, in columns: for formats whose trials are too many for a `Trial` each.

    Attributes
    ----------
    neuron : str
        Id.
    stimuli : sequence of str
        Id of each trial's stimulus, n of them.
    repeats : ndarray of int [shape=(n,)]
        The raw files' own trial numbers.
    row_size : ndarray of int [shape=(n,)]
        Number of spikes of each trial.
    spike_times : ndarray of float [shape=(row_size.sum(),)]
        Seconds from stimulus onset, trial after trial.
    start, stop : ndarray of float [shape=(n,)] or float
        Recorded window of each trial in s; NaN where not stated.
    files : sequence of str, or str
        Raw file of each trial, or of all of them, relative to the raw folder.
    """

    neuron: str
    stimuli: Sequence[str]
    repeats: NDArray[Any]
    row_size: NDArray[Any]
    spike_times: NDArray[Any]
    start: NDArray[Any] | float = math.nan
    stop: NDArray[Any] | float = math.nan
    files: Sequence[str] | str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the raw files that is not as it should be, and what follows from it.

    Attributes
    ----------
    severity : {"info", "warning", "error"}
        ``info``: worth knowing, nothing is lost; ``warning``: something is missing or was repaired; ``error``: a part
        of the data could not be read.
    file : str
        Relative to the raw folder.
    what, consequence : str
        One sentence each.
    line : int
        1-based; 0 where lines mean nothing.
    """

    severity: Severity
    file: str
    what: str
    consequence: str
    line: int = 0

    @classmethod
    def of(cls, error: RawDataError, raw: Path, consequence: str) -> Finding:
        """What a raw file that could not be read leaves behind."""
        return cls("error", error.file, error.message, consequence, error.line or 0).below(raw)

    def below(self, raw: Path) -> Finding:
        """The same, its file named from the raw folder on."""
        file = Path(self.file)
        return replace(self, file=file.relative_to(raw).as_posix()) if file.is_relative_to(raw) else self

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}, line {self.line}" if self.line else self.file


Report = Callable[[Finding], None]


@dataclass(frozen=True)
class Option:
    """A flag of one pipeline's recipe: ``--name`` on the command line, a keyword of `strfcube.build`.

    Attributes
    ----------
    name : str
        A Python identifier; the command line writes ``_`` as ``-``.
    type : type
        ``bool`` (a switch), ``int``, ``float`` or ``str``.
    default : object
        Part of the complete default recipe.
    help : str
        One line.
    choices : tuple
        What a ``str`` may be; empty means anything.
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()


class Pipeline(ABC):
    """Reads one data set's raw files. Subclasses are registered as entry points of ``strfcube.pipelines``.

    Parameters
    ----------
    raw : path
        The raw folder.
    **options
        Values of the `options` that the class declares; those not given take their defaults.

    Attributes
    ----------
    files : tuple of str
        Patterns of the names of the files that are read, such as ``*.wav``, without regard to case. A cube is up to
        date as long as these did not change; none means that every file may be read.
    coordinates : mapping of str to tuple of str
        Names of the coordinates that its stimuli and neurons have, each with its values where they are known before a
        raw file is there. A build holds `only` against them before it fetches anything; none means that only the raw
        files tell.
    without : frozenset of str
        Files and folders of the raw folder that hold nothing of what is built, and are left alone: a cube does not
        depend on what was fetched beside it.
    """

    options: ClassVar[tuple[Option, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    coordinates: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    without: frozenset[str] = frozenset()

    def __init__(self, raw: Path | str, **options: Any) -> None:
        # Whatever the working folder is when it is read.
        self.raw = Path(os.path.abspath(os.path.expanduser(raw)))
        self.settings: dict[str, Any] = {o.name: o.default for o in self.options} | options

    def listing(self, seen: Callable[[int], None] | None = None) -> list[RawFile]:
        """The files of the raw folder that are read, links followed; none where it is no folder, or of `without`.

        Parameters
        ----------
        seen : callable, optional
            Called now and then with how many files were found so far.

        Raises
        ------
        RawDataError
            If a link leads back to a folder that holds it.
        """
        if not self.raw.is_dir():
            return []
        wanted = re.compile("|".join(map(fnmatch.translate, self.files or ("*",))), re.IGNORECASE)
        found = []
        for file in walk(self.raw):
            if wanted.match(file.name.rpartition("/")[2]) and file.name.partition("/")[0] not in self.without:
                found.append(file)
                if seen and len(found) % 100 == 0:
                    seen(len(found))
        if seen:
            seen(len(found))
        return found

    @abstractmethod
    def survey(self, report: Report) -> Survey:
        """List stimuli, neurons and sources. Cheap: headers and tables, no trials.

        Raises
        ------
        RawDataError
            If the raw folder is not this data set, or nothing in it can be used.
        """

    @abstractmethod
    def read(self, source: Source, report: Report) -> Iterator[Trial | Trials]:
        """Yield the trials of one source; runs in a worker process, on an instance that has not surveyed.

        Raises
        ------
        RawDataError
            If the source cannot be read; the build records it as a finding and goes on.
        """
