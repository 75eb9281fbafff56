"""Any Dataset that keeps the cube's contract, written as a cube: pools, selections, transformed responses."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strfcube.builder.finalise import files_dataset, findings_dataset, response_words, text, write_group
from strfcube.builder.ledger import sync
from strfcube.builder.plan import response_layout, samples_layout, stimulus_layout, trial_layouts
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
from strfcube.cube.groups import open_group
from strfcube.cube.normalise import loaded
from strfcube.cube.schema import problems
from strfcube.cube.shard_writer import Layout, create, write_shard
from strfcube.cube.store import attributes_digest, local, no_consolidation_warning
from strfcube.cube.store import open as open_cube
from strfcube.cube.stored_rows import Sounds, Store
from strfcube.cube.trials import Origin, TrialRows, findings_of, origins, trials_of
from strfcube.errors import StoreError, UsageError
from strfcube.progress import Progress, shown
from strfcube.sound.audio import to_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import xarray as xr

    from strfcube.cube.stored_rows import Part
    from strfcube.records import Finding

Chunk = tuple[tuple[int, ...], NDArray[Any]]
_LARGE = ("response", "stimulus")
log = logging.getLogger("strfcube")


def save(ds: xr.Dataset, path: str | os.PathLike[str], *, progress: bool | Progress | None = None) -> str:
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
    if "://" in os.fspath(path):
        raise StoreError(f"{os.fspath(path)}: give a local folder, and copy that")
    with writable(os.fspath(path)):
        target = place_of(local(path))
        work = work_folder(target)
        _see_free(target)
    with shown(progress) as tell:
        if tell:
            tell("check", 0, 0)
        made = prepared(ds)
        known = origins(made.ds)
        stores = [part.store.path for name in _LARGE for part in _parts(ds, name)]
        stores += [] if isinstance(known, str) else [o.path for o in known]
        for source in dict.fromkeys(stores):
            see_whole(source)
        _put(made, target, work, tell)
    if made.lost:
        log.warning("%s was saved %s", local(path), "; ".join(made.lost))
    return local(path)


def _put(made: Prepared, target: str, work: Path, tell: Progress | None) -> None:
    with writable(target), locked(work):
        recover(work, target)
        _see_free(target)
        clear(work)
        try:
            unfinished = store_of(target, work)
            _write(made, unfinished, tell)
            sync(Path(unfinished))
            _see_free(target)
        except BaseException:
            discard(work)
            raise
        publish(unfinished, target, work)


def _see_free(target: str) -> None:
    if os.path.exists(target):
        raise StoreError(f"{target}: there is something already; move it away, or give another path")


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is going to be written.

    Attributes
    ----------
    ds : xarray.Dataset
        A whole cube: small variables in memory, no repeat and no bin that nothing holds, labels counted anew.
    trials : TrialRows or None
        Its single trials.
    sounds : tuple or None
        Sizes and rates of its waveforms, and where each is.
    findings : list of Finding or None
        None where it does not know its store.
    recipe : str
        JSON.
    lost : tuple of str
        What does not come along, and why.
    """

    ds: xr.Dataset
    trials: TrialRows | None
    sounds: tuple[xr.Dataset, list[tuple[Sounds, int]]] | None
    findings: list[Finding] | None
    recipe: str
    lost: tuple[str, ...]


def prepared(ds: xr.Dataset) -> Prepared:
    """Check that a Dataset is a whole cube, and find what comes along with it.

    Raises
    ------
    UsageError
        If it is none.
    StoreError
        If a cube that it was read from was built again.
    """
    empty = [str(d) for d in ("stim", "neuron", "repeat", "time", "frequency") if d in ds.dims and not ds.sizes[d]]
    if empty:
        raise UsageError(f"nothing is left along {' and '.join(empty)}: there is no cube to save")
    whole = loaded(ds)
    if wrong := problems(whole):
        raise UsageError(
            f"this is no whole cube any more: {'; '.join(wrong)} (a cube with other bins is made by strfcube.rebin)"
        )
    cut = _bins_are_cut(ds, whole)
    changed = [name for name in ("response", "stimulus") if not _is_stored(whole, name)]
    lost, trials, sounds, findings = [], None, None, None
    known = origins(whole)
    if isinstance(known, str):
        lost.append(f"without single trials, waveforms and findings: {known}")
    else:
        findings = findings_of(whole)
        try:
            trials = None if cut or "response" in changed else trials_of(whole)
        except StoreError as error:
            lost.append(f"without single trials: {error}")
        if cut:
            lost.append("without single trials and waveforms: bins are left out")
        elif "response" in changed:
            lost.append("without single trials: its responses are no longer what they give")
        sounds = None if cut else _sounds(whole)
    marks: dict[str, Any] = {}
    if changed := [*changed, *(["time"] if cut else [])]:
        marks["changed"] = changed
    whole = _trimmed(whole)
    if isinstance(known, str) or _is_part(whole, known):
        marks["part"] = _name_of_part(whole)
    recipe = json.loads(str(whole.attrs.get("recipe") or "{}"))
    earlier = recipe.get("saved", {})
    if marks and not isinstance(known, str):
        both = [*earlier.get("changed", ()), *marks.pop("changed", ())]
        recipe["saved"] = earlier | marks | ({"changed": list(dict.fromkeys(both))} if both else {})
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return Prepared(whole, trials, sounds, findings, text, tuple(lost))


