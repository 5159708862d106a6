"""The Fokker-Planck equation and the continuity equation as functions: residuals in four forms, fluxes, a solver.

`equation` says which one; `residuals` and `weak` put a density, a score or samples into it; `flux`, `grid_solver` and
`moments` are what it implies, found in other ways.
"""

from diffusion.fokker_planck.equation import (
    FokkerPlanck,
    of_ode,
    of_sde,
    probability_flux,
    probability_velocity,
)
from diffusion.fokker_planck.flux import (
    base_flux,
    base_flux_estimate,
    box_flux,
    face_flux,
    mass,
    sphere_flux,
    sphere_flux_estimate,
)
from diffusion.fokker_planck.grid_solver import GridSolution, centres, solve
from diffusion.fokker_planck.moments import linear_moments
from diffusion.fokker_planck.residuals import (
    continuity_residual,
    density_residual,
    flow_equation,
    forward_equation,
    gradient,
    log_density_residual,
    reverse_equation,
    score_residual,
)
from diffusion.fokker_planck.weak import (
    Cosines,
    GaussianBumps,
    Monomials,
    coupled_paths,
    generator,
    hotelling,
    weak_residual,
)

__all__ = [
    "Cosines",
    "FokkerPlanck",
    "GaussianBumps",
    "GridSolution",
    "Monomials",
    "base_flux",
    "base_flux_estimate",
    "box_flux",
    "centres",
    "continuity_residual",
    "coupled_paths",
    "density_residual",
    "face_flux",
    "flow_equation",
    "forward_equation",
    "generator",
    "gradient",
    "hotelling",
    "linear_moments",
    "log_density_residual",
    "mass",
    "of_ode",
    "of_sde",
    "probability_flux",
    "probability_velocity",
    "reverse_equation",
    "score_residual",
    "solve",
    "sphere_flux",
    "sphere_flux_estimate",
    "weak_residual",
]
