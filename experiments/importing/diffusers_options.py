"""The options of diffusers' schedulers that have a meaning here, with their defaults, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.errors import CheckpointError

_CHAIN: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
_RESCALED = {"rescale_betas_zero_snr": False}
_THRESHOLDED = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIPPED = {**_THRESHOLDED, "clip_sample": True, "clip_sample_range": 1.0}
_LADDERS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_LAST = {"final_sigmas_type": "zero"}
_ENDS = {**_LAST, "sigma_min": None, "sigma_max": None}
_FLOWS = {"use_flow_sigmas": False, "use_dynamic_shifting": False}
_CONTINUOUS = {**_CHAIN, **_RESCALED, "timestep_spacing": "linspace"}
_MULTISTEP = {**_CONTINUOUS, **_THRESHOLDED, **_LADDERS, **_LAST, **_FLOWS}

SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {**_CHAIN, **_RESCALED, **_CLIPPED, "variance_type": "fixed_small"},
    "DDIMScheduler": {**_CHAIN, **_RESCALED, **_CLIPPED, "set_alpha_to_one": True},
    "PNDMScheduler": {**_CHAIN, "set_alpha_to_one": False},
    "EulerDiscreteScheduler": {**_CONTINUOUS, **_LADDERS, **_ENDS, "timestep_type": "discrete"},
    "EulerAncestralDiscreteScheduler": _CONTINUOUS,
    "DPMSolverMultistepScheduler": {
        **_MULTISTEP,
        "variance_type": None,
        "use_lu_lambdas": False,
        "lambda_min_clipped": -math.inf,
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
    },
    "UniPCMultistepScheduler": {
        **_MULTISTEP,
        **_ENDS,
        "shift_terminal": None,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
    },
    "ScoreSdeVeScheduler": {
        "num_train_timesteps": 2000,
        "sigma_min": 0.01,
        "sigma_max": 1348.0,
        "sampling_eps": 1e-5,
    },
}
"""The schedulers that are known, with those of their options that have a meaning here, and their defaults."""


def check_options(name: str, config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise CheckpointError for what changes the law, or what the network is asked, and has no counterpart here."""
    for key in ("use_flow_sigmas", "use_dynamic_shifting", "shift_terminal"):
        if options.get(key):
            raise CheckpointError(f"{key} makes {name} a flow, which cannot be imported; choose another scheduler.")
    if options.get("timestep_type", "discrete") != "discrete":
        raise CheckpointError(
            f"timestep_type is {options['timestep_type']!r}; only networks that are told discrete times are imported."
        )
    if config.get("predict_epsilon") is False and "prediction_type" not in config:
        raise CheckpointError(
            "predict_epsilon false is of an old diffusers; write prediction_type sample in its place."
        )
    if "timestep_spacing" in options:
        known("timestep_spacing", options["timestep_spacing"], ("leading", "linspace", "trailing"))
    if "final_sigmas_type" in options:
        known("final_sigmas_type", options["final_sigmas_type"], ("zero", "sigma_min"))
    steps = options["num_train_timesteps"]
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise CheckpointError(f"num_train_timesteps is {steps!r}; a positive whole number is wanted, such as 1000.")
    offset = options.get("steps_offset", 0)
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < steps:
        raise CheckpointError(
            f"steps_offset is {offset!r}, of a chain of {steps}; a whole number below that is wanted, usually 0 or 1."
        )
    for key, default in SCHEDULERS[name].items():
        value = options[key]
        if isinstance(default, bool) and not (isinstance(value, bool) or value is None):
            raise CheckpointError(f"{key} is {value!r}; true or false is wanted.")
        if isinstance(default, float) and not (_is_number(value) or (value is None and math.isinf(default))):
            raise CheckpointError(f"{key} is {value!r}; a number is wanted.")
    if options.get("clip_sample") and not 0 < options["clip_sample_range"] < math.inf:
        raise CheckpointError(
            f"clip_sample_range is {options['clip_sample_range']}; a number above 0 is wanted, usually 1."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def known(key: str, value: Any, choices: Any) -> str:
    """`value`. Raises CheckpointError unless it is one of `choices`."""
    if value not in choices:
        raise CheckpointError(f"{key} is {value!r}, which has no counterpart here; choose one of {', '.join(choices)}.")
    return value
