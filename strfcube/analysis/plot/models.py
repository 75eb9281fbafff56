"""Pictures of what models say: `prediction` and `strf`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.analysis.plot.figure import ACCENT, COLUMN_MM, FAINT, MISSING, PAGE_MM, drawing
from strfcube.analysis.plot.pair import (
    Sound,
    chosen,
    frequency_ticks,
    neuron_title,
    repeats_of,
    several,
    single,
    smoothing,
    sound,
)
from strfcube.analysis.plot.panels import TIME, few, step
from strfcube.analysis.predictions import aligned
from strfcube.analysis.spikes import position
from strfcube.analysis.transform import hann_kernel, psth
from strfcube.cube.normalise import own_units
from strfcube.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

_MOST_FIELDS = 24  # that are drawn where none are asked for
_A_BIN, _A_SECOND = ("count", "counts", "spikes", "counts/bin", "spikes/bin"), ("spikes/s", "Hz", "1/s")


@dataclass(frozen=True, eq=False)
class Prediction:
    """A PSTH and a prediction of it, as they are drawn.

    Attributes
    ----------
    sound : Sound
    title : str
        Neuron and stimulus.
    rate, predicted : ndarray of float [shape=(time,)]
        In spikes/s or mV; NaN in bins that the prediction lacks.
    unit : {"spikes/s", "mV"}
    repeats : int
    scores : str
        CC and CCnorm, where they are known, without smoothing; they say so where the curves are smoothed.
    note : str
        How both were smoothed.
    taken_as : str
        What the prediction was taken to be in, where it states no unit.
    """

    sound: Sound
    title: str
    rate: NDArray[Any]
    predicted: NDArray[Any]
    unit: str
    repeats: int
    scores: str
    note: str
    taken_as: str


def collect(
    ds: xr.Dataset, pred: xr.DataArray | NDArray[Any], stim: Any = None, neuron: Any = None,
    smooth_ms: float | None = None,
) -> Prediction:  # fmt: skip
    """What `prediction` draws; knows no matplotlib.

    Parameters
    ----------
    ds, pred, stim, neuron, smooth_ms
        As for `prediction`.
    """
    from strfcube.analysis.quality import cc, ccnorm
    from strfcube.analysis.transform import smooth

    dt_ms = float(ds.attrs["dt_ms"])
    how = smoothing(dt_ms, smooth_ms)
    # Positions are those in the cube, whatever part of it is predicted
    stim, neuron = (_label(ds, dim, given) for dim, given in (("stim", stim), ("neuron", neuron)))
    if stim is not None and isinstance(pred, xr.DataArray) and "stim" not in {*pred.dims, *pred.coords}:
        pred = pred.assign_coords(stim=stim)
    beside, response = aligned(pred, ds["response"], n_bins=0, partial=True)
    if further := [str(d) for d in beside.dims if d not in ("stim", "neuron", "time")]:
        raise UsageError(f"prediction: has also {', '.join(further)}; choose one: pred.isel({further[0]}=0)")
    part = ds.sel(stim=response["stim"], neuron=response["neuron"])
    s, n = chosen(part, stim, neuron)
    trace = own_units(part)[n] == "mV"
    pair = repeats_of(part, s, n)
    own = beside.sel({d: pair[d].item() for d in ("stim", "neuron") if d in beside.dims})
    own = own.isel(time=slice(0, pair.sizes["time"])).compute()
    plain, norm = (float(measure(own, pair["response"], per="pair")) for measure in (cc, ccnorm))
    given = _stated(pred, str(pair["neuron"].values))
    if given in ("1", str(ds["stimulus"].attrs.get("units", ""))):  # xarray keeps it of spectrograms times weights
        given = ""
    shown = own * _scale(given, trace, dt_ms)
    if smooth_ms:
        shown = smooth(shown, dt_ms, smooth_ms)
    scores = ", ".join(f"{name} = {v:.2f}" for name, v in (("CC", plain), ("CCnorm", norm)) if np.isfinite(v))
    if scores and smooth_ms and len(hann_kernel(dt_ms, smooth_ms)) > 1:
        scores += " without smoothing"
    heard = sound(part, s)
    return Prediction(
        heard, f"{neuron_title(pair)}\n{heard.title}", psth(pair["response"], dt_ms, smooth_ms).values, shown.values,
        "mV" if trace else "spikes/s", pair.sizes["repeat"], scores, how,
        "" if given or trace else "counts a bin",
    )  # fmt: skip


def _stated(pred: Any, neuron: str) -> str:
    """The unit that a prediction states: for all of it, or where that is none or mixed, for this neuron; else none."""
    of_all = str(getattr(pred, "attrs", {}).get("units", ""))
    if of_all not in ("", "mixed"):
        return of_all
    each = getattr(pred, "coords", {}).get("units")
    if each is not None and each.dims == ("neuron",) and "neuron" in each.coords:
        each = each[[str(label) for label in each["neuron"].values].index(neuron)]
    return str(each.values) if each is not None and not each.dims else ""


def _scale(units: str, trace: bool, dt_ms: float) -> float:
    """What a prediction is multiplied by to be in mV, or in spikes/s."""
    if units in (("mV", "") if trace else _A_SECOND):
        return 1.0
    if not trace and units in (*_A_BIN, ""):
        return 1000 / dt_ms
    wanted = "'mV'" if trace else "'count' (a bin) or 'spikes/s'"
    raise UsageError(
        f"prediction: it states units {units!r}, expected {wanted} as the responses of this neuron are; "
        "pred.assign_attrs(units=...) says what it is in"
    )


def prediction(
    ds: xr.Dataset, pred: xr.DataArray | NDArray[Any], stim: str | int | None = None, neuron: str | int | None = None,
    smooth_ms: float | None = None, *, width_mm: float = COLUMN_MM, ax: Axes | None = None,
    figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """PSTH of one pair, and what a model says it is.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    pred : xarray.DataArray or array [dims=(stim, neuron, time)]
        In what its attribute ``units`` states, or its coordinate ``units`` of each neuron: ``spikes/s`` or ``Hz``,
        ``count`` (a bin), ``mV``. One that states none is taken to be in counts a bin, as the responses are, and the
        picture says so; of a membrane potential in mV. Laid beside the responses as
        `strfcube.analysis.quality.ccnorm` does, with a gap in the curve where it lacks bins.
    stim, neuron : str or int, optional
        Label, or position in the cube; default: the first pair with most repeats, of the stimuli and neurons of `pred`.
    smooth_ms : float, optional
        Full width in ms of the Hann window that both are smoothed with.
    width_mm : float
        Width of the figure, as it is to be printed.
    ax, figure : optional
        Draw in these axes, or in this figure.

    Returns
    -------
    matplotlib.figure.Figure
        With the correlation and CCnorm of the pair, without smoothing, in the title.

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    UsageError
        If `pred` has another shape, labels that are not the cube's, several models, or a unit that the responses of
        the neuron are not in.
    ImportError
        If matplotlib is not installed.
    """
    shown = collect(ds, pred, stim, neuron, smooth_ms)
    with drawing(width_mm, 60, figure, ax) as fig:
        panel = ax if ax is not None else fig.add_subplot()
        bins, trace = shown.sound.edges, shown.unit == "mV"
        label = f"PSTH, {shown.repeats} repeats" if shown.repeats > 1 else "response, one repeat"
        if trace:
            step(panel, bins, shown.rate, FAINT, label=label)
        else:
            panel.stairs(shown.rate, bins, fill=True, color=MISSING, label=label)
        taken_as = f" (taken as {shown.taken_as})" if shown.taken_as else ""
        step(panel, bins, shown.predicted, ACCENT, label=f"prediction{taken_as}")
        panel.autoscale(axis="y")  # of both: a filled curve alone would hold the axis at its own top
        if not trace:
            low, high = (f(np.nan_to_num([shown.rate, shown.predicted])) for f in (np.min, np.max))
            panel.set_ylim(min(0.0, 1.05 * float(low)), 1.05 * float(high) or 1.0)
        panel.set_xlim(bins[0], bins[-1])
        panel.set_xlabel(TIME if not smooth_ms else f"{TIME}; {shown.note}")
        panel.set_ylabel("membrane potential (mV)" if trace else "firing rate (spikes/s)")
        if ax is None:
            fig.legend(loc="outside lower center", ncols=2, frameon=False)
        else:
            panel.legend(frameon=False)
        panel.set_title(shown.title + (f"\n{shown.scores}" if shown.scores else ""))
    return fig  # type: ignore[return-value]


def strf(
    ds: xr.Dataset, weights: xr.DataArray | xr.Dataset, neuron: str | int | Sequence[str | int] | None = None,
    columns: int = 4, *,
    width_mm: float = PAGE_MM, figure: FigureBase | None = None,
) -> Figure:  # fmt: skip
    """Spectro-temporal receptive fields, each on its own symmetric scale.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube; the weights need not be of all of its neurons.
    weights : xarray.DataArray [dims=(frequency, lag) or (neuron, frequency, lag)], or xarray.Dataset
        What ``ds.strf.fit_strf`` gave, or weights of another model.
        Coordinates ``frequency`` in Hz and ``lag`` in s (what came before the response is positive). Lags may be
        unevenly spaced: a cell reaches half way to its neighbours.
    neuron : str or int, or sequence of them, optional
        Which of them, by label or by position in the cube; default: the first 24, and the picture says so where there
        are more.
    columns : int
        Panels in a row.
    width_mm : float
        Width of the figure, as it is to be printed.
    figure : optional
        Draw in this figure, or part of one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such neuron.
    UsageError
        If the dims are others, a lag is missing or comes twice, or `columns` is no number of panels.
    ImportError
        If matplotlib is not installed.
    """
    if not isinstance(columns, int) or isinstance(columns, bool) or not 1 <= columns <= 50:
        raise UsageError(f"columns={columns!r}: expected a number of panels in a row, 1 to 50")
    fields, note = _fields(ds, weights, neuron)
    count = fields.sizes["neuron"]
    columns = min(columns, count)
    rows = -(-count // columns)
    wide = min(width_mm, 30 + 45 * columns) if width_mm == PAGE_MM else width_mm
    with drawing(wide, 14 + 0.75 * rows * (wide - 20) / columns, figure) as fig:
        axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        edges = _edges(fields["lag"].values.astype(float) * 1000, float(ds.attrs["dt_ms"]))
        bands = np.arange(fields.sizes["frequency"] + 1) - 0.5
        image: Any = None
        for i, ax in enumerate(axes.flat):
            if i >= count:
                ax.remove()
                continue
            values = fields.values[i]
            scale = float(np.nanmax(np.abs(values), initial=0)) or 1.0
            image = ax.pcolormesh(edges, bands, values / scale, cmap="RdBu_r", vmin=-1, vmax=1, rasterized=True)
            if "neuron" in fields.coords:
                ax.set_title(str(fields["neuron"].values[i]), fontsize="small")
            ax.tick_params(labelbottom=i + columns >= count)
        numbered = "band_frequency" in ds.coords and np.array_equal(fields["frequency"], ds["frequency"])
        if not numbered:
            axes[0, 0].set_yticks(*frequency_ticks(fields["frequency"].values.astype(float) / 1000))
        few(axes[0, 0].xaxis, 4)
        fig.supxlabel("lag: sound before response (ms)")
        fig.supylabel("band" if numbered else "frequency (kHz)")
        if note:
            fig.suptitle(note, color=FAINT)
        bar = fig.colorbar(image, ax=list(axes.flat[:count]), aspect=30)
        bar.set_label("weight / largest weight")
        bar.outline.set_linewidth(0.6)
    return fig  # type: ignore[return-value]


def _wanted(ds: xr.Dataset, fields: xr.DataArray, neuron: Any) -> list[int]:
    """Positions in the fields of neurons that are given by label, or by position in the cube."""
    each = list(neuron) if isinstance(neuron, list | tuple | np.ndarray) else [neuron]
    return several(fields.to_dataset(name="weights"), "neuron", [_label(ds, "neuron", one) for one in each])


def _label(ds: xr.Dataset, dim: str, wanted: Any) -> Any:
    """Label of what is given by label, or by position in the cube."""
    wanted = single(dim, wanted)
    return wanted if wanted is None or isinstance(wanted, str) else str(ds[dim].values[position(ds, dim, wanted)])


def _edges(centres: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Edges of cells, half way between ascending centres; the outermost as far out as in; `width` of a single one."""
    steps = np.diff(centres) if len(centres) > 1 else np.array([width])
    return np.concatenate([[centres[0] - steps[0] / 2], centres[:-1] + np.diff(centres) / 2,
                           [centres[-1] + steps[-1] / 2]])  # fmt: skip


