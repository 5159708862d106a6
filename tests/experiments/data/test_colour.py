"""Colour profiles and 16 bits a channel: the colours and levels that a viewer shows."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from experiments.data import open_source

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (6, 5, 3), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged(profile=SRGB):
    """An sRGB profile whose red and green primaries have changed places."""
    table = {profile[i : i + 4]: profile[i + 4 : i + 12] for i in range(132, 132 + 12 * profile[131], 12)}
    return profile.replace(b"rXYZ" + table[b"rXYZ"], b"rXYZ" + table[b"gXYZ"], 1).replace(
        b"gXYZ" + table[b"gXYZ"], b"gXYZ" + table[b"rXYZ"], 1
    )


def linear_grey():
    """A profile of grey levels that are proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0\0\0\0\0"
    tags = struct.pack(">I", 2) + b"wtpt" + struct.pack(">2I", 156, 20) + b"kTRC" + struct.pack(">2I", 176, 12)
    head = struct.pack(">I4sI4s4s4s12s4s", 188, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"\0" * 12, b"acsp")
    return (head + b"\0" * 28 + white[8:]).ljust(128, b"\0") + tags + white + curve


def read(tmp_path, **options):
    return open_source(f"folder:{tmp_path}", **options)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_another_profile_is_converted(tmp_path, ending):
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / f"a.{ending}", icc_profile=exchanged(), quality=95)
    source = read(tmp_path)
    np.testing.assert_allclose(source.images[0, 4, 4], [0, 200, 0], atol=4)
    assert source.notes == ("1 colour profile converted to sRGB",)
    older = read(tmp_path, rules=1)
    np.testing.assert_allclose(older.images[0, 4, 4], [200, 0, 0], atol=4)
    assert older.notes == ()


def test_transparency_palettes_and_cmyk_have_profiles_too(tmp_path):
    half = np.dstack([np.full((4, 4, 3), [200, 0, 0]), np.full((4, 4, 1), 128)]).astype(np.uint8)
    Image.fromarray(half).save(tmp_path / "a.png", icc_profile=exchanged())
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.save(tmp_path / "b.png", icc_profile=exchanged())
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / "c.png", icc_profile=exchanged(), transparency=(200, 0, 0))
    blended, plain, clear = read(tmp_path).images[:, 0, 0]
    np.testing.assert_allclose(blended, [127, 227, 127], atol=2)
    np.testing.assert_allclose(plain, [0, 200, 0], atol=2)
    assert clear.tolist() == [255] * 3


@pytest.mark.parametrize("size", [None, 4])
def test_the_profile_of_srgb_changes_no_bit(tmp_path, size):
    for folder, profile in (("with", SRGB), ("without", None)):
        (tmp_path / folder).mkdir()
        Image.fromarray(COLOUR).save(tmp_path / folder / "a.png", icc_profile=profile)
    one, other = (read(tmp_path / folder, size=size) for folder in ("with", "without"))
    assert one.fingerprint == other.fingerprint
    assert one.notes == ()


@pytest.mark.parametrize("wide", [False, True])
def test_grey_levels_have_profiles_and_stay_grey(tmp_path, wide):
    levels = np.array([[0, 128, 255]]) * (257 if wide else 1)
    Image.fromarray(levels.astype(np.uint16 if wide else np.uint8)).save(tmp_path / "a.png", icc_profile=linear_grey())
    source = read(tmp_path)
    linear = 128 / 255  # and so 1.055 x^(1/2.4) − 0.055 in sRGB
    np.testing.assert_allclose(source.images[0, 0, :, 0], [0, 255 * (1.055 * linear ** (1 / 2.4) - 0.055), 255], atol=1)
    assert source.event_shape == (1, 3, 1)


@pytest.mark.parametrize("profile", [b"junk", exchanged()[:200], linear_grey()])
def test_a_profile_that_is_broken_or_of_other_pixels_is_ignored_and_counted(tmp_path, profile):
    Image.fromarray(COLOUR).save(tmp_path / "a.png", icc_profile=profile)
    source = read(tmp_path)
    np.testing.assert_array_equal(source.images[0], COLOUR)
    assert source.notes == ("1 colour profile ignored: broken, or of other pixels",)


