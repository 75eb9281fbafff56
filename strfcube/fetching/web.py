"""Patient requests: mirrors, redirections, proxies, waiting where a server asks for it, and errors in words."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from strfcube.errors import FetchError, UsageError
from strfcube.fetching.mirrors import Mirrors
from strfcube.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

T = TypeVar("T")
AGENT = f"Mozilla/5.0 (compatible; strfcube/{__version__})"  # in the form of a browser's, which CRCNS wants
HOPS = 10  # redirections of one request
LONGEST_PAGE = 50_000_000  # bytes of a list, record or page: those of the services are a thousandth of that
BUSY = (408, 425, 429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)


class Interrupted(Exception):  # noqa: N818 (never leaves the room)
    """A request that may go better the next time.

    Parameters
    ----------
    what : str
        What happened, in words.
    wait : float, optional
        Seconds that the server asks to wait for.
    tries : int
        Attempts after which it is given up, where that is sooner than patience has it.
    hint : str
        What to do then.
    """

    def __init__(self, what: str, wait: float | None = None, tries: int = 1000,
                 hint: str = "the same command goes on from what is there") -> None:  # fmt: skip
        super().__init__(what)
        self.wait, self.tries, self.hint = wait, tries, hint


class Stopped(Exception):  # noqa: N818
    """The fetch was given up by whoever asked for it."""


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    Attributes
    ----------
    tries : int
        Attempts in a row that bring nothing.
    first_wait, longest_wait : float
        Seconds before the second attempt, doubled each time, and at most.
    timeout : float
        Seconds without an answer, or with next to nothing in it, after which a connection is given up.
    longest_asked : float
        Seconds that a server may ask to wait for.
    """

    tries: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    timeout: float = 20.0
    longest_asked: float = 300.0

    @classmethod
    def from_environment(cls) -> Patience:
        """The default, with the timeout of ``$STRFCUBE_TIMEOUT``.

        Raises
        ------
        UsageError
            If that is no number of seconds.
        """
        given = os.environ.get("STRFCUBE_TIMEOUT")
        if given is None:
            return cls()
        try:
            seconds = float(given)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 86400:
            raise UsageError(f"STRFCUBE_TIMEOUT={given!r}: give seconds, for example 60")
        return cls(timeout=seconds)

    def wait(self, failures: int) -> float:
        """Seconds before the attempt that follows so many failures."""
        return float(min(self.first_wait * 2 ** (failures - 1), self.longest_wait))


