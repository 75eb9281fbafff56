"""CubeDataset of the JAX adapter: views as JAX arrays."""

import numpy as np
import pytest
from stores import make_store

from strfcube import UsageError

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from strfcube.adapters.jax import CubeDataset  # noqa: E402

ARRAYS = ("stims", "responses", "valid_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=7, neuron=9, repeat=4, bins=40, seed=2)


@pytest.fixture
def view(made):
    return CubeDataset(made[1])


def same(a, b):
    for key in ARRAYS:
        np.testing.assert_array_equal(a[key], b[key])
    assert a["stim_meta"] == b["stim_meta"]


def test_a_batch_is_of_jax_arrays(view):
    batch = view.batch([1, 2])
    assert {key: batch[key].dtype.name for key in ARRAYS} == {
        "stims": "float32", "responses": "float32", "valid_mask": "bool"
    }  # fmt: skip
    assert all(isinstance(batch[key], jax.Array) for key in ARRAYS)
    assert view[jnp.array(2)]["stim_meta"] == view[2]["stim_meta"]
    assert len(view[jnp.array([3, 1])]) == 2


@pytest.mark.parametrize("options", [{}, {"smooth_ms": 20.0}, {"average_repeats": True}])
def test_a_device_gets_bytes_and_gives_the_same_batch(view, options):
    plain = view.using(**options)
    there = plain.to(jax.devices("cpu")[0])
    assert (plain._raw, there._raw) == (False, True)
    same(there.batch([0, 2]), plain.batch([0, 2]))
    assert list(there.batch([0, 2])) == list(plain.batch([0, 2]))
    sharded = plain.to(jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0]))
    same(sharded.batch([0, 2]), plain.batch([0, 2]))


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(view, dtype, device):
    batch, wanted = view.using(dtype=getattr(jnp, dtype), device=device).batch([0]), view.batch([0])
    assert batch["responses"].dtype == batch["stims"].dtype == dtype
    np.testing.assert_array_equal(batch["responses"].astype("float32"), wanted["responses"])


def test_options_that_mean_nothing_are_refused(view):
    for options, message in (
        ({"dtype": jnp.int16}, "floating dtype"),
        ({"dtype": "floating"}, "floating dtype"),
        ({"dtype": jnp.float64}, "jax_enable_x64"),
        ({"device": "abacus"}, "device='abacus'"),
        ({"device": 3}, "device=3"),
        ({"smoth_ms": 3}, r"smoth_ms: no such option; did you mean smooth_ms.*device, dtype"),
    ):
        with pytest.raises(UsageError, match=message):
            view.using(**options)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_array_that_was_given_never_changes(view, device, prefetch):
    # On the processor JAX takes the memory of an array over instead of copying it
    loader = view.using(device=device).loader(1, shuffle=True, seed=1, prefetch=prefetch)
    kept = [batch for _ in range(20) for batch in loader]
    loader.epoch = 0
    alone = (view.batch([[m["stim"] for m in view.stim_meta].index(batch["stim_meta"][0]["stim"])]) for batch in kept)
    for batch, wanted in zip(kept, alone, strict=True):
        same(batch, wanted)


def test_a_buffer_is_not_used_again_while_an_array_may_share_it(view):
    shared = 0
    for i in range(40):
        batch = view.batch([i % 7, (i + 1) % 7])
        array, wanted = batch["responses"], np.array(batch["responses"])
        there = np.asarray(array)
        shared += any(np.shares_memory(there, buffer) for buffer in view._source.buffers._held)
        del batch, there
        for k in range(5):
            view.batch([k, (k + 1) % 7])
        np.testing.assert_array_equal(array, wanted)
    assert shared  # else nothing was tested


def test_a_step_learns_from_a_batch(view):
    batch = view.batch([0, 1])
    mask = batch["valid_mask"]

    @jax.jit
    def loss(rate):
        return jnp.where(mask, (jnp.nan_to_num(batch["responses"]) - rate) ** 2, 0).sum()

    assert float(jax.grad(loss)(0.0)) < 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predictions(view, dtype):
    weights = jnp.linspace(-1, 1, 54, dtype=dtype).reshape(9, 6)
    view = view.using(dtype=dtype)
    found = view.predict(jax.jit(lambda stims: jnp.einsum("nf,bft->bnt", weights, stims[:, 0])), batch_size=3)
    wanted = jnp.einsum("nf,ft->nt", weights, view[4]["stims"][0])
    bins = int(view.ds["n_bins"][4])
    np.testing.assert_allclose(
        found.values[4, :, :bins], wanted.astype("float32")[:, :bins], rtol=0.02 if dtype == "bfloat16" else 1e-5
    )
    assert found.dtype == np.float32
