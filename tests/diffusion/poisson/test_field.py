"""The field of charges against their sum, its potential, and float32 at every distance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from diffusion import EDM, Process, StudentT, prior_log_prob
from diffusion.oracles import Atoms, Dirac, GaussianMixture, StudentTMixture
from diffusion.poisson import (
    augmented_field,
    hyperplane_log_prob,
    log_potential,
    poisson_field,
    poisson_process,
    potential,
    radius_from_sigma,
    sigma_from_radius,
)

WEIGHTS = np.array([0.2, 0.5, 0.3])


def log_area(n):
    return np.log(2) + n / 2 * np.log(np.pi) - scipy.special.gammaln(n / 2)


def charges(d, seed=0):
    return np.random.default_rng(seed).normal(size=(3, d))


def summed(points, weights, x, r, df):
    """Σ w R/(S_{n−1} |R|^n) with R = (x − y, r), in NumPy: (E_x, E_r, φ)."""
    n, r = points.shape[1] + df, np.broadcast_to(r, len(x))
    gap = x[:, None] - points
    square = np.sum(gap**2, -1) + r[:, None] ** 2
    strength = weights * np.exp(-n / 2 * np.log(square) - log_area(n))
    if n == 2:
        phi = -np.sum(weights * np.log(square), 1) / (4 * np.pi)
    else:
        phi = np.sum(strength * square, 1) / (n - 2)
    return np.einsum("bk,bkd->bd", strength, gap), strength.sum(1) * r, phi


@functools.partial(jax.jit, static_argnames="df")
def field_and_potential(law, x, r, df):
    """The field, its vector, the potential and where it has one its logarithm."""
    field = poisson_field(law, x, r, df)
    log_phi = log_potential(law, x, r, df) if law.dim + df > 2 else None
    return field, field.vector, potential(law, x, r, df), log_phi


@pytest.mark.parametrize("df", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("d", [1, 2, 6])
def test_the_field_of_charges_is_their_sum(d, df, x64):
    points, r = charges(d), np.array([0.05, 0.7, 3.0, 200.0])
    x = np.random.default_rng(1).normal(size=(4, d)) * np.array([[1.0], [1.0], [3.0], [50.0]])
    measured = jax.device_get(field_and_potential(Atoms(points, WEIGHTS), x, r, df))
    field, vector, found, log_found = measured
    along_x, along_r, phi = summed(points, WEIGHTS, x, r, df)
    np.testing.assert_allclose(vector[0], along_x, rtol=1e-11, atol=1e-13 * np.abs(along_x).max())
    np.testing.assert_allclose(vector[1], along_r, rtol=1e-11)
    np.testing.assert_allclose(np.sum(field.along_x**2, 1) + field.along_r**2, 1, rtol=1e-14)
    norm = np.sqrt(np.sum(along_x**2, 1) + along_r**2)
    np.testing.assert_allclose(np.exp(field.log_norm), norm, rtol=1e-11)
    np.testing.assert_allclose(found, phi, rtol=1e-11)
    if d + df > 2:
        np.testing.assert_allclose(log_found, np.log(phi), atol=1e-11)


def test_the_vertical_field_is_half_the_density_at_one_extra_dimension(x64):
    """E_z = ½ p_z: p_t = −2F_t of F = −E, for laws of every kind and events of any shape."""
    laws = [
        Atoms(charges(4).reshape(3, 2, 2), WEIGHTS),
        GaussianMixture.isotropic(charges(4).reshape(3, 2, 2), 0.4),
        StudentTMixture(charges(4).reshape(3, 2, 2), np.array([0.3, 0.6, 1.0]), 1.0, WEIGHTS),
    ]
    x = np.random.default_rng(0).normal(size=(5, 2, 2))

    @jax.jit
    def both(law, x):
        field = poisson_field(law, x, 0.8)
        return jnp.exp(law.log_prob(Process(EDM(), StudentT(1.0)), x, 0.8)), field.along_x, field.vector[1]

    for law in laws:
        density, along_x, vertical = both(law, x)
        assert along_x.shape == x.shape
        np.testing.assert_allclose(vertical, 0.5 * np.asarray(density), rtol=1e-11)


@pytest.mark.parametrize("d", [1, 3])
def test_cauchy_data_are_charges_below_the_hyperplane(d, x64):
    """Image charges at the depth γ: field and potential, from the closed form of Cauchy plus Cauchy."""
    law = StudentTMixture(charges(d)[:2], np.array([0.4, 1.5]), 1.0, WEIGHTS[:2])
    x, z, weights = np.random.default_rng(1).normal(size=(4, d)), 0.7, WEIGHTS[:2] / WEIGHTS[:2].sum()
    parts = [summed(law.means[k : k + 1], np.ones(1), x, z + law.scales[k], 1.0) for k in range(2)]
    expected = [sum(w * part[i] for w, part in zip(weights, parts, strict=True)) for i in range(3)]
    found = jax.jit(lambda x: (*poisson_field(law, x, z).vector, potential(law, x, z)))(x)
    for one, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-12)


@pytest.mark.parametrize(("d", "df"), [(1, 1.0), (2, 1.0), (3, 1.0), (2, 4.0)])
def test_the_field_is_minus_the_gradient_of_the_potential(d, df, x64):
    law = Atoms(charges(d), WEIGHTS)
    points = np.abs(np.random.default_rng(2).normal(size=(5, d + 1))) + 0.2

    @jax.jit
    def both(points):
        slope = jax.grad(lambda p: jnp.sum(potential(law, p[:, :-1], p[:, -1], df)))(points)
        return augmented_field(law, df)(points), -slope

    np.testing.assert_allclose(*both(points), rtol=1e-10, atol=1e-12)


field_of = jax.jit(poisson_field, static_argnames="df")


@pytest.mark.parametrize(("d", "df"), [(2, 2048.0), (100_000, 1.0), (100_000, 2048.0)])
def test_float32_at_every_distance(d, df):
    """Direction and ln |E| from 1e-6 to 1e12 times the size of the data, beside a charge and high above it."""
    points = np.asarray(np.random.default_rng(0).normal(size=(8, d)) / np.sqrt(d), np.float32)
    toward = np.random.default_rng(1).normal(size=d)
    toward /= np.linalg.norm(toward)
    r = np.repeat([1e-6, 1e-2, 1.0, 1e6], 5)
    x = (points[3] + np.tile([1e-6, 1e-2, 1.0, 1e4, 1e12], 4)[:, None] * toward).astype(np.float32)
    with jax.enable_x64(True):
        exact = jax.device_get(field_of(Atoms(points.astype(np.float64)), x.astype(np.float64), r, df=df))
    found = jax.device_get(field_of(Atoms(points), x, r.astype(np.float32), df=df))
    assert found.log_norm.dtype == np.float32
    off = np.sqrt(np.sum((found.along_x - exact.along_x) ** 2, 1) + (found.along_r - exact.along_r) ** 2)
    assert np.max(off) < 3e-5
    size = np.abs(exact.log_norm) + (d + df) * np.abs(np.log(r))
    assert np.max(np.abs(found.log_norm - exact.log_norm) / size) < 3e-6


def test_many_charges_are_read_in_blocks(x64):
    """More than fit one block: as if they had been summed at once."""
    points = np.random.default_rng(0).normal(size=(3000, 400))
    x = np.random.default_rng(1).normal(size=(2, 400))
    field = field_of(Atoms(points), x, np.array([0.5, 30.0]))
    gap = x[:, None] - points
    log_strength = -401 / 2 * np.log(np.sum(gap**2, -1) + np.array([[0.25], [900.0]]))
    top = scipy.special.logsumexp(log_strength, axis=1)
    along = np.einsum("bk,bkd->bd", np.exp(log_strength - top[:, None]), gap)
    along = np.concatenate([along, [[0.5], [30.0]]], axis=1)
    length = np.linalg.norm(along, axis=1)
    np.testing.assert_allclose(field.along_x, along[:, :-1] / length[:, None], rtol=1e-9, atol=1e-12)
    expected = top - np.log(3000) - log_area(401) + np.log(length)
    np.testing.assert_allclose(field.log_norm, expected, rtol=1e-12)


def far_field(points, distance):
    """The largest angle between E and the direction away from 0, on a hemisphere of that radius."""
    away = np.abs(np.random.default_rng(2).normal(size=(20, points.shape[1] + 1)))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    field = jax.device_get(field_of(Atoms(points), distance * away[:, :-1], distance * away[:, -1]))
    return np.max(np.abs(np.concatenate([field.along_x, field.along_r[:, None]], 1) - away))


def test_directions_become_uniform_far_away(x64):
    """Row 34: off by O(1/R), by O(1/R²) once the mean of the data is in the centre."""
    points, distances = charges(3) + 1.0, np.array([50.0, 100.0, 200.0, 400.0])
    for data, rate in ((points, -1), (points - points.mean(0), -2)):
        off = [far_field(data, distance) for distance in distances]
        assert np.polyfit(np.log(distances), np.log(off), 1)[0] == pytest.approx(rate, abs=0.06)


@pytest.mark.parametrize("df", [1.0, 3.0, 64.0])
def test_the_prior_on_the_hyperplane_is_students(df, x64):
    x, r = 5 * np.random.default_rng(0).normal(size=(6, 2, 3)), 4.0
    process = poisson_process(df, 0.01, r)
    assert process.t_max == pytest.approx(r / np.sqrt(df))

    @jax.jit
    def measure(process, x):
        found = hyperplane_log_prob(x, r, df), prior_log_prob(process, x)
        return *found, poisson_field(Dirac(np.zeros((2, 3))), x, r, df)

    found, prior, field = jax.device_get(measure(process, x))
    np.testing.assert_allclose(found, prior, rtol=1e-12)
    np.testing.assert_allclose(radius_from_sigma(sigma_from_radius(r, df), df), r, rtol=1e-15)
    # It is what the field of one charge says, too.
    log_p = np.log(field.along_r) + field.log_norm + (df - 1) * np.log(r) + log_area(df)
    np.testing.assert_allclose(found, log_p, rtol=1e-12)


def test_the_prior_has_the_mass_of_one_and_the_published_constant_has_not(x64):
    """∫ p dx over radii in the plane; with the sphere of N dimensions bits/dim are 0.00145 too high at N = 3072."""
    s, weights = np.polynomial.legendre.leggauss(60)
    s, weights = 0.5 * (s + 1), 0.5 * weights
    radius = 3 * s / (1 - s)
    log_p = jax.jit(hyperplane_log_prob)(np.stack([radius, 0 * radius], 1), 3.0)
    mass = np.sum(weights * 3 / (1 - s) ** 2 * 2 * np.pi * radius * np.exp(log_p))
    assert mass == pytest.approx(1, abs=1e-12)
    slip = (log_area(3072) - log_area(3073)) / (3072 * np.log(2))
    assert slip == pytest.approx(0.5 * np.log(3072 / (2 * np.pi)) / (3072 * np.log(2)), rel=1e-3)
    assert slip == pytest.approx(0.00145, abs=1e-5)


def test_hyper_parameters_carry_over_by_r_is_sigma_root_d():
    process = poisson_process(64.0)
    assert (process.t_min, process.t_max) == (0.002, 80.0)
    assert radius_from_sigma(80.0, 64.0) == 640.0


def test_what_does_not_fit_is_refused():
    law, x = Atoms(charges(2)), jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="r = -1"):
        poisson_field(law, x, -1.0)
    with pytest.raises(ValueError, match="df = 0"):
        poisson_field(law, x, 1.0, 0.0)
    with pytest.raises(TypeError, match=r"GaussianMixture at D = 1\.0 has no image charges"):
        potential(GaussianMixture.isotropic(charges(2), 1.0), x, 1.0)
    with pytest.raises(ValueError, match=r"N \+ D = 2; the potential is positive"):
        log_potential(Atoms(charges(1)), jnp.zeros((1, 1)), 1.0)
    with pytest.raises(ValueError, match=r"N \+ D = 1.5; give at least 2"):
        potential(Atoms(charges(1)), jnp.zeros((1, 1)), 1.0, 0.5)
