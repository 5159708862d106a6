"""The encoder's and the generator's chain against their joint laws as matrices (identity rows 1, 4 and 10)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process, StudentT
from diffusion.ddpm.chains import EncoderChain, GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder, GaussianDecoder
from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall
from diffusion.process import posterior_coefficients
from tests.diffusion.ddpm.gaussian_chain import CASES, Case, build, flat, solved


@pytest.mark.parametrize("case", CASES, ids=str)
def test_encoder_density_is_the_joint_law_of_the_marginals(case, x64):
    """Steps against jumps: q(x_0) times the chain's steps is the Gaussian whose every x_k is α_k x_0 + σ_k ε."""
    it = solved(case)
    joint = it.encoder.log_prob(flat(it.trajectory))
    np.testing.assert_allclose(it.law.log_prob(it.trajectory[0]) + it.answers.encoder, joint, rtol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_generator_density_is_the_joint_law_of_its_steps(case, x64):
    it = solved(case)
    np.testing.assert_allclose(it.answers.generator, it.model.log_prob(flat(it.trajectory)), rtol=1e-11)


@pytest.fixture(scope="module")
def sampled():
    """20 000 trajectories of encoder and generator, drawn forwards and with their keys in reverse order."""
    with jax.enable_x64(True):
        case = Case("edm", 2, "small", 0.1)
        chain, encoded, generated, law = build(case)
        n = 20_000
        x_0 = law.mean + np.random.default_rng(1).normal(size=(n, 2)) @ np.linalg.cholesky(law.covariance).T

        @jax.jit
        def draw(keys, x_0):
            return EncoderChain(chain.process, chain.times).sample(keys, x_0), chain.sample(keys, (n, 2))

        keys = jax.random.split(jax.random.key(2), n)
        return draw(keys, x_0), draw(keys[::-1], x_0[::-1]), (encoded, generated)


@pytest.mark.parametrize("which", [0, 1], ids=["encoder", "generator"])
def test_samples_have_the_joint_law(which, sampled):
    """Whitened by the exact joint law, trajectories are standard normal: means and all second moments."""
    x, joint = sampled[0][which], sampled[2][which]
    n = x.shape[1]
    z = np.linalg.solve(np.linalg.cholesky(joint.covariance), (flat(x) - joint.mean).T)
    assert np.max(np.abs(z.mean(axis=1))) < 4 / np.sqrt(n)
    assert np.max(np.abs(z @ z.T / n - np.eye(len(z)))) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize("which", [0, 1], ids=["encoder", "generator"])
def test_a_sample_depends_on_its_key_and_not_on_its_place(which, sampled):
    np.testing.assert_array_equal(sampled[1][which][:, ::-1], sampled[0][which])


def test_a_betas_chain_accumulates_to_unit_variance(x64):
    """Row 1: A² + B² = 1, with A the product of the a's and B² what the steps have added."""
    chain, t = Betas.linear(200), np.arange(1, 201)
    beta, alpha, variance = jax.jit(lambda chain: (chain.beta(t), chain.alpha(t), chain.variance(t)))(chain)
    a, added = 1.0, 0.0
    for k in range(200):
        a, added = a * np.sqrt(1 - beta[k]), (1 - beta[k]) * added + beta[k]
        np.testing.assert_allclose([alpha[k], variance[k], alpha[k] ** 2 + variance[k]], [a, added, 1], rtol=1e-12)


def test_posterior_in_the_notation_of_the_chain(x64):
    """Row 4: N((a B₋² x_t + A₋ b² x_0)/B², B₋² b²/B²), from the β's alone."""
    chain, t = Betas.ramp(100), np.arange(2, 101)
    betas = 0.02 * np.arange(1, 101) / 100
    a_before, b2 = np.sqrt(np.cumprod(1 - betas))[:-1], betas[1:]
    big_b2_before, big_b2 = 1 - a_before**2, 1 - a_before**2 * (1 - b2)
    c_t, c_0, variance = jax.jit(lambda chain: posterior_coefficients(Process(chain), t - 1, t))(chain)
    np.testing.assert_allclose(c_t, np.sqrt(1 - b2) * big_b2_before / big_b2, rtol=1e-12)
    np.testing.assert_allclose(c_0, a_before * b2 / big_b2, rtol=1e-12)
    np.testing.assert_allclose(variance, big_b2_before * b2 / big_b2, rtol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.isotropic], ids=str)
