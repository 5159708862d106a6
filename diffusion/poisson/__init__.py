"""Poisson fields: data as charges, their field, and the generative models that follow its lines (PFGM, PFGM++).

`field`, `potential` and `gauss` are electrostatics in N + D dimensions, exact for every law of `diffusion.oracles`;
`lines` is the ODE along the field, `prior` and `pfgm` are PFGM as published. PFGM++ has no code of its own:
`Process(EDM(), StudentT(df=D))`, or `poisson_process(D)`, works with every loss, sampler and likelihood.
"""

from diffusion.poisson.characteristics import characteristic_velocity, radial_velocity
from diffusion.poisson.field import Field, poisson_field, poisson_process, radius_from_sigma, sigma_from_radius
from diffusion.poisson.gauss import augmented_field, curl, divergence
from diffusion.poisson.lines import Lines, denoiser_flow, field_lines, law_flow, velocity_in_r
from diffusion.poisson.pfgm import (
    SmallZ,
    empirical_field,
    field_denoiser,
    network_flow,
    normalised_target,
    pfgm_terms,
)
from diffusion.poisson.plain import ball_field, plain_field, shell, shell_field
from diffusion.poisson.potential import log_potential, potential
from diffusion.poisson.prior import Perturbation, hyperplane_log_prob, hyperplane_sample, perturb_augmented

__all__ = [
    "Field",
    "Lines",
    "Perturbation",
    "SmallZ",
    "augmented_field",
    "ball_field",
    "characteristic_velocity",
    "curl",
    "denoiser_flow",
    "divergence",
    "empirical_field",
    "field_denoiser",
    "field_lines",
    "hyperplane_log_prob",
    "hyperplane_sample",
    "law_flow",
    "log_potential",
    "network_flow",
    "normalised_target",
    "perturb_augmented",
    "pfgm_terms",
    "plain_field",
    "poisson_field",
    "poisson_process",
    "potential",
    "radial_velocity",
    "radius_from_sigma",
    "shell",
    "shell_field",
    "sigma_from_radius",
    "velocity_in_r",
]
