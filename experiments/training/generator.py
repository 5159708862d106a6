"""A one-step generator and two density estimators, trained together: three networks under one loss.

    data        E w |∇ψ_p(x + ε) + ε|²          on images x, ε ~ N(0, σ²I): ψ_p = σ² ln p̂ + C
    samples     E w |∇ψ_q(g(z) + ε) + ε|²       on what the generator makes, held fixed
    generator   ∇_θ E (ψ_q − ψ_p)(g_θ(z) + ε) = E_σ σ² ∇_θ KL(q̂ ‖ p̂), both estimators held fixed

each over d, with EDM's weight w = 1/σ_d² + 1/σ².

At one noise level σ this is the published method (Bigdeli et al. 2020, arXiv:2001.02728, algorithm 1). There p̂ is
learnt near the data only, and a generator that starts elsewhere learns nothing from it. So both estimators are told
the level, which is drawn log-uniformly from σ to σ_max, where p̂ and q̂ overlap.

Each loss has a gradient in its own network only, so that their sum trains all three; the generator moves in one step
out of `every`. The generator is the denoiser at the noise level of the prior, x = D(σ_max z, σ_max): a sampler's
single step from σ_max to 0 is a call of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arrays import event_size
from diffusion.energy import generator_loss
from diffusion.energy.residual import Potential
from diffusion.networks.conservative import Conservative
from diffusion.networks.functional import Network, Params
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.process import prior_sample
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import LogUniformSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments import streams
from experiments.config.nodes import Generator
from experiments.config.tree import Config
from experiments.training.optimizer import averaging, make_optimizer, make_rule
from experiments.training.potential import level_potential

DATA, SAMPLES, GENERATOR = "data", "samples", "generator"
REACH = 2.0
"""B, the largest value that the generator gives; data lie in [−1, 1] or little beyond."""


@dataclass(frozen=True)
class Game:
    """The three networks; called as a network, it is the generator."""

    generator: Network

    @property
    def estimator(self) -> Conservative:
        """The architecture of both estimators: the generator's, its answer a gradient."""
        return Conservative(self.generator)

    def init(self, key: Key[Array, ""]) -> Params:
        """Parameters of the three. The estimators start out equal, so as not to lead the generator astray."""
        keys = jax.random.split(key, 2)
        estimator = self.estimator.init(keys[0])
        return {DATA: estimator, SAMPLES: jax.tree.map(jnp.copy, estimator), GENERATOR: self.generator.init(keys[1])}

    def __call__(
        self,
        params: Params,
        x: Float[Array, "b *event"],
        c_noise: Float[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b *event"]:
        """The generator's answer B tanh((x/2 + F)/B).

        Untrained it is about half the latent: were it F alone, about a constant, all samples would start from one
        point and move alike. It is bounded because the estimators know nothing of what is far from all data.
        """
        return REACH * jnp.tanh((0.5 * x + self.generator(params[GENERATOR], x, c_noise, labels, keys)) / REACH)


def game_losses(
    params: Params, key: Key[Array, ""], config: Config, game: Game, x_0: Float[Array, "b *event"], slots: Array
) -> Float[Array, " b"]:
    """The two denoising losses of each element, by EDM's weight; the generator's term adds a gradient, and 0 in value.

    Everything random depends on (key, slot) alone.
    """
    rule = config.objective
    assert isinstance(rule, Generator)
    process, levels = config.process(), LogUniformSigma(rule.sigma, rule.sigma_max)
    sigma_data = config.preconditioning.sigma_data
    latent_key, data_key, sample_key, compare_key = (
        jax.random.fold_in(key, stream)
        for stream in (streams.LATENT, streams.ON_DATA, streams.ON_SAMPLES, streams.COMPARED)
    )
    latent = prior_sample(keys_lib.sample_keys(latent_key, slots), process, x_0.shape)
    made = network_denoiser(game, params, process, config.preconditioning)(latent, process.t_max)

    def denoising(key: Array, name: str, x: Array) -> Array:
        denoise = network_denoiser(game.estimator, params[name], process, Preconditioning("edm", sigma_data))
        shared = {"times": levels, "ids": slots, "batch_size": config.training.batch_size}
        return denoising_terms(key, process, denoise, x, weighting=EDMWeighting(sigma_data), **shared).loss

    losses = denoising(data_key, DATA, x_0) + denoising(sample_key, SAMPLES, jax.lax.stop_gradient(made))
    keys = keys_lib.sample_keys(compare_key, slots)
    sigma = levels.quantile(process, keys_lib.uniform(keys_lib.fold(keys, streams.COMPARED_LEVEL)))
    data, model = (level_potential(game.estimator, params[name], sigma_data, sigma) for name in (DATA, SAMPLES))
    noise = keys_lib.fold(keys, streams.COMPARED_NOISE)
    gap = sigma**2 * generator_loss(noise, data, model, made, sigma) / event_size(x_0)
    return losses + gap - jax.lax.stop_gradient(gap)


def alternating(config: Config) -> optax.GradientTransformation:
    """The optimiser: the estimators move in every step, the generator in one of `every`, each with its own clipping.

    The generator's learning rate has the same course over its own steps, and Muon's is lower by the same factor. A
    schedule-free one averages all three alike.
    """
    rule, steps = config.objective, config.training.steps
    assert isinstance(rule, Generator)
    theirs, often = config.optimizer, max(1, steps // rule.every)
    ours = replace(
        theirs,
        learning_rate=rule.learning_rate,
        muon_learning_rate=theirs.muon_learning_rate * rule.learning_rate / theirs.learning_rate,
        warmup_steps=theirs.warmup_steps // rule.every,
        cooldown_steps=theirs.cooldown_steps // rule.every,
        reference_steps=max(1, theirs.reference_steps // rule.every),
    )

    def due(step: Any, **_: Any) -> Any:
        return (step + 1) % rule.every == 0

    seldom = optax.conditionally_mask(make_rule(ours, often), should_transform_fn=due)
    rules: dict[Hashable, Any] = {"estimators": make_rule(theirs, steps), GENERATOR: seldom}
    return averaging(theirs, steps, optax.partition(rules, _parts))


def optimizer_of(config: Config) -> optax.GradientTransformation:
    """The optimiser of a run: that of its one network, or of the three."""
    if isinstance(config.objective, Generator):
        return alternating(config)
    return make_optimizer(config.optimizer, config.training.steps)


def _parts(params: Params) -> Mapping[str, str]:
    return {name: name if name == GENERATOR else "estimators" for name in params}


def data_potential(game: Game, params: Any, config: Config) -> Potential:
    """ψ_p of the data at the smallest level, by the one of the two estimators that is worth keeping."""
    assert isinstance(config.objective, Generator)
    return level_potential(game.estimator, params[DATA], config.preconditioning.sigma_data, config.objective.sigma)
