"""Arrays that zarr reads when they are asked for, whose damage is an error of strfcube all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from strfcube.cube.groups import readable

if TYPE_CHECKING:
    import xarray as xr


class _Guarded(BackendArray):
    """A lazy variable, and what messages call it."""

    def __init__(self, variable: xr.Variable, place: str) -> None:
        self.variable, self.place = variable, place
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        with readable(self.place):
            return np.asarray(self.variable[key].values)


def guarded(variable: xr.Variable, place: str) -> xr.Variable:
    """A variable of an opened group that raises `StoreError` where reading it fails.

    Parameters
    ----------
    variable : xarray.Variable
        Lazy, or in memory: then it is left alone.
    place : str
        What messages call it.
    """
    if variable._in_memory:
        return variable
    lazy: Any = indexing.LazilyIndexedArray(_Guarded(variable, place))
    cached: Any = indexing.MemoryCachedArray  # untyped
    return variable._replace(data=cached(indexing.CopyOnWriteArray(lazy)))
