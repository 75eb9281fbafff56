"""The simulated birds: their files, and the proof that a cube's sounds and responses are aligned.

Ridge regression of the cube's responses on its spectrograms must give back the receptive fields that made the spikes,
and their latencies to the bin. What drove the spikes shares no code with the cube's time grid and front ends.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

import strfcube
from strfcube.pipelines.aa1 import AA1
from strfcube.simulate import BIRDS, NO_SONG, read_truth, spectrogram, write_demo

LAGS_MS = 50


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


def driven(fields):
    """Cells that fire enough to be fitted."""
    return [(cell, field) for cell, field in fields.items() if field.gain > 1]


def lagged(spectrograms, lags):
    """Design matrix [shape=(frequency * lag, bin)] of several spectrograms, silence before each."""
    padded = [np.pad(s, ((0, 0), (lags - 1, 0))) for s in spectrograms]
    return np.concatenate(
        [np.stack([p[:, lags - 1 - k : p.shape[1] - k] for k in range(lags)], 1) for p in padded], -1
    ).reshape(-1, sum(s.shape[1] for s in spectrograms))


def fitted_fields(ds, cells):
    """Ridge regression of each cell's mean count on the spectrogram [shape=(cell, frequency, lag)]."""
    dt_ms = float(ds.attrs["dt_ms"])
    lags = round(LAGS_MS / dt_ms)
    bins = ds["n_bins"].values
    counts = ds["response"].sel(neuron=cells).mean("repeat").transpose("neuron", "stim", "time").values
    y = np.concatenate([counts[:, i, :n] for i, n in enumerate(bins)], 1).astype(np.float64)
    sound = ds["stimulus"].values
    x = lagged([sound[i, :, :n] for i, n in enumerate(bins)], lags)
    x -= x.mean(1, keepdims=True)
    gram = (x @ x.T).astype(np.float64)
    ridge = 2 / dt_ms * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram + ridge, x @ (y - y.mean(1, keepdims=True)).T.astype(np.float32))
    return weights.T.reshape(len(cells), -1, lags)


def peak(field):
    """Frequency and lag index of the peak of the separable part: the fields are separable, what is beyond is noise."""
    u, _, v = np.linalg.svd(field, full_matrices=False)
    smooth = np.outer(u[:, 0], v[0])
    return np.unravel_index(smooth.argmax(), smooth.shape)


def check_recovery(folder, dt, store, early=0, **flags):
    """Check fields and latencies; `early` is by how many bins the latencies should come out too short."""
    ds = strfcube.open(strfcube.build("demo", raw=folder, dt=dt, out=store, jobs=1, audio=False, **flags))
    lags = (np.arange(round(LAGS_MS / dt)) + early) * dt / 1000
    cells = driven(read_truth(folder))
    assert len(cells) == 6
    for (cell, field), fitted in zip(cells, fitted_fields(ds, [cell for cell, _ in cells]), strict=True):
        expected = field.weights(ds["frequency"].values, lags)
        assert np.corrcoef(fitted.ravel(), expected.ravel())[0, 1] > 0.9, cell
        frequency, lag = peak(fitted)
        assert lag + early == round(field.latency * 1000 / dt), cell
        assert abs(frequency - peak(expected)[0]) <= 1, cell


@pytest.mark.parametrize("dt", [1, 2, 5])
def test_receptive_fields_come_back(demo, tmp_path, dt):
    check_recovery(demo, dt, tmp_path / "demo.zarr")


def test_the_proof_sees_a_misalignment(demo, tmp_path):
    """A causal 10 ms window is centred 5 ms before the bin's end, at 2 ms 4 ms too early: latencies miss 2 bins."""
    check_recovery(demo, 2, tmp_path / "causal.zarr", early=2, align="causal")


def test_receptive_fields_come_back_at_an_uneven_rate(tmp_path):
    write_demo(tmp_path / "raw", rate=24414.0625)
    for dt in (1, 2, 5):
        check_recovery(tmp_path / "raw", dt, tmp_path / f"{dt}.zarr")


def test_files(demo):
    found = []
    pipeline = AA1(demo)
    survey = pipeline.survey(found.append)
    assert len(survey.stimuli) == 16
    assert {n.meta["species"] for n in survey.neurons} == {"simulated zebra finch"}
    assert Counter(n.meta["area"] for n in survey.neurons) == {"MLd": 4, "Field_L": 4}
    assert Counter(n.meta["animal"] for n in survey.neurons) == {f"sim{k}": 2 for k in (1, 2, 3, 4)}
    trials = {s.id: next(pipeline.read(s, found.append)) for s in survey.sources}
    assert found == []
    assert {cell: len(t.row_size) for cell, t in trials.items()} == {
        cell: 160 if cell in NO_SONG else 320 for cell in BIRDS
    }
    assert trials["sim4_1_B"].row_size.sum() == 0
    assert 0 < (trials["sim3_1_B"].row_size == 0).sum() < 160
    times = trials["sim1_1_A"].spike_times
    assert -1 <= times.min() < -0.99
    assert (times > 2).any()
    before = ((times >= -1) & (times < 0)).sum() / 320
    assert before == pytest.approx(BIRDS["sim1_1_A"][1].spontaneous, rel=0.05)
    for wav in demo.glob("all_stims/*/*.wav"):
        assert hashlib.md5(wav.read_bytes()).hexdigest().upper() == wav.stem
    assert sum(path.stat().st_size for path in demo.rglob("*") if path.is_file()) < 10e6


def test_same_seed_same_files(tmp_path):
    def content(folder, seed):
        write_demo(folder, seed, seconds=0.3, songs=1, noises=1, repeats=2)
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = content(tmp_path / "a", 1)
    assert content(tmp_path / "b", 1) == first
    assert content(tmp_path / "c", 2) != first


def test_truth(demo):
    assert read_truth(demo) == {cell: field for cell, (_, field) in BIRDS.items()}
    field = BIRDS["sim1_1_B"][1]
    values = field.weights([1500, field.frequency, 6000], [0, field.latency, 0.04])
    assert values.shape == (3, 3)
    assert np.unravel_index(values.argmax(), values.shape) == (1, 1)
    assert values[1, 1] == 1


@pytest.mark.parametrize("rate", [32000.0, 24414.0625])
def test_a_click_is_heard_at_its_own_millisecond(rate):
    """The drive's spectrogram is centred: a click amid millisecond 499 is symmetric around it."""
    samples = np.zeros(int(rate))
    samples[round(0.4995 * rate)] = 1
    _, heard = spectrogram(samples, rate)
    level = heard.sum(0)
    assert level.argmax() == 499
    assert level[495:499] == pytest.approx(level[503:499:-1], rel=0.05)
    assert level[:494].max() == level[505:].max() == 0
