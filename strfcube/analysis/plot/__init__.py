"""Pictures of a cube; they need matplotlib (``pip install 'strfcube[plot]'``), which is imported on first use.

Every function gives a `matplotlib.figure.Figure` that is not kept open: it is shown where it is the value of a
notebook's cell, and ``figure.savefig("picture.pdf")`` writes it. It is as wide as a column of a journal, 85 mm, or as
two (`width_mm`). `figure` draws into one of your own, or into a part of it, and so does `ax` where a picture is one
panel. Colours can be told apart with any colour vision.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from strfcube.analysis.plot.models import prediction, strf
from strfcube.analysis.plot.populations import population
from strfcube.analysis.plot.presented import coverage
from strfcube.analysis.plot.reliability import quality
from strfcube.analysis.plot.responses import cell, psths, response, stimulus, waveform
from strfcube.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from matplotlib.figure import Figure

    P = ParamSpec("P")
    Drawing = Callable[Concatenate[xr.Dataset, P], Figure]

__all__ = ["KINDS", "Plots", "options", "see_known"]

KINDS: dict[str, Callable[..., Figure]] = {
    f.__name__: f for f in (stimulus, response, cell, psths, waveform, population, coverage, quality, prediction, strf)
}


def options(kind: str) -> tuple[str, ...]:
    """What a picture can be told, by name."""
    return tuple(inspect.signature(KINDS[kind]).parameters)[1:]


def see_known(kind: str) -> None:
    """Refuse a kind of picture that there is none of.

    Raises
    ------
    UsageError
        The message lists what there is.
    """
    if kind not in KINDS:
        raise UsageError(f"no picture is called {kind!r}; {did_you_mean(kind, KINDS)}there are {', '.join(KINDS)}")


def _of_cube(function: Drawing[P]) -> Callable[Concatenate[Plots, P], Figure]:
    """The function as a method, which says in one line what can be asked for."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def method(self: Plots, *args: P.args, **kwargs: P.kwargs) -> Figure:
        try:
            signature.bind(self._ds, *args, **kwargs)
        except TypeError as error:
            listed = ", ".join(options(function.__name__))
            raise UsageError(f"plot.{function.__name__}: {error}; it takes {listed}") from None
        return function(self._ds, *args, **kwargs)

    of_self = signature.replace(parameters=[inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                                            *list(signature.parameters.values())[1:]])  # fmt: skip
    method.__signature__ = of_self  # type: ignore[attr-defined]
    return method  # type: ignore[return-value]


class Plots:
    """``ds.strf.plot``: the pictures of a cube.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __repr__(self) -> str:
        """Names what there is to draw."""
        return f"<ds.strf.plot: {', '.join(KINDS)}>"

    def __getattr__(self, name: str) -> Any:
        """Says what there is where a picture is not."""
        if not name.startswith("_"):
            try:
                see_known(name)
            except UsageError as error:
                raise AttributeError(str(error)) from None
        raise AttributeError(name)

    stimulus = _of_cube(stimulus)
    response = _of_cube(response)
    cell = _of_cube(cell)
    psths = _of_cube(psths)
    waveform = _of_cube(waveform)
    population = _of_cube(population)
    coverage = _of_cube(coverage)
    quality = _of_cube(quality)
    prediction = _of_cube(prediction)
    strf = _of_cube(strf)
