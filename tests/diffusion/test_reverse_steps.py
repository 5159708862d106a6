"""Reverse variances (identity rows 8 and 10) and DDIM's family of posteriors (rows 12, 13 and 14)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_chain import Case, Gaussian, build, corners, data, denoiser, encoder_joint
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
from diffusion.chains import EncoderChain, GeneratorChain
from diffusion.ddpm import elbo_term
from diffusion.process import posterior_coefficients
from diffusion.reverse_steps import (
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

CHAIN = Betas.ramp(40, 0.3)
PAIRS = [(Process(CHAIN), 7, 21), (Process(VP()), 0.2, 0.6), (Process(EDM()), 0.4, 3.0), (Process(Cosine()), 0.3, 1.0)]


def in_the_chains_letters(t):
    """a², b², A², B², A₋², B₋² of CHAIN at t, from its β's."""
    b2 = 0.3 * t / 40
    before = np.prod(1 - 0.3 * np.arange(1, t) / 40)
    return 1 - b2, b2, before * (1 - b2), 1 - before * (1 - b2), before, 1 - before


@pytest.mark.parametrize("t", [2, 17, 40])
def test_optimal_variance_is_m_over_d(t, x64):
    """Row 8: (b²/a²)[(b²/B²) L/d + a²B₋²/B²], where L/d = (A²/B²) E|x_0 − D|²/d."""
    a2, b2, big_a2, big_b2, _, big_b2_before = in_the_chains_letters(t)
    loss = 0.37
    expected = b2 / a2 * (b2 / big_b2 * loss + a2 * big_b2_before / big_b2)
    mine = jax.jit(optimal_variance)(Process(CHAIN), big_b2 / big_a2 * loss, t - 1, t)
    np.testing.assert_allclose(mine, expected, rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_optimal_variance_of_any_ddim_is_the_analytic_one(share, x64):
    """σ_η² + (A₋ − A √(B₋² − σ_η²)/B)² (B²/A²)(1 − E|e|²/d), and at σ_η² = β̃ DDPM's (Bao et al. 2022)."""
    a2, b2, big_a2, big_b2, before, big_b2_before = in_the_chains_letters(17)
    small, gamma = b2 * big_b2_before / big_b2, 0.8
    std = np.sqrt(share * small)
    c_0 = np.sqrt(before) - np.sqrt(big_a2 * (big_b2_before - std**2) / big_b2)
    covariance = big_b2 / big_a2 * (1 - gamma)
    expected = std**2 + c_0**2 * covariance
    np.testing.assert_allclose(optimal_variance(Process(CHAIN), covariance, 16, 17, std), expected, rtol=1e-11)
    if share == 1.0:
        np.testing.assert_allclose(optimal_variance(Process(CHAIN), covariance, 16, 17), expected, rtol=1e-11)


def test_the_optimal_variance_is_where_the_elbo_is_flat(x64):
    """Row 8, for any data and any denoiser: with E|x_0 − D|²/d over a sample, the slope of its mean term is 0."""
    process, times = Process(EDM()), np.array([0.0, 0.5, 2.0])
    x_0, x_1, x_2 = np.random.default_rng(0).standard_t(4, size=(3, 50, 2))

    @jax.jit
    def slopes(x_0):
        covariances = jnp.stack([jnp.mean((x_0 - jnp.sin(x)) ** 2) for x in (x_1, x_2)])

        def mean_term(covariances, k):
            table = Optimal(times[1:], covariances)
            chain = GeneratorChain(process, Partial(lambda x, t: jnp.sin(x)), times, table)
            return jnp.mean(elbo_term(chain, x_0, jnp.asarray(x_1 if k == 1 else x_2), k))

        def along(factor):
            grads = [jax.grad(mean_term)(factor * covariances, k)[k - 1] for k in (1, 2)]
            return jnp.stack(grads) * covariances

        return along(1.0), along(1.1), along(0.9)

    flat_, above, below = slopes(x_0)
    np.testing.assert_allclose(flat_, 0.0, atol=1e-12)
    assert np.all(above > 1e-2)
    assert np.all(below < -1e-2)


@pytest.mark.parametrize("schedule", [VP(), EDM(sigma_max=5.0), RectifiedFlow(), CHAIN], ids=lambda s: type(s).__name__)
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
    for t in (5, 5.0, jnp.asarray(5), np.array([3, 17, 40])):
        np.testing.assert_allclose(table.covariance(process, t), values[np.asarray(t, int) - 1], rtol=1e-12)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: type(pair[0].schedule).__name__)
