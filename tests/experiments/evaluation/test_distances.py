"""The Fréchet distance against closed forms, its bias and error against their theory, supports against brute force."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from experiments.errors import DataError
from experiments.evaluation import distances
from experiments.evaluation.distances import (
    density_coverage,
    frechet_at,
    frechet_distance,
    moments,
    precision_recall,
)


def gaussian(seed, d=5, rank=None):
    """Mean and covariance of a random Gaussian."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, rank or d))
    return rng.normal(size=d), root @ root.T


def rotation(seed, d=5):
    return scipy.stats.ortho_group.rvs(d, random_state=seed)


def test_frechet_of_commuting_gaussians_is_that_of_their_axes():
    rng = np.random.default_rng(0)
    basis, variances = rotation(0), rng.exponential(size=(2, 5))
    means = rng.normal(size=(2, 5))
    first, second = ((basis * v) @ basis.T for v in variances)
    exact = np.sum((means[0] - means[1]) ** 2) + np.sum((np.sqrt(variances[0]) - np.sqrt(variances[1])) ** 2)
    np.testing.assert_allclose(frechet_distance(means[0], first, means[1], second), exact, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_frechet_against_the_matrix_square_root(seed):
    (m1, s1), (m2, s2) = gaussian(seed), gaussian(seed + 100)
    assert np.abs(s1 @ s2 - s2 @ s1).max() > 0.1
    cross = np.trace(np.real(scipy.linalg.sqrtm(s1 @ s2)))
    exact = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2) - 2 * cross
    np.testing.assert_allclose(frechet_distance(m1, s1, m2, s2), exact, rtol=1e-10)


def test_frechet_in_the_plane():
    """tr M^{1/2} = (tr M + 2 (det M)^{1/2})^{1/2} for 2 × 2."""
    (m1, s1), (m2, s2) = gaussian(0, 2), gaussian(1, 2)
    product = s1 @ s2
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    exact = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2) - 2 * cross
    np.testing.assert_allclose(frechet_distance(m1, s1, m2, s2), exact, rtol=1e-12)


def test_frechet_symmetries():
    (m1, s1), (m2, s2), q = gaussian(0), gaussian(1), rotation(2)
    value = frechet_distance(m1, s1, m2, s2)
    np.testing.assert_allclose(frechet_distance(m2, s2, m1, s1), value, rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(q @ m1, q @ s1 @ q.T, q @ m2, q @ s2 @ q.T), value, rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(3 * m1, 9 * s1, 3 * m2, 9 * s2), 9 * value, rtol=1e-12)
    shift = np.arange(5.0)
    moved = value + shift @ shift + 2 * shift @ (m1 - m2)
    np.testing.assert_allclose(frechet_distance(m1 + shift, s1, m2, s2), moved, rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 64])
def test_frechet_of_a_gaussian_with_itself_is_zero_at_any_rank(rank):
    mean, covariance = gaussian(0, 64, rank)
    assert frechet_distance(mean, covariance, mean, covariance) <= 1e-12 * np.trace(covariance)


def test_frechet_of_fewer_samples_than_dimensions_is_that_of_their_subspace():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 4)), rng.normal(size=(5, 4)) @ np.diag([1, 2, 3, 0.1]) + 1
    inside = frechet_distance(*moments(first), *moments(second))
    basis = np.linalg.qr(rng.normal(size=(32, 4)))[0].T
    embedded = frechet_distance(*moments(first @ basis), *moments(second @ basis))
    np.testing.assert_allclose(embedded, inside, rtol=1e-6)


def test_moments_are_unbiased():
    features = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    mean, covariance = moments(features)
    assert covariance.dtype == np.float64
    np.testing.assert_allclose(mean, features.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.T.astype(np.float64)), rtol=1e-12)


def test_two_samples_of_one_gaussian_are_as_far_apart_as_stated():
    """The mean distance at n₁ = n₂ = n has the bias of the docstring: 4 standard errors, and 5% for higher orders."""
    rng, n = np.random.default_rng(0), 400
    variances = np.array([4.0, 2.0, 1.0, 0.5])
    halves = 1 + np.eye(4)
    pairs = variances[:, None] * variances / (variances[:, None] + variances)
    bias = 2 / n * (variances.sum() + 0.5 * np.sum(halves * pairs))
    values = []
    for _ in range(300):
        first, second = np.sqrt(variances) * rng.normal(size=(2, n, 4))
        values.append(frechet_at(first, second, resamples=0).value)
    error = np.std(values) / np.sqrt(len(values))
    assert 4 * error < 0.25 * bias  # so a missing factor would be seen
    assert abs(np.mean(values) - bias) < 4 * error + 0.05 * bias


