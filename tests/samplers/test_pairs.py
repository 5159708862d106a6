"""Guidance of models that learn a variance, and guidance that is rescaled or normalised."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import VP, Process
from diffusion.arrays import expand
from diffusion.ddpm import Learned, mean_denoiser
from diffusion.dynamics import reverse_sde, velocity
from diffusion.likelihood import FixedStep, decode, encode, even_grid, log_likelihood
from diffusion.oracles import GaussianMixture
from diffusion.poisson import denoiser_flow
from diffusion.prediction import score
from diffusion.score_matching import denoising_terms
from diffusion.tweedie import posterior_covariance, posterior_trace
from samplers import (
    CFGPP,
    DDIM,
    Ancestral,
    Heun,
    Measurement,
    Replacement,
    autoguidance,
    classifier_free_guidance,
    classifier_guidance,
    conditional_pair,
    dps_guidance,
    interval_guidance,
    invert,
    pseudoinverse_guidance,
    rescaled_guidance,
    sample,
    sample_parallel,
    uniform_time,
)
from samplers.adaptive import sample_adaptive

PROCESS = Process(VP())
MODEL, FREE = (
    GaussianMixture.isotropic(np.asarray([means]), 0.4).denoiser(PROCESS) for means in ([1.0, 0.5], [0.0, 0.0])
)
Y = Measurement(np.eye(2), np.asarray([0.5, -0.5]), 0.3)


@pytest.fixture
def at(x64):
    """(x, t) in float64."""
    return jnp.asarray([[0.3, -0.2], [1.0, 2.0]]), jnp.asarray([0.4, 0.4])


def with_variance(denoise, v):
    return lambda x, t: (denoise(x, t), jnp.full_like(x, v))


GUIDED = {
    "classifier-free": lambda model, free: classifier_free_guidance(model, free, 2.0),
    "auto": lambda model, free: autoguidance(model, free, 2.0),
    "interval": lambda model, free: interval_guidance(PROCESS, model, free, 2.0, 0.0, 50.0),
    "rescaled": lambda model, free: rescaled_guidance(model, free, 2.0),
    "classifier": lambda model, free: classifier_guidance(PROCESS, model, lambda x, t: -jnp.sum(x**2, axis=1)),
    "dps": lambda model, free: dps_guidance(PROCESS, model, Y),
    "normalised dps": lambda model, free: dps_guidance(PROCESS, model, Y, normalised=True),
    "pseudoinverse": lambda model, free: pseudoinverse_guidance(PROCESS, model, Y),
}


@pytest.mark.parametrize("name", GUIDED)
def test_the_mean_is_guided_and_the_variance_stays_the_models(name, at):
    both = GUIDED[name](with_variance(MODEL, 0.25), with_variance(FREE, 0.75))
    x_0, v = jax.jit(both)(*at)
    np.testing.assert_array_equal(v, np.full((2, 2), 0.25))
    np.testing.assert_allclose(x_0, GUIDED[name](MODEL, FREE)(*at), rtol=1e-12)


def test_a_pair_is_for_samplers_that_take_it():
    pair, grid = with_variance(MODEL, 0.5), uniform_time(PROCESS, 3)
    for sampler in (DDIM(), Replacement(DDIM(), np.zeros(2), np.asarray([True, False]))):
        with pytest.raises(TypeError, match=r"takes x̂_0 alone; give mean_denoiser\(denoise\)"):
            sample(jax.random.key(0), PROCESS, pair, sampler, grid, (2, 2))
    alone = sample(jax.random.key(0), PROCESS, MODEL, DDIM(), grid, (2, 2)).x
    np.testing.assert_array_equal(
        sample(jax.random.key(0), PROCESS, mean_denoiser(pair), DDIM(), grid, (2, 2)).x, alone
    )
    assert sample(jax.random.key(0), PROCESS, pair, Ancestral(Learned()), grid, (2, 2)).x.shape == (2, 2)


X, T, GRID = jnp.asarray([[0.3, -0.2], [1.0, 2.0]]), jnp.asarray([0.4, 0.4]), uniform_time(PROCESS, 3)
SPAN, KEY = FixedStep(even_grid(PROCESS, 2)), jax.random.key(0)
PLACES = [
    ("CFGPP", lambda d: sample(KEY, PROCESS, conditional_pair(d, MODEL), CFGPP(0.5), GRID, (2, 2))),
    ("CFGPP", lambda d: sample(KEY, PROCESS, conditional_pair(MODEL, d), CFGPP(0.5), GRID, (2, 2))),
    ("DDIM", lambda d: sample_parallel(KEY, PROCESS, d, DDIM(), GRID, (2, 2))),
    ("Heun", lambda d: invert(PROCESS, d, X, Heun(), GRID[:-1])),
    ("an adaptive solver", lambda d: sample_adaptive(KEY, PROCESS, d, diffrax.Tsit5(), (2, 2))),
    ("an adaptive solver", lambda d: sample_adaptive(KEY, PROCESS, d, diffrax.Kvaerno3(), (2, 2))),
    ("the probability-flow velocity", lambda d: velocity(PROCESS, d)(X, T)),
    ("the probability-flow velocity", lambda d: log_likelihood(PROCESS, d, X, solver=SPAN)),
    ("the probability-flow velocity", lambda d: encode(PROCESS, d, X, solver=SPAN)),
    ("the probability-flow velocity", lambda d: decode(PROCESS, d, X, solver=SPAN)),
    ("the score", lambda d: score(PROCESS, d)(X, T)),
    ("the reverse SDE", lambda d: reverse_sde(PROCESS, d).drift(X, T)),
    ("the posterior covariance", lambda d: posterior_covariance(PROCESS, d, X, T)),
    ("the posterior variance", lambda d: posterior_trace(PROCESS, d, X, T)),
    ("the flow", lambda d: denoiser_flow(d)(X, 1.0)),
    ("denoising score matching", lambda d: denoising_terms(KEY, PROCESS, d, X)),
]
"""What takes no variance, as the sentence calls it."""


@pytest.mark.parametrize(("who", "use"), PLACES)
def test_a_learned_variance_is_refused_in_one_sentence_wherever_it_is_not_taken(who, use, as_users_call_it):
    del as_users_call_it
    with pytest.raises(TypeError) as raised:
        use(with_variance(MODEL, 0.5))
    assert str(raised.value) == (
        f"the denoiser answers with a pair, a learned variance beside x̂_0, and {who} takes x̂_0 alone; "
        "give mean_denoiser(denoise), or sample by Ancestral(Learned()), which takes both."
    )


def test_rescaled_guidance_restores_the_spread_of_each_answer(at):
    """φ = 1 has the conditional model's standard deviation, φ = 0 is plain guidance, between them it is linear."""
    spread = lambda answer: np.std(np.asarray(answer), axis=1)  # noqa: E731
    plain = classifier_free_guidance(MODEL, FREE, 5.0)(*at)
    assert (spread(plain) > 1.05 * spread(MODEL(*at))).any()
    whole = rescaled_guidance(MODEL, FREE, 5.0, 1.0)(*at)
    np.testing.assert_allclose(spread(whole), spread(MODEL(*at)), rtol=1e-12)
    np.testing.assert_allclose(rescaled_guidance(MODEL, FREE, 5.0, 0.0)(*at), plain, rtol=1e-12)
    part = rescaled_guidance(MODEL, FREE, 5.0, jnp.asarray([0.3, 0.7]))(*at)
    phi = np.asarray([[0.3], [0.7]])
    np.testing.assert_allclose(part, phi * whole + (1 - phi) * plain, rtol=1e-12)
    with pytest.raises(ValueError, match="rescale = 2; give 0"):
        rescaled_guidance(MODEL, FREE, 5.0, 2)


