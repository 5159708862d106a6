"""Distances of Gaussians: integrals in one dimension, SciPy in more, invariances, Fisher's information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from diffusion import Normal, kl_divergence
from diffusion.distances import bhattacharyya, bures_squared, gaussian_kl, wasserstein2, wasserstein2_squared

FORMS = ("procrustes", "trace", "commuting")


@jax.jit
def distances(mean_p, cov_p, mean_q, cov_q):
    pair = mean_p, cov_p, mean_q, cov_q
    squared = {form: wasserstein2_squared(*pair, form) for form in FORMS}
    return {"kl": gaussian_kl(*pair), "bhattacharyya": bhattacharyya(*pair), "w2": wasserstein2(*pair)} | squared


def gaussian(seed, d=4, rank=None):
    """Mean and covariance of a random Gaussian."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, rank or d))
    return rng.normal(size=d), root @ root.T + (0.1 * np.eye(d) if rank is None else 0)


def rotation(seed, d=4):
    return scipy.stats.ortho_group.rvs(d, random_state=seed)


def bures_by_scipy(p, q):
    """tr P + tr Q − 2 tr (P Q)^{1/2}: the product has the eigenvalues of P^{1/2} Q P^{1/2}."""
    return np.trace(p + q) - 2 * np.trace(np.real(scipy.linalg.sqrtm(p @ q)))


def test_in_one_dimension_they_are_integrals(x64):
    (m1, s1), (m2, s2) = (0.3, 0.7), (-0.5, 1.1)
    x = np.linspace(-15, 15, 20_001)
    dx = x[1] - x[0]
    log_p, log_q = (scipy.stats.norm.logpdf(x, m, s) for m, s in ((m1, s1), (m2, s2)))
    got = distances(*(np.asarray(a) for a in ([m1], [[s1**2]], [m2], [[s2**2]])))
    np.testing.assert_allclose(got["kl"], np.sum(np.exp(log_p) * (log_p - log_q)) * dx, rtol=1e-12)
    overlap = np.sum(np.exp(0.5 * (log_p + log_q))) * dx
    np.testing.assert_allclose(got["bhattacharyya"], -np.log(overlap), rtol=1e-12)
    # W_2² = ∫ (F⁻¹(u) − G⁻¹(u))² du, with u = Φ(z)
    z = np.linspace(-7, 7, 5001)
    u = scipy.stats.norm.cdf(z)
    gaps = scipy.stats.norm.ppf(u, m1, s1) - scipy.stats.norm.ppf(u, m2, s2)
    transport = np.sum(scipy.stats.norm.pdf(z) * gaps**2) * (z[1] - z[0])
    for form in FORMS:
        np.testing.assert_allclose(got[form], transport, rtol=1e-9)
        np.testing.assert_allclose(got[form], (m1 - m2) ** 2 + (s1 - s2) ** 2, rtol=1e-12)


