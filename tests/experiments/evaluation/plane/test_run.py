"""A tiny run of points under heavy-tailed noise, through train, resume, sample, evaluate and verify."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.data.sources import plane
from experiments.pictures.files import read_provenance

TINY = [
    *("--preset", "toy-checkerboard", "--quiet", "--network.hidden", "16", "--network.layers", "1"),
    *("--network.embedding", "8", "--training.steps", "12", "--training.batch-size", "64", "--training.log-every", "4"),
    *("--training.checkpoint-every", "6", "--training.validate-every", "6", "--training.sample-every", "12"),
    *("--sampling.steps", "4"),
]


@pytest.fixture(scope="module", autouse=True)
def few_points():
    """A smaller data set: its exact denoiser is a sum over all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plane, "COUNT", 2000)
        yield


@pytest.fixture(scope="module")
def plane_run(run_command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plane"
    outcome = run_command("train", "--outdir", folder, *TINY)
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def points(plane_run, run_command):
    outcome = run_command("sample", "--run", plane_run, "--outdir", plane_run / "npz", "--format", "npz")
    assert outcome.status == 0, outcome.err
    return np.load(plane_run / "npz" / "samples.npz")["points"]


def test_training_writes_a_picture_of_the_law_and_of_samples(plane_run):
    said = read_provenance(plane_run / "samples" / "step-0000012.png")
    assert said["step"] == 12
    assert said["seeds"] == "0-1999"
    assert list(said["mass_within"]) == ["the law of the data, exact"]
    assert said["mass_within"]["the law of the data, exact"] == pytest.approx(1, abs=1e-3)


def test_points_are_written_as_they_are_with_their_seeds(plane_run, points, run_command):
    path = plane_run / "npz" / "samples.npz"
    assert points.shape == (64, 2)
    assert points.dtype == np.float32
    assert np.abs(points).max() > 1  # nothing is clipped to the range of images
    said = read_provenance(path)
    assert said["arrays"] == {"points": [64, 2], "seeds": [64]}
    outcome = run_command(
        *("sample", "--run", plane_run, "--outdir", plane_run / "few", "--format", "npz"),
        *("--seeds", "5,60", "--batch", "2"),
    )
    assert outcome.status == 0, outcome.err
    few = np.load(plane_run / "few" / "samples.npz")
    np.testing.assert_allclose(few["points"], points[[5, 60]], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(few["seeds"], [5, 60])


def test_a_resumed_run_gives_the_same_points(plane_run, points, run_command, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(plane_run, again)
    shutil.rmtree(again / "checkpoints" / "00000012")
    outcome = run_command("train", "--outdir", again, "--json", *TINY, "--training.sample-every", "0")
    assert outcome.status == 0, outcome.err
    assert outcome.value["step"] == 12
    run_command("sample", "--run", again, "--outdir", again, "--format", "npz")
    np.testing.assert_array_equal(np.load(again / "samples.npz")["points"], points)


def test_the_picture_has_three_panels_and_says_what_it_shows(plane_run, run_command, tmp_path):
    outcome = run_command("sample", "--run", plane_run, "--outdir", tmp_path, "--json")
    assert outcome.status == 0, outcome.err
    said = read_provenance(tmp_path / "samples.png")
    assert said["run" if "run" in said else "checkpoint"]
    law, model = said["mass_within"].values()
    assert law == pytest.approx(1, abs=1e-3)
    assert 0 < model <= 1.01
    assert said["samples_outside"] >= 0
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width > 2.5 * picture.height


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--format", "png"), "--format png goes with images, and this run makes points; take --format npz."),
        (("--clip", "range"), "--clip range goes with images, and this run makes points; leave it out."),
        (("--class", "1"), "--class goes with a conditional model"),
    ],
)
def test_what_goes_with_images_is_refused(plane_run, run_command, tmp_path, flags, words):
    outcome = run_command("sample", "--run", plane_run, "--outdir", tmp_path, *flags)
    assert outcome.status == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_evaluation_compares_with_the_exact_law(plane_run, run_command):
    outcome = run_command("evaluate", "--run", plane_run, "--samples", "100", "--json")
    assert outcome.status == 0, outcome.err
    told = outcome.value
    assert told["points_compared"] == 100
    assert list(told["against_held_out"]) == ["samples", "training data", "Gaussian"]
    for row in told["against_held_out"].values():
        assert {0 < test["p_value"] <= 1 for test in row.values()} == {True}
    assert told["against_held_out"]["samples"]["sliced_w2"]["p_value"] < 0.05  # after twelve steps
    assert told["against_held_out"]["training data"]["sliced_w2"]["p_value"] > 0.05
    likelihood = told["likelihood"]
    nll, entropy, kl = (likelihood[name] for name in ("nll", "entropy", "kl"))
    assert likelihood["points"] == 100
    if likelihood["lost"] == 0:
        assert kl["value"] == pytest.approx(nll["value"] - entropy["value"], abs=1e-9)
    assert kl["value"] > 4 * kl["standard_error"]
    assert entropy["value"] == pytest.approx(
        np.log(8 * 0.4329**2), abs=0.3
    )  # of 8 squares of this side, and soft edges


def test_evaluation_is_shown_as_a_table_and_refuses_what_goes_with_images(plane_run, run_command):
    outcome = run_command("evaluate", "--run", plane_run, "--samples", "100")
    assert outcome.status == 0, outcome.err
    for words in ("energy distance", "sliced W2", "training data", "KL(data‖model)", "entropy of their law"):
        assert words in outcome.out
    outcome = run_command("evaluate", "--run", plane_run, "--no-bits-per-dim")
    assert outcome.status == 2
    assert "--bits-per-dim goes with images" in outcome.err


def test_an_energy_is_trained_drawn_and_evaluated_as_one(run_command, tmp_path):
    tiny = [*TINY[2:], "--training.sample-every", "0", "--sampling.steps", "2"]
    outcome = run_command("train", "--outdir", tmp_path / "run", "--preset", "toy-moons", *tiny)
    assert outcome.status == 0, outcome.err
    outcome = run_command("sample", "--run", tmp_path / "run", "--outdir", tmp_path)
    assert outcome.status == 0, outcome.err
    law, model = read_provenance(tmp_path / "samples.png")["mass_within"].items()
    assert "* N(0, 0.07² I), exact" in law[0]
    assert "the model's energy" in model[0]
    assert law[1] == pytest.approx(1, abs=1e-3)
    assert 0 < model[1] < 1  # Z is taken over more than the picture, and twelve steps leave much there
    outcome = run_command("evaluate", "--run", tmp_path / "run", "--samples", "100", "--json")
    assert outcome.status == 0, outcome.err
    told = outcome.value["likelihood"]
    assert (told["by"], told["blur"], told["one_level"]) == ("energy", pytest.approx(0.07), True)
    assert told["kl"]["value"] > 4 * told["kl"]["standard_error"]
    outcome = run_command("evaluate", "--run", tmp_path / "run", "--samples", "100")
    assert "KL(data * N(0, 0.07² I)‖model)" in outcome.out
    outcome = run_command("anomaly", "--run", tmp_path / "run", "--images", "50")
    assert outcome.status == 0, outcome.err
    assert "image" not in outcome.out
    assert "−ln p̂ at σ = 0.07, each point as it is" in outcome.out
    assert "a point of held-out is stranger than one of training with probability" in outcome.out
    chain = ("sample", "--run", tmp_path / "run", "--kernel", "hmc", "--steps", "3", "--hold", "1", "--seeds", "0-4")
    outcome = run_command(*chain, "--batch", "2", "--outdir", tmp_path / "chain")
    assert outcome.status == 0, outcome.err
    assert "5 samples, 4 steps of hmc at T = 1, accepted" in outcome.out


def test_verification_speaks_of_points(plane_run, run_command):
    outcome = run_command("verify", "--run", plane_run, "--samples", "16", "--json")
    assert outcome.status in (0, 1), outcome.err
    findings = json.loads(outcome.out)
    assert not [finding["name"] for finding in findings if "could not be measured" in finding["meaning"]]
    assert "image" not in outcome.out
    assert "pixel" not in outcome.out
    assert "points" in outcome.out


def test_a_network_of_images_does_not_fit_points(run_command, tmp_path):
    outcome = run_command("train", "--preset", "toy-moons", "--network", "unet", "--outdir", tmp_path, "--quiet")
    assert outcome.status == 2
    assert "the network does not fit the data" in outcome.err
