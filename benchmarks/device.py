"""Epochs of `CubeDataset` on a device: the host's loader beside bytes that lie there, and a small model that trains.

Cubes are those of epoch.py, in their sizes. Of each is printed: an epoch in ms through the loader of the host (from
disk, from memory, with a batch read ahead, and that page-locked; each batch is sent to the device), the same from bytes
that pass through, and that lie there; a training epoch from the loader, from bytes that lie there, and from batches of
the same shapes that were made before, so that nothing is loaded; the first epoch, which sends the bytes; the memory
of the device, without two batches, over the stored counts and spectrograms of the view; and of a batch on the device,
the operations of torch that it takes (beside the kernel that makes it, where there is one; those that only look at
memory in another way are not counted), the times that the host waits for the device, and processor time of the host.
Times are the best of some epochs; the kinds of an epoch take turns. Before that, every batch on the device is compared
with that of the host.

    python benchmarks/device.py                    all sizes, on a GPU where there is one
    python benchmarks/device.py ns1 --device cpu   one, on the CPU
    python benchmarks/device.py --json FILE        the figures into a file, too
    python benchmarks/device.py --part 8           every eighth stimulus, not compared: to see that it runs
"""

import gc
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
from epoch import DATASETS, arguments, write_cube

from strfcube import CubeDataset


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Model(torch.nn.Module):
    """A convolution over time and frequency, then one over time; expected counts of each neuron."""

    def __init__(self, bands, neurons, hidden=64):
        super().__init__()
        self.heard = torch.nn.Conv2d(1, hidden, (bands, 9), padding=(0, 4))
        self.read = torch.nn.Conv1d(hidden, neurons, 9, padding=4)

    def forward(self, stims):
        return self.read(torch.relu(self.heard(stims).squeeze(2)))


