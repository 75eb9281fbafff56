"""Batches made on a device, of bytes that stay there or pass through, are those of the host; the device is the CPU."""

import gc
import importlib
import os
import pickle
import warnings

import numpy as np
import pytest
from stores import make_store

import strfcube
from strfcube import UsageError
from strfcube.loading import CubeView

torch = pytest.importorskip("torch")
from strfcube import CubeDataset  # noqa: E402
from strfcube.adapters.torch import arena, carrier  # noqa: E402

pytestmark = pytest.mark.torch
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on a CPU, too, where it is installed
SIZES = {"stim": 7, "neuron": 9, "repeat": 4, "bins": 40, "seed": 2}
OPTIONS = [
    {},
    {"average_repeats": True},
    {"smooth_ms": 20.0},
    {"smooth_ms": 20.0, "average_repeats": True},
    {"smooth_ms": 5.0},
    {"extra": ("pupil", "sound_duration", "stim_type", "n_repeats")},
    {"dtype": torch.float16},
    {"dtype": torch.bfloat16, "average_repeats": True},
    {"dtype": torch.float64, "smooth_ms": 20.0},
]
CHAINS = [
    lambda v: v,
    lambda v: v.sel(area="MLd"),
    lambda v: v.isel(neuron=[5, 2, 7], stim=[6, 0, 4, 3, 1, 2, 5]),
    lambda v: v.where(lambda ds: ds.n_repeats > 2, keep="neurons"),
    lambda v: v.standardize(),
    lambda v: v.normalize("zscore"),
    lambda v: v.standardize(per="all").normalize("max"),
]


@pytest.fixture(scope="module", params=["u1", "u2", "f4", "lazy"])
def made(request, tmp_path_factory):
    kind = request.param
    folder = tmp_path_factory.mktemp("cubes")
    _, path = make_store(folder, dtype="u1" if kind == "lazy" else kind, **SIZES)
    ds = strfcube.open(path)
    if kind == "lazy":
        ds = ds.assign(response=(ds["response"] * 1.5).assign_attrs(ds["response"].attrs))
    return ds.assign(pupil=(("stim", "time"), np.arange(7 * 40, dtype="f4").reshape(7, 40)))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cubes"), **SIZES)[1]


@pytest.fixture(params=["stay", "pass", "stay, by kernels", "pass, by kernels"])
def way(request, monkeypatch):
    """Whether bytes stay on the device or pass through for want of room; whether kernels or operations make batches."""
    if request.param.startswith("pass"):
        monkeypatch.setattr(carrier, "free_bytes", lambda device: 1)
        warnings.filterwarnings("ignore", "cache='device'")
    found = None
    if request.param.endswith("kernels"):
        pytest.importorskip("triton")
        found = importlib.import_module("strfcube.adapters.torch.kernels")
    monkeypatch.setattr(carrier, "kernels_for", lambda device: found)
    return request.param


def bits(tensor):
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array = tensor.cpu().numpy()
    if DEVICE != "cpu" and array.dtype.kind == "f":  # whose arithmetic gives NaN other bits
        array = np.where(np.isnan(array), np.nan, array).astype(array.dtype)
    return np.frombuffer(array.tobytes(), np.uint8)


def same(got, wanted):
    """Equal to the bit, NaN and all."""
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        if isinstance(value, torch.Tensor):
            assert (got[key].dtype, got[key].shape, got[key].device.type) == (value.dtype, value.shape, DEVICE), key
            np.testing.assert_array_equal(bits(got[key]), bits(value), err_msg=key)
        else:
            np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_batch_is_that_of_the_host(made, way, options):
    if DEVICE == "cpu" and way.endswith("kernels") and options.get("dtype") == torch.bfloat16:
        pytest.skip("Triton's interpreter cuts floats off, where it would round them on a GPU")
    here, there = CubeDataset(made, **options), CubeDataset(made, cache="device", device=DEVICE, **options)
    for chain in CHAINS:
        host, device = chain(here), chain(there)
        for items in ([3, 0, 6], [1], [2, 2, 5], []):
            wanted = host.batch(items)
            same(device.batch(items), wanted)
            same(device.batch(items), wanted)  # of what is there by now
        same(device[1], host[1])


def test_loaders_give_the_same_epochs(path, way):
    ways = {"batch_size": 2, "shuffle": True, "seed": 4, "group_by_repeats": True}
    here = CubeDataset(path).loader(**ways)
    for prefetch in (0, 1):
        there = CubeDataset(path, cache="device", device=DEVICE).loader(**ways, prefetch=prefetch, pin_memory=True)
        here.epoch = 0
        for _ in range(3):
            for got, wanted in zip(there, here, strict=True):
                same(got, wanted)
        assert there.state_dict() == here.state_dict()
        batches = iter(there)
        next(batches)
        assert there.state_dict()["batch"] == 1  # what travels ahead is not handed out


