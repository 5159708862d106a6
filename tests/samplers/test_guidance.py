"""Guided denoisers against exact conditional ones, and CFG++ against the DDIM step that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Cosine, Process, RectifiedFlow, StudentT
from diffusion.oracles import Dirac, GaussianLaw, GaussianMixture
from samplers import DDIM, Ancestral, classifier_free_guidance, karras, sample, uniform_time
from samplers.cfgpp import CFGPP, ConditionalPair, conditional_pair
from samplers.guidance import autoguidance, classifier_guidance, interval_guidance
from tests.samplers.programs import answers, chosen, coefficients

KEY = jax.random.key(0)
SCHEDULES = [VP(), EDM(), RectifiedFlow(), Betas.linear(50)]
MEANS, STDS, WEIGHTS = np.asarray([[-1.0, 0.5], [1.5, 0.0]]), np.asarray([0.4, 0.7]), np.asarray([0.3, 0.7])
BOTH = GaussianMixture.isotropic(MEANS, STDS, WEIGHTS)
CLASSES = [GaussianLaw.isotropic(mean, std) for mean, std in zip(MEANS, STDS, strict=True)]


def kind(value):
    return type(value).__name__


def log_classifier(process, x, t):
    """ln p(class 1 | x_t), by Bayes' rule."""
    return np.log(WEIGHTS[1]) + CLASSES[1].log_prob(process, x, t) - BOTH.log_prob(process, x, t)


def some(process, *fractions):
    """Times at these fractions of the way, integers on the chain; arrays of them are one time for each sample."""
    times = np.asarray(fractions) * float(process.t_max)
    return np.rint(times) if isinstance(process.schedule, Betas) else times