def test_learned_goes_from_small_to_large(pair, x64):
    """ln var is affine in v, small at 0 and large at 1, and goes on beyond."""
    process, s, t = pair
    v = jnp.broadcast_to(jnp.asarray([0.0, 1.0, 0.5, 2.0])[:, None], (4, 3))
    learned = jax.jit(lambda process: Learned().variance(process, s, t, v))(process)
    small, large = FixedSmall().variance(process, s, t), FixedLarge().variance(process, s, t)
    assert learned.shape == (4, 3)
    expected = np.stack([small, large, np.sqrt(small * large), large**2 / small])
    np.testing.assert_allclose(learned, expected[:, None] * np.ones(3), rtol=1e-12)


def test_at_the_data_the_floor_stands_for_the_small_variance(x64):
    process, v = Process(VP()), jnp.asarray([[0.25]])
    large = FixedLarge().variance(process, 0.0, 0.1)
    learned = Learned().variance(process, 0.0, 0.1, v, floor=1e-4)
    np.testing.assert_allclose(learned[0, 0], large**0.25 * 1e-4**0.75, rtol=1e-12)
    np.testing.assert_allclose(Learned().variance(process, 0.0, 0.1, v)[0, 0], large, rtol=1e-12)
    assert float(FixedSmall().variance(process, 0.0, 0.1)) == 0.0
    assert float(FixedSmall().variance(process, 0.0, 0.1, floor=1e-4)) == 1e-4


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
    """With s, t traced and one for each sample: no variance and no NaN at σ_s = 0, a variance above."""
    process, x = Process(EDM()), jax.random.normal(jax.random.key(0), (3, 2))
    denoised = (0.3 * x, 0.5 + x) if isinstance(variance, Learned) else 0.3 * x
    law = jax.jit(step)(process, variance, denoised, x, jnp.asarray([0.0, 0.5, 0.0]), jnp.asarray([0.5, 2.0, 2.0]))
    std = np.broadcast_to(law.std, (3, 2))
    np.testing.assert_array_equal(law.mean[::2], 0.3 * x[::2])
    np.testing.assert_array_equal(std[::2], 0.0)
    assert np.all(std[1] > 0)


def test_a_step_is_the_posterior_at_the_denoised_image(x64):
    process, x = Process(VP()), jax.random.normal(jax.random.key(0), (3, 2))
    law = step(process, FixedSmall(), 0.3 * x, x, 0.2, 0.5)
    expected = posterior(process, x, 0.3 * x, 0.2, 0.5)
    np.testing.assert_allclose(law.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(law.std, expected.std, rtol=1e-12)


def test_what_cannot_be_is_refused():
    process, x = Process(VP()), jnp.ones((2, 3))
    with pytest.raises(TypeError, match="a pair"):
        jax.eval_shape(lambda x: step(process, Learned(), x, x, 0.2, 0.5), x)
    with pytest.raises(TypeError, match="Gaussian noise only"):
        jax.eval_shape(lambda x: step(Process(EDM(), StudentT(3.0)), FixedSmall(), x, x, 0.2, 0.5), x)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: type(pair[0].schedule).__name__)
@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_ddim_keeps_the_marginals(pair, share, x64):
    """Row 12: for every std up to σ_s, x_s | x_0 ~ N(α_s x_0, σ_s²): moments over the corners ε = ±1."""
    process, s, t = pair
    x_0, eps = jnp.asarray([[0.8], [0.8]]), jnp.asarray([[-1.0], [1.0]])

    @jax.jit
    def run(process):
        std = share * process.sigma(s)
        law = ddim_posterior(process, perturb(process, x_0, eps, t), x_0, s, t, std)
        return law.mean, law.std, process.alpha(s), process.sigma(s)

    mean, std, alpha, sigma = run(process)
    np.testing.assert_allclose(mean.mean(), alpha * 0.8, rtol=1e-12)
    np.testing.assert_allclose(mean.var() + std**2, sigma**2, rtol=1e-12)


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


@pytest.mark.parametrize("pair", PAIRS[:3], ids=lambda pair: type(pair[0].schedule).__name__)
def test_ddim_with_the_posterior_variance_is_ddpm(pair, x64):
    """Row 14: η = 1."""
    process, s, t = pair
    x_t, x_0 = jax.random.normal(jax.random.key(0), (2, 3, 2))

    @jax.jit
    def run(process):
        ddpm = posterior(process, x_t, x_0, s, t)
        return ddpm, ddim_posterior(process, x_t, x_0, s, t, ddpm.std)

    ddpm, ddim = run(process)
    np.testing.assert_allclose(ddim.mean, ddpm.mean, rtol=1e-11)
    np.testing.assert_allclose(ddim.std, ddpm.std, rtol=1e-12)


