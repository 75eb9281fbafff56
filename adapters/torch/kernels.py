"""A batch by one kernel, in Triton, from stored values on a GPU: what `decode` does in ten, with no memory between."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

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


@triton.jit
def _trials(
    program, stim, trials, first, size, values, seen, shift, scale, neurons, repeats, bins,
    average: tl.constexpr, scaled: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Some responses of a stimulus, whose trials lie at `trials`, those of a neuron at `first`, and their mask."""
    depth = 1 if average else repeats
    at = program * block + tl.arange(0, block)
    inside = at < neurons * depth * bins
    row = at // bins
    time = at - row * bins
    neuron = row // depth
    start = tl.load(first + neuron, mask=inside, other=0) + time
    number = tl.load(first + neurons + neuron, mask=inside, other=0)
    recorded = inside & (time < size)
    if average:
        total = tl.zeros([block], tl.float32)
        count = tl.zeros([block], tl.float32)
        repeat = 0
        while repeat < repeats:
            there = recorded & (repeat < number)
            raw = tl.load(trials + start + repeat * size, mask=there, other=0)
            there = there & _known(raw)
            total += tl.where(there, _float(raw), 0.0)
            count += tl.where(there, 1.0, 0.0)
            repeat += 1
        known = count > 0
        value = tl.math.div_rn(total, tl.where(known, count, 1.0))
    else:
        repeat = row - neuron * depth
        there = recorded & (repeat < number)
        raw = tl.load(trials + start + repeat * size, mask=there, other=0)
        known = there & _known(raw)
        value = _float(raw)
    if scaled:
        less = tl.load(shift + neuron, mask=inside, other=0)
        value = tl.math.div_rn(value - less, tl.load(scale + neuron, mask=inside, other=1))
    to = stim.to(tl.int64) * (neurons * depth * bins) + at
    tl.store(values + to, tl.where(known, value, float("nan")).to(values.dtype.element_ty), mask=inside)
    tl.store(seen + to, known, mask=inside)


