"""Flags and values as people type them."""

import json

import pytest

from experiments.cli import main
from experiments.commands import presets, sample, train
from experiments.commands.seeds import parse_seeds
from experiments.commands.spelling import ALIASES, flags_of, respelt
from experiments.errors import UsageError
from experiments.presets import load

PRESETS = flags_of(presets.Arguments)
TRAIN = flags_of(train.TrainArguments)
SAMPLE = flags_of(sample.SampleArguments)


def test_the_flags_are_those_of_the_fields():
    assert {"--preset", "--dry-run", "--data.size", "--training.batch-size", "--optimizer.b1"} <= set(TRAIN)
    assert {"--run", "--seeds", "--guidance-low"} <= set(SAMPLE)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr 1e-4", "--optimizer.learning-rate 1e-4"),
        ("--steps=20", "--training.steps 20"),
        ("--batch_size 8", "--training.batch-size 8"),
        ("--image-size 64", "--data.size 64"),
        ("--training.steps 1e4", "--training.steps 10000"),
        ("--training.seed 9007199254740993", "--training.seed 9007199254740993"),
        ("--ema.decays 0.9,0.99", "--ema.decays 0.9 0.99"),
        ("--conditional=false", "--no-conditional"),
        ("--conditional True", "--conditional"),
        ("--training.tensorboard=no", "--training.no-tensorboard"),
        ("--data.size None", "--data.size None"),
        ("--no-conditional --quiet", "--no-conditional --quiet"),
        ("--own.flag 1,2", "--own.flag 1,2"),
    ],
)
def test_what_is_typed_for_train(typed, meant):
    assert respelt(typed.split(), TRAIN) == meant.split()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--num 64", "--seeds 0-63"),
        ("-n 2", "--seeds 0-1"),
        ("--cfg 2", "--guidance 2"),
        ("--num-inference-steps 30", "--steps 30"),
        ("--batch-size 8", "--batch 8"),
    ],
)
def test_what_is_typed_for_sample(typed, meant):
    assert respelt(typed.split(), SAMPLE) == meant.split()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--json digits-ddpm", "--json digits-ddpm"),
        ("--json=false digits-ddpm", "--no-json digits-ddpm"),
        ("digits-ddpm --json true", "digits-ddpm --json"),
        ("--json -h", "--json -h"),
    ],
)
def test_a_word_that_belongs_to_no_flag_is_left(typed, meant):
    assert respelt(typed.split(), PRESETS) == meant.split()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--training.steps 1.5", "--training.steps is '1.5'; give a whole number."),
        ("--training.steps inf", "give a whole number."),
        ("--training.steps 28x28", "--training.steps is '28x28'; give a whole number."),
        ("--optimizer.b1 high", "--optimizer.b1 is 'high'; give a number."),
        ("--conditional maybe", "give --conditional or --no-conditional, without a value."),
        ("--epochs 3", "give --training.steps, the images times the epochs over the batch size."),
    ],
)
def test_what_cannot_be_meant(typed, words):
    with pytest.raises(UsageError) as raised:
        respelt(typed.split(), TRAIN)
    assert words in str(raised.value)


def test_a_number_of_samples_is_a_number():
    with pytest.raises(UsageError, match="--num 0-3 is no number of samples; give --seeds 0-63"):
        respelt(["--num", "0-3"], SAMPLE)


@pytest.mark.parametrize("flag", ["--samples", "--n", "--images", "-n"])
def test_a_number_of_samples_has_many_names(flag):
    assert respelt([flag, "4"], SAMPLE) == ["--seeds", "0-3"]


def test_an_empty_path_is_refused():
    for typed, flags in ((["--outdir", ""], SAMPLE), (["--outdir="], TRAIN), (["--weak", ""], SAMPLE)):
        with pytest.raises(UsageError, match=r" is empty; give a path, or \. for the current folder"):
            respelt(typed, flags)
    assert respelt(["--outdir", "."], SAMPLE) == ["--outdir", "."]


