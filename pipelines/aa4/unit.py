"""One unit's HDF5 file of CRCNS AA-4: attributes, stimulus groups and trials, read with h5py's low-level calls.

A unit has about a thousand trials, each a group with two small datasets. With the file in memory and a buffer that is
used again, a trial takes about 30 µs; with h5py's groups and datasets it takes three times as long.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5p, h5s, h5t

from strfcube.raw_files import reading, see_readable
from strfcube.records import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from strfcube.records import Report

SILENT = -999
SORT_TYPES = ("single", "multi", "unknown", "noise", "tdt")
# What h5py's low-level calls raise for damaged, absent or unexpected objects.
BROKEN = (KeyError, MemoryError, OSError, OverflowError, RuntimeError, TypeError, ValueError)

_METADATA = (b"class_info", b"extra_info")
_STEM = re.compile(
    r"(?P<site>[^_]+)_(?:L(?P<ldepth>\d+))?(?:R(?P<rdepth>\d+))?_e(?P<electrode>\d+)_s(?P<sort_id>\d+)"
    r"(?:_ss(?P<subsort_id>\d+))?"
)
_LARGEST = 1e6  # no electrode, depth in um or sort has such a number
_NUMBERS = {"electrode": b"electrode", "sort_id": b"sortid", "ldepth": b"ldepth", "rdepth": b"rdepth"}
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_IN_MEMORY = 64 << 20  # bytes; a larger file is read where it lies


@dataclass
class Group:
    """A stimulus group of a unit.

    Attributes
    ----------
    number : int
        The animal's number of the stimulus.
    path : bytes
        Where the group is in the file.
    md5 : str
        MD5 of the sound, in lower case; empty where the file states none, or no valid one.
    """

    number: int
    path: bytes
    md5: str


def open_unit(path: Path, in_memory: bool = False) -> h5f.FileID:
    """Open a file for reading, as a whole in memory where all of its objects will be read.

    Raises
    ------
    OSError
        If the file is absent, no HDF5 file or cut short.
    """
    reading(path)
    access = h5p.create(h5p.FILE_ACCESS)
    if in_memory and path.stat().st_size <= _IN_MEMORY:
        access.set_fapl_core(1 << 16, False)
    return h5f.open(os.fsencode(path), h5f.ACC_RDONLY, fapl=access)


def reason(error: BaseException, file: Any) -> str:
    """Say what h5py said of a file, without the quotes of a KeyError.

    Raises
    ------
    StrfcubeError
        If it is the system that refused to read the file.
    """
    see_readable(error, file)
    return str(error.args[0] if error.args else error).strip()


def natural(text: str) -> tuple[Any, ...]:
    """Sort key that takes runs of digits as numbers."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text))


def attribute(where: Any, name: bytes, of: bytes = b".") -> Any:
    """Read an attribute, whether scalar or of a single element; None where there is none, or it is empty."""
    try:
        found = h5a.open(where, name, obj_name=of)
    except KeyError:
        return None
    if found.get_space().get_simple_extent_npoints() == 0:
        return None
    value = np.empty(found.shape, found.dtype)
    found.read(value)
    return value.ravel()[0]


