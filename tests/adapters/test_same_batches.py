"""The batches of NumPy, torch and JAX are the same, whatever the options."""

from importlib import import_module

import numpy as np
import pytest
from stores import make_store

import strfcube
from strfcube.loading import CubeView

OPTIONS = [
    {},
    {"average_repeats": True},
    {"smooth_ms": 20.0},
    {"smooth_ms": 20.0, "average_repeats": True},
    {"extra": ("pupil", "sound_duration", "stim_type", "n_repeats")},
    {"cache": "none"},
    {"cache": "ram"},
    {"dtype": "float16"},
    {"dtype": "bfloat16", "smooth_ms": 20.0},
    {"device": "cpu"},
    {"device": "cpu", "average_repeats": True},
    {"device": "cpu", "dtype": "float16"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    _, path = make_store(tmp_path_factory.mktemp("cubes"), stim=7, neuron=9, repeat=4, bins=40, seed=2)
    ds = strfcube.open(path)
    return ds.assign(pupil=(("stim", "time"), np.arange(7 * 40, dtype="f4").reshape(7, 40)))


def as_numpy(values):
    if isinstance(values, dict):
        return {key: as_numpy(value) for key, value in values.items()}
    if hasattr(values, "detach"):
        return (values.float() if values.dtype.itemsize == 2 and values.is_floating_point() else values).numpy()
    return np.asarray(values, np.float32) if str(getattr(values, "dtype", "")) == "bfloat16" else values


def equal(got, wanted, rtol=0.0):
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f":
            there = np.asarray(got[key])  # JAX has floats of 32 bits
            np.testing.assert_allclose(there, value.astype(there.dtype), rtol=rtol, atol=rtol / 10, err_msg=key)
        else:
            np.testing.assert_array_equal(np.asarray(got[key]), np.asarray(value), err_msg=key)


def framework(name, options):
    module = pytest.importorskip(name)
    given = dict(options)
    if "dtype" in given:
        given["dtype"] = getattr(module if name == "torch" else import_module("jax.numpy"), given["dtype"])
    return import_module(f"strfcube.adapters.{name}").CubeDataset, given


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", [pytest.param("torch", marks=pytest.mark.torch), "jax"])
def test_they_are_the_same(made, name, options):
    cls, given = framework(name, options)
    plain = CubeView(made, **{k: v for k, v in options.items() if k not in ("dtype", "device")})
    rtol = {"float16": 1e-3, "bfloat16": 1e-2}.get(options.get("dtype"), 0.0)
    views = [cls(made, **given), plain]
    chains = [lambda v: v, lambda v: v.sel(area="MLd"), lambda v: v.isel(neuron=[5, 2]), lambda v: v.standardize(),
              lambda v: v.normalize("zscore"), lambda v: v.standardize(per="all").normalize("max")]  # fmt: skip
    for chain in chains:
        other, here = map(chain, views)
        equal(as_numpy(other.batch([3, 0, 6])), here.batch([3, 0, 6]), rtol)
        equal(as_numpy(other[1]), here[1], rtol)
    ways = {"batch_size": 2, "shuffle": True, "seed": 4, "group_by_repeats": True, "prefetch": 1}
    loaders = [view.loader(**ways) for view in views]
    for _ in range(2):
        for got, wanted in zip(*loaders, strict=True):
            equal(as_numpy(got), wanted, rtol)
    assert loaders[0].state_dict() == loaders[1].state_dict()


@pytest.mark.parametrize("name", [pytest.param("torch", marks=pytest.mark.torch), "jax"])
def test_waveforms_are_the_same(demo, name):
    cls, _ = framework(name, {})
    other, here = (kind(demo, mode="waveform", audio_fs=16000) for kind in (cls, CubeView))
    equal(as_numpy(other.batch([0, 1])), here.batch([0, 1]))
