"""EDM on pictures of one's own at 64 × 64, grey or coloured: for one GPU.

    scorefield train --preset photos-gpu --data folder:photos

Each picture is cut to its central square and resized; sub-folders are classes with --conditional. Levels and attention
follow the size, sigma_data is that of the data, augmentation does not leak, and above 64 pixels the noise of training
grows with the side (Hoogeboom et al. 2023, arXiv:2301.11093). The network is that of `photos64-edm-unet`: 36.5 M
parameters; a step of 64 images takes up to 18 GB, and with --optimizer.accumulate 4 a quarter of that. Not run by us:
200,000 steps are 1.5e18 FLOP, 21 hours at 20 TFLOP/s. --dry-run says what they take on your machine.
"""

import math

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.augment import AugmentConfig
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig


def at(size: int) -> Config:
    """The configuration for pictures whose longer side has `size` pixels."""
    return Config(
        data=DataConfig(source="folder:photos", size=size, held_out=0.05),
        augment=AugmentConfig(probability=0.12),
        schedule=EDM(),
        network=UNetConfig(
            channels=128,
            multipliers="auto",
            blocks=2,
            attention_resolutions="auto",
            head_channels=64,
            dropout=0.1,
            compute_dtype="bfloat16",
        ),
        preconditioning=Preconditioning("edm"),
        weighting=EDMWeighting(),
        sigma_data="auto",
        times=LogNormalSigma(mean=-1.2 + max(0.0, math.log(size / 64)), std=1.2),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=5000, b2=0.99),
        ema=EMAConfig(decays=(0.9999, 0.999)),
        training=TrainingConfig(
            steps=200_000, batch_size=64, log_every=100, validate_every=5000, checkpoint_every=5000, sample_every=5000
        ),
        sampling=SamplingConfig(sampler="heun", steps=40),
    )


CONFIG = at(64)
