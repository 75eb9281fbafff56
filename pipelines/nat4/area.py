"""What the raw files of one NAT4 area hold: cells, sites, sounds, and the responses only the population file has."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from strfcube.errors import RawDataError
from strfcube.pipelines.nat4.population import STIM, Recorded, placed, population_only, report_unplaced, some
from strfcube.pipelines.nems import read_bundle, read_head
from strfcube.pipelines.nems_files import ZIP_DAMAGE, Bundle, why
from strfcube.pipelines.raw_folder import listing
from strfcube.raw_files import is_ours, see_readable, walk
from strfcube.records import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from strfcube.pipelines.nems import Signal
    from strfcube.pipelines.nems_files import Epochs
    from strfcube.records import Report

BANDS = 18
FS = 100.0  # of the population recordings, in Hz
SILENCE = 0.25  # before and after each sound, in s
_ARCHIVE = (".tgz", ".tar.gz")
_TRUE, _FALSE = {"true", "1", "1.0"}, {"false", "0", "0.0"}


@dataclass(frozen=True)
class Site:
    """Payload of a source: one site's recording, and what only the population recording has of its cells.

    Attributes
    ----------
    bundle : Bundle or None
        The per-site recording.
    cells : tuple of str
        Ids of the cells to read from it.
    prefix : str
        Of stimulus ids.
    population : str
        File of the population recording, relative to the raw folder.
    counts : mapping of str to (tuple of str, ndarray of float16 [shape=(sound, bin)])
        Cell to the sounds (epoch names) that only the population recording has, and their spikes per bin; NaN where
        that has no value.
    """

    bundle: Bundle | None
    cells: tuple[str, ...]
    prefix: str
    population: str
    counts: Mapping[str, tuple[tuple[str, ...], NDArray[np.float16]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sound:
    """What one area's recordings say of a sound: its times in s, and its spectrogram [shape=(18, frame)]."""

    seconds: float
    onset: float
    duration: float
    spectrogram: NDArray[np.float32] | None


@dataclass(frozen=True)
class Area:
    """What the survey learns of one area; cells in the order in which the cube lists them."""

    cells: tuple[str, ...]
    sources: dict[str, Site]
    source_of: dict[str, str]
    sounds: dict[str, Sound]
    auditory: dict[str, bool]


def survey_area(raw: Path, area: str, prefix: str, report: Report) -> Area | None:
    """Read the tables of one area, and the population recording.

    Parameters
    ----------
    raw : Path
        The raw folder.
    area : str
        ``A1`` or ``PEG``.
    prefix : str
        Of stimulus ids.

    Returns
    -------
    Area or None
        None where the raw folder has nothing of it that can be read.
    """
    recorded = _sites(raw, area, report)
    file, signals = _population(raw, area, report)
    resp, stim = signals.get("resp"), signals.get("stim")
    by_cell: dict[str, Recorded] = {}
    for site in recorded:
        there = site.header.chans or ()
        if twice := [cell for cell in there if cell in by_cell]:
            what = f"cells that are in {by_cell[twice[0]].bundle}, too: {some(twice)}"
            report(Finding("warning", str(site.bundle), what, "only the first of the two recordings is used"))
        by_cell |= {cell: site for cell in there if cell not in by_cell}
    cells = resp.chans if resp else tuple(sorted(by_cell))
    if not cells:
        return None
    counts = {}
    if resp:
        _report_cells(file, cells, by_cell, recorded, report)
    if resp and resp.values is not None and resp.header.fs == FS:
        counts = population_only(resp, file, by_cell, report)
    elif resp:
        what = f"'resp' is a {resp.header.kind} at {resp.header.fs:g} Hz, expected a RasterizedSignal at {FS:g} Hz"
        report(Finding("warning", file, what, "only its list of cells is used"))
    source_of = {c: by_cell[c].source if c in by_cell else f"{area}_{c.partition('-')[0]}" for c in cells}
    sources: dict[str, Site] = {}
    for source in dict.fromkeys(source_of.values()):
        own = [cell for cell in cells if source_of[cell] == source]
        kept = tuple(cell for cell in own if cell in by_cell)
        bundle = by_cell[kept[0]].bundle if kept else None
        sources[source] = Site(bundle, kept, prefix, file, {cell: counts[cell] for cell in own if cell in counts})
    used = {by_cell[cell].source: by_cell[cell].epochs for cell in cells if cell in by_cell}
    sounds = _sounds(stim or resp, stim, list(used.values()), file, report)
    return Area(cells, sources, source_of, sounds, _auditory(raw, area, cells, report))


