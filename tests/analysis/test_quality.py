"""The quality measures: against definitions written out, against known truth, and against the authors' own figures."""

import itertools
import re

import dask
import numpy as np
import pytest
import xarray as xr
from cubes import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.stats import kstest

from strfcube.analysis import powers as of_powers
from strfcube.analysis import quality
from strfcube.analysis.predictions import PartialPredictionWarning
from strfcube.errors import UsageError


def pairwise(x):
    """Signal, total and PSTH power of one pair [shape=(repeat, time)] from the definitions, loop by loop."""
    x = x[~np.isnan(x).all(1)].astype(float)
    x = x[:, ~np.isnan(x).any(0)]
    covariances = [np.cov(a, b, ddof=1)[0, 1] for a, b in itertools.combinations(x, 2)]
    return np.mean(covariances), np.mean(x.var(1, ddof=1)), x.mean(0).var(ddof=1), x.shape[1]


def array(x, **attrs):
    x = np.asarray(x, np.float32)
    return xr.DataArray(x, dims=("stim", "neuron", "repeat", "time")[-x.ndim :], attrs=attrs)


@pytest.fixture
def cube():
    return make_cube(stim=6, neuron=7, repeat=5, bins=60, trace=(2,), seed=3)


def test_pairs_equal_the_definitions(cube):
    result = quality.measures(cube["response"], per="pair")
    for s, n in itertools.product(range(6), range(7)):
        pair = result.isel(stim=s, neuron=n)
        if cube["n_repeats"][s, n] < 2:
            assert all(np.isnan(v) for v in pair.values())
            continue
        sp, tp, vp, _ = pairwise(cube["response"][s, n].values)
        r = int(cube["n_repeats"][s, n])
        assert float(pair["signal_power"]) == pytest.approx(sp, rel=1e-9, abs=1e-12)
        assert float(pair["noise_power"]) == pytest.approx(tp - sp, rel=1e-9)
        assert float(pair["snr"]) == pytest.approx(sp / (tp - sp), rel=1e-9, abs=1e-12)
        closed = np.sqrt(max(sp, 0) * r / ((r - 1) * sp + tp))
        assert float(pair["ccmax"]) == pytest.approx(closed, rel=1e-9)
        assert vp == pytest.approx(((r - 1) * sp + tp) / r, rel=1e-9)


def test_neurons_are_duration_weighted(cube):
    result = quality.measures(cube["response"])
    assert result["snr"].dims == ("neuron",)
    for n in range(7):
        heard = [s for s in range(6) if cube["n_repeats"][s, n] >= 2]
        rows = [pairwise(cube["response"][s, n].values) for s in heard]
        sp, tp, vp = np.average([row[:3] for row in rows], axis=0, weights=[row[3] for row in rows])
        assert float(result["signal_power"][n]) == pytest.approx(sp, rel=1e-9)
        assert float(result["snr"][n]) == pytest.approx(sp / (tp - sp), rel=1e-9)
        assert float(result["ccmax"][n]) == pytest.approx(np.sqrt(max(sp, 0) / vp), rel=1e-9)


def test_each_function_gives_its_column(cube):
    whole = quality.measures(cube["response"])
    for name in ("signal_power", "noise_power", "snr", "ccmax"):
        column = getattr(quality, name)(cube["response"])
        xr.testing.assert_identical(column, whole[name])
        assert column.name == name
        assert "2003" in column.attrs["estimator"] or "2016" in column.attrs["estimator"]
        assert "weighted by duration" in column.attrs["estimator"]
        assert "weighted" not in getattr(quality, name)(cube["response"], per="pair").attrs["estimator"]
    assert whole["signal_power"].attrs["units"] == "mixed"
    assert whole["snr"].attrs["units"] == whole["ccmax"].attrs["units"] == "1"
    assert quality.noise_power(make_cube()["response"]).attrs["units"] == "count^2"


@pytest.mark.slow
@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 30))
def test_lazy_equals_eager(seed, repeats, bins):
    response = make_cube(stim=3, neuron=4, repeat=repeats, bins=bins, seed=seed)["response"]
    with dask.config.set(scheduler="synchronous"):
        for chunks in ({"stim": 1}, {"stim": 2, "neuron": 3, "repeat": 1, "time": 5}):
            lazy = quality.measures(response.chunk(chunks))
            assert lazy["snr"].chunks
            xr.testing.assert_allclose(lazy.compute(), quality.measures(response))


