"""Second-order Tweedie against the covariances that the oracles find by Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Process, RectifiedFlow, StudentT
from diffusion.likelihood import Exact, Hutchinson
from diffusion.oracles import Atoms, GaussianMixture
from diffusion.tweedie import posterior_covariance, posterior_covariance_from_score, posterior_trace

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
MEANS, WEIGHTS = RNG.normal(size=(3, 3)), np.array([0.2, 0.5, 0.3])
ROOTS = RNG.normal(size=(3, 3, 3))
LAWS = {
    "atoms": Atoms(MEANS, WEIGHTS),
    "mixture": GaussianMixture.full(MEANS, 0.2 * ROOTS @ ROOTS.swapaxes(1, 2), WEIGHTS),
}
SCHEDULES = (VP(), EDM(), RectifiedFlow())
PROBES = Hutchinson(64)
KEY = jax.random.key(0)


@jax.jit
def facts(law, process, x, t):
    """Each quantity by Tweedie, and by the law."""
    denoise = law.denoiser(process)
    return {
        "covariance": posterior_covariance(process, denoise, x, t),
        "from score": posterior_covariance_from_score(process, lambda x, t: law.score(process, x, t), x, t),
        "trace": posterior_trace(process, denoise, x, t),
        "estimate": posterior_trace(process, denoise, x, t, PROBES, key=KEY),
        "law's covariance": law.posterior_covariance(process, x, t),
    }


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", LAWS)
def test_derivatives_of_denoisers_and_scores_are_covariances(name, schedule):
    """Early, midway and late in time, each element at its own."""
    law, process = LAWS[name], Process(schedule)
    t = np.asarray([0.1, 0.3, 0.3, 0.7]) * (2.0 if isinstance(schedule, EDM) else 1.0)
    x = np.random.default_rng(1).normal(size=(4, 3))
    got = facts(law, process, x, t)
    expected = got["law's covariance"]
    trace = np.trace(expected, axis1=1, axis2=2)
    assert np.max(trace) > 1e-2
    np.testing.assert_allclose(got["covariance"], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got["from score"], expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(got["trace"].value, trace, rtol=1e-12, atol=1e-13)
    assert np.all(got["trace"].standard_error == 0)
    value, error = got["estimate"]
    assert np.all(np.abs(value - trace) < 4 * error + 1e-13)
    assert np.max(error) > 0


def skewed(x, t):
    """What no law has for a denoiser: its derivative [[1, 3], [0, 2]] is not symmetric."""
    del t
    flat = x.reshape(len(x), 2)
    return jnp.stack([flat[:, 0] + 3 * flat[:, 1], 2 * flat[:, 1]], axis=-1).reshape(x.shape)


def test_rows_are_outputs_and_columns_inputs_for_events_of_any_shape():
    """(σ²/α) [[1, 3], [0, 2]], and from a score σ²/α² (I + σ² [[1, 3], [0, 2]]); t is a scalar or one for each."""
    process, x, derivative = Process(VP()), jnp.ones((5, 1, 2)), np.array([[1.0, 3.0], [0.0, 2.0]])

    @jax.jit
    def measure(t):
        by_tweedie = [
            tweedie(process, skewed, x, t) for tweedie in (posterior_covariance, posterior_covariance_from_score)
        ]
        trace = posterior_trace(process, skewed, x, t, Exact(block=1)).value
        return process.alpha(t), process.schedule.variance(t), *by_tweedie, trace

    for t in (np.asarray(0.3), np.linspace(0.1, 0.5, 5)):
        *coefficients, got, from_score, trace = (np.asarray(value) for value in measure(t))
        alpha, variance = (np.reshape(value, (-1, 1, 1)) for value in coefficients)
        assert got.shape == (5, 2, 2)
        np.testing.assert_allclose(got, np.broadcast_to(variance / alpha * derivative, (5, 2, 2)), rtol=1e-12)
        expected = variance / alpha**2 * (np.eye(2) + variance * derivative)
        np.testing.assert_allclose(from_score, np.broadcast_to(expected, (5, 2, 2)), rtol=1e-12)
        expected = np.broadcast_to(3 * (variance / alpha)[:, 0, 0], 5)
        np.testing.assert_allclose(trace, expected, rtol=1e-12)


def test_estimates_depend_on_key_and_id_alone():
    process, x = Process(EDM()), jnp.ones((5, 1, 2))
    estimate = jax.jit(lambda x, ids: posterior_trace(process, skewed, x, 0.5, PROBES, key=KEY, ids=ids))
    whole, part = estimate(x, np.arange(5)), estimate(x[1:3], np.arange(1, 3))
    np.testing.assert_array_equal(part.value, whole.value[1:3])
    assert len(np.unique(whole.value)) > 1
    with pytest.raises(TypeError, match="key = None, and Hutchinson draws probes"):
        posterior_trace(process, skewed, x, 0.5, PROBES)


@pytest.mark.parametrize("function", [posterior_covariance, posterior_covariance_from_score, posterior_trace])
def test_heavy_tails_have_no_such_formula(function):
    with pytest.raises(TypeError, match="exists for Gaussian noise only, and the noise is StudentT"):
        function(Process(EDM(), StudentT(3.0)), skewed, jnp.ones((1, 2)), 0.5)
