"""Raw files in the layout of the NAT4 release, with invented spikes and sounds."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from writers.nems import RasterCsv, epoch_table, h5, header, write_tgz

SITES = {"A1": {"ARM029a": 3, "CRD016d": 2, "TNC008a": 2}, "PEG": {"ARM017a": 2, "ARM018a": 2}}
EXTRA = {"PEG": {"TNC022a": 2}}
POPULATION_ONLY = {"ARM029a": 1}
FULL_A1 = {
    "ARM029a": 33, "ARM030a": 33, "ARM031a": 33, "ARM032a": 33, "ARM033a": 33, "CRD016d": 18, "CRD017c": 18,
    "DRX006b": 95, "DRX007a": 63, "DRX008b": 86, "TNC008a": 28, "TNC009a": 28, "TNC010a": 29, "TNC012a": 29,
    "TNC013a": 29, "TNC014a": 29, "TNC015a": 29, "TNC016a": 29, "TNC017a": 57, "TNC018a": 60, "TNC020a": 28,
    "TNC021a": 29,
}  # fmt: skip
FULL_PEG = {
    "ARM017a": 37, "ARM018a": 36, "ARM019a": 36, "ARM021b": 36, "ARM022b": 36, "ARM023a": 36, "ARM024a": 36,
    "ARM025a": 36, "ARM026b": 36, "ARM027a": 36, "ARM028b": 37,
}  # fmt: skip
SOUND_NS, BIN_NS = 1_500_000_000, 10_000_000
COLUMNS = (("start", "end", "name"), ("name", "start", "end"), ("index", "end", "name", "start"))


@dataclass(frozen=True)
class NAT4Truth:
    """What was written.

    `cells` [area] in the population's order; `spikes` [cell] all times in ns, ascending (also of cells that only the
    population has); `trials` [site] (epoch name, start in ns) in order of occurrence; `sounds` [epoch name] the
    spectrogram (18, 150); `population_only` and `extra` cells by area; `auditory` cells; `wavs` samples by epoch name.
    """

    raw: Path
    cells: dict[str, list[str]]
    spikes: dict[str, np.ndarray]
    trials: dict[str, list[tuple[str, int]]]
    sounds: dict[str, np.ndarray]
    population_only: dict[str, list[str]]
    extra: dict[str, list[str]]
    auditory: set[str]
    wavs: dict[str, np.ndarray]

    def counts(self, cell, name, bin_ns=BIN_NS):
        """Spikes per bin of every trial of a sound [shape=(repeat, bin)]."""
        edges = np.arange(0, SOUND_NS + 1, bin_ns)
        starts = [start for sound, start in self.trials[cell.partition("-")[0]] if sound == name]
        at = self.spikes[cell]
        return np.array([np.diff(np.searchsorted(at, start + edges)) for start in starts])


def sound_names(est, val):
    """Epoch names; the first est name holds a comma."""
    words = ["door, slam"] + ["water", "speech", "geese", "music"] * (est // 4 + 1)
    names = [f"STIM_00cat{172 + k}_rec1_geese_excerpt{k + 1}.wav" for k in range(val)]
    return names + [f"STIM_cat{k}_rec1_{words[k]}_excerpt1.wav" for k in range(est)]


def write_nat4(
    folder,
    *,
    sites=SITES,
    extra=EXTRA,
    population_only=POPULATION_ONLY,
    est=12,
    val=3,
    val_repeats=4,
    rate_hz=20.0,
    unit=1.0,
    nan_cell=True,
    wavs=False,
    seed=0,
):
    """Write a raw folder and return the truth.

    Parameters
    ----------
    sites : dict
        Area to site to number of cells.
    extra : dict
        Area to site to cells that the population recording lacks.
    population_only : dict
        Site to number of cells (its last) that the site file lacks.
    unit : float
        What one spike is in the population recording.
    nan_cell : bool
        Whether the est values of the population's first cell are missing.
    """
    rng = np.random.default_rng(seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = sound_names(est, val)
    levels = np.round(np.linspace(0.1, 3, 200), 3)
    sounds = {name: rng.choice(levels, (18, 150)).astype(np.float32) for name in names}
    truth = NAT4Truth(folder, {}, {}, {}, sounds, {}, {}, set(), {})
    for number, area in enumerate(sites):
        everything = sites[area] | extra.get(area, {})
        ids = {site: [_cell(site, k) for k in range(n)] for site, n in everything.items()}
        truth.cells[area] = [cell for site in sites[area] for cell in ids[site]]
        truth.extra[area] = [cell for site in extra.get(area, {}) for cell in ids[site]]
        truth.population_only[area] = [
            cell for site, own in ids.items() for cell in own[len(own) - population_only.get(site, 0) :]
        ]
        with zipfile.ZipFile(folder / f"{area}_single_sites.zip", "w", zipfile.ZIP_STORED) as archive:
            for variant, site in enumerate(everything):
                content = io.BytesIO()
                files = _site(rng, truth, area, site, ids[site], variant, names, val_repeats, rate_hz)
                write_tgz(content, files, wrap="" if variant % 2 else f"{area}_{site}")
                archive.writestr(f"{area}_single_sites/{area}_{site}_{variant:040x}.tgz", content.getvalue())
        _population(truth, area, names, unit, nan_cell and not number, wrap=not number)
        _auditory(truth, area)
    if wavs:
        _wavs(rng, truth, names)
    return truth


def _cell(site, k):
    return f"{site}-{4 + 3 * (k // 2):02d}-{1 + k % 2}"


def _site(rng, truth, area, site, cells, variant, names, val_repeats, rate_hz):
    order = [name for name in names for _ in range(val_repeats if name.startswith("STIM_00") else 1)]
    order = [order[i] for i in rng.permutation(len(order))]
    gap = 0.1 if variant % 2 else 0.0  # epochs that touch, and epochs that do not
    rows, trials, start = [("PASSIVE_EXPERIMENT", 0.0, len(order) * (1.5 + gap) + 2)], [], 0.5
    for name in order:
        end = start + 1.5
        rows += [("TRIAL", start, end + 0.001), (name, start, end), ("REFERENCE", start, end),
                 ("PreStimSilence", start, start + 0.25), ("PostStimSilence", end - 0.25, end)]  # fmt: skip
        trials.append((name, round(start * 1e9)))
        start = end + gap  # sums carry binary noise, as in the real tables
    truth.trials[site] = trials
    starts = np.array([at for _, at in trials])
    for cell in cells:
        n = rng.poisson(rate_hz * (start + 1))
        at = rng.integers(0, round((start + 1) * 1e6), n) * 1000
        edges = starts[:, None] + np.array([0, 10 * BIN_NS, SOUND_NS - BIN_NS, SOUND_NS])
        some = edges[:: max(1, len(edges) // 10)].ravel()  # on the edges of bins and of epochs
        truth.spikes[cell] = np.sort(np.concatenate([at, some]))
    recording = f"{area}_{site}"
    kept = [cell for cell in cells if cell not in truth.population_only[area]]
    chans = None if variant == 1 else kept[::-1]
    meta = None if variant % 2 else {"rasterfs": 1000, "cellid": cells[0]}
    files = {
        f"{recording}.meta.json": b'{"siteid": "%s"}' % site.encode(),
        f"{recording}.resp.h5": h5({cell: truth.spikes[cell] / 1e9 for cell in kept}),
        f"{recording}.resp.json": header("resp", 1000, chans, "PointProcess", reverse=bool(variant % 2), meta=meta,
                                         seconds=start + 2),
        f"{recording}.resp.epoch.csv": epoch_table(rows, COLUMNS[variant % 3]),
    }  # fmt: skip
    items = list(files.items())
    return dict(items[::-1] if variant % 3 == 1 else items)


def _population(truth, area, names, unit, nan_cell, wrap):
    cells = truth.cells[area]
    bins = SOUND_NS // BIN_NS
    resp = np.zeros((len(names) * bins, len(cells)), np.float32)
    index = {name: k for k, name in enumerate(names)}
    for column, cell in enumerate(cells):
        trials = truth.trials[cell.partition("-")[0]]
        at = truth.spikes[cell]
        starts = np.array([start for _, start in trials])
        where = np.searchsorted(starts, at, side="right") - 1
        relative = at - starts[where]
        inside = (where >= 0) & (relative < SOUND_NS)
        sound = np.array([index[name] for name, _ in trials])[where[inside]]
        np.add.at(resp[:, column], sound * bins + relative[inside] // BIN_NS, unit)
    repeats = np.array([sum(name == n for n, _ in next(iter(truth.trials.values()))) for name in names])
    resp /= np.repeat(repeats, bins)[:, None]
    if nan_cell:
        resp[np.repeat(repeats == 1, bins), 0] = np.nan
    rows = []
    for k, name in enumerate(names):
        at = 1.5 * k
        rows += [(name, at, at + 1.5), ("PreStimSilence", at, at + 0.25), ("PostStimSilence", at + 1.25, at + 1.5)]
    recording = f"{area}_NAT4_ozgf.fs100.ch18"
    stim = np.concatenate([truth.sounds[name].T for name in names])
    files = {
        f"{recording}.meta.json": b"{}",
        f"{recording}.resp.csv": RasterCsv(resp),
        f"{recording}.resp.json": header("resp", 100, cells, "RasterizedSignal", reverse=wrap),
        f"{recording}.resp.epoch.csv": epoch_table(rows),
        f"{recording}.mask_est.csv": b"",
        f"{recording}.stim.csv": RasterCsv(stim),
        f"{recording}.stim.json": header("stim", 100, None),
        f"{recording}.stim.epoch.csv": epoch_table(rows, COLUMNS[1]),
    }
    write_tgz(truth.raw / f"{recording}.tgz", files, wrap=recording if wrap else "")


def _auditory(truth, area):
    with (truth.raw / f"{area}_pred_correlation.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "cellid", "LN_test", "sig_auditory"])
        for k, cell in enumerate(truth.cells[area]):
            if k % 4 != 3:
                truth.auditory.add(cell)
            writer.writerow([k, cell, 0.5, k % 4 != 3])


def _wavs(rng, truth, names):
    with zipfile.ZipFile(truth.raw / "wav.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for k, name in enumerate(names):
            truth.wavs[name] = rng.integers(-3000, 3000, 44100).astype(np.int16)
            content = io.BytesIO()
            wavfile.write(content, 44100, truth.wavs[name])
            file = name.removeprefix("STIM_")
            archive.writestr(f"wav/{file.upper() if k % 3 == 1 else file}", content.getvalue())
