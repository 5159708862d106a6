"""`scorefield sample`: images from a trained model, one seed each, with their provenance."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from diffusion.reverse_steps import FixedLarge, FixedSmall, Learned
from experiments import images
from experiments.config import Config, load_config
from experiments.errors import UsageError
from experiments.options import canonical, choose, parse, take_flag
from experiments.sampling import Model, draw, make_denoiser, parse_seeds
from samplers.ancestral import Ancestral
from samplers.registry import SAMPLERS, make_grid
from samplers.sample import Sampler

if TYPE_CHECKING:
    from experiments.training.data import Facts
    from experiments.training.model import TrainedModel

DESCRIPTION = """\
Draw images from a trained model. The image of a seed is the same in every batch.

  scorefield sample --run runs/digits-ddpm --seeds 0-63
  scorefield sample --run runs/mnist --sampler dpmpp-2m --steps 20 --class 3 --guidance 2

--sampler NAME, the run's own unless given, is one of ancestral, ddim, euler, heun, euler-maruyama, dpmpp-2m;
`--sampler NAME --help` shows the options of that one. --class N chooses the class of a conditional model.
"""


@dataclasses.dataclass(frozen=True)
class AncestralOptions:
    """Ancestral sampling."""

    variance: Literal["auto", "small", "large", "optimal", "learned"] = "auto"
    """Reverse variance: learned where there is one, else small (β̃); large is β, optimal Analytic-DPM's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """What `scorefield sample` is told."""

    run: Path
    """Folder of a run, or of one of its checkpoints."""
    sampler: Any
    """Options of the sampler."""
    steps: int | None = None
    """Steps of the grid. [the run's own]"""
    grid: Literal["auto", "karras", "uniform-log-snr", "uniform-time", "quadratic"] | None = None
    """The time grid; auto is the usual one for sampler and process. [the run's own, with its own sampler]"""
    sigma_min: float | None = None
    """Smallest σ/α of the karras and uniform-log-snr grids."""
    sigma_max: float | None = None
    """Largest σ/α of these grids."""
    rho: float | None = None
    """Exponent of the karras grid. [7]"""
    seeds: str = "0-63"
    """One seed for each image: 0-63, or 1,5,10-12."""
    label: int | None = None
    """Class of all images (also --class)."""
    guidance: float | None = None
    """Strength of classifier-free guidance: 1 is the conditional model, more exaggerates the class."""
    ema: str = "0"
    """Which parameters: the number of an average, counted from 0, or raw."""
    best: bool = False
    """Take the checkpoint of the lowest held-out loss, not the newest."""
    batch: int = 64
    """Images drawn at a time; it changes the speed only."""
    outdir: Path = Path("samples")
    """Folder to write to."""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images, one PNG for each seed, or one array file."""
    json: bool = False
    """Print the result as JSON."""


def run(arguments: list[str]) -> int:
    """Sample; returns the exit status."""
    name, arguments = take_flag(arguments, "--sampler")
    name = None if name is None else choose_name(name, "--sampler")
    if any(argument in ("-h", "--help") for argument in arguments):
        parse(_arguments_of(name or "heun"), arguments, "scorefield sample", DESCRIPTION)
    place, _ = take_flag(arguments, "--run")
    if place is None:
        raise UsageError("--run is missing; give the folder that `scorefield train` wrote.")
    label, arguments = take_flag(arguments, "--class")
    if label is not None and not (label.isascii() and label.isdecimal()):
        raise UsageError(f"--class {label!r} is not the number of a class; give 0, 1, ...")
    if label is not None:
        arguments = [*arguments, "--label", label]
    from experiments.training.model import load_model

    if name is None:  # the run's own; a folder of one checkpoint has a config.json too
        name = choose_name(load_config(Path(place) / "config.json").sampling.sampler)
    told = parse(_arguments_of(name), arguments, "scorefield sample", DESCRIPTION)
    if told.batch < 1 or (told.steps is not None and told.steps < 1):
        raise UsageError(f"--batch is {told.batch} and --steps {told.steps}; give at least 1.")
    return _sample(told, name, load_model(told.run, _average(told.ema), use_best=told.best, warn=_warn))


def _arguments_of(name: str) -> type[SampleArguments]:
    """`SampleArguments` with the options of one sampler at its node."""
    options = AncestralOptions if name == "ancestral" else SAMPLERS[name].make
    field = dataclasses.field(default_factory=options)
    return dataclasses.make_dataclass(  # type: ignore[return-value]
        "SampleArguments", [("sampler", options, field)], bases=(SampleArguments,), frozen=True, kw_only=True
    )


def _average(text: str) -> int | None:
    if text == "raw":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"--ema {text!r} is neither raw nor the number of an average, counted from 0.")
    return int(text)


def _warn(line: str) -> None:
    print(f"scorefield: {line}", file=sys.stderr)


def model_of(trained: TrainedModel) -> Model:
    """What sampling needs of a loaded run."""
    return Model(trained.config, trained.network, trained.params, trained.facts.event_shape, _classes(trained))


def _classes(trained: TrainedModel) -> int:
    return trained.facts.num_classes if trained.config.conditional else 0


def build_sampler(options: Any, model: Model, grid_steps: int) -> Sampler:
    """The sampler of these options; an optimal variance is estimated from the run's training data."""
    if not isinstance(options, AncestralOptions):
        return options
    variance = options.variance
    if variance == "learned" and not model.config.learned_variance:
        raise UsageError("--sampler.variance learned needs a run trained with --learned-variance; choose optimal.")
    if variance == "learned" or (variance == "auto" and model.config.learned_variance):
        return Ancestral(Learned())
    if variance in ("auto", "small"):
        return Ancestral(FixedSmall())
    if variance == "large":
        return Ancestral(FixedLarge())
    from experiments.data import open_source, split
    from experiments.elbo import chain_times, reverse_variance

    training, _ = split(open_source(model.config.data), model.config.data.held_out, model.config.data.seed)
    denoise = make_denoiser(model, None, None)
    times = chain_times(model.process, max(grid_steps, 64))
    return Ancestral(reverse_variance("optimal", model, denoise, times, training.images))