def test_with_independent_coordinates_kl_is_the_known_one(x64):
    rng = np.random.default_rng(0)
    (m1, m2), (s1, s2) = rng.normal(size=(2, 4)), rng.uniform(0.3, 2.0, size=(2, 4))
    expected = kl_divergence(*(Normal(jnp.asarray(m)[None], jnp.asarray(s)[None]) for m, s in ((m1, s1), (m2, s2))))
    np.testing.assert_allclose(distances(m1, np.diag(s1**2), m2, np.diag(s2**2))["kl"], expected[0], rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_in_many_dimensions_they_are_the_textbooks(seed, x64):
    (m1, p), (m2, q) = gaussian(seed), gaussian(seed + 10)
    got, middle, gap = distances(m1, p, m2, q), 0.5 * (p + q), m1 - m2
    log_det_p, log_det_q, log_det_middle = (np.linalg.slogdet(s)[1] for s in (p, q, middle))
    inside = np.trace(np.linalg.solve(q, p)) - len(gap) + gap @ np.linalg.solve(q, gap)
    np.testing.assert_allclose(got["kl"], 0.5 * (inside + log_det_q - log_det_p), rtol=1e-11)
    expected = 0.125 * gap @ np.linalg.solve(middle, gap) + 0.5 * log_det_middle - 0.25 * (log_det_p + log_det_q)
    np.testing.assert_allclose(got["bhattacharyya"], expected, rtol=1e-11)
    assert np.abs(p @ q - q @ p).max() > 0.1
    expected = gap @ gap + bures_by_scipy(p, q)
    np.testing.assert_allclose([got["procrustes"], got["trace"], got["w2"] ** 2], expected, rtol=1e-10)
    assert got["commuting"] > got["procrustes"] * (1 + 1e-6)
    assert got["kl"] >= 2 * got["bhattacharyya"]  # Jensen: −ln E_p √(q/p) <= ½ E_p ln(p/q)


def test_kl_is_the_mean_of_the_log_ratio(x64):
    """By samples, within 4 standard errors."""
    (m1, p), (m2, q) = gaussian(0), gaussian(10)
    x = np.random.default_rng(1).multivariate_normal(m1, p, size=40_000)
    ratio = scipy.stats.multivariate_normal(m1, p).logpdf(x) - scipy.stats.multivariate_normal(m2, q).logpdf(x)
    assert abs(ratio.mean() - distances(m1, p, m2, q)["kl"]) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_what_changes_of_variables_leave(x64):
    """KL and Bhattacharyya: any affine map. W_2: rotations and shifts; its square grows with the square of a scale."""
    (m1, p), (m2, q) = gaussian(0), gaussian(10)
    a, shift, turn = np.random.default_rng(2).normal(size=(4, 4)), np.arange(4.0), rotation(3)
    got = distances(m1, p, m2, q)
    moved = distances(a @ m1 + shift, a @ p @ a.T, a @ m2 + shift, a @ q @ a.T)
    np.testing.assert_allclose([moved["kl"], moved["bhattacharyya"]], [got["kl"], got["bhattacharyya"]], rtol=1e-10)
    b = 3 * turn
    moved = distances(b @ m1 + shift, b @ p @ b.T, b @ m2 + shift, b @ q @ b.T)
    np.testing.assert_allclose([moved[f] for f in FORMS], [9 * got[f] for f in FORMS], rtol=1e-11)
    np.testing.assert_allclose(moved["w2"], 3 * got["w2"], rtol=1e-11)
    swapped = distances(m2, q, m1, p)
    for name in ("bhattacharyya", *FORMS):
        np.testing.assert_allclose(swapped[name], got[name], rtol=1e-11)
    assert abs(swapped["kl"] - got["kl"]) > 0.1


def test_when_covariances_commute_all_forms_are_one(x64):
    rng, basis = np.random.default_rng(0), rotation(0)
    means, variances = rng.normal(size=(2, 4)), rng.exponential(size=(2, 4))
    p, q = ((basis * v) @ basis.T for v in variances)
    got = distances(means[0], p, means[1], q)
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((np.sqrt(variances[0]) - np.sqrt(variances[1])) ** 2)
    np.testing.assert_allclose([got[form] for form in FORMS], expected, rtol=1e-11)


@pytest.mark.parametrize("ranks", [(2, 2), (1, 3), (3, 4)])
def test_singular_covariances_have_a_wasserstein_distance(ranks, x64):
    """In the plane tr (P Q)^{1/2} is √(tr P Q + 2 √det P Q); the ranks meet in a plane or not at all."""
    (m1, p), (m2, q) = gaussian(0, rank=ranks[0]), gaussian(10, rank=ranks[1])
    got = distances(m1, p, m2, q)
    np.testing.assert_allclose(got["procrustes"], got["trace"], rtol=1e-10)
    values = np.linalg.eigvals(p @ q)
    cross = np.sum(np.sqrt(np.sort(np.abs(values))[-min(ranks) :]))
    expected = np.sum((m1 - m2) ** 2) + np.trace(p + q) - 2 * cross
    np.testing.assert_allclose(got["procrustes"], expected, rtol=1e-9)
    same = distances(m1, p, m1, p)
    assert same["w2"] <= 1e-14 * np.sqrt(np.trace(p))
    point = distances(m1, 0 * p, m2, q)
    np.testing.assert_allclose(point["procrustes"], np.sum((m1 - m2) ** 2) + np.trace(q), rtol=1e-13)


def test_wasserstein_is_a_metric_with_geodesics(x64):
    """Three laws make a triangle; three on a geodesic, P_s = M P M with M = (1 − s) I + s T, a degenerate one."""
    laws = [gaussian(seed) for seed in range(6)]
    w = np.array([[distances(*a, *b)["w2"] for b in laws] for a in laws])
    assert np.all(w[:, None, :] <= (w[:, :, None] + w[None, :, :]) * (1 + 1e-12))
    (m1, p), (m2, q) = laws[:2]
    root = np.real(scipy.linalg.sqrtm(p))
    back = np.linalg.inv(root)
    transport = back @ np.real(scipy.linalg.sqrtm(root @ q @ root)) @ back
    for s in (0.25, 0.6):
        step = (1 - s) * np.eye(4) + s * transport
        between = (1 - s) * m1 + s * m2, step @ p @ step
        np.testing.assert_allclose(distances(m1, p, *between)["w2"], s * w[0, 1], rtol=1e-10)
        np.testing.assert_allclose(distances(*between, m2, q)["w2"], (1 - s) * w[0, 1], rtol=1e-10)


@pytest.mark.parametrize("eps", [1e-3, 1e-6])
def test_digits_of_laws_that_nearly_coincide(eps, x64):
    """Q and (1 + ε) Q: half the digits of the covariances are left in ε, and as many in the distance."""
    mean, q = gaussian(0)
    got = distances(mean, (1 + eps) * q, mean, q)
    e, half = eps, eps / (2 + eps)
    excess = e**2 * (1 / 2 - e / 3 + e**2 / 4 - e**3 / 5 + e**4 / 6)
    np.testing.assert_allclose(got["kl"], 0.5 * 4 * excess, rtol=1e-14 / eps)
    np.testing.assert_allclose(got["bhattacharyya"], -0.25 * 4 * np.log1p(-(half**2)), rtol=1e-14 / eps)
    np.testing.assert_allclose(got["w2"], eps / (1 + np.sqrt(1 + eps)) * np.sqrt(np.trace(q)), rtol=1e-14 / eps)
    same = distances(mean, q, mean, q)
    assert same["kl"] == same["bhattacharyya"] == 0
    assert same["w2"] <= 1e-14 * np.sqrt(np.trace(q))


def test_digits_in_single_precision():
    mean, q = gaussian(0)
    got = distances(*(jnp.asarray(a, jnp.float32) for a in (mean, 1.001 * q, mean, q)))
    np.testing.assert_allclose(got["kl"], 0.5 * 4 * (5e-7 - 1e-9 / 3), rtol=5e-3)
    np.testing.assert_allclose(got["w2"], 4.99875e-4 * np.sqrt(np.trace(q)), rtol=5e-3)


def along(s, pair, direction):
    """The distances as functions of a number, along a straight line of Gaussians."""
    mean_p, cov_p, mean_q, cov_q = (a + s * b for a, b in zip(pair, direction, strict=True))
    got = distances(mean_p, cov_p, mean_q, cov_q)
    return jnp.stack([got[name] for name in ("kl", "bhattacharyya", "procrustes", "trace")])


@jax.jit
def slopes(s, pair, direction):
    """First and second derivatives."""

    def first(s):
        return jax.jvp(lambda s: along(s, pair, direction), (s,), (jnp.ones_like(s),))[1]

    return (*jax.jvp(first, (s,), (jnp.ones_like(s),)), jax.jacrev(along)(s, pair, direction))


def symmetric(seed, d=4):
    a = np.random.default_rng(seed).normal(size=(d, d))
    return a + a.T


def test_derivatives_are_those_of_finite_differences(x64):
    pair = (*gaussian(0), *gaussian(10))
    direction = tuple(0.1 * a for a in (np.ones(4), symmetric(1), -np.ones(4), symmetric(2)))
    first, second, reverse = slopes(jnp.asarray(0.0), pair, direction)
    np.testing.assert_allclose(reverse, first, rtol=1e-9)
    h = 1e-3
    values = [np.asarray(along(s * h, pair, direction)) for s in (-2, -1, 1, 2)]
    np.testing.assert_allclose(first, (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h), rtol=1e-7)
    moved = [np.asarray(slopes(jnp.asarray(s * h), pair, direction)[0]) for s in (-2, -1, 1, 2)]
    np.testing.assert_allclose(second, (8 * (moved[2] - moved[1]) - (moved[3] - moved[0])) / (12 * h), rtol=1e-6)


@pytest.mark.parametrize("spectrum", [[0.5, 1.0, 2.0, 3.0], [1.5] * 4], ids=["simple", "degenerate"])
def test_to_second_order_they_are_metrics(spectrum, x64):
    """Where p = q the slope is 0 and the curvature of KL Fisher's information, of Bhattacharyya's distance a quarter of
    it, of W_2² 2 |v|² + 2 tr L S L with L S + S L = V; also where eigenvalues coincide."""
    basis = rotation(5)
    s, v, change = (basis * np.array(spectrum)) @ basis.T, np.arange(4.0), symmetric(3)
    still = np.zeros(4), np.zeros((4, 4))
    fisher = v @ np.linalg.solve(s, v) + 0.5 * np.trace(np.linalg.matrix_power(np.linalg.solve(s, change), 2))
    velocity = scipy.linalg.solve_continuous_lyapunov(s, change)
    otto = 2 * v @ v + 2 * np.trace(velocity @ s @ velocity)
    pair = np.ones(4), s, np.ones(4), s
    for direction in ((v, change, *still), (*still, v, change)):
        first, second, _ = slopes(jnp.asarray(0.0), pair, direction)
        np.testing.assert_allclose(first, 0, atol=1e-13)
        np.testing.assert_allclose(second, [fisher, fisher / 4, otto, otto], rtol=1e-10)


def test_the_mean_has_the_shape_of_an_event_and_the_laws_may_be_mapped_over(x64):
    laws = [[gaussian(seed) for seed in seeds] for seeds in ((0, 1, 2), (10, 11, 12))]
    means, covs = (np.stack([np.stack([law[i] for law in side]) for side in laws]) for i in (0, 1))
    batched = jax.vmap(gaussian_kl)(means[0].reshape(3, 2, 1, 2), covs[0], means[1].reshape(3, 2, 1, 2), covs[1])
    each = [distances(m1, p, m2, q)["kl"] for m1, p, m2, q in zip(means[0], covs[0], means[1], covs[1], strict=True)]
    np.testing.assert_allclose(batched, each, rtol=1e-12)


def test_what_has_no_distance_is_refused():
    (mean, cov), small = gaussian(0), np.eye(3)
    for function in (gaussian_kl, bhattacharyya, wasserstein2, wasserstein2_squared):
        with pytest.raises(ValueError, match=r"mean_p has shape \(4,\).* need a mean of 3 numbers"):
            function(mean, small, mean, small)
    with pytest.raises(ValueError, match="form = 'frechet' is no form of W_2; choose one of procrustes, trace"):
        bures_squared(cov, cov, "frechet")
    unchecked = getattr(bures_squared, "__wrapped__", bures_squared)  # by types, which are checked in tests alone
    with pytest.raises(ValueError, match=r"cov_p has shape \(4, 4\) and cov_q \(3, 3\)"):
        unchecked(cov, small)