def as_text(value: Any) -> str:
    """Text of an attribute, bytes or str; empty where it is absent or the writer's ``None``."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip("\0 \t\r\n")
    return "" if text == "None" else text


def as_number(value: Any) -> float:
    """Value of an attribute that may be text; NaN where it is absent or no number."""
    try:
        return float(as_text(value))
    except ValueError:
        return math.nan


def unit_meta(root: h5f.FileID, animal: str, stem: str, file: str, report: Report) -> dict[str, Any]:
    """Coordinates of a unit, from its root attributes, else from its file's name; what disagrees is reported."""
    match = _STEM.fullmatch(stem)
    named: dict[str, Any] = match.groupdict() if match else {}
    if not match:
        what = "expected a name like Site1_L1400R1400_e10_s0_ss1.h5"
        report(Finding("warning", file, what, "what only the name gives is missing"))
    numbers: dict[str, float | int] = {}
    for key, name in _NUMBERS.items():
        stated, by_name = as_number(attribute(root, name)), as_number(named.get(key))
        numbers[key] = by_name if math.isnan(stated) else stated
        if not math.isnan(stated) and not math.isnan(by_name) and stated != by_name:
            what = f"the attribute {name.decode()} is {stated:g}, the file's name says {by_name:g}"
            report(Finding("warning", file, what, "the attribute is used"))
    for key, number in numbers.items():
        if abs(number) > _LARGEST:
            report(Finding("error", file, f"the attribute {_NUMBERS[key].decode()} is {number:g}", "it is left out"))
            numbers[key] = math.nan
    for key in ("electrode", "sort_id"):
        if not math.isnan(numbers[key]):
            numbers[key] = int(numbers[key])
    word = as_text(attribute(root, b"sortType")).lower()
    sort_type = "single" if word == "singl" else word
    if sort_type not in SORT_TYPES:
        sort_type = "unknown"
        what = f"expected a sortType of single, multi, noise or tdt, found {word!r}"
        report(Finding("warning", file, what, "its sort type is unknown"))
    return {
        "cell_id": stem, "animal": animal, "species": "zebra finch", "area": "unknown", "region": "unknown",
        "area_label": "", "signal_type": "spikes", "units": "count", "sex": animal[-1] if animal[-1:] in "FM" else "",
        "site": as_text(attribute(root, b"site")) or named.get("site") or "", **numbers, "sort_type": sort_type,
        "subsort_id": as_number(named.get("subsort_id")),
    }  # fmt: skip


def stimulus_groups(root: h5f.FileID) -> tuple[list[Group], list[str], dict[str, bool]]:
    """List a unit's stimulus groups, what could not be read, and what is not read.

    Returns
    -------
    list of Group
        In the order of protocols, then of stimulus numbers; the metadata groups left out.
    list of str
        One sentence for each group at the top that cannot be read.
    dict of str to bool
        What is in the place of a protocol or of a stimulus group, but is none, and whether it holds anything.
    """
    groups: list[Group] = []
    broken: list[str] = []
    strange: dict[str, bool] = {}
    top = h5g.open(root, b"/")
    for protocol in sorted((name for name in top if name not in _METADATA), key=lambda name: natural(name.decode())):
        try:
            if h5g.get_objinfo(top, protocol).type != h5g.GROUP:
                strange[protocol.decode("utf-8", "replace")] = False
                continue
            inside = h5g.open(top, protocol)
            numbered, others = _numbered(inside)
            strange |= {(protocol + b"/" + name).decode("utf-8", "replace"): _holds(inside, name) for name in others}
            for number, name in numbered:
                md5 = as_text(attribute(inside, b"stim_md5", name))
                md5 = md5.lower() if _MD5.fullmatch(md5) else ""
                groups.append(Group(number, protocol + b"/" + name, md5))
        except BROKEN as error:
            broken.append(f"group {protocol.decode()}: {reason(error, os.fsdecode(root.name))}")
    return groups, broken, strange


