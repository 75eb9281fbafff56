"""The one line that says why an archive is not unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strfcube.errors import FetchError
from strfcube.errors import refusal as refused

if TYPE_CHECKING:
    from pathlib import Path

AGAIN = "delete it and fetch it again"


class Damaged(FetchError):  # noqa: N818 (never leaves the room)
    """An archive that is not what its publisher packed: fetched again, it may be."""


def shown(name: str) -> str:
    """Quote a name for a message: on one line, and not without end."""
    return repr(name if len(name) <= 80 else f"{name[:50]}...{name[-25:]}")


def refusal(archive: Path, what: str, todo: str = "do not use this archive") -> FetchError:
    """The error of an archive that is not unpacked."""
    kind = Damaged if todo is AGAIN else FetchError
    return kind(f"{archive}: {what}; nothing was unpacked: {todo}")


def damaged(archive: Path, what: str, error: Exception) -> FetchError:
    """The error of an archive that cannot be read to its end."""
    if why := refused(error):  # which says nothing of what is in it
        return FetchError(f"{archive} cannot be read: {why}, then give the same command")
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return refusal(archive, f"{what} is damaged or cut off ({detail})", AGAIN)
