"""The functional core: laws, processes and their equations as pure functions on arrays."""

import jaxlib.version

from diffusion.betas import Betas
from diffusion.distributions import Normal, kl_divergence
from diffusion.dynamics import SDE, forward_sde, reverse_sde, velocity
from diffusion.foreign import foreign_denoiser
from diffusion.interpolated import InterpolatedBetas, continuous
from diffusion.moved import forward
from diffusion.noises import Gaussian, Noise, StudentT
from diffusion.prediction import (
    Denoiser,
    Preconditioning,
    convert,
    eps_from_x0,
    network_denoiser,
    score,
    transfer,
)
from diffusion.process import Process, perturb, posterior, prior_log_prob, prior_sample, transition
from diffusion.schedules import EDM, VE, VP, Cosine, RectifiedFlow, Schedule, SubVP
from diffusion.shifted import Shifted
from diffusion.soundness import warn_if_unsound

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "Betas",
    "Cosine",
    "Denoiser",
    "Gaussian",
    "InterpolatedBetas",
    "Noise",
    "Normal",
    "Preconditioning",
    "Process",
    "RectifiedFlow",
    "Schedule",
    "Shifted",
    "StudentT",
    "SubVP",
    "continuous",
    "convert",
    "eps_from_x0",
    "foreign_denoiser",
    "forward_sde",
    "kl_divergence",
    "network_denoiser",
    "perturb",
    "posterior",
    "prior_log_prob",
    "prior_sample",
    "reverse_sde",
    "score",
    "transfer",
    "transition",
    "velocity",
]

warn_if_unsound(jaxlib.version.__version__)

# Modules that have moved, by their old names.
forward(
    {
        "diffusion.analytic_variance": ("diffusion.ddpm.analytic_variance",),
        "diffusion.chains": ("diffusion.ddpm.chains",),
        "diffusion.ddpm_losses": ("diffusion.ddpm.losses",),
        "diffusion.decoders": ("diffusion.ddpm.decoders",),
        "diffusion.reverse_steps": ("diffusion.ddpm.reverse_steps",),
        "diffusion.time_distributions": ("diffusion.score_matching.times",),
        "diffusion.weightings": ("diffusion.score_matching.weightings",),
    }
)
