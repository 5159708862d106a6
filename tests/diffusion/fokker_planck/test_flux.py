"""Mass and flux against Gauss's theorem, charges, and the probability flux of mixtures."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, VP, Process, forward_sde
from diffusion.fokker_planck.equation import of_sde, probability_flux
from diffusion.fokker_planck.flux import (
    base_flux,
    base_flux_estimate,
    box_flux,
    face_flux,
    mass,
    sphere_flux,
    sphere_flux_estimate,
)
from diffusion.oracles import GaussianMixture

CORNERS = ([-0.7, -0.4, -1.1], [0.6, 1.2, 0.5])
CENTRE, RADIUS = [0.2, -0.3, 0.5], 0.8


def charge(place, x):
    """The field r/|r|^d of a unit charge, whose flux is the area of the unit sphere, 2 π^{d/2}/Γ(d/2)."""
    r = x - jnp.asarray(place)
    return r / jnp.linalg.norm(r, axis=1, keepdims=True) ** x.shape[1]


def everywhere(value, x):
    return jnp.broadcast_to(value, x.shape)


def unit_area(d):
    return 2 * math.pi ** (d / 2) / math.gamma(d / 2)


def crooked(x):
    """A field with every component a function of every coordinate."""
    d = x.shape[1]
    turn = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3))[:d, :d])
    return jnp.sin(x @ turn + 0.3) * jnp.exp(0.5 * x[:, ::-1])


def divergence_of(field, x):
    return jax.vmap(lambda y: jnp.trace(jax.jacfwd(lambda z: field(z[None])[0])(y)))(x)


def in_upper_half_ball(function, centre, radius, axis, points=24):
    """∫ of a function over the upper half ball: the flux of function · n through half spheres, by their radius."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    radii = 0.5 * radius * (nodes + 1)

    def through(r):
        return sphere_flux(lambda x: function(x)[:, None] * (x - jnp.asarray(centre)) / r, centre, r, axis=axis)

    return jnp.sum(0.5 * radius * weights * jax.vmap(through)(jnp.asarray(radii)))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_mass_is_an_integral(d, x64):
    """Of a polynomial exactly, with a different power along each axis; of a density, its share in the box."""
    low, high = CORNERS[0][:d], CORNERS[1][:d]
    powers = np.array([5, 4, 3])[:d]
    exact = math.prod((b ** (k + 1) - a ** (k + 1)) / (k + 1) for a, b, k in zip(low, high, powers, strict=True))
    found = jax.jit(lambda: mass(lambda x: jnp.prod(x**powers, axis=1), low, high, 3))()
    np.testing.assert_allclose(found, exact, rtol=1e-13)


def test_mass_of_a_law_is_a_difference_of_its_distribution_function(x64):
    law, process = GaussianMixture.isotropic([[-1.0], [0.8]], [0.3, 0.5], [0.4, 0.6]), Process(VP())

    @jax.jit
    def both(ends):
        return mass(lambda x: jnp.exp(law.log_prob(process, x, 0.2)), [-0.9], [1.4]), law.cdf(process, ends, 0.2)

    got, below = both(np.asarray([[-0.9], [1.4]]))
    np.testing.assert_allclose(got, below[1] - below[0], rtol=1e-13)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_flux_out_of_a_box_is_the_divergence_inside(d, x64):
    low, high = CORNERS[0][:d], CORNERS[1][:d]

    @jax.jit
    def both():
        return box_flux(crooked, low, high, 16), mass(functools.partial(divergence_of, crooked), low, high, 16)

    got, inside = both()
    np.testing.assert_allclose(got, inside, rtol=1e-12)
    assert abs(got) > 0.01


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_box_holds_the_charges_inside_it(d, x64):
    low, high = CORNERS[0][:d], CORNERS[1][:d]
    inside, outside = [0.1, 0.3, -0.2][:d], [1.1, 0.3, 0.2][:d]
    flux = jax.jit(lambda place: box_flux(functools.partial(charge, place), low, high, 48))
    np.testing.assert_allclose(flux(np.asarray(inside)), unit_area(d), rtol=1e-10)
    np.testing.assert_allclose(flux(np.asarray(outside)), 0, atol=1e-10)


def test_a_face_sees_its_solid_angle(x64):
    """A face of a cube around a charge sees a sixth of all; below the charge the field points down."""
    field = functools.partial(charge, [0.0, 0.0, 0.0])
    sides = [(axis, at) for axis in range(3) for at in (1.0, -1.0)]

    @jax.jit
    def fluxes():
        cube = [face_flux(field, [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], axis, at, 24) for axis, at in sides]
        return cube, face_flux(field, [-1.0, -2.0, 9.0], [1.0, 2.0, -9.0], 2, -0.5, 64)

    cube, wide = fluxes()
    np.testing.assert_allclose(cube, [at * 4 * math.pi / 6 for _, at in sides], rtol=1e-12)
    np.testing.assert_allclose(wide, -4 * math.atan(1 * 2 / (0.5 * math.sqrt(1 + 4 + 0.25))), rtol=1e-9)


