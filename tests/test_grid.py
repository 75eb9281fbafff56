"""The time grid against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strfcube.errors import UsageError
from strfcube.grid import NS_PER_S, bin_of, bin_starts, dt_to_ns, frame_starts, n_bins, observed_bins, seconds_to_ns
from strfcube.records import Length

RATES = (8000.0, 24414.0625, 32000.0, 44100.0, 48828.125, 97656.25)
dts = st.sampled_from([100_000, 333_333, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 20_000_000])


def test_the_documented_spike():
    assert bin_of(seconds_to_ns(0.015), dt_to_ns(5)) == 3
    assert 0.015 // 0.005 == 2  # what floating point says


@given(k=st.integers(0, 10**6), dt_ns=dts)
def test_a_spike_on_an_edge_belongs_to_the_bin_that_starts_there(k, dt_ns):
    edge = k * dt_ns
    np.testing.assert_array_equal(bin_of(np.array([edge - 1, edge, edge + 1]), dt_ns), [k - 1, k, k])
    assert bin_of(seconds_to_ns(edge / NS_PER_S), dt_ns) == k


@given(bins=st.integers(1, 2000), dt_ns=dts)
def test_labels_are_the_nearest_doubles(bins, dt_ns):
    labels = bin_starts(bins, dt_ns)
    assert labels.dtype == np.float64
    assert labels.tolist() == [float(Fraction(k * dt_ns, NS_PER_S)) for k in range(bins)]


def test_a_label_is_the_number_that_one_types():
    assert bin_starts(36, dt_to_ns(5))[35] == 0.175
    assert 35 * 0.005 != 0.175  # what floating point says


@given(st.lists(st.integers(-(10**12), 10**12)), dts)
def test_every_spike_lies_in_its_bin(times, dt_ns):
    times = np.array(times, np.int64)
    k = bin_of(times, dt_ns)
    assert (k * dt_ns <= times).all()
    assert (times < (k + 1) * dt_ns).all()


@pytest.mark.parametrize("dt", [0, -5, math.nan, math.inf, "5 ms", None, 1e-7, 0.00000015, 60_001])
def test_what_is_no_bin_width(dt):
    with pytest.raises(UsageError, match="bin width"):
        dt_to_ns(dt)


@pytest.mark.parametrize(
    ("dt", "ns"), [(5, 5_000_000), (0.1, 100_000), (1 / 3, None), ("2.5", 2_500_000), (60_000, 60e9)]
)
def test_bin_widths_are_whole_nanoseconds(dt, ns):
    if ns is None:
        with pytest.raises(UsageError):
            dt_to_ns(dt)
    else:
        assert dt_to_ns(dt) == ns


# --- number of bins --------------------------------------------------------------------------------------------------


def test_four_clips_of_ns1_have_one_sample_more_and_no_bin_more():
    dt_ns = dt_to_ns(5)
    assert n_bins(Length.of_samples(244_140, 48828.125), dt_ns) == 1000
    assert n_bins(Length.of_samples(244_141, 48828.125), dt_ns) == 1000
    assert math.ceil(244_141 / 48828.125 / 0.005) == 1001  # what its duration would give


@given(samples=st.integers(1, 10**6), rate=st.sampled_from(RATES), dt_ns=dts, post_ms=st.integers(0, 500))
def test_bins_reach_the_last_sample(samples, rate, dt_ns, post_ms):
    post = post_ms * 1_000_000
    last = Fraction(samples - 1) / Fraction(rate) * NS_PER_S + post
    n = n_bins(Length.of_samples(samples, rate), dt_ns, post)
    assert (n - 1) * dt_ns <= last < n * dt_ns
    assert n == math.floor(last / dt_ns) + 1


@given(ms=st.integers(1, 10_000), dt_ns=dts, post_ms=st.integers(0, 500))
def test_bins_of_a_stated_duration(ms, dt_ns, post_ms):
    n = n_bins(Length(ms / 1000, "table"), dt_ns, post_ms * 1_000_000)
    assert (n - 1) * dt_ns < (ms + post_ms) * 1_000_000 <= n * dt_ns


def test_an_unknown_length_has_no_bins_yet():
    assert n_bins(Length.unknown(), 5_000_000, 10**9) == 0


# --- recorded windows ------------------------------------------------------------------------------------------------


def observed(start, stop, bins=10, dt_ms=5):
    first, last = observed_bins(np.array([start]), np.array([stop]), np.array([bins]), dt_to_ns(dt_ms))
    return int(first[0]), int(last[0])


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (math.nan, math.nan, (0, 10)),
        (0.0, math.nan, (0, 10)),
        (-1.0, 9.0, (0, 10)),
        (0.005, 0.045, (1, 9)),
        (0.006, 0.044, (2, 8)),  # bins that were recorded in part would be undercounted
        (0.00004, 0.04996, (0, 10)),  # within a hundredth of a bin: one sample short
        (0.00006, 0.04994, (1, 9)),
        (0.0, 0.004, (0, 0)),
        (0.06, 0.09, (0, 0)),
        (-0.5, -0.1, (0, 0)),
    ],
)
def test_observed_bins(start, stop, expected):
    assert observed(start, stop) == expected


@given(start=st.integers(-(10**8), 10**8), width=st.integers(0, 10**8), bins=st.integers(1, 50), dt_ns=dts)
def test_observed_bins_lie_in_the_window_and_no_other_does(start, width, bins, dt_ns):
    stop, slack = start + width, dt_ns // 100
    window = np.array([start / NS_PER_S]), np.array([stop / NS_PER_S])
    first, last = (int(v[0]) for v in observed_bins(*window, np.array([bins]), dt_ns))
    inside = [k for k in range(bins) if start <= k * dt_ns + slack and (k + 1) * dt_ns <= stop + slack]
    assert list(range(first, last)) == inside


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dt", [1, 5, 10])
@pytest.mark.parametrize("onset", [0.0, 0.25, 0.0123])
def test_frames_do_not_drift(rate, dt, onset):
    """The centre of window k is within half a sample of the centre of bin k, at the end of a minute as at its start."""
    dt_ns, width = dt_to_ns(dt), round(rate * 0.01)
    frames = 60_000 // dt
    starts = frame_starts(frames, dt_ns, rate, width, "centre", onset)
    assert starts.dtype == np.int64
    shift = Fraction(round(onset * NS_PER_S), NS_PER_S)
    for k in (0, 1, frames // 2, frames - 2, frames - 1):
        centre = (Fraction(2 * k + 1, 2) * Fraction(dt_ns, NS_PER_S) - shift) * Fraction(rate)
        assert abs(int(starts[k]) + width // 2 - centre) <= Fraction(1, 2)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dt", [1, 5])
def test_causal_windows_end_with_their_bin(rate, dt):
    dt_ns, width = dt_to_ns(dt), round(rate * 0.01)
    frames = 10_000 // dt
    starts = frame_starts(frames, dt_ns, rate, width, "causal")
    for k in (0, 1, frames // 2, frames - 1):
        end = (k + 1) * Fraction(dt_ns, NS_PER_S) * Fraction(rate)
        last = int(starts[k]) + width - 1
        assert last < end <= last + 1


@given(
    bins=st.integers(1, 50), dt_ns=dts, rate=st.sampled_from(RATES), align=st.sampled_from(["centre", "causal"]),
    parts=st.integers(1, 9), onset=st.sampled_from([0.0, 0.25]),
)  # fmt: skip
def test_parts_of_a_bin_are_placed_as_bins_of_that_length(bins, dt_ns, rate, align, parts, onset):
    fine = frame_starts(bins * parts, dt_ns, rate, 100, align, onset)
    np.testing.assert_array_equal(frame_starts(bins, dt_ns * parts, rate, 100, align, onset, parts), fine)


@given(k=st.integers(1, 10**4), dt_ns=dts, rate=st.sampled_from(RATES), align=st.sampled_from(["centre", "causal"]))
def test_a_frame_does_not_depend_on_how_many_there_are(k, dt_ns, rate, align):
    some = frame_starts(min(k, 50), dt_ns, rate, 100, align)
    np.testing.assert_array_equal(some, frame_starts(60, dt_ns, rate, 100, align)[: len(some)])
