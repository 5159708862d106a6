"""A row for each class, its name at the left."""

import numpy as np
import pytest

from experiments.pictures.files import SEPARATOR, contact_sheet
from experiments.pictures.rows import MOST, sheet

NAMES = ["cat", "dog", "a name that is much longer than any margin should ever be", "猫", ""]


def images(labels, channels=1):
    """Images whose grey says which one it is, none of the separator's."""
    values = 100 + np.arange(len(labels), dtype=np.uint8)
    pictures = np.broadcast_to(values[:, None, None, None], (len(labels), 8, 8, channels)).copy()
    pictures[..., 3:] = 255
    return pictures


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_class_has_a_row_in_the_order_of_its_seeds(channels):
    labels = np.asarray([2, 0, 1, 2, 0, 2])
    given = images(labels, channels)
    picture = sheet(given, labels, NAMES)
    blank = np.full((8, 8, channels), SEPARATOR, np.uint8)
    blank[..., 3:] = 255
    tiles = [given[1], given[4], blank, given[2], blank, blank, given[0], given[3], given[5]]
    plain = contact_sheet(np.stack(tiles), 3)
    margin = picture.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(picture[:, margin:], plain)
    assert 0 < margin < 300
    assert channels < 4 or (picture[..., 3] == 255).all()
    height = picture.shape[0] // 3
    for row in range(3):  # something is written beside each
        assert (picture[row * height : (row + 1) * height, :margin, 0] > 150).any()


def test_names_tell_rows_apart_and_what_the_font_lacks_has_its_number():
    def margin(kinds, names):
        labels = np.asarray(kinds)
        picture = sheet(images(labels), labels, names)
        return picture[:, : picture.shape[1] - contact_sheet(images(labels), 1).shape[1]]

    first = margin([0, 1], NAMES)
    assert (first != margin([0, 1], ["cat", "cow"])[:, : first.shape[1]]).any()
    np.testing.assert_array_equal(margin([3, 4], NAMES), margin([3, 4], [*"012", "3", "4"]))


@pytest.mark.parametrize("labels", [None, [1, 1, 1], range(MOST + 1)])
def test_without_several_or_with_many_classes_it_is_the_plain_sheet(labels):
    given = images(labels or range(5))
    known = None if labels is None else np.asarray(labels)
    np.testing.assert_array_equal(sheet(given, known, [str(i) for i in range(30)]), contact_sheet(given))
    if labels is not None and len(known) > MOST:
        assert sheet(given[1:], known[1:], [str(i) for i in range(30)]).shape[0] > contact_sheet(given[1:]).shape[0]
