"""One minimiser, four losses (identity row 18); how t is drawn and weighted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, Shifted, StudentT, SubVP, convert, perturb
from diffusion.oracles import Atoms
from diffusion.prediction import target
from diffusion.score_matching.losses import (
    denoising_score_matching,
    denoising_terms,
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    stable_target,
)
from diffusion.score_matching.times import (
    ImportanceTime,
    LogNormalSigma,
    UniformTime,
    draw_uniforms,
    loss_sums,
    updated_second_moments,
)
from diffusion.score_matching.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityWeighting,
    VWeighting,
    signal_to_noise,
)

# One program each, for all processes, weightings and times of one class; a denoiser is a Partial for that.
denoising_terms_in_one = jax.jit(denoising_terms, static_argnames=("draw", "batch_size"))
finite_differences, sliced = (
    jax.jit(loss, static_argnums=1) for loss in (finite_difference_score_matching, sliced_score_matching)
)

WEIGHTS, MEANS = np.asarray([0.3, 0.7]), np.asarray([-1.0, 1.5])


def mixture_log_density(x, alpha, sigma):
    """ln p_t for two atoms, x (n, 1)."""
    exponents = jnp.log(WEIGHTS) - 0.5 * ((x - alpha * MEANS) / sigma) ** 2 - jnp.log(sigma * jnp.sqrt(2 * jnp.pi))
    return jax.nn.logsumexp(exponents, axis=-1)


def test_the_losses_differ_by_constants_and_have_equal_gradients(x64):
    """Row 18 by quadrature: x_t = α x_0 + σ z, atoms x_0, s_θ(x) = θ_0 tanh(θ_1 x) + θ_2."""
    alpha, sigma = 0.8, 0.6
    x = np.linspace(-9, 9, 4001)[:, None]
    dx = float(x[1, 0] - x[0, 0])
    densities = np.exp(-0.5 * ((x - alpha * MEANS) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)) * dx
    p = densities @ WEIGHTS
    x = jnp.asarray(x)
    true_score = jax.vmap(jax.grad(lambda y: mixture_log_density(y[None], alpha, sigma)[0]))

    def model(theta):
        return lambda y: theta[0] * jnp.tanh(theta[1] * y) + theta[2]

    def explicit(theta):
        return jnp.sum(p * explicit_score_matching(model(theta), true_score, x))

    def implicit(theta):
        return jnp.sum(p * implicit_score_matching(model(theta), x))

    def sliced(theta):  # d = 1: v² = 1, so one draw is exact
        return jnp.sum(p * sliced_score_matching(jax.random.key(0), model(theta), x))

    def finite_difference(theta):  # the same, to h² ~ 1e-10
        return jnp.sum(p * finite_difference_score_matching(jax.random.key(0), model(theta), x, 1e-5))

    def denoising(theta):  # ½ E|s − ∇ln p(x_t|x_0)|² over atoms and noise
        error = model(theta)(x) + (x - alpha * MEANS) / sigma**2
        return jnp.sum(WEIGHTS * densities * 0.5 * error**2)

    @jax.jit
    @jax.vmap
    def all_of_them(theta):
        losses = explicit, implicit, sliced, finite_difference, denoising
        return [jax.value_and_grad(loss)(theta) for loss in losses]

    thetas = np.asarray([[-1.0, 0.8, 0.1], [0.4, -1.3, -0.5], [2.0, 0.2, 0.0]])
    (value, slope), *others = jax.device_get(all_of_them(thetas))
    for other, other_slope in others:
        gaps = value - other
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)
        np.testing.assert_allclose(slope, other_slope, rtol=1e-8, atol=1e-9)


def test_implicit_and_sliced_divergence_in_many_dimensions(x64):
    """For s(x) = A x the divergence is tr A; slices average to it within 4 standard errors."""
    rng = np.random.default_rng(0)
    matrix, x = rng.normal(size=(5, 5)), rng.normal(size=(4000, 5))

    def model(y):
        return y @ matrix.T

    @jax.jit
    def both(key, x):
        return implicit_score_matching(model, x), sliced_score_matching(key, model, x)

    expected = np.trace(matrix) + 0.5 * np.sum(model(x) ** 2, 1)
    implicit, slices = both(jax.random.key(2), x)
    np.testing.assert_allclose(implicit, expected, rtol=1e-12)
    gap = np.asarray(slices) - expected
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    assert gap.std() > 0


MATRIX = np.random.default_rng(0).normal(size=(5, 5))
X = np.random.default_rng(1).normal(size=(8, 5, 1))


def linear(y):
    return jnp.einsum("ij,bjk->bik", MATRIX.astype(y.dtype), y)


def crooked(y):
    """A score in five dimensions that is no gradient."""
    return jnp.tanh(linear(y)) - y


def test_finite_differences_have_the_slices_for_their_limit(x64):
    """Along the same v the error is of order h², and none for a linear s; h is not compiled in."""
    key, traces = jax.random.key(2), []

    @jax.jit
    def loss(step):
        traces.append(step)
        return finite_difference_score_matching(key, crooked, jnp.asarray(X), step)

    steps = np.array([0.04, 0.02, 0.01])
    limit = sliced(key, crooked, X)
    errors = np.array([loss(h) for h in steps]) - np.asarray(limit)
    orders = np.log2(np.abs(errors[:-1] / errors[1:]))
    np.testing.assert_allclose(orders, 2, atol=0.05)
    assert len(traces) == 1
    np.testing.assert_allclose(finite_differences(key, linear, X, 0.7), sliced(key, linear, X), rtol=1e-12)


def test_finite_differences_draw_for_each_element_from_its_own_key():
    x, keys = X.astype(np.float32), jax.random.split(jax.random.key(3), 8)
    whole = np.asarray(finite_differences(keys, crooked, x))
    np.testing.assert_allclose(finite_differences(keys[3:5], crooked, x[3:5]), whole[3:5], atol=1e-3)
    np.testing.assert_allclose(whole, sliced(keys, crooked, x), atol=2e-3)
    with pytest.raises(ValueError, match=r"step = 0\.0; give a positive length"):
        finite_difference_score_matching(keys, crooked, jnp.asarray(x), 0.0)


weigh = jax.jit(lambda weighting, process, t: weighting.weight(process, t))

SCHEDULES = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()]
PROCESSES = [
    *(Process(schedule) for schedule in SCHEDULES),
    Process(Shifted(VP(), 2.0)),
    Process(EDM(), StudentT(3.0)),
    Process(RectifiedFlow(), StudentT(3.0)),
    Process(Betas.linear(100)),
]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p.schedule).__name__}-{type(p.noise).__name__}")
def test_weightings_are_mean_squares_of_other_predictions(process, x64):
    """Any two numbers D and x_0, each as the prediction of another kind at one x_t."""
    x_0, z, guess = np.random.default_rng(0).normal(size=(3, 4, 2))
    t = np.asarray([0.1, 0.3, 0.6, 0.9]) * process.t_max
    kinds = {"x0": UniformWeighting(), "eps": SNRWeighting(), "v": VWeighting(), "velocity": VelocityWeighting()}
    if process.schedule.discrete:
        del kinds["velocity"]

    @jax.jit
    def measured(process, x_0, z, guess, t):
        x = perturb(process, x_0, z, t)
        errors = [convert(guess, x, t, process, "x0", kind) - target(process, x_0, z, t, kind) for kind in kinds]
        return errors, [weighting.weight(process, t) for weighting in kinds.values()]

    for error, weight in zip(*jax.device_get(measured(process, x_0, z, guess, t)), strict=True):
        np.testing.assert_allclose(weight * np.sum((guess - x_0) ** 2, 1), np.sum(error**2, 1), rtol=1e-9)


def test_the_weightings_of_the_straight_line_are_powers_of_t(x64):
    process, t = Process(RectifiedFlow()), np.asarray([1e-3, 0.1, 0.5, 0.99])
    np.testing.assert_allclose(weigh(SNRWeighting(), process, t), ((1 - t) / t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(weigh(VWeighting(), process, t), (((1 - t) ** 2 + t**2) / t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(weigh(VelocityWeighting(), process, t), t**-2.0, rtol=1e-12)
    np.testing.assert_allclose(weigh(VelocityWeighting(floor=0.05), process, t), np.maximum(t, 0.05) ** -2, rtol=1e-12)


def test_v_weighting_is_snr_plus_one_where_the_variance_is_kept(x64):
    process, t = Process(VP()), np.asarray([0.01, 0.3, 0.9])
    np.testing.assert_allclose(weigh(VWeighting(), process, t), 1 + weigh(SNRWeighting(), process, t), rtol=1e-9)


@pytest.mark.parametrize("kind", [SNRWeighting, VWeighting, VelocityWeighting])
def test_a_floor_bounds_the_division_by_sigma_and_nothing_else(kind, x64):
    process, t = Process(VP()), np.asarray([1e-3, 0.02, 0.3, 0.9])
    sigma, floor = np.asarray(process.sigma(t)), 0.1
    plain, bounded = weigh(kind(), process, t), weigh(kind(floor=floor), process, t)
    assert (sigma < floor).tolist() == [True, True, False, False]
    np.testing.assert_allclose(bounded, plain * np.minimum(sigma / floor, 1) ** 2, rtol=1e-12)
    np.testing.assert_array_equal(weigh(kind(floor=0.0), process, t), plain)
    with pytest.raises(ValueError, match=r"floor = -0\.1; what σ is bounded by from below is at least 0"):
        kind(floor=-0.1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_likelihood_weighting_is_minus_half_the_slope_of_the_snr(schedule, x64):
    process, t = Process(schedule), np.asarray([0.2, 0.5, 0.8]) * schedule.t_max

    @jax.jit
    def both(t):
        slope = jax.vmap(jax.grad(lambda u: signal_to_noise(process, u)))(t)
        return LikelihoodWeighting().weight(process, t), -0.5 * slope

    weight, expected = both(t)
    np.testing.assert_allclose(weight, expected, rtol=1e-9)


def test_edm_and_min_snr_weightings_are_the_papers(x64):
    process, t, sd = Process(EDM()), np.asarray([0.01, 0.6, 30.0]), 0.4
    np.testing.assert_allclose(weigh(EDMWeighting(sd), process, t), (t**2 + sd**2) / (t * sd) ** 2, rtol=1e-12)
    np.testing.assert_allclose(weigh(MinSNRWeighting(5.0), process, t), np.minimum(1 / t**2, 5.0), rtol=1e-12)


def always(answer, x, t):
    return 0 * x + answer


def test_likelihood_loss_is_an_integral_over_time_whatever_the_proposal(x64):
    """∫ w E|x_0 − D|² dt is one number, whether t is drawn uniformly or log-normally in σ."""
    process = Process(EDM(sigma_min=0.5, sigma_max=4.0))
    x_0 = np.zeros((20_000, 1))
    denoise = Partial(always, 1.0)  # error exactly 1 everywhere: the integral of w is ½(SNR(t_min) − SNR(t_max))
    exact = 0.5 * (1 / 0.5**2 - 1 / 4.0**2)
    for times in (UniformTime(), LogNormalSigma(0.3, 0.9)):
        terms = denoising_terms_in_one(
            jax.random.key(0),
            process,
            denoise,
            x_0,
            weighting=LikelihoodWeighting(),
            times=times,
            draw="independent",
        )
        loss = np.asarray(terms.loss)
        assert abs(loss.mean() - exact) < 4 * loss.std() / np.sqrt(len(loss))


@pytest.mark.parametrize("noise", [None, StudentT(5.0)], ids=["gaussian", "student-t"])
def test_a_perfect_denoiser_of_one_point_has_no_loss(noise, x64):
    process = Process(VP()) if noise is None else Process(VP(), noise)
    loss = jax.jit(denoising_score_matching)
    assert float(loss(jax.random.key(0), process, Partial(always, 0.7), np.full((16, 3), 0.7))) == 0.0


def test_simple_loss_of_the_zero_network_is_one(x64):
    """eps-prediction 0 gives E|ε|²/d = 1 whatever the data."""
    process = Process(Betas.linear(100))
    x_0 = np.random.default_rng(0).normal(size=(4000, 4))

    def denoise(x, t):
        return convert(jnp.zeros_like(x), x, t, process, "eps", "x0")

    terms = denoising_terms_in_one(jax.random.key(1), process, Partial(denoise), x_0)
    loss = np.asarray(terms.loss)
    assert abs(loss.mean() - 1) < 4 * loss.std() / np.sqrt(len(loss))
    assert set(np.unique(np.asarray(terms.t))) <= set(range(1, 101))


def test_terms_do_not_depend_on_how_the_batch_is_shared(x64):
    process, denoise = Process(VP()), Partial(lambda x, t: x)
    x_0 = np.random.default_rng(0).normal(size=(8, 3))
    for draw in ("independent", "low_discrepancy", "antithetic"):
        whole = jax.device_get(denoising_terms_in_one(jax.random.key(1), process, denoise, x_0, draw=draw))
        part = denoising_terms_in_one(
            jax.random.key(1),
            process,
            denoise,
            x_0[2:6],
            draw=draw,
            ids=np.arange(2, 6),
            batch_size=8,
        )
        np.testing.assert_array_equal(part.loss, whole.loss[2:6])
        np.testing.assert_array_equal(part.t, whole.t[2:6])


def test_draws_cover_the_interval_as_they_say():
    ids = jnp.arange(32)
    draws = jax.jit(lambda key: [draw_uniforms(key, ids, 32, name) for name in ("low_discrepancy", "antithetic")])
    even, pairs = (np.asarray(values) for values in draws(jax.random.key(0)))
    np.testing.assert_allclose(np.diff(np.sort(even)), 1 / 32, atol=1e-6)
    pairs = pairs.reshape(16, 2)
    np.testing.assert_allclose(pairs.sum(1), 1, atol=1e-6)
    assert len(np.unique(pairs[:, 0])) == 16
    with pytest.raises(ValueError, match="draw = 'sobol'"):
        draw_uniforms(jax.random.key(0), ids, 32, "sobol")


def test_low_discrepancy_draws_are_uniform_over_many_batches():
    draw_first = jax.jit(
        lambda key: jax.vmap(lambda k: draw_uniforms(k, jnp.arange(4), 4)[0])(jax.random.split(key, 4000))
    )
    first = np.asarray(draw_first(jax.random.key(0)))
    assert abs(float(first.mean()) - 0.5) < 4 / np.sqrt(12 * 4000)
    assert abs(float((first**2).mean()) - 1 / 3) < 4 * np.sqrt(4 / 45 / 4000)


def test_log_normal_times_have_their_law():
    """ln(σ/α) at the quantiles of N(mean, std²), on EDM and, as the logit-normal law, on the straight line."""
    u = np.asarray([0.1586553, 0.5, 0.8413447], np.float32)

    @jax.jit
    def levels(process, u):
        t = LogNormalSigma(-0.4, 1.1).quantile(process, u)
        return t, -0.5 * process.schedule.log_snr(t)

    for schedule in (EDM(), RectifiedFlow()):
        t, found = jax.device_get(levels(Process(schedule), u))
        np.testing.assert_allclose(found, [-1.5, -0.4, 0.7], atol=2e-5)
    np.testing.assert_allclose(np.log(t / (1 - t)), [-1.5, -0.4, 0.7], atol=2e-5)


def test_every_chain_time_is_equally_likely():
    u, chain = (np.arange(1000, dtype=np.float32) + 0.5) / 1000, Process(Betas.linear(10))
    t, counts = np.unique(np.asarray(jax.jit(UniformTime().quantile)(chain, u)), return_counts=True)
    np.testing.assert_array_equal(t, np.arange(1, 11))
    np.testing.assert_array_equal(counts, 100)


def test_importance_sampling_is_unbiased_and_equalises_the_loss(x64):
    process = Process(RectifiedFlow())
    rms = np.asarray([4.0, 1.0, 2.0, 0.5])
    u = (np.arange(100_000) + 0.5) / 100_000

    @jax.jit
    def all_of_it(times, u):
        drawn = times.quantile(process, u), times.correction(u), UniformTime().quantile(process, u)
        return *drawn, times.probabilities(), times.base_uniform(u)

    found = all_of_it(ImportanceTime(UniformTime(), jnp.asarray(rms**2)), u)
    t, correction, uniform, probabilities, base = (np.asarray(a) for a in found)
    for function in (np.ones_like, lambda v: v, lambda v: v**3):  # ∫ f over the base, t uniform on [1e-3, 1]
        np.testing.assert_allclose(np.mean(correction * function(t)), np.mean(function(uniform)), rtol=1e-4)
    np.testing.assert_allclose(np.sum(probabilities), 1.0, rtol=1e-12)
    bins = np.minimum((base * 4).astype(int), 3)
    np.testing.assert_allclose(np.bincount(bins) / len(u), probabilities, atol=1e-4)
    # the corrected loss is nearly the same everywhere: that is what makes its variance least
    corrected = rms[bins] * correction
    assert corrected.std() / corrected.mean() < 0.1 < float(rms.std() / rms.mean())


def test_second_moments_follow_the_losses(x64):
    times, u = ImportanceTime(UniformTime(), np.ones(4)), np.asarray([0.1, 0.2, 0.6, 0.7])
    sums, counts = jax.jit(loss_sums)(times, u, np.asarray([1.0, 3.0, 2.0, 2.0]))
    np.testing.assert_allclose(sums, [10.0, 0, 8.0, 0])
    np.testing.assert_allclose(counts, [2, 0, 2, 0])
    moments, update = np.ones(4), jax.jit(updated_second_moments)
    for _ in range(200):
        moments = update(moments, sums, counts)
    np.testing.assert_allclose(moments, [5.0, 1.0, 4.0, 1.0], rtol=1e-8)


ATOMS = np.random.default_rng(3).normal(size=(5, 2, 2))


@pytest.mark.parametrize("process", [Process(EDM(), StudentT(2.0)), Process(VP())], ids=["pfgm++", "vp"])
def test_the_stable_target_of_all_atoms_is_the_exact_denoiser(process, x64):
    """And so the loss of the exact denoiser is 0: no variance is left. Each atom counts as often as it is there."""
    denoise, x_0 = Atoms(ATOMS).denoiser(process), ATOMS[np.array([0, 3, 3, 1])]
    twice, repeated = Atoms(ATOMS, np.array([2.0, 1.0, 1.0, 1.0, 1.0])), np.concatenate([ATOMS[:1], ATOMS])

    @jax.jit
    def measure(key, x_0, x_t):
        losses = [
            denoising_terms(key, process, denoise, x_0, reference=jnp.asarray(ATOMS)),
            denoising_score_matching(key, process, denoise, x_0, reference=jnp.asarray(ATOMS)),
            denoising_terms(key, process, denoise, x_0),
        ]
        found = stable_target(process, x_0, x_t, jnp.full(4, 0.5), jnp.asarray(repeated))
        return losses, found, twice.denoiser(process)(x_t, 0.5)

    x_t = np.random.default_rng(1).normal(size=(4, 2, 2))
    (terms, mean, plain), found, expected = jax.device_get(measure(jax.random.key(0), x_0, x_t))
    assert mean < 1e-18
    np.testing.assert_allclose(terms.loss, 0, atol=1e-18)
    np.testing.assert_array_equal(plain.t, terms.t)
    assert np.max(plain.loss) > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_own_x_0_counts_once_beside_a_reference_without_it(x64):
    process, x_0 = Process(VP()), ATOMS[:1]

    @jax.jit
    def measure(x_0, x_t, t):
        targets = [stable_target(process, x_0, x_t, t, jnp.asarray(it)) for it in (ATOMS[1:], ATOMS[:0])]
        return *targets, Atoms(ATOMS).denoiser(process)(x_t, 0.5)

    with_others, alone, exact = measure(x_0, np.random.default_rng(1).normal(size=(1, 2, 2)), np.full(1, 0.5))
    np.testing.assert_allclose(with_others, exact, rtol=1e-10)
    np.testing.assert_allclose(alone, x_0, rtol=1e-12)


def test_the_stable_target_is_unbiased_and_its_variance_goes_as_one_over_the_reference(x64):
    """E[target | x_t = x] over x_0 from its posterior and n draws of the data, 40,000 times each.

    Power: the same mean without x_0 itself, which is only consistent, is seen to be off.
    """
    process, points, t = Process(EDM(), StudentT(3.0)), np.array([[-1.0], [0.4], [1.3]]), 0.5
    law, x = Atoms(points), jnp.asarray(np.full((1, 1), 0.2))
    log_posterior = np.asarray(jax.jit(process.noise.log_prob)((x - points) / t))
    exact = float(np.asarray(law.denoiser(process)(x, t))[0, 0])

    @functools.partial(jax.jit, static_argnums=1)
    def targets(key, n):
        def one(key):
            own, others = jax.random.split(key)
            # Beside every atom: so that a draw is never taken for x_0, and no weight is moved.
            reference = jnp.asarray(points)[jax.random.randint(others, (n,), 0, 3)] + 1e-12
            x_0 = jnp.asarray(points)[jax.random.categorical(own, log_posterior)]
            with_own = stable_target(process, x_0[None], x, jnp.full(1, t), reference)
            without = stable_target(process, reference[:1], x, jnp.full(1, t), reference)
            return with_own[0, 0] - exact, without[0, 0] - exact

        return jax.vmap(one)(jax.random.split(key, 40_000))

    def t_value(values):
        return abs(np.mean(values)) / (np.std(values) / 200)

    spread = {}
    for n in (1, 4, 16, 64):
        with_own, without = (np.asarray(values) for values in targets(jax.random.key(n), n))
        spread[n] = float(np.std(with_own))
        assert t_value(with_own) < 4
        assert n > 4 or t_value(without) > 8
    assert (spread[16] / spread[64]) ** 2 == pytest.approx(4, rel=0.15)
    assert spread[1] > spread[4] > spread[16]


def test_a_stable_target_has_no_gradient_and_its_reference_must_fit():
    process, x_0 = Process(VP()), jnp.asarray(ATOMS[:2], jnp.float32)

    def loss(scale):
        return denoising_terms(
            jax.random.key(0), process, lambda x, t: scale * x, x_0, reference=jnp.asarray(ATOMS, jnp.float32)
        ).loss.sum()

    assert np.isfinite(float(jax.jit(jax.grad(loss))(0.5)))
    with pytest.raises(ValueError, match=r"reference has shape \(5, 4\); give \(n, \*event\)"):
        denoising_terms_in_one(
            jax.random.key(0), process, Partial(always, 0.0), x_0, reference=np.zeros((5, 4), np.float32)
        )
