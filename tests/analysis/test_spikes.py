"""Exact spikes of a pair: those that the recorder wrote, also of parts and pools, and none where bins were changed."""

import numpy as np
import pytest
from cubes import make_cube
from toy import FAST, make_neuron, make_stim, random_toy, spikes, write_toy

import strfcube
from strfcube.analysis.spikes import position
from strfcube.builder.save import save as write
from strfcube.errors import SelectionError, StoreError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spikes")
    pipeline, truth = random_toy(folder / "raw", n_stims=5, n_neurons=6, repeats=4)
    return strfcube.build(pipeline, out=folder / "toy.zarr", **FAST), truth


def check(ds, truth, name=lambda label: label):
    pairs = 0
    for s, stim in enumerate(ds["stim"].values):
        for n, neuron in enumerate(ds["neuron"].values):
            wanted = truth.get((name(stim), name(neuron)), [])
            found = ds.strf.spikes(stim, neuron)
            if not wanted or not int(ds["n_repeats"][s, n]):
                assert len(found) == 0
                continue
            pairs += 1
            assert len(found.times) == len(wanted)
            for got, times in zip(found.times, wanted, strict=True):
                np.testing.assert_allclose(got, times / 1000, rtol=0, atol=1e-9)
            length = float(ds["duration"][s])
            np.testing.assert_allclose(found.window, [(-0.05, length + 0.2)] * len(wanted), atol=1e-9)
            assert found.repeat.tolist() == list(range(len(wanted)))
            assert found.span() == pytest.approx((-0.05, length + 0.2))
    return pairs


def test_they_are_those_of_the_files(made):
    path, truth = made
    ds = strfcube.open(path)
    assert check(ds, truth) == int((ds["n_repeats"] > 0).sum())
    assert ds.strf.spikes(1, -2).times[0].tolist() == ds.strf.spikes("stim1", "n4").times[0].tolist()


@pytest.mark.slow
def test_also_of_parts_and_of_pools(made, tmp_path):
    path, truth = made
    ds = strfcube.open(path)
    for part in (
        ds.strf.sel(group="g1", stim=["stim3", "stim1"]), ds.isel(neuron=[4, 2, 0], stim=slice(1, None)),
        ds.strf.isel(neuron=-1), ds.compute(), ds.strf.sel(group="g0").compute().isel(stim=[4, 0]),
    ):  # fmt: skip
        assert check(part, truth)
    pool = strfcube.concat(
        [ds.strf.sel(group="g1"), ds.strf.sel(group="g0")], ["a", "b"], stimuli="shared", duplicates="keep"
    )
    assert check(pool, truth, lambda label: label.partition(":")[2]) == int((ds["n_repeats"] > 0).sum())
    saved = strfcube.open(write(pool, tmp_path / "pool.zarr"))
    assert check(saved, truth, lambda label: label.partition(":")[2])


def test_of_some_repeats_and_some_bins(made):
    ds = strfcube.open(made[0])
    stim, neuron = np.argwhere(ds["n_repeats"].values == 4)[0]
    whole = ds.strf.spikes(int(stim), int(neuron))
    some = ds.isel(repeat=[0, 2], time=slice(3, 9)).strf.spikes(int(stim), int(neuron))
    assert some.repeat.tolist() == [0, 2]
    np.testing.assert_array_equal(some.times[1], whole.times[2])


def test_trials_are_in_the_order_of_the_repeats_of_the_cube(made):
    ds = strfcube.open(made[0])
    stim, neuron = map(int, np.argwhere(ds["n_repeats"].values == 4)[0])
    whole = ds.strf.spikes(stim, neuron)
    for order in ([3, 2, 1, 0], [2, 0]):
        part = ds.isel(repeat=order)
        for cube in (part, part.load()):  # held values know no rows of the store
            found = cube.strf.spikes(stim, neuron)
            assert found.repeat.tolist() == order
            for at, times in zip(order, found.times, strict=True):
                np.testing.assert_array_equal(times, whole.times[at])
    with pytest.raises(StoreError, match="labels of 'repeat' are no numbers"):
        ds.assign_coords(repeat=list("abcd")).strf.spikes(stim, neuron)


def test_there_are_none_where_the_bins_are_others(made):
    ds = strfcube.open(made[0])
    stim, neuron = np.argwhere(ds["n_repeats"].values == 4)[0]
    pair = {"stim": int(stim), "neuron": int(neuron)}
    for other in (
        ds.assign(response=ds["response"] * 2),
        ds.assign(response=ds["response"].shift(time=1)),
        ds.assign(response=ds["response"].mean("repeat").expand_dims(repeat=[0], axis=2)),
        make_cube(stim=5, neuron=6),
    ):
        with pytest.raises(StoreError, match="no exact spike times: "):
            other.strf.spikes(**pair)
    with pytest.raises(SelectionError, match="past the end"):
        ds.strf.spikes(9, 0)


