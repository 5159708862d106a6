"""Augmentation that does not leak: the images are transformed at random, and the network is told how.

With a the numbers that are drawn, those of a transformation that is not drawn being 0, a picture goes through

    mirror left to right   a_0                          told as  a_0
    mirror top to bottom   a_1                                   a_1
    scale                  2^(0.2 a_2)                           a_2
    rotate                 by a_3                                cos a_3 − 1, sin a_3
    stretch                R(a_5) diag(2^(0.2 a_4), 2^(−0.2 a_4)) R(−a_5)      a_4 cos a_5, a_4 sin a_5
    translate              by (a_6 width/8, a_7 height/8)        a_6, a_7

in this order, in one resampling. a_0, a_1 are 0 or 1, a_3 and a_5 are uniform in (−π, π), a_5 is 0 one time in two,
and the others are normal. Each transformation is drawn with probability p by itself, translation in both axes at once;
a mirroring that is drawn is done one time in two, and left to right it is always drawn.

Nothing is told of the colours, which stay as they are. The telling vector is zero where nothing was done, and there the
image is the same to the bit. A network that is told zero answers for images that were not transformed, so its samples
show no transformation.

Random crops of a padded image are not told, and leak: samples are moved by as many pixels as training images are.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2 and table 6.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from diffusion import keys as keys_lib
from diffusion.pytree import short_repr
from experiments import streams
from experiments.config.augment import AugmentConfig
from experiments.training.resampling import affine, reflected

SCALE = 0.2
"""Standard deviation of the log2 of a scaling and of a stretching."""
SHIFT = 1 / 8
"""Standard deviation of a translation, as a part of the side."""

Images = Float[Array, "b height width channels"]


class Transformations(NamedTuple):
    """What is done to each image: a_0 to a_7 of the table above."""

    flip_x: Bool[Array, " b"]
    flip_y: Bool[Array, " b"]
    scale: Float[Array, " b"]
    angle: Float[Array, " b"]
    stretch: Float[Array, " b"]
    axis: Float[Array, " b"]
    shift: Float[Array, "b 2"]
    """Of (x, y)."""

    __repr__ = short_repr


def augmented(keys: Key[Array, " b"], config: AugmentConfig, images: Images) -> tuple[Array, ...]:
    """(The images cropped and transformed, the telling vector (b, `config.numbers`) if there is one).

    Image i depends on keys[i] alone. Images are in [−1, 1], and stay there.
    """
    if config.pad:
        images = cropped(keys_lib.fold(keys, streams.CROPPED), images, config.pad)
    if not config.numbers:
        return (images,)
    drawn = draw(keys_lib.fold(keys, streams.TRANSFORMED), config)
    return transformed(images, drawn), told(drawn, config)


def draw(keys: Key[Array, " b"], config: AugmentConfig) -> Transformations:
    """A transformation for each key; what `config` turns off is not done, and changes none of the others."""
    uniform = keys_lib.uniform(keys_lib.fold(keys, 0), (10,))
    enabled, fair = uniform[:, :5] < config.probability, uniform[:, 5:8] < 0.5
    angle, axis = (np.pi * (2 * uniform[:, 8:] - 1)).T
    scale, stretch, *shift = keys_lib.normal(keys_lib.fold(keys, 1), (4,)).T
    by_name = {
        "flip_y": (config.flip_y, fair[:, 1]),
        "scale": (config.scale, scale),
        "angle": (config.rotate, angle),
        "stretch": (config.stretch, stretch),
        "shift": (config.translate, jnp.stack(shift, axis=-1)),
    }
    done = {}
    for i, (name, (on, value)) in enumerate(by_name.items()):
        here = enabled[:, i] if on else jnp.zeros_like(enabled[:, i])
        done[name] = jnp.where(here.reshape(-1, *(1,) * (value.ndim - 1)), value, jnp.zeros_like(value))
    flip_x = fair[:, 0] if config.flip_x else jnp.zeros_like(fair[:, 0])
    return Transformations(flip_x=flip_x, axis=jnp.where(fair[:, 2], axis, 0.0), **done)


def told(drawn: Transformations, config: AugmentConfig) -> Float[Array, "b a"]:
    """The telling vector: the numbers of the transformations that `config` turns on."""
    columns = (
        (config.flip_x, (drawn.flip_x,)),
        (config.flip_y, (drawn.flip_y,)),
        (config.scale, (drawn.scale,)),
        (config.rotate, (jnp.cos(drawn.angle) - 1, jnp.sin(drawn.angle))),
        (config.stretch, (drawn.stretch * jnp.cos(drawn.axis), drawn.stretch * jnp.sin(drawn.axis))),
        (config.translate, (drawn.shift[:, 0], drawn.shift[:, 1])),
    )
    numbers = [number for on, part in columns if on for number in part]
    return jnp.stack([number.astype(drawn.scale.dtype) for number in numbers], axis=-1)


def transformed(images: Images, drawn: Transformations) -> Images:
    """The images under what was drawn for each; those to which nothing is done, and mirrorings, are so to the bit."""
    _, height, width, _ = images.shape

    def where(chosen: Array, new: Array, old: Array) -> Array:
        return jnp.where(chosen[:, None, None, None], new, old)

    images = where(drawn.flip_x, images[:, :, ::-1], images)
    images = where(drawn.flip_y, images[:, ::-1], images)
    moved = (drawn.scale != 0) | (drawn.angle != 0) | (drawn.stretch != 0) | jnp.any(drawn.shift != 0, axis=-1)
    new = affine(images, *inverse_map(drawn, height, width))
    return where(moved, jnp.clip(new, -1, 1).astype(images.dtype), images)


def inverse_map(drawn: Transformations, height: int, width: int) -> tuple[Float[Array, "b 2 2"], Float[Array, "b 2"]]:
    """(M, t) of the map y -> M y + t that takes a transformed image, mirrorings apart, back to the old one.

    Places are (row, column) from the middle, in pixels: y = T S R Z x of the translation, stretching, rotation and
    scaling is x = Z⁻¹ R⁻¹ S⁻¹ (y − shift). Angles are counter-clockwise as one sees them; a shift is to the right and
    upwards.
    """
    grow = jnp.exp2(SCALE * drawn.stretch)
    smaller = jnp.exp2(-SCALE * drawn.scale)
    shift = SHIFT * jnp.stack([-height * drawn.shift[:, 1], width * drawn.shift[:, 0]], axis=-1)
    with jax.default_matmul_precision("highest"):
        # The axis x of a stretching is the second of (row, column).
        stretched = _rotation(drawn.axis).swapaxes(1, 2) @ _diagonal(grow, 1 / grow) @ _rotation(drawn.axis)
        matrix = smaller[:, None, None] * (_rotation(drawn.angle) @ stretched)
        return matrix, -jnp.einsum("bij,bj->bi", matrix, shift)


def cropped(keys: Key[Array, " b"], images: Images, pad: int) -> Images:
    """Random crops, of the same size, of the images padded by `pad` pixels of their mirror image on each side.

    Each is the image moved by whole pixels, −pad to pad in each axis, all equally probable.
    """
    _, height, width, _ = images.shape
    moves = jnp.floor((2 * pad + 1) * keys_lib.uniform(keys, (2,))).astype(jnp.int32) - pad
    rows = reflected(jnp.arange(height) + moves[:, :1], height)
    columns = reflected(jnp.arange(width) + moves[:, 1:], width)
    images = jnp.take_along_axis(images, rows[:, :, None, None], axis=1)
    return jnp.take_along_axis(images, columns[:, None, :, None], axis=2)


def _rotation(angle: Float[Array, " b"]) -> Float[Array, "b 2 2"]:
    """Of (row, column), from the picture rotated counter-clockwise by the angle back to the old one."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, sin], axis=-1), jnp.stack([-sin, cos], axis=-1)], axis=-2)


def _diagonal(first: Float[Array, " b"], second: Float[Array, " b"]) -> Float[Array, "b 2 2"]:
    zero = jnp.zeros_like(first)
    return jnp.stack([jnp.stack([first, zero], axis=-1), jnp.stack([zero, second], axis=-1)], axis=-2)
