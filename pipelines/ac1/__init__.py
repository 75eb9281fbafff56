"""AC1: membrane potentials and cell-attached spikes in auditory cortex and thalamus of the anaesthetised rat.

What it is
    78 cells of Anthony Zador's laboratory that heard natural sounds. M. Wehr, 2002 to 2003: 25 whole-cell recordings
    in A1, action potentials blocked, 4 kHz. H. Asari, 2005 to 2007: 39 cells in A1 and 14 in the auditory thalamus
    (MGB), whole-cell and cell-attached, 10 kHz. Whole-cell recordings are traces in mV, signed; cell-attached ones
    are spikes.
Papers
    Machens CK, Wehr MS, Zador AM (2004). Linearity of cortical receptive fields measured with natural sounds.
    J Neurosci 24(5): 1089-1100. https://doi.org/10.1523/JNEUROSCI.4445-03.2004

    Asari H, Zador AM (2009). Long-lasting context dependence constrains neural encoding models in rodent auditory
    cortex. J Neurophysiol 102(5): 2638-2656. https://doi.org/10.1152/jn.00577.2009
Data
    Asari H, Wehr M, Machens C, Zador AM (2009). CRCNS.org, https://doi.org/10.6080/K0KW5CXR. Terms of CRCNS: free
    account, scientific use only, no redistribution.

The raw folder holds what the three archives unpack to, with or without the archives' own outer folders::

    crcns-ac1/wehr/Stimuli/<folder>/<int>.mat                   a sound; fragments, category1, category2, category3
    crcns-ac1/wehr/Results/<yyyymmdd>-mw-<NNN>/*.mat            a cell; one trigger a file
    crcns-ac1/asari/Stimuli/class<N>/<name>.mat                 a segment of a sound
    crcns-ac1-asari-results-{1,2}/asari-results-{1,2}/<yyyymmdd>-ha<N>-<NNN>/*.mat    a cell; many triggers a file

What to know about it
    * A stimulus is what its files are: ``wehr/category1/12``, or the segments that an Asari trigger names,
      ``asari/class6/3+3l``. Descriptions do not tell Asari's sequences apart: the same order exists in several classes.
      Of Wehr's files with one and the same description, the one as long as the trigger says is taken.
    * Asari's segments are ramped (sin^2, ``ramp_ms``) at both ends and joined, as they were played. Wehr's files are
      played as they are.
    * Triggers of other kinds (tones, chords, TORCs) are counted in a finding and not read.
    * A response is as long as its trigger says or as the trace goes on: it is never cut to a shorter repeat or to
      another cell's. Nothing after it is kept, so ``--post`` adds no response. The last bin is missing where the sound
      ends inside it.
    * The whole trace of a file is detrended (`strfcube.pipelines.membrane`) before presentations are cut out of it, so
      that the samples around them, not mirror images, decide at their ends.
    * Repeats of whole-cell recordings are gated by range, step and correlation, each rejected one recorded with the
      test and the value that failed it. Cell-attached ones are gated by range and step only: the correlation of
      sampled traces is meant for potentials, and a cell that fires rarely would fail it.
    * Spikes of cell-attached recordings, cortical ones too, are peaks above ``spike_threshold`` standard deviations of
      the noise of the whole file, at the sample of the peak. The noise is measured by the median absolute deviation,
      which spikes hardly touch. The published analysis took 2.5 standard deviations of the whole trace and counted
      every sample above it (``spike_noise=std, spike_threshold=2.5`` is its threshold): in a quiet cell that is noise.
      A cell whose spikes cannot be told from noise has a finding.
    * ``valid_unit`` leaves out Wehr's cells 1, 2, 4 and 8 in the order of the folders (three that did not respond, one
      with too few data), as the papers did. The published split counts per cell do not fit the data, so there is no
      ``split``.
    * A cell whose files were recorded in both ways, or at both sites, is one neuron for each.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from strfcube.cube.schema import area_of
from strfcube.errors import RawDataError, UsageError
from strfcube.pipelines.ac1.raw import (
    TRACE_RATES,
    Asari,
    Book,
    Heard,
    Recording,
    Wehr,
    as_long,
    books,
    folders,
    load_sound,
    load_trace,
    name_triggers,
    natural_key,
)
from strfcube.pipelines.membrane import Detected, Gates, detrend, doubt, find_spikes, gate
from strfcube.pipelines.raw_folder import ARCHIVES, listing
from strfcube.records import Audio, Finding, Length, Neuron, Option, Pipeline, Report, Source, Stimulus, Survey, Trial
from strfcube.sound.audio import to_float

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

WEHR_CELLS = 25
_QUIET = 0.02  # mV; standard deviation of a potential
_RESULTS = re.compile(r"asari-results-\d+")
WEHR_EXCLUDED = (1, 2, 4, 8)


class AC1(Pipeline):
    """Reads the AC-1 release; see the module's text for the data set.

    Parameters
    ----------
    raw : path
        Folder with the unpacked archives; those of one experimenter are enough.
    **options
        Widths, thresholds and gates, see `options`. A median of 0 ms leaves the drift in.

    Raises
    ------
    UsageError
        If a width or a threshold is negative.
    """

    files: ClassVar[tuple[str, ...]] = ("*.mat",)
    coordinates: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stim_name": (), "stim_type": (), "stim_category": ("natural",), "stim_class": (),
        "experimenter": ("wehr", "asari"), "n_segments": (), "segment_files": (), "sequence": (), "sample_rate": (),
        "cell_id": (), "animal": (), "species": ("rat",), "area": (), "region": ("A1", "MGB"), "area_label": (),
        "signal_type": ("membrane_potential", "spikes"), "units": ("mV", "count"), "date": (), "penetration": (),
        "recording_type": ("whole-cell", "cell-attached"), "valid_unit": (),
    }  # fmt: skip
    options: ClassVar[tuple[Option, ...]] = (
        Option("detrend_median_ms", float, 100.0, "median window of the drift, ms; 0 leaves the drift in"),
        Option("detrend_sigma_ms", float, 10.0, "standard deviation of the Gaussian that smooths the drift, ms"),
        Option("gate_range_mv", float, 150.0, "reject a repeat that deviates more than this, mV"),
        Option("gate_step_mv", float, 30.0, "a sample further than this from the repeat's median is in a jump, mV"),
        Option("gate_step_fraction", float, 0.005, "reject a repeat with more than this fraction of samples in jumps"),
        Option("gate_step_median_ms", float, 5.0, "median window before jumps are counted, ms"),
        Option("gate_min_r", float, 0.05, "reject a repeat that correlates less with the median of the others"),
        Option("spike_median_ms", float, 10.0, "median window taken off before spikes are detected, ms"),
        Option(
            "spike_noise",
            str,
            "mad",
            "noise by median absolute deviation, or by that of the trace (std, as published)",
            ("mad", "std"),
        ),
        Option(
            "spike_threshold", float, 5.0, "threshold of a spike, in standard deviations of the noise (published: 2.5)"
        ),
        Option("spike_refractory_ms", float, 2.0, "two spikes are at least this far apart, ms"),
        Option("ramp_ms", float, 5.0, "ramps of Asari's segments, ms"),
    )

    def __init__(self, raw: Path | str, **options: Any) -> None:
        super().__init__(raw, **options)
        for name, value in self.settings.items():
            if name not in ("gate_min_r", "spike_noise") and not value >= 0:
                raise UsageError(f"{name}={value!r}: expected a number of at least 0")

    def survey(self, report: Report) -> Survey:
        """List the cells, and the stimuli that they heard: triggers and sounds are read, traces are not.

        Raises
        ------
        RawDataError
            If neither experimenter's recordings are there, or none of them can be used.
        """
        stimuli: list[Stimulus] = []
        neurons: list[Neuron] = []
        sources: list[Source] = []
        recorded: list[str] = []
        self._packed(report)
        for book in books(self.raw, [file.name for file in self.listing()], report):
            recorded += [f"{len(book.recordings)} folders of {book.experimenter}'s", *book.missing]
            if book.experimenter == "wehr" and len(book.recordings) != WEHR_CELLS:
                what = f"{len(book.recordings)} recording folders, the published selection is of {WEHR_CELLS}"
                report(Finding("warning", Wehr.results, what, "valid_unit goes by their order and may be wrong"))
            for rank, (folder, paths) in enumerate(book.recordings.items()):
                valid = book.experimenter != "wehr" or rank not in WEHR_EXCLUDED
                recordings = [recording for recording in map(book.scan, paths) if recording]
                if not recordings:
                    report(Finding("info", book.relative(paths[0].parent), "no natural sound that could be used",
                                   "the cell is left out"))  # fmt: skip
                for neuron, cell in _cells(folder, recordings, book, report):
                    neurons.append(replace(neuron, meta={**neuron.meta, "valid_unit": valid}))
                    sources.append(Source(neuron.id, cell))
            book.report_totals()
            in_order = sorted(book.heard.values(), key=lambda heard: natural_key(heard.id))
            stimuli += [_stimulus(heard, book, self.settings["ramp_ms"]) for heard in in_order]
        if recorded and not neurons:
            raise RawDataError(f"found {', '.join(recorded)}, but in no recording a natural sound that could be used; "
                               "see that the sounds of crcns-ac1.zip are unpacked here", self.raw)  # fmt: skip
        if not neurons:
            raise RawDataError("expected natural-sound recordings in crcns-ac1/wehr/Results or "
                               "crcns-ac1-asari-results-1 and -2, found none; unpack the archives here",
                               self.raw)  # fmt: skip
        return Survey(stimuli, neurons, sources)

    def read(self, source: Source, report: Report) -> Iterator[Trial]:
        """Yield the trials of one cell, stimulus after stimulus, in the order of its files; rejected ones too.

        A file that cannot be read is a finding, and its trials are left out.
        """
        cell: Cell = source.payload
        groups: dict[tuple[str, float], list[_Cut]] = defaultdict(list)
        detected: list[Detected] = []
        for recording in cell.recordings:
            try:
                cuts = self._cut(recording, detected if cell.attached else None, report)
            except RawDataError as error:
                left_out = f"its {len(recording.presentations)} presentations are left out"
                report(Finding("error", recording.file, error.message, left_out))
                continue
            for cut in cuts:
                groups[cut.stimulus, cut.rate].append(cut)
        if detected and (why := doubt(np.concatenate([d.excess for d in detected]), sum(d.mirrored for d in detected))):
            what = f"spikes cannot be told from noise: {why}"
            then = "its counts may be off by more than a tenth (spike_threshold, spike_noise)"
            report(Finding("warning", cell.recordings[0].file.rpartition("/")[0], what, then))
        s = self.settings
        gates = Gates(s["gate_range_mv"], s["gate_step_mv"], s["gate_step_fraction"], s["gate_step_median_ms"],
                      s["gate_min_r"])  # fmt: skip
        repeat: Counter[str] = Counter()
        for (stimulus, rate), cuts in groups.items():
            verdicts = gate([cut.trace for cut in cuts], rate, gates, correlate=not cell.attached)
            for cut, (test, value) in zip(cuts, verdicts, strict=True):
                response: dict[str, Any] = {"trace": cut.trace, "rate": rate}
                if cell.attached:
                    response = {"spike_times": cut.spike_times}
                repeat[stimulus] += 1
                yield Trial(
                    stimulus, cell.neuron, repeat[stimulus], **response, window=(0.0, len(cut.trace) / rate),
                    file=cut.file, rejected_by=test, value=value,
                )  # fmt: skip

    def _packed(self, report: Report) -> None:
        """Report the archives of recordings that are still packed."""
        unpacked = " ".join(folder.name for folder in folders(self.raw, Asari.results))
        for name in listing(self.raw)[1]:
            own = _RESULTS.search(name)
            if own and name.lower().endswith(ARCHIVES) and own[0] not in unpacked and name not in self.without:
                report(Finding("warning", name, "the archive is not unpacked", "the cube lacks what it holds"))

    def _cut(self, recording: Recording, detected: list[Detected] | None, report: Report) -> list[_Cut]:
        """Cut the presentations out of the detrended trace of one file; spikes found in it are added to `detected`."""
        s = self.settings
        millivolts, rate = load_trace(self.raw / recording.file)
        if rate not in TRACE_RATES:
            what = f"'response.sf' is {rate:g} Hz, the recordings have {' or '.join(f'{r:g}' for r in TRACE_RATES)} Hz"
            report(Finding("warning", recording.file, what, "the file is believed"))
        trace = detrend(millivolts, rate, s["detrend_median_ms"], s["detrend_sigma_ms"])
        there = trace[np.isfinite(trace)]
        if detected is None and len(there) and 0 < there.std() < _QUIET:
            what = f"the potential varies by {there.std():.2g} mV in the whole file, less than an amplifier's own noise"
            report(Finding("warning", recording.file, what, "it is kept; see whether response.scale gives mV"))
        spikes = np.empty(0, np.int64)
        if detected is not None:
            detected.append(find_spikes(trace, rate, s["spike_threshold"], s["spike_median_ms"],
                                        s["spike_refractory_ms"], s["spike_noise"]))  # fmt: skip
            spikes = detected[-1].at
        cuts = []
        notes: dict[tuple[str, str], list[int]] = defaultdict(list)
        for trigger, onset, ms, stimulus in recording.presentations:
            n = round(ms * rate / 1000)
            if not 0 <= onset < len(trace) or not n:
                note = f"the presentation lies outside the trace, which has {len(trace)} samples"
                notes[note, "these presentations are left out"].append(trigger)
                continue
            piece = trace[onset : onset + n].copy()
            if not as_long(len(piece) / rate, ms):
                notes["the trace ends before the sound", "the rest of the response is missing"].append(trigger)
            if np.isnan(piece).any():
                notes["some samples are no finite numbers", "rejected by the range test"].append(trigger)
            first, last = np.searchsorted(spikes, (onset, onset + len(piece)))
            cuts.append(_Cut(recording.file, stimulus, rate, piece, (spikes[first:last] - onset) / rate))
        for (what, consequence), triggers in notes.items():
            report(Finding("warning", recording.file, f"{name_triggers(triggers)}: {what}", consequence))
        return cuts


@dataclass(frozen=True)
class Cell:
    """What `AC1.read` needs: a neuron, how it was recorded, and its files."""

    neuron: str
    attached: bool
    recordings: tuple[Recording, ...]


@dataclass(frozen=True)
class _Cut:
    """One presentation cut out of a file's trace; spike times in s from its onset."""

    file: str
    stimulus: str
    rate: float
    trace: NDArray[np.float32]
    spike_times: NDArray[np.float64]


