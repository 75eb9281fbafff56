"""Who may build a cube at a URL: an object that its holder renews, and that nobody else takes while it does.

There are no locks on object stores, and a process that died takes nothing back. So the lock is a lease: put where there
is none (a conditional put), replaced by its holder every few seconds, and taken over by who saw it unchanged for
`LEASE` seconds. No clock of another machine is believed, only that the object did not change meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from strfcube.errors import StoreError
from strfcube.transport.remote_files import NoConditionsError, OutOfReachError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from strfcube.transport.local_files import Version
    from strfcube.transport.remote_files import Remote

log = logging.getLogger("strfcube")
LEASE = 30.0  # s without a renewal, after which whoever waits takes it over
LOOK = 10.0  # s between two looks of who waits
KEY = "lock"


class LostLeaseError(StoreError):
    """Somebody else builds the cube meanwhile; what this build did stays, for whoever builds it."""


@dataclass
class Lease:
    """A lock at a URL.

    Attributes
    ----------
    files : Remote
        Folder in which it lies.
    target : str
        The cube, in words.
    token : str
        Of the holder: of a work folder, so that whoever holds that, and nobody else, goes on with it at once.
    """

    files: Remote
    target: str
    token: str
    _version: Version | None = None
    _conditions: bool = True  # whether the server knows them
    _lost: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def held(self, *, keep: bool = False) -> Iterator[None]:
        """Hold it; renewed by a thread until the end.

        Parameters
        ----------
        keep : bool
            Leave it at the end, for others who share the token; it then goes as that of one who died.
        """
        self._take()
        beat = threading.Thread(target=self._renew_now_and_then, name="strfcube-lease", daemon=True)
        beat.start()
        try:
            yield
        finally:
            self._over.set()
            beat.join()
            if not keep and not self._lost:
                with suppress(OutOfReachError):
                    self.files.remove([KEY])

    def see(self) -> None:
        """Stop where it was lost.

        Raises
        ------
        LostLeaseError
            If so.
        """
        if self._lost:
            raise LostLeaseError(
                f"{self.target}: another build took over, since this one was not heard of for {LEASE:g} s; let that "
                "end, then give the same command"
            )

    def renew(self) -> None:
        """Say that the holder is alive.

        Raises
        ------
        LostLeaseError
            If another took over.
        OutOfReachError
            If the server does not answer.
        """
        with self._turn:
            if not self._lost:
                tag = self._version.tag if self._version else ""
                made = self._put(tag) if self._conditions or self._still_ours() else None
                # Another who shares it may have renewed it, or an answer was lost on its way
                self._lost = made is None and not self._still_ours()
                self._version = made or self._version
        self.see()

    def _renew_now_and_then(self) -> None:
        while not self._over.wait(LEASE / 4):
            try:
                self.renew()
            except LostLeaseError:
                return
            except StoreError:  # the next time, or whoever waits takes it
                continue

    def _still_ours(self) -> bool:
        said, version = self._look()
        if said is None or said.get("token") != self.token:
            return False
        self._version = version
        return True

    def _look(self) -> tuple[dict[str, Any] | None, Version | None]:
        found = self.files.request(KEY, None)
        if found is None:
            return None, None
        try:
            said = json.loads(found[0])
        except ValueError:
            said = {}
        return said if isinstance(said, dict) else {}, found[1]

    def _put(self, instead_of: str) -> Version | None:
        # Never the same twice: what changes tells that its holder is alive
        said = {"token": self.token, "host": platform.node(), "process": os.getpid(), "at": time.time_ns()}
        data = json.dumps(said).encode()
        try:
            return self.files.put(KEY, data, instead_of if self._conditions else None)
        except NoConditionsError:
            self._do_without()
            return self.files.put(KEY, data)

    def _do_without(self) -> None:
        self._conditions = False
        log.warning(
            "%s: this server does not know conditional puts, so that two builds which begin there at the same moment "
            "are not kept apart: begin one at a time", self.target,
        )  # fmt: skip

    def _take(self) -> None:
        seen, since, said_so = "", 0.0, False
        while True:
            said, version = self._look()
            if said is None or version is None:
                self._version = self._put("")
                if self._version is not None:
                    self._see_conditions()
                    return
                continue
            if said.get("token") == self.token:
                self._version = self._put(version.tag)
            elif version.tag != seen:
                seen, since = version.tag, time.monotonic()
            elif time.monotonic() - since >= LEASE:
                self._version, seen = self._put(version.tag), ""
            if self._version is not None:
                self._see_conditions()
                return
            if not said_so:
                said_so = True
                print(
                    f"strfcube: another build is writing {self.target} (on {said.get('host', 'another machine')}, "
                    f"process {said.get('process', '?')}); waiting for it, {LEASE:g} s if it died",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            time.sleep(min(LOOK, LEASE / 3))

    def _see_conditions(self) -> None:
        """Find out whether the server only passes over conditions: this put must be refused."""
        if self._conditions and (made := self._put("")) is not None:
            self._version = made
            if self._conditions:
                self._do_without()
