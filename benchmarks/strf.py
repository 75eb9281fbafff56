"""Receptive fields of all neurons, `ds.strf.fit_strf`, beside the time that its products take at least.

Cubes are those of epoch.py. Any ridge regression forms the products of lagged spectrograms with themselves and with the
responses; the limit is their number over the speed of one large product of matrices on this machine, and what reading
the PSTHs takes.

    python benchmarks/strf.py               all sizes
    python benchmarks/strf.py ns1 aa4       some
    python benchmarks/strf.py --store CUBE  a cube of one's own
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from epoch import DATASETS, arguments, write_cube

import strfcube

LAG_MS = 100


def speed():
    """Operations a second of a large product."""
    a = np.random.default_rng(0).normal(size=(2000, 2000))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a.T.copy()
        best = min(best, time.perf_counter() - start)
    return 2 * 2000**3 / best


def measure(name, path, rate):
    ds = strfcube.open(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        fitted = ds.strf.fit_strf(LAG_MS)
        taken.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    ds.strf.psth().compute()
    read = time.perf_counter() - start
    columns, bins = fitted.sizes["frequency"] * fitted.sizes["lag"], int(ds["n_bins"].sum())
    least = bins * columns * (columns + 2 * fitted.sizes["neuron"]) / rate
    print(
        f"| {name} | {fitted.sizes['neuron']} x {columns} | {bins} | {min(taken):.2f} | {least:.2f} + {read:.2f} | "
        f"{(peak - before) / 1e3:.0f} |"
    )


def main():
    parser = arguments(__doc__)
    parser.add_argument("--store", help="measure this cube instead")
    given = parser.parse_args()
    rate = speed()
    print(f"products: {rate / 1e9:.0f} thousand million operations a second")
    print(
        "| cube | neurons x weights | bins | fit, s | products + reading, s | memory, MB |\n|---|---|---|---|---|---|"
    )
    if given.store:
        measure(Path(given.store).name, given.store, rate)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or DATASETS:
            path = str(Path(folder) / f"{name}.zarr")
            write_cube(path, DATASETS[name])
            measure(name, path, rate)


if __name__ == "__main__":
    main()
