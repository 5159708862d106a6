"""What the command line can ask besides the network: guidance of every kind, clipping, paths, fitted grids."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from diffusion.prediction import Preconditioning
from experiments.config.nodes import Chain
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.runs.model import Model
from experiments.sampling.guidance import Guidance
from experiments.training.data import Facts

CHAIN = Config(schedule=Chain(), preconditioning=Preconditioning("eps"), learned_variance=True, conditional=True)
LEARNED = Model(CHAIN, Facts((2, 2, 1), 10), cast(Any, lambda *_: None), None)
"""A model that is only asked for what it cannot do."""


@pytest.fixture(scope="module")
def draw(run_command, conditional_run, tmp_path_factory):
    """(report, images) of three seeds of the tiny conditional run."""

    def run(*arguments):
        folder = tmp_path_factory.mktemp("drawn")
        command = ("sample", "--run", conditional_run, "--seeds", "0-2", "--outdir", folder, "--format", "npz")
        outcome = run_command(*command, "--json", *arguments)
        assert outcome.status == 0, outcome.err
        return outcome.value, np.load(folder / "samples.npz")["images"].astype(int)

    return run


def test_guidance_in_an_interval(draw):
    """Over all levels it is plain guidance, over none the class as it is; in between it is neither."""
    arguments = ("--class", "3", "--guidance", "200")  # the tiny model hears little of its class
    plain, images = draw(*arguments)
    report, everywhere = draw(*arguments, "--guidance-low", "1e-9")
    np.testing.assert_allclose(everywhere, images, atol=1)
    assert (report["nfe"], report["guidance_interval"]) == (plain["nfe"], [1e-9, "inf"])
    nowhere = draw(*arguments, "--guidance-high", "1e-9")[1]
    np.testing.assert_allclose(nowhere, draw("--class", "3")[1], atol=1)
    some = draw(*arguments, "--guidance-low", "0.3", "--guidance-high", "3")[1]
    assert np.abs(some - images).max() > 1
    assert np.abs(some - nowhere).max() > 1


def test_autoguidance_leads_away_from_a_weaker_model(draw, conditional_run):
    """Away from itself there is nowhere to go; away from its own beginnings there is."""
    plain, images = draw("--class", "3")
    report, same = draw("--class", "3", "--guidance", "5", "--weak", conditional_run)
    np.testing.assert_allclose(same, images, atol=1)
    assert report["nfe"] == 2 * plain["nfe"]
    assert report["weak"]["step"] == 12
    assert len(report["weak"]["sha256"]) == 64
    early = sorted((conditional_run / "checkpoints").iterdir())[0]
    assert np.abs(draw("--class", "3", "--guidance", "5", "--weak", early)[1] - images).max() > 1
    assert draw("--class", "none", "--guidance", "5", "--weak", early)[0]["class"] is None


def test_cfgpp_renoises_with_the_model_without_the_class(draw):
    report, images = draw("--sampler", "cfgpp", "--sampler.scale", "0", "--steps", "4", "--class", "3")
    free, without = draw("--sampler", "ddim", "--steps", "4", "--class", "none")
    np.testing.assert_allclose(images, without, atol=1)
    assert (report["nfe"], free["nfe"]) == (8, 4)


def test_answers_may_be_clipped(draw):
    """The tiny model's answers leave the range of images; clipping pixels changes others than dividing images."""
    images = draw("--class", "3", "--guidance", "2000")[1]
    ranged, dynamic = (draw("--class", "3", "--guidance", "2000", "--clip", how) for how in ("range", "dynamic"))
    assert ranged[0]["clip"] == "range"
    assert dynamic[0]["clip"] == "dynamic, percentile 99.5"
    assert np.abs(ranged[1] - images).max() > 1
    assert np.abs(dynamic[1] - ranged[1]).max() > 1


def test_a_brownian_tree_makes_finer_grids_the_same_image(draw):
    def apart(*extra):
        coarse, fine = (draw("--sampler", "sde-dpmpp", "--steps", steps, *extra) for steps in ("24", "48"))
        return np.mean(np.abs(coarse[1] - fine[1])), coarse[0]

    along_paths, report = apart("--brownian-tree")
    assert along_paths < 0.5 * apart()[0]
    assert report["brownian_tree"] is True


