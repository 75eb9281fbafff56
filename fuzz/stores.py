"""Damaged and hostile cubes: each is refused in one sentence, or read as it was; nothing hangs, nothing grows.

    python fuzz/stores.py --count 5000 --seed 0 --seconds 3600

Case n is a copy of one small cube, mutated as the random numbers of seed n say: bits, lengths, files that are gone,
doubled, swapped or no files at all, links, JSON with absurd values, shapes, dtypes, codecs and names, shard indexes and
chunks that lie under a right checksum. Of two in five the metadata are sealed again, as somebody would who means it.
The cube is verified, opened, and read by one more reader, in a process of its own that is ended when a case takes too
long. Prints what every case came to by kind, and each case that is a fault: an error that is not strfcube's own, a
value that is not in the cube, too much time, too much memory. Exit code 1 if there is any. `--only N` runs one case.

A reader may give the values that were built. Others are a fault, but for one case: where somebody wrote them under
right checksums (sealed, or into a chunk), `verify` has to tell of them, zarr-python has to read the same, and nothing
may be made of them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

import harness

HERE = Path(__file__).resolve()
SECONDS, MEGABYTES = 5.0, 300.0  # of a case; the memory beyond what the sound cube takes
ABSURD = (-1, 0, 1, 7, 2**31, 2**62, 2**63, 1e300, 1.5, "", "x", "../x", "/etc/passwd", "NaN", None, True, [], {}, [[]],
          [2**40, 2**40], [0], {"name": "x"}, "\ud800", "a\x00b", float("nan"))  # fmt: skip
READERS = ("engine", "inspect", "rebin", "concat", "save", "export", "batch")
MAKERS = ("rebin", "concat", "save")  # make another cube, which would be verified as good


# Mutations ----------------------------------------------------------------------------------------------------


def files_of(cube):
    return sorted(p for p in cube.rglob("*") if p.is_file() and not p.is_symlink())


def chunks_of(cube):
    return [p for p in files_of(cube) if p.name != "zarr.json"]


def flip(cube, rng):
    file = rng.choice(files_of(cube))
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def cut(cube, rng):
    file = rng.choice(files_of(cube))
    os.truncate(file, rng.randrange(file.stat().st_size))


def lengthen(cube, rng):
    file = rng.choice(files_of(cube))
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.choice((1, 4, 1000))))


def blank(cube, rng):
    file = rng.choice(chunks_of(cube))
    file.write_bytes(bytes(file.stat().st_size))


def delete(cube, rng):
    rng.choice(files_of(cube)).unlink()


def delete_folder(cube, rng):
    shutil.rmtree(rng.choice([p for p in sorted(cube.rglob("*")) if p.is_dir()]))


def swap(cube, rng):
    one, other = rng.sample(files_of(cube) if rng.random() < 0.3 else chunks_of(cube), 2)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def double(cube, rng):
    one, other = rng.sample(chunks_of(cube), 2)
    shutil.copy(one, other)


def stray(cube, rng):
    place = rng.choice([cube, *(p for p in sorted(cube.rglob("*")) if p.is_dir())])
    if rng.random() < 0.5:
        (place / rng.choice(("notes.txt", "9", "c", "zarr.json.partial"))).mkdir(exist_ok=True)
    else:
        (place / "0.tmp").write_bytes(rng.randbytes(100))


def no_file(cube, rng):
    file = rng.choice(files_of(cube))
    file.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    else:
        file.symlink_to(("/dev/zero", file.name, str(cube))[kind - 2])


def loop(cube, rng):
    place = rng.choice([cube, *(p for p in sorted(cube.rglob("*")) if p.is_dir())])
    (place / rng.choice(("loop", "c", "trials"))).exists() or (place / "loop").symlink_to(cube)


def somewhere(value, rng):
    """A random place in a JSON value: its container, and the key in it."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            return value, key
        value = inner


def metadata(cube, rng):
    """One value anywhere in the metadata, of the root or of an array."""
    file = (
        cube / "zarr.json" if rng.random() < 0.7 else rng.choice([p for p in files_of(cube) if p.name == "zarr.json"])
    )
    found = json.loads(file.read_text())
    for _ in range(rng.choice((1, 1, 3))):
        container, key = somewhere(found, rng)
        if rng.random() < 0.25:
            del container[key]
            if not found:
                break
        elif isinstance(container, dict) and rng.random() < 0.2:
            container[str(rng.choice(ABSURD))] = container.pop(key)
        else:
            container[key] = rng.choice(ABSURD)
    file.write_text(json.dumps(found))


