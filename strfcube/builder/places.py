"""Where a cube is put together and gets its name: a folder beside a local one, or the URL itself.

Both have a work folder on this machine, for what is read from the raw files and for what zarr writes (metadata and
labels). A local cube is whole in it, and is renamed into place. At a URL nothing is renamed: workers put shards where
they belong, the ledger of what is written lies beside the cube under ``<cube>.building/``, and the root metadata come
last.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from strfcube.builder import workplace
from strfcube.builder.lease import KEY, Lease, LostLeaseError
from strfcube.builder.ledger import DamagedError, Files, Ledger, Record, keep_only, settle
from strfcube.cube.store import BEGUN
from strfcube.errors import StoreError
from strfcube.transport.local_files import Version
from strfcube.transport.remote_files import NoConditionsError, OutOfReachError
from strfcube.transport.urls import remote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

SAVED = "saved"  # in place of a version in the stamp of what is not built: nobody goes on with it
_OFTEN = 16  # entries that are put one by one
_SHARE = 0.02  # of its time may a build lose when it is killed, for want of an entry


class Place(Protocol):
    """Where one cube is put together.

    Attributes
    ----------
    target : str
        Path or URL of the cube.
    work : path
        Folder of this machine for what is not the cube.
    draft : path
        Folder of this machine in which zarr writes metadata and labels.
    shards : str
        Path or URL that shards are written to.
    """

    target: str
    work: Path
    draft: Path
    shards: str

    def alone(self) -> AbstractContextManager[None]:
        """One build at a time; the second waits."""

    def beside(self, part: str, begin: Callable[[], bool]) -> AbstractContextManager[bool]:
        """A part of a build, as `strfcube.builder.workplace.sharing` has it."""

    def left(self) -> bool:
        """Whether an unfinished build, or what one that is done did not clear away, lies there."""

    def see(self, stamp: bytes, *, force: bool) -> None:
        """Stop where something else lies that only a forced build, or none, may replace."""

    def begin(self, stamp: bytes, command: str, *, fresh: bool) -> None:
        """Take the place for the cube of a stamp; `fresh` where nobody else has written to the draft."""

    def record(self) -> AbstractContextManager[Record]:
        """The ledger of what was written, after `begin`."""

    def settle(self, files: Files) -> None:
        """See that shards are there and whole, and make the rest of the cube durable, but for its name."""

    def publish(self) -> None:
        """Give the cube its name, and clear the rest away."""

    def discard(self) -> None:
        """Clear everything away."""


def place(target: str, work: Path | None = None) -> Place:
    """The place of a path or URL.

    Parameters
    ----------
    work : path, optional
        Where `strfcube.builder.workplace.work_folder` does not put the work folder.
    """
    work = workplace.work_folder(target) if work is None else work
    return Far(target, work) if "://" in target else Near(target, work)


class Near:
    """A local folder."""

    def __init__(self, target: str, work: Path) -> None:
        self.target, self.work = target, work
        self.draft = work / "store.zarr"
        self.shards = str(self.draft)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One build at a time; the second waits."""
        with workplace.locked(self.work):
            workplace.recover(self.work, self.target)
            yield

    def beside(self, part: str, begin: Callable[[], bool]) -> AbstractContextManager[bool]:
        """A part of a build."""
        return workplace.sharing(self.work, part, begin)

    def left(self) -> bool:
        """Whether an unfinished build lies there."""
        return self.work.exists()

    def see(self, stamp: bytes, *, force: bool) -> None:
        """Nothing: the folder of the cube itself is not touched."""

    def begin(self, stamp: bytes, command: str, *, fresh: bool) -> None:
        """Remove all that no entry vouches for."""
        if fresh:
            entries = Ledger(self.work / "write", self.shards).read()
            keep_only(self.shards, [key for entry in entries.values() for key in entry["files"]])

    @contextmanager
    def record(self) -> Iterator[Record]:
        """The ledger of what was written."""
        yield Ledger(self.work / "write", self.shards)

    def settle(self, files: Files) -> None:
        """See that shards are there and whole, and force everything to the disk."""
        settle(self.draft, files)

    def publish(self) -> None:
        """Put the folder into its place."""
        workplace.publish(self.shards, self.target, self.work)

    def discard(self) -> None:
        """Remove the work folder."""
        workplace.discard(self.work)


