"""The text grammar that CRCNS aa-1 and aa-2 share: folders of stim<k> and spike<k> files.

A class folder holds pairs of files. ``stim<k>`` names a wav on its first line. ``spike<k>`` holds the trials, one a
line: spike times in ms from sound onset, negative ones before it, a blank after each. A trial without spikes is an
empty line. ``k`` counts from 1 without padding, so the order is numeric; a wav under two numbers was played in two
blocks.

Any white space is taken for the blank, also where the last one is missing, and LF, CR LF and CR all end a line.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from strfcube import limits
from strfcube.pipelines.raw_folder import listing, some
from strfcube.raw_files import see_readable
from strfcube.records import Finding, Report, counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Numbered = dict[int, str]

_PAIR = re.compile(r"(stim|spike)([1-9]\d*)")
MD5 = re.compile(r"[0-9A-Fa-f]{32}")
_WAV_NAME = re.compile(r"[^/\\]+\.wav", re.IGNORECASE)
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PLAIN = b"0123456789.- \n"
_TEXT = bytes([*range(32, 127), 9, 10, 11, 12, 13])
_LIMIT_MS = 1e3 * limits.SPIKE_SECONDS


class TrialLines(NamedTuple):
    """Trials in columns, one a line.

    Attributes
    ----------
    times_ms : ndarray of float [shape=(row_size.sum(),)]
        Spike times in ms, trial after trial.
    row_size : ndarray of int [shape=(n,)]
        Spikes of each trial.
    malformed : dict of int to list of bytes
        Words that are no numbers, by the 0-based line they are on; the line's numbers are in its row.
    """

    times_ms: NDArray[np.float64]
    row_size: NDArray[np.int64]
    malformed: dict[int, list[bytes]]


def unix_lines(data: bytes) -> bytes:
    """Text whose lines all end in LF, the last one as well; blanks after the last LF are no line.

    A CR within a line of text that has LFs is white space.
    """
    if b"\r" in data:
        data = re.sub(rb"\r+\n", b"\n", data)
        data = data.replace(b"\r", b" " if b"\n" in data else b"\n")
    if data.endswith(b"\n"):
        return data
    head, end, last = data.rpartition(b"\n")
    return data + b"\n" if last.strip() else head + end


def parse_trials(data: bytes) -> TrialLines:
    """Trials of a spike file, or of several, one after the other.

    Parameters
    ----------
    data : bytes
        As `unix_lines` gives it.
    """
    return _parse_plain(data) or _parse_words(data)


def _parse_plain(data: bytes) -> TrialLines | None:
    """All numbers in one call; None where the text may hold anything but plain numbers."""
    if data.translate(None, _PLAIN):
        return None
    text = np.frombuffer(data, np.uint8)
    blank = text <= 32
    begins = ~blank
    begins[1:] &= blank[:-1]
    words = np.flatnonzero(begins)
    row_size = np.diff(np.searchsorted(words, np.flatnonzero(text == 10)), prepend=0).astype(np.int64)
    if not len(words):
        return TrialLines(np.empty(0), row_size, {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            times = np.fromstring(data, np.float64, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    # "5-3" and "1.2.3" are one word each, and were read as two numbers
    if len(times) != len(words) or np.abs(times).max() >= _LIMIT_MS:
        return None
    return TrialLines(times, row_size, {})


def _parse_words(data: bytes) -> TrialLines:
    """Word by word, so that what is no number can be named."""
    times: list[float] = []
    row_size: list[int] = []
    malformed: dict[int, list[bytes]] = {}
    for index, line in enumerate(data.split(b"\n")[:-1]):
        before = len(times)
        for word in line.split():
            if _NUMBER.fullmatch(word) and abs(float(word)) < _LIMIT_MS:
                times.append(float(word))
            else:
                malformed.setdefault(index, []).append(word)
        row_size.append(len(times) - before)
    return TrialLines(np.array(times, np.float64), np.array(row_size, np.int64), malformed)


def slurp(path: str) -> bytes:
    """Content of a file, but for a byte order mark, with few system calls: tens of thousands of files are read so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, 1 << 16)
        if len(content) == 1 << 16:
            if os.fstat(descriptor).st_size > limits.TEXT_BYTES:
                raise OSError(errno.EFBIG, f"larger than {limits.TEXT_BYTES / 1e6:g} MB, the most that is read")
            while more := os.read(descriptor, 1 << 20):
                content += more
        return content.removeprefix(BOM_UTF8)
    finally:
        os.close(descriptor)