def array_metadata(cube, rng):
    """Shape, chunks, dtype, fill value, codecs, dimensions or attributes of one array, in both places."""
    root = json.loads((cube / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    name = rng.choice([n for n, m in nodes.items() if m["node_type"] == "array"])
    node = nodes[name]
    what = rng.randrange(8)
    if what == 0:
        node["shape"][rng.randrange(len(node["shape"]))] = rng.choice((0, -1, 1, 10**6, 10**12, 2**62, 2**70, "5", 1.5))
    elif what == 1:
        outer = node["chunk_grid"]["configuration"]["chunk_shape"]
        outer[rng.randrange(len(outer))] = rng.choice((0, -1, 1, 10**9, 2**62, None))
    elif what == 2:
        node["data_type"] = rng.choice(("uint8", "float64", "string", "object", "complex64", "r16", 5, {"name": "x"}))
    elif what == 3:
        node["fill_value"] = rng.choice(ABSURD)
    elif what == 4:
        node["codecs"] = rng.choice(
            ([], [{"name": "bytes"}], [{"name": "pickle"}], [{"name": "gzip", "configuration": {"level": 5}}], None)
        )
    elif what == 5 and node["codecs"][0]["name"] == "sharding_indexed":
        inner = node["codecs"][0]["configuration"]
        inner["chunk_shape"] = rng.choice(([1], [1, 1, 1, 1], [0, 0, 0, 0], [2**40] * 4, None))
    elif what == 6:
        node["dimension_names"] = rng.choice((None, [], ["x"] * 4, ["time"], [None], "stim", [1]))
    else:
        node["attributes"] = rng.choice(
            ({"_FillValue": 0}, {"scale_factor": 2}, {"units": "days since 1"}, {}, [], "x",
             {"coordinates": "../x response"}, {"units": "s", "dtype": "object"})
        )  # fmt: skip
    (cube / "zarr.json").write_text(json.dumps(root))
    (cube / name / "zarr.json").write_text(json.dumps(node))


def names(cube, rng):
    root = json.loads((cube / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    old = rng.choice(list(nodes))
    new = rng.choice(("../x", "/x", "", "..", "a/../../x", "response/", "c", "x" * 5000, "trials", "response", "\x00"))
    nodes[new] = nodes.pop(old) if rng.random() < 0.5 else nodes[old]
    (cube / "zarr.json").write_text(json.dumps(root))


def root_text(cube, rng):
    file = cube / "zarr.json"
    text = file.read_bytes()
    kind = rng.randrange(6)
    if kind == 0:
        file.write_bytes(text + b" " * 100_000_000)
    elif kind == 1:
        file.write_bytes(b"[" * 200_000)
    elif kind == 2:
        file.write_bytes(b'{"attributes": {"format_version": 1, "x": ' + b'{"x":' * 50_000)
    elif kind == 3:
        file.write_bytes(text.replace(b'"node_type"', b'"node_type": "array", "node_type"', 3))
    elif kind == 4:
        file.write_bytes(text.replace(b"title", b"\xff\xfe\x00"))
    else:
        found = json.loads(text)
        found.pop(rng.choice(list(found)))
        file.write_text(json.dumps(found))


def index(cube, rng):
    """Offsets and sizes of a shard that lie, under a right checksum."""
    import google_crc32c

    file = rng.choice([p for n in ("response", "stimulus", "audio/samples", "trials/spike_time", "trials/row_size")
                       for p in (cube / n / "c").rglob("*") if p.is_file()])  # fmt: skip
    data = bytearray(file.read_bytes())
    count = 1 + rng.randrange(max(1, min(4, (len(data) - 4) // 32)))
    for slot in range(count):
        pair = rng.choice(((0, 2**63), (2**62, 10), (2**64 - 2, 5), (0, 0), (len(data), 1), (0, len(data)), (5, 20),
                           (2**64 - 1, 2**64 - 1)))  # fmt: skip
        struct.pack_into("<QQ", data, len(data) - 4 - 16 * (slot + 1), *pair)
    start = len(data) - 4 - 16 * count
    for size in (16 * count, 16 * 5, 16, 16 * 30):  # whatever the length of the index is, one of them may be right
        if size + 4 <= len(data) and start >= 0:
            struct.pack_into("<I", data, len(data) - 4, google_crc32c.value(bytes(data[-4 - size : -4])))
            if rng.random() < 0.5:
                break
    file.write_bytes(data)


def frame(cube, rng):
    """A chunk that says something else of itself, under a right checksum."""
    import google_crc32c

    file = rng.choice([p for n in ("response", "stimulus", "trials/spike_time")
                       for p in (cube / n / "c").rglob("*") if p.is_file()])  # fmt: skip
    data = bytearray(file.read_bytes())
    size = struct.unpack_from("<I", data, 12)[0] if len(data) > 24 else 0
    if 16 < size < len(data) - 4:
        place = rng.choice((0, 2, 3, 4, 5, 7, 8, 12, 14, 16, 17, 20, rng.randrange(size)))
        data[place] = rng.randrange(256)
        struct.pack_into("<I", data, size, google_crc32c.value(bytes(data[:size])))
    file.write_bytes(data)


KINDS = (flip, flip, cut, lengthen, blank, delete, delete_folder, swap, double, stray, no_file, loop, metadata,
         metadata, array_metadata, array_metadata, names, root_text, index, frame)  # fmt: skip


def mutated(sound, folder, seed):
    """A mutated copy of a cube, what was done to it, and whether it was sealed again."""
    rng = random.Random(seed)
    cube = Path(shutil.copytree(sound, folder / "cube.zarr"))
    kind = rng.choice(KINDS)
    kind(cube, rng)
    again = rng.random() < 0.4
    if again:
        try:
            from strfcube.cube.metadata import Root, sealed, strange
            from strfcube.transport.connect import connect

            files = connect(str(cube), "")
            if any(map(strange, Root.read(files).nodes.values())):  # of a million files, say: it would take for ever
                raise ValueError
            data = sealed(files)
            (cube / "zarr.json").write_bytes(data)
        except Exception:  # it cannot be sealed, and stays as it is
            again = False
    return cube, kind.__name__, again


# Reading ------------------------------------------------------------------------------------------------------


def values(ds):
    """What is compared of a cube that was opened."""
    import numpy as np

    small = ("n_repeats", "n_bins", "duration", "time", "frequency")
    text = [np.array([str(v) for n in ("stim", "neuron", "area") for v in ds[n].values])]
    return text + [ds[n].values for n in ("response", "stimulus", *small)]


def viewed(source):
    """What is compared of a batch."""
    from strfcube.loading import CubeView

    view = CubeView(source, cache="none")
    batch = view.batch(range(len(view)))
    return [batch["responses"], batch["stims"]]


def reading(name, cube, sound, folder):
    """What a reader makes of a cube, as arrays; None where there is nothing to compare."""
    import numpy as np
    import xarray as xr

    import strfcube
    from strfcube.builder.save import save as write
    from strfcube.loading import CubeView

    if name == "open":
        return values(strfcube.open(cube))
    if name == "engine":
        return values(xr.open_dataset(cube, engine="strfcube"))
    if name == "inspect":
        from strfcube.cli.main import cli

        cli.main(["inspect", str(cube)], standalone_mode=False)
        return None
    if name == "rebin":
        return values(strfcube.open(strfcube.rebin(cube, 10, out=folder / "rebinned.zarr", jobs=0)))
    if name == "concat":
        pool = strfcube.concat([cube, sound], ["a", "b"], duplicates="keep")
        return values(strfcube.open(write(pool, folder / "pool.zarr")))
    if name == "save":
        return values(strfcube.open(write(strfcube.open(cube).isel(stim=[0, 1]), folder / "saved.zarr")))
    if name == "export":
        from strfcube.analysis.export import export

        return [np.frombuffer(Path(file).read_bytes(), "u1") for file in export(cube, folder / "tables.csv")]
    waves = CubeView(cube, cache="none", mode="waveform", audio_fs=8000).with_stimulus()
    return [*viewed(cube), waves.batch(range(len(waves)))["stims"]]


def same(found, truth):
    import numpy as np

    return len(found) == len(truth) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(found, truth, strict=True)
    )


def attempt(name, cube, sound, folder):
    """What came of a reader, its values, and the message of a fault."""
    import strfcube

    try:
        return "read", reading(name, cube, sound, folder), ""
    except strfcube.StrfcubeError as error:
        text = str(error)
        told = "\n" not in text and len(text) < 3000
        return ("refused", None, "") if told else ("FAULT", None, f"no sentence: {text[:300]!r}")
    except BaseException as error:
        return "FAULT", None, f"{type(error).__name__}: {str(error)[:200]}"


def judged(name, cube, found, truth, forged, verified):
    """Why values that were read are a fault; empty where they are none.

    Parameters
    ----------
    forged : bool
        Whether the values of the cube may be others, under right checksums.
    verified : str
        What ``verify`` made of the cube.
    """
    import xarray as xr

    if found is None or same(found, truth):
        return ""
    if not forged or name in MAKERS:
        return "other values than were built"
    if verified == "nothing":
        return "other values than were built, of which verify says nothing"
    if name == "export":
        return ""
    try:  # what somebody wrote there, as another library reads it
        there = xr.open_zarr(cube, chunks=None)
        there = [viewed(there), found[2:]] if name == "batch" else [values(there), []]
    except Exception as error:
        return f"values that zarr cannot read: {type(error).__name__}: {str(error)[:200]}"
    return "" if same(found, [*there[0], *there[1]]) else "other values than zarr reads there"


def serve(sound, scratch):
    """Read seeds from standard input, and answer each with what came of it."""
    import io
    import warnings

    import strfcube

    warnings.simplefilter("ignore")
    truth = {}
    for name in ("open", *READERS):
        folder = Path(tempfile.mkdtemp(dir=scratch))
        with contextlib.redirect_stdout(io.StringIO()):
            truth[name] = reading(name, sound, sound, folder)
    usual = harness.peak()
    print("ready", flush=True)
    for line in sys.stdin:
        seed = int(line)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        cube, kind, again = mutated(sound, folder, seed)
        begun, before = time.process_time(), harness.peak(reset=True)
        results, faults = {}, []
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                wrong = strfcube.verify(cube)
                results["verify"] = "found" if wrong else "nothing"
                if any("\n" in sentence for sentence in wrong):
                    faults.append(f"verify: no sentence: {wrong}")
            except strfcube.StrfcubeError:
                results["verify"] = "refused"
            except BaseException as error:
                faults.append(f"verify: {type(error).__name__}: {str(error)[:200]}")
            given = {}
            for name in ("open", READERS[seed % len(READERS)]):
                results[name], given[name], why = attempt(name, cube, sound, folder)
                faults += [f"{name}: {why}"] if why else []
        grown, used = harness.peak() - max(before, usual), time.process_time() - begun
        if grown > MEGABYTES:
            faults.append(f"{grown:.0f} MB more than the sound cube takes")
        if used > SECONDS:
            faults.append(f"{used:.1f} s of the processor")
        if results.get("verify") == "nothing" and results["open"] == "refused":
            faults.append("verify: nothing, of a cube that cannot be opened")
        for name, found in given.items():
            forged = again or kind == "frame"
            if why := judged(name, cube, found, truth[name], forged, results.get("verify", "")):
                results[name] = "FAULT"
                faults.append(f"{name}: {why}")
        shutil.rmtree(folder, ignore_errors=True)
        what = kind + (", sealed" if again else "")
        print(json.dumps([results, [f"({what}) {fault}" for fault in faults]]), flush=True)


# The parent ---------------------------------------------------------------------------------------------------


def main():
    if sys.argv[1:2] == ["--child"]:
        serve(*map(Path, sys.argv[2:4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="the first case; go on from where a run ended")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", type=int, help="one case")
    args = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    from toy import FAST, random_toy

    import strfcube

    begun, faults, done, progress = time.monotonic(), 0, 0, harness.Progress()
    counts = collections.defaultdict(collections.Counter)
    with harness.scratch() as folder:
        sound = strfcube.build(random_toy(Path(folder) / "raw")[0], out=Path(folder) / "sound.zarr", **FAST)
        child = harness.Child([sys.executable, str(HERE), "--child", sound, folder])
        seeds = [args.only] if args.only is not None else range(args.seed, args.seed + args.count)
        with contextlib.suppress(KeyboardInterrupt):  # the table is of what was done until then
            for seed in seeds:
                if time.monotonic() - begun > args.seconds:
                    break
                progress("stores", seed)
                results, wrong = child.ask(seed)
                done += 1
                faults += bool(wrong)
                for name, result in results.items() if isinstance(results, dict) else [("process", results)]:
                    counts[name][result] += 1
                for what in wrong:
                    print(f"FAULT {seed}: {what}", flush=True)
        child.end()
    for name, count in sorted(counts.items()):
        print(f"{name:<8} {', '.join(f'{number:,} {what}' for what, number in count.most_common())}")
    print(f"stores: {done:,} cases from seed {args.seed}, {faults} faults, {time.monotonic() - begun:.0f} s")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