def test_trials_of_a_cube_built_again_are_not_those_of_the_open_one(tmp_path):
    def build(seed):
        pipeline, _ = random_toy(tmp_path / f"raw{seed}", n_stims=2, n_neurons=2, repeats=2, seed=seed, holes=False)
        return strfcube.open(strfcube.build(pipeline, out=tmp_path / "toy.zarr", force=seed > 0, **FAST))

    ds = build(0)
    held = ds.compute()  # which holds its values, and no rows of the store
    before = held.strf.spontaneous_rate(), len(held.strf.trials)
    new = build(2)
    assert not np.array_equal(new.strf.spontaneous_rate(), before[0])
    for old in (ds, held, held.isel(neuron=[0]), ds.assign(response=ds["response"] * 2)):
        for asked in (
            lambda cube: cube.strf.spontaneous_rate(), lambda cube: cube.strf.trials, lambda cube: cube.strf.findings,
        ):  # fmt: skip
            with pytest.raises(StoreError, match="built again while it was open"):
                asked(old)


def test_a_trial_that_observed_no_bin_is_one_all_the_same(tmp_path):
    """Its recording ended before the sound, or before the part in time that is looked at."""
    windows = [(-0.2, 0.1), (-0.2, 0.04), (-0.2, -0.1)]
    trials = [spikes("a", "n", r, [-150, 5, 30], window=w) for r, w in enumerate(windows)]
    pipeline = write_toy(tmp_path / "raw", [make_stim("a")], [make_neuron("n")], {"s": trials})
    ds = strfcube.open(strfcube.build(pipeline, out=tmp_path / "x.zarr", **FAST))
    for cube in (ds, ds.isel(time=slice(10, None))):
        for one in (cube, cube.compute()):  # held values know no rows of the store
            assert [t.tolist() for t in one.strf.spikes("a", "n")] == [[-0.15, 0.005, 0.03]] * 3
    held = ds.compute()
    for hidden in (held["repeat"] != 0, held["repeat"] != 1, held["repeat"] < 0):
        with pytest.raises(StoreError, match="not the counts of its store any more"):
            held.assign(response=held["response"].where(hidden)).strf.spikes("a", "n")


def test_traces_have_none(tmp_path):
    from strfcube.records import Trial

    stim, neuron = make_stim("a"), make_neuron("v", trace=True)
    trial = Trial("a", "v", 1, trace=np.zeros(1600, "f4"), rate=16000.0)
    ds = strfcube.open(strfcube.build(write_toy(tmp_path / "raw", [stim], [neuron], {"s": [trial]}),
                                      out=tmp_path / "a.zarr", **FAST))  # fmt: skip
    with pytest.raises(StoreError, match="nothing finer than its bins: it is a membrane potential"):
        ds.strf.spikes(0, 0)


def test_labels_and_positions():
    ds = make_cube(stim=3)
    assert [position(ds, "stim", w) for w in ("stim001", 1, -2, np.int64(1))] == [1] * 4
    for wrong, message in (
        ("x", "nothing has it"),
        (3, "past the end"),
        (1.0, "a label or a position"),
        (True, "label"),
    ):
        with pytest.raises(SelectionError, match=message):
            position(ds, "stim", wrong)


def test_the_raster_holds_every_spike_where_it_was(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot

    times = [[-30.0, 12.1, 12.4, 13.0, 99.9, 150.0], [0.0, 12.2], []]
    trials = [spikes("a", "n", r + 1, t, window=(-0.05, 0.25 if r else 0.16)) for r, t in enumerate(times)]
    pipeline = write_toy(tmp_path / "raw", [make_stim("a", 0.1)], [make_neuron("n")], {"s": trials})
    ds = strfcube.open(strfcube.build(pipeline, out=tmp_path / "toy.zarr", **FAST))
    middle = ds.strf.plot.response().axes[2]
    drawn = [(float(x), round(float(y) + 0.4)) for (x, y), _ in middle.collections[0].get_segments()]
    wanted = sorted((t / 1000, r + 1) for r, several in enumerate(times) for t in several)
    np.testing.assert_allclose(sorted(drawn), wanted)
    assert middle.get_xlim() == pytest.approx((-0.05, 0.25))
    assert len(middle.collections) == 2  # the third of a second that one trial lacks
    assert not middle.get_title("right")
    doubled = ds.assign(response=ds["response"] * 2).strf.plot.response().axes[2]
    assert doubled.get_title("right") == "no exact times: one tick a bin"
    assert doubled.get_xlim() == pytest.approx((0, 0.1))
    assert len(doubled.collections[0].get_segments()) == 4
    unstated = [spikes("a", "n", r + 1, t) for r, t in enumerate(times)]
    pipeline = write_toy(tmp_path / "raw2", [make_stim("a", 0.1)], [make_neuron("n")], {"s": unstated})
    ds = strfcube.open(strfcube.build(pipeline, out=tmp_path / "toy2.zarr", **FAST))
    assert ds.strf.plot.response().axes[2].get_xlim() == pytest.approx((-0.03, 0.15))
    matplotlib.pyplot.close("all")