def test_a_grid_is_fitted_once_and_kept_with_the_run(run_command, conditional_run, draw, tmp_path):
    fit = ("grid", "--run", conditional_run, "--sampler", "dpmpp-2m", "--steps", "4")
    few = ("--images", "4", "--reference-steps", "12", "--rounds", "2")
    outcome = run_command(*fit, *few, "--json")
    assert outcome.status == 0, outcome.err
    kept = json.loads(Path(outcome.value["file"]).read_text())
    assert kept["error"] <= kept["error_of_best_fixed"]
    assert len(kept["times"]) == 5
    assert kept["checkpoint_sha256"] == outcome.value["checkpoint_sha256"]
    report, _ = draw("--sampler", "dpmpp-2m", "--steps", "4", "--grid", "fitted")
    assert (report["grid"], report["first_time"], report["nfe"]) == ("fitted", kept["times"][0], 4)
    assert report["last_time_above_0"] == kept["times"][-2]
    assert report["fitted"]["times"] == kept["times"]
    assert "the best fixed grid" in run_command(*fit, *few).out
    early = sorted((conditional_run / "checkpoints").iterdir())[0]
    other = run_command("sample", "--run", early, "--seeds", "0", *fit[3:], "--grid", "fitted", "--outdir", tmp_path)
    assert (other.status, other.err.count("\n")) == (0, 1)
    assert "fitted to another checkpoint" in other.err


def test_the_catalogue_s_samplers_all_draw(draw):
    """Those whose command line is more than their name."""
    restart = draw(
        *("--sampler", "restart", "--steps", "6", "--sampler.intervals.0.repeats", "1"),
        *("--sampler.intervals.0.low", "0.1", "--sampler.intervals.0.high", "1"),
    )[0]
    assert restart["nfe"] == 11 + 6
    assert restart["options"]["intervals"] == [{"low": 0.1, "high": 1.0, "repeats": 1, "steps": 3}]
    assert draw("--sampler", "er-sde", "--sampler.order", "2", "--steps", "5")[0]["nfe"] == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--guidance-low", "1"], "--guidance-high limit a guidance; add one"),
        (
            ["--class", "3", "--guidance", "2", "--guidance-low", "3", "--guidance-high", "1"],
            "no noise level to guide at",
        ),
        (["--class", "3", "--clip", "dynamic", "--percentile", "120"], "--percentile is 120"),
        (["--sampler", "cfgpp", "--class", "none"], "--sampler cfgpp strengthens a class; name one by --class"),
        (["--guidance", "2", "--class", "none"], "--guidance strengthens a class; name one by --class"),
        (["--sampler", "cfgpp", "--class", "3", "--guidance", "2"], "has its guidance in --sampler.scale"),
        (["--sampler", "heun", "--brownian-tree"], "does not follow a Brownian path"),
        (["--sampler", "unipc", "--steps", "7", "--grid", "fitted"], "run: scorefield grid --run"),
        (
            ["--sampler", "unipc", "--steps", "7", "--grid", "fitted", "--rho", "3"],
            "--rho does not go with --grid fitted",
        ),
        (["--percentile", "90"], "--percentile goes with --clip dynamic"),
        (["--weak", "{run}", "--guidance", "inf"], "give a finite number"),
        (["--weak", "{run}"], "add one, such as --guidance 2"),
        (["--weak", "{tiny}", "--guidance", "2"], "--weak has other schedule than --run"),
        (["--weak", "{run}", "--guidance", "2", "--guidance-low", "1", "--class", "3"], "not with --weak"),
    ],
)
def test_what_does_not_go_together_is_refused(run_command, conditional_run, tiny_run, tmp_path, arguments, words):
    arguments = [argument.format(run=conditional_run, tiny=tiny_run) for argument in arguments]
    outcome = run_command("sample", "--run", conditional_run, "--outdir", tmp_path / "out", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sampler", "sde-dpmpp"], "is stochastic, and has no flow to be near to"),
        (["--sampler", "dpmpp-2m", "--grid", "karras"], "are what is to be found"),
        (["--sampler", "dpmpp-2m", "--images", "1"], "--images is 1"),
        (["--sampler", "ddim", "--steps", "1"], "steps = 1"),
        (["--sampler", "cfgpp"], "follows no flow"),
        (["--sampler", "ddim", "--rounds", "-1"], "--rounds is -1"),
    ],
)
def test_grids_that_cannot_be_fitted_are_refused(run_command, conditional_run, arguments, words):
    outcome = run_command("grid", "--run", conditional_run, *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err


@pytest.mark.parametrize("guidance", [Guidance(2.0), Guidance(2.0, low=0.3, high=3.0), Guidance(2.0, weak=LEARNED)])
def test_guidance_has_no_learned_variance(guidance):
    with pytest.raises(UsageError, match="--guidance has no learned variance; choose"):
        guidance.denoiser(LEARNED, np.zeros(2, int), with_variance=True)
