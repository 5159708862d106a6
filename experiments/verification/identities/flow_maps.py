"""Rows 46 and 47: the flow map of the probability-flow ODE, its two equations, and networks as flow maps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import Process, velocity
from diffusion.flow_maps import (
    average_velocity,
    eulerian_loss,
    exact_flow_map,
    flow_map,
    instantaneous,
    lagrangian_loss,
    map_from_x0,
)
from diffusion.oracles import GaussianLaw, Law, flow_map_1d
from experiments.verification.closed_forms import STEPS, levels, shared
from experiments.verification.laws import draws, line
from experiments.verification.registry import Measured, Setting, Within, identity, relative, worst_of

TOPICS = ("flow-maps",)

_NAMES = ("VP", "SubVP", "Cosine", "VE", "EDM", "RectifiedFlow")
_BOFFI = "Boffi et al. 2025, arXiv:2406.07507"


def _correlated(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, C) of a Gaussian with correlations."""
    rng = np.random.default_rng(0)
    root = 0.5 * np.eye(dim) + 0.3 * rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return rng.normal(size=dim), root @ root.T


def _by_eigenvectors(
    name: str, mean: np.ndarray, covariance: np.ndarray, x: np.ndarray, t: float, s: float
) -> np.ndarray:
    """α_s m + V_s^½ V_t^−½ (x − α_t m), in NumPy."""
    variances, axes = np.linalg.eigh(covariance)
    above, below = levels(name, s), levels(name, t)
    stretch = np.sqrt((above.alpha**2 * variances + above.sigma**2) / (below.alpha**2 * variances + below.sigma**2))
    return above.alpha * mean + (x - below.alpha * mean) @ (axes * stretch) @ axes.T


@jax.jit
def _apply(phi: Partial, x: Any, t: Any, s: Any) -> jax.Array:
    return phi(x, t, s)


@identity(
    row="46a",
    title="The flow map from t to r is that from s to r after that from t to s",
    latex=r"\Phi_{s\to r}(\Phi_{t\to s}(x)) = \Phi_{t\to r}(x),\quad \Phi_{t\to s}(x) = "
    r"\alpha_s m + V_s^{1/2} V_t^{-1/2}(x-\alpha_t m),\quad V = \alpha^2 C + \sigma^2 I",
    compared="the map of a correlated Gaussian on six schedules, and of two humps on the line by the solver, in one "
    "stride and in two, with the oracle's, from noise to the data and back",
    oracle="eigenvectors in NumPy; for the humps the quantiles of the two ends",
    source=f"{_BOFFI}, section 2; Su's post on the Wasserstein distance of diffusion models for the Gaussian",
    bound=Within(1e-9, "the solver's steps, each within 1e-11; 1e-14 of the Gaussian", roundoffs=4000),
    functions=(exact_flow_map,),
)
def _semigroup(setting: Setting) -> Measured:
    mean, covariance = _correlated(setting.dim)
    x, found = np.random.default_rng(1).normal(size=(5, setting.dim)), {}
    for name in _NAMES:
        process, (_, s, t) = shared(name), STEPS[name]
        phi = exact_flow_map(GaussianLaw.full(mean, covariance), process)
        between = _apply(phi, x, t, s)
        exact = _by_eigenvectors(name, mean, covariance, x, t, 0.0)
        found[f"in one stride, {name}"] = relative(_apply(phi, x, t, 0.0), exact)
        found[f"in two, {name}"] = relative(_apply(phi, between, s, 0.0), exact)
        found[f"back, {name}"] = relative(_apply(phi, between, s, t), x)
    process, law = STEPS["RectifiedFlow"][0], line()
    phi, start = exact_flow_map(law, process), draws(law, setting.key(0), process, 16, 0.9)
    exact = flow_map_1d(law, process, start, 0.9, 0.0)
    found["humps in one stride"] = relative(_apply(phi, start, 0.9, 0.0), exact)
    found["humps in two"] = relative(_apply(phi, _apply(phi, start, 0.9, 0.4), 0.4, 0.0), exact)
    return worst_of(found)


@functools.partial(jax.jit, static_argnames="loss")
def _residual(
    loss: Callable[..., jax.Array], phi: Partial, process: Process, law: Law, x: Any, t: Any, s: Any
) -> jax.Array:
    """The root of the loss's mean over that of the mean square of the velocity at x."""
    flow = velocity(process, law.denoiser(process))
    return jnp.sqrt(jnp.mean(loss(phi, x, t, s, flow)) / jnp.mean(flow(x, t) ** 2))


