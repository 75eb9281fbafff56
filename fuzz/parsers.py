"""Damaged and absurd raw files: each is a finding or one sentence, and no time comes out that is not in the file.

    python fuzz/parsers.py --count 10000 --seed 0 --seconds 3600 --kind aa1

Case n of a kind is a small valid raw folder, as the writers of the tests make it, with one to three files mutated as
the random numbers of seed n say: bits, lengths, numbers, lines, fields and trials of text, datasets and attributes of
HDF5, values of MATLAB files, members of archives, headers of wavs, files that are swapped, doubled, gone or no files.
It is listed, its sources are parsed into what a build keeps of them, and its sounds are read. Prints what came of the
cases, and each that is a fault: an error that is not strfcube's own or no sentence, a spike time that a lenient reader
of one's own does not find in the files, more than 5 s of the processor or 500 MB. Exit code 1 if there is any.

A damaged file can end its process, or hold it up, within libhdf5 or scipy: in a build that is a worker, and the file a
finding. Such a case is built as a user would, and is a fault if that fails.
"""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import harness

KINDS = ("aa1", "aa2", "aa4", "ac1", "ns1", "nat4")
_WORD = re.compile(rb"[^\s,;\"']+")
_ABSURD = (
    *b"nan inf -inf 1e300 -1e300 1e-320 0 -0 -999 999999999999 9.3e9 x 0x10 1_000 1.2.3 5-3 -- +. 1e STIM_".split(),
    b"", b"\xd9\xa1", b"\0", b"\xff", b"9" * 400,
)  # fmt: skip
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_KNOWN = {}  # numbers of files, by inode, size and time
_LARGE = 4 << 20  # bytes of a file that the fuzzer makes


# Mutations ----------------------------------------------------------------------------------------------------


def word(data, rng):
    """A number or name of a text replaced by an absurd one."""
    found = [m.span() for m in _WORD.finditer(data)]
    if not found:
        return rng.choice(_ABSURD)
    start, stop = rng.choice(found)
    return data[:start] + rng.choice(_ABSURD) + data[stop:]


def lines(data, rng):
    """Lines in another order, doubled many times, gone, joined, or ended in another way."""
    rows = data.split(b"\n")
    at = rng.randrange(len(rows))
    what = rng.randrange(6)
    if what == 0:
        rng.shuffle(rows)
    elif what == 1:
        rows[at:at] = [rows[at]] * min(rng.choice((1, 1, 10, 10, 1000, 70_000)), _LARGE // (len(rows[at]) + 1))
    elif what == 2:
        del rows[at]
    elif what == 3:
        rows[at] = b"\0" * 10 + rows[at]
    return (b"" if what == 4 else b"\r\n" if what == 5 else b"\n").join(rows)


def scale(data, rng):
    """Every number of a text times a thousand, or a thousandth."""
    factor = rng.choice((1e3, 1e-3, -1, 1e15))

    def times(match):
        with suppress(ValueError):
            return f"{float(match[0]) * factor:.3f}".encode()
        return match[0]

    return _WORD.sub(times, data[:200_000])


TEXT = (word, word, lines, lines, scale, *harness.BYTES)


def hdf5(path, rng):
    """An attribute or dataset of an HDF5 file made absurd, doubled or removed."""
    import h5py
    import numpy as np

    with h5py.File(path, "a") as file:
        found = []
        file.visititems(lambda name, item: found.append(name))
        if not found:
            return
        name = rng.choice(found)
        item, what = file[name], rng.randrange(5)
        odd = rng.choice(
            (np.nan, np.inf, 1e300, -1, 0, 10**18, "x", b"\xff", [1.0, 2.0], np.zeros((2, 2)), np.array([], float))
        )
        if what == 0 and len(item.attrs):
            item.attrs[rng.choice(list(item.attrs))] = odd
        elif what == 1 and isinstance(item, h5py.Dataset):
            values = np.atleast_1d(item[()]).astype(float)
            del file[name]
            if len(values):
                values[rng.randrange(len(values))] = odd if isinstance(odd, float) else -999
            file[name] = values
        elif what == 2:
            del file[name]
            file[name] = odd
        elif what == 3:
            file.copy(name, name + rng.choice(("1", "0", "x", "9" * 30)))
        else:
            file[name + "-link"] = h5py.SoftLink(rng.choice(("/" + name, "/nothing", ".")))


def matlab(path, rng):
    """A value somewhere in a MATLAB file made absurd."""
    import numpy as np
    from scipy.io import loadmat, savemat

    content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    if not content:
        return
    value = content[rng.choice(list(content))]
    scalars = [np.array([[value]]) for value in (np.nan, np.inf, 1e300, -1.0, "x", 1 + 1j, 10**18)]
    odd = rng.choice([*scalars, np.zeros((0, 0)), np.zeros((2, 3))])
    while True:
        if value.dtype.names and value.size:
            name, index = rng.choice(value.dtype.names), rng.randrange(value.size)
            inner = value.flat[index][name]
            if (
                not isinstance(inner, np.ndarray)
                or inner.dtype.kind not in "OV"
                or not inner.size
                or rng.random() < 0.1
            ):
                value[name].flat[index] = odd
                break
            value = inner
        elif value.dtype == object and value.size:
            index = rng.randrange(value.size)
            inner = value.flat[index]
            if not isinstance(inner, np.ndarray) or inner.dtype.kind not in "OV" or not inner.size:
                value.flat[index] = odd
                break
            value = inner
        else:
            if value.dtype.kind == "f" and value.size:
                value.flat[rng.randrange(value.size)] = rng.choice((np.nan, np.inf, 1e300, -1e6))
            break
    savemat(path, content)


def tgz(data, rng):
    """An archive of a recording with a member mutated, doubled or gone."""
    files = _members(data)
    name = rng.choice(list(files))
    what = rng.randrange(6)
    if what == 0:
        del files[name]
    elif what == 1:
        files[name.replace("resp", "stim") if rng.random() < 0.5 else name + ".csv"] = files[name]
    elif name.endswith(".h5") and what > 2:
        temporary = Path(f"/dev/shm/strfcube-fuzz-{os.getpid()}.h5")
        temporary.write_bytes(files[name])
        try:
            hdf5(temporary, rng)
            files[name] = temporary.read_bytes()
        finally:
            temporary.unlink()
    else:
        files[name] = rng.choice(TEXT)(files[name], rng)
    return _packed(files)


def _members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}


