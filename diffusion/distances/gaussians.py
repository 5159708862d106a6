"""Two Gaussians p = N(μ_p, P) and q = N(μ_q, Q) with full covariances, δ = μ_p − μ_q:

    KL(p ‖ q)         ½ [tr(Q⁻¹P) − d − ln det(Q⁻¹P)] + ½ δᵀQ⁻¹δ            Rasmussen & Williams 2006, eq. A.23
    Bhattacharyya     ½ ln det M − ¼ ln det P − ¼ ln det Q + ⅛ δᵀM⁻¹δ       M = ½(P + Q); Kailath 1967
    W_2²              |δ|² + tr P + tr Q − 2 tr (P^{1/2} Q P^{1/2})^{1/2}    Dowson & Landau 1982

All are differences of large terms where p and q nearly coincide, and none is computed in that way. In the variables in
which Q, or M, is the identity, P − Q is a matrix E; tr E − ln det(I + E) is a sum of positive terms over its
eigenvalues. W_2 is the norm of a difference of square roots, one of them rotated.

A mean has the shape of an event; a covariance is (d, d), the event flattened. Every function can be vmapped, jitted
and differentiated, even where eigenvalues coincide.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from diffusion.arrays import safe_sqrt

Mean = Float[np.ndarray | Array, "*event"]
Covariance = Float[np.ndarray | Array, "d d"]
Form = Literal["procrustes", "trace", "commuting"]


def gaussian_kl(mean_p: Mean, cov_p: Covariance, mean_q: Mean, cov_q: Covariance) -> Float[Array, ""]:
    """KL(p ‖ q) in nats, for positive definite covariances (Rasmussen & Williams 2006, eq. A.23).

    ½ Σ [e_i − ln(1 + e_i)] + ½ |L⁻¹δ|² with Q = L Lᵀ and e_i the eigenvalues of L⁻¹(P − Q)L⁻ᵀ: the relative error is
    about the rounding times the condition number of Q, however near p is to q. NaN when Q is not positive definite,
    and infinite, but for rounding, when P is singular. Raises ValueError when the shapes do not fit.
    """
    difference, p, q = _arguments(mean_p, cov_p, mean_q, cov_q)
    change, shift = _whitened(q, p - q, difference)
    return 0.5 * _log_det_excess(change) + 0.5 * shift @ shift


def bhattacharyya(mean_p: Mean, cov_p: Covariance, mean_q: Mean, cov_q: Covariance) -> Float[Array, ""]:
    """D_B = −ln ∫√(p q) in nats, for positive definite covariances (Kailath 1967).

    −¼ Σ ln(1 − e_i²) + ⅛ |L⁻¹δ|² with M = L Lᵀ and e_i in (−1, 1) the eigenvalues of ½ L⁻¹(P − Q)L⁻ᵀ. Hellinger's
    squared distance is 1 − e^{−D_B}. Raises ValueError when the shapes do not fit.
    """
    difference, p, q = _arguments(mean_p, cov_p, mean_q, cov_q)
    change, shift = _whitened(0.5 * (p + q), 0.5 * (p - q), difference)
    # −ln det(I − E²) is the sum of what E and −E leave: their traces cancel.
    return 0.25 * (_log_det_excess(change) + _log_det_excess(-change)) + 0.125 * shift @ shift


def wasserstein2(
    mean_p: Mean, cov_p: Covariance, mean_q: Mean, cov_q: Covariance, form: Form | str = "procrustes"
) -> Float[Array, ""]:
    """W_2 in the units of x: √(|δ|² + `bures_squared`(P, Q)), with the derivative 0 where p = q.

    Covariances may be singular. Raises ValueError when the shapes do not fit or for an unknown form.
    """
    return safe_sqrt(wasserstein2_squared(mean_p, cov_p, mean_q, cov_q, form))


def wasserstein2_squared(
    mean_p: Mean, cov_p: Covariance, mean_q: Mean, cov_q: Covariance, form: Form | str = "procrustes"
) -> Float[Array, ""]:
    """W_2², known as the Fréchet distance: |δ|² + `bures_squared`(P, Q), smooth where p = q.

    Covariances may be singular. Raises ValueError when the shapes do not fit or for an unknown form.
    """
    difference, p, q = _arguments(mean_p, cov_p, mean_q, cov_q)
    return difference @ difference + bures_squared(p, q, form)


def bures_squared(cov_p: Covariance, cov_q: Covariance, form: Form | str = "procrustes") -> Float[Array, ""]:
    """W_2² of two Gaussians with the same mean, in squared units of x. The covariances may be singular.

    form           W_2²                                                source
    "procrustes"   min_U |P^{1/2} − Q^{1/2} U|², U orthogonal          Bhatia, Jain & Lim 2019, theorem 1
    "trace"        tr P + tr Q − 2 tr (P^{1/2} Q P^{1/2})^{1/2}        Dowson & Landau 1982
    "commuting"    |P^{1/2} − Q^{1/2}|², W_2² for P Q = Q P, else more

    With ε the rounding, the error of W_2 is about ε |P| λ^{−1/2} by the first and the third, λ the smallest eigenvalue
    that is not 0, and √ε |P|^{1/2} by the second.
    Along directions in which P is singular there is no derivative, and 0 takes its place.
    Raises ValueError when the shapes do not fit or for an unknown form.
    """
    p, q = _float(cov_p), _float(cov_q)
    _check_covariances(p, q)
    if form not in get_args(Form):
        raise ValueError(f"form = {form!r} is no form of W_2; choose one of {', '.join(get_args(Form))}.")
    if form == "commuting":
        return jnp.sum((_root(p) - _root(q)) ** 2)
    return _procrustes(p, q) if form == "procrustes" else _trace_form(p, q)


def _trace_form(p: Float[Array, "d d"], q: Float[Array, "d d"]) -> Float[Array, ""]:
    root = _root(p)
    return jnp.trace(p) + jnp.trace(q) - 2 * jnp.trace(_root(_dot(_dot(root, q), root)))


@jax.custom_jvp
def _procrustes(p: Float[Array, "d d"], q: Float[Array, "d d"]) -> Float[Array, ""]:
    """The best rotation is the orthogonal factor of Q^{1/2} P^{1/2}."""
    root_p, root_q = _root(p), _root(q)
    left, _, right = jnp.linalg.svd(_dot(root_q, root_p))
    return jnp.sum((root_p - _dot(root_q, _dot(left, right))) ** 2)


@_procrustes.defjvp
def _procrustes_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Singular vectors turn without bound where singular values coincide, the function does not.
    return _procrustes(*primals), jax.jvp(_trace_form, primals, tangents)[1]


@jax.custom_jvp
def _root(s: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """S^{1/2} of a positive semidefinite matrix; eigenvalues that are 0 but for rounding are 0."""
    values, vectors = jnp.linalg.eigh(s)
    floor = math.sqrt(s.shape[0]) * jnp.finfo(s.dtype).eps * jnp.max(jnp.abs(values))
    return _dot(vectors * jnp.sqrt(jnp.where(values > floor, values, 0.0)), vectors.T)


@_root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = _root(*primals)
    return root, _lyapunov(root, *tangents)


@jax.custom_jvp
def _lyapunov(a: Float[Array, "d d"], h: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The X with A X + X A = H for a positive semidefinite A, 0 where there is none."""
    values, vectors = jnp.linalg.eigh(a)
    sums = values[:, None] + values
    usable = sums > jnp.finfo(a.dtype).eps * jnp.max(sums)
    turned = _dot(_dot(vectors.T, h), vectors)
    return _dot(_dot(vectors, jnp.where(usable, turned / jnp.where(usable, sums, 1.0), 0.0)), vectors.T)


