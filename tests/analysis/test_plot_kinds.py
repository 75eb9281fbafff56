"""What each picture draws: every spike, every row in its place, nothing that was not recorded; and what it is told."""

import inspect
import io

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, strings
from test_plot import assert_legible, labels
from toy import FAST, make_neuron, make_stim, spikes, write_toy

import strfcube
from strfcube.analysis import waveform
from strfcube.analysis.plot import KINDS, options, pair, populations, presented, reliability, rows
from strfcube.errors import SelectionError, UsageError

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

pytestmark = pytest.mark.slow


@pytest.fixture
def cube():
    cube = make_cube(stim=5, neuron=8, repeat=6, bins=200, bands=20)
    return cube.assign_coords(
        electrode=("neuron", [20, 3, 17, 1, 16, 30, 2, 18]), depth=("neuron", np.arange(8) * 50.0)
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A cube with exact spikes and with sounds, and the times in ms of each trial of one pair."""
    folder = tmp_path_factory.mktemp("pictures")
    times = [[-30.0, 12.1, 12.4, 99.9, 150.0], [0.0, 12.2], []]
    trials = [spikes("a", "n", r + 1, t, window=(-0.05, 0.25 if r else 0.16)) for r, t in enumerate(times)]
    other = [spikes("b", "m", 1, [5.0, 40.0], window=(0.0, 0.2))]
    pipeline = write_toy(folder / "raw", [make_stim("a", 0.1), make_stim("b", 0.2, dtype="i2")],
                         [make_neuron("n"), make_neuron("m")], {"s": trials + other})  # fmt: skip
    path = strfcube.build(pipeline, out=folder / "toy.zarr", **FAST | {"audio": True})
    return strfcube.open(path), times


def drawn(ax):
    """Ticks of a raster as (time, row)."""
    return sorted((float(x), round(float(y) + 0.4)) for (x, y), _ in ax.collections[0].get_segments())


def everything(cube):
    """A call of every picture."""
    pred = cube["response"].mean("repeat")
    lags = {"frequency": cube["frequency"].values, "lag": np.arange(4) * 0.005}
    weights = xr.DataArray(
        np.random.default_rng(0).normal(size=(cube.sizes["frequency"], 4)), lags, ("frequency", "lag")
    )
    given = {"prediction": {"pred": pred}, "strf": {"weights": weights}}
    return {kind: given.get(kind, {}) for kind in KINDS if kind != "waveform"}


@pytest.mark.parametrize(
    ("sizes", "width"),
    [
        ({}, 170), ({}, 85), ({"neuron": 1}, 85), ({"repeat": 1, "holes": False}, 85), ({"stim": 1, "neuron": 2}, 85),
        ({"trace": tuple(range(5))}, 85), ({"trace": (1, 2)}, 85),
    ],
    ids=str,
)  # fmt: skip
def test_every_picture_of_every_cube_is_legible_and_kept_open_nowhere(sizes, width):
    cube = make_cube(**{"bins": 120, "bands": 18} | sizes)
    long = "exp57_L4x8/P06-SH_En_C.Lsh3/cluster.05 of a very long name "
    cube = cube.assign_coords(neuron=strings(f"{long}{n}" for n in range(cube.sizes["neuron"])))
    cube["stimulus"].attrs["units"] = "arbitrary (published ozgf, nominal frequencies)"
    for kind, kwargs in everything(cube).items():
        figure = getattr(cube.strf.plot, kind)(**kwargs, width_mm=width)
        assert_legible(figure)
        if kind != "strf":
            assert figure.get_size_inches()[0] * 25.4 == pytest.approx(width)
        if kind in ("response", "stimulus"):
            assert "level (arbitrary (published ozgf, nominal frequencies))" in labels(figure)
    assert pyplot.get_fignums() == []


def test_a_notebook_shows_a_picture_once(cube):
    figure = cube.strf.plot.coverage()
    picture = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))
    assert picture.shape[1] == pytest.approx(85 / 25.4 * 200, abs=1)
    assert pyplot.get_fignums() == []


def test_pictures_are_drawn_where_they_are_asked_for(cube):
    for kind, kwargs in everything(cube).items():
        method = getattr(cube.strf.plot, kind)
        figure = pyplot.figure(figsize=(8, 6))
        left, right = figure.subfigures(1, 2)
        assert method(**kwargs, figure=left) is left
        assert left.axes
        assert not right.axes
        if "ax" in options(kind):
            own, axes = pyplot.subplots(1, 2)
            assert method(**kwargs, ax=axes[1]) is own
            assert axes[1].has_data()
            assert not axes[0].has_data()
            with pytest.raises(UsageError, match="not both"):
                method(**kwargs, ax=axes[0], figure=own)
        with pytest.raises(UsageError, match="expected a matplotlib Figure"):
            method(**kwargs, figure="here")
    pyplot.close("all")


def test_a_wrong_picture_or_option_is_one_line_with_what_there_is(cube):
    with pytest.raises(AttributeError, match=r"no picture is called 'popluation'; did you mean population\?.*psths"):
        cube.strf.plot.popluation  # noqa: B018
    with pytest.raises(UsageError, match=r"plot.population: .*'srot'; it takes stim, sort, by, edges"):
        cube.strf.plot.population(srot="area")
    with pytest.raises(SelectionError, match=r"sort='ccmx'.*did you mean ccmax.*electrode.*measures rate, peak, snr"):
        cube.strf.plot.population(sort="ccmx")
    with pytest.raises(UsageError, match=r"this picture shows one stim, got 2"):
        cube.strf.plot.response([0, 1])
    with pytest.raises(UsageError, match=r"width_mm=5: expected a width in mm"):
        cube.strf.plot.stimulus(width_mm=5)
    assert list(inspect.signature(type(cube.strf.plot).cell).parameters)[1:] == list(options("cell"))


def test_a_window_of_two_bins_smooths_nothing_and_says_so(cube):
    wide = make_cube(dt_ms=10.0)
    assert any("no smoothing at 10 ms bins" in t for t in labels(wide.strf.plot.response(smooth_ms=20)))
    assert any("no smoothing at 10 ms bins" in t for t in labels(wide.strf.plot.population(smooth_ms=20)))
    assert any("21 ms Hann" in t for t in labels(wide.strf.plot.response(smooth_ms=21)))
    assert any("not smoothed" in t for t in labels(wide.strf.plot.cell(smooth_ms=None)))


def test_a_raster_has_one_tick_a_spike_and_grey_where_nothing_was_recorded(stored):
    ds, times = stored
    wanted = sorted((t / 1000, r + 1) for r, row in enumerate(times) for t in row)
    for figure, at in ((ds.strf.plot.response("a", "n"), 2), (ds.strf.plot.waveform("a", "n"), 0)):
        assert_legible(figure)
        np.testing.assert_allclose(drawn(figure.axes[at]), wanted, atol=1e-9)
    grey = figure.axes[0].collections[1:]
    assert len(grey) == 1  # the first trial ended before the others
    box = grey[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([box.x0, box.x1, box.y0, box.y1], [0.16, 0.25, 0.5, 1.5], atol=1e-9)


def test_a_waveform_stands_at_its_time_and_in_its_scale(stored):
    ds, _ = stored
    for stim, neuron, seconds in (("a", "n", 0.1), ("b", "m", 0.2)):
        figure = ds.strf.plot.waveform(stim, neuron)
        box = figure.axes[1].collections[0].get_paths()[0].get_extents()
        assert 0 <= box.x0 < 0.001
        assert seconds - 0.001 < box.x1 <= seconds
        np.testing.assert_allclose([box.y0, box.y1], [-0.1, 0.1], atol=2e-3)
    with pytest.raises(UsageError, match="no waveform of it: the cube does not know its store"):
        make_cube().strf.plot.waveform()


def test_a_waveform_is_in_the_unit_that_the_cube_states(stored, monkeypatch):
    ds, _ = stored
    real = waveform.open_group

    def in_pascals(*args):
        audio = real(*args)
        return audio.assign(samples=audio["samples"].assign_attrs(units="Pa"))

    assert ds.strf.plot.waveform(0).axes[1].get_ylabel().replace("\n", " ") == "amplitude (as in the file)"
    monkeypatch.setattr(waveform, "open_group", in_pascals)
    assert ds.strf.plot.waveform(0).axes[1].get_ylabel() == "amplitude (Pa)"
    assert ds.strf.sound(0).attrs["units"] == "Pa"


def test_a_cell_has_a_column_a_stimulus_on_one_scale(cube):
    figure = cube.strf.plot.cell("cell003", stim=["stim001", "stim000"])
    assert_legible(figure)
    tops, middles, bottoms = figure.axes[:2], figure.axes[3:5], figure.axes[5:7]
    assert [" ".join(ax.get_title().split()) for ax in tops] == ["stim001, flatrip", "stim000, conspecific"]
    assert bottoms[0].get_ylim() == bottoms[1].get_ylim()
    assert middles[0].get_ylim() == middles[1].get_ylim()
    scale = [ax.get_position().width / np.diff(ax.get_xlim()) for ax in bottoms]
    np.testing.assert_allclose(scale[0], scale[1], rtol=0.02)
    for ax, stim in zip(middles, ("stim001", "stim000"), strict=True):
        filled = int((cube["response"].sel(stim=stim, neuron="cell003") > 0).sum())
        assert len(drawn(ax)) == filled
    with pytest.raises(SelectionError, match="has no response"):
        cube.strf.plot.cell(0, stim=["stim004"])
    with pytest.raises(SelectionError, match="none of them twice"):
        cube.strf.plot.cell(3, stim=[1, 1])


def test_a_grid_of_psths_has_a_row_a_neuron_and_says_what_was_not_recorded(cube):
    figure = cube.strf.plot.psths(stim=[4, 0], neuron=[0, 3])
    assert_legible(figure)
    assert "not recorded" in labels(figure)
    axes = figure.axes
    psth = cube.strf.psth(smooth_ms=21)
    values = axes[3].patches[0].get_data().values
    np.testing.assert_allclose(values, psth[0, 3].values, rtol=1e-5)
    assert axes[3].get_ylim()[1] >= values.max()
    assert axes[2].get_ylim() == axes[3].get_ylim()


def test_a_population_is_in_the_order_that_was_asked_for(cube):
    stim = 2
    heard = cube["n_repeats"].values[stim] > 0
    psth = cube.strf.psth(smooth_ms=21).values[stim, :, : int(cube["n_bins"][stim])]
    own = cube.isel(stim=[stim])
    wanted = {
        None: np.arange(8), "electrode": np.argsort(cube["electrode"].values), "depth": np.arange(8),
        "area": np.argsort(cube["area"].values.astype(str), kind="stable"),
        "ccmax": np.argsort(own.strf.quality()["ccmax"].values, kind="stable"),
        "snr": np.argsort(own.strf.quality()["snr"].values, kind="stable"),
        "rate": np.argsort(np.where(heard, cube.strf.psth().values[stim, :, : psth.shape[1]].mean(1), np.nan)),
    }  # fmt: skip
    for sort, order in wanted.items():
        figure = cube.strf.plot.population(stim, sort=sort)
        assert_legible(figure)
        image = figure.axes[1].get_images()[0].get_array()
        np.testing.assert_allclose(image.filled(np.nan), psth[order], rtol=1e-5, err_msg=str(sort))
        np.testing.assert_array_equal(np.asarray(image.mask).all(1), ~heard[order])
    assert not heard.all()
    assert any("grey: not recorded" in t for t in labels(figure))
    ccmax = cube.strf.ccmax()
    own = populations.collect(cube, stim, sort=ccmax)
    np.testing.assert_array_equal(own.rows.order, np.argsort(ccmax.values, kind="stable"))
    with pytest.raises(SelectionError, match="other neurons"):
        cube.strf.plot.population(sort=ccmax.assign_coords(neuron=strings(f"x{n}" for n in range(8))))


def test_rows_are_sorted_the_other_way_with_a_minus(cube):
    for sort in ("electrode", "rate", "snr", "area"):
        key, _ = rows.values_of(cube, "neuron", "sort", sort, {}) if sort in cube.coords else (None, "")
        up, down = (populations.collect(cube, 2, sort=s).rows for s in (sort, f"-{sort}"))
        if key is not None:
            assert [key[i] for i in down.order] == sorted(key, reverse=True)
        else:  # what is not known is at the bottom both ways
            known = np.isfinite(up.values)
            np.testing.assert_array_equal(down.values[known], up.values[known][::-1])
            np.testing.assert_array_equal(down.order[~known], up.order[~known])
        assert down.sorted_by == f"{up.sorted_by}, descending"
    assert populations.collect(cube, sort="-electrode", edges=16).rows.marks == ((4, "e17/e16"),)
    np.testing.assert_array_equal(presented.collect(cube, sort="-depth").repeats, cube["n_repeats"].values.T[::-1])
    with pytest.raises(SelectionError, match="did you mean snr"):
        populations.collect(cube, sort="-snrr")


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([1, 10, 2, 3], [0, 2, 3, 1]),
        ([1.5, None, -2, np.nan], [2, 0, 1, 3]),
        (["1", "10", "2", ""], [0, 2, 1, 3]),
        (["b", "", "a", "B"], [3, 2, 0, 1]),
    ],
)
def test_numbers_in_a_column_of_objects_are_sorted_as_numbers(values, order):
    cube = make_cube(neuron=4).assign_coords(site=("neuron", np.array(values, object)))
    assert rows.arrange(cube, "neuron", sort="site").order.tolist() == order
    known = [i for i in order if values[i] not in (None, "") and values[i] == values[i]]
    assert rows.arrange(cube, "neuron", sort="-site").order.tolist()[: len(known)] == known[::-1]


def test_ticks_of_sorted_rows_are_the_positions_in_the_cube():
    cube = make_cube(neuron=20, holes=False)
    cube = cube.assign_coords(electrode=("neuron", np.arange(20) * 7 % 20))
    order = np.argsort(cube["electrode"].values)
    axis = cube.strf.plot.population(0, sort="electrode").axes[1].get_yaxis()
    assert [t.get_text() for t in axis.get_ticklabels()] == [str(order[int(at)]) for at in axis.get_ticklocs()]
    said = "neuron (20 of 20 recorded), by its position in the cube, sorted by electrode"
    assert axis.get_label_text().replace("\n", " ") == said
    plain = cube.strf.plot.population(0).axes[1].get_yaxis()
    assert plain.get_label_text() == "neuron (20 of 20 recorded)"


def test_what_is_not_recorded_is_grey(cube):
    figure = cube.strf.plot.population(2)
    image = figure.axes[1].get_images()[0]
    missing = np.flatnonzero(cube["n_repeats"].values[2] == 0)
    shades = image.to_rgba(image.get_array())
    np.testing.assert_allclose(shades[missing[0], 0, :3], [0xC4 / 255] * 3, atol=1e-3)


def test_groups_have_boundaries_and_names(cube):
    figure = cube.strf.plot.population(0, sort="electrode", edges=16)
    assert "e16/e17" in labels(figure)
    (line,) = figure.axes[1].get_lines()
    assert line.get_ydata()[0] == 3.5
    figure = cube.strf.plot.population(0, by="area", sort="rate")
    assert {"MLd (3)", "OV (3)", "L2a (2)"} <= labels(figure)
    assert [line.get_ydata()[0] for line in figure.axes[1].get_lines()] == [1.5, 4.5]
    assert any("sorted by mean response" in t for t in labels(figure))
    for edges, message in ((99, "nothing on one side"), ("x", "expected numbers")):
        with pytest.raises(UsageError, match=message):
            cube.strf.plot.population(sort="electrode", edges=edges)
    with pytest.raises(UsageError, match="give sort="):
        cube.strf.plot.population(edges=16)


def test_rows_are_normalised_to_their_highest_value(cube):
    shown = populations.collect(cube, 0, normalise=True)
    np.testing.assert_allclose(np.nanmax(shown.values, axis=1), 1)
    assert np.nanmin(shown.values) >= 0
    mixed = make_cube(trace=(1,), holes=False)
    shown = populations.collect(mixed, 0)
    np.testing.assert_allclose([np.nanmin(shown.values[1]), np.nanmax(shown.values[1])], [0, 1])
    with pytest.raises(UsageError, match="some neurons are in mV"):
        populations.collect(mixed, 0, normalise=False)
    assert "potential (mV)" in populations.collect(make_cube(trace=tuple(range(5))), 0).label


def test_a_population_of_thousands_is_legible():
    cube = make_cube(stim=2, neuron=1401, repeat=2, bins=60)
    cube = cube.assign_coords(electrode=("neuron", np.arange(1401) % 32 + 1))
    figure = cube.strf.plot.population(0, sort="electrode")
    assert_legible(figure)
    assert any("not named" in t for t in labels(figure))
    assert_legible(cube.strf.plot.population(0, sort="electrode", edges=16))
    assert_legible(cube.strf.plot.coverage())


def test_a_quality_counts_every_neuron_once(cube):
    shown = reliability.collect(cube, "area")
    found = cube.strf.quality()
    assert shown.names == ["L2a", "MLd", "OV"]
    for values, edges in ((shown.snr, shown.snr_edges), (shown.ccmax, shown.ccmax_edges)):
        counts = shown.counts(values, edges)
        assert counts.sum() == int(found["ccmax"].notnull().sum())
    np.testing.assert_array_equal(shown.ccmax, found["ccmax"].values)
    figure = cube.strf.plot.quality(by="area")
    assert_legible(figure)
    assert {"SNR of one repeat", "CCmax", "neurons", "OV (3)"} <= labels(figure)
    many = cube.assign_coords(site=("neuron", strings(f"s{n}" for n in range(8))))
    assert reliability.collect(many, "site").names[-1] == "2 others"
    single = make_cube(repeat=1)
    assert any("no neuron has two repeats" in t for t in labels(single.strf.plot.quality()))


def test_why_a_neuron_is_in_no_distribution():
    silent, short = "without a spike (or any change) in repeated stimuli", "without two repeats of a stimulus"
    cube = make_cube(holes=False)
    values = cube["response"].values
    values[:, 1] *= 0
    assert reliability.collect(cube).note == f"1 of 5 neurons not shown: {silent}"
    values[:, 2] = values[:, 2, :1]
    alike = "; 1 not in the SNR: all repeats are alike"
    assert reliability.collect(cube).note == f"1 of 5 neurons not shown: {silent}{alike}"
    values[:, 0, 1:] = np.nan
    cube["n_repeats"][:, 0] = 1
    assert reliability.collect(cube).note == f"2 of 5 neurons not shown: 1 {short}, 1 {silent}{alike}"
    values[:] *= 0
    assert_legible(cube.strf.plot.quality())
    assert "no neuron can be shown" in labels(cube.strf.plot.quality())
    assert reliability.collect(make_cube(repeat=1)).note == f"5 of 5 neurons not shown: {short}"


def test_numbers_of_many_kinds_are_divided_at_their_quartiles():
    cube = make_cube(stim=1, neuron=12)
    cube = cube.assign_coords(depth=("neuron", [*np.arange(11) * 50.0, np.nan], {"units": "um"}))
    shown = reliability.collect(cube, "depth")
    assert shown.names == ["0 to 100", "150 to 200", "250 to 350", "400 to 500", "unknown"]
    assert np.bincount(shown.group).tolist() == [3, 2, 3, 3, 1]
    assert shown.label == "depth (µm)"
    figure = cube.strf.plot.quality(by="depth")
    assert_legible(figure)
    assert {"depth (µm)", "0 to 100 (3)", "unknown (1)"} <= labels(figure)
    few = cube.assign_coords(electrode=("neuron", np.arange(12) % 3))
    assert reliability.collect(few, "electrode").names == ["e0", "e1", "e2"]


def test_ticks_are_whole_numbers(cube):
    small, single = make_cube(repeat=1, neuron=1).strf.plot, make_cube(repeat=1).strf.plot
    plots = cube.strf.plot
    for figure in (plots.response(), plots.coverage(), plots.quality(), small.coverage(), single.response()):
        figure.canvas.draw()
        for ax in figure.axes:
            if ax.get_ylabel().startswith(("repeat", "neuron")):
                low, high = sorted(ax.get_ylim())
                inside = [t for t in ax.get_yticks() if low <= t <= high]
                assert inside
                assert all(float(t).is_integer() for t in inside)


def test_what_is_collected_needs_no_matplotlib(cube, monkeypatch):
    import builtins

    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert pair.pair(cube, 0, 3, 21).unit == "spikes/s"
    assert presented.collect(cube).repeats.shape == (8, 5)
    assert reliability.collect(cube).note == ""
    assert rows.arrange(cube, "neuron", "area").groups[0].name == "L2a"
    assert populations.collect(cube).values.shape[0] == 8
