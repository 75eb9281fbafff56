"""How much an archive may unpack to: every bound, and the count that holds an unpacking to them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from strfcube.unpacking.refusals import refusal

if TYPE_CHECKING:
    from pathlib import Path

    from strfcube.errors import FetchError

# Unpacked bytes at most: RATIO times the archive's published size, or FLOOR where that is less. Recordings unpack to
# two to ten times their size, text of spike times to less than twenty; a bomb to a thousand times and more.
RATIO = 100
FLOOR = 256 * 2**20
SPARE = 64 * 2**20  # bytes that stay free on the disk
ENTRIES = 150_000  # files and folders; the largest data set has 40,000
LINKS = 10_000
PATH, PART, DEPTH = 1000, 255, 64  # bytes of a member's path and of one name in it, and how many names deep
HEADER = 128 * 2**10  # bytes of the headers of one member of a tar
HEADERS = 512 * 2**20  # bytes of all headers of a tar, and what fills its blocks
PADDING = 16 * 2**20  # bytes of zeros after the end mark of a tar; the largest blocks of tapes are smaller
DIRECTORY = 24 * 2**20  # bytes of a zip's central directory, which is held in memory
CHUNK = 2**20  # bytes in memory at a time
CHECK = 16 * 2**20  # bytes written between two looks at the free disk


class Budget:
    """What an unpacking may still write.

    Parameters
    ----------
    archive : Path
        The archive; its size counts where none is published.
    folder : Path
        A folder on the disk that is written.
    published : int, optional
        Bytes of the archive as its publisher states them.

    Raises
    ------
    FetchError
        By every method, once a bound is passed.
    """

    def __init__(self, archive: Path, folder: Path, published: int | None) -> None:
        self.archive, self.folder = archive, folder
        self.packed = published or archive.stat().st_size
        self.most = max(RATIO * self.packed, FLOOR)
        self._bytes = self._entries = self._unchecked = 0

    def declared(self, size: int, what: str) -> None:
        """Take note of a size that the archive declares, before a byte of it is written."""
        if self._bytes + size > self.most:
            raise self._too_much(f"{what} declares {size:,} bytes")
        self._room(size, what)

    def take(self, size: int) -> None:
        """Count bytes that are about to be written."""
        self._bytes += size
        self._unchecked += size
        if self._bytes > self.most:
            raise self._too_much("its members unpack to more")
        if self._unchecked >= CHECK:
            self._room(0, "it")

    def entry(self) -> None:
        """Count a file or folder that is about to be made."""
        self._entries += 1
        if self._entries > ENTRIES:
            raise refusal(self.archive, f"it has more than {ENTRIES:,} files and folders")
        if self._entries % 1000 == 0:
            self._room(0, "it")

    def _room(self, size: int, what: str) -> None:
        self._unchecked = 0
        free = shutil.disk_usage(self.folder).free
        if size + SPARE > free:
            needs = f"{what} needs {size + SPARE:,} bytes (of which {SPARE:,} stay free)"
            todo = "free space, or name another folder"
            raise refusal(self.archive, f"no room: {needs}, and {free:,} are free in {self.folder}", todo)

    def _too_much(self, why: str) -> FetchError:
        may = f"an archive of {self.packed:,} bytes may unpack to {self.most:,}"
        return refusal(self.archive, f"{why}, and {may}")
