"""The virtual Brownian tree: a path with the covariance of Brownian motion, at any times, in any order."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import keys as keys_lib
from diffusion.brownian import BrownianIncrement, brownian
from diffusion.distributions import Normal

KEYS = 4000


def test_the_covariance_is_that_of_brownian_motion(x64):
    """min(u, v), for times on and off the dyadic ones, far and near; and it does find a wrong bridge."""
    times = np.asarray([0.0, 1e-5, 0.1, 0.1003, 0.25, 0.25001, 1 / 3, 0.5, 0.500001, 0.7512, 1.0])
    keys = jax.random.split(jax.random.key(0), KEYS)
    paths = np.asarray(jax.jit(jax.vmap(lambda key: jax.vmap(lambda u: brownian(key, u))(times)))(keys))
    assert np.all(paths[:, 0] == 0)
    increments = np.diff(paths, axis=1)
    squares = np.mean(increments**2, axis=0) / np.diff(times)
    # A mean of n squares of N(0, 1) has the standard error √(2/n); the tree's leaves are 2⁻²⁰ long.
    assert np.all(np.abs(squares - 1) < 4 * np.sqrt(2 / KEYS)), squares
    correlation = np.corrcoef(increments.T) - np.eye(increments.shape[1])
    assert np.abs(correlation).max() < 4.5 / np.sqrt(KEYS)


def test_a_path_is_a_function_of_its_key_alone():
    keys = keys_lib.sample_keys(jax.random.key(3), jnp.asarray([5, 9]))
    path = lambda key: brownian(key, 0.3, (2,))  # noqa: E731
    alone, both = jax.device_get(jax.jit(lambda keys: (path(keys[1]), jax.vmap(path)(keys)))(keys))
    np.testing.assert_allclose(alone, both[1], rtol=1e-6)
    assert not np.allclose(both[0], both[1])


def test_increments_add_up_and_stand_in_the_place_of_keys(x64):
    keys = keys_lib.sample_keys(jax.random.key(3), jnp.arange(4))
    paths = keys_lib.fold(keys, 17)

    @jax.jit
    def measure(start, end):
        increment = BrownianIncrement(keys, paths, start, end)
        drawn = Normal(jnp.ones((4, 3)), jnp.asarray(2.0)).sample(increment)
        folded = [jax.random.key_data(keys_lib.fold(it, 3)) for it in (increment, keys)]
        return keys_lib.normal(increment, (3,)), drawn, folded

    def between(start, end):
        normal, *rest = jax.device_get(measure(np.asarray(start), np.asarray(end)))
        return normal * np.sqrt(start - end), normal, *rest

    whole, normal, drawn, folded = between(0.9, 0.2)
    np.testing.assert_allclose(whole, between(0.9, 0.55)[0] + between(0.55, 0.2)[0], atol=1e-12)
    np.testing.assert_array_equal(*folded)
    np.testing.assert_allclose(drawn, 1 + 2 * normal, rtol=1e-12)
