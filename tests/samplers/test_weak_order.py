"""Every stochastic sampler reaches its stated weak order, without a single random number in the answer.

On a Gaussian law every step is linear, x_s = c x_t + d + w n. So the mean and the variance of what a sampler makes are
a recursion, m <- c m + d and v <- c² v + w², and they are held against the law's own at the last time.
"""

import jax.numpy as jnp
import pytest

from diffusion import keys as keys_lib
from diffusion.pytree import pytree
from samplers import EulerMaruyama
from tests.samplers.convergence import PROCESSES
from tests.samplers.sde_convergence import WEAK, weak_errors, weak_orders


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("name", WEAK)
def test_observed_weak_order(name, process_name, x64):
    errors = weak_errors(PROCESSES[process_name], WEAK[name])
    mean, variance = weak_orders(errors)
    stated = WEAK[name].stated_order
    assert variance > stated - 0.15, errors
    # A mean may be exact, as ancestral sampling's is where the noise alone is approximated.
    assert mean > stated - 0.15 or errors[:, 0].max() < 1e-12, errors


@pytree
class TooNoisy(EulerMaruyama):
    """Euler-Maruyama with the noise of a diffusion 1% too large, and the right drift."""

    def step(self, keys, x, carry, t, s, process, denoise):
        moved, carry = super().step(keys, x, carry, t, s, process, denoise)
        spread = jnp.sqrt(process.schedule.diffusion_squared(t) * (t - s))
        return moved + 0.01 * spread * keys_lib.normal(keys, x.shape[1:], x.dtype), carry


def test_a_wrong_noise_level_is_found_out(x64):
    """The power of this test: with too much noise by 1% the variance does not converge to the law's."""
    errors = weak_errors(PROCESSES["VP"], TooNoisy())
    assert weak_orders(errors)[1] < 0.85, errors
