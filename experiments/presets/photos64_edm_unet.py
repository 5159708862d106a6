"""EDM on colour photographs of one's own at 64 × 64: for users with a GPU.

    scorefield train --preset photos64-edm-unet --data folder:photos

Every picture is cut to its central square and resized; sub-folders are classes with --conditional. At another
--data.size the network has as many levels as lead to 8 pixels or fewer, with attention on the two deepest, and above 64
the noise of training grows with the side (Hoogeboom et al. 2023, arXiv:2301.11093). 36.5 M parameters; a step of 64
images takes up to 18 GB, and with --optimizer.accumulate 4 a quarter of that. Not run by us: 200,000 steps are 1.5e18
FLOP, 21 hours at 20 TFLOP/s. --dry-run says what they take on your machine.
"""

import math

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig


def at(size: int) -> Config:
    """The configuration for photographs of size × size pixels."""
    sides = [size]
    while sides[-1] > 8:
        sides.append(-(-sides[-1] // 2))
    wide = min(3, len(sides))
    return Config(
        data=DataConfig(source="folder:photos", size=size, channels=3, flip=True, held_out=0.05),
        schedule=EDM(),
        network=UNetConfig(
            channels=128,
            multipliers=(1,) * (len(sides) - wide) + (2,) * wide,
            blocks=2,
            attention_resolutions=tuple(sides[-2:]),
            head_channels=64,
            dropout=0.1,
            compute_dtype="bfloat16",
        ),
        preconditioning=Preconditioning("edm", sigma_data=0.5),
        weighting=EDMWeighting(sigma_data=0.5),
        times=LogNormalSigma(mean=-1.2 + max(0.0, math.log(size / 64)), std=1.2),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=5000, b2=0.99),
        ema=EMAConfig(decays=(0.9999, 0.999)),
        training=TrainingConfig(
            steps=200_000, batch_size=64, log_every=100, validate_every=5000, checkpoint_every=5000, sample_every=5000
        ),
        sampling=SamplingConfig(sampler="heun", steps=40),
    )


CONFIG = at(64)
