"""Which files lie in the folder of a cube, and which of them are not the cube's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strfcube.cube.metadata import NO_FILE, Root, arrays, keys, plain, strange
from strfcube.errors import StoreError, refusal
from strfcube.transport.connect import connect
from strfcube.transport.remote_files import Remote

if TYPE_CHECKING:
    from strfcube.transport.connect import Transport

# What file managers and network file systems leave in every folder that somebody looks at
_LITTER = (".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini")
_NAMED = 5


@dataclass(frozen=True)
class Listing:
    """What the folder of a cube lacks, and what it holds that is not the cube's.

    Attributes
    ----------
    missing : list of str
        Files of the cube that are not there.
    others : list of str
        Files and folders that are not of the cube; of a folder, nothing that is in it.
    refused : list of str
        Folders that cannot be listed, and why, one sentence each.
    """

    missing: list[str]
    others: list[str]
    refused: list[str]


def listing(files: Transport, root: Root) -> Listing:
    """Hold what lies in the folder of a cube against what was built."""
    expected = {"zarr.json"} | {f"{name}/zarr.json" for name in root.known if plain(name)}
    built: list[str] = []
    for name, node in arrays(root.nodes).items():
        if strange(node) or not plain(name) or name not in root.known:
            continue
        ends = root.ends(name)
        for number, key in enumerate(keys(node)):
            expected.add(f"{name}/{key}")
            if ends is not None and ends[8 * number : 8 * number + 8] != NO_FILE:
                built.append(f"{name}/{key}")
    undescribed = tuple(f"{name}/" for name in root.known - root.nodes.keys())  # of which nobody knows the files
    if isinstance(files, Remote):
        names = files.names()
        if names is None:
            return Listing([], [], [])
        there = set(names)
        names = [key for key in names if not key.startswith(undescribed)]
        missing = [key for key in built if key not in there]
        others = [key for key in names if key not in expected and key.rpartition("/")[2] not in _LITTER]
        return Listing(missing, others, [])
    folder = _Folder(files.url)
    others, refused = folder.others(expected)
    others = [key for key in others if not key.startswith(undescribed)]
    return Listing([key for key in built if not folder.has(key)], others, refused)


def see_own(place: str, root: Root) -> None:
    """Stop where a cube that is about to be replaced holds what somebody else put there.

    What lies among the files of an array, such as shards of another build, goes with it.

    Raises
    ------
    StoreError
        That names what would be lost.
    """
    others = listing(connect(place, cache_dir=""), root).others
    mine = tuple(f"{name}/" for name in root.known - {"trials", "audio", "findings"})
    if lost := [name for name in others if not name.startswith(mine)]:
        more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
        raise StoreError(
            f"{place} holds what is not of the cube, and would be lost with it: {', '.join(lost[:_NAMED])}{more}; move "
            "that elsewhere, or remove it, then give the same command"
        )


class _Folder:
    """A local cube's files."""

    def __init__(self, path: str) -> None:
        self.path = path

    def has(self, key: str) -> bool:
        try:
            os.stat(f"{self.path}/{key}")
        except OSError as error:
            return bool(refusal(error))  # whoever reads it says so
        return True

    def others(self, expected: set[str]) -> tuple[list[str], list[str]]:
        """Files and folders that are not expected, no folder of which is entered, and folders that cannot be listed."""
        folders = {""}
        for key in expected:
            above = key.rpartition("/")[0]
            while above not in folders:
                folders.add(above)
                above = above.rpartition("/")[0]
        found: list[str] = []
        refused: list[str] = []
        todo = [""]
        while todo:
            folder = todo.pop()
            try:
                entries = sorted(os.scandir(f"{self.path}/{folder}"), key=lambda e: e.name)
            except OSError as error:
                refused.append(f"'{folder or '.'}' cannot be listed ({error.strerror})")
                continue
            for entry in entries:
                key = f"{folder}/{entry.name}".lstrip("/")
                if key in folders and os.path.isdir(entry.path):
                    todo.append(key)
                elif key not in expected and entry.name not in _LITTER:
                    found.append(key)
        return found, refused


def told(names: list[str], one: str, many: str) -> list[str]:
    """Say the same of some names, one sentence each, and of the rest in one."""
    found = [f"'{name}' {one}" for name in names[:_NAMED]]
    if len(names) > _NAMED:
        found.append(f"{len(names) - _NAMED:,} more files {many}")
    return found
