"""A stream that is read once, forward, and within bounds: what the tar of an unknown is read from."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from strfcube.unpacking import bounds
from strfcube.unpacking.refusals import damaged, refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Tape:
    """A tar that is read once, forward, and never more of it than is due.

    `tarfile` reads a header of any size in one go, walks back where a size is negative, and skips without end. Here
    `left` bytes may be read until it is set again, and `most` in all.
    """

    def __init__(self, archive: Path, read: Callable[[int], bytes], most: int) -> None:
        self.archive, self.most, self.left = archive, most, 0
        self.at, self.last = 0, b""
        self._read = read

    def tell(self) -> int:
        """Bytes read so far."""
        return self.at

    def seekable(self) -> bool:
        """Say yes, for `tarfile` to ask for places that are ahead."""
        return True

    def seek(self, to: int) -> int:
        """Read on to a place."""
        if to < self.at:
            raise refusal(self.archive, "a member of the tar lies before the one it follows")
        while self.at < to and self.read(min(to - self.at, bounds.CHUNK)):
            pass
        return self.at

    def read(self, size: int) -> bytes:
        """Give so many bytes; fewer at the end only."""
        if not 0 <= size <= self.left:
            raise refusal(self.archive, f"a header of the tar is longer than {bounds.HEADER:,} bytes")
        pieces = []
        while size > 0:
            try:
                piece = self._read(min(size, bounds.CHUNK))
            except Exception as error:
                raise damaged(self.archive, "it", error) from error
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
            self.at += len(piece)
            self.left -= len(piece)
        if self.at > self.most:
            raise refusal(self.archive, f"the tar is longer than {self.most:,} bytes")
        self.last = b"".join(pieces)
        return self.last


class Unpressed:
    """The content of a bzip2 or xz file: one stream after another, an error where something else follows."""

    def __init__(self, file: IO[bytes], new: Callable[[], Any]) -> None:
        self._file, self._new, self._decoder = file, new, new()

    def read(self, size: int) -> bytes:
        """Give up to so many bytes; none at the end."""
        while True:
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data.lstrip(b"\0") or self._file.read(bounds.CHUNK).lstrip(b"\0")
                if not data:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input:
                data = self._file.read(bounds.CHUNK)
                if not data:
                    raise EOFError("it ends in the middle of its compressed data")
            piece: bytes = self._decoder.decompress(data, size)
            if piece:
                return piece
