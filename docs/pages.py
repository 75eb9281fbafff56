"""Pages of the site that nobody writes twice, in ``docs/generated/``.

A page a data set is made of its entry in the catalog, the docstring of its module and the rows of fidelity.md that name
it; changes, how to contribute and the notebooks are those of the repository, with their links led into the site.
"""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from strfcube.catalog import GROUP, Entry, entries, pipeline_class

if TYPE_CHECKING:
    from pathlib import Path

ORDER = ("demo", "ns1", "nat4", "aa1", "aa2", "aa4", "ac1")
NOTEBOOKS = "notebooks"


def write(docs: Path) -> None:
    """Write them all; files that did not change keep their time, so that nothing is built again for them."""
    out, root = docs / "generated", docs.parent
    fidelity = (docs / "fidelity.md").read_text("utf-8")
    made = {out / "datasets" / f"{name}.md": data_set(entries()[name], fidelity) for name in ORDER}
    made[out / "datasets.md"] = overview([entries()[name] for name in ORDER])
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        made[out / name.lower()] = led((root / name).read_text("utf-8"))
    for notebook in sorted((root / NOTEBOOKS).glob("*.ipynb")):
        made[out / NOTEBOOKS / notebook.name] = notebook.read_text("utf-8").replace("](../docs/", "](../../")
    for file, text in made.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")
    for folder in {file.parent for file in made}:
        for file in folder.iterdir():
            if file not in made and not file.is_dir():
                file.unlink()  # of a data set or a notebook that is gone


def led(text: str) -> str:
    """A page of the repository's root as one of ``docs/generated``: its links lead to the pages of the site."""
    text = text.replace("](docs/", "](../").replace("](CONTRIBUTING.md)", "](contributing.md)")
    return re.sub(r"\[([^]]*)\]\((?:CITATION\.cff|LICENSE|benchmarks)\)", r"\1", text)


def overview(known: list[Entry]) -> str:
    """The page that lists the data sets, and leads to theirs."""
    rows = [
        (f"[{e.name}](datasets/{e.name}.md)", e.title.partition(": ")[2], f"{e.figures.get('neuron', 0):,}",
         f"{e.figures['stim']:,}" if "stim" in e.figures else "not published", e.licence, e.download,
         e.cube.replace("unknown", "small"))
        for e in known
    ]  # fmt: skip
    head = ("name", "recordings", "neurons", "stimuli", "licence", "download", "cube")
    lead = "# Data sets\n\nstrfcube ships no recordings: `strfcube build NAME` fetches them from their publishers.\n"
    return f"{lead}\n{_table([head, *rows])}"


def data_set(entry: Entry, fidelity: str) -> str:
    """The page of one data set, in Markdown."""
    module = "strfcube.simulate" if entry.simulated else entry_points(group=GROUP)[entry.name].module
    parts = [
        f"# {entry.title}\n\n{entry.description}\n",
        _table([("what", "of this data set"), *_facts(entry)]),
        f"```console\n$ strfcube build {entry.name}\n```\n",
    ]
    if entry.files:
        files = [(f.name, f.size.strip(" ()") or "not published", f"<{f.url}>", _when(f)) for f in entry.files]
        parts += ["## Files\n", _table([("file", "size", "from", "for"), *files])]
    options = pipeline_class(entry.name).options
    if options:
        rows = [(f"`--{o.name.replace('_', '-')}`", o.help, f"`{o.default}`") for o in options]
        parts += ["## Options of a build\n", _table([("option", "what it does", "default"), *rows])]
    if entry.citation:
        parts += ["## How to cite\n", *("- " + _linked(text) for text in entry.citation), ""]
    parts += ["## The card\n", f"```{{eval-rst}}\n.. automodule:: {module}\n   :no-members:\n   :no-index:\n```\n"]
    rows = differences(entry.name.upper(), fidelity)
    if rows:
        lead = "What [fidelity](../../fidelity.md) says of it; rows of *all* hold for every data set.\n"
        parts += ["## What differs from published numbers\n", lead, _table(rows)]
    return "\n".join(parts)


def differences(name: str, fidelity: str) -> list[tuple[str, ...]]:
    """Rows of the table of data sets in fidelity.md that name this one, below its header."""
    section = fidelity.partition("\n## Data sets\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    header, rows = lines[0], lines[2:]
    here = [row for row in map(_cells, rows) if {name, "all"} & set(row[0].split(", "))]
    here.sort(key=lambda row: row[0] == "all")
    led_here = [tuple(re.sub(r"\]\((?!http)", "](../../", cell) for cell in row) for row in here]
    return [_cells(header), *led_here] if any(row[0] != "all" for row in here) else []


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def _linked(text: str) -> str:
    """Addresses as links."""
    return re.sub(r"https?://[^\s,;]*[^\s,;.]", r"<\g<0>>", text)


def _facts(entry: Entry) -> list[tuple[str, str]]:
    front_end = ", ".join(f"{k} {v}" for k, v in entry.recipe["front_end"].items())
    account = entry.account if entry.account == "none" else f"free: <{entry.account}>"
    facts = {
        "species": entry.species,
        "areas": ", ".join(entry.areas),
        "neurons": f"{entry.figures.get('neuron', 0):,}",
        "stimuli": f"{entry.figures.get('stim', 0):,}",
        "pairs with data": f"{entry.figures.get('pairs', 0):,}",
        "homepage": f"<{entry.homepage}>" if entry.homepage else "",
        "doi": f"[{entry.doi}](https://doi.org/{entry.doi})" if entry.doi else "",
        "licence": entry.licence,
        "terms": entry.terms,
        "account": account,
        "download": entry.download,
        "unpacked": entry.unpacked,
        "cube": entry.cube,
        "default recipe": f"dt {entry.recipe['dt']} ms, {front_end}",
        "notes": entry.notes,
    }
    return [(name, value) for name, value in facts.items() if value not in ("", "0", "unknown")]


def _when(file) -> str:
    if file.extra:
        return f"`--extra {file.extra}`"
    return ", ".join(f"{key} {value}" for key, value in file.only.items()) or "every build"


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""])
