"""Receptive fields: ridge regression, beside the same by tables of all bins."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

import strfcube
from strfcube import simulate
from strfcube.analysis import strf
from strfcube.errors import SelectionError, UsageError

LAGS = 4


def gappy():
    """A cube with pairs that were not recorded, windows that end early, a band and a sound that are lacking."""
    cube = make_cube(stim=9, neuron=7, repeat=3, bins=70, trace=(2,), seed=3)
    response, stimulus = cube["response"].values.copy(), cube["stimulus"].values.copy()
    response[:, 3, :, 30:] = np.nan
    response[2, 4, :, :5] = np.nan
    response[:, 5] = np.where(np.isnan(response[:, 5]), np.nan, 0)  # which never fired
    stimulus[1, -1] = np.nan
    stimulus[4] = np.nan
    return cube.assign(response=(cube["response"].dims, response, cube["response"].attrs),
                       stimulus=(cube["stimulus"].dims, stimulus, cube["stimulus"].attrs))  # fmt: skip


def rows(cube, silence):
    """Of each stimulus, columns (bin, frequency * lag), by the definition."""
    out = []
    for sound in cube["stimulus"].values:
        sound = sound[:, np.isfinite(sound).any(0)]
        sound = np.where(np.isfinite(sound), sound, silence[:, None]).astype(float)
        table = np.empty((sound.shape[1], len(sound), LAGS))
        for t in range(sound.shape[1]):
            for k in range(LAGS):
                table[t, :, k] = sound[:, t - k] if t >= k else silence
        out.append(table.reshape(len(table), len(sound) * LAGS))
    return out


def ridge(x, y, alpha, deviation):
    """Weights and offset of one neuron: the least squares of bands that are scaled, and of a row for each penalty."""
    scaled = x / np.repeat(deviation, LAGS)
    about = scaled - scaled.mean(0)
    penalty = np.sqrt(alpha * len(y)) * np.eye(x.shape[1])
    weights = np.linalg.lstsq(np.vstack([about, penalty]), np.r_[y - y.mean(), np.zeros(x.shape[1])], rcond=None)[0]
    return weights / np.repeat(deviation, LAGS), y.mean() - scaled.mean(0) @ weights


def stacked(tables, rates, stims, neuron):
    pairs = [(tables[s], rates[s, neuron, : len(tables[s])]) for s in stims]
    x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return x[np.isfinite(y)], y[np.isfinite(y)]


def pooled_cc(predicted, rate):
    """Of all bins of some stimuli, each about its own mean [shape=(stim, bin)]."""
    used = np.isfinite(predicted) & np.isfinite(rate)
    p, r = (np.concatenate([v[s][used[s]] - v[s][used[s]].mean() for s in range(len(v)) if used[s].any()])
            for v in (predicted, rate))  # fmt: skip
    return p @ r / np.sqrt((p @ p) * (r @ r)) if (r @ r) else np.nan


@pytest.mark.parametrize("chunks", [None, {"stim": 2, "neuron": 3}])
def test_weights_penalties_and_scores_are_those_of_tables_of_all_bins(chunks):
    cube = gappy()
    fitted = (cube if chunks is None else cube.chunk(chunks)).strf.fit_strf(lag_ms=20, alphas=[0.01, 0.3, 10], folds=3)
    rates, tables = cube.strf.psth().values.astype(float), rows(cube, fitted["silence"].values.astype(float))
    np.testing.assert_array_equal(fitted["silence"], np.nanmin(cube["stimulus"], (0, 2)))
    np.testing.assert_allclose(fitted["lag"], [0, 0.005, 0.01, 0.015])
    deviation = np.nanstd(cube["stimulus"].values.astype(float), (0, 2))
    part = np.arange(9) % 3
    held_out = np.full((3, *cube.strf.psth().shape), np.nan)
    for n in range(7):
        for a, alpha in enumerate((0.01, 0.3, 10)):
            for p in range(3):
                weights, offset = ridge(*stacked(tables, rates, np.flatnonzero(part != p), n), alpha, deviation)
                for s in np.flatnonzero(part == p):
                    held_out[a, s, n, : len(tables[s])] = tables[s] @ weights + offset
    scores = np.array([[pooled_cc(said[:, n], rates[:, n]) for n in range(7)] for said in held_out])
    fires = np.arange(7) != 5
    np.testing.assert_allclose(fitted["cc"][fires], scores.max(0)[fires], rtol=1e-6)
    assert np.isnan(fitted["cc"][5])
    chosen = np.array([0.01, 0.3, 10])[scores[:, fires].argmax(0)]
    np.testing.assert_array_equal(fitted["alpha"][fires], chosen)
    assert len(set(chosen)) > 1  # or the choice would be none
    for n in range(7):
        weights, offset = ridge(*stacked(tables, rates, range(9), n), float(fitted["alpha"][n]), deviation)
        np.testing.assert_allclose(fitted["weights"][n].values.ravel(), weights, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(fitted["offset"][n], offset, rtol=1e-6, atol=1e-8)
    assert not fitted["weights"][5].any()
    assert fitted["weights"].attrs["units"] == "mixed / (power^(1/3))"
    assert fitted["units"].values.tolist() == ["spikes/s"] * 2 + ["mV"] + ["spikes/s"] * 4

    prediction = cube.strf.predict(fitted)
    for s, table in enumerate(tables):
        expected = table @ fitted["weights"].values.reshape(7, -1).T + fitted["offset"].values
        np.testing.assert_allclose(prediction[s, :, : len(table)], expected.T, rtol=1e-4, atol=1e-4)
        assert prediction[s, :, len(table) :].isnull().all()
    lazy = cube.chunk(stim=4).strf.predict(fitted)
    assert lazy.chunks is not None
    np.testing.assert_allclose(lazy, prediction, rtol=1e-6, atol=1e-5)


def test_lagged_spectrograms_are_the_design_matrix():
    cube = gappy()
    for silence, given in ((np.nanmin(cube["stimulus"], (0, 2)), None), (np.full(6, -80.0), -80.0)):
        past = cube.chunk(stim=2).strf.lagged(20, silence=given)
        assert past.dims == ("stim", "frequency", "lag", "time")
        assert past.chunks is not None
        assert past.dtype == np.float32
        for s, table in enumerate(rows(cube, silence)):
            found = past[s].stack(column=("frequency", "lag")).transpose("time", "column")
            np.testing.assert_array_equal(found[: len(table)], table.astype("f4"))
            assert found[len(table) :].isnull().all()


def test_long_sounds_are_taken_in_pieces(monkeypatch):
    cube = gappy()
    whole = cube.strf.fit_strf(20), cube.isel(time=slice(5, None)).strf.fit_strf(20)
    said = cube.strf.predict(whole[0])
    monkeypatch.setattr("strfcube.analysis.lags.ROOM", 8 * 24 * 7)  # bins
    pieces = cube.strf.fit_strf(20), cube.isel(time=slice(5, None)).strf.fit_strf(20)
    for one, other in zip(whole, pieces, strict=True):
        xr.testing.assert_allclose(one, other, rtol=1e-9)
    xr.testing.assert_allclose(cube.strf.predict(whole[0]), said, rtol=1e-5)
    with pytest.raises(AssertionError):  # which would be those of the same sums
        xr.testing.assert_equal(whole[0], pieces[0])


def test_it_is_the_same_on_any_scale_of_the_spectrogram():
    cube = gappy()
    plain = cube.strf.fit_strf(20)
    scaled = cube.strf.standardize()
    other = scaled.strf.fit_strf(20)
    np.testing.assert_allclose(other["cc"], plain["cc"], rtol=1e-4)
    np.testing.assert_allclose(scaled.strf.predict(other), cube.strf.predict(plain), rtol=1e-3, atol=1e-3)
    with pytest.raises(
        UsageError, match=r"unit of the spectrograms was '1' where the STRFs were fitted, and is 'power"
    ):
        cube.strf.predict(other)


def test_what_came_before_a_part_in_time_is_not_known():
    cube = make_cube(stim=6, neuron=3, holes=False, bins=60)
    part = cube.isel(time=slice(10, None))
    past = part.strf.lagged(20)
    assert past[0, :, 1, 0].isnull().all()
    np.testing.assert_array_equal(past[0, :, 3, 3:], cube["stimulus"][0, :, 10:-3])
    fitted = part.strf.fit_strf(20, alphas=0.1)
    prediction = part.strf.predict(fitted)
    assert prediction[:, :, :3].isnull().all()
    assert prediction[0, :, 3:].notnull().all()
    x = past.stack(bin=("stim", "time"), column=("frequency", "lag")).transpose("bin", "column").values.astype(float)
    y = part.strf.psth().stack(bin=("stim", "time")).transpose("neuron", "bin").values.astype(float)
    known = np.isfinite(x).all(1)
    for n in range(3):
        weights, offset = ridge(x[known], y[n, known], 0.1, np.nanstd(part["stimulus"].values.astype(float), (0, 2)))
        np.testing.assert_allclose(fitted["weights"][n].values.ravel(), weights, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(fitted["offset"][n], offset, rtol=1e-6)


def test_a_constant_is_one_over_fewer_repeats_too():
    cube = make_cube(stim=4, neuron=2, holes=False, bins=60, trace=(0, 1))
    level = cube["response"].copy(data=np.where(cube["response"].isnull(), np.nan, np.float32(-60.1)))
    level[:, :, 1:, 20:] = np.nan
    fitted = cube.assign(response=level).strf.fit_strf(20)
    assert abs(fitted["weights"]).max() < 1e-6
    assert fitted["cc"].isnull().all()
    np.testing.assert_allclose(fitted["offset"], -60.1, rtol=1e-6)


def test_folds_are_numbers_or_parts_by_label(caplog):
    cube = make_cube(stim=6, neuron=3, holes=False, bins=60)
    kinds = cube["stim_type"]
    by_label = cube.strf.fit_strf(20, folds=kinds[::-1])
    xr.testing.assert_identical(by_label, cube.strf.fit_strf(20, folds=2))  # types take turns
    xr.testing.assert_identical(by_label, cube.strf.fit_strf(20, folds=kinds.values.tolist()))
    with pytest.raises(
        SelectionError, match="folds: the mask says nothing of 1 of 6 labels of 'stim', such as 'stim000'"
    ):
        cube.strf.fit_strf(20, folds=kinds[1:])
    one = cube.assign(n_repeats=cube["n_repeats"].copy())
    one["response"][1::2, 0] = np.nan
    one["n_repeats"][1::2, 0] = 0
    fitted = one.strf.fit_strf(20, folds=2)
    assert "1 of 3 neurons are NaN: they heard stimuli of one part alone" in caplog.text
    assert fitted["weights"].isnull().all(("frequency", "lag")).values.tolist() == [True, False, False]
    single = one.strf.fit_strf(20, alphas=0.1, folds=2)
    assert single["weights"].notnull().all()
    assert single["cc"].isnull().values.tolist() == [True, False, False]
    assert single["alpha"].values.tolist() == [0.1] * 3


def test_predictions_are_of_the_neurons_of_the_cube():
    cube = make_cube(stim=6, neuron=4, holes=False, bins=60)
    fitted = cube.strf.fit_strf(20)
    part = cube.strf.isel(neuron=[3, 1])
    prediction = part.strf.predict(fitted)
    assert prediction["neuron"].values.tolist() == part["neuron"].values.tolist()
    np.testing.assert_array_equal(prediction, cube.strf.predict(fitted)[:, [3, 1]])
    assert part.strf.cc(prediction).notnull().all()
    others = part.assign_coords(neuron=["a", "b"])
    assert others.strf.predict(fitted)["neuron"].values.tolist() == cube["neuron"].values.tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lag_ms": 0}, r"lag_ms=0: expected a time in ms, more than 0"),
        ({"lag_ms": "long"}, "lag_ms='long'"),
        ({"lag_ms": np.inf}, "lag_ms=inf"),
        ({"lag_ms": 1e12}, "lag_ms=1000000000000.0"),
        ({"alphas": []}, r"alphas=\[\]: expected a number above 0, or several"),
        ({"alphas": [1, 0]}, r"alphas=\[1, 0\]"),
        ({"alphas": "strong"}, "alphas='strong'"),
        ({"folds": 1}, "folds=1: expected a whole number, 2 or more, or the part of each of 4 stimuli"),
        ({"folds": [0, 1]}, r"folds=\[0, 1\]"),
        ({"smooth_ms": -1}, "smooth_ms=-1"),
    ],
)
def test_parameters_that_are_none_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        make_cube().strf.fit_strf(**given)


def test_cubes_that_cannot_be_fitted_are_refused():
    cube = make_cube()
    gap = cube.assign(stimulus=cube["stimulus"].where(cube["time"] != cube["time"][7]))
    with pytest.raises(UsageError, match="the spectrogram of stim='stim000' has no value in bin 7, though it goes on"):
        gap.strf.fit_strf()
    with pytest.raises(UsageError, match="no value in bin 7"):
        gap.strf.lagged().compute()
    with pytest.raises(UsageError, match="'time' advances by 10 ms, and dt_ms is 5"):
        cube.isel(time=slice(None, None, 2)).strf.fit_strf()
    with pytest.raises(UsageError, match="no stimulus has both a spectrogram and a response"):
        cube.assign(stimulus=cube["stimulus"] * np.nan).strf.fit_strf()


def test_lags_are_those_below_the_longest():
    cube = make_cube(stim=2, neuron=1, bins=20)
    for lag_ms, lags in ((1, [0]), (5, [0]), (12, [0, 5, 10]), (12.5, [0, 5, 10]), (15, [0, 5, 10])):
        assert cube.strf.lagged(lag_ms)["lag"].values.tolist() == [k / 1000 for k in lags]
    assert make_cube(stim=2, neuron=1, bins=20, dt_ms=0.7).strf.lagged(7).sizes["lag"] == 10


def test_infinite_levels_are_refused():
    cube = make_cube()
    with np.errstate(divide="ignore"):
        level = np.log((cube["stimulus"] - cube["stimulus"].min()).rename("stimulus"))
    logarithm = cube.assign(stimulus=level.assign_attrs(units="log"))
    assert np.isinf(logarithm["stimulus"]).sum() == 1
    fitted = cube.assign(stimulus=cube["stimulus"].assign_attrs(units="log")).strf.fit_strf(20)
    for call in (logarithm.strf.fit_strf, lambda: logarithm.chunk().strf.lagged().compute(),
                 lambda: logarithm.strf.predict(fitted)):  # fmt: skip
        with pytest.raises(UsageError, match="has infinite values, such as the logarithm of 0"):
            call()


def test_spectrograms_in_whole_numbers_are_as_good():
    cube = make_cube(stim=4, neuron=2, holes=False, bins=30)
    levels = (cube["stimulus"].fillna(0) * 100).round()
    whole = cube.assign(stimulus=levels.astype("i2"))
    np.testing.assert_array_equal(whole.strf.lagged(20), cube.assign(stimulus=levels).strf.lagged(20))
    cut = whole.isel(time=slice(10, None)).strf.lagged(20)
    assert cut[0, :, 1, 0].isnull().all()


def test_arrays_of_other_stimuli_or_times_are_refused():
    cube = make_cube(stim=4, neuron=2, holes=False, bins=30)
    psth, stimulus = cube.strf.psth(), cube["stimulus"]
    for rates, sounds, dim in (
        (psth[::-1], stimulus, "stim"),
        (psth[1:], stimulus, "stim"),
        (psth[..., 5:], stimulus, "time"),
        (psth[..., :-5], stimulus[..., 5:], "time"),
    ):
        with pytest.raises(
            UsageError, match=f"fit_strf: labels of '{dim}' of the PSTHs and of the spectrograms differ"
        ):
            strf.fit(rates, sounds, 5.0)


def test_a_fit_of_one_neuron_and_coordinates_of_its_names():
    cube = make_cube(stim=6, neuron=4, holes=False, bins=60)
    fitted = cube.strf.fit_strf(20)
    whole = cube.strf.predict(fitted)
    for one in (fitted.isel(neuron=2), fitted.sel(neuron=cube["neuron"].values[2])):
        xr.testing.assert_equal(cube.strf.predict(one).reset_coords(drop=True), whole[:, [2]].reset_coords(drop=True))
    scored = cube.assign_coords(cc=fitted["cc"], alpha=fitted["alpha"])
    xr.testing.assert_identical(scored.strf.fit_strf(20), fitted)
    assert cube.strf.plot.strf(fitted).axes[0].get_title() == "cell000"
    with pytest.raises(UsageError, match="predict: labels of neurons come twice, such as 'cell001'"):
        cube.strf.predict(fitted.isel(neuron=[1, 1]))
    with pytest.raises(UsageError, match="lagged: silence='none': expected a number, or one of each band"):
        cube.strf.lagged(silence="none")


def test_pools_by_numbers_of_bands_are_fitted_cube_by_cube():
    low = make_cube(stim=6, neuron=3, holes=False, bins=60)
    levels = (low["stimulus"] * 10 - 80).assign_attrs(units="dB")
    high = low.assign(stimulus=levels).assign_coords(frequency=low["frequency"] * 2)
    pool = strfcube.concat([low, high], ["low", "high"], bands="by_number", duplicates="keep")
    alone = high.strf.fit_strf(20)
    for call in (pool.strf.fit_strf, pool.strf.lagged, lambda: pool.strf.predict(alone)):
        with pytest.raises(UsageError, match="the sounds of this pool are of different bands or units"):
            call()
    part = pool.strf.sel(dataset="high")
    fitted = part.strf.fit_strf(20)
    np.testing.assert_allclose(fitted["weights"], alone["weights"])
    np.testing.assert_allclose(fitted["frequency"], high["frequency"])
    assert fitted.attrs["stimulus_units"] == "dB"
    assert high.strf.predict(fitted).shape == part.strf.predict(alone).shape
    assert part.strf.plot.strf(fitted)._supylabel.get_text() == "frequency (kHz)"
    with pytest.raises(UsageError, match="was 'dB' where"):
        pool.strf.sel(dataset="low").strf.predict(fitted)


def test_predictions_of_other_sounds_are_refused():
    cube = make_cube()
    fitted = cube.strf.fit_strf(20)
    for other, message in (
        (make_cube(dt_ms=10), r"dt_ms was 5\.0 where the STRFs were fitted, and is 10\.0 here"),
        (make_cube(bands=7), "of other frequencies"),
        (cube.assign_coords(frequency=cube["frequency"] * 1.1), "of other frequencies"),
    ):
        with pytest.raises(UsageError, match=message):
            other.strf.predict(fitted)
    with pytest.raises(UsageError, match=r"expected what ds\.strf\.fit_strf gave"):
        cube.strf.predict(fitted["weights"])
    with pytest.raises(UsageError, match="lags of the STRFs are not the bins of 5 ms from 0 on"):
        cube.strf.predict(fitted.isel(lag=slice(1, None)))


def test_the_receptive_fields_of_simulated_birds_are_found(demo):
    ds = strfcube.open(demo)
    train, test = ds.strf.isel(stim=slice(0, None, 2)), ds.strf.isel(stim=slice(1, None, 2))
    fitted = train.strf.fit_strf(lag_ms=60)
    fields = simulate.read_truth(Path(demo).parent / "raw" / "demo")
    truth = [fields[cell].weights(fitted["frequency"], fitted["lag"]) for cell in fitted["neuron"].values]
    alike = xr.corr(fitted["weights"], fitted["weights"].copy(data=truth), dim=("frequency", "lag"))
    good = (ds.strf.ccmax() > 0.5).values
    assert good.sum() == 6
    assert alike[good].min() > 0.8
    assert test.strf.ccnorm(test.strf.predict(fitted))[good].min() > 0.9
