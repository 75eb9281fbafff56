"""The errors strfcube raises: one root, one leaf for each thing a user can do about it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_REFUSED = ("EACCES", "EPERM"), "give yourself permission to read it"
_TOO_MANY = ("EMFILE", "ENFILE"), "let fewer programs run, or raise the limit of open files (`ulimit -n`)"
_FULL = ("ENOSPC", "EDQUOT"), "make room"
_NO_MEMORY = ("ENOMEM",), "let fewer programs run, or give this one more memory"
_FAILED = (
    ("EIO", "EBUSY", "EAGAIN", "ENXIO", "ENODEV", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENETDOWN", "ENETUNREACH",
     "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH"),
    "see that its disk or network drive is well",
)  # fmt: skip
_REMEDIES = {
    getattr(errno, name): remedy
    for names, remedy in (_REFUSED, _TOO_MANY, _FULL, _NO_MEMORY, _FAILED)
    for name in names
    if hasattr(errno, name)
}
# What Python, the loader of libraries and HDF5 say where the system gives no memory, in errors of other kinds
_STARVED = ("can't start new thread", "failed to map segment", "unable to allocate memory", "memory allocation failed")


def starved(error: BaseException) -> bool:
    """Whether an error says that there was no memory for something."""
    told = isinstance(error, (ImportError, KeyError, OSError, RuntimeError)) and any(w in str(error) for w in _STARVED)
    return told or isinstance(error, MemoryError)


def refusal(error: BaseException | None) -> str:
    """What the system said when it refused to read a file, and what to do: such an error tells nothing of its content.

    Parameters
    ----------
    error : exception
        What was raised; what it was raised from counts, too.

    Returns
    -------
    str
        ``"Permission denied; give yourself permission to read it"``, or ``""`` for an error of any other kind.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REMEDIES:
            return f"{os.strerror(int(error.errno or 0))}; {_REMEDIES[error.errno]}"
        if starved(error):
            return f"there is not enough memory; {_NO_MEMORY[1]}"
        error = error.__cause__
    return ""


def did_you_mean(given: Any, known: Iterable[Any], most: int = 2) -> str:
    """What a name that nothing has was probably meant to be, ahead of the list of all that there is.

    Parameters
    ----------
    given : Any
        What was given; only text can be mistyped.
    known : iterable
        What there is; names are compared without regard to case and leading dashes.
    most : int
        How many are suggested.

    Returns
    -------
    str
        ``"did you mean area? Else "``, or ``""`` where nothing is called nearly so: a message goes on with ``there
        are ...`` in either case.
    """
    import difflib

    if not isinstance(given, str):
        return ""
    names: dict[str, str] = {}
    for name in known:
        if isinstance(name, str):
            names.setdefault(name.casefold().lstrip("-"), name)
    typed = given.casefold().lstrip("-")
    close = difflib.get_close_matches(typed, names, n=most, cutoff=0.65)
    close = close or [name for name in names if len(typed) > 1 and name.startswith(typed)][:most]
    return f"did you mean {' or '.join(names[name] for name in close)}? Else " if close else ""


class StrfcubeError(Exception):
    """Root of every error that strfcube raises on purpose; the command line prints it as one line."""


class UsageError(StrfcubeError, ValueError):
    """An argument, option or recipe that cannot be used as given (exit code 2)."""


class SelectionError(StrfcubeError, LookupError):
    """A selection that names a key or a value that nothing has; the message lists what there is."""


class StoreError(StrfcubeError):
    """A cube that is absent, incomplete, damaged, of another format, or cannot be written."""


class RawDataError(StrfcubeError):
    """A raw file that cannot be read as its format says.

    Parameters
    ----------
    message : str
        What was expected, what came, and what to do; of one that quotes a damaged file at length, the middle is left
        out.
    file : path-like
        The file.
    line : int, optional
        The 1-based line within it.
    """

    _MOST = 1000  # characters

    def __init__(self, message: str, file: Any, line: int | None = None) -> None:
        if len(message) > self._MOST:
            message = f"{message[: self._MOST // 2]} ... {message[-self._MOST // 2 :]}"
        super().__init__(message, str(file), line)
        self.message = message
        self.file = str(file)
        self.line = line

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{place}: {self.message}"


class FetchError(StrfcubeError):
    """A file could not be fetched, or is not the one that was published."""
