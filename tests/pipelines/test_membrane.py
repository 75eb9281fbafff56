"""Detrending, gating and spike detection against plain formulas and planted truth."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from strfcube.pipelines.membrane import Gates, detrend, doubt, find_spikes, gate, running_median, trial_correlations

RATE = 10_000.0


def traces(repeats, n=4000, *, noise=0.3, seed=0):
    """Repeats of one response, in mV."""
    rng = np.random.default_rng(seed)
    response = 5 * gaussian_filter1d(rng.normal(size=n), 20) / 0.1
    return [(response + rng.normal(0, noise, n)).astype(np.float32) for _ in range(repeats)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "width_ms"), [(5, 4.0), (300, 4.1), (300, 100.0), (2000, 100.0), (2000, 0.1)])
def test_running_median_is_the_median_of_every_window(n, width_ms, dtype):
    trace = np.cumsum(np.random.default_rng(n).normal(size=n)).astype(dtype)
    half = round(width_ms * RATE / 2000)
    padded = np.pad(trace, half, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    np.testing.assert_array_equal(running_median(trace, RATE, width_ms), np.median(windows, axis=1))


def test_detrending_takes_off_the_smoothed_median():
    trace = np.cumsum(np.random.default_rng(1).normal(size=5000)) * 0.1 - 60
    expected = trace - gaussian_filter1d(running_median(trace, RATE, 100), 100, mode="reflect")
    np.testing.assert_allclose(detrend(trace, RATE), expected, atol=2e-5)
    np.testing.assert_allclose(detrend(trace, RATE, 100, 0), trace - running_median(trace, RATE, 100), atol=2e-5)
    np.testing.assert_array_equal(detrend(trace, RATE, 0), trace.astype(np.float32))
    assert detrend(np.empty(0), RATE).size == 0


def test_a_sample_depends_on_90_ms_around_it():
    trace = np.cumsum(np.random.default_rng(2).normal(size=6000))
    whole, part = detrend(trace, RATE), detrend(trace[1000:5000], RATE)
    reach = 500 + 400
    np.testing.assert_allclose(part[reach:-reach], whole[1000 + reach : 5000 - reach], atol=1e-4)
    assert np.abs(part[:reach] - whole[1000 : 1000 + reach]).max() > 0.1  # the mirror image is not the trace


def test_detrending_keeps_up_with_real_time_twenty_times_over():
    trace = np.cumsum(np.random.default_rng(0).normal(size=100_000)) * 0.01 - 60
    seconds = []
    for _ in range(3):
        start = time.process_time()
        detrend(trace, RATE)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 10 / 20


def test_short_potentials_on_a_drift_are_recovered():
    t = np.arange(20_000) / RATE
    clean = np.where((t % 0.4 > 0.2) & (t % 0.4 < 0.22), 12.0, 0.0)
    drift = -60 + 4 * np.sin(2 * np.pi * t / 10) + 2 * t
    inside = slice(900, -900)
    assert np.abs(detrend(clean + drift, RATE) - clean)[inside].max() < 0.1


def test_gaps_stay_gaps_and_do_not_spread():
    trace = np.random.default_rng(3).normal(size=3000)
    holed = trace.copy()
    holed[1000:1010] = np.nan
    found = detrend(holed, RATE)
    assert np.isnan(found[1000:1010]).all()
    assert np.isfinite(np.delete(found, np.arange(1000, 1010))).all()
    np.testing.assert_allclose(found[1100:], detrend(trace, RATE)[1100:], atol=0.05)
    assert np.isnan(detrend(np.full(100, np.nan), RATE)).all()


@given(repeats=st.integers(3, 9), n=st.integers(2, 40), seed=st.integers(0, 999), ties=st.booleans())
@settings(max_examples=60)
def test_correlation_is_with_the_median_of_the_others(repeats, n, seed, ties):
    block = np.random.default_rng(seed).normal(size=(repeats, n))
    block = np.rint(block) if ties else block
    for i, r in enumerate(trial_correlations(list(block))):
        x, y = block[i], np.median(np.delete(block, i, 0), axis=0)
        expected = np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else 0.0
        assert r == pytest.approx(expected, abs=1e-9)


def test_correlation_of_unequal_lengths():
    a, b, c, d = traces(4)
    found = trial_correlations([a, b[:1000], c, d[:3000]])
    others = np.concatenate([np.median([a[:1000], c[:1000], d[:1000]], 0)])
    assert found[1] == pytest.approx(np.corrcoef(b[:1000], others)[0, 1])
    others = np.concatenate([np.median([b[:1000], c[:1000], d[:1000]], 0), np.median([c[1000:3000], d[1000:3000]], 0)])
    assert found[0] == pytest.approx(np.corrcoef(a[:3000], others)[0, 1])  # beyond 3000 only two repeats reach


def test_two_repeats_cannot_say_which_is_odd():
    a, b = traces(2)
    assert np.isnan(trial_correlations([a, -b])).all()
    assert [v.test for v in gate([a, -b], RATE)] == ["", ""]


def test_each_bad_repeat_fails_its_own_test():
    good = traces(5)
    saturated, stepped, odd = (trace.copy() for trace in traces(3, seed=0))
    saturated[100:110] = 160
    stepped[1000:1200] += 60
    odd = -odd
    verdicts = gate([good[0], saturated, good[1], stepped, good[2], odd, good[3]], RATE)
    assert [v.test for v in verdicts] == ["", "range", "", "step", "", "xcorr", ""]
    assert verdicts[1].value == pytest.approx(160)
    assert verdicts[3].value == pytest.approx(200 / 4000, abs=0.01)
    assert verdicts[5].value < -0.5
    assert math.isnan(verdicts[0].value)
    verdicts = gate([good[0], saturated, good[1], stepped, good[2], odd, good[3]], RATE, correlate=False)
    assert [v.test for v in verdicts] == ["", "range", "", "step", "", "", ""]
    loose = Gates(range_mv=300, step_mv=200, min_r=-2)
    assert not any(v.test for v in gate([good[0], saturated, stepped, odd], RATE, loose))


def test_a_repeat_that_failed_earlier_is_no_witness():
    good, odd = traces(3), -traces(1)[0]
    saturated = good[2] + np.where(np.arange(4000) < 40, 200.0, 0).astype(np.float32)
    assert [v.test for v in gate([good[0], odd, saturated], RATE)] == ["", "", "range"]


def test_a_gap_fails_the_range_test_and_a_flat_trace_the_correlation():
    *good, holed = traces(4)
    holed[5] = np.nan
    assert [v.test for v in gate([*good, holed], RATE)] == ["", "", "", "range"]
    verdict = gate([*good, np.zeros(4000, np.float32)], RATE)[-1]
    assert verdict == ("xcorr", 0.0)


def test_short_excursions_are_no_step():
    trace = traces(1)[0]
    trace[::200] += 60  # single samples, which the 5 ms median removes
    assert not gate([trace], RATE)[0].test


def test_spikes_are_peaks_above_threshold():
    rng = np.random.default_rng(4)
    trace = rng.normal(0, 0.1, 20_000)
    at = np.arange(300, 19_000, 700) + rng.integers(0, 100, 27)
    shape = np.array([1, 4, 10, 6, 2, -2, -3])
    for sample in at:
        trace[sample - 2 : sample + 5] += shape
        trace[sample + 10] += 5  # within 2 ms, lower
    drift = 3 * np.sin(np.arange(20_000) / 2000)
    np.testing.assert_array_equal(find_spikes(detrend(trace + drift, RATE), RATE).at, at)
    both = find_spikes(trace, RATE, refractory_ms=0.5).at
    np.testing.assert_array_equal(both, np.sort(np.concatenate([at, at + 10])))
    assert find_spikes(trace, RATE, threshold=500).at.size == 0


def test_nothing_spikes_in_a_flat_or_empty_trace():
    assert find_spikes(np.zeros(1000, np.float32), RATE).at.size == 0
    assert find_spikes(np.empty(0, np.float32), RATE).at.size == 0


# A cell that fires at random: spikes of 1 ms with an undershoot, whose heights vary by a tenth, in noise of 0.3 mV.


def cell(spikes_per_s, snr, seconds=120, rate=10_000.0, seed=0):
    rng = np.random.default_rng([seed, int(100 * spikes_per_s), int(10 * snr)])
    trace = rng.normal(0, 1, int(seconds * rate))
    times = np.cumsum(rng.exponential(1 / spikes_per_s, int(2 * seconds * spikes_per_s) + 20)) if spikes_per_s else []
    at = np.array([int(t * rate) for t in times if 0.02 < t < seconds - 0.02], int)
    at = at[np.r_[True, np.diff(at) > 40]] if len(at) else at
    around = np.arange(-5, 25)
    shape = np.exp(-0.5 * (around / 2.5) ** 2) - 0.35 * np.exp(-0.5 * ((around - 10) / 5) ** 2)
    for sample in at:
        trace[sample - 5 : sample + 25] += snr * rng.normal(1, 0.1) * shape / shape.max()
    return detrend((0.3 * trace).astype(np.float32), rate), at


@pytest.mark.parametrize("snr", [3, 5, 6, 7, 10, 40])
@pytest.mark.parametrize("spikes_per_s", [0.2, 0.55, 1, 5])
def test_spikes_of_quiet_cells_are_found_or_doubted(spikes_per_s, snr):
    trace, at = cell(spikes_per_s, snr)
    found = find_spikes(trace, 10_000.0)
    certain = not doubt(found.excess, found.mirrored)
    assert not certain or abs(len(found.at) - len(at)) <= 0.1 * len(at)
    assert certain or snr < 7 or spikes_per_s < 1  # of two dozen spikes, two or three mirrored peaks are a tenth
    if snr >= 7:
        hits = np.searchsorted(found.at, at - 5) < np.searchsorted(found.at, at + 5, side="right")
        assert hits.mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_has_no_spikes(seed):
    trace, _ = cell(0, 0, seed=seed)
    found = find_spikes(trace, 10_000.0)
    assert len(found.at) / 120 < 0.05  # spikes/s
    assert doubt(found.excess, found.mirrored)


def test_the_published_threshold_lets_noise_through():
    trace, at = cell(0.55, 10)
    published = find_spikes(trace, 10_000.0, threshold=2.5, noise="std")
    assert len(published.at) > 10 * len(at)
    assert "downwards" in doubt(published.excess, published.mirrored)
