"""Inverse problems on Gaussian data, where the posterior and its denoiser are closed forms.

What is exact is held to 1e-10, or to 4 standard errors where it is sampled; what is biased, to the bias that is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Cosine, Process, RectifiedFlow, StudentT
from diffusion.oracles import GaussianLaw, GaussianMixture
from diffusion.process import posterior_coefficients
from samplers import (
    DDIM,
    Ancestral,
    DPMSolverMultistep,
    EulerMaruyama,
    Heun,
    SDEDPMSolver,
    karras,
    sample,
    uniform_time,
)
from samplers.inpainting import RePaint, Replacement
from samplers.inverse import (
    Measurement,
    dps_guidance,
    isotropic_covariance,
    pseudoinverse_guidance,
    tweedie_covariance,
)
from tests.samplers.programs import answer, answers, chosen, coefficients

KEY = jax.random.key(0)
SCHEDULES = [VP(), EDM(), RectifiedFlow(), Betas.linear(50)]
D = 4
ROOT = np.random.default_rng(0).normal(size=(D, D))
MEAN, COVARIANCE = np.asarray([0.5, -1.0, 0.3, 2.0]), ROOT @ ROOT.T / D + 0.05 * np.eye(D)
LAW = GaussianLaw.full(MEAN, COVARIANCE)
MATRIX = np.random.default_rng(1).normal(size=(2, D))
Y, NOISE = np.asarray([1.0, -2.0]), 0.3


def kind(value):
    return type(value).__name__


def posterior_moments(mean, covariance, matrix, y, noise_std):
    """Mean and covariance of x_0 ~ N(mean, covariance) given y = matrix x_0 + noise_std n (Bishop 2006, eq. 2.116)."""
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T + noise_std**2 * np.eye(len(matrix)))
    left = covariance - gain @ matrix @ covariance
    return mean + gain @ (y - matrix @ mean), 0.5 * (left + left.T)


def posterior(*given):
    """The law with the `posterior_moments`."""
    return GaussianLaw.full(*posterior_moments(*given))


def exact_covariance(law, process, x, t):
    return law.posterior_covariance(process, x, t)


def multiply(matrix, x):
    return x @ matrix.T


def given(r_squared, x, t):
    return r_squared


@pytest.fixture
def x(x64):
    return jax.device_put(2 * np.random.default_rng(5).normal(size=(5, D)))


def times(process):
    """Three for all, and one for each of five; in arrays of five, so that all of them take one program."""
    fractions = [*(np.full(5, fraction) for fraction in (0.06, 0.3, 0.7)), np.asarray([0.1, 0.2, 0.5, 0.7, 0.3])]
    if isinstance(process.schedule, Betas):
        return [np.rint(fraction * 50) for fraction in fractions]
    return [fraction * float(process.t_max) for fraction in fractions]


# ΠGDM


EXACT = [*(("law", schedule) for schedule in SCHEDULES), ("tweedie", VP()), ("tweedie", EDM())]


@pytest.mark.parametrize(("of", "schedule"), EXACT, ids=lambda value: value if isinstance(value, str) else kind(value))
def test_pseudoinverse_guidance_is_exact_on_gaussians(schedule, of, x):
    """With the true Cov[x_0|x_t], the denoiser of the posterior: E[x_0|x_t, y]."""
    process = chosen(schedule)
    denoise = LAW.denoiser(process)
    covariance = Partial(exact_covariance, LAW, process) if of == "law" else tweedie_covariance(process, denoise)
    guided = pseudoinverse_guidance(process, denoise, Measurement(MATRIX, Y, NOISE), covariance)
    exact = posterior(MEAN, COVARIANCE, MATRIX, Y, NOISE).denoiser(process)
    for t in times(process):
        np.testing.assert_allclose(*answers([guided, exact], x, t), rtol=1e-10, atol=1e-10)


def test_tweedies_covariance_is_the_true_one(x):
    """For a law that is not Gaussian too."""
    process = Process(VP())
    law = GaussianMixture.isotropic(np.stack([MEAN, -MEAN]), np.asarray([0.4, 0.7]))
    both = [tweedie_covariance(process, law.denoiser(process)), Partial(exact_covariance, law, process)]
    for t in times(process):
        np.testing.assert_allclose(*answers(both, x, t), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("std", [1.0, 0.6])
def test_the_papers_covariance_is_that_of_isotropic_data(std, x):
    """r² = σ² v/(α² v + σ²), and v = 1 unless given: exact for N(m, v I)."""
    process = Process(VP())
    law = GaussianLaw.isotropic(MEAN, std)
    covariance = None if std == 1 else isotropic_covariance(process, std**2)
    guided = pseudoinverse_guidance(process, law.denoiser(process), Measurement(MATRIX, Y, NOISE), covariance)
    exact = posterior(MEAN, std**2 * np.eye(D), MATRIX, Y, NOISE).denoiser(process)
    for t in times(process):
        np.testing.assert_allclose(*answers([guided, exact], x, t), rtol=1e-10, atol=1e-10)


def test_a_wrong_covariance_is_biased_as_it_must_be(x64):
    """x_0 ~ N(0, v), y seen with σ_y: the shift is v_t/(r² + σ_y²), so r² too large trusts y too little."""
    process, x, t = Process(EDM()), jnp.zeros((1, 1)), 1.0
    law, measurement = GaussianLaw.isotropic(np.zeros(1), 0.5), Measurement(np.eye(1), np.ones(1), NOISE)
    true = 0.25 / 1.25  # v σ²/(v + σ²)
    for r_squared in (0.0, 0.1, true, 0.5):
        guided = pseudoinverse_guidance(process, law.denoiser(process), measurement, Partial(given, r_squared))
        np.testing.assert_allclose(answer(guided, x, t), true / (r_squared + NOISE**2), rtol=1e-12)


def test_tweedies_covariance_is_symmetrised_and_takes_a_learned_variance(x):
    """(σ²/α) ½(J + Jᵀ), for a network whose Jacobian J is not symmetric; a pair's variance is no part of it."""
    process, jacobian = Process(VP()), np.arange(float(D * D)).reshape(D, D)
    for denoise in (lambda x, t: x @ jacobian.T, lambda x, t: (x @ jacobian.T, x**2)):
        found = answer(tweedie_covariance(process, denoise), x, 0.4)
        alpha, sigma = map(float, coefficients(process, 0.4))
        expected = np.broadcast_to(sigma**2 / alpha * 0.5 * (jacobian + jacobian.T), found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    pair = pseudoinverse_guidance(process, denoise, Measurement(MATRIX, Y, NOISE), tweedie_covariance(process, denoise))
    np.testing.assert_array_equal(answer(pair, x, 0.4)[1], x**2)


def test_a_measurement_of_many_scales_is_explained_to_float32():
    """Aᵀ (A Aᵀ r² + σ_y² I)⁻¹ r, solved in float64 here; the slope of the denoiser is 1, and σ = α r = 1."""
    size = 12
    scales = np.geomspace(0.05, 1.0, size)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    matrix, y = scales[:, None] * turn, np.linspace(-1, 1, size)
    covariance = Partial(given, 1.0)
    guided = pseudoinverse_guidance(Process(EDM()), _itself, Measurement(matrix, y, 0.3), covariance)
    expected = matrix.T @ np.linalg.solve(matrix @ matrix.T + 0.09 * np.eye(size), y)
    np.testing.assert_allclose(answer(guided, jnp.zeros((1, size)), 1.0)[0], expected, rtol=1e-4, atol=1e-4)


def _itself(x, t):
    return x


def test_an_operator_may_be_a_function_or_a_matrix(x):
    """Events of any shape; one y for all, or one for each."""
    process = Process(VP())
    denoise, covariance = LAW.denoiser(process), Partial(exact_covariance, LAW, process)
    function = Partial(multiply, MATRIX)
    each = Measurement(function, np.stack([Y, 2 * Y, Y, 0 * Y, Y]), np.asarray([NOISE, 0.1, 1.0, 2.0, NOISE]))
    matrix, map_, several = (
        pseudoinverse_guidance(process, denoise, measurement, covariance)
        for measurement in (Measurement(MATRIX, Y, NOISE), Measurement(function, Y, NOISE), each)
    )
    by_matrix, by_function, several = map(np.asarray, answers([matrix, map_, several], x, 0.4))
    np.testing.assert_allclose(by_function, by_matrix, rtol=1e-12)
    squares = np.asarray(answer(matrix, np.asarray(x).reshape(5, 2, 2), 0.4))
    np.testing.assert_allclose(squares.reshape(5, D), by_matrix, rtol=1e-12)
    for i in range(5):
        alone = posterior(MEAN, COVARIANCE, MATRIX, each.observed[i], each.noise_std[i]).denoiser(process)
        np.testing.assert_allclose(several[i : i + 1], answer(alone, np.asarray(x)[i : i + 1], 0.4), rtol=1e-10)


def test_an_affine_operator_is_exact_too(x):
    """It is linearised, so that its constant is not taken for a row of A."""
    process = Process(VP())
    denoise, covariance = LAW.denoiser(process), Partial(exact_covariance, LAW, process)
    shifted = Measurement(lambda x: x @ MATRIX.T + 3.0, Y + 3.0, NOISE)
    guided = pseudoinverse_guidance(process, denoise, shifted, covariance)
    exact = posterior(MEAN, COVARIANCE, MATRIX, Y, NOISE).denoiser(process)
    np.testing.assert_allclose(*answers([guided, exact], x, 0.4), rtol=1e-10)


def test_a_measurement_may_be_exact_and_redundant(x):
    """σ_y = 0, a row that is said twice and one that says nothing: every answer meets y."""
    process = Process(VP())
    matrix = np.stack([MATRIX[0], MATRIX[0], np.zeros(D), MATRIX[1]])
    y = np.asarray([Y[0], Y[0], 0.0, Y[1]])
    guided = pseudoinverse_guidance(
        process, LAW.denoiser(process), Measurement(matrix, y), Partial(exact_covariance, LAW, process)
    )
    exact = posterior(MEAN, COVARIANCE, MATRIX, Y, 0.0).denoiser(process)
    got, wanted = answers([guided, exact], x, 0.4)
    np.testing.assert_allclose(got, wanted, rtol=1e-8)
    np.testing.assert_allclose(np.asarray(got) @ MATRIX.T, np.broadcast_to(Y, (5, 2)), rtol=1e-8)


ENDLESS = (Cosine(), RectifiedFlow())


@pytest.mark.parametrize("schedule", ENDLESS, ids=kind)
def test_pure_noise_is_no_place_to_be_guided_and_no_nan(schedule, x):
    process = chosen(schedule, ENDLESS)
    denoise, measurement = LAW.denoiser(process), Measurement(MATRIX, Y, NOISE)
    guided = pseudoinverse_guidance(process, denoise, measurement, tweedie_covariance(process, denoise))
    dps = dps_guidance(process, denoise, measurement)
    plain, *others = answers([denoise, guided, dps], x, schedule.t_max)
    for other in others:
        np.testing.assert_allclose(other, plain, rtol=1e-12)


def test_the_data_s_end_is_left_alone(x):
    """At σ = 0, with σ_y = 0 and no covariance to share out, the system is 0 u = r; and x is x_0."""
    process = Process(EDM())
    guided = pseudoinverse_guidance(process, LAW.denoiser(process), Measurement(MATRIX, Y))
    np.testing.assert_allclose(answer(guided, x, 0.0), x, rtol=1e-12)


def test_an_operator_that_is_not_linear_is_linearised_at_the_answer(x):
    process, t, r_squared = Process(EDM()), 0.7, 0.2
    guided = pseudoinverse_guidance(
        process, lambda x, t: 0.5 * x, Measurement(jnp.sin, np.ones(D), 0.5), lambda x, t: jnp.asarray(r_squared)
    )
    got, x = answer(guided, x, t), np.asarray(x)
    slope = np.cos(0.5 * x)
    explained = slope * (1 - np.sin(0.5 * x)) / (slope**2 * r_squared + 0.25)
    np.testing.assert_allclose(got, 0.5 * x + t**2 * 0.5 * explained, rtol=1e-10)


def check_moments(drawn, mean, covariance, slack=0.0):
    """Mean and covariance at 4 standard errors of a Gaussian's, and `slack` for the steps."""
    count, variances = len(drawn), np.diag(covariance)
    assert (np.abs(drawn.mean(0) - mean) < 4 * np.sqrt(variances / count) + slack).all()
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    assert (np.abs(np.cov(drawn.T) - covariance) < 4 * error + slack).all()


def test_the_posterior_is_sampled(x64):
    """By any sampler, since it is a denoiser; and the law of the data itself would not pass."""
    process, count = Process(EDM()), 4000
    covariance = Partial(exact_covariance, LAW, process)
    guided = pseudoinverse_guidance(process, LAW.denoiser(process), Measurement(MATRIX, Y, NOISE), covariance)
    drawn = np.asarray(sample(KEY, process, guided, DPMSolverMultistep(), karras(process, 40), (count, D)).x)
    check_moments(drawn, *posterior_moments(MEAN, COVARIANCE, MATRIX, Y, NOISE), slack=0.01)
    with pytest.raises(AssertionError):
        check_moments(drawn, MEAN, COVARIANCE, slack=0.01)


# DPS


def test_dps_is_its_formula(x):
    """For a linear denoiser D x and linear A: x̂_0 + w (σ²/α) Dᵀ Aᵀ (y − A x̂_0)/σ_y², with w and σ_y for each."""
    process, t = Process(VP()), 0.4
    scale, noise = np.asarray([1.0, 0.5, 2.0, 0.0, 1.0]), np.asarray([0.3, 1.0, 0.3, 0.3, 2.0])
    guided = dps_guidance(process, lambda x, t: x @ ROOT.T, Measurement(MATRIX, Y, noise), scale)
    got, x = answer(guided, x, t), np.asarray(x)
    residual = Y - x @ ROOT.T @ MATRIX.T
    alpha, sigma = coefficients(process, t)
    shift = float(sigma) ** 2 / float(alpha) * (scale / noise**2)[:, None] * (residual @ MATRIX @ ROOT)
    np.testing.assert_allclose(got, x @ ROOT.T + shift, rtol=1e-11)


def test_dps_is_pseudoinverse_guidance_without_covariance(x):
    process = Process(EDM())
    denoise, measurement = LAW.denoiser(process), Measurement(MATRIX, Y, NOISE)
    nothing = pseudoinverse_guidance(process, denoise, measurement, Partial(given, 0.0))
    for t in times(process):
        np.testing.assert_allclose(*answers([dps_guidance(process, denoise, measurement), nothing], x, t), rtol=1e-11)


def test_dps_takes_an_operator_that_is_not_linear(x):
    process, t = Process(EDM()), 0.7
    guided = dps_guidance(process, lambda x, t: 0.5 * x, Measurement(jnp.sin, np.ones(D), 0.5))
    got, x = answer(guided, x, t), np.asarray(x)
    slope = 0.5 * np.cos(0.5 * x) * (1 - np.sin(0.5 * x)) / 0.25
    np.testing.assert_allclose(got, 0.5 * x + t**2 * slope, rtol=1e-11)


def test_the_bias_of_dps_is_known(x64):
    """Unit data, A = 1, k = 1/σ_y²: the flow ends with the variance e^{−k} and not 1/(1 + k), its mean beyond y itself.

    dx/dσ = x [σ/(1 + σ²) + k σ/(1 + σ²)²] − y k σ/(1 + σ²) is linear: from σ = ∞ its solution has the mean
    y k ∫ e^{k (v² − 1)/2} dv over [0, 1]. The exact one is y k/(1 + k), and ΠGDM has it.
    """
    process, noise = Process(EDM()), 0.7
    law, measurement = GaussianLaw.isotropic(np.zeros(1), 1.0), Measurement(np.eye(1), np.ones(1), noise)
    denoise, grid, start = law.denoiser(process), karras(process, 200), jnp.asarray([[-80.0], [0.0], [80.0]])

    def ends(guided):
        ends = np.asarray(sample(KEY, process, guided, Heun(), grid, (3, 1), x_init=start).x)[:, 0]
        return ends[1], ends[2] - ends[1]  # the mean, and the standard deviation

    # The start is the data's at σ = 80, not the posterior's: an eightieth of its mean.
    k, v = 1 / noise**2, (np.arange(1000) + 0.5) / 1000
    mean, std = ends(pseudoinverse_guidance(process, denoise, measurement))
    np.testing.assert_allclose([mean, std**2], [k / (1 + k), 1 / (1 + k)], rtol=1e-2)
    mean, std = ends(dps_guidance(process, denoise, measurement))
    np.testing.assert_allclose([mean, std**2], [np.mean(k * np.exp(k * (v**2 - 1) / 2)), np.exp(-k)], rtol=1e-2)
    assert mean > 1


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_the_bias_of_dps_by_the_reverse_sde_is_another(noise, x64):
    """½ σ_y² (1 − e^{−2/σ_y²}): with u = α², W = u V follows dW/du = 1 − 2W/σ_y² from 0.

    Here by the variance of ancestral steps, each of which is linear: V_s = (c_t + c_0 a)² V_t + β̃, with the slope a of
    the guided denoiser.
    """
    process, law = Process(VP()), GaussianLaw.isotropic(np.zeros(1), 1.0)
    guided = dps_guidance(process, law.denoiser(process), Measurement(np.eye(1), np.ones(1), noise))
    times = np.linspace(1.0, 0.0, 4001)

    @jax.jit
    def steps(t, s):
        slope = guided(jnp.ones((len(t), 1)), t) - guided(jnp.zeros((len(t), 1)), t)
        return slope[:, 0], posterior_coefficients(process, s, t)

    slope, (c_t, c_0, spread) = jax.tree.map(np.asarray, steps(times[:-1], times[1:]))
    variance = 1.0
    for factor, added in zip((c_t + c_0 * slope) ** 2, spread, strict=True):
        variance = factor * variance + added
    assert variance == pytest.approx(noise**2 / 2 * (1 - np.exp(-2 / noise**2)), rel=1e-2)


# Replacement and RePaint

PAIR_MEAN, PAIR = np.asarray([0.5, -0.3]), np.asarray([[1.0, 0.8], [0.8, 1.0]])
KNOWN, MASK = np.asarray([1.5, np.nan]), np.asarray([True, False])
PAIR_POSTERIOR = (PAIR_MEAN[1] + 0.8 * (KNOWN[0] - PAIR_MEAN[0]), 1 - 0.8**2)


def unknown(law, sampler, count, steps=40):
    """Samples of the unknown coordinate of a pair."""
    process = Process(VP())
    drawn = np.asarray(sample(KEY, process, law.denoiser(process), sampler, uniform_time(process, steps), (count, 2)).x)
    np.testing.assert_array_equal(drawn[:, 0], np.full(count, KNOWN[0], drawn.dtype))
    return np.asarray(drawn[:, 1], np.float64)


def test_the_known_part_is_the_forward_process(x64):
    """α_s y + σ_s n at every time on the way, and y at the end: mean and variance at 4 standard errors."""
    process, count = Process(VP()), 4000
    denoise = GaussianLaw.full(PAIR_MEAN, PAIR).denoiser(process)
    sampler = Replacement(Ancestral(), KNOWN, MASK)
    result = sample(KEY, process, denoise, sampler, uniform_time(process, 4), (count, 2), keep_every=1)
    known, (alpha, sigma) = np.asarray(result.trajectory)[1:-1, :, 0], coefficients(process, result.times)
    alpha, sigma = np.asarray(alpha)[1:-1], np.asarray(sigma)[1:-1]
    assert (np.abs(known.mean(1) - alpha * KNOWN[0]) < 4 * sigma / np.sqrt(count)).all()
    assert (np.abs(known.var(1) - sigma**2) < 4 * sigma**2 * np.sqrt(2 / count)).all()
    np.testing.assert_array_equal(np.asarray(result.x)[:, 0], KNOWN[0])


def test_replacement_is_right_where_the_parts_are_independent():
    law = GaussianLaw.full(PAIR_MEAN, np.diag([1.0, 0.25]))
    drawn, error = unknown(law, Replacement(EulerMaruyama(), KNOWN, MASK), 4000, steps=200), 0.5 / np.sqrt(4000)
    assert abs(drawn.mean() - PAIR_MEAN[1]) < 4 * error
    assert abs(drawn.var() - 0.25) < 4 * 0.25 * np.sqrt(2 / 4000) + 0.01


def test_the_bias_of_replacement_is_known_and_resampling_mends_it():
    """The unknown part follows y too little and is too wide; RePaint follows it more with every resampling.

    The more often the steps are repeated, the closer to the posterior: within 4 standard errors, and a twentieth of
    the way for what 20 resamplings and 40 steps leave.
    """
    law, count = GaussianLaw.full(PAIR_MEAN, PAIR), 2000
    mean, variance = PAIR_POSTERIOR
    way = mean - PAIR_MEAN[1]
    error = np.sqrt(variance / count)
    plain = unknown(law, Replacement(EulerMaruyama(), KNOWN, MASK), 4000, steps=200)  # a program of the test above
    few, many = (unknown(law, RePaint(EulerMaruyama(), KNOWN, MASK, resamplings=r), count) for r in (4, 20))
    assert mean - plain.mean() > 0.3 * way
    assert plain.var() - variance > 0.25 * variance
    assert plain.mean() + 4 * error < few.mean() < few.mean() + 2 * error < many.mean()
    assert abs(many.mean() - mean) < 4 * error + 0.05 * way
    assert abs(many.var() - variance) < 4 * variance * np.sqrt(2 / count) + 0.05 * variance


WRAPPERS = {
    "replacement": lambda inner, known, mask: Replacement(inner, known, mask),
    "repaint": lambda inner, known, mask: RePaint(inner, known, mask, resamplings=2),
    "repaint-jumps": lambda inner, known, mask: RePaint(inner, known, mask, resamplings=3, jump=2),
}


def bent(x, t):
    return jnp.tanh(x) + 0.1 * jnp.cos(t) + 0.2 * x[:, ::-1]


def test_without_anything_known_it_is_the_sampler_inside():
    """Of one that draws noise and remembers its predictions."""
    process, inner = Process(EDM()), SDEDPMSolver()
    nothing = Replacement(inner, np.zeros(2), np.zeros(2, bool))
    once = RePaint(inner, np.zeros(2), np.zeros(2, bool), resamplings=1)
    plain, *wrapped = (sample(KEY, process, bent, s, karras(process, 5), (3, 2)).x for s in (inner, nothing, once))
    for other in wrapped:
        np.testing.assert_allclose(other, plain, rtol=1e-6)


def test_repaint_goes_over_the_paper_s_path():
    """The times at which the model is asked, with jumps of two steps; none from the data's end."""
    process, seen = Process(EDM()), []

    def watched(x, t):
        jax.debug.callback(lambda u: seen.append(int(u)), t, ordered=True)
        return bent(x, t)

    def path(grid, **options):
        seen.clear()
        sampler = RePaint(DDIM(), KNOWN, MASK, **options)
        result = sample(KEY, process, watched, sampler, np.asarray(grid, float), (2, 2))
        result.x.block_until_ready()
        jax.effects_barrier()
        assert len(seen) == result.nfe
        return list(seen)

    assert path([8, 6, 4, 2, 0], resamplings=2, jump=2) == [8, 6, 8, 6, 4, 2]
    assert path([8, 6, 4, 2, 1], resamplings=2, jump=2) == [8, 6, 8, 6, 4, 2, 4, 2]
    assert path([8, 6, 4, 2, 1, 0], resamplings=3, jump=2) == [8, 6] * 3 + [4, 2] * 3 + [1]
    assert path([8, 4, 2, 0], resamplings=3) == [8] * 3 + [4] * 3 + [2]


def test_the_history_of_a_multistep_method_is_not_carried_back_up(x64):
    """From where it was noised up to, the way down is the sampler's own from its start."""
    process, seen = Process(EDM()), []

    def watched(x, t):
        jax.debug.callback(lambda y: seen.append(np.asarray(y)), x, ordered=True)
        return bent(x, t)

    grid, nothing = np.asarray([3.0, 2.0, 1.0]), (np.zeros(2), np.zeros(2, bool))
    twice = RePaint(DPMSolverMultistep(), *nothing, resamplings=2, jump=2)
    end = sample(KEY, process, watched, twice, grid, (3, 2)).x.block_until_ready()
    jax.effects_barrier()
    alone = sample(KEY, process, bent, DPMSolverMultistep(), grid, (3, 2), x_init=jnp.asarray(seen[2])).x
    np.testing.assert_allclose(end, alone, rtol=1e-10)


def test_repaint_returns_to_the_law_it_left():
    """Nothing known: noised up and sampled down again, the law stays that of the data, at 4 standard errors."""
    process, count = Process(VP()), 4000
    mean, std = np.asarray([0.7, -0.2]), 0.6
    law = GaussianLaw.isotropic(mean, std)
    sampler = RePaint(EulerMaruyama(), np.zeros(2), np.zeros(2, bool), resamplings=3, jump=5)
    drawn = sample(KEY, process, law.denoiser(process), sampler, uniform_time(process, 150), (count, 2)).x
    check_moments(np.asarray(drawn, np.float64), mean, std**2 * np.eye(2), slack=0.006)


def nothing(x, t):
    return 0 * x


def test_the_draws_of_a_wrapper_are_its_own(x64):
    """The noise of the known part is not that of the sampler inside, nor twice the same on the way."""
    process, x, grid = Process(EDM()), jax.device_put(np.zeros((2000, 2))), np.asarray([3.0, 2.0, 1.0])
    samplers = Ancestral(), Replacement(Ancestral(), np.zeros(2), MASK)
    plain, held = (
        np.asarray(sample(KEY, process, nothing, sampler, grid, x.shape, x_init=x, keep_every=1).trajectory)
        for sampler in samplers
    )
    columns = [plain[1, :, 0], held[1, :, 0], held[2, :, 0], held[1, :, 1]]
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(2000)


# What holds for all of them


def shrink(weight, x, t):
    """Each coordinate sees the other, so that the noise of the known one shows in the unknown one."""
    return weight * (x + 0.2 * x[:, ::-1]) / (1 + t**2)


def half(weight, x, t):
    return shrink(weight, x, t).astype(jnp.bfloat16)


def inverse(counted, name, weight, noise, y):
    """One solver of each sort: its denoiser and its sampler."""
    process, denoise = Process(EDM()), Partial(counted, weight)
    measurement = Measurement(MATRIX[:, :2], y, noise)
    if name == "dps":
        return dps_guidance(process, denoise, measurement, noise / 10), DDIM()
    if name == "pseudoinverse":
        return pseudoinverse_guidance(process, denoise, measurement, isotropic_covariance(process, noise)), DDIM()
    if name == "tweedie":
        return pseudoinverse_guidance(process, denoise, measurement, tweedie_covariance(process, denoise)), DDIM()
    return denoise, WRAPPERS[name](INSIDE[name](noise), y, MASK)


INSIDE = {
    "replacement": lambda noise: Heun(S_churn=noise),
    "repaint": lambda noise: DPMSolverMultistep(),
    "repaint-jumps": lambda noise: Heun(S_churn=noise),
}
SOLVERS = ["dps", "pseudoinverse", "tweedie", *WRAPPERS]


@pytest.mark.parametrize("name", SOLVERS)
def test_no_measurement_recompiles_and_sample_i_depends_on_the_seed_and_i_alone(name):
    """Nor does a grid that ends above the data; and `nfe` is the number of calls, where nothing is derived of them."""
    traces, calls = [], []

    def counted(weight, x, t):
        traces.append(1)
        if name in WRAPPERS:
            jax.debug.callback(lambda: calls.append(1))
        return half(weight, x, t)

    process, to_data, above = Process(EDM()), karras(Process(EDM()), 4), karras(Process(EDM()), 5)[:-1]
    known = Y * np.linspace(-1, 1, 13)[:, None]

    def draw(weight, noise, scale, grid, ids):
        denoise, sampler = inverse(counted, name, weight, noise, scale * known[ids])
        calls.clear()
        result = sample(KEY, process, denoise, sampler, grid, (len(ids), 2), ids=ids)
        end = np.asarray(result.x)
        jax.effects_barrier()
        assert name not in WRAPPERS or len(calls) == result.nfe
        assert np.isfinite(end).all()
        return end

    whole, count = draw(0.5, 0.5, 1, to_data, np.arange(8)), len(traces)
    assert count > 0
    assert len(np.unique(whole[:, 1])) == 8
    some = np.asarray([6, 0, 3])
    company = draw(0.5, 0.5, 1, to_data, np.concatenate([some, np.arange(8, 13)]))
    np.testing.assert_allclose(company[:3], whole[some], rtol=1e-5, atol=1e-6)
    assert not np.allclose(draw(0.6, 1, 2, to_data, np.arange(8)), whole)
    draw(0.7, np.float64(0.4), 0, above, np.arange(8))
    assert len(traces) == count


@pytest.mark.parametrize("name", SOLVERS)
def test_precision_is_that_of_the_state(name):
    """Measurements are NumPy's float64, networks may answer in bfloat16; the samples are what the switch says."""
    process, grid = Process(EDM()), karras(Process(EDM()), 3)

    def dtype(network):
        denoise, sampler = inverse(network, name, 0.5, 0.5, Y)
        return jax.eval_shape(lambda: sample(KEY, process, denoise, sampler, grid, (2, 2)).x).dtype

    assert dtype(half) == jnp.float32
    with jax.enable_x64(True):
        assert dtype(shrink) == jnp.float64


def test_one_sample_s_measurement_is_nobody_else_s(x):
    """Conjugate gradients stop for each sample by itself."""
    process = Process(VP())
    denoise, ys = LAW.denoiser(process), np.stack([Y, 1e6 * Y, 0 * Y, -Y, Y])

    def guided(ys, x):
        measurement = Measurement(MATRIX, ys, NOISE)
        guided = pseudoinverse_guidance(process, denoise, measurement, tweedie_covariance(process, denoise))
        return np.asarray(answer(guided, x, 0.4))

    x = np.asarray(x)
    whole = guided(ys, x)
    for i in (0, 2, 4):  # among its likes, which stop when it does
        alike = guided(np.tile(ys[i], (5, 1)), np.tile(x[i], (5, 1)))
        np.testing.assert_allclose(alike, np.tile(whole[i], (5, 1)), rtol=1e-11)


HEAVY = Process(EDM(), StudentT(3.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dps_guidance(HEAVY, jnp.add, Measurement(MATRIX, Y, 1.0)), "diffusion posterior sampling"),
        (lambda: pseudoinverse_guidance(HEAVY, jnp.add, Measurement(MATRIX, Y)), "pseudoinverse guidance"),
        (lambda: tweedie_covariance(HEAVY, jnp.add), "Tweedie's covariance"),
        (lambda: Replacement(DDIM(), KNOWN, MASK).check_noise(HEAVY), "Replacement"),
        (lambda: RePaint(DDIM(), KNOWN, MASK).check_noise(HEAVY), "RePaint"),
    ],
)
def test_all_are_for_gaussian_noise(make, words):
    with pytest.raises(TypeError, match=f"{words} exists for Gaussian noise only, and the noise is StudentT"):
        make()


