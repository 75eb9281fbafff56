"""Batches from stored values that lie on a device without padding: plain operations of torch, few for a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from collections.abc import Sequence

_AT_ONCE = 1 << 23  # values that are smoothed or averaged in one go: their floats are not to outgrow the batch


@dataclass(frozen=True)
class Transform:
    """What is done to responses after decoding, in this order: `strfcube.loading.batch` does the same on the host.

    Attributes
    ----------
    kernel : sequence of float, optional
        Symmetric window to smooth with, of an odd number of bins.
    average : bool
        Mean over the repeats that observed a bin.
    shift, scale : Tensor of float32 [shape=(neuron, 1, 1)], optional
        Subtracted, and divided by.
    """

    kernel: Sequence[float] | None = None
    average: bool = False
    shift: Tensor | None = None
    scale: Tensor | None = None

    @property
    def nothing(self) -> bool:
        """Whether it leaves everything as it is."""
        return self.kernel is None and not self.average and self.shift is None


def decoded(raw: Tensor, late: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Floats, missing as NaN, and the mask of what is not; takes the memory of `raw` over.

    Parameters
    ----------
    raw : Tensor of uint8, int16 or float32 [shape=(stim, neuron, repeat, time)]
        Stored values: counts whose largest number stands for missing (int16: the bits of a uint16), or floats.
    late : Tensor of bool [shape=(stim, time)], optional
        Bins past the end of a stimulus.
    dtype : torch.dtype
        Of the floats.
    """
    if raw.dtype == torch.uint8:
        values = raw.to(dtype)
        seen = torch.ne(raw, 255, out=raw.view(torch.bool))
    elif raw.dtype == torch.int16:
        seen = raw != -1
        values = (raw.to(torch.int32) & 0xFFFF).to(torch.float32).to(dtype)
    else:
        seen, values = raw == raw, raw.to(dtype)  # NaN differs from itself
    if late is not None:
        torch.gt(seen, late[:, None, None], out=seen)  # seen and not late
    return torch.where(seen, values, torch.full((), torch.nan, dtype=dtype, device=raw.device), out=values), seen


def responses(raw: Tensor, late: Tensor | None, dtype: torch.dtype, transform: Transform) -> tuple[Tensor, Tensor]:
    """Responses and mask of a batch, as `decoded`, transformed."""
    if transform.nothing:
        return decoded(raw, late, dtype)
    b, n, r, t = raw.shape
    shape = (b, n, 1 if transform.average else r, t)
    values = torch.empty(shape, dtype=dtype, device=raw.device)
    mask = torch.empty(shape, dtype=torch.bool, device=raw.device)
    step = max(1, _AT_ONCE // max(1, b * r * t))
    for a in range(0, n, step):
        some = slice(a, min(a + step, n))
        values[:, some], mask[:, some] = _transformed(raw[:, some].contiguous(), late, transform, some)
    return values, mask


def _transformed(raw: Tensor, late: Tensor | None, how: Transform, neurons: slice) -> tuple[Tensor, Tensor]:
    values, mask = decoded(raw, late, torch.float32)
    if how.kernel is not None:
        values = _smoothed(values, mask, how.kernel)
    if how.average:
        total = values.masked_fill_(~mask, 0).sum(2, keepdim=True)
        count = mask.sum(2, keepdim=True, dtype=torch.float32)
        mask = count > 0
        values = total.div_(count).masked_fill_(~mask, torch.nan)
    if how.shift is not None and how.scale is not None:
        values = values.sub_(how.shift[neurons]).div_(how.scale[neurons])
    return values, mask


def _smoothed(values: Tensor, mask: Tensor, kernel: Sequence[float]) -> Tensor:
    """Convolve along time; see `strfcube.analysis.transform.smooth`, whose arithmetic, in its order, this is."""
    half, size = len(kernel) // 2, values.shape[-1]
    exact = torch.float32 if values.device.type == "mps" else torch.float64

    def convolved(x: Tensor) -> Tensor:
        wide = pad(x.to(exact), (half, half))
        out = wide[..., half : half + size] * kernel[half]
        for j in range(half, 0, -1):
            pair = wide[..., half - j : half - j + size] + wide[..., half + j : half + j + size]
            out += pair.mul_(kernel[half - j])
        return out.to(torch.float32)

    out = convolved(values.masked_fill(~mask, 0))
    return out.div_(convolved(mask.to(torch.float32))).masked_fill_(~mask, torch.nan)


def sounds(raw: Tensor, late: Tensor | None, scaling: tuple[Tensor, Tensor] | None, *, bands: bool) -> Tensor:
    """Stimuli of a batch, 0 past their ends and, of spectrograms, in bands without values; `raw` is written to.

    Parameters
    ----------
    raw : Tensor of float32 [shape=(stim, frequency, time) or (stim, 1, sample)]
        Stored values.
    late : Tensor of bool [shape=(stim, time or sample)], optional
        Where they are past the end.
    scaling : tuple of Tensor [shape=(frequency or 1, 1)], optional
        Mean and standard deviation.
    bands : bool
        Whether they are spectrograms.
    """
    if scaling is not None:
        raw = raw.sub_(scaling[0]).div_(scaling[1])
    if bands:
        raw.nan_to_num_(0.0, math.inf, -math.inf)
    return raw if late is None else raw.masked_fill_(late[:, None], 0)
