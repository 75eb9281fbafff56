"""Pictures: everything is labelled with its unit, nothing overlaps, and what is drawn is where it belongs."""

import builtins
import itertools
import re

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

import strfcube
from strfcube.analysis.plot import models, pair, populations, presented
from strfcube.analysis.plot.marks import palettes
from strfcube.errors import SelectionError, UsageError

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")


def texts(figure):
    """Every text that is drawn, with its box; ticks outside the axes are not."""
    drawn, draw = [], matplotlib.text.Text.draw

    def record(text, renderer):
        drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.text.Text, "draw", record)
        figure.canvas.draw()
    return [(t.get_text(), t.get_window_extent()) for t in drawn if t.get_visible() and t.get_text().strip()]


def assert_legible(figure):
    """No two texts overlap, and none is cut off at the edge."""
    boxes = texts(figure)
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), f"{one!r} overlaps {other!r}"
    frame = figure.bbox.padded(2)
    for text, box in boxes:
        assert all(map(frame.containsx, (box.x0, box.x1))), f"{text!r} is cut off"
        assert all(map(frame.containsy, (box.y0, box.y1))), f"{text!r} is cut off"


def labels(figure):
    """What is written, with lines that were broken joined."""
    return {" ".join(text.split()) for text, _ in texts(figure)}


@pytest.fixture
def cube():
    return make_cube(stim=5, neuron=8, repeat=6, bins=200, bands=20)


def test_response(cube, tmp_path):
    figure = cube.strf.plot.response("stim001", "cell003")
    assert_legible(figure)
    assert {"frequency (kHz)", "repeat", "firing rate (spikes/s)", "time from stimulus onset (s)"} <= labels(figure)
    assert "level (power^(1/3))" in labels(figure)
    assert any("cell003" in t and "stim001" in t for t in labels(figure))
    top, _, middle, bottom = figure.axes
    end = float(cube["n_bins"][1]) * 0.005
    assert all(ax.get_xlim() == pytest.approx((0, end)) for ax in (top, middle, bottom))
    assert top.get_position().x1 == pytest.approx(bottom.get_position().x1)
    figure.savefig(tmp_path / "picture.png")


def test_a_text_stays_a_text_in_every_format_of_vectors(cube, tmp_path):
    figure = cube.strf.plot.quality()
    for ending in ("pdf", "svg", "eps"):
        figure.savefig(tmp_path / f"picture.{ending}")
    assert ">CCmax</text>" in (tmp_path / "picture.svg").read_text("utf-8")
    for ending in ("pdf", "eps"):  # outlines of letters, which journals refuse, are fonts of type 3
        written = (tmp_path / f"picture.{ending}").read_bytes()
        # Matplotlib 3.9 lets a printer that draws no TrueType take its font for one of these
        written = re.sub(rb"\{/TrueDict where.{,100}?/FontType 3 def", b"", written, flags=re.DOTALL)
        assert re.search(rb"/(FontFile2|FontType 42)", written)
        assert not re.search(rb"/(Type3|FontType 3)\b", written)


def test_a_spike_is_drawn_in_the_middle_of_its_bin(cube):
    cube["response"][0, 0] = 0
    cube["response"][0, 0, 2, 100] = 1
    middle = cube.strf.plot.response(0, 0).axes[2]
    (segment,) = middle.collections[0].get_segments()
    np.testing.assert_allclose(segment, [[0.5025, 2.6], [0.5025, 3.4]])


def test_membrane_potentials_and_the_sound_within_its_epoch():
    cube = make_cube(stim=2, neuron=3, repeat=4, bins=200, trace=(1,))
    cube["sound_onset"][:], cube["sound_duration"][:] = 0.25, 0.5
    figure = cube.strf.plot.response(0, "cell001")
    assert_legible(figure)
    assert {"each repeat (mV)", "mean potential (mV)"} <= labels(figure)
    marks = sorted(line.get_xdata()[0] for line in figure.axes[3].get_lines())
    np.testing.assert_allclose(marks, [0.25, 0.75])


def test_without_a_spectrogram_and_without_smoothing(cube):
    cube["stimulus"][:] = np.nan
    figure = cube.strf.plot.response(smooth_ms=None)
    assert_legible(figure)
    assert "no spectrogram" in labels(figure)


