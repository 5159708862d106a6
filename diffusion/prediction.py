"""What a network predicts, and how it becomes a denoiser.

Every prediction is a combination y = p x_0 + q z with known p(t), q(t), and x_t = α x_0 + σ z is another, so
x_0 and z follow from (x_t, y) by solving two equations in two unknowns:

    kind        p       q           source
    x0          1       0
    eps         0       1           Ho et al. 2020
    score       0       −1/σ        Song et al. 2021 (Gaussian noise only)
    v           −σ      α           Salimans & Ho 2022, arXiv:2202.00512
    velocity    α'      σ'          Lipman et al. 2023, arXiv:2210.02747

A **denoiser** is a function (x, t) -> E[x_0 | x_t = x], for t a scalar or (b,). Networks, oracles and guided
models are all denoisers; pass them to jitted functions as `jax.tree_util.Partial`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffusion.arrays import expand
from diffusion.interpolated import InterpolatedBetas
from diffusion.noises import Gaussian, require_gaussian
from diffusion.process import Process
from diffusion.published import told
from diffusion.pytree import ShortPartial, bound, is_concrete, pytree, static

Denoiser = Callable[[Array, ArrayLike], Array]
Kind = Literal["x0", "eps", "score", "v", "velocity"]
_OF_LEVELS = ("edm", "vp", "ve", "iddpm", "pfgmpp")
"""The preconditionings that are functions of σ/α alone, as `Preconditioning` lists them."""


def x0_alone(answer: Any, asker: str) -> Any:
    """A denoiser's `answer`, an array. Raises TypeError for the pair (x̂_0, v) of one that learns its variance.

    `asker` is what takes no v, as a sentence names it.
    """
    if isinstance(answer, tuple):
        raise TypeError(
            f"the denoiser answers with a pair, a learned variance beside x̂_0, and {asker} takes x̂_0 alone; "
            "give mean_denoiser(denoise), or sample by Ancestral(Learned()), which takes both."
        )
    return answer


def combination(process: Process, t: ArrayLike, kind: str) -> tuple[Array, Array]:
    """(p, q) of the prediction y = p x_0 + q z.

    Raises ValueError for an unknown kind, TypeError for the score of a noise that is not Gaussian.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    if kind == "x0":
        return jnp.ones_like(alpha), jnp.zeros_like(alpha)
    if kind == "eps":
        return jnp.zeros_like(alpha), jnp.ones_like(alpha)
    if kind == "score":
        require_gaussian(process.noise, "the score prediction")
        return jnp.zeros_like(alpha), -1 / sigma
    if kind == "v":
        return -sigma, alpha
    if kind == "velocity":
        return process.schedule.alpha_dot(t), process.schedule.sigma_dot(t)
    raise ValueError(f"kind = {kind!r} is not a prediction; choose one of {', '.join(get_args(Kind))}.")


def target(process: Process, x_0: Array, z: Array, t: ArrayLike, kind: Kind) -> Array:
    """The answer wanted of a network of this kind at x_t = α x_0 + σ z: p x_0 + q z."""
    p, q = combination(process, t, kind)
    return expand(p, x_0) * x_0 + expand(q, x_0) * z


def to_x0(pred: Array, x: Float[Array, "b *event"], t: ArrayLike, process: Process, kind: Kind) -> Array:
    """E[x_0 | x_t] from a prediction: (q x − σ y)/(α q − σ p)."""
    if kind == "x0":
        return pred
    p, q = combination(process, t, kind)
    alpha, sigma = process.alpha(t), process.sigma(t)
    determinant = alpha * q - sigma * p
    return expand(q / determinant, x) * x - expand(sigma / determinant, x) * pred


def to_eps(pred: Array, x: Float[Array, "b *event"], t: ArrayLike, process: Process, kind: Kind) -> Array:
    """E[z | x_t] from a prediction: (α y − p x)/(α q − σ p)."""
    if kind == "eps":
        return pred
    if kind == "score":  # without α, which may be 0
        combination(process, t, kind)
        return -expand(process.sigma(t), x) * pred
    p, q = combination(process, t, kind)
    alpha, sigma = process.alpha(t), process.sigma(t)
    determinant = alpha * q - sigma * p
    return expand(alpha / determinant, x) * pred - expand(p / determinant, x) * x


def convert(
    pred: Array, x: Float[Array, "b *event"], t: ArrayLike, process: Process, source: Kind, target: Kind
) -> Float[Array, "b *event"]:
    """A prediction of kind `source` at x_t = x as one of kind `target`.

    Raises ValueError for an unknown kind, TypeError for the score of a noise that is not Gaussian.
    """
    if source == target:
        combination(process, t, target)
        return pred
    # Only what is needed is computed: the rest may be infinite at the ends of time.
    if target == "x0":
        return to_x0(pred, x, t, process, source)
    p, q = combination(process, t, target)
    eps = to_eps(pred, x, t, process, source)
    if target in ("eps", "score"):
        return expand(q, x) * eps
    return expand(p, x) * to_x0(pred, x, t, process, source) + expand(q, x) * eps


