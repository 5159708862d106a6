"""The ODE samplers of other libraries, on the same problem: diffusers, k-diffusion, azula.

Each is run by its own code and on its own grids from σ_max to σ_min (Karras's with ρ = 7, even steps in ln σ, and
azula's schedules), with every order and every option for the last steps that changes its result. It ends at σ = 0 as
it does itself; one that stops at σ_min is given the denoiser's output there, which costs the same call as everybody's
last step. How often the denoiser is called is counted, and `nfe` is a limit.

Torch computes in float64. diffusers keeps its σ in float32 whatever it is given, and its DPM-Solver++ and Euler the
states too; that is some 1e-6 here, far below their errors.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.comparison.problems import SIGMA_MAX, SIGMA_MIN, Counted

Run = Callable[[Counted, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Other:
    """A sampler of another library on one of its grids."""

    origin: str
    sampler: str
    grid: str
    run: Run
    """(denoiser, x at σ_max, the most calls) -> x at σ = 0."""


def others() -> tuple[list[Other], list[str]]:
    """All samplers of the libraries that are installed, and a line for each library that is not."""
    found, missing = [], []
    for library, samplers in LIBRARIES.items():
        try:
            found += samplers()
        except ImportError as error:
            missing.append(f"{library} is left out: {error}")
    return found, missing


def _torch(default: str = "float64") -> Any:
    """torch, making tensors of this type where a library does not say which."""
    torch = importlib.import_module("torch")
    torch.set_default_dtype(getattr(torch, default))
    torch.set_num_threads(1)
    return torch


def _ask(denoise: Counted, x: Any, sigma: Any) -> Any:
    """The denoiser for torch tensors."""
    return importlib.import_module("torch").from_numpy(denoise(x.numpy(), float(sigma)))


def _k_diffusion() -> Iterator[Other]:
    sampling = _k_sampling()
    karras, even = sampling.get_sigmas_karras, sampling.get_sigmas_exponential
    silent = {"eta": 0.0, "noise_sampler": lambda *_: 0.0}
    for order in (2, 3, 4):
        yield from _on_sigmas(sampling.sample_lms, f"lms({order})", 1, karras, even, order=order)
    for name, calls, options in (
        ("euler", 1, {}),
        ("heun", 2, {}),
        ("dpm_2", 2, {}),
        ("dpmpp_2s_ancestral", 2, silent),
        ("dpmpp_sde", 2, silent),
        ("dpmpp_2m", 1, {}),
        ("dpmpp_2m_sde", 1, silent),
        ("dpmpp_2m_sde", 1, {**silent, "solver_type": "heun"}),
        ("dpmpp_3m_sde", 1, silent),
    ):
        label = name + (", η = 0" if options else "") + (", heun" if "solver_type" in options else "")
        yield from _on_sigmas(getattr(sampling, f"sample_{name}"), label, calls, karras, even, **options)

    def fast(denoise: Counted, x: np.ndarray, nfe: int) -> np.ndarray:
        model = functools.partial(_k_model, denoise)
        start = _torch().from_numpy(x)
        end = sampling.sample_dpm_fast(model, start, SIGMA_MIN, SIGMA_MAX, nfe - 1, disable=True)
        return denoise(end.numpy(), SIGMA_MIN)

    yield Other("k-diffusion", "dpm_fast", "exponential", fast)


def _k_sampling() -> Any:
    """k-diffusion's samplers alone: its package imports its training code, which wants NumPy 1 where jax wants 2."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("No module named 'k_diffusion'")
    package = types.ModuleType("k_diffusion")
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
    sys.modules.setdefault("k_diffusion", package)
    return importlib.import_module("k_diffusion.sampling")


def _k_model(denoise: Counted, x: Any, sigma: Any) -> Any:
    return _ask(denoise, x, sigma[0])


