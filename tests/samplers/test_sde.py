"""Stochastic samplers end in the oracle's marginal, with error bars; and on Gaussians without any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from diffusion import EDM, VP, Betas, Process, RectifiedFlow
from diffusion import keys as keys_lib
from diffusion.ddpm.reverse_steps import FixedLarge, Optimal
from diffusion.oracles import GaussianLaw
from samplers import DDIM, ERSDE, Ancestral, DPMSolverMultistep, EulerMaruyama, Heun, sample, uniform_time
from samplers.exponential import half_log_snr
from tests.samplers.programs import chosen, coefficients, marginal

COUNT, STEPS = 10_000, 120
SAMPLERS = {
    "ancestral-small": Ancestral(),
    "ancestral-large": Ancestral(FixedLarge()),
    "ddim-half": DDIM(eta=0.5),
    "euler-maruyama": EulerMaruyama(),
    "euler-maruyama-noisier": EulerMaruyama(level=1.5),
    "heun-churn": Heun(S_churn=40.0, S_min=0.05, S_max=5.0),
}
TESTS = {
    "mean": (lambda x: x, lambda m, v: m),
    "square": (lambda x: x**2, lambda m, v: m**2 + v),
    "cos": (lambda x: np.cos(2 * x), lambda m, v: np.exp(-2 * v) * np.cos(2 * m)),
    "left": (lambda x: (x < -0.5) * 1.0, lambda m, v: scipy.special.ndtr((-0.5 - m) / np.sqrt(v))),
}
"""Functions of x, and their means under N(m, v)."""


def standardised_gaps(mixture, schedule, sampler, grid):
    """(sampled − exact)/standard error for each test function."""
    process = chosen(schedule)
    start = marginal(mixture, jax.random.key(1), process, COUNT, grid[0])
    end = sample(jax.random.key(2), process, mixture.denoiser(process), sampler, grid, start.shape, x_init=start).x
    alpha, sigma = (float(part) for part in coefficients(process, grid[-1]))
    gaps = {}
    for name, (function, mean) in TESTS.items():
        drawn = function(np.asarray(end, np.float64))
        exact = mixture.weights @ mean(alpha * mixture.means[:, 0], alpha**2 * mixture.floor + sigma**2)
        gaps[name] = float((drawn.mean() - exact) / (drawn.std() / np.sqrt(drawn.size)))
    return gaps


CASES = [(name, VP()) for name in SAMPLERS] + [("euler-maruyama", EDM()), ("heun-churn", EDM())]


@pytest.mark.parametrize(("name", "schedule"), CASES, ids=[f"{n}-{type(s).__name__}" for n, s in CASES])
def test_marginals_are_the_oracles(name, schedule, mixture, log_snr_grid):
    """Four test functions at 4 standard errors; the grid is fine enough for the bias to be a fraction of one."""
    grid = log_snr_grid(Process(schedule), STEPS, high=5.0, low=0.1)
    gaps = standardised_gaps(mixture, schedule, SAMPLERS[name], grid)
    assert max(abs(gap) for gap in gaps.values()) < 4, gaps


def test_the_marginal_test_sees_a_wrong_noise_level(mixture, log_snr_grid):
    """Power: churn with 10% too much noise is out by more than 4 standard errors."""
    grid = log_snr_grid(Process(EDM()), STEPS, high=5.0, low=0.1)
    wrong = Heun(S_churn=40.0, S_min=0.05, S_max=5.0, S_noise=1.1)
    assert max(abs(gap) for gap in standardised_gaps(mixture, EDM(), wrong, grid).values()) > 4


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow(), Betas.linear(64)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [1, 3])
def test_an_isotropic_gaussian_chain_is_exact_at_any_length(schedule, steps, x64):
    """Row 10: with the optimal variance the reverse kernel is the true posterior, so few steps are enough.

    Every step is linear, x_s = k x_t + n: the mean factor and the noise are read off, and their law propagated.
    """
    process, std = chosen(schedule), 0.6
    law = GaussianLaw.isotropic(np.zeros(1), std)
    grid = uniform_time(process, steps + 1)[:-1]
    alpha, sigma = map(np.asarray, coefficients(process, grid))
    variances = alpha**2 * std**2 + sigma**2
    rising = grid[::-1]
    covariances = (std**2 * sigma**2 / variances)[::-1]
    variance = Optimal(rising, covariances)
    spread = variances[0]
    for t, s, v_t in zip(grid[:-1], grid[1:], covariances[::-1], strict=False):
        coefficient, noise = linear_step(process, law, Ancestral(variance), t, s)
        spread = coefficient**2 * spread + noise**2
        assert v_t > 0
    np.testing.assert_allclose(spread, variances[-1], rtol=1e-9)


def linear_step(process, law, sampler, t, s):
    """(factor of x_t, standard deviation of the noise) of one step, which is linear."""
    x, ids, key = np.asarray([[0.0], [1.0], [0.0], [1.0]]), np.asarray([0, 0, 1, 1]), jax.random.key(0)
    grid, x = np.asarray([t, s]), jax.device_put(x)
    moved = np.asarray(sample(key, process, law.denoiser(process), sampler, grid, x.shape, x_init=x, ids=ids).x)
    return moved[1, 0] - moved[0, 0], moved[0, 0] / float(first_draw(key))


@jax.jit
def first_draw(key):
    """The draw of sample 0 in its first step."""
    return keys_lib.normal(keys_lib.fold(keys_lib.sample_keys(key, jnp.arange(1)), 1), (1,))[0, 0]


def test_er_sde_integrates_its_polynomial_exactly(x64):
    """Σ_j w_j ρ_j^k = φ(ρ_s) ∫ ρ^k dφ/φ² from ρ_s to ρ_t for k < order, by quadrature, on uneven nodes."""
    sampler, process = ERSDE(order=3, offset=2.0), Process(EDM())
    nodes, end = np.asarray([1.3, 2.1, 3.8]), 0.7
    weights = np.asarray(
        jax.jit(sampler.coefficients)(
            process, jnp.asarray(nodes[0]), jnp.asarray(end), jnp.asarray(-np.log(nodes)), jnp.ones(3, bool)
        )
    )

    def phi(rho):
        return rho * (np.exp(rho**sampler.power) + sampler.offset)

    def slope(rho):
        grown = np.exp(rho**sampler.power)
        return grown + sampler.offset + sampler.power * rho**sampler.power * grown

    for k in range(3):
        integral = scipy.integrate.quad(lambda rho, k=k: rho**k * slope(rho) / phi(rho) ** 2, end, nodes[0])[0]
        np.testing.assert_allclose(weights @ nodes**k, phi(end) * integral, rtol=1e-9)


def test_the_published_3m_is_exact_for_lines_only(x64):
    """On uneven λ: Σ w_j (λ_j − λ_0)^k = ∫ u^k e^{u − h} du for k < 2; with exact coefficients for k = 2 too."""
    process, used = Process(EDM()), jnp.ones(3, bool)
    nodes, end = np.asarray([0.0, -0.4, -1.1]), 0.6
    t, s = (jnp.asarray(np.exp(-half)) for half in (nodes[0], end))
    solvers = [DPMSolverMultistep(order=3, published=flag) for flag in (False, True)]
    exact, published = (
        np.asarray(jax.jit(solver.coefficients)(process, t, s, jnp.asarray(nodes), used)) for solver in solvers
    )
    for k in range(2):
        integral = scipy.integrate.quad(lambda u, k=k: u**k * np.exp(u - end), 0.0, end)[0]
        np.testing.assert_allclose([weights @ nodes**k for weights in (exact, published)], integral, rtol=1e-9)
    square = scipy.integrate.quad(lambda u: u**2 * np.exp(u - end), 0.0, end)[0]
    np.testing.assert_allclose(exact @ nodes**2, square, rtol=1e-9)
    assert abs(published @ nodes**2 - square) > 0.1 * square


def test_the_weights_of_2m_are_rounded_as_ever():
    """(1 + h/2h₋) and −h/2h₋ in float32, ½h divided by h₋ at once: seeds give the same samples to the bit."""
    process, draws = Process(EDM()), np.random.default_rng(0)
    lengths, gaps = draws.uniform(0.1, 1.1, (2, 200)).astype(np.float32)
    t, s = np.ones(200, np.float32), np.exp(-lengths)
    nodes = np.stack([np.zeros_like(gaps), -gaps], axis=1)

    @jax.jit
    def weights_and_steps(t, s, nodes):
        used = jnp.ones(2, bool)
        weights = jax.vmap(lambda *given: DPMSolverMultistep().coefficients(process, *given, used))(t, s, nodes)
        h = half_log_snr(process, s) - half_log_snr(process, t)
        return weights, h, -jnp.expm1(-h)

    weights, h, total = map(np.asarray, weights_and_steps(t, s, nodes))
    ratio = np.float32(0.5) * h / gaps
    np.testing.assert_array_equal(weights, np.stack([total * (1 + ratio), total * -ratio], axis=1))
