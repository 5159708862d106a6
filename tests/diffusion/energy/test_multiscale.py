"""One energy for all noise levels: its loss, the field that has the least of it, the curl of that field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion.energy import (
    asymmetry,
    exact_potential,
    geometric_levels,
    multiscale_denoiser,
    multiscale_loss,
    residual_denoiser,
)
from diffusion.oracles import Atoms, GaussianMixture
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import LogUniformSigma
from diffusion.score_matching.weightings import SNRWeighting

LAW = GaussianMixture.isotropic(np.asarray([[-1.0, 0.3], [0.9, -0.4]]), np.asarray([0.3, 0.5]), np.asarray([0.4, 0.6]))
LEVELS = geometric_levels(0.2, 1.5, 7)


def quadratic(c, y):
    return -0.5 * c * jnp.sum(y**2, axis=-1)


def test_the_loss_is_weighted_and_log_uniform(x64):
    """For ψ = −½c|y|²: E|c x − (1 − c) σ z|²/σ² = c² |x|² E[1/σ²] + (1 − c)² d, ln σ uniform; beyond EDM's times."""
    c, x = 0.3, np.broadcast_to([0.2, -0.4, 0.7], (20_000, 3))
    loss = jax.jit(multiscale_loss, static_argnames="draw")
    for low, high in ((0.1, 1.2), (100.0, 400.0)):
        values = np.asarray(loss(jax.random.key(0), Partial(quadratic, c), x, low, high, draw="independent"))
        inverse = (low**-2 - high**-2) / (2 * np.log(high / low))
        expected = c**2 * np.sum(x[0] ** 2) * inverse + (1 - c) ** 2 * 3
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values)) < 0.05 * expected
    terms = jax.jit(denoising_terms)(
        jax.random.key(0),
        Process(EDM()),
        residual_denoiser(Partial(quadratic, c)),
        x[:50],
        weighting=SNRWeighting(),
        times=LogUniformSigma(0.1, 1.2),
    )
    found = loss(jax.random.key(0), Partial(quadratic, c), x[:50], 0.1, 1.2)
    np.testing.assert_allclose(found, 3 * terms.loss, rtol=1e-12)


