"""A cube on its way to another process: where it is stored, which part of it, and what it holds beside the store.

The labels and the coverage of 70,000 neurons are hundreds of megabytes, and a worker that is started anew would be sent
all of them. It can read them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.select import as_slice
from strfcube.cube.normalise import loaded
from strfcube.cube.store import open as open_cube
from strfcube.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from strfcube.cube.opened import Store

LEAST_BYTES = 1_000_000  # of labels and coverage; what is less is sent, for a server need not be asked by each worker
_STORED = ("response", "stimulus")


@dataclass(frozen=True)
class Sent:
    """A cube as another process finds it.

    Attributes
    ----------
    store : Store
        The opened cube that it is a part of.
    part : mapping of str to slice or ndarray of int
        Positions in it along each dimension.
    own : xarray.Dataset
        Variables that differ from those of that part.
    there : frozenset of str
        Names of all of them.
    attrs, of_stored : mapping
        Attributes of the cube, and of ``response`` and ``stimulus``.
    """

    store: Store
    part: Mapping[str, Any]
    own: xr.Dataset
    there: frozenset[str]
    attrs: Mapping[Any, Any]
    of_stored: Mapping[str, Mapping[Any, Any]]

    def cube(self) -> xr.Dataset:
        """The same cube, read again.

        Raises
        ------
        StoreError
            If it is not there any more, or was built again.
        """
        from strfcube.cube.lazy_array import rows_of

        whole = open_cube(self.store.path, cache_dir=self.store.cache_dir)
        rows = rows_of(whole["response"])
        if rows is None or rows.parts[0].store.digest != self.store.digest:
            raise StoreError(f"{self.store.path} was built again while it was open: open it again")
        ds = _part(whole, self.part)
        ds = ds.drop_vars([n for n in ds.variables if n not in self.there])
        ds = ds.assign_coords(self.own.coords).assign(self.own.data_vars).assign_attrs(self.attrs)
        for name, attrs in self.of_stored.items():
            ds[name].attrs = dict(attrs)
        return ds


def sent(cube: xr.Dataset) -> Sent | None:
    """How another process finds a cube; None for one that is small, a pool, or changed where it is stored.

    Parameters
    ----------
    cube : xarray.Dataset
        As `strfcube.cube.normalise.loaded` gives it.

    Raises
    ------
    StoreError
        If its store was built again.
    """
    from strfcube.cube.lazy_array import rows_of

    small = sum(v.nbytes for n, v in cube.variables.items() if n not in _STORED)
    rows = [rows_of(cube[name]) for name in _STORED]
    if small < LEAST_BYTES or not all(r is not None and r.in_order and len(r.parts) == 1 for r in rows):
        return None
    responses, sounds = (r for r in rows if r is not None)
    here, there = responses.parts[0], sounds.parts[0]
    if here.store != there.store or not np.array_equal(here.stim, there.stim) or (here.stim < 0).any():
        return None
    sizes = dict(zip(("repeat", "frequency", "time"), (len(responses.rest[0]), *map(len, sounds.rest)), strict=True))
    part: dict[str, Any] = {name: slice(0, size) for name, size in sizes.items()}
    part |= {"stim": as_slice(here.stim), "neuron": as_slice(here.neuron)}
    here.store.check()
    again = _part(open_cube(here.store.path, cache_dir=here.store.cache_dir), part)
    if dict(again.sizes) != dict(cube.sizes):
        return None
    variables: Mapping[Any, Any] = again.variables  # whose `identical` has no types
    same = [n for n, v in cube.variables.items() if n in variables and variables[n].identical(v)]
    own = cube.drop_vars({*same, *_STORED})
    own.attrs, own.encoding = {}, {}
    attrs = {name: dict(cube[name].attrs) for name in _STORED}
    return Sent(here.store, part, own, frozenset(map(str, cube.variables)), dict(cube.attrs), attrs)


def _part(whole: xr.Dataset, part: Mapping[str, Any]) -> xr.Dataset:
    return loaded(whole.isel(part))
