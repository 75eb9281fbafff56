"""A recipe: everything that decides what is in a cube, and nothing else (no paths, no number of workers)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from strfcube.errors import UsageError
from strfcube.grid import Align, dt_to_ns
from strfcube.sound.spectrogram import FRONT_ENDS, FrontEnd, Mel


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Attributes
    ----------
    dataset : str
        Name in the catalog.
    dt_ns : int
        Bin width in ns.
    post_ns : int
        Time kept after the end of each stimulus, in ns.
    align : {"centre", "causal"}
        Where a spectrogram frame's window lies on its bin.
    front_end : Mel, Cochleagram, LogDFT or Published
        From waveform to spectrogram, or the published one.
    audio : bool
        Whether the waveforms are kept in the cube.
    only : mapping
        Key of a stimulus or neuron coordinate to the values that are built; empty is everything.
    options : mapping
        The pipeline's own options, all of them.
    saved : mapping
        What became of the cube since it was built, if it was cut or changed and saved: ``part`` names what is left,
        ``changed`` what is no longer as it was built. Empty for a cube that was built.
    """

    dataset: str
    dt_ns: int
    post_ns: int = 0
    align: Align = "centre"
    front_end: FrontEnd = field(default_factory=Mel)
    audio: bool = True
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    saved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dt_ms(self) -> float:
        """Bin width in ms."""
        return self.dt_ns / 1e6

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain, JSON-ready values."""
        return {
            "dataset": self.dataset,
            "dt_ms": self.dt_ms,
            "post_ms": self.post_ns / 1e6,
            "align": self.align,
            "front_end": {"kind": self.front_end.kind, **dataclasses.asdict(self.front_end)},
            "audio": self.audio,
            "only": {key: list(values) for key, values in sorted(self.only.items())},
            "options": dict(sorted(self.options.items())),
            **({"saved": dict(self.saved)} if self.saved else {}),
        }

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe that `to_json` wrote."""
        values = json.loads(text)
        front_end = dict(values["front_end"])
        return cls(
            dataset=values["dataset"],
            dt_ns=dt_to_ns(values["dt_ms"]),
            post_ns=round(values["post_ms"] * 1e6),
            align=values["align"],
            front_end=FRONT_ENDS[front_end.pop("kind")](**front_end),
            audio=values["audio"],
            only=parse_only(values["only"]),
            options=values["options"],
            saved=values.get("saved", {}),
        )

    def store_name(self, default: Recipe) -> str:
        """File name of the cube: plain for the complete default recipe, with a hash for every other.

        Parameters
        ----------
        default : Recipe
            The data set's complete default recipe at the same dt.
        """
        stem = f"{self.dataset}-dt{self.dt_ms:g}"
        if self.to_json() == default.to_json():
            return f"{stem}.zarr"
        return f"{stem}-{hashlib.sha256(self.to_json().encode()).hexdigest()[:8]}.zarr"


def parse_only(only: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """Values of ``only`` as sorted tuples of text, so that equal choices make equal recipes: ``true`` is True.

    Raises
    ------
    UsageError
        If a key has no value: an empty choice is never everything.
    """
    parsed: dict[str, tuple[str, ...]] = {}
    for key, values in (only or {}).items():
        many = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
        parsed[str(key)] = tuple(sorted({_flag(str(v)) for v in many}))
        if not parsed[str(key)]:
            raise UsageError(f"only={key!r} names no value: give at least one, or leave the key out")
    return parsed


def among(value: Any, wanted: tuple[str, ...]) -> bool:
    """Whether a coordinate's value is one of those that `parse_only` gave.

    Numbers are compared as numbers (80 is 80.0), flags without regard to case, and text as it is: ``0304`` is not 304.
    """
    if isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_):
        return any(_is_number(text, float(value)) for text in wanted)
    return _flag("" if value is None else str(value)) in wanted


def _is_number(text: str, value: float) -> bool:
    try:
        return float(text) == value or (text == "nan" and value != value)
    except ValueError:
        return False


def _flag(text: str) -> str:
    return text.capitalize() if text.lower() in ("true", "false") else text
