"""`scorefield compare`, and `evaluate --features`: two sets of images in the features of a file of weights."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.evaluation.distances import moments
from experiments.evaluation.network_space import open_space
from experiments.evaluation.wide import frechet, side
from tests.experiments.evaluation.networks.files import dinov2_file

COUNT = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two sets of pictures, a third in an npz, and weights."""
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    images = {name: rng.integers(low, 256, (COUNT, 8, 8, 3), np.uint8) for name, low in (("a", 0), ("b", 60))}
    for name, pictures in images.items():
        (folder / name).mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / name / f"{i:02}.png")
    np.savez(folder / "b.npz", images=images["b"])
    dinov2_file(folder)
    return folder


@pytest.fixture(scope="module")
def compare(place, run_command):
    """compare(SET, ..., flags): the outcome, with the features of the tiny DINOv2."""

    def run(*words, features=True):
        words = [place / word if (place / str(word)).exists() else word for word in words]
        told = ("--features", place / "dinov2.safetensors") if features else ()
        return run_command("compare", *words, *told, "--cache", place / "cache")

    return run


@pytest.fixture(scope="module")
def report(compare):
    outcome = compare("a", "b", "--json")
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture(scope="module")
def features(place):
    space = open_space(str(place / "dinov2.safetensors"))
    pictures = {name: [np.asarray(Image.open(path)) for path in sorted((place / name).iterdir())] for name in "ab"}
    return {name: space(np.stack(some)) for name, some in pictures.items()}


def test_a_number_is_stated_with_all_that_it_depends_on(report, place):
    assert report["counts"] == [COUNT, COUNT]
    assert report["distance"] == "Fréchet distance"
    told = report["features"]
    assert told["weights"] == str(place / "dinov2.safetensors")
    assert len(told["weights_sha256"]) == 64
    assert "antialiased-bicubic to 224×224" in told["preprocessing"]
    assert told["is_fid"] is False
    assert report["equal_counts"] == COUNT


def test_the_distance_is_that_of_all_images(report, features):
    expected = frechet(side(features["a"]), side(features["b"]))
    assert report["frechet"]["value"] == pytest.approx(expected.value, rel=1e-4)
    assert report["frechet"]["standard_error"] == pytest.approx(expected.standard_error, rel=1e-3)


def test_a_folder_and_an_npz_of_the_same_pictures_are_as_far(compare, report):
    again = json.loads(compare("a", "b.npz", "--json").out)
    assert again["frechet"] == pytest.approx(report["frechet"], rel=1e-6)
    assert again["kernel"] == pytest.approx(report["kernel"], rel=1e-6)


def test_statistics_are_written_and_stand_for_their_images(compare, report, place, features):
    saved = compare("b", "--save-statistics", place / "b-stats.npz")
    assert saved.status == 0, saved.err
    assert "statistics of" in saved.out
    with np.load(place / "b-stats.npz") as file:
        np.testing.assert_allclose(file["sigma"], moments(features["b"]).covariance, rtol=1e-3, atol=1e-5)
        assert int(file["count"]) == COUNT
    found = json.loads(compare("a", "b-stats.npz", "--json").out)
    assert found["frechet"]["value"] == pytest.approx(report["frechet"]["value"], rel=1e-6)
    assert "kernel" not in found
    assert found["counts"] == [COUNT, COUNT]


def test_the_lines_name_weights_preprocessing_and_counts(compare, report):
    said = compare("a", "b").out
    for part in (f"({COUNT} images)", report["features"]["weights_sha256"], report["features"]["preprocessing"]):
        assert part in said
    assert "FID" not in said
    assert "Fréchet distance" in said


@pytest.mark.parametrize(
    ("words", "features", "said"),
    [
        (("a",), True, "1 sets were given; give two, or one with --save-statistics"),
        (("a", "nowhere"), True, "nowhere is no folder, zip or npz that is there"),
        (("a", "plane:moons"), True, "plane:moons holds points"),
        (("a", "b", "--preprocessing", "tf1"), True, "knows imagenet"),
        (("a", "b", "--preprocessing", "tf1"), False, "--preprocessing goes with --features"),
        (("a", "digits"), False, "the images are 8×8×1 and 8×8×3; give --size"),
        (("a", "b", "--limit", "1"), True, "--limit is 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(compare, words, features, said):
    outcome = compare(*words, features=features)
    assert outcome.status in (2, 3)
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_statistics_need_the_network_that_they_are_of(compare, place):
    np.savez(place / "other.npz", mu=np.zeros(5), sigma=np.eye(5))
    assert "has 5 features, and this network 64" in compare("a", "other.npz").err
    assert "give that network by --features" in compare("a", "other.npz", features=False).err


def test_pictures_of_several_sizes_ask_for_one(compare, place, tmp_path):
    for i, length in enumerate((8, 9)):
        Image.fromarray(np.zeros((length, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
    said = compare("a", tmp_path).err
    assert "give --size" in said
    assert "--data." not in said


def test_evaluate_measures_in_the_features_of_a_file(run_command, tiny_run, place):
    path = place / "dinov2.safetensors"
    words = ("evaluate", "--run", tiny_run, "--samples", "8", "--no-bits-per-dim", "--cache", place / "cache")
    outcome = run_command(*words, "--features", path, "--json")
    assert outcome.status == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["features"]["weights_sha256"] == open_space(str(path)).network.sha256
    assert report["distance"] == "Fréchet distance"
    assert report["feature_accuracy"] is None
    assert report["against_held_out"]["samples"]["frechet"]["n"] == 8
    assert "--features goes with distances" in run_command(*words[:3], "--no-distances", "--features", path).err
    assert "--preprocessing goes with --features" in run_command(*words[:3], "--preprocessing", "tf1").err


def test_few_images_are_said_to_be_few_and_foreign_statistics_stay(compare, place):
    outcome = compare("a", "b")
    assert f"{COUNT} images are few" in outcome.out
    foreign = place / "theirs.npz"
    np.savez(foreign, mu=np.zeros(3), sigma=np.eye(3))
    before = foreign.read_bytes()
    outcome = compare("a", "--save-statistics", foreign)
    assert outcome.status == 2
    assert "theirs.npz is there, and of another command or of somebody else" in outcome.err
    assert foreign.read_bytes() == before


def test_images_of_16_bits_are_compared_by_their_flag(compare, place):
    rng = np.random.default_rng(1)
    np.savez(place / "deep.npz", images=rng.integers(0, 2**16, (COUNT, 8, 8, 3), np.uint16))
    outcome = compare("deep.npz", "deep.npz", "--bits", "16", "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["frechet"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_single_picture_is_too_few(compare, place):
    (place / "one").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / "one" / "a.png")
    outcome = compare("one", "a", features=False)
    assert "has 1 image, and distances need 6; give more" in outcome.err
