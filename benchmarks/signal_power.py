"""Signal power of simulated neurons with known signals: bias, scatter, standard error and p_signal.

    python benchmarks/signal_power.py [--neurons 200]

For each number of repeats and kind of windows: the bias in standard errors of its mean, the scatter over that of the
same recordings complete and what the lost data explain of it, the told standard error over the true scatter, and for
recordings without a signal how often p_signal is below 0.05 and 0.01. ``one short``: the first repeat ends after a
tenth; ``random``: every repeat has a window of its own, from a third of the clip to all of it. Signals are white or
smooth in time, noise is Gaussian or Poisson's.
"""

from __future__ import annotations

import argparse

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from strfcube.analysis import quality

STIMS, BINS, SNR, COUNT = 4, 400, 0.3, 0.3


def responses(rng, neurons, repeats, noise, width, signal):
    """Responses [shape=(stim, neuron, repeat, time)] and what in them repeats."""
    truth = rng.normal(size=(STIMS, neurons, BINS))
    if width:
        truth = gaussian_filter1d(truth, width)
        truth /= truth.std()
    if noise == "Poisson":
        truth = COUNT * np.exp(0.5 * truth * signal - 0.125 * signal)
        return rng.poisson(truth[:, :, None], (STIMS, neurons, repeats, BINS)).astype(float), truth
    truth = np.sqrt(SNR) * truth * signal
    return truth[:, :, None] + rng.normal(size=(STIMS, neurons, repeats, BINS)), truth


def cut(rng, x, windows):
    """The same with windows that differ."""
    x = x.copy()
    if windows == "one short":
        x[:, :, 0, BINS // 10 :] = np.nan
    elif windows == "random":
        start = rng.integers(0, BINS // 3, (*x.shape[:3], 1))
        stop = rng.integers(2 * BINS // 3, BINS + 1, (*x.shape[:3], 1))
        x[(np.arange(BINS) < start) | (np.arange(BINS) >= stop)] = np.nan
    return x


def measured(x):
    """The measures, and the number of repeats in each bin."""
    array = xr.DataArray(x, dims=("stim", "neuron", "repeat", "time"), attrs={"units": "count"})
    return quality.measures(array), (~np.isnan(x)).sum(2)


def power(truth, r):
    """Variance of the signal in the bins that two repeats observed, about its mean in those that any did."""
    mean = np.where(r > 0, truth, 0).sum(-1, keepdims=True) / (r > 0).sum(-1, keepdims=True)
    bins, seen = (r > 1).sum(-1), (r > 0).sum(-1)
    each = np.where(r > 1, (truth - mean) ** 2, 0).sum(-1) / bins * seen / (seen - 1)
    return (each * bins).sum(0) / bins.sum(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=200)
    neurons = parser.parse_args().neurons
    print("noise    signal  windows    R   bias/SE   bias %   SD/dense  explained   told SE/SD   p < .05   p < .01")
    for noise, width in (("Gauss", 0), ("Gauss", 3), ("Poisson", 3)):
        for windows in ("whole", "one short", "random"):
            for repeats in (2, 3, 5, 10, 20):
                rng = np.random.default_rng([repeats, width])
                whole, truth = responses(rng, neurons, repeats, noise, width, 1)
                q, r = measured(cut(rng, whole, windows))
                error = q["signal_power"].values - power(truth, r)
                dense, full = measured(whole)
                scatter = (dense["signal_power"].values - power(truth, full)).std()
                pairs = np.mean(1 / (r[r > 1] * (r[r > 1] - 1.0))) * repeats * (repeats - 1)
                explained = np.sqrt(max(pairs, np.mean(1 / r[r > 1]) * repeats) / (r > 1).mean())
                told = np.sqrt((q["signal_power_se"].values ** 2).mean()) / error.std()
                silent, _ = responses(rng, neurons, repeats, noise, width, 0)
                p = measured(cut(rng, silent, windows))[0]["p_signal"].values
                print(
                    f"{noise:8s} {'smooth' if width else 'white':7s} {windows:9s} {repeats:2d} "
                    f"{error.mean() / (error.std() / np.sqrt(neurons)):8.2f} "
                    f"{100 * error.mean() / truth.var(-1).mean():9.1f}"
                    f"{error.std() / scatter:10.2f} {explained:10.2f} {told:12.2f} "
                    f"{(p < 0.05).mean():10.3f} {(p < 0.01).mean():9.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
