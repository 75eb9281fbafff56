"""``.strfcube-files.json``: what was fetched into a raw folder, verified, and unpacked there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from strfcube.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = ".strfcube-files.json"
MARK = ".strfcube-unpacked.json"  # within what was unpacked: it comes into place with its folder, in one step
WORK = ".strfcube-fetching"  # parts, archives and locks, within the raw folder


@dataclass(frozen=True)
class Record:
    """One file that was fetched.

    Attributes
    ----------
    url : str
        Where it came from.
    bytes, md5 : int, str
        As verified; they stay what this file must be.
    etag : str
        The server's mark of its version.
    when : str
        Time of the verification.
    mtime_ns : int
        Of the file then: what has this time and size is not hashed again. 0 where the archive was dropped.
    unpacked : str
        Folder below the raw folder that the archive was unpacked into.
    members : int
        How many files that folder held.
    """

    url: str
    bytes: int
    md5: str
    etag: str = ""
    when: str = ""
    mtime_ns: int = 0
    unpacked: str = ""
    members: int = 0


def now() -> str:
    """The time, for a record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(raw: Path) -> dict[str, Record]:
    """What was fetched into a raw folder, by name.

    Raises
    ------
    FetchError
        If the file is damaged.
    """
    file = raw / NAME
    known = {f.name for f in fields(Record)}
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["files"]
        return {name: Record(**{k: v for k, v in given.items() if k in known}) for name, given in listed.items()}
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        message = "no raw folder can be there, a file is in its place; give another (--raw, or STRFCUBE_DATA_DIR)"
        raise FetchError(f"{raw}: {message}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(
            f"{file}: cannot be read ({type(error).__name__}); remove it: the files that are there are verified anew"
        ) from None


def write(raw: Path, name: str, record: Record) -> None:
    """Note one file, beside the others that this or another process notes."""
    from filelock import FileLock

    with FileLock(work(raw) / "ledger.lock"):
        files = read(raw)
        if files.get(name) == record:
            return
        files[name] = record
        replace(raw / NAME, {"format": 1, "files": {key: asdict(files[key]) for key in sorted(files)}})


def replace(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON, whole or not at all."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.new")
    with open(partial, "w", encoding="utf-8") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, file)


def work(raw: Path) -> Path:
    """The folder of what is not finished, made where it is not there."""
    folder = raw / WORK
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def slot(raw: Path, name: str) -> Path:
    """Where one file is until it is whole; its lock lies beside it."""
    return raw / WORK / name.replace("/", "_")


def count(folder: Path) -> int:
    """Files below a folder, without dot files."""
    return sum(1 for _, _, names in os.walk(folder) for name in names if not name.startswith("."))
