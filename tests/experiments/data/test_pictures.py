import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.data import open_source

RNG = np.random.default_rng(2)
GREY = RNG.integers(0, 256, (5, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 4, 3), np.uint8)
TURN_RIGHT = 6  # EXIF: the picture must be turned by 90° clockwise to be seen upright


def save(path, array=GREY, **options: Any):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def opened(folder, **options) -> Any:
    return open_source(f"folder:{folder}", **options)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff", "webp", "pgm"])
def test_lossless_pictures_come_back_exactly(tmp_path, ending):
    save(tmp_path / f"a.{ending}", lossless=True)
    source = opened(tmp_path, channels=1)
    np.testing.assert_array_equal(source.images[0, ..., 0], GREY)
    assert source.labels is None


def test_jpeg_comes_back_nearly(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 4
    save(tmp_path / "a.jpg", smooth, quality=95)
    assert np.abs(opened(tmp_path).images[0, ..., 0].astype(int) - smooth).max() < 8


def test_a_set_is_grey_only_if_every_picture_is(tmp_path):
    save(tmp_path / "a.png")
    assert opened(tmp_path).event_shape == (5, 4, 1)
    save(tmp_path / "b.png", COLOUR)
    both = opened(tmp_path)
    assert both.event_shape == (5, 4, 3)
    np.testing.assert_array_equal(both.images[0], np.repeat(GREY[..., None], 3, -1))
    np.testing.assert_array_equal(both.images[1], COLOUR)
    assert opened(tmp_path, channels=1).event_shape == (5, 4, 1)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_divided_by_257_and_not_clipped(tmp_path, ending):
    bytes_ = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for i, offset in enumerate((-128, 0, 128)):  # all that is nearest to 257 u
        wide = np.clip(bytes_.astype(int) * 257 + offset, 0, 65535).astype(np.uint16)
        save(tmp_path / f"{i}.{ending}", wide)
    for image in opened(tmp_path).images:
        np.testing.assert_array_equal(image[..., 0], bytes_)
    assert opened(tmp_path, channels=3).images.max() == 255


def test_16_bit_pnm_is_read_by_the_same_rule(tmp_path):
    wide = (GREY.astype(">u2") * 257).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 4 5 65535\n" + wide.tobytes())
    np.testing.assert_array_equal(opened(tmp_path).images[0, ..., 0], GREY)


def test_other_depths(tmp_path, refused):
    save(tmp_path / "a.png", GREY > 99)
    np.testing.assert_array_equal(opened(tmp_path).images[0, ..., 0], np.where(GREY > 99, 255, 0))
    path = save(tmp_path / "b.tif", GREY.astype(np.float32))
    refused(f"folder:{tmp_path}", path, "floating-point")
    path = save(tmp_path / "b.tif", GREY.astype(np.int32) * 1000)
    refused(f"folder:{tmp_path}", path, int(GREY.max()) * 1000)


def test_transparency_is_composited_over_white(tmp_path):
    alpha = np.zeros((5, 4), np.uint8)
    alpha[0], alpha[1] = 255, 128
    save(tmp_path / "rgba.png", np.dstack([COLOUR, alpha]))
    save(tmp_path / "la.png", np.dstack([GREY, alpha]))
    grey, colour = opened(tmp_path).images
    for image, original in ((colour, COLOUR), (grey, np.repeat(GREY[..., None], 3, -1))):
        np.testing.assert_array_equal(image[0], original[0])
        mixed = (original[1] * 128.0 + 255 * 127) / 255
        np.testing.assert_allclose(image[1], mixed, atol=1)
        assert (image[2:] == 255).all()
    (tmp_path / "rgba.png").unlink()
    assert opened(tmp_path).event_shape == (5, 4, 1)


def test_palettes_are_looked_up_and_their_transparent_colour_is_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    picture.putpalette([9, 8, 7, 60, 50, 40, 1, 2, 3])
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.gif", transparency=2)
    opaque, clear = opened(tmp_path).images
    np.testing.assert_array_equal(opaque, [[[9, 8, 7], [60, 50, 40]], [[1, 2, 3], [60, 50, 40]]])
    np.testing.assert_array_equal(clear, [[[9, 8, 7], [60, 50, 40]], [[255] * 3, [60, 50, 40]]])


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    image = opened(tmp_path).images[0]
    assert image.shape == (8, 8, 3)
    np.testing.assert_allclose(image[0, 0], [255, 0, 0], atol=8)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path, ending):
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 12:] = 255  # white on the right, so below once it is turned
    exif = Image.Exif()
    exif[0x0112] = TURN_RIGHT
    save(tmp_path / f"a.{ending}", wide, exif=exif)
    image = opened(tmp_path, channels=1).images[0, ..., 0]
    assert image.shape == (24, 8)
    assert image[:8].max() < 50
    assert image[-8:].min() > 200


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_exif_data_that_are_cut_short_are_no_concern_of_the_persons(tmp_path):
    """Pillow warned of them in two lines with its own path; a warning is an error here."""
    one_entry_of_two = struct.pack("<2sHIHHHIH", b"II", 42, 8, 2, 0x0112, 3, 1, 6)
    Image.new("L", (4, 4), 7).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + one_entry_of_two)
    with pytest.warns(UserWarning, match="EXIF"), Image.open(tmp_path / "a.jpg") as picture:
        picture.getexif()
    assert len(opened(tmp_path)) == 1