@pytest.mark.parametrize("pair", PAIRS[:3], ids=lambda pair: type(pair[0].schedule).__name__)
def test_ddim_is_the_mean_of_the_shared_noise(pair, x64):
    """Row 13: the deterministic step is E[x_s | x_t] when x_s = α_s x_0 + σ_s ε with the ε of x_t."""
    process, s, t = pair
    law, x_t = data(2), np.array([[0.7, -1.1]])
    alpha = np.asarray(process.alpha(np.array([s, t])))
    sigma = np.asarray(process.sigma(np.array([s, t])))
    covariance = np.block(
        [[alpha[i] * alpha[j] * law.covariance + sigma[i] * sigma[j] * np.eye(2) for j in (0, 1)] for i in (0, 1)]
    )
    joint = Gaussian(np.concatenate([alpha[0] * law.mean, alpha[1] * law.mean]), covariance)
    denoised = denoiser(process, law)(jnp.asarray(x_t), t)
    step = ddim_posterior(process, jnp.asarray(x_t), denoised, s, t)
    np.testing.assert_allclose(step.mean[0], joint.given(np.array([2, 3]), x_t[0]).mean, rtol=1e-11)
    assert float(step.std) == 0.0


def test_ddim_shrinks_a_gaussian_by_cosines(x64):
    """Row 13: with S = √(α² v + σ²), each step takes std/S to cos(angle) std/S, the angle of (α√v, σ) at s and t."""
    process, v = Process(VP()), 0.3
    times = np.array([0.0, 0.15, 0.4, 0.7, 1.0])
    law = Gaussian(np.zeros(1), np.array([[v]]))
    denoise = denoiser(process, law)

    @jax.jit
    def run(x):
        for s, t in zip(times[-2::-1], times[:0:-1], strict=True):
            x = ddim_posterior(process, x, denoise(x, t), s, t).mean
        return x

    arrows = np.stack([np.sqrt(v) * np.asarray(process.alpha(times)), np.asarray(process.sigma(times))])
    length = np.linalg.norm(arrows, axis=0)
    cosines = np.sum(arrows[:, 1:] * arrows[:, :-1], axis=0) / (length[1:] * length[:-1])
    std = float(run(jnp.full((1, 1), length[-1]))[0, 0])
    np.testing.assert_allclose(std / length[0], np.prod(cosines), rtol=1e-12)
    assert std < 0.99 * np.sqrt(v)


def test_the_optimal_variance_of_a_ddim_step_is_its_mean_square(x64):
    """E|x_s − mean at D|²/d over x_s ~ `ddim_posterior` at x_0, exact over the corners, for std below β̃'s."""
    chain, _, _, law = build(Case("edm", 2, "optimal"))
    process, table = chain.process, chain.variance
    x_0, eps = corners(law)

    @jax.jit
    def run(x_0, eps):
        x_t = perturb(process, x_0, eps, 1.5)
        true, model = (ddim_posterior(process, x_t, x, 0.5, 1.5, 0.2) for x in (x_0, chain.denoise(x_t, 1.5)))
        square = jnp.mean((true.mean - model.mean) ** 2) + 0.2**2
        return square, optimal_variance(process, table.covariance(process, 1.5), 0.5, 1.5, 0.2)

    np.testing.assert_allclose(*run(x_0, eps), rtol=1e-11)


def _network(params, x, c_noise, labels):
    return jnp.concatenate([params * x, x + c_noise[:, None, None]], axis=-1)


def test_a_network_of_two_outputs_learns_the_variance():
    """The first half is the network's prediction, the second is v = (r + 1)/2; samplers can do without it."""
    process, preconditioning = Process(VP()), Preconditioning("eps", 1.0)
    x, t = jax.random.normal(jax.random.key(0), (2, 3, 2)), jnp.asarray([0.2, 0.7])
    both = learned_denoiser(_network, jnp.asarray(0.5), process, preconditioning)
    half = network_denoiser(lambda *a: _network(*a)[..., :2], jnp.asarray(0.5), process, preconditioning)
    x_0, v = both(x, t)
    np.testing.assert_allclose(x_0, half(x, t), rtol=1e-6)
    np.testing.assert_array_equal(mean_denoiser(both)(x, t), x_0)
    np.testing.assert_array_equal(mean_denoiser(half)(x, t), half(x, t))
    scale = jnp.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)[:, None, None]
    np.testing.assert_allclose(2 * v - 1, x / scale + 1000 * t[:, None, None], rtol=1e-5)
    assert learned_denoiser(_network, 0.5, process, preconditioning).func == both.func
    wrong = learned_denoiser(lambda *a: a[1], 0.5, process, preconditioning)
    with pytest.raises(ValueError, match="outputs=2"):
        wrong(x, t)
