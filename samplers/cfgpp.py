"""CFG++: classifier-free guidance that renoises with the unconditional model's noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from diffusion.keys import Draws
from diffusion.prediction import Denoiser, eps_from_x0, x0_alone
from diffusion.process import Process
from diffusion.pytree import as_partial, is_concrete, pytree
from samplers.sample import Sampler


@pytree
class ConditionalPair:
    """The two answers of a model, with its condition and without."""

    conditional: Float[Array, "b *event"]
    """x̂_c, the answer with the condition."""
    unconditional: Float[Array, "b *event"]
    """x̂_∅, the answer without it."""


def conditional_pair(conditional: Denoiser, unconditional: Denoiser) -> Callable[[Array, ArrayLike], ConditionalPair]:
    """(x, t) -> ConditionalPair: what `CFGPP` takes in place of a denoiser. Two network evaluations a call.

    Clip or threshold the two denoisers, not the pair. Either raises TypeError when it learns a variance.
    """
    return Partial(_pair, as_partial(conditional), as_partial(unconditional))


def _pair(conditional: Denoiser, unconditional: Denoiser, x: Array, t: ArrayLike) -> ConditionalPair:
    answers = (x0_alone(denoise(x, t), "CFGPP") for denoise in (conditional, unconditional))
    return ConditionalPair(*answers)


@pytree
class CFGPP(Sampler):
    """x_s = α_s x̂_λ + σ_s ε̂_∅, with x̂_λ = x̂_∅ + λ (x̂_c − x̂_∅) and ε̂_∅ = (x_t − α_t x̂_∅)/σ_t.

    (Chung et al. 2024, arXiv:2406.08070, algorithm 2.) DDIM for any noise, but ε̂ stays the unconditional model's: λ
    interpolates within [0, 1], where plain guidance extrapolates. The step is DDIM's under classifier-free guidance
    of the scale λ α_s/(α_s − α_t σ_s/σ_t), about λ over the step in ln(α/σ): λ acts once a step, so twice the steps
    guide twice as much, and λ > 0 has no limit of small steps.

    The denoiser is a `conditional_pair`; anything else is a TypeError.
    """

    scale: float = 0.6
    """λ: 0 is unconditional DDIM, 1 lands on the conditional model's x̂_0."""

    def __post_init__(self) -> None:
        if is_concrete(self.scale) and not 0 <= self.scale <= 1:
            raise ValueError(
                f"scale = {self.scale}; CFG++ interpolates, so give λ in [0, 1]. A scale w of classifier-free guidance "
                "is another thing: pass it to classifier_free_guidance and sample with DDIM()."
            )

    order: ClassVar[float] = 1
    """The order at λ = 0."""

    @property
    def takes_pair(self) -> bool:
        """True."""
        return True

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """α_s x̂_λ + σ_s ε̂_∅."""
        pair: Any = denoise(x, t)
        if not isinstance(pair, ConditionalPair):
            raise TypeError(
                f"CFGPP() needs a denoiser that answers with a ConditionalPair, and this one's answer is "
                f"{type(pair).__name__}; build it with conditional_pair(conditional, unconditional)."
            )
        free = pair.unconditional
        eps = eps_from_x0(process, x, free, t)
        return process.alpha(s) * (free + self.scale * (pair.conditional - free)) + process.sigma(s) * eps, carry