def _packed(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def mutate(path, rng):
    """One file, in a way that its kind suggests or in any; it is another file afterwards, not the linked one."""
    data = path.read_bytes()
    path.unlink()
    if rng.random() < 0.6:
        with suppress(Exception):  # what the libraries cannot change is left as it is
            if path.suffix in (".h5", ".mat") and data:
                path.write_bytes(data)
                (hdf5 if path.suffix == ".h5" else matlab)(path, rng)
                return
            if path.suffix == ".tgz":
                path.write_bytes(tgz(data, rng))
                return
    path.write_bytes(data)
    binary = path.suffix in (".h5", ".mat", ".tgz", ".zip", ".wav", "") and path.name[:5] not in (
        "spike",
        "stim1",
        "stim2",
    )
    path.write_bytes(rng.choice(harness.BYTES if binary else TEXT)(data, rng)[:_LARGE])


def spoil(folder, rng):
    """One to three changes to a folder; which files they touched."""
    touched = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        files = sorted(
            p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and not p.is_symlink()
        )
        path, what = rng.choice(files), rng.randrange(12)
        touched.append(path)
        if what == 0:
            path.unlink()
        elif what == 1:
            other = rng.choice([p for p in files if p.suffix == path.suffix])
            data = other.read_bytes()
            path.unlink()
            path.write_bytes(data)
        elif what == 2:
            copy = path.with_name(rng.choice(("2", "x", "spike7", "stim7", "Copy of " + path.name)))
            data = path.read_bytes()
            if copy.is_file():
                copy.unlink()  # a link to the file of all cases
            copy.is_dir() or copy.write_bytes(data)
        elif what == 3:
            path.unlink()
            kind = rng.randrange(3)
            path.mkdir() if kind == 0 else path.symlink_to(("/nothing", path.name)[kind - 1])
        else:
            mutate(path, rng)
    return touched


# Lenient readers ----------------------------------------------------------------------------------------------
# Everything in a file that may be a time, in ns. They share no code with the pipelines.


def once(read, path):
    """What a reader finds in a file, kept: most files are those of the case before."""
    state = path.stat()
    key = state.st_ino, state.st_size, state.st_mtime_ns
    if key not in _KNOWN:
        _KNOWN[key] = read(path)
        if len(_KNOWN) > 1000:
            _KNOWN.pop(next(iter(_KNOWN)))
    return _KNOWN[key]


def numbers_of_text(path):
    values = [float(m[0]) for m in _NUMBER.finditer(path.read_bytes())]
    return {round(value * 1e6) for value in values if abs(value) < 1e8}


def numbers_of_hdf5(path):
    import h5py
    import numpy as np

    found = []

    def take(name, item):
        with suppress(Exception):
            if isinstance(item, h5py.Dataset) and item.size < 1e6 and item.dtype.kind in "fiu":
                found.append(np.asarray(item[()], float).ravel())

    with suppress(Exception), h5py.File(path) as file:
        for name in list(file):
            with suppress(Exception):
                _visit(file[name], name, take, 0)
    return found


def _visit(item, name, take, depth):
    import h5py

    take(name, item)
    if isinstance(item, h5py.Group) and depth < 6:
        keys = ["spike_times"]  # which can be there where a damaged group does not list it
        with suppress(Exception):
            keys = list(item)
        for key in keys:
            with suppress(Exception):
                _visit(item[key], key, take, depth + 1)


def numbers_of_matlab(path):
    import numpy as np
    from scipy.io import loadmat

    found = []

    def take(value):
        if isinstance(value, np.void):
            for name in value.dtype.names or ():
                take(value[name])
        elif isinstance(value, np.ndarray) and value.dtype.names:
            for name in value.dtype.names:
                for inner in value[name].ravel():
                    take(inner)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            for inner in value.ravel():
                take(inner)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            found.append(value.ravel().astype(float))

    with suppress(Exception):
        for value in loadmat(path).values():
            take(value)
    return found


def numbers_of_archive(path):
    """Event times of a recording, and the starts of its epochs, in s."""
    import numpy as np

    events, starts = [], [np.zeros(1)]
    packed = []
    if path.suffix == ".zip":
        with suppress(Exception), zipfile.ZipFile(path) as archive:
            packed = [archive.read(n) for n in archive.namelist()]
    else:
        with suppress(OSError):
            packed = [path.read_bytes()]
    for data in packed:
        files = {}
        with suppress(Exception):
            files = _members(data)
        for name, content in files.items():
            if name.endswith(".h5"):
                temporary = path.with_name("lenient.tmp")
                temporary.write_bytes(content)
                events += numbers_of_hdf5(temporary)
                temporary.unlink()
            elif name.endswith(".epoch.csv"):
                fields = [float(m[0]) for m in _NUMBER.finditer(content)]
                starts.append(np.array([f for f in fields if abs(f) < 1e7]))
    return events, starts


def strange(kind, folder, source, times):
    """How many of a source's spike times, in ns, are not in its files."""
    import numpy as np

    if kind in ("aa1", "aa2"):
        allowed = set()
        for path in sorted((folder / source.payload[0]).rglob("spike*")):
            with suppress(OSError):
                allowed |= once(numbers_of_text, path)
        return sum(t not in allowed for t in times.tolist())
    if kind == "ac1":  # detected in traces: the files hold none
        return 0
    if kind == "nat4":
        events, starts = [], []
        for path in [*folder.rglob("*.tgz"), *folder.glob("*.zip")]:
            found = numbers_of_archive(path)
            events, starts = events + found[0], starts + found[1]
        if not events:
            return len(times)
        at = np.unique(_ns(np.concatenate(events), 1e9))
        first = np.unique(_ns(np.concatenate(starts), 1e9))
        sums = (np.unique(times)[:, None] + first[None, :]).ravel()
        near = np.searchsorted(at, sums)
        hit = (
            np.minimum(np.abs(at[np.minimum(near, len(at) - 1)] - sums), np.abs(at[np.maximum(near - 1, 0)] - sums))
            <= 2
        )
        return int((~hit.reshape(-1, len(first)).any(1)).sum())
    file = folder / (source.payload[0] if kind == "aa4" else source.payload[1])
    values = []
    with suppress(OSError):
        values = once(numbers_of_hdf5 if kind == "aa4" else numbers_of_matlab, file)
    allowed = _ns(np.concatenate(values), 1e9 if kind == "aa4" else 1e6) if values else np.empty(0, np.int64)
    return int((~np.isin(times, np.concatenate([allowed - 1, allowed, allowed + 1]))).sum())


def _ns(values, factor):
    import numpy as np

    return np.rint(values[np.abs(values) < 1e8] * factor).astype(np.int64)


# One case -----------------------------------------------------------------------------------------------------


def run(kind, base, seed):
    """Outcome and faults of one case."""
    from strfcube import StrfcubeError

    rng = random.Random(f"{kind} {seed}")
    folder = base.parent / f"case{seed}"
    shutil.copytree(base, folder, copy_function=os.link)
    faults = []
    try:
        touched = spoil(folder, rng)
        outcome = parsed(kind, folder, touched, rng, faults)
    except StrfcubeError as error:
        outcome = "refused"
        if "\n" in str(error) or len(str(error)) > 5000:
            faults.append(f"no sentence: {str(error)[:300]!r}")
    except BaseException as error:
        import traceback

        outcome = "foreign error"
        frame = traceback.extract_tb(error.__traceback__)[-1]
        faults.append(f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})")
    shutil.rmtree(folder, ignore_errors=True)
    return outcome, faults


