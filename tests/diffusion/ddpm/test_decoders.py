"""The decoders: masses that add up, tails that stay finite, and bits per dimension (identity row 7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from diffusion import Normal
from diffusion.ddpm.decoders import DiscretisedDecoder, DiscretisedNormal, GaussianDecoder, bits_per_dim, log1mexp

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


def test_hundreds_of_standard_deviations_have_a_logarithm_and_a_gradient():
    """In float32, on both sides: the logarithm is −½ z² to leading order, the gradient pulls the mean to x."""
    levels = np.array([[0, 1, 254, 255]]).T
    means, std = np.array([[-1.0, 0.0, 1.0]]), 4e-3

    def one(x, mean, std):
        return DiscretisedNormal(mean[None, None], std).log_prob(x[None, None])[0]

    points, means = np.broadcast_arrays(LEVELS[levels].astype(np.float32), means.astype(np.float32))
    graded = jax.value_and_grad(one, argnums=(1, 2))
    value, (slope, along_std) = jax.jit(jax.vmap(jax.vmap(graded, (0, 0, None)), (0, 0, None)))(points, means, std)
    gap = np.maximum(np.abs(LEVELS[levels] - means) - 1 / 255, 0.0)
    far = gap > 0.5
    assert far.sum() == 8
    np.testing.assert_allclose(value[far], -0.5 * (gap[far] / std) ** 2, rtol=1e-3)
    np.testing.assert_allclose(slope[far], (np.sign(LEVELS[levels] - means) * gap)[far] / std**2, rtol=2e-2)
    assert np.all(np.isfinite(slope))
    assert np.all(np.isfinite(along_std))


def test_draws_have_the_masses():
    """Every level at its frequency, the ends with all that lies beyond them."""
    mean, std, n = 0.98, 0.02, 40_000
    draws = jax.jit(DiscretisedNormal(jnp.full((n, 1), mean), jnp.asarray(std)).sample)(jax.random.key(0))
    index = np.rint((np.asarray(draws) + 1) * 127.5).astype(int).ravel()
    np.testing.assert_allclose(draws.ravel(), LEVELS[index], atol=1e-6)
    mass = np.exp(log_masses(jnp.asarray([mean]), std, LEVELS.astype(np.float32)))[:, 0]
    frequency = np.bincount(index, minlength=256) / n
    assert np.all(np.abs(frequency - mass) <= 4 * np.sqrt(mass * (1 - mass) / n) + 1e-4)
    assert frequency[255] > 0.1


def test_log1mexp(x64):
    x = np.array([1e-300, 1e-12, 0.3, np.log(2), 1.0, 40.0, 700.0])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(log1mexp)))(x)
    np.testing.assert_allclose(value[:2], np.log(x[:2]), rtol=1e-11)
    np.testing.assert_allclose(value[-2:], -np.exp(-x[-2:]), rtol=1e-12)
    np.testing.assert_allclose(np.exp(value) + np.exp(-x), 1.0, rtol=1e-15)
    np.testing.assert_allclose(slope, 1 / np.expm1(x), rtol=1e-12)


def test_bits_of_masses_and_of_densities_meet(x64):
    """Row 7: the bits of a smooth density, log2(127.5) added, are those of the masses, to second order in the bin.

    x/127.5 − 1 has bins of 2/255; +7 bits belong to x/128 − 1.
    """
    x = jnp.asarray([[100 / 127.5 - 1, 142 / 127.5 - 1, 130 / 127.5 - 1]])

    @jax.jit
    def gap(x):
        def bits(levels):
            mass = DiscretisedDecoder(0.2, levels).distribution(jnp.zeros_like(x), 9.0).log_prob(x)
            density = GaussianDecoder(0.2).distribution(jnp.zeros_like(x), 9.0).log_prob(x)
            return bits_per_dim(-mass, 3) - bits_per_dim(-density, 3, bin_width=2 / (levels - 1))

        return bits(256), bits(511)

    coarse, fine = (float(value[0]) for value in gap(x))
    assert 0 < abs(coarse) < 1e-3
    np.testing.assert_allclose(coarse / fine, 4.0, rtol=1e-3)
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
