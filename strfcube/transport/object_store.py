"""Requests to object stores and HTTP servers through obstore, from any process.

obstore's threads do not survive a fork, and a forked process cannot start them again: there, a helper process of its
own, which runs this very file, asks instead. So this module imports nothing of the package.
"""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT_STORES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
SCHEMES = ("http", "https", *OBJECT_STORES)
_HELPED = 32  # requests at once of a helper
_LARGE = 64_000_000  # bytes of an object that is put in parts
_PART = 16_000_000
_CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_ca_certificate",
                   "proxy_excludes", "proxy_url", "timeout", "user_agent")  # fmt: skip

_no_suffix: set[str] = (
    set()
)  # Azure, and some servers, cannot be asked for the end of an object: they are asked its size

Answer = tuple[bytes, int, str]  # what was asked for, size of the whole object, and its ETag or time of change
DONE, UNMET, UNKNOWN = "done", "unmet", "unknown"  # of a put: what became of its condition


class RefusedError(Exception):
    """What a server or the network answered instead, in one line."""


def split(url: str) -> tuple[str, str]:
    """The store of a URL, and the prefix within it."""
    parts = urlsplit(url)
    path = unquote(parts.path) if parts.scheme in ("http", "https") else parts.path
    return f"{parts.scheme}://{parts.netloc}", path.strip("/")


def _settings(base: str) -> tuple[tuple[str, str], ...]:
    """What the environment says about an object store, as its own tools name it."""
    if base.startswith("http"):
        return ()
    return tuple((k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "GOOGLE_", "AZURE_")))


@cache
def _store(base: str, settings: tuple[tuple[str, str], ...]) -> Any:
    from datetime import timedelta

    from obstore.store import HTTPStore, from_url

    retry: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
    client: Any = {"connect_timeout": "10s", "timeout": "120s", "pool_max_idle_per_host": str(_HELPED)}
    if base.startswith("http"):
        return HTTPStore.from_url(base, client_options=client | {"allow_http": True}, retry_config=retry)
    for name, value in settings:  # options of the connection given here hide those of the environment
        option = name.partition("_")[2].lower()
        if option in _CLIENT_OPTIONS:
            client[option] = value
        elif "endpoint" in option and value.startswith("http://"):
            client.setdefault("allow_http", "true")
    return from_url(base, client_options=client, retry_config=retry)


def ask(base: str, key: str, span: int | tuple[int, int] | None) -> Answer | None:
    """One request, from whatever process this is.

    Parameters
    ----------
    base : str
        The store, as `split` gives it.
    key : str
        The object.
    span : int, tuple of int or None
        Its last bytes, a half-open range, or all of it.

    Returns
    -------
    tuple, or None
        None where there is no such object.

    Raises
    ------
    RefusedError
        If the server cannot be reached, or refuses.
    """
    answer: Answer | None = _call(_ask, base, key, span)
    return answer


def put(base: str, key: str, data: bytes, instead_of: str | None = None) -> tuple[str, str]:
    """Put one object, whole; a large one in parts, several at once.

    Parameters
    ----------
    base, key : str
        As in `ask`.
    data : bytes
        Its content.
    instead_of : str, optional
        A condition: the ETag of the object that it takes the place of, or "" where there must be none.

    Returns
    -------
    tuple of str
        `DONE` and its ETag; or `UNMET`, or `UNKNOWN` where the server says that it knows no conditions.

    Raises
    ------
    RefusedError
        If the server cannot be reached, or refuses.
    """
    answer: tuple[str, str] = _call(_put, base, key, data, instead_of)
    return answer


def listed(base: str, prefix: str) -> list[tuple[str, int, str]] | None:
    """Key, size and ETag of all objects in a folder; None where the server does not tell. Raises as `ask`."""
    answer: list[tuple[str, int, str]] | None = _call(_listed, base, prefix)
    return answer


def remove(base: str, keys: list[str]) -> None:
    """Remove objects, whether they are there or not. Raises as `ask`."""
    _call(_remove, base, keys)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args) if _helper is None else _helper.ask(function.__name__, *args)


def _put(base: str, key: str, data: bytes, instead_of: str | None) -> tuple[str, str]:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

    mode: Any = None if instead_of is None else {"e_tag": instead_of} if instead_of else "create"
    try:
        store = _store(base, _settings(base))
        if instead_of and base.startswith("gs"):  # Google's condition is the number of the version
            found = obstore.head(store, key)
            if found["e_tag"] != instead_of:
                return UNMET, ""
            mode["version"] = str(found["version"])
        large = mode is None and len(data) > _LARGE
        made = obstore.put(store, key, data, mode=mode, use_multipart=large, chunk_size=_PART)
    except (AlreadyExistsError, PreconditionError):
        return UNMET, ""
    except (FileNotFoundError, NotSupportedError, NotImplementedError, BaseError, OSError, ValueError) as error:
        if mode is not None and isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            return UNMET, ""  # the object that it was to take the place of is gone
        if mode is not None and (isinstance(error, NotSupportedError | NotImplementedError) or _unknown(error)):
            return UNKNOWN, ""
        raise RefusedError(f"{base}/{key}: {_why(error)}{_hint(base)}") from None
    return DONE, str(made["e_tag"] or "")


def _unknown(error: BaseException) -> bool:
    """Whether a server refuses a request for its condition, not for what it asks."""
    return "501 Not Implemented" in str(error) or "<Code>NotImplemented</Code>" in str(error)


