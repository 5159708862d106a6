"""From a trained model to its energy E = −ψ/σ_0².

ψ/σ_0² is ln p̂ up to a constant, p̂ the law of images under noise of σ_0, if that is the only level that ψ was trained
at. One ψ for many levels belongs to no such law: the least loss is reached by a mean over the levels
(`diffusion.energy.multiscale`), which is near ∇ ln p̂ where the lowest level outweighs the others.

For one level, the mean energy over noisy copies of an image x is the cross-entropy of N(x, σ_0²I) and p̂, and the image
itself lies where p̂ is higher than on the bulk of its mass. The energy of the image itself is the better score all the
same: two digits blended into one score above a digit with probability 0.89 at σ_0 = 0.1 and 0.82 at 0.3, but with 0.86
and 0.72 by 64 noisy copies; for other changes of digits the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from diffusion.energy.residual import Potential
from diffusion.noises import Gaussian
from diffusion.score_matching.times import LogUniformSigma
from experiments.config.nodes import Generator
from experiments.errors import UsageError
from experiments.runs.model import Model


@dataclass(frozen=True)
class Energy:
    """A potential ψ, D(y) = y + ∇ψ(y), and the noise levels that it was trained at."""

    psi: Potential
    """ψ, a Partial with the parameters as leaves."""
    sigma: float
    """The smallest level σ_0, in the units of the data; if it is the only one, e^{ψ/σ_0²} ∝ p * N(0, σ_0²I)."""
    high: float
    """The largest level, in the units of the data."""
    sigma_data: float
    """The approximate standard deviation of the data."""
    event_shape: tuple[int, ...]


def energy_of(model: Model, flag: str = "--run") -> Energy:
    """The energy of a conservative denoiser that is not told the noise level, or of a generator's data estimator.

    Raises UsageError, naming `flag` and the checkpoint, for every other model.
    """
    from diffusion.networks.conservative import Conservative
    from experiments.training.generator import Game, data_potential
    from experiments.training.potential import potential

    config, network, shape = model.config, model.network, model.event_shape
    if isinstance(config.objective, Generator) and isinstance(network, Game):
        sigma = config.objective.sigma
        psi = data_potential(network, model.params, config)
        return Energy(psi, sigma, sigma, config.preconditioning.sigma_data, shape)
    if not (config.conservative and config.preconditioning.kind == "residual"):
        raise UsageError(
            f"{flag} {model.path} has no energy: its denoiser is no gradient of one scalar for all noise levels; "
            "train with --conservative --preconditioning.kind residual, such as --preset digits-mdsm."
        )
    if not (isinstance(config.times, LogUniformSigma) and isinstance(config.noise, Gaussian)):
        raise UsageError(
            f"{flag} {model.path} has no smallest level σ_0 of Gaussian noise that its energy is of; "
            "train with --times log-uniform and --noise gaussian, such as --preset digits-mdsm."
        )
    if config.conditional and config.label_dropout == 0:
        raise UsageError(
            f"{flag} {model.path} has no energy for images whose class is not told, for it was trained with "
            "--label-dropout 0; train with --no-conditional, or with a --label-dropout above 0."
        )
    sigma_data = config.preconditioning.sigma_data
    psi = potential(cast(Conservative, network), model.params, sigma_data)
    return Energy(psi, float(config.times.low), float(config.times.high), sigma_data, shape)
