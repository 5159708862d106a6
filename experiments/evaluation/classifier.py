"""The small network whose penultimate layer is the space in which pictures are compared.

It is trained on the data itself: to tell its classes, or without labels to tell by which quarter turn an image was
rotated, for which it must know what is in it (Gidaris, Singh & Komodakis 2018, arXiv:1803.07728).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx, traverse_util
from jaxtyping import Array, Float, Float32, Int32, UInt

from experiments.data.scaling import to_model
from experiments.data.source import Source

Params = dict[str, Any]
Task = Literal["labels", "rotation"]

FEATURES = 64
LONGEST = 16  # pixels of a side behind the first convolution
BATCH, EPOCHS, MIN_STEPS, MAX_STEPS = 128, 25, 200, 1000
LEARNING_RATE = 2e-3
OPTIMIZER = optax.adamw(1.0, weight_decay=1e-3)  # the step multiplies by its rate, so no rate is compiled in
HELD_OUT = 10_000  # images that the accuracy is measured on, at most


class Trained(NamedTuple):
    """Parameters, and the fraction of held-out images that they classify rightly."""

    params: Params
    accuracy: float


class Classifier(nnx.Module):
    """Convolutions with group norms, halved down to about 4×4, their mean, 64 features, and a linear layer.

    The first convolution brings the longer side to at most 16 pixels and sees every pixel on its way. Any height
    and width will do: only `size`, which sets the number of levels, and the channels are fixed.
    """

    def __init__(self, size: int, channels: int, classes: int, *, rngs: nnx.Rngs):
        stride = -(-size // LONGEST)
        levels = max(1, (-(-size // stride) - 1).bit_length() - 2)  # 5 to 8 pixels: 1, 9 to 16: 2
        widths = [32, *[64] * levels]
        norm = functools.partial(nnx.GroupNorm, num_groups=8, use_fast_variance=False, rngs=rngs)
        kernel = 3 if stride == 1 else 2 * stride + 1
        self.stem = nnx.Conv(channels, widths[0], (kernel, kernel), strides=stride, rngs=rngs)
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.norms = nnx.List([norm(width) for width in widths])
        self.features = nnx.Linear(widths[-1], FEATURES, rngs=rngs)
        self.logits = nnx.Linear(FEATURES, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b d"], Float[Array, "b classes"]]:
        """Features and logits of images in [-1, 1]."""
        h = nnx.silu(self.norms[0](self.stem(x)))
        for conv, norm in zip(self.convs, self.norms[1:], strict=True):
            h = nnx.silu(norm(conv(nnx.avg_pool(h, (2, 2), strides=(2, 2), padding="SAME"))))
        features = nnx.silu(self.features(h.mean((1, 2))))
        return features, self.logits(features)


class Architecture(NamedTuple):
    """What a `Classifier` is built from: the longer side and the channels of the images, the number of classes."""

    size: int
    channels: int
    classes: int


def init(architecture: Architecture, rng: np.random.Generator) -> Params:
    """Float32 parameters of an untrained network, as a flat dictionary from path to array.

    Kernels are normal with variance 1/fan-in; drawn here, for compiling flax's own takes longer than digits train.
    """
    model = nnx.eval_shape(lambda: Classifier(*architecture, rngs=nnx.Rngs(0)))
    shapes: Any = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    params = {}
    for path, leaf in shapes.items():
        values = np.full(leaf.shape, path[-1] == "scale", np.float32)
        if path[-1] == "kernel":
            values += rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        params["/".join(map(str, path))] = values
    return params


@functools.partial(jax.jit, static_argnums=0)
def apply(
    architecture: Architecture, params: Params, images: UInt[Array, "b h w c"]
) -> tuple[Float32[Array, "b d"], Float32[Array, "b classes"]]:
    """Features and logits of a batch of uint8 or uint16 images."""
    tree = nnx.restore_int_paths(traverse_util.unflatten_dict(params, sep="/"))
    return nnx.merge(_graph(architecture), tree)(to_model(images))


def classes_of(source: Source) -> np.ndarray | None:
    """The classes that can be told apart, or None: no labels, or all of them the same."""
    classes = None if source.labels is None else np.unique(source.labels)
    return None if classes is None or len(classes) < 2 else classes


def architecture_for(source: Source) -> Architecture:
    """The network for the images of `source` and its classes, or the four rotations."""
    height, width, channels = source.event_shape
    classes = classes_of(source)
    return Architecture(max(height, width), channels, 4 if classes is None else len(classes))


def train(source: Source, held_out: Source, seed: int) -> Trained:
    """Fit a `Classifier` to `source`, and measure it on `held_out`.

    25 epochs of AdamW in batches of 128, but at least 200 and at most 1000 steps; the rate warms up for a tenth of
    them and falls to 0 as a cosine. The parameters depend on the images, the labels and the seed alone.
    """
    architecture, count = architecture_for(source), len(source)
    rng = np.random.default_rng([seed, int(source.digest, 16)])
    batch = min(BATCH, count)
    steps = int(np.clip(EPOCHS * count // batch, MIN_STEPS, MAX_STEPS))
    params = init(architecture, rng)
    state = jax.jit(OPTIMIZER.init)(params)
    for step, rows in enumerate(itertools.islice(_batches(count, batch, rng), steps)):
        images, targets = _examples(source, rows, rng, classes_of(source))
        rate = LEARNING_RATE * min(1, 10 * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2
        params, state = jax.block_until_ready(_step(architecture, rate, params, state, images, targets))
    return Trained(params, _accuracy(architecture, params, source, held_out))


def rotate(images: UInt[np.ndarray, "b h h c"], turns: Int32[np.ndarray, " b"]) -> UInt[np.ndarray, "b h h c"]:
    """Image i turned by turns[i] times 90° counter-clockwise."""
    return np.stack([np.rot90(image, turn) for image, turn in zip(images, turns, strict=True)])


def _batches(count: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of whole batches, epoch after epoch, each in a new order."""
    while True:
        order = rng.permutation(count)
        yield from (np.sort(order[start : start + batch]) for start in range(0, count - batch + 1, batch))