def test_the_standard_error_is_the_spread_over_new_samples():
    rng, n = np.random.default_rng(1), 300
    estimates = [frechet_at(rng.normal(size=(n, 3)), 1 + 2 * rng.normal(size=(n, 3)), resamples=40) for _ in range(150)]
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    stated = np.mean([estimate.standard_error for estimate in estimates])
    # The spread of 150 values is itself known to 1/√298 = 6%.
    assert abs(np.log(stated / spread)) < 4 / np.sqrt(298)


def test_frechet_at_takes_n_of_each():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(50, 3)), rng.normal(size=(80, 3)) + 1
    assert frechet_at(first, second).n == 50
    assert frechet_at(first, second, 50, seed=3, resamples=5) == frechet_at(first, second, 50, seed=3, resamples=5)
    assert frechet_at(first, second, 20, seed=3).value != frechet_at(first, second, 20, seed=4).value
    everything = frechet_distance(*moments(first), *moments(second[:50]))
    np.testing.assert_allclose(frechet_at(first, second[:50], resamples=0).value, everything, rtol=1e-12)
    for n in (1, 51):
        with pytest.raises(DataError, match="give 2 to 50"):
            frechet_at(first, second, n)


def test_supports_of_equal_and_of_distant_sets():
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    assert precision_recall(features, features) == (1, 1)
    assert precision_recall(features, features + 100) == (0, 0)
    assert density_coverage(features, features)[1] == 1
    assert density_coverage(features, features + 100) == (0, 0)


def test_copies_of_one_point_are_inside_their_own_support():
    """The balls have radius 0, and rounding must not empty them."""
    for seed in range(40):
        features = np.repeat(np.random.default_rng(seed).normal(size=(3, 64)) * 1e3, 10, axis=0)
        for some in (features[:1], features[:7], features[::10]):
            assert precision_recall(features, np.tile(some, (5, 1))).precision == 1


def test_swapping_the_sets_swaps_precision_and_recall():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(60, 2)), 0.5 * rng.normal(size=(45, 2))
    precision, recall = precision_recall(real, generated)
    assert precision > recall
    assert precision_recall(generated, real) == (recall, precision)


def test_one_of_two_modes_is_precise_but_recalls_half():
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(2, 200, 3)) + np.array([0, 100])[:, None, None]
    precision, recall = precision_recall(modes.reshape(400, 3), modes[0] + 1e-3)
    assert precision == 1
    np.testing.assert_allclose(recall, 0.5, atol=0.01)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("k", [1, 3])
def test_supports_by_brute_force(k, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", block)
    rng = np.random.default_rng(k)
    real, generated = rng.normal(size=(30, 3)), rng.normal(size=(23, 3)) + 0.5

    def balls(points):
        return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]

    def inside(points, centres):
        radii = balls(centres)
        return np.array([[np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)] for p in points])

    members = inside(generated, real)
    exact = members.any(1).mean(), inside(real, generated).any(1).mean()
    assert min(exact) > 0
    assert max(exact) < 1
    np.testing.assert_allclose(precision_recall(real, generated, k), exact)
    np.testing.assert_allclose(density_coverage(real, generated, k), (members.sum() / (k * 23), members.any(0).mean()))


def test_density_and_coverage_of_perfect_samples_have_their_exact_mean():
    """By ranks alone: E density = 1 and E coverage = 1 − Π_{j ≤ k} (n − j)/(n + m − j), for any continuous law."""
    rng, n, m, k = np.random.default_rng(0), 30, 20, 4
    values = np.array([density_coverage(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), k) for _ in range(400)])
    j = np.arange(1, k + 1)
    exact = np.array([1, 1 - np.prod((n - j) / (n + m - j))])
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (4 * error < 0.1).all()
    assert (np.abs(values.mean(0) - exact) < 4 * error).all()


def test_what_has_no_distance_is_refused():
    features = np.zeros((4, 2))
    with pytest.raises(DataError, match="at least two"):
        moments(features[:1])
    with pytest.raises(DataError, match="finite"):
        moments(np.full((4, 2), np.nan))
    with pytest.raises(DataError, match="k = 3 neighbours"):
        precision_recall(features[:3], features, k=3)
