"""`scorefield sample --kernel`: images or points from the energy of a run, by a Markov chain that cools down."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from experiments.commands.options import parse, take_flag
from experiments.commands.outcome import place, told
from experiments.commands.seeds import parse_seeds
from experiments.errors import UsageError, warn
from experiments.names import choose, counted
from experiments.pictures.output import output
from experiments.pictures.request import Request
from experiments.progress import BATCHES, reporting, tracked
from experiments.runs.load import CheckpointArguments, load_run
from experiments.runs.provenance import origin
from experiments.sampling.seeds import Seeds
from experiments.sampling.throughput import Throughput
from experiments.training.stopping import tell_written
from samplers.energy import Kernel

if TYPE_CHECKING:
    from experiments.runs.energy import Energy
    from experiments.sampling.energy import EnergySampler

KERNELS: dict[str, Kernel] = {name: name for name in get_args(Kernel)}
"""The kernels, by the name that is typed."""

_STUCK = 0.1
"""The share of accepted steps below which a chain is useless."""

DESCRIPTION = """\
Draw images or points from the energy of a trained model, by a Markov chain that cools from a high temperature to 1,
and the denoiser's jump at the end. The image of a seed is the same in every batch.

  scorefield sample --run runs/digits-mdsm --kernel mala
  scorefield sample --run runs/digits-mdsm --kernel hmc --leapfrogs 10

--kernel langevin accepts every step, mala and hmc (Hamiltonian Monte Carlo) as many as leave the density as it is.
Runs with an energy are trained with --conservative --preconditioning.kind residual --times log-uniform, or with
--objective generator. A run with a single noise level has nothing to cool from: the chain stays at the temperature 1,
unless --temperature says otherwise. Without --kernel the options are those of a sampler of denoisers.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergySampleArguments(CheckpointArguments):
    """The arguments of `scorefield sample --kernel`."""

    steps: int = 200
    """Number of steps from the highest temperature to 1."""
    hold: int = 100
    """Number of steps at the temperature 1 after these."""
    temperature: float | None = None
    """Highest temperature. [(largest/smallest noise level of the training)²]"""
    step_size: float | None = None
    """Step size η in units of T σ_0²; hmc takes leapfrogs of √η. [0.1 for langevin, 0.3 for mala, 0.1 for hmc]"""
    leapfrogs: int = 10
    """Number of leapfrogs in each step of hmc."""
    seeds: str = "0-63"
    """One seed for each image or point: 0-63, or 1,5,10-12."""
    batch: int = 64
    """Images drawn at a time; it affects the speed only."""
    outdir: Path | None = None
    """Folder to write to. [RUN/samples/NAME, named from what determines the samples]"""
    format: Literal["grid", "png", "npz"] = "grid"
    """One picture with all images or points, one PNG for each image, or one array file."""
    json: bool = False
    """Print the result as JSON."""


def run(kernel: str, argv: list[str]) -> int:
    """Sample by a kernel; returns the exit status."""
    name = choose("--kernel", kernel, KERNELS)
    for flag in ("--class", "--label"):
        if take_flag(argv, flag)[0] is not None:
            raise UsageError(f"{flag} does not go with --kernel: an energy is of images of any class; leave it out.")
    arguments = parse(
        EnergySampleArguments, argv, f"scorefield sample --kernel {name}", DESCRIPTION, taken=("--kernel",)
    )
    for flag, value, fine in (
        ("--batch", arguments.batch, arguments.batch >= 1),
        ("--steps", arguments.steps, arguments.steps >= 1),
        ("--hold", arguments.hold, arguments.hold >= 0),
        ("--leapfrogs", arguments.leapfrogs, arguments.leapfrogs >= 1),
    ):
        if not fine:
            raise UsageError(f"{flag} is {value}; give at least {int(flag != '--hold')}.")
    if arguments.temperature is not None and not 1 <= arguments.temperature < float("inf"):
        raise UsageError(f"--temperature is {arguments.temperature}; give 1, for no cooling, or more.")
    if arguments.step_size is not None and not 0 < arguments.step_size < 4:
        raise UsageError(
            f"--step-size is {arguments.step_size}; give a number between 0 and 4, where steps are stable."
        )
    return _sample(arguments, name, parse_seeds(arguments.seeds))


