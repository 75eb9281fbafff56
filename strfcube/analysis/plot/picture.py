"""The figure that every picture is drawn in: imported on first use, since it needs matplotlib."""

from __future__ import annotations

import io
import os
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that pyplot does not keep: it is shown where it is the value of a notebook's cell, and once.

    Twenty of them are no twenty open windows; ``picture.savefig("picture.pdf")`` writes one.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """Write it as matplotlib does, but so that a text stays a text: in svg, and in the fonts of pdf, ps and eps."""
        with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}):
            super().savefig(fname, **kwargs)

    def save(self, path: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write it with 300 dots an inch, and so that the same picture is the same file.

        As `savefig` does, it replaces what is there; ``~`` is the home folder.
        """
        path = os.path.expanduser(os.fspath(path))
        suffix = path.rpartition(".")[2].lower()
        dated = {"svg": "Date", "pdf": "CreationDate"}.get(suffix)
        if suffix in ("tif", "tiff"):
            kwargs = {"pil_kwargs": {"compression": "tiff_lzw"}} | kwargs
        with rc_context({"svg.hashsalt": "strfcube"}):
            self.savefig(path, dpi=300, metadata={dated: None} if dated else None, **kwargs)
