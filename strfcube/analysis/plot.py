"""Pictures of a cube; they need matplotlib (``pip install 'strfcube[plot]'``), which is imported on first use.

Every function gives a `matplotlib.figure.Figure`: ``figure.savefig("picture.png")``. Colours can be told apart with any
colour vision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strfcube.analysis.predictions import aligned
from strfcube.analysis.spikes import SpikeTrains, of_pair, position
from strfcube.analysis.transform import hann_kernel, psth
from strfcube.errors import SelectionError, UsageError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

INK, ACCENT, FAINT = "#1a1a1a", "#d55e00", "#8c8c8c"  # the accent is Okabe and Ito's vermilion
_TICKS_KHZ = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ImportError("plots need matplotlib: pip install 'strfcube[plot]'") from error
    return pyplot


def _pair(ds: xr.Dataset, stim: str | int | None, neuron: str | int | None) -> xr.Dataset:
    """One (stim, neuron) pair, cut to its bins and repeats, in memory; of those not given, one with most repeats."""
    repeats = ds["n_repeats"].transpose("stim", "neuron").values.astype(int)
    if stim is not None:
        repeats = np.where(np.arange(len(repeats))[:, None] == position(ds, "stim", stim), repeats, -1)
    if neuron is not None:
        repeats = np.where(np.arange(repeats.shape[1]) == position(ds, "neuron", neuron), repeats, -1)
    s, n = np.unravel_index(int(repeats.argmax()), repeats.shape)
    if repeats[s, n] < 1:
        raise SelectionError(
            f"neuron {ds['neuron'].values[n]} has no response to stimulus {ds['stim'].values[s]}; "
            "ds.strf.coverage() shows which pairs have one"
        )
    pair = ds.isel(stim=s, neuron=n)
    return pair.isel(time=slice(0, int(pair["n_bins"])), repeat=slice(0, int(repeats[s, n]))).load()


def _smoothing(ds: xr.Dataset, smooth_ms: float | None) -> None:
    """Refuse a width that is none before anything is read."""
    if smooth_ms is not None:
        hann_kernel(float(ds.attrs["dt_ms"]), smooth_ms)


def _edges(ds: xr.Dataset) -> NDArray[np.float64]:
    """Edges of the bins in s."""
    step = float(ds.attrs["dt_ms"]) / 1000
    start = ds["time"].values.astype(float)
    return np.append(start, start[-1] + step)


def _title(pair: xr.Dataset) -> str:
    unit, sound = [str(pair["neuron"].values)], [str(pair["stim"].values)]
    name = str(pair["stim_name"].values)
    if sound[0] not in name and name.removesuffix(".wav") not in sound[0] and len(name) < 40:
        sound.append(name)
    for parts, key in ((unit, "area"), (sound, "stim_type")):
        if (word := str(pair[key].values)) not in ("", "unknown") and word not in parts[0].split("/"):
            parts.append(word.replace("_", " "))
    return f"{', '.join(unit)}  ·  {', '.join(sound)}"


def _frequencies(ax: Axes, frequency: NDArray[Any]) -> None:
    """Label an axis that counts bands with round frequencies, wherever these bands lie."""
    f = np.asarray(frequency, float) / 1000
    rising = np.argsort(f)
    ticks = [t for t in _TICKS_KHZ if f.min() <= t <= f.max()]
    if len(ticks) < 2:
        ticks = sorted(float(f"{v:.3g}") for v in f[:: max(1, len(f) // 4)])
    places = np.interp(ticks, f[rising], rising)
    apart = max(1.0, len(f) / 8)
    shown: list[int] = []
    for i in range(len(ticks) - 1, -1, -1):  # from above: where bands are dense it is the low ones that collide
        if not shown or abs(places[shown[-1]] - places[i]) >= apart:
            shown.append(i)
    ax.set_yticks([float(places[i]) for i in shown], [f"{ticks[i]:g}" for i in shown])
    ax.set_ylabel("frequency (kHz)")


def _spectrogram(ax: Axes, cax: Axes, pair: xr.Dataset, edges: NDArray[Any]) -> None:
    values = pair["stimulus"].transpose("frequency", "time").values
    if not np.isfinite(values).any():
        ax.text(0.5, 0.5, "the cube has no spectrogram of this stimulus", ha="center", va="center",
                transform=ax.transAxes)  # fmt: skip
        ax.set_yticks([])
        cax.axis("off")
        return
    rows = np.arange(values.shape[0] + 1) - 0.5
    image = ax.pcolormesh(edges, rows, values, cmap="magma", rasterized=True)
    _frequencies(ax, pair["frequency"].values)
    bar = ax.figure.colorbar(image, cax=cax)
    units = str(pair["stimulus"].attrs.get("units", ""))
    bar.set_label(f"level ({units})" if units not in ("", "1") else "level")


def response(
    ds: xr.Dataset, stim: str | int | None = None, neuron: str | int | None = None, smooth_ms: float | None = 21
) -> Figure:
    """Stimulus, every repeat, and PSTH of one pair, one above the other on one time axis.

    Spikes stand at their exact times, one tick each, over all the time that was recorded (or that has spikes, where
    the files do not state it): before the sound and after it too. Where a cube has no exact times, or was transformed,
    there is one tick a bin that has spikes, and the picture says so.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    stim, neuron : str or int, optional
        Label or position; default: the first pair with most repeats.
    smooth_ms : float, optional
        Full width in ms of the Hann window that the PSTH is smoothed with; None: not at all.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    ImportError
        If matplotlib is not installed.
    """
    plt = _pyplot()
    _smoothing(ds, smooth_ms)
    pair = _pair(ds, stim, neuron)
    edges = _edges(pair)
    trace = str(pair["units"].values) == "mV"
    found = of_pair(ds, str(pair["stim"].values), str(pair["neuron"].values))
    trains = found if isinstance(found, SpikeTrains) else None
    left, right = edges[0], edges[-1]
    if trains is not None:
        low, high = trains.span()
        left, right = float(np.fmin(left, low)), float(np.fmax(right, high))
    figure, axes = plt.subplots(
        3, 2, figsize=(9, 6.5), layout="constrained", sharex="col",
        gridspec_kw={"width_ratios": [1, 0.018], "height_ratios": [1.1, 1, 0.9]},
    )  # fmt: skip
    (top, bar), (middle, _), (bottom, _) = axes
    for unused in (axes[1, 1], axes[2, 1]):
        unused.remove()
    _spectrogram(top, bar, pair, edges)
    if trace:
        _traces(middle, pair, edges)
    elif trains is None:
        _counts(middle, pair, edges)
    else:
        _raster(middle, trains, left, right)
    _step(bottom, edges, psth(pair["response"], float(ds.attrs["dt_ms"]), smooth_ms).values, INK)
    smoothed = "" if not smooth_ms else f", {smooth_ms:g} ms Hann"
    bottom.set_ylabel("mean potential (mV)" if trace else "firing rate (spikes/s)")
    bottom.set_title(f"mean of {pair.sizes['repeat']} repeats{smoothed}", loc="right", fontsize="small", color=FAINT)
    if not trace:
        bottom.set_ylim(bottom=0)
    bottom.set_xlabel("time from stimulus onset (s)")
    bottom.set_xlim(left, right)
    onset = float(pair["sound_onset"])
    for moment in {onset, onset + float(pair["sound_duration"])}:
        if left < moment < right - 1e-9:
            for ax in (middle, bottom):
                ax.axvline(moment, color=FAINT, lw=0.8, ls="--", zorder=0)
    figure.suptitle(_title(pair), fontsize="medium")
    figure.align_ylabels([top, middle, bottom])
    return figure  # type: ignore[no-any-return]


def _raster(ax: Axes, trains: SpikeTrains, left: float, right: float) -> None:
    row = np.repeat(np.arange(len(trains.times)), [len(t) for t in trains.times])
    _ticks(ax, np.concatenate([*trains.times, np.empty(0)]), row, len(trains.times))
    for i, (start, stop) in enumerate(trains.window):  # what a trial did not record, and another did
        for a, b in ((left, start), (stop, right)):
            if b - a > 1e-9:
                ax.fill_between([a, b], i + 0.5, i + 1.5, color=FAINT, alpha=0.3, lw=0)


def _counts(ax: Axes, pair: xr.Dataset, edges: NDArray[Any]) -> None:
    """Without exact times: one tick at the centre of every bin that has spikes."""
    counts = pair["response"].transpose("repeat", "time").values
    repeat, at = np.nonzero(np.nan_to_num(counts) > 0)
    _ticks(ax, (edges[at] + edges[at + 1]) / 2, repeat, counts.shape[0])
    missing = np.isnan(counts)
    if missing.any():
        rows = np.arange(counts.shape[0] + 1) + 0.5
        ax.pcolormesh(edges, rows, np.where(missing, 1.0, np.nan), cmap="Greys", vmin=0, vmax=4, rasterized=True)
    ax.set_title("no exact spike times: one tick a bin", loc="right", fontsize="small", color=FAINT)


def _ticks(ax: Axes, times: NDArray[Any], row: NDArray[Any], rows: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.vlines(times, row + 0.6, row + 1.4, color=INK, lw=0.7)
    ax.set_ylim(rows + 0.7, 0.3)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_ylabel("repeat")


def _traces(ax: Axes, pair: xr.Dataset, edges: NDArray[Any]) -> None:
    values = pair["response"].transpose("repeat", "time").values
    ax.plot((edges[:-1] + edges[1:]) / 2, values.T, lw=0.7, color=INK, alpha=max(0.25, 1 / len(values)))
    ax.set_ylabel("each repeat (mV)")


def _step(ax: Axes, edges: NDArray[Any], values: NDArray[Any], colour: str, **kwargs: Any) -> None:
    ax.stairs(values, edges, baseline=None, color=colour, lw=1.2, **kwargs)


def prediction(
    ds: xr.Dataset, pred: xr.DataArray | NDArray[Any], stim: str | int | None = None, neuron: str | int | None = None,
    smooth_ms: float | None = None,
) -> Figure:  # fmt: skip
    """PSTH of one pair, and what a model says it is.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    pred : xarray.DataArray or array [dims=(stim, neuron, time)]
        In counts a bin, as the responses are, or in mV; laid beside the responses as `strfcube.analysis.quality.ccnorm`
        does, with a gap in the curve where it lacks bins.
    stim, neuron : str or int, optional
        Label or position; default: the first pair with most repeats, of the stimuli and neurons of `pred`.
    smooth_ms : float, optional
        Full width in ms of the Hann window that both are smoothed with.

    Returns
    -------
    matplotlib.figure.Figure
        With the correlation and CCnorm of the pair, without smoothing, in the title.

    Raises
    ------
    SelectionError
        If there is no such stimulus or neuron, or no response of the one to the other.
    UsageError
        If `pred` has another shape, labels that are not the cube's, or several models.
    ImportError
        If matplotlib is not installed.
    """
    from strfcube.analysis.powers import powers
    from strfcube.analysis.quality import ccnorm
    from strfcube.analysis.transform import smooth

    plt = _pyplot()
    _smoothing(ds, smooth_ms)
    beside, response = aligned(pred, ds["response"], n_bins=0, partial=True)
    if further := [str(d) for d in beside.dims if d not in ("stim", "neuron", "time")]:
        raise UsageError(f"prediction: has also {', '.join(further)}; choose one: pred.isel({further[0]}=0)")
    pair = _pair(ds.sel(stim=response["stim"], neuron=response["neuron"]), stim, neuron)
    chosen = beside.sel({d: pair[d].item() for d in ("stim", "neuron") if d in beside.dims})
    chosen = chosen.isel(time=slice(0, pair.sizes["time"])).compute()
    p = powers(pair["response"], chosen)
    cc = float(p["covariance"] / np.sqrt(p["prediction_power"] * p["psth_power"]))
    dt_ms = float(ds.attrs["dt_ms"])
    edges = _edges(pair)
    trace = str(pair["units"].values) == "mV"
    shown = chosen * (1 if trace else 1000 / dt_ms)
    if smooth_ms is not None:
        shown = smooth(shown, dt_ms, smooth_ms)
    figure, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
    mean = psth(pair["response"], dt_ms, smooth_ms)
    if trace:
        _step(ax, edges, mean.values, FAINT, label=f"PSTH, {pair.sizes['repeat']} repeats")
    else:
        ax.stairs(mean.values, edges, fill=True, color="#bdbdbd", label=f"PSTH, {pair.sizes['repeat']} repeats")
    _step(ax, edges, shown.values, ACCENT, label="prediction")
    ax.autoscale(axis="y")  # of both: a filled curve alone would hold the axis at its own top
    if not trace:
        low, high = (f(np.nan_to_num([mean.values, shown.values])) for f in (np.min, np.max))
        ax.set_ylim(min(0.0, 1.05 * float(low)), 1.05 * float(high) or 1.0)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("time from stimulus onset (s)")
    ax.set_ylabel("membrane potential (mV)" if trace else "firing rate (spikes/s)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    norm = float(ccnorm(chosen, pair["response"], per="pair"))
    scores = ", ".join(f"{name} = {v:.2f}" for name, v in (("CC", cc), ("CCnorm", norm)) if np.isfinite(v))
    ax.set_title(_title(pair) + (f"  ·  {scores}" if scores else ""), fontsize="medium")
    return figure  # type: ignore[no-any-return]


def coverage(ds: xr.Dataset, by: str | None = "area") -> Figure:
    """How many repeats every neuron has of every stimulus.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    by : str, optional
        Coordinate on neuron that they are put in groups by; None: in the cube's order.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    SelectionError
        If `by` is no coordinate on neuron.
    ImportError
        If matplotlib is not installed.
    """
    plt = _pyplot()
    repeats = ds["n_repeats"].transpose("neuron", "stim").values.astype(float)
    figure, ax = plt.subplots(figsize=(8, 6), layout="constrained")
    ax.set_xlabel(f"stimulus ({repeats.shape[1]})")
    ax.set_ylabel(f"neuron ({repeats.shape[0]})")
    if by is not None:
        if by not in ds.coords or ds[by].dims != ("neuron",):
            there = sorted(str(n) for n, c in ds.coords.items() if c.dims == ("neuron",))
            raise SelectionError(f"by={by!r}: no coordinate on neuron; there are {there}")
        order = np.argsort(ds[by].values, kind="stable")
        repeats = repeats[order]
        _groups(ax, ds[by].values[order], by)
    with_data = repeats > 0
    most = int(repeats.max(initial=1))
    shown = np.where(with_data, repeats, np.nan)
    image = ax.imshow(
        shown, aspect="auto", interpolation="nearest", cmap="cividis_r", vmin=0, vmax=most, origin="upper"
    )
    bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("repeats (white: never presented)")
    bar.locator.set_params(integer=True)
    bar.update_ticks()
    ax.xaxis.get_major_locator().set_params(integer=True)
    share = f"{int(with_data.sum()):,} of {with_data.size:,} pairs, {100 * with_data.mean():.4g} %"
    ax.set_title(f"{ds.attrs.get('dataset', '')}: {share}", fontsize="medium")
    return figure  # type: ignore[no-any-return]


def _groups(ax: Axes, sorted_groups: NDArray[Any], by: str) -> None:
    """Lines between groups of rows, and their names on the right where these have room."""
    names, first, size = np.unique(sorted_groups, return_index=True, return_counts=True)
    for edge in first[1:]:
        ax.axhline(edge - 0.5, color=ACCENT, lw=0.8)
    total, last = len(sorted_groups), -np.inf
    places, labels = [], []
    for name, start, count in zip(names, first, size, strict=True):
        middle = start + (count - 1) / 2
        if middle - last >= total / 28:
            places.append(float(middle))
            labels.append(f"{name:g} ({count})" if isinstance(name, float) else f"{name or 'none'} ({count})")
            last = middle
    right = ax.secondary_yaxis("right")
    right.set_yticks(places, labels)
    right.tick_params(length=0)
    hidden = len(names) - len(labels)
    right.set_ylabel(by.replace("_", " ") + (f", {hidden} small ones not named" if hidden else ""))


def strf(weights: xr.DataArray, columns: int = 4) -> Figure:
    """Spectro-temporal receptive fields, each on its own symmetric scale.

    Parameters
    ----------
    weights : xarray.DataArray [dims=(frequency, lag) or (neuron, frequency, lag)]
        Coordinates ``frequency`` in Hz and ``lag`` in s (what came before the response is positive).
    columns : int
        Panels in a row.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UsageError
        If the dims are others.
    ImportError
        If matplotlib is not installed.
    """
    plt = _pyplot()
    if not hasattr(weights, "dims"):
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
    fields = fields.transpose("neuron", "frequency", "lag")
    count = fields.sizes["neuron"]
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.8 + 2.6 * columns, 0.6 + 2.3 * rows), layout="constrained", sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    lag = fields["lag"].values.astype(float) * 1000
    step = lag[1] - lag[0] if len(lag) > 1 else 1.0
    edges = np.append(lag, lag[-1] + step) - step / 2
    bands = np.arange(fields.sizes["frequency"] + 1) - 0.5
    image = None
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
    _frequencies(axes[0, 0], fields["frequency"].values)
    axes[0, 0].set_ylabel("")
    figure.supxlabel("lag: sound before response (ms)", fontsize="medium")
    figure.supylabel("frequency (kHz)", fontsize="medium")
    figure.colorbar(image, ax=list(axes.flat[:count]), label="weight / largest weight", aspect=30)
    return figure  # type: ignore[no-any-return]


class Plots:
    """``ds.strf.plot``: the pictures of this module, of one cube.

    Parameters
    ----------
    ds : xarray.Dataset
        A cube.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def response(
        self, stim: str | int | None = None, neuron: str | int | None = None, smooth_ms: float | None = 21
    ) -> Figure:
        """Stimulus, every repeat, and PSTH of one pair: see `strfcube.analysis.plot.response`."""
        return response(self._ds, stim, neuron, smooth_ms)

    def prediction(
        self, pred: xr.DataArray | NDArray[Any], stim: str | int | None = None, neuron: str | int | None = None,
        smooth_ms: float | None = None,
    ) -> Figure:  # fmt: skip
        """PSTH of one pair, and what a model says it is: see `strfcube.analysis.plot.prediction`."""
        return prediction(self._ds, pred, stim, neuron, smooth_ms)

    def coverage(self, by: str | None = "area") -> Figure:
        """How many repeats every neuron has of every stimulus: see `strfcube.analysis.plot.coverage`."""
        return coverage(self._ds, by)

    def strf(self, weights: xr.DataArray, columns: int = 4) -> Figure:
        """Spectro-temporal receptive fields: see `strfcube.analysis.plot.strf`."""
        return strf(weights, columns)
