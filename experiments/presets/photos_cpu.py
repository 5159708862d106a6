"""EDM on pictures of one's own at 32 × 32: for two CPU cores and about an hour.

    scorefield train --preset photos-cpu --data folder:photos

TO BE WRITTEN
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
    """The configuration for pictures whose longer side has `size` pixels."""
    return Config(
        data=DataConfig(source="folder:photos", size=size, flip=True, held_out=0.1),
        schedule=EDM(),
        network=UNetConfig(channels=32, multipliers="auto", blocks=1, attention_resolutions="auto", head_channels=32),
        preconditioning=Preconditioning("edm"),
        weighting=EDMWeighting(),
        sigma_data="auto",
        times=LogNormalSigma(mean=-1.2 + max(0.0, math.log(size / 64)), std=1.2),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, decay="cosine"),
        ema=EMAConfig(decays=(0.998,)),
        training=TrainingConfig(
            steps=4000, batch_size=64, log_every=50, validate_every=500, checkpoint_every=500, sample_every=1000
        ),
        sampling=SamplingConfig(sampler="heun", steps=18),
    )


CONFIG = at(32)