def _on_sigmas(sampler: Any, label: str, calls: int, karras: Any, even: Any, **options: Any) -> Iterator[Other]:
    """A function of k-diffusion with `calls` calls a step, and one for the step onto σ = 0."""

    def run(grid: Any, denoise: Counted, x: np.ndarray, nfe: int) -> np.ndarray:
        sigmas = grid((nfe - 1) // calls + 1, SIGMA_MIN, SIGMA_MAX)
        model = functools.partial(_k_model, denoise)
        return sampler(model, _torch().from_numpy(x), sigmas, disable=True, **options).numpy()

    for name, grid in (("karras", karras), ("exponential", even)):
        yield Other("k-diffusion", label, name, functools.partial(run, grid))


def _diffusers() -> Iterator[Other]:
    diffusers = importlib.import_module("diffusers")
    whole: dict[str, Any] = {"lower_order_final": False}
    for order in (2, 3):
        for name in ("DPMSolverMultistep", "EDMDPMSolverMultistep"):
            yield from _scheduled(diffusers, name, {"solver_order": order})
        yield from _scheduled(diffusers, "DPMSolverSinglestep", {"solver_order": order, "lower_order_final": True})
    yield from _scheduled(diffusers, "DPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"})
    yield from _scheduled(diffusers, "DPMSolverMultistep", {"solver_order": 3, **whole})
    for order, final in ((1, {}), (2, {}), (2, whole), (3, {}), (3, whole)):
        yield from _scheduled(diffusers, "DEISMultistep", {"solver_order": order, **final})
        for kind in ("bh1", "bh2"):  # both fail in a step onto 0, where h is infinite, but for bh2 at order 1
            end = "zero" if kind == "bh2" and not final else "sigma_min"
            options = {"solver_order": order, "solver_type": kind, **final, "final_sigmas_type": end}
            yield from _scheduled(diffusers, "UniPCMultistep", options)
        options = {"predictor_order": order, "corrector_order": order, **final}
        yield from _scheduled(diffusers, "SASolver", {**options, "tau_func": _no_noise})
    for name in ("EulerDiscrete", "EDMEuler", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete"):
        yield from _scheduled(diffusers, name, {})


def _no_noise(_: Any) -> float:
    return 0.0


IN_SIGMA = ("EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete")
"""Those whose state is x_0 + σ z, as EDM's is; that of the others is divided by √(1 + σ²)."""


def _scheduled(diffusers: Any, name: str, options: dict[str, Any]) -> Iterator[Other]:
    """A scheduler of diffusers on both of its grids."""
    silent = ("tau_func", "lower_order_final", "final_sigmas_type")
    shown = [str(value) for key, value in options.items() if key not in silent]
    shown += [] if options.get("lower_order_final", True) else ["not lower_order_final"]
    label = name + (f"({', '.join(shown)})" if shown else "")
    for grid in ("karras", "exponential"):
        made = functools.partial(_scheduler, diffusers, name, grid, options)
        yield Other("diffusers", label, grid, functools.partial(_by_scheduler, made, name))


def _scheduler(diffusers: Any, name: str, grid: str, options: dict[str, Any]) -> Any:
    make = getattr(diffusers, f"{name}Scheduler")
    if name.startswith("EDM"):
        return make(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_schedule=grid, **options)
    # A chain from σ_min to σ_max; its own betas are in float32, so its ᾱ is given as well.
    kept = 1 / (1 + np.geomspace(SIGMA_MIN, SIGMA_MAX, 1000) ** 2)
    betas = 1 - kept / np.concatenate([[1.0], kept[:-1]])
    predicted = "epsilon" if name == "KDPM2Discrete" else "sample"
    made = make(trained_betas=betas, prediction_type=predicted, **{f"use_{grid}_sigmas": True}, **options)
    made.alphas_cumprod = importlib.import_module("torch").from_numpy(kept)
    return made


def _by_scheduler(make: Callable[[], Any], name: str, denoise: Counted, x: np.ndarray, nfe: int) -> np.ndarray:
    """x at σ = 0 by the loop that diffusers' pipelines run, with the exact denoiser in the model's place."""
    torch = _torch("float32")  # UniPC mixes it with that of its σ
    scheduler = make()
    two_calls = name in ("HeunDiscrete", "KDPM2Discrete")
    scheduler.set_timesteps((nfe + 1) // 2 if two_calls else nfe)
    scheduler.set_begin_index(0)
    scaled = not name.startswith("EDM") and name not in IN_SIGMA
    y = torch.from_numpy(x / np.sqrt(1 + SIGMA_MAX**2) if scaled else x)
    for t in scheduler.timesteps:
        scheduler.scale_model_input(y, t)
        i = scheduler.step_index
        sigma = float(scheduler.sigmas[0 if i is None else i])
        if name == "KDPM2Discrete" and not scheduler.state_in_first_order:
            sigma = float(scheduler.sigmas_interpol[i])
        full = y * np.sqrt(1 + sigma**2) if scaled else y
        x_0 = _ask(denoise, full, sigma)
        if i == len(scheduler.timesteps) - 1 and scheduler.sigmas[-1] > 0:
            return x_0.numpy()  # in the place of an empty step from σ_min to σ_min
        answer = (full - x_0) / sigma if name == "KDPM2Discrete" else x_0
        if name.startswith("EDM"):  # the residual that EDM's preconditioning makes x_0 of
            total, data = sigma**2 + scheduler.config.sigma_data**2, scheduler.config.sigma_data
            answer = (x_0 - data**2 / total * y) / (sigma * data / np.sqrt(total))
        y = scheduler.step(answer, t, y, return_dict=False)[0]
    return y.numpy()


def _azula() -> Iterator[Other]:
    sample, noise = importlib.import_module("azula.sample"), importlib.import_module("azula.noise")
    low = 1 / SIGMA_MAX
    schedules = {
        "karras": _karras_schedule(noise),
        "exponential": noise.VESchedule(SIGMA_MIN, SIGMA_MAX),
        "VP": noise.VPSchedule(np.sqrt((1 + SIGMA_MIN**2) / (1 + SIGMA_MAX**2)), SIGMA_MIN),
        "cosine": noise.CosineSchedule(np.sqrt((1 + SIGMA_MIN**2) / (1 + SIGMA_MAX**2)), SIGMA_MIN),
        "rectified": noise.RectifiedSchedule(low, SIGMA_MIN),
        "decay": noise.DecaySchedule(low, SIGMA_MIN),
    }
    samplers = [("DDIM", 1, {}), ("Euler", 1, {}), ("Heun", 2, {})]
    names = ("zAB", "vAB", "zEAB", "xEAB", "REAB")
    samplers += [(name, 1, {"order": order}) for name, order in itertools.product(names, (2, 3, 4))]
    for (name, calls, options), (grid, schedule) in itertools.product(samplers, schedules.items()):
        label = name + (f"({options['order']})" if options else "")
        make = functools.partial(getattr(sample, f"{name}Sampler"), silent=True, **options)
        yield Other("azula", label, grid, functools.partial(_by_azula, make, schedule, calls))


def _karras_schedule(noise: Any) -> Any:
    class Karras(noise.Schedule):
        """Steps that are even in this time are Karras's."""

        def __call__(self, t: Any) -> tuple[Any, Any]:
            low, high = SIGMA_MIN ** (1 / 7), SIGMA_MAX ** (1 / 7)
            return _torch().ones_like(t), (low + t * (high - low)) ** 7

    return Karras()


def _by_azula(make: Any, schedule: Any, calls: int, denoise: Counted, x: np.ndarray, nfe: int) -> np.ndarray:
    """x at σ = 0: azula's steps to σ_min with all calls but one, and the denoiser's output."""
    torch, azula = _torch(), importlib.import_module("azula.denoise")

    class Exact(azula.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Any, t: Any, **_: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return azula.DiracPosterior(_ask(denoise, x_t / alpha, sigma / alpha))

    exact = Exact()
    first = schedule(torch.ones(()))[0]
    sampler = make(exact, steps=(nfe - 1) // calls)
    return exact(sampler(torch.from_numpy(x) * first), torch.zeros(())).mean.numpy()


LIBRARIES: dict[str, Callable[[], Iterator[Other]]] = {
    "diffusers": _diffusers,
    "k-diffusion": _k_diffusion,
    "azula": _azula,
}


def quietly(other: Other, denoise: Counted, x: np.ndarray, nfe: int) -> np.ndarray:
    """Its run, without what it prints about its own options."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return other.run(denoise, x, nfe)
