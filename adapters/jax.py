"""`CubeDataset`: the views of a cube as JAX arrays."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from strfcube.errors import UsageError
from strfcube.loading.view import CubeView

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import xarray as xr

    from strfcube.loading.reading import Options


class CubeDataset(CubeView):
    """Stimuli of a cube and the responses to them, in JAX arrays.

    Parameters
    ----------
    source : path, URL, str or xarray.Dataset
        What `strfcube.open` takes, or a cube, lazily transformed or not.
    dtype : dtype
        Of ``stims`` and ``responses``: ``jnp.float32``, ``jnp.bfloat16``, ...
    device : jax.Device, jax.sharding.Sharding or str, optional
        Where batches go (``"cpu"``, ``"gpu"``: the first of its kind); default: where JAX puts new arrays. Counts
        travel to it as bytes and become floats and mask there.
    **options
        ``mode``, ``audio_fs``, ``average_repeats``, ``smooth_ms``, ``cache``, ``extra``, ``allow_mixed``,
        ``layout`` and ``cache_dir``: those of `strfcube.loading.CubeView`, which also says what items and batches hold,
        and whose `loader` iterates.

    Raises
    ------
    StoreError
        If there is no such cube.
    UsageError
        For an option that cannot be used as given.

    Notes
    -----
    Batches differ in T and R, and ``jax.jit`` compiles once for each shape that it meets: pad to a few shapes where
    that matters. Extra variables of 64 bits become 32 bits unless ``jax_enable_x64`` is set, as always in JAX.

    Examples
    --------
    >>> train = CubeDataset("aa1-dt5.zarr").sel(area="MLd", split="train")  # doctest: +SKIP
    >>> for batch in train.loader(batch_size=8, shuffle=True, prefetch=1): ...  # doctest: +SKIP
    """

    _place: Mapping[str, Any] = {"dtype": jnp.float32, "device": None}

    def __init__(
        self,
        source: str | os.PathLike[str] | xr.Dataset,
        *,
        dtype: Any = jnp.float32,
        device: jax.Device | jax.sharding.Sharding | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(source, **options)
        self._place = self._placed({"dtype": dtype, "device": device})

    @staticmethod
    def _placed(place: Mapping[str, Any]) -> Mapping[str, Any]:
        dtype, device = place["dtype"], place["device"]
        try:
            kind = jnp.dtype(dtype)
        except TypeError:
            kind = np.dtype(object)
        if not jnp.issubdtype(kind, jnp.floating):
            raise UsageError(f"dtype={dtype!r}, expected jnp.float32 or another floating dtype: missing is NaN")
        if kind.itemsize == 8 and jax.dtypes.canonicalize_dtype(kind) != kind:
            raise UsageError("dtype=float64: JAX has it only after jax.config.update('jax_enable_x64', True)")
        if isinstance(device, str):
            try:
                device = jax.devices(device)[0]
            except RuntimeError as error:
                raise UsageError(f"device={device!r}: {error}") from None
        elif device is not None and not isinstance(device, jax.Device | jax.sharding.Sharding):
            raise UsageError(f"device={device!r}, expected a device or a sharding of JAX, or a name such as 'gpu'")
        return {"dtype": kind, "device": device}

    @property
    def _raw(self) -> bool:
        # On the processor JAX would compile for every shape what NumPy does as fast without
        return self._place["device"] is not None or jax.default_backend() != "cpu"

    def to(self, device: jax.Device | jax.sharding.Sharding | str) -> Self:
        """Send batches to a device: counts travel as bytes, floats and mask are made there."""
        return self.using(device=device)

    def _stims(self, items: list[int]) -> jax.Array:
        stims: jax.Array = jax.device_put(self._reader.sounds(items), self._place["device"])
        return stims.astype(self._place["dtype"])

    def _finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        dtype, device = self._place["dtype"], self._place["device"]
        # JAX may take the memory over instead of copying it, and holds on to it as long as its own array lives: it is
        # not used again before.
        arrays = {k: v for k, v in batch.items() if k != "neuron" and isinstance(v, np.ndarray)}
        batch = batch | jax.device_put(arrays, device)
        if "valid_mask" not in batch:
            responses, mask = _decoded(batch["responses"], self._reader.raw_fill, dtype)
            batch = {"stims": batch["stims"], "responses": responses, "valid_mask": mask} | {
                k: v for k, v in batch.items() if k not in ("stims", "responses")
            }
        if dtype != jnp.float32:
            batch |= {name: batch[name].astype(dtype) for name in ("stims", "responses")}
        return batch


@partial(jax.jit, static_argnums=(1, 2))
def _decoded(stored: jax.Array, fill: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    mask = stored != fill
    return jnp.where(mask, stored.astype(dtype), jnp.nan), mask