def test_unobserved_bins_are_shaded(cube):
    cube["response"][0, 0, 1, :50] = np.nan
    middle = cube.strf.plot.response(0, 0).axes[2]
    assert len(middle.collections) == 2


def test_the_pair_must_exist(cube):
    with pytest.raises(SelectionError, match="nothing has it"):
        cube.strf.plot.response("no such stimulus")
    with pytest.raises(SelectionError, match="past the end"):
        cube.strf.plot.response(neuron=8)
    with pytest.raises(SelectionError, match="no response"):
        cube.strf.plot.response(4, 0)


def test_prediction(cube):
    pred = cube["response"].mean("repeat").isel(stim=[1, 2])
    figure = cube.strf.plot.prediction(pred, smooth_ms=21)
    assert_legible(figure)
    assert {"firing rate (spikes/s)", "time from stimulus onset (s); 21 ms Hann", "prediction"} <= labels(figure)
    assert any("CC = 1.00" in t and "stim00" in t for t in labels(figure))
    traces = make_cube(neuron=2, trace=(0, 1))
    figure = traces.strf.plot.prediction(traces["response"].mean("repeat"))
    assert_legible(figure)
    assert "membrane potential (mV)" in labels(figure)


def test_a_prediction_is_drawn_in_the_unit_that_it_states(cube):
    rate = cube.strf.psth()
    wanted = rate.sel(stim="stim001", neuron="cell003").values[: int(cube["n_bins"][1])]
    bare = rate.drop_vars("units").assign_attrs(units="")
    for pred, taken_as in (
        (rate, ""), (cube["response"].mean("repeat"), ""), (bare.assign_attrs(units="Hz"), ""),
        (bare.assign_coords(units=("neuron", ["spikes/s"] * 8)).isel(neuron=[5, 3]), ""),
        (bare.assign_coords(units=("neuron", ["spikes/s"] * 8)).isel(neuron=3), ""),
        ((bare / 200).assign_attrs(units="counts"), ""), (bare / 200, "counts a bin"),
        (bare.values / 200, "counts a bin"),
        ((bare / 200).assign_attrs(units=cube["stimulus"].attrs["units"]), "counts a bin"),  # as weights times it have
    ):  # fmt: skip
        shown = models.collect(cube, pred, "stim001", "cell003")
        np.testing.assert_allclose(shown.predicted, wanted, rtol=1e-5)
        assert (shown.taken_as, shown.unit) == (taken_as, "spikes/s")
    assert "prediction (taken as counts a bin)" in labels(cube.strf.plot.prediction(bare / 200))
    for units in ("mV", "arbitrary"):
        with pytest.raises(UsageError, match=rf"units '{units}', expected 'count' \(a bin\) or 'spikes/s'"):
            cube.strf.plot.prediction(bare.assign_attrs(units=units))
    mixed = make_cube(trace=(1,), holes=False)
    for n, unit in ((1, "mV"), (2, "spikes/s")):
        for pred in (mixed.strf.psth(), mixed["response"].mean("repeat")):
            shown = models.collect(mixed, pred, 0, n)
            np.testing.assert_allclose(shown.predicted, shown.rate, rtol=1e-5)
            assert (shown.unit, shown.taken_as) == (unit, "")
    with pytest.raises(UsageError, match="expected 'mV'"):
        mixed.strf.plot.prediction(bare.isel(stim=0, neuron=1).assign_attrs(units="spikes/s"))


def test_scores_beside_smoothed_curves_say_that_they_are_not(cube):
    pred = cube["response"].mean("repeat")
    for width, said in ((None, False), (10, False), (21, True)):
        assert models.collect(cube, pred, 1, 3, width).scores.endswith(" without smoothing") == said


PARTS = {"reversed": [4, 3, 2, 1, 0], "later": [2, 3], "some": [2, 0]}