def eps_from_x0(process: Process, x: Float[Array, "b *event"], x_0: Array, t: ArrayLike) -> Array:
    """E[z | x_t = x] = (x − α E[x_0|x])/σ."""
    return (x - expand(process.alpha(t), x) * x_0) / expand(process.sigma(t), x)


def score(process: Process, denoise: Denoiser) -> Denoiser:
    """The score ∇ ln p_t as a function (x, t): Tweedie's (α E[x_0|x] − x)/σ².

    Raises TypeError when the noise is not Gaussian: the identity, and the use of the score, hold for it alone.
    """
    require_gaussian(process.noise, "the score")
    return bound(_score, process, denoise)


def _score(process: Process, denoise: Denoiser, x: Array, t: ArrayLike) -> Array:
    return -eps_from_x0(process, x, x0_alone(denoise(x, t), "the score"), t) / expand(process.sigma(t), x)


@pytree
class Preconditioning:
    """How a raw network becomes a denoiser.

    For kind "edm", with ρ = σ/α and σ_d the standard deviation of the data (Karras et al. 2022, table 1, written
    for any schedule):

        D = c_skip x/α + c_out F(c_in x/α, ln(σ/α)/4),   c_skip = σ_d²/(ρ² + σ_d²),   c_out = ρ σ_d/√(ρ² + σ_d²)

    Under Student-t noise ρ is σ/α times the noise's own scale as estimated from x (`noise_level`), so that where noise
    outweighs data, inputs and targets have unit size however far the tails reach. Where data outweigh noise, |x| does
    not reveal the scale of a draw, and the target is as heavy-tailed as the noise, up to σ_d α/σ. For df → ∞ this is
    the preconditioning of Karras et al. again.

    It is for networks that are trained by it: one that takes its input as it is, or another time, answers wrongly here
    and is wrapped by `diffusion.foreign_denoiser`, or has a kind below.

    Kind "residual" is a denoising autoencoder that is not told the noise level, with y = x/α:

        D = y + σ_d F(y/σ_d)

    Where F is the gradient of a scalar, so is D − y: of σ² ln p̂ at one noise level (Bigdeli et al. 2020,
    arXiv:2001.02728), of −σ_0² times an energy over many (Li et al. 2019, arXiv:1910.07762).

    Four more kinds are for networks that others have published (Karras et al. 2022, table 1; `diffusion.published`):

        kind      D                                  told
        vp        y − ρ F(y/√(1 + ρ²), c_noise)      999 t(ρ), t the time of VP(0.1, 20)
        iddpm     the same                           the nearest step of the cosine chain of 1,000, less 1
        ve        y + ρ F(y, c_noise)                ln(ρ/2)
        pfgmpp    that of "edm" with ρ = σ/α for Student-t noise too (Xu et al. 2023, arXiv:2302.04265, with σ = r/√D)

    For every other kind the network's answer is that prediction, its input is x/√(α² σ_d² + σ²) with this level as σ,
    and it is told the time on the scale 0..1000. Where α = 0, at the prior of a schedule that `ends_in_noise`, such as
    Cosine and RectifiedFlow, "edm" would be told an infinite number, "residual" divides by 0, and "eps" and "score" do
    not determine x_0: use "v", "velocity" or "x0".
    """

    kind: Literal["x0", "eps", "score", "v", "velocity", "edm", "residual", "vp", "ve", "iddpm", "pfgmpp"] = static(
        default="edm"
    )
    """What the network's output means; "edm" is the preconditioned residual of Karras et al., "residual" the plain one
    of a denoising autoencoder that is not told the noise level; vp, ve, iddpm and pfgmpp are for networks that
    `scorefield import` has brought."""
    sigma_data: float = 0.5
    """The standard deviation of the data, for images in [−1, 1] about 0.5."""

    def __post_init__(self) -> None:
        if isinstance(self.kind, str) and self.kind not in ("residual", *_OF_LEVELS, *get_args(Kind)):
            known = ", ".join(("edm", "residual", *get_args(Kind), *_OF_LEVELS[1:]))
            raise ValueError(f"kind = {self.kind!r} is not a prediction; choose {known}.")
        if is_concrete(self.sigma_data) and not self.sigma_data > 0:
            raise ValueError(f"sigma_data = {self.sigma_data}; the standard deviation of the data must be positive.")


def noise_level(process: Process, sigma_data: ArrayLike, x: Float[Array, "b *event"], t: ArrayLike) -> Array:
    """σ times the scale of the noise in x, as estimated from |x|: `noise.scale` of x/√(α² σ_d² + σ²).

    For Gaussian noise this is σ itself, of the shape of t; for others it is (b,).
    """
    sigma = process.sigma(t)
    if isinstance(process.noise, Gaussian):
        return sigma
    return sigma * process.noise.scale(x / expand(jnp.sqrt((process.alpha(t) * sigma_data) ** 2 + sigma**2), x))


