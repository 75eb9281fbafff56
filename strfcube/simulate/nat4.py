"""Simulated recordings in the layout of NAT4: a population archive, an archive of sites and a table, for A1 and PEG."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.simulate.population import Rng, Sound, fields, rates, sound, trials

if TYPE_CHECKING:
    from pathlib import Path

    from strfcube.simulate.birds import Floats

AREAS = {"A1": {"SIM001a": 9, "SIM002a": 7}, "PEG": {"SIM101a": 6, "SIM102a": 4}}  # area -> site -> cells
EST, VAL, VAL_REPEATS = 24, 4, 20
BINS, SILENCE, EPOCH = 150, 0.25, 1.5  # 10 ms bins and s of an epoch, 1 s of it sound
BANDS = 18
RATE = 44100.0
Names = list[str]


def write(folder: Path, seed: int) -> None:
    """Write the three files of each area."""
    rng = np.random.default_rng([seed, 3])
    names = [f"STIM_00cat{100 + k}_rec1_simulated_excerpt{k + 1}.wav" for k in range(VAL)]
    names += [f"STIM_cat{k}_rec1_simulated_excerpt1.wav" for k in range(EST)]
    sounds = [sound(rng, "song" if k % 2 else "noise", RATE, 1.0) for k in range(len(names))]
    published = [_published(each) for each in sounds]
    for area, sites in AREAS.items():
        latency = (0.012, 0.02) if area == "A1" else (0.018, 0.03)
        population: dict[str, Floats] = {}
        with zipfile.ZipFile(folder / f"{area}_single_sites.zip", "w") as archive:
            for number, (site, count) in enumerate(sites.items()):
                files = _site(rng, f"{area}_{site}", site, count, names, sounds, latency, population)
                archive.writestr(_entry(f"{area}_single_sites/{area}_{site}_{number:040x}.tgz"), _tgz(files))
        recording = f"{area}_NAT4_ozgf.fs100.ch18"
        rows = [row for k, name in enumerate(names) for row in _presented(name, EPOCH * k)]
        files = {
            f"{recording}.resp.csv": _text(np.stack(list(population.values()), 1)),
            f"{recording}.resp.json": _header("resp", 100, list(population), "RasterizedSignal"),
            f"{recording}.resp.epoch.csv": _epochs(rows),
            f"{recording}.stim.csv": _text(np.concatenate(published)),
            f"{recording}.stim.json": _header("stim", 100, None, "RasterizedSignal"),
            f"{recording}.stim.epoch.csv": _epochs(rows),
        }
        (folder / f"{recording}.tgz").write_bytes(_tgz(files))
        with (folder / f"{area}_pred_correlation.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["", "cellid", "sig_auditory"])
            table.writerows((k, cell, k % 8 != 7) for k, cell in enumerate(population))


def _site(
    rng: Rng, recording: str, site: str, count: int, names: Names, sounds: list[Sound], latency: tuple[float, float],
    population: dict[str, Floats],
) -> dict[str, bytes]:  # fmt: skip
    """Files of one site's recording; the mean counts of its cells go to `population`, in the order of `names`."""
    order = np.array([k for k in range(len(names)) for _ in range(VAL_REPEATS if k < VAL else 1)])
    order = rng.permutation(order)
    starts = 0.5 + EPOCH * np.arange(len(order))
    spikes: dict[str, Floats] = {}
    for k, field in enumerate(fields(rng, count, latency)):
        cell = f"{site}-{4 + 3 * k:02d}-1"
        played = rates(field, sounds)
        counts = np.zeros((len(names), BINS))
        times = []
        for start, index in zip(starts, order, strict=True):
            heard = trials(rng, played[index], 1, field.spontaneous, SILENCE, EPOCH - SILENCE)[0] + SILENCE
            times.append(start + heard)
            at = np.minimum((heard * 100).astype(np.int64), BINS - 1)
            counts[index] += np.bincount(at, minlength=BINS) / (VAL_REPEATS if index < VAL else 1)
        spikes[cell] = np.concatenate(times)
        population[cell] = counts.ravel()
    rows = [("PASSIVE_EXPERIMENT", 0.0, float(starts[-1] + 2))]
    rows += [row for start, index in zip(starts, order, strict=True) for row in _presented(names[index], float(start))]
    return {
        f"{recording}.resp.h5": _h5(spikes),
        f"{recording}.resp.json": _header("resp", 1000, list(spikes), "PointProcess"),
        f"{recording}.resp.epoch.csv": _epochs(rows),
    }


def _presented(name: str, start: float) -> list[tuple[str, float, float]]:
    """Epochs of one presentation: the whole of it, and the silence on either side."""
    end = start + EPOCH
    silences = [("PreStimSilence", start, start + SILENCE), ("PostStimSilence", end - SILENCE, end)]
    return [(name, start, end), *silences]


def _published(heard: Sound) -> Floats:
    """Linear power in 18 bands and bins of 10 ms [shape=(150, 18)], with silence on either side."""
    bands = np.geomspace(200, 20000, BANDS)
    power = heard.heard**3
    fine = np.stack([np.interp(np.log(bands), np.log(heard.frequencies), column) for column in power.T])
    out = np.zeros((BINS, BANDS))
    sound_bins = round(heard.seconds * 100)
    first = round(SILENCE * 100)
    out[first : first + sound_bins] = fine[: 10 * sound_bins].reshape(sound_bins, 10, BANDS).mean(1)
    return out


def _h5(datasets: dict[str, Floats]) -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, track_times=False)
    return out.getvalue()


def _header(name: str, fs: int, chans: list[str] | None, kind: str) -> bytes:
    fields_of_json = {
        "name": name, "recording": "rec", "chans": chans, "meta": None, "fs": fs,
        "signal_type": f"<class 'nems0.signal.{kind}'>",
    }  # fmt: skip
    return json.dumps(fields_of_json).encode()


def _epochs(rows: list[tuple[str, float, float]]) -> bytes:
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("start", "end", "name"))
    table.writerows((start, end, name) for name, start, end in rows)
    return out.getvalue().encode()


def _text(values: Any) -> bytes:
    out = io.BytesIO()
    np.savetxt(out, values, "%.18e", ",")
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # of 1980: the same bytes whenever they are written


def _tgz(files: dict[str, bytes]) -> bytes:
    import gzip

    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
