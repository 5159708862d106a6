"""What a network is told besides x: the noise level, the class, and where a patch lies."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

MAX_PERIOD = 10_000.0
"""The ratio of the longest to the shortest period of the sinusoids, nearly."""


def sinusoidal(t: Float[Array, " b"], features: int) -> Float[Array, "b features"]:
    """(cos ω_k t, sin ω_k t) for the `features`/2 frequencies ω_k = 10000^(−2k/features).

    The inner product of two embeddings, Σ_k cos ω_k(s − t), depends on the difference alone. The periods run from
    2π to nearly 2π·10⁴, so that times in [0, 1000] and log noise levels in [−2, 2] are both told apart.

    Source: Vaswani et al. 2017, section 3.5.
    """
    half = features // 2
    frequencies = MAX_PERIOD ** (-jnp.arange(half, dtype=t.dtype) / half)
    angles = t[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_embedding(
    height: int, width: int, features: int, dtype: DTypeLike, scale: float = 1.0
) -> Float[Array, "n features"]:
    """The fixed embedding of the n = height·width positions of a grid, rows first.

    Half of the features are the sinusoids of the row, half those of the column; `features` is a multiple of 4. With
    `scale` s position i counts as s(i + ½) − ½, so that a grid of N/s patches covers what one of N did at s = 1, edge
    to edge.

    Source: Peebles & Xie 2023, after Dosovitskiy et al. 2021; interpolated positions as in Chen et al. 2023
    (arXiv:2310.00426), with centres where they have corners.
    """

    def places(count: int) -> Float[Array, " count"]:
        counted = jnp.arange(count, dtype=dtype)
        return counted if scale == 1 else scale * (counted + 0.5) - 0.5

    rows = sinusoidal(places(height), features // 2)
    columns = sinusoidal(places(width), features // 2)
    grid = jnp.concatenate(
        [
            jnp.broadcast_to(rows[:, None], (height, width, features // 2)),
            jnp.broadcast_to(columns[None, :], (height, width, features // 2)),
        ],
        axis=-1,
    )
    return grid.reshape(height * width, features)


def rotary_angles(height: int, width: int, features: int, dtype: DTypeLike) -> Float[Array, "n f"]:
    """The angles of the n = height·width positions of a grid, rows first, for heads of `features` channels.

    The first features/4 are i ω_k for row i, the others j ω_k for column j, with ω_k = 10000^(−4k/features);
    `features` is a multiple of 4, and there is an angle for each pair of channels.

    Source: Heo et al. 2024, arXiv:2403.13298 (axial), after Su et al. 2021, arXiv:2104.09864.
    """
    quarter = features // 4
    frequencies = MAX_PERIOD ** (-jnp.arange(quarter, dtype=dtype) / quarter)
    rows = jnp.arange(height, dtype=dtype)[:, None, None] * frequencies
    columns = jnp.arange(width, dtype=dtype)[None, :, None] * frequencies
    shape = (height, width, quarter)
    grid = jnp.concatenate([jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape)], axis=-1)
    return grid.reshape(height * width, 2 * quarter)


def rotate(x: Float[Array, "b n h d"], angles: Float[Array, "n f"]) -> Float[Array, "b n h d"]:
    """Each pair (x_k, x_{k + d/2}) of token n turned by its angle, f = d/2: (a cos − b sin, a sin + b cos).

    q at angle φ times k at angle θ is a function of φ − θ alone. The result is in the angles' type.
    """
    a, b = jnp.split(x.astype(angles.dtype), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def table(rows: int, width: int, *, rngs: nnx.Rngs) -> nnx.Embed:
    """A row of N(0, I) for each number below `rows`, in the type that the parameters have when it is asked."""
    init = nnx.initializers.normal(1.0)
    return nnx.Embed(rows, width, embedding_init=init, promote_dtype=_as_they_are, rngs=rngs)


def _as_they_are(arrays: Any, /, **types: Any) -> Any:
    """Flax (0.12.8) would give them the type of the parameters with which the table was made."""
    del types
    return arrays


class Conditioning(nnx.Module):
    """One vector for the noise level, the class and the augmentation, by which every block of a network is modulated.

    With `num_classes` classes the table E has one row more: label `num_classes` is the null class, "no label",
    which guidance needs. Without classes there is no table, and labels are ignored. A label beyond the table
    gives NaN rather than another class.

    With `augment_dim` numbers a that say how the image was augmented, a linear map A of them without bias is added to
    the sinusoids: the image as it is, a = 0, is the network without (Karras et al. 2022, appendix F.2).

    Source: Ho et al. 2020, appendix B; Dhariwal & Nichol 2021; Ho & Salimans 2021 for the null class.
    """

    def __init__(self, features: int, width: int, num_classes: int, *, augment_dim: int = 0, rngs: nnx.Rngs):
        self.features = features
        self.null = num_classes
        self.hidden = nnx.Linear(features, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.table = table(num_classes + 1, width, rngs=rngs) if num_classes else None
        self.augment = nnx.Linear(augment_dim, features, use_bias=False, rngs=rngs) if augment_dim else None

    def __call__(
        self, c_noise: Float[Array, " b"], labels: Int[Array, " b"] | None, augment: Float[Array, "b a"] | None = None
    ) -> Float[Array, "b width"]:
        """W_2 silu(W_1 (γ(c_noise) + A a)) + E[label], γ the sinusoids; without labels E[num_classes], without a, 0."""
        told = sinusoidal(c_noise, self.features)
        if self.augment is not None and augment is not None:
            told = told + self.augment(augment)
        emb = self.out(nnx.silu(self.hidden(told)))
        return emb if self.table is None else emb + self.of_class(labels, c_noise.shape[0])

    def of_class(self, labels: Int[Array, " b"] | None, batch: int) -> Float[Array, "b width"]:
        """E[label], and without labels E[num_classes]; 0 for a network without classes."""
        if self.table is None:
            return jnp.zeros((batch, self.out.out_features), self.out.kernel[...].dtype)
        return self.table(jnp.full((batch,), self.null) if labels is None else labels)