def build_grid(told: Any, process: Any, sampler: Sampler, steps: int) -> np.ndarray:
    """The grid of these options.

    Raises UsageError for an option that the grid does not have.
    """
    from samplers.registry import GRIDS, default_grid

    given = {key: value for key in ("sigma_min", "sigma_max", "rho") if (value := getattr(told, key)) is not None}
    if not given:
        return make_grid(process, sampler, told.grid, steps)
    name = default_grid(process, sampler) if told.grid in (None, "auto") else told.grid
    allowed = {"karras": {"sigma_min", "sigma_max", "rho"}, "uniform-log-snr": {"sigma_min", "sigma_max"}}.get(
        name, set()
    )
    for key in given:
        if key not in allowed:
            flag = "--" + key.replace("_", "-")
            raise UsageError(f"{flag} does not go with the grid {name}; add --grid karras, or leave it out.")
    return GRIDS[name](process, steps, **given)


def _sample(told: Any, name: str, trained: TrainedModel) -> int:
    model, seeds = model_of(trained), parse_seeds(told.seeds)
    own = trained.config.sampling
    is_own = name == canonical(own.sampler)
    steps = told.steps or (own.steps if is_own else 20)
    told = dataclasses.replace(told, grid=told.grid or (own.grid if is_own else "auto"))
    try:
        sampler = build_sampler(told.sampler, model, steps)
        grid = build_grid(told, model.process, sampler, steps)
        start, parts = time.perf_counter(), []
        for drawn in draw(model, sampler, grid, seeds, batch=told.batch, label=told.label, guidance=told.guidance):
            parts.append(drawn)
            _progress(sum(len(part.seeds) for part in parts), len(seeds), time.perf_counter() - start, told.json)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    pictures = np.concatenate([part.images for part in parts])
    provenance = _provenance(told, name, steps, trained, parts[0].nfe)
    paths = _write(told, pictures, seeds, provenance)
    seconds = time.perf_counter() - start
    if told.json:
        summary = {
            "files": [str(path) for path in paths],
            "seconds": seconds,
            "samples_per_second": len(seeds) / seconds,
        }
        print(json.dumps({**provenance, **summary}))
    else:
        where = paths[0] if len(paths) == 1 else f"{told.outdir} ({len(paths)} files)"
        rate = f"{len(seeds) / seconds:.1f} samples/s"
        print(f"{len(seeds)} samples, {provenance['nfe']} network calls each, {rate}: {where}")
    return 0


