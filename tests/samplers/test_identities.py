"""Samplers that are each other under other names, and the marginals that DDIM keeps (identity rows 12 to 14)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Cosine, Process, RectifiedFlow
from diffusion.oracles import GaussianLaw
from diffusion.process import posterior_coefficients
from samplers import (
    DDIM,
    DEIS,
    ERSDE,
    IPNDM,
    Ancestral,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    EulerMaruyama,
    Heun,
    Midpoint,
    PredictorCorrector,
    SDEDPMSolver,
    UniPC,
    classifier_free_guidance,
    karras,
    sample,
    uniform_time,
)
from tests.samplers.programs import answers, chosen

KEY = jax.random.key(0)
STEPS = 9


def runs(process, denoise, samplers, grid, shape=(8, 1)):
    return [sample(KEY, process, denoise, sampler, grid, shape).x for sampler in samplers]


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow(), Betas.linear(60)], ids=lambda s: type(s).__name__)
def test_ddim_with_eta_one_is_ancestral(schedule, mixture, x64):
    process = chosen(schedule)
    samplers = [DDIM(eta=1.0), Ancestral()]
    ddim, ancestral = runs(process, mixture.denoiser(process), samplers, uniform_time(process, STEPS))
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-9)


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_first_order_dpm_solver_is_ddim(schedule, mixture, x64):
    process = chosen(schedule)
    ddim, dpm = runs(
        process, mixture.denoiser(process), [DDIM(), DPMSolverMultistep(order=1)], uniform_time(process, STEPS)
    )
    np.testing.assert_allclose(ddim, dpm, rtol=1e-10)


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_euler_on_straight_characteristics_is_ddim(schedule, mixture, x64):
    """Where α and σ are linear in t, Euler's step is DDIM's."""
    process = chosen(schedule)
    ddim, euler = runs(process, mixture.denoiser(process), [DDIM(), Euler()], uniform_time(process, STEPS))
    np.testing.assert_allclose(ddim, euler, rtol=1e-10)


TWINS = {
    "UniP-2 (bh2) is 2M": (UniPC(order=2, corrector=False), DPMSolverMultistep(order=2)),
    "UniP-1 is DDIM": (UniPC(order=1, corrector=False), DDIM()),
    "DEIS-1 is DDIM": (DEIS(order=1), DDIM()),
    "the midpoint is DPM-Solver-2": (Midpoint(), DPMSolverSinglestep(order=2, prediction="eps")),
    "SDE-DPM-Solver++ without noise is 2M": (SDEDPMSolver(order=2, level=0.0), DPMSolverMultistep(order=2)),
    "SDE-DPM-Solver++ without noise is 3M": (
        SDEDPMSolver(order=3, level=0.0),
        DPMSolverMultistep(order=3, start="lower-order"),
    ),
    "a predictor alone is ancestral": (PredictorCorrector(predictor="ancestral", corrections=0), Ancestral()),
    "SDE-DPM-Solver++(1) is ancestral": (SDEDPMSolver(order=1), Ancestral()),
}


@pytest.mark.parametrize("names", TWINS)
def test_two_names_of_one_method(names, mixture, x64):
    process = chosen(VP())
    first, second = runs(process, mixture.denoiser(process), TWINS[names], karras(process, STEPS))
    np.testing.assert_allclose(first, second, rtol=1e-9)


def test_ipndm_is_adams_bashforth_on_even_steps(mixture, x64):
    """In ρ = σ/α, which is EDM's time: there the fixed coefficients are the exact ones."""
    process = Process(EDM())
    grid = np.linspace(5.0, 0.5, 10)
    x = 5.0 * jnp.linspace(-1, 1, 8)[:, None]
    methods = (IPNDM(order=4), DEIS(order=4, polynomial="rho", start="lower-order"))
    first, second = (
        sample(KEY, process, mixture.denoiser(process), method, grid, (8, 1), x_init=x).x for method in methods
    )
    np.testing.assert_allclose(first, second, rtol=1e-11)


@pytest.mark.parametrize(
    "sampler",
    [DPMSolverMultistep(order=3), DPMSolverSinglestep(order=3), DEIS(order=4, polynomial="rho"), UniPC(order=3)],
    ids=lambda s: type(s).__name__,
)
def test_exponential_methods_see_nothing_of_the_schedule(sampler, mixture, log_snr_grid, x64):
    """On equal λ they are one method in x/α: VP and a rectified flow are EDM in other words."""
    ends = []
    for schedule in (EDM(), VP(), RectifiedFlow()):
        grid, process = log_snr_grid(Process(schedule), 7), chosen(schedule)
        alpha = np.asarray(schedule.alpha(grid))
        x = alpha[0] * 5.0 * np.linspace(-1, 1, 8)[:, None]
        end = sample(KEY, process, mixture.denoiser(process), sampler, grid, (8, 1), x_init=jnp.asarray(x)).x
        ends.append(np.asarray(end) / alpha[-1])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-8)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-8)


def test_without_noise_every_seed_gives_the_same_path(mixture, x64):
    """Churn 0 and level 0 are deterministic: Euler's method, from the same start."""
    process, x = Process(EDM()), jnp.linspace(-3, 3, 7)[:, None]
    denoise, grid = mixture.denoiser(process), karras(process, 9, sigma_max=3.0)
    for sampler in (Heun(S_churn=0.0), EulerMaruyama(level=0.0), DDIM(eta=0.0)):
        first, second = (sample(jax.random.key(i), process, denoise, sampler, grid, (7, 1), x_init=x).x for i in (1, 2))
        np.testing.assert_array_equal(first, second)
    no_noise, euler = (
        sample(KEY, process, denoise, sampler, grid, (7, 1), x_init=x).x for sampler in (EulerMaruyama(0.0), Euler())
    )
    np.testing.assert_allclose(no_noise, euler, rtol=1e-11)


