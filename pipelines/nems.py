"""Reader of NEMS recordings: the bundles in which the Laboratory of Brain, Hearing, and Behavior ships its data.

A bundle is a ``.tgz``, a ``.tgz`` inside a zip archive, or a folder, of files ``<recording>.<signal>.<extension>``, at
most one wrapping folder deep. Archives are streamed from front to back: nothing is unpacked to disk, and no member is
kept but the ones asked for. For each signal there are

``.json``
    ``name``, ``recording``, ``fs`` (Hz), ``chans`` (list of str, or null), ``meta`` (object or null), and in newer
    files ``segments`` (``[[first, end]]`` in samples) and ``signal_type``; keys in any order. A missing
    ``signal_type`` is a RasterizedSignal.
``.epoch.csv``
    A header and one row an occurrence; columns ``start``, ``end`` (s) and ``name``, in any order, perhaps with
    others; names that hold a comma are quoted. The signals of a recording share their epochs.
the data
    RasterizedSignal: ``.csv``, no header, a row a bin, a column a channel, ``nan`` for missing, usually ``%.18e``.
    PointProcess: ``.h5``, a dataset a channel, event times in s. TiledSignal: ``.h5``, a dataset [shape=(channel,
    bin)] an epoch name, standing at every occurrence of that epoch, zeros elsewhere.

Epochs become bins by rounding both ends, ``round(start * fs)`` to ``round(end * fs)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from strfcube import limits
from strfcube.errors import RawDataError
from strfcube.grid import NS_PER_S, seconds_to_ns
from strfcube.pipelines.nems_files import (
    Bundle,
    Epochs,
    Header,
    members,
    open_h5,
    part_of,
    raster_blocks,
    read_epochs,
    read_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Signal:
    """One signal of a recording, in the form in which its file holds it.

    Attributes
    ----------
    header : Header
        With `chans` filled in.
    epochs : Epochs
        Of the signal, or of another signal of the recording where it has none of its own.
    values : ndarray of float32 [shape=(time, channel)] or scipy.sparse.csc_array, optional
        Of a RasterizedSignal; sparse where that was asked for.
    events : dict of ndarray, optional
        Channel to event times in s, of a PointProcess; without the channels that json names and the data lack.
    tiles : dict of ndarray [shape=(channel, bin)], optional
        Epoch name to values, of a TiledSignal.
    """

    header: Header
    epochs: Epochs
    values: Any = None
    events: dict[str, NDArray[np.float64]] | None = None
    tiles: dict[str, NDArray[np.float32]] | None = None

    @property
    def chans(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self.header.chans or ()

    @property
    def seconds(self) -> float:
        """How much was recorded, in s; NaN where the files do not state it."""
        return self.header.seconds if self.values is None else int(self.values.shape[0]) / self.header.fs

    def epoch(self, row: int) -> NDArray[np.float32]:
        """Values of one occurrence of an epoch.

        Parameters
        ----------
        row : int
            Row of `epochs`.

        Returns
        -------
        ndarray of float32 [shape=(channel, bin)]
            NaN past the end of the signal, and for channels without data. A PointProcess gives counts per bin at
            ``fs``: an event on a bin's edge belongs to the bin that starts there.
        """
        fs = self.header.fs
        first, last = round(self.epochs.starts[row] * fs), round(self.epochs.ends[row] * fs)
        out = np.full((len(self.chans), last - first), np.nan, np.float32)
        if self.values is not None:
            inside = max(first, 0)
            part = self.values[inside : max(last, 0)]
            part = part if isinstance(part, np.ndarray) else part.toarray()
            out[:, inside - first : inside - first + len(part)] = part.T
        elif self.tiles is not None:
            tile = self.tiles.get(self.epochs.names[row], np.zeros((len(self.chans), last - first), np.float32))
            width = min(tile.shape[1], last - first)
            out[:, :width] = tile[:, :width]
        else:
            events = self.events or {}
            for channel, name in enumerate(self.chans):
                if name not in events:
                    continue
                times = events[name]
                times = times[np.abs(times) <= limits.WINDOW_SECONDS]  # nor what is no number
                bins = (seconds_to_ns(times) * fs // NS_PER_S).astype(np.int64) - first
                out[channel] = np.bincount(bins[(bins >= 0) & (bins < last - first)], minlength=last - first)
        return out

    def overhang(self, prefix: str = "") -> list[int]:
        """Rows of the epochs with that prefix that reach past the end of the signal, by more than half a bin."""
        limit = self.seconds * self.header.fs + 0.5
        return [row for row in self.epochs.occurrences(prefix) if self.epochs.ends[row] * self.header.fs > limit]


def read_head(bundle: Bundle, signal: str) -> tuple[Header, Epochs]:
    """One signal's header and epochs; an archive is read only as far as they need.

    Raises
    ------
    RawDataError
        If the bundle is damaged or unsafe, or lacks either.
    """
    header: Header | None = None
    epochs: Epochs | None = None
    channels: tuple[str, ...] | None = None
    with members(bundle) as files:
        for file, stream in files:
            name, kind = part_of(file)
            if kind == "epoch.csv" and (name == signal or not (epochs and epochs.names)):
                epochs = read_epochs(stream, f"{bundle}/{file}")
            elif name == signal and kind == "json":
                header = read_header(stream, f"{bundle}/{file}")
                channels = header.chans or channels
            elif name == signal and kind == "h5" and channels is None:
                with open_h5(stream, f"{bundle}/{file}") as h5:
                    channels = tuple(sorted(h5))
            if header and epochs and epochs.names and channels is not None:
                break
    return _complete(bundle, signal, header, epochs, channels)


def read_bundle(
    bundle: Bundle, signals: Collection[str] | None = None, sparse: Collection[str] = ()
) -> dict[str, Signal]:
    """Signals of a recording.

    Parameters
    ----------
    bundle : Bundle
        Read once, from front to back.
    signals : collection of str, optional
        Which; those that the recording lacks are absent from the result. None is all.
    sparse : collection of str
        Signals whose rasterized values are kept as ``scipy.sparse.csc_array`` [shape=(time, channel)]: for the
        responses of hundreds of neurons, mostly zeros.

    Returns
    -------
    dict of str to Signal

    Raises
    ------
    RawDataError
        If an archive is cut short or no archive, a member would lie outside its folder, a signal has no json or no
        data, no signal has epochs, or a file is not as its format says.
    """
    headers: dict[str, Header] = {}
    epochs: dict[str, Epochs] = {}
    data: dict[str, Any] = {}
    with members(bundle) as files:
        for file, stream in files:
            name, kind = part_of(file)
            if kind == "epoch.csv":  # of any signal: they share their epochs
                epochs[name] = read_epochs(stream, f"{bundle}/{file}")
            elif not name or (signals is not None and name not in signals) or (name, kind) == ("meta", "json"):
                continue
            elif kind == "json":
                headers[name] = read_header(stream, f"{bundle}/{file}")
            elif kind == "csv":
                data[name] = _read_raster(stream, f"{bundle}/{file}", name in sparse)
            else:
                with open_h5(stream, f"{bundle}/{file}") as h5:
                    if groups := [key for key in sorted(h5) if hasattr(h5[key], "keys")]:
                        raise RawDataError(f"expected datasets only, found the group {groups[0]}", f"{bundle}/{file}")
                    data[name] = {key: np.asarray(h5[key][()]) for key in sorted(h5)}
    shared = max(epochs.values(), key=lambda table: len(table.names), default=None)  # that of a mask may be empty
    return {
        name: _assemble(bundle, name, headers.get(name), epochs.get(name, shared), data.get(name))
        for name in sorted(headers.keys() | data.keys())
    }


def _assemble(bundle: Bundle, name: str, header: Header | None, epochs: Epochs | None, data: Any) -> Signal:
    if data is None:
        raise RawDataError(f"signal '{name}' has a json file but no data (.csv or .h5); fetch it again", bundle)
    tabular = not isinstance(data, dict)
    if header and tabular != (header.kind == "RasterizedSignal"):
        raise RawDataError(f"signal '{name}' is a {header.kind}, but its data are {'csv' if tabular else 'h5'}", bundle)
    if tabular:
        found = tuple(map(str, range(data.shape[1])))
    elif header and header.kind == "TiledSignal":
        rows = {len(tile) for tile in data.values()}
        if len(rows) > 1 or any(tile.ndim != 2 for tile in data.values()):
            raise RawDataError(f"signal '{name}': expected tiles (channel, bin) of equally many channels", bundle)
        found = tuple(map(str, range(rows.pop() if rows else 0)))
    else:
        found = tuple(data)
    header, epochs = _complete(bundle, name, header, epochs, found)
    if len(header.chans or ()) != len(found) and header.kind != "PointProcess":
        raise RawDataError(
            f"signal '{name}': json names {len(header.chans or ())} channels, data hold {len(found)}", bundle
        )
    if tabular:
        return Signal(header, epochs, values=data)
    if header.kind == "TiledSignal":
        return Signal(header, epochs, tiles={key: np.asarray(tile, np.float32) for key, tile in data.items()})
    if odd := [key for key, times in data.items() if times.dtype.kind not in "fiu"]:
        raise RawDataError(f"signal '{name}': expected event times in s, found no numbers for {odd[0]}", bundle)
    if wide := [key for key, times in data.items() if times.size > max(times.shape, default=1)]:
        what = f"expected event times in one row, found an array of shape {data[wide[0]].shape} for {wide[0]}"
        raise RawDataError(f"signal '{name}': {what}", bundle)
    return Signal(header, epochs, events={key: np.asarray(times, np.float64).ravel() for key, times in data.items()})


def _complete(
    bundle: Bundle, signal: str, header: Header | None, epochs: Epochs | None, channels: tuple[str, ...] | None
) -> tuple[Header, Epochs]:
    if header is None:
        raise RawDataError(f"expected a signal '{signal}' with a .json file, found none", bundle)
    if epochs is None:
        raise RawDataError("expected an .epoch.csv file, found none: without epochs no stimulus can be placed", bundle)
    if header.chans is None:
        header = replace(header, chans=channels or ())
    return header, epochs


def _read_raster(stream: IO[bytes], label: str, sparse: bool) -> Any:
    """Read a csv matrix as float32 [shape=(time, channel)]."""
    from scipy.sparse import csc_array, vstack

    keep: Callable[[NDArray[np.float32]], Any] = _sparse if sparse else np.asarray
    blocks = [keep(block) for block in raster_blocks(stream, label)]
    if not sparse:
        return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)
    return vstack(blocks, format="csc") if blocks else csc_array((0, 0), dtype=np.float32)


def _sparse(block: NDArray[np.float32]) -> Any:
    """Rows in compressed form; three times as fast as scipy's own conversion."""
    from scipy.sparse import csr_array

    rows, channels = block.shape
    at = np.flatnonzero(block)
    starts = np.searchsorted(at, np.arange(rows + 1) * channels)
    return csr_array((block.ravel()[at], (at % channels).astype(np.int32), starts.astype(np.int32)), shape=block.shape)
