"""Operators against dense matrices, and what restorations make of them on laws whose posteriors are closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.ndimage import gaussian_filter

from diffusion import EDM, VP, Betas, Process, RectifiedFlow
from diffusion.oracles import GaussianLaw, GaussianMixture
from samplers import (
    Heun,
    Measurement,
    Seen,
    box_downsampling,
    gaussian_blur,
    isotropic_covariance,
    karras,
    noised_start,
    pooled,
    pseudoinverse_guidance,
    sample,
    separable,
    uniform_time,
)
from tests.samplers.programs import answers, coefficients

KEY = jax.random.key(0)
SHAPE = (4, 6, 2)
SIZE = 48
MASK = np.random.default_rng(0).random(SHAPE) < 0.4
OPERATORS = {
    "mask": lambda: Seen(MASK),
    "blur": lambda: gaussian_blur(4, 6, 0.7),
    "smaller": lambda: box_downsampling(4, 6, 2),
    "uneven": lambda: separable(np.random.default_rng(1).normal(size=(3, 4)), np.eye(6)[:5]),
}


def dense(operator):
    """The matrix of an operator, column by column."""
    return np.asarray(operator(jnp.eye(SIZE).reshape(SIZE, *SHAPE))).reshape(SIZE, -1).T


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("variance", [0.2, 0.0])
def test_the_normal_equations_are_those_of_the_matrix(name, variance, x64):
    """Aᵀ (c A Aᵀ + v I)⁻¹ r, each sample with its own c; without noise by the pseudoinverse."""
    operator = OPERATORS[name]()
    matrix, rng = dense(operator), np.random.default_rng(2)
    c = np.asarray([0.3, 2.0])
    residual = rng.normal(size=(2, *operator(jnp.zeros((1, *SHAPE))).shape[1:]))
    found = operator.explain(jnp.asarray(residual), jnp.asarray(c), jnp.full(2, variance))
    for i in range(2):
        inverse = np.linalg.pinv(c[i] * matrix @ matrix.T + variance * np.eye(len(matrix)), rcond=1e-12)
        expected = matrix.T @ inverse @ residual[i].reshape(-1)
        np.testing.assert_allclose(np.asarray(found[i]).reshape(-1), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("sides", "std"), [((4, 6), 0.7), ((9, 5), 2.5), ((3, 8), 5.0)])
def test_the_blur_is_scipys_and_symmetric_and_leaves_what_is_flat(sides, std):
    picture = np.random.default_rng(0).normal(size=(*sides, 3))
    blur = gaussian_blur(*sides, std)
    expected = gaussian_filter(picture, (std, std, 0), mode="reflect", truncate=4.0)
    np.testing.assert_allclose(blur(jnp.asarray(picture, jnp.float32)[None])[0], expected, atol=3e-6)
    for u, s, v in (blur.rows, blur.columns):
        np.testing.assert_allclose((u * s) @ v.T, v @ (u * s).T, atol=1e-12)
        np.testing.assert_allclose((u * s) @ v.T @ np.ones(len(v)), 1.0, atol=1e-12)


def test_a_smaller_picture_has_the_means_of_blocks():
    picture = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    small = box_downsampling(4, 6, 2)
    np.testing.assert_allclose(small(jnp.asarray(picture)), picture.reshape(2, 2, 2, 3, 2, 2).mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(dense(small) @ dense(small).T, np.eye(12) / 4, atol=1e-6)


def flat(denoise, x, t):
    return denoise(x.reshape(x.shape[0], -1), t).reshape(x.shape)


def exactly(law, process, x, t):
    return law.posterior_covariance(process, x, t)


@pytest.mark.parametrize("name", ["blur", "smaller"])
def test_pseudoinverse_guidance_is_exact_on_gaussians(name, x64):
    """By the closed form for N(m, v I), by conjugate gradients for any covariance; the posterior is Bishop's 2.116."""
    process, operator, rng = Process(VP()), OPERATORS[name](), np.random.default_rng(3)
    matrix, mean, root = dense(operator), rng.normal(size=SIZE), rng.normal(size=(SIZE, SIZE)) / 7
    y, std, x = rng.normal(size=len(matrix)), 0.3, jnp.asarray(rng.normal(size=(3, *SHAPE)))
    measurement = Measurement(operator, y.reshape(operator(x).shape[1:]), std)
    for spread in (0.36 * np.eye(SIZE), root @ root.T + 0.1 * np.eye(SIZE)):
        law = GaussianLaw.full(mean, spread)
        gain = spread @ matrix.T @ np.linalg.inv(matrix @ spread @ matrix.T + std**2 * np.eye(len(matrix)))
        left = spread - gain @ matrix @ spread
        exact = GaussianLaw.full(mean + gain @ (y - matrix @ mean), 0.5 * (left + left.T)).denoiser(process)
        isotropic = spread[0, 1] == 0
        covariance = isotropic_covariance(process, 0.36) if isotropic else Partial(_of_images, law, process)
        guided = pseudoinverse_guidance(process, Partial(flat, law.denoiser(process)), measurement, covariance)
        for t in (0.06, 0.5):
            np.testing.assert_allclose(*answers([guided, Partial(flat, exact)], x, t), rtol=1e-8, atol=1e-9)


