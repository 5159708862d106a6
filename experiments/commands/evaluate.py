"""`scorefield evaluate`: for images bits/dim and distances in a feature space, for points the KL to their exact law."""

from __future__ import annotations

import json
from dataclasses import dataclass

from experiments.commands.arguments import RunArguments, read_arguments
from experiments.evaluation.report import EvaluationOptions, evaluate, table, with_null
from experiments.progress import reporting
from experiments.runs.load import load_run

DESCRIPTION = """\
Measure a trained model against held-out images: bits/dim from the ELBO; Fréchet distance, precision, recall, density
and coverage in the feature space of a small classifier that is trained on the same data. Nothing is downloaded.

  scorefield evaluate --run runs/digits-ddpm
  scorefield evaluate --run runs/mnist --sampler ddim --steps 10 --no-bits-per-dim
  scorefield evaluate --run runs/mnist --no-distances

Points in the plane are measured against the law that they come from: negative log-likelihood by the probability flow
beside the entropy of the law, energy distance and sliced W2 with p-values.

--sampler NAME is as in `scorefield sample`; the run's own unless given.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(EvaluationOptions, RunArguments):
    """The arguments of `scorefield evaluate`."""


def run(argv: list[str]) -> int:
    """Evaluate; returns the exit status."""
    arguments, name = read_arguments(EvaluateArguments, argv, "scorefield evaluate", DESCRIPTION)
    arguments.check()
    model = load_run(arguments, arguments.data)
    with reporting(quiet=arguments.json):
        measures = evaluate(model, arguments.choice(name, model.config), arguments)
    report = {"run": str(arguments.run), **measures}
    if arguments.json:
        print(json.dumps(with_null(report), allow_nan=False))
        return 0
    print(f"{report['run']}, step {report['checkpoint_step']}")
    if "nfe" in report:
        speed = f"{report['samples_per_second']:.1f} samples/s{' with compilation' * report['with_compilation']}"
        print(f"{report['sampler']} on the grid {report['grid']}, {report['nfe']} network calls, {speed}")
    print("\n".join(["", *table(report)]))
    return 0
