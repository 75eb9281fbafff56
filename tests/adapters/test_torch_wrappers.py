"""A loader that others take apart: accelerate, Lightning, and torch's own DataLoader around a view."""

import json
import subprocess
import sys

import numpy as np
import pytest
from stores import make_store

from strfcube import UsageError

torch = pytest.importorskip("torch")
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, RandomSampler, random_split  # noqa: E402

from strfcube import CubeDataset  # noqa: E402
from strfcube.adapters.torch import collate  # noqa: E402

pytestmark = pytest.mark.torch
WAYS = {"batch_size": 2, "shuffle": True, "seed": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=11, neuron=9, repeat=4, bins=40, seed=2, stim_shard=3)


@pytest.fixture
def view(made):
    return CubeDataset(made[1])


def names(batches):
    return [[m["stim"] for m in batch["stim_meta"]] for batch in batches]


def epochs(loader, count=3):
    return [names(loader) for _ in range(count)]


def same(a, b):
    for key in ("stims", "responses", "valid_mask"):
        np.testing.assert_array_equal(a[key].numpy(), b[key].numpy())
    assert a["stim_meta"] == b["stim_meta"]
    assert a["neuron"].tolist() == b["neuron"].tolist()


def finished(view, batches):
    """Whether batches are the documented ones, in values and types."""
    positions = {m["stim"]: i for i, m in enumerate(view.stim_meta)}
    for batch in batches:
        assert batch["responses"].dtype == torch.float32
        same(batch, view.batch([positions[m["stim"]] for m in batch["stim_meta"]]))
    return True


@pytest.mark.parametrize("more", [{}, {"group_by_repeats": True}, {"num_workers": 1}, {"shuffle": "block"}])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_whoever_takes_batch_sampler_and_collate_fn_gets_the_batches(view, device, more):
    wanted = epochs(view.loader(**WAYS | more))
    loader = view.using(device=device).loader(**WAYS | more)
    workers = more.get("num_workers", 0)
    other = DataLoader(view, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn, num_workers=workers)
    assert epochs(other) == wanted
    loader.batch_sampler.set_epoch(1)
    assert names(other) == wanted[1]
    loader.batch_sampler.sampler.set_epoch(0)
    assert names(other) == wanted[0]
    assert finished(view, other)


def test_torchs_own_loader_needs_no_collate_fn(view):
    for dataset in (view, ConcatDataset([view[:3], view[3:]]), random_split(view, [0.7, 0.3])[0]):
        for workers in (0, 1):
            loader = DataLoader(dataset, batch_size=4, num_workers=workers)
            assert finished(view, loader)
    torch.manual_seed(0)
    loader = DataLoader(view, batch_size=4, shuffle=True, drop_last=True)
    first, second = epochs(loader, 2)
    assert first != second
    assert finished(view, loader)


def test_a_device_is_not_touched_by_a_worker(view):
    loader = view.to("meta").loader(2, num_workers=1)  # a device whose tensors hold nothing and cannot be sent
    other = DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn, num_workers=1)
    assert finished(view, other)
    assert next(iter(loader))["responses"].device.type == "meta"


UNLIKE = [
    (lambda view, made: CubeDataset(made(bands=4)), "other frequencies: 6 .* and 4 "),
    (lambda view, made: CubeDataset(made(dt_ms=10.0)), "different bin widths, 5 ms and 10 ms"),
    (lambda view, made: CubeDataset(made(neuron=4)), "different neurons, 9 and 4"),
    (lambda view, made: CubeDataset(made(trace=range(9))), "different units"),
    (lambda view, made: CubeDataset(made(bins=60).isel(time=slice(20, 60))), "different starts of time, 0 s and 0.1 s"),
    (lambda view, made: view.isel(neuron=slice(None, None, -1)), "different neurons, 9 and 9 in another order"),
    (lambda view, made: view.to("meta"), "different devices, None and meta"),
    (lambda view, made: view.using(dtype=torch.float16), "different dtypes"),
    (lambda view, made: view.using(average_repeats=True), "average_repeats is not the same"),
    (lambda view, made: view.standardize(), "standardize is not the same"),
    (lambda view, made: view.using(extra=("duration",)), "extra is not the same"),
]


