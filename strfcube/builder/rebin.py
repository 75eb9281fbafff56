"""A cube as raw material: `rebin` builds it again at another bin width, without the raw files."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import time
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube import catalog
from strfcube.builder.build import run
from strfcube.builder.recipe import Recipe
from strfcube.builder.request import SOURCE, Request, default_recipe
from strfcube.builder.workplace import see_apart, see_whole
from strfcube.cube.groups import has_group, open_group
from strfcube.cube.shard_reader import ShardedArray
from strfcube.cube.store import cube_root, local, locate, opened
from strfcube.cube.store import open as open_cube
from strfcube.errors import UsageError
from strfcube.grid import dt_to_ns
from strfcube.progress import Progress, shown
from strfcube.records import (
    Audio,
    Finding,
    Length,
    Neuron,
    Pipeline,
    ReadyMade,
    Report,
    Source,
    Stimulus,
    Survey,
    Trial,
    Trials,
)
from strfcube.sound.spectrogram import Published
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import distributed
    import xarray as xr
    from numpy.typing import NDArray


NEURONS_PER_SOURCE = 64
_ENGINE_COORDS = {"stim", "sound_onset", "sound_duration", "duration_source", "n_samples"}


def rebin(
    store: str | os.PathLike[str],
    dt: float,
    *,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    force: bool = False,
    client: distributed.Client | None = None,
    spool: str | os.PathLike[str] | None = None,
    progress: bool | Progress | None = None,
) -> str:
    """Make a cube at another bin width from the trials and the audio that a cube holds.

    Array for array what a build from the raw files gives; but of responses whose finest source are the cube's own bins,
    a new bin that reaches beyond the last of these is missing.

    Parameters
    ----------
    store : path, URL or str
        A cube, or the name of a data set.
    dt : float
        New bin width in ms.
    out : path or URL, optional
        Default: beside the cube, under the name of the recipe.
    jobs, force, client, spool, progress
        As in `build`.

    Returns
    -------
    str
        Path of the new cube.

    Raises
    ------
    UsageError
        If something in the cube has no finer source than its own bins, and `dt` is no whole multiple of them; or if
        spectrograms cannot be made again because the cube was built without audio.
    StoreError
        If there is no cube, or one that lacks what a cube has.
    """
    with shown(progress) as tell:
        return _rebin(store, dt, out, tell, jobs=jobs, force=force, client=client, spool=spool)


def _rebin(
    store: str | os.PathLike[str],
    dt: float,
    out: str | os.PathLike[str] | None,
    tell: Progress | None,
    **how: Any,
) -> str:
    path, dt_ns = locate(store), dt_to_ns(dt)
    out = None if out is None else local(out)  # now: what is called meanwhile may change the folder
    if tell:
        tell("check", 0, 0)
    see_whole(path)
    attrs = open_cube(path).attrs
    if "pool" in json.loads(attrs["recipe"]):
        raise UsageError(f"{path} is a pool of several recipes: rebin the cubes it was made of, and pool those")
    recipe = dataclasses.replace(Recipe.from_json(attrs["recipe"]), dt_ns=dt_ns)
    if changed := recipe.saved.get("changed"):
        words = {"response": "other responses", "stimulus": "other spectrograms", "time": "fewer bins"}
        other = " and ".join(words[name] for name in changed)
        raise UsageError(
            f"{path} was saved with {other} than its trials and waveforms give: rebin the cube that it was made of, "
            "and change that"
        )
    pipeline = StoredCube(path)
    if not recipe.audio and not isinstance(recipe.front_end, Published):
        raise UsageError(
            f"{path} was built without audio: its spectrogram cannot be made at another dt; build from raw"
        )
    old_ns = dt_to_ns(attrs["dt_ms"])
    if recipe.dt_ns % old_ns:
        sampled = pipeline.sampled()
        if sampled:
            some = ", ".join(sampled[:3]) + (f" and {len(sampled) - 3} more" if len(sampled) > 3 else "")
            raise UsageError(
                f"dt={recipe.dt_ms:g} ms: the responses of {some} have no finer source than the cube's own bins: give "
                f"a whole multiple of {attrs['dt_ms']:g} ms, or build from the raw files"
            )
    entry = catalog.entries().get(recipe.dataset)
    default = default_recipe(recipe.dataset, recipe.dt_ns)
    target = local(out) if out is not None else _beside(path, recipe.store_name(default))
    if how["force"]:
        see_apart(path, target)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept = {k: attrs[k] for k in ("sources", "fingerprint", "licence", "citation", "doi", "title") if k in attrs}
    history = f"{attrs['history']}\n{now} rebinned from {attrs['dt_ms']:g} ms to {recipe.dt_ms:g} ms"
    made = kept | {"history": history, SOURCE: attrs["digest"]}
    current = partial(_digest, path)
    command = shlex.join(["strfcube", "rebin", path, "--dt", f"{recipe.dt_ms:g}", "--out", target])
    request = Request(
        pipeline, recipe, target, attrs["digest"], current, time.time_ns(), entry, {}, made, command=command
    )
    return run(request, progress=tell, **how)


class StoredCube(Pipeline):
    """Reads the records back out of a cube."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __getstate__(self) -> dict[str, Any]:
        return {"raw": self.raw, "settings": self.settings, "path": self.path}

    @cached_property
    def _root(self) -> xr.Dataset:
        return opened(self.path)[0]

    @cached_property
    def _trials(self) -> xr.Dataset:
        ds = open_group(self.path, "trials")
        return ds.assign({n: ds[n].load() for n in ds.variables if n != "spike_time"})

    @cached_property
    def _spike_times(self) -> ShardedArray:
        return ShardedArray(connect(self.path).at("trials/spike_time"))

    def sampled(self) -> list[str]:
        """Neurons with trials that are not exact spikes."""
        t = self._trials
        inexact = np.unique(t["neuron_index"].values[~t["exact"].values])
        return [str(n) for n in self._root["neuron"].values[inexact]]

    def survey(self, report: Report) -> Survey:
        """Stimuli and neurons from the coordinates; the stored findings are reported again."""
        for row in _rows(open_group(self.path, "findings")):
            report(Finding(**row))
        published = isinstance(Recipe.from_json(self._root.attrs["recipe"]).front_end, Published)
        ready = None
        if published:
            dt = float(self._root.attrs["dt_ms"]) / 1000
            units = str(self._root["stimulus"].attrs["units"])
            ready = ReadyMade(tuple(self._root["frequency"].values.tolist()), dt, units)
        lowest_rate = float(self._root["stimulus"].attrs.get("lowest_rate", math.nan))
        neurons = [str(n) for n in self._root["neuron"].values]
        metas = _metas(self._root, "neuron")
        blocks = range(0, len(neurons), NEURONS_PER_SOURCE)
        sources = [Source(f"neurons-{first}", first) for first in blocks]
        of = [f"neurons-{i - i % NEURONS_PER_SOURCE}" for i in range(len(neurons))]
        return Survey(
            list(self._stimuli(published)),
            [Neuron(n, s, m) for n, s, m in zip(neurons, of, metas, strict=True)],
            sources,
            ready,
            lowest_rate,
        )

    def _stimuli(self, published: bool) -> Iterator[Stimulus]:
        root = self._root
        sizes, rates = np.zeros(root.sizes["stim"], np.int64), np.zeros(root.sizes["stim"])
        if has_group(self.path, "audio"):
            audio = open_group(self.path, "audio")
            sizes, rates = audio["row_size"].values, audio["rate"].values
        starts = np.cumsum(sizes) - sizes
        metas = _metas(root, "stim")
        for i, label in enumerate(root["stim"].values):
            samples = int(root["n_samples"].values[i])
            length = Length(
                float(root["duration"].values[i]), str(root["duration_source"].values[i]), samples,
                float(root["sample_rate"].values[i]) if samples else math.nan,
            )  # fmt: skip
            sound = partial(_audio, self.path, int(starts[i]), int(sizes[i]), float(rates[i])) if sizes[i] else None
            ready = partial(_spectrogram, self.path, i) if published else None
            onset, lasts = float(root["sound_onset"].values[i]), float(root["sound_duration"].values[i])
            yield Stimulus(str(label), length, sound, ready, onset, lasts, metas[i])

    def read(self, source: Source, report: Report) -> Iterator[Trial | Trials]:
        """Trials of a block of neurons: exact spikes from the trials group, everything else from its bins."""
        labels = {d: [str(v) for v in self._root[d].values] for d in ("stim", "neuron")}
        t = self._trials
        files = [str(f) for f in t["file"].values]
        tests = str(t["rejected_by"].attrs["flag_meanings"]).split()
        index = t["neuron_index"].values
        first = int(source.payload)
        ends = np.cumsum(t["row_size"].values, dtype=np.int64)
        for neuron in range(first, min(first + NEURONS_PER_SOURCE, len(labels["neuron"]))):
            # Rows are in neuron order, and exact rows that were kept come as columns: they are nearly all there is.
            rows = slice(*np.searchsorted(index, [neuron, neuron + 1]).tolist())
            if rows.start == rows.stop:
                continue
            column = {str(n): t[n].values[rows] for n in t.data_vars if t[n].dims == ("trial",)}
            begin = int(ends[rows.start] - column["row_size"][0])
            times = self._spike_times.values(begin, int(ends[rows.stop - 1])) / 1e9
            stims = [labels["stim"][i] for i in column["stim_index"]]
            names = [files[i] for i in column["file_index"]]
            plain = column["kept"] & column["exact"]
            sizes = column["row_size"].astype(np.int64)
            yield Trials(
                labels["neuron"][neuron], [s for s, p in zip(stims, plain, strict=True) if p],
                column["trial_number"][plain], sizes[plain], times[np.repeat(plain, sizes)],
                column["window_start"][plain], column["window_stop"][plain],
                [f for f, p in zip(names, plain, strict=True) if p],
            )  # fmt: skip
            offsets = np.cumsum(sizes) - sizes
            shown, responses = -1, np.empty((0, 0))  # of the stimulus whose repeats follow one another
            for i in np.flatnonzero(~plain).tolist():
                common: dict[str, Any] = {
                    "stimulus": stims[i], "neuron": labels["neuron"][neuron], "repeat": int(column["trial_number"][i]),
                    "window": (float(column["window_start"][i]), float(column["window_stop"][i])), "file": names[i],
                    "rejected_by": "" if column["kept"][i] else tests[column["rejected_by"][i]],
                    "value": float(column["test_value"][i]),
                }  # fmt: skip
                if column["exact"][i] or not column["kept"][i]:
                    spikes = times[offsets[i] : offsets[i] + sizes[i]]
                    yield Trial(spike_times=spikes, sampled=not column["exact"][i], **common)
                else:
                    if int(column["stim_index"][i]) != shown:
                        shown = int(column["stim_index"][i])
                        bins = int(self._root["n_bins"].values[shown])
                        responses = self._root["response"][shown, neuron, :, :bins].values
                    yield Trial(trace=responses[int(column["repeat_index"][i])], trace_start=0.0,
                                rate=1000 / float(self._root.attrs["dt_ms"]), **common)  # fmt: skip


