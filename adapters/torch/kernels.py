"""Responses and sounds of a batch by one kernel each, in Triton: what `decode` does in ten, with no memory between."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from strfcube.adapters.torch.decode import Transform

_BLOCK = 1024  # values that a program makes


@triton.jit
def _known(raw):
    """Which stored values are not missing."""
    if raw.dtype == tl.uint8:
        return raw != 255
    if raw.dtype == tl.int16:
        return raw != -1
    return raw == raw


@triton.jit
def _float(raw):
    """Stored values as floats; an int16 holds the bits of a uint16."""
    if raw.dtype == tl.int16:
        return (raw.to(tl.int32) & 0xFFFF).to(tl.float32)
    return raw.to(tl.float32)


@triton.jit(do_not_specialize=["neurons", "repeats", "bins", "columns"])
def _trials(
    stored, table, values, seen, shift, scale, neurons, repeats, bins, columns,
    average: tl.constexpr, scaled: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    stim = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    depth = 1 if average else repeats
    inside = at < neurons * depth * bins
    row = at // bins
    time = at - row * bins
    neuron = row // depth
    here = table + stim * columns
    size = tl.load(here + columns - 2)
    start = tl.load(here + neuron, mask=inside, other=0) + time
    number = tl.load(here + neurons + neuron, mask=inside, other=0)
    recorded = inside & (time < size)
    if average:
        total = tl.zeros([block], tl.float32)
        count = tl.zeros([block], tl.float32)
        repeat = 0
        while repeat < repeats:
            there = recorded & (repeat < number)
            raw = tl.load(stored + start + repeat * size, mask=there, other=0)
            there = there & _known(raw)
            total += tl.where(there, _float(raw), 0.0)
            count += tl.where(there, 1.0, 0.0)
            repeat += 1
        known = count > 0
        value = tl.math.div_rn(total, tl.where(known, count, 1.0))
    else:
        repeat = row - neuron * depth
        there = recorded & (repeat < number)
        raw = tl.load(stored + start + repeat * size, mask=there, other=0)
        known = there & _known(raw)
        value = _float(raw)
    if scaled:
        shift = tl.load(shift + neuron, mask=inside, other=0)
        value = tl.math.div_rn(value - shift, tl.load(scale + neuron, mask=inside, other=1))
    to = stim.to(tl.int64) * (neurons * depth * bins) + at
    tl.store(values + to, tl.where(known, value, float("nan")).to(values.dtype.element_ty), mask=inside)
    tl.store(seen + to, known, mask=inside)


@triton.jit(do_not_specialize=["rows", "width", "first", "columns", "per_bin", "step"])
def _sounds(
    stored, table, values, mean, deviation, rows, width, first, columns, per_bin, step,
    scaled: tl.constexpr, bands: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    stim = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < rows * width
    row = at // width
    time = at - row * width
    here = table + stim * columns
    there = inside & (time < tl.load(here + columns - 2) * per_bin)
    value = tl.load(stored + tl.load(here + first + row, mask=inside, other=0) + time, mask=there, other=0.0)
    if scaled:
        mean = tl.load(mean + row * step, mask=inside, other=0)
        value = tl.math.div_rn(value - mean, tl.load(deviation + row * step, mask=inside, other=1))
    if bands:
        there = there & (value == value)
    to = stim.to(tl.int64) * (rows * width) + at
    tl.store(values + to, tl.where(there, value, 0.0).to(values.dtype.element_ty), mask=inside)


def serves(
    stored: Tensor, table: Tensor, trials: tuple[int, int, int], sounds: tuple[int, int], transform: Transform
) -> bool:
    """Whether they make such a batch, and to the bit.

    They smooth nothing, average only what can be added up in any order, and number the values of a stimulus by 32 bits.
    """
    exact = not transform.average or not stored.is_floating_point()
    largest = max(math.prod(trials), math.prod(sounds))
    return transform.kernel is None and exact and 0 < len(table) < 2**16 and largest < 2**31 - _BLOCK


def tried(device: torch.device) -> None:
    """Compile and run one of them on a device, to see whether that can be."""
    table = torch.ones((1, 5), dtype=torch.int64, device=device)
    responses(torch.zeros(4, dtype=torch.uint8, device=device), table, (1, 1, 1), torch.float32, Transform())


def responses(
    stored: Tensor, table: Tensor, shape: tuple[int, int, int], dtype: torch.dtype, transform: Transform
) -> tuple[Tensor, Tensor]:
    """Responses and mask of a batch, as `strfcube.adapters.torch.decode.responses` of its rows.

    Parameters
    ----------
    stored : Tensor of uint8, int16 or float32 [shape=(value,)]
        Trials as they lie on the device.
    table : Tensor of int64 [shape=(stim, ...)]
        See `strfcube.adapters.torch.carrier.Staged`.
    shape : tuple of int
        Neurons, most repeats, most bins.
    dtype : torch.dtype
        Of the floats.
    transform : Transform
        What `serves` allows.
    """
    neurons, repeats, bins = shape
    depth = 1 if transform.average else repeats
    values = torch.empty((len(table), neurons, depth, bins), dtype=dtype, device=stored.device)
    seen = torch.empty(values.shape, dtype=torch.bool, device=stored.device)
    scaled = transform.shift is not None
    shift, scale = (transform.shift, transform.scale) if scaled else (values, values)
    grid = triton.cdiv(neurons * depth * bins, _BLOCK), len(table)
    with torch.cuda.device_of(stored):  # Triton launches where torch is, not where the tensors are
        _trials[grid](
            stored, table, values, seen, shift, scale, neurons, repeats, bins, table.shape[1],
            transform.average, scaled, _BLOCK,
        )  # fmt: skip
    return values, seen


def sounds(
    stored: Tensor,
    table: Tensor,
    shape: tuple[int, int, int],
    per_bin: int,
    dtype: torch.dtype,
    scaling: tuple[Tensor, Tensor] | None,
    *,
    bands: bool,
) -> Tensor:
    """Stimuli of a batch [shape=(stim, row, width)], as `strfcube.adapters.torch.decode.sounds` of its rows.

    Parameters
    ----------
    stored : Tensor of float32 [shape=(value,)]
        Spectrograms or waveforms as they lie on the device.
    table : Tensor of int64 [shape=(stim, ...)]
        As above.
    shape : tuple of int
        Rows of a stimulus, most values of a row, and the column of `table` that says where the first one begins.
    per_bin : int
        Values of a bin.
    dtype : torch.dtype
        Of the result.
    scaling : tuple of Tensor [shape=(row or 1, 1)], optional
        Mean and standard deviation.
    bands : bool
        Whether they are spectrograms, in which a band without values is 0.
    """
    rows, width, first = shape
    values = torch.empty((len(table), rows, width), dtype=dtype, device=stored.device)
    mean, deviation = (values, values) if scaling is None else scaling
    grid = triton.cdiv(rows * width, _BLOCK), len(table)
    with torch.cuda.device_of(stored):
        _sounds[grid](
            stored, table, values, mean, deviation, rows, width, first, table.shape[1], per_bin,
            int(mean.numel() > 1), scaling is not None, bands, _BLOCK,
        )  # fmt: skip
    return values
