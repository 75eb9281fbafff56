"""NS1: natural sounds and dynamic random chords in the primary auditory cortex of the anaesthetised ferret.

What it is
    119 units from five acute experiments, all below a noise ratio of 40. Every unit heard 20 natural clips of 5 s, 20
    times each, and 12 dynamic random chords (DRC), 5 times each: 54,740 trials, 103 of them without a spike,
    3,627,155 spikes.
Paper
    Harper, Schoppe, Willmore, Cui, Schnupp, King (2016). Network receptive field modeling reveals extensive
    integration and multi-feature selectivity in auditory cortical neurons. PLoS Comput Biol 12(11): e1005113.
Licence
    None is stated with the files (https://osf.io/ayw2p/): do not redistribute them; cite the paper.

The raw folder holds::

    MetadataSHEnCneurons.mat                                     struct `neuron`: path, depth, NoiseRatio, singleT, ...
    spikesandwav/<group>/<penetration>/cluster.<NN>.data.mat     one unit: data.set(s).repeats(r).t in ms
    spikesandwav/SH.En.C/source.1....fw.2.frozen.<1-12>          wavs without extension, nat01 to nat12
    spikesandwav/SH.En.C/source.2....fw.1.frozen.<1-8>           nat13 to nat20

What to know about it
    * A clip is what ``stim_params`` says (Source, Token, Set, StimID): the wav's name holds Set as ``fw`` and StimID as
      ``frozen``. Sets 1 to 20 are the natural clips in numeric order, which is not the order of a directory listing.
    * The sounds of the DRC clips are not in the release, nor is anything that states their length: 5 s is what is
      documented, and where responses fall off. They are left out unless asked for (``drc``), without spectrogram.
    * The header of the wavs rounds their rate, 48,828.125 Hz. Four clips have 244,141 samples, the others 244,140.
      Samples are in pascals: their rms is the nominal level of the clip (80 dB SPL, but 82 for nat13, 75 for nat19).
    * The sweep was recorded for 5.20 or 5.24 s (``length_signal_ms``), so responses after the sound exist (``--post``).
    * Times within a trial are not always in order, and a trial without spikes is an empty uint8 array.
    * File names repeat from folder to folder (``cluster.05.data.mat``), so a unit goes by its path.
    * Negative depths mean that the depth is not known.
    * ``valid_unit`` is the selection of Rahman et al. 2019 (73 units): singleT is Yes or Maybe and the depth is known.
      ``split`` is theirs, too: nat04, nat07, nat10 and nat20 test the model.
    * ``animal`` is the experiment that a folder name begins with (E1, exp42, exp45, exp53, exp57); each spans three
      days at most, so it stands for one ferret. Folders that differ only in L and R, U and D, or the shank were
      recorded at the same time.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from strfcube.errors import RawDataError
from strfcube.pipelines import matlab
from strfcube.pipelines.raw_folder import elsewhere
from strfcube.records import Finding, Length, Neuron, Option, Pipeline, Report, Source, Stimulus, Survey, Trials
from strfcube.sound.audio import read_wav

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

METADATA = "MetadataSHEnCneurons.mat"
UNITS = "spikesandwav"
WAVS = "spikesandwav/SH.En.C"
RATE = 48828.125
HEADER_RATE = 48828
CLIP_SECONDS = 5.0
_CLIP_TOLERANCE = 0.01  # s; the published clips are of 244,140 or 244,141 samples
_SWEEP_SECONDS = (5.0, 5.5)  # published ones are of 5.2 to 5.24 s

_FIELDS = ("path", "NrOfElectrodes", "ElectrodeNumber", "depth", "NoiseRatio", "singleT", "singleN")
_NUMBERS = ("NrOfElectrodes", "ElectrodeNumber", "depth", "NoiseRatio", "singleN")
_RATINGS = ("Yes", "Maybe", "No")
_TYPES = dict.fromkeys((1, 20), "water_sounds") | dict.fromkeys((9, 10, 11, 12), "human_speech")
_TYPES |= {4: "ferret_vocalization", 7: "insects_buzzing"}
_CATEGORIES = {
    "water_sounds": "environmental", "ferret_vocalization": "vocalization", "insects_buzzing": "environmental",
    "human_speech": "speech", "unknown": "natural", "drc": "drc",
}  # fmt: skip
_LEVELS = {13: 82.0, 19: 75.0}
_RAHMAN_TEST = {4, 7, 10, 20}
_AGAIN = "fetch it, or unpack spikesandwav.zip, again"


@dataclass(frozen=True)
class _Clip:
    """A row of the table of sounds, which is the same in all units and in the order of ``data.set``."""

    id: str
    source: int
    token: int
    set: int
    stim_id: int
    type: str
    level_db: float
    split: str
    file: str = ""

    @property
    def key(self) -> tuple[int, ...]:
        return self.source, self.token, self.set, self.stim_id


def _natural(number: int) -> _Clip:
    source, fw, frozen = (1, 2, number) if number <= 12 else (2, 1, number - 12)
    return _Clip(
        f"nat{number:02d}", source, 0, fw, frozen, _TYPES.get(number, "unknown"), _LEVELS.get(number, 80.0),
        "test" if number in _RAHMAN_TEST else "train",
        f"{WAVS}/source.{source}.sound.0.snr.0.token.0.fw.{fw}.frozen.{frozen}",
    )  # fmt: skip


NATURAL = tuple(_natural(number) for number in range(1, 21))
DRC = tuple(_Clip(f"drc{i + 1:02d}", 9, i // 4, 10 * (i % 4 + 1), 0, "drc", 75.0, "") for i in range(12))
_CLIP_OF = {clip.key: clip for clip in NATURAL + DRC}
_AT = dict(enumerate(NATURAL + DRC, 1))


class NS1(Pipeline):
    """Reads the NS1 release; see the module's text for the data set.

    Parameters
    ----------
    raw : path
        Folder with ``MetadataSHEnCneurons.mat`` and ``spikesandwav/``.
    drc : bool
        Bring in the 12 DRC clips, whose sounds are not in the release.
    """

    files: ClassVar[tuple[str, ...]] = ("*.mat", "source.*")
    coordinates: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stim_name": (), "stim_type": (), "stim_category": (), "stim_file": (), "stim_source": (), "stim_token": (),
        "stim_set": (), "stim_number": (), "level_db": (), "split": ("", "test", "train"), "sample_rate": (), "md5": (),
        "cell_id": (), "animal": (), "species": ("ferret",), "area": (), "region": ("A1",), "area_label": (),
        "signal_type": ("spikes",), "units": ("count",), "group": (), "site": (), "depth": (), "noise_ratio": (),
        "single_t": (), "single_n": (), "n_electrodes": (), "electrode": (), "valid_unit": (),
    }  # fmt: skip
    options: ClassVar[tuple[Option, ...]] = (Option("drc", bool, False, "add the 12 dynamic random chords (no sound)"),)

    def survey(self, report: Report) -> Survey:
        """List clips and units.

        Raises
        ------
        RawDataError
            If the table of units is absent or is another table, or no unit's file is there.
        """
        if not (self.raw / METADATA).exists():
            there = elsewhere(self.raw, METADATA)
            message = f"expected this file, but there is none{there}; give the folder that holds it and spikesandwav/"
            raise RawDataError(message, self.raw / METADATA)
        table = _load(self.raw / METADATA, "neuron")
        columns = {name: _field(table, name, self.raw / METADATA) for name in _FIELDS}
        if not (self.raw / UNITS).is_dir():
            raise RawDataError("expected this folder, but there is none; unpack spikesandwav.zip", self.raw / UNITS)
        neurons: dict[str, Neuron] = {}
        sources = []
        for row in range(table.size):
            path = str(_scalar(columns["path"][row]) or "").strip().replace("\\", "/")
            parts = PurePosixPath(path).parts
            if len(parts) < 3 or ".." in parts or path.startswith("/"):
                report(Finding("error", METADATA, f"row {row + 1} of 'neuron' has the path {path!r}, expected "
                               "<group>/<penetration>/<file>", "this unit is left out"))  # fmt: skip
                continue
            name = re.sub(r"(\.data)?\.mat$", "", path)
            if name in neurons:
                report(Finding("warning", METADATA, f"row {row + 1} of 'neuron' names {path} for the second time",
                               "only the first row is used"))  # fmt: skip
                continue
            if file := self._unit_file(path, report):
                meta = _unit_meta(name, row, {key: _scalar(columns[key][row]) for key in _FIELDS}, report)
                neurons[name] = Neuron(name, name, meta)
                sources.append(Source(name, (name, file)))
        if not neurons:
            raise RawDataError(f"none of the {table.size} units it names is there; {_AGAIN}", self.raw / METADATA)
        return Survey(self._stimuli(report), list(neurons.values()), sources)

    def read(self, source: Source, report: Report) -> Iterator[Trials]:
        """Yield the trials of one unit, clip after clip.

        Raises
        ------
        RawDataError
            If the file is no whole MATLAB 5 file or lacks ``data``, ``set``, ``repeats`` or ``t``.
        """
        neuron, file = source.payload
        path = self.raw / file
        sets = matlab.structs(_field(_load(path, "data"), "set", path)[0])
        repeats_of = _field(sets, "repeats", path)
        clips = _clips_of(sets.ravel(), file, report)
        stops = sets["length_signal_ms"].ravel() if "length_signal_ms" in sets.dtype.names else [None] * sets.size
        stimuli: list[str] = []
        repeats: list[int] = []
        times: list[NDArray[np.float64]] = []
        stop: list[float] = []
        uncounted: list[str] = []
        for clip, trials, end in zip(clips, repeats_of, stops, strict=True):
            if clip is None or (clip.type == "drc" and not self.settings["drc"]) or not trials.size:
                continue
            spikes = [_times(t, path) for t in _field(trials, "t", path)]
            numbers = _repeat_ids(trials)
            if len(set(numbers)) < len(numbers):
                numbers = list(range(1, len(spikes) + 1))
                uncounted.append(clip.id)
            by_number = sorted(range(len(spikes)), key=numbers.__getitem__)
            times += [spikes[k] for k in by_number]
            stimuli += [clip.id] * len(spikes)
            repeats += [numbers[k] for k in by_number]
            stop += [_number(_scalar(end)) / 1000] * len(spikes)
        if uncounted:
            what = f"a repeat_id comes twice in {', '.join(uncounted)}"
            report(Finding("warning", file, what, "they are numbered in the order of the file"))
        wanted = NATURAL + DRC if self.settings["drc"] else NATURAL
        if absent := [clip.id for clip in wanted if clip.id not in set(stimuli)]:
            report(Finding("warning", file, f"no trial of {', '.join(absent)}", "never presented to this unit"))
        if not stimuli:
            return
        ends, row_size = np.array(stop), np.array([len(t) for t in times])
        if np.isnan(ends).any():
            report(Finding("warning", file, f"no length_signal_ms for {np.isnan(ends).sum()} trials",
                           "the end of their recorded window is not known"))  # fmt: skip
        if (odd := (ends < _SWEEP_SECONDS[0]) | (ends > _SWEEP_SECONDS[1])).any():
            low, high = (1000 * edge for edge in _SWEEP_SECONDS)
            what = f"length_signal_ms of {odd.sum()} trials is not {low:g} to {high:g}: {1000 * ends[odd][0]:g}"
            report(Finding("warning", file, what, "the recorded window is taken as stated"))
        spike_times, row_size = _checked(np.concatenate(times) / 1000, row_size, ends, file, report)
        yield Trials(neuron, stimuli, np.array(repeats), row_size, spike_times, 0.0, ends, file)

    def _unit_file(self, path: str, report: Report) -> str:
        """Name of a unit's file relative to the raw folder; empty, with a finding, where there is none."""
        file = f"{UNITS}/{path}"
        if (self.raw / file).is_file():
            return file
        other = f"{UNITS}/{PurePosixPath(path).with_suffix('')}_1.mat"  # the table of some copies lacks the `_1`
        if (self.raw / other).is_file():
            report(Finding("info", other, f"{METADATA} names it {path}", "taken for that unit"))
            return other
        report(Finding("warning", file, f"{METADATA} names this unit, but there is no such file; {_AGAIN}",
                       "the unit is left out"))  # fmt: skip
        return ""

    def _stimuli(self, report: Report) -> list[Stimulus]:
        if absent := [clip.file for clip in NATURAL if not (self.raw / clip.file).is_file()]:
            names = ", ".join(PurePosixPath(file).name for file in absent)
            report(Finding("warning", WAVS, f"no wav file {names}; {_AGAIN}", _without_sound(len(absent))))
        stimuli = [self._stimulus(clip, clip.file not in absent, report) for clip in NATURAL]
        same: dict[str, _Clip] = {}
        for stimulus, clip in zip(stimuli, NATURAL, strict=True):
            if (md5 := str(stimulus.meta["md5"])) and (first := same.setdefault(md5, clip)) is not clip:
                what = f"it is the same file as {PurePosixPath(first.file).name}, which holds another clip"
                report(Finding("warning", clip.file, what, f"{clip.id} and {first.id} have the same sound; {_AGAIN}"))
        if self.settings["drc"]:
            report(Finding("info", UNITS, "the release holds neither the sounds of the DRC clips nor their length",
                           _without_sound(len(DRC))))  # fmt: skip
            stimuli += [self._stimulus(clip, False, report) for clip in DRC]
        return stimuli

    def _stimulus(self, clip: _Clip, has_wav: bool, report: Report) -> Stimulus:
        length, audio, md5, rate = Length(CLIP_SECONDS, "documentation"), None, "", math.nan
        if has_wav:
            path = self.raw / clip.file
            try:
                samples, rate = read_wav(path, lazy=True)
            except RawDataError as error:
                report(Finding("error", clip.file, error.message, _without_sound(1)))
            else:
                if rate != HEADER_RATE:
                    report(Finding("warning", clip.file, f"its header says {rate:g} Hz, expected {HEADER_RATE}",
                                   "the header's rate is used"))  # fmt: skip
                rate = RATE if rate == HEADER_RATE else rate
                length, audio = Length.of_samples(len(samples), rate), partial(read_wav, path, rate)
                if abs(length.seconds - CLIP_SECONDS) > _CLIP_TOLERANCE:
                    what = f"{len(samples)} samples, {length.seconds:g} s, expected a clip of {CLIP_SECONDS:g} s"
                    report(
                        Finding(
                            "warning",
                            clip.file,
                            what,
                            "the wav is believed: bins are as many as it has; fetch it again",
                        )
                    )
                with path.open("rb") as handle:
                    md5 = hashlib.file_digest(handle, "md5").hexdigest()
        meta = {
            "stim_name": clip.id, "stim_type": clip.type, "stim_category": _CATEGORIES[clip.type],
            "stim_file": PurePosixPath(clip.file).name, "stim_source": clip.source, "stim_token": clip.token,
            "stim_set": clip.set, "stim_number": clip.stim_id, "level_db": clip.level_db, "split": clip.split,
            "sample_rate": rate, "md5": md5,
        }  # fmt: skip
        return Stimulus(clip.id, length, audio, meta=meta)


