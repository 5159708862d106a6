"""Samplers: one idea a file, one loop for all of them."""

from samplers.ancestral import Ancestral
from samplers.ddim import DDIM
from samplers.exponential import DPMSolverMultistep
from samplers.grids import GRIDS, karras, quadratic, uniform_log_snr, uniform_time
from samplers.guidance import classifier_free_guidance
from samplers.ode import Euler, Heun
from samplers.sample import Sampled, Sampler, sample
from samplers.sde import EulerMaruyama

__all__ = [
    "DDIM",
    "GRIDS",
    "Ancestral",
    "DPMSolverMultistep",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Sampled",
    "Sampler",
    "classifier_free_guidance",
    "karras",
    "quadratic",
    "sample",
    "uniform_log_snr",
    "uniform_time",
]
