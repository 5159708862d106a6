"""Reverse variances (identity rows 8 and 10) and DDIM's family of posteriors (rows 12, 13 and 14)."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import (
    EDM,
    VP,
    Betas,
    Cosine,
    Preconditioning,
    Process,
    RectifiedFlow,
    StudentT,
    network_denoiser,
    perturb,
    posterior,
)
from diffusion.ddpm.chains import EncoderChain, GeneratorChain
from diffusion.ddpm.elbo import elbo_term
from diffusion.ddpm.reverse_steps import (
    FixedLarge,
    FixedSmall,
    Learned,
    Optimal,
    ddim_posterior,
    learned_denoiser,
    mean_denoiser,
    optimal_variance,
    step,
)
from diffusion.process import posterior_coefficients
from tests.diffusion.ddpm.gaussian_chain import Gaussian, corners, covariances, data, denoiser, encoder_joint, levels

CHAIN = Betas.ramp(40, 0.3)
PAIRS = {
    "chain": (Process(CHAIN), 7, 21),
    "edm": (Process(EDM()), 0.4, 3.0),
    "cosine": (Process(Cosine()), 0.3, 1.0),  # α = 0 at its end
}
SHARES, POWERS = np.array([0.0, 0.7, 1.0]), np.array([0.0, 1.0, 0.5, 2.0])


@jax.jit
def _facts(process, s, t, x_t):
    v = jnp.broadcast_to(POWERS[:, None], (4, 3))
    signs, x_0 = jnp.asarray([[-1.0], [1.0]]), jnp.full((2, 1), 0.8)

    def with_share(share):
        law = ddim_posterior(process, perturb(process, x_0, signs, t), x_0, s, t, share * process.sigma(s))
        return law.mean, law.std

    ddpm = posterior(process, x_t, 0.3 * x_t, s, t)
    return {
        "large": FixedLarge().variance(process, s, t),
        "small": FixedSmall().variance(process, s, t),
        "learned": Learned().variance(process, s, t, v),
        "marginals": jax.vmap(with_share)(SHARES),
        "alpha": jnp.stack([process.alpha(s), process.alpha(t)]),
        "sigma": jnp.stack([process.sigma(s), process.sigma(t)]),
        "ddpm": ddpm,
        "step": step(process, FixedSmall(), 0.3 * x_t, x_t, s, t),
        "ddim": ddim_posterior(process, x_t, 0.3 * x_t, s, t, ddpm.std),
        "shared": ddim_posterior(process, x_t, denoiser(process, data(2))(x_t, t), s, t),
    }


X_T = np.array([[0.7, -1.1], [0.2, 0.4]])


@functools.cache
def facts(name):
    """What the library says of one step, in one compilation."""
    return SimpleNamespace(**_facts(*PAIRS[name], X_T))


def in_the_chains_letters(t):
    """a², b², A², B², A₋², B₋² of CHAIN at t, from its β's."""
    b2 = 0.3 * t / 40
    before = np.prod(1 - 0.3 * np.arange(1, t) / 40)
    return 1 - b2, b2, before * (1 - b2), 1 - before * (1 - b2), before, 1 - before


def test_optimal_variance_is_m_over_d(x64):
    """Row 8: (b²/a²)[(b²/B²) L/d + a²B₋²/B²], where L/d = (A²/B²) E|x_0 − D|²/d."""
    t, loss = np.array([2, 17, 40]), 0.37
    a2, b2, big_a2, big_b2, _, big_b2_before = np.transpose([in_the_chains_letters(each) for each in t])
    expected = b2 / a2 * (b2 / big_b2 * loss + a2 * big_b2_before / big_b2)
    mine = jax.jit(optimal_variance)(Process(CHAIN), big_b2 / big_a2 * loss, t - 1, t)
    np.testing.assert_allclose(mine, expected, rtol=1e-12)


