"""The loader: order, workers, buffers, resuming, and a model that trains on its batches."""

import gc
import subprocess
import sys

import numpy as np
import pytest
from stores import make_store

import strfcube

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from strfcube import CubeDataset, UsageError  # noqa: E402
from strfcube.loading.memory import Buffers  # noqa: E402

pytestmark = pytest.mark.torch
TENSORS = ("stims", "responses", "valid_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=11, neuron=9, repeat=4, bins=40, seed=2, stim_shard=3)


@pytest.fixture
def view(made):
    return CubeDataset(made[1])


def names(batches):
    return [[m["stim"] for m in batch["stim_meta"]] for batch in batches]


def flat(batches):
    return [name for batch in batches for name in batch]


def same(a, b):
    for key in TENSORS:
        np.testing.assert_array_equal(a[key].cpu().numpy(), b[key].cpu().numpy())
    assert a["stim_meta"] == b["stim_meta"]


def test_it_is_a_data_loader_with_a_length(view):
    loader = view.loader(4)
    assert isinstance(loader, DataLoader)
    assert loader.dataset is view
    assert len(loader) == 3
    batches = list(loader)
    for batch, items in zip(batches, (range(4), range(4, 8), range(8, 11)), strict=True):
        same(batch, view.batch(items))
    assert len(list(view.loader(4, drop_last=True))) == len(view.loader(4, drop_last=True)) == 2


def test_a_shuffled_epoch_is_a_permutation_and_epochs_differ(view):
    loader = view.loader(4, shuffle=True, seed=3)
    first, second = names(loader), names(loader)
    assert sorted(flat(first)) == sorted(flat(second)) == [m["stim"] for m in view.stim_meta]
    assert first != second
    again = view.loader(4, shuffle=True, seed=3)
    assert [names(again), names(again)] == [first, second]
    assert names(view.loader(4, shuffle=True, seed=4)) != first


def test_the_seed_comes_from_torch_unless_given(view):
    orders = []
    for _ in range(2):
        torch.manual_seed(5)
        orders.append(names(view.loader(4, shuffle=True)))
    assert orders[0] == orders[1]


def test_block_shuffling_keeps_shards_together(view):
    loader = view.loader(1, shuffle="block", seed=0)
    order = [int(n[0][4:]) for n in names(loader)]
    assert sorted(order) == list(range(11))
    blocks = [i // 3 for i in order]
    assert sum(a != b for a, b in zip(blocks[1:], blocks[:-1], strict=True)) == 3
    assert order != list(range(11))


def test_blocks_of_a_lazy_cube_are_its_chunks(made):
    ds = strfcube.open(made[1])
    lazy = CubeDataset(ds.assign(response=(ds["response"] + 0).chunk(stim=4)))
    assert lazy._source.blocks().tolist() == [0] * 4 + [1] * 4 + [2] * 3


def test_groups_of_repeats_never_share_a_batch(view):
    repeats = {m["stim"]: int(n.max()) for m, n in zip(view.stim_meta, view.n_repeats, strict=True)}
    assert len(set(repeats.values())) > 1
    for shuffle in (False, True, "block"):
        loader = view.loader(3, shuffle=shuffle, seed=0, group_by_repeats=True)
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            (count,) = {repeats[m["stim"]] for m in batch["stim_meta"]}
            assert batch["responses"].shape[2] == count
        assert sorted(flat(names(batches))) == sorted(repeats)


@pytest.mark.parametrize("options", [{}, {"prefetch": 2}, {"num_workers": 1}])
def test_resumes_where_it_was(view, options):
    def fresh():
        return view.loader(2, shuffle=True, seed=9, **options)

    whole = fresh()
    wanted = names(whole) + names(whole)
    loader, got, state = fresh(), [], None
    for batch in loader:
        got += names([batch])
        state = loader.state_dict()
        if len(got) == 4:
            break
    assert {name: state[name] for name in ("seed", "epoch", "batch")} == {"seed": 9, "epoch": 0, "batch": 4}
    other = view.loader(2, shuffle=True, seed=1, **options)
    other.load_state_dict(state)
    got += names(other) + names(other)
    assert got == wanted
    assert {k: v for k, v in other.state_dict().items() if k in ("seed", "epoch", "batch")} == {
        "seed": 9, "epoch": 2, "batch": 0
    }  # fmt: skip
    other.epoch = 1
    assert names(other) == wanted[6:]


def test_leaving_an_epoch_early_starts_the_next_one(view):
    loader = view.loader(4, shuffle=True, seed=0)
    whole = view.loader(4, shuffle=True, seed=0)
    first, second = names(whole), names(whole)
    assert names([next(iter(loader))]) == first[:1]
    assert names(loader) == second


def test_a_list_of_batches_equals_batches_read_one_by_one(view):
    loader = view.loader(3, shuffle=True, seed=1)
    kept = list(loader)
    loader.epoch = 0
    for batch, alone in zip(kept, loader, strict=True):
        same(batch, alone)
    positions = {m["stim"]: i for i, m in enumerate(view.stim_meta)}
    for batch in kept:
        same(batch, view.batch([positions[m["stim"]] for m in batch["stim_meta"]]))


@pytest.mark.parametrize(
    "keep",
    [
        lambda batch: batch["responses"][0, 1],
        lambda batch: batch["responses"].numpy()[0, 1],
        lambda batch: batch["responses"].detach().view(-1)[:50],
        lambda batch: torch.utils.dlpack.from_dlpack(batch["responses"])[0, 1],
        lambda batch: memoryview(batch["responses"].numpy()[0, 1]),
    ],
)
def test_a_buffer_is_not_used_again_while_any_view_of_it_lives(view, keep):
    held = keep(view.batch([0, 1]))
    wanted = np.array(held.tolist())
    for i in range(11):
        view.batch([i, (i + 1) % 11])
    np.testing.assert_array_equal(np.array(held.tolist()), wanted)


def test_a_buffer_lives_as_long_as_a_gradient_needs_it(view):
    weight = torch.ones((), requires_grad=True)
    batch = view.batch([0, 1])
    wanted = float(batch["responses"].nan_to_num().square().sum())
    loss = (weight * batch["responses"].nan_to_num_()).square().sum() / 2
    del batch
    for i in range(11):
        view.batch([i, (i + 1) % 11])
    loss.backward()
    assert weight.grad.item() == pytest.approx(wanted)


def test_buffers_are_used_again():
    pool = Buffers()
    first = pool.take((10, 10), np.float32)
    address = first.ctypes.data
    assert pool.take((10, 10), np.float32).ctypes.data != address
    part = first[2:]
    del first
    assert pool.take((10, 10), np.float32).ctypes.data != address
    del part
    gc.collect()
    assert pool.take((5, 5), np.float32).ctypes.data == address
    for size in range(1, 200):  # growing requests leave no trail of small buffers
        pool.take((size, 100), np.float32)
    assert len(pool._held) <= 3


def test_memory_of_batches_that_were_kept_is_given_back():
    pool = Buffers()
    kept = [pool.take((100,), np.float32) for _ in range(20)]
    assert len(pool._held) == 20
    del kept
    pool.take((100,), np.float32)
    assert len(pool._held) <= 7
    for count in range(30):  # and never more than that while one is used at a time
        part = pool.take((50 + count,), np.float32)
    assert len(pool._held) <= 8
    assert part.shape == (79,)


def test_changing_a_batch_in_place_changes_no_other(view):
    wanted = view.batch([0, 1])
    spoiled = view.batch([0, 1])
    for key in TENSORS:
        spoiled[key].zero_()
    spoiled["stim_meta"][0]["stim"] = "spoiled"
    del spoiled
    same(view.batch([0, 1]), wanted)


def test_samplers_of_distributed_training(view):
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(view, num_replicas=2, rank=rank, shuffle=True, seed=1)
        loader = view.loader(2, sampler=sampler)
        assert len(loader) == 3
        first, second = names(loader), names(loader)
        assert first != second  # the loader tells the sampler its epoch
        seen += flat(first)
    assert set(seen) == {m["stim"] for m in view.stim_meta}
    with pytest.raises(UsageError, match="leave shuffle away"):
        view.loader(2, sampler=[0, 1], shuffle=True)
    assert names(view.loader(2, sampler=[4, 2, 0])) == [["stim004", "stim002"], ["stim000"]]


def test_prefetching_gives_the_same_and_passes_errors_on(made, view):
    wanted = list(view.loader(2, shuffle=True, seed=0))
    for batch, ahead in zip(wanted, view.loader(2, shuffle=True, seed=0, prefetch=3), strict=True):
        same(batch, ahead)
    next(iter(view.loader(2, prefetch=2)))  # leaving early stops the thread

    def fail(block):
        raise RuntimeError("the disk is on fire")

    ds = strfcube.open(made[1])
    broken = ds["response"].copy(data=ds["response"].data.map_blocks(fail, dtype="f4", meta=np.empty(0, "f4")))
    with pytest.raises(RuntimeError, match="on fire"):
        list(CubeDataset(ds.assign(response=broken)).loader(2, prefetch=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": None}, "batch_size=None"),
        ({"seed": -1}, "seed=-1"),
        ({"sampler": iter([1])}, "with a length"),
        ({"collate_fn": list}, "collate_fn is given by the view"),
        ({"shuffle": "blocks"}, "shuffle='blocks'"),
        ({"prefetch": -1}, "prefetch"),
    ],
)
def test_options_are_checked(view, options, message):
    with pytest.raises(UsageError, match=message):
        view.loader(**options)


def test_pinning_without_an_accelerator_is_no_error(view):
    batch = next(iter(view.loader(2, pin_memory=True)))
    assert batch["responses"].is_pinned() == torch.cuda.is_available()


WORKERS = """
import sys, torch
from strfcube import CubeDataset
import strfcube

def main(path, context, kind):
    ds = strfcube.open(path)
    if kind == "lazy":
        ds = ds.assign(response=ds["response"] * 1)
    view = CubeDataset(ds, extra=("stimulus",))  # which is lazy
    # The parent has read: threads of dask, of zarr and of the view are alive before the fork.
    ds["response"][:2].compute()
    alone = list(view.loader(2, shuffle=True, seed=1))
    loader = view.loader(2, shuffle=True, seed=1, num_workers=2, multiprocessing_context=context,
                         persistent_workers=True)
    for epoch in range(2):
        loader.epoch = 0
        for a, b in zip(alone, loader, strict=True):
            assert a["stim_meta"] == b["stim_meta"]
            for key in ("stims", "responses", "valid_mask", "stimulus"):
                assert torch.equal(a[key].nan_to_num(-1), b[key].nan_to_num(-1)), key
    loader.epoch = 0
    kept = list(loader)
    for a, b in zip(alone, kept, strict=True):
        assert torch.equal(a["responses"].nan_to_num(-1), b["responses"].nan_to_num(-1))
    print("fine")

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize(("context", "kind"), [("fork", "direct"), ("fork", "lazy"), ("spawn", "direct")])
def test_workers_neither_hang_nor_differ(made, tmp_path, context, kind):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    # Python 3.12 warns of any fork of a process with threads; that it does no harm here is what is tested.
    flags = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *flags, str(script), made[1], context, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "fine", done.stderr


def test_a_model_for_the_batch_dict_trains(made):
    cube, _path = made
    # Responses that a linear-nonlinear model explains: the rate follows one band
    drive = np.nan_to_num(cube["stimulus"].values[:, 2])
    drive = drive / drive.std()
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(0.7 * drive - 1.0)[:, None, None], cube["response"].shape).astype("f4")
    ds = cube.assign(response=cube["response"].copy(data=np.where(cube["response"].isnull(), np.nan, counts)))
    views = CubeDataset(ds)
    train, held = views.splits("train", "test")
    train, held = train.standardize(), held.standardize(fit=train)

    class LinearNonlinear(torch.nn.Module):
        def __init__(self, bands, neurons, lags=3):
            super().__init__()
            self.strf = torch.nn.Conv2d(1, neurons, (bands, lags), padding=(0, lags - 1))
            self.lags = lags

        def forward(self, stims):
            return self.strf(stims)[..., 0, : stims.shape[-1]].exp()

    torch.manual_seed(0)
    neurons = train[0]["responses"].shape[0]
    model = LinearNonlinear(6, neurons)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        total = 0.0
        for batch in train.loader(4, shuffle=True, seed=0):
            rate = model(batch["stims"])[:, :, None].expand_as(batch["responses"])
            mask = batch["valid_mask"]
            loss = torch.nn.functional.poisson_nll_loss(rate[mask], batch["responses"][mask], log_input=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.1
    batch = held.using(average_repeats=True).batch([0])
    there = held.n_repeats[0] > 0
    with torch.no_grad():
        rate = model(batch["stims"]).numpy()[0, there]
    band = drive[-1, : rate.shape[1]]
    assert np.corrcoef(np.log(rate.mean(0)), band)[0, 1] > 0.9


def test_the_demo_birds_are_learnt_to_the_noise_ceiling(demo):
    everything = CubeDataset(demo)
    held = [7, 15]  # a song and a ripple
    train = everything.isel(stim=[i for i in range(len(everything)) if i not in held])
    test = everything.isel(stim=held).standardize(fit=train)
    train = train.standardize()
    torch.manual_seed(0)
    neurons, lags = train[0]["responses"].shape[0], 16
    strf = torch.nn.Conv2d(1, neurons, (32, lags))
    torch.nn.init.zeros_(strf.weight)
    torch.nn.init.constant_(strf.bias, -1.5)

    def model(stims):
        return torch.nn.functional.softplus(strf(torch.nn.functional.pad(stims, (lags - 1, 0)))[:, :, 0]) + 1e-6

    optimizer = torch.optim.Adam(strf.parameters(), lr=0.02)
    loader = train.loader(4, shuffle=True, seed=0)
    for _ in range(10):
        for batch in loader:
            mask = batch["valid_mask"]
            rate = model(batch["stims"])[:, :, None].expand_as(mask)[mask]
            loss = torch.nn.functional.poisson_nll_loss(rate, batch["responses"][mask], log_input=False)
            optimizer.zero_grad()
            (loss + 1e-4 * strf.weight.abs().sum() / neurons).backward()
            optimizer.step()
    ds = test.ds
    batch = test.batch([0, 1])
    with torch.no_grad():
        rate = model(batch["stims"]).numpy()
    prediction = np.full((2, ds.sizes["neuron"], ds.sizes["time"]), np.nan)
    prediction[..., : rate.shape[2]] = np.where(
        batch["valid_mask"].numpy().any(2), rate[:, : ds.sizes["neuron"]], np.nan
    )
    ccnorm = ds.strf.ccnorm(ds["response"].isel(repeat=0, drop=True).copy(data=prediction)).values
    driven = ds.strf.ccmax().values > 0.5
    assert driven.sum() >= 5
    assert np.median(ccnorm[driven]) > 0.8


def test_options_that_a_loader_does_not_have(made):
    view = CubeDataset(made[1])
    with pytest.raises(UsageError, match=r"batchsize: no such option; did you mean batch_size\?"):
        view.loader(batchsize=3)
    view.loader(2, timeout=0, num_workers=0, worker_init_fn=None)