def draw(sampler, steps=3):
    process = Process(EDM())
    return sample(KEY, process, bent, sampler, karras(process, steps), (3, 2))


def guide(measurement, covariance=None):
    return pseudoinverse_guidance(Process(EDM()), bent, measurement, covariance)(jnp.ones((3, 4)), 1.0)


REFUSED = [
    (lambda: Measurement(MATRIX, Y, -1.0), r"noise_std = -1\.0; give 0 for an exact measurement"),
    (lambda: Measurement(Y, Y), r"observe has shape \(2,\); give a matrix \(m, d\)"),
    (
        lambda: dps_guidance(Process(EDM()), bent, Measurement(MATRIX, Y, 0.0)),
        "noise_std = 0; DPS divides by its square",
    ),
    (
        lambda: guide(Measurement(MATRIX[:, :3], Y)),
        r"observe has shape \(2, 3\), and an event 4 numbers; give \(m, d\)",
    ),
    (lambda: guide(Measurement(MATRIX, MEAN)), r"observed has shape \(4,\); give \(2,\) for all samples, or \(3, 2\)"),
    (
        lambda: guide(Measurement(MATRIX, Y), lambda x, t: jnp.eye(4)),
        r"covariance answers with the shape \(4, 4\); give",
    ),
    (lambda: Replacement(DDIM(), KNOWN, np.ones(2)), "mask is an array of float64; give booleans"),
    (
        lambda: draw(Replacement(DDIM(), MEAN, MASK)),
        r"observed has shape \(4,\); give \(2,\) for all samples, or \(3, 2\)",
    ),
    (lambda: draw(Replacement(DDIM(), KNOWN, MASK[:1])), r"mask has shape \(1,\); give \(2,\) for all samples"),
    (lambda: RePaint(DDIM(), KNOWN, MASK, resamplings=0), "resamplings = 0; give 1 or more"),
    (lambda: RePaint(DDIM(), KNOWN, MASK, jump=0), "jump = 0; give 1 or more"),
    (lambda: draw(RePaint(DDIM(), KNOWN, MASK, jump=4)), "jump = 4 is longer than the grid of 3 steps"),
    (lambda: draw(Replacement(DDIM(eta=9.0), KNOWN, MASK)), "eta = 9 asks for more noise than there is room for"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_arguments_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