def _without_sound(count: int) -> str:
    return f"{count} stimuli without spectrogram, taken as {CLIP_SECONDS:g} s long as documented; the responses stay"


def _unit_meta(name: str, number: int, row: dict[str, Any], report: Report) -> dict[str, Any]:
    """Coordinates of a unit out of its row of the table; what is not as the others have it is reported."""
    odd = [f"{key} {row[key]!r}" for key in _NUMBERS if row[key] is not None and math.isnan(_number(row[key]))]
    odd += [f"no {key}" for key in (*_NUMBERS, "singleT") if row[key] is None]
    if row["singleT"] is not None and row["singleT"] not in _RATINGS:
        odd.append(f"singleT {row['singleT']!r}")
    if odd:
        what = f"row {number + 1} of 'neuron' has {', '.join(odd)}: expected numbers, and a singleT of Yes, Maybe or No"
        report(Finding("warning", METADATA, what, f"these are missing of {name}, and valid_unit is False without them"))
    group, *penetration, _ = name.split("/")
    experiment = re.match(r"exp\d+|E\d+", group) or re.match(r"exp\d+|E\d+", penetration[0])
    depth, single = _number(row["depth"]), str(row["singleT"]) if row["singleT"] in _RATINGS else ""
    return {
        "cell_id": name, "animal": experiment[0] if experiment else "", "species": "ferret", "area": "A1",
        "region": "A1", "area_label": "A1", "signal_type": "spikes", "units": "count", "group": group,
        "site": "/".join([group, *penetration]), "depth": depth if depth >= 0 else math.nan,
        "noise_ratio": _number(row["NoiseRatio"]), "single_t": single, "single_n": _count(row["singleN"]),
        "n_electrodes": _count(row["NrOfElectrodes"]), "electrode": _count(row["ElectrodeNumber"]),
        "valid_unit": single in ("Yes", "Maybe") and depth >= 0,
    }  # fmt: skip


