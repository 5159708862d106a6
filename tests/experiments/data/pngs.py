"""PNG files of 16 bits a channel, which Pillow does not write in colour."""

import struct
import zlib


def write_png(path, pixels, kind, before=(), behind=(), depth=16, rows=None):
    """A PNG of this kind: 0 is grey, 2 RGB, 4 grey with alpha, 6 RGBA; of 16 bits, or of `depth` with `rows` as bytes.

    Chunks (name, data) may stand before its pixels and behind them.
    """
    height, width, _ = pixels.shape
    rows = rows or b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        *before,
        (b"IDAT", zlib.compress(rows)),
        *behind,
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
              for name, data in parts)  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
