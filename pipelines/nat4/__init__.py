"""NAT4: natural sounds in the auditory cortex of awake ferrets.

Single units (Kilosort) of passively listening ferrets: 849 in the primary field A1 (22 sites), 398 in the secondary
field PEG (11 sites). 593 natural sounds of 1 s, each in an epoch of 1.5 s with 0.25 s of silence on either side: 575
heard once (``subset`` est), 18 heard 20 times (``subset`` val, epoch names ``STIM_00...``), interleaved at random.

==========  ==========================================================================================================
Data        David SV, Pennington JR (2023), Zenodo, doi 10.5281/zenodo.8044773, CC BY 4.0; no account needed
Paper       Pennington JR, David SV (2023), PLoS Computational Biology 19(5): e1011110, doi 10.1371/journal.pcbi.1011110
Files       ``<area>_NAT4_ozgf.fs100.ch18.tgz`` (population), ``<area>_single_sites.zip`` (or a folder of that name),
            ``<area>_pred_correlation.csv``, and, if wanted, ``wav.zip``; areas A1 and PEG, either or both
Format      NEMS recordings (`strfcube.pipelines.nems`), read where they lie
==========  ==========================================================================================================

What the cube holds
    *Responses* of est and val alike are the spike times of the per-site recordings, cut by the occurrences of each
    ``STIM_`` epoch and numbered in order of occurrence. What was recorded is the epoch: spikes between epochs belong
    to no trial. The population recording (10 ms bins; val averaged over its repeats, which is not used) serves cells
    and sounds that no site recording has (33 cells of A1): its est values become traces in spikes per bin. What one
    spike is in that matrix is derived and checked on the cells of one site that have both: summed over each sound,
    the two must agree within 5 %, and the values taken over must be whole numbers of spikes. Otherwise they stay out,
    and a finding says so.

    *Sounds* are shared between the areas (593 x 1,247, 99.92 % of the pairs), or kept apart with ``stimuli=separate``
    (1,186, ids ``A1/STIM_...``). Their spectrogram is the published one: 18 bands of 10 ms, gammatone-like (ozgf),
    linear, unscaled; log1p and min-max scaling belong to reading. The release does not state the centre frequencies:
    the coordinate is log-spaced from 200 Hz to 20 kHz, which is not checked. ``wav.zip`` gives the waveforms, by name
    without regard to case.

    *Neurons* are those of the population recording, in its order; cells that only a site recording has (PEG TNC022a)
    are left out with a finding. ``auditory`` is the authors' ``sig_auditory``, False where their table lacks the cell;
    ``binned`` marks cells with responses from the population recording, which exist in bins of 10 ms only: at a finer
    dt leave them out (``--only binned=False``).
"""

from __future__ import annotations

import io
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from strfcube.errors import RawDataError
from strfcube.pipelines.nat4.area import BANDS, FS, named, survey_area
from strfcube.pipelines.nat4.population import STIM, VAL, cut, placed, presentations, report_unplaced, some, usable
from strfcube.pipelines.nems import read_bundle
from strfcube.pipelines.nems_files import ZIP_DAMAGE, why
from strfcube.pipelines.raw_folder import elsewhere, listing
from strfcube.raw_files import see_readable, walk
from strfcube.records import (
    Finding,
    Length,
    Neuron,
    Option,
    Pipeline,
    ReadyMade,
    Source,
    Stimulus,
    Survey,
    Trial,
    Trials,
)
from strfcube.sound.audio import read_wav

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from strfcube.pipelines.nat4.area import Area, Site, Sound
    from strfcube.pipelines.nems_files import Bundle
    from strfcube.records import Audio, Report

AREAS = ("A1", "PEG")
READY_MADE = ReadyMade(
    tuple(map(float, np.geomspace(200, 20000, BANDS))), 1 / FS, "arbitrary (published ozgf, nominal frequencies)"
)
_UNIT_SLACK = 10.0  # between the ends of epochs and of spikes; a wrong unit makes it a thousand
_CELL = re.compile(r"(?P<site>(?P<animal>[A-Za-z]+)\d+[a-z]*)-(?P<electrode>\d+)-(?P<unit>\d+)")
_SOUND = re.compile(r"(?:00)?cat\d+_rec\d+_(?P<words>.+?)(?:_excerpt\d+)?\.wav", re.IGNORECASE)


