"""What a training takes: parameters, memory and arithmetic, told before hours are spent and before memory is.

Before anything is compiled shapes alone say it: the state, its gradient, and what is kept from the forward pass for the
backward one. XLA needs less, since it computes some of that anew; how much it needs, its own analysis of the compiled
step says.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import memory
from experiments.config.nodes import Denoising
from experiments.config.tree import Config
from experiments.errors import ExhaustedError, warn
from experiments.memory import shown
from experiments.progress import duration
from experiments.training.data import REFERENCE, Facts
from experiments.training.generator import optimizer_of
from experiments.training.model import network_of
from experiments.training.objective import Objective, make_objective
from experiments.training.placement import make_replicas
from experiments.training.plan import count_snapshots
from experiments.training.replicas import Device, Replicas
from experiments.training.snapshots import bytes_of
from experiments.training.state import PRNG, initial_state

_SURELY = 3
"""XLA has needed 0.66 to 0.82 of the estimate on CPUs; a third of it is sure to be needed."""
_LARGE = 2**16
_ROOM = 0.8
"""The part of free memory that a remedy fills."""
_SIDE_ON_CPU, _SIDE = 2048, 8192
"""Sides of the matrices by whose product a device is timed."""


@dataclass(frozen=True)
class Budget:
    """The bytes of a step on each device, by shapes, and the arithmetic that goes with them."""

    parameters: int
    """The number of parameters."""
    state: int
    """Parameters, averages and the optimiser's state."""
    gradient: int
    """The gradient."""
    activations: int
    """What the forward pass keeps for the backward one, of `share` images."""
    share: int
    """The images that a device computes at once."""
    gradients: Callable[..., Any] = dataclasses.field(repr=False, compare=False)
    """The loss with its gradient, a function of the shapes in `arguments`."""
    arguments: tuple[Any, ...] = dataclasses.field(repr=False, compare=False)

    @property
    def memory(self) -> int:
        """All of it."""
        return self.state + self.gradient + self.activations

    @property
    def least(self) -> int:
        """What XLA surely needs."""
        return self.state + self.gradient + self.activations // _SURELY

    def flops(self) -> float | None:
        """Additions and multiplications for each image, as XLA counts them in what is not compiled yet.

        None where it does not.
        """
        counted = jax.jit(self.gradients).lower(*self.arguments).cost_analysis()
        total = counted.get("flops", 0.0) if isinstance(counted, dict) else 0.0
        return total / self.share if total > 0 else None


def is_large(config: Config, facts: Facts) -> bool:
    """Whether the numbers in a batch are so many that memory is worth a thought also where nobody reads of it."""
    return config.training.batch_size * math.prod(facts.event_shape) > _LARGE


def budget_of(
    config: Config,
    facts: Facts,
    network: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    replicas: Replicas,
) -> Budget:
    """The budget of a step of `config` on data of these facts, spread over these devices."""
    # On a CPU micro-batches are written out, and XLA keeps what all of them need: four took 0.9 of the memory of one.
    together = 1 if replicas.on_cpu else config.optimizer.accumulate
    share = config.training.batch_size // (replicas.count * together)
    params = jax.eval_shape(network.init, jax.random.key(0))
    state = jax.eval_shape(partial(initial_state, optimizer=optimizer, config=config), params)
    pixel = jnp.uint16 if config.data.bits == 16 else jnp.uint8
    one = partial(jax.ShapeDtypeStruct, dtype=jnp.float32 if len(facts.event_shape) == 1 else pixel)
    batch = {"image": one((share, *facts.event_shape))}
    batch |= {name: jax.ShapeDtypeStruct((share,), jnp.int32) for name in ("label", "slot")}
    if isinstance(config.objective, Denoising) and config.objective.reference:
        batch[REFERENCE] = one((config.objective.reference, *facts.event_shape))

    def loss(params: Any, batch: Any, moments: Any) -> Any:
        return jnp.mean(objective(params, jax.random.key(0, impl=PRNG), batch, moments, True)[0])

    def kept(params: Any, batch: Any, moments: Any) -> Any:
        return jax.vjp(lambda params: loss(params, batch, moments), params)[1]  # a tree of what it keeps

    arguments = (params, batch, state.second_moments)
    return Budget(
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        state=replicas.bytes_on_each(state),
        gradient=_bytes(params),
        activations=_bytes(jax.eval_shape(kept, *arguments)),
        share=share,
        gradients=jax.value_and_grad(loss),
        arguments=arguments,
    )


def checked(
    config: Config,
    facts: Facts,
    network: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    replicas: Replicas,
    quiet: bool,
) -> Budget | None:
    """The budget, told unless `quiet`; None where nobody reads of it and the batches are small.

    Raises ExhaustedError as `require` does.
    """
    if quiet and not is_large(config, facts):
        return None
    budget = budget_of(config, facts, network, objective, optimizer, replicas)
    if not quiet:
        tell(budget, config, replicas)
    require(budget, config, replicas)
    return budget


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def free_on(replicas: Replicas) -> int | None:
    """The bytes that each device has left for a step; None where it does not say. CPU devices share the machine's."""
    if replicas.on_cpu:
        left = memory.available()
        return None if left is None else left // len(replicas.local)
    told = [device.memory_stats() or {} for device in replicas.local]
    known = [stats for stats in told if "bytes_limit" in stats and "bytes_in_use" in stats]
    return min((stats["bytes_limit"] - stats["bytes_in_use"] for stats in known), default=None)


