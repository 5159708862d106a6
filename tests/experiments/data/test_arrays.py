import io
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.data import open_source
from experiments.data.shapes import to_channels

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def npz(tmp_path):
    """Write arrays to an npz file; returns its URI."""

    def write(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return f"npz:{tmp_path / 'set.npz'}"

    return write


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels"), ("arr_0", "arr_1")],
)
def test_the_usual_names_are_found(npz, images, labels):
    source = open_source(npz(**{images: IMAGES, labels: LABELS, "other": LABELS}))
    np.testing.assert_array_equal(source.images, IMAGES)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert open_source(npz(**{images: IMAGES})).labels is None


def test_arrays_that_are_not_read_are_named(npz):
    source = open_source(npz(x=IMAGES, targets=LABELS))
    assert (source.notes, source.hint) == (
        ("an array passed over (targets)",),
        "; save them as y beside x, not as targets",
    )
    source = open_source(npz(images=IMAGES, labels=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2], x=IMAGES, y=LABELS))
    assert source.notes == ("2 arrays passed over (x, y)",)
    assert open_source(npz(x=IMAGES, y=LABELS)).notes == ()


@pytest.mark.parametrize(("images", "labels"), [("x_test", "y_test"), ("test_images", "test_labels")])
def test_a_test_split_is_the_held_out_part(npz, images, labels):
    source = open_source(npz(x=IMAGES, y=LABELS, **{images: IMAGES[:2], labels: LABELS[:2]}))
    assert source.held_out is not None
    np.testing.assert_array_equal(source.held_out.images, IMAGES[:2])
    assert source.held_out.class_names == source.class_names == ("0", "1", "2")


def test_compressed_and_fortran_ordered_arrays_are_the_same_data(npz, tmp_path):
    plain = open_source(npz(x=IMAGES)).fingerprint
    np.savez_compressed(tmp_path / "set.npz", x=np.asfortranarray(IMAGES))
    assert open_source(f"npz:{tmp_path / 'set.npz'}").fingerprint == plain


def test_every_accepted_number_format_gives_the_same_bytes(npz):
    grey = IMAGES[..., 0]
    wanted = open_source(npz(x=grey)).images
    assert wanted.shape == (6, 5, 4, 1)
    for same in (
        grey.astype(np.int64),
        grey.astype(np.uint16),
        grey.astype(np.float32),
        (grey / 255).astype(np.float32),
        grey / 255,
        (grey / 255).astype(np.float16),
        grey[..., None],
    ):
        np.testing.assert_array_equal(open_source(npz(x=same)).images, wanted)
    np.testing.assert_array_equal(open_source(npz(x=grey > 99)).images[..., 0], np.where(grey > 99, 255, 0))


def test_older_runs_round_floats_that_are_not_whole(npz):
    uri = npz(x=np.minimum(IMAGES + 0.4, 255))
    np.testing.assert_array_equal(open_source(uri, rules=1).images, IMAGES)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES / 127.5 - 1, ["from -1", "[0, 1]"]),
        (IMAGES * 257.0, ["to 65535", "0..255"]),
        (IMAGES.astype(np.int32) - 1, ["from -1"]),
        (np.where(IMAGES == 255, 1.02, IMAGES / 255).astype(np.float32), ["from 0 to 1.02", "clip them to [0, 1]"]),
        (np.minimum(IMAGES + 0.4, 255), ["to 255", "not all of them whole", "round them"]),
        (np.where(IMAGES == 0, -0.004, IMAGES / 255), ["from -0.004 to 1;", "clip them to [0, 1]"]),
        (np.where(IMAGES > 9, np.nan, 0.5), ["values that are not finite numbers, the first in image"]),
        (np.where(IMAGES > 9, np.inf, 0.5), ["values that are not finite numbers"]),
        (IMAGES.astype(complex), ["complex"]),
        (IMAGES.astype(str), ["<U"]),
        (IMAGES.reshape(6, 60), ["(6, 60)", "(n, height, width)"]),
        (IMAGES.transpose(0, 3, 1, 2), ["(6, 3, 5, 4)", "transpose(0, 2, 3, 1)"]),
        (np.zeros((3, 4, 5, 9), np.uint8), ["(3, 4, 5, 9)", "RGB"]),
        (np.zeros((3, 0, 5), np.uint8), ["(3, 0, 5, 1)"]),
        (np.zeros((0, 5, 5), np.uint8), ["(0, 5, 5, 1)"]),
    ],
)
def test_arrays_that_are_no_images_are_refused(refused, npz, images, words):
    refused(npz(x=images), "set.npz[x]", *words)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[:4], ["(4,)", "6 images"]),
        (np.eye(6), ["(6, 6)", "argmax"]),
        (LABELS - 1, ["-1", "from 0"]),
        (LABELS + 0.5, ["float64", "whole"]),
        (np.where(LABELS > 1, np.nan, 0), ["float64", "whole"]),
        (LABELS.astype(str), ["<U"]),
        (LABELS + 2**40, [str(2**40 + 2), "65535"]),
        (np.array(3), ["()"]),
    ],
)
def test_labels_that_are_none_are_refused(refused, npz, labels, words):
    refused(npz(x=IMAGES, y=labels), "set.npz[y]", *words)


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype(float), LABELS.astype(np.uint64)])
def test_labels_in_other_clothes_are_accepted(npz, labels):
    np.testing.assert_array_equal(open_source(npz(x=IMAGES, y=labels)).labels, LABELS)


