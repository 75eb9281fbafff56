"""CubeDataset: views as a dataset of tensors."""

import numpy as np
import pytest
from stores import make_store

from strfcube import SelectionError, UsageError

torch = pytest.importorskip("torch")
from strfcube import CubeDataset  # noqa: E402
from strfcube.adapters.torch import collate  # noqa: E402

pytestmark = pytest.mark.torch
TENSORS = ("stims", "responses", "valid_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=7, neuron=9, repeat=4, bins=40, seed=2)


@pytest.fixture
def view(made):
    return CubeDataset(made[1])


def same(a, b):
    for key in TENSORS:
        np.testing.assert_array_equal(a[key].numpy(), b[key].numpy())
    assert a["stim_meta"] == b["stim_meta"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype(view, dtype):
    batch, wanted = view.using(dtype=dtype).batch([0]), view.batch([0])
    assert batch["responses"].dtype == batch["stims"].dtype == dtype
    np.testing.assert_array_equal(batch["responses"].float(), wanted["responses"])
    np.testing.assert_array_equal(
        view.using(dtype=dtype, device="cpu").batch([0])["responses"].float(), wanted["responses"]
    )


def test_collate_takes_lists_subsets_and_mixtures(view):
    from torch.utils.data import ConcatDataset, DataLoader, Subset

    same(collate([view[0], view[3]]), view.batch([0, 3]))
    for dataset in (view, Subset(view, range(7)), ConcatDataset([view[:3], view[3:]])):
        batches = list(DataLoader(dataset, batch_size=4, collate_fn=collate))
        same(batches[0], view.batch(range(4)))
        same(batches[1], view.batch(range(4, 7)))


def test_it_is_a_dataset_of_tensors(view):
    assert isinstance(view, torch.utils.data.Dataset)
    item, batch = view[0], view.batch([1, 2])
    assert (batch["stims"].dtype, batch["responses"].dtype, batch["valid_mask"].dtype) == (
        torch.float32, torch.float32, torch.bool
    )  # fmt: skip
    assert item["stims"].shape == (1, 6, 40)
    assert item["neuron"].tolist() == batch["neuron"].tolist() == [f"cell{n:03d}" for n in range(9)]
    assert "7 stimuli x 9 neurons" in repr(view)


def test_tensors_are_positions(view):
    same(view[torch.tensor(2)], view[2])
    assert len(view[torch.tensor([3, 1])]) == 2
    same(view.batch(torch.tensor([3, 1])), view.batch([3, 1]))
    with pytest.raises(SelectionError, match="expected an int, a slice"):
        view[torch.tensor(True)]


def test_options_that_mean_nothing_are_refused(view):
    for options, message in (
        ({"dtype": torch.int16}, "floating dtype"),
        ({"dtype": np.float64}, "floating dtype"),
        ({"device": "nowhere"}, "device='nowhere'"),
    ):
        with pytest.raises(UsageError, match=message):
            view.using(**options)


def test_extras_along_time_are_collated_as_a_batch_has_them(made):
    view = CubeDataset(made[1], extra=("stimulus", "sound_duration"))
    batch, collated = view.batch([0, 3]), collate([view[0], view[3]])
    assert batch["stimulus"].shape == collated["stimulus"].shape
    for b, meta in enumerate(batch["stim_meta"]):
        bins = meta["n_bins"]
        np.testing.assert_array_equal(collated["stimulus"][b][..., :bins], batch["stimulus"][b][..., :bins])
        assert collated["stimulus"][b][..., bins:].isnan().all()
    np.testing.assert_array_equal(collated["sound_duration"], batch["sound_duration"])
    whole = made[0].assign(phase=(("stim", "time"), np.zeros((7, 40), np.int32)))
    view = CubeDataset(whole, extra=("phase",))
    with pytest.raises(UsageError, match=r"collate: phase of the items has 31 and 40 bins, and torch.int32 has"):
        collate([view[0], view[3]])


def test_an_option_that_no_data_set_has(made):
    with pytest.raises(
        UsageError, match=r"^smooth: no such option; did you mean smooth_ms\? Else there are .*device, dty"
    ):
        CubeDataset(made[1], smooth=21)
    with pytest.raises(UsageError, match=r"^dtyp: no such option; did you mean dtype\?"):
        CubeDataset(made[1]).using(dtyp=torch.float16)


def test_a_gpu_that_is_not_there_is_refused_at_once(view, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for refused in (lambda: view.to("cuda"), lambda: CubeDataset(view.ds, device="cuda:1")):
        with pytest.raises(UsageError, match=r"no such GPU, torch finds none here"):
            refused()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert view.to("cuda:1").to("cpu")[0]["stims"].device.type == "cpu"
    with pytest.raises(UsageError, match="device='cuda:2': no such GPU, there are 2"):
        view.to("cuda:2")
    # Who is asked in a worker would break the CUDA of the process that forked it
    monkeypatch.setattr("strfcube.adapters.torch.get_worker_info", lambda: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a worker asked"))
    view.to("cuda:7")


@pytest.mark.parametrize("option", [{}, {"device": "cpu"}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}])
def test_predictions_of_a_module(made, view, option):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.drop, self.frozen = torch.nn.Linear(6, 9), torch.nn.Dropout(0.9), torch.nn.Dropout(0.9)

        def forward(self, stims):
            assert not torch.is_grad_enabled()
            return self.frozen(self.drop(self.linear(stims[:, 0].mT))).mT

    view = view.using(**option)
    model = Model().to(view[0]["stims"].dtype)
    model.frozen.eval()
    found = view.predict(model, batch_size=3)
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
    linear = model.linear
    for s in range(7):
        bins = int(made[0]["n_bins"][s])
        with torch.no_grad():
            wanted = linear(view[s]["stims"][0].mT).mT.float().numpy()
        # Products of matrices are rounded by their size, and bfloat16 has eight bits
        close = 0.1 if option.get("dtype") == torch.bfloat16 else 1e-4
        np.testing.assert_allclose(found.values[s, :, :bins], wanted[:, :bins], rtol=close, atol=close)
        assert np.isnan(found.values[s, :, bins:]).all()
    bare = view.predict(lambda stims: np.zeros((stims.shape[0], 9, stims.shape[-1])))
    assert (bare.max(), bare.min()) == (0, 0)


def test_predictions_that_have_a_gradient(view):
    level = torch.nn.Parameter(torch.tensor(2.5))
    model = torch.enable_grad()(lambda stims: level.expand(len(stims), 9, stims.shape[-1]))
    assert (view.predict(model).isel(time=0) == 2.5).all()
    with pytest.raises(UsageError, match="expected numbers, got complex64"):
        view.predict(lambda stims: model(stims) + 1j)