@_lyapunov.defjvp
def _lyapunov_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, _), (da, dh) = primals, tangents
    x = _lyapunov(*primals)
    return x, _lyapunov(a, dh - _dot(da, x) - _dot(x, da))


@jax.custom_jvp
def _log_det_excess(e: Float[Array, "d d"]) -> Float[Array, ""]:
    """tr E − ln det(I + E) >= 0 for a symmetric E > −I."""
    return jnp.sum(_excess(jnp.maximum(jnp.linalg.eigvalsh(e), -1.0)))


@_log_det_excess.defjvp
def _log_det_excess_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # tr dE − tr (I + E)⁻¹dE without the difference, and without the eigenvectors, which need not be smooth.
    (e,), (de,) = primals, tangents
    return _log_det_excess(e), jnp.sum(jnp.linalg.solve(jnp.eye(len(e), dtype=e.dtype) + e, e) * de.T)


def _excess(e: Float[Array, " d"]) -> Float[Array, " d"]:
    """e − ln(1 + e); near 0 by the series of ln(1 + e) = 2 artanh u, u = e/(2 + e), in which e − 2u = e u."""
    small = jnp.abs(e) < 0.1
    near, far = jnp.where(small, e, 0.0), jnp.where(small, 1.0, e)
    u = near / (2 + near)
    series = near * u - 2 * u**3 * sum(u ** (2 * k) / (2 * k + 3) for k in range(6))
    return jnp.where(small, series, far - jnp.log1p(far))


def _whitened(scale: Array, change: Array, shift: Array) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """(L⁻¹ `change` L⁻ᵀ, L⁻¹ `shift`) with `scale` = L Lᵀ."""
    lower = jnp.linalg.cholesky(scale)
    half = solve_triangular(lower, change, lower=True)
    return solve_triangular(lower, half.T, lower=True), solve_triangular(lower, shift, lower=True)


def _arguments(mean_p: Mean, cov_p: Covariance, mean_q: Mean, cov_q: Covariance) -> tuple[Array, Array, Array]:
    """(μ_p − μ_q flattened, P, Q) in floating point, checked."""
    p, q = _float(cov_p), _float(cov_q)
    _check_covariances(p, q)
    for name, mean in (("mean_p", mean_p), ("mean_q", mean_q)):
        if np.size(mean) != len(p):
            raise ValueError(
                f"{name} has shape {np.shape(mean)}; covariances {p.shape} need a mean of {len(p)} numbers."
            )
    return _float(mean_p).reshape(-1) - _float(mean_q).reshape(-1), p, q


def _check_covariances(p: Array, q: Array) -> None:
    if p.ndim != 2 or p.shape[0] != p.shape[1] or q.shape != p.shape:
        raise ValueError(f"cov_p has shape {p.shape} and cov_q {q.shape}; give two of (d, d), the events flattened.")


def _float(value: np.ndarray | Array) -> Array:
    return jnp.asarray(value, jnp.promote_types(jnp.result_type(float, value), jnp.float32))


def _dot(a: Array, b: Array) -> Array:
    """A B in full precision: on an accelerator the default has ten bits."""
    return jnp.matmul(a, b, precision="highest")