@pytest.mark.parametrize(("change", "message"), UNLIKE)
def test_what_is_unlike_is_in_no_batch(view, change, message):
    from cubes import make_cube

    def made(**options):
        return make_cube(**{"stim": 11, "neuron": 9, "repeat": 4, "bins": 40, "holes": False} | options)

    other = change(view, made)
    mixed = ConcatDataset([view, other])
    for loader in (DataLoader(mixed, batch_size=16, collate_fn=collate), DataLoader(mixed, batch_size=16)):
        with pytest.raises(UsageError, match=message) as told:
            list(loader)
        assert "\n" not in str(told.value)
    items = [view[0], other[0]]
    with pytest.raises(UsageError, match=message):
        collate(items)
    if any(word in message for word in ("neurons", "frequencies", "devices", "extra")):  # told from the arrays alone
        with pytest.raises(UsageError, match="collate: "):
            collate(list(map(dict, items)))


@pytest.mark.parametrize(("other", "message"), [
    ({"align": "causal"}, "different align, 'centre' and 'causal'"),
    ({"front_end": {"kind": "mel", "floor_db": -60}}, r"different front ends \(floor_db\), -80 and -60"),
])  # fmt: skip
def test_frames_of_other_recipes_are_in_no_batch(other, message):
    from cubes import make_cube

    recipe = {"align": "centre", "front_end": {"kind": "mel", "floor_db": -80}}
    one, two = (CubeDataset(make_cube().assign_attrs(recipe=json.dumps(r))) for r in (recipe, recipe | other))
    with pytest.raises(UsageError, match=f"collate: .*{message}"):
        list(DataLoader(ConcatDataset([one, two]), batch_size=8))
    with pytest.raises(UsageError, match=f"fit.*{message}"):
        one.standardize(fit=two)


def test_scaled_by_the_same_is_alike(view):
    train, test = view.splits("train", "test")
    mixed = ConcatDataset([train.standardize(), test.standardize(fit=train)])
    assert len(next(iter(DataLoader(mixed, batch_size=11)))["stim_meta"]) == 11


def test_a_distributed_samplers_epoch_is_its_owners_and_it_resumes(view):
    def fresh(rank):
        sampler = DistributedSampler(view, num_replicas=2, rank=rank, shuffle=True, seed=1)
        return sampler, view.loader(2, sampler=sampler)

    sampler, loader = fresh(0)
    assert loader.sampler is sampler  # what Lightning looks for before it shares an order out itself
    wanted = epochs(loader)
    assert len({str(epoch) for epoch in wanted}) == 3
    for epoch in (1, 1, 0):
        sampler.set_epoch(epoch)
        assert names(view.loader(2, sampler=sampler)) == wanted[epoch]
    sampler.set_epoch(1)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    for rank in (0, 1):  # one process's state is that of all
        wanted, again = epochs(fresh(rank)[1]), fresh(rank)[1]
        again.load_state_dict(state)
        assert epochs(again, 2) == [wanted[1][1:], wanted[2]]
    other = view.loader(2, sampler=DistributedSampler(view, num_replicas=4, rank=0, seed=1))
    with pytest.raises(UsageError, match=r"sampler='DistributedSampler\(num_replicas=2, seed=1\)', not"):
        other.load_state_dict(state)


def test_a_random_sampler_is_not_resumed(view):
    loader = view.loader(2, sampler=RandomSampler(view))
    next(iter(loader))
    state = loader.state_dict()
    again = view.loader(2, sampler=RandomSampler(view))
    again.load_state_dict(state)
    with pytest.raises(UsageError, match="another order"):
        list(again)


def test_a_generator_gives_the_seed(view):
    def order(seed):
        return epochs(view.loader(2, shuffle=True, generator=torch.Generator().manual_seed(seed)))

    assert order(1) == order(1)
    assert order(1) != order(2)
    with pytest.raises(UsageError, match="a generator gives the seed"):
        view.loader(2, seed=1, generator=torch.Generator())


def test_no_seed_is_drawn_for_what_is_not_shuffled(view):
    before = torch.random.get_rng_state()
    loader = view.loader(2)
    state = loader.state_dict()
    loader.load_state_dict(state)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(list(loader)) == 6


def test_accelerate(view):
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    wanted = epochs(view.loader(**WAYS))
    loader = accelerator.prepare(view.loader(**WAYS))
    assert epochs(loader) == wanted
    assert finished(view, loader)
    loader = accelerator.prepare(view.loader(**WAYS))
    loader.set_epoch(1)
    assert names(accelerator.skip_first_batches(loader, 2)) == wanted[1][2:]
    loader = accelerator.prepare(DataLoader(view, batch_size=4, shuffle=True))
    first, second = epochs(loader, 2)
    assert first != second
    assert finished(view, loader)


SHARED = """
import json, sys
from accelerate import Accelerator
from strfcube import CubeDataset

accelerator = Accelerator(cpu=True)
view, seen = CubeDataset(sys.argv[1]), []
for ways in json.loads(sys.argv[2]):
    loader = accelerator.prepare(view.loader(**ways))
    seen.append([[[m["stim"] for m in b["stim_meta"]] for b in loader] for _ in range(3)])
open(f"{sys.argv[3]}/rank{accelerator.process_index}.json", "w").write(json.dumps(seen))
accelerator.end_training()
"""