class TrialColumns:
    """The trials of one unit, collected in columns.

    Attributes
    ----------
    stimuli, numbers, start, stop : list
        Stimulus id, number in the file and recorded window in s of each trial.
    broken : list of str
        Trials and groups that could not be read, and why.
    strange : dict of str to bool
        What is in the place of a trial, but is none, and whether it holds anything.
    negative : int
        Trials whose ``pre_time`` or ``post_time`` is below zero.
    """

    def __init__(self) -> None:
        self.stimuli: list[str] = []
        self.numbers: list[int] = []
        self.start: list[float] = []
        self.stop: list[float] = []
        self.broken: list[str] = []
        self.strange: dict[str, bool] = {}
        self.negative = 0
        self._sizes: list[int] = []
        self._times = np.empty(1 << 15)
        self._filled = 0
        self._one = np.empty(())

    def add(self, root: h5f.FileID, path: bytes, stimulus: str, seconds: float) -> None:
        """Read the trials of one stimulus group, in numeric order.

        Parameters
        ----------
        path : bytes
            Where the group is.
        stimulus : str
            Its stimulus id.
        seconds : float
            Length of the stimulus in s; NaN where it is unknown.
        """
        try:
            group = h5g.open(root, path)
            trials, others = _numbered(group)
        except BROKEN as error:
            self.broken.append(f"{path.decode()}: {reason(error, os.fsdecode(root.name))}")
            return
        self.strange |= {(path + b"/" + name).decode("utf-8", "replace"): _holds(group, name) for name in others}
        for number, name in trials:
            try:
                size = self._read(group, name)
            except BROKEN as error:
                self.broken.append(f"{path.decode()}/{number}: {reason(error, os.fsdecode(root.name))}")
                continue
            self._filled += size
            self._sizes.append(size)
            self.stimuli.append(stimulus)
            self.numbers.append(number)
            pre, post = self._number(group, name, b"pre_time"), self._number(group, name, b"post_time")
            self.negative += pre < 0 or post < 0
            self.start.append(-pre if pre > 0 else math.nan)
            self.stop.append(seconds + post if post > 0 else math.nan)

    def spikes(self) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
        """Spike times of all trials, without the mark of a silent one.

        Returns
        -------
        ndarray of float64 [shape=(row_size.sum(),)]
            Seconds from stimulus onset.
        ndarray of int64 [shape=(trial,)]
            `row_size`: spikes of each trial.
        int
            Values left out that are not finite, or -999 beside others.
        """
        times = self._times[: self._filled]
        sizes = np.array(self._sizes, np.int64)
        wrong = (times == SILENT) | ~np.isfinite(times)
        lost = np.bincount(np.repeat(np.arange(len(sizes)), sizes)[wrong], minlength=len(sizes))
        silent = np.repeat(sizes == 1, sizes) & (times == SILENT)
        return times[~wrong], sizes - lost, int((wrong & ~silent).sum())

    def _read(self, group: h5g.GroupID, trial: bytes) -> int:
        """Read a trial's spike times to the end of the buffer and return their number."""
        try:
            data = h5d.open(group, trial + b"/spike_times")
        except KeyError:
            if self._silent_ids(group, trial):
                return 0
            raise
        size = data.get_space().get_simple_extent_npoints()
        if self._filled + size > len(self._times):
            self._times = np.concatenate([self._times[: self._filled], np.empty(len(self._times) + size)])
        data.read(h5s.ALL, h5s.ALL, self._times[self._filled : self._filled + size], h5t.NATIVE_DOUBLE)
        if size == 1 and self._times[self._filled] != SILENT and self._silent_ids(group, trial):
            return 0
        return int(size)

    def _silent_ids(self, group: h5g.GroupID, trial: bytes) -> bool:
        """Whether ``spike_ids`` says that the trial has no spike."""
        try:
            ids = h5d.open(group, trial + b"/spike_ids")
            if ids.get_space().get_simple_extent_npoints() != 1:
                return False
            ids.read(h5s.ALL, h5s.ALL, self._one, h5t.NATIVE_DOUBLE)
        except BROKEN:
            return False
        return bool(self._one == SILENT)

    def _number(self, group: h5g.GroupID, trial: bytes, name: bytes) -> float:
        """Read a number from a trial's attributes; NaN where there is none."""
        self._one.fill(math.nan)  # an empty attribute leaves it as it is
        try:
            h5a.open(group, name, obj_name=trial).read(self._one, h5t.NATIVE_DOUBLE)
            return float(self._one)
        except KeyError:
            return math.nan
        except BROKEN:  # text, or an array of one element, or damaged
            with suppress(*BROKEN):
                return as_number(attribute(group, name, trial))
        return math.nan


def _holds(group: h5g.GroupID, name: bytes) -> bool:
    """Whether a member of a group is a group that is not empty, or cannot be looked at."""
    try:
        return h5g.get_objinfo(group, name).type == h5g.GROUP and len(h5g.open(group, name)) > 0
    except BROKEN:  # such as a link to nothing
        return True


def _numbered(group: Any) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    """Members of a group whose name is a decimal, in numeric order, and the others."""
    names = list(group)
    return sorted((int(name), name) for name in names if name.isdigit()), [n for n in names if not n.isdigit()]
