"""Draws in the types of networks have the moments of their laws, and the tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import Gaussian, StudentT, draws
from diffusion import keys as keys_lib
from diffusion.brownian import BrownianIncrement

COUNT = 100_000


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=str)
def test_normal_draws_are_those_of_float32_rounded(dtype):
    """Drawn in bfloat16 itself they have the mean −0.010, which is three standard errors here, and end at 2.6."""
    drawn = np.asarray(Gaussian().sample(jax.random.key(0), (COUNT, 1), dtype), np.float64)
    assert abs(drawn.mean()) < 3 / np.sqrt(COUNT)
    assert abs(drawn.std() - 1) < 3 / np.sqrt(2 * COUNT)
    assert drawn.max() > 3.5
    exact = Gaussian().sample(jax.random.key(0), (COUNT, 1), jnp.float32)
    np.testing.assert_array_equal(drawn, np.asarray(exact.astype(dtype), np.float64))


def test_uniform_draws_stay_below_one():
    """Rounding to eight bits would carry one in 512 to 1, where ln(1 − u) is infinite."""
    drawn = np.asarray(draws.uniform(jax.random.key(0), (COUNT,), jnp.bfloat16), np.float64)
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 3 / np.sqrt(12 * COUNT)


def test_heavy_tails_and_brownian_paths_are_drawn_in_float32_too():
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(4, dtype=jnp.uint32))
    for draw in (
        lambda dtype: StudentT(2.0).sample(keys, (4, 3), dtype),
        lambda dtype: BrownianIncrement(keys, keys, jnp.float32(0.7), jnp.float32(0.6)).normal((3,), dtype),
    ):
        assert draw(jnp.bfloat16).dtype == jnp.bfloat16
        np.testing.assert_array_equal(draw(jnp.bfloat16), draw(jnp.float32).astype(jnp.bfloat16))
