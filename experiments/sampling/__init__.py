"""From a trained network to samples: the solver, guidance, the reverse variance, the loop over seeds."""

from diffusion.moved import names_from

__getattr__ = names_from(
    __name__,
    (
        "experiments.sampling.draw",
        "experiments.sampling.throughput",
        "experiments.runs.model",
        "experiments.commands.seeds",
    ),
)