def test_every_alias_stands_for_a_flag_that_some_command_has():
    known = {*TRAIN, *SAMPLE}
    assert all(any(flag in known for flag in flags) for flags in ALIASES.values())


def said(capsys, *argv):
    status = main(list(argv))
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train --trainin.steps 3", "--trainin.steps is no option of scorefield train; did you mean --training.steps?"),
        ("train --batchsize 3", "did you mean --training.batch-size?"),
        ("train --frobnicate 3", "--frobnicate is no option of scorefield train; see scorefield train --help."),
        ("train --preset mnist", "did you mean 'mnist-edm-unet', 'mnist-flow-dit', 'mnist-pfgmpp' or 'mnist-vp-unet'?"),
        ("sample nowhere/run", "nowhere/run/config.json does not exist"),
        (
            "train --preset runs/ten/config.json",
            "is no name of a preset; a file is given by --config runs/ten/config.json.",
        ),
        ("train --config digits-ddpm --outdir x", "--config digits-ddpm is no file; give --preset digits-ddpm."),
        ("verify --only foker-planck", "is no identity (did you mean 'fokker-planck'?); the topics are"),
        ("presets digits", "preset digits does not exist (did you mean"),
        ("samplers hen", "sampler hen does not exist (did you mean 'heun'?"),
    ],
)
def test_a_command_says_what_is_meant(argv, words, capsys):
    status, _, error = said(capsys, *argv.split())
    assert status == 2 or "config.json" in words
    assert words in error
    assert error.count("\n") == 1


def test_an_alias_reaches_the_configuration(capsys):
    status, output, _ = said(capsys, "train", "--lr", "1e-4", "--steps", "1e2", "--dry-run")
    expected = load("digits-ddpm")
    config = json.loads(output)["config"]
    assert status == 0
    assert config["optimizer"]["learning_rate"] == 1e-4 != expected.optimizer.learning_rate
    assert config["training"]["steps"] == 100


@pytest.mark.parametrize("command", ["sample", "grid", "evaluate", "verify", "train"])
def test_an_alias_reaches_the_run(command, capsys):
    """It is read before the other flags are."""
    for alias in ("--checkpoint", "--model"):
        status, _, error = said(capsys, command, alias, "nowhere/run")
        assert status != 0
        assert "nowhere/run" in error
        assert "is no option" not in error


def test_the_help_of_one_choice_holds_its_fields(capsys):
    for argv in (["--schedule", "edm", "--help"], ["--schedule", "edm", "-h"]):
        with pytest.raises(SystemExit):
            main(["train", *argv])
        assert "--schedule.sigma-max" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["presets", "--json", "-h"])
    assert "usage: scorefield presets" in capsys.readouterr().out


def test_one_preset_and_one_sampler_can_be_asked_for(capsys):
    assert json.loads(said(capsys, "presets", "--json", "digits-ddpm")[1])[0]["name"] == "digits-ddpm"
    assert said(capsys, "presets", "digits-ddpm")[1].startswith("digits-ddpm\n")
    assert said(capsys, "samplers", "Heun")[1].count("\n") == 2


def test_the_short_help_is_short_and_true(capsys):
    status, output, _ = said(capsys, "train", "--help")
    assert status == 0
    assert len(output.splitlines()) < 30
    flags = {*TRAIN, "--data", "--network", "--track"}
    assert all(flag.split()[0] in flags for flag, _ in train.COMMON)
    assert "--help all" in output
    with pytest.raises(SystemExit):
        main(["train", "--help", "all"])
    assert len(capsys.readouterr().out.splitlines()) > 200


def test_one_seed_is_told_from_so_many(capsys):
    assert list(parse_seeds("64")) == [64]
    assert "--seeds 64 is one seed; 0-63 are the first 64." in capsys.readouterr().err
    assert list(parse_seeds("0-63")) == list(range(64))
    assert capsys.readouterr().err == ""
