"""The electric field of data: the field around charges of the law ρ on the hyperplane r = 0.

In N + D dimensions, for −Δφ = ρ, E = −∇φ and r the distance from the hyperplane in the D extra dimensions,

    E_r = p_r(x)/(S_{D−1} r^{D−1}),     E_x = E_r (x − E[y|x, r])/r,     S_{D−1} = 2 π^{D/2}/Γ(D/2)

where p_r(x) ∝ ∫ ρ(y) (|x − y|² + r²)^{−(N+D)/2} dy is the density of data under Student-t noise of D degrees of
freedom at σ = r/√D, and E[y|x, r] its denoiser (Xu et al. 2022, arXiv:2209.11178, eq. 3; 2023, arXiv:2302.04265, eq. 3
to 5). So whatever the oracles know under `Process(EDM(), StudentT(df=D))` is known of the field. At D = 1, where r = z
and S_0 = 2, E_z = ½ p_z. The sign is the papers': E points away from the charges. "Universal gravitation" is F = −E.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand, sum_event
from diffusion.log_gamma import log_sphere_area
from diffusion.noises import StudentT
from diffusion.oracles.law import Law
from diffusion.process import Process
from diffusion.pytree import pytree
from diffusion.schedules import EDM


@pytree
class Field:
    """E as a unit vector (along_x, along_r) and ln |E|: neither over- nor underflows, whatever the dimension.

    In float32 that holds for r and distances from 10⁻¹⁵ to 10¹⁸, whose squares must fit.
    """

    along_x: Float[Array, "b *event"]
    """The direction's components in the space of the data."""
    along_r: Float[Array, " b"]
    """The direction's component away from the hyperplane."""
    log_norm: Float[Array, " b"]
    """ln |E|, for a total charge of one."""

    @property
    def vector(self) -> tuple[Float[Array, "b *event"], Float[Array, " b"]]:
        """(E_x, E_r), where |E| fits its type."""
        return _scaled(self)


@jax.jit
def _scaled(field: Field) -> tuple[Array, Array]:
    norm = jnp.exp(field.log_norm)
    return expand(norm, field.along_x) * field.along_x, norm * field.along_r


def poisson_process(df: float | Array = 1.0, r_min: float | None = None, r_max: float | None = None) -> Process:
    """`Process(EDM(), StudentT(df))` with σ between `r_min`/√D and `r_max`/√D, EDM's own limits unless given.

    This is how the hyper-parameters of EDM carry over to PFGM++: r = σ √D (Xu et al. 2023, section 4).
    """
    own = EDM()
    low = own.sigma_min if r_min is None else sigma_from_radius(r_min, df)
    high = own.sigma_max if r_max is None else sigma_from_radius(r_max, df)
    return Process(EDM(sigma_min=low, sigma_max=high), StudentT(df))  # pyright: ignore[reportArgumentType]


def sigma_from_radius(r: ArrayLike, df: ArrayLike) -> ArrayLike:
    """σ = r/√D."""
    return r / df**0.5  # pyright: ignore[reportOperatorIssue]


def radius_from_sigma(sigma: ArrayLike, df: ArrayLike) -> ArrayLike:
    """r = σ √D."""
    return sigma * df**0.5  # pyright: ignore[reportOperatorIssue]


def poisson_field(law: Law, x: Float[Array, "b *event"], r: ArrayLike, df: float | Array = 1.0) -> Field:
    """E of the charges `law` at (x, r), r > 0 a scalar or (b,), in N + D dimensions, D = `df`.

    Exact for every law of `diffusion.oracles`: in closed form for `Atoms` (read in blocks), for Cauchy mixtures at
    D = 1, by one integral otherwise. Raises ValueError for an r or df that is not positive.
    """
    require_positive("r", r, "the field is that above the hyperplane of the data")
    require_positive("df", df, "D counts the extra dimensions, 1 for PFGM")
    process = Process(EDM(), StudentT(df))
    log_p, gap = law.log_prob_and_displacement(process, x, sigma_from_radius(r, df))
    return _field(log_p, gap, r, df)


@jax.jit
def _field(log_p: Array, gap: Array, r: ArrayLike, df: ArrayLike) -> Field:
    """E from p_r(x) and x − E[y|x, r]."""
    r = jnp.broadcast_to(jnp.asarray(r, gap.dtype), log_p.shape)
    # In units of the largest component: squares of distances leave the range of float32 first.
    scale = jnp.maximum(jnp.max(jnp.abs(gap.reshape(gap.shape[0], -1)), axis=1), r)
    along_x, along_r = gap / expand(scale, gap), r / scale
    length = jnp.sqrt(sum_event(along_x**2) + along_r**2)
    log_norm = log_p - log_sphere_area(jnp.asarray(df, r.dtype)) - df * jnp.log(r) + jnp.log(scale * length)
    return Field(along_x / expand(length, gap), along_r / length, log_norm)


def require_positive(name: str, value: ArrayLike, why: str) -> None:
    """Raise ValueError for a number that is not positive."""
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name} = {value}; give a positive number: {why}.")