@pytest.mark.parametrize("part", PARTS)
def test_repeats_are_those_that_were_recorded_wherever_they_stand(part):
    whole = make_cube(seed=3, repeat=5)
    cube = whole.isel(repeat=PARTS[part])
    here = np.array(PARTS[part]) < whole["n_repeats"].values[..., None]
    np.testing.assert_array_equal(presented.collect(cube).repeats.T, here.sum(-1))
    rates = np.full((4, 5, 40), np.nan)
    for s, n in np.argwhere(here.any(-1)):
        bins = int(whole["n_bins"][s])
        own = cube["response"].values[s, n, here[s, n], :bins]
        rates[s, n, :bins] = own.mean(0) * 200
        one = pair.pair(cube, s, n, None)
        assert one.repeats == ("1 repeat" if len(own) == 1 else f"{len(own)} repeats")
        assert one.raster.rows == len(own)
        assert one.raster.row.tolist() == np.nonzero(own)[0].tolist()
        np.testing.assert_allclose(one.rate, rates[s, n, :bins], rtol=1e-5)
        assert models.collect(cube, whole["response"].mean("repeat"), s, n).repeats == len(own)
    for s, n in np.argwhere(~here.any(-1)):
        with pytest.raises(SelectionError, match="has no response"):
            cube.strf.plot.response(int(s), int(n))
    for s in range(4):
        shown = populations.collect(cube, s, sort=None, smooth_ms=None)
        np.testing.assert_array_equal(shown.recorded, here[s].any(-1))
        np.testing.assert_allclose(shown.values, rates[s, :, : shown.values.shape[1]], rtol=1e-5)
    np.testing.assert_allclose(pair.grid(cube, [0], list(range(5)), None).rates[0], rates[0], rtol=1e-5)


def test_an_order_of_repeats_changes_no_score():
    cube = make_cube(seed=3, repeat=5)
    pred = cube["response"].mean("repeat")
    for same in (cube, cube.isel(repeat=slice(None, None, -1))):
        shown = models.collect(same, pred, 1, 0)
        assert (shown.repeats, shown.scores, np.nanmax(shown.rate)) == (4, "CC = 1.00, CCnorm = 1.25", 500)


def test_a_pair_of_which_nothing_is_left_is_refused(cube):
    cube["response"][0, 0] = np.nan
    with pytest.raises(SelectionError, match=r"neuron cell000, stimulus stim000: no repeat observed any of the bins"):
        cube.strf.plot.response(0, 0)


def test_units_that_are_gone_are_those_of_all_responses_or_asked_for(cube):
    bare = cube.drop_vars("units")
    np.testing.assert_array_equal(pair.pair(bare, 0, 3, 21).rate, pair.pair(cube, 0, 3, 21).rate)
    np.testing.assert_array_equal(populations.collect(bare).values, populations.collect(cube).values)
    traces = make_cube(trace=tuple(range(5))).drop_vars("units")
    assert pair.pair(traces, 0, 0, None).unit == "mV"
    mixed = make_cube(trace=(1,)).drop_vars("units")
    for draw in (mixed.strf.plot.response, mixed.strf.plot.population, mixed.strf.plot.psths, mixed.strf.plot.cell,
                 lambda: mixed.strf.plot.prediction(mixed["response"].mean("repeat"))):  # fmt: skip
        with pytest.raises(UsageError, match=r"lost its coordinate 'units'.*ds.assign_coords\(units=\('neuron'"):
            draw()


def test_the_axis_of_a_prediction_holds_both_curves(cube):
    pred = cube["response"].mean("repeat")
    for scale in (10, 0.1, -3):
        ax = cube.strf.plot.prediction(pred * scale, 1, 3).axes[0]
        rate = pred.sel(stim="stim001", neuron="cell003") * 200
        low, high = ax.get_ylim()
        assert high > float(rate.max())
        assert low <= float(rate.min())
        assert low <= float((rate * scale).min()) < float((rate * scale).max()) <= high
    ax = cube.strf.plot.prediction(pred * 0, 1, 3).axes[0]
    assert ax.get_ylim()[1] > float(rate.max())


