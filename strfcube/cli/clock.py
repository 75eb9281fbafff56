"""How long a command takes, for the one who waits: since it was entered, not since it had loaded itself."""

from __future__ import annotations

import os
import time

_loaded = time.monotonic()
_began: float | None = None


def begin() -> None:
    """Count from now on, as a call from Python does."""
    global _began
    _began = time.monotonic()


def seconds() -> float:
    """Seconds since the command began."""
    if _began is not None:
        return time.monotonic() - _began
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # another system
        return time.monotonic() - _loaded