# --- files ------------------------------------------------------------------------------------------------------------


def _sites(raw: Path, area: str, report: Report) -> list[Recorded]:
    """Heads of the per-site recordings."""
    recorded: list[Recorded] = []
    taken: set[str] = set()
    bundles = _bundles(raw, area, report)
    if not bundles:
        what = f"expected the recordings of its sites, here or in a folder {area}_single_sites; none can be read"
        report(Finding("warning", f"{area}_single_sites.zip", what, f"{area} has no val trials"))
    for bundle in bundles:
        try:
            header, epochs = read_head(bundle, "resp")
        except RawDataError as error:
            report(Finding("error", error.file, error.message, "this site is not read", error.line or 0))
            continue
        if not header.chans:
            report(Finding("warning", str(bundle), "the recording names no cell", "this site is not read"))
            continue
        if not epochs.occurrences(STIM):
            what = f"expected epochs named {STIM}..., found none in a table of {len(epochs.names)} rows"
            report(Finding("error", str(bundle), what, "this site is not read"))
            continue
        source = name = f"{area}_{header.chans[0].partition('-')[0]}"
        while source in taken:
            source = f"{name}_{len(taken)}"
        taken.add(source)
        recorded.append(Recorded(bundle, header, epochs, source))
    return recorded


def named(raw: Path, area: str, kind: str = "") -> list[Path]:
    """What the raw folder has under names that begin with ``<area>_<kind>``, without regard to case; sorted."""
    begin = f"{area}_{kind}".lower()
    return sorted(raw / name for names in listing(raw) for name in names if name.lower().startswith(begin))


def _packed(name: str) -> bool:
    return name.lower().endswith(_ARCHIVE)


def _bundles(raw: Path, area: str, report: Report) -> list[Bundle]:
    usual = f"{area}_single_sites"
    there = [p for p in named(raw, area, "single_sites") if p.is_dir() or p.suffix.lower() == ".zip"]
    there.sort(key=lambda p: (p.stem.lower() != usual.lower(), p.is_dir()))  # not "A1_single_sites (1).zip" first
    for number, path in enumerate(there):
        try:
            found = _in_folder(raw, path) if path.is_dir() else _in_zip(path)
        except ZIP_DAMAGE as error:
            see_readable(error, path)
            what = f"expected a whole zip archive, but {why(error)}"
            report(Finding("error", path.name, what, "no site is read from it; fetch it again"))
            continue
        if found and (others := [p.name for p in there[number + 1 :]]):
            what = f"there are more recordings of the sites of {area}: {', '.join(others)}"
            report(Finding("warning", path.name, what, "only this one is read; keep one"))
        if found:
            return found
    population = named(raw, area, "NAT4")
    return [Bundle(p, "", p.name) for p in named(raw, area) if _packed(p.name) and p not in population]


def _in_zip(archive: Path) -> list[Bundle]:
    with zipfile.ZipFile(archive) as opened:
        members = sorted(m for m in opened.namelist() if _packed(m) and "/." not in f"/{m}")
    return [Bundle(archive, member, f"{archive.name}/{member}") for member in members]


def _in_folder(raw: Path, folder: Path) -> list[Bundle]:
    files = [folder / file.name for file in walk(folder)]
    found = [path for path in files if _packed(path.name)]
    found += {path.parent for path in files if path.name.endswith(".resp.json")}
    return [Bundle(p, "", p.relative_to(raw).as_posix()) for p in sorted(found) if is_ours(p.name)]


