"""A run as a folder of diffusers: of a `UNet2DModel`, imported from there or trained here in diffusers' own variables.

    model_index.json                                   which classes the parts are of
    unet/config.json, diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json

What is written is read again by `experiments.importing.diffusers`, and refused where that is not the run's own network,
chain, prediction and range: diffusers would compute something else.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.networks import Network
from diffusion.networks.unet2d_config import UNet2DConfig
from diffusion.noises import Gaussian
from diffusion.schedules import EDM
from experiments.config.chain import Chain
from experiments.config.nodes import SamplingConfig
from experiments.config.tree import Config
from experiments.errors import CheckpointError, UsageError, reason
from experiments.files import replacing_folder
from experiments.importing.diffusers import INDEX, SAMPLERS, SCHEDULER, UNET, WEIGHTS, config_of
from experiments.importing.diffusers_names import OUR_OWN, to_arrays, unet2d_network
from experiments.importing.diffusers_scheduler import KINDS, SCHEDULERS, SHAPES, read_scheduler
from experiments.importing.plan import require_new
from experiments.importing.safetensors_writer import write_safetensors
from experiments.runs.model import Model
from experiments.runs.provenance import origin

VERSION = "0.42.1"
"""The version of diffusers whose names and defaults are written."""
_PIPELINES = {"DDPMScheduler": "DDPMPipeline", "ScoreSdeVeScheduler": "ScoreSdeVePipeline"}
"""The pipelines that sample by these schedulers; one of another scheduler takes its chain for DDIM."""
_ANY_PIPELINE = "DDIMPipeline"
_OF_THE_LOOP = ("remat", "compute_dtype")
"""Fields of a network that change nothing but how it is computed."""
_ELSE = "--weights writes any network"


def export_diffusers(folder: Path, model: Model) -> dict[str, Any]:
    """Write the folder, whole or not at all, and return what was written, as JSON values.

    Raises UsageError where it is there already, and for a run that has no counterpart in diffusers.
    """
    require_new(folder, "--diffusers")
    network = _network(model)
    described = _unet(network)
    scheduler = _scheduler(model.config, network, described)
    name = scheduler["_class_name"]
    pipeline = _PIPELINES.get(name, _ANY_PIPELINE)
    index = {
        "_class_name": pipeline,
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", name],
        "unet": ["diffusers", "UNet2DModel"],
    }
    arrays = to_arrays(network, model.params)
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{model.path}: {key} holds numbers that are not finite; export another checkpoint.")
    with replacing_folder(folder) as hidden:
        for place, said in ((INDEX, index), (f"unet/{UNET}", described), (f"scheduler/{SCHEDULER}", scheduler)):
            path = hidden / place
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(said, indent=2) + "\n")
        with (hidden / "unet" / WEIGHTS).open("wb") as file:
            write_safetensors(file, arrays, {"format": "pt"})
    return {
        "pipeline": pipeline,
        "scheduler": name,
        "parameters": sum(math.prod(array.shape) for array in arrays.values()),
        "of": model.parameters,
        "origin": origin(model),
    }


def _network(model: Model) -> Network:
    """The run's network. Raises UsageError where diffusers has none of its kind."""
    config, network = model.config, model.network
    if not isinstance(config.network, UNet2DConfig):
        kind = type(config.network).__name__.removesuffix("Config")
        raise UsageError(f"--diffusers is for runs of a UNet2DModel, and this one's network is {kind}; {_ELSE}.")
    if not isinstance(network, Network):
        raise UsageError(f"--diffusers is for denoisers, and this run's network is no plain one; {_ELSE}.")
    if not isinstance(config.noise, Gaussian):
        raise UsageError(
            f"--diffusers is for Gaussian noise, and this run's is {type(config.noise).__name__}; {_ELSE}."
        )
    if network.augment_dim:
        raise UsageError(f"--diffusers has no network that is told of augmentations, as this one is; {_ELSE}.")
    return network


def _unet(network: Network) -> dict[str, Any]:
    """The network's config.json."""
    height, width, channels = network.event_shape
    fields = [field.name for field in dataclasses.fields(UNet2DConfig) if field.name not in OUR_OWN]
    values = {name: getattr(network.config, name) for name in fields}
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels * network.outputs,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
    }


def _scheduler(config: Config, network: Network, described: dict[str, Any]) -> dict[str, Any]:
    """A scheduler_config.json that says of the run what there is to say. Raises UsageError where none does."""
    why = "no scheduler has its schedule"
    for said in _candidates(config):
        try:
            schedule = read_scheduler(said)
            again = unet2d_network(described, num_classes=network.num_classes, time=schedule.time)
            differing = _differs(config, config_of(Path(SCHEDULER), again, schedule))
        except (CheckpointError, UsageError) as error:
            why = reason(error)
            continue
        if differing is None:
            return said
        why = f"its {differing} has no counterpart there"
    raise UsageError(f"diffusers cannot compute what this run does: {why}; {_ELSE}.")


