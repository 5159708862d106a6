#!/usr/bin/env bash
# What one would guess: a PNG may name one colour that is clear (its chunk tRNS, a sample of the picture's own depth), and
# converting the picture to "RGBA" makes those pixels clear and no others, whatever its depth.
#
# Seen (Pillow 13.0.0): in 8 bits it does. In RGB of 16 bits, which are read as 8, the colour of 16 is compared with what is
# left of the pixels, so that none becomes clear. In grey of 4 bits the pixels are stretched to 0..255 and the clear grey is
# not, so that none becomes clear but 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pillow==13.0.0
cat > clear.py <<'PY'
import struct
import zlib

from PIL import Image


def png(name, depth, kind, rows, clear):
    """A PNG of one row for each bytes of `rows`; kind 0 is grey, 2 RGB."""
    samples = 3 if kind == 2 else 1
    width = 8 * len(rows[0]) // (depth * samples)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{samples}H", *clear)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    with open(name, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for what, body in parts:
            file.write(struct.pack(">I", len(body)) + what + body + struct.pack(">I", zlib.crc32(what + body)))


def alphas(name):
    """The alpha of each pixel of the first row."""
    with Image.open(name) as picture:
        wide = picture.convert("RGBA")
        return picture.mode, [wide.getpixel((x, 0))[3] for x in range(wide.width)]


png("grey8.png", 8, 0, [bytes([7, 9])], [7])
png("rgb16.png", 16, 2, [struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 1, 2, 3)], [0x1234, 0x5678, 0x9ABC])
png("grey4.png", 4, 0, [bytes([0x7F])], [7])  # the greys 7 and 15 of 0..15
png("zero4.png", 4, 0, [bytes([0x0F])], [0])  # 0 is 0 in any depth
seen = {name: alphas(f"{name}.png") for name in ("grey8", "rgb16", "grey4", "zero4")}
for name, (mode, found) in seen.items():
    print(name, mode, found)
assert seen["grey8"][1] == [0, 255], seen
assert seen["rgb16"][1] == [255, 255], seen
assert seen["grey4"][1] == [255, 255], seen
assert seen["zero4"][1] == [0, 255], seen
PY
venv/bin/python clear.py
