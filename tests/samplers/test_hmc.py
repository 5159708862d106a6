"""Hamiltonian Monte Carlo: volume, reversibility and energy of the leapfrog, and the law that is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Process
from diffusion import keys as keys_lib
from samplers import hmc_step, leapfrog, mala_step
from tests.samplers.langevin_laws import LAW, SIGMA, exact_moments, log_p, standardised
from tests.samplers.programs import marginal


def log_density(x):
    """No Gaussian: a narrow valley along a parabola."""
    return -0.5 * x[:, 0] ** 2 - 2 * (x[:, 1] - x[:, 0] ** 2) ** 2


def gradient(x):
    return jax.grad(lambda y: jnp.sum(log_density(y)))(x)


@jax.jit
def hamiltonian(x, v):
    return -log_density(x) + 0.5 * jnp.sum(v**2, -1)


# Each in one program for all sizes; the functions and the number of leapfrogs are compiled in.
path, hmc, mala = (
    jax.jit(leapfrog, static_argnums=(0, 4)),
    jax.jit(hmc_step, static_argnums=(2, 4)),
    jax.jit(mala_step, static_argnums=2),
)


@pytest.fixture
def states():
    rng = np.random.default_rng(0)
    return jax.device_put((rng.normal(size=(5, 2)) / 2, rng.normal(size=(5, 2))))


def test_the_leapfrog_keeps_volume_and_is_its_own_inverse(x64, states):
    """det ∂(x', v')/∂(x, v) = 1; with v turned round the same steps lead back. Each state has its own size."""
    sizes = np.asarray([0.05, 0.1, 0.2, 0.3, 0.4])

    def flow(z, size):
        x, v = path(gradient, z[None, :2], z[None, 2:], size, 7)
        return jnp.concatenate([x[0], v[0]])

    volumes = np.linalg.det(jax.jit(jax.vmap(jax.jacfwd(flow)))(np.concatenate(states, 1), sizes))
    np.testing.assert_allclose(volumes, 1, rtol=1e-9)
    x, v = path(gradient, *states, sizes, 7)
    back, turned = path(gradient, x, -np.asarray(v), sizes, 7)
    np.testing.assert_allclose(back, states[0], rtol=1e-9)
    np.testing.assert_allclose(turned, -np.asarray(states[1]), rtol=1e-9)


def test_the_error_of_the_energy_is_of_second_order_and_so_is_that_of_the_path(x64, states):
    """Over the same time 0.8 with steps halved; the acceptance of a step of any number of leapfrogs follows."""
    sizes = 0.8 / np.asarray([40, 80, 160])
    ends = [path(gradient, *states, size, round(0.8 / size)) for size in (*sizes, 0.8 / 5120)]
    energies, start = [np.asarray(hamiltonian(*end)) for end in ends[:-1]], np.asarray(hamiltonian(*states))
    places = [np.asarray(end[0]) for end in ends]
    for errors in (
        [np.abs(energy - start) for energy in energies],
        [np.linalg.norm(place - places[-1], axis=-1) for place in places[:-1]],
    ):
        orders = np.log2(np.asarray(errors)[:-1] / np.asarray(errors)[1:])
        np.testing.assert_allclose(orders, 2, atol=0.1)


def test_one_leapfrog_is_mala(x64, states):
    """Of η = ε², draw by draw, accepted or not."""
    x, keys = jax.device_put(np.tile(states[0], (40, 1))), keys_lib.as_keys(jax.random.key(1), 200)
    found, expected = hmc(keys, x, log_density, 0.6, 1), mala(keys, x, log_density, 0.36)
    np.testing.assert_array_equal(found.accepted, expected.accepted)
    assert 0.3 < np.mean(found.accepted) < 0.95
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-12)


def test_a_step_is_a_push_a_path_and_a_question(x64, states):
    """Written out for each sample by itself; a sample does not depend on its neighbours."""
    keys, sizes = keys_lib.as_keys(jax.random.key(2), 5), np.asarray([0.1, 0.2, 0.3, 0.5, 0.8])
    found = hmc(keys, states[0], log_density, sizes, 4)
    v = keys_lib.normal(keys_lib.fold(keys, 0), (2,))
    end = path(gradient, states[0], v, sizes, 4)
    chance = np.exp(np.asarray(hamiltonian(states[0], v)) - np.asarray(hamiltonian(*end)))
    accepted = np.asarray(keys_lib.uniform(keys_lib.fold(keys, 1))) < chance
    np.testing.assert_array_equal(found.accepted, accepted)
    np.testing.assert_allclose(found.x, np.where(accepted[:, None], end[0], states[0]), rtol=1e-12)
    alone = hmc(keys[3:4], np.asarray(states[0])[3:4], log_density, 0.5, 4)
    np.testing.assert_allclose(np.asarray(alone.x)[0], np.asarray(found.x)[3], rtol=1e-12)


def test_it_leaves_a_law_alone_at_any_size():
    """From an exact start, with leapfrogs whose energies are far off; without the question the law changes."""
    count, size = 20_000, 0.75
    start = marginal(LAW, jax.random.key(3), Process(EDM()), count, SIGMA)

    @jax.jit
    def adjusted(x):
        keys = keys_lib.as_keys(jax.random.key(4), count)

        def one(i, y):
            return hmc_step(keys_lib.fold(keys, i), y, log_p, size, 4).x

        return jax.lax.fori_loop(0, 4, one, x)

    @jax.jit
    def unadjusted(x):
        keys = keys_lib.as_keys(jax.random.key(4), count)

        def one(i, y):
            v = keys_lib.normal(keys_lib.fold(keys, i), (2,))
            return leapfrog(jax.grad(lambda z: jnp.sum(log_p(z))), y, v, size, 4)[0]

        return jax.lax.fori_loop(0, 4, one, x)

    end, biased = np.asarray(adjusted(start)), np.asarray(unadjusted(start))
    for moment, exact in exact_moments():
        assert abs(standardised(moment(end), exact)) < 4
    assert max(abs(standardised(moment(biased), exact)) for moment, exact in exact_moments()) > 10
    moved = np.mean(np.any(end != np.asarray(start), axis=1))
    assert moved > 0.9


def test_what_has_no_density_is_rejected_and_no_leapfrog_refused():
    x, keys = jnp.ones((8, 1)), keys_lib.as_keys(jax.random.key(0), 8)
    out = hmc(keys, x, lambda y: jnp.where(y[:, 0] == 1, 0.0, jnp.nan), 0.1, 3)
    assert not np.asarray(out.accepted).any()
    np.testing.assert_array_equal(out.x, x)
    with pytest.raises(ValueError, match="leapfrogs = 0; give at least 1"):
        hmc_step(keys, x, lambda y: y[:, 0], 0.1, 0)
