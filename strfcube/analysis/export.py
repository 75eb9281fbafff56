"""A cube for other programs: MATLAB and Octave, netCDF, tables of text. docs/export.md says what is in each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from strfcube.analysis.output import see_free, target_of, writing
from strfcube.analysis.tables import neurons, stimuli
from strfcube.analysis.tables import trials as trial_table
from strfcube.cube.groups import has_group, open_group
from strfcube.cube.store import locate
from strfcube.cube.store import open as open_cube
from strfcube.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

_TABLES = ("-trials", "-neurons", "-stimuli")  # what a .csv brings along
MAT_BYTES = 2_000_000_000  # of a variable: MATLAB's format 5 holds no larger one


def export(
    store: str | os.PathLike[str], path: str | os.PathLike[str], dt: float | None = None, *, force: bool = False
) -> list[str]:
    """Write a cube in another program's format.

    Parameters
    ----------
    store : path, URL or str
        A cube, as `strfcube.open` takes it.
    path : path
        A file whose ending says the format: ``.mat`` (MATLAB 5), ``.nc`` (netCDF 4) or ``.csv``. It appears when it is
        whole. ``x.csv`` brings ``x-trials.csv``, ``x-neurons.csv`` and ``x-stimuli.csv`` along.
    dt : float, optional
        Bin width in ms, with a data set's name.
    force : bool
        Replace files that are there.

    Returns
    -------
    list of str
        The files.

    Raises
    ------
    UsageError
        For another ending, or where a variable is larger than the format allows.
    StoreError
        If there is no such cube, or there is such a file already.
    """
    target = file_of(path, force)
    source = locate(store, dt)
    with writing(target), _Files(target) as files:
        _writers()[target.suffix.lower()](source, files)
    return files.names


def _writers() -> dict[str, Callable[[str, _Files], None]]:
    return {".mat": _mat, ".nc": _netcdf, ".csv": _csv}


def file_of(path: str | os.PathLike[str], force: bool) -> Path:
    """The file that `export` writes, which is refused before anything is read. Errors as there."""
    target = target_of(path, _writers(), force=force)
    if target.suffix.lower() == ".csv" and not force:
        for suffix in _TABLES:
            see_free(_beside(target, suffix))
    return target


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.stem}{suffix}{target.suffix}")


class _Files:
    """Files that are written aside, and get their names when all of them are whole."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._aside: dict[Path, Path] = {}

    def new(self, suffix: str = "") -> Path:
        final = _beside(self.target, suffix)
        aside = final.with_name(f".{uuid4().hex}.{final.name}")
        self._aside[aside] = final
        return aside

    @property
    def names(self) -> list[str]:
        return [str(final) for final in self._aside.values()]

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            for aside, final in self._aside.items() if kind is None else ():
                os.replace(aside, final)
        finally:
            for aside in self._aside:
                aside.unlink(missing_ok=True)


# Groups of a cube -----------------------------------------------------------------------------------------------------


def _group(store: str, name: str) -> xr.Dataset | None:
    """One group beside the root; None where the cube has none."""
    return open_group(store, name) if has_group(store, name) else None


