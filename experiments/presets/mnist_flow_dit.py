"""A diffusion transformer on MNIST, trained by flow matching along straight lines.

    scorefield train --preset mnist-flow-dit --data idx:DIR

DIR holds MNIST's four IDX files. Written for 2 CPU cores or an accelerator; its whole length has not been run by us
yet. A quarter of it (--training.steps 1000, 2026-11-21, 2 CPU cores shared with other work, Python 3.11, jax 0.10.2)
took 14 min of processor time, at 130 images/s when alone, and its digits are not readable yet.
"""

from diffusion.networks.configs import DiTConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import RectifiedFlow
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import VelocityWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="idx:mnist"),
    schedule=RectifiedFlow(),
    network=DiTConfig(patch=4, width=128, depth=6, heads=4),
    preconditioning=Preconditioning("velocity", sigma_data=0.6),
    weighting=VelocityWeighting(),
    times=LogNormalSigma(mean=0.0, std=1.0),
    conditional=True,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(
        steps=4000, batch_size=64, log_every=50, validate_every=1000, checkpoint_every=1000, sample_every=1000
    ),
    sampling=SamplingConfig(sampler="heun", steps=25),
)