def _bins_are_cut(ds: xr.Dataset, whole: xr.Dataset) -> bool:
    """Whether some of the bins of a stimulus are left out."""
    step = float(ds.attrs["dt_ms"]) / 1000
    first = np.rint(ds["time"].values / step)
    return not np.array_equal(first, np.arange(len(first))) or bool((whole["n_bins"] != ds["n_bins"]).any())


def _is_stored(ds: xr.Dataset, name: str) -> bool:
    """Whether a variable holds what its stores hold; read, where labels alone say where that would be."""
    from strfcube.cube.lazy_array import rows_of

    if rows_of(ds[name]) is not None:
        return True
    known = origins(ds)
    if isinstance(known, str) or len(known) != 1:
        return False
    (origin,) = known
    stored = open_cube(origin.path)[name]
    at = {"stim": origin.stim} | ({"neuron": origin.neuron, "repeat": origin.repeat} if name == "response" else {})
    if any(len(v) and (v.max() >= stored.sizes[d] or v.min() < 0) for d, v in at.items()):
        return False
    stored = stored.isel(dict(at) | {"time": slice(0, ds.sizes["time"])})
    if stored.shape != ds[name].shape:
        return False
    counted = ds["n_repeats"].values > 0
    for s in range(ds.sizes["stim"]):
        own, there = ds[name][s].values, stored[s].values
        if name == "response":
            there = np.where(counted[s][:, None, None], there, np.nan)
        if not np.array_equal(own, there, equal_nan=True):
            return False
    return True


def _is_part(ds: xr.Dataset, known: tuple[Origin, ...]) -> bool:
    """Whether anything of the stores is left out."""
    stores = [open_group(path)["n_repeats"] for path in dict.fromkeys(o.path for o in known)]
    neurons, trials = sum(v.sizes["neuron"] for v in stores), sum(int(v.values.sum()) for v in stores)
    fewer = len(stores) == 1 and ds.sizes["stim"] < stores[0].sizes["stim"]
    return fewer or neurons > ds.sizes["neuron"] or trials > int(ds["n_repeats"].values.sum())


def _name_of_part(ds: xr.Dataset) -> str:
    """What tells this part from others of the same recipe."""
    labels = "\n".join(str(v) for d in ("stim", "neuron") for v in (*ds[d].values, ""))
    return hashlib.sha256(labels.encode() + np.asarray(ds["n_repeats"].values).tobytes()).hexdigest()[:8]


def _trimmed(ds: xr.Dataset) -> xr.Dataset:
    """Without repeats and bins that no pair has; repeats are counted from 0, labels are text."""
    repeats = max(1, int(ds["n_repeats"].values.max(initial=0)))
    bins = max(1, int(ds["n_bins"].values.max(initial=0)))
    ds = ds.isel(repeat=slice(0, repeats), time=slice(0, bins))
    ds = ds.assign_coords(repeat=ds["repeat"].copy(data=np.arange(ds.sizes["repeat"], dtype=np.int32)))
    words = {n: (v.dims, text(v.values.astype(str)), v.attrs) for n, v in ds.coords.items() if v.dtype.kind in "UTO"}
    attrs = {k: v for k, v in ds["response"].attrs.items() if k != "_FillValue"}
    said = response_words({"mixed", "count"})["long_name"]
    if attrs.get("long_name") == said and attrs.get("units") != "mixed":
        attrs |= response_words({str(attrs["units"])})
    ds = ds.assign_coords(words)
    return ds.assign(response=ds["response"].assign_attrs(attrs))


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
            _write_array(unfinished, layout, lambda shard, a=layout: meter.over(_chunks(ds, a, shard)), digests)
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


class _Meter:
    """Counts chunks as they are written."""

    def __init__(self, tell: Progress | None, total: int) -> None:
        self.tell, self.done, self.total = tell, 0, total

    def over(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
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


def _parts(ds: xr.Dataset, name: str) -> tuple[Part, ...]:
    """Where a variable is stored; empty where that is not known."""
    from strfcube.cube.lazy_array import rows_of

    rows = rows_of(ds[name])
    return rows.parts if rows is not None else ()


def _sounds(ds: xr.Dataset) -> tuple[xr.Dataset, list[tuple[Sounds, int]]] | None:
    """Sizes and rates of the waveforms, and where each is; None where there are none."""
    known = origins(ds)
    parts = [(part.store, part.stim) for part in _parts(ds, "stimulus")]
    parts += [] if isinstance(known, str) else [(Store.opened(o.path, "", o.cache_dir), o.stim) for o in known]
    stored = {store.path: store.sounds() for store, _ in parts}
    size, rate = np.zeros(ds.sizes["stim"], np.int64), np.full(ds.sizes["stim"], np.nan)
    where = []
    for s in range(ds.sizes["stim"]):
        for store, stim in parts:
            at, sounds = int(stim[s]), stored[store.path]
            if at >= 0 and sounds is not None and sounds.size[at]:
                size[s], rate[s] = sounds.size[at], sounds.rate[at]
                where.append((sounds, at))
                break
    if not where:
        return None
    sample = open_group(next(path for path, sounds in stored.items() if sounds is not None), "audio")
    table = sample[["row_size", "rate"]].isel(stim=np.zeros(len(size), int))
    return table.assign({n: table[n].copy(data=v) for n, v in (("row_size", size), ("rate", rate))}), where


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
