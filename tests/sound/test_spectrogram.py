"""Front ends: sound lands in the right frame and band, and equals formulas computed without them."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strfcube.errors import UsageError
from strfcube.grid import dt_to_ns
from strfcube.records import Audio
from strfcube.sound import spectrogram
from strfcube.sound.spectrogram import Cochleagram, LogDFT, Mel, compute, regrid, resolve

RATES = (24414.0625, 32000.0, 44100.0, 48828.125)
KINDS = (Mel(f_max=8000.0), Cochleagram(f_max=8000.0, bands=20), LogDFT(f_max=8000.0))
MS5 = dt_to_ns(5)


def noise(n, rate=RATES[0], seed=0):
    return Audio(np.random.default_rng(seed).normal(0, 0.1, n), rate)


def power(front_end, values):
    """Something that grows with sound, whatever the compression."""
    return np.nan_to_num(10 ** (values / 10) if "dB" in front_end.units else values, nan=0).sum(0)


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dt", [1, 5])
def test_a_click_is_loudest_in_its_bin(front_end, rate, dt):
    """At the start and, without drift, at the end of three seconds."""
    dt_ns, frames = dt_to_ns(dt), 3000 // dt
    for k in (3, frames // 2, frames - 2):
        samples = np.zeros(int(3 * rate))
        samples[round((k + 0.5) * dt / 1000 * rate)] = 1
        loud = power(front_end, compute(front_end, Audio(samples, rate), frames, dt_ns))
        assert loud.argmax() == k


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
@pytest.mark.parametrize("rate", RATES)
def test_a_tone_is_loudest_in_its_band(front_end, rate):
    frequencies = front_end.frequencies()
    for band in (5, 10, len(frequencies) - 2):
        samples = np.sin(2 * np.pi * frequencies[band] * np.arange(int(0.1 * rate)) / rate)
        values = compute(front_end, Audio(samples, rate), 20, MS5)
        assert (values[:, 5:15].argmax(0) == band).all()


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
@given(cut=st.integers(1, 39), rate=st.sampled_from(RATES))
@settings(max_examples=15)
def test_causal_frames_use_no_future_sample(front_end, cut, rate):
    """Whatever comes after the end of bin k leaves the frames up to k as they are."""
    whole = noise(int(0.2 * rate), rate)
    changed = whole.samples.copy()
    changed[np.arange(len(changed)) / rate >= cut * 0.005] = 9.0
    a, b = (compute(front_end, Audio(s, rate), 40, MS5, "causal") for s in (whole.samples, changed))
    np.testing.assert_array_equal(a[:, :cut], b[:, :cut])
    assert not np.array_equal(a[:, cut:], b[:, cut:], equal_nan=True)


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
@pytest.mark.parametrize("align", ["centre", "causal"])
def test_frames_after_the_sound_are_silence_through_the_front_end(front_end, align):
    sound = noise(2000)
    padded = Audio(np.concatenate([sound.samples, np.zeros(5000)]), sound.rate)
    after = compute(front_end, sound, 50, MS5, align)
    np.testing.assert_array_equal(after, compute(front_end, padded, 50, MS5, align))
    silence = compute(front_end, Audio(np.zeros(100), sound.rate), 1, MS5)
    np.testing.assert_array_equal(after[:, -1:], silence)


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
def test_onset_moves_whole_frames(front_end):
    sound = noise(4000, 32000.0)
    now = compute(front_end, sound, 25, MS5)
    later = compute(front_end, sound, 75, MS5, onset=0.25)
    np.testing.assert_array_equal(later[:, 50:], now)


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
def test_the_window_does_not_grow_with_dt(front_end):
    if front_end.kind == "dft":
        assert [front_end.width(48000, dt_to_ns(dt)) for dt in (1, 5)] == [96, 480]  # twice the bin, as published
        front_end = LogDFT(window_ms=10)
    assert {front_end.width(48000, dt_to_ns(dt)) for dt in (1, 5, 20)} == {480}


@pytest.mark.slow
@pytest.mark.parametrize("align", ["centre", "causal"])
@pytest.mark.parametrize("dt", [11, 20, 50])
@pytest.mark.parametrize(
    "front_end", [Mel(f_max=8000.0), Cochleagram(f_max=8000.0, bands=20), LogDFT(f_max=8000.0, window_ms=10.0)],
    ids=lambda f: f.kind,
)  # fmt: skip
def test_a_bin_longer_than_the_window_holds_the_power_of_all_its_samples(front_end, dt, align):
    """A click counts alike wherever in a bin it falls, and the level of a sound is what it is with short bins."""
    rng = np.random.default_rng(2)
    front_end = front_end if front_end.kind == "dft" else dataclasses.replace(front_end, compression="none")
    totals = []
    for at in rng.integers(8000, 24000, 40):
        samples = np.zeros(32000)
        samples[at] = 1
        totals.append(power(front_end, compute(front_end, Audio(samples, 32000.0), 1000 // dt, dt_to_ns(dt), align)))
    totals = np.array(totals)
    assert (totals > 0.01 * totals.max()).sum(1).max() <= 2
    sums = totals.sum(1)
    assert sums.min() > 0.98 * sums.max()
    loud = noise(32000, 32000.0)
    long = power(front_end, compute(front_end, loud, 1000 // dt, dt_to_ns(dt), align))[1:-1].mean()
    short = power(front_end, compute(front_end, loud, 1000, dt_to_ns(1), align))[50:-50].mean()
    np.testing.assert_allclose(long, short, rtol=0.03)


def test_a_bin_as_long_as_the_window_is_one_frame():
    for front_end in KINDS:
        assert spectrogram.parts_of_a_bin(front_end, dt_to_ns(10)) == 1
        assert spectrogram.parts_of_a_bin(front_end, MS5) == 1
    assert [spectrogram.parts_of_a_bin(Mel(), dt_to_ns(dt)) for dt in (10.001, 20, 50)] == [4, 6, 15]


# --- values ----------------------------------------------------------------------------------------------------------


def mel_reference(samples, rate, frames, dt, width, bands, f_min, f_max):
    """Power in HTK mel triangles of height one, cube root, one frame at a time; as loud as at 32 kHz."""
    to_mel, to_hz = (lambda f: 2595 * np.log10(1 + f / 700)), (lambda m: 700 * (10 ** (m / 2595) - 1))
    edges = to_hz(np.linspace(to_mel(f_min), to_mel(f_max), bands + 2))
    lines = np.arange(width // 2 + 1) * 100.0  # of a window of 10 ms, which 24,414 Hz would move by 0.06 %
    window = np.sin(np.pi * np.arange(width) / width) ** 2 * 320 / width
    out = np.zeros((bands, frames))
    for k in range(frames):
        first = int(np.floor((k + 0.5) * dt * rate + 0.5)) - width // 2
        part = np.array([samples[i] if 0 <= i < len(samples) else 0.0 for i in range(first, first + width)])
        spectrum = np.abs(np.fft.fft(part * window)[: width // 2 + 1]) ** 2
        for b in range(bands):
            low, centre, high = edges[b : b + 3]
            weight = np.clip(np.minimum((lines - low) / (centre - low), (high - lines) / (high - centre)), 0, None)
            out[b, k] = np.cbrt(weight @ spectrum)
    return out


@pytest.mark.parametrize("rate", RATES)
def test_mel_is_the_formula(rate):
    sound = noise(int(rate * 0.05), rate, seed=3)
    front_end = Mel(bands=12, f_min=500.0, f_max=8000.0)
    expected = mel_reference(sound.samples, rate, 10, 0.005, front_end.width(rate, MS5), 12, 500.0, 8000.0)
    np.testing.assert_allclose(compute(front_end, sound, 10, MS5), expected, rtol=2.0**-16 + 1e-9)


def sine_levels(front_end, rate):
    """Mean level in each band of a full-scale sine at its centre, in dB."""
    seconds = np.arange(int(rate * 0.15)) / rate
    sounds = [Audio(np.sin(2 * np.pi * f * seconds), rate) for f in front_end.frequencies()]
    return np.array([compute(front_end, s, 30, MS5)[band, 5:25].mean() for band, s in enumerate(sounds)])


def noise_levels(front_end, rate, seconds):
    """Mean level in each band of white noise of one unit a Hz, in dB: what a band holds grows with the rate."""
    samples = np.random.default_rng(5).normal(0, np.sqrt(rate / 2), int(seconds * rate))
    values = compute(front_end, Audio(samples, rate), int(seconds / 0.005), MS5)[:, 5:-5]
    return 10 * np.log10(np.mean(10 ** (values / 10), axis=1))


LOUD = (
    Mel(f_max=8000.0, compression="db"),
    Mel(bands=18, f_max=7000.0, window_ms=7.3, compression="db"),
    Cochleagram(f_min=200.0, f_max=7500.0, bands=34),
    LogDFT(f_max=8000.0),
)


@pytest.mark.slow
@pytest.mark.parametrize("front_end", LOUD, ids=["mel", "mel 7.3 ms", "cochleagram", "dft"])
@pytest.mark.parametrize("rate", [16000.0, 22050.0, 24414.0625, 44100.0, 48828.125, 97656.25])
def test_the_same_sound_reads_the_same_at_every_rate(front_end, rate):
    np.testing.assert_allclose(sine_levels(front_end, rate), sine_levels(front_end, 32000.0), atol=0.05)
    # The mean of 1,600 frames of noise, half of them independent, is known to 0.15 dB (2 SE); bands differ in that.
    difference = noise_levels(front_end, rate, 8) - noise_levels(front_end, 32000.0, 8)
    assert np.abs(difference).max() < 0.6
    assert abs(difference.mean()) < 0.1


def test_cochleagram_of_a_full_scale_sine_is_0_db_in_its_band():
    front_end = Cochleagram()
    rate, frequencies = 48828.125, front_end.frequencies()
    np.testing.assert_allclose(np.diff(np.log2(frequencies)), 1 / 6, atol=1e-6)
    np.testing.assert_allclose(sine_levels(front_end, rate), 0, atol=0.01)  # the lowest bands, too
    for band in (0, 18, 30):
        sine = np.sin(2 * np.pi * frequencies[band] * np.arange(int(rate * 0.1)) / rate)
        level = compute(front_end, Audio(sine, rate), 20, MS5)[band, 5:15]
        quieter = compute(front_end, Audio(sine / 10, rate), 20, MS5)[band, 5:15]
        np.testing.assert_allclose(level - quieter, 20, atol=1e-3)
    assert (compute(front_end, Audio(np.zeros(1000), rate), 3, MS5) == front_end.floor_db).all()


@pytest.mark.parametrize("rate", RATES)
def test_dft_is_the_formula(rate):
    sound, front_end = noise(int(rate * 0.05), rate, seed=4), LogDFT(f_max=10000.0)
    width, frequencies = front_end.width(rate, MS5), front_end.frequencies()
    assert frequencies[0] == 100
    np.testing.assert_allclose(frequencies[6], 200)
    n = np.arange(width)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / (width - 1))
    window *= (0.54 * 320 - 0.46) / window.sum()  # as loud as at 32 kHz
    for k in (2, 7):
        first = int(np.floor((k + 0.5) * 0.005 * rate + 0.5)) - width // 2
        part = sound.samples[first : first + width] * window
        expected = [20 * np.log10(abs(np.sum(part * np.exp(-2j * np.pi * f * n / rate))) + 1e-12) for f in frequencies]
        np.testing.assert_allclose(compute(front_end, sound, 10, MS5)[:, k], expected, rtol=1e-5, atol=1e-3)


def test_dft_has_no_value_above_half_the_rate():
    front_end = LogDFT(f_max=45000.0)
    values = compute(front_end, noise(4000, 24000.0), 10, MS5)
    np.testing.assert_array_equal(np.isnan(values).all(1), front_end.frequencies() > 12000)
    np.testing.assert_array_equal(np.isnan(values).any(1), front_end.frequencies() > 12000)


@pytest.mark.parametrize("kind", [Mel, Cochleagram])
def test_compressions_are_of_one_power(kind):
    sound = noise(3000)
    made = {c: compute(kind(f_max=8000.0, compression=c), sound, 20, MS5) for c in ("none", "cubic", "log", "db")}
    np.testing.assert_allclose(made["cubic"], np.cbrt(made["none"]), rtol=3e-5)
    np.testing.assert_allclose(made["log"], np.log1p(made["none"]), rtol=3e-5)
    np.testing.assert_allclose(made["db"], np.maximum(10 * np.log10(made["none"]), -80), rtol=3e-5, atol=3e-4)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_the_dtype_of_a_wav_does_not_set_its_level(dtype):
    wave = np.rint(100 * np.sin(2 * np.pi * 1000 * np.arange(3200) / 32000)) / 128
    stored = {"u1": wave * 128 + 128, "i2": wave * 2**15, "i4": wave * 2**31, "f4": wave}[dtype].astype(dtype)
    expected = compute(KINDS[0], Audio(wave, 32000.0), 20, MS5)
    np.testing.assert_array_equal(compute(KINDS[0], Audio(stored, 32000.0), 20, MS5), expected)


@pytest.mark.parametrize("front_end", KINDS, ids=lambda f: f.kind)
def test_bits_do_not_depend_on_the_block(front_end, monkeypatch):
    """More frames, or fewer at a time, give the same bits: a longer `post` changes nothing before it."""
    sound = noise(int(RATES[0] * 0.5))
    whole = compute(front_end, sound, 101, MS5)
    np.testing.assert_array_equal(compute(front_end, sound, 150, MS5)[:, :101], whole)
    for block in (1, 5000, 9999):
        monkeypatch.setattr(spectrogram, "_BATCH", block)
        np.testing.assert_array_equal(compute(front_end, sound, 101, MS5), whole)


@given(st.lists(st.floats(width=32), min_size=1))
def test_rounding_keeps_16_bits(values):
    given = np.array(values, np.float32)
    rounded = spectrogram._round_bits(given)
    finite = np.isfinite(given) & np.isfinite(rounded)
    np.testing.assert_array_equal(np.isnan(rounded), np.isnan(given))
    normal = finite & (np.abs(given) > 1e-37)
    np.testing.assert_allclose(rounded[normal], given[normal], rtol=2.0**-16)
    assert not (rounded[finite].view(np.uint32) & 0xFF).any()


# --- ranges ----------------------------------------------------------------------------------------------------------


def test_an_open_range_ends_at_half_the_lowest_rate():
    assert resolve(Mel(), 32000.0).f_max == 16000
    assert resolve(Mel(f_max=8000.0), 32000.0) == Mel(f_max=8000.0)
    assert resolve(LogDFT(), 32000.0).f_max == 45000


@pytest.mark.parametrize(
    ("front_end", "message"),
    [
        (Cochleagram(), "above half the sampling rate"),
        (Mel(f_max=20000.0), "above half the sampling rate"),
        (Mel(f_min=9000.0, f_max=8000.0), "empty"),
        (Mel(f_min=-1.0, f_max=8000.0), "empty"),
        (Cochleagram(f_min=0.0, f_max=8000.0), "above 0"),
        (LogDFT(f_min=0.0), "above 0"),
    ],
)
def test_ranges_that_cannot_be(front_end, message):
    with pytest.raises(UsageError, match=message):
        resolve(front_end, 32000.0)


def test_too_many_bands():
    with pytest.raises(UsageError, match="fewer bands"):
        compute(Mel(bands=1500, f_max=8000.0, window_ms=2.0), noise(2000), 5, MS5)


# --- published spectrograms ------------------------------------------------------------------------------------------


def test_regrid_averages_whole_frames():
    values = np.arange(14, dtype=float).reshape(2, 7)
    np.testing.assert_array_equal(regrid(values, 0.01, 7, dt_to_ns(10)), values)
    np.testing.assert_array_equal(regrid(values, 0.01, 4, dt_to_ns(20))[0], [0.5, 2.5, 4.5, 6])
    np.testing.assert_array_equal(regrid(values, 0.01, 6, dt_to_ns(20))[0], [0.5, 2.5, 4.5, 6, np.nan, np.nan])
    np.testing.assert_array_equal(regrid(values, 0.01, 2, dt_to_ns(20))[0], [0.5, 2.5])
    values[0, 1] = np.nan
    np.testing.assert_array_equal(regrid(values, 0.01, 2, dt_to_ns(20))[0], [0, 2.5])


@pytest.mark.parametrize("dt", [5, 15])
def test_regrid_goes_to_whole_multiples_only(dt):
    with pytest.raises(UsageError, match="whole multiples"):
        regrid(np.zeros((2, 7)), 0.01, 7, dt_to_ns(dt))


@pytest.mark.slow
def test_without_a_folder_that_can_be_written(tmp_path):
    """Numba, which librosa imports, keeps compiled code beside librosa or in the user's cache: here in neither."""
    code = """
import os
from numba.core import caching

def refuse(self):
    raise OSError("read-only file system")

for locator in caching.CacheImpl._locator_classes:
    if "UserProvided" not in locator.__name__:
        locator.ensure_cache_path = refuse
from strfcube.sound.spectrogram import Mel
print(Mel(f_max=8000.0).kernel(32000.0, 5_000_000).bands, os.listdir(os.environ["TMPDIR"]) != [])
"""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True)
    assert done.stdout == "32 True\n", done.stderr
    assert not list(tmp_path.iterdir())