TRAIN = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import lightning.pytorch as pl
import torch
from strfcube import CubeDataset

class Model(pl.LightningModule):
    def __init__(self, out):
        super().__init__()
        self.weight, self.out, self.seen = torch.nn.Parameter(torch.ones(())), Path(out), []

    def training_step(self, batch, index):
        assert torch.equal(batch["valid_mask"], ~batch["responses"].isnan())
        self.seen.append([self.current_epoch, [m["stim"] for m in batch["stim_meta"]]])
        return (self.weight * batch["responses"].nan_to_num()).mean()

    def on_train_end(self):
        (self.out / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)

class Data(pl.LightningDataModule):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def train_dataloader(self):
        return self.make()

if __name__ == "__main__":
    path, out, processes, options, checkpoint = sys.argv[1:]
    for where, ways in json.loads(options).items():
        folder = Path(out) / where
        folder.mkdir(exist_ok=True)
        saved = pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = pl.Trainer(
            accelerator="cpu", devices=int(processes), strategy="ddp" if int(processes) > 1 else "auto", max_epochs=3,
            logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
            callbacks=[saved],
        )
        make = lambda: CubeDataset(path).loader(**ways)
        data = {"datamodule": Data(make)} if where == "inside" else {"train_dataloaders": make()}
        trainer.fit(Model(folder), ckpt_path=checkpoint.format(where) or None, weights_only=False, **data)
"""


def run(script, folder, *args, before=()):
    folder.mkdir()
    (folder / "script.py").write_text(script)
    command = [sys.executable, *before, str(folder / "script.py"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(file.read_text()) for file in sorted(folder.glob("**/rank*.json"))]


def dealt(shares):
    """Batches that were dealt out in turn, in their order."""
    return [share[i] for i in range(max(map(len, shares))) for share in shares if i < len(share)]


@pytest.mark.slow
def test_accelerate_in_two_processes(made, view, tmp_path):
    pytest.importorskip("accelerate")
    several = [WAYS, WAYS | {"group_by_repeats": True}]
    before = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    shares = run(SHARED, tmp_path / "run", made[1], json.dumps(several), tmp_path / "run", before=before)
    assert len(shares) == 2
    for i, ways in enumerate(several):
        for epoch, wanted in enumerate(epochs(view.loader(**ways))):
            together = dealt([share[i][epoch] for share in shares])
            # accelerate fills a last short batch up with the first stimuli, so that all processes have as much to do
            assert together[:5] == wanted[:5]
            assert {stim for batch in together for stim in batch} == {stim for batch in wanted for stim in batch}


@pytest.mark.slow
def test_lightning(made, view, tmp_path):
    pytest.importorskip("lightning")
    wanted = [[e, batch] for e, batches in enumerate(epochs(view.loader(**WAYS))) for batch in batches]
    args = 1, json.dumps({"inside": WAYS, "outside": WAYS})
    seen = run(TRAIN, tmp_path / "whole", made[1], tmp_path / "whole", *args, "")
    assert seen == [wanted] * 2
    seen = run(TRAIN, tmp_path / "rest", made[1], tmp_path / "rest", *args, tmp_path / "whole" / "{}" / "step=8.ckpt")
    assert seen == [wanted[8:]] * 2  # from the middle of the second epoch


@pytest.mark.slow
def test_lightning_in_two_processes(made, view, tmp_path):
    pytest.importorskip("lightning")
    plain = {"batch_size": 2, "shuffle": True}  # without a seed all processes have one order all the same
    several = {"inside": plain | {"group_by_repeats": True}, "outside": plain}
    args = 2, json.dumps(several)
    every = run(TRAIN, tmp_path / "whole", made[1], tmp_path / "whole", *args, "")
    for shares, ways in zip((every[:2], every[2:]), several.values(), strict=True):
        wanted = epochs(view.loader(**ways, seed=0))
        for epoch in range(3):
            mine = [[batch for e, batch in share if e == epoch] for share in shares]
            assert [len(m) for m in mine] == [-(-len(wanted[epoch]) // 2)] * 2
            # Lightning deals whole batches, in an order of its own, and fills up with some that were dealt
            assert {str(batch) for m in mine for batch in m} == {str(batch) for batch in wanted[epoch]}
    rest = run(TRAIN, tmp_path / "rest", made[1], tmp_path / "rest", *args, tmp_path / "whole" / "{}" / "step=4.ckpt")
    assert rest == [share[4:] for share in every]
