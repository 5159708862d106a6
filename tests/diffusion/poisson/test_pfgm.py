"""PFGM as published, against what it approximates; the conditional regression; radial characteristics."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from diffusion.oracles import Atoms
from diffusion.poisson import (
    Perturbation,
    SmallZ,
    characteristic_velocity,
    empirical_field,
    field_denoiser,
    field_lines,
    hyperplane_sample,
    law_flow,
    network_flow,
    normalised_target,
    perturb_augmented,
    pfgm_terms,
    poisson_field,
    poisson_process,
    radial_velocity,
    velocity_in_r,
)
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import VelocityWeighting

KS = 1.95  # √n times the Kolmogorov-Smirnov statistic exceeds this once in a thousand
POINTS = np.random.default_rng(0).normal(size=(40, 2, 3))


perturb = jax.jit(perturb_augmented)


def ks(sample, law):
    return scipy.stats.kstest(np.asarray(sample, np.float64), law.cdf).statistic * np.sqrt(len(sample))


def test_the_perturbation_is_the_formula(x64):
    """x = x_0 + |ε_x|(1+τ)^m u, z = |ε_z|(1+τ)^m: scale by scale, and m uniform."""
    law, x_0 = Perturbation(sigma=0.02, tau=0.1, m_max=60.0), np.full((20_000, 5), 3.0)
    x, z = (np.asarray(value) for value in perturb(jax.random.key(0), x_0, law))
    gap = x - x_0
    length = np.linalg.norm(gap, axis=1)
    # ln z = ln σ + m ln(1+τ) + ln|g|: a sum of a uniform and of the logarithm of a half normal.
    mean = np.log(0.02) + 30 * np.log(1.1) - 0.5 * (np.log(2) + np.euler_gamma)
    spread = np.sqrt((60 * np.log(1.1)) ** 2 / 12 + np.pi**2 / 8)
    assert abs(np.mean(np.log(z)) - mean) < 4 * spread / np.sqrt(20_000)
    assert abs(np.std(np.log(z)) / spread - 1) < 4 / np.sqrt(20_000)
    log_length = np.log(0.02) + 30 * np.log(1.1) + 0.5 * (np.log(2) + scipy.special.digamma(2.5))
    assert abs(np.mean(np.log(length)) - log_length) < 4 * spread / np.sqrt(20_000)
    # The direction is uniform and |x − x_0|/z that of the prior, R² = β/(1 − β) with β ~ Beta(N/2, ½), whatever m.
    assert ks((1 + gap[:, 0] / length) / 2, scipy.stats.beta(2, 2)) < KS
    assert ks(length**2 / (length**2 + np.asarray(z) ** 2), scipy.stats.beta(2.5, 0.5)) < KS
    assert ks(length**2 / (length**2 + np.asarray(z) ** 2), scipy.stats.beta(2.5, 0.55)) > KS


@pytest.mark.parametrize("d", [1, 6, 784])
def test_the_prior_has_the_radius_of_a_ratio_of_gaussians(d):
    """Row 29 in float32: R² = T²β/(1−β), β ~ Beta(d/2, ½), unclipped; no draw is infinite."""
    x = jax.jit(lambda key: hyperplane_sample(key, (20_000, d), 3.0))(jax.random.key(1))
    ratio = np.square(x, dtype=np.float64).sum(1) / 9.0
    assert np.isfinite(ratio).all()
    # β itself is within 1e-9 of 1 for most draws at d = 784: 1 − β = 1/(1 + R²/T²) is not rounded.
    assert ks(1 / (1 + ratio), scipy.stats.beta(0.5, d / 2)) < KS
    assert ks(1 / (1 + ratio * 1.1), scipy.stats.beta(0.5, d / 2)) > KS


def test_a_draw_depends_on_its_own_key_alone():
    keys, x_0 = jax.random.split(jax.random.key(0), 4), np.zeros((4, 2), np.float32)
    together, alone = jax.device_get(perturb(keys, x_0)), perturb(keys[2:3], x_0[2:3])
    np.testing.assert_array_equal(alone[0], together[0][2:3])
    np.testing.assert_array_equal(alone[1], together[1][2:3])


def test_the_target_is_the_normalised_sum_over_the_reference(x64):
    """Its weights by powers of the distance in NumPy, and the direction of the exact field of those charges."""
    x, z = np.random.default_rng(1).normal(size=(5, 2, 3)), np.array([0.1, 0.5, 1.0, 4.0, 30.0])
    gap = np.concatenate(
        [(x[:, None] - POINTS).reshape(5, 40, 6), np.broadcast_to(z[:, None, None], (5, 40, 1))], axis=2
    )
    weights = np.linalg.norm(gap, axis=2) ** -7.0
    e = np.einsum("bk,bkd->bd", weights / weights.sum(1, keepdims=True), gap)

    @jax.jit
    def measure(x, z, points):
        targets = normalised_target(x, z, points), normalised_target(x, z, points, gamma=0.0)
        return empirical_field(x, z, points), targets, poisson_field(Atoms(points), x, z)

    found, (target, without), field = jax.device_get(measure(x, z, POINTS))
    np.testing.assert_allclose(found[0].reshape(5, 6), e[:, :6], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1], e[:, 6], rtol=1e-12)
    v = -np.sqrt(6) * e / (np.linalg.norm(e, axis=1, keepdims=True) + 5.0)
    np.testing.assert_allclose(target[0].reshape(5, 6), v[:, :6], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(target[1], v[:, 6], rtol=1e-10)
    np.testing.assert_allclose(without[0], -np.sqrt(6) * field.along_x, rtol=1e-10, atol=1e-12)


def exact_network(gamma=5.0):
    return lambda x, z: normalised_target(x, z, jnp.asarray(POINTS, x.dtype), gamma)


def test_the_loss_is_zero_for_the_field_and_what_is_added_squared_else(x64):
    """An element is perturbed by its own key, wherever it stands."""
    x_0, reference = jnp.asarray(POINTS[:8]), jnp.asarray(POINTS)
    key, law = jax.random.key(0), Perturbation(m_max=200.0)
    terms = jax.jit(pfgm_terms, static_argnums=1)
    np.testing.assert_allclose(terms(key, exact_network(), x_0, reference, law), 0, atol=1e-25)

    def off(x, z):
        along_x, along_z = exact_network()(x, z)
        return along_x + 0.3, along_z - 0.5

    np.testing.assert_allclose(terms(key, off, x_0, reference, law), (6 * 0.09 + 0.25) / 7, rtol=1e-9)
    wrong_gamma = terms(key, exact_network(4.0), x_0, reference, law)
    np.testing.assert_allclose(terms(key, exact_network(4.0), x_0[:3], reference, law), wrong_gamma[:3], rtol=1e-9)
    assert np.all(wrong_gamma > 0)


def test_a_network_for_the_field_is_a_denoiser(x64):
    """D = x − z v_x/v_z is the exact one of the data that it saw, and the flow that of the field; γ drops out."""
    process, law = poisson_process(), Atoms(POINTS)
    x, t = np.random.default_rng(1).normal(size=(5, 2, 3)), np.array([0.1, 0.5, 1.0, 4.0, 30.0])

    @jax.jit
    def measure(x, t):
        network, denoise, flow = exact_network(), law.denoiser(process), network_flow(exact_network())
        answers = field_denoiser(network)(x, t), denoise(x, t)
        at_one_time = field_denoiser(network)(x, 0.5), denoise(x, 0.5)
        return answers, at_one_time, (flow(x, t), law_flow(law)(x, t)), network(x, t), velocity_in_r(flow)(x, t)

    answers, at_one_time, flows, (along_x, along_z), slope = jax.device_get(measure(x, t))
    np.testing.assert_allclose(*answers, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(*at_one_time, rtol=1e-9)
    np.testing.assert_allclose(*flows, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(slope, along_x / along_z[:, None, None], rtol=1e-12)


def test_the_correction_at_small_z_is_not_needed(x64):
    """With the exact field it only harms: by z²/ρ² of v_z where z is small, the whole way where it is not.

    It does what it is for: a v_z that says nothing is replaced by one that is right there.
    """
    law, correct = Atoms(POINTS), SmallZ(threshold=0.3, gamma=5.0)
    x = POINTS[:6] + 0.2 * np.random.default_rng(1).normal(size=(6, 2, 3))

    def blind(x, z):
        along_x, along_z = exact_network()(x, z)
        return along_x, 0 * along_z - 1e-2

    @jax.jit
    def say(x, z):
        networks = exact_network(), blind
        return law_flow(law)(x, z), [[network_flow(it, s)(x, z) for s in (None, correct)] for it in networks]

    for z in (1e-3, 0.1, 0.25):
        exact, ((plain, corrected), (unrepaired, repaired)) = jax.tree.map(np.asarray, say(x, z))
        assert np.max(np.abs(plain - exact)) < 1e-11 < np.max(np.abs(corrected - exact))
        rho = np.min(np.sqrt(np.sum(exact**2, (1, 2))))
        assert np.max(np.abs(corrected - exact)) < 2 * (z / rho) ** 2 * np.max(np.abs(exact))
        if z == 1e-3:
            np.testing.assert_allclose(repaired, exact, rtol=1e-4, atol=1e-6)
            assert np.max(np.abs(unrepaired - exact)) > 0.01
    _, (_, (unrepaired, repaired)) = say(x, 0.5)
    np.testing.assert_array_equal(repaired, unrepaired)

    # Along whole lines, from the hyperplane to the data: the ends without it are the exact ones, with it they are not.
    start, radii = hyperplane_sample(jax.random.key(1), (6, 2, 3), 5.0), np.geomspace(5.0, 0.01, 40)
    flows = law_flow(law), network_flow(exact_network()), network_flow(exact_network(), correct)
    exact, plain, corrected = (np.asarray(field_lines(flow, start, radii).x)[-1] for flow in flows)
    np.testing.assert_allclose(plain, exact, atol=1e-8)
    assert np.max(np.abs(corrected - exact)) > 1e-4


def test_the_conditional_form_is_denoising_under_student_noise(x64):
    """|u(x, t) − (x − x_0)/t|², whose minimiser is dx/dt, is `denoising_terms` with the weighting of velocities."""
    process, x_0 = poisson_process(), POINTS[:8]

    @jax.jit
    def run(key, x_0):
        seen = []

        def denoise(x, t):
            seen.append((x, t))
            return 0.3 * x

        terms = denoising_terms(
            key, process, denoise, x_0, weighting=VelocityWeighting(), times=LogNormalSigma(), draw="independent"
        )
        return terms.loss, seen[0]

    loss, (x, t) = jax.device_get(run(jax.random.key(0), x_0))
    t = t[:, None, None]
    regression = np.mean(((x - 0.3 * x) / t - (x - x_0) / t) ** 2, axis=(1, 2))
    np.testing.assert_allclose(loss, regression, rtol=1e-10)


def test_the_conditional_regression_is_unbiased(x64):
    """E[(x − x_0)/t | x] over the posterior of charges is the slope of the line, by the law's own weights."""
    law, process, t = Atoms(POINTS[:4, 0]), poisson_process(3.0), 0.7
    x = np.random.default_rng(1).normal(size=(5, 3))
    slopes = (x[:, None] - POINTS[:4, 0]) / t

    @jax.jit
    def measure(x, z):
        return process.noise.log_prob(z), law_flow(law, 3.0)(x, t * np.sqrt(3.0))

    logs, flow = jax.device_get(measure(x, slopes.reshape(20, 3)))
    weights = scipy.special.softmax(logs.reshape(5, 4), axis=1)
    np.testing.assert_allclose(np.einsum("bk,bkd->bd", weights, slopes) * t, flow, rtol=1e-10)


