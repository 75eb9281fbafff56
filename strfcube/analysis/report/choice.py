"""Which responses a page holds, so that it is no larger than it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.report.packing import text_of
from strfcube.analysis.report.responses import block

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from strfcube.analysis.report.responses import Responses


def ranks(repeats: NDArray[np.int64]) -> NDArray[np.int64]:
    """In which place each pair comes among those of its neuron [shape=(stim, neuron)]; the number of stimuli if none.

    Stimuli that most neurons heard come first, so that what is left out is the same for all neurons as far as it can.
    """
    heard = repeats > 0
    order = np.lexsort((-repeats.sum(1), -heard.sum(1)))
    out = np.full(repeats.shape, len(repeats), np.int64)
    place = np.cumsum(heard[order], axis=0) - 1
    out[order] = np.where(heard[order], place, len(repeats))
    return out


def texts(responses: Responses, most: int, progress: Callable[[int, int], None]) -> tuple[list[str], NDArray[np.bool_]]:
    """A block of text a neuron, `most` characters at most in all, and which pairs they hold [shape=(stim, neuron)].

    Every neuron keeps as many of its stimuli as there is room for; where there is none for one each, neurons spread
    evenly over the cube keep one.
    """
    rank = ranks(responses.repeats)
    wanted = responses.repeats > 0
    total = wanted.shape[1]
    cost = np.zeros(wanted.shape)
    most = max(0, most)
    room = float(most)
    while True:
        out = []
        for n, pairs in enumerate(responses.neurons(wanted)):
            out.append(text_of(block(pairs)) if pairs else "")
            own = np.array([p.cost for p in pairs.values()], float)
            cost[list(pairs), n] = own * len(out[-1]) / max(1.0, own.sum())
            progress(n + 1, total)
        size = sum(map(len, out))
        if size <= most:
            return out, wanted
        room = 0.99 * min(room, room * most / size) if room < most else 0.98 * most
        wanted &= _fitting(cost, rank, room)


def _fitting(cost: NDArray[np.float64], rank: NDArray[np.int64], room: float) -> NDArray[Any]:
    """The pairs of the first places that fit."""
    by_place = np.bincount(rank.ravel(), cost.ravel(), minlength=len(rank) + 1)[: len(rank)]
    places = int((np.cumsum(by_place) <= room).sum())
    if places:
        return np.asarray(rank < places)
    first = np.where(rank == 0, cost, 0).sum(0)
    some = np.zeros(len(first), bool)
    some[np.linspace(0, len(first) - 1, min(len(first), int(0.9 * room / max(first.mean(), 1e-9)))).astype(int)] = True
    return np.asarray((rank == 0) & some)
