"""Configurations: exact through JSON, refused in a sentence, all presets sound."""

import dataclasses
import json
from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion import VP, Betas, RectifiedFlow, StudentT
from diffusion.networks import Network
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.score_matching.times import LogNormalSigma, UniformTime
from diffusion.score_matching.weightings import LikelihoodWeighting, SNRWeighting, VelocityWeighting
from experiments import presets
from experiments.commands import train as train_command
from experiments.commands.train import read
from experiments.config.checks import check
from experiments.config.choices import NODES, nodes_of, types_of
from experiments.config.file import from_json, load_config, save_config, to_json
from experiments.config.nodes import Chain, EMAConfig, ImportanceConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.errors import CheckpointError, UsageError
from experiments.training import distributed
from experiments.training.loop import train
from tests.diffusion.own_schedules import ENDLESS, ShortOfNoise

POSITIVE = st.floats(1e-300, 1e300, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(rate=POSITIVE, beta=st.floats(1e-8, 1.0), decay=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**62))
def test_configurations_come_back_exactly(tmp_path_factory, rate, beta, decay, seed):
    config = Config(
        schedule=VP(beta_min=beta, beta_max=beta * 7),
        network=DiTConfig(width=12, heads=3),
        optimizer=OptimizerConfig(learning_rate=rate),
        ema=EMAConfig(decays=(decay, 0.5)),
        training=TrainingConfig(seed=seed),
    )
    path = tmp_path_factory.mktemp("config") / "config.json"
    save_config(config, path)
    assert load_config(path) == config
    assert repr(load_config(path)) == repr(config)


def test_a_field_that_is_absent_from_an_older_file_means_what_it_meant_then():
    written = to_json(Config())
    assert from_json(written).data.rules == 2
    del written["data"]["rules"]
    assert from_json(written).data == dataclasses.replace(Config().data, rules=1)


@pytest.mark.parametrize("name", presets.names())
def test_presets_come_back_exactly_and_say_what_they_cost(name):
    config = presets.load(name)
    check(config)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert f"scorefield train --preset {name}" in presets.describe(name)
    assert "to be measured" not in presets.describe(name)


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [
        (64, (1, 2, 2, 2), (16, 8)),
        (128, (1, 1, 2, 2, 2), (16, 8)),
        (32, (2, 2, 2), (16, 8)),
        (28, (2, 2, 2), (14, 7)),
        (45, (1, 2, 2, 2), (12, 6)),
        (8, (2,), (8,)),
        (1, (2,), (1,)),
    ],
)
def test_the_preset_for_photographs_follows_their_size(size, multipliers, attention):
    config = presets.load("photos64-edm-unet", size)
    check(config)
    assert isinstance(config.network, UNetConfig)
    assert isinstance(config.times, LogNormalSigma)
    assert (config.data.size, config.network.multipliers) == (size, multipliers)
    assert config.network.attention_resolutions == attention
    small = dataclasses.replace(config.network, channels=8, head_channels=8, blocks=1)
    Network(small, (size, size, 3))  # it has those levels
    assert presets.load("photos64-edm-unet", 64) == presets.load("photos64-edm-unet")
    # From 64 pixels on, averaging over a pixel's share of an image leaves the same noise.
    np.testing.assert_allclose(np.exp(config.times.mean) * 64 / max(size, 64), np.exp(-1.2), rtol=1e-12)


@pytest.mark.parametrize("name", ["photos-small", "photos-cpu", "photos-gpu"])
@pytest.mark.parametrize("size", [8, 32, 64, 200])
def test_presets_for_pictures_fit_any_size(name, size):
    config = presets.load(name, size)
    check(config)
    assert isinstance(config.network, UNetConfig)
    assert isinstance(config.times, LogNormalSigma)
    assert (config.data.size, config.data.channels, config.sigma_data) == (size, None, "auto")
    small = dataclasses.replace(config.network, channels=8, head_channels=8, blocks=1)
    Network(small, (size, size, 1))  # it has those levels
    np.testing.assert_allclose(np.exp(config.times.mean) * 64 / max(size, 64), np.exp(-1.2), rtol=1e-12)


