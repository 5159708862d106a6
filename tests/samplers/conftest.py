"""Laws whose flows are known, and grids that refine smoothly."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.oracles import GaussianMixture
from samplers.grids import host_float64


@pytest.fixture(scope="session")
def mixture():
    """Two well separated, unequal humps on the line."""
    return GaussianMixture.isotropic(
        means=np.asarray([[-1.0], [1.5]]), stds=np.asarray([0.3, 0.5]), weights=np.asarray([0.35, 0.65])
    )


@pytest.fixture(scope="session")
def mixture_8d():
    """Three humps in eight dimensions."""
    rng = np.random.default_rng(0)
    return GaussianMixture.isotropic(
        means=rng.normal(size=(3, 8)), stds=np.asarray([0.4, 0.6, 0.5]), weights=np.asarray([0.2, 0.5, 0.3])
    )


@pytest.fixture(scope="session")
def log_snr_grid():
    """A grid of n even steps in log-SNR between two finite noise-to-signal ratios, without the data's end."""

    def build(process, steps, high=5.0, low=0.05):
        with host_float64():
            log_snr = -2 * np.log(np.geomspace(high, low, steps + 1))
            return np.asarray(process.schedule.time_from_log_snr(jnp.asarray(log_snr)))

    return build