def _examples(
    source: Source, rows: np.ndarray, rng: np.random.Generator, classes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and what is to be told of them: the position in `classes`, -1 if not there, or the quarter turns."""
    images = source.images[rows]
    if classes is None or source.labels is None:
        side = min(images.shape[1:3])  # the middle square, for the shape of the rest would tell the answer
        top, left = ((length - side) // 2 for length in images.shape[1:3])
        turns = rng.integers(0, 4, len(rows)).astype(np.int32)
        return rotate(images[:, top : top + side, left : left + side], turns), turns
    labels = source.labels[rows]
    places = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return images, np.where(classes[places] == labels, places, -1).astype(np.int32)


def _accuracy(architecture: Architecture, params: Params, source: Source, held_out: Source) -> float:
    """The fraction of (at most 10,000) held-out images whose largest logit is the right one."""
    count = len(held_out)
    rng, right = np.random.default_rng(0), 0
    chosen = np.sort(rng.permutation(count)[:HELD_OUT])
    for start in range(0, len(chosen), BATCH):
        rows = chosen[start : start + BATCH]
        padded = np.resize(rows, BATCH)
        images, targets = _examples(held_out, padded, rng, classes_of(source))
        answers = np.asarray(apply(architecture, params, images)[1]).argmax(1)
        right += int((answers == targets)[: len(rows)].sum())
    return right / max(1, len(chosen))


@functools.cache
def _graph(architecture: Architecture) -> nnx.GraphDef:
    """The network without its parameters."""
    return nnx.split(nnx.eval_shape(lambda: Classifier(*architecture, rngs=nnx.Rngs(0))))[0]


# It runs hundreds of times: compiled as XLA does by default, also where a process has little optimised. On a CPU an
# update then takes a quarter of the time.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 3})
def _step(
    architecture: Architecture, rate: float, params: Params, state: Any, images: np.ndarray, targets: np.ndarray
) -> tuple[Params, Any]:
    """One update. A scan over steps would make the gradients of convolutions forty times slower on a CPU."""

    def loss(params: Params) -> Float[Array, ""]:
        logits = apply(architecture, params, images)[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    updates, state = OPTIMIZER.update(jax.grad(loss)(params), state, params)
    return jax.tree.map(lambda p, u: p + rate * u, params, updates), state