@cache
def _class(kind):
    from strfcube import catalog

    return catalog.pipeline_class(kind)


def parsed(kind, folder, touched, rng, faults):
    """Do what a build does with the raw files; whether there were findings."""
    import math
    import time

    import numpy as np

    from strfcube import StrfcubeError
    from strfcube.builder import ingest, spool
    from strfcube.builder.checks import bins_of, checked, sound_of

    findings = []
    pipeline = _class(kind)(folder)
    pipeline.listing()
    survey = checked(pipeline.survey(findings.append), findings.append)
    for stimulus in survey.stimuli:
        if stimulus.audio and rng.random() < 0.3:
            with suppress(StrfcubeError):
                sound_of(stimulus)
    dt_ns = 10_000_000 if kind == "nat4" else 5_000_000
    bins = np.array([bins_of(s, dt_ns, 0) for s in survey.stimuli], np.int64)
    context = ingest.Context(
        pipeline, {s.id: i for i, s in enumerate(survey.stimuli)}, {n.id: i for i, n in enumerate(survey.neurons)},
        bins, tuple(str(n.meta["units"]) for n in survey.neurons), dt_ns, time.time_ns() + 10**12,
    )  # fmt: skip
    names = [str(p.relative_to(folder)) for p in touched]
    near = [
        s
        for s in survey.sources
        if any(name.rpartition("/")[0] in repr(s.payload) or "/" not in name for name in names)
    ]
    for source in (near or list(survey.sources))[: 1 if kind == "ac1" else 4]:
        path = str(folder / "one.spool")
        ingest.ingest(context, source, path)
        summary = spool.summary(path)
        findings += summary.findings
        every = slice(0, int(summary.neurons[:, 2].sum()))
        times = spool.columns(path, slice(0, 0), every, slice(0, 0)).times
        os.unlink(path)
        # Without times there is nothing to look for, in a file that may be one to grow over.
        if len(times) and (wrong := strange(kind, folder, source, times)):
            faults.append(f"{wrong} of {len(times)} spike times of {source.id} are not in the files")
    for finding in findings:
        if "\n" in finding.what + finding.consequence + finding.file or len(finding.what) > 5000:
            faults.append(f"no sentence: {finding.what[:200]!r}")
    if any(math.isnan(s.sound_onset) for s in survey.stimuli):
        faults.append("a sound that begins nowhere")
    return "findings" if any(f.severity != "info" for f in findings) else "read"