def _fields(ds: xr.Dataset, weights: Any, neuron: Any) -> tuple[xr.DataArray, str]:
    """The fields to draw [dims=(neuron, frequency, lag)], and what is said of those that are not."""
    weights = weights["weights"] if isinstance(weights, xr.Dataset) and "weights" in weights else weights
    if not isinstance(weights, xr.DataArray):
        raise UsageError(
            f"weights: expected a DataArray with dims ('frequency', 'lag'), got {type(weights).__name__}; label it: "
            "xr.DataArray(weights, {'frequency': ds.frequency, 'lag': seconds}, ('frequency', 'lag'))"
        )
    if not {"frequency", "lag"} <= set(weights.dims) <= {"neuron", "frequency", "lag"}:
        raise UsageError(f"weights with dims {weights.dims}, expected ('frequency', 'lag'), and 'neuron' where several")
    unlabelled = [d for d in ("frequency", "lag") if d not in weights.coords]
    if unlabelled:
        raise UsageError(f"weights without labels of {' and '.join(unlabelled)}: give frequency in Hz and lag in s")
    if not weights.size:
        raise UsageError(f"weights of shape {weights.shape}: nothing to draw")
    fields = weights.expand_dims("neuron") if "neuron" not in weights.dims else weights
    fields = fields.transpose("neuron", "frequency", "lag").sortby("lag")
    if not (np.diff(fields["lag"].values.astype(float), append=np.inf) > 0).all():
        raise UsageError("weights: labels of lag are missing or come twice; expected each lag once, in s")
    count = fields.sizes["neuron"]
    if neuron is not None:
        if "neuron" not in fields.coords:
            if count != ds.sizes["neuron"]:
                raise UsageError(
                    f"weights of {count} neurons without labels, the cube has {ds.sizes['neuron']}: which is which? "
                    "weights.assign_coords(neuron=LABELS) says it"
                )
            fields = fields.assign_coords(neuron=ds["neuron"].values)
        return fields.isel(neuron=_wanted(ds, fields, neuron)), ""
    note = f"the first {_MOST_FIELDS} of {count:,} neurons; neuron= shows others" if count > _MOST_FIELDS else ""
    return fields.isel(neuron=slice(0, _MOST_FIELDS)), note
