"""Files that are damaged as no disk damages them: every checksum is valid, so that what reads them is reached.

A mutator takes a good file apart, changes something within, and puts it together again with the lengths, CRCs and
digests of what is there now.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
"""Where fields of files tend to go wrong."""
WORDS = ("", "..", "../x", "/x", "a/b/c", "a\\b", "\n", "\x00", "é" * 40, "x" * 300, "dataset.json", "__MACOSX/x.png")


def changed(good: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are others, are missing, or come twice."""
    bad = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(bad) + 1)
        end = min(len(bad), start + rng.randint(1, 30))
        way = rng.randrange(5)
        if way == 0 and start < len(bad):
            bad[start] ^= 1 << rng.randrange(8)
        elif way == 1:
            bad[start:end] = rng.randbytes(end - start)
        elif way == 2:
            del bad[start:end]
        elif way == 3:
            bad[start:start] = bad[start:end]
        elif way == 4 and start + 4 <= len(bad):
            bad[start : start + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS))
    return bytes(bad)


def picture(rng: random.Random, form: str) -> bytes:
    """A small good picture of one of the kinds that the format has."""
    mode = rng.choice({"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK")}[form])
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (9, 7), dtype=np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    file, more = io.BytesIO(), {}
    if form == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = rng.randint(1, 8)
        more = {"exif": exif, "progressive": rng.random() < 0.5, "quality": rng.randint(20, 95)}
    image.save(file, form, **more)
    return file.getvalue()


