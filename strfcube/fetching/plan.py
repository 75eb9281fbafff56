"""What a data set needs of files, and what of that is there."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from strfcube.catalog import pipeline_class
from strfcube.errors import FetchError, SelectionError, UsageError, did_you_mean
from strfcube.fetching import ledger
from strfcube.fetching.services import Published, published
from strfcube.fetching.web import host_of
from strfcube.records import STATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from strfcube.catalog import Entry, RemoteFile
    from strfcube.fetching.crcns import Crcns
    from strfcube.fetching.ledger import Record
    from strfcube.fetching.web import Web


@dataclass(frozen=True)
class Item:
    """One file, and how it stands with it.

    Attributes
    ----------
    file : RemoteFile
        The catalog's.
    state : str
        ``there`` (verified, unpacked), ``found`` (a file of the name, not verified), ``part`` or ``missing``.
    have : int
        Bytes that have come of a part.
    record : Record or None
        Of when it was fetched.
    published : Published
        What the catalog, the service and the record say that it must be.
    """

    file: RemoteFile
    state: str
    have: int = 0
    record: Record | None = None
    published: Published = field(default_factory=Published)


@dataclass(frozen=True)
class Plan:
    """The files of a data set, or of a part of it, and the raw folder that they go into.

    `asked` says that the services were asked what they publish.
    """

    entry: Entry
    raw: Path
    items: tuple[Item, ...]
    asked: bool = False

    @property
    def todo(self) -> tuple[Item, ...]:
        """What is not there."""
        return tuple(item for item in self.items if item.state != "there")

    @property
    def to_fetch(self) -> tuple[Item, ...]:
        """What has to come from elsewhere."""
        return tuple(item for item in self.todo if item.state != "found")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where that comes from."""
        return tuple(dict.fromkeys(host_of(item.file.url) for item in self.to_fetch))


def choose(entry: Entry, only: Mapping[str, Sequence[str]], extra: Iterable[str] = ()) -> tuple[RemoteFile, ...]:
    """The files that a choice of coordinates needs.

    Raises
    ------
    SelectionError
        If the files tell a coordinate apart, and none has the value.
    UsageError
        If an `extra` is none of the data set.
    """
    extras = {f.extra for f in entry.files if f.extra}
    extra = (extra,) if isinstance(extra, str) else tuple(extra)
    if strange := sorted(set(extra) - extras):
        known = ", ".join(sorted(extras)) or "none"
        hint = did_you_mean(strange[0], extras)
        raise UsageError(f"--extra {', '.join(strange)}: {entry.name} has no such files; {hint}there are {known}")
    for key, values in only.items():
        there = _known(entry, key)
        if there and (strange := sorted(set(values) - there)):
            listed = f"{did_you_mean(strange[0], there)}there are {', '.join(sorted(there))}"
            raise SelectionError(f"--only {key}={','.join(strange)}: nothing has that; {listed}")
    return tuple(
        f for f in entry.files
        if (not f.extra or f.extra in extra) and all(f.only[key] in only[key] for key in f.only if key in only)
    )  # fmt: skip


def _known(entry: Entry, key: str) -> set[str]:
    """Values of a coordinate that are known before a file of it is there; none where only the files tell.

    Raises
    ------
    SelectionError
        If the data set has no such coordinate.
    """
    coordinates = pipeline_class(entry.name).coordinates
    if coordinates and key not in (names := {"stim", "neuron", *STATED, *coordinates}):
        listed = f"{did_you_mean(key, names)}there are {', '.join(sorted(names))}"
        raise SelectionError(f"--only {key}: no such coordinate; {listed}")
    if there := {f.only[key] for f in entry.files if key in f.only}:
        return there
    return set(entry.areas) if key == "area" else set(coordinates.get(key, ()))


def see_told_apart(entry: Entry, only: Mapping[str, Sequence[str]]) -> None:
    """Refuse a choice that no file can obey: a fetch alone would bring everything.

    Raises
    ------
    SelectionError
        If a key is none by which the files are told apart.
    """
    keys = {key for f in entry.files for key in f.only}
    if strange := sorted(set(only) - keys):
        by = f"by {', '.join(sorted(keys))} alone" if keys else "by nothing"
        raise SelectionError(
            f"--only {', '.join(strange)}: the files of {entry.name} are told apart {by}; leave it out to fetch all "
            f"of them, and give it to strfcube build"
        )