@pytest.mark.parametrize("d", [2, 3])
def test_a_sphere_holds_the_charges_inside_it(d, x64):
    centre = CENTRE[:d]
    inside, outside = np.add(centre, [0.3, -0.1, 0.2][:d]), np.add(centre, [0.2, 1.2, 0.3][:d])

    @jax.jit
    def both():
        got = sphere_flux(functools.partial(charge, inside), centre, RADIUS)
        return got, sphere_flux(functools.partial(charge, outside), centre, RADIUS, 64)

    got, none = both()
    np.testing.assert_allclose(got, unit_area(d), rtol=1e-10)
    np.testing.assert_allclose(none, 0, atol=1e-10)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("half", [False, True])
def test_the_rules_of_spheres_converge_beyond_any_order(d, half, x64):
    """From 8 to 32 points by more than a rule of order eight would."""
    field, axis = functools.partial(charge, np.add(CENTRE[:d], [0.4, -0.1, 0.2][:d])), 0 if half else None
    fluxes = jax.jit(lambda: [sphere_flux(field, CENTRE[:d], RADIUS, n, axis=axis) for n in (128, 8, 32)])
    exact, *errors = fluxes()
    assert abs(errors[1] - exact) < abs(errors[0] - exact) / 4**8
    assert abs(errors[0] - exact) > 1e-6


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_spheres_are_exact_up_to_their_degree(d, axis, x64):
    """∮ x_i^k dA over the unit sphere, the flux of x x_i^k, for k < 2 points and no further."""
    points = 4
    powers = (2 * points - 2, 2 * points - 1, 2 * points)

    @jax.jit
    def fluxes():
        return [sphere_flux(lambda x, k=k: x * x[:, axis : axis + 1] ** k, [0.0] * d, 1.0, points) for k in powers]

    for k, flux in zip(powers, fluxes(), strict=True):
        moment = math.gamma((k + 1) / 2) * math.gamma(d / 2) / (math.sqrt(math.pi) * math.gamma((k + d) / 2))
        exact = unit_area(d) * moment * (k % 2 == 0)
        error = abs(flux - exact)
        assert error < 1e-13 if k < 2 * points else error > 1e-4


@pytest.mark.parametrize("d", [2, 3])
def test_a_half_ball_is_closed_by_its_base(d, x64):
    """Along every axis: nothing flows out where there is no charge, and the divergence inside where there is one."""
    centre = CENTRE[:d]
    below = functools.partial(charge, np.add(centre, [-0.5, -0.55, -0.6][:d]))

    @functools.partial(jax.jit, static_argnums=0)
    def fluxes(axis):
        of_charge = [through(below, centre, RADIUS, 48, axis=axis) for through in (sphere_flux, base_flux)]
        closed = sphere_flux(crooked, centre, RADIUS, axis=axis) + base_flux(crooked, centre, RADIUS, axis=axis)
        return of_charge, closed, in_upper_half_ball(functools.partial(divergence_of, crooked), centre, RADIUS, axis)

    for axis in range(d):
        (cap, base), closed, inside = fluxes(axis)
        np.testing.assert_allclose(cap + base, 0, atol=1e-9)
        assert cap > 0.3
        np.testing.assert_allclose(closed, inside, rtol=1e-9)


@pytest.mark.parametrize("d", [2, 3])
def test_half_of_a_charge_in_the_centre_goes_up(d, x64):
    field, area = functools.partial(charge, CENTRE[:d]), unit_area(d)
    disc = math.pi ** ((d - 1) / 2) / math.gamma((d + 1) / 2) * RADIUS ** (d - 1)

    @jax.jit
    def fluxes():
        for_axes = []
        for axis in range(d):
            up = functools.partial(everywhere, np.eye(d)[axis])
            cap, base = (through(up, CENTRE[:d], RADIUS, axis=axis) for through in (sphere_flux, base_flux))
            for_axes.append((sphere_flux(field, CENTRE[:d], RADIUS, axis=axis), cap, base))
        return for_axes

    for half, cap, base in fluxes():
        np.testing.assert_allclose(half, area / 2, rtol=1e-12)
        np.testing.assert_allclose(cap, disc, rtol=1e-12)
        np.testing.assert_allclose(base, -disc, rtol=1e-12)


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("d", [1, 2])
def test_the_mass_in_a_box_changes_by_what_flows_out(schedule, d, x64):
    """d/dt ∫_B p_t dx = −∮ J · n dA, J = f p − D ∇p, for a mixture with correlations."""
    process, corners = Process(schedule), (CORNERS[0][:d], CORNERS[1][:d])
    means, covariance = np.array([[-0.9, 0.4], [0.7, -0.5]])[:, :d], np.array([[0.2, 0.1], [0.1, 0.3]])[:d, :d]
    law = GaussianMixture.full(means, [covariance, 2 * covariance], [0.4, 0.6])
    flux = probability_flux(of_sde(forward_sde(process)), lambda x, t: jnp.exp(law.log_prob(process, x, t)))

    def inside(t):
        return mass(lambda x: jnp.exp(law.log_prob(process, x, t)), *corners)

    both = jax.jit(lambda t: (jax.jvp(inside, (t,), (1.0,))[1], box_flux(lambda x: flux(x, t), *corners)))
    change, outward = both(0.3)
    np.testing.assert_allclose(change, -outward, rtol=1e-9)
    assert abs(change) > 0.01


