"""Inverse problems: samples of x_0 given y, with a model that has never seen y.

The goal is E[x_0 | x_t, y], the denoiser of the posterior. It is the denoiser of the data, shifted by
(σ²/α) ∇ ln p(y|x_t), and p(y|x_t) is the integral of p(y|x_0) over p(x_0|x_t), which a denoiser alone does not give:

    dps_guidance             p(x_0|x_t) is taken as the point x̂_0      denoiser -> denoiser   biased
    pseudoinverse_guidance   p(x_0|x_t) is taken as N(x̂_0, C)          denoiser -> denoiser   exact where it is
    Replacement, RePaint     the known part of x_s comes from q(x_s|y)   sampler -> sampler   biased, in inpainting.py

The bias does not vanish with the step size; each docstring says what is known of its own. All are for Gaussian noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.arguments import as_array, require_process
from diffusion.arrays import expand, sum_event
from diffusion.ddpm.reverse_steps import Denoised, joined, split_denoised
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import as_partial, is_concrete, pytree
from samplers.guidance import tilt
from samplers.operators import Operator

Covariance = Callable[[Array, ArrayLike], Array]
"""(x, t) -> Cov[x_0 | x_t = x]: r² as a scalar or (b,), or the matrices (b, d, d) with the event flattened."""


@pytree
class Measurement:
    """What is known of x_0: y = A x_0 + σ_y n."""

    observe: Any
    """The map A: a differentiable function (b, *event) -> (b, *measured), row by row, such as one of
    `samplers.operators`, or a matrix (m, d) on the flattened event."""
    observed: Float[Array | np.ndarray, "..."]
    """The values y, (*measured) for all samples or (b, *measured)."""
    noise_std: Any = 0.0
    """The standard deviation σ_y, a scalar or (b,)."""

    def __post_init__(self) -> None:
        for name in ("observe", "observed", "noise_std"):
            object.__setattr__(self, name, as_array(getattr(self, name), name))
        if is_concrete(self.noise_std) and not self.noise_std >= 0:
            raise ValueError(f"noise_std = {self.noise_std}; give 0 for an exact measurement, or more.")
        if isinstance(self.observe, (jax.Array, np.ndarray)) and self.observe.ndim != 2:
            raise ValueError(f"observe has shape {self.observe.shape}; give a matrix (m, d) for the flattened event.")

    def of(self, x_0: Float[Array, "b *event"]) -> Float[Array, "b *measured"]:
        """A x_0. Raises ValueError for a matrix that does not fit."""
        if not isinstance(self.observe, (jax.Array, np.ndarray)):
            return self.observe(x_0)
        flat = x_0.reshape(x_0.shape[0], -1)
        if self.observe.shape[1] != flat.shape[1]:
            raise ValueError(
                f"observe has shape {self.observe.shape}, and an event {flat.shape[1]} numbers; give (m, d)."
            )
        return jnp.matmul(flat, jnp.asarray(self.observe, x_0.dtype).T, precision="highest")

    def residual(self, x_0: Float[Array, "b *event"]) -> Float[Array, "b *measured"]:
        """y − A x_0. Raises ValueError for a y that does not fit."""
        predicted = self.of(x_0)
        return for_each("observed", self.observed, predicted.shape).astype(predicted.dtype) - predicted


def for_each(name: str, value: Array | np.ndarray, shape: tuple[int, ...]) -> Array:
    """`value`, one for all samples or one for each, as an array of this shape (b, ...)."""
    if np.shape(value) not in (shape, shape[1:]):
        raise ValueError(f"{name} has shape {np.shape(value)}; give {shape[1:]} for all samples, or {shape}.")
    return jnp.broadcast_to(jnp.asarray(value), shape)


def _traced(measurement: Measurement) -> Measurement:
    """The measurement with its function, if it is a plain one, as a pytree."""
    tree = isinstance(measurement.observe, (jax.Array, np.ndarray, Operator))
    return measurement if tree else dataclasses.replace(measurement, observe=as_partial(measurement.observe))


def dps_guidance(
    process: Process,
    denoise: Denoiser,
    measurement: Measurement,
    scale: ArrayLike = 1.0,
    *,
    normalised: bool = False,
) -> Denoiser:
    """x̂_0 − w (σ²/α) ∇_x |y − A(x̂_0(x))|²/(2 σ_y²): diffusion posterior sampling (Chung et al. 2023).

    (arXiv:2209.14687, section 3.) A may be any differentiable function; w = `scale` is a scalar or (b,). `normalised`
    has the paper's step size: |y − A x̂_0| in the place of σ_y², which may then be 0, so that the shift is bounded
    however far y is off; it is a rule of thumb, and w has the unit of 1/y.

    p(y|x_0) at the point x̂_0 stands for its mean over p(x_0|x_t), so y is trusted too much, too early: on unit
    Gaussian data with A = 1 samples have the variance e^{−1/σ_y²} by the probability-flow ODE and
    ½ σ_y² (1 − e^{−2/σ_y²}) by the reverse SDE, in place of σ_y²/(1 + σ_y²), and their mean overshoots. The shift is
    stiff, of order 1/σ_y²: with few steps take a larger σ_y, a smaller w, `normalised`, or `pseudoinverse_guidance`.
    Raises TypeError when the noise is not Gaussian, ValueError for σ_y = 0, and a y or A that does not fit.
    """
    require_gaussian(require_process(process).noise, "diffusion posterior sampling")
    if not normalised and is_concrete(measurement.noise_std) and not measurement.noise_std > 0:
        raise ValueError(
            "noise_std = 0; DPS divides by its square: give a positive one, however small, or normalised=True."
        )
    shift = _normalised_dps if normalised else _dps
    return Partial(shift, process, as_partial(denoise), _traced(measurement), scale)


def _dps(
    process: Process, denoise: Denoiser, measurement: Measurement, scale: ArrayLike, x: Array, t: ArrayLike
) -> Denoised:
    return _descend(process, denoise, measurement, lambda _: scale / jnp.asarray(measurement.noise_std) ** 2, x, t)


def _normalised_dps(
    process: Process, denoise: Denoiser, measurement: Measurement, scale: ArrayLike, x: Array, t: ArrayLike
) -> Denoised:
    def weight(square: Array) -> Array:
        return jnp.where(square > 0, scale / jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    return _descend(process, denoise, measurement, weight, x, t)


def _descend(
    process: Process,
    denoise: Denoiser,
    measurement: Measurement,
    weight: Callable[[Array], ArrayLike],
    x: Array,
    t: ArrayLike,
) -> Denoised:
    """x̂_0 tilted by −½ w(|r|²) ∇|r|², r = y − A x̂_0, the weight held fixed."""

    def log_likelihood(x: Array) -> tuple[Array, tuple[Array, Array | None]]:
        x_0, v = split_denoised(denoise(x, t))
        square = sum_event(measurement.residual(x_0.astype(x.dtype)) ** 2)
        return jnp.sum(-0.5 * square * weight(jax.lax.stop_gradient(square))), (x_0.astype(x.dtype), v)

    gradient, (x_0, v) = jax.grad(log_likelihood, has_aux=True)(x)
    return joined(tilt(process, x_0, gradient, t), v)


def pseudoinverse_guidance(
    process: Process, denoise: Denoiser, measurement: Measurement, covariance: Covariance | None = None
) -> Denoiser:
    """x̂_0 + (σ²/α) (∂x̂_0/∂x)ᵀ Aᵀ (A C Aᵀ + σ_y² I)⁻¹ (y − A x̂_0): ΠGDM (Song et al. 2023).

    (ICLR 2023, openreview 9_gsMA8MRKQ, section 3.) A is linear; a function that is not is linearised at
    x̂_0. σ_y may be 0 when y = A x_0 can be met.

    `covariance` is C(x, t): None is the paper's r² = σ²/(α² + σ²), which is `isotropic_covariance(process)`. With the
    true Cov[x_0|x_t], as `tweedie_covariance` gives it, this is E[x_0|x_t, y] wherever p(x_0|x_t) is Gaussian; with
    another C it is not, and a C too large (small) trusts y too little (too much).
    Raises TypeError when the noise is not Gaussian, ValueError for a y, an A or a C that does not fit.
    """
    require_gaussian(require_process(process).noise, "pseudoinverse guidance")
    covariance = isotropic_covariance(process) if covariance is None else as_partial(covariance)
    return Partial(_pseudoinverse, process, as_partial(denoise), _traced(measurement), covariance)


def _pseudoinverse(
    process: Process, denoise: Denoiser, measurement: Measurement, covariance: Covariance, x: Array, t: ArrayLike
) -> Denoised:
    def answer(y: Array) -> tuple[Array, Array | None]:
        x_0, v = split_denoised(denoise(y, t))
        return x_0.astype(y.dtype), v

    x_0, pull, v = jax.vjp(answer, x, has_aux=True)
    variance = jnp.broadcast_to(jnp.asarray(measurement.noise_std, x.dtype) ** 2, x.shape[:1])
    c = _covariances(covariance(x, t), x)
    if isinstance(measurement.observe, Operator) and c.ndim == 1:
        back = measurement.observe.explain(measurement.residual(x_0), c, variance)
        return joined(tilt(process, x_0, pull(back)[0], t), v)

    def one(x_0: Array, residual: Array, c: Array, variance: Array) -> Array:
        return _explain(lambda y: measurement.of(y[None])[0], x_0, residual, c, variance)

    return joined(tilt(process, x_0, pull(jax.vmap(one)(x_0, measurement.residual(x_0), c, variance))[0], t), v)


def _explain(observe: Callable[[Array], Array], x_0: Array, residual: Array, c: Array, variance: Array) -> Array:
    """Aᵀ (A C Aᵀ + σ_y² I)⁻¹ r for one sample, by conjugate gradients: no matrix of A, and no rank of it, is needed."""
    push = jax.linearize(observe, x_0)[1]
    transpose = jax.linear_transpose(push, x_0)

    def system(u: Array) -> Array:
        v = transpose(u)[0]
        spread = c * v if c.ndim == 0 else jnp.matmul(c, v.reshape(-1), precision="highest").reshape(v.shape)
        return push(spread) + variance * u

    tolerance = 30 * float(jnp.finfo(residual.dtype).eps)
    u, _ = jax.scipy.sparse.linalg.cg(system, residual, tol=tolerance, maxiter=3 * residual.size)
    return transpose(u)[0]


def isotropic_covariance(process: Process, data_variance: ArrayLike = 1.0) -> Covariance:
    """r² = σ² v/(α² v + σ²): Cov[x_0|x_t] of N(m, v I) data, at v = 1 the choice of ΠGDM. Of the shape of t."""
    return Partial(_isotropic, require_process(process), data_variance)


def _isotropic(process: Process, data_variance: ArrayLike, x: Array, t: ArrayLike) -> Array:
    del x
    variance = process.schedule.variance(t)
    return variance * data_variance / (process.alpha(t) ** 2 * data_variance + variance)


def tweedie_covariance(process: Process, denoise: Denoiser) -> Covariance:
    """Cov[x_0|x_t] = (σ²/α) ∂x̂_0/∂x, (b, d, d), exact for every law: d derivatives of the denoiser, for small d.

    (Efron 2011, section 2; for inverse problems Boys et al. 2023, arXiv:2310.06721.) Symmetrised, since a network's
    Jacobian is not symmetric. Infinite where α = 0.
    """
    require_gaussian(require_process(process).noise, "Tweedie's covariance")
    return Partial(_tweedie, process, as_partial(denoise))


def _tweedie(process: Process, denoise: Denoiser, x: Array, t: ArrayLike) -> Array:
    directions = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, *x.shape[1:])

    def along(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, x.shape)
        slope = jax.jvp(lambda y: split_denoised(denoise(y, t))[0].astype(y.dtype), (x,), (tangent,))[1]
        return slope.reshape(x.shape[0], -1)

    jacobian = jax.vmap(along, out_axes=-1)(directions)
    factor = process.schedule.variance(t) / process.alpha(t)
    return expand(0.5 * factor, jacobian) * (jacobian + jacobian.swapaxes(1, 2))


def _covariances(c: ArrayLike, x: Array) -> Array:
    """One r² (b,) or one matrix (b, d, d) for each sample."""
    c, batch, size = jnp.asarray(c, x.dtype), x.shape[0], x[0].size
    if c.shape in ((), (batch,)):
        return jnp.broadcast_to(c, (batch,))
    if c.shape != (batch, size, size):
        raise ValueError(
            f"covariance answers with the shape {c.shape}; give r² as a scalar or ({batch},), or matrices "
            f"({batch}, {size}, {size})."
        )
    return c