def tell(budget: Budget, config: Config, replicas: Replicas) -> None:
    """Print on standard error what a step takes, by shapes, and what there is; process 0 does."""
    if jax.process_index() == 0:
        free = free_on(replicas)
        has = "" if free is None else f"; {_place(replicas)} has {shown(free)} free"
        print(
            f"{budget.parameters:,} parameters; a step of {config.training.batch_size} images takes up to "
            f"{shown(budget.memory)} of memory, by its shapes{has}",
            file=sys.stderr,
            flush=True,
        )


def require(budget: Budget, config: Config, replicas: Replicas) -> None:
    """Refuse, before anything is allocated, a step that surely does not fit, and warn of one that may not.

    Raises ExhaustedError for the first.
    """
    free = free_on(replicas)
    if free is None or budget.memory <= free:
        return
    sentence = _sentence(f"a step takes up to {shown(budget.memory)}", "by its shapes", budget, free, config, replicas)
    if budget.least > free:
        raise ExhaustedError(sentence)
    warn(f"{sentence} Compiling it will tell.")


def require_compiled(needed: int, budget: Budget | None, config: Config, replicas: Replicas) -> None:
    """Raise ExhaustedError where `needed` bytes, which the compiled step takes besides its arguments, are not free."""
    free = free_on(replicas)
    if free is not None and needed > free:
        what = f"the compiled step takes {shown(needed)}"
        raise ExhaustedError(_sentence(what, "", budget, free, config, replicas))


def remedy(config: Config, accumulate: int | None = None) -> str:
    """What makes a step smaller, for the end of a sentence."""
    fields = {field.name for field in dataclasses.fields(config.network)}
    width = next((name for name in ("channels", "width", "hidden") if name in fields), None)
    smaller = "--training.batch-size" + (f" or --network.{width}" if width else "")
    parts = "" if accumulate is None else f"add --optimizer.accumulate {accumulate}, or "
    return f"{parts}give a smaller {smaller}"


def accumulation(budget: Budget, free: int, config: Config, replicas: Replicas) -> int | None:
    """The fewest micro-batches with which a step fits into `free` bytes; None where none does, and on CPUs."""
    if replicas.on_cpu:
        return None
    share = config.training.batch_size // replicas.count
    each = budget.activations / budget.share
    for count in range(config.optimizer.accumulate + 1, share + 1):
        if share % count == 0 and budget.state + 2 * budget.gradient + each * share / count <= _ROOM * free:
            return count
    return None


def ceiling(budget: Budget, config: Config, replicas: Replicas) -> tuple[float, float, float] | None:
    """(Images/s at most, FLOP an image, FLOP/s of matrix products here); None where XLA does not count."""
    flops = budget.flops()
    if flops is None:
        return None
    rate = _multiplication(replicas.local[0], getattr(config.network, "compute_dtype", "float32"))
    return replicas.count * rate / flops, flops, rate


def forecast(images: float, flops: float, rate: float, config: Config, replicas: Replicas) -> str:
    """How fast a training can be at most, in words, by what `ceiling` says."""
    seconds = config.training.steps * config.training.batch_size / images
    return (
        f"at most {_brief(images)} images/s, so {duration(seconds)} or more for {config.training.steps:,} steps: an "
        f"image takes {_brief(flops / 1e9)} GFLOP, and {_place(replicas)} multiplies matrices at "
        f"{_brief(rate / 1e9)} GFLOP/s"
    )


def expectation(config: Config, facts: Facts) -> dict[str, Any]:
    """What a training of `config` would take on this machine, as JSON values, and printed on standard error.

    Raises UsageError for a network that does not fit the data, ExhaustedError for a step that does not fit into memory.
    """
    replicas, network = make_replicas(config), network_of(config, facts)
    objective = make_objective(config, network, facts.num_classes, config.network.dropout > 0)
    budget = budget_of(config, facts, network, objective, optimizer_of(config), replicas)
    tell(budget, config, replicas)
    require(budget, config, replicas)
    rate = ceiling(budget, config, replicas)
    if rate is not None:
        print(forecast(*rate, config, replicas), file=sys.stderr)
    snapshots, each = count_snapshots(config, 0), bytes_of(config, budget.parameters)
    if snapshots:
        precision = config.ema.snapshot_precision
        print(
            f"{snapshots} snapshots of {shown(each)} in {precision}: {shown(snapshots * each)} of disk", file=sys.stderr
        )
    return {
        "parameters": budget.parameters,
        "memory_bytes": budget.memory,
        "snapshot_bytes": snapshots * each,
        "images_per_second_at_most": None if rate is None else rate[0],
    }


def _multiplication(device: Device, dtype: str) -> float:
    """The FLOP/s of a product of large matrices, the best of a few."""
    side = _SIDE_ON_CPU if device.platform == "cpu" else _SIDE
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def _brief(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _place(replicas: Replicas) -> str:
    if not replicas.on_cpu:
        return f"the {replicas.local[0].device_kind}"
    return "this machine" if len(replicas.local) == 1 else f"each of {len(replicas.local)} CPU devices"


def _sentence(what: str, how: str, budget: Budget | None, free: int, config: Config, replicas: Replicas) -> str:
    parts = None if budget is None else accumulation(budget, free, config, replicas)
    return (
        f"{what} of memory{f' {how}' * bool(how)}, and {_place(replicas)} has {shown(free)} free; "
        f"{remedy(config, parts)}."
    )
