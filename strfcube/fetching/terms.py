"""The terms of a data set, accepted once and remembered in the data folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from strfcube.catalog import consent, data_dir
from strfcube.errors import UsageError
from strfcube.fetching.ledger import now, replace

if TYPE_CHECKING:
    from pathlib import Path

    from strfcube.catalog import Entry


def are_accepted(entry: Entry) -> bool:
    """Whether nobody need be asked: the data are open to all, or these very terms were accepted before."""
    return entry.account == "none" or _read().get(entry.name, {}).get("terms") == entry.terms


def accept(entry: Entry) -> None:
    """Remember that the terms were accepted."""
    if not are_accepted(entry):
        data_dir().mkdir(parents=True, exist_ok=True)
        replace(_file(), _read() | {entry.name: {"terms": entry.terms, "when": now()}})


def require(entry: Entry) -> None:
    """Refuse to go on without them.

    Raises
    ------
    UsageError
        If they were not accepted.
    """
    if not are_accepted(entry):
        raise UsageError(
            f"{entry.name} has terms to be accepted once ({entry.terms}): give {consent(entry).split()[-1]} "
            f"(accept_terms=True in Python)"
        )


def _file() -> Path:
    return data_dir() / ".strfcube-terms.json"


def _read() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