def _listed(base: str, prefix: str) -> list[tuple[str, int, str]] | None:
    if base.startswith("http"):
        return None
    import obstore
    from obstore.exceptions import BaseError

    try:
        batches = obstore.list(_store(base, _settings(base)), prefix, chunk_size=1000)
        return [(str(o["path"]), int(o["size"]), str(o["e_tag"] or "")) for batch in batches for o in batch]
    except (BaseError, OSError, ValueError) as error:
        raise RefusedError(f"{base}/{prefix}: {_why(error)}{_hint(base)}") from None


def _remove(base: str, keys: list[str]) -> None:
    import obstore
    from obstore.exceptions import BaseError

    try:
        obstore.delete(_store(base, _settings(base)), keys[0] if len(keys) == 1 else keys)
    except FileNotFoundError:
        pass
    except (BaseError, OSError, ValueError) as error:
        raise RefusedError(f"{base}/{keys[0]}: {_why(error)}{_hint(base)}") from None


def _ask(base: str, key: str, span: int | tuple[int, int] | None) -> Answer | None:
    import obstore
    from obstore.exceptions import BaseError, GenericError, NotSupportedError, PermissionDeniedError

    try:
        store = _store(base, _settings(base))
        if isinstance(span, int) and base not in _no_suffix:
            try:
                found = obstore.get(store, key, options={"range": {"suffix": span}})
            except (NotSupportedError, GenericError) as error:
                if "range" not in _line(error).lower():
                    raise
                _no_suffix.add(base)
        if isinstance(span, int) and base in _no_suffix:
            size = int(obstore.head(store, key)["size"])
            span = max(0, size - span), size
        if not isinstance(span, int):
            found = obstore.get(store, key, options={} if span is None else {"range": span})
        data, meta = found.bytes().to_bytes(), found.meta
    except FileNotFoundError:
        return None
    except (NotSupportedError, GenericError) as error:
        if "range" not in _line(error).lower():
            raise RefusedError(f"{base}/{key}: {_line(error)}{_hint(base)}") from None
        what = "it does not answer range requests; use a server that does, or copy the cube"
        raise RefusedError(f"{base}/{key}: {what}") from None
    except PermissionDeniedError as error:
        # S3 says so of an object that does not exist where the bucket may not be listed
        if base.startswith("s3") and isinstance(span, int):
            return None
        raise RefusedError(f"{base}/{key}: {_why(error)}{_hint(base)}") from None
    except (BaseError, OSError, ValueError) as error:
        raise RefusedError(f"{base}/{key}: {_line(error)}{_hint(base)}") from None
    changed = meta["last_modified"]
    return data, int(meta["size"]), str(meta["e_tag"] or (changed.isoformat() if changed else ""))


def _line(error: BaseException) -> str:
    """An error in one line, without obstore's own view of it."""
    text = str(error).partition("\n\nDebug source")[0]
    return " ".join(text.split())[:300]


def _why(error: BaseException) -> str:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    return f"access denied ({_line(error)})" if denied else _line(error)


def _hint(base: str) -> str:
    if not base.startswith("s3"):
        return ""
    return "; credentials, AWS_REGION and AWS_ENDPOINT_URL come from the environment, AWS_SKIP_SIGNATURE=true without"


# --- after a fork ----------------------------------------------------------------------------------------------------


class _Helper:
    """A process of its own that asks for a forked one; started with the first request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()

    def ask(self, *request: Any) -> Any:
        future: Future[Any] = Future()
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._process = self._started()
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                assert process.stdin is not None
                pickle.dump((number, request), process.stdin)
                process.stdin.flush()
            except OSError as error:
                self._waiting.pop(number, None)
                raise RefusedError(f"{request[1]}: the process that reads it ended ({error})") from None
        found, problem = future.result()
        if problem:
            raise RefusedError(problem)
        return found

    def _started(self) -> subprocess.Popen[bytes]:
        # -P: this folder's modules are not to be taken for the standard library's
        command = [sys.executable, "-P", os.path.abspath(__file__)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._waiting = {}
        threading.Thread(target=self._listen, args=(process, self._waiting), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes], waiting: dict[int, Future[Any]]) -> None:
        """Give the answers of one process to those who wait for it; when it ended, another may be there already."""
        assert process.stdout is not None
        with process.stdout as answers:
            while True:
                try:
                    number, found = pickle.load(answers)
                except Exception:  # it ended, at whatever point
                    break
                waiting.pop(number).set_result(found)
        with self._lock:
            if self._process is process:
                self._process = None  # nobody listens to it any more
            left = list(waiting.values())
        for future in left:
            future.set_result((None, "the process that reads remote stores ended"))


_FUNCTIONS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (_ask, _put, _listed, _remove)}
_helper: _Helper | None = None


def _after_fork() -> None:
    global _helper
    if _helper is not None or "obstore" in sys.modules:
        _helper = _Helper()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _serve() -> None:
    """Answer the requests on the standard input until it ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    lock = threading.Lock()

    def answer(number: int, request: tuple[Any, ...]) -> None:
        try:
            found: Any = _FUNCTIONS[request[0]](*request[1:]), ""
        except RefusedError as error:
            found = None, str(error)
        except BaseException as error:
            found = None, f"{type(error).__name__}: {error}"
        with lock:
            pickle.dump((number, found), answers)
            answers.flush()

    with ThreadPoolExecutor(_HELPED) as pool:
        while True:
            try:
                number, request = pickle.load(requests)
            except EOFError:
                return
            pool.submit(answer, number, request)


if __name__ == "__main__":
    _serve()
