"""Which stimuli of several cubes are one: the identity of a sound, within a data set and across data sets."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

Index = NDArray[np.intp]


def diagonal(sizes: Sequence[int]) -> list[Index]:
    """Position in each cube of each pooled stimulus, where every cube keeps its own; -1 where the cube lacks it."""
    total, first, found = sum(sizes), 0, []
    for size in sizes:
        at = np.full(total, -1)
        at[first : first + size] = np.arange(size)
        first += size
        found.append(at)
    return found


def union(cubes: Sequence[xr.Dataset], names: Sequence[str]) -> list[Index]:
    """As `diagonal`, with equal sounds as one stimulus.

    Cubes of one data set have one set of labels, and there a stimulus is its label: a sound that was played as two
    classes is two stimuli, and pooling the parts of a cube gives the cube. Across data sets it is the sound, and where
    one of them has it several times, the sound and its type or category.

    Raises
    ------
    UsageError
        If one sound has different numbers of bins in two cubes.
    """
    rows: list[list[int]] = []
    for c, ds in enumerate(cubes):
        found = _matched(cubes, rows, c)
        for s in range(ds.sizes["stim"]):
            row = found.get(s)
            if row is None:
                rows.append([-1] * len(cubes))
                row = len(rows) - 1
            else:
                _one_length(cubes, names, rows[row], c, s)
            rows[row][c] = s
    return [np.array([row[c] for row in rows], np.intp) for c in range(len(cubes))]


def _matched(cubes: Sequence[xr.Dataset], rows: list[list[int]], c: int) -> dict[int, int]:
    """Row of each stimulus of cube `c` that an earlier cube has."""
    ds = cubes[c]
    relatives = [o for o in range(c) if _one_data_set(cubes[o], ds)]
    by_label = {str(cubes[o]["stim"].values[row[o]]): r for r, row in enumerate(rows) for o in relatives if row[o] >= 0}
    found: dict[int, int] = {}
    for s, label in enumerate(map(str, ds["stim"].values)):
        r = by_label.get(label)
        if r is not None and all(_one_sound(cubes[o], rows[r][o], ds, s) for o in relatives if rows[r][o] >= 0):
            found[s] = r
    # Other stimuli of the same data set are other stimuli, whatever they sound like.
    strangers = [r for r, row in enumerate(rows) if all(row[o] < 0 for o in relatives)]
    likely: dict[tuple[str, str], list[int]] = {}
    for r in strangers:
        for key in {k for o in range(c) if rows[r][o] >= 0 for k in _keys(cubes[o], rows[r][o])}:
            likely.setdefault(key, []).append(r)
    alike: dict[int, list[int]] = {}
    for s in range(ds.sizes["stim"]):
        near = list(dict.fromkeys(r for key in _keys(ds, s) for r in likely.get(key, ()))) if s not in found else []
        alike[s] = [
            r for r in near if all(_one_sound(cubes[o], rows[r][o], ds, s) for o in range(c) if rows[r][o] >= 0)
        ]
    asked = Counter(r for several in alike.values() for r in several)
    taken: set[int] = set()
    for word in ("stim_type", "stim_category", None):
        for s, several in alike.items():
            for r in several:
                own = {str(cubes[o][word].values[rows[r][o]]) for o in range(c) if rows[r][o] >= 0} if word else set()
                fits = str(ds[word].values[s]) in own if word else len(several) == asked[r] == 1
                if s not in found and r not in taken and fits:
                    found[s] = r
                    taken.add(r)
    return found


def _one_data_set(a: xr.Dataset, b: xr.Dataset) -> bool:
    return bool(a.attrs.get("dataset")) and a.attrs.get("dataset") == b.attrs.get("dataset")


def _md5(ds: xr.Dataset, s: int) -> str:
    return str(ds["md5"].values[s]) if "md5" in ds.coords else ""


def _keys(ds: xr.Dataset, s: int) -> list[tuple[str, str]]:
    """What an equal sound of another data set has one of."""
    md5 = _md5(ds, s)
    return [("name", str(ds["stim_name"].values[s]))] + ([("md5", md5)] if md5 else [])


def _one_sound(a: xr.Dataset, i: int, b: xr.Dataset, j: int) -> bool:
    """By their MD5, or where one has none by name and spectrogram; one without a spectrogram is not held against it."""
    one, other = _md5(a, i), _md5(b, j)
    if one and other:
        return one == other
    if str(a["stim_name"].values[i]) != str(b["stim_name"].values[j]):
        return False
    if int(a["n_bins"][i]) != int(b["n_bins"][j]):
        return False
    bins = int(a["n_bins"][i])
    x, y = (ds["stimulus"][k, :, :bins].values for ds, k in ((a, i), (b, j)))
    if x.shape != y.shape:
        return False
    if np.isnan(x).all() or np.isnan(y).all():
        return _one_data_set(a, b)
    return bool(np.allclose(x, y, rtol=1e-4, atol=1e-6, equal_nan=True))


def _one_length(cubes: Sequence[xr.Dataset], names: Sequence[str], row: list[int], c: int, s: int) -> None:
    owner = next(i for i, at in enumerate(row) if at >= 0)
    there, here = int(cubes[owner]["n_bins"][row[owner]]), int(cubes[c]["n_bins"][s])
    if there != here:
        md5 = f" (md5 {_md5(cubes[c], s)})" if _md5(cubes[c], s) else ""
        raise UsageError(
            f"concat: the sound {cubes[c]['stim_name'].values[s]}{md5} has {there} bins in {names[owner]} and {here} "
            f"in {names[c]}; build both with one --post"
        )


def owners(cubes: Sequence[xr.Dataset], stims: Sequence[Index]) -> tuple[Index, list[Index]]:
    """The cube that says what each pooled stimulus is, and where each cube has a sound of it.

    Returns
    -------
    owner : ndarray of int [shape=(stim,)]
        The first that has a spectrogram of it; where none has, the first.
    sounding : list of ndarray of int [shape=(stim,)]
        As `stims`, with -1 also where a cube is known to lack the spectrogram that another has.
    """
    there = np.stack(stims) >= 0
    owner = np.argmax(there, axis=0)
    sounding = [s.copy() for s in stims]
    shared = np.flatnonzero(there.sum(0) > 1)
    for c, ds in enumerate(cubes):
        mine = shared[stims[c][shared] >= 0]
        if not len(mine):
            continue
        first = ds["stimulus"].isel(frequency=0, time=0).isel(stim=stims[c][mine]).values
        sounding[c][mine[np.isnan(first)]] = -1
    heard = np.stack(sounding) >= 0
    none = ~heard.any(0)
    for c in range(len(cubes)):
        sounding[c][none] = stims[c][none]
    owner[shared] = np.where(heard.any(0), np.argmax(heard, axis=0), owner)[shared]
    return owner, sounding


def equal_spectrograms(a: xr.Dataset, b: xr.Dataset) -> list[tuple[int, int]]:
    """Pairs of stimuli of which at least one has no MD5, with one length and spectrograms of one mean and deviation.

    In every band, to a part in 10,000: a pass over the spectrograms, and nothing else.
    """
    if a.sizes["frequency"] != b.sizes["frequency"]:
        return []
    unknown = [np.array([not _md5(ds, s) for s in range(ds.sizes["stim"])], bool) for ds in (a, b)]
    if not unknown[0].any() and not unknown[1].any():
        return []
    lengths = [np.asarray(ds["n_bins"].values) for ds in (a, b)]
    moments = []
    for ds, other in ((a, lengths[1]), (b, lengths[0])):
        some = np.flatnonzero(np.isin(ds["n_bins"].values, other))
        table = np.full((ds.sizes["stim"], 2 * ds.sizes["frequency"]), np.nan)
        part = ds["stimulus"].isel(stim=some).astype(np.float64)
        if len(some):
            count = part.notnull().sum("time")
            count = count.where(count > 0)
            for column, values in enumerate((part.sum("time") / count, (part**2).sum("time") / count)):
                table[some, column::2] = values.transpose("stim", "frequency").values
        moments.append(table)
    pairs = []
    for i, row in enumerate(moments[0]):
        near = np.isclose(moments[1], row, rtol=1e-4, atol=1e-6).all(1) & (lengths[1] == lengths[0][i])
        pairs += [(i, int(j)) for j in np.flatnonzero(near & (unknown[0][i] | unknown[1]))]
    return pairs
