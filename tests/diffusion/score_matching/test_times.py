"""Noise levels drawn in equal ratios: `LogUniformSigma`."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Process, RectifiedFlow
from diffusion.score_matching.times import LogUniformSigma


@pytest.mark.parametrize("schedule", [EDM(), VP(), RectifiedFlow()], ids=lambda one: type(one).__name__)
def test_the_logarithm_of_the_noise_is_uniform(schedule, x64):
    """ln(σ/α) at t(u) is a straight line from ln low to ln high, on every schedule."""
    low, high, u = 0.05, 1.2, jnp.linspace(0, 1, 7)
    t = LogUniformSigma(low, high).quantile(Process(schedule), u)
    np.testing.assert_allclose(jnp.exp(-0.5 * schedule.log_snr(t)), np.geomspace(low, high, 7), rtol=1e-10)


def test_the_slope_is_one_over_the_density(x64):
    """Under EDM dt/du = t ln(high/low), as p(σ) = 1/(σ ln(high/low)); its mean is the length of the interval."""
    times, u = LogUniformSigma(0.05, 1.2), (jnp.arange(4000) + 0.5) / 4000
    t, slope = times.quantile(Process(EDM()), u), times.slope(Process(EDM()), u)
    np.testing.assert_allclose(slope, t * np.log(1.2 / 0.05), rtol=1e-12)
    np.testing.assert_allclose(jnp.mean(slope), 1.2 - 0.05, rtol=1e-6)
    np.testing.assert_array_equal(times.correction(u), np.ones(4000))


def test_one_level_stays_that_level_and_times_stay_within_the_process():
    u = jnp.linspace(0.01, 0.99, 9)
    one = np.asarray(LogUniformSigma(0.3, 0.3).quantile(Process(EDM()), u))
    assert len(np.unique(one)) == 1
    np.testing.assert_allclose(one, 0.3, rtol=1e-6)
    wide = LogUniformSigma(0.01, 10.0).quantile(Process(EDM(sigma_min=0.1, sigma_max=1.0)), u)
    assert float(wide.min()) == np.float32(0.1)
    assert float(wide.max()) == 1.0
    with pytest.raises(ValueError, match=r"low = 2\.0 and high = 1\.0"):
        LogUniformSigma(2.0, 1.0)
    with pytest.raises(ValueError, match=r"low = 0\.0"):
        LogUniformSigma(0.0, 1.0)