def test_batches_bias_the_normalised_target_but_not_the_field(x64):
    """Given (x, z), over all pairs of eight charges, each as likely as one of them is the one perturbed.

    The mean of Ê is the field of all eight to rounding, and that of v points elsewhere.
    """
    x, z = np.asarray([[0.4, -0.2]]), np.asarray([0.5])
    data = np.random.default_rng(1).normal(size=(8, 2))
    weights = (np.sum((x - data) ** 2, axis=1) + 0.25) ** -1.5
    pairs = [list(pair) for pair in itertools.combinations(range(8), 2)]
    share = np.array([weights[pair].sum() for pair in pairs]) / (7 * weights.sum())
    slopes = {}
    for name, target in (("field", empirical_field), ("normalised", normalised_target)):
        of_pairs = jax.jit(jax.vmap(target, in_axes=(None, None, 0)))(x, z, data[np.asarray(pairs)])
        mean = share @ np.concatenate([np.asarray(part).reshape(len(pairs), -1) for part in of_pairs], axis=1)
        slopes[name] = mean[:2] / mean[2]
    exact = np.ravel(jax.jit(velocity_in_r(law_flow(Atoms(data))))(x, z))
    np.testing.assert_allclose(slopes["field"], exact, rtol=1e-12)
    assert np.max(np.abs(slopes["normalised"] - exact)) > 5e-3