def test_normalised_dps_shifts_by_the_gradient_of_the_distance(at):
    """−w (σ²/α) ∇|y − A x̂_0|: the square over its root, so σ_y has no part in it, and it may be 0."""
    exact = Measurement(Y.observe, Y.observed, 0.0)
    shifted = dps_guidance(PROCESS, MODEL, exact, 0.3, normalised=True)(*at)
    gradient = jax.grad(lambda x: jnp.sum(jnp.linalg.norm(exact.residual(MODEL(x, at[1])), axis=1)))(at[0])
    factor = PROCESS.schedule.variance(at[1]) / PROCESS.alpha(at[1])
    np.testing.assert_allclose(shifted, MODEL(*at) - 0.3 * expand(factor, at[0]) * gradient, rtol=1e-10)
    with pytest.raises(ValueError, match="or normalised=True"):
        dps_guidance(PROCESS, MODEL, exact)
    met = Measurement(np.eye(2), MODEL(*at), 0.0)
    np.testing.assert_array_equal(dps_guidance(PROCESS, MODEL, met, normalised=True)(*at), MODEL(*at))


@pytest.mark.parametrize("size", [1, 3, 48, 3072])
def test_a_flat_answer_has_no_spread_to_restore(size):
    """From α = 0 a denoiser may answer with one number everywhere: there the spreads are rounding, and so is their
    quotient. Nearly flat answers, which differ by rounding alone, and one flat answer of the two, are treated alike."""
    x, t = np.zeros((2, size), np.float32), 0.5
    rounded = np.float32(0.3) * (1 + np.finfo(np.float32).eps * (np.arange(2 * size).reshape(2, size) % 2))
    flat, free = (lambda x, t: 0 * x + 0.3), (lambda x, t: 0 * x - 0.17)
    rough, uneven = (lambda x, t: jnp.asarray(rounded, x.dtype)), (lambda x, t: jnp.linspace(0.1, 0.9, size) + 0 * x)
    for model, weak in ((flat, free), (rough, free), (free, rough), (flat, uneven)):
        plain = np.asarray(model(x, t), np.float64), np.asarray(weak(x, t), np.float64)
        expected = plain[1] + 7.5 * (plain[0] - plain[1])
        found = rescaled_guidance(model, weak, 7.5, 1.0)(jnp.asarray(x), t)
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6)


def test_an_event_of_one_number_has_the_gradient_of_plain_guidance():
    """0.2 x + 3 (0.5 − 0.2) x: the square root of a variance that is 0 has no part in it."""
    guided = rescaled_guidance(lambda x, t: 0.5 * x, lambda x, t: 0.2 * x, 3.0)
    np.testing.assert_allclose(jax.grad(lambda x: guided(x, 0.5).sum())(jnp.ones((2, 1))), 1.1, rtol=1e-6)
