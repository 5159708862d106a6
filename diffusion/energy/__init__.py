"""Densities and energies from denoising autoencoders: one scalar function, whose slope is what a denoiser adds.

A **potential** is a function ψ: y (b, *event) -> (b,). Its residual denoising autoencoder is r(y) = y + ∇ψ(y), in
`residual`. Trained at one noise level σ it is the denoising density estimator of `density_estimator`,
ψ = σ² ln p̂ + C with p̂ = p * N(0, σ²I); trained at many, with a reference level σ_0, it is the energy
E = −ψ/σ_0² of `multiscale`. `generator` trains a sampler by two of them, `curl` says whether a field is a gradient at
all, `uses` compares densities. `samplers.energy` draws samples.
"""

from diffusion.energy.curl import Asymmetry, asymmetry
from diffusion.energy.density_estimator import (
    LogNormaliser,
    density_estimator_loss,
    log_density,
    log_normaliser,
)
from diffusion.energy.generator import frozen_gap, generator_loss
from diffusion.energy.multiscale import geometric_levels, multiscale_denoiser, multiscale_loss
from diffusion.energy.residual import (
    Potential,
    energy,
    exact_potential,
    potential_gradient,
    residual_denoiser,
    smoothed_score,
)
from diffusion.energy.uses import anomaly_score, log_density_ratio

__all__ = [
    "Asymmetry",
    "LogNormaliser",
    "Potential",
    "anomaly_score",
    "asymmetry",
    "density_estimator_loss",
    "energy",
    "exact_potential",
    "frozen_gap",
    "generator_loss",
    "geometric_levels",
    "log_density",
    "log_density_ratio",
    "log_normaliser",
    "multiscale_denoiser",
    "multiscale_loss",
    "potential_gradient",
    "residual_denoiser",
    "smoothed_score",
]
