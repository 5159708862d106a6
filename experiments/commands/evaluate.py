"""`scorefield evaluate`: bits/dim and distances in a feature space of images; of points, KL to their exact law."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.noises import Gaussian
from experiments.commands.arguments import RunArguments, read_arguments
from experiments.config.tree import Generator
from experiments.data.source import Source
from experiments.data.sources.plane import law_of
from experiments.errors import UsageError
from experiments.runs.load import load_run, run_data
from experiments.runs.model import Model
from experiments.runs.provenance import origin
from experiments.sampling import solver
from experiments.sampling.draw import draw
from experiments.sampling.throughput import Throughput
from experiments.sampling.variance import VarianceName

_COLUMNS = ("precision", "recall", "density", "coverage")
_NEIGHBOURS = 5  # of density and coverage, the most that a distance looks at

DESCRIPTION = """\
Measure a trained model against held-out images: bits/dim by the ELBO; Fréchet distance, precision, recall, density
and coverage in the feature space of a small classifier trained on the same data. Nothing is downloaded.

  scorefield evaluate --run runs/digits-ddpm
  scorefield evaluate --run runs/mnist --sampler ddim --steps 10 --no-bits-per-dim

Points in the plane are measured against the law that they come from: negative log-likelihood by the probability flow
beside the entropy, energy distance and sliced W2 with p-values.

--sampler NAME is as in `scorefield sample`; the run's own unless given.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(RunArguments):
    """The arguments of `scorefield evaluate`."""

    samples: int = 1000
    """Samples to draw; at most as many held-out images or points enter the distances, or the likelihood of points."""
    batch: int = 100
    """Images or points at a time."""
    seed: int = 1_000_000
    """First seed of the samples, far from the seeds that people look at."""
    bits_per_dim: bool = True
    """Compute the ELBO."""
    elbo_images: int = 500
    """Held-out images in the ELBO."""
    elbo_draws: int = 16
    """Steps of the chain drawn for each image."""
    variance: VarianceName = "auto"
    """Reverse variance in the ELBO: auto is learned where there is one, else optimal."""
    cache: Path | None = None
    """Folder for the feature network and reference features. [$XDG_CACHE_HOME/scorefield]"""


def run(argv: list[str]) -> int:
    """Evaluate; returns the exit status."""
    arguments, name = read_arguments(EvaluateArguments, argv, "scorefield evaluate", DESCRIPTION)
    if arguments.samples < 2 or arguments.batch < 1 or arguments.elbo_images < 1 or arguments.elbo_draws < 1:
        raise UsageError("--samples must be at least 2, and --batch, --elbo-images and --elbo-draws at least 1.")
    if arguments.seed < 0 or arguments.seed + arguments.samples > 2**31:
        raise UsageError(f"--seed is {arguments.seed}; give 0 or more, and below 2^31 less --samples.")
    model = load_run(arguments)
    if model.of_points:
        return _points(arguments, name, model)
    if arguments.bits_per_dim and isinstance(model.config.objective, Generator):
        raise UsageError("a generator of one step has no chain, and so no ELBO; add --no-bits-per-dim.")
    if arguments.bits_per_dim and not isinstance(model.process.noise, Gaussian):
        raise UsageError("the ELBO needs Gaussian noise, and this run's is Student-t; add --no-bits-per-dim.")
    if arguments.variance == "learned" and not model.config.learned_variance:
        raise UsageError("--variance learned needs a run trained with --learned-variance; choose optimal.")
    training, held_out = _data(model)
    chosen = solver.build(
        arguments.choice(name, model.config), model, lambda: training, given_class=model.num_classes > 0
    )
    start = time.perf_counter()
    report = _head(arguments, model, chosen)
    few = min(arguments.samples, len(training), len(held_out))
    if few <= _NEIGHBOURS:
        raise UsageError(
            f"only {few} images can be compared (--samples {arguments.samples}, {len(training)} trained on, "
            f"{len(held_out)} held out) and {_NEIGHBOURS + 1} are needed; raise --samples, or train with a larger "
            "--data.held-out."
        )
    try:
        report |= _distances(arguments, model, chosen, training, held_out)
        if arguments.bits_per_dim:
            report["bits_per_dim"] = _bits(arguments, model, training, held_out)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(str(error)) from None
    return _print(arguments, report, start, _image_lines)


