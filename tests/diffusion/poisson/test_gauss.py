"""Row 27: Gauss's law for the field of charges, and what the field without the extra dimension does instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.fokker_planck import base_flux, box_flux, face_flux, sphere_flux, sphere_flux_estimate
from diffusion.oracles import Atoms, GaussianMixture, StudentTMixture
from diffusion.poisson import augmented_field, ball_field, curl, divergence, plain_field, shell, shell_field

pytestmark = pytest.mark.usefixtures("x64")

WEIGHTS = np.array([0.2, 0.5, 0.3])
POINTS = np.array([[-0.8, 0.3], [0.1, -0.5], [0.9, 0.4]])
LAWS = {
    "atoms": Atoms(POINTS, WEIGHTS),
    "cauchy": StudentTMixture(POINTS, np.array([0.3, 0.5, 0.2]), 1.0, WEIGHTS),
    "gauss": GaussianMixture.isotropic(POINTS, 0.3, WEIGHTS),
}


@pytest.mark.parametrize(("name", "df"), [("atoms", 1.0), ("atoms", 4.0), ("cauchy", 1.0), ("gauss", 4.0)])
def test_no_divergence_and_no_curl_above_the_data(name, df):
    points = np.random.default_rng(0).normal(size=(4, 3))
    points[:, 2] = [0.2, 0.5, 1.0, 4.0]
    field = augmented_field(LAWS[name], df)

    @jax.jit
    def derivatives(points):
        jacobian = jax.vmap(jax.jacfwd(lambda p: field(p[None])[0]))(points)
        return jacobian, [divergence(field, points, it) for it in (df, df + 0.1)], curl(field, points)

    jacobian, (own, other), turning = jax.device_get(derivatives(points))
    size = np.abs(jacobian).sum((1, 2))
    assert np.max(np.abs(own) / size) < 1e-11
    assert np.max(np.abs(turning) / size[:, None, None]) < 1e-11
    assert np.min(np.abs(other) / size) > 1e-5  # the (D − 1)/r is seen


def to_the_plane(field, z):
    """∫ E_z dx over the plane at z, by x = tan(θ) z along both axes."""

    def squeezed(theta):
        x = z * jnp.tan(theta)
        jacobian = z**2 / jnp.prod(jnp.cos(theta) ** 2, axis=1)
        up = field(jnp.concatenate([x, jnp.full((len(x), 1), z)], axis=1))[:, -1]
        return jnp.stack([0 * up, 0 * up, up * jacobian], axis=1)

    half = np.pi / 2 - 1e-9
    return face_flux(lambda p: squeezed(p[:, :2]), [-half, -half, 0.0], [half, half, 0.0], 2, 0.0, 160)


def test_half_of_the_charge_goes_up_through_every_plane():
    """−½ of F = −E, whatever the height. The corners of the square leave the rule an algebraic error."""
    through = jax.jit(lambda z: to_the_plane(augmented_field(LAWS["atoms"]), z))
    for z in (0.5, 1.0, 3.0):
        np.testing.assert_allclose(through(z), 0.5, rtol=2e-4)


def test_half_of_the_charge_goes_up_through_every_plane_of_a_line():
    """One dimension of data: the tangent takes the plane to a segment, and quadrature to rounding."""
    law, nodes, weights = Atoms(POINTS[:, :1], WEIGHTS), *np.polynomial.legendre.leggauss(400)
    field = jax.jit(augmented_field(law))
    for z in (0.3, 1.0, 40.0):
        theta = np.pi / 2 * nodes
        x = (z + 1) * np.tan(theta)
        up = np.asarray(field(np.stack([x, z + 0 * x], 1)))[:, 1]
        flux = np.sum(np.pi / 2 * weights * up * (z + 1) / np.cos(theta) ** 2)
        np.testing.assert_allclose(flux, 0.5, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2])
def test_half_of_the_charge_goes_up_through_a_hemisphere(d):
    field = augmented_field(Atoms(POINTS[:, :d], WEIGHTS))
    flux = jax.jit(lambda: [sphere_flux(field, np.zeros(d + 1), radius, 64, axis=d) for radius in (3.0, 50.0)])
    np.testing.assert_allclose(flux(), 0.5, rtol=1e-10)


def test_half_of_the_charge_goes_up_in_many_dimensions():
    law = Atoms(np.random.default_rng(0).normal(size=(5, 7)))
    estimate = jax.jit(lambda key: sphere_flux_estimate(key, augmented_field(law), np.zeros(8), 9.0, 20_000, axis=7))
    found = jax.device_get(estimate(jax.random.key(0)))
    assert abs(found.value - 0.5) < 4 * found.standard_error
    assert found.standard_error < 0.01


@pytest.mark.parametrize(("name", "d"), [("atoms", 1), ("atoms", 2), ("cauchy", 2)])
def test_nothing_goes_through_a_closed_surface_without_charge(name, d):
    points = POINTS[:, :d]
    law = Atoms(points, WEIGHTS) if name == "atoms" else StudentTMixture(points, LAWS[name].scales, 1.0, WEIGHTS)
    field = augmented_field(law)
    low, high = np.r_[-0.5 * np.ones(d), 0.4], np.r_[1.2 * np.ones(d), 1.3]
    centre = np.r_[0.2 * np.ones(d), 1.1]

    @jax.jit
    def fluxes():
        closed = box_flux(field, low, high, 40), sphere_flux(field, centre, 0.7, 40)
        return *closed, sphere_flux(field, centre, 0.7, 40, axis=d), base_flux(field, centre, 0.7, 40, axis=d)

    box, sphere, cap, base = jax.device_get(fluxes())
    np.testing.assert_allclose(box, 0, atol=1e-10)
    np.testing.assert_allclose(sphere, 0, atol=1e-10)
    np.testing.assert_allclose(cap + base, 0, atol=1e-10)
    assert abs(cap) > 0.01


def test_a_box_around_a_charge_holds_it():
    """Above and below the hyperplane, where the field is its mirror image."""
    field = augmented_field(Atoms(POINTS, WEIGHTS))

    @jax.jit
    def fluxes(places):
        corner = np.full(3, 0.3)
        return jax.lax.map(lambda place: box_flux(lambda p: field(p + place), -corner, corner, 48), places)

    np.testing.assert_allclose(fluxes(np.c_[POINTS, np.zeros(3)]), WEIGHTS, rtol=1e-8)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_plain_field_of_a_shell_vanishes_inside(dim):
    """Row 33 in closed form and by charges, in NumPy's sum too; a ball's field there points away from the centre."""
    x = np.random.default_rng(0).normal(size=(6, dim))
    x *= (np.array([0.1, 0.3, 0.5, 1.6, 2.5, 4.0]) / np.linalg.norm(x, axis=1))[:, None]
    charges = shell(dim, 1.0, 64)
    fields = jax.jit(lambda x: (plain_field(charges, x), shell_field(x), ball_field(x)))
    found, of_shell, of_ball = jax.device_get(fields(x))
    np.testing.assert_allclose(found, of_shell, atol=1e-12)
    assert np.all(np.abs(found[:3]) < 1e-12)
    area = {2: 2 * np.pi, 3: 4 * np.pi}[dim]
    outside = x[3:] / (area * np.linalg.norm(x[3:], axis=1, keepdims=True) ** dim)
    np.testing.assert_allclose(found[3:], outside, rtol=1e-11)
    np.testing.assert_allclose(of_ball[3:], outside, rtol=1e-12)
    np.testing.assert_allclose(of_ball[:3], x[:3] / area, rtol=1e-12)


def test_the_ball_has_its_charge_spread_evenly():
    """∇·E = ρ = 1/volume inside, 0 outside."""
    x = np.array([[0.2, 0.1, -0.4], [1.0, 0.5, 0.3]])
    slope = np.asarray(jax.jit(jax.vmap(jax.jacfwd(lambda y: ball_field(y[None])[0])))(x))
    np.testing.assert_allclose(np.trace(slope, axis1=1, axis2=2), [3 / (4 * np.pi), 0], atol=1e-12)


def test_the_extra_dimension_cures_it():
    """Just above a shell the field has a direction everywhere, from the shell to the centre."""
    law = shell(2, 1.0, 200)
    inside = np.array([[0.0, 0.0, 0.05], [0.3, 0.0, 0.05], [0.6, 0.2, 0.05]])
    fields = jax.jit(lambda x: (plain_field(law, x[:, :2]), augmented_field(law)(x)))
    plain, augmented = (np.asarray(field) for field in fields(inside))
    assert np.max(np.abs(plain)) < 1e-12
    norm = np.linalg.norm(augmented, axis=1)
    assert np.min(norm) > 2e-3
    # Inside it points to the centre, so that its lines, followed backwards, lead out to the shell.
    assert np.all(np.sum(augmented[1:, :2] * inside[1:, :2], axis=1) < -1e-2 * norm[1:])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="dim = 4; a shell"):
        shell(4)
    with pytest.raises(ValueError, match="N = 1 dimensions; the field without"):
        plain_field(Atoms(POINTS[:, :1]), jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"radius = 0\.0; give a positive number"):
        ball_field(jnp.zeros((1, 2)), 0.0)
