"""Batches whose floats are made when they are asked for: any dict's behaviour, the values of `batch`, less memory."""

import copy
import pickle
import threading

import numpy as np
import pytest
from stores import make_store

torch = pytest.importorskip("torch")
from torch.utils import _pytree  # noqa: E402

from strfcube import CubeDataset  # noqa: E402
from strfcube.adapters.torch.decode import decoded  # noqa: E402
from strfcube.adapters.torch.late import LateBatch, floats  # noqa: E402
from strfcube.loading.memory import Buffers  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def late(monkeypatch):
    """Batches of any size count as large."""
    monkeypatch.setattr("strfcube.adapters.torch.loader._LARGE", 0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), stim=5, neuron=9, repeat=4, bins=40, seed=2)[1]


def same(got, wanted):
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        if isinstance(value, torch.Tensor):
            assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape)
            assert got[key].float().numpy().tobytes() == value.float().numpy().tobytes(), key
        else:
            np.testing.assert_array_equal(got[key], value)


def whole(batch):
    assert type(batch) is dict
    return batch


WAYS = {
    "by key": lambda b: {key: b[key] for key in b},
    "get": lambda b: {key: b.get(key) for key in b},
    "items": lambda b: dict(b.items()),
    "values": lambda b: dict(zip(b, b.values(), strict=True)),
    "dict": lambda b: whole(dict(b)),
    "unpacked": lambda b: {**b},
    "called": lambda b: (lambda **kept: kept)(**b),
    "copy": lambda b: whole(b.copy()),
    "copy.copy": lambda b: whole(copy.copy(b)),
    "pickled": lambda b: whole(pickle.loads(pickle.dumps(b))),
    "or": lambda b: b | {},
    "or, right": lambda b: {} | b,
    "updated": lambda b: (out := {}).update(b) or out,
    "popped": lambda b: {key: b.pop(key) for key in list(b)},
    "popitem": lambda b: dict(reversed([b.popitem() for _ in range(len(b))])),
    "setdefault": lambda b: {key: b.setdefault(key, 0) for key in b},
    "tree": lambda b: whole(_pytree.tree_map(lambda leaf: leaf, b, is_leaf=lambda x: isinstance(x, list))),
    "tree, with paths": lambda b: _pytree.tree_map_with_path(
        lambda path, leaf: leaf, b, is_leaf=lambda x: isinstance(x, list)
    ),
    "its own type": lambda b: type(b)(dict(b.items())),
}  # fmt: skip


@pytest.mark.parametrize(("values", "kind"), [(2 * 9 * 4 * 40, LateBatch), (2 * 9 * 4 * 40 + 1, dict)])
def test_only_large_batches_are_made_late(path, values, kind, monkeypatch):
    monkeypatch.setattr("strfcube.adapters.torch.loader._LARGE", values)
    assert {type(batch) for batch in CubeDataset(path).loader(2)} == {kind}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_a_dict_of_what_batch_gives(path, way):
    view = CubeDataset(path)
    (batch,) = view.loader(5)
    assert isinstance(batch, LateBatch)
    assert batch["stims"].shape[0] == 5
    assert batch._decode is not None
    same(WAYS[way](batch), view.batch(range(5)))


def test_what_a_user_puts_in_stays(path):
    (batch,) = CubeDataset(path).loader(5)
    batch["responses"] = "mine"
    assert batch["responses"] == "mine"
    assert batch["valid_mask"].dtype == torch.bool
    (batch,) = CubeDataset(path).loader(5)
    del batch["valid_mask"]
    assert batch.get("valid_mask", 3) == 3
    assert batch["responses"].dtype == torch.float32
    (batch,) = CubeDataset(path).loader(5)
    assert "tensor" in repr(batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floats_are_those_of_the_device(dtype, monkeypatch):
    monkeypatch.setattr("strfcube.adapters.torch.late._AT_ONCE", 100)
    counts = np.concatenate([np.arange(256), np.zeros(150), np.full(100, 255)]).astype("u1").reshape(2, 253)
    wanted = decoded(torch.from_numpy(counts.copy()), None, dtype)
    got = floats(torch.from_numpy(counts.copy()), dtype, np.empty, 2)
    assert got[0].dtype == dtype
    assert torch.equal(got[1], wanted[1])
    assert got[0].view(torch.uint8).tolist() == wanted[0].view(torch.uint8).tolist()


@pytest.mark.parametrize(
    "options", [{}, {"layout": "ragged"}, {"dtype": torch.bfloat16}, {"average_repeats": True}], ids=str
)
def test_loaders_in_whatever_way_give_the_same(path, options):
    view = CubeDataset(path, **options)
    for got, wanted in zip(view.loader(2), view.loader(2, prefetch=1), strict=True):
        same(got, wanted)


def test_two_threads_that_ask_at_once_get_the_same(path):
    for batch in CubeDataset(path).loader(1):
        found, start = [], threading.Barrier(3)

        def look(batch=batch, found=found, start=start):
            start.wait()
            found.append((batch["responses"], batch["valid_mask"]))

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [mask is found[0][1] for _, mask in found] == [True] * 3


def test_a_plain_loop_holds_one_batch_of_floats(path):
    floats, bytes_ = set(), set()
    for batch in CubeDataset(path).loader(2, sampler=[0, 1] * 6):  # which is held while the next is read
        floats.add(batch["responses"].data_ptr())
        bytes_.add(batch["valid_mask"].data_ptr())
    assert (len(floats), len(bytes_)) == (1, 2)


def test_floats_are_not_spent_on_bytes():
    pool = Buffers()
    large = pool.take((4000,), np.float32).ctypes.data
    small = pool.take((4000,), np.uint8)  # the large one is free
    assert small.ctypes.data != large
    assert pool.take((3900,), np.float32).ctypes.data == large
    assert len(pool._held) == 2
