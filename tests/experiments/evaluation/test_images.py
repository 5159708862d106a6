"""The lines of an evaluation of images."""

import pytest

from experiments.evaluation.images import FEW, table


@pytest.mark.parametrize("count", [100, FEW - 1, FEW])
def test_few_images_are_said_to_be_few(count):
    row = {"frechet": {"value": 1.0, "standard_error": 0.5}}
    row |= dict.fromkeys(("precision", "recall", "density", "coverage"), 0.85)
    report = {"images_compared": count, "feature_space": "cnn64", "feature_accuracy": 0.9}
    lines = table({**report, "against_held_out": {"samples": row}})
    assert any(f"{count} images are few" in line for line in lines) == (count < FEW)
