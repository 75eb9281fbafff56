"""The files of a NEMS bundle: streams from archives, json headers, epoch tables, csv matrices, HDF5 in memory."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import tarfile
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any, Literal

import h5py
import numpy as np

from strfcube import limits
from strfcube.errors import RawDataError
from strfcube.pipelines.raw_folder import plain
from strfcube.raw_files import bounded, see_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

Kind = Literal["RasterizedSignal", "PointProcess", "TiledSignal"]
_KINDS: tuple[Kind, ...] = ("RasterizedSignal", "PointProcess", "TiledSignal")
_PART = re.compile(r"(?:.+\.)?(?P<signal>(?!epoch\.csv$)[^.]+)\.(?P<kind>epoch\.csv|csv|json|h5)")
_BLOCK = 2 << 20  # bytes of text parsed at a time
_CUT = "ends within a line, as what is cut short does; fetch it again"
_E18 = len("0.000000000000000000e+00")
# What zip archives raise: cut short, encrypted (RuntimeError), or packed as zipfile cannot (NotImplementedError).
ZIP_DAMAGE = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_DAMAGE = (*ZIP_DAMAGE, tarfile.TarError)
_PACKED: tuple[tuple[bytes, Callable[..., Any]], ...] = ((b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))


@dataclass(frozen=True)
class Bundle:
    """Where a recording lies.

    Attributes
    ----------
    path : Path
        A folder, a ``.tgz``, or the zip archive that holds the ``.tgz``.
    member : str
        Name of the ``.tgz`` within the zip archive.
    label : str
        What messages call it, relative to the raw folder.
    """

    path: Path
    member: str = ""
    label: str = ""

    def __str__(self) -> str:
        return self.label or (f"{self.path}/{self.member}" if self.member else str(self.path))


@dataclass(frozen=True)
class Header:
    """A signal's json file.

    Attributes
    ----------
    name : str
        Of the signal.
    fs : float
        Sampling rate in Hz.
    kind : {"RasterizedSignal", "PointProcess", "TiledSignal"}
        How the data are kept.
    chans : tuple of str, or None
        Names of the channels, where the file has them.
    seconds : float
        End of the last segment in s; NaN where no segments are stated.
    """

    name: str
    fs: float
    kind: Kind
    chans: tuple[str, ...] | None
    seconds: float


@dataclass(frozen=True)
class Epochs:
    """An epoch table, in the file's order.

    Attributes
    ----------
    names : tuple of str [shape=(n,)]
        Name of each occurrence.
    starts, ends : ndarray of float [shape=(n,)]
        In s from the start of the recording; NaN where the table has none.
    lines : tuple of int [shape=(n,)]
        Line of each occurrence in the file.
    """

    names: tuple[str, ...]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    lines: tuple[int, ...] = ()

    def occurrences(self, prefix: str) -> list[int]:
        """Rows whose name starts with `prefix`, by start time; those without times left out."""
        rows = [row for row, name in enumerate(self.names) if name.startswith(prefix) and self._timed(row)]
        return sorted(rows, key=lambda row: (self.starts[row], row))

    def without_times(self, prefix: str) -> list[int]:
        """Rows with that prefix without a time, or of an absurd one; no damage where nobody needs them."""
        return [row for row, name in enumerate(self.names) if name.startswith(prefix) and not self._timed(row)]

    def _timed(self, row: int) -> bool:
        start, end = self.starts[row], self.ends[row]
        return bool(abs(start) <= limits.WINDOW_SECONDS and start <= end <= start + limits.SECONDS)


@contextmanager
def members(bundle: Bundle) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """File names and streams of a bundle, each to be read before the next; damage becomes a `RawDataError`."""
    with ExitStack() as stack:
        try:
            if bundle.path.is_dir():
                yield stack.enter_context(closing(_in_folder(bundle)))
                return
            raw: IO[bytes] = stack.enter_context(bundle.path.open("rb"))
            if bundle.member:
                archive = stack.enter_context(zipfile.ZipFile(raw))
                raw = stack.enter_context(archive.open(bundle.member))
            yield stack.enter_context(closing(_in_tar(bundle, raw)))
        except FileNotFoundError:
            raise RawDataError("expected a NEMS recording, but there is none", bundle) from None
        except _DAMAGE as error:
            see_readable(error, bundle.path)
            raise RawDataError(f"expected a whole .tgz, but {why(error)}; fetch it again", bundle) from error


def why(error: Exception) -> str:
    """What is wrong with an archive; of a packing that Python does not know, with what to do."""
    if isinstance(error, NotImplementedError):
        return f"{str(error).lower()} (Deflate64?): pack it again as a usual zip archive"
    return f"{error}: unpack it first" if isinstance(error, RuntimeError) else str(error)


def _in_folder(bundle: Bundle) -> Generator[tuple[str, IO[bytes]], None, None]:
    seen: set[str] = set()
    for path in sorted([*bundle.path.glob("[!.]*.*"), *bundle.path.glob("[!.]*/[!.]*.*")]):
        if path.is_file():
            _once(bundle, path.name, seen)
            with path.open("rb") as stream:
                yield path.name, stream


def _in_tar(bundle: Bundle, raw: IO[bytes]) -> Generator[tuple[str, IO[bytes]], None, None]:
    seen: set[str] = set()
    begin = raw.read(512)
    raw.seek(0)
    # A name that ends in .tgz does not make it one: archives are also packed again, or unpacked on the way.
    unpack = next((how for mark, how in _PACKED if begin.startswith(mark)), gzip.open)
    plain = nullcontext(raw) if begin[257:262] == b"ustar" else unpack(raw)
    with plain as text, tarfile.open(fileobj=text, mode="r|", bufsize=1 << 20) as tar:
        for member in tar:
            _check_inside(bundle, member.name)
            file = PurePosixPath(member.name).name
            if member.isdir() or file.startswith("."):
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise RawDataError(
                    f"member '{member.name}' is a link or device, expected a plain file: refused", bundle
                )
            _once(bundle, file, seen)
            yield file, stream
        while text.read(1 << 20):  # to the end, so that the checksum is compared
            pass


def _check_inside(bundle: Bundle, name: str) -> None:
    posix = PurePosixPath(name.replace("\\", "/"))
    if posix.is_absolute() or ".." in posix.parts or PureWindowsPath(name).drive:
        raise RawDataError(f"member '{name}' would lie outside its folder: refused, do not trust this archive", bundle)


def _once(bundle: Bundle, file: str, seen: set[str]) -> None:
    if file in seen:
        raise RawDataError(f"holds '{file}' twice: expected one recording", bundle)
    seen.add(file)


def part_of(file: str) -> tuple[str, str]:
    """Signal, and kind of file (``json``, ``epoch.csv``, ``csv``, ``h5``); both empty for what is neither."""
    match = _PART.fullmatch(file)
    return (match["signal"], match["kind"]) if match else ("", "")


def read_header(stream: IO[bytes], label: str) -> Header:
    """Read a signal's json file."""
    try:
        fields = json.loads(stream.read())
        chans = fields.get("chans")
        fs = float(fields["fs"])
        seconds = _end(fields.get("segments")) / fs
        kind = next((k for k in _KINDS if k in str(fields.get("signal_type") or _KINDS[0])), None)
        chans = None if chans is None else tuple(str(name).strip() for name in chans)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise RawDataError(f"expected a json object with a positive 'fs', but {error!r}", label) from error
    low, high = limits.TRACE_RATE
    if not low <= fs <= high:
        raise RawDataError(f"expected a positive 'fs', found {fs:g} Hz: {low:g} to {high:g} Hz are possible", label)
    if chans and (twice := next((name for name in chans if chans.count(name) > 1), "")):
        raise RawDataError(f"expected channels of different names in 'chans', found {twice!r} twice", label)
    if kind is None:
        raise RawDataError(f"signal_type {fields['signal_type']!r}: expected one of {', '.join(_KINDS)}", label)
    return Header(str(fields.get("name", "")), fs, kind, chans, seconds)


