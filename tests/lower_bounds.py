"""Print, as constraints for pip, the lowest versions that ``pyproject.toml`` declares of what strfcube runs with.

Usage: python tests/lower_bounds.py > lowest.txt && pip install -c lowest.txt ".[plot,test]"

What only runs the tests is of the versions in ``constraints.txt``, as everywhere.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
INDIRECT = ["pyparsing<3.3"]  # of matplotlib: newer ones warn of names that old versions of it use, and warnings fail


def named(requirement):
    """Name of what a requirement or a constraint is about, as pip compares names."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def lowest(requirement):
    """Constraint ``name==version`` of ``name>=version``."""
    match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
    if match is None:
        raise SystemExit(f"pyproject.toml: expected NAME>=VERSION, found {requirement!r}")
    return "==".join(match.groups())


def constraints():
    """Every constraint, one a line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = list(map(lowest, project["dependencies"] + extras["plot"] + extras["cluster"]))
    tools = {named(requirement) for requirement in extras["test"]} - {named(bound) for bound in bounds}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    return bounds + [line for line in pins if re.match(r"\w", line) and named(line) in tools] + INDIRECT


if __name__ == "__main__":
    print("\n".join(constraints()))