class NAT4(Pipeline):
    """Reader of NAT4; see the module for the data set and the rules."""

    files: ClassVar[tuple[str, ...]] = ("*.tgz", "*.tar.gz", "*.zip", "*.csv", "*.json", "*.h5", "*.wav")
    coordinates: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "stim_name": (), "stim_type": ("natural sound",), "stim_category": ("natural",), "stim_class": (),
        "subset": ("est", "val"), "cell_id": (), "animal": (), "species": ("ferret",), "area": (),
        "region": ("A1", "PEG"), "area_label": ("A1", "PEG"), "signal_type": ("spikes",), "units": ("count",),
        "site": (), "electrode": (), "unit": (), "auditory": (), "binned": (),
    }  # fmt: skip
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "stimuli", str, "shared", "are the sounds of A1 and PEG the same, or kept apart", ("shared", "separate")
        ),
    )

    def survey(self, report: Report) -> Survey:
        """List sounds, cells and sites; reads each population recording once.

        Raises
        ------
        RawDataError
            If there is no recording of either area.
        """
        separate = self.settings["stimuli"] == "separate"
        found: dict[str, list[Finding]] = {area: [] for area in AREAS}
        present = [
            area
            for area in AREAS
            if any(p.name not in self.without for kind in ("NAT4", "single") for p in named(self.raw, area, kind))
        ]
        with ThreadPoolExecutor(len(AREAS)) as pool:  # most of it is inflating and array code, outside the lock
            tasks = {
                area: pool.submit(survey_area, self.raw, area, f"{area}/" if separate else "", found[area].append)
                for area in present
            }
            areas = {area: read for area, task in tasks.items() if (read := task.result())}
        for area in present:
            for finding in found[area]:
                report(finding)
        if not areas:
            there = elsewhere(self.raw, "A1_NAT4") or elsewhere(self.raw, "PEG_NAT4")
            raise RawDataError(
                "expected NAT4: <area>_NAT4_ozgf.fs100.ch18.tgz and <area>_single_sites.zip for A1, PEG or both; "
                f"found no readable recording of either{there}",
                self.raw,
            )
        wavs = _wavs(self.raw, report)
        stimuli: list[Stimulus] = []
        for prefix, sounds in _sounds(areas, separate, report).items():
            stimuli += [_stimulus(prefix, name, sounds[name], wavs.get(_wav_key(name))) for name in sorted(sounds)]
        blank = [s.meta["stim_name"] for s in stimuli if s.spectrogram is None]
        if 0 < len(blank) < len(stimuli):
            what = f"{some(blank)}: presented at a site, but not in a population recording"
            report(Finding("warning", "NAT4", what, "these sounds have no published spectrogram"))
        mute = [s.meta["stim_name"] for s in stimuli if s.audio is None]
        if wavs and mute:
            what = f"no wav for {len(mute)} of {len(stimuli)} sounds, the first of them {mute[0]}"
            report(Finding("warning", "wav.zip", what, "these sounds have no waveform"))
        neurons = [n for area, read in areas.items() for n in _neurons(area, read, report)]
        sources = [Source(name, site) for read in areas.values() for name, site in read.sources.items()]
        return Survey(stimuli, neurons, sources, READY_MADE)

    def read(self, source: Source, report: Report) -> Iterator[Trial | Trials]:
        """Yield the trials of one site: what only the population recording has, then the spikes of its cells.

        Raises
        ------
        RawDataError
            If the recording is damaged or holds no spike times.
        """
        site: Site = source.payload
        for cell, (names, counts) in site.counts.items():  # first, so that a damaged recording does not take them along
            for name, values in zip(names, counts.astype(np.float32), strict=True):
                window = (0.0, len(values) / FS)
                yield Trial(site.prefix + name, cell, 0, trace=values, rate=FS, window=window, file=site.population)
        if site.bundle is not None and site.cells:
            yield from _spikes(site, site.bundle, report)