def test_dims_may_come_in_any_order(cube):
    turned = quality.measures(cube["response"].transpose("time", "neuron", "repeat", "stim"), per="pair")
    xr.testing.assert_allclose(turned.transpose("stim", "neuron"), quality.measures(cube["response"], per="pair"))


def test_one_repeat_is_unknown_and_silence_is_undefined():
    rng = np.random.default_rng(0)
    single = quality.measures(array(rng.poisson(1, (2, 3, 1, 50))))
    assert all(np.isnan(v).all() for v in single.values())
    silent = quality.measures(array(np.zeros((1, 1, 4, 50))))
    assert np.isnan(silent["p_signal"][0])
    assert float(silent["signal_power"][0]) == float(silent["noise_power"][0]) == 0
    assert np.isnan(silent["snr"][0])
    assert np.isnan(silent["ccmax"][0])


def test_no_signal_is_a_ceiling_of_zero():
    opposite = np.tile([[0.0, 1.0], [1.0, 0.0]], (1, 1, 1, 20))
    result = quality.measures(array(opposite + np.linspace(0, 1e-3, 40)))
    assert float(result["signal_power"][0]) < 0
    assert float(result["ccmax"][0]) == 0


def test_nothing_but_bins_or_repeats_counts():
    """Padding repeats and bins with NaN changes nothing."""
    x = np.random.default_rng(1).poisson(1.0, (2, 3, 4, 30)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (0, 9)), constant_values=np.nan)
    errors = ["signal_power_se", "p_signal"]  # whose noise spectrum has other frequencies then
    one, other = quality.measures(array(x)), quality.measures(array(padded))
    xr.testing.assert_allclose(one.drop_vars(errors), other.drop_vars(errors))
    xr.testing.assert_allclose(one[errors], other[errors], rtol=0.2)


def by_bins(x):
    """Signal and noise power where windows differ [shape=(repeat, time)], bin by bin, loop by loop, of white noise."""
    r = (~np.isnan(x)).sum(0)
    mean = np.nanmean(x, 0)[r > 0].mean()
    product, noise = [], []
    for t in np.flatnonzero(r > 1):
        seen = x[~np.isnan(x[:, t]), t] - mean
        product.append(np.mean([a * b for a, b in itertools.permutations(seen, 2)]))
        noise.append(seen.var(ddof=1))
    return np.mean(product), np.mean(noise), (r > 1).sum()


def test_windows_that_differ_equal_the_definition():
    rng = np.random.default_rng(8)
    x = rng.normal(0, 1, (4, 2000)) + rng.normal(0, 1, 2000) - 60
    x[0, :20], x[1, 1500:], x[2, 300:700], x[3, 1900:] = np.nan, np.nan, np.nan, np.nan
    p = quality.powers(array(x))
    signal, noise, bins = by_bins(x.astype(np.float32))
    assert int(p["bins"]) == bins == 2000
    # What the noise of the mean adds and takes is a thousandth.
    assert float(p["signal_power"]) == pytest.approx(signal, abs=3e-3)
    assert float(p["total_power"] - p["signal_power"]) == pytest.approx(noise, abs=3e-3)


def test_equal_windows_are_a_case_of_windows_that_differ():
    rng = np.random.default_rng(9)
    x = rng.poisson(rng.gamma(1, 1, (1, 5, 1, 80)), (1, 5, 6, 80)).astype(np.float32)
    x[0, 1, 2], x[0, 2, :, 50:], x[0, 3, :, :9] = np.nan, np.nan, np.nan
    pred = rng.normal(0, 1, (1, 5, 80))
    observed = ~np.isnan(x)
    equal = of_powers._equal_windows(np.nan_to_num(x.astype(float)), observed.any(-1), observed.any(-2), pred)
    other = of_powers._unequal_windows(x[0], observed[0], pred[0])
    variances = [of_powers._COLUMNS.index(n) for n in ("null_variance", "variance")]
    np.testing.assert_allclose(np.delete(equal[0], variances, 1), np.delete(other, variances, 1), rtol=1e-9)