@pytest.fixture
def x(x64):
    return jax.device_put(2 * np.random.default_rng(7).normal(size=(5, 2)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_the_exact_classifier_gives_the_conditional_denoiser(schedule, x):
    """Scale 1; a time for each sample, the same for all or not."""
    process = chosen(schedule)
    guided = classifier_guidance(process, BOTH.denoiser(process), Partial(log_classifier, process))
    both = [guided, CLASSES[1].denoiser(process)]
    for fractions in (*([u] * 5 for u in (0.06, 0.3, 0.6)), (0.06, 0.2, 0.5, 0.6, 0.3)):
        t = some(process, *fractions)
        np.testing.assert_allclose(*answers(both, x, t), rtol=1e-10, atol=1e-10)


def test_classifier_guidance_is_affine_in_its_scale(x):
    process, t = Process(VP()), 0.4
    scales = np.asarray([0.0, 0.5, 1.0, 2.0, -1.0])
    guided = classifier_guidance(process, BOTH.denoiser(process), Partial(log_classifier, process), scales)
    three = answers([guided, BOTH.denoiser(process), CLASSES[1].denoiser(process)], x, t)
    got, plain, full = map(np.asarray, three)
    np.testing.assert_allclose(got, plain + scales[:, None] * (full - plain), rtol=1e-10)


ENDLESS = (Cosine(), RectifiedFlow())


@pytest.mark.parametrize("schedule", ENDLESS, ids=kind)
def test_classifier_guidance_may_start_at_pure_noise(schedule, x):
    """Where α = 0 there is no gradient to follow, and no NaN."""
    process = chosen(schedule, ENDLESS)
    guided = classifier_guidance(process, BOTH.denoiser(process), Partial(log_classifier, process), 2.0)
    np.testing.assert_allclose(*answers([guided, BOTH.denoiser(process)], x, schedule.t_max), rtol=1e-12)
    assert np.isfinite(sample(KEY, process, guided, DDIM(), uniform_time(process, 4), (3, 2)).x).all()


def test_classifier_guidance_samples_the_class(x64):
    """Mean and variance of 8000 samples at 4 standard errors, and far from those of both classes together."""
    process, count = Process(VP()), 8000
    guided = classifier_guidance(process, BOTH.denoiser(process), Partial(log_classifier, process))
    drawn = np.asarray(sample(KEY, process, guided, Ancestral(), uniform_time(process, 200), (count, 2)).x)
    error = STDS[1] / np.sqrt(count)
    np.testing.assert_allclose(drawn.mean(0), MEANS[1], atol=4 * error)
    # The step's β̃ is narrower than the exact reverse step, by less than this at 200 steps.
    np.testing.assert_allclose(drawn.var(0), STDS[1] ** 2, atol=4 * STDS[1] ** 2 * np.sqrt(2 / count) + 0.01)
    assert abs(WEIGHTS @ MEANS[:, 0] - MEANS[1, 0]) > 20 * error


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_the_whole_interval_is_plain_guidance(schedule, x):
    """To the last rounding, the ends of time included."""
    process = chosen(schedule)
    models = CLASSES[0].denoiser(process), BOTH.denoiser(process)
    both = [classifier_free_guidance(*models, 2.5), interval_guidance(process, *models, 2.5)]
    for fractions in ([1.0] * 5, [0.1] * 5, (0.2, 0.3, 0.4, 0.5, 1.0)):
        plain, interval = answers(both, x, some(process, *fractions))
        np.testing.assert_allclose(interval, plain, rtol=1e-13, atol=1e-14)


def test_guidance_is_confined_to_its_interval(x):
    """Both ends belong to it, and each sample has its own time."""
    process, t = Process(EDM()), np.asarray([0.1, 0.5, 1.0, 2.0, 3.0])
    models = CLASSES[0].denoiser(process), BOTH.denoiser(process)
    guided = interval_guidance(process, *models, 2.5, low=0.5, high=2.0)
    got, plain, conditional = answers([guided, classifier_free_guidance(*models, 2.5), models[0]], x, t)
    inside = np.asarray([False, True, True, True, False])
    np.testing.assert_allclose(got, np.where(inside[:, None], plain, conditional), rtol=1e-13)
    assert not np.allclose(plain, conditional)


def test_the_interval_is_of_noise_to_signal(x):
    """σ/α and not t: the same interval on another schedule is at the same log-SNR."""
    process = Process(VP())
    models = CLASSES[0].denoiser(process), BOTH.denoiser(process)
    alpha, sigma = coefficients(process, 0.3)
    edge = float(sigma) / float(alpha)
    guided = interval_guidance(process, *models, 2.5, low=edge * (1 - 1e-9), high=edge * (1 + 1e-9))
    three = [guided, classifier_free_guidance(*models, 2.5), models[0]]
    got, plain, _ = answers(three, x, 0.3)
    np.testing.assert_allclose(got, plain, rtol=1e-13)
    for t in (0.299, 0.301):
        got, _, conditional = answers(three, x, t)
        np.testing.assert_array_equal(got, conditional)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_unconditional_model_rests_outside_the_interval(per_sample):
    calls, process = [], Process(EDM())
    grid = karras(process, 10)

    def watched(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return 0.3 * x

    guided = interval_guidance(process, lambda x, t: 0.5 * x, watched, 2.0, low=0.1, high=5.0)
    denoise = (lambda x, t: guided(x, jnp.full(x.shape[:1], t))) if per_sample else guided
    sample(KEY, process, denoise, DDIM(), grid, (3, 1)).x.block_until_ready()
    jax.effects_barrier()
    expected = int(np.sum((grid[:-1] >= 0.1) & (grid[:-1] <= 5.0)))
    assert 0 < expected < 10
    assert len(calls) == expected


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_an_empty_interval_is_refused(low, high):
    with pytest.raises(ValueError, match=f"low = {low} and high = {high} leave no noise level to guide at; use 0 <= "):
        interval_guidance(Process(EDM()), jnp.add, jnp.add, 2.0, low, high)


def test_autoguidance_leads_away_from_the_weak_model(x):
    process = Process(EDM())
    main, weak = CLASSES[0].denoiser(process), GaussianLaw.isotropic(MEANS[0], 0.9).denoiser(process)
    scales = np.asarray([0.0, 1.0, 2.5, 3.0, 0.5])
    all_, each = autoguidance(main, weak, 2.5), autoguidance(main, weak, scales)
    alike, got, good, bad = map(np.asarray, answers([all_, each, main, weak], x, 0.7))
    np.testing.assert_allclose(alike, -1.5 * bad + 2.5 * good, rtol=1e-12)
    np.testing.assert_allclose(got, (1 - scales[:, None]) * bad + scales[:, None] * good, rtol=1e-12)
    np.testing.assert_allclose(got[1], good[1], rtol=1e-14)


def test_autoguidance_sharpens(x64):
    """A Gaussian main model, a weak one that is wider: the guided samples are narrower than the main model's."""
    process, start = Process(EDM()), jax.device_put(np.asarray([[-3.0], [3.0]]))
    main, weak = (GaussianLaw.isotropic(np.zeros(1), std).denoiser(process) for std in (0.5, 0.7))
    grid = karras(process, 20, sigma_max=3.0)

    def width(denoise):
        ends = np.asarray(sample(KEY, process, denoise, DDIM(), grid, (2, 1), x_init=start).x)
        return ends[1, 0] - ends[0, 0]

    assert width(autoguidance(main, weak, 2.0)) < 0.9 * width(main) < 0.9 * width(weak)


# CFG++


@pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow(), Betas.linear(50)], ids=kind)
def test_cfgpp_is_its_formula(schedule, x):
    """Chung et al. 2024, algorithm 2: the guided x̂_0, renoised with the unconditional ε̂."""
    process, scale = chosen(schedule), 0.4
    t, s = some(process, 0.6, 0.3)
    models = CLASSES[0].denoiser(process), BOTH.denoiser(process)
    c, u = map(np.asarray, answers(models, x, t))
    alpha, sigma = map(np.asarray, coefficients(process, np.asarray([t, s])))
    eps = (np.asarray(x) - alpha[0] * u) / sigma[0]
    expected = alpha[1] * ((1 - scale) * u + scale * c) + sigma[1] * eps
    got = sample(KEY, process, conditional_pair(*models), CFGPP(scale), np.asarray([t, s]), x.shape, x_init=x).x
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=kind)
def test_a_step_of_cfgpp_is_ddim_under_a_scale_of_its_own(schedule, x):
    """w = λ α_s/(α_s − α_t σ_s/σ_t), which grows as the step shrinks."""
    process, scale = chosen(schedule), 0.4
    t, s = some(process, 0.6, 0.3)
    models = CLASSES[0].denoiser(process), BOTH.denoiser(process)
    alpha, sigma = map(np.asarray, coefficients(process, np.asarray([t, s])))
    w = scale * alpha[1] / (alpha[1] - alpha[0] * sigma[1] / sigma[0])
    runs = [(conditional_pair(*models), CFGPP(scale)), (classifier_free_guidance(*models, w), DDIM())]
    plus, plain = (sample(KEY, process, d, m, np.asarray([t, s]), x.shape, x_init=x).x for d, m in runs)
    np.testing.assert_allclose(plus, plain, rtol=1e-10)


