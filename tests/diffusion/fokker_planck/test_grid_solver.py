"""The grid solver against exact densities: its orders, its mass, its signs, its stationary states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.tree_util import Partial

from diffusion import EDM, VE, VP, Cosine, Process, RectifiedFlow, SubVP, forward_sde, reverse_sde
from diffusion.fokker_planck import grid_solver
from diffusion.fokker_planck.equation import FokkerPlanck, of_ode, of_sde
from diffusion.fokker_planck.grid_solver import _implicit_euler
from diffusion.fokker_planck.moments import linear_moments
from diffusion.fokker_planck.residuals import reverse_equation
from diffusion.oracles import GaussianMixture

LAW = GaussianMixture.isotropic([[-1.0], [0.8]], [0.3, 0.5], [0.4, 0.6])
BEND = np.linspace(-1, 1, 65)


def centres(edges):
    return np.asarray(grid_solver.centres(edges))


def solve(*arguments, **options):
    """`grid_solver.solve`, its answer in NumPy: what is compared with it need not be compiled."""
    return jax.device_get(grid_solver.solve(*arguments, **options))


def exact(process, edges, t):
    """The density of LAW's marginal in NumPy: no program for each number of cells."""
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    stds = np.sqrt(alpha**2 * np.asarray(LAW.floor) + sigma**2)
    return scipy.stats.norm.pdf(centres(edges), alpha * LAW.means[:, 0], stds) @ LAW.weights


def distance(edges, p, q):
    """∫ |p − q| dx."""
    return np.sum(np.abs(p - q) * np.diff(edges))


def in_portions(equation, density, edges, start, end, portions, **options):
    """8 `portions` steps, by a program that is compiled once."""
    for ends in np.lib.stride_tricks.sliding_window_view(np.linspace(start, end, portions + 1), 2):
        density = solve(equation, density, edges, ends, steps=8, **options).densities[-1]
    return density


def orders(errors):
    return np.log2(np.array(errors[:-1]) / errors[1:])


# Marginals of processes.


@pytest.mark.parametrize(
    ("schedule", "times", "width"), [(VP(), (0.02, 0.1, 0.4), 5.0), (EDM(), (0.0, 0.5, 1.5), 9.0)], ids=["VP", "EDM"]
)
def test_marginals_are_met_to_second_order_in_the_cells(schedule, times, width, x64):
    process, errors = Process(schedule), []
    for cells in (48, 96, 192):
        edges = np.linspace(-width, width, cells + 1)
        start = exact(process, edges, times[0])
        got = solve(of_sde(forward_sde(process)), start, edges, np.asarray(times), steps=400)
        np.testing.assert_array_equal(got.densities[0], start)
        errors.append([distance(edges, p, exact(process, edges, t)) for p, t in zip(got.densities, times, strict=True)])
    np.testing.assert_allclose(orders(np.array(errors)[:, 1:]), 2, atol=0.15)
    assert np.max(errors[-1]) < 2e-3


@pytest.mark.parametrize(("order", "worst"), [(1, 2e-3), (2, 2e-5)])
def test_the_order_in_time(order, worst, x64):
    """On one grid, against the same grid's own limit of short steps."""
    process, edges = Process(EDM()), np.linspace(-9, 9, 97)
    run = functools.partial(in_portions, of_sde(forward_sde(process)), exact(process, edges, 0.0), edges, 0.0, 1.5)
    limit = run(256, order=2)
    errors = [distance(edges, run(portions, order=order), limit) for portions in (4, 8, 16, 32)]
    np.testing.assert_allclose(orders(errors)[-1], order, atol=0.1)
    assert np.all(np.abs(orders(errors) - order) < 0.3)
    assert errors[-1] < worst


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [(VE(), 0.0, 0.6), (SubVP(), 0.0, 1.0), (Cosine(), 0.0, 1.0), (RectifiedFlow(), 0.0, 1.0)],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_every_process_up_to_where_its_drift_is_infinite(schedule, start, end, x64):
    """Cosine and RectifiedFlow lose the data at t = 1, where f = −∞."""
    process, edges = Process(schedule), np.linspace(-7, 7, 193)
    times = np.array([start, 0.5 * (start + end), end])
    got = solve(of_sde(forward_sde(process)), exact(process, edges, start), edges, times, steps=200)
    for p, t in zip(got.densities, times, strict=True):
        assert distance(edges, p, exact(process, edges, t)) < 4e-3
    assert distance(edges, got.densities[0], got.densities[-1]) > 0.1


