"""The page: a template, its texts, and blocks of data. Every text that comes from a cube is escaped here."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from strfcube.analysis.report.packing import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DOI = re.compile(r"https?://doi\.org/10\.\d+/[^\s<>\"']*[^\s<>\"'.,;)]|10\.\d{4,}/[^\s<>\"']*[^\s<>\"'.,;)]")


def rendered(title: str, parts: Mapping[str, str], data: Mapping[str, Any], blocks: Iterable[tuple[str, str]]) -> str:
    """The whole page.

    Parameters
    ----------
    title : str
        Of the page.
    parts : mapping
        HTML of the places of the template.
    data : mapping
        What the script draws, as JSON can hold it.
    blocks : iterable of (str, str)
        Name and text of each block of data.
    """
    here = files(__package__)
    texts = {f"_{kind}": here.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")}
    head = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    every = [("data", text_of(head.encode("utf-8"))), *blocks]
    packed = "\n".join(f'<script type="text/plain" id="block-{name}">{text}</script>' for name, text in every if text)
    template = Template(here.joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(parts, title=escape(title), blocks=packed, **texts)


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and HTML; what has none is left out."""
    return "\n".join(f"<dt>{escape(name)}</dt><dd>{html}</dd>" for name, html in pairs if html)


def linked(text: str) -> str:
    """A text whose DOIs, or which itself as a URL, can be followed."""
    if re.fullmatch(r"https?://[^\s<>\"']+", text):
        return f'<a rel="noreferrer" href="{escape(text)}">{escape(text)}</a>'
    out, at = [], 0
    for found in _DOI.finditer(text):
        url = found[0] if found[0].startswith("http") else f"https://doi.org/{found[0]}"
        out += [escape(text[at : found.start()]), f'<a rel="noreferrer" href="{escape(url)}">{escape(found[0])}</a>']
        at = found.end()
    return "".join([*out, escape(text[at:])])


def lines(text: str) -> str:
    """A paragraph a line, with links."""
    return "".join(f"<p>{linked(line.strip())}</p>" for line in text.splitlines() if line.strip())


def indented(text: str) -> str:
    """JSON, one value a line, or the text as it is where it is none."""
    try:
        shown = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        shown = text
    return f"<pre>{escape(shown)}</pre>"
