"""The table of the optimal reverse variance, E tr Cov[x_0|x_t]/d, estimated from data (Analytic-DPM).

With e = E[z|x_t], the following have the same mean when the denoiser D is exact:

    error       |x_0 − D|²/d                    the denoiser's mean square error
    score       (σ²/α²)(1 − |e|²/d)             Bao et al. 2022, arXiv:2201.06503, theorem 1
    variance    (|x_0|² − |D|²)/d               the law of total variance

With a network in place of D the first still minimises the network's own ELBO; the others do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arrays import expand, mean_event
from diffusion.ddpm.reverse_steps import Denoised, Optimal, split_denoised
from diffusion.noises import require_gaussian
from diffusion.prediction import eps_from_x0
from diffusion.process import Process, perturb
from diffusion.pytree import short_repr

Method = Literal["error", "score", "variance"]


class OptimalEstimate(NamedTuple):
    """An estimated `Optimal`, with the standard error of each of its covariances."""

    variance: Optimal
    """The table, its covariances clipped to their bounds."""
    standard_errors: Float[Array, " n"]
    """The standard errors of the covariances before clipping."""

    __repr__ = short_repr


def covariance_samples(
    process: Process,
    denoise: Callable[[Array, ArrayLike], Denoised],
    x_0: Float[Array, "b *event"],
    eps: Float[Array, "b *event"],
    t: ArrayLike,
    method: Method = "error",
) -> Float[Array, " b"]:
    """One value for each (x_0, eps) with mean E tr Cov[x_0|x_t]/d, x_t = α x_0 + σ eps.

    Raises ValueError for an unknown method. "score" needs α > 0.
    """
    x_t = perturb(process, x_0, eps, t)
    denoised, _ = split_denoised(denoise(x_t, t))
    if method == "error":
        return mean_event((x_0 - denoised) ** 2)
    if method == "variance":
        return mean_event(x_0**2 - denoised**2)
    if method == "score":
        missing = 1 - eps_from_x0(process, x_t, denoised, t) ** 2
        return mean_event(expand((process.sigma(t) / process.alpha(t)) ** 2, x_t) * missing)
    raise ValueError(f"method = {method!r} is not an estimate; choose one of {', '.join(get_args(Method))}.")


def covariance_bound(
    process: Process, t: ArrayLike, data_range: tuple[float, float] | None = None
) -> Float[Array, "..."]:
    """The largest E tr Cov[x_0|x_t]/d of any data: σ²/α², the error of x_t/α; ((b − a)/2)² for data in [a, b].

    (Bao et al. 2022, theorem 2.) The smallest is 0. Raises ValueError when b <= a.
    """
    bound = process.schedule.variance(t) / process.alpha(t) ** 2
    if data_range is None:
        return bound
    low, high = data_range
    if high <= low:
        raise ValueError(f"data_range = {data_range} is empty; give (smallest, largest), (-1, 1) for images.")
    return jnp.minimum(bound, ((high - low) / 2) ** 2)


def estimate_optimal_variance(
    key: Key[Array, "..."],
    process: Process,
    denoise: Callable[[Array, ArrayLike], Denoised],
    x_0: Float[Array, "b *event"],
    times: Float[np.ndarray | Array, " n"] | Int[np.ndarray | Array, " n"],
    *,
    method: Method = "error",
    data_range: tuple[float, float] | None = None,
) -> OptimalEstimate:
    """`Optimal` from data and a denoiser: at each of `times` one noise for each x_0, the mean clipped to its bounds.

    `times` ascend and leave out the data's 0. The standard errors, of the means before clipping, fall as 1/√b.
    Raises TypeError when the noise is not Gaussian, ValueError for an unknown method, times that do not ascend
    from above 0, or "score" at a time where α = 0; times are checked only when they are a NumPy array.
    """
    require_gaussian(process.noise, "the optimal reverse variance")
    if isinstance(times, np.ndarray) and not (times[0] > 0 and np.all(np.diff(times) > 0)):
        raise ValueError(f"times = {times} do not ascend from above 0; leave out the data's time 0.")
    if method == "score" and isinstance(times, np.ndarray):
        with jax.ensure_compile_time_eval():
            alpha = process.alpha(times)
        if not isinstance(alpha, Tracer) and not np.all(np.asarray(alpha) > 0):
            raise ValueError(
                f"method 'score' divides by α, which is 0 at t = {times[-1]:g}; use 'error', or leave this time out."
            )
    batch = x_0.shape[0]
    keys, nodes = keys_lib.as_keys(key, batch), jnp.asarray(times)

    def moments(place: Array) -> tuple[Array, Array]:
        eps = keys_lib.normal(keys_lib.fold(keys, place), x_0.shape[1:], x_0.dtype)
        values = covariance_samples(process, denoise, x_0, eps, nodes[place], method)
        return jnp.mean(values), jnp.std(values) / jnp.sqrt(max(batch - 1, 1))

    means, standard_errors = jax.lax.map(moments, jnp.arange(nodes.shape[0]))
    clipped = jnp.clip(means, 0.0, covariance_bound(process, nodes, data_range))
    return OptimalEstimate(Optimal(nodes, clipped), standard_errors)
