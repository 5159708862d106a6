"""What the order of a sampler is measured by: the tests and the README's table share it.

A law whose flow is known, a start on it, and one compiled loop that runs a sampler's own `init` and `step` on grids of
any length. (`samplers.sample` compiles for each length; `test_order.py` shows that this loop is the same.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from diffusion import EDM, VP, Process, RectifiedFlow, velocity
from diffusion import keys as keys_lib
from diffusion.oracles import GaussianMixture, flow_map_1d
from samplers import (
    DDIM,
    DEIS,
    IPNDM,
    RK4,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Euler,
    Heun,
    Midpoint,
    UniPC,
)
from samplers.grids import host_float64

PROCESSES = {"VP": Process(VP()), "EDM": Process(EDM()), "RectifiedFlow": Process(RectifiedFlow())}
ODE_SAMPLERS = {
    "Euler": Euler(),
    "DDIM": DDIM(),
    "Midpoint (DPM-Solver-2)": Midpoint(),
    "Heun": Heun(),
    "RK4": RK4(),
    "DPM-Solver-3": DPMSolverSinglestep(order=3, prediction="eps"),
    "DPM-Solver++(2S)": DPMSolverSinglestep(order=2),
    "DPM-Solver++(3S)": DPMSolverSinglestep(order=3),
    "DPM-Solver++(2M)": DPMSolverMultistep(order=2),
    "DPM-Solver++(3M)": DPMSolverMultistep(order=3),
    "DPM-Solver++ (order 4)": DPMSolverMultistep(order=4),
    "DPM-Solver++(3M), published": DPMSolverMultistep(order=3, published=True),
    "DEIS-2 (t)": DEIS(order=2, polynomial="time"),
    "DEIS-3 (t)": DEIS(order=3, polynomial="time"),
    "DEIS-4 (t)": DEIS(order=4, polynomial="time"),
    "DEIS-3 (ρ)": DEIS(order=3, polynomial="rho"),
    "DEIS-4 (ρ)": DEIS(order=4, polynomial="rho"),
    "DEIS-3 (ln ρ)": DEIS(order=3, polynomial="log-rho"),
    "DEIS-4 (ln ρ)": DEIS(order=4, polynomial="log-rho"),
    "iPNDM-2": IPNDM(order=2),
    "iPNDM-4": IPNDM(order=4),
    "UniPC-1 (bh2)": UniPC(order=1),
    "UniPC-2 (bh1)": UniPC(order=2, variant="bh1"),
    "UniPC-2 (bh2)": UniPC(order=2),
    "UniPC-3 (bh2)": UniPC(order=3),
    "UniPC-3 (varying)": UniPC(order=3, variant="varying"),
}
STEPS = (40, 80, 160, 320)
START, END = 5.0, 0.05
"""σ/α at the two ends of every grid: finite, so that nothing but the rule is measured."""


def line():
    """Two well separated, unequal humps on the line."""
    return GaussianMixture.isotropic(
        means=np.asarray([[-1.0], [1.5]]), stds=np.asarray([0.3, 0.5]), weights=np.asarray([0.35, 0.65])
    )


def space():
    """Three humps in eight dimensions."""
    rng = np.random.default_rng(0)
    return GaussianMixture.isotropic(
        means=rng.normal(size=(3, 8)), stds=np.asarray([0.4, 0.6, 0.5]), weights=np.asarray([0.2, 0.5, 0.3])
    )


def grid_of(process, steps, even_in="log-snr", high=START, low=END):
    """`steps` even steps in log-SNR, or in ρ = σ/α, between two values of ρ."""
    spaced = np.geomspace if even_in == "log-snr" else np.linspace
    with host_float64():
        return np.asarray(process.schedule.time_from_log_snr(jnp.asarray(-2 * np.log(spaced(high, low, steps + 1)))))


@functools.cache
def problem(process_name, dimensions):
    """(process, denoiser, start, exact end): the quantile map on the line, an eighth-order solver to 1e-12 in space."""
    process, law = PROCESSES[process_name], line() if dimensions == 1 else space()
    grid = grid_of(process, 1)
    t, s = grid[0], grid[-1]
    x = law.sample_marginal(jax.random.key(1), process, 16 if dimensions == 1 else 4, t)
    denoise = law.denoiser(process)
    if dimensions == 1:
        return process, denoise, x, flow_map_1d(law, process, x, t, s)
    flow = jax.jit(velocity(process, denoise))
    solution = scipy.integrate.solve_ivp(
        lambda u, y: np.asarray(flow(jnp.asarray(y.reshape(x.shape)), u)).ravel(),
        (t, s),
        np.asarray(x).ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return process, denoise, x, jnp.asarray(solution.y[:, -1].reshape(x.shape))


def run_on(process, denoise, sampler, x):
    """A function (grid padded to some length, its number of steps) -> x at its end, compiled once for that length."""
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(x.shape[0]))

    @jax.jit
    def run(grid, steps):
        def body(i, state):
            moved, carry = state
            return sampler.step(keys_lib.fold(keys, i + 1), moved, carry, grid[i], grid[i + 1], process, denoise)

        return jax.lax.fori_loop(0, steps, body, (x, sampler.init(x, grid)))[0]

    return run


def errors(sampler, process_name, dimensions, steps=STEPS, even_in="log-snr"):
    """Root-mean-square errors at the end of each grid."""
    process, denoise, x, exact = problem(process_name, dimensions)
    run = run_on(process, denoise, sampler, x)
    ends = []
    for count in steps:
        grid = grid_of(process, count, even_in)
        ends.append(run(jnp.asarray(np.pad(grid, (0, max(steps) - count), mode="edge")), count))
    return [float(jnp.sqrt(jnp.mean((end - exact) ** 2))) for end in ends]


def observed_order(steps, found):
    """The slope of ln(error) against ln(1/steps), by least squares."""
    return float(-np.polyfit(np.log(steps), np.log(found), 1)[0])


def refinement(name):
    """(the numbers of steps, what the grid is even in) for a sampler: finer where the asymptote is reached late."""
    if name == "iPNDM-4":  # whose fixed coefficients are those of even steps in ρ
        return tuple(8 * n for n in STEPS), "rho"
    if name == "DPM-Solver++ (order 4)":
        return tuple(4 * n for n in STEPS), "log-snr"
    if name == "RK4":  # 320 steps reach the reference's own error
        return tuple(n // 2 for n in STEPS), "log-snr"
    if name.startswith("DEIS") and name.endswith(("(t)", "(ρ)")):
        return tuple(2 * n for n in STEPS), "log-snr"
    return STEPS, "log-snr"


def measured_order(name, process_name, dimensions):
    """The observed order of one of `ODE_SAMPLERS`, in float64."""
    steps, even_in = refinement(name)
    return observed_order(steps, errors(ODE_SAMPLERS[name], process_name, dimensions, steps, even_in))


def table():
    """The README's table, in Markdown."""
    columns = ["sampler", "stated order", *PROCESSES, "VP in 8-D"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, sampler in ODE_SAMPLERS.items():
        places = [(process, 1) for process in PROCESSES] + [("VP", 8)]
        measured = [f"{measured_order(name, *place):.2f}" for place in places]
        lines.append("| " + " | ".join([name, f"{sampler.stated_order:g}", *measured]) + " |")
    return "\n".join(lines) + "\n"