def join_sounds(paths: Sequence[Path], ramp_ms: float) -> Audio:
    """Waveform of a stimulus: its files one after the other, each with sin^2 ramps at both ends.

    Parameters
    ----------
    paths : sequence of Path
        Stimulus files of one rate.
    ramp_ms : float
        Length of each ramp in ms; 0 leaves the samples as the files have them.

    Returns
    -------
    Audio
        The rate is the files' own.
    """
    pieces = []
    rate = math.nan
    for path in paths:
        samples, rate, _ = load_sound(path)
        n = min(round(ramp_ms * rate / 1000), len(samples) // 2)
        if n:
            samples = to_float(samples)
            ramp = np.sin(np.pi / 2 * np.arange(n) / n) ** 2
            samples[:n] *= ramp
            samples[-n:] *= ramp[::-1]
        pieces.append(samples)
    if len({piece.dtype for piece in pieces}) > 1:  # whole numbers and fractions of full scale
        pieces = [to_float(piece) for piece in pieces]
    return Audio(np.concatenate(pieces), rate)


def _stimulus(heard: Heard, book: Book, ramp_ms: float) -> Stimulus:
    sequenced = isinstance(book, Asari)
    audio = partial(join_sounds, tuple(sound.path for sound in heard.sounds), ramp_ms if sequenced else 0.0)
    folders = sorted({sound.folder for sound in heard.sounds})
    meta = {
        "stim_name": heard.id.partition("/")[2], "stim_type": heard.description, "stim_category": "natural",
        "stim_class": folders[0] if len(folders) == 1 else "mixed", "experimenter": book.experimenter,
        "n_segments": len(heard.sounds), "segment_files": " ".join(f"{sound.name}.mat" for sound in heard.sounds),
        "sequence": " ".join(heard.description.partition(":")[2].split()) if sequenced else "",
        "sample_rate": heard.sounds[0].rate,
    }  # fmt: skip
    length = Length.of_samples(sum(sound.samples for sound in heard.sounds), heard.sounds[0].rate, "mat")
    return Stimulus(heard.id, length, audio, meta=meta)


def _cells(folder: str, recordings: Sequence[Recording], book: Book, report: Report) -> Iterator[tuple[Neuron, Cell]]:
    """Make the neurons of a recording folder: one, unless its files differ in site or in the way of recording."""
    groups: dict[tuple[str, bool], list[Recording]] = defaultdict(list)
    for recording in recordings:
        area = "A1" if isinstance(book, Wehr) or "cortex" in recording.site.lower() else "MGB"
        if book.has_param and not recording.site.strip():
            area = "unknown"
            report(Finding("warning", recording.file, "param.recording.site is empty", "its area is unknown"))
        if book.has_param and not recording.type.strip():
            report(Finding("warning", recording.file, "param.recording.type is empty", "taken for whole-cell"))
        groups[area, "attached" in recording.type.lower()].append(recording)
    if len(groups) > 1:
        where = book.relative(book.recordings[folder][0].parent)
        report(Finding("info", where, "its files differ in site or recording type", f"{len(groups)} neurons"))
    date, animal, penetration = folder.split("-")
    for (area, attached), files in sorted(groups.items()):
        how = "cell-attached" if attached else "whole-cell"
        id_ = folder if len(groups) == 1 else f"{folder}-{area}-{how}"
        area, region = area_of(area) or ("unknown", "unknown")
        meta = {
            "cell_id": folder, "animal": animal, "species": "rat", "area": area, "region": region,
            "area_label": files[0].site, "signal_type": "spikes" if attached else "membrane_potential",
            "units": "count" if attached else "mV", "experimenter": book.experimenter, "date": date,
            "penetration": int(penetration), "recording_type": how,
        }  # fmt: skip
        yield Neuron(id_, id_, meta), Cell(id_, attached, tuple(files))
