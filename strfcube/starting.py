"""What ends the command line while it is still being imported, Ctrl-C above all: one line, and no traceback."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from typing import Any

INTERRUPTED = 130  # exit code: that of a shell for a command that Ctrl-C ended
_RESUMED = ("build", "fetch", "rebin")


def interrupted(command: str = "") -> str:
    """What Ctrl-C is answered with; of a command that goes on from what is there, that it does."""
    return "strfcube: interrupted" + ("; the same command goes on where this one ended" if command in _RESUMED else "")


def _is_command() -> bool:
    command = os.path.basename(sys.argv[0] if sys.argv else "").partition(".")[0]
    return command in ("strfcube", "strfcube-script")


def see_assertions() -> None:
    """Refuse a Python without assertions: those of zarr do part of its work, and it takes every cube for damaged.

    Raises
    ------
    ImportError
        If this is such a Python.
    """
    if not __debug__:
        what = "strfcube needs Python's assertions, which zarr cannot read without: leave out -O, and PYTHONOPTIMIZE"
        if _is_command():
            sys.exit(f"strfcube: error: {what}")
        raise ImportError(what)


def interrupts_end() -> None:
    """Let Ctrl-C end this process in one line, if it is the command line and has just begun."""
    if not _is_command() or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupts_raise() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again, which whoever runs can clean up after."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _again


def _again(unraisable: Any) -> None:
    """Ctrl-C within Python that a library in C called (numba does) is lost there: raise it once that is over."""
    if unraisable.exc_type is KeyboardInterrupt:
        later = threading.Timer(0.05, _interrupt)
        later.daemon = True
        later.start()
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:  # which ends what the main thread waits for, too
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _end(*_: Any) -> None:
    os.write(2, f"{interrupted()}\n".encode())
    os._exit(INTERRUPTED)