class Far:
    """A URL, of which nobody has more than single puts, under a condition where the server knows these."""

    def __init__(self, target: str, work: Path) -> None:
        self.target, self.work, self.shards = target, work, target
        self.draft = work / "store.zarr"
        self._cube, self._aside = remote(target), remote(f"{target}.building")
        self._there: dict[str, Version] = {}  # of the cube; what else is put there, its entries vouch for
        self._left: dict[str, Version] = {}  # beside it
        self._lease: Lease | None = None
        self._said: dict[str, Any] = {}  # there, of what is being built
        self._stamp = ""
        self._begun = False  # whether what lies there is no cube any more, for this build's sake

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One build at a time, on this machine and elsewhere; the second waits."""
        with workplace.locked(self.work), self._leased(keep=False):
            yield

    @contextmanager
    def beside(self, part: str, begin: Callable[[], bool]) -> Iterator[bool]:
        """A part of a build: all that share a work folder share the lease."""
        with workplace.sharing(self.work, part, begin) as due:
            if not due:
                yield False
                return
            with self._leased(keep=True):
                yield True

    @contextmanager
    def _leased(self, *, keep: bool) -> Iterator[None]:
        self._lease = Lease(self._aside, self.target, workplace.token(self.work))
        with self._lease.held(keep=keep):
            self._left = self._aside.objects()
            self._there = self._cube.objects()
            yield

    def left(self) -> bool:
        """Whether an unfinished build, or what one that is done did not clear away, lies there."""
        return self.work.exists() or bool(self._aside.objects())

    def see(self, stamp: bytes, *, force: bool) -> None:
        """Stop where something else lies.

        Raises
        ------
        StoreError
            If what is there is no cube, and none that is built; or, unless forced, an unfinished build of another
            recipe or of other raw files.
        """
        if BEGUN not in self._left:
            if self._there and "zarr.json" not in self._there:
                raise StoreError(
                    f"{self.target} holds {len(self._there):,} objects that are no strfcube cube, the first is "
                    f"{min(self._there)}: give another --out, or remove them"
                )
            return
        begun = self._said = _read(self._aside.get(BEGUN))
        other, mine = begun.get("stamp", []), json.loads(stamp)
        if other != mine and other[:1] != [SAVED] and not force:
            what = "from other raw files (or their times differ)" if other[:2] == mine[:2] else "of another recipe"
            raise StoreError(
                f"{self.target} holds an unfinished build {what}: --force begins anew"
                + (f"; that one goes on by: {begun['command']}" if begun.get("command") else "")
            )

    def begin(self, stamp: bytes, command: str, *, fresh: bool) -> None:
        """Take the place; a cube that is there is one no more from here on."""
        self._stamp = hashlib.sha256(stamp).hexdigest()[:16]
        if fresh:
            keep_only(str(self.draft), [])
        said = {"stamp": json.loads(stamp), "command": command}
        if self._said != said:
            self._left |= self._aside.put_many({BEGUN: json.dumps(said).encode()})
        if "zarr.json" in self._there:
            self._cube.remove(["zarr.json"])
            del self._there["zarr.json"]
        self._begun = True

    @contextmanager
    def record(self) -> Iterator[Record]:
        """The ledger of what was written."""
        assert self._lease is not None
        entries = _Entries(self._aside, f"write-{self._stamp}-", self._lease, self._there)
        entries.load([key for key in self._left if key.startswith(entries.prefix)])
        try:
            yield entries
        finally:
            with suppress(LostLeaseError, OutOfReachError):
                entries.flush()
            self._left |= entries.put

    def settle(self, files: Files) -> None:
        """Put what is not there yet; then see that all is there as it was put, and nothing else.

        Raises
        ------
        DamagedError
            If an object is not what was put.
        """
        assert self._lease is not None
        expected = {key: Version(state[0], state[2]) for key, state in files.items()}
        todo: dict[str, bytes] = {}
        for path in sorted(self.draft.rglob("*")):
            key = path.relative_to(self.draft).as_posix()
            if path.is_dir() or key == "zarr.json":
                continue
            data = path.read_bytes()
            # S3's ETag is the MD5 of what was put at once; where it is something else, it is put again
            same = Version(len(data), f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
            if key in self._there and self._there[key].tag and _alike(self._there[key], same):
                expected[key] = same
            else:
                todo[key] = data
        self._lease.see()
        expected |= self._cube.put_many(todo)
        there = self._cube.objects()
        for key, version in expected.items():
            if not _alike(there.pop(key, None), version):
                raise DamagedError(f"{self.target}/{key} was changed since it was written: the same command mends it")
        self._cube.remove(sorted(there))

    def publish(self) -> None:
        """Put the root metadata, where there are none; then remove what lies beside the cube."""
        assert self._lease is not None
        self._lease.renew()
        root = (self.draft / "zarr.json").read_bytes()
        try:
            made = self._cube.put("zarr.json", root, "")
        except NoConditionsError:
            made = self._cube.put("zarr.json", root)
        if made is None and self._cube.get("zarr.json") != root:
            raise LostLeaseError(f"{self.target}: another build put a cube there meanwhile, and that stays")
        self._clear_aside()
        workplace.discard(self.work)

    def discard(self) -> None:
        """Clear away what this build did, and what is left beside a cube that is there."""
        with suppress(OutOfReachError, LostLeaseError):
            if self._lease is not None:
                self._lease.see()
                if self._begun:
                    self._cube.remove(sorted(self._cube.objects()))
                if self._begun or "zarr.json" in self._there:
                    self._clear_aside()
        workplace.discard(self.work)

    def _clear_aside(self) -> None:
        self._aside.remove(sorted(key for key in self._left if key != KEY))
        self._left = {}


class _Entries:
    """The ledger of a stage at a URL: objects of one entry or several, since each costs a request when it is read."""

    def __init__(self, files: Any, prefix: str, lease: Lease, there: Mapping[str, Version]) -> None:
        self.prefix = prefix
        self.put: dict[str, Version] = {}
        self._files, self._lease, self._there = files, lease, there
        self._known: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._began = self._last = time.monotonic()

    def load(self, keys: list[str]) -> None:
        """Read what others left; believed where the objects are those that it names."""
        for found in self._files.get_many(keys):
            with suppress(AttributeError, KeyError, TypeError, IndexError):  # whatever somebody else put there
                for name, result in _read(found).items():
                    states = {key: Version(state[0], state[2]) for key, state in result["files"].items()}
                    if all(_alike(self._there.get(key), version) for key, version in states.items()):
                        self._known[name] = result

    def read(self, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Results of the tasks that are done, by name."""
        return {name: result for name, result in self._known.items() if names is None or name in names}

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        """Enter what a task gave, at once or with those that follow soon."""
        self._lease.see()
        self._waiting[name] = self._known[name] = dict(result)
        now = time.monotonic()
        if len(self.put) < _OFTEN or now - self._last > _SHARE * (now - self._began):
            self.flush()

    def flush(self) -> None:
        """Put what waits."""
        if not self._waiting:
            return
        self._lease.see()
        key = f"{self.prefix}{uuid4().hex}.json"
        version = self._files.put(key, json.dumps(self._waiting).encode())
        self.put[key] = version
        self._waiting, self._last = {}, time.monotonic()


def _read(data: bytes | None) -> dict[str, Any]:
    """What we put; an empty dict where it is not there, or not that."""
    with suppress(ValueError):
        found = json.loads(data or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _alike(there: Version | None, put: Version) -> bool:
    """Whether an object is the one that was put; by its size alone where a server names none."""
    if there is None or there.size != put.size:
        return False
    return there.tag.strip('"') == put.tag.strip('"') or not (there.tag and put.tag)