def is_own(raw: Path) -> bool:
    """Whether a raw folder is the user's own: there is something in it that strfcube did not fetch."""
    if not raw.is_dir() or any((raw / name).exists() for name in (ledger.NAME, ledger.WORK)):
        return False
    return any(not path.name.startswith(".") for path in raw.iterdir())


def look(entry: Entry, raw: Path, only: Mapping[str, Sequence[str]], extra: Iterable[str] = ()) -> Plan:
    """What is there of the files; nothing is asked of any service, and no file is read. Errors as `choose`.

    Raises
    ------
    FetchError
        If something else is in the place of what would be unpacked, or what was is no longer whole.
    """
    records = ledger.read(raw)
    return Plan(entry, raw, tuple(state_of(raw, file, records.get(file.name)) for file in choose(entry, only, extra)))


def state_of(raw: Path, file: RemoteFile, record: Record | None) -> Item:
    """How it stands with one file. Errors as `look`."""
    if file.unpack and (raw / file.unpack).exists():
        return Item(file, "there", record=_unpacked(raw, file, record))
    path = raw / file.name
    if path.is_file():
        stat = path.stat()
        same = record and not file.unpack and (stat.st_size, stat.st_mtime_ns) == (record.bytes, record.mtime_ns)
        return Item(file, "there" if same else "found", record=record)
    inner = ledger.slot(raw, file.name)
    for part in (inner / inner.name, inner / f"{inner.name}.part"):
        if part.is_file() and part.stat().st_size:
            return Item(file, "part", part.stat().st_size, record)
    return Item(file, "missing", record=record)


def _unpacked(raw: Path, file: RemoteFile, record: Record | None) -> Record:
    """The record of what was unpacked, from the mark that came into place with it."""
    folder = raw / file.unpack
    try:
        mark = json.loads((folder / ledger.MARK).read_text(encoding="utf-8"))
        made = ledger.Record(unpacked=file.unpack, **mark)
    except FileNotFoundError:
        raise FetchError(
            f"{folder} is in the way: {file.name} would be unpacked there, and this is not what strfcube unpacked; "
            f"move it away, or build from it as it is (--no-fetch)"
        ) from None
    except (ValueError, TypeError):
        raise FetchError(f"{folder / ledger.MARK}: cannot be read; remove {folder} to have it fetched again") from None
    if (there := ledger.count(folder)) < made.members:
        raise FetchError(
            f"{folder} is not whole any more: {there:,} of the {made.members:,} files that were unpacked are there; "
            f"remove it to have it fetched again, or build from it as it is (--no-fetch)"
        )
    return dataclasses.replace(record, **mark, unpacked=file.unpack) if record else made


def enquire(plan: Plan, web: Web, crcns: Crcns) -> Plan:
    """The plan with what the services say of the files that are not there.

    Raises
    ------
    FetchError
        If a service does not answer, or a file was changed since it was fetched first.
    """
    unknown = [item.file for item in plan.todo if not (item.state == "found" and item.record)]
    said = published(unknown, web, crcns)
    items = [
        dataclasses.replace(item, published=_pinned(item, said.get(item.file.name, Published()))) for item in plan.items
    ]
    return dataclasses.replace(plan, items=tuple(items), asked=True)


def _pinned(item: Item, said: Published) -> Published:
    record = item.record
    if record is None:
        return said
    for known, now, what in ((record.bytes, said.bytes, "bytes"), (record.md5, said.md5, "md5")):
        if known and now and known != now:
            raise FetchError(changed(item.file, record, f"{what} {known}", str(now)))
    return Published(record.bytes, record.md5)


def changed(file: RemoteFile, record: Record, known: str, now: str) -> str:
    """Say that a file is not what it was."""
    return (
        f"{file.name}: the file at {host_of(file.url)} was changed since it was fetched on {record.when[:10]}: then "
        f"{known}, now {now}; to take the new one, remove its entry from {ledger.NAME} in the raw folder"
    )
