"""The table of random streams: every number that a key of `experiments` is made from, or folded with.

A sample is a function of its seed, and step n of training one of (seed, n): so these numbers are a part of every run.
None may change, and two things that are drawn from the same key must not have the same number. The numbers that the
samplers fold the key of a sample with are in `samplers.streams`; those within a loss of the core stand beside it.
"""

from __future__ import annotations

from experiments.errors import UsageError


def require_seed(seed: int, flag: str = "--seed") -> None:
    """Raise UsageError for a seed outside [0, 2³¹), of which a key would take a part alone."""
    if not 0 <= seed < 2**31:
        raise UsageError(f"{flag} is {seed}; give 0 or more, and below 2^31.")


# From `training.seed`, by `jax.random.fold_in`.
TRAINING, VALIDATION, INITIAL = range(3)
"""The steps, the noise of held-out losses, the initial parameters."""

# From the key of a training step.
NOISE, LABELS, DROPOUT, AUGMENT = range(4)
"""The times and the noise of the loss, which labels are dropped, the network's dropout, the images' augmentation."""

# From the AUGMENT of an image.
CROPPED, TRANSFORMED = range(2)
"""Where a padded image is cropped, and how it is transformed."""

# From the NOISE of a step, where a generator is trained.
LATENT, ON_DATA, ON_SAMPLES, COMPARED = range(4)
"""The generator's latents, the loss of either estimator, and the level and the noise at which they are compared."""
COMPARED_NOISE, COMPARED_LEVEL = range(2)

# From the NOISE of a step, where a flow map is trained.
FLOW_MAP_T, FLOW_MAP_Z, FLOW_MAP_S, FLOW_MAP_KIND = range(4)
"""The first time, the noise, the second time, and of which kind an element is."""

# From `training.seed`, by addition.
REFERENCE = 1_000_003
"""The reference images of a stable target, so that they are not those of the batch."""

# From the seed of the data, in the counter-based numbers of `data.randomness`.
SPLIT, ORDER, FLIP, POINTS = range(4)
"""Who is held out, an epoch's order, its mirroring, points that are drawn."""
CLASS = 4
"""From the seed of a sample, in the same numbers: which class it has where classes are drawn."""
SIGMA_DATA = 5
"""From the seed 0, in the same numbers: the images whose standard deviation is measured."""
PLANE = 20_221
"""The seed of the points of `plane:NAME`, the same in every run."""

# Seeds of keys.
SAMPLES = 0
"""The one key of all samples of all runs: sample i is told apart by its seed, its id."""
ENERGY_START = 0xE6E
"""What it is folded with for the beginning of an energy's chains: no small number, for those are seeds."""
GRID_FIT = 0x6F16
"""What the seed of a fitted grid is folded with, so that it is fitted to nobody's samples."""
WORK_PRECISION = 0x3BEC
"""What the seed of a comparison of solvers is folded with, so that none was fitted to its draws."""
OPTIMAL_VARIANCE = 11
"""The noise from which the optimal reverse variance is estimated."""
ELBO = 7
"""The steps that are drawn of the ELBO, and their noise."""
STRANGENESS = 0x5C0E
"""The noisy copies by which an image's strangeness is averaged."""
PERMUTATIONS = 0
"""The permutations and projections of two-sample tests."""

# From the seed of `Run.log_likelihood` and of `scorefield likelihood`; of the latter, draws after the first have that
# key folded with their number.
DEQUANTISATION, PROBES, BOUND = range(3)
"""The noise within a level, the probes of the divergence, and what is drawn for the ELBO of a chain."""
