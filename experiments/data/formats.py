"""Which files are pictures, by their endings, and which formats Pillow is asked for."""

from __future__ import annotations

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
"""Lower-case endings of the files that are taken for pictures, whatever the rules."""
_LATER = {"avif": (".avif", ".avifs"), "jpg_2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")}
"""Endings that are pictures by rules 2, by the feature of Pillow that reads them."""
_RAW = ".cr2 .cr3 .crw .nef .nrw .dng .arw .srf .sr2 .orf .rw2 .raf .pef .srw"
_OTHERS = ".heic .heif .hif .jxl .jxr .wdp .tga .psd .psb .xcf .kra .exr .dds .pcx .sgi .ras .pfm .qoi"
UNREADABLE = frozenset((*_RAW.split(), *_OTHERS.split(), *_LATER["avif"], *_LATER["jpg_2000"]))
"""Endings of pictures that are not read, or not by every Pillow: by rules 2 they are refused and not passed over."""


def endings(rules: int) -> frozenset[str]:
    """Lower-case endings of the files that are taken for pictures."""
    from PIL import features

    return EXTENSIONS.union(*(kinds for name, kinds in _LATER.items() if rules > 1 and features.check(name)))


def formats(rules: int) -> tuple[str, ...]:
    """The formats that Pillow is asked for: what calls itself a PNG may not reach, say, its PostScript interpreter."""
    return ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM") + ("AVIF", "JPEG2000") * (rules > 1)
