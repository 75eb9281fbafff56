"""Write the members of an archive into a fresh folder, each held against the rules of names, sizes and links."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from pathlib import Path
from typing import IO, TYPE_CHECKING

from strfcube.unpacking import bounds
from strfcube.unpacking.members import members
from strfcube.unpacking.refusals import AGAIN, refusal, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from strfcube.unpacking.bounds import Budget
    from strfcube.unpacking.members import Member

OURS = ".strfcube"  # how the names of strfcube's own hidden files begin
WINDOWS = re.compile(r'(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?|.*[. ]|.*[\x00-\x1f<>:"|?*].*', re.DOTALL)


def fill(folder: Path, archive: Path, budget: Budget) -> list[str]:
    """Write every member of an archive into a fresh folder.

    Parameters
    ----------
    folder : Path
        Empty, and nobody else's.
    archive : Path
        Zip or tar.
    budget : Budget
        What may be written.

    Returns
    -------
    list of str
        What is odd about the names, one line a kind.

    Raises
    ------
    FetchError
        As `strfcube.unpacking.unpack.unpack` says.
    """
    odd: dict[str, list[str]] = {}
    links: dict[tuple[str, ...], tuple[str, ...]] = {}
    files = 0
    for member in members(archive, budget):
        budget.entry()
        parts = _parts(member.name, archive)
        if member.guessed:
            odd.setdefault(f"not UTF-8, and read as {member.guessed}", []).append("/".join(parts))
        if any(map(WINDOWS.fullmatch, parts)):
            if os.name == "nt":
                raise refusal(
                    archive, f"member {shown(member.name)} has a name that Windows cannot hold", "unpack it elsewhere"
                )
            odd.setdefault("one that Windows cannot hold", []).append("/".join(parts))
        if "__MACOSX" in parts or (parts and (parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Icon\r"))):
            for piece in member.pieces():
                budget.take(len(piece))
        elif member.kind == "folder":
            _folder(folder, parts, archive, budget)
        elif not parts:
            raise refusal(archive, f"member {shown(member.name)} has no name")
        elif member.kind == "link":
            links[parts] = _parts(member.target, archive, f"member {shown(member.name)} links to")
            if len(links) > bounds.LINKS:
                raise refusal(archive, f"it has more than {bounds.LINKS:,} links")
        else:
            _file(_folder(folder, parts[:-1], archive, budget) + os.sep + parts[-1], member, archive, budget)
            files += 1
    if not files:
        raise refusal(archive, "it holds no file", AGAIN)
    for parts, target in links.items():
        _link(folder, parts, _followed(target, links), archive, budget)
    for names in _alike(str(folder)):
        odd.setdefault("different by case or accents only", []).extend(names)
    return [_note(names, what) for what, names in odd.items()]


def _note(names: list[str], what: str) -> str:
    first = shown(names[0])
    return f"the name {first} is {what}" if len(names) == 1 else f"{len(names):,} names are {what}, such as {first}"


def _parts(name: str, archive: Path, who: str = "") -> tuple[str, ...]:
    """The folders and the name of a member, checked: none leads out of the folder that is unpacked into."""
    said = f"{who or 'member'} {shown(name)}"
    path = name.replace("\\", "/")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path):
        raise refusal(archive, f"{said}{',' if who else ''} {'which is' if who else 'would be'} outside the folder")
    if "\0" in path:
        raise refusal(archive, f"{said} has a NUL in its name")
    if any(part.casefold().startswith(OURS) for part in parts):
        raise refusal(archive, f"{said} has a name of strfcube's own files ({OURS}...)")
    sizes = [len(part.encode()) for part in parts]
    if len(parts) > bounds.DEPTH or sum(sizes) + len(sizes) > bounds.PATH or max(sizes, default=0) > bounds.PART:
        limits = f"{bounds.PART} bytes a name, {bounds.DEPTH} folders, {bounds.PATH} bytes in all"
        raise refusal(archive, f"{said} has too long a path (at most {limits})", "unpack it by hand")
    return parts


def _folder(folder: Path, parts: tuple[str, ...], archive: Path, budget: Budget) -> str:
    """Make the folders of a path, and give it."""
    path = str(folder)
    for part in parts:
        path = path + os.sep + part
        try:
            os.mkdir(path)
            budget.entry()
        except FileExistsError:
            if not os.path.isdir(path):
                raise refusal(archive, f"{shown('/'.join(parts))} is both a file and a folder") from None
    return path


def _file(path: str, member: Member, archive: Path, budget: Budget) -> None:
    """Write a file, and hold it against what is declared of it."""
    size = 0
    try:
        with open(path, "xb") as out:
            for piece in member.pieces():
                budget.take(len(piece))
                out.write(piece)
                size += len(piece)
    except FileExistsError:
        if os.path.isdir(path):
            raise refusal(archive, f"{shown(member.name)} is both a file and a folder") from None
        with open(path, "rb") as first:
            if not _same(first, member.pieces(), budget):
                what = f"{shown(member.name)} is there twice, with different content"
                raise refusal(archive, what, "unpack it by hand, and choose") from None
    else:
        if size != member.size:
            raise refusal(
                archive, f"member {shown(member.name)} has {size:,} bytes and declares {member.size:,}", AGAIN
            )


def _same(file: IO[bytes], pieces: Iterator[bytes], budget: Budget) -> bool:
    """Whether a file has the content of a member; the member is read to its end."""
    same = True
    for piece in pieces:
        budget.take(len(piece))
        same &= file.read(len(piece)) == piece
    return same and not file.read(1)


def _followed(target: tuple[str, ...], links: dict[tuple[str, ...], tuple[str, ...]]) -> tuple[str, ...]:
    for _ in range(40):
        if target not in links:
            break
        target = links[target]
    return target


def _link(folder: Path, parts: tuple[str, ...], target: tuple[str, ...], archive: Path, budget: Budget) -> None:
    """Give a file of the archive a second name, or a copy where the disk has no second names."""
    source, name = folder.joinpath(*target), shown("/".join(parts))
    if not source.is_file():
        raise refusal(archive, f"member {name} links to {shown('/'.join(target))}, which is no file of the archive")
    path = Path(_folder(folder, parts[:-1], archive, budget), parts[-1])
    if os.path.lexists(path):
        raise refusal(archive, f"{name} is both a link and another member")
    try:
        os.link(source, path)
    except OSError:
        budget.declared(source.stat().st_size, name)
        budget.take(source.stat().st_size)
        shutil.copyfile(source, path)


def _alike(folder: str) -> Iterator[list[str]]:
    """Names of one folder that differ by case or Unicode normalisation only, for each folder."""
    for place, folders, files in os.walk(folder):
        groups: dict[str, list[str]] = {}
        for name in sorted(folders + files):
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
            groups.setdefault(folded, []).append(name)
        above = "" if place == folder else os.path.relpath(place, folder) + "/"
        yield from ([above + name for name in group] for group in groups.values() if len(group) > 1)