GAUSSIAN, CAUCHY = (lambda r, t: -0.5 * (r / t) ** 2), (lambda r, t: -3.5 * jnp.log1p((r / t) ** 2))


def flow_matching(r, t):
    """ln of the density of (x − x_0)/t = z − x_0 along one ray: straight lines from x_0 to z ~ N(0, I)."""
    along, x_0 = jnp.asarray([0.6, 0.8]), jnp.asarray([0.3, -1.0])
    at = jnp.asarray(r / t)[..., None] * along
    return -0.5 * jnp.sum((at + x_0) ** 2, axis=-1)


@pytest.mark.parametrize("psi", [GAUSSIAN, CAUCHY, flow_matching, lambda r, t: jnp.tanh(r / t)])
def test_every_family_that_only_grows_has_the_same_characteristics(psi, x64):
    """Row 31: −ψ_t/ψ_r = r/t, so that f(x|x_0) = (x − x_0)/t; what does more than grow has not."""
    r, t = np.array([0.3, 1.0, 4.0]), np.array([0.5, 2.0, 0.7])
    x, x_0 = np.random.default_rng(1).normal(size=(2, 3, 2, 2))

    @jax.jit
    def measure(r, t, x, x_0):
        shrinking = radial_velocity(lambda r, t: psi(r, t) - t, r, t)
        return radial_velocity(psi, r, t), characteristic_velocity(psi, x, x_0, t), shrinking

    radial, velocity, shrinking = jax.device_get(measure(r, t, x, x_0))
    np.testing.assert_allclose(radial, r / t, rtol=1e-12)
    np.testing.assert_allclose(velocity, (x - x_0) / t[:, None, None], rtol=1e-11)
    assert np.max(np.abs(shrinking - r / t)) > 0.1


