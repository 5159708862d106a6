"""Which class a seed has: by the seed alone, from what a person writes after --class."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.errors import UsageError
from experiments.interface.arguments import label_of_each
from experiments.pictures.files import read_provenance
from experiments.sampling.labels import choose_classes
from scorefield import load
from tests.experiments.runs.test_classes import model

PETS = ("cat", "dog", "owl", "rat")


def of(asked, text, seeds=range(12)):
    classes = choose_classes(asked, text)
    return None if classes is None else classes.of(seeds).tolist()


@pytest.mark.parametrize(
    ("names", "text", "cycle"),
    [
        (PETS, None, [0, 1, 2, 3]),
        (PETS, "all", [0, 1, 2, 3]),
        (PETS, ":all", [0, 1, 2, 3]),
        (PETS, "owl", [2]),
        (PETS, "1", [1]),
        (PETS, "rat, cat", [3, 0]),
        (PETS, "1-3", [1, 2, 3]),
        (PETS, "cat,2-3", [0, 2, 3]),
        (("all", "dog"), "all", [0]),  # a name comes first, and the colon makes it the word
        (("all", "dog"), ":all", [0, 1]),
        (("all", "dog"), None, [0, 1]),
        (("1-2", "a,b", "c"), "1-2", [0]),
        (("1-2", "a,b", "c"), "a,b", [1]),
        (("5", "6", "7"), "6-7", [1, 2]),  # as the folders are called
        (("05", "06", "17"), "05-06", [0, 1]),
        (("0", "5", "9", "37"), "1-9", [1, 2]),  # those that there are
        (("x", "2", "0-1", "y"), "0-3", [0, 1, 2, 3]),  # by number, for 0 and 3 are no names
    ],
)
def test_classes_come_in_turn_by_the_seed(names, text, cycle):
    asked = model(names)
    assert of(asked, text) == [cycle[seed % len(cycle)] for seed in range(12)]
    assert of(asked, text, [7, 1000, 2]) == [cycle[seed % len(cycle)] for seed in (7, 1000, 2)]
    assert label_of_each(asked, text, [7, 1000, 2]).tolist() == of(asked, text, [7, 1000, 2])


def test_no_class_is_one_too():
    for text in ("none", ":none"):
        assert of(model(PETS), text) is None
        assert of(model(("none", "dog")), text) == ([0] * 12 if text == "none" else None)
    assert of(model(PETS, conditional=False), None) is None
    assert label_of_each(model(PETS), "none", range(3)) is None


def test_random_classes_are_as_frequent_as_in_training_and_the_seed_s_own():
    counts = (30, 0, 10, 60)
    asked = model(PETS, counts=counts)
    drawn = np.asarray(of(asked, "random", range(4000)))
    expected = 4000 * np.asarray(counts) / 100
    error = 4 * np.sqrt(expected * (1 - expected / 4000))
    assert (np.abs(np.bincount(drawn, minlength=4) - expected) <= error).all()
    assert of(asked, "random", [3999, 5, 70]) == drawn[[3999, 5, 70]].tolist()
    assert set(of(model(PETS, counts=(0, 1, 0, 2)), "random", range(40))) == {1, 3}
    assert of(asked, None, range(3)) == [0, 2, 3]  # the class that nobody trained is left out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat,cow", "--class cow does not exist; this model knows the classes cat, dog, rat"),
        ("3-9", "--class 4 does not exist"),
        ("3-999999999", "--class 4 does not exist"),
        ("3-1", "--class 3-1 ends before it begins; write 1-3"),
        ("1,dog", "--class 1,dog names the class dog twice; give it once"),
        ("cat,", "--class '' does not exist"),
        (":dog", "--class :dog does not exist (did you mean 'dog'?"),
        ("everything", "--class everything does not exist"),
        ("owl,cat", "--class owl had no training image; choose one of the classes cat, dog, rat"),
        ("0-3", "--class owl had no training image"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(text, words):
    with pytest.raises(UsageError) as caught:
        choose_classes(model(PETS, counts=(3, 2, 0, 1)), text)
    assert words in str(caught.value)


def test_a_run_that_was_always_told_a_class_has_no_samples_of_none():
    from dataclasses import replace

    asked = model(PETS)
    told = replace(asked, config=replace(asked.config, label_dropout=0.0))
    assert of(told, None) == of(asked, None)
    with pytest.raises(UsageError, match="this run's network was always told a class; give one"):
        choose_classes(told, "none")
    with pytest.raises(UsageError, match="of this run knows no classes"):
        choose_classes(model(PETS, conditional=False), "all")


@pytest.fixture(scope="module")
def drawn(run_command, conditional_run, tmp_path_factory):
    """A function: the outcome and the folder of a command that samples the tiny conditional run."""

    def run(*flags: Any):
        folder = tmp_path_factory.mktemp("drawn")
        outcome = run_command("sample", "--run", conditional_run, "--outdir", folder, "--json", *flags)
        assert outcome.status == 0, outcome.err
        return outcome, folder

    return run


def test_by_default_classes_come_in_turn_in_every_kind_of_file(drawn, conditional_run):
    outcome, folder = drawn("--format", "npz", "--seeds", "3-13")
    arrays, seeds = np.load(folder / "samples.npz"), list(range(3, 14))
    assert outcome.value["class"] == "all"
    assert arrays["labels"].tolist() == [seed % 10 for seed in seeds]
    assert arrays["class_names"].tolist() == list("0123456789")
    _, singles = drawn("--format", "png", "--seeds", "3-13")
    for row, seed in enumerate(seeds):
        path = singles / f"{seed:06}.png"
        assert (read_provenance(path)["label"], read_provenance(path)["class_name"]) == (seed % 10, str(seed % 10))
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), arrays["images"][row, ..., 0])
    _, sheet = drawn("--seeds", "3-13")
    said = read_provenance(sheet / "samples.png")
    assert said["labels"] == [seed % 10 for seed in seeds]
    assert said["class_names"]["7"] == "7"
    run = load(conditional_run)
    np.testing.assert_array_equal(run.sample(seeds), arrays["images"])
    # A seed's image is its own: the class of it does not change with the others.
    np.testing.assert_array_equal(run.sample([12, 4]), arrays["images"][[9, 1]])
    np.testing.assert_array_equal(run.sample([12], label=2), arrays["images"][[9]])


def test_guidance_needs_no_class_by_name(drawn):
    guided = drawn("--seeds", "0-3", "--guidance", "200", "--format", "npz")[1]
    plain = drawn("--seeds", "0-3", "--format", "npz")[1]
    free = drawn("--seeds", "0-3", "--format", "npz", "--class", "none")[1]
    images = [np.load(folder / "samples.npz") for folder in (guided, plain, free)]
    assert (images[0]["images"] != images[1]["images"]).any()
    assert (images[1]["images"] != images[2]["images"]).any()
    assert "labels" not in images[2]
    assert json.loads((free / "samples.json").read_text())["class"] is None  # as it was when that was the default


def test_samples_of_before_are_not_mixed_with_those_of_the_new_default(drawn, run_command, conditional_run):
    _, folder = drawn("--seeds", "0-1", "--format", "png", "--class", "none")
    told = ("sample", "--run", conditional_run, "--outdir", folder, "--format", "png", "--seeds", "0-2")
    refused = run_command(*told)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "holds samples of another command (class None, not all)" in refused.err
    assert run_command(*told, "--class", "none", "--json").value["already_there"] == 2


def test_a_word_that_is_a_class_is_the_class_and_a_kernel_has_none(run_command, conditional_run, tmp_path):
    refused = run_command("sample", "--run", conditional_run, "--kernel", "mala", "--class", "3")
    assert "--class does not go with --kernel" in refused.err
    done = run_command("sample", "--run", conditional_run, "--class", "0-9", "--seeds", "0-9", "--outdir", tmp_path)
    assert "10 samples of 10 classes, 7 network calls each" in done.out
