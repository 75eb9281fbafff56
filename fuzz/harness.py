"""What the fuzzers share: cases by number, in a process of their own with limits on time and memory."""

from __future__ import annotations

import argparse
import collections
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SECONDS, MEGABYTES = 5.0, 500.0  # of the processor, and of memory, that a case may take
PATIENCE = 60.0  # s of the clock after which a case hangs: the machine may be busy
CEILING = 6 << 30  # bytes of address space that the system lets a case have


def peak(*, reset: bool = False) -> float:
    """Most memory of this process since the last reset, in megabytes."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def flip(data, rng):
    """Between one and a hundred bits changed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8, 100))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data, rng):
    """The beginning only."""
    return data[: rng.randrange(len(data) + 1)]


def splice(data, rng):
    """A piece put in again somewhere else, left out, or replaced by zeros or by random bytes."""
    size = rng.choice((1, 4, 100, 4096))
    at, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    piece = data[at : at + size]
    what = rng.randrange(4)
    if what == 0:
        return data[:to] + piece + data[to:]
    if what == 1:
        return data[:at] + data[at + size :]
    return data[:at] + (bytes(len(piece)) if what == 2 else rng.randbytes(len(piece))) + data[at + size :]


def number(data, rng):
    """A number of four or eight bytes replaced by an absurd one, as lengths and offsets in headers are."""
    if len(data) < 16:
        return data
    size = rng.choice((2, 4, 8))
    value = rng.choice((0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)) % 2 ** (8 * size)
    at = rng.randrange(min(len(data), rng.choice((100, 4096, len(data)))) - size if len(data) > 100 else 8)
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


BYTES = (flip, flip, cut, splice, number)


def serve(run):
    """Answer the numbers on standard input, each with ``[outcome, faults]`` of ``run(number)``; what a child does."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (CEILING, CEILING))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    out.write("ready\n")
    for line in sys.stdin:
        peak(reset=True)
        begun = time.process_time()
        outcome, faults = run(int(line))
        used, memory = time.process_time() - begun, peak()
        if used > SECONDS:
            faults.append(f"{used:.1f} s of the processor")
        if memory > MEGABYTES:
            faults.append(f"{memory:.0f} MB")
        out.write(json.dumps([outcome, faults]) + "\n")


class Child:
    """A process that runs cases, and is started again after one that it did not survive."""

    def __init__(self, command):
        self.command, self.process = command, None

    def ask(self, case):
        """What came of a case: its outcome and its faults; a process that died or hung is one."""
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True, bufsize=1,
                                            env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
            if self.process.stdout.readline() != "ready\n":
                sys.exit(f"this does not start: {' '.join(self.command)}")
        self.process.stdin.write(f"{case}\n")
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if ready.select(PATIENCE) else None
        if line:
            return json.loads(line)
        code = self.end()
        return ["hung", [f"no answer in {PATIENCE:g} s"]] if line is None else ["died", [f"the process died: {code}"]]

    def end(self):
        """End it; how it did."""
        if self.process is None:
            return None
        self.process.kill() if self.process.poll() is None else None
        code = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None
        return code


class Progress:
    """Says on standard error, once a minute, where a run is: it can be gone on with from there."""

    def __init__(self):
        self.next = time.monotonic() + 60

    def __call__(self, what, case):
        if time.monotonic() > self.next:
            self.next += 60
            print(f"{what}: at case {case:,}", file=sys.stderr, flush=True)


def scratch():
    """A folder in memory where there is one: cases write thousands of small files."""
    return tempfile.TemporaryDirectory(
        prefix="strfcube-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    )


def main(file, doc, kinds, prepare, after=None):
    """Command line of a fuzzer.

    Parameters
    ----------
    file : str
        The script, which is run again as ``script --child kind folder``.
    kinds : sequence of str
        What can be fuzzed.
    prepare : callable
        Writes the valid input of a kind into a folder.
    after : callable, optional
        Gives the faults of a case that ended its process, or held it up: ``after(kind, folder, case)``.

    Returns
    -------
    int
        Exit code: 1 where there was a fault.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0, help="the first case; go on from where a run ended")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each kind")
    parser.add_argument("--kind", choices=kinds, action="append", help="only this, and others so given")
    args = parser.parse_args()
    faults, progress = 0, Progress()
    for kind in args.kind or kinds:
        begun, counts, done = time.monotonic(), collections.Counter(), 0
        with scratch() as folder:
            prepare(kind, Path(folder))
            child = Child([sys.executable, file, "--child", kind, folder])
            with suppress(KeyboardInterrupt):  # the table is of what was done until then
                for case in range(args.seed, args.seed + args.count):
                    if time.monotonic() - begun > args.seconds:
                        break
                    progress(kind, case)
                    outcome, wrong = child.ask(case)
                    if after and outcome in ("died", "hung"):
                        wrong = after(kind, Path(folder), case)
                    counts[outcome] += 1
                    done += 1
                    faults += bool(wrong)
                    for what in wrong:
                        print(f"{kind} {case}: {what}", flush=True)
            child.end()
        told = ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common())
        print(f"{kind}: {done:,} cases from {args.seed} on in {time.monotonic() - begun:.0f} s: {told}", flush=True)
    print(f"{faults} faults")
    return 1 if faults else 0
