"""`scorefield sample --kernel`: images or points from the energy of a run, by a Markov chain that cools."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.commands.options import parse
from experiments.commands.progress import progress
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError, warn
from experiments.names import choose
from experiments.pictures.output import write
from experiments.runs.load import CheckpointArguments, load_run, model_of
from experiments.sampling.throughput import Throughput

KERNELS = {name: name for name in ("langevin", "mala", "hmc")}
"""The names of `samplers.energy.Kernel`."""

_STUCK = 0.1
"""The share of accepted steps below which a chain is no use."""

DESCRIPTION = """\
Draw images or points from the energy of a trained model, by a Markov chain from a high temperature down to 1 and the
denoiser's jump at the end. The image of a seed is the same in every batch.

  scorefield sample --run runs/digits-mdsm --kernel mala
  scorefield sample --run runs/digits-mdsm --kernel hmc --leapfrogs 10

--kernel langevin accepts every step, mala and hmc (Hamiltonian Monte Carlo) as many as leave the density as it is.
Runs with an energy are trained with --conservative --preconditioning.kind residual --times log-uniform, or with
--objective generator. A run of a single noise level has nothing to cool from: the
chain is at the temperature 1 throughout, unless --temperature says else. Without --kernel the options are those of a
sampler of denoisers.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergySampleArguments(CheckpointArguments):
    """What `scorefield sample --kernel` is told."""

    steps: int = 200
    """Steps from the highest temperature to 1."""
    hold: int = 100
    """Steps at the temperature 1 after these."""
    temperature: float | None = None
    """The highest temperature. [(largest/smallest noise level of the training)²]"""
    step_size: float | None = None
    """Step size η in units of T σ_0²; hmc takes leapfrogs of √η. [0.1 for langevin, 0.3 for mala, 0.1 for hmc]"""
    leapfrogs: int = 10
    """Leapfrogs of each step of hmc."""
    seeds: str = "0-63"
    """One seed for each image or point: 0-63, or 1,5,10-12."""
    batch: int = 64
    """Images drawn at a time; it changes the speed only."""
    outdir: Path = Path("samples")
    """Folder to write to."""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images or points, one PNG for each image, or one array file."""
    json: bool = False
    """Print the result as JSON."""


def run(kernel: str, arguments: list[str]) -> int:
    """Sample by a kernel; returns the exit status."""
    name = choose("--kernel", kernel, KERNELS)
    told = parse(
        EnergySampleArguments, arguments, f"scorefield sample --kernel {name}", DESCRIPTION, taken=("--kernel",)
    )
    for flag, value, fine in (
        ("--batch", told.batch, told.batch >= 1),
        ("--steps", told.steps, told.steps >= 1),
        ("--hold", told.hold, told.hold >= 0),
        ("--leapfrogs", told.leapfrogs, told.leapfrogs >= 1),
    ):
        if not fine:
            raise UsageError(f"{flag} is {value}; give at least {int(flag != '--hold')}.")
    if told.temperature is not None and not 1 <= told.temperature < float("inf"):
        raise UsageError(f"--temperature is {told.temperature}; give 1, for no cooling, or more.")
    if told.step_size is not None and not 0 < told.step_size < 4:
        raise UsageError(f"--step-size is {told.step_size}; give a number between 0 and 4, where steps are stable.")
    return _sample(told, name, parse_seeds(told.seeds))


def _sample(told: EnergySampleArguments, kernel: Any, seeds: list[int]) -> int:
    from experiments.runs.energy import energy_of, origin
    from experiments.sampling.energy import SIZES, Chain, draw_energy

    trained = load_run(told)
    energy, model = energy_of(trained), model_of(trained)
    if model.of_points and told.format == "png":
        raise UsageError("--format png goes with images, and this run makes points; take --format npz.")
    hottest = (energy.high / energy.sigma) ** 2 if told.temperature is None else told.temperature
    if told.steps == 1 and hottest > 1:
        raise UsageError(f"--steps 1 cannot lead from T = {hottest:.4g} to 1; give at least 2, or --temperature 1.")
    size = SIZES[kernel] if told.step_size is None else told.step_size
    chain = Chain(kernel, told.steps, told.hold, hottest, size, told.leapfrogs)
    parts, throughput = [], Throughput(min(told.batch, len(seeds)))
    for part in draw_energy(energy, chain, seeds, batch=told.batch):
        parts.append(part)
        throughput.add(len(part.drawn.seeds))
        progress(throughput, len(seeds), told.json)
    pictures = np.concatenate([part.drawn.images for part in parts])
    counts = [len(part.drawn.seeds) for part in parts]
    accepted = np.average([part.acceptance for part in parts], axis=0, weights=counts)
    # The last step on the way down is at 1 already; without a way down all are.
    first = 0 if hottest == 1 else told.steps - 1
    acceptance = {"cooling": float(accepted[: told.steps].mean()), "end": float(accepted[first:].mean())}
    trained_at = (energy.high / energy.sigma) ** 2
    if hottest > trained_at * (1 + 1e-6):
        warn(
            f"--temperature {hottest:g} is above {trained_at:.4g}, the highest that the run was trained at; "
            "samples that start so far out may never come back."
        )
    if acceptance["end"] < _STUCK:
        warn(
            f"{acceptance['end']:.1%} of the steps at T = 1 were accepted, so the samples hardly moved there; "
            f"give a smaller --step-size than {size:g}."
        )
    provenance = {
        **{"sampler": f"energy-{kernel}", **chain.report(), "sigma": energy.sigma, "acceptance": acceptance},
        **origin(told, trained),
        **{"nfe": chain.calls, "seeds": told.seeds},
    }
    paths = write(told.outdir, told.format, model, pictures, seeds, provenance)
    if told.json:
        print(json.dumps({**provenance, "files": [str(path) for path in paths], **throughput.report()}))
        return 0
    done = (
        f"{told.steps + told.hold} steps of {kernel} at T = 1, accepted {acceptance['end']:.1%}"
        if hottest == 1
        else f"{told.steps} steps of {kernel} from T = {hottest:.4g} to 1 and {told.hold} at 1, "
        f"accepted {acceptance['cooling']:.1%} on the way down, {acceptance['end']:.1%} at 1"
    )
    where = paths[0] if len(paths) == 1 else f"{told.outdir} ({len(paths)} files)"
    print(f"{len(seeds)} samples, {done}, {throughput}: {where}")
    return 0
