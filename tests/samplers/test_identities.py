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
from tests.samplers.programs import answers, bent, chosen, coefficients

KEY = jax.random.key(0)
STEPS = 9


def runs(process, samplers, grid, denoise=bent, key=KEY):
    """The samples of several samplers from the same eight points; twins are twins on any denoiser."""
    scale = float(coefficients(process, grid)[1][0])
    x = jax.device_put(scale * np.linspace(-2, 2, 8)[:, None])
    return [np.asarray(sample(key, process, denoise, sampler, grid, x.shape, x_init=x).x) for sampler in samplers]


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow(), Betas.linear(60)], ids=lambda s: type(s).__name__)
def test_ddim_with_eta_one_is_ancestral(schedule, x64):
    process = chosen(schedule)
    ddim, ancestral = runs(process, [DDIM(eta=1.0), Ancestral()], uniform_time(process, STEPS))
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-9)


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_first_order_dpm_solver_is_ddim(schedule, x64):
    process = chosen(schedule)
    ddim, dpm = runs(process, [DDIM(), DPMSolverMultistep(order=1)], uniform_time(process, STEPS))
    np.testing.assert_allclose(ddim, dpm, rtol=1e-10)


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_euler_on_straight_characteristics_is_ddim(schedule, x64):
    """Where α and σ are linear in t, Euler's step is DDIM's."""
    process = chosen(schedule)
    ddim, euler = runs(process, [DDIM(), Euler()], uniform_time(process, STEPS))
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
def test_two_names_of_one_method(names, x64):
    first, second = runs(chosen(VP()), TWINS[names], karras(Process(VP()), STEPS))
    np.testing.assert_allclose(first, second, rtol=1e-9)


def test_ipndm_is_adams_bashforth_on_even_steps(x64):
    """In ρ = σ/α, which is EDM's time: there the fixed coefficients are the exact ones."""
    process = Process(EDM())
    methods = (IPNDM(order=4), DEIS(order=4, polynomial="rho", start="lower-order"))
    first, second = runs(process, methods, np.linspace(5.0, 0.5, 10))
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
        alpha = np.asarray(coefficients(process, grid)[0])
        x = alpha[0] * 5.0 * np.linspace(-1, 1, 8)[:, None]
        end = sample(KEY, process, mixture.denoiser(process), sampler, grid, (8, 1), x_init=jax.device_put(x)).x
        ends.append(np.asarray(end) / alpha[-1])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-8)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-8)


def test_without_noise_every_seed_gives_the_same_path(x64):
    """Churn 0 and level 0 are deterministic: Euler's method, from the same start."""
    process, grid = chosen(EDM()), karras(Process(EDM()), STEPS, sigma_max=3.0)
    samplers = [Heun(S_churn=0.0), EulerMaruyama(level=0.0), DDIM(eta=0.0), Euler()]
    first, second = (runs(process, samplers, grid, key=jax.random.key(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    _, no_noise, _, euler = first
    np.testing.assert_allclose(no_noise, euler, rtol=1e-11)


def test_churn_below_its_range_is_no_churn(x64):
    samplers = [Heun(S_churn=9.0, S_min=200.0, S_max=300.0), Heun()]
    outside, none = runs(chosen(EDM()), samplers, karras(Process(EDM()), STEPS))
    np.testing.assert_array_equal(outside, none)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow(), Betas.linear(60)], ids=lambda s: type(s).__name__)
def test_ddim_keeps_the_marginals(schedule, eta, x64):
    """Row 12: given x_0, one step maps N(α_t x_0, σ_t²) to N(α_s x_0, σ_s²), for every feasible σ̃."""
    process, x_0 = chosen(schedule), 0.8
    t, s = (round(u * schedule.t_max, 3) for u in (0.7, 0.3))
    grid, x_t = np.asarray([t, s]), np.asarray([[-1.0], [2.0], [0.5]])
    alpha, sigma = map(np.asarray, coefficients(process, grid))

    def moved_to(x, sampler):
        answer, x = Partial(constant, np.asarray(x_0)), jax.device_put(x)
        return np.asarray(sample(KEY, process, answer, sampler, grid, x.shape, x_init=x).x)

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
        _, c_0, variance = map(float, jax.jit(posterior_coefficients)(process, s, t))
        np.testing.assert_allclose(draws, ((ancestral - c_0 * x_0) / np.sqrt(variance)).ravel(), rtol=1e-9)


def constant(x_0, x, t):
    return jnp.broadcast_to(x_0, x.shape)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Betas.cosine(80)], ids=lambda s: type(s).__name__)
def test_ddim_of_a_unit_gaussian_is_a_product_of_cosines(schedule, x64):
    """Row 13: with (α, σ) = (cos θ, sin θ) each step multiplies by cos(θ_t − θ_s)."""
    process = chosen(schedule, (VP(), Cosine()))
    denoise = GaussianLaw.isotropic(np.zeros(2), 1.0).denoiser(process)
    grid = uniform_time(process, 7)
    x = jax.device_put(np.random.default_rng(0).normal(size=(4, 2)))
    result = sample(KEY, process, denoise, DDIM(), grid, x.shape, x_init=x).x
    alpha, sigma = map(np.asarray, coefficients(process, grid))
    angles = np.arctan2(sigma, alpha)
    np.testing.assert_allclose(result, np.asarray(x) * np.prod(np.cos(np.diff(angles))), rtol=1e-10)


def test_guidance_is_affine_in_its_scale(mixture, x64):
    process = Process(EDM())
    conditional, free = GaussianLaw.isotropic(np.ones(1), 0.5).denoiser(process), mixture.denoiser(process)
    x = np.random.default_rng(0).normal(size=(5, 1))
    guided = [classifier_free_guidance(conditional, free, scale) for scale in (0.0, 1.0, 3.0)]
    c, u, none, one, three = map(np.asarray, answers([conditional, free, *guided], x, 0.7))
    np.testing.assert_allclose(none, u, rtol=1e-12)
    np.testing.assert_allclose(one, c, rtol=1e-12)
    np.testing.assert_allclose(three, 3 * c - 2 * u, rtol=1e-12)


def test_guided_denoiser_of_equal_models_is_the_model(x64):
    process, grid = chosen(VP()), uniform_time(Process(VP()), STEPS)
    (plain,), (twice,) = (runs(process, [DDIM()], grid, d) for d in (bent, classifier_free_guidance(bent, bent, 7.5)))
    np.testing.assert_allclose(plain, twice, rtol=1e-11)


def test_er_sde_leads_to_the_ode(x64):
    """Its noise is that of φ(ρ) = ρ (exp(ρ^p) + c), and for a large c there is none: at order 1 it is DDIM."""
    half, sampler = np.linspace(-3.0, 4.0, 8), ERSDE()
    rho = np.exp(-half)
    phi, slope = jax.jit(jax.vmap(jax.value_and_grad(sampler.log_phi)))(half)
    np.testing.assert_allclose(np.exp(phi), rho * (np.exp(rho**0.3) + 10), rtol=1e-10)
    np.testing.assert_allclose(jax.jit(sampler.level_squared)(half), -np.asarray(slope) - 1, rtol=1e-10)

    samplers = [ERSDE(order=1, offset=1e14), DDIM()]
    quiet, ddim = runs(chosen(VP()), samplers, uniform_time(Process(VP()), STEPS))
    np.testing.assert_allclose(quiet, ddim, atol=1e-5)