def test_optimal_variance_of_any_ddim_is_the_analytic_one(x64):
    """σ_η² + (A₋ − A √(B₋² − σ_η²)/B)² (B²/A²)(1 − E|e|²/d), and at σ_η² = β̃ DDPM's (Bao et al. 2022)."""
    _, b2, big_a2, big_b2, before, big_b2_before = in_the_chains_letters(17)
    small, gamma = b2 * big_b2_before / big_b2, 0.8
    std = np.sqrt(np.array([0.0, 0.4, 1.0]) * small)
    c_0 = np.sqrt(before) - np.sqrt(big_a2 * (big_b2_before - std**2) / big_b2)
    covariance = big_b2 / big_a2 * (1 - gamma)
    expected = std**2 + c_0**2 * covariance

    @jax.jit
    def run(covariance, std):
        each = optimal_variance(Process(CHAIN), covariance, 16, 17, std)
        return each, optimal_variance(Process(CHAIN), covariance, 16, 17)

    each, ddpm = run(covariance, std)
    np.testing.assert_allclose(each, expected, rtol=1e-11)
    np.testing.assert_allclose(ddpm, expected[-1], rtol=1e-11)


def test_the_optimal_variance_is_where_the_elbo_is_flat(x64):
    """Row 8, for any data and any denoiser: with E|x_0 − D|²/d over a sample, the slope of its mean term is 0."""
    process, times = Process(EDM()), np.array([0.0, 0.5, 2.0])
    x_0, x_1, x_2 = np.random.default_rng(0).standard_t(4, size=(3, 50, 2))

    def mean_terms(covariances):
        chain = GeneratorChain(process, Partial(lambda x, t: jnp.sin(x)), times, Optimal(times[1:], covariances))
        return sum(jnp.mean(elbo_term(chain, jnp.asarray(x_0), jnp.asarray(x), k)) for k, x in ((1, x_1), (2, x_2)))

    best = np.mean((x_0 - np.sin([x_1, x_2])) ** 2, axis=(1, 2))
    slopes = jax.jit(jax.vmap(jax.grad(mean_terms)))(np.array([[1.0], [1.1], [0.9]]) * best) * best
    np.testing.assert_allclose(slopes[0], 0.0, atol=1e-12)
    assert np.all(slopes[1] > 1e-2)
    assert np.all(slopes[2] < -1e-2)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CHAIN], ids=lambda s: type(s).__name__)
def test_the_table_is_interpolated_without_error_for_unit_data(schedule, x64):
    """N(0, I) has covariance σ²/(α² + σ²) at every time: at the nodes, between them and at α = 0 (row 10's table)."""
    process, nodes = Process(schedule), np.array([0.01, 0.2, 1.0]) * schedule.t_max
    nodes = np.rint(nodes + 0.5) if isinstance(schedule, Betas) else nodes
    inside = np.linspace(nodes[0], nodes[-1], 7)
    inside = np.rint(inside) if isinstance(schedule, Betas) else inside

    @jax.jit
    def run(process):
        def exact(t):
            variance = process.schedule.variance(t)
            return variance / (process.alpha(t) ** 2 + variance)

        return Optimal(nodes, exact(nodes)).covariance(process, inside), exact(inside)

    np.testing.assert_allclose(*run(process), rtol=1e-12)


