"""What a configuration leaves to the data: measured once, written down, and kept by a run that goes on."""

import dataclasses
import json

import numpy as np
import pytest

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.score_matching.weightings import EDMWeighting, VelocityWeighting
from experiments.config.tree import Config
from experiments.data.source import Source
from experiments.errors import UsageError
from experiments.training.data import Facts, RunData
from experiments.training.settle import measured_sigma_data, settled, settled_as

AUTO = Config(network=UNetConfig(multipliers="auto", attention_resolutions="auto"), sigma_data="auto")


def images(count=70, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), np.uint8)


def data_of(pixels, parts=True):
    source = Source(images=pixels)
    return RunData(Facts(source.event_shape, 0), (), parts=(source, None) if parts else None)


@pytest.mark.parametrize("shift", [0, 200])
def test_sigma_data_is_the_standard_deviation_of_all_numbers(shift):
    """Also where the mean is far from zero, and over more images than one chunk has."""
    pixels = (images() // 8 + shift).astype(np.uint8)
    expected = np.std(pixels.astype(np.float64) / 127.5 - 1)
    np.testing.assert_allclose(measured_sigma_data(Source(images=pixels)), expected, rtol=5.1e-4)
    wide = Source(images=pixels.astype(np.uint16) * 257)
    assert measured_sigma_data(wide) == measured_sigma_data(Source(images=pixels))


@pytest.mark.parametrize("count", [65, 100, 200])
def test_parts_of_other_means_are_added_up_to_the_whole(count):
    """Of one pixel each, so that the means of the parts are far apart, to all four digits."""
    pixels = images(count, 1)
    assert measured_sigma_data(Source(images=pixels)) == float(f"{np.std(pixels.astype(np.float64) / 127.5):.4g}")


def test_images_are_measured_from_everywhere_in_the_data():
    """Such as data in the order of their classes, of which the first thousand are all black."""
    pixels = np.repeat(np.array([0, 255], np.uint8), 1500)[:, None, None, None]
    np.testing.assert_allclose(measured_sigma_data(Source(images=pixels)), 1.0, rtol=0.01)


def test_points_are_measured_in_their_own_units():
    points = np.random.default_rng(1).normal(3.0, 0.2, (2000, 2)).astype(np.float32)
    np.testing.assert_allclose(measured_sigma_data(Source(images=points)), points.std(), rtol=0.05)


def test_at_most_so_many_images_are_read_and_always_the_same(monkeypatch):
    monkeypatch.setattr("experiments.training.settle._MOST", 40)
    pixels = images(400, 2)
    few = measured_sigma_data(Source(images=pixels))
    assert few == measured_sigma_data(Source(images=pixels.copy()))
    assert few != float(f"{np.std(pixels / 127.5):.4g}")


def test_numbers_take_the_place_of_auto_and_nothing_else_changes():
    data = data_of(images())
    found, sigma = settled(AUTO, data), measured_sigma_data(data.parts[0])
    assert found == Config(
        network=UNetConfig(multipliers=(1, 2), attention_resolutions=(8,)),
        preconditioning=Preconditioning(sigma_data=sigma),
        weighting=EDMWeighting(sigma_data=sigma),
    )
    assert settled(found, data) == found
    assert settled(Config(), data) == Config()


def test_a_number_that_was_given_stays():
    data = data_of(images())
    given = dataclasses.replace(AUTO, preconditioning=Preconditioning(sigma_data=0.3), weighting=VelocityWeighting())
    assert settled(given, data).preconditioning.sigma_data == 0.3
    assert settled(given, data).weighting == VelocityWeighting()


def test_a_run_keeps_its_numbers():
    kept = settled(AUTO, data_of(images()))
    assert settled_as(AUTO, kept) == kept
    other = dataclasses.replace(kept, weighting=dataclasses.replace(kept.weighting, sigma_data=0.25))
    assert settled_as(AUTO, other) == other  # each has its own


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UsageError, match="--sigma-data auto needs the images"):
        settled(AUTO, data_of(images(), parts=False))
    with pytest.raises(UsageError, match="--sigma-data auto measures arrays, which is the same number everywhere"):
        settled(AUTO, data_of(np.full((3, 4, 4, 1), 7, np.uint8)))


SHORT = (
    *("--training.steps", 2, "--training.batch-size", 4, "--training.sample-every", 0, "--training.validate-every", 0),
    *("--network", "mlp", "--network.hidden", 4, "--network.layers", 1, "--network.embedding", 4),
)


def test_the_command_measures_writes_and_goes_on(run_command, tmp_path):
    np.savez(tmp_path / "a.npz", images=images(20, 4))
    told = (
        "train",
        "--preset",
        "digits-ddpm",
        "--data",
        f"npz:{tmp_path / 'a.npz'}",
        "--outdir",
        tmp_path / "run",
        *SHORT,
    )
    outcome = run_command(*told, "--preconditioning.sigma-data", "auto")
    assert outcome.status == 0, outcome.err
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    sigma = written["preconditioning"]["sigma_data"]
    assert (written["sigma_data"], written["weighting"]["sigma_data"]) == ("given", sigma)
    assert sigma != 0.5
    again = run_command(*told, "--preconditioning.sigma-data", "auto", "--dry-run")
    assert again.status == 0, again.err
    assert (again.status, again.value["config"]["preconditioning"]["sigma_data"]) == (0, sigma)
    other = run_command(*told, "--preconditioning.sigma-data", "0.7")
    assert (other.status, "--preconditioning.sigma-data" in other.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preconditioning.sigma-data", "0.7"), (0.7, 0.5)),
        (("--preconditioning.sigma-data", "0.5"), (0.5, 0.5)),
        (("--weighting.sigma-data", "0.7", "--sigma-data", "given"), (0.5, 0.7)),
    ],
)
def test_a_number_on_the_command_line_turns_the_measurement_off(run_command, tmp_path, words, said):
    np.savez(tmp_path / "a.npz", images=images(20, 4))
    told = ("train", "--preset", "photos-cpu", "--data", f"npz:{tmp_path / 'a.npz'}", "--dry-run", "--data.size", 4)
    config = run_command(*told, *words).value["config"]
    assert (config["preconditioning"]["sigma_data"], config["weighting"]["sigma_data"]) == said


def test_two_words_for_sigma_data_that_differ_are_refused(run_command):
    outcome = run_command("train", "--preconditioning.sigma-data", "auto", "--weighting.sigma-data", "0.3", "--dry-run")
    assert (outcome.status, "differ; give one number, or auto for both" in outcome.err) == (2, True)
