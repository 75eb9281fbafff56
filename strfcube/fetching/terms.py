"""The terms of a data set, accepted once and remembered in the data folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from strfcube.catalog import data_dir
from strfcube.errors import UsageError
from strfcube.fetching.ledger import now, replace

if TYPE_CHECKING:
    from pathlib import Path

    from strfcube.catalog import Entry


def are_known(entry: Entry) -> bool:
    """Whether these very terms were shown or accepted before."""
    return bool(_read().get(entry.name, {}).get("terms") == entry.terms)


def must_be_accepted(entry: Entry) -> bool:
    """Whether somebody has to agree first: where an account is needed; other data are open to all."""
    return entry.account != "none" and not are_known(entry)


def remember(entry: Entry) -> None:
    """Note that the terms were shown and, where they had to be, accepted."""
    if not are_known(entry):
        data_dir().mkdir(parents=True, exist_ok=True)
        replace(_file(), _read() | {entry.name: {"terms": entry.terms, "when": now()}})


def require(entry: Entry) -> None:
    """Refuse to go on without them.

    Raises
    ------
    UsageError
        If they were not accepted.
    """
    if must_be_accepted(entry):
        raise UsageError(
            f"{entry.name} has terms to be accepted once ({entry.terms}): give --accept-terms (accept_terms=True in "
            f"Python)"
        )


def _file() -> Path:
    return data_dir() / ".strfcube-terms.json"


def _read() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