def recordings(repeats, windows, signal=0.3, width=0, seed=0, neurons=200, stims=4, bins=300):
    """Responses of many neurons, the variance of their signals in the bins that were observed, and the same dense."""
    rng = np.random.default_rng([repeats, seed])
    truth = np.sqrt(signal) * rng.normal(size=(stims, neurons, bins))
    if width:
        truth = np.sqrt(signal) * (smooth := gaussian_filter1d(truth, width)) / smooth.std()
    x = truth[:, :, None] + rng.normal(size=(stims, neurons, repeats, bins))
    dense = x.copy()
    if windows == "one short":
        x[:, :, 0, bins // 10 :] = np.nan
    elif windows == "random":
        start = rng.integers(0, bins // 3, (stims, neurons, repeats, 1))
        stop = rng.integers(2 * bins // 3, bins + 1, (stims, neurons, repeats, 1))
        x[(np.arange(bins) < start) | (np.arange(bins) >= stop)] = np.nan
    r = (~np.isnan(x)).sum(2)
    mean = np.where(r > 0, truth, 0).sum(-1, keepdims=True) / (r > 0).sum(-1, keepdims=True)
    power = np.where(r > 1, (truth - mean) ** 2, 0).sum((0, -1)) / (r > 1).sum((0, -1)) * bins / (bins - 1)
    return array(x), power, array(dense), truth.var(-1, ddof=1).mean(0), r


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("windows", ["one short", "random"])
@pytest.mark.parametrize("repeats", [3, 10])
def test_windows_that_differ_neither_bias_nor_blur_the_signal_power(repeats, windows, width):
    x, power, dense, dense_power, r = recordings(repeats, windows, width=width)
    q = quality.measures(x)
    error = q["signal_power"].values - power
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(len(error))
    # By the loss of data alone: the variance of a bin goes as 1 / (r (r - 1)) for the noise, as 1 / r beside a signal,
    # and that of the mean over bins as their number.
    lost = np.mean(1 / r[r > 1]) * repeats
    lost_noise = np.mean(1 / (r[r > 1] * (r[r > 1] - 1.0))) * repeats * (repeats - 1)
    whole = quality.signal_power(dense).values - dense_power
    assert error.std() < 1.15 * np.sqrt(max(lost, lost_noise) / (r > 1).mean()) * whole.std()
    told = np.sqrt((q["signal_power_se"].values ** 2).mean())
    assert 0.8 < told / error.std() < 1.3
    assert float(q["noise_power"].mean()) == pytest.approx(1, abs=0.02)


def test_one_short_repeat_of_ten_costs_next_to_nothing():
    x, power, dense, dense_power, _ = recordings(10, "one short")
    short, whole = (quality.signal_power(a).values - p for a, p in ((x, power), (dense, dense_power)))
    assert short.std() < 1.12 * whole.std()
    ceiling, of_dense = quality.ccmax(x), quality.ccmax(dense)
    assert float(ceiling.mean()) == pytest.approx(float(of_dense.mean()), abs=0.02)
    truth = quality.ccnorm(dense.mean("repeat") * 0 + dense.isel(repeat=0, drop=True), x)
    assert truth.notnull().all()


def test_ccnorm_of_the_truth_is_one_where_windows_differ():
    rng = np.random.default_rng(3)
    truth = gaussian_filter1d(rng.normal(size=(4, 100, 300)), 3) * 3
    x = truth[:, :, None] + rng.normal(size=(4, 100, 5, 300))
    x[:, :, 0, 40:], x[:, :, 1, :100], x[:, :, 2, 200:] = np.nan, np.nan, np.nan
    norm = quality.ccnorm(truth, array(x))
    assert float(norm.mean()) == pytest.approx(1, abs=4 * float(norm.std()) / 10)


@pytest.mark.parametrize("repeats", [2, 3, 5, 20])
@pytest.mark.parametrize("noise", ["white", "slow", "spikes", "windows"])
def test_p_signal_is_uniform_where_there_is_no_signal(noise, repeats):
    rng = np.random.default_rng([repeats, 7])
    x = rng.normal(size=(3, 300, repeats, 200))
    if noise == "slow":
        x = gaussian_filter1d(x, 3)
    elif noise == "spikes":
        x = rng.poisson(0.3, x.shape).astype(float)
    elif noise == "windows":
        x[..., 1, 60:] = np.nan
    p = quality.measures(array(x))["p_signal"].values
    assert kstest(p, "uniform").pvalue > 0.001
    assert (p < 0.05).mean() < 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / 300)
    assert (p < 0.01).mean() < 0.01 + 3.3 * np.sqrt(0.01 * 0.99 / 300)


def test_p_signal_is_small_where_there_is_one_and_beside_the_ceiling_of_noise():
    x, *_ = recordings(10, "one short")
    assert quality.measures(x)["p_signal"].max() < 1e-6
    noise = quality.measures(array(np.random.default_rng(0).normal(size=(1, 300, 10, 200))))
    assert 0.02 < float(noise["ccmax"].mean()) < 0.2
    assert float(noise["p_signal"].median()) == pytest.approx(0.5, abs=0.1)
    assert noise["p_signal"].attrs["estimator"].startswith("F ratio")
    assert noise["signal_power_se"].attrs["long_name"] == "standard error of the signal power"


@pytest.mark.parametrize("repeats", [2, 3, 10])
def test_the_standard_error_is_that_of_the_experiment_repeated(repeats):
    x, power, *_ = recordings(repeats, "", neurons=400)
    q = quality.measures(x)
    told = np.sqrt((q["signal_power_se"].values ** 2).mean())
    assert told == pytest.approx((q["signal_power"].values - power).std(), rel=0.2)


def test_a_resting_potential_does_not_cost_digits():
    x = np.random.default_rng(2).normal(0, 1, (1, 1, 6, 4000)) + np.sin(np.arange(4000) / 30)
    still, far = quality.measures(array(x)), quality.measures(array(np.round(x * 64) / 64 - 64))
    assert float(far["signal_power"][0]) == pytest.approx(float(still["signal_power"][0]), rel=1e-2)
    exact = pairwise((np.round(x[0, 0] * 64) / 64 - 64).astype(np.float32))[0]
    assert float(far["signal_power"][0]) == pytest.approx(exact, rel=1e-9)


def known(repeats=10, bins=20_000, signal=0.5, noise=2.0, seed=4):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, np.sqrt(signal), bins)
    return truth, array(truth + rng.normal(0, np.sqrt(noise), (1, 1, repeats, bins)))


@pytest.mark.parametrize("windows", ["equal", "unequal"])
@pytest.mark.parametrize("value", [0.0, np.float32(-60.1), -60.1, 1e7, 1.0])
def test_a_dead_channel_has_no_power_and_no_measure(value, windows):
    trace = make_cube(stim=2, neuron=2, repeat=5, bins=200, trace=(0, 1), holes=False)["response"]
    dead = (trace.astype(np.asarray(value).dtype) * 0 + value).assign_attrs(units="mV")
    if windows == "unequal":
        dead[:, :, 1, 150:] = np.nan
        dead[:, :, 2, :10] = np.nan
    for per in ("pair", "neuron"):
        found = quality.measures(dead, per)
        for name in ("signal_power", "noise_power", "signal_power_se"):
            assert (found[name] == 0).all()
        for name in ("snr", "ccmax", "p_signal"):
            assert found[name].isnull().all()


def test_a_dead_channel_that_drifts_from_repeat_to_repeat_is_as_dead():
    trace = make_cube(stim=2, neuron=2, repeat=5, bins=200, trace=(0, 1), holes=False)["response"]
    found = quality.measures(trace * 0 + 3.3 * xr.DataArray(np.arange(5), dims="repeat"))
    assert (found["noise_power"] == 0).all()
    assert found["snr"].isnull().all()
    assert found["ccmax"].isnull().all()


@pytest.mark.parametrize("trace", [(), (0, 1)])
@pytest.mark.parametrize("windows", ["equal", "unequal"])
def test_identical_repeats_have_no_noise(trace, windows):
    one = make_cube(stim=2, neuron=2, repeat=1, bins=200, trace=trace, holes=False)["response"]
    same = xr.concat([one.isel(repeat=0)] * 20, "repeat").transpose(*one.dims)
    if windows == "unequal":
        same[:, :, 1, 150:] = np.nan
    found = quality.measures(same)
    assert (found["noise_power"] == 0).all()
    assert found["snr"].isnull().all()
    np.testing.assert_allclose(found["ccmax"], 1, rtol=1e-12)


@pytest.mark.parametrize("offset", [-60.0, 1e5, 1e7])
def test_what_a_response_is_about_costs_no_digits(offset):
    cube = make_cube(stim=3, neuron=3, repeat=5, bins=300, trace=(0, 1, 2), holes=False, seed=4)
    x = cube["response"].astype(np.float64)
    x = (x * 2**20).round() / 2**20  # which sums with the offset keep
    pred = x.mean("repeat")
    for repeats in (x, x.where((x["repeat"] != 1) | (x["time"] < 1.0))):
        here, there = quality.measures(repeats), quality.measures(repeats + offset)
        for name in here:
            np.testing.assert_allclose(there[name], here[name], rtol=1e-5)
        np.testing.assert_allclose(
            quality.ccnorm(pred + offset, repeats + offset), quality.ccnorm(pred, repeats), rtol=1e-6
        )


@pytest.mark.parametrize("per", ["pair", "neuron"])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 60.7, 1e9])
def test_a_constant_prediction_has_no_score(cube, value, per):
    pred = xr.full_like(cube["response"].isel(repeat=0, drop=True), value, np.float64)
    assert quality.ccnorm(pred, cube["response"], per).isnull().all()
    short = cube["response"].where((cube["repeat"] != 1) | (cube["time"] < 0.1))
    assert quality.ccnorm(pred, short, per).isnull().all()


