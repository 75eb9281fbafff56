"""How far something is, and what it has to say: bars in a terminal and a notebook, plain lines anywhere else.

What strfcube has to say goes to the logger ``strfcube``: what was odd as a warning, the usual as information. Python
shows warnings on standard error unless logging is set up otherwise; while progress is shown, the information is too.
"""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from strfcube.catalog import WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator

Progress = Callable[[str, int, int], None]

log = logging.getLogger("strfcube")

BYTES = "fetch"  # the stage that counts bytes; it has a bar in a terminal only, and else a line a file
_EVERY = 10.0  # seconds between two plain lines
# stage: (what it does, what it counts, its share of the time of all stages that it goes along with)
_STAGES = {
    BYTES: ("fetching", "B", 0.0),
    "survey": ("reading the raw files", "files", 0.0),
    "ingest": ("reading", "cells", 0.5),
    "write": ("writing", "parts", 0.5),
    "check": ("checking the cube", "", 0.0),
    "export": ("exporting", "", 0.0),
    "report": ("packing responses", "neurons", 0.0),
    "save": ("saving", "parts", 1.0),
}


class Display:
    """Shows the stages of one piece of work, one after the other, on standard error; a context manager.

    Parameters
    ----------
    always : bool
        Whether to print what the logger has to say also where somebody else has set up logging.
    """

    def __init__(self, always: bool = False) -> None:
        self.bar: Any = None
        self.stage = ""
        self._always = always
        self._live = is_live()
        self._begin: tuple[float, float] | None = None  # time and fraction at the first call that counts
        self._said = time.monotonic()
        self._undo: Callable[[], None] = lambda: None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; a `total` of 0 is not known."""
        if stage == BYTES and not self._live:
            return
        fresh = stage != self.stage
        if fresh:
            self.close()
            self.stage = stage
        left = self._left(stage, done, total)
        if self._live:
            self._draw(stage, done, total, left)
        elif fresh and not total:
            self._print(f"{_STAGES[stage][0]} ...")
        elif (total and done == total) or time.monotonic() > self._said + _EVERY:
            self._print(_plain(stage, done, total, left))

    def _left(self, stage: str, done: int, total: int) -> str:
        """The time that all stages together still need, in words."""
        share = _STAGES[stage][2]
        if not share or not total:
            return ""
        before = 0.5 if stage == "write" else 0.0
        now, fraction = time.monotonic(), before + share * done / total
        if self._begin is None:
            self._begin = now, fraction
        began, first = self._begin
        if fraction <= first or fraction >= 1 or now - began < 0.5:
            return ""
        return f"about {in_time((now - began) * (1 - fraction) / (fraction - first))} left"

    def _draw(self, stage: str, done: int, total: int, left: str) -> None:
        from tqdm import tqdm

        if self.bar is None:
            what, unit, _ = _STAGES[stage]
            how: dict[str, Any] = {"unit": unit, "bar_format": f"{{desc}} |{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}"
                                   "{postfix}"}  # fmt: skip
            if stage == BYTES:
                how = {"unit": "B", "unit_scale": True}
            elif not total:
                how["bar_format"] = "{desc} ..."
            # A terminal that does not know its height would show nothing
            self.bar = tqdm(
                total=total or None,
                initial=done,
                desc=what,
                ncols=WIDTH,
                nrows=24,
                file=sys.stderr,
                mininterval=0.2,
                **how,
            )
        if total and total != self.bar.total:  # a file whose length nobody stated
            self.bar.total = total
            self.bar.refresh()
        if not total and done and stage != BYTES:
            self.bar.bar_format = f"{{desc}} ... {{n_fmt}} {_STAGES[stage][1]}"
        if stage != BYTES:
            self.bar.set_postfix_str(left, refresh=False)
        self.bar.update(done - self.bar.n)

    def say(self, line: str, unusual: bool = True) -> None:
        """A line of its own; in a terminal, where a bar shows the usual, only what is not."""
        if unusual or not self._live:
            self._print(f"  {line}")

    def _print(self, text: str) -> None:
        self._said = time.monotonic()
        if self.bar is not None and not self.bar.total and self.stage != BYTES:  # it has said all that it can
            self.close()
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar of the last stage."""
        if self.bar is not None:
            if not self.bar.n and not self.bar.total:  # it had not begun
                self.bar.leave = False
            self.bar.set_postfix_str("", refresh=True)
            self.bar.close()
        self.bar, self.stage = None, ""

    def __enter__(self) -> Display:
        if self._always or not log.hasHandlers():
            handler = logging.Handler(logging.INFO)
            handler.emit = lambda record: self._print(for_reader(record.getMessage()))  # type: ignore[method-assign]
            level = log.level
            log.addHandler(handler)
            log.setLevel(min(level or logging.INFO, logging.INFO))

            def undo() -> None:
                log.removeHandler(handler)
                log.setLevel(level)

            self._undo = undo
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._undo()


@contextmanager
def shown(progress: bool | Progress | None) -> Iterator[Progress | None]:
    """What a function of the package calls to say how far it is.

    Parameters
    ----------
    progress : bool or callable, optional
        True shows it on standard error, False does not, None shows it in a terminal and in a notebook; a callable is
        called with stage, done, total.
    """
    if progress is None:
        progress = is_live()
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        with Display() as display:
            yield display


def is_live() -> bool:
    """Whether somebody looks on: standard error is a terminal, or this is a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or type(shell).__name__ == "ZMQInteractiveShell"


def for_reader(text: str) -> str:
    """Break the long lines of what goes to standard error, if that is a terminal, at its width (80 where unknown).

    Anywhere else they stay as they are: what goes to a file or through a pipe is searched line by line, and whoever
    shows it breaks it again. A path or a URL is never broken, so that it can be copied.
    """
    if not sys.stderr.isatty():
        return text
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        width = 80
    lines = []
    for line in text.splitlines():
        begin = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, max(40, width - 1), subsequent_indent=f"{begin}  ", break_long_words=False, break_on_hyphens=False
        ) if len(line) >= width else [line]  # fmt: skip
    return "\n".join(lines)


def in_time(seconds: float) -> str:
    """A duration as one would say it."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _plain(stage: str, done: int, total: int, left: str) -> str:
    what, unit, _ = _STAGES[stage]
    of = f"{done:,}/{total:,}" if total else f"{done:,}"
    return f"{what} {of} {unit}" + (f", {left}" if left else "")
