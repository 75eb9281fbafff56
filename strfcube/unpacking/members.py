"""What an archive holds, one member after another: zip and tar, told by their content."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strfcube.errors import FetchError
from strfcube.unpacking import bounds
from strfcube.unpacking.refusals import AGAIN, damaged, refusal, shown
from strfcube.unpacking.tar_stream import Tape, Unpressed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from strfcube.unpacking.bounds import Budget

XZ_MEMORY = 100 * 2**20  # bytes; xz -9 needs 65 MiB
# What is found in place of an archive, by its first bytes.
OTHERS = {
    b"": "is empty",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive",
    b"Rar!": "is a RAR archive",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd",
    b"\x1f\x9d": "is compressed with compress (.Z)",
    b"PK\x07\x08": "is one part of a zip in several",
    b"<": "is a page of a web site",
    b"{": "is a JSON text",
}
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}
KINDS = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a FIFO"}


@dataclass(frozen=True)
class Member:
    """One member of an archive.

    Attributes
    ----------
    name : str
        Its path as the archive has it.
    kind : {"file", "folder", "link"}
    size : int
        Declared bytes of a file.
    pieces : callable
        Gives the content of a file, piece by piece; to be used up before the next member is asked for.
    target : str
        Of a link: the path, from the root of the archive, that it links to.
    guessed : str
        How the name was read, where it is not UTF-8.
    """

    name: str
    kind: str
    size: int = 0
    pieces: Callable[[], Iterator[bytes]] = lambda: iter(())
    target: str = ""
    guessed: str = ""


def members(archive: Path, budget: Budget) -> Iterator[Member]:
    """Each member of a zip or tar, the latter as it is or compressed with gzip, bzip2 or xz.

    Parameters
    ----------
    archive : Path
        The archive; its name tells nothing.
    budget : Budget
        What may be unpacked; declared sizes are held against it first.

    Yields
    ------
    Member
        Its name has not been checked.

    Raises
    ------
    FetchError
        If the file is neither, or damaged, cut off, encrypted, or of a kind that is not unpacked.
    """
    with open(archive, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if _is_tar(head):
        with open(archive, "rb") as file:
            yield from _tar(archive, file.read, budget)
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _zip(archive, budget)
    elif head.startswith(b"\x1f\x8b"):
        with gzip.open(archive, "rb") as unpressed:
            yield from _tar(archive, unpressed.read, budget)
    elif head.startswith((b"BZh", b"\xfd7zXZ\x00")):
        with open(archive, "rb") as file:
            xz = head.startswith(b"\xfd")
            new = (lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)) if xz else bz2.BZ2Decompressor
            yield from _tar(archive, Unpressed(file, new).read, budget)
    else:
        kind = next((k for magic, k in OTHERS.items() if magic and head.lstrip().startswith(magic)), None)
        what = f"it {kind or 'is empty'}" if kind or not head else "it begins like no archive"
        raise refusal(archive, f"{what}; expected a zip or a tar (as it is, or with gzip, bzip2 or xz)", AGAIN)


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # by the checksum of the first header
    except tarfile.TarError:
        return len(head) == tarfile.BLOCKSIZE and not any(head)  # a tar of nothing begins with its end
    except Exception:
        return False
    return True


def _zip(archive: Path, budget: Budget) -> Iterator[Member]:
    _check_directory(archive)
    try:
        opened = zipfile.ZipFile(archive)
    except UnicodeDecodeError as error:
        name = shown(error.object.decode("utf-8", "backslashreplace"))
        raise refusal(archive, f"the name of member {name} is marked as UTF-8 and is not", AGAIN) from error
    except Exception as error:  # the standard library's readers raise a dozen kinds over hostile bytes
        raise damaged(archive, "its directory", error) from error
    with opened:
        infos = opened.infolist()
        _check_places(archive, infos, opened.start_dir)
        budget.declared(sum(info.file_size for info in infos), "it")
        for info in infos:
            yield _zip_member(archive, opened, info)


def _check_directory(archive: Path) -> None:
    """The end of a zip, and the size of its directory, before all of that is read into memory."""
    with open(archive, "rb") as file:
        size = file.seek(0, 2)
        start = max(size - 2**16 - 98, 0)  # the longest comment, the end record, and zip64's locator and record
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + 22 > len(tail):
            raise refusal(archive, "the zip is cut off: its end is missing", AGAIN)
        directory, _, comment = struct.unpack("<2LH", tail[at + 12 : at + 22])
        stop = start + at + 22 + comment
        if stop != size:
            what = "is cut off" if stop > size else f"ends {size - stop:,} bytes before the file does"
            raise refusal(archive, f"the zip {what}", AGAIN)
        long = at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07" and tail[at - 76 : at - 72] == b"PK\x06\x06"
        if long:
            (directory,) = struct.unpack("<Q", tail[at - 76 + 40 : at - 76 + 48])
        if directory <= bounds.DIRECTORY:
            file.seek(max(start + at - directory - 76 * long, 0))
            if file.read(directory).count(b"PK\x01\x02") <= bounds.ENTRIES:
                return
    raise refusal(archive, f"the zip lists more than {bounds.ENTRIES:,} members")


def _check_places(archive: Path, infos: list[zipfile.ZipInfo], end: int) -> None:
    """Every byte of a zip belongs to one member: no two share any, and none comes before the first."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    starts = [*(info.header_offset for info in ordered), end]
    if starts[0] != 0:
        raise refusal(archive, "the zip begins with bytes that are no member's", AGAIN)
    for info, after in zip(ordered, starts[1:], strict=True):
        name = shown(info.orig_filename)
        if info.header_offset + 30 + info.compress_size > after:
            raise refusal(archive, f"member {name} lies over the next one")
        if info.flag_bits & 0x41:
            raise refusal(archive, f"member {name} is encrypted", "unpack it by hand with its password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = METHODS.get(info.compress_type, f"method {info.compress_type}")
            what = f"member {name} is compressed with {method}, which strfcube does not unpack"
            raise refusal(archive, what, "unpack it by hand, for example with 7z")


def _zip_member(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name, guessed = info.orig_filename, ""
    if not info.flag_bits & 0x800 and not name.isascii():
        try:  # many programs write UTF-8 without saying so
            name = name.encode("cp437").decode("utf-8")
        except UnicodeDecodeError:
            guessed = "code page 437"

    def pieces() -> Iterator[bytes]:
        try:
            with opened.open(info) as file:
                while piece := file.read(bounds.CHUNK):
                    yield piece
        except Exception as error:
            raise damaged(archive, f"member {shown(name)}", error) from error

    mode = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(mode):
        target = next(pieces(), b"")[: bounds.PATH + 1].decode("utf-8", "replace")
        return Member(name, "link", target=_from_root(name, target), guessed=guessed)
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise refusal(archive, f"member {shown(name)} is a device, a FIFO or a socket")
    if name.endswith(("/", "\\")) or stat.S_ISDIR(mode):
        if info.file_size:
            raise refusal(archive, f"member {shown(name)} is a folder and has content", AGAIN)
        return Member(name, "folder", guessed=guessed)
    return Member(name, "file", info.file_size, pieces, guessed=guessed)


def _tar(archive: Path, read: Callable[[int], bytes], budget: Budget) -> Iterator[Member]:
    tape: Any = Tape(archive, read, budget.most + bounds.HEADERS)
    before = "its beginning"

    def following(opened: tarfile.TarFile | None) -> Any:
        """Go on to the next header; without an archive yet, to the first."""
        tape.left = bounds.HEADER
        try:
            if opened is None:
                return tarfile.TarFile(fileobj=tape, mode="r", encoding="utf-8", errors="surrogateescape")
            return opened.next()
        except FetchError:
            raise
        except Exception as error:
            what = "what it compresses is no tar, or" if opened is None and tape.at <= 512 else f"what follows {before}"
            raise damaged(archive, what, error) from error

    with closing(following(None)) as opened:
        while (info := following(opened)) is not None:
            opened.members = []  # tarfile would remember every one
            member = _tar_member(archive, opened, info, tape)
            before = f"member {shown(member.name)}"
            if member.kind == "file":
                budget.declared(member.size, before)
                tape.left = member.size + tarfile.BLOCKSIZE
            yield member
    if tape.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
        what = "a damaged header" if tape.last else "no end mark"
        raise refusal(archive, f"{what} follows {before}: the tar is damaged or cut off", AGAIN)
    tape.left, end = tape.most, tape.at
    while rest := tape.read(bounds.CHUNK):  # to the end, where the checksum of the compression is
        if rest.strip(b"\0") or tape.at - end > bounds.PADDING:
            raise refusal(archive, "the tar ends before the file does: something else follows", AGAIN)


def _tar_member(archive: Path, opened: tarfile.TarFile, info: tarfile.TarInfo, tape: Tape) -> Member:
    name, guessed = _text(info.name)

    def pieces() -> Iterator[bytes]:
        try:
            with opened.fileobject(opened, info) as file:
                while piece := file.read(bounds.CHUNK):
                    yield piece
        except FetchError:
            raise
        except Exception as error:
            raise damaged(archive, f"member {shown(name)}", error) from error

    if info.isreg():
        if info.size < 0:
            raise refusal(archive, f"member {shown(name)} declares {info.size} bytes", AGAIN)
        return Member(name, "file", info.size, pieces, guessed=guessed)
    if info.isdir():
        return Member(name, "folder", guessed=guessed)
    if info.islnk() or info.issym():
        target, _ = _text(info.linkname)
        return Member(name, "link", target=_from_root(name, target) if info.issym() else target, guessed=guessed)
    raise refusal(archive, f"member {shown(name)} is {KINDS.get(info.type, f'of an unknown type {info.type!r}')}")


def _text(name: str) -> tuple[str, str]:
    """A name of a tar as text that any file can hold, and how it was read where it is not UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1"), "Latin-1"
    return name, ""


def _from_root(name: str, target: str) -> str:
    """Where a symbolic link leads, from the root of the archive."""
    name, target = name.replace("\\", "/"), target.replace("\\", "/")
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
