"""What belongs to one sample stays with it: its class, its measurement, its scale, in a batch of any size.

Whatever has a batch axis inside a denoiser is of one kind: each row of a batch is a sample of its own, and is the same
alone.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import VP, Process
from diffusion.oracles import GaussianMixture
from samplers import (
    DDIM,
    Heun,
    Measurement,
    Replacement,
    autoguidance,
    classifier_free_guidance,
    classifier_guidance,
    clipped,
    dps_guidance,
    dynamically_thresholded,
    interval_guidance,
    pseudoinverse_guidance,
    sample,
    sample_parallel,
    tweedie_covariance,
    uniform_time,
)
from samplers.adaptive import sample_adaptive
from samplers.one_by_one import one_by_one

PROCESS = Process(VP())
LAW = GaussianMixture.isotropic(np.asarray([[-2.0], [0.0], [2.0]]), 0.3)
DENOISE = LAW.denoiser(PROCESS)
CENTRES = jnp.asarray([-2.0, 0.0, 2.0])
KEY = jax.random.key(0)


def of_class(labels, x, t):
    """E[x_0|x_t] of N(centre of the class, 0.3²), a class for each row."""
    alpha, variance = (jnp.reshape(u, (-1, 1)) for u in (PROCESS.alpha(t), PROCESS.schedule.variance(t)))
    mean = CENTRES[labels][:, None]
    return mean + 0.09 * alpha / (0.09 * alpha**2 + variance) * (x - alpha * mean)


def measured(make):
    return lambda rows: make(Measurement(np.eye(1), np.asarray([[-2.0], [0.0], [2.0]])[rows], 0.1))


def classes(rows):
    return Partial(of_class, jnp.asarray(rows))


def scales(rows):
    return jnp.asarray([0.0, 1.0, 2.0])[jnp.asarray(rows)]


def label_log_likelihood(labels, x, t):
    """ln p(class | x_t) of the three humps, which have equal weights."""
    alpha, variance = PROCESS.alpha(t), PROCESS.schedule.variance(t)
    spread = 0.09 * alpha**2 + variance
    logits = -0.5 * (x - jnp.reshape(alpha, (-1, 1)) * CENTRES) ** 2 / jnp.reshape(spread, (-1, 1))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


TRANSFORMS = {
    "classes": classes,
    "classifier-free": lambda rows: classifier_free_guidance(classes(rows), DENOISE, scales(rows)),
    "auto": lambda rows: autoguidance(classes(rows), DENOISE, scales(rows)),
    "classifier": lambda rows: classifier_guidance(
        PROCESS, DENOISE, Partial(label_log_likelihood, jnp.asarray(rows)), scales(rows)
    ),
    "interval": lambda rows: interval_guidance(PROCESS, classes(rows), DENOISE, scales(rows), 0.2, 0.6),
    "clipped": lambda rows: clipped(classes(rows)),
    "thresholded": lambda rows: dynamically_thresholded(classes(rows), 90.0),
    "pseudoinverse": measured(lambda y: pseudoinverse_guidance(PROCESS, DENOISE, y)),
    "tweedie": measured(lambda y: pseudoinverse_guidance(PROCESS, DENOISE, y, tweedie_covariance(PROCESS, DENOISE))),
    "dps": measured(lambda y: dps_guidance(PROCESS, DENOISE, y, 0.05)),
}
ROWS = np.arange(64) % 3


def by_steps(denoise, ids):
    return sample(KEY, PROCESS, denoise, Heun(), uniform_time(PROCESS, 8), (len(ids), 1), ids=ids).x


def in_parallel(denoise, ids):
    grid = uniform_time(PROCESS, 8)
    return sample_parallel(KEY, PROCESS, denoise, Heun(), grid, (len(ids), 1), ids=ids, tolerance=0.0).x


def adaptively(denoise, ids):
    return sample_adaptive(KEY, PROCESS, denoise, diffrax.Tsit5(), (len(ids), 1), ids=ids, rtol=1e-2, atol=1e-2).x


OTHER_WAYS = [
    (draw, name)
    for draw in (in_parallel, adaptively)
    for name in ("classes", "classifier-free", "dps", "pseudoinverse")
]


@pytest.mark.parametrize(("draw", "name"), [*((by_steps, name) for name in TRANSFORMS), *OTHER_WAYS])
def test_a_row_alone_is_the_row_of_a_batch_of_64(name, draw):
    ids = np.arange(64)
    together = np.asarray(draw(TRANSFORMS[name](ROWS), ids))
    for i in (0, 1, 62):
        alone = draw(TRANSFORMS[name](ROWS[i : i + 1]), ids[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["classes", "pseudoinverse"])
def test_an_implicit_solver_too_asks_each_sample_about_its_own(name):
    """It takes derivatives sample by sample, for which the denoiser was once given the first row of what it holds."""
    rows, denoise = np.arange(3), TRANSFORMS[name](np.arange(3))
    implicit, explicit = (
        sample_adaptive(KEY, PROCESS, denoise, solver, (3, 1), ids=rows, rtol=1e-4, atol=1e-4).x
        for solver in (diffrax.Kvaerno3(), diffrax.Tsit5())
    )
    np.testing.assert_allclose(implicit, explicit, atol=2e-3)
    np.testing.assert_allclose(implicit[:, 0], CENTRES, atol=0.6)


def test_an_implicit_solver_asks_about_one_row_however_wide_the_events_are():
    """Its derivatives are one direction at a time, a map within that over samples: a number has one direction only.

    Guidance of N(c, s²) against N(0, s²) by w is the denoiser of N(wc, s²), whose flow keeps (x − αwc)/√(α²s² + σ²)."""
    rows, scale = np.arange(3), np.asarray([0.0, 1.0, 3.0], np.float32)
    denoise = classifier_free_guidance(classes(rows), classes(np.ones(3, int)), jnp.asarray(scale))
    x = np.asarray([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.7]], np.float32)
    found = sample_adaptive(
        KEY, PROCESS, denoise, diffrax.Kvaerno3(), (3, 2), ids=rows, x_init=x, rtol=1e-3, atol=1e-3, to_data=False
    ).x
    means = (scale * CENTRES)[:, None]
    (a_1, s_1), (a_0, s_0) = ((PROCESS.alpha(t), PROCESS.sigma(t)) for t in (PROCESS.t_max, PROCESS.t_min))
    slope = np.sqrt((0.09 * a_0**2 + s_0**2) / (0.09 * a_1**2 + s_1**2))
    np.testing.assert_allclose(found, a_0 * means + slope * (x - a_1 * means), atol=1e-2)


def test_a_map_within_that_over_samples_asks_about_one_row_at_a_time():
    """Of c_i x² the Jacobian is 2 c_i diag(x), a direction after another, also where there are as many as samples."""
    factors, x, t = jnp.asarray([[1.0], [2.0], [5.0]]), jnp.arange(9.0).reshape(3, 3), jnp.asarray(0.5)
    ask = one_by_one(Partial(lambda factors, x, t: factors * x**2, factors), 3)
    slope = jax.vmap(lambda i, row: jax.jacfwd(lambda y: ask(i, y, t))(row))(jnp.arange(3), x)
    np.testing.assert_array_equal(slope, 2 * factors[..., None] * x[..., None] * np.eye(3))
    times = jnp.asarray([1.0, 2.0, -1.0])[:, None]
    value = jax.vmap(lambda i, row: jax.vmap(lambda y: ask(i, y, t))(times * row))(jnp.arange(3), x)
    np.testing.assert_array_equal(value, (factors * x**2)[:, None] * times**2)


def test_a_wrapper_around_a_sampler_keeps_the_rows_apart_as_well():
    observed = np.asarray([[-2.0], [0.0], [2.0]])[ROWS]
    masks = (np.arange(64) % 2 == 0)[:, None]

    def draw(rows):
        sampler = Replacement(DDIM(), observed[rows], masks[rows])
        return sample(KEY, PROCESS, DENOISE, sampler, uniform_time(PROCESS, 8), (len(rows), 1), ids=rows).x

    together = np.asarray(draw(np.arange(64)))
    for i in (0, 1, 62):
        np.testing.assert_allclose(together[i : i + 1], draw(np.asarray([i])), rtol=2e-4, atol=2e-4)
