"""Two-sample statistics against their definitions, SciPy and closed forms; the level and the power of their tests."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist

from diffusion.distances import (
    energy_distance,
    energy_test,
    median_distance,
    mmd,
    mmd_test,
    permutation_test,
    sliced_wasserstein,
    sliced_wasserstein_test,
)

KEY = jax.random.key(0)


def samples(seed, n=7, m=4, event=(2, 3), shift=0.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *event)).astype(dtype), (rng.normal(size=(m, *event)) + shift).astype(dtype)


def by_definition(x, y, kernel, unbiased):
    """mean k(x, x') + mean k(y, y') − 2 mean k(x, y), term by term."""

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)) if unbiased else k.mean()

    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    return within(x) + within(y) - 2 * kernel(x, y).mean()


def gaussian_kernel(*widths):
    return lambda a, b: np.mean([np.exp(-cdist(a, b, "sqeuclidean") / (2 * h**2)) for h in widths], axis=0)


# The statistics.


@pytest.mark.parametrize("unbiased", [True, False], ids=["U", "V"])
def test_statistics_are_their_definitions(unbiased, x64):
    x, y = samples(0)
    expected = by_definition(x, y, lambda a, b: -cdist(a, b), unbiased)
    np.testing.assert_allclose(energy_distance(x, y, unbiased=unbiased), expected, rtol=1e-12)
    flat = np.concatenate([x, y]).reshape(11, -1)
    median = np.median(cdist(flat, flat)[np.triu_indices(11, 1)])
    np.testing.assert_allclose(median_distance(x, y), median, rtol=1e-12)
    for bandwidth, widths in ((None, (median,)), (0.8, (0.8,)), (np.array([0.5, 2.0]), (0.5, 2.0))):
        expected = by_definition(x, y, gaussian_kernel(*widths), unbiased)
        np.testing.assert_allclose(mmd(x, y, bandwidth=bandwidth, unbiased=unbiased), expected, rtol=1e-11)


def test_in_one_dimension_the_biased_energy_is_the_distance_of_distribution_functions(x64):
    x, y = samples(1, n=30, m=17, event=(), shift=0.3)
    expected = scipy.stats.energy_distance(x, y) ** 2  # SciPy's is √(2 ∫(F − G)²)
    np.testing.assert_allclose(energy_distance(x, y, unbiased=False), expected, rtol=1e-12)


def folded(mean, variance):
    """E|Z| for Z ~ N(mean, variance)."""
    ratio = mean / np.sqrt(variance)
    tail = mean * (1 - 2 * scipy.stats.norm.cdf(-ratio))
    return np.sqrt(2 * variance / np.pi) * np.exp(-0.5 * ratio**2) + tail


def test_their_means_are_the_distances_of_the_laws(x64):
    """X ~ N(0, 1), Y ~ N(0.5, 1.5²) by closed form, within 4 standard errors; of the V-statistic with its bias."""
    shift, std, h, n, m, repeats = 0.5, 1.5, 0.7, 9, 6, 2000
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(repeats, n, 1)), shift + std * rng.normal(size=(repeats, m, 1))

    @jax.jit
    @jax.vmap
    def statistics(x, y):
        pairs = [(energy_distance(x, y, unbiased=u), mmd(x, y, bandwidth=h, unbiased=u)) for u in (True, False)]
        return jnp.asarray(pairs).reshape(-1)

    def kernel(mean, variance):  # E exp(−Z²/2h²)
        return h / np.sqrt(h**2 + variance) * np.exp(-0.5 * mean**2 / (h**2 + variance))

    both = [(0.0, 2.0), (0.0, 2 * std**2), (shift, 1 + std**2)]
    (e_xx, e_yy, e_xy), (k_xx, k_yy, k_xy) = ([f(*z) for z in both] for f in (folded, kernel))
    energy, squared = 2 * e_xy - e_xx - e_yy, k_xx + k_yy - 2 * k_xy
    expected = [energy, squared, energy + e_xx / n + e_yy / m, squared + (1 - k_xx) / n + (1 - k_yy) / m]
    values = np.asarray(statistics(x, y))
    error = values.std(axis=0) / np.sqrt(repeats)
    assert np.all(np.abs(values.mean(axis=0) - expected) < 4 * error)
    assert np.all(np.abs([energy / 2, squared / 2]) > 4 * error[:2])  # a factor of 2 would be seen


def test_what_motions_of_the_samples_leave(x64):
    x, y = samples(2, n=12, m=9, event=(3,), shift=0.5)
    turn, shift = scipy.stats.ortho_group.rvs(3, random_state=0), np.array([1.0, -2.0, 3.0])
    moved = x @ turn + shift, y @ turn + shift
    rng = np.random.default_rng(0)
    for statistic, scaled in ((energy_distance, 3.0), (mmd, 1.0)):  # the median grows with the points
        value = statistic(x, y)
        np.testing.assert_allclose(statistic(*moved), value, rtol=1e-11)
        np.testing.assert_allclose(statistic(3 * x, 3 * y), scaled * value, rtol=1e-11)
        np.testing.assert_allclose(statistic(y, x), value, rtol=1e-11)
        np.testing.assert_allclose(statistic(rng.permutation(x), rng.permutation(y)), value, rtol=1e-11)


def test_digits_far_from_the_origin_in_single_precision():
    x, y = samples(3, n=40, m=30, event=(5,), dtype=np.float32)
    x, y = x + np.float32(1000), y + np.float32(1000)
    exact = (a.astype(np.float64) for a in (x, y))
    expected = by_definition(*exact, lambda a, b: -cdist(a, b), False)
    np.testing.assert_allclose(energy_distance(x, y, unbiased=False), expected, rtol=1e-5)


def test_gradients_are_those_of_finite_differences(x64):
    """Also of points that coincide."""
    x, y = samples(4, event=(2,), shift=0.5)
    x[1] = y[2] = x[0]
    direction = np.random.default_rng(0).normal(size=x.shape)
    direction[:2] = 0  # |x_0 − x_1| has no derivative
    functions = (energy_distance, functools.partial(mmd, bandwidth=0.8), lambda x, y: sliced_wasserstein(KEY, x, y))
    same = samples(4, event=(2,))[0]

    @jax.jit
    def measure(x, y):
        above, below = (jnp.stack([f(x + h * direction, y) for f in functions]) for h in (1e-6, -1e-6))
        return [jax.grad(f)(x, y) for f in functions], (above - below) / 2e-6, jax.grad(functions[2])(same, same)

    slopes, numeric, finite = measure(x, y)
    np.testing.assert_allclose([np.sum(slope * direction) for slope in slopes], numeric, rtol=1e-6)
    assert np.all(np.isfinite(finite))


def test_sliced_wasserstein_in_one_dimension_is_exact(x64):
    """W_1 by SciPy for n != m; W_p by pairing sorted copies, each x as often as there are y and each y as x."""
    x, y = samples(5, n=12, m=9, event=(1,), shift=0.3)
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    np.testing.assert_allclose(sliced_wasserstein(KEY, x, y, projections=2, p=1), expected, rtol=1e-12)
    gaps = np.abs(np.sort(np.repeat(x, 9)) - np.sort(np.repeat(y, 12)))
    for p in (1.0, 2.0, 3.5):
        expected = np.mean(gaps**p) ** (1 / p)
        np.testing.assert_allclose(sliced_wasserstein(KEY, x, y, projections=2, p=p), expected, rtol=1e-12)


def test_sliced_wasserstein_of_a_shift(x64):
    """y = x + c is at |θᵀc| along every θ; (θᵀc)² has the mean |c|²/d and the variance 2 (d − 1)/(d²(d + 2)) |c|⁴."""
    (x, _), d, lines = samples(6, n=5, event=(4,)), 4, 4000
    c = np.array([1.0, -2.0, 0.5, 1.0])
    value = sliced_wasserstein(KEY, x, x + c, projections=lines)
    error = np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / lines) * c @ c
    assert abs(value**2 - c @ c / d) < 4 * error < 0.1 * value**2
    np.testing.assert_allclose(sliced_wasserstein(KEY, 3 * x, 3 * (x + c), projections=lines), 3 * value, rtol=1e-12)
    assert sliced_wasserstein(KEY, x, x[::-1]) == 0


def test_sliced_wasserstein_is_a_metric_along_the_same_lines(x64):
    clouds = [samples(seed, n=n, event=(3,))[0] for seed, n in enumerate((5, 5, 8))]
    for p in (1.0, 2.0):
        w = np.array([[sliced_wasserstein(KEY, a, b, projections=16, p=p) for b in clouds] for a in clouds])
        np.testing.assert_allclose(w, w.T, rtol=1e-12)
        assert np.all(w[:, None, :] <= (w[:, :, None] + w[None, :, :]) * (1 + 1e-12))


# The tests.


def by_loop(statistic, *args, **kwargs):
    return functools.partial(permutation_test, KEY, functools.partial(statistic, *args, **kwargs))


def test_one_matrix_for_all_permutations_gives_what_recomputing_gives(x64):
    """n != m, so that the diagonal of the matrix matters; bandwidths of the pooled samples stay."""
    x, y = samples(7, n=8, m=5, event=(2,), shift=0.4)
    run, kernel = {"permutations": 60}, {"bandwidth": median_distance(x, y), "unbiased": False}
    pairs = [
        (energy_test(KEY, x, y, **run), by_loop(energy_distance)(x, y, **run)),
        (mmd_test(KEY, x, y, unbiased=False, **run), by_loop(mmd, **kernel)(x, y, **run)),
        (sliced_wasserstein_test(KEY, x, y, p=1.5, **run), by_loop(sliced_wasserstein, KEY, p=1.5)(x, y, **run)),
    ]
    for quick, slow in pairs:
        np.testing.assert_allclose(quick.statistic, slow.statistic, rtol=1e-10)
        assert 1 / 61 < quick.p_value == slow.p_value < 1
    np.testing.assert_allclose(pairs[0][0].statistic, energy_distance(x, y), rtol=1e-12)


def test_p_values_of_three_and_three_are_those_of_all_twenty_partitions(x64):
    """Every partition comes with its mirror image, which has the same statistic but for rounding."""
    x, y = samples(8, n=3, m=3, event=(2,), shift=1.5)
    pooled, draws = np.concatenate([x, y]), 4999
    values = []
    for chosen in itertools.combinations(range(6), 3):
        others = [i for i in range(6) if i not in chosen]
        values.append(by_definition(pooled[list(chosen)], pooled[others], lambda a, b: -cdist(a, b), False))
    exact = np.mean(np.array(values) >= values[0] * (1 - 1e-9))
    p_value = energy_test(KEY, x, y, unbiased=False, permutations=draws).p_value
    assert abs(p_value - exact) < 4 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws
    far = energy_test(KEY, x, y + 100, permutations=draws).p_value
    assert abs(far - 0.1) < 4 * np.sqrt(0.09 / draws) + 1 / draws


ALL_TESTS = {
    "energy": energy_test,
    "mmd": mmd_test,
    "sliced": functools.partial(sliced_wasserstein_test, projections=8),
}


@functools.cache
def p_values(name, repeats, n, m, permutations):
    """(key, x, y) -> the p-values of many pairs of samples in the plane."""

    def one(key, x, y):
        return ALL_TESTS[name](key, x, y, permutations=permutations).p_value

    run = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(1), repeats)
    return lambda x, y: np.asarray(run(keys, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))


REPEATS = {"energy": 1000, "mmd": 1000, "sliced": 400}
"""Sorting costs more than a product."""


def pairs(seed, repeats, n=12, m=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(repeats, n, 2)), rng.normal(size=(repeats, m, 2))


@pytest.mark.parametrize("name", ALL_TESTS)
def test_under_the_null_hypothesis_a_test_rejects_as_often_as_it_says(name):
    """P(p <= k/20) = k/20 exactly, with 19 permutations and without ties; skewed samples do not matter."""
    repeats = REPEATS[name]
    p = p_values(name, repeats, 12, 8, 19)(*(np.exp(a) for a in pairs(0, repeats)))
    for level in (0.05, 0.25, 0.5):
        rate = np.mean(p <= level)
        assert abs(rate - level) < 4 * np.sqrt(level * (1 - level) / repeats), (level, rate)


@pytest.mark.parametrize("name", ALL_TESTS)
def test_ties_make_a_test_no_bolder(name):
    """Coins have few different statistics: the level is kept, not reached."""
    repeats, level = REPEATS[name], 0.05
    p = p_values(name, repeats, 12, 8, 19)(*(np.sign(a) for a in pairs(1, repeats)))
    assert np.mean(p <= level) < level + 4 * np.sqrt(level * (1 - level) / repeats)


@pytest.mark.parametrize("name", ALL_TESTS)
def test_other_laws_are_detected(name):
    """60 against 40 points in the plane at the level of 5%: another mean, another width, another correlation."""
    run = p_values(name, 30, 60, 40, 99)
    x, y = pairs(2, 30, 60, 40)
    mixing = np.array([[1.0, 0.95], [0.0, np.sqrt(1 - 0.95**2)]])
    for other, least in ((y + np.array([0.9, 0.0]), 0.9), (2.5 * y, 0.9), (y @ mixing, 0.3)):
        assert np.mean(run(x, other) <= 0.05) >= least


def test_any_statistic_may_be_tested():
    """The difference of two variances, one-sided, on events of any shape; a p-value is at least 1/(1 + B)."""

    def excess(x, y):
        return jnp.var(x) - jnp.var(y)

    x, y = samples(9, n=30, m=40)
    wide, narrow = (permutation_test(KEY, excess, a * x, y, permutations=99).p_value for a in (2.0, 0.5))
    np.testing.assert_allclose([wide, narrow], [0.01, 1.0], rtol=1e-6)
    assert float(wide) <= 0.01  # in double precision too
    constant = permutation_test(KEY, lambda x, y: jnp.float32(1.0), x, y, permutations=9)
    assert constant.p_value == 1
    same = (
        energy_test(KEY, np.ones((4, 2)), np.ones((3, 2)), permutations=9),
        mmd_test(KEY, np.ones((4, 2)), np.ones((3, 2)), permutations=9),
    )
    assert [float(value) for test in same for value in test] == [0, 1, 0, 1]


def test_bad_samples_are_refused():
    x, y = samples(10)
    lost = x.copy()
    lost[0, 0, 0] = np.nan
    calls = (
        energy_distance,
        mmd,
        median_distance,
        functools.partial(sliced_wasserstein, KEY),
        functools.partial(energy_test, KEY),
        functools.partial(mmd_test, KEY),
        functools.partial(sliced_wasserstein_test, KEY),
        functools.partial(permutation_test, KEY, lambda x, y: jnp.sum(x)),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"y has shape \(1, 2, 3\); give \(n, \*event\) with at least n = 2"):
            call(x, y[:1])
        with pytest.raises(ValueError, match=r"x has events \(2, 3\) and y \(2, 2\); both must have one shape"):
            call(x, y[..., :2])
        with pytest.raises(ValueError, match="x has 1 values that are not finite"):
            call(lost, y)
    for call in calls[4:]:
        with pytest.raises(ValueError, match="permutations = 0; give at least 19"):
            call(x, y, permutations=0)
    with pytest.raises(ValueError, match=r"bandwidth has shape \(1, 2\)"):
        mmd(x, y, bandwidth=np.array([[1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"p = 0.5; W_p is a distance for p >= 1"):
        sliced_wasserstein(KEY, x, y, p=0.5)
    with pytest.raises(ValueError, match="projections = 0; give at least 1 line"):
        sliced_wasserstein(KEY, x, y, projections=0)
