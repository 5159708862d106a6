"""An evaluation of images: what it measures where there are few, and its lines."""

import dataclasses

import numpy as np
import pytest

from experiments.data import Source
from experiments.errors import UsageError
from experiments.evaluation import report as reports
from experiments.evaluation.images import FEW, NEEDED, table
from experiments.evaluation.report import EvaluationOptions, evaluate
from experiments.runs.load import CheckpointArguments, load_run
from experiments.sampling.choice import SamplerChoice
from experiments.sampling.throughput import Throughput

BITS = {"bits": 3.25, "standard_error": 0.125, "prior": 0.0, "steps": 3.0, "reconstruction": 0.25, "images": 20}
BITS |= {"chain_steps": 1000, "variance": "optimal", "given_class": True}


@pytest.mark.parametrize("count", [100, FEW - 1, FEW])
def test_few_images_are_said_to_be_few(count):
    row = {"frechet": {"value": 1.0, "standard_error": 0.5}}
    row |= dict.fromkeys(("precision", "recall", "density", "coverage"), 0.85)
    report = {"images_compared": count, "feature_space": "cnn64", "feature_accuracy": 0.9}
    lines = table({**report, "against_held_out": {"samples": row}})
    assert any(f"{count} images are few" in line for line in lines) == (count < FEW)


def test_one_image_has_no_standard_error():
    first, _ = table({"bits_per_dim": BITS})
    assert "<= 3.250 ± 0.125 (ELBO on 20 held-out images given their classes, 1,000 steps, optimal variance)" in first
    first, _ = table({"bits_per_dim": {**BITS, "images": 1, "standard_error": None}})
    assert "<= 3.250 (ELBO on 1 held-out image given its class, 1,000 steps, optimal variance; no standard e" in first


def measured(monkeypatch, run, training, held_out, **options):
    """What is measured of a run on so many images."""
    model = load_run(CheckpointArguments(run=run))
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    parts = Source(images=images[:training]), Source(images=images[-held_out:])
    monkeypatch.setattr(reports, "run_data", lambda model: parts)
    asked = {"elbo_draws": 1, "variance": "large", **options}
    return evaluate(model, SamplerChoice.of(model.config, None, run=run), EvaluationOptions(**asked))


def test_the_bound_is_measured_where_distances_cannot_be(monkeypatch, capsys, tiny_run):
    few = measured(monkeypatch, tiny_run, 40, 1)
    said = "distances need 6 held-out images, and this run has 1; train with a larger --data.held-out"
    assert few["no_distances"] == said
    assert capsys.readouterr().err == f"scorefield: {said}. The likelihood is measured all the same.\n"
    assert few["bits_per_dim"]["images"] == 1
    assert not {"against_held_out", "samples", "nfe"} & set(few)
    asked = measured(monkeypatch, tiny_run, 40, 1, distances=False)
    assert asked["bits_per_dim"] == pytest.approx(few["bits_per_dim"], nan_ok=True)
    assert "no_distances" not in asked
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("training", "held_out", "options", "sentence"),
    [
        (40, 20, {"samples": 5}, r"^distances need 6 samples; raise --samples 5, or add --no-distances\.$"),
        (40, 5, {"bits_per_dim": False}, r"^distances need 6 held-out images, and this run has 5; train with a larger"),
        (5, 20, {"bits_per_dim": False}, r"^distances need 6 images, and this run was trained on 5; train on more, or"),
        (40, 20, {"bits_per_dim": False, "distances": False}, "leave nothing to measure"),
    ],
)
def test_what_limits_is_named(monkeypatch, tiny_run, training, held_out, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        measured(monkeypatch, tiny_run, training, held_out, **options)


def test_as_many_images_as_are_needed_are_enough():
    parts = [Source(images=np.zeros((NEEDED, 8, 8, 1), np.uint8))] * 2
    options = EvaluationOptions(samples=NEEDED)
    assert reports._too_few(*parts, options) is None
    points = [Source(images=np.zeros((2, 2), np.float32))] * 2
    assert reports._too_few(*points, dataclasses.replace(options, samples=2)) is None


def test_what_is_done_with_a_batch_is_no_part_of_the_rate():
    ticks = iter([0.0, 5.0, 7.0, 9.0, 14.0, 16.0])
    throughput = Throughput(4, lambda: next(ticks))
    throughput.add(4)  # at 5
    throughput.resume()  # at 7: 2 seconds went elsewhere
    throughput.add(4)  # at 9
    throughput.resume()  # at 14
    throughput.add(4)  # at 16
    assert throughput.rate == 8 / 4
    assert throughput.seconds == 9
