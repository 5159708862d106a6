"""The last step of a chain, p(x_0 | x_1): a density for data on the line, a mass for 8-bit images.

The mean is the denoised x_0; the standard deviation is the chain's own unless the decoder says otherwise.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, ArrayLike, Float, Key

from diffusion.arrays import expand, sum_event
from diffusion.distributions import Normal
from diffusion.pytree import is_concrete, pytree, static


def log1mexp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """ln(1 − e^{−x}) for x > 0, without cancellation (Mächler 2012)."""
    small = x < math.log(2)
    # Where log1p's own gradient would be lost it gets another argument: its value is not used there.
    return jnp.where(small, jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, x))))


@pytree
class DiscretisedNormal:
    """N(mean, std²) collected into `levels` equal bins around −1, −1 + w, ..., 1, w = 2/(levels − 1).

    The outermost bins reach to ±∞, so that the masses add up to one (Ho et al. 2020, eq. 13).
    """

    mean: Float[Array, "b *event"]
    """The mean before discretisation."""
    std: Float[Array, "..."]
    """The standard deviation before discretisation, a scalar or (b,)."""
    levels: int = static(default=256)
    """The number of bins."""

    def log_prob(self, x: Float[Array, "b *event"]) -> Float[Array, " b"]:
        """ln P(x) in nats, summed over the event: ln[Φ((x + w/2 − mean)/std) − Φ((x − w/2 − mean)/std)].

        x must lie on the levels. Both Φ are taken in the lower tail, as logarithms: a value hundreds of standard
        deviations away still has a finite logarithm, and a gradient.
        """
        half, std = 1 / (self.levels - 1), expand(self.std, self.mean)
        lower, upper = (x - half - self.mean) / std, (x + half - self.mean) / std
        mirror = lower + upper > 0
        low, high = jnp.where(mirror, -upper, lower), jnp.where(mirror, -lower, upper)
        log_high = log_ndtr(high)
        gap = jnp.maximum(log_high - log_ndtr(low), jnp.finfo(log_high.dtype).tiny)
        inside = log_high + log1mexp(gap)
        lowest, highest = x < -1 + half, x > 1 - half
        return sum_event(jnp.where(lowest, log_ndtr(upper), jnp.where(highest, log_ndtr(-lower), inside)))

    def sample(self, key: Key[Array, "..."]) -> Float[Array, "b *event"]:
        """A draw from N(mean, std²), moved to the level of its bin; one key, or one for each element."""
        draw = Normal(self.mean, self.std).sample(key)
        scale = (self.levels - 1) / 2
        return jnp.round((jnp.clip(draw, -1, 1) + 1) * scale) / scale - 1


class Decoder:
    """p(x_0 | x_1) around the denoised x_0."""

    def distribution(self, mean: Float[Array, "b *event"], std: ArrayLike) -> Normal | DiscretisedNormal:
        """The law of x_0; `std` is the chain's, used unless the decoder has its own."""
        raise NotImplementedError


def _require_positive(std: float | None) -> None:
    if is_concrete(std) and not std > 0:  # type: ignore[operator]
        raise ValueError(f"std = {std}; the decoder's standard deviation must be positive, or None for the chain's.")


@pytree
class GaussianDecoder(Decoder):
    """N(mean, std²): a density, in nats per unit of x_0. The ELBO may then have either sign."""

    std: float | None = None
    """The standard deviation; None for that of the first reverse step."""

    def __post_init__(self) -> None:
        _require_positive(self.std)

    def distribution(self, mean: Float[Array, "b *event"], std: ArrayLike) -> Normal:
        """N(mean, std²)."""
        return Normal(mean, jnp.asarray(std if self.std is None else self.std, mean.dtype))


@pytree
class DiscretisedDecoder(Decoder):
    """The mass that N(mean, std²) puts on the bin of x_0, for images of `levels` grey levels scaled to [−1, 1]."""

    std: float | None = None
    """The standard deviation; None for that of the first reverse step."""
    levels: int = static(default=256)
    """The number of grey levels: 256 for 8 bits."""

    def __post_init__(self) -> None:
        _require_positive(self.std)
        if is_concrete(self.levels) and self.levels < 2:
            raise ValueError(f"levels = {self.levels}; images have at least 2 grey levels, 256 for 8 bits.")

    def distribution(self, mean: Float[Array, "b *event"], std: ArrayLike) -> DiscretisedNormal:
        """The discretised N(mean, std²)."""
        return DiscretisedNormal(mean, jnp.asarray(std if self.std is None else self.std, mean.dtype), self.levels)


def bits_per_dim(nats: Float[Array, "*shape"], dims: int, bin_width: float | None = None) -> Float[Array, "*shape"]:
    """nats/(d ln 2): a negative log-likelihood in bits per dimension.

    Give `bin_width` when the nats are those of a density: a bin of that width has mass p · width, so that
    −log2(width) is added for each dimension. For 8-bit data scaled to [−1, 1] by x/127.5 − 1 the width is 2/255 and
    log2(127.5) = 6.994 bits are added; the usual "+7" belongs to x/128 − 1, "+8" to [0, 1) by x/256.
    Masses, as the discretised decoder gives them, take no offset.
    Raises ValueError when dims < 1 or the width is not positive.
    """
    if dims < 1:
        raise ValueError(f"dims = {dims}; give the number of coordinates of one example.")
    if is_concrete(bin_width) and not bin_width > 0:  # type: ignore[operator]
        raise ValueError(f"bin_width = {bin_width}; a bin must have a positive width, 2/255 for 8 bits on [-1, 1].")
    offset = 0.0 if bin_width is None else -math.log2(bin_width)
    return nats / (dims * math.log(2)) + offset