def _end(segments: Any) -> float:
    """End of the last segment in samples; NaN where they are not ``[[first, end], ...]``."""
    try:
        return max(float(segment[1]) for segment in segments)
    except (ValueError, TypeError, LookupError):
        return math.nan


def read_epochs(stream: IO[bytes], label: str) -> Epochs:
    """Read an epoch table by the names of its columns."""
    try:
        text = stream.read(limits.TEXT_BYTES + 1)
        if len(text) > limits.TEXT_BYTES:
            raise RawDataError(f"expected a table of {limits.TEXT_BYTES / 1e6:g} MB at most; it is larger", label)
        reader = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), skipinitialspace=True)
        columns = [name.strip() for name in next(reader, [])]
        start, end, name = (columns.index(key) for key in ("start", "end", "name"))
    except (ValueError, csv.Error) as error:
        raise RawDataError(f"expected a table with columns start, end and name, but {error}", label, 1) from error
    names: list[str] = []
    lines: list[int] = []
    times: list[tuple[float, float]] = []
    try:
        for row in reader:
            if row:
                names.append(row[name].strip())
                lines.append(reader.line_num)
                times.append((float(plain(row[start]) or math.nan), float(plain(row[end]) or math.nan)))
    except (ValueError, IndexError, csv.Error) as error:
        raise RawDataError(
            f"expected a start and an end in seconds, and a name, but {error}", label, reader.line_num
        ) from error
    both = np.array(times, np.float64).reshape(-1, 2)
    if not text.endswith((b"\n", b"\r")):
        raise RawDataError(f"the table {_CUT}", label, reader.line_num)
    return Epochs(tuple(names), both[:, 0], both[:, 1], tuple(lines))


@contextmanager
def open_h5(stream: IO[bytes], label: str) -> Iterator[Any]:
    """Open an HDF5 file in memory; nothing goes to disk."""
    try:
        image = stream.read()
        with bounded(len(image)), h5py.File(h5py.h5f.open_file_image(image)) as h5:
            yield h5
    except (OSError, KeyError, MemoryError, TypeError, ValueError, RuntimeError) as error:  # the last of older h5py
        see_readable(error, label)
        raise RawDataError(
            f"expected a whole HDF5 file of plain datasets, but {error}; fetch it again", label
        ) from error


