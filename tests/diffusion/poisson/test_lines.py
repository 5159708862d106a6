"""Field lines: the ODE in z and in ln z, Cauchy data in closed form, and where the mass goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Process, StudentT, velocity
from diffusion.likelihood import log_likelihood
from diffusion.likelihood.solvers import Adaptive
from diffusion.oracles import Atoms, GaussianMixture, StudentTMixture, flow_map_1d
from diffusion.poisson import (
    denoiser_flow,
    field_lines,
    hyperplane_sample,
    law_flow,
    poisson_field,
    poisson_process,
    velocity_in_r,
)

pytestmark = pytest.mark.usefixtures("x64")

WEIGHTS = np.array([0.2, 0.5, 0.3])
LINE = GaussianMixture.isotropic(np.array([[-1.0], [1.5]]), np.array([0.3, 0.5]), np.array([0.35, 0.65]))


@pytest.mark.parametrize("df", [1.0, 7.0])
def test_the_flow_is_the_direction_of_the_field(df):
    law = Atoms(np.random.default_rng(0).normal(size=(3, 2, 2)), WEIGHTS)
    x, r = np.random.default_rng(1).normal(size=(4, 2, 2)), np.array([0.3, 1.0, 2.0, 9.0])
    process = Process(EDM(), StudentT(df))

    @jax.jit
    def measure(x, r):
        denoise, flow = law.denoiser(process), law_flow(law, df)
        flows = velocity_in_r(flow)(x, r), denoiser_flow(denoise, df)(x, r), flow(x, r)
        return poisson_field(law, x, r, df), flows, velocity(process, denoise)(x, r / np.sqrt(df))

    field, (in_r, by_denoiser, by_law), along_sigma = jax.device_get(measure(x, r))
    slope = field.along_x / field.along_r[:, None, None]
    np.testing.assert_allclose(in_r, slope, rtol=1e-11)
    np.testing.assert_allclose(by_denoiser, by_law, rtol=1e-10)
    # dx/dσ = √D dx/dr: the velocity of every sampler is this field's.
    np.testing.assert_allclose(along_sigma / np.sqrt(df), slope, rtol=1e-10)


@pytest.mark.parametrize("variable", ["log_r", "r"])
@pytest.mark.parametrize("up", [False, True])
def test_cauchy_lines_are_straight(variable, up):
    """x(z) = x(T) (γ0 + z)/(γ0 + T), so that x_0 = x_T γ0/(γ0 + T)."""
    gamma, law = 0.6, StudentTMixture(np.zeros((1, 2)), np.array([0.6]), 1.0)
    radii = np.geomspace(20.0, 1e-3, 40)[:: -1 if up else 1]
    x = np.array([[3.0, -1.0], [0.4, 25.0]])
    lines = field_lines(law_flow(law), jnp.asarray(x), radii, variable, substeps=8)
    exact = x * ((gamma + radii) / (gamma + radii[0]))[:, None, None]
    np.testing.assert_allclose(lines.x, exact, rtol=3e-7 if variable == "log_r" else 1e-12)
    np.testing.assert_array_equal(lines.r, radii)


def test_z_time_and_log_z_time_reach_the_quantile_map_at_order_four():
    x = jnp.asarray(np.linspace(-20, 20, 9)[:, None])
    exact = np.asarray(jax.jit(flow_map_1d)(LINE, poisson_process(), x, 10.0, 0.02))
    flow = law_flow(LINE)
    for variable, radii in (("log_r", np.geomspace(10.0, 0.02, 11)), ("r", np.geomspace(10.0, 0.02, 41))):
        ends = [np.asarray(field_lines(flow, x, radii, variable, substeps=n).x)[-1] for n in (2, 8)]
        errors = [np.max(np.abs(end - exact)) for end in ends]
        assert np.log2(errors[0] / errors[-1]) / 2 == pytest.approx(4, abs=0.4), variable
        assert errors[-1] < 1e-4


def test_there_and_back_again():
    """Up from the data to the hemisphere and down the same line."""
    law = Atoms(np.random.default_rng(0).normal(size=(3, 2)), WEIGHTS)
    start, radii = jnp.asarray(np.asarray(law.points) + 0.01), np.geomspace(0.02, 50.0, 60)
    up = jax.device_get(field_lines(law_flow(law), start, radii, substeps=4))
    down = jax.device_get(field_lines(law_flow(law), jnp.asarray(up.x[-1]), radii[::-1], substeps=4))
    np.testing.assert_allclose(down.x[::-1], up.x, atol=1e-5)
    assert np.all(np.linalg.norm(up.x[-1], axis=-1) > 5)


def test_basins_of_the_charges_hold_their_masses():
    """Row 32 on the line: where the lines part, the prior's distribution function is the sum of the weights.

    At the height r some 0.2 r of the mass is still on its way.
    """
    law, process, top = Atoms(np.array([[-1.0], [0.2], [1.5]]), WEIGHTS), poisson_process(), 8.0

    @jax.jit
    def ends(x):
        return field_lines(law_flow(law), x, np.geomspace(top, 1e-7, 100), substeps=8).x[-1]

    low, high = np.array([[-50.0], [-50.0]]), np.array([[50.0], [50.0]])
    middle = np.array([[-0.4], [0.85]])
    for _ in range(36):
        x = 0.5 * (low + high)
        left = np.asarray(ends(x)) < middle
        low, high = np.where(left, x, low), np.where(left, high, x)
    np.testing.assert_allclose(law.cdf(process, jnp.asarray(low), top), np.cumsum(WEIGHTS)[:2], atol=1e-7)
    np.testing.assert_allclose(ends(np.array([[-30.0], [30.0]])), [[-1.0], [1.5]], atol=1e-6)


def test_charges_in_the_plane_catch_their_share():
    """4000 lines from p_T, in any D: within four standard errors of the weights, which are less than 0.05."""
    law, top = Atoms(np.array([[-1.0, 0.0], [0.5, 0.8], [0.6, -0.9]]), WEIGHTS), 30.0
    count = 4000
    for df in (1.0, 6.0):
        x = law.sample_marginal(jax.random.key(0), poisson_process(df), count, top / np.sqrt(df))
        ends = np.asarray(field_lines(law_flow(law, df), x, np.geomspace(top, 0.01, 60)).x)[-1]
        nearest = np.argmin(np.linalg.norm(ends[:, None] - law.points, axis=-1), axis=1)
        share = np.bincount(nearest, minlength=3) / count
        error = np.sqrt(WEIGHTS * (1 - WEIGHTS) / count)
        assert np.all(np.abs(share - WEIGHTS) < 4 * error)
        assert 4 * error.max() < 0.05


def test_the_prior_of_the_hyperplane_is_p_t_far_above():
    """Lines started from the exact prior at z = 200 catch the same masses."""
    law = Atoms(np.array([[-1.0], [0.2], [1.5]]) - np.array([[0.35]]), WEIGHTS)
    x = hyperplane_sample(jax.random.key(0), (4000, 1), 200.0)
    below = np.asarray(law.cdf(poisson_process(), x, 200.0))
    assert np.max(np.abs(np.sort(below) - (np.arange(4000) + 0.5) / 4000)) < 1.95 / np.sqrt(4000)


def test_likelihood_has_the_right_constants():
    """Along the ODE from Cauchy data to the prior: ln p_0."""
    law, process = StudentTMixture(np.zeros((1, 2)), np.array([0.6]), 1.0), poisson_process(1.0, 0.01, 50.0)
    x = np.array([[0.3, -1.0], [4.0, 0.5]])
    solver = Adaptive(rtol=1e-8, atol=1e-8, t_start=0.0)
    known = log_likelihood(
        process, law.denoiser(process), x, solver=solver, terminal=jax.tree_util.Partial(law.log_prob, process)
    )
    log_prob = jax.jit(StudentT(1.0).log_prob)
    exact = np.asarray(log_prob(x / 0.6)) - 2 * np.log(0.6)
    np.testing.assert_allclose(known.log_prob, exact, atol=1e-6)
    # With the prior for p_T, a Cauchy law of scale T for one of scale T + γ0: what that costs is known, too.
    found = log_likelihood(process, law.denoiser(process), x, solver=solver)
    latent = x * 50.6 / 0.6
    scales = [np.asarray(log_prob(latent / s)) - 2 * np.log(s) for s in (50.0, 50.6)]
    np.testing.assert_allclose(np.asarray(found.log_prob) - exact, scales[0] - scales[1], atol=1e-6)


def test_what_does_not_fit_is_refused():
    flow, x = law_flow(LINE), jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="variable = 'z'; choose one of log_r, r"):
        field_lines(flow, x, np.array([2.0, 1.0]), "z")
    with pytest.raises(ValueError, match="turn round; give rising or falling ones"):
        field_lines(flow, x, np.array([5.0, 1.0, 3.0]))
    with pytest.raises(ValueError, match="give two or more positive ones"):
        field_lines(flow, x, np.array([np.inf, 1.0]))
    with pytest.raises(ValueError, match="give two or more positive ones"):
        field_lines(flow, x, np.array([2.0, 0.0]))
