"""In what two configurations differ, and what of it takes part in what a step computes."""

from __future__ import annotations

from typing import Any

from experiments.config.choices import TYPES, spelt
from experiments.config.file import to_json
from experiments.config.tree import Config

# What may change when a run goes on: nothing here takes part in what step n computes. The data may have moved; that
# they are the same is checked by their fingerprint.
FREE = frozenset(
    (
        *("training.steps", "training.steps_per_dispatch", "training.log_every", "training.validate_every"),
        *("training.checkpoint_every", "training.keep_last", "training.keep_best", "training.sample_every"),
        *("training.stop_after", "training.tensorboard", "data.source", "data.memory_gib", "data.loading"),
        *("ema.snapshot_precision", "parallel"),
    )
)
COOLDOWN = frozenset(("training.steps", "optimizer.cooldown_steps", "optimizer.cooldown"))
"""What may change too while no step of the cool-down is done."""
FREE_GROUPS = ("sampling.", "measure.", "tracking.")


def differences(before: Config, after: Config, done: int | None = None) -> list[tuple[str, Any, Any]]:
    """(name, before, after) of every field that differs and takes part in what a step computes.

    With `done`, in what any of the first `done` steps computes: a cool-down that begins later takes no part in it.
    Where a node is of another type, such as the network, that is the difference, and not the fields that only one has.
    """
    old, new = flat(to_json(before)), flat(to_json(after))
    free = FREE - {"training.steps"} if after.optimizer.falls_to_the_end else FREE
    if done is not None and all(_is_before_cooldown(config, done) for config in (before, after)):
        free |= COOLDOWN
    if before.ema.widths == after.ema.widths:
        free |= {"ema.snapshot_every", "ema.sigma_rel"}
    names = [
        name
        for name in sorted(old.keys() | new.keys(), key=lambda name: (not name.endswith(".type"), name))
        if old.get(name) != new.get(name) and name not in free and not name.startswith(FREE_GROUPS)
    ]
    nodes = tuple(name.removesuffix("type") for name in names if name.endswith(".type"))
    told = [name for name in names if name.endswith(".type") or not name.startswith(nodes)]
    return [(name.removesuffix(".type"), _shown(name, old), _shown(name, new)) for name in told]


def _is_before_cooldown(config: Config, done: int) -> bool:
    """Whether the learning rate of the first `done` steps does not depend on where the training ends."""
    rule = config.optimizer
    return rule.decay not in ("cosine", "linear") and done <= config.training.steps - rule.cooldown_steps


def _shown(name: str, values: dict[str, Any]) -> Any:
    """A value as the command line has it."""
    value = values.get(name, "absent")
    return spelt(TYPES[value]) if name.endswith(".type") and value in TYPES else value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their paths, as in training.steps."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in flat(item, f"{prefix}.{key}" if prefix else key).items()
    }
