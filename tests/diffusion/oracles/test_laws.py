"""The laws as objects: samples, moments, shapes, blocks, leaves, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import EDM, Betas, Process, RectifiedFlow, StudentT
from diffusion.oracles import Atoms, Dirac, GaussianLaw, GaussianMixture, Law, StudentTMixture
from diffusion.oracles.components import posterior
from diffusion.oracles.mixing import student_rule

pytestmark = pytest.mark.usefixtures("x64")

# These programs run once or twice: compiling them well costs more than running them.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FLOW, HEAVY = Process(RectifiedFlow()), Process(RectifiedFlow(), StudentT(3.0))
WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.4], [0.8, -0.3]])
COVARIANCES = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]]])
FACTORS = np.array([[[0.5], [-0.7]], [[1.0], [0.2]]])
LAWS = {
    "dirac": Dirac(MEANS[0]),
    "atoms": Atoms(MEANS, WEIGHTS),
    "gaussian": GaussianLaw.low_rank(MEANS[0], FACTORS[0], 0.3),
    "full": GaussianMixture.full(MEANS, COVARIANCES, WEIGHTS),
    "low-rank": GaussianMixture.low_rank(MEANS, FACTORS, [0.3, 0.6], WEIGHTS),
    "student": StudentTMixture(MEANS, np.array([0.4, 0.7]), 9.0, WEIGHTS),
}
DENSE = [FACTORS[0] @ FACTORS[0].T + 0.09 * np.eye(2), FACTORS[1] @ FACTORS[1].T + 0.36 * np.eye(2)]
MOMENTS = {  # what each law is: weights, means, covariances
    "dirac": ([1.0], MEANS[:1], np.zeros((1, 2, 2))),
    "atoms": (WEIGHTS, MEANS, np.zeros((2, 2, 2))),
    "gaussian": ([1.0], MEANS[:1], DENSE[:1]),
    "full": (WEIGHTS, MEANS, COVARIANCES),
    "low-rank": (WEIGHTS, MEANS, DENSE),
    "student": (WEIGHTS, MEANS, [0.16 * np.eye(2) * 9 / 7, 0.49 * np.eye(2) * 9 / 7]),
}
DRAWS = 4000


@jax.jit
def moments_and_samples(law, key):
    return law.mean, law.covariance, law.sample(key, DRAWS)


@pytest.mark.parametrize("name", LAWS)
def test_moments_and_samples(name):
    """mean and covariance by the law of total variance; samples have them within 4 standard errors."""
    law, (weights, means, covariances) = LAWS[name], MOMENTS[name]
    mean = np.einsum("k,kd->d", weights, means)
    second = sum(w * (c + np.outer(m - mean, m - mean)) for w, m, c in zip(weights, means, covariances, strict=True))
    found_mean, covariance, samples = moments_and_samples(law, jax.random.key(1))
    np.testing.assert_allclose(found_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(covariance, second, rtol=1e-12, atol=1e-14)
    x = np.asarray(samples) - mean
    squares = x[:, :, None] * x[:, None, :]
    for draws, expected in ((x, 0 * mean), (squares, second)):
        assert np.all(np.abs(draws.mean(0) - expected) <= 4 * draws.std(0) / DRAWS**0.5 + 1e-12)


def test_nodes_carry_the_variance_of_student_t():
    """Σ_n w_n/τ_n = df/(df − 2): the sum over components agrees with the closed form."""
    both = quick_jit(lambda law: (Law.covariance.__get__(law), law.covariance))
    by_nodes, closed = both(LAWS["student"])
    np.testing.assert_allclose(by_nodes, closed, rtol=1e-10)


rule_in_one = jax.jit(student_rule, static_argnums=(1, 2))


@pytest.mark.parametrize("df", [1.0, 8.0, 128.0])
@pytest.mark.parametrize("d", [1, 64])
def test_nodes_go_up_to_where_nothing_is_left(df, d):
    """e^{−34} of the peak: of the law of ln τ itself, and of it times the τ^{d/2} of a density in d dimensions."""
    rule = jax.device_get(rule_in_one(df, d, np.dtype("float64")))
    for power in (0.0, d / 2):
        logs = rule.log_weights - power * np.log(rule.spreads)
        assert logs[0] - logs.max() < -33


LINE = {
    "atoms": Atoms(np.array([[-1.0], [0.8]]), WEIGHTS),
    "mixture": GaussianMixture.isotropic([[-1.0], [0.8]], [0.4, 0.7], WEIGHTS),
    "cauchy": StudentTMixture(np.array([[-1.0], [0.8]]), np.array([0.4, 0.7]), 1.0, WEIGHTS),
}


@pytest.mark.parametrize(("name", "process"), [("atoms", HEAVY), ("mixture", FLOW), ("cauchy", FLOW)])
def test_samples_follow_the_marginal(name, process):
    """Kolmogorov-Smirnov at the level of 4 standard errors; a law moved by a third is refused."""
    law, t = LINE[name], 0.4
    x = law.sample_marginal(jax.random.key(2), process, DRAWS, t)
    level = 2 * scipy.stats.norm.sf(4)
    assert scipy.stats.kstest(np.asarray(law.cdf(process, x, t)), "uniform").pvalue > level
    assert scipy.stats.kstest(np.asarray(law.cdf(process, x + 0.3, t)), "uniform").pvalue < level


@pytest.mark.parametrize("name", ["low-rank", "student"])
def test_a_sample_depends_on_its_key_alone(name):
    law, keys = LAWS[name], jax.random.split(jax.random.key(3), 4)
    both = quick_jit(lambda keys, t: (law.sample_marginal(keys, FLOW, 4, t), law.sample(keys, 4)))
    draws = [both(k, t) for k, t in ((keys, 0.3), (keys[::-1], 0.3), (keys, 0.0))]
    np.testing.assert_array_equal(draws[0][0], draws[1][0][::-1])
    np.testing.assert_allclose(*draws[2], rtol=1e-12)


@quick_jit
def everything(law, process, x):
    t = 0.4
    return (
        law.log_prob(process, x, t),
        law.denoiser(process)(x, t),
        law.score(process, x, t),
        law.posterior_covariance(process, x, t),
        law.posterior_variance(process, x, t),
    )


@pytest.mark.parametrize("name", ["full", "low-rank"])
def test_posterior_variance_is_the_trace(name):
    *_, covariance, variance = everything(LAWS[name], HEAVY, jnp.array([[0.3, -0.5], [-2.5, 1.5]]))
    np.testing.assert_allclose(variance, np.trace(covariance, axis1=1, axis2=2), rtol=1e-12)


@pytest.mark.parametrize("name", ["atoms", "low-rank", "student"])
def test_single_precision_is_the_default(name):
    """Parameters given in float64 do not leak: all answers are float32 unless float64 is enabled."""
    law = LAWS[name]

    def ask(key):
        x = law.sample(key, 4)
        return law.mean, law.covariance, x, law.log_prob(HEAVY, x, 0.4), law.denoiser(HEAVY)(x, 0.4)

    with jax.enable_x64(False):
        answers = quick_jit(ask)(jax.random.key(0))
    assert all(answer.dtype == jnp.float32 and np.all(np.isfinite(answer)) for answer in answers)


@pytest.mark.parametrize(("second", "block_size"), [("full", 12), ("trace", 12), ("trace", 1)])
def test_blocks_change_nothing(second, block_size):
    """Many atoms are read in blocks of a few or one by one, the last shorter, some of them without weight."""
    rng = np.random.default_rng(0)
    law = Atoms(rng.normal(size=(17, 2)), rng.uniform(size=17) * (np.arange(17) > 5))
    arguments = law.components(), HEAVY, jnp.asarray(rng.normal(size=(3, 2))), 0.4, True, second
    whole, blocks = posterior(*arguments), posterior(*arguments, block_size=block_size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), blocks, whole)


def test_events_times_and_chains():
    """Images in, images out; t for all or for each; the discrete chain."""
    points, chain = np.random.default_rng(0).normal(size=(3, 2, 2, 1)), Process(Betas.linear(10))
    images, flat = Atoms(points), Atoms(points.reshape(3, 4))
    x, t = jnp.asarray(points[[2, 0]]) + 0.1, jnp.array([3, 7])
    assert images.event_shape == images.mean.shape == (2, 2, 1)
    assert jax.eval_shape(lambda key: images.sample(key, 5), jax.random.key(0)).shape == (5, 2, 2, 1)
    got = images.denoiser(chain)(x, t)
    np.testing.assert_array_equal(got.reshape(2, 4), flat.denoiser(chain)(x.reshape(2, 4), t))
    np.testing.assert_allclose(got[1], images.denoiser(chain)(x, 7)[1], rtol=1e-12)
    sigma, alpha = (np.asarray(value)[:, None, None, None] for value in (chain.sigma(t), chain.alpha(t)))
    np.testing.assert_allclose((x + sigma**2 * images.score(chain, x, t)) / alpha, got, rtol=1e-12)


def test_laws_are_leaves():
    """Rebuilt with tracers, mapped over, differentiated, and no recompilation for another df."""
    traces = []

    @jax.jit
    def loss(law, process, x):
        traces.append(None)
        return jnp.sum(law.log_prob(process, x, 0.5))

    law, x = StudentTMixture(MEANS, np.array([0.4, 0.7]), 3.0, WEIGHTS), jnp.array([[0.3, -0.5], [-2.5, 1.5]])
    values = [loss(law, Process(EDM(), StudentT(df)), x) for df in (1.0, 5.0)]
    assert len(traces) == 1
    assert values[0] != values[1]
    slope = quick_jit(jax.grad(loss))(law, FLOW, x)
    shifted = [StudentTMixture(MEANS + h, law.scales, 3.0, WEIGHTS) for h in (1e-5, -1e-5)]
    up, down = (loss(law, FLOW, x) for law in shifted)
    np.testing.assert_allclose(np.sum(np.asarray(slope.means)), (up - down) / 2e-5, rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture.isotropic(MEANS, [0.1, -0.2]), "stds contains -0.2"),
        (lambda: GaussianMixture.isotropic(MEANS, [0.1, 0.2, 0.3]), "stds has shape"),
        (lambda: GaussianMixture.full(MEANS, -COVARIANCES), "positive semidefinite"),
        (lambda: GaussianMixture.full(MEANS, COVARIANCES[:1]), "covariances has shape"),
        (lambda: GaussianMixture.low_rank(MEANS, np.ones((2, 3, 1)), 0.1), "factors has shape"),
        (lambda: Atoms(MEANS, np.ones(3)), "weights has shape"),
        (lambda: Atoms(MEANS, np.array([1.0, -1.0])), "weights contains -1"),
        (lambda: Atoms(np.zeros((0, 2))), "points has shape"),
        (lambda: StudentTMixture(MEANS, np.ones(2), 0.0), "df = 0"),
        (lambda: StudentTMixture(MEANS, np.ones(2), 1.0).mean, "df > 1"),
        (lambda: StudentTMixture(MEANS, np.ones(2), 2.0).covariance, "df > 2"),
        (lambda: LAWS["atoms"].log_prob(Process(), jnp.zeros((2, 3)), 0.5), "x has shape"),
        (lambda: LAWS["atoms"].cdf(Process(), jnp.zeros((2, 2)), 0.5), "2 dimensions"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_row_of_a_large_float32_batch_is_right_under_heavy_tails():
    """128 rows against sums in NumPy: jaxlib 0.10.2 is wrong from the 55th on."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 4)).astype(np.float32)
    x = (points[:128] + 2.0 * rng.standard_t(8, size=(128, 4))).astype(np.float32)
    square = ((x[:, None].astype(np.float64) - points[None]) ** 2).sum(-1)
    logits = -0.5 * (4 + 8) * np.log(8 * 2.0**2 + square)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    expected = weights / weights.sum(1, keepdims=True) @ points
    found = Atoms(points).denoiser(Process(EDM(), StudentT(8.0)))(jnp.asarray(x), 2.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