def test_an_orientation_behind_the_pixels_is_applied_or_refused(tmp_path, refused):
    path = save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = TURN_RIGHT
    content, end = path.read_bytes(), chunk(b"IEND", b"")
    assert content.endswith(end)
    path.write_bytes(content.removesuffix(end) + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end)
    refused(f"folder:{tmp_path}", path, "4×5", "5×4", "--data.size")
    upright = opened(tmp_path, size=4).images[0, ..., 0]
    np.testing.assert_array_equal(upright, np.rot90(GREY, -1)[:, :4])


def test_the_order_is_that_of_the_paths_and_the_classes_that_of_their_names(tmp_path):
    names = ["b/2.png", "b/10.png", "a b/x.png", "a/y/z.PNG", "a/w.png", "B/q.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, np.full((2, 2), i, np.uint8))
    source = opened(tmp_path)
    order = sorted(names)
    assert [names[i] for i in source.images[:, 0, 0, 0]] == order
    assert source.class_names == ("B", "a", "a b", "b")
    assert [source.class_names[i] for i in source.labels] == [name.split("/")[0] for name in order]


def test_what_is_no_picture_or_hidden_is_passed_over(tmp_path):
    save(tmp_path / "a.JPeG")
    for name in ("Thumbs.db", ".DS_Store", "README.md", ".hidden.png", ".cache/b.png", "__MACOSX/._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    assert len(opened(tmp_path)) == 1


def test_links_are_followed_but_not_for_ever(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "set"
    (folder / "cats").mkdir(parents=True)
    save(folder / "cats" / "b.png")
    (folder / "dogs").symlink_to(tmp_path / "elsewhere")
    (folder / "cats" / "loop").symlink_to(folder)
    source = opened(folder)
    assert source.class_names == ("cats", "dogs")
    assert len(source) == 2


def test_many_pictures_on_several_threads_keep_their_places(tmp_path):
    for i in range(200):
        save(tmp_path / f"{i:03}.png", np.full((2, 2), i, np.uint8))
    np.testing.assert_array_equal(opened(tmp_path).images[:, 0, 0, 0], np.arange(200))
    np.testing.assert_array_equal(opened(tmp_path, size=3).images[:, 1, 1, 0], np.arange(200))


def test_pictures_of_different_shapes_are_refused_or_brought_to_one(tmp_path, refused):
    paths = [save(tmp_path / "a.png"), save(tmp_path / "b.png"), save(tmp_path / "c.png", GREY.T)]
    sentence = refused(f"folder:{tmp_path}", paths[0], paths[2], "5×4", "4×5", "--data.size")
    assert str(paths[1]) not in sentence
    assert opened(tmp_path, size=4).event_shape == (4, 4, 1)
    assert opened(tmp_path, size=6, crop="none").event_shape == (6, 6, 1)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda content: b"", "not a picture"),
        (lambda content: b"hello, I am text", "not a picture"),
        (lambda content: content[:20], ""),
        (lambda content: content[: len(content) // 2], ""),
        (lambda content: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_a_damaged_picture_is_named(tmp_path, refused, damage, word, ending):
    save(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    noise = RNG.integers(0, 256, (40, 40), np.uint8)
    path = save(tmp_path / f"b.{ending}", noise)
    path.write_bytes(damage(path.read_bytes()))
    refused(f"folder:{tmp_path}", path, word)


def test_a_link_to_nothing_is_named(tmp_path, refused):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    refused(f"folder:{tmp_path}", tmp_path / "a.png", "No such file")


@pytest.mark.parametrize(
    "side", [9_460, 30_000]
)  # 89.49 and 900 million pixels; Pillow warns of one, refuses the other
@pytest.mark.parametrize("pillows_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_too_many_pixels_are_refused_from_the_header_alone(tmp_path, refused, monkeypatch, side, pillows_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    refused(f"folder:{tmp_path}", path, f"{side * side:,}", "89,478,485", size=8)


def test_more_than_the_memory_limit_is_refused_before_decoding(tmp_path, refused):
    save(tmp_path / "a.png")
    options = {"size": 2048, "memory_gib": 0.001, "loading": "memory"}
    refused(f"folder:{tmp_path}", tmp_path, "--data.memory-gib 0.001", "1×2048×2048×1", **options)


def test_a_folder_that_makes_no_set_is_refused(tmp_path, refused):
    refused(f"folder:{tmp_path}", tmp_path, ".png")
    for name in ("train/cat/a.png", "val/cat/b.png"):
        save(tmp_path / name)
    refused(f"folder:{tmp_path}", "train, val", f"folder:{tmp_path / 'train'}")
    assert opened(tmp_path / "train").class_names == ("cat",)
    stray = save(tmp_path / "stray.png")
    refused(f"folder:{tmp_path}", stray)
