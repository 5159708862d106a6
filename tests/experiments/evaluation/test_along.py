"""What is measured along a training, and that it changes nothing of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import Process
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma, UniformTime
from diffusion.score_matching.weightings import LikelihoodWeighting
from experiments.config.nodes import Generator, TrainingConfig
from experiments.config.told import MeasureConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.errors import DivergedError, UsageError
from experiments.evaluation import along
from experiments.evaluation.along import HeldOutLevels, PartOfTimes, QuickFrechet, measures_of
from experiments.training import loop
from experiments.training.checkpoint import load
from experiments.training.data import Facts, RunData, open_data
from experiments.training.model import make_network
from tests.experiments.training.tiny_run import NETWORK, tiny_config, tiny_data


@pytest.mark.parametrize("law", [LogNormalSigma(), LogUniformSigma(0.05, 1.2), UniformTime()])
def test_the_parts_of_a_law_are_the_law(law):
    """K parts at the same u are the law at (k + u)/K."""
    process, u = Process(EDM()), jnp.asarray([0.1, 0.5, 0.9])
    for k in range(4):
        part = PartOfTimes(law, jnp.asarray(k / 4), jnp.asarray((k + 1) / 4))
        np.testing.assert_allclose(part.quantile(process, u), law.quantile(process, (k + u) / 4), rtol=1e-5)
        np.testing.assert_allclose(part.slope(process, u), law.slope(process, (k + u) / 4), rtol=1e-5)


class Taken:
    """A step as a measure sees it."""

    def __init__(self, params, step=1):
        self.ema, self.step = (params,), step


def many(count):
    """Held-out data in batches that are all alike, so that noise and times are what is averaged."""
    data = tiny_data()
    return dataclasses.replace(data, held_out=[data.held_out[0]] * count)


@pytest.mark.parametrize(
    ("fields", "factor"),
    [({}, 1.3), ({"weighting": LikelihoodWeighting(), "times": LogUniformSigma(0.05, 1.2)}, 1.0)],
    ids=["a mean", "an integral over time"],
)
def test_the_levels_have_the_held_out_loss_for_their_mean(fields, factor):
    """Of an untrained network that answers zero, whose loss is another at each level."""
    config, data = tiny_config(measure=MeasureConfig(levels_every=1, levels=4), **fields), many(40)
    _, params = make_network(config, data.facts, jax.random.key(0))
    levels = HeldOutLevels(config, data)(Taken(params))
    whole = HeldOutLevels(dataclasses.replace(config, measure=MeasureConfig(levels_every=1, levels=1)), data)
    (loss,) = whole(Taken(params)).values()
    assert len(levels) == 4
    assert np.mean(list(levels.values())) == pytest.approx(loss, rel=0.05)
    assert max(levels.values()) > factor * min(levels.values())


def test_a_level_is_named_after_its_noise():
    names = HeldOutLevels(tiny_config(measure=MeasureConfig(levels_every=1, levels=2)), tiny_data()).names
    median = f"{np.exp(-1.2):.3g}"
    assert [name.partition("sigma_")[2].split("-")[1 - i] for i, name in enumerate(names)] == [median, median]
    assert all(name.startswith("held_out_loss/") for name in names)


def trained(folder, measure, **options):
    config = tiny_config(measure=measure)
    loop.train(config, folder, data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True, **options)
    return load(folder / "checkpoints" / "00000020")[0]


def test_measures_change_no_bit_of_the_training(straight, tmp_path):
    wanted = MeasureConfig(levels_every=4, levels=2)
    after = trained(tmp_path, wanted, measuring=measures_of)
    jax.tree.map(np.testing.assert_array_equal, load(straight / "checkpoints" / "00000020")[0], after)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = [line["step"] for line in lines if any("sigma_" in name for name in line)]
    assert measured == [4, 8, 12, 16, 20]


@pytest.fixture(scope="module")
def digits():
    """A configuration for the digits with few samples, and its data."""
    config = Config(
        data=DataConfig(source="digits"),
        network=NETWORK,
        training=TrainingConfig(batch_size=16),
        measure=MeasureConfig(frechet_every=1, frechet_samples=24),
    )
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, steps=2))
    return config, open_data(config)


def test_a_quick_distance_is_that_of_the_features(digits, feature_cache, monkeypatch):
    """Samples that are held-out images themselves are at distance 0 but for which of them there are."""
    config, data = digits
    monkeypatch.setattr(along.store, "default_folder", lambda: feature_cache)
    params = make_network(config, data.facts, jax.random.key(0))[1]
    quick = QuickFrechet(config, data)
    untrained = quick(Taken(params))
    assert set(untrained) == {"frechet", "frechet_standard_error", "frechet_samples"}
    assert untrained["frechet_samples"] == 24
    images = data.parts[1].images[np.arange(24)]
    monkeypatch.setattr(along, "draw", lambda *_, **__: iter([type("Drawn", (), {"images": images})]))
    real = quick(Taken(params))
    assert real["frechet"] + 4 * real["frechet_standard_error"] < untrained["frechet"]


def test_samples_that_diverge_cost_a_line_and_no_training(digits, feature_cache, monkeypatch, capsys):
    config, data = digits
    monkeypatch.setattr(along.store, "default_folder", lambda: feature_cache)

    def diverge(*_, **__):
        raise DivergedError("a sample is not finite.")

    monkeypatch.setattr(along, "draw", diverge)
    assert QuickFrechet(config, data)(Taken({}, 7)) == {}
    assert "no Fréchet distance at step 7: a sample is not finite." in capsys.readouterr().err


def test_what_cannot_be_measured_is_refused():
    both, none = MeasureConfig(levels_every=1, frechet_every=1), RunData(Facts((8, 8, 1), 0), {})
    for measure, data, sentence in (
        (MeasureConfig(levels_every=1), none, "levels-every needs held-out data"),
        (MeasureConfig(frechet_every=1), none, "frechet-every needs held-out images"),
        (MeasureConfig(frechet_every=1), RunData(Facts((2,), 0), {}), "is for images, and these are points"),
    ):
        with pytest.raises(UsageError, match=sentence):
            measures_of(tiny_config(measure=measure, conditional=False), data)
    with pytest.raises(UsageError, match="goes with --objective denoising"):
        measures_of(dataclasses.replace(tiny_config(measure=both), objective=Generator()), tiny_data())
    assert measures_of(tiny_config(), none) == []
