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
    "Monomials",
    "continuity_residual",
    "coupled_paths",
    "density_residual",
    "flow_equation",
    "forward_equation",
    "generator",
    "gradient",
    "hotelling",
    "log_density_residual",
    "of_ode",
    "of_sde",
    "probability_flux",
    "probability_velocity",
    "reverse_equation",
    "score_residual",
    "weak_residual",
]
