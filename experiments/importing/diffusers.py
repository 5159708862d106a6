"""Networks of diffusers: a folder as a pipeline's `save_pretrained` writes it, or a `UNet2DModel`'s.

    model_index.json                     which classes the parts are of
    unet/config.json                     the network: `diffusers_names`
         diffusion_pytorch_model.safetensors, or several files and diffusion_pytorch_model.safetensors.index.json
    scheduler/scheduler_config.json      chain, prediction, range and spacing: `diffusers_scheduler`

Where there is no folder of a part's name, its files lie beside model_index.json, as in the oldest publications.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.ddpm.reverse_steps import FixedLarge, Learned
from diffusion.networks import Network
from diffusion.prediction import Preconditioning
from diffusion.score_matching.times import LogNormalSigma, UniformTime
from diffusion.score_matching.weightings import SNRWeighting, UniformWeighting, VWeighting
from experiments.config.nodes import SamplingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig
from experiments.data.registry import NO_DATA
from experiments.errors import CheckpointError, reason
from experiments.importing.arrays import check_arrays, read_params
from experiments.importing.diffusers_names import unet2d_network, wanted
from experiments.importing.diffusers_scheduler import ImportedSchedule, read_scheduler
from experiments.importing.plan import Options, Plan
from experiments.importing.safetensors import SafeTensors, open_safetensors
from experiments.names import counted, listed
from experiments.training.data import Facts

INDEX, UNET, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Files of weights that run code when they are opened."""
PARTS = ("unet", "scheduler")
"""The parts of a pipeline that are known here."""
SAMPLERS = {
    "DDPMScheduler": ("ancestral", 1000),
    "DDIMScheduler": ("ddim", 50),
    "PNDMScheduler": ("ipndm", 50),
    "EulerDiscreteScheduler": ("ddim", 50),
    "EulerAncestralDiscreteScheduler": ("ancestral", 50),
    "DPMSolverMultistepScheduler": ("dpmpp-2m", 20),
    "UniPCMultistepScheduler": ("unipc", 20),
    "ScoreSdeVeScheduler": ("predictor-corrector", 2000),
}
"""The sampler of ours that stands for a scheduler, and how many steps it takes unless told."""
_NEARER: dict[tuple[Any, Any], str] = {("dpmsolver++", 3): "dpmpp-3m", ("sde-dpmsolver++", 2): "sde-dpmpp"}
"""The samplers of ours for other algorithms and orders of DPMSolverMultistepScheduler."""
_OURS = {
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "solver_order": (2,),
    "solver_type": ("midpoint", "bh2"),
    "predict_x0": (True,),
}
"""Options of multistep schedulers by which a run steps, and the values that it knows."""
WEIGHTINGS = {"eps": SNRWeighting(), "x0": UniformWeighting(), "v": VWeighting(), "ve": SNRWeighting()}
"""The weighting of a training from a network of this prediction: the plain mean square of what it predicts."""


def plan(where: Path, options: Options) -> Plan:
    """What importing the folder at `where` would do.

    Raises CheckpointError for a folder that is none of diffusers, for a pipeline, a network, a block, a scheduler or an
    option that is not known here, by its name, for weights in pickles, and for arrays that are not those of the
    network's configuration: by name, shape and type, before any is read.
    """
    unet, network_config, scheduler_config, described = _described(where)
    schedule = read_scheduler(scheduler_config)
    network = unet2d_network(network_config, num_classes=options.classes, time=schedule.time)
    config = config_of(where, network, schedule)
    files = _weights(unet)
    arrays = wanted(network, {name for file in files for name in file.entries})
    check_arrays(files, {one.name: one.shape for one in arrays})
    return Plan(
        "diffusers",
        where,
        (*described, *(file.path for file in files)),
        config,
        Facts(network.event_shape, network.num_classes),
        arrays,
        lambda: read_params(files, arrays),
        tuple(_notes(schedule, config)),
    )


