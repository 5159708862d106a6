"""Fokker-Planck and continuity residuals (identity rows 19, 22): zero for the law of the equation, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from diffusion import EDM, VP, Process, RectifiedFlow, StudentT, SubVP, perturb, score, velocity
from diffusion.fokker_planck import (
    FokkerPlanck,
    continuity_residual,
    density_residual,
    flow_equation,
    forward_equation,
    gradient,
    log_density_residual,
    probability_flux,
    probability_velocity,
    reverse_equation,
    score_residual,
)
from diffusion.likelihood.divergence import Exact, Hutchinson
from diffusion.oracles import GaussianMixture, StudentTMixture

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


def points(n, dim):
    """Where the law has its mass at the times of the tests, near enough."""
    return 0.8 * np.random.default_rng(1).normal(size=(n, dim))


# Each test measures all it needs in one program: operation by operation the derivatives are hundreds.


def plain(process, data):
    """(ln p, the denoiser) of `law` written down: the oracles' take longer to differentiate."""

    def parts(x, t):
        """α, the components' variances, x − α m and ln w p(x | k)."""
        alpha, sigma = (jnp.broadcast_to(value, x.shape[:1])[:, None] for value in (process.alpha(t), process.sigma(t)))
        variances, gaps = alpha**2 * data.floor + sigma**2, x[:, None] - alpha[..., None] * data.means
        terms = -0.5 * (jnp.sum(gaps**2, axis=-1) / variances + x.shape[1] * jnp.log(2 * jnp.pi * variances))
        return alpha, variances, gaps, terms + jnp.log(data.weights)

    def denoise(x, t):
        alpha, variances, gaps, terms = parts(x, t)
        means = data.means + (alpha * data.floor / variances)[..., None] * gaps
        return jnp.sum(jax.nn.softmax(terms)[..., None] * means, axis=1)

    return lambda x, t: jax.nn.logsumexp(parts(x, t)[-1], axis=-1), denoise


@jax.jit
def marginal_residuals(process, data, x, times):
    """The log-density's and the density's of both equations, and the score's."""
    ln_p, denoise = plain(process, data)
    equations = forward_equation(process), flow_equation(process, denoise)
    logs = [log_density_residual(equation, ln_p, x, times).value for equation in equations]
    densities = [density_residual(it, lambda y, u: jnp.exp(ln_p(y, u)), x, times).value for it in equations]
    return logs, densities, score_residual(forward_equation(process), score(process, denoise), x, times)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_marginals_obey_every_form_of_the_forward_equation(x64, name):
    """To rounding, at times that differ from sample to sample; and so does the probability-flow ODE's equation."""
    process, t = PROCESSES[name]
    x = points(3, 3)
    found = marginal_residuals(process, law(3), x, t * np.asarray([0.5, 1.0, 1.5]))
    logs, densities, residual = jax.device_get(found)
    assert np.abs(logs).max() < 1e-12
    assert np.abs(densities).max() < 1e-13
    assert residual.value.shape == x.shape
    assert np.abs(residual.value).max() < 1e-12
    assert not np.any(residual.standard_error)


@jax.jit
def reverse_residual(process, data, level, x, t):
    equation = reverse_equation(process, data.denoiser(process), level)
    backwards = lambda y, tau: data.log_prob(process, y, process.t_max - tau)  # noqa: E731
    return log_density_residual(equation, backwards, x, process.t_max - t).value


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 1.7])
def test_the_whole_reverse_family_shares_the_marginals(x64, level):
    """σ̃ = level · g, also above g, in the time that runs down (row 19)."""
    process, t = PROCESSES["VP"]
    assert np.abs(reverse_residual(process, law(2), level, points(4, 2), t)).max() < 1e-12


@pytest.mark.parametrize("df", [1.0, 3.0])
def test_the_flow_of_heavy_tailed_noise_obeys_its_continuity_equation(x64, df):
    """No Fokker-Planck equation exists there, and the velocity still moves p_t."""
    process = Process(EDM(), StudentT(df=df))
    data = StudentTMixture(np.asarray([[0.0, 1.0], [1.5, -1.0]]), np.asarray([0.5, 0.7]), df, np.asarray([0.4, 0.6]))
    flow = velocity(process, data.denoiser(process))
    residual = jax.jit(lambda x: continuity_residual(flow, log_density(process, data), x, 0.8).value)
    # The law itself is a quadrature, good to 1e-9.
    assert np.abs(residual(np.asarray([[0.3, -0.5], [2.0, 1.0]]))).max() < 1e-8
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
    careless = FokkerPlanck(equation.drift, equation.spread)

    @jax.jit
    def residuals(x, t):
        return {
            "log-density": log_density_residual(equation, ln_p, x, t).value,
            "density": density_residual(equation, lambda y, u: jnp.exp(ln_p(y, u)), x, t).value,
            "score": score_residual(equation, gradient(ln_p), x, t).value,
            "careless": log_density_residual(careless, ln_p, x, t).value,
        }

    x = np.asarray([[0.7], [1.9]]) if kind == "scalar" else np.asarray([[0.7, 1.2], [1.9, 0.4]])
    found = residuals(x, 0.8)
    assert np.abs(found["log-density"]).max() < 1e-12
    assert np.abs(found["density"]).max() < 1e-12
    assert np.abs(found["score"]).max() < 1e-11
    assert np.abs(found["careless"]).max() > 1e-2