def test_a_flat_psth_of_what_varies_is_a_ceiling_of_zero():
    found = quality.measures(array([[1, 0, 1, 0], [0, 1, 0, 1]]), per="pair")
    assert float(found["signal_power"]) == pytest.approx(-1 / 3)
    assert float(found["ccmax"]) == 0


@pytest.mark.parametrize("windows", ["equal", "unequal"])
def test_padding_changes_no_measure(windows):
    x = make_cube(stim=3, neuron=5, repeat=5, bins=83, seed=3, holes=False)["response"]
    if windows == "unequal":
        x[:, :, 1, 40:] = np.nan
    padded = x.pad(time=(7, 40), repeat=(0, 3), constant_values=np.nan)
    for per in ("pair", "neuron"):
        bare, more = quality.measures(x, per), quality.measures(padded, per)
        for name in bare:
            np.testing.assert_allclose(more[name], bare[name], rtol=1e-5, err_msg=name)
    counts, more = (np.where(np.isnan(v), 255, v).astype(np.uint8) for v in (x.values, padded.values))
    np.testing.assert_allclose(
        of_powers._columns_of_stored(more, 255), of_powers._columns_of_stored(counts, 255), rtol=1e-5
    )


def test_known_powers_are_recovered():
    truth, x = known()
    result = quality.measures(x)
    assert float(result["signal_power"][0]) == pytest.approx(0.5, rel=0.05)
    assert float(result["noise_power"][0]) == pytest.approx(2.0, rel=0.02)
    assert float(result["snr"][0]) == pytest.approx(0.25, rel=0.05)
    reached = np.corrcoef(truth, x.mean("repeat").values[0, 0])[0, 1]
    assert float(result["ccmax"][0]) == pytest.approx(reached, rel=0.01)


