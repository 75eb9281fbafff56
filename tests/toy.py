"""A data set of anything: a pipeline that yields what a test wrote down."""

import math
import pickle
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from strfcube.records import (
    Audio,
    Finding,
    Length,
    Neuron,
    Option,
    Pipeline,
    Source,
    Stimulus,
    Survey,
    Trial,
)

RATE = 16000.0
FAST = {"spec": "mel", "bands": 4, "jobs": 0}  # of `strfcube.build`: a cheap spectrogram, no processes


class Toy(Pipeline):
    """Yields the records of `write_toy`."""

    options: ClassVar[tuple[Option, ...]] = (
        Option("loud", bool, False, "a switch"),
        Option("mode", str, "a", "a choice", ("a", "b")),
    )

    def survey(self, report):
        survey, findings = pickle.loads((self.raw / "survey.pkl").read_bytes())
        for finding in findings:
            report(finding)
        return survey

    def read(self, source, report):
        for record in pickle.loads((self.raw / source.payload).read_bytes()):
            if isinstance(record, Finding):
                report(record)
            elif isinstance(record, Exception):
                raise record
            else:
                yield record


def write_toy(folder, stimuli, neurons, records, findings=(), ready_made=None):
    """Write a raw folder and return its pipeline.

    `records` is {source id: [Trial, Trials, Finding or Exception, ...]}; sources come in its order.
    """
    raw = Path(folder)
    raw.mkdir(parents=True, exist_ok=True)
    sources = [Source(name, f"{number}.pkl") for number, name in enumerate(records)]
    survey = Survey(list(stimuli), list(neurons), sources, ready_made)
    (raw / "survey.pkl").write_bytes(pickle.dumps((survey, tuple(findings))))
    for source, found in zip(sources, records.values(), strict=True):
        (raw / source.payload).write_bytes(pickle.dumps(list(found)))
    return Toy(raw)


def tone(seconds, rate=RATE, hz=1000.0, dtype="f4"):
    """A sine of a tenth of full scale."""
    wave = 0.1 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    if dtype == "u1":
        return Audio(np.rint(wave * 127 + 128).astype("u1"), rate)
    full = np.iinfo(dtype).max if np.dtype(dtype).kind == "i" else 1
    return Audio((wave * full).astype(dtype), rate)


def make_stim(name, seconds=0.1, *, rate=RATE, audio=True, dtype="f4", hz=1000.0, length=None, **kwargs):
    """A stimulus with a tone, or without sound; `kwargs` go to `Stimulus`, all others into its `meta`."""
    fields = {k: kwargs.pop(k) for k in ("sound_onset", "sound_duration", "spectrogram") if k in kwargs}
    meta = {"stim_name": name, "stim_type": "tone", "stim_category": "tone"} | kwargs
    if length is None:
        length = Length.of_samples(round(seconds * rate), rate) if audio else Length(seconds, "table")
    sound = partial(tone, seconds, rate, hz, dtype) if audio else None
    return Stimulus(name, length, sound, meta=meta, **fields)


def make_neuron(name, source="s", *, trace=False, **meta):
    """A neuron of spikes, or of membrane potential."""
    return Neuron(name, source, {
        "cell_id": name, "animal": "x", "species": "toy", "area": "A1", "region": "A1", "area_label": "a1",
        "signal_type": "membrane_potential" if trace else "spikes", "units": "mV" if trace else "count",
    } | meta)  # fmt: skip


def spikes(stimulus, neuron, repeat, times_ms, **kwargs):
    """A trial from spike times in ms."""
    return Trial(stimulus, neuron, repeat, np.asarray(times_ms, float) / 1000, **kwargs)


def random_toy(folder, *, n_stims=5, n_neurons=6, n_sources=3, repeats=4, seconds=0.1, post=0.2, seed=0, holes=True):
    """Random spikes: ragged repeats, pairs that were never presented, trials without a spike.

    Returns the pipeline and {(stimulus, neuron): [times in ms of each repeat]}.
    """
    rng = np.random.default_rng(seed)
    stimuli = [make_stim(f"stim{s}", seconds * (1 + s % 3)) for s in range(n_stims)]
    neurons = [make_neuron(f"n{n}", f"source{n % n_sources}", group=f"g{n % 2}") for n in range(n_neurons)]
    truth, records = {}, {f"source{i}": [] for i in range(n_sources)}
    for neuron in neurons:
        for s, stimulus in enumerate(stimuli):
            count = int(rng.integers(0, repeats + 1)) if holes else repeats
            length = stimulus.length.seconds
            for r in range(count):
                times = rng.integers(-50_000, int((length + post) * 1e6), rng.poisson(8)) / 1000  # us
                times = times if (s + r) % 5 else times[:0]
                truth.setdefault((stimulus.id, neuron.id), []).append(np.sort(times))
                window = (-0.05, length + post)
                records[neuron.source].append(
                    spikes(stimulus.id, neuron.id, r + 1, times, window=window, file=f"{neuron.source}.txt")
                )
    return write_toy(folder, stimuli, neurons, records), truth


def recount(truth, ds, dt_us):
    """Response of a cube counted again, spike by spike, in whole microseconds."""
    out = np.full(ds["response"].shape, np.nan, np.float32)
    at = {d: {str(v): i for i, v in enumerate(ds[d].values)} for d in ("stim", "neuron")}
    bins = ds["n_bins"].values
    for (stim, neuron), trials in truth.items():
        s, n = at["stim"][stim], at["neuron"][neuron]
        for r, times in enumerate(trials):
            out[s, n, r, : bins[s]] = 0
            for t in times:
                k = math.floor(round(t * 1000) / dt_us)
                if 0 <= k < bins[s]:
                    out[s, n, r, k] += 1
    return out
