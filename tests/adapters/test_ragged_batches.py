"""Batches of the trials that there are, in the arrays of the frameworks."""

import numpy as np
import pytest
from stores import make_store

from strfcube import UsageError
from strfcube.loading import CubeView

torch = pytest.importorskip("torch")

from strfcube.adapters.torch import CubeDataset, collate  # noqa: E402


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=6, neuron=9, repeat=4, bins=30, seed=3)[1]


def same(got, wanted):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        if key == "stim_meta":
            assert got[key] == value
        else:
            np.testing.assert_array_equal(np.asarray(got[key]), np.asarray(value))


@pytest.mark.parametrize("options", [{}, {"average_repeats": True}, {"smooth_ms": 20.0}, {"extra": ("stim_type",)}])
def test_tensors_are_those_of_the_plain_view(path, options):
    view = CubeDataset(path, layout="ragged", **options)
    plain = CubeView(path, layout="ragged", **options)
    same(view.batch([0, 3, 5]), plain.batch([0, 3, 5]))
    half, whole = view.using(dtype=torch.float16).batch([1, 2]), plain.batch([1, 2])
    assert half["responses"].dtype == torch.float16
    np.testing.assert_array_equal(half["responses"].numpy(), whole["responses"].astype("f2"))
    for loader in (
        view.loader(4, pin_memory=True), torch.utils.data.DataLoader(view, batch_size=4),
        torch.utils.data.DataLoader([view[i] for i in range(6)], batch_size=4, collate_fn=collate),
    ):  # fmt: skip
        for got, wanted in zip(loader, plain.loader(4), strict=True):
            same(got, wanted)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers(path, context):
    view = CubeDataset(path, layout="ragged")
    loader = view.loader(4, num_workers=1, multiprocessing_context=context)
    for got, wanted in zip(loader, CubeView(path, layout="ragged").loader(4), strict=True):
        same(got, wanted)


def test_counts_become_floats_where_they_are_wanted(path, monkeypatch):
    """What a device gets, as far as a processor can stand for one."""
    monkeypatch.setattr(CubeDataset, "_carries", property(lambda self: self._place["device"] is not None))
    view = CubeDataset(path, layout="ragged", device="cpu")
    assert view._read([0, 1], raw=True)["responses"].dtype == np.uint8
    same(view.batch([0, 1]), CubeDataset(path, layout="ragged").batch([0, 1]))
    for got, wanted in zip(view.loader(4, prefetch=1), CubeView(path, layout="ragged").loader(4), strict=True):
        same(got, wanted)


def test_layouts_do_not_mix(path):
    ragged = CubeDataset(path, layout="ragged")
    with pytest.raises(UsageError, match="read differently: layout"):
        collate([ragged[0], CubeDataset(path)[0]])
    with pytest.raises(UsageError, match="hold different keys"):
        collate([dict(ragged[0]), dict(CubeDataset(path)[0])])
    with pytest.raises(UsageError, match="read differently"):
        ragged + CubeDataset(path)
    with pytest.raises(UsageError, match="cache='device' makes dense batches"):
        ragged.using(cache="device", device="cpu")


def test_a_loss_over_pairs_is_that_of_the_box(path):
    ragged, box = CubeDataset(path, layout="ragged").batch(range(4)), CubeDataset(path).batch(range(4))
    prediction = torch.rand(4, 9, ragged["responses"].shape[1])
    mine = prediction[ragged["stim_index"], ragged["neuron_index"]]
    error = torch.where(ragged["valid_mask"], ragged["responses"] - mine, 0).square().sum() / ragged["valid_mask"].sum()
    other = torch.where(box["valid_mask"], box["responses"] - prediction[:, :, None], 0).square().sum()
    torch.testing.assert_close(error, other / box["valid_mask"].sum())


def test_jax(path):
    pytest.importorskip("jax")
    from strfcube.adapters.jax import CubeDataset as JaxDataset

    view, plain = JaxDataset(path, layout="ragged"), CubeView(path, layout="ragged")
    for got, wanted in zip(view.loader(4), plain.loader(4), strict=True):
        same(got, wanted)
    same(view.to("cpu").batch([0, 2]), plain.batch([0, 2]))  # decoded there
    same(view[1], plain[1])
