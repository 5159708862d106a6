"""The feature network learns, is kept on the disk to the bit, and notices when the disk was damaged."""

import weakref

import numpy as np
import pytest

from experiments.data import Source, open_source, split
from experiments.errors import DataError
from experiments.evaluation import classifier
from experiments.evaluation.comparison import _noise, _rows, compare
from experiments.evaluation.features import feature_space, source_features

PATTERNS = np.random.default_rng(42).integers(0, 2, (10, 8, 8, 1)) * 90


def patterns(n, seed):
    """Ten classes: noise, and on it a fixed pattern of bright pixels."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 10, n)
    images = (rng.integers(0, 130, (n, 8, 8, 1)) + PATTERNS[classes]).astype(np.uint8)
    return Source(images=images, labels=(5 * classes + 2).astype(np.int32))  # labels need not be 0, 1, 2


def landscapes(n, seed):
    """Noise in colour, wider than high, bright above and dark below."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(100, 0, 13)[:, None, None]
    return Source(images=(rng.integers(0, 150, (n, 13, 19, 3)) + slope).astype(np.uint8))


TRAIN, HELD_OUT = patterns(512, 0), patterns(200, 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def space(cache):
    """The patterns' own, after as few steps as they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "MIN_STEPS", 140)
        return feature_space(TRAIN, HELD_OUT, cache=cache, notice=lambda line: None)


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Three steps of training, where what is learned does not matter."""
    monkeypatch.setattr(classifier, "MIN_STEPS", 3)
    monkeypatch.setattr(classifier, "MAX_STEPS", 3)


def test_classes_are_learned(space):
    assert space.accuracy > 0.95
    assert space.name == f"cnn64@{TRAIN.fingerprint[:8]}"
    assert space.task == "labels"


def test_accuracy_counts_a_class_that_was_never_seen_as_wrong(space):
    labels = np.concatenate([np.asarray(HELD_OUT.labels)[:100], np.full(100, 99)])
    half_unseen = Source(images=HELD_OUT.images, labels=labels)
    accuracy = classifier._accuracy(space.architecture, space.params, TRAIN, half_unseen)
    assert 0.45 < accuracy <= 0.5


def test_quarter_turns_are_learned_without_labels_from_images_of_any_sides_and_channels(monkeypatch):
    monkeypatch.setattr(classifier, "MIN_STEPS", 60)
    monkeypatch.setattr(classifier, "MAX_STEPS", 60)
    monkeypatch.setattr(classifier, "LONGEST", 8)  # compiles in less time, and strides by 3 as 48 pixels would
    train, held_out = landscapes(512, 2), landscapes(100, 3)
    lines = []
    space = feature_space(train, held_out, notice=lines.append)
    assert space.accuracy > 0.95
    assert space.task == "rotation"
    assert space.name == f"rotnet64@{train.fingerprint[:8]}"
    assert len(lines) == 1
    images = held_out.images[:6]
    changed = images.copy()
    changed[:, 11, 17] ^= 128
    assert (np.abs(space(changed) - space(images)).max(1) > 0).all()  # the first convolution skips no pixel


def test_one_class_is_no_label():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    assert classifier.classes_of(Source(images=images)) is None
    assert classifier.classes_of(Source(images=images, labels=np.full(4, 3))) is None
    np.testing.assert_array_equal(classifier.classes_of(Source(images=images, labels=np.array([3, 1, 1, 3]))), [1, 3])


def test_a_hit_of_the_cache_is_equal_to_the_bit(space, cache):
    lines = []
    again = feature_space(TRAIN, HELD_OUT, cache=cache, notice=lines.append)
    assert not lines
    assert (again.name, again.accuracy, again.architecture) == (space.name, space.accuracy, space.architecture)
    assert again.digest == space.digest
    np.testing.assert_array_equal(again(HELD_OUT.images), space(HELD_OUT.images))


def test_a_damaged_cache_is_noticed_and_made_anew(in_a_hurry, tmp_path):
    lines = []
    first = feature_space(TRAIN, HELD_OUT, cache=tmp_path, notice=lines.append)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = feature_space(TRAIN, HELD_OUT, cache=tmp_path, notice=lines.append)
    assert len(lines) == 3
    assert str(path) in lines[1]
    assert again.digest == first.digest
    assert list(tmp_path.iterdir()) == [path]


def test_reference_features_are_kept_too(space, cache):
    lines = []
    first = source_features(space, HELD_OUT, cache=cache, notice=lines.append)
    np.testing.assert_array_equal(first, space(HELD_OUT.images))
    (path,) = cache.glob("features-*.npz")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["features"], first)
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(source_features(space, HELD_OUT, cache=cache, notice=lines.append), first)
    assert len(lines) == 1
    other = source_features(space, patterns(200, 5), cache=cache, notice=lines.append)
    assert (other != first).any()
    some = source_features(space, HELD_OUT, limit=50, cache=cache, notice=lines.append)
    rows = [int(np.flatnonzero((first == row).all(1))[0]) for row in some]
    assert len(set(rows)) == 50
    assert rows == sorted(rows)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(space, tmp_path):
    (tmp_path / "file").write_text("")
    lines = []
    features = source_features(space, HELD_OUT, cache=tmp_path / "file", notice=lines.append)
    assert len(features) == 200
    assert len(lines) == 1
    assert "cannot be written" in lines[0]


