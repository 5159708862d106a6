"""Fokker-Planck and continuity residuals (identity rows 19, 22): zero for the law of the equation, and no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from diffusion import EDM, VP, Process, RectifiedFlow, StudentT, SubVP, fokker_planck, score, velocity
from diffusion.fokker_planck import (
    FokkerPlanck,
    flow_equation,
    forward_equation,
    gradient,
    probability_flux,
    probability_velocity,
    reverse_equation,
)
from diffusion.likelihood.divergence import Exact, Hutchinson
from diffusion.oracles import GaussianMixture, StudentTMixture


def in_one_program(measure):
    """The same residual, compiled as a whole: operation by operation the derivatives are hundreds of programs."""

    @functools.wraps(measure)
    def compiled(equation, law, x, t, **options):
        return jax.jit(lambda x: measure(equation, law, x, t, **options))(x)

    return compiled


continuity_residual, density_residual, log_density_residual, score_residual = map(
    in_one_program,
    (
        fokker_planck.continuity_residual,
        fokker_planck.density_residual,
        fokker_planck.log_density_residual,
        fokker_planck.score_residual,
    ),
)
PROCESSES = {
    "VP": (Process(VP()), 0.4),
    "SubVP": (Process(SubVP()), 0.4),
    "EDM": (Process(EDM()), 0.7),
    "RectifiedFlow": (Process(RectifiedFlow()), 0.4),
}


def law(dim):
    rng = np.random.default_rng(0)
    return GaussianMixture.isotropic(
        means=rng.normal(size=(3, dim)), stds=np.asarray([0.4, 0.6, 0.5]), weights=np.asarray([0.2, 0.5, 0.3])
    )


def log_density(process, data):
    return lambda x, t: data.log_prob(process, x, t)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_marginals_obey_every_form_of_the_forward_equation(x64, name):
    """To rounding, at times that differ from sample to sample; and so does the probability-flow ODE's equation."""
    process, t = PROCESSES[name]
    data = law(3)
    times = t * jnp.asarray([0.5, 1.0, 1.5])
    x = data.sample_marginal(jax.random.key(0), process, 3, times)
    ln_p, denoise = log_density(process, data), data.denoiser(process)
    for equation in (forward_equation(process), flow_equation(process, denoise)):
        assert np.abs(log_density_residual(equation, ln_p, x, times).value).max() < 1e-12
        density = density_residual(equation, lambda y, u: jnp.exp(ln_p(y, u)), x, times)
        assert np.abs(density.value).max() < 1e-13
    residual = score_residual(forward_equation(process), score(process, denoise), x, times)
    assert residual.value.shape == x.shape
    assert np.abs(residual.value).max() < 1e-12
    assert not np.any(residual.standard_error)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 1.7])
def test_the_whole_reverse_family_shares_the_marginals(x64, level):
    """σ̃ = level · g, also above g, in the time that runs down (row 19)."""
    process, t = PROCESSES["VP"]
    data = law(2)
    x = data.sample_marginal(jax.random.key(0), process, 4, t)
    equation = reverse_equation(process, data.denoiser(process), level)
    backwards = lambda y, tau: data.log_prob(process, y, process.t_max - tau)  # noqa: E731
    assert np.abs(log_density_residual(equation, backwards, x, process.t_max - t).value).max() < 1e-12


@pytest.mark.parametrize("df", [1.0, 3.0])
def test_the_flow_of_heavy_tailed_noise_obeys_its_continuity_equation(x64, df):
    """No Fokker-Planck equation exists there, and the velocity still moves p_t."""
    process = Process(EDM(), StudentT(df=df))
    data = StudentTMixture(np.asarray([[0.0, 1.0], [1.5, -1.0]]), np.asarray([0.5, 0.7]), df, np.asarray([0.4, 0.6]))
    x, flow = jnp.asarray([[0.3, -0.5], [2.0, 1.0]]), velocity(process, data.denoiser(process))
    residual = continuity_residual(flow, log_density(process, data), x, 0.8)
    assert np.abs(residual.value).max() < 1e-8  # the law itself is a quadrature, good to 1e-9
    with pytest.raises(TypeError, match="Gaussian"):
        forward_equation(process)