def test_churn_below_its_range_is_no_churn(mixture, x64):
    process = Process(EDM())
    denoise, grid = mixture.denoiser(process), karras(process, 6)
    outside, none = runs(process, denoise, [Heun(S_churn=9.0, S_min=200.0, S_max=300.0), Heun()], grid)
    np.testing.assert_array_equal(outside, none)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow(), Betas.linear(60)], ids=lambda s: type(s).__name__)
def test_ddim_keeps_the_marginals(schedule, eta, x64):
    """Row 12: given x_0, one step maps N(α_t x_0, σ_t²) to N(α_s x_0, σ_s²), for every feasible σ̃."""
    process, x_0 = chosen(schedule), 0.8
    t, s = (round(u * schedule.t_max, 3) for u in (0.7, 0.3))
    grid, x_t = np.asarray([t, s]), np.asarray([[-1.0], [2.0], [0.5]])
    alpha, sigma = np.asarray(schedule.alpha(grid)), np.asarray(schedule.sigma(grid))

    def moved_to(x, sampler):
        answer = Partial(constant, jnp.asarray(x_0))
        return np.asarray(sample(KEY, process, answer, sampler, grid, x.shape, x_init=jnp.asarray(x)).x)

    # The step's mean is its average over ±noise; here the noise is taken out by differencing.
    moved, origin = moved_to(x_t, DDIM(eta=eta)), moved_to(np.zeros_like(x_t), DDIM(eta=eta))
    slope = (moved - origin) / x_t
    np.testing.assert_allclose(slope, np.full_like(slope, slope[0, 0]), rtol=1e-10)
    noise = (origin - alpha[1] * x_0 + slope * alpha[0] * x_0).ravel()
    spread = sigma[1] ** 2 - slope[0, 0] ** 2 * sigma[0] ** 2
    if eta == 0:
        np.testing.assert_allclose(noise, 0, atol=1e-12)
        np.testing.assert_allclose(spread, 0, atol=1e-12)
    else:  # the same keys, standard normal draws, times the missing spread
        draws = noise / np.sqrt(spread)
        # The normal draws of the same keys, read off ancestral sampling whose spread is known.
        ancestral = moved_to(np.zeros_like(x_t), Ancestral())
        _, c_0, variance = map(float, posterior_coefficients(Process(schedule), s, t))
        np.testing.assert_allclose(draws, ((ancestral - c_0 * x_0) / np.sqrt(variance)).ravel(), rtol=1e-9)


def constant(x_0, x, t):
    return jnp.broadcast_to(x_0, x.shape)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Betas.cosine(80)], ids=lambda s: type(s).__name__)
def test_ddim_of_a_unit_gaussian_is_a_product_of_cosines(schedule, x64):
    """Row 13: with (α, σ) = (cos θ, sin θ) each step multiplies by cos(θ_t − θ_s)."""
    process = chosen(schedule)
    denoise = GaussianLaw.isotropic(np.zeros(2), 1.0).denoiser(process)
    grid = uniform_time(process, 7)
    x = jax.random.normal(KEY, (4, 2))
    result = sample(KEY, process, denoise, DDIM(), grid, x.shape, x_init=x).x
    angles = np.arctan2(np.asarray(schedule.sigma(grid)), np.asarray(schedule.alpha(grid)))
    np.testing.assert_allclose(result, np.asarray(x) * np.prod(np.cos(np.diff(angles))), rtol=1e-10)


def test_guidance_is_affine_in_its_scale(mixture, x64):
    process = Process(EDM())
    conditional, free = GaussianLaw.isotropic(np.ones(1), 0.5).denoiser(process), mixture.denoiser(process)
    x = jax.random.normal(KEY, (5, 1))
    guided = [classifier_free_guidance(conditional, free, scale) for scale in (0.0, 1.0, 3.0)]
    c, u, none, one, three = map(np.asarray, answers([conditional, free, *guided], x, 0.7))
    np.testing.assert_allclose(none, u, rtol=1e-12)
    np.testing.assert_allclose(one, c, rtol=1e-12)
    np.testing.assert_allclose(three, 3 * c - 2 * u, rtol=1e-12)


def test_guided_denoiser_of_equal_models_is_the_model(mixture):
    process, grid = Process(VP()), uniform_time(Process(VP()), 6)
    denoise = mixture.denoiser(process)
    guided = classifier_free_guidance(denoise, denoise, 7.5)
    plain, twice = (sample(KEY, process, d, DDIM(), grid, (6, 1)).x for d in (denoise, guided))
    np.testing.assert_allclose(plain, twice, rtol=1e-5)


def test_er_sde_leads_to_the_ode(x64):
    """Its noise is that of φ(ρ) = ρ (exp(ρ^p) + c), and for a large c there is none: at order 1 it is DDIM."""
    half = jnp.linspace(-3.0, 4.0, 8)
    rho, sampler = jnp.exp(-half), ERSDE()
    np.testing.assert_allclose(jnp.exp(sampler.log_phi(half)), rho * (jnp.exp(rho**0.3) + 10), rtol=1e-10)
    slope = jax.vmap(jax.grad(sampler.log_phi))(half)
    np.testing.assert_allclose(sampler.level_squared(half), -slope - 1, rtol=1e-10)

    process, law = Process(VP()), GaussianLaw.isotropic(np.asarray([0.7, -0.2]), 0.6)
    arguments = (jax.random.key(0), process, law.denoiser(process))
    quiet = sample(*arguments, ERSDE(order=1, offset=1e14), uniform_time(process, 12), (8, 2)).x
    np.testing.assert_allclose(quiet, sample(*arguments, DDIM(), uniform_time(process, 12), (8, 2)).x, atol=1e-5)