def test_what_is_pooled_is_alike_in_pictures(x64):
    """Numbers of pixels in one; and on pixels that are alike it brings ΠGDM nearer to the posterior, for every x."""
    assert pooled(Seen(MASK)) == 1.0
    assert pooled(box_downsampling(4, 6, 2)) == pytest.approx(4.0)
    assert pooled(gaussian_blur(99, 99, 2.0)) == pytest.approx(4 * np.pi * 4.0, rel=0.06)  # less at the edges
    assert pooled(np.asarray([[1.0, -1.0], [2.0, 2.0], [0.0, 0.0]])) == pytest.approx((0 + 2 + 1) / 3)

    process, operator = Process(EDM()), box_downsampling(4, 4, 4)
    places = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(16, 2)
    spread = 0.25 * np.exp(-np.sum((places[:, None] - places) ** 2, -1) / 32)
    matrix, std, y = np.full((1, 16), 1 / 16), 0.01, np.asarray([0.4])
    gain = spread @ matrix.T / (matrix @ spread @ matrix.T + std**2)
    left = spread - gain @ matrix @ spread
    exact = GaussianLaw.full(gain @ y, 0.5 * (left + left.T)).denoiser(process)
    denoise = Partial(flat, GaussianLaw.full(np.zeros(16), spread).denoiser(process))
    measurement = Measurement(operator, y.reshape(1, 1, 1), std)
    guided = [
        pseudoinverse_guidance(process, denoise, measurement, isotropic_covariance(process, count * 0.25))
        for count in (1.0, pooled(operator))
    ]
    for t in (0.5, 2.0, 10.0):
        x = t * jax.random.normal(KEY, (4, 4, 4, 1))
        plain, alike, wanted = map(np.asarray, answers([*guided, Partial(flat, exact)], x, t))
        assert np.linalg.norm(alike - wanted) < 0.5 * np.linalg.norm(plain - wanted)


def _of_images(law, process, x, t):
    return law.posterior_covariance(process, x.reshape(x.shape[0], -1), t)


def test_pseudoinverse_guidance_is_exact_on_a_mixture_whose_known_part_is_gaussian(x64):
    """x = (a, b), a ~ N(0.5, 0.49) seen with noise, b a mixture that knows nothing of a: E[a|x_t, y] and E[b|x_t]."""
    process, x = Process(EDM()), jnp.asarray([[[[0.3]], [[-0.8]]], [[[2.0]], [[1.5]]]])
    mixture = GaussianMixture.isotropic(np.asarray([[-1.0], [1.0]]), np.asarray([0.2, 0.4]))
    known = np.asarray([True, False]).reshape(2, 1, 1)
    y, std, v = 1.2, 0.5, 0.49

    def denoise(x, t, mean=0.5, variance=v):
        first = GaussianLaw.isotropic(np.asarray([mean]), np.sqrt(variance)).denoiser(process)(x[:, 0, 0], t)
        return jnp.stack([first, mixture.denoiser(process)(x[:, 1, 0], t)], axis=1)[:, :, None]

    measurement = Measurement(Seen(known), np.where(known, y, 0.0), std)
    guided = pseudoinverse_guidance(process, denoise, measurement, isotropic_covariance(process, v))
    narrowed = 1 / (1 / v + 1 / std**2)
    exact = Partial(functools.partial(denoise, mean=narrowed * (0.5 / v + y / std**2), variance=narrowed))
    for t in (0.1, 1.0, 5.0):
        np.testing.assert_allclose(*answers([guided, exact], x, t), rtol=1e-10)


# SDEdit