@pytest.mark.parametrize(("level", "order", "worst"), [(0.0, 1, 5e-2), (1.0, 2, 2e-3), (2.0, 2, 5e-3)])
def test_the_reverse_family_brings_back_the_data(level, order, worst, x64):
    """Times descend from p_T to p_t; with σ̃ = 0 there is no diffusion, and the upwind flux is of first order."""
    process, errors = Process(VP()), []
    equation = of_sde(reverse_sde(process, LAW.denoiser(process), level))
    for cells in (96, 192):
        edges = np.linspace(-4, 4, cells + 1)
        got = solve(equation, exact(process, edges, 0.4), edges, np.array([0.4, 0.05]), steps=400)
        errors.append(distance(edges, got.densities[-1], exact(process, edges, 0.05)))
    assert errors[-1] < worst
    assert orders(errors)[-1] > order - 0.3


def test_descending_times_are_the_reverse_sdes_own_time(x64):
    """Its equation in τ = t_max − t, which ascends, is the same program with the signs written out."""
    process, edges, times = Process(VP()), np.linspace(-4, 4, 49), np.array([0.4, 0.2, 0.05])
    denoise, start = LAW.denoiser(process), exact(process, edges, 0.4)
    got = solve(of_sde(reverse_sde(process, denoise, 1.5)), start, edges, times, steps=20)
    own = solve(reverse_equation(process, denoise, 1.5), start, edges, process.t_max - times, steps=20)
    np.testing.assert_allclose(got.densities, own.densities, rtol=1e-9)


# Mass, sign, stationarity: for a step of any length.


def _descent(slope, diffusion, x, t):
    """f = −D ∇V, for which exp(−V) is stationary."""
    return -diffusion * slope(x)


def gibbs(slope, diffusion):
    """The equation with f = −D ∇V, D a diagonal."""
    diffusion = np.asarray(diffusion)
    return FokkerPlanck(Partial(_descent, slope, diffusion), Partial(_everywhere, np.sqrt(2 * diffusion)))


def _everywhere(value, x, t):
    return jnp.broadcast_to(value, x.shape)


def well(x):
    """Two minima, one of them deeper."""
    return x[:, 0] ** 4 - 3 * x[:, 0] ** 2 + 0.5 * x[:, 0]


def coupled(x):
    return (
        0.5 * x[:, 0] ** 4 + 0.7 * x[:, 1] ** 2 + x[:, 0] ** 2 * x[:, 1] - 0.4 * x[:, 0] * x[:, 1] ** 3 + x[:, 1] ** 4
    )


@Partial
def well_slope(x):
    return jax.grad(lambda x: jnp.sum(well(x)))(x)


@Partial
def coupled_slope(x):
    return jax.grad(lambda x: jnp.sum(coupled(x)))(x)