def test_flux_and_velocity_are_two_names_of_one_thing(x64):
    """J = p v, with the divergence of D in both."""

    @jax.jit
    def both(x):
        pairs = []
        for name in ("diagonal", "matrix"):
            equation, ln_p = STATE_DEPENDENT[name]
            flux = probability_flux(equation, lambda y, u, ln_p=ln_p: jnp.exp(ln_p(y, u)))(x, 0.8)
            moved = probability_velocity(equation, gradient(ln_p))(x, 0.8)
            pairs.append((flux, jnp.exp(ln_p(x, 0.8))[:, None] * moved))
        return pairs

    for flux, expected in both(np.asarray([[0.7, 1.2], [1.9, 0.4]])):
        np.testing.assert_allclose(flux, expected, rtol=1e-12)


def wrong_log_density(x, t):
    """The logarithm of nothing that the equation moves, up to a constant; its coordinates depend on each other."""
    return -(0.5 + t) * jnp.sum(x**2, axis=1) + jnp.sin(x[:, 0] * x[:, 1] + x[:, 2]) + 0.3 * x[:, 0] * x[:, -1]


def two_residuals(equation, ln_p, x, t, **options):
    """The log-density's and the score's."""
    score_of = gradient(ln_p)
    return log_density_residual(equation, ln_p, x, t, **options), score_residual(equation, score_of, x, t, **options)


def test_estimates_are_unbiased_and_know_their_error(x64):
    """Means over many keys of the estimated residuals are those of the exact ones, here of a wrong law's, not zero."""
    process, t = PROCESSES["VP"]
    equation, x = forward_equation(process), points(2, 3)

    @jax.jit
    def measure(x, keys):
        estimate = lambda key: two_residuals(  # noqa: E731
            equation, wrong_log_density, x, t, method=Hutchinson(4), key=key
        )
        return two_residuals(equation, wrong_log_density, x, t, method=Exact()), jax.vmap(estimate)(keys)

    answers = jax.device_get(measure(x, jax.random.split(jax.random.key(1), 500)))
    for exact, found in zip(*answers, strict=True):
        assert np.abs(exact.value).min() > 1e-3
        error = np.std(found.value, axis=0) / np.sqrt(500)
        assert np.all(np.abs(np.mean(found.value, axis=0) - exact.value) < 4 * error)
        stated = np.sqrt(np.mean(found.standard_error**2, axis=0))
        np.testing.assert_allclose(stated, np.std(found.value, axis=0), rtol=0.15)


def test_many_dimensions_are_estimated_and_ask_for_a_key(x64):
    process, t = PROCESSES["EDM"]
    data = GaussianMixture.isotropic(means=0.1 * law(80).means, stds=np.asarray([0.8, 0.7, 0.6]))  # they overlap
    equation, ln_p = forward_equation(process), log_density(process, data)

    @jax.jit
    def measure(key, x_0, z):
        x = perturb(process, x_0, z, t)
        return log_density_residual(equation, ln_p, x, t, key=key)

    z = np.random.default_rng(2).normal(size=(2, 4, 80))
    found = jax.device_get(measure(jax.random.key(1), 0.7 * z[0], z[1]))
    assert np.all(found.standard_error > 0)
    assert np.all(np.abs(found.value) < 6 * found.standard_error)  # Student's t with 7 degrees of freedom
    with pytest.raises(TypeError, match=r"give jax\.random\.key"):
        jax.eval_shape(lambda x: log_density_residual(equation, ln_p, x, t), z[0])


RIGHT = {"drift": 1.0, "spread": 1.0, "clock": 1.0, "width": 1.0}
WRONG = {
    "the sign of the drift": {"drift": -1.0},
    "the half of g²": {"spread": 2**0.5},
    "the clock": {"clock": 1.01},
    "the width": {"width": 1.01},
}


@jax.jit
def altered_residuals(process, data, x, t, drift, spread, clock, width):
    """`two_residuals` where each of these factors is 1; where one is not, of something wrong."""
    equation, ln_p = forward_equation(process), plain(process, data)[0]
    altered = FokkerPlanck(lambda x, t: drift * equation.drift(x, t), lambda x, t: spread * equation.spread(x, t))
    return two_residuals(altered, lambda x, t: ln_p(width * x, clock * t), x, t)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_seen(x64, what):
    process, t = PROCESSES["VP"]
    for one in altered_residuals(process, law(2), points(4, 2), t, **RIGHT):
        assert np.abs(one.value).max() < 1e-12
    for one in altered_residuals(process, law(2), points(4, 2), t, **RIGHT | WRONG[what]):
        assert np.abs(one.value).max() > 1e-3


def test_a_curl_is_seen_by_the_score_form(x64):
    """s + R x with an antisymmetric R has the same divergence and is the gradient of nothing."""
    process, t = PROCESSES["VP"]
    true, turn = gradient(plain(process, law(2))[0]), np.asarray([[0.0, 0.1], [-0.1, 0.0]])
    turned = lambda y, u: true(y, u) + y @ turn  # noqa: E731
    residual = jax.jit(lambda x: score_residual(forward_equation(process), turned, x, t).value)
    assert np.abs(residual(points(4, 2))).max() > 1e-3


def test_images_are_events_too(x64):
    """Shape (b, 2, 2, 1), the residual of the flattened event."""
    process, t = PROCESSES["VP"]
    equation, x = forward_equation(process), points(2, 4)
    ln_p = lambda y, u: wrong_log_density(y.reshape(-1, 4), u)  # noqa: E731
    flat, image = jax.jit(lambda x: [two_residuals(equation, ln_p, y, t) for y in (x, x.reshape(2, 2, 2, 1))])(x)
    for one, two in jax.device_get(list(zip(flat, image, strict=True))):
        assert np.all(one.value)
        np.testing.assert_allclose(two.value.reshape(one.value.shape), one.value, rtol=1e-12)
