"""A network as a two-time denoiser: it is told of the second time by numbers that vanish where the times meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.flow_maps.maps import TwoTimeDenoiser
from diffusion.prediction import Kind, Preconditioning, network_denoiser
from diffusion.process import Process
from diffusion.pytree import ShortPartial

GAP_NUMBERS = 16
"""The numbers by which a network is told how far the second time is from the first."""
_SLOWLY = 4 / 1000


def gap_numbers(process: Process, t: Float[Array, " b"], s: Float[Array, " b"]) -> Float[Array, "b 16"]:
    """sin(½kπγ) and 1 − cos(½kπγ), k = 1..8, of γ = 1 − τ_s/τ_t with τ = atan(σ/α): all 0 at s = t.

    γ goes from 0 at s = t to 1 at the data. Its slope in t is (1 − γ) τ'/τ, and times t − s, as MeanFlow's loss has it,
    stays below 1 on schedules of straight lines, at t -> 0 and at α -> 0, where the ratio of σ/α in its place has a
    slope of 1/α.
    """
    ends = [jnp.arctan2(process.sigma(time), process.alpha(time)) for time in (s, t)]
    at_data = ends[1] == 0
    kept = jnp.where(at_data, 1.0, ends[0] / jnp.where(at_data, 1.0, ends[1]))
    angles = 0.5 * jnp.pi * (1 - kept)[:, None] * jnp.arange(1, GAP_NUMBERS // 2 + 1, dtype=t.dtype)
    return jnp.concatenate([jnp.sin(angles), 1 - jnp.cos(angles)], axis=-1)


def network_two_time_denoiser(
    network: Callable[..., Array],
    params: Any,
    process: Process,
    preconditioning: Preconditioning,
    labels: Array | None = None,
) -> TwoTimeDenoiser:
    """(x, t, s) -> G of a network `network(params, x, c_noise, labels, keys, gap) -> raw`, a Partial.

    `gap` are the `gap_numbers` (b, 16), which a `Network` with augment_dim = 16 takes in the place of an augmentation:
    zeros leave it what it is without. So at s = t, and when it is called without s, G is a denoiser, for the kind "edm"
    that of a network which was trained as one. All else is as in `network_denoiser`, but that kinds which are told
    1000 t/T are told 4 t/T: the sinusoids of an embedding would turn so fast in t that a loss with a derivative in t
    sees little else, and grows a million times as large.
    """
    return ShortPartial(_TwoTimeDenoiser(network), params, process, preconditioning, labels)


@dataclasses.dataclass(frozen=True)
class _TwoTimeDenoiser:
    """The static part, as in `network_denoiser`."""

    network: Callable[..., Array]

    def __call__(
        self,
        params: Any,
        process: Process,
        preconditioning: Preconditioning,
        labels: Array | None,
        x: Array,
        t: ArrayLike,
        s: ArrayLike | None = None,
    ) -> Array:
        gap = None
        if s is not None:
            t_of_each, s_of_each = (jnp.broadcast_to(jnp.asarray(time, x.dtype), x.shape[:1]) for time in (t, s))
            gap = gap_numbers(process, t_of_each, s_of_each)
        pace = _SLOWLY if preconditioning.kind in get_args(Kind) else 1.0

        def told(params: Any, scaled: Array, c_noise: Array, labels: Array | None) -> Array:
            return self.network(params, scaled, pace * c_noise, labels, None, gap)

        return network_denoiser(told, params, process, preconditioning, labels)(x, t)
