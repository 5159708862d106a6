"""The Fokker-Planck equation by test functions (identity row 20): unbiased, with error bars that hold and a p-value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import EDM, VP, Process, RectifiedFlow, SubVP
from diffusion.fokker_planck import (
    Cosines,
    FokkerPlanck,
    GaussianBumps,
    Monomials,
    coupled_paths,
    forward_equation,
    generator,
    hotelling,
    weak_residual,
)
from diffusion.oracles import GaussianMixture

PROCESSES = {
    "VP": (Process(VP()), 0.4),
    "SubVP": (Process(SubVP()), 0.4),
    "EDM": (Process(EDM()), 0.7),
    "RectifiedFlow": (Process(RectifiedFlow()), 0.4),
}
COUNT = 4000


def law(dim=2):
    rng = np.random.default_rng(0)
    return GaussianMixture.isotropic(
        means=rng.normal(size=(3, dim)), stds=np.asarray([0.4, 0.6, 0.5]), weights=np.asarray([0.2, 0.5, 0.3])
    )


FAMILIES = ("cosines", "bumps", "monomials")


@functools.cache
def family(name):
    rng = np.random.default_rng(1)
    if name == "cosines":
        return Cosines.random(jax.random.key(3), 8, 2, 0.7)
    if name == "bumps":
        return GaussianBumps(rng.normal(size=(4, 2)), np.linspace(0.6, 1.2, 4))
    return Monomials.up_to(3, 2)


def samples(count=COUNT):
    """The x_0 and z of paths."""
    rng, data = np.random.default_rng(2), law()
    x_0 = rng.choice(3, count, p=data.weights)
    x_0 = data.means[x_0] + np.sqrt(data.floor)[x_0, None] * rng.normal(size=(count, 2))
    return x_0, rng.normal(size=(count, 2))


def residual(process, functions, x_0, z, t, step=1e-3, drift=1.0, spread=1.0):
    """Of the process's own equation where the factors of its drift and its spread are 1."""
    return jax.device_get(residual_in_one(process, functions, x_0, z, t, step, drift, spread))


@jax.jit
def residual_in_one(process, functions, x_0, z, t, step, drift, spread):
    true = forward_equation(process)
    equation = FokkerPlanck(lambda x, t: drift * true.drift(x, t), lambda x, t: spread * true.spread(x, t))
    return weak_residual(equation, coupled_paths(process, x_0, z), functions, t, step=step)


@pytest.mark.parametrize(
    ("name", "family_name"), [("VP", it) for it in FAMILIES] + [(it, "cosines") for it in PROCESSES if it != "VP"]
)
def test_samples_of_the_process_obey_the_equation(x64, name, family_name):
    process, t = PROCESSES[name]
    found = residual(process, family(family_name), *samples(), t)
    assert np.all(np.abs(found.value) < 4 * found.standard_error)
    assert np.all(np.abs(found.discretisation) < 0.01 * found.standard_error)
    assert found.p_value > 1e-4


@pytest.mark.parametrize("family_name", FAMILIES)
def test_a_wrong_equation_is_seen_by_every_family(x64, family_name):
    """Power: 10% of g too much, at 4,000 samples; and the drift's sign."""
    process, t = PROCESSES["VP"]
    for wrong in ({"spread": 1.1}, {"drift": -1.0}):
        found = residual(process, family(family_name), *samples(), t, **wrong)
        assert np.abs(found.value / found.standard_error).max() > 4
        assert found.p_value < 1e-4


def test_gaussian_data_and_cosines_need_no_samples(x64):
    """E cos(k x + c) = e^{−k²v/2} cos(k m + c): both sides by quadrature, to rounding."""
    process, t = PROCESSES["VP"]
    mean, variance = 0.7, 0.3
    functions = Cosines(jnp.asarray([[0.5], [1.3], [2.0]]), jnp.asarray([0.0, 0.4, 1.0]))
    k, c = functions.frequencies[:, 0], functions.phases

    def moments(u):
        return process.alpha(u) * mean, process.alpha(u) ** 2 * variance + process.sigma(u) ** 2

    def expectation(u):
        m, v = moments(u)
        return jnp.exp(-0.5 * k**2 * v) * jnp.cos(k * m + c)

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    @jax.jit
    def both(t):
        m, v = moments(t)
        x = m + jnp.sqrt(v) * jnp.asarray(nodes)[:, None]
        right = jnp.asarray(weights / weights.sum()) @ generator(forward_equation(process), functions, x, t)
        return jax.jvp(expectation, (t,), (jnp.ones(()),))[1], right

    left, right = both(np.asarray(t))
    np.testing.assert_allclose(left, right, rtol=1e-11)


def test_what_is_removed_is_of_second_order_and_what_is_left_of_fourth(x64):
    """Half the step leaves a quarter of the one and a sixteenth of the other, sample noise held."""
    process, t = PROCESSES["SubVP"]
    # With the Monte-Carlo error the same in all, differences of residuals are those of the discretisation.
    found = [residual(process, family("cosines"), *samples(200), t, step=h) for h in (0.04, 0.02, 0.01)]
    removed = [np.abs(one.discretisation).max() for one in found]
    left = [np.abs(found[i].value - found[i + 1].value).max() for i in range(2)]
    np.testing.assert_allclose(np.log2(removed[1] / removed[2]), 2, atol=0.1)
    np.testing.assert_allclose(np.log2(left[0] / left[1]), 4, atol=0.15)


