"""What a network is told besides x: the noise level, the class, and where a patch lies."""

from __future__ import annotations

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


def position_embedding(height: int, width: int, features: int, dtype: DTypeLike) -> Float[Array, "n features"]:
    """The fixed embedding of the n = height·width positions of a grid, rows first.

    Half of the features are the sinusoids of the row, half those of the column; `features` is a multiple of 4.

    Source: Peebles & Xie 2023, after Dosovitskiy et al. 2021.
    """
    rows = sinusoidal(jnp.arange(height, dtype=dtype), features // 2)
    columns = sinusoidal(jnp.arange(width, dtype=dtype), features // 2)
    grid = jnp.concatenate(
        [
            jnp.broadcast_to(rows[:, None], (height, width, features // 2)),
            jnp.broadcast_to(columns[None, :], (height, width, features // 2)),
        ],
        axis=-1,
    )
    return grid.reshape(height * width, features)


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
        init = nnx.initializers.normal(1.0)
        self.table = nnx.Embed(num_classes + 1, width, embedding_init=init, rngs=rngs) if num_classes else None
        self.augment = nnx.Linear(augment_dim, features, use_bias=False, rngs=rngs) if augment_dim else None

    def __call__(
        self, c_noise: Float[Array, " b"], labels: Int[Array, " b"] | None, augment: Float[Array, "b a"] | None = None
    ) -> Float[Array, "b width"]:
        """W_2 silu(W_1 (γ(c_noise) + A a)) + E[label], γ the sinusoids; without labels E[num_classes], without a, 0."""
        told = sinusoidal(c_noise, self.features)
        if self.augment is not None and augment is not None:
            told = told + self.augment(augment)
        emb = self.out(nnx.silu(self.hidden(told)))
        if self.table is None:
            return emb
        if labels is None:
            labels = jnp.full(c_noise.shape, self.null)
        return emb + self.table(labels)