GRIDS = {
    "one axis": (well, well_slope, [0.3], 2.6 * BEND + 0.2 * BEND**2),
    "two axes": (coupled, coupled_slope, [0.3, 1.7], (1.8 * BEND[::2] + 0.1 * BEND[::2] ** 3, 1.5 * BEND[::3] + 0.1)),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", GRIDS)
def test_gibbs_densities_do_not_move(case, order, x64):
    """V of degree 4, uneven cells, D another along each axis: exp(−V) is kept in every cell, the emptiest too."""
    potential, slope, diffusion, edges = GRIDS[case]
    x = centres(edges)
    density = np.exp(-potential(x.reshape(-1, x.shape[-1]))).reshape(x.shape[:-1])
    assert np.min(density) < 1e-7
    for end in (0.1, 500.0):
        got = solve(gibbs(slope, diffusion), density, edges, np.array([0.0, end]), steps=10, order=order)
        np.testing.assert_allclose(got.densities[1], density, rtol=1e-11)


def test_more_points_keep_more_gibbs_densities(x64):
    """One point carries the integral of a linear slope, two that of a cubic one; the error falls as Δx^{2 points}."""
    potential, slope, diffusion, _ = GRIDS["one axis"]
    moved = []
    for cells in (64, 128):
        edges = np.linspace(-2.0, 2.0, cells + 1)
        density = np.exp(-potential(centres(edges)))
        got = solve(gibbs(slope, diffusion), density, edges, np.array([0.0, 1e3]), steps=2, points=1)
        moved.append(distance(edges, got.densities[-1], density))
    np.testing.assert_allclose(orders(moved), 2, atol=0.1)
    assert moved[-1] > 1e-6


@pytest.mark.parametrize("case", GRIDS)
def test_a_huge_step_is_positive_and_keeps_the_mass(case, x64):
    """From all mass in one cell: implicit Euler then ends in the stationary state, to the last digit of each cell."""
    potential, slope, diffusion, edges = GRIDS[case]
    x = centres(edges)
    density = np.zeros(x.shape[:-1])
    density[(3,) * density.ndim] = 1.0
    for order in (1, 2):
        for end in (1e-3, 1.0, 1e6, 1e16):
            got = solve(gibbs(slope, diffusion), density, edges, np.array([0.0, end]), steps=10, order=order)
            assert np.all(got.densities[-1] > 0)
            assert np.all(np.isfinite(got.densities[-1]))
            np.testing.assert_allclose(got.mass, got.mass[0], rtol=1e-12)
    if density.ndim == 1:
        got = solve(gibbs(slope, diffusion), density, edges, np.array([0.0, 1e16]), steps=10, order=1)
        stationary = np.exp(-potential(x))
        stationary *= got.mass[0] / np.sum(stationary * np.diff(edges))
        np.testing.assert_allclose(got.densities[-1], stationary, rtol=1e-11)


def test_float32_loses_digits_and_nothing_else():
    process, edges = Process(VP()), np.linspace(-5, 5, 97)
    options = {"steps": 400}
    start, times = exact(process, edges, 0.02).astype(np.float32), np.array([0.02, 0.4])
    single = solve(of_sde(forward_sde(process)), start, edges, times, **options)
    assert single.densities.dtype == np.float32
    with jax.enable_x64(True):
        double = solve(of_sde(forward_sde(process)), start, edges, times, **options)
    np.testing.assert_allclose(single.densities, double.densities, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(single.mass, double.mass[0], rtol=1e-5)
    assert np.all(single.densities >= 0)


@pytest.mark.parametrize("lines", [(), (3,)])
def test_the_elimination_solves_its_equations(lines, x64):
    """Against a dense solver, and with rates that a dense solver cannot bear the sum of the masses alone."""
    rng = np.random.default_rng(0)
    up, down = rng.uniform(0, 5, size=(2, 6, *lines))
    mass, eliminate = rng.uniform(size=(7, *lines)), jax.jit(_implicit_euler)
    got = np.asarray(eliminate(up, down, mass)).reshape(7, -1)
    for k in range(got.shape[1]):
        u, v = up.reshape(6, -1)[:, k], down.reshape(6, -1)[:, k]
        diagonal = np.append(u, 0) + np.append(0, v)
        matrix = np.eye(7) + np.diag(diagonal) - np.diag(u, -1) - np.diag(v, 1)
        np.testing.assert_allclose(matrix @ got[:, k], mass.reshape(7, -1)[:, k], rtol=1e-13)
    stiff = eliminate(1e18 * up, 1e18 * down, mass)
    np.testing.assert_allclose(np.sum(stiff, axis=0), np.sum(mass, axis=0), rtol=1e-13)


# Diffusion that depends on x, two axes, and none at all.


def cir(kappa=1.5, theta=1.0, nu=0.8):
    """dx = κ (θ − x) dt + ν √x dw (Cox, Ingersoll & Ross 1985): x_t is a non-central χ² times ν² (1 − e^{−κt})/(4κ)."""
    return FokkerPlanck(
        Partial(lambda kappa, theta, x, t: kappa * (theta - x), kappa, theta),
        Partial(lambda nu, x, t: nu * jnp.sqrt(x), nu),
        uniform=False,
    )


def cir_density(x, t, start=0.8, kappa=1.5, theta=1.0, nu=0.8):
    scale = nu**2 * -np.expm1(-kappa * t) / (4 * kappa)
    freedom, shift = 4 * kappa * theta / nu**2, start * np.exp(-kappa * t) / scale
    return scipy.stats.ncx2.pdf(x, freedom, shift, scale=scale)


def test_diffusion_that_depends_on_x(x64):
    """A diffusion that vanishes at the boundary, where the mass is to stay inside."""
    errors = []
    for cells in (80, 160):
        edges = np.linspace(0.0, 6.0, cells + 1)
        x = centres(edges)[:, 0]
        got = solve(cir(), cir_density(x, 0.2), edges, np.array([0.2, 1.0]), steps=200)
        errors.append(distance(edges, got.densities[-1], cir_density(x, 1.0)))
    np.testing.assert_allclose(orders(errors)[-1], 2, atol=0.2)
    assert errors[-1] < 2e-3


def test_two_axes_that_do_not_meet_are_two_lines(x64):
    """A density that is a product stays one: half steps along the first axis, whole ones along the second, to rounding.

    Also that the axes are not confused: another equation, other cells, another number of them along each.
    """
    both = FokkerPlanck(
        Partial(lambda x, t: jnp.stack([1.5 * (1.0 - x[:, 0]), jnp.sin(t) - x[:, 1]], axis=1)),
        Partial(lambda x, t: jnp.stack([0.8 * jnp.sqrt(x[:, 0]), 0.5 + 0 * x[:, 1]], axis=1)),
        uniform=False,
    )
    second = FokkerPlanck(Partial(lambda x, t: jnp.sin(t) - x), Partial(lambda x, t: jnp.asarray(0.5)))
    lines = 3 + 3 * BEND[::2] - 0.2 * (BEND[::2] ** 2 - 1), 3 * BEND[::3]
    first_start = cir_density(centres(lines[0])[:, 0], 0.2)
    second_start = np.exp(-2 * (centres(lines[1])[:, 0] - 0.5) ** 2)
    times = np.array([0.2, 0.9])
    got = solve(both, np.multiply.outer(first_start, second_start), lines, times, steps=7)
    first = solve(cir(), first_start, lines[0], times, steps=14).densities[-1]
    second = solve(second, second_start, lines[1], times, steps=7).densities[-1]
    np.testing.assert_allclose(got.densities[-1], np.multiply.outer(first, second), rtol=1e-10)


TURN, GROW = np.array([[-0.3, -2.0], [1.0, -0.2]]), np.array([0.9, 1.2])


def _turning(x, t):
    return x @ jnp.asarray(TURN).T + jnp.stack([jnp.sin(3 * t), 0.3 + 0 * t])


def _growing(x, t):
    return jnp.broadcast_to(jnp.asarray(GROW), x.shape)


def test_a_turning_gaussian(x64):
    """Axes coupled by a rotation: second order when cells and steps are halved together, against exact moments."""
    times, mean, covariance = np.array([0.0, 0.7]), np.array([0.8, -0.5]), np.array([[0.3, 0.1], [0.1, 0.4]])
    offset = Partial(lambda t: jnp.stack([jnp.sin(3 * t), 0.3 + 0 * t]))
    moments = linear_moments(TURN, GROW, mean, covariance, times, offset=offset)
    equation, errors = FokkerPlanck(Partial(_turning), Partial(_growing)), []
    for refine in (2, 4):
        lines = np.linspace(-5, 5, 22 * refine + 1), np.linspace(-4.5, 4.5, 20 * refine + 1)
        first, last = (
            scipy.stats.multivariate_normal(m, S).pdf(centres(lines))
            for m, S in zip(moments.means, moments.covariances, strict=True)
        )
        got = solve(equation, first, lines, times, steps=12 * refine)
        errors.append(np.sum(np.abs(got.densities[-1] - last)) * np.diff(lines[0])[0] * np.diff(lines[1])[0])
    assert orders(errors)[-1] > 1.8
    assert errors[-1] < 1e-2


def _towards(place, x, t):
    return place - x


def _pull(theta, x, t):
    return -theta * x


def test_without_diffusion_it_is_the_continuity_equation(x64):
    """dx/dt = c − x: p_t(x) = e^t p_0(c + (x − c) e^t), by the upwind flux: never negative, and of first order, also
    in the cell where the velocity changes its sign."""
    equation, errors = of_ode(Partial(_towards, 0.4)), []
    for cells in (200, 400):
        edges = np.linspace(-4, 5, cells + 1)
        x = centres(edges)[:, 0]
        got = solve(equation, np.exp(-(x**2)), edges, np.array([0.0, 0.5]), steps=100)
        expected = np.exp(0.5) * np.exp(-((0.4 + (x - 0.4) * np.exp(0.5)) ** 2))
        errors.append([distance(edges, got.densities[-1], expected), np.max(np.abs(got.densities[-1] - expected))])
        assert np.all(got.densities >= 0)
    np.testing.assert_allclose(orders(errors)[-1], 1, atol=0.1)


# The program.


def test_numbers_are_traced():
    """Another β, other edges and times, another density: no other program."""
    traces = []

    def spread(beta, x, t):
        traces.append(1)
        return jnp.sqrt(beta)

    counts = []
    for beta, edges in ((0.3, np.linspace(-1, 1, 9)), (2, np.linspace(-2, 3, 9))):
        equation = FokkerPlanck(Partial(_pull, beta), Partial(spread, beta))
        solve(equation, np.ones(8), edges, beta * np.array([0.0, 0.1]), steps=2)
        counts.append(len(traces))
        traces.clear()
    assert counts[1] == counts[0] - 1  # each call asks for the shape of the spread


def test_solutions_have_slopes(x64):
    """d/dθ of the mean of dx = −θ x dt + g dw, through jit, by reverse-mode differentiation."""
    edges = np.linspace(-4, 4, 129)
    x = centres(edges)[:, 0]
    start = scipy.stats.norm.pdf(x, 1.0, 0.4)

    def mean(theta):
        equation = FokkerPlanck(Partial(_pull, theta), Partial(_everywhere, jnp.asarray(0.5)))
        p = grid_solver.solve(equation, start, edges, np.array([0.0, 0.6]), steps=50).densities[-1]
        return jnp.sum(x * p) / jnp.sum(p)

    theta, mean = 0.9, jax.jit(mean)
    slope = jax.jit(jax.grad(mean))(theta)
    np.testing.assert_allclose(slope, (mean(theta + 1e-5) - mean(theta - 1e-5)) / 2e-5, rtol=1e-8)
    np.testing.assert_allclose(slope, -0.6 * np.exp(-0.54), rtol=1e-2)


def test_what_does_not_fit_is_refused():
    line, density, times = np.linspace(0, 1, 5), np.ones(4), np.array([0.0, 1.0])
    equation = of_ode(Partial(_pull, 1.0))
    for bad, message in (
        ({"edges": line[::-1]}, r"edges = .* do not ascend; sort them"),
        ({"edges": line[:2]}, r"edges has shape \(2,\) along an axis; give \(n \+ 1,\) edges of n >= 2 cells"),
        (
            {"edges": (line, line, line)},
            "edges has 3 axes, and a grid has 1 or 2; in more dimensions simulate particles",
        ),
        ({"edges": (line, line)}, r"density has shape \(4,\) on a grid of \(4, 4\) cells"),
        ({"density": density - 2}, "density contains -1; give a density, >= 0"),
        ({"density": density * np.nan}, "density contains nan"),
        ({"times": np.array([0.0, 1.0, 0.5])}, r"times = .* are not monotone"),
        ({"times": np.array([0.0])}, r"times = .* are not monotone; give two or more"),
        ({"steps": 0}, "steps = 0; at least 1"),
        ({"points": 0}, "points = 0; at least 1"),
        ({"order": 3}, "order = 3; choose 1, implicit Euler, or 2, modified Patankar"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(**{"equation": equation, "density": density, "edges": line, "times": times} | bad)
    full = FokkerPlanck(Partial(_pull, 1.0), Partial(lambda x, t: jnp.ones((x.shape[0], 2, 2))))
    with pytest.raises(TypeError, match=r"a full matrix; the grid takes a number or a diagonal: turn x"):
        solve(full, np.ones((4, 4)), (line, line), times)
