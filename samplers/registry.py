"""Every sampler by name: what it is called on the command line, and where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.process import Process
from samplers.adams import DEIS, IPNDM
from samplers.ancestral import Ancestral
from samplers.cfgpp import CFGPP
from samplers.ddim import DDIM
from samplers.dpm_solver import DPMSolverMultistep, SDEDPMSolver
from samplers.er_sde import ERSDE
from samplers.flow_map import FlowMapSteps
from samplers.grids import GRIDS, Grid
from samplers.langevin import AnnealedLangevin, PredictorCorrector
from samplers.ode import RK4, Euler, Heun
from samplers.restart import Restart
from samplers.sample import Sampler
from samplers.sde import EulerMaruyama, StochasticHeun
from samplers.singlestep import DPMSolverSinglestep, Midpoint
from samplers.unipc import UniPC


@dataclass(frozen=True)
class Entry:
    """A sampler's place in the catalogue."""

    make: Callable[..., Sampler]
    """The constructor, whose keyword arguments are the options."""
    source: str
    """The paper that the sampler comes from."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options that the name stands for, beyond the constructor's defaults."""

    def default(self) -> Sampler:
        """The sampler that the name stands for without further options."""
        return self.make(**self.options)


SAMPLERS: dict[str, Entry] = {
    "ancestral": Entry(Ancestral, "Ho et al. 2020, arXiv:2006.11239, algorithm 2"),
    "ddim": Entry(DDIM, "Song et al. 2021, arXiv:2010.02502, eq. 12"),
    "euler": Entry(Euler, "Song et al. 2021, arXiv:2011.13456, eq. 13"),
    "heun": Entry(Heun, "Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2"),
    "euler-maruyama": Entry(EulerMaruyama, "Song et al. 2021, arXiv:2011.13456, eq. 6"),
    "rk4": Entry(RK4, "Kutta 1901, on the field of Song et al. 2021, arXiv:2011.13456, eq. 13"),
    "midpoint": Entry(Midpoint, "Lu et al. 2022, arXiv:2206.00927, algorithm 1 (DPM-Solver-2, KDPM2)"),
    "dpm-singlestep": Entry(DPMSolverSinglestep, "Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095 (2S, 3S)"),
    "dpmpp-2m": Entry(DPMSolverMultistep, "Lu et al. 2022, arXiv:2211.01095, algorithm 2"),
    "dpmpp-3m": Entry(DPMSolverMultistep, "Lu et al. 2022, arXiv:2211.01095, coefficients exact", {"order": 3}),
    "deis": Entry(DEIS, "Zhang & Chen 2023, arXiv:2204.13902, eq. 15"),
    "ipndm": Entry(IPNDM, "Zhang & Chen 2023, arXiv:2204.13902, section 3.3"),
    "unipc": Entry(UniPC, "Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8"),
    "stochastic-heun": Entry(StochasticHeun, "Kloeden & Platen 1992, section 15.1, with exact linear part"),
    "predictor-corrector": Entry(PredictorCorrector, "Song et al. 2021, arXiv:2011.13456, algorithms 2 and 4"),
    "annealed-langevin": Entry(AnnealedLangevin, "Song & Ermon 2019, arXiv:1907.05600, algorithm 1"),
    "cfgpp": Entry(CFGPP, "Chung et al. 2024, arXiv:2406.08070, algorithm 2; for a model with classes"),
    "restart": Entry(Restart, "Xu et al. 2023, arXiv:2306.14878, algorithm 1"),
    "er-sde": Entry(ERSDE, "Cui et al. 2023, arXiv:2309.06169, ER-SDE-Solver-1 to -3"),
    "sde-dpmpp": Entry(SDEDPMSolver, "Lu et al. 2022, arXiv:2211.01095, appendix A"),
    "flow-map": Entry(FlowMapSteps, "Kim et al. 2024, arXiv:2310.02279; for a flow map"),
}


def follows_flow(sampler: Sampler) -> bool:
    """Whether a sampler's steps are those of a solver of the probability flow, along the answers of one denoiser."""
    return not (sampler.stochastic or sampler.takes_pair or sampler.takes_both_times)


def default_grid(process: Process, sampler: Sampler) -> str:
    """The usual grid for this sampler on this process: Karras's where σ/α is finite, else even steps in time.

    Samplers made for the discrete chain visit it in even strides.
    """
    of_chains = process.schedule.discrete and (sampler.stochastic or isinstance(sampler, DDIM))
    return "uniform-time" if of_chains or process.schedule.ends_in_noise else "karras"


def make_grid(process: Process, sampler: Sampler, name: str, steps: int) -> Grid:
    """The grid of this name, or the usual one for "auto"; it starts just below a prior where the sampler cannot start.

    Raises ValueError for an unknown name, and as the grid itself does.
    """
    name = default_grid(process, sampler) if name == "auto" else name
    if name not in GRIDS:
        raise ValueError(f"grid = {name!r}; choose auto, {', '.join(GRIDS)}.")
    if isinstance(sampler, EulerMaruyama) and name in ("uniform-time", "quadratic") and process.schedule.ends_in_noise:
        return GRIDS[name](process, steps, t_start=0.999 * float(np.asarray(process.t_max)))
    return GRIDS[name](process, steps)