def test_epochs_of_what_lies_in_several_pieces_of_memory(path, way):
    options = {"extra": ("sound_duration", "stim_type"), "average_repeats": True}
    whole, host = CubeDataset(path, cache="device", device=DEVICE, **options), CubeDataset(path, **options)
    parts = [whole.isel(stim=[0, 1, 2]), whole.isel(stim=[4, 5])]
    for part in parts:
        part.batch(range(len(part)))  # each makes room for its own
    for _ in range(3):  # sent, on the long way, planned whole
        ways = {"batch_size": 3, "shuffle": True, "seed": 2}
        for got, wanted in zip(whole.loader(**ways), host.loader(**ways), strict=True):
            same(got, wanted)
    if way.startswith("stay"):
        assert whole._carrier.whole()
        assert len(whole._carrier.arenas) == 2 * 3


def test_waveforms_are_those_of_the_host(demo, way):
    options = {"mode": "waveform", "audio_fs": 16000.0}
    here, there = CubeDataset(demo, **options), CubeDataset(demo, cache="device", device=DEVICE, **options)
    for _ in range(2):
        same(there.batch([0, 3, 1]), here.batch([0, 3, 1]))


def arenas(view):
    return {id(a): a for a in view._carrier.arenas}


def stored(view):
    counts, bins = view.n_repeats.sum(1), view._reader.n_bins
    return int((counts * bins).sum())


def test_what_lies_there_is_what_is_stored(path):
    view = CubeDataset(path, cache="device", device=DEVICE)
    for batch in view.loader(3):
        del batch
    trials = [a for a in view._carrier.arenas if a.values.dtype == torch.uint8]
    assert sum(a.nbytes for a in trials) == stored(view) + 40  # and the missing values of one trial
    for part in (view.isel(neuron=[2]), view.sel(area="MLd"), view.isel(stim=[1, 5]), view.normalize(), view[2:4]):
        part.batch([0])
        assert arenas(part).keys() <= arenas(view).keys()
    part = view.sel(area="MLd").using(average_repeats=True, dtype=torch.float16, extra=("sound_duration",))
    part.batch([0])
    assert arenas(part).keys() <= arenas(view).keys()


def test_parts_that_overlap_are_sent_once(path, monkeypatch):
    sent = []
    send = arena.Arena.send
    monkeypatch.setattr(
        arena.Arena, "send", lambda arena, places, *more: (sent.extend(places), send(arena, places, *more))
    )
    whole, host = CubeDataset(path, cache="device", device=DEVICE), CubeDataset(path)
    folds = [[i for i in range(7) if i % 3 != fold] for fold in range(3)]
    views = [whole.isel(stim=fold) for fold in folds]
    for view, fold in zip(views, folds, strict=True):
        for _ in range(2):
            same(view.batch(range(len(fold))), host.batch(fold))
    assert len(sent) == 2 * 7  # trials and spectrograms of each stimulus
    held = sum(
        a.nbytes for a in {id(a): a for v in views for a in v._carrier.arenas if a.values.dtype == torch.uint8}.values()
    )
    assert stored(whole) <= held <= stored(whole) + 3 * 40
    same(whole.batch(range(7)), host.batch(range(7)))
    assert len(sent) == 2 * 7


def test_memory_goes_with_the_last_view_of_it(path):
    view = CubeDataset(path, cache="device", device=DEVICE)
    view.batch([0])
    part, other = view.sel(area="MLd"), view.sel(area="OV", keep="stimuli")
    part.batch([0])
    source = view._source
    of_view = list(arenas(view))
    del view
    gc.collect()
    assert list(arenas(part)) == of_view
    del part
    gc.collect()
    other.batch([0])
    assert (
        arena.arenas_for(source, other._carrier._trials.flat, other._place["device"]) == other._carrier._trials.arenas
    )
    assert other._carrier._trials.arenas[0].flat.neuron.tolist() == other._choice.neuron.tolist()


def test_an_epoch_sends_while_it_runs_and_the_next_reads_nothing(path, monkeypatch):
    view = CubeDataset(path, cache="device", device=DEVICE)
    batches = iter(view.loader(2))
    next(batches)
    assert view._carrier.there(range(7)).tolist() == [True] * 4 + [False] * 3  # a batch ahead
    list(batches)
    assert view._carrier.there(range(7)).all()

    def refuse(*args):
        raise AssertionError("read again")

    monkeypatch.setattr("strfcube.loading.ragged.Trials.read", refuse)
    monkeypatch.setattr("strfcube.loading.ragged.Sounds.read", refuse)
    assert len(list(view.loader(2, prefetch=1))) == 4