def raster_blocks(stream: IO[bytes], label: str) -> Iterator[NDArray[np.float32]]:
    """Rows of a csv matrix without header, some megabytes of text at a time.

    Parameters
    ----------
    stream : binary file
        Read once, front to back.
    label : str
        What messages call it.

    Yields
    ------
    ndarray of float32 [shape=(row, channel)]

    Raises
    ------
    RawDataError
        If a field is no number, or a row has more or fewer fields than the first; with its line.
    """
    channels = line = 0
    rest = b""
    with ThreadPoolExecutor(1) as ahead:  # inflating and parsing take about as long, and both let go of the lock
        coming = ahead.submit(stream.read, _BLOCK)
        while chunk := coming.result():
            coming = ahead.submit(stream.read, _BLOCK)
            chunk = rest + chunk
            whole = chunk.rfind(b"\n") + 1
            rest = chunk[whole:]
            for block in _parse(chunk, whole, channels, label, line):
                channels = block.shape[1]
                line += len(block)
                yield block
    if rest.strip():
        raise RawDataError(f"the matrix {_CUT}", label, line + 1)


def _parse(text: bytes, end: int, channels: int, label: str, line: int) -> Iterator[NDArray[np.float32]]:
    """Whole lines of `text` up to `end`; rows in ``%.18e`` are read in place, other text number by number."""
    at = 0
    while at < end:
        channels = channels or text.count(b",", 0, text.index(b"\n")) + 1
        block = _parse_e18(text, at, end, channels)
        if block is None and not text[at:end].strip():  # blank lines at the end of the file
            return
        if block is None:
            yield _parse_any(text[at:end], channels, label, line)
            return
        line += len(block)
        at += len(block) * (text.index(b"\n", at) + 1 - at)
        yield block


def _parse_e18(text: bytes, at: int, end: int, channels: int) -> NDArray[np.float32] | None:
    """Rows from `at` on that have the layout of the first of them: every field ``%.18e`` or ``nan``.

    In the text of 89,000 bins of 849 neurons (1.9 GB) nineteen fields of twenty are zero: a number printed by
    ``%e`` starts with the digit 0 only if it is zero, so that one byte a field decides which are converted.
    Returns None where the first row has another layout, or too few rows share it.
    """
    size = text.index(b"\n", at) + 1 - at
    rows = (end - at) // size
    view = np.frombuffer(text, np.uint8, rows * size, at).reshape(rows, size)
    ends = np.flatnonzero(view[0] == ord(","))
    ends = np.append(ends, size - 1)
    starts = np.append(0, ends[:-1] + 1)
    widths = ends - starts
    missing = widths == 3
    if len(ends) != channels or not (missing | (widths == _E18)).all():
        return None
    number = starts[~missing]
    if not ((view[0, number + 1] == ord(".")) & (view[0, number + 20] == ord("e"))).all():
        return None
    step = _E18 + 1
    even = not missing.any()
    commas = view[:, _E18:-1:step] if even else view[:, ends[:-1]]
    same = (commas == ord(",")).all(1) & (view[:, -1] == ord("\n"))
    for start in starts[missing]:
        same &= (view[:, start : start + 3] == (ord("n"), ord("a"), ord("n"))).all(1)
    rows = rows if same.all() else int(np.argmin(same))
    if rows < min(4, len(view)):
        return None
    first = view[:rows, ::step] if even else view[:rows, number]
    row, column = np.divmod(np.flatnonzero(first != ord("0")), len(number))
    fields = np.ndarray((len(text) - _E18 + 1,), f"S{_E18}", text, 0, (1,))  # a field from every byte on
    block = np.zeros((rows, channels), np.float32)
    block[:, missing] = np.nan
    try:
        block[row, np.flatnonzero(~missing)[column]] = fields[at + row * size + number[column]].astype(np.float64)
    except ValueError:
        return None  # the slow way names the line
    return block


def _parse_any(text: bytes, channels: int, label: str, line: int) -> NDArray[np.float32]:
    lines = text.rstrip().split(b"\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how numpy says that the text is no list of numbers
        try:
            values = np.fromstring(text.rstrip().replace(b"\n", b",").decode(), np.float64, sep=",")
        except (DeprecationWarning, ValueError):
            values = np.empty(0)
    if len(values) != len(lines) * channels or any(row.count(b",") != channels - 1 for row in lines):
        found = []  # a number to Python can be none to numpy
        for number, row in enumerate(lines, line + 1):
            fields = row.split(b",")
            if len(fields) != channels:
                raise RawDataError(f"expected {channels} values, found {len(fields)}", label, number)
            for field in fields:
                try:
                    found.append(float(plain(field.decode())))
                except ValueError:
                    raise RawDataError(f"expected a number, found {field[:40]!r}", label, number) from None
        values = np.array(found)
    return values.reshape(len(lines), channels).astype(np.float32)
