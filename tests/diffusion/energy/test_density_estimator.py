"""The denoising density estimator: its loss and the least of it, its normalisation, the generator that it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion import keys as keys_lib
from diffusion.energy import (
    density_estimator_loss,
    exact_potential,
    frozen_gap,
    generator_loss,
    log_density,
    log_normaliser,
    residual_denoiser,
)
from diffusion.energy.density_estimator import levels_between
from diffusion.oracles import Atoms, GaussianLaw, GaussianMixture
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import LogUniformSigma
from diffusion.score_matching.weightings import UniformWeighting

SIGMA = 0.5
LAW = GaussianMixture.isotropic(np.asarray([[-1.0, 0.3], [0.9, -0.4]]), np.asarray([0.3, 0.5]), np.asarray([0.4, 0.6]))


def quadratic(c, y):
    return -0.5 * c * jnp.sum(y**2, axis=-1)


def test_the_loss_is_that_of_denoising_at_one_level(x64):
    """Any σ, also beyond the times of EDM; on ψ = −½c|y|² it is |(1 − c) ε − c x|², whose ε is found from c = 0."""
    x = np.random.default_rng(0).normal(size=(6, 3))
    key, c = jax.random.key(1), 0.4
    psi, loss = Partial(quadratic, c), jax.jit(density_estimator_loss)
    terms = jax.jit(denoising_terms)(
        key,
        Process(EDM()),
        residual_denoiser(psi),
        x,
        weighting=UniformWeighting(),
        times=LogUniformSigma(SIGMA, SIGMA),
    )
    np.testing.assert_allclose(loss(key, psi, x, SIGMA), 3 * terms.loss, rtol=1e-12)

    def inner(sigma):  # E|(1 − c) ε − c x|² = (1 − c)² d σ² + c² |x|²
        return np.asarray(loss(key, psi, np.broadcast_to(x[:1], (20_000, 3)), sigma))

    for sigma in (SIGMA, 300.0, 1e-4):
        values = inner(sigma)
        expected = (1 - c) ** 2 * 3 * sigma**2 + c**2 * np.sum(x[0] ** 2)
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


def test_the_least_loss_is_reached_by_the_blurred_density_alone():
    """d σ² − σ⁴ E|∇ln p̂|², the second term by draws of p̂; ψ of another σ, or half of ψ, does worse."""
    count, process = 40_000, Process(EDM())

    @jax.jit
    def draw(key):
        y = LAW.sample_marginal(jax.random.fold_in(key, 1), process, count, SIGMA)
        return LAW.sample(key, count), jnp.sum(LAW.score(process, y, SIGMA) ** 2, -1)

    x, squares = draw(jax.random.key(0))
    squares = np.asarray(squares)
    loss = jax.jit(density_estimator_loss)
    values = np.asarray(loss(jax.random.key(2), exact_potential(LAW, SIGMA), x, SIGMA))
    least = 2 * SIGMA**2 - SIGMA**4 * squares.mean()
    error = np.sqrt((values.var() + SIGMA**8 * squares.var()) / count)
    assert abs(values.mean() - least) < 4 * error
    for other in (exact_potential(LAW, 0.7), Partial(halved, exact_potential(LAW, SIGMA))):
        gap = np.asarray(loss(jax.random.key(2), other, x, SIGMA)) - values
        assert gap.mean() > 10 * gap.std() / np.sqrt(count)
    assert 2 * SIGMA**2 - least > 20 * error  # and so is an answer of 0


def halved(psi, y):
    return 0.5 * psi(y)


def shifted(constant, psi, y):
    return psi(y) + constant


def test_the_normaliser_is_found_within_its_error():
    """ψ + C has ln Z = C/σ²; over 64 runs the errors are as large as they are said to be."""
    constant = 0.3
    psi = Partial(shifted, np.float32(constant), exact_potential(LAW, SIGMA))
    proposal = GaussianLaw.isotropic(np.zeros(2), 1.3)
    runs = [jax.device_get(log_normaliser(jax.random.key(i), psi, SIGMA, proposal, 2000)) for i in range(64)]
    z = np.asarray([(one.log_z - constant / SIGMA**2) / one.standard_error for one in runs])
    assert np.abs(z).max() < 4
    assert abs(np.mean(z**2) - 1) < 4 * np.sqrt(2 / 64)
    assert all(one.standard_error < 0.1 * constant / SIGMA**2 for one in runs)
    one = log_normaliser(jax.random.key(0), psi, SIGMA, proposal, 2000, block=333)
    np.testing.assert_allclose(one, runs[0], rtol=1e-5)  # a block is no part of the answer
    y = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    both = jax.jit(lambda y: (log_density(psi, SIGMA, constant / SIGMA**2)(y), LAW.log_prob(Process(EDM()), y, SIGMA)))
    np.testing.assert_allclose(*both(y), atol=1e-5)


def test_the_effective_sample_size_is_that_of_gaussians(x64):
    """n/E_q[(p/q)²], for N(0, v) by N(0, u) on the line n √(v(2u − v))/u; of p̂ by itself it is n, without error."""
    v, u, count = 0.8, 1.4, 20_000
    psi = exact_potential(GaussianLaw.isotropic(np.zeros(1), np.sqrt(v - SIGMA**2)), SIGMA)
    found = log_normaliser(jax.random.key(0), psi, SIGMA, GaussianLaw.isotropic(np.zeros(1), np.sqrt(u)), count)
    part = np.sqrt(v * (2 * u - v)) / u
    np.testing.assert_allclose(found.effective_sample_size, count * part, rtol=0.01)
    np.testing.assert_allclose(found.standard_error, np.sqrt((1 / part - 1) / count), rtol=0.02)
    points = np.random.default_rng(0).normal(size=(20, 3))
    itself = log_normaliser(
        jax.random.key(1), exact_potential(Atoms(points), SIGMA), SIGMA, GaussianMixture.isotropic(points, SIGMA), 100
    )
    np.testing.assert_allclose(itself, (0.0, 0.0, 100.0), atol=1e-10)


def test_what_cannot_be_normalised_is_refused():
    psi = exact_potential(LAW, SIGMA)
    with pytest.raises(TypeError, match="proposal is Atoms, points without a density"):
        log_normaliser(jax.random.key(0), psi, SIGMA, Atoms(np.zeros((3, 2))), 10)
    with pytest.raises(ValueError, match="count = 1"):
        log_normaliser(jax.random.key(0), psi, SIGMA, LAW, 1)
    with pytest.raises(ValueError, match=r"sigma = -1\.0"):
        density_estimator_loss(jax.random.key(0), psi, jnp.zeros((3, 2)), -1.0)


def test_only_what_is_generated_gets_a_gradient(x64):
    """It is (∇ψ_q − ∇ψ_p)/σ² at g + ε; parameters within a potential, even in a closure, get none."""
    g = np.random.default_rng(0).normal(size=(5, 2))
    key = jax.random.key(3)

    def loss(g, a, b):
        return jnp.sum(generator_loss(key, lambda y: quadratic(a, y), Partial(quadratic, b), g, SIGMA))

    @jax.jit
    def measure(g, a, b):
        y = g + SIGMA * keys_lib.normal(keys_lib.as_keys(key, 5), (2,))
        potentials = Partial(quadratic, a), Partial(quadratic, b)
        values = generator_loss(key, *potentials, g, SIGMA), frozen_gap(*potentials, y, SIGMA)
        return jax.grad(loss, argnums=(0, 1, 2))(g, a, b), y, values

    slopes, y, (values, gap) = jax.device_get(measure(g, 0.3, 0.8))
    np.testing.assert_allclose(slopes[0], (0.3 - 0.8) / SIGMA**2 * y, rtol=1e-12)
    assert float(slopes[1]) == float(slopes[2]) == 0.0
    np.testing.assert_allclose(values, -0.5 * (0.8 - 0.3) * np.sum(y**2, axis=1) / SIGMA**2, rtol=1e-12)
    np.testing.assert_array_equal(values, gap)


def test_the_loss_of_the_generator_is_the_divergence_of_gaussians():
    """With exact potentials its mean is KL(q̂ ‖ p̂) itself."""
    mean, std, count = np.asarray([0.4, -0.2]), 0.7, 40_000
    data, model = GaussianLaw.isotropic(np.zeros(2), 1.1), GaussianLaw.isotropic(mean, std)

    @jax.jit
    def draw(key):
        x = model.sample(jax.random.fold_in(key, 1), count)
        return generator_loss(key, exact_potential(data, SIGMA), exact_potential(model, SIGMA), x, SIGMA)

    values = np.asarray(draw(jax.random.key(0)))
    a, b = std**2 + SIGMA**2, 1.1**2 + SIGMA**2
    exact = 0.5 * (2 * a / b + np.sum(mean**2) / b - 2 + 2 * np.log(b / a))
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(count)
    assert exact > 8 * values.std() / np.sqrt(count)


def test_alternating_training_brings_the_generator_to_the_data():
    """ψ_q is learned, from what is generated alone: −½ (y − m)ᵀ P (y − m), which holds every Gaussian's."""
    covariance = np.asarray([[0.8, 0.3], [0.3, 0.5]])
    data = GaussianMixture.full(np.asarray([[0.5, -1.0]]), covariance[None])
    psi_data = exact_potential(data, SIGMA)

    def psi(params, y):
        gap = y - params[0]
        return -0.5 * jnp.einsum("bi,ij,bj->b", gap, params[1] @ params[1].T, gap)

    def generate(theta, keys):
        return theta[0] + keys_lib.normal(keys, (2,)) @ theta[1].T

    def generator(theta, params, key):
        g = generate(theta, keys_lib.as_keys(jax.random.fold_in(key, 0), 512))
        return jnp.mean(generator_loss(jax.random.fold_in(key, 1), psi_data, Partial(psi, params), g, SIGMA))

    def estimator(params, theta, key):
        g = generate(theta, keys_lib.as_keys(jax.random.fold_in(key, 2), 512))
        return jnp.mean(density_estimator_loss(jax.random.fold_in(key, 3), Partial(psi, params), g, SIGMA))

    @jax.jit
    def train(theta, params, keys):
        def step(state, key):
            theta, params = state

            def learn(i, params):
                slopes = jax.grad(estimator)(params, theta, jax.random.fold_in(key, i))
                return jax.tree.map(lambda a, b: a - 0.4 * b, params, slopes)

            params = jax.lax.fori_loop(0, 3, learn, params)
            slopes = jax.grad(generator)(theta, params, key)
            return (jax.tree.map(lambda a, b: a - 0.03 * b, theta, slopes), params), theta

        return jax.lax.scan(step, (theta, params), keys)[1]

    eye = np.eye(2, dtype=np.float32)
    start, params = (np.float32([-0.5, 0.5]), 0.3 * eye), (np.zeros(2, np.float32), 0.5 * eye)
    path = train(start, params, jax.random.split(jax.random.key(0), 600))
    mean, root = (np.asarray(part)[-200:] for part in path)
    np.testing.assert_allclose(mean.mean(0), data.means[0], atol=0.05)
    np.testing.assert_allclose((root @ root.swapaxes(1, 2)).mean(0), covariance, atol=0.06)


def test_the_process_has_room_for_its_levels():
    process, _ = levels_between(0.5, 3.0)
    assert process.t_max > 3.0
    assert process.t_min < 0.5
