"""Content digests: what a cube holds, whoever wrote it and with however many workers.

A *leaf* is the SHA-256 of one chunk's values in C order, cut to the array's shape; chunks that are missing as a whole
have none. Where chunks are stored with their repeats first, the leaf is of the values in that order, up to the last
repeat that holds anything. An array's digest covers its name, dtype, shape, chunk shape and leaves; the cube's digest
covers those of all its arrays, and their dimensions, fill values and attributes. Times, paths, hosts, worker numbers
and ``history`` are attributes of the root and stay outside. So do the names of raw files and the findings, which name
them: what an archive wraps its folders in does not change what was recorded. They have digests of their own, which
`verify` checks.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_OF_FILES = re.compile(r"findings/.*|trials/file")
Leaf = tuple[tuple[int, ...], str]


def leaf(values: NDArray[Any]) -> str:
    """Digest of one chunk's values."""
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).hexdigest()


def of_leaves(name: str, dtype: Any, shape: Sequence[int], chunk: Sequence[int], leaves: Iterable[Leaf]) -> str:
    """Digest of a chunked array."""
    h = hashlib.sha256(f"{name} {np.dtype(dtype).str} {tuple(shape)} {tuple(chunk)}\n".encode())
    for index, value in sorted(leaves):
        h.update(f"{tuple(index)} {value}\n".encode())
    return h.hexdigest()


def of_values(name: str, values: NDArray[Any]) -> str:
    """Digest of a small array; text is hashed as UTF-8 with its lengths, numbers as their bytes."""
    values = np.asarray(values)
    if values.dtype.kind in "OUT":
        parts = [str(v).encode() for v in values.ravel()]
        h = hashlib.sha256(f"{name} str {values.shape}\n".encode())
        for part in parts:
            h.update(f"{len(part)}:".encode() + part)
        return h.hexdigest()
    h = hashlib.sha256(f"{name} {values.dtype.newbyteorder('<').str} {values.shape}\n".encode())
    h.update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)).tobytes())
    return h.hexdigest()


def combine(digests: Mapping[str, str]) -> str:
    """The cube's digest from those of its arrays, without those that name raw files."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests) if not _OF_FILES.fullmatch(name))
    return hashlib.sha256(lines.encode()).hexdigest()
