"""Archives that do harm, or cannot be used: each written by a function of the file to write and a folder outside."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib

ZEROS = gzip.compress(bytes(2**20))  # gzip files that follow one another are one: a bomb at no cost
DATA = b"-464.938 159.375 \n" * 50
CASES = {}


def case(message):
    """Register a writer of one hostile archive under its name, with what its error must say."""

    def keep(write):
        CASES[write.__name__.strip("_")] = (write, message)
        return write

    return keep


def zipped(path, *members, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as file:
        warnings.simplefilter("ignore")  # two members of one name
        for name, data, *mode in members:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.compress_type, info._compresslevel = method, 1
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            file.writestr(info, data)


def edited(path, old, new, count=-1):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))


def central(path, at, form, *values):
    """Set fields of the first entry of a zip's central directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + at, *values)
    path.write_bytes(data)


def info(name, kind=tarfile.REGTYPE, link="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


def block(member, form=tarfile.GNU_FORMAT):
    return member.tobuf(form, "utf-8", "surrogateescape")


def padded(data):
    return data + bytes(-len(data) % 512)


def tarred(path, *members, end=bytes(1024), press=bytes):
    blocks = [block(m) + padded(data) for m, data in members]
    path.write_bytes(press(b"".join(blocks) + end))


GOOD = (info("good.txt", size=len(DATA)), DATA)
OUT = "outside the folder"


# Members that leave their folder


@case(OUT)
def zip_dots(path, out):
    zipped(path, ("good.txt", DATA), ("../evil", DATA))


@case(OUT)
def zip_dots_within(path, out):
    zipped(path, ("a/b/../../../evil", DATA))


@case(OUT)
def zip_dots_of_windows(path, out):
    zipped(path, ("a\\..\\..\\evil", DATA))


@case(OUT)
def zip_absolute(path, out):
    zipped(path, (f"{out}/evil", DATA))


@case(OUT)
def zip_drive(path, out):
    zipped(path, ("C:\\evil", DATA))


@case(OUT)
def zip_drive_without_root(path, out):
    zipped(path, ("c:evil", DATA))


@case(OUT)
def zip_share(path, out):
    zipped(path, ("\\\\server\\share\\evil", DATA))


@case(OUT)
def zip_junk_that_leaves(path, out):
    zipped(path, ("__MACOSX/../../evil", DATA))


@case(OUT)
def zip_symlink(path, out):
    zipped(path, ("good.txt", DATA), ("link", str(out).encode(), stat.S_IFLNK | 0o777))


@case("no file of the archive")
def zip_through_symlink(path, out):
    zipped(path, ("good.txt", DATA), ("link", b"folder", stat.S_IFLNK | 0o777), ("link/evil", DATA), ("folder/a", DATA))


@case("a device, a FIFO or a socket")
def zip_device(path, out):
    zipped(path, ("device", DATA, stat.S_IFCHR | 0o666))


@case("a device, a FIFO or a socket")
def zip_fifo(path, out):
    zipped(path, ("fifo", b"", stat.S_IFIFO | 0o666))


@case(OUT)
def tar_dots(path, out):
    tarred(path, GOOD, (info("../evil", size=len(DATA)), DATA), press=gzip.compress)


@case(OUT)
def tar_absolute(path, out):
    tarred(path, (info(f"{out}/evil", size=len(DATA)), DATA))


@case(OUT)
def tar_symlink(path, out):
    tarred(path, GOOD, (info("a/link", tarfile.SYMTYPE, "../../evil"), b""))


@case(OUT)
def tar_symlink_absolute(path, out):
    tarred(path, GOOD, (info("link", tarfile.SYMTYPE, str(out / "kept.txt")), b""))


@case(OUT)
def tar_through_symlink(path, out):
    tarred(path, (info("link", tarfile.SYMTYPE, ".."), b""), (info("link/evil", size=len(DATA)), DATA))


@case("no file of the archive")
def tar_symlink_to_folder(path, out):
    tarred(path, GOOD, (info("d", tarfile.DIRTYPE), b""), (info("link", tarfile.SYMTYPE, "d"), b""))


@case("no file of the archive")
def tar_symlinks_in_a_circle(path, out):
    tarred(path, GOOD, (info("a", tarfile.SYMTYPE, "b"), b""), (info("b", tarfile.SYMTYPE, "a"), b""))


@case("both a link and another member")
def tar_link_over_a_file(path, out):
    tarred(path, GOOD, (info("a", size=len(DATA)), DATA), (info("a", tarfile.SYMTYPE, "good.txt"), b""))


@case(OUT)
def tar_hard_link(path, out):
    tarred(path, GOOD, (info("link", tarfile.LNKTYPE, "../outside/kept.txt"), b""))


@case("no file of the archive")
def tar_hard_link_to_a_file_of_the_folder(path, out):
    tarred(path, GOOD, (info("link", tarfile.LNKTYPE, "kept.txt"), b""))


@case("is a device")
def tar_character_device(path, out):
    tarred(path, GOOD, (info("device", tarfile.CHRTYPE), b""))


@case("is a device")
def tar_block_device(path, out):
    tarred(path, GOOD, (info("device", tarfile.BLKTYPE), b""))


@case("is a FIFO")
def tar_fifo(path, out):
    tarred(path, GOOD, (info("fifo", tarfile.FIFOTYPE), b""))


@case("of an unknown type")
def tar_unknown_type(path, out):
    tarred(path, GOOD, (info("what", b"Q"), b""))


# Names


@case("NUL in its name")
def zip_nul(path, out):
    zipped(path, ("good.txtXevil", DATA))
    edited(path, b"good.txtX", b"good.txt\0")


@case("marked as UTF-8 and is not")
def zip_marked_utf8(path, out):
    zipped(path, ("Strauß", DATA))
    edited(path, "ß".encode(), b"\xdf\xdf")


@case("twice, with different content")
def zip_twice(path, out):
    zipped(path, ("a.txt", DATA), ("a.txt", DATA[1:]))


@case("twice, with different content")
def tar_twice(path, out):
    tarred(path, GOOD, (info("./good.txt", size=len(DATA)), DATA[::-1]))


@case("both a file and a folder")
def zip_file_and_folder(path, out):
    zipped(path, ("a", DATA), ("a/b", DATA))


@case("both a file and a folder")
def tar_folder_and_file(path, out):
    tarred(path, (info("a", tarfile.DIRTYPE), b""), (info("a", size=len(DATA)), DATA))


@case("too long a path")
def zip_long_name(path, out):
    zipped(path, ("a" * 300, DATA))


@case("too long a path")
def zip_long_in_bytes(path, out):
    zipped(path, ("é" * 200, DATA))


@case("too long a path")
def tar_long_path(path, out):
    with tarfile.open(path, "w:gz") as file:
        file.addfile(info("abcdefgh/" * 5000 + "x", size=0))


@case("too long a path")
def tar_deep_path(path, out):
    with tarfile.open(path, "w") as file:
        file.addfile(info("a/" * 70 + "x", size=0))


@case("strfcube's own files")
def zip_own_files(path, out):
    zipped(path, (".strfcube-files.json", b"{}"))


@case("has no name")
def tar_without_name(path, out):
    tarred(path, GOOD, (info(".", size=len(DATA)), DATA))


# Bombs


@case("declares .* bytes, and an archive of")
def zip_bomb(path, out):
    zipped(path, *[(f"zeros{i}", bytes(2**26)) for i in range(5)])


@case("is damaged")
def zip_that_lies(path, out):
    zipped(path, ("zeros", bytes(2**26)))
    central(path, 24, "<L", 10)


@case("has 900 bytes and declares 905")
def zip_that_promises_more(path, out):
    zipped(path, ("good.txt", DATA))
    central(path, 24, "<L", 905)


@case("no room|declares")
def zip_that_declares_a_terabyte(path, out):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("zeros", "w", force_zip64=True) as member:
        member.write(DATA)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    (name,) = struct.unpack_from("<H", data, at + 28)
    extra = struct.pack("<HHQ", 1, 8, 2**40)
    struct.pack_into("<L", data, at + 24, 2**32 - 1)
    struct.pack_into("<H", data, at + 30, len(extra))
    data[at + 46 + name : at + 46 + name] = extra
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<L", data, end + 12, end - at)
    path.write_bytes(data)


@case("lies over the next one")
def zip_overlapping(path, out):
    """Each header is quoted by the one before it, so that all share the last one's content."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    kernel = packer.compress(bytes(2**24)) + packer.flush()
    crc, local, entries = zlib.crc32(bytes(2**24)), b"", []
    body, size, names = kernel, 2**24, [f"f{i:03}".encode() for i in range(200)]
    for name in reversed(names):
        header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0) + name
        entries.append((name, len(body), size, crc, len(body) + len(header)))
        quote = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF) + header
        crc, size = 0, size + len(header)
        local, body = header + body, quote + body
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, c, n, s, len(name), 0, 0, 0, 0, 0, len(local) - back)
        + name
        for name, n, s, c, back in entries
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(local), 0)
    path.write_bytes(local + directory + end)


def listed(path, count, name):
    """A zip whose directory lists its one member so many times."""
    zipped(path, (name, bytes(2**20)))
    data = path.read_bytes()
    at, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    directory = data[at:end] * count
    path.write_bytes(data[:at] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(directory), at, 0))


@case("lies over the next one")
def zip_listed_twice(path, out):
    listed(path, 1000, "zeros")


@case("lists more than")
def zip_of_too_many(path, out):
    listed(path, 300_000, "z")


@case("lists more than")
def zip_with_a_huge_directory(path, out):
    listed(path, 1_000, "z" * 60_000)


@case("is compressed with bzip2")
def zip_bomb_of_bzip2(path, out):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file, file.open("zeros", "w", force_zip64=True) as member:
        member.write(bytes(2**25))


@case("declares .* bytes, and an archive of")
def tar_bomb(path, out):
    """A member of 300 MB after another."""
    head = gzip.compress(block(info("zeros", size=300 * 2**20)))
    path.write_bytes((head + ZEROS * 300) * 3)


@case("declares .* bytes, and an archive of")
def tar_bomb_of_small_members(path, out):
    one = b"".join(gzip.compress(block(info(f"zeros{i}", size=2**20))) + ZEROS for i in range(300))
    path.write_bytes(one)


@case("something else follows")
def tar_that_ends_in_zeros_without_end(path, out):
    path.write_bytes(gzip.compress(block(GOOD[0]) + padded(DATA) + bytes(1024)) + ZEROS * 2000)


@case("no room|declares")
def tar_that_declares_a_terabyte(path, out):
    tarred(path, (info("zeros", size=2**40), b""))


@case("no room|declares")
def tar_sparse_bomb(path, out):
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s",
        "GNU.sparse.realsize": str(2**40),
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        member = info("GNUSparseFile.0/s", size=1024)
        member.pax_headers = headers
        file.addfile(member, io.BytesIO(padded(b"1\n0\n512\n") + bytes(512)))


@case("a header of the tar is longer")
def tar_sparse_map_without_end(path, out):
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9"}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as file:
        member = info("GNUSparseFile.0/s", size=2**22)
        member.pax_headers = headers
        file.addfile(member, io.BytesIO(b"9999999\n" + b"0\n" * 2**21))


@case("a header of the tar is longer")
def tar_header_of_gigabytes(path, out):
    path.write_bytes(gzip.compress(block(info("x", tarfile.XHDTYPE, size=2**32))) + ZEROS * 4096)


@case("a header of the tar is longer")
def tar_long_name_of_gigabytes(path, out):
    path.write_bytes(gzip.compress(block(info("x", tarfile.GNUTYPE_LONGNAME, size=2**32))) + ZEROS * 4096)


@case("is damaged|longer than")
def tar_headers_without_member(path, out):
    record = b"12 comment=\n"
    path.write_bytes(gzip.compress((block(info("x", tarfile.XHDTYPE, size=len(record))) + padded(record)) * 50_000))


@case("before the one it follows|declares -|is longer")
def tar_of_negative_size(path, out):
    tarred(path, GOOD, (info("x", size=-1024), b""))


@case("before the one it follows|declares -|is longer|is damaged")
def tar_of_negative_size_in_a_header(path, out):
    record = b"14 size=-9999\n"
    tarred(path, GOOD, (info("x", tarfile.XHDTYPE, size=len(record)), record), (info("x", size=512), bytes(512)))


@case("Memory usage limit")
def tar_xz_of_much_memory(path, out):
    """A header that asks for 4 GB of memory."""
    tarred(path, GOOD, press=lzma.compress)
    data = bytearray(path.read_bytes())
    stop = 12 + (data[12] + 1) * 4
    assert data[14:16] == b"\x21\x01"  # LZMA2, with one byte for the size of its dictionary
    data[16] = 40
    struct.pack_into("<L", data, stop - 4, zlib.crc32(data[12 : stop - 4]))
    path.write_bytes(data)


# Damage


@case("member 'good.txt' is damaged")
def zip_damaged(path, out):
    zipped(path, ("good.txt", DATA), method=zipfile.ZIP_STORED)
    edited(path, b"159.375", b"159.376", 1)


@case("the zip is cut off")
def zip_cut_off(path, out):
    zipped(path, ("good.txt", DATA), ("more.txt", DATA * 10))
    path.write_bytes(path.read_bytes()[:-30])


@case("ends 9 bytes before the file does")
def zip_with_more_behind(path, out):
    zipped(path, ("good.txt", DATA))
    path.write_bytes(path.read_bytes() + b"<html>...")


@case("bytes that are no member's")
def zip_after_zip(path, out):
    zipped(path, ("good.txt", DATA))
    path.write_bytes(path.read_bytes() * 2)


@case("holds no file")
def zip_of_nothing(path, out):
    zipped(path)


@case("holds no file")
def zip_of_junk(path, out):
    zipped(path, ("__MACOSX/._a", DATA), (".DS_Store", DATA), ("folder/", b""))


@case("member 'secret.txt' is encrypted")
def zip_encrypted(path, out):
    zipped(path, ("good.txt", DATA), ("secret.txt", DATA))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 8] |= 1
    path.write_bytes(data)


@case("member 'good.txt' is compressed with Deflate64")
def zip_deflate64(path, out):
    zipped(path, ("good.txt", DATA))
    central(path, 10, "<H", 9)


@case("is a folder and has content")
def zip_folder_with_content(path, out):
    zipped(path, ("folder?", DATA))
    edited(path, b"folder?", b"folder/")


@case("one part of a zip in several")
def zip_in_parts(path, out):
    zipped(path, ("good.txt", DATA))
    path.write_bytes(b"PK\7\x08" + path.read_bytes())


@case("no end mark follows member 'good.txt'")
def tar_cut_between_members(path, out):
    tarred(path, GOOD, end=b"")


@case("member 'good.txt' is damaged or cut off")
def tar_cut_within_a_member(path, out):
    tarred(path, GOOD)
    path.write_bytes(path.read_bytes()[:900])


@case("a damaged header follows member 'good.txt'")
def tar_damaged_header(path, out):
    tarred(path, GOOD, (info("lost.txt", size=len(DATA)), DATA))
    edited(path, b"lost.txt", b"LOST.txt")


@case("something else follows")
def tar_after_tar(path, out):
    tarred(path, GOOD)
    path.write_bytes(path.read_bytes() * 2)


@case("holds no file")
def tar_of_nothing(path, out):
    tarred(path, end=bytes(10240))


@case("holds no file")
def tar_gz_of_nothing(path, out):
    tarred(path, end=bytes(10240), press=gzip.compress)


@case("it is damaged or cut off")
def tar_gz_damaged_sum(path, out):
    tarred(path, GOOD, press=gzip.compress)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)


@case("it is damaged or cut off")
def tar_gz_cut_off(path, out):
    tarred(path, GOOD, press=gzip.compress)
    path.write_bytes(path.read_bytes()[:-20])


@case("it is damaged or cut off")
def tar_gz_with_more_behind(path, out):
    tarred(path, GOOD, press=gzip.compress)
    path.write_bytes(path.read_bytes() + b"<html>")


@case("it is damaged or cut off")
def tar_bz2_with_more_behind(path, out):
    tarred(path, GOOD, press=bz2.compress)
    path.write_bytes(path.read_bytes() + b"<html>")


@case("it is damaged or cut off")
def tar_xz_cut_off(path, out):
    tarred(path, GOOD, press=lzma.compress)
    path.write_bytes(path.read_bytes()[:-30])


@case("what it compresses is no tar")
def gz_of_text(path, out):
    path.write_bytes(gzip.compress(DATA))


@case("it is empty")
def empty(path, out):
    path.write_bytes(b"")


@case("a page of a web site")
def login_page(path, out):
    path.write_bytes(b"\n<!DOCTYPE html>\n<html><form>password</form></html>")


@case("a 7z archive")
def seven_zip(path, out):
    path.write_bytes(b"7z\xbc\xaf\x27\x1c" + DATA)


@case("begins like no archive")
def noise(path, out):
    path.write_bytes(DATA)