def _beside(path: str, name: str) -> str:
    """A cube of another name in the same place.

    Raises
    ------
    UsageError
        If nothing can be written there.
    """
    if "://" not in path:
        return str(Path(path).with_name(name))
    if path.startswith("http"):
        raise UsageError(f"{path}: a web server is only read from; give the place of the new cube (--out)")
    return f"{path.rstrip('/').rpartition('/')[0]}/{name}"


def _digest(path: str) -> str:
    return str(cube_root(path).attrs.get("digest", ""))


def _metas(ds: xr.Dataset, dim: str) -> list[dict[str, Any]]:
    names = [str(n) for n in ds.coords if ds[n].dims == (dim,) and n not in _ENGINE_COORDS and n != dim]
    columns = [ds[n].values.tolist() for n in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _rows(ds: xr.Dataset) -> list[dict[str, Any]]:
    names = [str(n) for n in ds.data_vars]
    return [dict(zip(names, v, strict=True)) for v in zip(*(ds[n].values.tolist() for n in names), strict=True)]


def _audio(path: str, start: int, size: int, rate: float) -> Audio:
    return Audio(ShardedArray(connect(path).at("audio/samples")).values(start, start + size), rate)


def _spectrogram(path: str, stim: int) -> NDArray[Any]:
    array = ShardedArray(connect(path).at("stimulus"))
    values = array.read((stim, 0, 0))
    return np.full(array.shape[1:], np.nan, np.float32) if values is None else values[0]
