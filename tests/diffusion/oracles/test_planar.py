"""The laws in the plane: mass, moments, symmetry, and the shapes that their names promise."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from diffusion import EDM, Process
from diffusion.oracles import checkerboard, eight_gaussians, two_moons, two_spirals
from diffusion.oracles.planar import STD, TILES

pytestmark = pytest.mark.usefixtures("x64")

PROCESS = Process(EDM())
LAWS = {law.__name__: law() for law in (checkerboard, two_moons, two_spirals, eight_gaussians)}


_density = jax.jit(lambda law, points: jnp.exp(law.log_prob(PROCESS, points, 0.0)))
covariance_of = jax.jit(lambda law: law.covariance)


def density(law, points):
    return np.asarray(_density(law, np.asarray(points, np.float64)))


def width(law):
    return math.sqrt(law.floor[0])


AXIS = np.linspace(-1.4, 1.4, 111)
SQUARE = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1)
"""Points of a grid over [−1.4, 1.4]²; sums over it are exact for Gaussians that it resolves.

By Poisson's formula again: spacings of at most 0.95 widths leave a part of 4 exp(−2π²/0.9) = 1e-9.
"""


@functools.cache
def on_the_square(name):
    """The density of a law at `SQUARE`, (111, 111)."""
    with jax.enable_x64(True):
        return density(LAWS[name], SQUARE.reshape(-1, 2)).reshape(111, 111)


@pytest.mark.parametrize("name", LAWS)
def test_mass_and_moments_by_quadrature(name):
    """∫ p = 1, ∫ x p = 0 and ∫ |x|² p = 2 STD², as the law itself says of its components."""
    points, p = SQUARE.reshape(-1, 2), on_the_square(name).ravel() * (AXIS[1] - AXIS[0]) ** 2
    assert abs(p.sum() - 1) < 1e-8
    np.testing.assert_allclose(p @ points, 0, atol=1e-8)
    covariance = (points * p[:, None]).T @ points
    assert abs(np.trace(covariance) - 2 * STD**2) < 1e-8
    np.testing.assert_allclose(covariance, covariance_of(LAWS[name]), atol=1e-8)
    inside = np.abs(points).max(axis=1) <= 1.1
    assert p[inside].sum() > 0.98


@pytest.mark.parametrize("name", LAWS)
def test_symmetry(name):
    """All are even, p(−x) = p(x); the squares and the circle have more symmetries than that."""
    p = on_the_square(name)
    np.testing.assert_allclose(p[::-1, ::-1], p, rtol=1e-9, atol=1e-12)
    if name == "checkerboard":  # reflections at the diagonals
        np.testing.assert_allclose(p.T, p, rtol=1e-9, atol=1e-12)
    if name == "eight_gaussians":
        law, points, turn = LAWS[name], SQUARE.reshape(-1, 2)[::41], np.array([[1, -1], [1, 1]]) / math.sqrt(2)
        np.testing.assert_allclose(density(law, points @ turn.T), p.ravel()[::41], rtol=1e-9, atol=1e-12)
    else:
        assert np.abs(np.rot90(p) - p).max() > 0.1 * p.max()


def test_the_checkerboard_is_its_smoothed_squares():
    """Σ_squares Π_axes (Φ((x − a)/w) − Φ((x − a − s)/w))/(8 s²), further than three widths from any edge."""
    law = LAWS["checkerboard"]
    w = width(law)
    spacing = np.diff(np.unique(np.round(law.means[:, 0], 12)))
    np.testing.assert_allclose(spacing, spacing[0], rtol=1e-9)
    s = TILES * spacing[0]
    inner = (np.arange(4)[:, None] - 2) * s + np.linspace(3 * w, s - 3 * w, 9)
    x, y = np.meshgrid(inner.ravel(), inner.ravel(), indexing="ij")
    starts = s * (np.arange(4) - 2)

    def smoothed(z):
        return np.stack([ndtr((z - a) / w) - ndtr((z - a - s) / w) for a in starts])

    exact = sum(smoothed(x)[i] * smoothed(y)[j] for i in range(4) for j in range(4) if (i + j) % 2 == 0) / (8 * s**2)
    found = density(law, np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(x.shape)
    dark = (np.arange(4)[:, None] + np.arange(4)) % 2 == 0
    dark = dark.repeat(9, axis=0).repeat(9, axis=1)
    # 6e-5 of ripples, and the ends of a row of Gaussians, which are off by N'(3) (h/w)²/24 = 1e-3 of the height.
    np.testing.assert_allclose(found[dark], exact[dark], rtol=2e-3)
    assert found[~dark].max() < 1e-2 / (8 * s**2)
    middle = np.abs(inner % s - s / 2) < s / 4
    flat = found[np.ix_(middle.ravel(), middle.ravel())]
    flat = flat[flat > 0.5 / (8 * s**2)]
    assert flat.size == 8 * np.sum(middle[0]) ** 2
    np.testing.assert_allclose(flat, 1 / (8 * s**2), rtol=1e-4)


@pytest.mark.parametrize(("name", "length"), [("two_moons", 80), ("two_spirals", 250)])
def test_curves_are_even_by_arc_length_and_closer_than_they_are_wide(name, length):
    """Chords of arcs of equal length: equal but for their curvature, (1 − κ² h²/24)."""
    law = LAWS[name]
    for curve in (law.means[:length], law.means[length:]):
        gaps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
        np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-3)
        assert gaps.max() <= width(law)
        # Away from the ends the density is that of a line of this mass, up to curvature.
        middle = density(law, curve[20 : length - 20])
        line = 0.5 / (length * gaps.mean()) / (width(law) * math.sqrt(2 * math.pi))
        np.testing.assert_allclose(middle, line, rtol=0.05)


def test_the_curves_have_their_shapes():
    """A moon is half a circle, the other moon's end in its middle; an arm is Archimedean, |x| linear in the angle."""
    moons = LAWS["two_moons"].means
    upper, lower = moons[:80], moons[80:]
    np.testing.assert_allclose(lower, -upper, atol=1e-12)
    # |x − c|² = r² is linear in (c, r² − |c|²).
    solved = np.linalg.lstsq(np.column_stack([2 * upper, np.ones(80)]), np.sum(upper**2, axis=1), rcond=None)[0]
    centre, radius = solved[:2], math.sqrt(solved[2] + solved[:2] @ solved[:2])
    np.testing.assert_allclose(np.linalg.norm(upper - centre, axis=1), radius, rtol=1e-9)
    assert np.linalg.norm(np.diff(upper, axis=0), axis=1).sum() == pytest.approx(np.pi * radius * 79 / 80, rel=1e-3)
    # The lower moon begins half a radius above the centre of the upper one.
    np.testing.assert_allclose(lower[0] - centre, [0, 0.5 * radius], atol=0.05 * radius)
    arm = LAWS["two_spirals"].means[:250]
    radius, angle = np.linalg.norm(arm, axis=1), np.unwrap(np.arctan2(arm[:, 1], arm[:, 0]))
    slope = np.diff(radius) / np.diff(angle)
    np.testing.assert_allclose(slope, slope.mean(), rtol=1e-6)
    assert angle[-1] - angle[0] == pytest.approx(2.5 * np.pi, rel=0.01)
    assert np.pi * slope.mean() > 8 * width(LAWS["two_spirals"])  # neighbouring turns are well apart


def test_eight_modes_on_a_circle_far_apart():
    """Neighbours are 2 r sin(π/8) apart, ten widths; r² /2 + w² = STD²; the density between them is nothing."""
    law = LAWS["eight_gaussians"]
    radius = np.linalg.norm(law.means, axis=1)
    np.testing.assert_allclose(radius**2 / 2 + law.floor, STD**2, rtol=1e-12)
    gaps = np.linalg.norm(law.means - np.roll(law.means, 1, axis=0), axis=1)
    np.testing.assert_allclose(gaps, 2 * radius * math.sin(math.pi / 8), rtol=1e-12)
    assert gaps.min() > 10 * width(law)
    between = 0.5 * (law.means + np.roll(law.means, 1, axis=0))
    assert density(law, between).max() < 1e-5 * density(law, law.means).min()