def geometric(x, t):
    """ln p of independent geometric Brownian motions dx = a x dt + b x dw from 1, each with its own a and b."""
    drift, spread = jnp.asarray([0.3, -0.2]), jnp.asarray([0.5, 0.8])
    time = jnp.asarray(t)[..., None]
    mean = (drift - spread**2 / 2) * time
    return jnp.sum(norm.logpdf(jnp.log(x), mean, spread * jnp.sqrt(time)) - jnp.log(x), axis=-1)


def sheared(x, t):
    """ln p of x = (w_1, w_2 + w_1²/2), w a Brownian motion: dx = (0, ½) dt + [[1, 0], [x_1, 1]] dw."""
    return norm.logpdf(x[:, 0], 0, jnp.sqrt(t)) + norm.logpdf(x[:, 1] - x[:, 0] ** 2 / 2, 0, jnp.sqrt(t))


STATE_DEPENDENT = {
    "diagonal": (
        FokkerPlanck(
            lambda x, t: jnp.asarray([0.3, -0.2]) * x, lambda x, t: jnp.asarray([0.5, 0.8]) * x, uniform=False
        ),
        geometric,
    ),
    "matrix": (
        FokkerPlanck(
            lambda x, t: jnp.broadcast_to(jnp.asarray([0.0, 0.5]), x.shape),
            lambda x, t: jnp.zeros((*x.shape, 2)).at[:, 0, 0].set(1).at[:, 1, 1].set(1).at[:, 1, 0].set(x[:, 0]),
            uniform=False,
        ),
        sheared,
    ),
    "scalar": (  # the two coordinates of the diagonal one share their noise's size
        FokkerPlanck(lambda x, t: 0.3 * x, lambda x, t: 0.5 * x[:, 0], uniform=False),
        lambda x, t: norm.logpdf(jnp.log(x[:, 0]), (0.3 - 0.125) * t, 0.5 * jnp.sqrt(t)) - jnp.log(x[:, 0]),
    ),
}


@pytest.mark.parametrize("kind", STATE_DEPENDENT)
def test_diffusions_that_depend_on_the_state(x64, kind):
    """Against exact solutions; without ∇·D, which `uniform` leaves out, they are none."""
    equation, ln_p = STATE_DEPENDENT[kind]
    x = jnp.asarray([[0.7], [1.9]]) if kind == "scalar" else jnp.asarray([[0.7, 1.2], [1.9, 0.4]])
    t = 0.8
    assert np.abs(log_density_residual(equation, ln_p, x, t).value).max() < 1e-12
    assert np.abs(density_residual(equation, lambda y, u: jnp.exp(ln_p(y, u)), x, t).value).max() < 1e-12
    assert np.abs(score_residual(equation, gradient(ln_p), x, t).value).max() < 1e-11
    careless = FokkerPlanck(equation.drift, equation.spread)
    assert np.abs(log_density_residual(careless, ln_p, x, t).value).max() > 1e-2


def test_flux_and_velocity_are_two_names_of_one_thing(x64):
    """J = p v, with the divergence of D in both."""
    for name in ("diagonal", "matrix"):
        equation, ln_p = STATE_DEPENDENT[name]
        x = jnp.asarray([[0.7, 1.2], [1.9, 0.4]])
        flux = probability_flux(equation, lambda y, u, ln_p=ln_p: jnp.exp(ln_p(y, u)))(x, 0.8)
        moved = probability_velocity(equation, gradient(ln_p))(x, 0.8)
        np.testing.assert_allclose(flux, jnp.exp(ln_p(x, 0.8))[:, None] * moved, rtol=1e-12)