def _spans(row_size: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First element of each row of a ragged array, and the end of it."""
    ends = np.cumsum(row_size, dtype=np.int64)
    return ends - row_size, ends


# MATLAB ---------------------------------------------------------------------------------------------------------------


def _mat(store: str, files: _Files) -> None:
    from scipy.io import savemat

    ds = open_cube(store)
    for name in ("response", "stimulus"):
        if ds[name].size * 4 > MAT_BYTES:
            raise UsageError(
                f"{name} is {ds[name].size * 4 / 1e9:.1f} GB as MATLAB holds it, and a .mat file takes "
                f"{MAT_BYTES / 1e9:g} GB a variable: export a part (strfcube.save(part, ...)), or as .nc"
            )
    content: dict[str, Any] = {
        name: _mat_values(ds[name].transpose(*_ORDER, missing_dims="ignore"))
        for name in ("response", "stimulus", "n_repeats", "n_rejected", "n_bins", "duration")
    }
    content |= {name: _mat_values(ds[name]) for name in ("repeat", "time", "frequency")}
    for dim in ("stim", "neuron"):
        content[dim] = _fields({n: _mat_values(c) for n, c in ds.coords.items() if c.dims == (dim,)})
    several = {n: c.transpose(*_ORDER, missing_dims="ignore") for n, c in ds.coords.items() if c.ndim > 1}
    if several:
        content["coordinates"] = _fields({n: _mat_values(c) for n, c in several.items()})
    content["attributes"] = _fields({n: v for n, v in ds.attrs.items() if isinstance(v, str | int | float)})
    content["attributes"]["response_units"] = str(ds["response"].attrs.get("units", ""))
    content["attributes"]["stimulus_units"] = str(ds["stimulus"].attrs.get("units", ""))
    trials = _group(store, "trials")
    if trials is not None:
        content["trials"] = _mat_trials(trials)
    audio = _group(store, "audio")
    if audio is not None:
        first, _ = _spans(audio["row_size"].values)
        content["audio"] = {n: _mat_values(audio[n]) for n in ("samples", "row_size", "rate")} | {
            "first": first[:, None] + 1.0
        }
    findings = _group(store, "findings")
    if findings is not None and findings.sizes.get("finding"):
        content["findings"] = {str(n): _mat_values(v) for n, v in findings.data_vars.items()}
    with files.new().open("wb") as file:
        savemat(file, content, do_compression=True, long_field_names=True, oned_as="column")


_ORDER = ("stim", "neuron", "frequency", "repeat", "time")


def _mat_trials(trials: xr.Dataset) -> dict[str, Any]:
    """Rows as columns; positions count from 1, as MATLAB does."""
    columns = {str(n): _mat_values(v) for n, v in trials.data_vars.items() if n != "spike_time"}
    for name in ("stim_index", "neuron_index", "repeat_index", "file_index"):
        columns[name] = columns[name] + 1.0  # a rejected trial has no repeat: 0
    words = str(trials["rejected_by"].attrs["flag_meanings"]).split()
    columns["rejected_by"] = _cells([words[i] if i else "" for i in trials["rejected_by"].values.tolist()])
    first, _ = _spans(trials["row_size"].values)
    columns |= {"first": first[:, None] + 1.0, "spike_time": trials["spike_time"].values[:, None] / 1e9}
    return columns | {"file": _mat_values(trials["file"])}


def _mat_values(values: xr.DataArray) -> NDArray[Any]:
    """Text as a cell array, numbers as they are; one dimension as a column."""
    data = values.values
    data = data[:, None] if data.ndim == 1 else data
    if data.dtype.kind in "OUT":
        return _cells([str(v) for v in data.ravel().tolist()]).reshape(data.shape)
    return data


def _cells(texts: list[str]) -> NDArray[Any]:
    cells = np.empty((len(texts), 1), object)
    cells[:, 0] = texts
    return cells


def _fields(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Values by names that MATLAB takes for fields; where two would be the same, the second is numbered."""
    words: dict[str, Any] = {}
    for name in sorted(values, key=lambda name: _word(name) != name):  # those that stay as they are go first
        word, number = _word(name), 1
        while word in words:
            number += 1
            word = f"{_word(name)[: 62 - len(str(number))]}_{number}"
        words[word] = values[name]
    return words


def _word(name: Any) -> str:
    """A name that MATLAB takes for a field."""
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in str(name))[:63]
    return text if text[:1].isalpha() else f"x{text}"[:63]


# netCDF ---------------------------------------------------------------------------------------------------------------