def pair_files(raw: Path, folder: str, report: Report) -> Numbered:
    """Read the stim files of a class folder: the wav of each complete pair, by number, in numeric order.

    Parameters
    ----------
    raw : path
        The raw folder.
    folder : str
        The class folder, relative to it.
    """
    numbers: dict[str, set[int]] = {"stim": set(), "spike": set()}
    others, files = listing(raw / folder)
    for name in files:
        if match := _PAIR.fullmatch(name):
            numbers[match[1]].add(int(match[2]))
        else:
            others.append(name)
    if others:
        alike = any(name.lower().startswith(("stim", "spike")) for name in others)
        what = f"expected stim<k> and spike<k>, found {some(others)}"
        report(Finding("warning" if alike else "info", folder, what, "these are not read"))
    if not files:
        report(Finding("warning", folder, "expected stim<k> and spike<k> files, found none", "it adds no trial"))
    for k in sorted(numbers["spike"] - numbers["stim"]):
        what = f"stim{k}, which would name its sound, is not there"
        report(Finding("warning", f"{folder}/spike{k}", what, "its trials belong to no stimulus: left out"))
    wavs: Numbered = {}
    blocks: dict[str, list[str]] = {}
    for k in sorted(numbers["stim"]):
        wav = _wav_name(raw, f"{folder}/stim{k}", report)
        if k not in numbers["spike"]:
            what = f"spike{k}, which would hold its trials, is not there"
            report(Finding("warning", f"{folder}/stim{k}", what, "the pair counts as never presented"))
        elif wav:
            wavs[k] = wav
            blocks.setdefault(wav, []).append(f"stim{k}")
    twice = [" and ".join(names) for names in blocks.values() if len(names) > 1]
    if twice:
        what = f"stim files that name the same wav: {some(twice)}"
        report(Finding("info", folder, what, "their trials are pooled in numeric order"))
    return wavs


def _wav_name(raw: Path, file: str, report: Report) -> str:
    """First line of a stim file; empty where it names no wav."""
    left_out = "its trials belong to no stimulus: left out"
    try:
        text = slurp(f"{raw}/{file}")
    except OSError as error:
        see_readable(error, raw / file)
        report(Finding("error", file, f"it cannot be read: {error.strerror}", left_out))
        return ""
    name, *more = [line.strip() for line in text.decode("ascii", "replace").splitlines() if line.strip()] or [""]
    if text.isascii() and name.isprintable() and _WAV_NAME.fullmatch(name):
        if more:
            what = f"expected the name of one wav, found {counted(len(more), 'more line', 'more lines')}"
            report(Finding("warning", file, what, "its first line counts", 2))
        return usual_name(name)
    what = f"expected the name of a wav, found {quote(text)}" if text else "expected the name of a wav, found 0 bytes"
    report(Finding("error", file, what, left_out, 1))
    return ""


def usual_name(wav: str) -> str:
    """Name of a wav in the one spelling of the data sets: an MD5 in capitals, its ending in small letters."""
    return f"{wav[:-4].upper()}.wav" if MD5.fullmatch(wav[:-4]) else wav


def trial_text(raw: Path, file: str, report: Report) -> bytes:
    """Lines of a spike file, as `unix_lines` gives them; empty where there are none to parse, which is reported."""
    try:
        text = slurp(f"{raw}/{file}")
    except OSError as error:
        see_readable(error, raw / file)
        report(Finding("error", file, f"it cannot be read: {error.strerror}", "its trials are left out"))
        return b""
    if text.translate(None, _TEXT):
        line = 1 + text[: len(text) - len(text.lstrip(_TEXT))].count(b"\n")
        report(Finding("error", file, "expected lines of numbers, found binary data", "its trials are left out", line))
        return b""
    lines = unix_lines(text)
    if not lines:
        what = f"expected a line a trial (an empty one where no spike fell), found {len(text)} bytes and no line"
        report(Finding("warning", file, what, "it adds no trial"))
    elif text[-1:] not in b"\r\n" and text.rstrip(b" \t")[-1:] not in b"\r\n":
        return _ended(text, lines, file, report)
    return lines


def _ended(text: bytes, lines: bytes, file: str, report: Report) -> bytes:
    """Lines of a file whose last one nothing ends: reported, and no number if it was cut within one.

    All numbers of these files have as many decimals, so that one with fewer at the very end was cut.
    """
    what = "the file ends within a line: it may be cut short"
    report(Finding("warning", file, what, "its last trial may lack spikes; fetch the file again", lines.count(b"\n")))
    words = lines.split()
    decimals = [len(word.partition(b".")[2]) for word in words[-2:]]
    whole = text[-1:].isspace() or len(words) < 2 or decimals[-1] >= decimals[0]
    return lines if whole else lines[:-1] + b"...\n"


def quote(text: bytes) -> str:
    """Show the beginning of some bytes in a message."""
    return repr(text[:20].decode("latin-1")) + ("..." if len(text) > 20 else "")