def test_the_seed_makes_another_space(in_a_hurry):
    first, other = (feature_space(TRAIN, HELD_OUT, seed=seed, notice=lambda line: None) for seed in (0, 1))
    assert other.name == f"cnn64-s1@{TRAIN.fingerprint[:8]}"
    assert other.digest != first.digest


def test_features_of_an_image_do_not_depend_on_the_others(space):
    features = space(TRAIN.images)
    np.testing.assert_allclose(space(TRAIN.images[100:103]), features[100:103], rtol=1e-5, atol=1e-6)
    assert features.shape == (512, classifier.FEATURES)
    with pytest.raises(DataError, match="3 channels"):
        space(np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("size", [1, 100, 300])
def test_features_of_parts_are_those_of_the_whole_to_the_bit(space, size):
    images = TRAIN.images[:300]
    parts = (images[start : start + size] for start in range(0, 300, size))
    np.testing.assert_array_equal(space.streamed(parts, 300), space(images))
    with pytest.raises(ValueError, match="the parts hold 300 images, not 301"):
        space.streamed([images], 301)


def test_a_comparison_keeps_no_images(space):
    """Of 40 parts no more than those of one batch of the network, and the next, are ever in memory."""
    train, held_out = space(TRAIN.images[:400]), space(HELD_OUT.images)
    given, most = [], 0

    class Part(np.ndarray):
        pass

    def parts():
        nonlocal most
        for start in range(0, 2000, 50):
            part = np.full((50, 8, 8, 1), start // 10, np.uint8).view(Part)
            given.append(weakref.ref(part))
            most = max(most, sum(reference() is not None for reference in given))
            yield part
            del part

    compare(space, parts(), (2000, 8, 8, 1), train, held_out)
    assert most <= 256 // 50 + 2


def test_noise_in_parts_is_that_of_one_draw():
    whole = np.random.default_rng(5).integers(0, 256, (150, 3, 3, 1), np.uint8)
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal(np.concatenate(list(_noise(rng, 150, (3, 3, 1)))), whole)
    again = np.random.default_rng(5)
    again.integers(0, 256, (150, 3, 3, 1), np.uint8)
    np.testing.assert_array_equal(rng.permutation(9), again.permutation(9))  # and so is what is drawn after it


def test_the_rows_of_parts_are_those_of_the_whole():
    whole = np.arange(20)[:, None]
    chosen = np.asarray([0, 3, 4, 11, 19])
    rows = list(_rows([whole[:4], whole[4:10], whole[10:]], chosen))
    np.testing.assert_array_equal(np.concatenate(rows)[:, 0], chosen)


def test_turns_are_quarter_turns():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 1), np.uint8)
    turns = np.arange(4, dtype=np.int32)
    turned = classifier.rotate(images, turns)
    np.testing.assert_array_equal(classifier.rotate(turned, (4 - turns) % 4), images)
    np.testing.assert_array_equal(turned[1], images[1].transpose(1, 0, 2)[::-1])


def test_digits_are_told_apart(feature_cache):
    space = feature_space(*split(open_source("digits")), cache=feature_cache, notice=pytest.fail)
    assert space.task == "labels"
    assert space.accuracy >= 0.95


def test_samples_lie_between_data_and_noise(space):
    """Samples half of which are noise are worse than data and better than noise; new data is as good as the old."""
    train, held_out = (source_features(space, source) for source in (TRAIN, HELD_OUT))
    other = patterns(150, 9).points
    noisy = other.copy()
    noisy[::2] = np.random.default_rng(0).integers(0, 256, noisy[::2].shape, np.uint8)
    rows = compare(space, [noisy], noisy.shape, train, held_out)
    assert {row.frechet.n for row in rows.values()} == {150}
    data, samples, noise = (rows[name] for name in ("training data", "samples", "noise"))
    assert data.frechet.value < samples.frechet.value < noise.frechet.value
    assert data.precision > samples.precision > noise.precision
    perfect = compare(space, [other], other.shape, train, held_out)["samples"]
    error = np.hypot(perfect.frechet.standard_error, data.frechet.standard_error)
    assert abs(perfect.frechet.value - data.frechet.value) < 4 * error
    random = np.random.default_rng(1).integers(0, 256, noisy.shape, np.uint8)
    as_bad = compare(space, [random], random.shape, train, held_out)["samples"]
    error = np.hypot(as_bad.frechet.standard_error, noise.frechet.standard_error)
    assert abs(as_bad.frechet.value - noise.frechet.value) < 4 * error
