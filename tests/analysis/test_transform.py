"""Averaging, smoothing and standardising on reading."""

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube
from hypothesis import given
from hypothesis import strategies as st

from strfcube.analysis.transform import hann_kernel, psth, smooth, standardize
from strfcube.errors import SelectionError, UsageError
from strfcube.loading import CubeView


@given(st.floats(0.5, 50), st.floats(0.1, 500))
def test_the_window_keeps_the_scale(dt_ms, smooth_ms):
    kernel = hann_kernel(dt_ms, smooth_ms)
    assert len(kernel) % 2 == 1
    assert kernel.sum() == pytest.approx(1)
    assert (kernel > 0).all()
    np.testing.assert_allclose(kernel, kernel[::-1])
    assert (len(kernel) - 1) / 2 * dt_ms < smooth_ms / 2


@pytest.mark.parametrize("width", [-3, np.inf, np.nan, "21", True])
def test_a_width_must_be_a_number_from_0(width):
    with pytest.raises(UsageError, match="smooth_ms"):
        hann_kernel(5, width)


def test_a_width_of_0_smooths_nothing_anywhere():
    cube = make_cube()
    assert hann_kernel(5, 0).tolist() == [1.0]
    xr.testing.assert_identical(cube.strf.psth(smooth_ms=0), cube.strf.psth())
    plain, none = CubeView(cube).batch([0]), CubeView(cube, smooth_ms=0).batch([0])
    np.testing.assert_array_equal(none["responses"], plain["responses"])


def test_psth_is_a_rate_and_smoothing_keeps_its_mean():
    ds = make_cube(stim=2, neuron=3, repeat=4, bins=50, holes=False)
    rate = psth(ds["response"], 5.0)
    assert rate.dims == ("stim", "neuron", "time")
    assert rate.attrs["units"] == "spikes/s"
    assert rate.dtype == np.float32
    np.testing.assert_allclose(rate[0], ds["response"][0].mean("repeat") / 0.005, rtol=1e-6)
    inner = xr.zeros_like(ds["response"])[:1]
    inner[..., 20:30] = 2
    smoothed = psth(inner.assign_attrs(units="count"), 5.0, 21)
    assert float(smoothed.sum()) == pytest.approx(3 * 10 * 2 / 0.005, rel=1e-5)
    assert "21 ms" in smoothed.attrs["estimator"]


def test_constant_rate_stays_constant_up_to_the_last_bin():
    ds = make_cube(stim=3, neuron=2, repeat=2, bins=40, holes=False)
    flat = ds["response"].where(ds["response"].isnull(), 1.0)
    rate = psth(flat, 5.0, 50)
    for s in range(3):
        n = int(ds["n_bins"][s])
        np.testing.assert_allclose(rate[s, :, :n], 200, rtol=1e-5)
        assert np.isnan(rate[s, :, n:]).all()


def test_mean_is_over_the_repeats_that_observed_a_bin():
    x = xr.DataArray(np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan]]), dims=("repeat", "time"))
    np.testing.assert_allclose(psth(x.assign_attrs(units="mV"), 5.0), [2, 4, np.nan])


@pytest.mark.parametrize("lazy", [False, True])
def test_half_precision_is_averaged_in_single(lazy):
    ds = make_cube(stim=2, repeat=20, trace=range(5))
    half = ds["response"].astype(np.float16)
    exact = half.astype(np.float64).mean("repeat")
    got = psth(half.chunk(stim=1) if lazy else half, 5).compute()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "f2"])
def test_what_is_smoothed_is_no_coarser_than_single_precision(dtype):
    counts = make_cube(stim=1, holes=False, rate=2)["response"].astype(dtype)
    out = smooth(counts, 5, 40)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, smooth(counts.astype(np.float64), 5, 40), rtol=1e-5)


def test_units():
    mixed = make_cube(neuron=3, trace=(1,), holes=False)
    rate = psth(mixed["response"], 5.0)
    assert rate.attrs["units"] == "mixed"
    assert list(rate["units"].values) == ["spikes/s", "mV", "spikes/s"]
    means = mixed["response"].mean("repeat")
    np.testing.assert_allclose(rate[:, 1], means[:, 1], rtol=1e-6)
    np.testing.assert_allclose(rate[:, 0], means[:, 0] * 200, rtol=1e-5)
    assert psth(make_cube(neuron=2, trace=(0, 1))["response"], 5.0).attrs["units"] == "mV"
    with pytest.raises(UsageError, match="units"):
        psth(mixed["response"].assign_attrs(units="furlong"), 5.0)


@pytest.mark.parametrize("smooth_ms", [None, 21])
def test_lazy_equals_eager(smooth_ms):
    response = make_cube(stim=4, neuron=3, repeat=3)["response"]
    lazy = psth(response.chunk(stim=1, repeat=1), 5.0, smooth_ms)
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), psth(response, 5.0, smooth_ms))


def test_smooth_leaves_gaps_as_they_are():
    x = xr.DataArray(np.array([0.0, 4.0, np.nan, 4.0, 0.0]), dims="time", attrs={"units": "mV"})
    out = smooth(x, 1, 4)
    assert np.isnan(out[2])
    np.testing.assert_allclose(out, out[::-1])
    assert out.attrs == x.attrs
    xr.testing.assert_identical(smooth(x, 5, 5), x)


