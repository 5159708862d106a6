"""What training minimises: from a configuration and a network to a pure function of the parameters and a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion import keys as keys_lib
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder
from diffusion.ddpm.losses import hybrid_loss
from diffusion.ddpm.reverse_steps import Learned, learned_denoiser
from diffusion.prediction import network_denoiser
from diffusion.process import Process
from diffusion.score_matching.losses import DenoisingTerms, denoising_terms
from diffusion.score_matching.times import ImportanceTime, TimeDistribution, UniformTime, draw_uniforms, loss_sums
from experiments import streams
from experiments.config.nodes import FlowMap, ImportanceConfig
from experiments.config.tree import Config
from experiments.data.scaling import to_model
from experiments.training.augmentation import augmented
from experiments.training.flow_map import flow_map_losses
from experiments.training.generator import Game, game_losses

LossSums = tuple[Float[Array, " bins"], Float[Array, " bins"]]


class Objective(Protocol):
    """The loss of each element of a batch, and (Σ loss², count) by bins of u for times drawn by importance.

    Everything random depends on (key, slot) alone, slot being an element's place in the global batch. So the loss
    of an element is the same however the batch is shared out.
    """

    def __call__(
        self,
        params: Any,
        key: Key[Array, ""],
        batch: Mapping[str, Array],
        second_moments: Float[Array, " bins"],
        train: bool,
    ) -> tuple[Float[Array, " b"], LossSums]:
        """`train` turns on augmentation, dropout, label dropout and the importance of times."""
        ...


def make_objective(config: Config, network: Callable[..., Array], num_classes: int, dropout: bool) -> Objective:
    """The objective of `config` for `network(params, x, c_noise, labels, keys)`, and images of bytes or uint16.

    `num_classes` is the label that means no class; `dropout` says whether the network uses its keys.
    """
    process = config.process()

    def objective(
        params: Any, key: Key[Array, ""], batch: Mapping[str, Array], second_moments: Array, train: bool
    ) -> tuple[Array, LossSums]:
        slots = batch["slot"]
        noise_key, label_key, dropout_key, augment_key = (
            jax.random.fold_in(key, stream)
            for stream in (streams.NOISE, streams.LABELS, streams.DROPOUT, streams.AUGMENT)
        )
        labels = batch["label"] if config.conditional else None
        if labels is not None and train and config.label_dropout > 0:
            dropped = keys_lib.uniform(keys_lib.sample_keys(label_key, slots)) < config.label_dropout
            labels = jnp.where(dropped, num_classes, labels)
        dropout_keys = keys_lib.sample_keys(dropout_key, slots) if dropout and train else None

        def call(params: Any, x: Array, c_noise: Array, labels: Array | None) -> Array:
            return network(params, x, c_noise, labels, dropout_keys, *told)

        times, x_0 = _times(config, second_moments, train), to_model(batch["image"])
        told: tuple[Array, ...] = ()
        if train and config.augment.on:
            x_0, *numbers = augmented(keys_lib.sample_keys(augment_key, slots), config.augment, x_0)
            told = tuple(numbers)
        if isinstance(network, Game):
            losses = game_losses(params, noise_key, config, network, x_0, slots)
            return losses, (jnp.zeros_like(second_moments), jnp.zeros_like(second_moments))
        if isinstance(config.objective, FlowMap):
            losses = flow_map_losses(network, params, noise_key, config, labels, x_0, slots, dropout_keys, train)
            return losses, (jnp.zeros_like(second_moments), jnp.zeros_like(second_moments))
        if config.learned_variance:
            denoise = learned_denoiser(call, params, process, config.preconditioning, labels)
            terms = _hybrid_terms(noise_key, config, process, denoise, x_0, times, slots)
        else:
            terms = denoising_terms(
                noise_key,
                process,
                network_denoiser(call, params, process, config.preconditioning, labels),
                x_0,
                weighting=config.weighting,
                times=times,
                draw=config.draw,
                ids=slots,
                batch_size=config.training.batch_size,
                reference=to_model(batch["reference"]) if "reference" in batch else None,
            )
        if isinstance(times, ImportanceTime):
            return terms.loss, loss_sums(times, terms.u, jax.lax.stop_gradient(terms.uncorrected))
        return terms.loss, (jnp.zeros_like(second_moments), jnp.zeros_like(second_moments))

    return objective


def _times(config: Config, second_moments: Array, train: bool) -> TimeDistribution:
    if not isinstance(config.times, ImportanceConfig):
        return config.times
    return ImportanceTime(UniformTime(), second_moments) if train else UniformTime()


def _hybrid_terms(
    key: Array,
    config: Config,
    process: Process,
    denoise: Callable[..., tuple[Array, Array]],
    x_0: Array,
    times: TimeDistribution,
    slots: Array,
) -> DenoisingTerms:
    """The hybrid loss of a learned variance at one time for each element, drawn as `denoising_terms` draws it."""
    decoder = DiscretisedDecoder(levels=2**config.data.bits)
    chain = GeneratorChain(process, denoise, np.arange(int(process.t_max) + 1), Learned(), decoder)
    u = draw_uniforms(jax.random.fold_in(key, 0), slots, config.training.batch_size, config.draw)
    t = jax.lax.stop_gradient(times.quantile(process, u))
    losses = hybrid_loss(keys_lib.sample_keys(jax.random.fold_in(key, 1), slots), chain, x_0, t.astype(jnp.int32))
    return DenoisingTerms(times.correction(u) * losses, losses, t, u)
