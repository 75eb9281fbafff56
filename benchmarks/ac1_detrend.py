"""Detrending, gating and spike detection of AC-1 traces: how many times faster than real time, on one core.

Usage: ``python benchmarks/ac1_detrend.py [--seconds 10]``. The goal is 20 times for the detrending at 10 kHz.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from strfcube.pipelines.membrane import detrend, find_spikes, gate

REPEATS = 10
GOAL = 20


def fastest(function, *arguments):
    """CPU seconds of the fastest of five runs, all threads together."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        function(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a trace")
    seconds = parser.parse_args().seconds
    rng = np.random.default_rng(0)
    for rate in (4000.0, 10_000.0):
        n = round(seconds * rate)
        trace = -60 + 0.01 * np.cumsum(rng.normal(size=n)) + rng.normal(size=n)
        flat = detrend(trace, rate)
        repeats = [flat + rng.normal(size=n).astype(np.float32) for _ in range(REPEATS)]
        steps = {
            "detrend": (fastest(detrend, trace, rate), seconds),
            f"gate {REPEATS} repeats": (fastest(gate, repeats, rate), seconds * REPEATS),
            "find spikes": (fastest(find_spikes, flat, rate), seconds),
        }
        for name, (cpu, signal) in steps.items():
            print(f"{rate / 1000:4g} kHz  {name:16} {1000 * cpu:8.1f} ms  {signal / cpu:8.0f} x real time")
        speed = seconds / steps["detrend"][0]
        if speed < GOAL:
            raise SystemExit(f"detrending is {speed:.0f} times faster than real time, the goal is {GOAL}")


if __name__ == "__main__":
    main()
