"""Unpacking archives (a placeholder, plain and safe, until the checked one replaces it)."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from typing import TYPE_CHECKING

from strfcube.errors import FetchError

if TYPE_CHECKING:
    from pathlib import Path


def unpack(archive: Path, into: Path, *, published: int | None = None) -> None:
    """Unpack an archive (zip, tar, tar.gz; told by content) into the folder `into`, which appears whole or not at all.

    Raises
    ------
    FetchError
        If it is no archive, is damaged, or a member would leave the folder.
    """
    partial = into.with_name(f".{into.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(partial)
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(partial, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise FetchError(f"{archive}: cannot be unpacked: {error}") from error
    os.rename(partial, into)