def test_optimal_step_of_isotropic_data_is_the_true_posterior(case, x64):
    """Row 10: p(x_{k−1}|x_k) = q(x_{k−1}|x_k), by conditioning the joint law, at any number of steps."""
    it = solved(case)
    d, x_k = case.d, it.trajectory[0, 0]
    means, stds = it.answers.steps
    decoder = it.answers.decoder
    means, stds = np.concatenate([decoder.mean[None], means]), np.append(decoder.std, stds.ravel())
    for k, (mean, std) in enumerate(zip(means, stds, strict=True), start=1):
        pair = it.encoder.part(np.arange(d * (k - 1), d * (k + 1)))
        exact = pair.given(np.arange(d, 2 * d), x_k)
        np.testing.assert_allclose(mean[0], exact.mean, rtol=1e-12)
        np.testing.assert_allclose(std**2 * np.eye(d), exact.covariance, rtol=1e-12, atol=1e-15)


def test_trajectories_end_where_they_should():
    """In the encoder's order: the first element is x_0, on the grey levels; the last is the prior's."""
    process, times = Process(EDM(sigma_max=50.0)), np.array([0.0, 0.01, 50.0])
    chain = GeneratorChain(process, Partial(lambda x, t: jnp.sign(x)), times, decoder=DiscretisedDecoder())
    x = jax.jit(lambda key: chain.sample(key, (400, 1, 2)))(jax.random.key(0))
    assert x.shape == (3, 400, 1, 2)
    np.testing.assert_allclose((x[0] + 1) * 127.5, np.rint((x[0] + 1) * 127.5), atol=1e-3)
    np.testing.assert_allclose(np.abs(x[0]), 1.0, atol=0.05)
    np.testing.assert_allclose(x[-1].std(), 50.0, rtol=4 / np.sqrt(1600))


def test_the_first_step_has_the_posterior_variance_of_the_second(x64):
    """β̃_1 = 0: FixedSmall decodes with β̃_2, FixedLarge with β_1; a decoder's own std comes first."""
    process, denoise = Process(Betas.linear(5)), Partial(lambda x, t: x)

    @jax.jit
    def variances(process):
        def decoded(times, variance, decoder):
            return GeneratorChain(process, denoise, times, variance, decoder).decode(jnp.ones((1, 2))).std ** 2

        all_times, plain, own = np.arange(6), GaussianDecoder(), GaussianDecoder(0.3)
        return {
            "small": (decoded(all_times, FixedSmall(), plain), posterior_coefficients(process, 1, 2)[2]),
            "large": (decoded(all_times, FixedLarge(), plain), process.schedule.beta(1)),
            "own": (decoded(all_times, FixedSmall(), own), 0.3**2),
            "alone": (decoded(np.array([0, 4]), FixedSmall(), plain), process.schedule.variance(4)),
        }

    for mine, expected in variances(process).values():
        np.testing.assert_allclose(mine, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "times", "message"),
    [
        (VP(), np.array([0.1, 0.5]), "the first of them 0"),
        (VP(), np.array([0.0, 0.5, 0.5]), "ascending"),
        (VP(), np.array([0.0]), "at least two"),
        (VP(), np.array([0.0, 1.5]), "beyond the schedule"),
        (Betas.linear(5), np.array([0.0, 1.5, 5.0]), "not integers"),
        (Betas.linear(5), np.array([0, 6]), "beyond the schedule"),
    ],
)
def test_a_bad_grid_is_refused(schedule, times, message):
    with pytest.raises(ValueError, match=message):
        EncoderChain(Process(schedule), times)


def test_only_gaussian_noise_makes_a_chain():
    process = Process(EDM(), StudentT(3.0))
    with pytest.raises(TypeError, match="Gaussian noise only"):
        EncoderChain(process, np.array([0.0, 1.0])).sample(jax.random.key(0), jnp.ones((2, 2)))


def test_jit_compiles_a_chain_once():
    """Chains are pytrees: other times are no other programme."""
    traces = []

    @jax.jit
    def end(chain, x):
        traces.append(1)
        return chain.step(x, 2).log_prob(x)

    chain = build(Case("edm", 2, "small"))[0]
    for scale in (1.0, 0.9):
        end(GeneratorChain(chain.process, chain.denoise, chain.times * scale, chain.variance), jnp.ones((5, 2)))
    assert len(traces) == 1
