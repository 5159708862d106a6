"""The divergence of the two chains against matrices (identity rows 5, 6 and 7), and its estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Betas, Process
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.elbo import elbo_estimate, elbo_term, elbo_terms, joint_kl, log_ratio, step_probabilities
from diffusion.ddpm.reverse_steps import FixedLarge, Learned
from tests.diffusion.ddpm.gaussian_chain import CASES, GRIDS, Case, Gaussian, build, solved

ISOTROPIC = [case for case in CASES if case.isotropic]


def bounds(it):
    """E[−ELBO | x_0] at each corner x_0: the mean over the corners ε, exact because every term is quadratic in ε."""
    total = np.asarray(it.answers.prior + it.answers.terms.sum(axis=0))
    return it.x_0[:: 2**it.law.mean.size], total.reshape(2**it.law.mean.size, -1).mean(axis=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hos_terms_add_up_to_the_joint_divergence(case, x64):
    """Rows 5 and 6: E[−ELBO] − h(x_0) is KL(q(x_0..x_N) ‖ p(x_0..x_N)) of two Gaussians, every constant included."""
    it = solved(case)
    np.testing.assert_allclose(bounds(it)[1].mean() - it.law.entropy(), it.encoder.kl(it.model), rtol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gap_of_the_elbo_is_the_divergence_of_the_latents(case, x64):
    """Row 7: −ELBO(x_0) + ln p(x_0) = KL(q(x_1..x_N|x_0) ‖ p(x_1..x_N|x_0)) >= 0, for each x_0."""
    it = solved(case)
    index = np.arange(case.d)
    marginal = it.model.part(index)
    for x_0, bound in zip(*bounds(it), strict=True):
        gap = it.encoder.given(index, x_0).kl(it.model.given(index, x_0))
        np.testing.assert_allclose(bound + marginal.log_prob(x_0), gap, rtol=1e-9, atol=1e-12)
        assert gap > 1e-6


@pytest.mark.parametrize("case", ISOTROPIC, ids=str)
def test_at_the_optimum_only_the_prior_is_left(case, x64):
    """Row 5: for isotropic data and the optimal variance q/p is q(x_N)/p(x_N), on every trajectory and on average."""
    it = solved(case)
    end = it.encoder.part(np.arange(case.d) + case.d * it.chain.steps)
    prior = Gaussian(
        np.zeros(case.d), float(it.chain.process.schedule.prior_std(it.chain.times[-1])) ** 2 * np.eye(case.d)
    )
    ratio = it.law.log_prob(it.trajectory[0]) + it.answers.encoder - it.answers.generator
    x_n = it.trajectory[-1]
    np.testing.assert_allclose(ratio, end.log_prob(x_n) - prior.log_prob(x_n), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(it.encoder.kl(it.model), end.kl(prior), rtol=1e-10)


def _crooked(x, t):
    """A denoiser for nothing in particular, with a learned variance."""
    return jnp.tanh(x + jnp.roll(x, 1, axis=-1)), 0.5 + 0.4 * jnp.sin(3 * x + 0.1 * t)


def test_three_forms_of_one_number(x64):
    """Row 6 for any data and denoiser: the joint form is Ho's, draw by draw; trajectories give it on average."""
    chain = GeneratorChain(Process(Betas.linear(9, 0.05, 0.4)), Partial(_crooked), np.array([0, 2, 3, 7, 9]), Learned())
    n = 4000
    x_0 = np.sign(np.random.default_rng(0).normal(size=(n, 2)))

    @jax.jit
    def forms(chain, key, x_0):
        log_q = jnp.arange(n) / n
        joint = joint_kl(key, chain, x_0, log_q)
        return elbo_terms(key, chain, x_0), joint, joint.total - log_q, log_ratio(jax.random.key(9), chain, x_0)

    ho, joint, without_data, ratio = forms(chain, jax.random.key(0), x_0)
    assert ho.steps.shape == (n, 3)
    assert joint.generator.shape == (n, 4)
    np.testing.assert_allclose(without_data, ho.total, rtol=1e-10)
    np.testing.assert_allclose(joint.generator[:, 0], ho.reconstruction, rtol=1e-13)
    gap = np.asarray(ratio - ho.total)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(n)
    assert ratio.std() > ho.total.std() > 0  # what is integrated has no noise