def test_a_prediction_is_any_array_that_ccnorm_takes(cube):
    pred = cube["response"].mean("repeat").fillna(0)
    wanted = labels(cube.strf.plot.prediction(pred, 1, 3))
    for same in (
        pred.values, pred.chunk(), pred.assign_coords(time=np.arange(200) * 5 / 1000),
        pred.isel(stim=[3, 1], neuron=[5, 3, 1]), pred.isel(stim=1), pred.isel(stim=1, neuron=3),
    ):  # fmt: skip
        found = labels(cube.strf.plot.prediction(same, "stim001", "cell003"))
        assert {text.removesuffix(" (taken as counts a bin)") for text in found} == wanted
    for wrong, message in (
        (pred.values[:, :, :50], "expected shape"), (None, "expected shape"),
        (pred.expand_dims(model=2), r"has also model; choose one: pred.isel\(model=0\)"),
        (pred.assign_coords(time=np.arange(200) * 0.005 + 0.001), "bins from a bin"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            cube.strf.plot.prediction(wrong)


def test_a_width_that_is_none_is_refused_at_the_call(cube):
    for width in (-2, "21", np.nan):
        for call in (
            cube.strf.psth, lambda w: cube.strf.plot.response(smooth_ms=w),
            lambda w: cube.strf.plot.prediction(cube["response"].mean("repeat"), smooth_ms=w),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=r"smooth_ms=.*: expected a width in ms, 0 or more"):
                call(width)


def test_weights_without_labels_are_refused(cube):
    for wrong, message in (
        (np.zeros((6, 10)), r"got ndarray; label it: xr\.DataArray"),
        (None, "got NoneType"),
        (xr.DataArray(np.zeros((6, 10)), dims=("frequency", "lag")), "without labels of frequency and lag"),
    ):
        with pytest.raises(UsageError, match=message):
            cube.strf.plot.strf(wrong)


def test_coverage(cube):
    figure = cube.strf.plot.coverage(by="area")
    assert_legible(figure)
    assert {"stimulus (5)", "neuron (8), by its position in the cube", "area", "MLd (3)"} <= labels(figure)
    image = figure.axes[0].get_images()[0].get_array()
    order = np.argsort(cube["area"].values, kind="stable")
    ticks = figure.axes[0].get_yaxis()
    assert [t.get_text() for t in ticks.get_ticklabels()] == [str(order[int(at)]) for at in ticks.get_ticklocs()]
    np.testing.assert_array_equal(image.filled(0), cube["n_repeats"].values.T[order])
    whole = cube.strf.plot.coverage()
    assert_legible(whole)
    assert {"stimulus (5)", "neuron (8)"} <= labels(whole)
    np.testing.assert_array_equal(whole.axes[0].get_images()[0].get_array().filled(0), cube["n_repeats"].values.T)
    with pytest.raises(SelectionError, match=r"by='nothing'.*area.*stim_type"):
        cube.strf.plot.coverage(by="nothing")


def test_coverage_shows_data_sets_classes_and_splits_in_the_order_of_the_cube(cube):
    kinds = ["call", "call", "song", "song", "song"]
    cube = cube.assign_coords(stim_type=("stim", np.array(kinds, object)), area=("neuron", cube["animal"].values))
    figure = cube.strf.plot.coverage()
    assert_legible(figure)
    assert {"stim type", "call", "song", "split", "train", "area", "gg", "bb"} <= labels(figure)
    strips = presented.collect(cube)
    every = [colour for own in palettes([*strips.stim_strips, *strips.neuron_strips]) for colour in own.values()]
    assert len(set(every)) == len(every) == 8
    panel = figure.axes[0]
    assert [line.get_xdata()[0] for line in panel.get_lines() if line.get_xdata()[0] == line.get_xdata()[1]] == [1.5]
    by_split = cube.strf.plot.coverage(by="split").axes[0].get_images()[0].get_array().filled(0)
    np.testing.assert_array_equal(by_split, cube["n_repeats"].values.T[:, [4, 0, 1, 2, 3]])


def test_coverage_of_many_small_groups():
    cube = make_cube(stim=3, neuron=200, bins=4)
    cube = cube.assign_coords(site=("neuron", np.array([f"site{n // 3:02d}" for n in range(200)], object)))
    figure = cube.strf.plot.coverage(by="site")
    assert_legible(figure)
    assert any("not named" in t for t in labels(figure))


@pytest.mark.parametrize("neurons", [None, 1, 6])
def test_strf(neurons):
    shape = (20, 12) if neurons is None else (neurons, 20, 12)
    dims = ("neuron", "frequency", "lag")[-len(shape) :]
    weights = xr.DataArray(
        np.random.default_rng(0).normal(size=shape), dims=dims,
        coords={"frequency": np.linspace(200, 15_800, 20), "lag": np.arange(12) * 0.005},
    )  # fmt: skip
    figure = make_cube().strf.plot.strf(weights)
    assert_legible(figure)
    assert {"frequency (kHz)", "lag: sound before response (ms)"} <= labels(figure)
    with pytest.raises(UsageError, match="frequency"):
        make_cube().strf.plot.strf(weights.rename(lag="delay"))


def test_cells_of_uneven_lags_reach_half_way_to_their_neighbours():
    cube = make_cube()
    for lag in ([0.0, 0.005, 0.02, 0.04], [0.04, 0.02, 0.005, 0.0]):
        lags = {"frequency": cube["frequency"].values, "lag": lag}
        weights = xr.DataArray(np.arange(4.0) * np.ones((6, 1)), lags, ("frequency", "lag"))
        mesh = cube.strf.plot.strf(weights).axes[0].collections[0]
        np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [-2.5, 2.5, 12.5, 30, 50])
        np.testing.assert_allclose(mesh.get_array()[0], np.argsort(lag) / 3)
    for lag in ([0.0, 0.005, 0.005, 0.04], [0.0, 0.005, np.nan, 0.04]):
        with pytest.raises(UsageError, match="labels of lag are missing or come twice"):
            cube.strf.plot.strf(weights.assign_coords(lag=lag))


def test_without_matplotlib_it_says_what_to_install(cube, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"strfcube\[plot\]"):
        cube.strf.plot.response()


def test_a_pool_by_numbers_of_bands_keeps_the_frequencies_of_each_sound():
    low = make_cube()
    high = low.assign_coords(frequency=low["frequency"] * 8).assign_attrs(dataset="high")
    pool = strfcube.concat([low, high], names=["low", "high"], bands="by_number", duplicates="keep")

    def ticks(cube, stim):
        return [tick.get_text() for tick in cube.strf.plot.stimulus(stim=stim).axes[0].get_yticklabels()]

    assert ticks(pool, 0) == ticks(low, 0)
    assert ticks(pool, low.sizes["stim"]) == ticks(high, 0)
    lags = {"frequency": pool["frequency"].values, "lag": [0.0, 0.005]}
    weights = xr.DataArray(np.ones((pool.sizes["frequency"], 2)), lags, ("frequency", "lag"))
    assert "band" in [text for text, _ in texts(pool.strf.plot.strf(weights))]


def test_positions_are_those_in_the_cube(cube):
    """Whatever part of it a model is of."""
    pred = cube["response"].mean("repeat").isel(stim=[2, 1, 4], neuron=[3, 0])
    pairs = [(s, n) for s, n in ((1, 3), (4, 0), (1, 0), (4, 3)) if cube["n_repeats"][s, n] > 0]
    assert len(pairs) > 1
    for stim, neuron in pairs:
        title = cube.strf.plot.prediction(pred, stim, neuron).axes[0].get_title()
        assert str(cube["neuron"].values[neuron]) in title
        assert (
            title
            == cube.strf.plot.prediction(pred, str(cube["stim"].values[stim]), str(cube["neuron"].values[neuron]))
            .axes[0]
            .get_title()
        )
    bare = pred.isel(stim=1, neuron=0, drop=True)  # of one stimulus, which the picture is asked for
    cube.strf.plot.prediction(bare, *pairs[0])
    axes = {"frequency": cube["frequency"].values, "lag": np.arange(4) * 0.005}
    weights = xr.DataArray(np.ones((2, cube.sizes["frequency"], 4)), axes, ("neuron", "frequency", "lag"))
    labelled = weights.assign_coords(neuron=cube["neuron"].values[[3, 0]])
    assert cube.strf.plot.strf(labelled, neuron=3).axes[0].get_title() == str(cube["neuron"].values[3])
    with pytest.raises(SelectionError, match="nothing has it"):
        cube.strf.plot.strf(labelled, neuron=1)
    with pytest.raises(UsageError, match="weights of 2 neurons without labels, the cube has"):
        cube.strf.plot.strf(weights, neuron=1)
    cube.strf.plot.strf(weights)  # both


def test_a_prediction_of_standardized_spectrograms_states_no_unit(cube):
    pred = cube["response"].mean("repeat").drop_vars("units")
    bare = cube.strf.plot.prediction(pred.assign_attrs(units=""), smooth_ms=None)
    found = cube.strf.plot.prediction(pred.assign_attrs(units="1"), smooth_ms=None)
    assert [t.get_text() for t in found.legends[0].get_texts()] == [t.get_text() for t in bare.legends[0].get_texts()]
