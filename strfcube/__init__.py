"""Open recordings of auditory neurons as one labelled, chunked, analysis-ready Zarr cube."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from strfcube.starting import interrupts_end, see_assertions

see_assertions()
interrupts_end()  # before anything that takes time

# ruff: noqa: E402

# In a clone, pipelines/ and adapters/ lie beside this folder, and a Python that is started there finds this folder
# before the one that was installed.
_ABOVE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(f"{_ABOVE}/pipelines/__init__.py") and os.path.isfile(f"{_ABOVE}/adapters/__init__.py"):
    __path__.append(_ABOVE)

from strfcube.analysis.accessor import StrfAccessor as _StrfAccessor  # noqa: F401 (registers ds.strf)
from strfcube.analysis.select import select
from strfcube.cube.store import open
from strfcube.errors import FetchError, RawDataError, SelectionError, StoreError, StrfcubeError, UsageError
from strfcube.version import __version__ as __version__

if TYPE_CHECKING:
    from strfcube.adapters.torch import CubeDataset as CubeDataset
    from strfcube.analysis.concat import concat as concat
    from strfcube.analysis.export import export as export
    from strfcube.analysis.report.write import report as report
    from strfcube.builder.build import build as build
    from strfcube.builder.rebin import rebin as rebin
    from strfcube.builder.save import save as save
    from strfcube.cube.verify import verify as verify
    from strfcube.fetching.fetch import fetch as fetch

__all__ = [
    "CubeDataset",
    "FetchError",
    "RawDataError",
    "SelectionError",
    "StoreError",
    "StrfcubeError",
    "UsageError",
    "build",
    "concat",
    "export",
    "fetch",
    "open",
    "rebin",
    "report",
    "save",
    "select",
    "verify",
]


# Where the rest is, imported on first use: most sessions read cubes, and make none.
_MODULES = {
    "build": "strfcube.builder.build",
    "concat": "strfcube.analysis.concat",
    "export": "strfcube.analysis.export",
    "fetch": "strfcube.fetching.fetch",
    "rebin": "strfcube.builder.rebin",
    "report": "strfcube.analysis.report.write",
    "save": "strfcube.builder.save",
    "verify": "strfcube.cube.verify",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    # By name, not by import: the core knows no adapter, and torch is imported on first use only.
    if name == "CubeDataset":
        try:
            return import_module("strfcube.adapters.torch").CubeDataset
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError("CubeDataset needs PyTorch: pip install 'strfcube[torch]'") from error
    raise AttributeError(f"module 'strfcube' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
