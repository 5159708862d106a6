"""Rows 51, 52 and N9: ReFlow as a critic, its straight paths, and the gradients of score distillation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import Process
from diffusion.flow_maps import critic_loss, exact_flow_map, flow_matching_loss, score_distillation
from diffusion.oracles import GaussianLaw
from experiments.verification import pairs
from experiments.verification.closed_forms import STEPS, levels, shared
from experiments.verification.registry import Measured, OffBy, Setting, Within, identity, relative, worst_of

TOPICS = ("few-steps",)


def _wave(x: jax.Array) -> jax.Array:
    """A potential on R^d, (b,)."""
    return jnp.sum(jnp.sin(x) + 0.3 * x**2, axis=-1) + 0.1 * jnp.prod(x, axis=-1)


def _critics(x_0: Any, x_1: Any, times: Any, weights: Any) -> tuple[jax.Array, jax.Array]:
    """(the mean over t of ReFlow's loss with the velocity ∇D, that of the critic's), for each pair."""
    slope = jax.grad(lambda x: jnp.sum(_wave(x)))

    def reflow(t: jax.Array) -> jax.Array:
        # Under RectifiedFlow the pair's velocity is z − x_0.
        process = STEPS["RectifiedFlow"][0]
        loss = flow_matching_loss(process, lambda x, _: slope(x), x_0, x_1, jnp.broadcast_to(t, x_0.shape[:1]))
        return 0.5 * x_0.shape[1] * loss

    def critic(t: jax.Array) -> jax.Array:
        return critic_loss(_wave, x_0, x_1, jnp.broadcast_to(t, x_0.shape[:1]))

    return tuple(jnp.tensordot(weights, jax.lax.map(loss, times), 1) for loss in (reflow, critic))  # type: ignore[return-value]


_critics = jax.jit(_critics)


@identity(
    row="51a",
    title="ReFlow by a gradient is a critic with a zero-centred penalty",
    latex=r"\int_0^1\frac{1}{2}|x_1-x_0-\nabla D(x_t)|^2 dt = \int_0^1\frac{1}{2}|\nabla D(x_t)|^2 dt - D(x_1) + "
    r"D(x_0) + \frac{1}{2}|x_1-x_0|^2",
    compared="both sides for five pairs of points and a potential of waves, by a Gauss-Legendre rule of 24 nodes in t",
    oracle="the flow matching loss with the velocity ∇D, which knows nothing of D's values",
    source="Su 2023, the post on ReFlow and WGAN-GP; Liu et al. 2023, arXiv:2209.03003, eq. 1",
    bound=Within(1e-11, "a rule of 24 nodes for waves of a few radians", roundoffs=200),
    functions=(critic_loss, flow_matching_loss),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _reflow_is_a_critic(setting: Setting) -> Measured:
    x_0, x_1 = np.random.default_rng(0).normal(size=(2, 5, setting.dim))
    nodes, weights = np.polynomial.legendre.leggauss(24)
    first, second = _critics(x_0, x_1, 0.5 * (nodes + 1), 0.5 * weights)
    return Measured(relative(second, first), "the two sides, pair by pair")


def _straight(process: Process, times: Any) -> jax.Array:
    """The factors c(t) of the velocity c x of least loss on the pairs (Φ_{1→0}(z), z), at each of the times."""
    rule = pairs.rule()
    z = jnp.asarray(rule.z)
    made = exact_flow_map(pairs.law(), process)(z, jnp.ones(()), jnp.zeros(()))

    def factor(t: jax.Array) -> jax.Array:
        slope = jax.grad(lambda c: rule.mean(flow_matching_loss(process, lambda x, _: c * x, made, z, t)))
        return slope(jnp.zeros(())) / (slope(jnp.zeros(())) - slope(jnp.ones(())))

    return jax.lax.map(factor, times)


_straight = jax.jit(_straight)


@identity(
    row="51b",
    title="Once rectified, a Gaussian flows along straight lines",
    latex=r"x_0 = \Phi_{1\to 0}(z) = S z,\quad x_t = ((1-t)S + t)\,z\quad\Rightarrow\quad v(x_t,t) = (1-S)\,z",
    compared="the velocity of least loss on the pairs, along the path from z at five times, with z − x_0, and one "
    "step of Euler's method with S z, for S = ½",
    oracle="the closed form, whose velocity along a path is constant",
    source="Liu et al. 2023, arXiv:2209.03003, section 3.2",
    bound=Within(1e-12, "a quotient of two slopes", roundoffs=200),
    functions=(flow_matching_loss, exact_flow_map),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _reflow_is_straight(setting: Setting) -> Measured:
    del setting
    times = np.linspace(0.1, 1, 5)
    factors = np.asarray(_straight(shared("RectifiedFlow"), times))
    found = {"the velocity": relative(factors * ((1 - times) * pairs.STD + times), np.full(5, 1 - pairs.STD))}
    return worst_of(found | {"one step": abs(1 - float(factors[-1]) - pairs.STD) / pairs.STD})


def _distilled(std: Any, t: Any) -> tuple[jax.Array, jax.Array]:
    """The values and the slopes in the generator's std of (2L₂ − L₁, L₁, L₂), the generator's denoiser held."""
    process, rule = STEPS["RectifiedFlow"][0], pairs.rule(1.0)
    noise, z = jnp.asarray(rule.x_0), jnp.asarray(rule.z)
    data = GaussianLaw.isotropic(np.zeros(1), pairs.STD).denoiser(process)
    held = jax.lax.stop_gradient(std)

    def generators(x: jax.Array, time: Any) -> jax.Array:
        alpha, sigma = process.alpha(time), process.sigma(time)
        return alpha * held**2 / (alpha**2 * held**2 + sigma**2) * x

    def means(at: jax.Array) -> jax.Array:
        told = score_distillation(process, data, generators, at * noise, z, t)
        return jnp.stack([rule.mean(part) for part in told])

    return means(std), jax.jacfwd(means)(std)


_distilled = jax.jit(_distilled)


def _true_divergence(std: float, t: float) -> tuple[float, float]:
    """E|D − D_g|² and its slope in the generator's std, the generator's denoiser moving along."""
    at = levels("RectifiedFlow", t)
    variance = at.alpha**2 * std**2 + at.sigma**2
    data = at.alpha * pairs.STD**2 / (at.alpha**2 * pairs.STD**2 + at.sigma**2)
    gap = data - at.alpha * std**2 / variance
    moving = 2 * at.alpha * std * at.sigma**2 / variance**2
    return float(gap**2 * variance), float(-2 * gap * moving * variance + gap**2 * 2 * at.alpha**2 * std)


_SPREADS = (0.3, 0.8)


@identity(
    row="52",
    title="Of score distillation's two losses, twice the second less the first has the true gradient",
    latex=r"L_1 = \mathbb{E}|D-D_g|^2,\quad L_2 = \mathbb{E}\langle D-D_g, D-x_g\rangle:\quad L_1 = L_2,\quad "
    r"\nabla L = 2\nabla L_2^{\mathrm{sg}} - \nabla L_1^{\mathrm{sg}}",
    compared="both values, and the slope in the spread of a Gaussian generator, its own denoiser held, with those of "
    "the divergence whose denoiser moves along, for a generator too narrow and one too wide",
    oracle="the divergence of two Gaussians and its slope, in closed form",
    source="Su 2024, the posts on score identity distillation; Zhou et al. 2024, arXiv:2404.04057, theorem 4",
    bound=Within(1e-12, "25 nodes and a derivative", roundoffs=400),
    functions=(score_distillation,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _score_distillation(setting: Setting) -> Measured:
    del setting
    found = {}
    for std in _SPREADS:
        values, slopes = (np.asarray(part, np.float64) for part in _distilled(std, 0.4))
        exact, slope = _true_divergence(std, 0.4)
        found |= {f"L1 at {std}": relative(values[1], exact), f"L2 at {std}": relative(values[2], exact)}
        found[f"the slope at {std}"] = relative(slopes[0], slope)
    return worst_of(found)


@identity(
    row="N9",
    title="False: either loss of score distillation has the true gradient while the generator's denoiser is held",
    latex=r"\nabla L_1^{\mathrm{sg}}\neq\nabla L,\quad \nabla L_2^{\mathrm{sg}}\neq\nabla L",
    compared="the slopes of both in the spread of a Gaussian generator that is too narrow with the true one: that of "
    "L₁ has another sign, that of L₂ another size; the smaller of the two differences, relative",
    oracle="the divergence of two Gaussians and its slope, in closed form",
    source="Su 2024, the posts on score identity distillation",
    bound=OffBy(0.2, "the denoiser of the law that moves is held; L₁ drives the two apart, or this fails"),
    functions=(score_distillation,),
    test="tests/diffusion/flow_maps/test_losses.py",
)
def _one_loss_is_enough(setting: Setting) -> Measured:
    del setting
    ratios = np.asarray(_distilled(_SPREADS[0], 0.4)[1], np.float64)[1:] / _true_divergence(_SPREADS[0], 0.4)[1]
    smallest = float(np.min(np.abs(ratios - 1)))
    words = f"L₁ has {ratios[0]:.2f} and L₂ {ratios[1]:.2f} of the true slope"
    return Measured(smallest if ratios[0] < 0 < ratios[1] else float("nan"), words)
