"""Ratios of Gamma functions against sums of logarithms, in both precisions."""

import jax
import numpy as np
import pytest
import scipy.special

from diffusion.log_gamma import log_gamma_ratio, log_sphere_area, stirling_remainder

SHAPES = np.array([0.5, 1.0, 4.0, 7.9, 8.1, 64.0, 1024.0, 1.5e6, 5e8])
STEPS = np.array([0.0, 1.0, 3.0, 8.0, 392.0, 1536.0, 50_000.0])


def risen(a, b):
    """ln Γ(a + b)/(Γ(a) aᵇ) for whole b: the sum of ln(1 + k/a), k < b."""
    return float(np.sum(np.log1p(np.arange(int(b), dtype=np.longdouble) / a)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 5e-7)])
def test_ratios_of_gamma_functions(dtype, tolerance, x64):
    """Relative to the value and to b, which is what is added to it in a density."""
    a, b = (grid.ravel() for grid in np.meshgrid(SHAPES, STEPS))
    exact = np.array([risen(*pair) for pair in zip(a, b, strict=True)])
    found = np.asarray(log_gamma_ratio(a.astype(dtype), b.astype(dtype)), np.float64)
    assert np.max(np.abs(found - exact) / (np.abs(exact) + b + 1)) < tolerance


def test_half_steps_too(x64):
    a, b = np.array([0.5, 3.0, 40.0, 900.0]), 2.5
    exact = scipy.special.gammaln(a + b) - scipy.special.gammaln(a) - b * np.log(a)
    np.testing.assert_allclose(log_gamma_ratio(a, b), exact, rtol=1e-10, atol=1e-12)


def test_small_ratios_keep_their_digits_where_logarithms_of_gamma_have_none():
    """b(b − 1)/2a to the rounding of float32; the difference of two ln Γ is off by whole nats."""
    a, b = np.float32(1.5e6), np.float32(392.0)
    np.testing.assert_allclose(log_gamma_ratio(a, b), risen(float(a), 392), rtol=1e-5)
    naive = scipy.special.gammaln(a + b) - scipy.special.gammaln(a) - b * np.log(a)
    assert abs(np.float32(naive) - risen(float(a), 392)) > 0.1


def test_the_remainder_of_stirlings_formula(x64):
    x = np.array([0.3, 1.0, 2.5, 7.99, 8.01, 20.0, 100.0])
    exact = scipy.special.gammaln(x) - (x - 0.5) * np.log(x) + x - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(jax.jit(stirling_remainder)(x), exact, rtol=1e-12, atol=1e-13)


def test_areas_of_spheres(x64):
    np.testing.assert_allclose(np.exp(log_sphere_area(np.arange(1.0, 5.0))), [2, 2 * np.pi, 4 * np.pi, 2 * np.pi**2])
