"""The services that one command goes to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from strfcube.fetching import credentials
from strfcube.fetching.crcns import Crcns
from strfcube.fetching.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable

HASTE = 5.0  # seconds that an answer may take which is good to know only


@dataclass(frozen=True)
class Visit:
    """The services, as one command goes to them."""

    web: Web
    crcns: Crcns

    @classmethod
    def begin(cls, ask: Callable[[], credentials.Credentials] | None = None, *, hasty: bool = False) -> Visit:
        """Nothing is sent yet.

        Parameters
        ----------
        ask : callable, optional
            Asks a person for name and password.
        hasty : bool
            Ask a service once, and wait for no answer longer than a person would: for what is good to know only.
        """
        web = Web()
        if hasty:
            web = Web(patience=replace(web.patience, tries=1, timeout=min(HASTE, web.patience.timeout)))
        return cls(web, Crcns(web, lambda: credentials.get(ask)))