def test_an_edit_by_the_flow_keeps_the_part_of_a_gaussian_that_it_says(x64):
    """m + √(v/(α²v + σ²)) (x_t − α m), to the error of 200 Heun steps."""
    process, mean, v = Process(EDM()), np.asarray([0.4, -0.2]), 0.3
    law, given = GaussianLaw.isotropic(mean, np.sqrt(v)), np.asarray([[1.0, 1.0], [-2.0, 0.5]])
    grid = karras(process, 200)
    start = noised_start(KEY, process, given, grid, 0.3, data_std=np.sqrt(v))
    assert start.grid[0] == pytest.approx(np.sqrt(v) * np.tan(0.15 * np.pi), rel=1e-6)
    np.testing.assert_array_equal(start.grid[1:], grid[grid < start.grid[0]])
    found = sample(KEY, process, law.denoiser(process), Heun(), start.grid, (2, 2), x_init=start.x).x
    alpha, sigma = map(float, coefficients(process, start.grid[0]))
    kept = np.sqrt(v / (alpha**2 * v + sigma**2))
    np.testing.assert_allclose(found, mean + kept * (np.asarray(start.x) - alpha * mean), atol=2e-4)
    assert kept == pytest.approx(np.cos(0.15 * np.pi), rel=1e-6)
    # The noise is the one that `sample` begins with, and each sample's own.
    noise = noised_start(KEY, process, np.zeros((2, 2)), grid, 1.0, ids=np.asarray([1, 0])).x
    np.testing.assert_allclose(
        np.asarray(start.x), alpha * given + sigma * np.asarray(noise)[::-1] / grid[0], rtol=1e-9
    )


def test_an_edit_of_a_mixture_is_its_quantile(x64):
    """In one dimension the flow keeps the order: F_0(x_0) = F_t(x_t), for two bumps of which a small edit keeps one."""
    from scipy.stats import norm

    process, means, std = Process(EDM()), np.asarray([-1.0, 1.5]), 0.3
    law, grid = GaussianMixture.isotropic(means[:, None], std), karras(process, 200)
    for strength in (0.2, 0.5):
        start = noised_start(KEY, process, np.asarray([[1.4], [-1.2], [0.9]]), grid, strength)
        found = sample(KEY, process, law.denoiser(process), Heun(), start.grid, (3, 1), x_init=start.x).x
        alpha, sigma = map(float, coefficients(process, start.grid[0]))

        def below(x, alpha, spread):
            return np.mean([norm.cdf(x, alpha * mean, spread) for mean in means], axis=0)

        before = below(np.asarray(start.x), alpha, np.hypot(alpha * std, sigma))
        np.testing.assert_allclose(below(np.asarray(found), 1.0, std), before, atol=1e-3)


def test_the_strength_is_the_same_noise_on_every_schedule(x64):
    """σ/α = s tan(½ π strength); on a chain at the nearest of its times, and never off the grid's ends."""
    x = np.zeros((1, 2))
    for process in (Process(VP()), Process(RectifiedFlow()), Process(Betas.linear(1000))):
        grid = uniform_time(process, 50)
        start = noised_start(KEY, process, x, grid, 0.4, data_std=0.5)
        alpha, sigma = map(float, coefficients(process, start.grid[0]))
        assert sigma / alpha == pytest.approx(
            0.5 * np.tan(0.2 * np.pi), rel=1e-5 if not process.schedule.discrete else 0.02
        )
        assert noised_start(KEY, process, x, grid, 1.0).grid[0] == grid[0]
        assert noised_start(KEY, process, x, grid, 1e-6).grid.tolist() == grid[-2:].tolist()
        early = grid[:-1]  # of those that end above the data, as a chain's may
        assert noised_start(KEY, process, x, early, 1e-6).grid.tolist() == early[-2:].tolist()


REFUSED = [
    (lambda: box_downsampling(4, 6, 4), r"factor = 4 does not divide 4 × 6 pixels"),
    (lambda: gaussian_blur(4, 6, 0.0), r"std = 0.0; give a width in pixels above 0"),
    (lambda: separable(np.ones(3), np.eye(2)), r"rows has shape \(3,\); give a matrix"),
    (lambda: gaussian_blur(4, 6, 1.0)(jnp.ones((1, 6, 4, 1))), "the operator is one of 4×6 pixels"),
    (
        lambda: noised_start(KEY, Process(EDM()), np.ones((1, 2)), np.asarray([1.0, 0.0]), 0.0),
        "strength = 0.0; give a part",
    ),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_arguments_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