def _points(arguments: EvaluateArguments, name: str, model: Model) -> int:
    """Evaluate a model of points."""
    from experiments.evaluation.plane import measures as evaluation

    for field in ("bits_per_dim", "elbo_images", "elbo_draws", "variance", "cache"):
        if getattr(arguments, field) != EvaluateArguments.__dataclass_fields__[field].default:
            flag = field.replace("_", "-")
            raise UsageError(f"--{flag} goes with images, and this run was trained on points; leave it out.")
    source = model.config.data.source
    law = law_of(source)
    if law is None:
        raise UsageError(f"the law of {source} is not known; evaluate runs on plane:NAME, or on images.")
    training, held_out = _data(model)
    chosen = solver.build(arguments.choice(name, model.config), model, lambda: training, given_class=False)
    start = time.perf_counter()
    report = _head(arguments, model, chosen)
    try:
        report |= evaluation.distances(
            *(model, chosen, training, held_out), samples=arguments.samples, seed=arguments.seed, batch=arguments.batch
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(str(error)) from None
    report["likelihood"] = evaluation.likelihood(model, law, held_out, points=arguments.samples, seed=arguments.seed)
    return _print(arguments, report, start, evaluation.table)


def _data(model: Model) -> tuple[Source, Source]:
    """(Training, held-out) data. Raises UsageError when nothing was held out."""
    training, held_out = run_data(model)
    if held_out is None:
        what = "points" if training.of_points else "images"
        raise UsageError(f"this run holds no {what} out (--data.held-out 0), so there is nothing to measure against.")
    return training, held_out


def _head(arguments: EvaluateArguments, model: Model, chosen: solver.Solver) -> dict[str, Any]:
    return {
        "run": str(arguments.run),
        **chosen.provenance,
        **origin(model),
        "samples": arguments.samples,
        "first_seed": arguments.seed,
    }


def _print(
    arguments: EvaluateArguments, report: dict[str, Any], start: float, lines: Callable[[dict[str, Any]], list[str]]
) -> int:
    report["seconds"] = round(time.perf_counter() - start, 1)
    if arguments.json:
        print(json.dumps(_finite(report), allow_nan=False))
        return 0
    head = [
        f"{report['run']}, step {report['checkpoint_step']}",
        f"{report['sampler']} on the grid {report['grid']}, {report['nfe']} network calls, "
        f"{report['samples_per_second']:.1f} samples/s" + (" with compilation" if report["with_compilation"] else ""),
        "",
    ]
    print("\n".join([*head, *lines(report)]))
    return 0


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cache(arguments: EvaluateArguments) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return arguments.cache or base / "scorefield"


def _distances(
    arguments: EvaluateArguments, model: Model, chosen: solver.Solver, training: Source, held_out: Source
) -> dict[str, Any]:
    from experiments.evaluation.comparison import compare
    from experiments.evaluation.features import feature_space, source_features

    cache = _cache(arguments)
    space = feature_space(training, held_out, cache=cache)
    seeds = range(arguments.seed, arguments.seed + arguments.samples)
    labels = None
    if model.num_classes:  # classes as often as in training
        assert training.labels is not None  # `run_data` has seen to it
        labels = np.random.default_rng(arguments.seed).choice(training.labels, arguments.samples).tolist()
    throughput, parts = Throughput(min(arguments.batch, arguments.samples)), []
    for drawn in draw(model, chosen, seeds, batch=arguments.batch, label=labels):
        parts.append(drawn)
        throughput.add(len(drawn.seeds))
    generated = np.concatenate([part.images for part in parts])
    rows = compare(
        space,
        generated,
        source_features(space, training, cache=cache),
        source_features(space, held_out, cache=cache),
    )
    table = {name: {**row._asdict(), "frechet": row.frechet._asdict()} for name, row in rows.items()}
    rate = throughput.report()
    return {
        "feature_space": space.name,
        "feature_accuracy": space.accuracy,
        "feature_cache": str(cache),
        "images_compared": min(arguments.samples, len(training), len(held_out)),
        "nfe": parts[0].nfe,
        **{key: rate[key] for key in ("samples_per_second", "with_compilation")},
        "against_held_out": table,
    }


def _bits(arguments: EvaluateArguments, model: Model, training: Source, held_out: Source) -> dict[str, Any]:
    from experiments.evaluation.bits_per_dim import held_out_bits_per_dim

    return held_out_bits_per_dim(
        model,
        held_out,
        training,
        variance=arguments.variance,
        draws=arguments.elbo_draws,
        batch=arguments.batch,
        limit=arguments.elbo_images,
    )._asdict()


def _image_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"against {report['images_compared']} held-out images, in the features {report['feature_space']} "
        f"(accuracy {report['feature_accuracy']:.1%})",
        f"{'':14}{'Fréchet distance':>18}" + "".join(f"{column:>11}" for column in _COLUMNS),
    ]
    for name, row in report["against_held_out"].items():
        frechet = row["frechet"]
        value, error = frechet["value"], frechet["standard_error"]
        shown = f"{value:.2f} ± {error:.2f}"
        lines.append(f"{name:14}{shown:>18}" + "".join(f"{row[column]:>11.3f}" for column in _COLUMNS))
    if "bits_per_dim" in report:
        bits = report["bits_per_dim"]
        lines += [
            "",
            f"bits/dim <= {bits['bits']:.3f} ± {bits['standard_error']:.3f} (ELBO on {bits['images']} held-out images"
            f"{' given their classes' if bits['given_class'] else ''}, {bits['chain_steps']} steps, "
            f"{bits['variance']} variance)",
            f"  prior {bits['prior']:.4f}, steps {bits['steps']:.3f}, reconstruction {bits['reconstruction']:.3f}",
        ]
    return lines
