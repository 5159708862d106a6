"""Float64 on the host, within anything."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.host import host_float64


def test_it_is_the_first_cpu_in_float64_within_a_jit_too():
    first = jax.local_devices(backend="cpu")[0]

    def third(x):
        with host_float64():
            number = jnp.asarray(1.0) / 3
            assert number.dtype == jnp.float64
            assert number.devices() == {first}
            assert float(number) == 1 / 3
        return x * np.float32(number)

    assert jnp.asarray(1.0).dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(third)(jnp.asarray(3.0)), 1.0, rtol=1e-6)
