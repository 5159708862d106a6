"""What follows from Bayes' rule for a mixture of Gaussians seen through a process.

With data x_0 | k ~ N(m_k, C_k), noise z | n ~ N(0, c_n I) and x = α x_0 + σ z, for a pair (k, n):

    x | k, n          ~ N(α m_k, V),   V = α² C_k + σ² c_n I
    E[x_0 | x, k, n]   = m_k + G y,     G = α C_k V⁻¹,   y = x − α m_k
    Cov[x_0 | x, k, n] = C_k σ² c_n V⁻¹
    ∇ ln p(x | k, n)   = −V⁻¹ y

(Bishop 2006, section 2.3.3), and the answer is their mean over the posterior weights of the pairs, a softmax.
C_k is kept as its spectrum, Q diag(λ) Qᵀ + f (I − Q Qᵀ) with Q (d, r): r = 0 is isotropic, r = d is full, and
V is never factorised. Mixtures with many components are read in blocks, so that 60000 images need no array of
60000 × batch × pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import safe_sqrt
from diffusion.noises import Noise, StudentT, log_student
from diffusion.oracles.heavy_tails import relative_log_student
from diffusion.oracles.mixing import Rule, noise_rule
from diffusion.process import Process
from diffusion.pytree import pytree

Second = Literal["none", "trace", "full"]


@pytree
class Components:
    """Σ_k exp(log_weights_k) N(m_k, Q_k diag(λ_k) Q_kᵀ + f_k (I − Q_k Q_kᵀ))."""

    log_weights: Float[Array, " K"]
    """The logarithms of the weights, which sum to one."""
    means: Float[Array, "K d"]
    """The means m_k, the event flattened."""
    basis: Float[Array, "K d r"]
    """The Q_k, with orthonormal columns."""
    eigenvalues: Float[Array, "K r"]
    """The variances λ_k along the columns of Q_k."""
    floor: Float[Array, " K"]
    """The variances f_k in every other direction."""

    @property
    def rank(self) -> int:
        """r, the number of directions with a variance of their own."""
        return self.basis.shape[-1]

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[-1]


@pytree
class Posterior:
    """The moments of x_0 given x, and p_t at x."""

    log_prob: Float[Array, "..."]
    """ln p_t(x) in nats."""
    mean: Float[Array, "... d"]
    """E[x_0 | x]."""
    score: Float[Array, "... d"]
    """∇ ln p_t(x)."""
    second: Array | None = None
    """Cov[x_0 | x] (d, d) or its trace, if asked for."""
    gap: Float[Array, "... d"] | None = None
    """x − α E[x_0 | x], if asked for: a mean of differences, accurate to the last digit close to a point."""


@pytree
class _Terms:
    """For each pair (k, n): its log joint density with x, and G, V⁻¹ and Cov on the complement of Q and (`_r`) along Q.

    `kept` is 1 − αG, the noise's share of V, which keeps x − α E[x_0|x] accurate where σ is small.
    """

    logits: Array
    gain: Array
    precision: Array
    left: Array
    kept: Array
    gain_r: Array
    precision_r: Array
    left_r: Array
    kept_r: Array


@functools.partial(jax.jit, static_argnames=("closed", "second", "block_size", "gap"))
def posterior(
    components: Components,
    process: Process,
    x: Float[Array, "b d"],
    t: ArrayLike,
    closed: bool = False,
    second: Second = "none",
    block_size: int = 2**19,
    gap: bool = False,
) -> Posterior:
    """Bayes' rule for every x of the batch; all fields gain the axis b.

    `closed` is explained in `_student_terms`; `block_size` is how many numbers are held at once for each sample.
    """
    rule = noise_rule(process.noise, components.dim, x.dtype)
    alpha, variance = _coefficients(process, x, t)

    def one(x: Array, alpha: Array, variance: Array) -> Posterior:
        kernel = _reference(components, process.noise, x, alpha, variance) if closed else rule

        def block(part: Components) -> Posterior:
            return _block_posterior(part, kernel, x, alpha, variance, second, gap)

        nodes = 1 if closed else rule.spreads.size
        size = block_size // (nodes * (components.rank + 1) + components.dim)
        found = _over_blocks(block, components, max(1, size))
        if isinstance(kernel, Rule):
            return found
        return dataclasses.replace(found, log_prob=found.log_prob + kernel.log_density)

    return jax.vmap(one)(x, alpha, variance)


def _coefficients(process: Process, x: Array, t: ArrayLike) -> tuple[Array, Array]:
    """(α, σ²) of shape (b,), in the precision of x."""

    def each(value: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, x.dtype), (x.shape[0],))

    return each(process.alpha(t)), each(process.schedule.variance(t))


def _positive(variance: Array) -> Array:
    """Keep a variance from 0, where division is not defined but the limit of what is divided is."""
    return jnp.maximum(variance, jnp.finfo(variance.dtype).tiny ** 0.8)


def _over_blocks(block: Callable[[Components], Posterior], c: Components, size: int) -> Posterior:
    """`block` of all components, read `size` at a time when they are more than that."""
    count = c.means.shape[0]
    if count <= size:
        return block(c)
    head = count - (count - 1) // size * size

    def part(start: Array | int, length: int) -> Components:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length), c)

    def body(carry: Posterior, start: Array) -> tuple[Posterior, None]:
        return _merge(carry, block(part(start, size))), None

    return jax.lax.scan(body, block(part(0, head)), jnp.arange(head, count, size))[0]


def _merge(p: Posterior, q: Posterior) -> Posterior:
    """The posterior of a mixture from those of its two halves."""
    log_prob = jnp.logaddexp(p.log_prob, q.log_prob)
    # Not exp(p − log_prob), whose sum over the halves would be off by the rounding of a large log_prob.
    ahead = jnp.where(jnp.isfinite(log_prob), p.log_prob - q.log_prob, 0.0)
    a, b = jax.nn.sigmoid(ahead), jax.nn.sigmoid(-ahead)
    second = None
    if p.second is not None and q.second is not None:
        step = p.mean - q.mean
        between = jnp.outer(step, step) if p.second.ndim == 2 else step @ step
        second = a * p.second + b * q.second + a * b * between
    gap = None if p.gap is None or q.gap is None else a * p.gap + b * q.gap
    return Posterior(log_prob, a * p.mean + b * q.mean, a * p.score + b * q.score, second, gap)


@pytree
class _Reference:
    """Component 0 under Student-t noise, the one that the others are compared with."""

    noise: StudentT
    mean: Array
    square: Array
    total: Array
    log_density: Array


def _reference(c: Components, noise: Noise, x: Array, alpha: Array, variance: Array) -> _Reference:
    assert isinstance(noise, StudentT)
    square, total = jnp.sum((x - alpha * c.means[0]) ** 2), _student_total(c.floor[0], alpha, variance)
    df = jnp.asarray(noise.df, x.dtype)
    return _Reference(noise, c.means[0], square, total, log_student(c.dim, df, square, total))


def _student_total(floor: Array, alpha: Array, variance: Array) -> Array:
    """(α √f + σ)², the squared scale of x | k."""
    return _positive((alpha * safe_sqrt(floor) + safe_sqrt(variance)) ** 2)


def _block_posterior(
    c: Components, kernel: Rule | _Reference, x: Array, alpha: Array, variance: Array, second: Second, gap: bool
) -> Posterior:
    y = x - alpha * c.means
    q = dot("kdr,kd->kr", c.basis, y)
    rest = y - dot("kdr,kr->kd", c.basis, q) if c.rank else y
    square = jnp.sum(rest**2, axis=-1)
    if isinstance(kernel, Rule):
        terms = _gaussian_terms(c, kernel, q, square, alpha, variance)
    else:
        terms = _student_terms(c, kernel, x, y, square, alpha, variance)
    log_prob, w = logsumexp(terms.logits), _softmax(terms.logits)

    def combine(complement: Array, along: Array) -> Array:
        """Σ w (Q (along ∘ Qᵀ y) + complement · (I − Q Qᵀ) y), without an array over k and d."""
        iso, spectral = jnp.sum(w * complement, 1), jnp.sum(w[..., None] * along, 1)
        turned = dot("kdr,kr->d", c.basis, (spectral - iso[:, None]) * q)
        return jnp.sum(iso) * x - alpha * dot("k,kd->d", iso, c.means) + turned

    mean = dot("k,kd->d", jnp.sum(w, 1), c.means) + combine(terms.gain, terms.gain_r)
    score = -combine(terms.precision, terms.precision_r)
    spread = None if second == "none" else _second(c, terms, w, q, rest, mean, second)
    if not gap:
        return Posterior(log_prob, mean, score, spread)
    kept, kept_r = jnp.sum(w * terms.kept, 1), jnp.sum(w[..., None] * terms.kept_r, 1)
    left = dot("k,kd->d", kept, rest) + dot("kdr,kr->d", c.basis, kept_r * q)
    return Posterior(log_prob, mean, score, spread, left)


def _softmax(logits: Array) -> Array:
    """Weights that sum to one, whatever the size of the logits; equal ones where all are −∞."""
    top = jax.lax.stop_gradient(jnp.max(logits))
    w = jnp.exp(jnp.where(jnp.isfinite(top), logits - top, 0.0))
    return w / jnp.sum(w)


def _gaussian_terms(c: Components, rule: Rule, q: Array, square: Array, alpha: Array, variance: Array) -> _Terms:
    noise = variance * rule.spreads
    floor = c.floor[:, None]
    along = c.eigenvalues[:, None, :]
    total = _positive(alpha**2 * floor + noise)
    total_r = _positive(alpha**2 * along + noise[:, None])
    complement = c.dim - c.rank
    quadratic = jnp.sum(q[:, None, :] ** 2 / total_r + jnp.log(2 * math.pi * total_r), axis=-1)
    if complement:
        quadratic += square[:, None] / total + complement * jnp.log(2 * math.pi * total)
    kept, kept_r = _noise_share(floor, noise, total) * bool(complement), _noise_share(along, noise[:, None], total_r)
    return _Terms(
        logits=c.log_weights[:, None] + rule.log_weights - 0.5 * quadratic,
        gain=alpha * floor / total * bool(complement),
        precision=1 / total if complement else jnp.zeros_like(total),
        left=floor * kept,
        kept=kept,
        gain_r=alpha * along / total_r,
        precision_r=1 / total_r,
        left_r=along * kept_r,
        kept_r=kept_r,
    )


def _noise_share(width: Array, noise: Array, total: Array) -> Array:
    """1 − αG = noise/total; 1 for a point, also where `total` is kept from 0."""
    return jnp.where(width > 0, noise / total, 1.0)


def _student_terms(
    c: Components, kernel: _Reference, x: Array, y: Array, square: Array, alpha: Array, variance: Array
) -> _Terms:
    """The cases under Student-t noise that need no integral, all isotropic, their logits relative to `kernel`'s:

    points (f = 0), where x | k is Student-t of scale σ about α m_k; and Cauchy data of scale γ = √f under Cauchy
    noise, where x | k is Cauchy of scale α γ + σ, and E[x_0 | x, k] = m_k + γ/(αγ + σ) y.
    """
    d, df = c.dim, jnp.asarray(kernel.noise.df, square.dtype)
    total = _student_total(c.floor, alpha, variance)
    farther = jnp.sum(alpha * (kernel.mean - c.means) * (y + (x - alpha * kernel.mean)), axis=-1)
    relative = relative_log_student(d, df, square, total, (kernel.square, kernel.total), farther)
    gain, precision = safe_sqrt(c.floor) / jnp.sqrt(total), (d + df) / (df * total + square)
    none, logits = jnp.zeros((c.means.shape[0], 1, 0), square.dtype), c.log_weights + relative
    gain, precision = gain[:, None], precision[:, None]
    kept = _noise_share(c.floor, safe_sqrt(variance), jnp.sqrt(total))[:, None]
    return _Terms(logits[:, None], gain, precision, jnp.zeros_like(gain), kept, none, none, none, none)


def _second(c: Components, terms: _Terms, w: Array, q: Array, rest: Array, mean: Array, second: Second) -> Array:
    """Cov[x_0 | x] or its trace: the mean of the covariances of the pairs and the covariance of their means.

    The latter between components, and within each over its nodes, where only the gains differ.
    """
    per_component = jnp.sum(w, 1)
    safe = _positive(per_component)
    gain = jnp.sum(w * terms.gain, 1) / safe
    gain_r = jnp.sum(w[..., None] * terms.gain_r, 1) / safe[:, None]
    between = c.means + gain[:, None] * rest + dot("kdr,kr->kd", c.basis, gain_r * q) - mean
    swing, swing_r = terms.gain - gain[:, None], (terms.gain_r - gain_r[:, None, :]) * q[:, None, :]
    left, left_r = jnp.sum(w * terms.left, 1), jnp.sum(w[..., None] * terms.left_r, 1)
    square = jnp.sum(w * swing**2, 1)
    if second == "trace":
        own = jnp.sum(left) * (c.dim - c.rank) + jnp.sum(left_r) + jnp.sum(w[..., None] * swing_r**2)
        return own + jnp.sum(square * jnp.sum(rest**2, 1)) + jnp.sum(per_component * jnp.sum(between**2, 1))
    along = dot("kn,knr,kns->krs", w, swing_r, swing_r) + jax.vmap(jnp.diag)(left_r - left[:, None])
    across = dot("kdr,kn,kn,knr,ke->de", c.basis, w, swing, swing_r, rest)
    total = jnp.sum(left) * jnp.eye(c.dim, dtype=w.dtype) + dot("kdr,krs,kes->de", c.basis, along, c.basis)
    total = total + across + across.T + dot("k,kd,ke->de", square, rest, rest)
    return total + dot("k,kd,ke->de", per_component, between, between)


@jax.jit
def log_cdf(components: Components, process: Process, x: Float[Array, "b 1"], t: ArrayLike) -> tuple[Array, Array]:
    """(ln P(x_t <= x), ln P(x_t > x)) in one dimension, each (b,) and each accurate in its own tail."""
    rule = noise_rule(process.noise, 1, x.dtype)
    spreads = components.floor if components.rank == 0 else components.eigenvalues[:, 0]

    def one(x: Array, alpha: Array, variance: Array) -> tuple[Array, Array]:
        total = _positive(alpha**2 * spreads[:, None] + variance * rule.spreads)
        z = (x - alpha * components.means) / jnp.sqrt(total)
        weights = components.log_weights[:, None] + rule.log_weights
        return logsumexp(weights + log_ndtr(z)), logsumexp(weights + log_ndtr(-z))

    return jax.vmap(one)(x, *_coefficients(process, x, t))


def dot(subscripts: str, *operands: Array) -> Array:
    """Einsum in full precision: on an accelerator the default has ten bits."""
    return jnp.einsum(subscripts, *operands, precision="highest")
