"""One file from a server to the disk, resumed where it was left: by the server, the network, or the user."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from strfcube.errors import FetchError
from strfcube.fetching.web import Interrupted, Stopped, Web, host_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import requests

PIECE = 1 << 16  # bytes: what a killed download loses at most
SLOWEST = 100  # bytes/s: less than that is a stall
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class PageInstead(Exception):  # noqa: N818 (never leaves the room)
    """A web page came where a file was asked for."""


class _StartOver(Exception):  # noqa: N818
    """What is there cannot be continued."""


@dataclass(frozen=True)
class Begun:
    """What a part file was begun with; kept beside it.

    Attributes
    ----------
    url, etag, modified : str
        Where it comes from, and the server's marks of its version; empty where it gives none.
    size : int
        Of the whole file; 0 where the server does not say.
    ended : bool
        Whether the server ended in good order a file of which nobody knew the size.
    """

    url: str = ""
    etag: str = ""
    modified: str = ""
    size: int = 0
    ended: bool = False

    @property
    def validator(self) -> str:
        """What ``If-Range`` takes: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass
class Transfer:
    """A downloader for pooch that resumes.

    Parameters
    ----------
    web : Web
        For its patience.
    part : Path
        Where what has come is kept, with its `Begun` beside it.
    size, md5 : int, str
        As published; 0 and empty where they are not.
    open : callable
        Gives the answer to a request for a URL with headers; default that of `web`.
    again : callable, optional
        Called once where a web page came in place of the file; whether another attempt makes sense.
    moved : callable, optional
        Called with how many bytes are there.
    """

    web: Web
    part: Path
    size: int = 0
    md5: str = ""
    open: Callable[..., requests.Response] | None = None
    again: Callable[[], bool] | None = None
    moved: Callable[[int], None] = lambda _: None
    begun: Begun = field(default_factory=Begun)
    calls: int = 0

    def __call__(self, url: str, output_file: Any, pooch: Any = None) -> None:
        """Put the file at a URL into the place that pooch verifies it in; pooch calls again if it is not the right one.

        Raises
        ------
        FetchError
            If it does not come whole.
        """
        self.calls += 1
        if self.calls > 1:
            self.discard()
        self.run(url)
        # A second name, not a move: what has come survives whatever ends this process before it was verified.
        with suppress(FileNotFoundError):
            os.unlink(output_file)
        try:
            os.link(self.part, output_file)
        except OSError:  # a file system without links
            os.replace(self.part, output_file)

    def run(self, url: str) -> None:
        """Make the part whole.

        Raises
        ------
        FetchError
            If it cannot be.
        """
        self.begun = self._remembered(url)
        failures, best, asked_again = 0, self.there(), False
        while not self._whole():
            try:
                self._attempt(url)
            except Interrupted as error:
                gained, best = self.there() - best, max(best, self.there())
                # A server that drops every connection, but not at once, is a slow one.
                failures = 0 if gained >= max(1, min((self.size or self.begun.size) // 100, 1_000_000)) else failures
                failures += 1
                self.web.hold(url, error, failures)
            except _StartOver:
                self.discard()
                failures += 1
                if failures >= self.web.patience.tries:
                    message = "the server answers with other parts of the file than were asked for"
                    raise FetchError(f"{url}: {message}; try again later") from None
            except PageInstead:
                if asked_again or self.again is None or not self.again():
                    message = f"{host_of(url)} answered with a web page in place of the file"
                    hint = "does the network want a login? Open the address in a browser"
                    raise FetchError(f"{url}: {message}; {hint}") from None
                asked_again = True
        self.moved(self.there())

    def there(self) -> int:
        """Bytes that have come."""
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def discard(self) -> None:
        """Forget what has come."""
        self._marks().unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        self.begun = Begun()

    def _marks(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _remembered(self, url: str) -> Begun:
        """What the part was begun with; a part that cannot be continued goes."""
        try:
            begun = Begun(**json.loads(self._marks().read_text()))
        except (OSError, ValueError, TypeError):
            begun = Begun()
        other_size = self.size and begun.size and begun.size != self.size
        too_long = self.there() > (self.size or begun.size or self.there())
        if begun.url != url or other_size or too_long:
            self.discard()
            return Begun()
        return begun

    def _whole(self) -> bool:
        """Whether all has come."""
        size = self.size or self.begun.size
        return self.there() == size if size else self.begun.ended

    def _attempt(self, url: str) -> None:
        have = self.there()
        headers = self._continue(have)
        have = have if headers else 0
        open_ = self.open or self.web.open
        with open_(url, headers=headers) as reply:
            status = reply.status_code
            if status == 416:
                raise _StartOver
            if status == 206:
                total = self._continues(reply, have)
            else:
                have, total = 0, _length(reply)
            self._take(url, reply, have, total)

    def _continue(self, have: int) -> dict[str, str]:
        """Headers that ask for the rest, if the rest can be told from that of another version."""
        if not have or not (self.begun.validator or self.begun.etag or self.md5):
            return {}
        headers = {"Range": f"bytes={have}-"}
        if self.begun.validator:
            headers["If-Range"] = self.begun.validator
        return headers

    def _continues(self, reply: requests.Response, have: int) -> int:
        """Size of the whole file, of an answer that must begin where the part ends."""
        found = _RANGE.fullmatch(reply.headers.get("Content-Range", "").strip())
        if not found or int(found[1]) != have or not self._same_version(reply) or _packed(self.begun.url, reply):
            raise _StartOver
        total = 0 if found[3] == "*" else int(found[3])
        expected = self.size or self.begun.size
        if (expected and total and total != expected) or not (expected or total or self.md5):
            raise _StartOver
        return total or expected

    def _same_version(self, reply: requests.Response) -> bool:
        """Whether an answer goes on with what was begun: not every server heeds ``If-Range``."""
        for known, name in ((self.begun.etag, "ETag"), (self.begun.modified, "Last-Modified")):
            if known and (now := reply.headers.get(name, "")):
                return now == known
        # The date may be left out of an answer to If-Range, the ETag may not; a checksum finds out in the end
        return bool(self.md5 or (self.begun.modified and not self.begun.etag))

    def _take(self, url: str, reply: requests.Response, have: int, total: int) -> None:
        """Write what comes; the first bytes are looked at before anything that is there is given up."""
        packed = _packed(url, reply)
        total = 0 if packed else total
        pieces = _Pieces(self.web, reply, packed, host_of(url))
        head = pieces.head()
        if not have:
            if _is_page(head, reply, self.size):
                raise PageInstead
            if self.size and total and total != self.size:
                raise FetchError(
                    f"{url}: {self.size:,} bytes are published, the server has {total:,}; it was changed, or is another"
                )
            self._begin(url, reply, total)
        limit = self.size or total
        with open_part(self.part, "ab" if have else "wb") as part:
            for piece in chain((head,), pieces):
                if limit and have + len(piece) > limit:
                    self.discard()
                    raise FetchError(f"{url}: more than the {limit:,} bytes came that the file has; try again later")
                part.write(piece)
                have += len(piece)
                self.moved(have)
        if limit and have < limit:
            raise Interrupted(f"the connection to {host_of(url)} ended at {have:,} of {limit:,} bytes")
        if limit and not self.begun.size:
            self.begun = replace(self.begun, size=limit)  # said by the answer that brought the rest
            self._remember()
        if not limit:
            self.begun = replace(self.begun, size=have, ended=True)
            self._remember()

    def _begin(self, url: str, reply: requests.Response, total: int) -> None:
        self.discard()
        headers = reply.headers
        self.begun = Begun(url, headers.get("ETag", ""), headers.get("Last-Modified", ""), total)
        self._remember()

    def _remember(self) -> None:
        marks = self._marks()
        marks.parent.mkdir(parents=True, exist_ok=True)
        partial = marks.with_name(f"{marks.name}.new")
        partial.write_text(json.dumps(asdict(self.begun)))
        os.replace(partial, marks)


class open_part:  # noqa: N801 (reads as `open`)
    """The part, unbuffered, so that what has come is on the disk; an error of the disk in words."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self.mode = path, mode

    def __enter__(self) -> Any:
        self.file = open(self.path, self.mode, buffering=0)
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                "no space is left on the disk; free some, and give the same command: it goes on from what is there"
            )
            raise FetchError(f"{self.path.parent}: {message}") from None


class _Pieces:
    """The body of an answer as it comes, given up where next to nothing does."""

    def __init__(self, web: Web, reply: requests.Response, packed: bool, host: str) -> None:
        self.web, self.reply, self.packed, self.host = web, reply, packed, host
        self.since, self.got = time.monotonic(), 0

    def head(self, size: int = 4096) -> bytes:
        """The first bytes, enough to tell a page from a file."""
        head = b""
        while len(head) < size and (piece := self._next()):
            head += piece
        return head

    def __iter__(self) -> Any:
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        from urllib3.exceptions import HTTPError

        if self.web.stop.is_set():
            raise Stopped
        host, timeout = self.host, self.web.patience.timeout
        try:
            piece = self.reply.raw.read1(PIECE, decode_content=self.packed)
        except (HTTPError, OSError) as error:
            slow = "timed out" in str(error).lower()
            what = f"nothing came from {host} for {timeout:g} s" if slow else f"the connection to {host} was cut"
            raise Interrupted(what) from None
        self.got += len(piece)
        now = time.monotonic()
        if now - self.since > timeout:
            if self.got < SLOWEST * (now - self.since):
                raise Interrupted(f"next to nothing came from {host} for {timeout:g} s")
            self.since, self.got = now, 0
        return bytes(piece)


def _packed(url: str, reply: requests.Response) -> bool:
    """Whether a server packed what it sends; some call the compression of the file itself an encoding."""
    encoding = reply.headers.get("Content-Encoding", "").lower()
    return encoding not in ("", "identity") and not url.partition("?")[0].endswith(("gz", "gz/content"))


def _length(reply: requests.Response) -> int:
    text = reply.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else 0


def _is_page(head: bytes, reply: requests.Response, size: int) -> bool:
    """Whether this is a page of the web, by its own words or by its header where its length is another."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")) or (b"<form" in text and b"password" in text):
        return True
    named = reply.headers.get("Content-Type", "").lower().startswith("text/html") and b"\0" not in head
    return named and not (size and _length(reply) == size)