def test_signal_power_is_unbiased():
    """Without any signal its mean over many neurons is 0 within its own error, at two repeats as at ten."""
    x = np.random.default_rng(5).poisson(0.5, (1, 2000, 10, 40))
    for repeats in (2, 10):
        sp = quality.signal_power(array(x[:, :, :repeats]), per="pair")
        assert abs(float(sp.mean())) < 4 * float(sp.std()) / np.sqrt(sp.size)


def test_ccmax_is_the_mean_over_all_halvings():
    """The closed form against the definition: half-against-half correlation, stepped up to all repeats."""
    _, x = known(repeats=8, bins=4000, signal=0.7)
    trials = x.values[0, 0]
    halves = []
    for half in itertools.combinations(range(8), 4):
        other = [r for r in range(8) if r not in half]
        halves.append(np.corrcoef(trials[list(half)].mean(0), trials[other].mean(0))[0, 1])
    r = np.mean(halves)
    stepped_up = np.sqrt(2 / (1 + np.sqrt(1 / r**2)))
    assert float(quality.ccmax(x)[0]) == pytest.approx(stepped_up, rel=2e-3)


def test_ccnorm_equals_its_formula(cube):
    pred = cube["response"].mean("repeat") ** 2 + 3
    result = quality.ccnorm(pred, cube["response"], per="pair")
    assert result.attrs["units"] == "1"
    assert "Schoppe" in result.attrs["estimator"]
    for s, n in itertools.product(range(6), range(7)):
        x, p = cube["response"][s, n].values, pred[s, n].values
        if cube["n_repeats"][s, n] < 2:
            assert np.isnan(result[s, n])
            continue
        used = ~np.isnan(x[: int(cube["n_repeats"][s, n])]).any(0)
        sp = pairwise(x)[0]
        mean, p = np.nanmean(x[: int(cube["n_repeats"][s, n]), :][:, used], axis=0), p[used]
        expected = np.cov(mean, p)[0, 1] / np.sqrt(p.var(ddof=1) * sp) if sp > 0 else np.nan
        assert float(result[s, n]) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_ccnorm_of_the_truth_is_one_whatever_its_scale():
    truth, x = known(bins=40_000)
    pred = xr.DataArray(truth[None, None] * 7 - 100, dims=("stim", "neuron", "time"))
    assert float(quality.ccnorm(pred, x)[0]) == pytest.approx(1, abs=0.03)
    assert float(quality.ccnorm(-pred, x)[0]) == pytest.approx(-1, abs=0.03)
    assert np.isnan(quality.ccnorm(pred * 0, x)[0])


