"""The laws: points, Gaussians, their mixtures, and mixtures of Student-t.

The event shape of a law is the shape of its points or means after the first axis; x may have any shape (b, *event)
with as many numbers in an event. Weights need not be normalised, and None is equal weights. Parameters are leaves,
so a law may be built outside jit and used, moved or differentiated inside.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion import keys as keys_lib
from diffusion.noises import Noise, StudentT
from diffusion.oracles.components import Components, dot
from diffusion.oracles.law import Law, check_mixture, draw_index, log_normalised
from diffusion.oracles.mixing import student_rule
from diffusion.pytree import is_concrete, pytree

Numbers = np.ndarray | Array


@pytree
class Dirac(Law):
    """x_0 = point."""

    point: Float[Numbers, "*event"]
    """The only value of x_0."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of the point."""
        return np.shape(self.point)

    def components(self, dtype: Any = None) -> Components:
        """One Gaussian without width."""
        return Atoms(jnp.asarray(self.point)[None]).components(dtype)

    def _closed(self, noise: Noise, second: bool = False) -> bool:
        return isinstance(noise, StudentT)


@pytree
class Atoms(Law):
    """x_0 = points_k with probability weights_k: finite data, the law that a network has actually seen.

    E[x_0 | x] is a softmax-weighted mean of the points, with logits −|x − α points_k|²/(2σ²) for Gaussian noise and
    −½(d + df) ln(df σ² + |x − α points_k|²) for Student-t (Karras et al. 2022, appendix B.3; Xu et al. 2023, eq. 5).
    Many points are read in blocks.
    """

    points: Float[Numbers, "K *event"]
    """The values of x_0."""
    weights: Float[Numbers, " K"] | None = None
    """Their probabilities, up to a factor; None for equal ones."""

    def __post_init__(self) -> None:
        check_mixture("points", self.points, self.weights)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return np.shape(self.points)[1:]

    def components(self, dtype: Any = None) -> Components:
        """Gaussians without width."""
        return _isotropic(self.points, self.weights, 0.0, dtype)

    def _closed(self, noise: Noise, second: bool = False) -> bool:
        return isinstance(noise, StudentT)


