"""Samplers: one idea to a file, one loop for all of them."""

from samplers.adams import DEIS, IPNDM
from samplers.ancestral import Ancestral
from samplers.bespoke import Bespoke
from samplers.bespoke_fit import BespokeSolver, bespoke_solver
from samplers.cfgpp import CFGPP, ConditionalPair, conditional_pair
from samplers.ddim import DDIM
from samplers.dpm_solver import DPMSolverMultistep, SDEDPMSolver
from samplers.energy import EnergySampled, cooling, sample_energy
from samplers.er_sde import ERSDE
from samplers.flow_map import FlowMapSteps
from samplers.grid_fit import OptimisedGrid, optimised_grid
from samplers.grids import (
    GRIDS,
    beta_quantiles,
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
from samplers.guidance import (
    autoguidance,
    classifier_free_guidance,
    classifier_guidance,
    interval_guidance,
    rescaled_guidance,
)
from samplers.hmc import hmc_step, leapfrog
from samplers.inpainting import RePaint, Replacement
from samplers.inverse import (
    Measurement,
    dps_guidance,
    isotropic_covariance,
    pseudoinverse_guidance,
    tweedie_covariance,
)
from samplers.inversion import invert
from samplers.langevin import AnnealedLangevin, PredictorCorrector, langevin_step, mala_step
from samplers.ode import RK4, Euler, Heun
from samplers.operators import Operator, Seen, Separable, box_downsampling, gaussian_blur, pooled, separable
from samplers.parallel import ParallelSampled, sample_parallel
from samplers.restart import Interval, Restart
from samplers.sample import Sampled, Sampler, sample
from samplers.sde import EulerMaruyama, StochasticHeun
from samplers.sdedit import noised_start
from samplers.singlestep import DPMSolverSinglestep, Midpoint
from samplers.transforms import clipped, dynamically_thresholded
from samplers.unipc import UniPC

__all__ = [
    "CFGPP",
    "DDIM",
    "DEIS",
    "ERSDE",
    "GRIDS",
    "IPNDM",
    "RK4",
    "Ancestral",
    "AnnealedLangevin",
    "Bespoke",
    "BespokeSolver",
    "ConditionalPair",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "EnergySampled",
    "Euler",
    "EulerMaruyama",
    "FlowMapSteps",
    "Heun",
    "Interval",
    "Measurement",
    "Midpoint",
    "Operator",
    "OptimisedGrid",
    "ParallelSampled",
    "PredictorCorrector",
    "RePaint",
    "Replacement",
    "Restart",
    "SDEDPMSolver",
    "Sampled",
    "Sampler",
    "Seen",
    "Separable",
    "StochasticHeun",
    "UniPC",
    "autoguidance",
    "bespoke_solver",
    "beta_quantiles",
    "box_downsampling",
    "classifier_free_guidance",
    "classifier_guidance",
    "clipped",
    "conditional_pair",
    "cooling",
    "cosine",
    "dps_guidance",
    "dynamically_thresholded",
    "gaussian_blur",
    "hmc_step",
    "interval_guidance",
    "invert",
    "isotropic_covariance",
    "karras",
    "langevin_step",
    "leading",
    "leapfrog",
    "linspace",
    "mala_step",
    "noised_start",
    "optimised_grid",
    "pooled",
    "pseudoinverse_guidance",
    "quadratic",
    "rescaled_guidance",
    "sample",
    "sample_energy",
    "sample_parallel",
    "separable",
    "trailing",
    "tweedie_covariance",
    "uniform_log_snr",
    "uniform_sigma",
    "uniform_time",
]
