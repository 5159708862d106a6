"""Inception-v3 in the form in which FID is defined: that of the TensorFlow graph of 2015-12-05.

It differs from the network of the paper, and from torchvision's, in what surrounds its weights: averages at an edge
are over the pixels that there are, the last block has a maximum where the one before has an average, and there are
1,008 outputs, which the features do not use. Features are the means of the last 2,048 maps.

Source: Szegedy et al. 2016, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.evaluation.networks.layers import (
    Get,
    Images,
    average_pool,
    batch_norm,
    convolution,
    max_pool,
)

SIDE = 299
EPSILON = 1e-3
UNUSED: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
"""Arrays of the file that no feature needs."""
Unit = Callable[..., Images]


def features(get: Get, x: Images) -> Float[Array, "b 2048"]:
    """Features of images whose values lie in [−1, 1]; FID's have 299×299 pixels, and 75×75 are the least."""

    def unit(name: str, x: Images, out: int, *kernel: int, stride: int = 1, same: bool = True) -> Images:
        height, width = kernel if len(kernel) == 2 else (kernel[0], kernel[0])
        padding = ((height // 2,) * 2, (width // 2,) * 2) if same else "VALID"
        h = convolution(get, f"{name}.conv", x, out, (height, width), stride=stride, padding=padding)
        return jax.nn.relu(batch_norm(get, f"{name}.bn", h, EPSILON))

    h = unit("Conv2d_1a_3x3", x, 32, 3, stride=2, same=False)
    h = unit("Conv2d_2a_3x3", h, 32, 3, same=False)
    h = max_pool(unit("Conv2d_2b_3x3", h, 64, 3), 2)
    h = unit("Conv2d_3b_1x1", h, 80, 1)
    h = max_pool(unit("Conv2d_4a_3x3", h, 192, 3, same=False), 2)
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        h = _fives(unit, name, h, pooled)
    h = _halved_5(unit, "Mixed_6a", h)
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        h = _sevens(unit, name, h, inner)
    h = _halved_6(unit, "Mixed_7a", h)
    h = _wide(unit, "Mixed_7b", h, average_pool)
    h = _wide(unit, "Mixed_7c", h, lambda x: max_pool(x, 1, 1))
    return h.mean((1, 2))


def _fives(unit: Unit, name: str, x: Images, pooled: int) -> Images:
    one = unit(f"{name}.branch1x1", x, 64, 1)
    five = unit(f"{name}.branch5x5_2", unit(f"{name}.branch5x5_1", x, 48, 1), 64, 5)
    three = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x, 64, 1), 96, 3)
    three = unit(f"{name}.branch3x3dbl_3", three, 96, 3)
    return _joined(one, five, three, unit(f"{name}.branch_pool", average_pool(x), pooled, 1))


def _halved_5(unit: Unit, name: str, x: Images) -> Images:
    three = unit(f"{name}.branch3x3", x, 384, 3, stride=2, same=False)
    double = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x, 64, 1), 96, 3)
    double = unit(f"{name}.branch3x3dbl_3", double, 96, 3, stride=2, same=False)
    return _joined(three, double, max_pool(x, 2))


def _sevens(unit: Unit, name: str, x: Images, inner: int) -> Images:
    one = unit(f"{name}.branch1x1", x, 192, 1)
    seven = unit(f"{name}.branch7x7_2", unit(f"{name}.branch7x7_1", x, inner, 1), inner, 1, 7)
    seven = unit(f"{name}.branch7x7_3", seven, 192, 7, 1)
    double = unit(f"{name}.branch7x7dbl_1", x, inner, 1)
    for place, out, kernel in ((2, inner, (7, 1)), (3, inner, (1, 7)), (4, inner, (7, 1)), (5, 192, (1, 7))):
        double = unit(f"{name}.branch7x7dbl_{place}", double, out, *kernel)
    return _joined(one, seven, double, unit(f"{name}.branch_pool", average_pool(x), 192, 1))


def _halved_6(unit: Unit, name: str, x: Images) -> Images:
    three = unit(f"{name}.branch3x3_2", unit(f"{name}.branch3x3_1", x, 192, 1), 320, 3, stride=2, same=False)
    seven = unit(f"{name}.branch7x7x3_2", unit(f"{name}.branch7x7x3_1", x, 192, 1), 192, 1, 7)
    seven = unit(f"{name}.branch7x7x3_3", seven, 192, 7, 1)
    seven = unit(f"{name}.branch7x7x3_4", seven, 192, 3, stride=2, same=False)
    return _joined(three, seven, max_pool(x, 2))


def _wide(unit: Unit, name: str, x: Images, pool: Callable[[Images], Images]) -> Images:
    def both(stem: str, x: Images) -> list[Images]:
        return [unit(f"{stem}a", x, 384, 1, 3), unit(f"{stem}b", x, 384, 3, 1)]

    one = unit(f"{name}.branch1x1", x, 320, 1)
    three = both(f"{name}.branch3x3_2", unit(f"{name}.branch3x3_1", x, 384, 1))
    double = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x, 448, 1), 384, 3)
    double = both(f"{name}.branch3x3dbl_3", double)
    return _joined(one, *three, *double, unit(f"{name}.branch_pool", pool(x), 192, 1))


def _joined(*parts: Images) -> Images:
    return jnp.concatenate(parts, -1)
