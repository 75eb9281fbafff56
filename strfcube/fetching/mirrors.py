"""``$STRFCUBE_MIRRORS``: requests to some places go to others instead, redirections and all."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "STRFCUBE_MIRRORS"
_SECRET = re.compile("//[^/]*@")


@dataclass(frozen=True)
class Mirrors:
    """Pairs of URL prefixes, the longest first: what stands for the original, and what is really asked.

    Everywhere else a URL means the original: whom credentials and cookies may go to is decided by that, never by
    the name of a mirror.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_environment(cls) -> Mirrors:
        """Read ``$STRFCUBE_MIRRORS``: ``FROM=TO`` pairs of URL prefixes, separated by blanks.

        Raises
        ------
        UsageError
            If a pair is not two URLs.
        """
        pairs = []
        for pair in os.environ.get(VARIABLE, "").split():
            old, equals, new = pair.partition("=")
            if not equals or not all(_is_url(url) for url in (old, new)):
                raise UsageError(
                    f"{VARIABLE}: '{_SECRET.sub('//***@', pair)}' is not FROM=TO, two URL prefixes without a password: "
                    "https://zenodo.org/=https://mirror.example/z/"
                )
            pairs.append((old, new))
        return cls(tuple(sorted(pairs, key=lambda pair: -len(pair[0]))))

    def real(self, url: str) -> str:
        """Where a request for an original URL goes."""
        return _exchange(url, self.pairs)

    def original(self, url: str) -> str:
        """What a URL that a mirror's answer names stands for."""
        back = sorted(((new, old) for old, new in self.pairs), key=lambda pair: -len(pair[0]))
        return _exchange(url, back)


def _exchange(url: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        rest = url[len(old) :]
        # A prefix ends where a part of the URL does: https://zenodo.org is not https://zenodo.org.example.
        if url.startswith(old) and (not rest or old.endswith("/") or rest[0] in "/?#"):
            return new + rest
    return url


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and "@" not in parts.netloc