def network_input(preconditioning: Preconditioning, process: Process, x: Array, t: Array) -> tuple[Array, Array]:
    """(c_in x, c_noise): what the network sees, for t of shape (b,)."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    level = noise_level(process, preconditioning.sigma_data, x, t)
    if preconditioning.kind == "residual":
        return x / expand(alpha * preconditioning.sigma_data, x), jnp.zeros_like(t, x.dtype)
    if preconditioning.kind in ("vp", "ve", "iddpm"):
        size = alpha if preconditioning.kind == "ve" else jnp.hypot(alpha, sigma)
        return x / expand(size, x), told(preconditioning.kind, sigma / alpha)
    if preconditioning.kind == "pfgmpp":
        level = sigma
    # c_in x/α of EDM, without dividing by α.
    scaled = x / expand(jnp.sqrt(alpha**2 * preconditioning.sigma_data**2 + level**2), x)
    if preconditioning.kind in ("edm", "pfgmpp"):
        return scaled, jnp.log(sigma / alpha) / 4
    if isinstance(process.schedule, InterpolatedBetas):
        t = process.schedule.network_time(t)
    return scaled, 1000 * t.astype(scaled.dtype) / process.t_max


def network_x0(preconditioning: Preconditioning, process: Process, raw: Array, x: Array, t: ArrayLike) -> Array:
    """E[x_0 | x_t = x] from the raw output of the network, shape (b, *event)."""
    if preconditioning.kind == "residual":
        return x / expand(process.alpha(t), x) + preconditioning.sigma_data * raw
    if preconditioning.kind in ("vp", "ve", "iddpm"):
        return to_x0(-raw if preconditioning.kind == "ve" else raw, x, t, process, "eps")
    if preconditioning.kind not in ("edm", "pfgmpp"):
        return to_x0(raw, x, t, process, preconditioning.kind)
    alpha, sigma_data = process.alpha(t), preconditioning.sigma_data
    sigma = noise_level(process, sigma_data, x, t) if preconditioning.kind == "edm" else process.sigma(t)
    total = alpha**2 * sigma_data**2 + sigma**2
    return expand(alpha * sigma_data**2 / total, x) * x + expand(sigma * sigma_data / jnp.sqrt(total), x) * raw


def network_denoiser(
    network: Callable[..., Array],
    params: Any,
    process: Process,
    preconditioning: Preconditioning,
    labels: Array | None = None,
) -> Denoiser:
    """The denoiser of a network `network(params, x, c_noise, labels) -> raw`, a Partial with the parameters as leaves.

    `labels` is (b,), the class of each sample, or None for no class.
    """
    return ShortPartial(_NetworkDenoiser(network), params, process, preconditioning, labels)


@dataclasses.dataclass(frozen=True)
class _NetworkDenoiser:
    """The static part of a network's denoiser: equal networks are equal functions, and are not compiled twice."""

    network: Callable[..., Array]

    def __call__(
        self,
        params: Any,
        process: Process,
        preconditioning: Preconditioning,
        labels: Array | None,
        x: Array,
        t: ArrayLike,
    ) -> Array:
        times = jnp.broadcast_to(jnp.asarray(t), (x.shape[0],))
        scaled, c_noise = network_input(preconditioning, process, x, times)
        raw = self.network(params, scaled, c_noise, labels)
        return network_x0(preconditioning, process, raw.astype(x.dtype), x, t)


def transfer(denoise: Denoiser, source: Process, target: Process) -> Denoiser:
    """A denoiser of `source` as a denoiser of `target`, another schedule with the same noise.

    Two processes see the same image at the same ratio σ/α, up to a factor:
    D_target(x, t) = D_source(c x, t') with λ_source(t') = λ_target(t) and c = (α + σ)_{t'}/(α + σ)_t.
    So a network trained on VP can be sampled in EDM's variables, where straight lines are good steps.
    Where the target is noisier than the source's prior, the denoiser at that prior is used. On the discrete chain t' is
    the nearest integer.
    Raises TypeError when the noises differ.
    """
    if jax.tree.structure(source.noise) != jax.tree.structure(target.noise) or _differ(source.noise, target.noise):
        raise TypeError(
            f"the noises differ ({type(source.noise).__name__} and {type(target.noise).__name__}); "
            "a denoiser moves between schedules of one noise only."
        )
    return bound(_transfer, denoise, source, target)


def _differ(first: Any, second: Any) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(is_concrete(a, b) and a != b for a, b in pairs)


def _transfer(denoise: Denoiser, source: Process, target: Process, x: Array, t: ArrayLike) -> Array:
    # A source that ends before pure noise is not asked beyond its end.
    log_snr = jnp.maximum(target.schedule.log_snr(t), source.schedule.log_snr(source.t_max))
    there = source.schedule.time_from_log_snr(log_snr)
    scale = (source.alpha(there) + source.sigma(there)) / (target.alpha(t) + target.sigma(t))
    return denoise(expand(scale, x) * x, there)
