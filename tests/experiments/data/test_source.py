from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Source, open_source
from experiments.data import split as typed_split
from experiments.errors import UsageError


def split(*arguments) -> Any:
    """As `split`, for sources that surely have labels and a held-out part."""
    return typed_split(*arguments)


def numbered(n, **fields) -> Any:
    """n images of 1×2 pixels that spell their own number, which is also their label."""
    images = np.arange(n, dtype=">u2").view(np.uint8).reshape(n, 1, 2, 1)
    return Source(images=images, labels=np.arange(n, dtype=np.int32), **fields)


@pytest.fixture(scope="module")
def digits() -> Any:
    return open_source("digits")


def test_digits_are_all_there_in_17_greys(digits):
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.dtype == np.uint8
    assert digits.labels.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    levels = np.unique(digits.images)
    assert len(levels) == 17
    np.testing.assert_array_equal(np.rint(levels / 255 * 16), np.arange(17))
    assert np.abs(levels - np.arange(17) * 255 / 16).max() <= 0.5


def test_a_source_is_a_sequence_of_images_and_classes(digits):
    image, label = digits[3]
    assert image.shape == digits.event_shape == (8, 8, 1)
    assert label == 3
    assert len(digits) == 1797
    assert Source(images=digits.images)[3][1] is None
    assert Source(images=digits.images).num_classes == 0


def test_the_arrays_of_a_source_cannot_be_written_to(digits):
    with pytest.raises(ValueError, match="read-only"):
        digits.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        digits.labels[0] = 0


@pytest.mark.parametrize(
    "fields",
    [
        {"images": np.zeros((2, 4, 4, 1))},
        {"images": np.zeros((2, 4, 4), np.uint8)},
        {"images": np.zeros((0, 4, 4, 1), np.uint8)},
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(3, np.int32)},
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.array([0, -1])},
        {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.array([0, 2]), "class_names": ("a", "b")},
    ],
)
def test_arrays_that_make_no_source_are_refused(fields):
    with pytest.raises(ValueError, match=r"give|names"):
        Source(**fields)


def test_the_fingerprint_tells_pixels_labels_and_shape_apart_and_nothing_else():
    one = numbered(6)
    images, labels = one.images, one.labels
    changed = images.copy()
    changed[5, 0, 1] ^= 1
    others = [
        Source(images=changed, labels=labels),
        Source(images=images, labels=labels[::-1]),
        Source(images=images),
        Source(images=images.reshape(6, 2, 1, 1), labels=labels),
        Source(images=images.reshape(3, 4, 1, 1)),
        Source(images=images[:5], labels=labels[:5]),
    ]
    prints = {one.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 1 + len(others)
    assert all(len(each) == 64 for each in prints)
    fortran = np.asfortranarray(images)
    alike = Source(images=fortran, labels=labels.astype(np.int64), name="b", class_names=tuple("abcdef"))
    assert alike.fingerprint == one.fingerprint


@given(n=st.integers(2, 300), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**70))
@settings(deadline=None)
def test_a_split_is_a_partition_that_depends_on_the_seed_alone(n, fraction, seed):
    source = numbered(n)
    train, held_out = split(source, fraction, seed)
    assert sorted([*train.labels, *held_out.labels]) == list(range(n))
    assert abs(len(held_out) - fraction * n) <= 1
    for part in (train, held_out):
        assert list(part.labels) == sorted(part.labels)
        np.testing.assert_array_equal(part.images, source.images[part.labels])
        assert part.class_names == source.class_names
    again = split(source, fraction, seed)[1]
    assert again.fingerprint == held_out.fingerprint


def test_every_image_is_held_out_equally_often():
    counts = np.zeros(20)
    trials, fraction = 1000, 0.25
    for seed in range(trials):
        held_out = split(numbered(20), fraction, seed)[1]
        counts[held_out.labels] += 1
    error = np.sqrt(trials * fraction * (1 - fraction))
    assert np.abs(counts - trials * fraction).max() < 4 * error


def test_a_larger_fraction_holds_out_the_same_images_and_more():
    few, many = (split(numbered(100), fraction, 5)[1] for fraction in (0.1, 0.3))
    assert set(few.labels) < set(many.labels)


def test_a_test_split_of_its_own_is_kept_whatever_the_fraction():
    own = numbered(3)
    for fraction in (0, 0.5):
        train, held_out = split(numbered(9, held_out=own), fraction, 1)
        assert held_out is own
        assert len(train) == 9
        assert train.held_out is None


def test_nothing_is_held_out_when_nothing_is_asked():
    source = numbered(5)
    assert split(source, 0) == (source, None)


@pytest.mark.parametrize(("n", "fraction", "seed"), [(1, 0.1, 0), (5, 1.0, 0), (5, -0.1, 0), (5, 0.1, -1)])
def test_an_impossible_split_is_refused(n, fraction, seed):
    with pytest.raises(UsageError, match=r"--data\.held-out"):
        split(numbered(n), fraction, seed)


def test_no_class_is_held_out_whole_and_the_number_stays():
    labels = np.array([0] * 30 + [1] * 30 + [2, 3, 4, 5, 6], np.int32)
    source = Source(images=np.arange(65, dtype=np.uint8).reshape(65, 1, 1, 1), labels=labels)
    whole = 0
    for seed in range(30):
        for fraction, count in ((0.1, 6), (0.5, 32), (0.95, 58)):
            train, held_out = split(source, fraction, seed)
            old_train, old = typed_split(source, fraction, seed, rules=1)
            assert set(train.labels) == set(range(7))
            assert len(held_out) == min(count, 65 - 7)
            emptied = set(range(7)) - set(old_train.labels)
            whole += bool(emptied)
            if not emptied:  # then all is as before
                assert (train.fingerprint, held_out.fingerprint) == (old_train.fingerprint, old.fingerprint)
        few, many = (set(split(source, f, seed)[1].images.ravel().tolist()) for f in (0.1, 0.4))
        assert few < many
    assert whole > 30


def test_images_that_are_a_class_each_are_split_as_if_they_had_none():
    one, other = split(numbered(9), 0.3, 4)[1], typed_split(numbered(9), 0.3, 4, rules=1)[1]
    assert one.fingerprint == other.fingerprint