@triton.jit
def _sounds(
    program, stim, sound, size, stims, mean, deviation, rows, width, step,
    scaled: tl.constexpr, bands: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Some values of a spectrogram or waveform, which lies at `sound`."""
    at = program * block + tl.arange(0, block)
    inside = at < rows * width
    row = at // width
    time = at - row * width
    there = inside & (time < size)
    value = tl.load(sound + row * size + time, mask=there, other=0.0)
    if scaled:
        less = tl.load(mean + row * step, mask=inside, other=0)
        value = tl.math.div_rn(value - less, tl.load(deviation + row * step, mask=inside, other=1))
    if bands:
        there = there & (value == value)
    to = stim.to(tl.int64) * (rows * width) + at
    tl.store(stims + to, tl.where(there, value, 0.0).to(stims.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["at", "neurons", "repeats", "bins", "rows", "per_bin", "step"])
def _batch(
    trials, sounds, of_neurons, of_stims, order, values, seen, stims, shift, scale, mean, deviation,
    at, neurons, repeats, bins, rows, per_bin, step, average: tl.constexpr, normalized: tl.constexpr,
    standardized: tl.constexpr, bands: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Programs of a stimulus [axis 1]: first those of its responses, then those of its sound."""
    program = tl.program_id(0)
    stim = tl.program_id(1)
    item = tl.load(order + at + stim)
    here = of_stims + 4 * item
    size = tl.load(here + 2)
    of_trials = tl.cdiv(neurons * (1 if average else repeats) * bins, block)
    if program < of_trials:
        _trials(
            program, stim, trials + tl.load(here), of_neurons + 2 * neurons * item, size, values, seen, shift, scale,
            neurons, repeats, bins, average, normalized, block,
        )  # fmt: skip
    else:
        _sounds(
            program - of_trials, stim, sounds + tl.load(here + 1), size * per_bin, stims, mean, deviation,
            rows, bins * per_bin, step, standardized, bands, block,
        )  # fmt: skip


def serves(transform: Transform, dtype: torch.dtype, largest: int) -> bool:
    """Whether the kernel makes such batches, and to the bit.

    It smooths nothing, averages what can be added up in any order, and numbers the values of a stimulus by 32 bits.

    Parameters
    ----------
    transform : Transform
        What is done to the responses.
    dtype : torch.dtype
        In which they are stored.
    largest : int
        Values of a stimulus in a batch, at most.
    """
    exact = not (transform.average and dtype.is_floating_point)
    return transform.kernel is None and exact and largest < 2**31 - _BLOCK


class Maker:
    """Makes the batches of a view, each by one kernel, as the functions of `strfcube.adapters.torch.decode` make them.

    Parameters
    ----------
    device : torch.device
        Where.
    dtype : torch.dtype
        Of stimuli and responses.
    transform : Transform
        What is done to responses; see `serves`.
    scaling : tuple of Tensor [shape=(row or 1, 1)], optional
        Mean and standard deviation of the sounds.
    rows, per_bin : int
        Rows of a sound, and values of a row in a bin.
    bands : bool
        Whether they are spectrograms, in which a band without values is 0.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        transform: Transform,
        scaling: tuple[Tensor, Tensor] | None,
        *,
        rows: int,
        per_bin: int,
        bands: bool,
    ) -> None:
        self._device, self._dtype, self._rows, self._per_bin = device, dtype, rows, per_bin
        none = torch.zeros(1, device=device)  # for what is not looked at
        shift, scale = (none if v is None else v for v in (transform.shift, transform.scale))
        mean, deviation = (none, none) if scaling is None else scaling
        self._scaled = shift, scale, mean, deviation
        self._step = int(mean.numel() > 1)
        self._average = transform.average
        self._ways = transform.average, transform.shift is not None, scaling is not None, bands, _BLOCK
        # Triton launches where torch is, not where the tensors are
        elsewhere = device.type == "cuda" and torch.cuda.device_count() > 1
        self._there = partial(torch.cuda.device, device) if elsewhere else nullcontext

    def __call__(
        self,
        trials: Tensor,
        sounds: Tensor,
        places: tuple[Tensor, Tensor],
        order: Tensor,
        at: int,
        number: int,
        repeats: int,
        bins: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stimuli, responses and mask of a batch.

        Parameters
        ----------
        trials, sounds : Tensor [shape=(value,)]
            As they lie on the device: of uint8, int16 or float32, and of float32.
        places : tuple of Tensor
            Where they lie there: `strfcube.adapters.torch.carrier.Places`.
        order : Tensor of int64 [shape=(stim,)]
            Which of the places are those of the stimuli of an epoch.
        at, number : int
            Where those of the batch begin in it, and how many they are.
        repeats, bins : int
            The most of them.
        """
        neurons, device, dtype, rows = places[0].shape[2], self._device, self._dtype, self._rows
        depth, width = 1 if self._average else repeats, bins * self._per_bin
        stims = torch.empty((number, rows, width), dtype=dtype, device=device)
        values = torch.empty((number, neurons, depth, bins), dtype=dtype, device=device)
        seen = torch.empty((number, neurons, depth, bins), dtype=torch.bool, device=device)
        programs = -(-neurons * depth * bins // _BLOCK) - (-rows * width // _BLOCK)
        with self._there():
            _batch[programs, number](
                trials, sounds, *places, order, values, seen, stims, *self._scaled, at, neurons, repeats, bins, rows,
                self._per_bin, self._step, *self._ways,
            )  # fmt: skip
        return stims, values, seen


def tried(device: torch.device) -> None:
    """Compile and run it once on a device, to see whether that can be."""
    trials, order = torch.zeros(1, dtype=torch.uint8, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    places = (
        torch.zeros((1, 2, 1), dtype=torch.int32, device=device),
        torch.zeros((1, 4), dtype=torch.int64, device=device),
    )
    make = Maker(device, torch.float32, Transform(), None, rows=1, per_bin=1, bands=True)
    make(trials, order.to(torch.float32), places, order, 0, 1, 1, 1)
