"""The sums that all else rests on, and the warning where a jaxlib is known to get them wrong."""

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest

from diffusion.soundness import UNSOUND, warn_if_unsound


def test_fused_sums_are_right_in_every_row():
    """Σ m (y − m) + Σ (y − m)², two reductions that XLA fuses: jaxlib 0.10.2 is wrong from row 32,768 on."""
    rng = np.random.default_rng(0)
    y, m = rng.integers(-8, 8, (128, 1, 4)).astype(np.float32), rng.integers(-8, 8, (1, 600, 4)).astype(np.float32)
    found = jax.jit(lambda y, m: jnp.sum(m * (y - m), -1) + jnp.sum((y - m) ** 2, -1))(y, m)
    np.testing.assert_array_equal(found, (m * (y - m) + (y - m) ** 2).sum(-1))


def test_a_jaxlib_that_sums_wrongly_is_named():
    with pytest.warns(RuntimeWarning, match=r"jaxlib 0\.10\.2 sums large arrays wrongly on a CPU .*; install another"):
        warn_if_unsound(UNSOUND[0])


def test_this_jaxlib_is_not_one_of_them():
    warn_if_unsound(jaxlib.version.__version__)
