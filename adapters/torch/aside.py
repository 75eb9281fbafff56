"""Batches of a device made ahead of their use, by a thread and on a stream of its own."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import torch

from strfcube.adapters.torch.arena import stream_for
from strfcube.loading.loader import ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

Batch = dict[str, Any]


def made_aside(batches: Iterator[Batch], device: torch.device, depth: int) -> Iterator[Batch]:
    """Up to `depth` batches that are made while others are used.

    Where a device has streams, the thread launches on one of its own, which the stream of the consumer waits for when
    it gets the batch. Memory that the consumer lets go of is free for the other stream only when the device has come so
    far; the thread, which can be far ahead of it, waits until batches that were used are done with.

    Parameters
    ----------
    batches : iterator of dict
        Makes them on the stream that is current.
    device : torch.device
        Where.
    depth : int
        Batches that may lie ready.
    """
    if device.type != "cuda":
        return ahead(batches, depth)
    used: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stream = stream_for(device, "batches")
    stream.wait_stream(torch.cuda.current_stream(device))  # what a view made there before
    return _taken_over(ahead(_made(batches, stream, used, depth), depth), device, used)


def _made(batches: Iterator[Batch], stream: Any, used: queue.SimpleQueue[Any], depth: int) -> Iterator[Any]:
    """Each batch, and the event that says that it is there."""
    count = 0
    while True:
        # As many as lie ready, and the one in use, may be there when another is made: the others are to be done with
        if count > depth + 1:
            done = used.get()
            if done is None:  # nobody takes any more
                return
            done.synchronize()
        with torch.cuda.stream(stream):
            batch = next(batches, None)
            ready = stream.record_event()
        if batch is None:
            return
        count += 1
        yield batch, ready
        del batch


def _taken_over(made: Iterator[Any], device: torch.device, used: queue.SimpleQueue[Any]) -> Iterator[Batch]:
    try:
        for batch, ready in made:
            here = torch.cuda.current_stream(device)
            here.wait_event(ready)
            for value in batch.values():
                if isinstance(value, torch.Tensor) and value.device.type == "cuda":
                    value.record_stream(here)
            yield batch
            del batch
            used.put(torch.cuda.current_stream(device).record_event())  # all that is done with it is launched by now
    finally:
        used.put(None)