@pytest.mark.parametrize("axis", [None, 1])
def test_estimates_agree_with_quadrature(axis, x64):
    """Within four standard errors, which are themselves what the scatter of independent runs is."""
    keys = jax.random.split(jax.random.key(0), 64)
    surfaces = [(sphere_flux_estimate, sphere_flux), (base_flux_estimate, base_flux)][: 1 if axis is None else 2]

    @jax.jit
    def run(keys):
        return [
            (
                jax.vmap(lambda key, it=estimate: it(key, crooked, CENTRE, RADIUS, 500, axis=axis))(keys),
                quadrature(crooked, CENTRE, RADIUS, axis=axis),
            )
            for estimate, quadrature in surfaces
        ]

    for (value, standard_error), exact in run(keys):
        error = np.sqrt(np.mean(standard_error**2) / len(keys))
        assert abs(np.mean(value) - exact) < 4 * error
        assert error < 0.02 * RADIUS**2 * unit_area(3)
        scatter = np.std(value, ddof=1) / np.sqrt(np.mean(standard_error**2))
        assert abs(scatter - 1) < 4 / math.sqrt(2 * len(keys))


@pytest.mark.parametrize("d", [2, 5, 8])
def test_estimates_in_any_dimension(d, x64):
    """A charge off the centre, all of it through the sphere, or as much through the cap as through the base."""
    centre, axis = np.arange(d) / d, d - 1
    inside, below = (functools.partial(charge, centre + shift * np.eye(d)[axis]) for shift in (0.3, -0.5))

    @jax.jit
    def run(key):
        whole = sphere_flux_estimate(key, inside, centre, 1.5, 20_000)
        cap = sphere_flux_estimate(key, below, centre, 1.5, 20_000, axis=axis)
        return whole, cap, base_flux_estimate(jax.random.fold_in(key, 1), below, centre, 1.5, 20_000, axis=axis)

    whole, cap, base = run(jax.random.key(0))
    assert abs(whole.value - unit_area(d)) < 4 * whole.standard_error
    assert abs(cap.value + base.value) < 4 * np.hypot(cap.standard_error, base.standard_error)
    for estimate in (whole, cap, base):
        assert estimate.standard_error < 0.1 * abs(estimate.value)


def test_areas_are_finite_where_their_factors_are_not():
    """In float32 Γ(d/2) overflows from d = 72 on, and r^{d − 1} here. u · n = 1, so that nothing is left to chance."""
    d, radius = 100, 3.0

    def field(x):
        return x / radius

    @jax.jit
    def estimates(key):
        return [sphere_flux_estimate(key, field, np.zeros(d), radius, 10, axis=axis) for axis in (None, 4)]

    for flux, share in zip(estimates(jax.random.key(0)), (1, 0.5), strict=True):
        np.testing.assert_allclose(flux.value, share * unit_area(d) * radius ** (d - 1), rtol=1e-4)
        assert flux.standard_error < 1e-5 * flux.value


def test_sample_i_depends_on_the_key_and_i_alone():
    """The first rows of a larger sample are the smaller sample."""

    def rows(samples):
        seen = []

        def field(x):
            seen.append(x)
            return x

        sphere_flux_estimate(jax.random.key(3), field, CENTRE, RADIUS, samples)
        base_flux_estimate(jax.random.key(3), field, CENTRE, RADIUS, samples, axis=0)
        return seen

    for few, many in zip(*(jax.jit(rows, static_argnums=0)(samples) for samples in (4, 7)), strict=True):
        np.testing.assert_array_equal(few, many[:4])
        assert few.dtype == jnp.float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"low = .* is not below high = .* along axis 1"):
        mass(lambda x: x[:, 0], [0.0, 1.0], [1.0, 0.0])
    with pytest.raises(
        ValueError, match=r"low and high have shapes \(4,\) and \(4,\); give d numbers each, d = 1 to 3"
    ):
        box_flux(lambda x: x, [0.0] * 4, [1.0] * 4)
    with pytest.raises(ValueError, match="points = 0; at least 1"):
        box_flux(lambda x: x, [0.0], [1.0], 0)
    with pytest.raises(
        ValueError, match=r"centre has shape \(5,\); give d numbers, d = 2 or 3, or d >= 2 to the Monte"
    ):
        sphere_flux(lambda x: x, [0.0] * 5, 1.0)
    with pytest.raises(ValueError, match=r"radius = -1.0; a sphere needs a positive one"):
        sphere_flux(lambda x: x, CENTRE, -1.0)
    with pytest.raises(ValueError, match="axis = 3 in 3 dimensions; choose one from 0 to 2"):
        base_flux(lambda x: x, CENTRE, 1.0, axis=3)
    with pytest.raises(ValueError, match="samples = 1; at least 2"):
        sphere_flux_estimate(jax.random.key(0), lambda x: x, CENTRE, 1.0, 1)
