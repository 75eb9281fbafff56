"""What a pipeline lists, held against `strfcube.limits`: absurd values are left out, with a finding."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube import limits
from strfcube.cube.schema import meta_problem
from strfcube.errors import RawDataError, StrfcubeError, UsageError
from strfcube.grid import n_bins
from strfcube.records import Audio, Finding, Length, Neuron, Report, Stimulus, Survey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from strfcube.builder import spool


def checked(survey: Survey, report: Report) -> Survey:
    """The survey without what no recording can be.

    Raises
    ------
    StrfcubeError
        If the pipeline breaks its contract: something is listed twice, is in no source, or lacks a coordinate.
    """
    for kind, ids in (("stimulus", [s.id for s in survey.stimuli]), ("neuron", [n.id for n in survey.neurons])):
        if len(set(ids)) < len(ids):
            twice = sorted(i for i, count in Counter(ids).items() if count > 1)[:3]
            raise StrfcubeError(f"the pipeline lists a {kind} twice: {', '.join(twice)}")
    sources = {s.id for s in survey.sources}
    for neuron in survey.neurons:
        if neuron.source not in sources:
            raise StrfcubeError(f"neuron '{neuron.id}': the pipeline lists no source '{neuron.source}'")
    stimuli = [_stimulus(s, report) for s in survey.stimuli]
    neurons = [_neuron(n, report) for n in survey.neurons]
    for kind, items in (("stimulus", stimuli), ("neuron", neurons)):
        for item in items:
            if problem := meta_problem(kind, item.meta):
                raise StrfcubeError(f"{kind} '{item.id}': {problem}")
    return dataclasses.replace(survey, stimuli=stimuli, neurons=neurons)


def bins_of(stimulus: Stimulus, dt_ns: int, post_ns: int) -> int:
    """Number of bins of a stimulus, 0 where its length is unknown.

    Raises
    ------
    UsageError
        If they are more than a cube can hold.
    """
    count = n_bins(stimulus.length, dt_ns, post_ns)
    refuse_many(count, dt_ns, f"stimulus '{stimulus.id}'")
    return count


def refuse_many(count: int, dt_ns: int, what: str) -> None:
    """Stop where a stimulus has more bins than a cube can hold.

    Raises
    ------
    UsageError
        If so.
    """
    if count > limits.BINS:
        raise UsageError(f"dt={dt_ns / 1e6:g} ms: {what} would have {count:,} bins, {limits.BINS:,} are the most; "
                         "give a larger dt")  # fmt: skip


def one_source_each(survey: Survey, summaries: Sequence[spool.Summary]) -> None:
    """See that no neuron has trials in two sources.

    Raises
    ------
    StrfcubeError
        If one has.
    """
    seen: set[int] = set()
    for s in summaries:
        mine = set(s.neurons[:, 0].tolist())
        if twice := sorted(seen & mine):
            raise StrfcubeError(f"neuron '{survey.neurons[twice[0]].id}' has trials in two sources")
        seen |= mine


def sound_of(stimulus: Stimulus) -> Audio | None:
    """The waveform of a stimulus; None where it has none.

    Raises
    ------
    RawDataError
        If it cannot be read, or no sound is like that.
    """
    if stimulus.audio is None:
        return None
    audio = stimulus.audio()
    if not _within(audio.rate, limits.SOUND_RATE):
        raise RawDataError(f"{_rate(audio.rate)}: that is no sound", _file(stimulus))
    if audio.samples.dtype.kind == "f" and not (finite := np.isfinite(audio.samples)).all():
        what = f"{int((~finite).sum())} of {finite.size} samples are no finite numbers, the first is sample"
        raise RawDataError(f"{what} {int(np.argmin(finite))}: that is no whole sound; fetch it again", _file(stimulus))
    seconds = len(audio.samples) / audio.rate
    if seconds > limits.SECONDS:
        what = f"a sound of {seconds:g} s: {limits.SECONDS:g} s are the longest"
        raise RawDataError(what, _file(stimulus))
    return audio


def usual_rate(stimuli: Sequence[Stimulus], report: Report) -> float:
    """The lowest sampling rate of the sounds that is no exception; others that are lower are reported.

    An exception is a rate of few sounds, a quarter of those that have the most common one or less: rather a wrong
    header than another recorder. The frequency axis of all sounds does not follow one that is at most half of the
    common one. NaN where no rate is stated.
    """
    rates = Counter(s.rate for s in stimuli if s.audio and not math.isnan(s.rate))
    if not rates:
        return math.nan
    (most, count), total = rates.most_common(1)[0], rates.total()
    odd = {rate for rate, n in rates.items() if rate != most and 4 * n <= count}
    for stimulus in stimuli:
        if stimulus.audio and stimulus.rate in odd:
            what = f"a sampling rate of {stimulus.rate:g} Hz, where {count} of {total} sounds have {most:g} Hz"
            then = "it is believed: if it is wrong, the length and the spectrogram are, too"
            report(Finding("warning", _file(stimulus), what, then))
    return min(rate for rate in rates if rate not in odd or rate > most / 2)


def doubts(
    stimuli: Sequence[Stimulus], sizes: NDArray[np.int64], rates: NDArray[np.float64], prints: Sequence[bytes]
) -> Iterator[Finding]:
    """Sounds that are not as long as the recordings say, of another rate than the others, or the same as another.

    Parameters
    ----------
    stimuli : sequence of Stimulus
        All of them.
    sizes, rates : ndarray [shape=(stim,)]
        Samples and rate in Hz of each sound; 0 where there is none.
    prints : sequence of bytes
        Digest of each sound's samples.
    """
    same: dict[bytes, Stimulus] = {}
    for number in np.flatnonzero(sizes).tolist():
        stimulus, seconds, stated = stimuli[number], sizes[number] / rates[number], stimuli[number].sound_duration
        if abs(seconds - stated) > max(0.02, 0.02 * stated):
            what = f"the sound of {stimulus.id} lasts {seconds:g} s at its rate of {rates[number]:g} Hz"
            then = "the recordings are believed; what the sound lacks is silence"
            yield Finding("warning", _file(stimulus), f"{what}, the recordings say {stated:g} s", then)
        first = same.setdefault(prints[number], stimulus) if _given(stimulus) else stimulus  # else no file was copied
        if first.meta.get("stim_name") != stimulus.meta.get("stim_name"):
            what = f"the sound of {stimulus.id} is that of {first.id}, sample for sample"
            yield Finding(
                "warning", _file(stimulus), what, "both are kept; if one was copied, the other has a wrong sound"
            )


def _given(stimulus: Stimulus) -> Path | None:
    """The raw file that the reader of a sound was given."""
    audio = stimulus.audio
    given = audio.args[0] if isinstance(audio, partial) and audio.args else None
    given = given[0] if isinstance(given, tuple) and given else given
    return given if isinstance(given, Path) else None


def _file(stimulus: Stimulus) -> str:
    return str(_given(stimulus) or stimulus.meta.get("stim_name") or stimulus.id)


def _rate(rate: float) -> str:
    low, high = limits.SOUND_RATE
    return f"a sampling rate of {rate:g} Hz, expected {low:g} to {high:g} Hz"


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _stimulus(stimulus: Stimulus, report: Report) -> Stimulus:
    def tell(what: str, then: str) -> None:
        report(Finding("error", _file(stimulus), f"stimulus {stimulus.id}: {what}", then))

    length = stimulus.length
    changes: dict[str, Any] = {}
    if not math.isnan(stimulus.rate) and not _within(stimulus.rate, limits.SOUND_RATE):
        tell(_rate(stimulus.rate), "its sound is missing, and its length is taken as unknown")
        known = {key: None if key == "sample_rate" else value for key, value in stimulus.meta.items()}
        changes = {"audio": None, "length": Length.unknown(), "meta": known}
    elif not (math.isnan(length.seconds) or 0 < length.seconds <= limits.SECONDS):
        tell(f"a length of {length.seconds:g} s, expected more than 0 and {limits.SECONDS:g} at most",
             "its length is taken as unknown")  # fmt: skip
        changes = {"length": Length.unknown()}
    if not abs(stimulus.sound_onset) <= limits.SECONDS:
        tell(f"a sound that begins {stimulus.sound_onset:g} s from onset", "it is taken to begin at onset")
        changes["sound_onset"] = 0.0
    if not (math.isnan(stimulus.sound_duration) or 0 <= stimulus.sound_duration <= limits.SECONDS):
        tell(f"a sound of {stimulus.sound_duration:g} s", "it is taken to last to the end of the stimulus")
        changes["sound_duration"] = math.nan
    meta = _meta(changes.get("meta", stimulus.meta), tell)
    if meta is not None:
        changes["meta"] = meta
    return dataclasses.replace(stimulus, **changes) if changes else stimulus


def _neuron(neuron: Neuron, report: Report) -> Neuron:
    def tell(what: str, then: str) -> None:
        report(Finding("error", neuron.source, f"neuron {neuron.id}: {what}", then))

    meta = _meta(neuron.meta, tell)
    return neuron if meta is None else dataclasses.replace(neuron, meta=meta)


def _meta(meta: Mapping[str, Any], tell: Any) -> dict[str, Any] | None:
    """Coordinates without values that a cube cannot hold; None where all fit."""
    changed: dict[str, Any] = {}
    for key, value in meta.items():
        if isinstance(value, int) and not -limits.INTEGER <= value <= limits.INTEGER:
            tell(f"{key} is a number of {len(str(abs(value)))} digits, 18 are the most", "it is left out")
            changed[key] = None
        elif isinstance(value, str) and len(value) > limits.TEXT:
            tell(f"{key} is a text of {len(value):,} characters, {limits.TEXT:,} are the most", "it is left out")
            changed[key] = ""
    return {**meta, **changed} if changed else None
