"""Every ODE sampler reaches its stated order against the exact flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from diffusion import EDM, VP, Process, RectifiedFlow, StudentT, velocity
from diffusion.oracles import StudentTMixture, flow_map_1d
from diffusion.pytree import pytree
from samplers import DDIM, DPMSolverMultistep, Euler, Heun, sample
from samplers.exponential import exponential_step

SAMPLERS = {
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "dpmpp-2m": DPMSolverMultistep(order=2),
}
STEPS = (20, 40, 80)


def observed_order(steps, errors):
    """The slope of ln(error) against ln(1/steps), by least squares."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def errors_on(process, denoise, sampler, grids, x, exact):
    runs = [
        sample(jax.random.key(0), process, denoise, sampler, grid, x.shape, x_init=x, ids=jnp.arange(len(x))).x
        for grid in grids
    ]
    return [float(jnp.sqrt(jnp.mean((run - exact) ** 2))) for run in runs]


@pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_observed_order_on_the_line(name, schedule, mixture, log_snr_grid, x64):
    """The flow of a one-dimensional law is its quantile map: an answer without any solver in it."""
    process, sampler = Process(schedule), SAMPLERS[name]
    grids = [log_snr_grid(process, steps) for steps in STEPS]
    t, s = grids[0][0], grids[0][-1]
    x = mixture.sample_marginal(jax.random.key(1), process, 16, t)
    exact = flow_map_1d(mixture, process, x, t, s)
    errors = errors_on(process, mixture.denoiser(process), sampler, grids, x, exact)
    assert observed_order(STEPS, errors) > sampler.order - 0.15, errors


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp-2m"])
def test_observed_order_in_eight_dimensions(name, mixture_8d, log_snr_grid, x64):
    """Against an eighth-order adaptive solver run to 1e-12."""
    process, sampler = Process(VP()), SAMPLERS[name]
    finer = tuple(2 * steps for steps in STEPS)
    grids = [log_snr_grid(process, steps) for steps in finer]
    t, s = grids[0][0], grids[0][-1]
    x = mixture_8d.sample_marginal(jax.random.key(1), process, 4, t)
    flow = jax.jit(velocity(process, mixture_8d.denoiser(process)))
    solution = scipy.integrate.solve_ivp(
        lambda u, y: np.asarray(flow(jnp.asarray(y.reshape(x.shape)), u)).ravel(),
        (t, s),
        np.asarray(x).ravel(),
        method="DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    exact = solution.y[:, -1].reshape(x.shape)
    errors = errors_on(process, mixture_8d.denoiser(process), sampler, grids, x, exact)
    assert observed_order(finer, errors) > sampler.order - 0.15, errors


@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "dpmpp-2m"])
def test_observed_order_under_heavy_tails(name, log_snr_grid, x64):
    """Cauchy data of width γ and Cauchy noise: x_s = x_t (α_s γ + σ_s)/(α_t γ + σ_t) exactly.

    E[x_0|x_t] is then x_t γ/(α_t γ + σ_t), constant along the flow, which exponential integrators solve exactly.
    """
    process, sampler, width = Process(VP(), StudentT(1.0)), SAMPLERS[name], 0.7
    law = StudentTMixture(np.zeros((1, 3)), np.asarray([width]), df=1.0)
    grids = [log_snr_grid(process, steps) for steps in STEPS]
    t, s = grids[0][0], grids[0][-1]
    x = law.sample_marginal(jax.random.key(1), process, 8, t)
    exact = x * (process.alpha(s) * width + process.sigma(s)) / (process.alpha(t) * width + process.sigma(t))
    if name in ("ddim", "dpmpp-2m"):
        result = sample(jax.random.key(0), process, law.denoiser(process), sampler, grids[0], x.shape, x_init=x).x
        np.testing.assert_allclose(result, exact, rtol=1e-11)
    else:
        errors = errors_on(process, law.denoiser(process), sampler, grids, x, exact)
        assert observed_order(STEPS, errors) > sampler.order - 0.15, errors


@pytree
class HalfHearted(DPMSolverMultistep):
    """2M with half of its extrapolation."""

    def step(self, keys, x, carry, t, s, process, denoise):
        last_x_0, last_h = carry
        (_, carry) = super().step(keys, x, carry, t, s, process, denoise)
        x_0, h = carry
        slope = jnp.where(jnp.isfinite(last_h), h / (4 * last_h), 0.0)
        return exponential_step(process, x, x_0 + slope * (x_0 - last_x_0), t, s), carry


def test_a_wrong_method_is_found_out(mixture, log_snr_grid, x64):
    """The power of the order test: 2M with its extrapolation halved is first order, and seen to be."""
    process = Process(VP())
    grids = [log_snr_grid(process, steps) for steps in STEPS]
    t, s = grids[0][0], grids[0][-1]
    x = mixture.sample_marginal(jax.random.key(1), process, 16, t)
    exact = flow_map_1d(mixture, process, x, t, s)

    errors = errors_on(process, mixture.denoiser(process), HalfHearted(), grids, x, exact)
    assert observed_order(STEPS, errors) < 1.3