def test_ccnorm_is_ccabs_over_ccmax(cube):
    pred = cube["response"].mean("repeat") + np.random.default_rng(0).normal(
        0, 1, cube["response"].isel(repeat=0).shape
    )
    p = quality.powers(cube["response"], pred)
    ccabs = p["covariance"] / np.sqrt(p["prediction_power"] * p["psth_power"])
    ratio = ccabs / quality.ccmax(cube["response"], per="pair").where(lambda v: v > 0)
    # Where a prediction lacks no bin the two are one; the traces' partly observed trials are common to both.
    xr.testing.assert_allclose(ratio, quality.ccnorm(pred, cube["response"], per="pair"))


def test_ccnorm_aligns_by_label_and_takes_several_models(cube):
    pred = cube["response"].mean("repeat")
    shuffled = pred.isel(stim=[4, 0, 2], neuron=slice(None, None, -1))
    with pytest.warns(PartialPredictionWarning, match="3 of 6 stimuli"):
        some = quality.ccnorm(shuffled, cube["response"], per="pair").transpose("stim", "neuron")
    whole = quality.ccnorm(pred, cube["response"], per="pair")
    xr.testing.assert_allclose(some.sortby("stim"), whole.sel(stim=some["stim"], neuron=some["neuron"]).sortby("stim"))
    models = xr.concat([pred, -pred, pred.where(pred["time"] >= 0.05)], "model")
    several = quality.ccnorm(models, cube["response"])
    assert set(several.dims) == {"model", "neuron"}
    xr.testing.assert_allclose(several.isel(model=0), -several.isel(model=1))
    lazy = quality.ccnorm(models.chunk(stim=2), cube["response"].chunk(stim=2))
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), several)


