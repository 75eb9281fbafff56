"""What a recording can plausibly hold: values beyond are mistakes, and one of them must not cost the whole build.

A value out of range is left out with a finding, and the rest is built. The limits lie far outside every published data
set, and inside what memory and the store's integers hold. The last four are those of stores that are read: what says of
itself more than that is damaged, or no cube.
"""

from __future__ import annotations

SECONDS = 3600.0  # longest stimulus or sound
SPIKE_SECONDS = 3600.0  # farthest spike from stimulus onset, on either side
WINDOW_SECONDS = 1e6  # farthest edge of a recorded window
FAR_SECONDS = 60.0  # a spike or an edge of a window so far from its stimulus is kept, and reported
SOUND_RATE = (100.0, 1e7)  # Hz
TRACE_RATE = (0.1, 1e7)  # Hz
BINS = 20_000_000  # of one stimulus
TRIALS = 65_535  # of one stimulus to one neuron, rejected ones included: counts of trials are two bytes
TRIAL_NUMBER = 2**31 - 1
INTEGER = 2**63 - 1
TESTS = 127
TEXT_BYTES = 64_000_000  # largest text file or table
TEXT = 100_000  # characters of one label
METADATA_BYTES = 16_000_000  # of one zarr.json
CHUNK_BYTES = 2**31 - 1  # decoded: blosc holds no more
CHUNKS = 1_000_000  # in one shard
FILES = 200_000  # of one array
