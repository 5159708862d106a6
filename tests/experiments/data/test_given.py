"""Single pictures and masks of any mode, and what does not fit."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.config import DataConfig
from experiments.data.given import pictures_of, read_mask, read_picture, size_of
from experiments.errors import DataError, UsageError

WHITE = np.zeros((4, 6), bool)
WHITE[1:3, 2:] = True
CONFIG = DataConfig()


def levels(white=255, black=0):
    return np.where(WHITE, white, black).astype(np.uint8)


def coloured(mode):
    """The mask as a picture of this mode, with what a painter may have left in it."""
    grey = Image.fromarray(levels(200, 30))
    if mode == "1":
        return Image.fromarray(levels()).convert("1")
    if mode == "I;16":
        return Image.fromarray(levels().astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):  # white everywhere, and clear where it is not painted
        return Image.merge("LA", (Image.new("L", grey.size, 255), Image.fromarray(levels()))).convert(mode)
    if mode == "P":
        picture = Image.fromarray(np.where(WHITE, 1, 0).astype(np.uint8)).convert("P")
        picture.putpalette([0, 0, 90, 255, 240, 255])
        return picture
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16", "CMYK"])
def test_white_is_white_in_any_mode(tmp_path, mode):
    path = tmp_path / ("mask.tiff" if mode == "CMYK" else "mask.png")
    coloured(mode).save(path)
    np.testing.assert_array_equal(read_mask(path, (4, 6), (4, 6), CONFIG, resize=False), WHITE)


def test_grey_counts_from_half_on_and_black_that_is_clear_is_kept(tmp_path):
    Image.fromarray(np.asarray([[127, 128]], np.uint8)).save(tmp_path / "half.png")
    assert read_mask(tmp_path / "half.png", (1, 2), (1, 2), CONFIG, resize=False).tolist() == [[False, True]]
    clear = np.zeros((1, 2, 4), np.uint8)
    clear[0, 1] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_mask(tmp_path / "clear.png", (1, 2), (1, 2), CONFIG, resize=False).tolist() == [[False, True]]


def test_a_mask_is_cut_and_resized_as_its_picture_is(tmp_path):
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 8:] = 255
    Image.fromarray(wide).save(tmp_path / "mask.png")
    Image.fromarray(wide).save(tmp_path / "picture.png")
    assert size_of(tmp_path / "picture.png", CONFIG) == (8, 16)
    picture = read_picture(tmp_path / "picture.png", (4, 4), 3, CONFIG, resize=True)
    assert picture.shape == (1, 4, 4, 3)
    mask = read_mask(tmp_path / "mask.png", (8, 16), (4, 4), CONFIG, resize=True)
    np.testing.assert_array_equal(mask, picture[0, ..., 0] >= 128)
    assert mask.sum() == 8


def test_a_picture_is_read_as_the_datas_are(tmp_path):
    """Grey by the luma, transparent over white, 16 bits by 257, turned as the camera was held."""
    Image.new("RGB", (2, 3), (255, 0, 0)).save(tmp_path / "red.png")
    assert read_picture(tmp_path / "red.png", (3, 2), 1, CONFIG, resize=False).tolist() == [[[[76]] * 2] * 3]
    turned = Image.new("L", (2, 3), 9)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    assert read_picture(tmp_path / "turned.jpg", (2, 3), 1, CONFIG, resize=False).shape == (1, 2, 3, 1)
    wide = Image.fromarray(np.full((2, 2), 1000, np.uint16))
    wide.save(tmp_path / "wide.png")
    assert read_picture(tmp_path / "wide.png", (2, 2), 1, DataConfig(bits=16), resize=False)[0, 0, 0, 0] == 1000
    assert read_picture(tmp_path / "wide.png", (2, 2), 1, CONFIG, resize=False)[0, 0, 0, 0] == 4


def test_a_folder_is_its_pictures_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures_of([tmp_path, tmp_path / "b.png"])] == ["a.JPG", "b.png", "b.png"]


def save(tmp_path, value):
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(tmp_path / "x.png")
    return tmp_path / "x.png"


REFUSED = [
    (lambda p: read_mask(save(p, 255), (4, 6), (4, 6), CONFIG, resize=False), UsageError, "is all white, so that noth"),
    (lambda p: read_mask(save(p, 0), (4, 6), (4, 6), CONFIG, resize=False), UsageError, "is all black, so that there"),
    (
        lambda p: read_mask(save(p, 9), (4, 4), (4, 4), CONFIG, resize=False),
        UsageError,
        "x.png has 4×6 pixels, height by width, and 4×4 are wanted; give a mask of the size of the picture",
    ),
    (
        lambda p: read_picture(save(p, 9), (8, 8), 1, CONFIG, resize=False),
        UsageError,
        "and 8×8 are wanted; give a picture of that size, or add --resize",
    ),
    (lambda p: pictures_of([p / "none.png"]), UsageError, "none.png does not exist; give a picture, or a folder"),
    (lambda p: pictures_of([p]), UsageError, "holds no pictures"),
    (lambda p: read_mask(p / "no.png", (1, 1), (1, 1), CONFIG, resize=False), DataError, "no.png cannot be read"),
    (lambda p: size_of(p.parent / "given.txt", CONFIG), DataError, "given.txt is not a picture"),
]


@pytest.mark.parametrize(("make", "kind", "words"), REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path, make, kind, words):
    (tmp_path.parent / "given.txt").write_text("no picture")
    with pytest.raises(kind, match=words):
        make(tmp_path)
