"""What exists: the data sets of ``catalog.yaml`` and the pipelines that read them."""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfcube.errors import StrfcubeError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from strfcube.records import Pipeline

GROUP = "strfcube.pipelines"  # of the entry points
WIDTH = 78  # of all that is printed


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Attributes
    ----------
    name, url : str
        Name below the raw folder, and where it comes from.
    bytes, md5 : int, str
        Exact size and checksum where they are published; 0 and empty where they are not.
    about : int
        Size as texts give it, rounded; 0 where they do not.
    unpack : str
        Folder below the raw folder that an archive is unpacked into, without the folder of that name in which it may
        have wrapped its files; empty for what stays as it is.
    only : mapping
        Coordinate to the one value that the file is for: a build that chooses others does without it.
    extra : str
        Name under which a file is asked for that a default build does without; empty for the others.
    """

    name: str
    url: str
    bytes: int = 0
    md5: str = ""
    about: int = 0
    unpack: str = ""
    only: Mapping[str, str] = field(default_factory=dict)
    extra: str = ""

    @property
    def size(self) -> str:
        """Size in words, in parentheses; empty where it is not known."""
        known = in_words(self.bytes, self.about)
        return f" ({known})" if known != "unknown" else ""


@dataclass(frozen=True)
class Entry:
    """One data set of the catalog; the keys of ``catalog.yaml``."""

    name: str
    title: str
    description: str
    species: str
    areas: tuple[str, ...]
    account: str
    terms: str
    licence: str
    homepage: str
    doi: str
    citation: tuple[str, ...]
    recipe: Mapping[str, Any]
    files: tuple[RemoteFile, ...] = ()
    figures: Mapping[str, int] = field(default_factory=dict)
    notes: str = ""
    sizes: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether strfcube writes the raw files itself."""
        return self.name == "demo"

    @property
    def download(self) -> str:
        """What a default build fetches, in words."""
        if self.simulated:
            return "nothing"
        files = [f for f in self.files if not f.extra]
        if all(f.bytes for f in files):
            return in_words(sum(f.bytes for f in files))
        if not self.sizes.get("download") and all(f.bytes or f.about for f in files):
            return in_words(0, sum(f.bytes or f.about for f in files))
        return self._size("download")

    @property
    def unpacked(self) -> str:
        """What the raw files take on the disk, in words."""
        if self.files and not any(f.unpack for f in self.files):
            return self.download
        return self._size("unpacked")

    @property
    def cube(self) -> str:
        """What a cube of the complete default recipe takes, in words."""
        return self._size("cube")

    def _size(self, name: str) -> str:
        known = self.sizes.get(name, 0)
        return known if isinstance(known, str) else in_words(0, known)


def in_words(exact: int, about: int = 0) -> str:
    """A number of bytes: exact where it is known, else the rounded one, else ``unknown``."""
    number = exact or about
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor * 0.9995:
            digits = 1 if exact or number < 10 * factor else 0
            return f"{'' if exact else 'about '}{number / factor:.{digits}f} {unit}"
    return f"{number} bytes" if number else "unknown"


@cache
def entries() -> dict[str, Entry]:
    """Every data set by name: strfcube's own, then those of other packages."""
    known = _read(Path(__file__).with_name("catalog.yaml"))
    for file in _other_catalogs():
        try:
            others = _read(file)
        except Exception as error:  # whatever is in it: one's own cubes have nothing to do with that
            what = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"strfcube: {file} is no catalog, and its data sets are left out: {what}", file=sys.stderr)
            continue
        known |= {name: e for name, e in others.items() if name not in known}
    return known


def _other_catalogs() -> Iterator[Path]:
    """The ``catalog.yaml`` of each other package that registers pipelines, found without importing it."""
    packages = {point.module.partition(".")[0] for point in entry_points(group=GROUP)}
    for package in sorted(packages - {"strfcube"}):
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):  # it says so when its pipeline is asked for
            continue
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            file = Path(folder, "catalog.yaml")
            if file.is_file():
                yield file


def _read(file: Path) -> dict[str, Entry]:
    import yaml

    text = file.read_text(encoding="utf-8")
    parsed: dict[str, Entry] = {}
    for name, given in yaml.load(text, yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader).items():
        values = dict(given)
        values["areas"] = tuple(values["areas"])
        values["citation"] = tuple(values["citation"])
        values["files"] = tuple(RemoteFile(**f) for f in values.get("files", ()))
        parsed[name] = Entry(name=name, **values)
    return parsed


def entry(name: str) -> Entry:
    """One data set.

    Raises
    ------
    UsageError
        If the catalog does not have it.
    """
    known = entries()
    if name not in known:
        hint = did_you_mean(name, known)
        raise UsageError(f"no data set '{name}' in the catalog; {hint}there are {', '.join(sorted(known))}")
    return known[name]


def pipeline_class(name: str) -> type[Pipeline]:
    """The pipeline registered for a data set as an entry point of ``strfcube.pipelines``.

    Raises
    ------
    UsageError
        If none is registered.
    StrfcubeError
        If it cannot be imported.
    """
    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none: is strfcube installed?"
        raise UsageError(f"no pipeline '{name}' is registered: there are {known}")
    try:
        loaded: type[Pipeline] = found[name].load()
    except Exception as error:  # another package's code
        raise StrfcubeError(f"pipeline '{name}' cannot be imported: {type(error).__name__}: {error}") from error
    return loaded


def data_dir() -> Path:
    """Where cubes lie: ``$STRFCUBE_DATA_DIR``, else the platform's data folder (never its cache)."""
    from platformdirs import user_data_path

    given = os.environ.get("STRFCUBE_DATA_DIR")
    return Path(given).expanduser() if given else user_data_path("strfcube", appauthor=False)


def raw_dir(name: str) -> Path:
    """Where the raw files of a data set are looked for when ``--raw`` does not say."""
    return data_dir() / "raw" / name


def how_to_get(e: Entry, folder: Path, files: Sequence[RemoteFile] = (), command: str = "") -> str:
    """Which files to get, from where, under which terms, where to put them, and the command that does it.

    Parameters
    ----------
    files : sequence of RemoteFile
        Those that are needed; default is those of the complete data set.
    command : str
        That was given; default is that of the complete data set.
    """
    lines = [f"the raw files of {e.name} are not there; put them into", f"  {folder}"]
    for f in files or [f for f in e.files if not f.extra]:
        into = "" if f.unpack in ("", ".") else f" into {f.unpack}/"
        lines += [f"{f.name}{f.size}{f', unpacked{into}' if f.unpack else ''}, from", f"  {f.url}"]
    if e.homepage and not e.files:
        lines.append(f"They are described at {e.homepage}")
    account = "no account is needed" if e.account == "none" else f"a free account is needed: {e.account}"
    then = f"Then: {command or f'strfcube build {e.name}'} (with --raw FOLDER where they lie elsewhere)"
    for text in (f"Terms: {e.terms}", f"Account: {account}", then):
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    if e.files:
        lines += ["To have them fetched and the cube built, in one command:"]
        lines += [f"  {willing(e, command)}"]
    return "\n".join(lines)


def willing(e: Entry, command: str = "") -> str:
    """A build, as it was given or of the complete data set, with the flags that answer all that fetching would ask."""
    return f"{command or f'strfcube build {e.name}'} --yes{'' if e.account == 'none' else ' --accept-terms'}"
