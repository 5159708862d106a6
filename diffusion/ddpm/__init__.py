"""DDPM as an autoregressive variational auto-encoder: chains, reverse steps, decoders, and the ELBO between them."""

from diffusion.ddpm.analytic_variance import covariance_bound, covariance_samples, estimate_optimal_variance
from diffusion.ddpm.chains import EncoderChain, GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder, GaussianDecoder, bits_per_dim
from diffusion.ddpm.elbo import (
    ElboTerms,
    JointTerms,
    elbo_estimate,
    elbo_term,
    elbo_terms,
    joint_kl,
    log_ratio,
    prior_kl,
    step_probabilities,
    term_from_denoised,
)
from diffusion.ddpm.losses import hybrid_loss, merge_noises, simplified_loss, two_noise_loss
from diffusion.ddpm.reverse_steps import (
    FixedLarge,
    FixedSmall,
    Learned,
    Optimal,
    ReverseVariance,
    ddim_posterior,
    learned_denoiser,
    mean_denoiser,
    optimal_variance,
    step,
)

__all__ = [
    "DiscretisedDecoder",
    "ElboTerms",
    "EncoderChain",
    "FixedLarge",
    "FixedSmall",
    "GaussianDecoder",
    "GeneratorChain",
    "JointTerms",
    "Learned",
    "Optimal",
    "ReverseVariance",
    "bits_per_dim",
    "covariance_bound",
    "covariance_samples",
    "ddim_posterior",
    "elbo_estimate",
    "elbo_term",
    "elbo_terms",
    "estimate_optimal_variance",
    "hybrid_loss",
    "joint_kl",
    "learned_denoiser",
    "log_ratio",
    "mean_denoiser",
    "merge_noises",
    "optimal_variance",
    "prior_kl",
    "simplified_loss",
    "step",
    "step_probabilities",
    "term_from_denoised",
    "two_noise_loss",
]
