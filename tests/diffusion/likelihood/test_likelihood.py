"""Log-likelihoods against exact densities (identity row 22), estimates against matrices, bounds against masses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.tree_util import Partial

from diffusion import EDM, VE, VP, Betas, Cosine, Process, RectifiedFlow, StudentT, SubVP, velocity
from diffusion import keys as keys_lib
from diffusion.arrays import expand
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.decoders import bits_per_dim
from diffusion.ddpm.elbo import elbo_terms
from diffusion.ddpm.reverse_steps import FixedLarge
from diffusion.likelihood import (
    Adaptive,
    Exact,
    FixedStep,
    Hutchinson,
    HutchPlusPlus,
    decode,
    dequantise_uniform,
    dequantise_variational,
    discrete_log_prob,
    divergence,
    encode,
    even_grid,
    log_likelihood,
    slerp,
    truncated_normal,
)
from diffusion.likelihood.divergence import element_keys
from diffusion.likelihood.flow import smooth_velocity
from diffusion.likelihood.solvers import clock
from diffusion.oracles import GaussianMixture

RNG = np.random.default_rng(0)
LAW_8D = GaussianMixture.isotropic(RNG.normal(size=(3, 8)), [0.4, 0.6, 0.5], [0.2, 0.5, 0.3])
SCHEDULES = (VP(), SubVP(), VE(), EDM(), RectifiedFlow(), Cosine())
TIGHT = Adaptive(rtol=1e-9, atol=1e-9, t_start=0.0)


@jax.jit
def log_prob(law, process, x, t):
    return law.log_prob(process, x, t)


@jax.jit
def _at_the_end(process):
    t = process.t_max
    return process.alpha(t), process.sigma(t), process.schedule.prior_std(t)


def at_the_end(process):
    """α, σ and the standard deviation of the prior at t_max."""
    return jax.device_get(_at_the_end(process))


def likelihood(*arguments, **options):
    """`log_likelihood`, its answer in NumPy: what is compared with it need not be compiled."""
    return jax.device_get(log_likelihood(*arguments, **options))


def marginal(law, process):
    """ln p_t of the law, as the terminal density."""
    return Partial(log_prob, law, process)


def draws(law, n):
    """`n` points of a law of round components, in NumPy."""
    rng = np.random.default_rng(1)
    which = rng.choice(len(law.means), n, p=law.weights)
    return law.means[which] + np.sqrt(law.floor)[which, None] * rng.normal(size=(n, law.dim))


def _gaussian_mean(process, mean, basis, variances, x, t):
    alpha, sigma = expand(process.alpha(t), x), expand(process.sigma(t), x)
    gains = alpha * variances / (alpha**2 * variances + sigma**2)
    return mean + ((x - alpha * mean) @ basis * gains) @ basis.T


def gaussian(process, basis, variances, mean=0.0):
    """The denoiser of N(mean, Q diag(variances) Qᵀ), a few products: the oracles' take longer to compile."""
    return Partial(_gaussian_mean, process, np.full(len(variances), mean), basis, variances)


def gaussian_log_prob(x, basis, variances, mean=0.0):
    z = np.asarray((x - mean) @ basis) / np.sqrt(variances)
    return np.sum(scipy.stats.norm.logpdf(z) - 0.5 * np.log(variances), axis=-1)


BASIS = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
VARIANCES = np.array([0.05, 0.3, 1.0, 0.6, 4.0, 1.7])
X_6D = RNG.normal(size=(5, 6)) * np.sqrt(VARIANCES) @ BASIS.T


# Exact divergence: every schedule, every noise, from the data on.


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_likelihood_is_the_density_of_the_data(schedule, x64):
    """Row 22 in eight dimensions, from t = 0, where σ' may be infinite, to t_max, where α may be 0; and from later on.

    Where the process ends at pure noise the prior is p_T.
    """
    process, x = Process(schedule), draws(LAW_8D, 4)
    denoise, terminal = LAW_8D.denoiser(process), marginal(LAW_8D, process)

    def exactly(t):
        return np.asarray(log_prob(LAW_8D, process, x, np.float64(t)))

    for t_start in (0.0, 0.05):
        solver = FixedStep(even_grid(process, 120, t_start))
        result, exact = likelihood(process, denoise, x, solver=solver, terminal=terminal), exactly(t_start)
        np.testing.assert_allclose(result.log_prob, exact, rtol=0, atol=1e-7)
        assert np.all(result.nfe == 4 * 120)
        assert np.all(result.standard_error == 0)
        assert np.all(result.converged)
        if schedule.ends_in_noise:
            from_prior = likelihood(process, denoise, x, solver=solver).log_prob
            np.testing.assert_allclose(from_prior, result.log_prob, rtol=0, atol=1e-10)
    assert np.max(np.abs(exactly(0.05) - exactly(0.0))) > 1e-4


