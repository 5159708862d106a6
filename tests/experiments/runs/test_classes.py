"""Classes of a run by name and by number, and those that it has never seen."""

import dataclasses
import re
from typing import Any, cast

import numpy as np
import pytest

from experiments.config.tree import Config
from experiments.data import DataConfig, open_source
from experiments.data.place import Place
from experiments.errors import UsageError
from experiments.interface.arguments import label_of_each
from experiments.names import listed
from experiments.runs.classes import choice, class_numbers
from experiments.runs.counted import with_counts
from experiments.runs.model import Model
from experiments.sampling.drawing import draw
from experiments.training.data import Facts


def model(names=(), count=0, counts=None, rules: Any = 2, conditional=True):
    config = Config(conditional=conditional, data=DataConfig(rules=rules))
    facts = Facts((4, 4, 1), len(names) or count, tuple(names), class_counts=counts)
    return Model(config, facts, cast(Any, None), None)


@pytest.mark.parametrize(
    ("names", "rules", "text", "number"),
    [
        (("cat", "dog"), 2, "dog", 1),
        (("cat", "dog"), 2, "1", 1),  # no name, and so a number
        (("cat", "0"), 2, "0", 1),  # a name before a number
        (("1", "2", "3"), 2, "1", 0),  # as the folders are called
        (("0", "1", "10", "11", "2"), 1, "2", 2),  # as older runs have always taken it
        (("cat", "0"), 1, "0", 0),
        (("cat", "dog"), 1, "dog", 1),
        ((), 2, "3", 3),
    ],
)
def test_a_text_is_a_name_or_else_a_number(names, rules, text, number):
    asked = model(names, count=4, rules=rules)
    assert class_numbers(asked, text) == number
    np.testing.assert_array_equal(class_numbers(asked, [[text], [text]], "labels"), [[number], [number]])
    assert label_of_each(asked, text, range(2)).tolist() == [number] * 2


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (
            ("cat", "dog"),
            "Dog",
            "--class Dog does not exist (did you mean 'dog'?); this model knows the classes cat, dog.",
        ),
        (("cat", "dog"), "2", "--class 2 does not exist; this model knows the classes cat, dog."),
        (("1", "2", "3"), "0", "--class 0 does not exist; this model knows the classes 1, 2, 3."),
        (("0", "1", "2"), "12", "--class 12 does not exist; this model"),
        (("0", "1", "2"), "1.5", "--class 1.5 does not exist"),
        (("0", "1", "2"), "9" * 5000, "--class 999"),
        (("0", "1", "2"), "", "--class '' does not exist"),
        (("0", "1", "2"), 3, "--class 3 does not exist; this model knows the classes 0 to 2."),
        (("0", "1", "2"), 1.0, "--class is 1.0; give whole numbers, or names"),
        ([f"a\n{i}" * 9 for i in range(5000)], "x", "and 4,99"),
    ],
)
def test_what_is_no_class_is_refused_with_those_there_are(names, given, words):
    with pytest.raises(UsageError) as caught:
        class_numbers(model(names), given)
    sentence = str(caught.value)
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) <= 300


def test_a_class_without_a_training_image_is_refused_wherever_one_is_drawn():
    gaps = model(count=6, counts=(3, 0, 0, 2, 0, 1))
    assert gaps.trained_classes == (0, 3, 5)
    assert class_numbers(gaps, [0, 3, 5]).tolist() == [0, 3, 5]
    solver = cast(Any, type("Plain", (), {"sampler": type("Any", (), {"takes_pair": False})}))
    for given in ("4", 4, [0, 4]):
        with pytest.raises(UsageError, match=r"4.* had no training image; choose one of the classes 0, 3, 5"):
            class_numbers(gaps, given)
    with pytest.raises(UsageError, match="--class 4 had no training image"):
        draw(gaps, solver, [0], label=4)
    named = model(("cat", "dog", "owl"), counts=(1, 0, 2))
    with pytest.raises(UsageError, match="--class dog had no training image; choose one of the classes cat, owl"):
        class_numbers(named, 1)


def test_an_older_checkpoint_does_not_say_what_it_has_seen():
    written = {"event_shape": [4, 4, 1], "num_classes": 2, "class_names": ["a", "b"], "fingerprint": "x"}
    before = Facts.from_json(written)
    now = dataclasses.replace(before, class_counts=(3, 0))
    assert before == now  # a run goes on
    assert Facts.from_json(now.to_json()).class_counts == (3, 0)
    assert dataclasses.replace(model(("a", "b")), facts=before).trained_classes == (0, 1)


def test_a_model_without_classes_refuses_names_and_leaves_numbers_to_the_network():
    plain = model(("a", "b"), conditional=False)
    with pytest.raises(UsageError, match="of this run knows no classes"):
        class_numbers(plain, "a")
    assert class_numbers(plain, 7) == 7


def test_names_are_listed_on_one_short_line():
    assert listed(["a", "b"]) == "a, b"
    assert listed(map(str, range(1000)), limit=10) == "0, 1, 2, 3 and 996 more"
    assert listed(["a\nb", ""]) == r"'a\nb', ''"
    assert len(listed(["x" * 500, "y"])) < 120
    assert choice(model(count=10)) == "the classes 0 to 9"


@pytest.fixture
def counted_by(tmp_path):
    """A function: a model with these classes of a run that has counted nothing, and its data in an archive."""

    def make(labels, **facts):
        path = tmp_path / "few.npz"
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4), np.uint8)
        np.savez(path, images=images, labels=np.asarray(labels))
        config = Config(conditional=True, data=DataConfig(source=f"npz:{path}", held_out=0))
        source = open_source(f"npz:{path}")
        known = Facts(source.event_shape, source.num_classes, source.class_names, source.fingerprint)
        return Model(config, dataclasses.replace(known, **facts), cast(Any, None), None)

    return make


def test_an_older_run_counts_its_classes_where_its_data_are(counted_by, capsys):
    old = counted_by([0, 0, 2, 2])
    assert old.trained_classes == (0, 1, 2)  # for all it knows
    assert with_counts(old).trained_classes == (0, 2)
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="--class 1 had no training image"):
        class_numbers(with_counts(old), "1")


@pytest.mark.parametrize(
    ("facts", "data", "why"),
    [
        ({"fingerprint": ""}, None, "it kept no fingerprint to know its data by"),
        ({"fingerprint": "0" * 64}, None, "npz:.*few.npz holds other images now"),
        ({}, "npz:nowhere.npz", r"its data cannot be read \(nowhere.npz does not exist; .*\)"),
        ({"place": Place("npz:/nowhere.npz", "theirs")}, None, r"its data cannot be read \(.*npz:/nowhere.npz.*\)"),
    ],
)
def test_an_older_run_says_that_it_cannot_count(counted_by, capsys, facts, data, why):
    old = dataclasses.replace(counted_by([0, 2], **facts), data=data)
    assert with_counts(old) is old
    error = capsys.readouterr().err
    assert re.fullmatch(
        f"scorefield: nobody has counted this run's training images by class, and {why}; a class without any is drawn "
        "too.\n",
        error,
    )
    with_counts(dataclasses.replace(old, facts=dataclasses.replace(old.facts, class_counts=(1, 0, 1))))
    assert capsys.readouterr().err == ""
