import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Source, pipeline
from experiments.errors import UsageError


def numbered(n):
    """n images of 1×3 pixels (high byte, low byte, 7) whose number is also their label."""
    images = np.full((n, 1, 3, 1), 7, np.uint8)
    images[:, 0, :2, 0] = np.arange(n, dtype=">u2").view(np.uint8).reshape(n, 2)
    return Source(images=images, labels=np.arange(n, dtype=np.int32))


def elements(batches, count):
    """The first `count` rows of the stream."""
    size = len(batches[0]["slot"])
    steps = [batches[k] for k in range(-(-count // size))]
    return {key: np.concatenate([step[key] for step in steps])[:count] for key in steps[0]}


def same(one, other):
    return all(np.array_equal(one[key], other[key]) for key in one)


SIZES = {"n": st.integers(1, 40), "size": st.integers(1, 17), "seed": st.integers(0, 2**64)}


@given(**SIZES)
@settings(max_examples=40, deadline=None)
def test_every_epoch_visits_every_image_once_and_no_batch_is_short(n, size, seed):
    batches = pipeline(numbered(n), seed=seed, batch_size=size)
    labels = elements(batches, 3 * n)["label"]
    for epoch in labels.reshape(3, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    for step in range(3 * n // size + 1):
        batch = batches[step]
        assert batch["image"].shape == (size, 1, 3, 1)
        assert {key: value.dtype for key, value in batch.items()} == {
            "image": np.uint8,
            "label": np.int32,
            "slot": np.int32,
        }


@given(**SIZES, flip=st.booleans())
@settings(max_examples=25, deadline=None)
def test_element_n_does_not_depend_on_the_size_of_the_batches(n, size, seed, flip):
    source, count = numbered(n), 50
    one = elements(pipeline(source, seed=seed, batch_size=size, flip=flip), count)
    other = elements(pipeline(source, seed=seed, batch_size=1, flip=flip), count)
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["label"], other["label"])
    np.testing.assert_array_equal(one["slot"], np.arange(count) % size)


@given(n=st.integers(1, 40), share=st.integers(1, 6), processes=st.integers(1, 5), step=st.integers(0, 10**12))
@settings(max_examples=40, deadline=None)
def test_the_shares_of_all_processes_make_the_one_global_batch(n, share, processes, step):
    source, size = numbered(n), share * processes
    whole = pipeline(source, seed=3, batch_size=size, flip=True)[step]
    shares = [
        pipeline(source, seed=3, batch_size=size, flip=True, process_index=p, process_count=processes)[step]
        for p in range(processes)
    ]
    assert same(whole, {key: np.concatenate([part[key] for part in shares]) for key in whole})


@given(start=st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_resuming_at_a_step_continues_the_stream_from_the_start(start):
    batches = pipeline(numbered(11), seed=5, batch_size=4, flip=True)
    whole = [batches[step] for step in range(start + 5)]
    again = pipeline(numbered(11), seed=5, batch_size=4, flip=True)
    assert all(same(whole[step], again[step]) for step in range(start, start + 5))


def test_epochs_and_seeds_have_orders_of_their_own():
    n = 60
    orders = [elements(pipeline(numbered(n), seed=seed, batch_size=n), 3 * n)["label"] for seed in range(4)]
    epochs = {tuple(epoch) for labels in orders for epoch in labels.reshape(3, n)}
    assert len(epochs) == 12  # in particular the second epoch of a seed is not the first of the next seed


def test_all_orders_are_equally_likely():
    epochs = 6000
    labels = elements(pipeline(numbered(3), seed=1, batch_size=3000), 3 * epochs)["label"].reshape(epochs, 3)
    orders, counts = np.unique(labels, axis=0, return_counts=True)
    assert len(orders) == 6
    assert np.abs(counts - epochs / 6).max() < 4 * np.sqrt(epochs / 6 * 5 / 6)
    # Neighbouring epochs are independent too.
    pairs, counts = np.unique(np.hstack([labels[:-1], labels[1:]]), axis=0, return_counts=True)
    assert len(pairs) == 36
    assert np.abs(counts - epochs / 36).max() < 4 * np.sqrt(epochs / 36)


def test_mirroring_changes_nothing_else_and_falls_on_half_of_the_elements():
    source, count = numbered(50), 5000
    plain = elements(pipeline(source, seed=2, batch_size=64), count)
    mirrored = elements(pipeline(source, seed=2, batch_size=64, flip=True), count)
    np.testing.assert_array_equal(plain["label"], mirrored["label"])
    np.testing.assert_array_equal(plain["image"], source.images[plain["label"]])
    turned = mirrored["image"][:, 0, 0, 0] == 7  # the mark at the right end has come to the left
    np.testing.assert_array_equal(mirrored["image"][turned], plain["image"][turned, :, ::-1])
    np.testing.assert_array_equal(mirrored["image"][~turned], plain["image"][~turned])
    error = 4 * np.sqrt(count / 4)
    assert abs(turned.sum() - count / 2) < error
    # Not the same images each epoch, and independent of the place in the epoch and of the next element.
    rows = turned.reshape(100, 50)
    assert np.abs(rows.sum(0) - 50).max() < 4 * np.sqrt(25)
    assert abs((turned[1:] == turned[:-1]).sum() - count / 2) < error
    by_image = [np.mean(turned[plain["label"] == i]) for i in range(50)]
    assert max(by_image) < 0.5 + 4 * 0.05
    assert min(by_image) > 0.5 - 4 * 0.05


def test_labels_are_zero_where_there_are_none():
    batch = pipeline(Source(images=numbered(5).images), seed=0, batch_size=8)[2]
    np.testing.assert_array_equal(batch["label"], np.zeros(8))


def test_a_batch_may_be_written_to():
    batches = pipeline(numbered(5), seed=0, batch_size=5)
    first = batches[0]
    for value in first.values():
        value[...] = 1
    np.testing.assert_array_equal(np.sort(batches[0]["label"]), np.arange(5))
    np.testing.assert_array_equal(batches[0]["slot"], np.arange(5))


def test_the_stream_has_no_end_and_is_a_grain_dataset():
    batches = pipeline(numbered(5), seed=0, batch_size=2)
    assert isinstance(batches, grain.MapDataset)
    assert len(batches) > 10**18
    assert all(batches[step]["label"].shape == (2,) for step in range(100))
    assert batches[10**15]["label"].shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"batch_size": 0}, "0 images"),
        ({"batch_size": 6, "process_count": 4}, "6 images"),
        ({"batch_size": 8, "process_count": 4, "process_index": 4}, "process 4"),
        ({"batch_size": 8, "seed": -1}, "-1"),
    ],
)
def test_a_batch_that_cannot_be_made_is_refused(arguments, word):
    with pytest.raises(UsageError, match=word):
        pipeline(numbered(5), **{"seed": 0, **arguments})