def test_estimates_are_unbiased_and_know_their_error(x64):
    """Means over many keys of the estimated residuals are those of the exact ones, here of a wrong law's, not zero."""
    process, t = PROCESSES["VP"]
    data = law(3)
    other = GaussianMixture.isotropic(means=law(3).means + 0.3, stds=np.asarray([0.5, 0.6, 0.7]))
    x = data.sample_marginal(jax.random.key(0), process, 2, t)
    # The wrong law under another clock: its own marginals would obey the equation as well.
    ln_p = lambda y, u: other.log_prob(process, y, 1.1 * u)  # noqa: E731
    equation, keys = forward_equation(process), jax.random.split(jax.random.key(1), 500)
    for measure in (log_density_residual, lambda e, p, *rest, **kw: score_residual(e, gradient(p), *rest, **kw)):
        exact = measure(equation, ln_p, x, t, method=Exact())
        assert np.abs(exact.value).min() > 1e-3
        found = jax.jit(jax.vmap(lambda k, m=measure: m(equation, ln_p, x, t, method=Hutchinson(4), key=k)))(keys)
        error = np.std(found.value, axis=0) / np.sqrt(len(keys))
        assert np.all(np.abs(np.mean(found.value, axis=0) - exact.value) < 4 * error)
        stated = np.sqrt(np.mean(found.standard_error**2, axis=0))
        np.testing.assert_allclose(stated, np.std(found.value, axis=0), rtol=0.15)


def test_many_dimensions_are_estimated_and_ask_for_a_key(x64):
    process, t = PROCESSES["EDM"]
    data = GaussianMixture.isotropic(means=0.1 * law(80).means, stds=np.asarray([0.8, 0.7, 0.6]))  # they overlap
    x = data.sample_marginal(jax.random.key(0), process, 4, t)
    equation, ln_p = forward_equation(process), log_density(process, data)
    found = log_density_residual(equation, ln_p, x, t, key=jax.random.key(1))
    assert np.all(found.standard_error > 0)
    assert np.all(np.abs(found.value) < 6 * found.standard_error)  # Student's t with 7 degrees of freedom
    with pytest.raises(TypeError, match=r"give jax\.random\.key"):
        log_density_residual(equation, ln_p, x, t)


WRONG = {
    "the sign of the drift": lambda e, p: (FokkerPlanck(lambda x, t: -e.drift(x, t), e.spread), p),
    "the half of g²": lambda e, p: (FokkerPlanck(e.drift, lambda x, t: jnp.sqrt(2.0) * e.spread(x, t)), p),
    "the clock": lambda e, p: (e, lambda x, t: p(x, 1.01 * t)),
    "the width": lambda e, p: (e, lambda x, t: p(1.01 * x, t)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_seen(x64, what):
    process, t = PROCESSES["VP"]
    data = law(2)
    x = data.sample_marginal(jax.random.key(0), process, 4, t)
    equation, ln_p = WRONG[what](forward_equation(process), log_density(process, data))
    assert np.abs(log_density_residual(equation, ln_p, x, t).value).max() > 1e-3
    assert np.abs(score_residual(equation, gradient(ln_p), x, t).value).max() > 1e-3


def test_a_curl_is_seen_by_the_score_form(x64):
    """s + R x with an antisymmetric R has the same divergence and is the gradient of nothing."""
    process, t = PROCESSES["VP"]
    data = law(2)
    x = data.sample_marginal(jax.random.key(0), process, 4, t)
    true, turn = score(process, data.denoiser(process)), jnp.asarray([[0.0, 0.1], [-0.1, 0.0]])
    turned = lambda y, u: true(y, u) + y @ turn  # noqa: E731
    assert np.abs(score_residual(forward_equation(process), turned, x, t).value).max() > 1e-3


def test_images_are_events_too(x64):
    """Shape (b, 2, 2, 1), the residual of the flattened event."""
    process, t = PROCESSES["VP"]
    data = law(4)
    x = data.sample_marginal(jax.random.key(0), process, 2, t)
    flat, shape = log_density(process, data), (2, 2, 2, 1)
    ln_p = lambda y, u: flat(y.reshape(-1, 4), u)  # noqa: E731
    wrong = lambda p: lambda y, u: p(1.1 * y, u)  # noqa: E731
    for measure in (log_density_residual, lambda e, p, *rest: score_residual(e, gradient(p), *rest)):
        one = measure(forward_equation(process), wrong(flat), x, t).value
        two = measure(forward_equation(process), wrong(ln_p), x.reshape(shape), t).value
        np.testing.assert_allclose(two.reshape(one.shape), one, rtol=1e-12)
