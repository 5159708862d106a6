"""Predictions are one thing in five forms (identity row 2), and a preconditioned network is well scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import (
    EDM,
    VE,
    VP,
    Betas,
    Cosine,
    Preconditioning,
    Process,
    RectifiedFlow,
    StudentT,
    SubVP,
    convert,
    network_denoiser,
    perturb,
    score,
    transfer,
)
from diffusion.prediction import network_input, network_x0, noise_level, target
from diffusion.score_matching.weightings import EDMWeighting

KINDS = ("x0", "eps", "score", "v", "velocity")
SCHEDULES = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()]


def name(schedule):
    return type(schedule).__name__


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_all_pairs_convert_and_come_back(schedule, x64):
    process = Process(schedule)
    x_0, z = jax.random.normal(jax.random.key(0), (2, 3, 2, 2))
    t = jnp.asarray([0.1, 0.4, 0.9]) * schedule.t_max
    x = perturb(process, x_0, z, t)
    for source in KINDS:
        for kind in KINDS:
            answer = convert(target(process, x_0, z, t, source), x, t, process, source, kind)
            np.testing.assert_allclose(answer, target(process, x_0, z, t, kind), rtol=1e-10, atol=1e-10)


def test_chain_converts_without_derivatives(x64):
    process = Process(Betas.linear(100))
    x_0, z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    x = perturb(process, x_0, z, 40)
    for source in ("x0", "eps", "score", "v"):
        for kind in ("x0", "eps", "score", "v"):
            answer = convert(target(process, x_0, z, 40, source), x, 40, process, source, kind)
            np.testing.assert_allclose(answer, target(process, x_0, z, 40, kind), rtol=1e-10)


def test_definitions_are_the_papers(x64):
    """v = α ε − σ x_0; velocity of the straight line = z − x_0; score = −ε/σ."""
    x_0, z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    vp, flow = Process(VP()), Process(RectifiedFlow())
    np.testing.assert_allclose(target(vp, x_0, z, 0.3, "v"), vp.alpha(0.3) * z - vp.sigma(0.3) * x_0, rtol=1e-14)
    np.testing.assert_allclose(target(flow, x_0, z, 0.3, "velocity"), z - x_0, rtol=1e-14)
    np.testing.assert_allclose(target(vp, x_0, z, 0.3, "score"), -z / vp.sigma(0.3), rtol=1e-14)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine()], ids=name)
def test_velocity_gives_the_denoiser_where_alpha_is_zero(schedule):
    process = Process(schedule)
    x_0, z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    for kind in ("v", "velocity"):
        answer = convert(target(process, x_0, z, 1.0, kind), z, 1.0, process, kind, "x0")
        np.testing.assert_allclose(answer, x_0, rtol=1e-6)


def test_student_t_has_no_score():
    process = Process(EDM(), StudentT(4.0))
    with pytest.raises(TypeError, match="score"):
        score(process, lambda x, t: x)
    with pytest.raises(TypeError, match="score"):
        convert(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 1.0, process, "score", "x0")


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="kind = 'noise' is not a prediction; choose edm, residual, x0, eps"):
        Preconditioning("noise")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="sigma_data = -1"):
        Preconditioning("eps", sigma_data=-1)


def gaussian_denoiser(process, mean, variance):
    """E[x_0 | x_t] for data N(mean, variance): the Wiener filter."""

    def denoise(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    return denoise


@pytest.mark.parametrize("target_schedule", [VP(), EDM(), RectifiedFlow(), SubVP(), VE()], ids=name)
@pytest.mark.parametrize("source_schedule", [VP(), EDM(), RectifiedFlow()], ids=name)
def test_a_denoiser_moves_between_schedules(source_schedule, target_schedule, x64):
    source, there = Process(source_schedule), Process(target_schedule)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    # VP ends at σ/α = 152: stay where every schedule has been.
    t = there.schedule.time_from_log_snr(jnp.log(0.7))
    moved = transfer(gaussian_denoiser(source, 0.3, 0.6), source, there)(x, t)
    np.testing.assert_allclose(moved, gaussian_denoiser(there, 0.3, 0.6)(x, t), rtol=1e-9)


def test_edm_preconditioning_is_karras_table_1(x64):
    process, sigma_data = Process(EDM()), 0.5
    x, raw = jax.random.normal(jax.random.key(0), (2, 3, 4))
    sigma = jnp.asarray([0.01, 0.7, 40.0])
    column = sigma[:, None]
    total = column**2 + sigma_data**2
    scaled, c_noise = network_input(Preconditioning("edm", sigma_data), process, x, sigma)
    np.testing.assert_allclose(scaled, x / jnp.sqrt(total), rtol=1e-13)
    np.testing.assert_allclose(c_noise, jnp.log(sigma) / 4, rtol=1e-13)
    expected = sigma_data**2 / total * x + column * sigma_data / jnp.sqrt(total) * raw
    np.testing.assert_allclose(
        network_x0(Preconditioning("edm", sigma_data), process, raw, x, sigma), expected, rtol=1e-12
    )


@pytest.mark.parametrize("schedule", [VP(), EDM(), VE(), SubVP()], ids=name)
def test_edm_preconditioning_has_unit_input_and_unit_target(schedule, x64):
    """For data of standard deviation σ_d: Var[c_in x] = 1, and the raw target that gives x_0 has variance 1."""
    process, sigma_data = Process(schedule), 0.7
    t = jnp.asarray(0.4 * schedule.t_max)
    pre = Preconditioning("edm", sigma_data)
    # Work in the basis (x_0/σ_d, z) of unit-variance coordinates: rows are coefficients.
    x = jnp.asarray([[process.alpha(t) * sigma_data, process.sigma(t)]])
    scaled, _ = network_input(pre, process, x, t[None])
    np.testing.assert_allclose(jnp.sum(scaled**2), 1.0, rtol=1e-12)
    skip = network_x0(pre, process, jnp.zeros_like(x), x, t)
    c_out = network_x0(pre, process, jnp.ones_like(x), jnp.zeros_like(x), t)[0, 0]
    raw_target = (jnp.asarray([[sigma_data, 0.0]]) - skip) / c_out
    np.testing.assert_allclose(jnp.sum(raw_target**2), 1.0, rtol=1e-10)


def test_the_residual_autoencoder_is_told_no_noise_level(x64):
    """D = y + σ_d F(y/σ_d) with y = x/α: the network sees the same at every t with the same y."""
    process, pre = Process(VP()), Preconditioning("residual", 0.8)
    y, raw = jax.random.normal(jax.random.key(0), (2, 3, 4))
    t = jnp.asarray([0.1, 0.5, 0.9])
    x = process.alpha(t)[:, None] * y
    scaled, c_noise = network_input(pre, process, x, t)
    np.testing.assert_allclose(scaled, y / 0.8, rtol=1e-12)
    np.testing.assert_array_equal(c_noise, np.zeros(3))
    np.testing.assert_allclose(network_x0(pre, process, raw, x, t), y + 0.8 * raw, rtol=1e-12)


def test_under_student_noise_the_network_works_at_unit_size_where_noise_outweighs_data(x64):
    """However far the tails reach there; below σ_d the input is, and the target has the tails. And D(x, 0) = x."""
    pre, d = Preconditioning("edm", 0.5), 4096
    for df, sigma in [(1.0, 300.0), (3.0, 300.0), (3.0, 1e-3)]:
        process = Process(EDM(), StudentT(df))
        x_0 = 0.5 * jax.random.normal(jax.random.key(0), (8, d))
        z = process.noise.sample(jax.random.key(1), (8, d))
        x, t = x_0 + sigma * z, jnp.full(8, sigma)
        skip = network_x0(pre, process, jnp.zeros_like(x), x, t)
        out = network_x0(pre, process, jnp.ones_like(x), x, t) - skip
        target_size = jnp.mean(((x_0 - skip) / out) ** 2, 1)
        size = jnp.mean(network_input(pre, process, x, t)[0] ** 2, 1)
        own = jnp.mean(z**2, 1) if sigma < 1 else jnp.ones(8)  # below σ_d the scale of the noise is not to be seen
        np.testing.assert_allclose(size, 1.0, atol=0.25)  # 4 standard errors of |x|²/d are 0.09
        np.testing.assert_allclose(target_size / own, 1.0, atol=0.25)
    assert float(jnp.max(jnp.mean(z**2, 1))) > 2  # the tails are there
    x = jax.random.normal(jax.random.key(2), (3, 16))
    near = network_x0(pre, Process(EDM(), StudentT(1.0)), jnp.ones_like(x), x, 1e-9)
    np.testing.assert_allclose(near, x, atol=1e-7)


def test_the_weight_makes_the_loss_that_of_the_networks_answer(x64):
    """w |x_0 − D|² is the plain square of what the network answers wrongly, times 1, under any noise: w c_out² = 1."""
    x, t = 3 * jax.random.normal(jax.random.key(0), (4, 6)), jnp.asarray([0.01, 0.5, 2.0, 40.0])
    for process in (Process(EDM()), Process(EDM(), StudentT(2.0)), Process(VP(), StudentT(2.0))):
        t = jnp.minimum(t, process.t_max)
        pre, weight = Preconditioning("edm", 0.5), EDMWeighting(0.5).weight_at(process, x, t)
        out = [network_x0(pre, process, raw, x, t)[:, 0] for raw in (jnp.ones_like(x), jnp.zeros_like(x))]
        np.testing.assert_allclose(weight * (out[0] - out[1]) ** 2, 1.0, rtol=1e-9)
    np.testing.assert_array_equal(
        EDMWeighting().weight_at(Process(EDM()), x, t), EDMWeighting().weight(Process(EDM()), t)
    )


def test_noise_levels_are_those_of_gaussian_noise_in_the_limit(x64):
    x, t, gaps = 3 * jax.random.normal(jax.random.key(0), (4, 6)), jnp.asarray([0.01, 0.5, 2.0, 40.0]), []
    np.testing.assert_array_equal(noise_level(Process(EDM()), 0.5, x, t), t)
    for df in (1e5, 1e6):
        gaps.append(jnp.abs(noise_level(Process(EDM(), StudentT(df)), 0.5, x, t) / t - 1))
    np.testing.assert_allclose(gaps[0] / gaps[1], 10.0, rtol=0.02)


@pytest.mark.parametrize("kind", [*KINDS, "edm", "residual"])
def test_a_network_that_answers_right_is_the_right_denoiser(kind, x64):
    process, pre = Process(VP()), Preconditioning(kind, 0.8)
    x_0, z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    t = jnp.asarray([0.1, 0.5, 0.9])
    x = perturb(process, x_0, z, t)
    if kind in ("edm", "residual"):
        raw = (x_0 - network_x0(pre, process, jnp.zeros_like(x), x, t)) / network_x0(
            pre, process, jnp.ones_like(x), jnp.zeros_like(x), t
        )
    else:
        raw = target(process, x_0, z, t, kind)
    seen = {}

    def network(params, scaled, c_noise, labels):
        seen.update(params=params, scaled=scaled.shape, c_noise=c_noise, labels=labels)
        return raw

    labels = jnp.asarray([1, 2, 0])
    np.testing.assert_allclose(network_denoiser(network, {"w": 1.0}, process, pre, labels)(x, t), x_0, rtol=1e-9)
    assert seen["params"] == {"w": 1.0}
    assert seen["c_noise"].shape == (3,)
    np.testing.assert_array_equal(seen["labels"], labels)
    if kind not in ("edm", "residual"):
        np.testing.assert_allclose(seen["c_noise"], 1000 * t, rtol=1e-12)
