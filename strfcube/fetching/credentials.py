"""Name and password of a CRCNS account: where they come from, and how they stay in this process."""

from __future__ import annotations

import netrc
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from strfcube.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLES = ("CRCNS_USERNAME", "CRCNS_PASSWORD")
HOSTS = ("crcns.org", "www.crcns.org", "download.crcns.org")  # of a netrc entry


@dataclass(frozen=True)
class Credentials:
    """Name and password; neither is ever printed."""

    name: str = field(repr=False)
    password: str = field(repr=False)


def find() -> Credentials | None:
    """The credentials that the environment or netrc holds.

    Raises
    ------
    FetchError
        If the netrc file cannot be read.
    """
    given = [os.environ.get(name, "") for name in VARIABLES]
    if all(given):
        return Credentials(*given)
    return _from_netrc()


def get(ask: Callable[[], Credentials] | None = None) -> Credentials:
    """The credentials, asked for where nothing holds them and someone can be asked.

    Raises
    ------
    FetchError
        If there are none.
    """
    found = find() or (ask() if ask else None)
    if found is None:
        raise FetchError(
            "CRCNS gives its files to those who have an account (free: https://crcns.org/register): set "
            "CRCNS_USERNAME and CRCNS_PASSWORD, or give crcns.org an entry in ~/.netrc"
        )
    return found


def _from_netrc() -> Credentials | None:
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    if not file.is_file():
        return None
    try:
        known = netrc.netrc(str(file)).hosts  # not `authenticators`: its default entry is for any host at all
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        # The parser's own message may quote what it stumbled over, which may be the password.
        line = f", line {error.lineno}" if isinstance(error, netrc.NetrcParseError) and error.lineno else ""
        raise FetchError(f"{file}{line}: cannot be read as a netrc file, or others may read it (chmod 600)") from None
    for host in HOSTS:
        if host in known:
            name, _, password = known[host]
            if name and password:
                return Credentials(name, password)
    return None