def trainer(view, device):
    """A step of training: the Poisson likelihood of all repeats, which needs no more of them than sum and number."""
    torch.manual_seed(0)
    model = Model(view.ds.sizes["frequency"], view.ds.sizes["neuron"]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")

    def step(batch):
        number = batch["valid_mask"].sum(2)
        total = batch["responses"].nansum(2)
        with torch.autocast(device.type, torch.bfloat16):
            log_rate = model(batch["stims"]).float()
        loss = (number * log_rate.exp() - total * log_rate).sum() / number.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def timed(loader, device, use):
    """An epoch in ms; `use` gets every batch."""
    loader.epoch = 0
    wait(device)
    start = time.perf_counter()
    for batch in loader:
        use(batch)
    del batch
    wait(device)
    return 1000 * (time.perf_counter() - start)


def in_turns(what, device, times, row):
    """Best of some epochs of each kind, in ms: what is measured last is not to have the warmest machine."""
    for name, (loader, use) in what.items():  # once for nothing
        timed(loader, device, use)
        row[name] = float("inf")
    for _ in range(times):
        for name, (loader, use) in what.items():
            row[name] = min(row[name], timed(loader, device, use))


def sent(device):
    """What a loop does first with a batch of the host; on the CPU, it looks at all of it."""

    def use(batch):
        return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    return use


class Counted(TorchDispatchMode):
    """Operations in this thread, and those whose result the host has to wait for.

    On a device it is torch that tells where the host waits, among them copies from memory that is not page-locked; on
    the CPU, what would wait is known by its name, and by indices that are masks.
    """

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive")
    OF_THE_HOST = ("empty", "_record_function_enter_new", "_record_function_exit")  # room, and what a profiler sees

    def __init__(self, device):
        super().__init__()
        self.device, self.operators, self.waits = device, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.operators += not func.is_view and name not in self.OF_THE_HOST
        masks = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        sizes = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        self.waits += self.device.type == "cpu" and (name in self.NAMES or masks or sizes)
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        if self.device.type == "cuda":
            self._told = warnings.catch_warnings(record=True)
            self._list = self._told.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            self.waits = sum("synchron" in str(w.message) for w in self._list)
            self._told.__exit__(*args)


def counted(loader, device, row):
    """Of a batch that is made where its bytes lie: operations, waits, and processor seconds of the host."""
    loader.epoch, number = 0, 0
    batches = iter(loader)  # which draws a seed for workers, once an epoch
    with Counted(device) as counts:
        for _ in batches:
            number += 1
    row["operators"], row["waits"] = counts.operators / number, counts.waits / number
    loader.epoch, start = 0, time.process_time()
    for _ in loader:
        pass
    row["host_ms"] = 1000 * (time.process_time() - start) / number
    wait(device)


def compare(view, device, batch_size):
    """Compare every batch of an epoch with the host's, to the bit, in several ways of reading."""
    ways = [{}, {"average_repeats": True}, {"dtype": torch.float16}, {"smooth_ms": 21.0}]
    for way in ways:
        exact = "smooth_ms" not in way
        subset = view if exact else view[:: max(1, len(view) // 8)]
        host = subset.using(cache="ram", device=None, **way)
        for other in (subset.using(cache="device", **way), subset.using(cache="none", **way)):
            loaders = [v.loader(batch_size, shuffle=True, seed=3) for v in (host, other)]
            for wanted, got in zip(*loaders, strict=True):
                for key in ("stims", "responses", "valid_mask"):
                    here = wanted[key].to(device)
                    assert got[key].dtype == here.dtype, (key, way)
                    same = torch.allclose(got[key], here, rtol=1e-6, atol=1e-7, equal_nan=True) if not exact else (
                        torch.equal(torch.nan_to_num(got[key].float(), -7), torch.nan_to_num(here.float(), -7))
                    )  # fmt: skip
                    assert same, f"{key} differs from the host's, {way}"
                    del here
            del wanted, got
    gc.collect()


def stored_bytes(view):
    reader = view._reader
    bins = reader.n_bins.astype(int)
    return int((reader.n_repeats.sum(1).astype(int) * bins).sum()), int(bins.sum()) * view.ds.sizes["frequency"] * 4


def memory(view, device, batch_size, row):
    """Memory of the device at its peak over two epochs, the first of which sends the bytes; without two batches."""
    if device.type != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    largest = 0
    fresh = view.using(dtype=torch.float32)  # which holds nothing yet
    for _ in range(2):
        for batch in fresh.loader(batch_size, shuffle=True, seed=1):
            largest = max(largest, sum(v.nbytes for v in batch.values() if isinstance(v, torch.Tensor)))
    del batch
    peak = torch.cuda.max_memory_allocated(device) - before
    counts, sounds = stored_bytes(view)
    row["device_MB"], row["stored_MB"], row["batch_MB"] = peak / 1e6, (counts + sounds) / 1e6, largest / 1e6
    row["over_stored"] = (peak - 2 * largest) / (counts + sounds)
    row["over_stored_counts"] = (peak - 2 * largest) / counts


def measure(name, path, device, times, check, part=1):
    size = DATASETS[name]
    size_of_batch, row = size.batch, {"cube": name, "device": str(device), "part": part}

    def opened(**how):
        return CubeDataset(path, **how)[::part]

    views = {cache: opened(cache=cache) for cache in ("none", "ram")}
    here = opened(device=device, cache="device")
    if check:
        compare(here, device, size_of_batch)
        row["equal"] = True
    memory(here, device, size_of_batch, row)

    def loader(view, **more):
        return view.loader(size_of_batch, shuffle=True, seed=1, **more)

    send = sent(device)
    hosts = {
        "disk": loader(views["none"]), "ram": loader(views["ram"]), "prefetch": loader(views["ram"], prefetch=2),
        "pin": loader(views["ram"], prefetch=2, pin_memory=True),
        "bytes_pass": loader(opened(device=device, cache="ram"), prefetch=2),
        "device": loader(here),
    }  # fmt: skip
    if device.type == "cpu":  # where the memory of the host is that of the device, nothing passes
        del hosts["bytes_pass"]
    row["first_epoch"] = timed(hosts["device"], device, lambda batch: None)
    counted(hosts["device"], device, row)
    of_the_host = ("disk", "ram", "prefetch", "pin")
    uses = {what: send if what in of_the_host else (lambda batch: None) for what in hosts}
    in_turns({f"epoch_{what}": (given, uses[what]) for what, given in hosts.items()}, device, times, row)

    step = trainer(here, device)
    hosts["device"].epoch = 0
    shapes, order = {}, []
    for batch in hosts["device"]:
        order.append(batch["responses"].shape)
        shapes.setdefault(order[-1], batch)
    del batch

    class Again:
        epoch = 0

        def __iter__(self):
            return (shapes[shape] for shape in order)

    kinds = {
        "train_pin": (hosts["pin"], lambda batch: step(send(batch))), "train_device": (hosts["device"], step),
        "train_again": (Again(), step),
    }  # fmt: skip
    in_turns(kinds, device, times, row)
    row["epoch_gain"] = row["epoch_prefetch"] / row["epoch_device"]
    row["train_over_again"] = row["train_device"] / row["train_again"]
    return row


def told(row):
    def ms(*names):
        return " / ".join(f"{row[n]:.3g}" if n in row else "-" for n in names) + " ms"

    over = (
        f"{row['over_stored_counts']:.2f} ({row['over_stored']:.2f} with the sounds)" if "over_stored" in row else "-"
    )
    train = f"{ms('train_pin', 'train_device', 'train_again')} ({row['train_over_again']:.2f} times one batch again)"
    loaded = ms("epoch_disk", "epoch_ram", "epoch_prefetch", "epoch_pin")
    return (
        f"| {row['cube'].upper()} | {loaded} | {ms('epoch_bytes_pass', 'epoch_device')} "
        f"({row['epoch_gain']:.1f} times faster than ram + prefetch) | {train} | {ms('first_epoch')} | {over} "
        f"| {row['operators']:.1f} / {row['waits']:.1f} / {row['host_ms']:.2g} ms |"
    )


HEAD = """
| cube | epoch: disk / ram / ram + prefetch / ram + prefetch + pin | epoch from bytes that pass through / lie on the \
device | training epoch: loader (ram, prefetch, pin) / device bytes / \
one batch again, nothing loaded | first epoch | \
device memory over stored counts | a batch on the device: operations / waits / processor time of the host |
|---|---|---|---|---|---|---|"""


def main():
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--times", type=int, help="epochs, of which the best is taken; default 7, on the CPU 1")
    parser.add_argument("--no-check", action="store_true", help="do not compare the batches with the host's")
    parser.add_argument("--part", type=int, default=1, help="one in so many stimuli, without comparing")
    parser.add_argument("--cubes", help="folder that keeps the cubes for the next time")
    parser.add_argument("--json", help="file for the figures")
    given = parser.parse_args()
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} cores")
    times = given.times or (7 if device.type == "cuda" else 1)
    rows, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for size in given.names or DATASETS:
            path = Path(given.cubes or folder) / f"{size}.zarr"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                write_cube(str(path), DATASETS[size])
            rows.append(measure(size, str(path), device, times, not given.no_check and given.part == 1, given.part))
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
            gc.collect()
    print(HEAD, *map(told, rows), sep="\n")
    print(f"{time.perf_counter() - began:.0f} s in all")
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
