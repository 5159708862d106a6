"""The exact flow maps of laws: closed for Gaussians, by a solver of high order for all others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand
from diffusion.flow_maps.maps import FlowMap, TwoTimeDenoiser, x0_from_map
from diffusion.likelihood.flow import log_scale
from diffusion.likelihood.solvers import Adaptive
from diffusion.noises import Gaussian
from diffusion.oracles.components import dot
from diffusion.oracles.law import Law
from diffusion.oracles.laws import Atoms, GaussianLaw
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import bound, is_concrete
from diffusion.schedules import Cosine


def exact_flow_map(law: Law, process: Process, *, tolerance: float | None = None) -> FlowMap:
    """(x, t, s) -> Φ_{t→s}(x) of a law, in either direction, for times that are scalars or (b,).

    For N(m, C) and Gaussian noise in closed form, along each eigenvector of C with its variance λ:

        Φ − α_s m = √((α_s² λ + σ_s²)/(α_t² λ + σ_t²)) (x − α_t m)

    For other laws and noises by Dormand and Prince's method, whose steps for each element have errors below
    `tolerance` (1 + |y|) in y = x/√(α² + σ²), unless given ε^0.7 of the type's rounding ε: 1e-11 in float64, where the
    map is then right to some 1e-10, and differentiable forwards (`jax.jvp`) in x, t and s. The steps are chosen for x:
    where its path is straight, as from the middle between two atoms, a derivative has fewer digits. NaN where a
    thousand steps do not arrive. In one dimension `oracles.flow_map_1d` is the same by quantiles.

    Atoms have a flow for s > 0 alone: as s -> 0 every x ends on an atom, and the map jumps at the borders of their
    basins. Its slope there grows without bound; halfway between two atoms at ±1 it is (σ_s/σ_t) exp(½/σ_s² − ½/σ_t²)
    where α = 1. Raises ValueError for `Atoms` and a time that is the number 0, and TypeError for the discrete chain.
    """
    if process.schedule.discrete:
        raise TypeError(
            f"the schedule is {type(process.schedule).__name__}, a discrete chain without a flow; give "
            "diffusion.continuous(process), or another schedule."
        )
    if isinstance(law, GaussianLaw) and isinstance(process.noise, Gaussian):
        return bound(_gaussian_map, law, process)
    return bound(_solved_map, law, process, tolerance)


def exact_two_time_denoiser(law: Law, process: Process, *, tolerance: float | None = None) -> TwoTimeDenoiser:
    """(x, t, s) -> the G of `exact_flow_map`; E[x_0 | x_t = x] where s = t, and without s. Raises as that does.

    It is a difference over another: near s = t it loses digits, and at s = t its derivatives are not those of G.
    """
    return bound(_two_time, exact_flow_map(law, process, tolerance=tolerance), law.denoiser(process), process)


def _two_time(
    phi: FlowMap, denoise: Denoiser, process: Process, x: Array, t: ArrayLike, s: ArrayLike | None = None
) -> Array:
    if s is None:
        return denoise(x, t)
    there = x0_from_map(process, x, phi(x, t, s), t, s)
    return jnp.where(expand(jnp.asarray(t == s), x), denoise(x, t), there)


def _gaussian_map(
    law: GaussianLaw, process: Process, x: Float[Array, "b *event"], t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    c = jax.tree.map(lambda leaf: leaf[0], law.components(x.dtype))
    (alpha, variance), (alpha_s, variance_s) = (
        [
            jnp.broadcast_to(of(time), x.shape[:1])[:, None].astype(x.dtype)
            for of in (process.alpha, process.schedule.variance)
        ]
        for time in (t, s)
    )

    def stretch(data: Float[Array, " r"]) -> Float[Array, "b r"]:
        above, below = alpha_s**2 * data + variance_s, alpha**2 * data + variance
        point = (above == 0) & (below == 0)  # from no width to none
        return jnp.sqrt(jnp.where(point, 1.0, above / jnp.where(point, 1.0, below)))

    gap = x.reshape(x.shape[0], -1) - alpha * c.means
    floor = stretch(c.floor[None])
    along = dot("bd,dr->br", gap, c.basis) * (stretch(c.eigenvalues) - floor)
    return (alpha_s * c.means + floor * gap + dot("br,dr->bd", along, c.basis)).reshape(x.shape)


def _solved_map(
    law: Law, process: Process, tolerance: float | None, x: Float[Array, "b *event"], t: ArrayLike, s: ArrayLike
) -> Float[Array, "b *event"]:
    for name, time in (("t", t), ("s", s)):
        if isinstance(law, Atoms) and is_concrete(time) and time == 0:
            raise ValueError(
                f"{name} = 0, where the flow of Atoms jumps between basins; give a time above 0, such as process.t_min."
            )
    cosine, count = Process(Cosine(), process.noise), x.shape[0]
    t, s = (jnp.broadcast_to(jnp.asarray(time, x.dtype), (count,)) for time in (t, s))
    floor = float(jnp.finfo(x.dtype).eps)
    within = floor**0.7 if tolerance is None else tolerance

    def field(state: tuple[Array, Array], tau: Array) -> tuple[Array, Array]:
        """dy/dτ = (π/2) (cos E[z|y] − sin E[x_0|y]), with E[z|y] as the law gives it, without a difference."""
        y, tau = state[0], jnp.maximum(tau, floor)
        alpha, sigma = cosine.alpha(tau), cosine.sigma(tau)
        noise = law.displacement(cosine, y, tau) / expand(sigma, y)
        slope = 0.5 * jnp.pi * (expand(alpha, y) * noise - expand(sigma, y) * law.denoiser(cosine)(y, tau))
        return slope.astype(y.dtype), jnp.zeros_like(state[1])

    taus = [2 / jnp.pi * jnp.arctan2(process.sigma(time), process.alpha(time)).astype(x.dtype) for time in (t, s)]
    before, after = (jnp.exp(log_scale(process, time)).astype(x.dtype) for time in (t, s))
    start = x / expand(before, x), jnp.zeros((0, count), x.dtype)
    path = Adaptive(within, within, max_steps=1000).between(field, start, *taus)
    return jnp.where(expand(path.finished, x), path.state[0] * expand(after, x), jnp.nan)
