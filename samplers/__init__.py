"""Samplers: one idea a file, one loop for all of them."""

from samplers.adams import DEIS, IPNDM
from samplers.ancestral import Ancestral
from samplers.ddim import DDIM
from samplers.dpm_solver import DPMSolverMultistep, SDEDPMSolver
from samplers.grids import GRIDS, karras, quadratic, uniform_log_snr, uniform_time
from samplers.guidance import classifier_free_guidance
from samplers.ode import RK4, Euler, Heun
from samplers.sample import Sampled, Sampler, sample
from samplers.sde import EulerMaruyama
from samplers.singlestep import DPMSolverSinglestep, Midpoint
from samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "GRIDS",
    "IPNDM",
    "RK4",
    "Ancestral",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Midpoint",
    "SDEDPMSolver",
    "Sampled",
    "Sampler",
    "UniPC",
    "classifier_free_guidance",
    "karras",
    "quadratic",
    "sample",
    "uniform_log_snr",
    "uniform_time",
]
