"""One small network of each kind, built and compiled once for all tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from diffusion.networks import DiTConfig, MLPConfig, Network, NetworkConfig, UNetConfig, build

CONFIGS: dict[str, tuple[NetworkConfig, tuple[int, ...]]] = {
    "mlp": (MLPConfig(hidden=16, layers=2, embedding=8, dropout=0.3), (3, 2)),
    "unet": (
        UNetConfig(
            channels=8,
            multipliers=(1, 2),
            blocks=1,
            attention_resolutions=(4,),
            head_channels=8,
            dropout=0.3,
            resampling="conv",
        ),
        (7, 5, 2),
    ),
    "dit": (DiTConfig(patch=2, width=16, depth=2, heads=2, dropout=0.3), (7, 5, 2)),
}
CLASSES = 3


def perturbed(params: Any, scale: float = 0.1) -> Any:
    """Parameters away from their zeros."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@dataclass(frozen=True)
class Case:
    network: Network
    initial: Any
    params: Any
    apply: Callable[..., jax.Array]

    def inputs(self, batch: int = 4) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = jax.random.normal(jax.random.key(1), (batch, *self.network.event_shape), jnp.float32)
        c_noise = jnp.linspace(-1.5, 1.5, batch, dtype=jnp.float32)
        return x, c_noise, jnp.arange(batch) % CLASSES


@pytest.fixture(scope="session", params=CONFIGS)
def case(request) -> Case:
    config, event_shape = CONFIGS[request.param]
    network, initial = build(config, event_shape, num_classes=CLASSES, key=jax.random.key(0))
    return Case(network, initial, perturbed(initial), jax.jit(network))