def _candidates(config: Config) -> Iterator[dict[str, Any]]:
    """Schedulers that may stand for the run: first that whose sampler is its own, then those with every option."""
    if isinstance(config.schedule, EDM):
        ends = {"sigma_min": config.schedule.sigma_min, "sigma_max": config.schedule.sigma_max}
        yield {"_class_name": "ScoreSdeVeScheduler", "_diffusers_version": VERSION, **ends}
    if not isinstance(config.schedule, Chain):
        return
    first = [name for name, (sampler, _) in SAMPLERS.items() if sampler == config.sampling.sampler]
    options = {**_chain(config.schedule), **_answers(config), **_steps(config.sampling)}
    for name in dict.fromkeys((*first, "DDIMScheduler", "DDPMScheduler")):
        if name in SCHEDULERS and "beta_start" in SCHEDULERS[name]:
            own = {key: value for key, value in options.items() if key in SCHEDULERS[name]}
            yield {"_class_name": name, "_diffusers_version": VERSION, **own}


def _chain(chain: Chain) -> dict[str, Any]:
    """The options that say what β is."""
    shape = next((theirs for theirs, ours in SHAPES.items() if ours == chain.shape), None)
    said: dict[str, Any] = {"num_train_timesteps": chain.steps, "rescale_betas_zero_snr": chain.zero_terminal_snr}
    ends = {"beta_start": chain.beta_min, "beta_end": chain.beta_max}
    if shape == "squaredcos_cap_v2" and chain.beta_max is None and not chain.betas:
        return {**said, "beta_schedule": shape}
    if shape is not None and None not in ends.values() and not chain.betas:
        return {**said, "beta_schedule": shape, **ends}
    levels = dataclasses.replace(chain, zero_terminal_snr=False).build().log_alphas
    return {**said, "trained_betas": list(chain.betas) or (-np.expm1(2 * np.diff(np.asarray(levels)))).tolist()}


def _answers(config: Config) -> dict[str, Any]:
    """The options that say what the network predicts, and what becomes of it."""
    own = config.sampling
    predicted = next((theirs for theirs, ours in KINDS.items() if ours == config.preconditioning.kind), None)
    variance = (
        "learned_range" if config.learned_variance else "fixed_large" if own.variance == "large" else "fixed_small"
    )
    return {
        "prediction_type": predicted,
        "clip_sample": own.clip == "range",
        "clip_sample_range": own.clip_range,
        "thresholding": own.clip == "dynamic",
        "dynamic_thresholding_ratio": own.percentile / 100,
        "sample_max_value": math.inf if own.clip == "dynamic" else 1.0,
        "variance_type": variance,
    }


def _steps(own: SamplingConfig) -> dict[str, Any]:
    """The options that space the steps; where the run's grid is of another kind, those that every network goes with."""
    spaced = own.grid in ("leading", "linspace", "trailing")
    return {
        "timestep_spacing": own.grid if spaced else "leading",
        "steps_offset": own.offset if own.grid == "leading" else 0,
        "set_alpha_to_one": own.last == 0,
        "final_sigmas_type": "zero" if own.last == 0 else "sigma_min",
    }


def _differs(config: Config, again: Config) -> str | None:
    """What an import of the folder would have otherwise than the run, by name."""
    same: dict[str, Callable[[Config], Any]] = {
        "network": lambda one: dataclasses.replace(one.network, remat=False, compute_dtype="float32"),
        "preconditioning": lambda one: one.preconditioning,
        "learned variance": lambda one: one.learned_variance,
        "classes": lambda one: (one.conditional, one.conditional and one.label_dropout > 0),
        "clipping": lambda one: _clipping(one.sampling),
    }
    differing = next((name for name, part in same.items() if part(config) != part(again)), None)
    return differing or (None if _same_schedule(config.schedule, again.schedule) else "schedule")


def _clipping(own: SamplingConfig) -> tuple[Any, ...]:
    return own.clip, *{"range": (own.clip_range,), "dynamic": (round(own.percentile, 6),)}.get(own.clip, ())


def _same_schedule(one: Any, other: Any) -> bool:
    """Whether two schedules are one: chains may be described in different ways."""
    if not (isinstance(one, Chain) and isinstance(other, Chain)):
        return one == other
    levels = [np.asarray(chain.build().log_alphas) for chain in (one, other)]
    return levels[0].shape == levels[1].shape and np.allclose(*levels, rtol=1e-9, atol=0)