@pytree
class GaussianMixture(Law):
    """x_0 ~ Σ_k weights_k N(means_k, C_k); build it with `isotropic`, `full` or `low_rank`.

    The covariances are kept as C_k = Q_k diag(eigenvalues_k) Q_kᵀ + floor_k (I − Q_k Q_kᵀ), Q_k = basis_k (d, r) with
    orthonormal columns, diagonalised once and outside jit.
    """

    means: Float[Numbers, "K *event"]
    """The means of the components."""
    basis: Float[Numbers, "K d r"]
    """The Q_k: directions with a variance of their own."""
    eigenvalues: Float[Numbers, "K r"]
    """The variances along those directions."""
    floor: Float[Numbers, " K"]
    """The variance in every other direction."""
    weights: Float[Numbers, " K"] | None = None
    """The probabilities of the components, up to a factor; None for equal ones."""

    @classmethod
    def isotropic(cls, means: Any, stds: Any, weights: Any = None) -> GaussianMixture:
        """C_k = stds_k² I; `means` (K, *event), `stds` (K,) or one for all.

        Raises ValueError when the shapes do not fit or a std is negative.
        """
        means, weights = _float(means), _float(weights)
        stds = np.broadcast_to(_float(stds), means.shape[:1]) if np.ndim(stds) == 0 else _float(stds)
        check_mixture("means", means, weights, ("stds", stds, means.shape[:1]))
        _check_positive("stds", stds)
        count, d = means.shape[0], math.prod(means.shape[1:])
        return cls(means, np.zeros((count, d, 0)), np.zeros((count, 0)), stds**2, weights)

    @classmethod
    def full(cls, means: Any, covariances: Any, weights: Any = None) -> GaussianMixture:
        """C_k = covariances_k, (K, d, d) with the event flattened.

        Raises ValueError when the shapes do not fit or a covariance is not symmetric and positive semidefinite.
        """
        means, covariances, weights = _float(means), _float(covariances), _float(weights)
        count, d = means.shape[0], math.prod(means.shape[1:])
        check_mixture("means", means, weights, ("covariances", covariances, (count, d, d)))
        eigenvalues, basis = np.linalg.eigh(covariances)
        scale = np.abs(covariances).max()
        if np.abs(covariances - covariances.swapaxes(1, 2)).max() > 1e-8 * scale or eigenvalues.min() < -1e-8 * scale:
            raise ValueError(
                f"covariances has the smallest eigenvalue {eigenvalues.min():g}; "
                "every covariance must be symmetric and positive semidefinite."
            )
        return cls(means, basis, np.maximum(eigenvalues, 0.0), np.zeros(count), weights)

    @classmethod
    def low_rank(cls, means: Any, factors: Any, stds: Any, weights: Any = None) -> GaussianMixture:
        """C_k = W_k W_kᵀ + stds_k² I with W_k = factors_k (d, r); costs r d and never d².

        Raises ValueError when the shapes do not fit or a std is negative.
        """
        means, factors, weights = _float(means), _float(factors), _float(weights)
        stds = np.broadcast_to(_float(stds), means.shape[:1]) if np.ndim(stds) == 0 else _float(stds)
        count, d = means.shape[0], math.prod(means.shape[1:])
        check_mixture(
            "means", means, weights, ("factors", factors, (count, d, np.shape(factors)[-1])), ("stds", stds, (count,))
        )
        _check_positive("stds", stds)
        basis, singular, _ = np.linalg.svd(factors, full_matrices=False)
        return cls(means, basis, singular**2 + stds[:, None] ** 2, stds**2, weights)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one mean."""
        return np.shape(self.means)[1:]

    def components(self, dtype: Any = None) -> Components:
        """The mixture itself."""
        plain = _isotropic(self.means, self.weights, self.floor, dtype)
        basis, eigenvalues = (jnp.asarray(a, plain.means.dtype) for a in (self.basis, self.eigenvalues))
        return Components(plain.log_weights, plain.means, basis, eigenvalues, plain.floor)


@pytree
class GaussianLaw(Law):
    """x_0 ~ N(center, C); build it with `isotropic`, `full` or `low_rank`, which keep its spectrum."""

    center: Float[Numbers, "*event"]
    """The mean."""
    basis: Float[Numbers, "d r"]
    """Directions with a variance of their own, orthonormal."""
    eigenvalues: Float[Numbers, " r"]
    """The variances along those directions."""
    floor: Float[Numbers, ""]
    """The variance in every other direction."""

    @classmethod
    def isotropic(cls, mean: Any, std: Any = 1.0) -> GaussianLaw:
        """C = std² I; `mean` has the shape of the event."""
        return cls._of(GaussianMixture.isotropic(_float(mean)[None], std))

    @classmethod
    def full(cls, mean: Any, covariance: Any) -> GaussianLaw:
        """C = `covariance`, (d, d) with the event flattened. Raises ValueError unless that is a covariance."""
        return cls._of(GaussianMixture.full(_float(mean)[None], _float(covariance)[None]))

    @classmethod
    def low_rank(cls, mean: Any, factor: Any, std: Any) -> GaussianLaw:
        """C = W Wᵀ + std² I with W = `factor` (d, r)."""
        return cls._of(GaussianMixture.low_rank(_float(mean)[None], _float(factor)[None], std))

    @classmethod
    def _of(cls, mixture: GaussianMixture) -> GaussianLaw:
        return cls(mixture.means[0], mixture.basis[0], mixture.eigenvalues[0], mixture.floor[0])

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of the mean."""
        return np.shape(self.center)

    def components(self, dtype: Any = None) -> Components:
        """A mixture of one."""
        parts = (jnp.asarray(a)[None] for a in (self.center, self.basis, self.eigenvalues, self.floor))
        return GaussianMixture(*parts).components(dtype)