WIDE = RNG.integers(0, 65536, (7, 5, 4), np.uint16)
ROUNDED = (WIDE.astype(int) + 128) // 257


def wide_png(values, kind):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wide_tiff(values, order, packed, alpha=2):
    """Strips of three rows."""
    height, width, channels = values.shape
    strips = [values[i : i + 3].astype(f"{order}u2").tobytes() for i in range(0, height, 3)]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    count, tags = len(strips), 10 + (channels == 4)
    start = 14 + 12 * tags
    body = struct.pack(f"{order}{channels}H", *[16] * channels)
    place, sizes = start + len(body) + 8 * count, list(map(len, strips))
    places = [place + sum(sizes[:i]) for i in range(count)]
    body += struct.pack(f"{order}{2 * count}I", *places, *sizes)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, start), (259, 3, 1, 8 if packed else 1)]
    entries += [(262, 3, 1, 2), (273, 4, count, start + 2 * channels), (277, 3, 1, channels), (278, 4, 1, 3)]
    entries += [(279, 4, count, start + 2 * channels + 4 * count), (284, 3, 1, 1), (338, 3, 1, alpha)][: tags - 8]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, tags)
    for tag, kind, many, value in entries:
        word = struct.pack(f"{order}H2x", value) if kind == 3 and many == 1 else struct.pack(f"{order}I", value)
        head += struct.pack(f"{order}HHI", tag, kind, many) + word
    return head + struct.pack(f"{order}I", 0) + body + b"".join(strips)


def test_16_bits_a_channel_are_divided_by_257_and_rounded(tmp_path):
    (tmp_path / "a.png").write_bytes(wide_png(WIDE[..., :3], 2))
    (tmp_path / "b.ppm").write_bytes(b"P6 5 7 65535\n" + WIDE[..., :3].astype(">u2").tobytes())
    tiffs = [(order, packed) for order in "<>" for packed in (False, True)]
    for i, options in enumerate(tiffs):
        (tmp_path / f"c{i}.tif").write_bytes(wide_tiff(WIDE[..., :3], *options))
        (tmp_path / f"d{i}.tif").write_bytes(wide_tiff(WIDE, *options, alpha=0))
    source = read(tmp_path)
    assert len(source) == 10
    for image in source.images:
        np.testing.assert_array_equal(image, ROUNDED[..., :3])
    upper = read(tmp_path, rules=1).images
    np.testing.assert_array_equal(upper[0], WIDE[..., :3] >> 8)


def test_16_bits_of_alpha_too(tmp_path):
    opaque = WIDE.copy()
    opaque[..., 3] = 65535
    (tmp_path / "a.png").write_bytes(wide_png(opaque, 6))
    for i, order in enumerate("<>"):
        (tmp_path / f"b{i}.tif").write_bytes(wide_tiff(opaque, order, bool(i)))
    for image in read(tmp_path).images:
        np.testing.assert_array_equal(image, ROUNDED[..., :3])
    (tmp_path / "grey").mkdir()
    (tmp_path / "grey" / "c.png").write_bytes(wide_png(opaque[..., 2:], 4))
    np.testing.assert_array_equal(read(tmp_path / "grey").images[0, ..., 0], ROUNDED[..., 2])
    veiled = WIDE.copy()
    veiled[..., 3] = np.linspace(0, 65535, 35).reshape(7, 5)
    (tmp_path / "grey" / "c.png").write_bytes(wide_png(veiled, 6))
    share = veiled[..., 3:] / 65535
    over_white = WIDE[..., :3] * share / 257 + 255 * (1 - share)
    np.testing.assert_allclose(read(tmp_path / "grey").images[0], over_white, atol=1.5)


def test_a_wide_picture_that_is_cut_short_is_refused(tmp_path, refused):
    for name, content in (("a.png", wide_png(WIDE, 6)), ("a.tif", wide_tiff(WIDE, "<", True))):
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        refused(f"folder:{tmp_path}", tmp_path / name)
        (tmp_path / name).unlink()