def _residuals(setting: Setting, loss: Callable[..., jax.Array]) -> Measured:
    mean, covariance = _correlated(setting.dim)
    law, x, found = GaussianLaw.full(mean, covariance), np.random.default_rng(1).normal(size=(5, setting.dim)), {}
    for name in _NAMES:
        process, (_, s, t) = shared(name), STEPS[name]
        found[name] = float(_residual(loss, exact_flow_map(law, process), process, law, x, t, s))
    process, humps = STEPS["RectifiedFlow"][0], line()
    start = draws(humps, setting.key(0), process, 16, 0.9)
    found["humps"] = float(_residual(loss, exact_flow_map(humps, process), process, humps, start, 0.9, 0.2))
    return worst_of(found)


@identity(
    row="46b",
    title="Where it arrives, the flow map moves with the velocity there",
    latex=r"\partial_s\Phi_{t\to s}(x) = v(\Phi_{t\to s}(x), s)",
    compared="the Lagrangian loss of the exact map of a Gaussian on six schedules, and of two humps on the line, with "
    "0, by a forward derivative in s",
    oracle="exact maps: closed form, and the solver that row 46a holds to quantiles",
    source=_BOFFI,
    bound=Within(1e-8, "the solver's tolerance over the length of its last step, six times", roundoffs=40000),
    functions=(lagrangian_loss,),
)
def _lagrangian(setting: Setting) -> Measured:
    return _residuals(setting, lagrangian_loss)


@identity(
    row="46c",
    title="Along the flow the place where it will arrive does not change",
    latex=r"\partial_t\Phi_{t\to s}(x) + v(x,t)\cdot\nabla_x\Phi_{t\to s}(x) = 0",
    compared="the Eulerian loss of the exact map of a Gaussian on six schedules, and of two humps on the line, with "
    "0, by one forward derivative in (x, t)",
    oracle="exact maps: closed form, and the solver that row 46a holds to quantiles",
    source=f"{_BOFFI}; Song et al. 2023, arXiv:2303.01469, remark 10",
    bound=Within(1e-8, "the solver's tolerance over the length of its steps", roundoffs=40000),
    functions=(eulerian_loss,),
)
def _eulerian(setting: Setting) -> Measured:
    return _residuals(setting, eulerian_loss)


def _any_network(x: Any, t: Any, s: Any) -> jax.Array:
    """What a network might answer that was trained for nothing."""
    shift = jnp.reshape(jnp.asarray(t) + 0.3 * jnp.asarray(s), (-1, 1))
    return jnp.sin(2 * x + shift) + 0.2 * x[:, ::-1]


@jax.jit
def _ends(process: Process, x: Any, t: Any) -> tuple[jax.Array, ...]:
    network = Partial(_any_network)
    phi = flow_map(process, network)
    times = jnp.broadcast_to(t, x.shape[:1])
    leaving = jax.jvp(lambda s: phi(x, times, s), (times,), (jnp.ones_like(times),))[1]
    flow = velocity(process, instantaneous(network))(x, times)
    return phi(x, times, times), leaving, flow, average_velocity(process, network)(x, times, times)


@identity(
    row="47",
    title="Whatever a network answers, it is a flow map at its boundary, and a denoiser there",
    latex=r"\Phi_{t\to s}(x) = \alpha_s G + \sigma_s\frac{x-\alpha_t G}{\sigma_t}:\quad \Phi_{t\to t}(x) = x,\quad "
    r"\partial_s\Phi_{t\to s}(x)|_{s=t} = \dot\alpha\,G(x,t,t) + \dot\sigma\,\frac{x-\alpha G(x,t,t)}{\sigma}",
    compared="the map of a wave that was fitted to nothing, at s = t, with x; its slope in s and the average velocity "
    "there with the velocity of G(x, t, t) as a denoiser, on six schedules",
    oracle="x; α, σ and their slopes in closed form, in NumPy's float64",
    source="Kim et al. 2024, arXiv:2310.02279, for any schedule",
    bound=Within(1e-12, "a few products", roundoffs=200),
    functions=(map_from_x0, flow_map, instantaneous),
)
def _boundary(setting: Setting) -> Measured:
    x, found = np.random.default_rng(0).normal(size=(5, setting.dim)), {}
    for name in _NAMES:
        t = STEPS[name][2]
        there, leaving, flow, average = (np.asarray(part) for part in _ends(shared(name), x, t))
        answer, at = np.asarray(_any_network(x, np.float64(t), np.float64(t))), levels(name, t)
        exact = at.alpha_dot * answer + at.sigma_dot * (x - at.alpha * answer) / at.sigma
        found[f"the boundary, {name}"] = relative(there, x)
        for what, value in (("the slope", leaving), ("the velocity", flow), ("its average", average)):
            found[f"{what}, {name}"] = relative(value, exact)
    return worst_of(found)
