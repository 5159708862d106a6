"""Distances in many features: equal to the plain forms, and with errors that are what they say."""

import math

import numpy as np
import pytest

from experiments.errors import DataError
from experiments.evaluation.distances import Moments, frechet_distance, moments
from experiments.evaluation.wide import Side, frechet, kernel_distance, side


def drawn(n, d, seed, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) / math.sqrt(d)
    return shift + scale * rng.normal(size=(n, d)) @ (mix + np.eye(d))


@pytest.mark.parametrize(("n", "m", "d"), [(50, 80, 6), (5, 7, 12), (5, 60, 12)])
def test_the_distance_is_the_plain_one_whatever_there_is_more_of(n, m, d):
    first, second = drawn(n, d, 0), drawn(m, d, 1, 0.5, 1.5)
    expected = frechet_distance(*moments(first), *moments(second))
    found = frechet(side(first), side(second))
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found[2:] == (n, m)


def weighted(rows, weights):
    """Mean and covariance of rows that count so much, as frechet's n/(n − 1) has them."""
    mean = weights @ rows / weights.sum()
    centred = rows - mean
    return mean, (centred * weights[:, None]).T @ centred / weights.sum() * len(rows) / (len(rows) - 1)


@pytest.mark.parametrize(("n", "m", "d"), [(12, 15, 4), (5, 6, 9)])
def test_the_error_is_the_spread_of_what_one_image_adds(n, m, d):
    """The influence of image i is n dF/dw_i, where w_i is how much it counts, by differences."""
    rows = drawn(n, d, 2), drawn(m, d, 3, 0.4, 1.3)
    variance, step = 0.0, 1e-5

    def distance(which, weights):
        both = [weighted(r, weights if i == which else np.ones(len(r))) for i, r in enumerate(rows)]
        return frechet_distance(*both[0], *both[1])

    for which, some in enumerate(rows):
        influence = []
        for i in range(len(some)):
            ends = [distance(which, 1 + sign * step * (np.arange(len(some)) == i)) for sign in (1, -1)]
            influence.append(len(some) * (ends[0] - ends[1]) / (2 * step))
        variance += np.var(influence, ddof=1) / len(some)
    assert frechet(side(rows[0]), side(rows[1])).standard_error == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_the_error_is_the_spread_over_new_draws():
    found = [frechet(side(drawn(300, 3, 10 + i)), side(drawn(200, 3, 5000 + i, 0.5))) for i in range(150)]
    said, spread = np.mean([one.standard_error for one in found]), np.std([one.value for one in found], ddof=1)
    assert abs(said / spread - 1) < 4 / math.sqrt(2 * 150)


def test_of_moments_alone_the_error_is_of_the_other_side():
    first, second = drawn(40, 4, 0), drawn(60, 4, 1, 0.3)
    whole, half = frechet(side(first), side(second)), frechet(side(first), Side(moments(second), None, None))
    other = frechet(Side(moments(first), None, 40), side(second))
    assert half.value == pytest.approx(whole.value)
    assert math.hypot(half.standard_error, other.standard_error) == pytest.approx(whole.standard_error)
    assert half.second is None
    assert math.isnan(frechet(Side(moments(first)), Side(moments(second))).standard_error)


def test_sets_of_other_features_cannot_be_compared():
    with pytest.raises(DataError, match="3 and 4 features each"):
        frechet(side(drawn(9, 3, 0)), side(drawn(9, 4, 0)))


def test_features_that_never_vary_do_no_harm():
    first, second = (np.hstack([drawn(9, 3, i), np.zeros((9, 2))]) for i in (0, 1))
    expected = frechet(side(first[:, :3]), side(second[:, :3]))
    np.testing.assert_allclose(frechet(side(first), side(second))[:2], expected[:2], rtol=1e-6)
    still = frechet(side(np.ones((4, 2))), Side(Moments(np.zeros(2), np.zeros((2, 2)))))
    assert still.value == pytest.approx(2)


def kernel_by_pairs(x, y):
    d = x.shape[1]

    def mean(a, b, same):
        values = [(p @ q / d + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return np.mean(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_the_kernel_distance_is_a_mean_over_pairs(monkeypatch):
    monkeypatch.setattr("experiments.evaluation.wide.BLOCK", 4)
    x, y = drawn(7, 3, 0), drawn(9, 3, 1, 0.5)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(kernel_by_pairs(x, y), rel=1e-10)
    assert kernel_distance(y, x).value == pytest.approx(found.value, rel=1e-10)


def test_the_kernel_distance_has_no_bias_and_its_error_is_the_spread_over_draws():
    found = [kernel_distance(drawn(60, 2, i), drawn(80, 2, 3000 + i, 0.7)) for i in range(200)]
    values, said = np.array([one.value for one in found]), np.mean([one.standard_error for one in found])
    truth = kernel_distance(drawn(1500, 2, 7777), drawn(1500, 2, 8888, 0.7))
    assert abs(values.mean() - truth.value) < 4 * math.hypot(values.std() / math.sqrt(200), truth.standard_error)
    assert 0.8 < said / values.std(ddof=1) < 1.25
    same = np.array([kernel_distance(drawn(30, 2, i), drawn(30, 2, 3000 + i)).value for i in range(200)])
    assert abs(same.mean()) < 4 * same.std() / math.sqrt(200)


def test_a_kernel_distance_needs_two_of_each():
    with pytest.raises(DataError, match="1 and 9 images"):
        kernel_distance(drawn(1, 3, 0), drawn(9, 3, 0))
