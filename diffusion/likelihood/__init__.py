"""Log-likelihoods by the instantaneous change of variables, and the latents of the same ODE.

`log_likelihood` is in `density`; how it is integrated in `solvers`, with which divergence in `divergence`. Latents are
in `latents`, 8-bit data in `dequantisation`. Everything is in nats; `diffusion.ddpm.decoders.bits_per_dim` makes bits.
"""

from diffusion.likelihood.density import Likelihood, log_likelihood
from diffusion.likelihood.dequantisation import (
    Dequantised,
    dequantise_uniform,
    dequantise_variational,
    discrete_log_prob,
    truncated_normal,
)
from diffusion.likelihood.divergence import Divergence, DivergenceEstimate, Exact, Hutchinson, HutchPlusPlus, divergence
from diffusion.likelihood.latents import Transported, decode, encode, slerp
from diffusion.likelihood.solvers import Adaptive, FixedStep, Solver, even_grid

__all__ = [
    "Adaptive",
    "Dequantised",
    "Divergence",
    "DivergenceEstimate",
    "Exact",
    "FixedStep",
    "HutchPlusPlus",
    "Hutchinson",
    "Likelihood",
    "Solver",
    "Transported",
    "decode",
    "dequantise_uniform",
    "dequantise_variational",
    "discrete_log_prob",
    "divergence",
    "encode",
    "even_grid",
    "log_likelihood",
    "slerp",
    "truncated_normal",
]
