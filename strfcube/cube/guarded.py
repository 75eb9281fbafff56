"""What zarr reads, now or when it is asked for, and whose damage is an error of strfcube."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from strfcube.errors import StoreError, StrfcubeError, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Make one error of whatever zarr, xarray or a codec raise on what is damaged.

    Raises
    ------
    StoreError
        That names `place`.
    """
    try:
        yield
    except StrfcubeError:
        raise
    except Exception as error:
        if what := refusal(error):
            raise StoreError(f"{place} cannot be read: {what}") from error
        text = " ".join(str(error).split())[:200]
        raise StoreError(f"{place} cannot be read ({type(error).__name__}: {text}); run strfcube verify") from error


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
