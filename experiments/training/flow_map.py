"""The loss of a flow map: of each element its own two times, and a denoiser's loss where they meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.flow_maps import average_velocity, consistency_function, meanflow_loss, shortcut_loss, tangent_loss
from diffusion.flow_maps.network import network_two_time_denoiser
from diffusion.process import Process
from diffusion.score_matching.times import draw_uniforms
from diffusion.score_matching.weightings import VelocityWeighting
from experiments import streams
from experiments.config.nodes import FlowMap, ImportanceConfig
from experiments.config.tree import Config

_OF_AVERAGES = {"meanflow": meanflow_loss, "shortcut": shortcut_loss}
"""The losses of average velocities."""
_FLOOR = 1e-3
"""What is added to a loss before a power of it divides."""


def flow_map_losses(
    network: Callable[..., Array],
    params: Any,
    key: Key[Array, ""],
    config: Config,
    labels: Int[Array, " b"] | None,
    x_0: Float[Array, "b *event"],
    slots: Int[Array, " b"],
    dropout_keys: Key[Array, " b"] | None,
    train: bool,
) -> Float[Array, " b"]:
    """The loss of each element, in the units of the configuration's weighting: where s = t it is denoising's.

    That of consistency elsewhere has the size of its normalised tangent, whatever the weighting.
    A loss of the average velocity is divided by what turns a denoiser's error into the velocity's,
    w/((ασ' − σα')/σ)². Everything random depends on (key, slot) alone.
    """
    rule = config.objective
    assert isinstance(rule, FlowMap)
    process = config.process()

    def told(params: Any, x: Array, c_noise: Array, labels: Array | None, _: None = None, gap: Any = None) -> Array:
        return network(params, x, c_noise, labels, dropout_keys, gap)

    two_time = network_two_time_denoiser(told, params, process, config.preconditioning, labels)
    t, s = draw_times(key, config, process, slots)
    z = process.noise.sample(
        keys_lib.sample_keys(jax.random.fold_in(key, streams.FLOW_MAP_Z), slots), x_0.shape, x_0.dtype
    )
    scale = config.weighting.weight(process, t) / VelocityWeighting().weight(process, t)
    average = average_velocity(process, two_time)
    if rule.loss == "consistency":
        meeting = meanflow_loss(process, average, x_0, z, t, t)  # a denoiser's loss
        pace = -2 / _log_snr_slope(process, t)
        told_end = tangent_loss(
            process, consistency_function(two_time), x_0, z, t, weight=pace, normalised=rule.tangent
        )
        losses = jnp.where(s == t, scale * meeting, told_end)
    else:
        losses = scale * _OF_AVERAGES[rule.loss](process, average, x_0, z, t, s)
    if not train or rule.power == 0:
        return losses
    return losses * jax.lax.stop_gradient((losses + _FLOOR) ** -rule.power)


def draw_times(
    key: Key[Array, ""], config: Config, process: Process, slots: Int[Array, " b"]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """(t, s) of each element: equal for the part that is together, s = 0 for a part of the others, s <= t always."""
    rule, times, size = config.objective, config.times, config.training.batch_size
    assert isinstance(rule, FlowMap)
    assert not isinstance(times, ImportanceConfig)
    first, second = (
        times.quantile(process, draw_uniforms(jax.random.fold_in(key, stream), slots, size, draw))
        for stream, draw in ((streams.FLOW_MAP_T, config.draw), (streams.FLOW_MAP_S, "independent"))
    )
    kind = keys_lib.uniform(keys_lib.sample_keys(jax.random.fold_in(key, streams.FLOW_MAP_KIND), slots))
    together = kind < rule.together
    to_data = kind >= 1 - (1 - rule.together) * rule.to_data
    t = jnp.where(together | to_data, first, jnp.maximum(first, second))
    s = jnp.where(together, t, jnp.where(to_data, 0.0, jnp.minimum(first, second)))
    return jax.lax.stop_gradient((t, s))


def _log_snr_slope(process: Process, t: Float[Array, " b"]) -> Float[Array, " b"]:
    return jax.jvp(process.schedule.log_snr, (t,), (jnp.ones_like(t),))[1]