def _described(where: Path) -> tuple[Path, dict[str, Any], dict[str, Any], tuple[Path, ...]]:
    """(The network's folder, its configuration, the scheduler's, the files that say so)."""
    if not where.is_dir():
        raise CheckpointError(f"{where} is no folder; give one with {INDEX}, or with a UNet2DModel's {UNET}.")
    index = _read(where / INDEX) if (where / INDEX).exists() else None
    if index is not None:
        _check_index(where / INDEX, index)
        unet, scheduler = (where / part if (where / part).is_dir() else where for part in PARTS)
        described = [where / INDEX]
    else:
        unet, described = where, []
        near = (where, where / "scheduler", where.parent / "scheduler")
        scheduler = next((folder for folder in near if (folder / SCHEDULER).exists()), where)
    if not (unet / UNET).exists():
        raise CheckpointError(f"{unet} has no {UNET}; give a folder with {INDEX}, or with a UNet2DModel's {UNET}.")
    if not (scheduler / SCHEDULER).exists():
        raise CheckpointError(
            f"{scheduler} has no {SCHEDULER}, which says with what noise the network was trained; put it there."
        )
    network_config, scheduler_config = _read(unet / UNET), _read(scheduler / SCHEDULER)
    if index is not None and index.get("scheduler"):  # whose class may be another than that which wrote the file
        scheduler_config = {**scheduler_config, "_class_name": index["scheduler"][1]}
    return unet, network_config, scheduler_config, (*described, unet / UNET, scheduler / SCHEDULER)


