"""The command line as a person and as a script use it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusion.schedules import VP
from experiments.commands.train import read
from experiments.config import load_config
from experiments.images import read_provenance
from experiments.presets import load


def test_help_and_usage_errors_need_no_heavy_import():
    """What answers within a second must not load a device or a training library."""
    program = (
        "import sys\nfrom experiments.cli import main\n"
        "for arguments in (['--help'], ['trian'], ['--version']): main(arguments)\n"
        "assert not {'jax', 'tyro', 'flax', 'grain'} & set(sys.modules)\n"
        "for arguments in (['train', '--help'], ['train', '--schedul', 'vp'], ['sample', '--help']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        "heavy = {'flax', 'optax', 'orbax', 'grain', 'sklearn', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "--preset", "digit-ddpm"], "did you mean 'digits-ddpm'?"),
        (["train", "--preset"], "--preset needs a value"),
        (["train", "--schedul.steps", "5"], "did you mean --schedule.steps?"),
        (["train", "--network.channels", "x"], "invalid literal for int()"),
        (["train", "--network.channels", "3"], "channels is 3; give a multiple of 2"),
        (["train", "--schedule", "vq"], "--schedule vq does not exist"),
        (["train", "--schedule", "vp", "--schedule.beta-min", "-1"], "beta_min = -1.0"),
        (["train", "--data", "digitz", "--dry-run", "--data.held-out", "2"], "--data.held-out is 2.0"),
        (["train", "--learned-variance"], "add --preconditioning.kind eps"),
        (["sample"], "--run is missing"),
        (["sample", "--run", "x", "--sampler", "huen"], "did you mean 'heun'?"),
        (["evaluate", "--run", "x", "--samples", "1"], "--samples must be at least 2"),
        ([], "usage: scorefield"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(run_command, arguments, words):
    outcome = run_command(*arguments)
    assert outcome.status == 2
    assert words in outcome.err + outcome.out
    if arguments:
        assert outcome.err.count("\n") == 1
        assert outcome.err.startswith("scorefield: error: ")


def test_missing_data_and_runs_have_their_own_status(run_command, tmp_path):
    outcome = run_command("train", "--outdir", tmp_path / "run", "--data", f"folder:{tmp_path / 'none'}")
    assert (outcome.status, outcome.err.count("\n")) == (3, 1)
    outcome = run_command("sample", "--run", tmp_path / "none")
    assert (outcome.status, outcome.err.count("\n")) == (4, 1)
    outcome = run_command("evaluate", "--run", tmp_path)
    assert (outcome.status, outcome.err.count("\n")) == (4, 1)


def test_flags_override_the_preset():
    told = read(["--schedule", "vp", "--schedule.beta-max", "10", "--data", "folder:x", "--training.steps", "7"])
    assert told.config.schedule == VP(beta_max=10.0)
    assert told.config.data.source == "folder:x"
    assert told.config.training.steps == 7
    assert told.config.network == load("digits-ddpm").network
    flow = read(["--schedule=rectified-flow", "--weighting", "velocity", "--preconditioning.kind", "velocity"])
    assert flow.config.preconditioning.kind == "velocity"
    assert type(flow.config.weighting).__name__ == "VelocityWeighting"


def test_dry_run_prints_what_config_json_will_hold(run_command, tiny_run, tiny_flags):
    shown = run_command("train", "--preset", "digits-ddpm", "--outdir", tiny_run, "--dry-run", *tiny_flags).value
    assert shown["config"] == json.loads((tiny_run / "config.json").read_text())
    assert load_config(tiny_run / "config.json").training.steps == 12


def test_the_same_command_again_has_nothing_left_to_do(run_command, tiny_run, tiny_flags):
    outcome = run_command("train", "--preset", "digits-ddpm", "--outdir", tiny_run, "--json", *tiny_flags)
    assert outcome.status == 0
    assert outcome.value["step"] == 12


def test_seeds_give_the_same_images_in_any_batch(run_command, tiny_run, tmp_path):
    """To one grey level: the last bit of a float may differ between batch sizes."""

    def draw(name, *arguments):
        outcome = run_command("sample", "--run", tiny_run, "--outdir", tmp_path / name, "--format", "npz", *arguments)
        assert outcome.status == 0, outcome.err
        return np.load(tmp_path / name / "samples.npz")["images"].astype(int)

    whole = draw("a", "--seeds", "0-6", "--batch", "7")
    np.testing.assert_allclose(draw("b", "--seeds", "0-6", "--batch", "3"), whole, atol=1)
    np.testing.assert_allclose(draw("c", "--seeds", "5,2", "--batch", "64"), whole[[5, 2]], atol=1)
    assert whole.shape == (7, 8, 8, 1)


def test_pictures_carry_their_provenance(run_command, tiny_run, tmp_path):
    outcome = run_command(
        *("sample", "--run", tiny_run, "--sampler", "ddim", "--sampler.eta", "0.5", "--steps", "5"),
        *("--seeds", "3,11", "--outdir", tmp_path, "--format", "png", "--json"),
    )
    assert outcome.status == 0, outcome.err
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["000003.png", "000011.png"]
    kept = read_provenance(tmp_path / "000011.png")
    assert (kept["seed"], kept["sampler"], kept["nfe"], kept["options"]) == (11, "ddim", 5, {"eta": 0.5})
    assert kept["checkpoint_step"] == 12
    assert len(kept["checkpoint_sha256"]) == 64
    assert outcome.value["nfe"] == 5
    grid = run_command("sample", "--run", tiny_run, "--seeds", "0-8", "--outdir", tmp_path / "grid")
    assert "9 samples, 4 network calls each" in grid.out
    with Image.open(tmp_path / "grid" / "samples.png") as picture:
        assert min(picture.size) >= 600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "3-1"], "is not a list of seeds"),
        (["--seeds", "1,1"], "names a seed twice"),
        (["--class", "3"], "trained without --conditional"),
        (["--guidance", "2"], "name one by --class"),
        (["--sampler", "ancestral", "--sampler.variance", "learned"], "needs a run trained with --learned-variance"),
        (["--sampler", "heun"], "no derivative in t"),
        (["--steps", "50"], "this chain has 20"),
        (["--ema", "best"], "neither raw nor the number"),
        (["--sampler", "ddim", "--sampler.eta", "-1"], "eta = -1.0"),
        (["--rho", "5"], "--rho does not go with the grid uniform-time"),
        (["--batch", "0"], "--batch is 0"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(run_command, tiny_run, tmp_path, arguments, words):
    outcome = run_command("sample", "--run", tiny_run, "--outdir", tmp_path / "out", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


def test_raw_and_averaged_parameters_differ(run_command, tiny_run, tmp_path):
    def draw(name):
        assert (
            run_command(
                *(
                    "sample",
                    "--run",
                    tiny_run,
                    "--ema",
                    name,
                    "--seeds",
                    "0-3",
                    "--format",
                    "npz",
                    "--outdir",
                    tmp_path / name,
                )
            ).status
            == 0
        )
        return np.load(tmp_path / name / "samples.npz")["images"]

    assert (draw("raw") != draw("0")).any()


def test_evaluation_reports_distances_and_bits(run_command, tiny_run, tmp_path):
    arguments = ("evaluate", "--run", tiny_run, "--samples", "40", "--cache", tmp_path, "--elbo-images", "20")
    report = run_command(*arguments, "--elbo-draws", "4", "--json").value
    rows = report["against_held_out"]
    assert set(rows) == {"samples", "training data", "noise"}
    # an order that holds for any model of twelve steps: real data are nearest
    assert rows["training data"]["frechet"]["value"] < rows["samples"]["frechet"]["value"]
    bits = report["bits_per_dim"]
    assert bits["bits"] > 0
    assert bits["bits"] == pytest.approx(bits["prior"] + bits["steps"] + bits["reconstruction"])
    assert report["feature_space"] in run_command(*arguments, "--no-bits-per-dim").out


def test_catalogues(run_command):
    rows = run_command("samplers", "--json").value
    assert {"heun", "ddim", "ancestral", "euler", "euler-maruyama", "dpmpp-2m"} <= {row["name"] for row in rows}
    assert all(set(row) == {"name", "order", "nfe_per_step", "kind", "source"} for row in rows)
    assert "dpmpp-2m" in run_command("samplers").out
    assert {row["name"] for row in run_command("presets", "--json").value} >= {"digits-ddpm", "cifar10-ddpmpp-edm"}
