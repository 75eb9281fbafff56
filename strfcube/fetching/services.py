"""What the services publish of their files: bytes and MD5, asked of each in its own way."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from strfcube.errors import FetchError
from strfcube.fetching.crcns import DOWNLOADS, TWICE, dataset_of
from strfcube.fetching.web import host_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from strfcube.catalog import RemoteFile
    from strfcube.fetching.crcns import Crcns
    from strfcube.fetching.web import Web

_ZENODO = re.compile(r"https://zenodo\.org/(?:api/)?records?/(?P<id>\d+)/files/(?P<name>[^?]+?)(?:/content)?(?:\?.*)?")
_OSF = re.compile(r"https://osf\.io/(?:download/)?(?P<guid>[a-z0-9]{5,})/?(?:download/?)?")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Published:
    """What is known of a file before it is fetched.

    Attributes
    ----------
    bytes, md5 : int, str
        0 and empty where nobody says.
    """

    bytes: int = 0
    md5: str = ""


def published(files: Iterable[RemoteFile], web: Web, crcns: Crcns) -> dict[str, Published]:
    """What the services say of files, by name; each list or record is asked for once.

    Raises
    ------
    FetchError
        If a service does not answer, does not list a file, or contradicts the catalog.
    """
    asked: dict[str, Any] = {}

    def once(url: str) -> Any:
        if url not in asked:
            asked[url] = _json(web, url)
        return asked[url]

    found: dict[str, Published] = {}
    for file in files:
        if match := _ZENODO.fullmatch(file.url):
            said = _zenodo(once(f"https://zenodo.org/api/records/{match['id']}"), unquote(match["name"]), file.url)
        elif match := _OSF.fullmatch(file.url):
            said = _osf(once(f"https://api.osf.io/v2/files/{match['guid']}/"), file.url)
        elif file.url.startswith(DOWNLOADS):
            dataset = dataset_of(file.url)
            if dataset not in asked:
                asked[dataset] = crcns.listing(dataset)
            said = _listed(asked[dataset], unquote(file.url.removeprefix(f"{DOWNLOADS}{dataset}/")), dataset)
        else:
            said = Published()
        found[file.name] = _agreed(file, said)
    return found


def _agreed(file: RemoteFile, said: Published) -> Published:
    """The catalog and the service together."""
    for known, now, what in ((file.bytes, said.bytes, "bytes"), (file.md5, said.md5, "md5")):
        if known and now and known != now:
            raise FetchError(
                f"{file.name}: the file at {host_of(file.url)} has been changed: the catalog of this strfcube knows "
                f"{what} {known}, there is {now}; a newer strfcube may know it"
            )
    return Published(file.bytes or said.bytes, file.md5 or said.md5)


def _json(web: Web, url: str) -> Any:
    text = web.text(url, headers={"Accept": "application/json"})
    try:
        return json.loads(text)
    except ValueError:
        raise FetchError(f"{url}: expected JSON, found '{' '.join(text[:60].split())}'; try again later") from None


def _zenodo(record: Any, name: str, url: str) -> Published:
    listed = record.get("files", ()) if isinstance(record, dict) else ()
    if isinstance(listed, dict):  # the newer form of the record
        listed = list(listed.get("entries", {}).values())
    for file in listed:
        if isinstance(file, dict) and file.get("key") == name:
            kind, _, value = str(file.get("checksum", "")).rpartition(":")
            return Published(_whole(file.get("size")), _sum(value if kind in ("", "md5") else ""))
    names = ", ".join(sorted(str(file.get("key")) for file in listed if isinstance(file, dict)))[:200]
    raise FetchError(f"{url}: the record has no file '{name}'; there are {names or 'none'}; is there a newer strfcube?")


def _osf(answer: Any, url: str) -> Published:
    try:
        about = answer["data"]["attributes"]
        hashes = (about.get("extra") or {}).get("hashes") or {}
        return Published(_whole(about.get("size")), _sum(hashes.get("md5")))
    except (KeyError, TypeError, AttributeError):
        raise FetchError(
            f"{url}: OSF's description of the file is not as expected; is there a newer strfcube?"
        ) from None


def _listed(files: dict[str, tuple[int, str]], path: str, dataset: str) -> Published:
    if not files:
        return Published()  # a data set without lists: its sums are those that are seen first
    if path not in files:
        names = ", ".join(sorted(files))[:200]
        message = f"CRCNS does not list it; there are {names}; is there a newer strfcube?"
        raise FetchError(f"{DOWNLOADS}{dataset}/{path}: {message}")
    size, md5 = files[path]
    if size == TWICE or md5 == str(TWICE):
        raise FetchError(
            f"{DOWNLOADS}{dataset}/{path}: CRCNS lists it twice, with different sizes or checksums; which is right "
            f"cannot be told, try again later"
        )
    return Published(size, md5)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _sum(value: Any) -> str:
    text = str(value or "").lower()
    return text if _MD5.fullmatch(text) else ""
