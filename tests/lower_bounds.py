"""Print the lowest versions that ``pyproject.toml`` declares, as constraints for pip, but for what is only tested with.

Usage: python tests/lower_bounds.py > lowest.txt && pip install -c lowest.txt ".[plot,test]"
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("plot",)  # of what is shipped; the tools that only run the tests may be new


def lower_bounds():
    """Requirement ``name==version`` for each ``name>=version``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    bounds = []
    for line in needed:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line)
        if match is None:
            raise SystemExit(f"pyproject.toml: expected NAME>=VERSION, found {line!r}")
        bounds.append("==".join(match.groups()))
    return bounds


if __name__ == "__main__":
    print("\n".join(lower_bounds()))
