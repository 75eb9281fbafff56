"""NEMS recordings: signals of all three kinds, packed as a folder or a .tgz, wrapped or not."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np

WIDTH = len(f"{0:.18e}") + 1


class RasterCsv:
    """Text of a matrix as '%.18e', made a block of rows at a time: `read` and `size` are what a tar archive needs.

    `values` [shape=(time, channel)] should have few distinct values that are not negative.
    """

    def __init__(self, values, rows=500):
        self.values, self.rows, self.at, self.rest = values, rows, 0, b""
        self.table = np.unique(values)
        texts = [f"{v:.18e}".encode() for v in self.table]
        self.fixed = all(len(text) == WIDTH - 1 for text in texts)
        self.size = int(values.size)
        if self.fixed:
            self.size *= WIDTH
            self.codes = np.frombuffer(b"".join(t + b"," for t in texts), np.uint8).reshape(-1, WIDTH)
        else:
            self.size += int(np.sum([len(t) * np.sum((values == v) | (np.isnan(v) & np.isnan(values)))
                                     for v, t in zip(self.table, texts, strict=True)]))  # fmt: skip

    def read(self, n=-1):
        parts = [self.rest]
        have = len(self.rest)
        while (n < 0 or have < n) and self.at < len(self.values):
            block = self.values[self.at : self.at + self.rows]
            self.at += self.rows
            parts.append(self._text(block))
            have += len(parts[-1])
        text = b"".join(parts)
        n = len(text) if n < 0 else n
        self.rest = text[n:]
        return text[:n]

    def _text(self, block):
        if not self.fixed:
            return b"".join(b",".join(b"%.18e" % v for v in row) + b"\n" for row in block.tolist())
        text = self.codes[np.searchsorted(self.table, block)]
        text[:, -1, -1] = ord("\n")
        return text.tobytes()


def header(name, fs, chans, kind="", *, reverse=False, meta=None, seconds=None, recording="rec"):
    """A signal's json; `kind` empty leaves signal_type out."""
    fields = {"name": name, "recording": recording, "chans": chans, "meta": meta, "fs": fs}
    if kind:
        fields["signal_type"] = f"<class 'nems0.signal.{kind}'>"
    if seconds is not None:
        fields["segments"] = [[0, round(seconds * fs)]]
    items = list(fields.items())
    return json.dumps(dict(items[::-1] if reverse else items)).encode()


def epoch_table(rows, columns=("start", "end", "name")):
    """An epoch.csv of (name, start, end) rows; columns other than the three hold their row number."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for number, (name, start, end) in enumerate(rows):
        fields = {"name": name, "start": repr(float(start)), "end": repr(float(end))}
        writer.writerow([fields.get(column, number) for column in columns])
    return out.getvalue().encode()


def h5(datasets):
    """An HDF5 file of gzipped root datasets."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, **({"compression": "gzip"} if np.size(values) else {}))
    return out.getvalue()


def write_folder(folder: Path, files):
    """Write {file name: bytes or RasterCsv} into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read())
    return folder


def write_tgz(target, files, wrap="", level=1):
    """Pack {member name: bytes or RasterCsv} in that order; `wrap` names a wrapping folder."""
    with (
        tarfile.open(target, "w:gz", compresslevel=level)
        if isinstance(target, Path)
        else tarfile.open(fileobj=target, mode="w:gz", compresslevel=level) as tar
    ):
        if wrap:
            folder = tarfile.TarInfo(wrap)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(f"{wrap}/{name}" if wrap else name)
            info.size = len(content) if isinstance(content, bytes) else content.size
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else content)
    return target