def _population(raw: Path, area: str, report: Report) -> tuple[str, dict[str, Signal]]:
    """File and signals of the population recording; none where it is absent or unreadable."""
    usual = f"{area}_NAT4_ozgf.fs100.ch18.tgz"
    found = [p for p in named(raw, area, "NAT4") if p.is_dir() or _packed(p.name)]
    found.sort(key=lambda p: p.name.lower() != usual.lower())
    file = found[0].name if found else usual
    consequence = f"no spectrograms from {area}; its cells are those of the per-site recordings"
    if not found:
        report(Finding("warning", file, "the population recording is absent", consequence))
        return file, {}
    if len(found) > 1:
        what = f"there are {len(found)} population recordings: {', '.join(p.name for p in found)}"
        report(Finding("warning", file, what, "only this one is read; keep one"))
    signals: dict[str, Signal] = {}
    bundle = Bundle(found[0], "", file)
    try:
        signals = read_bundle(bundle, ("resp", "stim"), sparse=("resp",))
    except RawDataError:  # one of them may be whole
        for name, then in (("resp", f"the cells of {area} are those of the per-site recordings"),
                           ("stim", f"no spectrograms from {area}")):  # fmt: skip
            try:
                signals |= read_bundle(bundle, (name,), sparse=("resp",))
            except RawDataError as error:
                report(Finding("error", error.file, error.message, then, error.line or 0))
        if not signals:
            return file, {}
    resp = signals.get("resp")
    if resp is None or resp.chans == tuple(map(str, range(len(resp.chans)))):
        what = "no signal 'resp'" if resp is None else "signal 'resp' does not name its cells (chans)"
        report(Finding("warning", file, what, f"cells of {area} are those of the per-site recordings"))
        signals.pop("resp", None)
    for name, signal in signals.items():
        report_unplaced(signal.epochs, file, report)
        late = signal.overhang(STIM)
        if late:
            what = f"epoch {signal.epochs.names[late[0]]} ends after the signal '{name}' ({signal.seconds:g} s)"
            what += f", and so do {len(late) - 1} more" if len(late) > 1 else ""
            report(Finding("warning", file, what, "values past its end are missing"))
    return file, signals


def _auditory(raw: Path, area: str, cells: tuple[str, ...], report: Report) -> dict[str, bool]:
    """Read the authors' ``sig_auditory`` of each cell; False where their table does not say."""
    file = f"{area}_pred_correlation.csv"
    known: dict[str, bool] = {}
    try:
        with next(iter(named(raw, area, "pred_correlation.csv")), raw / file).open(
            encoding="utf-8-sig", newline=""
        ) as stream:
            reader = csv.DictReader(stream)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if not {"cellid", "sig_auditory"} <= set(reader.fieldnames):
                raise ValueError(f"expected columns cellid and sig_auditory, found {reader.fieldnames}")
            for row in reader:
                word, cell = (str(row[name] or "").strip() for name in ("sig_auditory", "cellid"))
                if cell and word.lower() in _TRUE | _FALSE:
                    known[cell] = word.lower() in _TRUE
                else:
                    what = f"sig_auditory of {cell or 'a cell without id'}: expected True or False, found {word!r}"
                    report(Finding("warning", file, what, "auditory is False", reader.line_num))
    except (OSError, ValueError, csv.Error) as error:
        see_readable(error, raw / file)
        what = "the table is absent" if isinstance(error, FileNotFoundError) else str(error)
        report(Finding("warning", file, what, f"auditory is False for the {len(cells)} cells of {area}"))
        return dict.fromkeys(cells, False)
    strange = sorted(known.keys() - set(cells))
    if strange:
        report(Finding("info", file, f"rows for {some(strange)}: not among the cells of {area}", "they are not used"))
    absent = [cell for cell in cells if cell not in known]
    if absent:
        report(Finding("warning", file, f"no usable row for {some(absent)}", "auditory is False for these cells"))
    return {cell: known.get(cell, False) for cell in cells}


