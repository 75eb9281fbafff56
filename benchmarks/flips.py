"""Bits that flip in a cube, one at a time: how many does each reader refuse, and how many become other values?

Files of response, stimulus, audio and trials are damaged by one random bit each, and all that this array or group
holds is read: by `CubeDataset` (responses, spectrograms, waveforms), `strfcube.open`, plain xarray, zarr and
tensorstore. A flip in a file that a reader does not read is neither refused nor wrong.

    python benchmarks/flips.py                     300 flips of a cube that is built for it
    python benchmarks/flips.py --flips 50
"""

import argparse
import collections
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ARRAYS = ("response", "stimulus", "audio", "trials")


def by_torch(path, of):
    from strfcube import CubeDataset

    if of == "trials":
        return []
    view = CubeDataset(path, cache="none")
    if of == "audio":
        view = CubeDataset(path, cache="none", mode="waveform", audio_fs=8000).with_stimulus()
    found = view.batch(range(len(view)))
    return [found["responses" if of == "response" else "stims"]]


def by_open(path, of):
    import strfcube
    from strfcube.cube import trials

    ds = strfcube.open(path)
    if of == "trials":
        trials._stored.cache_clear()  # as in a new process
        return [ds.strf.trials.select_dtypes("number").to_numpy()]
    return [ds[of].values] if of in ds else []


def by_xarray(path, of):
    import xarray as xr

    if of in ("response", "stimulus"):
        return [xr.open_zarr(path, chunks=None)[of].values]
    group = xr.open_zarr(path, group=of, chunks=None)
    return [v.values for v in group.variables.values() if v.dtype.kind in "iufb"]


def arrays(path, of):
    """Folders of the arrays that a flip may be in."""
    return [path / of] if (path / of / "c").exists() else sorted(p.parent for p in (path / of).glob("*/c"))


def by_zarr(path, of):
    import zarr

    return [zarr.open_array(place, mode="r")[...] for place in arrays(Path(path), of)]


def by_tensorstore(path, of):
    import tensorstore

    found = []
    for place in arrays(Path(path), of):
        if json.loads((place / "zarr.json").read_text())["data_type"] != "string":  # which it cannot read
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place)}}
            found.append(tensorstore.open(spec, read=True).result().read().result())
    return found


READERS = {"torch": by_torch, "strfcube.open": by_open, "xarray": by_xarray, "zarr": by_zarr,
           "tensorstore": by_tensorstore}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--verify", type=int, default=10, help="verify the cube after one in so many flips")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from toy import FAST, random_toy

    import strfcube
    from strfcube.errors import StoreError

    rng = np.random.default_rng(0)
    counts = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(strfcube.build(random_toy(Path(folder) / "raw")[0], out=Path(folder) / "cube.zarr", **FAST))
        files = {n: [p for p in sorted((path / n).rglob("*")) if p.is_file() and "c" in p.relative_to(path).parts]
                 for n in ARRAYS}  # fmt: skip
        truth = {(name, of): reader(str(path), of) for name, reader in READERS.items() for of in ARRAYS}
        for flip in range(given.flips):
            of = ARRAYS[flip % len(ARRAYS)]
            file = files[of][rng.integers(len(files[of]))]
            sound = file.read_bytes()
            damaged = bytearray(sound)
            damaged[rng.integers(len(sound))] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            for name, reader in READERS.items():
                try:
                    found = reader(str(path), of)
                except StoreError:
                    counts[name]["refused"] += 1
                except Exception:
                    counts[name]["refused, in its own words"] += 1
                else:
                    pairs = zip(found, truth[name, of], strict=True)
                    same = all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
                    counts[name]["not read" if same else "WRONG VALUES"] += 1
            if flip % given.verify == 0:
                counts["strfcube.verify"]["found" if strfcube.verify(path) else "MISSED"] += 1
            file.write_bytes(sound)
    for name, count in counts.items():
        print(json.dumps({"reader": name, "flips": sum(count.values())} | dict(count)), flush=True)


if __name__ == "__main__":
    main()
