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
from diffusion.prediction import network_input, network_x0, target

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
    with pytest.raises(ValueError, match="kind = 'noise' is not a prediction; choose edm, x0, eps"):
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


@pytest.mark.parametrize("kind", [*KINDS, "edm"])
def test_a_network_that_answers_right_is_the_right_denoiser(kind, x64):
    process, pre = Process(VP()), Preconditioning(kind, 0.8)
    x_0, z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    t = jnp.asarray([0.1, 0.5, 0.9])
    x = perturb(process, x_0, z, t)
    if kind == "edm":
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
    if kind != "edm":
        np.testing.assert_allclose(seen["c_noise"], 1000 * t, rtol=1e-12)
