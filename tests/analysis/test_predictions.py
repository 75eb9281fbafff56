"""Predictions laid beside responses: whatever their labels, type or order, one score; or one line that says why not."""

import warnings

import dask.array
import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

from strfcube.analysis import quality
from strfcube.analysis.predictions import PartialPredictionWarning, aligned
from strfcube.errors import UsageError

BINS = 437
K = np.arange(BINS)


@pytest.fixture(scope="module")
def cube():
    return make_cube(stim=5, neuron=6, repeat=4, bins=BINS, seed=2)


@pytest.fixture(scope="module")
def pred(cube):
    noise = np.random.default_rng(0).normal(0, 0.3, (5, 6, BINS))
    return (cube["response"].mean("repeat").fillna(0) + noise).astype("f4")


@pytest.fixture(scope="module")
def score(cube, pred):
    return cube.strf.ccnorm(pred)


@pytest.mark.parametrize(
    "time",
    [
        K * 5 / 1000,
        np.cumsum(np.full(BINS, 0.005)) - 0.005,
        np.linspace(0, (BINS - 1) * 0.005, BINS),
        (K * 0.005).astype("f4"),
        np.cumsum(np.full(BINS, 0.005, "f4")) - np.float32(0.005),
        K * 0.005 + 0.00004,
    ],
    ids=["k*5/1000", "cumsum", "linspace", "float32", "cumsum of float32", "a hundredth of a bin"],
)
def test_time_labels_are_matched_to_bins(cube, pred, score, time):
    labelled = pred.assign_coords(time=time)
    xr.testing.assert_allclose(cube.strf.ccnorm(labelled), score)
    xr.testing.assert_allclose(quality.ccnorm(labelled, cube["response"]), score)
    xr.testing.assert_allclose(quality.powers(cube["response"], labelled), quality.powers(cube["response"], pred))
    cut = cube.isel(time=slice(35, 200))
    xr.testing.assert_allclose(cut.strf.ccnorm(labelled), cut.strf.ccnorm(pred.isel(time=slice(35, 200))))


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (K * 0.005 + 0.0025, r"lies [-+]0\.50 bins from a bin of 5 ms"),
        (K * 0.005 + 0.0005, r"\+0\.10 bins"),
        (K * 0.0051, "bins from a bin"),
        (K * 5.0, r"not consecutive bins of 5 ms; label them in s"),
        (K, "not consecutive bins"),
        (K * 0.01, "not consecutive bins"),
        (K * 0.0, "not consecutive bins"),
        (K * 0.005 + 100, "no time in common: 100 to 102.18 s, 0 to 2.18 s"),
        (np.where(K > 3, np.nan, K * 0.005), "not all finite"),
        (np.array([f"bin{k}" for k in K]), "expected seconds"),
    ],
)
def test_labels_that_are_no_bins_are_refused(cube, pred, time, message):
    with pytest.raises(UsageError, match=message):
        cube.strf.ccnorm(pred.assign_coords(time=time))


def test_a_bare_array_of_the_right_shape_is_a_prediction(cube, pred, score):
    for bare in (pred.values, pred.values.astype("f8"), dask.array.from_array(pred.values), pred.values.tolist()):
        xr.testing.assert_allclose(cube.strf.ccnorm(bare).compute(), score)
        xr.testing.assert_allclose(quality.ccnorm(bare, cube["response"]).compute(), score)
    torch = pytest.importorskip("torch")
    xr.testing.assert_allclose(cube.strf.ccnorm(torch.tensor(pred.values)), score)
    with pytest.raises(UsageError, match=r"cannot be read as an array: .*detach"):
        cube.strf.ccnorm(torch.tensor(pred.values, requires_grad=True))


def test_an_array_without_labels_is_taken_by_position(cube, pred, score):
    xr.testing.assert_allclose(cube.strf.ccnorm(pred.drop_vars(["stim", "neuron", "time"])), score)
    with pytest.raises(UsageError, match="'time' has 400 without labels, the response 437"):
        cube.strf.ccnorm(pred.drop_vars("time").isel(time=slice(400)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.zeros((5, 6, 436)),
            r"expected shape \(5, 6, 437\), which is \('stim', 'neuron', 'time'\), got \(5, 6, 436\)",
        ),
        (np.zeros(437), "got \\(437,\\)"),
        (None, "got \\(\\)"),
        ("prediction", "got \\(\\)"),
        ([[1, 2], [3]], "cannot be read as an array"),
        (np.full((5, 6, 437), "x"), "expected numbers"),
        (xr.Dataset({"rate": ("time", K)}), r"got a Dataset; give one of \['rate'\]"),
        (xr.DataArray(np.zeros((5, 6)), dims=("stim", "neuron")), "expected dims"),
        (xr.DataArray(np.zeros((5, 6, 2, 437)), dims=("stim", "neuron", "repeat", "time")), "expected dims"),
    ],
)
def test_what_is_no_prediction_is_refused_in_one_line(cube, wrong, message):
    with pytest.raises(UsageError, match=message) as error:
        cube.strf.ccnorm(wrong)
    assert "\n" not in str(error.value)