def _check_index(path: Path, index: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a pipeline that is more than a UNet2DModel and a scheduler."""
    parts = {name: part for name, part in index.items() if isinstance(part, list) and any(part)}
    for name, part in parts.items():
        if name not in PARTS:
            raise CheckpointError(
                f"{path} is of {index.get('_class_name')}, which has a {name} of {part[-1]}; only pipelines of a unet "
                "and a scheduler are known here."
            )
        if len(part) != 2 or not isinstance(part[1], str):
            raise CheckpointError(f"{path}: its {name} is {part!r}; it is the library's name and the class's.")
    kind = parts.get("unet", [None, "UNet2DModel"])[1]
    if kind != "UNet2DModel":
        raise CheckpointError(f"{path}: its unet is a {kind}; only UNet2DModel is known here.")


def _read(path: Path) -> dict[str, Any]:
    """A table of JSON."""
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}).") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({reason(error)}); fetch it again.") from None
    if not isinstance(said, dict):
        raise CheckpointError(f"{path} is no table of options; fetch it again.")
    return said


def _weights(folder: Path) -> list[SafeTensors]:
    """The files of weights in a network's folder, whose headers have been read."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if indices:
        chosen = next((path for path in indices if path.name == f"{WEIGHTS}.index.json"), indices[0])
        return _shards(chosen)
    if not found:
        raise CheckpointError(_without_safetensors(folder))
    usual = [path for path in found if path.name == WEIGHTS]
    if len(found) > 1 and not usual:
        raise CheckpointError(
            f"{folder} has {listed(path.name for path in found)}; take out all but one, or name it {WEIGHTS}."
        )
    return [open_safetensors((usual or found)[0])]


def _shards(index: Path) -> list[SafeTensors]:
    """The files that an index names, each with just the arrays that the index has in it."""
    places = _read(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map from arrays to files; fetch it again.")
    for name, file in places.items():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {name} is in {file!r}; it is a file of safetensors beside the index.")
    files = {name: open_safetensors(index.parent / name) for name in sorted(set(places.values()))}
    for name, file in places.items():
        if name not in files[file].entries:
            raise CheckpointError(f"{index.parent / file} lacks {name}, which {index.name} has in it; fetch it again.")
    return list(files.values())


def _without_safetensors(folder: Path) -> str:
    """The sentence that refuses a folder without such files."""
    pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickled:
        return f"{folder} has no {WEIGHTS}; fetch it."
    # What is too long for an error's line loses the middle of its longest word: the path, and not what is to be run.
    return (
        f"{folder} has pickled weights, which are not opened. If you trust them, run there: python -c "
        f"\"import torch as t, safetensors.torch as s; n='{pickled[0].stem}'; s.save_file({{k: v.clone() for k, v in "
        f"t.load(n+'{pickled[0].suffix}', weights_only=True).items()}}, n+'.safetensors')\""
    )


def config_of(where: Path, network: Network, schedule: ImportedSchedule) -> Config:
    """The run, in the scheduler's own variables."""
    learned = isinstance(schedule.variance, Learned)
    if (network.outputs == 2) != learned:
        has = "twice the channels of an image" if network.outputs == 2 else "the channels of an image"
        raise CheckpointError(
            f"{where}: the network answers {has}, and variance_type is {schedule.options.get('variance_type')!r}; one "
            "that learns its variance has twice the channels, and learned_range."
        )
    if schedule.kind == "eps" and schedule.process.schedule.ends_in_noise:
        raise CheckpointError(
            f"{where}: prediction_type epsilon does not determine the image at the noisiest time, where "
            "rescale_betas_zero_snr leaves nothing of it; write what the network was trained with."
        )
    architecture: Any = network.config
    if architecture.class_embed_type == "identity":
        raise CheckpointError(
            f"{where}: class_embed_type identity takes a vector for each image; a run tells classes by number."
        )
    kind, deviation = schedule.preconditioning
    (height, width, channels), classes = network.event_shape, network.num_classes
    knows_none = classes > 0 and architecture.num_class_embeds == classes + 1
    return Config(
        data=DataConfig(source=NO_DATA, size=f"{height}x{width}", channels=channels),
        schedule=schedule.schedule,
        network=architecture,
        preconditioning=Preconditioning(kind, deviation),  # pyright: ignore[reportArgumentType]
        weighting=WEIGHTINGS[kind],
        times=UniformTime() if schedule.is_chain else LogNormalSigma(),
        learned_variance=learned,
        conditional=classes > 0,
        label_dropout=0.1 if knows_none else 0.0,
        sampling=_sampling(schedule),
    )


def _sampling(schedule: ImportedSchedule) -> SamplingConfig:
    """How the scheduler would sample, by the samplers and grids here."""
    (sampler, steps), options = SAMPLERS[schedule.name], schedule.options
    sampler = _NEARER.get((options.get("algorithm_type"), options.get("solver_order")), sampler)
    if not schedule.is_chain:
        return SamplingConfig(sampler=sampler, steps=steps, grid="uniform-log-snr")
    clip = "dynamic" if schedule.percentile is not None else "no" if schedule.clip is None else "range"
    spacing = options["timestep_spacing"]
    return SamplingConfig(
        sampler=sampler,
        steps=_steps(schedule, steps),
        grid=spacing,
        offset=options["steps_offset"] if spacing == "leading" else 0,
        last=schedule.last,
        variance="large" if isinstance(schedule.variance, FixedLarge) else "auto",
        clip=clip,
        clip_range=schedule.clip or 1.0,
        percentile=99.5 if schedule.percentile is None else schedule.percentile,
    )


def _steps(schedule: ImportedSchedule, steps: int) -> int:
    """So many steps, or as many as the chain has room for."""
    length, offset = int(schedule.process.t_max), schedule.options["steps_offset"]
    steps, leading = min(steps, length), schedule.options["timestep_spacing"] == "leading"
    while leading and steps > 1 and 1 + offset + (steps - 1) * (length // steps) > length:
        steps -= 1
    return steps


def _notes(schedule: ImportedSchedule, config: Config) -> list[str]:
    """What is done otherwise than in diffusers, or was decided."""
    own, options = config.sampling, schedule.options
    notes = [f"{schedule.name}: sampled by {own.sampler} in {counted(own.steps, 'step')} of the grid {own.grid}"]
    if own.clip != "no":
        how = f"[-{own.clip_range:g}, {own.clip_range:g}]" if own.clip == "range" else "a percentile of each image"
        notes.append(f"answers are kept within {how}; --clip no leaves them as they are")
        if own.sampler == "ddim" and own.clip == "range":
            flags = f"--clip no --sampler ddim --sampler.clip {own.clip_range:g}"
            notes.append(
                f"noise is read off the clipped answer; {flags} reads it off the unclipped one, as diffusers does"
            )
    if own.last:
        told = "final_sigmas_type" if options.get("final_sigmas_type") == "sigma_min" else "set_alpha_to_one"
        notes.append(f"sampling ends at the first noise and not at the data, as {told} has it")
    if schedule.drops_the_data and own.grid != "trailing":
        notes.append(f"{schedule.name} leaves out the time nearest to the data, and the grid {own.grid} has it")
    for name, known in _OURS.items():
        value = options.get(name, known[0])
        if value not in known and not (name == "solver_order" and own.sampler == "dpmpp-3m"):
            notes.append(f"{name} {value} of {schedule.name} has no counterpart here; {own.sampler} steps in its place")
    ladders = {
        "use_karras_sigmas": "karras",
        "use_exponential_sigmas": "uniform-log-snr",
        "use_lu_lambdas": "uniform-log-snr",
        "use_beta_sigmas": None,
    }
    for ladder, grid in ladders.items():
        if options.get(ladder):
            nearest = f"--grid {grid} takes the nearest times" if grid else f"the grid is {own.grid}"
            notes.append(f"{ladder} spaces noise levels between those of the chain; {nearest}")
    if schedule.is_chain and getattr(config.network, "time_embedding_type", "") == "fourier":
        notes.append(
            "the network is told the logarithm of the time, which has none at the chain's first: it answers NaN there, "
            "as in diffusers; --grid trailing leaves that time out"
        )
    return notes