@pytree
class StudentTMixture(Law):
    """x_0 = means_k + scales_k z with probability weights_k, z isotropic Student-t with `df` degrees of freedom.

    df = 1 is Cauchy, for which x_t under Cauchy noise is Cauchy again, of scale α scales_k + σ.
    """

    means: Float[Numbers, "K *event"]
    """The centres of the components."""
    scales: Float[Numbers, " K"]
    """The factors of z in the components."""
    df: float = 1.0
    """Degrees of freedom of every component; 1 is Cauchy."""
    weights: Float[Numbers, " K"] | None = None
    """The probabilities of the components, up to a factor; None for equal ones."""

    def __post_init__(self) -> None:
        check_mixture("means", self.means, self.weights, ("scales", self.scales, np.shape(self.means)[:1]))
        _check_positive("scales", self.scales)
        if is_concrete(self.df) and not self.df > 0:
            raise ValueError(f"df = {self.df}; the degrees of freedom must be positive, 1 for Cauchy.")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one mean."""
        return np.shape(self.means)[1:]

    def components(self, dtype: Any = None) -> Components:
        """Every component once for each node of the rule for ln τ."""
        plain = self._unmixed(dtype)
        rule = student_rule(self.df, self.dim, plain.means.dtype)
        count, nodes = plain.means.shape[0], rule.spreads.size
        log_weights = (plain.log_weights[:, None] + rule.log_weights).reshape(-1)
        means, floor = jnp.repeat(plain.means, nodes, axis=0), (plain.floor[:, None] * rule.spreads).reshape(-1)
        basis, eigenvalues = jnp.zeros((count * nodes, self.dim, 0), floor.dtype), jnp.zeros((count * nodes, 0))
        return Components(log_weights, means, basis, eigenvalues.astype(floor.dtype), floor)

    def _unmixed(self, dtype: Any = None) -> Components:
        return _isotropic(self.means, self.weights, jnp.asarray(self.scales) ** 2, dtype)

    def _closed(self, noise: Noise, second: bool = False) -> bool:
        if second or not isinstance(noise, StudentT) or not is_concrete(self.df, noise.df):
            return False
        return bool(self.df == 1 and noise.df == 1)

    @property
    def mean(self) -> Float[Array, "*event"]:
        """E[x_0] = Σ_k weights_k means_k. Raises ValueError for df <= 1, where it does not exist."""
        self._require(1, "mean")
        c = self._unmixed()
        return dot("k,kd->d", jnp.exp(c.log_weights), c.means).reshape(self.event_shape)

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """Cov[x_0], with df/(df − 2) scales_k² I for each component. Raises ValueError for df <= 2."""
        self._require(2, "covariance")
        stds = jnp.asarray(self.scales) * jnp.sqrt(self.df / (self.df - 2))
        empty = jnp.zeros((len(stds), self.dim, 0)), jnp.zeros((len(stds), 0))
        return GaussianMixture(self.means, *empty, stds**2, self.weights).covariance

    def _require(self, df: int, what: str) -> None:
        if is_concrete(self.df) and not self.df > df:
            raise ValueError(f"df = {self.df}; Student's t has a {what} for df > {df} only.")

    def _draw(self, keys: Key[Array, " b"]) -> Float[Array, "b d"]:
        c = self._unmixed()
        which = draw_index(keys, c.log_weights)
        z = StudentT(self.df).sample(keys_lib.fold(keys, 1), (keys.shape[0], self.dim))
        return c.means[which] + jnp.sqrt(c.floor[which])[:, None] * z


def _isotropic(centres: Numbers, weights: Numbers | None, variances: Any, dtype: Any) -> Components:
    """Components N(centres_k, variances_k I), the event flattened."""
    dtype = jnp.result_type(float) if dtype is None else dtype
    means = jnp.asarray(centres, dtype).reshape(np.shape(centres)[0], -1)
    count, d = means.shape
    floor = jnp.broadcast_to(jnp.asarray(variances, dtype), (count,))
    basis, eigenvalues = jnp.zeros((count, d, 0), dtype), jnp.zeros((count, 0), dtype)
    return Components(log_normalised(weights, count, dtype), means, basis, eigenvalues, floor)


def _float(value: Any) -> Any:
    """`value` as a float64 array on the host; None stays None."""
    return None if value is None else np.asarray(value, np.float64)


def _check_positive(name: str, values: Any) -> None:
    if isinstance(values, np.ndarray) and not np.all(values >= 0):
        raise ValueError(f"{name} contains {values.min():g}; a width cannot be negative.")
