"""What the orders of SDE samplers are measured by: the tests and the README's table share it.

Weakly, by the exact moments of what a sampler makes of a Gaussian law; strongly, along one Brownian path.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import keys as keys_lib
from diffusion.brownian import BrownianIncrement
from diffusion.ddpm.reverse_steps import FixedLarge
from diffusion.oracles import GaussianLaw
from samplers import DDIM, ERSDE, Ancestral, EulerMaruyama, Heun, PredictorCorrector, SDEDPMSolver, StochasticHeun
from samplers.sample import path_clock
from samplers.streams import PATH
from tests.samplers.convergence import PROCESSES, grid_of, line, observed_order

MEAN, STD = 0.7, 0.6
WEAK_STEPS = (40, 80, 160, 320)
WEAK = {
    "Ancestral (β̃)": Ancestral(),
    "Ancestral (β)": Ancestral(FixedLarge()),
    "DDIM (η = 0.5)": DDIM(eta=0.5),
    "Euler-Maruyama": EulerMaruyama(),
    "Euler-Maruyama (level 1.5)": EulerMaruyama(level=1.5),
    "Heun with churn": Heun(S_churn=4.0),
    "Reverse diffusion": PredictorCorrector(corrections=0),
    "Stochastic Heun": StochasticHeun(),
    "Stochastic Heun (level 1.4)": StochasticHeun(level=1.4),
    "SDE-DPM-Solver++(1)": SDEDPMSolver(order=1),
    "SDE-DPM-Solver++(1) (level 0.5)": SDEDPMSolver(order=1, level=0.5),
    "ER-SDE-1": ERSDE(order=1),
}
STRONG_STEPS, REFERENCE = (16, 32, 64, 128), 1024
STRONG = {
    "Ancestral (β̃)": Ancestral(),
    "DDIM (η = 1)": DDIM(eta=1.0),
    "Euler-Maruyama": EulerMaruyama(),
    "Stochastic Heun": StochasticHeun(),
    "SDE-DPM-Solver++(2M)": SDEDPMSolver(),
    "ER-SDE-3": ERSDE(),
}
KEY, BATCH = jax.random.key(0), 64


def coefficients(process, denoise, sampler):
    """A function from a grid to (c, d, w) of every step: from three starts of which two share their noise."""
    x, keys = jnp.asarray([[0.0], [1.0], [0.0]]), keys_lib.sample_keys(jax.random.key(0), jnp.asarray([0, 0, 1]))
    draws = keys_lib.normal(keys, (1,))[:, 0]

    @jax.jit
    def ends_of_steps(starts, stops, carry):
        return jax.vmap(lambda t, s: sampler.step(keys, x, carry, t, s, process, denoise)[0][:, 0])(starts, stops)

    def of_grid(grid):
        more = max(WEAK_STEPS) - len(grid) + 1  # one length, one compilation: what is done at the last time counts not
        padded = jnp.asarray(np.pad(grid, (0, more), mode="edge"))
        ends = ends_of_steps(padded[:-1], padded[1:], sampler.init(x, jnp.asarray(grid)))[: len(grid) - 1]
        w = (ends[:, 2] - ends[:, 0]) / (draws[2] - draws[0])
        return np.asarray(ends[:, 1] - ends[:, 0]), np.asarray(ends[:, 0] - w * draws[0]), np.asarray(w)

    return of_grid


def weak_errors(process, sampler):
    """|mean − exact| and |variance − exact| at the end of each grid, from an exact start."""
    law = GaussianLaw.isotropic(np.asarray([MEAN]), STD)
    step_coefficients = coefficients(process, law.denoiser(process), sampler)
    errors = []
    for grid in (grid_of(process, steps) for steps in WEAK_STEPS):
        means = np.asarray(process.alpha(grid)) * MEAN
        variances = np.asarray(process.alpha(grid)) ** 2 * STD**2 + np.asarray(process.sigma(grid)) ** 2
        mean, variance = means[0], variances[0]
        for c, d, w in zip(*step_coefficients(grid), strict=True):
            mean, variance = c * mean + d, c**2 * variance + w**2
        errors.append([abs(mean - means[-1]), abs(variance - variances[-1])])
    return np.asarray(errors)


def weak_orders(errors):
    """The observed orders of the mean and of the variance."""
    return [observed_order(WEAK_STEPS, np.maximum(column, 1e-16)) for column in errors.T]


@functools.cache
def start(process_name):
    """Points of a mixture's marginal at the first time."""
    process = PROCESSES[process_name]
    return line().sample_marginal(jax.random.key(1), process, BATCH, grid_of(process, 1)[0])


def run_on_paths(process_name, sampler):
    """A function from a number of steps to x at their end, compiled once: what `sample` does, on a padded grid."""
    process, x = PROCESSES[process_name], start(process_name)
    denoise = line().denoiser(process)
    keys = keys_lib.sample_keys(KEY, jnp.arange(BATCH))
    paths = keys_lib.fold(keys, PATH)

    @jax.jit
    def run(grid, steps):
        clock = path_clock(process, grid)

        def body(i, state):
            draws = BrownianIncrement(keys_lib.fold(keys, i + 1), paths, clock[i], clock[i + 1])
            return sampler.step(draws, *state, grid[i], grid[i + 1], process, denoise)

        return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]

    def of_steps(steps):
        grid = grid_of(process, steps)
        return run(jnp.asarray(np.pad(grid, (0, REFERENCE - steps), mode="edge")), steps)

    return of_steps


@functools.cache
def reference(process_name, of_its_own=None):
    """x at the end of the path of the reverse SDE, or of the SDE that a sampler has of its own."""
    return run_on_paths(process_name, of_its_own or StochasticHeun())(REFERENCE)


def strong_errors(name, process_name):
    """Median distances from the path's end: the median, for a path may pass between the humps."""
    sampler = STRONG[name]
    run = run_on_paths(process_name, sampler)
    exact = reference(process_name, sampler if isinstance(sampler, ERSDE) else None)
    return [float(jnp.median(jnp.abs(run(steps) - exact))) for steps in STRONG_STEPS]


def table():
    """The README's table of the SDE samplers, in Markdown."""
    columns = ["sampler", "stated weak order", *PROCESSES, "stated strong order", "VP", "EDM"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name in dict.fromkeys([*WEAK, *STRONG]):
        sampler = WEAK.get(name) or STRONG[name]
        weak = [f"{weak_orders(weak_errors(p, sampler))[1]:.2f}" if name in WEAK else "" for p in PROCESSES.values()]
        strong = [
            f"{observed_order(STRONG_STEPS, strong_errors(name, p)):.2f}" if name in STRONG else ""
            for p in ("VP", "EDM")
        ]
        stated = [f"{sampler.stated_order:g}", f"{sampler.strong_order:g}" if sampler.strong_order else "none"]
        lines.append("| " + " | ".join([name, stated[0], *weak, stated[1], *strong]) + " |")
    return "\n".join(lines) + "\n"