def png(rng: random.Random) -> bytes:
    """A PNG some of whose chunks are changed; each has the CRC of what it holds."""
    good = picture(rng, "PNG")
    chunks, place = [], 8
    while place < len(good):
        (size,) = struct.unpack(">I", good[place : place + 4])
        chunks.append((good[place + 4 : place + 8], good[place + 8 : place + 8 + size]))
        place += 12 + size
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(chunks))
        kind, data = chunks[at]
        way = rng.randrange(6)
        if way == 0:
            chunks[at] = (kind, changed(data, rng))
        elif way == 1 and kind == b"IHDR":
            fields = list(struct.unpack(">IIBBBBB", data[:13].ljust(13, b"\0")))
            which = rng.randrange(7)
            fields[which] = rng.choice(NUMBERS) & (0xFFFFFFFF if which < 2 else 0xFF)
            chunks[at] = (kind, struct.pack(">IIBBBBB", *fields))
        elif way <= 2 and kind == b"IDAT":  # what is packed is changed, and packed again
            chunks[at] = (kind, zlib.compress(changed(_unpacked(data), rng)))
        elif way == 3:
            chunks.insert(at, (rng.choice(_CHUNKS), _content(rng)))
        elif way == 4 and len(chunks) > 1:
            del chunks[at]
        else:
            chunks.insert(rng.randrange(len(chunks) + 1), (kind, data))
    return good[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


_CHUNKS = (
    *(b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"gAMA", b"cHRM", b"sRGB", b"pHYs"),
    *(b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND", b"tIME", b"abCd"),
)


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def _content(rng: random.Random) -> bytes:
    name, body = rng.choice([b"scorefield", b"XML:com.adobe.xmp", b"x", b""]), rng.randbytes(rng.randint(0, 60))
    packed = zlib.compress(body)
    return rng.choice([body, name + b"\0" + body, name + b"\0\0" + packed, b"II*\0\x08\0\0\0" + body, b""])


def jpeg(rng: random.Random) -> bytes:
    """A JPEG some of whose segments are changed; each has the length of what it holds. (The format has no checksum.)"""
    good = picture(rng, "JPEG")
    segments, place = [], 2
    while place + 4 <= len(good) and good[place] == 0xFF and good[place + 1] != 0xDA:
        size = int(struct.unpack(">H", good[place + 2 : place + 4])[0])
        segments.append((good[place + 1], good[place + 4 : place + 2 + size]))
        place += 2 + size
    rest = good[place:]
    for _ in range(rng.randint(1, 3)):
        at, way = rng.randrange(len(segments)), rng.randrange(5)
        kind, data = segments[at]
        if way <= 1:
            segments[at] = (kind, changed(data, rng))
        elif way == 2:
            segments.insert(at, (rng.choice([0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xC0, 0xC4, 0xDB, 0xDD]), _content(rng)))
        elif way == 3 and len(segments) > 1:
            del segments[at]
        else:
            rest = changed(rest, rng)
    return (
        good[:2]
        + b"".join(b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data for kind, data in segments)
        + rest
    )


def _zip(entries: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    """An archive of the entries, whose CRCs are theirs."""
    file = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two files of one name are meant
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def with_header(good: bytes, rng: random.Random) -> bytes:
    """An archive of which one field in the directory at its end may be another, but no CRC."""
    if rng.random() > 0.25:
        return good
    bad = bytearray(good)
    first = bad.find(b"PK\x01\x02")
    start = max(first, bad.find(b"PK\x01\x02", first + rng.choice([0, 1])))
    offset, size = rng.choice([(6, 2), (8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)])
    bad[start + offset : start + offset + size] = (rng.choice(NUMBERS) & (256**size - 1)).to_bytes(size, "little")
    return bytes(bad)


def archive(rng: random.Random) -> bytes:
    """A zip of pictures in classes, whose files, names or labels are changed; every CRC is that of its file."""
    entries = [(f"{'ab'[i % 2]}/{i}.png", picture(rng, "PNG")) for i in range(3)]
    labels: Any = {"labels": [[name, i % 2] for i, (name, _) in enumerate(entries)]}
    if rng.random() < 0.5:
        labels = values(labels, rng)
    if rng.random() < 0.7:
        entries.append(("dataset.json", json.dumps(labels).encode()))
    for _ in range(rng.randint(1, 2)):
        at, way = rng.randrange(len(entries)), rng.randrange(5)
        name, data = entries[at]
        if way == 0:
            entries[at] = (name, png(rng))
        elif way == 1:
            entries[at] = (name, changed(data, rng))
        elif way == 2:
            entries[at] = (rng.choice(WORDS) or "x", data)
        elif way == 3:
            entries.append((name, data))
        else:
            entries[at] = (name, rng.choice([jpeg(rng), b"", b"GIF89a", data[:20]]))
    return _zip(entries, rng)


def npz(rng: random.Random) -> bytes:
    """An archive of arrays with a header that is changed, or too many or too few bytes; every CRC is valid."""
    entries = []
    for name, array in (("images", np.zeros((3, 4, 4, 3), np.uint8)), ("labels", np.array([0, 1, 0]))):
        head: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
        data, version = array.tobytes(), (1, 0)
        if rng.random() < 0.35:
            key = rng.choice(list(head))
            kinds = (
                "|O",
                "<f8",
                "<f2",
                "|b1",
                "<U4",
                "<M8[s]",
                "<c16",
                "|V3",
                "|u1",
                ">i4",
                "x",
                5,
                None,
                [("a", "<i4")],
            )
            shapes = ((), (3,), (0, 4, 4), (3, 4, 4, 7), (2**40, 2**40), (-1, 4, 4), (3, 4, 4.5), [3, 4, 4], "3", None)
            head[key] = rng.choice({"descr": kinds, "shape": shapes}.get(key, (True, None, 3, "x")))
        text = repr(head)
        if rng.random() < 0.1:
            text = rng.choice([text[:-5], "[" * 90, text + "+1", "open('x')", "1" * 5000, "{}", "{**{}}", text * 2])
        if rng.random() < 0.1:
            data = changed(data, rng)
        version = rng.choice([(1, 0)] * 9 + [(2, 0), (3, 0), (9, 9)])
        form = "<H" if version[0] == 1 else "<I"
        raw = text.encode() + b"\n"
        size = len(raw) if rng.random() < 0.95 else rng.choice(NUMBERS) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
        entries.append((f"{name}.npy", b"\x93NUMPY" + bytes(version) + struct.pack(form, size) + raw + data))
    if rng.random() < 0.2:
        entries.append((rng.choice(("x_test.npy", "test_images.npy", "images.npy", "x")), entries[0][1]))
    return _zip(entries, rng)


def idx(rng: random.Random) -> tuple[bytes, bytes]:
    """(Images, labels) in IDX, raw or as gzip with a valid CRC, of which something is changed."""
    images = [2051, 3, 4, 4]
    labels = [2049, 3]
    for head in (images, labels):
        if rng.random() < 0.4:
            head[rng.randrange(len(head))] = rng.choice((*NUMBERS, 3, 4, 2051, 2049))
    parts = []
    for head, size in ((images, 48), (labels, 3)):
        body = rng.randbytes(size)
        whole = struct.pack(f">{len(head)}I", *head) + (changed(body, rng) if rng.random() < 0.4 else body)
        if rng.random() < 0.1:
            whole = whole[: rng.randrange(len(whole))]
        parts.append(gzip.compress(whole, mtime=0) if rng.random() < 0.5 else whole)
    return parts[0], parts[1]


ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "vp",
        "a\nb",
        "\ud800",
        "x" * 4000,
        "1e3",
        2**31,
    ),
    *([], {}, [[]], ["a"], [0, -1], {"type": "VP"}, {"type": ["VP"]}, {"type": {}}, {"type": "os:system"}),
)


def values(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced, removed, renamed or nested."""
    whole = {"": json.loads(json.dumps(value))}
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(_places(whole))[1:])
        parent: Any = whole
        for key in path[:-1]:
            parent = parent[key]
        key, way = path[-1], rng.choice("rrrrrdnk")
        if way == "r" or path == ("",):
            parent[key] = json.loads(json.dumps(rng.choice(ODD)))
        elif way == "n":
            parent[key] = [parent[key]]
        elif way == "k" and isinstance(parent, dict):
            parent[rng.choice(["type", "steps", "more", "\n"])] = parent.pop(key)
        else:
            del parent[key]
        whole.setdefault("", {})
    return whole[""]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))