# --- cells and sounds -------------------------------------------------------------------------------------------------


def _report_cells(
    file: str,
    cells: tuple[str, ...],
    by_cell: Mapping[str, Recorded],
    recorded: list[Recorded],
    report: Report,
) -> None:
    known = set(cells)
    for site in recorded:
        extra = [cell for cell in site.header.chans or () if cell not in known]
        if extra:
            what = f"{some(extra)}: not in the population recording"
            report(Finding("info", str(site.bundle), what, "these cells are left out"))
    absent = [cell for cell in cells if cell not in by_cell]
    if absent and recorded:
        what = f"{some(absent)}: in no per-site recording"
        report(Finding("warning", file, what, "binned: est responses from here, in bins of 10 ms, and no val"))


def _sounds(
    main: Signal | None, stim: Signal | None, sites: list[Epochs], file: str, report: Report
) -> dict[str, Sound]:
    """Every sound of the population recording, then those that only sites have."""
    sounds: dict[str, Sound] = {}
    usable = stim is not None and len(stim.chans) == BANDS and stim.header.fs == FS
    if main is not None and not usable:
        expected = f"expected {BANDS} bands at {FS:g} Hz in 'stim'"
        what = f"{expected}, found {len(stim.chans)} at {stim.header.fs:g} Hz" if stim else "no signal 'stim'"
        report(Finding("warning", file, what, "its sounds have no spectrogram"))
    assumed = []
    odd: dict[str, tuple[int, str]] = {}
    for number, epochs in enumerate(([main.epochs] if main else []) + sites):
        before = {round(epochs.starts[r] * 1e3): epochs.ends[r] for r in epochs.occurrences("PreStim")}
        after = {round(epochs.ends[r] * 1e3): epochs.starts[r] for r in epochs.occurrences("PostStim")}
        for row in placed(epochs):
            name, start, end = epochs.names[row], epochs.starts[row], epochs.ends[row]
            if name in sounds:
                continue
            silence = SILENCE if end - start > 2 * SILENCE else 0.0
            sound_start = before.get(round(start * 1e3), start + silence)
            sound_end = after.get(round(end * 1e3), end - silence)
            if round(start * 1e3) not in before or round(end * 1e3) not in after:
                assumed.append(name)
            own = stim.epoch(row) if stim is not None and usable and not number else None
            if own is not None and stim is not None:
                own = _powers(own, stim, row, odd)
            seconds, onset, duration = np.round((end - start, sound_start - start, sound_end - sound_start), 9).tolist()
            sounds[name] = Sound(seconds, onset, duration, own)
    for kind, (count, first) in odd.items():
        then = "they are missing from the cube" if kind != "negative" else "they are kept as published"
        report(
            Finding("error", file, f"{count} values of the spectrograms in 'stim' are {kind}, the first {first}", then)
        )
    if assumed:
        what = f"no PreStimSilence or no PostStimSilence with {some(assumed)}"
        report(Finding("warning", file, what, f"each is taken for {SILENCE:g} s, as the data set is described"))
    return sounds


def _powers(
    values: NDArray[np.float32], stim: Signal, row: int, odd: dict[str, tuple[int, str]]
) -> NDArray[np.float32]:
    """A sound's spectrogram without infinite values; what no power is, is counted in `odd` with the first place."""
    first = round(float(stim.epochs.starts[row]) * FS)
    there = max(0, min(values.shape[1], round(stim.seconds * FS) - first))  # later values are missing, and reported
    inside = values[:, :there]
    for kind, bad in (("no numbers", np.isnan(inside)), ("infinite", np.isinf(inside)), ("negative", inside < 0)):
        if bad.any():
            band, frame = (int(i[0]) for i in np.nonzero(bad))
            count, place = odd.get(
                kind, (0, f"in line {first + frame + 1}, band {band + 1}, of {stim.epochs.names[row]}")
            )
            odd[kind] = (count + int(bad.sum()), place)
    return np.where(np.isfinite(values), values, np.float32(np.nan))