def test_the_correction_stands_an_answer_that_is_longer_than_a_field_can_be():
    """At |v_x| = √N the length of the field is infinite: there the network's own v_z stays. Below it is the formula."""

    def network(x, z):
        return x, -jnp.ones(x.shape[0])

    x, z = np.array([[1.2] * 4, [1.0] * 4, [0.05] * 4]), 0.5
    flow = jax.jit(network_flow(network, SmallZ()))(x, z)
    rho = 5 * 0.05 / 0.95
    v_z = np.array([-1.0, -1.0, -2 * z / (np.sqrt(rho**2 + z**2) + 5)])
    np.testing.assert_allclose(flow, z * x / v_z[:, None], rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"tau = 0\.0; it must be positive"):
        Perturbation(tau=0.0)
    for gamma in (-1.0, 0.0):
        with pytest.raises(ValueError, match=rf"gamma = {gamma}; give a positive number"):
            SmallZ(gamma=gamma)
    with pytest.raises(ValueError, match=r"threshold = 0\.0; give a positive number"):
        SmallZ(threshold=0.0)
    with pytest.raises(ValueError, match=r"gamma = -2\.0"):
        normalised_target(jnp.zeros((1, 2)), jnp.ones(1), jnp.zeros((1, 2)), gamma=-2.0)