def test_a_batch_that_was_read_ahead_and_left_is_read_again(path):
    view, host = CubeDataset(path, cache="device", device=DEVICE), CubeDataset(path)
    view._read([1, 2], raw=True)  # as a loader does that is left in the middle of its epoch
    assert not view._carrier.there([1, 2]).any()
    same(view.batch([2, 1]), host.batch([2, 1]))


def test_auto_keeps_what_fits_a_quarter(path, monkeypatch):
    view = CubeDataset(path, device=DEVICE)
    if DEVICE == "cpu":
        view.batch([0])
        assert "_carrier" not in view.__dict__  # the memory of the host is no device
    wanted = CubeDataset(path).batch([0, 1])
    monkeypatch.setattr(CubeDataset, "_carries", True)
    need = sum(c.flat.sizes.sum() * c.flat.dtype.itemsize for c in (view._carrier._trials, view._carrier._sounds))
    need += 8 * view.n_repeats.size  # where each pair lies
    for free, stays in ((4 * need, True), (4 * need - 1, False), (None, False)):
        monkeypatch.setattr(carrier, "free_bytes", lambda device, free=free: free)
        fresh = view.using(cache="none").using(cache="auto")
        same(fresh.batch([0, 1]), wanted)
        assert fresh._carrier.stays() == stays
    assert not view.using(cache="ram")._carrier.stays()


def test_what_does_not_fit_is_told(path, monkeypatch):
    monkeypatch.setattr(carrier, "free_bytes", lambda device: 100)
    view = CubeDataset(path, cache="device", device=DEVICE)
    with pytest.warns(UserWarning, match=r"GB are more than 75% of .* sent there with each batch"):
        view.batch([0])
    view.batch([0])  # told once


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_send_bytes(path, monkeypatch, context):
    monkeypatch.setattr(CubeDataset, "_carries", property(lambda self: self._place["device"] is not None))
    view, host = CubeDataset(path, device=DEVICE), CubeDataset(path)
    loader = view.loader(3, num_workers=1, multiprocessing_context=context, pin_memory=True)
    for got, wanted in zip(loader, host.loader(3), strict=True):
        same(got, wanted)
    assert view._carrier.arenas == []


def test_a_view_can_be_pickled(path):
    view = CubeDataset(path, cache="device", device=DEVICE)
    wanted = view.batch([0, 1])
    same(
        pickle.loads(pickle.dumps(view)).batch([0, 1]),
        {k: v.cpu() if hasattr(v, "cpu") else v for k, v in wanted.items()},
    )


def test_what_cannot_be_is_refused(path):
    with pytest.raises(UsageError, match=r"cache='device': expected a device, too, such as .to\('cuda'\)"):
        CubeDataset(path, cache="device").batch([0])
    with pytest.raises(UsageError, match="leave num_workers away"):
        CubeDataset(path, cache="device", device=DEVICE).loader(2, num_workers=1)
    with pytest.raises(UsageError, match="cache='device' is for torch"):
        CubeView(path, cache="device")
    with pytest.raises(UsageError, match="cache='device' is for torch"):
        CubeView(path).using(cache="device")
    with pytest.raises(UsageError, match="expected one of none, ram, device, auto"):
        CubeDataset(path, cache="gpu")


def test_places_in_memory_of_a_wider_view_are_as_wide_as_they_need(path, monkeypatch):
    whole = CubeDataset(path, cache="device", device=DEVICE, average_repeats=True)
    whole.batch(range(len(whole)))
    monkeypatch.setattr(carrier, "_FAR", int(whole._carrier._trials.flat.sizes.max()) // 2)
    part = whole.using(average_repeats=False).isel(neuron=slice(-2, None))
    same(part.batch([0, 2]), CubeDataset(path).isel(neuron=slice(-2, None)).batch([0, 2]))
    assert part._carrier._resident.neurons.dtype == torch.int64
    assert whole.isel(neuron=[0])._carrier._places(np.arange(1), passing=True).neurons.dtype == torch.int32


def test_what_inference_sends_first_training_completes(path):
    view = CubeDataset(path, cache="device", device=DEVICE)
    with torch.inference_mode():
        view.batch([0, 1])
    for got, wanted in zip(view.loader(2), CubeDataset(path).loader(2), strict=True):
        same(got, wanted)


def test_a_long_epoch_is_planned_in_pieces(path, monkeypatch):
    monkeypatch.setattr("strfcube.adapters.torch._PLANNED", 2)
    view, planned = CubeDataset(path, cache="device", device=DEVICE), []
    list(view.loader(2))
    epoch = carrier.Carrier.epoch
    monkeypatch.setattr(
        carrier.Carrier, "epoch", lambda self, items: (planned.append(len(items)), epoch(self, items))[1]
    )
    wanted = CubeDataset(path).loader(2, shuffle=True, seed=1)
    for got, batch in zip(view.loader(2, shuffle=True, seed=1), wanted, strict=True):
        same(got, batch)
    assert planned == [2, 2]