def test_one_level_is_the_denoiser_of_that_level(x64):
    one = multiscale_denoiser(LAW, [0.7])

    @jax.jit
    def measure(y):
        return one(y, 3.0), LAW.denoiser(Process(EDM()))(y, 0.7), asymmetry(lambda v: one(v, 0.0), y).ratio

    found, expected, ratio = measure(np.random.default_rng(0).normal(size=(6, 2)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert float(ratio) < 1e-13


def test_the_mean_over_levels_is_bayes_rule_for_pairs(x64):
    """Of finite data, all pairs of a point and a level by NumPy; events of any shape; the weights' factor is free."""
    rng = np.random.default_rng(1)
    points, masses, y = rng.normal(size=(4, 3, 2)), np.asarray([0.1, 0.2, 0.3, 0.4]), rng.normal(size=(5, 3, 2))
    weights = rng.uniform(0.5, 2, size=7)
    squares = np.sum((y[:, None] - points) ** 2, (2, 3))[..., None]
    joint = masses[:, None] * weights * np.exp(-0.5 * squares / LEVELS**2) / LEVELS**6
    expected = np.einsum("bks,kij->bij", joint, points) / joint.sum((1, 2))[:, None, None]
    law = Atoms(points, masses)
    answer = jax.jit(lambda denoise, y: denoise(y, 0.0))
    for factor in (1.0, 7.0):
        found = answer(multiscale_denoiser(law, LEVELS, factor * weights), y)
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    given, same = multiscale_denoiser(law, LEVELS), multiscale_denoiser(law, LEVELS, LEVELS**-2.0)
    np.testing.assert_allclose(answer(given, y), answer(same, y), rtol=1e-12)


def test_no_field_and_no_energy_has_less_loss():
    """Against the loss that it is the minimiser of, on the same draws: it beats energies and changes of itself."""
    low, high, count = 0.2, 1.5, 20_000
    x = jax.jit(LAW.sample, static_argnums=1)(jax.random.key(0), count)
    # Midpoints of 24 equal parts of ln σ stand for all.
    levels = np.exp(np.log(low) + (np.arange(24) + 0.5) / 24 * np.log(high / low))
    best = multiscale_denoiser(LAW, levels)

    @jax.jit
    def loss(denoise):
        process, times = Process(EDM()), LogUniformSigma(low, high)
        return denoising_terms(jax.random.key(1), process, denoise, x, weighting=SNRWeighting(), times=times).loss

    least = np.asarray(loss(best))
    others = [residual_denoiser(exact_potential(LAW, sigma)) for sigma in (0.3, 0.6)]
    others += [Partial(changed, best, jnp.asarray(sign)) for sign in (-0.1, 0.1)]
    for other in others:
        gap = np.asarray(loss(other)) - least
        assert gap.mean() > 4 * gap.std() / np.sqrt(count)


def changed(denoise, by, y, t):
    return denoise(y, t) + by * jnp.sin(2 * y)


def test_its_curl_is_the_step_turned_against_the_score(x64):
    """J − Jᵀ = s̄ (r − y)ᵀ − (r − y) s̄ᵀ with s̄ = ∇ln Σ w p_σ; none in one dimension, none for a round law."""
    process, y = Process(EDM()), np.random.default_rng(2).normal(size=(6, 2))
    best = multiscale_denoiser(LAW, LEVELS)

    def log_mixture(v):
        levels = jnp.asarray(LEVELS)
        logs = jax.vmap(lambda s: LAW.log_prob(process, v, s) - 2 * jnp.log(s))(levels)
        return jax.nn.logsumexp(logs, axis=0)

    @jax.jit
    def measure(y):
        slope = jax.grad(lambda v: jnp.sum(log_mixture(v)))(y)
        jacobian = jax.vmap(jax.jacfwd(lambda v: best(v[None], 0.0)[0]))(y)
        return slope, best(y, 0.0) - y, jacobian

    curl = jax.jit(lambda denoise, y: asymmetry(lambda v: denoise(v, 0.0), y))
    slope, step, jacobian = (np.asarray(value) for value in measure(y))
    turned = np.einsum("bi,bj->bij", slope, step) - np.einsum("bi,bj->bij", step, slope)
    np.testing.assert_allclose(jacobian - jacobian.swapaxes(1, 2), turned, rtol=1e-9, atol=1e-12)
    found = curl(best, y)
    np.testing.assert_allclose(found.antisymmetric, np.sum(turned**2, (1, 2)), rtol=1e-9)
    assert 1e-3 < float(found.ratio) < 0.5
    round_law = GaussianMixture.isotropic(np.zeros((1, 2)), 0.4)
    assert float(curl(multiscale_denoiser(round_law, LEVELS), y).ratio) < 1e-13


def test_what_makes_no_levels_is_refused():
    np.testing.assert_allclose(geometric_levels(0.1, 0.8, 4), [0.1, 0.2, 0.4, 0.8])
    for build, words in (
        (lambda: geometric_levels(0.5, 0.1, 3), "low = 0.5, high = 0.1"),
        (lambda: multiscale_denoiser(LAW, [0.3, 0.0]), "sigmas contains 0"),
        (lambda: multiscale_denoiser(LAW, [0.3, 0.4], [1.0]), "one weight a level"),
        (lambda: multiscale_loss(jax.random.key(0), Partial(quadratic, 0.3), jnp.zeros((2, 2)), 0.5, 0.1), "0 < low"),
        (lambda: multiscale_loss(jax.random.key(0), Partial(quadratic, 0.3), jnp.zeros((2, 2)), 1.0, 0.1), "0 < low"),
    ):
        with pytest.raises(ValueError, match=words):
            build()
