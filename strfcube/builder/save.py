"""Any Dataset that keeps the cube's contract, written as a cube: pools, selections, transformed responses."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.builder.finalise import files_dataset, findings_dataset, write_group
from strfcube.builder.ledger import sync
from strfcube.builder.plan import response_layout, samples_layout, stimulus_layout, trial_layouts
from strfcube.builder.saved import Prepared, prepared
from strfcube.builder.workplace import (
    clear,
    discard,
    locked,
    place_of,
    publish,
    recover,
    see_whole,
    store_of,
    work_folder,
    writable,
)
from strfcube.cube import digest
from strfcube.cube.metadata import sealed
from strfcube.cube.shard_writer import Layout, create, put, write_shard
from strfcube.cube.store import attributes_digest, existing_cube, local, named, no_consolidation_warning
from strfcube.errors import StoreError
from strfcube.progress import Progress, shown
from strfcube.sound.audio import to_float
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import xarray as xr

    from strfcube.cube.stored_rows import Sounds
    from strfcube.cube.trials import TrialRows


Chunk = tuple[tuple[int, ...], NDArray[Any]]
log = logging.getLogger("strfcube")


def save(
    ds: xr.Dataset, path: str | os.PathLike[str], *, force: bool = False, progress: bool | Progress | None = None
) -> str:
    """Save a cube, a part of one, a pool or a transformed cube as a cube of its own.

    What is stored in the cubes that `ds` was read from comes along, cut to what is left: single trials with their exact
    spikes, waveforms, findings. A part has the digest that a build of just that part (``only``) has.

    A transformed cube is saved as it is, and says so. With other responses (smoothed, averaged) it has no trials, with
    fewer bins neither trials nor waveforms, with other spectrograms (standardized) it keeps both; `rebin`, which starts
    from trials and waveforms, refuses all three. What is no cube any more, such as bins that were joined by
    ``ds.coarsen``, is refused here.

    Parameters
    ----------
    ds : xarray.Dataset
        As `strfcube.open` gives it, or what was made of that; it is read a few stimuli at a time, 16 MB at most or one.
    path : path
        A local folder that does not exist; it appears when everything is written. Until then it lies beside, in
        ``<path>.building``; what a killed call left there, the next one clears away.
    force : bool
        Replace a cube that is there, once the new one is whole; anything else is never replaced.
    progress : bool or callable, optional
        As in `build`.

    Returns
    -------
    str
        The path.

    Raises
    ------
    UsageError
        If `ds` is no whole cube any more; the message says what it lacks.
    StoreError
        If there is something at `path`, it cannot be written, or a cube that `ds` was read from is damaged.
    """
    if "://" in named(path):
        raise StoreError(f"{path}: give a local folder, and copy that")
    place = local(path)  # now: what is called meanwhile may change the folder
    with writable(place):
        target = place_of(place)
        work = work_folder(target)
        _see_free(target, force)
    with shown(progress) as tell:
        if tell:
            tell("check", 0, 0)
        made = prepared(ds)
        for source in made.stores:
            see_whole(source)
        _put(made, target, work, force, tell)
    if made.lost:
        log.warning("%s was saved %s", place, "; ".join(made.lost))
    return place


def _put(made: Prepared, target: str, work: Path, force: bool, tell: Progress | None) -> None:
    with writable(target), locked(work):
        recover(work, target)
        _see_free(target, force)
        clear(work)
        try:
            unfinished = store_of(target, work)
            _write(made, unfinished, tell)
            sync(Path(unfinished))
            _see_free(target, force)
        except BaseException:
            discard(work)
            raise
        publish(unfinished, target, work)


def _see_free(target: str, force: bool) -> None:
    if os.path.exists(target) and not (force and existing_cube(target)):
        what = "a cube already: give another path, or replace it with --force (force=True)"
        existing_cube(target)  # anything else is named as such
        raise StoreError(f"{target}: there is {what}")


def _write(made: Prepared, unfinished: str, tell: Progress | None) -> None:
    import zarr

    from strfcube.version import __version__

    ds = made.ds
    small = ds.drop_vars(["response", "stimulus"])
    attrs = {k: v for k, v in ds["response"].attrs.items() if k != "_FillValue"}
    repeats = small["n_repeats"].values.max(1, initial=0)
    layouts = [
        response_layout(repeats, ds.sizes["neuron"], ds.sizes["time"], _stored_dtype(ds), attrs),
        stimulus_layout(ds.sizes["stim"], ds.sizes["frequency"], ds.sizes["time"], dict(ds["stimulus"].attrs)),
    ]
    digests: dict[str, str] = {}
    meter = _Meter(tell, sum(layout.shape[0] * math.prod(layout.grid[1:]) for layout in layouts))
    with no_consolidation_warning():
        write_group(small, unfinished, "", digests)
        for layout in layouts:
            _write_array(unfinished, layout, partial(meter.over, ds, layout), digests)
        if made.sounds is not None:
            table, where = made.sounds
            write_group(table, unfinished, "audio", digests)
            dtype = _samples_dtype(where)
            layout = samples_layout(int(table["row_size"].sum()), dtype)
            _write_ragged(unfinished, layout, _samples(where, dtype), digests)
        if made.trials is not None:
            _write_trials(made.trials, unfinished, digests)
        if made.findings is not None:
            write_group(findings_dataset(made.findings), unfinished, "findings", digests)
        root = zarr.open_group(unfinished, mode="a")
        digests["attributes"] = attributes_digest(unfinished)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        history = f"{ds.attrs.get('history', '')}\n{now} strfcube {__version__}: saved".strip()
        root.attrs.update(
            {"digest": digest.combine(digests), "digests": json.dumps(dict(sorted(digests.items()))),
             "recipe": made.recipe, "history": history}
        )  # fmt: skip
        zarr.consolidate_metadata(unfinished)
    put(unfinished, "zarr.json", sealed(connect(unfinished, "")))


class _Meter:
    """Counts chunks as they are written."""

    def __init__(self, tell: Progress | None, total: int) -> None:
        self.tell, self.done, self.total = tell, 0, total

    def over(self, ds: xr.Dataset, layout: Layout, shard: tuple[int, ...]) -> Iterator[Chunk]:
        """Yield the chunks of a shard."""
        for chunk in _chunks(ds, layout, shard):
            yield chunk
            self.done += 1
            if self.tell:
                self.tell("save", self.done, self.total)


def _write_trials(trials: TrialRows, store: str, digests: dict[str, str]) -> None:
    rows, spikes = (int(f(trials.columns["row_size"])) for f in (len, np.sum))
    layouts, times = trial_layouts(rows, spikes, trials.tests)
    write_group(files_dataset(trials.files.tolist()), store, "trials", digests)
    for name, layout in layouts.items():
        _write_ragged(store, layout, iter([trials.columns[name]]), digests)
    _write_ragged(store, times, trials.spikes(), digests)


def _write_array(
    store: str, layout: Layout, chunks: Callable[[tuple[int, ...]], Iterable[Chunk]], digests: dict[str, str]
) -> None:
    """One sharded array, from the chunks of each shard."""
    create(store, layout)
    leaves = [leaf for shard in layout.shards() for leaf in write_shard(store, layout, shard, chunks(shard))]
    digests[layout.name] = digest.of_leaves(layout.name, layout.dtype, layout.shape, layout.chunk, leaves)


def _samples_dtype(where: list[tuple[Sounds, int]]) -> np.dtype[Any]:
    dtypes = {sounds.samples.dtype for sounds, _ in where}
    return np.dtype(dtypes.pop() if len(dtypes) == 1 else np.float32)


def _samples(where: list[tuple[Sounds, int]], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for sounds, at in where:
        samples = sounds.read(at)
        yield samples if samples.dtype == dtype else to_float(samples)


def _write_ragged(store: str, layout: Layout, pieces: Iterator[NDArray[Any]], digests: dict[str, str]) -> None:
    """One one-dimensional array, from pieces of any length in its order."""
    chunks = _cut(pieces, layout)
    _write_array(store, layout, lambda _: itertools.islice(chunks, layout.per_shard[0]), digests)


def _cut(pieces: Iterator[NDArray[Any]], layout: Layout) -> Iterator[Chunk]:
    rest, number, size = np.empty(0, layout.dtype), 0, layout.chunk[0]
    for piece in pieces:
        rest = np.concatenate([rest, piece.astype(layout.dtype, copy=False)])
        whole = len(rest) // size
        for i in range(whole):
            yield (number + i,), rest[i * size : (i + 1) * size]
        rest, number = rest[whole * size :], number + whole
    if len(rest):
        yield (number,), rest


def _stored_dtype(ds: xr.Dataset) -> str:
    """Dtype that the response needs: counts as the smallest integer, anything else as float32."""
    if str(ds["response"].attrs.get("units")) != "count":
        return "f4"
    most = 0.0
    for _, values in _stimuli(ds["response"], [slice(0, n) for n in ds["response"].shape]):
        seen = values[~np.isnan(values)]
        if (seen != np.rint(seen)).any() or (seen < 0).any():
            return "f4"
        most = max(most, float(seen.max(initial=0)))
    return "u1" if most < 255 else "u2" if most < 65535 else "f4"


def _stimuli(array: xr.DataArray, span: list[slice]) -> Iterator[tuple[int, NDArray[Any]]]:
    """A part of a variable, stimulus after stimulus; small ones are read many at a time, as dask reads them."""
    from strfcube.cube.lazy_array import READ_BYTES

    step = max(1, READ_BYTES // (4 * math.prod(s.stop - s.start for s in span[1:]) or 1))
    for low in range(span[0].start, span[0].stop, step):
        block = array[(slice(low, min(low + step, span[0].stop)), *span[1:])].values
        yield from enumerate(block, low)


def _chunks(ds: xr.Dataset, layout: Layout, shard: tuple[int, ...]) -> Iterator[Chunk]:
    """Chunks of one shard of a variable over (stim, ...), one stimulus at a time."""
    array = ds[layout.name]
    first = [i * n for i, n in zip(shard, layout.shard, strict=True)]
    span = [slice(f, min(f + n, total)) for f, n, total in zip(first, layout.shard, layout.shape, strict=True)]
    rest = [range(s.start // c, -(-s.stop // c)) for s, c in zip(span[1:], layout.chunk[1:], strict=True)]
    for stim, values in _stimuli(array, span):
        if layout.dtype != "f4":
            values = np.where(np.isnan(values), layout.fill, values).astype(layout.dtype)
        for at in itertools.product(*rest):
            inner = [
                slice(i * c - s.start, min((i + 1) * c, s.stop) - s.start)
                for i, c, s in zip(at, layout.chunk[1:], span[1:], strict=True)
            ]
            yield (stim, *at), values[(None, *inner)]
