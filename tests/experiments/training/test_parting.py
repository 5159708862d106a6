"""When held-out and training loss part, on curves that are made up; and how long a training waits for a lower loss."""

import math

import numpy as np
import pytest

from experiments.training.parting import TIMES, Parting, Patience, Validation


def first(training, held_out, noise=0.0, seed=0, elements=64, spread=1.0):
    """(The number of the validation that warns, that of the minimum it names), None for neither."""
    rng = np.random.default_rng(seed)
    own, parting = spread * rng.standard_normal(elements), Parting()  # each element has a level of its own
    for step, (a, b) in enumerate(zip(training, held_out, strict=True)):
        each = b + own + noise * rng.standard_normal(elements)
        if (lowest := parting(Validation(step, float(a), each))) is not None:
            return step, lowest.step
    return None


STEPS = np.arange(40)
FALLING = np.exp(-STEPS / 10)
PARTING = np.where(STEPS < 15, FALLING, FALLING[15] + 0.02 * (STEPS - 15))


def test_it_warns_a_few_validations_after_losses_part_and_names_the_minimum():
    """The spread of the elements is fifty times the rise, and in both: the same elements are compared."""
    assert first(FALLING, PARTING) == (15 + TIMES, 15)
    found = first(FALLING, PARTING, noise=0.05)
    assert found is not None
    assert 15 < found[0] <= 15 + 2 * TIMES
    assert abs(found[1] - 15) <= 2


def test_it_warns_once():
    parting, rng = Parting(), np.random.default_rng(0)
    told = [
        parting(Validation(i, a, b + rng.standard_normal(8) * 1e-6))
        for i, (a, b) in enumerate(zip(FALLING, PARTING, strict=True))
    ]
    assert sum(one is not None for one in told) == 1


@pytest.mark.parametrize("trend", [np.zeros(100), np.exp(-np.arange(100) / 20)])
def test_it_is_silent_on_noise(trend):
    """New noise at each of 100 validations, of which the lowest is the luckiest: 50 curves of each kind."""
    rng = np.random.default_rng(1)
    told = [
        first(trend + 0.01 * rng.standard_normal(100), trend, noise=0.1, seed=seed, elements=32) for seed in range(50)
    ]
    assert sum(one is not None for one in told) <= 1


def test_both_losses_may_rise_or_the_held_out_one_stay():
    assert first(PARTING, PARTING) is None  # as when the learning rate is too large
    assert first(FALLING, np.maximum(FALLING, 0.2)) is None


def test_the_training_loss_is_lower_on_average():
    held_out = [0.0, *(1.0,) * TIMES]
    assert first([1.0, *(0.1,) * (TIMES - 1), 2.0], held_out) == (TIMES, 0)
    assert first([1.0, *(2.0,) * (TIMES - 1), 0.1], held_out) is None


def test_a_rise_that_is_interrupted_is_counted_anew():
    held_out = np.where(STEPS % TIMES == 0, 0.0, 1.0)
    assert first(FALLING, held_out + 1e-9 * STEPS, noise=1e-3) is None
    assert first(FALLING, np.where(STEPS % (TIMES + 1) == 0, 0.0, 1.0) + 1e-9 * STEPS) == (TIMES, 0)


def test_what_tells_nothing_is_passed_over():
    parting = Parting()
    for step in range(20):
        assert parting(Validation(step, 1.0 - step, [float(step)])) is None
        assert parting(Validation(step, 1.0 - step, [math.nan, float(step)])) is None


def test_patience_counts_from_the_lowest_loss():
    patience = Patience().after_all(enumerate([3.0, 2.0, 2.5, math.nan, 2.0, 2.2]))
    assert patience == Patience(lowest=2.0, step=1, since=4)
    assert [patience.is_over(stop_after) for stop_after in (0, 3, 4, 5)] == [False, True, True, False]
    assert patience.after(6, 1.0) == Patience(1.0, 6, 0)
    assert not Patience().after(0, math.nan).is_over(2)