@pytest.mark.parametrize("process", [Process(VP()), Process(EDM(), StudentT(4.0))], ids=repr)
def test_cfgpp_of_equal_models_or_without_scale_is_ddim(process, x64):
    other = GaussianMixture.isotropic(MEANS[::-1], STDS, WEIGHTS).denoiser(process)
    free = BOTH.denoiser(process)
    grid = karras(process, 6)
    plain = sample(KEY, process, free, DDIM(), grid, (4, 2)).x
    for pair, scale in ((conditional_pair(free, free), 0.8), (conditional_pair(other, free), 0.0)):
        result = sample(KEY, process, pair, CFGPP(scale), grid, (4, 2))
        np.testing.assert_allclose(result.x, plain, rtol=1e-9)
        assert result.nfe == 6


def test_cfgpp_ends_at_the_interpolated_answer(x):
    process = Process(RectifiedFlow())
    points = np.asarray([3.0, 1.0]), np.asarray([-1.0, 0.0])
    pair = conditional_pair(*(Dirac(point).denoiser(process) for point in points))
    for scale in (0.0, 0.25, 1.0):
        ends = sample(KEY, process, pair, CFGPP(scale), uniform_time(process, 5), (4, 2)).x
        wanted = np.broadcast_to(points[1] + scale * (points[0] - points[1]), (4, 2))
        np.testing.assert_allclose(ends, wanted, rtol=1e-12)


def test_cfgpp_guides_once_a_step_however_short(log_snr_grid, x64):
    """Known: between the same two times twice the steps guide twice as much. There is no limit of small steps."""
    process, x = Process(EDM()), jax.device_put(np.zeros((1, 1)))
    pair = conditional_pair(*(Dirac(np.asarray([point])).denoiser(process) for point in (1.0, 0.0)))
    grids = [log_snr_grid(process, steps, high=5.0, low=0.5) for steps in (200, 400)]
    shifts = [np.asarray(sample(KEY, process, pair, CFGPP(0.5), grid, (1, 1), x_init=x).x).item() for grid in grids]
    np.testing.assert_allclose(shifts[1] / shifts[0], 2, rtol=0.01)