@pytest.mark.parametrize(
    "process",
    [Process(VP()), Process(EDM(), StudentT(4.0)), Process(RectifiedFlow(), StudentT(1.0))],
    ids=["vp", "pfgm++", "pfgm"],
)
def test_steps_that_choose_themselves(process, x64):
    """Also under heavy-tailed noise, for which there is no score but a velocity."""
    law = GaussianMixture.isotropic([[-1.0, 0.3], [0.8, -0.5]], [0.4, 0.7], [0.3, 0.7])
    x = draws(law, 4)
    result = likelihood(process, law.denoiser(process), x, solver=TIGHT, terminal=marginal(law, process))
    assert np.all(result.converged)
    np.testing.assert_allclose(result.log_prob, log_prob(law, process, x, np.float64(0.0)), rtol=0, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_field_is_the_velocity_in_other_variables(schedule, x64):
    """dy/dτ = (u − (c'/c) x)/(c τ') with c = √(α² + σ²), x = c y."""
    process, x, t = Process(schedule), X_6D, np.float64(0.3 * schedule.t_max)
    denoise = gaussian(process, BASIS, VARIANCES, 0.2)

    @jax.jit
    def both(process, denoise, x, t):
        def log_c(t):
            return 0.5 * jnp.log(process.alpha(t) ** 2 + process.sigma(t) ** 2)

        tau, rate = jax.jvp(lambda t: clock(process, t), (t,), (jnp.ones_like(t),))
        expected = (velocity(process, denoise)(x, t) - jax.grad(log_c)(t) * x) / (jnp.exp(log_c(t)) * rate)
        return smooth_velocity(process, denoise)(x / jnp.exp(log_c(t)), tau), expected

    got, expected = both(process, denoise, x, t)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("schedules", [[EDM(0.002, s) for s in (4.0, 16.0, 64.0)], [VP(0.1, b) for b in (5, 10, 20)]])
def test_what_the_prior_costs_shrinks_with_the_last_time(schedules, x64):
    """N(0, Q diag(v) Qᵀ): Σ ½ ln r − ½ z² (r − 1) nats with r = (α²v + σ²)/prior_std² at the end, in closed form."""
    worst, z = [], np.asarray(X_6D @ BASIS) / np.sqrt(VARIANCES)
    for schedule in schedules:
        process = Process(schedule)
        solver = FixedStep(even_grid(process, 120))
        result = likelihood(process, gaussian(process, BASIS, VARIANCES), X_6D, solver=solver)
        alpha, sigma, std = at_the_end(process)
        r = (alpha**2 * VARIANCES + sigma**2) / std**2
        error = result.log_prob - gaussian_log_prob(X_6D, BASIS, VARIANCES)
        np.testing.assert_allclose(error, np.sum(0.5 * np.log(r) - 0.5 * z**2 * (r - 1), axis=1), atol=1e-7)
        worst.append(np.max(np.abs(error)))
    assert worst[1] < worst[0] / 5
    assert worst[2] < worst[1] / 5


def _crooked(x, t):
    """A denoiser of no data at all."""
    return jnp.tanh(2 * x + 0.5 * jnp.sin(3 * expand(t, x)))


@pytest.mark.parametrize("process", [Process(RectifiedFlow(), StudentT(3.0)), Process(VP())], ids=["flow", "vp"])
def test_any_denoiser_has_a_density(process, x64):
    """What the ODE of a wrong denoiser carries to the prior is a law: its mass is 1."""
    theta, step = np.linspace(-9, 9, 2001, retstep=True)
    x, weight = np.sinh(theta)[:, None], np.cosh(theta) * step
    solver = FixedStep(even_grid(process, 80, 0.3))
    result = likelihood(process, Partial(_crooked), x, solver=solver)
    assert np.sum(weight * np.exp(result.log_prob)) == pytest.approx(1.0, abs=1e-6)
    assert np.all(np.diff(result.latent[:, 0]) > 0)


def test_the_gradient_of_the_likelihood_is_the_score(x64):
    process, basis = Process(VP()), BASIS
    solver, denoise = FixedStep(even_grid(process, 60)), gaussian(process, basis, VARIANCES)

    def total(x):
        return jnp.sum(log_likelihood(process, denoise, x, solver=solver).log_prob)

    alpha, sigma, _ = at_the_end(process)
    r = alpha**2 * VARIANCES + sigma**2
    expected = -(X_6D @ basis * r / VARIANCES) @ basis.T  # r is what the prior costs
    np.testing.assert_allclose(jax.jit(jax.grad(total))(X_6D), expected, rtol=1e-5)


def test_float32_keeps_its_digits():
    process = Process(VP())
    denoise = gaussian(process, BASIS.astype(np.float32), VARIANCES.astype(np.float32))
    x = X_6D.astype(np.float32)
    result = likelihood(process, denoise, x, solver=Adaptive(t_start=0.0))
    assert result.log_prob.dtype == np.float32
    np.testing.assert_allclose(result.log_prob, gaussian_log_prob(X_6D, BASIS, VARIANCES), atol=2e-3)


# Estimates of the divergence.


def _stretch(process):
    """M = ∫ ∂u/∂x dt of the Gaussian's linear flow, without the part that every direction has: ½ Q ln(v_T/v_0) Qᵀ."""
    alpha, sigma, _ = at_the_end(process)
    last, scale = alpha**2 * VARIANCES + sigma**2, np.log(alpha**2 + sigma**2)
    return BASIS @ np.diag(0.5 * np.log(last / VARIANCES) - 0.5 * scale) @ BASIS.T


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_probes_are_kept_along_the_path(schedule, law, x64):
    """A linear flow integrates to vᵀ M v with M a logarithm of a matrix: mean and standard error over the probes."""
    process, method, ids = Process(schedule), Hutchinson(5, law), np.array([7, 1, 0, 3, 12])
    denoise, solver = gaussian(process, BASIS, VARIANCES), FixedStep(even_grid(process, 120))
    key = jax.random.key(3)
    result = likelihood(process, denoise, X_6D, solver=solver, method=method, key=key, ids=ids)
    exact = likelihood(process, denoise, X_6D, solver=solver)
    v = np.asarray(jax.jit(lambda key, ids, x: method.draw(element_keys(key, 5, ids), x))(key, ids, X_6D))
    matrix = _stretch(process)
    values = np.einsum("nbd,de,nbe->nb", v, matrix, v)
    np.testing.assert_allclose(result.log_prob - exact.log_prob, values.mean(0) - np.trace(matrix), rtol=0, atol=1e-7)
    np.testing.assert_allclose(result.standard_error, values.std(0, ddof=1) / np.sqrt(5), rtol=1e-6)
    assert np.all(result.standard_error > 0.05)


def test_hutch_plus_plus_is_exact_on_low_rank(x64):
    """With two directions of variance other than 1 the field in the solver's variables has rank two."""
    process, variances = Process(VP()), np.array([0.05, 1.0, 1.0, 1.0, 3.0, 1.0])
    denoise, solver = gaussian(process, BASIS, variances), FixedStep(even_grid(process, 120))
    exact = likelihood(process, denoise, X_6D, solver=solver)
    for method, found in ((HutchPlusPlus(2, 3), True), (HutchPlusPlus(1, 3), False)):
        result = likelihood(process, denoise, X_6D, solver=solver, method=method, key=jax.random.key(0))
        # The first of the stages sees nothing but rounding.
        assert np.all(np.abs(result.log_prob - exact.log_prob) < 1e-6) == found
        assert np.all(result.standard_error < 1e-6) == found


A = RNG.normal(size=(6, 6)) + 0.5 * np.eye(6)
H = (A + A.T) / 2
MANY = np.zeros((4000, 6))


@pytest.fixture(scope="module")
def estimates():
    """tr A four thousand times."""
    methods = {
        "rademacher": Hutchinson(4),
        "gaussian": Hutchinson(4, "gaussian"),
        "hutch++": HutchPlusPlus(2, 4),
        "hutch++ gaussian": HutchPlusPlus(2, 4, "gaussian"),
    }
    with jax.enable_x64(True):
        run = jax.jit(lambda method, x, key: divergence(lambda y: y @ A.T, x, method, key=key))
        return {name: jax.device_get(run(method, MANY, jax.random.key(4))) for name, method in methods.items()}


@pytest.mark.parametrize("name", ["rademacher", "gaussian", "hutch++", "hutch++ gaussian"])
def test_estimates_are_unbiased_and_know_their_error(name, estimates):
    """The mean, and the mean of the squared standard errors, within 4 errors; Hutchinson's in closed form."""
    value, error = estimates[name]
    assert abs(value.mean() - np.trace(A)) < 4 * value.std() / np.sqrt(value.size)
    squares = (value - np.trace(A)) ** 2 - error**2
    assert abs(squares.mean()) < 4 * squares.std() / np.sqrt(value.size)
    if "hutch" not in name:
        variance = 2 * (np.sum(H**2) - (np.sum(np.diag(H) ** 2) if name == "rademacher" else 0)) / 4
        spread = (value - np.trace(A)) ** 2
        assert abs(spread.mean() - variance) < 4 * spread.std() / np.sqrt(value.size)


def test_a_sketch_makes_the_error_smaller(estimates):
    squares = {name: np.mean(it.standard_error**2) for name, it in estimates.items()}
    assert squares["hutch++ gaussian"] < 0.7 * squares["gaussian"]


def test_the_trace_by_all_directions(x64):
    """In one go or in blocks, of events of any shape; and of a field that bends."""
    x = RNG.normal(size=(3, 2, 3))

    def field(x):
        flat = x.reshape(x.shape[0], 6)
        return jnp.sin(flat @ A.T).reshape(x.shape)

    expected = np.sum(np.cos(x.reshape(3, 6) @ A.T) * np.diag(A), axis=1)
    methods = (Exact(), Exact(block=4), HutchPlusPlus(6, 1), Hutchinson(1))
    run = jax.jit(lambda x, key: [divergence(field, x, method, key=key) for method in methods])
    *exact, one = run(x, jax.random.key(0))
    for estimate in exact:
        np.testing.assert_allclose(estimate.value, expected, rtol=1e-12)
    assert np.all(np.isnan(one.standard_error))


def test_no_element_depends_on_its_neighbours(x64):
    """Nor on its place: not its steps, nor its probes. Each has a label of its own, as a conditional network's has."""
    process, shifts = Process(VP()), np.asarray([0.0, 0.5, 40.0, -1.0, 2.0])

    def denoise(inner, shifts, x, t):
        return inner(x - expand(process.alpha(t), x) * shifts[:, None], t) + shifts[:, None]

    def run(order):
        return likelihood(
            process,
            Partial(denoise, gaussian(process, BASIS, VARIANCES), shifts[order]),
            X_6D[order],
            solver=Adaptive(1e-7, 1e-7),
            method=Hutchinson(2),
            key=jax.random.key(5),
            ids=order,
        )

    together, few = run(np.arange(5)), run(np.array([4, 0]))
    for name in ("log_prob", "standard_error", "latent"):
        np.testing.assert_allclose(getattr(few, name), getattr(together, name)[np.array([4, 0])], rtol=1e-11)
    np.testing.assert_array_equal(few.nfe, together.nfe[np.array([4, 0])])
    assert len(set(together.nfe.tolist())) > 1


# Solvers.


def _swing(state, tau):
    """y = e^{sin 4τ} y_0 with the integral of 4 y cos 4τ, which is y − y_0: both known, neither a polynomial."""
    slope = 4 * expand(jnp.cos(4 * tau), state[0]) * state[0]
    return slope, slope[:, 0][None]


@functools.partial(jax.jit, static_argnames="backward")
def _swung_path(solver, y_0, backward):
    return solver.integrate(_swing, (y_0, jnp.zeros((1, 3))), Process(Cosine()), backward)


def _swung(solver, backward=False):
    y_0 = np.asarray([[0.7], [-1.2], [2.0]])
    first, last = (0.0, np.sin(4.0))[:: -1 if backward else 1]
    path = jax.device_get(_swung_path(solver, y_0, backward))
    exact = y_0 * np.exp(last - first)
    return np.max(np.abs(path.state[0] - exact)), np.max(np.abs(path.state[1] - (exact - y_0)[:, 0])), path


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("backward", [False, True])
def test_fixed_steps_have_their_order(method, order, backward, x64):
    steps = (20, 40, 80)
    runs = [_swung(FixedStep(np.linspace(0, 1, n + 1), method), backward) for n in steps]
    for which in (0, 1):
        slope = -np.polyfit(np.log(steps), np.log([run[which] for run in runs]), 1)[0]
        assert abs(slope - order) < 0.2, slope
    assert np.all(runs[0][2].nfe == 20 * {"heun": 2, "rk4": 4}[method])


def test_the_error_that_steps_are_chosen_by_is_a_root_mean_square(x64):
    """Over the event and its tolerance, or the integral's if that is larger; so it grows as the error does."""
    rng, atol, rtol = np.random.default_rng(0), 0.02, 0.1
    error = jax.jit(lambda solver, *states: solver._error(*states))
    y, moved = rng.normal(size=(2, 3, 4))
    totals, sums = rng.normal(size=(2, 2, 3))
    h, slope, rates = np.asarray([0.1, -0.3, 0.2]), rng.normal(size=(3, 4)), rng.normal(size=(2, 3))
    for weight in (0.1, 10.0):
        parts = h[:, None] * slope / (atol + rtol * np.maximum(np.abs(y), np.abs(moved)))
        integrals = np.abs(weight * h * rates) / (atol + rtol * np.maximum(np.abs(totals), np.abs(sums)))
        expected = np.maximum(np.sqrt(np.mean(parts**2, axis=1)), integrals.max(axis=0))
        found = error(Adaptive(rtol, atol), (y, totals), (moved, sums), h, (slope, weight * rates))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_adaptive_steps_follow_the_tolerance(x64):
    """The work of a fifth-order pair grows like tol^{−1/5}, and the error stays of the size of tol."""
    tolerances, work = (1e-6, 1e-8, 1e-10), []
    for tolerance in tolerances:
        y, integral, path = _swung(Adaptive(tolerance, tolerance, t_start=0.0), backward=tolerance == 1e-8)
        assert max(y, integral) < 30 * tolerance
        assert max(y, integral) > 0.01 * tolerance
        assert np.all(path.finished)
        work.append(float(np.mean(path.nfe)))
    slope = np.polyfit(np.log(tolerances), np.log(work), 1)[0]
    assert abs(slope + 0.2) < 0.03, slope


def test_a_solver_that_gives_up_says_so(x64):
    process, solver = Process(VP()), Adaptive(t_start=0.0, max_steps=3)
    denoise = gaussian(process, BASIS, VARIANCES)
    result = likelihood(process, denoise, X_6D, solver=solver)
    assert not np.any(result.converged)
    assert np.all(np.isnan(result.log_prob))
    assert np.all(result.nfe == 1 + 6 * 3)
    assert not np.any(np.asarray(encode(process, denoise, X_6D, solver=solver).converged))


def test_options_that_are_numbers_do_not_recompile(x64):
    traces = []

    def counted(x, t):
        traces.append(1)
        return 0.5 * x

    denoise, counts = Partial(counted), []
    for process, rtol in ((Process(VP()), 1e-3), (Process(VP(beta_max=10)), 1e-4), (Process(VP(0.2, 5.0)), 1e-2)):
        log_likelihood(process, denoise, X_6D, solver=Adaptive(rtol=rtol, t_start=0.01 * rtol))
        counts.append(len(traces))
    assert counts[0] == counts[2] > 0


# Latents.


def test_the_latent_of_a_gaussian_is_a_stretch(x64):
    """x_T = α_T m + Q √(v_T/v_0) Qᵀ (x_0 − m), as in identity row 26, and decoding is its inverse."""
    process, mean = Process(VP()), 0.4
    denoise = gaussian(process, BASIS, VARIANCES, mean)
    alpha, sigma, _ = at_the_end(process)
    stretch = np.sqrt(alpha**2 + sigma**2 / VARIANCES)
    latent = jax.device_get(encode(process, denoise, X_6D, solver=TIGHT))
    np.testing.assert_allclose(latent.x, alpha * mean + (X_6D - mean) @ BASIS * stretch @ BASIS.T, atol=1e-7)
    assert np.all(latent.converged)
    back = jax.device_get(decode(process, denoise, latent.x, solver=TIGHT))
    np.testing.assert_allclose(back.x, X_6D, atol=1e-7)
    assert np.all(back.nfe > 1)


def test_an_adaptive_way_has_derivatives_forwards(x64):
    """∂x_T/∂x_0 = Q α_T √(v_T/v_0) Qᵀ: no integral is followed, and the largest of no errors has no derivative."""
    process = Process(VP())
    denoise = gaussian(process, BASIS, VARIANCES, 0.4)
    alpha, sigma, _ = at_the_end(process)
    along = np.ones_like(X_6D)
    moved = jax.jvp(lambda x: encode(process, denoise, x, solver=TIGHT).x, (X_6D,), (along,))[1]
    np.testing.assert_allclose(moved, along @ BASIS * np.sqrt(alpha**2 + sigma**2 / VARIANCES) @ BASIS.T, atol=1e-6)


turn = jax.jit(slerp)


def test_the_way_between_two_latents():
    a, b = np.float32([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), np.float32([[0.0, 5.0], [1.0, 1.0], [0.0, 7.0]])
    f = np.float32([0.25, 0.5, 0.5])
    angle = np.pi / 8
    expected = [
        [3.5 * np.cos(angle), 3.5 * np.sin(angle)],
        [0.5 * (1 + np.sqrt(2)) * np.cos(angle), 0.5 * (1 + np.sqrt(2)) * np.sin(angle)],
        [0.0, 4.5],
    ]
    np.testing.assert_allclose(turn(a, b, f), expected, rtol=1e-6)
    np.testing.assert_allclose(turn(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(turn(a, b, 1.0), b, atol=1e-6)


def test_slerp_of_images_is_that_of_vectors_and_finite_everywhere():
    x, y = np.random.default_rng(0).standard_normal((2, 4, 3, 2), np.float32)
    norm = np.linalg.norm(np.asarray(turn(x, y, 0.3)).reshape(4, 6), axis=1)
    ends = [np.linalg.norm(v.reshape(4, 6), axis=1) for v in (x, y)]
    np.testing.assert_allclose(norm, 0.7 * ends[0] + 0.3 * ends[1], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(turn(x, y, 0.3)).reshape(4, 6), turn(x.reshape(4, 6), y.reshape(4, 6), 0.3))
    np.testing.assert_allclose(turn(x, -x, 0.25), 0.5 * x, atol=1e-5)
    np.testing.assert_allclose(turn(x, 0 * x, 0.25), 0.75 * x, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda f, x: slerp(x, x, f).sum()))
    assert np.isfinite(float(slope(0.5, x)))


# Integers.

WIDTH, STD = 0.2, 0.15
LEVELS = WIDTH * np.arange(-3, 4)[:, None]


def _log_density(y):
    return scipy.stats.norm.logpdf(np.asarray(y)[..., 0], 0.03, STD)


def _log_mass():
    edges = scipy.stats.norm.cdf((LEVELS[:, 0, None] + np.array([-0.5, 0.5]) * WIDTH - 0.03) / STD)
    return np.log(edges[:, 1] - edges[:, 0])


def test_the_best_proposal_makes_the_bound_tight(x64):
    """q = p confined to the bin: ln p − ln q is ln P for every draw. By the inverse distribution function."""

    def best(keys, x):
        uniform = jax.vmap(jax.random.uniform)(keys)
        low, high = (jax.scipy.special.ndtr((x[:, 0] + s * WIDTH - 0.03) / STD) for s in (-0.5, 0.5))
        y = 0.03 + STD * jax.scipy.special.ndtri(low + uniform * (high - low))
        log_p = jax.scipy.stats.norm.logpdf(y, 0.03, STD)
        return ((y - x[:, 0]) / WIDTH + 0.5)[:, None], log_p - jnp.log(high - low) + jnp.log(WIDTH)

    draw = jax.jit(lambda key, x: dequantise_variational(key, x, best, WIDTH))(jax.random.key(0), LEVELS)
    found = jax.jit(discrete_log_prob)(_log_density(draw.y), draw.log_q)
    np.testing.assert_allclose(found, _log_mass(), rtol=1e-8)


def test_uniform_noise_gives_a_bound_and_more_draws_a_better_one(x64):
    """The mean of the bound by quadrature; the mean of p/q is P; sixteen draws come closer. Per level, 4 errors."""
    n = 2000
    x = np.repeat(LEVELS, n, axis=0)

    @jax.jit
    def run(key, x):
        draw = dequantise_uniform(key, x, WIDTH)
        return draw.y, draw.log_q

    y, log_q = (np.asarray(a) for a in run(jax.random.key(0), x))
    mean = jax.jit(discrete_log_prob)
    single = np.asarray(mean(_log_density(y), log_q)).reshape(7, n)
    many = np.stack([single[:, i::16][:, : n // 16] for i in range(16)]).reshape(16, -1)
    best = np.asarray(mean(many, 0 * many)).reshape(7, n // 16)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    bound = _log_density((LEVELS + nodes * WIDTH / 2)[..., None]) @ weights / 2 + np.log(WIDTH)
    exact = _log_mass()
    assert np.all(bound < exact - 1e-3)
    assert np.all(np.abs(single.mean(1) - bound) < 4 * single.std(1) / np.sqrt(n))
    assert np.all(np.abs(np.exp(single).mean(1) - np.exp(exact)) < 4 * np.exp(single).std(1) / np.sqrt(n))
    assert np.all(best.mean(1) - single.mean(1) > 0.5 * (exact - bound))
    assert np.all(best.mean(1) < exact + 4 * best.std(1) / np.sqrt(n // 16))


def test_eight_bits_on_the_line_between_minus_one_and_one(x64):
    """Noise stays in the bin; a density flat over all bins costs 8 bits/dim, by either way of counting."""
    u, dequantise = np.arange(256).reshape(64, 4), jax.jit(dequantise_uniform)
    x = u / 127.5 - 1
    draw = jax.device_get(dequantise(jax.random.key(0), x, ids=np.arange(64) + 3))
    np.testing.assert_array_equal(np.round((draw.y + 1) * 127.5), u)
    assert 0.45 / 127.5 < np.max(np.abs(draw.y - x)) <= 0.5 / 127.5 * (1 + 1e-12)
    part = dequantise(jax.random.key(0), x[10:12], ids=np.array([13, 14]))
    np.testing.assert_array_equal(part.y, draw.y[10:12])
    flat = np.full(64, -4 * np.log(512 / 255))
    bits = jax.jit(lambda flat, log_q: bits_per_dim(-discrete_log_prob(flat, log_q), 4))
    np.testing.assert_allclose(bits(flat, draw.log_q), 8.0, rtol=1e-12)
    np.testing.assert_allclose(bits_per_dim(jnp.asarray(-flat), 4, 2 / 255), 8.0, rtol=1e-12)


# The ELBO.


def test_the_elbo_is_below_the_likelihood(x64):
    """For the best denoiser E ELBO <= E ln p_chain <= E ln p_0, the ODE's; more steps bring it closer."""
    law = GaussianMixture.isotropic([[-1.0], [1.0]], 0.15, [0.4, 0.6])
    process, n, gaps, errors = Process(VP()), 1000, [], []
    x, denoise = draws(law, n), law.denoiser(process)
    solver, terminal = FixedStep(even_grid(process, 80)), marginal(law, process)
    exact = likelihood(process, denoise, x, solver=solver, terminal=terminal).log_prob
    total = jax.jit(lambda key, chain, x: elbo_terms(key, chain, x).total)
    for steps in (2, 16):
        times = np.concatenate([[0.0], even_grid(process, steps, 1e-3)])
        chain = GeneratorChain(process, denoise, times, FixedLarge())
        gap = exact + np.asarray(total(jax.random.key(1), chain, x))
        gaps.append(gap.mean())
        errors.append(gap.std() / np.sqrt(n))
    assert gaps[1] > 4 * errors[1]
    assert gaps[0] - gaps[1] > 4 * np.hypot(*errors)


# What is refused.


def _refused(**options):
    process = options.pop("process", Process(VP()))
    return log_likelihood(process, Partial(lambda x, t: x), options.pop("x", np.ones((2, 3))), **options)


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _refused(process=Process(Betas.linear(10))), TypeError, "Betas, a discrete chain without an ODE"),
        (lambda: _refused(x=np.ones(3)), ValueError, r"x has shape \(3,\)"),
        (lambda: _refused(method=Hutchinson()), TypeError, "key = None, and Hutchinson draws probes"),
        (lambda: _refused(method=Hutchinson(), key=KEY, ids=np.arange(3)), ValueError, "ids has shape"),
        (lambda: _refused(method=HutchPlusPlus(4), key=KEY), ValueError, "sketch = 4 exceeds the 3 dimensions"),
        (lambda: _refused(solver=Adaptive(t_start=0.5, t_end=0.2)), ValueError, "from 0.5 to 0.2 does not ascend"),
        (lambda: _refused(solver=Adaptive(t_end=2.0)), ValueError, "ends at 2, beyond the schedule's last time 1"),
        (lambda: _refused(solver=FixedStep(np.array([-0.1, 1.0]))), ValueError, "from -0.1 to 1 does not ascend"),
        (lambda: FixedStep(np.array([1.0, 0.0])), ValueError, "times = .* do not ascend"),
        (lambda: FixedStep([0.0, 1.0]), TypeError, "times is a list"),
        (lambda: FixedStep(np.array([0.0, 1.0]), "euler"), ValueError, "method = 'euler' is no fixed rule"),
        (lambda: Adaptive(rtol=0.0), ValueError, "rtol = 0.0; a tolerance must be positive"),
        (lambda: Adaptive(atol=-1.0), ValueError, "atol = -1.0; a tolerance must be positive"),
        (lambda: Adaptive(max_steps=0), ValueError, "max_steps = 0; at least one step"),
        (lambda: even_grid(Process(VP()), 0), ValueError, "steps = 0; a grid has at least one step"),
        (lambda: Hutchinson(0), ValueError, "probes = 0; at least 1 of the probes"),
        (lambda: Hutchinson(2, "cauchy"), ValueError, "law = 'cauchy' is not a law of probes"),
        (lambda: HutchPlusPlus(0), ValueError, "sketch = 0; at least 1 of the columns"),
        (lambda: Exact(0), ValueError, "block = 0; at least 1 of the products"),
        (lambda: slerp(jnp.ones((2, 3)), jnp.ones((2, 4)), 0.5), ValueError, r"second \(2, 4\); they must agree"),
        (lambda: dequantise_uniform(KEY, jnp.ones((2, 3)), 0.0), ValueError, "bin_width = 0.0; a bin must"),
        (
            lambda: dequantise_variational(KEY, jnp.ones((2, 3)), lambda keys, x: (x, x)),
            ValueError,
            "the proposal gave shapes",
        ),
        (lambda: discrete_log_prob(jnp.ones(2), jnp.ones(3)), ValueError, r"log_prob has shape \(2,\) and log_q"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_truncated_normal_fits_a_peak_on_a_level():
    """Where p is the noise around the level itself, every draw gives ln P to rounding; uniform noise its bound."""
    process, t, x = Process(EDM()), 0.05, jnp.float32([[0.2, -0.4], [0.0, 0.6]])
    key, width = jax.random.key(3), 0.2
    peak = dequantise_variational(key, x, truncated_normal(process, t, width), width)
    log_p = jnp.sum(-0.5 * ((peak.y - x) / t) ** 2 - jnp.log(t * jnp.sqrt(2 * jnp.pi)), axis=1)
    mass = 2 * np.log(math.erf(width / 2 / t / math.sqrt(2)))
    np.testing.assert_allclose(discrete_log_prob(log_p, peak.log_q), mass, atol=2e-5)
    assert jnp.all(jnp.abs(peak.y - x) <= width / 2 * 1.0001)


def test_a_draw_of_zero_is_no_rarer_than_it_is(monkeypatch):
    """Of 2²³ draws one is 0; at the bin's edge itself ln q would say e^-300."""
    monkeypatch.setattr(keys_lib, "uniform", lambda keys, shape, dtype: jnp.zeros((len(keys), *shape), dtype))
    with jax.disable_jit():
        found = dequantise_variational(KEY, jnp.full((2, 1), 0.5), truncated_normal(Process(Cosine()), 1e-4))
    assert jnp.all(found.log_q > -20)


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()])
def test_a_truncated_normal_is_normalised_and_bounds_by_importance(schedule):
    """E p/q is the mass of the bin, for any p: here one of slope 3 in a bin of width 0.2, to 4 standard errors."""
    process, width, count = Process(schedule), 0.2, 20_000
    x = jnp.full((count, 1), 0.3)
    found = dequantise_variational(KEY, x, truncated_normal(process, 0.06, width), width)
    ratio = np.exp(3 * np.asarray(found.y[:, 0], np.float64) - np.asarray(found.log_q, np.float64))
    mass = (np.exp(3 * 0.4) - np.exp(3 * 0.2)) / 3
    assert abs(ratio.mean() - mass) < 4 * ratio.std() / math.sqrt(count)
    assert ratio.std() > 0.01