def _netcdf(store: str, files: _Files) -> None:
    import importlib.util

    if importlib.util.find_spec("h5netcdf") is None:
        raise UsageError("netCDF needs h5netcdf: pip install 'strfcube[export]'")
    ds = open_cube(store)
    aside = files.new()
    packed = {"zlib": True, "complevel": 4, "shuffle": True}
    stored = ds["response"].encoding
    encoding: dict[str, dict[str, Any]] = {
        "response": packed | {k: stored[k] for k in ("dtype", "_FillValue") if k in stored},
        "stimulus": packed,
    }
    for name, group in (("/", ds), *((n, _group(store, n)) for n in ("trials", "audio", "findings"))):
        if group is None or not group.variables:
            continue
        plain = group.copy()
        for variable in plain.variables.values():
            variable.encoding = {}
        encode = encoding if name == "/" else {
            str(n): packed for n, v in plain.data_vars.items() if v.dtype.kind in "iuf" and v.ndim
        }  # fmt: skip
        plain.to_netcdf(aside, mode="w" if name == "/" else "a", group=name, engine="h5netcdf", encoding=encode)


# Text -----------------------------------------------------------------------------------------------------------------


def _csv(store: str, files: _Files) -> None:
    ds, trials = open_cube(store), _group(store, "trials")
    if trials is None:
        raise StoreError(f"{store} was built without its group 'trials': export it as .nc or .mat")
    trials = trials.assign({n: v.load() for n, v in trials.variables.items() if n != "spike_time"})
    with files.new().open("w", encoding="utf-8", newline="") as file:
        for i, frame in enumerate(_events(ds, trials)):
            frame.to_csv(file, header=i == 0, index=False, lineterminator="\n")
    for suffix, table in zip(_TABLES, (_with_pairs(trial_table(ds), ds), neurons(ds), stimuli(ds)), strict=True):
        table.to_csv(files.new(suffix), index=suffix != "-trials", lineterminator="\n")


def _with_pairs(table: pd.DataFrame, ds: xr.Dataset) -> pd.DataFrame:
    """The table of trials, and what is known of the pair of each, such as its split."""
    stim, neuron = (ds.get_index(dim).get_indexer(table[dim]) for dim in ("stim", "neuron"))
    pairs = {str(n): c for n, c in ds.coords.items() if set(c.dims) == {"stim", "neuron"}}
    found = {name: c.transpose("stim", "neuron").values[stim, neuron] for name, c in pairs.items()}
    return table.assign(**{f"{name}_of_pair" if name in table else name: v for name, v in found.items()})


def _events(ds: xr.Dataset, trials: xr.Dataset) -> Iterator[pd.DataFrame]:
    """One row an event, a neuron at a time: a spike at its time, or the value of a bin where a cube has only bins."""
    import pandas as pd

    stims, cells, time = ds["stim"].values, ds["neuron"].values, ds["time"].values
    first, ends = _spans(trials["row_size"].values)
    edges = np.searchsorted(trials["neuron_index"].values, np.arange(len(cells) + 1))
    counts = ds["response"].attrs.get("units") == "count"
    kept, exact = trials["kept"].values, trials["exact"].values
    for n, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        sizes = trials["row_size"].values[low:high]
        times = trials["spike_time"][int(first[low]) : int(ends[high - 1])].values if high > low else np.empty(0)
        row = np.repeat(np.arange(low, high), sizes)
        good = kept[row] & exact[row]
        parts = [(row[good], times[good] / 1e9, np.ones(int(good.sum())))]
        binned = np.flatnonzero(kept[low:high] & ~exact[low:high]) + low
        if len(binned):
            block = ds["response"].isel(neuron=n).transpose("stim", "repeat", "time")
            for at in binned.tolist():
                s, r = (int(trials[k].values[at]) for k in ("stim_index", "repeat_index"))
                values = block[s, r].values
                there = np.flatnonzero(values != 0 if counts else np.ones(len(values), bool))
                there = there[~np.isnan(values[there])]
                parts.append((np.full(len(there), at), time[there], values[there]))
        rows, seconds, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        yield pd.DataFrame(
            {
                "neuron": cells[n],
                "stim": stims[trials["stim_index"].values[rows]],
                "repeat": trials["repeat_index"].values[rows],
                "time_s": seconds,
                "value": value,
            }
        )
