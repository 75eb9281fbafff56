"""Batches as plain arrays: what of a cube goes where, decoded into buffers that are used again. Knows no framework."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.analysis.transform import smooth
from strfcube.cube.response_reader import LazyReader, ResponseReader, computed
from strfcube.errors import UsageError
from strfcube.loading.memory import each
from strfcube.loading.rows import Rows, mean_over_repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from strfcube.analysis.select import Choice
    from strfcube.loading.memory import Take
    from strfcube.loading.reading import Reading
    from strfcube.loading.source import Source

    Filling = Callable[[], None]
    Made = tuple[dict[str, NDArray[Any]], Callable[[slice], Filling]]

_AHEAD_BYTES = 256_000_000  # decoded, of the chunks that a remote cube is asked for ahead; some tenth of it encoded
_PARALLEL_BYTES = 1_000_000  # a smaller batch is not worth a thread
_SHARE_VALUES = 1 << 19  # of stimuli that a thread reads in one go: what is decoded stays in the cache of a core


class BatchReader:
    """Batches of what is visible of a choice.

    Parameters
    ----------
    source : Source
        The cube.
    choice : Choice
        Chosen stimuli and neurons.
    reading : Reading
        How to read them.
    """

    def __init__(self, source: Source, choice: Choice, reading: Reading) -> None:
        self.source, self.choice, self.reading = source, choice, reading
        self.stim, self.neuron, self.n_repeats = choice.stim, choice.neuron, choice.counts(source.n_repeats)
        self.n_bins = source.n_bins[self.stim]
        self.dt_ms = float(source.cube.attrs["dt_ms"])

    @cached_property
    def _responses(self) -> ResponseReader | LazyReader:
        if not self.reading.allow_mixed and "units" in self.source.cube.coords:
            units = sorted(set(map(str, self.source.cube["units"].values[self.neuron])))
            if len(units) > 1:
                raise UsageError(
                    f"the chosen neurons are in {' and '.join(units)}: choose one with sel(signal_type=...), "
                    f"or mix them with allow_mixed=True"
                )
        return self.source.responses(self.neuron)

    @property
    def stored_dtypes(self) -> set[np.dtype[Any]]:
        """Dtypes that the visible neurons are stored in; float32 where they are read through dask."""
        r = self._responses
        return r.dtypes if isinstance(r, ResponseReader) else {np.dtype("f4")}

    @property
    def raw_fill(self) -> int | None:
        """Missing value of bytes that can be decoded elsewhere (`batch` with ``raw=True``), if there are such."""
        r = self._responses
        plain = not (self.reading.average_repeats or self.reading.smooth_ms or self.reading.normalize)
        return int(r.fill) if plain and isinstance(r, ResponseReader) and r.dtypes == {np.dtype("u1")} else None

    def check(self) -> None:
        """Find out before the first batch whether every visible stimulus can be read.

        Raises
        ------
        UsageError
            If some lack their spectrogram or waveform, or units are mixed.
        """
        ended = self.stim[self.n_bins == 0].tolist()
        lacking = ended or self.source.without_stimulus(self.stim.tolist(), self.reading.audio_fs, look=False)
        if lacking:
            raise self._lacks(lacking)
        _ = self._responses

    def _lacks(self, stims: Sequence[int]) -> UsageError:
        labels = ", ".join(map(repr, self.source.cube["stim"].values[stims[:3]].tolist()))
        what = "spectrogram" if self.reading.audio_fs is None else "waveform"
        if (self.source.n_bins[stims] == 0).all():
            return UsageError(
                f"{len(stims)} of {len(self.stim)} stimuli end before this part in time begins, such as {labels}: "
                f"leave them out with .where(lambda ds: ds.n_bins > 0)"
            )
        if len(stims) == len(self.stim):
            return UsageError(f"no stimulus has a {what} in this cube: build it with the sounds, or use the other mode")
        return UsageError(
            f"{len(stims)} of {len(self.stim)} stimuli have no {what}, such as {labels}: their sounds were missing "
            f"when the cube was built; leave them out with .with_stimulus(), or build it again with them"
        )

    @property
    def remote(self) -> bool:
        """Whether `fetch` is of use."""
        return isinstance(self._responses, ResponseReader) and self._responses.remote

    def window(self, batch_size: int) -> int:
        """Batches that may be asked for ahead of their time."""
        return max(1, _AHEAD_BYTES // max(1, self.largest(batch_size)))

    def largest(self, batch_size: int) -> int:
        """Values of the responses of a batch, at most."""
        return len(self.neuron) * int(self.n_repeats.max(initial=1)) * self.source.cube.sizes["time"] * batch_size

    def fetch(self, items: Sequence[int]) -> None:
        """Ask for what a batch of some visible stimuli reads; of no effect where it is at hand."""
        index = np.asarray(items, np.intp)
        self.source.fetch(self.stim[index].tolist(), self.reading.audio_fs)
        if isinstance(self._responses, ResponseReader):
            self._responses.fetch(self.stim[index].tolist(), self.n_repeats[index])

    def batch(
        self, items: Sequence[int], *, threads: int = 1, raw: bool = False, take: Take | None = None
    ) -> dict[str, Any]:
        """Arrays of some visible stimuli, trimmed to the longest, and to the most repeats, of them.

        Parameters
        ----------
        items : sequence of int
            Positions among the visible stimuli.
        threads : int
            1 where no thread may be started.
        raw : bool
            Responses as stored bytes, without a mask; only with `raw_fill`.
        take : callable, optional
            Gives the arrays. Default: memory that is used again.

        Returns
        -------
        dict
            ``stims`` [shape=(B, 1, frequency or 1, time)], ``responses`` and ``valid_mask``
            [shape=(B, neuron, repeat, time)], and the extra variables. Where the layout is ragged, ``responses`` and
            ``valid_mask`` [shape=(trial, time)], and ``stim_index``, ``neuron_index`` and ``repeat_index``.
        """
        index = np.asarray(items, np.intp)
        self.fetch(items)
        n_time = int(self.n_bins[index].max(initial=1))
        take = self.source.buffers.take if take is None else take
        stims = take(self._stims_shape(len(index), n_time), np.float32)
        made = self._rows if self.reading.layout == "ragged" else self._box
        arrays, begin = made(index, n_time, raw, take, threads)
        # Begun by one thread: those that are all in the interpreter wait for each other at every step
        shares = [(self._sounds(index[share], stims[share]), begin(share)) for share in self._shares(index, threads)]

        def one(k: int) -> None:
            sounds, responses = shares[k]
            sounds()
            responses()

        parallel = threads > 1 and len(shares) > 1
        if parallel and arrays["responses"].nbytes <= _PARALLEL_BYTES:
            parallel = self._decoded(index).sum() > _PARALLEL_BYTES
        each(one, len(shares), threads if parallel else 1)
        return {"stims": stims} | arrays | self.extras(items, threads=threads)

    def sounds(self, items: Sequence[int]) -> NDArray[np.float32]:
        """Spectrograms or waveforms of some visible stimuli, as `batch` gives them, in memory of their own."""
        index = np.asarray(items, np.intp)
        self.source.fetch(self.stim[index].tolist(), self.reading.audio_fs)
        out = np.empty(self._stims_shape(len(index), int(self.n_bins[index].max(initial=1))), np.float32)
        self._sounds(index, out)()
        return out

    def _box(self, index: NDArray[np.intp], n_time: int, raw: bool, take: Take, threads: int) -> Made:
        """Arrays with a place for each trial of each neuron, and what begins to read those of some stimuli."""
        shape = (len(index), len(self.neuron), int(self.n_repeats[index].max(initial=1)), n_time)
        if self.reading.average_repeats:
            shape = (shape[0], shape[1], 1, shape[3])
        responses = take(shape, np.uint8 if raw else np.float32)
        mask = None if raw else take(shape, bool)
        reader: Any = self._responses
        fetched = self._fetched(index, threads)

        def begin(share: slice) -> Filling:
            every = range(share.start, share.stop)
            if len(every) == 1 or fetched is not None or self.reading.average_repeats:
                return _one_by_one(fill, share)
            items = index[share]
            put = reader.begun(self.stim[items], self.n_repeats[items], self.n_bins[items])

            def together() -> None:
                put(responses[share], None if mask is None else mask[share])
                for b in every if mask is not None else ():
                    self._smooth(responses[b])
                    self._scale(responses[b], slice(None))

            return together

        def fill(b: int) -> None:
            item, counts = int(index[b]), self.n_repeats[index[b]]
            out, seen = responses[b], None if mask is None else mask[b]
            if self.reading.average_repeats:
                size = (shape[1], int(counts.max()), shape[3])
                out, seen = np.empty(size, np.float32), np.empty(size, bool)
            if fetched is None:
                reader.read(int(self.stim[item]), counts, int(self.n_bins[item]), out, seen)
            else:
                reader.place(fetched[b], counts, int(self.n_bins[item]), out, seen)
            if seen is None or mask is None:
                return
            self._smooth(out)
            if self.reading.average_repeats:
                total = np.where(seen, out, 0).sum(1, dtype=np.float32)
                count = seen.sum(1, dtype=np.float32)
                mask[b][:, 0] = count > 0
                responses[b][:, 0] = np.nan
                np.divide(total, count, out=responses[b][:, 0], where=mask[b][:, 0])
            self._scale(responses[b], slice(None))

        return {"responses": responses} | ({} if mask is None else {"valid_mask": mask}), begin

    def _rows(self, index: NDArray[np.intp], n_time: int, raw: bool, take: Take, threads: int) -> Made:
        """Arrays with a row for each trial that there is, and what begins to read those of some stimuli."""
        trials = rows = Rows.of(self.n_repeats[index])
        if self.reading.average_repeats:
            rows = Rows.of(np.minimum(self.n_repeats[index], 1))
        shape = (len(rows), n_time)
        responses = take(shape, np.uint8 if raw else np.float32)
        mask = None if raw else take(shape, bool)
        reader: Any = self._responses
        fetched = self._fetched(index, threads)

        def fill(b: int) -> None:
            item, mine = int(index[b]), rows.of_stimulus(b)
            out, seen = responses[mine], None if mask is None else mask[mine]
            asked = trials.of_stimulus(b)
            if self.reading.average_repeats:
                size = (asked.stop - asked.start, n_time)
                out, seen = np.empty(size, np.float32), np.empty(size, bool)
            which = trials.neuron[asked], trials.repeat[asked], int(self.n_bins[item])
            if fetched is None:
                reader.read_rows(int(self.stim[item]), *which, out, seen)
            else:
                reader.place_rows(fetched[b], *which, out, seen)
            if seen is None or mask is None:
                return
            self._smooth(out)
            if self.reading.average_repeats:
                mean_over_repeats(out, seen, trials.repeat[asked], responses[mine], mask[mine])
            self._scale(responses[mine], rows.neuron[mine])

        begin = partial(_one_by_one, fill)
        return {"responses": responses} | ({} if mask is None else {"valid_mask": mask}) | rows.indices(), begin

    def _fetched(self, index: NDArray[np.intp], threads: int) -> list[NDArray[Any]] | None:
        """Responses that are computed by dask, all at once; None of those that are read from shards."""
        reader = self._responses
        if isinstance(reader, ResponseReader):
            return None
        return reader.fetch(self.stim[index].tolist(), threads=threads > 1)

    def _smooth(self, values: NDArray[Any]) -> None:
        """Smooth along the last dimension, in place."""
        if self.reading.smooth_ms and values.size:
            named = xr.DataArray(values, dims=("neuron", "repeat", "time")[-values.ndim :])
            values[...] = smooth(named, self.dt_ms, self.reading.smooth_ms).values

    def _scale(self, values: NDArray[Any], neuron: slice | NDArray[np.intp]) -> None:
        """Normalise, in place: values [shape=(row, ..., time)], and the visible neuron of each row."""
        if self.reading.normalize is not None:
            each_row = (slice(None), *(None,) * (values.ndim - 1))
            shift, scale = (v[self.neuron][neuron][each_row].astype(np.float32) for v in self.reading.normalize)
            np.subtract(values, shift, out=values)
            np.divide(values, scale, out=values)

    def _stims_shape(self, count: int, n_time: int) -> tuple[int, ...]:
        fs = self.reading.audio_fs
        if fs is not None:
            return (count, 1, n_time * self.source.waveforms(fs).per_bin)
        return (count, 1, self.source.cube.sizes["frequency"], n_time)

    def _decoded(self, index: NDArray[np.intp]) -> NDArray[np.int64]:
        """Values that are decoded of some stimuli, at most: those of whole chunks [shape=(len(index),)]."""
        neurons = self._responses.decoded if isinstance(self._responses, ResponseReader) else 0
        most = self.n_repeats[index].max(1, initial=0).astype(np.int64)
        return np.asarray(neurons * most * self.source.cube.sizes["time"])

    def _shares(self, index: NDArray[np.intp], threads: int) -> list[slice]:
        """Stimuli of a batch that are read together: small neighbours. Large ones, which take longest, come first."""
        wanted = self.n_repeats[index].sum(1, dtype=np.int64) * self.n_bins[index]
        values = np.maximum(wanted, self._decoded(index)).tolist()
        large: list[slice] = []
        shares: list[slice] = []
        room, most = -1, -(-len(index) // threads)
        for b, size in enumerate(values):
            if 2 * size > _SHARE_VALUES:
                large.append(slice(b, b + 1))
                room = -1
            elif size <= room and b - shares[-1].start < most:
                shares[-1] = slice(shares[-1].start, b + 1)
                room -= size
            else:
                shares.append(slice(b, b + 1))
                room = _SHARE_VALUES - size
        return large + shares

    def _sounds(self, index: NDArray[np.intp], out: NDArray[Any]) -> Filling:
        """Begin to read some stimuli into an array [shape=(stim, 1, frequency, time) or (stim, 1, sample)]."""
        if self.reading.audio_fs is not None:
            return partial(self._waves, index, out)
        begun, bins = self.source.begun(self.stim[index].tolist()) if len(index) > 1 else None, self.n_bins[index]

        def together() -> None:
            found = self.source.stimuli(self.stim[index].tolist(), threads=False) if begun is None else begun()
            if isinstance(found, np.ndarray) and (bins == bins[0]).all():
                values = found[..., : bins[0]]
                if not np.isnan(values).any():
                    self._put(values, out, holes=False)
                    return
            for item, values, room in zip(index.tolist(), found, out, strict=True):
                here, holes = self._checked(item, values)
                self._put(here, room, holes=holes)

        return together

    def _put(self, values: NDArray[Any], out: NDArray[Any], *, holes: bool) -> None:
        """Put valid bins of spectrograms, (..., frequency, bin), into arrays [shape=(..., 1, frequency, time)]."""
        bins = values.shape[-1]
        here = out[..., 0, :, :bins]
        here[...] = values
        out[..., bins:] = 0
        if self.reading.standardize is not None:
            mean, deviation = self.reading.standardize
            np.subtract(here, mean, out=here)
            np.divide(here, deviation, out=here)
        if holes:
            np.copyto(here, 0, where=np.isnan(here))

    def _waves(self, index: NDArray[np.intp], out: NDArray[Any]) -> None:
        """Read waveforms into an array [shape=(stim, 1, sample)]."""
        assert self.reading.audio_fs is not None
        waveforms = self.source.waveforms(self.reading.audio_fs)
        for item, room in zip(index.tolist(), out, strict=True):
            wave = waveforms.read(int(self.stim[item]), int(self.n_bins[item]))
            room[0, : len(wave)] = wave
            room[0, len(wave) :] = 0

    def spectrogram(self, item: int) -> NDArray[Any]:
        """Valid bins of one visible stimulus [shape=(frequency, time)]; NaN in bands above half its sampling rate.

        A published spectrogram has no such bands: what is missing there was missing in the files.

        Raises
        ------
        UsageError
            If the cube lacks it, or bins inside the sound have no value.
        """
        (values,) = self.source.stimuli([int(self.stim[item])], threads=False)
        return self._checked(item, values)[0]

    @cached_property
    def _published(self) -> bool:
        return bool(self.source.cube["stimulus"].attrs.get("front_end") == "published")

    def _checked(self, item: int, values: NDArray[Any] | None) -> tuple[NDArray[Any], bool]:
        """Valid bins of a spectrogram that was read, and whether there is a NaN in them."""
        stim, bins = int(self.stim[item]), int(self.n_bins[item])
        if values is None:
            raise self._lacks(self.source.without_stimulus(self.stim.tolist(), None, look=False) or [stim])
        here = values[:, :bins]
        unknown = np.isnan(here)
        some = bool(unknown.any())
        if some and not self._published and not unknown.all():
            unknown &= ~unknown.all(1, keepdims=True)
        holes = unknown
        if some and holes.any():
            at = np.flatnonzero(holes.any(0))
            raise UsageError(
                f"stimulus {str(self.source.cube['stim'].values[stim])!r}: {len(at)} of its {bins} bins have no value "
                f"in the spectrogram, such as bin {at[0]}, and are not read as silence: fill them in, or leave it out"
            )
        return np.asarray(here), some

    def extras(self, items: Sequence[int], *, threads: int = 1) -> dict[str, Any]:
        """The extra variables of some visible stimuli, cut to the longest of them; `threads` as for `batch`."""
        index = np.asarray(items, np.intp)
        return {name: self._extra(name, index, threads) for name in self.reading.extra}

    def _extra(self, name: str, index: NDArray[np.intp], threads: int) -> Any:
        if name not in self.source.cube.variables or "stim" not in self.source.cube[name].dims:
            there = sorted(str(n) for n, v in self.source.cube.variables.items() if "stim" in v.dims)
            raise UsageError(f"extra={name!r}: expected a variable on stim, one of {', '.join(there)}")
        array = self.source.cube[name]
        chosen = array.transpose("stim", ...).isel(stim=self.stim[index])
        if "neuron" in chosen.dims:
            chosen = chosen.isel(neuron=self.neuron)
        if "time" in chosen.dims:
            chosen = chosen.isel(time=slice(int(self.n_bins[index].max(initial=1))))
        (values,) = computed([chosen], threads=threads > 1)
        return values if values.dtype.kind in "biuf" else values.astype(object).tolist()


def _one_by_one(fill: Callable[[int], None], share: slice) -> Filling:
    """Fills what stimuli of a batch need, one after the other."""

    def every() -> None:
        for b in range(share.start, share.stop):
            fill(b)

    return every
