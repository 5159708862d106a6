"""What is said of a data set before it is trained on."""

import dataclasses

import numpy as np
import pytest

from experiments.config.tree import Config
from experiments.data import DataConfig, Source
from experiments.data.summary import ranges, summary, warnings
from experiments.errors import UsageError
from experiments.training.data import open_data, tell


def source(labels=None, n=6, high=255, **fields):
    images = np.zeros((n, 2, 3, 1), np.uint8)
    images[0, 0, 0] = high
    return Source(images=images, labels=None if labels is None else np.asarray(labels, np.int32), **fields)


def test_a_line_says_what_was_read():
    held_out = source([1], n=1, class_names=("cat", "dog"))
    pets = source([0, 1, 1, 0, 0, 0], class_names=("cat", "dog"), name="folder:pets", notes=("2 files passed over",))
    assert summary(pets, held_out) == (
        "folder:pets: 7 images of 2×3×1 in 2 classes (cat 4, dog 3), 1 held out; 2 files passed over; "
        "brightest value 255"
    )
    assert summary(source(name="npz:a"), None) == "npz:a: 6 images of 2×3×1, none held out; brightest value 255"
    points = Source(images=np.zeros((5, 2), np.float32), name="plane:x")
    assert summary(points, points) == "plane:x: 10 points in 2 dimensions, 5 held out"
    many = source(np.arange(6) * 100)
    assert len(summary(many, None)) < 300


def test_classes_without_training_images_are_named_by_their_numbers():
    gaps = source([0, 5, 9, 37, 0, 5], class_names=tuple(map(str, range(38))))
    assert "; no training image in the classes 1-4, 6-8, 10-36;" in summary(gaps, None)
    assert ranges([0, 2, 3, 5, 6, 7]) == ["0", "2", "3", "5-7"]


@pytest.mark.parametrize(("high", "words"), [(1, "is 1 of 255"), (16, "16 of 255"), (64, "64"), (0, "every pixel")])
def test_images_that_are_nearly_black_are_warned_of(high, words):
    (line,) = warnings(source(high=high, name="npz:dark"), None)
    assert words in line
    assert "npz:dark" in line
    assert list(warnings(source(high=65), None)) == []
    assert list(warnings(source(high=high), source(high=200))) == []


def opened(path, labels, **data):
    rng = np.random.default_rng(0)
    np.savez(path / "set.npz", images=rng.integers(0, 256, (len(labels), 4, 4), np.uint8), labels=labels)
    config = Config(data=DataConfig(source=f"npz:{path / 'set.npz'}", **data), conditional=True)
    return open_data(dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=2)))


def test_a_run_counts_the_training_images_of_its_classes(tmp_path):
    data = opened(tmp_path, [0, 5, 9, 37] * 5, held_out=0.2)
    counts = np.asarray(data.facts.class_counts)
    assert (counts.sum(), len(counts)) == (16, 38)
    assert np.flatnonzero(counts).tolist() == [0, 5, 9, 37]
    assert "20 images of 4×4×1 in 38 classes" in data.summary


def test_a_quiet_training_tells_of_doubts_alone(tmp_path, capsys):
    data = dataclasses.replace(opened(tmp_path, [0, 1] * 3), warnings=("odd",))
    for quiet, told in ((False, f"{data.summary}\nscorefield: odd\n"), (True, "scorefield: odd\n")):
        tell(data, quiet)
        assert capsys.readouterr().err == told


def test_classes_that_cannot_be_learnt_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"needs two classes or more, and npz:.* has the class 0 alone"):
        opened(tmp_path, [0] * 5)
    with pytest.raises(UsageError, match=r"each class of npz:.* has a single image"):
        opened(tmp_path, range(5))
    assert opened(tmp_path, range(5), held_out=0).facts.class_counts == (1,) * 5