def test_cfgpp_wants_a_pair():
    process = Process(EDM())
    with pytest.raises(TypeError, match=r"answers with a ConditionalPair, and this one's answer is .*; build it with"):
        sample(KEY, process, lambda x, t: x, CFGPP(), karras(process, 3), (2, 1))


@pytest.mark.parametrize("scale", [-0.1, 1.5, float("nan")])
def test_cfgpp_interpolates_only(scale):
    with pytest.raises(ValueError, match=f"scale = {scale}; CFG\\+\\+ interpolates, so give λ in"):
        CFGPP(scale)


# What holds for all of them


def slope(weight, x, t):
    return weight * x


def log_slope(weight, x, t):
    return -jnp.sum(weight * x**2, axis=-1)


def guided(counted, name, weight, scale, high):
    """One guided denoiser of each sort, and the sampler for it."""
    process = Process(EDM())
    one, two = Partial(counted, weight), Partial(slope, 0.3)
    made = {
        "classifier": lambda: classifier_guidance(process, one, Partial(log_slope, weight), scale),
        "classifier-free": lambda: classifier_free_guidance(one, two, scale),
        "auto": lambda: autoguidance(one, two, scale),
        "interval": lambda: interval_guidance(process, one, two, scale, 0.1, high),
        "cfgpp": lambda: conditional_pair(one, two),
    }[name]()
    return made, CFGPP(scale / 10) if name == "cfgpp" else DDIM()


GUIDANCES = ["classifier", "classifier-free", "auto", "interval", "cfgpp"]


@pytest.mark.parametrize("name", GUIDANCES)
def test_no_scale_recompiles(name):
    traces = []

    def counted(weight, x, t):
        traces.append(1)
        return slope(weight, x, t)

    process = Process(EDM())
    ends, counts = [], []
    for weight, scale, high in ((0.5, 1.5, 5.0), (0.6, 3, 7), (0.5, np.float64(2.0), 60.0)):
        denoise, sampler = guided(counted, name, weight, scale, high)
        ends.append(sample(KEY, process, denoise, sampler, karras(process, 4), (2, 3)).x)
        counts.append(len(traces))
    assert counts[0] == counts[-1] > 0
    assert not np.allclose(ends[0], ends[1])


@pytest.mark.parametrize("name", GUIDANCES)
def test_precision_is_that_of_the_state(name):
    """Python, float64 and NumPy scales do not widen a float32 answer, nor does bfloat16 narrow the samples."""
    process, x = Process(EDM()), jnp.ones((2, 3))

    def dtypes(function):
        return {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(function))}

    def end(network):
        denoise, sampler = guided(network, name, 0.5, 1.5, 5.0)
        return dtypes(lambda: sample(KEY, process, denoise, sampler, karras(process, 3), (2, 3)).x)

    for scale in (1.5, np.float64(1.5), np.full(2, 1.5) if name != "cfgpp" else 1.5):
        denoise, _ = guided(slope, name, 0.5, scale, 5.0)
        assert dtypes(lambda denoise=denoise: denoise(x, 1.0)) == {jnp.dtype(jnp.float32)}
    assert end(lambda w, x, t: slope(w, x, t).astype(jnp.bfloat16)) == {jnp.dtype(jnp.float32)}
    with jax.enable_x64(True):
        assert end(slope) == {jnp.dtype(jnp.float64)}


def test_a_classifier_is_for_gaussian_noise():
    with pytest.raises(
        TypeError, match="classifier guidance exists for Gaussian noise only, and the noise is StudentT"
    ):
        classifier_guidance(Process(EDM(), StudentT(3.0)), jnp.add, log_slope)


def test_a_pair_holds_both_answers(x):
    pair = conditional_pair(Partial(slope, 0.5), Partial(slope, 0.2))(x, 1.0)
    assert isinstance(pair, ConditionalPair)
    np.testing.assert_array_equal(pair.conditional, 0.5 * x)
    np.testing.assert_array_equal(pair.unconditional, 0.2 * x)
