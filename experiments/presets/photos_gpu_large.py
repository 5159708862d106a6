"""A pixel transformer on pictures of one's own at 256 × 256, without a latent space: for a large GPU, or several.

    scorefield train --preset photos-gpu-large --data folder:photos
    scorefield train --preset photos-gpu-large --data folder:photos --parallel fsdp

JiT-B/16 of Li & He 2025 (arXiv:2511.13720): it predicts the image and weighs its error as one of the velocity, with no
division by less than 0.05, at noise levels of log-normal σ/α. Patches grow with the size, so that there are 16 × 16 of
them, and so does the noise (Hoogeboom et al. 2023, arXiv:2301.11093). sigma_data, which scales what the network sees,
is that of the data. Sub-folders are classes with --conditional; without, the class tokens are plain learned ones.
Not run by us: 130 M parameters at 0.15 TFLOP an image are 1.5e19 FLOP, 21 hours at 200 TFLOP/s. --network.remat takes
less memory, --optimizer.accumulate 8 an eighth of the activations, and --dry-run says what they take on your machine.
"""

import math

from diffusion.networks.configs import JiTConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import RectifiedFlow
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import VelocityWeighting
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig


def at(size: int) -> Config:
    """The configuration for pictures whose longer side has `size` pixels."""
    return Config(
        data=DataConfig(source="folder:photos", size=size, flip=True, held_out=0.02),
        schedule=RectifiedFlow(),
        network=JiTConfig(patch=max(1, round(size / 16)), compute_dtype="bfloat16"),
        preconditioning=Preconditioning("x0"),
        weighting=VelocityWeighting(floor=0.05),
        sigma_data="auto",
        times=LogNormalSigma(mean=0.8 + math.log(size / 256), std=0.8),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=5000, b2=0.95),
        ema=EMAConfig(decays=(0.9999, 0.9996)),
        training=TrainingConfig(
            steps=400_000,
            batch_size=256,
            log_every=100,
            validate_every=5000,
            checkpoint_every=5000,
            sample_every=10_000,
        ),
        sampling=SamplingConfig(sampler="heun", steps=50),
    )


CONFIG = at(256)
