"""What every law can answer; the laws themselves are in `laws`."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.noises import Noise
from diffusion.oracles.components import Components, Posterior, Second, dot, log_cdf, posterior
from diffusion.prediction import Denoiser
from diffusion.process import Process, perturb


class Law:
    """A law of x_0 whose x_t = α x_0 + σ z is known under every process."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """d, the number of coordinates of an event."""
        return math.prod(self.event_shape)

    def components(self, dtype: Any = None) -> Components:
        """The law as a mixture of Gaussians."""
        raise NotImplementedError

    def _unmixed(self, dtype: Any = None) -> Components:
        """What `_closed` promises the kernel of `components._student_terms`."""
        return self.components(dtype)

    def _closed(self, noise: Noise, second: bool = False) -> bool:
        """Whether x_t | k is itself Student-t, so that no integral is needed."""
        del noise, second
        return False

    @property
    def mean(self) -> Float[Array, "*event"]:
        """E[x_0]. Raises ValueError when there is none."""
        c = self.components()
        return dot("k,kd->d", jnp.exp(c.log_weights), c.means).reshape(self.event_shape)

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """Cov[x_0], the event flattened. Raises ValueError when there is none."""
        c = self.components()
        weights = jnp.exp(c.log_weights)
        within = dot("k,kdr,kr,ker->de", weights, c.basis, c.eigenvalues - c.floor[:, None], c.basis)
        gaps = c.means - dot("k,kd->d", weights, c.means)
        return within + dot("k,kd,ke->de", weights, gaps, gaps) + jnp.sum(weights * c.floor) * jnp.eye(self.dim)

    def sample(self, key: Key[Array, "..."], n: int) -> Float[Array, "n *event"]:
        """`n` draws of x_0; one key, or one for each draw."""
        return _sample(self, keys_lib.as_keys(key, n))

    def sample_marginal(
        self, key: Key[Array, "..."], process: Process, n: int, t: ArrayLike
    ) -> Float[Array, "n *event"]:
        """`n` draws of x_t, t a scalar or (n,); the x_0 within them are `sample(key, n)`."""
        return _sample_marginal(self, keys_lib.as_keys(key, n), process, t)

    def _draw(self, keys: Key[Array, " b"]) -> Float[Array, "b d"]:
        """`sample`, the event flattened."""
        c = self.components()
        which = draw_index(keys, c.log_weights)
        noise = keys_lib.normal(keys_lib.fold(keys, 1), (self.dim,))
        basis, floor = c.basis[which], jnp.sqrt(c.floor[which])[:, None]
        along = dot("bdr,bd->br", basis, noise) * (jnp.sqrt(c.eigenvalues[which]) - floor)
        return c.means[which] + floor * noise + dot("bdr,br->bd", basis, along)

    def log_prob(self, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, " b"]:
        """ln p_t(x) in nats. At σ = 0 it is the density of the data, if they have one."""
        return _evaluate(self, process, x, t, self._closed(process.noise)).log_prob

    def score(self, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, "b *event"]:
        """∇ ln p_t(x), for any noise."""
        return _evaluate(self, process, x, t, self._closed(process.noise)).score.reshape(x.shape)

    def denoiser(self, process: Process) -> Denoiser:
        """(x, t) -> E[x_0 | x_t = x], a Partial with the law and the process as leaves; t is a scalar or (b,).

        At σ = 0 it returns x/α, projected on the support where that has no volume (the nearest point, the subspace);
        at α = 0 the mean, or the centre of symmetry when the tails leave no mean.
        """
        return Partial(_denoise_closed if self._closed(process.noise) else _denoise, self, process)

    def displacement(self, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, "b *event"]:
        """x − α E[x_0 | x_t = x] = σ E[z | x_t = x], without the cancellation of the difference where σ is small."""
        return self.log_prob_and_displacement(process, x, t)[1]

    def log_prob_and_displacement(
        self, process: Process, x: Float[Array, "b *event"], t: ArrayLike
    ) -> tuple[Float[Array, " b"], Float[Array, "b *event"]]:
        """(`log_prob`, `displacement`), at the cost of one."""
        found = _evaluate(self, process, x, t, self._closed(process.noise), gap=True)
        assert found.gap is not None
        return found.log_prob, found.gap.reshape(x.shape)

    def posterior_covariance(
        self, process: Process, x: Float[Array, "b *event"], t: ArrayLike
    ) -> Float[Array, "b d d"]:
        """Cov[x_0 | x_t = x], the event flattened."""
        closed = self._closed(process.noise, second=True)
        second = _evaluate(self, process, x, t, closed, "full").second
        assert second is not None
        return second

    def posterior_variance(self, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, " b"]:
        """tr Cov[x_0 | x_t = x] = E[|x_0 − E[x_0|x]|² | x_t = x], without the matrix."""
        closed = self._closed(process.noise, second=True)
        second = _evaluate(self, process, x, t, closed, "trace").second
        assert second is not None
        return second

    def log_cdf(
        self, process: Process, x: Float[Array, "b *event"], t: ArrayLike
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """(ln P(x_t <= x), ln P(x_t > x)) in one dimension: each keeps its digits in its own tail.

        Raises ValueError in more dimensions.
        """
        if self.dim != 1:
            raise ValueError(f"the law lives in {self.dim} dimensions; a distribution function needs one.")
        return _log_cdf(self, process, x, t)

    def cdf(self, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, " b"]:
        """P(x_t <= x), in one dimension. Raises ValueError in more."""
        return jnp.exp(self.log_cdf(process, x, t)[0])


def _denoise(law: Law, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, "b *event"]:
    return _evaluate(law, process, x, t, closed=False).mean.reshape(x.shape)


def _denoise_closed(law: Law, process: Process, x: Float[Array, "b *event"], t: ArrayLike) -> Float[Array, "b *event"]:
    # Chosen while df was a number; inside jit it is traced, and can no longer be looked at.
    return _evaluate(law, process, x, t, closed=True).mean.reshape(x.shape)


# Each of these is one program: operation by operation, a law's components alone are a dozen. NumPy's numbers enter it
# in the float type of now: jax 0.10.1 may call a program that was made without x64, and is met again with it within a
# derivative, with the numbers of the one and the types of the other.


def _typed(tree: Any) -> Any:
    """`tree` with NumPy's floating-point numbers in JAX's default type."""
    kind = jnp.result_type(float)

    def typed(leaf: Any) -> Any:
        wide = isinstance(leaf, (np.ndarray, np.generic)) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(kind) if wide else leaf

    return jax.tree.map(typed, tree)


def _sample(law: Law, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
    return _sampled(_typed(law), keys)


def _sample_marginal(law: Law, keys: Key[Array, " b"], process: Process, t: ArrayLike) -> Float[Array, "b *event"]:
    return _sampled_marginal(_typed(law), keys, _typed(process), t)


def _log_cdf(law: Law, process: Process, x: Array, t: ArrayLike) -> tuple[Array, Array]:
    return _log_cdf_of(_typed(law), _typed(process), x, t)


def _evaluate(
    law: Law, process: Process, x: Array, t: ArrayLike, closed: bool, second: Second = "none", gap: bool = False
) -> Posterior:
    return _evaluated(_typed(law), _typed(process), x, t, closed, second, gap)


@jax.jit
def _sampled(law: Law, keys: Key[Array, " b"]) -> Float[Array, "b *event"]:
    return law._draw(keys).reshape(keys.shape[0], *law.event_shape)


@jax.jit
def _sampled_marginal(law: Law, keys: Key[Array, " b"], process: Process, t: ArrayLike) -> Float[Array, "b *event"]:
    x_0 = law.sample(keys, keys.shape[0])
    return perturb(process, x_0, process.noise.sample(keys_lib.fold(keys, 3), x_0.shape), t)


@jax.jit
def _log_cdf_of(law: Law, process: Process, x: Array, t: ArrayLike) -> tuple[Array, Array]:
    flat = _flatten(law, x)
    return log_cdf(law.components(flat.dtype), process, flat, t)


@functools.partial(jax.jit, static_argnames=("closed", "second", "gap"))
def _evaluated(
    law: Law, process: Process, x: Array, t: ArrayLike, closed: bool, second: Second, gap: bool
) -> Posterior:
    flat = _flatten(law, x)
    components = law._unmixed(flat.dtype) if closed else law.components(flat.dtype)
    return posterior(components, process, flat, t, closed, second, gap=gap)


def _flatten(law: Law, x: Array) -> Float[Array, "b d"]:
    """`x` as (b, d), in floating point."""
    x = jnp.asarray(x, jnp.result_type(float, x) if not jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)
    if math.prod(x.shape[1:]) != law.dim:
        raise ValueError(f"x has shape {x.shape}; the law needs (b, *event) with event {law.event_shape}.")
    return x.reshape(x.shape[0], law.dim)


def draw_index(keys: Key[Array, " b"], log_weights: Float[Array, " K"]) -> Int[Array, " b"]:
    """A component for each key, by inverting the cumulative weights: no array over batch and components."""
    cumulative = jnp.cumsum(jnp.exp(log_weights))
    uniform = keys_lib.uniform(keys_lib.fold(keys, 0), dtype=cumulative.dtype)
    return jnp.searchsorted(cumulative, uniform * cumulative[-1], side="right").clip(0, len(cumulative) - 1)


def log_normalised(weights: Any, count: int, dtype: Any) -> Float[Array, " K"]:
    """ln of the weights, which need not sum to one; None is equal weights."""
    if weights is None:
        return jnp.full(count, -math.log(count), dtype)
    weights = jnp.asarray(weights, dtype)
    return jnp.log(weights) - jnp.log(jnp.sum(weights))


def check_mixture(what: str, centres: Any, weights: Any, *others: tuple[str, Any, tuple[int, ...]]) -> None:
    """Refuse arrays that do not belong together. JAX rebuilds laws with tracers inside: those are not looked at.

    Raises ValueError.
    """
    if not isinstance(centres, np.ndarray):
        return
    if centres.ndim < 1 or centres.size == 0:
        raise ValueError(f"{what} has shape {centres.shape}; give (K, *event) with K >= 1, the event not empty.")
    count = centres.shape[0]
    for name, value, shape in (("weights", weights, (count,)), *others):
        if isinstance(value, np.ndarray) and value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape}; {what} of shape {centres.shape} need {shape}.")
    if isinstance(weights, np.ndarray) and not (np.all(weights >= 0) and np.any(weights > 0)):
        raise ValueError(f"weights contains {weights.min():g}; weights must be >= 0, and one of them positive.")
