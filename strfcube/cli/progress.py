"""What a command shows while it works: a bar a stage, on standard error."""

from __future__ import annotations

import sys
from typing import Any

from strfcube.catalog import WIDTH

_BYTES = "fetch"  # the stage that counts bytes; it has a bar in a terminal only, and else a line a file


class Progress:
    """One bar a stage, on standard error."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        from tqdm import tqdm

        if stage == _BYTES and not sys.stderr.isatty():
            return
        if stage != self.stage:
            self.close()
            self.stage = stage
            scale = {"unit": "B", "unit_scale": True} if stage == _BYTES else {"unit": "task"}
            start = done if stage == _BYTES else 0
            self.bar = tqdm(total=total, desc=stage, ncols=WIDTH, file=sys.stderr, mininterval=0.2, initial=start,
                            **scale)  # fmt: skip
        if total != self.bar.total:  # a file whose length nobody stated
            self.bar.total = total
            self.bar.refresh()
        self.bar.update(done - self.bar.n)

    def say(self, line: str, unusual: bool = True) -> None:
        """A line of its own; in a terminal, where a bar shows the usual, only what is not."""
        terminal = sys.stderr.isatty()
        if self.bar is not None and unusual:
            self.bar.write(f"  {line}", file=sys.stderr)
        elif unusual or not terminal:
            print(f"  {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar of the last stage."""
        if self.bar is not None:
            self.bar.close()
            self.bar, self.stage = None, ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
