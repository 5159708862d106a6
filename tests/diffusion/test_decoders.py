"""The decoders: masses that add up, tails that stay finite, and bits per dimension (identity row 7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from diffusion import Normal
from diffusion.decoders import DiscretisedDecoder, DiscretisedNormal, GaussianDecoder, bits_per_dim, log1mexp

LEVELS = np.arange(256) / 127.5 - 1


@jax.jit
def log_masses(mean, std, levels):
    """ln P of every level, (levels, means)."""
    return jax.vmap(lambda x: DiscretisedNormal(mean[:, None], std, 256).log_prob(jnp.full((mean.size, 1), x)))(levels)


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5, 30.0])
def test_the_masses_of_the_256_values_add_up_to_one(std, x64):
    means = jnp.asarray([-3.0, -1.0, 0.1234, 0.999, 1.7])
    np.testing.assert_allclose(np.exp(log_masses(means, std, LEVELS)).sum(axis=0), 1.0, rtol=1e-12)


def test_the_masses_add_up_in_float32():
    for std in (0.005, 0.5):
        masses = np.exp(log_masses(jnp.asarray([-1.0, 0.1234]), std, LEVELS.astype(np.float32)))
        np.testing.assert_allclose(masses.sum(axis=0), 1.0, rtol=2e-5)


@pytest.mark.parametrize(("level", "mean"), [(10, -0.9), (128, 0.5), (128, -0.4), (0, -0.7), (255, 0.6), (254, 0.0)])
def test_a_mass_is_the_integral_of_the_density(level, mean, x64):
    """By quadrature relative to the largest value in the bin, so that tails of 40 standard deviations count too."""
    std, x, half = 0.02, LEVELS[level], 1 / 255
    low = -8.0 if level == 0 else x - half
    high = 8.0 if level == 255 else x + half
    nearest = np.clip(mean, low, high)
    peak = -0.5 * ((nearest - mean) / std) ** 2
    bounds = max(low, nearest - 1), min(high, nearest + 1)
    integral, _ = scipy.integrate.quad(
        lambda y: np.exp(-0.5 * ((y - mean) / std) ** 2 - peak), *bounds, points=[nearest], epsabs=0, epsrel=1e-12
    )
    expected = np.log(integral / np.sqrt(2 * np.pi) / std) + peak
    np.testing.assert_allclose(log_masses(jnp.asarray([mean]), std, jnp.asarray([x]))[0, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_a_thousand_standard_deviations_have_a_logarithm_and_a_gradient(level):
    """In float32, on both sides: the logarithm is −½ z² to leading order, the gradient pulls the mean to x."""
    x, std = jnp.full((1, 1), LEVELS[level]), jnp.asarray(1e-3)
    for mean in (-1.0, 0.0, 1.0):
        value, (slope, along_std) = jax.value_and_grad(
            lambda mean, std: DiscretisedNormal(mean, std).log_prob(x)[0], argnums=(0, 1)
        )(jnp.full((1, 1), mean), std)
        gap = max(abs(LEVELS[level] - mean) - 1 / 255, 0.0)
        np.testing.assert_allclose(value, -0.5 * (gap / 1e-3) ** 2, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(slope, np.sign(LEVELS[level] - mean) * gap / 1e-6, rtol=1e-3, atol=1e-2)
        assert np.isfinite(along_std)


def test_draws_have_the_masses():
    """Every level at its frequency, the ends with all that lies beyond them."""
    mean, std, n = 0.98, 0.02, 40_000
    draws = DiscretisedNormal(jnp.full((n, 1), mean), jnp.asarray(std)).sample(jax.random.key(0))
    index = np.rint((np.asarray(draws) + 1) * 127.5).astype(int).ravel()
    np.testing.assert_allclose(draws.ravel(), LEVELS[index], atol=1e-6)
    mass = np.exp(log_masses(jnp.asarray([mean]), std, LEVELS.astype(np.float32)))[:, 0]
    frequency = np.bincount(index, minlength=256) / n
    assert np.all(np.abs(frequency - mass) <= 4 * np.sqrt(mass * (1 - mass) / n) + 1e-4)
    assert frequency[255] > 0.1


def test_log1mexp(x64):
    x = jnp.asarray([1e-300, 1e-12, 0.3, np.log(2), 1.0, 40.0, 700.0])
    small, large = np.asarray(log1mexp(x[:2])), np.asarray(log1mexp(x[-2:]))
    np.testing.assert_allclose(small, np.log(x[:2]), rtol=1e-11)
    np.testing.assert_allclose(large, -np.exp(-x[-2:]), rtol=1e-12)
    np.testing.assert_allclose(np.exp(log1mexp(x)) + np.exp(-x), 1.0, rtol=1e-15)
    assert np.all(np.isfinite(jax.vmap(jax.grad(log1mexp))(x[1:])))


def test_bits_of_masses_and_of_densities_meet(x64):
    """Row 7: the bits of a smooth density, log2(127.5) added, are those of the masses, to second order in the bin.

    x/127.5 − 1 has bins of 2/255; +7 bits belong to x/128 − 1.
    """
    x = jnp.asarray(LEVELS[[90, 127, 160]])[None]
    mean = jnp.zeros_like(x)
    gaps = []
    for std in (0.1, 0.2):
        mass = bits_per_dim(-DiscretisedDecoder(std).distribution(mean, 9.0).log_prob(x), 3)
        density = bits_per_dim(-GaussianDecoder(std).distribution(mean, 9.0).log_prob(x), 3, bin_width=2 / 255)
        gaps.append(float(abs(mass - density)[0]) * std**2)
    np.testing.assert_allclose(gaps[0], 0.0, atol=3e-6)
    zero = jnp.zeros(1)
    np.testing.assert_allclose(bits_per_dim(zero, 3, bin_width=2 / 255), np.log2(127.5), rtol=1e-15)
    np.testing.assert_allclose(bits_per_dim(zero, 3, bin_width=2 / 256), 7, rtol=1e-15)
    np.testing.assert_allclose(bits_per_dim(zero, 3, bin_width=1 / 256), 8, rtol=1e-15)
    np.testing.assert_allclose(bits_per_dim(zero + 6 * np.log(2), 3), 2, rtol=1e-15)


def test_a_uniform_law_takes_eight_bits(x64):
    """A density of ½ on [−1, 1] is worth 8 bits of 256 levels but for the half bins at the ends: log2(255)."""
    np.testing.assert_allclose(bits_per_dim(jnp.asarray([np.log(2.0)]), 1, 2 / 255), np.log2(255), rtol=1e-14)


def test_the_chains_std_is_used_unless_there_is_another():
    mean = jnp.zeros((2, 3))
    assert isinstance(GaussianDecoder().distribution(mean, 0.5), Normal)
    for decoder in (GaussianDecoder, DiscretisedDecoder):
        assert float(decoder().distribution(mean, 0.5).std) == 0.5
        assert float(decoder(std=0.25).distribution(mean, 0.5).std) == 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianDecoder(std=0.0), "std = 0.0"),
        (lambda: DiscretisedDecoder(std=-1.0), "std = -1.0"),
        (lambda: DiscretisedDecoder(levels=1), "levels = 1"),
        (lambda: bits_per_dim(jnp.zeros(1), 0), "dims = 0"),
        (lambda: bits_per_dim(jnp.zeros(1), 1, -1.0), "positive width"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
