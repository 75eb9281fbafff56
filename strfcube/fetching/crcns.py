"""CRCNS: log in by its form, greeted on the page of the data set; its list, its checksums, its files.

The protocol is that of crcns.org and download.crcns.org since June 2026; nothing documents it but its own clients.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from http.cookies import CookieError, Morsel, SimpleCookie
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from strfcube.errors import FetchError
from strfcube.fetching.web import REDIRECTS, Interrupted, host_of, joined, read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

    from strfcube.fetching.credentials import Credentials
    from strfcube.fetching.web import Web

T = TypeVar("T")
LOGIN = "https://crcns.org/login_form"
DOWNLOADS = "https://download.crcns.org/"
_FIELDS = {"form.submitted": "1", "js_enabled": "0", "pwd_empty": "0", "came_from": "", "cookies_enabled": "",
           "login_name": "", "submit": "Log in"}  # fmt: skip
TWICE = -1  # in place of a size or sum that a list gives in several ways
_LISTED = re.compile(r"(?!#\s)[ +#]?(?=\S)(?P<path>.+?)[\t ]+(?P<bytes>\d+)(?:[\t ]*\([^)]*\))?[\t ]*")
_SUM = re.compile(r"\\?(?P<md5>[0-9a-fA-F]{32})[ \t]+\*?(?P<path>.+?)[ \t]*")
_BSD_SUM = re.compile(r"MD5 ?\((?P<path>.+)\) ?= ?(?P<md5>[0-9a-fA-F]{32})[ \t]*")


def is_crcns(url: str) -> bool:
    """Whether credentials and cookies may go there: to CRCNS itself, over https."""
    host = host_of(url)
    return url.lower().startswith("https://") and (host == "crcns.org" or host.endswith(".crcns.org"))


@dataclass
class Crcns:
    """A visit to CRCNS: logged in at the first request, and once more when the service has forgotten that.

    Parameters
    ----------
    web : Web
        Makes the requests.
    credentials : callable
        Gives name and password, when they are needed.
    """

    web: Web
    credentials: Callable[[], Credentials]
    _cookies: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _logins: int = 0

    def send(self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None,
             form: Mapping[str, str] | None = None) -> requests.Response:  # fmt: skip
        """`Web.send`, with the cookies where they belong, and nowhere else."""
        if not is_crcns(url):
            return self.web.send(url, method=method, headers=headers)
        held = dict(self._cookies)  # another thread may be logging in anew
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in held.items())} if held else {}
        reply = self.web.send(url, method=method, headers=dict(headers or {}) | cookie, form=form)
        for line in reply.raw.headers.getlist("Set-Cookie"):
            self._keep(line)
        return reply

    def file(self, url: str) -> tuple[Callable[..., requests.Response], Callable[[], bool]]:
        """How to ask for one file, and what to do where a page came in its place: log in anew. Errors as `login`."""
        dataset, used = dataset_of(url), [0]

        def open_(at: str, headers: Mapping[str, str] | None = None) -> requests.Response:
            self.login(dataset)
            used[0] = self._logins
            return self.web.open(at, headers=headers, send=self.send)

        def again() -> bool:
            self.again(dataset, used[0])
            return True

        return open_, again

    def again(self, dataset: str, used: int) -> None:
        """Log in anew, unless that was done since login number `used`. Errors as `login`."""
        with self._lock:
            if self._logins == used:
                self._cookies.clear()
                self._log_in(dataset)
                self._logins = used + 1

    def login(self, dataset: str) -> None:
        """Log in, if that was not done yet.

        Raises
        ------
        FetchError
            If CRCNS does not take the credentials, or would send them elsewhere.
        """
        with self._lock:
            if not self._logins:
                self._log_in(dataset)
                self._logins = 1

    def listing(self, dataset: str) -> dict[str, tuple[int, str]]:
        """Path to bytes and MD5 of the files of a data set, 0 and empty where CRCNS does not say.

        Raises
        ------
        FetchError
            If the lists do not come.
        """
        self.login(dataset)
        sizes = parse_list(self._list(dataset, "filelist.txt"))
        text = self._list(dataset, "checksums.md5")
        sums = parse_sums(text)
        if text.strip() and not sums:
            raise FetchError(
                f"{DOWNLOADS}{dataset}/checksums.md5: expected '<md5>  <path>' a line, found "
                f"'{' '.join(text[:60].split())}'; is there a newer strfcube?"
            )
        bytes_of = {_within(path, dataset): size for path, size in sizes.items()}
        md5_of = {_within(path, dataset): md5 for path, md5 in sums.items()}
        return {path: (bytes_of.get(path, 0), md5_of.get(path, "")) for path in (*bytes_of, *md5_of)}

    def _list(self, dataset: str, name: str) -> str:
        """One of the two lists; empty where the data set has none."""
        url = f"{DOWNLOADS}{dataset}/{name}"

        def attempt() -> str:
            reply = self.send(url)
            with reply:
                if reply.status_code == 404:
                    return ""
                if reply.status_code in REDIRECTS:
                    at = self.web.target(url, reply)
                    with self.web.open(at, send=self.send) as other:
                        return read(other, at)
                if reply.status_code != 200:
                    raise FetchError(f"{url}: download.crcns.org answered {reply.status_code} {reply.reason or ''}")
                return read(reply, url)

        text = self.web.patiently(url, attempt)
        if is_page(text):
            self.again(dataset, self._logins)
            text = self.web.patiently(url, attempt)
        if is_page(text):
            raise FetchError(
                f"{url}: CRCNS answers with a web page in place of its list; has the account access to it?"
            )
        return text

    def _log_in(self, dataset: str) -> None:
        known = self.credentials()
        form = _FIELDS | {"__ac_name": known.name, "__ac_password": known.password}
        page = f"{DOWNLOADS}{dataset}"
        self.web.patiently(LOGIN, lambda: self._submit(form))
        text = self.web.patiently(page, lambda: self._page(page))
        if not _greets(text):
            # Data sets that the form's cookie does not open ask for the account on their own page.
            own = {"fn": dataset, "username": known.name, "password": known.password, "submit": "Login"}
            text = self.web.patiently(page, lambda: self._page(page, own))
        if "identifier" in text and "invalid" in text.lower() and not _greets(text):
            raise FetchError(f"{page}: CRCNS knows no data set '{dataset}'; is there a newer strfcube?")
        if not _greets(text):
            raise FetchError(
                "CRCNS did not accept the name and the password: try them at https://crcns.org/login, then set "
                "CRCNS_USERNAME and CRCNS_PASSWORD, or mend the entry of crcns.org in ~/.netrc"
            )

    def _submit(self, form: Mapping[str, str]) -> None:
        """Send the login form; where it lies, and what is hidden in it, is asked first, without the password."""
        at = LOGIN
        for _ in range(5):
            with self.send(at) as reply:
                if reply.status_code not in REDIRECTS:
                    asked = _Form.of(read(reply, at)) if reply.status_code == 200 else None
                    break
                at = self._stays(at, reply)
        if asked is not None:
            form = asked.hidden | dict(form)  # a token against forged requests, for example
            at = self._ours(at, self.web.mirrors.original(joined(at, asked.action)))
        for _ in range(3):
            with self.send(at, method="POST", form=form) as reply:
                if reply.status_code not in (307, 308):
                    if reply.status_code in REDIRECTS:
                        self._stays(at, reply)
                    return
                at = self._stays(at, reply)

    def _page(self, page: str, form: Mapping[str, str] | None = None) -> str:
        """The page of the data set, wherever at CRCNS it lies."""
        at, method = page, "POST" if form else "GET"
        for _ in range(5):
            with self.send(at, method=method, form=form) as reply:
                if reply.status_code in REDIRECTS:
                    at = self._stays(at, reply)
                    if reply.status_code not in (307, 308):
                        method, form = "GET", None
                    continue
                if reply.status_code in (401, 403):
                    return ""
                if reply.status_code == 404:
                    return "invalid identifier"
                if reply.status_code != 200:
                    raise Interrupted(f"{host_of(at)} answered {reply.status_code}")
                return read(reply, at)
        raise FetchError(f"{page}: CRCNS redirects for ever; try again later")

    def _stays(self, at: str, reply: requests.Response) -> str:
        """Where a page of the login redirects to, which must be CRCNS."""
        return self._ours(at, self.web.target(at, reply))

    @staticmethod
    def _ours(at: str, found: str) -> str:
        if not is_crcns(found):
            where = found[:80] or "no URL"
            raise FetchError(f"{at}: the login leads to {where}, which is not CRCNS; nothing was sent there")
        return found

    def _keep(self, line: str) -> None:
        try:
            cookies = SimpleCookie(line)
        except CookieError:
            return
        for name, morsel in cookies.items():
            if _is_gone(morsel):
                self._cookies.pop(name, None)
            else:
                self._cookies[name] = morsel.coded_value


def _is_gone(morsel: Morsel[str]) -> bool:
    """Whether a server takes a cookie away."""
    if morsel.value in ("", "deleted"):
        return True
    if morsel["max-age"]:  # comes before a date
        with suppress(ValueError):
            return int(morsel["max-age"]) <= 0
    with suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(morsel["expires"].replace("-", " ")).timestamp() <= time.time()
    return False


class _Form(HTMLParser):
    """The form of a page that asks for a password: where it is sent to, and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action, self.hidden = "", dict[str, str]()
        self.asks, self.ended = False, True

    @classmethod
    def of(cls, page: str) -> _Form | None:
        """The one of a page; None where none asks for a password."""
        form = cls()
        form.feed(page)
        return form if form.asks else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin anew at each form, until one has asked for a password."""
        given = {name: value or "" for name, value in attrs}
        kind = given.get("type", "").lower()
        if tag == "form" and not self.asks:
            self.action, self.hidden, self.ended = given.get("action", ""), {}, False
        elif tag == "input" and not self.ended:
            self.asks = self.asks or kind == "password"
            if kind == "hidden" and given.get("name"):
                self.hidden[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """What comes after the form is not of it."""
        self.ended = self.ended or tag == "form"


def dataset_of(url: str) -> str:
    """Identifier of the data set that a file belongs to: the first part of its path."""
    return urlsplit(url).path.strip("/").partition("/")[0]


def is_page(text: str) -> bool:
    """Whether a list is a page of the web instead."""
    start = text[:4096].lstrip().lower()
    return start.startswith(("<!doctype", "<html")) or "<form" in start or "login below" in start


def parse_list(text: str) -> dict[str, int]:
    """Path to bytes of ``filelist.txt``: a flag, a path, a size, perhaps the size in words; the rest is comment."""
    found = (_LISTED.fullmatch(line) for line in text.removeprefix("\ufeff").splitlines())
    return _once([(match["path"], int(match["bytes"])) for match in found if match], TWICE)


def parse_sums(text: str) -> dict[str, str]:
    """Path to MD5 of ``checksums.md5``."""
    lines = text.removeprefix("\ufeff").splitlines()
    found = (_SUM.fullmatch(line) or _BSD_SUM.fullmatch(line.strip()) for line in lines)
    return _once([(match["path"], match["md5"].lower()) for match in found if match], str(TWICE))


def _once(listed: list[tuple[str, T]], twice: T) -> dict[str, T]:
    """What is listed by path; `twice` where that is several things."""
    known: dict[str, T] = {}
    for path, value in listed:
        known[path] = value if known.get(path, value) == value else twice
    return known


def _within(path: str, dataset: str) -> str:
    """A path of a list, below the folder of its data set: with it, or the whole path on the server, before it."""
    return path.removeprefix("./").rpartition(f"/{dataset}/")[2].removeprefix(f"{dataset}/")


def _greets(text: str) -> bool:
    return "logged in as" in text.lower()