def build(kind, base, seed):
    """What is wrong when a case that ends its process is built."""
    folder = base.parent / f"case{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, copy_function=os.link)
    touched = spoil(folder, random.Random(f"{kind} {seed}"))
    code, said = built(kind, folder)
    faults = []
    if code == 1 and "Traceback" not in said and said.splitlines()[-1].startswith("strfcube: error: "):
        # One sentence is right where nothing can be built without the file; a cube of all others is, everywhere else
        for path in touched:
            path.unlink() if path.is_file() or path.is_symlink() else None
        if not built(kind, folder)[0]:
            faults.append(f"built, it ends with {said[-300:]!r}; without {touched} there is a cube")
    elif code:
        faults.append(f"built, it ends with {code}: {said[-300:]!r}")
    shutil.rmtree(folder)
    return faults


def built(kind, folder):
    """Exit code of a build, and what it said."""
    out = Path(f"{folder}.zarr")
    code = "from strfcube.cli.main import main; main()"
    how = ["build", kind, "--raw", str(folder), "--out", str(out), "--jobs", "1"]
    done = subprocess.run([sys.executable, "-c", code, *how], capture_output=True, text=True, check=False,
                          env=os.environ | {"STRFCUBE_SOURCE_SECONDS": "5"})  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    return done.returncode, done.stderr


def prepare(kind, folder):
    """Write the valid raw folder of a kind, small."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from writers import aa, aa4, ac1, nat4, ns1

    raw = folder / "raw"
    write = {
        "aa1": aa.write_aa1, "aa2": aa.write_aa2, "aa4": aa4.write_aa4, "ac1": partial(ac1.write, wehr_cells=2),
        "ns1": partial(ns1.write_ns1, units=2, repeats=2, drc_repeats=1, clip_seconds=0.2),
        "nat4": partial(nat4.write_nat4, sites={"A1": {"ARM029a": 2, "CRD016d": 2}}, extra={}, est=4, val=2,
                        val_repeats=2),
    }[kind]  # fmt: skip
    write(raw)
    if kind == "nat4":  # as a folder of sites, so that one of them can be mutated
        with zipfile.ZipFile(raw / "A1_single_sites.zip") as archive:
            archive.extractall(raw)
        (raw / "A1_single_sites.zip").unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        import warnings

        warnings.simplefilter("ignore")
        kind, folder = sys.argv[2], Path(sys.argv[3])
        harness.serve(lambda seed: run(kind, folder / "raw", seed))
    else:
        sys.exit(
            harness.main(
                __file__, __doc__, KINDS, prepare, lambda kind, folder, case: build(kind, folder / "raw", case)
            )
        )