def test_labels_may_come_in_any_order_and_more_than_asked(cube, pred, score):
    xr.testing.assert_allclose(cube.strf.ccnorm(pred.isel(stim=[4, 2, 0, 1, 3], neuron=slice(None, None, -1))), score)
    xr.testing.assert_allclose(cube.strf.ccnorm(pred.transpose("time", "neuron", "stim")), score)
    part = cube.strf.isel(stim=[1, 3], neuron=[5, 2])
    np.testing.assert_allclose(part.strf.ccnorm(pred), part.strf.ccnorm(pred.isel(stim=[3, 1], neuron=[2, 5])))
    with pytest.raises(UsageError, match="labels of 'stim' repeat"):
        cube.strf.ccnorm(pred.isel(stim=[0, 0, 1, 2, 3, 4]))
    with pytest.raises(
        UsageError, match=r"no neuron in common: the prediction has x0, x1, x2 \.\.\., the response cell000"
    ):
        cube.strf.ccnorm(pred.assign_coords(neuron=[f"x{i}" for i in range(6)]))


def test_what_is_lacking_is_said(cube, pred):
    for part, words in (
        (pred.isel(stim=[0, 2]), "2 of 5 stimuli"),
        (pred.isel(neuron=slice(5)), "5 of 6 neurons"),
        (pred.isel(time=slice(10, None)), "427 of 437 bins"),
        (pred.isel(time=slice(436)), "436 of 437 bins"),
    ):
        with pytest.warns(PartialPredictionWarning, match=words) as caught:
            cube.strf.ccnorm(part)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with pytest.warns(PartialPredictionWarning, match="2 of 5 stimuli"):
        some = cube.strf.ccnorm(pred.isel(stim=[0, 2]))
    xr.testing.assert_allclose(some, cube.strf.isel(stim=[0, 2]).strf.ccnorm(pred))
    with pytest.warns(PartialPredictionWarning, match="427 of 437"):
        late = cube.strf.ccnorm(pred.isel(time=slice(10, None)))
    with pytest.warns(PartialPredictionWarning, match="in up to 10 recorded bins"):
        xr.testing.assert_allclose(late, cube.strf.ccnorm(pred.where(pred["time"] > 0.0499)))


def test_bins_past_the_stimuli_need_no_prediction(cube, pred):
    part = cube.strf.isel(stim=[2, 4])  # 431 and 425 bins
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = part.strf.ccnorm(pred.isel(time=slice(431)))
    xr.testing.assert_allclose(short, part.strf.ccnorm(pred))


def test_one_stimulus_by_a_scalar_coordinate_and_one_prediction_for_all(cube, pred):
    with pytest.warns(PartialPredictionWarning, match="1 of 5 stimuli"):
        one = cube.strf.ccnorm(pred.isel(stim=3))
    xr.testing.assert_allclose(one, cube.strf.isel(stim=3).strf.ccnorm(pred))
    envelope = pred.isel(neuron=0, drop=True)
    several = cube.strf.ccnorm(envelope, per="pair")
    wide = envelope.expand_dims(neuron=cube["neuron"].values)
    xr.testing.assert_allclose(several.transpose("stim", "neuron"), cube.strf.ccnorm(wide, per="pair"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.rename(neuron="unit"), r"of which neuron is it\? if 'unit' is that, \.rename\(unit='neuron'\)"),
        (lambda p: p.rename(stim="sound"), r"of which stim is it\? if 'sound' is that, \.rename\(sound='stim'\)"),
        (lambda p: p.isel(stim=0, drop=True), r"of which stim is it\? \.assign_coords\(stim=LABEL\)"),
        (lambda p: p.isel(neuron=0, drop=True).expand_dims(model=2), "of which neuron is it"),
    ],
)
def test_what_does_not_say_what_it_is_of_is_refused(cube, pred, change, words):
    for score in (cube.strf.ccnorm, cube.strf.cc, cube.strf.plot.prediction):
        with pytest.raises(UsageError, match=words):
            score(change(pred))
    one = cube.isel(stim=[3])
    xr.testing.assert_allclose(
        one.strf.ccnorm(pred.isel(stim=3, drop=True)), one.strf.ccnorm(pred.isel(stim=[3]))
    )  # there is no other


def test_stimuli_heard_once_have_no_score_and_no_error(pred):
    once = make_cube(stim=5, neuron=6, repeat=1, bins=BINS, holes=False)
    assert once.strf.ccnorm(pred).isnull().all()


def test_aligned_is_lazy(cube, pred):
    lazy, _ = aligned(
        pred.chunk(stim=1).assign_coords(time=K * 5 / 1000).isel(neuron=[3, 1, 0, 2, 5, 4]), cube["response"]
    )
    assert lazy.chunks
    assert lazy["neuron"].values.tolist() == cube["neuron"].values.tolist()


def test_a_prediction_that_is_not_finite_is_said():
    ds = make_cube(bins=60)
    pred = ds.strf.psth()  # missing where nothing was recorded, and nowhere else
    ceiling = ds.strf.ccnorm(pred)
    failed = pred.where(pred["time"] < 0.1)
    for gaps in (failed, pred.where(pred["time"] < 0.1, np.inf), failed.values, failed.expand_dims(model=2)):
        with pytest.warns(PartialPredictionWarning, match="in up to 40 recorded bins of a stimulus, in 4 stimuli"):
            ds.strf.ccnorm(gaps)
    one = pred.where((pred["stim"] != "stim001") | (pred["time"] != 0.0))
    with pytest.warns(PartialPredictionWarning, match="in up to 1 recorded bins of a stimulus, in 1 stimuli"):
        ds.strf.ccnorm(one)
    np.testing.assert_allclose(ds.strf.ccnorm(pred.chunk(stim=1)), ceiling)
