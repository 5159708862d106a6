"""Optimisers by name, with warm-up, decay and cool-down, after clipping by the global norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_map_with_path
from jaxtyping import Array, ArrayLike, Float

from experiments.config.nodes import OptimizerConfig
from experiments.errors import UsageError
from experiments.training.state import names_of


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """η(n) for update n, from 0: warm-up and decay, times the cool-down of the last `cooldown_steps` of `steps`.

    A line goes from 0 to the peak η at `warmup_steps`; then η stays, or falls to 0 at `steps` as a cosine or a line. An
    inverse-sqrt decay is min(n/warmup, 1) η/√max(n/reference, 1).

    Source: Karras et al. 2024, arXiv:2312.02696, appendix B (inverse-sqrt).
    """
    rate = _inverse_sqrt(config) if config.decay == "inverse-sqrt" else _after_warmup(config, steps)
    if config.cooldown_steps == 0:
        return rate
    return lambda count: rate(count) * cooldown(count, steps, config.cooldown_steps, config.cooldown)


def cooldown(count: ArrayLike, steps: int, length: int, shape: str) -> Float[Array, ""]:
    """The factor 1 − s, or 1 − √s of shape 1-sqrt, of update n = `count`: s = (n − steps + length)/length in [0, 1].

    Source: Hägele et al. 2024, arXiv:2405.18392, section 3.
    """
    over = jnp.clip((jnp.asarray(count, jnp.float32) - (steps - length)) / length, 0.0, 1.0)
    return 1 - (jnp.sqrt(over) if shape == "1-sqrt" else over)


def _after_warmup(config: OptimizerConfig, steps: int) -> optax.Schedule:
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


def _inverse_sqrt(config: OptimizerConfig) -> optax.Schedule:
    def rate(count: ArrayLike) -> Array:
        n = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum(n / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
        return config.learning_rate * warm / jnp.sqrt(jnp.maximum(n / config.reference_steps, 1.0))

    return rate


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser of one network: `make_rule`, averaged where it is schedule-free."""
    return averaging(config, steps, make_rule(config, steps))


def make_rule(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping (unless `clip_norm` is 0), then the rule of this name.

    adamw: AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101). Weight decay pulls on kernels and embeddings alone:
    biases and scales, the arrays of one axis, go free.
    muon: `muon`. schedule-free: AdamW without momentum, for `averaging`.
    """
    if config.name == "schedule-free":
        rule = optax.chain(
            optax.scale_by_rms(decay=config.b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
            optax.add_decayed_weights(config.weight_decay, mask=_kernels),
            optax.scale_by_learning_rate(learning_rate(config, steps)),
        )
    else:
        rule = muon(config, steps) if config.name == "muon" else _adamw(config, steps)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule) if config.clip_norm > 0 else rule


def _adamw(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.adamw(
        learning_rate(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=_kernels
    )


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def muon(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Muon for the matrices of the hidden layers (`is_hidden`), AdamW for all other parameters.

    A matrix W (in, out), x ↦ xW, takes the step −η √max(1, out/in) UVᵀ, where UΣVᵀ is its momentum and UVᵀ is found by
    five Newton-Schulz steps, up to singular values of 0.7 to 1.2. A convolution (kh, kw, in, out) is the matrix
    (kh·kw·in, out); queries, keys and values in one kernel (in, 3·out) are three matrices. η is `muon_learning_rate`,
    of the same course as `learning_rate`, and weight decay is η·`weight_decay`·W. The momentum is Nesterov's; optax
    corrects it for its start at 0, as Adam's, and Jordan does not, so that the first steps mix old and new gradients
    otherwise.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; optax.contrib.muon. Its `init` raises UsageError for
    a network without hidden matrices.
    """
    rate = learning_rate(replace(config, learning_rate=config.muon_learning_rate), steps)
    hidden = optax.contrib.muon(
        rate,
        beta=config.muon_momentum,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=lambda params: tree_map_with_path(_dimensions, params),
    )
    return optax.partition({"muon": _split_apart(hidden), "adamw": _adamw(config, steps)}, _muon_or_adamw)


def is_hidden(path: Any, leaf: Any) -> bool:
    """Whether a parameter is a matrix, or a convolution, between hidden layers.

    These are the kernels of the modules in a list, such as blocks/0/mlp1/kernel, whose sides are longer than 1. What
    stands outside the lists comes before and after the blocks: the input layer, embeddings and the output layer.
    """
    *modules, name = names_of(path)
    wide = leaf.ndim > 1 and leaf.shape[-1] > 1 and leaf.size > leaf.shape[-1]
    return name == "kernel" and wide and any(module.isdecimal() for module in modules)


def _muon_or_adamw(params: Any) -> Any:
    labels = tree_map_with_path(lambda path, leaf: "muon" if is_hidden(path, leaf) else "adamw", params)
    if "muon" not in (found := jax.tree.leaves(labels)) and found:
        raise UsageError(
            "--optimizer.name muon finds no hidden matrices, kernels of modules in a list such as blocks/0; use adamw."
        )
    return labels


def _is_fused(path: Any, leaf: Any) -> bool:
    """Whether a kernel holds queries, keys and values side by side, (in, 3·out)."""
    names = names_of(path)
    return len(names) > 1 and "qkv" in names[-2] and leaf.ndim == 2 and leaf.shape[1] % 3 == 0


def _dimensions(path: Any, leaf: Any) -> Any:
    """Which axes of a parameter are a matrix's rows and columns, after `_split_apart`; the third of qkv is neither."""
    names = names_of(path)
    if "qkv" in names[-2] and leaf.ndim == 3 and leaf.shape[1] == 3:
        return optax.contrib.MuonDimensionNumbers(0, 2)
    return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)


def _split_apart(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on parameters whose fused kernels (in, 3·out) are (in, 3, out)."""

    def split(tree: Any) -> Any:
        def apart(path: Any, leaf: Array) -> Array:
            return leaf.reshape(leaf.shape[0], 3, -1) if _is_fused(path, leaf) else leaf

        return tree_map_with_path(apart, tree)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        parted = None if params is None else split(params)
        changes, state = inner.update(split(updates), state, parted)
        return jax.tree.map(lambda change, like: change.reshape(like.shape), changes, updates), state

    return optax.GradientTransformation(lambda params: inner.init(split(params)), update)


def averaging(config: OptimizerConfig, steps: int, rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """`rule`, a schedule-free one made to average as it goes; any other as it is.

    With z moved by the rule and x its average, gradients are taken at y = (1 − β₁) z + β₁ x, and
    x ← (1 − c) x + c z, c = γ_n²/Σ γ_i² of the learning rates γ so far.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.
    """
    if config.name != "schedule-free":
        return rule
    rate = learning_rate(config, steps)
    # optax counts the updates from 1 here, and from 0 within the rule.
    return optax.contrib.schedule_free(rule, lambda count: rate(count - 1), b1=config.b1)


def gradient_point(config: OptimizerConfig, params: Any, opt_state: Any) -> Any:
    """Where the gradient is to be taken: y of a schedule-free optimiser, whose x are `params`; else `params`."""
    if config.name != "schedule-free":
        return params
    return jax.tree.map(lambda x, z: config.b1 * x + (1 - config.b1) * z, params, opt_state.z)


def parameters_at(config: OptimizerConfig, point: Any, opt_state: Any) -> Any:
    """The inverse of `gradient_point`: what is evaluated, sampled and averaged, x of a schedule-free optimiser."""
    return optax.contrib.schedule_free_eval_params(opt_state, point) if config.name == "schedule-free" else point
