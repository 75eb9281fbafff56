"""Any Dataset that keeps the cube's contract, written as a cube: pools, selections, transformed responses."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from strfcube.builder.finalise import ends_of, files_dataset, findings_dataset, write_group
from strfcube.builder.ledger import Files, written
from strfcube.builder.places import SAVED, Place, place
from strfcube.builder.plan import response_layout, samples_layout, stimulus_layout, trial_layouts
from strfcube.builder.saved import Prepared, prepared
from strfcube.builder.workplace import clear, place_of, see_apart, see_whole, writable
from strfcube.cube import digest
from strfcube.cube.files import see_own
from strfcube.cube.metadata import sealed
from strfcube.cube.shard_writer import Layout, create, encoded_shard, put
from strfcube.cube.store import attributes_digest, existing_cube, local, no_consolidation_warning
from strfcube.errors import StoreError
from strfcube.progress import Progress, shown
from strfcube.sound.audio import to_float
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import xarray as xr

    from strfcube.cube.opened import Sounds
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
    path : path or URL
        Of a cube that does not exist; it appears when everything is written. Until then a local one lies beside, in
        ``<path>.building``; what a killed call left, the next one clears away.
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
    saved = local(path)  # now: what is called meanwhile may change the folder
    with writable(saved):
        at = place(place_of(saved))
        _see_free(at.target, force)
    with shown(progress) as tell:
        if tell:
            tell("check", 0, 0)
        made = prepared(ds)
        for source in made.stores:
            see_whole(source)
            see_apart(source, at.target)
        _put(made, at, force, tell)
    if made.lost:
        log.warning("%s was saved %s", saved, "; ".join(made.lost))
    return saved


def _put(made: Prepared, at: Place, force: bool, tell: Progress | None) -> None:
    with writable(at.target), at.alone():
        _see_free(at.target, force)
        clear(at.work)
        stamp = json.dumps([SAVED, uuid4().hex]).encode()
        at.see(stamp, force=force)
        try:
            at.begin(stamp, "", fresh=True)
            sink = _Sink(str(at.draft), at.shards)
            _write(made, sink, tell)
            at.settle(sink.files)
            _see_free(at.target, force)
        except BaseException:
            at.discard()
            raise
        at.publish()


def _see_free(target: str, force: bool) -> None:
    cube = existing_cube(target)
    if cube is not None and force:
        see_own(target, cube)
    there = cube is not None or ("://" not in target and os.path.exists(target))
    if there and not (force and cube is not None):
        raise StoreError(
            f"{target}: there is a cube already: give another path, or replace it with --force (force=True)"
        )


@dataclass(frozen=True)
class _Sink:
    """What is written: metadata and labels to one place, shards to another, or the same.

    Attributes
    ----------
    draft, shards : str
        As in `strfcube.builder.places.Place`.
    digests : dict
        Of what was written, by path within the store.
    files : dict
        The shards.
    """

    draft: str
    shards: str
    digests: dict[str, str] = field(default_factory=dict)
    files: Files = field(default_factory=dict)

    def group(self, ds: xr.Dataset, name: str) -> None:
        """Write variables that fit in memory."""
        write_group(ds, self.draft, name, self.digests)

    def array(self, layout: Layout, chunks: Callable[[tuple[int, ...]], Iterable[Chunk]]) -> None:
        """Write one sharded array, from the chunks of each shard."""
        create(self.draft, layout)
        leaves = []
        for shard in layout.shards():
            key, data, some = encoded_shard(layout, shard, chunks(shard))
            leaves += some
            if data:
                self.files[key] = written(self.shards, key, data)
        name = layout.name
        self.digests[name] = digest.of_leaves(name, layout.dtype, layout.shape, layout.chunk, leaves)

    def ragged(self, layout: Layout, pieces: Iterator[NDArray[Any]]) -> None:
        """Write one one-dimensional array, from pieces of any length in its order."""
        chunks = _cut(pieces, layout)
        self.array(layout, lambda _: itertools.islice(chunks, layout.per_shard[0]))


def _write(made: Prepared, sink: _Sink, tell: Progress | None) -> None:
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
    meter = _Meter(tell, sum(layout.shape[0] * math.prod(layout.grid[1:]) for layout in layouts))
    with no_consolidation_warning():
        sink.group(small, "")
        for layout in layouts:
            sink.array(layout, partial(meter.over, ds, layout))
        if made.sounds is not None:
            table, where = made.sounds
            sink.group(table, "audio")
            dtype = _samples_dtype(where)
            layout = samples_layout(int(table["row_size"].sum()), dtype)
            sink.ragged(layout, _samples(where, dtype))
        if made.trials is not None:
            _write_trials(made.trials, sink)
        if made.findings is not None:
            sink.group(findings_dataset(made.findings), "findings")
        root = zarr.open_group(sink.draft, mode="a")
        digests = sink.digests | {"attributes": attributes_digest(sink.draft)}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        history = f"{ds.attrs.get('history', '')}\n{now} strfcube {__version__}: saved".strip()
        root.attrs.update(
            {"digest": digest.combine(digests), "digests": json.dumps(dict(sorted(digests.items()))),
             "recipe": made.recipe, "history": history}
        )  # fmt: skip
        zarr.consolidate_metadata(sink.draft)
    put(sink.draft, "zarr.json", sealed(connect(sink.draft, ""), ends_of(sink.files)))


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


def _write_trials(trials: TrialRows, sink: _Sink) -> None:
    rows, spikes = (int(f(trials.columns["row_size"])) for f in (len, np.sum))
    layouts, times = trial_layouts(rows, spikes, trials.tests)
    sink.group(files_dataset(trials.files.tolist()), "trials")
    for name, layout in layouts.items():
        sink.ragged(layout, iter([trials.columns[name]]))
    sink.ragged(times, trials.spikes())


def _samples_dtype(where: list[tuple[Sounds, int]]) -> np.dtype[Any]:
    dtypes = {sounds.samples.dtype for sounds, _ in where}
    return np.dtype(dtypes.pop() if len(dtypes) == 1 else np.float32)


def _samples(where: list[tuple[Sounds, int]], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    for sounds, at in where:
        samples = sounds.read(at)
        yield samples if samples.dtype == dtype else to_float(samples)


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
