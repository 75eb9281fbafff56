"""Which files lie in the folder of a cube, and which of them are not the cube's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from strfcube.cube.metadata import NO_FILE, Root, arrays, keys, plain, strange
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from strfcube.transport.connect import Transport

# What file managers and network file systems leave in every folder that somebody looks at
_LITTER = (".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini")
_NAMED = 5


def strays(files: Transport, root: Root) -> tuple[list[str], list[str]]:
    """Groups and arrays that the cube does not know, and what is wrong with the files in its folder.

    Returns
    -------
    unknown : list of str
        Their paths within the cube.
    found : list of str
        One sentence each: files that are not there, files and folders too many.
    """
    expected = {"zarr.json"} | {f"{name}/zarr.json" for name in root.nodes if plain(name)}
    built: list[str] = []
    for name, node in arrays(root.nodes).items():
        if strange(node) or not plain(name):
            continue
        ends = root.ends(name)
        for number, key in enumerate(keys(node)):
            expected.add(f"{name}/{key}")
            if ends is not None and ends[8 * number : 8 * number + 8] != NO_FILE:
                built.append(f"{name}/{key}")
    if isinstance(files, Remote):
        names = files.names()
        if names is None:
            return [], []
        there = set(names)
        missing = [key for key in built if key not in there]
        others = [key for key in names if key not in expected and key.rpartition("/")[2] not in _LITTER]
        unknown = [key.removesuffix("/zarr.json") for key in others if key.endswith("/zarr.json")]
    else:
        folder = _Folder(files.url)
        missing = [key for key in built if not folder.has(key)]
        unknown, others = folder.others(expected)
    return unknown, _told(missing, "is missing", "are missing") + _told(
        others, "is not of the cube", "are not of the cube"
    )


class _Folder:
    """A local cube's files."""

    def __init__(self, path: str) -> None:
        self.path = path

    def has(self, key: str) -> bool:
        return os.path.isfile(f"{self.path}/{key}")

    def others(self, expected: set[str]) -> tuple[list[str], list[str]]:
        """Folders with metadata, and all files and folders, that are not expected; no folder of those is entered."""
        folders = {""}
        for key in expected:
            above = key.rpartition("/")[0]
            while above not in folders:
                folders.add(above)
                above = above.rpartition("/")[0]
        unknown: list[str] = []
        found: list[str] = []
        todo = [""]
        while todo:
            folder = todo.pop()
            try:
                entries = sorted(os.scandir(f"{self.path}/{folder}"), key=lambda e: e.name)
            except OSError as error:
                found.append(f"{folder} ({error.strerror})")
                continue
            for entry in entries:
                key = f"{folder}/{entry.name}".lstrip("/")
                if key in folders and os.path.isdir(entry.path):
                    todo.append(key)
                elif key not in expected and entry.name not in _LITTER:
                    found.append(key)
                    if os.path.isfile(f"{entry.path}/zarr.json") and not entry.is_symlink():
                        unknown.append(key)
        return unknown, found


def _told(names: list[str], one: str, many: str) -> list[str]:
    found = [f"'{name}' {one}" for name in names[:_NAMED]]
    if len(names) > _NAMED:
        found.append(f"{len(names) - _NAMED:,} more files {many}")
    return found