def test_standardize_by_band_and_over_all():
    ds = make_cube(stim=5)
    bands = standardize(ds["stimulus"])
    np.testing.assert_allclose(bands.mean(["stim", "time"]), 0, atol=1e-6)
    np.testing.assert_allclose(bands.std(["stim", "time"]), 1, rtol=1e-5)
    assert bands.attrs["units"] == "1"
    assert bands.dtype == np.float32
    one = standardize(ds["stimulus"], per="all")
    assert float(one.mean()) == pytest.approx(0, abs=1e-6)
    assert float(one.std()) == pytest.approx(1, rel=1e-5)
    xr.testing.assert_equal(bands.isnull(), ds["stimulus"].isnull())
    lazy = standardize(ds["stimulus"].chunk(stim=2))
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), bands)


def test_statistics_are_of_the_chosen_stimuli_only():
    ds = make_cube(stim=5)
    train = ds["stim"].values[:3]
    out = standardize(ds["stimulus"], train)
    np.testing.assert_allclose(out[:3].mean(["stim", "time"]), 0, atol=1e-6)
    changed = ds["stimulus"].copy()
    changed[3:] = changed[3:] * 100
    xr.testing.assert_equal(standardize(changed, train)[:3], out[:3])
    xr.testing.assert_equal(standardize(ds["stimulus"], np.arange(5) < 3), out)


def test_constant_and_missing_bands():
    stimulus = make_cube()["stimulus"].copy()
    stimulus[:, 0] = stimulus[:, 0].where(stimulus[:, 0].isnull(), 3.0)
    stimulus[:, 1] = np.nan
    out = standardize(stimulus)
    assert float(abs(out[:, 0]).max()) == 0
    assert out[:, 1].isnull().all()


def test_a_mask_of_stimuli_goes_by_its_labels():
    ds = make_cube()
    mask = ds["stim_type"] == "conspecific"
    right = standardize(ds["stimulus"], ds["stim"].values[mask.values])
    for one in (mask, mask[::-1], mask[[2, 0, 3, 1]], mask.to_series()[::-1], mask.values):
        xr.testing.assert_equal(standardize(ds["stimulus"], one), right)
        xr.testing.assert_equal(ds.strf.standardize(one)["stimulus"], right)
    with pytest.raises(SelectionError, match="says nothing of 4 of 4 labels of 'stim'"):
        standardize(ds["stimulus"], mask.assign_coords(stim=ds["stim_name"].values))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8"])
def test_whole_numbers_are_standardised_as_floats(dtype):
    stimulus = make_cube(bins=2)["stimulus"] * 20  # no bin is missing
    whole = stimulus.round().astype(dtype)
    out = standardize(whole)
    assert out.dtype == np.float32
    xr.testing.assert_allclose(out, standardize(whole.astype(np.float32)), rtol=1e-5)


@pytest.mark.parametrize("per", ["band", "all"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_constant_that_no_binary_number_equals_becomes_0(per, dtype):
    stimulus = make_cube(stim=5, bins=47)["stimulus"].astype(dtype)
    assert float(abs(standardize(stimulus * 0 + stimulus.dtype.type(33.3), per=per)).max()) == 0


@pytest.mark.parametrize("stims", [["nobody"], [], np.zeros(4, bool), np.ones(3, bool)])
def test_wrong_stimuli_are_refused(stims):
    with pytest.raises(SelectionError, match="stims"):
        standardize(make_cube(stim=4)["stimulus"], stims)


def test_per_is_checked():
    with pytest.raises(UsageError, match="'band' or 'all'"):
        standardize(make_cube()["stimulus"], per="stim")


@pytest.mark.parametrize("per", ["band", "all"])
@pytest.mark.parametrize("lazy", [False, True])
def test_standardize_takes_moments_of_what_is_there(per, lazy):
    ds = make_cube(stim=4, bands=3)
    values = ds["stimulus"].values + 10
    values[1, 2] = np.nan  # a sound that lacks the highest band
    values[:, 0] = np.nan  # and a band that only one has
    values[3, 0, :20] = 5
    ds = ds.assign(stimulus=ds["stimulus"].copy(data=values))
    out = (ds.chunk(stim=1) if lazy else ds).strf.standardize("train", per=per)["stimulus"].values
    train = values[:3]
    if per == "band":
        for band in (1, 2):
            there = train[:, band][~np.isnan(train[:, band])]
            np.testing.assert_allclose(
                out[:, band], (values[:, band] - there.mean()) / there.std(), rtol=1e-4, atol=1e-4
            )
        np.testing.assert_array_equal(out[:, 0], values[:, 0])
    else:
        there = train[~np.isnan(train)]
        np.testing.assert_allclose(out, (values - there.mean()) / there.std(), rtol=1e-4, atol=1e-4)


def test_a_window_longer_than_any_stimulus_is_refused_at_the_call():
    with pytest.raises(UsageError, match=r"longer than any stimulus, 3600 s at most"):
        hann_kernel(5.0, 1e9)
    with pytest.raises(UsageError, match="0 to 3600000"):
        CubeView(make_cube()).using(smooth_ms=1e9)


def test_mixed_responses_that_have_lost_their_units_are_refused():
    cube = make_cube(trace=(0, 1))
    with pytest.raises(UsageError, match=r"lost their coordinate 'units': .*ds.assign_coords\(units="):
        cube.drop_vars("units").strf.psth()