def test_cc_equals_its_formula(cube):
    rng = np.random.default_rng(0)
    pred = cube["response"].mean("repeat") + rng.normal(0, 0.3, cube["response"].isel(repeat=0).shape)
    pred[0, 0, 3] = np.inf  # what a model leaves out
    found = quality.cc(pred, cube["response"], per="pair")
    assert (found.name, found.attrs["units"], found.attrs["long_name"]) == ("cc", "1", "CC")
    singles, moments = 0, {}
    for s, n in itertools.product(range(6), range(7)):
        x, p = cube["response"][s, n].values, pred[s, n].values
        seen = ~np.isnan(x).all(0) & np.isfinite(p)
        if seen.sum() < 2:
            assert np.isnan(found[s, n])
            continue
        singles += int(cube["n_repeats"][s, n]) == 1
        psth, p = np.nanmean(x[:, seen].astype(float), axis=0), p[seen]
        cov = np.cov(p, psth)
        moments.setdefault(n, []).append((seen.sum(), cov[0, 1], cov[0, 0], cov[1, 1]))
        wanted = np.corrcoef(p, psth)[0, 1] if psth.std() > 0 else np.nan
        assert float(found[s, n]) == pytest.approx(wanted, rel=1e-6, nan_ok=True)
    assert singles  # which have no CCnorm
    pooled = quality.cc(pred, cube["response"])
    assert "weighted by bins" in pooled.attrs["estimator"]
    for n, rows in moments.items():
        weight, cov, p, r = np.array(rows).T
        wanted = (weight @ cov) / np.sqrt((weight @ p) * (weight @ r))
        assert float(pooled[n]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("per", ["pair", "neuron"])
def test_cc_over_ccmax_is_ccnorm_where_all_were_repeated(per):
    x = make_cube(stim=4, neuron=5, repeat=4, bins=80, seed=3, holes=False)["response"]
    x = x.where(x.notnull(), 0)  # everybody heard everything, four times
    pred = x.mean("repeat") + np.random.default_rng(0).normal(0, 0.3, x.isel(repeat=0).shape)
    ceiling = quality.ccmax(x, per)
    assert (ceiling > 0).any()
    np.testing.assert_allclose(quality.cc(pred, x, per) / ceiling.where(ceiling > 0), quality.ccnorm(pred, x, per))


def test_cc_takes_what_ccnorm_takes(cube):
    pred = cube["response"].mean("repeat") ** 2
    whole = quality.cc(pred, cube["response"], per="pair")
    with pytest.warns(PartialPredictionWarning, match="3 of 6 stimuli"):
        some = quality.cc(pred.isel(stim=[4, 0, 2], neuron=slice(None, None, -1)), cube["response"], per="pair")
    xr.testing.assert_allclose(some, whole.sel(stim=some["stim"], neuron=some["neuron"]).transpose(*some.dims))
    models = xr.concat([pred, -pred], "model")
    several = quality.cc(models, cube["response"], per="pair")
    xr.testing.assert_allclose(several.isel(model=0), -several.isel(model=1))
    lazy = quality.cc(models.chunk(stim=2), cube["response"].chunk(stim=2), per="pair")
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), several)
    for offset in (60.7, 1e7):
        x, p = (values.astype(np.float64) + offset for values in (cube["response"], pred))
        np.testing.assert_allclose(quality.cc(p, x, per="pair"), whole, rtol=1e-6)
    with pytest.raises(UsageError, match="'pair' or 'neuron'"):
        quality.cc(pred, cube["response"], per="stim")


@pytest.mark.parametrize("per", ["pair", "neuron"])
@pytest.mark.parametrize("value", [0.0, 0.1, 60.7, 1e9])
def test_a_constant_has_no_cc(cube, value, per):
    flat = xr.full_like(cube["response"].isel(repeat=0, drop=True), value, np.float64)
    assert quality.cc(flat, cube["response"], per).isnull().all()
    dead = cube["response"].where(cube["response"].isnull(), np.float32(value))
    assert quality.cc(cube["response"].mean("repeat"), dead, per).isnull().all()


def test_ccnorm_of_strangers_is_refused(cube):
    pred = cube["response"].mean("repeat").assign_coords(stim=[f"other{i}" for i in range(6)])
    with pytest.raises(UsageError, match="no stim in common"):
        quality.ccnorm(pred, cube["response"])


@pytest.mark.parametrize("function", [quality.powers, quality.measures])
def test_per_is_checked(cube, function):
    with pytest.raises(UsageError, match="'pair' or 'neuron'"):
        function(cube["response"], per="stim")