def _spikes(site: Site, bundle: Bundle, report: Report) -> Iterator[Trials]:
    file = str(bundle)
    signal = read_bundle(bundle, ("resp",))["resp"]  # the survey has seen that it is there
    events = signal.events
    if events is None:
        raise RawDataError(f"expected spike times (PointProcess), found a {signal.header.kind}", file)
    names, starts, ends = presentations(signal.epochs)
    twice = len(placed(signal.epochs)) - len(names)
    if twice:
        what = f"{twice} rows of the epoch table repeat another one, of that name and at that time"
        report(Finding("info", file, what, "each presentation is one trial"))
    report_unplaced(signal.epochs, file, report)
    last = max((float(times[np.isfinite(times)].max(initial=0)) for times in events.values()), default=0.0)
    if last > signal.seconds:
        what = f"segments say that the signal ends at {signal.seconds:g} s, but there are spikes until {last:g} s"
        report(Finding("warning", file, what, "the segments are not believed: no trial is cut there"))
        signal = replace(signal, header=replace(signal.header, seconds=np.nan))
    if (end := float(ends.max(initial=0))) and last and not end / _UNIT_SLACK < last < end * _UNIT_SLACK:
        what = f"the last epoch ends at {end:g} s, the last spike falls at {last:g} s"
        report(Finding("warning", file, what, "they are believed; see whether one of them is in ms or in samples"))
    for row in signal.overhang(STIM):
        what = f"epoch {signal.epochs.names[row]} at {signal.epochs.starts[row]:g} s ends after the signal"
        report(Finding("warning", file, f"{what} ({signal.seconds:g} s)", "its trial is cut there"))
    stops = np.fmin(ends, signal.seconds)
    there = stops > starts
    names, starts, ends, stops = tuple(np.array(names, object)[there]), starts[there], ends[there], stops[there]
    stimuli = [site.prefix + name for name in names]
    seen: dict[str, int] = {}
    repeats = np.array([seen.update({n: seen.get(n, -1) + 1}) or seen[n] for n in names], np.int64)
    if unnamed := [cell for cell in events if cell not in signal.chans]:
        what = f"spike times of {some(unnamed)}, which its json file does not name"
        report(Finding("warning", file, what, "they are left out"))
    if lost := [cell for cell in site.cells if cell not in events]:
        report(
            Finding("error", file, f"names {some(lost)}, but has no spike times of them", "they have no trials here")
        )
    for cell in (cell for cell in site.cells if cell in events):
        times = events[cell]
        good = usable(times)
        if len(good) < len(times):
            what = f"{len(times) - len(good)} of {len(times)} spike times of {cell}"
            report(Finding("warning", file, f"{what} are negative, no numbers or days late", "they are left out"))
        sizes, relative = cut(good, starts, stops)
        yield Trials(cell, stimuli, repeats, sizes, relative, 0.0, stops - starts, file)


def _sounds(areas: dict[str, Area], separate: bool, report: Report) -> dict[str, dict[str, Sound]]:
    """Prefix of stimulus ids to sounds: one prefix an area, or one for all."""
    if separate:
        return {f"{area}/": read.sounds for area, read in areas.items()}
    merged: dict[str, Sound] = {}
    for area, read in areas.items():
        differ = []
        for name, sound in read.sounds.items():
            known = merged.setdefault(name, sound)
            if known.spectrogram is None and sound.spectrogram is not None:
                merged[name] = sound
            elif not _equal(known, sound):
                differ.append(name)
        if differ:
            what = f"{len(differ)} sounds differ from those of the area before, the first of them {differ[0]}"
            report(Finding("warning", area, what, "the first area's is used; stimuli=separate keeps both"))
    return {"": merged}


def _equal(a: Sound, b: Sound) -> bool:
    if abs(a.seconds - b.seconds) > 1e-3:
        return False
    if a.spectrogram is None or b.spectrogram is None:
        return True
    return a.spectrogram.shape == b.spectrogram.shape and np.allclose(a.spectrogram, b.spectrogram, equal_nan=True)


