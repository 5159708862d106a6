"""AdamW with warm-up and decay, after clipping by the global norm."""

from __future__ import annotations

from typing import Any

import jax
import optax

from experiments.config.nodes import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """η(n) for update n, from 0: a line from 0 to the peak at `warmup_steps`, then the decay, which is 0 at `steps`."""
    peak, left = config.learning_rate, max(1, steps - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, left),
        "linear": optax.linear_schedule(peak, 0.0, left),
    }[config.decay]
    if config.warmup_steps == 0:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, config.warmup_steps), after], boundaries=[config.warmup_steps]
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping (unless `clip_norm` is 0), then AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Weight decay pulls on kernels and embeddings alone: biases and scales, the arrays of one axis, go free.
    """
    adamw = optax.adamw(
        learning_rate(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=_kernels
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm > 0 else adamw


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