class Canary:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("key", ["x", "y"])
def test_python_objects_are_refused_and_never_unpickled(refused, tmp_path, key):
    objects = np.array([Canary(), 1], dtype=object)
    arrays: dict[str, Any] = {"x": IMAGES, "y": LABELS, key: objects}
    np.savez(tmp_path / "set.npz", **arrays)
    refused(f"npz:{tmp_path / 'set.npz'}", f"set.npz[{key}]", "never unpickled")


def test_files_that_are_no_archive_of_arrays_are_refused(refused, npz, tmp_path):
    path = tmp_path / "set.npz"
    whole = npz(x=IMAGES)
    content = path.read_bytes()
    for wrong in (b"", b"hello", pickle.dumps(3), content[:-30], content[:100]):
        path.write_bytes(wrong)
        refused(whole, path, "numpy.savez")
    middle = content.index(IMAGES.tobytes()) + 50
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    refused(whole, path, "CRC")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("member", "word"),
    [
        (npy(IMAGES)[:-5], "cut short"),
        (npy(IMAGES) + b"x", "goes on"),
        (b"nonsense", "not an array"),
        (npy(IMAGES).replace(b"(6, 5, 4, 3)", b"(6, 5, 4, 3*"), "not an array"),
        (npy(IMAGES).replace(b"(6, 5, 4, 3), }     ", b"(99999, 99999, 9), }"), "cut short"),
    ],
)
def test_a_damaged_array_in_a_whole_archive_is_refused(refused, tmp_path, member, word):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x.npy", member)
    refused(f"npz:{tmp_path / 'set.npz'}", "set.npz[x]", word)


def test_an_archive_without_images_lists_what_it_holds(refused, npz):
    refused(npz(pictures=IMAGES, z=LABELS), "set.npz", "pictures, z", "images, x, x_train")


def test_the_test_split_must_match(refused, npz):
    refused(npz(x=IMAGES, x_test=IMAGES[:, :3]), "[x]", "[x_test]", "5×4×3", "3×4×3")
    refused(npz(x=IMAGES, y=LABELS, x_test=IMAGES), "[x]", "[x_test]", "labels")


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30))
@settings(deadline=None)
def test_grey_is_that_of_pillow(pixels):
    images = np.array(pixels, np.uint8).reshape(1, 1, -1, 3)
    pillow = np.asarray(Image.fromarray(images[0]).convert("L"))
    np.testing.assert_array_equal(to_channels(images, 1)[0, ..., 0], pillow)


def test_grey_to_colour_and_back_is_exact():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    colour = to_channels(grey, 3)
    assert colour.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(to_channels(colour, 1), grey)


def test_arrays_are_cropped_resized_and_recoloured_like_pictures(npz, tmp_path):
    uri = npz(x=IMAGES)
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    for options in ({"size": 3}, {"size": 9, "crop": "none"}, {"channels": 3}, {"size": 4, "crop": "center"}):
        arrays, pictures = open_source(uri, **options), open_source(f"folder:{tmp_path}", **options)
        np.testing.assert_array_equal(arrays.images, pictures.images)


def test_a_size_without_need_changes_nothing(npz):
    square = IMAGES[:, :4]
    np.testing.assert_array_equal(open_source(npz(x=square), size=4, channels=3).images, square)


def test_the_centre_is_cropped_and_all_is_squeezed(npz):
    images = np.zeros((1, 4, 12), np.uint8)
    images[:, :, 4:8] = 255
    assert (open_source(npz(x=images), size=4).points == 255).all()
    squeezed = open_source(npz(x=images), size=4, crop="none").points
    assert squeezed.mean() == pytest.approx(255 / 3, abs=30)
    assert squeezed[..., 0, 0].max() < 60  # the dark sides are still there
    tall = images.transpose(0, 2, 1)
    assert (open_source(npz(x=tall), size=4).points == 255).all()