@pytest.fixture(scope="module")
def estimates():
    """Ho's terms and their estimates for 4000 points of N(0, I) with its denoiser, on an EDM grid of 12 steps."""
    process = Process(EDM(sigma_max=20.0))
    times = np.concatenate([[0.0], np.geomspace(0.02, 20.0, 12)])
    chain = GeneratorChain(process, Partial(lambda x, t: x / (1 + t**2)[..., None]), times)
    n = 4000
    x_0 = np.random.default_rng(0).normal(size=(n, 2))

    @jax.jit
    def run(key, x_0):
        return elbo_terms(key, chain, x_0), elbo_estimate(key, chain, x_0, draws=3), step_probabilities(chain)

    @jax.jit
    def one(key, x_0, ids, mass):
        return elbo_estimate(key, chain, x_0, ids=ids, probabilities=mass)

    keys, ids = jax.random.split(jax.random.key(0), 3), np.arange(n)
    with jax.enable_x64(True):
        exact, three, mass = run(keys[0], x_0)
        return {
            "exact": exact,
            "three": three,
            "mass": mass,
            "one": one(keys[1], x_0, ids, mass),
            "reversed": one(keys[1], x_0[::-1], ids[::-1], mass),
            "uniform": one(keys[2], x_0, ids, jnp.full(11, 1 / 11)),
        }


@pytest.mark.parametrize("name", ["one", "three", "uniform"])
def test_the_estimate_is_unbiased(name, estimates, x64):
    exact, estimate = np.asarray(estimates["exact"].total), np.asarray(estimates[name].total)
    error = np.sqrt((exact.var() + estimate.var()) / exact.size)
    assert abs(exact.mean() - estimate.mean()) < 4 * error
    assert estimates[name].steps.shape == (exact.size, 3 if name == "three" else 1)


def test_importance_and_more_draws_make_the_estimate_quieter(estimates, x64):
    std = {name: float(estimates[name].steps.sum(axis=1).std()) for name in ("one", "three", "uniform")}
    assert std["one"] < 0.7 * std["uniform"]
    assert std["three"] < 0.7 * std["one"]
    np.testing.assert_allclose(estimates["mass"].sum(), 1, rtol=1e-12)
    assert np.all(estimates["mass"] > 0)


def test_an_estimate_depends_on_the_key_and_the_id_alone(estimates, x64):
    np.testing.assert_allclose(estimates["reversed"].total[::-1], estimates["one"].total, rtol=1e-12)


def test_the_steps_are_drawn_evenly(x64):
    """With D = 0 only the choice of the step is random, and n draws of it are worth more than n.

    The steps are then ½ d (r² − 1 − ln r²) + ½ c_0² |x_0|²/β with r² = β̃/β.
    """
    schedule, times = GRIDS["edm"]
    chain = GeneratorChain(Process(schedule), Partial(lambda x, t: 0 * x), times, FixedLarge())
    n, (low, high) = 1000, (times[1:-1] ** 2, times[2:] ** 2)
    exact = (low / high - 1 - np.log(low / high)) + (1 - low / high) ** 2 / (high - low)
    drawn = jax.jit(lambda key: elbo_estimate(key, chain, jnp.ones((n, 2))).steps)(jax.random.key(5))
    independent = float(drawn.std()) / np.sqrt(n)
    assert independent > 0
    assert abs(float(drawn.mean()) - exact.sum()) < independent / 3


def test_a_chain_of_one_step_has_nothing_to_draw(x64):
    chain = build(Case("one step", 2, "optimal"))[0]
    terms = jax.jit(elbo_estimate)(jax.random.key(0), chain, jnp.ones((3, 2)))
    assert terms.steps.shape == (3, 0)
    np.testing.assert_allclose(terms.total, terms.prior + terms.reconstruction)


def test_no_draws_are_refused():
    chain = build(Case("edm", 2, "small"))[0]
    with pytest.raises(ValueError, match="draws = 0"):
        elbo_estimate(jax.random.key(0), chain, jnp.ones((3, 2)), draws=0)


def test_a_thousand_steps_in_float32():
    """The sum of a thousand small divergences keeps five digits."""
    process, x_0 = Process(Betas.linear(1000)), np.array([[0.5], [-0.3]])

    def total(dtype):
        x = jnp.asarray(x_0, dtype)
        chain = GeneratorChain(process, Partial(lambda x, t: 0.9 * x), np.arange(1001), FixedLarge())

        @jax.jit
        def run(x):
            def one(k):
                return elbo_term(chain, x, process.alpha(k) * x + process.sigma(k), k)

            return jnp.sum(jax.lax.map(one, jnp.arange(1, 1001)), axis=0)

        return np.asarray(run(x))

    single = total(jnp.float32)
    with jax.enable_x64(True):
        np.testing.assert_allclose(single, total(jnp.float64), rtol=2e-5)


def test_a_row_s_terms_depend_on_its_own_key_alone():
    """Not on the noise of its neighbours, which would be as good a draw and another one in every batch."""
    chain = GeneratorChain(Process(Betas.linear(4)), Partial(lambda x, t: 0.5 * x), np.arange(5), FixedLarge())
    keys, x_0 = jax.random.split(jax.random.key(0), 3), jnp.asarray([[0.3, 1.0], [-1.0, 0.2], [2.0, 0.5]])
    together = jax.jit(elbo_terms)(keys, chain, x_0)
    alone = jax.jit(elbo_terms)(keys[:1], chain, x_0[:1])
    for whole, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(whole[:1], one, rtol=1e-5)
