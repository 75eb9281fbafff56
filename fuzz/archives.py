"""Damaged and hostile archives: each is refused in one sentence, or unpacked to what it holds, and nowhere else.

    python fuzz/archives.py --count 10000 --seed 0 --seconds 3600 --kind zip

Case n of a kind is a valid archive (zip, tar, and tar in gzip, bzip2 or xz), mutated as the random numbers of seed n
say: bits, lengths, pieces left out or doubled, fields of headers; of compressed ones also what is inside. Prints what
came of them, and each case that is a fault: an error that is not strfcube's own or no sentence, a file outside of the
folder, content that is not in the archive, more than 5 s of the processor or 500 MB. Exit code 1 if there is any.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import sys
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import harness

PACK = {"tar": bytes, "gz": lambda data: gzip.compress(data, 1), "bz2": lambda data: bz2.compress(data, 1),
        "xz": lambda data: lzma.compress(data, preset=0)}  # fmt: skip
KINDS = ("zip", "stored", *PACK)
FILES = {"all_stims/a.wav": bytes(range(256)) * 20, "cell/conspecific/spike1": b"-464.938 159.375 \n" * 50,
         "table.csv": b"a,b\n", "empty": b"", "deep/er/and/deeper/x": b"x" * 3000}  # fmt: skip


def make(kind):
    """A valid archive; of a tar, what is inside its packing."""
    out = io.BytesIO()
    if kind in ("zip", "stored"):
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED) as file:
            for name, data in FILES.items():
                file.writestr(name, data)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "table.csv"
        file.addfile(link)
    return out.getvalue()


def tar_field(data, rng):
    """One field of a header changed, its checksum made right again."""
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    head = bytearray(data[at : at + 512])
    where, values = rng.choice((
        (slice(0, 100), (b"../x", b"/etc/x", b"a" * 100, b"", b"CON", b"x/../../y", b"\xff\xfe", b"a\nb")),
        (slice(124, 136), (b"77777777777", b"-1", b"\x80" + b"\xff" * 11, b"", b"abc", b"00000000001")),
        (slice(156, 157), (b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"L", b"S", b"Z")),
        (slice(157, 257), (b"../../x", b"/etc/passwd", b"table.csv", b"link", b"nothing")),
    ))  # fmt: skip
    value = rng.choice(values)
    size = where.stop - where.start
    head[where] = value[:size].ljust(size, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return data[:at] + bytes(head) + data[at + 512 :]


def zip_field(data, rng):
    """One field of a local header, of the directory or of its end."""
    mark = rng.choice((b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"))
    places = [at for at in range(len(data)) if data.startswith(mark, at)]
    at = rng.choice(places) + rng.randrange(4, 46)
    value = rng.choice((0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
    return data[:at] + (value % 2**32).to_bytes(4, "little")[: rng.choice((1, 2, 4))] + data[at + 4 :]


def mutated(kind, valid, seed):
    """Archive of a case."""
    rng = random.Random(f"{kind} {seed}")
    fields = zip_field if kind in ("zip", "stored") else tar_field
    data = valid
    for _ in range(rng.choice((1, 1, 2, 3))):
        with suppress(IndexError, ValueError):  # what is mutated already has no headers left
            data = rng.choice((*harness.BYTES, fields, fields))(data, rng)
    if kind in PACK:
        data = PACK[kind](data)
        if kind != "tar" and rng.random() < 0.5:
            data = rng.choice(harness.BYTES)(data, rng)
    return data


def contents(data):
    """All bytes that a lenient reader finds in an archive: as they are, and as far as they can be unpacked."""
    found = [data, *FILES.values()]
    for make_one in (lambda: zlib.decompressobj(47), bz2.BZ2Decompressor, lzma.LZMADecompressor):
        out, rest = [], data
        with suppress(Exception):
            while rest:
                one = make_one()
                for at in range(0, len(rest), 64):
                    out.append(one.decompress(rest[at : at + 64]))
                    if one.eof:
                        break
                rest = one.unused_data + rest[at + 64 :] if one.eof else b""
        found.append(b"".join(out))
    at = data.find(b"PK\x03\x04")
    while at >= 0:  # members of a zip: deflated from wherever its local header ends
        begin = (
            at
            + 30
            + int.from_bytes(data[at + 26 : at + 28], "little")
            + int.from_bytes(data[at + 28 : at + 30], "little")
        )
        with suppress(zlib.error):
            found.append(zlib.decompressobj(-15).decompress(data[begin:]))
        at = data.find(b"PK\x03\x04", at + 1)
    return found


def run(kind, folder, seed):
    """Outcome and faults of one case."""
    from strfcube import StrfcubeError
    from strfcube.unpacking.unpack import ArchiveWarning, unpack

    place = folder / f"case{seed}"
    place.mkdir()
    archive, into = place / "archive", place / "into"
    data = mutated(kind, make(kind), seed)
    archive.write_bytes(data)
    faults = []
    try:
        unpack(archive, into)
        outcome = "unpacked"
    except StrfcubeError as error:
        outcome = "refused"
        if "\n" in str(error) or len(str(error)) > 2000:
            faults.append(f"no sentence: {str(error)[:200]!r}")
    except ArchiveWarning:
        outcome = "told of names"
    except BaseException as error:
        outcome = "foreign error"
        faults.append(f"{type(error).__name__}: {str(error)[:200]}")
    if strange := {p.name for p in place.iterdir()} - {"archive", "into"}:
        faults.append(f"outside of the folder: {strange}")
    if outcome == "unpacked":
        there = contents(data)
        files = [p for p in into.rglob("*") if p.is_file()]
        odd = [p.name for p in files if p.is_symlink() or not any(p.read_bytes() in text for text in there)]
        faults += [f"{name} has a content that is not in the archive" for name in odd]
    elif into.exists():
        faults.append("refused, but something was unpacked")
    shutil.rmtree(place, ignore_errors=True)
    return outcome, faults


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        import warnings

        warnings.simplefilter("error")
        kind, folder = sys.argv[2], Path(sys.argv[3])
        harness.serve(lambda seed: run(kind, folder, seed))
    else:
        sys.exit(harness.main(__file__, __doc__, KINDS, lambda kind, folder: None))
