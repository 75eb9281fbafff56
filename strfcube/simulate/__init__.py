"""Simulated recordings: raw files in the published layouts, for whoever has not fetched the real ones yet.

`write` writes a small folder of raw files that the pipeline of that data set reads as it reads the published ones:
``strfcube.build("aa4", raw=folder)``. The neurons are linear-nonlinear-Poisson with known receptive fields, the sounds
are synthesised, and animals and cells are called ``sim`` where the layout lets them. They show what a data set's layout
is and what its cube can do; no number that comes out says anything about an animal.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from strfcube.errors import UsageError, did_you_mean
from strfcube.simulate.birds import BIRDS, NO_SONG, ReceptiveField, read_truth, spectrogram, write_demo

__all__ = ["BIRDS", "LAYOUTS", "NO_SONG", "ReceptiveField", "read_truth", "spectrogram", "write", "write_demo"]

LAYOUTS = ("aa1", "aa2", "aa4", "ac1", "nat4", "ns1")


def write(name: str, folder: Path | str, seed: int = 0) -> Path:
    """Write simulated raw files in the layout of a data set.

    Parameters
    ----------
    name : str
        One of `LAYOUTS`.
    folder : path
        Is made; if it is there already and holds anything, nothing is written.
    seed : int
        The same seed, the same files.

    Returns
    -------
    Path
        The folder: the `raw` of `strfcube.build`.

    Raises
    ------
    UsageError
        If there is no such layout, or the folder holds something that this function did not write.
    """
    if name not in LAYOUTS:
        listed = f"{did_you_mean(name, LAYOUTS)}there are {', '.join(LAYOUTS)}"
        raise UsageError(f"no recordings can be simulated in the layout of {name!r}; {listed}")
    folder = Path(folder).expanduser()
    mark = folder / "SIMULATED.txt"
    if mark.is_file() and mark.read_text("utf-8") == _mark(name, seed):
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty, and was not simulated as {name} with seed {seed}: give another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if name == "aa1":
        write_demo(folder, seed)
        (folder / "about.json").unlink()  # which the published set lacks: its cells go by the same species as aa-2's
    else:
        import_module(f"strfcube.simulate.{name}").write(folder, seed)
    mark.write_text(_mark(name, seed), "utf-8", newline="\n")
    return folder


def _mark(name: str, seed: int) -> str:
    return f"Written by strfcube.simulate.write({name!r}, ..., seed={seed}): no recordings of animals.\n"
