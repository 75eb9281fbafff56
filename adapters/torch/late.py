"""Batches whose counts become floats when they are looked at: by then, a loop has let go of the batch before."""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree

from strfcube.adapters.torch.decode import decoded
from strfcube.loading.memory import each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from strfcube.loading.memory import Take

_LATE = ("responses", "valid_mask")
# What numpy knows of torch's floats; of bfloat16 it has the bits
_NUMPY = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.int16}
_AT_ONCE = 1 << 17  # counts that become floats in one go: few enough for the cache of a core


class LateBatch(dict[str, Any]):
    """A batch of which ``responses`` and ``valid_mask`` are made when one of them is asked for.

    ``for batch in loader`` holds a batch until it has the next one. Of that next one there are only bytes then; its
    floats take the memory of those that the loop lets go of. Copies of it are plain dicts, whole.
    """

    _lock = threading.Lock()
    _decode: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any], decode: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> LateBatch:
        """One of a batch.

        Parameters
        ----------
        batch : mapping
            All of it, in its order; whatever it has as responses and mask is not looked at.
        decode : callable
            Makes responses and mask; called once.
        """
        late = cls(batch)
        late._lock, late._decode = threading.Lock(), decode
        return late

    def _whole(self) -> None:
        if self._decode is None:
            return
        with self._lock:
            if self._decode is not None:
                dict.update(self, zip(_LATE, self._decode(), strict=True))
                self._decode = None

    def __getitem__(self, key: str) -> Any:
        if key in _LATE:
            self._whole()
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        if key in _LATE:
            self._whole()
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:  # its own: with dict's, dict(batch) would copy what is not made yet
        return super().__iter__()

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def _first_whole(name: str) -> Any:
    method = getattr(dict, name)

    @wraps(method)
    def called(self: LateBatch, *args: Any, **more: Any) -> Any:
        self._whole()
        return method(self, *args, **more)

    return called


for _name in (
    "__delitem__", "__eq__", "__ior__", "__ne__", "__or__", "__repr__", "__ror__", "__setitem__", "clear", "copy",
    "items", "pop", "popitem", "setdefault", "update", "values",
):  # fmt: skip
    setattr(LateBatch, _name, _first_whole(_name))


def _flat(batch: LateBatch) -> tuple[list[Any], Any]:
    return list(batch.values()), list(batch)


def _flat_with_keys(batch: LateBatch) -> tuple[list[tuple[Any, Any]], Any]:
    return [(_pytree.MappingKey(key), value) for key, value in batch.items()], list(batch)


def _again(values: Iterable[Any], keys: Any) -> dict[str, Any]:
    return dict(zip(keys, values, strict=True))


# Torch's trees are of exact types: what holds of any dict is to hold of this one
_pytree.register_pytree_node(LateBatch, _flat, _again, flatten_with_keys_fn=_flat_with_keys)


def floats(raw: torch.Tensor, dtype: torch.dtype, take: Take, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts as floats, missing (255) as NaN, and the mask of what is not; takes the memory of `raw` over.

    What `strfcube.adapters.torch.decode.decoded` does, for a CPU: a piece at a time, in memory that is used again.

    Parameters
    ----------
    raw : Tensor of uint8
        Stored counts, in the memory of the host.
    dtype : torch.dtype
        Of the floats.
    take : callable
        Gives memory.
    threads : int
        That may work on it.
    """
    if dtype not in _NUMPY:
        return decoded(raw, None, dtype)
    counts, short = raw.numpy().reshape(-1), dtype == torch.bfloat16
    values, seen = take(counts.shape, _NUMPY[dtype]), counts.view(bool)

    def one(k: int) -> None:
        some = slice(k * _AT_ONCE, (k + 1) * _AT_ONCE)
        here = counts[some]
        out = np.empty(len(here), np.float32) if short else values[some]
        known = here != 255
        found = np.count_nonzero(known)
        if 2 * found < len(here):  # mostly the place of repeats that others have
            out.fill(np.nan)
            np.copyto(out, here, where=known)
        else:
            np.copyto(out, here)
            if found < len(here):
                np.copyto(out, np.nan, where=~known)
        seen[some] = known
        if short:  # its upper half: a count of a byte has no bits in the lower one
            np.right_shift(out.view(np.uint32), 16, out=values[some], casting="unsafe")

    each(one, -(-len(counts) // _AT_ONCE), threads)
    return torch.from_numpy(values).view(dtype).view(raw.shape), torch.from_numpy(seen).view(raw.shape)
