"""The exact flow maps, against quantiles, change of variables and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VE, VP, Betas, Process, RectifiedFlow, velocity
from diffusion.flow_maps import exact_flow_map, exact_two_time_denoiser
from diffusion.flow_maps.exact import _solved_map
from diffusion.noises import StudentT
from diffusion.oracles import Atoms, GaussianLaw, StudentTMixture, flow_map_1d
from diffusion.oracles.examples import line, mixture

HEAVY = StudentTMixture(np.asarray([[-1.0], [1.0]]), np.asarray([0.3, 0.4]), 4.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("law", "process"), [(line(), Process(EDM())), (HEAVY, Process(VE()))], ids=["humps", "Student-t"]
)
def test_on_the_line_it_is_the_map_of_quantiles(law, process):
    """With a time for each element, to less noise and to more, and one that goes nowhere."""
    end = float(process.t_max)
    t, s = end * np.asarray([0.9, 0.9, 0.02, 0.3, 0.5]), end * np.asarray([0.0, 0.01, 0.8, 0.3, 0.1])
    x = law.sample_marginal(jax.random.key(0), process, 5, t)
    made, exact = (
        jax.jit(phi)(x, t, s)
        for phi in (exact_flow_map(law, process), lambda x, t, s: flow_map_1d(law, process, x, t, s))
    )
    np.testing.assert_allclose(made, exact, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(made[3], x[3])


@pytest.mark.usefixtures("x64")
def test_under_cauchy_noise_a_cauchy_law_is_stretched_by_the_sums_of_scales():
    law, process = StudentTMixture(np.asarray([[0.4]]), np.asarray([0.3])), Process(RectifiedFlow(), StudentT(1.0))
    x = np.asarray([[-30.0], [-1.0], [0.5], [200.0]])
    made = jax.jit(exact_flow_map(law, process))(x, 0.8, 0.1)
    stretch = (0.9 * 0.3 + 0.1) / (0.2 * 0.3 + 0.8)
    np.testing.assert_allclose(made, 0.9 * 0.4 + stretch * (x - 0.2 * 0.4), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_closed_form_is_what_the_solver_finds():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    law, process = GaussianLaw.full(rng.normal(size=(2, 2)), root @ root.T / 4), Process(VP())
    x = rng.normal(size=(3, 2, 2))
    closed = jax.jit(exact_flow_map(law, process))(x, 0.8, 0.01)
    np.testing.assert_allclose(
        closed, jax.jit(lambda x: _solved_map(law, process, None, x, 0.8, 0.01))(jnp.asarray(x)), rtol=1e-9
    )


@pytest.mark.usefixtures("x64")
def test_it_carries_one_density_to_the_other():
    """ln p_t(x) = ln p_s(Φ(x)) + ln |det ∇Φ(x)|, in the plane."""
    law, process = mixture(2), Process(RectifiedFlow())
    phi, x = exact_flow_map(law, process), law.sample_marginal(jax.random.key(1), process, 4, 0.9)

    @jax.jit
    def both(x):
        slopes = jax.vmap(jax.jacfwd(lambda y: phi(y[None], 0.9, 0.1)[0]))(x)
        there = law.log_prob(process, phi(x, 0.9, 0.1), 0.1)
        return law.log_prob(process, x, 0.9), there + jnp.linalg.slogdet(slopes)[1]

    np.testing.assert_allclose(*both(x), rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_atoms_have_a_map_at_every_noise_that_jumps_as_the_noise_vanishes():
    law, process = Atoms(np.asarray([[-1.0], [1.0]])), Process(EDM())
    phi = jax.jit(exact_flow_map(law, process))
    x = jnp.asarray([[-2.0], [-0.3], [0.4], [3.0]])
    np.testing.assert_allclose(phi(x, 2.0, 0.3), flow_map_1d(law, process, x, 2.0, 0.3), rtol=1e-8)

    # By a difference: the path from 0 is 0 itself, so that steps chosen for it are too long for its derivative.
    for s in (0.5, 0.3):
        slope = phi(jnp.asarray([[1e-6]]), 2.0, s)[0, 0] / 1e-6
        np.testing.assert_allclose(slope, s / 2 * np.exp(0.5 / s**2 - 0.5 / 4), rtol=1e-4)
    # Two starts a hundred-millionth apart end near two atoms, six standard deviations of what noise is left from them.
    close = jnp.asarray([[-5e-9], [5e-9]])
    ends = phi(close, 2.0, 0.05)
    np.testing.assert_allclose(ends, flow_map_1d(law, process, close, 2.0, 0.05), rtol=1e-3)
    assert ends[1, 0] - ends[0, 0] > 1.4


def test_there_is_no_map_of_atoms_to_no_noise_and_none_of_a_chain():
    law = Atoms(np.asarray([[-1.0], [1.0]]))
    with pytest.raises(ValueError, match="s = 0, where the flow of Atoms jumps"):
        exact_flow_map(law, Process(EDM()))(jnp.ones((1, 1)), 2.0, 0.0)
    with pytest.raises(ValueError, match="t = 0, where the flow of Atoms jumps"):
        exact_flow_map(law, Process(EDM()))(jnp.ones((1, 1)), 0.0, 2.0)
    with pytest.raises(TypeError, match="discrete chain without a flow"):
        exact_flow_map(law, Process(Betas.linear(10)))


def test_float32_is_right_to_two_thousandths():
    law, process = line(), Process(RectifiedFlow())
    x = law.sample_marginal(jax.random.key(0), process, 8, 0.9)
    made = jax.jit(exact_flow_map(law, process))(x, 0.9, 0.0)
    assert made.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = flow_map_1d(law, process, jnp.asarray(x, jnp.float64), 0.9, 0.0)
    np.testing.assert_allclose(made, exact, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("x64")
def test_a_map_that_goes_nowhere_leaves_along_the_velocity():
    """∂_s Φ_{t→s}(x) = v(x, t) and ∂_t Φ_{t→s}(x) = −v(x, t) at s = t, where the solver takes no step at all."""
    law, process = line(), Process(RectifiedFlow())
    x, t = law.sample_marginal(jax.random.key(0), process, 3, 0.7), jnp.full(3, 0.7)
    phi = exact_flow_map(law, process)

    @jax.jit
    def slopes(x, t):
        by_end = jax.jvp(lambda s: phi(x, t, s), (t,), (jnp.ones_like(t),))[1]
        by_start = jax.jvp(lambda s: phi(x, s, t), (t,), (jnp.ones_like(t),))[1]
        return by_end, by_start, velocity(process, law.denoiser(process))(x, t)

    by_end, by_start, flow = slopes(x, t)
    np.testing.assert_allclose(by_end, flow, rtol=1e-10)
    np.testing.assert_allclose(by_start, -flow, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_two_time_denoiser_of_a_law_is_its_denoiser_where_the_times_meet():
    law, process = GaussianLaw.isotropic(np.asarray([0.3, -1.0]), 0.5), Process(VP())
    two_time, x = exact_two_time_denoiser(law, process), jnp.asarray([[0.2, 1.0], [-1.0, 0.4]])
    at = law.denoiser(process)(x, 0.6)
    np.testing.assert_array_equal(two_time(x, 0.6, 0.6), at)
    errors = [float(jnp.max(jnp.abs(two_time(x, 0.6, 0.6 - gap) - at))) for gap in (1e-2, 1e-3)]
    assert 8 < errors[0] / errors[1] < 12  # it is met at first order


@pytest.mark.usefixtures("x64")
def test_a_point_of_no_width_stays_and_has_no_way_back():
    law, process = GaussianLaw.full(np.zeros(2), np.diag([1.0, 0.0])), Process(EDM())
    phi, x = exact_flow_map(law, process), jnp.asarray([[0.3, 0.0]])
    np.testing.assert_array_equal(phi(x, 0.0, 0.0), x)
    np.testing.assert_allclose(phi(x, 2.0, 0.0), [[0.3 / np.sqrt(5), 0.0]], rtol=1e-12)