@pytest.mark.parametrize(("size", "patch"), [(256, 16), (512, 32), (64, 4), (8, 1)])
def test_patches_of_the_large_preset_grow_with_the_size_and_so_does_the_noise(size, patch):
    config = presets.load("photos-gpu-large", size)
    check(config)
    assert isinstance(config.network, DiTConfig)
    assert isinstance(config.times, LogNormalSigma)
    assert config.network.patch == patch
    np.testing.assert_allclose(np.exp(config.times.mean) / size, np.exp(0.8) / 256, rtol=1e-12)


def test_another_preset_keeps_all_but_the_size():
    plain, sized = presets.load("mnist-edm-unet"), presets.load("mnist-edm-unet", 14)
    assert sized == dataclasses.replace(plain, data=dataclasses.replace(plain.data, size=14))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": TrainingConfig(steps=0)}, "--training.steps is 0"),
        ({"training": TrainingConfig(batch_size=0)}, "--training.batch-size is 0"),
        ({"training": TrainingConfig(keep_last=0)}, "--training.keep-last is 0"),
        ({"training": TrainingConfig(keep_best=-1)}, "--training.keep-best is -1"),
        ({"training": TrainingConfig(seed=-1)}, "--training.seed is -1"),
        ({"training": TrainingConfig(log_every=0)}, "--training.log-every is 0"),
        ({"training": TrainingConfig(checkpoint_every=0)}, "--training.checkpoint-every is 0"),
        ({"training": TrainingConfig(sample_every=-1)}, "must be 0 \\(off\\) or more"),
        ({"sampling": SamplingConfig(steps=0)}, "--sampling.steps is 0"),
        ({"optimizer": OptimizerConfig(learning_rate=float("nan"))}, "--optimizer.learning-rate is nan"),
        ({"optimizer": OptimizerConfig(b1=1.0)}, "--optimizer.b1 1.0"),
        ({"optimizer": OptimizerConfig(clip_norm=-1.0)}, "--optimizer.clip-norm"),
        ({"optimizer": OptimizerConfig(warmup_steps=-1)}, "--optimizer.warmup-steps is -1"),
        ({"optimizer": OptimizerConfig(accumulate=3)}, "not a multiple of --optimizer.accumulate 3"),
        ({"optimizer": OptimizerConfig(learning_rate=-1.0)}, "--optimizer.learning-rate is -1.0"),
        ({"ema": EMAConfig(decays=(1.0,))}, "--ema.decays is"),
        ({"ema": EMAConfig(decays=())}, "--ema.decays is"),
        ({"label_dropout": 1.5}, "--label-dropout is 1.5"),
        ({"learned_variance": True}, "--learned-variance goes with --schedule chain"),
        ({"learned_variance": True, "schedule": Chain()}, "--preconditioning.kind eps"),
        ({"schedule": RectifiedFlow()}, "infinite at the prior of RectifiedFlow"),
        ({"schedule": Chain(), "preconditioning": Preconditioning("velocity")}, "a chain has none"),
        ({"schedule": Chain(), "weighting": VelocityWeighting()}, "VelocityWeighting needs a derivative"),
        ({"noise": StudentT(4.0), "weighting": LikelihoodWeighting()}, "has no score and no likelihood weighting"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_refused(change, words):
    with pytest.raises(UsageError, match=words):
        check(dataclasses.replace(Config(), **change))


@pytest.mark.parametrize("schedule", ENDLESS, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("kind", ["eps", "score", "edm", "residual"])
def test_a_users_schedule_that_ends_in_noise_is_refused_where_cosine_is(schedule, kind):
    with pytest.raises(UsageError, match=f"kind {kind} .* prior of {type(schedule).__name__}"):
        check(dataclasses.replace(Config(), schedule=schedule, preconditioning=Preconditioning(kind)))
    check(dataclasses.replace(Config(), schedule=schedule, preconditioning=Preconditioning("v")))
    check(dataclasses.replace(Config(), schedule=ShortOfNoise()))


def test_chain_builds_its_schedule():
    assert isinstance(Config(schedule=Chain(steps=7)).process().schedule, Betas)
    for shape in ("linear", "cosine", "ramp"):
        assert Chain(shape=shape, steps=9).build().steps == 9
    with pytest.raises(UsageError, match=r"--schedule\.steps is 0"):
        check(Config(schedule=Chain(steps=0)))


def test_every_type_of_node_survives():
    config = Config(
        schedule=Chain(shape="ramp"),
        noise=StudentT(3.0),
        network=MLPConfig(),
        preconditioning=Preconditioning("x0", 1.0),
        weighting=SNRWeighting(),
        times=UniformTime(),
    )
    assert from_json(to_json(config)) == config
    assert from_json(to_json(dataclasses.replace(config, times=ImportanceConfig(bins=8)))).times.bins == 8


NAMES = {
    "schedule": ["vp", "sub-vp", "cosine", "ve", "edm", "rectified-flow", "chain"],
    "noise": ["gaussian", "student-t"],
    "network": ["unet", "dit", "mlp"],
    "weighting": ["edm", "snr", "min-snr", "uniform", "likelihood", "velocity"],
    "times": ["log-normal", "log-uniform", "uniform", "importance"],
    "objective": ["denoising", "generator"],
}
"""The names that commands and presets have been written with."""


@pytest.mark.parametrize(("node", "name"), [(node, name) for node, names in NODES.items() for name in names])
def test_every_type_is_chosen_by_its_name_saved_and_loaded(tmp_path, node, name):
    chosen = NODES[node][name]
    arguments = [f"--{node}", name]
    config = read(arguments).config
    assert type(getattr(config, node)) is chosen
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_processes_join_before_a_schedule_of_the_users_own_is_asked_anything(monkeypatch):
    """What it answers may start JAX, after which the processes can no longer join."""
    done = []
    monkeypatch.setattr(distributed, "initialize", lambda *several: done.append(several))

    def refuse(config):
        done.append("checked")
        raise UsageError("enough")

    monkeypatch.setattr(train_command, "check", refuse)
    with pytest.raises(UsageError, match="enough"):
        train_command.run(["--coordinator", "host:1", "--num-processes", "2", "--process-id", "1"])
    assert done == [("host:1", 2, 1), "checked"]


def test_the_hints_are_the_one_list_of_types():
    """The names that there were are there, and a class that is added to a hint has a name without another line."""
    assert {node: list(names)[: len(NAMES[node])] for node, names in NODES.items()} == NAMES
    assert all(set(get_args(get_type_hints(Config)[node])) == set(names.values()) for node, names in NODES.items())

    @dataclasses.dataclass(frozen=True)
    class HalfSNRWeighting:
        weight: float = 0.5

    @dataclasses.dataclass(frozen=True)
    class More:
        weighting: SNRWeighting | HalfSNRWeighting = SNRWeighting()
        steps: int | None = None

    # The names of a class's hints are looked up in its module, and these two are of a function.
    More.__annotations__["weighting"] = SNRWeighting | HalfSNRWeighting
    assert nodes_of(More) == {"weighting": {"snr": SNRWeighting, "half-snr": HalfSNRWeighting}}
    assert set(types_of(More)) == {"More", "SNRWeighting", "HalfSNRWeighting"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("noise", "type"), "UniformTime", r"\.noise is UniformTime\(\), which is not a valid noise; restore the file"),
        (("optimizer", "decay"), "sudden", r"\.optimizer\.decay is 'sudden', which is not a valid decay"),
        (("ema", "decays"), ["0.9"], r"\.ema\.decays is \('0\.9',\), which is not a valid decays"),
        (("data", "size"), 8.5, r"\.data\.size is 8\.5, which is not a valid size"),
        (("training",), 5, r"\.training is 5, which is not a valid training"),
        (("training", "seed"), True, r"\.training\.seed is True, which is no int"),
        (("training", "steps"), 0, r": --training\.steps is 0; give at least 1"),
        (("sampling", "sampler"), "huen", r": --sampling\.sampler huen does not exist \(did you mean 'heun'\?"),
    ],
)
def test_a_damaged_value_is_refused_in_a_sentence(tmp_path, path, value, words):
    said = to_json(Config())
    place = said
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "config.json"
    file.write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=f"config.json{words}"):
        load_config(file)


def test_training_refuses_what_nobody_has_checked(tmp_path):
    with pytest.raises(UsageError, match="--label-dropout is 2"):
        train(Config(label_dropout=2.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_cannot_be_written_says_so(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match=r"config\.json cannot be written"):
        save_config(Config(), file / "config.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ('{"type": "Confg"}', "unknown type 'Confg'"),
        ('{"type": "Config", "colour": 3}', "unknown field 'colour'"),
        ('{"type": "VP", "beta_min": 0.1}', "holds a VP, not a run's configuration"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=words):
        load_config(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_config(tmp_path / "none.json")
