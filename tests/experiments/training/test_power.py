"""Power-function averages: their profiles by formula, by the recursion and by quadrature; one made from others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config.checks import check
from experiments.config.nodes import WIDEST, EMAConfig
from experiments.errors import UsageError
from experiments.training import ema
from experiments.training.power import Profile, exponent, inner_products, newcomer, relative_width, synthesis
from tests.experiments.training.tiny_run import tiny_config

WIDTHS = (0.05, 0.1, 0.15, 0.25)


def density(profile, at):
    """p(t') of a profile, by its definition."""
    gamma = exponent(profile.sigma_rel)
    inside = (at > 0) & (at <= profile.step)
    return np.where(inside, (gamma + 1) / profile.step * (np.maximum(at, 1e-300) / profile.step) ** gamma, 0.0)


def integral(function, pieces):
    """∫ function by Gauss-Legendre quadrature on each of the pieces."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total = 0.0
    for low, high in itertools.pairwise(pieces):
        at = low + (high - low) * (nodes + 1) / 2
        total += (high - low) / 2 * np.sum(weights * function(at))
    return total


def weights_by_the_recursion(config, count):
    """What each of `count` parameters weighs in each average, by averaging unit vectors as a training averages."""

    def step(averages, n):
        return ema.update_all(averages, {"w": (jnp.arange(count) == n).astype(jnp.float32)}, config, n), None

    averages = tuple({"w": jnp.full(count, 7.0)} for _ in range(ema.count(config)))
    return [np.asarray(average["w"]) for average in jax.lax.scan(step, averages, jnp.arange(count))[0]]


@pytest.mark.parametrize("width", [0.001, *WIDTHS, WIDEST])
def test_the_exponent_is_the_inverse_of_the_width(width):
    gamma = exponent(width)
    np.testing.assert_allclose(relative_width(gamma), width, rtol=1e-9)
    np.testing.assert_allclose(relative_width(gamma) ** 2, (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)), rtol=1e-12)
    assert gamma >= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_profile_has_its_mean_and_its_width(width):
    count, gamma = 1000, exponent(width)
    config = EMAConfig(decays=(0.9,), sigma_rel=(width,))
    weights = weights_by_the_recursion(config, count)[1].astype(np.float64)
    edges = (np.arange(count + 1) / count) ** (gamma + 1)
    np.testing.assert_allclose(weights, np.diff(edges), rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    at = np.arange(count) + 0.5
    mean = np.sum(weights * at)
    np.testing.assert_allclose(mean, count * (gamma + 1) / (gamma + 2), rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.sum(weights * (at - mean) ** 2)), width * count, rtol=1e-3)


def test_the_newcomers_part_is_exact_at_any_step_and_forgets_the_start():
    gamma = exponent(0.1)
    for updates in (2, 10, 10**4, 10**7):
        expected = -np.expm1((gamma + 1) * np.log1p(-1 / updates))
        np.testing.assert_allclose(newcomer(updates, gamma), expected, rtol=1e-6)
    assert newcomer(1, gamma) == 1
    np.testing.assert_allclose(1 - newcomer(3, 2.0), (1 - 1 / 3) ** 3, rtol=1e-6)


def test_averages_by_decay_are_as_they_were_beside_those_by_width():
    rng = np.random.default_rng(0)
    alone, both = EMAConfig(decays=(0.9, 0.99)), EMAConfig(decays=(0.9, 0.99), sigma_rel=(0.1,))
    averages = tuple({"w": jnp.asarray(rng.standard_normal(5), jnp.float32)} for _ in range(3))
    params = {"w": jnp.asarray(rng.standard_normal(5), jnp.float32)}
    together = ema.update_all(averages, params, both, 6)
    for by_itself, beside in zip(ema.update_all(averages[:2], params, alone, 6), together[:2], strict=True):
        np.testing.assert_array_equal(by_itself["w"], beside["w"])
    assert [ema.place_of(both, width) for width in (0.1, 0.2)] == [2, None]
    assert (EMAConfig().widths, EMAConfig(snapshot_every=5).widths) == ((), (0.05, 0.10))


@pytest.mark.parametrize("a", [Profile(0.05, 40), Profile(0.1, 100), Profile(0.25, 70)])
@pytest.mark.parametrize("b", [Profile(0.05, 100), Profile(0.15, 60)])
def test_the_inner_product_is_the_integral(a, b):
    by_quadrature = integral(lambda at: density(a, at) * density(b, at), [0.0, *np.sort([a.step, b.step])])
    products = inner_products([a, b], [b, a, b])
    np.testing.assert_allclose(products[0, [0, 2]], by_quadrature, rtol=1e-6)
    np.testing.assert_allclose(products[1, 1], by_quadrature, rtol=1e-6)


def kept(count, step=1000, widths=(0.05, 0.10)):
    return [Profile(width, step * i // count) for i in range(1, count + 1) for width in widths]


def test_a_profile_that_was_kept_is_itself():
    profiles = kept(20)
    for i in (3, 38, 39):
        weights, distance = synthesis(profiles, profiles[i])
        np.testing.assert_allclose(weights, np.arange(40) == i, atol=1e-9)
        assert distance < 1e-6


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15, 0.2])
def test_a_synthesis_is_the_nearest_sum_of_profiles(width):
    profiles, wanted = kept(10), Profile(width, 1000)
    weights, distance = synthesis(profiles, wanted)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)

    def far(weights):
        def gap(at):
            parts = sum(x * density(profile, at) for x, profile in zip(weights, profiles, strict=True))
            return (parts - density(wanted, at)) ** 2

        return integral(gap, [0.0, *sorted({profile.step for profile in profiles})])

    least = far(weights)
    np.testing.assert_allclose(distance, np.sqrt(least / inner_products([wanted], [wanted])[0, 0]), rtol=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(5):
        aside = rng.standard_normal(len(profiles))
        aside *= 1e-3 / np.linalg.norm(aside)
        assert far(weights + aside - aside.mean()) > least
    # More snapshots come nearer.
    assert synthesis(kept(20), wanted)[1] < distance / 2


def test_an_average_is_made_of_others_within_a_hundredth():
    """Of a walk, whose parameters move by all that they have come to; with twenty snapshots of two widths."""
    count, widths = 400, (0.05, 0.10, 0.15)
    weights = weights_by_the_recursion(EMAConfig(decays=(0.5,), sigma_rel=widths), count)
    walk = np.cumsum(np.random.default_rng(0).standard_normal((count, 300)), axis=0)
    profiles, gammas = kept(20, count), {width: exponent(width) for width in widths}

    def average(profile):
        edges = (np.arange(profile.step + 1) / profile.step) ** (gammas[profile.sigma_rel] + 1)
        return np.diff(edges) @ walk[: profile.step]

    x, _ = synthesis(profiles, Profile(0.15, count))
    made, direct = sum(w * average(p) for w, p in zip(x, profiles, strict=True)), weights[3] @ walk
    np.testing.assert_allclose(average(Profile(0.15, count)), direct, rtol=1e-3, atol=1e-3)
    assert np.linalg.norm(made - direct) < 0.01 * np.linalg.norm(direct)
    # Which no single average of those kept does.
    assert np.linalg.norm(average(Profile(0.10, count)) - direct) > 0.03 * np.linalg.norm(direct)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sigma_rel": (0.3,)}, r"--ema.sigma-rel is \(0.3,\); give different widths above 0 and up to 0.2887"),
        ({"sigma_rel": (0.0,)}, "give different widths"),
        ({"sigma_rel": (0.1, 0.1)}, "give different widths"),
        ({"snapshot_every": -1}, "--ema.snapshot-every is -1; give 0"),
        ({"snapshot_precision": "float32"}, "--ema.snapshot-precision float32 does nothing without snapshots"),
    ],
)
def test_widths_that_no_average_has_are_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        check(tiny_config(ema=fields))


@pytest.mark.parametrize("width", [0.0, -0.1, 0.29, float("nan")])
def test_an_exponent_of_no_width_is_refused(width):
    with pytest.raises(ValueError, match=r"give a width above 0 and up to 0\.2887"):
        exponent(width)
