"""Samplers: one idea a file, one loop for all of them."""

from samplers.adams import DEIS, IPNDM
from samplers.ancestral import Ancestral
from samplers.cfgpp import CFGPP, ConditionalPair, conditional_pair
from samplers.ddim import DDIM
from samplers.dpm_solver import DPMSolverMultistep, SDEDPMSolver
from samplers.grids import (
    GRIDS,
    cosine,
    karras,
    leading,
    linspace,
    quadratic,
    trailing,
    uniform_log_snr,
    uniform_sigma,
    uniform_time,
)
from samplers.guidance import autoguidance, classifier_free_guidance, classifier_guidance, interval_guidance
from samplers.inverse import (
    Measurement,
    RePaint,
    Replacement,
    dps_guidance,
    isotropic_covariance,
    pseudoinverse_guidance,
    tweedie_covariance,
)
from samplers.inversion import invert
from samplers.langevin import AnnealedLangevin, PredictorCorrector, langevin_step, mala_step
from samplers.ode import RK4, Euler, Heun
from samplers.sample import Sampled, Sampler, sample
from samplers.sde import EulerMaruyama, StochasticHeun
from samplers.singlestep import DPMSolverSinglestep, Midpoint
from samplers.transforms import clipped, dynamically_thresholded
from samplers.unipc import UniPC

__all__ = [
    "CFGPP",
    "DDIM",
    "DEIS",
    "GRIDS",
    "IPNDM",
    "RK4",
    "Ancestral",
    "AnnealedLangevin",
    "ConditionalPair",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Measurement",
    "Midpoint",
    "PredictorCorrector",
    "RePaint",
    "Replacement",
    "SDEDPMSolver",
    "Sampled",
    "Sampler",
    "StochasticHeun",
    "UniPC",
    "autoguidance",
    "classifier_free_guidance",
    "classifier_guidance",
    "clipped",
    "conditional_pair",
    "cosine",
    "dps_guidance",
    "dynamically_thresholded",
    "interval_guidance",
    "invert",
    "isotropic_covariance",
    "karras",
    "langevin_step",
    "leading",
    "linspace",
    "mala_step",
    "pseudoinverse_guidance",
    "quadratic",
    "sample",
    "trailing",
    "tweedie_covariance",
    "uniform_log_snr",
    "uniform_sigma",
    "uniform_time",
]
