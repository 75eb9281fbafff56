"""``xr.open_dataset(path, engine="strfcube")``: cubes by xarray's own door."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from xarray.backends import BackendEntrypoint

from strfcube.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr


class StrfcubeEntrypoint(BackendEntrypoint):
    """Opens cubes for xarray.

    Lazy, as xarray has it: without ``chunks`` a variable is read when it is asked for, and ``chunks={}`` gives dask
    arrays of one stimulus a block. xarray makes these itself, of nothing but values, so they do not carry where they
    are stored: `strfcube.open` gives dask arrays that do.
    """

    description = "Recordings of auditory neurons in strfcube's format (Zarr v3)"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "cache_dir")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> xr.Dataset:
        """Open a cube; `cache_dir` as `strfcube.open` takes it.

        Raises
        ------
        StoreError
            If it is absent, no cube, unfinished, or of a newer format.
        """
        from strfcube.cube.store import locate, opened

        path = locate(filename_or_obj)
        drop = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        ds, _ = opened(path, drop, None if cache_dir is None else os.fspath(cache_dir))
        for name, variable in ds.variables.items():
            variable.encoding.pop("preferred_chunks", None)  # what is in memory has none
            if name in ("response", "stimulus"):
                variable.encoding["preferred_chunks"] = dict(variable.sizes) | {"stim": 1}
        return ds

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is a cube."""
        from strfcube.cube.store import existing_cube, local

        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        place = local(filename_or_obj)
        if "://" in place and not place.rstrip("/").endswith(".zarr"):  # no server is asked about other files
            return False
        try:
            return existing_cube(place) is not None
        except (StoreError, OSError):
            return False
