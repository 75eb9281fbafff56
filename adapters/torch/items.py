"""Items of a view, read or not yet, and batches that are collated of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data._utils.collate import default_collate_fn_map

from strfcube.errors import UsageError
from strfcube.loading.alike import refuse_unlike
from strfcube.loading.rows import OF_TRIALS

if TYPE_CHECKING:
    from strfcube.loading.view import CubeView

Batch = dict[str, Any]


class Item(Batch):
    """One stimulus of a view, as a dict; it knows its view, so that `collate` mixes no two kinds."""

    view: CubeView

    def __reduce__(self) -> Any:  # what leaves its process leaves the view behind
        return dict, (dict(self),)


class Items(Sequence[Batch]):
    """Items of a view that are not read yet: `collate` reads them as one batch.

    Parameters
    ----------
    view : CubeView
        The view.
    indices : sequence of int
        Positions.
    """

    def __init__(self, view: CubeView, indices: Sequence[int]) -> None:
        self.view, self.indices = view, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Items(self.view, self.indices[index])
        return self.view[self.indices[index]]


def collate(items: Sequence[Batch]) -> Batch:
    """Make one batch of items: the ``collate_fn`` of a DataLoader over any view, or over subsets and mixtures of them.

    Torch's own collation of items comes here, too, so that ``DataLoader(view, batch_size=8)`` needs none.

    Parameters
    ----------
    items : sequence of dict
        As ``CubeDataset`` gives them.

    Raises
    ------
    UsageError
        If they are of views with other neurons, frequencies, bin widths or units, on other devices, or read otherwise.
    """
    if isinstance(items, Items):
        return items.view.batch(items.indices)
    first, *others = items
    views = {id(item.view): item.view for item in items if isinstance(item, Item)}
    for view in list(views.values())[1:]:
        refuse_unlike("collate", next(iter(views.values())), view, batch=True)
    for other in others:
        _refuse_unlike_arrays(first, other)
    padding = {"stims": 0.0, "responses": torch.nan, "valid_mask": False}
    batch: Batch = {}
    ragged = "repeat_index" in first
    if ragged:
        sizes = torch.tensor([len(item["repeat_index"]) for item in items])
        batch["stim_index"] = torch.arange(len(items)).repeat_interleave(sizes).to(first["repeat_index"].device)
    for key, one in first.items():
        values = [item[key] for item in items]
        if ragged and key in OF_TRIALS:
            if key in padding:
                longest = max(v.shape[1] for v in values)
                values = [pad(v, (0, longest - v.shape[1]), value=padding[key]) for v in values]
            batch[key] = torch.cat(values)
        elif key in padding:
            shape = torch.tensor([v.shape for v in values]).max(0).values.tolist()
            batch[key] = torch.full((len(values), *shape), padding[key], dtype=one.dtype, device=one.device)
            for b, value in enumerate(values):
                batch[key][(b, *(slice(n) for n in value.shape))] = value
        elif key == "neuron":
            batch[key] = one
        else:
            batch[key] = _stacked(key, values) if isinstance(one, torch.Tensor) else values
    return batch


def _stacked(key: str, values: list[torch.Tensor]) -> torch.Tensor:
    """One tensor of those of several items; floats along time get NaN where others are longer."""
    if len({value.shape for value in values}) > 1 and len({value.shape[:-1] for value in values}) == 1:
        if not values[0].is_floating_point():
            raise UsageError(
                f"collate: {key} of the items has {' and '.join(sorted({str(v.shape[-1]) for v in values}))} bins, and "
                f"{values[0].dtype} has no missing value: read them as one batch, view.batch(positions), or leave "
                f"{key!r} out of extra"
            )
        longest = max(value.shape[-1] for value in values)
        values = [pad(value, (0, longest - value.shape[-1]), value=torch.nan) for value in values]
    return torch.stack(values)


def _refuse_unlike_arrays(first: Batch, other: Batch) -> None:
    """Refuse what can be told without the views: items that were made into other dicts on their way."""
    if first.keys() != other.keys():
        raise UsageError(f"collate: the items hold different keys, {', '.join(first)} and {', '.join(other)}")
    of_neurons = () if "repeat_index" in first else (0,)
    for key, axes in (("responses", of_neurons), ("stims", tuple(range(first["stims"].ndim - 1)))):
        shapes = [tuple(item[key].shape[axis] for axis in axes) for item in (first, other)]
        if shapes[0] != shapes[1] or first[key].device != other[key].device:
            what = f"{shapes[0]} on {first[key].device} and {shapes[1]} on {other[key].device}"
            raise UsageError(f"collate: {key} of the items differ: {what}")
    if "neuron" in first and not np.array_equal(first["neuron"], other["neuron"]):
        raise UsageError("collate: the items are of different neurons; take their views from view.splits(...)")


default_collate_fn_map[Item] = lambda items, *, collate_fn_map=None: collate(items)


def tensors(batch: Batch) -> Batch:
    """A batch whose arrays are tensors, of the same memory."""
    return {k: torch.from_numpy(v) if k != "neuron" and isinstance(v, np.ndarray) else v for k, v in batch.items()}
