"""One small network of each kind, built and compiled once for all tests.

What is compiled here runs for a moment, so nothing is optimised, and what surrounds it is numpy.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.keys import sample_keys
from diffusion.networks import (
    DhariwalUNetConfig,
    DiTConfig,
    JiTConfig,
    MLPConfig,
    Network,
    NetworkConfig,
    SongUNetConfig,
    UNet2DConfig,
    UNetConfig,
    build,
)

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
    "jit": (
        JiTConfig(
            patch=2,
            width=16,
            depth=2,
            heads=2,
            bottleneck=3,
            class_tokens=2,
            class_tokens_from=1,
            registers=1,
            dropout=0.3,
        ),
        (7, 5, 2),
    ),
    "song_unet": (
        SongUNetConfig(
            channels=8,
            multipliers=(1, 2),
            blocks=1,
            attention_resolutions=(4,),
            encoder="residual",
            decoder="skip",
            resample_filter=(1, 3, 3, 1),
            dropout=0.3,
        ),
        (8, 4, 2),
    ),
    "dhariwal_unet": (
        DhariwalUNetConfig(
            channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), head_channels=8, dropout=0.3
        ),
        (8, 4, 2),
    ),
    "unet2d": (
        UNet2DConfig(
            block_out_channels=(8, 8),
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            num_class_embeds=4,
            dropout=0.3,
        ),
        (8, 4, 2),
    ),
}
CLASSES = 3

unoptimised = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="session")
def quick_jit():
    """`jax.jit`, compiling fast what then runs slowly."""
    return unoptimised


@pytest.fixture(scope="session")
def keys():
    """The keys of samples, by their numbers."""
    draw = unoptimised(sample_keys)
    return lambda *ids: draw(jax.random.key(3), jnp.asarray(ids, jnp.int32))


def perturbed(params: Any, scale: float = 0.1) -> Any:
    """Parameters away from their zeros."""
    rng = np.random.default_rng(7)
    return jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(leaf) + scale * rng.standard_normal(leaf.shape, np.float32)), params
    )


@dataclass(frozen=True)
class Case:
    network: Network
    initial: Any
    params: Any
    apply: Callable[..., np.ndarray]

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = np.random.default_rng(1).standard_normal((4, *self.network.event_shape), np.float32)
        return x, np.linspace(-1.5, 1.5, 4, dtype=np.float32), np.array([0, 1, 2, 0], np.int32)


@pytest.fixture(scope="session", params=CONFIGS)
def case(request) -> Case:
    config, event_shape = CONFIGS[request.param]
    network, initial = build(config, event_shape, num_classes=CLASSES, key=jax.random.key(0))
    apply = unoptimised(network)

    def applied(params, x, c_noise, labels=None, keys=None):
        return np.asarray(apply(params, x, c_noise, labels, keys))

    return Case(network, initial, perturbed(initial), applied)