def test_p_values_are_uniform_when_the_equation_holds(x64):
    """Kolmogorov-Smirnov over 200 sets of 300 samples."""
    process, t = PROCESSES["EDM"]
    data, functions, equation = law(), family("cosines"), forward_equation(process)

    def p_value(key):
        x_0 = data.sample(key, 300)
        z = process.noise.sample(jax.random.fold_in(key, 7), x_0.shape)
        return weak_residual(equation, coupled_paths(process, x_0, z), functions, t).p_value

    found = jax.jit(lambda keys: jax.lax.map(p_value, keys))(jax.random.split(jax.random.key(5), 200))
    assert scipy.stats.kstest(np.asarray(found), "uniform").pvalue > 1e-3


def test_hotelling_is_scipy_s_law_and_leaves_out_what_does_not_vary(x64):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3)) + 0.2
    mean, covariance = values.mean(axis=0), np.cov(values.T)
    squared = 50 * mean @ np.linalg.solve(covariance, mean)
    expected = scipy.stats.f.sf(squared * (50 - 3) / (3 * 49), 3, 47)
    p_value = jax.jit(hotelling)
    np.testing.assert_allclose(p_value(values), expected, rtol=1e-10)
    twice = np.concatenate([values, values[:, :1], np.zeros((50, 1))], axis=1)
    np.testing.assert_allclose(p_value(twice), expected, rtol=1e-8)


def test_the_generator_of_monomials_is_that_of_the_moments(x64):
    """L x_i = f_i, L x_i x_j = f_i x_j + f_j x_i + (G Gᵀ)_ij, for a full G, at zeros and negative numbers too."""
    G = np.asarray([[0.5, 0.2], [-0.3, 0.8]])
    equation = FokkerPlanck(lambda x, t: jnp.sin(x), lambda x, t: jnp.broadcast_to(G, (x.shape[0], 2, 2)))
    x = np.asarray([[0.0, -1.5], [0.7, 0.0], [-2.0, 1.0]])
    functions = Monomials.up_to(2, 2)
    np.testing.assert_array_equal(functions.powers, [[1, 0], [0, 1], [2, 0], [1, 1], [0, 2]])
    f, Q = np.sin(x), G @ G.T
    expected = np.stack(
        [
            f[:, 0],
            f[:, 1],
            2 * f[:, 0] * x[:, 0] + Q[0, 0],
            f[:, 0] * x[:, 1] + f[:, 1] * x[:, 0] + Q[0, 1],
            2 * f[:, 1] * x[:, 1] + Q[1, 1],
        ],
        axis=1,
    )
    found = jax.jit(lambda x: generator(equation, functions, x, 0.3))(x)
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_many_dimensions_are_estimated_without_bias(x64):
    """80 dimensions: the mean over keys is Σ_k of the second derivatives, known for cosines: −|k|² cos."""
    process, t = PROCESSES["EDM"]
    functions = Cosines.random(jax.random.key(0), 3, 80, 0.2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 80)))
    equation = forward_equation(process)

    @jax.jit
    def both(keys):
        g = equation.spread(x, t)
        exact = -0.5 * g**2 * jnp.sum(functions.frequencies**2, axis=1) * functions(x)
        return jax.vmap(lambda key: generator(equation, functions, x, t, key=key, probes=4))(keys), exact

    found, exact = jax.device_get(both(jax.random.split(jax.random.key(2), 300)))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - exact) < 4 * error)
    with pytest.raises(TypeError, match="in 80 dimensions"):
        generator(equation, functions, x, t)


def test_too_few_samples_are_refused(x64):
    process, t = PROCESSES["VP"]
    with pytest.raises(ValueError, match="9 samples for 8 test functions; give at least 10"):
        residual(process, family("cosines"), *samples(9), t)
    with pytest.raises(ValueError, match="degree = 0"):
        Monomials.up_to(0, 2)
    for powers in ([[16.0]], [[1.5]], [[-1.0]]):
        with pytest.raises(ValueError, match="whole numbers of 0 to 15"):
            Monomials(jnp.asarray(powers))
    assert float(Monomials(jnp.asarray([[15.0]]))(jnp.asarray([[2.0]]))[0, 0]) == 2.0**15


def test_a_violation_without_noise_is_certain(x64):
    """A residual that is the same for all samples and not 0: there is nothing that it could be by chance."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(50, 1)), np.full((50, 1), 0.5)], axis=1)
    p_value = jax.jit(hotelling)
    assert p_value(values) == 0
    assert p_value(np.ones((50, 1))) == 0


def test_coupled_paths_are_those_of_the_points_that_are_given():
    process, rng = Process(VP()), np.random.default_rng(0)
    x_0, z = rng.normal(size=(2, 5, 3))
    alpha, sigma = float(process.alpha(0.4)), float(process.sigma(0.4))
    found = coupled_paths(process, jnp.asarray(x_0), jnp.asarray(z))(jnp.asarray(0.4))
    np.testing.assert_allclose(found, alpha * x_0 + sigma * z, atol=1e-6)


def test_hotelling_counts_copies_of_a_column_once():
    """The largest of 64 equal columns' eigenvalues is 64, and the others are the rounding of that."""
    column = np.random.default_rng(1).normal(size=(50, 1)) + 0.3
    p_value = jax.jit(hotelling)
    np.testing.assert_allclose(p_value(jnp.tile(column, 64)), p_value(jnp.asarray(column)), rtol=1e-3)