def make_trials(rows, spikes):
    """The group `trials`: rows of (stim, neuron, start, stop, kept, exact), and each one's spike times in s."""
    stim, neuron, start, stop, kept, exact = (np.array(c) for c in zip(*rows, strict=True))
    return xr.Dataset(
        {
            "stim_index": ("trial", stim), "neuron_index": ("trial", neuron),
            "window_start": ("trial", start.astype(float)), "window_stop": ("trial", stop.astype(float)),
            "kept": ("trial", kept.astype(bool)), "exact": ("trial", exact.astype(bool)),
            "row_size": ("trial", np.array([len(s) for s in spikes])),
            "spike_time": ("spike", np.rint(np.concatenate(spikes) * 1e9).astype(np.int64)),
        }
    )  # fmt: skip


def test_spontaneous_rate():
    cube = make_cube(stim=2, neuron=4, trace=(3,))
    nan = np.nan
    trials = make_trials(
        [(0, 0, -2, 3, True, True), (0, 0, -1, 3, True, True), (1, 0, -1, 3, False, True), (1, 1, nan, nan, True, True),
         (0, 2, 0, 3, True, True), (0, 3, -1, 3, True, False)],
        [[-1.5, -0.1, 0.5], [-0.5, 0.0], [-0.9, -0.8], [-0.3], [0.1], []],
    )  # fmt: skip
    rate = quality.spontaneous_rate(trials, cube)
    assert rate.attrs["units"] == "spikes/s"
    # Three spikes in 3 s; then a window not stated, none before the sound, no spike times.
    np.testing.assert_allclose(rate, [1.0, nan, nan, nan])
    pairs = quality.spontaneous_rate(trials, cube, per="pair")
    assert pairs.dims == ("stim", "neuron")
    assert float(pairs[0, 0]) == pytest.approx(1)
    assert np.isnan(pairs[1, 0])  # rejected trials do not count
    whole, *why = re.split(r"\. |; ", rate.attrs["comment"])
    assert whole == "NaN for 3 of 4 neurons"
    assert [w[:20] for w in why] == ["1: recorded from the", "1: the files do not ", "1: no exact spike ti"]
    assert pairs.attrs["comment"].startswith("NaN for 7 of 8 pairs. ")
    assert pairs.attrs["comment"].endswith("; 4: no trial")
    given = quality.spontaneous_rate(trials, cube, window=(-0.5, 2))
    np.testing.assert_allclose(given, [1.0, 2.0, nan, nan])
    with pytest.raises(UsageError):
        quality.spontaneous_rate(trials, cube, per="stim")


def test_silence_within_the_stimulus_counts():
    """A sound that begins 0.25 s into its epoch leaves 0.25 s that the cube itself has bins for."""
    cube = make_cube(stim=1, neuron=1)
    cube["sound_onset"][:] = 0.25
    trials = make_trials([(0, 0, np.nan, np.nan, True, True)], [[-0.1, 0.1, 0.2, 0.3]])
    assert float(quality.spontaneous_rate(trials, cube)[0]) == pytest.approx(8)


def test_spikes_are_counted_part_by_part():
    rng = np.random.default_rng(6)
    spikes = [rng.uniform(-1, 1, n) for n in rng.integers(0, 9, 50)]
    trials = make_trials([(0, 0, -1, 1, True, True)] * 50, spikes)
    expected = [np.sum((s >= -0.5) & (s < 0.25)) for s in spikes]
    for most in (1, 7, 10_000):
        np.testing.assert_array_equal(quality._count(trials, np.full(50, -0.5), np.full(50, 0.25), most), expected)


@pytest.mark.parametrize("measure", [quality.cc, quality.ccnorm])
@pytest.mark.parametrize("per", ["pair", "neuron"])
def test_a_prediction_that_overflows_has_no_correlation(cube, measure, per):
    pred = cube["response"].mean("repeat")
    wanted = measure(pred, cube["response"], per)
    np.testing.assert_allclose(measure(pred.astype(float) * 1e100, cube["response"], per), wanted)
    with np.errstate(over="ignore", invalid="ignore"):
        assert measure(pred.astype(float) * 1e200, cube["response"], per).isnull().all()


@pytest.mark.parametrize("measure", [quality.cc, quality.ccnorm])
def test_models_may_be_along_a_dimension_of_any_name(cube, measure):
    pred = cube["response"].mean("repeat")
    found = measure(xr.concat([pred, -pred], "column"), cube["response"])
    np.testing.assert_allclose(found.isel(column=1), -measure(pred, cube["response"]))