@dataclass
class Web:
    """Requests to originals or their mirrors; no cookie is kept and no password sent unless a caller gives it.

    `stop` ends whatever runs, at its next piece.
    """

    mirrors: Mirrors = field(default_factory=Mirrors.from_environment)
    patience: Patience = field(default_factory=lambda: Patience.from_environment())
    stop: threading.Event = field(default_factory=threading.Event)
    _local: threading.local = field(default_factory=threading.local)

    def send(self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None,
             form: Mapping[str, str] | None = None) -> requests.Response:  # fmt: skip
        """One request, one answer: redirections are not followed, the body is not read.

        Raises
        ------
        Interrupted
            If there was no answer, or one that asks to come again.
        FetchError
            If coming again would not help.
        """
        import requests

        if self.stop.is_set():
            raise Stopped
        host = host_of(url)
        sent = {"User-Agent": AGENT, "Accept-Encoding": "identity"} | dict(headers or {})
        try:
            reply = self._session().request(
                method, self.mirrors.real(url), headers=sent, data=form, stream=True, allow_redirects=False,
                timeout=(min(10.0, self.patience.timeout), self.patience.timeout),
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            reason = _reason(error)
            hint = "is the clock right? The certificate of a proxy that looks inside is named by REQUESTS_CA_BUNDLE"
            raise FetchError(f"{host}: no safe connection ({reason}); {hint}") from None
        except requests.exceptions.ProxyError:
            # Servers come back; a proxy that does not answer is most often a setting that is wrong.
            hint = "is the proxy that https_proxy or http_proxy names right, and up? no_proxy names hosts without one"
            raise Interrupted(f"the proxy did not connect to {host}", tries=3, hint=hint) from None
        except requests.exceptions.Timeout:
            raise Interrupted(f"{host} did not answer in {self.patience.timeout:g} s") from None
        except requests.exceptions.ConnectionError as error:
            reason = _reason(error)
            if "not known" in reason or "resolution" in reason:  # no network, or a name that is wrong
                hint = "is there a network? Of files that you have already: strfcube build NAME --raw FOLDER"
                raise Interrupted(f"no connection to {host} ({reason})", tries=3, hint=hint) from None
            raise Interrupted(f"no connection to {host} ({reason})") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
            hint = "give https_proxy as http://HOST:PORT, and STRFCUBE_MIRRORS as URLs"
            raise FetchError(f"{host}: the address of the proxy or mirror cannot be used; {hint}") from None
        except requests.exceptions.RequestException as error:
            raise FetchError(f"{host}: {type(error).__name__}: the request could not be made") from None
        except ValueError:  # requests looks at where a redirection leads, whether it is followed or not
            raise FetchError(f"{url}: redirected to nowhere") from None
        if reply.status_code in BUSY:
            wait = retry_after(reply.headers.get("Retry-After"))
            reply.close()
            raise Interrupted(f"{host} answered {reply.status_code} {reply.reason or ''}".rstrip(), wait)
        return reply

    def open(self, url: str, *, headers: Mapping[str, str] | None = None,
             send: Callable[..., requests.Response] | None = None) -> requests.Response:  # fmt: skip
        """The answer at the end of all redirections: 200, 206 or 416.

        Parameters
        ----------
        send : callable, optional
            In place of `send`, for the hosts that want a cookie.

        Raises
        ------
        Interrupted, FetchError
            As `send`; and if there is no such file.
        """
        at, hops = url, 0
        while True:
            reply = (send or self.send)(at, headers=headers)
            if reply.status_code not in REDIRECTS:
                break
            target = self.target(at, reply)
            hops += 1
            if hops > HOPS:
                raise FetchError(f"{url}: redirected more than {HOPS} times; the service is out of order, try later")
            at = target
        status = reply.status_code
        if status in (200, 206, 416):
            return reply
        reply.close()
        if status in (401, 403) and hops:
            raise Interrupted(f"{host_of(at)} answered {status} to a link that {host_of(url)} gave")
        if status in (404, 410):
            raise FetchError(f"{url}: there is no such file (any more) ({status}); is there a newer strfcube?")
        raise FetchError(f"{url}: {host_of(at)} answered {status} {reply.reason or ''}".rstrip())

    def target(self, at: str, reply: requests.Response) -> str:
        """Original URL that an answer redirects to.

        Raises
        ------
        FetchError
            If it leads nowhere, or from a safe connection to one that is not.
        """
        location = reply.headers.get("Location", "")
        reply.close()
        asked = self.mirrors.real(at)
        found = self.mirrors.original(named := joined(asked, location))
        parts = urlsplit(joined("", location))
        if found == named and asked != at and not parts.netloc and not parts.scheme:
            found = joined(at, location)  # a mirror that passes on the original's path
        parts = urlsplit(found)
        if not location or parts.scheme not in ("http", "https") or not host_of(found):
            raise FetchError(f"{at}: redirected to nowhere ('{location[:80]}')")
        safe = urlsplit(at).scheme != "https" or parts.scheme == "https"
        if not safe and self.mirrors.real(at) == at:
            raise FetchError(f"{at}: redirected to {host_of(found)} without https, which is not followed")
        return found

    def text(self, url: str, send: Callable[..., requests.Response] | None = None,
             headers: Mapping[str, str] | None = None) -> str:  # fmt: skip
        """A page, list or record, with patience.

        Raises
        ------
        FetchError
            If it does not come.
        """

        def attempt() -> str:
            with self.open(url, send=send, headers=headers) as reply:
                return read(reply, url)

        return self.patiently(url, attempt)

    def patiently(self, what: str, attempt: Callable[[], T]) -> T:
        """What `attempt` gives, after as many interruptions as patience allows.

        Raises
        ------
        FetchError
            If patience ends.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except Interrupted as error:
                failures += 1
                self.hold(what, error, failures)

    def hold(self, what: str, error: Interrupted, failures: int) -> None:
        """Wait after an interruption.

        Raises
        ------
        FetchError
            If there were too many, or the server asks for too much.
        """
        patience = self.patience
        if error.wait is not None and error.wait > patience.longest_asked:
            raise FetchError(f"{what}: {error} and asks to wait for {error.wait:.0f} s; give the same command then")
        if failures >= min(patience.tries, error.tries):
            often = f", {failures} times" if failures > 1 else ""
            raise FetchError(f"{what}: {error}{often}; {error.hint}")
        if self.stop.wait(max(patience.wait(failures), error.wait or 0.0)):
            raise Stopped

    def _session(self) -> requests.Session:
        from http.cookiejar import DefaultCookiePolicy

        import requests
        from requests.cookies import RequestsCookieJar

        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.auth = _nobody
            jar = RequestsCookieJar()
            jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            session.cookies = jar
            self._local.session = session
        session = self._local.session
        assert isinstance(session, requests.Session)
        return session


def _nobody(request: Any) -> Any:
    """Whoever has an entry in the user's netrc gets nothing from us: without this, requests looks them up itself."""
    return request


def joined(at: str, found: str) -> str:
    """A URL that a page or answer names, in full; empty where it is none, or one that not all programs read alike."""
    with suppress(ValueError):
        url = urljoin(at, found)
        if "\\" not in url and "@" not in urlsplit(url).netloc:
            return url
    return ""


def host_of(url: str) -> str:
    """Host of a URL, for messages and for what may be sent there; read as by what sends it, empty where that cannot."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        return (parse_url(url).host or "").lower()
    except LocationParseError:
        return ""


def read(reply: requests.Response, url: str, seconds: float = 120.0) -> str:
    """Text of an answer to a request for a URL.

    Raises
    ------
    Interrupted
        If it ends early, or takes longer than so many seconds.
    FetchError
        If it does not end.
    """
    from urllib3.exceptions import HTTPError

    pieces, size, end = [], 0, time.monotonic() + seconds
    try:
        while piece := reply.raw.read1(65536, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > LONGEST_PAGE:
                raise FetchError(f"{host_of(url)}: a list or page of more than {LONGEST_PAGE / 1e6:.0f} MB came")
            if time.monotonic() > end:
                raise Interrupted(f"{host_of(url)} takes more than {seconds:g} s for a page")
    except (HTTPError, OSError):
        raise Interrupted(f"the answer of {host_of(url)} ended early") from None
    return b"".join(pieces).decode("utf-8", "replace")


def retry_after(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or an HTTP date."""
    if value is None:
        return None
    with suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    """The innermost cause of a failed connection, without addresses of objects or URLs."""
    seen: BaseException | None = error
    text = ""
    while seen is not None:
        reason = getattr(seen, "reason", None)
        if isinstance(seen, OSError) and seen.strerror:
            text = seen.strerror
        inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = reason if isinstance(reason, BaseException) else inner or seen.__cause__ or seen.__context__
    return text or "it was refused or cut"