def _sample(arguments: EnergySampleArguments, kernel: Kernel, seeds: Seeds) -> int:
    from experiments.runs.energy import energy_of
    from experiments.sampling.drawing import starts
    from experiments.sampling.energy import SIZES, EnergySampler, draw_energy

    model = load_run(arguments)
    energy = energy_of(model)
    if model.of_points and arguments.format == "png":
        raise UsageError("--format png goes with images, and this run makes points; take --format npz.")
    hottest = (energy.high / energy.sigma) ** 2 if arguments.temperature is None else arguments.temperature
    if arguments.steps == 1 and hottest > 1:
        raise UsageError(f"--steps 1 cannot lead from T = {hottest:.4g} to 1; give at least 2, or --temperature 1.")
    size = SIZES[kernel] if arguments.step_size is None else arguments.step_size
    sampler = EnergySampler(
        kernel=kernel,
        steps=arguments.steps,
        hold=arguments.hold,
        temperature=hottest,
        size=size,
        leapfrogs=arguments.leapfrogs,
    )
    provenance = {
        "sampler": f"energy-{kernel}",
        **sampler.report(),
        "sigma": energy.sigma,
        **origin(model),
        "seeds": arguments.seeds,
    }
    written = output(Request(model, arguments.format, seeds, provenance), arguments.outdir)
    tell_written(written.told)
    batch, rates = min(arguments.batch, len(seeds)), []
    throughput = Throughput(batch)
    batches = draw_energy(energy, sampler, seeds, batch=batch, there=written.there, bits=model.bits)
    with reporting(quiet=arguments.json), written:
        for part in tracked(batches, BATCHES, len(starts(seeds, batch, written.there))):
            written.add(part.drawn.seeds, part.drawn.images, part.drawn.nfe)
            rates.append((part.acceptance, len(part.drawn.seeds)))
            throughput.add(len(part.drawn.seeds))
        acceptance = _acceptance(rates, sampler) if rates else None
        paths = written.finish({} if acceptance is None else {"acceptance": acceptance})
    if acceptance is not None:
        _warn(sampler, energy, acceptance["end"])
    if arguments.json:
        report = {**provenance, "acceptance": acceptance, "nfe": written.nfe, "files": [str(path) for path in paths]}
        print(json.dumps({**report, "already_there": len(written.there), **throughput.report()}))
    else:
        done = _done(sampler, acceptance)
        print(f"{counted(len(seeds), 'sample')}, {done}, {told(throughput, written.there)}: {place(paths)}")
    return 0


def _acceptance(rates: list[tuple[np.ndarray, int]], sampler: EnergySampler) -> dict[str, float]:
    """The shares of accepted steps on the way down and at T = 1; `rates` are those of batches, and their sizes."""
    accepted = np.average([rate for rate, _ in rates], axis=0, weights=[size for _, size in rates])
    # The last step on the way down is at 1 already; without a way down all are.
    first = 0 if sampler.temperature == 1 else sampler.steps - 1
    return {"cooling": float(accepted[: sampler.steps].mean()), "end": float(accepted[first:].mean())}


def _done(sampler: EnergySampler, acceptance: dict[str, float] | None) -> str:
    """What the chains did, in words."""
    steps, hold, cools = sampler.steps, sampler.hold, sampler.temperature != 1
    what = (
        f"{steps} steps of {sampler.kernel} from T = {sampler.temperature:.4g} to 1 and {hold} at 1"
        if cools
        else f"{steps + hold} steps of {sampler.kernel} at T = 1"
    )
    if acceptance is None:
        return what
    down = f"{acceptance['cooling']:.1%} on the way down, " if cools else ""
    return f"{what}, accepted {down}{acceptance['end']:.1%}" + (" at 1" if cools else "")


def _warn(sampler: EnergySampler, energy: Energy, accepted: float) -> None:
    """Say on standard error what makes samples doubtful: too hot a start, or chains that hardly moved at T = 1."""
    trained_at = (energy.high / energy.sigma) ** 2
    if sampler.temperature > trained_at * (1 + 1e-6):
        warn(
            f"--temperature {sampler.temperature:g} is above {trained_at:.4g}, the highest that the run was trained "
            "at; samples that start so far out may never come back."
        )
    if accepted < _STUCK:
        warn(
            f"{accepted:.1%} of the steps at T = 1 were accepted, so the samples hardly moved there; "
            f"give a smaller --step-size than {sampler.size:g}."
        )
