"""From a trained model to samples: the choice of a sampler, the solver, guidance, the loop over seeds."""

from diffusion.moved import names_from

__getattr__ = names_from(
    __name__,
    (
        "experiments.sampling.drawing",
        "experiments.sampling.throughput",
        "experiments.runs.model",
        "experiments.commands.seeds",
    ),
)
