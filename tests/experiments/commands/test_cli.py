"""The command line as a person and as a script use it."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion.schedules import VP
from experiments import compilation
from experiments.commands.train import read
from experiments.config.file import load_config
from experiments.data import Source
from experiments.errors import DataError
from experiments.evaluation import bits_per_dim
from experiments.pictures.files import read_provenance
from experiments.presets import load
from experiments.runs.load import CheckpointArguments, load_run, run_data
from experiments.sampling import solver
from experiments.sampling.choice import AncestralOptions, SamplerChoice
from experiments.sampling.throughput import Throughput
from experiments.sampling.variance import optimal_variance, some_rows


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


def test_commands_compile_without_the_kernels_that_sum_wrongly_and_with_barriers():
    """As `diffusion.soundness` says of jaxlib 0.10.2; a flag that the user has set is kept."""
    program = (
        "import os\nfrom experiments.cli import main\n"
        "main(['samplers']); print(os.environ.get('XLA_FLAGS', ''))\n"
        "import jax; assert jax.numpy.ones(3).sum() == 3\n"
    )
    flag = "--xla_cpu_experimental_ynn_fusion_type="
    for given in ({}, {"XLA_FLAGS": f"{flag}dot"}):
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | given
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
        )
        told = run.stdout.splitlines()[-1].split()
        assert told.pop() == "--xla_disable_hlo_passes=cse_barrier_expander"
        assert told == [given.get("XLA_FLAGS", flag)] if given or compilation.knows_kernels() else told == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "--preset", "digit-ddpm"], "did you mean 'digits-ddpm'?"),
        (["train", "--preset"], "--preset needs a value"),
        (["train", "--schedul.steps", "5"], "did you mean --schedule.steps?"),
        (["train", "--schedul", "vp"], "did you mean --schedule?"),
        (["sample", "--run", "x", "--sampler", "heun", "--clas", "3"], "did you mean --class?"),
        (["train", "--network.channels", "x"], "--network.channels is 'x'; give a whole number."),
        (["train", "--network.channels", "3"], "channels is 3; give a multiple of 2"),
        (["train", "--schedule", "vq"], "--schedule vq does not exist"),
        (["train", "--schedule", "vp", "--schedule.beta-min", "-1"], "beta_min = -1.0"),
        (["train", "--data", "digitz", "--dry-run", "--data.held-out", "2"], "--data.held-out is 2.0"),
        (["train", "--learned-variance"], "add --preconditioning.kind eps"),
        (["sample"], "--run is missing"),
        (["sample", "--run", "x", "--sampler", "huen"], "did you mean 'heun'?"),
        (["sample", "--run", "x", "--sampler", "heun", "--sampler.S-churn", "-1"], "S_churn = -1.0"),
        (["sample", "--run", "x", "--sampler", "heun", "--steps", "0"], "--steps is 0"),
        (["evaluate", "--run", "x", "--sampler", "heun", "--samples", "1"], "--samples must be at least 2"),
        (["evaluate", "--run", "x", "--sampler", "heun", "--seed", "-1"], "--seed is -1"),
        (["train", "--sampling.sampler", "foo"], "--sampling.sampler foo does not exist"),
        (["train", "--sampling.sampler", "cfgpp", "--outdir", "x"], "add --conditional and a --label-dropout above 0"),
        (["train", "--sampling.grid", "karas"], "did you mean 'karras'?"),
        (["train", "--sampling.steps", "5000"], "this chain has 1000"),
        (["evaluate", "--run", "x", "--sampler", "heun", "--class", "3"], "see scorefield evaluate --help"),
        (["train", "--num-processes", "2", "--outdir", "x"], "--num-processes"),
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
    free = read(
        ["--optimizer.name", "schedule-free", "--optimizer.decay=constant", "--ema.sigma-rel", "0.05,0.10"]
    ).config
    assert (free.optimizer.name, free.optimizer.decay, free.ema.sigma_rel) == ("schedule-free", "constant", (0.05, 0.1))


def test_dry_run_prints_what_config_json_will_hold(run_command, tiny_run, tiny_flags):
    outcome = run_command("train", "--preset", "digits-ddpm", "--outdir", tiny_run, "--dry-run", *tiny_flags)
    shown = outcome.value
    assert outcome.err.startswith("digits: 1,797 images of 8×8×1 in 10 classes (0 178, 1 182")
    assert shown["config"] == json.loads((tiny_run / "config.json").read_text())
    assert load_config(tiny_run / "config.json").training.steps == 12


def test_a_dry_run_tells_what_a_training_takes_and_compiles_none(run_command, tiny_run, tiny_flags, monkeypatch):
    monkeypatch.setattr("experiments.training.budget._multiplication", lambda device, dtype: 1e9)
    told = ("train", "--preset", "digits-ddpm", "--dry-run", *tiny_flags, "--ema.snapshot-every", "5")
    outcome = run_command(*told)
    told, expected = outcome.err.splitlines(), outcome.value["expected"]
    params = load_run(CheckpointArguments(run=tiny_run)).params
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert told[1].startswith(f"{count:,} parameters; a step of 16 images takes up to ")
    assert (expected["parameters"], expected["memory_bytes"] > 4 * count) == (count, True)
    assert f"at most {expected['images_per_second_at_most']:,.0f} images/s" in told[2]
    assert re.fullmatch(
        r"at most [\d,]+ images/s, so 0 s or more for 12 steps: an image takes .* at 1 GFLOP/s", told[2]
    )
    # Two snapshots of two averages of half precision.
    assert expected["snapshot_bytes"] == 2 * 2 * 2 * count
    assert re.fullmatch(r"2 snapshots of .* in float16: .* of disk", told[3])
    monkeypatch.setattr("experiments.training.budget.free_on", lambda replicas: 100)
    refused = run_command("train", "--preset", "digits-ddpm", "--dry-run", *tiny_flags)
    assert (refused.status, refused.value["expected"]) == (8, None)
    assert "and each of 4 CPU devices has 100 bytes free; give a smaller --training.batch-size" in refused.err


def test_the_size_of_photographs_is_that_of_the_network_and_flags_win(run_command, tmp_path):
    told = ("train", "--preset", "photos64-edm-unet", "--data", f"folder:{tmp_path / 'none'}", "--dry-run")
    network = run_command(*told, "--data.size", "128").value["config"]["network"]
    assert (network["multipliers"], network["attention_resolutions"]) == ([1, 1, 2, 2, 2], [16, 8])
    network = run_command(*told, "--image-size=32", "--network.attention-resolutions", "8").value["config"]["network"]
    assert (network["multipliers"], network["attention_resolutions"]) == ([2, 2, 2], [8])


def test_photographs_are_trained_on_at_small_width(run_command, tmp_path, monkeypatch):
    """The preset as it is but for its width and its length, on photographs that are wider than high."""
    for i in range(6):
        picture = np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    monkeypatch.setattr("experiments.training.budget.free_on", lambda replicas: None)
    narrow = ("--network.channels", 4, "--network.head-channels", 4, "--network.blocks", 1, "--sampling.steps", 2)
    short = ("--training.steps", 2, "--training.batch-size", 2, "--training.sample-every", 0, "--data.size", 8)
    short = (*short, "--training.validate-every", 0)
    told = ("train", "--preset", "photos64-edm-unet", "--data", f"folder:{tmp_path}", "--outdir", tmp_path / "run")
    outcome = run_command(*told, *narrow, *short, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.value["step"] == 2
    assert np.isfinite(outcome.value["loss"])


def test_a_dry_run_says_why_the_data_cannot_be_read(run_command, tmp_path):
    outcome = run_command("train", "--data", f"folder:{tmp_path / 'none'}", "--dry-run", "--outdir", tmp_path)
    assert (outcome.status, outcome.err.count("\n")) == (3, 1)
    assert "none does not exist" in outcome.err
    assert outcome.value["config"]["data"]["rules"] == 2
    assert outcome.value["expected"] is None


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_made(
    run_command, tmp_path, tiny_flags, monkeypatch, more
):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *at: None if name == "wandb" else found(name, *at))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    flags = (*tiny_flags, "--track", "wandb", "--outdir", tmp_path / "run", *more)
    outcome = run_command("train", "--preset", "digits-ddpm", *flags)
    assert outcome.status == 2
    assert outcome.err == "scorefield: error: --track wandb needs wandb; install scorefield[wandb].\n"
    assert not (tmp_path / "run").exists()


def test_a_training_says_what_it_reads_and_what_is_nearly_black(run_command, tmp_path, tiny_flags):
    np.savez(tmp_path / "masks.npz", images=np.eye(8, dtype=np.uint8)[None].repeat(20, 0))
    flags = ("--data", f"npz:{tmp_path / 'masks.npz'}", "--training.steps", "1", "--outdir", tmp_path / "run")
    outcome = run_command("train", "--preset", "digits-ddpm", *tiny_flags, "--no-conditional", *flags)
    assert outcome.status == 0, outcome.err
    first, second = outcome.err.splitlines()[:2]
    assert first.endswith("masks.npz: 20 images of 8×8×1, 2 held out; brightest value 1")
    assert "the brightest of all pixels" in second


def test_the_same_command_again_has_nothing_left_to_do(run_command, tiny_run, tiny_flags):
    outcome = run_command("train", "--preset", "digits-ddpm", "--outdir", tiny_run, "--json", *tiny_flags)
    assert outcome.status == 0
    assert outcome.value["step"] == 12
    lines = map(json.loads, (tiny_run / "metrics.jsonl").read_text().splitlines())
    assert outcome.value["loss"] == [line["loss"] for line in lines if "loss" in line][-1]


def test_seeds_give_the_same_images_in_any_batch(run_command, tiny_run, tmp_path):
    """To one grey level: the last bit of a float may differ between batch sizes. The last batch of `b` is filled up."""

    def draw(name, *arguments):
        outcome = run_command("sample", "--run", tiny_run, "--outdir", tmp_path / name, "--format", "npz", *arguments)
        assert outcome.status == 0, outcome.err
        return np.load(tmp_path / name / "samples.npz")["images"].astype(int)

    whole = draw("a", "--seeds", "0-6", "--batch", "7")
    np.testing.assert_allclose(draw("b", "--seeds", "0-6", "--batch", "4"), whole, atol=1)
    np.testing.assert_allclose(draw("c", "--seeds", "5,2,6,0", "--batch", "64"), whole[[5, 2, 6, 0]], atol=1)
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
    grid = run_command("sample", "--run", tiny_run, "--seeds", "0-8", "--batch", "4", "--outdir", tmp_path / "grid")
    assert "9 samples, 4 network calls each" in grid.out
    with Image.open(tmp_path / "grid" / "samples.png") as picture:
        assert min(picture.size) >= 600


def test_the_same_command_goes_on_and_another_gets_another_folder(run_command, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    told = ("sample", "--run", run, "--format", "png", "--batch", "4", "--json", "--seeds")
    first = run_command(*told, "0-7").value
    folder = run / "samples" / os.path.basename(os.path.dirname(first["files"][0]))
    assert folder.name.startswith("step-0000012-ancestral-4-")
    pictures = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "000005.png").unlink()
    again = run_command(*told, "0-9").value
    assert (again["already_there"], len(again["files"]), again["nfe"]) == (7, 10, 4)
    # A seed that is missing is drawn in its place of its batch, and so to the bit.
    assert {name: (folder / name).read_bytes() for name in pictures} == pictures
    done = run_command(*told[:-2], "--seeds", "0-9")
    assert "10 samples, 4 network calls each, 10 of them already there: " in done.out
    other = run_command(*told, "0-1", "--steps", "3").value
    assert os.path.dirname(other["files"][0]) != str(folder)
    refused = run_command(*told, "0-1", "--steps", "3", "--outdir", folder)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "holds samples of another command (steps 4, not 3)" in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "3-1"], "is not a list of seeds"),
        (["--seeds", "1,1"], "names a seed twice"),
        (["--class", "3"], "of this run knows no classes"),
        (["--guidance", "2"], "--guidance strengthens a class, and the network of this run knows no classes; leave"),
        (["--sampler", "cfgpp"], "--sampler cfgpp strengthens a class, and the network of this run knows"),
        (["--class", "all"], "of this run knows no classes"),
        (["--sampler", "ancestral", "--sampler.variance", "learned"], "needs a run trained with --learned-variance"),
        (["--steps", "50"], "this chain has 20"),
        (["--ema", "best"], "neither raw nor the number"),
        (["--ema", "5"], "--ema 5 does not exist"),
        (["--sampler", "ddim", "--sampler.eta", "-1"], "eta = -1.0"),
        (["--rho", "5"], "--rho does not go with the grid uniform-time"),
        (["--batch", "0"], "--batch is 0"),
        (["--class", "99999999999"], "of this run knows no classes"),
        (["--sampler", "dpmpp-2m", "--sigma-max", "1e9"], "sigma_max = 1e+09 is above"),
        (["--sampler", "dpmpp-2m", "--sigma-max", "nan"], "sigma_max = nan; give a positive number"),
        (["--sampler", "dpmpp-2m", "--rho", "0.006"], "rho = 0.006; it must be between"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(run_command, tiny_run, tmp_path, arguments, words):
    outcome = run_command("sample", "--run", tiny_run, "--outdir", tmp_path / "out", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


def test_damaged_configurations_give_way_to_a_sound_copy_or_are_refused_in_a_line(run_command, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    path, told = run / "config.json", ("sample", "--run", run, "--seeds", "0")
    good = path.read_text()
    said = json.loads(good)
    said["sampling"]["sampler"] = 3
    path.write_text(json.dumps(said))
    outcome = run_command(*told)
    assert (outcome.status, outcome.err.count("\n")) == (0, 1)
    assert "sampling.sampler is 3, which is no str" in outcome.err
    assert outcome.err.endswith("00000012/config.json is used.\n")
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "config.json").write_text("{}")
    outcome = run_command(*told)
    assert (outcome.status, outcome.err.count("\n")) == (4, 1)
    assert "sampling.sampler is 3, which is no str" in outcome.err
    path.unlink()
    path.mkdir()
    assert "cannot be read" in run_command("sample", "--run", run).err
    file = tmp_path / "file"
    file.write_text("")
    outcome = run_command("sample", "--run", file)
    assert (outcome.status, outcome.err.count("\n")) == (4, 1)


def test_a_run_whose_files_are_damaged_resumes_by_what_is_sound_or_says_that_it_starts_anew(
    run_command, tiny_run, tiny_flags, tmp_path
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    told = ("train", "--preset", "digits-ddpm", "--outdir", run, "--json", *tiny_flags)
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config[:-9])
    outcome = run_command(*told)
    assert (outcome.status, outcome.value["step"], outcome.err.count("\n")) == (0, 12, 1)
    assert "is not valid JSON" in outcome.err
    assert (run / "config.json").read_text() == config  # it is mended
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "checkpoint.json").write_text("{}")
    outcome = run_command(*told)
    assert outcome.status == 4
    assert outcome.err.count("There is no older checkpoint.") == 2
    assert outcome.err.splitlines()[-1].endswith("restore one, or add --restart to train anew from step 0.")
    (run / "config.json").unlink()
    outcome = run_command(*told)
    assert (outcome.status, outcome.err.count("\n")) == (4, 1)
    assert "config.json nor a checkpoint beside it can be trusted; restore one, or add --restart" in outcome.err
    outcome = run_command(*told, "--restart")
    assert (outcome.status, outcome.value["step"]) == (0, 12)
    assert "training anew from step 0; the damaged checkpoints stay in" in outcome.err
    assert (run / "checkpoints" / "00000012.untrusted").is_dir()


def test_a_run_goes_on_by_its_own_configuration_alone(run_command, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "00000012")
    outcome = run_command("train", "--run", run, "--sampling.steps", "5", "--json")
    assert outcome.status == 0, outcome.err
    assert (outcome.value["step"], outcome.value["outdir"]) == (12, str(run))
    before, after = (load_config(place / "config.json") for place in (tiny_run, run))
    assert after == dataclasses.replace(before, sampling=dataclasses.replace(before.sampling, steps=5))
    params = [load_run(CheckpointArguments(run=place, ema="raw")).params for place in (tiny_run, run)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    refused = run_command("train", "--run", run, "--optimizer.learning-rate", "1", "--quiet")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "holds a run with --optimizer.learning-rate" in refused.err
    (run / "config.json").write_text("{")
    mended = run_command("train", "--run", run, "--json")
    assert (mended.value["step"], mended.err.count("\n")) == (12, 1)
    for nothing in (tmp_path, tmp_path / "nowhere"):
        assert run_command("train", "--run", nothing).status == 4


def test_a_run_goes_on_with_its_data_from_any_folder(run_command, photo_run, tmp_path, monkeypatch):
    run, photos = photo_run
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "00.png").unlink()
    monkeypatch.chdir(tmp_path)
    here = shutil.copytree(run, tmp_path / "run")
    assert run_command("train", "--run", here, "--json").value["step"] == 12
    moved = ("train", "--run", here, "--json", "--data", f"folder:{shutil.copytree(photos, tmp_path / 'moved')}")
    for _ in range(2):  # the second time config.json says so too
        assert run_command(*moved).value["step"] == 12
    other = run_command("train", "--run", here, "--data", f"folder:{tmp_path / 'photos'}", "--quiet")
    assert (other.status, other.err.count("\n")) == (3, 1)
    assert "are not those that this run was trained on" in other.err


@pytest.mark.parametrize("command", ["grid", "sample"])
def test_data_that_are_given_are_read_though_nothing_is_drawn_from_them(
    run_command, conditional_run, tmp_path, command
):
    told = (command, "--run", conditional_run, "--sampler", "ddim", "--steps", "2", "--data")
    missing = run_command(*told, f"folder:{tmp_path / 'none'}")
    assert (missing.status, missing.err.count("\n")) == (3, 1)
    assert "none does not exist" in missing.err
    other = run_command(*told, "plane:moons")
    assert (other.status, other.err.count("\n")) == (3, 1)
    assert "plane:moons has images of (2,) in 0 classes now, and this run was trained on (8, 8, 1)" in other.err


def test_a_training_starts_from_a_file(run_command, tiny_run, tmp_path):
    told = ("train", "--config", tiny_run / "config.json", "--dry-run")
    shown = run_command(*told, "--weighting", "edm", "--training.seed", "7", "--outdir", tmp_path).value
    before = json.loads((tiny_run / "config.json").read_text())
    assert shown["outdir"] == str(tmp_path)
    assert shown["config"].pop("weighting")["type"] == "EDMWeighting"
    before.pop("weighting")
    assert shown["config"] == before | {"training": before["training"] | {"seed": 7}}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--run", "RUN", "--preset", "digits-ddpm"], 2, "--run and --preset both say what to start from; leave one"),
        (["--run", "RUN", "--config", "FILE"], 2, "--run and --config both say what to start from"),
        (["--config", "FILE", "--preset", "digits-ddpm"], 2, "--config and --preset both say what to start from"),
        (["--run", "RUN", "--outdir", "x"], 2, "goes on in that folder; leave --outdir out"),
        (["--run", "RUN/checkpoints/00000012"], 2, "is a single checkpoint; give the folder of its run"),
        (["--config", "FILE"], 2, "--config starts a new run; say where by --outdir"),
        (["--config", "RUN", "--outdir", "x"], 2, "config.json."),
        (["--config", "nowhere", "--outdir", "x"], 2, "is no file; give a file, such as the config.json of a run"),
        (["--config", "BAD", "--outdir", "x"], 4, "bad.json is not valid JSON"),
        (["--config"], 2, "--config needs a value"),
        (["--preset", "RUN"], 2, "is a run; go on with it by --run"),
        (["--runn", "RUN"], 2, "did you mean --run?"),
    ],
)
def test_what_a_training_starts_from_is_said_once(run_command, tiny_run, tmp_path, arguments, status, words):
    (tmp_path / "bad.json").write_text("{")
    places = {"RUN": str(tiny_run), "FILE": str(tiny_run / "config.json"), "BAD": str(tmp_path / "bad.json")}
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    outcome = run_command("train", *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (status, 1)
    assert words in outcome.err


def test_best_is_refused_where_there_is_nothing_to_choose(run_command, tiny_run, tmp_path):
    outcome = run_command("sample", "--run", tiny_run / "checkpoints" / "00000012", "--best", "--outdir", tmp_path)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "--best chooses among a run's checkpoints" in outcome.err


def test_raw_and_averaged_parameters_differ(run_command, tiny_run, tmp_path):
    def draw(name):
        flags = ("--seeds", "0-3", "--format", "npz", "--outdir", tmp_path / name)
        assert run_command("sample", "--run", tiny_run, "--ema", name, *flags).status == 0
        return np.load(tmp_path / name / "samples.npz")["images"]

    assert (draw("raw") != draw("0")).any()


def test_names_of_samplers_are_read_with_either_hyphen(run_command, tiny_run, tmp_path):
    arguments = ("--seeds", "0-1", "--steps", "3", "--outdir", tmp_path)
    outcome = run_command("sample", "--run", tiny_run, "--sampler", "DPMPP_2M", *arguments, "--json")
    assert (outcome.value["sampler"], outcome.value["grid"], outcome.value["nfe"]) == ("dpmpp-2m", "karras", 3)


def test_the_rate_leaves_out_the_compilation_and_counts_filled_up_batches():
    """Three batches of 4 that end at 10 s, 11 s and 12 s, of which the last has one wanted sample."""
    ticks = iter([0.0, 10.0, 11.0, 12.0])
    throughput = Throughput(4, lambda: next(ticks))
    throughput.add(4)
    assert (throughput.with_compilation, throughput.rate) == (True, 0.4)
    throughput.add(4)
    throughput.add(1)
    assert throughput.report() == {"seconds": 12.0, "samples_per_second": 4.0, "with_compilation": False}
    assert throughput.count == 9


def test_pictures_of_a_training_carry_their_provenance(conditional_run):
    kept = read_provenance(conditional_run / "samples" / "step-0000012.png")
    assert (kept["sampler"], kept["grid"], kept["steps"], kept["nfe"]) == ("heun", "karras", 4, 7)
    assert (kept["step"], kept["seeds"], len(kept["config_sha256"])) == (12, "0-63", 64)
    assert kept["options"]["S_churn"] == 0.0


def test_guidance_costs_two_calls_and_changes_the_image(run_command, conditional_run, tmp_path):
    def draw(*arguments):
        folder = tmp_path / str(len(arguments))
        command = ("sample", "--run", conditional_run, "--seeds", "0-2", "--outdir", folder, "--format", "npz")
        outcome = run_command(*command, "--json", *arguments)
        assert outcome.status == 0, outcome.err
        return outcome.value, np.load(folder / "samples.npz")

    plain, images = draw("--class", "3")
    guided, others = draw("--class", "3", "--guidance", "4")
    assert (plain["nfe"], guided["nfe"]) == (7, 14)
    assert (plain["class"], plain["class_name"]) == (3, "3")
    assert (images["images"] != others["images"]).any()
    np.testing.assert_array_equal(images["labels"], [3, 3, 3])
    for unknown in ("10", "99999999999", "cat", "-1"):
        outcome = run_command("sample", "--run", conditional_run, "--class", unknown, "--outdir", tmp_path / "none")
        assert (outcome.status, outcome.err.count("\n")) == (2, 1)
        assert "the classes 0 to 9" in outcome.err
    optimal = ("--sampler", "ancestral", "--sampler.variance", "optimal")
    outcome = run_command("sample", "--run", conditional_run, "--class", "1", "--guidance", "2", *optimal)
    assert "no variance of a guided model" in outcome.err


def test_the_optimal_variance_is_that_of_what_is_sampled(conditional_run):
    """Given the class, or not: the network is told the classes or none, and the table is another."""
    trained = load_run(CheckpointArguments(run=conditional_run))
    seen = []

    def recording(params, x, c_noise, labels):
        seen.append(labels is None)
        return trained.network(params, x, c_noise, labels)

    model = dataclasses.replace(trained, network=recording)
    training, _ = run_data(trained)
    for given in (True, False):
        seen.clear()
        options = AncestralOptions(variance="optimal")
        choice = SamplerChoice.of(model.config, "ancestral", options=options, steps=3)
        built = solver.build(choice, model, lambda: training, given_class=given)
        assert set(seen) == {not given}
        assert built.provenance["options"] == {"variance": "optimal"}


def test_data_of_another_kind_are_refused(conditional_run, monkeypatch):
    trained = load_run(CheckpointArguments(run=conditional_run))
    other = dataclasses.replace(trained, facts=dataclasses.replace(trained.facts, num_classes=11))
    with pytest.raises(DataError, match=r"in 10 classes now, and this run was trained on .* in 11; put the data"):
        run_data(other)


def test_bits_of_a_conditional_model_are_given_the_class(run_command, conditional_run, feature_cache):
    told = ("--samples", "12", "--elbo-images", "12", "--elbo-draws", "2", "--variance", "large", "--steps", "2")
    arguments = ("evaluate", "--run", conditional_run, "--cache", feature_cache, "--sampler", "ddim", *told)
    report = run_command(*arguments, "--json").value
    assert report["bits_per_dim"]["given_class"] is True
    assert (report["sampler"], report["steps"], report["nfe"]) == ("ddim", 2, 2)
    assert {"precision", "recall", "density", "coverage"} <= set(report["against_held_out"]["samples"])


def test_each_image_is_measured_given_its_own_class(run_command, conditional_run):
    trained = load_run(CheckpointArguments(run=conditional_run))
    seen = []

    def recording(params, x, c_noise, labels):
        jax.debug.callback(lambda rows: seen.append(np.asarray(rows).tolist()), labels)
        return trained.network(params, x, c_noise, labels)

    model = dataclasses.replace(trained, network=recording)
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    source = Source(images=images, labels=np.asarray([3, 1, 4, 1, 5, 9], np.int32), class_names=tuple("0123456789"))
    options = {"variance": "large", "chain_steps": 5, "draws": 1, "batch": 4}
    bits = bits_per_dim.held_out_bits_per_dim(model, source, source, **options)
    jax.effects_barrier()
    assert bits.given_class
    # Two batches, the second filled up with the last image.
    assert {tuple(rows) for rows in seen} == {(3, 1, 4, 1), (5, 9, 9, 9)}
    unconditional = dataclasses.replace(model.config, conditional=False)
    free = dataclasses.replace(model, config=unconditional, network=trained.network)
    assert not bits_per_dim.held_out_bits_per_dim(free, source, source, **options).given_class


def test_the_bound_and_the_variance_use_a_part_of_all_classes(conditional_run):
    """Of data sorted by class, as a folder is read, the network is asked about those that were drawn, not the first."""
    trained = load_run(CheckpointArguments(run=conditional_run))
    seen = []

    def recording(params, x, c_noise, labels):
        jax.debug.callback(lambda rows: seen.append(tuple(np.asarray(rows).tolist())), labels)
        return trained.network(params, x, c_noise, labels)

    model = dataclasses.replace(trained, network=recording)
    labels = np.repeat(np.arange(10, dtype=np.int32), 30)
    images = np.zeros((300, 8, 8, 1), np.uint8)
    source = Source(images=images, labels=labels)
    bits_per_dim.held_out_bits_per_dim(
        model, source, source, variance="large", chain_steps=3, draws=1, batch=5, limit=5
    )
    jax.effects_barrier()
    assert set(seen) == {tuple(labels[some_rows(300, 5)].tolist())}
    seen.clear()
    optimal_variance(model, np.asarray([0.0, 0.5, 1.0]), source, given_class=True)
    jax.effects_barrier()
    assert set(seen) == {tuple(labels[some_rows(300, 256)].tolist())}
    assert len(set(seen.pop())) == 10


def test_a_part_of_the_data_is_drawn_from_all_of_it():
    """A folder is read class by class: its first 256 images are of the first classes alone."""
    rows = some_rows(1000, 256)
    assert len(set(rows.tolist())) == 256
    assert np.histogram(rows, 10, (0, 1000))[0].min() > 10
    np.testing.assert_array_equal(some_rows(5, 256), np.arange(5))


def test_evaluation_reports_distances_and_bits(run_command, tiny_run, feature_cache):
    arguments = ("evaluate", "--run", tiny_run, "--samples", "40", "--cache", feature_cache, "--elbo-images", "20")
    report = run_command(*arguments, "--elbo-draws", "4", "--json").value
    rows = report["against_held_out"]
    assert set(rows) == {"samples", "training data", "noise"}
    # an order that holds for any model of twelve steps: real data are nearest
    assert rows["training data"]["frechet"]["value"] < rows["samples"]["frechet"]["value"]
    bits = report["bits_per_dim"]
    assert bits["bits"] > 0
    assert bits["bits"] == pytest.approx(bits["prior"] + bits["steps"] + bits["reconstruction"])
    assert report["bits_per_dim"]["given_class"] is False
    table = run_command(*arguments, "--no-bits-per-dim").out
    assert report["feature_space"] in table
    assert "precision     recall    density   coverage" in table


def test_catalogues(run_command):
    rows = run_command("samplers", "--json").value
    assert {"heun", "ddim", "ancestral", "euler", "euler-maruyama", "dpmpp-2m"} <= {row["name"] for row in rows}
    assert all(set(row) == {"name", "order", "nfe_per_step", "kind", "source"} for row in rows)
    assert "dpmpp-2m" in run_command("samplers").out
    assert {row["name"] for row in run_command("presets", "--json").value} >= {"digits-ddpm", "cifar10-ddpmpp-edm"}


@pytest.fixture(scope="module")
def photo_run(trained, tiny_flags, tmp_path_factory):
    """(A tiny run on a folder that was given by a relative path, that folder)."""
    place = tmp_path_factory.mktemp("project")
    (place / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(place / "photos" / f"{i:02d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return trained("photos", "--preset", "digits-ddpm", "--data", "folder:photos", *tiny_flags), place / "photos"


def test_a_run_finds_its_data_from_any_folder(photo_run, tmp_path, monkeypatch):
    run, photos = photo_run
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "00.png").unlink()  # another folder of that name
    monkeypatch.chdir(tmp_path)
    assert json.loads((run / "config.json").read_text())["data"]["source"] == "folder:photos"
    model = load_run(CheckpointArguments(run=run))
    assert run_data(model)[0].name == f"folder:{photos}"
    assert run_data(model)[0].fingerprint == model.facts.fingerprint


def test_a_run_that_is_to_be_resumed_finds_its_data_from_any_folder(run_command, photo_run, tmp_path, monkeypatch):
    """Also where it is only asked what would be done."""
    run, _ = photo_run
    monkeypatch.chdir(tmp_path)
    outcome = run_command("resume", run, "--dry-run")
    assert outcome.status == 0
    assert "12 images" in outcome.err
    outcome = run_command("resume", run, "--dry-run", "--data", f"folder:{tmp_path / 'nowhere'}")
    assert outcome.status == 3
    assert "nowhere does not exist" in outcome.err


def test_data_that_have_moved_are_told_by_a_flag_and_must_be_the_same(run_command, photo_run, tmp_path):
    run, photos = photo_run
    moved = shutil.copytree(photos, tmp_path / "moved")
    optimal = ("--sampler", "ancestral", "--sampler.variance", "optimal", "--seeds", "0")
    told = ("sample", "--run", run, "--outdir", tmp_path / "out", *optimal, "--data", f"folder:{moved}")
    assert run_command(*told).status == 0
    (moved / "00.png").write_bytes((moved / "01.png").read_bytes())
    outcome = run_command(*told[:4], tmp_path / "other", *told[5:])
    assert (outcome.status, outcome.err.count("\n")) == (3, 1)
    assert f"folder:{moved} holds other images or labels than this run was trained on" in outcome.err
    for command in (("evaluate", "--run", run), ("verify", "--run", run), ("grid", "--run", run, *optimal[:4])):
        outcome = run_command(*command, "--data", f"folder:{tmp_path / 'nowhere'}")
        assert (outcome.status, outcome.err.count("\n")) == (3, 1)
        assert "nowhere does not exist" in outcome.err


def test_a_run_of_nobody_knows_where_takes_no_other_data_and_fetches_none(run_command, photo_run, tmp_path, capsys):
    run, photos = photo_run
    model = load_run(CheckpointArguments(run=run))
    config = dataclasses.replace(model.config.data, source=f"folder:{photos}")
    old = dataclasses.replace(model, config=dataclasses.replace(model.config, data=config))

    def with_facts(**facts):
        return dataclasses.replace(old, facts=dataclasses.replace(model.facts, place=None, **facts))

    assert run_data(with_facts())[0].name == f"folder:{photos}"
    assert capsys.readouterr().err == ""
    with pytest.raises(
        DataError, match=r"photos here holds other images .* was on a machine that it does not name; give"
    ):
        run_data(with_facts(fingerprint="0" * 64))
    run_data(with_facts(fingerprint=""))
    assert "is taken for the data of this run, which was made on a machine that it does" in capsys.readouterr().err
    # A stranger's run that was never trained here, with a name on a hub.
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    document = json.loads((run / "config.json").read_text())
    document["data"]["source"] = "hf:some/thing"
    (stranger / "config.json").write_text(json.dumps(document))
    outcome = run_command("train", "--run", stranger)
    assert (outcome.status, outcome.err.count("\n")) == (3, 1)
    assert "hf:some/thing would be fetched; give their place now by --data URI" in outcome.err


def test_a_run_of_another_machine_takes_no_other_data_of_the_same_path(photo_run):
    run, photos = photo_run
    model = load_run(CheckpointArguments(run=run))
    place = dataclasses.replace(model.facts.place, host="theirs")
    facts = dataclasses.replace(model.facts, place=place)
    assert run_data(dataclasses.replace(model, facts=facts))[0].name == f"folder:{photos}"
    facts = dataclasses.replace(facts, fingerprint="0" * 64)
    with pytest.raises(DataError, match=r"photos here holds other images .*, which was on theirs; give their place"):
        run_data(dataclasses.replace(model, facts=facts))
