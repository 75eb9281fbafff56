"""Parts of a build, for job arrays: each does its share of the stage that is due, beside the others and in any order.

The first share is of the raw files. Once all of them are read, the same command writes a share of the cube. What a part
did not do, whoever finishes the cube does, or says that it is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strfcube.builder.workplace import recover, resume_or_restart, same_as_begun, spools_in
from strfcube.errors import StrfcubeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from strfcube.builder.request import Request
    from strfcube.builder.tasks import Task

_BEGUN = "part-{}-of-{}.begun"


class PartsError(StrfcubeError):
    """What the parts of a build left cannot be used as it is, and stays."""


@dataclass(frozen=True)
class Part:
    """One of several equal parts.

    Attributes
    ----------
    number, count : int
        Which, from 1 on, of how many.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """From ``I/N``.

        Raises
        ------
        UsageError
            If it is not that.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        part = cls(int(found[1]), int(found[2])) if found else None
        if part is None or not 1 <= part.number <= part.count:
            raise UsageError(f"part {text!r}: give I/N, with I from 1 to N")
        return part

    def __str__(self) -> str:
        return f"{self.number} of {self.count}"

    @property
    def file_name(self) -> str:
        """As part of one."""
        return f"{self.number}-of-{self.count}"

    def of(self, tasks: Sequence[Task]) -> list[Task]:
        """Its share."""
        return list(tasks[self.number - 1 :: self.count])


def begin(request: Request, part: Part, work: Path, spool: str | None) -> None:
    """Make the work folder that of this build, or see that it is; and note that this part was begun.

    Raises
    ------
    PartsError
        If an unfinished build of another recipe, or of other raw files, lies there, or its spools lie elsewhere.
    """
    recover(work, request.target)
    see_same(request, work)
    if spool is not None and list(work.glob(_BEGUN.format("*", "*"))) and not spools_in(work, spool):
        raise PartsError(f"--spool {spool}: the first part put what it read elsewhere; give each part the same")
    resume_or_restart(work, request.recipe, request.fingerprint, request.command, spool)
    (work / _BEGUN.format(part.number, part.count)).touch()


def see_same(request: Request, work: Path) -> None:
    """Refuse to touch an unfinished build of another recipe, or of other raw files.

    Raises
    ------
    PartsError
        If one lies there.
    """
    if same_as_begun(work, request.recipe, request.fingerprint) is False:
        raise PartsError(
            f"{work} holds parts of a build of another recipe or version, or of raw files that changed since: give "
            f"each part and --finalise the same flags; or give another --out, or remove {work}"
        )


def see_complete(request: Request, tasks: Sequence[Task], done: Collection[str], work: Path) -> None:
    """Say which parts have to be run before the cube can be finished.

    Raises
    ------
    PartsError
        If a task is not done.
    """
    left = [number for number, task in enumerate(tasks) if task.name not in done]
    if not left:
        return
    begun = sorted(work.glob(_BEGUN.format("*", "*")), key=lambda path: path.stat().st_mtime_ns)
    if not begun:
        raise PartsError(f"no part of this build was run: run each of {_command(request, '1/N')} to N/N first")
    count = int(begun[-1].name.removesuffix(".begun").rpartition("-")[2])
    missing = sorted({number % count + 1 for number in left})
    which = f"part {missing[0]} of {count} is" if len(missing) == 1 else f"parts {_ranges(missing)} of {count} are"
    then = "" if len(missing) == 1 else ", and so on"
    raise PartsError(
        f"{which} missing, or did not end ({len(left)} of {len(tasks)} sources are not read): run "
        f"{_command(request, f'{missing[0]}/{count}')}{then}"
    )


def _command(request: Request, part: str) -> str:
    if request.entry is None:
        return f"{request.command}, with part={part!r}"
    return f"`{request.command} --part {part}`"


def _ranges(numbers: Sequence[int]) -> str:
    """As ``sbatch --array`` takes them: 1,3-5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
