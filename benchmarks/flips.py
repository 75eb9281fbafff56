"""Bits that flip in a cube, one at a time: how many does each reader refuse, and how many become other values?

Files of response, stimulus, audio and trials are damaged by one random bit each, and the whole cube is read: by
`CubeDataset` (spectrograms and waveforms), `strfcube.open`, plain xarray, zarr and tensorstore. A flip in a file that a
reader does not read is neither refused nor wrong.

    python benchmarks/flips.py                     300 flips of a cube that is built for it
    python benchmarks/flips.py --flips 50
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ARRAYS = ("response", "stimulus", "audio", "trials")


def by_torch(path):
    from strfcube import CubeDataset

    view = CubeDataset(path, cache="none")
    found = view.batch(range(len(view)))
    waves = CubeDataset(path, cache="none", mode="waveform", audio_fs=8000).with_stimulus()
    return [found["responses"], found["stims"], waves.batch(range(len(waves)))["stims"]]


def by_open(path):
    import strfcube

    ds = strfcube.open(path)
    return [ds[n].values for n in ("response", "stimulus")]


def by_xarray(path):
    import xarray as xr

    tree = xr.open_datatree(path, engine="zarr", chunks=None)
    names = ("response", "stimulus", "trials/spike_time", "trials/row_size", "audio/samples")
    return [tree[name].values for name in names]


def by_zarr(path):
    import zarr

    members = zarr.open_group(path, mode="r").members(max_depth=None)
    return [array[...] for _, array in sorted(members) if isinstance(array, zarr.Array)]


def by_tensorstore(path):
    import tensorstore
    import zarr

    found = []
    for name, array in sorted(zarr.open_group(path, mode="r").members(max_depth=None)):
        if isinstance(array, zarr.Array) and array.dtype.kind in "uifb":
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{name}"}}
            found.append(tensorstore.open(spec, read=True).result().read().result())
    return found


READERS = {"torch": by_torch, "strfcube.open": by_open, "xarray": by_xarray, "zarr": by_zarr,
           "tensorstore": by_tensorstore}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300)
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
        copy = Path(folder) / "damaged.zarr"
        shutil.copytree(path, copy)
        truth = {name: reader(str(copy)) for name, reader in READERS.items()}
        for flip in range(given.flips):
            of = ARRAYS[flip % len(ARRAYS)]
            file = copy / files[of][rng.integers(len(files[of]))].relative_to(path)
            sound = file.read_bytes()
            damaged = bytearray(sound)
            damaged[rng.integers(len(sound))] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            for name, reader in READERS.items():
                try:
                    found = reader(str(copy))
                except StoreError:
                    counts[name]["refused"] += 1
                except Exception:
                    counts[name]["refused, in its own words"] += 1
                else:
                    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, truth[name], strict=True))
                    counts[name]["not read" if same else "WRONG VALUES"] += 1
            counts["strfcube.verify"]["found" if strfcube.verify(copy) else "MISSED"] += 1
            file.write_bytes(sound)
    for name, count in counts.items():
        print(json.dumps({"reader": name, "flips": given.flips} | dict(count)), flush=True)


if __name__ == "__main__":
    main()