def _progress(done: int, total: int, seconds: float, quiet: bool) -> None:
    if not quiet and sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rsampling {done}/{total}  {done / seconds:.1f} samples/s", end=end, file=sys.stderr, flush=True)


def _provenance(told: Any, name: str, steps: int, trained: TrainedModel, nfe: int) -> dict[str, Any]:
    options = dataclasses.asdict(told.sampler)
    return {
        "sampler": name,
        "options": {key: value if np.isfinite(value) else str(value) for key, value in options.items()}
        if all(isinstance(value, (int, float)) for value in options.values())
        else {key: str(value) for key, value in options.items()},
        "steps": steps,
        "grid": told.grid,
        "sigma_min": told.sigma_min,
        "sigma_max": told.sigma_max,
        "rho": told.rho,
        "nfe": nfe * (2 if told.guidance is not None else 1),
        "seeds": told.seeds,
        "class": told.label,
        "guidance": told.guidance,
        "parameters": told.ema if told.ema == "raw" else f"average {told.ema}",
        "checkpoint": str(trained.path),
        "checkpoint_step": trained.step,
        "checkpoint_sha256": trained.digest,
        "version": version("scorefield"),
        "jax": jax.__version__,
    }


def _write(told: Any, pictures: np.ndarray, seeds: list[int], provenance: dict[str, Any]) -> list[Path]:
    if told.format == "png":
        return images.save_singles(told.outdir, pictures, seeds, provenance)
    if told.format == "npz":
        path = told.outdir / "samples.npz"
        labels = {} if told.label is None else {"labels": np.full(len(seeds), told.label)}
        images.save_npz(path, pictures, provenance, seeds=np.asarray(seeds), **labels)
    else:
        path = told.outdir / "samples.png"
        images.save_png(path, images.grid(pictures), provenance)
    return [path]


class GridWriter:
    """Called by the training loop: writes a grid of samples of the first average to OUTDIR/samples/."""

    def __init__(self, config: Config, facts: Facts, outdir: Path) -> None:
        from experiments.training.model import make_network

        networks: list[Any] = []
        jax.eval_shape(
            lambda key: networks.append(made := make_network(config, facts, key)) or made[1], jax.random.key(0)
        )
        self.model = Model(
            config, networks[0][0], None, facts.event_shape, facts.num_classes if config.conditional else 0
        )
        options = AncestralOptions() if config.sampling.sampler == "ancestral" else None
        made = SAMPLERS[choose_name(config.sampling.sampler)].make() if options is None else None
        steps = config.sampling.steps
        try:
            self.sampler = build_sampler(options or made, self.model, steps)
            self.grid = make_grid(self.model.process, self.sampler, config.sampling.grid, steps)
            self.sampler.check_noise(self.model.process)
            self.sampler.check(self.model.process, self.grid)
        except (ValueError, TypeError) as error:
            raise UsageError(f"--sampling cannot sample this process: {error}") from None
        self.folder = outdir / "samples"

    def __call__(self, step: int, params: Any) -> None:
        """Draw and write the grid of one step."""
        model = dataclasses.replace(self.model, params=params)
        label = [i % model.num_classes for i in range(64)] if model.num_classes else None
        drawn = next(draw(model, self.sampler, self.grid, range(64), batch=64, label=label))
        path = self.folder / f"step-{step:07d}.png"
        images.save_png(path, images.grid(drawn.images), {"step": step, "sampler": model.config.sampling.sampler})


def choose_name(name: str, flag: str = "--sampling.sampler") -> str:
    """The name as the catalogue spells it. Raises UsageError when there is no such sampler."""
    choose(flag, name, SAMPLERS)
    return canonical(name)