def _stimulus(prefix: str, name: str, sound: Sound, audio: Callable[[], Audio] | None) -> Stimulus:
    words = _SOUND.fullmatch(name.removeprefix(STIM))
    return Stimulus(
        prefix + name,
        Length(sound.seconds, "epoch"),
        audio,
        None if sound.spectrogram is None else partial(np.asarray, sound.spectrogram),
        sound.onset,
        sound.duration,
        {
            "stim_name": name,
            "stim_type": "natural sound",
            "stim_category": "natural",
            "stim_class": words["words"] if words else "",
            "subset": "val" if name.startswith(VAL) else "est",
        },
    )


def _neurons(area: str, read: Area, report: Report) -> Iterator[Neuron]:
    for cell in read.cells:
        parts = _CELL.fullmatch(cell)
        if parts is None:
            what = f"cell id {cell!r}: expected <animal><number><letter>-<electrode>-<unit>"
            report(Finding("warning", area, what, "its animal, electrode and unit are unknown"))
        yield Neuron(
            cell,
            read.source_of[cell],
            {
                "cell_id": cell,
                "animal": parts["animal"] if parts else "",
                "species": "ferret",
                "area": area,
                "region": area,
                "area_label": area,
                "signal_type": "spikes",
                "units": "count",
                "site": parts["site"] if parts else cell.partition("-")[0],
                "electrode": int(parts["electrode"]) if parts else np.nan,
                "unit": int(parts["unit"]) if parts else np.nan,
                "auditory": read.auditory[cell],
                "binned": cell in read.sources[read.source_of[cell]].counts,
            },
        )


# --- waveforms --------------------------------------------------------------------------------------------------------


def _wav_key(name: str) -> str:
    return name.removeprefix(STIM).lower()


def _wavs(raw: Path, report: Report) -> dict[str, Callable[[], Audio]]:
    """Lower-case file name to waveform, from ``wav.zip``, else from a folder ``wav``."""
    folders, files = listing(raw)
    places: dict[str, Callable[[], Audio]] = {}
    for name in (file for file in files if file.lower() == "wav.zip"):
        archive = raw / name
        try:
            with zipfile.ZipFile(archive) as opened:
                members = [n for n in opened.namelist() if n.lower().endswith(".wav") and "/." not in f"/{n}"]
            places |= {f"{name}/{member}": partial(read_zipped_wav, archive, member) for member in members}
        except ZIP_DAMAGE as error:
            see_readable(error, archive)
            what = f"expected a whole zip archive, but {why(error)}"
            report(Finding("error", name, what, "it gives no waveform; fetch it again"))
    for name in (folder for folder in folders if folder.lower() == "wav" and not places):
        places |= {f"{name}/{file.name}": partial(read_wav, raw / name / file.name) for file in walk(raw / name)}
    wavs: dict[str, str] = {}
    for place in sorted(places):
        first = wavs.setdefault(place.replace("\\", "/").rpartition("/")[2].lower(), place)
        if first != place:
            report(Finding("warning", place, f"there is another wav of that name, {first}", "the other one is used"))
    return {name: places[place] for name, place in wavs.items()}


def read_zipped_wav(archive: Path, member: str) -> Audio:
    """Read a wav out of a zip archive.

    Parameters
    ----------
    archive : Path
        The zip archive.
    member : str
        Name of the wav within it.

    Raises
    ------
    RawDataError
        If the archive or the wav is damaged.
    """
    label = f"{archive.name}/{member}"
    try:
        with zipfile.ZipFile(archive) as opened:
            stream: Any = io.BytesIO(opened.read(member))
            stream.name = str(archive.parent / label)
            return read_wav(stream)
    except (KeyError, *ZIP_DAMAGE) as error:
        see_readable(error, archive)
        raise RawDataError(f"expected a whole wav, but {why(error)}; fetch the archive again", label) from error
    except RawDataError as error:
        raise RawDataError(error.message, label) from error