def _load(path: Path, name: str) -> NDArray[Any]:
    found = matlab.load(path, name)
    if name not in found:
        raise RawDataError(f"expected the variable '{name}', but there is none; {_AGAIN}", path)
    return np.asarray(matlab.structs(found[name]))


def _field(struct: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    """One field of all elements of a struct array, [shape=(n,)]."""
    struct = matlab.structs(struct)
    names = struct.dtype.names or ()
    if name not in names or not struct.size:
        found = f"the fields {', '.join(names)}" if names else f"{struct.dtype} of shape {struct.shape}"
        raise RawDataError(f"expected a struct with the field '{name}', found {found}; {_AGAIN}", path)
    return np.asarray(struct[name]).ravel()


def _scalar(value: Any) -> Any:
    """Get the one number or text of a MATLAB value; None where it is empty."""
    while isinstance(value, np.ndarray) and value.size:
        value = value.ravel().tolist()[0]
    return None if isinstance(value, np.ndarray) else value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _count(value: Any) -> int | float:
    number = _number(value)
    return int(number) if number.is_integer() else math.nan


def _times(t: NDArray[Any], path: Path) -> NDArray[np.float64]:
    if t.dtype.kind not in "fiu":
        raise RawDataError(f"expected spike times in 't', found {t.dtype}; {_AGAIN}", path)
    if t.size > max(t.shape, default=1):
        raise RawDataError(f"expected a row of spike times in 't', found an array of shape {t.shape}; {_AGAIN}", path)
    return t.ravel().astype(np.float64)


def _repeat_ids(trials: NDArray[Any]) -> list[int]:
    """Numbers of the repeats of a clip, from ``repeat_id``; those without spikes, where it is empty, fill the gaps."""
    struct = matlab.structs(trials)
    given = struct["repeat_id"].ravel() if "repeat_id" in struct.dtype.names else [None] * struct.size
    numbers = [_count(_scalar(v)) for v in given]
    free = (number for number in count(1) if number not in numbers)
    return [next(free) if math.isnan(v) else int(v) for v in numbers]


def _clips_of(sets: NDArray[Any], file: str, report: Report) -> list[_Clip | None]:
    """Find the clip of each element of ``data.set`` by its ``stim_params``; None where they are of no known clip."""
    clips: list[_Clip | None] = []
    odd: dict[str, list[str]] = {"moved": [], "strange": [], "silent": []}
    for number, entry in enumerate(sets, 1):
        expected, key = _AT.get(number), _key(entry)
        clip = expected if key is None else _CLIP_OF.get(key)
        clips.append(clip)
        if clip is None:
            odd["strange"].append(f"{number} (Source, Token, Set, StimID = {key or 'not stated'})")
        elif key is None:
            odd["silent"].append(f"{number}")
        elif clip is not expected:
            odd["moved"].append(f"{number} ({clip.id})")
    for kind, what, consequence in (
        ("silent", "no stim_params in set", "taken for the clip of that position"),
        ("strange", "stim_params of no known clip in set", "these sets are left out"),
        ("moved", "stim_params name another clip than in the other units in set", "stim_params is believed"),
    ):
        if odd[kind]:
            report(Finding("warning", file, f"{what} {', '.join(odd[kind])}", consequence))
    return clips


def _key(entry: Any) -> tuple[int, ...] | None:
    """Source, Token, Set and StimID of a set; None where it does not state them all."""
    params: Any = matlab.structs(entry["stim_params"]) if "stim_params" in entry.dtype.names else None
    names = ("Source", "Token", "Set", "StimID")
    if params is None or not params.size or not set(names) <= set(params.dtype.names or ()):
        return None
    values = [_number(_scalar(params[name].ravel()[0])) for name in names]
    return None if any(map(math.isnan, values)) else tuple(map(int, values))


def _checked(
    times: NDArray[np.float64], row_size: NDArray[Any], stop: NDArray[np.float64], file: str, report: Report
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Spike times without those that are no number, and the row sizes that go with them."""
    trial = np.repeat(np.arange(len(row_size)), row_size)
    finite = np.isfinite(times)
    if not finite.all():
        report(Finding("warning", file, f"{np.sum(~finite)} spike times are no finite number", "they are left out"))
        times, trial = times[finite], trial[finite]
        row_size = np.bincount(trial, minlength=len(row_size))
    outside = int(np.sum((times < 0) | (times > stop[trial])))
    if outside:
        report(Finding("warning", file, f"{outside} spike times lie outside the recorded sweep",
                       "kept as times; bins outside the sweep are missing"))  # fmt: skip
    return times, row_size