def test_the_table_serves_any_subsequence(x64):
    """At its own times, float or integer, scalar or for each sample, the table is what was put in."""
    process, nodes, values = Process(CHAIN), np.arange(1.0, 41), np.random.default_rng(0).uniform(size=40)
    table = Optimal(nodes, values)
    times = (5, 5.0, np.array(7), np.array([3, 17, 40]))
    read = jax.jit(lambda table: [table.covariance(process, t) for t in times])(table)
    for time, value in zip(times, read, strict=True):
        np.testing.assert_allclose(value, values[np.asarray(time, int) - 1], rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_learned_goes_from_small_to_large(name, x64):
    """ln var is affine in v, small at 0 and large at 1, and goes on beyond."""
    it = facts(name)
    assert it.learned.shape == (4, 3)
    expected = it.small ** (1 - POWERS) * it.large**POWERS
    np.testing.assert_allclose(it.learned, expected[:, None] * np.ones(3), rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_a_step_is_the_posterior_at_the_denoised_image(name, x64):
    it = facts(name)
    np.testing.assert_allclose(it.step.mean, it.ddpm.mean, rtol=1e-12)
    np.testing.assert_allclose(it.step.std, it.ddpm.std, rtol=1e-12)


def test_at_the_data_the_floor_stands_for_the_small_variance(x64):
    process = Process(VP())

    @jax.jit
    def run(v):
        large, small = (kind.variance(process, 0.0, 0.1) for kind in (FixedLarge(), FixedSmall()))
        floored = FixedSmall().variance(process, 0.0, 0.1, floor=1e-4)
        learned = Learned().variance(process, 0.0, 0.1, v, floor=1e-4)
        return large, small, floored, learned, Learned().variance(process, 0.0, 0.1, v)

    large, small, floored, learned, alone = run(np.array([[0.25]]))
    assert (small, floored) == (0.0, 1e-4)
    np.testing.assert_allclose(learned, large**0.25 * 1e-4**0.75, rtol=1e-12)
    np.testing.assert_allclose(alone, large, rtol=1e-12)


def test_a_learned_variance_makes_a_diagonal_gaussian_exact(x64):
    """Row 10 without isotropy: with the right v for each coordinate q/p is q(x_N)/p(x_N) on every trajectory."""
    process, times = Process(VP()), np.array([0.0, 0.1, 0.3, 0.6])
    law = Gaussian(np.array([0.3, -0.2]), np.diag([0.2, 1.5]))
    best = denoiser(process, law)

    def denoise(x, t):
        s = jnp.asarray(times)[jnp.searchsorted(jnp.asarray(times), t) - 1]
        left = 1 / (1 / jnp.diag(law.covariance) + (process.alpha(t) / process.sigma(t)) ** 2)
        large = FixedLarge().variance(process, s, t)
        small = FixedSmall().variance(process, s, t, floor=posterior_coefficients(process, 0.1, 0.3)[2])
        right = optimal_variance(process, left, s, t)
        v = jnp.log(right / small) / jnp.log(large / small)
        return best(x, t), jnp.broadcast_to(v, x.shape)

    chain = GeneratorChain(process, Partial(denoise), times, Learned())
    x = np.random.default_rng(0).normal(size=(4, 5, 2))

    @jax.jit
    def ratio(x):
        return EncoderChain(process, times).log_prob(x) - chain.log_prob(x)

    end = encoder_joint(process, times, law).part(np.array([6, 7]))
    prior = Gaussian(np.zeros(2), np.eye(2))
    expected = end.log_prob(x[-1]) - prior.log_prob(x[-1])
    np.testing.assert_allclose(law.log_prob(x[0]) + ratio(x), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "variance", [FixedLarge(), FixedSmall(), Optimal(np.array([0.5, 2.0]), np.array([0.1, 0.3])), Learned()]
)
def test_a_step_onto_the_data_is_the_denoised_image(variance):
    """With s, t traced, one for each sample: no variance and no NaN at σ_s = 0, a variance above."""
    process, x = Process(EDM()), jax.random.normal(jax.random.key(0), (3, 2))
    denoised = (0.3 * x, 0.5 + x) if isinstance(variance, Learned) else 0.3 * x
    law = jax.jit(step)(process, variance, denoised, x, jnp.asarray([0.0, 0.5, 0.0]), jnp.asarray([0.5, 2.0, 2.0]))
    std = np.broadcast_to(law.std, (3, 2))
    np.testing.assert_array_equal(law.mean[::2], 0.3 * x[::2])
    np.testing.assert_array_equal(std[::2], 0.0)
    assert np.all(std[1] > 0)


def test_what_cannot_be_is_refused():
    x = jnp.ones((2, 3))
    with pytest.raises(TypeError, match="a pair"):
        jax.eval_shape(lambda x: step(Process(VP()), Learned(), x, x, 0.2, 0.5), x)
    with pytest.raises(TypeError, match="Gaussian noise only"):
        jax.eval_shape(lambda x: step(Process(EDM(), StudentT(3.0)), FixedSmall(), x, x, 0.2, 0.5), x)


@pytest.mark.parametrize("name", PAIRS)
def test_ddim_keeps_the_marginals(name, x64):
    """Row 12: for every std up to σ_s, x_s | x_0 ~ N(α_s x_0, σ_s²): moments over the corners ε = ±1."""
    it = facts(name)
    mean, std = it.marginals
    np.testing.assert_allclose(mean.mean(axis=(1, 2)), it.alpha[0] * 0.8, rtol=1e-12)
    np.testing.assert_allclose(mean.var(axis=(1, 2)) + std**2, it.sigma[0] ** 2, rtol=1e-12)
    np.testing.assert_allclose(std, SHARES * it.sigma[0], rtol=1e-12)


def test_an_infeasible_std_raises(x64):
    """Row 12 and N2: σ = b_t asks for more than there is at t = 1, 2, 3 of the ramp, and not later."""
    chain, x = Betas.ramp(1000), jnp.ones((2, 3))
    process = Process(chain)
    for t in (1, 2, 3):
        with pytest.raises(ValueError, match="choose a smaller std"):
            ddim_posterior(process, x, x, t - 1, t, np.sqrt(0.02 * t / 1000))
    for t in (4, 500):
        assert np.all(np.isfinite(ddim_posterior(process, x, x, t - 1, t, np.sqrt(0.02 * t / 1000)).mean))
    under_jit = jax.jit(lambda std: ddim_posterior(process, x, x, 1, 2, std).mean)
    assert np.all(np.isnan(under_jit(0.1)))
    assert np.all(np.isfinite(under_jit(0.001)))
    np.testing.assert_allclose(under_jit(process.sigma(1)), process.alpha(1) * x, rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_ddim_with_the_posterior_variance_is_ddpm(name, x64):
    """Row 14: η = 1."""
    it = facts(name)
    np.testing.assert_allclose(it.ddim.mean, it.ddpm.mean, rtol=1e-11)
    np.testing.assert_allclose(it.ddim.std, it.ddpm.std, rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_ddim_is_the_mean_of_the_shared_noise(name, x64):
    """Row 13: the deterministic step is E[x_s | x_t] when x_s = α_s x_0 + σ_s ε with the ε of x_t."""
    it, law = facts(name), data(2)
    alpha, sigma = np.asarray(it.alpha), np.asarray(it.sigma)
    covariance = np.kron(np.outer(alpha, alpha), law.covariance) + np.kron(np.outer(sigma, sigma), np.eye(2))
    joint = Gaussian(np.kron(alpha, law.mean), covariance)
    for mean, x_t in zip(it.shared.mean, X_T, strict=True):
        np.testing.assert_allclose(mean, joint.given(np.array([2, 3]), x_t).mean, rtol=1e-11)
    assert float(it.shared.std) == 0.0


def test_ddim_shrinks_a_gaussian_by_cosines(x64):
    """Row 13: with S = √(α² v + σ²), each step takes std/S to cos(angle) std/S, the angle of (α√v, σ) at s and t."""
    process, v = Process(VP()), 0.3
    times = np.array([0.0, 0.15, 0.4, 0.7, 1.0])
    denoise = denoiser(process, Gaussian(np.zeros(1), np.array([[v]])))

    @jax.jit
    def run(x):
        for s, t in zip(times[-2::-1], times[:0:-1], strict=True):
            x = ddim_posterior(process, x, denoise(x, t), s, t).mean
        return x

    alpha, variance = levels(process, times)
    arrows = np.stack([np.sqrt(v) * alpha, np.sqrt(variance)])
    length = np.linalg.norm(arrows, axis=0)
    cosines = np.sum(arrows[:, 1:] * arrows[:, :-1], axis=0) / (length[1:] * length[:-1])
    std = float(run(jnp.full((1, 1), length[-1]))[0, 0])
    np.testing.assert_allclose(std / length[0], np.prod(cosines), rtol=1e-12)
    assert std < 0.99 * np.sqrt(v)


def test_the_optimal_variance_of_a_ddim_step_is_its_mean_square(x64):
    """E|x_s − mean at D|²/d over x_s ~ `ddim_posterior` at x_0, exact over the corners, for std below β̃'s."""
    process, law = Process(EDM()), data(2)
    denoise, table = denoiser(process, law), Optimal(np.array([1.5]), covariances(process, np.array([0.0, 1.5]), law))

    @jax.jit
    def run(x_0, eps):
        x_t = perturb(process, x_0, eps, 1.5)
        true, model = (ddim_posterior(process, x_t, x, 0.5, 1.5, 0.2) for x in (x_0, denoise(x_t, 1.5)))
        square = jnp.mean((true.mean - model.mean) ** 2) + 0.2**2
        return square, optimal_variance(process, table.covariance(process, 1.5), 0.5, 1.5, 0.2)

    np.testing.assert_allclose(*run(*corners(law)), rtol=1e-11)


def _network(params, x, c_noise, labels):
    return jnp.concatenate([params * x, x + c_noise[:, None, None]], axis=-1)


def test_a_network_of_two_outputs_learns_the_variance():
    """The first half is the network's prediction, the second is v = (r + 1)/2; samplers can do without it."""
    process, preconditioning = Process(VP()), Preconditioning("eps", 1.0)
    x, t = jax.random.normal(jax.random.key(0), (2, 3, 2)), jnp.asarray([0.2, 0.7])
    both = learned_denoiser(_network, jnp.asarray(0.5), process, preconditioning)
    half = network_denoiser(lambda *a: _network(*a)[..., :2], jnp.asarray(0.5), process, preconditioning)

    @jax.jit
    def run(x):
        return both(x, t), half(x, t), mean_denoiser(both)(x, t), mean_denoiser(half)(x, t)

    (x_0, v), plain, *means = run(x)
    for same in (plain, *means):
        np.testing.assert_allclose(x_0, same, rtol=1e-6)
    # VP with σ_data = 1: c_in = 1.
    np.testing.assert_allclose(2 * v - 1, x + 1000 * t[:, None, None], rtol=1e-5)
    again = learned_denoiser(_network, jnp.asarray(0.6), process, preconditioning)
    assert jax.tree.structure(again) == jax.tree.structure(both)
    wrong = learned_denoiser(lambda *a: a[1], 0.5, process, preconditioning)
    with pytest.raises(ValueError, match="outputs=2"):
        jax.eval_shape(wrong, x, t)


def test_a_gradient_passes_where_a_deviation_is_zero(x64):
    """d/dt of a step onto the data, x_s = x̂_0, and d/dstd of a posterior at std = σ_s, x_s = α_s x_0 + std n."""
    process, x = Process(EDM()), jnp.ones((1, 1))
    drawn = lambda t: step(process, FixedSmall(), 0.3 * x, x, 0.0, t).std.sum()  # noqa: E731
    assert jax.grad(drawn)(2.0) == jax.jacfwd(drawn)(2.0) == 0
    assert np.isnan(step(process, Learned(), (x, jnp.nan * x), x, 1.0, 2.0).std)
    with_std = lambda std: ddim_posterior(process, x, 0.3 * x, 0.5, 2.0, std)  # noqa: E731
    assert jax.grad(lambda std: with_std(std).mean.sum())(0.5) == 0
    assert np.isnan(jax.jit(lambda std: with_std(std).mean)(0.6)).all()
